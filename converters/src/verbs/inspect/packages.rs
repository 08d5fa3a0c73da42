//! `packages`: lists the packages of an image, or of all images of a store. Images that are in the catalog of the store are
//! answered from there ([`covered`](super::covered)), the others from their own tables.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use mif_formats::mif::catalog::{Covered, Kind};
use mif_formats::mif::manifest::columns::Group;
use mif_formats::mif::packages::{Package, Packages, name_bounds, packages_at, rows_named};
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
use crate::verbs::inspect::covered::{Files, Question, Wanted, ask, may_begin};

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
            let question = Named { query, pattern: pattern.as_ref() };
            let mut found = ask(&store, &images, &question, progress)?;
            let left: Vec<usize> = (0..images.len()).filter(|image| !found.contains_key(image)).collect();
            let tables = Tables::default();
            let read = in_parallel(&left, progress, |image| {
                let (name, version) = &images[*image];
                let found = stored(&store, name, *version, &question, &tables);
                Ok(found.map_err(|e| DamagedImage::new(name, *version, &e)))
            })?;
            for (image, read) in left.into_iter().zip(read) {
                match read {
                    Ok((packages, warnings)) => {
                        found.insert(image, packages);
                        report.warnings.extend(warnings);
                    }
                    Err(damaged) => report.damaged.push(damaged),
                }
            }
            report.packages = found.into_values().flatten().collect();
        }
    }
    Ok(report)
}

/// The packages that the question asks for, of each table that was read, by the digest of its file: clones have the same one.
#[derive(Default)]
struct Tables(Mutex<HashMap<String, Arc<Chosen>>>);

/// Packages without their paths, each with the number of them; `None` for a table without packages.
type Chosen = Option<Vec<(Package, usize)>>;

impl Tables {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Chosen>>> {
        self.0.lock().expect("no thread panics while it holds this")
    }

    /// Reads an image's table, which is compared with its digest, and decodes it if it is the first of its kind.
    fn chosen(&self, stored: &StoredImage, question: &Named<'_>) -> Result<Arc<Chosen>> {
        let file = stored.packages_file()?;
        let digest = stored.image.tables.get(PACKAGES).map(String::as_str).unwrap_or_default();
        if let Some(known) = self.lock().get(digest) {
            return Ok(known.clone());
        }
        let wrong = |e| damaged(&stored.image.id(), &e);
        let table = Packages::open(file.into()).map_err(wrong)?;
        let Named { query, pattern } = question;
        let chosen = match table.is_empty() {
            true => None,
            false => {
                let named = table.without_files(|name| query.wants_name(*pattern, name)).map_err(wrong)?;
                let wants = |(p, _): &(Package, usize)| query.wants_version(&p.manager, &p.version);
                Some(named.into_iter().filter(wants).collect())
            }
        };
        let chosen = Arc::new(chosen);
        self.lock().insert(digest.to_owned(), chosen.clone());
        Ok(chosen)
    }
}

/// Returns the packages of a stored image that the query wants, and warnings.
fn stored(
    store: &Store,
    name: &str,
    version: u32,
    question: &Named<'_>,
    tables: &Tables,
) -> Result<(Vec<ImagePackage>, Vec<String>)> {
    let id = format!("{name}@{version}");
    let chosen = tables.chosen(&store.version(name, version)?, question)?;
    let Some(chosen) = &*chosen else {
        let tree = OpenImage::stored(store, &id.parse()?)?.tree()?;
        let warnings = without_database(&tree, [].into_iter());
        return Ok((Vec::new(), warnings.into_iter().map(|warning| format!("{id}: {warning}")).collect()));
    };
    Ok((chosen.iter().map(|(package, files)| of(&id, package.clone(), *files)).collect(), Vec::new()))
}

/// A query, and the pattern in it.
struct Named<'a> {
    query: &'a PackageQuery,
    pattern: Option<&'a glob::Pattern>,
}

impl Named<'_> {
    /// Describes a package with its number of paths, if its version is wanted.
    fn describe_one(&self, image: &str, (package, files): (Package, usize)) -> Option<ImagePackage> {
        let is_wanted = self.query.wants_version(&package.manager, &package.version);
        is_wanted.then(|| of(image, package, files))
    }
}

impl Question for Named<'_> {
    type Row = ImagePackage;
    type OfImage = ();
    type Prepared<'a> = ();

    fn kind(&self) -> Kind {
        Kind::Packages
    }

    fn files(&self) -> Files {
        Files { record: true, digests: false, packages: true }
    }

    fn of_image(&self, image: &Covered) -> Option<()> {
        // Without packages, the image's system says whether some may be missing.
        (image.packages > 0 && image.packages_bytes.is_some()).then_some(())
    }

    fn prepare(&self, _: &[Wanted<'_, ()>]) {}

    fn rows(&self, group: &Group<'_>, (): &()) -> mif_formats::Result<Vec<usize>> {
        let plain = |pattern: &glob::Pattern| {
            pattern.as_str().split(['*', '?', '[']).next().unwrap_or_default().to_owned()
        };
        let prefix = self.pattern.map(plain).unwrap_or_default();
        match name_bounds(group) {
            Some((low, high)) if !may_begin(prefix.as_bytes(), low, high) => Ok(Vec::new()),
            _ => rows_named(group, |name| self.query.wants_name(self.pattern, name)),
        }
    }

    fn describe(
        &self,
        group: &Group<'_>,
        rows: &[usize],
        images: &[&str],
    ) -> mif_formats::Result<Vec<Option<ImagePackage>>> {
        let packages = packages_at(group, rows)?.into_iter().zip(images);
        Ok(packages.map(|(package, image)| self.describe_one(image, package)).collect())
    }
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
