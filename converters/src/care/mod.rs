//! Maintenance of a store: checking, repairing and collecting garbage.

pub(crate) mod fsck;
pub(crate) mod gc;
pub(crate) mod packs;
pub(crate) mod records;
pub(crate) mod repair;
pub(crate) mod report;
mod shared;
