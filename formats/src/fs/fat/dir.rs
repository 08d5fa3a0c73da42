//! Directory entries (FAT specification 6 and 7): 32 bytes each. A long name is in entries of its own before its short
//! entry, last part first.

use super::bpb::ENTRY_SIZE;
use super::name;
use crate::bytes::{le16, le32};
use crate::fs::Timestamp;

/// `DIR_Attr`.
const ATTR_VOLUME_ID: u8 = 0x08;
const ATTR_DIRECTORY: u8 = 0x10;
/// An entry of a long name has exactly this value, as for the kernel: with any other bit set it is a volume label.
const ATTR_LONG_NAME: u8 = 0x0f;

/// The first byte of `DIR_Name` in a deleted entry, and in the first one that was never used.
const DELETED: u8 = 0xe5;
const END: u8 = 0;

const LAST_LONG_ENTRY: u8 = 0x40;
/// The most entries of a long name, of 13 units each.
const MAX_LONG_ENTRIES: u8 = 20;

pub(super) type RawEntry = [u8; ENTRY_SIZE];

/// A short entry: a file, a directory or a volume label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShortEntry {
    pub(super) dir_name: [u8; 11],
    pub(super) dir_attr: u8,
    pub(super) dir_nt_res: u8,
    pub(super) created: Option<Timestamp>,
    pub(super) accessed: Option<Timestamp>,
    pub(super) written: Option<Timestamp>,
    /// The high half is used on FAT32 only.
    pub(super) dir_fst_clus_hi: u16,
    pub(super) dir_fst_clus_lo: u16,
    pub(super) dir_file_size: u32,
}

impl ShortEntry {
    /// Parses an entry that is known to be a short one.
    fn parse(raw: &RawEntry) -> Self {
        ShortEntry {
            dir_name: raw[..11].try_into().expect("sliced to size"),
            dir_attr: raw[11],
            dir_nt_res: raw[12],
            created: timestamp(le16(raw, 16), le16(raw, 14), raw[13]),
            accessed: timestamp(le16(raw, 18), 0, 0),
            written: timestamp(le16(raw, 24), le16(raw, 22), 0),
            dir_fst_clus_hi: le16(raw, 20),
            dir_fst_clus_lo: le16(raw, 26),
            dir_file_size: le32(raw, 28),
        }
    }

    pub(super) fn is_dir(&self) -> bool {
        self.dir_attr & ATTR_DIRECTORY != 0
    }

    /// Returns true if it is really a label, and not an entry that is only skipped like one: an entry of a long name
    /// with a stray bit, or a directory.
    pub(super) fn is_label(&self) -> bool {
        self.dir_attr & (ATTR_VOLUME_ID | ATTR_DIRECTORY) == ATTR_VOLUME_ID
            && self.dir_attr & ATTR_LONG_NAME != ATTR_LONG_NAME
    }

    /// Returns true if it is `.` or `..`.
    fn is_dot(&self) -> bool {
        matches!(&self.dir_name, b".          " | b"..         ")
    }
}

/// A 32-byte slot of a directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// No entry from here on was ever used.
    End,
    /// A deleted entry.
    Deleted,
    /// A part of a long name.
    Long(LongEntry),
    /// A volume label.
    Label(ShortEntry),
    /// `.` or `..`.
    Dot,
    /// A file or directory.
    Short(ShortEntry),
}

impl Slot {
    pub(super) fn parse(raw: &RawEntry) -> Self {
        match (raw[0], raw[11]) {
            (END, _) => Slot::End,
            (DELETED, _) => Slot::Deleted,
            (_, ATTR_LONG_NAME) => Slot::Long(LongEntry::parse(raw)),
            (_, attr) if attr & ATTR_VOLUME_ID != 0 => Slot::Label(ShortEntry::parse(raw)),
            _ => {
                let entry = ShortEntry::parse(raw);
                if entry.is_dot() { Slot::Dot } else { Slot::Short(entry) }
            }
        }
    }
}

/// A part of a long name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LongEntry {
    ldir_ord: u8,
    ldir_chksum: u8,
    units: [u16; 13],
}

