//! Decides all places: the inode number and the blocks of every node.

use std::collections::HashMap;
use std::ops::Range;

use super::alloc::Allocator;
use super::geometry::Geometry;
use super::map::{self, Mapped, Shape};
use super::params::Params;
use super::{demands, dir, inode, xattr};
use crate::error::{Result, at};
use crate::fs::ext4::features::{compat, incompat, ro_compat};
use crate::fs::plan::{Tree, TreeNode};
use crate::fs::{FileType, Node};

/// The owner numbers of the journal and of the inode of reserved descriptors, for runs.
pub(super) const JOURNAL: u32 = u32::MAX;
pub(super) const RESIZE: u32 = u32::MAX - 1;

/// A symlink of at least this length needs a block.
pub(super) const FAST_SYMLINK: usize = 60;
/// The size of `lost+found` in bytes, so that e2fsck need not allocate when it uses it.
const LOST_FOUND: u64 = 16 << 10;

/// The content of a run of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AllocatedFor {
    /// The content of a file, directory, symlink or the journal, from this block on.
    Data { logical: u64 },
    /// Blocks of its map, from this one on.
    Map { index: u64 },
    /// Its attributes.
    Xattrs,
}

/// Blocks of the volume that belong to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allocated {
    pub(super) physical: u64,
    pub(super) len: u64,
    pub(super) owner: u32,
    pub(super) kind: AllocatedFor,
}

/// The decisions about a node.
#[derive(Debug, Clone, Default)]
pub(super) struct Placing {
    /// Its content and its map, as indexes of runs.
    pub(super) data: Range<u32>,
    pub(super) map: Range<u32>,
    pub(super) xattr_block: u64,
    /// The number of all its blocks.
    pub(super) blocks: u64,
    pub(super) size: u64,
    pub(super) nlink: u16,
    pub(super) indexed: bool,
}

/// A volume whose places have all been decided.
pub(super) struct Places<'a> {
    pub(super) tree: &'a Tree,
    pub(super) params: Params,
    pub(super) geometry: Geometry,
    /// The inode numbers of the tree's nodes, followed by those of attribute values in inodes of their own.
    pub(super) numbers: Vec<u32>,
    /// The values in inodes of their own that belong to each node.
    values: HashMap<u32, Range<usize>>,
    /// The node of each of those values.
    value_owners: Vec<u32>,
    /// Inode number and owner of all inodes in use, sorted.
    pub(super) inodes: Vec<(u32, u32)>,
    /// The parent of each directory (the root is its own).
    pub(super) parents: Vec<u32>,
    pub(super) places: Vec<Placing>,
    pub(super) journal: Placing,
    /// The block of the resize inode, or 0.
    pub(super) resize_block: u64,
    /// In ascending order on the volume.
    pub(super) runs: Vec<Allocated>,
    /// All blocks before this one are in use.
    pub(super) end_of_used: u64,
    pub(super) map_kind: map::Kind,
    pub(super) dirs: dir::Format,
}

impl<'a> Places<'a> {
    pub(super) fn new(tree: &'a Tree, mut params: Params) -> Result<Self> {
        demands::check(tree, &mut params)?;
        let order = tree.in_order();
        let values = values(tree, &order, &params)?;
        let mut value_owners = vec![0; values.values().map(Range::len).sum()];
        for (node, own) in &values {
            let nodes = tree.nodes().len();
            value_owners[own.start - nodes..own.end - nodes].fill(*node);
        }
        let numbers = inode::number(tree, &order, value_owners.len(), &params)?;
        let geometry = Geometry::new(&params)?;
        let owners = order.iter().copied().chain(tree.nodes().len() as u32..numbers.len() as u32);
        let mut inodes: Vec<(u32, u32)> = owners.map(|node| (numbers[node as usize], node)).collect();
        if params.has_compat(compat::HAS_JOURNAL) {
            inodes.push((inode::JOURNAL, JOURNAL));
        }
        if params.has_compat(compat::RESIZE_INODE) {
            inodes.push((inode::RESIZE, RESIZE));
        }
        inodes.sort_unstable();
        let dirs = dir::Format {
            block_size: params.block_size as usize,
            filetype: params.has_incompat(incompat::FILETYPE),
            metadata_csum: params.metadata_csum(),
            index: params.has_compat(compat::DIR_INDEX).then(|| params.hasher()),
            levels_max: if params.has_incompat(incompat::LARGEDIR) { 2 } else { 1 },
        };
        let map_kind =
            if params.has_incompat(incompat::EXTENTS) { map::Kind::Extents } else { map::Kind::Tables };
        let (parents, mut links) = demands::links(tree, &params)?;
        links.resize(numbers.len(), 1);
        let mut places = Places {
            tree,
            numbers,
            values,
            value_owners,
            inodes,
            parents,
            places: links.into_iter().map(|nlink| Placing { nlink, ..Placing::default() }).collect(),
            journal: Placing::default(),
            resize_block: 0,
            runs: Vec::new(),
            end_of_used: 0,
            map_kind,
            dirs,
            params,
            geometry,
        };
        places.allocate(&order)?;
        Ok(places)
    }

