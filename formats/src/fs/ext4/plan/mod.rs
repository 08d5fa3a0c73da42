//! Plans ext2, ext3 and ext4 volumes.
//!
//! ```text
//! Params → Geometry (where the volume's own metadata lies)
//! Tree   → numbers → blocks of folders, symlinks, attributes, files → runs   (places.rs: all is decided here)
//! runs   → bitmaps, descriptors, superblocks, inodes, maps, folders           (emit.rs: made block by block)
//! ```
//!
//! Blocks are allocated in one ascending pass: the journal, directories and other metadata in path order, then the
//! files in path order. Each takes consecutive blocks, interrupted only by metadata with a fixed place. So a single
//! block number describes which blocks are in use: all before it, and the fixed metadata after it.
//!
//! # What a plan sets
//!
//! Read back, a planned tree has the same paths, types, modes, owners, times, link targets, attributes, device numbers,
//! generations and content as the tree that it was planned from, except that planning sets
//!
//! - inode numbers, if a node has none, or one that is taken or out of range;
//! - `nlink`: counted from the tree (a directory with more than 65,000 links has 1, with `dir_nlink`);
//! - the size of directories, and of symlinks to the length of their target;
//! - `i_flags`: how a file is mapped, whether a directory has an index, and compression flags;
//! - missing times: access and change times to the modification time. In inodes of 128 bytes, all times are cut to
//!   seconds and there is no creation time;
//! - holes smaller than a block, which become zeros;
//! - the project, to 0 if the volume has projects and a node has none.
//!
//! Block lists that boot loaders keep outside the filesystem (LILO, extlinux) are not updated.

use crate::error::{ErrorKind, Result};
use crate::fs::plan::{Placed, Planned, Tree};

mod alloc;
mod demands;
mod dir;
mod emit;
mod feature_list;
mod geometry;
mod groups;
mod hash;
mod inode;
mod map;
mod params;
mod places;
mod xattr;

pub use self::hash::HashVersion;
pub use self::params::Params;

/// A planned ext2, ext3 or ext4 volume.
pub struct Plan<'a>(places::Places<'a>);

impl<'a> Plan<'a> {
    /// Plans a volume with the files of `tree`.
    ///
    /// Returns an error before anything is emitted: `Limit` if the volume is too small (the message says how large it must
    /// be), `Unsupported` if such a volume cannot hold a file of the tree.
    pub fn new(tree: &'a Tree, params: Params) -> Result<Self> {
        places::Places::new(tree, params).map(Plan)
    }

    /// Returns the inode number that a node was assigned.
    #[must_use]
    pub fn inode(&self, node: crate::fs::plan::NodeIndex) -> u32 {
        self.0.numbers[node]
    }
}

impl Planned for Plan<'_> {
    fn size(&self) -> u64 {
        self.0.params.size()
    }

    fn notes(&self) -> &[String] {
        &self.0.params.notes
    }

    fn emit(&self, place: &mut dyn FnMut(u64, Placed<'_>) -> Result<()>) -> Result<()> {
        emit::emit(&self.0, place)
    }
}

/// Returns the smallest size in bytes at which `tree` can be planned, with `params` resized to it.
///
/// Fails like planning if no size is sufficient.
pub fn minimum_size(tree: &Tree, params: &Params) -> Result<u64> {
    let block = u64::from(params.block_size);
    // Returns the size if the tree fits into `blocks` blocks: less than all if the last group would be too small.
    let fits = |blocks: u64| -> Result<Option<u64>> {
        let mut params = params.clone();
        params.resize(blocks * block);
        match Plan::new(tree, params) {
            Ok(plan) => Ok(Some(plan.size())),
            Err(error) if error.kind() == ErrorKind::Limit => Ok(None),
            Err(error) => Err(error),
        }
    };
    let data: u64 = tree
        .nodes()
        .iter()
        .flat_map(|node| &node.data)
        .map(|range| range.end.div_ceil(block) - range.start / block)
        .sum();
    let (mut low, mut high) = (data, data.max(params.blocks).max(64));
    let mut smallest = loop {
        if let Some(size) = fits(high)? {
            break size;
        }
        low = high;
        if high >= 1 << 48 {
            return Plan::new(tree, params.clone()).map(|plan| plan.size());
        }
        high += high / 4 + 64;
    };
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        match fits(middle)? {
            Some(size) => (high, smallest) = (middle, size),
            None => low = middle,
        }
    }
    Ok(smallest)
}
