//! Lists and hashes all regular files of a volume with `rust-fs-xfs` or `rust-fs-btrfs`, for measuring ours against them.
//!
//! `hash-by-crate xfs|btrfs FILE` prints `SHA-1  ./path` for each path of a file, as sha1sum does, on one thread for
//! each processor. The volume is the whole file; of Btrfs, the default subvolume is read.

use std::fmt::{Display, Write};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use fs_core::{BlockRead, FileDevice};
use sha1::{Digest, Sha1};

/// A path with its inode number.
type Named = (Vec<u8>, u64);

/// A filesystem as one of the crates reads it.
trait Volume: Sync {
    fn root(&self) -> u64;

    /// Returns the directories and the regular files in a directory.
    fn names(&self, folder: u64) -> (Vec<Named>, Vec<Named>);

    /// Reads a file in pieces of at most 256 KiB.
    fn read(&self, file: u64, each: &mut dyn FnMut(&[u8]));
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, file] = &arguments[..] else { panic!("usage: hash-by-crate xfs|btrfs FILE") };
    let device: Arc<dyn BlockRead> = Arc::new(must(FileDevice::open(Path::new(file))));
    let volume: Box<dyn Volume> = match kind.as_str() {
        "xfs" => Box::new(must(fs_xfs::Filesystem::mount(device))),
        "btrfs" => Box::new(must(fs_btrfs::Filesystem::mount(device))),
        other => panic!("{other}: expected xfs or btrfs"),
    };
    let (mut folders, mut files) = (vec![(b".".to_vec(), volume.root())], Vec::new());
    while let Some((path, folder)) = folders.pop() {
        let (below, found) = volume.names(folder);
        let whole = |(name, inode): Named| ([&path[..], b"/", &name].concat(), inode);
        folders.extend(below.into_iter().map(whole));
        files.extend(found.into_iter().map(whole));
    }
    let next = Mutex::new(files.iter());
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some((path, inode)) = next.lock().expect("no thread panicked").next() else { return };
                    let mut hash = Sha1::new();
                    volume.read(*inode, &mut |bytes| hash.update(bytes));
                    let mut line = String::new();
                    for byte in hash.finalize() {
                        write!(line, "{byte:02x}").expect("into memory");
                    }
                    let line = [line.as_bytes(), b"  ", path, b"\n"].concat();
                    std::io::stdout().write_all(&line).expect("standard output takes it");
                }
            });
        }
    });
}

fn must<T>(result: Result<T, impl Display>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

/// Divides the entries of a directory by the file types in their modes, without itself and its parent.
fn divided(entries: impl Iterator<Item = Named>, mode: impl Fn(u64) -> u32) -> (Vec<Named>, Vec<Named>) {
    let (mut folders, mut files) = (Vec::new(), Vec::new());
    for (name, inode) in entries.filter(|(name, _)| name != b"." && name != b"..") {
        match mode(inode) >> 12 {
            4 => folders.push((name, inode)),
            8 => files.push((name, inode)),
            _ => (),
        }
    }
    (folders, files)
}

/// Calls `each` with what `read` reads from ascending offsets, until it reads nothing.
fn in_pieces(mut read: impl FnMut(u64, &mut [u8]) -> usize, each: &mut dyn FnMut(&[u8])) {
    let (mut buf, mut at) = (vec![0; 256 << 10], 0);
    loop {
        match read(at, &mut buf) {
            0 => return,
            got => {
                each(&buf[..got]);
                at += got as u64;
            }
        }
    }
}

impl Volume for fs_xfs::Filesystem {
    fn root(&self) -> u64 {
        must(self.root_inode()).ino
    }

    fn names(&self, folder: u64) -> (Vec<Named>, Vec<Named>) {
        let entries = must(must(self.open_ino(folder)).entries()).into_iter();
        divided(entries.map(|entry| (entry.name, entry.ino)), |inode| {
            must(self.read_inode(inode)).mode.into()
        })
    }

    fn read(&self, file: u64, each: &mut dyn FnMut(&[u8])) {
        let file = must(self.open_ino(file));
        in_pieces(|at, buf| must(file.read_at(at, buf)), each);
    }
}

impl Volume for fs_btrfs::Filesystem {
    fn root(&self) -> u64 {
        must(self.root_inode()).ino
    }

    fn names(&self, folder: u64) -> (Vec<Named>, Vec<Named>) {
        let entries = must(self.read_dir(folder)).into_iter();
        divided(entries.map(|entry| (entry.name, entry.ino)), |inode| must(self.read_inode(inode)).mode)
    }

    fn read(&self, file: u64, each: &mut dyn FnMut(&[u8])) {
        in_pieces(|at, buf| must(self.read_at(file, at, buf)), each);
    }
}
