//! VHD: the format of Virtual PC and the first of Hyper-V; fixed, dynamic and differencing.
//!
//! ```text
//! fixed:    the disk │ footer
//! dynamic:  footer │ header │ block allocation table │ blocks: sector bitmap, data │ footer
//! ```

mod footer;
mod write;

use std::sync::Arc;

use self::footer::{COOKIE, DiskType, FOOTER, Footer, HEADER, Header, SECTOR};
use super::mapped::{Map, Mapped, Place, Run, entries_to_look_at};
use super::opener::{advise_parent, find_named};
use super::{CreateOptions, Disk, Format, ImageFile, Observer, Opener, Output, human};
use crate::bytes::be32;
use crate::cache::Cache;
use crate::error::{Result, at};
use crate::source::Source;

const ABSENT: u32 = 0xffff_ffff;
/// The size of the cache of sector bitmaps in bytes.
const BITMAP_CACHE: usize = 4 << 20;
/// The longest name of a parent, in bytes.
const MAX_NAME: u32 = 4096;

pub(super) struct Vhd;

impl Format for Vhd {
    fn name(&self) -> &'static str {
        "vpc"
    }

    fn suffixes(&self) -> &'static [&'static str] {
        &["vhd", "avhd"]
    }

    fn probe(&self, head: &[u8], tail: &[u8], len: u64) -> bool {
        // A fixed disk has a footer only at its end. Another file that ends like that does not have the size in the
        // footer.
        let fixed = tail.len().checked_sub(FOOTER).and_then(|at| Footer::parse(&tail[at..]).ok());
        head.starts_with(&COOKIE)
            || fixed.is_some_and(|f| {
                f.disk_type == DiskType::Fixed && f.current_size.checked_add(512) == Some(len)
            })
    }

    fn open(&self, file: ImageFile, opener: &Opener<'_>) -> Result<Disk> {
        let (footer, mut warnings) = read_footer(&file)?;
        let subformat = match footer.disk_type {
            DiskType::Fixed => "fixed",
            DiskType::Dynamic => "dynamic",
            DiskType::Differencing => "differencing",
        };
        let mut details = vec![("subformat".to_owned(), subformat.to_owned())];
        describe_size(&footer, &mut details, &mut warnings);
        let mut files = vec![file.opened()];
        if footer.disk_type == DiskType::Fixed {
            if footer.size + FOOTER as u64 > file.len() {
                return Err(at("VHD footer").field("current_size").corrupt(format!(
                    "is {}, but the file has {} bytes; is the file truncated?",
                    footer.size,
                    file.len()
                )));
            }
            let source = Arc::new(crate::source::Slice::new(file, 0..footer.size)?);
            return Ok(Disk {
                source,
                format: "vpc",
                details,
                files,
                own_files: 1,
                warnings,
                decrypted: Vec::new(),
            });
        }
        let header = Header::parse(&file.read_up_to(footer.data_offset, HEADER)?)?;
        details.push(("block size".to_owned(), human(header.block_size.into())));
        let mut backing = None;
        if footer.disk_type == DiskType::Differencing {
            let (name, parent) = match opener.parent_file()? {
                Some(parent) => {
                    warnings.extend(check_parent(&file, &header, &parent).err().map(|e| e.to_string()));
                    (parent.path().as_os_str().as_encoded_bytes().to_vec(), parent)
                }
                None => find_parent(&file, &header, opener)?,
            };
            details.push(("parent".to_owned(), String::from_utf8_lossy(&name).into_owned()));
            let below = opener.open_backing(&file, parent, Some("vpc"))?;
            files.extend(below.files);
            warnings.extend(below.warnings);
            backing = Some(below.source);
        }
        let source = Arc::new(Mapped::new(Blocks::new(file, &footer, &header)?, backing));
        Ok(Disk { source, format: "vpc", details, files, own_files: 1, warnings, decrypted: Vec::new() })
    }

    fn has_identity(&self) -> bool {
        true
    }

    fn create(
        &self,
        source: &dyn Source,
        output: &mut Output,
        options: &CreateOptions,
        observer: &dyn Observer,
    ) -> Result<()> {
        write::create(source, output, options, observer)
    }
}

