//! Plans FAT12, FAT16 and FAT32 volumes.
//!
//! Clusters are allocated in ascending order: FAT32's root, the other directories in path order, then the files in path
//! order, each contiguous.
//!
//! # What a plan sets
//!
//! Read back, a planned tree has the same paths, times, attributes and content as the tree that it was planned from,
//! with these exceptions:
//!
//! - owners, modes, inode numbers and links: FAT has none, and they are left out;
//! - the size of directories, and holes, which become zeros;
//! - times: cut to two seconds (modification), 10 ms (creation) or a day (access), and before 1980 or after 2107 to the
//!   nearest possible time;
//! - short names that are missing where a name needs a long one, invalid, or duplicate. A short name with characters
//!   that not every system accepts gets a long one beside it.
//!
//! Symlinks, devices, hard links, extended attributes, files of 4 GiB or more, and names that differ only in case are
//! refused. Clusters that the original's FAT marked as bad are used again: a disk image has no bad sectors.

use std::collections::HashMap;

use super::bpb::{self, Kind};
use crate::error::{ErrorKind, Result, at};
use crate::fs::FileType;
use crate::fs::plan::{Placed, Planned, Tree};

use self::table::Chain;

mod dir;
mod names;
mod params;
mod sectors;
mod table;

pub use self::params::{FAT32_FROM, Params};

/// The most bytes of a directory.
const FOLDER_MAX: u64 = 65_536 * bpb::ENTRY_SIZE as u64;

/// A planned FAT volume.
pub struct Plan<'a> {
    tree: &'a Tree,
    params: Params,
    geometry: params::Geometry,
    /// The owner of each chain of clusters: ascending, without gaps.
    placed: Vec<(u32, Chain)>,
    /// The first cluster of each node; 0 for none.
    first: Vec<u32>,
    parents: Vec<u32>,
}

impl<'a> Plan<'a> {
    /// Plans a volume with the files of `tree`.
    ///
    /// Returns an error before anything is emitted: `Limit` if the volume is too small (the message says how large it must
    /// be), `Unsupported` if FAT cannot hold a file of the tree.
    pub fn new(tree: &'a Tree, params: Params) -> Result<Self> {
        params.check()?;
        let parents = check_tree(tree)?;
        let geometry = params.geometry();
        let mut plan =
            Plan { tree, params, geometry, placed: Vec::new(), first: vec![0; tree.nodes().len()], parents };
        let order = tree.in_order();
        let mut next = u64::from(table::FIRST);
        for node in &order {
            if tree.nodes()[*node as usize].meta.file_type == FileType::Dir {
                let bytes = plan.folder_len(*node)?;
                plan.place(*node, bytes, &mut next);
            }
        }
        for node in &order {
            let meta = &tree.nodes()[*node as usize].meta;
            if meta.file_type == FileType::File {
                plan.place(*node, meta.size, &mut next);
            }
        }
        let used = next - u64::from(table::FIRST);
        if used > geometry.clusters {
            return Err(at("FAT plan").limit(format!(
                "no room: the tree needs {} bytes in {used} clusters, but the volume has {}",
                used * geometry.cluster_size,
                geometry.clusters
            )));
        }
        Ok(plan)
    }

    /// Allocates clusters for `bytes` bytes of a node. Past the end of the volume they are only counted.
    fn place(&mut self, node: u32, bytes: u64, next: &mut u64) {
        let count = bytes.div_ceil(self.geometry.cluster_size);
        if count > 0 {
            if *next + count <= u64::from(u32::MAX) {
                let chain = Chain { first: *next as u32, count: count as u32 };
                self.first[node as usize] = chain.first;
                self.placed.push((node, chain));
            }
            *next += count;
        }
    }

    /// Returns the size of a directory's clusters in bytes.
    fn folder_len(&self, node: u32) -> Result<u64> {
        let is_root = node == 0;
        let names = names::of_children(self.tree, &self.tree.nodes()[node as usize].children)?;
        let own = if is_root { u64::from(self.params.label.is_some()) } else { 2 };
        let entries = own + names.iter().map(dir::entries).sum::<u64>();
        let bytes = entries * bpb::ENTRY_SIZE as u64;
        let room = if is_root && self.params.kind != Kind::Fat32 {
            u64::from(self.params.root_entries) * bpb::ENTRY_SIZE as u64
        } else {
            FOLDER_MAX
        };
        if bytes > room {
            return Err(self.tree.named(node).limit(format!(
                "no room: the directory needs {entries} entries, but has room for {}",
                room / bpb::ENTRY_SIZE as u64
            )));
        }
        Ok(if is_root && self.params.kind != Kind::Fat32 { 0 } else { bytes.max(1) })
    }

