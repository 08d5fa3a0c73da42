//! Checks of raw disks with the real tools: the table with sfdisk and sgdisk, the volumes with e2fsck and fsck.fat.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{run, tool};

/// The tools that [`assert_sound`] needs.
pub const TOOLS: &[&str] = &["sfdisk", "sgdisk", "e2fsck", "fsck.fat", "blkid"];

/// Makes a small ext4 disk with these files, as `NAME.raw` in `work`.
#[must_use]
pub fn small(work: &Path, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
    let folder = work.join(format!("{name}.d"));
    std::fs::create_dir_all(&folder).unwrap();
    for (file, bytes) in files {
        std::fs::write(folder.join(file), bytes).unwrap();
    }
    let image = work.join(format!("{name}.raw"));
    File::create(&image).unwrap().set_len(16 << 20).unwrap();
    run(tool("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(&folder).arg(&image));
    image
}

/// Returns incompressible bytes, different for each seed.
#[must_use]
pub fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A partition, as listed by sfdisk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The slot.
    pub slot: u32,
    /// The start, in bytes.
    pub start: u64,
    /// The length in bytes.
    pub len: u64,
}

/// Returns the partitions of a raw disk according to sfdisk, without extended ones.
#[must_use]
pub fn parts(disk: &Path) -> Vec<Part> {
    let json: Value = serde_json::from_str(&run(tool("sfdisk").arg("--json").arg(disk))).unwrap();
    let table = &json["partitiontable"];
    let sector = table["sectorsize"].as_u64().unwrap_or(512);
    let parts = table["partitions"].as_array().expect("partitions").iter();
    let parts = parts.filter(|part| !["5", "f", "85"].contains(&part["type"].as_str().unwrap_or_default()));
    let name = disk.to_str().expect("UTF-8");
    let slot = |node: &str| -> u32 {
        node.strip_prefix(name).expect("the disk's").trim_start_matches('p').parse().expect("a number")
    };
    parts
        .map(|part| Part {
            slot: slot(part["node"].as_str().unwrap()),
            start: part["start"].as_u64().unwrap() * sector,
            len: part["size"].as_u64().unwrap() * sector,
        })
        .collect()
}

/// Copies a part of a disk into a file, with zeros as holes.
pub fn cut(disk: &Path, start: u64, len: u64, to: &Path) {
    let (from, out) = (File::open(disk).unwrap(), File::create(to).unwrap());
    out.set_len(len).unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        let here = &mut buffer[..(len - at).min(1 << 20) as usize];
        from.read_exact_at(here, start + at).unwrap();
        if here.iter().any(|b| *b != 0) {
            out.write_all_at(here, at).unwrap();
        }
        at += here.len() as u64;
    }
}

/// Returns blkid's value for a file with a volume: `TYPE`, `UUID`, `LABEL`.
#[must_use]
pub fn blkid(volume: &Path, what: &str) -> String {
    let output = tool("blkid").args(["-p", "-o", "value", "-s", what]).arg(volume).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Checks a raw disk with the tools, and returns its partitions with the types that blkid reports. `work` is a
/// directory.
pub fn assert_sound(disk: &Path, work: &Path) -> Vec<(Part, String)> {
    run(tool("sfdisk").arg("--verify").arg(disk));
    let parts = parts(disk);
    let volume = work.join("volume");
    let mut found = Vec::new();
    for part in parts {
        cut(disk, part.start, part.len, &volume);
        let kind = blkid(&volume, "TYPE");
        match kind.as_str() {
            "ext2" | "ext3" | "ext4" => drop(run(tool("e2fsck").arg("-fn").arg(&volume))),
            "vfat" => drop(run(tool("fsck.fat").arg("-n").arg(&volume))),
            _ => {}
        }
        found.push((part, kind));
    }
    std::fs::remove_file(&volume).unwrap();
    found
}

/// Checks the GPT of a raw disk with sgdisk.
pub fn assert_gpt(disk: &Path) {
    let said = run(tool("sgdisk").arg("-v").arg(disk));
    assert!(said.contains("No problems found"), "{said}");
}
