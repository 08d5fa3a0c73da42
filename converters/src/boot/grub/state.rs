//! The state of GRUB as it runs: variables, the menu, what was loaded, and files by its names of devices.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use mif_formats::fs::FileType;
use mif_formats::source::MemSource;

use super::super::look::{self, Look};
use super::bls;
use super::core::{self, Core};
use super::devices::{device_of, split, volume_of};
use super::script::Command;
use crate::disk::scan::Scan;
use crate::image::tree_of_scan;
use crate::store::volume_name;
use crate::tree::path::VolumePath;
use crate::tree::view::Tree;

/// The name of the disk in memory that a core image may hold.
const MEMDISK: &str = "memdisk";

/// The longest value of a variable.
const MAX_VALUE: usize = 64 << 10;

/// The most entries of a menu.
pub(super) const MAX_ENTRIES: usize = 4096;

/// A kernel that was loaded.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    /// Its row.
    pub(crate) kernel: usize,
    /// Its command line.
    pub(crate) command_line: String,
    /// The rows of its initramfs files.
    pub(crate) initrds: Vec<usize>,
}

/// An entry of the menu.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) title: String,
    pub(super) id: Option<String>,
    pub(super) is_submenu: bool,
    /// True if it may be booted without a password.
    pub(super) is_free: bool,
    pub(super) body: Body,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    Script(Rc<Vec<Command>>),
    /// An entry of the Boot Loader Specification, and the device that it is on.
    Specified(Box<bls::Entry>, String),
}

/// GRUB as it runs.
pub(crate) struct Grub<'l> {
    pub(super) look: &'l Look<'l>,
    /// The files of the disk in memory, if the core image has one that mif reads.
    pub(super) memdisk: Option<Tree>,
    pub(super) variables: BTreeMap<String, String>,
    pub(super) functions: BTreeMap<String, Rc<Vec<Command>>>,
    pub(super) menu: Vec<Entry>,
    pub(super) loaded: Option<Loaded>,
    /// What could not be followed, as sentences.
    pub(super) doubts: Vec<String>,
    /// What GRUB would print as errors.
    pub(super) errors: Vec<String>,
    /// The last filesystem that was searched for in vain, after which GRUB goes on.
    pub(super) missed: Option<String>,
    /// The configuration files that were read.
    pub(crate) read: Vec<String>,
    pub(super) steps: u32,
    pub(super) nesting: u32,
    /// The number of scripts that were read.
    pub(super) scripts: u32,
    /// The number of bytes of all commands, after variables were replaced.
    pub(super) expanded: usize,
    pub(super) version: Option<(u32, u32)>,
}

impl<'l> Grub<'l> {
    /// Prepares GRUB as its core image does. `home` is the volume that firmware loaded it from, if it is a UEFI program.
    pub(crate) fn new(look: &'l Look<'l>, core: &Core, home: Option<(&str, &str)>) -> Self {
        let mut grub = Grub {
            look,
            memdisk: core.memdisk.clone().and_then(tree_of),
            variables: BTreeMap::new(),
            functions: BTreeMap::new(),
            menu: Vec::new(),
            loaded: None,
            doubts: Vec::new(),
            errors: Vec::new(),
            missed: None,
            read: Vec::new(),
            steps: 0,
            nesting: 0,
            scripts: 0,
            expanded: 0,
            version: core.version,
        };
        let (platform, cpu) = if home.is_some() { ("efi", core.cpu) } else { ("pc", "i386") };
        for (name, value) in [("grub_platform", platform), ("grub_cpu", cpu)] {
            grub.set(name, value);
        }
        for feature in [
            "chainloader_bpb",
            "ntldr",
            "platform_search_hint",
            "default_font_path",
            "all_video_module",
            "menuentry_id",
            "menuentry_options",
            "200_final",
            "nativedisk_cmd",
            "timeout_style",
        ] {
            grub.set(&format!("feature_{feature}"), "y");
        }
        let home = home.map(|(volume, folder)| (device_of(look, volume), folder));
        let (device, path) = split(&core.prefix, "");
        // Without a disk, it is the one that GRUB was loaded from.
        let device = match (&home, device.strip_prefix(',')) {
            (_, Some(partition)) => format!("hd0,{partition}"),
            (Some((home, _)), None) if device.is_empty() => home.clone(),
            _ => device.to_owned(),
        };
        let path = match &home {
            Some((_, folder)) if path.is_empty() => (*folder).to_owned(),
            _ => path.to_owned(),
        };
        if let Some((home, folder)) = &home {
            grub.set("cmdpath", &format!("({home}){folder}"));
        }
        grub.set("root", &device);
        grub.set("prefix", &format!("({device}){path}"));
        grub
    }

    pub(super) fn get(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        if value.len() <= MAX_VALUE && self.variables.len() < 10_000 {
            self.variables.insert(name.to_owned(), value.to_owned());
        }
    }

