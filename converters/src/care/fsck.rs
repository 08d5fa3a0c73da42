//! `fsck`: checks that everything images need is in the store and intact. If not, reports which images and which of
//! their files are affected, and how to recover them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use mif_formats::mif::layout::{Layout, Origin};
use mif_formats::mif::manifest::columns::{Column, Columns};
use mif_formats::mif::manifest::{Body, Row, escape_apart};
use mif_formats::mif::{ObjectId, ObjectKind};
use sha1::{Digest, Sha1};

use super::packs::{PackState, check_packs};
use super::report::{FsckOptions, FsckReport, LostImage, Verdict};
use super::shared::{Files, Shared, check_digests};
use super::{records, repair};
use crate::catalog::{self, Opened};
use crate::error::{Error, Result, damaged};
use crate::store::{Alike, Image, Objects, Shard, Store, names_of, strangers};
use crate::task::pool::in_order;
use crate::task::progress::{self, Progress};

/// The maximum number of paths of an image that a report names.
const MAX_PATHS: usize = 1000;

/// The maximum number of rounds in which a repair looks for more to repair.
const MAX_ROUNDS: usize = 4;

/// Checks a store. To repair it, it must have been opened with [`Store::open_to_repair`].
pub fn fsck(store: &Store, options: &FsckOptions, progress: &dyn Progress) -> Result<FsckReport> {
    options.check()?;
    store.storage().bypass_caches();
    let mut report = match options.repair {
        true => check_and_mend(store, options, progress)?,
        false => check(store, false, Shard::WHOLE, progress)?,
    };
    note_strangers(store, &mut report)?;
    note_catalog(store, &mut report, progress)?;
    Ok(report)
}

fn check_and_mend(store: &Store, options: &FsckOptions, progress: &dyn Progress) -> Result<FsckReport> {
    store.check_may_repair()?;
    let mut done = store.mended.clone();
    let images = images(store)?;
    let mut state = check_packs(store, false, Shard::WHOLE, progress)?;
    let mut report = check_images(store, &images, &state, Shard::WHOLE, progress)?;
    if report.verdict == Verdict::Unreadable {
        report.repaired = done;
        return Ok(report);
    }
    let packs = repair::packs(store, &state)?;
    if !packs.is_empty() {
        done.extend(packs);
        state = check_packs(store, false, Shard::WHOLE, progress)?;
        report = check_images(store, &images, &state, Shard::WHOLE, progress)?;
    }
    // Each part restored from originals allows others to be rebuilt: the chunks of a list, the objects of a layout, or
    // the manifest of a disk.
    let mut notes = BTreeSet::new();
    for _ in 0..MAX_ROUNDS {
        let mended = records::mend(store, &report, &state, progress)?;
        let mut changed = !mended.is_empty();
        done.extend(mended);
        if !report.clean && !options.from.is_empty() {
            let restored = repair::from_disks(store, &report, options, progress, &mut notes)?;
            changed |= !restored.is_empty();
            done.extend(restored);
            state = check_packs(store, false, Shard::WHOLE, progress)?;
        }
        if !changed {
            break;
        }
        report = check_images(store, &images, &state, Shard::WHOLE, progress)?;
    }
    report.repaired = done;
    report.notes.extend(notes);
    Ok(report)
}

/// Returns all versions that exist or have vanished.
fn images(store: &Store) -> Result<Vec<(String, u32)>> {
    let mut images = store.vanished()?;
    for name in store.names()? {
        images.extend(store.versions(&name)?.into_iter().map(|version| (name.clone(), version)));
    }
    images.sort();
    Ok(images)
}

