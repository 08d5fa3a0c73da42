//! Volumes that the kernel does not mount: `mkfs.xfs -p` makes them from a tree, and they are compared with the tree.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use mif_formats::fs::FileType;
use rustix::fs::{CWD, FileType as Kind, Mode, XattrFlags, lsetxattr, makedev, mknodat};

use super::{TOOLS, mkfs, scratch, seen};
use crate::tools::have;
use crate::view::{View, assert_same, theirs};

/// Fills a directory with one of everything that a prototype supports, and with attributes if `with_attributes`.
pub(super) fn fill(root: &Path, with_attributes: bool) {
    fs::create_dir_all(root.join("folder/below")).unwrap();
    for (name, size) in [("empty", 0), ("tiny", 40), ("small", 150), ("block", 4096), ("large", 40_000)] {
        fs::write(root.join("folder").join(name), vec![7; size]).unwrap();
    }
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    for i in 0..30_u64 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[1; 100], i * 9000).unwrap();
    }
    for i in 0..120 {
        fs::write(root.join("folder/below").join(format!("{i}_{}", "name".repeat(i % 30))), b"").unwrap();
    }
    symlink("short", root.join("link")).unwrap();
    // mkfs.xfs writes symlink targets in blocks without the headers of version 5.
    symlink("l".repeat(if with_attributes { 700 } else { 150 }), root.join("long")).unwrap();
    fs::hard_link(root.join("sparse"), root.join("again")).unwrap();
    for (name, kind) in [("char", Kind::CharacterDevice), ("block", Kind::BlockDevice), ("fifo", Kind::Fifo)]
    {
        mknodat(CWD, root.join(name), kind, Mode::from_bits_retain(0o640), makedev(3, 70)).unwrap();
    }
    if with_attributes {
        for (name, len) in [("user.a", 5), ("user.b", 120), ("user.c", 3000), ("user.d", 30_000)] {
            let value = vec![b'v'; len];
            lsetxattr(root.join("folder/small"), name, &value, XattrFlags::empty()).unwrap();
        }
        lsetxattr(
            root.join("folder/tiny"),
            "system.posix_acl_access",
            &crate::tools::acl(),
            XattrFlags::empty(),
        )
        .unwrap();
    }
}

/// Makes a volume from a tree.
pub(super) fn make(image: &Path, proto: &Path, tree: &Path, options: &str) {
    let mut text = String::from("/\n0 0\n");
    let meta = fs::metadata(tree).unwrap();
    writeln!(text, "{} {} {}", mode('d', &meta), meta.uid(), meta.gid()).unwrap();
    add(&mut text, tree);
    fs::write(proto, text).unwrap();
    // Large blocks need a larger volume.
    let mib = if options.contains("size=65536") || options.contains("size=32768") { 512 } else { 64 };
    mkfs(image, mib, &format!("{options} -p {}", proto.display()));
}

fn mode(kind: char, meta: &fs::Metadata) -> String {
    let bit = |bit: u32, letter: char| if meta.mode() & bit != 0 { letter } else { '-' };
    format!("{kind}{}{}{:03o}", bit(0o4000, 'u'), bit(0o2000, 'g'), meta.mode() & 0o777)
}

/// Adds the contents of a directory, whose names have no spaces.
fn add(text: &mut String, folder: &Path) {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let name = path.file_name().unwrap().to_str().unwrap();
        let owner = format!("{} {}", meta.uid(), meta.gid());
        let rdev = format!("{} {}", meta.rdev() >> 8 & 0xFFF, meta.rdev() & 0xFF);
        let (letter, rest) = match () {
            () if kind.is_dir() => ('d', String::new()),
            () if kind.is_symlink() => ('l', fs::read_link(&path).unwrap().display().to_string()),
            () if kind.is_char_device() => ('c', rdev),
            () if kind.is_block_device() => ('b', rdev),
            () if kind.is_fifo() => ('p', String::new()),
            () => ('-', path.display().to_string()),
        };
        writeln!(text, "{name} {} {owner} {rest}", mode(letter, &meta)).unwrap();
        if kind.is_dir() {
            add(text, &path);
        }
    }
    writeln!(text, "$").unwrap();
}

/// Keeps only what a prototype specifies.
fn comparable(view: View) -> View {
    view.into_iter()
        .filter(|(path, _)| !path.is_empty())
        .map(|(path, mut entry)| {
            (entry.inode, entry.nlink, entry.crtime) = (0, 0, None);
            (entry.atime, entry.mtime, entry.ctime) = ((0, 0), (0, 0), (0, 0));
            if entry.file_type == FileType::Dir {
                entry.size = 0;
            }
            if entry.file_type == FileType::Symlink {
                entry.mode = 0o777;
            }
            (path, entry)
        })
        .collect()
}

#[test]
fn volumes_of_either_version_hold_the_tree_that_they_were_made_of() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let path = |name: &str| scratch.path().join(name);
    let (tree, image) = (path("tree"), path("image"));
    fill(&tree, false);
    // Directories large enough for an index of each format.
    for count in [3, 60, 700, 4000] {
        fs::create_dir(tree.join(format!("many{count}"))).unwrap();
        for i in 0..count {
            fs::write(tree.join(format!("many{count}/{i:0>40}")), b"").unwrap();
        }
    }
    let expected = comparable(theirs(&tree));
    for options in [
        "-m crc=0,finobt=0",
        "-m crc=0,finobt=0 -n ftype=1",
        "-m crc=0,finobt=0 -b size=512",
        "-m crc=0,finobt=0 -b size=1024 -n size=4096 -i size=256 -d agcount=3",
        "-m crc=0,finobt=0 -b size=65536 -i size=2048 -s size=4096",
        "-m crc=0,finobt=0 -i attr=1,projid32bit=0 -l version=1,lazy-count=0",
        "-m crc=1 -b size=8192",
        "-m crc=1 -b size=32768 -n size=65536 -i size=2048",
        "-m crc=1 -b size=1024 -i nrext64=1",
        "-m crc=1 -b size=2048 -n version=ci",
    ] {
        make(&image, &path("proto"), &tree, options);
        assert_same(options, &comparable(seen(options, &image)), &expected);
    }
}
