//! Changes of a catalog take effect here: `images.parquet` is replaced, and files that it does not name are deleted.
//!
//! Whoever replaces it holds the store's removal lock. So of two runs that began with the same catalog one is first, and the
//! other notices; and an image that is removed leaves the catalog before its removal is complete.

use std::collections::BTreeSet;
use std::sync::Arc;

use mif_formats::mif::catalog::{Coverage, encode};

use super::{Opened, open};
use crate::error::{Result, damaged};
use crate::store::{
    CATALOG, CATALOG_IMAGES, Storage, Store, catalog_key, catalog_segment, catalog_sums_key, is_full,
};
use crate::task::progress::Progress;

/// How a commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Committed {
    /// It has taken effect; this many files that nobody needs were deleted.
    Done(u64),
    /// Another run was faster.
    Overtaken,
}

/// Replaces the catalog whose generation is `before` (`None` if there was none that could be read) by `coverage`, without the
/// images that were removed meanwhile. `new` is the segment that this run has written.
pub(super) fn commit(
    storage: &Arc<dyn Storage>,
    before: Option<&str>,
    mut coverage: Coverage,
    new: Option<&str>,
    progress: &dyn Progress,
) -> Result<Committed> {
    let store = Store::open_to_remove(storage.clone(), progress)?;
    let now = match open(&**storage)? {
        Opened::Catalog(now) => Some(now),
        Opened::None | Opened::Damaged(_) => None,
        Opened::Newer(e) => return Err(e),
    };
    let is_there = |segment: &str| {
        let files = &coverage.segments[segment].files;
        let mut keys = files
            .iter()
            .flat_map(|(table, parts)| (0..parts.len()).map(move |part| catalog_key(table, segment, part)));
        keys.all(|key| storage.len(&key).is_ok() && storage.len(&catalog_sums_key(&key)).is_ok())
    };
    if now.as_ref().map(|now| &now.generation[..]) != before || !new.is_none_or(is_there) {
        if let Some(new) = new {
            delete_segments(&**storage, &|segment| segment == new)?;
        }
        return Ok(Committed::Overtaken);
    }
    drop_removed(&store, &mut coverage)?;
    write(&**storage, &coverage)?;
    // Files of the catalog before stay for those who still read them, until the next run or `gc`.
    let kept = coverage.segments.into_keys().chain(now.into_iter().flat_map(|now| now.segments.into_keys()));
    sweep(&store, &kept.collect(), false).map(Committed::Done)
}

fn write(storage: &dyn Storage, coverage: &Coverage) -> Result<()> {
    let bytes = encode(coverage).map_err(|e| damaged(CATALOG_IMAGES, &e))?;
    storage.replace(CATALOG_IMAGES, &bytes).map_err(|e| storage.error(CATALOG_IMAGES, &e))
}

/// Takes images out of a coverage that the store does not have any more. Returns their number.
fn drop_removed(store: &Store, coverage: &mut Coverage) -> Result<usize> {
    let before = coverage.images.len();
    let names: BTreeSet<&String> = coverage.images.iter().map(|image| &image.name).collect();
    let mut there = BTreeSet::new();
    for name in names {
        there.extend(store.versions(name)?.into_iter().map(|version| (name.clone(), version)));
    }
    coverage.images.retain(|image| there.contains(&(image.name.clone(), image.version)));
    Ok(before - coverage.images.len())
}

/// Takes removed images out of the catalog. The caller holds the store's lock and has just removed them. Their rows stay in
/// the files, and do not count.
pub(crate) fn forget_removed(store: &Store) -> Result<()> {
    let storage = &**store.storage();
    // One that cannot be read answers nothing.
    let Opened::Catalog(mut coverage) = open(storage)? else { return Ok(()) };
    if drop_removed(store, &mut coverage)? == 0 {
        return Ok(());
    }
    match encode(&coverage).map(|bytes| storage.replace(CATALOG_IMAGES, &bytes)) {
        Ok(Err(e)) if !is_full(&e) => Err(storage.error(CATALOG_IMAGES, &e)),
        Ok(Ok(())) => Ok(()),
        // The disk is full. Delete the catalog rather than keep one that still lists removed images.
        _ => storage.delete(CATALOG_IMAGES).map_err(|e| storage.error(CATALOG_IMAGES, &e)),
    }
}

/// Deletes the files of segments that are not in `kept` and that no running command is writing. Returns their number. The
/// caller holds the store's lock, unless this is a dry run.
pub(crate) fn sweep(store: &Store, kept: &BTreeSet<String>, dry_run: bool) -> Result<u64> {
    let storage = &**store.storage();
    let failed = |e: std::io::Error| storage.error(CATALOG, &e);
    let names = storage.entries(CATALOG).map_err(failed)?.files;
    let unused: Vec<(&String, u64)> = names
        .iter()
        .filter_map(|name| Some((name, catalog_segment(name)?)))
        .filter(|(_, (segment, _))| !kept.contains(*segment))
        .map(|(name, (_, epoch))| (name, epoch))
        .collect();
    if unused.is_empty() {
        return Ok(0);
    }
    let oldest = match dry_run {
        true => u64::MAX,
        false => match store.end_epoch(|_| Ok(())) {
            Err(e) if is_full(&e) => return Ok(0),
            left => left.map_err(failed)?.oldest,
        },
    };
    let going: Vec<&String> =
        unused.into_iter().filter(|(_, epoch)| *epoch < oldest).map(|(name, _)| name).collect();
    for name in going.iter().filter(|_| !dry_run) {
        let key = format!("{CATALOG}/{name}");
        storage.delete(&key).map_err(|e| storage.error(&key, &e))?;
    }
    Ok(going.len() as u64)
}

