//! Which images of a store a verb works on: by name, tag, system, age and size. Every verb that takes many images
//! chooses them here.

use std::ops::RangeInclusive;

use glob::{MatchOptions, Pattern};

use crate::error::{Error, Result};
use crate::guest::probe::os_of;
use crate::image::OpenImage;
use crate::store::{DamagedImage, Image, ImageName, Selector, Store};
use crate::task::pool::in_parallel;
use crate::task::progress::{self, Progress};

/// Criteria for images. An image must match every criterion that is given; of several patterns, one is enough.
#[derive(Debug, Clone, Default)]
pub struct ImageFilter {
    /// Patterns for the name, with `*`, `?` and `[a-z]`.
    pub names: Vec<String>,
    /// Patterns for a tag of the version.
    pub tags: Vec<String>,
    /// Patterns for the operating system: its id, its id and version (`debian 12`), or its name, in any case.
    pub systems: Vec<String>,
    /// Made before this many seconds ago.
    pub older_than: Option<u64>,
    /// Made within this many seconds.
    pub newer_than: Option<u64>,
    /// The size of the disk in bytes.
    pub disk_size: Option<RangeInclusive<u64>>,
}

/// Which versions of an image count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    /// All of them.
    All,
    /// The newest version that matches.
    Newest,
}

/// The images that match.
#[derive(Debug, Clone, Default)]
pub struct ChosenImages {
    /// By name and version.
    pub images: Vec<Image>,
    /// Images that may match, but cannot be read.
    pub damaged: Vec<DamagedImage>,
}

impl ImageFilter {
    /// Returns true if there are no criteria.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let ImageFilter { names, tags, systems, older_than, newer_than, disk_size } = self;
        names.is_empty()
            && tags.is_empty()
            && systems.is_empty()
            && older_than.is_none()
            && newer_than.is_none()
            && disk_size.is_none()
    }

    /// Returns the images of a store that match. Only a criterion for the system reads more than records.
    pub fn choose(&self, store: &Store, versions: Versions, progress: &dyn Progress) -> Result<ChosenImages> {
        let patterns = |texts: &[String]| -> Result<Vec<Pattern>> {
            let parse = |text: &String| {
                Pattern::new(text).map_err(|e| Error::usage(format!("invalid pattern \"{text}\": {}", e.msg)))
            };
            texts.iter().map(parse).collect()
        };
        let (names, tags, systems) =
            (patterns(&self.names)?, patterns(&self.tags)?, patterns(&self.systems)?);
        let mut chosen = ChosenImages::default();
        let now = store.storage().now();
        for name in store.names()?.into_iter().filter(|name| matches(&names, name)) {
            progress::check(progress)?;
            let tagged: Vec<u32> = match self.tags.is_empty() {
                true => Vec::new(),
                false => {
                    let all = store.tags(&name)?;
                    all.into_iter().filter(|tag| matches(&tags, &tag.tag)).map(|tag| tag.version).collect()
                }
            };
            for version in store.versions(&name)? {
                if !self.tags.is_empty() && !tagged.contains(&version) {
                    continue;
                }
                match store.version(&name, version) {
                    Ok(stored) if self.fits(&stored.image, now) => chosen.images.push(stored.image),
                    Ok(_) => {}
                    Err(e) => chosen.damaged.push(DamagedImage::new(&name, version, &e)),
                }
            }
        }
        if !systems.is_empty() {
            chosen.keep_systems(store, &systems, progress)?;
        }
        if versions == Versions::Newest {
            let images = std::mem::take(&mut chosen.images);
            for image in images {
                match chosen.images.last_mut() {
                    Some(last) if last.name == image.name => *last = image,
                    _ => chosen.images.push(image),
                }
            }
        }
        Ok(chosen)
    }

    /// Like [`ImageFilter::choose`], but fails if no image matches.
    pub fn choose_some(
        &self,
        store: &Store,
        versions: Versions,
        progress: &dyn Progress,
    ) -> Result<ChosenImages> {
        let chosen = self.choose(store, versions, progress)?;
        if chosen.images.is_empty() && chosen.damaged.is_empty() {
            let place = store.storage().place();
            return Err(Error::input(format!("no image in the store {place} matches"))
                .advise("List the images with `mif images`"));
        }
        Ok(chosen)
    }

    /// Returns true if an image has the age and the size.
    fn fits(&self, image: &Image, now: u64) -> bool {
        let age = now.saturating_sub(image.provenance.time);
        self.older_than.is_none_or(|least| age > least)
            && self.newer_than.is_none_or(|most| age <= most)
            && self.disk_size.as_ref().is_none_or(|range| range.contains(&image.disk_size))
    }
}

