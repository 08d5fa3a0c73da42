//! What an image needs of the store: every object that its layout or its manifest names, and their chunks.

use std::collections::HashSet;

use mif_formats::mif::ObjectId;
use mif_formats::mif::manifest::columns::{Column, Columns};

use super::{Objects, StoredImage};
use crate::error::{Result, damaged};

/// The objects that images need.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Needs {
    /// Objects that are there, and chunks of those that are lists.
    pub objects: HashSet<ObjectId>,
    /// Objects that no index knows.
    pub missing: HashSet<ObjectId>,
}

impl Needs {
    /// Adds what an image needs; gives how many objects of that are missing. Chunks of a list that was added for
    /// another image are not counted again. An error if its layout or its manifest cannot be read.
    pub fn add(&mut self, image: &StoredImage, objects: &Objects) -> Result<u64> {
        let mut missing = 0;
        for id in named(image)? {
            if self.objects.contains(&id) {
                continue;
            }
            if !objects.contains(&id) {
                missing += 1;
                self.missing.insert(id);
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
        Ok(missing)
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
        let object = |(whole, other): (Option<_>, Option<_>)| {
            other.map(ObjectId::chunk_list).or(whole.map(ObjectId::content))
        };
        ids.extend(whole.into_iter().zip(other).filter_map(object));
    }
    Ok(ids)
}
