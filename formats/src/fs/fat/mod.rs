//! FAT12, FAT16 and FAT32 (Microsoft's FAT specification 1.03), with long names.
//!
//! ```text
//! boot sector │ reserved │ FAT │ FAT ... │ FAT12/16: root directory │ clusters from number 2 ...
//! ```
//!
//! A file is a chain of clusters: its directory entry contains the first, and the FAT entry of each cluster contains
//! the next. Where readers differ, this one does as the Linux kernel does, except that:
//!
//! - a directory ends at the first entry that was never used, as in the specification, mtools and Windows;
//! - FAT32's active-FAT flags are respected, as Windows does;
//! - a chain that meets a bad mark before its end is an error, not an end;
//! - a date out of range counts as missing.
//!
//! Two files that share clusters are both read: each according to its chain. Code that maps blocks to files makes sure
//! that a block counts once. Two directories that share clusters would make an endless tree: the one that is read first
//! owns them while the volume is open, and reading the other is an error.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Capabilities, Content, DirEntry, FileType, Filesystem, Info, Node, NodeId, Piece, utf16};
use crate::error::{Error, Result, at};
use crate::source::{Source, check_range};

mod bpb;
mod cache;
mod dir;
pub(super) mod driver;
mod free;
mod name;
pub mod plan;
mod table;
#[cfg(test)]
mod tests;

use self::bpb::{Bpb, ENTRY_SIZE, Kind};
use self::cache::CachedVolume;
use self::dir::{LongName, RawEntry, ShortEntry, Slot};
use self::table::{Chain, Run, Table};

/// The most bytes that are read of a directory: 65,536 entries, which is the maximum.
const MAX_DIR_BYTES: u64 = 65_536 * ENTRY_SIZE as u64;

/// The most bytes of FAT copies that are compared.
const MAX_COMPARED_BYTES: u64 = 64 << 20;

/// The root has no entry of its own, and no entry is in the boot sector.
const ROOT: NodeId = 0;

/// Returns true if the first 512 bytes of a volume are a FAT's boot sector: a BIOS parameter block that can be mounted,
/// and the marks of a boot sector. Other filesystems that keep such a block there are excluded.
#[must_use]
pub fn is_boot_sector(head: &[u8]) -> bool {
    (has_boot_marks(head) || calls_itself_fat(head))
        && !matches!(&head[54..62], b"JFS     " | b"HPFS    ")
        && !matches!(&head[3..11], b"NTFS    " | b"EXFAT   ")
        && Bpb::parse(head).is_ok()
}

/// Returns true if [`Fat::open`] should be tried on a volume that starts with `head`: it is a FAT, or a damaged one
/// that still calls itself one.
#[must_use]
pub fn probe(head: &[u8]) -> bool {
    is_boot_sector(head) || (has_boot_marks(head) && calls_itself_fat(head))
}

/// Returns true if there is a jump at the start, or the signature at the end. Old floppies lack one or the other; an
/// Atari's has neither, but the jump of a 68000.
fn has_boot_marks(head: &[u8]) -> bool {
    head.len() >= bpb::SIZE
        && (head[510..512] == [0x55, 0xaa]
            || matches!(head[0], 0xe9 | 0x60)
            || (head[0] == 0xeb && head[2] == 0x90))
}

/// Checks `BS_FilSysType`, which says nothing about the kind.
fn calls_itself_fat(head: &[u8]) -> bool {
    head.len() >= bpb::SIZE
        && (matches!(&head[54..62], b"FAT12   " | b"FAT16   " | b"FAT     ") || &head[82..90] == b"FAT32   ")
}

/// A FAT volume.
pub struct Fat {
    cache: CachedVolume,
    bpb: Bpb,
    /// Position of the active FAT.
    fat_start: u64,
    info: Info,
    /// The bytes of the volume that each directory owns: start, end, directory.
    claims: Mutex<BTreeMap<u64, (u64, NodeId)>>,
}

