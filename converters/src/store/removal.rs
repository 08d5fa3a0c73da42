//! The removal of images: they disappear at once, and are deleted once nobody reads them any more.

use std::collections::BTreeSet;
use std::io;

use super::record::{Image, Removed};
use super::storage::is_full;
use super::stored_image::StoredImage;
use super::trash::{Trashed, add_image, delete_images, failed, removed_key};
use super::{Store, index_cache, published};
use crate::error::Result;

impl Store {
    /// Opens an image in the trash.
    pub(crate) fn trashed(&self, image: &Trashed) -> Result<StoredImage> {
        let folder = image.folder();
        let Trashed { name, version, .. } = image;
        // On a full disk, the record was renamed to serve as the removal note.
        let keys = [format!("{folder}/image.json"), removed_key(name, *version)];
        let [record, note] = keys.map(|key| self.read_record(&key, name, *version));
        let mut stored = record.or(note)?;
        stored.folder = folder;
        Ok(stored)
    }

    /// Completes the removal of images: moves their files into the trash, and deletes them as soon as nobody reads them
    /// any more. The caller holds the store's lock.
    pub(crate) fn finish_removals(&self) -> Result<()> {
        let storage = &**self.storage();
        let failed = |e: io::Error| failed(storage, &e);
        let left = self.removed_with_files()?;
        self.delete_removed(&left).map_err(failed)?;
        for name in left.iter().map(|(name, _)| name).collect::<BTreeSet<_>>() {
            if self.versions_in("images", name)?.is_empty() {
                storage.delete(&format!("images/name={name}")).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Moves the files of removed versions into the trash, and deletes what nobody uses from it.
    fn delete_removed(&self, versions: &[(String, u32)]) -> io::Result<()> {
        let storage = &**self.storage();
        if versions.is_empty() && !self.is_alone() {
            return delete_images(storage, storage.oldest()?);
        }
        let trash =
            |epoch| versions.iter().try_for_each(|(name, version)| add_image(storage, epoch, name, *version));
        let left = match self.end_epoch(trash) {
            // The disk is full and the store is in use, so the epoch cannot end now: a later removal ends it.
            Err(e) if is_full(&e) => return Ok(()),
            left => left?,
        };
        if left.is_alone() {
            versions.iter().try_for_each(|(name, version)| storage.delete(&Image::folder(name, *version)))?;
        }
        delete_images(storage, left.oldest)
    }

    /// Returns the removed versions whose files are still among the images.
    fn removed_with_files(&self) -> Result<Vec<(String, u32)>> {
        let mut found = Vec::new();
        for name in self.removed_names()? {
            let left = self.versions_in("images", &name)?;
            let removed = self.versions_in("removed", &name)?;
            found.extend(removed.into_iter().filter(|v| left.contains(v)).map(|v| (name.clone(), v)));
        }
        Ok(found)
    }

    /// Returns the removed versions of an image in ascending order. If the record of one cannot be read, only its
    /// number is known.
    pub fn removed(&self, name: &str) -> Result<Vec<Removed>> {
        let mut removed: Vec<Removed> = Vec::new();
        for version in self.versions_in("removed", name)? {
            let key = removed_key(name, version);
            let unknown = Removed { name: name.to_owned(), version, time: 0, layout_digest: None };
            let json = self.storage.read_all(&key).unwrap_or_default();
            let record = serde_json::from_slice(&json).unwrap_or(unknown);
            removed.push(record);
        }
        Ok(removed)
    }

    /// Returns true if a version was removed.
    pub(crate) fn is_removed(&self, name: &str, version: u32) -> Result<bool> {
        Ok(self.versions_in("removed", name)?.contains(&version))
    }

    /// Makes a version of an image invisible. Its files stay until [`finish_removals`](Self::finish_removals), its
    /// objects until gc. The caller holds the store's lock.
    pub(crate) fn remove_version(&self, name: &str, version: u32) -> Result<()> {
        let time = self.storage.now();
        let stored = self.version(name, version).or_else(|_| self.published(name, version)).ok();
        let layout_digest = stored.map(|stored| stored.image.layout_digest);
        let record = Removed { name: name.to_owned(), version, time, layout_digest };
        let json = serde_json::to_vec_pretty(&record).expect("a record is JSON");
        // The record comes first, so that no crash frees the number.
        let key = removed_key(name, version);
        let failed = |e: io::Error| self.storage.error(&key, &e);
        self.put_removed(&key, &json, name, version).map_err(failed)?;
        self.forget_published(name, version, record.layout_digest.as_deref())
    }

    /// Records that a version was removed. If the disk is full, the index cache is deleted first. If that is not
    /// enough, the image's own record is renamed to the note, which takes no space unless the name's directory has to
    /// be created. If even that fails, the image's files are deleted before the note is written.
    fn put_removed(&self, key: &str, json: &[u8], name: &str, version: u32) -> io::Result<()> {
        let put = || self.storage.put_if_absent(key, json).map(|_| ());
        let no_room = match put() {
            Err(e) if is_full(&e) => {
                index_cache::clear(&*self.storage)?;
                match put() {
                    Err(e) if is_full(&e) => e,
                    result => return result,
                }
            }
            result => return result,
        };
        for record in
            [format!("{}/image.json", Image::folder(name, version)), published::copy_key(name, version)]
        {
            if self.storage.rename(&record, key).is_ok() {
                return Ok(());
            }
        }
        // The second record keeps the number from being reused, so the image's files may be deleted first to free
        // space, if nobody reads them.
        if let Some(_alone) = self.alone()?
            && self.storage.len(&published::copy_key(name, version)).is_ok()
        {
            self.storage.delete(&Image::folder(name, version))?;
            return put();
        }
        Err(no_room)
    }
}
