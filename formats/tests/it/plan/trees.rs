//! Trees to plan: small ones with one of everything, large ones, and random ones.

use std::ops::Range;

use mif_formats::fs::plan::{Tree, TreeNode};
use mif_formats::fs::{FileType, Node, Timestamp, Xattr};

use crate::tools::acl;

/// Returns a plain node.
pub(crate) fn node(file_type: FileType) -> Node {
    let time = |secs, nanos| Some(Timestamp { secs, nanos });
    Node {
        file_type,
        mode: Some(if file_type == FileType::Dir { 0o755 } else { 0o644 }),
        uid: Some(0),
        gid: Some(0),
        nlink: None,
        inode: None,
        subvolume: None,
        size: 0,
        mtime: time(1_700_000_000, 1),
        atime: time(1_700_000_001, 2),
        ctime: time(1_700_000_002, 3),
        crtime: time(1_700_000_003, 4),
        rdev: None,
        flags: 0,
        generation: Some(0),
        project: None,
        link_target: None,
        xattrs: Vec::new(),
        ntfs: None,
    }
}

pub(crate) fn file(key: u64, size: u64) -> TreeNode {
    let data = if size > 0 { vec![0..size] } else { Vec::new() };
    sparse(key, size, data)
}

pub(crate) fn sparse(key: u64, size: u64, data: Vec<Range<u64>>) -> TreeNode {
    TreeNode::file(Node { size, ..node(FileType::File) }, key, data)
}

pub(crate) fn folder() -> TreeNode {
    TreeNode::new(node(FileType::Dir))
}

pub(crate) fn symlink(target: &[u8]) -> TreeNode {
    TreeNode::new(Node {
        mode: Some(0o777),
        size: target.len() as u64,
        link_target: Some(target.to_vec()),
        ..node(FileType::Symlink)
    })
}

pub(crate) fn xattr(name: &str, value: &[u8]) -> Xattr {
    Xattr { name: name.into(), value: value.to_vec() }
}

/// Returns a tree with only a root and lost+found.
pub(crate) fn empty() -> Tree {
    let mut tree = Tree::new(node(FileType::Dir));
    let mut lost_found = folder();
    lost_found.meta.inode = Some(11);
    lost_found.meta.mode = Some(0o700);
    tree.add(b"/lost+found", None, lost_found).unwrap();
    tree
}

/// The features that small volumes may lack.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Can {
    pub(crate) block: u64,
    /// Inodes of more than 128 bytes.
    pub(crate) large_inodes: bool,
}

/// Returns a tree with one of everything.
pub(crate) fn everything(can: Can) -> Tree {
    let mut tree = empty();
    let mut key = 100;
    let mut add = |path: &[u8], node: TreeNode| tree.add(path, None, node).unwrap();
    add(b"/sizes", folder());
    for size in [0, 1, 59, 60, can.block - 1, can.block, can.block + 1, can.block * 12, can.block * 13 + 5] {
        key += 1;
        add(format!("/sizes/{size}").as_bytes(), file(key, size));
    }
    add(b"/sparse", folder());
    let b = can.block;
    for (i, (size, data)) in [
        (b * 10, vec![]),
        (b * 10, vec![b * 9..b * 10]),
        (b * 100, (0..40).map(|i| i * 2 * b..(i * 2 + 1) * b).collect()),
        (b * 3, vec![5..10, 20..30, b * 2 + 7..b * 2 + 8]),
        (b * 2000 + 7, vec![0..1, b * 1999..b * 2000 + 7]),
        (b * (300 + 300 * 300), vec![b * 12..b * 13, b * 300 * 300..b * 300 * 300 + b]),
    ]
    .into_iter()
    .enumerate()
    {
        add(format!("/sparse/{i}").as_bytes(), sparse(1000 + i as u64, size, data));
    }
    for len in [1, 59, 60, 61, can.block as usize - 1] {
        add(format!("/link {len}").as_bytes(), symlink(&vec![b't'; len.min(4000)]));
    }
    for (name, file_type, rdev) in [
        ("char", FileType::Char, Some((1, 3))),
        ("block", FileType::Block, Some((8, 255))),
        ("char large", FileType::Char, Some((4000, 1_000_000))),
        ("block minor", FileType::Block, Some((8, 256))),
        ("fifo", FileType::Fifo, None),
        ("socket", FileType::Socket, None),
    ] {
        let meta = Node { rdev, ..node(file_type) };
        add(format!("/{name}").as_bytes(), TreeNode::new(meta));
    }
    add(b"/names", folder());
    for (i, name) in [&b"\xff\xfe not utf-8"[..], b"new\nline", b"...", b" ", b"\xc3\xa9", &[b'x'; 255]]
        .into_iter()
        .enumerate()
    {
        add(&[b"/names/", name].concat(), file(2000 + i as u64, 10));
    }
    let mut owned = file(3000, 10);
    owned.meta = Node { mode: Some(0o6755), uid: Some(70_000), gid: Some(0xFFFF_FFF0), ..owned.meta };
    owned.meta.generation = Some(0xDEAD_BEEF);
    owned.meta.flags = 0x40; // nodump
    owned.meta.inode = Some(40);
    owned.meta.xattrs = vec![
        xattr("security.capability", &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        xattr("system.posix_acl_access", &acl()),
        xattr("trusted.x", &[9; 50]),
        xattr("user.empty", b""),
        xattr("user.long", &vec![8; can.block as usize / 2]),
    ];
    let owned = add(b"/owned", owned);
    let mut sticky = folder();
    sticky.meta.mode = Some(0o1777);
    sticky.meta.xattrs =
        vec![xattr("system.posix_acl_access", &acl()), xattr("system.posix_acl_default", &acl())];
    add(b"/sticky", sticky);
    let mut far = symlink(&[b'u'; 100]);
    far.meta.xattrs = vec![xattr("trusted.of a link", b"!")];
    add(b"/link far", far);
    for (name, secs, nanos) in [
        ("1901", -2_147_483_648, 0),
        ("1969", -1, 999_999_999),
        ("1970", 0, 1),
        ("2038", 2_147_483_648, 5),
        ("2106", 4_294_967_296, 123_456_789),
        ("2400", 13_569_465_600, 42),
    ] {
        if secs > i64::from(i32::MAX) && !can.large_inodes {
            continue;
        }
        let mut old = file(0, 0);
        let time = Some(Timestamp { secs, nanos });
        old.meta = Node { atime: time, mtime: time, ctime: time, crtime: time, ..old.meta };
        add(format!("/{name}").as_bytes(), old);
    }
    tree.link(b"/names/again", None, owned).unwrap();
    tree.link(b"/again", None, owned).unwrap();
    let mut path = b"/deep".to_vec();
    for _ in 0..30 {
        tree.add(&path, None, folder()).unwrap();
        path.extend(b"/level");
    }
    tree.finish().unwrap();
    tree
}

/// A generator of pseudorandom numbers, the same in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = (self.0 ^ (self.0 >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
        (mixed >> 11) % end.max(1)
    }
}

