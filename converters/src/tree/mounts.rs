//! The mounts of a root filesystem, and where paths lead across them. A mount shows a directory of a volume, such as a
//! subvolume of Btrfs; on most filesystems it is `/`.

use mif_formats::fs::{self, Info};
use mif_formats::mif::manifest::{Row, escape};
use mif_formats::partition::{Partition, Table};

use super::fstab::unescaped;
use super::path::{Paths, Place};
use crate::error::{Error, Result};
use crate::store::{FilesystemRecord, VolumeRecord};

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The absolute directory, without a trailing slash.
    pub(crate) point: Vec<u8>,
    /// What is mounted on it.
    pub(crate) what: MountedOn,
}

/// What is mounted on a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MountedOn {
    /// A directory of a volume of the image.
    Place(Place),
    /// Another device, as fstab names it.
    Elsewhere(String),
}

/// The devices of a disk that an fstab can name.
#[derive(Clone, Copy)]
pub(crate) struct Devices<'a> {
    /// The disk's partition table.
    pub(crate) table: &'a Table,
    /// The content of each volume.
    pub(crate) volumes: &'a [VolumeRecord],
}

/// A root filesystem and its mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root {
    /// The directory that is its `/`.
    pub(crate) place: Place,
    /// What is mounted in it.
    pub(crate) mounts: Vec<Mount>,
}

impl Root {
    /// Returns the volume of its `/`.
    pub(crate) fn volume(&self) -> &str {
        &self.place.volume
    }

    /// Returns the places that it mounts, with their mount points.
    fn places(&self) -> impl DoubleEndedIterator<Item = (&[u8], &Place)> {
        self.mounts.iter().filter_map(|mount| match &mount.what {
            MountedOn::Place(place) => Some((&mount.point[..], place)),
            MountedOn::Elsewhere(_) => None,
        })
    }

    /// Returns the path at which its system sees a place, or `None` if it does not.
    pub(crate) fn path_of(&self, place: &Place) -> Option<Vec<u8>> {
        // Of two mounts that show the place, the deeper directory is meant for it: /home rather than /mnt/all/@home.
        let all = self.places().rev().chain([(&b""[..], &self.place)]);
        let shown = all.filter_map(|(point, shown)| Some((shown.path.len(), point, shown.rest_of(place)?)));
        let (_, point, rest) = shown.max_by_key(|(depth, ..)| *depth)?;
        Some(if point.is_empty() && rest.is_empty() { b"/".to_vec() } else { [point, rest].concat() })
    }

    /// Returns the directory on which a volume is mounted, if it is not the one of `/`.
    pub(crate) fn point_of(&self, volume: &str) -> Option<&[u8]> {
        self.places().rfind(|(_, place)| place.volume == volume).map(|(point, _)| point)
    }

    /// Returns true if a volume, or part of it, is mounted.
    pub(crate) fn has_volume(&self, volume: &str) -> bool {
        self.volume() == volume || self.point_of(volume).is_some()
    }

    /// Returns true if a place is its `/` or the top of a mount.
    pub(crate) fn is_top(&self, place: &Place) -> bool {
        self.place == *place || self.places().any(|(_, top)| top == place)
    }

    /// Returns the directories of each volume that it shows, with the paths at which it does: an empty one for `/`.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (&[u8], &Place)> {
        self.places().chain([(&b""[..], &self.place)])
    }

    /// Returns the place of a path of its system, in the deepest mount. Does not resolve symlinks.
    fn place_of(&self, path: &[u8]) -> Place {
        let rest =
            |point: &[u8]| path.strip_prefix(point).filter(|rest| rest.first().is_none_or(|b| *b == b'/'));
        let closest = self.shown().filter_map(|(point, place)| Some((point.len(), place.join(rest(point)?))));
        // `/` is the last one, and covers every path.
        closest.max_by_key(|(len, _)| *len).map_or_else(|| self.place.clone(), |(_, place)| place)
    }
}

/// What to do with mounts of other disks: fail, or use the files under the mount point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Elsewhere {
    Refused,
    Beneath,
}

/// Paths as the system of a root sees them, across its mounts.
pub(crate) struct View<'a, P> {
    /// The rows of the image.
    pub(crate) paths: &'a P,
    pub(crate) root: &'a Root,
    pub(crate) elsewhere: Elsewhere,
}

