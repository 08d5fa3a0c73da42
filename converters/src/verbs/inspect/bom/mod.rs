//! A bill of materials: the systems and packages of an image, as scanners of vulnerabilities and licences take them.
//!
//! The same image gives the same bytes: the time is that of the image, and the document's identity is a digest of what it
//! says. Scanners find nothing without the system that the packages belong to, so every package is related to it and its
//! package URL names it.

mod cyclonedx;
mod purl;
mod spdx;

use mif_formats::fs::Timestamp;
use mif_formats::mif::packages::Package;
use mif_formats::uuid;
use serde::Serialize;

use crate::error::Result;
use crate::guest::os::Os;
use crate::guest::packages::{identity, read};
use crate::guest::probe::os_of;
use crate::image::{OpenImage, Origin};
use crate::notation::time_text;

/// The format of a bill of materials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BomFormat {
    /// SPDX 2.3.
    Spdx,
    /// `CycloneDX` 1.6.
    CycloneDx,
}

/// A bill of materials.
pub struct Bom {
    /// The document.
    pub document: Document,
    /// The number of packages in it.
    pub packages: usize,
    /// Warnings about what could not be read, as sentences.
    pub warnings: Vec<String>,
}

/// A document in one of the formats.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Document {
    /// An SPDX document.
    Spdx(Box<spdx::Document>),
    /// A `CycloneDX` document.
    CycloneDx(Box<cyclonedx::Document>),
}

/// The systems and packages of an image.
struct Inventory {
    /// The image, as the user called it without directories, or as `name@version`.
    image: String,
    /// What identifies its bits, if that is known.
    digest: Option<String>,
    /// When it was made, as RFC 3339 in whole seconds.
    time: String,
    systems: Vec<System>,
    /// By volume, manager, name and architecture.
    items: Vec<Item>,
}

/// An operating system of an image.
struct System {
    volume: String,
    os: Os,
}

/// An installed package.
struct Item {
    package: Package,
    /// The index of its system.
    system: Option<usize>,
    purl: Option<String>,
    /// Its licence, as the package says.
    licence: Option<Licence>,
}

/// A licence.
enum Licence {
    /// An expression of SPDX.
    Expression(String),
    /// Another text.
    Text(String),
}

/// Returns the bill of materials of an image: of its installed packages.
pub fn bom(image: &OpenImage, format: BomFormat) -> Result<Bom> {
    let (inventory, warnings) = inventory(image)?;
    let document = match format {
        BomFormat::Spdx => Document::Spdx(Box::new(spdx::document(&inventory))),
        BomFormat::CycloneDx => Document::CycloneDx(Box::new(cyclonedx::document(&inventory))),
    };
    Ok(Bom { document, packages: inventory.items.len(), warnings })
}

/// The last second of a year of four digits.
const LAST_SECOND: i64 = 253_402_300_799;

fn inventory(image: &OpenImage) -> Result<(Inventory, Vec<String>)> {
    let tree = image.tree()?;
    let systems = tree.roots().iter().filter_map(|root| {
        let os = os_of(&tree, root)?;
        Some(System { volume: root.volume().to_owned(), os })
    });
    let systems: Vec<System> = systems.collect();
    let mut found = read(&tree);
    let of_package = |package: &Package| {
        let system = systems.iter().position(|system| system.volume == package.volume);
        let text = found.licences.get(&identity(package)).cloned();
        (system, text.map(licence))
    };
    // What has only left its configuration is not installed.
    let installed = std::mem::take(&mut found.packages).into_iter().filter(|p| p.status != "config-files");
    let items = installed.map(|package| {
        let (system, licence) = of_package(&package);
        let os = system.map(|at| &systems[at].os);
        Item { purl: purl::of(&package, os), system, licence, package }
    });
    let items = items.collect();
    let (name, digest, seconds) = match &image.origin {
        Origin::Stored { stored, .. } => {
            let record = &stored.image;
            let digest = match &record.disk_digest {
                Some(digest) => format!("disk digest {digest}"),
                None => format!("layout digest {}", record.layout_digest),
            };
            (record.id(), Some(digest), i64::try_from(record.provenance.time).unwrap_or(i64::MAX))
        }
        Origin::File { container } => {
            let file = container.files.first();
            let modified = file.and_then(|file| file.metadata().ok()?.modified().ok());
            let since = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
            let seconds = since.map_or(0, |since| since.as_secs() as i64);
            let name = file.and_then(|file| file.path().file_name());
            let name = name.map_or_else(|| image.label.clone(), |name| name.to_string_lossy().into_owned());
            (name, None, seconds)
        }
    };
    let time = time_text(Timestamp { secs: seconds.clamp(0, LAST_SECOND), nanos: 0 });
    Ok((Inventory { image: name, digest, time, systems, items }, found.complaints))
}

/// Tells expressions of SPDX from other texts.
fn licence(text: String) -> Licence {
    // What such a reference stands for is not in the package.
    let refers = text.contains("LicenseRef-") || text.contains("DocumentRef-");
    match ::spdx::Expression::parse(&text) {
        Ok(_) if !refers => Licence::Expression(text),
        _ => Licence::Text(text),
    }
}

impl System {
    /// Returns its name as package URLs and scanners write it: `debian`, or `redhat` for `rhel`.
    fn family(&self) -> &str {
        purl::family(&self.os)
    }
}

/// Returns the UUID of a document that says this: version 8, which RFC 9562 leaves to whoever makes it.
fn uuid_of(parts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("mif bill of materials 1");
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    let mut bytes = uuid::random(bytes);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    uuid::text(&bytes)
}

/// Returns the identity of a document about these packages.
fn identity_of(format: &str, inventory: &Inventory) -> String {
    let Inventory { image, digest, time, systems, items } = inventory;
    let mut parts =
        vec![env!("CARGO_PKG_VERSION"), format, image, digest.as_deref().unwrap_or_default(), time];
    for System { volume, os } in systems {
        parts.extend([volume, &os.id, &os.name, os.version.as_deref().unwrap_or_default()]);
    }
    for Item { package, purl, licence, .. } in items {
        let Package { volume, manager, name, version, .. } = package;
        let licence = match licence {
            Some(Licence::Expression(text) | Licence::Text(text)) => text,
            None => "",
        };
        parts.extend([volume, manager, name, version, purl.as_deref().unwrap_or_default(), licence]);
    }
    uuid_of(&parts)
}
