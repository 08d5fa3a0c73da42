//! What is on a volume, seen through our reader or through ntfs-3g, in one form.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mif_formats::Source;
use mif_formats::fs::{FileType, Filesystem, Timestamp, walk};
use sha1::{Digest, Sha1};

use crate::view::{hash, hash_file, type_of};

/// A tree: each path (`/` is the root) and what it is.
pub(super) type Tree = BTreeMap<Vec<u8>, Entry>;

/// What a path is. Times are seconds and nanoseconds: modified, accessed, changed, created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) file_type: FileType,
    pub(super) inode: u64,
    /// Not of directories, whose size ntfs-3g takes from elsewhere.
    pub(super) size: Option<u64>,
    pub(super) nlink: u32,
    pub(super) times: [(i64, u32); 4],
    pub(super) rdev: Option<(u32, u32)>,
    pub(super) flags: u32,
    pub(super) target: Option<Vec<u8>>,
    pub(super) dos_name: Option<String>,
    pub(super) owner: Option<String>,
    pub(super) group: Option<String>,
    pub(super) sha1: Option<String>,
    /// The names of streams and the hashes of their content.
    pub(super) streams: BTreeMap<Vec<u8>, String>,
}

/// Reads everything through our reader. Complaints and errors fail the test.
pub(super) fn ours(fs: &dyn Filesystem, volume: &dyn Source) -> Tree {
    seen(fs, volume, true)
}

/// Does the same, but some content may be unreadable.
pub(super) fn readable(fs: &dyn Filesystem, volume: &dyn Source) -> Tree {
    seen(fs, volume, false)
}

fn seen(fs: &dyn Filesystem, volume: &dyn Source, is_whole: bool) -> Tree {
    let listing = walk::walk(fs).unwrap();
    assert!(listing.complaints.is_empty(), "{:?}", listing.complaints);
    let time = |t: Option<Timestamp>| t.map(|t| (t.secs, t.nanos)).unwrap();
    let mut hashes = HashMap::new();
    let mut tree = Tree::new();
    for entry in listing.entries {
        let node = &listing.nodes[entry.file];
        let handle = listing.nodes.handle(entry.file);
        let content = || match hash(fs, volume, handle) {
            Err(error) if !is_whole => error.to_string(),
            hash => hash.unwrap(),
        };
        let mut sha1 = || hashes.entry(handle).or_insert_with(content).clone();
        if let Some(stream) = entry.stream {
            assert_eq!((node.file_type, node.nlink), (FileType::File, None));
            let of = tree.get_mut(&entry.path).unwrap();
            assert_eq!(node.inode, Some(of.inode));
            assert!(of.streams.insert(stream.into_vec(), sha1()).is_none());
            continue;
        }
        let ntfs = node.ntfs.as_ref().unwrap();
        assert_eq!(fs.handle(node), Some(handle));
        let seen = Entry {
            file_type: node.file_type,
            inode: node.inode.unwrap(),
            size: (node.file_type != FileType::Dir).then_some(node.size),
            nlink: node.nlink.unwrap(),
            times: [node.mtime, node.atime, node.ctime, node.crtime].map(time),
            rdev: node.rdev,
            flags: node.flags,
            target: node.link_target.clone(),
            dos_name: entry.dos_name.map(String::from),
            owner: ntfs.owner_sid.clone(),
            group: ntfs.group_sid.clone(),
            sha1: (node.file_type == FileType::File).then(sha1),
            streams: BTreeMap::new(),
        };
        assert!(tree.insert(entry.path, seen).is_none());
    }
    tree
}

