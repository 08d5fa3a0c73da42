//! Plans a filesystem, the reverse of reading one: a tree of files and parameters become an ordered list of pieces of a
//! volume. No file content is read: the list says which bytes of which file go where.
//!
//! ```text
//! Tree + parameters  →  a plan (places decided, nothing written)  →  Planned::emit: (offset, Placed) …
//! ```
//!
//! Planning decides all places first, and fails before anything is emitted if the tree does not fit. Emission makes the
//! metadata's bytes block by block from those decisions, so memory grows with the number of files and not with the size
//! of the volume. The same tree and parameters give the same bytes.

use std::collections::HashMap;
use std::ops::Range;

use super::filesystem::NodeId;
use super::listing::{Listing, MAX_PATH};
use super::node::{FileId, FileType, Node};
use crate::error::{At, Result, at};

/// A caller's own key for the content of a file, which planners pass on.
pub type FileKey = u64;

/// The number of a node in its [`Tree`].
pub type NodeIndex = usize;

/// A piece of a planned volume. Everything outside the pieces is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed<'a> {
    /// Metadata.
    Bytes(&'a [u8]),
    /// `len` bytes of a file, from `offset` on.
    File {
        /// The key of the file.
        key: FileKey,
        /// The offset in the file, in bytes.
        offset: u64,
        /// The number of bytes.
        len: u64,
    },
}

/// A planned filesystem.
pub trait Planned {
    /// Returns the size of the volume in bytes.
    fn size(&self) -> u64;

    /// Returns notes about parameters that the plan had to change, as sentences.
    fn notes(&self) -> &[String];

    /// Passes everything that is not zero to `place`, with its offset on the volume in bytes: ascending, without
    /// overlaps.
    fn emit(&self, place: &mut dyn FnMut(u64, Placed<'_>) -> Result<()>) -> Result<()>;
}

/// The parameters of a volume to plan.
pub trait Planner: Send + Sync {
    /// Returns the size in bytes.
    fn size(&self) -> u64;

    /// Changes the size, in bytes.
    fn resize(&mut self, size: u64);

    /// Changes the logical sector size of the disk, in bytes. Sizes and places of metadata may change; the size of the
    /// filesystem stays, but for a last incomplete sector. Fails if the filesystem has no such parameter.
    fn set_sector_size(&mut self, bytes: u32) -> Result<()> {
        Err(at("filesystem").unsupported(format!("cannot be planned for sectors of {bytes} bytes")))
    }

    /// Changes the identity, in the form of [`NewVolume::id`](super::driver::NewVolume::id).
    fn set_id(&mut self, id: &[u8; 16]);

    /// Plans a volume with the files of `tree`.
    ///
    /// Returns an error before anything is emitted: `Limit` if the volume is too small (the message says how large it must
    /// be), `Unsupported` if such a volume cannot hold a file of the tree.
    fn plan<'t>(&self, tree: &'t Tree) -> Result<Box<dyn Planned + 't>>;

    /// Returns the smallest size in bytes at which `tree` can be planned.
    fn minimum(&self, tree: &Tree) -> Result<u64>;
}

/// A tree of files to plan a filesystem for.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<TreeNode>,
    /// Directories by their path without the trailing slash: the root's is empty. Cleared by `finish`.
    folders: HashMap<Vec<u8>, u32>,
}

/// A file, directory or other node. For a file, it also describes the content.
#[derive(Debug, Clone)]
pub struct TreeNode {
    /// The node's metadata. `nlink` and the size of a directory are ignored: they follow from the tree.
    pub meta: Node,
    /// The key of a regular file's content.
    pub key: FileKey,
    /// The parts of a regular file that are not holes: sorted, disjoint, not empty, within its size.
    pub data: Vec<Range<u64>>,
    /// The entries of a directory, sorted by name.
    pub children: Vec<Child>,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Child {
    /// The name in bytes.
    pub name: Vec<u8>,
    /// FAT: the short name that it should have beside the long one.
    pub short_name: Option<[u8; 11]>,
    /// The node.
    pub node: u32,
}

impl TreeNode {
    /// Creates a node without content.
    #[must_use]
    pub fn new(meta: Node) -> Self {
        TreeNode { meta, key: 0, data: Vec::new(), children: Vec::new() }
    }

