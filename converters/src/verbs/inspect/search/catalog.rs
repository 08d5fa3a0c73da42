//! Searches the images that are in the catalog of the store, all at once.
//!
//! Whatever is wrong with the catalog, the answer is that of the manifests: an image counts only as long as its own files have
//! the lengths that they had, and if a file of a segment is damaged, the images of that segment are searched one by one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mif_formats::mif::catalog::{Coverage, Covered, Kind, Part};

use super::glob::PathGlob;
use super::query::{Hit, Query};
use super::rows::{ManyPoints, Rows, Shown, describe};
use crate::catalog::{Opened, Points, SummedFile, open, open_part};
use crate::error::Result;
use crate::store::{CATALOG_IMAGES, Image, PACKAGES, Storage, Store, is_missing};
use crate::task::pool::in_parallel;
use crate::task::progress::Progress;

/// A segment is used if at least one in so many of its images is searched: for fewer, their manifests are less to read.
const FEW: usize = 8;

/// The hits of images, by their places in the list of images to search.
pub(super) type Found = BTreeMap<usize, Vec<Hit>>;

/// Searches those of `images` that are in the catalog. Returns the hits of each, in the order of its manifest.
///
/// # Errors
/// Only if the search is interrupted. Whatever the catalog cannot answer is left out.
pub(super) fn search(
    store: &Store,
    images: &[(String, u32)],
    query: &Query,
    progress: &dyn Progress,
) -> Result<Found> {
    let kind = match query.contents {
        // The table of digests has no extended attributes.
        Some(_) if query.xattr.is_some() => return Ok(Found::new()),
        Some(_) => Kind::Digests,
        None => Kind::Files,
    };
    // Most stores have none.
    if is_missing(&**store.storage(), CATALOG_IMAGES) {
        return Ok(Found::new());
    }
    // One that was replaced meanwhile is read again.
    for attempt in 0.. {
        let Some(coverage) = readable(store, progress) else { return Ok(Found::new()) };
        let searched = search_segments(store, &coverage, images, query, kind, progress)?;
        let is_replaced = || {
            let now = open(&**store.storage());
            matches!(now, Ok(Opened::Catalog(now)) if now.generation != coverage.generation)
        };
        if !searched.problems.is_empty() && attempt < 2 && is_replaced() {
            continue;
        }
        for problem in searched.problems {
            let advice = "it is not used until `mif catalog` has made it again";
            progress.warn(&format!("the catalog is damaged: {problem}; {advice}"));
        }
        return Ok(searched.found);
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
            let advice = "it is not used until `mif catalog` has made it again";
            progress.warn(&format!("the catalog is damaged: {}; {advice}", e.message()));
            None
        }
    }
}

/// The result for some segments.
#[derive(Default)]
struct Searched {
    found: Found,
    problems: Vec<String>,
}

/// An image that is searched in the catalog.
struct Wanted<'c> {
    /// Its place in the list of images.
    place: usize,
    covered: &'c Covered,
    points: Points,
}

fn search_segments(
    store: &Store,
    coverage: &Coverage,
    images: &[(String, u32)],
    query: &Query,
    kind: Kind,
    progress: &dyn Progress,
) -> Result<Searched> {
    let mut sizes: HashMap<&str, usize> = HashMap::new();
    coverage.images.iter().for_each(|image| *sizes.entry(&image.segment).or_default() += 1);
    let mut segments: BTreeMap<&str, Vec<Wanted<'_>>> = BTreeMap::new();
    for image in wanted(&**store.storage(), coverage, images, query) {
        segments.entry(&image.covered.segment).or_default().push(image);
    }
    segments.retain(|segment, wanted| wanted.len() * FEW >= sizes[segment]);
    let mut searched = Searched::default();
    for (segment, wanted) in segments {
        match search_segment(store, coverage, segment, &wanted, query, kind, progress)? {
            Ok(found) => searched.found.extend(found),
            Err(problem) => searched.problems.push(problem),
        }
    }
    Ok(searched)
}