    fn allocate(&mut self, order: &[u32]) -> Result<()> {
        let fixed = std::mem::take(&mut self.geometry.fixed);
        let mut allocator = Allocator::new(&fixed, self.geometry.first_data_block..self.geometry.blocks);
        if self.params.has_compat(compat::HAS_JOURNAL) {
            let mut place = Placing { nlink: 1, ..Placing::default() };
            let blocks = 0..u64::from(self.params.journal_blocks);
            place.size = blocks.end * self.geometry.block_size;
            self.place_data(&mut allocator, &mut place, JOURNAL, std::iter::once(blocks));
            self.journal = place;
        }
        if self.params.has_compat(compat::RESIZE_INODE) {
            allocator.take(1, &mut |run| self.resize_block = run.start);
            self.push_run(self.resize_block, 1, RESIZE, AllocatedFor::Data { logical: 0 });
        }
        for node in order {
            self.place_metadata(&mut allocator, *node)?;
        }
        for node in order {
            if self.tree.nodes()[*node as usize].meta.file_type == FileType::File {
                self.place_file(&mut allocator, *node)?;
            }
        }
        self.end_of_used = allocator.end_of_used();
        let missing = allocator.missing();
        self.geometry.fixed = fixed;
        if missing > 0 {
            let size = self.params.size();
            return Err(at("ext plan").limit(format!(
                "no room: the tree needs {} bytes, {} more than the {size} of the volume",
                size + missing * self.geometry.block_size,
                missing * self.geometry.block_size,
            )));
        }
        Ok(())
    }

    /// Places everything but the content of a regular file.
    fn place_metadata(&mut self, allocator: &mut Allocator<'_>, number: u32) -> Result<()> {
        let node = &self.tree.nodes()[number as usize];
        let mut place = std::mem::take(&mut self.places[number as usize]);
        let stored = self.stored_xattrs(number).map_err(|p| self.tree.named(number).unsupported(p))?;
        if stored.block.is_some() {
            allocator.take(1, &mut |run| place.xattr_block = run.start);
            self.push_run(place.xattr_block, 1, number, AllocatedFor::Xattrs);
            place.blocks += 1;
        }
        for (value, owner) in stored.values.iter().zip(self.values_of(number)) {
            let mut own = std::mem::take(&mut self.places[owner]);
            own.size = value.len() as u64;
            let blocks = own.size.div_ceil(self.geometry.block_size);
            self.place_data(allocator, &mut own, owner as u32, std::iter::once(0..blocks));
            self.places[owner] = own;
            place.blocks += blocks; // these also count for the owner
        }
        match node.meta.file_type {
            FileType::Dir => {
                let least =
                    if self.is_lost_found(number) { LOST_FOUND / self.geometry.block_size } else { 0 };
                let layout = self.dirs.layout(node.children.iter().map(|child| &child.name[..]), least);
                let blocks = layout.blocks();
                place.indexed = layout.is_indexed();
                place.size = blocks * self.geometry.block_size;
                if place.size > u64::from(u32::MAX >> 1) && !self.params.has_incompat(incompat::LARGEDIR) {
                    let problem =
                        format!("the directory takes {} bytes, over the limit of 2 GiB", place.size);
                    return Err(self.tree.named(number).limit(problem));
                }
                self.place_data(allocator, &mut place, number, std::iter::once(0..blocks));
            }
            FileType::Symlink => {
                let target = node.meta.link_target.as_deref().unwrap_or_default();
                place.size = target.len() as u64;
                if target.len() >= FAST_SYMLINK {
                    self.place_data(allocator, &mut place, number, std::iter::once(0..1));
                }
            }
            _ => {}
        }
        self.places[number as usize] = place;
        Ok(())
    }

    fn place_file(&mut self, allocator: &mut Allocator<'_>, number: u32) -> Result<()> {
        let node = &self.tree.nodes()[number as usize];
        let mut place = std::mem::take(&mut self.places[number as usize]);
        place.size = node.meta.size;
        let block_size = self.geometry.block_size;
        let most = self.map_kind.blocks_max(block_size);
        if place.size.div_ceil(block_size) > most {
            let problem = format!(
                "has {} bytes, over the limit of {} on this filesystem",
                place.size,
                most * block_size
            );
            return Err(self.tree.named(number).limit(problem));
        }
        let blocks = data_blocks(node, block_size);
        self.place_data(allocator, &mut place, number, blocks.into_iter());
        let sectors = place.blocks * (block_size / 512);
        if sectors >> 32 != 0 && !self.params.has_ro_compat(ro_compat::HUGE_FILE) {
            let problem = "has over 2 TiB, but the volume lacks the feature huge_file";
            return Err(self.tree.named(number).limit(problem));
        }
        if self.map_kind == map::Kind::Tables && allocator.end_of_used() >> 32 != 0 {
            let problem = "would extend past block 2³², but the volume lacks the feature extent";
            return Err(self.tree.named(number).limit(problem));
        }
        self.places[number as usize] = place;
        Ok(())
    }

