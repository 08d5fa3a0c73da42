//! Answers a question about the images that are in the catalog of the store, all at once.
//!
//! Whatever is wrong with the catalog, the answer is that of the images' own files: an image counts only as long as its files
//! have the lengths that they had, and if a file of a segment is damaged, the images of that segment are asked one by one.

use std::collections::{BTreeMap, HashMap};

use mif_formats::mif::catalog::{Coverage, Covered, Kind, Part};
use mif_formats::mif::manifest::columns::Group;

use crate::catalog::{Opened, SummedFile, open, open_part};
use crate::error::Result;
use crate::store::{CATALOG_IMAGES, Image, PACKAGES, Storage, Store, is_missing};
use crate::task::pool::in_parallel;
use crate::task::progress::Progress;

/// A segment is used if at least one in so many of its images is asked for: for fewer, their own files are less to read.
const FEW: usize = 8;

/// What to do about damage.
const ADVICE: &str = "it is not used until `mif catalog --check` has made it again";

/// A question that a table of the catalog answers as the files of each image do.
pub(super) trait Question: Sync {
    /// A row of the answer.
    type Row: Send + Sync;
    /// What the question has to know of an image besides its rows.
    type OfImage: Sync;
    /// What is made for each segment before its rows are looked at.
    type Prepared<'a>: Sync;

    /// Returns the table that has the answer.
    fn kind(&self) -> Kind;

    /// Returns which files of an image the answer comes from: they must have the lengths that they had when it was added.
    fn files(&self) -> Files;

    /// Returns what has to be known of an image; `None` if the catalog cannot answer for it.
    fn of_image(&self, image: &Covered) -> Option<Self::OfImage>;

    /// Prepares the question for these images of a segment.
    fn prepare<'a>(&self, images: &'a [Wanted<'_, Self::OfImage>]) -> Self::Prepared<'a>;

    /// Returns the rows of a group that match, in order.
    fn rows(&self, group: &Group<'_>, prepared: &Self::Prepared<'_>) -> mif_formats::Result<Vec<usize>>;

    /// Describes rows, of images that `images` names; `None` for a row that does not match after all.
    fn describe(
        &self,
        group: &Group<'_>,
        rows: &[usize],
        images: &[&str],
    ) -> mif_formats::Result<Vec<Option<Self::Row>>>;
}

/// The files of an image that an answer may come from, besides its manifest.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Files {
    /// The record.
    pub(super) record: bool,
    /// The list of digests.
    pub(super) digests: bool,
    /// The table of packages.
    pub(super) packages: bool,
}

/// An image that the catalog is asked for.
pub(super) struct Wanted<'c, T> {
    /// Its place in the list of images.
    place: usize,
    /// `name@version`.
    id: String,
    /// What the catalog has.
    pub(super) covered: &'c Covered,
    /// What the question has to know of it.
    pub(super) known: T,
}

impl<T> Wanted<'_, T> {
    /// Returns the name and the version, as the rows have them.
    pub(super) fn key(&self) -> (&[u8], i64) {
        (self.covered.name.as_bytes(), self.covered.version.into())
    }
}

/// The answers for images, by their places in the list of images.
pub(super) type Found<R> = BTreeMap<usize, Vec<R>>;

/// Asks for those of `images` that are in the catalog. Returns the answer for each, in the order of its own rows.
///
/// # Errors
/// Only if it is interrupted. Whatever the catalog cannot answer is left out.
pub(super) fn ask<Q: Question>(
    store: &Store,
    images: &[(String, u32)],
    question: &Q,
    progress: &dyn Progress,
) -> Result<Found<Q::Row>> {
    // Most stores have none.
    if is_missing(&**store.storage(), CATALOG_IMAGES) {
        return Ok(Found::new());
    }
    // One that was replaced meanwhile is read again.
    for attempt in 0.. {
        let Some(coverage) = readable(store, progress) else { return Ok(Found::new()) };
        let asked = ask_segments(store, &coverage, images, question, progress)?;
        let is_replaced = || {
            let now = open(&**store.storage());
            matches!(now, Ok(Opened::Catalog(now)) if now.generation != coverage.generation)
        };
        if !asked.problems.is_empty() && attempt < 2 && is_replaced() {
            continue;
        }
        for problem in asked.problems {
            progress.warn(&format!("the catalog is damaged: {problem}; {ADVICE}"));
        }
        return Ok(asked.found);
    }
    Ok(Found::new())
}

