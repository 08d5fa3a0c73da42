//! Adding objects: what the store lacks is compressed and appended to a pack.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use mif_formats::mif::pack::{Chunk, Encoding, IndexEntry, PackWriter, encode_list};
use mif_formats::mif::{ObjectId, PackId};

use super::index::{Index, Location};
use super::pack_index::{index_key, pack_key};
use super::{Storage, Store, Upload, trash};
use crate::error::{Error, Result};

/// A pack is finished once it is this large, in bytes.
const MAX_PACK: u64 = 512 << 20;

/// zstd's level: on system images a few percent smaller than 1, and still faster than two cores can hash.
const LEVEL: i32 = 3;

/// Adds objects to a store, from several threads. Nothing is visible before [`finish`](Self::finish).
///
/// Several images that are imported side by side each have a writer, made `beside` the others: what one
/// of them stores the others need not store again.
pub struct ObjectWriter {
    shared: Arc<Shared>,
    /// Objects that somebody else was about to store when this writer met them.
    awaited: Mutex<HashSet<ObjectId>>,
    added: AtomicU64,
    added_bytes: AtomicU64,
    stored_bytes: AtomicU64,
}

/// What writers beside each other have in common.
struct Shared {
    storage: Arc<dyn Storage>,
    index: Arc<Index>,
    /// Nothing but these is stored, if there are any.
    only: Option<HashSet<ObjectId>>,
    /// How many packs are missing or cut short.
    broken: usize,
    /// Those, and packs in the trash: what only these have is stored again.
    absent: HashSet<PackId>,
    /// Objects of which every copy in the index is damaged: they are stored again.
    damaged: HashSet<ObjectId>,
    /// Objects stored since the index was read. A damaged object that is among them is whole again.
    stored: Mutex<HashSet<ObjectId>>,
    state: Mutex<State>,
    changed: Condvar,
    /// The pack that is being written.
    current: Mutex<Option<Pack>>,
}

type Pack = PackWriter<Box<dyn Upload>>;

#[derive(Default)]
struct State {
    /// Objects that are not in the index yet, and that somebody stores or has stored.
    claimed: HashSet<ObjectId>,
    /// Those of them that are in no pack yet.
    pending: HashSet<ObjectId>,
    /// Packs that are being made durable.
    finishing: usize,
    /// Why the store cannot be written to. What was claimed may then be nowhere, so nobody can rely on it.
    failed: Option<String>,
}

/// What an [`ObjectWriter`] has added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct WriterStats {
    /// Objects that the store lacked.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The bytes that they take in the store.
    pub stored_bytes: u64,
}

impl WriterStats {
    /// Both together.
    #[must_use]
    pub(crate) fn with(self, other: Self) -> Self {
        WriterStats {
            objects: self.objects + other.objects,
            bytes: self.bytes + other.bytes,
            stored_bytes: self.stored_bytes + other.stored_bytes,
        }
    }
}

impl ObjectWriter {
    /// Adds to `store`.
    pub fn new(store: &Store) -> Result<Self> {
        Self::replacing(store, HashSet::new())
    }

    /// Adds to `store`, and stores `damaged` objects again, although the index has them.
    pub(crate) fn replacing(store: &Store, damaged: HashSet<ObjectId>) -> Result<Self> {
        super::index_cache::refresh(&**store.storage())?;
        let (index, storage) = (store.index()?, &**store.storage());
        // Whatever goes into the trash from now on stays until this store is closed, and is needed then.
        let trashed = trash::packs(storage).map_err(|e| trash::failed(storage, &e))?;
        let mut absent = index.broken_packs(storage);
        let is_broken = |pack: &&PackId| !trashed.contains_key(pack) && storage.len(&index_key(pack)).is_ok();
        let broken = absent.iter().filter(is_broken).count();
        absent.extend(trashed.into_keys());
        Ok(Self::with(store, index, None, broken, absent, damaged))
    }

    /// Adds to `store` those of `objects` that it lacks now, and nothing else.
    pub(crate) fn only(store: &Store, objects: HashSet<ObjectId>) -> Result<Self> {
        let index = Arc::new(Index::load(&**store.storage())?);
        let damaged = objects.clone();
        Ok(Self::with(store, index, Some(objects), 0, HashSet::new(), damaged))
    }

