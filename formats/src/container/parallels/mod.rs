//! Parallels: expanding disks of Parallels Desktop and Virtuozzo (QEMU's `docs/interop/parallels`), read-only. All numbers
//! are little-endian.
//!
//! ```text
//! header │ BAT: a u32 a cluster │ clusters
//! ```
//!
//! `bundle.rs` reads a disk of several such files.

mod bundle;

use std::sync::Arc;

use super::mapped::{Map, Mapped, Place, Run, entries_to_look_at};
use super::{CreateOptions, Disk, Format, ImageFile, MAX_DISK, Observer, Opener, Output, human};
use crate::bytes::{le32, le64};
use crate::error::{Result, at};
use crate::source::Source;

pub(super) use self::bundle::{DESCRIPTOR, Descriptor, MAX_DESCRIPTOR};

/// The magic of images whose BAT counts in sectors, and whose size has 32 bits.
const MAGIC: &[u8; 16] = b"WithoutFreeSpace";
/// The magic of images whose BAT counts in clusters.
const MAGIC_EXTENDED: &[u8; 16] = b"WithouFreSpacExt";
const HEADER: usize = 64;
const SECTOR: u64 = 512;
/// `in_use` of an image that is open, or was not closed.
const IN_USE: u32 = 0x746f_6e59;
/// The bit of `flags` of an image without data.
const EMPTY: u32 = 1;
/// The most entries of the BAT that are read: 64 TiB in clusters of 1 MiB, whose BAT takes 256 MiB.
const MAX_ENTRIES: u64 = 1 << 26;

pub(super) struct Parallels;

impl Format for Parallels {
    fn name(&self) -> &'static str {
        "parallels"
    }

    fn suffixes(&self) -> &'static [&'static str] {
        &[]
    }

    fn probe(&self, head: &[u8], _: &[u8], _: u64) -> bool {
        head.len() >= HEADER && (head.starts_with(MAGIC) || head.starts_with(MAGIC_EXTENDED))
            || bundle::is_descriptor(head)
    }

    fn open(&self, file: ImageFile, opener: &Opener<'_>) -> Result<Disk> {
        let head = file.read_up_to(0, 4096)?;
        if bundle::is_descriptor(&head) {
            return bundle::open(&file, opener);
        }
        if let Some(snapshot) = &opener.options().snapshot {
            return Err(at("").unsupported(format!(
                "--snapshot {snapshot:?}: the snapshots of a Parallels disk are in its descriptor; name that, or its \
                 directory"
            )));
        }
        let header = Header::parse(&head[..head.len().min(HEADER)])?;
        let details = vec![("cluster size".to_owned(), human(header.cluster()))];
        let mut warnings: Vec<String> = header.warning().map(str::to_owned).into_iter().collect();
        let files = vec![file.opened()];
        let clusters = Clusters::new(file, header, false)?;
        if clusters.header.flags & EMPTY != 0 && clusters.bat.iter().any(|entry| *entry != 0) {
            warnings
                .push("the header says that the disk is empty, but it has data, which is read".to_owned());
        }
        let source = Arc::new(Mapped::new(clusters, None));
        Ok(Disk {
            source,
            format: "parallels",
            details,
            files,
            own_files: 1,
            warnings,
            decrypted: Vec::new(),
        })
    }

    fn create(&self, _: &dyn Source, output: &mut Output, _: &CreateOptions, _: &dyn Observer) -> Result<()> {
        Err(at("").file(output.target()).unsupported("mif reads Parallels images but does not write them"))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    /// The unit of the BAT, in bytes: a sector, or a cluster.
    unit: u64,
    /// The size of a cluster, in sectors.
    tracks: u32,
    /// The number of entries in the BAT.
    bat_entries: u32,
    /// The size of the disk, in sectors.
    nb_sectors: u64,
    in_use: u32,
    flags: u32,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let place = |field, byte| at("Parallels header").field(field).byte(byte);
        if bytes.len() < HEADER {
            return Err(at("Parallels header").byte(0).corrupt("the file ends within it"));
        }
        let is_extended = bytes.starts_with(MAGIC_EXTENDED);
        if !is_extended && !bytes.starts_with(MAGIC) {
            return Err(place("magic", 0).corrupt("is wrong, so this is not a Parallels image"));
        }
        let version = le32(bytes, 16);
        if version != 2 {
            return Err(place("version", 16).unsupported(format!("is {version}, expected 2")));
        }
        let tracks = le32(bytes, 28);
        if tracks == 0 || tracks > i32::MAX as u32 / 513 {
            return Err(place("tracks", 28).corrupt(format!("is {tracks}")));
        }
        let header = Header {
            unit: if is_extended { u64::from(tracks) * SECTOR } else { SECTOR },
            tracks,
            bat_entries: le32(bytes, 32),
            nb_sectors: if is_extended { le64(bytes, 36) } else { le32(bytes, 36).into() },
            in_use: le32(bytes, 44),
            flags: le32(bytes, 52),
        };
        if header.nb_sectors > MAX_DISK / SECTOR {
            let problem = format!("is {}, over the limit of {}", header.nb_sectors, human(MAX_DISK));
            return Err(place("nb_sectors", 36).limit(problem));
        }
        if header.needed() > MAX_ENTRIES {
            return Err(
                place("nb_bat_entries", 32).limit(format!("is {}, over {MAX_ENTRIES}", header.bat_entries))
            );
        }
        Ok(header)
    }

    /// Returns the number of entries of the BAT that the disk needs and has.
    fn needed(&self) -> u64 {
        self.nb_sectors.div_ceil(self.tracks.into()).min(self.bat_entries.into())
    }

    /// Returns a warning if the last writes may be missing.
    fn warning(&self) -> Option<&'static str> {
        (self.in_use == IN_USE)
            .then_some("the image was not closed properly (in_use): the last writes may be missing")
    }

    /// Returns the size of a cluster in bytes.
    fn cluster(&self) -> u64 {
        u64::from(self.tracks) * SECTOR
    }
}

