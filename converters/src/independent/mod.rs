//! `verify --independent`: compares an image with what independent readers find on the same disk.
//!
//! Our manifest and our reader could be wrong together. So the partition table is read again by the crate `gpt`, ext
//! volumes by `ext4-view`, FAT by `fatfs`, XFS by `rust-fs-xfs` and Btrfs by `rust-fs-btrfs`, and each path that they
//! can read is compared. Paths that they cannot read are reported as unchecked, never as equal.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use std::sync::Arc;

use mif_formats::ErrorKind;
use mif_formats::fs::{FileType, Piece, walk};
use mif_formats::mif::manifest::{Row, escape};
use mif_formats::partition::TableKind;
use serde::Serialize;
use sha1::{Digest, Sha1};

use self::device::WINDOW;
use crate::disk::scan::{Scan, ScannedVolume};
use crate::error::Result;
use crate::image::OpenImage;
use crate::task::progress::{self, Progress};
use crate::tree::view::Tree;

mod btrfs;
mod device;
mod ext;
mod fat;
mod table;
mod xfs;

/// The maximum number of differences, and of unchecked paths, that a report names for a part.
const MAX_NAMED: usize = 1000;

/// The result of reading an image with independent readers.
#[derive(Debug, Clone, Serialize)]
pub struct IndependentReport {
    /// The image, as the user called it.
    pub image: String,
    /// True if nothing differs. Unchecked paths do not count.
    pub same: bool,
    /// The partition table, and then each volume.
    pub parts: Vec<PartReport>,
    /// What mif itself could not read, each a sentence.
    pub warnings: Vec<String>,
}

/// The result for the partition table or a volume.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PartReport {
    /// `partition table`, or the volume's name.
    pub part: String,
    /// The other reader; `None` if there is none.
    pub reader: Option<&'static str>,
    /// The number of partitions or paths that were compared.
    pub compared: u64,
    /// The number of those that differ.
    pub differences: u64,
    /// Each difference: the path and a description; at most a thousand.
    pub different: Vec<(String, String)>,
    /// The number of those that were not compared.
    pub unchecked: u64,
    /// Each unchecked path with the reason; at most a thousand.
    pub not_compared: Vec<(String, String)>,
}

impl PartReport {
    fn new(part: &str, reader: Option<&'static str>) -> Self {
        PartReport { part: part.to_owned(), reader, ..PartReport::default() }
    }

    fn differs(&mut self, what: impl Into<String>, how: impl Into<String>) {
        self.differences += 1;
        if self.different.len() < MAX_NAMED {
            self.different.push((what.into(), how.into()));
        }
    }

    fn skips(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.unchecked += 1;
        if self.not_compared.len() < MAX_NAMED {
            self.not_compared.push((what.into(), why.into()));
        }
    }
}

/// A node as another reader sees it; `None` for values that the filesystem or the reader does not have.
#[derive(Debug, Clone)]
struct OtherNode {
    file_type: FileType,
    /// Meaningful for regular files only.
    size: u64,
    mode: Option<u16>,
    owner: Option<(u32, u32)>,
    /// Seconds since 1970.
    mtime: Option<i64>,
    link_target: Option<Vec<u8>>,
}

/// An independent filesystem reader. Errors are its own messages.
trait Reader {
    /// Returns the node at a path, if there is one.
    fn find(&self, path: &[u8]) -> Result<Option<OtherNode>, String>;

    /// Returns the names in a directory.
    fn names(&self, folder: &[u8]) -> Result<BTreeSet<Vec<u8>>, String>;

    /// Returns this reader's form of one of our names.
    fn name_of(&self, name: &[u8]) -> Vec<u8>;

