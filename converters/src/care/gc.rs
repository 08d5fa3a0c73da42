//! `gc`: versions that no rule keeps are forgotten, and what no image needs leaves the store.
//!
//! No pack is removed unless everything that images need is known and there, and unless each copy that stays of an
//! object that goes was read and is whole. Packs that are mostly garbage are written again without it: the new pack and
//! its index first, then the old index is removed, then the old pack. So a process that is killed leaves garbage at
//! most.
//!
//! Others use the store meanwhile. So a pack goes in two steps: into the trash, from where no import relies on it any more;
//! and away, once everybody has left who came before that, and a fresh look at the images finds no need for it. With
//! nobody there, both are done in one run; otherwise the second is left to a later one.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use mif_formats::mif::pack::{IndexEntry, PackWriter};
use mif_formats::mif::{ObjectId, PackId};
use serde::Serialize;

use crate::error::{Error, Result, readable};
use crate::store::{
    DamagedImage, Index, Needs, Objects, PackIndex, Storage, Store, Upload, clear_index_cache, decode_object,
    index_key, is_full, new_pack, pack_files, pack_key, put_pack, strangers, total, trash, unfinished_epoch,
};
use crate::task::progress::{self, Progress};

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
    /// Whether nothing was done, since only that was asked for.
    pub dry_run: bool,
    /// Whether no damage was met. If images or objects are damaged, what they may need stays.
    pub whole: bool,
    /// Versions that were forgotten, as `name@version`.
    pub forgotten: Vec<String>,
    /// Images of which something is damaged, or missing, or that have vanished. As long as there are any, every pack
    /// stays, for any of them may hold what is needed for the repair.
    pub damaged: Vec<DamagedImage>,
    /// Packs that stay as they are.
    pub packs_kept: u64,
    /// Packs that went.
    pub packs_dropped: u64,
    /// Packs that were written again without their garbage.
    pub packs_repacked: u64,
    /// Packs that are not needed, and stay until those who use the store now have left: a later gc deletes them.
    pub packs_waiting: u64,
    /// Index files without a pack that went.
    pub stray_indexes: u64,
    /// Unfinished files that went.
    pub unfinished: u64,
    /// Bytes of packs before and after.
    pub pack_bytes: [u64; 2],
    /// Bytes of objects that no image needs and that stay, being few in their packs.
    pub garbage_kept: u64,
    /// Damaged copies of objects, and what could not be done, each a sentence.
    pub warnings: Vec<String>,
    /// Files in the store that are not its own, and were left alone: the first of their names, relative to the store.
    pub strangers: Vec<String>,
}

/// Collects the garbage of a store, which was opened to remove from it, unless this is a dry run.
pub fn gc(store: &Store, options: &GcOptions, progress: &dyn Progress) -> Result<GcReport> {
    if !options.dry_run {
        store.check_may_remove()?;
    }
    progress.stage("finding what images need", 0);
    let mut report = GcReport { dry_run: options.dry_run, ..GcReport::default() };
    let mut forgotten = forgotten(store, options, &mut report)?;
    let storage = &**store.storage();
    let trashed = trash::packs(storage).map_err(|e| trash::failed(storage, &e))?;
    let (packs, stray) = packs(storage)?;
    let needed = needed(store, &packs, &mut forgotten, progress, &mut report)?;
    if !options.dry_run {
        for (name, version) in &forgotten {
            store.remove_version(name, *version)?;
        }
        store.finish_removals()?;
    }
    report.forgotten = forgotten.iter().map(|(name, version)| format!("{name}@{version}")).collect();
    let sweep = Sweep {
        store,
        storage,
        needed,
        trashed: trashed.into_keys().collect(),
        dry_run: options.dry_run,
        progress,
    };
    if report.damaged.is_empty() {
        sweep.packs(packs, stray, &mut report)?;
    } else {
        report.packs_kept = packs.len() as u64;
        report.pack_bytes = [total(packs.iter().map(|pack| pack.bytes)); 2];
    }
    sweep.unfinished(&mut report)?;
    report.strangers = strangers(storage).map_err(|e| Error::file(&storage.place(), &e))?.0;
    report.whole = report.damaged.is_empty() && report.warnings.is_empty();
    Ok(report)
}

