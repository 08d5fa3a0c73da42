//! Adds objects: those that the store lacks are compressed and appended to a pack.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use mif_formats::mif::chunks::{Chunk, encode_decoding_list, encode_list};
use mif_formats::mif::pack::{Encoding, IndexEntry, PackWriter};
use mif_formats::mif::{ObjectId, ObjectKind, PackId};

use super::index::{Index, Location};
use super::pack_index::{index_key, pack_key};
use super::{Storage, Store, Upload, header, trash};
use crate::error::{Error, Result};

/// The zstd level: a few percent smaller than level 1 on system images, and still faster than two cores can hash.
const LEVEL: i32 = 3;

/// Adds objects to a store from several threads. Nothing is visible before [`finish`](Self::finish).
///
/// Several images that are imported in parallel each have a writer, made `beside` the others: an object that one of
/// them stores is not stored by the others.
pub struct ObjectWriter {
    shared: Arc<Shared>,
    /// Objects that another writer had claimed but not yet stored when this writer met them.
    awaited: Mutex<HashSet<ObjectId>>,
    added: AtomicU64,
    added_bytes: AtomicU64,
    stored_bytes: AtomicU64,
}

/// The state that writers beside each other share.
struct Shared {
    storage: Arc<dyn Storage>,
    index: Arc<Index>,
    /// If set, only these objects are stored.
    only: Option<HashSet<ObjectId>>,
    /// The number of packs that are missing or truncated.
    broken: usize,
    /// Those packs and the packs in the trash: objects that only these contain are stored again.
    absent: HashSet<PackId>,
    /// Objects of which every indexed copy is damaged: they are stored again.
    damaged: HashSet<ObjectId>,
    /// Objects stored since the index was read. If a damaged object is among them, it is intact again.
    stored: Mutex<HashSet<ObjectId>>,
    state: Mutex<State>,
    changed: Condvar,
    /// The pack that is being written.
    current: Mutex<Option<Pack>>,
}

type Pack = PackWriter<Box<dyn Upload>>;

#[derive(Default)]
struct State {
    /// Objects that are not in the index yet, but that a writer is storing or has stored.
    claimed: HashSet<ObjectId>,
    /// Those of them that are not in a pack yet.
    pending: HashSet<ObjectId>,
    /// The number of packs that are being made durable.
    finishing: usize,
    /// Why the store cannot be written to. Claimed objects may then not be stored, so nobody can rely on them.
    failed: Option<String>,
}

/// What an [`ObjectWriter`] has added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct WriterStats {
    /// The number of objects that the store lacked.
    pub objects: u64,
    /// The number of their bytes.
    pub bytes: u64,
    /// The number of bytes that they take in the store.
    pub stored_bytes: u64,
}

impl WriterStats {
    /// Returns the sum of both.
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
    /// Returns a writer that adds to `store`.
    pub fn new(store: &Store) -> Result<Self> {
        Self::replacing(store, HashSet::new())
    }

    /// Returns a writer that adds to `store`, and stores `damaged` objects again although they are in the index.
    pub(crate) fn replacing(store: &Store, damaged: HashSet<ObjectId>) -> Result<Self> {
        super::index_cache::refresh(&**store.storage())?;
        let (index, storage) = (store.index()?, &**store.storage());
        // Files put into the trash from now on stay until this store is closed, and gc will then find them needed.
        let trashed = trash::packs(storage).map_err(|e| trash::failed(storage, &e))?;
        let mut absent = index.broken_packs(storage);
        let is_broken = |pack: &&PackId| !trashed.contains_key(pack) && storage.len(&index_key(pack)).is_ok();
        let broken = absent.iter().filter(is_broken).count();
        absent.extend(trashed.into_keys());
        Ok(Self::with(store, index, None, broken, absent, damaged))
    }

    /// Returns a writer that adds those of `objects` that `store` lacks now, and nothing else.
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

    /// Returns a writer for another image, beside this one: each object is stored by one of them. Each is finished on
    /// its own.
    #[must_use]
    pub(crate) fn beside(&self) -> Self {
        Self::of(self.shared.clone())
    }

    /// Tells the store's place what will be written: see [`Storage::expect`].
    pub(crate) fn expect(&self, content: [u8; 32]) {
        self.shared.storage.expect(content);
    }

