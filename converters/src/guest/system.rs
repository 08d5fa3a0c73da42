//! What system is installed on an image, read from its files; nothing on the image is run.

use serde::Serialize;

use super::boot::{self, Boot};
use super::probe::{Files, Kernel, Os, elf_machine};
use crate::tree::mounts::Root;
use crate::tree::view::Tree;

/// The installed system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct System {
    /// The volume with the root filesystem; none if no volume has the marks of one.
    pub root: Option<String>,
    /// Other volumes with a root filesystem: the second system of an image that is updated by turns, for example.
    pub other_roots: Vec<OtherRoot>,
    /// What os-release(5) says.
    pub os: Option<Os>,
    /// The machine that its programs are for, as `uname -m` names it.
    pub architecture: Option<String>,
    /// What hostname(5) says.
    pub hostname: Option<String>,
    /// The kernels, by volume and path.
    pub kernels: Vec<Kernel>,
    /// The ways in which a machine can start it.
    pub boot: Vec<Boot>,
}

/// A root filesystem beside the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OtherRoot {
    /// Its volume.
    pub volume: String,
    /// What os-release(5) says there.
    pub os: Option<Os>,
    /// What hostname(5) says there.
    pub hostname: Option<String>,
}

impl System {
    /// Looks at the files of an image, and the first bytes of its disk and partitions. What cannot be read is not
    /// there, and is a sentence in `complaints`.
    pub(crate) fn read(tree: &Tree, disk: &boot::Sectors<'_>, complaints: &mut Vec<String>) -> Self {
        // A volume may be the only one and yet no root: a data disk.
        let is_system = |root: &&Root| {
            ["/etc", "/usr"].iter().any(|path| tree.get(&root.volume, path.as_bytes()).is_some())
        };
        let mut roots = tree.roots().iter().filter(is_system);
        let root = roots.next();
        let mut files = Files { tree, complaints };
        let (mut os, mut architecture, mut hostname) = (None, None, None);
        if let Some(root) = root {
            os = files.os(root);
            hostname = files.hostname(root);
            let programs =
                ["/sbin/init", "/usr/lib/systemd/systemd", "/bin/sh", "/bin/busybox", "/usr/bin/env"];
            architecture = programs.iter().find_map(|path| elf_machine(&files.head(root, path, 64)?));
        }
        let other_roots = roots.map(|root| OtherRoot {
            volume: root.volume.clone(),
            os: files.os(root),
            hostname: files.hostname(root),
        });
        let other_roots = other_roots.collect();
        let kernels = files.kernels(root);
        let boot = boot::read(&mut files, disk);
        let root = root.map(|root| root.volume.clone());
        System { root, other_roots, os, architecture, hostname, kernels, boot }
    }

    /// Returns true if nothing of a system was found.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.os.is_none() && self.architecture.is_none() && self.kernels.is_empty() && self.boot.is_empty()
    }
}
