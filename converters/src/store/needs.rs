//! The objects an image needs: those that its layout or its manifest names, and their chunks.

use std::collections::HashSet;

use mif_formats::mif::ObjectId;
use mif_formats::mif::manifest::columns::{Column, Columns};

use super::{Objects, StoredImage};
use crate::error::{Result, damaged};

/// The objects that images need.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Needs {
    /// Objects that exist, and the existing chunks of those that are lists.
    pub objects: HashSet<ObjectId>,
    /// Objects that are in no index.
    pub missing: HashSet<ObjectId>,
}

impl Needs {
    /// Adds the objects that an image needs, and returns how many of them are missing. Chunks of a list that another
    /// image has added are not counted again. Fails if the layout or the manifest cannot be read.
    pub fn add(&mut self, image: &StoredImage, objects: &Objects) -> Result<u64> {
        let mut missing = 0;
        for id in named(image)? {
            if self.objects.contains(&id) {
                continue;
            }
            let stored_as = objects.stored_as(&id)?;
            if stored_as.is_empty() {
                missing += 1;
                self.missing.insert(id);
            }
            for id in stored_as {
                if self.objects.contains(&id) {
                    continue;
                }
                let chunks = objects.chunks(&id)?;
                self.objects.insert(id);
                for chunk in chunks {
                    if objects.contains(&chunk) {
                        self.objects.insert(chunk);
                    } else {
                        missing += 1;
                        self.missing.insert(chunk);
                    }
                }
            }
        }
        Ok(missing)
    }
}

/// Returns the objects that an image's layout and manifest name, unordered and without chunks.
fn named(image: &StoredImage) -> Result<HashSet<ObjectId>> {
    let mut ids: HashSet<ObjectId> = image.layout()?.objects().iter().copied().collect();
    let wrong = |e| damaged(&image.image.id(), &e);
    let columns = Columns::open(image.manifest_file()?).map_err(wrong)?;
    for group in columns.groups() {
        // `content` names the object if present, otherwise `blake3` does.
        let whole = group.digests::<32>(Column::Blake3).map_err(wrong)?;
        let other = group.digests::<32>(Column::Content).map_err(wrong)?;
        let object = |(whole, other): (Option<_>, Option<_>)| {
            other.map(ObjectId::chunk_list).or(whole.map(ObjectId::content))
        };
        ids.extend(whole.into_iter().zip(other).filter_map(object));
    }
    Ok(ids)
}
