//! Builds the tree to plan from a volume's rows.

use std::collections::HashMap;
use std::ops::Range;

use mif_formats::fs::plan::{Tree, TreeNode};
use mif_formats::fs::{FileId, FileType, Filesystem, Piece};
use mif_formats::mif::ObjectId;
use mif_formats::mif::manifest::Row;

use crate::error::{Error, Result};
use crate::tree::new_content::ContentLookup;

/// The rows of a volume before and after the edits; those of other volumes are ignored.
pub(super) struct Rows<'a> {
    pub(super) volume: &'a str,
    pub(super) old: &'a [Row],
    pub(super) new: &'a [&'a Row],
}

impl Rows<'_> {
    /// Returns the tree, and the object of each file key.
    ///
    /// Rows of the same file are hard links to one node, described by the first of them.
    pub(super) fn tree(
        &self,
        original: &dyn Filesystem,
        contents: ContentLookup<'_>,
    ) -> Result<(Tree, Vec<ObjectId>)> {
        let old: HashMap<FileId, &Row> = self
            .old
            .iter()
            .filter(|row| row.volume == self.volume)
            .filter_map(|row| Some((row.file?, row)))
            .collect();
        // Directories come before their entries: compare the paths by components, not by bytes.
        let mut rows: Vec<&Row> = self.new.iter().copied().filter(|row| row.volume == self.volume).collect();
        rows.sort_by(|a, b| a.path.split(|c| *c == b'/').cmp(b.path.split(|c| *c == b'/')));
        let mut rows = rows.into_iter();
        let root = rows
            .next()
            .filter(|row| row.path == b"/" && row.node.file_type == FileType::Dir)
            .ok_or_else(|| Error::input("the manifest has no root directory"))?;
        let mut tree = Tree::new(root.node.clone());
        let mut objects = Vec::new();
        let mut links = HashMap::new();
        for row in rows {
            if let Some(first) = row.file.and_then(|file| links.get(&file)) {
                tree.link(&row.path, row.short_name, *first)?;
                continue;
            }
            let meta = row.node.clone();
            let new = if row.node.file_type == FileType::File && row.node.size > 0 {
                let object = row.object().ok_or_else(|| {
                    Error::input(format!("{}: the content is not in the store", row.path_text()))
                })?;
                let len = contents.len(&object)?;
                if len != row.node.size {
                    let path = row.path_text();
                    return Err(Error::input(format!(
                        "{path}: the size is {}, but the content has {len} bytes",
                        row.node.size
                    )));
                }
                objects.push(object);
                let data = self.data(row, &object, &old, original, contents)?;
                TreeNode::file(meta, objects.len() as u64 - 1, data)
            } else {
                TreeNode::new(meta)
            };
            let index = tree.add(&row.path, row.short_name, new)?;
            if let Some(file) = row.file {
                links.insert(file, index);
            }
        }
        tree.finish()?;
        Ok((tree, objects))
    }

    /// Returns the parts of a file that are not holes. The holes of an unchanged file are those on the original volume
    /// (a swap file must stay without holes); those of a changed one are the known zeros of its object.
    fn data(
        &self,
        row: &Row,
        object: &ObjectId,
        old: &HashMap<FileId, &Row>,
        original: &dyn Filesystem,
        contents: ContentLookup<'_>,
    ) -> Result<Vec<Range<u64>>> {
        let before =
            row.file.and_then(|file| old.get(&file)).filter(|old| old.object().as_ref() == Some(object));
        let unchanged = before.and_then(|old| original.handle(&old.node));
        let mut data: Vec<Range<u64>> = Vec::new();
        let mut add = |range: Range<u64>| match data.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => data.push(range),
        };
        if let Some(Ok(content)) = unchanged.map(|handle| original.content(handle)) {
            let mut at = 0;
            for piece in &content.pieces {
                if !matches!(piece, Piece::Zero { .. }) && !piece.is_empty() {
                    add(at..at + piece.len());
                }
                at += piece.len();
            }
            return Ok(data);
        }
        let mut at = 0;
        for zeros in contents.zero_runs(object)? {
            if at < zeros.start {
                add(at..zeros.start);
            }
            at = zeros.end;
        }
        if at < row.node.size {
            add(at..row.node.size);
        }
        Ok(data)
    }
}
