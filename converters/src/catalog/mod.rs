//! The catalog of a store: the manifests and packages of many images in a few sorted files, for SQL and for searches over a
//! whole library (`mif_formats::mif::catalog` describes the files).
//!
//! It is derived from the images, and never the truth: without it, or if it is damaged, every answer is the same and only takes
//! longer. A change takes effect when `images.parquet` is replaced, by whoever holds the store's removal lock.
//!
//! - `update`: adds images that are not in it, merges segments, drops removed images;
//! - `segment`: writes a segment from manifests (`spool` sorts), or from other segments;
//! - `commit`: replaces `images.parquet`, forgets removed images, deletes files that are no longer used;
//! - `summed`: reads a file, and checks every block of it;
//! - `mounts`: where a system shows its volumes, which a search by path needs.

mod commit;
mod mounts;
mod segment;
mod spool;
mod summed;
mod update;

use std::io;

use mif_formats::ErrorKind;
use mif_formats::mif::catalog::{self, Coverage};

pub(crate) use self::commit::{forget_removed, remove, sweep};
pub(crate) use self::mounts::{Points, points};
pub(crate) use self::segment::{check_segment, open_part};
pub(crate) use self::summed::SummedFile;
pub(crate) use self::update::update;
pub use self::update::{CatalogOptions, CatalogReport, CatalogRows};
use crate::error::{Error, Result, damaged};
use crate::store::{CATALOG_IMAGES, Storage, catalog_epoch};

/// What a store has as its catalog.
pub(crate) enum Opened {
    /// Nothing.
    None,
    /// A catalog.
    Catalog(Coverage),
    /// One that a newer version of this program has written.
    Newer(Error),
    /// A damaged one.
    Damaged(Error),
}

/// Reads which images the catalog has.
///
/// # Errors
/// Those of reading it: then it may be intact.
pub(crate) fn open(storage: &dyn Storage) -> Result<Opened> {
    let bytes = match storage.read_all(CATALOG_IMAGES) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Opened::None),
        Err(e) => {
            let error = storage.error(CATALOG_IMAGES, &e);
            return if error.is_unreadable() { Err(error) } else { Ok(Opened::Damaged(error)) };
        }
    };
    Ok(match catalog::decode(bytes.into()) {
        Ok(coverage) => match coverage.segments.keys().find(|segment| catalog_epoch(segment).is_none()) {
            Some(segment) => {
                let problem = format!("store: {CATALOG_IMAGES}: {segment:?} is not the name of a segment");
                Opened::Damaged(Error::store(problem))
            }
            None => Opened::Catalog(coverage),
        },
        Err(e) if e.kind() == ErrorKind::Unsupported => Opened::Newer(
            damaged(CATALOG_IMAGES, &e)
                .advise("Use a newer version of mif, or remove it with `mif catalog --rm`"),
        ),
        Err(e) => Opened::Damaged(damaged(CATALOG_IMAGES, &e)),
    })
}
