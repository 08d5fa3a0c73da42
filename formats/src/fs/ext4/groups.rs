//! Block groups: the places of their inode tables, and the blocks that hold metadata and so never a file's bytes.
//!
//! <https://docs.kernel.org/filesystems/ext4/group_descr.html>

use std::ops::Range;

use super::blocks::Blocks;
use super::checksum::{crc16, crc32c};
use super::features::incompat;
use super::superblock::Superblock;
use crate::bytes::{le16, le32};
use crate::checksum::fits;
use crate::error::{Error, ErrorKind, Result, at};

/// The most warnings of one kind that are given in full; the rest are counted.
const TOLD_MAX: u64 = 4;
/// `EXT4_BG_BLOCK_UNINIT` in `bg_flags`.
const BLOCK_UNINIT: u16 = 2;
/// The most backups of a descriptor that are tried.
const BACKUPS_MAX: usize = 3;

/// The fields of a group descriptor that a reader needs, as block numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) block_bitmap: u64,
    pub(super) inode_bitmap: u64,
    pub(super) inode_table: u64,
    /// `BLOCK_UNINIT`: the block bitmap was never written.
    pub(super) block_uninit: bool,
}

impl Descriptor {
    /// Parses the `desc_size` bytes of the descriptor of `group`, from byte `offset` of the volume.
    ///
    /// Fails if the inode table is outside the filesystem. The second result is an error if a bitmap is: files can be
    /// read without it.
    pub(super) fn parse(
        bytes: &[u8],
        sb: &Superblock,
        group: u32,
        offset: u64,
    ) -> Result<(Self, Result<()>)> {
        let high = |at| if sb.desc_size >= 64 { u64::from(le32(bytes, at)) << 32 } else { 0 };
        let descriptor = Descriptor {
            block_bitmap: u64::from(le32(bytes, 0x0)) | high(0x20),
            inode_bitmap: u64::from(le32(bytes, 0x4)) | high(0x24),
            inode_table: u64::from(le32(bytes, 0x8)) | high(0x28),
            block_uninit: (sb.metadata_csum() || sb.gdt_csum()) && le16(bytes, 0x12) & BLOCK_UNINIT != 0,
        };
        let check = |field, field_at, block: u64, count| {
            let end = block.checked_add(count);
            if block > u64::from(sb.first_data_block) && end.is_some_and(|end| end <= sb.blocks_count) {
                return Ok(());
            }
            let place = at(format!("descriptor of block group {group}")).field(field).byte(offset + field_at);
            Err(place.corrupt(format!(
                "is block {block}, expected {count} blocks between {} and {}",
                sb.first_data_block, sb.blocks_count
            )))
        };
        check("bg_inode_table", 0x8, descriptor.inode_table, inode_table_blocks(sb))?;
        let bitmaps = check("bg_block_bitmap", 0x0, descriptor.block_bitmap, 1)
            .and_then(|()| check("bg_inode_bitmap", 0x4, descriptor.inode_bitmap, 1));
        Ok((descriptor, bitmaps))
    }
}

/// Fails if the descriptor of `group` has a checksum and it does not match.
fn check_sum(bytes: &[u8], sb: &Superblock, group: u32, offset: u64) -> Result<()> {
    let found = le16(bytes, 0x1E);
    match checksum(bytes, sb, group) {
        Some(right) if !fits(found, right) => Err(at(format!("descriptor of block group {group}"))
            .field("bg_checksum")
            .byte(offset + 0x1E)
            .corrupt(format!("is {found:#06x}, expected {right:#06x}: it is damaged"))),
        _ => Ok(()),
    }
}

/// Returns the number of blocks of an inode table.
pub(super) fn inode_table_blocks(sb: &Superblock) -> u64 {
    (u64::from(sb.inodes_per_group) * u64::from(sb.inode_size)).div_ceil(u64::from(sb.block_size))
}

/// Returns the correct `bg_checksum`, if the volume has one.
fn checksum(bytes: &[u8], sb: &Superblock, group: u32) -> Option<u16> {
    let number = group.to_le_bytes();
    let (before, after) = (&bytes[..0x1E], &bytes[0x20..]);
    if sb.metadata_csum() {
        let crc = crc32c(crc32c(sb.csum_seed, &number), before);
        let crc = crc32c(crc32c(crc, &[0, 0]), after);
        Some((crc & 0xFFFF) as u16)
    } else if sb.gdt_csum() {
        Some(crc16(crc16(crc16(crc16(!0, &sb.uuid), &number), before), after))
    } else {
        None
    }
}

