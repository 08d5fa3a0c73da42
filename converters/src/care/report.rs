//! What a check of the store was asked for, and what it found.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use mif_formats::container::OpenOptions;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::store::{Image, ImageName, Selector, Store};

/// What to do about damage.
#[derive(Debug, Clone, Default)]
pub struct FsckOptions {
    /// Make indexes again from packs, set damaged packs aside and keep what is whole of them; make records, manifests
    /// and tables again.
    pub repair: bool,
    /// Disk images that may still have what was lost: read, and lost objects stored again.
    /// With `repair` only.
    pub from: Vec<PathBuf>,
    /// How those are opened.
    pub open: OpenOptions,
}

impl FsckOptions {
    /// Errs if they make no sense together.
    pub fn check(&self) -> Result<()> {
        match !self.repair && !self.from.is_empty() {
            true => Err(Error::usage("--from is for --repair: disk images to take lost objects from")),
            false => Ok(()),
        }
    }
}

/// What is to be done about a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing: everything that images need is there and whole.
    #[default]
    Whole,
    /// The store itself has all that the repair needs.
    Repairable,
    /// The repair needs disk images that were imported.
    NeedsOriginals,
    /// Something is lost that no disk image is known to have.
    Lost,
    /// Not known: files of the store could not be read. Nothing is repaired before they can be.
    Unreadable,
}

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct FsckReport {
    /// Whether everything that images need is there and whole (after repair, if that was asked for).
    pub clean: bool,
    /// What is to be done.
    pub verdict: Verdict,
    /// The arguments of `mif` that do it, after `--store`; empty if nothing can be done.
    pub command: Vec<String>,
    /// The files that lost images were imported from, by their absolute paths.
    pub originals: Vec<String>,
    /// Images that were checked.
    pub images: u64,
    /// Packs that were read.
    pub packs: u64,
    /// Objects in them that were held against their digests.
    pub objects: u64,
    /// Damage, each a sentence.
    pub problems: Vec<String>,
    /// Files that could not be read, each a sentence: whether they are damaged is not known.
    pub unreadable: Vec<String>,
    /// Untidiness that costs nothing, each a sentence.
    pub notes: Vec<String>,
    /// What was done about damage, each a sentence.
    pub repaired: Vec<String>,
    /// What images have lost.
    pub lost: Vec<LostImage>,
    /// Objects that images need and that are nowhere whole, by their ids.
    pub lost_objects: Vec<String>,
    /// Images that are whole and have no second record, as `name@version`.
    #[serde(skip)]
    pub(crate) unnoted: Vec<String>,
}

/// What an image has lost.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LostImage {
    /// The image, as `name@version`.
    pub image: String,
    /// Parts of it that are lost: `record`, `manifest`, `layout`, `digests`, `packages`; `image` if all of it is.
    pub parts: Vec<String>,
    /// Files whose content is lost, as `volume:path`; at most a thousand are named.
    pub files: Vec<String>,
    /// How many there are.
    pub file_count: u64,
    /// Files whose content is whole, and has another SHA-1 than the manifest says; at most a thousand are named. Only
    /// `verify --all` looks for them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wrong_sha1: Vec<String>,
    /// Bytes of the disk that are lost, and lie on each volume or outside of all (`-`).
    pub disk_bytes: BTreeMap<String, u64>,
}

impl LostImage {
    pub(super) fn is_something(&self) -> bool {
        !self.parts.is_empty()
            || self.file_count > 0
            || !self.disk_bytes.is_empty()
            || !self.wrong_sha1.is_empty()
    }

    pub(super) fn lacks(&self, part: &str) -> bool {
        self.parts.iter().any(|lost| lost == part)
    }

    /// Whether all objects are there that its files and its disk need.
    pub(super) fn has_objects(&self) -> bool {
        self.file_count == 0 && self.disk_bytes.is_empty()
    }

    /// Whether the layout is there: all but the objects follows from it.
    pub(super) fn has_layout(&self) -> bool {
        !self.lacks("image") && !self.lacks("layout") && self.wrong_sha1.is_empty()
    }

    /// Its name and version.
    pub(super) fn id(&self) -> Option<(&str, u32)> {
        let (name, version) = self.image.rsplit_once('@')?;
        Some((name, version.parse().ok()?))
    }
}

impl FsckReport {
    /// Decides what is to be done. `found` says whether all lost objects are in packs without an index.
    pub(super) fn judge(&mut self, store: &Store, found: bool) {
        if !self.unreadable.is_empty() {
            // Objects that seem to be lost may be in the files that could not be read.
            self.lost.clear();
            self.lost_objects.clear();
            self.verdict = Verdict::Unreadable;
            return;
        }
        self.clean = self.problems.is_empty() && self.lost.is_empty();
        let is_repairable = |lost: &&LostImage| lost.has_layout() && (found || lost.has_objects());
        let needy: Vec<&LostImage> = self.lost.iter().filter(|lost| !is_repairable(lost)).collect();
        let mut originals = BTreeSet::new();
        let mut without = false;
        for lost in &needy {
            let source = lost.id().and_then(|(name, version)| original(store, name, version));
            without |= source.is_none();
            originals.extend(source);
        }
        self.originals = originals.into_iter().collect();
        self.verdict = match (self.clean, needy.is_empty()) {
            (true, _) => Verdict::Whole,
            (false, true) => Verdict::Repairable,
            (false, false) if without => Verdict::Lost,
            (false, false) => Verdict::NeedsOriginals,
        };
        self.command = match self.verdict {
            Verdict::Whole | Verdict::Unreadable => Vec::new(),
            _ => ["fsck", "--repair"].map(str::to_owned).to_vec(),
        };
        if !self.originals.is_empty() {
            self.command.push("--from".to_owned());
            self.command.extend(self.originals.iter().cloned());
        }
    }
}

/// The file that an image was imported from, or that the image was which it was made from.
fn original(store: &Store, name: &str, version: u32) -> Option<String> {
    let (mut name, mut version) = (name.to_owned(), version);
    // A chain of parents may be a circle in a store that somebody else made.
    for _ in 0..1000 {
        let image = store.version(&name, version).or_else(|_| store.published(&name, version)).ok()?.image;
        let Image { provenance, .. } = image;
        if provenance.operation == "import" {
            return provenance.files.into_iter().next().map(|file| file.path).or(provenance.source);
        }
        let parent: ImageName = provenance.parent?.parse().ok()?;
        let Selector::Number(number) = parent.version else { return None };
        (name, version) = (parent.name, number);
    }
    None
}
