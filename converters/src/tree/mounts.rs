//! The mounts of `/etc/fstab` (fstab(5)): the volumes they mount, and where paths lead across them.

use mif_formats::fs::Info;
use mif_formats::mif::manifest::{Row, escape};
use mif_formats::partition::{Partition, Table};

use super::path::{Paths, Place};
use crate::error::{Error, Result};
use crate::store::{FilesystemRecord, VolumeRecord};

/// A line of fstab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The absolute directory, without a trailing slash.
    pub(crate) point: Vec<u8>,
    /// The volume or device mounted on it.
    pub(crate) what: MountedOn,
}

/// A mounted volume or device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MountedOn {
    /// A volume of the image, by name.
    Volume(String),
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

/// Returns the mounts of an fstab, except the root and swap.
pub(crate) fn read(fstab: &[u8], devices: Devices<'_>) -> Vec<Mount> {
    let lines = fstab.split(|b| *b == b'\n');
    let mounts = lines.filter_map(|line| {
        let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
        let (what, point) = (unescape(fields.next()?), unescape(fields.next()?));
        if what.starts_with(b"#") || point.first() != Some(&b'/') {
            return None;
        }
        let parts: Vec<&[u8]> = point.split(|b| *b == b'/').filter(|part| !part.is_empty()).collect();
        let point: Vec<u8> = parts.iter().flat_map(|part| [b"/", *part].concat()).collect();
        if point.is_empty() {
            return None;
        }
        let what = escape(&what);
        let what = devices.volume_of(&what).map_or(MountedOn::Elsewhere(what), MountedOn::Volume);
        Some(Mount { point, what })
    });
    mounts.collect()
}

/// A root filesystem and the mounts of its own fstab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root {
    /// Its volume.
    pub(crate) volume: String,
    /// The mounts of its `/etc/fstab`.
    pub(crate) mounts: Vec<Mount>,
}

impl Root {
    /// Returns the path at which its system sees a place, or `None` if the volume is not mounted.
    pub(crate) fn path_of(&self, place: &Place) -> Option<Vec<u8>> {
        if place.volume == self.volume {
            return Some(place.path.clone());
        }
        let point = self.point_of(&place.volume)?;
        Some(if place.path == b"/" { point.to_vec() } else { [point, &place.path[..]].concat() })
    }

    /// Returns the directory on which a volume is mounted.
    pub(crate) fn point_of(&self, volume: &str) -> Option<&[u8]> {
        let is_here = |mount: &&Mount| matches!(&mount.what, MountedOn::Volume(name) if name == volume);
        self.mounts.iter().rfind(is_here).map(|mount| &mount.point[..])
    }

