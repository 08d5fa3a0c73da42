//! The packages of an image: a Parquet file beside its manifest, one row for each package that the databases of dpkg,
//! rpm and apk on its volumes know of.

use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::FileReader;
use parquet::file::writer::SerializedFileWriter;
use parquet::record::{Field, Row};
use parquet::schema::parser::parse_message_type;

use super::table::{self, Group, optional, required, write_column};
use crate::{Error, Result, at};

/// `name` and `version` are an image's own: the folders of a store are columns to query engines.
const SCHEMA: &str = "message mif_packages {
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

/// A package that an image has, or of which its database still knows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// The volume whose database says so.
    pub volume: String,
    /// `dpkg`, `rpm` or `apk`.
    pub manager: String,
    /// Its name.
    pub name: String,
    /// Its whole version: for dpkg and rpm with the epoch, if it has one.
    pub version: String,
    /// The architecture that it was built for.
    pub architecture: Option<String>,
    /// `installed`, or what else dpkg says of it: `config-files`, `half-installed`, …
    pub status: String,
    /// The source package that it was built from: for dpkg if it has another name, for rpm the file name.
    pub source: Option<String>,
    /// The paths that are its, as the manifest has them: of a package's paths those that are there, ascending, folders
    /// among them.
    pub files: Vec<String>,
}

fn broken(error: ParquetError) -> Error {
    table::broken("packages", error)
}

/// Writes the table.
pub fn write(packages: &[Package]) -> Result<Vec<u8>> {
    let schema = Arc::new(parse_message_type(SCHEMA).expect("the schema is constant"));
    let properties = WriterProperties::builder()
        .set_created_by(concat!("mif ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).expect("3 is a zstd level")))
        .build();
    let mut out = Vec::new();
    let mut file = SerializedFileWriter::new(&mut out, schema, Arc::new(properties)).map_err(broken)?;
    let mut group = file.next_row_group().map_err(broken)?;
    write_columns(&mut group, packages).map_err(broken)?;
    group.close().map_err(broken)?;
    file.close().map_err(broken)?;
    Ok(out)
}

fn write_columns<W: std::io::Write + Send>(
    group: &mut Group<'_, W>,
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
    table::guarded("packages", || read_rows(file))
}

fn read_rows(file: bytes::Bytes) -> Result<Vec<Package>> {
    let reader = table::open("packages", file)?;
    let expected = parse_message_type(SCHEMA).expect("the schema is constant");
    if reader.metadata().file_metadata().schema() != &expected {
        return Err(at("packages").field("schema").unsupported("has other columns than this version's"));
    }
    reader.get_row_iter(None).map_err(broken)?.map(|row| package(row.map_err(broken)?)).collect()
}

fn package(row: Row) -> Result<Package> {
    let wrong = || at("packages").corrupt("has a row of another kind");
    let mut fields = row.into_columns().into_iter().map(|(_, field)| field);
    let mut optional = || match fields.next() {
        Some(Field::Str(text)) => Ok(Some(text)),
        Some(Field::Null) => Ok(None),
        _ => Err(wrong()),
    };
    let mut required = || optional()?.ok_or_else(wrong);
    let (volume, manager, name, version) = (required()?, required()?, required()?, required()?);
    let (architecture, status, source) = (optional()?, optional()?.ok_or_else(wrong)?, optional()?);
    let Some(Field::ListInternal(list)) = fields.next() else { return Err(wrong()) };
    let files = list.elements().iter().map(|file| match file {
        Field::Str(text) => Ok(text.clone()),
        _ => Err(wrong()),
    });
    let files = files.collect::<Result<_>>()?;
    Ok(Package { volume, manager, name, version, architecture, status, source, files })
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
    fn no_byte_of_it_makes_reading_panic() {
        let file = write(&[]).unwrap();
        for at in 0..file.len() {
            for value in [0, 0x7f, 0x80, 0xff] {
                let mut bad = file.clone();
                bad[at] = value;
                let _ = read(bad.into());
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
