//! Parquet files by the low-level API, for all tables of a store: writing columns, and guarding what reads them.

mod checked;

use std::io::Write;

use parquet::data_type::DataType;
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedRowGroupWriter;

pub(super) use self::checked::{Checked, open};
use crate::{Error, at};

/// A row group that is being written, column after column.
pub(super) type Group<'a, W> = SerializedRowGroupWriter<'a, W>;

/// What went wrong with the table `what`.
pub(super) fn broken(what: &'static str, error: ParquetError) -> Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<std::io::Error>() {
            Ok(io) if io.kind() == std::io::ErrorKind::InvalidData => at(what).corrupt(io.to_string()),
            Ok(io) => at(what).io(*io),
            Err(other) => at(what).corrupt(other.to_string()),
        },
        other => at(what).corrupt(other.to_string()),
    }
}

/// Reads with the Parquet crate what may be any bytes: of some that are damaged it panics, and that is an error like
/// another.
pub(super) fn guarded<T>(what: &'static str, read: impl FnOnce() -> crate::Result<T>) -> crate::Result<T> {
    // What was read so far is dropped, so nothing half done is seen.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(at(what).corrupt("a page is damaged and cannot be decoded")))
}

/// Writes the next column, with its definition and repetition levels if it has such.
pub(super) fn write_column<T: DataType, W: Write + Send>(
    group: &mut Group<'_, W>,
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
    group: &mut Group<'_, W>,
    values: impl Iterator<Item = T::T>,
) -> Result<(), ParquetError> {
    write_column::<T, W>(group, &values.collect::<Vec<_>>(), None, None)
}

/// Writes a column that not every row has.
pub(super) fn optional<T: DataType, W: Write + Send>(
    group: &mut Group<'_, W>,
    values: impl Iterator<Item = Option<T::T>>,
) -> Result<(), ParquetError> {
    let mut def = Vec::new();
    let values: Vec<T::T> = values.inspect(|v| def.push(i16::from(v.is_some()))).flatten().collect();
    write_column::<T, W>(group, &values, Some(&def), None)
}