/// Returns the images that are in the catalog as they are in the store.
fn wanted<'c>(
    storage: &dyn Storage,
    coverage: &'c Coverage,
    images: &[(String, u32)],
    query: &Query,
) -> Vec<Wanted<'c>> {
    let is_by_path = query.path.as_ref().is_some_and(PathGlob::is_for_whole_paths);
    let known: HashMap<(&str, u32), &Covered> =
        coverage.images.iter().map(|image| ((&image.name[..], image.version), image)).collect();
    let listed = images.iter().enumerate().filter_map(|(place, (name, version))| {
        let covered = *known.get(&(&name[..], *version))?;
        // Without a pattern for whole paths, it does not matter where a system shows its volumes.
        let points = match (is_by_path, &covered.mounts) {
            (false, _) => Points::new(),
            (true, mounts) => serde_json::from_str(mounts.as_deref()?).ok()?,
        };
        Some(Wanted { place, covered, points })
    });
    let listed: Vec<Wanted<'_>> = listed.collect();
    let files = |covered: &Covered| {
        let files = [
            ("manifest.parquet", Some(covered.manifest_bytes), true),
            ("image.json", Some(covered.record_bytes), is_by_path),
            ("digests", covered.digests_bytes, query.contents.is_some()),
            (PACKAGES, covered.packages_bytes, false),
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
    let is_as_it_was = |wanted: &Wanted<'_>| {
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

/// Searches a segment. Returns the hits of the wanted images, or the problem that keeps it from answering.
fn search_segment(
    store: &Store,
    coverage: &Coverage,
    segment: &str,
    wanted: &[Wanted<'_>],
    query: &Query,
    kind: Kind,
    progress: &dyn Progress,
) -> Result<std::result::Result<Found, String>> {
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
    let many = ManyPoints {
        kind,
        all: wanted
            .iter()
            .flat_map(|image| image.points.values().flatten().cloned())
            .collect::<BTreeSet<_>>(),
        of: wanted
            .iter()
            .filter(|image| !image.points.is_empty())
            .map(|image| ((image.covered.name.as_bytes(), image.covered.version.into()), &image.points))
            .collect(),
    };
    let places: HashMap<(&[u8], i64), usize> = wanted
        .iter()
        .map(|image| ((image.covered.name.as_bytes(), image.covered.version.into()), image.place))
        .collect();
    let shown = Shown::Many(&many);
    let may_match = |group: &mif_formats::mif::manifest::columns::Group<'_>| {
        query.contents.as_ref().is_none_or(|contents| contents.may_be_in(group))
            && query.path.as_ref().is_none_or(|glob| !shown.is_outside(group, glob))
    };
    let groups: Vec<_> = parts.iter().flat_map(Part::groups).collect();
    let read = in_parallel(&groups, progress, |group| {
        if !may_match(group) {
            return Ok(Ok(Vec::new()));
        }
        let search = || -> mif_formats::Result<Vec<(usize, i64, Hit)>> {
            let rows = Rows { group, picked: None, shown, known: None }.filter(query)?;
            if rows.is_empty() {
                return Ok(Vec::new());
            }
            let names = group.texts_at(kind.name_column(), &rows)?;
            let versions = group.numbers_at(kind.version_column(), &rows)?;
            // Of other images, only the name is read.
            let places: Vec<Option<usize>> = names
                .iter()
                .zip(versions)
                .map(|(name, version)| places.get(&(name.data(), version?)).copied())
                .collect();
            let rows: Vec<usize> =
                rows.into_iter().zip(&places).filter_map(|(row, place)| place.map(|_| row)).collect();
            let numbers = group.numbers_at(kind.row_column(), &rows)?;
            let hits = describe("", group, &rows, None)?;
            let of = places.into_iter().flatten().zip(numbers).zip(hits);
            Ok(of.map(|((place, number), hit)| (place, number.unwrap_or(0), hit)).collect())
        };
        Ok(search())
    })?;
    let mut found: BTreeMap<usize, Vec<(i64, Hit)>> =
        wanted.iter().map(|image| (image.place, Vec::new())).collect();
    let ids: HashMap<usize, String> = wanted
        .iter()
        .map(|image| (image.place, format!("{}@{}", image.covered.name, image.covered.version)))
        .collect();
    for group in read {
        match group {
            Ok(hits) => {
                for (place, number, hit) in hits {
                    let hit = Hit { image: ids[&place].clone(), ..hit };
                    found.entry(place).or_default().push((number, hit));
                }
            }
            Err(e) => return Ok(Err(format!("segment {segment}: {e}"))),
        }
    }
    let in_order = |mut hits: Vec<(i64, Hit)>| {
        hits.sort_by_key(|(number, _)| *number);
        hits.into_iter().map(|(_, hit)| hit).collect()
    };
    Ok(Ok(found.into_iter().map(|(place, hits)| (place, in_order(hits))).collect()))
}
