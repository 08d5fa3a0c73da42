//! Verbs that answer questions about images and change nothing.

pub(crate) mod bom;
pub(crate) mod cat;
mod covered;
pub(crate) mod diff;
pub(crate) mod groups;
pub(crate) mod info;
pub(crate) mod ls;
pub(crate) mod map;
pub(crate) mod packages;
pub(crate) mod search;
