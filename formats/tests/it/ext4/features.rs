//! Volumes that this kernel cannot or must not mount: made by `mke2fs -d` and `debugfs -w`, and compared with the
//! tree they were made from.

use std::fs;
use std::path::Path;

use mif_formats::fs::{FileType, Filesystem, Piece};

use super::kernel::{Can, live};
use crate::tools::{debugfs, have, load, mke2fs, open, run, scratch};
use crate::view::{View, assert_same, ours, theirs};

/// Keeps only what a copy has in common with its original.
fn comparable(mut view: View) -> View {
    view.remove(&b"/lost+found"[..]);
    view.remove(&b""[..]);
    for entry in view.values_mut() {
        (entry.inode, entry.atime, entry.ctime, entry.crtime) = (0, (0, 0), (0, 0), None);
        // mke2fs copies only 32 bits of the seconds, and makes each hard link of a symlink a symlink of its own.
        entry.mtime = (i64::from(entry.mtime.0 as i32), 0);
        match entry.file_type {
            FileType::Dir => (entry.nlink, entry.size) = (0, 0),
            FileType::Symlink => entry.nlink = 0,
            _ => {}
        }
    }
    view
}

/// Makes a tree with everything that `mke2fs -d` can copy.
fn tree(path: &Path) {
    fs::create_dir(path).unwrap();
    live(path, &Can { xattr: 300, fallocate: false, block: 4096 });
    fs::remove_file(path.join("socket")).unwrap();
    // With inline_data, mke2fs -d rounds the size of a file that ends in a hole.
    fs::File::options().write(true).open(path.join("sparse")).unwrap().set_len(1 << 33).unwrap();
}

#[test]
fn volumes_of_every_feature_hold_the_tree_that_they_were_made_of() {
    if !have(&["mke2fs"]) {
        return;
    }
    let scratch = scratch();
    let (source, image) = (scratch.path().join("tree"), scratch.path().join("image"));
    tree(&source);
    let expected = comparable(theirs(&source));
    for options in [
        "-t ext4 -b 1024 -O inline_data",
        "-t ext4 -b 4096 -O inline_data -I 512",
        "-t ext4 -b 4096 -O inline_data,^metadata_csum -I 1024",
        "-t ext4 -b 1024 -O inline_data,ea_inode,^dir_index",
        "-t ext4 -b 8192",
        "-t ext4 -b 16384 -O ^metadata_csum",
        "-t ext4 -b 65536 -N 4000",
        "-t ext2 -b 65536 -N 4000",
        "-t ext4 -b 65536 -O inline_data,bigalloc -N 4000",
        "-t ext4 -O casefold -E encoding=utf8",
        "-t ext4 -O encrypt,verity,stable_inodes",
        "-t ext4 -b 1024 -O project,quota -E quotatype=usrquota:grpquota:prjquota",
        "-t ext4 -b 1024 -O orphan_file,fast_commit,metadata_csum_seed",
        "-t ext4 -O sparse_super2,^resize_inode -E num_backup_sb=0",
        "-t ext4 -b 1024 -O ^sparse_super,^resize_inode,^64bit,^metadata_csum",
        "-t ext4 -b 1024 -O ^flex_bg -g 256 -N 8000",
        "-t ext4 -b 2048 -O meta_bg,^resize_inode,bigalloc -C 8192",
        "-t ext4 -b 1024 -o hurd -O ^filetype,^metadata_csum",
        "-t ext3 -b 4096 -O ^sparse_super,^resize_inode",
    ] {
        let folder = source.to_str().unwrap();
        mke2fs(&image, 320, &format!("-d {folder} {options}"));
        let volume = load(&image);
        let fs = open(&image);
        assert_eq!(fs.info().warnings, Vec::<String>::new(), "{options}");
        assert_same(options, &comparable(ours(&fs, &volume)), &expected);
    }
}

