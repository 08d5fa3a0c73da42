//! Finds the packages that own paths, and the packages that were added, removed and changed.

use std::collections::{BTreeMap, HashMap};

use super::report::{Change, Group, group_by};
use mif_formats::mif::packages::Package;

/// The group of paths without a package.
const NOBODY: &str = "(no package)";
/// The group of directories that belong to several packages.
const SEVERAL: &str = "(several packages)";

/// The name of a package, with its architecture if the image has the package for several.
type Name = String;

/// The packages of an image.
struct Owners<'a> {
    /// The version of each by name, with its status unless that is `installed`.
    versions: BTreeMap<Name, String>,
    /// The package by volume and path; `None` if there are several.
    by_path: HashMap<(&'a str, &'a str), Option<Name>>,
}

impl<'a> Owners<'a> {
    fn new(packages: &'a [Package], names: impl Fn(&'a str) -> &'a str) -> Self {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        packages.iter().for_each(|package| *counts.entry(&package.name).or_default() += 1);
        let mut owners = Owners { versions: BTreeMap::new(), by_path: HashMap::new() };
        for package in packages {
            let name = match &package.architecture {
                Some(architecture) if counts[&package.name[..]] > 1 => {
                    format!("{}:{architecture}", package.name)
                }
                _ => package.name.clone(),
            };
            for file in &package.files {
                // A path on another volume than the database's root has its volume as a prefix.
                let qualified = file.split_once(":/").filter(|_| !file.starts_with('/'));
                let (volume, path) = match qualified {
                    Some((volume, _)) => (volume, &file[volume.len() + 1..]),
                    None => (package.volume.as_str(), file.as_str()),
                };
                let owner = owners.by_path.entry((names(volume), path)).or_insert(Some(name.clone()));
                if owner.as_ref() != Some(&name) {
                    *owner = None;
                }
            }
            let version = match &package.status[..] {
                "installed" => package.version.clone(),
                status => format!("{} ({status})", package.version),
            };
            owners.versions.insert(name, version);
        }
        owners
    }

    /// Returns the package of a path on a volume.
    fn of(&self, volume: &str, path: &str) -> Option<Name> {
        let owner = self.by_path.get(&(volume, path))?;
        Some(owner.clone().unwrap_or_else(|| SEVERAL.to_owned()))
    }
}

/// Counts changes by the package that owns the path after the change or, if the path was removed, owned it before. With
/// `all`, also includes packages whose version changed, even if none of their paths did.
pub(super) fn by_package(
    names: &HashMap<String, String>,
    changes: &[Change],
    packages: &[Vec<Package>; 2],
    all: bool,
) -> Vec<Group> {
    let before = Owners::new(&packages[0], |volume| volume);
    let after = Owners::new(&packages[1], |volume| names.get(volume).map_or(volume, String::as_str));
    let mut groups = group_by(changes, |change| {
        let of = |owners: &Owners<'_>| owners.of(&change.volume, &change.path);
        let owner = if change.rows[1].is_some() { of(&after) } else { None };
        owner.or_else(|| of(&before)).unwrap_or_else(|| NOBODY.to_owned())
    });
    if all {
        for name in before.versions.keys().chain(after.versions.keys()) {
            if before.versions.get(name) != after.versions.get(name) {
                groups.entry(name.clone()).or_default();
            }
        }
    }
    let groups = groups.into_iter().map(|(name, counts)| {
        let versions = [&before, &after].map(|owners| owners.versions.get(&name).cloned());
        let is_package = versions.iter().any(Option::is_some);
        Group { name, counts, versions: is_package.then_some(versions) }
    });
    groups.collect()
}
