//! The manifest: one row for each path of an image, as a Parquet file that any query engine reads.
//!
//! Rows are sorted by volume and path. Names on disk are bytes and columns for SQL are UTF-8: what is not
//! UTF-8 is escaped in `path` (`\xff` for each offending byte) and kept whole in `path_bytes`.

pub mod columns;
mod schema;

use std::fmt::Write as _;
use std::io::Write;
use std::sync::Arc;

use parquet::basic::{Compression, Encoding};
use parquet::data_type::{
    ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int32Type, Int64Type,
};
use parquet::errors::ParquetError;
use parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use parquet::file::reader::ChunkReader;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

use self::columns::{Column, Columns};
use self::schema::SCHEMA;
use super::ObjectId;
use super::table::{self, Group, GroupWriter, VALUE_COST, optional, required, row_groups, write_column};
use crate::error::{Error, Result, at};
use crate::fs::{FileType, Timestamp, Xattr};

/// One path of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// `p` and the partition's slot: `p1`.
    pub volume: String,
    /// The absolute path on the volume, in bytes.
    pub path: Vec<u8>,
    /// Its type.
    pub file_type: FileType,
    /// The lower 12 bits of the mode.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Hard links.
    pub nlink: Option<u32>,
    /// Inode number.
    pub inode: Option<u64>,
    /// Size in bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Option<Timestamp>,
    /// Last access.
    pub atime: Option<Timestamp>,
    /// Last change of the metadata.
    pub ctime: Option<Timestamp>,
    /// Creation.
    pub crtime: Option<Timestamp>,
    /// Where a symlink points, in bytes.
    pub link_target: Option<Vec<u8>>,
    /// Device number, (major, minor).
    pub rdev: Option<(u32, u32)>,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<Xattr>,
    /// ext: inode flags. FAT: attributes, and the NT case byte shifted left by 8.
    pub flags: u32,
    /// ext: inode generation.
    pub generation: Option<u32>,
    /// ext: project id.
    pub project: Option<u32>,
    /// SHA-1 of a regular file's content.
    pub sha1: Option<[u8; 20]>,
    /// BLAKE3-256 of a regular file's content: its object in the store.
    pub blake3: Option<ObjectId>,
    /// The object that holds the content where `blake3` does not name it: a file with more holes than are
    /// worth hashing is stored under its chunk list's digest.
    pub content: Option<ObjectId>,
    /// FAT: the short name beside a long one.
    pub short_name: Option<[u8; 11]>,
}

impl Row {
    /// The object that holds a regular file's content.
    #[must_use]
    pub fn object(&self) -> Option<ObjectId> {
        self.content.or(self.blake3)
    }

    /// The path as text: what is not UTF-8 escaped.
    #[must_use]
    pub fn path_text(&self) -> String {
        escape(&self.path)
    }
}

/// `bytes` as text: what is not UTF-8 is written as `\xff`. Not reversible; the bytes are kept beside it.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// `bytes` as text that no other bytes have: as [`escape`], and with each backslash doubled. So an xattr's name is a key of
/// the manifest, and lists that have no bytes beside a name tell all names apart.
#[must_use]
pub fn escape_apart(name: &[u8]) -> String {
    let doubled: Vec<u8> = name
        .iter()
        .flat_map(|b| if *b == b'\\' { &b"\\\\"[..] } else { std::slice::from_ref(b) })
        .copied()
        .collect();
    escape(&doubled)
}

/// Writes `rows`, which are sorted by volume and path, as a Parquet file.
pub fn write<W: Write + Send>(out: W, rows: &[Row]) -> Result<()> {
    write_with(table::compression(), out, rows)
}

/// The same, with pages compressed so.
pub(super) fn write_with<W: Write + Send>(compression: Compression, out: W, rows: &[Row]) -> Result<()> {
    let schema = Arc::new(parse_message_type(SCHEMA).expect("the schema is constant"));
    let mut file = SerializedFileWriter::new(out, schema, properties(compression)).map_err(broken)?;
    for group in row_groups("manifest", rows, cost) {
        let mut writer = file.next_row_group().map_err(broken)?;
        write_group(&mut writer, group?).map_err(broken)?;
        writer.close().map_err(broken)?;
    }
    file.close().map_err(broken)?;
    Ok(())
}