impl Fat {
    /// Opens the FAT on `volume`.
    pub fn open(volume: Arc<dyn Source>) -> Result<Self> {
        check_range("FAT boot sector", volume.len(), 0, bpb::SIZE as u64)?;
        let bpb = Bpb::parse(&volume.read_vec(0, bpb::SIZE)?)?;
        check_range("FAT", volume.len(), bpb.fat_start, bpb.data_start - bpb.fat_start)?;
        let mut warnings = Vec::new();
        let fat_start = bpb.active_fat().unwrap_or_else(|| {
            warnings.push(format!(
                "The boot sector calls FAT {} active, but there are {}; using the first one.",
                bpb.ext_flags & 0xf,
                bpb.num_fats
            ));
            bpb.fat_start
        });
        if bpb.size > volume.len() {
            warnings.push(format!(
                "The filesystem has {} bytes, but the volume only {}; the rest cannot be read.",
                bpb.size,
                volume.len()
            ));
        }
        if bpb.dirty {
            warnings.push("The volume was not unmounted cleanly.".to_owned());
        }
        let info = Info {
            kind: bpb.kind.name().to_owned(),
            label: None,
            uuid: bpb.vol_id.map(|id| format!("{:04X}-{:04X}", id >> 16, id & 0xffff)),
            block_size: bpb.cluster_size,
            size: bpb.size,
            free: None,
            features: Vec::new(),
            warnings,
            default_subvolume: None,
        };
        let mut fat =
            Fat { cache: CachedVolume::new(volume), bpb, fat_start, info, claims: Mutex::default() };
        fat.info.label = fat.label()?;
        fat.info.free = fat.free()?;
        if let Some(warning) = fat.compare_copies(MAX_COMPARED_BYTES)? {
            fat.info.warnings.push(warning);
        }
        Ok(fat)
    }

