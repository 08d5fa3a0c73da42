//! A bounded cache shared by threads, for blocks, decompressed clusters and lookup tables. If one thread is loading an entry,
//! others wait for it, so nothing is loaded twice at a time. No lock is held while loading.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use crate::error::Result;

/// The number of shards. A key belongs to one of them, which has its own lock and a sixteenth of the budget.
const SHARDS: usize = 16;

/// A map from numbers to values, limited to a budget of bytes.
///
/// Each shard keeps two generations of at most 1/32 of the budget each, but at least one value. When the young generation is
/// full it becomes the old one, and old values that were not used since are dropped. This bounds memory, and every step
/// is O(1).
pub(crate) struct Cache<V> {
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
    pub(crate) fn new(budget: usize) -> Self {
        let shard = |_| Mutex::new(Shard { young: HashMap::new(), old: HashMap::new(), young_bytes: 0 });
        Cache { shards: std::array::from_fn(shard), budget: budget / SHARDS / 2 }
    }

    /// Returns the value of `key`, loading it if it is not cached; it takes `bytes` bytes.
    pub(crate) fn get(&self, key: u64, bytes: usize, load: impl Fn() -> Result<V>) -> Result<Arc<V>> {
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
    pub(crate) fn peek(&self, key: u64) -> Option<Arc<V>> {
        let shard = self.shard(key);
        let slot = shard.young.get(&key).or_else(|| shard.old.get(&key))?;
        slot.get()?.clone()
    }

    /// Keeps `value`, which is of `bytes` bytes, under `key`, in the place of what was there.
    pub(crate) fn put(&self, key: u64, bytes: usize, value: Arc<V>) {
        let slot = Slot::default();
        let _ = slot.set(Some(value));
        let mut shard = self.shard(key);
        if let Some(there) = shard.young.get_mut(&key) {
            *there = slot;
            return;
        }
        self.make_room(&mut shard, bytes);
        shard.old.remove(&key);
        shard.young_bytes += bytes;
        shard.young.insert(key, slot);
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
        self.make_room(&mut shard, bytes);
        let slot = shard.old.remove(&key).unwrap_or_default();
        shard.young_bytes += bytes;
        shard.young.insert(key, slot.clone());
        slot
    }

    /// Makes room for `bytes` more in the young generation.
    fn make_room(&self, shard: &mut Shard<V>, bytes: usize) {
        if shard.young_bytes + bytes > self.budget && !shard.young.is_empty() {
            shard.old = std::mem::take(&mut shard.young);
            shard.young_bytes = 0;
        }
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
    fn a_value_that_is_put_stands_for_the_one_before() {
        let cache = Cache::new(1 << 20);
        assert_eq!(*cache.get(7, 1, || Ok(1)).unwrap(), 1);
        cache.put(7, 1, Arc::new(2));
        assert_eq!(cache.peek(7).as_deref(), Some(&2));
        assert_eq!(*cache.get(7, 1, || Ok(3)).unwrap(), 2);
    }

    #[test]
    fn an_error_is_given_every_time() {
        let cache = Cache::<u8>::new(1000);
        for _ in 0..2 {
            assert!(cache.get(1, 1, || Err(at("x").corrupt("y"))).is_err());
        }
    }
}
