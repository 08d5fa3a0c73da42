//! Tens of thousands of volumes, each with a few bytes changed: none may make the reader panic, run for long,
//! use much memory, or locate a file outside the volume. The seeds are fixed.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mif_formats::fs::ext4::Ext4;
use mif_formats::source::check_range;
use mif_formats::{Extent, Result, Source};
use rustix::fs::{XattrFlags, lsetxattr};

use crate::mutants::{self, assert_memory, on_cpu};
use crate::tools::{have, have_at, in_own_process, run, scratch};

/// The number of mutants of each volume, unless EXT4_MUTANTS sets another.
const MUTANTS: u64 = 4000;
/// The number for each of e2fsprogs' volumes, of which there are over 200.
const MUTANTS_EACH: u64 = 60;
/// The most processor time for one mutant, in a debug build.
const TIME_MAX: Duration = Duration::from_secs(5);
/// xorshift64*: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// A volume with some bytes changed, which records the blocks of 1 KiB that are read.
struct Mutant {
    bytes: Arc<Vec<u8>>,
    changes: Vec<(u64, u8)>,
    read: Mutex<HashSet<u64>>,
}

impl Source for Mutant {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range("mutant", self.len(), offset, buf.len() as u64)?;
        buf.copy_from_slice(&self.bytes[offset as usize..][..buf.len()]);
        let end = offset + buf.len() as u64;
        for (at, byte) in &self.changes {
            if (offset..end).contains(at) {
                buf[(at - offset) as usize] = *byte;
            }
        }
        if buf.len() <= 4096 {
            self.read.lock().unwrap().extend(offset / 1024..end.div_ceil(1024));
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        Ok(Extent::data(offset, self.len() - offset))
    }
}

/// Reads everything on a mutant.
fn read_all(volume: Arc<Mutant>) -> (usize, usize) {
    let len = volume.len();
    Ext4::open(volume).map_or((0, 1), |fs| mutants::read_all(&fs, len))
}

/// Makes a directory with one of everything that an ordinary user can make.
fn fill(root: &Path) {
    fs::create_dir_all(root.join("folder/below")).unwrap();
    for (name, size) in [("empty", 0), ("tiny", 40), ("small", 150), ("block", 1024), ("large", 40_000)] {
        fs::write(root.join("folder").join(name), vec![7; size]).unwrap();
    }
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    for i in 0..30_u64 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[1; 100], i * 9000).unwrap();
    }
    for i in 0..60 {
        fs::write(root.join("folder/below").join(format!("{i} {}", "name ".repeat(8))), b"").unwrap();
    }
    symlink("short", root.join("link")).unwrap();
    symlink("l".repeat(100), root.join("long link")).unwrap();
    fs::hard_link(root.join("sparse"), root.join("hard link")).unwrap();
    for (name, value) in [("user.a", &b"value"[..]), ("user.b", &[b'x'; 120]), ("user.c", &[b'y'; 300])] {
        lsetxattr(root.join("folder/small"), name, value, XattrFlags::empty()).unwrap();
    }
}

fn mutate(options: &str, journal: &str, seed: u64) {
    let scratch = scratch();
    let (tree, image) = (scratch.path().join("tree"), scratch.path().join("image"));
    fill(&tree);
    fs::File::create(&image).unwrap().set_len(3 << 20).unwrap();
    let uuid = "11223344-5566-7788-99aa-bbccddeeff00";
    let mut args =
        vec!["-q", "-F", "-N", "128", "-U", uuid, "-E", "hash_seed=11223344-5566-7788-99aa-bbccddeeff00"];
    args.extend(["-d", tree.to_str().unwrap()]);
    args.extend(options.split_whitespace());
    args.push(image.to_str().unwrap());
    run("mke2fs", &args);
    if !journal.is_empty() {
        let commands = scratch.path().join("commands");
        fs::write(&commands, journal).unwrap();
        run("debugfs", &["-w", "-f", commands.to_str().unwrap(), image.to_str().unwrap()]);
    }
    let bytes = Arc::new(fs::read(&image).unwrap());
    let whole = Arc::new(Mutant { bytes: Arc::clone(&bytes), changes: Vec::new(), read: Mutex::default() });
    let (nodes, errors) = read_all(Arc::clone(&whole));
    assert!(
        nodes > 70 && errors == 0,
        "{options}: {nodes} nodes, {errors} errors before anything was changed"
    );
    mutate_bytes(options, &bytes, &whole, seed, MUTANTS);
}