/// Checks a shard of a store and repairs nothing. With `sha1`, also compares the content of files with the SHA-1 in
/// manifests, because objects are addressed by BLAKE3 only.
///
/// A shard is the packs and the images with these names. What any image lost in these packs is reported; other damage of
/// an image is reported in its own shard. If no shard is damaged, the store is intact.
pub(crate) fn check(store: &Store, sha1: bool, shard: Shard, progress: &dyn Progress) -> Result<FsckReport> {
    // The images first: later imports bring packs that are not checked.
    let images = images(store)?;
    let state = check_packs(store, sha1, shard, progress)?;
    check_images(store, &images, &state, shard, progress)
}

fn check_images(
    store: &Store,
    images: &[(String, u32)],
    state: &PackState,
    shard: Shard,
    progress: &dyn Progress,
) -> Result<FsckReport> {
    let mut report = FsckReport {
        images: images.iter().filter(|(name, _)| shard.contains(name)).count() as u64,
        packs: state.packs,
        objects: state.objects,
        problems: state.problems.clone(),
        notes: state.notes.clone(),
        unreadable: state.unreadable.clone(),
        ..FsckReport::default()
    };
    let objects = Objects::new(store.storage().clone(), Arc::new(state.index()));
    let shared = Shared::default();
    let checker = Checker { state, objects: &objects, lists: Mutex::default(), shared: &shared, progress };
    let mut lost = BTreeSet::new();
    progress.stage("checking images", 0);
    // Which images need what a damaged pack has lost is not known before they are read.
    let check = |(name, version): &(String, u32)| match shard.contains(name) || !state.problems.is_empty() {
        true => checker.image(store, name, *version),
        false => checker.image_of_other_shard(store, name, *version).map(Some),
    };
    in_order(images, progress, check, |(name, _), checked| {
        let Some(checked) = checked else {
            report.images -= u64::from(shard.contains(name));
            return Ok(());
        };
        report.problems.extend(checked.problems);
        report.unreadable.extend(checked.unreadable);
        report.notes.extend(checked.unnoted.iter().map(|image| {
            format!("{image}: its second record is missing or differs; `mif fsck --repair` rewrites it")
        }));
        report.unnoted.extend(checked.unnoted);
        if checked.lost.is_something() {
            report.lost.push(checked.lost);
        }
        lost.extend(checked.objects);
        Ok(())
    })?;
    let names: BTreeSet<&String> =
        images.iter().map(|(name, _)| name).filter(|name| shard.contains(name)).collect();
    names.into_iter().try_for_each(|name| check_tags(store, name, &mut report))?;
    report.lost_objects = lost.iter().map(ToString::to_string).collect();
    report.judge(store, lost.iter().all(|id| state.unindexed.contains(id)));
    Ok(report)
}

fn note_strangers(store: &Store, report: &mut FsckReport) -> Result<()> {
    let storage = &**store.storage();
    let (names, count) = strangers(storage).map_err(|e| Error::file(&storage.place(), &e))?;
    if count > 0 {
        let and_more = if count > names.len() { ", …" } else { "" };
        report.notes.push(format!(
            "{} not belong to the store and {} left alone: {}{and_more}",
            if count == 1 { "1 file does".to_owned() } else { format!("{count} files do") },
            if count == 1 { "is" } else { "are" },
            names.join(", ")
        ));
    }
    Ok(())
}

/// Checks the catalog. Damage to it becomes a note and not a problem, because it is derived from the images.
fn note_catalog(store: &Store, report: &mut FsckReport, progress: &dyn Progress) -> Result<()> {
    let damage = match catalog::open(&**store.storage()) {
        Ok(Opened::Catalog(coverage)) => {
            progress.stage("checking the catalog", 0);
            let mut segments = coverage.segments.iter();
            segments.find_map(|(name, segment)| {
                catalog::check_segment(store.storage(), name, segment, true, progress).err()
            })
        }
        Ok(Opened::None) => None,
        Ok(Opened::Newer(e) | Opened::Damaged(e)) | Err(e) => Some(e),
    };
    progress::check(progress)?;
    if let Some(error) = damage {
        report.notes.push(format!(
            "the catalog cannot be used: {}; searches do without it, and `mif catalog --check` makes it again",
            error.message()
        ));
    }
    Ok(())
}

