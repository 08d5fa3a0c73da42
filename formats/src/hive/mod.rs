//! Registry hives of Windows, read from their bytes.
//!
//! A hive is a base block and *bins* of cells. A cell holds a key, a value, the data of a value, or a list of these, which refer to
//! each other by offsets from the end of the base block. Changes are written to a log first, so that a hive may lack what its logs
//! have: [`recover`] adds it. (Maxim Suhanov, *Windows registry file format specification*; libregf, *Windows NT Registry File
//! (REGF) format*.)
//!
//! Reading is bounded, however the lists of a hive refer to each other: see [`Hive::parse`].

mod base;
mod cells;
mod key;
mod log;
mod marvin;
mod value;

#[cfg(test)]
mod tests;

pub use self::key::Key;
pub use self::log::recover;
pub use self::value::Value;

use self::base::Base;
use self::cells::Cells;
use crate::error::Result;

/// The offset that stands for no cell.
const NONE: u32 = u32::MAX;

/// A hive.
pub struct Hive<'a> {
    cells: Cells<'a>,
    root: u32,
    clean: bool,
}

impl<'a> Hive<'a> {
    /// Opens the hive with these bytes, which may be cut short. Keys are read when they are requested, a bounded number of times: a
    /// million entries of lists, and one more for every four bytes of the hive. After that, reading fails with `Limit`.
    ///
    /// # Errors
    /// `Corrupt` if the base block is not one; `Unsupported` for versions before 1.3, which Windows NT 3 had.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let base = Base::parse(bytes)?;
        Ok(Hive { cells: Cells::new(&bytes[base::LEN..]), root: base.root, clean: base.is_clean() })
    }

    /// Returns true if all changes of the hive are in it, so that [`recover`] has nothing to add.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.clean
    }

    /// Returns the root key.
    pub fn root(&self) -> Result<Key<'_>> {
        Key::read(&self.cells, self.root)
    }

    /// Returns the key at a path of names separated by backslashes; `None` if there is none.
    pub fn key(&self, path: &str) -> Result<Option<Key<'_>>> {
        let mut key = self.root()?;
        for name in path.split('\\') {
            match key.subkey(name)? {
                Some(subkey) => key = subkey,
                None => return Ok(None),
            }
        }
        Ok(Some(key))
    }
}
