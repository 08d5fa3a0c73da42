//! The metadata of the volume: superblock, group descriptors, bitmaps.
//!
//! <https://docs.kernel.org/filesystems/ext4/globals.html>

use std::ops::Range;

use super::inode;
use super::places::Places;
use crate::fs::FileType;
use crate::fs::ext4::checksum::{crc16, crc32c};
use crate::fs::ext4::features::{compat, incompat, ro_compat};
use crate::fs::ext4::superblock::{self, MAGIC, MAGIC_AT};
use crate::fs::plan::put;

const INODE_UNINIT: u16 = 1;
const BLOCK_UNINIT: u16 = 2;
const INODE_ZEROED: u16 = 4;

/// The use of a group.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    free_blocks: u32,
    free_inodes: u32,
    used_dirs: u32,
    /// Inodes at the end of the table that have never been used.
    unused_inodes: u32,
    flags: u16,
}

/// All groups, with their usage.
pub(super) struct Groups<'a> {
    places: &'a Places<'a>,
    states: Vec<State>,
}

impl<'a> Groups<'a> {
    pub(super) fn new(places: &'a Places<'a>) -> Self {
        let mut groups = Groups { places, states: Vec::new() };
        let count = places.geometry.groups();
        let mut next_fixed = 0;
        for group in 0..count {
            let fixed = &places.geometry.fixed;
            let blocks = places.geometry.group(group);
            while fixed.get(next_fixed).is_some_and(|f| f.end <= blocks.start) {
                next_fixed += 1;
            }
            let state = groups.count(group, &blocks, &fixed[next_fixed..], group + 1 == count);
            groups.states.push(state);
        }
        groups
    }

    fn count(&self, group: u32, blocks: &Range<u64>, fixed: &[Range<u64>], last: bool) -> State {
        let Places { geometry, params, end_of_used, tree, .. } = self.places;
        let given = (*end_of_used).clamp(blocks.start, blocks.end);
        let fixed = fixed.iter().take_while(|f| f.start < blocks.end);
        let fixed_in = |from: u64| -> u64 {
            fixed.clone().map(|f| f.end.min(blocks.end).saturating_sub(f.start.max(from))).sum()
        };
        let used_blocks = given - blocks.start + fixed_in(given);
        let reserved = self.reserved_in(group);
        let inodes = self.inodes_in(group);
        let first_ino = params.first_ino();
        let used_inodes = reserved + inodes.iter().filter(|(number, _)| *number >= first_ino).count() as u32;
        let per_group = geometry.inodes_per_group;
        let last_used = inodes.last().map_or(0, |(number, _)| (number - 1) % per_group + 1).max(reserved);
        let is_dir = |(_, owner): &&(u32, u32)| {
            tree.nodes().get(*owner as usize).is_some_and(|node| node.meta.file_type == FileType::Dir)
        };
        let mut flags = 0;
        if params.has_desc_csum() {
            flags |= INODE_ZEROED;
            if used_inodes == 0 {
                flags |= INODE_UNINIT;
            }
            // Only if the used blocks are those that a driver can derive: the group's own bitmaps and table.
            let place = geometry.places[group as usize];
            let within =
                |start: u64, len: u64| (start + len).min(blocks.end).saturating_sub(start.max(blocks.start));
            let own = within(place.block_bitmap, 1)
                + within(place.inode_bitmap, 1)
                + within(place.inode_table, geometry.table_blocks);
            if group > 0 && !last && given == blocks.start && used_blocks == own {
                flags |= BLOCK_UNINIT;
            }
        }
        State {
            free_blocks: (blocks.end - blocks.start - used_blocks) as u32,
            free_inodes: per_group - used_inodes,
            used_dirs: inodes.iter().filter(is_dir).count() as u32,
            unused_inodes: if params.has_desc_csum() { per_group - last_used } else { 0 },
            flags,
        }
    }

    /// Returns how many of the filesystem's own inodes, which are all in use, a group has.
    fn reserved_in(&self, group: u32) -> u32 {
        let per_group = self.places.geometry.inodes_per_group;
        (self.places.params.first_ino() - 1).saturating_sub(group.saturating_mul(per_group)).min(per_group)
    }

