//! The packages of an image: a Parquet file beside its manifest, with one row for each package in the dpkg, rpm and apk
//! databases of its volumes, and each program that Windows lists.

use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::table::{
    self, GROUP_BYTES_MAX, Group, GroupWriter, Table, VALUE_COST, optional, required, row_groups,
    write_column,
};
use crate::error::{Error, Result, at};

/// `name` and `version` are not free: query engines take those of the image from the names of the store's directories.
pub(super) const SCHEMA: &str = "message mif_packages {
    required binary volume (UTF8);
    required binary manager (UTF8);
    required binary package (UTF8);
    required binary package_version (UTF8);
    optional binary architecture (UTF8);
    required binary status (UTF8);
    optional binary source (UTF8);
    required group files (LIST) {
        repeated group list {
            required binary element (UTF8);
        }
    }
}";

/// The columns, in the order of the file.
enum Column {
    Volume,
    Manager,
    Name,
    Version,
    Architecture,
    Status,
    Source,
    Files,
}

impl From<Column> for usize {
    fn from(column: Column) -> usize {
        column as usize
    }
}

/// A package that is installed in an image or still known to its package database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// The volume that holds the package database.
    pub volume: String,
    /// `dpkg`, `rpm`, `apk` or `windows`.
    pub manager: String,
    /// The package's name.
    pub name: String,
    /// The full version, including the epoch for dpkg and rpm if there is one.
    pub version: String,
    /// The architecture that the package was built for.
    pub architecture: Option<String>,
    /// `installed`, or another dpkg status: `config-files`, `half-installed`, …
    pub status: String,
    /// The source package: for dpkg only if its name differs, for rpm its file name.
    pub source: Option<String>,
    /// The package's paths as in the manifest, including directories: only those that exist in the image, sorted.
    pub files: Vec<String>,
}

impl Package {
    /// True if a row group can hold the package: its paths, and each of its texts, take at most 16 MiB.
    #[must_use]
    pub fn fits(&self) -> bool {
        cost(self) <= GROUP_BYTES_MAX
    }
}

/// Returns at least the number of bytes that this package takes in any column.
fn cost(package: &Package) -> usize {
    let Package { volume, manager, name, version, architecture, status, source, files } = package;
    let texts = [volume, manager, name, version, status].into_iter().chain(architecture).chain(source);
    let files = files.iter().map(|file| file.len() + VALUE_COST).sum();
    texts.map(String::len).chain([files]).max().unwrap_or(0)
}

fn broken(error: ParquetError) -> Error {
    table::broken("packages", error)
}

/// Writes the table.
///
/// # Errors
/// `Limit` if a package does not [fit](Package::fits).
pub fn write(packages: &[Package]) -> Result<Vec<u8>> {
    write_with(table::compression(), packages)
}