    /// Returns true if the caller must store the object, at once and whatever else fails: it is neither in the store
    /// nor claimed before. A writer made by `only` accepts only its own objects.
    #[must_use]
    pub fn claim(&self, id: ObjectId) -> bool {
        let shared = &*self.shared;
        if shared.has(&id) || !shared.accepts(&id) {
            return false;
        }
        let mut state = shared.state();
        // Checked again under the lock: finished objects are added to the index before their claims are dropped.
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

    /// Returns how many packs are missing or truncated. Objects that only they contain are stored again if an image
    /// needs them.
    pub(crate) fn broken_packs(&self) -> usize {
        self.shared.broken
    }

    /// Returns true if all claimed objects were stored. If not, the claimer failed, and writers that relied on it lack
    /// objects.
    pub(crate) fn is_whole(&self) -> bool {
        self.shared.state().pending.is_empty()
    }

    /// Adds an object with these bytes unless it already exists, and returns its id.
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

    /// Adds a large object as a list of chunks unless it already exists. `id` is the BLAKE3 of the whole, or `None` if
    /// that was not computed: then the list is an object of its own kind.
    pub fn put_list(&self, id: Option<ObjectId>, chunks: &[Chunk]) -> Result<ObjectId> {
        let list = encode_list(chunks);
        let id = id.unwrap_or_else(|| ObjectId::of_list(&list));
        if self.claim(id) {
            self.append(id, Encoding::List, &list, chunks.iter().map(|c| c.len).sum())?;
        }
        Ok(id)
    }

    /// Returns true if the store has content with this digest as such, not only as decoded content, or a writer is
    /// storing it.
    pub(crate) fn has_content(&self, digest: [u8; 32]) -> bool {
        let id = ObjectId::content(digest);
        let state = self.shared.state();
        if state.pending.contains(&id) {
            self.awaited.lock().expect("not poisoned").insert(id);
        }
        state.claimed.contains(&id) || self.shared.has(&id)
    }

    /// Adds content with this BLAKE3 as a decoding list unless it already exists. Marks the store as one that older
    /// versions cannot read.
    pub(crate) fn put_decoded(&self, digest: [u8; 32], chunks: &[Chunk]) -> Result<ObjectId> {
        let id = ObjectId::decoded(digest);
        if self.claim(id) {
            let required = header::require(&*self.shared.storage, header::DECODED);
            required.inspect_err(|e| self.give_up(e))?;
            let list = encode_decoding_list(chunks);
            self.append(id, Encoding::DecodingList, &list, chunks.iter().map(|c| c.len).sum())?;
        }
        Ok(id)
    }

    /// Returns true if the store has a reliable copy of an object under this very id.
    pub(crate) fn has(&self, id: &ObjectId) -> bool {
        self.shared.has(id)
    }

    /// Stores an object that the caller has claimed and checked, as another store has it.
    pub(crate) fn store_encoded(&self, entry: &IndexEntry, stored: &[u8]) -> Result<()> {
        if entry.encoding == Encoding::DecodingList {
            let required = header::require(&*self.shared.storage, header::DECODED);
            required.inspect_err(|e| self.give_up(e))?;
        }
        self.append(entry.id, entry.encoding, stored, entry.len)
    }

    fn append(&self, id: ObjectId, encoding: Encoding, stored: &[u8], len: u64) -> Result<()> {
        self.shared.append(id, encoding, stored, len)?;
        self.added.fetch_add(1, Ordering::Relaxed);
        self.added_bytes.fetch_add(if encoding.is_list() { 0 } else { len }, Ordering::Relaxed);
        self.stored_bytes.fetch_add(stored.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Makes everything durable and visible that this writer and the writers beside it have added so far.
    pub fn finish(self) -> Result<WriterStats> {
        let awaited = std::mem::take(&mut *self.awaited.lock().expect("not poisoned"));
        self.shared.wait(|state| state.failed.is_some() || awaited.is_disjoint(&state.pending));
        let pack = self.shared.take(&mut self.shared.current());
        pack.map_or(Ok(()), |pack| self.shared.finish(pack))?;
        // Another writer may be finishing a pack that contains objects this one relies on.
        self.shared.wait(|state| state.failed.is_some() || state.finishing == 0);
        self.shared.check()?;
        Ok(WriterStats {
            objects: self.added.load(Ordering::Relaxed),
            bytes: self.added_bytes.load(Ordering::Relaxed),
            stored_bytes: self.stored_bytes.load(Ordering::Relaxed),
        })
    }

    /// Records that the store cannot be written to, for a reason other than a failure to add objects.
    pub(crate) fn give_up(&self, why: &Error) {
        self.shared.state().failed.get_or_insert_with(|| why.message().to_owned());
        self.shared.changed.notify_all();
    }

    /// Returns true if the store could not be written to. Then no writer beside this one can add anything.
    #[must_use]
    pub(crate) fn has_failed(&self) -> bool {
        self.shared.state().failed.is_some()
    }
}

impl Drop for ObjectWriter {
    /// After a panic, claimed objects may never be stored: nobody may wait for them.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.give_up(&Error::store("the import of another image crashed; please report this as a bug"));
        }
    }
}

impl Shared {
    /// Returns true if the object may be stored. Content that is wanted may be stored as decoded content.
    fn accepts(&self, id: &ObjectId) -> bool {
        let Some(only) = &self.only else { return true };
        only.contains(id) || id.kind == ObjectKind::Decoded && only.contains(&ObjectId::content(id.digest))
    }

