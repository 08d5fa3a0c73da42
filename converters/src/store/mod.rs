//! The store: images as manifests and layouts, and one collection of objects shared by all of them.
//!
//! ```text
//! store.json                             version and parameters
//! packs/ab/<id>.pack                     objects, many to a file       (mif_formats::mif::pack)
//! index/<id>.idx                         the offset of each object in its pack
//! index/all-<n>.cache                    many of these in one file
//! images/name=<name>/version=<n>/        an image: image.json, layout, manifest.parquet, digests, …
//! published/name=<name>/version=<n>      a copy of image.json, which shows if an image has vanished
//! disks/ab/<digest>.<name>@<version>     a pointer to an image with this layout
//! removed/name=<name>/version=<n>        a removed version, whose number is not used again
//! tags/name=<name>/tag=<tag>/<n>         a tag's n-th value, a version's number; the last one counts
//! trash/<epoch>/                         files to delete once no older epoch is used (trash)
//! leases/<epoch>                         a shared lock for each user of the store    (leases)
//! catalog/                               the manifests of many images in a few files  (crate::catalog)
//! tmp/                                   unfinished files, which gc deletes
//! work/<run>/                            which process does what of work that many share (work)
//! lock                                   the lock of rm and gc
//! ```
//!
//! Files never change once they exist, except store.json, which may gain a feature, and catalog/images.parquet. An image appears at once and complete, after all its objects.
//!
//! Readers and importers hold a lease and wait for nobody. `rm` and `gc` wait only for each other: they put files into
//! the trash, and delete them as soon as no older lease is left. Only a repair takes the store exclusively.

mod address;
mod alike;
pub mod bucket;
mod catalog;
mod catalog_names;
mod folder;
mod header;
mod index;
mod index_cache;
mod last_check;
mod leases;
mod memory;
mod needs;
mod objects;
mod pack_index;
mod pack_list;
mod place;
mod published;
mod record;
#[cfg(feature = "remote")]
mod registry;
mod removal;
mod requests;
mod source_file;
mod storage;
mod stored_disk;
mod stored_file;
mod stored_image;
mod strangers;
mod tags;
pub(crate) mod trash;
pub(crate) mod work;
mod writer;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

pub use self::address::{BucketPlace, DiskForm, RegistryPlace, Service};
pub(crate) use self::alike::Alike;
pub(crate) use self::catalog::tables_of;
pub(crate) use self::catalog_names::{
    CATALOG, CATALOG_IMAGES, catalog_epoch, catalog_key, catalog_segment, catalog_sums_key,
};
pub use self::folder::Folder;
pub(crate) use self::folder::unfinished_epoch;
pub use self::header::FORMAT;
use self::header::HEADER;
pub use self::index::Index;
pub(crate) use self::index::names_of;
pub(crate) use self::index_cache::clear as clear_index_cache;
pub use self::last_check::LastCheck;
pub use self::memory::Memory;
pub(crate) use self::needs::{Needs, with_chunks};
pub use self::objects::Objects;
pub(crate) use self::objects::{Decoded, decode_object};
pub use self::pack_index::PackIndex;
pub(crate) use self::pack_index::{index_key, is_missing, pack_files, pack_key, total};
pub use self::place::{Place, StorePlace};
pub use self::record::{
    Counts, DamagedImage, FilesystemRecord, Image, ImageName, Provenance, Removed, Selector, VolumeRecord,
    volume_name,
};
pub(crate) use self::record::{check_name, features_of};
#[cfg(feature = "remote")]
pub use self::registry::{ContainerDisk, ForeignImage, push_container_disk};
pub use self::source_file::SourceFile;
pub use self::storage::{Entries, Lock, Storage, Upload, check_len};
pub(crate) use self::storage::{IMAGE_FILES, is_full};
pub use self::stored_disk::StoredDisk;
pub(crate) use self::stored_file::StoredFile;
pub use self::stored_image::StoredImage;
pub(crate) use self::stored_image::{PACKAGES, PACKS};
pub(crate) use self::strangers::strangers;
pub use self::tags::Tag;
pub use self::work::Shard;
pub use self::writer::{ObjectWriter, WriterStats};
pub(crate) use self::writer::{new_pack, put_pack};

