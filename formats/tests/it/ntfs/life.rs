//! Random operations on a mounted volume. Operations that fail, because a file is missing or unsuitable, are ignored: only
//! the resulting state matters.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, lremovexattr, lsetxattr};

use crate::random::Random;
use crate::tools::set_times;

/// What a volume may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Can {
    /// Directories whose files are compressed.
    pub(super) compress: bool,
    /// How many operations to do.
    pub(super) steps: u64,
    /// How many names a directory gets.
    pub(super) names: u64,
}

/// Performs random operations in `root`.
pub(super) fn live(root: &Path, seed: u64, can: Can) {
    let mut life = Life { root: root.to_owned(), random: Random(seed), paths: Vec::new(), count: 0 };
    life.settle(can).unwrap();
    for _ in 0..can.steps {
        let _ = life.step();
    }
    life.fragment(if can.steps > 1000 { 1500 } else { 100 }).unwrap();
    life.links(300).unwrap();
    let folder = root.join("long directory");
    fs::create_dir(&folder).unwrap();
    for i in 0..can.names {
        File::create(folder.join(format!("a name that is number {i} of many"))).unwrap();
    }
    (0..can.names).step_by(7).for_each(|i| {
        fs::remove_file(folder.join(format!("a name that is number {i} of many"))).unwrap();
    });
    let mut deep = root.join("deep");
    for i in 0..40 {
        deep = deep.join(format!("level {i}"));
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), b"bottom").unwrap();
}

/// A user of a volume.
struct Life {
    root: PathBuf,
    random: Random,
    /// Files and directories made, some of which are gone.
    paths: Vec<PathBuf>,
    count: u64,
}

impl Life {
    /// Makes the first directories.
    fn settle(&mut self, can: Can) -> io::Result<()> {
        for name in ["plain", "compressed"] {
            let path = self.root.join(name);
            fs::create_dir(&path)?;
            if name == "compressed" && can.compress {
                lsetxattr(&path, "system.ntfs_attrib_be", &[0, 0, 8, 0x10], XattrFlags::empty())?;
            }
            self.paths.push(path);
        }
        Ok(())
    }

    fn path(&mut self) -> PathBuf {
        self.random.pick(&self.paths).clone()
    }

    fn new_path(&mut self) -> PathBuf {
        const NAMES: [&str; 6] = ["file", "a longer name with spaces", "ünïcödé", "数", "😀", "x.tar.gz"];
        let mut dir = self.path();
        if !dir.is_dir() {
            dir = dir.parent().unwrap().to_owned();
        }
        self.count += 1;
        let path = dir.join(format!("{} {}", self.random.pick(&NAMES), self.count));
        self.paths.push(path.clone());
        path
    }

    /// Returns content of one kind: zeros, text, noise, or some of each.
    fn content(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        match self.random.below(4) {
            0 => {}
            1 => bytes
                .iter_mut()
                .enumerate()
                .for_each(|(i, byte)| *byte = b"some text, "[i % 11] ^ (i >> 9) as u8),
            2 => self.random.fill(&mut bytes),
            _ => {
                for part in bytes.chunks_mut(3000) {
                    match self.random.below(3) {
                        0 => {}
                        1 => part.fill(self.random.number() as u8),
                        _ => self.random.fill(part),
                    }
                }
            }
        }
        bytes
    }

    fn len(&mut self) -> usize {
        let most = *self.random.pick(&[10, 700, 5000, 70_000, 300_000]);
        self.random.index(most)
    }

    fn step(&mut self) -> io::Result<()> {
        match self.random.below(20) {
            0..=4 => {
                let (path, len) = (self.new_path(), self.len());
                fs::write(path, self.content(len))
            }
            5..=8 => {
                let (path, len) = (self.path(), self.len());
                let at = self.random.below(2_000_000);
                OpenOptions::new().write(true).open(path)?.write_all_at(&self.content(len), at)
            }
            9 | 10 => {
                let len = self.len() as u64 * self.random.below(4);
                OpenOptions::new().write(true).open(self.path())?.set_len(len)
            }
            11 => fs::create_dir(self.new_path()),
            12 => {
                let (from, to) = (self.path(), self.new_path());
                fs::rename(from, to)
            }
            13 => {
                let (from, to) = (self.path(), self.new_path());
                fs::hard_link(from, to)
            }
            14 => {
                let path = self.path();
                if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) }
            }
            15 => {
                let len = 1 + self.random.index(300);
                let path = self.new_path();
                symlink("target/".repeat(len), path)
            }
            16 | 17 => {
                let (path, len) = (self.path(), self.random.index(60_000));
                let name = format!("user.stream {}", self.random.below(5));
                if self.random.once_in(5) {
                    return Ok(lremovexattr(&path, name.as_str())?);
                }
                Ok(lsetxattr(&path, name.as_str(), &self.content(len), XattrFlags::empty())?)
            }
            18 => {
                let path = self.path();
                let (secs, nanos) =
                    (self.random.below(1 << 33) as i64 - (1 << 32), self.random.below(10_000_000));
                if path.symlink_metadata()?.is_file() {
                    set_times(&path, secs, nanos as i64 * 100);
                }
                Ok(())
            }
            _ => {
                let path = self.path();
                self.count += 1;
                let name = format!("DOS~{}.X", self.count);
                Ok(lsetxattr(&path, "system.ntfs_dos_name", name.as_bytes(), XattrFlags::empty())?)
            }
        }
    }

    /// Writes two files in turn, so that their clusters alternate and their runs need further records.
    fn fragment(&mut self, pieces: u64) -> io::Result<()> {
        let files = [self.root.join("fragments a"), self.root.join("fragments b")];
        let files = [File::create(&files[0])?, File::create(&files[1])?];
        for i in 0..pieces {
            for file in &files {
                // Gaps make holes, which take runs of their own.
                let block = self.content(4096);
                if file.write_all_at(&block, i * 3 * 4096).is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Gives a file so many names that they need further records.
    fn links(&mut self, count: u64) -> io::Result<()> {
        let first = self.root.join("first of many names");
        fs::write(&first, b"linked")?;
        for i in 0..count {
            fs::hard_link(
                &first,
                self.root.join(format!("another of the many names that a file can have, {i}")),
            )?;
        }
        Ok(())
    }
}
