//! The parts that the tests of mutants of all filesystems share: reading everything on a volume, and the limits of time and
//! memory.

use std::collections::HashSet;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mif_formats::fs::{FileType, Filesystem, Piece};
use mif_formats::source::check_range;
use mif_formats::{Extent, Result, Source};

/// The most memory that a test of mutants may take, in bytes.
const MEMORY_MAX: u64 = 512 << 20;

/// The unit in which a [`Mutant`] records what was read.
pub(crate) const SECTOR: usize = 512;

/// A volume with some bytes changed.
pub(crate) struct Mutant {
    pub(crate) bytes: Arc<Vec<u8>>,
    /// Byte offsets and the bytes that replace the original ones there.
    pub(crate) changes: Vec<(usize, Vec<u8>)>,
    /// The sectors that were read.
    pub(crate) read: Mutex<HashSet<usize>>,
}

impl Source for Mutant {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range("mutant", self.len(), offset, buf.len() as u64)?;
        let (start, end) = (offset as usize, offset as usize + buf.len());
        buf.copy_from_slice(&self.bytes[start..end]);
        for (at, bytes) in &self.changes {
            let (from, to) = ((*at).max(start), (at + bytes.len()).min(end));
            if from < to {
                buf[from - start..to - start].copy_from_slice(&bytes[from - at..to - at]);
            }
        }
        self.read.lock().unwrap().extend(start / SECTOR..end.div_ceil(SECTOR));
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        Ok(Extent::data(offset, self.len() - offset))
    }
}

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
