//! The items of a subvolume: those of its tree, overlaid with the changes of its log.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::RangeInclusive;

use super::block::Pointer;
use super::items::Key;
use super::tree::{Found, Lost, Trees};
use crate::error::Result;

/// In-memory changes to the items of a tree: a new item, or `None` for a removed one.
#[derive(Debug, Default)]
pub(super) struct Overlay(pub(super) BTreeMap<Key, Option<Vec<u8>>>);

impl Overlay {
    /// Calls `found` for the items with keys in `range`, in key order, as [`Trees::walk`] does.
    pub(super) fn walk(
        &self,
        trees: &Trees,
        root: &Pointer,
        range: RangeInclusive<Key>,
        lost: Lost<'_>,
        found: Found<'_>,
    ) -> Result<bool> {
        if self.0.is_empty() {
            return trees.walk(root, range, lost, found);
        }
        let mut changes = self.0.range(range.clone()).peekable();
        let goes_on = trees.walk(root, range, lost, &mut |key, bytes| {
            if !before(&mut changes, Some(key), found)? {
                return Ok(false);
            }
            if changes.peek().is_some_and(|(changed, _)| **changed == key) {
                return match changes.next() {
                    Some((_, Some(bytes))) => found(key, bytes),
                    _ => Ok(true),
                };
            }
            found(key, bytes)
        })?;
        Ok(goes_on && before(&mut changes, None, found)?)
    }

    /// Returns the item with this key, if there is one.
    pub(super) fn get(&self, trees: &Trees, root: &Pointer, key: Key) -> Result<Option<Vec<u8>>> {
        match self.0.get(&key) {
            Some(changed) => Ok(changed.clone()),
            None => trees.get(root, key),
        }
    }
}

impl Overlay {
    /// Returns the item with the largest key up to `key`, if there is one.
    pub(super) fn last(&self, trees: &Trees, root: &Pointer, key: Key) -> Result<Option<(Key, Vec<u8>)>> {
        let new = self.0.range(..=key).rev().find_map(|(key, item)| item.as_ref().map(|item| (*key, item)));
        let mut up_to = key;
        while let Some((stored, item)) = trees.last(root, up_to)? {
            if new.is_some_and(|(new, _)| new >= stored) {
                break;
            }
            if !self.0.contains_key(&stored) {
                return Ok(Some((stored, item)));
            }
            match stored.before() {
                Some(before) => up_to = before,
                None => break,
            }
        }
        Ok(new.map(|(key, item)| (key, item.clone())))
    }
}

/// Passes the new items with keys less than `end` to `found`. Returns false if `found` ended the walk.
fn before<'o>(
    changes: &mut Peekable<impl Iterator<Item = (&'o Key, &'o Option<Vec<u8>>)>>,
    end: Option<Key>,
    found: Found<'_>,
) -> Result<bool> {
    while let Some((key, bytes)) = changes.next_if(|(key, _)| end.is_none_or(|end| **key < end)) {
        if let Some(bytes) = bytes
            && !found(*key, bytes)?
        {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::btrfs::items::kind;
    use crate::fs::btrfs::tree::tests::{ROOT, blocks, trees};

    fn key(i: u64) -> Key {
        Key::new(256, kind::DIR_INDEX, i)
    }

    #[test]
    fn changes_stand_over_the_tree_in_the_order_of_keys() {
        let trees = trees(&blocks(), &[]);
        let mut overlay = Overlay::default();
        for (i, change) in
            [(0, None), (5, Some("new")), (10, Some("changed")), (15, None), (21, None), (99, Some("last"))]
        {
            overlay.0.insert(key(i), change.map(|text| text.as_bytes().to_vec()));
        }
        let walk = |range: RangeInclusive<Key>, most: usize| {
            let mut found = Vec::new();
            overlay
                .walk(&trees, &ROOT, range, &mut Err, &mut |key, bytes| {
                    found.push((key.offset, String::from_utf8(bytes.to_vec()).unwrap()));
                    Ok(found.len() < most)
                })
                .unwrap();
            found
        };
        let all = [(1, "two"), (5, "new"), (10, "changed"), (11, "two"), (20, "one"), (99, "last")];
        let all: Vec<(u64, String)> = all.iter().map(|(i, text)| (*i, (*text).to_owned())).collect();
        assert_eq!(walk(Key::MIN..=Key::MAX, 100), all);
        assert_eq!(walk(key(5)..=key(10), 100), all[1..3]);
        for most in 1..all.len() {
            assert_eq!(walk(Key::MIN..=Key::MAX, most), all[..most]);
        }
        let last = |i| overlay.last(&trees, &ROOT, key(i)).unwrap().map(|(key, _)| key.offset);
        assert_eq!(
            [0, 1, 4, 7, 10, 16, 22, 100].map(last),
            [None, Some(1), Some(1), Some(5), Some(10), Some(11), Some(20), Some(99)]
        );
        assert_eq!(overlay.get(&trees, &ROOT, key(0)).unwrap(), None);
        assert_eq!(overlay.get(&trees, &ROOT, key(1)).unwrap().as_deref(), Some(&b"two"[..]));
    }
}
