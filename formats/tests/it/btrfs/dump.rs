//! What `btrfs inspect-internal dump-tree` prints of a volume, which it reads without the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mif_formats::fs::btrfs::Btrfs;
use mif_formats::fs::walk::walk;
use mif_formats::fs::{FileType, Timestamp};

use crate::tools::run;

/// The fields of an inode item.
#[derive(Debug, Default, PartialEq, Eq)]
struct Inode {
    file_type: Option<FileType>,
    mode: u16,
    links: u32,
    uid: u32,
    gid: u32,
    size: u64,
    /// Seconds and nanoseconds.
    mtime: (i64, u32),
    otime: (i64, u32),
}

/// The inodes, by the id of their subvolume and their number.
type Inodes = BTreeMap<(u64, u64), Inode>;

/// Asserts that we see each inode of each subvolume with the fields that dump-tree prints.
pub(super) fn assert_as_dump_tree(what: &str, fs: &Btrfs, image: &Path) {
    let printed = run("btrfs", &["inspect-internal".as_ref(), "dump-tree".as_ref(), image.as_os_str()]);
    let mut theirs = parse(&String::from_utf8_lossy(&printed.stdout));
    // An inode without a name is one that was open when its last name was removed.
    theirs.retain(|_, inode| inode.links > 0);
    let ours = ours(fs);
    let only = |a: &Inodes, b: &Inodes| {
        a.keys().filter(|at| !b.contains_key(at)).copied().take(5).collect::<Vec<_>>()
    };
    assert_eq!(
        (only(&ours, &theirs), only(&theirs, &ours)),
        (Vec::new(), Vec::new()),
        "{what}: only ours, only theirs"
    );
    for (at, inode) in &theirs {
        assert_eq!(ours[at], *inode, "{what}: subvolume and inode {at:?}");
    }
}

fn ours(fs: &Btrfs) -> Inodes {
    /// The directory that stands for a subvolume in a snapshot is stored nowhere.
    const STANDS_FOR_SUBVOLUME: u64 = 2;
    let listing = walk(fs).unwrap();
    let mut inodes = Inodes::new();
    for (_, _, node) in listing.nodes.iter() {
        let (Some(tree), Some(number)) = (node.subvolume, node.inode) else { panic!("{node:?}") };
        if number == STANDS_FOR_SUBVOLUME {
            continue;
        }
        let time = |time: Option<Timestamp>| time.map_or((0, 0), |t| (t.secs, t.nanos));
        let inode = Inode {
            file_type: Some(node.file_type),
            mode: node.mode.unwrap(),
            links: node.nlink.unwrap(),
            uid: node.uid.unwrap(),
            gid: node.gid.unwrap(),
            size: node.size,
            mtime: time(node.mtime),
            otime: time(node.crtime),
        };
        inodes.insert((tree, number), inode);
    }
    inodes
}

/// Returns the inodes of all subvolumes but those that were deleted, which the kernel removes bit by bit.
fn parse(printed: &str) -> Inodes {
    /// The id of the tree that is printed as `FS_TREE`.
    const TOP_LEVEL: u64 = 5;
    let (mut tree, mut at, mut root) = (None, None, None);
    let mut inodes = Inodes::new();
    let mut deleted = BTreeSet::new();
    for line in printed.lines() {
        if !line.starts_with(char::is_whitespace) && line.contains(" ROOT_ITEM ") {
            let id = line.split_once('(').unwrap().1.split(' ').next().unwrap();
            tree = if id == "FS_TREE" { Some(TOP_LEVEL) } else { id.parse().ok() };
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first() == Some(&"item") {
            let number = words[3].trim_start_matches('(').parse();
            root = number.clone().ok().filter(|_| words[4] == "ROOT_ITEM");
            at = tree.zip(number.ok()).filter(|_| words[4] == "INODE_ITEM");
        }
        if let Some(root) = root
            && words.windows(2).any(|pair| pair == ["refs", "0"])
        {
            deleted.insert(root);
        }
        let Some(at) = at else { continue };
        let number = |place: usize| words[place].parse::<u64>().unwrap();
        let time = || {
            let (secs, nanos) = words[1].split_once('.').unwrap();
            (secs.parse::<u64>().unwrap().cast_signed(), nanos.parse().unwrap())
        };
        let inode: &mut Inode = inodes.entry(at).or_default();
        match words.first() {
            Some(&"generation") => inode.size = number(5),
            Some(&"block") => {
                let mode = u16::from_str_radix(words[4], 8).unwrap();
                (inode.file_type, inode.mode) = (FileType::of_mode(mode), mode & 0o7777);
                (inode.links, inode.uid, inode.gid) = (number(6) as u32, number(8) as u32, number(10) as u32);
            }
            Some(&"mtime") => inode.mtime = time(),
            Some(&"otime") => inode.otime = time(),
            _ => (),
        }
    }
    inodes.retain(|(tree, _), _| !deleted.contains(tree));
    inodes
}
