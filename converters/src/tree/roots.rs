//! Finds the root filesystems of an image and the mounts of each.
//!
//! Which subvolume of a Btrfs volume is the root filesystem is in the fstab, which lies in that subvolume, and in the
//! boot loader's configuration. A default subvolume that looks like a root filesystem is one, because it is mounted if
//! nothing else is requested; its fstab may still name the subvolume from before a rollback. Otherwise the usual places
//! are tried, and the one that its own fstab mounts on `/` is taken.

use mif_formats::mif::manifest::escape;

use super::discover;
use super::fstab::{self, Line};
use super::mounts::{Devices, Mount, MountedOn, Root};
use super::path::{Paths, Place, has_root_marks};
use super::subvolumes::Subvolumes;
use crate::error::Result;

/// How many directories of a volume are tried at most.
const MAX_CANDIDATES: usize = 64;

/// The subvolumes that distributions use for the root filesystem: Ubuntu, Arch and openSUSE; Fedora; Debian.
const USUAL: [&str; 3] = ["/@", "/root", "/@rootfs"];

/// The directories of snapper's snapshots on openSUSE, where each is `NUMBER/snapshot`; the first is the installed
/// system.
const SNAPSHOTS: [&str; 2] = ["/@/.snapshots/", "/.snapshots/"];

/// The volumes of an image, in which root filesystems are searched.
pub(crate) struct Volumes<'a, P> {
    pub(crate) paths: &'a P,
    /// The volumes that have rows, in order.
    pub(crate) names: &'a [&'a str],
    pub(crate) devices: Devices<'a>,
    pub(crate) subvolumes: &'a Subvolumes,
}

/// Reads the fstab in a root filesystem; returns `None` if there is none. May add complaints, as sentences.
pub(crate) type ReadFstab<'a> = &'a dyn Fn(&Place, &mut Vec<String>) -> Result<Option<Vec<u8>>>;

/// A directory that may be a root filesystem, and its fstab.
struct Candidate {
    place: Place,
    fstab: Vec<Line>,
}

