//! A row of the catalog on its way: its sort key, and its cells. Records sort as bytes.
//!
//! ```text
//! key length (LEB128), key, a cell for each column of the original, name, version, row
//! ```

use parquet::data_type::ByteArray;
use parquet::file::reader::ChunkReader;

use super::Kind;
use crate::error::Result;
use crate::mif::manifest::columns::Columns;
use crate::mif::packages::Packages;
use crate::mif::table::{Group, Values};
use crate::mif::varint::{self, Reader};

/// A row of the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Rows are sorted by it. It is unique within a segment.
    pub key: &'a [u8],
    cells: &'a [u8],
}

impl<'a> Record<'a> {
    /// Splits the bytes of a record.
    ///
    /// # Errors
    /// `Corrupt` if they are not one.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new("record", bytes);
        let len = reader.varint("key")?;
        let key = reader.take("key", usize::try_from(len).unwrap_or(usize::MAX))?;
        Ok(Record { key, cells: &bytes[bytes.len() - reader.left()..] })
    }

    pub(super) fn cells_len(&self) -> usize {
        self.cells.len()
    }

    /// Reads its cells, for a writer.
    pub(super) fn cells(&self) -> Cells<'a> {
        Cells(Reader::new("record", self.cells))
    }
}

/// Calls `each` with every row that a manifest has in the catalog, in its own order: the table, and the bytes of the
/// [`Record`].
///
/// # Errors
/// `Corrupt`, `Unsupported` or `Limit` if the manifest cannot be read, and those of `each`.
pub fn of_manifest<R: ChunkReader + 'static>(
    manifest: &Columns<R>,
    image: (&str, u32),
    mut each: impl FnMut(Kind, &[u8]) -> Result<()>,
) -> Result<()> {
    for group in manifest.groups() {
        let values = all_values(&group, Kind::Files.columns().from.len())?;
        for kind in [Kind::Files, Kind::Digests] {
            let keys = keys_of(kind, &values);
            encode_group(kind, &values, &keys, image, &group, &mut each)?;
        }
    }
    Ok(())
}

/// As [`of_manifest`], for a table of packages.
///
/// # Errors
/// As there.
pub fn of_packages(
    packages: &Packages,
    image: (&str, u32),
    mut each: impl FnMut(Kind, &[u8]) -> Result<()>,
) -> Result<()> {
    for group in packages.0.groups() {
        let values = all_values(&group, Kind::Packages.columns().from.len())?;
        let keys = keys_of(Kind::Packages, &values);
        encode_group(Kind::Packages, &values, &keys, image, &group, &mut each)?;
    }
    Ok(())
}

fn all_values(group: &Group<'_>, leaves: usize) -> Result<Vec<Values>> {
    (0..leaves).map(|leaf| group.values(leaf)).collect()
}

/// Returns the places, in the original, of the columns by which a table is sorted.
fn keys_of(kind: Kind, values: &[Values]) -> Vec<usize> {
    let numbers = &kind.columns().numbers[..values.len()];
    let place =
        |name: &&str| numbers.iter().position(|known| known == name).expect("a column of the original");
    kind.sorted_by().iter().map(place).collect()
}

fn encode_group(
    kind: Kind,
    values: &[Values],
    keys: &[usize],
    (name, version): (&str, u32),
    group: &Group<'_>,
    each: &mut impl FnMut(Kind, &[u8]) -> Result<()>,
) -> Result<()> {
    let (mut key, mut record) = (Vec::new(), Vec::new());
    for row in 0..group.rows {
        if kind == Kind::Digests && bytes_at(&values[keys[0]], row).is_none() {
            continue;
        }
        key.clear();
        for column in keys {
            put_key(&mut key, bytes_at(&values[*column], row).map_or(&[], |bytes| bytes.data()));
        }
        let number = (group.start + row) as u64;
        put_image(&mut key, name.as_bytes(), version, number);
        record.clear();
        varint::put(&mut record, key.len() as u64);
        record.extend_from_slice(&key);
        for column in &kind.columns().from {
            put_cell(&mut record, &values[*column], row);
        }
        put_bytes(&mut record, Some(name.as_bytes()));
        put_number(&mut record, Some(version.into()));
        put_number(&mut record, Some(number as i64));
        each(kind, &record)?;
    }
    Ok(())
}

