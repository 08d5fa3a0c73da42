//! The options and the report of an update.

use mif_formats::fs::Timestamp;
use serde::Serialize;

use crate::store::{ImageName, WriterStats};

/// Options of `update` and `replace`.
#[derive(Debug, Clone)]
pub struct UpdateOptions {
    /// The images. If `None`, the newest versions of all images except the two that the update compares.
    pub images: Option<Vec<ImageName>>,
    /// Which side wins if the image and the update changed the same path. Without a winner, such an image is left
    /// unchanged.
    pub winner: Option<Winner>,
    /// The time of changes that do not take their time from the update, for reproducible images.
    pub time: Timestamp,
    /// Report what would be done without doing it.
    pub dry_run: bool,
    /// The command line, for the images' records.
    pub command: Vec<String>,
}

/// Which side wins if both changed the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Winner {
    /// The image keeps what it has.
    Image,
    /// The image gets what the update has.
    Update,
}

/// The report of `update` and `replace`.
#[derive(Debug, Clone, Serialize)]
pub struct UpdateReport {
    /// `update` or `replace`.
    pub operation: &'static str,
    /// The old and the new state: images as `name@version`, or contents by SHA-1.
    pub between: [String; 2],
    /// The number of paths that change between the two images; `None` for `replace`.
    pub paths: Option<u64>,
    /// True if nothing was done, because this is a dry run.
    pub dry_run: bool,
    /// Which side wins if both changed a path.
    pub winner: Option<Winner>,
    /// The images.
    pub images: Vec<UpdatedImage>,
    /// The number of images that have a new version.
    pub applied: u64,
    /// The number of images without anything to change.
    pub unchanged: u64,
    /// The number of images with conflicts, which were left unchanged.
    pub conflict: u64,
    /// The number of images that were refused, and left unchanged.
    pub refused: u64,
    /// Objects and bytes that were new to the store.
    pub added: WriterStats,
    /// The duration in seconds.
    pub seconds: f64,
    /// Warnings about what the update leaves out, as sentences.
    pub warnings: Vec<String>,
}

/// The result for one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageResult {
    /// It has a new version, or would have.
    Applied,
    /// There is nothing to change.
    Unchanged,
    /// The image has changed the same paths itself, and was left unchanged.
    Conflict,
    /// The image cannot take the update, and was left unchanged.
    Refused,
}

/// The result for an image.
#[derive(Debug, Clone, Serialize)]
pub struct UpdatedImage {
    /// Its id, as `name@version`.
    pub image: String,
    /// The result for it.
    pub result: ImageResult,
    /// The new version, as `name@version`.
    pub made: Option<String>,
    /// Counts of changes that were made, or would be made without the conflicts.
    pub counts: UpdateCounts,
    /// Databases that were merged entry by entry, as `volume:path`.
    pub merged: Vec<String>,
    /// Paths that both sides changed. If there is a winner, its version was taken.
    pub conflicts: Vec<Conflict>,
    /// Changes that were skipped without being conflicts.
    pub left: Vec<Left>,
    /// The volumes that were planned; all others are unchanged, bit for bit.
    pub planned: Vec<String>,
    /// Side effects of rebuilding volumes, as sentences.
    pub notes: Vec<String>,
    /// Why it was refused.
    pub error: Option<String>,
    /// The kind of that error, as an exit code of the program.
    pub code: Option<u8>,
}

impl UpdatedImage {
    /// Returns the result for an image without anything to change.
    pub(crate) fn of(image: &str) -> Self {
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

/// The number of changed paths of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct UpdateCounts {
    /// Paths that are new.
    pub added: u64,
    /// Paths that are removed.
    pub removed: u64,
    /// Paths that get another type, content or target.
    pub changed: u64,
    /// Paths whose metadata alone changes.
    pub metadata: u64,
}

/// A path that both the image and the update changed.
#[derive(Debug, Clone, Serialize)]
pub struct Conflict {
    /// The path, as `volume:path`.
    pub path: String,
    /// The bytes of the path without the volume in hex, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes: Option<String>,
    /// Why it is a conflict.
    pub why: String,
}

/// A path that is left as it is in the image.
#[derive(Debug, Clone, Serialize)]
pub struct Left {
    /// The path, as `volume:path`.
    pub path: String,
    /// The bytes of the path without the volume in hex, where they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes: Option<String>,
    /// The reason.
    pub why: String,
}

impl UpdateReport {
    pub(crate) fn new(
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
