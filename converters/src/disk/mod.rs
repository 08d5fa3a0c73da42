//! A disk by itself: what is on it, the units it is cut into, and how two compare.

pub(crate) mod blocks;
pub(crate) mod compare;
pub(crate) mod scan;
pub(crate) mod volume;
