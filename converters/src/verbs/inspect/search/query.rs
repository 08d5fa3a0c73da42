//! What a search asks for, and what it reports.

use std::ops::RangeInclusive;

use mif_formats::fs::{FileType, Timestamp};
use serde::Serialize;

use super::content::WantedContents;
use super::glob::PathGlob;
use crate::notation;
use crate::store::{DamagedImage, ImageName};
use crate::verbs::choose::ImageFilter;

/// A search. A row must match every criterion that is given.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// The images to search; all if this is empty.
    pub images: Vec<ImageName>,
    /// Search all versions of the images, not only the newest.
    pub all_versions: bool,
    /// Search only images that match.
    pub filter: ImageFilter,
    /// The path.
    pub path: Option<PathGlob>,
    /// The content: any of these.
    pub contents: Option<WantedContents>,
    /// The type.
    pub file_type: Option<FileType>,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// Mode bits that must all be set.
    pub mode: u16,
    /// Mode bits of which at least one must be set.
    pub mode_any: u16,
    /// Size in bytes.
    pub size: Option<RangeInclusive<u64>>,
    /// Modification time, in seconds since 1970.
    pub mtime: Option<RangeInclusive<i64>>,
    /// Name of an extended attribute.
    pub xattr: Option<PathGlob>,
}

/// The result.
#[derive(Debug, Clone, Serialize)]
pub struct SearchReport {
    /// The number of versions that were searched.
    pub searched: u64,
    /// Damaged images, which could not be searched.
    pub damaged: Vec<DamagedImage>,
    /// The files, by image, volume and path.
    pub hits: Vec<Hit>,
    /// If requested, each content once, with its images; then `hits` is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<HitGroup>>,
    /// The number of files or groups that were left out, because only a number of them was requested.
    pub left_out: u64,
}

/// A content, and the images that have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HitGroup {
    /// The SHA-1 in hex; `None` for what has no digest, which is grouped by path.
    pub sha1: Option<String>,
    /// The type.
    #[serde(rename = "type")]
    pub file_type: String,
    /// The size in bytes.
    pub size: u64,
    /// The paths, each with its volume, in order.
    pub paths: Vec<String>,
    /// The images, in order.
    pub images: Vec<String>,
}

/// A file that matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Hit {
    /// The image, as `name@version`.
    pub image: String,
    pub volume: String,
    pub path: String,
    /// The path's bytes in hex, if they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes: Option<String>,
    #[serde(rename = "type")]
    pub file_type: String,
    #[serde(serialize_with = "notation::mode")]
    pub mode: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: u64,
    #[serde(serialize_with = "notation::time")]
    pub mtime: Option<Timestamp>,
    /// The SHA-1 in hex.
    pub sha1: Option<String>,
}
