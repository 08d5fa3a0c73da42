//! The items of a subvolume: those of its tree, and over them the changes of its log.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::RangeInclusive;

use super::block::Pointer;
use super::items::Key;
use super::tree::{Found, Lost, Trees};
use crate::error::Result;

/// Changes to the items of a tree, in memory: a new item, or `None` for one that is removed.
#[derive(Debug, Default)]
pub(super) struct Overlay(pub(super) BTreeMap<Key, Option<Vec<u8>>>);

impl Overlay {
    /// Calls `found` for the items with keys in `range`, in the order of their keys, as [`Trees::walk`] does.
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

    /// Returns the item with the key, if there is one.
    pub(super) fn get(&self, trees: &Trees, root: &Pointer, key: Key) -> Result<Option<Vec<u8>>> {
        match self.0.get(&key) {
            Some(changed) => Ok(changed.clone()),
            None => trees.get(root, key),
        }
    }
}

/// Passes on the new items with keys below `end`.
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
