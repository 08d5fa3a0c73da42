//! Calls into the Parquet crate, which may panic on malformed files.

use parquet::errors::ParquetError;

use crate::error::{Error, Result, at};
use crate::guard;

/// Converts an error of the Parquet crate about the table `what`.
pub(in crate::mif) fn broken(what: &'static str, error: ParquetError) -> Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<std::io::Error>() {
            Ok(io) if io.kind() == std::io::ErrorKind::InvalidData => at(what).corrupt(io.to_string()),
            Ok(io) => at(what).io(*io),
            Err(other) => at(what).corrupt(other.to_string()),
        },
        other => at(what).corrupt(other.to_string()),
    }
}

/// Runs `read` on untrusted bytes: a panic of the Parquet crate becomes an error.
pub(in crate::mif) fn guarded<T>(what: &'static str, read: impl FnOnce() -> Result<T>) -> Result<T> {
    guard::catch(read).unwrap_or_else(|| Err(at(what).corrupt("a page is damaged and cannot be decoded")))
}