#[test]
fn a_damaged_superblock_is_taken_from_its_backup_however_large_the_groups_are() {
    if !have(&["mke2fs"]) {
        return;
    }
    const SB: usize = 1024;
    let scratch = scratch();
    let (source, image) = (scratch.path().join("tree"), scratch.path().join("image"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), b"content").unwrap();
    let open = |bytes: &[u8]| {
        mif_formats::fs::ext4::Ext4::open(std::sync::Arc::new(mif_formats::MemSource(bytes.to_vec())))
    };
    for (mib, options) in [
        (20, "-b 1024"),
        (20, "-b 1024 -g 1024 -O ^metadata_csum"),
        (40, "-b 1024 -O bigalloc -C 4096"),
        (40, "-b 1024 -O bigalloc,^metadata_csum -C 2048 -g 4096"),
        (300, "-b 2048 -O bigalloc -C 16384"),
        (600, "-b 8192 -O ^resize_inode,sparse_super2"),
    ] {
        mke2fs(&image, mib, &format!("-t ext4 -N 256 -d {} {options}", source.display()));
        let whole = fs::read(&image).unwrap();
        let expected = ours(&open(&whole).unwrap(), &load(&image));
        let has_sums = !options.contains("^metadata_csum");
        for (at, value, needs_sum) in [
            (0x18, 99, false),         // s_log_block_size: impossible
            (0x28, 0, false),          // s_inodes_per_group: impossible
            (0x28, 8, true),           // possible, and wrong
            (0x60, 0x4000_02C2, true), // s_feature_incompat: one that nobody knows
        ] {
            if needs_sum && !has_sums {
                continue;
            }
            let mut bytes = whole.clone();
            bytes[SB + at..SB + at + 4].copy_from_slice(&u32::to_le_bytes(value));
            let fs = open(&bytes).unwrap();
            let warnings = &fs.info().warnings;
            assert!(warnings.iter().any(|w| w.contains("its backup at byte")), "{options}: {warnings:?}");
            assert_same(options, &ours(&fs, &load(&image)), &expected);
        }
        // Undamaged, but with an unknown feature: no backup superblock makes it readable.
        if !has_sums {
            let mut bytes = whole;
            bytes[SB + 0x63] = 0x40;
            assert_eq!(open(&bytes).err().unwrap().kind(), mif_formats::ErrorKind::Unsupported);
        }
    }
}

#[test]
fn folders_that_are_casefolded_or_encrypted_are_listed_and_marked() {
    if !have(&["mke2fs", "debugfs"]) {
        return;
    }
    let scratch = scratch();
    let (source, image) = (scratch.path().join("tree"), scratch.path().join("image"));
    for folder in ["folded", "secret"] {
        fs::create_dir_all(source.join(folder)).unwrap();
        fs::write(source.join(folder).join("N\u{e4}me"), b"content").unwrap();
    }
    let folder = source.to_str().unwrap();
    mke2fs(&image, 20, &format!("-d {folder} -t ext4 -O casefold,encrypt -E encoding=utf8"));
    debugfs(&image, "sif /folded flags 0x40080000");
    debugfs(&image, "sif /secret flags 0x80800");
    let fs = open(&image);
    let list = |id| fs.read_dir(id, &mut |error| panic!("{error}")).unwrap();
    for entry in list(fs.root()) {
        let (flag, name) = match &entry.name[..] {
            b"folded" => (0x4000_0000, "N\u{e4}me".as_bytes()),
            b"secret" => (0x800, &b"TsOkbWU"[..]),
            _ => continue,
        };
        assert_ne!(fs.node(entry.node, &mut |_| ()).unwrap().flags & flag, 0);
        let entries = list(entry.node);
        assert_eq!(entries[0].name, name);
        assert_eq!(fs.node(entries[0].node, &mut |_| ()).unwrap().size, 7);
    }
}

