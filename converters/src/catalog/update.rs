//! Brings a catalog up to date, in steps that each take effect on their own: so little is lost when it is interrupted.
//!
//! A step adds the images that are not in the catalog, as one segment, at most [`ROUND`] rows at a time; then segments are
//! merged so that each that stays is larger than all smaller ones together: a row is copied a few times in the life of a
//! library, and few segments remain. A segment with many rows of removed images is written again without them.
//!
//! Of a segment that stays, a step reads the footers and the checksums of its files. What else may be damaged in them is found by
//! whoever reads it, since every read is checked: by a merge, which then has all of the segment checked, by a search, and by
//! `--check`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mif_formats::mif::catalog::{Coverage, Covered, Segment};
use mif_formats::text::hex;
use serde::Serialize;

use super::commit::{Committed, commit};
use super::segment::{Live, check_segment, lengths, write_images, write_merged};
use super::{Opened, open};
use crate::error::{Error, Result};
use crate::store::{CATALOG, DamagedImage, Image, Storage, Store, StoredImage};
use crate::task::progress::Progress;

/// About how many rows of manifests are added in one step.
const ROUND: u64 = 8 << 20;

/// The most segments that are merged at once: each takes the memory of a row group.
const MERGED: usize = 12;

/// A segment is written again if more than this share of its rows belongs to no image: one in so many.
const DEAD: u64 = 5;

/// The most attempts to be the first of several runs.
const ATTEMPTS: usize = 5;

/// What `catalog` is to do.
#[derive(Debug, Clone, Copy, Default)]
pub struct CatalogOptions {
    /// Change nothing, and only find out what is missing.
    pub dry_run: bool,
    /// Read every byte of the catalog, to find damage in what the run itself does not need.
    pub check: bool,
}

/// What `catalog` did or would do.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CatalogReport {
    /// True if this was a dry run, which changes nothing.
    pub dry_run: bool,
    /// The number of versions of images in the catalog.
    pub images: u64,
    /// The number of versions that were added.
    pub added: u64,
    /// The number of versions that left it: removed ones, and those that are added again because a file of theirs changed or
    /// the catalog was damaged.
    pub dropped: u64,
    /// The number of its segments.
    pub segments: u64,
    /// The number of files of these segments, without their checksums.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Rows of its tables, including those of images that have left it.
    pub rows: CatalogRows,
    /// The number of files that were deleted, because nothing needs them any more.
    pub deleted: u64,
    /// Images that are damaged, and not in the catalog.
    pub damaged: Vec<DamagedImage>,
    /// Damage of the catalog itself, which was made good, each a sentence.
    pub warnings: Vec<String>,
}

/// Numbers of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct CatalogRows {
    pub files: u64,
    pub digests: u64,
    pub packages: u64,
}

/// Brings the catalog of a store up to date.
pub(crate) fn update(
    storage: &Arc<dyn Storage>,
    CatalogOptions { dry_run, check }: CatalogOptions,
    progress: &dyn Progress,
) -> Result<CatalogReport> {
    let report = CatalogReport { dry_run, ..CatalogReport::default() };
    let (checked, suspected) = (BTreeSet::new(), BTreeSet::new());
    let mut run = Run { storage, progress, checks_all: check, checked, suspected, report };
    let mut overtaken = 0;
    loop {
        match run.step(dry_run)? {
            Step::Again => {}
            Step::Overtaken if overtaken < ATTEMPTS => overtaken += 1,
            Step::Overtaken => {
                let problem = format!("{}: other commands keep changing the catalog", storage.place());
                return Err(Error::store(problem).advise("Run `mif catalog` again when they have finished"));
            }
            Step::Done(coverage) => {
                run.describe(&coverage);
                return Ok(run.report);
            }
        }
    }
}

struct Run<'a> {
    storage: &'a Arc<dyn Storage>,
    progress: &'a dyn Progress,
    /// Whether every byte of each segment is read.
    checks_all: bool,
    /// The segments whose bytes are all read, because a merge has met damage in one of them.
    suspected: BTreeSet<String>,
    /// The segments that were found intact, or written, by this run.
    checked: BTreeSet<String>,
    report: CatalogReport,
}

