//! Files in a store that this program did not make. They are never read or removed; fsck and gc name them.

use super::storage::{TOP, number};
use super::work::PARTS;
use super::{Entries, IMAGE_FILES, ImageName, Storage, unfinished_epoch};
use mif_formats::mif::PackId;

/// The maximum number of files that are named.
const MAX_NAMED: usize = 20;

/// Returns the paths, from the root of the store, of files that this program did not make: the first [`MAX_NAMED`], and
/// how many there are in total.
pub(crate) fn strangers(storage: &dyn Storage) -> std::io::Result<(Vec<String>, usize)> {
    let mut found = Strangers { storage, named: Vec::new(), count: 0 };
    found.look("", &|name| TOP.contains(&name))?;
    found.look("tmp", &|name| unfinished_epoch(name).is_some())?;
    found.look("leases", &|name| is_number(name) || ["alone", "clock", "epoch"].contains(&name))?;
    for epoch in found.look("trash", &is_number)? {
        let epoch = format!("trash/{epoch}");
        for image in found.look(&epoch, &|name| name == "packs" || is_image(name))? {
            found.look(&format!("{epoch}/{image}"), &|file| IMAGE_FILES.contains(&file))?;
        }
    }
    for run in found.look("work", &|name| ImageName::is_valid(name))? {
        for part in found.look(&format!("work/{run}"), &|name| PARTS.contains(&name))? {
            found.look(&format!("work/{run}/{part}"), &|_| true)?;
        }
    }
    found.look("index", &|name| {
        is_pack(name, ".idx") || name.starts_with("all-") && name.ends_with(".cache")
    })?;
    for folder in found.look("packs", &is_prefix)? {
        found
            .look(&format!("packs/{folder}"), &|name| is_pack(name, ".pack") && name.starts_with(&folder))?;
    }
    for name in found.look("images", &is_name)? {
        for version in found.look(&format!("images/{name}"), &is_version)? {
            found.look(&format!("images/{name}/{version}"), &|file| IMAGE_FILES.contains(&file))?;
        }
    }
    Ok((found.named, found.count))
}

fn is_number(name: &str) -> bool {
    number::<u64>(name).is_some()
}

fn is_image(name: &str) -> bool {
    name.split_once('@').is_some_and(|(name, version)| ImageName::is_valid(name) && is_number(version))
}

fn is_pack(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).and_then(PackId::from_hex).is_some()
}

fn is_prefix(name: &str) -> bool {
    name.len() == 2 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_name(name: &str) -> bool {
    name.strip_prefix("name=").is_some_and(ImageName::is_valid)
}

fn is_version(name: &str) -> bool {
    let number = name.strip_prefix("version=").and_then(|number| number.parse::<u32>().ok());
    number.is_some_and(|number| name == format!("version={number}"))
}

struct Strangers<'a> {
    storage: &'a dyn Storage,
    named: Vec<String>,
    count: usize,
}

impl Strangers<'_> {
    /// Lists a directory: returns the subdirectories that are ours, and records everything that is not.
    fn look(&mut self, folder: &str, is_ours: &dyn Fn(&str) -> bool) -> std::io::Result<Vec<String>> {
        let Entries { files, folders, others } = self.storage.entries(folder)?;
        let (ours, strange): (Vec<_>, Vec<_>) = folders.into_iter().partition(|name| is_ours(name));
        let strange =
            strange.into_iter().chain(files.into_iter().filter(|name| !is_ours(name))).chain(others);
        let place = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        for name in strange {
            self.count += 1;
            if self.named.len() < MAX_NAMED {
                self.named.push(format!("{place}{name}"));
            }
        }
        Ok(ours)
    }
}
