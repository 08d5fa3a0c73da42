//! `update`: what changed from an image A to an image B, applied to other images; and `replace`, the same of one
//! content.
//!
//! ```text
//! A, B → the changes of each volume ─┐
//! an image's files (files/) ─────────┴→ merge (merge.rs; rules.rs, entries.rs) → files, changed (apply.rs)
//!     → rows → rebuild → the image's next version (batch.rs)
//! ```
//!
//! An image is changed whole or not at all. Volumes are matched by where the system mounts them.

mod apply;
mod batch;
mod entries;
mod merge;
mod replace;
mod rules;
mod side;

use std::collections::BTreeMap;
use std::time::Instant;

use mif_formats::fs::Timestamp;
use mif_formats::mif::manifest::escape;
use serde::Serialize;

use self::apply::Applying;
use self::batch::{Batch, chosen};
use self::merge::Change;
pub use self::replace::replace;
use self::side::Side;
use crate::files::Files;
use crate::progress::Progress;
use crate::rebuild::{Base, Bench};
use crate::store::{ImageName, Store, StoredImage, WriterStats};
use crate::{Error, Result};

/// Which images get new versions, and how.
#[derive(Debug, Clone)]
pub struct UpdateOptions {
    /// The images; the newest version of all if none, but for the two that an update is between.
    pub images: Option<Vec<ImageName>>,
    /// Who wins where the image and the update changed the same path. If none, such an image stays as it is.
    pub winner: Option<Winner>,
    /// The time of what is changed, where it is not the update's own: with it the same update gives the same bits.
    pub time: Timestamp,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// The command line, for the images' records.
    pub command: Vec<String>,
}

/// Who wins where both changed the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Winner {
    /// The image keeps what it has.
    Image,
    /// The image gets what the update has.
    Update,
}

/// What an update did.
#[derive(Debug, Clone, Serialize)]
pub struct UpdateReport {
    /// `update` or `replace`.
    pub operation: &'static str,
    /// What it was, and what it became: images as `name@version`, or contents by SHA-1.
    pub between: [String; 2],
    /// How many paths change from the one image to the other; none for `replace`.
    pub paths: Option<u64>,
    /// Whether this is only what would be done.
    pub dry_run: bool,
    /// Who wins where both changed a path.
    pub winner: Option<Winner>,
    /// The images.
    pub images: Vec<UpdatedImage>,
    /// How many of them have a new version.
    pub applied: u64,
    /// How many had nothing to change.
    pub unchanged: u64,
    /// How many have changed the same paths themselves, and stay as they are.
    pub conflict: u64,
    /// How many cannot take it, and stay as they are.
    pub refused: u64,
    /// What was new to the store.
    pub added: WriterStats,
    /// How long it took.
    pub seconds: f64,
    /// What is not part of the update, each a sentence.
    pub warnings: Vec<String>,
}

/// What became of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageResult {
    /// It has a new version, or would have.
    Applied,
    /// There is nothing to change.
    Unchanged,
    /// It changed the same paths itself, and stays as it is.
    Conflict,
    /// It cannot take the update, and stays as it is.
    Refused,
}

/// An image, and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct UpdatedImage {
    /// It, as `name@version`.
    pub image: String,
    /// What became of it.
    pub result: ImageResult,
    /// The version that was made of it, as `name@version`.
    pub made: Option<String>,
    /// What changed in it, or would have but for the conflicts.
    pub counts: UpdateCounts,
    /// Databases that were merged entry by entry, as `volume:path`.
    pub merged: Vec<String>,
    /// What both changed. If there is a winner, it has these.
    pub conflicts: Vec<Conflict>,
    /// What of the update the image does not get, and is no conflict.
    pub left: Vec<Left>,
    /// The volumes that were planned; all others stay bit for bit.
    pub planned: Vec<String>,
    /// What planning changed beside, each a sentence.
    pub notes: Vec<String>,
    /// Why it was refused.
    pub error: Option<String>,
    /// The kind of that error, as the program's exit codes count them.
    pub code: Option<u8>,
}

