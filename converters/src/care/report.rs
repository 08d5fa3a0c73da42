//! The options of a check of the store, and its findings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use mif_formats::container::OpenOptions;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::store::{Image, ImageName, Selector, Store};

/// What to do about damage.
#[derive(Debug, Clone, Default)]
pub struct FsckOptions {
    /// Rebuild indexes from packs, set damaged packs aside and keep their intact objects; rebuild records, manifests
    /// and tables.
    pub repair: bool,
    /// Disk images that may still contain what was lost: they are read, and lost objects are stored again. Only with
    /// `repair`.
    pub from: Vec<PathBuf>,
    /// How to open these disk images.
    pub open: OpenOptions,
}

impl FsckOptions {
    /// Fails if the options contradict each other.
    pub fn check(&self) -> Result<()> {
        match !self.repair && !self.from.is_empty() {
            true => Err(Error::usage(
                "--from needs --repair: it names disk images from which to recover lost objects",
            )),
            false => Ok(()),
        }
    }
}

/// What a store needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing: everything that images need exists and is intact.
    #[default]
    Whole,
    /// A repair, for which the store itself has everything.
    Repairable,
    /// A repair that needs disk images that were imported.
    NeedsOriginals,
    /// Something is lost that no known disk image contains.
    Lost,
    /// Unknown: files of the store could not be read. Nothing is repaired until they can be.
    Unreadable,
}

impl Verdict {
    /// Returns the word for it, as it is in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Whole => "whole",
            Verdict::Repairable => "repairable",
            Verdict::NeedsOriginals => "needs_originals",
            Verdict::Lost => "lost",
            Verdict::Unreadable => "unreadable",
        }
    }
}

/// The findings of a check.
#[derive(Debug, Clone, Default, Serialize)]
pub struct FsckReport {
    /// True if everything that images need exists and is intact (after the repair, if one was requested).
    pub clean: bool,
    /// What the store needs.
    pub verdict: Verdict,
    /// The arguments of `mif` for the repair, after `--store`; empty if none helps.
    pub command: Vec<String>,
    /// The absolute paths of the files that lost images were imported from.
    pub originals: Vec<String>,
    /// The number of images that were checked.
    pub images: u64,
    /// The number of packs that were read.
    pub packs: u64,
    /// The number of objects in them that were checked against their digests.
    pub objects: u64,
    /// Damage, each a sentence.
    pub problems: Vec<String>,
    /// Files that could not be read, each a sentence. They may be intact.
    pub unreadable: Vec<String>,
    /// Harmless irregularities, each a sentence.
    pub notes: Vec<String>,
    /// What was repaired, each a sentence.
    pub repaired: Vec<String>,
    /// What images have lost.
    pub lost: Vec<LostImage>,
    /// Objects that images need and of which no intact copy exists, by their ids.
    pub lost_objects: Vec<String>,
    /// Intact images without a second record, as `name@version`.
    #[serde(skip)]
    pub(crate) unnoted: Vec<String>,
}

/// What an image has lost.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LostImage {
    /// The image, as `name@version`.
    pub image: String,
    /// Lost parts of it: `record`, `manifest`, `layout`, `digests`, `packages`; `image` if all of it is lost.
    pub parts: Vec<String>,
    /// Files whose content is lost, as `volume:path`; at most a thousand.
    pub files: Vec<String>,
    /// The number of these files, including those not named.
    pub file_count: u64,
    /// Files whose content is intact but has another SHA-1 than in the manifest; at most a thousand. Only
    /// `verify --all` checks this.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wrong_sha1: Vec<String>,
    /// The number of lost bytes of the disk on each volume, and outside of all volumes (`-`).
    pub disk_bytes: BTreeMap<String, u64>,
}

impl LostImage {
    pub(super) fn is_something(&self) -> bool {
        !self.parts.is_empty()
            || self.file_count > 0
            || !self.disk_bytes.is_empty()
            || !self.wrong_sha1.is_empty()
    }

    /// Adds what the same image lost elsewhere.
    pub(crate) fn absorb(&mut self, other: LostImage) {
        let new = other.parts.into_iter().filter(|part| !self.parts.contains(part)).collect::<Vec<_>>();
        self.parts.extend(new);
        self.files.extend(other.files);
        self.file_count += other.file_count;
        self.wrong_sha1.extend(other.wrong_sha1);
        for (volume, bytes) in other.disk_bytes {
            *self.disk_bytes.entry(volume).or_default() += bytes;
        }
    }

    pub(super) fn lacks(&self, part: &str) -> bool {
        self.parts.iter().any(|lost| lost == part)
    }

    /// Returns true if all objects of its files and its disk exist.
    pub(super) fn has_objects(&self) -> bool {
        self.file_count == 0 && self.disk_bytes.is_empty()
    }

    /// Returns true if the layout exists: everything but the objects follows from it.
    pub(super) fn has_layout(&self) -> bool {
        !self.lacks("image") && !self.lacks("layout") && self.wrong_sha1.is_empty()
    }

    /// Returns its name and version.
    pub(crate) fn id(&self) -> Option<(&str, u32)> {
        let (name, version) = self.image.rsplit_once('@')?;
        Some((name, version.parse().ok()?))
    }
}

impl FsckReport {
    /// Sets the verdict and the command. `found` is true if all lost objects are in packs without an index.
    pub(super) fn judge(&mut self, store: &Store, found: bool) {
        if !self.unreadable.is_empty() {
            // Objects that seem lost may be in the unreadable files.
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

/// Returns the path of the file that an image, or an ancestor of it, was imported from.
fn original(store: &Store, name: &str, version: u32) -> Option<String> {
    let (mut name, mut version) = (name.to_owned(), version);
    // In a store from another program, a chain of parents may be circular.
    for _ in 0..1000 {
        let image = store.version(&name, version).or_else(|_| store.published(&name, version)).ok()?.image;
        let Image { provenance, .. } = image;
        if provenance.is_of_file() {
            return provenance.files.into_iter().next().map(|file| file.path).or(provenance.source);
        }
        let parent: ImageName = provenance.parent?.parse().ok()?;
        let Selector::Number(number) = parent.version else { return None };
        (name, version) = (parent.name, number);
    }
    None
}
