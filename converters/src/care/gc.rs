//! `gc`: removes versions that no rule keeps, and then the packs that no image needs.
//!
//! No pack is removed unless everything that images need is known and exists, and unless the remaining copy of each
//! needed object in the pack was read and is intact. Packs that are mostly garbage are rewritten without it: the new
//! pack and its index are written first, then the old index is removed, then the old pack. So a killed process leaves
//! at most garbage.
//!
//! Others may use the store meanwhile. So a pack is removed in two steps: it goes into the trash, where no new import
//! relies on it, and is deleted once everyone who entered earlier has left and a second look at the images finds it
//! unneeded. If nobody uses the store, one run does both; otherwise a later run does the second.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use mif_formats::mif::pack::{IndexEntry, PackWriter};
use mif_formats::mif::{ObjectId, PackId};
use serde::Serialize;

use crate::catalog::{self, Opened};
use crate::error::{Error, Result, readable};
use crate::store::{
    DamagedImage, Index, Needs, Objects, PackIndex, Storage, Store, Upload, clear_index_cache, decode_object,
    index_key, is_full, new_pack, pack_files, pack_key, put_pack, strangers, total, trash, unfinished_epoch,
};
use crate::task::pool::in_order;
use crate::task::progress::{self, Progress};

/// A pack is rewritten if less than this share of its bytes is needed.
const REPACK_BELOW: f64 = 0.5;

/// Which versions to keep.
#[derive(Debug, Clone, Default)]
pub struct GcOptions {
    /// Keep this many of the newest versions of each image. The newest version and tagged versions are always kept. If
    /// neither this nor `keep_within` is set, every version is kept.
    pub keep_last: Option<usize>,
    /// Keep versions made within this many seconds.
    pub keep_within: Option<u64>,
    /// Keep the newest version of each of this many periods in which a version was made.
    pub keep_periods: Vec<(Period, usize)>,
    /// Keep only versions with a tag that one of these patterns matches, not all tagged ones. The newest version of
    /// each image stays anyway.
    pub keep_tags: Vec<String>,
    /// Only report what would be done.
    pub dry_run: bool,
}

/// A period of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Period {
    Hour,
    Day,
    /// From Monday.
    Week,
    Month,
    Year,
}

impl Period {
    /// Returns a number of the period that a time is in; `time` is in seconds since 1970.
    fn of(self, time: u64) -> i64 {
        use chrono::Datelike;
        let days = (time / 86400) as i64;
        let date = || chrono::DateTime::from_timestamp(i64::try_from(time).unwrap_or(i64::MAX), 0);
        match self {
            Period::Hour => (time / 3600) as i64,
            Period::Day => days,
            // 1970 began on a Thursday.
            Period::Week => (days + 3).div_euclid(7),
            Period::Month => date().map_or(0, |date| i64::from(date.year()) * 12 + i64::from(date.month0())),
            Period::Year => date().map_or(0, |date| i64::from(date.year())),
        }
    }
}

/// What `gc` did or would do.
#[derive(Debug, Clone, Default, Serialize)]
pub struct GcReport {
    /// True if this was a dry run, which changes nothing.
    pub dry_run: bool,
    /// True if no damage was found. Packs that damaged images or objects may need stay.
    pub whole: bool,
    /// Removed versions, as `name@version`.
    pub forgotten: Vec<String>,
    /// Images that are damaged, incomplete or have vanished. As long as there are any, every pack stays, because any
    /// may contain what the repair needs.
    pub damaged: Vec<DamagedImage>,
    /// Packs that stay unchanged.
    pub packs_kept: u64,
    /// Packs that were deleted.
    pub packs_dropped: u64,
    /// Packs that were rewritten without their garbage.
    pub packs_repacked: u64,
    /// Packs that are not needed, but stay until the current users of the store have left: a later gc deletes them.
    pub packs_waiting: u64,
    /// Index files without a pack that were deleted.
    pub stray_indexes: u64,
    /// Unfinished files that were deleted, and files of work that machines had divided among themselves.
    pub unfinished: u64,
    /// Files of the catalog that were deleted, because no query uses them any more.
    pub catalog_files: u64,
    /// Bytes of packs before and after.
    pub pack_bytes: [u64; 2],
    /// Bytes of unneeded objects that stay because they are a small part of their packs.
    pub garbage_kept: u64,
    /// Damaged copies of objects and failed steps, each a sentence.
    pub warnings: Vec<String>,
    /// Files in the store that do not belong to it and were left alone: the first of their names, relative to the
    /// store.
    pub strangers: Vec<String>,
}

