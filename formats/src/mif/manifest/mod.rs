//! The manifest: one row for each path of an image, as a Parquet file that any query engine can read.
//!
//! Rows are sorted by volume and path. Names on disk are bytes, while SQL columns are UTF-8: in `path`, each byte that
//! is not UTF-8 is escaped (`\xff`), and `path_bytes` keeps the original.

pub mod columns;
mod read;
pub(in crate::mif) mod schema;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write;
use std::sync::Arc;

use parquet::basic::{Compression, Encoding};
use parquet::data_type::{
    ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int32Type, Int64Type,
};
use parquet::errors::ParquetError;
use parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

pub use self::read::{ValidColumns, read, read_rows};
use self::schema::SCHEMA;
use super::ObjectId;
use super::table::{self, GroupWriter, VALUE_COST, optional, required, row_groups, write_column};
use crate::error::{Error, Result};
use crate::fs::{FileId, FileType, Node, Xattr};

/// One path of an image, or a part of the file at that path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// `p` and the partition's slot, such as `p1`.
    pub volume: String,
    /// The absolute path on the volume, in bytes.
    pub path: Vec<u8>,
    /// The part of the file that the row describes; `None` for the file itself.
    pub part: Option<Box<Part>>,
    /// The identity of the file within the volume: rows with the same id are hard links. `None` for a file that an edit
    /// added, which has no other links.
    pub file: Option<FileId>,
    /// The file's metadata.
    pub node: Node,
    /// A regular file's content; `None` if it could not be read.
    pub body: Option<Body>,
    /// FAT: the short name that accompanies a long one.
    pub short_name: Option<[u8; 11]>,
    /// NTFS: the DOS name that accompanies a long one.
    pub dos_name: Option<Box<str>>,
}

/// The content of a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// Content with digests; the BLAKE3 digest names its object.
    Digested {
        /// SHA-1 of the content.
        sha1: [u8; 20],
        /// BLAKE3-256 of the content.
        blake3: [u8; 32],
    },
    /// Content that was not hashed because it has too many holes.
    Opaque {
        /// The object that holds the content, named by its chunk list.
        object: ObjectId,
    },
}

impl Body {
    /// Returns the object that holds the content.
    #[must_use]
    pub fn object(&self) -> ObjectId {
        match self {
            Body::Digested { blake3, .. } => ObjectId::content(*blake3),
            Body::Opaque { object } => *object,
        }
    }

    /// Returns the SHA-1 of the content.
    #[must_use]
    pub fn sha1(&self) -> Option<[u8; 20]> {
        match self {
            Body::Digested { sha1, .. } => Some(*sha1),
            Body::Opaque { .. } => None,
        }
    }

    /// Returns the BLAKE3-256 of the content.
    #[must_use]
    pub fn blake3(&self) -> Option<[u8; 32]> {
        match self {
            Body::Digested { blake3, .. } => Some(*blake3),
            Body::Opaque { .. } => None,
        }
    }
}

/// A part of a file that has a row of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// An alternate stream of this name.
    Stream(Vec<u8>),
    /// A member of an archive, by its path in the archive.
    Member(Vec<u8>),
}

impl Row {
    /// Creates the row of a path, without content.
    #[must_use]
    pub fn new(volume: &str, path: Vec<u8>, file: Option<FileId>, node: Node) -> Self {
        let volume = volume.to_owned();
        Row { volume, path, part: None, file, node, body: None, short_name: None, dos_name: None }
    }

    /// Returns the object that holds a regular file's content.
    #[must_use]
    pub fn object(&self) -> Option<ObjectId> {
        self.body.map(|body| body.object())
    }

    /// Returns the SHA-1 of a regular file's content.
    #[must_use]
    pub fn sha1(&self) -> Option<[u8; 20]> {
        self.body.and_then(|body| body.sha1())
    }

    /// Returns the BLAKE3-256 of a regular file's content.
    #[must_use]
    pub fn blake3(&self) -> Option<[u8; 32]> {
        self.body.and_then(|body| body.blake3())
    }

