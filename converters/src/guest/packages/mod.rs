//! The packages of an image, read from the files of its dpkg, rpm and apk databases and from the registry of Windows.
//!
//! Nothing on the image is run. A damaged database yields the packages that can still be read, and a complaint.

mod apk;
mod dpkg;
mod paths;
mod rpm;
mod scope;
mod windows;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use mif_formats::mif::manifest::Row;
use mif_formats::mif::packages::{self, Package};

use self::paths::Paths;
use self::scope::{At, Scope};
use super::registry;
use crate::error::{Error, Result};
use crate::image::{OpenImage, Origin, stored_tree};
use crate::store::Objects;
use crate::tree::mounts::Devices;
use crate::tree::view::Tree;

/// The maximum size of a database in bytes, because it is read into memory. With thousands of packages, a database
/// takes some tens of megabytes.
const MAX_DATABASE: u64 = 256 << 20;

/// The directories of package databases. A file is ignored unless it lies under one of these directories.
const FOLDERS: &[&str] = &[
    "/var/lib/dpkg/",
    "/var/lib/rpm/",
    "/usr/lib/sysimage/rpm/",
    "/usr/share/rpm/",
    "/lib/apk/db/",
    "/usr/lib/apk/db/",
];

/// The packages found in a tree.
pub(crate) struct FoundPackages {
    /// Sorted by volume, manager, name and architecture.
    pub(crate) packages: Vec<Package>,
    /// The licences, where the database has them.
    pub(crate) licences: HashMap<Identity, String>,
    /// Warnings about what could not be read, as sentences.
    pub(crate) complaints: Vec<String>,
}

/// What identifies a package in an image: volume, manager, name, version and architecture.
pub(crate) type Identity = (String, String, String, String, Option<String>);

pub(crate) fn identity(package: &Package) -> Identity {
    let Package { volume, manager, name, version, architecture, .. } = package;
    (volume.clone(), manager.clone(), name.clone(), version.clone(), architecture.clone())
}

impl FoundPackages {
    fn of(packages: Vec<Package>) -> Self {
        FoundPackages { packages, licences: HashMap::new(), complaints: Vec::new() }
    }

    /// Adds a package of whose licence the database says this.
    fn add(&mut self, package: Package, licence: Option<String>) {
        let licence = licence.filter(|text| !text.trim().is_empty());
        self.licences.extend(licence.map(|text| (identity(&package), text)));
        self.packages.push(package);
    }
}

/// Returns the packages of an image. Calls `tree` only if the image is not stored.
pub(crate) fn of_image<T: std::borrow::Borrow<Tree>>(
    image: &OpenImage,
    tree: impl FnOnce() -> Result<T>,
) -> Result<FoundPackages> {
    match &image.origin {
        Origin::Stored { stored, .. } => Ok(FoundPackages::of(stored.packages()?)),
        Origin::File { .. } => Ok(read(tree()?.borrow())),
    }
}

/// Reads the packages of a tree: of each root filesystem with its mounts, and of each other volume.
pub(crate) fn read(tree: &Tree) -> FoundPackages {
    let mut found = FoundPackages::of(Vec::new());
    let is_part = |volume: &&str| tree.roots().iter().any(|root| root.has_volume(volume));
    let roots = tree.roots().iter().map(|root| Scope { tree, at: At::Root(root) });
    let alone = tree.volumes().into_iter().filter(|volume| !is_part(volume));
    let alone = alone.map(|volume| Scope { tree, at: At::Volume(volume) });
    for scope in roots.chain(alone) {
        let databases = Databases { tree, scope: &scope, paths: Paths::new(&scope) };
        for read in [dpkg::read, rpm::read, apk::read, windows::read] {
            if let Err(e) = read(&databases, &mut found) {
                found.complaints.push(format!("packages on {}: {e}", scope.volume()));
            }
        }
    }
    let all = found.packages.len();
    found.packages.retain(Package::fits);
    if found.packages.len() < all {
        let left_out = all - found.packages.len();
        found
            .complaints
            .push(format!("{left_out} packages were left out, because their paths or texts are too long"));
    }
    found.packages.sort();
    found
}

/// Makes the packages table for a manifest of `rows`, whose content is in the store. Also returns complaints.
pub(crate) fn table<'r>(
    rows: impl Into<Cow<'r, [Row]>>,
    objects: &Arc<Objects>,
    devices: Devices<'_>,
) -> Result<(Vec<u8>, Vec<String>)> {
    let rows = rows.into();
    // Without a database, there is nothing to read.
    let found = if database_rows(&rows).next().is_some() {
        read(&stored_tree(rows.into_owned(), objects, devices))
    } else {
        FoundPackages::of(Vec::new())
    };
    Ok((packages::write(&found.packages)?, found.complaints))
}

/// Returns the rows that determine the packages: if these rows are equal, so are the packages. Any directory in a
/// database's path may be a volume of its own, whose paths begin there, or a subvolume, which lies anywhere.
pub(crate) fn database_rows(rows: &[Row]) -> impl Iterator<Item = &Row> {
    let is_below = |path: &[u8], folder: &str| {
        let slashes = folder.match_indices('/').map(|(i, _)| &folder[i..]).filter(|rest| rest.len() > 1);
        slashes.into_iter().any(|rest| path.starts_with(rest.as_bytes()))
    };
    let is_in_subvolume = |row: &Row| {
        let below = |folder: &&str| {
            let slashes = folder.match_indices('/').map(|(i, _)| &folder[i..]).filter(|rest| rest.len() > 1);
            slashes.into_iter().any(|rest| memchr::memmem::find(&row.path, rest.as_bytes()).is_some())
        };
        row.node.subvolume.is_some() && (row.path.ends_with(b"/etc/fstab") || FOLDERS.iter().any(below))
    };
    rows.iter().filter(move |row| {
        row.path == b"/etc/fstab"
            || registry::is_software(&row.path)
            || FOLDERS.iter().any(|folder| is_below(&row.path, folder))
            || is_in_subvolume(row)
    })
}

/// The databases of a system.
struct Databases<'a> {
    tree: &'a Tree,
    scope: &'a Scope<'a>,
    paths: Paths<'a>,
}

impl Databases<'_> {
    /// Returns the volume that is reported for its packages.
    fn volume(&self) -> &str {
        self.scope.volume()
    }

    /// Returns the row of a path. Follows symlinks.
    fn row(&self, path: &str) -> Option<usize> {
        self.scope.row(path.as_bytes())
    }

    /// Reads a whole file; returns `None` if it does not exist.
    fn file(&self, path: &str) -> Result<Option<Vec<u8>>> {
        self.row(path).map(|row| self.content(row)).transpose()
    }

    fn content(&self, row: usize) -> Result<Vec<u8>> {
        let content = self.tree.content(row)?;
        let len = content.len();
        if len > MAX_DATABASE {
            let path = self.tree.rows()[row].path_text();
            return Err(Error::unsupported(format!("{path}: has {len} bytes, more than {MAX_DATABASE}")));
        }
        Ok(content.read_vec(0, len as usize)?)
    }

    fn package(&self, manager: &str, name: String, version: String) -> Package {
        Package {
            volume: self.volume().to_owned(),
            manager: manager.to_owned(),
            name,
            version,
            architecture: None,
            status: "installed".to_owned(),
            source: None,
            files: Vec::new(),
        }
    }
}

/// Returns `bytes` as text, with replacement characters for invalid UTF-8.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
