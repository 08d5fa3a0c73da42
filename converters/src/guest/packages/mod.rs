//! The packages of an image, read from the files of its dpkg, rpm and apk databases.
//!
//! Nothing on the image is run. A database that is damaged gives the packages that can still be read, and a complaint.

mod apk;
mod dpkg;
mod paths;
mod rpm;
mod scope;

use std::borrow::Cow;
use std::sync::Arc;

use mif_formats::mif::manifest::Row;
use mif_formats::mif::packages::{self, Package};

use self::paths::Paths;
use self::scope::{At, Scope};
use crate::error::{Error, Result};
use crate::image::{OpenImage, Origin, stored_tree};
use crate::store::Objects;
use crate::tree::mounts::Devices;
use crate::tree::view::Tree;

/// The largest database that is read, in bytes: it is held in memory. Of a system with thousands of packages it has some
/// tens of megabytes.
const MAX_DATABASE: u64 = 256 << 20;

/// Where package managers keep what they know: a file that lies below none of these has no say.
const FOLDERS: &[&str] = &[
    "/var/lib/dpkg/",
    "/var/lib/rpm/",
    "/usr/lib/sysimage/rpm/",
    "/usr/share/rpm/",
    "/lib/apk/db/",
    "/usr/lib/apk/db/",
];

/// What is known of the packages of a tree.
pub(crate) struct FoundPackages {
    /// By volume, manager, name and architecture.
    pub(crate) packages: Vec<Package>,
    /// Warnings about what could not be read, as sentences.
    pub(crate) complaints: Vec<String>,
}

/// The packages of an image, of which the tree is asked for if it is not stored.
pub(crate) fn of_image<T: std::borrow::Borrow<Tree>>(
    image: &OpenImage,
    tree: impl FnOnce() -> Result<T>,
) -> Result<FoundPackages> {
    match &image.origin {
        Origin::Stored { stored, .. } => {
            Ok(FoundPackages { packages: stored.packages()?, complaints: Vec::new() })
        }
        Origin::File { .. } => Ok(read(tree()?.borrow())),
    }
}

/// Reads the packages of a tree: of each root filesystem with what its fstab mounts, and of each volume that is neither.
pub(crate) fn read(tree: &Tree) -> FoundPackages {
    let mut found = FoundPackages { packages: Vec::new(), complaints: Vec::new() };
    let is_part = |volume: &&str| {
        tree.roots().iter().any(|root| root.volume == *volume || root.point_of(volume).is_some())
    };
    let roots = tree.roots().iter().map(|root| Scope { tree, at: At::Root(root) });
    let alone = tree.volumes().into_iter().filter(|volume| !is_part(volume));
    let alone = alone.map(|volume| Scope { tree, at: At::Volume(volume) });
    for scope in roots.chain(alone) {
        let databases = Databases { tree, scope: &scope, paths: Paths::new(&scope) };
        for read in [dpkg::read, rpm::read, apk::read] {
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

/// The table of packages to stand beside a manifest of `rows`, whose content is in the store; and what could not be
/// read.
pub(crate) fn table<'r>(
    rows: impl Into<Cow<'r, [Row]>>,
    objects: &Arc<Objects>,
    devices: Devices<'_>,
) -> Result<(Vec<u8>, Vec<String>)> {
    let rows = rows.into();
    // Without a database there is no need to look.
    let found = if database_rows(&rows).next().is_some() {
        read(&stored_tree(rows.into_owned(), objects, devices))
    } else {
        FoundPackages { packages: Vec::new(), complaints: Vec::new() }
    };
    Ok((packages::write(&found.packages)?, found.complaints))
}

/// The rows that say what packages there are: where they are the same, the packages are. Any part of a database's path
/// may be a volume of its own, whose paths begin behind it.
pub(crate) fn database_rows(rows: &[Row]) -> impl Iterator<Item = &Row> {
    let is_below = |path: &[u8], folder: &str| {
        let slashes = folder.match_indices('/').map(|(i, _)| &folder[i..]).filter(|rest| rest.len() > 1);
        slashes.into_iter().any(|rest| path.starts_with(rest.as_bytes()))
    };
    rows.iter().filter(move |row| {
        row.path == b"/etc/fstab" || FOLDERS.iter().any(|folder| is_below(&row.path, folder))
    })
}

/// The databases of a system.
struct Databases<'a> {
    tree: &'a Tree,
    scope: &'a Scope<'a>,
    paths: Paths<'a>,
}

impl Databases<'_> {
    /// The volume that is reported for its packages.
    fn volume(&self) -> &str {
        self.scope.volume()
    }

    /// The row of a path, symlinks followed.
    fn row(&self, path: &str) -> Option<usize> {
        self.scope.row(path.as_bytes())
    }

    /// A whole file; none if it is not there.
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

/// `bytes` as text; what is not UTF-8 is replaced.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
