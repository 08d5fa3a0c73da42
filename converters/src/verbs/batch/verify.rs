//! Checks all images of a store against the digests recorded when they were made, and against the files that they were
//! imported from.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use mif_formats::container::OpenOptions;
use serde::Serialize;

use super::Watch;
use super::find::{FoundImages, PassedOver, find, trusting};
use super::originals::{Comparison, compare, matches};
use crate::care::fsck::check;
use crate::care::report::LostImage;
use crate::error::{Error, Result};
use crate::notation;
use crate::store::{Image, Provenance, Store};
use crate::task::progress;
use crate::verbs::choose::{ImageFilter, Versions};

/// Options of `verify --all`.
#[derive(Debug, Clone, Default)]
pub struct VerifyAllOptions {
    /// A directory with the files that the images were imported from.
    pub against: Option<PathBuf>,
    /// Report only images that match. The whole store is read, because its images share packs.
    pub filter: ImageFilter,
    /// How to open those files; only the options about files that they may refer to are used.
    pub open: OpenOptions,
}

/// The report of `verify --all`.
#[derive(Debug, Clone, Serialize)]
pub struct LibraryReport {
    /// True if every image is intact and, with `against`, equal to its original, and every original has an image.
    pub good: bool,
    /// The store.
    pub store: String,
    /// The version of mif.
    pub tool: String,
    /// When the check was made, in seconds since 1970.
    #[serde(serialize_with = "notation::seconds")]
    pub time: u64,
    /// Every version of every image.
    pub images: Vec<ImageCheck>,
    /// Originals that no image was imported from.
    pub without_image: Vec<String>,
    /// Other files besides the originals.
    pub passed_over: Vec<PassedOver>,
    /// The number of packs that were read.
    pub packs: u64,
    /// The number of objects in them.
    pub objects: u64,
    /// Damage of the store, as sentences.
    pub problems: Vec<String>,
    /// The duration in seconds.
    pub seconds: f64,
}

/// The result for one image.
#[derive(Debug, Clone, Serialize)]
pub struct ImageCheck {
    /// The image, as `name@version`.
    pub image: String,
    /// True if its record, layout and manifest match their digests, each file's content matches its BLAKE3 and SHA-1,
    /// and every byte of its disk can be read.
    pub whole: bool,
    /// What the image has lost, if anything.
    pub lost: Option<LostImage>,
    /// The disk's size in bytes; `None` if the record is lost.
    pub disk_size: Option<u64>,
    /// The number of regular files on it.
    pub files: Option<u64>,
    /// How it compares with the file that it was imported from, if requested.
    pub original: Option<Comparison>,
}

/// Checks every image of the store.
pub fn verify_all(
    store: &Store,
    options: &VerifyAllOptions,
    watch: &dyn Watch<ImageCheck>,
) -> Result<LibraryReport> {
    let started = Instant::now();
    store.storage().bypass_caches();
    let made = Provenance::of("verify");
    let found = match &options.against {
        Some(folder) => find(std::slice::from_ref(folder), &options.open, &*watch.begin("originals"))?,
        None => FoundImages::default(),
    };
    // Listed before the check, so that the check covers them all. The check reports unreadable records.
    let (images, filtered) = match options.filter.is_empty() {
        true => (store.images()?.0, false),
        false => (options.filter.choose_some(store, Versions::All, &*watch.begin("images"))?.images, true),
    };
    let checked = check(store, true, &*watch.begin("library"))?;
    if let Some(first) = checked.unreadable.first() {
        let more = match checked.unreadable.len() {
            1 => String::new(),
            files => format!(" (and {} more files cannot be read)", files - 1),
        };
        return Err(
            Error::store(format!("{first}{more}")).advise("Make the files readable, then verify again")
        );
    }
    let mut checks: Vec<ImageCheck> = Vec::new();
    let mut lost = checked.lost;
    for image in &images {
        let id = image.id();
        let lost = lost.iter().position(|lost| lost.image == id).map(|place| lost.swap_remove(place));
        checks.push(ImageCheck {
            image: id,
            whole: lost.is_none(),
            lost,
            disk_size: Some(image.disk_size),
            files: Some(image.counts.files),
            original: None,
        });
    }
    let mut without_image = Vec::new();
    if options.against.is_some() {
        watch.total(images.len());
        let used = compare_all(store, &images, &found, &mut checks, options, watch)?;
        let left = found.images.iter().enumerate().filter(|(number, _)| !used.contains(number));
        without_image = left.map(|(_, original)| original.path.display().to_string()).collect();
    }
    // Damaged images whose records are lost match no filter.
    checks.extend(lost.into_iter().filter(|_| !filtered).map(|lost| ImageCheck {
        image: lost.image.clone(),
        whole: false,
        lost: Some(lost),
        disk_size: None,
        files: None,
        original: options.against.is_some().then_some(Comparison::NoOriginal),
    }));
    let good_image =
        |image: &ImageCheck| image.whole && image.original.as_ref().is_none_or(Comparison::is_good);
    Ok(LibraryReport {
        good: checked.problems.is_empty() && without_image.is_empty() && checks.iter().all(good_image),
        store: store.storage().place(),
        tool: made.tool,
        time: made.time,
        images: checks,
        without_image,
        passed_over: found.passed_over,
        packs: checked.packs,
        objects: checked.objects,
        problems: checked.problems,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Compares each image with its original, and returns the numbers of the originals that have an image.
fn compare_all(
    store: &Store,
    images: &[Image],
    found: &FoundImages,
    checks: &mut [ImageCheck],
    options: &VerifyAllOptions,
    watch: &dyn Watch<ImageCheck>,
) -> Result<BTreeSet<usize>> {
    let mut used = BTreeSet::new();
    let open = trusting(options.against.as_slice(), &options.open);
    for ((image, original), check) in images.iter().zip(matches(images, &found.images)).zip(checks) {
        check.original = Some(match original {
            Err(why) => Comparison::NotCompared { why },
            Ok(None) => Comparison::NoOriginal,
            Ok(Some(number)) => {
                used.insert(number);
                let progress = watch.begin(&check.image);
                progress::check(&*progress)?;
                compare(store, image, &found.images[number], &open, &*progress)?
            }
        });
        watch.event(check.clone());
    }
    Ok(used)
}
