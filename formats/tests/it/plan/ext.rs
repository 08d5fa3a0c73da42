//! Small ext volumes of every kind.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use mif_formats::fs::ext4::Ext4;
use mif_formats::fs::ext4::plan::{Params, Plan, minimum_size};
use mif_formats::fs::plan::Tree;
use mif_formats::fs::{FileType, Node};

use super::trees::{Can, Random, everything, random};
use super::volume::{Image, assert_read_back, paths, write};
use crate::tools::{Mount, have, run, scratch, try_run};
use crate::view;

/// Flags that a plan keeps.
const KEPT_FLAGS: u32 = 0x2203_C4FF;

/// Checks that e2fsck finds nothing to report.
pub(crate) fn assert_clean(what: &str, path: &Path) {
    let output = try_run("e2fsck", &["-fn".as_ref(), path.as_os_str()]);
    let text = String::from_utf8_lossy(&output.stdout);
    let passes_only = text.lines().all(|line| {
        line.is_empty()
            || line.starts_with("Pass ")
            || line.contains(" files (")
            || line.starts_with("e2fsck")
    });
    assert!(
        output.status.code() == Some(0) && passes_only,
        "{what}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Returns what reading a planned node back must give: planning sets some fields.
pub(crate) fn as_planned(
    plan: &Plan<'_>,
    tree: &Tree,
    params: &Params,
    number: usize,
    node: &Node,
    read: &Node,
) -> Node {
    let links: usize = if node.file_type == FileType::Dir {
        let is_dir = |child: &&mif_formats::fs::plan::Child| {
            tree.nodes()[child.node as usize].meta.file_type == FileType::Dir
        };
        2 + tree.nodes()[number].children.iter().filter(is_dir).count()
    } else {
        read.nlink.unwrap() as usize // counted elsewhere
    };
    let cut = |time: Option<mif_formats::fs::Timestamp>| {
        time.map(|t| mif_formats::fs::Timestamp {
            nanos: if params.inode_size > 128 { t.nanos } else { 0 },
            ..t
        })
    };
    Node {
        nlink: Some(if links > 65_000 { 1 } else { links as u32 }),
        inode: Some(plan.inode(number).into()),
        size: if node.file_type == FileType::Dir { read.size } else { node.size },
        flags: read.flags & !KEPT_FLAGS | node.flags & KEPT_FLAGS,
        mtime: cut(node.mtime),
        atime: cut(node.atime),
        ctime: cut(node.ctime),
        crtime: if params.inode_size > 128 { node.crtime } else { None },
        project: read.project,
        ..node.clone()
    }
}

/// Plans, writes, checks with e2fsck, reads back.
pub(crate) fn assert_sound(what: &str, tree: &Tree, params: &Params, path: &Path) {
    let plan = Plan::new(tree, params.clone()).unwrap_or_else(|e| panic!("{what}: {e}"));
    write(&plan, path);
    assert_clean(what, path);
    let image = Arc::new(Image::open(path));
    let fs = Ext4::open(image.clone()).unwrap();
    assert_read_back(what, tree, &fs, &*image, &|number, node, read| {
        as_planned(&plan, tree, params, number, node, read)
    });
}

/// Returns parameters with a UUID, a label and so on.
pub(crate) fn params(kind: &str, size: u64, block: u32, features: &str) -> Params {
    let mut params = Params::new(kind, size, block, features).unwrap();
    params.uuid =
        [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x47, 0x88, 0x99, 0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF, 1];
    params.hash_seed = [7; 16];
    params.label = b"sixteen letters!".to_vec();
    params.mkfs_time = 1_600_000_000;
    params.write_time = 1_600_000_001;
    params.last_check = 1_600_000_000;
    params
}

/// Returns all shapes of volumes: kind, block size, features, inode size.
fn shapes() -> Vec<(&'static str, u32, String, u16)> {
    let mut shapes = Vec::new();
    for block in [1024, 2048, 4096, 65_536] {
        for kind in ["ext2", "ext3", "ext4"] {
            shapes.push((kind, block, String::new(), 256));
        }
        for features in [
            "^64bit",
            "^metadata_csum,^metadata_csum_seed",
            "^metadata_csum,^metadata_csum_seed,uninit_bg",
            "^metadata_csum,^metadata_csum_seed,uninit_bg,^64bit",
            "^extent,^64bit",
            "^has_journal",
            "^dir_index",
            "^flex_bg",
            "^flex_bg,^metadata_csum,^metadata_csum_seed,uninit_bg,^resize_inode",
            "^resize_inode,meta_bg",
            "^sparse_super,^resize_inode",
            "^filetype,^extra_isize,^huge_file",
            "large_dir,ea_inode,inline_data",
        ] {
            shapes.push(("ext4", block, features.to_owned(), 256));
        }
        shapes.push(("ext3", block, "^dir_index,^resize_inode".to_owned(), 128));
        shapes.push(("ext2", block, "^sparse_super,^resize_inode,^filetype".to_owned(), 128));
        shapes.push(("ext4", block, "project".to_owned(), 1024));
    }
    shapes
}

#[test]
fn volumes_of_every_shape_are_clean_and_read_back() {
    if !have(&["e2fsck"]) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    for (kind, block, features, inode_size) in shapes() {
        let what = format!("{kind} {block} {features} {inode_size}");
        let size = if block == 65_536 { 400 << 20 } else { 64 << 20 };
        let mut params = params(kind, size, block, &features);
        params.inode_size = inode_size;
        params.set_inodes(size >> 14);
        let tree = everything(Can { block: block.into(), large_inodes: inode_size > 128 });
        assert_sound(&what, &tree, &params, &image);
    }
}

#[test]
fn the_kernel_and_our_reader_agree_on_what_was_planned() {
    if !have(&["e2fsck", "mount"]) {
        return;
    }
    let scratch = scratch();
    let (image, mnt) = (scratch.path().join("image"), scratch.path().join("mnt"));
    for (kind, block, features) in [
        ("ext4", 4096, ""),
        ("ext4", 1024, "^metadata_csum,^metadata_csum_seed,uninit_bg"),
        ("ext4", 2048, "^extent,^64bit,^flex_bg"),
        ("ext3", 4096, ""),
        ("ext2", 1024, ""),
    ] {
        let params = params(kind, 64 << 20, block, features);
        let tree = everything(Can { block: block.into(), large_inodes: true });
        let plan = Plan::new(&tree, params).unwrap();
        write(&plan, &image);
        let source = Arc::new(Image::open(&image));
        let ours = view::ours(&Ext4::open(source.clone()).unwrap(), &*source);
        // Read-only at first, so that no access time changes.
        let Some(mount) = Mount::new(&image, &mnt, "ro,user_xattr,acl") else { return };
        let theirs = view::theirs(&mount.path);
        drop(mount);
        view::assert_same(&format!("{kind} {block} {features}"), &ours, &theirs);
        // The kernel can continue from here: every directory accepts new files.
        let Some(mount) = Mount::new(&image, &mnt, "user_xattr,acl") else { return };
        for (path, number) in paths(&tree) {
            let folder = mount.path.join(std::ffi::OsStr::from_bytes(&path[1..]));
            if tree.nodes()[number].meta.file_type == FileType::Dir {
                for i in 0..50 {
                    std::fs::write(folder.join(format!("new {i}")), b"new").unwrap();
                }
                std::fs::remove_file(folder.join("new 7")).unwrap();
            }
        }
        drop(mount);
        assert_clean(&format!("{kind} {block} {features}, written to"), &image);
    }
}

#[test]
fn random_trees_are_clean_and_read_back() {
    if !have(&["e2fsck"]) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let shapes = shapes();
    for seed in 0..40 {
        let mut numbers = Random(seed);
        let (kind, block, features, inode_size) = &shapes[numbers.below(shapes.len() as u64) as usize];
        let nodes = 1 + numbers.below(1500);
        let tree = random(&mut numbers, nodes, u64::from(*block), *inode_size > 128);
        let what = format!("seed {seed}: {nodes} nodes, {kind} {block} {features} {inode_size}");
        let size = if *block == 65_536 { 2 << 30 } else { 300 << 20 };
        let mut params = params(kind, size, *block, features);
        params.inode_size = *inode_size;
        params.set_inodes(nodes * 2 + numbers.below(20_000));
        assert_sound(&what, &tree, &params, &image);
    }
}

#[test]
fn a_plan_takes_what_mke2fs_made_and_keeps_it() {
    if !have(&["mke2fs", "e2fsck", "dumpe2fs"]) {
        return;
    }
    let scratch = scratch();
    let (original, image) = (scratch.path().join("original"), scratch.path().join("image"));
    for options in [
        "-t ext4 -b 4096 -L label -E hash_seed=11223344-5566-4788-99aa-bbccddeeff00",
        "-t ext4 -b 1024 -e remount-ro -m 1 -M /mnt/x",
        "-t ext4 -b 4096 -I 512 -N 5000 -G 4 -O metadata_csum_seed,orphan_file",
        "-t ext4 -b 2048 -O ^metadata_csum,uninit_bg -J size=8",
        "-t ext3 -b 4096 -I 128",
        "-t ext2 -b 1024 -r 0 -O none",
        "-t ext4 -b 1024 -O meta_bg,^resize_inode",
        "-t ext4 -b 4096 -O sparse_super2,^resize_inode -E num_backup_sb=2",
        "-t ext4 -b 1024 -g 1024 -O ^resize_inode",
    ] {
        crate::tools::mke2fs(&original, 256, options);
        let source = Image::open(&original);
        let params = Params::from_volume(&source).unwrap();
        let tree = {
            let mut tree = super::trees::empty();
            tree.finish().unwrap();
            tree
        };
        assert_sound(options, &tree, &params, &image);
        let dump = |path: &Path| {
            let text = run("dumpe2fs", &["-h".as_ref(), path.as_os_str()]).stdout;
            let text = String::from_utf8_lossy(&text).into_owned();
            let counted = [
                "Free blocks",
                "Free inodes",
                "Overhead",
                "Checksum:",
                "Journal start",
                "Total journal",
                "Journal checksum",
                "Maximum mount",
                "Filesystem state",
                "Mount count",
                "Filesystem features",
                "Journal features",
                "Orphan file",
                "Lifetime writes",
                "Last write time",
                "Required extra isize",
                "Desired extra isize",
            ];
            text.lines()
                .filter(|l| !counted.iter().any(|c| l.starts_with(c)))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(dump(&image), dump(&original), "{options}");
    }
}

#[test]
fn the_same_plan_gives_the_same_bytes() {
    let tree = everything(Can { block: 4096, large_inodes: true });
    let emitted = || {
        let plan = Plan::new(&tree, params("ext4", 64 << 20, 4096, "")).unwrap();
        let mut all = Vec::new();
        mif_formats::fs::plan::Planned::emit(&plan, &mut |offset, placed| {
            all.push(format!("{offset} {placed:?}"));
            Ok(())
        })
        .unwrap();
        all
    };
    assert_eq!(emitted(), emitted());
}

#[test]
fn the_smallest_size_is_enough_and_one_block_less_is_not() {
    if !have(&["e2fsck"]) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    for (kind, block, features) in [("ext4", 4096, ""), ("ext4", 1024, ""), ("ext2", 1024, "")] {
        let params = params(kind, 64 << 20, block, features);
        let tree = everything(Can { block: block.into(), large_inodes: true });
        let size = minimum_size(&tree, &params).unwrap();
        let mut smallest = params.clone();
        smallest.resize(size);
        assert_sound(&format!("smallest {kind} {block}: {size}"), &tree, &smallest, &image);
        let mut smaller = params.clone();
        smaller.resize(size - u64::from(block));
        let error = Plan::new(&tree, smaller).err().unwrap_or_else(|| panic!("{kind} {block}"));
        assert!(error.to_string().contains("no room"), "{error}");
    }
}
