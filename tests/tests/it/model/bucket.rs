//! The model's object store: conditional puts, replies that get lost, a clock of its own that jumps, and no locks. The
//! code that runs on it is that of stores in buckets.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use mif::store::bucket::{Blob, Blobs, Bucket, Condition, Head, Listed, Listing, Tag};
use mif::store::{Memory, Storage, Upload};

use super::{Seen, VERBOSE};

/// A lease is renewed if it was last renewed so long ago, in milliseconds.
const RENEW: u64 = 30_000;

/// A process that did nothing for so long, in milliseconds, may have lost its leases.
pub(super) const ASLEEP: u64 = 40_000;

/// The object store. Its objects are the files of a [`Memory`], so that the model sees and spoils them as elsewhere.
pub(super) struct Sim {
    memory: Memory,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The version of each object, and when it was written.
    versions: BTreeMap<String, (u64, u64)>,
    next: u64,
    operations: u64,
    /// The time in milliseconds.
    now: u64,
}

impl Sim {
    pub(super) fn new(memory: Memory) -> Arc<Self> {
        Arc::new(Sim { memory, state: Mutex::new(State { now: 1_800_000_000_000, ..State::default() }) })
    }

    /// Returns the store, for someone whose operations always succeed and who waits for nobody.
    pub(super) fn storage(self: &Arc<Self>) -> Arc<dyn Storage> {
        Arc::new(Bucket::new(Arc::new(Direct(self.clone())), false))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> u64 {
        self.state().now
    }

    fn pass(&self, milliseconds: u64) {
        self.state().now += milliseconds;
    }

    /// Every operation takes a moment, and some of them most of a minute.
    fn tick(&self) {
        let mut state = self.state();
        state.operations += 1;
        let is_slow = state.operations.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58 == 0;
        state.now += if is_slow { 35_000 } else { 100 };
    }

    fn tag(&self, key: &str) -> Tag {
        let version = self.state().versions.get(key).map_or(0, |(version, _)| *version);
        Tag { etag: Some(version.to_string()), version: None }
    }

    fn get(&self, key: &str, range: Option<Range<u64>>, most: u64) -> io::Result<Blob> {
        let files = self.memory.files();
        let bytes = files.get(key).ok_or(ErrorKind::NotFound)?;
        let len = bytes.len() as u64;
        let range = range.unwrap_or(0..len);
        let part = range.start.min(len)..range.end.min(len);
        if part.end - part.start > most {
            return Err(ErrorKind::FileTooLarge.into());
        }
        Ok(Blob { bytes: bytes[part.start as usize..part.end as usize].to_vec(), tag: self.tag(key) })
    }

    fn head(&self, key: &str) -> io::Result<Head> {
        let len = self.memory.files().get(key).ok_or(ErrorKind::NotFound)?.len() as u64;
        let modified = self.state().versions.get(key).map_or(0, |(_, modified)| *modified);
        Ok(Head { len, tag: self.tag(key), modified })
    }

    fn put(&self, key: &str, bytes: &[u8], condition: Condition<'_>) -> Option<Tag> {
        let exists = self.memory.files().contains_key(key);
        let holds = match condition {
            Condition::Always => true,
            Condition::Absent => !exists,
            Condition::Unchanged(tag) => exists && self.tag(key) == *tag,
        };
        if !holds {
            return None;
        }
        let mut state = self.state();
        state.next += 1;
        let version = (state.next, state.now);
        state.versions.insert(key.to_owned(), version);
        drop(state);
        self.memory.set(key, Some(bytes.to_vec()));
        Some(self.tag(key))
    }

    fn list(&self, folder: &str, deep: bool) -> Listing {
        let start = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let mut listing = Listing::default();
        for (key, bytes) in self.memory.files() {
            let Some(rest) = key.strip_prefix(&start) else { continue };
            match rest.split_once('/') {
                Some((name, _)) if !deep => listing.folders.push(format!("{start}{name}")),
                _ => {
                    let modified = self.state().versions.get(&key).map_or(0, |(_, modified)| *modified);
                    listing.objects.push(Listed { len: bytes.len() as u64, modified, key });
                }
            }
        }
        listing.folders.dedup();
        listing
    }
}

/// The object store without failures and delays: for looking at it while no actor runs.
struct Direct(Arc<Sim>);

impl Blobs for Direct {
    fn place(&self) -> String {
        "model".to_owned()
    }

    fn get(&self, key: &str, range: Option<Range<u64>>, most: u64) -> io::Result<Blob> {
        self.0.get(key, range, most)
    }

    fn head(&self, key: &str) -> io::Result<Head> {
        self.0.head(key)
    }

    fn put(&self, key: &str, bytes: &[u8], condition: Condition<'_>) -> io::Result<Option<Tag>> {
        Ok(self.0.put(key, bytes, condition))
    }

    fn list(&self, folder: &str, deep: bool) -> io::Result<Listing> {
        Ok(self.0.list(folder, deep))
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        self.0.memory.set(key, None);
        Ok(())
    }

    fn upload(&self, key: &str) -> io::Result<Box<dyn Upload>> {
        let (sim, key) = (self.0.clone(), key.to_owned());
        Ok(Box::new(Part {
            bytes: Vec::new(),
            end: Box::new(move |bytes| Ok(sim.put(&key, bytes, Condition::Absent).is_some())),
        }))
    }

    fn pause(&self) {
        self.0.pass(10_000);
    }

    fn settle(&self) {
        self.0.pass(2000);
    }

    fn random(&self) -> io::Result<[u8; 32]> {
        self.0.memory.random()
    }
}

/// A fault in the protocol, planted to see if the model finds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Planted {
    /// Whoever looks if a lease has expired uses the clock of its machine, which is ten minutes ahead.
    MachineClock,
    /// A lease seems to be renewed, and a claim to be one's own, whatever has happened to it.
    NoRenewal,
    /// Images are listed once, and not again before something is deleted.
    NoListing,
}