enum Step {
    /// Something was done, and more may be left to do.
    Again,
    /// Another run was faster.
    Overtaken,
    /// Nothing is left to do.
    Done(Coverage),
}

/// What the store has, compared with its catalog.
struct Plan {
    coverage: Coverage,
    before: Option<String>,
    /// True if images or segments have left the coverage.
    is_changed: bool,
    missing: Vec<StoredImage>,
    /// The lengths of their manifests.
    bytes: Vec<u64>,
}

impl Run<'_> {
    fn step(&mut self, dry_run: bool) -> Result<Step> {
        let store = Store::open(self.storage.clone(), self.progress)?;
        let Plan { mut coverage, before, is_changed, mut missing, bytes } = self.plan(&store)?;
        if dry_run {
            self.report.added = missing.len() as u64;
            return Ok(Step::Done(coverage));
        }
        let mut rows = 0;
        let round = missing.iter().take_while(|stored| {
            let fits = rows < ROUND;
            rows = rows.saturating_add(stored.image.counts.paths.max(1));
            fits
        });
        missing.truncate(round.count());
        let mut new = None;
        if !missing.is_empty() {
            let bytes = bytes[..missing.len()].iter().sum();
            self.progress.stage("adding images to the catalog", bytes);
            let name = self.segment()?;
            let (segment, covered, damaged) = write_images(&store, &missing, &name, self.progress)?;
            self.report.damaged.extend(damaged);
            self.report.added += covered.len() as u64;
            coverage.images.extend(covered);
            coverage.segments.insert(name.clone(), segment);
            new = Some(name);
        } else if let Some(chosen) = to_merge(&coverage) {
            self.progress.stage("merging the catalog", 0);
            let name = self.segment()?;
            match self.merge(&mut coverage, &chosen, &name) {
                Ok(()) => new = Some(name),
                Err(e) if e.is_unreadable() || self.progress.interrupted() => return Err(e),
                // It was found intact, so the failure has another cause.
                Err(e) if chosen.is_subset(&self.suspected) => return Err(e),
                Err(_) => {
                    self.checked.retain(|segment| !chosen.contains(segment));
                    self.suspected.extend(chosen);
                    return Ok(Step::Again);
                }
            }
        } else if !is_changed && before.is_some() {
            return Ok(Step::Done(coverage));
        }
        coverage.images.sort_by(|a, b| (&a.name, a.version).cmp(&(&b.name, b.version)));
        coverage.generation = hex(&self.random()?);
        // A repair waits for everyone who uses the store, and holds the lock meanwhile.
        drop(store);
        Ok(match commit(self.storage, before.as_deref(), coverage, new.as_deref(), self.progress)? {
            Committed::Overtaken => Step::Overtaken,
            Committed::Done(deleted) => {
                self.report.deleted += deleted;
                self.checked.extend(new);
                Step::Again
            }
        })
    }

    /// Finds out what the catalog has and what it lacks.
    fn plan(&mut self, store: &Store) -> Result<Plan> {
        self.progress.stage("comparing the catalog with the images", 0);
        let (mut coverage, before) = match open(&**self.storage)? {
            Opened::Catalog(coverage) => {
                let before = coverage.generation.clone();
                (coverage, Some(before))
            }
            Opened::None => (Coverage::default(), None),
            Opened::Newer(e) => return Err(e),
            Opened::Damaged(e) => {
                self.warn(format!("{}; it is made again", e.message()));
                (Coverage::default(), None)
            }
        };
        let had = (coverage.images.len(), coverage.segments.len());
        for name in coverage.segments.keys().cloned().collect::<Vec<_>>() {
            if self.checked.contains(&name) {
                continue;
            }
            let whole = self.checks_all || self.suspected.contains(&name);
            match check_segment(self.storage, &name, &coverage.segments[&name], whole, self.progress) {
                Ok(()) => drop(self.checked.insert(name)),
                Err(e) if e.is_unreadable() || self.progress.interrupted() => return Err(e),
                Err(e) => {
                    self.warn(format!("{}; its rows are made again", e.message()));
                    coverage.segments.remove(&name);
                }
            }
        }
        let (images, damaged) = store.images()?;
        let known = std::mem::take(&mut self.report.damaged);
        self.report.damaged = damaged;
        for image in known {
            if self.report.damaged.iter().all(|other| other.image != image.image) {
                self.report.damaged.push(image);
            }
        }
        let skipped: BTreeSet<&str> = self.report.damaged.iter().map(|image| &image.image[..]).collect();
        let mut there: BTreeMap<(String, u32), Covered> = BTreeMap::new();
        for image in std::mem::take(&mut coverage.images) {
            there.insert((image.name.clone(), image.version), image);
        }
        let (mut missing, mut bytes) = (Vec::new(), Vec::new());
        let all: Vec<&Image> = images.iter().collect();
        for (image, lens) in images.iter().zip(lengths(&**self.storage, &all)) {
            let known = there.remove(&(image.name.clone(), image.version));
            match known.filter(|known| is_current(known, image, lens, &coverage.segments)) {
                Some(known) => coverage.images.push(known),
                None if skipped.contains(&image.id()[..]) => {}
                None => {
                    bytes.push(lens.and_then(|lens| lens[1]).unwrap_or(0));
                    missing.push(store.stored(image.clone()));
                }
            }
        }
        let used: BTreeSet<&String> = coverage.images.iter().map(|image| &image.segment).collect();
        let unused: Vec<String> =
            coverage.segments.keys().filter(|name| !used.contains(name)).cloned().collect();
        unused.iter().for_each(|name| drop(coverage.segments.remove(name)));
        let is_changed = (coverage.images.len(), coverage.segments.len()) != had;
        self.report.dropped += (had.0 - coverage.images.len()) as u64;
        Ok(Plan { coverage, before, is_changed, missing, bytes })
    }

    fn merge(&self, coverage: &mut Coverage, chosen: &BTreeSet<String>, name: &str) -> Result<()> {
        let segment = {
            let mut from = BTreeMap::new();
            for old in chosen {
                let live = coverage.images.iter().filter(|image| image.segment == *old);
                let live: BTreeSet<(&str, u32)> =
                    live.map(|image| (&image.name[..], image.version)).collect();
                from.insert(&old[..], Live { segment: &coverage.segments[old], images: live });
            }
            write_merged(self.storage, &from, name, self.progress)?
        };
        coverage.segments.retain(|old, _| !chosen.contains(old));
        coverage.segments.insert(name.to_owned(), segment);
        for image in coverage.images.iter_mut().filter(|image| chosen.contains(&image.segment)) {
            name.clone_into(&mut image.segment);
        }
        Ok(())
    }

    /// Returns the name of a new segment. `gc` does not delete its files as long as this command is in the store.
    fn segment(&self) -> Result<String> {
        let epoch = self.storage.epoch().map_err(|e| self.storage.error("leases", &e))?;
        Ok(format!("{epoch}-{}", hex(&self.random()?[..8])))
    }

    fn random(&self) -> Result<[u8; 32]> {
        self.storage.random().map_err(|e| self.storage.error(CATALOG, &e))
    }

    fn warn(&mut self, warning: String) {
        if !self.report.warnings.contains(&warning) {
            self.report.warnings.push(warning);
        }
    }

    fn describe(&mut self, coverage: &Coverage) {
        let report = &mut self.report;
        report.images = coverage.images.len() as u64;
        report.segments = coverage.segments.len() as u64;
        for (table, file) in coverage
            .segments
            .values()
            .flat_map(|segment| &segment.files)
            .flat_map(|(table, files)| files.iter().map(move |file| (table, file)))
        {
            report.files += 1;
            report.bytes = report.bytes.saturating_add(file.bytes);
            let rows = match &table[..] {
                "files" => &mut report.rows.files,
                "digests" => &mut report.rows.digests,
                _ => &mut report.rows.packages,
            };
            *rows = rows.saturating_add(file.rows);
        }
    }
}

