//! VDI: VirtualBox's format, static, dynamic and differencing. All numbers are little-endian.
//!
//! ```text
//! header │ block map: a u32 a block │ blocks
//! ```
//!
//! There is no specification; this follows VirtualBox and QEMU.

mod write;

use std::sync::Arc;

use super::mapped::{Map, Mapped, Place, Run, entries_to_look_at};
use super::{CreateOptions, Disk, Format, ImageFile, Observer, Opener, Output, human};
use crate::bytes::{le32, le64};
use crate::error::{Result, at};
use crate::source::Source;

const SIGNATURE: u32 = 0xbeda_107f;
const VERSION: u32 = 0x0001_0001;
const HEADER: usize = 512;
/// Entries of the block map from this value on have no block.
const FIRST_ABSENT: u32 = 0xffff_fffe;
/// The block was discarded and reads as zeros.
const DISCARDED: u32 = 0xffff_fffe;
/// `image_type` of a disk that has a parent.
const DIFFERENCING: u32 = 4;
/// The most blocks: 64 TiB in blocks of 1 MiB, whose map takes 256 MiB.
const MAX_BLOCKS: u32 = 1 << 26;
/// The largest block in bytes.
const MAX_BLOCK: u32 = 64 << 20;

pub(super) struct Vdi;

