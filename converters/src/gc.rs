//! `gc`: versions that no rule keeps are forgotten, and what no image needs leaves the store.
//!
//! Nothing is removed unless everything that images need is known and there. Packs that are mostly garbage are
//! written again without it: the new pack and its index first, then the old index is removed, then the old
//! pack. So whoever is killed leaves garbage at most.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use mif_formats::mif::ObjectId;
use mif_formats::mif::pack::{IndexEntry, PackWriter};
use serde::Serialize;

use crate::progress::{self, Progress};
use crate::store::{
    Index, Needs, Objects, PackIndex, Storage, Store, Upload, decode_object, index_key, pack_key,
};
use crate::{Error, Result};

/// A pack is written again if less than this share of its bytes is needed.
const REPACK_BELOW: f64 = 0.5;

/// A pack that is written is finished once it is this large, in bytes.
const MAX_PACK: u64 = 512 << 20;

/// What to keep.
#[derive(Debug, Clone, Default)]
pub struct GcOptions {
    /// Keep this many of the newest versions of each image. The newest is always kept, and so is what has a
    /// tag. Without this and the next, every version is kept.
    pub keep_last: Option<usize>,
    /// Keep versions made within so many seconds.
    pub keep_within: Option<u64>,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What `gc` did, or would do.
#[derive(Debug, Clone, Default, Serialize)]
pub struct GcReport {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Versions that were forgotten, as `name@version`.
    pub forgotten: Vec<String>,
    /// Packs that stay as they are.
    pub packs_kept: u64,
    /// Packs that went.
    pub packs_dropped: u64,
    /// Packs that were written again without their garbage.
    pub packs_repacked: u64,
    /// Index files without a pack that went.
    pub stray_indexes: u64,
    /// Unfinished files that went.
    pub unfinished: u64,
    /// Bytes of packs before and after.
    pub pack_bytes: [u64; 2],
    /// Bytes of objects that no image needs and that stay, being few in their packs.
    pub garbage_kept: u64,
    /// What could not be done, each a sentence.
    pub warnings: Vec<String>,
}

/// Collects the garbage of the store in the folder `path`.
pub fn gc(path: &Path, options: &GcOptions, progress: &dyn Progress) -> Result<GcReport> {
    let store = if options.dry_run { Store::open(path)? } else { Store::open_exclusive(path, progress)? };
    progress.stage("finding what images need", 0);
    let mut report = GcReport { dry_run: options.dry_run, ..GcReport::default() };
    let forgotten = forgotten(&store, options)?;
    let (packs, stray) = packs(&store)?;
    let needed = needed(&store, &packs, &forgotten, progress)?;
    if !options.dry_run {
        for (name, version) in &forgotten {
            store.remove_version(name, *version, crate::rm::now())?;
        }
    }
    report.forgotten = forgotten.iter().map(|(name, version)| format!("{name}@{version}")).collect();
    let sweep = Sweep { storage: &**store.storage(), dry_run: options.dry_run, progress };
    sweep.packs(packs, &needed, &mut report)?;
    sweep.strays(stray, &mut report)?;
    sweep.unfinished(&mut report)?;
    Ok(report)
}

/// The versions that no rule keeps.
fn forgotten(store: &Store, options: &GcOptions) -> Result<BTreeSet<(String, u32)>> {
    let mut forgotten = BTreeSet::new();
    if options.keep_last.is_none() && options.keep_within.is_none() {
        return Ok(forgotten);
    }
    let since = options.keep_within.map(|seconds| crate::rm::now().saturating_sub(seconds));
    for name in store.names()? {
        let tagged: HashSet<u32> = store.tags(&name)?.into_iter().map(|tag| tag.version).collect();
        let mut versions = store.versions(&name)?;
        versions.reverse();
        for (age, version) in versions.into_iter().enumerate().skip(1) {
            let last = options.keep_last.is_some_and(|n| age < n);
            let recent = match since {
                Some(since) => store.version(&name, version)?.image.provenance.time >= since,
                None => false,
            };
            if !last && !recent && !tagged.contains(&version) {
                forgotten.insert((name.clone(), version));
            }
        }
    }
    Ok(forgotten)
}

/// A pack that is there, with its index.
struct Pack {
    index: PackIndex,
    bytes: u64,
}

/// All packs that have an index, and what is one without the other.
fn packs(store: &Store) -> Result<(Vec<Pack>, Stray)> {
    let storage = &**store.storage();
    let failed = |e: std::io::Error| Error::store(format!("{}/packs: {e}", storage.place()));
    let (mut packs, mut stray) = (Vec::new(), Stray::default());
    let mut without: BTreeSet<String> = BTreeSet::new();
    for folder in storage.list("packs").map_err(failed)? {
        for file in storage.list(&format!("packs/{folder}")).map_err(failed)? {
            without.insert(format!("packs/{folder}/{file}"));
        }
    }
    for id in PackIndex::ids(storage)? {
        if !without.remove(&pack_key(&id)) {
            stray.indexes.push(index_key(&id));
            continue;
        }
        let index = PackIndex::load(storage, id)?;
        let bytes = storage.len(&pack_key(&id)).map_err(failed)?;
        packs.push(Pack { index, bytes });
    }
    stray.packs = without.into_iter().collect();
    Ok((packs, stray))
}

#[derive(Default)]
struct Stray {
    indexes: Vec<String>,
    packs: Vec<String>,
}

/// What the images that stay need; an error if any of it is not there.
fn needed(
    store: &Store,
    packs: &[Pack],
    forgotten: &BTreeSet<(String, u32)>,
    progress: &dyn Progress,
) -> Result<HashSet<ObjectId>> {
    let index = Index::default();
    for pack in packs {
        // Of a pack that was cut short, only what is before the cut counts as there.
        let whole = |e: &&IndexEntry| e.offset.checked_add(e.stored_len).is_some_and(|end| end <= pack.bytes);
        let there: Vec<IndexEntry> = pack.index.entries.iter().filter(whole).cloned().collect();
        index.add(pack.index.pack, &there);
    }
    let objects = Objects::new(store.storage().clone(), Arc::new(index));
    let mut needs = Needs::default();
    for name in store.names()? {
        for version in store.versions(&name)? {
            progress::check(progress)?;
            if !forgotten.contains(&(name.clone(), version)) {
                needs.add(&store.version(&name, version)?, &objects)?;
            }
        }
    }
    needs.complete()?;
    Ok(needs.objects)
}

struct Sweep<'a> {
    storage: &'a dyn Storage,
    dry_run: bool,
    progress: &'a dyn Progress,
}

