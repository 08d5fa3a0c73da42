//! The index: where each object lies. Read from the store's index files into memory.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{RwLock, RwLockReadGuard};

use hashbrown::HashTable;
use mif_formats::mif::pack::{Encoding, IndexEntry, TRAILER, decode_index, index_len};
use mif_formats::mif::{ObjectId, PackId};

use super::{Storage, index_cache};
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
    pub pack: PackId,
    /// Its objects, ascending.
    pub entries: Vec<IndexEntry>,
}

impl PackIndex {
    /// The packs that have an index file.
    pub fn ids(storage: &dyn Storage) -> Result<Vec<PackId>> {
        Ok(Self::of_names(&names(storage)?).collect())
    }

    /// The packs whose index files are among `names`.
    pub(super) fn of_names(names: &[String]) -> impl Iterator<Item = PackId> + '_ {
        names.iter().filter_map(|name| name.strip_suffix(".idx").and_then(PackId::from_hex))
    }

    /// Reads the index of a pack: its index file, or where that is damaged, the same at the end of the pack.
    pub fn load(storage: &dyn Storage, pack: PackId) -> Result<Self> {
        Self::from_file(storage, pack).or_else(|error| match Self::from_pack(storage, pack) {
            Ok((index, _)) => Ok(index),
            Err(_) => Err(error.advise("`mif fsck --repair` makes indexes again from the packs")),
        })
    }

    /// Reads the index file of a pack.
    pub(crate) fn from_file(storage: &dyn Storage, pack: PackId) -> Result<Self> {
        let key = index_key(&pack);
        let bytes = storage.read_all(&key).map_err(|e| storage.error(&key, &e))?;
        let entries = decode_index(&bytes).map_err(|e| damaged(&key, &e))?;
        Ok(PackIndex { pack, entries })
    }

    /// Reads the index at the end of a pack; gives its bytes too, which are those of an index file.
    pub(crate) fn from_pack(storage: &dyn Storage, pack: PackId) -> Result<(Self, Vec<u8>)> {
        let key = pack_key(&pack);
        let failed = |e: std::io::Error| storage.error(&key, &e);
        let len = storage.len(&key).map_err(failed)?;
        let Some(trailer) = len.checked_sub(TRAILER as u64).filter(|at| *at >= 8) else {
            return Err(Error::store(format!("{key}: is too short to be a pack")));
        };
        let trailer = storage.read(&key, trailer..len).map_err(failed)?;
        let trailer = trailer.try_into().expect("as many bytes as asked for");
        let index = index_len(&trailer, len).map_err(|e| damaged(&key, &e))?;
        let bytes = storage.read(&key, len - index..len).map_err(failed)?;
        let entries = decode_index(&bytes).map_err(|e| damaged(&key, &e))?;
        Ok((PackIndex { pack, entries }, bytes))
    }

    /// Bytes that its objects take in the pack.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        total(self.entries.iter().map(|entry| entry.stored_len))
    }
}

/// Where every object of a store lies. Whoever shares it sees at once what is added.
#[derive(Default)]
pub struct Index {
    entries: RwLock<Entries>,
}

#[derive(Default)]
struct Entries {
    packs: Vec<PackId>,
    objects: Vec<(ObjectId, Location)>,
    /// Where the further copies of an object lie, by its number. Few objects have any.
    more: HashMap<u32, Vec<Location>>,
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
            self.more.entry(number).or_default().push(location);
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
        let names = names(storage)?;
        let packs: BTreeSet<PackId> = PackIndex::of_names(&names).collect();
        let mut cached = index_cache::read(storage, &names, &packs);
        for pack in packs {
            let found = cached.remove(&pack).map_or_else(|| PackIndex::load(storage, pack), Ok)?;
            index.add(pack, &found.entries);
        }
        Ok(index)
    }

    /// Adds the objects of a pack. An object that another pack has too is found in both.
    pub fn add(&self, pack: PackId, added: &[IndexEntry]) {
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

    /// Where an object lies; of several copies, the one that was found first.
    #[must_use]
    pub fn get(&self, id: &ObjectId) -> Option<Location> {
        let entries = self.entries();
        entries.get(id).map(|number| entries.objects[number as usize].1)
    }

    /// Where all copies of an object lie.
    #[must_use]
    pub fn copies(&self, id: &ObjectId) -> Vec<Location> {
        let entries = self.entries();
        let Some(number) = entries.get(id) else { return Vec::new() };
        let more = entries.more.get(&number).into_iter().flatten();
        std::iter::once(&entries.objects[number as usize].1).chain(more).copied().collect()
    }

    /// The packs that are missing, or too short for an object that they should have: a look at the length of
    /// each, which reads none.
    pub(crate) fn broken_packs(&self, storage: &dyn Storage) -> HashSet<PackId> {
        let entries = self.entries();
        let mut ends = vec![0; entries.packs.len()];
        let more = entries.more.values().flatten();
        for location in entries.objects.iter().map(|(_, location)| location).chain(more) {
            let end: &mut u64 = &mut ends[location.pack as usize];
            *end = (*end).max(location.offset.saturating_add(location.stored_len));
        }
        let is_broken = |(pack, end): &(&PackId, u64)| match storage.len(&pack_key(pack)) {
            Ok(len) => len < *end,
            Err(e) => e.kind() == std::io::ErrorKind::NotFound,
        };
        entries.packs.iter().zip(ends).filter(is_broken).map(|(pack, _)| *pack).collect()
    }

    /// The pack of a location.
    #[must_use]
    pub fn pack(&self, location: &Location) -> PackId {
        self.entries().packs[location.pack as usize]
    }

    fn entries(&self) -> RwLockReadGuard<'_, Entries> {
        self.entries.read().expect("no thread panics while it holds this")
    }
}

fn names(storage: &dyn Storage) -> Result<Vec<String>> {
    storage.list("index").map_err(|e| storage.error("index", &e))
}

/// The packs that have a file. What has another name than a pack, or lies elsewhere than that pack would, is none.
pub(crate) fn pack_files(storage: &dyn Storage) -> Result<BTreeSet<PackId>> {
    let entries = |folder: &str| storage.entries(folder).map_err(|e| storage.error(folder, &e));
    let mut packs = BTreeSet::new();
    for folder in entries("packs")?.folders {
        let folder = format!("packs/{folder}");
        for file in entries(&folder)?.files {
            let id = file.strip_suffix(".pack").and_then(PackId::from_hex);
            packs.extend(id.filter(|id| pack_key(id) == format!("{folder}/{file}")));
        }
    }
    Ok(packs)
}

/// The sum of lengths that a store claims, which may add up to more than any disk has.
pub(crate) fn total(lengths: impl Iterator<Item = u64>) -> u64 {
    lengths.fold(0, u64::saturating_add)
}

/// The key of a pack.
#[must_use]
pub(crate) fn pack_key(pack: &PackId) -> String {
    let hex = pack.to_string();
    format!("packs/{}/{hex}.pack", &hex[..2])
}

/// The key of a pack's index.
#[must_use]
pub(crate) fn index_key(pack: &PackId) -> String {
    format!("index/{pack}.idx")
}
