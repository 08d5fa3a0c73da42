//! Compares the planners with e2fsck, debugfs, fsck.fat, mtools and the kernel, and with our own readers.

#![allow(clippy::single_range_in_vec_init)]

mod again;
mod ext;
mod ext_limits;
mod fat;
mod real;
mod trees;
mod volume;
