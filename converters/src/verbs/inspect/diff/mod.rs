//! `diff`: shows the changes from one image to another, file by file.
//!
//! Stored images are compared by their manifests alone. The content of files on a disk is read only if their sizes are
//! equal.

mod content;
mod owners;
mod report;
mod why;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use mif_formats::fs::FileType;
use mif_formats::mif::manifest::{Row, escape, type_name};
use mif_formats::text::hex_unless_text;

use self::content::{digest, same_content, text_difference};
use self::owners::by_package;
use self::report::group_by;
pub use self::report::{Change, ChangeKind, DiffCounts, DiffReport, FieldChange, Group};
pub use self::why::Cause;
use crate::error::Result;
use crate::guest::packages;
use crate::image::OpenImage;
use crate::notation::time_text;
use crate::task::progress::{self, Progress};
use crate::tree::path::{Place, VolumePath};
use crate::tree::view::Tree;

/// Options of `diff`.
#[derive(Debug, Clone, Default)]
pub struct DiffOptions {
    /// Compare only this path and everything under it.
    pub path: Option<VolumePath>,
    /// Ignore differences in file times.
    pub ignore_times: bool,
    /// Also count by directory or package.
    pub by: Option<Grouping>,
    /// Show the changed lines of text files.
    pub content: bool,
    /// Then also show the lines of text files that are new or gone.
    pub whole_texts: bool,
    /// Also name what makes the disks differ, besides the contents of files.
    pub why: bool,
}

/// How changes are grouped for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    /// By this many leading components of the path.
    Folder(usize),
    /// By the package that owns the path, according to the images' own databases.
    Package,
}

/// Compares the files of `a` and `b`.
pub fn diff(
    a: &OpenImage,
    b: &OpenImage,
    options: &DiffOptions,
    progress: &dyn Progress,
) -> Result<DiffReport> {
    progress.stage("comparing files", 0);
    let trees = [&a.tree()?, &b.tree()?];
    let names = volume_names(trees);
    let mut changes = changes(trees, &names, options.ignore_times, progress)?;
    find_renames(trees, &mut changes, options.ignore_times, progress)?;
    if let Some(path) = &options.path {
        keep_below(trees, path, &mut changes);
    }
    if options.content {
        let has_text = |change: &&mut Change| match change.kind {
            ChangeKind::Changed => true,
            ChangeKind::Added | ChangeKind::Removed => options.whole_texts && change.file_type == "file",
            ChangeKind::Metadata | ChangeKind::Renamed => false,
        };
        for change in changes.iter_mut().filter(has_text) {
            progress::check(progress)?;
            change.text = text_difference(trees, change)?;
        }
    }
    let mut counts = DiffCounts::default();
    changes.iter().for_each(|change| counts.add(change));
    let mut warnings: Vec<String> = trees.iter().flat_map(|tree| tree.complaints.clone()).collect();
    let groups = match options.by {
        Some(Grouping::Folder(depth)) => {
            let groups = group_by(&changes, |change| folder(&change.path, depth));
            groups.into_iter().map(|(name, counts)| Group { name, counts, versions: None }).collect()
        }
        Some(Grouping::Package) => {
            let found = [packages::of_image(a, || Ok(trees[0]))?, packages::of_image(b, || Ok(trees[1]))?];
            warnings.extend(found.iter().flat_map(|found| found.complaints.clone()));
            by_package(&names, &changes, &found.map(|found| found.packages), options.path.is_none())
        }
        None => Vec::new(),
    };
    let why = options.why.then(|| why::why(a, b, progress)).transpose()?;
    Ok(DiffReport {
        images: [a.label.clone(), b.label.clone()],
        same: changes.is_empty(),
        counts,
        changes,
        groups,
        why,
        warnings,
    })
}

/// Maps volumes of the second tree to volumes of the first: by name, except that root filesystems match each other
/// whatever the names of their partitions.
pub(crate) fn volume_names(trees: [&Tree; 2]) -> HashMap<String, String> {
    let mut names: HashMap<String, String> =
        trees[1].volumes().into_iter().map(|name| (name.to_owned(), name.to_owned())).collect();
    if let [Some(a), Some(b)] = trees.map(Tree::root_volume)
        && a != b
    {
        // The volume with the first root's name in the second image gets the free name.
        names.entry(a.to_owned()).and_modify(|name| b.clone_into(name));
        names.insert(b.to_owned(), a.to_owned());
    }
    names
}

/// A volume and a full path on it.
type FullPath<'r> = (&'r str, Cow<'r, [u8]>);

