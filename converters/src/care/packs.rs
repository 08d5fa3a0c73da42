//! Checks every pack by reading it whole: its bytes against their digest, its index against its index file, each object
//! against its digest.

use std::collections::{BTreeMap, HashMap, HashSet};

use mif_formats::mif::pack::{ENTRY, IndexEntry, TRAILER, pack_len};
use mif_formats::mif::{ObjectId, PackId};
use sha1::{Digest, Sha1};

use crate::error::{Result, readable};
use crate::store::{
    Decoded, Index, PackIndex, Shard, Storage, Store, decode_object, index_key, is_missing, pack_files,
    pack_key, unfinished_epoch,
};
use crate::task::pool::in_parallel;
use crate::task::progress::{self, Progress};

/// How many bytes of a pack are read at once for its digest.
const WINDOW: u64 = 4 << 20;

/// The maximum number of bytes read of a pack that has no readable index.
const MAX_PACK: u64 = 4 << 30;

/// The state of all packs.
#[derive(Default)]
pub(super) struct PackState {
    /// The number of packs that were read, and of objects.
    pub(super) packs: u64,
    pub(super) objects: u64,
    /// The place of each object that is intact and indexed.
    pub(super) whole: HashMap<ObjectId, (PackId, IndexEntry)>,
    /// Intact objects in packs without an index, which a repair can recover.
    pub(super) unindexed: HashSet<ObjectId>,
    /// Those of the intact objects that are lists.
    pub(super) lists: HashSet<ObjectId>,
    /// The packs of other shards, which are taken for intact.
    pub(super) presumed: HashSet<PackId>,
    /// True if objects were hashed by SHA-1 too.
    pub(super) hashed: bool,
    /// The SHA-1 of each intact object that is not a list, if `hashed`.
    pub(super) sha1: HashMap<ObjectId, [u8; 20]>,
    pub(super) problems: Vec<String>,
    pub(super) notes: Vec<String>,
    /// Files that could not be read, each a sentence. Their content may be intact.
    pub(super) unreadable: Vec<String>,
    /// The state of each pack.
    pub(super) checked: BTreeMap<PackId, Checked>,
}

/// The state of a pack.
#[derive(Default)]
pub(super) struct Checked {
    /// True if its file exists.
    pub(super) there: bool,
    /// True if its bytes match their digest.
    pub(super) whole: bool,
    /// True if it has an index file, and its index can be read from there or from the pack.
    pub(super) indexed: bool,
    /// True if the index file is damaged or differs from the index in the pack.
    pub(super) index_differs: bool,
    /// True if an index file exists.
    pub(super) has_index: bool,
    /// Its intact objects, whether indexed or not.
    pub(super) good: Vec<IndexEntry>,
    /// The number of damaged objects.
    pub(super) bad: u64,
    sha1: Vec<(ObjectId, [u8; 20])>,
    problems: Vec<String>,
    /// Why it or its index file could not be read; then the other fields say nothing.
    unreadable: Option<String>,
}

impl PackState {
    /// Returns an index of the intact objects.
    pub(super) fn index(&self) -> Index {
        let mut by_pack: BTreeMap<PackId, Vec<IndexEntry>> = BTreeMap::new();
        for (pack, entry) in self.whole.values() {
            by_pack.entry(*pack).or_default().push(entry.clone());
        }
        let index = Index::default();
        for (pack, entries) in by_pack {
            index.add(pack, &entries);
        }
        index
    }
}

