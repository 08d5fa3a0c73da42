//! ext2, ext3 and ext4 with our reader and the crate ext4-view: if both open a volume and both list a path, its type,
//! size and content must be the same.
//!
//! Not compared:
//!
//! - Volumes and paths that only one of them can open, list or read, because they check different things. ext4-view
//!   verifies checksums even when fuzzing, so the volumes are made without them.
//! - Names that a directory contains more than once, because a path cannot tell them apart.
//! - Volumes with a fast commit area, which ext4-view does not replay.
//! - An extent-mapped file that differs after its first hole: ext4-view reads an unwritten extent as data, and as
//!   32,768 blocks too long.
//! - A block-mapped file that differs after its first hole, if block 0 of the volume is not empty: where an indirect
//!   block is missing, ext4-view reads pointers from block 0.
#![no_main]

use std::cell::Cell;
use std::error::Error;
use std::sync::{Arc, LazyLock};

use ext4_view::{Ext4, Ext4Read, Metadata, Path};
use libfuzzer_sys::{Corpus, fuzz_target};
use mif_formats::Source;
use mif_formats::fs::listing::Entry;
use mif_formats::fs::{FileType, Filesystem, Node, NodeId, Piece, Recognized, walk};
use mif_fuzz::{Bases, Patched, READ_MAX, others};

static BASES: LazyLock<Bases> = LazyLock::new(|| Bases::of("ext4_view"));

/// The most reads of one volume by ext4-view, which ends its endless loops.
const READS_MAX: u32 = 100_000;
/// The most block groups that a volume may claim: ext4-view allocates memory for all of them at once.
const GROUPS_MAX: u64 = 4096;
/// The most bytes of a file, and the most paths, that are compared.
const FILE_MAX: u64 = 256 << 10;
const PATHS_MAX: usize = 1000;

const COMPAT_FAST_COMMIT: u32 = 0x400;
const FLAG_EXTENTS: u32 = 0x8_0000;

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((_, volume)) = BASES.decode(input) else { return Corpus::Reject };
    let volume = Arc::new(volume);
    if let Some(has_empty_boot_block) = asked(&volume)
        && let Ok(Recognized::Known(ours)) = mif_formats::fs::open(volume.clone())
        && ours.info().kind.starts_with("ext")
    {
        let reader = Reader { volume: volume.clone(), reads: Cell::new(0) };
        if let Some(Ok(theirs)) = others(|| Ext4::load(Box::new(reader))) {
            compare(&Volume { bytes: &volume, ours: &*ours, theirs: &theirs, has_empty_boot_block });
        }
    }
    Corpus::Keep
});

/// Returns whether block 0 is empty; `None` if the superblock describes a volume that ext4-view does not support.
fn asked(volume: &Patched) -> Option<bool> {
    let head = volume.read_vec(0, 2048).ok()?;
    let number = |at: usize| u32::from_le_bytes(head[1024 + at..][..4].try_into().expect("four bytes"));
    let blocks = u64::from(number(0x4)) | u64::from(number(0x150)) << 32;
    let groups = blocks.checked_div(u64::from(number(0x20)))?;
    let is_asked = number(0x5c) & COMPAT_FAST_COMMIT == 0 && groups < GROUPS_MAX;
    let has_small_blocks = number(0x18) == 0;
    is_asked.then_some(has_small_blocks && head[..1024].iter().all(|b| *b == 0))
}

struct Reader {
    volume: Arc<Patched>,
    reads: Cell<u32>,
}

impl Ext4Read for Reader {
    fn read(&mut self, start: u64, buf: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync + 'static>> {
        self.reads.set(self.reads.get() + 1);
        if self.reads.get() > READS_MAX {
            return Err("was read too often".into());
        }
        Ok(self.volume.read_at(start, buf)?)
    }
}

/// A volume that both readers have opened.
struct Volume<'a> {
    bytes: &'a Patched,
    ours: &'a dyn Filesystem,
    theirs: &'a Ext4,
    has_empty_boot_block: bool,
}