/// Returns what the catalog has, or warns and returns nothing.
fn readable(store: &Store, progress: &dyn Progress) -> Option<Coverage> {
    match open(&**store.storage()) {
        Ok(Opened::Catalog(coverage)) => Some(coverage),
        Ok(Opened::None) => None,
        Ok(Opened::Newer(e)) => {
            progress.warn(&format!("the catalog is not used: {}", e.message()));
            None
        }
        Ok(Opened::Damaged(e)) | Err(e) => {
            progress.warn(&format!("the catalog is damaged: {}; {ADVICE}", e.message()));
            None
        }
    }
}

/// The result for some segments.
struct Asked<R> {
    found: Found<R>,
    problems: Vec<String>,
}

fn ask_segments<Q: Question>(
    store: &Store,
    coverage: &Coverage,
    images: &[(String, u32)],
    question: &Q,
    progress: &dyn Progress,
) -> Result<Asked<Q::Row>> {
    let mut sizes: HashMap<&str, usize> = HashMap::new();
    coverage.images.iter().for_each(|image| *sizes.entry(&image.segment).or_default() += 1);
    let mut segments: BTreeMap<&str, Vec<Wanted<'_, Q::OfImage>>> = BTreeMap::new();
    for image in wanted(&**store.storage(), coverage, images, question) {
        segments.entry(&image.covered.segment).or_default().push(image);
    }
    segments.retain(|segment, wanted| wanted.len() * FEW >= sizes[segment]);
    let mut asked = Asked { found: Found::new(), problems: Vec::new() };
    for (segment, wanted) in segments {
        match ask_segment(store, coverage, segment, &wanted, question, progress)? {
            Ok(found) => asked.found.extend(found),
            Err(problem) => asked.problems.push(problem),
        }
    }
    Ok(asked)
}

/// Returns the images that are in the catalog as they are in the store.
fn wanted<'c, Q: Question>(
    storage: &dyn Storage,
    coverage: &'c Coverage,
    images: &[(String, u32)],
    question: &Q,
) -> Vec<Wanted<'c, Q::OfImage>> {
    let covered: HashMap<(&str, u32), &Covered> =
        coverage.images.iter().map(|image| ((&image.name[..], image.version), image)).collect();
    let listed = images.iter().enumerate().filter_map(|(place, (name, version))| {
        let covered = *covered.get(&(&name[..], *version))?;
        let known = question.of_image(covered)?;
        Some(Wanted { place, id: format!("{name}@{version}"), covered, known })
    });
    let listed: Vec<Wanted<'_, Q::OfImage>> = listed.collect();
    let matters = question.files();
    let files = |covered: &Covered| {
        let files = [
            ("manifest.parquet", Some(covered.manifest_bytes), true),
            ("image.json", Some(covered.record_bytes), matters.record),
            ("digests", covered.digests_bytes, matters.digests),
            (PACKAGES, covered.packages_bytes, matters.packages),
        ];
        files.into_iter().filter(|(_, _, matters)| *matters).map(|(file, len, _)| (file, len))
    };
    let keys: Vec<String> = listed
        .iter()
        .flat_map(|wanted| {
            let folder = Image::folder(&wanted.covered.name, wanted.covered.version);
            files(wanted.covered).map(move |(file, _)| format!("{folder}/{file}"))
        })
        .collect();
    let mut lens = storage.lens(&keys).into_iter();
    let is_as_it_was = |wanted: &Wanted<'_, Q::OfImage>| {
        let mut same = true;
        for (_, said) in files(wanted.covered) {
            same &= lens.next().and_then(std::io::Result::ok) == said;
        }
        same
    };
    let same: Vec<bool> = listed.iter().map(is_as_it_was).collect();
    listed.into_iter().zip(same).filter_map(|(wanted, same)| same.then_some(wanted)).collect()
}