    /// Returns the path as text, with bytes that are not UTF-8 escaped.
    #[must_use]
    pub fn path_text(&self) -> String {
        escape(&self.path)
    }

    /// Returns the path by which users name what the row describes: of an alternate stream, `path:stream`, and of a
    /// member of an archive, `path!member`.
    #[must_use]
    pub fn full_path(&self) -> Cow<'_, [u8]> {
        let (separator, name) = match self.part.as_deref() {
            None => return Cow::Borrowed(&self.path),
            Some(Part::Stream(name)) => (b":", name),
            Some(Part::Member(name)) => (b"!", name),
        };
        Cow::Owned([&self.path[..], separator, name].concat())
    }

    /// Returns the full path as text, with bytes that are not UTF-8 escaped.
    #[must_use]
    pub fn full_path_text(&self) -> String {
        escape(&self.full_path())
    }

    /// Returns the type as in the column `type`.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self.part.as_deref() {
            Some(Part::Stream(_)) => STREAM,
            _ => type_name(self.node.file_type),
        }
    }
}

/// Returns `bytes` as text, with each byte that is not UTF-8 written as `\xff`. Not reversible; the manifest also
/// stores the bytes.
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

/// Returns `bytes` as text that is unique to them: as [`escape`], with each backslash doubled. An xattr's name can thus
/// be a key of the manifest, and listings that show only the text of a name still tell all names apart.
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

/// As [`write()`], with the given compression of pages.
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

/// Returns at least the number of bytes that this row takes in any column; text that needs escaping counts as if every
/// byte were escaped.
fn cost(row: &Row) -> usize {
    const ESCAPED: usize = 4;
    let text = |bytes: &[u8]| if std::str::from_utf8(bytes).is_ok() { 1 } else { ESCAPED } * bytes.len();
    let of_all = |size: fn(&Xattr) -> usize| row.node.xattrs.iter().map(|x| size(x) + VALUE_COST).sum();
    let keys: usize = of_all(|xattr| ESCAPED * xattr.name.len());
    let values = of_all(|xattr| xattr.value.len());
    let target = row.node.link_target.as_deref().map_or(0, text);
    let part = match row.part.as_deref() {
        Some(Part::Stream(name) | Part::Member(name)) => text(name),
        None => 0,
    };
    let reparse = row.node.ntfs.as_ref().and_then(|ntfs| ntfs.reparse.as_deref()).map_or(0, <[u8]>::len);
    [row.volume.len(), text(&row.path), target, keys, values, part, reparse].into_iter().max().unwrap_or(0)
}

