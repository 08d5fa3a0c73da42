//! Which files the images of a repository consist of.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};

use super::client::Client;
use super::manifest::{Descriptor, Manifest};
use crate::store::RegistryPlace;
use crate::store::header::HEADER;
use crate::task::pool::{in_parallel, with_waiting_threads};
use crate::task::progress::Silent;

/// The most tags of a repository that are looked at, and so many at a time.
const MAX_TAGS: usize = 10_000;
const PARALLEL: usize = 8;

/// The files of images in the repository.
#[derive(Default)]
pub(super) struct Files {
    /// By their keys. `None` if tags have different files with the same key.
    pub(super) by_key: BTreeMap<String, Option<Descriptor>>,
    /// The headers of the images' stores.
    pub(super) headers: BTreeMap<String, Descriptor>,
}

impl Files {
    /// Reads which files belong to the images that `place` names. Images are to be copied there if `is_to_fill`.
    pub(super) fn read(client: &Client, place: &RegistryPlace, is_to_fill: bool) -> io::Result<Self> {
        let mut files = Files::default();
        if let (Some(reference), false) = (&place.reference, is_to_fill) {
            match manifest_of(client, place, reference)? {
                Some(manifest) => files.add(&manifest, |_| true),
                None => {
                    return Err(io::Error::new(ErrorKind::NotFound, "the registry has no such image"));
                }
            }
            return Ok(files);
        }
        let tags = client.tags()?;
        if tags.len() > MAX_TAGS {
            let text = format!("the repository has more than {MAX_TAGS} tags; name one");
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        let read = || in_parallel(&tags, &Silent, |tag| Ok((tag, manifest_of(client, place, tag))));
        for (tag, manifest) in with_waiting_threads(PARALLEL, read).map_err(io::Error::other)? {
            let Some(manifest) = manifest? else { continue };
            // A tag that is filled may name another image afterwards; objects are shared with all.
            let is_meant = place.reference.as_ref().is_none_or(|reference| reference == tag);
            files.add(&manifest, |key| is_meant || !key.starts_with("images/"));
        }
        Ok(files)
    }

    /// Adds the files of an image that are meant.
    fn add(&mut self, manifest: &Manifest, is_meant: impl Fn(&str) -> bool) {
        for (key, descriptor) in manifest.files().filter(|(key, _)| is_meant(key)) {
            if key == HEADER {
                self.headers.insert(descriptor.digest.clone(), descriptor.clone());
                continue;
            }
            let found = self.by_key.entry(key.to_owned()).or_insert_with(|| Some(descriptor.clone()));
            if found.as_ref().is_some_and(|other| other.digest != descriptor.digest) {
                *found = None;
            }
        }
    }
}

/// Reads the manifest of an image of this program; `None` if the reference names something else, or nothing.
fn manifest_of(client: &Client, place: &RegistryPlace, reference: &str) -> io::Result<Option<Manifest>> {
    let Some(bytes) = client.manifest(reference)? else { return Ok(None) };
    let of_reference = |e: io::Error| io::Error::new(e.kind(), format!("{reference}: {e}"));
    let found = Manifest::parse_store(&bytes).map_err(of_reference)?;
    let is_meant = place.reference.as_deref() == Some(reference);
    match found {
        None if is_meant => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "the registry has something else under this name than an image of mif",
        )),
        found => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_images_under_one_name_neither_is_taken_for_the_other() {
        let file = |key: &str, digest: &str| Descriptor::of_file(key, digest, 1);
        let manifest = |layers| Manifest::of_store(layers, BTreeMap::new());
        let mut files = Files::default();
        files.add(&manifest(vec![file("images/a", "1"), file("packs/a", "2"), file(HEADER, "3")]), |_| true);
        files.add(&manifest(vec![file("images/a", "4"), file("packs/a", "2"), file(HEADER, "5")]), |_| true);
        assert!(files.by_key["images/a"].is_none() && files.by_key["packs/a"].is_some());
        assert_eq!(files.headers.len(), 2);
    }
}