/// Reads mutants of a volume that was read completely before.
fn mutate_bytes(options: &str, bytes: &Arc<Vec<u8>>, whole: &Mutant, seed: u64, count: u64) {
    let count = std::env::var("EXT4_MUTANTS").map_or(count, |n| count * n.parse::<u64>().unwrap() / MUTANTS);
    // Changes are made in blocks that are read, and half of them where there are nonzero bytes.
    let mut targets: Vec<u64> =
        whole.read.lock().unwrap().iter().flat_map(|b| b * 1024..(b + 1) * 1024).collect();
    targets.extend(1024..1400);
    targets.sort_unstable();
    let set: Vec<u64> = targets.iter().copied().filter(|at| bytes[*at as usize] != 0).collect();
    let mut random = Random(seed | 1);
    let (mut refused, mut damaged) = (0, 0);
    for _ in 0..count {
        let mut changes = Vec::new();
        for _ in 0..=random.below(3) {
            let from = if random.below(2) == 0 { &set } else { &targets };
            let at = from[random.below(from.len())];
            let old = bytes[at as usize];
            let new = match random.below(5) {
                0 => 0,
                1 => 0xFF,
                2 => old ^ 1 << random.below(8),
                3 => old.wrapping_add(1),
                _ => random.next() as u8,
            };
            changes.push((at, new));
            // Also replace whole numbers.
            if random.below(4) == 0 {
                changes.extend((0..4).map(|i| ((at & !3) + i, new)));
            }
        }
        let start = on_cpu();
        let mutant = Arc::new(Mutant { bytes: Arc::clone(bytes), changes, read: Mutex::default() });
        let (nodes, errors) = read_all(Arc::clone(&mutant));
        let time = on_cpu() - start;
        assert!(time < TIME_MAX, "{options}: {:?} takes {time:?}", mutant.changes);
        refused += usize::from(nodes == 0);
        damaged += usize::from(nodes > 0 && errors > 0);
    }
    println!("{options}: {count} mutants, {refused} refused, {damaged} read in part");
    assert_memory();
}

/// A committed transaction that is not yet written to its final location, and one that revokes a block.
const JOURNAL: &str = "jo\njw -b 2900,2901 /dev/zero\njw -r 2901\njc\nquit\n";

#[test]
fn mutants_of_ext2_volumes_do_no_harm() {
    if have(&["mke2fs"]) && in_own_process() {
        mutate("-t ext2 -b 1024 -I 128", "", 1);
        mutate("-t ext2 -b 1024 -I 256 -O ^filetype", "", 2);
    }
}

#[test]
fn mutants_of_ext4_volumes_do_no_harm() {
    if have(&["mke2fs"]) && in_own_process() {
        mutate("-t ext4 -b 1024 -O ^metadata_csum,^has_journal,^64bit", "", 3);
        mutate("-t ext4 -b 1024 -O ^metadata_csum,^has_journal,inline_data,ea_inode", "", 4);
        mutate("-t ext4 -b 4096 -O ^has_journal", "", 5);
        mutate("-t ext4 -b 1024 -g 256 -O ^metadata_csum,^has_journal,^flex_bg,^resize_inode", "", 8);
        mutate("-t ext4 -b 1024 -g 512 -O ^metadata_csum,^has_journal,meta_bg,^resize_inode", "", 9);
    }
}

#[test]
fn mutants_of_journals_do_no_harm() {
    if have(&["mke2fs", "debugfs"]) && in_own_process() {
        mutate("-t ext4 -b 1024 -J size=1 -O ^metadata_csum,^resize_inode", JOURNAL, 6);
        mutate("-t ext4 -b 1024 -J size=1 -O ^resize_inode", JOURNAL, 7);
    }
}

#[test]
fn mutants_of_e2fsprogs_volumes_do_no_harm() {
    if !in_own_process() {
        return;
    }
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/cache/e2fsprogs");
    if !have_at(&cache) {
        return;
    }
    let mut images: Vec<_> = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    images.sort();
    for (seed, image) in (100..).zip(images) {
        if fs::metadata(&image).unwrap().len() > 20 << 20 {
            continue;
        }
        let bytes = Arc::new(fs::read(&image).unwrap());
        if bytes.len() < 4096 {
            continue;
        }
        let whole =
            Arc::new(Mutant { bytes: Arc::clone(&bytes), changes: Vec::new(), read: Mutex::default() });
        read_all(Arc::clone(&whole));
        let name = image.file_stem().unwrap().to_string_lossy();
        mutate_bytes(&name, &bytes, &whole, seed, MUTANTS_EACH);
    }
}
