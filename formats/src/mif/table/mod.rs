//! Parquet files by the low-level API, for all tables of a store: writing columns, and reading them with a guard
//! against what a file claims.

mod checked;
mod group;
mod guarded;
mod limits;
mod pages;

use std::io::Write;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::DataType;
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedRowGroupWriter;

pub use self::group::Group;
pub(super) use self::group::Table;
pub(super) use self::guarded::broken;
pub(super) use self::limits::GROUP_ROWS_MAX;
pub(super) use self::limits::{GROUP_BYTES_MAX, VALUE_COST};
use crate::error::{Result, at};

/// How pages are compressed.
pub(super) fn compression() -> Compression {
    Compression::ZSTD(ZstdLevel::try_new(3).expect("3 is a zstd level"))
}

/// Cuts rows into row groups. `cost` is at least the bytes that a row has in any column, and [`VALUE_COST`] for each
/// value of a list.
///
/// # Errors
/// `Limit` if one row alone has more than a row group may.
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

/// A row group that is being written, column after column.
pub(super) type GroupWriter<'a, W> = SerializedRowGroupWriter<'a, W>;

/// Writes the next column, with its definition and repetition levels if it has such.
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

/// Writes a column that every row has.
pub(super) fn required<T: DataType, W: Write + Send>(
    group: &mut GroupWriter<'_, W>,
    values: impl Iterator<Item = T::T>,
) -> Result<(), ParquetError> {
    write_column::<T, W>(group, &values.collect::<Vec<_>>(), None, None)
}

/// Writes a column that not every row has.
pub(super) fn optional<T: DataType, W: Write + Send>(
    group: &mut GroupWriter<'_, W>,
    values: impl Iterator<Item = Option<T::T>>,
) -> Result<(), ParquetError> {
    let mut def = Vec::new();
    let values: Vec<T::T> = values.inspect(|v| def.push(i16::from(v.is_some()))).flatten().collect();
    write_column::<T, W>(group, &values, Some(&def), None)
}