impl Sweep<'_> {
    fn packs(&self, packs: Vec<Pack>, needed: &HashSet<ObjectId>, report: &mut GcReport) -> Result<()> {
        let live = |pack: &Pack| -> u64 {
            pack.index.entries.iter().filter(|e| needed.contains(&e.id)).map(|e| e.stored_len).sum()
        };
        // Of an object that is in two packs, the copy in the pack that is needed most is the one that counts.
        let mut packs: Vec<(u64, Pack)> = packs.into_iter().map(|pack| (live(&pack), pack)).collect();
        packs.sort_by(|(a, x), (b, y)| b.cmp(a).then(x.index.pack.cmp(&y.index.pack)));
        let total = packs.iter().map(|(_, pack)| pack.bytes).sum();
        report.pack_bytes = [total, total];
        let mut counted: HashSet<ObjectId> = HashSet::new();
        let mut old = Vec::new();
        let mut moved = Vec::new();
        for (_, pack) in packs {
            let here: Vec<IndexEntry> = pack
                .index
                .entries
                .iter()
                .filter(|e| needed.contains(&e.id) && !counted.contains(&e.id))
                .cloned()
                .collect();
            let live: u64 = here.iter().map(|e| e.stored_len).sum();
            let stored = pack.index.stored_bytes();
            counted.extend(here.iter().map(|e| e.id));
            if !here.is_empty() && live as f64 >= stored as f64 * REPACK_BELOW {
                report.packs_kept += 1;
                report.garbage_kept += stored - live;
                continue;
            }
            if !here.is_empty() {
                // A pack with damage stays, for fsck to deal with.
                match self.check(&pack, &here) {
                    Ok(()) => report.packs_repacked += 1,
                    Err(problem) => {
                        report.warnings.push(problem.to_string());
                        report.packs_kept += 1;
                        continue;
                    }
                }
                moved.push((pack.index.pack, here));
            } else {
                report.packs_dropped += 1;
            }
            report.pack_bytes[1] -= pack.bytes;
            old.push(pack);
        }
        if self.dry_run {
            report.pack_bytes[1] +=
                moved.iter().flat_map(|(_, entries)| entries).map(|e| e.stored_len).sum::<u64>();
            return Ok(());
        }
        report.pack_bytes[1] += self.repack(&moved)?;
        for pack in old {
            self.delete(&index_key(&pack.index.pack))?;
            self.delete(&pack_key(&pack.index.pack))?;
        }
        Ok(())
    }

    fn read(&self, pack: &ObjectId, entry: &IndexEntry) -> Result<Vec<u8>> {
        let key = pack_key(pack);
        self.storage
            .read(&key, entry.offset..entry.offset.saturating_add(entry.stored_len))
            .map_err(|e| Error::store(format!("{}/{key}: object {}: {e}", self.storage.place(), entry.id)))
    }

    /// Errs unless these objects of a pack are whole.
    fn check(&self, pack: &Pack, entries: &[IndexEntry]) -> Result<()> {
        for entry in entries {
            progress::check(self.progress)?;
            let stored = self.read(&pack.index.pack, entry)?;
            decode_object(entry, &stored).map_err(|problem| {
                let key = pack_key(&pack.index.pack);
                Error::store(format!("{key}: object {}: {problem}; the pack stays as it is", entry.id))
            })?;
        }
        Ok(())
    }

    /// Writes objects into new packs; gives the bytes of these.
    fn repack(&self, moved: &[(ObjectId, Vec<IndexEntry>)]) -> Result<u64> {
        let total = moved.iter().flat_map(|(_, entries)| entries).map(|e| e.stored_len).sum();
        self.progress.stage("repacking", total);
        let failed = |e: std::io::Error| {
            Error::store(format!("{}: cannot write to the store: {e}", self.storage.place()))
        };
        let mut current: Option<PackWriter<Box<dyn Upload>>> = None;
        let mut bytes = 0;
        for (pack, entries) in moved {
            let mut entries = entries.clone();
            entries.sort_by_key(|entry| entry.offset);
            for entry in &entries {
                progress::check(self.progress)?;
                let stored = self.read(pack, entry)?;
                let writer = match &mut current {
                    Some(writer) => writer,
                    none => {
                        none.insert(PackWriter::new(self.storage.upload().map_err(failed)?).map_err(failed)?)
                    }
                };
                writer.add(entry.id, entry.encoding, &stored, entry.len).map_err(failed)?;
                self.progress.advance(entry.stored_len);
                if writer.len() >= MAX_PACK {
                    bytes += finish(self.storage, &mut current).map_err(failed)?;
                }
            }
        }
        Ok(bytes + finish(self.storage, &mut current).map_err(failed)?)
    }

    /// What is an index without its pack, or a pack without its index, goes: no image needs it, for all that
    /// images need was found elsewhere.
    fn strays(&self, stray: Stray, report: &mut GcReport) -> Result<()> {
        report.stray_indexes = stray.indexes.len() as u64;
        for key in stray.packs {
            let bytes = self.storage.len(&key).unwrap_or(0);
            report.packs_dropped += 1;
            report.pack_bytes[0] += bytes;
            self.delete(&key)?;
        }
        stray.indexes.iter().try_for_each(|key| self.delete(key))
    }

    /// Nobody else has the store open: whatever is in `tmp` was left by somebody who was stopped.
    fn unfinished(&self, report: &mut GcReport) -> Result<()> {
        let left = self.storage.list("tmp").map_err(|e| Error::store(format!("tmp: {e}")))?;
        report.unfinished = left.len() as u64;
        left.iter().try_for_each(|name| self.delete(&format!("tmp/{name}")))
    }

    fn delete(&self, key: &str) -> Result<()> {
        if self.dry_run {
            return Ok(());
        }
        self.storage.delete(key).map_err(|e| Error::store(format!("{}/{key}: {e}", self.storage.place())))
    }
}

/// Finishes a pack and its index, if one was begun; gives its bytes.
fn finish(storage: &dyn Storage, current: &mut Option<PackWriter<Box<dyn Upload>>>) -> std::io::Result<u64> {
    let Some(pack) = current.take() else { return Ok(0) };
    let (upload, id, index, _) = pack.finish()?;
    let key = pack_key(&id);
    upload.finish(&key)?;
    storage.put_if_absent(&index_key(&id), &index)?;
    storage.len(&key)
}