impl UpdatedImage {
    /// An image in which there is nothing to change.
    fn of(image: &str) -> Self {
        UpdatedImage {
            image: image.to_owned(),
            result: ImageResult::Unchanged,
            made: None,
            counts: UpdateCounts::default(),
            merged: Vec::new(),
            conflicts: Vec::new(),
            left: Vec::new(),
            planned: Vec::new(),
            notes: Vec::new(),
            error: None,
            code: None,
        }
    }
}

/// How many paths change, of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct UpdateCounts {
    /// Paths that are new.
    pub added: u64,
    /// Paths that go.
    pub removed: u64,
    /// Paths that get another type, content or target.
    pub changed: u64,
    /// Paths of which only metadata changes.
    pub metadata: u64,
}

/// A path that the image and the update changed.
#[derive(Debug, Clone, Serialize)]
pub struct Conflict {
    /// It, as `volume:path`.
    pub path: String,
    /// The bytes of the path without the volume in hex, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes: Option<String>,
    /// What was done to it.
    pub why: String,
}

/// A path that stays as the image has it.
#[derive(Debug, Clone, Serialize)]
pub struct Left {
    /// It, as `volume:path`.
    pub path: String,
    /// The bytes of the path without the volume in hex, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes: Option<String>,
    /// Why.
    pub why: String,
}

impl UpdateReport {
    fn new(
        operation: &'static str,
        between: [String; 2],
        options: &UpdateOptions,
        images: Vec<UpdatedImage>,
    ) -> Self {
        let count = |result| images.iter().filter(|image| image.result == result).count() as u64;
        UpdateReport {
            operation,
            between,
            paths: None,
            dry_run: options.dry_run,
            winner: options.winner,
            applied: count(ImageResult::Applied),
            unchanged: count(ImageResult::Unchanged),
            conflict: count(ImageResult::Conflict),
            refused: count(ImageResult::Refused),
            images,
            added: WriterStats::default(),
            seconds: 0.0,
            warnings: Vec::new(),
        }
    }
}

/// Applies what changed from the image `from` to the image `to`, each in the next version of its image.
///
/// Errs before any image is changed if one is not there; what an image cannot take is said in the report.
pub fn update(
    store: &Store,
    from: &StoredImage,
    to: &StoredImage,
    options: &UpdateOptions,
    progress: &dyn Progress,
) -> Result<UpdateReport> {
    let started = Instant::now();
    let between = [from.image.id(), to.image.id()];
    let images = chosen(store, options.images.as_deref(), &between)?;
    progress.stage("comparing", 0);
    let files = [from, to].map(|image| Files::new(&Base::new(Bench::Store(store), image)?, options.time));
    let [a, b] = files;
    let files = [a?, b?];
    let (changes, warnings) = changes([&files[0], &files[1]]);
    let paths = changes.iter().map(|change| change.paths.len() as u64).sum();
    let recipe = [&from.image.layout_digest, &to.image.layout_digest].map(String::as_str).join("\0");
    let recipe =
        blake3::hash(format!("update\0{recipe}\0{:?}", options.winner).as_bytes()).to_hex().to_string();
    progress.stage("updating", 0);
    let batch = Batch { store, operation: "update", recipe, between: between.clone(), options };
    let edit = |image: &StoredImage, files: &Files| {
        let said = UpdatedImage::of(&image.image.id());
        update_image(&changes, files, options.winner, said)
    };
    let (done, added) = batch.run(&images, &edit, progress)?;
    let report = UpdateReport::new("update", between, options, done);
    Ok(UpdateReport {
        paths: Some(paths),
        added,
        seconds: started.elapsed().as_secs_f64(),
        warnings,
        ..report
    })
}

