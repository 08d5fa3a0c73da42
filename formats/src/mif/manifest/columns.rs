//! Reading some columns of a manifest, and of those only the rows that are wanted: what a search over many
//! images needs. Nothing else of the file is read.

use bytes::Bytes;
use parquet::basic::Encoding;
use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FixedLenByteArrayType, Int32Type, Int64Type};
pub use parquet::errors::ParquetError as ReadError;
pub use parquet::file::reader::{ChunkReader, Length};

use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};

use super::super::delta;
use super::super::table::{self, Checked, guarded};
use super::{Xattr, broken, check_schema, xattr_name};
use crate::fs::walk::MAX_ALL_PATHS;
use crate::{Result, at};

/// The most rows that one row group may have: a column of them is held in memory, and a few bytes of a file can
/// stand for any number. This program writes 32,768.
const MAX_GROUP_ROWS: i64 = 1 << 20;

/// A column of the manifest, in the order of the file. Lists have a leaf for keys and one for values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    Inode,
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
}

/// A manifest, open for reading some of its columns.
pub struct Columns<R: ChunkReader + 'static> {
    reader: SerializedFileReader<Checked<R>>,
}

impl Columns<Bytes> {
    /// A manifest that is in memory.
    pub fn open(file: Bytes) -> Result<Self> {
        Self::new(file)
    }
}

impl<R: ChunkReader + 'static> Columns<R> {
    /// Reads the footer of a manifest.
    pub fn new(file: R) -> Result<Self> {
        let reader = table::open("manifest", file)?;
        check_schema(&reader)?;
        let groups = reader.metadata().row_groups().iter().map(RowGroupMetaData::num_rows);
        check_rows(groups, reader.metadata().file_metadata().num_rows())?;
        Ok(Columns { reader })
    }

    fn metadata(&self) -> &ParquetMetaData {
        self.reader.metadata()
    }

    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        usize::try_from(self.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    /// The row groups, in order.
    pub fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        let mut start = 0;
        (0..self.reader.num_row_groups()).map(move |i| {
            let metadata = self.metadata().row_group(i);
            let rows = usize::try_from(metadata.num_rows()).unwrap_or(0);
            let group = Group { reader: &self.reader, number: i, metadata, start, rows };
            start += rows;
            group
        })
    }
}

/// Errs unless the groups have as many rows together as the file says, and none more than is read at once.
fn check_rows(groups: impl Iterator<Item = i64>, rows: i64) -> Result<()> {
    let place = || at("manifest").field("row count");
    let mut sum = 0_i64;
    for group in groups {
        if !(0..=MAX_GROUP_ROWS).contains(&group) {
            return Err(place().limit(format!("is {group} in one row group, expected 0 to {MAX_GROUP_ROWS}")));
        }
        sum = sum.saturating_add(group);
    }
    if sum != rows {
        return Err(place().corrupt(format!("is {rows}, but the row groups have {sum} together")));
    }
    Ok(())
}

/// A reader that gives row groups, whatever its file is.
trait Groups {
    fn group(&self, i: usize) -> Result<Box<dyn RowGroupReader + '_>, ParquetError>;
}

impl<R: ChunkReader + 'static> Groups for SerializedFileReader<R> {
    fn group(&self, i: usize) -> Result<Box<dyn RowGroupReader + '_>, ParquetError> {
        self.get_row_group(i)
    }
}

/// A row group: some tens of thousands of rows.
pub struct Group<'a> {
    reader: &'a dyn Groups,
    number: usize,
    metadata: &'a RowGroupMetaData,
    /// The number of its first row in the manifest.
    pub start: usize,
    /// How many rows it has.
    pub rows: usize,
}