    fn with(
        store: &Store,
        index: Arc<Index>,
        only: Option<HashSet<ObjectId>>,
        broken: usize,
        absent: HashSet<PackId>,
        damaged: HashSet<ObjectId>,
    ) -> Self {
        Self::of(Arc::new(Shared {
            storage: store.storage().clone(),
            index,
            only,
            broken,
            absent,
            damaged,
            stored: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            current: Mutex::default(),
        }))
    }

    fn of(shared: Arc<Shared>) -> Self {
        ObjectWriter {
            shared,
            awaited: Mutex::default(),
            added: AtomicU64::new(0),
            added_bytes: AtomicU64::new(0),
            stored_bytes: AtomicU64::new(0),
        }
    }

    /// A writer for another image, beside this one: each object is stored by one of them. Each is finished by itself.
    #[must_use]
    pub(crate) fn beside(&self) -> Self {
        Self::of(self.shared.clone())
    }

    /// Whether the caller has to store the object, at once and whatever else fails: it is neither in the store nor
    /// claimed by anybody before (and wanted, for a writer of `only` some).
    #[must_use]
    pub fn claim(&self, id: ObjectId) -> bool {
        let shared = &*self.shared;
        if shared.has(&id) || shared.only.as_ref().is_some_and(|only| !only.contains(&id)) {
            return false;
        }
        let mut state = shared.state();
        // Once more, under the lock: what is finished goes into the index first and then out of the claims.
        if shared.has(&id) {
            return false;
        }
        if state.claimed.insert(id) {
            return state.pending.insert(id);
        }
        if state.pending.contains(&id) {
            self.awaited.lock().expect("not poisoned").insert(id);
        }
        false
    }

    /// How many packs are missing or cut short: what only they have, and an image needs, is stored again.
    pub(crate) fn broken_packs(&self) -> usize {
        self.shared.broken
    }

    /// Whether all that was claimed was stored. If not, who claimed it failed, and who relied on that has nothing.
    pub(crate) fn is_whole(&self) -> bool {
        self.shared.state().pending.is_empty()
    }

    /// Adds an object with these bytes, unless it is there; gives its id.
    pub fn put(&self, bytes: &[u8]) -> Result<ObjectId> {
        let id = ObjectId::of(bytes);
        if self.claim(id) {
            self.store_claimed(id, bytes)?;
        }
        Ok(id)
    }

    /// Stores the bytes of an object that the caller has claimed.
    pub fn store_claimed(&self, id: ObjectId, bytes: &[u8]) -> Result<()> {
        match compress(bytes) {
            Some(packed) => self.append(id, Encoding::Zstd, &packed, bytes.len() as u64),
            None => self.append(id, Encoding::Raw, bytes, bytes.len() as u64),
        }
    }

    /// Adds a large object as a list of chunks, unless it is there. `id` is the BLAKE3 of the whole; `None`
    /// if that was not computed: the list is then an object of its own kind.
    pub fn put_list(&self, id: Option<ObjectId>, chunks: &[Chunk]) -> Result<ObjectId> {
        let list = encode_list(chunks);
        let id = id.unwrap_or_else(|| ObjectId::of_list(&list));
        if self.claim(id) {
            self.append(id, Encoding::List, &list, chunks.iter().map(|c| c.len).sum())?;
        }
        Ok(id)
    }

