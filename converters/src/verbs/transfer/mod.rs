//! Verbs that bring disks into a store and out of it, and compare them.

pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod verify;