/// Encodes the rows of a group of the catalog again. `keys` are the leaves by which it is sorted.
pub(super) fn encode_again(kind: Kind, values: &[Values], row: usize, record: &mut Vec<u8>) {
    let of_image = kind.columns().from.len();
    let mut key = Vec::new();
    for name in kind.sorted_by() {
        let leaf = kind.columns().leaves.iter().position(|leaf| leaf.path().string() == *name);
        let bytes = leaf.and_then(|leaf| bytes_at(&values[leaf], row));
        put_key(&mut key, bytes.map_or(&[], |bytes| bytes.data()));
    }
    let name = bytes_at(&values[of_image], row).map_or(&[][..], |name| name.data());
    let [version, number] = [1, 2].map(|more| number_at(&values[of_image + more], row).unwrap_or(0));
    put_image(&mut key, name, version as u32, number as u64);
    record.clear();
    varint::put(record, key.len() as u64);
    record.extend_from_slice(&key);
    values[..of_image].iter().for_each(|values| put_cell(record, values, row));
    put_bytes(record, Some(name));
    put_number(record, Some(version));
    put_number(record, Some(number));
}

fn put_image(key: &mut Vec<u8>, name: &[u8], version: u32, row: u64) {
    put_key(key, name);
    key.extend_from_slice(&version.to_be_bytes());
    key.extend_from_slice(&row.to_be_bytes());
}

/// Appends a part of a key. It sorts as its bytes do, and before every longer one that begins with it: a zero byte is
/// `00 ff`, and the end is `00 00`.
fn put_key(key: &mut Vec<u8>, part: &[u8]) {
    for byte in part {
        key.push(*byte);
        if *byte == 0 {
            key.push(0xff);
        }
    }
    key.extend_from_slice(&[0, 0]);
}

pub(super) fn bytes_at(values: &Values, row: usize) -> Option<&ByteArray> {
    match values {
        Values::Bytes(bytes) => bytes[row].as_ref(),
        _ => None,
    }
}

pub(super) fn number_at(values: &Values, row: usize) -> Option<i64> {
    match values {
        Values::Numbers(numbers) => numbers[row],
        _ => None,
    }
}

fn put_cell(out: &mut Vec<u8>, values: &Values, row: usize) {
    match values {
        Values::None => out.push(0),
        Values::Numbers(numbers) => put_number(out, numbers[row]),
        Values::Bytes(bytes) => put_bytes(out, bytes[row].as_ref().map(ByteArray::data)),
        Values::Lists(lists) => {
            varint::put(out, lists[row].len() as u64);
            lists[row].iter().for_each(|value| put_bytes(out, Some(value.data())));
        }
    }
}

fn put_number(out: &mut Vec<u8>, number: Option<i64>) {
    out.push(number.is_some().into());
    if let Some(number) = number {
        varint::put_signed(out, number);
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    varint::put(out, bytes.map_or(0, |bytes| bytes.len() as u64 + 1));
    out.extend_from_slice(bytes.unwrap_or(&[]));
}

/// The cells of a record, in the order of the columns.
pub(super) struct Cells<'a>(Reader<'a>);

impl<'a> Cells<'a> {
    pub(super) fn number(&mut self) -> Result<Option<i64>> {
        match self.0.take("number", 1)? {
            [0] => Ok(None),
            _ => self.0.signed("number").map(Some),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<Option<&'a [u8]>> {
        match self.0.varint("bytes")?.checked_sub(1) {
            None => Ok(None),
            Some(len) => self.0.take("bytes", usize::try_from(len).unwrap_or(usize::MAX)).map(Some),
        }
    }

    pub(super) fn list(&mut self) -> Result<Vec<&'a [u8]>> {
        let count = self.0.varint("list")?;
        (0..count).map(|_| self.bytes().map(Option::unwrap_or_default)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_parts_do() {
        let key = |parts: [&[u8]; 2]| {
            let mut key = Vec::new();
            parts.iter().for_each(|part| put_key(&mut key, part));
            key
        };
        let mut parts: Vec<[&[u8]; 2]> = vec![
            [b"/a", b"2"],
            [b"/a\0", b"1"],
            [b"/a\0b", b"0"],
            [b"/a\x01", b"0"],
            [b"/a/", b""],
            [b"/a\xff", b""],
            [b"", b"z"],
            [b"/a", b""],
        ];
        let mut keys = parts.clone();
        keys.sort_by_key(|parts| key(*parts));
        parts.sort();
        assert_eq!(keys, parts);
    }
}