/// Returns the paths that differ between both trees, in order. Ignores access times and inode numbers.
pub(crate) fn changes(
    trees: [&Tree; 2],
    names: &HashMap<String, String>,
    ignore_times: bool,
    progress: &dyn Progress,
) -> Result<Vec<Change>> {
    let mut paths: BTreeMap<FullPath<'_>, [Option<usize>; 2]> = BTreeMap::new();
    for (i, row) in trees[0].rows().iter().enumerate() {
        paths.insert((&row.volume, row.full_path()), [Some(i), None]);
    }
    for (i, row) in trees[1].rows().iter().enumerate() {
        let volume = names.get(&row.volume).unwrap_or(&row.volume);
        paths.entry((volume, row.full_path())).or_default()[1] = Some(i);
    }
    let mut changes = Vec::new();
    for ((volume, path), rows) in paths {
        progress::check(progress)?;
        let [before, after] = [0, 1].map(|side| rows[side].map(|i| &trees[side].rows()[i]));
        let (kind, fields) = match (before, after) {
            (Some(_), None) => (ChangeKind::Removed, Vec::new()),
            (None, Some(_)) => (ChangeKind::Added, Vec::new()),
            (Some(x), Some(y)) => {
                let mut fields = different_fields(x, y, ignore_times);
                if x.node.file_type == FileType::File
                    && y.node.file_type == FileType::File
                    && !same_content(trees, rows)?
                {
                    fields.push(FieldChange { field: "content", from: None, to: None });
                }
                if fields.is_empty() {
                    continue;
                }
                let deep = |field: &FieldChange| {
                    matches!(field.field, "type" | "content" | "link target" | "device")
                };
                (if fields.iter().any(deep) { ChangeKind::Changed } else { ChangeKind::Metadata }, fields)
            }
            (None, None) => unreachable!("every path is somebody's"),
        };
        let row = after.or(before).expect("one of them");
        changes.push(Change {
            kind,
            volume: volume.to_owned(),
            path: escape(&path),
            path_bytes: hex_unless_text(&path),
            from: None,
            from_bytes: None,
            file_type: row.type_name(),
            sizes: [before.map(|row| row.node.size), after.map(|row| row.node.size)],
            fields,
            text: None,
            rows,
        });
    }
    Ok(changes)
}

fn different_fields(a: &Row, b: &Row, ignore_times: bool) -> Vec<FieldChange> {
    let mut fields = Vec::new();
    let mut compare = |field, differs: bool, text: &dyn Fn(&Row) -> Option<String>| {
        if differs {
            fields.push(FieldChange { field, from: text(a), to: text(b) });
        }
    };
    compare("type", a.node.file_type != b.node.file_type, &|row| {
        Some(type_name(row.node.file_type).to_owned())
    });
    compare("mode", a.node.mode != b.node.mode, &|row| row.node.mode.map(|mode| format!("{mode:04o}")));
    compare("owner", (a.node.uid, a.node.gid) != (b.node.uid, b.node.gid), &|row| {
        Some(format!(
            "{}:{}",
            row.node.uid.map_or("-".into(), |n| n.to_string()),
            row.node.gid.map_or("-".into(), |n| n.to_string())
        ))
    });
    // A directory's links are its subdirectories, which are reported themselves.
    compare("links", a.node.nlink != b.node.nlink && a.node.file_type != FileType::Dir, &|row| {
        row.node.nlink.map(|n| n.to_string())
    });
    compare("size", a.node.size != b.node.size && a.node.file_type == FileType::File, &|row| {
        Some(row.node.size.to_string())
    });
    compare("mtime", a.node.mtime != b.node.mtime && !ignore_times, &|row| row.node.mtime.map(time_text));
    compare("link target", a.node.link_target != b.node.link_target, &|row| {
        row.node.link_target.as_deref().map(escape)
    });
    compare("device", a.node.rdev != b.node.rdev, &|row| {
        row.node.rdev.map(|(major, minor)| format!("{major}:{minor}"))
    });
    compare("xattrs", a.node.xattrs != b.node.xattrs, &|_| None);
    fields
}