/// Collects the garbage of a store. Unless this is a dry run, the store must have been opened for removal.
pub fn gc(store: &Store, options: &GcOptions, progress: &dyn Progress) -> Result<GcReport> {
    if !options.dry_run {
        store.check_may_remove()?;
    }
    store.storage().bypass_caches();
    progress.stage("finding what images need", 0);
    let mut report = GcReport { dry_run: options.dry_run, ..GcReport::default() };
    let mut forgotten = forgotten(store, options, &mut report)?;
    let storage = &**store.storage();
    let trashed = trash::packs(storage).map_err(|e| trash::failed(storage, &e))?;
    let (packs, stray) = packs(storage)?;
    let needed = needed(store, &packs, &mut forgotten, progress, &mut report)?;
    if !options.dry_run {
        for (name, version) in &forgotten {
            // Only --keep-tag lets a tagged version go.
            for tag in store.tags(name)?.into_iter().filter(|tag| tag.version == *version) {
                store.remove_tag(name, &tag.tag)?;
            }
            store.remove_version(name, *version)?;
        }
        catalog::forget_removed(store)?;
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
    report.unfinished += store.forget_runs(options.dry_run)?;
    sweep.catalog(&mut report)?;
    report.strangers = strangers(storage).map_err(|e| Error::file(&storage.place(), &e))?.0;
    report.whole = report.damaged.is_empty() && report.warnings.is_empty();
    Ok(report)
}

/// Returns the versions that no rule keeps.
fn forgotten(store: &Store, options: &GcOptions, report: &mut GcReport) -> Result<BTreeSet<(String, u32)>> {
    let mut forgotten = BTreeSet::new();
    let keep_tags = options.keep_tags.iter().map(|text| {
        glob::Pattern::new(text).map_err(|e| Error::usage(format!("invalid pattern \"{text}\": {}", e.msg)))
    });
    let keep_tags: Vec<glob::Pattern> = keep_tags.collect::<Result<_>>()?;
    let GcOptions { keep_last, keep_within, keep_periods, .. } = options;
    if keep_last.is_none() && keep_within.is_none() && keep_periods.is_empty() && keep_tags.is_empty() {
        return Ok(forgotten);
    }
    check_patterns(store, &keep_tags)?;
    let since = options.keep_within.map(|seconds| store.storage().now().saturating_sub(seconds));
    for name in store.names()? {
        let tagged: HashSet<u32> = match store.tags(&name) {
            Ok(tags) => {
                let is_kept =
                    |tag: &str| keep_tags.is_empty() || keep_tags.iter().any(|pattern| pattern.matches(tag));
                tags.into_iter().filter(|tag| is_kept(&tag.tag)).map(|tag| tag.version).collect()
            }
            // Any version may have the unreadable tag.
            Err(e) => {
                report.warnings.push(format!("{}; no version of {name} was removed", e.message()));
                continue;
            }
        };
        let mut versions = store.versions(&name)?;
        versions.reverse();
        let by_period = kept_by_period(store, &name, &versions, keep_periods);
        for (age, version) in versions.into_iter().enumerate().skip(1) {
            let last = options.keep_last.is_some_and(|n| age < n);
            // A version whose record is unreadable may be recent.
            let recent = since.is_some_and(|since| {
                store.version(&name, version).map_or(true, |stored| stored.image.provenance.time >= since)
            });
            if !last && !recent && !by_period.contains(&version) && !tagged.contains(&version) {
                forgotten.insert((name.clone(), version));
            }
        }
    }
    Ok(forgotten)
}

/// Fails if a pattern matches no tag: mistyped, it would let the tagged versions go.
fn check_patterns(store: &Store, patterns: &[glob::Pattern]) -> Result<()> {
    let mut unused: Vec<&glob::Pattern> = patterns.iter().collect();
    for name in store.names()?.iter().filter(|_| !patterns.is_empty()) {
        // Unreadable tags keep all versions.
        let tags = store.tags(name).unwrap_or_default();
        unused.retain(|pattern| !tags.iter().any(|tag| pattern.matches(&tag.tag)));
    }
    match unused.first() {
        Some(pattern) => Err(Error::usage(format!("--keep-tag {pattern}: no tag matches"))
            .advise("Nothing was removed; `mif log` shows the tags")),
        None => Ok(()),
    }
}

/// Returns the versions that are the newest of one of the periods to keep. `versions` are in descending order. A
/// version whose record is unreadable is kept, because it may be any.
fn kept_by_period(store: &Store, name: &str, versions: &[u32], periods: &[(Period, usize)]) -> HashSet<u32> {
    if periods.is_empty() {
        return HashSet::new();
    }
    let time = |version: u32| store.version(name, version).ok().map(|stored| stored.image.provenance.time);
    let times: Vec<(u32, Option<u64>)> = versions.iter().map(|version| (*version, time(*version))).collect();
    let mut kept: HashSet<u32> =
        times.iter().filter(|(_, time)| time.is_none()).map(|(version, _)| *version).collect();
    for (period, count) in periods {
        let mut seen = BTreeSet::new();
        for (version, time) in times.iter().filter_map(|(version, time)| Some((*version, (*time)?))) {
            if seen.len() == *count {
                break;
            }
            if seen.insert(period.of(time)) {
                kept.insert(version);
            }
        }
    }
    kept
}

/// A pack that exists, with its index.
struct Pack {
    index: PackIndex,
    bytes: u64,
}

impl Pack {
    /// Returns true if the pack is long enough to contain an object in its index.
    fn holds(&self, entry: &IndexEntry) -> bool {
        entry.offset.checked_add(entry.stored_len).is_some_and(|end| end <= self.bytes)
    }
}

/// Returns all packs that have an index, and the packs and indexes that lack the other.
fn packs(storage: &dyn Storage) -> Result<(Vec<Pack>, Stray)> {
    // In this order, because writers write a pack before its index.
    let indexed = PackIndex::ids(storage)?;
    let (mut packs, mut stray) = (Vec::new(), Stray { indexes: Vec::new(), packs: pack_files(storage)? });
    let keys: Vec<String> = indexed.iter().map(pack_key).collect();
    for ((id, key), len) in indexed.into_iter().zip(&keys).zip(storage.lens(&keys)) {
        if !stray.packs.remove(&id) {
            stray.indexes.push(id);
            continue;
        }
        let index = PackIndex::load(storage, id)?;
        packs.push(Pack { index, bytes: len.map_err(|e| storage.error(key, &e))? });
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
    /// The images that were examined.
    images: BTreeSet<(String, u32)>,
}

/// Returns what the remaining images need. Images whose needs are unknown or missing are reported as damaged, and all
/// versions of their names stay: an older one may be the last intact one.
fn needed(
    store: &Store,
    packs: &[Pack],
    forgotten: &mut BTreeSet<(String, u32)>,
    progress: &dyn Progress,
    report: &mut GcReport,
) -> Result<Needed> {
    let index = Index::default();
    for pack in packs {
        // Of a truncated pack, only the objects before the cut count as present.
        let there: Vec<IndexEntry> =
            pack.index.entries().iter().filter(|entry| pack.holds(entry)).cloned().collect();
        index.add(pack.index.pack, &there);
    }
    let objects = Objects::new(store.storage().clone(), Arc::new(index));
    let mut needs = Needs::default();
    let mut images = BTreeSet::new();
    for name in store.names()? {
        images.extend(store.versions(&name)?.into_iter().map(|version| (name.clone(), version)));
    }
    let read = |(name, version): &(String, u32)| {
        let record = store.version(name, *version);
        let problem = record.as_ref().err().map(|e| DamagedImage::new(name, *version, e));
        let stored = record.or_else(|_| store.published(name, *version));
        Ok((problem, stored.ok().map(|stored| stored.named_objects())))
    };
    // Returns the names of damaged images.
    let mut add = |versions: &[(String, u32)], damaged: &mut Vec<DamagedImage>| {
        let mut names = HashSet::new();
        in_order(versions, progress, read, |(name, version), (problem, named)| {
            let before = damaged.len();
            damaged.extend(problem);
            match named.map(|named| named.and_then(|named| needs.add(named, &objects))) {
                None | Some(Ok(0)) => {}
                Some(Ok(missing)) => damaged.push(DamagedImage {
                    image: format!("{name}@{version}"),
                    problem: format!("the store lacks {missing} objects that it needs"),
                }),
                Some(Err(e)) => damaged.push(DamagedImage::new(name, *version, &e)),
            }
            if damaged.len() > before {
                names.insert(name.clone());
            }
            Ok(())
        })?;
        Ok::<_, Error>(names)
    };
    let kept: Vec<(String, u32)> = images.difference(forgotten).cloned().collect();
    let damaged_names = add(&kept, &mut report.damaged)?;
    let mut old = Vec::new();
    forgotten.retain(|version| {
        let stays = damaged_names.contains(&version.0);
        if stays {
            old.push(version.clone());
        }
        !stays
    });
    add(&old, &mut report.damaged)?;
    report.damaged.extend(store.vanished()?.into_iter().map(|(name, version)| DamagedImage {
        image: format!("{name}@{version}"),
        problem: format!(
            "its directory is gone; run `mif fsck` to recover it, or \
             `mif rm {name}@{version}` to remove it"
        ),
    }));
    Ok(Needed { objects: needs.objects, images })
}

/// The result of repacking.
enum Repacked {
    /// The packs that were written.
    Written(BTreeSet<PackId>),
    /// The disk is full: the old packs stay.
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

/// What happens to each pack.
#[derive(Default)]
struct SweepPlan {
    kept: u64,
    /// Bytes of garbage in the kept packs.
    garbage: u64,
    /// Packs to delete, by number, each with the objects to copy into a new pack first.
    going: Vec<(usize, Vec<IndexEntry>)>,
    /// For each needed object, the number of the pack whose copy stays.
    counted: HashMap<ObjectId, usize>,
}

/// Copies of objects that were read: true if the copy is intact.
type Read = HashMap<(usize, ObjectId), bool>;

impl SweepPlan {
    /// Makes a plan for packs sorted by how much of them is needed. If several packs contain an object, its first copy
    /// that was not found damaged counts. A pack with the last copy of an object stays if that copy is damaged.
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

    /// Returns the copies that must be intact for this plan to lose nothing: the copied ones, and the copies in kept
    /// packs of objects that are also in deleted packs.
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
    /// Deletes and rewrites packs. Stray packs that may contain the last intact copy of an object stay.
    fn packs(&self, mut packs: Vec<Pack>, stray: Stray, report: &mut GcReport) -> Result<()> {
        let needed = &self.needed.objects;
        packs.sort_by_cached_key(|pack| {
            let entries = pack.index.entries().iter().filter(|entry| needed.contains(&entry.id));
            let live = total(entries.map(|entry| entry.stored_len));
            // Trashed packs come last: they stay only if nothing else contains their objects.
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
                let problem =
                    "kept, because it may have the last intact copy of an object; run `mif fsck --repair`";
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
        // These first: on a full disk, deleting them frees space for repacking others.
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
                report.warnings.push(format!("{}; {count} packs were not repacked", error.message()));
                report.packs_kept += count as u64;
            }
        }
        Ok(())
    }

    /// Puts packs into the trash, deletes those that nobody uses any more, and returns how many it deleted.
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
        let mut oldest = left.oldest;
        if self.storage.settle().map_err(failed)? && !left.is_alone() {
            oldest = oldest.min(self.storage.oldest().map_err(failed)?);
        }
        let since = trash::packs(self.storage).map_err(failed)?;
        // With exclusive access, gc needs no trash. Otherwise a pack that is not in the trash, for whatever reason,
        // waits.
        let is_unused = |pack: &&PackId| since.get(pack).map_or(left.is_alone(), |epoch| *epoch <= oldest);
        let unused: BTreeSet<PackId> = going.iter().filter(is_unused).copied().collect();
        let mut deleted = BTreeSet::new();
        if let Some(needed) = self.needed_now(oldest, &unused)? {
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

    /// Returns the objects needed by images that appeared after gc began, and by images in the trash that may still be
    /// read. Returns `None` if that cannot be determined, or if `unused` is empty.
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
            match readable(image.and_then(|image| needs.add(image.named_objects()?, &objects)))? {
                Ok(0) => {}
                _ => return Ok(None),
            }
        }
        Ok(Some(needs.objects))
    }

    /// Returns true if a pack's index can still be read and lists none of the `needed` objects, or if there are none.
    fn is_free(&self, pack: &PackId, needed: &HashSet<ObjectId>) -> Result<bool> {
        if needed.is_empty() {
            return Ok(true);
        }
        Ok(readable(PackIndex::load(self.storage, *pack))?
            .is_ok_and(|index| index.entries().iter().all(|e| !needed.contains(&e.id))))
    }

    /// Updates the images' lists of packs with the new places of their objects.
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

    /// Returns true if each needed object in a pack without an index file has an intact copy in a pack that stays.
    fn is_superseded(
        &self,
        id: PackId,
        packs: &[Pack],
        plan: &SweepPlan,
        needed: &HashSet<ObjectId>,
        read: &mut Read,
        report: &mut GcReport,
    ) -> Result<bool> {
        // Without its own index, its objects cannot be located.
        let Ok((own, _)) = readable(PackIndex::from_pack(self.storage, id))? else { return Ok(true) };
        let mut copies = Vec::new();
        for entry in own.entries().iter().filter(|entry| needed.contains(&entry.id)) {
            let Some(number) = plan.counted.get(&entry.id) else { return Ok(false) };
            copies.push((*number, entry.id));
        }
        self.read_copies(packs, &copies, read, report)?;
        Ok(copies.iter().all(|copy| read.get(copy) == Some(&true)))
    }

    /// Reads copies that were not read before. Returns true if all of these are intact.
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
                // It may be intact, so nothing that may need it can be removed.
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

    /// Writes objects into new packs, if there is space for them.
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
                if writer.len() >= self.storage.pack_size()
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

    /// Removes files that interrupted processes left in `tmp`: those of epochs older than any in use.
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

    /// Deletes files of the catalog that it does not need.
    fn catalog(&self, report: &mut GcReport) -> Result<()> {
        let kept = match catalog::open(self.storage) {
            Ok(Opened::Catalog(coverage)) => coverage.segments.into_keys().collect(),
            Ok(Opened::None | Opened::Damaged(_)) => BTreeSet::new(),
            Ok(Opened::Newer(_)) => return Ok(()),
            Err(e) => {
                report.warnings.push(format!("{}; the catalog's unused files were not removed", e.message()));
                return Ok(());
            }
        };
        report.catalog_files = catalog::sweep(self.store, &kept, self.dry_run)?;
        Ok(())
    }

    fn delete(&self, key: &str) -> Result<()> {
        if self.dry_run {
            return Ok(());
        }
        self.storage.delete(key).map_err(|e| self.storage.error(key, &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_those_of_the_calendar() {
        // Sunday, 2026-11-29 23:59:59, and a second later.
        let (before, after) = (1_795_996_799, 1_795_996_800);
        for period in [Period::Hour, Period::Day, Period::Week] {
            assert_ne!(period.of(before), period.of(after), "{period:?}");
        }
        for period in [Period::Month, Period::Year] {
            assert_eq!(period.of(before), period.of(after), "{period:?}");
        }
        assert_eq!(Period::Month.of(after + 86_400), Period::Month.of(after) + 1);
        assert_eq!(Period::Week.of(0), Period::Week.of(3 * 86_400), "1970 began on a Thursday");
        assert_eq!(Period::Week.of(4 * 86_400), 1);
    }
}