/// Returns true if the catalog has an image as it is.
fn is_current(
    known: &Covered,
    image: &Image,
    lens: Option<[Option<u64>; 4]>,
    segments: &BTreeMap<String, Segment>,
) -> bool {
    let said =
        [Some(known.record_bytes), Some(known.manifest_bytes), known.digests_bytes, known.packages_bytes];
    known.manifest_digest == image.manifest_digest
        && known.time == image.provenance.time
        && lens == Some(said)
        && segments.contains_key(&known.segment)
}

/// Returns the segments to merge next into one.
fn to_merge(coverage: &Coverage) -> Option<BTreeSet<String>> {
    let mut live: BTreeMap<&str, u64> = BTreeMap::new();
    for image in &coverage.images {
        *live.entry(&image.segment).or_default() += image.paths;
    }
    let files = |segment: &Segment| segment.files.values().flatten().cloned().collect::<Vec<_>>();
    let bytes = |segment: &Segment| files(segment).iter().map(|file| file.bytes).sum::<u64>();
    let mut sizes: Vec<(u64, &String)> =
        coverage.segments.iter().map(|(name, segment)| (bytes(segment), name)).collect();
    sizes.sort_unstable();
    let (mut sum, mut count) = (0_u64, 0);
    for (place, (size, _)) in sizes.iter().enumerate() {
        if place > 0 && sum >= *size {
            count = place + 1;
        }
        sum = sum.saturating_add(*size);
    }
    let chosen: BTreeSet<String> =
        sizes.iter().take(count.min(MERGED)).map(|(_, name)| (*name).clone()).collect();
    if !chosen.is_empty() {
        return Some(chosen);
    }
    let is_mostly_dead = |(name, segment): &(&String, &Segment)| {
        let rows = segment.files.get("files").map_or(0, |files| files.iter().map(|file| file.rows).sum());
        let dead = rows.saturating_sub(live.get(&name[..]).copied().unwrap_or(0));
        dead > rows / DEAD
    };
    coverage.segments.iter().find(is_mostly_dead).map(|(name, _)| BTreeSet::from([name.clone()]))
}