    /// Places the blocks of a node, given by their numbers in it, and the blocks of their map.
    fn place_data(
        &mut self,
        allocator: &mut Allocator<'_>,
        place: &mut Placing,
        owner: u32,
        ranges: impl Iterator<Item = Range<u64>>,
    ) {
        let first = self.runs.len();
        for range in ranges {
            let mut logical = range.start;
            allocator.take(range.end - range.start, &mut |run| {
                let len = run.end - run.start;
                self.push_run(run.start, len, owner, AllocatedFor::Data { logical });
                logical += len;
                place.blocks += len;
            });
        }
        place.data = first as u32..self.runs.len() as u32;
        let map_blocks = self.shape(place).blocks();
        let first = self.runs.len();
        let mut index = 0;
        allocator.take(map_blocks, &mut |run| {
            let len = run.end - run.start;
            self.push_run(run.start, len, owner, AllocatedFor::Map { index });
            index += len;
        });
        place.blocks += map_blocks;
        place.map = first as u32..self.runs.len() as u32;
    }

    fn push_run(&mut self, physical: u64, len: u64, owner: u32, kind: AllocatedFor) {
        self.runs.push(Allocated { physical, len, owner, kind });
    }

    /// Returns the shape of the map of a placed node.
    pub(super) fn shape(&self, place: &Placing) -> Shape {
        let runs = self.runs[place.data.start as usize..place.data.end as usize].iter();
        let mapped = runs.map(|run| match run.kind {
            AllocatedFor::Data { logical } => Mapped { logical, physical: run.physical, len: run.len },
            _ => unreachable!("the data of a node is runs of data"),
        });
        Shape::new(self.map_kind, mapped, self.geometry.block_size)
    }

    /// Returns the attributes of a node in stored form.
    pub(super) fn stored_xattrs(&self, number: u32) -> Result<xattr::Stored, String> {
        let own = self.values_of(number);
        stored_xattrs(&self.tree.nodes()[number as usize].meta, &self.params, &self.numbers[own])
    }

    /// Returns the owner numbers of the values of a node's attributes.
    fn values_of(&self, number: u32) -> Range<usize> {
        self.values.get(&number).cloned().unwrap_or(0..0)
    }

    /// Returns the value with owner number `owner`, which is not a node of the tree.
    pub(super) fn value(&self, owner: u32) -> Vec<u8> {
        let node = self.value_owners[owner as usize - self.tree.nodes().len()];
        let mut stored = self.stored_xattrs(node).expect("it was stored when it was placed");
        stored.values.swap_remove(owner as usize - self.values_of(node).start)
    }

    /// Returns the place of `owner`.
    pub(super) fn place(&self, owner: u32) -> &Placing {
        if owner == JOURNAL { &self.journal } else { &self.places[owner as usize] }
    }

    /// Returns the layout of a directory, the same as when it was placed.
    pub(super) fn dir_layout(&self, number: u32) -> dir::Layout {
        let node = &self.tree.nodes()[number as usize];
        let least = if self.is_lost_found(number) { LOST_FOUND / self.geometry.block_size } else { 0 };
        self.dirs.layout(node.children.iter().map(|child| &child.name[..]), least)
    }

    fn is_lost_found(&self, number: u32) -> bool {
        number != 0
            && self.parents[number as usize] == 0
            && self.tree.nodes()[0].children.iter().any(|c| c.node == number && c.name == b"lost+found")
    }
}

fn stored_xattrs(node: &Node, params: &Params, numbers: &[u32]) -> Result<xattr::Stored, String> {
    let room = usize::from(params.inode_size - 128 - params.extra_isize());
    let inodes = xattr::ValueInodes { numbers, csum_seed: params.csum_seed() };
    let inodes = params.has_incompat(incompat::EA_INODE).then_some(inodes);
    xattr::store(&node.xattrs, room, params.block_size as usize, inodes)
}

/// Returns the owner numbers of the values in inodes of their own, for each node that has any.
fn values(tree: &Tree, order: &[u32], params: &Params) -> Result<HashMap<u32, Range<usize>>> {
    let mut values = HashMap::new();
    let mut next = tree.nodes().len();
    if params.has_incompat(incompat::EA_INODE) {
        for number in order {
            let stored = stored_xattrs(&tree.nodes()[*number as usize].meta, params, &[])
                .map_err(|problem| tree.named(*number).unsupported(problem))?;
            if !stored.values.is_empty() {
                values.insert(*number, next..next + stored.values.len());
                next += stored.values.len();
            }
        }
    }
    Ok(values)
}

/// Returns the blocks of a file that hold data, in order.
fn data_blocks(node: &TreeNode, block_size: u64) -> Vec<Range<u64>> {
    let mut blocks: Vec<Range<u64>> = Vec::with_capacity(node.data.len());
    for range in &node.data {
        let (start, end) = (range.start / block_size, range.end.div_ceil(block_size));
        match blocks.last_mut() {
            Some(last) if start <= last.end => last.end = end,
            _ => blocks.push(start..end),
        }
    }
    blocks
}
