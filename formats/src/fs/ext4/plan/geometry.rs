//! The places of a volume's own metadata: superblocks, descriptors, bitmaps and inode tables of all groups.
//!
//! <https://docs.kernel.org/filesystems/ext4/blockgroup.html>

use std::ops::Range;

use super::params::Params;
use crate::error::{Error, Result, at};
use crate::fs::ext4::features::{compat, incompat, ro_compat};
use crate::fs::ext4::groups::merge;

/// The most groups that are planned: 256 TiB of 4 KiB blocks are two million.
const GROUPS_MAX: u32 = 1 << 22;

/// The places of a group's metadata, as block numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct GroupPlaces {
    pub(super) block_bitmap: u64,
    pub(super) inode_bitmap: u64,
    pub(super) inode_table: u64,
}

/// The division of a volume into groups.
#[derive(Debug)]
pub(super) struct Geometry {
    pub(super) block_size: u64,
    pub(super) blocks: u64,
    pub(super) first_data_block: u64,
    pub(super) blocks_per_group: u64,
    pub(super) inodes_per_group: u32,
    /// Number of blocks of an inode table.
    pub(super) table_blocks: u64,
    /// Number of descriptor blocks.
    pub(super) desc_blocks: u32,
    /// The number of those that are stored together, after every superblock.
    pub(super) own_desc_blocks: u32,
    /// Descriptors per block.
    pub(super) desc_per_block: u32,
    pub(super) reserved_gdt: u32,
    pub(super) places: Vec<GroupPlaces>,
    /// All metadata blocks whose places do not depend on the files: sorted, disjoint.
    pub(super) fixed: Vec<Range<u64>>,
    sparse: Sparse,
    meta_bg: bool,
}

/// The groups that have copies of the superblock.
#[derive(Debug, Clone, Copy)]
enum Sparse {
    All,
    Powers,
    Two([u32; 2]),
}

impl Geometry {
    /// Decides the layout of a volume.
    pub(super) fn new(params: &Params) -> Result<Self> {
        params.check()?;
        let groups = params.groups();
        if groups > GROUPS_MAX {
            return Err(at("ext plan").limit(format!("{groups} groups are more than {GROUPS_MAX}")));
        }
        let block_size = u64::from(params.block_size);
        let meta_bg = params.has_incompat(incompat::META_BG);
        let desc_blocks = params.desc_blocks();
        let mut geometry = Geometry {
            block_size,
            blocks: params.blocks,
            first_data_block: params.first_data_block().into(),
            blocks_per_group: params.blocks_per_group.into(),
            inodes_per_group: params.inodes_per_group,
            table_blocks: (u64::from(params.inodes_per_group) * u64::from(params.inode_size))
                .div_ceil(block_size),
            desc_blocks,
            own_desc_blocks: if meta_bg { params.first_meta_bg.min(desc_blocks) } else { desc_blocks },
            desc_per_block: params.block_size / u32::from(params.desc_size),
            reserved_gdt: if meta_bg || !params.has_compat(compat::RESIZE_INODE) {
                0
            } else {
                params.reserved_gdt_blocks.into()
            },
            places: Vec::new(),
            fixed: Vec::new(),
            sparse: if params.has_compat(compat::SPARSE_SUPER2) {
                Sparse::Two(params.backup_bgs)
            } else if params.has_ro_compat(ro_compat::SPARSE_SUPER) {
                Sparse::Powers
            } else {
                Sparse::All
            },
            meta_bg,
        };
        let flex = params.has_incompat(incompat::FLEX_BG);
        geometry.place_all(groups, if flex { 1 << params.log_groups_per_flex.min(22) } else { 1 })?;
        Ok(geometry)
    }

    pub(super) fn groups(&self) -> u32 {
        self.places.len() as u32
    }

    /// Returns true if `group` has the superblock or a copy.
    pub(super) fn has_super(&self, group: u32) -> bool {
        let is_power = |base: u32| {
            std::iter::successors(Some(base), |p| p.checked_mul(base))
                .take_while(|p| *p <= group)
                .any(|p| p == group)
        };
        match (group, self.sparse) {
            (0, _) | (_, Sparse::All) => true,
            (1, Sparse::Powers) => true,
            (_, Sparse::Powers) => [3, 5, 7].into_iter().any(is_power),
            (_, Sparse::Two(backups)) => backups.contains(&group),
        }
    }

    /// Returns the blocks of `group`.
    pub(super) fn group(&self, group: u32) -> Range<u64> {
        let start = self.first_data_block + u64::from(group) * self.blocks_per_group;
        start..(start + self.blocks_per_group).min(self.blocks)
    }