struct Clusters {
    file: ImageFile,
    header: Header,
    /// The place of each cluster in the file, in units; 0 if it is not there. As in qemu, so are clusters without an entry.
    bat: Vec<u32>,
    /// Where clusters are that are not there: on the disk of the snapshot before, or nowhere.
    absent: Place,
}

impl Clusters {
    fn new(file: ImageFile, header: Header, has_backing: bool) -> Result<Self> {
        let needed = header.needed();
        if HEADER as u64 + needed * 4 > file.len() {
            return Err(at("Parallels BAT").byte(HEADER as u64).corrupt(format!(
                "extends past the end of the file at {}; is the file truncated?",
                file.len()
            )));
        }
        let bytes = file.read_vec(HEADER as u64, needed as usize * 4)?;
        let bat = bytes.chunks_exact(4).map(|entry| le32(entry, 0)).collect();
        let absent = if has_backing { Place::Backing } else { Place::Zero };
        Ok(Clusters { file, header, bat, absent })
    }
}

impl Map for Clusters {
    fn len(&self) -> u64 {
        self.header.nb_sectors * SECTOR
    }

    fn run_at(&self, offset: u64, wanted: u64) -> Result<Run> {
        let cluster = self.header.cluster();
        let (index, within) = ((offset / cluster) as usize, offset % cluster);
        let Some(&first) = self.bat.get(index) else {
            return Ok(Run { len: self.len() - offset, place: self.absent });
        };
        let per_cluster = cluster / self.header.unit;
        let follows = |(i, entry): &(usize, &u32)| match first {
            0 => **entry == 0,
            _ => u64::from(**entry) == u64::from(first) + *i as u64 * per_cluster,
        };
        let rest = self.bat[index..].iter().enumerate().take(entries_to_look_at(wanted, cluster));
        let len = rest.take_while(follows).count() as u64 * cluster - within;
        if first == 0 {
            return Ok(Run { len, place: self.absent });
        }
        let start = u64::from(first) * self.header.unit;
        let place = || at("Parallels cluster").file(self.file.path()).byte(start);
        if start < HEADER as u64 + self.bat.len() as u64 * 4 {
            return Err(place().corrupt("overlaps the BAT"));
        }
        let there = self.file.len().saturating_sub(start);
        // The last cluster of the disk may be partial.
        let needed = cluster.min(self.len() - (offset - within));
        if there < needed {
            return Err(place().corrupt(format!(
                "extends past the end of the file at {}; is the file truncated?",
                self.file.len()
            )));
        }
        // Truncated clusters are refused when they are read.
        let len = len.min((there / cluster * cluster).max(needed) - within);
        Ok(Run { len, place: Place::Stored { file: 0, offset: start + within } })
    }

    fn file(&self, _: usize) -> &ImageFile {
        &self.file
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn each_field_is_checked() {
        let mut good = vec![0; HEADER];
        good[..16].copy_from_slice(MAGIC_EXTENDED);
        for (at, value) in [(16, 2_u32), (28, 2048), (32, 10), (36, 20480), (48, 1)] {
            good[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        assert_eq!(Header::parse(&good).unwrap().unit, 1 << 20);
        let kind = |at: usize, value: &[u8]| {
            let mut bytes = good.clone();
            bytes[at..at + value.len()].copy_from_slice(value);
            Header::parse(&bytes).err().map(|e| e.kind())
        };
        assert_eq!(kind(0, b"X"), Some(ErrorKind::Corrupt));
        assert_eq!(kind(16, &[3]), Some(ErrorKind::Unsupported));
        assert_eq!(kind(28, &[0; 4]), Some(ErrorKind::Corrupt));
        assert_eq!(kind(28, &[0xff; 4]), Some(ErrorKind::Corrupt));
        assert_eq!(kind(32, &[0xff; 4]), None);
        assert_eq!(kind(28, &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1]), Some(ErrorKind::Limit));
        assert_eq!(kind(36, &[0xff; 8]), Some(ErrorKind::Limit));
        // The older kind has 32 bits for its size.
        let mut old = good.clone();
        old[..16].copy_from_slice(MAGIC);
        old[40..44].fill(0xff);
        assert_eq!(Header::parse(&old).unwrap().nb_sectors, 20480);
        assert!(Header::parse(&good[..63]).is_err());
    }
}
