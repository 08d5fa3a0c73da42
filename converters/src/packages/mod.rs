//! The packages of an image: what the databases of dpkg, rpm and apk on it say, read as files.
//!
//! Nothing on the image is run. A database that is damaged gives the packages that can still be read, and a complaint.

mod apk;
mod dpkg;
mod paths;
mod rpm;

use std::borrow::Cow;
use std::sync::Arc;

use mif_formats::mif::manifest::Row;
use mif_formats::mif::packages;
pub use mif_formats::mif::packages::Package;
use serde::Serialize;

use self::paths::Paths;
use crate::image::stored_tree;
use crate::mounts::{Devices, Root};
use crate::progress::Progress;
use crate::store::{DamagedImage, Objects, Store};
use crate::{Error, OpenImage, Origin, Result, Tree, VolumePath};

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

/// The packages of images.
#[derive(Debug, Clone, Serialize)]
pub struct PackagesReport {
    /// One entry for each package of each image, by image, volume, manager and name.
    pub packages: Vec<ImagePackage>,
    /// Images that were passed over, for something of them is damaged.
    pub damaged: Vec<DamagedImage>,
    /// What could not be read, each a sentence.
    pub warnings: Vec<String>,
}

/// A package of an image.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct ImagePackage {
    /// The image, as the user called it, or as `name@version`.
    pub image: String,
    pub volume: String,
    pub manager: String,
    pub name: String,
    pub version: String,
    pub architecture: Option<String>,
    pub status: String,
    pub source: Option<String>,
    /// How many paths it has.
    pub files: u64,
}

/// What is known of the packages of a tree.
pub(crate) struct Found {
    /// By volume, manager, name and architecture.
    pub(crate) packages: Vec<Package>,
    /// What could not be read, each a sentence.
    pub(crate) complaints: Vec<String>,
}

/// The packages of `image`, or of the newest version of all images of the store; of those whose name matches `name`, a
/// pattern with `*` and `?`, if it is given.
pub fn packages(
    store: &std::path::Path,
    image: Option<&OpenImage>,
    name: Option<&str>,
    progress: &dyn Progress,
) -> Result<PackagesReport> {
    let pattern = name.map(glob::Pattern::new).transpose();
    let pattern = pattern.map_err(|e| Error::usage(format!("\"{}\": {e}", name.unwrap_or_default())))?;
    let mut report = PackagesReport { packages: Vec::new(), damaged: Vec::new(), warnings: Vec::new() };
    let mut damaged = Vec::new();
    let mut warnings = Vec::new();
    let mut add = |label: &str, packages: Vec<Package>| {
        let wanted =
            packages.into_iter().filter(|p| pattern.as_ref().is_none_or(|pattern| pattern.matches(&p.name)));
        report.packages.extend(wanted.map(|p| ImagePackage {
            image: label.to_owned(),
            volume: p.volume,
            manager: p.manager,
            name: p.name,
            version: p.version,
            architecture: p.architecture,
            status: p.status,
            source: p.source,
            files: p.files.len() as u64,
        }));
    };
    match image {
        Some(image) => {
            let tree = image.tree()?;
            let found = of_image(image, || Ok(&tree))?;
            warnings.extend(found.complaints);
            warnings.extend(without_database(&tree, &found.packages));
            add(&image.label, found.packages);
        }
        None => {
            let store = Store::open(store, progress)?;
            for name in store.names()? {
                crate::progress::check(progress)?;
                let Some(version) = store.versions(&name)?.last().copied() else { continue };
                let id = format!("{name}@{version}");
                let packages = store.version(&name, version).and_then(|stored| {
                    let packages = stored.packages()?;
                    if packages.is_empty() {
                        let tree = OpenImage::stored(&store, &id.parse()?)?.tree()?;
                        let said = without_database(&tree, &packages);
                        warnings.extend(said.into_iter().map(|sentence| format!("{id}: {sentence}")));
                    }
                    Ok(packages)
                });
                match packages {
                    Ok(packages) => add(&id, packages),
                    Err(e) => damaged.push(DamagedImage::new(&name, version, &e)),
                }
            }
        }
    }
    report.damaged = damaged;
    report.warnings.extend(warnings);
    Ok(report)
}

/// The packages of an image, of which the tree is asked for if it is not stored.
pub(crate) fn of_image<T: std::borrow::Borrow<Tree>>(
    image: &OpenImage,
    tree: impl FnOnce() -> Result<T>,
) -> Result<Found> {
    match &image.origin {
        Origin::Stored { stored, .. } => Ok(Found { packages: stored.packages()?, complaints: Vec::new() }),
        Origin::File { .. } => Ok(read(tree()?.borrow())),
    }
}

/// Reads the packages of a tree: of each root filesystem with what its fstab mounts, and of each volume that is neither.
pub(crate) fn read(tree: &Tree) -> Found {
    let mut found = Found { packages: Vec::new(), complaints: Vec::new() };
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
            .push(format!("packages: {left_out} are left out: their paths or texts are too long"));
    }
    found.packages.sort();
    found
}

/// A sentence for each system of the tree of which no package was found: that does not mean that none is installed.
fn without_database(tree: &Tree, packages: &[Package]) -> Vec<String> {
    let has_packages = |root: &&Root| packages.iter().any(|package| package.volume == root.volume);
    let systems = tree.roots().iter().filter(|root| !has_packages(root));
    let sentences = systems.filter_map(|root| {
        let os = crate::info::os_of(tree, root)?;
        Some(format!(
            "{}: {}: no package database found (looked for dpkg, rpm and apk)",
            root.volume, os.name
        ))
    });
    sentences.collect()
}

/// The name of the table beside a manifest.
pub(crate) const TABLE: &str = "packages.parquet";

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
        Found { packages: Vec::new(), complaints: Vec::new() }
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

/// Where databases are looked for.
struct Scope<'a> {
    tree: &'a Tree,
    at: At<'a>,
}

enum At<'a> {
    /// A root filesystem, with what its fstab mounts.
    Root(&'a Root),
    /// A volume by itself.
    Volume(&'a str),
}

impl Scope<'_> {
    fn volume(&self) -> &str {
        match self.at {
            At::Root(root) => &root.volume,
            At::Volume(volume) => volume,
        }
    }

    /// The row of a path, symlinks followed.
    fn row(&self, path: &[u8]) -> Option<usize> {
        match self.at {
            At::Root(root) => self.tree.find_in(root, path, true).ok(),
            At::Volume(volume) => {
                let path = VolumePath { volume: Some(volume.to_owned()), path: path.to_vec() };
                self.tree.find(&path, true).ok()
            }
        }
    }
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
