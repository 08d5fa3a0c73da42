//! Reads an image back after it was stored, and stores damaged objects again.

use std::collections::HashSet;
use std::sync::Arc;

use mif_formats::Source;
use mif_formats::disk_digest::DiskDigest;
use mif_formats::mif::ObjectId;
use mif_formats::mif::layout::Layout;
use mif_formats::mif::manifest::Row;

use crate::disk::compare::compare_and_digest;
use crate::error::{Error, Result, readable};
use crate::ingest::import_disk;
use crate::store::{ObjectWriter, Objects, Store, StoredDisk, WriterStats};
use crate::task::progress::Progress;

/// Returns the objects among `ids` (and for lists, their chunks) that have no undamaged copy.
pub(crate) fn damaged_objects(
    objects: &Objects,
    ids: impl IntoIterator<Item = ObjectId>,
) -> Result<HashSet<ObjectId>> {
    let mut damaged = HashSet::new();
    let mut seen = HashSet::new();
    for id in ids {
        if !seen.insert(id) {
            continue;
        }
        match readable(objects.chunks(&id))? {
            Err(_) => drop(damaged.insert(id)),
            Ok(chunks) => {
                for part in if chunks.is_empty() { vec![id] } else { chunks } {
                    if readable(objects.read_at(&part, 0, &mut []))?.is_err() {
                        damaged.insert(part);
                    }
                }
            }
        }
    }
    Ok(damaged)
}

/// Reads a stored disk and its files back. Objects that were already in the store but have no undamaged copy are stored
/// again from the disk.
pub(crate) struct ReadBack<'a> {
    store: &'a Store,
    /// The name of the disk in messages.
    label: String,
    /// The disk that the image was made from.
    disk: Arc<dyn Source>,
    threads: Option<usize>,
    progress: &'a dyn Progress,
    /// The objects in the layout, which were read with the disk.
    checked: HashSet<ObjectId>,
    added: WriterStats,
    damaged: usize,
}

impl<'a> ReadBack<'a> {
    pub(crate) fn new(
        store: &'a Store,
        label: String,
        disk: Arc<dyn Source>,
        threads: Option<usize>,
        progress: &'a dyn Progress,
    ) -> Self {
        store.storage().bypass_caches();
        let (checked, added) = (HashSet::new(), WriterStats::default());
        ReadBack { store, label, disk, threads, progress, checked, added, damaged: 0 }
    }

    /// Compares the disk with its layout bit for bit, and returns the digest of these bits.
    pub(crate) fn disk(&mut self, layout: &Arc<Layout>) -> Result<DiskDigest> {
        self.checked.extend(layout.objects());
        let error = match self.compare(layout) {
            Err(error) => error,
            whole => return whole,
        };
        if self.progress.interrupted() || !self.store_again(layout.objects().iter().copied())? {
            return Err(error);
        }
        self.compare(layout)
    }

    /// Reads the content of files that the layout does not need. Returns what was stored again, and the number of
    /// damaged objects.
    pub(crate) fn files(mut self, rows: &[Row]) -> Result<(WriterStats, usize)> {
        let checked = std::mem::take(&mut self.checked);
        self.store_again(rows.iter().filter_map(Row::object).filter(|id| !checked.contains(id)))?;
        Ok((self.added, self.damaged))
    }

    fn compare(&self, layout: &Arc<Layout>) -> Result<DiskDigest> {
        let stored = StoredDisk::new(layout.clone(), Arc::new(self.store.objects()?));
        let (difference, digest) = compare_and_digest(&*self.disk, &stored, "reading back", self.progress)?;
        match difference.first {
            None => Ok(digest),
            Some(first) => Err(Error::store(format!(
                "{}: verification failed, and the image was not published: it differs from the original, first at byte \
                 {first}, {} bytes in all",
                self.label, difference.bytes
            ))
            .advise("If the original did not change meanwhile, please report this as a bug")),
        }
    }

    /// Stores the damaged objects among `ids` again. Returns true if there were any.
    fn store_again(&mut self, ids: impl Iterator<Item = ObjectId>) -> Result<bool> {
        let damaged = damaged_objects(&self.store.objects()?, ids)?;
        if damaged.is_empty() {
            return Ok(false);
        }
        let writer = ObjectWriter::replacing(self.store, damaged.clone())?;
        import_disk(self.disk.clone(), &writer, self.threads, self.progress)?;
        self.added = self.added.with(writer.finish()?);
        let left = damaged_objects(&self.store.objects()?, damaged.iter().copied())?;
        if let Some(id) = left.iter().min() {
            return Err(Error::store(format!(
                "store: object {id}: damaged, and {} no longer contains it",
                self.label
            ))
            .advise("Run `mif fsck` to list the affected images and the command that repairs the store"));
        }
        self.damaged += damaged.len();
        Ok(true)
    }
}
