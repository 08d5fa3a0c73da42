//! Adding objects: what the store lacks is compressed and appended to a pack.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use mif_formats::mif::ObjectId;
use mif_formats::mif::pack::{Chunk, Encoding, PackWriter, encode_list};

use super::index::{Index, index_key, pack_key};
use super::{Storage, Store, Upload};
use crate::{Error, Result};

/// A pack is finished once it is this large, in bytes.
const MAX_PACK: u64 = 512 << 20;

/// zstd's level: on system images a few percent smaller than 1, and still faster than two cores can hash.
const LEVEL: i32 = 3;

/// Adds objects to a store, from several threads. Nothing is visible before [`finish`](Self::finish).
pub struct ObjectWriter {
    storage: Arc<dyn Storage>,
    index: Arc<Index>,
    claimed: Mutex<HashSet<ObjectId>>,
    /// Nothing but these is stored, if there are any.
    only: Option<HashSet<ObjectId>>,
    packs: Mutex<Packs>,
    added: AtomicU64,
    added_bytes: AtomicU64,
    stored_bytes: AtomicU64,
}

/// The pack that is being written.
#[derive(Default)]
struct Packs {
    current: Option<PackWriter<Box<dyn Upload>>>,
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
        Ok(Self::knowing(store, store.index()?))
    }

    /// Adds to `store` what `index` does not know.
    pub(crate) fn knowing(store: &Store, index: Arc<Index>) -> Self {
        ObjectWriter {
            storage: store.storage().clone(),
            index,
            claimed: Mutex::default(),
            only: None,
            packs: Mutex::default(),
            added: AtomicU64::new(0),
            added_bytes: AtomicU64::new(0),
            stored_bytes: AtomicU64::new(0),
        }
    }

    /// Adds to `store` those of `objects` that it lacks now, and nothing else.
    pub(crate) fn only(store: &Store, objects: HashSet<ObjectId>) -> Result<Self> {
        let index = Arc::new(Index::load(&**store.storage())?);
        Ok(ObjectWriter { only: Some(objects), ..Self::knowing(store, index) })
    }

    /// Whether the caller has to store the object: it is neither in the store nor claimed by anybody before
    /// (and wanted, for a writer of `only` some).
    #[must_use]
    pub fn claim(&self, id: ObjectId) -> bool {
        self.index.get(&id).is_none()
            && self.only.as_ref().is_none_or(|only| only.contains(&id))
            && self.claimed.lock().expect("not poisoned").insert(id)
    }

    /// Whether all that was claimed was stored. If not, who claimed it failed, and who relied on that has nothing.
    pub(crate) fn is_whole(&self) -> bool {
        self.claimed.lock().expect("not poisoned").len() as u64 == self.added.load(Ordering::Relaxed)
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
    /// if that was not computed: the list is then stored under its own.
    pub fn put_list(&self, id: Option<ObjectId>, chunks: &[Chunk]) -> Result<ObjectId> {
        let list = encode_list(chunks);
        let id = id.unwrap_or_else(|| ObjectId::of(&list));
        if self.claim(id) {
            self.append(id, Encoding::List, &list, chunks.iter().map(|c| c.len).sum())?;
        }
        Ok(id)
    }

    fn append(&self, id: ObjectId, encoding: Encoding, stored: &[u8], len: u64) -> Result<()> {
        let mut packs = self.packs.lock().expect("not poisoned");
        self.append_locked(&mut packs, id, encoding, stored, len).map_err(|e| self.failed(&e))?;
        drop(packs);
        self.added.fetch_add(1, Ordering::Relaxed);
        self.added_bytes.fetch_add(if encoding == Encoding::List { 0 } else { len }, Ordering::Relaxed);
        self.stored_bytes.fetch_add(stored.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn append_locked(
        &self,
        packs: &mut Packs,
        id: ObjectId,
        encoding: Encoding,
        stored: &[u8],
        len: u64,
    ) -> io::Result<()> {
        let pack = match &mut packs.current {
            Some(pack) => pack,
            empty => empty.insert(PackWriter::new(self.storage.upload()?)?),
        };
        pack.add(id, encoding, stored, len)?;
        if pack.len() >= MAX_PACK {
            self.finish_pack(packs)?;
        }
        Ok(())
    }

    fn finish_pack(&self, packs: &mut Packs) -> io::Result<()> {
        let Some(pack) = packs.current.take() else { return Ok(()) };
        let (upload, id, index, _) = pack.finish()?;
        // The pack first: an index must never name a pack that is not there.
        upload.finish(&pack_key(&id))?;
        self.storage.put_if_absent(&index_key(&id), &index)?;
        Ok(())
    }

    /// Makes all that was added durable and visible.
    pub fn finish(self) -> Result<WriterStats> {
        let mut packs = self.packs.lock().expect("not poisoned");
        self.finish_pack(&mut packs).map_err(|e| self.failed(&e))?;
        Ok(WriterStats {
            objects: self.added.load(Ordering::Relaxed),
            bytes: self.added_bytes.load(Ordering::Relaxed),
            stored_bytes: self.stored_bytes.load(Ordering::Relaxed),
        })
    }

    fn failed(&self, error: &io::Error) -> Error {
        Error::store(format!("{}: cannot write to the store: {error}", self.storage.place()))
    }
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

    #[test]
    fn what_is_claimed_and_not_stored_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let writer = ObjectWriter::new(&Store::open_or_create(folder.path()).unwrap()).unwrap();
        let id = ObjectId::of(b"claimed");
        assert!(writer.is_whole() && writer.claim(id) && !writer.claim(id));
        assert!(!writer.is_whole());
        writer.store_claimed(id, b"claimed").unwrap();
        writer.put(b"another").unwrap();
        assert!(writer.is_whole());
    }
}
