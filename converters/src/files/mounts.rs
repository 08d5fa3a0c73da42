//! What `/etc/fstab` mounts, and which volume of the image that is (fstab(5)).

use mif_formats::mif::manifest::escape;

use crate::Scan;

/// A line of fstab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// The folder, absolute, without a slash at its end.
    pub(super) point: Vec<u8>,
    /// What is mounted on it.
    pub(super) what: MountedOn,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MountedOn {
    /// A volume of the image, by its name.
    Volume(String),
    /// Something else, as fstab names it.
    Elsewhere(String),
}

/// The mounts of a fstab, but for the root's and swap.
pub(super) fn read(fstab: &[u8], scan: &Scan) -> Vec<Mount> {
    let lines = fstab.split(|b| *b == b'\n');
    let mounts = lines.filter_map(|line| {
        let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
        let (what, point) = (unescape(fields.next()?), unescape(fields.next()?));
        let point = point.strip_suffix(b"/").map(<[u8]>::to_vec).unwrap_or(point);
        if what.starts_with(b"#") || point.len() < 2 || point[0] != b'/' {
            return None;
        }
        let what = escape(&what);
        let what = volume_of(&what, scan).map_or(MountedOn::Elsewhere(what), MountedOn::Volume);
        Some(Mount { point, what })
    });
    mounts.collect()
}

/// A field: `\040` stands for a space.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal =
            tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// The volume that a device's name in fstab means. Names of disks count as this disk's if they are the first.
fn volume_of(what: &str, scan: &Scan) -> Option<String> {
    let by_tag = |key: &str, value: &str| {
        let value = value.trim_matches('"');
        let same = |have: Option<&String>| have.is_some_and(|have| have.eq_ignore_ascii_case(value));
        let of_partition = |test: &dyn Fn(&mif_formats::partition::Partition) -> bool| {
            scan.table.partitions.iter().find(|p| test(p)).map(|p| crate::volume_name(p.slot))
        };
        let info = |test: &dyn Fn(&mif_formats::fs::Info) -> bool| {
            let mut volumes = scan.volumes.iter();
            volumes.find(|v| v.filesystem().is_some_and(|fs| test(fs.info()))).map(|v| v.name.clone())
        };
        match key.to_ascii_lowercase().as_str() {
            "uuid" => info(&|info| same(info.uuid.as_ref())),
            "label" => info(&|info| info.label.as_deref() == Some(value)),
            "partuuid" => of_partition(&|p| same(p.id.as_ref())),
            "partlabel" => of_partition(&|p| p.name.as_deref() == Some(value)),
            _ => None,
        }
    };
    if let Some((key, value)) = what.split_once('=') {
        return by_tag(key, value);
    }
    let device = what.strip_prefix("/dev/")?;
    if let Some((key, value)) = device.strip_prefix("disk/by-").and_then(|rest| rest.split_once('/')) {
        return by_tag(key, value);
    }
    let exists = |name: String| scan.volumes.iter().any(|volume| volume.name == name).then_some(name);
    let first_disk = ["sda", "vda", "xvda", "hda", "nvme0n1p", "mmcblk0p"];
    let slot = first_disk.iter().find_map(|disk| device.strip_prefix(disk)?.parse::<u32>().ok());
    if let Some(slot) = slot {
        return exists(crate::volume_name(slot));
    }
    // Of /dev/mapper/group-volume, a dash in either name is written twice.
    let mapped = device
        .strip_prefix("mapper/")
        .map(|name| name.replace("--", "\0").replacen('-', "/", 1).replace('\0', "-"));
    exists(mapped.unwrap_or_else(|| device.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mif_formats::source::MemSource;

    use super::*;

    #[test]
    fn a_line_is_read_and_what_is_elsewhere_is_said() {
        let scan = Scan::new(Arc::new(MemSource(vec![0; 1 << 20]))).unwrap();
        let fstab = b"# a comment\nUUID=1 / ext4 defaults 0 1\n/dev/sdb1 /my\\040data/ ext4 x 0 0\nUUID=2 none swap sw 0 0\n";
        let expected = Mount { point: b"/my data".to_vec(), what: MountedOn::Elsewhere("/dev/sdb1".into()) };
        assert_eq!(read(fstab, &scan), [expected]);
    }

    #[test]
    fn a_disk_without_a_table_is_the_first() {
        let scan = Scan::new(Arc::new(MemSource(vec![0; 1 << 20]))).unwrap();
        assert_eq!(volume_of("/dev/sda0", &scan).as_deref(), Some("p0"));
        assert_eq!(volume_of("/dev/sdb0", &scan), None);
        assert_eq!(volume_of("UUID=", &scan), None);
    }
}
