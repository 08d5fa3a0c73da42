//! The contents of a filesystem, as our reader or the kernel sees them, in one form for comparison.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use mif_formats::fs::{FileType, Filesystem, NodeId, Piece};
use mif_formats::{Result, Source};
use rustix::fs::{AtFlags, CWD, StatxFlags};
use sha1::{Digest, Sha1};

/// A tree: the entry at each path (`""` is the root).
pub(crate) type View = BTreeMap<Vec<u8>, Entry>;

/// The entry at a path. Times are seconds and nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) file_type: FileType,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nlink: u32,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) mtime: (i64, u32),
    pub(crate) atime: (i64, u32),
    pub(crate) ctime: (i64, u32),
    pub(crate) crtime: Option<(i64, u32)>,
    pub(crate) rdev: Option<(u32, u32)>,
    pub(crate) target: Option<Vec<u8>>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sha1: Option<String>,
}

/// Panics with the first differences if two views differ.
pub(crate) fn assert_same(what: &str, ours: &View, theirs: &View) {
    let mut differences = Vec::new();
    for path in ours.keys().chain(theirs.keys()).collect::<std::collections::BTreeSet<_>>() {
        let (a, b) = (ours.get(path), theirs.get(path));
        if a != b {
            let path = path.escape_ascii();
            differences.push(format!("{path}\n   ours: {a:?}\n theirs: {b:?}"));
        }
    }
    assert!(
        differences.is_empty(),
        "{what}: {} paths differ\n{}",
        differences.len(),
        differences[..differences.len().min(5)].join("\n")
    );
}

/// Reads everything through our reader. Complaints and errors fail the test.
pub(crate) fn ours(fs: &dyn Filesystem, volume: &dyn Source) -> View {
    let mut complaints = Vec::new();
    let view = try_ours(fs, volume, &mut complaints);
    assert_eq!(complaints, Vec::<String>::new());
    view
}

/// Reads everything that can be read.
pub(crate) fn try_ours(fs: &dyn Filesystem, volume: &dyn Source, complaints: &mut Vec<String>) -> View {
    let mut view = View::new();
    let mut hashes: HashMap<NodeId, Option<String>> = HashMap::new();
    let mut todo = vec![(Vec::new(), fs.root())];
    let mut folders = std::collections::HashSet::new();
    while let Some((path, id)) = todo.pop() {
        match entry(fs, volume, id, &mut hashes) {
            Ok(entry) => {
                if entry.file_type == FileType::Dir && !folders.insert(id) {
                    complaints.push(format!("{}: a folder in two places", path.escape_ascii()));
                } else if entry.file_type == FileType::Dir {
                    let mut told = Vec::new();
                    let listed = fs.read_dir(id, &mut |e| told.push(e.to_string()));
                    complaints.append(&mut told);
                    match listed {
                        Ok(entries) => {
                            for child in entries {
                                let path = [&path[..], b"/", &child.name].concat();
                                todo.push((path, child.node));
                            }
                        }
                        Err(error) => complaints.push(error.to_string()),
                    }
                }
                view.insert(path, entry);
            }
            Err(error) => complaints.push(format!("{}: {error}", path.escape_ascii())),
        }
    }
    view
}

fn entry(
    fs: &dyn Filesystem,
    volume: &dyn Source,
    id: NodeId,
    hashes: &mut HashMap<NodeId, Option<String>>,
) -> Result<Entry> {
    let mut damage = None;
    let node = fs.node(id, &mut |error| damage = Some(error))?;
    if let Some(error) = damage {
        return Err(error);
    }
    let sha1 = match (node.file_type, hashes.get(&id)) {
        (FileType::File, None) => {
            let hash = Some(hash(fs, volume, id)?);
            hashes.insert(id, hash.clone());
            hash
        }
        (FileType::File, Some(hash)) => hash.clone(),
        _ => None,
    };
    // Directories of Btrfs that stand for subvolumes have no times.
    let time = |t: Option<mif_formats::fs::Timestamp>| t.map_or((0, 0), |t| (t.secs, t.nanos));
    Ok(Entry {
        file_type: node.file_type,
        mode: node.mode.unwrap(),
        uid: node.uid.unwrap(),
        gid: node.gid.unwrap(),
        nlink: node.nlink.unwrap(),
        inode: node.inode.unwrap(),
        size: node.size,
        mtime: time(node.mtime),
        atime: time(node.atime),
        ctime: time(node.ctime),
        crtime: node.crtime.map(|t| time(Some(t))),
        rdev: node.rdev,
        target: node.link_target,
        xattrs: node.xattrs.into_iter().map(|x| (x.name, x.value)).collect(),
        sha1,
    })
}

