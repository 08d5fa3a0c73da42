//! `verify`: compares two images bit by bit and, if they differ, file by file.

mod places;

use serde::Serialize;

pub use self::places::PlaceReport;
use self::places::Places;
use crate::disk::compare::compare_bits;
use crate::disk::scan::Scan;
use crate::error::Result;
use crate::image::{OpenImage, Origin};
use crate::task::progress::Progress;
use crate::tree::view::Tree;
use crate::verbs::inspect::diff::{self, ChangeKind};

/// The maximum number of differing paths that a report names.
const MAX_PATHS: usize = 1000;

/// The report of `verify` for two images.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// The images, as the user called them.
    pub images: [String; 2],
    /// Sizes of the disks in bytes.
    pub disk_sizes: [u64; 2],
    /// True if every bit is the same.
    pub same_bits: bool,
    /// Where the bits differ, if they do.
    pub bits: Option<BitsReport>,
    /// How the files compare, if they were compared.
    pub files: Option<FilesReport>,
}

/// Where bits differ.
#[derive(Debug, Clone, Serialize)]
pub struct BitsReport {
    /// The offset of the first byte that differs on the disk. A shorter disk differs from its end on, unless the rest
    /// of the other one is zero.
    pub first: u64,
    /// The number of bytes that differ.
    pub bytes: u64,
    /// The place of the first difference.
    pub place: String,
    /// The number of bytes that differ in each partition and file of the first image, in disk order; at most a thousand
    /// places.
    pub places: Vec<PlaceReport>,
    /// The total number of places.
    pub places_in_all: u64,
}

/// How the files of two images compare.
#[derive(Debug, Clone, Default, Serialize)]
pub struct FilesReport {
    /// True if both images have the same paths, with the same type, metadata and content. Access times and inode
    /// numbers are ignored.
    pub same: bool,
    /// The number of paths that were compared.
    pub compared: u64,
    /// Paths that exist only in the first image; at most a thousand.
    pub only_in_first: Vec<String>,
    /// Paths that exist only in the second image; at most a thousand.
    pub only_in_second: Vec<String>,
    /// Paths that differ, with the fields; at most a thousand.
    pub different: Vec<(String, Vec<&'static str>)>,
    /// The total number of differences.
    pub differences: u64,
}

/// Compares two images bit by bit and, if bits differ, file by file.
pub fn verify(a: &OpenImage, b: &OpenImage, progress: &dyn Progress) -> Result<VerifyReport> {
    for image in [a, b] {
        if let Origin::Stored { stored, .. } = &image.origin {
            stored.bypass_caches();
        }
    }
    let mut report = compare_disks(a, b, progress)?;
    if !report.same_bits {
        report.files = Some(all_files(a, b, progress)?);
    }
    Ok(report)
}

/// Compares two images bit by bit and file by file.
pub(crate) fn verify_both(a: &OpenImage, b: &OpenImage, progress: &dyn Progress) -> Result<VerifyReport> {
    let mut report = compare_disks(a, b, progress)?;
    report.files = Some(all_files(a, b, progress)?);
    Ok(report)
}

fn all_files(a: &OpenImage, b: &OpenImage, progress: &dyn Progress) -> Result<FilesReport> {
    progress.stage("comparing files", 0);
    compare_files(&a.tree()?, &b.tree()?, progress)
}

fn compare_disks(a: &OpenImage, b: &OpenImage, progress: &dyn Progress) -> Result<VerifyReport> {
    let disks = [a.disk()?, b.disk()?];
    let mut report = VerifyReport {
        images: [a.label.clone(), b.label.clone()],
        disk_sizes: [disks[0].len(), disks[1].len()],
        same_bits: true,
        bits: None,
        files: None,
    };
    if let (Origin::Stored { stored: x, .. }, Origin::Stored { stored: y, .. }) = (&a.origin, &b.origin)
        && x.image.layout_digest == y.image.layout_digest
    {
        return Ok(report);
    }
    let difference = compare_bits(&*disks[0], &*disks[1], "comparing", progress)?;
    if disks[0].len() == disks[1].len() && difference.first.is_none() {
        return Ok(report);
    }
    report.same_bits = false;
    if let Some(first) = difference.first {
        let found = Places::new(&Scan::new(disks[0].clone())?);
        let place = found.describe(first);
        let mut places = found.tally((&*disks[0], &*disks[1]), &difference.windows, progress)?;
        let places_in_all = places.len() as u64;
        places.truncate(MAX_PATHS);
        report.bits = Some(BitsReport { first, bytes: difference.bytes, place, places, places_in_all });
    }
    Ok(report)
}

fn compare_files(a: &Tree, b: &Tree, progress: &dyn Progress) -> Result<FilesReport> {
    let volumes = b.volumes().into_iter().map(|name| (name.to_owned(), name.to_owned())).collect();
    let mut report = FilesReport { compared: a.rows().len() as u64, ..FilesReport::default() };
    for change in diff::changes([a, b], &volumes, false, progress)? {
        report.differences += 1;
        let path = format!("{}:{}", change.volume, change.path);
        match change.kind {
            ChangeKind::Removed => push(&mut report.only_in_first, path),
            ChangeKind::Added => {
                report.compared += 1;
                push(&mut report.only_in_second, path);
            }
            _ => push(&mut report.different, (path, change.fields.iter().map(|field| field.field).collect())),
        }
    }
    report.same = report.differences == 0;
    Ok(report)
}

fn push<T>(list: &mut Vec<T>, item: T) {
    if list.len() < MAX_PATHS {
        list.push(item);
    }
}