/// Reads everything through ntfs-3g, mounted with `streams_interface=xattr`.
pub(super) fn theirs(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let name = match &path.as_os_str().as_bytes()[root.as_os_str().len()..] {
            b"" => b"/".to_vec(),
            name => name.to_vec(),
        };
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let file_type = type_of(meta.file_type());
        if file_type == FileType::Dir {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let ntfs = |name: &str| attribute(&path, &format!("system.ntfs_{name}"));
        let times = ntfs("times").unwrap();
        let time = |at: usize| {
            let ticks = i64::from_le_bytes(times[at..at + 8].try_into().unwrap());
            (ticks / 10_000_000 - 11_644_473_600, (ticks % 10_000_000) as u32 * 100)
        };
        let acl = ntfs("acl");
        let owner = |at: usize| acl.as_ref().map(|acl| sid(&acl[le32(acl, at) as usize..]));
        let special = matches!(file_type, FileType::Char | FileType::Block);
        let seen = Entry {
            file_type,
            inode: meta.ino(),
            size: (file_type != FileType::Dir).then_some(meta.len()),
            nlink: meta.nlink() as u32,
            times: [time(8), time(16), time(24), time(0)],
            rdev: special.then(|| (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()))),
            flags: le32(&ntfs("attrib").unwrap(), 0),
            target: meta.is_symlink().then(|| std::fs::read_link(&path).unwrap().into_os_string().into_vec()),
            dos_name: ntfs("dos_name").map(|name| String::from_utf8(name).unwrap()),
            owner: owner(4),
            group: owner(8),
            sha1: meta.is_file().then(|| hash_file(&path)),
            streams: streams(&path, file_type),
        };
        tree.insert(name, seen);
    }
    // ntfs-3g counts DOS names as links, which Windows does not.
    let mut links = HashMap::new();
    tree.values().for_each(|entry| *links.entry(entry.inode).or_insert(0) += 1);
    tree.values_mut().for_each(|entry| entry.nlink = links[&entry.inode]);
    tree
}

fn streams(path: &Path, file_type: FileType) -> BTreeMap<Vec<u8>, String> {
    // Linux allows these attributes for no other files.
    if !matches!(file_type, FileType::File | FileType::Dir) {
        return BTreeMap::new();
    }
    let mut names = vec![0; 1 << 16];
    let len = rustix::fs::llistxattr(path, &mut names).unwrap();
    names[..len]
        .split(|byte| *byte == 0)
        .filter_map(|name| name.strip_prefix(b"user."))
        .map(|name| {
            let full = format!("user.{}", std::str::from_utf8(name).unwrap());
            (name.to_vec(), sha1(&attribute(path, &full).unwrap()))
        })
        .collect()
}

/// Returns the hash of bytes as [`hash`] makes it, which takes blocks of zeros together.
pub(super) fn sha1(bytes: &[u8]) -> String {
    let (mut sha1, mut zeros) = (Sha1::new(), 0);
    let blocks = bytes.chunks_exact(1024);
    let rest = blocks.remainder();
    let flush = |sha1: &mut Sha1, zeros: &mut u64| {
        if *zeros > 0 {
            sha1.update(format!("{zeros} zero blocks"));
        }
        *zeros = 0;
    };
    for block in blocks {
        if block.iter().all(|byte| *byte == 0) {
            zeros += 1;
        } else {
            flush(&mut sha1, &mut zeros);
            sha1.update(block);
        }
    }
    flush(&mut sha1, &mut zeros);
    sha1.update(rest);
    sha1.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1 << 16];
    let len = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    value.truncate(len);
    Some(value)
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Formats a security identifier of a small authority.
fn sid(bytes: &[u8]) -> String {
    let numbers = (0..usize::from(bytes[1])).map(|i| format!("-{}", le32(bytes, 8 + 4 * i)));
    format!("S-1-{}{}", bytes[7], numbers.collect::<String>())
}

/// Says where two trees differ, and fails if they do.
pub(super) fn assert_same(what: &str, ours: &Tree, theirs: &Tree) {
    let mut differences = Vec::new();
    for path in ours.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
        let (mut a, b) = (ours.get(path).cloned(), theirs.get(path).cloned());
        // Of a file with several names, ntfs-3g gives the DOS name in the directory of the first.
        if let (Some(a), Some(b)) = (&mut a, &b)
            && a.nlink > 1
            && b.dos_name.is_none()
        {
            a.dos_name = None;
        }
        if a != b {
            differences.push(format!("{}\n   ours: {a:?}\n theirs: {b:?}", path.escape_ascii()));
        }
    }
    let count = differences.len();
    assert!(count == 0, "{what}: {count} paths differ\n{}", differences[..count.min(5)].join("\n"));
}