/// Hashes a file's bytes, read from the raw volume. Holes are hashed by their length, because some have terabytes.
pub(crate) fn hash(fs: &dyn Filesystem, volume: &dyn Source, id: NodeId) -> Result<String> {
    let content = fs.content(id)?;
    let mut hasher = Holes::default();
    assert_eq!(content.pieces.iter().map(Piece::len).sum::<u64>(), content.size, "inode {id}");
    for piece in &content.pieces {
        match piece {
            Piece::Zero { len } => hasher.hole(*len),
            Piece::Bytes(bytes) => hasher.data(bytes),
            Piece::Encoded(encoded) => {
                let (from, len) = (encoded.from as usize, encoded.len as usize);
                hasher.data(&encoded.decode(&encoded.read(volume)?)?[from..from + len]);
            }
            Piece::Volume { offset, len } => {
                let mut done = 0;
                while done < *len {
                    let now = (len - done).min(1 << 20);
                    hasher.data(&volume.read_vec(offset + done, now as usize)?);
                    done += now;
                }
            }
        }
    }
    Ok(hasher.finish())
}

/// A hash that combines adjacent blocks of zeros, whether they were read or are holes.
#[derive(Default)]
struct Holes {
    sha1: Sha1,
    rest: Vec<u8>,
    zeros: u64,
}

impl Holes {
    const BLOCK: usize = 1024;

    fn hole(&mut self, mut len: u64) {
        while !self.rest.is_empty() && len > 0 {
            self.data(&[0]);
            len -= 1;
        }
        let whole = len / Self::BLOCK as u64;
        self.zeros += whole;
        self.data(&vec![0; (len % Self::BLOCK as u64) as usize]);
    }

    fn data(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let rest = std::mem::take(&mut self.rest);
        let mut blocks = rest.chunks_exact(Self::BLOCK);
        for block in &mut blocks {
            if block.iter().all(|b| *b == 0) {
                self.zeros += 1;
            } else {
                self.flush();
                self.sha1.update(block);
            }
        }
        self.rest = blocks.remainder().to_vec();
    }

    fn flush(&mut self) {
        if self.zeros > 0 {
            self.sha1.update(format!("{} zero blocks", self.zeros));
            self.zeros = 0;
        }
    }

    fn finish(mut self) -> String {
        self.flush();
        self.sha1.update(&self.rest);
        self.sha1.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// Returns the type of a file according to the kernel.
pub(crate) fn type_of(kind: std::fs::FileType) -> FileType {
    match () {
        () if kind.is_dir() => FileType::Dir,
        () if kind.is_file() => FileType::File,
        () if kind.is_symlink() => FileType::Symlink,
        () if kind.is_char_device() => FileType::Char,
        () if kind.is_block_device() => FileType::Block,
        () if kind.is_fifo() => FileType::Fifo,
        () => FileType::Socket,
    }
}

/// Reads everything through the kernel.
pub(crate) fn theirs(root: &Path) -> View {
    let mut view = View::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let name = path.as_os_str().as_bytes()[root.as_os_str().len()..].to_vec();
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let stat = rustix::fs::statx(CWD, &path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::ALL).unwrap();
        let kind = meta.file_type();
        let file_type = type_of(kind);
        if file_type == FileType::Dir {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let device = matches!(file_type, FileType::Char | FileType::Block);
        let btime = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        view.insert(
            name,
            Entry {
                file_type,
                mode: (meta.mode() & 0xFFF) as u16,
                uid: meta.uid(),
                gid: meta.gid(),
                nlink: meta.nlink() as u32,
                inode: meta.ino(),
                size: meta.len(),
                mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
                atime: (stat.stx_atime.tv_sec, stat.stx_atime.tv_nsec),
                ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
                crtime: btime.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)),
                rdev: device.then_some((stat.stx_rdev_major, stat.stx_rdev_minor)),
                target: kind
                    .is_symlink()
                    .then(|| std::fs::read_link(&path).unwrap().into_os_string().into_vec()),
                xattrs: xattrs(&path),
                sha1: kind.is_file().then(|| hash_file(&path)),
            },
        );
    }
    view
}

/// Hashes the bytes of a file as the kernel reads them.
pub(crate) fn hash_file(path: &Path) -> String {
    use rustix::fs::{SeekFrom, seek};
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(path).unwrap();
    let len = file.metadata().unwrap().len();
    let mut hasher = Holes::default();
    let mut at = 0;
    while at < len {
        let data = seek(&file, SeekFrom::Data(at)).unwrap_or(len);
        hasher.hole(data - at);
        at = data;
        if at == len {
            break;
        }
        let end = seek(&file, SeekFrom::Hole(at)).unwrap().min(len);
        while at < end {
            let mut buf = vec![0; (end - at).min(1 << 20) as usize];
            file.read_exact_at(&mut buf, at).unwrap();
            hasher.data(&buf);
            at += buf.len() as u64;
        }
    }
    hasher.finish()
}

/// Returns the attributes of a path, sorted.
pub(crate) fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 1 << 16];
    let len = rustix::fs::llistxattr(path, &mut names).unwrap();
    let mut xattrs: Vec<_> = names[..len]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let len = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            value.truncate(len);
            (name.to_vec(), value)
        })
        .collect();
    xattrs.sort();
    xattrs
}