    /// Passes all bytes of a regular file to `each`, in order.
    fn read(&self, path: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<(), String>;
}

/// Reads an image again with the independent readers, and compares.
pub fn independent(image: &OpenImage, progress: &dyn Progress) -> Result<IndependentReport> {
    let scan = Scan::new(image.disk()?)?;
    let tree = image.tree()?;
    let mut report =
        IndependentReport { image: image.label.clone(), same: true, parts: Vec::new(), warnings: Vec::new() };
    if scan.table.kind != TableKind::None {
        report.parts.push(guarded("partition table", || Ok(table::compare(&scan)))?);
    }
    for volume in &scan.volumes {
        report.parts.push(guarded(&volume.name, || compare_volume(&scan, volume, &tree, progress))?);
    }
    report.same = report.parts.iter().all(|part| part.differences == 0);
    report.warnings = tree.complaints;
    Ok(report)
}

/// Runs a comparison, and reports it as unchecked if the other reader panics: these readers do not expect hostile
/// disks.
fn guarded(part: &str, compare: impl FnOnce() -> Result<PartReport>) -> Result<PartReport> {
    mif_formats::guard::catch(compare).unwrap_or_else(|| {
        let mut report = PartReport::new(part, None);
        report.skips("everything", "the other reader panicked");
        Ok(report)
    })
}

fn compare_volume(
    scan: &Scan,
    volume: &ScannedVolume,
    tree: &Tree,
    progress: &dyn Progress,
) -> Result<PartReport> {
    let Some(fs) = volume.filesystem() else {
        let mut part = PartReport::new(&volume.name, None);
        part.skips("everything", "mif reads no filesystem on it");
        return Ok(part);
    };
    let source = Arc::new(scan.volume(volume));
    let (reader, other): (_, Result<Box<dyn Reader>, String>) = match &*fs.info().kind {
        "fat12" | "fat16" | "fat32" => (fat::READER, fat::Fat::open(source).map(|fat| Box::new(fat) as _)),
        "ext2" | "ext3" | "ext4" => (ext::READER, ext::Ext::open(source).map(|ext| Box::new(ext) as _)),
        "xfs" => (xfs::READER, xfs::Xfs::open(source).map(|xfs| Box::new(xfs) as _)),
        "btrfs" => (btrfs::READER, btrfs::Btrfs::open(source).map(|btrfs| Box::new(btrfs) as _)),
        kind => {
            let mut part = PartReport::new(&volume.name, None);
            part.skips("everything", format!("mif knows no other reader of {kind}"));
            return Ok(part);
        }
    };
    let mut part = PartReport::new(&volume.name, Some(reader));
    match other {
        Ok(other) => Comparison { volume, tree, other: &*other, part: &mut part }.run(progress)?,
        Err(why) => part.skips("everything", why),
    }
    Ok(part)
}

/// The comparison of one volume.
struct Comparison<'a> {
    volume: &'a ScannedVolume,
    tree: &'a Tree,
    other: &'a dyn Reader,
    part: &'a mut PartReport,
}