impl Format for Vdi {
    fn name(&self) -> &'static str {
        "vdi"
    }

    fn suffixes(&self) -> &'static [&'static str] {
        &["vdi"]
    }

    fn probe(&self, head: &[u8], _: &[u8], _: u64) -> bool {
        head.len() >= HEADER && le32(head, 64) == SIGNATURE
    }

    fn open(&self, file: ImageFile, opener: &Opener<'_>) -> Result<Disk> {
        let header = Header::parse(&file.read_up_to(0, HEADER)?)?;
        let mut files = vec![file.opened()];
        let subformat = match header.image_type {
            1 => "dynamic",
            2 => "static",
            _ => "differencing",
        };
        let mut details = vec![
            ("subformat".to_owned(), subformat.to_owned()),
            ("block size".to_owned(), human(header.block_size.into())),
            ("UUID".to_owned(), uuid_text(header.uuid_image)),
        ];
        let mut warnings = Vec::new();
        let mut backing = None;
        if header.image_type == DIFFERENCING {
            let below = open_parent(&file, &header, opener, &mut details, &mut warnings)?;
            files.extend(below.files);
            warnings.extend(below.warnings);
            backing = Some(below.source);
        }
        let source = Arc::new(Mapped::new(Blocks::new(file, header)?, backing));
        Ok(Disk { source, format: "vdi", details, files, own_files: 1, warnings, decrypted: Vec::new() })
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

/// Opens the parent of a differencing disk, which identifies it by UUID only. VirtualBox keeps differencing disks in
/// `Snapshots/{UUID}.vdi`, and the base disk in the parent directory under any name.
fn open_parent(
    file: &ImageFile,
    header: &Header,
    opener: &Opener<'_>,
    details: &mut Vec<(String, String)>,
    warnings: &mut Vec<String>,
) -> Result<Disk> {
    let wanted = uuid_text(header.uuid_linkage);
    details.push(("parent".to_owned(), wanted.clone()));
    if let Some(parent) = opener.parent_file()? {
        warnings.extend(header.check_parent(file, &parent).err().map(|e| e.to_string()));
        return opener.open_backing(file, parent, Some("vdi"));
    }
    let mut refused = None;
    let likely = [format!("{{{wanted}}}.vdi").into_bytes()];
    for name in likely.into_iter().chain(opener.files_around(file.path(), "vdi")) {
        let Ok(parent) = opener.open_named(file.path(), &name) else { continue };
        match header.check_parent(file, &parent) {
            Ok(()) => return opener.open_backing(file, parent, Some("vdi")),
            // That the parent was changed is a better error than that there is none.
            Err(e) if e.at().to_string().contains("uuidParentModify") => refused = Some(e),
            Err(_) => {}
        }
    }
    Err(refused.unwrap_or_else(|| {
        at("VDI header").file(file.path()).field("uuidLinkage").byte(424).not_found(format!(
            "is {wanted}, but no VDI in this directory or its parent directory has that UUID; pass --parent FILE"
        ))
    }))
}

/// Formats a UUID as VirtualBox does: the first three groups are little-endian numbers.
fn uuid_text(uuid: [u8; 16]) -> String {
    crate::uuid::text(&crate::uuid::swapped(uuid))
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    /// 1 dynamic, 2 static, 4 differencing.
    image_type: u32,
    /// Offset of the block map, in bytes.
    offset_bmap: u32,
    /// Offset of the blocks, in bytes.
    offset_data: u32,
    /// In bytes.
    disk_size: u64,
    /// In bytes.
    block_size: u32,
    blocks_in_image: u32,
    /// UUIDs as stored: of the image, of its last change, of its parent, and of the parent's last change when this
    /// image was created.
    uuid_image: [u8; 16],
    uuid_modify: [u8; 16],
    uuid_linkage: [u8; 16],
    uuid_parent_modify: [u8; 16],
}

impl Header {
    /// Fails unless `parent` is the disk from which this one, in `file`, was created, and has not changed since.
    fn check_parent(&self, file: &ImageFile, parent: &ImageFile) -> Result<()> {
        let found = Header::parse(&parent.read_up_to(0, HEADER)?).map_err(|e| e.in_file(parent.path()))?;
        let place = |field, byte| at("VDI header").file(file.path()).field(field).byte(byte);
        let shown = parent.path().display();
        if found.uuid_image != self.uuid_linkage {
            let problem = format!("does not match the UUID of {shown}");
            return Err(place("uuidLinkage", 424).corrupt(problem));
        }
        // VirtualBox leaves this empty if it is unknown.
        if self.uuid_parent_modify != [0; 16] && found.uuid_modify != self.uuid_parent_modify {
            let problem = format!("does not match {shown}, which has changed since");
            return Err(place("uuidParentModify", 440).corrupt(problem));
        }
        Ok(())
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let place = |field, byte| at("VDI header").field(field).byte(byte);
        if bytes.len() < HEADER {
            return Err(at("VDI header").byte(0).corrupt("the file ends within it"));
        }
        if le32(bytes, 64) != SIGNATURE {
            return Err(place("signature", 64).corrupt("is wrong, so this is not a VDI image"));
        }
        let version = le32(bytes, 68);
        if version != VERSION {
            let problem = format!("is {}.{}, expected 1.1", version >> 16, version & 0xffff);
            return Err(place("version", 68).unsupported(problem));
        }
        let uuid = |at: usize| bytes[at..at + 16].try_into().expect("sliced to size");
        let header = Header {
            image_type: le32(bytes, 76),
            offset_bmap: le32(bytes, 340),
            offset_data: le32(bytes, 344),
            // VirtualBox can make disks that do not end at a sector boundary.
            disk_size: le64(bytes, 368).checked_next_multiple_of(512).unwrap_or(u64::MAX),
            block_size: le32(bytes, 376),
            blocks_in_image: le32(bytes, 384),
            uuid_image: uuid(392),
            uuid_modify: uuid(408),
            uuid_linkage: uuid(424),
            uuid_parent_modify: uuid(440),
        };
        let has_parent = header.uuid_linkage != [0; 16];
        match header.image_type {
            1 | 2 if !has_parent => {}
            DIFFERENCING if has_parent => {}
            1 | 2 => {
                let problem = format!("is {}, but the image names a parent", header.image_type);
                return Err(place("image_type", 76).corrupt(problem));
            }
            DIFFERENCING => {
                return Err(
                    place("uuidLinkage", 424).corrupt("is empty, although this is a differencing image")
                );
            }
            other => {
                let problem = format!("is {other}, expected 1, 2 or 4 (dynamic, static, differencing)");
                return Err(place("image_type", 76).unsupported(problem));
            }
        }
        let sector_size = le32(bytes, 360);
        if sector_size != 512 {
            return Err(place("sector_size", 360).unsupported(format!("is {sector_size}, expected 512")));
        }
        if !header.block_size.is_power_of_two() || !(512..=MAX_BLOCK).contains(&header.block_size) {
            let problem = format!("is {}, expected a power of two up to {MAX_BLOCK}", header.block_size);
            return Err(place("block_size", 376).corrupt(problem));
        }
        if le32(bytes, 380) != 0 {
            return Err(
                place("block_extra", 380).unsupported("is not 0: mif does not read blocks with extra data")
            );
        }
        if header.blocks_in_image > MAX_BLOCKS {
            let problem = format!("is {}, more than {MAX_BLOCKS}", header.blocks_in_image);
            return Err(place("blocks_in_image", 384).limit(problem));
        }
        if header.disk_size > u64::from(header.blocks_in_image) * u64::from(header.block_size) {
            let problem = format!("is {}, too few for {} bytes", header.blocks_in_image, header.disk_size);
            return Err(place("blocks_in_image", 384).corrupt(problem));
        }
        Ok(header)
    }
}

struct Blocks {
    file: ImageFile,
    header: Header,
    map: Vec<u32>,
}

impl Blocks {
    fn new(file: ImageFile, header: Header) -> Result<Self> {
        let blocks = header.disk_size.div_ceil(header.block_size.into()) as usize;
        let offset = u64::from(header.offset_bmap);
        if offset + blocks as u64 * 4 > file.len() {
            return Err(at("VDI block map").byte(offset).corrupt(format!(
                "extends past the end of the file at {}; is the file truncated?",
                file.len()
            )));
        }
        let map = file.read_vec(offset, blocks * 4)?.chunks_exact(4).map(|entry| le32(entry, 0)).collect();
        Ok(Blocks { file, header, map })
    }
}

impl Map for Blocks {
    fn len(&self) -> u64 {
        self.header.disk_size
    }

    fn run_at(&self, offset: u64, wanted: u64) -> Result<Run> {
        let block = u64::from(self.header.block_size);
        let (index, within) = ((offset / block) as usize, offset % block);
        let (first, differencing) = (self.map[index], self.header.image_type == DIFFERENCING);
        let follows = |(i, entry): &(usize, &u32)| match first < FIRST_ABSENT {
            true => u64::from(**entry) == u64::from(first) + *i as u64,
            false if differencing => **entry == first,
            false => **entry >= FIRST_ABSENT,
        };
        let count = self.map[index..]
            .iter()
            .enumerate()
            .take(entries_to_look_at(wanted, block))
            .take_while(follows)
            .count() as u64;
        let mut len = count * block - within;
        let place = match first < FIRST_ABSENT {
            false if differencing && first != DISCARDED => Place::Backing,
            false => Place::Zero,
            true => {
                let start = u64::from(self.header.offset_data) + u64::from(first) * block;
                let there = self.file.len().saturating_sub(start);
                // The last block of the disk may be partial.
                let needed = block.min(self.header.disk_size - (offset - within));
                if there < needed {
                    return Err(at("VDI block").file(self.file.path()).byte(start).corrupt(format!(
                        "extends past the end of the file at {}; is the file truncated?",
                        self.file.len()
                    )));
                }
                // Truncated blocks are refused when they are read.
                len = len.min((there / block * block).max(needed) - within);
                Place::Stored { file: 0, offset: start + within }
            }
        };
        Ok(Run { len, place })
    }

    fn file(&self, _: usize) -> &ImageFile {
        &self.file
    }
}

#[cfg(test)]
mod tests;