/// All groups of a volume.
pub(super) struct Groups {
    /// The first block of each group's inode table; 0 if no descriptor could be read.
    inode_tables: Vec<u64>,
    /// The block bitmap of each group: 0 if it was never written, or the descriptor could not be read.
    block_bitmaps: Vec<u64>,
    /// The blocks that hold metadata: sorted, disjoint.
    metadata: Vec<Range<u64>>,
    /// The journal's inode, and its blocks: sorted, disjoint.
    journal: (u32, Vec<Range<u64>>),
    /// Warnings.
    pub(super) warnings: Vec<String>,
}

impl Groups {
    /// Reads all descriptors. A damaged one is replaced by a backup; if there is none, only the inodes of its group
    /// cannot be read.
    pub(super) fn read(blocks: &Blocks, sb: &Superblock) -> Result<Self> {
        let mut scan = Scan {
            blocks,
            sb,
            from_backup: Told::default(),
            doubtful: Told::default(),
            lost: Told::default(),
        };
        let (mut inode_tables, mut block_bitmaps) = (Vec::new(), Vec::new());
        let mut metadata = Vec::new();
        let per_block = sb.block_size / u32::from(sb.desc_size);
        let desc_blocks = sb.groups_count.div_ceil(per_block);
        for index in 0..desc_blocks {
            let block = scan.primary(index);
            if block >= blocks.count() {
                // The volume is truncated, and all further descriptors and their backups are past its end.
                scan.lost.tell(format!("block {block} of group descriptors is past the end of the volume"));
                break;
            }
            let bytes = match blocks.read("group descriptors", block, 1) {
                Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                bytes => bytes,
            };
            for slot in 0..per_block.min(sb.groups_count - index * per_block) {
                let group = index * per_block + slot;
                match scan.descriptor(bytes.as_deref(), index, slot, group) {
                    Some(descriptor) => {
                        inode_tables.push(descriptor.inode_table);
                        block_bitmaps.push(if descriptor.block_uninit { 0 } else { descriptor.block_bitmap });
                        for bitmap in [descriptor.block_bitmap, descriptor.inode_bitmap] {
                            metadata.push(bitmap..bitmap.saturating_add(1));
                        }
                        let end = descriptor.inode_table + inode_table_blocks(sb);
                        metadata.push(descriptor.inode_table..end);
                    }
                    None => {
                        inode_tables.push(0);
                        block_bitmaps.push(0);
                    }
                }
            }
            if index >= 1024 && index % 1024 == 0 {
                metadata = merge(metadata); // limits memory by the number of gaps, not of groups
            }
        }
        let own = if sb.features.has_incompat(incompat::META_BG) {
            sb.first_meta_bg.min(desc_blocks)
        } else {
            desc_blocks
        };
        metadata.push(0..u64::from(sb.first_data_block) + 1);
        let on_volume = |block: &u64| *block < blocks.count();
        for first in sb.super_groups().map(|group| sb.first_block(group)).take_while(on_volume) {
            metadata.push(first..first + 1 + u64::from(own));
        }
        for block in (own..desc_blocks).map(|index| scan.primary(index)).take_while(on_volume) {
            metadata.push(block..block + 1);
        }
        let mut warnings = scan.from_backup.into_warnings("were read from backups");
        warnings.extend(scan.doubtful.into_warnings("are damaged, but were used"));
        warnings.extend(scan.lost.into_warnings("cannot be read, nor can the inodes of their groups"));
        Ok(Groups {
            inode_tables,
            block_bitmaps,
            metadata: merge(metadata),
            journal: (0, Vec::new()),
            warnings,
        })
    }

    /// Returns the first block of the inode table of `group`, if its descriptor could be read.
    pub(super) fn inode_table(&self, group: u32) -> Option<u64> {
        self.inode_tables.get(group as usize).copied().filter(|block| *block != 0)
    }

    /// Returns the block of the block bitmap of a group: 0 if it was never written; `None` if the descriptor could not be
    /// read.
    pub(super) fn block_bitmap(&self, group: usize) -> Option<u64> {
        let bitmap = *self.block_bitmaps.get(group)?;
        (self.inode_tables[group] != 0).then_some(bitmap)
    }

    /// Marks `blocks` as metadata for all inodes but the journal's.
    pub(super) fn protect(&mut self, blocks: Vec<Range<u64>>, journal: u32) {
        self.journal = (journal, merge(blocks));
    }

