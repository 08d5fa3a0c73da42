//! `status`: how a store is, on one screen: its images, its size, what `gc` would free, and what needs attention.
//!
//! Reads the records and indexes, not the packs: whether their bytes are whole is for `fsck` to say. When it last did, and how
//! that ended, is in a note ([`LastCheck`]).

use std::collections::HashSet;

use serde::Serialize;

use super::stats::{StatsReport, stats};
use crate::care::gc::{GcOptions, gc};
use crate::catalog::{self, Opened};
use crate::error::Result;
use crate::notation;
use crate::store::{LastCheck, Store};
use crate::task::progress::Progress;

/// How a store is.
#[derive(Debug, Clone, Serialize)]
pub struct StatusReport {
    /// The store.
    pub store: String,
    /// True if nothing needs attention.
    pub good: bool,
    /// The number of names.
    pub images: u64,
    /// The number of versions.
    pub versions: u64,
    /// The number of tags.
    pub tags: u64,
    /// The total size of all disks in bytes.
    pub disk_bytes: u64,
    /// Bytes of these disks that are not zero.
    pub data_bytes: u64,
    /// Bytes of the store's files.
    pub file_bytes: u64,
    /// Data bytes for each byte of the store's files.
    pub ratio: f64,
    /// The newest version, `name@version`.
    pub newest: Option<String>,
    /// When it was made, in seconds since 1970.
    #[serde(serialize_with = "notation::some_seconds")]
    pub newest_time: Option<u64>,
    /// Bytes of packs that `gc` would free now.
    pub gc_bytes: u64,
    /// The last check that left a note. It says how the store was then, and proves nothing.
    pub checked: Option<Checked>,
    /// The catalog, if there is one that can be read.
    pub catalog: Option<CatalogStatus>,
    /// What needs attention, each a sentence that says what to do.
    pub attention: Vec<String>,
}

/// How far the catalog of a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CatalogStatus {
    /// The number of versions in it.
    pub images: u64,
    /// The number of versions that it lacks.
    pub lacking: u64,
}

/// The last check of a store.
#[derive(Debug, Clone, Serialize)]
pub struct Checked {
    /// The verb that checked it.
    pub verb: String,
    /// How it ended: `whole`, or another word.
    pub verdict: String,
    /// When, in seconds since 1970.
    #[serde(serialize_with = "notation::seconds")]
    pub time: u64,
    /// The version of mif that checked it.
    pub tool: String,
}

impl From<LastCheck> for Checked {
    fn from(LastCheck { verb, verdict, time, tool }: LastCheck) -> Self {
        Checked { verb, verdict, time, tool }
    }
}

/// Describes a store.
pub fn status(store: &Store, progress: &dyn Progress) -> Result<StatusReport> {
    let StatsReport { damaged, images, versions, disk_bytes, data_bytes, file_bytes, total_ratio, .. } =
        stats(store, false, progress)?;
    let collected = gc(store, &GcOptions { dry_run: true, ..GcOptions::default() }, progress)?;
    let mut attention: Vec<String> = Vec::new();
    for image in &damaged {
        attention.push(format!("{}: {}; run `mif fsck`", image.image, image.problem));
    }
    let also =
        collected.damaged.iter().filter(|image| damaged.iter().all(|known| known.image != image.image));
    attention.extend(also.map(|image| format!("{}: {}; run `mif fsck`", image.image, image.problem)));
    attention.extend(collected.warnings.iter().cloned());
    if collected.unfinished + collected.stray_indexes > 0 {
        attention.push(format!(
            "{} unfinished files are left over; run `mif gc`",
            collected.unfinished + collected.stray_indexes
        ));
    }
    if !collected.strangers.is_empty() {
        attention.push(format!("not part of the store: {}", collected.strangers.join(", ")));
    }
    let [before, after] = collected.pack_bytes;
    let gc_bytes = before.saturating_sub(after);
    let checked = store.last_check().map(Checked::from);
    if let Some(check) = checked.as_ref().filter(|check| check.verdict != "whole") {
        attention.push(format!(
            "the last check, `mif {}`, did not find the store whole ({}); run `mif fsck`",
            check.verb, check.verdict
        ));
    }
    // Less than this share is not worth a warning.
    const WASTE: u64 = 4;
    if gc_bytes > 0 && gc_bytes >= before / WASTE {
        attention.push("a large part of the store is unused; run `mif gc`".to_owned());
    }
    let (mut tags, mut newest) = (0, None);
    let all = store.images()?.0;
    let catalog = match catalog::open(&**store.storage()) {
        Ok(Opened::Catalog(coverage)) => {
            let known: HashSet<(&str, u32)> =
                coverage.images.iter().map(|image| (&image.name[..], image.version)).collect();
            let lacking =
                all.iter().filter(|image| !known.contains(&(&image.name[..], image.version))).count();
            Some(CatalogStatus { images: known.len() as u64, lacking: lacking as u64 })
        }
        Ok(Opened::None) => None,
        Ok(Opened::Newer(e) | Opened::Damaged(e)) | Err(e) => {
            attention.push(format!("the catalog cannot be used: {}; run `mif catalog`", e.message()));
            None
        }
    };
    for image in all {
        if newest.as_ref().is_none_or(|(time, _)| *time <= image.provenance.time) {
            newest = Some((image.provenance.time, image.id()));
        }
    }
    for name in store.names()? {
        tags += store.tags(&name).map_or(0, |tags| tags.len() as u64);
    }
    let (newest_time, newest) = newest.unzip();
    Ok(StatusReport {
        store: store.storage().place(),
        good: attention.is_empty(),
        images,
        versions,
        tags,
        disk_bytes,
        data_bytes,
        file_bytes: file_bytes.packs.saturating_add(file_bytes.indexes).saturating_add(file_bytes.images),
        ratio: total_ratio,
        newest,
        newest_time,
        gc_bytes,
        checked,
        catalog,
        attention,
    })
}
