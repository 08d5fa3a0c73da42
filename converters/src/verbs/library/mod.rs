//! Verbs that maintain a library: its history, tags, removal, statistics.

pub(crate) mod catalog;
pub(crate) mod log;
pub(crate) mod page;
pub(crate) mod rm;
pub(crate) mod stats;
pub(crate) mod status;
