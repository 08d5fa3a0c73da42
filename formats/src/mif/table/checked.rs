//! Checks the structures of a Parquet file, its footer and page headers, before the Parquet crate reads them.
//!
//! They are encoded in [Thrift's compact
//! protocol](https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md). The crate goes by a
//! field's number whatever its type is, and skips fields that it does not know. While skipping a list it counts down
//! the claimed length even after the input has ended: a few bytes keep it busy for minutes, a few thousand for days. So
//! only the fields listed here are accepted, each with its type, and every element of a list takes at least one byte.

use std::io::{self, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parquet::bloom_filter::Sbbf;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length, SerializedFileReader};

use self::Kind::{Binary, Bool, Byte, Int, List, PageSize, Struct};
use super::guarded::{broken, guarded};
use super::limits::CHUNK_BYTES_MAX;
use crate::bytes::le32;
use crate::error::{Result, at};

/// The end of a file: the length of the footer before it, and `PAR1`.
const TAIL: u64 = 8;
/// The longest header of a page, in bytes. It includes the minimum and the maximum value, each truncated to 64 bytes.
const HEADER_MAX: usize = 64 << 10;

/// Opens a file; checks the footer now, and page headers as they are read.
pub(super) fn open<R: ChunkReader + 'static>(
    what: &'static str,
    file: Arc<R>,
) -> Result<SerializedFileReader<Checked<R>>> {
    let io = |error: ParquetError| broken(what, error);
    if let Some(start) = file.len().checked_sub(TAIL) {
        let tail = file.get_bytes(start, TAIL as usize).map_err(io)?;
        let len = u64::from(le32(&tail, 0));
        // Otherwise the crate reports that this is not a Parquet file.
        if let Some(start) = start.checked_sub(len).filter(|_| tail.ends_with(b"PAR1")) {
            let footer = file.get_bytes(start, len as usize).map_err(io)?;
            structure(&mut Tee::new(&footer[..], footer.len()), FILE)
                .map_err(|problem| at(what).field("footer").byte(start).corrupt(problem.to_string()))?;
        }
    }
    let file = Checked { file, is_open: AtomicBool::new(false) };
    guarded(what, || SerializedFileReader::new(file).map_err(io))
}

/// A file whose structures are checked before the crate reads them.
pub(super) struct Checked<R> {
    file: Arc<R>,
    /// True once the tail has been read, which comes first. Every later `get_read` is for a page header.
    is_open: AtomicBool,
}

impl<R: Length> Length for Checked<R> {
    fn len(&self) -> u64 {
        self.file.len()
    }
}

impl<R: ChunkReader> ChunkReader for Checked<R> {
    type T = Header<R::T>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let file = self.file.get_read(start)?;
        let is_tail = !self.is_open.swap(true, Ordering::Relaxed) && start + TAIL == self.len();
        Ok(if is_tail { Header::Tail(file.take(TAIL)) } else { Header::Unread(Some(file)) })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.file.get_bytes(start, length)
    }
}

/// A reader that ends after the header of a page. The header is checked on the first read, because the crate also
/// requests headers that it never reads.
pub(super) enum Header<T> {
    Tail(io::Take<T>),
    Unread(Option<T>),
    Checked(Cursor<Vec<u8>>),
}

impl<T: Read> Read for Header<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Header::Unread(file) = self {
            let file = file.take().ok_or_else(|| wrong("the header of a page is damaged"))?;
            let mut tee = Tee::new(file, HEADER_MAX);
            structure(&mut tee, PAGE)?;
            *self = Header::Checked(Cursor::new(tee.seen));
        }
        match self {
            Header::Tail(tail) => tail.read(buf),
            Header::Checked(header) => header.read(buf),
            Header::Unread(_) => unreachable!("it was read above"),
        }
    }
}

/// Decodes a bloom filter, which follows its header; `None` if it is damaged.
pub(super) fn bloom_filter(bytes: &[u8]) -> Option<Sbbf> {
    structure(&mut Tee::new(bytes, bytes.len().min(HEADER_MAX)), BLOOM_FILTER).ok()?;
    let filter = crate::guard::catch(|| Sbbf::from_bytes(bytes))?.ok()?;
    // The crate divides by the number of blocks.
    (filter.num_blocks() > 0).then_some(filter)
}

fn wrong(problem: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.into())
}

/// A reader that keeps everything it has read.
struct Tee<R> {
    file: R,
    seen: Vec<u8>,
    /// The maximum number of bytes to read.
    most: usize,
}

impl<R: Read> Tee<R> {
    fn new(file: R, most: usize) -> Self {
        Tee { file, seen: Vec::new(), most }
    }

    fn skip(&mut self, len: usize) -> io::Result<()> {
        if len > self.most - self.seen.len() {
            return Err(wrong("a field extends past the end"));
        }
        let start = self.seen.len();
        let read = self.file.by_ref().take(len as u64).read_to_end(&mut self.seen)?;
        debug_assert_eq!(start + read, self.seen.len());
        if read == len { Ok(()) } else { Err(wrong("ends within a field")) }
    }