    /// Encodes the entries of a directory.
    fn folder(&self, node: u32) -> Result<Vec<u8>> {
        let folder = &self.tree.nodes()[node as usize];
        let mut bytes = Vec::new();
        if node != 0 {
            let parent = self.parents[node as usize];
            let parent = if parent == 0 { 0 } else { self.first[parent as usize] };
            dir::push_dots(&mut bytes, &folder.meta, self.first[node as usize], parent);
        } else if let Some(label) = &self.params.label {
            dir::push_label(&mut bytes, label, self.params.label_written);
        }
        let names = names::of_children(self.tree, &folder.children)?;
        for (child, name) in folder.children.iter().zip(&names) {
            let meta = &self.tree.nodes()[child.node as usize].meta;
            let size = if meta.file_type == FileType::File { meta.size as u32 } else { 0 };
            dir::push(&mut bytes, name, meta, self.first[child.node as usize], size);
        }
        Ok(bytes)
    }
}

impl Planned for Plan<'_> {
    fn size(&self) -> u64 {
        self.params.size()
    }

    fn notes(&self) -> &[String] {
        &self.params.notes
    }

    fn emit(&self, place: &mut dyn FnMut(u64, Placed<'_>) -> Result<()>) -> Result<()> {
        let geometry = &self.geometry;
        let used = self.placed.iter().map(|(_, chain)| u64::from(chain.count)).sum();
        place(0, Placed::Bytes(&self.params.reserved_bytes(used)))?;
        for copy in 0..u64::from(self.params.num_fats) {
            let start = geometry.fat_start + copy * geometry.fat_len;
            let chains = self.placed.iter().map(|(_, chain)| *chain);
            table::pieces(self.params.kind, self.params.media(), chains, &mut |offset, bytes| {
                let len = (geometry.fat_len - offset).min(bytes.len() as u64) as usize;
                place(start + offset, Placed::Bytes(&bytes[..len]))
            })?;
        }
        if self.params.kind != Kind::Fat32 {
            let root = self.folder(0)?;
            if !root.is_empty() {
                place(geometry.root_start, Placed::Bytes(&root))?;
            }
        }
        for (number, chain) in &self.placed {
            let start = geometry.data_start + u64::from(chain.first - table::FIRST) * geometry.cluster_size;
            let node = &self.tree.nodes()[*number as usize];
            if node.meta.file_type == FileType::Dir {
                place(start, Placed::Bytes(&self.folder(*number)?))?;
                continue;
            }
            for data in &node.data {
                let placed = Placed::File { key: node.key, offset: data.start, len: data.end - data.start };
                place(start + data.start, placed)?;
            }
        }
        Ok(())
    }
}

/// Fails for what FAT cannot hold; returns the parent directory of each node.
fn check_tree(tree: &Tree) -> Result<Vec<u32>> {
    let mut parents: HashMap<u32, u32> = HashMap::with_capacity(tree.nodes().len());
    for (number, node) in (0..).zip(tree.nodes()) {
        let meta = &node.meta;
        let refuse = |problem: &str| Err(tree.named(number).unsupported(problem));
        match meta.file_type {
            FileType::Dir | FileType::File => {}
            FileType::Symlink => return refuse("is a symlink, which FAT does not support"),
            _ => return refuse("is a device, pipe or socket, which FAT does not support"),
        }
        if meta.file_type == FileType::File && meta.size > u64::from(u32::MAX) {
            return refuse("has 4 GiB or more, over the limit of FAT");
        }
        if !meta.xattrs.is_empty() {
            return refuse("has extended attributes, which FAT does not support");
        }
        for child in &node.children {
            if parents.insert(child.node, number).is_some() {
                return Err(tree.named(child.node).unsupported("has hard links, which FAT does not support"));
            }
        }
    }
    Ok((0..tree.nodes().len() as u32).map(|node| parents.get(&node).copied().unwrap_or(0)).collect())
}

/// Returns the smallest size in bytes at which `tree` can be planned, with `params` resized to it.
///
/// Fails like planning if no size is sufficient.
pub fn minimum_size(tree: &Tree, params: &Params) -> Result<u64> {
    let sector = u64::from(params.bytes_per_sector);
    let fits = |sectors: u64| -> Result<bool> {
        let mut params = params.clone();
        params.resize(sectors * sector);
        match Plan::new(tree, params) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Limit => Ok(false),
            Err(error) => Err(error),
        }
    };
    let (mut low, mut high) = (0, params.sectors.max(64));
    while !fits(high)? {
        low = high;
        if high > u64::from(u32::MAX) {
            return Plan::new(tree, params.clone()).map(|plan| plan.size());
        }
        high += high / 4;
    }
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        if fits(middle)? {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(high * sector)
}