fn properties(compression: Compression) -> WriterPropertiesPtr {
    let plain = |builder: parquet::file::properties::WriterPropertiesBuilder, column: &str| {
        builder.set_column_dictionary_enabled(ColumnPath::from(column), false)
    };
    let mut builder = WriterProperties::builder()
        .set_created_by(concat!("mif ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(compression);
    for column in ["path", "sha1", "blake3", "file", "inode", "size", "link_target"] {
        builder = plain(builder, column);
    }
    // Sorted paths share prefixes.
    Arc::new(builder.set_column_encoding(ColumnPath::from("path"), Encoding::DELTA_BYTE_ARRAY).build())
}

fn broken(error: ParquetError) -> Error {
    table::broken("manifest", error)
}

fn write_group<W: Write + Send>(group: &mut GroupWriter<'_, W>, rows: &[Row]) -> Result<(), ParquetError> {
    let text = |s: &str| ByteArray::from(s);
    let bytes = |b: &[u8]| ByteArray::from(b.to_vec());
    let nodes = || rows.iter().map(|row| &row.node);
    required::<ByteArrayType, _>(group, rows.iter().map(|r| text(&r.volume)))?;
    required::<ByteArrayType, _>(group, rows.iter().map(|r| text(&r.path_text())))?;
    required::<ByteArrayType, _>(group, rows.iter().map(|r| text(type_text(r))))?;
    optional::<Int32Type, _>(group, nodes().map(|n| n.mode.map(i32::from)))?;
    optional::<Int64Type, _>(group, nodes().map(|n| n.uid.map(i64::from)))?;
    optional::<Int64Type, _>(group, nodes().map(|n| n.gid.map(i64::from)))?;
    optional::<Int64Type, _>(group, nodes().map(|n| n.nlink.map(i64::from)))?;
    optional::<Int64Type, _>(group, rows.iter().map(|r| r.file.map(|file| i64::from(file.0))))?;
    optional::<Int64Type, _>(group, nodes().map(|n| n.inode.map(|n| n as i64)))?;
    optional::<Int64Type, _>(group, nodes().map(|n| n.subvolume.map(|n| n as i64)))?;
    required::<Int64Type, _>(group, nodes().map(|n| n.size as i64))?;
    for time in [|n: &Node| n.mtime, |n: &Node| n.atime, |n: &Node| n.ctime, |n: &Node| n.crtime] {
        optional::<Int64Type, _>(group, nodes().map(|n| time(n).map(|t| t.secs)))?;
        optional::<Int32Type, _>(group, nodes().map(|n| time(n).map(|t| t.nanos as i32)))?;
    }
    let escaped = |b: &[u8]| text(&escape(b));
    optional::<ByteArrayType, _>(group, nodes().map(|n| n.link_target.as_deref().map(escaped)))?;
    optional::<Int64Type, _>(group, nodes().map(|n| n.rdev.map(makedev)))?;
    xattr_columns(group, rows)?;
    required::<Int64Type, _>(group, nodes().map(|n| i64::from(n.flags)))?;
    optional::<Int64Type, _>(group, nodes().map(|n| n.generation.map(i64::from)))?;
    optional::<Int64Type, _>(group, nodes().map(|n| n.project.map(i64::from)))?;
    let fixed = |b: &[u8]| FixedLenByteArray::from(b.to_vec());
    optional::<FixedLenByteArrayType, _>(group, rows.iter().map(|r| r.sha1().map(|d| fixed(&d))))?;
    optional::<FixedLenByteArrayType, _>(group, rows.iter().map(|r| r.blake3().map(|d| fixed(&d))))?;
    let opaque = |row: &Row| match row.body {
        Some(Body::Opaque { object }) => Some(fixed(&object.digest)),
        _ => None,
    };
    optional::<FixedLenByteArrayType, _>(group, rows.iter().map(opaque))?;
    let raw = |b: &[u8]| std::str::from_utf8(b).is_err().then(|| bytes(b));
    optional::<ByteArrayType, _>(group, rows.iter().map(|r| raw(&r.path)))?;
    optional::<ByteArrayType, _>(group, nodes().map(|n| n.link_target.as_deref().and_then(raw)))?;
    optional::<ByteArrayType, _>(group, rows.iter().map(|r| r.short_name.map(|n| bytes(&n))))?;
    optional::<ByteArrayType, _>(group, rows.iter().map(|r| r.dos_name.as_deref().map(text)))?;
    let stream = |row: &Row| match row.part.as_deref() {
        Some(Part::Stream(name)) => Some(text(&escape_apart(name))),
        _ => None,
    };
    let member = |row: &Row| match row.part.as_deref() {
        Some(Part::Member(path)) => Some(text(&escape_apart(path))),
        _ => None,
    };
    optional::<ByteArrayType, _>(group, rows.iter().map(stream))?;
    optional::<ByteArrayType, _>(group, rows.iter().map(member))?;
    let ntfs = || nodes().map(|node| node.ntfs.as_deref());
    optional::<ByteArrayType, _>(group, ntfs().map(|n| n?.owner_sid.as_deref().map(text)))?;
    optional::<ByteArrayType, _>(group, ntfs().map(|n| n?.group_sid.as_deref().map(text)))?;
    optional::<ByteArrayType, _>(group, ntfs().map(|n| n?.reparse.as_deref().map(bytes)))
}

/// Returns the value of the `type` column for a row.
fn type_text(row: &Row) -> &'static str {
    match row.part.as_deref() {
        Some(Part::Stream(_)) => STREAM,
        _ => type_name(row.node.file_type),
    }
}

/// The `type` column of an alternate stream.
const STREAM: &str = "stream";

fn xattr_columns<W: Write + Send>(group: &mut GroupWriter<'_, W>, rows: &[Row]) -> Result<(), ParquetError> {
    let (mut keys, mut values, mut def, mut rep) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        if row.node.xattrs.is_empty() {
            def.push(0);
            rep.push(0);
        }
        for (i, xattr) in row.node.xattrs.iter().enumerate() {
            keys.push(ByteArray::from(escape_apart(&xattr.name).as_str()));
            values.push(ByteArray::from(xattr.value.clone()));
            def.push(1);
            rep.push(i16::from(i > 0));
        }
    }
    write_column::<ByteArrayType, W>(group, &keys, Some(&def), Some(&rep))?;
    write_column::<ByteArrayType, W>(group, &values, Some(&def), Some(&rep))
}

