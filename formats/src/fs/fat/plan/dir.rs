//! Writes directory entries, the reverse of `fat/dir.rs`.

use super::names::Name;
use crate::fs::fat::bpb::ENTRY_SIZE;
use crate::fs::fat::name;
use crate::fs::plan::put;
use crate::fs::{FileType, Node, Timestamp};

const ATTR_DIRECTORY: u8 = 0x10;
const ATTR_VOLUME_ID: u8 = 0x08;
const ATTR_LONG_NAME: u8 = 0x0F;
const LAST_LONG_ENTRY: u8 = 0x40;
/// UTF-16 units per entry of a long name.
const UNITS: usize = 13;

/// Returns how many entries a name takes.
pub(super) fn entries(name: &Name) -> u64 {
    1 + name.long.as_ref().map_or(0, |units| units.len().div_ceil(UNITS) as u64)
}

/// Appends the entries of a file or directory that begins at `cluster` (0 for none) and has `size` bytes (0 for a
/// directory).
pub(super) fn push(bytes: &mut Vec<u8>, name: &Name, node: &Node, cluster: u32, size: u32) {
    if let Some(units) = &name.long {
        push_long(bytes, units, name::checksum(&name.short));
    }
    push_short(bytes, &name.short, node, cluster, size);
}

/// Appends `.` and `..` of a directory at `cluster`, whose parent is at `parent` (0 for the root).
pub(super) fn push_dots(bytes: &mut Vec<u8>, node: &Node, cluster: u32, parent: u32) {
    for (name, cluster) in [(b".          ", cluster), (b"..         ", parent)] {
        let plain = Node { flags: u32::from(ATTR_DIRECTORY), ..node.clone() };
        push_short(bytes, name, &plain, cluster, 0);
    }
}

/// Appends the entry of the volume's label.
pub(super) fn push_label(bytes: &mut Vec<u8>, label: &[u8; 11], written: Option<Timestamp>) {
    let mut entry = [0; ENTRY_SIZE];
    entry[..11].copy_from_slice(label);
    entry[11] = ATTR_VOLUME_ID;
    let (date, time, _) = dos_time(written);
    put::le16(&mut entry, 22, time);
    put::le16(&mut entry, 24, date);
    bytes.extend_from_slice(&entry);
}

fn push_short(bytes: &mut Vec<u8>, name: &[u8; 11], node: &Node, cluster: u32, size: u32) {
    let mut entry = [0; ENTRY_SIZE];
    entry[..11].copy_from_slice(name);
    let is_dir = node.file_type == FileType::Dir;
    let kept = node.flags as u8 & !(ATTR_DIRECTORY | ATTR_VOLUME_ID);
    entry[11] = kept | if is_dir { ATTR_DIRECTORY } else { 0 };
    entry[12] = (node.flags >> 8) as u8;
    let (date, time, hundredths) = dos_time(node.crtime);
    entry[13] = hundredths;
    put::le16(&mut entry, 14, time);
    put::le16(&mut entry, 16, date);
    put::le16(&mut entry, 18, dos_time(node.atime).0);
    put::le16(&mut entry, 20, (cluster >> 16) as u16);
    let (date, time, _) = dos_time(node.mtime);
    put::le16(&mut entry, 22, time);
    put::le16(&mut entry, 24, date);
    put::le16(&mut entry, 26, cluster as u16);
    put::le32(&mut entry, 28, size);
    bytes.extend_from_slice(&entry);
}

fn push_long(bytes: &mut Vec<u8>, units: &[u16], checksum: u8) {
    let count = units.len().div_ceil(UNITS);
    for (i, part) in units.chunks(UNITS).enumerate().rev() {
        let mut entry = [0xFF; ENTRY_SIZE];
        entry[0] = (i as u8 + 1) | if i + 1 == count { LAST_LONG_ENTRY } else { 0 };
        entry[11] = ATTR_LONG_NAME;
        entry[12] = 0;
        entry[13] = checksum;
        put::le16(&mut entry, 26, 0);
        // A part that is not full ends with a NUL.
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
        for (place, unit) in places.zip(part.iter().chain(&[0])) {
            put::le16(&mut entry, place, *unit);
        }
        bytes.extend_from_slice(&entry);
    }
}

/// Returns date, time, and hundredths of a second of the nearest time that FAT can represent. `None` is all zeros.
fn dos_time(time: Option<Timestamp>) -> (u16, u16, u8) {
    const FIRST: i64 = 315_532_800; // 1980-01-01
    const LAST: i64 = 4_354_819_199; // 2107-12-31T23:59:59
    let Some(time) = time else { return (0, 0, 0) };
    let (secs, nanos) = match time.secs {
        ..FIRST => (FIRST, 0),
        secs if secs > LAST => (LAST, 0),
        secs => (secs, time.nanos),
    };
    // Days since 1 March of the year 0, in years that begin in March.
    let days = secs / 86_400 + 719_468;
    let of_era = days % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, year) = if month < 10 { (month + 3, year) } else { (month - 9, year + 1) };
    let year = year + days / 146_097 * 400 - 1980;
    let of_day = secs % 86_400;
    let date = year << 9 | month << 5 | day;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let clock = hour << 11 | minute << 5 | (second / 2);
    (date as u16, clock as u16, (second % 2 * 100) as u8 + (nanos / 10_000_000) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dos(secs: i64, nanos: u32) -> (u16, u16, u8) {
        dos_time(Some(Timestamp { secs, nanos }))
    }

    #[test]
    fn times_are_the_calendars() {
        let date = |y: u16, m: u16, d: u16| (y - 1980) << 9 | m << 5 | d;
        // The seconds are those of `date -u -d ... +%s`.
        assert_eq!(dos(315_532_800, 0), (date(1980, 1, 1), 0, 0));
        assert_eq!(dos(951_827_697, 0), (date(2000, 2, 29), 12 << 11 | 34 << 5 | 28, 100));
        assert_eq!(dos(1_735_689_599, 990_000_000), (date(2024, 12, 31), 23 << 11 | 59 << 5 | 29, 199));
        assert_eq!(dos(4_107_542_400, 0).0, date(2100, 3, 1));
        assert_eq!(dos(4_354_732_800, 0).0, date(2107, 12, 31));
        assert_eq!(dos(0, 5), dos(315_532_800, 0));
        assert_eq!(dos(1 << 40, 5).0, date(2107, 12, 31));
        assert_eq!(dos_time(None), (0, 0, 0));
    }
}
