//! The subvolumes of a volume, and the handles of the files in them.

use std::collections::{BTreeMap, HashMap};

use super::block::Pointer;
use super::checksum::name_hash;
use super::items::{DirItem, Key, RootItem, RootRef, id, is_fs_tree, kind};
use super::overlay::Overlay;
use super::tree::Trees;
use crate::error::{Error, Result, at};
use crate::fs::NodeId;

/// A handle combines the position of the subvolume in the list and the inode number in it, so handles sort like the
/// trees' keys and need no table. Inode numbers are never reused in a subvolume and grow by one: exceeding these bits
/// would take a hundred days of creating a million files per second.
const INODE_BITS: u32 = 43;
/// The most subvolumes that are listed.
const SUBVOLUMES_MAX: usize = 1 << 20;
/// Marks the handle of an empty directory that stands for a subvolume not at this location.
pub(super) const EMPTY: NodeId = 1 << 63;
/// The most warnings of each kind.
const WARNINGS_MAX: usize = 10;

/// A tree of files.
pub(super) struct Subvolume {
    pub(super) id: u64,
    pub(super) root: Pointer,
    /// The inode number of its root directory.
    pub(super) root_dirid: u64,
    /// The changes of its log tree.
    pub(super) overlay: Overlay,
}

/// All subvolumes, sorted by id. The first is the top level.
pub(super) struct Subvolumes {
    pub(super) all: Vec<Subvolume>,
    /// The directory entries of subvolumes, by the id of the tree containing the entry and the id of the subvolume.
    refs: HashMap<(u64, u64), RootRef>,
    /// The subvolume that is mounted where none is requested, unless it is the top level.
    pub(super) default: Option<u64>,
}

impl Subvolumes {
    /// Reads the root tree. Adds a warning for each part that could not be read.
    pub(super) fn read(trees: &Trees, warnings: &mut Vec<String>) -> Result<Self> {
        let mut found: BTreeMap<u64, RootItem> = BTreeMap::new();
        let mut refs = HashMap::new();
        let mut default = None;
        let mut problems: Vec<Error> = Vec::new();
        let mut lost: Vec<Error> = Vec::new();
        trees.walk(
            &root_tree(trees),
            Key::MIN..=Key::MAX,
            &mut |error| {
                lost.push(error);
                if lost.len() > WARNINGS_MAX { Err(lost.swap_remove(0)) } else { Ok(()) }
            },
            &mut |key, bytes| {
                let result = match key.kind {
                    kind::ROOT_ITEM if is_fs_tree(key.objectid) => {
                        // A subvolume has one root item; the key offset of a snapshot's is its transaction.
                        RootItem::parse(key, bytes).map(|item| {
                            found.insert(key.objectid, item);
                        })
                    }
                    kind::ROOT_REF => RootRef::parse(key, bytes)
                        .map(|entry| drop(refs.insert((key.objectid, key.offset), entry))),
                    kind::DIR_ITEM if key == default_key() => DirItem::parse_all(key, bytes).map(|entries| {
                        let entry = entries.iter().find(|entry| entry.name == b"default");
                        default = entry.map(|entry| entry.location.objectid);
                    }),
                    _ => Ok(()),
                };
                if let Err(error) = result
                    && problems.len() < WARNINGS_MAX
                {
                    problems.push(error);
                }
                Ok(true)
            },
        )?;
        warnings.extend(lost.iter().chain(&problems).map(|error| format!("the tree of roots: {error}")));
        let mut all = Vec::new();
        for (tree, item) in found {
            // A subvolume without references is being deleted.
            if item.refs == 0 && tree != id::FS_TREE {
                continue;
            }
            if all.len() == SUBVOLUMES_MAX {
                warnings
                    .push(format!("there are over {SUBVOLUMES_MAX} subvolumes; the others are not listed"));
                break;
            }
            let (root, root_dirid) = (pointer(tree, item), item.root_dirid);
            all.push(Subvolume { id: tree, root, root_dirid, overlay: Overlay::default() });
        }
        if all.first().is_none_or(|top| top.id != id::FS_TREE) {
            return Err(at("tree of roots").corrupt("has no root of the top-level subvolume, 5"));
        }
        let default = default.filter(|default| *default != id::FS_TREE);
        let subvolumes = Subvolumes { all, refs, default };
        warnings.extend(subvolumes.not_linked());
        if let Some(default) = default.filter(|default| subvolumes.position(*default).is_none()) {
            warnings.push(format!("the default subvolume, {default}, does not exist"));
        }
        Ok(subvolumes)
    }