    fn byte(&mut self) -> io::Result<u8> {
        self.skip(1)?;
        Ok(self.seen[self.seen.len() - 1])
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(wrong("has an integer of more than 64 bits"))
    }
}

/// Decodes a signed integer from a zigzag varint, which has the sign in its lowest bit.
fn unzigzag(zigzag: u64) -> i64 {
    (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64)
}

/// The type of a field.
enum Kind {
    Bool,
    Byte,
    /// 16, 32 or 64 bits: all are written as varints.
    Int,
    /// A page size in bytes, which is limited because the crate allocates it before it has read the page.
    PageSize,
    Binary,
    Struct(Fields),
    List(&'static Kind),
}

/// The fields that a structure may have, each with its number.
type Fields = &'static [(i16, Kind)];

impl Kind {
    /// True if `code`, the type of a field or of a list's elements, means this kind.
    fn is(&self, code: u8) -> bool {
        match self {
            Bool => matches!(code, 1 | 2),
            Byte => code == 3,
            Int | PageSize => matches!(code, 4..=6),
            Binary => code == 8,
            List(_) => code == 9,
            Struct(_) => code == 12,
        }
    }
}

/// Checks a structure and skips it.
fn structure<R: Read>(bytes: &mut Tee<R>, fields: Fields) -> io::Result<()> {
    let mut number = 0_i16;
    loop {
        let head = bytes.byte()?;
        if head == 0 {
            return Ok(());
        }
        number = match head >> 4 {
            0 => i16::try_from(unzigzag(bytes.varint()?)).unwrap_or(i16::MAX),
            step => number.saturating_add(step.into()),
        };
        let kind = fields.iter().find(|(known, _)| *known == number).map(|(_, kind)| kind);
        match kind.filter(|kind| kind.is(head & 0xf)) {
            Some(Bool) => {}
            Some(kind) => value(bytes, kind)?,
            None => {
                return Err(wrong(format!("has an unexpected field {number} of type {}", head & 0xf)));
            }
        }
    }
}

/// Checks a value and skips it; every value takes at least one byte.
fn value<R: Read>(bytes: &mut Tee<R>, kind: &Kind) -> io::Result<()> {
    match kind {
        Bool | Byte => bytes.skip(1),
        Int => bytes.varint().map(drop),
        PageSize => match unzigzag(bytes.varint()?) {
            size if usize::try_from(size).is_ok_and(|size| size <= CHUNK_BYTES_MAX) => Ok(()),
            size => Err(wrong(format!("has a page of {size} bytes, expected at most {CHUNK_BYTES_MAX}"))),
        },
        Binary => {
            let len = bytes.varint()?;
            bytes.skip(usize::try_from(len).unwrap_or(usize::MAX))
        }
        Struct(fields) => structure(bytes, fields),
        List(element) => {
            let head = bytes.byte()?;
            let count = if head >> 4 == 15 { bytes.varint()? } else { u64::from(head >> 4) };
            if count > 0 && !element.is(head & 0xf) {
                return Err(wrong(format!("has a list of the unexpected type {}", head & 0xf)));
            }
            (0..count).try_for_each(|_| value(bytes, element))
        }
    }
}

// The structures of <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>, with the
// fields that the crate writes.

/// `FileMetaData`.
const FILE: Fields = &[
    (1, Int),
    (2, List(&Struct(SCHEMA_ELEMENT))),
    (3, Int),
    (4, List(&Struct(ROW_GROUP))),
    (5, List(&Struct(KEY_VALUE))),
    (6, Binary),
    (7, List(&Struct(&[(1, Struct(&[]))]))),
];

const SCHEMA_ELEMENT: Fields = &[
    (1, Int),
    (2, Int),
    (3, Int),
    (4, Binary),
    (5, Int),
    (6, Int),
    (7, Int),
    (8, Int),
    (9, Int),
    (10, Struct(LOGICAL_TYPE)),
];

/// `STRING`, `MAP`, `LIST` and `INTEGER`.
const LOGICAL_TYPE: Fields =
    &[(1, Struct(&[])), (2, Struct(&[])), (3, Struct(&[])), (10, Struct(&[(1, Byte), (2, Bool)]))];

const KEY_VALUE: Fields = &[(1, Binary), (2, Binary)];

const ROW_GROUP: Fields = &[
    (1, List(&Struct(COLUMN_CHUNK))),
    (2, Int),
    (3, Int),
    (4, List(&Struct(&[(1, Int), (2, Bool), (3, Bool)]))),
    (5, Int),
    (6, Int),
    (7, Int),
];

const COLUMN_CHUNK: Fields =
    &[(1, Binary), (2, Int), (3, Struct(COLUMN)), (4, Int), (5, Int), (6, Int), (7, Int)];

/// `ColumnMetaData`.
const COLUMN: Fields = &[
    (1, Int),
    (2, List(&Int)),
    (3, List(&Binary)),
    (4, Int),
    (5, Int),
    (6, Int),
    (7, Int),
    (8, List(&Struct(KEY_VALUE))),
    (9, Int),
    (10, Int),
    (11, Int),
    (12, Struct(STATISTICS)),
    (13, List(&Struct(&[(1, Int), (2, Int), (3, Int)]))),
    (14, Int),
    (15, Int),
    (16, Struct(&[(1, Int), (2, List(&Int)), (3, List(&Int))])),
];

const STATISTICS: Fields =
    &[(1, Binary), (2, Binary), (3, Int), (4, Int), (5, Binary), (6, Binary), (7, Bool), (8, Bool)];

/// `BloomFilterHeader`: the length of the filter, and unions of which each has one variant without fields.
const BLOOM_FILTER: Fields = &[
    (1, Int),
    (2, Struct(&[(1, Struct(&[]))])),
    (3, Struct(&[(1, Struct(&[]))])),
    (4, Struct(&[(1, Struct(&[]))])),
];

/// `PageHeader`.
const PAGE: Fields = &[
    (1, Int),
    (2, PageSize),
    (3, PageSize),
    (4, Int),
    // `DataPageHeader`, `DictionaryPageHeader`, `DataPageHeaderV2`.
    (5, Struct(&[(1, Int), (2, Int), (3, Int), (4, Int), (5, Struct(STATISTICS))])),
    (7, Struct(&[(1, Int), (2, Int), (3, Bool)])),
    (
        8,
        Struct(&[
            (1, Int),
            (2, Int),
            (3, Int),
            (4, Int),
            (5, Int),
            (6, Int),
            (7, Bool),
            (8, Struct(STATISTICS)),
        ]),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::mif::manifest;
    use crate::mif::manifest::tests::row;

    fn manifest() -> Vec<u8> {
        let mut file = Vec::new();
        manifest::write(&mut file, &[row(b"/a"), row(b"/b")]).unwrap();
        file
    }

    /// 2³¹ - 1 as a varint.
    const MANY: [u8; 5] = [0xff, 0xff, 0xff, 0xff, 7];

    /// Returns the error for a manifest whose first page has this header.
    fn with_page_header(header: &[u8]) -> String {
        let mut file = manifest();
        file[4..4 + header.len()].copy_from_slice(header);
        let error = manifest::read(Bytes::from(file)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        error.to_string()
    }

    #[test]
    fn a_page_header_with_a_list_that_claims_billions_is_refused_at_once() {
        // Field 15, a list (9) of booleans (1), doubles (7) or lists (9): at the end of the file, none of them takes a
        // byte.
        for element in [1, 7, 9] {
            let error = with_page_header(&[&[0xf9, 0xf0 | element][..], &MANY].concat());
            assert!(error.contains("has an unexpected field 15 of type 9"), "{error}");
        }
        // The same in an unknown field, and in a known field with another type.
        let error = with_page_header(&[&[0x5c, 0x6c, 0xf9, 0xf1][..], &MANY].concat());
        assert!(error.contains("has an unexpected field 6 of type 12"), "{error}");
        let error = with_page_header(&[0x58, 20, 0, 0]);
        assert!(error.contains("has an unexpected field 5 of type 8"), "{error}");
    }

    #[test]
    fn a_footer_with_a_list_that_claims_billions_is_refused_at_once() {
        let error = |footer: &[u8]| {
            let len = u32::try_from(footer.len()).unwrap().to_le_bytes();
            let file = [b"PAR1", footer, &len, b"PAR1"].concat();
            let error = manifest::read(Bytes::from(file)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            error.to_string()
        };
        let said = error(&[&[0xf9, 0xf1][..], &MANY, &[0]].concat());
        assert!(said.contains("footer, at byte 4: has an unexpected field 15 of type 9"), "{said}");
        // The schema's elements, which should be structures: a list of booleans, and elements that are missing.
        assert!(
            error(&[&[0x29, 0xf1][..], &MANY, &[0]].concat()).contains("a list of the unexpected type 1")
        );
        assert!(error(&[&[0x29, 0xfc][..], &MANY, &[0]].concat()).contains("past the end"));
    }

    #[test]
    fn a_page_header_longer_than_the_limit_is_refused() {
        // The minimum value, in the statistics of a data page.
        let header = |len: usize| {
            let fields = [
                &[0x5c, 0x5c, 0x18, (len & 0x7f) as u8 | 0x80, (len >> 7 & 0x7f) as u8 | 0x80][..],
                &[(len >> 14) as u8],
            ];
            [&fields.concat()[..], &vec![7; len], &[0, 0, 0]].concat()
        };
        let read = |header: &[u8]| Header::Unread(Some(header)).read_to_end(&mut Vec::new()).is_ok();
        assert!(read(&header(HEADER_MAX - 9)));
        assert!(!read(&header(HEADER_MAX - 8)));
    }
}