/// The object store as seen by one actor.
pub(super) struct SeenBlobs {
    seen: Seen,
    sim: Arc<Sim>,
    bucket: OnceLock<Weak<Bucket>>,
    renewed: AtomicU64,
    last: AtomicU64,
    /// Set once the actor did nothing for so long that others may take it for dead.
    slept: Arc<AtomicBool>,
    planted: Option<Planted>,
    listed: Mutex<BTreeMap<String, Listing>>,
}

impl SeenBlobs {
    /// Returns the store as seen by an actor.
    pub(super) fn bucket(
        seen: Seen,
        sim: &Arc<Sim>,
        slept: Arc<AtomicBool>,
        planted: Option<Planted>,
    ) -> Arc<Bucket> {
        let blobs = Arc::new(SeenBlobs {
            seen,
            sim: sim.clone(),
            bucket: OnceLock::new(),
            renewed: AtomicU64::new(sim.now()),
            last: AtomicU64::new(sim.now()),
            slept,
            planted,
            listed: Mutex::default(),
        });
        let bucket = Arc::new(Bucket::new(blobs.clone(), false));
        blobs.bucket.set(Arc::downgrade(&bucket)).expect("set once");
        bucket
    }

    /// Renews the actor's leases, if it is time, as the thread does in a process.
    fn renew(&self) {
        if self.sim.now().saturating_sub(self.renewed.load(Ordering::Relaxed)) <= RENEW {
            return;
        }
        self.renewed.store(self.sim.now(), Ordering::Relaxed);
        if let Some(bucket) = self.bucket.get().and_then(Weak::upgrade) {
            // It tries again later.
            let _ = bucket.renew();
        }
    }

    fn step<T>(&self, what: &str, key: &str, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let is_lease = key.starts_with("leases") || key == "lock";
        if !is_lease {
            self.renew();
        }
        self.seen.step(what, key, || {
            self.sim.tick();
            let now = self.sim.now();
            if now.saturating_sub(self.last.swap(now, Ordering::Relaxed)) > ASLEEP {
                self.slept.store(true, Ordering::Relaxed);
            }
            work()
        })
    }
}

impl Blobs for SeenBlobs {
    fn place(&self) -> String {
        "model".to_owned()
    }

    fn get(&self, key: &str, range: Option<Range<u64>>, most: u64) -> io::Result<Blob> {
        self.step("get", key, || self.sim.get(key, range, most))
    }

    fn head(&self, key: &str) -> io::Result<Head> {
        self.step("head", key, || {
            let mut head = self.sim.head(key)?;
            if self.planted == Some(Planted::MachineClock) && key == "leases/clock" {
                head.modified += 600_000;
            }
            Ok(head)
        })
    }

    fn put(&self, key: &str, bytes: &[u8], condition: Condition<'_>) -> io::Result<Option<Tag>> {
        let is_own = key.starts_with("leases/") || key.ends_with("/claim");
        let is_planted = self.planted == Some(Planted::NoRenewal) && is_own;
        // A reply that was lost, after which the put was sent again; and a refusal because of another put under way.
        let sequence = self.sim.state().operations.wrapping_mul(0xd134_2543_de82_ef95) >> 56;
        let what = match condition {
            Condition::Always => "put",
            Condition::Absent => "put if absent",
            Condition::Unchanged(_) => "put if unchanged",
        };
        self.step(what, key, || {
            if sequence == 1
                && matches!(condition, Condition::Absent)
                && !self.sim.memory.files().contains_key(key)
            {
                return Ok(None);
            }
            let tag = self.sim.put(key, bytes, condition);
            match condition {
                Condition::Unchanged(tag) if is_planted => Ok(Some(tag.clone())),
                Condition::Absent | Condition::Unchanged(_) if sequence < 4 => Ok(None),
                _ => Ok(tag),
            }
        })
    }

    fn list(&self, folder: &str, deep: bool) -> io::Result<Listing> {
        self.step("list", folder, || {
            let listing = self.sim.list(folder, deep);
            if self.planted != Some(Planted::NoListing) || !folder.starts_with("images") {
                return Ok(listing);
            }
            let mut listed = self.listed.lock().unwrap();
            Ok(listed.entry(format!("{folder} {deep}")).or_insert(listing).clone())
        })
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        self.step("delete", key, || {
            self.sim.memory.set(key, None);
            Ok(())
        })
    }

    fn upload(&self, key: &str) -> io::Result<Box<dyn Upload>> {
        let (seen, sim, key) = (self.seen.clone(), self.sim.clone(), key.to_owned());
        let end = move |bytes: &[u8]| {
            seen.step("finish", &key, || {
                sim.tick();
                Ok(sim.put(&key, bytes, Condition::Absent).is_some())
            })
        };
        Ok(Box::new(Part { bytes: Vec::new(), end: Box::new(end) }))
    }

    fn pause(&self) {
        self.sim.pass(10_000);
        self.renew();
    }

    fn settle(&self) {
        self.sim.pass(2000);
        if VERBOSE.get().is_some() {
            self.seen.turns.state().trace.push("settle".to_owned());
        }
    }

    fn random(&self) -> io::Result<[u8; 32]> {
        self.sim.memory.random()
    }
}

type End = Box<dyn FnOnce(&[u8]) -> io::Result<bool> + Send>;

/// An object that is being written.
struct Part {
    bytes: Vec<u8>,
    end: End,
}

impl Write for Part {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upload for Part {
    fn finish(self: Box<Self>) -> io::Result<bool> {
        let Part { bytes, end } = *self;
        end(&bytes)
    }
}