type Parts = Vec<Part<SummedFile>>;

/// Asks a segment. Returns the answers for the wanted images, or the problem that keeps it from answering.
fn ask_segment<Q: Question>(
    store: &Store,
    coverage: &Coverage,
    segment: &str,
    wanted: &[Wanted<'_, Q::OfImage>],
    question: &Q,
    progress: &dyn Progress,
) -> Result<std::result::Result<Found<Q::Row>, String>> {
    let kind = question.kind();
    let count =
        coverage.segments.get(segment).and_then(|segment| segment.files.get(kind.name())).map_or(0, Vec::len);
    if count == 0 {
        return Ok(Err(format!("segment {segment} has no files of {}", kind.name())));
    }
    let numbers: Vec<usize> = (0..count).collect();
    let open = |part: &usize| Ok(open_part(store.storage(), kind, segment, *part));
    let parts = match in_parallel(&numbers, progress, open)?.into_iter().collect::<Result<Parts>>() {
        Ok(parts) => parts,
        Err(e) => return Ok(Err(e.message().to_owned())),
    };
    let prepared = question.prepare(wanted);
    let of_key: HashMap<(&[u8], i64), usize> =
        wanted.iter().enumerate().map(|(number, image)| (image.key(), number)).collect();
    let groups: Vec<_> = parts.iter().flat_map(Part::groups).collect();
    let read = in_parallel(&groups, progress, |group| {
        let answer = || -> mif_formats::Result<Vec<(usize, i64, Q::Row)>> {
            let rows = question.rows(group, &prepared)?;
            if rows.is_empty() {
                return Ok(Vec::new());
            }
            let names = group.texts_at(kind.name_column(), &rows)?;
            let versions = group.numbers_at(kind.version_column(), &rows)?;
            // Of other images, only the name is read.
            let (mut of_wanted, mut images) = (Vec::new(), Vec::new());
            for ((name, version), row) in names.iter().zip(versions).zip(rows) {
                if let Some(image) = version.and_then(|version| of_key.get(&(name.data(), version))) {
                    of_wanted.push(row);
                    images.push(*image);
                }
            }
            let numbers = group.numbers_at(kind.row_column(), &of_wanted)?;
            let ids: Vec<&str> = images.iter().map(|image| &wanted[*image].id[..]).collect();
            let described = question.describe(group, &of_wanted, &ids)?;
            let all = images.into_iter().zip(numbers).zip(described);
            Ok(all
                .filter_map(|((image, number), row)| Some((wanted[image].place, number.unwrap_or(0), row?)))
                .collect())
        };
        Ok(answer())
    })?;
    let mut found: BTreeMap<usize, Vec<(i64, Q::Row)>> =
        wanted.iter().map(|image| (image.place, Vec::new())).collect();
    for group in read {
        match group {
            Ok(rows) => {
                for (place, number, row) in rows {
                    found.entry(place).or_default().push((number, row));
                }
            }
            Err(e) => return Ok(Err(format!("segment {segment}: {e}"))),
        }
    }
    let in_order = |mut rows: Vec<(i64, Q::Row)>| {
        rows.sort_by_key(|(number, _)| *number);
        rows.into_iter().map(|(_, row)| row).collect()
    };
    Ok(Ok(found.into_iter().map(|(place, rows)| (place, in_order(rows))).collect()))
}

/// Returns true if a text between `low` and `high` can begin with a prefix.
pub(super) fn may_begin(prefix: &[u8], low: &[u8], high: &[u8]) -> bool {
    let common = prefix.len().min(high.len());
    prefix[..common] <= high[..common] && (prefix >= low || low.starts_with(prefix))
}
