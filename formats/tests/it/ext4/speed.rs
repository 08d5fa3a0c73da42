//! Measures how fast a volume of a million files is listed. Not run by default: `cargo test --release -p mif-formats
//! --test it ext4::speed -- --ignored --nocapture`. `EXT4_SPEED_IMAGE` names another volume to use.

use std::path::PathBuf;
use std::time::Instant;

use mif_formats::fs::ext4::Ext4;
use mif_formats::fs::{FileType, Filesystem};

use crate::mutants::peak_memory;
use crate::tools::{FileVolume, Mount, in_own_process, make_a_million_files, mke2fs, scratch};

#[test]
#[ignore = "takes minutes and 2 GB"]
fn a_million_files_are_listed_at_50_000_a_second() {
    if !in_own_process() {
        return;
    }
    let scratch = scratch();
    let image =
        std::env::var_os("EXT4_SPEED_IMAGE").map_or_else(|| scratch.path().join("image"), PathBuf::from);
    if !image.exists() {
        mke2fs(&image, 6000, "-t ext4 -N 1200000");
        let Some(mount) = Mount::new(&image, &scratch.path().join("mnt"), "noatime") else { return };
        make_a_million_files(&mount.path);
    }
    let start = Instant::now();
    let fs = Ext4::open(FileVolume::open(&image)).unwrap();
    let opened = start.elapsed();
    let (mut todo, mut nodes, mut folders) = (vec![fs.root()], Vec::new(), 0);
    while let Some(folder) = todo.pop() {
        folders += 1;
        for entry in fs.read_dir(folder, &mut |error| panic!("{error}")).unwrap() {
            nodes.push(entry.node);
            if fs.node(entry.node, &mut |error| panic!("{error}")).unwrap().file_type == FileType::Dir {
                todo.push(entry.node);
            }
        }
    }
    let walked = start.elapsed();
    nodes.sort_unstable();
    nodes.dedup();
    let ascending = Instant::now();
    let mut pieces = 0;
    for node in &nodes {
        fs.node(*node, &mut |error| panic!("{error}")).unwrap();
        pieces += fs.content(*node).unwrap().pieces.len();
    }
    let ascending = ascending.elapsed();
    let rate = nodes.len() as f64 / ascending.as_secs_f64();
    let peak = peak_memory() >> 20;
    println!(
        "{} nodes, {folders} folders, {pieces} pieces: opened in {opened:?}, walked path by path in {walked:?}; \
         nodes and contents in ascending order in {ascending:?}, {rate:.0} a second; {peak} MiB",
        nodes.len()
    );
    assert!(rate > 50_000.0);
}
