//! Reads selected columns and rows of a manifest, and nothing else of the file. A search over many images needs no
//! more.

use bytes::Bytes;
pub use parquet::errors::ParquetError as ReadError;
pub use parquet::file::reader::{ChunkReader, Length};

use super::schema::{SCHEMA, unescape};
use crate::error::{Result, at};
use crate::fs::Xattr;
use crate::mif::table::Table;
pub use crate::mif::table::{ColumnId, Group};

/// A column of the manifest, in the order of the file. Each list has two leaf columns: keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
#[repr(usize)]
pub enum Column {
    Volume,
    Path,
    Type,
    Mode,
    Uid,
    Gid,
    Nlink,
    File,
    Inode,
    Subvolume,
    Size,
    Mtime,
    MtimeNs,
    Atime,
    AtimeNs,
    Ctime,
    CtimeNs,
    Crtime,
    CrtimeNs,
    LinkTarget,
    Rdev,
    XattrNames,
    XattrValues,
    Flags,
    Generation,
    Project,
    Sha1,
    Blake3,
    Content,
    PathBytes,
    LinkTargetBytes,
    ShortName,
    DosName,
    Stream,
    Member,
    OwnerSid,
    GroupSid,
    Reparse,
}

impl From<Column> for usize {
    fn from(column: Column) -> usize {
        column as usize
    }
}

/// A manifest, open for reading some of its columns.
pub struct Columns<R: ChunkReader + 'static>(pub(in crate::mif) Table<R>);

impl Columns<Bytes> {
    /// Opens a manifest in memory.
    pub fn open(file: Bytes) -> Result<Self> {
        Self::new(file)
    }
}

impl<R: ChunkReader + 'static> Columns<R> {
    /// Reads the footer of a manifest.
    pub fn new(file: R) -> Result<Self> {
        Table::open("manifest", file, SCHEMA).map(Columns)
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.0.rows()
    }

    /// Returns the row groups, in order. Their columns are [`Column`]s.
    pub fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.0.groups()
    }
}

/// Returns the extended attributes of each row of a group.
pub fn xattrs(group: &Group<'_>) -> Result<Vec<Vec<Xattr>>> {
    let wrong = || at("manifest").field("xattrs").corrupt("has an invalid key, or a key without a value");
    let values = group.lists(Column::XattrValues)?;
    let rows = group.lists(Column::XattrNames)?.into_iter().zip(values);
    rows.map(|(keys, values)| {
        if keys.len() != values.len() {
            return Err(wrong());
        }
        let xattr = |(key, value): (parquet::data_type::ByteArray, parquet::data_type::ByteArray)| {
            let name = unescape(key.data()).ok_or_else(wrong)?;
            Ok(Xattr { name, value: value.data().to_vec() })
        };
        keys.into_iter().zip(values).map(xattr).collect()
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mif::manifest::tests::row;
    use crate::mif::manifest::{Body, Row, write};
    use crate::mif::table::GROUP_ROWS_MAX;

    fn sample() -> (Vec<Row>, Columns<Bytes>) {
        let mut rows: Vec<Row> =
            (0..GROUP_ROWS_MAX + 50).map(|i| row(format!("/{i:08}").as_bytes())).collect();
        for (i, row) in rows.iter_mut().enumerate() {
            row.node.mode = (i % 3 > 0).then_some(i as u16 & 0o7777);
            row.node.size = i as u64 * 7;
            let blake3 = *blake3::hash(&i.to_le_bytes()).as_bytes();
            row.body = (i % 5 > 0).then_some(Body::Digested { sha1: [1; 20], blake3 });
        }
        rows[3].node.xattrs = vec![Xattr { name: b"user.x".to_vec(), value: b"y".to_vec() }];
        let mut file = Vec::new();
        write(&mut file, &rows).unwrap();
        (rows, Columns::open(file.into()).unwrap())
    }

    #[test]
    fn columns_are_those_of_the_rows() {
        let (rows, columns) = sample();
        assert_eq!(columns.rows(), rows.len());
        for group in columns.groups() {
            let rows = &rows[group.start..group.start + group.rows];
            let modes = group.numbers(Column::Mode).unwrap();
            assert!(modes.iter().zip(rows).all(|(mode, row)| *mode == row.node.mode.map(i64::from)));
            let paths = group.texts(Column::Path).unwrap();
            assert!(paths.iter().zip(rows).all(|(path, row)| path.data() == row.path));
            for column in [Column::Path, Column::Type] {
                let mut each = Vec::new();
                group.each_text(column, |text| each.push(text.to_vec())).unwrap();
                let texts = group.texts(column).unwrap();
                assert!(each.len() == rows.len() && texts.iter().zip(each).all(|(a, b)| a.data() == b));
            }
            let digests = group.digests::<32>(Column::Blake3).unwrap();
            assert!(digests.iter().zip(rows).all(|(digest, row)| *digest == row.blake3()));
            assert!(xattrs(&group).unwrap().into_iter().eq(rows.iter().map(|row| row.node.xattrs.clone())));
            assert!(group.all_null(Column::Content) && !group.all_null(Column::Blake3));
            let (low, high) = group.bounds(Column::Path).unwrap();
            assert!(low <= &rows[0].path[..] && high >= &rows[rows.len() - 1].path[..]);
        }
    }

    #[test]
    fn some_rows_are_those_rows() {
        let (rows, columns) = sample();
        let group = columns.groups().nth(1).unwrap();
        let wanted = [0, 1, 7, 49];
        let paths = group.texts_at(Column::Path, &wanted).unwrap();
        let sizes = group.numbers_at(Column::Size, &wanted).unwrap();
        let modes = group.numbers_at(Column::Mode, &wanted).unwrap();
        let digests = group.digests_at::<32>(Column::Blake3, &wanted).unwrap();
        for (i, number) in wanted.iter().enumerate() {
            let row = &rows[group.start + number];
            assert_eq!(paths[i].data(), row.path);
            assert_eq!(sizes[i], Some(row.node.size as i64));
            assert_eq!(modes[i], row.node.mode.map(i64::from));
            assert_eq!(digests[i], row.blake3());
        }
        assert!(group.texts_at(Column::Path, &[50]).is_err());
    }

    /// Found by fuzzing: the Parquet crate panics on negative lengths.
    #[test]
    fn no_byte_of_a_manifest_makes_reading_panic() {
        let mut marked = row(b"/b");
        marked.node.xattrs = vec![Xattr { name: b"user.x".to_vec(), value: b"y".to_vec() }];
        let mut file = Vec::new();
        write(&mut file, &[row(b"/"), row(b"/a"), marked]).unwrap();
        for at in 0..file.len() {
            for value in [0, 0x7f, 0x80, 0xff] {
                let mut bad = file.clone();
                bad[at] = value;
                let _ = crate::mif::manifest::read(Bytes::from(bad.clone()));
                let Ok(columns) = Columns::open(bad.into()) else { continue };
                for group in columns.groups() {
                    let _ = group.each_text(Column::Path, |_| {});
                    let _ = group.each_text(Column::Type, |_| {});
                }
            }
        }
    }
}
