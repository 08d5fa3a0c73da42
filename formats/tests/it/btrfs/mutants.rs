//! Thousands of volumes, each with a few bytes changed and its checksums recomputed: none may make the reader panic,
//! run for long, use much memory, or place a file outside the volume. The seeds are fixed.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mif_formats::fs::btrfs::Btrfs;
use mif_formats::source::check_range;
use mif_formats::{Extent, Result, Source};

use super::life::Life;
use super::volume::{TOOLS, mkfs, mount};
use crate::mutants::{self, assert_memory};
use crate::random::Random;
use crate::tools::{FileVolume, have, in_own_process, scratch};

/// The number of mutants, unless BTRFS_MUTANTS says otherwise.
const MUTANTS: u64 = 3000;
/// Time limit per mutant, in a debug build on a busy machine.
const TIME_MAX: Duration = Duration::from_secs(10);
const NODE: usize = 4096;

/// A volume with some bytes changed, which records the metadata blocks that are read.
struct Mutant {
    below: Arc<dyn Source>,
    changes: BTreeMap<u64, Vec<u8>>,
    read: Mutex<HashSet<u64>>,
}

impl Source for Mutant {
    fn len(&self) -> u64 {
        self.below.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range("mutant", self.len(), offset, buf.len() as u64)?;
        if buf.len() == NODE {
            self.read.lock().unwrap().insert(offset);
            if let Some(block) = self.changes.get(&offset) {
                buf.copy_from_slice(block);
                return Ok(());
            }
        }
        self.below.read_at(offset, buf)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        Ok(Extent::data(offset, self.len() - offset))
    }
}

/// Reads everything on a mutant.
fn read_all(volume: Arc<Mutant>) -> (usize, usize) {
    let len = volume.len();
    Btrfs::open(volume).map_or((0, 1), |fs| mutants::read_all(&fs, len))
}

/// Changes a block and recomputes its checksum.
fn change(random: &mut Random, block: &mut [u8]) {
    const EDGES: [u64; 8] = [0, 1, 2, 0xFF, 0xFFFF, 0xFFFF_FFFF, u64::MAX >> 1, u64::MAX];
    for _ in 0..=random.below(3) {
        // Changes hit the header and the keys more often than the data.
        let end = if random.once_in(2) { 400 } else { block.len() };
        let at = 32 + random.index(end - 32);
        match random.below(4) {
            0 => block[at] ^= 1 << random.below(8),
            1 => block[at] = random.below(256) as u8,
            2 => block[at] = block[at].wrapping_add(1),
            _ => {
                let number = random.pick(&EDGES).wrapping_add(random.below(3)).to_le_bytes();
                let len = (1_usize << random.below(4)).min(block.len() - at);
                block[at..at + len].copy_from_slice(&number[..len]);
            }
        }
    }
    let sum = crc32c::crc32c(&block[32..]);
    block[..4].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn mutants_do_no_harm() {
    if !have(&TOOLS) || !in_own_process() {
        return;
    }
    let scratch = scratch();
    let (image, mnt, copy) =
        (scratch.path().join("image"), scratch.path().join("mnt"), scratch.path().join("copy"));
    mkfs(&image, 150, "-m single -n 4096");
    let Some(mount) = mount(&image, &mnt, "noatime,commit=300,compress=zstd") else { return };
    let mut life = Life::new(&mount.path, 5);
    life.live(400);
    life.commit();
    life.makes_subvolumes = false;
    life.live(10);
    life.sync();
    life.sync();
    crate::tools::run("cp", &["--sparse=always", image.to_str().unwrap(), copy.to_str().unwrap()]);
    drop(mount);

    let below = FileVolume::open(&copy);
    let mutant = |changes| Arc::new(Mutant { below: below.clone(), changes, read: Mutex::default() });
    let whole = mutant(BTreeMap::new());
    let (nodes, errors) = read_all(whole.clone());
    assert!(nodes > 50 && errors == 0, "{nodes} nodes, {errors} errors before anything was changed");
    let mut blocks: Vec<u64> = whole.read.lock().unwrap().iter().copied().collect();
    blocks.sort_unstable();
    let count = std::env::var("BTRFS_MUTANTS").map_or(MUTANTS, |count| count.parse().unwrap());
    let (mut refused, mut damaged) = (0, 0);
    for seed in 0..count {
        let mut random = Random(seed);
        let mut changes = BTreeMap::new();
        for _ in 0..=random.below(2) {
            let at = *random.pick(&blocks);
            let mut block = below.read_vec(at, NODE).unwrap();
            change(&mut random, &mut block);
            changes.insert(at, block);
        }
        let start = Instant::now();
        let (nodes, errors) = read_all(mutant(changes));
        assert!(start.elapsed() < TIME_MAX, "seed {seed} takes {:?}", start.elapsed());
        refused += usize::from(nodes == 0);
        damaged += usize::from(nodes > 0 && errors > 0);
    }
    println!("{count} mutants, {refused} refused, {damaged} read in part");
    assert_memory();
}

#[test]
#[ignore = "needs BTRFS_IMAGES, a directory of volumes, such as those of btrfs-progs' tests"]
fn given_volumes_do_no_harm() {
    let folder = std::env::var_os("BTRFS_IMAGES").expect("BTRFS_IMAGES");
    let mut images: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    images.sort();
    let (mut refused, mut damaged, mut slowest) = (0, 0, Duration::ZERO);
    for image in &images {
        let start = Instant::now();
        let below = FileVolume::open(image);
        let volume = Mutant { below, changes: BTreeMap::new(), read: Mutex::default() };
        let (nodes, errors) = read_all(Arc::new(volume));
        let time = start.elapsed();
        println!("{}: {nodes} nodes, {errors} errors, {time:?}", image.display());
        assert!(time < TIME_MAX, "{}", image.display());
        slowest = slowest.max(time);
        refused += usize::from(nodes == 0);
        damaged += usize::from(nodes > 0 && errors > 0);
    }
    println!("{} volumes, {refused} refused, {damaged} read in part, {slowest:?} at most", images.len());
}
