//! Compares the parsers and planners with the kernel, e2fsprogs, dosfstools, mtools, ntfs-3g and hivex, and with each other.

mod btrfs;
mod ext4;
mod free;
mod hive;
mod mutants;
mod ntfs;
mod plan;
mod race;
#[allow(dead_code, unreachable_pub)]
#[path = "../../src/testing/random.rs"]
mod random;
#[allow(dead_code, unreachable_pub)]
#[path = "../../src/testing/tools.rs"]
mod skipping;
mod tools;
mod view;
mod xfs;