/// As [`write()`], with the given compression of pages.
pub(super) fn write_with(compression: Compression, packages: &[Package]) -> Result<Vec<u8>> {
    let schema = Arc::new(parse_message_type(SCHEMA).expect("the schema is constant"));
    let properties = WriterProperties::builder()
        .set_created_by(concat!("mif ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(compression)
        .build();
    let mut out = Vec::new();
    let mut file = SerializedFileWriter::new(&mut out, schema, Arc::new(properties)).map_err(broken)?;
    for packages in row_groups("packages", packages, cost) {
        let mut group = file.next_row_group().map_err(broken)?;
        write_columns(&mut group, packages?).map_err(broken)?;
        group.close().map_err(broken)?;
    }
    file.close().map_err(broken)?;
    Ok(out)
}

fn write_columns<W: std::io::Write + Send>(
    group: &mut GroupWriter<'_, W>,
    all: &[Package],
) -> Result<(), ParquetError> {
    let text = |s: &String| ByteArray::from(s.as_str());
    required::<ByteArrayType, _>(group, all.iter().map(|p| text(&p.volume)))?;
    required::<ByteArrayType, _>(group, all.iter().map(|p| text(&p.manager)))?;
    required::<ByteArrayType, _>(group, all.iter().map(|p| text(&p.name)))?;
    required::<ByteArrayType, _>(group, all.iter().map(|p| text(&p.version)))?;
    optional::<ByteArrayType, _>(group, all.iter().map(|p| p.architecture.as_ref().map(text)))?;
    required::<ByteArrayType, _>(group, all.iter().map(|p| text(&p.status)))?;
    optional::<ByteArrayType, _>(group, all.iter().map(|p| p.source.as_ref().map(text)))?;
    let (mut values, mut def, mut rep) = (Vec::new(), Vec::new(), Vec::new());
    for package in all {
        if package.files.is_empty() {
            def.push(0);
            rep.push(0);
        }
        for (i, file) in package.files.iter().enumerate() {
            values.push(text(file));
            def.push(1);
            rep.push(i16::from(i > 0));
        }
    }
    write_column::<ByteArrayType, W>(group, &values, Some(&def), Some(&rep))
}

/// Reads the table.
pub fn read(file: bytes::Bytes) -> Result<Vec<Package>> {
    let mut packages = Vec::new();
    for group in Packages::open(file)?.0.groups() {
        let rows: Vec<usize> = (0..group.rows).collect();
        for (package, files) in without_files(&group, &rows)?.into_iter().zip(group.lists(Column::Files)?) {
            let files = files.iter().map(text).collect::<Result<_>>()?;
            packages.push(Package { files, ..package });
        }
    }
    Ok(packages)
}

/// A table, open for reading some of its packages.
pub struct Packages(pub(super) Table<bytes::Bytes>);

impl Packages {
    /// Reads the footer of a table.
    pub fn open(file: bytes::Bytes) -> Result<Self> {
        Table::open("packages", file, SCHEMA).map(Packages)
    }

    /// True if there are no packages.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.rows() == 0
    }

    /// Reads the packages whose names are wanted. Their paths, which are most of the table, are left out; the number of
    /// them is returned instead.
    pub fn without_files(&self, mut wanted: impl FnMut(&str) -> bool) -> Result<Vec<(Package, usize)>> {
        let mut found = Vec::new();
        for group in self.0.groups() {
            found.extend(packages_at(&group, &rows_named(&group, &mut wanted)?)?);
        }
        Ok(found)
    }
}

/// Returns the rows of a group, of this table or of the catalog's, whose packages have a name that is wanted. Of names that
/// follow each other and are equal, only the first may be asked for.
///
/// # Errors
/// `Corrupt` or `Limit` if the group cannot be read.
pub fn rows_named(group: &Group<'_>, mut wanted: impl FnMut(&str) -> bool) -> Result<Vec<usize>> {
    let (mut rows, mut row, mut last, mut is_text) = (Vec::new(), 0, false, true);
    group.each_text_again(Column::Name, |name, again| {
        if !again {
            let name = std::str::from_utf8(name);
            is_text &= name.is_ok();
            last = name.is_ok_and(&mut wanted);
        }
        if last {
            rows.push(row);
        }
        row += 1;
    })?;
    if is_text { Ok(rows) } else { Err(at("packages").corrupt("has text that is not UTF-8")) }
}

/// Returns texts between which all names of a group of the catalog's table are, if the file says so.
#[must_use]
pub fn name_bounds<'g>(group: &'g Group<'_>) -> Option<(&'g [u8], &'g [u8])> {
    group.bounds(Column::Name)
}

/// Reads the packages in some rows of a group, of this table or of the catalog's. Their paths are left out; the number of them
/// is returned instead.
///
/// # Errors
/// `Corrupt` or `Limit` if the group cannot be read.
pub fn packages_at(group: &Group<'_>, rows: &[usize]) -> Result<Vec<(Package, usize)>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let files = group.list_lens_at(Column::Files, rows)?;
    Ok(without_files(group, rows)?.into_iter().zip(files).collect())
}