/// Describes creator and sizes. Most footers have two sizes, because the geometry is rounded down; this is a warning
/// only if the smaller one is used.
fn describe_size(footer: &Footer, details: &mut Vec<(String, String)>, warnings: &mut Vec<String>) {
    let creator = footer.creator.escape_ascii();
    details.push(("creator".to_owned(), creator.to_string()));
    details.push(("UUID".to_owned(), crate::uuid::text(&footer.unique_id)));
    let by_geometry = footer.geometry_size();
    if by_geometry != footer.current_size {
        let (cylinders, heads, sectors) = footer.geometry;
        let said =
            format!("{cylinders}/{heads}/{sectors} ({by_geometry} bytes; the size is {})", footer.size);
        details.push(("geometry".to_owned(), said));
    }
    let left_out = footer.current_size.saturating_sub(footer.size);
    if left_out >= SECTOR {
        warnings.push(format!(
            "the footer says {} bytes, but its geometry {by_geometry}; the geometry is right for a disk created by \
             \"{creator}\", so the last {left_out} bytes are not part of the disk",
            footer.current_size
        ));
    } else if left_out > 0 {
        let size = footer.current_size;
        warnings.push(format!(
            "the disk size is {size} bytes; the last {left_out} bytes are less than a sector and are ignored"
        ));
    }
}

/// Reads the footer at the front, which dynamic disks have, or the one at the end.
fn read_footer(file: &ImageFile) -> Result<(Footer, Vec<String>)> {
    let front = file.read_up_to(0, FOOTER)?;
    let end = file.len().saturating_sub(FOOTER as u64);
    let at_end = || Footer::parse(&file.read_up_to(end, FOOTER)?);
    if !front.starts_with(&COOKIE) {
        return Ok((at_end()?, Vec::new()));
    }
    match (Footer::parse(&front), at_end()) {
        (Ok(footer), _) => Ok((footer, Vec::new())),
        (Err(damage), Ok(footer)) => {
            Ok((footer, vec![format!("the copy of the footer at the front is damaged ({damage})")]))
        }
        (Err(damage), Err(_)) => Err(damage),
    }
}

/// Finds the parent by the first of its names that leads to a file with the parent's ID.
fn find_parent(file: &ImageFile, header: &Header, opener: &Opener<'_>) -> Result<(Vec<u8>, ImageFile)> {
    let mut names = Vec::new();
    for locator in &header.locators {
        if locator.len > MAX_NAME {
            continue;
        }
        let bytes = file.read_up_to(locator.offset, locator.len as usize)?;
        match &locator.platform {
            b"W2ru" | b"W2ku" => names.push(utf16(&bytes, u16::from_le_bytes)),
            // A URL in UTF-8, written by Xen's tools.
            b"MacX" => {
                let url = bytes.split(|b| *b == 0).next().unwrap_or_default();
                let path = url.strip_prefix(b"file://localhost").or(url.strip_prefix(b"file://"));
                names.push(path.unwrap_or(url).to_vec());
            }
            _ => {}
        }
    }
    // The name should be big-endian like all numbers; some programs write it in little-endian.
    names.push(utf16(&header.parent_name, u16::from_be_bytes));
    names.push(utf16(&header.parent_name, u16::from_le_bytes));
    names.retain(|name| !name.is_empty());
    let found = find_named(&names, |name| {
        let parent = opener.open_named(file.path(), name)?;
        check_parent(file, header, &parent).map(|()| parent)
    });
    found.map_err(advise_parent)
}

/// Converts UTF-16, up to its end or the first NUL, to UTF-8.
fn utf16(bytes: &[u8], unit: impl Fn([u8; 2]) -> u16) -> Vec<u8> {
    let units = bytes.chunks_exact(2).map(|u| unit([u[0], u[1]])).take_while(|u| *u != 0);
    char::decode_utf16(units).map(|c| c.unwrap_or('\u{fffd}')).collect::<String>().into_bytes()
}

/// Fails unless `parent` has the ID in the header.
fn check_parent(file: &ImageFile, header: &Header, parent: &ImageFile) -> Result<()> {
    let (footer, _) = read_footer(parent).map_err(|e| e.in_file(parent.path()))?;
    match footer.unique_id == header.parent_unique_id {
        true => Ok(()),
        false => Err(at("VHD dynamic disk header")
            .file(file.path())
            .field("parent_unique_id")
            .corrupt(format!("does not match {}, which was changed or replaced", parent.path().display()))),
    }
}