#[test]
fn project_generation_and_flags_are_those_that_debugfs_set() {
    if !have(&["mke2fs", "debugfs"]) {
        return;
    }
    let scratch = scratch();
    let (source, image) = (scratch.path().join("tree"), scratch.path().join("image"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), b"content").unwrap();
    let folder = source.to_str().unwrap();
    mke2fs(&image, 20, &format!("-d {folder} -t ext4 -O project"));
    for set in ["projid 4000000000", "generation 0xCAFEBABE", "flags 0x800b0", "links_count 65000"] {
        debugfs(&image, &format!("sif /file {set}"));
    }
    let fs = open(&image);
    let entries = fs.read_dir(fs.root(), &mut |error| panic!("{error}")).unwrap();
    let file = entries.iter().find(|entry| entry.name == b"file").unwrap();
    let node = fs.node(file.node, &mut |_| ()).unwrap();
    assert_eq!(node.project, Some(4_000_000_000));
    assert_eq!(node.generation, Some(0xCAFE_BABE));
    assert_eq!(node.flags, 0x800B0);
    assert_eq!(node.nlink, Some(65_000));
}

#[test]
fn a_file_sealed_by_verity_ends_where_its_size_says_and_not_with_its_merkle_tree() {
    if !have(&["mke2fs", "debugfs"]) {
        return;
    }
    const SEALED: u32 = 0x10_0000;
    let scratch = scratch();
    let (source, image) = (scratch.path().join("tree"), scratch.path().join("image"));
    fs::create_dir(&source).unwrap();
    // As in the kernel: the Merkle tree begins at the next multiple of 64 KiB past the end, in blocks of the file.
    let bytes: Vec<u8> = (0..80_000_u32).map(|i| (i / 7) as u8 | 1).collect();
    fs::write(source.join("file"), &bytes).unwrap();
    mke2fs(&image, 20, &format!("-d {} -t ext4 -O verity", source.display()));
    debugfs(&image, "sif /file size 5000");
    debugfs(&image, &format!("sif /file flags {:#x}", SEALED | 0x8_0000));
    let fs = open(&image);
    let entries = fs.read_dir(fs.root(), &mut |error| panic!("{error}")).unwrap();
    let file = entries.iter().find(|entry| entry.name == b"file").unwrap().node;
    let node = fs.node(file, &mut |error| panic!("{error}")).unwrap();
    assert_eq!((node.size, node.flags & SEALED), (5000, SEALED));
    let (content, volume) = (fs.content(file).unwrap(), load(&image));
    let mut read = Vec::new();
    for piece in content.pieces {
        let Piece::Volume { offset, len } = piece else { panic!("{piece:?}") };
        read.extend(volume.read_vec(offset, len as usize).unwrap());
    }
    assert_eq!(read, bytes[..5000]);
}

#[test]
fn what_is_open_though_deleted_is_not_shown() {
    if !have(&["mke2fs", "debugfs"]) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    mke2fs(&image, 20, "-t ext4");
    debugfs(&image, "write /etc/hostname gone");
    let before = open(&image);
    assert!(
        before.read_dir(before.root(), &mut |e| panic!("{e}")).unwrap().iter().any(|e| e.name == b"gone")
    );
    // An orphan: its inode exists, but has no name and no links.
    debugfs(&image, "sif /gone links_count 0");
    debugfs(&image, "unlink /gone");
    let after = open(&image);
    assert!(after.read_dir(after.root(), &mut |e| panic!("{e}")).unwrap().iter().all(|e| e.name != b"gone"));
    let error = after.node(12, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("i_links_count"), "{error}");
}

#[test]
fn a_volume_whose_journal_is_elsewhere_is_read_without_and_says_so() {
    if !have(&["mke2fs", "debugfs"]) {
        return;
    }
    let scratch = scratch();
    let (image, journal) = (scratch.path().join("image"), scratch.path().join("journal"));
    mke2fs(&journal, 20, "-b 4096 -O journal_dev");
    let error = mif_formats::fs::ext4::Ext4::open(load(&journal)).err().unwrap();
    assert_eq!(error.kind(), mif_formats::ErrorKind::Unsupported);
    mke2fs(&image, 20, "-t ext4 -b 4096");
    run("tune2fs", &["-O".as_ref(), "^has_journal".as_ref(), image.as_os_str()]);
    debugfs(&image, "feature has_journal needs_recovery");
    let warnings = open(&image).info().warnings.clone();
    assert!(warnings.iter().any(|w| w.contains("on another device")), "{warnings:?}");
}
