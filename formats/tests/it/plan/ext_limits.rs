//! ext volumes at their limits: large directories, files and volumes, and what is refused.

use mif_formats::fs::Timestamp;
use std::os::unix::ffi::OsStrExt;

use mif_formats::fs::ext4::plan::{HashVersion, Params, Plan};
use mif_formats::fs::plan::Tree;
use mif_formats::{Error, ErrorKind};

use super::ext::{assert_clean, assert_sound, params};
use super::trees::{empty, file, folder, sparse, symlink, xattr};
use super::volume::write;
use crate::tools::{Mount, have, scratch};

/// Returns a tree with a directory `/many` of `count` empty files.
fn many(count: usize, name: impl Fn(usize) -> Vec<u8>) -> Tree {
    let mut tree = empty();
    tree.add(b"/many", None, folder()).unwrap();
    for i in 0..count {
        tree.add(&[b"/many/", &name(i)[..]].concat(), None, file(0, 0)).unwrap();
    }
    tree.finish().unwrap();
    tree
}

#[test]
fn folders_of_one_to_a_hundred_thousand_entries_are_clean() {
    if !have(&["e2fsck"]) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let long = |i: usize| format!("{i}{}", "n".repeat(200)).into_bytes();
    let odd = |i: usize| [&b"\xe9\xff\x80"[..], i.to_string().as_bytes()].concat();
    for (count, block, features, name) in [
        (1, 1024, "", &long as &dyn Fn(usize) -> Vec<u8>),
        (3, 1024, "", &long),
        (4, 1024, "", &long),
        (100, 1024, "", &long),
        (1000, 1024, "", &odd),
        (10_000, 1024, "", &long),
        (10_000, 4096, "^metadata_csum,^metadata_csum_seed", &odd),
        (10_000, 65_536, "", &long),
        (10_000, 1024, "^dir_index", &odd),
        (70_000, 1024, "large_dir", &long),
        (100_000, 4096, "", &odd),
    ] {
        let tree = many(count, name);
        for version in [HashVersion::HalfMd4, HashVersion::Tea, HashVersion::Legacy] {
            if count > 10_000 && version != HashVersion::HalfMd4 {
                continue;
            }
            let size = if block == 4096 { 1 << 30 } else { 256 << 20 };
            let mut params = params("ext4", size, block, features);
            params.hash_version = version;
            params.set_inodes(count as u64 + 100);
            assert_sound(&format!("{count} {block} {features} {version:?}"), &tree, &params, &image);
        }
    }
}

#[test]
fn the_kernel_finds_every_name_by_its_hash() {
    if !have(&["e2fsck", "mount", "mke2fs"]) {
        return;
    }
    let scratch = scratch();
    let (image, mnt) = (scratch.path().join("image"), scratch.path().join("mnt"));
    // The superblock says whether the hash uses signed bytes. Set by hand, because mke2fs sets only one of them.
    crate::tools::mke2fs(&image, 64, "-t ext4 -b 1024 -O ^metadata_csum,^64bit -N 30000");
    let mut superblock = std::fs::read(&image).unwrap()[1024..2048].to_vec();
    let name = |i: usize| [b"\xe9\xff\x80 name ", i.to_string().as_bytes()].concat();
    let tree = many(20_000, name);
    for version in [HashVersion::HalfMd4, HashVersion::Tea, HashVersion::Legacy] {
        for flags in [1, 2] {
            superblock[0x160] = flags;
            let mut params = Params::from_superblock(&superblock).unwrap();
            params.hash_version = version;
            write(&Plan::new(&tree, params).unwrap(), &image);
            assert_clean(&format!("{version:?}, flags {flags}"), &image);
            let Some(mount) = Mount::new(&image, &mnt, "ro") else { return };
            for i in 0..20_000 {
                let path = mount.path.join("many").join(std::ffi::OsStr::from_bytes(&name(i)));
                assert!(path.symlink_metadata().is_ok(), "{version:?}, flags {flags}: {i}");
            }
        }
    }
}

/// Takes half a minute, and runs the same code as a hundred thousand entries.
#[test]
fn a_folder_of_a_million_entries_is_clean() {
    if !have(&["e2fsck"]) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    for (block, features) in [(4096, ""), (1024, "large_dir")] {
        let tree = many(1_000_000, |i| format!("file number {i}").into_bytes());
        let mut params = params("ext4", 4 << 30, block, features);
        params.set_inodes(1_000_100);
        let plan = Plan::new(&tree, params).unwrap();
        write(&plan, &image);
        assert_clean(&format!("a million, {block}"), &image);
    }
}