    /// Returns the used inodes of a group: numbers and owners.
    pub(super) fn inodes_in(&self, group: u32) -> &'a [(u32, u32)] {
        let per_group = u64::from(self.places.geometry.inodes_per_group);
        let before = u64::from(group) * per_group;
        let from = self.places.inodes.partition_point(|(number, _)| u64::from(*number) <= before);
        let to = self.places.inodes.partition_point(|(number, _)| u64::from(*number) <= before + per_group);
        &self.places.inodes[from..to]
    }

    pub(super) fn has_block_bitmap(&self, group: u32) -> bool {
        self.states[group as usize].flags & BLOCK_UNINIT == 0
    }

    pub(super) fn has_inode_bitmap(&self, group: u32) -> bool {
        self.states[group as usize].flags & INODE_UNINIT == 0
    }

    pub(super) fn block_bitmap(&self, group: u32) -> Vec<u8> {
        let geometry = &self.places.geometry;
        let blocks = geometry.group(group);
        let mut bitmap = vec![0; geometry.block_size as usize];
        let mut mark = |range: Range<u64>| {
            let (from, to) = (range.start.max(blocks.start), range.end);
            if from < to {
                set_bits(&mut bitmap, from - blocks.start..to - blocks.start);
            }
        };
        mark(blocks.start..self.places.end_of_used.min(blocks.end));
        let first = geometry.fixed.partition_point(|f| f.end <= blocks.start);
        for fixed in geometry.fixed[first..].iter().take_while(|f| f.start < blocks.end) {
            mark(fixed.start..fixed.end.min(blocks.end));
        }
        // Bits past the end of the group are set.
        mark(blocks.end..blocks.start + geometry.block_size * 8);
        bitmap
    }

    pub(super) fn inode_bitmap(&self, group: u32) -> Vec<u8> {
        let geometry = &self.places.geometry;
        let per_group = u64::from(geometry.inodes_per_group);
        let mut bitmap = vec![0; geometry.block_size as usize];
        set_bits(&mut bitmap, 0..self.reserved_in(group).into());
        for (number, _) in self.inodes_in(group) {
            let bit = u64::from(number - 1) % per_group;
            set_bits(&mut bitmap, bit..bit + 1);
        }
        set_bits(&mut bitmap, per_group..geometry.block_size * 8);
        bitmap
    }

    /// Encodes all descriptors, in whole blocks.
    pub(super) fn descriptors(&self) -> Vec<u8> {
        let Places { geometry, params, .. } = self.places;
        let size = usize::from(params.desc_size);
        let mut bytes = vec![0; geometry.desc_blocks as usize * geometry.block_size as usize];
        for (group, descriptor) in (0..geometry.groups()).zip(bytes.chunks_exact_mut(size)) {
            self.descriptor(group, descriptor);
        }
        bytes
    }

    fn descriptor(&self, group: u32, bytes: &mut [u8]) {
        let Places { geometry, params, .. } = self.places;
        let (state, place) = (self.states[group as usize], geometry.places[group as usize]);
        let mut sums = (0, 0);
        if params.metadata_csum() {
            let seed = params.csum_seed();
            if self.has_block_bitmap(group) {
                let bits = geometry.blocks_per_group as usize / 8;
                sums.0 = crc32c(seed, &self.block_bitmap(group)[..bits]);
            }
            if self.has_inode_bitmap(group) {
                let bits = geometry.inodes_per_group as usize / 8;
                sums.1 = crc32c(seed, &self.inode_bitmap(group)[..bits]);
            }
        }
        let mut upper = [0; 64];
        // A descriptor of 32 bytes has no space for the upper halves, which are zero.
        let whole = &mut upper;
        put::split32(whole, 0x0, 0x20, place.block_bitmap);
        put::split32(whole, 0x4, 0x24, place.inode_bitmap);
        put::split32(whole, 0x8, 0x28, place.inode_table);
        put::split16(whole, 0xC, 0x2C, state.free_blocks);
        put::split16(whole, 0xE, 0x2E, state.free_inodes);
        put::split16(whole, 0x10, 0x30, state.used_dirs);
        put::le16(whole, 0x12, state.flags);
        put::split16(whole, 0x18, 0x38, sums.0);
        put::split16(whole, 0x1A, 0x3A, sums.1);
        put::split16(whole, 0x1C, 0x32, state.unused_inodes);
        let len = bytes.len().min(64);
        bytes[..len].copy_from_slice(&upper[..len]);
        let number = group.to_le_bytes();
        let sum = if params.metadata_csum() {
            crc32c(crc32c(params.csum_seed(), &number), bytes) as u16
        } else if params.has_ro_compat(ro_compat::GDT_CSUM) {
            let before = crc16(crc16(crc16(!0, &params.uuid), &number), &bytes[..0x1E]);
            crc16(before, &bytes[0x20..])
        } else {
            0
        };
        put::le16(bytes, 0x1E, sum);
    }

    /// Encodes the superblock for `group`. `journal` is the journal's `i_block`.
    pub(super) fn superblock(&self, group: u32, journal: Option<&[u8; 60]>) -> Vec<u8> {
        let Places { geometry, params, .. } = self.places;
        let mut bytes = params.template.to_vec();
        let free_blocks = self.states.iter().map(|s| u64::from(s.free_blocks)).sum::<u64>();
        let free_inodes = self.states.iter().map(|s| u64::from(s.free_inodes)).sum::<u64>();
        put::le32(&mut bytes, 0x0, params.inodes() as u32);
        put::le32(&mut bytes, 0x10, free_inodes as u32);
        put::le32(&mut bytes, 0x14, params.first_data_block());
        let log = params.block_size.ilog2() - 10;
        put::le32(&mut bytes, 0x18, log);
        put::le32(&mut bytes, 0x1C, log);
        put::le32(&mut bytes, 0x20, params.blocks_per_group);
        put::le32(&mut bytes, 0x24, params.blocks_per_group);
        put::le32(&mut bytes, 0x28, params.inodes_per_group);
        for (at, time) in [
            (0x2C, params.mount_time),
            (0x30, params.write_time),
            (0x40, params.last_check),
            (0x108, params.mkfs_time),
        ] {
            put::le32(&mut bytes, at, time);
        }
        put::le16(&mut bytes, MAGIC_AT, MAGIC);
        put::le16(&mut bytes, 0x3A, 1); // s_state: unmounted cleanly
        put::le16(&mut bytes, 0x3C, params.errors);
        let (blocks, reserved) = (params.blocks, params.reserved_blocks.min(params.blocks / 2));
        if !params.dynamic {
            put::le32(&mut bytes, 0x4, blocks as u32);
            put::le32(&mut bytes, 0x8, reserved as u32);
            put::le32(&mut bytes, 0xC, free_blocks as u32);
            return bytes;
        }
        put::split32(&mut bytes, 0x4, 0x150, blocks);
        put::split32(&mut bytes, 0x8, 0x154, reserved);
        put::split32(&mut bytes, 0xC, 0x158, free_blocks);
        put::le32(&mut bytes, 0x4C, 1); // s_rev_level
        put::le32(&mut bytes, 0x54, params.first_ino());
        put::le16(&mut bytes, 0x58, params.inode_size);
        put::le16(&mut bytes, 0x5A, group as u16);
        put::le32(&mut bytes, 0x5C, params.features.compat);
        put::le32(&mut bytes, 0x60, params.features.incompat);
        put::le32(&mut bytes, 0x64, params.features.ro_compat);
        bytes[0x68..0x78].copy_from_slice(&params.uuid);
        for (range, text) in [
            (0x78..0x88, &params.label),
            (0x88..0xC8, &params.last_mounted),
            (0x200..0x240, &params.mount_opts),
        ] {
            bytes[range.clone()].fill(0);
            bytes[range.start..range.start + text.len()].copy_from_slice(text);
        }
        put::le16(&mut bytes, 0xCE, geometry.reserved_gdt as u16);
        bytes[0xEC..0xFC].copy_from_slice(&params.hash_seed);
        bytes[0xFC] = params.hash_version.number();
        put::le16(&mut bytes, 0xFE, if params.desc_size > 32 { params.desc_size } else { 0 });
        put::le32(&mut bytes, 0x100, params.default_mount_opts);
        put::le32(&mut bytes, 0x104, params.first_meta_bg);
        put::le32(&mut bytes, 0xE4, 0); // s_journal_dev
        put::le32(&mut bytes, 0xE8, 0); // s_last_orphan
        bytes[0x10C..0x150].fill(0);
        bytes[0xFD] = journal.is_some().into(); // s_jnl_backup_type
        put::le32(&mut bytes, 0xE0, if journal.is_some() { inode::JOURNAL } else { 0 });
        if let Some(root) = journal {
            bytes[0x10C..0x148].copy_from_slice(root);
            put::split32(&mut bytes, 0x14C, 0x148, self.places.journal.size);
        }
        if params.inode_size > 128 {
            put::le16(&mut bytes, 0x15C, params.extra_isize());
            put::le16(&mut bytes, 0x15E, params.extra_isize());
        }
        put::le16(&mut bytes, 0x166, 0); // s_mmp_update_interval
        bytes[0x168..0x170].fill(0); // s_mmp_block
        let is_flex = params.has_incompat(incompat::FLEX_BG);
        bytes[0x174] = if is_flex { params.log_groups_per_flex } else { 0 };
        bytes[0x175] = params.metadata_csum().into();
        bytes[0x194..0x200].fill(0); // recorded errors
        bytes[0x248..0x24C].fill(0); // s_overhead_clusters: the driver computes it
        let backups = if params.has_compat(compat::SPARSE_SUPER2) { params.backup_bgs } else { [0; 2] };
        put::le32(&mut bytes, 0x24C, backups[0]);
        put::le32(&mut bytes, 0x250, backups[1]);
        put::le32(&mut bytes, 0x268, 0); // s_lpf_ino
        if params.has_incompat(incompat::CSUM_SEED) {
            put::le32(&mut bytes, 0x270, params.checksum_seed);
        }
        put::le32(&mut bytes, 0x280, 0); // s_orphan_file_inum
        if params.metadata_csum() {
            let end = superblock::SIZE - 4;
            let sum = crc32c(!0, &bytes[..end]);
            put::le32(&mut bytes, end, sum);
        }
        bytes
    }
}

fn set_bits(bitmap: &mut [u8], bits: Range<u64>) {
    let (mut bit, end) = (bits.start as usize, bits.end as usize);
    while bit < end {
        if bit % 8 == 0 && bit + 8 <= end {
            bitmap[bit / 8] = 0xFF;
            bit += 8;
        } else {
            bitmap[bit / 8] |= 1 << (bit % 8);
            bit += 1;
        }
    }
}