    /// Returns the type of a file as GRUB names it.
    pub(super) fn file_type(&self, file: &str) -> Option<FileType> {
        if let Some(row) = self.in_memdisk(file) {
            return Some(self.memdisk.as_ref()?.rows()[row].node.file_type);
        }
        self.row(file).map(|row| self.look.row(row).node.file_type)
    }

    /// Returns the row of a file in the disk in memory.
    pub(super) fn in_memdisk(&self, file: &str) -> Option<usize> {
        let (device, path) = split(file, self.get("root"));
        if device != MEMDISK {
            return None;
        }
        let path = VolumePath { volume: Some(volume_name(0)), path: path.as_bytes().to_vec() };
        self.memdisk.as_ref()?.find(&path, true).ok()
    }

    /// Returns the row of a file as GRUB names it.
    pub(super) fn row(&self, file: &str) -> Option<usize> {
        let (device, path) = split(file, self.get("root"));
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        self.look.find(&volume_of(self.look, device)?, &path)
    }

    pub(super) fn doubt(&mut self, doubt: impl Into<String>) {
        if self.doubts.len() < 8 {
            self.doubts.push(doubt.into());
        }
    }

    /// Returns GRUB's version: that in the core image, or else that of the module beside the prefix.
    pub(super) fn version(&self) -> Option<(u32, u32)> {
        if self.version.is_some() {
            return self.version;
        }
        let folder = format!("{}-{}", self.get("grub_cpu"), self.get("grub_platform"));
        let row = self.row(&format!("{}/{folder}/normal.mod", self.get("prefix")))?;
        core::version(&self.look.head(row, 1 << 20).ok()?)
    }

    /// Returns why GRUB could not read its own directory or run scripts, although the files are there.
    pub(crate) fn unreadable(&self, core: &Core) -> Vec<String> {
        let (device, path) = split(&core.prefix, "");
        let prefix = match path {
            "" => self.get("prefix").to_owned(),
            _ => format!(
                "({}){path}",
                if device.is_empty() { self.get("root") } else { device }.trim_start_matches(',')
            ),
        };
        let folder = format!("{}-{}", self.get("grub_cpu"), self.get("grub_platform"));
        // A module is in the core image, or a file beside the prefix at the start or now.
        let has = |module: &str| {
            core.modules.iter().any(|it| it == module)
                || [&prefix, self.get("prefix")]
                    .iter()
                    .any(|at| self.row(&format!("{at}/{folder}/{module}.mod")).is_some())
        };
        let mut problems = Vec::new();
        if core.modules.is_empty() {
            return problems;
        }
        for (module, what) in [("normal", "reads grub.cfg"), ("linux", "loads kernels")] {
            let is_there = has(module) || module == "linux" && has("linuxefi");
            if !is_there {
                problems.push(format!("GRUB lacks its module {module}, which {what}"));
            }
        }
        problems
    }

    /// Returns doubts about whether GRUB reads the filesystem of what it loads.
    pub(crate) fn uncertain(&self, core: &Core) -> Vec<String> {
        let Some(volume) = volume_of(self.look, split(self.get("prefix"), "").0) else { return Vec::new() };
        let Some(info) = self.look.filesystem(&volume) else { return Vec::new() };
        let mut doubts = Vec::new();
        let (module, partitions) = (filesystem_module(&info.kind), self.look.table.kind);
        let wanted = [module, look::partition_module(partitions)];
        let is_partition = volume.starts_with('p') && volume != "p0";
        for module in
            wanted.into_iter().flatten().filter(|module| is_partition || !module.starts_with("part_"))
        {
            if !core.modules.is_empty() && !core.modules.iter().any(|it| it == module) {
                doubts.push(format!("GRUB's core image lacks the module {module}, which reads {volume}"));
            }
        }
        // The releases that brought them; distributions brought them into older ones too.
        let late = [
            ("bigtime", (2, 6)),
            ("metadata_csum_seed", (2, 12)),
            ("nrext64", (2, 12)),
            ("large_dir", (2, 12)),
        ];
        let version = self.version();
        let is_late =
            |feature: &str| late.iter().any(|(name, since)| *name == feature && version < Some(*since));
        if let Some(feature) = info.features.iter().find(|feature| is_late(feature)) {
            doubts.push(format!("{volume} has the feature {feature}, which not every GRUB reads"));
        }
        doubts
    }
}

/// Returns the files of a disk in memory.
fn tree_of(disk: Vec<u8>) -> Option<Tree> {
    let scan = Scan::new(Arc::new(MemSource(disk))).ok()?;
    tree_of_scan(&Arc::new(scan)).ok()
}

/// Returns GRUB's module for a filesystem.
pub(crate) fn filesystem_module(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "ext2" | "ext3" | "ext4" => "ext2",
        "xfs" => "xfs",
        "btrfs" => "btrfs",
        kind if kind.to_ascii_lowercase().contains("fat") => "fat",
        _ => return None,
    })
}