    /// Returns a range of metadata that overlaps `blocks`, if any; `blocks` should belong to `inode`.
    pub(super) fn metadata_in(&self, blocks: &Range<u64>, inode: u32) -> Option<&Range<u64>> {
        let of_others = |ranges: &'_ [Range<u64>]| {
            let next = ranges.partition_point(|range| range.end <= blocks.start);
            ranges.get(next).filter(|range| range.start < blocks.end).map(|_| next)
        };
        let (journal, lies) = &self.journal;
        let own = of_others(&self.metadata).map(|i| &self.metadata[i]);
        own.or_else(|| of_others(lies).filter(|_| inode != *journal).map(|i| &lies[i]))
    }
}

/// Sorts ranges and merges adjacent ones.
pub(super) fn merge(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

struct Scan<'a> {
    blocks: &'a Blocks,
    sb: &'a Superblock,
    from_backup: Told,
    doubtful: Told,
    lost: Told,
}

impl Scan<'_> {
    /// Returns the block that holds block number `index` of the descriptors.
    fn primary(&self, index: u32) -> u64 {
        let sb = self.sb;
        let superblock = 1024 / u64::from(sb.block_size);
        if !sb.features.has_incompat(incompat::META_BG) || index < sb.first_meta_bg {
            return superblock + 1 + u64::from(index);
        }
        self.meta_bg(index, 0)
    }

    /// Returns the copy of descriptor block `index` in group `nth` of its meta block group.
    fn meta_bg(&self, index: u32, nth: u32) -> u64 {
        let sb = self.sb;
        let group = u64::from(index) * u64::from(sb.block_size / u32::from(sb.desc_size)) + u64::from(nth);
        let group = u32::try_from(group).unwrap_or(u32::MAX);
        // With blocks of 1 KiB where the first is number 0 (bigalloc), the superblock is in the second block.
        let boot = sb.block_size == 1024 && sb.first_data_block == 0 && group == 0;
        sb.first_block(group) + u64::from(sb.has_super(group)) + u64::from(boot)
    }

    fn backups(&self, index: u32) -> Vec<u64> {
        let sb = self.sb;
        if sb.features.has_incompat(incompat::META_BG) && index >= sb.first_meta_bg {
            let per_block = sb.block_size / u32::from(sb.desc_size);
            return vec![self.meta_bg(index, 1), self.meta_bg(index, per_block - 1)];
        }
        sb.super_groups()
            .skip(1)
            .take(BACKUPS_MAX)
            .map(|group| sb.first_block(group) + 1 + u64::from(index))
            .collect()
    }

    fn descriptor(
        &mut self,
        bytes: Result<&[u8], &Error>,
        index: u32,
        slot: u32,
        group: u32,
    ) -> Option<Descriptor> {
        let size = usize::from(self.sb.desc_size);
        let start = slot as usize * size;
        let parse = |bytes: &[u8], block| -> Result<(Descriptor, Result<()>)> {
            let (bytes, offset) = (&bytes[start..start + size], self.blocks.byte(block) + start as u64);
            let (descriptor, bitmaps) = Descriptor::parse(bytes, self.sb, group, offset)?;
            Ok((descriptor, bitmaps.and_then(|()| check_sum(bytes, self.sb, group, offset))))
        };
        let mut usable = None;
        let problem = match bytes.map(|bytes| parse(bytes, self.primary(index))) {
            Ok(Ok((descriptor, Ok(())))) => return Some(descriptor),
            Ok(Ok((descriptor, Err(error)))) => {
                usable = Some(descriptor);
                error.to_string()
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        for block in self.backups(index) {
            let backup = self.blocks.read("group descriptors", block, 1);
            if let Ok((descriptor, Ok(()))) = backup.and_then(|bytes| parse(&bytes, block)) {
                self.from_backup.tell(problem);
                return Some(descriptor);
            }
        }
        if usable.is_some() {
            // The kernel does the same when it mounts read-only.
            self.doubtful.tell(problem);
            return usable;
        }
        self.lost.tell(problem);
        None
    }
}

/// Warnings of one kind: the first few in full, and the number of all.
#[derive(Default)]
struct Told {
    first: Vec<String>,
    count: u64,
}

impl Told {
    fn tell(&mut self, problem: String) {
        self.count += 1;
        if self.count <= TOLD_MAX {
            self.first.push(problem);
        }
    }

    fn into_warnings(self, outcome: &str) -> Vec<String> {
        let mut warnings = self.first;
        if self.count > 0 {
            warnings.push(format!("{} group descriptors {outcome}", self.count));
        }
        warnings
    }
}
