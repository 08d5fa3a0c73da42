//! Makes manifest rows from the listing of a filesystem.

use std::cmp::{Ordering, Reverse};

use mif_formats::fs::listing::{Entry, Listing};
use mif_formats::fs::{FileId, NodeId};
use mif_formats::mif::manifest::{Part, Row};

/// Sorts rows in the order of a manifest.
pub(crate) fn sort(rows: &mut [Row]) {
    rows.sort_unstable_by(compare);
}

/// Compares rows in the order of a manifest: by the columns `volume` and `path`, with parts of a file after the file.
pub(crate) fn compare(a: &Row, b: &Row) -> Ordering {
    a.volume
        .cmp(&b.volume)
        .then_with(|| match (std::str::from_utf8(&a.path), std::str::from_utf8(&b.path)) {
            (Ok(a), Ok(b)) => a.cmp(b),
            _ => a.path_text().cmp(&b.path_text()),
        })
        .then_with(|| a.part.cmp(&b.part))
}

/// Returns a row for each path of a volume, in the order of the paths, with the result of `made` for each. `made` gets
/// the file's id, its handle in the filesystem, and the row, which has no content yet.
///
/// Rows are made in the order of the nodes, which are freed meanwhile: memory does not suffice for a million of both.
pub(crate) fn of_listing<T>(
    volume: &str,
    listing: Listing,
    mut made: impl FnMut(FileId, NodeId, &mut Row) -> T,
) -> (Vec<Row>, Vec<T>) {
    let Listing { mut entries, mut nodes, .. } = listing;
    let count = u32::try_from(entries.len()).expect("paths take less than 4 GiB");
    // The entry of each row, in order of nodes, the last node's first.
    let mut places: Vec<u32> = (0..count).collect();
    places.sort_unstable_by_key(|i| Reverse((entries[*i as usize].file, *i)));
    let mut left = places.iter().map(|place| *place as usize).peekable();
    let (mut rows, mut others) = (Vec::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
    while let Some((file, handle, node)) = nodes.pop() {
        let mut node = Some(node);
        while let Some(place) = left.next_if(|i| entries[*i].file == file) {
            // A node with several paths is cloned for all but the last.
            let more = left.peek().is_some_and(|i| entries[*i].file == file);
            let node = if more { node.clone() } else { node.take() };
            let Entry { path, stream, short_name, dos_name, .. } = &mut entries[place];
            let node = node.expect("it is taken for the last path only");
            let row = Row::new(volume, std::mem::take(path), Some(file), node);
            let part = stream.take().map(|name| Box::new(Part::Stream(name.into_vec())));
            let mut row = Row { short_name: *short_name, dos_name: dos_name.take(), part, ..row };
            others.push(made(file, handle, &mut row));
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
