//! Applying transactions: items that change buffers and inodes, and intents.

use std::collections::{BTreeMap, HashSet};

use super::inode_item::{self, Format, fields};
use super::intents::Intents;
use super::memory::Memory;
use super::transaction::{Item, Transaction};
use crate::bytes::{be16, be32, be64, le16, le32, le64};
use crate::error::{Error, Result, at};
use crate::fs::xfs::blocks::{SECTOR, Sector};
use crate::fs::xfs::superblock::Superblock;
use crate::source::Source;

/// The type of an item.
mod kind {
    pub(super) const EXTENTS_FREE: u16 = 0x1236;
    pub(super) const EXTENTS_FREED: u16 = 0x1237;
    pub(super) const INODE: u16 = 0x123B;
    pub(super) const BUFFER: u16 = 0x123C;
    pub(super) const QUOTA: u16 = 0x123D;
    pub(super) const QUOTA_OFF: u16 = 0x123E;
    pub(super) const INODES_CREATED: u16 = 0x123F;
    /// Updates of the trees of owners and of reference counts: intents and completions.
    pub(super) const RMAP: u16 = 0x1240;
    pub(super) const REFCOUNT_DONE: u16 = 0x1243;
    /// Intents and completions for block maps, attributes and exchanges.
    pub(super) const MAP: u16 = 0x1244;
    pub(super) const EXCHANGE_DONE: u16 = 0x1249;
    /// The same for the realtime device: extents freed, owners and reference counts.
    pub(super) const RT_FREE: u16 = 0x124A;
    pub(super) const RT_REFCOUNT_DONE: u16 = 0x124F;
}

/// Bits of `blf_flags`.
mod flags {
    /// The buffer holds inodes. Only the list of unlinked ones is replayed.
    pub(super) const INODES: u16 = 1;
    pub(super) const CANCEL: u16 = 2;
    pub(super) const QUOTA: u16 = 4 | 8 | 0x10;
}

/// Buffers change in chunks of this many bytes.
const CHUNK: usize = 128;
/// Bytes of a buffer's format before its chunk map.
const BUFFER_FORMAT: usize = 20;
/// Sectors of the largest buffer.
const BUFFER_MAX: u16 = 128;
/// Inodes of a chunk.
const CHUNK_INODES: u32 = 64;

/// The result of a replay.
pub(in crate::fs::xfs) struct Replay {
    /// The changed sectors of the volume, by sector number.
    pub(in crate::fs::xfs) sectors: BTreeMap<u64, Box<Sector>>,
    /// Pending intents, in order.
    pub(in crate::fs::xfs) intents: Intents,
    /// Inodes whose trees belonged to another inode.
    pub(in crate::fs::xfs) adopted: HashSet<u64>,
    /// Warnings about items that could not be replayed.
    pub(in crate::fs::xfs) warnings: Vec<String>,
}

/// A replay in progress.
pub(super) struct Apply<'a> {
    memory: Memory<'a>,
    sb: &'a Superblock,
    /// Buffers that are freed later in the log, by first sector and length, with the number of times.
    cancelled: BTreeMap<(u64, u32), u32>,
    intents: Intents,
    adopted: HashSet<u64>,
    /// Number of items past the end of the volume.
    outside: u64,
}

/// `struct xfs_buf_log_format`.
struct Buffer<'a> {
    flags: u16,
    sector: u64,
    sectors: u16,
    /// One bit per chunk.
    map: &'a [u8],
}

impl<'a> Buffer<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self> {
        let bad = |problem: String| Err(corrupt(problem));
        if bytes.len() < BUFFER_FORMAT {
            return bad(format!("a buffer's format has {} bytes", bytes.len()));
        }
        let words = le32(bytes, 16) as usize;
        let map = words.checked_mul(4).and_then(|len| bytes[BUFFER_FORMAT..].get(..len));
        let Some(map) = map else {
            return bad(format!("a buffer's map of {words} words is longer than its format"));
        };
        Ok(Buffer { flags: le16(bytes, 4), sector: le64(bytes, 8), sectors: le16(bytes, 6), map })
    }

    fn has(&self, chunk: usize) -> bool {
        // Words are little-endian, so the bits are in order.
        self.map.get(chunk / 8).is_some_and(|byte| byte >> (chunk % 8) & 1 == 1)
    }

    fn key(&self) -> (u64, u32) {
        (self.sector, u32::from(self.sectors))
    }
}

fn corrupt(problem: impl Into<String>) -> Error {
    at("log item").corrupt(problem)
}

impl<'a> Apply<'a> {
    /// Returns a replay that has not applied anything yet.
    pub(super) fn new(volume: &'a dyn Source, sb: &'a Superblock) -> Self {
        Apply {
            memory: Memory::new(volume),
            sb,
            cancelled: BTreeMap::new(),
            intents: Intents::default(),
            adopted: HashSet::new(),
            outside: 0,
        }
    }

