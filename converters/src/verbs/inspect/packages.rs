//! `packages`: lists the packages of an image, or of all images of a store.

use std::path::Path;

use mif_formats::mif::packages::Package;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::guest::packages::of_image;
use crate::guest::probe::os_of;
use crate::image::OpenImage;
use crate::store::{DamagedImage, Store};
use crate::task::progress::{self, Progress};
use crate::tree::mounts::Root;
use crate::tree::view::Tree;

/// The packages of images.
#[derive(Debug, Clone, Serialize)]
pub struct PackagesReport {
    /// Each package of each image, by image, volume, manager and name.
    pub packages: Vec<ImagePackage>,
    /// Damaged images, which were skipped.
    pub damaged: Vec<DamagedImage>,
    /// Warnings about what could not be read, as sentences.
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
    /// The number of its paths.
    pub files: u64,
}

/// Returns the packages of `image`, or of the newest version of every image of the store. With `name`, a pattern with
/// `*` and `?`, only the packages whose names match.
pub fn packages(
    store: &Path,
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
                progress::check(progress)?;
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
