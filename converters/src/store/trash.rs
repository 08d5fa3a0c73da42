//! What is on its way out: images that were removed and packs that no image needs, until nobody uses them any more.
//!
//! ```text
//! trash/<epoch>/<name>@<version>/     the files of an image that was removed
//! trash/<epoch>/packs                 the ids of packs that were not needed, a line each
//! ```
//!
//! Something goes into the trash of the epoch that is begun right after. Whoever enters the store in that epoch, or later,
//! does not see the images, and stores again what only those packs have. So once everybody who entered before has left, images can
//! be deleted, and packs too if a fresh look at the images still finds no need for them.

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

/// The epochs of which there is trash, ascending.
fn epochs(storage: &dyn Storage) -> io::Result<Vec<u64>> {
    let folders = storage.entries(TRASH)?.folders;
    let mut epochs: Vec<u64> = folders.iter().filter_map(|name| number(name)).collect();
    epochs.sort_unstable();
    Ok(epochs)
}

/// The images in the trash.
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

/// The directory in the trash with the files of a version that was removed, if they are there.
pub(super) fn folder_of(storage: &dyn Storage, name: &str, version: u32) -> io::Result<Option<String>> {
    // Without the note of its removal, an image is not removed, but damaged.
    match storage.len(&removed_key(name, version)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    let images = images(storage)?;
    let found = images.iter().rev().find(|image| image.name == name && image.version == version);
    Ok(found.map(Trashed::folder))
}

/// The key of the note that a version was removed.
pub(super) fn removed_key(name: &str, version: u32) -> String {
    format!("removed/name={name}/version={version}")
}

/// The packs in the trash, with the epoch that they have been in it since.
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
        // A pack whose line is damaged is found again by the next gc.
        Ok(text) => Ok(pack_list::decode(&text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(e) => Err(e),
    }
}

/// Puts packs into the trash of an epoch, unless they are in the trash already.
pub(crate) fn add_packs(storage: &dyn Storage, epoch: u64, added: &BTreeSet<PackId>) -> io::Result<()> {
    let known = packs(storage)?;
    let new: BTreeSet<PackId> = added.iter().filter(|pack| !known.contains_key(pack)).copied().collect();
    if new.is_empty() {
        return Ok(());
    }
    write_packs(storage, epoch, &(&packs_of(storage, epoch)? | &new))
}

/// Takes packs out of the trash: they are deleted, or needed again.
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

/// Moves the files of an image into the trash of an epoch. What else lies in its directory stays there.
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

/// The error of a store's trash.
pub(crate) fn failed(storage: &dyn Storage, error: &io::Error) -> Error {
    storage.error(TRASH, error)
}