struct Blocks {
    file: ImageFile,
    /// In bytes.
    size: u64,
    /// In bytes.
    block: u64,
    /// Offsets of blocks, in sectors.
    table: Vec<u32>,
    /// True if the bitmaps mark sectors of the parent; without a parent they have no meaning.
    differencing: bool,
    bitmaps: Cache<Vec<u8>>,
}

impl Blocks {
    fn new(file: ImageFile, footer: &Footer, header: &Header) -> Result<Self> {
        let block = u64::from(header.block_size);
        let entries = footer.size.div_ceil(block);
        let place = || at("VHD block allocation table").byte(header.table_offset);
        if entries > u64::from(header.max_table_entries) {
            return Err(place()
                .corrupt(format!("has {} entries, but the disk needs {entries}", header.max_table_entries)));
        }
        if header.table_offset.checked_add(entries * 4).is_none_or(|end| end > file.len()) {
            let problem =
                format!("extends past the end of the file at {}; is the file truncated?", file.len());
            return Err(place().corrupt(problem));
        }
        let bytes = file.read_vec(header.table_offset, entries as usize * 4)?;
        Ok(Blocks {
            file,
            size: footer.size,
            block,
            table: bytes.chunks_exact(4).map(|entry| be32(entry, 0)).collect(),
            differencing: footer.disk_type == DiskType::Differencing,
            bitmaps: Cache::new(BITMAP_CACHE),
        })
    }

    /// Returns the length of a block's sector bitmap in bytes: whole sectors.
    fn bitmap_len(&self) -> u64 {
        (self.block / SECTOR).div_ceil(8).next_multiple_of(SECTOR)
    }

    /// Returns how many sectors from `sector` of the block at `offset` on are in the same state, and whether they are
    /// present.
    fn sectors_at(&self, offset: u64, sector: u64) -> Result<(u64, bool)> {
        let bitmap = self.bitmaps.get(offset, self.bitmap_len() as usize, || {
            self.file.read_vec(offset, self.bitmap_len() as usize)
        })?;
        let here = |sector: u64| bitmap[(sector / 8) as usize] >> (7 - sector % 8) & 1 == 1;
        let first = here(sector);
        let same = (sector..self.block / SECTOR).take_while(|s| here(*s) == first).count();
        Ok((same as u64, first))
    }
}

impl Map for Blocks {
    fn len(&self) -> u64 {
        self.size
    }

    fn run_at(&self, offset: u64, wanted: u64) -> Result<Run> {
        let (index, within) = ((offset / self.block) as usize, offset % self.block);
        if self.table[index] == ABSENT {
            let look = entries_to_look_at(wanted, self.block);
            let absent = self.table[index..].iter().take(look).take_while(|e| **e == ABSENT).count() as u64;
            return Ok(Run { len: absent * self.block - within, place: Place::Backing });
        }
        let bitmap = u64::from(self.table[index]) * SECTOR;
        let data = bitmap + self.bitmap_len();
        let needed = self.block.min(self.size - (offset - within));
        if data + needed > self.file.len() {
            return Err(at("VHD block").file(self.file.path()).byte(bitmap).corrupt(format!(
                "extends past the end of the file at {}; is the file truncated?",
                self.file.len()
            )));
        }
        let place = Place::Stored { file: 0, offset: data + within };
        if !self.differencing {
            return Ok(Run { len: self.block - within, place });
        }
        let (sectors, here) = self.sectors_at(bitmap, within / SECTOR)?;
        let len = (within / SECTOR + sectors) * SECTOR - within;
        Ok(Run { len, place: if here { place } else { Place::Backing } })
    }

