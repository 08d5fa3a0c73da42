//! Verbs that import, export and compare disks.

pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod verify;