impl<P: Paths> Paths for View<'_, P> {
    fn row(&self, volume: &str, path: &[u8]) -> Option<&Row> {
        self.paths.row(volume, path)
    }

    fn row_ignoring_case(&self, volume: &str, path: &[u8]) -> Option<&Row> {
        self.paths.row_ignoring_case(volume, path)
    }

    fn has_entries(&self, place: &Place) -> bool {
        self.paths.has_entries(place)
    }

    fn mounted(&self, seen: &[u8], here: &Place) -> Result<Option<Place>> {
        let Some(mount) = self.root.mounts.iter().rfind(|mount| mount.point == seen) else {
            return Ok(None);
        };
        let there = || escape(seen);
        match &mount.what {
            MountedOn::Place(place) if self.paths.row(&place.volume, &place.path).is_some() => {
                Ok(Some(place.clone()))
            }
            MountedOn::Place(place) => Err(Error::unsupported(format!(
                "{}: on volume {}, whose filesystem mif cannot read",
                there(),
                place.volume
            ))),
            MountedOn::Elsewhere(_) if self.elsewhere == Elsewhere::Beneath => Ok(None),
            MountedOn::Elsewhere(what) => Err(Error::input(format!(
                "{}: /etc/fstab mounts {what} here, which is not part of this image",
                there()
            ))
            .advise(format!(
                "To change the files under the mount point, name the volume: {}:{}",
                here.volume,
                escape(&here.path)
            ))),
        }
    }

    fn place(&self, _volume: &str, seen: &[u8]) -> Place {
        self.root.place_of(seen)
    }

    fn above(&self, _volume: &str) -> Result<()> {
        self.paths.above(self.root.volume())
    }
}

impl Devices<'_> {
    /// Returns the id of a volume's default subvolume, if its record has one.
    pub(crate) fn default_subvolume(&self, volume: &str) -> Option<u64> {
        let record = self.volumes.iter().find(|record| record.volume == volume)?;
        match &record.content {
            FilesystemRecord::Filesystem(info) => info.default_subvolume,
            FilesystemRecord::Other(_) => None,
        }
    }

    /// Returns the encrypted volumes, with what their headers say.
    pub(crate) fn encrypted(&self) -> Vec<(String, String)> {
        let each = self
            .volumes
            .iter()
            .filter_map(|volume| Some((volume.volume.clone(), volume.luks.as_ref()?.describe())));
        each.collect()
    }

    /// Returns the volumes on which names do not differ by case.
    pub(crate) fn ignoring_case(&self) -> Vec<String> {
        let ignores = |record: &&VolumeRecord| match &record.content {
            FilesystemRecord::Filesystem(info) => {
                fs::driver(&info.kind).is_some_and(|driver| driver.capabilities().ignores_case)
            }
            FilesystemRecord::Other(_) => false,
        };
        self.volumes.iter().filter(ignores).map(|record| record.volume.clone()).collect()
    }

    /// Returns the volume that a device name in fstab means. Names of the first disk count as this disk's.
    pub(crate) fn volume_of(&self, what: &str) -> Option<String> {
        if let Some((key, value)) = what.split_once('=') {
            return self.tagged(key, value.trim_matches('"'));
        }
        let device = what.strip_prefix("/dev/")?;
        if let Some((key, value)) = device.strip_prefix("disk/by-").and_then(|rest| rest.split_once('/')) {
            return self.tagged(key, &unescape_udev(value));
        }
        let exists = |name: String| self.volumes.iter().any(|volume| volume.volume == name).then_some(name);
        let first_disk = ["sda", "vda", "xvda", "hda", "nvme0n1p", "mmcblk0p"];
        let slot = first_disk.iter().find_map(|disk| device.strip_prefix(disk)?.parse::<u32>().ok());
        if let Some(slot) = slot {
            return exists(crate::store::volume_name(slot));
        }
        // In `/dev/mapper/group-volume`, a dash within either name is doubled.
        let mapped = device
            .strip_prefix("mapper/")
            .map(|name| name.replace("--", "\0").replacen('-', "/", 1).replace('\0', "-"));
        exists(mapped.unwrap_or_else(|| device.to_owned()))
    }

    fn tagged(&self, key: &str, value: &str) -> Option<String> {
        let same = |have: Option<&String>| have.is_some_and(|have| have.eq_ignore_ascii_case(value));
        let of_partition = |test: &dyn Fn(&Partition) -> bool| {
            self.table.partitions.iter().find(|p| test(p)).map(|p| crate::store::volume_name(p.slot))
        };
        let of_filesystem = |test: &dyn Fn(&Info) -> bool| {
            let fits = |volume: &&VolumeRecord| match &volume.content {
                FilesystemRecord::Filesystem(info) => test(info),
                FilesystemRecord::Other(_) => false,
            };
            self.volumes.iter().find(fits).map(|volume| volume.volume.clone())
        };
        match key.to_ascii_lowercase().as_str() {
            "uuid" => of_filesystem(&|info| same(info.uuid.as_ref())),
            "label" => of_filesystem(&|info| info.label.as_deref() == Some(value)),
            "partuuid" => of_partition(&|p| same(p.id.as_ref())),
            "partlabel" => of_partition(&|p| p.name.as_deref() == Some(value)),
            _ => None,
        }
    }
}

