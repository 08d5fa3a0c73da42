//! The index: where each object lies. Read from the store's index files into memory.

use std::hash::{BuildHasher, RandomState};
use std::sync::{RwLock, RwLockReadGuard};

use hashbrown::HashTable;
use mif_formats::mif::ObjectId;
use mif_formats::mif::pack::{Encoding, IndexEntry, decode_index};

use super::Storage;
use crate::error::damaged;
use crate::{Error, Result};

/// Where an object's stored bytes are.
#[derive(Debug, Clone, Copy)]
pub struct Location {
    /// Number of the pack in the index.
    pack: u32,
    /// How it is stored.
    pub encoding: Encoding,
    /// Where in the pack, in bytes.
    pub offset: u64,
    /// Stored length in bytes.
    pub stored_len: u64,
    /// Length of the object in bytes.
    pub len: u64,
}

/// The index of one pack.
pub struct PackIndex {
    /// The pack.
    pub pack: ObjectId,
    /// Its objects, ascending.
    pub entries: Vec<IndexEntry>,
}

impl PackIndex {
    /// The packs that have an index file.
    pub fn ids(storage: &dyn Storage) -> Result<Vec<ObjectId>> {
        let names =
            storage.list("index").map_err(|e| Error::store(format!("{}/index: {e}", storage.place())))?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(".idx").and_then(ObjectId::from_hex)).collect())
    }

    /// Reads the index file of a pack.
    pub fn load(storage: &dyn Storage, pack: ObjectId) -> Result<Self> {
        let key = index_key(&pack);
        let bytes =
            storage.read_all(&key).map_err(|e| Error::store(format!("{}/{key}: {e}", storage.place())))?;
        let entries = decode_index(&bytes).map_err(|e| {
            damaged(&key, &e).advise("`mif fsck --repair` makes indexes again from the packs")
        })?;
        Ok(PackIndex { pack, entries })
    }

    /// Bytes that its objects take in the pack.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.stored_len).sum()
    }
}

/// Where every object of a store lies. Whoever shares it sees at once what is added.
#[derive(Default)]
pub struct Index {
    entries: RwLock<Entries>,
}

#[derive(Default)]
struct Entries {
    packs: Vec<ObjectId>,
    objects: Vec<(ObjectId, Location)>,
    /// The numbers of objects by their ids. A map of the objects themselves would be up to twice as large.
    by_id: HashTable<u32>,
    hasher: RandomState,
}

impl Entries {
    fn get(&self, id: &ObjectId) -> Option<u32> {
        self.by_id.find(self.hasher.hash_one(id), |n| self.objects[*n as usize].0 == *id).copied()
    }

    fn insert(&mut self, id: ObjectId, location: Location) {
        if let Some(number) = self.get(&id) {
            self.objects[number as usize].1 = location;
            return;
        }
        let number = u32::try_from(self.objects.len()).expect("fewer objects than 2³²");
        self.objects.push((id, location));
        let Entries { objects, by_id, hasher, .. } = self;
        by_id.insert_unique(hasher.hash_one(id), number, |n| hasher.hash_one(objects[*n as usize].0));
    }
}

impl Index {
    /// Reads all index files.
    pub fn load(storage: &dyn Storage) -> Result<Self> {
        let index = Index::default();
        for pack in PackIndex::ids(storage)? {
            index.add(pack, &PackIndex::load(storage, pack)?.entries);
        }
        Ok(index)
    }

    /// Adds the objects of a pack.
    pub fn add(&self, pack: ObjectId, added: &[IndexEntry]) {
        let entries = &mut *self.entries.write().expect("no thread panics while it holds this");
        let number = u32::try_from(entries.packs.len()).expect("fewer packs than 2³²");
        entries.packs.push(pack);
        entries.objects.reserve(added.len());
        let Entries { objects, by_id, hasher, .. } = entries;
        by_id.reserve(added.len(), |n| hasher.hash_one(objects[*n as usize].0));
        for entry in added {
            let IndexEntry { encoding, offset, stored_len, len, .. } = *entry;
            entries.insert(entry.id, Location { pack: number, encoding, offset, stored_len, len });
        }
    }

    /// Where an object lies.
    #[must_use]
    pub fn get(&self, id: &ObjectId) -> Option<Location> {
        let entries = self.entries();
        entries.get(id).map(|number| entries.objects[number as usize].1)
    }

    /// The pack of a location.
    #[must_use]
    pub fn pack(&self, location: &Location) -> ObjectId {
        self.entries().packs[location.pack as usize]
    }

    fn entries(&self) -> RwLockReadGuard<'_, Entries> {
        self.entries.read().expect("no thread panics while it holds this")
    }
}

/// The key of a pack.
#[must_use]
pub(crate) fn pack_key(pack: &ObjectId) -> String {
    let hex = pack.to_string();
    format!("packs/{}/{hex}.pack", &hex[..2])
}

/// The key of a pack's index.
#[must_use]
pub(crate) fn index_key(pack: &ObjectId) -> String {
    format!("index/{pack}.idx")
}
