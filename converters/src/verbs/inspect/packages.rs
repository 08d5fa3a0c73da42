//! `packages`: lists the packages of an image, or of all images of a store.

use mif_formats::mif::packages::Package;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::guest::packages::of_image;
use crate::guest::probe::os_of;
use crate::guest::versions::{compare_versions, version_key};
use crate::image::OpenImage;
use crate::store::{DamagedImage, Place, Store};
use crate::task::progress::{self, Progress};
use crate::tree::mounts::Root;
use crate::tree::view::Tree;
use crate::verbs::choose::{ImageFilter, Versions};

/// The packages of images.
#[derive(Debug, Clone, Serialize)]
pub struct PackagesReport {
    /// Each package of each image, by image, volume, manager and name.
    pub packages: Vec<ImagePackage>,
    /// Damaged images, which were skipped.
    pub damaged: Vec<DamagedImage>,
    /// Warnings about what could not be read, as sentences.
    pub warnings: Vec<String>,
    /// If requested, each package once, with its images; then `packages` is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<PackageGroup>>,
    /// The number of packages or groups that were left out, because only a number of them was requested.
    pub left_out: u64,
}

/// A package, and the images that have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct PackageGroup {
    pub manager: String,
    pub name: String,
    pub version: String,
    pub architecture: Option<String>,
    pub status: String,
    /// The images, in order.
    pub images: Vec<String>,
}

/// Which packages to list. A package must match every criterion that is given.
#[derive(Debug, Clone, Default)]
pub struct PackageQuery {
    /// A pattern for the name, with `*`, `?` and `[a-z]`.
    pub name: Option<String>,
    /// Only versions below this one, in the order of the package's manager.
    pub below: Option<String>,
    /// Only versions above this one.
    pub above: Option<String>,
    /// Only this version.
    pub is: Option<String>,
    /// The images, if all images of the store are listed.
    pub images: ImageFilter,
}

impl PackageQuery {
    fn wants(&self, pattern: Option<&glob::Pattern>, package: &Package) -> bool {
        let order = |other: &String| compare_versions(&package.manager, &package.version, other);
        pattern.is_none_or(|pattern| pattern.matches(&package.name))
            && self.below.as_ref().is_none_or(|other| order(other).is_lt())
            && self.above.as_ref().is_none_or(|other| order(other).is_gt())
            && self.is.as_ref().is_none_or(|other| order(other).is_eq())
    }
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
    /// Text that sorts as the manager sorts the versions of a package.
    pub version_key: String,
    pub architecture: Option<String>,
    pub status: String,
    pub source: Option<String>,
    /// The number of its paths.
    pub files: u64,
}

/// Returns the packages of `image`, or of the newest version of every image of the store that the query chooses.
pub fn packages(
    store: impl Place,
    image: Option<&OpenImage>,
    query: &PackageQuery,
    progress: &dyn Progress,
) -> Result<PackagesReport> {
    let name = query.name.as_deref();
    let pattern = name.map(glob::Pattern::new).transpose();
    let pattern = pattern.map_err(|e| Error::usage(format!("\"{}\": {e}", name.unwrap_or_default())))?;
    let mut report = PackagesReport {
        packages: Vec::new(),
        damaged: Vec::new(),
        warnings: Vec::new(),
        groups: None,
        left_out: 0,
    };
    let mut damaged = Vec::new();
    let mut warnings = Vec::new();
    let mut add = |label: &str, packages: Vec<Package>| {
        let wanted = packages.into_iter().filter(|package| query.wants(pattern.as_ref(), package));
        report.packages.extend(wanted.map(|p| ImagePackage {
            image: label.to_owned(),
            volume: p.volume,
            version_key: version_key(&p.manager, &p.version),
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
            let chosen = match query.images.is_empty() {
                true => newest(&store)?,
                false => {
                    let chosen = query.images.choose_some(&store, Versions::Newest, progress)?;
                    damaged.extend(chosen.damaged.iter().cloned());
                    chosen.images.into_iter().map(|image| (image.name, image.version)).collect()
                }
            };
            for (name, version) in chosen {
                progress::check(progress)?;
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

/// Returns the newest version of each image.
fn newest(store: &Store) -> Result<Vec<(String, u32)>> {
    let mut newest = Vec::new();
    for name in store.names()? {
        if let Some(version) = store.versions(&name)?.last() {
            newest.push((name, *version));
        }
    }
    Ok(newest)
}

/// Returns a sentence for each system of the tree without packages: packages may still be installed.
fn without_database(tree: &Tree, packages: &[Package]) -> Vec<String> {
    let has_packages = |root: &&Root| packages.iter().any(|package| package.volume == root.volume());
    let systems = tree.roots().iter().filter(|root| !has_packages(root));
    let sentences = systems.filter_map(|root| {
        let os = os_of(tree, root)?;
        Some(format!(
            "{}: {}: no package database found (looked for dpkg, rpm, apk and the registry of Windows)",
            root.volume(),
            os.name
        ))
    });
    sentences.collect()
}
