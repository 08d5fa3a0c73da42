//! Manifest rows out of what a filesystem says.

use mif_formats::fs::Node;
use mif_formats::fs::walk::Entry;
use mif_formats::mif::manifest::Row;

/// What the rows of a manifest are sorted by: the columns `volume` and `path`.
pub(crate) fn order(row: &Row) -> (String, String) {
    (row.volume.clone(), row.path_text())
}

/// The row of a path, without digests.
pub(crate) fn row(volume: &str, entry: &Entry, node: &Node) -> Row {
    Row {
        volume: volume.to_owned(),
        path: entry.path.clone(),
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
        link_target: node.link_target.clone(),
        rdev: node.rdev,
        xattrs: node.xattrs.clone(),
        flags: node.flags,
        generation: node.generation,
        project: node.project,
        sha1: None,
        blake3: None,
        content: None,
        short_name: entry.short_name,
    }
}