use crate::error::{Code, Error, Result};
use crate::task::progress::{self, Progress};

/// An open store.
pub struct Store {
    storage: Arc<dyn Storage>,
    index: OnceLock<Arc<Index>>,
    /// Held while the store, or its objects, are in use.
    held: Arc<[Lock]>,
    purpose: Purpose,
    /// What was repaired when it was opened for repair, each a sentence.
    pub(crate) mended: Vec<String>,
}

/// The remaining users of the store after an epoch has ended.
pub(crate) struct Left {
    /// The oldest epoch that a current user of the store has entered. Nobody uses the trash of this epoch or of an
    /// earlier one.
    pub(crate) oldest: u64,
    /// Nobody can enter until this is dropped.
    _alone: Option<Lock>,
}

impl Left {
    /// `oldest` if nobody is left and nobody can enter.
    const ALONE: u64 = u64::MAX;

    /// Returns true if nobody is left and nobody can enter.
    pub(crate) fn is_alone(&self) -> bool {
        self.oldest == Self::ALONE
    }
}

/// The purpose for which a store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    /// To read or to add.
    Use,
    /// To remove, while others use it.
    Remove,
    /// To repair, exclusively.
    Repair,
}

impl Store {
    /// Opens the store at `place` for reading and adding. Waits for a running repair.
    pub fn open(place: impl Place, progress: &dyn Progress) -> Result<Self> {
        Self::open_for(Purpose::Use, place.storage()?, progress)
    }

    /// Opens the store at `place` for removal. Waits for other removals; readers and importers may go on.
    pub fn open_to_remove(place: impl Place, progress: &dyn Progress) -> Result<Self> {
        Self::open_for(Purpose::Remove, place.storage()?, progress)
    }

    /// Opens the store at `place` for repair. First rewrites a missing or damaged header, if packs and images exist.
    /// Waits until nobody else has the store open; processes that open it meanwhile wait for the repair.
    pub fn open_to_repair(place: impl Place, progress: &dyn Progress) -> Result<Self> {
        let storage = place.storage()?;
        let mended = header::repair(&*storage)?;
        let store = Self::open_for(Purpose::Repair, storage, progress)?;
        Ok(Store { mended: mended.into_iter().collect(), ..store })
    }

    /// Creates a store at an empty place, or uses the existing one, and opens it for reading and adding.
    pub fn create(place: impl Place, progress: &dyn Progress) -> Result<Self> {
        let storage = place.storage()?;
        let made = storage.put_if_absent(HEADER, &header::new());
        made.map_err(|e| storage.error(HEADER, &e))?;
        Self::open(storage, progress)
    }

