//! The content of edited rows: objects of the store, and new content that is not in the store yet.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use mif_formats::container::ImageFile;
use mif_formats::mif::ObjectId;
use mif_formats::mif::manifest::Body;
use mif_formats::mif::pack::MAX_WHOLE;
use mif_formats::source::{MemSource, is_zero};
use mif_formats::{Extent, Source};
use sha1::{Digest, Sha1};

use crate::disk::blocks::{WINDOW, ZERO_STEP};
use crate::error::Result;
use crate::store::Objects;

/// Content that is not in the store yet, by its object.
pub(crate) type NewContents = HashMap<ObjectId, NewContent>;

/// Content that is not in the store yet.
#[derive(Clone)]
pub(crate) struct NewContent {
    /// The object that it becomes.
    pub(crate) id: ObjectId,
    /// Its SHA-1.
    pub(crate) sha1: [u8; 20],
    /// The bytes. Those of a large file are read from the file.
    pub(crate) source: Arc<dyn Source>,
    /// The zero parts of a large file, in whole steps.
    zeros: Arc<Vec<Range<u64>>>,
    /// Its name in errors.
    pub(crate) label: String,
}

impl NewContent {
    /// Returns the body for the row of a file with this content.
    pub(crate) fn body(&self) -> Body {
        Body::Digested { sha1: self.sha1, blake3: self.id.digest }
    }

    /// Returns content with these bytes.
    pub(crate) fn of_bytes(bytes: Vec<u8>) -> Self {
        let (id, sha1) = (ObjectId::of(&bytes), Sha1::digest(&bytes).into());
        let source = Arc::new(MemSource(bytes));
        NewContent { id, sha1, source, zeros: Arc::default(), label: "content".into() }
    }

    /// Reads the content of a local file. A large file is read again when it is stored.
    pub(crate) fn of_file(path: &Path) -> Result<Self> {
        // Check it before it is opened for reading at offsets.
        crate::host::named::open(path, crate::host::named::MAX_CONTENT)?;
        Self::of_source(Arc::new(ImageFile::open(path)?), path.display().to_string())
    }

    /// Reads the content of a source, which `label` names in errors. A large source is read again when it is stored.
    pub(crate) fn of_source(source: Arc<dyn Source>, label: String) -> Result<Self> {
        let len = source.len();
        if len <= MAX_WHOLE {
            return Ok(Self::of_bytes(source.read_vec(0, len as usize)?));
        }
        Self::reread_of(source, label)
    }

    /// Like [`NewContent::of_source`], but reads a small source again, too, so that it takes no memory.
    pub(crate) fn reread_of(source: Arc<dyn Source>, label: String) -> Result<Self> {
        let len = source.len();
        if len <= MAX_WHOLE {
            let bytes = source.read_vec(0, len as usize)?;
            let (id, sha1) = (ObjectId::of(&bytes), Sha1::digest(&bytes).into());
            return Ok(NewContent { id, sha1, source, zeros: Arc::default(), label });
        }
        let mut hashes = (Sha1::new(), blake3::Hasher::new());
        let mut zeros: Vec<Range<u64>> = Vec::new();
        let mut window = vec![0; WINDOW as usize];
        for start in (0..len).step_by(WINDOW as usize) {
            let bytes = &mut window[..(len - start).min(WINDOW) as usize];
            source.read_at(start, bytes)?;
            hashes.0.update(&bytes);
            hashes.1.update(bytes);
            for (number, step) in
                bytes.chunks(ZERO_STEP as usize).enumerate().filter(|(_, step)| is_zero(step))
            {
                let from = start + number as u64 * ZERO_STEP;
                match zeros.last_mut() {
                    Some(last) if last.end == from => last.end += step.len() as u64,
                    _ => zeros.push(from..from + step.len() as u64),
                }
            }
        }
        Ok(NewContent {
            id: ObjectId::content(*hashes.1.finalize().as_bytes()),
            sha1: hashes.0.finalize().into(),
            source,
            zeros: Arc::new(zeros),
            label,
        })
    }
}

/// Content with some bytes replaced.
pub(crate) struct Patched {
    pub(crate) source: Arc<dyn Source>,
    /// Offsets and bytes, ascending and disjoint.
    pub(crate) patches: Vec<(u64, Vec<u8>)>,
}

impl Source for Patched {
    fn len(&self) -> u64 {
        self.source.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> mif_formats::Result<()> {
        self.source.read_at(offset, buf)?;
        let end = offset + buf.len() as u64;
        let first = self.patches.partition_point(|(at, bytes)| at + bytes.len() as u64 <= offset);
        for (at, bytes) in self.patches[first..].iter().take_while(|(at, _)| *at < end) {
            let (from, to) = ((*at).max(offset), (at + bytes.len() as u64).min(end));
            buf[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - at) as usize..(to - at) as usize]);
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> mif_formats::Result<Extent> {
        Ok(Extent::data(offset, self.len() - offset))
    }
}

/// Looks up content among the new content, then in the store.
#[derive(Clone, Copy)]
pub(crate) struct ContentLookup<'a> {
    pub(crate) objects: &'a Objects,
    pub(crate) new: &'a NewContents,
}

impl ContentLookup<'_> {
    pub(crate) fn len(&self, id: &ObjectId) -> Result<u64> {
        self.new.get(id).map_or_else(|| self.objects.len(id), |new| Ok(new.source.len()))
    }

    /// Returns the parts that are known to be zero without reading.
    pub(crate) fn zero_runs(&self, id: &ObjectId) -> Result<Vec<Range<u64>>> {
        self.new.get(id).map_or_else(|| self.objects.zero_runs(id), |new| Ok(new.zeros.to_vec()))
    }

    /// Returns the content as a source; `objects` are the store's.
    pub(crate) fn source(&self, id: &ObjectId, objects: &Arc<Objects>) -> Result<Arc<dyn Source>> {
        match self.new.get(id) {
            Some(new) => Ok(new.source.clone()),
            None => {
                let stored = super::content::Contents::Stored { id: *id, objects: objects.clone() };
                Ok(Arc::from(stored.open()?))
            }
        }
    }

    pub(crate) fn read_at(&self, id: &ObjectId, offset: u64, buf: &mut [u8]) -> Result<()> {
        match self.new.get(id) {
            Some(new) => Ok(new.source.read_at(offset, buf)?),
            None => self.objects.read_at(id, offset, buf),
        }
    }
}