/// The versions that no rule keeps.
fn forgotten(store: &Store, options: &GcOptions, report: &mut GcReport) -> Result<BTreeSet<(String, u32)>> {
    let mut forgotten = BTreeSet::new();
    if options.keep_last.is_none() && options.keep_within.is_none() {
        return Ok(forgotten);
    }
    let since = options.keep_within.map(|seconds| store.storage().now().saturating_sub(seconds));
    for name in store.names()? {
        let tagged: HashSet<u32> = match store.tags(&name) {
            Ok(tags) => tags.into_iter().map(|tag| tag.version).collect(),
            // Any version may have the tag that cannot be read.
            Err(e) => {
                report.warnings.push(format!("{}; no version of {name} is forgotten", e.message()));
                continue;
            }
        };
        let mut versions = store.versions(&name)?;
        versions.reverse();
        for (age, version) in versions.into_iter().enumerate().skip(1) {
            let last = options.keep_last.is_some_and(|n| age < n);
            // A version whose record cannot be read may be a recent one.
            let recent = since.is_some_and(|since| {
                store.version(&name, version).map_or(true, |stored| stored.image.provenance.time >= since)
            });
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

impl Pack {
    /// Whether the pack reaches as far as an object that it should have.
    fn holds(&self, entry: &IndexEntry) -> bool {
        entry.offset.checked_add(entry.stored_len).is_some_and(|end| end <= self.bytes)
    }
}

/// All packs that have an index, and what is one without the other.
fn packs(storage: &dyn Storage) -> Result<(Vec<Pack>, Stray)> {
    // In this order: somebody who adds writes the pack first.
    let indexed = PackIndex::ids(storage)?;
    let (mut packs, mut stray) = (Vec::new(), Stray { indexes: Vec::new(), packs: pack_files(storage)? });
    for id in indexed {
        if !stray.packs.remove(&id) {
            stray.indexes.push(id);
            continue;
        }
        let (index, key) = (PackIndex::load(storage, id)?, pack_key(&id));
        let bytes = storage.len(&key).map_err(|e| storage.error(&key, &e))?;
        packs.push(Pack { index, bytes });
    }
    Ok((packs, stray))
}

struct Stray {
    indexes: Vec<PackId>,
    packs: BTreeSet<PackId>,
}

/// What images need.
struct Needed {
    objects: HashSet<ObjectId>,
    /// The images that were looked at.
    images: BTreeSet<(String, u32)>,
}

/// What the images that stay need. Images of which that cannot be told, or is not there, are reported as damaged, and
/// all versions of their names stay: an older one may be the last that is whole.
fn needed(
    store: &Store,
    packs: &[Pack],
    forgotten: &mut BTreeSet<(String, u32)>,
    progress: &dyn Progress,
    report: &mut GcReport,
) -> Result<Needed> {
    let index = Index::default();
    for pack in packs {
        // Of a pack that was cut short, only what is before the cut counts as there.
        let there: Vec<IndexEntry> =
            pack.index.entries().iter().filter(|entry| pack.holds(entry)).cloned().collect();
        index.add(pack.index.pack, &there);
    }
    let objects = Objects::new(store.storage().clone(), Arc::new(index));
    let mut needs = Needs::default();
    let mut images = BTreeSet::new();
    for name in store.names()? {
        let before = report.damaged.len();
        let versions = store.versions(&name)?;
        images.extend(versions.iter().map(|version| (name.clone(), *version)));
        let is_forgotten = |version: &u32| forgotten.contains(&(name.clone(), *version));
        let (old, kept): (Vec<u32>, Vec<u32>) = versions.into_iter().partition(is_forgotten);
        let mut add = |version: u32, damaged: &mut Vec<DamagedImage>| -> Result<()> {
            progress::check(progress)?;
            let record = store.version(&name, version);
            if let Err(e) = &record {
                damaged.push(DamagedImage::new(&name, version, e));
            }
            let Ok(stored) = record.or_else(|_| store.published(&name, version)) else { return Ok(()) };
            match needs.add(&stored, &objects) {
                Ok(0) => {}
                Ok(missing) => damaged.push(DamagedImage {
                    image: stored.image.id(),
                    problem: format!("the store lacks {missing} objects that it needs"),
                }),
                Err(e) => damaged.push(DamagedImage::new(&name, version, &e)),
            }
            Ok(())
        };
        kept.into_iter().try_for_each(|version| add(version, &mut report.damaged))?;
        if report.damaged.len() > before {
            forgotten.retain(|(of, _)| *of != name);
            old.into_iter().try_for_each(|version| add(version, &mut report.damaged))?;
        }
    }
    report.damaged.extend(store.vanished()?.into_iter().map(|(name, version)| DamagedImage {
        image: format!("{name}@{version}"),
        problem: format!(
            "its directory is gone; `mif rm {name}@{version}` forgets it, `mif fsck` says how to get it \
             back"
        ),
    }));
    Ok(Needed { objects: needs.objects, images })
}

/// The result of repacking.
enum Repacked {
    /// The new packs.
    Written(BTreeSet<PackId>),
    /// The disk is full: what was to go stays.
    NoRoom(Error),
}

struct Sweep<'a> {
    store: &'a Store,
    storage: &'a dyn Storage,
    needed: Needed,
    /// Packs that an earlier gc has put into the trash.
    trashed: HashSet<PackId>,
    dry_run: bool,
    progress: &'a dyn Progress,
}

/// What becomes of each pack.
#[derive(Default)]
struct SweepPlan {
    kept: u64,
    /// Bytes of garbage in the packs that are kept.
    garbage: u64,
    /// Packs to delete, by number, and the objects of each to copy into a new pack first.
    going: Vec<(usize, Vec<IndexEntry>)>,
    /// Which pack's copy of each needed object stays.
    counted: HashMap<ObjectId, usize>,
}

/// Copies of objects that were read: whether each was whole.
type Read = HashMap<(usize, ObjectId), bool>;

impl SweepPlan {
    /// Plans over packs in the order of how much of them is needed: of an object that is in two packs, the first copy
    /// counts that was not found damaged. A pack that has the last copy of an object stays if that copy is damaged.
    fn new(packs: &[Pack], needed: &HashSet<ObjectId>, read: &Read) -> Self {
        let is_good = |number: usize, entry: &IndexEntry| {
            packs[number].holds(entry) && read.get(&(number, entry.id)) != Some(&false)
        };
        let mut plan = SweepPlan::default();
        let mut live: Vec<Vec<&IndexEntry>> = Vec::new();
        for (number, pack) in packs.iter().enumerate() {
            let here = pack.index.entries().iter().filter(|entry| {
                needed.contains(&entry.id) && !plan.counted.contains_key(&entry.id) && is_good(number, entry)
            });
            live.push(here.collect());
            plan.counted.extend(live[number].iter().map(|entry| (entry.id, number)));
        }
        for (number, (pack, here)) in packs.iter().zip(live).enumerate() {
            let live = total(here.iter().map(|entry| entry.stored_len));
            let stored = pack.index.stored_bytes();
            let last_copy =
                |entry: &IndexEntry| needed.contains(&entry.id) && !plan.counted.contains_key(&entry.id);
            let kept = !here.is_empty() && live as f64 >= stored as f64 * REPACK_BELOW;
            if kept || pack.index.entries().iter().any(last_copy) {
                plan.kept += 1;
                plan.garbage = plan.garbage.saturating_add(stored.saturating_sub(live));
            } else {
                plan.going.push((number, here.into_iter().cloned().collect()));
            }
        }
        plan
    }

    /// The copies that must be whole for this plan to lose nothing: what is copied, and what stays elsewhere of an
    /// object that a going pack has too.
    fn relied_on(&self, packs: &[Pack]) -> Vec<(usize, ObjectId)> {
        let entries = self.going.iter().flat_map(|(number, _)| packs[*number].index.entries());
        let mut copies: Vec<(usize, ObjectId)> =
            entries.filter_map(|entry| Some((*self.counted.get(&entry.id)?, entry.id))).collect();
        copies.sort_unstable();
        copies.dedup();
        copies
    }
}

impl Sweep<'_> {
    /// Drops and repacks packs. Of the stray packs, those stay that may have the last whole copy of something.
    fn packs(&self, mut packs: Vec<Pack>, stray: Stray, report: &mut GcReport) -> Result<()> {
        let needed = &self.needed.objects;
        packs.sort_by_cached_key(|pack| {
            let entries = pack.index.entries().iter().filter(|entry| needed.contains(&entry.id));
            let live = total(entries.map(|entry| entry.stored_len));
            // What is in the trash comes last: it stays only if nothing else has what it has.
            (self.trashed.contains(&pack.index.pack), std::cmp::Reverse(live), pack.index.pack)
        });
        let all = total(packs.iter().map(|pack| pack.bytes));
        let mut read = Read::new();
        let plan = loop {
            let plan = SweepPlan::new(&packs, needed, &read);
            if self.read_copies(&packs, &plan.relied_on(&packs), &mut read, report)? {
                break plan;
            }
        };
        let mut superseded = BTreeSet::new();
        for id in stray.packs {
            if self.is_superseded(id, &packs, &plan, needed, &mut read, report)? {
                superseded.insert(id);
            } else {
                let problem = "may have the last whole copy of an object, and stays: run `mif fsck --repair`";
                report.warnings.push(format!("{}: {problem}", pack_key(&id)));
            }
        }
        report.packs_kept = plan.kept;
        report.garbage_kept = plan.garbage;
        let len = |pack: &PackId| self.storage.len(&pack_key(pack)).unwrap_or(0);
        report.pack_bytes = [all.saturating_add(total(superseded.iter().map(len))); 2];
        let (dropped, repacked): (Vec<_>, Vec<_>) =
            plan.going.into_iter().partition(|(_, entries)| entries.is_empty());
        let ids = |going: &[(usize, Vec<IndexEntry>)]| -> BTreeSet<PackId> {
            going.iter().map(|(number, _)| packs[*number].index.pack).collect()
        };
        let (dropped, repacked_ids) = (&ids(&dropped) | &superseded, ids(&repacked));
        report.stray_indexes = stray.indexes.len() as u64;
        if self.dry_run {
            let moved = repacked.iter().flat_map(|(_, entries)| entries);
            report.packs_dropped = dropped.len() as u64;
            report.packs_repacked = repacked.len() as u64;
            report.pack_bytes[1] = report.pack_bytes[1]
                .saturating_sub(total(dropped.iter().chain(&repacked_ids).map(len)))
                .saturating_add(total(moved.map(|entry| entry.stored_len)));
            return Ok(());
        }
        let going = &dropped | &repacked_ids;
        trash::forget_packs(self.storage, &|pack| !going.contains(pack))
            .map_err(|e| trash::failed(self.storage, &e))?;
        if !going.is_empty() {
            clear_index_cache(self.storage).map_err(|e| self.storage.error("index", &e))?;
        }
        stray.indexes.iter().try_for_each(|pack| self.delete(&index_key(pack)))?;
        // These first: on a disk that is full they make the room to repack others.
        report.packs_dropped = self.discard(&dropped, report)?;
        match self.repack(&packs, &repacked)? {
            Repacked::Written(written) => {
                report.packs_repacked = repacked.len() as u64;
                report.pack_bytes[1] = report.pack_bytes[1].saturating_add(total(written.iter().map(len)));
                self.tell_images(&repacked_ids, &written)?;
                self.discard(&repacked_ids, report)?;
            }
            Repacked::NoRoom(error) => {
                let count = repacked.len();
                report.warnings.push(format!("{}; {count} packs stay as they are", error.message()));
                report.packs_kept += count as u64;
            }
        }
        Ok(())
    }

    /// Puts packs into the trash, and deletes those that nobody uses any more; gives how many these were.
    fn discard(&self, going: &BTreeSet<PackId>, report: &mut GcReport) -> Result<u64> {
        if going.is_empty() {
            return Ok(0);
        }
        let failed = |e: std::io::Error| trash::failed(self.storage, &e);
        let left = self.store.end_epoch(|epoch| trash::add_packs(self.storage, epoch, going));
        let left = match left {
            Err(e) if is_full(&e) => {
                report.warnings.push(format!(
                    "{}: the disk is too full to delete {} packs while other commands use the store",
                    self.storage.place(),
                    going.len()
                ));
                report.packs_waiting += going.len() as u64;
                return Ok(0);
            }
            left => left.map_err(failed)?,
        };
        let since = trash::packs(self.storage).map_err(failed)?;
        // Alone, gc needs no trash. Otherwise a pack that is not in it, whatever happened to its entry, waits.
        let is_unused =
            |pack: &&PackId| since.get(pack).map_or(left.is_alone(), |epoch| *epoch <= left.oldest);
        let unused: BTreeSet<PackId> = going.iter().filter(is_unused).copied().collect();
        let mut deleted = BTreeSet::new();
        if let Some(needed) = self.needed_now(left.oldest, &unused)? {
            for pack in unused {
                if self.is_free(&pack, &needed)? {
                    let bytes = self.storage.len(&pack_key(&pack)).unwrap_or(0);
                    report.pack_bytes[1] = report.pack_bytes[1].saturating_sub(bytes);
                    self.delete(&index_key(&pack))?;
                    self.delete(&pack_key(&pack))?;
                    deleted.insert(pack);
                }
            }
        }
        trash::forget_packs(self.storage, &|pack| deleted.contains(pack)).map_err(failed)?;
        report.packs_waiting += (going.len() - deleted.len()) as u64;
        Ok(deleted.len() as u64)
    }

    /// What images need that were not there when gc began, and those in the trash that somebody may still read. None
    /// if it cannot be told, or if nothing asks for it.
    fn needed_now(&self, oldest: u64, unused: &BTreeSet<PackId>) -> Result<Option<HashSet<ObjectId>>> {
        if unused.is_empty() {
            return Ok(None);
        }
        let mut images = Vec::new();
        for name in self.store.names()? {
            for version in self.store.versions(&name)? {
                if !self.needed.images.contains(&(name.clone(), version)) {
                    images.push(self.store.version(&name, version));
                }
            }
        }
        let trashed = trash::images(self.storage).map_err(|e| trash::failed(self.storage, &e))?;
        images.extend(
            trashed.iter().filter(|image| image.epoch > oldest).map(|image| self.store.trashed(image)),
        );
        let mut needs = Needs::default();
        if images.is_empty() {
            return Ok(Some(needs.objects));
        }
        let objects = Objects::new(self.store.storage().clone(), Arc::new(Index::load(self.storage)?));
        for image in images {
            progress::check(self.progress)?;
            match readable(image.and_then(|image| needs.add(&image, &objects)))? {
                Ok(0) => {}
                _ => return Ok(None),
            }
        }
        Ok(Some(needs.objects))
    }

    /// Whether a pack has nothing that is needed, and is still what it was when gc looked at it.
    fn is_free(&self, pack: &PackId, needed: &HashSet<ObjectId>) -> Result<bool> {
        if needed.is_empty() {
            return Ok(true);
        }
        Ok(readable(PackIndex::load(self.storage, *pack))?
            .is_ok_and(|index| index.entries().iter().all(|e| !needed.contains(&e.id))))
    }

    /// Writes into the images' lists of packs where their objects are now.
    fn tell_images(&self, gone: &BTreeSet<PackId>, written: &BTreeSet<PackId>) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        for name in self.store.names()? {
            for version in self.store.versions(&name)? {
                if let Ok(image) = readable(self.store.version(&name, version))? {
                    image.replace_packs(gone, written)?;
                }
            }
        }
        Ok(())
    }

    /// Whether all that is needed of a pack without an index file has a whole copy in a pack that stays.
    fn is_superseded(
        &self,
        id: PackId,
        packs: &[Pack],
        plan: &SweepPlan,
        needed: &HashSet<ObjectId>,
        read: &mut Read,
        report: &mut GcReport,
    ) -> Result<bool> {
        // Without its own index, nothing in it can be found.
        let Ok((own, _)) = readable(PackIndex::from_pack(self.storage, id))? else { return Ok(true) };
        let mut copies = Vec::new();
        for entry in own.entries().iter().filter(|entry| needed.contains(&entry.id)) {
            let Some(number) = plan.counted.get(&entry.id) else { return Ok(false) };
            copies.push((*number, entry.id));
        }
        self.read_copies(packs, &copies, read, report)?;
        Ok(copies.iter().all(|copy| read.get(copy) == Some(&true)))
    }

    /// Reads copies that were not read before. Gives whether all of them are whole.
    fn read_copies(
        &self,
        packs: &[Pack],
        copies: &[(usize, ObjectId)],
        read: &mut Read,
        report: &mut GcReport,
    ) -> Result<bool> {
        let mut whole = true;
        for (number, id) in copies {
            progress::check(self.progress)?;
            if read.contains_key(&(*number, *id)) {
                continue;
            }
            let pack = &packs[*number].index;
            let place = pack.entries().binary_search_by_key(id, |entry| entry.id);
            let entry = &pack.entries()[place.expect("the plan names what the pack's index has")];
            let stored = match self.read(&pack.pack, entry) {
                // Whether it is whole is not known, so nothing can be removed that it may be needed for.
                Err(e) if e.is_unreadable() => return Err(e),
                stored => stored,
            };
            let found = stored.and_then(|stored| {
                decode_object(entry, &stored).map_err(|problem| {
                    Error::store(format!("{}: object {id}: {problem}", pack_key(&pack.pack)))
                })
            });
            if let Err(e) = &found {
                report.warnings.push(e.message().to_owned());
                whole = false;
            }
            read.insert((*number, *id), found.is_ok());
        }
        Ok(whole)
    }

    fn read(&self, pack: &PackId, entry: &IndexEntry) -> Result<Vec<u8>> {
        let key = pack_key(pack);
        self.storage
            .read(&key, entry.offset..entry.offset.saturating_add(entry.stored_len))
            .map_err(|e| Error::file(&format!("{}/{key}: object {}", self.storage.place(), entry.id), &e))
    }

    /// Writes objects into new packs, if there is room for them.
    fn repack(&self, packs: &[Pack], moved: &[(usize, Vec<IndexEntry>)]) -> Result<Repacked> {
        let was_full = Cell::new(false);
        let failed = |e: std::io::Error| {
            was_full.set(is_full(&e));
            Error::store(format!("{}: cannot write to the store: {e}", self.storage.place()))
        };
        match self.write_again(packs, moved, &failed) {
            Ok(written) => Ok(Repacked::Written(written)),
            Err(e) if was_full.get() => Ok(Repacked::NoRoom(e)),
            Err(e) => Err(e),
        }
    }

    fn write_again(
        &self,
        packs: &[Pack],
        moved: &[(usize, Vec<IndexEntry>)],
        failed: &dyn Fn(std::io::Error) -> Error,
    ) -> Result<BTreeSet<PackId>> {
        let bytes = total(moved.iter().flat_map(|(_, entries)| entries).map(|e| e.stored_len));
        self.progress.stage("repacking", bytes);
        let mut current: Option<PackWriter<Box<dyn Upload>>> = None;
        let mut written = BTreeSet::new();
        for (number, entries) in moved {
            let pack = &packs[*number].index.pack;
            let mut entries = entries.clone();
            entries.sort_by_key(|entry| entry.offset);
            for entry in &entries {
                progress::check(self.progress)?;
                let stored = self.read(pack, entry)?;
                let writer = match &mut current {
                    Some(writer) => writer,
                    none => none.insert(new_pack(self.storage).map_err(failed)?),
                };
                writer.add(entry.id, entry.encoding, &stored, entry.len).map_err(failed)?;
                self.progress.advance(entry.stored_len);
                if writer.len() >= MAX_PACK
                    && let Some(full) = current.take()
                {
                    written.insert(put_pack(self.storage, full).map_err(failed)?.0);
                }
            }
        }
        if let Some(last) = current {
            written.insert(put_pack(self.storage, last).map_err(failed)?.0);
        }
        Ok(written)
    }

    /// Removes what was left in `tmp` by somebody who was stopped: all that is older than whoever uses the store.
    fn unfinished(&self, report: &mut GcReport) -> Result<()> {
        let failed = |e: std::io::Error| self.storage.error("tmp", &e);
        let names = self.storage.list("tmp").map_err(failed)?;
        let begun = names.iter().filter_map(|name| Some((name, unfinished_epoch(name)?)));
        let begun: Vec<(&String, u64)> = begun.collect();
        if begun.is_empty() {
            return Ok(());
        }
        let oldest = match self.dry_run {
            true => u64::MAX,
            false => match self.store.end_epoch(|_| Ok(())) {
                Err(e) if is_full(&e) => return Ok(()),
                left => left.map_err(failed)?.oldest,
            },
        };
        let left: Vec<&String> =
            begun.into_iter().filter(|(_, epoch)| *epoch < oldest).map(|(name, _)| name).collect();
        report.unfinished = left.len() as u64;
        left.into_iter().try_for_each(|name| self.delete(&format!("tmp/{name}")))
    }

    fn delete(&self, key: &str) -> Result<()> {
        if self.dry_run {
            return Ok(());
        }
        self.storage.delete(key).map_err(|e| self.storage.error(key, &e))
    }
}
