//! Many index files in one, so that the number of files read to open a store does not grow with it.
//!
//! ```text
//! index/all-<number of packs>.cache:
//! "MIFIDXC3"
//! for each pack: 32 bytes of its id, u64 le of the length of its index, its index as its index file has it
//! 32 bytes     BLAKE3 of all before
//! ```
//!
//! The cache is only a copy: a pack counts only if its own index file exists, and a damaged or missing cache costs
//! nothing but time. The cache with the highest number is the newest.

use std::collections::{BTreeMap, BTreeSet};

use mif_formats::mif::PackId;
use mif_formats::mif::pack::{decode_index, encode_index};

use super::Storage;
use super::pack_index::{PackIndex, several};
use crate::error::{Result, readable};

const MAGIC: &[u8; 8] = b"MIFIDXC3";

/// A new cache is written once this many packs are missing from the last one.
const REFRESH_AT: usize = 32;

/// Returns the caches in a list of the files in `index`, by their number of packs.
fn caches(names: &[String]) -> BTreeMap<u64, String> {
    let number = |name: &String| name.strip_prefix("all-")?.strip_suffix(".cache")?.parse().ok();
    names.iter().filter_map(|name| Some((number(name)?, format!("index/{name}")))).collect()
}

/// Returns the indexes of `packs` from the newest cache; none if it is damaged or has just been removed.
pub(super) fn read(
    storage: &dyn Storage,
    names: &[String],
    packs: &BTreeSet<PackId>,
) -> BTreeMap<PackId, PackIndex> {
    let newest = caches(names).pop_last();
    let bytes = newest.and_then(|(_, key)| storage.read_all(&key).ok()).unwrap_or_default();
    let mut indexes = decode(&bytes).unwrap_or_default();
    indexes.retain(|pack, _| packs.contains(pack));
    indexes
}

fn decode(bytes: &[u8]) -> Option<BTreeMap<PackId, PackIndex>> {
    let (body, digest) = bytes.split_last_chunk::<32>()?;
    if blake3::hash(body).as_bytes() != digest {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC)?;
    let mut indexes = BTreeMap::new();
    while !rest.is_empty() {
        let (id, more) = rest.split_first_chunk::<32>()?;
        let (len, more) = more.split_first_chunk::<8>()?;
        let (index, more) = more.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
        let pack = PackId(*id);
        indexes.insert(pack, PackIndex { pack, contents: decode_index(index).ok()? });
        rest = more;
    }
    Some(indexes)
}

/// Writes a new cache if the newest lacks many packs, and removes older ones. A process that is reading an older one
/// goes on, or reads index files instead.
pub(super) fn refresh(storage: &dyn Storage) -> Result<()> {
    let names = storage.list("index").unwrap_or_default();
    let packs: BTreeSet<PackId> = PackIndex::of_names(&names).collect();
    let old = caches(&names);
    let mut indexes = read(storage, &names, &packs);
    if packs.len() < indexes.len() + REFRESH_AT {
        return Ok(());
    }
    let left: Vec<PackId> = packs.iter().filter(|pack| !indexes.contains_key(pack)).copied().collect();
    for (pack, index) in several(storage, &left, |pack| PackIndex::load(storage, pack))? {
        if let Ok(index) = readable(index)? {
            indexes.insert(pack, index);
        }
    }
    let mut bytes = MAGIC.to_vec();
    for (pack, index) in &indexes {
        let index = encode_index(&index.contents);
        bytes.extend_from_slice(&pack.0);
        bytes.extend_from_slice(&(index.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&index);
    }
    let digest = blake3::hash(&bytes);
    bytes.extend_from_slice(digest.as_bytes());
    // Nothing depends on the cache, so a full disk does not matter.
    let key = format!("index/all-{}.cache", packs.len());
    if storage.replace(&key, &bytes).is_ok() {
        for key in old.into_values().filter(|old| *old != key) {
            let _only_takes_room = storage.delete(&key);
        }
    }
    Ok(())
}

/// Removes all caches. Processes that are reading one read index files instead.
pub(crate) fn clear(storage: &dyn Storage) -> std::io::Result<()> {
    caches(&storage.list("index")?).into_values().try_for_each(|key| storage.delete(&key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Index, ObjectWriter, Store};
    use crate::task::progress::Silent;
    use mif_formats::mif::ObjectId;

    #[test]
    fn a_cache_stands_for_many_index_files_and_for_none_that_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let put = |bytes: &[u8]| {
            let writer = ObjectWriter::new(&Store::open_or_create(folder.path(), &Silent).unwrap()).unwrap();
            writer.put(bytes).unwrap();
            writer.finish().unwrap();
        };
        (0..=REFRESH_AT as u32).for_each(|i| put(&i.to_le_bytes()));
        let store = Store::open(folder.path(), &Silent).unwrap();
        let storage = &**store.storage();
        let names = storage.list("index").unwrap();
        assert_eq!(caches(&names).into_keys().collect::<Vec<_>>(), [REFRESH_AT as u64]);
        let first = ObjectId::of(&0u32.to_le_bytes());
        let knows = |id: &ObjectId| Index::load(storage).unwrap().get(id).is_some();
        assert!(knows(&first) && knows(&ObjectId::of(&(REFRESH_AT as u32).to_le_bytes())));
        // Only the pack's own index file counts, and a damaged cache does no harm.
        let pack = Index::load(storage).unwrap().pack(&Index::load(storage).unwrap().get(&first).unwrap());
        storage.delete(&crate::store::index_key(&pack)).unwrap();
        assert!(!knows(&first));
        let key = caches(&names).into_values().next().unwrap();
        let mut bytes = storage.read_all(&key).unwrap();
        bytes[100] ^= 1;
        storage.replace(&key, &bytes).unwrap();
        assert!(!knows(&first) && knows(&ObjectId::of(&1u32.to_le_bytes())));
        clear(storage).unwrap();
        assert!(caches(&storage.list("index").unwrap()).is_empty());
    }
}
