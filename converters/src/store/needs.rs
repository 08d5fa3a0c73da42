//! The objects an image needs: those that its layout or its manifest names, and their chunks.

use std::collections::HashSet;

use mif_formats::mif::ObjectId;
use mif_formats::mif::manifest::columns::{Column, Columns};

use super::{Alike, Objects, StoredImage};
use crate::error::{Result, damaged};

/// The objects that images need: those that exist, and the existing chunks of those that are lists.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    pub(crate) objects: HashSet<ObjectId>,
    /// What the image that was added last names, if it lacks nothing. The next one may be its clone.
    last: Vec<ObjectId>,
}

impl Needs {
    /// Adds the [objects that an image names](StoredImage::named_objects), and returns how many of them, or of their
    /// chunks, are missing. Chunks of a list that another image has added are not counted again.
    pub(crate) fn add(&mut self, named: Vec<ObjectId>, objects: &Objects) -> Result<u64> {
        let mut missing = HashSet::new();
        let last = std::mem::take(&mut self.last);
        let mut alike = Alike::new(&last);
        for id in &named {
            if alike.find(id).is_some() || self.objects.contains(id) || missing.contains(id) {
                continue;
            }
            let (there, lacking) = with_chunks(id, objects, |id| self.objects.contains(id))?;
            self.objects.extend(there);
            missing.extend(lacking);
        }
        if missing.is_empty() {
            self.last = named;
        }
        Ok(missing.len() as u64)
    }
}

/// Returns the objects in which a named object is stored, with their chunks, and those that are in no index. Objects
/// that are known are left out with their chunks.
pub(crate) fn with_chunks(
    id: &ObjectId,
    objects: &Objects,
    is_known: impl Fn(&ObjectId) -> bool,
) -> Result<(Vec<ObjectId>, Vec<ObjectId>)> {
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    let stored_as = objects.stored_as(id)?;
    if stored_as.is_empty() {
        missing.push(*id);
    }
    for id in stored_as {
        if is_known(&id) {
            continue;
        }
        there.push(id);
        for chunk in objects.chunks(&id)? {
            let list = if objects.contains(&chunk) { &mut there } else { &mut missing };
            list.push(chunk);
        }
    }
    Ok((there, missing))
}

impl StoredImage {
    /// Returns the objects that the layout and the manifest name, unordered, some of them several times, and without
    /// their chunks.
    pub(crate) fn named_objects(&self) -> Result<Vec<ObjectId>> {
        let mut ids = self.layout()?.objects().to_vec();
        let wrong = |e| damaged(&self.image.id(), &e);
        let columns = Columns::open(self.manifest_file()?).map_err(wrong)?;
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
}