/// Decodes a name in `/dev/disk`, where udev writes special characters as `\x20`.
fn unescape_udev(name: &str) -> String {
    String::from_utf8_lossy(&unescaped(name.as_bytes(), b"\\x", 2, 16)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(volumes: &[(&str, &str)]) -> (Table, Vec<VolumeRecord>) {
        let table = Table::none();
        let record = |(name, label): &(&str, &str)| VolumeRecord {
            luks: None,
            volume: (*name).to_owned(),
            content: FilesystemRecord::Filesystem(Info {
                kind: "ext4".into(),
                label: Some((*label).to_owned()),
                uuid: None,
                block_size: 4096,
                size: 0,
                free: None,
                features: Vec::new(),
                default_subvolume: None,
                warnings: Vec::new(),
            }),
        };
        (table, volumes.iter().map(record).collect())
    }

    #[test]
    fn a_volume_is_known_by_its_label_its_number_and_its_name() {
        let volumes = [("p0", "a b"), ("p5", "five"), ("my-vg/data", "x")];
        for (device, volume) in [
            ("LABEL=\"five\"", Some("p5")),
            ("/dev/disk/by-label/a\\x20b", Some("p0")),
            ("/dev/sda0", Some("p0")),
            ("/dev/nvme0n1p5", Some("p5")),
            ("/dev/mapper/my--vg-data", Some("my-vg/data")),
            ("/dev/my-vg/data", Some("my-vg/data")),
            ("/dev/sdb0", None),
            ("UUID=", None),
            ("tmpfs", None),
        ] {
            let (table, volumes) = disk(&volumes);
            let devices = Devices { table: &table, volumes: &volumes };
            assert_eq!(devices.volume_of(device).as_deref(), volume, "{device}");
        }
    }

    fn place(volume: &str, path: &str) -> Place {
        Place { volume: volume.into(), path: path.into() }
    }

    fn root(at: Place, mounts: &[(&str, Place)]) -> Root {
        let mount = |(point, place): &(&str, Place)| Mount {
            point: (*point).into(),
            what: MountedOn::Place(place.clone()),
        };
        Root { place: at, mounts: mounts.iter().map(mount).collect() }
    }

    #[test]
    fn a_mount_inside_a_mount_is_seen_from_both_sides() {
        let mounts = [("/var", place("p2", "/")), ("/var/log", place("p3", "/"))];
        let mut root = root(place("p1", "/"), &mounts);
        assert_eq!(root.path_of(&place("p3", "/audit")), Some(b"/var/log/audit".to_vec()));
        assert_eq!(root.path_of(&place("p2", "/")), Some(b"/var".to_vec()));
        assert_eq!(root.path_of(&place("p1", "/")), Some(b"/".to_vec()));
        assert_eq!(root.path_of(&place("p4", "/x")), None);
        assert_eq!(root.place_of(b"/var/log"), place("p3", "/"));
        assert_eq!(root.place_of(b"/var/log/x"), place("p3", "/x"));
        assert_eq!(root.place_of(b"/variable"), place("p1", "/variable"));
        // What lies beneath a mount of another disk is on the volume around it.
        root.mounts.push(Mount { point: "/var/tmp".into(), what: MountedOn::Elsewhere("tmpfs".into()) });
        assert_eq!(root.place_of(b"/var/tmp/x"), place("p2", "/tmp/x"));
    }

    #[test]
    fn a_mount_shows_a_directory_of_a_volume() {
        let mounts = [("/home", place("p1", "/@home")), ("/mnt/all", place("p1", "/"))];
        let root = root(place("p1", "/@"), &mounts);
        assert_eq!(root.place_of(b"/home/ada"), place("p1", "/@home/ada"));
        assert_eq!(root.place_of(b"/etc"), place("p1", "/@/etc"));
        assert_eq!(root.place_of(b"/"), place("p1", "/@"));
        assert_eq!(root.place_of(b"/mnt/all/@/etc"), place("p1", "/@/etc"));
        for (at, seen) in [("/@/etc", "/etc"), ("/@home", "/home"), ("/@", "/"), ("/@old", "/mnt/all/@old")] {
            assert_eq!(root.path_of(&place("p1", at)), Some(seen.into()), "{at}");
        }
        assert!(root.is_top(&place("p1", "/@home")) && !root.is_top(&place("p1", "/@/home")));
    }
}
