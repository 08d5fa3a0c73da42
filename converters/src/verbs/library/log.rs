//! `log`: lists the versions of images and their parents. `tag`: names versions.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::notation;
use crate::store::{DamagedImage, Image, ImageName, Selector, Store, Tag};

/// The versions of images, each after its parent.
#[derive(Debug, Clone, Serialize)]
pub struct LogReport {
    /// The versions.
    pub versions: Vec<LogEntry>,
    /// Versions with damaged records, which were left out.
    pub damaged: Vec<DamagedImage>,
}

/// A version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogEntry {
    /// The image, as `name@version`.
    pub image: String,
    /// The number of branches between it and the trunk of the tree.
    pub depth: u32,
    /// The version that it was made from or replaced, as `name@version`.
    pub parent: Option<String>,
    /// When it was made or, if it was removed, when that happened, in seconds since 1970.
    #[serde(serialize_with = "notation::seconds")]
    pub time: u64,
    /// The operation that made it, or `removed`.
    pub operation: String,
    /// The version of mif that made it.
    pub tool: String,
    /// The command line.
    pub command: Vec<String>,
    /// The target that it was made for.
    pub target: Option<String>,
    /// The file it was read from.
    pub source: Option<String>,
    /// The container format of that file.
    pub source_format: Option<String>,
    /// The layout's digest, which identifies the disk's bits.
    pub layout_digest: Option<String>,
    /// Its tags.
    pub tags: Vec<String>,
}

/// Returns the versions of the image `name`, or of all images.
pub fn log(store: &Store, name: Option<&str>) -> Result<LogReport> {
    let (mut entries, mut damaged) = (Vec::new(), Vec::new());
    let names: BTreeSet<String> = match name {
        Some(name) => BTreeSet::from([name.to_owned()]),
        None => store.names()?.into_iter().chain(store.removed_names()?).collect(),
    };
    for name in &names {
        // Unreadable tags are reported by fsck.
        let tags = store.tags(name).unwrap_or_default();
        for version in store.versions(name)? {
            match store.version(name, version) {
                Ok(stored) => entries.push((version, entry(&stored.image, &tags))),
                Err(e) => damaged.push(DamagedImage::new(name, version, &e)),
            }
        }
        for gone in store.removed(name)? {
            entries.push((gone.version, removed(gone)));
        }
    }
    if let (Some(name), true) = (name, entries.is_empty() && damaged.is_empty()) {
        return Err(store.image(&name.parse()?).err().unwrap_or_else(|| {
            Error::input(format!("{name}: no such image in the store {}", store.storage().place()))
        }));
    }
    Ok(LogReport { versions: in_order(entries), damaged })
}

fn entry(image: &Image, tags: &[Tag]) -> LogEntry {
    let made = image.provenance.clone();
    LogEntry {
        image: image.id(),
        depth: 0,
        parent: made.parent,
        time: made.time,
        operation: made.operation,
        tool: made.tool,
        command: made.command,
        target: made.target,
        source: made.source,
        source_format: made.source_format,
        layout_digest: Some(image.layout_digest.clone()),
        tags: tags.iter().filter(|t| t.version == image.version).map(|t| t.tag.clone()).collect(),
    }
}

fn removed(gone: crate::store::Removed) -> LogEntry {
    LogEntry {
        image: format!("{}@{}", gone.name, gone.version),
        depth: 0,
        parent: None,
        time: gone.time,
        operation: "removed".into(),
        tool: String::new(),
        command: Vec::new(),
        target: None,
        source: None,
        source_format: None,
        layout_digest: gone.layout_digest,
        tags: Vec::new(),
    }
}

