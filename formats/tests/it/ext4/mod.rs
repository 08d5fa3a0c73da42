//! Compares the ext reader with the kernel's driver and e2fsprogs.

mod dirty;
mod features;
mod images;
pub(crate) mod kernel;
mod mutants;
mod speed;
