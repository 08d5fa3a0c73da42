//! Using a volume: files of every kind are created, changed and deleted in an order determined by a seed.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{
    CWD, FallocateFlags, FileType as Kind, IFlags, Mode, XattrFlags, fallocate, ioctl_ficlone,
    ioctl_setflags, lremovexattr, lsetxattr, makedev, mknodat,
};

use crate::random::Random;
use crate::tools::{acl, attribute, set_times};

/// The properties of a volume that determine what can be done on it.
#[derive(Clone, Copy)]
pub(super) struct Can {
    /// Bytes per block.
    pub(super) block: u64,
    /// True if files may share blocks.
    pub(super) reflink: bool,
    /// Number of names in the largest directory.
    pub(super) names: usize,
}

/// Creates one of everything in `root`, then makes random changes.
pub(super) fn live(root: &Path, seed: u64, can: Can) {
    let mut random = Random(seed);
    contents(root, &mut random, can);
    names(root, &mut random, can);
    types(root, &mut random);
    attributes(root, &mut random);
    for _ in 0..200 {
        one(root, &mut random, can);
    }
}

fn write_at(file: &File, random: &mut Random, len: u64, offset: u64) {
    file.write_all_at(&random.bytes(len), offset).unwrap();
}

/// Creates files with sizes around every edge, holes, unwritten blocks, shared blocks and many extents.
fn contents(root: &Path, random: &mut Random, can: Can) {
    let at = |name: &str| root.join(name);
    let block = can.block;
    fs::create_dir(at("sizes")).unwrap();
    for size in [0, 1, 100, 335, 336, 337, block - 1, block, block + 1, 13 * block, 300 * block + 7] {
        fs::write(at(&format!("sizes/{size}")), random.bytes(size)).unwrap();
    }
    // Two files that grow alternately, so that each has many extents.
    let (one, two) = (File::create(at("one")).unwrap(), File::create(at("two")).unwrap());
    for i in 0..60 {
        write_at(&one, random, block, i * block);
        write_at(&two, random, block, i * 2 * block);
        one.sync_data().unwrap();
    }
    fs::remove_file(at("two")).unwrap();
    let sparse = File::create(at("sparse")).unwrap();
    for i in 0..1500 {
        write_at(&sparse, random, 10, i * 3 * block);
    }
    sparse.write_all_at(b"far", 1 << 31).unwrap();
    sparse.write_all_at(b"farther", 1 << 40).unwrap();
    sparse.set_len((1 << 43) + 5).unwrap();
    File::create(at("grown")).unwrap().set_len(1 << 34).unwrap();
    let short = File::create(at("short")).unwrap();
    write_at(&short, random, 20 * block, 0);
    short.sync_all().unwrap();
    short.set_len(3 * block + 100).unwrap();
    let punched = File::create(at("punched")).unwrap();
    write_at(&punched, random, 500 * block, 0);
    punched.sync_all().unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    for i in 0..160 {
        fallocate(&punched, punch, i * 3 * block, block).unwrap();
    }
    fallocate(&punched, punch, 490 * block + 10, block).unwrap();
    let unwritten = File::create(at("unwritten")).unwrap();
    fallocate(&unwritten, FallocateFlags::empty(), 0, 100 * block).unwrap();
    write_at(&unwritten, random, block, 50 * block);
    fallocate(&unwritten, FallocateFlags::ZERO_RANGE, 50 * block + 7, 11).unwrap();
    let kept = File::create(at("kept")).unwrap();
    kept.write_all_at(b"little", 0).unwrap();
    fallocate(&kept, FallocateFlags::KEEP_SIZE, 0, 60 * block).unwrap();
    let mut appended = OpenOptions::new().append(true).create(true).open(at("appended")).unwrap();
    for _ in 0..100 {
        appended.write_all(&random.bytes(777)).unwrap();
    }
    if can.reflink {
        for name in ["punched", "sparse", "sizes/0"] {
            clone(&at(name), &at(&format!("{} again", name.replace('/', " "))));
        }
        let shared = OpenOptions::new().write(true).open(at("punched again")).unwrap();
        for i in 0..40 {
            write_at(&shared, random, 100, i * 11 * block + 50);
        }
    }
}

fn clone(from: &Path, to: &Path) {
    let (from, to) = (File::open(from).unwrap(), File::create(to).unwrap());
    ioctl_ficlone(&to, &from).unwrap();
}