    fn open_for(purpose: Purpose, storage: Arc<dyn Storage>, progress: &dyn Progress) -> Result<Self> {
        let found = match storage.read_all(HEADER) {
            Ok(found) => found,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let error = Error::input(format!("{}: no store found", storage.place()));
                return Err(match storage.list("packs").is_ok_and(|packs| !packs.is_empty()) {
                    true => error.advise("Its store.json is missing: `mif fsck --repair` rewrites it"),
                    false => {
                        error.advise("Name a store with --store or MIF_STORE, or make one with `mif import`")
                    }
                });
            }
            Err(e) => return Err(storage.error(HEADER, &e)),
        };
        header::check(&*storage, &found)?;
        let held_by = |key: &str, others: &str, get: &dyn Fn() -> std::io::Result<Option<Lock>>| {
            wait_for(&*storage, others, &|| get().map_err(|e| storage.error(key, &e)), progress)
        };
        let lease = || held_by("leases", "a repair of the store", &|| storage.enter());
        let lock = || held_by("lock", "another removal or repair", &|| storage.lock());
        let alone = || held_by("leases", "other commands that use the store", &|| storage.alone());
        let held = match purpose {
            Purpose::Use => vec![lease()?],
            Purpose::Remove => vec![lock()?],
            Purpose::Repair => {
                let lock = lock()?;
                vec![alone()?, lock]
            }
        };
        if !held.iter().all(Lock::is_held) {
            progress.warn(&format!(
                "{}: the store cannot be locked for reading; `mif rm` and `mif gc` may delete what this command reads",
                storage.place()
            ));
        }
        Ok(Store { storage, index: OnceLock::new(), held: held.into(), purpose, mended: Vec::new() })
    }

    /// Fails unless the store was opened for removal or repair.
    pub(crate) fn check_may_remove(&self) -> Result<()> {
        match self.purpose {
            Purpose::Use => {
                Err(Error::usage("a store from which something is removed must be opened for that"))
            }
            Purpose::Remove | Purpose::Repair => Ok(()),
        }
    }

    /// Fails unless the store was opened for repair.
    pub(crate) fn check_may_repair(&self) -> Result<()> {
        match self.purpose {
            Purpose::Repair => Ok(()),
            _ => Err(Error::usage("a store that is repaired must be opened for that")),
        }
    }

    /// Returns true if nobody else uses the store and nobody can begin to.
    pub(crate) fn is_alone(&self) -> bool {
        self.purpose == Purpose::Repair
    }

    /// Calls `work` with the next epoch, into whose trash it moves files, and then begins that epoch: processes that
    /// enter from now on do not see these files. If the disk is too full for that, takes the store exclusively instead,
    /// if possible.
    pub(crate) fn end_epoch(&self, work: impl FnOnce(u64) -> std::io::Result<()>) -> std::io::Result<Left> {
        if self.is_alone() {
            return Ok(Left { oldest: Left::ALONE, _alone: None });
        }
        let ended = || {
            work(self.storage.epoch()?.saturating_add(1))?;
            self.storage.advance()?;
            self.storage.oldest()
        };
        match ended() {
            Ok(oldest) => Ok(Left { oldest, _alone: None }),
            Err(e) if is_full(&e) => self.alone()?.ok_or(e),
            Err(e) => Err(e),
        }
    }

    /// Takes the store exclusively until the result is dropped, if it does not have it already. Returns `None` if it is
    /// in use.
    fn alone(&self) -> std::io::Result<Option<Left>> {
        if self.is_alone() {
            return Ok(Some(Left { oldest: Left::ALONE, _alone: None }));
        }
        let alone = self.storage.alone()?;
        Ok(alone.map(|lock| Left { oldest: Left::ALONE, _alone: Some(lock) }))
    }

    /// Opens the store at `place`. If there is none, creates one that only its owner may read.
    pub fn open_or_create(place: impl Place, progress: &dyn Progress) -> Result<Self> {
        let storage = place.storage()?;
        if is_missing(&*storage, HEADER) {
            Self::make(storage.clone(), None)?;
        }
        Self::open(storage, progress)
    }

    /// Returns true if there is a store at `place`, or something that looks like a damaged one.
    pub fn exists(place: impl Place) -> Result<bool> {
        let storage = place.storage()?;
        Ok(!is_missing(&*storage, HEADER) || storage.list("packs").is_ok_and(|packs| !packs.is_empty()))
    }

    /// Creates a store at `place`: for its owner alone, or also for the group with this ID. Fails if anything else is
    /// there.
    pub fn make(place: impl Place, group: Option<u32>) -> Result<()> {
        let storage = place.storage()?;
        let failed = |e: std::io::Error| Error::file(&storage.place(), &e).coded(Code::Store);
        // Another process may be creating the store right now: only a place without a header and with other files is
        // refused.
        if !is_begun(&*storage).map_err(failed)? && is_missing(&*storage, HEADER) {
            return Err(Error::input(format!("{}: not empty, and not a store", storage.place()))
                .advise(format!("Name {}, or an existing store", storage.new_place())));
        }
        storage.prepare(group).map_err(failed)?;
        storage.put_if_absent(HEADER, &header::new()).map(|_| ()).map_err(failed)
    }

    /// Removes the store at `place` if it has never held an image and nobody uses it: what a failed import made. The
    /// directory itself is removed if `with_directory`, and if nothing else is in it.
    pub fn discard_unused(place: impl Place, with_directory: bool) -> Result<()> {
        let storage = place.storage()?;
        let failed = |e: std::io::Error| Error::file(&storage.place(), &e);
        let Some(_lock) = storage.lock().map_err(failed)? else { return Ok(()) };
        let Some(alone) = storage.alone().map_err(failed)? else { return Ok(()) };
        let has = |key: &str| storage.list(key).map_or(true, |names| !names.is_empty());
        // Without locks, somebody may be adding an image.
        if !alone.is_held() || ["images", "removed", "published"].into_iter().any(has) {
            return Ok(());
        }
        storage.clear(with_directory).map_err(failed)
    }

    /// Returns the storage of the files.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Returns the index of all objects, read at first use. It includes objects added later through this store, but not
    /// those that others add.
    pub fn index(&self) -> Result<Arc<Index>> {
        if let Some(index) = self.index.get() {
            return Ok(index.clone());
        }
        let index = Arc::new(Index::load(&*self.storage)?);
        Ok(self.index.get_or_init(|| index).clone())
    }

    /// Returns a reader of the store's objects.
    pub fn objects(&self) -> Result<Objects> {
        Ok(Objects::new(self.storage.clone(), self.index()?).under(self.held.clone()))
    }

    /// Returns a reader of an image's objects. It uses the indexes of the packs that the image's file `packs` lists,
    /// and falls back to all indexes.
    pub(crate) fn objects_of(&self, image: &StoredImage) -> Result<Objects> {
        let packs = if self.index.get().is_some() { BTreeSet::new() } else { image.packs() };
        if packs.is_empty() {
            return self.objects();
        }
        let index = Index::of_packs(&*self.storage, &packs);
        Ok(Objects::new(self.storage.clone(), Arc::new(index)).over_all_packs().under(self.held.clone()))
    }

    /// Returns a reader of objects with a freshly loaded index.
    pub(crate) fn fresh_objects(&self) -> Result<Objects> {
        Ok(Objects::new(self.storage.clone(), Arc::new(Index::load(&*self.storage)?))
            .under(self.held.clone()))
    }
}

