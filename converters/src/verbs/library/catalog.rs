//! `catalog`: brings the catalog of a store up to date, or removes it.

use serde::Serialize;

use crate::catalog::{CatalogOptions, CatalogReport, remove, update};
use crate::error::{Error, Result};
use crate::store::{Place, Store};
use crate::task::progress::Progress;

/// What the removal of a catalog deleted.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct CatalogRemoval {
    /// The number of files.
    pub deleted: u64,
}

/// Brings the catalog of the store at `place` up to date: adds the images that are not in it, and drops those that were removed.
/// What was done before an interruption stays. A dry run only finds out what is missing.
///
/// # Errors
/// If the store cannot be read or written, and if a newer version of this program has written the catalog.
pub fn catalog(place: impl Place, options: CatalogOptions, progress: &dyn Progress) -> Result<CatalogReport> {
    let storage = place.storage()?;
    if !storage.keeps_tags() {
        return Err(Error::unsupported(format!("{}: a registry has no catalog", storage.place()))
            .advise("Copy the images into a directory or a bucket with `mif pull`"));
    }
    update(&storage, options, progress)
}

/// Removes the catalog of a store, which was opened for removal.
///
/// # Errors
/// If its files cannot be deleted.
pub fn remove_catalog(store: &Store) -> Result<CatalogRemoval> {
    Ok(CatalogRemoval { deleted: remove(store)? })
}