/// No fewer bytes than any column has of this row; of what is escaped, as if each byte were.
fn cost(row: &Row) -> usize {
    const ESCAPED: usize = 4;
    let text = |bytes: &[u8]| if std::str::from_utf8(bytes).is_ok() { 1 } else { ESCAPED } * bytes.len();
    let of_all = |size: fn(&Xattr) -> usize| row.xattrs.iter().map(|x| size(x) + VALUE_COST).sum();
    let keys: usize = of_all(|xattr| ESCAPED * xattr.name.len());
    let values = of_all(|xattr| xattr.value.len());
    let target = row.link_target.as_deref().map_or(0, text);
    [row.volume.len(), text(&row.path), target, keys, values].into_iter().max().unwrap_or(0)
}

fn properties(compression: Compression) -> WriterPropertiesPtr {
    let plain = |builder: parquet::file::properties::WriterPropertiesBuilder, column: &str| {
        builder.set_column_dictionary_enabled(ColumnPath::from(column), false)
    };
    let mut builder = WriterProperties::builder()
        .set_created_by(concat!("mif ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(compression);
    for column in ["path", "sha1", "blake3", "inode", "size", "link_target"] {
        builder = plain(builder, column);
    }
    // Sorted paths share their beginnings.
    Arc::new(builder.set_column_encoding(ColumnPath::from("path"), Encoding::DELTA_BYTE_ARRAY).build())
}

fn broken(error: ParquetError) -> Error {
    table::broken("manifest", error)
}

fn write_group<W: Write + Send>(group: &mut GroupWriter<'_, W>, rows: &[Row]) -> Result<(), ParquetError> {
    let text = |s: &str| ByteArray::from(s);
    let bytes = |b: &[u8]| ByteArray::from(b.to_vec());
    required::<ByteArrayType, _>(group, rows.iter().map(|r| text(&r.volume)))?;
    required::<ByteArrayType, _>(group, rows.iter().map(|r| text(&r.path_text())))?;
    required::<ByteArrayType, _>(group, rows.iter().map(|r| text(type_name(r.file_type))))?;
    optional::<Int32Type, _>(group, rows.iter().map(|r| r.mode.map(i32::from)))?;
    optional::<Int64Type, _>(group, rows.iter().map(|r| r.uid.map(i64::from)))?;
    optional::<Int64Type, _>(group, rows.iter().map(|r| r.gid.map(i64::from)))?;
    optional::<Int64Type, _>(group, rows.iter().map(|r| r.nlink.map(i64::from)))?;
    optional::<Int64Type, _>(group, rows.iter().map(|r| r.inode.map(|n| n as i64)))?;
    required::<Int64Type, _>(group, rows.iter().map(|r| r.size as i64))?;
    for time in [|r: &Row| r.mtime, |r: &Row| r.atime, |r: &Row| r.ctime, |r: &Row| r.crtime] {
        optional::<Int64Type, _>(group, rows.iter().map(|r| time(r).map(|t| t.secs)))?;
        optional::<Int32Type, _>(group, rows.iter().map(|r| time(r).map(|t| t.nanos as i32)))?;
    }
    optional::<ByteArrayType, _>(
        group,
        rows.iter().map(|r| r.link_target.as_deref().map(|t| text(&escape(t)))),
    )?;
    optional::<Int64Type, _>(group, rows.iter().map(|r| r.rdev.map(makedev)))?;
    xattr_columns(group, rows)?;
    required::<Int64Type, _>(group, rows.iter().map(|r| i64::from(r.flags)))?;
    optional::<Int64Type, _>(group, rows.iter().map(|r| r.generation.map(i64::from)))?;
    optional::<Int64Type, _>(group, rows.iter().map(|r| r.project.map(i64::from)))?;
    let fixed = |b: &[u8]| FixedLenByteArray::from(b.to_vec());
    optional::<FixedLenByteArrayType, _>(group, rows.iter().map(|r| r.sha1.map(|d| fixed(&d))))?;
    optional::<FixedLenByteArrayType, _>(group, rows.iter().map(|r| r.blake3.map(|d| fixed(&d.digest))))?;
    optional::<FixedLenByteArrayType, _>(group, rows.iter().map(|r| r.content.map(|d| fixed(&d.digest))))?;
    let raw = |b: &[u8]| std::str::from_utf8(b).is_err().then(|| bytes(b));
    optional::<ByteArrayType, _>(group, rows.iter().map(|r| raw(&r.path)))?;
    optional::<ByteArrayType, _>(group, rows.iter().map(|r| r.link_target.as_deref().and_then(raw)))?;
    optional::<ByteArrayType, _>(group, rows.iter().map(|r| r.short_name.map(|n| bytes(&n))))
}

fn xattr_columns<W: Write + Send>(group: &mut GroupWriter<'_, W>, rows: &[Row]) -> Result<(), ParquetError> {
    let (mut keys, mut values, mut def, mut rep) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        if row.xattrs.is_empty() {
            def.push(0);
            rep.push(0);
        }
        for (i, xattr) in row.xattrs.iter().enumerate() {
            keys.push(ByteArray::from(escape_apart(&xattr.name).as_str()));
            values.push(ByteArray::from(xattr.value.clone()));
            def.push(1);
            rep.push(i16::from(i > 0));
        }
    }
    write_column::<ByteArrayType, W>(group, &keys, Some(&def), Some(&rep))?;
    write_column::<ByteArrayType, W>(group, &values, Some(&def), Some(&rep))
}

/// The name of a file type in the `type` column.
#[must_use]
pub fn type_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::File => "file",
        FileType::Dir => "dir",
        FileType::Symlink => "symlink",
        FileType::Char => "char",
        FileType::Block => "block",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
    }
}

