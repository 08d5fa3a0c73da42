//! The trash: removed images and unneeded packs, kept until nobody uses them any more.
//!
//! ```text
//! trash/<epoch>/<name>@<version>/     the files of an image that was removed
//! trash/<epoch>/packs                 the ids of packs that were not needed, a line each
//! ```
//!
//! Files go into the trash of the epoch that begins right after. Processes that enter the store in that epoch or later
//! do not see the images, and store again the objects that only those packs contain. So once everybody who entered
//! before has left, the images can be deleted, and also the packs if a second look at the images finds that they are
//! still not needed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use mif_formats::mif::PackId;

use super::record::{Image, version_of};
use super::storage::{IMAGE_FILES, number};
use super::{Storage, pack_list};
use crate::error::Error;

const TRASH: &str = "trash";
const PACKS: &str = "packs";

/// An image in the trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trashed {
    pub(crate) epoch: u64,
    pub(crate) name: String,
    pub(crate) version: u32,
}

impl Trashed {
    fn id(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    pub(super) fn folder(&self) -> String {
        format!("{TRASH}/{}/{}", self.epoch, self.id())
    }
}

/// Returns the epochs that have trash, in ascending order.
fn epochs(storage: &dyn Storage) -> io::Result<Vec<u64>> {
    let folders = storage.entries(TRASH)?.folders;
    let mut epochs: Vec<u64> = folders.iter().filter_map(|name| number(name)).collect();
    epochs.sort_unstable();
    Ok(epochs)
}

/// Returns the images in the trash.
pub(crate) fn images(storage: &dyn Storage) -> io::Result<Vec<Trashed>> {
    let mut images = Vec::new();
    for epoch in epochs(storage)? {
        let folders = storage.entries(&format!("{TRASH}/{epoch}"))?.folders;
        for id in folders {
            let image = version_of(&id).map(|(name, version)| Trashed { epoch, name, version });
            images.extend(image.filter(|image| image.id() == id));
        }
    }
    Ok(images)
}

/// Returns the trash directory that contains the files of a removed version, if there is one.
pub(super) fn folder_of(storage: &dyn Storage, name: &str, version: u32) -> io::Result<Option<String>> {
    // Without a removal note, an image is not removed but damaged.
    match storage.len(&removed_key(name, version)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    let images = images(storage)?;
    let found = images.iter().rev().find(|image| image.name == name && image.version == version);
    Ok(found.map(Trashed::folder))
}

/// Returns the key of the note that a version was removed.
pub(super) fn removed_key(name: &str, version: u32) -> String {
    format!("removed/name={name}/version={version}")
}

/// Returns the packs in the trash, each with the epoch in which it was put there.
pub(crate) fn packs(storage: &dyn Storage) -> io::Result<BTreeMap<PackId, u64>> {
    let mut packs = BTreeMap::new();
    for epoch in epochs(storage)? {
        for pack in packs_of(storage, epoch)? {
            packs.entry(pack).or_insert(epoch);
        }
    }
    Ok(packs)
}

fn packs_key(epoch: u64) -> String {
    format!("{TRASH}/{epoch}/{PACKS}")
}

fn packs_of(storage: &dyn Storage, epoch: u64) -> io::Result<BTreeSet<PackId>> {
    match storage.read_all(&packs_key(epoch)) {
        // The next gc finds packs again whose line is damaged.
        Ok(text) => Ok(pack_list::decode(&text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(e) => Err(e),
    }
}

/// Puts packs into the trash of an epoch, except those that are already in the trash.
pub(crate) fn add_packs(storage: &dyn Storage, epoch: u64, added: &BTreeSet<PackId>) -> io::Result<()> {
    let known = packs(storage)?;
    let new: BTreeSet<PackId> = added.iter().filter(|pack| !known.contains_key(pack)).copied().collect();
    if new.is_empty() {
        return Ok(());
    }
    write_packs(storage, epoch, &(&packs_of(storage, epoch)? | &new))
}

/// Takes packs out of the trash that were deleted or are needed again.
pub(crate) fn forget_packs(storage: &dyn Storage, gone: &dyn Fn(&PackId) -> bool) -> io::Result<()> {
    for epoch in epochs(storage)? {
        let packs = packs_of(storage, epoch)?;
        let left: BTreeSet<PackId> = packs.iter().filter(|pack| !gone(pack)).copied().collect();
        match (left.len() == packs.len(), left.is_empty()) {
            (true, false) => {}
            (_, true) => storage.delete(&packs_key(epoch))?,
            (false, false) => write_packs(storage, epoch, &left)?,
        }
        remove_if_empty(storage, epoch)?;
    }
    Ok(())
}

fn write_packs(storage: &dyn Storage, epoch: u64, packs: &BTreeSet<PackId>) -> io::Result<()> {
    storage.replace(&packs_key(epoch), pack_list::encode(packs).as_bytes())
}

fn remove_if_empty(storage: &dyn Storage, epoch: u64) -> io::Result<()> {
    let folder = format!("{TRASH}/{epoch}");
    if storage.list(&folder)?.is_empty() { storage.delete(&folder) } else { Ok(()) }
}

/// Moves the files of an image into the trash of an epoch. Foreign files in its directory stay there.
pub(super) fn add_image(storage: &dyn Storage, epoch: u64, name: &str, version: u32) -> io::Result<()> {
    let from = Image::folder(name, version);
    let to = Trashed { epoch, name: name.to_owned(), version }.folder();
    for file in storage.entries(&from)?.files.iter().filter(|file| IMAGE_FILES.contains(&file.as_str())) {
        storage.rename(&format!("{from}/{file}"), &format!("{to}/{file}"))?;
    }
    storage.delete(&from)
}

/// Deletes the images in the trash that nobody reads any more: those of epochs up to `oldest`.
pub(super) fn delete_images(storage: &dyn Storage, oldest: u64) -> io::Result<()> {
    for image in images(storage)?.into_iter().filter(|image| image.epoch <= oldest) {
        storage.delete(&image.folder())?;
        remove_if_empty(storage, image.epoch)?;
    }
    Ok(())
}

/// Converts an I/O error of the trash.
pub(crate) fn failed(storage: &dyn Storage, error: &io::Error) -> Error {
    storage.error(TRASH, error)
}