#[test]
fn sixty_five_thousand_links_and_folders_are_held_and_one_link_more_is_refused() {
    if !have(&["e2fsck"]) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let tree = |links: usize, folders: usize| {
        let mut tree = empty();
        tree.add(b"/links", None, folder()).unwrap();
        let linked = tree.add(b"/linked", None, file(1, 5)).unwrap();
        for i in 1..links {
            tree.link(format!("/links/{i}").as_bytes(), None, linked).unwrap();
        }
        for i in 0..folders {
            tree.add(format!("/links/folder {i}").as_bytes(), None, folder()).unwrap();
        }
        tree.finish().unwrap();
        tree
    };
    let mut large = params("ext4", 1 << 30, 4096, "");
    large.set_inodes(70_000);
    assert_sound("links", &tree(65_000, 65_001), &large, &image);
    let error = refused(&tree(65_001, 0), large.clone());
    assert!(error.to_string().contains("65001 hard links, over the limit of 65000"), "{error}");
    large.change_features("^dir_nlink").unwrap();
    let error = refused(&tree(1, 65_001), large);
    assert!(error.to_string().contains("dir_nlink"), "{error}");
}

#[test]
fn files_of_terabytes_with_holes_are_clean() {
    if !have(&["e2fsck"]) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    for (kind, block, size) in [
        ("ext4", 4096, 4_u64 << 40),
        ("ext4", 1024, (4 << 40) - 1024),
        ("ext3", 4096, 2 << 40),
        ("ext2", 1024, 16 << 30),
    ] {
        let mut tree = empty();
        let data = (0..700).map(|i| size / 701 * i..size / 701 * i + 10_000).collect();
        tree.add(b"/sparse", None, sparse(1, size, data)).unwrap();
        // Needs as many extents as blocks: a tree of two levels if blocks are small.
        let data = (0..6000).map(|i| i * 2 * u64::from(block)..(i * 2 + 1) * u64::from(block)).collect();
        tree.add(b"/comb", None, sparse(2, 100 << 20 | 77 << 30, data)).unwrap();
        tree.finish().unwrap();
        let size = if kind == "ext2" { 16 << 30 } else { 77 << 30 | 100 << 20 };
        if kind == "ext2" {
            let error = refused(&tree, params(kind, 64 << 20, block, ""));
            assert!(
                error.to_string().contains("over the limit of 17247252480 on this filesystem"),
                "{error} {size}"
            );
            continue;
        }
        assert_sound(&format!("{kind} {block}"), &tree, &params(kind, 128 << 20, block, ""), &image);
    }
}

#[test]
fn volumes_of_two_megabytes_to_two_terabytes_are_clean() {
    if !have(&["e2fsck"]) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let mut tree = empty();
    tree.add(b"/folder", None, folder()).unwrap();
    tree.add(b"/folder/file", None, file(5, 300_000)).unwrap();
    tree.finish().unwrap();
    for (kind, block, size, features) in [
        ("ext2", 1024, 2 << 20, ""),
        ("ext4", 1024, 2 << 20, "^has_journal"),
        ("ext4", 4096, 8 << 20, ""),
        ("ext4", 1024, (8 << 20) + (30 << 10), ""),
        ("ext4", 1024, (1 << 30) + 12_345, ""),
        ("ext3", 4096, 20 << 30, ""),
        ("ext4", 4096, 2_u64 << 40, ""),
    ] {
        let params = params(kind, size, block, features);
        let what = format!("{kind} {block} {size}");
        if size < 1 << 40 {
            assert_sound(&what, &tree, &params, &image);
            continue;
        }
        let plan = Plan::new(&tree, params).unwrap();
        let mut bytes = 0;
        mif_formats::fs::plan::Planned::emit(&plan, &mut |_, placed| {
            if let mif_formats::fs::plan::Placed::Bytes(b) = placed {
                bytes += b.len();
            }
            Ok(())
        })
        .unwrap();
        assert!(bytes < 64 << 20, "{bytes} bytes of metadata for a volume with hardly anything in it");
        write(&plan, &image);
        assert_clean(&what, &image);
    }
}

