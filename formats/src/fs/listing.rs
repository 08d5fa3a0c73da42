//! The contents of a volume, as a walk finds them.

use std::ops::Index;

use super::filesystem::NodeId;
use super::node::{FileId, Node};
use crate::error::Error;

/// The longest path that is listed, in bytes. Linux accepts 4,096 per call, but deeper trees can be made.
pub const MAX_PATH: usize = 16 << 10;

/// The contents of a volume.
#[derive(Debug, Default)]
pub struct Listing {
    /// Every path, sorted by its bytes, each followed by its streams; the root is `/`.
    pub entries: Vec<Entry>,
    /// Every file that an entry refers to.
    pub nodes: Nodes,
    /// The problems: parts that could not be read and are missing from the listing.
    pub complaints: Vec<Complaint>,
}

/// The nodes of a volume by their [`FileId`]s, which are in the order of the filesystem's own handles.
#[derive(Debug, Default)]
pub struct Nodes(pub(super) Vec<(NodeId, Node)>);

impl Nodes {
    /// Returns the number of nodes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if there are no nodes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the filesystem's handle of a file.
    #[must_use]
    pub fn handle(&self, file: FileId) -> NodeId {
        self.0[file.index()].0
    }

    /// Returns all nodes in ascending order, with their handles.
    pub fn iter(&self) -> impl Iterator<Item = (FileId, NodeId, &Node)> {
        (0..).map(FileId).zip(&self.0).map(|(file, (handle, node))| (file, *handle, node))
    }

    /// Removes the last node, and frees memory step by step, so that the results made from millions of nodes can take
    /// its place.
    pub fn pop(&mut self) -> Option<(FileId, NodeId, Node)> {
        const STEP: usize = 1 << 15;
        if self.0.len().is_multiple_of(STEP) {
            self.0.shrink_to_fit();
        }
        let (handle, node) = self.0.pop()?;
        Some((FileId(self.0.len() as u32), handle, node))
    }
}

impl Index<FileId> for Nodes {
    type Output = Node;

    fn index(&self, file: FileId) -> &Node {
        &self.0[file.index()].1
    }
}

/// One path of a volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The absolute path, in bytes.
    pub path: Vec<u8>,
    /// The name of a stream of the file at `path`; `None` for the file itself, which precedes its streams.
    pub stream: Option<Box<[u8]>>,
    /// The file or the stream, an index into [`Listing::nodes`].
    pub file: FileId,
    /// FAT: the short name that accompanies a long one.
    pub short_name: Option<[u8; 11]>,
    /// NTFS: the DOS name that accompanies a long one.
    pub dos_name: Option<Box<str>>,
}

/// A part of a volume that could not be read.
#[derive(Debug)]
pub struct Complaint {
    /// The path at which it was found.
    pub path: Vec<u8>,
    /// The problem.
    pub error: Error,
}
