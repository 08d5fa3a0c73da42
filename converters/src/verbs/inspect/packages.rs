//! `packages`: lists the packages of an image, or of all images of a store.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use mif_formats::mif::packages::{Package, Packages};
use serde::Serialize;

use crate::error::{Error, Result, damaged};
use crate::guest::packages::of_image;
use crate::guest::probe::os_of;
use crate::guest::versions::{compare_versions, version_key};
use crate::image::OpenImage;
use crate::store::{DamagedImage, PACKAGES, Place, Store, StoredImage};
use crate::task::pool::in_parallel;
use crate::task::progress::Progress;
use crate::tree::view::Tree;
use crate::verbs::choose::{ImageFilter, Versions, named};

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
    fn wants_name(&self, pattern: Option<&glob::Pattern>, name: &str) -> bool {
        pattern.is_none_or(|pattern| pattern.matches(name))
    }

    fn wants_version(&self, manager: &str, version: &str) -> bool {
        let order = |other: &String| compare_versions(manager, version, other);
        self.below.as_ref().is_none_or(|other| order(other).is_lt())
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
    match image {
        Some(image) => {
            let tree = image.tree()?;
            let found = of_image(image, || Ok(&tree))?;
            report.warnings = found.complaints;
            report.warnings.extend(without_database(&tree, found.packages.iter().map(|p| &*p.volume)));
            let wanted = found.packages.into_iter().filter(|package| {
                query.wants_name(pattern.as_ref(), &package.name)
                    && query.wants_version(&package.manager, &package.version)
            });
            let told = wanted.map(|package| {
                let files = package.files.len();
                of(&image.label, package, files)
            });
            report.packages = told.collect();
        }
        None => {
            let store = Store::open(store, progress)?;
            let (images, damaged) = named(&store, &[], &query.images, Versions::Newest, progress)?;
            report.damaged = damaged;
            let tables = Tables::default();
            let read = in_parallel(&images, progress, |(name, version)| {
                let found = stored(&store, name, *version, pattern.as_ref(), query, &tables);
                Ok(found.map_err(|e| DamagedImage::new(name, *version, &e)))
            })?;
            for image in read {
                match image {
                    Ok((packages, warnings)) => {
                        report.packages.extend(packages);
                        report.warnings.extend(warnings);
                    }
                    Err(damaged) => report.damaged.push(damaged),
                }
            }
        }
    }
    Ok(report)
}

/// The wanted packages of each table that was read, by the digest of its file: clones have the same one.
#[derive(Default)]
struct Tables(Mutex<HashMap<String, Arc<Wanted>>>);

/// Packages without their paths, each with the number of them; `None` for a table without packages.
type Wanted = Option<Vec<(Package, usize)>>;

impl Tables {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Wanted>>> {
        self.0.lock().expect("no thread panics while it holds this")
    }

    /// Reads an image's table, which is compared with its digest, and decodes it if it is the first of its kind.
    fn wanted(
        &self,
        stored: &StoredImage,
        pattern: Option<&glob::Pattern>,
        query: &PackageQuery,
    ) -> Result<Arc<Wanted>> {
        let file = stored.packages_file()?;
        let digest = stored.image.tables.get(PACKAGES).map(String::as_str).unwrap_or_default();
        if let Some(known) = self.lock().get(digest) {
            return Ok(known.clone());
        }
        let wrong = |e| damaged(&stored.image.id(), &e);
        let table = Packages::open(file.into()).map_err(wrong)?;
        let wanted = match table.is_empty() {
            true => None,
            false => {
                let named = table.without_files(|name| query.wants_name(pattern, name)).map_err(wrong)?;
                let wants = |(p, _): &(Package, usize)| query.wants_version(&p.manager, &p.version);
                Some(named.into_iter().filter(wants).collect())
            }
        };
        let wanted = Arc::new(wanted);
        self.lock().insert(digest.to_owned(), wanted.clone());
        Ok(wanted)
    }
}

/// Returns the packages of a stored image that the query wants, and warnings.
fn stored(
    store: &Store,
    name: &str,
    version: u32,
    pattern: Option<&glob::Pattern>,
    query: &PackageQuery,
    tables: &Tables,
) -> Result<(Vec<ImagePackage>, Vec<String>)> {
    let id = format!("{name}@{version}");
    let wanted = tables.wanted(&store.version(name, version)?, pattern, query)?;
    let Some(wanted) = &*wanted else {
        let tree = OpenImage::stored(store, &id.parse()?)?.tree()?;
        let warnings = without_database(&tree, [].into_iter());
        return Ok((Vec::new(), warnings.into_iter().map(|warning| format!("{id}: {warning}")).collect()));
    };
    Ok((wanted.iter().map(|(package, files)| of(&id, package.clone(), *files)).collect(), Vec::new()))
}

/// Describes a package of an image that has this number of paths.
fn of(image: &str, package: Package, files: usize) -> ImagePackage {
    let Package { volume, manager, name, version, architecture, status, source, .. } = package;
    let files = files as u64;
    let version_key = version_key(&manager, &version);
    let image = image.to_owned();
    ImagePackage { image, volume, manager, name, version, version_key, architecture, status, source, files }
}

/// Returns a sentence for each system of the tree without packages: packages may still be installed.
/// `with_packages` are the volumes with packages.
fn without_database<'v>(tree: &Tree, with_packages: impl Iterator<Item = &'v str>) -> Vec<String> {
    let with_packages: HashSet<&str> = with_packages.collect();
    let systems = tree.roots().iter().filter(|root| !with_packages.contains(root.volume()));
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
