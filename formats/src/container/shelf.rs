//! Keeps a decoded archive for its other disks.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::source::Source;
use crate::wrapper::{HEAD, Kind, Unpacked};

/// The archive that was decoded last, so that several disks in it are not each decoded again. It takes scratch space until
/// another archive takes its place.
#[derive(Default)]
pub struct Shelf(Mutex<Option<(ShelfKey, Slot)>>);

/// The identity of a file, and its length and times.
type ShelfKey = ((u64, u64), (u64, i64, i64, i64, i64));

/// What a file decodes to, once somebody has decoded it.
type Slot = Arc<Mutex<Option<Unpacked>>>;

impl Shelf {
    /// Returns what the file decodes to. Others who want the same wait for it; others who want another file do not.
    pub(super) fn get(&self, key: ShelfKey, unpack: impl FnOnce() -> Result<Unpacked>) -> Result<Unpacked> {
        let slot = {
            let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match &*shelf {
                Some((there, slot)) if *there == key => slot.clone(),
                _ => {
                    let slot = Slot::default();
                    *shelf = Some((key, slot.clone()));
                    slot
                }
            }
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(unpacked) = &*slot {
            return Ok(unpacked.clone());
        }
        let unpacked = unpack()?;
        let head = unpacked.source.read_vec(0, unpacked.source.len().min(HEAD as u64) as usize)?;
        // Only an archive can have another disk.
        if matches!(Kind::of(&head, unpacked.source.len()), Some(Kind::Archive(_))) {
            *slot = Some(unpacked.clone());
        }
        Ok(unpacked)
    }
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shelf")
    }
}
