//! A second trace of each published image: a copy of its record, by which a vanished image is noticed and a damaged
//! record repaired; and a pointer named after its layout, by which an import finds images with the same bits without
//! reading the whole store.
//!
//! ```text
//! published/name=<name>/version=<n>            a copy of image.json
//! disks/ab/<layout digest>.<name>@<version>    one for each image; the text is `name@version`
//! ```
//!
//! Both are written after the image. A process that is killed in between leaves an intact image without them;
//! `mif fsck --repair` adds them.

use std::collections::{BTreeMap, BTreeSet};

use super::record::version_of;
use super::{Image, Store, StoredImage};
use crate::error::Result;

pub(super) fn copy_key(name: &str, version: u32) -> String {
    format!("published/name={name}/version={version}")
}

fn pointer_folder(layout_digest: &str) -> String {
    format!("disks/{}", layout_digest.get(..2).unwrap_or("--"))
}

fn pointer_key(image: &Image) -> String {
    format!("{}/{}.{}", pointer_folder(&image.layout_digest), image.layout_digest, image.id())
}

impl Store {
    /// Writes the second record and the pointer of an image that was just published; `json` is its record.
    pub(super) fn note_published(&self, image: &Image, json: &[u8]) -> Result<()> {
        let failed = |e: std::io::Error| self.storage.error("published", &e);
        self.storage.put_if_absent(&copy_key(&image.name, image.version), json).map_err(failed)?;
        self.storage.put_if_absent(&pointer_key(image), image.id().as_bytes()).map_err(failed)?;
        Ok(())
    }

    /// Rewrites the second record and the pointer of an image.
    pub(crate) fn note_again(&self, image: &Image) -> Result<()> {
        let json = image.to_json();
        let failed = |e: std::io::Error| self.storage.error("published", &e);
        self.storage.replace(&copy_key(&image.name, image.version), &json).map_err(failed)?;
        self.storage.replace(&pointer_key(image), image.id().as_bytes()).map_err(failed)
    }

    /// Returns true if an image's second record exists and is the same, and its pointer exists.
    pub(crate) fn is_noted(&self, image: &Image) -> bool {
        self.published(&image.name, image.version).is_ok_and(|copy| copy.image == *image)
            && self.storage.len(&pointer_key(image)).is_ok()
    }

    /// Returns true if a pointer says that a version has the layout with this digest.
    pub(crate) fn has_pointer(&self, name: &str, version: u32, layout_digest: &str) -> bool {
        let key = format!("{}/{layout_digest}.{name}@{version}", pointer_folder(layout_digest));
        self.storage.len(&key).is_ok()
    }

    /// Removes the second record and the pointer of a version.
    pub(super) fn forget_published(&self, name: &str, version: u32, layout: Option<&str>) -> Result<()> {
        let failed = |e: std::io::Error| self.storage.error("published", &e);
        if let Some(layout) = layout {
            let pointer = format!("{}/{layout}.{name}@{version}", pointer_folder(layout));
            self.storage.delete(&pointer).map_err(failed)?;
        }
        self.storage.delete(&copy_key(name, version)).map_err(failed)?;
        if self.published_versions(name)?.is_empty() {
            self.storage.delete(&format!("published/name={name}")).map_err(failed)?;
        }
        Ok(())
    }

    /// Reads an image from its second record, in case the first is lost.
    pub(crate) fn published(&self, name: &str, version: u32) -> Result<StoredImage> {
        self.read_record(&copy_key(name, version), name, version)
    }

    /// Returns the versions of an image that were published and not removed, in ascending order, even if they have
    /// vanished.
    pub(crate) fn published_versions(&self, name: &str) -> Result<Vec<u32>> {
        self.versions_in("published", name)
    }

    /// Returns the versions of all images that have a second record or a pointer, but neither exist nor were removed;
    /// sorted.
    pub(crate) fn vanished(&self) -> Result<Vec<(String, u32)>> {
        let mut noted = self.pointed()?;
        for name in self.names_in("published")? {
            noted.entry(name.clone()).or_default().extend(self.published_versions(&name)?);
        }
        let mut vanished = Vec::new();
        for (name, versions) in noted {
            let there = self.versions(&name)?;
            for version in versions {
                if !there.contains(&version) && !self.is_removed(&name, version)? {
                    vanished.push((name.clone(), version));
                }
            }
        }
        Ok(vanished)
    }

    /// Returns the versions that have a pointer, by the image's name.
    fn pointed(&self) -> Result<BTreeMap<String, BTreeSet<u32>>> {
        let mut pointed = BTreeMap::<String, BTreeSet<u32>>::new();
        for folder in self.list("disks")? {
            let pointers = self.list(&format!("disks/{folder}"))?;
            for (name, version) in pointers.iter().filter_map(|key| version_of(key.split_once('.')?.1)) {
                pointed.entry(name).or_default().insert(version);
            }
        }
        Ok(pointed)
    }

    /// Returns the images with this layout: the same bits, as long as they were analysed alike. Reads only their
    /// records.
    pub(crate) fn with_layout(&self, layout_digest: &str) -> Result<Vec<Image>> {
        let folder = pointer_folder(layout_digest);
        let names = self.list(&folder)?;
        let ids = names.iter().filter_map(|name| name.strip_prefix(layout_digest)?.strip_prefix('.'));
        let mut images = Vec::new();
        for (name, version) in ids.filter_map(version_of) {
            // A pointer may outlive its image, and damaged records are reported by fsck.
            if let Ok(stored) = self.version(&name, version)
                && stored.image.layout_digest == layout_digest
            {
                images.push(stored.image);
            }
        }
        images.sort_by(|a, b| (&a.name, a.version).cmp(&(&b.name, b.version)));
        Ok(images)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::catalog::tests::publish_empty;
    use crate::task::progress::Silent;

    #[test]
    fn an_image_that_vanishes_is_noticed_and_one_that_is_removed_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(folder.path(), &Silent).unwrap();
        let image = publish_empty(&store, "web");
        publish_empty(&store, "web");
        publish_empty(&store, "db");
        assert!(store.is_noted(&image));
        store.remove_version("db", 1).unwrap();
        assert_eq!(store.vanished().unwrap(), []);
        std::fs::remove_dir_all(folder.path().join("images/name=web/version=2")).unwrap();
        assert_eq!(store.vanished().unwrap(), [("web".to_owned(), 2)]);
        std::fs::remove_dir_all(folder.path().join("images/name=web")).unwrap();
        assert_eq!(store.vanished().unwrap().len(), 2);
        assert_eq!(store.published("web", 1).unwrap().image, image);
        // The numbers of vanished versions are not reused.
        assert_eq!(publish_empty(&store, "web").version, 3);
        // An image that has also lost its second record is noticed by its pointer.
        std::fs::remove_file(folder.path().join("published/name=web/version=2")).unwrap();
        assert_eq!(store.vanished().unwrap(), [("web".to_owned(), 1), ("web".to_owned(), 2)]);
    }

    #[test]
    fn images_with_the_same_layout_are_found_by_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(folder.path(), &Silent).unwrap();
        let images = [publish_empty(&store, "a"), publish_empty(&store, "b"), publish_empty(&store, "b")];
        let digest = images[0].layout_digest.clone();
        assert_eq!(store.with_layout(&digest).unwrap(), images);
        store.remove_version("b", 1).unwrap();
        let ids: Vec<String> = store.with_layout(&digest).unwrap().iter().map(Image::id).collect();
        assert_eq!(ids, ["a@1", "b@2"]);
        assert_eq!(store.with_layout(&digest.replace(|_| true, "0")).unwrap(), []);
    }
}