fn text(value: &ByteArray) -> Result<String> {
    let text = value.as_utf8().map_err(|_| at("packages").corrupt("has text that is not UTF-8"))?;
    Ok(text.to_owned())
}

/// Reads some rows of a group, without the paths of the packages.
fn without_files(group: &Group<'_>, rows: &[usize]) -> Result<Vec<Package>> {
    let required =
        |column| -> Result<Vec<String>> { group.texts_at(column, rows)?.iter().map(text).collect() };
    let optional = |column| -> Result<Vec<Option<String>>> {
        group.blobs_at(column, rows)?.iter().map(|value| value.as_ref().map(text).transpose()).collect()
    };
    let (volume, manager) = (required(Column::Volume)?, required(Column::Manager)?);
    let (name, version) = (required(Column::Name)?, required(Column::Version)?);
    let (architecture, status) = (optional(Column::Architecture)?, required(Column::Status)?);
    let source = optional(Column::Source)?;
    let texts = volume.into_iter().zip(manager).zip(name).zip(version).zip(architecture).zip(status);
    let packages =
        texts.zip(source).map(|((((((volume, manager), name), version), architecture), status), source)| {
            let files = Vec::new();
            Package { volume, manager, name, version, architecture, status, source, files }
        });
    Ok(packages.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_come_back() {
        let package = |name: &str, files: &[&str]| Package {
            volume: "p1".into(),
            manager: "dpkg".into(),
            name: name.into(),
            version: "1:2.3-4".into(),
            architecture: (name != "b").then(|| "amd64".into()),
            status: "installed".into(),
            source: (name == "b").then(|| "bb".into()),
            files: files.iter().map(|file| (*file).to_owned()).collect(),
        };
        let packages = [package("a", &["/a", "/b"]), package("b", &[]), package("c", &["/c"])];
        assert_eq!(read(write(&packages).unwrap().into()).unwrap(), packages);
        assert_eq!(read(write(&[]).unwrap().into()).unwrap(), []);
    }

    #[test]
    fn packages_without_their_paths_are_those_that_are_wanted() {
        let package = |n: usize| Package {
            volume: "p1".into(),
            manager: "dpkg".into(),
            name: format!("package{n}"),
            version: format!("{n}-1"),
            architecture: n.is_multiple_of(3).then(|| "amd64".into()),
            status: "installed".into(),
            source: n.is_multiple_of(5).then(|| "source".into()),
            files: (0..n % 7).map(|file| format!("/{n}/{file}")).collect(),
        };
        let packages: Vec<Package> = (0..200).map(package).collect();
        let table = Packages::open(write(&packages).unwrap().into()).unwrap();
        for wanted in [
            |_: &str| true,
            |name: &str| name.ends_with('7'),
            |name: &str| name == "package0",
            |_: &str| false,
        ] {
            let chosen = packages.iter().filter(|package| wanted(&package.name));
            let expected: Vec<(Package, usize)> = chosen
                .map(|package| (Package { files: Vec::new(), ..package.clone() }, package.files.len()))
                .collect();
            assert_eq!(table.without_files(wanted).unwrap(), expected);
        }
        assert!(!table.is_empty() && Packages::open(write(&[]).unwrap().into()).unwrap().is_empty());
    }

    #[test]
    fn no_byte_of_it_makes_reading_panic() {
        let file = write(&[]).unwrap();
        for at in 0..file.len() {
            for value in [0, 0x7f, 0x80, 0xff] {
                let mut bad = file.clone();
                bad[at] = value;
                let _ = read(bad.clone().into());
                let _ = Packages::open(bad.into()).and_then(|table| table.without_files(|_| true));
            }
        }
    }

    #[test]
    fn another_file_is_refused() {
        assert!(read(bytes::Bytes::from_static(b"no")).is_err());
        let mut manifest = Vec::new();
        crate::mif::manifest::write(&mut manifest, &[]).unwrap();
        assert!(read(manifest.into()).is_err());
    }
}