    fn table(&self) -> Table<'_> {
        Table::new(&self.bpb, self.fat_start, &self.cache)
    }

    /// Returns the root directory's label; without one, the boot sector's.
    fn label(&self) -> Result<Option<String>> {
        let mut label = None;
        self.scan(ROOT, &mut |_, slot| match slot {
            Slot::Label(entry) if label.is_none() && entry.is_label() => label = Some(entry.dir_name),
            _ => {}
        })?;
        Ok(label.or(self.bpb.vol_lab).and_then(|label| name::label(&label)))
    }

    /// Returns the free bytes: FAT32 stores a count, which may be unknown; for the others they are counted.
    fn free(&self) -> Result<Option<u64>> {
        let clusters = if self.bpb.kind == Kind::Fat32 {
            let Some(place) = self.bpb.fs_info else { return Ok(None) };
            if check_range("FSInfo", self.cache.volume().len(), place, 512).is_err() {
                return Ok(None);
            }
            let mut cursor = self.cache.cursor();
            let signatures = [
                cursor.read(place)? == *b"RRaA",
                cursor.read(place + 484)? == *b"rrAa",
                cursor.read(place + 508)? == [0, 0, 0x55, 0xaa],
            ];
            let free = u32::from_le_bytes(cursor.read(place + 488)?);
            Some(free).filter(|free| signatures == [true; 3] && *free <= self.bpb.cluster_count)
        } else {
            Some(self.table().count_free()?)
        };
        Ok(clusters.map(|count| u64::from(count) * u64::from(self.bpb.cluster_size)))
    }

    /// Compares the first `left` bytes of the other copies of the FAT, if there are any, with the active one.
    fn compare_copies(&self, mut left: u64) -> Result<Option<String>> {
        const CHUNK: u64 = 256 << 10;
        if !self.bpb.is_mirrored() {
            return Ok(None);
        }
        let used = self.bpb.fat_used();
        let volume = self.cache.volume();
        for copy in 1..u64::from(self.bpb.num_fats) {
            let mut offset = 0;
            while offset < used && left > 0 {
                let len = CHUNK.min(used - offset).min(left);
                let ours = volume.read_vec(self.fat_start + offset, len as usize)?;
                let theirs =
                    volume.read_vec(self.bpb.fat_start + copy * self.bpb.fat_len + offset, len as usize)?;
                if let Some(i) = ours.iter().zip(&theirs).position(|(a, b)| a != b) {
                    return Ok(Some(format!(
                        "The FATs differ: FAT {copy} at byte {} of {}; using FAT 0.",
                        offset + i as u64,
                        self.bpb.fat_len
                    )));
                }
                (offset, left) = (offset + len, left - len);
            }
        }
        Ok(None)
    }

    /// Returns the entry at byte `id` of the volume.
    fn entry(&self, id: NodeId) -> Result<ShortEntry> {
        let missing = || at("FAT directory entry").byte(id).not_found("no such entry");
        let in_root = self.bpb.fixed_root.contains(&id);
        if !id.is_multiple_of(ENTRY_SIZE as u64) || (id < self.bpb.data_start && !in_root) {
            return Err(missing());
        }
        match Slot::parse(&self.cache.cursor().read(id)?) {
            Slot::Short(entry) => Ok(entry),
            _ => Err(missing()),
        }
    }

    /// Returns the first cluster of an entry; 0 for none.
    fn first_cluster(&self, entry: &ShortEntry) -> u32 {
        let high = if self.bpb.kind == Kind::Fat32 { u32::from(entry.dir_fst_clus_hi) } else { 0 };
        high << 16 | u32::from(entry.dir_fst_clus_lo)
    }

    /// Follows the chain that starts at `cluster`, over at most `wanted` clusters; `place` is the position of the
    /// reference to it. Returns an empty chain with a problem if there is no such cluster.
    fn chain(&self, cluster: u32, wanted: u64, place: u64) -> Result<Chain> {
        let last = self.bpb.cluster_count + 1;
        if !self.bpb.has_cluster(cluster) {
            let problem = at("FAT directory entry")
                .field("DIR_FstClusLO")
                .byte(place)
                .corrupt(format!("names cluster {cluster}, expected 2 to {last}"));
            return Ok(Chain { problem: Some(problem), ..Chain::default() });
        }
        self.table().chain(cluster, u32::try_from(wanted).unwrap_or(u32::MAX))
    }

    /// Follows the chain of a directory, up to the maximum size.
    fn dir_chain(&self, id: NodeId) -> Result<Chain> {
        let wanted = MAX_DIR_BYTES.div_ceil(u64::from(self.bpb.cluster_size));
        if id == ROOT {
            const BPB_ROOT_CLUS: u64 = 44;
            return self.chain(self.bpb.root_cluster, wanted, BPB_ROOT_CLUS);
        }
        let entry = self.entry(id)?;
        if !entry.is_dir() {
            return Err(at("FAT directory entry")
                .byte(id)
                .not_found("belongs to a file, not to a directory"));
        }
        self.chain(self.first_cluster(&entry), wanted, id)
    }

    /// Locates the bytes of a directory; also returns the problem with it, if any.
    fn dir_pieces(&self, id: NodeId) -> Result<(Vec<Piece>, Option<Error>)> {
        let root = &self.bpb.fixed_root;
        if id == ROOT && self.bpb.kind != Kind::Fat32 {
            let piece = Piece::Volume { offset: root.start, len: root.end - root.start };
            // A root directory without any entries can be mounted too.
            return Ok((if piece.is_empty() { Vec::new() } else { vec![piece] }, None));
        }
        let Chain { runs, clusters, ended, problem } = self.dir_chain(id)?;
        let bytes = u64::from(clusters) * u64::from(self.bpb.cluster_size);
        let (pieces, cut) = self.pieces(&runs, bytes);
        let too_long = || {
            let place = at("FAT directory").byte(id);
            place.limit(format!("exceeds the limit of {MAX_DIR_BYTES} bytes"))
        };
        let problem = cut.or(problem).or_else(|| (!ended).then(too_long));
        Ok((pieces, problem))
    }

    /// Locates the first `bytes` bytes of a chain; also returns an error if part of them is past the volume's end.
    fn pieces(&self, runs: &[Run], bytes: u64) -> (Vec<Piece>, Option<Error>) {
        let mut left = bytes;
        let mut pieces = Vec::with_capacity(runs.len());
        for run in runs {
            let offset = self.bpb.cluster_place(run.cluster);
            let len = left.min(u64::from(run.count) * u64::from(self.bpb.cluster_size));
            let on_volume = self.cache.volume().len().saturating_sub(offset).min(len);
            if on_volume > 0 {
                pieces.push(Piece::Volume { offset, len: on_volume });
            }
            if on_volume < len {
                let end = self.cache.volume().len();
                let error = at(format!("cluster {} and the next {}", run.cluster, run.count - 1))
                    .byte(offset)
                    .corrupt(format!("extend past the end of the volume at {end}"));
                return (pieces, Some(error));
            }
            left -= len;
        }
        (pieces, None)
    }

    /// Records that directory `id` owns `pieces`, unless part of them belongs to another one.
    fn claim(&self, id: NodeId, pieces: &[Piece]) -> Result<()> {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let ranges = pieces.iter().filter_map(|piece| match piece {
            Piece::Volume { offset, len } => Some((*offset, offset + len)),
            _ => None,
        });
        for (start, end) in ranges.clone() {
            // Claims do not overlap, so only the last one that starts before the end can reach into the range, or, if
            // it is our own, those before it.
            let others = claims.range(..end).rev().take_while(|(_, (claim_end, _))| *claim_end > start);
            for (place, (_, owner)) in others {
                if *owner != id {
                    let shared = start.max(*place);
                    return Err(at("FAT directory").byte(id).corrupt(format!(
                        "shares the cluster at byte {shared} with the directory whose entry is at byte {owner}"
                    )));
                }
            }
        }
        claims.extend(ranges.map(|(start, end)| (start, (end, id))));
        Ok(())
    }

    /// Passes each slot of a directory, up to its end, to `each` with its position. Returns the problem with the
    /// directory, if any.
    fn scan(&self, id: NodeId, each: &mut dyn FnMut(u64, Slot)) -> Result<Option<Error>> {
        let (pieces, problem) = self.dir_pieces(id)?;
        self.claim(id, &pieces)?;
        for piece in &pieces {
            let Piece::Volume { offset, len } = *piece else { continue };
            // Directories are limited by MAX_DIR_BYTES, the fixed root by its 16-bit count.
            let bytes = self.cache.volume().read_vec(offset, len as usize)?;
            for (place, raw) in (offset..).step_by(ENTRY_SIZE).zip(bytes.chunks_exact(ENTRY_SIZE)) {
                let raw: &RawEntry = raw.try_into().expect("chunks of this size");
                match Slot::parse(raw) {
                    // The rest was never used, so problems with it do not matter.
                    Slot::End => return Ok(None),
                    slot => each(place, slot),
                }
            }
        }
        Ok(problem)
    }
}