#[test]
fn a_large_file_lies_in_as_few_pieces_as_the_volume_lets_it() {
    if !have(&["e2fsck"]) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    for (kind, block) in [("ext4", 4096), ("ext4", 1024), ("ext3", 1024), ("ext2", 4096)] {
        let mut tree = empty();
        tree.add(b"/large", None, file(9, 200 << 20)).unwrap();
        tree.finish().unwrap();
        assert_sound(&format!("{kind} {block}"), &tree, &params(kind, 300 << 20, block, ""), &image);
    }
}

#[test]
fn attributes_up_to_their_limits_are_clean_and_one_byte_more_is_refused() {
    if !have(&["e2fsck"]) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    for (block, inode_size) in [(1024_u32, 128_u16), (4096, 256), (65_536, 256), (4096, 1024)] {
        // The block contains its header, the entry with the name, the end mark and the value.
        let most = block as usize - 32 - 16 - 4 - 4;
        let tree = |len: usize| {
            let mut tree = empty();
            let mut one = file(1, 1);
            one.meta.xattrs = vec![xattr("user.a", &vec![7; len])];
            tree.add(b"/one", None, one).unwrap();
            let mut small = file(1, 1);
            small.meta.xattrs =
                (0..9).map(|i| xattr(&format!("user.{i}"), &vec![i; usize::from(i) * 9])).collect();
            small.meta.xattrs.push(xattr(&format!("user.{}", "n".repeat(250)), b"x"));
            tree.add(b"/many", None, small).unwrap();
            tree.finish().unwrap();
            tree
        };
        let mut params = params("ext4", if block == 65_536 { 300 << 20 } else { 32 << 20 }, block, "");
        params.inode_size = inode_size;
        params.set_inodes(2000);
        assert_sound(&format!("{block} {inode_size}"), &tree(most), &params, &image);
        let error = refused(&tree(most + 1), params);
        assert!(error.to_string().contains("one block of"), "{error}");
    }
}

#[test]
fn attributes_of_64_kib_have_inodes_of_their_own() {
    if !have(&["e2fsck"]) {
        return;
    }
    let scratch = scratch();
    let (image, mnt) = (scratch.path().join("image"), scratch.path().join("mnt"));
    let mut tree = empty();
    let mut large = file(1, 10);
    large.meta.xattrs = vec![
        xattr("user.a", &[1; 65_536]),
        xattr("user.b", &[2; 60_000]),
        xattr("user.c", &[3; 500]),
        xattr("user.d", b"4"),
    ];
    tree.add(b"/large", None, large.clone()).unwrap();
    large.meta.xattrs.truncate(1);
    tree.add(b"/same", None, large.clone()).unwrap();
    let mut link = symlink(b"short");
    link.meta.xattrs = vec![xattr("trusted.long", &[5; 30_000])];
    tree.add(b"/link", None, link).unwrap();
    tree.finish().unwrap();
    for (block, features) in [
        (4096, "ea_inode"),
        (1024, "ea_inode,^metadata_csum,^metadata_csum_seed"),
        (4096, "ea_inode,^extent,^64bit"),
    ] {
        let params = params("ext4", 64 << 20, block, features);
        assert_sound(&format!("{block} {features}"), &tree, &params, &image);
        let source = std::sync::Arc::new(super::volume::Image::open(&image));
        let ours = crate::view::ours(&mif_formats::fs::ext4::Ext4::open(source.clone()).unwrap(), &*source);
        let Some(mount) = Mount::new(&image, &mnt, "ro,user_xattr") else { return };
        let mut theirs = crate::view::theirs(&mount.path);
        for entry in theirs.values_mut() {
            entry.xattrs.sort();
        }
        crate::view::assert_same(features, &ours, &theirs);
    }
}

#[test]
fn a_planned_volume_can_be_grown_by_resize2fs() {
    if !have(&["e2fsck", "resize2fs"]) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let tree = many(500, |i| format!("{i}").into_bytes());
    for (kind, block, features) in
        [("ext4", 4096, ""), ("ext4", 1024, ""), ("ext4", 1024, "meta_bg,^resize_inode"), ("ext3", 1024, "")]
    {
        let what = format!("{kind} {block} {features}");
        write(&Plan::new(&tree, params(kind, 64 << 20, block, features)).unwrap(), &image);
        std::fs::File::options().write(true).open(&image).unwrap().set_len(3 << 30).unwrap();
        crate::tools::run("resize2fs", &[&image]);
        assert_clean(&what, &image);
    }
}

