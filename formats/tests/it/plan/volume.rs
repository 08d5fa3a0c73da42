//! Writes plans to files, and reads them back.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use mif_formats::fs::plan::{Placed, Planned, Tree};
use mif_formats::fs::walk::walk;
use mif_formats::fs::{FileType, Filesystem, Node, Piece};
use mif_formats::source::check_range;
use mif_formats::{Extent, Result, Source, at};

/// Returns the byte at `offset` of the file with this key; never zero.
fn byte_of(key: u64, offset: u64) -> u8 {
    let word = (offset / 8 + 1).wrapping_mul(key.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    (word >> (offset % 8 * 8)) as u8 | 1
}

/// Returns the content of the file with this key.
pub(crate) fn content(key: u64, offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(|offset| byte_of(key, offset)).collect()
}

/// Writes a plan to a sparse file, and checks the rules of emission.
pub(crate) fn write(plan: &dyn Planned, path: &Path) {
    write_with(plan, path, &mut |key, offset, len| content(key, offset, len));
}

/// Does the same with other content for the files.
pub(crate) fn write_with(
    plan: &dyn Planned,
    path: &Path,
    content: &mut dyn FnMut(u64, u64, usize) -> Vec<u8>,
) {
    let file = File::create(path).unwrap();
    file.set_len(plan.size()).unwrap();
    let mut end = 0;
    plan.emit(&mut |offset, placed| {
        let len = match placed {
            Placed::Bytes(bytes) => {
                if bytes.iter().any(|b| *b != 0) {
                    file.write_all_at(bytes, offset).unwrap();
                }
                bytes.len() as u64
            }
            Placed::File { key, offset: start, len } => {
                let mut done = 0;
                while done < len {
                    let now = (len - done).min(1 << 20);
                    file.write_all_at(&content(key, start + done, now as usize), offset + done).unwrap();
                    done += now;
                }
                len
            }
        };
        assert!(offset >= end, "{offset} comes after {end}");
        end = offset + len;
        Ok(())
    })
    .unwrap();
    assert!(end <= plan.size(), "something ends at {end}, past {}", plan.size());
}

/// A file, read as a volume.
pub(crate) struct Image(File);

impl Image {
    pub(crate) fn open(path: &Path) -> Self {
        Image(File::open(path).unwrap())
    }
}

impl Source for Image {
    fn len(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range("image", self.len(), offset, buf.len() as u64)?;
        self.0.read_exact_at(buf, offset).map_err(|e| at("image").byte(offset).io(e))
    }
    fn extent_at(&self, offset: u64) -> Result<Extent> {
        Ok(Extent::data(offset, self.len() - offset))
    }
}

/// Returns the paths of a tree, and the number of the node at each.
pub(crate) fn paths(tree: &Tree) -> BTreeMap<Vec<u8>, usize> {
    let mut paths = BTreeMap::new();
    let mut todo = vec![(Vec::new(), 0usize)];
    while let Some((path, node)) = todo.pop() {
        for child in &tree.nodes()[node].children {
            todo.push(([&path[..], b"/", &child.name].concat(), child.node as usize));
        }
        paths.insert(if path.is_empty() { b"/".to_vec() } else { path }, node);
    }
    paths
}

/// Reads a volume back and compares it with the tree that it was planned from. `expect` turns a node into what
/// reading it must give, because planning sets some fields.
pub(crate) fn assert_read_back(
    what: &str,
    tree: &Tree,
    fs: &dyn Filesystem,
    image: &dyn Source,
    expect: &dyn Fn(usize, &Node, &Node) -> Node,
) {
    assert_eq!(fs.info().warnings, Vec::<String>::new(), "{what}");
    let listing = walk(fs).unwrap();
    assert!(listing.complaints.is_empty(), "{what}: {:?}", listing.complaints);
    let paths = paths(tree);
    let found: Vec<&Vec<u8>> = listing.entries.iter().map(|e| &e.path).collect();
    assert_eq!(found.len(), paths.len(), "{what}");
    let mut checked = vec![false; tree.nodes().len()];
    for (entry, (path, number)) in listing.entries.iter().zip(&paths) {
        assert_eq!(entry.path, *path, "{what}");
        let (node, read) = (&tree.nodes()[*number], &listing.nodes[entry.file]);
        let expected = expect(*number, &node.meta, read);
        assert_eq!(*read, expected, "{what}: {}", path.escape_ascii());
        if node.meta.file_type == FileType::File && !std::mem::replace(&mut checked[*number], true) {
            let pieces = fs.content(listing.nodes.handle(entry.file)).unwrap().pieces;
            assert_content(&format!("{what}: {}", path.escape_ascii()), node.key, &node.data, &pieces, image);
        }
    }
}

fn assert_content(what: &str, key: u64, data: &[std::ops::Range<u64>], pieces: &[Piece], image: &dyn Source) {
    let mut offset = 0;
    for piece in pieces {
        let end = offset + piece.len();
        match piece {
            Piece::Zero { .. } => {
                assert!(data.iter().all(|d| d.end <= offset || d.start >= end), "{what}: data lost");
            }
            Piece::Volume { offset: place, len } => {
                let mut expected = vec![0; *len as usize];
                for d in data.iter().filter(|d| d.start < end && d.end > offset) {
                    let (from, to) = (d.start.max(offset), d.end.min(end));
                    expected[(from - offset) as usize..(to - offset) as usize].copy_from_slice(&content(
                        key,
                        from,
                        (to - from) as usize,
                    ));
                }
                assert!(image.read_vec(*place, *len as usize).unwrap() == expected, "{what}: other bytes");
            }
            Piece::Bytes(_) | Piece::Encoded(_) => panic!("{what}: bytes that are nowhere"),
        }
        offset = end;
    }
}
