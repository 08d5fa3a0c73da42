//! The index of one pack, which says where each object is stored, and the keys of packs and indexes.

use std::collections::BTreeSet;

use mif_formats::mif::PackId;
use mif_formats::mif::pack::{HEAD, IndexEntry, PackContents, TRAILER, check_head, decode_index, index_len};

use super::storage::Storage;
use crate::error::{Error, Result, damaged};
use crate::task::pool::{in_parallel, with_waiting_threads};
use crate::task::progress::Silent;

/// The index of one pack.
pub struct PackIndex {
    /// The pack.
    pub pack: PackId,
    /// Its objects and its digest.
    pub contents: PackContents,
}

impl PackIndex {
    /// Returns the packs that have an index file.
    pub fn ids(storage: &dyn Storage) -> Result<Vec<PackId>> {
        Ok(Self::of_names(&names(storage)?).collect())
    }

    /// Returns the packs whose index files are among `names`.
    pub(super) fn of_names(names: &[String]) -> impl Iterator<Item = PackId> + '_ {
        names.iter().filter_map(|name| name.strip_suffix(".idx").and_then(PackId::from_hex))
    }

    /// Reads the index of a pack from its index file or, if that is damaged, from the end of the pack.
    pub fn load(storage: &dyn Storage, pack: PackId) -> Result<Self> {
        Self::from_file(storage, pack).or_else(|error| match Self::from_pack(storage, pack) {
            Ok((index, _)) => Ok(index),
            Err(_) => Err(error.advise("`mif fsck --repair` rebuilds indexes from the packs")),
        })
    }

    /// Reads the indexes of all packs, except those that gc removes meanwhile.
    pub(crate) fn all(storage: &dyn Storage) -> Result<Vec<Self>> {
        let mut indexes = Vec::new();
        for (pack, index) in several(storage, &Self::ids(storage)?, |pack| Self::load(storage, pack))? {
            match index {
                Err(_) if is_missing(storage, &index_key(&pack)) => {}
                index => indexes.push(index?),
            }
        }
        Ok(indexes)
    }

    /// Reads the index file of a pack.
    pub(crate) fn from_file(storage: &dyn Storage, pack: PackId) -> Result<Self> {
        let key = index_key(&pack);
        let bytes = storage.read_all(&key).map_err(|e| storage.error(&key, &e))?;
        let contents = decode_index(&bytes).map_err(|e| damaged(&key, &e))?;
        Ok(PackIndex { pack, contents })
    }

    /// Reads the index at the end of a pack, and returns it with its bytes, which are those of an index file.
    pub(crate) fn from_pack(storage: &dyn Storage, pack: PackId) -> Result<(Self, Vec<u8>)> {
        let key = pack_key(&pack);
        let failed = |e: std::io::Error| storage.error(&key, &e);
        let len = storage.len(&key).map_err(failed)?;
        let Some(trailer) = len.checked_sub(TRAILER as u64).filter(|at| *at >= HEAD as u64) else {
            return Err(Error::store(format!("{key}: is too short to be a pack")));
        };
        let trailer = storage.read(&key, trailer..len).map_err(failed)?;
        let trailer = trailer.try_into().expect("as many bytes as asked for");
        let index = index_len(&trailer, len).map_err(|e| damaged(&key, &e))?;
        let bytes = storage.read(&key, len - index..len).map_err(failed)?;
        let contents = decode_index(&bytes).map_err(|e| damaged(&key, &e))?;
        let head = storage.read(&key, 0..HEAD as u64).map_err(failed)?;
        check_head(&head, &pack).map_err(|e| damaged(&key, &e))?;
        Ok((PackIndex { pack, contents }, bytes))
    }

    /// Returns its objects in ascending order of their ids.
    #[must_use]
    pub fn entries(&self) -> &[IndexEntry] {
        &self.contents.entries
    }

    /// Returns the number of bytes that its objects occupy in the pack.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        total(self.entries().iter().map(|entry| entry.stored_len))
    }
}

/// Calls `load` for packs, as many at a time as [`Storage::reads_at_once`] says. Returns what it returned, in the order of the
/// packs.
pub(super) fn several<T: Send + Sync>(
    storage: &dyn Storage,
    packs: &[PackId],
    load: impl Fn(PackId) -> Result<T> + Sync,
) -> Result<Vec<(PackId, Result<T>)>> {
    with_waiting_threads(storage.reads_at_once(), || {
        in_parallel(packs, &Silent, |pack| Ok((*pack, load(*pack))))
    })
}

/// Returns true if no file has this key.
pub(crate) fn is_missing(storage: &dyn Storage, key: &str) -> bool {
    storage.len(key).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

pub(super) fn names(storage: &dyn Storage) -> Result<Vec<String>> {
    storage.list("index").map_err(|e| storage.error("index", &e))
}

/// Returns the packs that have a file. Ignores files with other names, and packs in the wrong directory.
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

/// Sums lengths that a store claims. They may add up to more than fits in a `u64`, so the sum saturates.
pub(crate) fn total(lengths: impl Iterator<Item = u64>) -> u64 {
    lengths.fold(0, u64::saturating_add)
}

/// Returns the key of a pack.
#[must_use]
pub(crate) fn pack_key(pack: &PackId) -> String {
    let hex = pack.to_string();
    format!("packs/{}/{hex}.pack", &hex[..2])
}

/// Returns the key of a pack's index.
#[must_use]
pub(crate) fn index_key(pack: &PackId) -> String {
    format!("index/{pack}.idx")
}