impl Comparison<'_> {
    fn run(&mut self, progress: &dyn Progress) -> Result<()> {
        let rows = self.tree.rows();
        let of_volume = |row: &Row| row.volume == self.volume.name;
        let bytes = rows.iter().filter(|row| of_volume(row)).map(|row| row.node.size).sum();
        progress.stage(&format!("{} by {}", self.part.part, self.part.reader.unwrap_or_default()), bytes);
        // The names in each directory, as the other reader sees them. Our names are removed later.
        let mut extra: Vec<(Vec<u8>, BTreeSet<Vec<u8>>)> = Vec::new();
        let mut folders = std::collections::HashMap::new();
        let doubled = doubled(rows.iter().filter(|row| of_volume(row)));
        for (i, row) in rows.iter().enumerate().filter(|(_, row)| of_volume(row)) {
            progress::check(progress)?;
            let path = escape(&row.path);
            if !doubled.is_empty() && ways_to(&row.path).any(|way| doubled.contains(way)) {
                self.part.skips(path, "a directory has this name more than once");
                continue;
            }
            if row.node.file_type == FileType::Dir {
                match self.other.names(&row.path) {
                    Ok(names) => {
                        folders.insert(row.path.clone(), extra.len());
                        extra.push((row.path.clone(), names));
                    }
                    Err(why) => self.part.skips(format!("{path}: directory entries"), why),
                }
            }
            self.compare_row(i, row, &path)?;
            progress.advance(row.node.size);
        }
        for row in rows.iter().filter(|row| of_volume(row) && row.path != b"/") {
            let slash = row.path.iter().rposition(|b| *b == b'/').unwrap_or(0);
            if let Some(folder) = folders.get(&row.path[..slash.max(1)]) {
                let name = self.other.name_of(&row.path[slash + 1..]);
                extra[*folder].1.remove(&name);
            }
        }
        for (folder, names) in extra {
            for name in names {
                let folder = if folder == b"/" { String::new() } else { escape(&folder) };
                self.part.differs(
                    format!("{folder}/{}", escape(&name)),
                    format!("{} lists it, mif does not", self.part.reader.unwrap_or_default()),
                );
            }
        }
        Ok(())
    }

    fn compare_row(&mut self, i: usize, row: &Row, path: &str) -> Result<()> {
        let reader = self.part.reader.unwrap_or_default();
        let found = match self.other.find(&row.path) {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.part.compared += 1;
                self.part.differs(path, format!("mif lists it, {reader} does not"));
                return Ok(());
            }
            Err(why) => {
                self.part.skips(path, why);
                return Ok(());
            }
        };
        let is_file = row.node.file_type == FileType::File;
        let said = |ours: &dyn std::fmt::Debug, theirs: &dyn std::fmt::Debug| {
            format!("mif reads {ours:?}, {reader} reads {theirs:?}")
        };
        let mut wrong = Vec::new();
        if found.file_type != row.node.file_type {
            wrong.push(format!("type: {}", said(&row.node.file_type, &found.file_type)));
        }
        if found.mode.is_some() && found.mode != row.node.mode {
            wrong.push(format!("mode: {}", said(&row.node.mode, &found.mode)));
        }
        let owner = row.node.uid.zip(row.node.gid);
        if found.owner.is_some() && found.owner != owner {
            wrong.push(format!("owner: {}", said(&owner, &found.owner)));
        }
        let mtime = row.node.mtime.map(|time| time.secs);
        if found.mtime.is_some() && mtime.is_some() && found.mtime != mtime {
            wrong.push(format!("mtime: {}", said(&mtime, &found.mtime)));
        }
        if found.link_target.is_some() && found.link_target != row.node.link_target {
            wrong.push(format!("link target: {}", said(&row.node.link_target, &found.link_target)));
        }
        if is_file && found.file_type == FileType::File {
            if found.size != row.node.size {
                wrong.push(format!("size: {}", said(&row.node.size, &found.size)));
            } else {
                match self.compare_content(i, row)? {
                    Verdict::Same => {}
                    Verdict::Differs => wrong.push("content: SHA-1s differ".to_owned()),
                    Verdict::Unchecked(why) if wrong.is_empty() => {
                        self.part.skips(path, why);
                        return Ok(());
                    }
                    Verdict::Unchecked(why) => wrong.push(why),
                }
            }
        }
        self.part.compared += 1;
        if !wrong.is_empty() {
            self.part.differs(path, wrong.join("; "));
        }
        Ok(())
    }

    fn compare_content(&self, i: usize, row: &Row) -> Result<Verdict> {
        let ours = match row.sha1() {
            Some(digest) => digest,
            None => match self.hash_ours(i) {
                Ok(digest) => digest,
                Err(error) => return Ok(Verdict::Unchecked(format!("mif cannot read it: {error}"))),
            },
        };
        let mut hasher = Sha1::new();
        if let Err(why) = self.other.read(&row.path, &mut |bytes| hasher.update(bytes)) {
            return Ok(Verdict::Unchecked(why));
        }
        if hasher.finalize()[..] == ours {
            return Ok(Verdict::Same);
        }
        if self.differs_only_where_nothing_was_written(i, row)? {
            return Ok(Verdict::Unchecked(format!(
                "{} returns stale data for blocks that were never written; all other blocks are the same",
                self.part.reader.unwrap_or_default()
            )));
        }
        Ok(Verdict::Differs)
    }

    fn hash_ours(&self, i: usize) -> Result<[u8; 20]> {
        let content = self.tree.content(i)?;
        let (mut hasher, mut buf, mut at) = (Sha1::new(), vec![0; WINDOW], 0);
        while at < content.len() {
            let part = (content.len() - at).min(WINDOW as u64) as usize;
            content.read_at(at, &mut buf[..part])?;
            hasher.update(&buf[..part]);
            at += part as u64;
        }
        Ok(hasher.finalize().into())
    }

    /// Returns true if the two readers differ only in ranges of the file that its map reports as zeros.
    fn differs_only_where_nothing_was_written(&self, i: usize, row: &Row) -> Result<bool> {
        let fs = self.volume.filesystem().expect("its files are compared");
        let mut at = 0;
        let mut zeros: Vec<Range<u64>> = Vec::new();
        let content = match walk::lookup(fs, &row.path).and_then(|node| fs.content(node)) {
            // The file on the disk is not the one in the manifest.
            Err(error) if error.kind() != ErrorKind::Io => return Ok(false),
            other => other?,
        };
        for piece in content.pieces {
            if let Piece::Zero { len } = piece {
                zeros.push(at..at + len);
            }
            at += piece.len();
        }
        let ours = self.tree.content(i)?;
        let (mut at, mut agree, mut buf) = (0, true, Vec::new());
        let mut compare = |theirs: &[u8]| {
            buf.resize(theirs.len(), 0);
            agree &= ours.read_at(at, &mut buf).is_ok();
            let differing = buf.iter().zip(theirs).enumerate().filter(|(_, (a, b))| a != b);
            for (byte, _) in differing {
                let byte = at + byte as u64;
                let before = zeros.partition_point(|range| range.end <= byte);
                agree &= zeros.get(before).is_some_and(|range| range.start <= byte);
            }
            at += theirs.len() as u64;
        };
        Ok(self.other.read(&row.path, &mut compare).is_ok() && agree)
    }
}

/// Returns the paths that several of the ordered `rows` have: a path cannot tell these rows apart.
fn doubled<'a>(rows: impl Iterator<Item = &'a Row>) -> HashSet<&'a [u8]> {
    let paths: Vec<&[u8]> = rows.map(|row| row.path.as_slice()).collect();
    paths.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect()
}

/// Returns a path and its parent directories.
fn ways_to(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    (1..=path.len()).filter(|end| *end == path.len() || path[*end] == b'/').map(|end| &path[..end])
}

/// The result of comparing a file's content.
enum Verdict {
    Same,
    Differs,
    Unchecked(String),
}