    /// Returns warnings about subvolumes without a directory entry.
    fn not_linked(&self) -> Vec<String> {
        let mut children: HashMap<u64, Vec<u64>> = HashMap::new();
        for (parent, child) in self.refs.keys() {
            children.entry(*parent).or_default().push(*child);
        }
        let mut linked = std::collections::HashSet::from([id::FS_TREE]);
        let mut todo = vec![id::FS_TREE];
        while let Some(tree) = todo.pop() {
            for child in children.get(&tree).into_iter().flatten() {
                if linked.insert(*child) {
                    todo.push(*child);
                }
            }
        }
        let lost = self.all.iter().map(|subvolume| subvolume.id).filter(|id| !linked.contains(id));
        let lost: Vec<u64> = lost.collect();
        let mut warnings: Vec<String> = Vec::new();
        if !lost.is_empty() {
            let ids: Vec<String> = lost.iter().take(WARNINGS_MAX).map(u64::to_string).collect();
            let more = if lost.len() > WARNINGS_MAX { " and others" } else { "" };
            warnings.push(format!(
                "no directory has an entry for the subvolumes {}{more}, so their files are not listed",
                ids.join(", ")
            ));
        }
        warnings
    }

    /// Returns the position of a subvolume in the list.
    pub(super) fn position(&self, tree: u64) -> Option<usize> {
        self.all.binary_search_by_key(&tree, |subvolume| subvolume.id).ok()
    }

    /// Returns the position of the subvolume that the directory entry `name` refers to. `None` if the subvolume is not
    /// at this location: a snapshot copied the entry, or the subvolume was deleted.
    pub(super) fn at_entry(&self, parent: u64, dirid: u64, name: &[u8], tree: u64) -> Option<usize> {
        let entry = self.refs.get(&(parent, tree))?;
        if entry.dirid == dirid && entry.name == name { self.position(tree) } else { None }
    }
}

/// Returns the root of the root tree.
fn root_tree(trees: &Trees) -> Pointer {
    let (bytenr, level) = trees.sb.root;
    Pointer { bytenr, generation: trees.sb.generation, level, tree: id::ROOT_TREE, first: None }
}

/// Returns the root of a tree that does not hold files, if there is such a tree.
pub(super) fn root_of(trees: &Trees, tree: u64) -> Result<Option<Pointer>> {
    let key = Key::new(tree, kind::ROOT_ITEM, 0);
    let Some(item) = trees.get(&root_tree(trees), key)? else { return Ok(None) };
    Ok(Some(pointer(tree, RootItem::parse(key, &item)?)))
}

pub(super) fn pointer(tree: u64, item: RootItem) -> Pointer {
    let RootItem { bytenr, generation, level, .. } = item;
    Pointer { bytenr, generation, level, tree, first: None }
}

/// Returns the key of the default subvolume's entry in the root tree.
fn default_key() -> Key {
    Key::new(id::ROOT_TREE_DIR, kind::DIR_ITEM, name_hash(b"default"))
}

/// Returns the handle of an inode in the subvolume at this position.
pub(super) fn handle(position: usize, inode: u64) -> Result<NodeId> {
    if inode >> INODE_BITS != 0 {
        return Err(at(format!("inode {inode}")).limit(format!("has a number of over {INODE_BITS} bits")));
    }
    Ok((position as u64) << INODE_BITS | inode)
}

/// Returns the subvolume position and the inode number of a handle.
pub(super) fn of_handle(handle: NodeId) -> (usize, u64) {
    ((handle >> INODE_BITS) as usize, handle & ((1 << INODE_BITS) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_a_subvolume_and_an_inode_in_the_order_of_both() {
        let handles: Vec<NodeId> =
            [(0, 256), (0, 257), (1, 256), (SUBVOLUMES_MAX - 1, (1 << INODE_BITS) - 1)]
                .into_iter()
                .map(|(position, inode)| {
                    let handle = handle(position, inode).unwrap();
                    assert_eq!(of_handle(handle), (position, inode));
                    handle
                })
                .collect();
        assert!(handles.is_sorted() && handles.iter().all(|handle| handle & EMPTY == 0));
        assert!(handle(0, 1 << INODE_BITS).is_err());
    }
}