/// Reads and checks all packs of a shard on all processors. With `sha1`, also computes the SHA-1 of their objects. The
/// packs of other shards are taken for intact if their indexes can be read.
pub(super) fn check_packs(
    store: &Store,
    sha1: bool,
    shard: Shard,
    progress: &dyn Progress,
) -> Result<PackState> {
    let storage = &**store.storage();
    // Packs with a file, an index file, or both.
    let mut names = pack_files(storage)?;
    names.extend(PackIndex::ids(storage)?);
    let (names, others): (Vec<PackId>, Vec<PackId>) =
        names.into_iter().partition(|id| shard.contains(&id.to_string()));
    let lens = storage.lens(&names.iter().map(pack_key).collect::<Vec<_>>());
    progress.stage("checking packs", lens.into_iter().map(|len| len.unwrap_or(0)).sum());
    let check = |id: &PackId| Ok((*id, check_pack(storage, *id, sha1, progress)?));
    let checked = in_parallel(&names, progress, check)?;
    let mut state =
        PackState { hashed: sha1, checked: checked.into_iter().collect(), ..PackState::default() };
    for id in others {
        // The shard that the pack is in reports what is wrong with it.
        let Ok(index) = PackIndex::load(storage, id) else { continue };
        state.presumed.insert(id);
        state.add(id, &index.contents.entries);
    }
    let checked = std::mem::take(&mut state.checked);
    for (id, pack) in &checked {
        state.count(*id, pack);
    }
    state.checked = checked;
    let unfinished = storage.list("tmp").map_err(|e| storage.error("tmp", &e))?;
    let left = unfinished.iter().filter(|name| unfinished_epoch(name).is_some()).count();
    if left > 0 {
        state.notes.push(format!("tmp: {left} unfinished files; gc removes them unless they are in use"));
    }
    Ok(state)
}

impl PackState {
    fn count(&mut self, id: PackId, pack: &Checked) {
        if let Some(why) = &pack.unreadable {
            self.unreadable.push(why.clone());
            return;
        }
        self.packs += u64::from(pack.there);
        self.objects += pack.good.len() as u64 + pack.bad;
        let key = pack_key(&id);
        match (pack.there, pack.has_index) {
            (true, false) if pack.whole && pack.bad == 0 => {
                self.notes.push(format!("{key}: its index file is missing, so its objects are not found"));
            }
            (true, false) => {
                self.notes.push(format!("{key}: damaged and set aside; nothing uses it, and gc removes it"))
            }
            (false, true) => self.problems.push(format!("{key}: is missing, but has an index")),
            _ => {
                self.problems.extend(pack.problems.iter().cloned());
                if pack.index_differs {
                    self.problems.push(format!("index/{id}.idx: is damaged, or does not match its pack"));
                }
            }
        }
        if !pack.indexed {
            self.unindexed.extend(pack.good.iter().map(|entry| entry.id));
            return;
        }
        self.add(id, &pack.good);
        self.sha1.extend(pack.sha1.iter().copied());
    }

    fn add(&mut self, pack: PackId, entries: &[IndexEntry]) {
        for entry in entries {
            if entry.encoding.is_list() {
                self.lists.insert(entry.id);
            }
            self.whole.insert(entry.id, (pack, entry.clone()));
        }
    }

    /// Returns true if the copy of an object that counts is in a pack of another shard.
    pub(super) fn is_presumed(&self, id: &ObjectId) -> bool {
        self.whole.get(id).is_some_and(|(pack, _)| self.presumed.contains(pack))
    }
}

/// Checks a pack. If one of its files cannot be read, reports only that error: the pack may be intact.
fn check_pack(storage: &dyn Storage, id: PackId, sha1: bool, progress: &dyn Progress) -> Result<Checked> {
    let mut looked = look_at_pack(storage, id, sha1, progress);
    let lacks_index = |checked: &Checked| checked.there && !checked.has_index;
    if looked.as_ref().is_ok_and(lacks_index) && !is_missing(storage, &index_key(&id)) {
        // An import has just written the index.
        looked = look_at_pack(storage, id, sha1, progress);
    }
    match looked {
        // It has been removed meanwhile.
        _ if is_gone(storage, id) => Ok(Checked::default()),
        Err(e) if e.is_unreadable() => {
            Ok(Checked { unreadable: Some(e.message().to_owned()), ..Checked::default() })
        }
        checked => checked,
    }
}

