//! Volumes with two copies of metadata, and superblock mirrors: damage to one copy must not show.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use mif_formats::fs::btrfs::Btrfs;
use mif_formats::fs::walk::walk;
use mif_formats::fs::{Filesystem, driver};

use super::life::Life;
use super::volume::{TOOLS, mkfs, mount, open};
use crate::tools::{FileVolume, have, run, scratch};

const MIRROR: u64 = 64 << 20;

fn names(image: &Path) -> (Vec<Vec<u8>>, Vec<String>) {
    let (fs, _) = open(image);
    let listing = walk(&fs).unwrap();
    let told = listing.complaints.iter().map(|complaint| complaint.error.to_string());
    let warnings = fs.info().warnings.iter().cloned().chain(told).collect();
    (listing.entries.into_iter().map(|entry| entry.path).collect(), warnings)
}

/// Returns the offset of the first copy of each metadata block in use, according to btrfs-progs.
fn blocks(image: &Path) -> Vec<u64> {
    let dump = |tree: &str| {
        let output = run(
            "btrfs",
            &[
                "inspect-internal".as_ref(),
                "dump-tree".as_ref(),
                "-t".as_ref(),
                tree.as_ref(),
                image.as_os_str(),
            ],
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let mut logical: Vec<u64> = Vec::new();
    for line in dump("5").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["leaf" | "node", number, ..] = words[..] {
            logical.extend(number.parse::<u64>());
        }
    }
    logical.sort_unstable();
    logical.dedup();
    // The metadata chunks: address, length, and offset of the first copy.
    let mut chunks: Vec<(u64, u64, u64)> = Vec::new();
    let (mut start, mut is_metadata, mut len) = (0, false, 0);
    for line in dump("chunk").lines() {
        let line = line.trim();
        if let Some((_, rest)) = line.split_once("CHUNK_ITEM ") {
            start = rest.split(')').next().unwrap().parse().unwrap();
        } else if line.starts_with("length ") {
            is_metadata = line.contains("METADATA");
            len = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        } else if is_metadata && line.starts_with("stripe 0 ") {
            chunks.push((start, len, line.split_whitespace().last().unwrap().parse().unwrap()));
        }
    }
    let place = |at: u64| {
        chunks
            .iter()
            .find(|(start, len, _)| (*start..start + len).contains(&at))
            .map(|(start, _, to)| to + at - start)
    };
    logical.into_iter().filter_map(place).collect()
}

#[test]
fn the_other_copy_of_a_block_serves_with_a_warning() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let (image, mnt) = (scratch.path().join("image"), scratch.path().join("mnt"));
    mkfs(&image, 200, "-m dup -n 4096");
    let Some(mount) = mount(&image, &mnt, "noatime") else { return };
    Life::new(&mount.path, 7).live(300);
    drop(mount);
    let (whole, warnings) = names(&image);
    assert_eq!(warnings, Vec::<String>::new());
    let file = File::options().write(true).open(&image).unwrap();
    let blocks = blocks(&image);
    assert!(blocks.len() > 5, "{blocks:?}");
    for block in &blocks {
        file.write_all_at(b"damage", block + 1000).unwrap();
    }
    let (ours, warnings) = names(&image);
    assert!(ours == whole);
    assert!(
        warnings.len() > blocks.len() / 2
            && warnings.iter().all(|warning| warning.contains("so the other at byte")),
        "{warnings:?}"
    );
}

#[test]
fn a_mirror_stands_in_for_a_damaged_superblock() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    mkfs(&image, 200, "-L label");
    let (whole, _) = names(&image);
    let file = File::options().read(true).write(true).open(&image).unwrap();
    let mut mirror = vec![0; 4096];
    file.read_exact_at(&mut mirror, MIRROR).unwrap();
    file.write_all_at(b"other label", (64 << 10) + 299).unwrap();
    let (fs, volume) = open(&image);
    assert_eq!(fs.info().label.as_deref(), Some("label"));
    assert!(
        fs.info().warnings[0]
            .starts_with("the superblock is damaged, so its mirror at byte 67108864 was used: ")
    );
    let mut head = vec![0; mif_formats::fs::recognize::HEAD];
    volume.read_at(0, &mut head).unwrap();
    assert!(driver("btrfs").unwrap().probe(&head));
    assert_eq!(names(&image).0, whole);
    // A mirror that is damaged too is not used.
    mirror[299] ^= 1;
    file.write_all_at(&mirror, MIRROR).unwrap();
    assert!(Btrfs::open(FileVolume::open(&image)).is_err());
}

#[test]
fn what_is_not_read_is_named() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let other = scratch.path().join("other");
    mkfs(&image, 200, "");
    std::fs::File::create(&other).unwrap().set_len(200 << 20).unwrap();
    run("mkfs.btrfs", &["-q".as_ref(), "-f".as_ref(), image.as_os_str(), other.as_os_str()]);
    let error = Btrfs::open(FileVolume::open(&other)).err().unwrap();
    assert_eq!(error.kind(), mif_formats::ErrorKind::Unsupported);
    assert!(error.to_string().contains("lies on 2 devices, of which this is number 2"), "{error}");
}
