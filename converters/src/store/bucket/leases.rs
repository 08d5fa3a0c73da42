//! Tracks who uses a store in a bucket, by leases and the clock of the object store.
//!
//! ```text
//! leases/epoch            the number of the current epoch
//! leases/<n>/<random>     the lease of a process that entered in epoch n
//! leases/alone            the lease of the process that has exclusive use of the store
//! leases/clock            written to learn the time
//! lock                    the removal lock, which rm and gc hold
//! ```
//!
//! A lease is a small object that its owner renews at half its time, on condition that nobody has changed it. It has
//! expired if the object store's time is later than its last renewal by more than its time. Both times are the object
//! store's: the present one is that of an object written just now. Who wants an expired lease out of the way first
//! changes it, on the same condition. So an owner who was only paused finds that its renewal fails, and stops.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mif_formats::text::hex;
use serde::{Deserialize, Serialize};

use super::blobs::{Blobs, Condition, Tag, put_absent, put_unchanged};
use crate::store::Lock;
use crate::store::storage::number;

const EPOCH: &str = "leases/epoch";
const ALONE: &str = "leases/alone";
const CLOCK: &str = "leases/clock";
const LOCK: &str = "lock";

/// How long a lease is valid after its last renewal, in seconds.
const SECONDS: u64 = 120;

/// A lease is not read, and counts as valid, if it is younger than this, in milliseconds.
const YOUNG: u64 = 5000;

/// The largest lease that is read, in bytes.
const MAX_LEN: u64 = 4 << 10;

/// The content of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// Names the owner.
    owner: String,
    /// The number of renewals, so that each one changes the object.
    turn: u64,
    /// How long it is valid after it was written.
    seconds: u64,
    /// True if it was given up, or taken from an owner who did not renew it.
    free: bool,
}

impl Note {
    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a note is JSON")
    }

    /// Parses a lease. A damaged one names nobody, and expires like others.
    fn decode(bytes: &[u8]) -> Self {
        let unknown = Note { owner: String::new(), turn: 0, seconds: SECONDS, free: false };
        serde_json::from_slice(bytes).unwrap_or(unknown)
    }
}

/// The name of a lease and of its owner, by which others can see if it is still valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    key: String,
    owner: String,
}

/// A lease that this process holds.
struct Held {
    note: Note,
    tag: Tag,
    renewed: Instant,
    /// True if somebody took it.
    is_lost: bool,
}

/// The leases that this process holds on one store.
pub(super) struct Leases {
    blobs: Arc<dyn Blobs>,
    state: Mutex<State>,
    changed: Condvar,
    /// True if a thread renews them.
    in_background: bool,
}

#[derive(Default)]
struct State {
    held: BTreeMap<String, Held>,
    is_running: bool,
}

/// What becomes of a lease that its owner gives up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It is deleted: its key is used once.
    Deleted,
    /// It is marked as free for the next owner.
    Freed,
}

/// Gives up a lease on drop.
struct Guard {
    leases: Arc<Leases>,
    key: String,
    end: End,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.leases.give_up(&self.key, self.end);
    }
}

