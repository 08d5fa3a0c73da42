//! Manifest rows out of what a filesystem says.

use std::cmp::Ordering;

use mif_formats::fs::walk::{Entry, Listing};
use mif_formats::fs::{Node, NodeId};
use mif_formats::mif::manifest::Row;

/// Sorts rows as a manifest has them.
pub(crate) fn sort(rows: &mut [Row]) {
    rows.sort_unstable_by(compare);
}

/// The order of rows in a manifest: by the columns `volume` and `path`.
pub(crate) fn compare(a: &Row, b: &Row) -> Ordering {
    a.volume.cmp(&b.volume).then_with(|| match (std::str::from_utf8(&a.path), std::str::from_utf8(&b.path)) {
        (Ok(a), Ok(b)) => a.cmp(b),
        _ => a.path_text().cmp(&b.path_text()),
    })
}

/// What `made` gives for each path of a volume, in their order: it is given the node and the row, without digests.
///
/// Rows are made in the order of the nodes, which go as they come: of a million files there is not room for both.
pub(crate) fn of_listing<T>(
    volume: &str,
    listing: Listing,
    mut made: impl FnMut(NodeId, Row) -> T,
) -> Vec<T> {
    let Listing { mut entries, mut nodes, .. } = listing;
    let mut left: Vec<usize> = (0..entries.len()).collect();
    left.sort_unstable_by_key(|i| (entries[*i].node, *i));
    let (mut all, mut places) = (Vec::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
    while let Some((id, node)) = nodes.pop() {
        let mut node = Some(node);
        while let Some(place) = left.pop_if(|i| entries[*i].node == id) {
            // A node with more than one path is copied for all but the last.
            let more = left.last().is_some_and(|i| entries[*i].node == id);
            let node = if more { node.clone() } else { node.take() };
            let entry = Entry { path: std::mem::take(&mut entries[place].path), ..entries[place].clone() };
            all.push(made(id, row(volume, entry, node.expect("it is taken for the last path only"))));
            places.push(place);
        }
    }
    for i in 0..all.len() {
        while places[i] != i {
            let place = places[i];
            all.swap(i, place);
            places.swap(i, place);
        }
    }
    all
}

/// The row of a path, without digests.
pub(crate) fn row(volume: &str, entry: Entry, node: Node) -> Row {
    Row {
        volume: volume.to_owned(),
        path: entry.path,
        file_type: node.file_type,
        mode: node.mode,
        uid: node.uid,
        gid: node.gid,
        nlink: node.nlink,
        inode: node.inode,
        size: node.size,
        mtime: node.mtime,
        atime: node.atime,
        ctime: node.ctime,
        crtime: node.crtime,
        link_target: node.link_target,
        rdev: node.rdev,
        xattrs: node.xattrs,
        flags: node.flags,
        generation: node.generation,
        project: node.project,
        sha1: None,
        blake3: None,
        content: None,
        short_name: entry.short_name,
    }
}