    fn append(&self, id: ObjectId, encoding: Encoding, stored: &[u8], len: u64) -> Result<()> {
        self.shared.append(id, encoding, stored, len)?;
        self.added.fetch_add(1, Ordering::Relaxed);
        self.added_bytes.fetch_add(if encoding == Encoding::List { 0 } else { len }, Ordering::Relaxed);
        self.stored_bytes.fetch_add(stored.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Makes all that was added durable and visible, and all that writers beside this one have added so far.
    pub fn finish(self) -> Result<WriterStats> {
        let awaited = std::mem::take(&mut *self.awaited.lock().expect("not poisoned"));
        self.shared.wait(|state| state.failed.is_some() || awaited.is_disjoint(&state.pending));
        let pack = self.shared.take(&mut self.shared.current());
        pack.map_or(Ok(()), |pack| self.shared.finish(pack))?;
        // A pack that another one is just finishing may hold what this one relies on.
        self.shared.wait(|state| state.failed.is_some() || state.finishing == 0);
        self.shared.check()?;
        Ok(WriterStats {
            objects: self.added.load(Ordering::Relaxed),
            bytes: self.added_bytes.load(Ordering::Relaxed),
            stored_bytes: self.stored_bytes.load(Ordering::Relaxed),
        })
    }

    /// Notes that the store cannot be written to, for another reason than that adding objects failed.
    pub(crate) fn give_up(&self, why: &Error) {
        self.shared.state().failed.get_or_insert_with(|| why.message().to_owned());
        self.shared.changed.notify_all();
    }

    /// Whether the store could not be written to. Nothing more can be added beside this writer.
    #[must_use]
    pub(crate) fn has_failed(&self) -> bool {
        self.shared.state().failed.is_some()
    }
}

impl Drop for ObjectWriter {
    /// By a panic, what was claimed may never be stored: nobody must wait for it.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.give_up(&Error::store("the import of another image ended by a defect of this program"));
        }
    }
}

impl Shared {
    /// Whether the store has a copy of the object that can be relied on.
    fn has(&self, id: &ObjectId) -> bool {
        let Some(first) = self.index.get(id) else { return false };
        // Hardly ever is anything known to be damaged: then one look at the index is enough.
        if self.absent.is_empty() && self.damaged.is_empty()
            || self.stored.lock().expect("not poisoned").contains(id)
        {
            return true;
        }
        let in_whole_pack = |location: &Location| !self.absent.contains(&self.index.pack(location));
        !self.damaged.contains(id)
            && (in_whole_pack(&first) || self.index.copies(id).iter().any(in_whole_pack))
    }

    fn append(&self, id: ObjectId, encoding: Encoding, stored: &[u8], len: u64) -> Result<()> {
        self.check()?;
        let full = self.append_to_pack(id, encoding, stored, len).map_err(|e| self.fail(&e))?;
        self.state().pending.remove(&id);
        self.changed.notify_all();
        full.map_or(Ok(()), |pack| self.finish(pack))
    }

    /// Appends to the pack that is being written; gives it if it is full.
    fn append_to_pack(
        &self,
        id: ObjectId,
        encoding: Encoding,
        stored: &[u8],
        len: u64,
    ) -> io::Result<Option<Pack>> {
        let mut current = self.current();
        let pack = match &mut *current {
            Some(pack) => pack,
            empty => empty.insert(new_pack(&*self.storage)?),
        };
        pack.add(id, encoding, stored, len)?;
        Ok(if pack.len() >= MAX_PACK { self.take(&mut current) } else { None })
    }

    /// Takes the pack that is being written, for the caller to finish.
    fn take(&self, current: &mut Option<Pack>) -> Option<Pack> {
        let pack = current.take()?;
        // While `current` is locked: whoever finishes meanwhile must see that there is a pack to wait for.
        self.state().finishing += 1;
        Some(pack)
    }

    /// Makes a pack durable and visible. Others go on writing the next one meanwhile.
    fn finish(&self, pack: Pack) -> Result<()> {
        let finished = self.finish_pack(pack).map_err(|e| self.fail(&e));
        let mut state = self.state();
        state.finishing -= 1;
        self.changed.notify_all();
        for entry in finished? {
            state.claimed.remove(&entry.id);
        }
        state.claimed.shrink_to_fit();
        Ok(())
    }

    fn finish_pack(&self, pack: Pack) -> io::Result<Vec<IndexEntry>> {
        let (id, entries) = put_pack(&*self.storage, pack)?;
        self.index.add(id, &entries);
        if !self.absent.is_empty() || !self.damaged.is_empty() {
            self.stored.lock().expect("not poisoned").extend(entries.iter().map(|entry| entry.id));
        }
        Ok(entries)
    }

