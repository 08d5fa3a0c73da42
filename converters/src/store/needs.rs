//! What an image needs of the store: every object that its layout or its manifest names, and their chunks.

use std::collections::HashSet;

use mif_formats::mif::ObjectId;
use mif_formats::mif::manifest::columns::{Column, Columns};

use super::{Objects, StoredImage};
use crate::error::damaged;
use crate::{Error, Result};

/// The objects that images need.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Needs {
    /// Objects that are there, and chunks of those that are lists.
    pub objects: HashSet<ObjectId>,
    /// Objects that no index knows.
    pub missing: HashSet<ObjectId>,
}

impl Needs {
    /// Adds what an image needs. An error if its layout or its manifest cannot be read.
    pub fn add(&mut self, image: &StoredImage, objects: &Objects) -> Result<()> {
        for id in named(image)? {
            if self.objects.contains(&id) || self.missing.contains(&id) {
                continue;
            }
            if !objects.contains(&id) {
                self.missing.insert(id);
                continue;
            }
            self.objects.insert(id);
            for chunk in objects.chunks(&id)? {
                let set = if objects.contains(&chunk) { &mut self.objects } else { &mut self.missing };
                set.insert(chunk);
            }
        }
        Ok(())
    }

    /// An error if anything is missing.
    pub fn complete(&self) -> Result<()> {
        match self.missing.iter().min() {
            None => Ok(()),
            Some(first) => Err(Error::store(format!(
                "the store lacks {} objects that images need, such as {first}",
                self.missing.len()
            ))
            .advise("`mif fsck` says which images that costs, and `mif fsck --repair` what can be done")),
        }
    }
}

/// The objects that an image's layout and manifest name, in no order; without chunks.
fn named(image: &StoredImage) -> Result<HashSet<ObjectId>> {
    let mut ids: HashSet<ObjectId> = image.layout()?.objects().iter().copied().collect();
    let wrong = |e| damaged(&image.image.id(), &e);
    let columns = Columns::open(image.manifest_file()?).map_err(wrong)?;
    for group in columns.groups() {
        // `content` names the object where it is there, and `blake3` where not.
        let whole = group.digests::<32>(Column::Blake3).map_err(wrong)?;
        let other = group.digests::<32>(Column::Content).map_err(wrong)?;
        ids.extend(whole.into_iter().zip(other).filter_map(|(whole, other)| other.or(whole)).map(ObjectId));
    }
    Ok(ids)
}
