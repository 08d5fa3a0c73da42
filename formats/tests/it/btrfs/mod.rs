//! The Btrfs reader, held against the kernel's driver and btrfs-progs.

mod dirty;
mod kernel;
mod life;

mod volume;
