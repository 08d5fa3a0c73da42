//! Thousands of volumes, each with a few bytes changed: none may make the reader panic, run for long, use much memory,
//! or place a file outside the volume. The seeds are fixed.
//!
//! On version 5 the checksum would reveal a changed byte, so the checksum is recomputed.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mif_formats::Source;
use mif_formats::fs::xfs::Xfs;

use super::dirty::{log_of, small_dirty};
use super::{TOOLS, mkfs, prototype, scratch};
use crate::mutants::{self, Mutant, SECTOR, assert_memory, on_cpu};
use crate::random::Random;
use crate::tools::{Mount, have, in_own_process};

/// Mutants of each volume, unless XFS_MUTANTS says otherwise.
const MUTANTS: u64 = 1500;
/// Limit of processor time per mutant, in a debug build.
const TIME_MAX: Duration = Duration::from_secs(5);
const BLOCK: usize = 4096;
const INODE: usize = 512;

/// Reads everything on a mutant.
fn read_all(volume: Arc<Mutant>) -> (usize, usize) {
    let len = volume.len();
    Xfs::open(volume).map_or((0, 1), |fs| mutants::read_all(&fs, len))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Stores a checksum at byte `at`.
fn sum(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let crc = crc32c::crc32c(bytes);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Returns the bytes around a changed one with a recomputed checksum, and their offset.
fn repaired(bytes: &[u8], log: (usize, usize), at: usize, new: u8) -> (usize, Vec<u8>) {
    if (log.0..log.0 + log.1).contains(&at) {
        return repaired_record(bytes, log, at, new);
    }
    let start = at / BLOCK * BLOCK;
    let mut block = bytes[start..start + BLOCK].to_vec();
    block[at - start] = new;
    match &block[..4] {
        b"XFSB" => sum(&mut block[..SECTOR], 224),
        b"XDB3" | b"XDD3" | b"XDF3" => sum(&mut block, 4),
        b"BMA3" => sum(&mut block, 64),
        b"XARM" | b"XSLM" => sum(&mut block, 12),
        _ if matches!(be32(&block, 8) >> 16, 0x3BEE | 0x3EBE | 0x3DF1 | 0x3DFF) => sum(&mut block, 12),
        _ => {
            block.chunks_mut(INODE).filter(|inode| inode.starts_with(b"IN")).for_each(|inode| sum(inode, 100))
        }
    }
    (start, block)
}

/// Does the same for a log record.
pub(super) fn repaired_record(bytes: &[u8], log: (usize, usize), at: usize, new: u8) -> (usize, Vec<u8>) {
    let mut start = at / SECTOR * SECTOR;
    while start > log.0 && be32(bytes, start) != 0xFEED_BABE {
        start -= SECTOR;
    }
    let (len, size) = (be32(bytes, start + 12) as usize, be32(bytes, start + 320) as usize);
    let headers = size.div_ceil(32 << 10).max(1);
    let end = start + headers * SECTOR + len.next_multiple_of(SECTOR);
    if be32(bytes, start) != 0xFEED_BABE || end > log.0 + log.1 || at >= end {
        return (at, vec![new]);
    }
    let mut record = bytes[start..end].to_vec();
    record[at - start] = new;
    let mut summed = record[..328].to_vec();
    summed[32..36].fill(0);
    (1..headers).for_each(|header| summed.extend_from_slice(&record[header * SECTOR..][..260]));
    summed.extend_from_slice(&record[headers * SECTOR..][..len]);
    record[32..36].copy_from_slice(&crc32c::crc32c(&summed).to_le_bytes());
    (start, record)
}

/// Reads mutants of a volume and checks the limits.
fn mutate(what: &str, bytes: Vec<u8>, seed: u64) {
    let count = std::env::var("XFS_MUTANTS").map_or(MUTANTS, |n| n.parse().unwrap());
    let bytes = Arc::new(bytes);
    let whole = Arc::new(Mutant { bytes: Arc::clone(&bytes), changes: Vec::new(), read: Mutex::default() });
    let (nodes, errors) = read_all(Arc::clone(&whole));
    assert!(nodes > 20 && errors == 0, "{what}: {nodes} nodes, {errors} errors before anything was changed");
    let log = log_of(&bytes);
    // Changes hit bytes that are read, mostly nonzero ones.
    let mut read: Vec<usize> = whole.read.lock().unwrap().iter().copied().collect();
    read.sort_unstable();
    let targets: Vec<usize> = read.iter().flat_map(|sector| sector * SECTOR..(sector + 1) * SECTOR).collect();
    let set: Vec<usize> = targets.iter().copied().filter(|at| bytes[*at] != 0).collect();
    let mut random = Random(seed);
    let (mut refused, mut damaged) = (0, 0);
    for _ in 0..count {
        let mut changes: Vec<(usize, Vec<u8>)> = Vec::new();
        for _ in 0..=random.below(3) {
            let from = if random.once_in(4) { &targets } else { &set };
            let at = *random.pick(from);
            let old = bytes[at];
            let new = match random.below(5) {
                0 => 0,
                1 => 0xFF,
                2 => old ^ 1 << random.below(8),
                3 => old.wrapping_add(1),
                _ => random.number() as u8,
            };
            changes.push(repaired(&bytes, log, at, new));
        }
        let start = on_cpu();
        let places: Vec<usize> = changes.iter().map(|(at, _)| *at).collect();
        let mutant = Arc::new(Mutant { bytes: Arc::clone(&bytes), changes, read: Mutex::default() });
        let (nodes, errors) = read_all(mutant);
        let time = on_cpu() - start;
        assert!(time < TIME_MAX, "{what}: changes at {places:?} take {time:?}");
        refused += usize::from(nodes == 0);
        damaged += usize::from(nodes > 0 && errors > 0);
    }
    println!("{what}: {count} mutants, {refused} refused, {damaged} read in part");
    assert_memory();
}

#[test]
fn mutants_of_xfs_volumes_do_no_harm() {
    if !have(&TOOLS) || !in_own_process() {
        return;
    }
    let scratch = scratch();
    let path = |name: &str| scratch.path().join(name);
    let (image, mnt) = (path("image"), path("mnt"));
    mkfs(&image, 32, "");
    let Some(mount) = Mount::new(&image, &mnt, "noatime") else { return };
    prototype::fill(&mount.path, true);
    drop(mount);
    mutate("version 5", fs::read(&image).unwrap(), 1);
    let tree = path("tree");
    prototype::fill(&tree, false);
    prototype::make(&image, &path("proto"), &tree, "-m crc=0,finobt=0 -n ftype=0");
    mutate("version 4", fs::read(&image).unwrap(), 2);
}

#[test]
fn mutants_of_xfs_logs_do_no_harm() {
    if !have(&TOOLS) || !in_own_process() {
        return;
    }
    let scratch = scratch();
    let path = |name: &str| scratch.path().join(name);
    let image = path("image");
    for (seed, options) in [(3, "-m reflink=1,rmapbt=1"), (4, "-m reflink=0 -l su=65536")] {
        if !small_dirty(&image, &path("mnt"), options) {
            return;
        }
        mutate(options, fs::read(&image).unwrap(), seed);
    }
}
