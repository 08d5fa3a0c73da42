//! Many index files in one, so that opening a store takes as many files whatever is in it.
//!
//! ```text
//! index/all-<number of packs>.cache:
//! "MIFIDXC3"
//! for each pack: 32 bytes of its id, u64 le of the length of its index, its index as its index file has it
//! 32 bytes     BLAKE3 of all before
//! ```
//!
//! It is only a copy: a pack counts if its own index file is there, and a cache that is damaged or missing costs time
//! alone. The one with the highest number is the newest.

use std::collections::{BTreeMap, BTreeSet};

use mif_formats::mif::PackId;
use mif_formats::mif::pack::{decode_index, encode_index};

use super::Storage;
use super::pack_index::PackIndex;
use crate::error::{Result, readable};

const MAGIC: &[u8; 8] = b"MIFIDXC3";

/// A new cache is written once so many packs are not in the last.
const REFRESH_AT: usize = 32;

/// The caches in a list of the files in `index`, by the number of their packs.
fn caches(names: &[String]) -> BTreeMap<u64, String> {
    let number = |name: &String| name.strip_prefix("all-")?.strip_suffix(".cache")?.parse().ok();
    names.iter().filter_map(|name| Some((number(name)?, format!("index/{name}")))).collect()
}

/// The indexes of `packs` that the newest cache has; none if it is damaged, or went meanwhile.
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

/// Writes a new cache if many packs are in none, and removes older ones. Whoever reads one of these meanwhile goes on,
/// or reads index files instead.
pub(super) fn refresh(storage: &dyn Storage) -> Result<()> {
    let names = storage.list("index").unwrap_or_default();
    let packs: BTreeSet<PackId> = PackIndex::of_names(&names).collect();
    let old = caches(&names);
    let mut indexes = read(storage, &names, &packs);
    if packs.len() < indexes.len() + REFRESH_AT {
        return Ok(());
    }
    for pack in &packs {
        if !indexes.contains_key(pack)
            && let Ok(index) = readable(PackIndex::load(storage, *pack))?
        {
            indexes.insert(*pack, index);
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
    // Nothing depends on it: a store on a full disk is none the worse.
    let key = format!("index/all-{}.cache", packs.len());
    if storage.replace(&key, &bytes).is_ok() {
        for key in old.into_values().filter(|old| *old != key) {
            let _only_takes_room = storage.delete(&key);
        }
    }
    Ok(())
}

/// Removes all caches. Whoever reads one of them meanwhile reads index files instead.
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
        // Its index file is what counts, and a damaged cache costs nothing.
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