    /// Creates a regular file, whose content is a hole except for `data`.
    #[must_use]
    pub fn file(meta: Node, key: FileKey, data: Vec<Range<u64>>) -> Self {
        TreeNode { meta, key, data, children: Vec::new() }
    }
}

impl Tree {
    /// Creates a tree with only a root directory.
    #[must_use]
    pub fn new(root: Node) -> Self {
        Tree { nodes: vec![TreeNode::new(root)], folders: HashMap::from([(Vec::new(), 0)]) }
    }

    /// Adds a node at an absolute path; its directory must have been added before.
    pub fn add(&mut self, path: &[u8], short_name: Option<[u8; 11]>, node: TreeNode) -> Result<NodeIndex> {
        check_data(path, &node)?;
        let index = self.nodes.len();
        self.enter(path, short_name, index)?;
        if node.meta.file_type == FileType::Dir {
            self.folders.insert(path.to_vec(), index as u32);
        }
        self.nodes.push(node);
        Ok(index)
    }

    /// Adds a hard link: another path for an existing node that is not a directory.
    pub fn link(&mut self, path: &[u8], short_name: Option<[u8; 11]>, node: NodeIndex) -> Result<()> {
        if self.nodes[node].meta.file_type == FileType::Dir {
            return Err(place(path).unsupported("a directory cannot have hard links"));
        }
        self.enter(path, short_name, node)
    }

    fn enter(&mut self, path: &[u8], short_name: Option<[u8; 11]>, node: NodeIndex) -> Result<()> {
        let cut = path.iter().rposition(|b| *b == b'/');
        let Some((folder, name)) = cut.map(|cut| (&path[..cut], &path[cut + 1..])) else {
            return Err(place(path).unsupported("is not an absolute path"));
        };
        if matches!(name, b"" | b"." | b"..") || name.contains(&0) {
            return Err(place(path).unsupported("does not end in a valid name"));
        }
        if path.len() > MAX_PATH {
            return Err(place(&path[..64]).limit(format!(
                "is the start of a path of {} bytes, over the limit of {MAX_PATH}",
                path.len()
            )));
        }
        let Some(&parent) = self.folders.get(folder) else {
            return Err(place(path).not_found("its directory does not exist"));
        };
        let index = u32::try_from(node).map_err(|_| place(path).limit("the tree has too many nodes"))?;
        self.nodes[parent as usize].children.push(Child { name: name.to_vec(), short_name, node: index });
        Ok(())
    }

    /// Sorts the directories and checks that no path occurs twice. Call it after everything has been added.
    pub fn finish(&mut self) -> Result<()> {
        self.folders = HashMap::new();
        for node in &mut self.nodes {
            node.children.sort_unstable();
            if let Some(pair) = node.children.windows(2).find(|pair| pair[0].name == pair[1].name) {
                return Err(place(&pair[0].name).unsupported(
                    "exists twice in one directory, which a rebuilt volume cannot have; repair the volume first (e2fsck, \
                     fsck.fat)",
                ));
            }
        }
        Ok(())
    }