fn check_tags(store: &Store, name: &str, report: &mut FsckReport) -> Result<()> {
    let versions = store.versions(name)?;
    match store.tags(name) {
        Ok(tags) => {
            for tag in tags.iter().filter(|tag| !versions.contains(&tag.version)) {
                report.notes.push(format!(
                    "{name}@{}: points to version {}, which does not exist",
                    tag.tag, tag.version
                ));
            }
        }
        Err(e) if e.is_unreadable() => report.unreadable.push(e.message().to_owned()),
        Err(e) => report.problems.push(e.to_string()),
    }
    Ok(())
}

/// Checks images against the intact objects.
struct Checker<'a> {
    state: &'a PackState,
    objects: &'a Objects,
    /// The lists that were checked. Locked while one is, so that none is read twice.
    lists: Mutex<HashMap<ObjectId, CheckedList>>,
    shared: &'a Shared,
    progress: &'a dyn Progress,
}

/// A list that was checked.
#[derive(Clone, Copy)]
struct CheckedList {
    /// True if it is intact, with all its chunks.
    is_whole: bool,
    /// The SHA-1 of its content, if SHA-1 was computed for other objects too.
    sha1: Option<[u8; 20]>,
}

/// What was found in an image.
#[derive(Default)]
struct CheckedImage {
    lost: LostImage,
    /// The objects that are missing or damaged.
    objects: HashSet<ObjectId>,
    problems: Vec<String>,
    unreadable: Vec<String>,
    /// The image, if its second record is missing or differs.
    unnoted: Option<String>,
}

impl CheckedImage {
    /// Records that a part of the image is damaged, or cannot be read now.
    fn problem(&mut self, part: &str, error: &Error) {
        if error.is_unreadable() {
            self.unreadable.push(error.message().to_owned());
        } else {
            self.lost.parts.push(part.to_owned());
            self.problems.push(error.message().to_owned());
        }
    }
}