impl<P: Paths> Volumes<'_, P> {
    /// Returns the root filesystems with their mounts; the first is the default for paths. Adds a sentence to
    /// `complaints` where the choice was not clear.
    pub(crate) fn roots(&self, complaints: &mut Vec<String>, read: ReadFstab<'_>) -> Result<Vec<Root>> {
        let mut roots: Vec<Root> = Vec::new();
        for volume in self.names {
            // A volume that another root mounts belongs to that root.
            if roots.iter().any(|root| root.point_of(volume).is_some()) {
                continue;
            }
            let found = self.root_of(volume, self.directories(volume), complaints, read)?;
            roots.extend(found.map(|found| self.with_mounts(found)));
        }
        if roots.is_empty() {
            let only = match self.names {
                [only] => Some((*only).to_owned()),
                names => discover::root(self.devices).filter(|root| names.contains(&&root[..])),
            };
            if let Some(volume) = only {
                let place = self.default(&volume);
                let fstab = read(&place, complaints)?.map_or(Vec::new(), |fstab| fstab::parse(&fstab));
                roots.push(self.with_mounts(Candidate { place, fstab }));
            }
        }
        Ok(roots)
    }

    /// Returns the place of a volume that is mounted if nothing else is requested.
    fn default(&self, volume: &str) -> Place {
        let path = self.subvolumes.default(volume, self.devices.default_subvolume(volume));
        Place { volume: volume.to_owned(), path }
    }

    /// Returns the directories of a volume that look like a root filesystem, the likeliest first.
    fn directories(&self, volume: &str) -> Vec<Place> {
        let place = |path: &[u8]| Place { volume: volume.to_owned(), path: path.to_vec() };
        let is_root = |place: &Place| has_root_marks(self.paths, place);
        let all: Vec<&[u8]> = self.subvolumes.directories(volume).collect();
        let usual = USUAL.iter().map(|path| path.as_bytes()).filter(|path| all.contains(path));
        let mut snapshots: Vec<(u64, &[u8])> = all.iter().filter_map(|path| snapshot(path)).collect();
        snapshots.sort_unstable();
        let snapshots = snapshots.into_iter().map(|(_, path)| path);
        let mut found: Vec<Place> = Vec::new();
        let likely = [self.default(volume), place(b"/")];
        for place in likely.into_iter().chain(usual.chain(snapshots).map(place)).filter(is_root) {
            if found.len() < MAX_CANDIDATES && !found.contains(&place) {
                found.push(place);
            }
        }
        if found.is_empty() {
            let is_system = |place: &Place| {
                ["/etc/fstab", "/usr"].iter().all(|path| {
                    let Place { volume, path } = place.join(path.as_bytes());
                    self.paths.row(&volume, &path).is_some()
                })
            };
            found.extend(all.into_iter().map(place).filter(is_system).take(MAX_CANDIDATES));
        }
        found
    }

    /// Chooses among the directories of a volume that look like a root filesystem.
    fn root_of(
        &self,
        volume: &str,
        directories: Vec<Place>,
        complaints: &mut Vec<String>,
        read: ReadFstab<'_>,
    ) -> Result<Option<Candidate>> {
        let mut all = Vec::new();
        for place in directories {
            let fstab = read(&place, complaints)?.map_or(Vec::new(), |fstab| fstab::parse(&fstab));
            all.push(Candidate { place, fstab });
        }
        let default = Some(self.default(volume)).filter(|place| place.path != b"/");
        if let Some(default) = default.filter(|default| all.first().is_some_and(|one| one.place == *default))
        {
            if let Some(named) = self.root_line(&all[0]).filter(|named| *named != default) {
                complaints.push(format!(
                    "{volume}: paths begin in {}, the default subvolume, but its fstab names {}:{}",
                    escape(&default.path),
                    named.volume,
                    escape(&named.path)
                ));
            }
            return Ok(all.into_iter().next());
        }
        let is_own = |candidate: &Candidate| self.root_line(candidate).as_ref() == Some(&candidate.place);
        let own: Vec<usize> = (0..all.len()).filter(|number| is_own(&all[*number])).collect();
        let meant = || all.iter().find_map(|candidate| self.root_line(candidate));
        let chosen = match own.first() {
            Some(number) => *number,
            None => meant().and_then(|place| all.iter().position(|one| one.place == place)).unwrap_or(0),
        };
        let unclear: Vec<&Candidate> = match own.len() {
            0 => all.iter().collect(),
            _ => own.iter().map(|number| &all[*number]).collect(),
        };
        if unclear.len() > 1 {
            let others = unclear.iter().filter(|one| one.place != all[chosen].place);
            let others: Vec<String> = others.take(3).map(|one| escape(&one.place.path)).collect();
            complaints.push(format!(
                "{volume}: paths begin in {}; {} may be the root filesystem too",
                escape(&all[chosen].place.path),
                others.join(", ")
            ));
        }
        Ok(all.into_iter().nth(chosen))
    }

    /// Returns the place that the fstab of a candidate mounts on `/`, if that is on the candidate's volume or the
    /// device is unknown.
    fn root_line(&self, candidate: &Candidate) -> Option<Place> {
        let line = candidate.fstab.iter().rfind(|line| line.point.is_empty())?;
        let volume = self.devices.volume_of(&escape(&line.what));
        self.place_of(&volume.unwrap_or_else(|| candidate.place.volume.clone()), line)
    }

    /// Returns the place that a line mounts from a volume; `None` if the kernel would refuse it.
    fn place_of(&self, volume: &str, line: &Line) -> Option<Place> {
        let Some(wanted) = &line.subvolume else { return Some(self.default(volume)) };
        let path = self.subvolumes.directory(self.paths, volume, wanted)?;
        Some(Place { volume: volume.to_owned(), path })
    }

    /// Adds the mounts of a root filesystem's fstab; if it has none, those of the partitions' types.
    fn with_mounts(&self, root: Candidate) -> Root {
        let Candidate { place, fstab } = root;
        let mounts = match fstab.is_empty() {
            true => discover::mounts(self.devices, &place, self.paths, self.subvolumes),
            false => self.mounts(&place, &fstab),
        };
        Root { place, mounts }
    }

    fn mounts(&self, root: &Place, fstab: &[Line]) -> Vec<Mount> {
        let lines = fstab.iter().filter(|line| !line.point.is_empty());
        let mounts = lines.filter_map(|line| {
            let what = escape(&line.what);
            let place = self.devices.volume_of(&what).and_then(|volume| self.place_of(&volume, line));
            // A root filesystem is rarely mounted in itself: rather, its device name means another disk.
            if line.subvolume.is_none() && place.as_ref() == Some(root) {
                return None;
            }
            let what = place.map_or(MountedOn::Elsewhere(what), MountedOn::Place);
            Some(Mount { point: line.point.clone(), what })
        });
        mounts.collect()
    }
}

/// Returns the number of a snapshot, and its path, if the path is one of snapper's.
fn snapshot(path: &[u8]) -> Option<(u64, &[u8])> {
    let number = SNAPSHOTS.iter().find_map(|folder| path.strip_prefix(folder.as_bytes()))?;
    let number = number.strip_suffix(b"/snapshot")?;
    Some((std::str::from_utf8(number).ok()?.parse().ok()?, path))
}
