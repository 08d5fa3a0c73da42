//! Writes a file of the catalog from records, group by group.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::Encoding;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;

use super::{Kind, Record};
use crate::error::{Error, Result};
use crate::mif::table::{self, GROUP_BYTES_MAX, GROUP_ROWS_MAX, VALUE_COST, Values, write_values};

/// The length to which the minimum and the maximum of a column are cut, in bytes: most paths are shorter, so that groups
/// of long paths with a common start are told apart.
const BOUND: usize = 256;

/// The most rows of a page.
const PAGE_ROWS: usize = 8 << 10;

/// Columns whose pages have a minimum and a maximum of their own.
const WITH_PAGE_INDEX: [&str; 6] = ["path", "blake3", "sha1", "package", "package_version", "name"];

/// A file of the catalog that is being written.
pub struct PartWriter<W: Write + Send> {
    kind: Kind,
    segment: ByteArray,
    file: SerializedFileWriter<W>,
    /// The rows of the next group, by column.
    columns: Vec<Values>,
    /// The bytes of each column.
    bytes: Vec<usize>,
    rows: usize,
    written: u64,
}

impl<W: Write + Send> PartWriter<W> {
    /// Starts a file of a segment.
    ///
    /// # Errors
    /// `Io` if `out` cannot be written.
    pub fn new(kind: Kind, segment: &str, out: W) -> Result<Self> {
        let schema = kind.columns().schema.clone();
        let file = SerializedFileWriter::new(out, schema, Arc::new(properties(kind))).map_err(broken)?;
        let leaves = &kind.columns().leaves;
        Ok(PartWriter {
            kind,
            segment: ByteArray::from(segment),
            file,
            columns: leaves.iter().map(|leaf| Values::empty(leaf)).collect(),
            bytes: vec![0; leaves.len()],
            rows: 0,
            written: 0,
        })
    }

    /// Appends a row. Its key is not below that of the row before.
    ///
    /// # Errors
    /// `Corrupt` if it is not a record of this table; `Io` if the file cannot be written.
    pub fn push(&mut self, record: &Record<'_>) -> Result<()> {
        if self.rows == GROUP_ROWS_MAX || !self.fits(record)? {
            self.write_group()?;
        }
        let mut cells = record.cells();
        let last = self.columns.len() - 1;
        for (values, bytes) in self.columns[..last].iter_mut().zip(&mut self.bytes) {
            match values {
                Values::Numbers(numbers) => numbers.push(cells.number()?),
                Values::Bytes(all) => {
                    let value = cells.bytes()?;
                    *bytes += value.map_or(0, <[u8]>::len);
                    let value = value.map(|value| again(all.last(), value));
                    all.push(value);
                }
                Values::Lists(all) => {
                    let list = cells.list()?;
                    *bytes += list.iter().map(|value| value.len() + VALUE_COST).sum::<usize>();
                    all.push(list.into_iter().map(|value| ByteArray::from(value.to_vec())).collect());
                }
                Values::None => {}
            }
        }
        if let Values::Bytes(all) = &mut self.columns[last] {
            all.push(Some(self.segment.clone()));
        }
        self.rows += 1;
        Ok(())
    }

    /// Returns true if no column of the group would have too many bytes with this row.
    fn fits(&self, record: &Record<'_>) -> Result<bool> {
        const NEAR: usize = GROUP_BYTES_MAX / 2;
        // A row that came from one group is at most as large as a group, and most are tiny.
        if self.rows == 0 || record.cells_len() < NEAR && self.bytes.iter().all(|bytes| *bytes < NEAR) {
            return Ok(true);
        }
        let mut cells = record.cells();
        let last = self.columns.len() - 1;
        for (values, bytes) in self.columns[..last].iter().zip(&self.bytes) {
            let more = match values {
                Values::Numbers(_) => {
                    cells.number()?;
                    0
                }
                Values::Bytes(_) => cells.bytes()?.map_or(0, <[u8]>::len),
                Values::Lists(_) => cells.list()?.iter().map(|value| value.len() + VALUE_COST).sum(),
                Values::None => 0,
            };
            if bytes + more > GROUP_BYTES_MAX {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn write_group(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.rows);
        if rows == 0 {
            return Ok(());
        }
        let leaves = &self.kind.columns().leaves;
        let mut write = || -> Result<(), ParquetError> {
            let mut group = self.file.next_row_group()?;
            for (leaf, values) in leaves.iter().zip(&mut self.columns) {
                let values = std::mem::replace(values, Values::empty(leaf));
                write_values(&mut group, leaf, &values, rows)?;
            }
            group.close().map(drop)
        };
        write().map_err(broken)?;
        self.bytes.fill(0);
        self.written += rows as u64;
        Ok(())
    }

    /// Returns the number of bytes that were written so far, without the rows of the next group.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.file.bytes_written() as u64
    }

    /// Completes the file. Returns where it was written to, and the number of its rows.
    ///
    /// # Errors
    /// `Io` if it cannot be written.
    pub fn finish(mut self) -> Result<(W, u64)> {
        self.write_group()?;
        let out = self.file.into_inner().map_err(broken)?;
        Ok((out, self.written))
    }
}

/// Returns a value, which shares the memory of the one before if it is the same.
fn again(before: Option<&Option<ByteArray>>, value: &[u8]) -> ByteArray {
    match before {
        Some(Some(before)) if before.data() == value => before.clone(),
        _ => ByteArray::from(Bytes::copy_from_slice(value)),
    }
}

fn broken(error: ParquetError) -> Error {
    table::broken("catalog", error)
}

fn properties(kind: Kind) -> WriterProperties {
    let leaves = &kind.columns().leaves;
    let leaf = |name: &str| leaves.iter().position(|leaf| leaf.path().string() == name);
    let sorted = kind.sorted_by().iter().filter_map(|name| leaf(name));
    let sorted =
        sorted.map(|leaf| SortingColumn { column_idx: leaf as i32, descending: false, nulls_first: true });
    let mut builder = WriterProperties::builder()
        .set_created_by(concat!("mif ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(table::compression())
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_statistics_truncate_length(Some(BOUND))
        .set_column_index_truncate_length(Some(BOUND))
        .set_sorting_columns(Some(sorted.collect()));
    for column in WITH_PAGE_INDEX.map(ColumnPath::from) {
        builder = builder.set_column_statistics_enabled(column, EnabledStatistics::Page);
    }
    // Sorted texts share prefixes, or are the same again and again.
    let texts: &[&str] = match kind {
        Kind::Files => &["path", "name"],
        Kind::Digests => &["path", "name"],
        Kind::Packages => &["package", "name"],
    };
    for column in texts.iter().map(|name| ColumnPath::from(*name)) {
        builder = builder
            .set_column_dictionary_enabled(column.clone(), false)
            .set_column_encoding(column, Encoding::DELTA_BYTE_ARRAY);
    }
    if kind == Kind::Digests {
        // Rows are sorted by the other digest, so its minimum and maximum tell nothing.
        let sha1 = ColumnPath::from("sha1");
        builder = builder
            .set_column_bloom_filter_fpp(sha1.clone(), 0.01)
            .set_column_bloom_filter_max_ndv(sha1, GROUP_ROWS_MAX as u64);
    }
    builder.build()
}
