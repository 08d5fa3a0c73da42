//! Disks: scanning, the units that they are cut into, and comparison.

pub(crate) mod blocks;
pub(crate) mod compare;
pub(crate) mod scan;
pub(crate) mod volume;