fn type_from(name: &[u8]) -> Option<FileType> {
    use FileType::{Block, Char, Dir, Fifo, File, Socket, Symlink};
    [File, Dir, Symlink, Char, Block, Fifo, Socket].into_iter().find(|t| type_name(*t).as_bytes() == name)
}

/// A device number in one integer, as glibc's `makedev` packs it, so that `os.major` of Python reads it.
fn makedev((major, minor): (u32, u32)) -> i64 {
    let (major, minor) = (u64::from(major), u64::from(minor));
    ((major & 0xffff_f000) << 32 | (major & 0xfff) << 8 | (minor & 0xffff_ff00) << 12 | minor & 0xff) as i64
}

fn splitdev(rdev: i64) -> (u32, u32) {
    let rdev = rdev as u64;
    let major = (rdev >> 32) & 0xffff_f000 | (rdev >> 8) & 0xfff;
    let minor = (rdev >> 12) & 0xffff_ff00 | rdev & 0xff;
    (major as u32, minor as u32)
}

/// Reads a manifest, in the order in which it is written.
pub fn read<R: ChunkReader + 'static>(file: R) -> Result<Vec<Row>> {
    let columns = Columns::new(file)?;
    let mut rows = Vec::new();
    for group in columns.groups() {
        read_group(&group, &mut rows)?;
    }
    Ok(rows)
}