#[cfg(test)]
mod tests {
    use mif_formats::mif::catalog::DataFile;

    use super::*;

    fn segments(sizes: &[u64]) -> Coverage {
        let file = |bytes| vec![DataFile { bytes, rows: 0 }];
        let segment = |bytes: &u64| Segment { files: [("files".to_owned(), file(*bytes))].into() };
        let named = sizes.iter().enumerate().map(|(i, bytes)| (format!("0-{i:016x}"), segment(bytes)));
        Coverage { segments: named.collect(), ..Coverage::default() }
    }

    #[test]
    fn segments_stay_that_are_larger_than_all_smaller_ones_together() {
        let merged = |sizes: &[u64]| to_merge(&segments(sizes)).map_or(0, |chosen| chosen.len());
        assert_eq!(merged(&[]), 0);
        assert_eq!(merged(&[5]), 0);
        assert_eq!(merged(&[100, 5]), 0);
        assert_eq!(merged(&[5, 5]), 2);
        assert_eq!(merged(&[100, 5, 5]), 2);
        assert_eq!(merged(&[10, 5, 5]), 3);
        assert_eq!(merged(&[16, 8, 4, 2, 1]), 0);
        assert_eq!(merged(&[1; 40]), MERGED);
    }

    #[test]
    fn a_library_that_grows_image_by_image_has_few_segments_and_copies_each_row_a_few_times() {
        let (mut sizes, mut copied) = (Vec::<u64>::new(), 0);
        const IMAGES: u64 = 5000;
        for _ in 0..IMAGES {
            sizes.push(1);
            while let Some(chosen) = to_merge(&segments(&sizes)) {
                let going: Vec<usize> =
                    chosen.iter().map(|name| usize::from_str_radix(&name[2..], 16).unwrap()).collect();
                let sum = going.iter().map(|place| sizes[*place]).sum();
                copied += sum;
                let left = sizes.iter().enumerate().filter(|(place, _)| !going.contains(place));
                sizes = left.map(|(_, size)| *size).chain([sum]).collect();
            }
            assert!(sizes.len() <= 13, "{sizes:?}");
        }
        assert!(copied < IMAGES * 13, "{copied}");
    }
}
