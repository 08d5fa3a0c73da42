//! Thousands of volumes, each with a few bytes changed: none may make the reader panic, run for long, use much memory, or
//! place a file outside the volume. The seeds are fixed. The same for what the codecs decode.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mif_formats::Source;
use mif_formats::codec::Codec;
use mif_formats::fs::ntfs::Ntfs;
use mif_formats::fs::{Filesystem, Piece, walk};
use rustix::fs::{XattrFlags, lsetxattr};

use super::life::{Can, live};
use super::wof::{ALGORITHMS, compressed, store};
use super::{TOOLS, filled, open_clean, scratch};
use crate::mutants::{self, Mutant, SECTOR, assert_memory, on_cpu};
use crate::random::Random;
use crate::tools::{have, in_own_process};

/// Mutants of each volume, unless NTFS_MUTANTS says otherwise.
const MUTANTS: u64 = 6000;
/// Limit of processor time per mutant.
const TIME_MAX: Duration = Duration::from_secs(5);

/// Reads everything on a mutant.
fn read_all(volume: Arc<Mutant>) -> (usize, usize) {
    let len = volume.len();
    Ntfs::open(volume).map_or((0, 1), |fs| mutants::read_all(&fs, len))
}

fn change(random: &mut Random, old: u8) -> u8 {
    match random.below(5) {
        0 => 0,
        1 => 0xFF,
        2 => old ^ 1 << random.below(8),
        3 => old.wrapping_add(1),
        _ => random.number() as u8,
    }
}

/// Reads mutants of a volume and checks the limits.
fn mutate(what: &str, bytes: Vec<u8>, seed: u64) {
    let count = std::env::var("NTFS_MUTANTS").map_or(MUTANTS, |n| n.parse().unwrap());
    let bytes = Arc::new(bytes);
    let mutant = |changes| Arc::new(Mutant { bytes: Arc::clone(&bytes), changes, read: Mutex::default() });
    let whole = mutant(Vec::new());
    let (nodes, errors) = read_all(Arc::clone(&whole));
    assert!(nodes > 20 && errors == 0, "{what}: {nodes} nodes, {errors} errors before anything was changed");
    // Changes hit bytes of records and indexes, mostly nonzero ones.
    let read = whole.read.lock().unwrap();
    let is_metadata = |sector: &usize| {
        let start = sector * SECTOR / 4096 * 4096;
        (start..start + 4096)
            .step_by(SECTOR)
            .any(|at| bytes.get(at..at + 4).is_some_and(|magic| matches!(magic, b"FILE" | b"INDX" | b"RSTR")))
            || *sector == 0
    };
    let mut sectors: Vec<usize> = read.iter().copied().filter(is_metadata).collect();
    drop(read);
    sectors.sort_unstable();
    let targets: Vec<usize> =
        sectors.iter().flat_map(|sector| sector * SECTOR..(sector + 1) * SECTOR).collect();
    let set: Vec<usize> = targets.iter().copied().filter(|at| bytes[*at] != 0).collect();
    let mut random = Random(seed);
    let (mut refused, mut damaged, mut slowest) = (0, 0, Duration::ZERO);
    for _ in 0..count {
        let mut changes = Vec::new();
        for _ in 0..=random.below(3) {
            let from = if random.once_in(4) { &targets } else { &set };
            let at = *random.pick(from);
            changes.push((at, vec![change(&mut random, bytes[at])]));
        }
        let start = on_cpu();
        let (nodes, errors) = read_all(mutant(changes.clone()));
        let time = on_cpu() - start;
        assert!(time < TIME_MAX, "{what}: {changes:?} take {time:?}");
        slowest = slowest.max(time);
        refused += usize::from(nodes == 0);
        damaged += usize::from(nodes > 0 && errors > 0);
    }
    println!("{what}: {count} mutants, {refused} refused, {damaged} read in part, at most {slowest:?}");
    assert_memory();
}