/// Returns the name of an entry, and a complaint if it has to differ from the stored one.
fn entry_name(entry: &ShortEntry, long: Option<&[u16]>, place: u64) -> (Option<Vec<u8>>, Option<Error>) {
    let short = name::short(&entry.dir_name, entry.dir_nt_res).into_bytes();
    let corrupt = |problem: &str| at("FAT directory entry").field("DIR_Name").byte(place).corrupt(problem);
    match long.map(utf16::wtf8) {
        Some(long) if utf16::is_valid(&long) => (Some(long), None),
        _ if !utf16::is_valid(&short) => {
            (None, Some(corrupt("is empty or contains a slash; the entry was left out")))
        }
        Some(_) => (
            Some(short),
            Some(corrupt("has a long name that is empty or contains a slash; using the short name")),
        ),
        None => (Some(short), None),
    }
}

impl Filesystem for Fat {
    fn info(&self) -> &Info {
        &self.info
    }

    fn sector_sizes(&self) -> RangeInclusive<u32> {
        self.bpb.bytes_per_sector..=self.bpb.bytes_per_sector
    }

    fn capabilities(&self) -> &'static Capabilities {
        &driver::CAPABILITIES
    }

    fn root(&self) -> NodeId {
        ROOT
    }

    fn free_in(&self, range: &Range<u64>) -> Result<Option<Vec<Range<u64>>>> {
        self.free_clusters_in(range).map(Some)
    }

    fn node(&self, id: NodeId, _: &mut dyn FnMut(Error)) -> Result<Node> {
        let mut node = Node::bare(FileType::Dir);
        if id != ROOT {
            let entry = self.entry(id)?;
            node.mtime = entry.written;
            node.atime = entry.accessed;
            node.crtime = entry.created;
            node.flags = u32::from(entry.dir_attr) | u32::from(entry.dir_nt_res) << 8;
            if !entry.is_dir() {
                node.file_type = FileType::File;
                node.size = u64::from(entry.dir_file_size);
                return Ok(node);
            }
        }
        // An entry does not contain the length of its directory.
        node.size = self.dir_pieces(id)?.0.iter().map(Piece::len).sum();
        Ok(node)
    }

    fn read_dir(&self, id: NodeId, complain: &mut dyn FnMut(Error)) -> Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        let mut long = LongName::default();
        let problem = self.scan(id, &mut |place, slot| match slot {
            Slot::Long(part) => long.add(&part),
            Slot::Short(entry) => {
                let long = long.take(&entry.dir_name);
                let (name, complaint) = entry_name(&entry, long.as_deref(), place);
                if let Some(complaint) = complaint {
                    complain(complaint);
                }
                if let Some(name) = name {
                    let short_name = long.is_some().then_some(entry.dir_name);
                    entries.push(DirEntry { name, short_name, dos_name: None, node: place });
                }
            }
            Slot::Deleted | Slot::Label(_) | Slot::Dot | Slot::End => long.clear(),
        })?;
        if let Some(problem) = problem {
            complain(problem);
        }
        Ok(entries)
    }

    fn content(&self, id: NodeId) -> Result<Content> {
        let whole = |pieces: Vec<Piece>| Content { size: pieces.iter().map(Piece::len).sum(), pieces };
        if id == ROOT {
            return Ok(whole(self.dir_pieces(id)?.0));
        }
        let entry = self.entry(id)?;
        if entry.is_dir() {
            return Ok(whole(self.dir_pieces(id)?.0));
        }
        let size = u64::from(entry.dir_file_size);
        if size == 0 {
            return Ok(whole(Vec::new()));
        }
        let wanted = size.div_ceil(u64::from(self.bpb.cluster_size));
        let too_long = |clusters: u32| {
            at("FAT directory entry")
                .field("DIR_FileSize")
                .byte(id)
                .corrupt(format!("is {size}, which takes {wanted} clusters, but the chain has {clusters}"))
        };
        if wanted > u64::from(self.bpb.cluster_count) {
            return Err(too_long(self.bpb.cluster_count));
        }
        let chain = self.chain(self.first_cluster(&entry), wanted, id)?;
        if let Some(problem) = chain.problem {
            return Err(problem);
        }
        if u64::from(chain.clusters) < wanted {
            return Err(too_long(chain.clusters));
        }
        match self.pieces(&chain.runs, size) {
            (pieces, None) => Ok(whole(pieces)),
            (_, Some(error)) => Err(error),
        }
    }
}