/// Orders the versions as a tree: the last version made from a parent continues at its depth, the others branch off.
fn in_order(mut entries: Vec<(u32, LogEntry)>) -> Vec<LogEntry> {
    let name = |entry: &LogEntry| entry.image.rsplit_once('@').map(|(name, _)| name.to_owned());
    entries.sort_by_key(|(version, entry)| (name(entry), *version));
    let mut entries: Vec<Option<LogEntry>> = entries.into_iter().map(|(_, entry)| Some(entry)).collect();
    let ids: BTreeMap<String, usize> =
        entries.iter().enumerate().map(|(i, e)| (e.as_ref().expect("not taken").image.clone(), i)).collect();
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); entries.len()];
    let mut roots = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        let parent = entry.as_ref().and_then(|e| e.parent.as_ref()).and_then(|parent| ids.get(parent));
        // A record that names itself or a later version of its own image as its parent has no parent here.
        match parent {
            Some(&parent) if parent < i || name_differs(&entries, parent, i) => children[parent].push(i),
            _ => roots.push(i),
        }
    }
    let mut ordered = Vec::with_capacity(entries.len());
    let mut todo: Vec<(usize, u32)> = roots.into_iter().rev().map(|i| (i, 0)).collect();
    while let Some((i, depth)) = todo.pop() {
        let Some(mut entry) = entries[i].take() else { continue };
        entry.depth = depth;
        ordered.push(entry);
        let last = children[i].len().saturating_sub(1);
        for (k, &child) in children[i].iter().enumerate().rev() {
            todo.push((child, depth + u32::from(k != last)));
        }
    }
    // Versions that are only reachable through a cycle of records.
    ordered.extend(entries.into_iter().flatten());
    ordered
}

fn name_differs(entries: &[Option<LogEntry>], a: usize, b: usize) -> bool {
    let name = |i: usize| entries[i].as_ref().and_then(|e| e.image.rsplit_once('@')).map(|(name, _)| name);
    name(a) != name(b)
}

/// Makes `tag` name a version of an image.
pub fn tag(store: &Store, image: &ImageName, tag: &str) -> Result<Tag> {
    let image = store.image(image)?.image;
    store.set_tag(&image.name, tag, image.version)
}

/// Removes the tag given as `name@tag`.
pub fn untag(store: &Store, image: &ImageName) -> Result<Tag> {
    let Selector::Tag(tag) = &image.version else {
        return Err(Error::usage(format!("{image}: not a tag")).advise("Name the tag as NAME@TAG"));
    };
    let missing = || Error::input(format!("{image}: no such tag"));
    let version = store.tagged(&image.name, tag)?.ok_or_else(missing)?;
    store.remove_tag(&image.name, tag)?;
    Ok(Tag { name: image.name.clone(), tag: tag.clone(), version })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(image: &str, parent: Option<&str>) -> (u32, LogEntry) {
        let number = image.rsplit_once('@').unwrap().1.parse().unwrap();
        let gone = crate::store::Removed { name: String::new(), version: 0, time: 0, layout_digest: None };
        let entry =
            LogEntry { image: image.into(), parent: parent.map(str::to_owned), depth: 0, ..removed(gone) };
        (number, entry)
    }

    fn shape(entries: Vec<(u32, LogEntry)>) -> Vec<(String, u32)> {
        in_order(entries).into_iter().map(|e| (e.image, e.depth)).collect()
    }

    #[test]
    fn a_line_of_versions_is_flat_and_a_branch_is_not() {
        let line = vec![version("a@2", Some("a@1")), version("a@10", Some("a@2")), version("a@1", None)];
        assert_eq!(shape(line), [("a@1".into(), 0), ("a@2".into(), 0), ("a@10".into(), 0)]);
        let tree = vec![version("a@1", None), version("a@2", Some("a@1")), version("a@3", Some("a@1"))];
        assert_eq!(shape(tree), [("a@1".into(), 0), ("a@2".into(), 1), ("a@3".into(), 0)]);
    }

    #[test]
    fn records_that_make_a_circle_are_all_shown() {
        let circle =
            vec![version("a@1", Some("b@1")), version("b@1", Some("a@1")), version("c@1", Some("c@1"))];
        assert_eq!(shape(circle).len(), 3);
    }
}