    /// Returns true if the store has a reliable copy of the object.
    fn has(&self, id: &ObjectId) -> bool {
        let Some(first) = self.index.get_exact(id) else { return false };
        // Usually nothing is known to be damaged: then one lookup is enough.
        if self.absent.is_empty() && self.damaged.is_empty()
            || self.stored.lock().expect("not poisoned").contains(id)
        {
            return true;
        }
        let in_whole_pack = |location: &Location| !self.absent.contains(&self.index.pack(location));
        !self.damaged.contains(id)
            && (in_whole_pack(&first) || self.index.copies_exact(id).iter().any(in_whole_pack))
    }

    fn append(&self, id: ObjectId, encoding: Encoding, stored: &[u8], len: u64) -> Result<()> {
        self.check()?;
        let full = self.append_to_pack(id, encoding, stored, len).map_err(|e| self.fail(&e))?;
        self.state().pending.remove(&id);
        self.changed.notify_all();
        full.map_or(Ok(()), |pack| self.finish(pack))
    }

    /// Appends to the current pack, and returns the pack if it is full.
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
        Ok(if pack.len() >= self.storage.pack_size() { self.take(&mut current) } else { None })
    }

    /// Takes the current pack, for the caller to finish.
    fn take(&self, current: &mut Option<Pack>) -> Option<Pack> {
        let pack = current.take()?;
        // Done while `current` is locked: a concurrent `finish` must see that there is a pack to wait for.
        self.state().finishing += 1;
        Some(pack)
    }

    /// Makes a pack durable and visible. Meanwhile others can write the next one.
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

    /// Records that the store cannot be written to.
    fn fail(&self, error: &io::Error) -> Error {
        let why = format!("{}: cannot write to the store: {error}", self.storage.place());
        self.state().failed.get_or_insert_with(|| why.clone());
        self.changed.notify_all();
        cannot_write(&why)
    }
}

/// Starts a pack.
pub(crate) fn new_pack(storage: &dyn Storage) -> io::Result<PackWriter<Box<dyn Upload>>> {
    let id = PackId(storage.random()?);
    PackWriter::new(storage.upload(&pack_key(&id))?, id)
}

/// Makes a pack durable and visible, followed by its index. Returns its id and its entries.
pub(crate) fn put_pack(
    storage: &dyn Storage,
    pack: PackWriter<Box<dyn Upload>>,
) -> io::Result<(PackId, Vec<IndexEntry>)> {
    let (upload, id, index, entries) = pack.finish()?;
    // The pack comes first: an index must never name a pack that does not exist.
    let is_new = upload.finish()? && storage.put_if_absent(&index_key(&id), &index)?;
    match is_new {
        true => Ok((id, entries)),
        false => Err(io::Error::other(format!("the store already has a pack {id}"))),
    }
}

fn cannot_write(why: &str) -> Error {
    Error::store(why).advise("The store is unharmed: fix this, and run the command again")
}

/// Compresses bytes into a zstd frame, or returns `None` if that saves too little.
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
        // The first is never finished. The objects that the second needs exist nevertheless.
        drop(first);
        let objects = Store::open(folder.path(), &Silent).unwrap().objects().unwrap();
        for (id, bytes) in ids.iter().zip([shared, own]) {
            let mut read = vec![0; bytes.len()];
            objects.read_at(id, 0, &mut read).unwrap();
            assert_eq!(read, bytes);
        }
        // The store's own index contains them too, so they are not claimed again.
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