impl Leases {
    /// Returns the leases on a store. Without `in_background`, the caller has to [`renew`](Self::renew) them.
    pub(super) fn new(blobs: Arc<dyn Blobs>, in_background: bool) -> Arc<Self> {
        Arc::new(Leases { blobs, state: Mutex::default(), changed: Condvar::new(), in_background })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the current time in milliseconds by the object store's clock.
    fn now(&self) -> io::Result<u64> {
        let nonce = self.blobs.random()?;
        self.blobs.put(CLOCK, hex(&nonce).as_bytes(), Condition::Always)?;
        Ok(self.blobs.head(CLOCK)?.modified)
    }

    /// Reads the number of the current epoch, and the version of its object. Creates it if needed, and rewrites it if it
    /// is damaged.
    fn read_epoch(&self) -> io::Result<(u64, Tag)> {
        loop {
            let damaged = match self.blobs.get(EPOCH, None, MAX_LEN) {
                Ok(found) => {
                    let text = String::from_utf8_lossy(&found.bytes);
                    match text.split_whitespace().next().and_then(number) {
                        Some(epoch) => return Ok((epoch, found.tag)),
                        None => Some(found.tag),
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                Err(e) if e.kind() == io::ErrorKind::FileTooLarge => Some(self.blobs.head(EPOCH)?.tag),
                Err(e) => return Err(e),
            };
            let text = format!("{}\n", self.unused_epoch()?);
            match damaged {
                Some(tag) => drop(put_unchanged(&*self.blobs, EPOCH, text.as_bytes(), &tag)?),
                None => drop(put_absent(&*self.blobs, EPOCH, text.as_bytes())?),
            }
        }
    }

    /// Returns an epoch after all of which something is left.
    fn unused_epoch(&self) -> io::Result<u64> {
        let mut newest = 0;
        for top in ["leases", "trash"] {
            let listing = self.blobs.list(top, true)?;
            let epochs = listing.objects.iter().filter_map(|o| number::<u64>(o.key.split('/').nth(1)?));
            newest = newest.max(epochs.max().unwrap_or(0));
        }
        newest.checked_add(1).ok_or_else(|| io::Error::other("the epoch numbers are used up"))
    }

    pub(super) fn epoch(&self) -> io::Result<u64> {
        Ok(self.read_epoch()?.0)
    }

    /// Begins the next epoch and returns its number. The caller holds the lock.
    pub(super) fn advance(&self) -> io::Result<u64> {
        self.check(true)?;
        let (epoch, tag) = self.read_epoch()?;
        let next = epoch.checked_add(1).ok_or_else(|| io::Error::other("the epoch numbers are used up"))?;
        let text = format!("{next}\n");
        match put_unchanged(&*self.blobs, EPOCH, text.as_bytes(), &tag)? {
            Some(_) => Ok(next),
            None => Err(lost(LOCK)),
        }
    }

    /// Enters the current epoch. Returns `None` while somebody has the store exclusively.
    pub(super) fn enter(self: &Arc<Self>) -> io::Result<Option<Lock>> {
        loop {
            let epoch = match self.epoch() {
                // A user who may not write to the store can still read it.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(Some(Lock::none())),
                epoch => epoch?,
            };
            let key = format!("leases/{epoch}/{}", &hex(&self.blobs.random()?)[..32]);
            let taken = match self.take(&key, End::Deleted) {
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(Some(Lock::none())),
                taken => taken?,
            };
            let Some(guard) = taken else { continue };
            // Who begins an epoch, or takes the store exclusively, then looks for leases: either this is seen there, or
            // that is seen here.
            if self.is_valid(ALONE)? {
                return Ok(None);
            }
            if self.epoch()? == epoch {
                return Ok(Some(Lock::new(guard)));
            }
        }
    }

    /// Takes the removal lock. Returns `None` while another process holds it.
    pub(super) fn lock(self: &Arc<Self>) -> io::Result<Option<Lock>> {
        Ok(self.take(LOCK, End::Freed)?.map(Lock::new))
    }

    /// Takes the store exclusively. Returns `None` while it is in use.
    pub(super) fn alone(self: &Arc<Self>) -> io::Result<Option<Lock>> {
        let Some(guard) = self.take(ALONE, End::Freed)? else { return Ok(None) };
        Ok(self.users()?.is_empty().then(|| Lock::new(guard)))
    }

    /// Takes the object with this key, which is created. Returns `None` while another process holds it. It stays when
    /// it is given up: deleting it could delete the lease of the next holder.
    pub(super) fn hold(self: &Arc<Self>, key: &str) -> io::Result<Option<Lock>> {
        Ok(self.take(key, End::Freed)?.map(Lock::new))
    }

    /// Returns the oldest epoch that a user has entered, or the current one if there are no users. Ends leases that
    /// have expired.
    pub(super) fn oldest(&self) -> io::Result<u64> {
        let users = self.users()?;
        match users.first_key_value() {
            Some((epoch, _)) => Ok(*epoch),
            None => self.epoch(),
        }
    }

    /// Returns the number of valid leases by epoch, and ends those that have expired.
    fn users(&self) -> io::Result<BTreeMap<u64, usize>> {
        let now = self.now()?;
        let mut users = BTreeMap::new();
        for listed in self.blobs.list("leases", true)?.objects {
            let mut parts = listed.key.split('/').skip(1);
            let (Some(epoch), Some(_)) = (parts.next().and_then(number::<u64>), parts.next()) else {
                continue;
            };
            if now.saturating_sub(listed.modified) > YOUNG && !self.is_valid_at(&listed.key, now)? {
                self.end(&listed.key)?;
            } else {
                *users.entry(epoch).or_default() += 1;
            }
        }
        Ok(users)
    }

    /// Returns true if a lease exists and has not expired.
    fn is_valid(&self, key: &str) -> io::Result<bool> {
        match self.read(key)? {
            Some((note, _)) if !note.free => self.is_valid_at(key, self.now()?),
            _ => Ok(false),
        }
    }

    fn is_valid_at(&self, key: &str, now: u64) -> io::Result<bool> {
        // The time first: a renewal in between then makes the lease look older than it is, and `end` fails.
        let modified = match self.blobs.head(key) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            head => head?.modified,
        };
        let Some((note, _)) = self.read(key)? else { return Ok(false) };
        Ok(!note.free && !has_expired(&note, modified, now))
    }

    /// Returns true if the lease of an owner is still valid.
    pub(super) fn is_owned(&self, by: &Owner) -> io::Result<bool> {
        let same = self.read(&by.key)?.is_some_and(|(note, _)| !note.free && note.owner == by.owner);
        Ok(same && self.is_valid_at(&by.key, self.now()?)?)
    }

    fn read(&self, key: &str) -> io::Result<Option<(Note, Tag)>> {
        match self.blobs.get(key, None, MAX_LEN) {
            Ok(found) => Ok(Some((Note::decode(&found.bytes), found.tag))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Deletes an expired lease. Does nothing if its owner has just renewed it.
    fn end(&self, key: &str) -> io::Result<()> {
        let Some((note, tag)) = self.read(key)? else { return Ok(()) };
        // The version that was read may be a renewal.
        if !note.free && self.is_valid_at(key, self.now()?)? {
            return Ok(());
        }
        let ended = Note { free: true, turn: note.turn.wrapping_add(1), ..note };
        if put_unchanged(&*self.blobs, key, &ended.encode(), &tag)?.is_some() {
            self.blobs.delete(key)?;
        }
        Ok(())
    }

    /// Takes a lease if it is free or has expired.
    fn take(self: &Arc<Self>, key: &str, end: End) -> io::Result<Option<Guard>> {
        let owner = hex(&self.blobs.random()?);
        let note = Note { owner, turn: 0, seconds: SECONDS, free: false };
        let bytes = note.encode();
        let tag = match put_absent(&*self.blobs, key, &bytes)? {
            Some(tag) => tag,
            None => {
                let Some((old, tag)) = self.read(key)? else { return Ok(None) };
                if !old.free && self.is_valid_at(key, self.now()?)? {
                    return Ok(None);
                }
                match put_unchanged(&*self.blobs, key, &bytes, &tag)? {
                    Some(tag) => tag,
                    None => return Ok(None),
                }
            }
        };
        let held = Held { note, tag, renewed: Instant::now(), is_lost: false };
        let mut state = self.state();
        state.held.insert(key.to_owned(), held);
        if self.in_background && !std::mem::replace(&mut state.is_running, true) {
            let leases = self.clone();
            std::thread::spawn(move || leases.keep());
        }
        Ok(Some(Guard { leases: self.clone(), key: key.to_owned(), end }))
    }

    /// Renews leases until there are none.
    fn keep(&self) {
        let mut state = self.state();
        while !state.held.is_empty() {
            let half = Duration::from_secs(SECONDS / 2);
            let oldest = state.held.values().map(|held| held.renewed.elapsed()).max().unwrap_or_default();
            if oldest < half {
                let wait = (half - oldest).max(Duration::from_secs(1));
                state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            // If this fails, the object store may answer the next time.
            if self.renew_all(&mut state, half).is_err() {
                let wait = Duration::from_secs(SECONDS / 24);
                state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        state.is_running = false;
    }

    /// Renews all leases now.
    pub(super) fn renew(&self) -> io::Result<()> {
        self.renew_all(&mut self.state(), Duration::ZERO)
    }

    /// Renews the leases that were last renewed at least this long ago.
    fn renew_all(&self, state: &mut State, age: Duration) -> io::Result<()> {
        for (key, held) in &mut state.held {
            if held.is_lost || held.renewed.elapsed() < age {
                continue;
            }
            let began = Instant::now();
            let next = Note { turn: held.note.turn.wrapping_add(1), ..held.note.clone() };
            match put_unchanged(&*self.blobs, key, &next.encode(), &held.tag)? {
                Some(tag) => (held.note, held.tag, held.renewed) = (next, tag, began),
                None => held.is_lost = true,
            }
        }
        Ok(())
    }

    /// Fails if a lease was lost. Renews those that were not renewed lately or, if `now`, all of them, because only
    /// that shows that nobody took them.
    pub(super) fn check(&self, now: bool) -> io::Result<()> {
        let mut state = self.state();
        let age = if now { Duration::ZERO } else { Duration::from_secs(SECONDS / 8) };
        self.renew_all(&mut state, age)?;
        match state.held.iter().find(|(_, held)| held.is_lost) {
            Some((key, _)) => Err(lost(key)),
            None => Ok(()),
        }
    }

    /// Returns a lease that this process holds, if it holds one.
    pub(super) fn owner(&self) -> Option<Owner> {
        let state = self.state();
        let (key, held) = state.held.iter().next()?;
        Some(Owner { key: key.clone(), owner: held.note.owner.clone() })
    }

    fn give_up(&self, key: &str, end: End) {
        let held = self.state().held.remove(key);
        self.changed.notify_all();
        let Some(held) = held.filter(|held| !held.is_lost) else { return };
        // If this fails, the lease expires.
        let _ = match end {
            End::Deleted => self.blobs.delete(key),
            End::Freed => {
                let freed = Note { free: true, turn: held.note.turn.wrapping_add(1), ..held.note };
                self.blobs.put(key, &freed.encode(), Condition::Unchanged(&held.tag)).map(|_| ())
            }
        };
    }
}

fn has_expired(note: &Note, modified: u64, now: u64) -> bool {
    now.saturating_sub(modified) > note.seconds.clamp(1, SECONDS * 10).saturating_mul(1000)
}

/// Returns the error of a process that was taken for dead.
fn lost(key: &str) -> io::Error {
    io::Error::other(format!(
        "{key}: this command did not renew its lease in time, and another one has gone on without it; run it again"
    ))
}
