//! A cache of things read, of a fixed number of slots.

use std::sync::{Arc, Mutex, PoisonError};

/// A slot: a key, and the bytes read for it.
type Slot = Mutex<Option<(u64, Arc<[u8]>)>>;

/// A key has one slot, which is locked only to look or to put: readers do not wait for each other's reading.
pub(super) struct Cache(Box<[Slot]>);

impl Cache {
    /// A cache of `slots` slots. Keys that follow each other get neighbouring slots, and so never oust each other.
    pub(super) fn new(slots: usize) -> Self {
        Cache((0..slots).map(|_| Mutex::new(None)).collect())
    }

    /// What was read for `key`, if it is still there.
    pub(super) fn get(&self, key: u64) -> Option<Arc<[u8]>> {
        let slot = self.slot(key).lock().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref().filter(|(k, _)| *k == key).map(|(_, bytes)| Arc::clone(bytes))
    }

    /// Keeps what was read for `key`, in the place of something else.
    pub(super) fn put(&self, key: u64, bytes: &Arc<[u8]>) {
        *self.slot(key).lock().unwrap_or_else(PoisonError::into_inner) = Some((key, Arc::clone(bytes)));
    }

    fn slot(&self, key: u64) -> &Slot {
        &self.0[key as usize % self.0.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_keeps_the_last_that_was_put_into_it() {
        let cache = Cache::new(4);
        let bytes: Arc<[u8]> = vec![1].into();
        cache.put(5, &bytes);
        assert!(cache.get(5).is_some() && cache.get(1).is_none());
        cache.put(1, &bytes);
        assert!(cache.get(5).is_none() && cache.get(1).is_some());
    }
}
