//! A bounded cache shared by threads, for decompressed blocks and lookup tables. If one thread is loading an entry,
//! others wait for it, so nothing is loaded twice at a time. No lock is held while loading.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use crate::error::Result;

const SHARDS: usize = 16;

/// A map from numbers to values, limited to a budget of bytes.
///
/// Each shard keeps two generations. When the young one has used up its half of the budget it becomes the old one, and
/// values that were not used since are dropped. This bounds memory, and every step is O(1).
pub(super) struct Cache<V> {
    shards: [Mutex<Shard<V>>; SHARDS],
    budget: usize,
}

/// Empty while loading; `None` if loading failed.
type Slot<V> = Arc<OnceLock<Option<Arc<V>>>>;

struct Shard<V> {
    young: HashMap<u64, Slot<V>>,
    old: HashMap<u64, Slot<V>>,
    young_bytes: usize,
}

impl<V> Cache<V> {
    /// Creates a cache for `budget` bytes of values.
    pub(super) fn new(budget: usize) -> Self {
        let shard = |_| Mutex::new(Shard { young: HashMap::new(), old: HashMap::new(), young_bytes: 0 });
        Cache { shards: std::array::from_fn(shard), budget: budget / SHARDS / 2 }
    }

    /// Returns the value of `key`, loading it if it is not cached; it takes `bytes` bytes.
    pub(super) fn get(&self, key: u64, bytes: usize, load: impl Fn() -> Result<V>) -> Result<Arc<V>> {
        let slot = self.slot(key, bytes);
        let mut error = None;
        let value = slot.get_or_init(|| match load() {
            Ok(value) => Some(Arc::new(value)),
            Err(e) => {
                error = Some(e);
                None
            }
        });
        match (value, error) {
            (Some(value), _) => Ok(value.clone()),
            (None, Some(error)) => Err(error),
            // Another thread or an earlier call failed: load again to get the error.
            (None, None) => load().map(Arc::new),
        }
    }

    /// Returns the value of `key` if it is cached.
    pub(super) fn peek(&self, key: u64) -> Option<Arc<V>> {
        let shard = self.shard(key);
        let slot = shard.young.get(&key).or_else(|| shard.old.get(&key))?;
        slot.get()?.clone()
    }

    fn shard(&self, key: u64) -> std::sync::MutexGuard<'_, Shard<V>> {
        // Keys are multiples of block sizes: mix, then take the top bits.
        let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
        self.shards[mixed as usize % SHARDS].lock().expect("no panic while locked")
    }

    fn slot(&self, key: u64, bytes: usize) -> Slot<V> {
        let mut shard = self.shard(key);
        if let Some(slot) = shard.young.get(&key) {
            return slot.clone();
        }
        if shard.young_bytes + bytes > self.budget && !shard.young.is_empty() {
            shard.old = std::mem::take(&mut shard.young);
            shard.young_bytes = 0;
        }
        let slot = shard.old.remove(&key).unwrap_or_default();
        shard.young_bytes += bytes;
        shard.young.insert(key, slot.clone());
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::at;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_value_is_loaded_once_by_many_threads() {
        let (cache, loads) = (Cache::new(1 << 20), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for key in 0..100u64 {
                        let value = cache.get(key, 100, || {
                            loads.fetch_add(1, Ordering::Relaxed);
                            Ok(key)
                        });
                        assert_eq!(*value.unwrap(), key);
                    }
                });
            }
        });
        assert_eq!(loads.into_inner(), 100);
    }

    #[test]
    fn old_values_make_room() {
        let cache = Cache::new(SHARDS * 2 * 100);
        for key in 0..10_000u64 {
            cache.get(key, 50, || Ok(key)).unwrap();
        }
        let held: usize =
            cache.shards.iter().map(|s| s.lock().unwrap()).map(|s| s.young.len() + s.old.len()).sum();
        assert!(held <= SHARDS * 4, "{held}");
    }

    #[test]
    fn an_error_is_given_every_time() {
        let cache = Cache::<u8>::new(1000);
        for _ in 0..2 {
            assert!(cache.get(1, 1, || Err(at("x").corrupt("y"))).is_err());
        }
    }
}
