//! The differences between two images.

use std::collections::BTreeMap;

use serde::Serialize;

use super::why::Cause;

/// The report of `diff`.
#[derive(Debug, Clone, Serialize)]
pub struct DiffReport {
    /// The images, as the user called them.
    pub images: [String; 2],
    /// True if nothing changed.
    pub same: bool,
    /// Counts of changes of each kind.
    pub counts: DiffCounts,
    /// The changes, by volume and path; a renamed file is at its new path.
    pub changes: Vec<Change>,
    /// The changes counted by directory or package, if requested.
    pub groups: Vec<Group>,
    /// What makes the disks differ besides the files' contents, if requested.
    pub why: Option<Vec<Cause>>,
    /// Warnings about what could not be read, as sentences.
    pub warnings: Vec<String>,
}

/// The number of changes of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DiffCounts {
    /// Paths that are new.
    pub added: u64,
    /// Paths that were removed.
    pub removed: u64,
    /// Paths with another type, content or link target.
    pub changed: u64,
    /// Paths whose metadata alone changed.
    pub metadata: u64,
    /// Files with the same content under another path.
    pub renamed: u64,
    /// The growth of regular files in bytes; negative if they shrank.
    pub bytes: i64,
}

/// How a path changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It was removed.
    Removed,
    /// It has another type, content or link target.
    Changed,
    /// Only its metadata is different.
    Metadata,
    /// The same content was at another path before.
    Renamed,
}

/// A path that changed.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    /// How it changed.
    pub kind: ChangeKind,
    /// Its volume, as the first image calls it.
    pub volume: String,
    /// Its path.
    pub path: String,
    /// The path's bytes in hex, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes: Option<String>,
    /// Its old path, if it was renamed, with the volume if that was another.
    pub from: Option<String>,
    /// The bytes of that path in hex, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_bytes: Option<String>,
    /// Its type; its former type if it was removed.
    #[serde(rename = "type")]
    pub file_type: &'static str,
    /// Its size before and after, in bytes; `None` if it does not exist.
    pub sizes: [Option<u64>; 2],
    /// The fields that differ.
    pub fields: Vec<FieldChange>,
    /// The differences of its text as a unified diff, if requested and if it is text.
    pub text: Option<String>,
    /// The rows in the two trees.
    #[serde(skip)]
    pub(crate) rows: [Option<usize>; 2],
}

/// A field of a file that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// Its name: `type`, `mode`, `owner`, `links`, `size`, `mtime`, `link target`, `device`, `xattrs` or `content`.
    pub field: &'static str,
    /// The old value; `None` for content and xattrs.
    pub from: Option<String>,
    /// The new value.
    pub to: Option<String>,
}

/// Changes that are counted together.
#[derive(Debug, Clone, Serialize)]
pub struct Group {
    /// The directory or package.
    pub name: String,
    /// Counts of its changes.
    pub counts: DiffCounts,
    /// For a package, its versions before and after; each is `None` if it is not installed.
    pub versions: Option<[Option<String>; 2]>,
}

impl Change {
    /// Returns true if only times differ.
    #[must_use]
    pub fn is_times_only(&self) -> bool {
        self.kind == ChangeKind::Metadata && self.fields.iter().all(|field| field.field == "mtime")
    }
}

impl DiffCounts {
    pub(super) fn add(&mut self, change: &Change) {
        *match change.kind {
            ChangeKind::Added => &mut self.added,
            ChangeKind::Removed => &mut self.removed,
            ChangeKind::Changed => &mut self.changed,
            ChangeKind::Metadata => &mut self.metadata,
            ChangeKind::Renamed => &mut self.renamed,
        } += 1;
        if change.file_type == "file" {
            let [before, after] = change.sizes.map(|size| size.unwrap_or(0) as i64);
            self.bytes = self.bytes.saturating_add(after.saturating_sub(before));
        }
    }
}

pub(super) fn group_by<K: Ord>(changes: &[Change], key: impl Fn(&Change) -> K) -> BTreeMap<K, DiffCounts> {
    let mut groups: BTreeMap<K, DiffCounts> = BTreeMap::new();
    for change in changes {
        groups.entry(key(change)).or_default().add(change);
    }
    groups
}
