//! The index: where each object is stored. It is read from the store's index files into memory.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{RwLock, RwLockReadGuard};

use hashbrown::HashTable;
use mif_formats::mif::pack::{Encoding, IndexEntry};
use mif_formats::mif::{ObjectId, ObjectKind, PackId};

use super::index_cache;
use super::pack_index::{PackIndex, names, pack_key, several};
use super::storage::Storage;
use crate::error::{Result, readable};

/// The number of indexes that are in memory besides those that were added.
const TOGETHER: usize = 64;

/// The locations of all objects of a store. Everyone who shares it sees additions at once.
#[derive(Default)]
pub struct Index {
    entries: RwLock<Entries>,
}

#[derive(Default)]
struct Entries {
    packs: Vec<PackId>,
    objects: Vec<(ObjectId, Location)>,
    /// The locations of further copies of an object, by its number. Few objects have any.
    more: HashMap<u32, Vec<Location>>,
    /// The numbers of objects by their ids. A map that contained the objects themselves would be up to twice as large.
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
    /// Reads all index files. Skips a pack whose index cannot be read, neither from its file nor from the end of the
    /// pack: the objects that only this pack contains are then missing.
    pub fn load(storage: &dyn Storage) -> Result<Self> {
        let index = Index::default();
        let names = names(storage)?;
        let packs: BTreeSet<PackId> = PackIndex::of_names(&names).collect();
        let mut cached = index_cache::read(storage, &names, &packs);
        let packs: Vec<PackId> = packs.into_iter().collect();
        for packs in packs.chunks(TOGETHER) {
            let left: Vec<PackId> = packs.iter().filter(|pack| !cached.contains_key(pack)).copied().collect();
            let mut read = several(storage, &left, |pack| PackIndex::load(storage, pack))?.into_iter();
            for pack in packs {
                let found = match cached.remove(pack) {
                    Some(found) => Some(Ok(found)),
                    None => read.next().map(|(_, found)| found),
                };
                if let Some(Ok(found)) = found.map(readable).transpose()? {
                    index.add(*pack, found.entries());
                }
            }
        }
        Ok(index)
    }

    /// Reads the index files of `packs` that exist and are intact.
    pub(super) fn of_packs(storage: &dyn Storage, packs: &BTreeSet<PackId>) -> Self {
        let index = Index::default();
        let packs: Vec<PackId> = packs.iter().copied().collect();
        for packs in packs.chunks(TOGETHER) {
            let read =
                several(storage, packs, |pack| PackIndex::from_file(storage, pack)).unwrap_or_default();
            for (pack, found) in read {
                if let Ok(found) = found {
                    index.add(pack, found.entries());
                }
            }
        }
        index
    }

    /// Adds the objects of a pack. If another pack contains an object too, both locations are kept.
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

    /// Returns the location of an object; if there are several copies, of the one added first. Content that is not
    /// stored under its own id is found as decoded content.
    #[must_use]
    pub fn get(&self, id: &ObjectId) -> Option<Location> {
        names_of(id).find_map(|name| self.get_exact(&name))
    }

    /// Does the same as [`Index::get`], but finds only objects of this kind.
    pub(super) fn get_exact(&self, id: &ObjectId) -> Option<Location> {
        let entries = self.entries();
        entries.get(id).map(|number| entries.objects[number as usize].1)
    }

    /// Returns the ids under which the object is stored: of content, up to two.
    pub(crate) fn stored_as(&self, id: &ObjectId) -> impl Iterator<Item = ObjectId> {
        names_of(id).filter(|name| self.get_exact(name).is_some())
    }

    /// Returns the locations of all copies of an object, those of decoded content last.
    #[must_use]
    pub fn copies(&self, id: &ObjectId) -> Vec<Location> {
        names_of(id).flat_map(|name| self.copies_exact(&name)).collect()
    }

    /// Returns the locations of all copies of an object of this kind.
    pub(super) fn copies_exact(&self, id: &ObjectId) -> Vec<Location> {
        let entries = self.entries();
        let Some(number) = entries.get(id) else { return Vec::new() };
        let more = entries.more.get(&number).into_iter().flatten();
        std::iter::once(&entries.objects[number as usize].1).chain(more).copied().collect()
    }

    /// Returns the packs that are missing, or too short for the objects they should contain. Checks only the lengths of
    /// the files.
    pub(crate) fn broken_packs(&self, storage: &dyn Storage) -> HashSet<PackId> {
        let entries = self.entries();
        let mut ends = vec![0; entries.packs.len()];
        let more = entries.more.values().flatten();
        for location in entries.objects.iter().map(|(_, location)| location).chain(more) {
            let end: &mut u64 = &mut ends[location.pack as usize];
            *end = (*end).max(location.offset.saturating_add(location.stored_len));
        }
        let keys: Vec<String> = entries.packs.iter().map(pack_key).collect();
        let is_broken = |(end, len): (u64, std::io::Result<u64>)| match len {
            Ok(len) => len < end,
            Err(e) => e.kind() == std::io::ErrorKind::NotFound,
        };
        let lens = storage.lens(&keys);
        let broken = entries.packs.iter().zip(ends.into_iter().zip(lens));
        broken.filter_map(|(pack, found)| is_broken(found).then_some(*pack)).collect()
    }

    /// Returns the pack of a location.
    #[must_use]
    pub fn pack(&self, location: &Location) -> PackId {
        self.entries().packs[location.pack as usize]
    }

    fn entries(&self) -> RwLockReadGuard<'_, Entries> {
        self.entries.read().expect("no thread panics while it holds this")
    }
}

/// Returns the ids under which an object may be stored.
pub(crate) fn names_of(id: &ObjectId) -> impl Iterator<Item = ObjectId> + use<> {
    let decoded = (id.kind == ObjectKind::Content).then(|| ObjectId::decoded(id.digest));
    std::iter::once(*id).chain(decoded)
}

/// The location of an object's stored bytes.
#[derive(Debug, Clone, Copy)]
pub struct Location {
    /// Number of the pack in the index.
    pack: u32,
    /// How it is stored.
    pub encoding: Encoding,
    /// Offset in the pack in bytes.
    pub offset: u64,
    /// Stored length in bytes.
    pub stored_len: u64,
    /// Length of the object in bytes.
    pub len: u64,
}