/// Returns true if neither a pack nor its index file exists.
fn is_gone(storage: &dyn Storage, id: PackId) -> bool {
    is_missing(storage, &pack_key(&id)) && is_missing(storage, &index_key(&id))
}

fn look_at_pack(storage: &dyn Storage, id: PackId, sha1: bool, progress: &dyn Progress) -> Result<Checked> {
    let mut checked = Checked::default();
    let key = pack_key(&id);
    let len_of = |key: &str| readable(storage.len(key).map_err(|e| storage.error(key, &e)));
    // An import may be writing it or gc removing it: it counts if it exists both before and after it is read.
    let was_there = len_of(&index_key(&id))?.is_ok();
    let ids = readable(PackIndex::from_file(storage, id))?;
    checked.has_index = ids.is_ok() || was_there && len_of(&index_key(&id))?.is_ok();
    checked.indexed = checked.has_index && ids.is_ok();
    let Ok(len) = len_of(&key)? else { return Ok(checked) };
    checked.there = true;
    let own = readable(PackIndex::from_pack(storage, id))?.map(|(own, _)| own.contents);
    // The file may be far longer than the pack that was written: only the bytes that an index accounts for are read.
    let contents = own.as_ref().ok().or_else(|| Some(&ids.as_ref().ok()?.contents));
    let most = contents.map_or(MAX_PACK, |contents| pack_len(&contents.entries));
    if len > most {
        checked.problems.push(format!("{key}: is {len} bytes long, expected at most {most}"));
    } else if let Ok(own) = &own {
        let index = ((own.entries.len() * ENTRY) + TRAILER) as u64;
        match readable(digest(storage, &key, len.saturating_sub(index), progress))? {
            Ok(digest) if digest == own.digest => checked.whole = true,
            Ok(_) => checked.problems.push(format!("{key}: does not match its digest")),
            Err(e) => {
                // The user has cancelled, which is not damage.
                progress::check(progress)?;
                checked.problems.push(e.message().to_owned());
            }
        }
    }
    // A damaged index file does not stop readers as long as the pack still ends with its index.
    checked.indexed |= checked.has_index && own.is_ok();
    checked.index_differs = checked.has_index
        && match (&ids, &own) {
            (Ok(file), Ok(own)) => file.contents != *own,
            (Err(_), _) => true,
            (Ok(_), Err(_)) => false,
        };
    let entries = match (own, ids) {
        (Ok(own), _) => own.entries,
        (Err(problem), Ok(file)) => {
            checked.problems.push(problem.message().to_owned());
            file.contents.entries
        }
        (Err(problem), Err(_)) => {
            checked.problems.push(problem.message().to_owned());
            return Ok(checked);
        }
    };
    for entry in entries {
        progress::check(progress)?;
        let range = entry.offset..entry.offset.saturating_add(entry.stored_len);
        let bytes = readable(storage.read(&key, range).map_err(|e| storage.error(&key, &e)))?;
        match bytes.map_err(|e| e.message().to_owned()).and_then(|stored| decode_object(&entry, &stored)) {
            Ok(decoded) => {
                if let (Decoded::Bytes(bytes), true) = (decoded, sha1) {
                    checked.sha1.push((entry.id, Sha1::digest(&bytes).into()));
                }
                checked.good.push(entry);
            }
            Err(problem) => {
                checked.bad += 1;
                checked.problems.push(format!("{key}: object {}: {problem}", entry.id));
            }
        }
    }
    Ok(checked)
}

/// Returns BLAKE3 of the first `len` bytes of a file.
fn digest(storage: &dyn Storage, key: &str, len: u64, progress: &dyn Progress) -> Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at < len {
        progress::check(progress)?;
        let end = len.min(at + WINDOW);
        hasher.update(&storage.read(key, at..end).map_err(|e| storage.error(key, &e))?);
        progress.advance(end - at);
        at = end;
    }
    Ok(*hasher.finalize().as_bytes())
}
