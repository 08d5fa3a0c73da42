//! Disks: scanning, division into units, and comparison.

pub(crate) mod blocks;
pub(crate) mod compare;
pub(crate) mod decrypted;
pub(crate) mod scan;
pub(crate) mod volume;
