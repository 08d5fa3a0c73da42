//! `search`: finds files of all images by path, content, owner, mode, size, time and extended attributes. Reads only
//! the columns of a manifest that the query needs, and only the rows that are still candidates.
//!
//! Images that are in the catalog of the store are searched there ([`catalog`]), the others in their manifests. The answer is
//! the same.

mod catalog;
mod content;
mod glob;
mod known;
mod query;
mod rows;

use std::sync::{Arc, Mutex};

use mif_formats::mif::manifest::columns::Columns;

pub use self::content::WantedContents;
pub use self::glob::PathGlob;
use self::known::Known;
pub use self::query::{Hit, HitGroup, Query, SearchReport};
use self::rows::{Rows, Shown, describe};
use crate::catalog::{Points, points};
use crate::error::{Result, damaged};
use crate::store::{DamagedImage, Image, Objects, Store, StoredFile};
use crate::task::pool::in_parallel;
use crate::task::progress::{self, Progress};
use crate::verbs::choose::{Versions, named};

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
    let known = Known::default();
    let left: Vec<usize> = (0..images.len()).filter(|image| !found.contains_key(image)).collect();
    let searched = in_parallel(&left, progress, |image| {
        let (name, version) = &images[*image];
        let hits = search_image(store, name, *version, query, &objects, &known);
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
    known: &Known,
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
        let rows = Rows { group: &group, picked, shown: Shown::One(&points), known: Some(known) };
        let picked = rows.filter(query).map_err(wrong)?;
        hits.extend(describe(&id, &group, &picked, Some(known)).map_err(wrong)?);
    }
    Ok(hits)
}