    /// Returns the place of a path of its system, on the volume with the deepest mount point. Does not resolve
    /// symlinks.
    fn place_of(&self, path: &[u8]) -> Place {
        let covers = |point: &[u8]| path.strip_prefix(point).is_some_and(|rest| rest.starts_with(b"/"));
        let closest = self.mounts.iter().filter(|mount| covers(&mount.point));
        match closest.max_by_key(|mount| mount.point.len()) {
            Some(Mount { point, what: MountedOn::Volume(volume) }) => {
                Place { volume: volume.clone(), path: path[point.len()..].to_vec() }
            }
            _ => Place { volume: self.volume.clone(), path: path.to_vec() },
        }
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

    fn mounted(&self, volume: &str, path: &[u8]) -> Result<Option<String>> {
        let Some(there) = self.root.path_of(&Place { volume: volume.to_owned(), path: path.to_vec() }) else {
            return Ok(None);
        };
        let Some(mount) = self.root.mounts.iter().rfind(|mount| mount.point == there) else {
            return Ok(None);
        };
        let there = escape(&there);
        match &mount.what {
            MountedOn::Volume(name) if name == volume => Ok(None),
            MountedOn::Volume(name) if self.paths.row(name, b"/").is_some() => Ok(Some(name.clone())),
            MountedOn::Volume(name) => Err(Error::unsupported(format!(
                "{there}: on volume {name}, whose filesystem mif cannot read"
            ))),
            MountedOn::Elsewhere(_) if self.elsewhere == Elsewhere::Beneath => Ok(None),
            MountedOn::Elsewhere(what) => Err(Error::input(format!(
                "{there}: /etc/fstab mounts {what} here, which is not part of this image"
            ))
            .advise(format!(
                "To change the files under the mount point, name the volume: {volume}:{}",
                escape(path)
            ))),
        }
    }

    fn above(&self, volume: &str) -> Result<Place> {
        if volume == self.root.volume {
            return self.paths.above(volume);
        }
        match self.root.point_of(volume) {
            Some(point) => Ok(self.root.place_of(point)),
            None => self.paths.above(volume),
        }
    }

    fn root(&self, _volume: &str) -> Place {
        Place { volume: self.root.volume.clone(), path: b"/".to_vec() }
    }
}

/// Decodes a field, in which `\040` stands for a space.
fn unescape(field: &[u8]) -> Vec<u8> {
    unescaped(field, b"\\", 3, 8)
}

/// Decodes text in which `start` and a number of `digits` digits stand for a byte.
fn unescaped(text: &[u8], start: &[u8], digits: usize, radix: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let number = rest.strip_prefix(start).and_then(|rest| std::str::from_utf8(rest.get(..digits)?).ok());
        match number
            .filter(|number| !number.starts_with('+'))
            .and_then(|number| u8::from_str_radix(number, radix).ok())
        {
            Some(byte) => {
                out.push(byte);
                rest = &rest[start.len() + digits..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

impl Devices<'_> {
    /// Returns the volume that a device name in fstab means. Names of the first disk count as this disk's.
    fn volume_of(&self, what: &str) -> Option<String> {
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
            volume: (*name).to_owned(),
            content: FilesystemRecord::Filesystem(Info {
                kind: "ext4".into(),
                label: Some((*label).to_owned()),
                uuid: None,
                block_size: 4096,
                size: 0,
                free: None,
                features: Vec::new(),
                warnings: Vec::new(),
            }),
        };
        (table, volumes.iter().map(record).collect())
    }

    fn mounts(volumes: &[(&str, &str)], fstab: &str) -> Vec<Mount> {
        let (table, volumes) = disk(volumes);
        read(fstab.as_bytes(), Devices { table: &table, volumes: &volumes })
    }

    #[test]
    fn a_line_is_read_and_what_is_elsewhere_is_said() {
        let fstab = "# a comment\nUUID=1 / ext4 defaults 0 1\n/dev/sdb1 //my\\040data/ ext4 x 0 0\nUUID=2 none swap sw 0 0\n";
        let expected = Mount { point: b"/my data".to_vec(), what: MountedOn::Elsewhere("/dev/sdb1".into()) };
        assert_eq!(mounts(&[], fstab), [expected]);
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

    #[test]
    fn a_mount_inside_a_mount_is_seen_from_both_sides() {
        let volumes = [("p1", "root"), ("p2", "var"), ("p3", "log")];
        let mounts = mounts(&volumes, "LABEL=var /var ext4\nLABEL=log /var/log ext4\n");
        let root = Root { volume: "p1".into(), mounts };
        let place = |volume: &str, path: &str| Place { volume: volume.into(), path: path.into() };
        assert_eq!(root.path_of(&place("p3", "/audit")), Some(b"/var/log/audit".to_vec()));
        assert_eq!(root.path_of(&place("p2", "/")), Some(b"/var".to_vec()));
        assert_eq!(root.path_of(&place("p4", "/x")), None);
        assert_eq!(root.place_of(b"/var/log"), place("p2", "/log"));
        assert_eq!(root.place_of(b"/var/log/x"), place("p3", "/x"));
        assert_eq!(root.place_of(b"/variable"), place("p1", "/variable"));
    }
}
