//! Verbs that make new images of old ones.

pub(crate) mod replace;
