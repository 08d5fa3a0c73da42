//! Tests of the Btrfs reader against the kernel's driver and btrfs-progs.

mod copies;
mod dirty;
mod dump;
mod kernel;
mod life;
mod mutants;
mod reports;
mod volume;