    /// Returns the superblock's block in `group`. (In the first group it may be in the second half of a block.)
    pub(super) fn super_block(&self, group: u32) -> u64 {
        self.group(group).start
    }

    /// Returns the copies of the descriptor block `index`, as block numbers in ascending order.
    pub(super) fn desc_places(&self, index: u32) -> Vec<u64> {
        if index < self.own_desc_blocks {
            return (0..self.groups())
                .filter(|group| self.has_own_descs(*group))
                .map(|group| self.group(group).start + 1 + u64::from(index))
                .collect();
        }
        self.meta_groups(index)
            .map(|group| self.group(group).start + u64::from(self.has_super(group)))
            .collect()
    }

    /// Returns the groups that have the descriptors of meta group `index`.
    fn meta_groups(&self, index: u32) -> impl Iterator<Item = u32> + use<'_> {
        let first = u64::from(index) * u64::from(self.desc_per_block);
        let last = first + u64::from(self.desc_per_block) - 1;
        [first, first + 1, last]
            .into_iter()
            .filter_map(|group| u32::try_from(group).ok())
            .filter(|group| (*group as usize) < self.places.len())
    }

    /// Returns true if `group` has the contiguous descriptor blocks after its superblock.
    fn has_own_descs(&self, group: u32) -> bool {
        self.has_super(group) && (!self.meta_bg || group / self.desc_per_block < self.own_desc_blocks)
    }

    /// Returns the blocks reserved for descriptors in `group`.
    pub(super) fn reserved_gdt_of(&self, group: u32) -> Range<u64> {
        let start = self.group(group).start + 1 + u64::from(self.own_desc_blocks);
        if self.has_super(group) { start..start + u64::from(self.reserved_gdt) } else { start..start }
    }

    /// Returns the metadata at the start of `group`: superblock, descriptors, and blocks reserved for descriptors.
    pub(super) fn head(&self, group: u32) -> Range<u64> {
        let start = self.group(group).start;
        let mut len = u64::from(self.has_super(group));
        if self.has_own_descs(group) {
            len += u64::from(self.own_desc_blocks) + u64::from(self.reserved_gdt);
        }
        let index = group / self.desc_per_block;
        if self.meta_bg && index >= self.own_desc_blocks && self.meta_groups(index).any(|g| g == group) {
            len += 1;
        }
        start..start + len
    }

    fn place_all(&mut self, groups: u32, per_flex: u32) -> Result<()> {
        self.places = vec![GroupPlaces::default(); groups as usize];
        let heads: Vec<Range<u64>> = (0..groups).map(|group| self.head(group)).collect();
        if let Some(group) = (0..groups).find(|group| heads[*group as usize].end > self.group(*group).end) {
            return Err(self.no_room(group));
        }
        for first in (0..groups).step_by(per_flex as usize) {
            let members = first..groups.min(first.saturating_add(per_flex));
            let end = self.group(members.end - 1).end;
            let mut taker = Taker { next: self.group(first).start, group: first, heads: &heads };
            let mut take = |len| taker.take(len, end).ok_or_else(|| self.no_room(first));
            let mut places = vec![GroupPlaces::default(); members.len()];
            for place in &mut places {
                place.block_bitmap = take(1)?;
            }
            for place in &mut places {
                place.inode_bitmap = take(1)?;
            }
            for place in &mut places {
                place.inode_table = take(self.table_blocks)?;
            }
            self.places[members.start as usize..members.end as usize].copy_from_slice(&places);
        }
        let mut fixed = heads;
        for place in &self.places {
            fixed.push(place.block_bitmap..place.block_bitmap + 1);
            fixed.push(place.inode_bitmap..place.inode_bitmap + 1);
            fixed.push(place.inode_table..place.inode_table + self.table_blocks);
        }
        self.fixed = merge(fixed);
        Ok(())
    }

    fn no_room(&self, group: u32) -> Error {
        at("ext plan").limit(format!(
            "no room: the metadata of group {group} alone does not fit into its {} blocks",
            self.group(group).end - self.group(group).start
        ))
    }
}

/// An allocator of consecutive runs of blocks, which skips the heads of groups.
struct Taker<'a> {
    next: u64,
    /// The group of `next`.
    group: u32,
    heads: &'a [Range<u64>],
}

impl Taker<'_> {
    fn take(&mut self, len: u64, end: u64) -> Option<u64> {
        while let Some(head) = self.heads.get(self.group as usize) {
            if self.next + len <= head.start {
                break;
            }
            if !head.is_empty() {
                self.next = self.next.max(head.end);
            }
            self.group += 1;
        }
        // The head before `next` is passed; the one after it, if any, is not reached.
        let start = self.next;
        self.next += len;
        (self.next <= end).then_some(start)
    }
}