/// Creates directories of every format, and odd names.
fn names(root: &Path, random: &mut Random, can: Can) {
    let at = |name: &str| root.join(name);
    fs::create_dir(at("names")).unwrap();
    let odd =
        [&b"\xff\xfe not utf-8"[..], b"new\nline", b"esc\x1b[31m", b"...", b" ", b"\xc3\xa9", &[b'x'; 255]];
    for name in odd {
        fs::write(at("names").join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    fs::write(at("names/Case"), b"upper").unwrap();
    fs::write(at("names/case"), b"lower").unwrap();
    for count in [1, 2, 5, 12, 40, 300, 2500, can.names] {
        let folder = at(&format!("many {count}"));
        fs::create_dir(&folder).unwrap();
        for i in 0..count {
            let name = format!("{}{i}", "name ".repeat(random.index(12)));
            File::create(folder.join(&name)).unwrap();
            if random.once_in(5) {
                fs::remove_file(folder.join(&name)).unwrap();
            }
        }
    }
    // Leaves whole directory blocks empty.
    let emptied = at("emptied");
    fs::create_dir(&emptied).unwrap();
    for i in 0..3000 {
        fs::hard_link(at("sizes/1"), emptied.join(format!("{i:0>60}"))).unwrap();
    }
    for i in (200..2800).filter(|i| i % 500 != 0) {
        fs::remove_file(emptied.join(format!("{i:0>60}"))).unwrap();
    }
    let deep = (0..30).fold(at("deep"), |path, i| path.join(format!("level {i}")));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), b"bottom").unwrap();
    fs::rename(at("deep/level 0/level 1"), at("moved")).unwrap();
}