impl ChosenImages {
    /// Returns the images by number.
    #[must_use]
    pub fn names(&self) -> Vec<ImageName> {
        let name =
            |image: &Image| ImageName { name: image.name.clone(), version: Selector::Number(image.version) };
        self.images.iter().map(name).collect()
    }

    /// Keeps the images with one of these systems.
    fn keep_systems(&mut self, store: &Store, systems: &[Pattern], progress: &dyn Progress) -> Result<()> {
        progress.stage("reading systems", 0);
        let images = std::mem::take(&mut self.images);
        let kept = in_parallel(&images, progress, |image| {
            let name = ImageName { name: image.name.clone(), version: Selector::Number(image.version) };
            let tree = match OpenImage::stored(store, &name).and_then(|image| image.tree()) {
                Ok(tree) => tree,
                Err(e) => return Ok(Err(DamagedImage::new(&image.name, image.version, &e))),
            };
            let is_one = tree.roots().iter().filter_map(|root| os_of(&tree, root)).any(|os| {
                let version = os.version.as_deref().unwrap_or_default();
                let texts = [os.id.clone(), format!("{} {version}", os.id), os.name];
                texts.iter().any(|text| matches(systems, text.trim()))
            });
            Ok(Ok(is_one))
        })?;
        for (image, kept) in images.into_iter().zip(kept) {
            match kept {
                Ok(true) => self.images.push(image),
                Ok(false) => {}
                Err(damaged) => self.damaged.push(damaged),
            }
        }
        Ok(())
    }
}

/// Versions of images, by name and number.
pub(crate) type NamedVersions = Vec<(String, u32)>;

/// Returns the versions of the images `names`, or of all images if there are none, or those that match a filter; and
/// damaged images that may be among them. Without a filter, no record is read.
pub(crate) fn named(
    store: &Store,
    names: &[ImageName],
    filter: &ImageFilter,
    versions: Versions,
    progress: &dyn Progress,
) -> Result<(NamedVersions, Vec<DamagedImage>)> {
    if !filter.is_empty() {
        let chosen = filter.choose_some(store, versions, progress)?;
        let images = chosen.images.into_iter().map(|image| (image.name, image.version));
        return Ok((images.collect(), chosen.damaged));
    }
    let all: Vec<ImageName> = match names.is_empty() {
        true => {
            let newest = |name| ImageName { name, version: Selector::Newest };
            store.names()?.into_iter().map(newest).collect()
        }
        false => names.to_vec(),
    };
    let mut images = NamedVersions::new();
    for name in all {
        let there = store.versions(&name.name)?;
        match (&name.version, there.last()) {
            (Selector::Newest, Some(_)) if versions == Versions::All => {
                images.extend(there.into_iter().map(|version| (name.name.clone(), version)));
            }
            (Selector::Newest, Some(newest)) => images.push((name.name, *newest)),
            // A name without versions was just removed, unless the user named it.
            (Selector::Newest, None) if names.is_empty() => {}
            _ => images.push((name.name.clone(), store.image(&name)?.image.version)),
        }
    }
    images.sort();
    images.dedup();
    Ok((images, Vec::new()))
}

/// Returns true if there are no patterns, or if one matches.
fn matches(patterns: &[Pattern], text: &str) -> bool {
    let options = MatchOptions { case_sensitive: false, ..MatchOptions::new() };
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches_with(text, options))
}