    /// Notes the buffers that a transaction frees (first pass).
    pub(super) fn cancel(&mut self, transaction: &Transaction) -> Result<()> {
        for item in transaction.items.iter().filter(|item| item.kind() == kind::BUFFER) {
            let buffer = Buffer::parse(&item.regions[0])?;
            if buffer.flags & flags::CANCEL != 0 {
                *self.cancelled.entry(buffer.key()).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Applies a transaction (second pass). Inodes are created before they are changed, and buffers are freed last.
    pub(super) fn commit(&mut self, transaction: &Transaction) -> Result<()> {
        let (mut first, mut second, mut last) = (Vec::new(), Vec::new(), Vec::new());
        for item in &transaction.items {
            if !item.is_whole() {
                return Err(corrupt(format!("an item of type {:#x} lacks regions", item.kind())));
            }
            match item.kind() {
                kind::BUFFER if Buffer::parse(&item.regions[0])?.flags & flags::CANCEL != 0 => {
                    last.push(item)
                }
                kind::BUFFER | kind::INODES_CREATED => first.push(item),
                _ => second.push(item),
            }
        }
        for item in first.into_iter().chain(second).chain(last) {
            self.item(item, transaction.lsn)?;
        }
        Ok(())
    }

    /// Returns the result of the replay.
    pub(super) fn finish(self) -> Replay {
        let mut warnings = Vec::new();
        if self.outside > 0 {
            warnings.push(format!("the log has {} items that lie past the end of the volume", self.outside));
        }
        Replay { sectors: self.memory.sectors, intents: self.intents, adopted: self.adopted, warnings }
    }

    fn item(&mut self, item: &Item, lsn: u64) -> Result<()> {
        match item.kind() {
            kind::BUFFER => self.buffer(item, lsn),
            kind::INODE => self.inode(item, lsn),
            kind::INODES_CREATED => self.create_inodes(item),
            kind::MAP..=kind::EXCHANGE_DONE => self.intents.add(item.kind(), &item.regions),
            // These change the free space, not the files.
            kind::EXTENTS_FREE | kind::EXTENTS_FREED | kind::QUOTA | kind::QUOTA_OFF => Ok(()),
            kind::RMAP..=kind::REFCOUNT_DONE | kind::RT_FREE..=kind::RT_REFCOUNT_DONE => Ok(()),
            kind => Err(at("log item").unsupported(format!("has the unknown type {kind:#x}"))),
        }
    }

    /// Applies a buffer item, unless the buffer is freed later or the volume has a newer one.
    fn buffer(&mut self, item: &Item, lsn: u64) -> Result<()> {
        let buffer = Buffer::parse(&item.regions[0])?;
        if buffer.flags & flags::CANCEL != 0 {
            if let Some(count) = self.cancelled.get_mut(&buffer.key()) {
                *count -= 1;
                if *count == 0 {
                    self.cancelled.remove(&buffer.key());
                }
            }
            return Ok(());
        }
        if self.cancelled.contains_key(&buffer.key()) || buffer.flags & (flags::INODES | flags::QUOTA) != 0 {
            return Ok(());
        }
        let len = u64::from(buffer.sectors) * SECTOR;
        let Some(offset) = buffer.sector.checked_mul(SECTOR).filter(|offset| self.memory.has(*offset, len))
        else {
            self.outside += 1;
            return Ok(());
        };
        if buffer.sectors == 0 || buffer.sectors > BUFFER_MAX {
            return Err(corrupt(format!(
                "a buffer has {} sectors, expected 1 to {BUFFER_MAX}",
                buffer.sectors
            )));
        }
        if self.sb.features.is_v5() {
            let head = self.memory.read(offset, SECTOR as usize)?;
            if lsn_of(&head, self.sb).is_some_and(|on_volume| on_volume >= lsn) {
                return Ok(());
            }
        }
        let chunks = len as usize / CHUNK;
        let mut next = 0;
        for region in &item.regions[1..] {
            while next < chunks && !buffer.has(next) {
                next += 1;
            }
            let count = region.len() / CHUNK;
            if region.is_empty() || region.len() % CHUNK != 0 || next + count > chunks {
                return Err(corrupt(format!("a buffer of {} sectors has a region too many", buffer.sectors)));
            }
            self.memory.write(offset + (next * CHUNK) as u64, region)?;
            next += count;
        }
        Ok(())
    }

    /// Applies an inode item, unless its buffer is freed later or the volume has a newer inode.
    fn inode(&mut self, item: &Item, lsn: u64) -> Result<()> {
        let format = Format::parse(&item.regions[0]).map_err(corrupt)?;
        if self.cancelled.contains_key(&(format.sector, format.sectors)) {
            return Ok(());
        }
        let size = usize::from(self.sb.inode_size);
        let offset =
            format.sector.checked_mul(SECTOR).and_then(|start| start.checked_add(u64::from(format.offset)));
        let Some(offset) = offset.filter(|offset| self.memory.has(*offset, size as u64)) else {
            self.outside += 1;
            return Ok(());
        };
        if item.regions.len() < 2 {
            return Err(corrupt(format!("inode {} has no core", format.ino)));
        }
        let is_v5 = self.sb.features.is_v5();
        let mut inode = self.memory.read(offset, size)?;
        if be16(&inode, 0) != 0x494E {
            return Err(corrupt(format!(
                "inode {} belongs at byte {offset}, where there is none",
                format.ino
            )));
        }
        let logged = &item.regions[1];
        if logged.len() < 32 || !inode_item::is_newer(&inode, logged, lsn, is_v5) {
            inode_item::apply(&mut inode, &format, &item.regions, lsn, is_v5).map_err(corrupt)?;
            self.memory.write(offset, &inode)?;
        }
        if format.fields & (fields::DATA_OWNER | fields::ATTR_OWNER) != 0 {
            self.adopted.insert(format.ino);
        }
        Ok(())
    }

    /// Initializes new inodes as free.
    fn create_inodes(&mut self, item: &Item) -> Result<()> {
        let bytes = &item.regions[0];
        if bytes.len() < 28 {
            return Err(corrupt(format!("the creation of inodes has {} bytes", bytes.len())));
        }
        let [ag, block, count, size, blocks, generation] =
            [4, 8, 12, 16, 20, 24].map(|at_byte| be32(bytes, at_byte));
        let sb = self.sb;
        let is_right = ag < sb.ag_count
            && block != 0
            && blocks != 0
            && block < sb.ag_len(ag)
            && blocks <= sb.ag_len(ag) - block
            && size == u32::from(sb.inode_size)
            && count <= CHUNK_INODES.max(sb.block_size / size)
            && u64::from(count) * u64::from(size) == sb.bytes(u64::from(blocks));
        if !is_right {
            return Err(corrupt(format!("{count} inodes of {size} bytes in {blocks} blocks make no sense")));
        }
        let offset = sb.ag_byte(ag, block);
        let end = offset + u64::from(count) * u64::from(size);
        if !self.memory.has(offset, end - offset) {
            self.outside += 1;
            return Ok(());
        }
        if self.cancelled.range((offset / SECTOR, 0)..(end / SECTOR, 0)).next().is_some() {
            return Ok(());
        }
        let first = (u64::from(ag) << sb.agb_log | u64::from(block)) << sb.inopb_log;
        for i in 0..u64::from(count) {
            let inode = free_inode(sb, first + i, generation);
            self.memory.write(offset + i * u64::from(size), &inode)?;
        }
        Ok(())
    }
}

/// Returns an inode that is not in use yet.
fn free_inode(sb: &Superblock, ino: u64, generation: u32) -> Vec<u8> {
    let mut inode = vec![0; usize::from(sb.inode_size)];
    let is_v5 = sb.features.is_v5();
    inode[..2].copy_from_slice(b"IN");
    inode[4] = if is_v5 { 3 } else { 2 };
    inode[92..96].copy_from_slice(&generation.to_be_bytes());
    inode[96..100].fill(0xFF);
    if is_v5 {
        inode[152..160].copy_from_slice(&ino.to_be_bytes());
        inode[160..176].copy_from_slice(&sb.meta_uuid);
    }
    inode
}

/// Returns the sequence number in a metadata block's header, `None` if it has none or belongs to another filesystem.
fn lsn_of(head: &[u8], sb: &Superblock) -> Option<u64> {
    let (lsn, uuid) = match &head[..4] {
        // B+trees of allocation groups, then of files.
        b"AB3B" | b"AB3C" | b"IAB3" | b"FIB3" | b"RMB3" | b"R3FC" => (24, 32),
        b"BMA3" => (32, 40),
        b"XAGF" => (208, 64),
        b"XAFL" => (24, 8),
        b"XAGI" => (320, 296),
        b"XSLM" => (48, 16),
        b"XDB3" | b"XDD3" | b"XDF3" => (16, 24),
        b"XFSB" => (240, if sb.uuid == sb.meta_uuid { 32 } else { 248 }),
        // Nodes and leaves of directories and attributes.
        _ if matches!(be16(head, 8), 0x3DF1 | 0x3DFF | 0x3EBE | 0x3BEE) => (24, 32),
        _ => return None,
    };
    let lsn = be64(head, lsn);
    (head[uuid..uuid + 16] == sb.meta_uuid && lsn != 0 && lsn != u64::MAX).then_some(lsn)
}
