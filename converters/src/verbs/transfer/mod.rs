//! Verbs that import, reread, export and compare disks.

#[cfg(feature = "remote")]
pub(crate) mod container_disk;
pub(crate) mod copy;
pub(crate) mod export;
pub(crate) mod import;
mod receipt;
pub(crate) mod reread;
pub(crate) mod verify;
