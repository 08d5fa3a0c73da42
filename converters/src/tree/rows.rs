//! Manifest rows out of what a filesystem says.

use std::cmp::{Ordering, Reverse};

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

/// The row of each path of a volume, in their order, and what `made` gives for it: it is given which of the nodes it is,
/// the node's id, and the row, still without digests.
///
/// Rows are made in the order of the nodes, which go as they come: of a million files there is not room for both.
pub(crate) fn of_listing<T>(
    volume: &str,
    listing: Listing,
    mut made: impl FnMut(usize, NodeId, &mut Row) -> T,
) -> (Vec<Row>, Vec<T>) {
    let Listing { mut entries, mut nodes, .. } = listing;
    let count = u32::try_from(entries.len()).expect("paths take less than 4 GiB");
    // Which entry each of the rows is of, the last node's first.
    let mut places: Vec<u32> = (0..count).collect();
    places.sort_unstable_by_key(|i| Reverse((entries[*i as usize].node, *i)));
    let mut left = places.iter().map(|place| *place as usize).peekable();
    let (mut rows, mut others) = (Vec::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
    while let Some((id, node)) = nodes.pop() {
        let mut node = Some(node);
        while let Some(place) = left.next_if(|i| entries[*i].node == id) {
            // A node with more than one path is copied for all but the last.
            let more = left.peek().is_some_and(|i| entries[*i].node == id);
            let node = if more { node.clone() } else { node.take() };
            let entry = Entry { path: std::mem::take(&mut entries[place].path), ..entries[place].clone() };
            let mut row = row(volume, entry, node.expect("it is taken for the last path only"));
            others.push(made(nodes.len(), id, &mut row));
            rows.push(row);
        }
    }
    for i in 0..rows.len() {
        while places[i] as usize != i {
            let place = places[i] as usize;
            rows.swap(i, place);
            others.swap(i, place);
            places.swap(i, place);
        }
    }
    (rows, others)
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
