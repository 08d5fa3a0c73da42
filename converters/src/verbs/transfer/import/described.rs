//! Recognises a disk that is in the store, but was described by an older reader.

use std::sync::Arc;

use super::known::{damaged_parts, objects_there, there};
use super::options::{ImportOptions, Opened};
use crate::disk::compare::is_same;
use crate::disk::scan::{Scan, ScannedVolume};
use crate::error::Result;
use crate::store::{Provenance, Store, StoredImage};
use crate::task::progress::Progress;

/// A stored image of a disk.
pub(super) struct Described {
    pub(super) stored: StoredImage,
    /// True if today's readers find other volumes on the disk than the image's record has.
    pub(super) is_outdated: bool,
}

/// Returns the newest version under the name of a disk if it has the disk's bits and is intact, but another version of
/// this program, or readers that knew other filesystems, described it. An import would store its content a second time.
///
/// If the description is of today's readers, the digests of a new one decide, so the disk is not compared here. A disk
/// that changed usually differs near its start, where the comparison ends.
pub(super) fn described_otherwise(
    store: &Store,
    opened: &Opened<'_>,
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<Option<Described>> {
    let Some(version) = store.versions(opened.name)?.last().copied() else { return Ok(None) };
    let disk = &opened.disk.source;
    let is_fit = |stored: &StoredImage| {
        stored.image.disk_size == disk.len() && (stored.image.warnings.is_empty() || !options.strict)
    };
    let Some(stored) = there(store, opened.name, version).filter(is_fit) else { return Ok(None) };
    let scan = Scan::new(disk.clone())?;
    let volumes = scan.volumes.iter().map(ScannedVolume::record);
    let is_outdated = scan.table != stored.image.table || volumes.ne(stored.image.volumes.iter().cloned());
    if !is_outdated && stored.image.provenance.tool == Provenance::of("import").tool {
        return Ok(None);
    }
    let same = || -> Result<bool> {
        let there = stored.disk(Arc::new(store.objects()?))?;
        Ok(is_same(&**disk, &there, "comparing", progress)?
            && damaged_parts(store, &stored)?.is_empty()
            && objects_there(store, &stored, options)?)
    };
    match same() {
        Err(error) if progress.interrupted() => Err(error),
        // An import stores again what is damaged.
        same => Ok(same.unwrap_or(false).then_some(Described { stored, is_outdated })),
    }
}