/// Returns the name of a file type in the `type` column.
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

/// Packs a device number into one integer as glibc's `makedev` does, so that Python's `os.major` reads it.
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

#[cfg(test)]
pub(super) mod tests {
    use super::columns::Columns;
    use super::*;
    use crate::fs::listing::MAX_PATH;
    use crate::fs::{NtfsNode, Timestamp};

    pub(in crate::mif) fn row(path: &[u8]) -> Row {
        let node = Node {
            mode: Some(0o4755),
            uid: Some(u32::MAX),
            gid: Some(0),
            nlink: Some(2),
            inode: Some(12),
            size: 1 << 40,
            mtime: Some(Timestamp { secs: -2_177_452_800, nanos: 999_999_999 }),
            ctime: Some(Timestamp { secs: 13_569_465_600, nanos: 1 }),
            flags: 0x8_0000,
            generation: Some(7),
            ..Node::bare(FileType::File)
        };
        Row {
            body: Some(Body::Digested { sha1: [3; 20], blake3: [4; 32] }),
            ..Row::new("p1", path.to_vec(), Some(FileId(3)), node)
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
        device.node.file_type = FileType::Block;
        device.node.rdev = Some((0x1_2345, 0xabcde));
        device.body = Some(Body::Opaque { object: ObjectId::chunk_list([5; 32]) });
        device.node.link_target = Some(b"\xfe/a".to_vec());
        device.short_name = Some(*b"FOO     TXT");
        (device.file, device.node.subvolume) = (None, Some(u64::MAX - 255));
        let mut marked = row(b"/z");
        marked.node.xattrs = vec![
            Xattr { name: b"security.capability".to_vec(), value: vec![0, 1, 2, 255] },
            Xattr { name: b"user.a\\xff\xff\\".to_vec(), value: vec![] },
        ];
        marked.node.ntfs = Some(Box::new(NtfsNode {
            owner_sid: Some("S-1-5-32-544".into()),
            group_sid: None,
            reparse: Some(vec![0x0c, 0, 0, 0xa0, 0xff]),
        }));
        marked.dos_name = Some("ZED~1.TXT".into());
        let mut stream = row(b"/z");
        stream.part = Some(Box::new(Part::Stream(b"Zone\xff\\x".to_vec())));
        let mut member = row(b"/z.tar");
        member.part = Some(Box::new(Part::Member(b"etc/fstab".to_vec())));
        (member.node.file_type, member.body) = (FileType::Dir, None);
        let rows = [row(b"/"), device, marked, stream, member, row("/ö".as_bytes())];
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
            long.node.link_target = Some(vec![0xfe; 64 << 10]);
            let name = |j: usize| format!("user.{j:04}\\{}", "\\".repeat(240)).into_bytes();
            long.node.xattrs =
                (0..250).map(|j| Xattr { name: name(j), value: vec![i as u8; 16 << 10] }).collect();
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