fn compare(volume: &Volume<'_>) {
    let Ok(listing) = walk::walk(volume.ours) else { return };
    let entries = &listing.entries;
    let mut left = READ_MAX;
    for (i, entry) in entries.iter().enumerate().take(PATHS_MAX) {
        let is_other = |other: Option<&Entry>| other.is_none_or(|other| other.path != entry.path);
        let is_alone = is_other(entries.get(i + 1)) && is_other(i.checked_sub(1).map(|i| &entries[i]));
        let Ok(path) = Path::try_from(&entry.path[..]) else { continue };
        let found = others(|| volume.theirs.symlink_metadata(path)).filter(|_| is_alone);
        let Some(Ok(metadata)) = found else { continue };
        let (node, handle) = (&listing.nodes[entry.file], listing.nodes.handle(entry.file));
        File { volume, path, node, handle }.compare(&metadata, &mut left);
    }
}

/// A path that both readers list.
struct File<'a> {
    volume: &'a Volume<'a>,
    path: Path<'a>,
    node: &'a Node,
    handle: NodeId,
}

impl File<'_> {
    fn compare(&self, metadata: &Metadata, left: &mut u64) {
        let (node, path) = (self.node, self.path);
        assert_eq!(node.file_type, file_type(metadata), "the type of {path:?}");
        assert_eq!(node.mode, Some(metadata.mode()), "the mode of {path:?}");
        match node.file_type {
            FileType::File => {
                assert_eq!(node.size, metadata.len(), "the size of {path:?}");
                self.compare_content(left);
            }
            // ext4-view allocates the claimed size.
            FileType::Symlink if metadata.len() < 1 << 16 => {
                if let Some(Ok(target)) = others(|| self.volume.theirs.read_link(path))
                    && let Some(ours) = &node.link_target
                {
                    assert_eq!(&ours[..], target.as_path().as_ref(), "the target of {path:?}");
                }
            }
            _ => {}
        }
    }

    fn compare_content(&self, left: &mut u64) {
        let Ok(content) = self.volume.ours.content(self.handle) else { return };
        let len = content.size.min(FILE_MAX).min(*left);
        *left -= len;
        let (mut bytes, mut hole) = (Vec::with_capacity(len as usize), None);
        for piece in &content.pieces {
            let part = piece.len().min(len - bytes.len() as u64) as usize;
            match piece {
                Piece::Volume { offset, .. } => {
                    let Ok(read) = self.volume.bytes.read_vec(*offset, part) else { return };
                    bytes.extend(read);
                }
                Piece::Zero { .. } => {
                    hole = hole.or(Some(bytes.len()));
                    bytes.resize(bytes.len() + part, 0);
                }
                Piece::Bytes(own) => bytes.extend(&own[..part]),
                Piece::Encoded(_) => unreachable!("ext compresses nothing"),
            }
        }
        let Some(Some(theirs)) = others(|| self.read_theirs(bytes.len())) else { return };
        let differs = bytes.iter().zip(&theirs).position(|(a, b)| a != b);
        let are_holes_known = self.node.flags & FLAG_EXTENTS == 0 && self.volume.has_empty_boot_block;
        let is_exempt = |at: usize| !are_holes_known && hole.is_some_and(|hole| hole <= at);
        assert_eq!(bytes.len(), theirs.len(), "how much can be read of {:?}", self.path);
        assert!(differs.is_none_or(is_exempt), "{:?} differs at {differs:?}", self.path);
    }

    /// Reads the first `len` bytes with ext4-view.
    fn read_theirs(&self, len: usize) -> Option<Vec<u8>> {
        let mut file = self.volume.theirs.open(self.path).ok()?;
        let (mut bytes, mut done) = (vec![0x55; len], 0);
        while done < len {
            match file.read_bytes(&mut bytes[done..]).ok()? {
                0 => break,
                read => done += read,
            }
        }
        bytes.truncate(done);
        Some(bytes)
    }
}

fn file_type(metadata: &Metadata) -> FileType {
    let kind = metadata.file_type();
    match () {
        () if kind.is_dir() => FileType::Dir,
        () if kind.is_symlink() => FileType::Symlink,
        () if kind.is_char_dev() => FileType::Char,
        () if kind.is_block_dev() => FileType::Block,
        () if kind.is_fifo() => FileType::Fifo,
        () if kind.is_socket() => FileType::Socket,
        () => FileType::File,
    }
}
