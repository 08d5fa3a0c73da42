//! Verbs that make new images from existing ones.

pub(crate) mod replace;
