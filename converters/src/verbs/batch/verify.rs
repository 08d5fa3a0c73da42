//! Checks all images of a store against the digests recorded when they were made, and against the files that they were
//! imported from.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use mif_formats::container::OpenOptions;
use serde::Serialize;

use super::Watch;
use super::divide::{Division, each};
use super::find::{FoundImages, PassedOver, find, trusting};
use super::originals::{Comparison, compare, matches};
use crate::care::fsck::check;
use crate::care::report::LostImage;
use crate::error::{Error, Result};
use crate::notation;
use crate::store::{Image, Provenance, Shard, Store};
use crate::task::progress;
use crate::verbs::choose::{ImageFilter, Versions};

/// Options of `verify --all`.
#[derive(Debug, Clone, Default)]
pub struct VerifyAllOptions {
    /// A directory with the files that the images were imported from.
    pub against: Option<PathBuf>,
    /// Which part of the store to check.
    pub division: Division,
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
    /// The shards that were checked: `0/1` is the whole store. The other shards of the store were not.
    pub shards: Vec<String>,
    /// Every version of every image of these shards, and each image of another shard that has lost something in these.
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

/// The number of shards that machines take one after the other, if they divide the work by claims.
const SHARDS: u64 = 64;

/// Checks every image of the store, or those of a shard, or of the shards that this process takes.
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
    let (shards, names): (Vec<Shard>, Vec<String>) = match options.division {
        Division::Alone => (vec![Shard::WHOLE], Vec::new()),
        Division::Shard(shard) => (vec![shard], Vec::new()),
        Division::Claim { .. } => {
            let shards = (0..SHARDS).map(|index| Shard::new(index, SHARDS));
            shards.map(|shard| (shard, format!("{}-of-{SHARDS}", shard.index()))).unzip()
        }
    };
    let run = options.division.join(store, "verify", &*watch.begin("library"))?;
    // Listed before the check, so that the check covers them all. The check reports unreadable records.
    let (images, is_filtered) = match options.filter.is_empty() {
        true => (store.images()?.0, false),
        false => (options.filter.choose_some(store, Versions::All, &*watch.begin("images"))?.images, true),
    };
    let originals = match options.against {
        Some(_) => matches(&images, &found.images),
        None => Vec::new(),
    };
    if options.against.is_some() {
        watch.total(images.iter().filter(|image| options.division.contains(&image.name)).count());
    }
    let library = Library { store, images: &images, is_filtered, originals, found: &found, options };
    let all = Mutex::new(Checked::default());
    let check = |number: usize| {
        let checked = library.check(shards[number], watch)?;
        all.lock().expect("not poisoned").absorb(checked);
        Ok(true)
    };
    match &run {
        None => drop(check(0)?),
        // One after the other: each takes all processors.
        Some(run) => each(Some(run), 1, &names, &|| watch.begin("waiting for others"), check, |_| ())?,
    }
    let Checked { images: checks, shards, packs, objects, problems } =
        all.into_inner().expect("not poisoned");
    let used: BTreeSet<usize> =
        library.originals.iter().filter_map(|number| number.as_ref().ok().copied().flatten()).collect();
    let left = found.images.iter().enumerate().filter(|(number, _)| !used.contains(number));
    let without_image: Vec<String> = left.map(|(_, original)| original.path.display().to_string()).collect();
    let good_image =
        |image: &ImageCheck| image.whole && image.original.as_ref().is_none_or(Comparison::is_good);
    Ok(LibraryReport {
        good: problems.is_empty() && without_image.is_empty() && checks.values().all(good_image),
        store: store.storage().place(),
        tool: made.tool,
        time: made.time,
        shards: shards.iter().map(ToString::to_string).collect(),
        images: checks.into_values().collect(),
        without_image,
        passed_over: found.passed_over,
        packs,
        objects,
        problems,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The images to check, and their originals.
struct Library<'a> {
    store: &'a Store,
    images: &'a [Image],
    is_filtered: bool,
    /// For each image, the number of its original; nothing if originals are not compared.
    originals: Vec<Result<Option<usize>, String>>,
    found: &'a FoundImages,
    options: &'a VerifyAllOptions,
}

/// What was found in shards.
#[derive(Default)]
struct Checked {
    /// By the image's name and version.
    images: BTreeMap<(String, u32), ImageCheck>,
    shards: Vec<Shard>,
    packs: u64,
    objects: u64,
    problems: Vec<String>,
}

impl Checked {
    fn absorb(&mut self, other: Checked) {
        for (id, check) in other.images {
            match self.images.entry(id) {
                Entry::Vacant(entry) => drop(entry.insert(check)),
                // One of the two is about what the image lost in packs of another shard than its own.
                Entry::Occupied(mut entry) => entry.get_mut().absorb(check),
            }
        }
        self.shards.extend(other.shards);
        self.packs += other.packs;
        self.objects += other.objects;
        self.problems.extend(other.problems);
    }
}

impl ImageCheck {
    fn absorb(&mut self, other: ImageCheck) {
        self.whole &= other.whole;
        self.original = self.original.take().or(other.original);
        match (&mut self.lost, other.lost) {
            (Some(lost), Some(more)) => lost.absorb(more),
            (lost, more) => *lost = lost.take().or(more),
        }
    }
}

impl Library<'_> {
    fn check(&self, shard: Shard, watch: &dyn Watch<ImageCheck>) -> Result<Checked> {
        let checked = check(self.store, true, shard, &*watch.begin("library"))?;
        if let Some(first) = checked.unreadable.first() {
            let more = match checked.unreadable.len() {
                1 => String::new(),
                files => format!(" (and {} more files cannot be read)", files - 1),
            };
            return Err(
                Error::store(format!("{first}{more}")).advise("Make the files readable, then verify again")
            );
        }
        let mut lost: HashMap<String, LostImage> =
            checked.lost.into_iter().map(|lost| (lost.image.clone(), lost)).collect();
        let mut images = BTreeMap::new();
        for (number, image) in self.images.iter().enumerate() {
            let lost = lost.remove(&image.id());
            let is_own = shard.contains(&image.name);
            if !is_own && lost.is_none() {
                continue;
            }
            let mut check = ImageCheck {
                image: image.id(),
                whole: lost.is_none(),
                lost,
                disk_size: Some(image.disk_size),
                files: Some(image.counts.files),
                original: None,
            };
            if let (true, Some(original)) = (is_own, self.originals.get(number)) {
                check.original = Some(self.compare(image, original, watch)?);
                watch.event(check.clone());
            }
            images.insert((image.name.clone(), image.version), check);
        }
        // Damaged images whose records are lost match no filter.
        for (id, lost) in lost.into_iter().filter(|_| !self.is_filtered) {
            let Some((name, version)) = lost.id().map(|(name, version)| (name.to_owned(), version)) else {
                continue;
            };
            let original = self.options.against.is_some().then_some(Comparison::NoOriginal);
            let check = ImageCheck {
                image: id,
                whole: false,
                lost: Some(lost),
                disk_size: None,
                files: None,
                original,
            };
            images.insert((name, version), check);
        }
        let (packs, objects, problems) = (checked.packs, checked.objects, checked.problems);
        Ok(Checked { images, shards: vec![shard], packs, objects, problems })
    }

    /// Compares an image with its original.
    fn compare(
        &self,
        image: &Image,
        original: &Result<Option<usize>, String>,
        watch: &dyn Watch<ImageCheck>,
    ) -> Result<Comparison> {
        match original {
            Err(why) => Ok(Comparison::NotCompared { why: why.clone() }),
            Ok(None) => Ok(Comparison::NoOriginal),
            Ok(Some(number)) => {
                let progress = watch.begin(&image.id());
                progress::check(&*progress)?;
                let open = trusting(self.options.against.as_slice(), &self.options.open);
                compare(self.store, image, &self.found.images[*number], &open, &*progress)
            }
        }
    }
}