    fn current(&self) -> MutexGuard<'_, Option<Pack>> {
        self.current.lock().expect("no thread panics while it holds this")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds this")
    }

    fn wait(&self, until: impl Fn(&State) -> bool) {
        let state = self.state();
        drop(self.changed.wait_while(state, |state| !until(state)).expect("not poisoned"));
    }

    fn check(&self) -> Result<()> {
        self.state().failed.as_ref().map_or(Ok(()), |why| Err(cannot_write(why)))
    }

    /// Notes that the store cannot be written to.
    fn fail(&self, error: &io::Error) -> Error {
        let why = format!("{}: cannot write to the store: {error}", self.storage.place());
        self.state().failed.get_or_insert_with(|| why.clone());
        self.changed.notify_all();
        cannot_write(&why)
    }
}

/// Begins a pack.
pub(crate) fn new_pack(storage: &dyn Storage) -> io::Result<PackWriter<Box<dyn Upload>>> {
    let id = PackId(storage.random()?);
    PackWriter::new(storage.upload()?, id)
}

/// Makes a pack durable and visible, and its index after it; gives its id and what is in it.
pub(crate) fn put_pack(
    storage: &dyn Storage,
    pack: PackWriter<Box<dyn Upload>>,
) -> io::Result<(PackId, Vec<IndexEntry>)> {
    let (upload, id, index, entries) = pack.finish()?;
    // The pack first: an index must never name a pack that is not there.
    let is_new = upload.finish(&pack_key(&id))? && storage.put_if_absent(&index_key(&id), &index)?;
    match is_new {
        true => Ok((id, entries)),
        false => Err(io::Error::other(format!("the store has a pack {id} already"))),
    }
}

fn cannot_write(why: &str) -> Error {
    Error::store(why).advise("The store is unharmed: fix this, and run the command again")
}

/// The bytes as a zstd frame, if that is worth it.
fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    thread_local! {
        static COMPRESSOR: RefCell<zstd::bulk::Compressor<'static>> =
            RefCell::new(zstd::bulk::Compressor::new(LEVEL).expect("the level is one of zstd's"));
    }
    let packed = COMPRESSOR.with_borrow_mut(|compressor| compressor.compress(bytes)).ok()?;
    (packed.len() < bytes.len() - bytes.len() / 32).then_some(packed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::progress::Silent;

    #[test]
    fn writers_beside_each_other_store_an_object_once_and_each_can_be_relied_on_when_it_has_finished() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(folder.path(), &Silent).unwrap();
        let first = ObjectWriter::new(&store).unwrap();
        let second = first.beside();
        let (shared, own) = (b"of both".as_slice(), b"of the second".as_slice());
        first.put(shared).unwrap();
        let ids = [second.put(shared).unwrap(), second.put(own).unwrap()];
        assert_eq!(second.finish().unwrap().objects, 1);
        // The first is not finished, and never will be: what the second needs is there all the same.
        drop(first);
        let objects = Store::open(folder.path(), &Silent).unwrap().objects().unwrap();
        for (id, bytes) in ids.iter().zip([shared, own]) {
            let mut read = vec![0; bytes.len()];
            objects.read_at(id, 0, &mut read).unwrap();
            assert_eq!(read, bytes);
        }
        // The store's own index knows them too, so they are not claimed again.
        let third = ObjectWriter::new(&store).unwrap();
        assert!(!third.claim(ids[0]) && third.claim(ObjectId::of(b"new")));
    }

    #[test]
    fn a_writer_waits_for_what_another_is_about_to_store() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(folder.path(), &Silent).unwrap();
        let first = ObjectWriter::new(&store).unwrap();
        let second = first.beside();
        let id = ObjectId::of(b"slow");
        assert!(first.claim(id) && !second.claim(id));
        std::thread::scope(|scope| {
            let finished = scope.spawn(|| second.finish().unwrap());
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(!finished.is_finished(), "it did not wait");
            first.store_claimed(id, b"slow").unwrap();
            finished.join().unwrap();
        });
        assert!(Index::load(&**store.storage()).unwrap().get(&id).is_some());
    }

    #[test]
    fn what_is_claimed_and_not_stored_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let writer = ObjectWriter::new(&Store::open_or_create(folder.path(), &Silent).unwrap()).unwrap();
        let id = ObjectId::of(b"claimed");
        assert!(writer.is_whole() && writer.claim(id) && !writer.claim(id));
        assert!(!writer.is_whole());
        writer.store_claimed(id, b"claimed").unwrap();
        writer.put(b"another").unwrap();
        assert!(writer.is_whole());
    }
}