impl LongEntry {
    fn parse(raw: &RawEntry) -> Self {
        // LDIR_Name1 to LDIR_Name3.
        let offsets = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
        let mut units = [0; 13];
        for (unit, offset) in units.iter_mut().zip(offsets) {
            *unit = le16(raw, offset);
        }
        LongEntry { ldir_ord: raw[0], ldir_chksum: raw[13], units }
    }
}

/// An assembler of long names. Parts that do not follow each other, or do not belong to the short entry after them,
/// were left by a system without long names: they are ignored.
#[derive(Debug, Default)]
pub(super) struct LongName {
    /// The number of the next part, counting down; 0 when the name is complete.
    due: u8,
    checksum: u8,
    /// The parts so far, in the order of reading.
    parts: Vec<[u16; 13]>,
}

impl LongName {
    /// Adds the next part.
    pub(super) fn add(&mut self, part: &LongEntry) {
        if !self.parts.is_empty()
            && self.due > 0
            && part.ldir_ord == self.due
            && part.ldir_chksum == self.checksum
        {
            self.due -= 1;
            self.parts.push(part.units);
            return;
        }
        self.parts.clear();
        let count = part.ldir_ord & !LAST_LONG_ENTRY;
        if part.ldir_ord & LAST_LONG_ENTRY != 0 && (1..=MAX_LONG_ENTRIES).contains(&count) {
            self.due = count - 1;
            self.checksum = part.ldir_chksum;
            self.parts.push(part.units);
        }
    }

    /// Forgets the parts: the next entry is not their short entry.
    pub(super) fn clear(&mut self) {
        self.parts.clear();
    }

    /// Returns the name in UTF-16, if it is complete and belongs to the short entry with this name; forgets the parts.
    pub(super) fn take(&mut self, dir_name: &[u8; 11]) -> Option<Vec<u16>> {
        let parts = std::mem::take(&mut self.parts);
        if parts.is_empty() || self.due > 0 || self.checksum != name::checksum(dir_name) {
            return None;
        }
        Some(parts.iter().rev().flatten().copied().take_while(|unit| *unit != 0).collect())
    }
}