/// Merges the removal of a file and the addition of one with the same content into one change.
fn find_renames(
    trees: [&Tree; 2],
    changes: &mut Vec<Change>,
    ignore_times: bool,
    progress: &dyn Progress,
) -> Result<()> {
    // Only files of the same size can have the same content: others are not even hashed.
    let mut by_size: HashMap<u64, [Vec<usize>; 2]> = HashMap::new();
    for (i, change) in changes.iter().enumerate().filter(|(_, change)| change.file_type == "file") {
        match change.kind {
            ChangeKind::Removed => by_size.entry(change.sizes[0].unwrap_or(0)).or_default()[0].push(i),
            ChangeKind::Added => by_size.entry(change.sizes[1].unwrap_or(0)).or_default()[1].push(i),
            _ => {}
        }
    }
    let mut gone: HashMap<[u8; 32], Vec<usize>> = HashMap::new();
    let mut new = Vec::new();
    for (size, [removed, added]) in by_size {
        if size == 0 || removed.is_empty() || added.is_empty() {
            continue;
        }
        for i in removed {
            progress::check(progress)?;
            if let Some(digest) = digest(trees[0], changes[i].rows[0].expect("it was there"))? {
                gone.entry(digest).or_default().push(i);
            }
        }
        for i in added {
            progress::check(progress)?;
            if let Some(digest) = digest(trees[1], changes[i].rows[1].expect("it is there"))? {
                new.push((i, digest));
            }
        }
    }
    new.sort_unstable_by_key(|(i, _)| *i);
    let mut merged = Vec::new();
    for (i, digest) in new {
        let Some(candidates) = gone.get_mut(&digest).filter(|candidates| !candidates.is_empty()) else {
            continue;
        };
        let name = |path: &str| path.rsplit('/').next().map(str::to_owned);
        let same_name = candidates.iter().position(|c| name(&changes[*c].path) == name(&changes[i].path));
        let old = candidates.remove(same_name.unwrap_or(0));
        let rows = [changes[old].rows[0], changes[i].rows[1]];
        let [before, after] = [0, 1].map(|side| &trees[side].rows()[rows[side].expect("it is a file there")]);
        let from = match changes[old].volume == changes[i].volume {
            true => changes[old].path.clone(),
            false => format!("{}:{}", changes[old].volume, changes[old].path),
        };
        let from_bytes = changes[old].path_bytes.take();
        let change = &mut changes[i];
        change.kind = ChangeKind::Renamed;
        (change.from, change.from_bytes) = (Some(from), from_bytes);
        change.sizes = [Some(before.node.size), Some(after.node.size)];
        change.fields = different_fields(before, after, ignore_times);
        change.rows = rows;
        merged.push(old);
    }
    merged.sort_unstable();
    let mut index = 0;
    changes.retain(|_| {
        index += 1;
        merged.binary_search(&(index - 1)).is_err()
    });
    Ok(())
}

/// Keeps only changes of paths that are, or were, at or under a path.
fn keep_below(trees: [&Tree; 2], path: &VolumePath, changes: &mut Vec<Change>) {
    // Without a volume, a path is as the image's system sees it, across its mounts.
    let root = trees[0].roots().first().filter(|_| path.volume.is_none());
    let seen = |volume: &str, path: &[u8]| {
        let place = Place { volume: volume.to_owned(), path: path.to_vec() };
        root.and_then(|root| root.path_of(&place))
    };
    if root.is_some() {
        let found = trees[0].find(path, true).ok().map(|row| &trees[0].rows()[row]);
        let folder = found.and_then(|row| seen(&row.volume, &row.path)).unwrap_or_else(|| path.path.clone());
        let folder = escape(&folder);
        let folder = folder.trim_end_matches('/');
        let below = |path: &str| {
            path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        changes.retain(|change| {
            let is_below = |path: &str| {
                let seen = seen(&change.volume, path.as_bytes());
                seen.is_some_and(|seen| below(&String::from_utf8_lossy(&seen)))
            };
            is_below(&change.path) || change.from.as_deref().is_some_and(is_below)
        });
        return;
    }
    let volume = path.volume.as_deref().or(trees[0].root_volume());
    let folder = escape(&path.path);
    let folder = folder.trim_end_matches('/');
    let below =
        |path: &str| path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    changes.retain(|change| {
        volume.is_none_or(|volume| volume == change.volume)
            && (below(&change.path) || change.from.as_deref().is_some_and(below))
    });
}

/// Returns the directory of a path, limited to `depth` components.
fn folder(path: &str, depth: usize) -> String {
    let names: Vec<&str> = path.split('/').skip(1).collect();
    let shown = depth.min(names.len().saturating_sub(1));
    format!("/{}", names[..shown].join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_the_first_names_of_a_path() {
        for (path, expected) in
            [("/", "/"), ("/a", "/"), ("/a/b", "/a"), ("/a/b/c", "/a/b"), ("/a/b/c/d", "/a/b")]
        {
            assert_eq!(folder(path, 2), expected, "{path}");
        }
    }
}
