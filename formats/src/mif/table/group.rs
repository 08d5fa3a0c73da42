//! Reads selected columns and rows of a table, and nothing else of the file.

use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Encoding, Type};
use parquet::column::page::{Page, PageReader};
use parquet::column::reader::{ColumnReaderImpl, get_column_reader, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FixedLenByteArrayType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{ChunkReader, FileReader, RowGroupReader, SerializedFileReader};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::Type as SchemaType;

use super::checked::{self, Checked};
use super::guarded::{broken, guarded};
use super::limits::{GROUP_BYTES_MAX, GROUP_ROWS_MAX};
use super::pages::{BY_THE_CRATE, Pages};
use super::values::Values;
use crate::error::{Result, at};
use crate::mif::{delta, fixed};

/// A table, open for reading some of its columns.
pub(in crate::mif) struct Table<R: ChunkReader + 'static> {
    what: &'static str,
    reader: SerializedFileReader<Checked<R>>,
    file: Arc<R>,
    /// The leaf of each column by its number; empty if the numbers are the leaves.
    leaves: Vec<usize>,
}

impl<R: ChunkReader + 'static> Table<R> {
    /// Reads the footer of a table and checks that it has the columns of `schema`.
    pub(in crate::mif) fn open(what: &'static str, file: R, schema: &str) -> Result<Self> {
        Self::any(what, file)?.with_columns(&parse_message_type(schema).expect("the schema is constant"), &[])
    }

    /// Reads the footer of a table, whatever columns it has.
    pub(in crate::mif) fn any(what: &'static str, file: R) -> Result<Self> {
        let file = Arc::new(file);
        let reader = checked::open(what, file.clone())?;
        let metadata = reader.metadata();
        let groups = metadata.row_groups().iter().map(RowGroupMetaData::num_rows);
        check_rows(what, groups, metadata.file_metadata().num_rows())?;
        Ok(Table { what, reader, file, leaves: Vec::new() })
    }

    /// Checks that a table has the columns of a schema. If `numbers` is not empty, the columns are addressed by their
    /// places in it, by name.
    pub(in crate::mif) fn with_columns(mut self, schema: &SchemaType, numbers: &[String]) -> Result<Self> {
        let metadata = self.reader.metadata().file_metadata();
        if metadata.schema() != schema {
            return Err(at(self.what)
                .field("schema")
                .unsupported("does not have the columns of this version"));
        }
        let names: Vec<String> =
            metadata.schema_descr().columns().iter().map(|leaf| leaf.path().string()).collect();
        let leaf = |name: &String| names.iter().position(|known| known == name).unwrap_or(ABSENT);
        self.leaves = numbers.iter().map(leaf).collect();
        Ok(self)
    }

    /// Returns a text that the writer of the table has attached to it.
    pub(in crate::mif) fn note(&self, key: &str) -> Option<&str> {
        let notes = self.reader.metadata().file_metadata().key_value_metadata()?;
        notes.iter().find(|note| note.key == key)?.value.as_deref()
    }

    /// Returns the number of row groups.
    pub(in crate::mif) fn group_count(&self) -> usize {
        self.reader.num_row_groups()
    }

    /// Returns the number of rows.
    pub(in crate::mif) fn rows(&self) -> usize {
        usize::try_from(self.reader.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    /// Returns the row groups, in order.
    pub(in crate::mif) fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        let mut start = 0;
        (0..self.reader.num_row_groups()).map(move |number| {
            let metadata = self.reader.metadata().row_group(number);
            let rows = usize::try_from(metadata.num_rows()).unwrap_or(0);
            let (file, leaves) = (&*self.file, &self.leaves[..]);
            let group = Group {
                what: self.what,
                reader: &self.reader,
                file,
                number,
                metadata,
                leaves,
                only: None,
                start,
                rows,
            };
            start += rows;
            group
        })
    }
}

/// Fails unless the row groups add up to the file's row count and none is larger than [`GROUP_ROWS_MAX`].
fn check_rows(what: &'static str, groups: impl Iterator<Item = i64>, rows: i64) -> Result<()> {
    let place = || at(what).field("row count");
    let mut sum = 0_i64;
    for group in groups {
        if !(0..=GROUP_ROWS_MAX as i64).contains(&group) {
            return Err(place().limit(format!("is {group} in one row group, expected 0 to {GROUP_ROWS_MAX}")));
        }
        sum = sum.saturating_add(group);
    }
    if sum != rows {
        return Err(place().corrupt(format!("is {rows}, but the row groups have {sum} in total")));
    }
    Ok(())
}

