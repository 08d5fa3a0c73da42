//! Readers, planners and writers of the on-disk formats that `mif` supports.
//!
//! Data flows one way, and the modules are in the same order:
//!
//! ```text
//! wrapper  →  container  →  partition  →  fs  →  mif (manifest, layout, pack)
//! a file with   a file that    a disk with    a volume    a disk as data
//! files in it   holds a disk   volumes        with files
//! ```
//!
//! Every layer takes a [`Source`] and most return one, so that layers nest and holes stay holes. Nothing here prints,
//! or trusts a number that an image claims. The only global state is the list of filesystems that a program adds
//! ([`fs::add_driver`]).
//!
//! Writing a disk to a container and opening it again preserves its holes:
//!
//! ```
//! use mif_formats::container::{self, CreateOptions, OpenOptions, Output};
//! use mif_formats::{MemSource, Source};
//!
//! # fn main() -> mif_formats::Result<()> {
//! # let work = tempfile::tempdir().unwrap();
//! let path = work.path().join("disk.qcow2");
//! let mut bytes = vec![0; 4 << 20];
//! bytes[1 << 20..][..5].copy_from_slice(b"hello");
//! let mut output = Output::new(&path, false)?;
//! let qcow2 = container::format_for_output(None, &path)?;
//! qcow2.create(&MemSource(bytes), &mut output, &CreateOptions::default(), &())?;
//! output.commit()?;
//!
//! let disk = container::open(&path, &OpenOptions::default())?;
//! assert_eq!((disk.format, disk.source.len()), ("qcow2", 4 << 20));
//! assert_eq!(disk.source.read_vec(1 << 20, 5)?, b"hello");
//! assert!(disk.source.extent_at(0)?.is_zero());
//! # Ok(())
//! # }
//! ```
//!
//! `examples/list_volume.rs` continues with partitions and files.

#![forbid(unsafe_code)]

pub mod beneath;
pub mod codec;
pub mod container;
pub mod disk_digest;
pub mod error;
pub mod fs;
pub mod guard;
pub mod hive;
pub mod luks;
pub mod mif;
pub mod partition;
pub mod source;
pub mod text;
pub mod uuid;
pub mod wrapper;

mod bytes;
mod cache;
mod checksum;
#[cfg(test)]
mod testing;
mod xml;

pub use error::{At, Error, ErrorKind, Result, at};
pub use source::{Extent, ExtentKind, MemSource, Slice, Source};