#[test]
fn no_superblock_makes_planning_panic() {
    let tree = many(300, |i| format!("{i}").into_bytes());
    let mut emitted = Vec::new();
    let plan = Plan::new(&tree, params("ext4", 16 << 20, 1024, "")).unwrap();
    mif_formats::fs::plan::Planned::emit(&plan, &mut |offset, placed| {
        if let (1024, mif_formats::fs::plan::Placed::Bytes(bytes)) = (offset, placed) {
            emitted = bytes.to_vec();
        }
        Ok(())
    })
    .unwrap();
    let mut random = super::trees::Random(7);
    let mut planned = 0;
    for _ in 0..3000 {
        let mut bytes = emitted.clone();
        for _ in 0..1 + random.below(3) {
            let at = random.below(0x180) as usize;
            bytes[at] =
                if random.below(2) == 0 { random.below(256) as u8 } else { bytes[at] ^ 1 << random.below(8) };
        }
        let Ok(params) = Params::from_superblock(&bytes) else { continue };
        if params.size() > 1 << 30 {
            continue; // a caller holds the size against the volume's
        }
        if let Ok(plan) = Plan::new(&tree, params) {
            planned += 1;
            mif_formats::fs::plan::Planned::emit(&plan, &mut |_, _| Ok(())).unwrap();
        }
    }
    assert!(planned > 1000, "{planned}");
}

fn refused(tree: &Tree, params: Params) -> Error {
    Plan::new(tree, params).err().expect("it was planned")
}

#[test]
fn what_a_volume_cannot_hold_is_refused_in_words() {
    let with = |path: &[u8], new| {
        let mut tree = empty();
        tree.add(path, None, new).unwrap();
        tree.finish().unwrap();
        tree
    };
    let small = || params("ext4", 16 << 20, 1024, "");
    let case = |tree: &Tree, params: Params, kind: ErrorKind, words: &str| {
        let error = refused(tree, params);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}, expected {words}");
    };
    case(&with(b"/x", file(1, 20 << 20)), small(), ErrorKind::Limit, "no room: the tree needs 2");
    let long = [b"/".to_vec(), vec![b'n'; 256]].concat();
    case(
        &with(&long, file(1, 1)),
        small(),
        ErrorKind::Unsupported,
        "the name has 256 bytes, over the limit of 255",
    );
    case(
        &with(b"/x", symlink(&[b't'; 1024])),
        small(),
        ErrorKind::Unsupported,
        "the target of the symlink has 1024 bytes",
    );
    let mut old = params("ext2", 16 << 20, 1024, "");
    old.inode_size = 128;
    old.set_inodes(100);
    let mut future = file(1, 1);
    future.meta.mtime = Some(Timestamp { secs: 1 << 32, nanos: 0 });
    case(&with(b"/x", future), old.clone(), ErrorKind::Unsupported, "has the time 4294967296");
    let mut tree = empty();
    for i in 0..300 {
        tree.add(format!("/{i}").as_bytes(), None, file(0, 0)).unwrap();
    }
    tree.finish().unwrap();
    case(&tree, old, ErrorKind::Limit, "the tree needs 311 inodes, but the volume has");
    for (flag, words) in
        [(0x800, "is encrypted"), (0x10_0000, "fs-verity"), (0x4000_0000, "case-insensitive")]
    {
        let mut odd = file(1, 1);
        odd.meta.flags = flag;
        case(&with(b"/x", odd), small(), ErrorKind::Unsupported, words);
    }
    let mut owned = file(1, 1);
    owned.meta.project = Some(5);
    case(&with(b"/x", owned), small(), ErrorKind::Unsupported, "project");
    let bad = params("ext4", 16 << 20, 1024, "bigalloc");
    case(&with(b"/x", file(1, 1)), bad, ErrorKind::Unsupported, "bigalloc");
}

#[test]
fn a_tree_that_is_none_is_refused() {
    let mut tree = empty();
    for path in [&b"x"[..], b"/", b"/.", b"/..", b"/a/b", b"/a\0", b""] {
        assert!(tree.add(path, None, file(1, 1)).is_err(), "{}", path.escape_ascii());
    }
    assert!(tree.add(b"/x", None, sparse(1, 10, vec![5..11])).is_err());
    assert!(tree.add(b"/x", None, sparse(1, 10, vec![5..6, 3..4])).is_err());
    assert!(tree.link(b"/x", None, 0).is_err(), "a second path to the root");
    tree.add(b"/x", None, folder()).unwrap();
    tree.add(b"/x", None, folder()).unwrap();
    assert!(tree.finish().is_err(), "a path twice");
}
