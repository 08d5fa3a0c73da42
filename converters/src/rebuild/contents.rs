//! The content that edited rows may name: objects of the store, and what is not in it yet.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use mif_formats::Source;
use mif_formats::container::ImageFile;
use mif_formats::mif::ObjectId;
use mif_formats::mif::pack::MAX_WHOLE;
use mif_formats::source::{MemSource, is_zero};
use sha1::{Digest, Sha1};

use crate::import::{WINDOW, ZERO_STEP, store_content};
use crate::store::{ObjectWriter, Objects};
use crate::{Error, Result};

/// Content that is not in the store yet, by its object.
pub(crate) type NewContents = HashMap<ObjectId, NewContent>;

/// Content that is not in the store yet.
#[derive(Clone)]
pub(crate) struct NewContent {
    /// The object that it becomes.
    pub(crate) id: ObjectId,
    /// Its SHA-1.
    pub(crate) sha1: [u8; 20],
    /// The bytes. Of a large file they stay where they are.
    pub(crate) source: Arc<dyn Source>,
    /// The parts of a large file that are zeros, in whole steps.
    zeros: Arc<Vec<Range<u64>>>,
    /// What it is called in errors.
    label: String,
}

impl NewContent {
    /// These bytes.
    pub(crate) fn of_bytes(bytes: Vec<u8>) -> Self {
        let (id, sha1) = (ObjectId::of(&bytes), Sha1::digest(&bytes).into());
        let source = Arc::new(MemSource(bytes));
        NewContent { id, sha1, source, zeros: Arc::default(), label: "content".into() }
    }

    /// The content of a local file, which is read once now and, if it is large, again when it is stored.
    pub(crate) fn of_file(path: &Path) -> Result<Self> {
        let file = ImageFile::open(path)?;
        let len = file.len();
        if len <= MAX_WHOLE {
            return Ok(Self::of_bytes(file.read_vec(0, len as usize)?));
        }
        let mut hashes = (Sha1::new(), blake3::Hasher::new());
        let mut zeros: Vec<Range<u64>> = Vec::new();
        let mut window = vec![0; WINDOW as usize];
        for start in (0..len).step_by(WINDOW as usize) {
            let bytes = &mut window[..(len - start).min(WINDOW) as usize];
            file.read_at(start, bytes)?;
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
            source: Arc::new(file),
            zeros: Arc::new(zeros),
            label: path.display().to_string(),
        })
    }

    /// Stores it, unless it is there.
    pub(super) fn store(&self, writer: &ObjectWriter) -> Result<()> {
        if store_content(&self.source, writer)? == self.id {
            return Ok(());
        }
        Err(Error::input(format!("{}: was changed while it was read", self.label))
            .advise("Run the same again"))
    }
}

/// Where content is looked for: among what is new, then in the store.
#[derive(Clone, Copy)]
pub(crate) struct Contents<'a> {
    pub(crate) objects: &'a Objects,
    pub(crate) new: &'a NewContents,
}

impl Contents<'_> {
    pub(super) fn len(&self, id: &ObjectId) -> Result<u64> {
        self.new.get(id).map_or_else(|| self.objects.len(id), |new| Ok(new.source.len()))
    }

    /// The parts that are known to be zeros without reading.
    pub(super) fn zero_runs(&self, id: &ObjectId) -> Result<Vec<Range<u64>>> {
        self.new.get(id).map_or_else(|| self.objects.zero_runs(id), |new| Ok(new.zeros.to_vec()))
    }

    pub(super) fn read_at(&self, id: &ObjectId, offset: u64, buf: &mut [u8]) -> Result<()> {
        match self.new.get(id) {
            Some(new) => Ok(new.source.read_at(offset, buf)?),
            None => self.objects.read_at(id, offset, buf),
        }
    }
}
