//! Which bytes of the device are free: those that no extent of the extent tree uses, in whatever chunk or outside all.

use std::ops::Range;

use super::Btrfs;
use super::items::{Key, id, kind};
use super::subvolumes::root_of;
use super::superblock::OFFSETS;
use crate::error::{ErrorKind, Result, at};
use crate::fs::ranges::push;

/// The size of a superblock in bytes. No extent lies on one.
const SUPERBLOCK: u64 = 4096;

impl Btrfs {
    /// Returns the parts of a range of bytes of the device that are free. `None` if a chunk or the extent tree cannot be read,
    /// or if there is a log, whose blocks are in no tree.
    pub(super) fn free_bytes_in(&self, range: &Range<u64>) -> Result<Option<Vec<Range<u64>>>> {
        if self.trees.sb.log_root.is_some() {
            return Ok(None);
        }
        match self.used_in(range) {
            Ok(mut used) => {
                used.sort_by_key(|used| used.start);
                let (mut free, mut next) = (Vec::new(), range.start);
                for used in used {
                    push(&mut free, next..used.start.min(range.end));
                    next = next.max(used.end);
                }
                push(&mut free, next..range.end);
                Ok(Some(free))
            }
            Err(error) if error.kind() == ErrorKind::Io => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Returns the parts of the device that are used, among them all in the range.
    fn used_in(&self, range: &Range<u64>) -> Result<Vec<Range<u64>>> {
        let trees = &self.trees;
        let mut used = OFFSETS.map(|offset| offset..offset + SUPERBLOCK).to_vec();
        // Before the first superblock is the place of boot code.
        used.push(0..OFFSETS[0]);
        let root = root_of(trees, id::EXTENT_TREE)?;
        let root = root.ok_or_else(|| at("extent tree").corrupt("does not exist"))?;
        for (device, logical) in trees.chunks.stripes_in(range)? {
            let end = logical + (device.end - device.start);
            // The last extent before may reach into it.
            let before = trees.last(&root, Key::new(logical, 0, 0))?.map_or(logical, |(key, _)| key.objectid);
            let wanted = Key::new(before, 0, 0)..=Key::new(end - 1, u8::MAX, u64::MAX);
            trees.walk(&root, wanted, &mut Err, &mut |key, _| {
                let len = match key.kind {
                    kind::EXTENT_ITEM => key.offset,
                    kind::METADATA_ITEM => u64::from(trees.sb.nodesize),
                    _ => return Ok(true),
                };
                let (start, stop) = (key.objectid.max(logical), key.objectid.saturating_add(len).min(end));
                if start < stop {
                    used.push(device.start + (start - logical)..device.start + (stop - logical));
                }
                Ok(true)
            })?;
        }
        Ok(used)
    }
}
