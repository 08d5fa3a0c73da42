//! `search`: finds files of all images by path, content, owner, mode, size, time and extended attributes. Reads only
//! the columns of a manifest that the query needs, and only the rows that are still candidates.
//!
//! Images that are in the catalog of the store are searched there ([`catalog`]), the others in their manifests. The answer is
//! the same.

mod catalog;
mod content;
mod glob;
mod rows;

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

use mif_formats::fs::{FileType, Timestamp};
use mif_formats::mif::manifest::columns::Columns;
use serde::Serialize;

pub use self::content::WantedContents;
pub use self::glob::PathGlob;
use self::rows::{Rows, Shown, describe};
use crate::catalog::{Points, StoredFile, points};
use crate::error::{Result, damaged};
use crate::notation;
use crate::store::{DamagedImage, Image, ImageName, Objects, Store};
use crate::task::pool::in_parallel;
use crate::task::progress::{self, Progress};
use crate::verbs::choose::{ImageFilter, Versions, named};

/// A search. A row must match every criterion that is given.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// The images to search; all if this is empty.
    pub images: Vec<ImageName>,
    /// Search all versions of the images, not only the newest.
    pub all_versions: bool,
    /// Search only images that match.
    pub filter: ImageFilter,
    /// The path.
    pub path: Option<PathGlob>,
    /// The content: any of these.
    pub contents: Option<WantedContents>,
    /// The type.
    pub file_type: Option<FileType>,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// Mode bits that must all be set.
    pub mode: u16,
    /// Mode bits of which at least one must be set.
    pub mode_any: u16,
    /// Size in bytes.
    pub size: Option<RangeInclusive<u64>>,
    /// Modification time, in seconds since 1970.
    pub mtime: Option<RangeInclusive<i64>>,
    /// Name of an extended attribute.
    pub xattr: Option<PathGlob>,
}

/// The result.
#[derive(Debug, Clone, Serialize)]
pub struct SearchReport {
    /// The number of versions that were searched.
    pub searched: u64,
    /// Damaged images, which could not be searched.
    pub damaged: Vec<DamagedImage>,
    /// The files, by image, volume and path.
    pub hits: Vec<Hit>,
    /// If requested, each content once, with its images; then `hits` is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<HitGroup>>,
    /// The number of files or groups that were left out, because only a number of them was requested.
    pub left_out: u64,
}

/// A content, and the images that have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HitGroup {
    /// The SHA-1 in hex; `None` for what has no digest, which is grouped by path.
    pub sha1: Option<String>,
    /// The type.
    #[serde(rename = "type")]
    pub file_type: String,
    /// The size in bytes.
    pub size: u64,
    /// The paths, each with its volume, in order.
    pub paths: Vec<String>,
    /// The images, in order.
    pub images: Vec<String>,
}

/// A file that matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Hit {
    /// The image, as `name@version`.
    pub image: String,
    pub volume: String,
    pub path: String,
    /// The path's bytes in hex, if they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes: Option<String>,
    #[serde(rename = "type")]
    pub file_type: String,
    #[serde(serialize_with = "notation::mode")]
    pub mode: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: u64,
    #[serde(serialize_with = "notation::time")]
    pub mtime: Option<Timestamp>,
    /// The SHA-1 in hex.
    pub sha1: Option<String>,
}

/// Searches a store on all processors.
pub fn search(store: &Store, query: &Query, progress: &dyn Progress) -> Result<SearchReport> {
    let versions = if query.all_versions { Versions::All } else { Versions::Newest };
    let (images, mut damaged) = named(store, &query.images, &query.filter, versions, progress)?;
    progress.stage("searching", 0);
    let mut found = catalog::search(store, &images, query, progress)?;
    let objects: Mutex<Option<Arc<Objects>>> = Mutex::default();
    let objects = || {
        let mut known = objects.lock().expect("not poisoned");
        match &*known {
            Some(objects) => Ok(objects.clone()),
            None => Ok(known.insert(Arc::new(store.objects()?)).clone()),
        }
    };
    let left: Vec<usize> = (0..images.len()).filter(|image| !found.contains_key(image)).collect();
    let searched = in_parallel(&left, progress, |image| {
        let (name, version) = &images[*image];
        let hits = search_image(store, name, *version, query, &objects);
        Ok(hits.map_err(|e| DamagedImage::new(name, *version, &e)))
    })?;
    progress::check(progress)?;
    let mut failed = Vec::new();
    for (image, searched) in left.into_iter().zip(searched) {
        match searched {
            Ok(hits) => drop(found.insert(image, hits)),
            Err(image) => failed.push(image),
        }
    }
    let hits = found.into_values().flatten().collect();
    let searched = (images.len() - failed.len()) as u64;
    damaged.extend(failed);
    Ok(SearchReport { searched, damaged, hits, groups: None, left_out: 0 })
}

fn search_image(
    store: &Store,
    name: &str,
    version: u32,
    query: &Query,
    objects: &dyn Fn() -> Result<Arc<Objects>>,
) -> Result<Vec<Hit>> {
    let folder = Image::folder(name, version);
    let id = format!("{name}@{version}");
    let wrong = |e: mif_formats::Error| damaged(&id, &e);
    let candidates = match &query.contents {
        Some(contents) => content::candidates(&**store.storage(), &folder, contents)?,
        None => None,
    };
    if candidates.as_ref().is_some_and(Vec::is_empty) {
        return Ok(Vec::new());
    }
    let key = format!("{folder}/manifest.parquet");
    let file = StoredFile::new(store.storage().clone(), &key).map_err(|e| store.storage().error(&key, &e))?;
    let columns = Columns::new(file).map_err(wrong)?;
    // A pattern for whole paths matches paths as the image's system sees them.
    let points = match &query.path {
        Some(glob) if glob.is_for_whole_paths() => points(&store.version(name, version)?, &columns, objects)?,
        _ => Points::new(),
    };
    let mut hits = Vec::new();
    for group in columns.groups() {
        let picked = match &candidates {
            Some(all) => {
                let end = group.start + group.rows;
                let here = all.iter().filter(|row| (group.start..end).contains(*row));
                Some(here.map(|row| row - group.start).collect())
            }
            None => None,
        };
        let rows = Rows { group: &group, picked, shown: Shown::One(&points) };
        let picked = rows.filter(query).map_err(wrong)?;
        hits.extend(describe(&id, &group, &picked).map_err(wrong)?);
    }
    Ok(hits)
}
