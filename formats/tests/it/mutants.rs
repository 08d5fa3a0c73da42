//! The parts that the tests of mutants of all filesystems share: reading everything on a volume, and the limits of time and
//! memory.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use mif_formats::fs::{FileType, Filesystem, Piece};

/// The most memory that a test of mutants may take, in bytes.
const MEMORY_MAX: u64 = 512 << 20;

/// Returns the processor time used by this thread: other programs do not count.
pub(crate) fn on_cpu() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

/// Returns the peak memory of this process in bytes.
pub(crate) fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Panics if this process has taken more memory than it may.
pub(crate) fn assert_memory() {
    let peak = peak_memory();
    assert!(peak < MEMORY_MAX, "{} KiB of memory", peak >> 10);
}

/// Reads everything except file content, and checks that files lie on the volume, which has `len` bytes. Returns the number
/// of nodes and of errors.
pub(crate) fn read_all(fs: &dyn Filesystem, len: u64) -> (usize, usize) {
    let (mut nodes, mut errors) = (0, fs.info().warnings.len());
    let mut todo = vec![fs.root()];
    let mut seen = HashSet::new();
    while let Some(id) = todo.pop() {
        if !seen.insert(id) {
            continue;
        }
        let Ok(node) = fs.node(id, &mut |_| errors += 1) else {
            errors += 1;
            continue;
        };
        nodes += 1;
        match fs.content(id) {
            Ok(content) => {
                let mut total = 0_u64;
                for piece in &content.pieces {
                    assert!(!piece.is_empty());
                    match piece {
                        Piece::Volume { offset, len: piece } => {
                            assert!(offset + piece <= len, "lies past the volume's end");
                        }
                        Piece::Encoded(encoded) => {
                            assert!(encoded.runs.iter().all(|run| run.start <= run.end && run.end <= len));
                            assert!(encoded.from + encoded.len <= encoded.decoded);
                        }
                        Piece::Zero { .. } | Piece::Bytes(_) => {}
                    }
                    total += piece.len();
                }
                assert_eq!(total, content.size);
            }
            Err(_) => errors += 1,
        }
        match fs.streams(id) {
            Ok(streams) => todo.extend(streams.into_iter().map(|(_, stream)| stream)),
            Err(_) => errors += 1,
        }
        if node.file_type == FileType::Dir {
            match fs.read_dir(id, &mut |_| errors += 1) {
                Ok(entries) => {
                    for entry in entries {
                        let name = &entry.name;
                        assert!(!name.is_empty() && !name.contains(&b'/') && !name.contains(&0));
                        todo.push(entry.node);
                    }
                }
                Err(_) => errors += 1,
            }
        }
    }
    (nodes, errors)
}