impl Group<'_> {
    /// The least and the greatest value of a text column, as far as the file says. Long ones are shortened, so
    /// that these are bounds and no values.
    #[must_use]
    pub fn bounds(&self, column: Column) -> Option<(&[u8], &[u8])> {
        let statistics = self.metadata.column(column as usize).statistics()?;
        Some((statistics.min_bytes_opt()?, statistics.max_bytes_opt()?))
    }

    /// Whether no row has a value in this column.
    #[must_use]
    pub fn all_null(&self, column: Column) -> bool {
        let statistics = self.metadata.column(column as usize).statistics();
        statistics.and_then(parquet::file::statistics::Statistics::null_count_opt)
            == Some(self.metadata.num_rows() as u64)
    }

    /// A column of text or bytes that every row has: volume, path, type.
    pub fn texts(&self, column: Column) -> Result<Vec<ByteArray>> {
        let (values, ..) = self.read::<ByteArrayType>(column)?;
        if values.len() == self.rows { Ok(values) } else { Err(self.short(column)) }
    }

    /// Calls `each` with the values of such a column, in the order of the rows.
    pub fn each_text(&self, column: Column, mut each: impl FnMut(&[u8])) -> Result<()> {
        if !self.is_delta(column) {
            self.texts(column)?.iter().for_each(|text| each(text.data()));
            return Ok(());
        }
        let group = guarded("manifest", || self.reader.group(self.number).map_err(broken))?;
        let mut pages =
            guarded("manifest", || group.get_column_page_reader(column as usize).map_err(broken))?;
        let (mut rows, mut bytes) = (0, 0);
        while let Some(page) = guarded("manifest", || pages.get_next_page().map_err(broken))? {
            // There are no levels before the values, as there is a value for each row.
            if page.encoding() != Encoding::DELTA_BYTE_ARRAY || !page.is_data_page() {
                let problem = format!("column {} has pages of several encodings", column as usize);
                return Err(at("manifest").unsupported(problem));
            }
            let count = page.num_values() as usize;
            rows += count;
            if rows > self.rows {
                return Err(at("manifest").corrupt("a column has more values than there are rows"));
            }
            delta::each_text(page.buffer(), count, MAX_ALL_PATHS - bytes, |text| {
                bytes += text.len();
                each(text);
            })?;
        }
        if rows == self.rows { Ok(()) } else { Err(self.short(column)) }
    }

    /// The values of such a column in some rows: ascending numbers in the group.
    pub fn texts_at(&self, column: Column, rows: &[usize]) -> Result<Vec<ByteArray>> {
        if !self.is_delta(column) {
            let picked = self.pick::<ByteArrayType>(column, rows)?;
            return picked.into_iter().map(|value| value.ok_or_else(|| self.short(column))).collect();
        }
        let (mut picked, mut wanted) = (Vec::with_capacity(rows.len()), rows.iter().peekable());
        let mut row = 0;
        self.each_text(column, |text| {
            if wanted.next_if_eq(&&row).is_some() {
                picked.push(ByteArray::from(text.to_vec()));
            }
            row += 1;
        })?;
        if picked.len() == rows.len() { Ok(picked) } else { Err(self.short(column)) }
    }

    /// A column of bytes that not every row has.
    pub fn blobs(&self, column: Column) -> Result<Vec<Option<ByteArray>>> {
        self.optional::<ByteArrayType>(column)
    }

    /// The same, of some rows.
    pub fn blobs_at(&self, column: Column, rows: &[usize]) -> Result<Vec<Option<ByteArray>>> {
        if self.all_null(column) {
            return Ok(vec![None; rows.len()]);
        }
        self.pick::<ByteArrayType>(column, rows)
    }

    /// A column of numbers.
    pub fn numbers(&self, column: Column) -> Result<Vec<Option<i64>>> {
        match self.metadata.column(column as usize).column_type() {
            parquet::basic::Type::INT32 => {
                Ok(self.optional::<Int32Type>(column)?.into_iter().map(|v| v.map(i64::from)).collect())
            }
            _ => self.optional::<Int64Type>(column),
        }
    }

    /// The same, of some rows.
    pub fn numbers_at(&self, column: Column, rows: &[usize]) -> Result<Vec<Option<i64>>> {
        match self.metadata.column(column as usize).column_type() {
            parquet::basic::Type::INT32 => {
                let picked = self.pick::<Int32Type>(column, rows)?;
                Ok(picked.into_iter().map(|v| v.map(i64::from)).collect())
            }
            _ => self.pick::<Int64Type>(column, rows),
        }
    }

    /// A column of digests.
    pub fn digests<const N: usize>(&self, column: Column) -> Result<Vec<Option<[u8; N]>>> {
        if self.all_null(column) {
            return Ok(vec![None; self.rows]);
        }
        let read = self.optional::<FixedLenByteArrayType>(column)?;
        Ok(read.into_iter().map(|v| v.and_then(|v| v.data().try_into().ok())).collect())
    }

    /// The same, of some rows.
    pub fn digests_at<const N: usize>(&self, column: Column, rows: &[usize]) -> Result<Vec<Option<[u8; N]>>> {
        if self.all_null(column) {
            return Ok(vec![None; rows.len()]);
        }
        let read = self.pick::<FixedLenByteArrayType>(column, rows)?;
        Ok(read.into_iter().map(|v| v.and_then(|v| v.data().try_into().ok())).collect())
    }

    /// The extended attributes.
    pub fn xattrs(&self) -> Result<Vec<Vec<Xattr>>> {
        let (keys, def, rep) = self.read::<ByteArrayType>(Column::XattrNames)?;
        let (values, ..) = self.read::<ByteArrayType>(Column::XattrValues)?;
        let wrong =
            || at("manifest").field("xattrs").corrupt("has a key that is no name, or no value for it");
        let mut pairs = keys.into_iter().zip(values);
        let mut all: Vec<Vec<Xattr>> = Vec::with_capacity(self.rows);
        for (def, rep) in def.into_iter().zip(rep) {
            if rep == 0 {
                all.push(Vec::new());
            }
            if def == 0 {
                continue;
            }
            let (key, value) = pairs.next().ok_or_else(wrong)?;
            let name = xattr_name(key.data()).ok_or_else(wrong)?;
            all.last_mut().ok_or_else(wrong)?.push(Xattr { name, value: value.data().to_vec() });
        }
        if all.len() == self.rows { Ok(all) } else { Err(wrong()) }
    }

    fn is_delta(&self, column: Column) -> bool {
        let mut encodings = self.metadata.column(column as usize).encodings();
        encodings.any(|encoding| encoding == Encoding::DELTA_BYTE_ARRAY)
    }

    fn short(&self, column: Column) -> crate::Error {
        let name = self.metadata.column(column as usize).column_descr().name().to_owned();
        at("manifest").corrupt(format!("column {name} ends early"))
    }

    fn open<T: DataType>(&self, column: Column) -> Result<ColumnReaderImpl<T>> {
        let group = self.reader.group(self.number).map_err(broken)?;
        if self.metadata.column(column as usize).column_type() != T::get_physical_type() {
            return Err(at("manifest").field("schema").unsupported("has a column of another type"));
        }
        let reader = group.get_column_reader(column as usize).map_err(broken)?;
        Ok(get_typed_column_reader::<T>(reader))
    }

    #[allow(clippy::type_complexity)]
    fn read<T: DataType>(&self, column: Column) -> Result<(Vec<T::T>, Vec<i16>, Vec<i16>)> {
        guarded("manifest", || self.decode::<T>(column))
    }

    #[allow(clippy::type_complexity)]
    fn decode<T: DataType>(&self, column: Column) -> Result<(Vec<T::T>, Vec<i16>, Vec<i16>)> {
        let descriptor = self.metadata.column(column as usize).column_descr();
        let mut reader = self.open::<T>(column)?;
        let (mut values, mut def, mut rep) = (Vec::new(), Vec::new(), Vec::new());
        let mut left = self.rows;
        while left > 0 {
            let def = (descriptor.max_def_level() > 0).then_some(&mut def);
            let rep = (descriptor.max_rep_level() > 0).then_some(&mut rep);
            let (records, ..) = reader.read_records(left, def, rep, &mut values).map_err(broken)?;
            if records == 0 {
                return Err(self.short(column));
            }
            left = left.saturating_sub(records);
        }
        Ok((values, def, rep))
    }

    fn optional<T: DataType>(&self, column: Column) -> Result<Vec<Option<T::T>>> {
        let (values, def, _) = self.read::<T>(column)?;
        if self.metadata.column(column as usize).column_descr().max_def_level() == 0 {
            return Ok(values.into_iter().map(Some).collect());
        }
        let mut values = values.into_iter();
        Ok(def.into_iter().map(|d| if d > 0 { values.next() } else { None }).collect())
    }

    /// The values of some rows of a column that is no list.
    fn pick<T: DataType>(&self, column: Column, rows: &[usize]) -> Result<Vec<Option<T::T>>> {
        guarded("manifest", || self.decode_some::<T>(column, rows))
    }

    fn decode_some<T: DataType>(&self, column: Column, rows: &[usize]) -> Result<Vec<Option<T::T>>> {
        let optional = self.metadata.column(column as usize).column_descr().max_def_level() > 0;
        let mut reader = self.open::<T>(column)?;
        let (mut picked, mut at) = (Vec::with_capacity(rows.len()), 0);
        let (mut values, mut def) = (Vec::new(), Vec::new());
        for (i, &row) in rows.iter().enumerate() {
            if row < at || row >= self.rows {
                debug_assert!(i == 0 || rows[i - 1] < row, "rows are asked for in ascending order");
                return Err(self.short(column));
            }
            if reader.skip_records(row - at).map_err(broken)? != row - at {
                return Err(self.short(column));
            }
            values.clear();
            def.clear();
            let levels = optional.then_some(&mut def);
            let (records, ..) = reader.read_records(1, levels, None, &mut values).map_err(broken)?;
            if records != 1 {
                return Err(self.short(column));
            }
            picked.push(values.pop());
            at = row + 1;
        }
        Ok(picked)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::super::{GROUP, Row, write};
    use super::*;
    use crate::mif::ObjectId;

    fn sample() -> (Vec<Row>, Columns<Bytes>) {
        let mut rows: Vec<Row> = (0..GROUP + 50).map(|i| row(format!("/{i:08}").as_bytes())).collect();
        for (i, row) in rows.iter_mut().enumerate() {
            row.mode = (i % 3 > 0).then_some(i as u16 & 0o7777);
            row.size = i as u64 * 7;
            row.blake3 = (i % 5 > 0).then(|| ObjectId::of(&i.to_le_bytes()));
        }
        rows[3].xattrs = vec![Xattr { name: b"user.x".to_vec(), value: b"y".to_vec() }];
        let mut file = Vec::new();
        write(&mut file, &rows).unwrap();
        (rows, Columns::open(file.into()).unwrap())
    }

    #[test]
    fn a_row_group_of_more_rows_than_the_limit_is_refused() {
        let check = |groups: &[i64], rows| check_rows(groups.iter().copied(), rows).err().map(|e| e.kind());
        assert_eq!(check(&[MAX_GROUP_ROWS, 5], MAX_GROUP_ROWS + 5), None);
        assert_eq!(check(&[MAX_GROUP_ROWS + 1], MAX_GROUP_ROWS + 1), Some(crate::ErrorKind::Limit));
        assert_eq!(check(&[-1], -1), Some(crate::ErrorKind::Limit));
        assert_eq!(check(&[3, 4], 1 << 60), Some(crate::ErrorKind::Corrupt));
    }

    #[test]
    fn columns_are_those_of_the_rows() {
        let (rows, columns) = sample();
        assert_eq!(columns.rows(), rows.len());
        for group in columns.groups() {
            let rows = &rows[group.start..group.start + group.rows];
            let modes = group.numbers(Column::Mode).unwrap();
            assert!(modes.iter().zip(rows).all(|(mode, row)| *mode == row.mode.map(i64::from)));
            let paths = group.texts(Column::Path).unwrap();
            assert!(paths.iter().zip(rows).all(|(path, row)| path.data() == row.path));
            for column in [Column::Path, Column::Type] {
                let mut each = Vec::new();
                group.each_text(column, |text| each.push(text.to_vec())).unwrap();
                let texts = group.texts(column).unwrap();
                assert!(each.len() == rows.len() && texts.iter().zip(each).all(|(a, b)| a.data() == b));
            }
            let digests = group.digests::<32>(Column::Blake3).unwrap();
            assert!(digests.iter().zip(rows).all(|(digest, row)| digest.map(ObjectId) == row.blake3));
            assert!(group.xattrs().unwrap().into_iter().eq(rows.iter().map(|row| row.xattrs.clone())));
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
            assert_eq!(sizes[i], Some(row.size as i64));
            assert_eq!(modes[i], row.mode.map(i64::from));
            assert_eq!(digests[i].map(ObjectId), row.blake3);
        }
        assert!(group.texts_at(Column::Path, &[50]).is_err());
    }

    /// Found by fuzzing: the Parquet crate panics on lengths below zero.
    #[test]
    fn no_byte_of_a_manifest_makes_reading_panic() {
        let mut marked = row(b"/b");
        marked.xattrs = vec![Xattr { name: b"user.x".to_vec(), value: b"y".to_vec() }];
        let mut file = Vec::new();
        write(&mut file, &[row(b"/"), row(b"/a"), marked]).unwrap();
        for at in 0..file.len() {
            for value in [0, 0x7f, 0x80, 0xff] {
                let mut bad = file.clone();
                bad[at] = value;
                let _ = super::super::read(Bytes::from(bad.clone()));
                let Ok(columns) = Columns::open(bad.into()) else { continue };
                for group in columns.groups() {
                    let _ = group.each_text(Column::Path, |_| {});
                    let _ = group.each_text(Column::Type, |_| {});
                }
            }
        }
    }
}
