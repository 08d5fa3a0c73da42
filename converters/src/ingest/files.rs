//! Files that are on no disk of the store: stores their content, and returns the objects.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use mif_formats::Source;
use mif_formats::mif::ObjectId;
use mif_formats::mif::manifest::Body;

use super::content::import_file;
use super::planned_file::{DiskPiece, Ownership, PlannedFile};
use crate::error::{Error, Result};
use crate::store::ObjectWriter;
use crate::task::pool;
use crate::task::progress::{self, Progress};
use crate::tree::new_content::NewContent;

/// Stores content that is on no disk of the store, unless it already exists, and returns its object.
pub(crate) fn store_content(
    content: &dyn Source,
    writer: &ObjectWriter,
    progress: &dyn Progress,
) -> Result<ObjectId> {
    let len = content.len();
    let pieces = vec![DiskPiece::Disk { offset: 0, len }];
    let mut file = PlannedFile::new(len, pieces, false);
    file.owns = Ownership::None;
    let stored = OnceLock::new();
    pool::run(pool::processors(), 1, |_, pool| {
        let body = import_file(&file, content, writer, pool, &mut Vec::new(), progress)??;
        stored.set(body.object()).expect("there is one item");
        Ok(())
    })?;
    Ok(*stored.get().expect("the item was done"))
}

/// Stores content added by edits, unless it already exists.
///
/// # Errors
///
/// Fails if a large file changed since its digest was computed; large files are read a second time here.
pub(crate) fn store_new(content: &NewContent, writer: &ObjectWriter, progress: &dyn Progress) -> Result<()> {
    if store_content(&content.source, writer, progress)? == content.id {
        return Ok(());
    }
    Err(Error::input(format!("{}: changed while it was read", content.label)).advise("Run the command again"))
}

/// A regular file that is not on a disk, as parts of a source.
pub(crate) struct LooseFile {
    /// The source of its bytes.
    pub(crate) source: Arc<dyn Source>,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// The parts of it that are not holes.
    pub(crate) parts: Parts,
}

/// Parts of a file in file order, each with its offset in the source.
pub(crate) type Parts = Vec<(Range<u64>, u64)>;

/// Stores `count` files, each opened by `open` by its number.
pub(crate) fn store_files(
    count: usize,
    writer: &ObjectWriter,
    progress: &dyn Progress,
    open: impl Fn(usize) -> Result<LooseFile> + Sync,
) -> Result<Vec<Body>> {
    let stored: Vec<OnceLock<Body>> = (0..count).map(|_| OnceLock::new()).collect();
    pool::run(pool::processors(), count, |i, pool| {
        progress::check(progress)?;
        let LooseFile { source, size, parts } = open(i)?;
        let file = PlannedFile::loose(size, &parts);
        let body = import_file(&file, &*source, writer, pool, &mut Vec::new(), progress)??;
        progress.advance(size);
        stored[i].set(body).expect("each file is read once");
        Ok(())
    })?;
    Ok(stored.into_iter().map(|stored| stored.into_inner().expect("all were read")).collect())
}
