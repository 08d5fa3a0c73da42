//! How fast a volume of a million files is listed. Not run by default: `cargo test --release -p mif-formats
//! --test it ext4::speed -- --ignored --nocapture`. `EXT4_SPEED_IMAGE` names a volume to take instead.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Instant;

use mif_formats::fs::ext4::Ext4;
use mif_formats::fs::{FileType, Filesystem};

use crate::tools::{FileVolume, Mount, in_own_process, mke2fs, scratch};

const FILES: u32 = 1_000_000;

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
        for i in 0..FILES {
            let folder = mount.path.join(format!("{}/{}", i % 10, i / 10 % 100));
            if i < 1000 {
                fs::create_dir_all(&folder).unwrap();
            }
            let file = File::create(folder.join(format!("file number {i}"))).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, b"small", 0).unwrap();
        }
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
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    println!(
        "{} nodes, {folders} folders, {pieces} pieces: opened in {opened:?}, walked path by path in {walked:?}; \
         nodes and contents in ascending order in {ascending:?}, {rate:.0} a second; {peak}",
        nodes.len()
    );
    assert!(rate > 50_000.0);
}
