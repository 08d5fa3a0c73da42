//! Random operations on a mounted volume. Operations that fail, because a file is missing or unsuitable, are ignored:
//! only the resulting state matters.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType as Kind, IFlags, Mode, Timespec, Timestamps, XattrFlags,
    fallocate, ioctl_ficlone, ioctl_getflags, ioctl_setflags, lremovexattr, lsetxattr, makedev, mknodat,
    utimensat,
};

use crate::random::Random;
use crate::tools::acl;

/// A user of a volume who performs random operations.
pub(super) struct Life {
    root: PathBuf,
    random: Random,
    /// Paths that were created, some of which may be gone.
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    subvolumes: Vec<PathBuf>,
    made: u32,
    /// False to leave subvolumes alone: creating one commits everything.
    pub(super) makes_subvolumes: bool,
}

impl Life {
    pub(super) fn new(root: &Path, seed: u64) -> Self {
        let root = root.to_owned();
        Life {
            random: Random(seed),
            files: Vec::new(),
            folders: vec![root.clone()],
            subvolumes: Vec::new(),
            made: 0,
            makes_subvolumes: true,
            root,
        }
    }

    /// Performs `count` operations.
    pub(super) fn live(&mut self, count: u32) {
        for _ in 0..count {
            let _ = self.operation();
        }
    }

    /// Syncs a file or a directory, so that its changes since the last commit are in a log.
    pub(super) fn sync(&mut self) {
        let path = if self.random.once_in(3) { self.folder() } else { self.file() };
        if let Ok(file) = File::open(path) {
            let _ = file.sync_all();
        }
    }

    /// Commits everything.
    pub(super) fn commit(&self) {
        rustix::fs::syncfs(File::open(&self.root).unwrap()).unwrap();
    }

    fn new_path(&mut self) -> PathBuf {
        self.made += 1;
        let name = match self.random.below(12) {
            0 => format!("{} {}", "long name ".repeat(20), self.made),
            1 => format!("ä\u{1b}\n{}", self.made),
            // A name that may exist or may have existed.
            2..5 => format!("name {}", self.random.below(20)),
            _ => format!("{}", self.made),
        };
        self.folder().join(name)
    }

    fn folder(&mut self) -> PathBuf {
        self.random.pick(&self.folders).clone()
    }

    fn file(&mut self) -> PathBuf {
        if self.files.is_empty() { self.root.join("none") } else { self.random.pick(&self.files).clone() }
    }

    /// Returns a length, either near an edge or arbitrary.
    fn len(&mut self) -> u64 {
        let edge =
            *self.random.pick(&[0, 1, 100, 2048, 4095, 4096, 4097, 8192, 65_536, 131_072, 140_000, 600_000]);
        if self.random.once_in(2) { edge } else { self.random.below(edge + 1) }
    }

    fn content(&mut self, len: u64) -> Vec<u8> {
        let mut bytes = match self.random.below(4) {
            0 => self.random.bytes(len),
            1 => vec![0; len as usize],
            _ => b"text that is to be compressed, line after line\n"[..].repeat(len as usize / 46 + 1),
        };
        bytes.truncate(len as usize);
        for _ in 0..len / 20_000 {
            let at = self.random.index(bytes.len());
            bytes[at] = self.random.below(256) as u8;
        }
        bytes
    }

    fn operation(&mut self) -> io::Result<()> {
        match self.random.below(if self.makes_subvolumes { 64 } else { 61 }) {
            0..12 => self.make_file(),
            12..20 => self.write(),
            20..23 => {
                let len = self.len();
                OpenOptions::new().write(true).open(self.file())?.set_len(len)
            }
            23..27 => self.allocate(),
            27..31 => self.clone_file(),
            31..34 => {
                let (from, to) = (self.file(), self.new_path());
                fs::hard_link(from, &to)?;
                self.files.push(to);
                Ok(())
            }
            34..39 => self.rename(),
            39..43 => fs::remove_file(self.file()),
            43 => {
                let folder = self.folder();
                if folder == self.root { Ok(()) } else { fs::remove_dir_all(folder) }
            }
            44..47 => {
                let path = self.new_path();
                fs::create_dir(&path)?;
                self.folders.push(path);
                Ok(())
            }
            47..51 => self.attribute(),
            51 => {
                let (target, path) = ("t".repeat(1 + self.random.index(900)), self.new_path());
                symlink(target, &path)?;
                self.files.push(path);
                Ok(())
            }
            52 => {
                let kind =
                    *self.random.pick(&[Kind::CharacterDevice, Kind::BlockDevice, Kind::Fifo, Kind::Socket]);
                let device = makedev(self.random.below(4096) as u32, self.random.below(1 << 20) as u32);
                // Never opened: that could block, or reach a device of this machine.
                self.made += 1;
                let path = self.folder().join(format!("node {}", self.made));
                Ok(mknodat(CWD, &path, kind, Mode::from_bits_retain(0o600), device)?)
            }
            53..55 => self.flags(),
            55..58 => {
                let secs = *self.random.pick(&[-1, -5_000_000_000, 0, 1 << 31, 1 << 33, 20_000_000_000]);
                let time = Timespec { tv_sec: secs, tv_nsec: self.random.below(1_000_000_000) as i64 };
                let times = Timestamps { last_access: time, last_modification: time };
                Ok(utimensat(CWD, self.file(), &times, AtFlags::SYMLINK_NOFOLLOW)?)
            }
            58..60 => {
                let (mode, path) = (self.random.below(0o10000) as u32, self.file());
                use std::os::unix::fs::PermissionsExt;
                std::os::unix::fs::lchown(&path, Some(mode), Some(mode * 1000))?;
                fs::set_permissions(path, fs::Permissions::from_mode(mode))
            }
            60 => self.many_links(),
            61 => {
                let path = self.new_path();
                run("create", &[&path])?;
                self.folders.push(path.clone());
                self.subvolumes.push(path);
                Ok(())
            }
            62 => {
                let from = if self.random.once_in(2) || self.subvolumes.is_empty() {
                    self.root.clone()
                } else {
                    self.random.pick(&self.subvolumes).clone()
                };
                let to = self.new_path();
                if self.random.once_in(2) {
                    run("snapshot", &[Path::new("-r"), &from, &to])?;
                } else {
                    run("snapshot", &[&from, &to])?;
                    self.folders.push(to.clone());
                }
                self.subvolumes.push(to);
                Ok(())
            }
            _ => {
                if self.subvolumes.len() < 3 {
                    return Ok(());
                }
                let path = self.random.pick(&self.subvolumes).clone();
                run("delete", &[&path])
            }
        }
    }