/// The longest bloom filter that is read, in bytes: one for the most rows of a group takes a tenth of it.
const FILTER_MAX: usize = 1 << 20;

/// The leaf of a column that a table does not have.
const ABSENT: usize = usize::MAX;

/// The bytes of a file, independent of its type.
pub(super) trait FileBytes: Sync {
    fn bytes(&self, start: u64, len: usize) -> Result<Bytes, ParquetError>;
}

impl<R: ChunkReader> FileBytes for R {
    fn bytes(&self, start: u64, len: usize) -> Result<Bytes, ParquetError> {
        self.get_bytes(start, len)
    }
}

/// A reader of row groups, independent of the file's type.
trait Groups: Sync {
    fn group(&self, i: usize) -> Result<Box<dyn RowGroupReader + '_>, ParquetError>;
}

impl<R: ChunkReader + 'static> Groups for SerializedFileReader<R> {
    fn group(&self, i: usize) -> Result<Box<dyn RowGroupReader + '_>, ParquetError> {
        self.get_row_group(i)
    }
}

/// A row group: some tens of thousands of rows.
pub struct Group<'a> {
    what: &'static str,
    reader: &'a dyn Groups,
    pub(super) file: &'a dyn FileBytes,
    number: usize,
    pub(super) metadata: &'a RowGroupMetaData,
    leaves: &'a [usize],
    /// The rows that count, by their numbers in the whole group; all if `None`.
    only: Option<&'a [usize]>,
    /// The number of its first row in the table.
    pub start: usize,
    /// The number of rows.
    pub rows: usize,
}

/// Values, definition levels and repetition levels.
type Leaf<T> = (Vec<T>, Vec<i16>, Vec<i16>);