    fn file(&self, _: usize) -> &ImageFile {
        &self.file
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::{OpenOptions, open};
    use crate::error::ErrorKind;
    use crate::source::MemSource;
    use std::path::Path;

    const SIZE: u64 = (4 << 20) + 512;

    fn write_parent(path: &Path) {
        let mut output = Output::new(path, true).unwrap();
        let source = MemSource(vec![1; SIZE as usize]);
        Vhd.create(&source, &mut output, &Vec::new(), &()).unwrap();
        output.commit().unwrap();
    }

    /// Returns a child that has its own sectors 3, 4 and 100.
    fn child(parent_id: [u8; 16]) -> Vec<u8> {
        let footer = write::footer(SIZE, DiskType::Differencing, &[7; 16]);
        let mut header = write::dynamic_header(3);
        header[40..56].copy_from_slice(&parent_id);
        let name: Vec<u8> = ".\\parent.vhd".encode_utf16().flat_map(u16::to_le_bytes).collect();
        header[576..580].copy_from_slice(b"W2ru");
        header[584..588].copy_from_slice(&(name.len() as u32).to_be_bytes());
        header[592..600].copy_from_slice(&2048u64.to_be_bytes());
        header[36..40].fill(0);
        let sum = footer::checksum(&header, 36);
        header[36..40].copy_from_slice(&sum.to_be_bytes());
        let mut bytes = [footer.clone(), header].concat();
        bytes.extend(6u32.to_be_bytes());
        bytes.resize(2048, 0xff);
        bytes.extend(name);
        bytes.resize(6 * 512, 0);
        let mut bitmap = [0; 512];
        (bitmap[0], bitmap[12]) = (0b0001_1000, 0b0000_1000);
        bytes.extend(bitmap);
        bytes.extend(vec![2; 2 << 20]);
        bytes.extend(footer);
        bytes
    }

    #[test]
    fn a_differencing_disk_has_its_own_sectors_over_its_parents() {
        let dir = tempfile::tempdir().unwrap();
        write_parent(&dir.path().join("parent.vhd"));
        let parent = std::fs::read(dir.path().join("parent.vhd")).unwrap();
        let id: [u8; 16] = parent[68..84].try_into().unwrap();
        let path = dir.path().join("child.vhd");
        std::fs::write(&path, child(id)).unwrap();
        let disk = open(&path, &OpenOptions::default()).unwrap();
        assert_eq!(disk.files.len(), 2);
        let mut expected = vec![1; SIZE as usize];
        for sector in [3, 4, 100] {
            expected[sector * 512..][..512].fill(2);
        }
        assert!(disk.source.read_vec(0, SIZE as usize).unwrap() == expected);
        std::fs::write(&path, child([9; 16])).unwrap();
        let error = open(&path, &OpenOptions::default()).err().unwrap();
        assert_eq!(
            (error.kind(), error.to_string().contains("parent_unique_id")),
            (ErrorKind::Corrupt, true)
        );
        // A name over the limit is skipped; here there is no other.
        let mut long = child(id);
        long[512 + 584..512 + 588].copy_from_slice(&(MAX_NAME + 1).to_be_bytes());
        long[512 + 36..512 + 40].fill(0);
        let sum = footer::checksum(&long[512..1536], 36);
        long[512 + 36..512 + 40].copy_from_slice(&sum.to_be_bytes());
        std::fs::write(&path, long).unwrap();
        let error = open(&path, &OpenOptions::default()).err().unwrap().to_string();
        assert!(error.contains("does not name one"), "{error}");
        // A URL of Xen's tools, and the name in the header in either byte order.
        let name = |order: fn(u16) -> [u8; 2]| {
            "C:\\x\\parent.vhd".encode_utf16().flat_map(order).collect::<Vec<u8>>()
        };
        let in_header = [name(u16::to_be_bytes), name(u16::to_le_bytes)];
        let url = [b"file://./parent.vhd\0"].map(|url| url.to_vec());
        for (place, bytes) in in_header.iter().map(|n| (512 + 64, n)).chain(url.iter().map(|u| (2048, u))) {
            let mut other = child(id);
            other[place..place + bytes.len()].copy_from_slice(bytes);
            let platform: &[u8; 4] = if place == 2048 { b"MacX" } else { &[0; 4] };
            other[512 + 576..512 + 580].copy_from_slice(platform);
            other[512 + 36..512 + 40].fill(0);
            let sum = footer::checksum(&other[512..1536], 36);
            other[512 + 36..512 + 40].copy_from_slice(&sum.to_be_bytes());
            std::fs::write(&path, other).unwrap();
            let disk = open(&path, &OpenOptions::default()).unwrap();
            assert_eq!(disk.source.read_vec(0, 1).unwrap(), [1], "{}", bytes.escape_ascii());
        }
        std::fs::write(&path, child(id)).unwrap();
        std::fs::remove_file(dir.path().join("parent.vhd")).unwrap();
        assert_eq!(open(&path, &OpenOptions::default()).err().unwrap().kind(), ErrorKind::NotFound);
    }
}
