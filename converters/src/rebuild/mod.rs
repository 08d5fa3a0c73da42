//! Rebuild: turns an image with an edited manifest into a disk again.
//!
//! ```text
//! edited rows → Tree (tree.rs) → plan (mif_formats::fs) ─┐
//! sizes, identities (shape.rs) → table, places of all ───┼→ layout of the disk (splice.rs, canonical.rs)
//! the parent's layout → what is kept, at its place ──────┘
//! ```
//!
//! Only volumes with changed rows are planned; all other bytes of the disk are references to the parent's. No content
//! is copied: the new layout refers to the same objects, and only metadata is new to the store.
//!
//! Partitions and volumes may be resized and get new identities in the process (`reshape.rs`): the table is then
//! changed in place, and moved bytes are moved by reference.
//!
//! The manifest of the new image is read from the new disk, so it cannot contradict the disk; only digests are carried
//! over.

mod arrange;
mod draft;
mod firmware;
mod ids;
mod reshape;
mod sectors;
mod shape;
mod table;
mod tree;

use std::time::Instant;

use mif_formats::mif::manifest::Row;
use serde::Serialize;

pub use self::draft::RebuildOptions;
pub(crate) use self::draft::{Base, Draft};
pub use self::ids::{IdChange, IdsReport};
pub use self::reshape::{BootBy, NewIds, Reshape, Size};
use crate::compose::staging::Bench;
use crate::error::Result;
use crate::store::{Counts, Store, StoredImage, WriterStats, check_name};
use crate::task::progress::Progress;
use crate::tree::new_content::NewContents;

/// The result of a rebuild.
#[derive(Debug, Clone, Serialize)]
pub struct RebuildReport {
    /// The image that it was made from, as `name@version`.
    pub parent: String,
    /// The new image, as `name@version`.
    pub image: String,
    /// The volumes that were planned; all others are identical to the parent's, bit for bit.
    pub planned: Vec<String>,
    /// Side effects of rebuilding volumes, as sentences.
    pub notes: Vec<String>,
    /// The effects of new identities, if any were given.
    pub ids: Option<IdsReport>,
    /// How the disk is divided.
    pub counts: Counts,
    /// Objects and bytes that were new to the store.
    pub added: WriterStats,
    /// The duration in seconds.
    pub seconds: f64,
}

/// Makes a new image from `parent` with the files in `rows`, and publishes it. `rows` is the whole edited manifest; all
/// content that it names is in the store.
///
/// Fails before anything is published if a volume cannot hold its files.
pub fn rebuild(
    store: &Store,
    parent: &StoredImage,
    rows: &[Row],
    options: &RebuildOptions,
    progress: &dyn Progress,
) -> Result<RebuildReport> {
    let started = Instant::now();
    check_name(&options.name)?;
    progress.stage("planning", 0);
    let base = Base::new(Bench::Store(store), parent)?;
    let rows: Vec<&Row> = rows.iter().collect();
    let writer = base.writer()?;
    let mut draft =
        base.draft(&rows, &NewContents::new(), &options.always, &options.reshape, &writer, progress)?;
    let added = base.finish(writer, [&mut draft])?;
    let image = base.publish(store, &draft, &rows, options)?;
    Ok(RebuildReport {
        parent: parent.image.id(),
        image: image.id(),
        planned: draft.planned,
        notes: draft.notes,
        ids: draft.ids,
        counts: image.counts,
        added,
        seconds: started.elapsed().as_secs_f64(),
    })
}