/// Where GRUB's modules for BIOS are.
const GRUB_MODULES: [&[u8]; 2] = [b"/boot/grub/i386-pc/", b"/boot/grub2/i386-pc/"];

/// What changes on each volume from A to B, and what of them is no part of it.
fn changes<'a>(files: [&'a Files; 2]) -> (Vec<Change<'a>>, Vec<String>) {
    let roles = files.map(Files::roles);
    let mut warnings = Vec::new();
    for (role, volume) in roles[0].iter().chain(&roles[1]) {
        if roles.iter().any(|roles| !roles.contains_key(role)) {
            warnings.push(format!("{volume}: only one of the two images has it, so its files do not count"));
        }
    }
    let both =
        roles[0].iter().filter_map(|(role, a)| Some((role, [a.as_str(), roles[1].get(role)?.as_str()])));
    let changes = both.map(|(role, volumes)| Change::new(role, files, volumes));
    let changes: Vec<Change<'_>> = changes.filter(|change| !change.paths.is_empty()).collect();
    let guest_paths =
        changes.iter().flat_map(|change| change.paths.iter().filter_map(|p| change.guest_path(p)));
    let is_grub = |path: &Vec<u8>| GRUB_MODULES.iter().any(|folder| path.starts_with(folder));
    if let Some(path) = guest_paths.into_iter().find(is_grub) {
        warnings.push(format!(
            "{}: GRUB's core image for BIOS lies outside of all files and stays the images' own, which may not go \
             with other modules",
            escape(&path)
        ));
    }
    (changes, warnings)
}

/// Merges changes into the files of an image.
fn update_image(
    changes: &[Change<'_>],
    files: &Files,
    winner: Option<Winner>,
    mut said: UpdatedImage,
) -> Result<(Files, UpdatedImage)> {
    let roles = files.roles();
    check_volumes(changes, files, &roles)?;
    let mut edited = files.clone();
    for change in changes {
        let volume = &roles[&change.role];
        let ours = Side::new(files, volume);
        let merge = merge::merge(change, files, volume, &ours, winner)?;
        let applying = Applying { volume, ours: &ours, change, takes: &merge.takes };
        said.merged.extend(applying.apply(&mut edited, &mut said.counts)?);
        said.conflicts.extend(merge.conflicts);
        said.left.extend(merge.left);
    }
    said.result = if !said.conflicts.is_empty() && winner.is_none() {
        ImageResult::Conflict
    } else if said.counts == UpdateCounts::default() {
        ImageResult::Unchanged
    } else {
        ImageResult::Applied
    };
    Ok((edited, said))
}

/// Errs unless an image has the volumes that change, and no others in their place.
fn check_volumes(changes: &[Change<'_>], files: &Files, roles: &BTreeMap<String, String>) -> Result<()> {
    for change in changes {
        let Some(volume) = roles.get(&change.role) else {
            let what = if change.role.starts_with('/') { "mounted on " } else { "called " };
            return Err(Error::input(format!("the image has no volume {what}{}", change.role)));
        };
        if files.is_fat(volume) != change.sides[1].is_fat || change.sides[0].is_fat != change.sides[1].is_fat
        {
            return Err(Error::unsupported(format!("{volume}: is FAT in one image, and ext in another")));
        }
        for (role, volume) in roles.iter().filter(|(role, _)| role.starts_with('/') && **role != change.role)
        {
            let folder = format!("{}/", role.trim_end_matches('/'));
            let hidden = |path: &&&[u8]| {
                change.guest_path(path).is_some_and(|path| path.starts_with(folder.as_bytes()))
            };
            let is_below = role.starts_with(&change.role) && !changes.iter().any(|c| c.role == *role);
            if is_below && let Some(path) = change.paths.iter().find(hidden) {
                let path = escape(path);
                return Err(Error::unsupported(format!(
                    "{path}: is to be on {}, where the image mounts {volume} on {role}",
                    change.role
                )));
            }
        }
    }
    Ok(())
}
