//! Writes and reads Parquet files with the crate's low-level API, for all tables of a store. Reading guards against
//! what a file claims.

mod checked;
mod group;
mod guarded;
mod identity;
mod limits;
mod pages;
mod values;

use std::io::Write;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::DataType;
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedRowGroupWriter;

pub use self::group::Group;
pub(super) use self::group::Table;
pub(super) use self::guarded::broken;
pub use self::identity::ColumnId;
pub(super) use self::limits::GROUP_ROWS_MAX;
pub(super) use self::limits::{GROUP_BYTES_MAX, VALUE_COST};
pub(super) use self::values::{Values, write_values};
use crate::error::{Result, at};

/// Returns the compression of pages.
pub(super) fn compression() -> Compression {
    Compression::ZSTD(ZstdLevel::try_new(3).expect("3 is a zstd level"))
}

/// Splits rows into row groups. `cost` returns at least the bytes of a row in any column, with [`VALUE_COST`] added for
/// each value of a list.
///
/// # Errors
/// `Limit` if a single row exceeds the limit of a row group.
pub(super) fn row_groups<'r, T>(
    what: &'static str,
    mut rows: &'r [T],
    cost: impl Fn(&T) -> usize,
) -> impl Iterator<Item = Result<&'r [T]>> {
    std::iter::from_fn(move || {
        let first = cost(rows.first()?);
        if first > GROUP_BYTES_MAX {
            let problem = format!("takes {first} bytes, expected at most {GROUP_BYTES_MAX}");
            return Some(Err(at(what).field("row").limit(problem)));
        }
        let mut left = GROUP_BYTES_MAX;
        let fits = |row: &&T| {
            let rest = left.checked_sub(cost(row));
            left = rest.unwrap_or(0);
            rest.is_some()
        };
        let count = rows.iter().take(GROUP_ROWS_MAX).take_while(fits).count();
        let (group, rest) = rows.split_at(count);
        rows = rest;
        Some(Ok(group))
    })
}

/// A row group that is being written, one column after the other.
pub(super) type GroupWriter<'a, W> = SerializedRowGroupWriter<'a, W>;

/// Writes the next column, with its definition and repetition levels if it has any.
pub(super) fn write_column<T: DataType, W: Write + Send>(
    group: &mut GroupWriter<'_, W>,
    values: &[T::T],
    def: Option<&[i16]>,
    rep: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let mut column = group.next_column()?.expect("the schema has a column for each one written");
    column.typed::<T>().write_batch(values, def, rep)?;
    column.close()
}

/// Writes a required column.
pub(super) fn required<T: DataType, W: Write + Send>(
    group: &mut GroupWriter<'_, W>,
    values: impl Iterator<Item = T::T>,
) -> Result<(), ParquetError> {
    write_column::<T, W>(group, &values.collect::<Vec<_>>(), None, None)
}

/// Writes an optional column.
pub(super) fn optional<T: DataType, W: Write + Send>(
    group: &mut GroupWriter<'_, W>,
    values: impl Iterator<Item = Option<T::T>>,
) -> Result<(), ParquetError> {
    let mut def = Vec::new();
    let values: Vec<T::T> = values.inspect(|v| def.push(i16::from(v.is_some()))).flatten().collect();
    write_column::<T, W>(group, &values, Some(&def), None)
}