fn delete_segments(storage: &dyn Storage, is_going: &dyn Fn(&str) -> bool) -> Result<u64> {
    let names = storage.entries(CATALOG).map_err(|e| storage.error(CATALOG, &e))?.files;
    let going =
        names.iter().filter(|name| catalog_segment(name).is_some_and(|(segment, _)| is_going(segment)));
    let mut count = 0;
    for name in going {
        let key = format!("{CATALOG}/{name}");
        storage.delete(&key).map_err(|e| storage.error(&key, &e))?;
        count += 1;
    }
    Ok(count)
}

/// Removes the catalog. The store was opened for removal. Returns the number of files that were deleted.
pub(crate) fn remove(store: &Store) -> Result<u64> {
    store.check_may_remove()?;
    let storage = &**store.storage();
    let failed = |e: std::io::Error| storage.error(CATALOG, &e);
    let had = storage.len(CATALOG_IMAGES).is_ok();
    storage.delete(CATALOG_IMAGES).map_err(failed)?;
    let files = delete_segments(storage, &|_| true)?;
    // Foreign files stay, and then the directory stays too.
    if storage.list(CATALOG).map_err(failed)?.is_empty() {
        storage.delete(CATALOG).map_err(failed)?;
    }
    Ok(files + u64::from(had))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Memory;
    use crate::task::progress::Silent;

    fn segment_files(storage: &Memory, segment: &str) {
        for table in ["files", "digests", "packages"] {
            let key = catalog_key(table, segment, 0);
            storage.set(&catalog_sums_key(&key), Some(vec![1]));
            storage.set(&key, Some(vec![1]));
        }
    }

    fn coverage(generation: &str, segments: &[&str]) -> Coverage {
        use mif_formats::mif::catalog::{DataFile, Segment};
        let file = || vec![DataFile { bytes: 1, rows: 0 }];
        let segment = || Segment {
            files: ["files", "digests", "packages"].into_iter().map(|t| (t.to_owned(), file())).collect(),
        };
        Coverage {
            generation: generation.to_owned(),
            images: Vec::new(),
            segments: segments.iter().map(|name| ((*name).to_owned(), segment())).collect(),
        }
    }

    #[test]
    fn of_two_runs_the_first_wins_and_files_go_one_run_later() {
        let memory = Memory::new();
        let storage: Arc<dyn Storage> = Arc::new(memory.clone());
        drop(Store::create(storage.clone(), &Silent).unwrap());
        let [a, b, c] = ["0-000000000000000a", "0-000000000000000b", "0-000000000000000c"];
        [a, b].iter().for_each(|segment| segment_files(&memory, segment));
        let first = commit(&storage, None, coverage("one", &[a]), Some(a), &Silent).unwrap();
        // The files of the other run count as garbage once nobody who may write them is in the store.
        assert_eq!(first, Committed::Done(6));
        segment_files(&memory, b);
        let second = commit(&storage, None, coverage("two", &[b]), Some(b), &Silent).unwrap();
        assert_eq!(second, Committed::Overtaken);
        let files = || storage.entries(CATALOG).unwrap().files;
        assert!(!files().iter().any(|name| name.contains(b)), "{:?}", files());
        segment_files(&memory, c);
        let third = commit(&storage, Some("one"), coverage("three", &[c]), Some(c), &Silent).unwrap();
        assert_eq!(third, Committed::Done(0), "those of the catalog before stay");
        let fourth = commit(&storage, Some("three"), coverage("four", &[c]), None, &Silent).unwrap();
        assert_eq!(fourth, Committed::Done(6));
        assert_eq!(files().len(), 7);
        let store = Store::open_to_remove(storage.clone(), &Silent).unwrap();
        assert_eq!(remove(&store).unwrap(), 7);
        assert!(files().is_empty());
    }

    #[test]
    fn files_that_a_running_command_may_be_writing_stay() {
        let memory = Memory::new();
        let storage: Arc<dyn Storage> = Arc::new(memory.clone());
        let running = Store::create(storage.clone(), &Silent).unwrap();
        let name = format!("{}-000000000000000a", storage.epoch().unwrap());
        segment_files(&memory, &name);
        let store = Store::open_to_remove(storage.clone(), &Silent).unwrap();
        assert_eq!(sweep(&store, &BTreeSet::new(), false).unwrap(), 0);
        drop(running);
        assert_eq!(sweep(&store, &BTreeSet::new(), false).unwrap(), 6);
    }
}