/// Returns a random tree.
pub(crate) fn random(random: &mut Random, nodes: u64, block: u64, large_inodes: bool) -> Tree {
    let mut tree = empty();
    let mut folders = vec![Vec::new()];
    let mut files = Vec::new();
    for i in 0..nodes {
        let parent = folders[random.below(folders.len() as u64) as usize].clone();
        let mut name: Vec<u8> = i.to_string().into_bytes();
        name.extend((0..random.below(40)).map(|_| match random.below(255) as u8 + 1 {
            b'/' => b'|',
            b => b,
        }));
        let path = [&parent[..], b"/", &name].concat();
        let mut new = match random.below(12) {
            0 | 1 => folder(),
            2 => symlink(&vec![b's'; 1 + random.below(200) as usize]),
            3 => TreeNode::new(Node {
                rdev: Some((random.below(4096) as u32, random.below(1 << 20) as u32)),
                ..node(FileType::Char)
            }),
            4 if !files.is_empty() => {
                let to = files[random.below(files.len() as u64) as usize];
                tree.link(&path, None, to).unwrap();
                continue;
            }
            5 => {
                let mut data = Vec::new();
                let mut at = 0;
                for _ in 0..random.below(12) {
                    let start = at + 1 + random.below(block * 3);
                    at = start + 1 + random.below(block * 4);
                    data.push(start..at);
                }
                sparse(i, at + random.below(block * 20), data)
            }
            _ => file(i, random.below(block * 20) * random.below(2)),
        };
        let size = new.meta.size;
        new.meta = Node {
            mode: Some(random.below(0o10000) as u16),
            uid: Some(random.below(1 << 32) as u32),
            gid: Some(random.below(1 << 32) as u32),
            generation: Some(random.below(1 << 32) as u32),
            inode: (random.below(3) > 0).then(|| random.below(nodes * 3)),
            mtime: Some(Timestamp {
                secs: random.below(1 << 32) as i64 - (1 << 31),
                nanos: random.below(1_000_000_000) as u32,
            }),
            size,
            ..new.meta
        };
        if random.below(6) == 0 {
            let mut xattrs: Vec<_> = (0..random.below(5))
                .map(|i| {
                    let kind = ["user", "trusted", "security"][random.below(3) as usize];
                    xattr(&format!("{kind}.{i}"), &vec![b'v'; random.below(block / 8) as usize])
                })
                .collect();
            xattrs.sort();
            new.meta.xattrs = xattrs;
        }
        let _ = large_inodes;
        let file_type = new.meta.file_type;
        let number = tree.add(&path, None, new).unwrap();
        match file_type {
            FileType::Dir if path.len() < 2000 => folders.push(path),
            FileType::Dir => {}
            _ => files.push(number),
        }
    }
    tree.finish().unwrap();
    tree
}
