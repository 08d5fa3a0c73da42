//! Measures listing a volume with many files. Not run by default: `cargo test --release -p mif-formats --test it
//! xfs::speed -- --ignored --nocapture`. `XFS_SPEED_IMAGE` names a volume to use instead.

use std::path::PathBuf;
use std::time::Instant;

use mif_formats::fs::walk::walk;
use mif_formats::fs::xfs::Xfs;
use mif_formats::fs::{FileType, Filesystem};

use super::{mkfs, scratch};
use crate::mutants::peak_memory;
use crate::tools::{FileVolume, Mount, in_own_process, make_a_million_files};

#[test]
#[ignore = "takes minutes and 2 GB"]
fn a_million_files_are_listed_at_50_000_a_second() {
    if !in_own_process() {
        return;
    }
    let scratch = scratch();
    let image =
        std::env::var_os("XFS_SPEED_IMAGE").map_or_else(|| scratch.path().join("image"), PathBuf::from);
    if !image.exists() {
        mkfs(&image, 8000, "");
        let Some(mount) = Mount::new(&image, &scratch.path().join("mnt"), "noatime") else { return };
        make_a_million_files(&mount.path);
    }
    let start = Instant::now();
    let fs = Xfs::open(FileVolume::open(&image)).unwrap();
    let opened = start.elapsed();
    let listing = walk(&fs).unwrap();
    assert!(listing.complaints.is_empty());
    let walked = start.elapsed() - opened;
    let mut pieces = 0;
    for (_, id, node) in listing.nodes.iter() {
        if node.file_type == FileType::File {
            pieces += fs.content(id).unwrap().pieces.len();
        }
    }
    let all = start.elapsed();
    let rate = listing.nodes.len() as f64 / walked.as_secs_f64();
    let peak = peak_memory() >> 20;
    println!(
        "{} nodes, {pieces} pieces: opened in {opened:?}, listed in {walked:?}, {rate:.0} a second; all in {all:?}; {peak} MiB",
        listing.nodes.len()
    );
    assert!(rate > 50_000.0);
}