/// Creates symlinks, hard links, devices, and odd owners, modes, times and flags.
fn types(root: &Path, random: &mut Random) {
    let at = |name: &str| root.join(name);
    for len in [1, 59, 155, 156, 335, 336, 337, 400, 700, 968, 969, 1023] {
        symlink("t".repeat(len), at(&format!("link {len}"))).unwrap();
    }
    lchown(at("link 1"), Some(5), Some(6)).unwrap();
    fs::hard_link(at("one"), at("one again")).unwrap();
    fs::hard_link(at("link 336"), at("link 336 again")).unwrap();
    for (name, kind, major, minor) in [
        ("char", Kind::CharacterDevice, 1, 3),
        ("block", Kind::BlockDevice, 8, 255),
        ("char large", Kind::CharacterDevice, 511, 262_143),
        ("block minor", Kind::BlockDevice, 8, 256),
        ("whiteout", Kind::CharacterDevice, 0, 0),
        ("fifo", Kind::Fifo, 0, 0),
        ("socket", Kind::Socket, 0, 0),
    ] {
        mknodat(CWD, at(name), kind, Mode::from_bits_retain(0o640), makedev(major, minor)).unwrap();
    }
    fs::write(at("owned"), b"x").unwrap();
    chown(at("owned"), Some(70_000), Some(0xFFFF_FFF0)).unwrap();
    fs::set_permissions(at("owned"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::create_dir(at("sticky")).unwrap();
    fs::set_permissions(at("sticky"), fs::Permissions::from_mode(0o1777)).unwrap();
    for (name, secs, nanos) in [
        ("1901", -2_147_483_648, 0),
        ("1969", -1, 999_999_999),
        ("1970", 0, 1),
        ("2038", 2_147_483_648, 5),
        ("2106", 4_294_967_296, 123_456_789),
        ("2486", 16_299_260_424, 42),
        ("some time", random.below(1 << 33) as i64, random.below(1_000_000_000) as i64),
    ] {
        fs::write(at(name), name).unwrap();
        set_times(&at(name), secs, nanos);
    }
    set_times(&at("link 700"), 1_000_000_000, 7);
    for (name, flags) in [
        ("no dump", IFlags::NODUMP),
        ("no atime", IFlags::NOATIME),
        ("sync", IFlags::SYNC),
        ("appended only", IFlags::APPEND),
        ("immutable", IFlags::IMMUTABLE | IFlags::NODUMP),
    ] {
        fs::write(at(name), name).unwrap();
        ioctl_setflags(File::open(at(name)).unwrap(), flags).unwrap();
    }
}

/// Sets attributes of every format and namespace.
fn attributes(root: &Path, random: &mut Random) {
    let at = |name: &str| root.join(name);
    for name in ["owned", "sticky", "sizes/1"] {
        attribute(&at(name), "user.short", b"v");
        attribute(&at(name), "user.empty", b"");
        attribute(&at(name), "trusted.x", &random.bytes(50));
        attribute(&at(name), "system.posix_acl_access", &acl());
    }
    attribute(&at("sticky"), "system.posix_acl_default", &acl());
    attribute(&at("sizes/100"), "system.posix_acl_access", &acl());
    attribute(&at("link 700"), "trusted.of a link", b"!");
    attribute(&at("link 1"), "trusted.of a short link", &random.bytes(1000));
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    attribute(&at("one"), "security.capability", &capability);
    for len in [255, 256, 257, 1000, 3000, 3900, 4096, 20_000, 65_536] {
        let path = at(&format!("value {len}"));
        fs::write(&path, b"").unwrap();
        attribute(&path, "user.value", &random.bytes(len));
    }
    let (many, large) = (at("many attributes"), at("large attributes"));
    fs::write(&many, b"x").unwrap();
    fs::create_dir(&large).unwrap();
    for i in 0..700 {
        let len = random.below(90);
        attribute(&many, &format!("user.number {i} {}", "n".repeat(random.index(40))), &random.bytes(len));
    }
    for i in 0..40 {
        let len = random.below(65_536);
        attribute(&large, &format!("user.{i}"), &random.bytes(len));
        if i % 3 == 0 {
            lremovexattr(&large, format!("user.{i}")).unwrap();
        }
    }
    fs::create_dir(at("sticky/inherits")).unwrap();
    File::create(at("sticky/inherits/too")).unwrap();
}

/// Returns all paths under `root/random`: files and directories.
fn existing(root: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let mut folders = vec![root.join("random")];
    fs::create_dir_all(&folders[0]).unwrap();
    let (mut files, mut next) = (Vec::new(), 0);
    while next < folders.len() {
        let mut found: Vec<_> = fs::read_dir(&folders[next]).unwrap().map(|e| e.unwrap().path()).collect();
        found.sort();
        for path in found {
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
        next += 1;
    }
    (folders, files)
}

/// Performs one random operation.
pub(super) fn one(root: &Path, random: &mut Random, can: Can) {
    let (folders, files) = existing(root);
    let new =
        random.pick(&folders).join(format!("{}{}", "n".repeat(random.index(60)), random.below(1 << 30)));
    if files.len() < 10 {
        fs::write(new, b"a start").unwrap();
        return;
    }
    let path = random.pick(&files).clone();
    let is_file = fs::symlink_metadata(&path).unwrap().is_file();
    let open = || OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let (offset, len) = (random.below(1 << 22), 1 + random.below(1 << 16));
    match random.below(20) {
        0..=3 => drop(File::create(new).unwrap().write_all(&random.bytes(len))),
        4 => drop(fs::create_dir(new)),
        5 => symlink("s".repeat(1 + random.index(1023)), new).unwrap(),
        6 => fs::hard_link(&path, new).unwrap(),
        7 => fs::rename(&path, new).unwrap(),
        8 | 9 => fs::remove_file(&path).unwrap(),
        10 => {
            let len = if random.once_in(4) { len } else { len % 200 };
            let value = random.bytes(len);
            let name = format!("trusted.{}", random.below(30));
            let _ = lsetxattr(&path, name, &value, XattrFlags::empty());
        }
        11 => drop(lremovexattr(&path, format!("trusted.{}", random.below(30)))),
        12 => set_times(&path, random.below(1 << 31) as i64, 5),
        13 => lchown(&path, Some(random.below(1 << 32) as u32 & !1), None).unwrap(),
        14 if is_file => write_at(&open(), random, len, offset),
        15 if is_file => open().set_len(offset).unwrap(),
        16 if is_file => {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let kind = *random.pick(&[punch, FallocateFlags::empty(), FallocateFlags::ZERO_RANGE]);
            fallocate(open(), kind, offset, len).unwrap();
        }
        17 if is_file && can.reflink => clone(&path, &new),
        18 if is_file => {
            // Move parts within the file.
            let file = open();
            let block = can.block.max(4096);
            let size = file.metadata().unwrap().len();
            if size > 8 * block {
                let kind = *random.pick(&[FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE]);
                fallocate(&file, kind, block, block).unwrap();
            }
        }
        _ if is_file => {
            let mut file = open();
            file.seek(SeekFrom::Start(offset / 2)).unwrap();
            let mut bytes = Vec::new();
            (&mut file).take(len).read_to_end(&mut bytes).unwrap();
            bytes.iter_mut().for_each(|byte| *byte ^= 1);
            file.write_all(&bytes).unwrap();
            if random.once_in(2) {
                file.sync_all().unwrap();
            }
        }
        _ => {}
    }
}