impl Group<'_> {
    /// Returns the minimum and the maximum of a text column, if the file has them. Long values are truncated, so these
    /// are bounds rather than values.
    #[must_use]
    pub fn bounds(&self, column: impl Into<usize>) -> Option<(&[u8], &[u8])> {
        let column = self.find(column)?;
        let statistics = self.metadata.column(column).statistics()?;
        Some((statistics.min_bytes_opt()?, statistics.max_bytes_opt()?))
    }

    /// True if no row has a value in this column.
    #[must_use]
    pub fn all_null(&self, column: impl Into<usize>) -> bool {
        let Some(column) = self.find(column) else { return true };
        let statistics = self.metadata.column(column).statistics();
        statistics.and_then(parquet::file::statistics::Statistics::null_count_opt)
            == Some(self.metadata.num_rows() as u64)
    }

    /// Returns true if no row has one of the values `wanted` in this column, as far as the bloom filter of the column tells.
    #[must_use]
    pub fn lacks<'d>(&self, column: impl Into<usize>, mut wanted: impl Iterator<Item = &'d [u8]>) -> bool {
        let filter = self.find(column).and_then(|column| {
            let metadata = self.metadata.column(column);
            let start = u64::try_from(metadata.bloom_filter_offset()?).ok()?;
            let len =
                usize::try_from(metadata.bloom_filter_length()?).ok().filter(|len| *len <= FILTER_MAX)?;
            checked::bloom_filter(&self.file.bytes(start, len).ok()?)
        });
        filter.is_some_and(|filter| !wanted.any(|value| filter.check(value)))
    }

    /// Returns the group of these rows only, by their ascending numbers in this one.
    pub(in crate::mif) fn only<'r>(&'r self, rows: &'r [usize]) -> Group<'r> {
        Group { only: Some(rows), rows: rows.len(), ..*self }
    }

    /// Returns the group of all rows, and which of them count, unless all do.
    fn chosen(&self) -> Option<(Self, &[usize])> {
        let rows = usize::try_from(self.metadata.num_rows()).unwrap_or(0);
        Some((Group { only: None, rows, ..*self }, self.only?))
    }

    /// Reads a whole column by its place in the file, whatever its type is.
    pub(in crate::mif) fn raw_values(&self, leaf: usize) -> Result<Values> {
        Group { leaves: &[], ..*self }.values(leaf)
    }

    /// Reads a whole column, whatever its type is. Its number is its place in the file.
    pub(in crate::mif) fn values(&self, leaf: usize) -> Result<Values> {
        let metadata = self.metadata.column(leaf);
        let is_list = metadata.column_descr().max_rep_level() > 0;
        let values = match metadata.column_type() {
            _ if is_list => Values::Lists(self.lists(leaf)?),
            _ if self.all_null(leaf) => return Ok(Values::None),
            Type::INT32 | Type::INT64 => Values::Numbers(self.numbers(leaf)?),
            Type::FIXED_LEN_BYTE_ARRAY => {
                let read = self.optional::<FixedLenByteArrayType>(leaf)?;
                Values::Bytes(read.into_iter().map(|value| value.map(ByteArray::from)).collect())
            }
            _ if metadata.column_descr().max_def_level() == 0 => {
                Values::Bytes(self.texts(leaf)?.into_iter().map(Some).collect())
            }
            _ => Values::Bytes(self.blobs(leaf)?),
        };
        if values.len() == Some(self.rows) { Ok(values) } else { Err(self.short(leaf)) }
    }

    /// Reads a required column of text or bytes.
    pub fn texts(&self, column: impl Into<usize>) -> Result<Vec<ByteArray>> {
        let number = column.into();
        if let Some((whole, rows)) = self.chosen() {
            return whole.texts_at(number, rows);
        }
        let column = self.leaf(number)?;
        if self.is_delta(column) {
            let mut values = Vec::with_capacity(self.rows);
            self.each_text(number, |text| values.push(ByteArray::from(text.to_vec())))?;
            return Ok(values);
        }
        let (values, ..) = self.read::<ByteArrayType>(column)?;
        self.unfolded(column, &values)?;
        if values.len() == self.rows { Ok(values) } else { Err(self.short(column)) }
    }

    /// Calls `each` with each value of a required column of text or bytes, in row order.
    pub fn each_text(&self, column: impl Into<usize>, mut each: impl FnMut(&[u8])) -> Result<()> {
        self.each_text_again(column, |text, _| each(text))
    }

    /// As [`each_text`](Self::each_text), and says whether the value is known to be that of the row before.
    pub fn each_text_again(&self, column: impl Into<usize>, mut each: impl FnMut(&[u8], bool)) -> Result<()> {
        let number = column.into();
        let column = self.leaf(number)?;
        if !self.is_delta(column) {
            self.texts(number)?.iter().for_each(|text| each(text.data(), false));
            return Ok(());
        }
        let mut pages = guarded(self.what, || self.pages(column, &[Encoding::DELTA_BYTE_ARRAY]))?;
        let (mut rows, mut bytes) = (0, 0);
        let next = |pages: &mut Pages| pages.get_next_page().map_err(|e| broken(self.what, e));
        while let Some(page) = guarded(self.what, || next(&mut pages))? {
            // A required column has no levels before the values, and a delta-encoded one has no dictionary.
            if !page.is_data_page() {
                return Err(self.broken(column, "has both a dictionary and delta-encoded pages"));
            }
            let count = page.num_values() as usize;
            rows += count;
            delta::each_text(self.what, page.buffer(), count, GROUP_BYTES_MAX - bytes, |text, again| {
                bytes += text.len();
                each(text, again);
            })?;
        }
        if rows == self.rows { Ok(()) } else { Err(self.short(column)) }
    }

    /// Reads some rows of a required column of text or bytes; `rows` are ascending row numbers within the group.
    pub fn texts_at(&self, column: impl Into<usize>, rows: &[usize]) -> Result<Vec<ByteArray>> {
        let number = column.into();
        let column = self.leaf(number)?;
        if rows.len() == self.rows {
            return self.texts(number);
        }
        if !self.is_delta(column) {
            let picked = self.pick::<ByteArrayType>(column, rows)?;
            let picked: Result<Vec<_>> =
                picked.into_iter().map(|value| value.ok_or_else(|| self.short(column))).collect();
            return picked.and_then(|picked| self.unfolded(column, &picked).map(|()| picked));
        }
        let (mut picked, mut wanted) = (Vec::with_capacity(rows.len()), rows.iter().peekable());
        let mut row = 0;
        self.each_text(number, |text| {
            if wanted.next_if_eq(&&row).is_some() {
                picked.push(ByteArray::from(text.to_vec()));
            }
            row += 1;
        })?;
        if picked.len() == rows.len() { Ok(picked) } else { Err(self.short(column)) }
    }

    /// Reads an optional column of text or bytes.
    pub fn blobs(&self, column: impl Into<usize>) -> Result<Vec<Option<ByteArray>>> {
        let number = column.into();
        if let Some((whole, rows)) = self.chosen() {
            return whole.blobs_at(number, rows);
        }
        let column = self.leaf(number)?;
        let values = self.optional::<ByteArrayType>(column)?;
        self.unfolded(column, values.iter().flatten())?;
        Ok(values)
    }

    /// Reads some rows of an optional column of text or bytes.
    pub fn blobs_at(&self, column: impl Into<usize>, rows: &[usize]) -> Result<Vec<Option<ByteArray>>> {
        let number = column.into();
        let column = self.leaf(number)?;
        if self.all_null(number) {
            return Ok(vec![None; rows.len()]);
        }
        if rows.len() == self.rows {
            return self.blobs(number);
        }
        let values = self.pick::<ByteArrayType>(column, rows)?;
        self.unfolded(column, values.iter().flatten())?;
        Ok(values)
    }

    /// Reads a column of lists of text or bytes: the values of each row.
    pub fn lists(&self, column: impl Into<usize>) -> Result<Vec<Vec<ByteArray>>> {
        let number = column.into();
        let column = self.leaf(number)?;
        if let Some((whole, rows)) = self.chosen() {
            let mut lists: Vec<Vec<ByteArray>> = Vec::with_capacity(rows.len());
            let take = |values: &mut Vec<ByteArray>| lists.push(std::mem::take(values));
            guarded(self.what, || whole.decode_some::<ByteArrayType>(column, rows, take))?;
            self.unfolded(column, lists.iter().flatten())?;
            return Ok(lists);
        }
        let wrong = || self.broken(column, "has invalid list levels, or too few values");
        let (values, def, rep) = self.read::<ByteArrayType>(column)?;
        self.unfolded(column, &values)?;
        let mut values = values.into_iter();
        let mut all: Vec<Vec<ByteArray>> = Vec::with_capacity(self.rows);
        for (def, rep) in def.into_iter().zip(rep) {
            if rep == 0 {
                all.push(Vec::new());
            }
            if def > 0 {
                all.last_mut().ok_or_else(wrong)?.push(values.next().ok_or_else(wrong)?);
            }
        }
        if all.len() == self.rows { Ok(all) } else { Err(wrong()) }
    }

    /// Reads some rows of a column of lists of text or bytes: the number of values of each.
    pub fn list_lens_at(&self, column: impl Into<usize>, rows: &[usize]) -> Result<Vec<usize>> {
        let number = column.into();
        let column = self.leaf(number)?;
        if rows.len() == self.rows {
            return Ok(self.lists(number)?.iter().map(Vec::len).collect());
        }
        let mut lens = Vec::with_capacity(rows.len());
        guarded(self.what, || {
            self.decode_some::<ByteArrayType>(column, rows, |values| lens.push(values.len()))
        })?;
        Ok(lens)
    }

    /// Reads a column of numbers.
    pub fn numbers(&self, column: impl Into<usize>) -> Result<Vec<Option<i64>>> {
        let number = column.into();
        if let Some((whole, rows)) = self.chosen() {
            return whole.numbers_at(number, rows);
        }
        let column = self.leaf(number)?;
        match self.metadata.column(column).column_type() {
            Type::INT32 => {
                Ok(self.optional::<Int32Type>(column)?.into_iter().map(|v| v.map(i64::from)).collect())
            }
            _ => self.optional::<Int64Type>(column),
        }
    }

    /// Reads some rows of a column of numbers.
    pub fn numbers_at(&self, column: impl Into<usize>, rows: &[usize]) -> Result<Vec<Option<i64>>> {
        let number = column.into();
        let column = self.leaf(number)?;
        match self.metadata.column(column).column_type() {
            Type::INT32 => {
                let picked = self.pick::<Int32Type>(column, rows)?;
                Ok(picked.into_iter().map(|v| v.map(i64::from)).collect())
            }
            _ => self.pick::<Int64Type>(column, rows),
        }
    }

    /// Reads a column of digests.
    pub fn digests<const N: usize>(&self, column: impl Into<usize>) -> Result<Vec<Option<[u8; N]>>> {
        let number = column.into();
        if let Some((whole, rows)) = self.chosen() {
            return whole.digests_at(number, rows);
        }
        let column = self.leaf(number)?;
        if self.all_null(number) {
            return Ok(vec![None; self.rows]);
        }
        if self.is_plain_fixed(column, N) {
            return self.plain_digests(column);
        }
        let read = self.optional::<FixedLenByteArrayType>(column)?;
        Ok(read.into_iter().map(|v| v.and_then(|v| v.data().try_into().ok())).collect())
    }

    /// Reads some rows of a column of digests.
    pub fn digests_at<const N: usize>(
        &self,
        column: impl Into<usize>,
        rows: &[usize],
    ) -> Result<Vec<Option<[u8; N]>>> {
        let number = column.into();
        let column = self.leaf(number)?;
        if self.all_null(number) {
            return Ok(vec![None; rows.len()]);
        }
        let read = self.pick::<FixedLenByteArrayType>(column, rows)?;
        Ok(read.into_iter().map(|v| v.and_then(|v| v.data().try_into().ok())).collect())
    }

    /// Returns the leaf of a column; `None` if the table does not have it.
    pub(super) fn find(&self, column: impl Into<usize>) -> Option<usize> {
        let number = column.into();
        let leaf = if self.leaves.is_empty() { number } else { self.leaves.get(number).copied()? };
        (leaf < self.metadata.num_columns()).then_some(leaf)
    }

    fn leaf(&self, number: usize) -> Result<usize> {
        let lacking = || at(self.what).field("schema").unsupported(format!("lacks the column {number}"));
        self.find(number).ok_or_else(lacking)
    }

    fn is_delta(&self, column: usize) -> bool {
        self.metadata.column(column).encodings().any(|encoding| encoding == Encoding::DELTA_BYTE_ARRAY)
    }

    /// Returns true if a column has optional values of `len` bytes, and no dictionary.
    fn is_plain_fixed(&self, column: usize, len: usize) -> bool {
        let metadata = self.metadata.column(column);
        let descriptor = metadata.column_descr();
        let levels = (descriptor.max_def_level(), descriptor.max_rep_level());
        metadata.column_type() == Type::FIXED_LEN_BYTE_ARRAY
            && usize::try_from(descriptor.type_length()) == Ok(len)
            && levels == (1, 0)
            && metadata.dictionary_page_offset().is_none()
    }

    /// Reads such a column.
    fn plain_digests<const N: usize>(&self, column: usize) -> Result<Vec<Option<[u8; N]>>> {
        let mut pages = guarded(self.what, || self.pages(column, &[Encoding::PLAIN]))?;
        let mut values = Vec::with_capacity(self.rows);
        let next = |pages: &mut Pages| pages.get_next_page().map_err(|e| broken(self.what, e));
        while let Some(page) = guarded(self.what, || next(&mut pages))? {
            let Page::DataPage { buf, num_values, def_level_encoding: Encoding::RLE, .. } = page else {
                return Err(self.broken(column, "has a page of an unsupported kind"));
            };
            fixed::values(self.what, &buf, num_values as usize, &mut values)?;
        }
        if values.len() == self.rows { Ok(values) } else { Err(self.short(column)) }
    }

    fn name(&self, column: usize) -> String {
        self.metadata.column(column).column_path().string()
    }

    fn broken(&self, column: usize, problem: &str) -> crate::error::Error {
        at(self.what).corrupt(format!("column {} {problem}", self.name(column)))
    }

    fn short(&self, column: usize) -> crate::error::Error {
        self.broken(column, "is truncated")
    }

    /// Fails if the values have more bytes than a row group may have: the file stores a dictionary value once, but any
    /// number of rows can refer to it.
    fn unfolded<'v>(&self, column: usize, values: impl IntoIterator<Item = &'v ByteArray>) -> Result<()> {
        let bytes: usize = values.into_iter().map(ByteArray::len).sum();
        if bytes <= GROUP_BYTES_MAX {
            return Ok(());
        }
        let problem = format!(
            "column {} has {bytes} bytes in one row group, expected at most {GROUP_BYTES_MAX}",
            self.name(column)
        );
        Err(at(self.what).limit(problem))
    }

    fn pages(&self, column: usize, encodings: &'static [Encoding]) -> Result<Pages> {
        let wrong = |e| broken(self.what, e);
        let group = self.reader.group(self.number).map_err(wrong)?;
        let pages = group.get_column_page_reader(column).map_err(wrong)?;
        Ok(Pages::new(pages, self.metadata.column(column).column_descr(), self.rows, encodings))
    }

    fn open<T: DataType>(&self, column: usize) -> Result<ColumnReaderImpl<T>> {
        let metadata = self.metadata.column(column);
        if metadata.column_type() != T::get_physical_type() {
            return Err(at(self.what).field("schema").unsupported("has a column of the wrong type"));
        }
        let pages = self.pages(column, BY_THE_CRATE)?;
        Ok(get_typed_column_reader::<T>(get_column_reader(metadata.column_descr_ptr(), Box::new(pages))))
    }

    fn read<T: DataType>(&self, column: usize) -> Result<Leaf<T::T>> {
        guarded(self.what, || self.decode::<T>(column))
    }

    fn decode<T: DataType>(&self, column: usize) -> Result<Leaf<T::T>> {
        let descriptor = self.metadata.column(column).column_descr();
        let mut reader = self.open::<T>(column)?;
        let (mut values, mut def, mut rep) = (Vec::new(), Vec::new(), Vec::new());
        let mut left = self.rows;
        while left > 0 {
            let def = (descriptor.max_def_level() > 0).then_some(&mut def);
            let rep = (descriptor.max_rep_level() > 0).then_some(&mut rep);
            let read = reader.read_records(left, def, rep, &mut values);
            let (records, ..) = read.map_err(|e| broken(self.what, e))?;
            if records == 0 {
                return Err(self.short(column));
            }
            left = left.saturating_sub(records);
        }
        Ok((values, def, rep))
    }

    fn optional<T: DataType>(&self, column: usize) -> Result<Vec<Option<T::T>>> {
        let (values, def, _) = self.read::<T>(column)?;
        if self.metadata.column(column).column_descr().max_def_level() == 0 {
            return Ok(values.into_iter().map(Some).collect());
        }
        let mut values = values.into_iter();
        Ok(def.into_iter().map(|d| if d > 0 { values.next() } else { None }).collect())
    }

    /// Reads some rows of a column that is not a list.
    fn pick<T: DataType>(&self, column: usize, rows: &[usize]) -> Result<Vec<Option<T::T>>> {
        let mut picked = Vec::with_capacity(rows.len());
        guarded(self.what, || self.decode_some::<T>(column, rows, |values| picked.push(values.pop())))?;
        Ok(picked)
    }

    /// Decodes some rows of a column and calls `each` with the values of each, in order.
    fn decode_some<T: DataType>(
        &self,
        column: usize,
        rows: &[usize],
        mut each: impl FnMut(&mut Vec<T::T>),
    ) -> Result<()> {
        let wrong = |e| broken(self.what, e);
        let descriptor = self.metadata.column(column).column_descr();
        let mut reader = self.open::<T>(column)?;
        let (mut values, mut def, mut rep) = (Vec::new(), Vec::new(), Vec::new());
        let mut at = 0;
        for (i, &row) in rows.iter().enumerate() {
            if row < at || row >= self.rows {
                debug_assert!(i == 0 || rows[i - 1] < row, "rows are asked for in ascending order");
                return Err(self.short(column));
            }
            if reader.skip_records(row - at).map_err(wrong)? != row - at {
                return Err(self.short(column));
            }
            values.clear();
            def.clear();
            rep.clear();
            let def = (descriptor.max_def_level() > 0).then_some(&mut def);
            let rep = (descriptor.max_rep_level() > 0).then_some(&mut rep);
            let (records, ..) = reader.read_records(1, def, rep, &mut values).map_err(wrong)?;
            if records != 1 {
                return Err(self.short(column));
            }
            each(&mut values);
            at = row + 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
    use parquet::file::writer::SerializedFileWriter;

    use super::*;
    use crate::error::ErrorKind;
    use crate::mif::table::limits::CHUNK_BYTES_MAX;
    use crate::mif::table::{VALUE_COST, compression, optional, required, row_groups, write_column};

    const SCHEMA: &str = "message table {
        required binary text;
        optional binary blob;
        required group list (LIST) { repeated group list { required binary element; } }
    }";

    type Properties = fn(WriterPropertiesBuilder) -> WriterPropertiesBuilder;

    /// Returns a table of one row group, with a text and a blob for each row, and lists given by their levels.
    fn table(
        properties: Properties,
        texts: &[&[u8]],
        blob: Option<&[u8]>,
        (elements, def, rep): (usize, Vec<i16>, Vec<i16>),
    ) -> Vec<u8> {
        let properties = properties(WriterProperties::builder().set_compression(compression())).build();
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let mut out = Vec::new();
        let mut file = SerializedFileWriter::new(&mut out, schema, Arc::new(properties)).unwrap();
        let mut group = file.next_row_group().unwrap();
        let bytes = |text: &[u8]| ByteArray::from(text.to_vec());
        required::<ByteArrayType, _>(&mut group, texts.iter().map(|text| bytes(text))).unwrap();
        let blob = blob.map(bytes);
        optional::<ByteArrayType, _>(&mut group, texts.iter().map(|_| blob.clone())).unwrap();
        let elements = vec![bytes(b"e"); elements];
        write_column::<ByteArrayType, _>(&mut group, &elements, Some(&def), Some(&rep)).unwrap();
        group.close().unwrap();
        file.close().unwrap();
        out
    }

    /// Returns lists that are all empty.
    fn empty(rows: usize) -> (usize, Vec<i16>, Vec<i16>) {
        (0, vec![0; rows], vec![0; rows])
    }

    /// Opens a table and reads its only group.
    fn reading<T>(
        file: Vec<u8>,
        read: impl FnOnce(&Group<'_>) -> Result<T>,
    ) -> Result<T, (ErrorKind, String)> {
        let opened = Table::open("table", Bytes::from(file), SCHEMA);
        let told = |e: crate::error::Error| (e.kind(), e.to_string());
        opened.and_then(|table| read(&table.groups().next().unwrap())).map_err(told)
    }

    fn limit<T>(result: Result<T, (ErrorKind, String)>) {
        let (kind, said) = result.map(drop).unwrap_err();
        assert_eq!(kind, ErrorKind::Limit, "{said}");
        assert!(said.contains(&GROUP_BYTES_MAX.to_string()), "{said}");
    }

    fn corrupt<T>(result: Result<T, (ErrorKind, String)>, problem: &str) {
        let (kind, said) = result.map(drop).unwrap_err();
        assert_eq!(kind, ErrorKind::Corrupt, "{said}");
        assert!(said.contains(problem), "{said}");
    }

    #[test]
    fn a_row_group_of_more_rows_than_the_limit_is_refused() {
        const MAX: i64 = GROUP_ROWS_MAX as i64;
        let check =
            |groups: &[i64], rows| check_rows("table", groups.iter().copied(), rows).err().map(|e| e.kind());
        assert_eq!(check(&[MAX, 5], MAX + 5), None);
        assert_eq!(check(&[MAX + 1], MAX + 1), Some(ErrorKind::Limit));
        assert_eq!(check(&[-1], -1), Some(ErrorKind::Limit));
        assert_eq!(check(&[3, 4], 1 << 60), Some(ErrorKind::Corrupt));
    }

    #[test]
    fn a_long_text_of_a_dictionary_in_many_rows_is_refused() {
        let long = vec![b'x'; 1 << 20];
        let of_rows = |rows: usize| {
            let blob = &long[..GROUP_BYTES_MAX / 16];
            table(|with| with, &vec![blob; rows], Some(blob), empty(rows))
        };
        for rows in [16, 17] {
            let all: Vec<usize> = (0..rows).collect();
            let file = || of_rows(rows);
            let results = [
                reading(file(), |group| group.texts(0_usize).map(drop)),
                reading(file(), |group| group.texts_at(0_usize, &all).map(drop)),
                reading(file(), |group| group.blobs(1_usize).map(drop)),
                reading(file(), |group| group.blobs_at(1_usize, &all).map(drop)),
            ];
            for result in results {
                if rows == 16 { result.unwrap() } else { limit(result) }
            }
        }
    }

    /// Found by fuzzing: texts that share long prefixes took 900 MB.
    #[test]
    fn delta_encoded_texts_that_unfold_into_more_than_a_row_group_has_are_refused() {
        let long = vec![b'x'; GROUP_BYTES_MAX / 16];
        let delta: Properties =
            |with| with.set_dictionary_enabled(false).set_encoding(Encoding::DELTA_BYTE_ARRAY);
        let file = |rows| table(delta, &vec![&long[..]; rows], Some(b"b"), empty(rows));
        assert_eq!(reading(file(16), |group| group.texts(0_usize)).unwrap().len(), 16);
        assert!(file(17).len() < 16 << 10);
        limit(reading(file(17), |group| group.texts(0_usize)));
        limit(reading(file(17), |group| group.texts_at(0_usize, &[0])));
        limit(reading(file(17), |group| group.each_text(0_usize, |_| ())));
        // Only required text columns are written in this encoding.
        corrupt(reading(file(3), |group| group.blobs(1_usize)), "unsupported encoding DELTA_BYTE_ARRAY");
    }

    #[test]
    fn a_page_of_more_bytes_than_a_row_group_has_is_refused_before_there_is_room_for_it() {
        let plain: Properties = |with| with.set_dictionary_enabled(false);
        let long = vec![b'x'; CHUNK_BYTES_MAX + 1];
        let file = table(plain, &[&long], Some(b"b"), empty(1));
        assert!(file.len() < 16 << 10);
        let over = format!("expected at most {CHUNK_BYTES_MAX}");
        corrupt(reading(file, |group| group.texts(0_usize)), &over);
        // The limit also holds for the sum of all pages.
        let half = &long[..CHUNK_BYTES_MAX / 2 + 1];
        let file = table(
            |with| with.set_dictionary_enabled(false).set_write_batch_size(1),
            &[half, half],
            Some(b"b"),
            empty(2),
        );
        corrupt(reading(file, |group| group.texts(0_usize)), "bytes in one row group");
    }

    #[test]
    fn a_dictionary_that_claims_more_values_than_it_has_bytes_is_refused() {
        let file = table(|with| with, &[b"some text"], Some(b"b"), empty(1));
        let read = |file: Vec<u8>| reading(file, |group| group.texts(0_usize));
        assert_eq!(read(file.clone()).unwrap().len(), 1);
        // The header of the first page: `DictionaryPageHeader`, field 7, whose first field is the count, zigzagged.
        let at = file.windows(3).position(|bytes| bytes == [0x4c, 0x15, 2]).unwrap() + 2;
        for count in [4, 63] {
            let mut file = file.clone();
            file[at] = count * 2;
            corrupt(read(file), &format!("a dictionary claims {count} values in 13 bytes"));
        }
    }

    #[test]
    fn lists_of_more_values_than_a_row_group_has_are_refused() {
        const MAX: usize = GROUP_BYTES_MAX / VALUE_COST;
        let one_list = |values: usize| {
            let rep = (0..values).map(|i| i16::from(i > 0)).collect();
            table(|with| with, &[b"t"], Some(b"b"), (values, vec![1; values], rep))
        };
        let lists = reading(one_list(MAX), |group| group.lists(2_usize)).unwrap();
        assert_eq!(lists.iter().map(Vec::len).collect::<Vec<_>>(), [MAX]);
        corrupt(reading(one_list(MAX + 2), |group| group.lists(2_usize)), "more values than there are rows");
    }

    #[test]
    fn rows_are_cut_into_groups_by_number_and_by_bytes() {
        let groups = |costs: &[usize]| -> Result<Vec<usize>> {
            row_groups("table", costs, |cost| *cost).map(|group| group.map(<[usize]>::len)).collect()
        };
        const HALF: usize = GROUP_BYTES_MAX / 2;
        assert!(groups(&[]).unwrap().is_empty());
        assert_eq!(groups(&[1; GROUP_ROWS_MAX + 1]).unwrap(), [GROUP_ROWS_MAX, 1]);
        assert_eq!(groups(&[HALF, HALF, 1, HALF, HALF]).unwrap(), [2, 2, 1]);
        assert_eq!(groups(&[1, GROUP_BYTES_MAX, 1]).unwrap(), [1, 1, 1]);
        assert_eq!(groups(&[GROUP_BYTES_MAX + 1]).unwrap_err().kind(), ErrorKind::Limit);
        assert_eq!(groups(&[1, GROUP_BYTES_MAX + 1]).unwrap_err().kind(), ErrorKind::Limit);
    }
}
