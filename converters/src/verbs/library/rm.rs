//! `rm`: removes versions of images. Their numbers are not reused; their objects stay until `gc`.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::catalog::forget_removed;
use crate::error::{Error, Result};
use crate::store::{ImageName, Selector, Store};

/// The versions and tags that were removed.
#[derive(Debug, Clone, Serialize)]
pub struct RmReport {
    /// The versions, as `name@version`.
    pub removed: Vec<String>,
    /// Tags of these versions, which were removed too, as `name@tag`.
    pub tags: Vec<String>,
    /// True if nothing was removed, because this is a dry run.
    pub dry_run: bool,
}

/// Options of `rm`.
#[derive(Debug, Clone, Copy, Default)]
pub struct RmOptions {
    /// Remove tagged versions and their tags too.
    pub force: bool,
    /// Only report what would be removed.
    pub dry_run: bool,
}

/// Removes versions of images: the version that a name specifies, or all versions if it specifies none. Unless forced,
/// nothing is removed if any of them has a tag. Unless this is a dry run, the store must have been opened for removal.
pub fn rm(store: &Store, names: &[ImageName], options: RmOptions) -> Result<RmReport> {
    let RmOptions { force, dry_run } = options;
    if !dry_run {
        store.check_may_remove()?;
    }
    let mut chosen: Vec<(String, u32)> = Vec::new();
    for name in names {
        match name.version {
            // A version with a damaged record can be removed too.
            Selector::Newest => {
                let versions = known_versions(store, &name.name)?;
                if versions.is_empty() {
                    store.image(name)?;
                }
                chosen.extend(versions.into_iter().map(|version| (name.name.clone(), version)));
            }
            Selector::Number(version) if known_versions(store, &name.name)?.contains(&version) => {
                chosen.push((name.name.clone(), version));
            }
            _ => chosen.push((name.name.clone(), store.image(name)?.image.version)),
        }
    }
    chosen.sort();
    chosen.dedup();
    let mut tags = Vec::new();
    for (name, version) in &chosen {
        tags.extend(store.tags(name)?.into_iter().filter(|tag| tag.version == *version));
    }
    if let (Some(tag), false) = (tags.first(), force) {
        return Err(Error::usage(format!("{}@{} has the tag {}", tag.name, tag.version, tag.tag))
            .advise("Nothing was removed; pass --force to remove tagged versions and their tags"));
    }
    for tag in tags.iter().filter(|_| !dry_run) {
        store.remove_tag(&tag.name, &tag.tag)?;
    }
    let mut removed = Vec::new();
    for (name, version) in chosen {
        if !dry_run {
            store.remove_version(&name, version)?;
        }
        removed.push(format!("{name}@{version}"));
    }
    if !dry_run {
        forget_removed(store)?;
        store.finish_removals()?;
    }
    let tags = tags.into_iter().map(|tag| format!("{}@{}", tag.name, tag.tag)).collect();
    Ok(RmReport { removed, tags, dry_run })
}

/// Returns the versions of an image, including vanished ones, which `rm` can remove too.
fn known_versions(store: &Store, name: &str) -> Result<BTreeSet<u32>> {
    let vanished = store.vanished()?.into_iter().filter(|(of, _)| of == name).map(|(_, version)| version);
    Ok(store.versions(name)?.into_iter().chain(vanished).collect())
}