#[test]
fn mutants_of_ntfs_volumes_do_no_harm() {
    if !have(&[&TOOLS[..], &["wimlib-imagex"]].concat()) || !in_own_process() {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let lived = Can { compress: true, steps: 120, names: 300 };
    for (seed, options) in [(1, "-c 4096"), (2, "-c 512"), (3, "-s 4096")] {
        if !filled(&image, 48, options, "compression,streams_interface=xattr", |root| live(root, seed, lived))
        {
            return;
        }
        mutate(options, fs::read(&image).unwrap(), seed);
    }
    let is_filled = filled(&image, 16, "", "special_files=wsl,streams_interface=windows", |root| {
        for algorithm in ALGORITHMS {
            for len in [1000, 40_000, 300_000] {
                let content: Vec<u8> = (0..len).map(|i| (i / 7) as u8).collect();
                let stream = compressed(scratch.path(), &content, algorithm);
                store(&root.join(format!("{} {len}", algorithm.0)), &content, &stream, algorithm.0);
            }
        }
        for i in 0..20 {
            std::os::unix::fs::symlink("../target", root.join(format!("link {i}"))).unwrap();
        }
        let ea = b"\0\0\0\0\0\x04\x05\0NAME\0value";
        lsetxattr(root.join("1 1000"), "system.ntfs_ea", ea, XattrFlags::empty()).unwrap_or(());
    });
    if is_filled {
        mutate("compressed files", fs::read(&image).unwrap(), 4);
    }
}

#[test]
fn mutants_of_compressed_chunks_do_no_harm() {
    if !have(&[&TOOLS[..], &["wimlib-imagex"]].concat()) || !in_own_process() {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let program = fs::read(std::env::current_exe().unwrap()).unwrap();
    let content = &program[4096..4096 + 150_000];
    let is_filled = filled(&image, 32, "", "compression,streams_interface=windows", |root| {
        for algorithm in ALGORITHMS {
            let stream = compressed(scratch.path(), content, algorithm);
            store(&root.join(algorithm.0.to_string()), content, &stream, algorithm.0);
        }
        lsetxattr(root, "system.ntfs_attrib_be", &[0, 0, 8, 0x10], XattrFlags::empty()).unwrap();
        fs::write(root.join("lznt1"), content).unwrap();
    });
    if !is_filled {
        return;
    }
    let (fs, volume) = open_clean(&image);
    let mut chunks: Vec<(Codec, Vec<u8>, u32)> = Vec::new();
    for entry in walk::walk(&fs).unwrap().entries.iter().skip(1) {
        let content = fs.content(walk::lookup(&fs, &entry.path).unwrap()).unwrap();
        for piece in content.pieces {
            let Piece::Encoded(encoded) = piece else { continue };
            let mut bytes = Vec::new();
            for run in &encoded.runs {
                bytes.extend(volume.read_vec(run.start, (run.end - run.start) as usize).unwrap());
            }
            chunks.push((encoded.codec, bytes, encoded.decoded));
        }
    }
    let mut random = Random(5);
    let (mut refused, mut count) = (0, 0);
    let start = on_cpu();
    for _ in 0..20_000 {
        let (codec, bytes, len) = random.pick(&chunks);
        let mut bytes = bytes.clone();
        for _ in 0..=random.below(3) {
            // Tables of codes are at the start.
            let most = if random.once_in(2) { bytes.len() } else { bytes.len().min(300) };
            let at = random.index(most);
            bytes[at] = change(&mut random, bytes[at]);
        }
        if random.once_in(10) {
            bytes.truncate(random.index(bytes.len()));
        }
        let decoded = codec.decode(&bytes, *len);
        assert!(decoded.as_ref().map_or(true, |bytes| bytes.len() == *len as usize));
        refused += usize::from(decoded.is_err());
        count += 1;
    }
    println!("{count} mutants of {} chunks, {refused} refused, in {:?}", chunks.len(), on_cpu() - start);
    assert!(on_cpu() - start < Duration::from_secs(120));
    assert_memory();
}