/// Converts a date (years from 1980 in 7 bits, month in 4, day in 5), a time (hours in 5 bits, minutes in 6, halved
/// seconds in 5) and hundredths of a second up to 199. Returns `None` if any of them is out of range, as in an entry
/// that has no date.
fn timestamp(date: u16, time: u16, hundredths: u8) -> Option<Timestamp> {
    let (year, month, day) =
        (1980 + i64::from(date >> 9), i64::from(date >> 5 & 0xf), i64::from(date & 0x1f));
    let (hour, minute, second) =
        (i64::from(time >> 11), i64::from(time >> 5 & 0x3f), 2 * i64::from(time & 0x1f));
    let is_leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let days_in_month = match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days_in_month).contains(&day) || hour > 23 || minute > 59 || second > 59 || hundredths > 199 {
        return None;
    }
    // Days since 1970, in years that begin in March, so that the leap day is the last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let hundredths = u32::from(hundredths);
    Some(Timestamp {
        secs: days * 86_400 + hour * 3600 + minute * 60 + second + i64::from(hundredths / 100),
        nanos: hundredths % 100 * 10_000_000,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(year: u16, month: u16, day: u16) -> u16 {
        (year - 1980) << 9 | month << 5 | day
    }

    fn secs(date: u16, time: u16, hundredths: u8) -> Option<(i64, u32)> {
        timestamp(date, time, hundredths).map(|t| (t.secs, t.nanos))
    }

    #[test]
    fn times_are_the_calendars() {
        // The expected values are those of `date -u -d ... +%s`.
        assert_eq!(secs(date(1980, 1, 1), 0, 0), Some((315_532_800, 0)));
        assert_eq!(secs(date(2000, 2, 29), 12 << 11 | 34 << 5 | 28, 0), Some((951_827_696, 0)));
        assert_eq!(
            secs(date(2024, 12, 31), 23 << 11 | 59 << 5 | 29, 199),
            Some((1_735_689_599, 990_000_000))
        );
        assert_eq!(secs(date(2107, 12, 31), 0, 0), Some((4_354_732_800, 0)));
        assert_eq!(secs(date(2100, 3, 1), 0, 101), Some((4_107_542_401, 10_000_000)));
    }

    #[test]
    fn times_out_of_range_are_none() {
        for (year, month, day) in [(1980, 0, 1), (1980, 13, 1), (1980, 1, 0), (2100, 2, 29), (2001, 4, 31)] {
            assert_eq!(secs(date(year, month, day), 0, 0), None, "{year}-{month}-{day}");
        }
        let day = date(2001, 1, 1);
        for (time, hundredths) in [(24 << 11, 0), (60 << 5, 0), (30, 0), (0, 200)] {
            assert_eq!(secs(day, time, hundredths), None, "{time:#x} {hundredths}");
        }
    }

    fn part(ord: u8, text: &str, dir_name: &[u8; 11]) -> LongEntry {
        let mut units = [0xffff; 13];
        for (unit, c) in units.iter_mut().zip(text.encode_utf16().chain([0])) {
            *unit = c;
        }
        LongEntry { ldir_ord: ord, ldir_chksum: name::checksum(dir_name), units }
    }

    const SHORT: &[u8; 11] = b"A~1     TXT";

    fn assemble(parts: &[LongEntry]) -> Option<String> {
        let mut long = LongName::default();
        for part in parts {
            long.add(part);
        }
        long.take(SHORT).map(|units| String::from_utf16(&units).unwrap())
    }

    #[test]
    fn a_long_name_is_its_parts_from_the_back() {
        assert_eq!(assemble(&[part(0x41, "a.text", SHORT)]).as_deref(), Some("a.text"));
        let parts = [part(0x42, "tail", SHORT), part(1, "thirteen char", SHORT)];
        assert_eq!(assemble(&parts).as_deref(), Some("thirteen chartail"));
    }

    #[test]
    fn parts_that_do_not_belong_together_are_ignored() {
        let (a, b) = (part(0x42, "tail", SHORT), part(1, "thirteen char", SHORT));
        let other = part(1, "thirteen char", b"OTHER   TXT");
        assert_eq!(assemble(std::slice::from_ref(&a)), None, "the first part is missing");
        assert_eq!(assemble(std::slice::from_ref(&b)), None, "the last part is missing");
        assert_eq!(assemble(&[b.clone(), a.clone()]), None, "the wrong way round");
        assert_eq!(assemble(&[a.clone(), other.clone()]), None, "of two names");
        assert_eq!(assemble(&[part(0x41, "a", b"OTHER   TXT")]), None, "of another short name");
        assert_eq!(assemble(&[part(0x40, "a", SHORT)]), None, "of no parts");
        assert_eq!(assemble(&[part(0x55, "a", SHORT)]), None, "of too many parts");
        // An orphan before a good name is harmless.
        assert_eq!(assemble(&[a.clone(), part(0x41, "good", SHORT)]).as_deref(), Some("good"));
        assert_eq!(assemble(&[a, b.clone(), b]), None, "one part twice");
    }

    #[test]
    fn slots_are_told_apart_by_their_first_byte_and_attributes() {
        let mut raw = [0; 32];
        assert_eq!(Slot::parse(&raw), Slot::End);
        raw[..11].copy_from_slice(b"NAME    TXT");
        assert!(matches!(Slot::parse(&raw), Slot::Short(e) if !e.is_dir()));
        raw[11] = 0x10;
        assert!(matches!(Slot::parse(&raw), Slot::Short(e) if e.is_dir()));
        raw[11] = 0x28;
        assert!(matches!(Slot::parse(&raw), Slot::Label(_)));
        raw[11] = 0x0f;
        assert!(matches!(Slot::parse(&raw), Slot::Long(_)));
        raw[11] = 0x4f;
        assert!(matches!(Slot::parse(&raw), Slot::Label(_)));
        raw[0] = 0xe5;
        assert_eq!(Slot::parse(&raw), Slot::Deleted);
        raw[..11].copy_from_slice(b"..         ");
        raw[11] = 0x10;
        assert_eq!(Slot::parse(&raw), Slot::Dot);
    }
}