/// Waits for `others` until `get` returns a lock or the user cancels.
fn wait_for(
    storage: &dyn Storage,
    others: &str,
    get: &dyn Fn() -> Result<Option<Lock>>,
    progress: &dyn Progress,
) -> Result<Lock> {
    let mut told = false;
    loop {
        if let Some(lock) = get()? {
            return Ok(lock);
        }
        if !std::mem::replace(&mut told, true) {
            progress.stage(&format!("waiting for {others}"), 0);
        }
        progress::check(progress)?;
        storage.pause();
    }
}

/// Returns true if a place contains at most the leftovers of an interrupted creation of a store.
fn is_begun(storage: &dyn Storage) -> std::io::Result<bool> {
    let is_only = |key: &str, is_ours: &dyn Fn(&str) -> bool| -> std::io::Result<bool> {
        let found = match storage.entries(key) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Entries::default(),
            found => found?,
        };
        let Entries { files, folders, others } = found;
        Ok(others.is_empty() && files.iter().chain(&folders).all(|name| is_ours(name)))
    };
    Ok(is_only("", &|name| name == "tmp")? && is_only("tmp", &|name| unfinished_epoch(name).is_some())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::progress::Silent;

    #[test]
    fn a_store_that_somebody_only_began_to_make_is_made_and_another_folder_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        std::fs::create_dir_all(store.join("tmp")).unwrap();
        std::fs::write(store.join("tmp/upload-0-0123456789abcdef"), b"{").unwrap();
        drop(Store::open_or_create(&store, &Silent).unwrap());
        let other = folder.path().join("other");
        std::fs::create_dir_all(other.join("tmp")).unwrap();
        std::fs::write(other.join("tmp/notes"), b"mine").unwrap();
        assert!(Store::open_or_create(&other, &Silent).is_err());
    }
}
