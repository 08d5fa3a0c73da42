//! The system installed on an image, determined from its files. Nothing on the image is run.

use serde::Serialize;

use super::boot::{self, Boot};
use super::os::Os;
use super::probe::{Files, Identity, Kernel};
use crate::tree::mounts::Root;
use crate::tree::view::Tree;

/// The installed system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct System {
    /// The volume with the root filesystem; `None` if no volume looks like one.
    pub root: Option<String>,
    /// The directory of that volume that is the root: `/`, or that of a subvolume, such as `/@`.
    pub directory: Option<String>,
    /// Other volumes with a root filesystem, for example the second system of an image with A/B updates.
    pub other_roots: Vec<OtherRoot>,
    /// The operating system according to os-release(5) or the registry.
    pub os: Option<Os>,
    /// The machine that its programs are for, as `uname -m` names it.
    pub architecture: Option<String>,
    /// The host name according to hostname(5) or the registry.
    pub hostname: Option<String>,
    /// The kernels, by volume and path.
    pub kernels: Vec<Kernel>,
    /// The ways to boot it.
    pub boot: Vec<Boot>,
}

/// A root filesystem besides the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OtherRoot {
    /// Its volume.
    pub volume: String,
    /// The directory of that volume that is the root.
    pub directory: String,
    /// The operating system according to os-release(5) or the registry.
    pub os: Option<Os>,
    /// The host name according to hostname(5) or the registry.
    pub hostname: Option<String>,
}

impl System {
    /// Reads the files of an image, and the first bytes of its disk and partitions. Adds read errors to `complaints`,
    /// as sentences, and treats these files as missing.
    pub(crate) fn read(tree: &Tree, disk: &boot::Sectors<'_>, complaints: &mut Vec<String>) -> Self {
        // The only volume may be a data disk instead of a root filesystem.
        let is_system = |root: &&Root| {
            ["/etc", "/usr", "/Windows/System32"]
                .iter()
                .any(|path| tree.find_in(root, path.as_bytes(), true).is_ok())
        };
        let mut roots = tree.roots().iter().filter(is_system);
        let root = roots.next();
        let mut files = Files { tree, complaints };
        let Identity { os, architecture, hostname } =
            root.map_or_else(Identity::default, |root| files.identity(root));
        let other_roots = roots.map(|root| {
            let Identity { os, hostname, .. } = files.identity(root);
            OtherRoot { volume: root.volume().to_owned(), directory: root.place.path_text(), os, hostname }
        });
        let other_roots = other_roots.collect();
        let kernels = files.kernels(root);
        let boot = boot::read(&mut files, disk);
        let directory = root.map(|root| root.place.path_text());
        let root = root.map(|root| root.volume().to_owned());
        System { root, directory, other_roots, os, architecture, hostname, kernels, boot }
    }

    /// Returns true if no trace of a system was found.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.os.is_none() && self.architecture.is_none() && self.kernels.is_empty() && self.boot.is_empty()
    }
}
