//! Readers, planners and writers of the on-disk formats that `mif` knows.
//!
//! Data flows one way, and the modules lie in its order:
//!
//! ```text
//! container  →  partition  →  fs  →  mif (manifest, layout, pack)
//! a file that    a disk with    a volume    a disk as data
//! holds a disk   volumes        with files
//! ```
//!
//! Every layer takes a [`Source`] and most give one, so that layers nest and holes stay holes.
//! Nothing here prints, keeps global state, or trusts a number that an image claims.

#![forbid(unsafe_code)]

pub mod beneath;
pub mod container;
pub mod disk_digest;
pub mod error;
pub mod fs;
pub mod guard;
pub mod mif;
pub mod partition;
pub mod source;
pub mod text;
pub mod uuid;

mod bytes;
mod checksum;
#[cfg(test)]
mod testing;

pub use error::{At, Error, ErrorKind, Result, at};
pub use source::{Extent, ExtentKind, MemSource, Slice, Source};