    /// Builds the tree of a listed volume. `content` returns the key and the data of each regular file.
    pub fn of_listing(
        listing: &Listing,
        mut content: impl FnMut(NodeId, &Node) -> Result<(FileKey, Vec<Range<u64>>)>,
    ) -> Result<Self> {
        let mut entries = listing.entries.iter();
        let root = entries.next().ok_or_else(|| at("tree").not_found("the tree has no root"))?;
        let mut tree = Tree::new(listing.nodes[root.file].clone());
        let mut known: HashMap<FileId, NodeIndex> = HashMap::new();
        for entry in entries {
            if let Some(index) = known.get(&entry.file) {
                tree.link(&entry.path, entry.short_name, *index)?;
                continue;
            }
            let meta = listing.nodes[entry.file].clone();
            let node = if meta.file_type == FileType::File {
                let (key, data) = content(listing.nodes.handle(entry.file), &meta)?;
                TreeNode::file(meta, key, data)
            } else {
                TreeNode::new(meta)
            };
            known.insert(entry.file, tree.add(&entry.path, entry.short_name, node)?);
        }
        tree.finish()?;
        Ok(tree)
    }

    /// Returns all nodes; the first is the root.
    #[must_use]
    pub fn nodes(&self) -> &[TreeNode] {
        &self.nodes
    }

    /// Returns all nodes for changing their metadata.
    pub fn nodes_mut(&mut self) -> &mut [TreeNode] {
        &mut self.nodes
    }

    /// Starts an error about a node, named by the first of its paths.
    pub(crate) fn named(&self, node: u32) -> At {
        let mut todo = vec![(Vec::new(), 0u32)];
        while let Some((path, index)) = todo.pop() {
            if index == node {
                return place(if path.is_empty() { b"/" } else { &path });
            }
            for child in self.nodes[index as usize].children.iter().rev() {
                todo.push(([&path[..], b"/", &child.name].concat(), child.node));
            }
        }
        at(format!("node {node} of the tree"))
    }

    /// Returns every node once, at the first of its paths, in path order: a directory before its contents.
    #[must_use]
    pub(crate) fn in_order(&self) -> Vec<u32> {
        let mut seen = vec![false; self.nodes.len()];
        let mut order = Vec::with_capacity(self.nodes.len());
        let mut todo = vec![0u32];
        while let Some(index) = todo.pop() {
            if std::mem::replace(&mut seen[index as usize], true) {
                continue;
            }
            order.push(index);
            todo.extend(self.nodes[index as usize].children.iter().rev().map(|child| child.node));
        }
        order
    }
}

/// Starts an error about the node at a path.
fn place(path: &[u8]) -> At {
    at(format!("\"{}\"", path.escape_ascii()))
}

fn check_data(path: &[u8], node: &TreeNode) -> Result<()> {
    let mut end = 0;
    for (i, range) in node.data.iter().enumerate() {
        if range.start >= range.end || (i > 0 && range.start <= end) || range.end > node.meta.size {
            return Err(place(path).corrupt(format!(
                "its data at {} to {} is unsorted or past its size of {}",
                range.start, range.end, node.meta.size
            )));
        }
        end = range.end;
    }
    if !node.data.is_empty() && node.meta.file_type != FileType::File {
        return Err(place(path).corrupt("has content but is not a regular file"));
    }
    Ok(())
}

/// Writes integers into byte slices, the reverse of [`crate::bytes`].
pub(crate) mod put {
    /// Writes a little-endian `u16` at byte `at`.
    pub(crate) fn le16(bytes: &mut [u8], at: usize, value: u16) {
        bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    /// Writes a little-endian `u32` at byte `at`.
    pub(crate) fn le32(bytes: &mut [u8], at: usize, value: u32) {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Writes a big-endian `u32` at byte `at`.
    pub(crate) fn be32(bytes: &mut [u8], at: usize, value: u32) {
        bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    /// Writes the lower 32 bits of `value` at byte `low`, the upper at byte `high`.
    pub(crate) fn split32(bytes: &mut [u8], low: usize, high: usize, value: u64) {
        le32(bytes, low, value as u32);
        le32(bytes, high, (value >> 32) as u32);
    }

    /// Writes the lower 16 bits of `value` at byte `low`, the upper at byte `high`.
    pub(crate) fn split16(bytes: &mut [u8], low: usize, high: usize, value: u32) {
        le16(bytes, low, value as u16);
        le16(bytes, high, (value >> 16) as u16);
    }
}