    fn make_file(&mut self) -> io::Result<()> {
        let (path, len) = (self.new_path(), self.len());
        let content = self.content(len);
        fs::write(&path, content)?;
        self.files.push(path);
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        let (path, len, at) = (self.file(), self.len(), self.len());
        let content = self.content(len);
        let at = if self.random.once_in(20) { at << 20 } else { at };
        let file = OpenOptions::new().write(true).open(path)?;
        file.write_all_at(&content, at)?;
        // So that the next operation finds an extent.
        if self.random.once_in(2) { file.sync_data() } else { Ok(()) }
    }

    fn allocate(&mut self) -> io::Result<()> {
        let (path, at, len) = (self.file(), self.len(), self.len() + 1);
        let file = OpenOptions::new().write(true).open(path)?;
        let kept = FallocateFlags::KEEP_SIZE;
        let mode = *self.random.pick(&[
            FallocateFlags::PUNCH_HOLE | kept,
            FallocateFlags::empty(),
            kept,
            FallocateFlags::ZERO_RANGE,
        ]);
        Ok(fallocate(file, mode, at, len)?)
    }

    /// Clones a file, or copies aligned ranges, which the kernel also clones.
    fn clone_file(&mut self) -> io::Result<()> {
        let (from, to) = (File::open(self.file())?, self.new_path());
        if self.random.once_in(2) {
            let file = File::create(&to)?;
            self.files.push(to);
            return Ok(ioctl_ficlone(file, from)?);
        }
        let file = OpenOptions::new().write(true).open(self.file())?;
        let (mut read, mut write) = (self.len() / 4096 * 4096, self.len() / 4096 * 4096);
        let len = (self.len() / 4096 * 4096) as usize;
        rustix::fs::copy_file_range(from, Some(&mut read), file, Some(&mut write), len)?;
        Ok(())
    }

    fn rename(&mut self) -> io::Result<()> {
        let is_folder = self.random.once_in(4);
        let from = if is_folder { self.folder() } else { self.file() };
        let to = if self.random.once_in(3) { self.file() } else { self.new_path() };
        fs::rename(&from, &to)?;
        if is_folder {
            self.folders.push(to)
        } else {
            self.files.push(to)
        }
        Ok(())
    }

    fn attribute(&mut self) -> io::Result<()> {
        let path = if self.random.once_in(3) { self.folder() } else { self.file() };
        let name = format!("user.{}", self.random.below(8));
        match self.random.below(6) {
            0 => lremovexattr(path, &name)?,
            1 => lsetxattr(path, "system.posix_acl_access", &acl(), XattrFlags::empty())?,
            2 => lsetxattr(path, "trusted.long", &self.random.bytes(2500), XattrFlags::empty())?,
            _ => {
                let len = self.random.below(200);
                lsetxattr(path, &name, &self.random.bytes(len), XattrFlags::empty())?;
            }
        }
        Ok(())
    }

    fn flags(&mut self) -> io::Result<()> {
        let path = if self.random.once_in(3) { self.folder() } else { self.file() };
        let file = File::open(path)?;
        let flag = *self.random.pick(&[
            IFlags::NOATIME,
            IFlags::NODUMP,
            IFlags::SYNC,
            IFlags::NOCOW,
            IFlags::COMPRESSED,
            IFlags::from_bits_retain(0x400),
        ]);
        let flags = ioctl_getflags(&file)?;
        Ok(ioctl_setflags(&file, flags ^ flag)?)
    }

    /// Gives one file so many long names in one directory that they do not fit in one item.
    fn many_links(&mut self) -> io::Result<()> {
        let (file, folder) = (self.file(), self.folder());
        let name = "hard link ".repeat(15);
        for i in 0..120 {
            let link = folder.join(format!("{name}{i}"));
            fs::hard_link(&file, &link)?;
            if i % 7 == 0 {
                self.files.push(link);
            }
        }
        Ok(())
    }
}

/// Runs `btrfs subvolume`.
fn run(what: &str, args: &[&Path]) -> io::Result<()> {
    let output = Command::new("btrfs").args(["subvolume", what]).args(args).output()?;
    if output.status.success() { Ok(()) } else { Err(io::Error::other(what.to_owned())) }
}
