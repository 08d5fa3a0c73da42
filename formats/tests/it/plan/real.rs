//! A real tree of files: the directory that `MIF_TESTS_TREE` names.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use mif_formats::fs::ext4::Ext4;
use mif_formats::fs::ext4::plan::{Plan, minimum_size};
use mif_formats::fs::plan::{Tree, TreeNode};
use mif_formats::fs::{FileType, Node, Timestamp};

use super::ext::{assert_clean, params};
use super::trees::node;
use super::volume::{Image, write_with};
use crate::tools::{Mount, have, scratch};
use crate::view::{assert_same, ours, theirs, type_of};

fn read_node(path: &Path) -> Node {
    let meta = std::fs::symlink_metadata(path).unwrap();
    let kind = meta.file_type();
    let file_type = type_of(kind);
    let rdev = meta.rdev();
    let time = |secs, nanos: i64| Some(Timestamp { secs, nanos: nanos as u32 });
    let target = kind.is_symlink().then(|| std::fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec());
    let mut xattrs: Vec<_> = crate::view::xattrs(path)
        .into_iter()
        .map(|(name, value)| mif_formats::fs::Xattr { name, value })
        .collect();
    xattrs.sort();
    Node {
        mode: Some((meta.mode() & 0xFFF) as u16),
        uid: Some(meta.uid()),
        gid: Some(meta.gid()),
        size: meta.len(),
        mtime: time(meta.mtime(), meta.mtime_nsec()),
        atime: time(meta.atime(), meta.atime_nsec()),
        ctime: time(meta.ctime(), meta.ctime_nsec()),
        crtime: time(meta.mtime(), meta.mtime_nsec()),
        rdev: (kind.is_char_device() || kind.is_block_device())
            .then_some((((rdev >> 8) & 0xFFF) as u32, (rdev & 0xFF | (rdev >> 12) & 0xF_FF00) as u32)),
        link_target: target,
        xattrs,
        ..node(file_type)
    }
}

fn read_tree(root: &Path) -> (Tree, Vec<PathBuf>) {
    let mut tree = Tree::new(read_node(root));
    let mut files = Vec::new();
    let mut links = HashMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let inner = path.as_os_str().as_bytes()[root.as_os_str().len()..].to_vec();
            let stat = std::fs::symlink_metadata(&path).unwrap();
            if let Some(index) = links.get(&stat.ino()) {
                tree.link(&inner, None, *index).unwrap();
                continue;
            }
            let meta = read_node(&path);
            if meta.file_type == FileType::Dir {
                tree.add(&inner, None, TreeNode::new(meta)).unwrap();
                todo.push(path);
                continue;
            }
            let node = if meta.file_type == FileType::File && meta.size > 0 {
                let whole = 0..meta.size;
                TreeNode::file(meta, files.len() as u64, vec![whole])
            } else {
                TreeNode::new(meta)
            };
            files.push(path);
            links.insert(stat.ino(), tree.add(&inner, None, node).unwrap());
        }
    }
    tree.finish().unwrap();
    (tree, files)
}

#[test]
#[ignore = "needs a tree: MIF_TESTS_TREE"]
fn a_real_tree_is_planned_and_the_kernel_agrees() {
    let Some(root) = std::env::var_os("MIF_TESTS_TREE").map(PathBuf::from) else { return };
    if !have(&["e2fsck", "mount"]) {
        return;
    }
    let scratch = scratch();
    let (image, mnt) = (scratch.path().join("image"), scratch.path().join("mnt"));
    let (tree, files) = read_tree(&root);
    for (kind, block, features) in
        [("ext4", 4096, ""), ("ext4", 1024, ""), ("ext3", 4096, ""), ("ext2", 1024, "")]
    {
        let what = format!("{kind} {block} {features}");
        let params = params(kind, 2 << 30, block, features);
        let started = Instant::now();
        let plan = Plan::new(&tree, params.clone()).unwrap();
        let planned = started.elapsed();
        let mut metadata = 0;
        let started = Instant::now();
        mif_formats::fs::plan::Planned::emit(&plan, &mut |_, placed| {
            if let mif_formats::fs::plan::Placed::Bytes(bytes) = placed {
                metadata += bytes.len();
            }
            Ok(())
        })
        .unwrap();
        eprintln!(
            "{what}: {} nodes planned in {planned:?}, {metadata} bytes of metadata in {:?}",
            tree.nodes().len(),
            started.elapsed()
        );
        write_with(&plan, &image, &mut |key, offset, len| {
            let mut bytes = vec![0; len];
            std::fs::File::open(&files[key as usize]).unwrap().read_exact_at(&mut bytes, offset).unwrap();
            bytes
        });
        assert_clean(&what, &image);
        let source = Arc::new(Image::open(&image));
        let read = ours(&Ext4::open(source.clone()).unwrap(), &*source);
        let Some(mount) = Mount::new(&image, &mnt, "ro,user_xattr,acl") else { return };
        assert_same(&what, &read, &theirs(&mount.path));
        let hash = |view: &crate::view::View| -> Vec<_> {
            view.iter()
                .map(|(p, e)| (p.clone(), e.sha1.clone(), e.mode, e.target.clone(), e.xattrs.clone()))
                .collect()
        };
        assert!(hash(&read) == hash(&theirs(&root)), "{what}: other than the tree itself");
        drop(mount);
        let started = Instant::now();
        eprintln!(
            "{what}: at least {} bytes, found in {:?}",
            minimum_size(&tree, &params).unwrap(),
            started.elapsed()
        );
    }
}