fn read_group(group: &Group<'_>, rows: &mut Vec<Row>) -> Result<()> {
    let u32s = |column| -> Result<Vec<Option<u32>>> {
        Ok(group.numbers(column)?.into_iter().map(|n| n.map(|n| n as u32)).collect())
    };
    let times = |secs, nanos| -> Result<Vec<Option<Timestamp>>> {
        let both = group.numbers(secs)?.into_iter().zip(group.numbers(nanos)?);
        Ok(both.map(|(secs, nanos)| Some(Timestamp { secs: secs?, nanos: nanos? as u32 })).collect())
    };
    let bytes = |column| -> Result<Vec<Option<Vec<u8>>>> {
        Ok(group.blobs(column)?.into_iter().map(|b| b.map(|b| b.data().to_vec())).collect())
    };
    let volume = group.texts(Column::Volume)?;
    let path = group.texts(Column::Path)?;
    let file_type = group.texts(Column::Type)?;
    let mode = group.numbers(Column::Mode)?;
    let (uid, gid, nlink) = (u32s(Column::Uid)?, u32s(Column::Gid)?, u32s(Column::Nlink)?);
    let inode = group.numbers(Column::Inode)?;
    let size = group.numbers(Column::Size)?;
    let mtime = times(Column::Mtime, Column::MtimeNs)?;
    let atime = times(Column::Atime, Column::AtimeNs)?;
    let ctime = times(Column::Ctime, Column::CtimeNs)?;
    let crtime = times(Column::Crtime, Column::CrtimeNs)?;
    let link_target = bytes(Column::LinkTarget)?;
    let rdev = group.numbers(Column::Rdev)?;
    let mut xattrs = columns::xattrs(group)?;
    let flags = group.numbers(Column::Flags)?;
    let (generation, project) = (u32s(Column::Generation)?, u32s(Column::Project)?);
    let sha1 = group.digests::<20>(Column::Sha1)?;
    let (blake3, content) = (group.digests::<32>(Column::Blake3)?, group.digests::<32>(Column::Content)?);
    let (mut path_bytes, link_bytes) = (bytes(Column::PathBytes)?, bytes(Column::LinkTargetBytes)?);
    let short_name = bytes(Column::ShortName)?;
    rows.reserve(group.rows);
    for i in 0..group.rows {
        let wrong = |field, problem| at("manifest").field(field).corrupt(problem);
        rows.push(Row {
            volume: String::from_utf8_lossy(volume[i].data()).into_owned(),
            path: path_bytes[i].take().unwrap_or_else(|| path[i].data().to_vec()),
            file_type: type_from(file_type[i].data()).ok_or_else(|| wrong("type", "is no file type"))?,
            mode: mode[i].map(|mode| mode as u16),
            uid: uid[i],
            gid: gid[i],
            nlink: nlink[i],
            inode: inode[i].map(|inode| inode as u64),
            size: size[i].ok_or_else(|| wrong("size", "is missing"))? as u64,
            mtime: mtime[i],
            atime: atime[i],
            ctime: ctime[i],
            crtime: crtime[i],
            link_target: link_bytes[i].clone().or_else(|| link_target[i].clone()),
            rdev: rdev[i].map(splitdev),
            xattrs: std::mem::take(&mut xattrs[i]),
            flags: flags[i].ok_or_else(|| wrong("flags", "is missing"))? as u32,
            generation: generation[i],
            project: project[i],
            sha1: sha1[i],
            blake3: blake3[i].map(ObjectId::content),
            content: content[i].map(ObjectId::chunk_list),
            short_name: short_name[i].as_deref().and_then(|name| name.try_into().ok()),
        });
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::fs::walk::MAX_PATH;

    pub(in crate::mif) fn row(path: &[u8]) -> Row {
        Row {
            volume: "p1".into(),
            path: path.to_vec(),
            file_type: FileType::File,
            mode: Some(0o4755),
            uid: Some(u32::MAX),
            gid: Some(0),
            nlink: Some(2),
            inode: Some(12),
            size: 1 << 40,
            mtime: Some(Timestamp { secs: -2_177_452_800, nanos: 999_999_999 }),
            atime: None,
            ctime: Some(Timestamp { secs: 13_569_465_600, nanos: 1 }),
            crtime: None,
            link_target: None,
            rdev: None,
            xattrs: Vec::new(),
            flags: 0x8_0000,
            generation: Some(7),
            project: None,
            sha1: Some([3; 20]),
            blake3: Some(ObjectId::content([4; 32])),
            content: None,
            short_name: None,
        }
    }

    fn round_trip(rows: &[Row]) -> Vec<Row> {
        let mut file = Vec::new();
        write(&mut file, rows).unwrap();
        read(bytes::Bytes::from(file)).unwrap()
    }

    #[test]
    fn rows_come_back_whole() {
        let mut device = row(b"/dev/\xff\\x41");
        device.file_type = FileType::Block;
        device.rdev = Some((0x1_2345, 0xabcde));
        device.content = Some(ObjectId::chunk_list([5; 32]));
        device.link_target = Some(b"\xfe/a".to_vec());
        device.short_name = Some(*b"FOO     TXT");
        let mut marked = row(b"/z");
        marked.xattrs = vec![
            Xattr { name: b"security.capability".to_vec(), value: vec![0, 1, 2, 255] },
            Xattr { name: b"user.a\\xff\xff\\".to_vec(), value: vec![] },
        ];
        let rows = [row(b"/"), device, marked, row("/ö".as_bytes())];
        assert_eq!(round_trip(&rows), rows);
    }

    #[test]
    fn many_row_groups_come_back() {
        let rows: Vec<Row> =
            (0..table::GROUP_ROWS_MAX + 5).map(|i| row(format!("/{i:08}").as_bytes())).collect();
        assert_eq!(round_trip(&rows), rows);
        assert_eq!(round_trip(&[]), []);
    }

    #[test]
    fn rows_with_the_longest_names_attributes_and_targets_come_back() {
        let long = |i: usize| {
            let mut long = row(&[format!("/{i:04}").as_bytes(), &[0xff; MAX_PATH - 5]].concat());
            long.link_target = Some(vec![0xfe; 64 << 10]);
            let name = |j: usize| format!("user.{j:04}\\{}", "\\".repeat(240)).into_bytes();
            long.xattrs = (0..250).map(|j| Xattr { name: name(j), value: vec![i as u8; 16 << 10] }).collect();
            long
        };
        let rows: Vec<Row> = (0..10).map(long).collect();
        let mut file = Vec::new();
        write(&mut file, &rows).unwrap();
        assert_eq!(Columns::open(file.clone().into()).unwrap().groups().count(), 3);
        assert_eq!(read(bytes::Bytes::from(file)).unwrap(), rows);
    }

    #[test]
    fn bytes_that_are_not_utf8_are_escaped_in_text() {
        assert_eq!(escape(b"/a\xff\xc3\xb6"), "/a\\xff\u{f6}");
    }

    #[test]
    fn a_file_that_is_no_manifest_is_refused() {
        assert!(read(bytes::Bytes::from_static(b"not parquet")).is_err());
    }
}