impl Checker<'_> {
    /// Checks an image. Returns `None` if it has been removed meanwhile.
    fn image(&self, store: &Store, name: &str, version: u32) -> Result<Option<CheckedImage>> {
        let checked = self.look_at_image(store, name, version)?;
        let is_damaged = checked.lost.is_something() || !checked.unreadable.is_empty();
        Ok(if is_damaged && store.is_removed(name, version)? { None } else { Some(checked) })
    }

    /// Compares the SHA-1 of an image's files with those of the objects of this shard. Everything else of the image is
    /// checked in its own shard.
    fn image_of_other_shard(&self, store: &Store, name: &str, version: u32) -> Result<CheckedImage> {
        let mut image = CheckedImage::default();
        image.lost.image = format!("{name}@{version}");
        if !self.state.hashed {
            return Ok(image);
        }
        let manifest = store.version(name, version).and_then(|stored| stored.manifest_file());
        let Some(columns) = manifest.ok().and_then(|bytes| Columns::open(bytes).ok()) else {
            return Ok(image);
        };
        for group in columns.groups() {
            let wrong = |e: mif_formats::Error| damaged(&image.lost.image, &e);
            let sha1 = group.digests::<20>(Column::Sha1).map_err(wrong)?;
            let blake3 = group.digests::<32>(Column::Blake3).map_err(wrong)?;
            for (row, (sha1, blake3)) in sha1.into_iter().zip(blake3).enumerate() {
                let (Some(said), Some(digest)) = (sha1, blake3) else { continue };
                let id = self.stored_as(ObjectId::content(digest));
                if self.state.whole.contains_key(&id)
                    && self.whole(&id, &mut CheckedImage::default())?
                    && self.sha1(&id).is_some_and(|found| found != said)
                    && image.lost.wrong_sha1.len() < MAX_PATHS
                {
                    let text = |column| -> Result<String> {
                        let texts = group.texts_at(column, &[row]).map_err(|e| damaged(name, &e))?;
                        Ok(String::from_utf8_lossy(texts[0].data()).into_owned())
                    };
                    let path = format!("{}:{}", text(Column::Volume)?, text(Column::Path)?);
                    image.lost.wrong_sha1.push(path);
                }
            }
        }
        Ok(image)
    }

    fn look_at_image(&self, store: &Store, name: &str, version: u32) -> Result<CheckedImage> {
        let id = format!("{name}@{version}");
        let mut image = CheckedImage::default();
        image.lost.image.clone_from(&id);
        if !store.versions(name)?.contains(&version) {
            let vanished =
                Error::store(format!("{id}: its directory is gone, and it was not removed with mif rm"));
            image.problem("image", &vanished);
            return Ok(image);
        }
        // Each file is read once, unless the record contradicts them: who is right then takes a closer look.
        let files = match store.version(name, version).map(Files::read) {
            Ok(files) if files.fit() => files,
            _ => {
                let stored = records::read(store, name, version).or_else(|e| {
                    image.problem("record", &e);
                    store.published(name, version).or_else(|_| store.without_record(name, version))
                });
                match stored {
                    Ok(stored) => Files::read(stored),
                    Err(e) => {
                        image.problem("layout", &e);
                        return Ok(image);
                    }
                }
            }
        };
        let Files { stored, layout, manifest } = files;
        match layout {
            Err(e) => image.problem("layout", &e),
            Ok(layout) => self.layout(&stored.image, &layout, &mut image)?,
        }
        let bodies = manifest.and_then(|file| self.shared.bodies(&stored, file));
        match bodies {
            Err(e) => image.problem("manifest", &e),
            Ok(bodies) => {
                if let Err(e) = check_digests(&stored, &bodies) {
                    image.problem("digests", &e);
                }
                if let Err(e) = self.shared.check_packages(&stored) {
                    image.problem("packages", &e);
                }
                if !self.are_whole(bodies.into_iter().flatten().collect(), &mut image)? {
                    self.files(&stored.manifest()?, &mut image)?;
                }
            }
        }
        if image.lost.parts.is_empty()
            && !store.is_noted(&stored.image)
            && !store.is_removed(name, version)?
        {
            image.unnoted = Some(id);
        }
        Ok(image)
    }

    fn layout(&self, record: &Image, layout: &Layout, image: &mut CheckedImage) -> Result<()> {
        let mut whole = Vec::with_capacity(layout.objects().len());
        for id in layout.objects() {
            // The length of the object, which no segment may exceed.
            whole.push(if self.whole(id, image)? { self.objects.len(id)? } else { 0 });
        }
        if layout.disk_size() != record.disk_size {
            image.lost.parts.push("record".into());
        }
        for segment in layout.segments() {
            let (Origin::Content { object, offset } | Origin::Residue { object, offset }) = segment.origin
            else {
                continue;
            };
            let Range { start, end } = segment.range;
            if offset.checked_add(end - start).is_none_or(|reach| reach > whole[object as usize]) {
                let holder =
                    record.table.partitions.iter().find(|p| p.start <= start && start - p.start < p.len);
                let volume = holder.map_or("-".to_owned(), |p| crate::store::volume_name(p.slot));
                *image.lost.disk_bytes.entry(volume).or_default() += end - start;
            }
        }
        Ok(())
    }

    /// Returns true if all these contents are intact; otherwise records the first object that is lost.
    fn are_whole(&self, bodies: Vec<Body>, image: &mut CheckedImage) -> Result<bool> {
        let before = self.shared.contents();
        let mut alike = Alike::new(&before);
        for body in &bodies {
            if alike.find(body).is_some() {
                continue;
            }
            let id = self.stored_as(body.object());
            let is_other = |said| self.sha1(&id).is_some_and(|found| found != said);
            if !self.whole(&id, image)? || body.sha1().is_some_and(is_other) {
                return Ok(false);
            }
        }
        self.shared.set_contents(bodies);
        Ok(true)
    }

    fn files(&self, rows: &[Row], image: &mut CheckedImage) -> Result<()> {
        for row in rows {
            let Some(id) = row.object() else { continue };
            let id = self.stored_as(id);
            if !self.whole(&id, image)? {
                image.lost.file_count += 1;
                if image.lost.files.len() < MAX_PATHS {
                    image.lost.files.push(format!("{}:{}", row.volume, escape_apart(&row.full_path())));
                }
                continue;
            }
            if let (Some(said), Some(found)) = (row.sha1(), self.sha1(&id))
                && said != found
                && image.lost.wrong_sha1.len() < MAX_PATHS
            {
                image.lost.wrong_sha1.push(format!("{}:{}", row.volume, escape_apart(&row.full_path())));
            }
        }
        Ok(())
    }

    /// Returns the name under which an object is stored.
    fn stored_as(&self, id: ObjectId) -> ObjectId {
        names_of(&id).find(|name| self.state.whole.contains_key(name)).unwrap_or(id)
    }

    /// Returns the SHA-1 of the content of an intact object, if it was computed.
    fn sha1(&self, id: &ObjectId) -> Option<[u8; 20]> {
        if !self.state.hashed {
            return None;
        }
        let list = self.lists().get(id).and_then(|list| list.sha1);
        list.or_else(|| self.state.sha1.get(id).copied())
    }

    fn lists(&self) -> MutexGuard<'_, HashMap<ObjectId, CheckedList>> {
        self.lists.lock().expect("no thread panics while it holds this")
    }

    /// Returns true if an object exists and is intact; otherwise records it as lost.
    fn whole(&self, id: &ObjectId, image: &mut CheckedImage) -> Result<bool> {
        if !self.state.whole.contains_key(id) {
            image.objects.insert(*id);
            return Ok(false);
        }
        if !self.state.lists.contains(id) && !self.objects.is_list(id)? {
            return Ok(true);
        }
        let mut lists = self.lists();
        if let Some(list) = lists.get(id) {
            return Ok(list.is_whole);
        }
        let chunks = self.objects.chunks(id)?;
        let missing: Vec<ObjectId> =
            chunks.into_iter().filter(|chunk| !self.state.whole.contains_key(chunk)).collect();
        let mut list = CheckedList { is_whole: missing.is_empty(), sha1: None };
        image.objects.extend(missing);
        if list.is_whole && !self.state.is_presumed(id) {
            list = self.check_list(id)?;
            if !list.is_whole {
                image.objects.insert(*id);
            }
        }
        lists.insert(*id, list);
        Ok(list.is_whole)
    }

    /// Checks that the content of a list matches the digest that names it. A list whose content has no digest is named
    /// by its own bytes, which were checked with its pack.
    fn check_list(&self, id: &ObjectId) -> Result<CheckedList> {
        if id.kind == ObjectKind::ChunkList {
            return Ok(CheckedList { is_whole: true, sha1: None });
        }
        let len = self.objects.len(id)?;
        let mut hasher = blake3::Hasher::new();
        let mut sha1 = self.state.hashed.then(Sha1::new);
        let mut window = vec![0; len.min(4 << 20) as usize];
        let mut at = 0;
        while at < len {
            progress::check(self.progress)?;
            let here = &mut window[..(len - at).min(4 << 20) as usize];
            if self.objects.read_at(id, at, here).is_err() {
                return Ok(CheckedList { is_whole: false, sha1: None });
            }
            hasher.update(here);
            if let Some(sha1) = &mut sha1 {
                sha1.update(&here);
            }
            at += here.len() as u64;
        }
        let is_whole = hasher.finalize().as_bytes() == &id.digest;
        Ok(CheckedList { is_whole, sha1: sha1.map(|sha1| sha1.finalize().into()) })
    }
}
