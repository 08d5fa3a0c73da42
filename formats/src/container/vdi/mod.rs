//! VDI: VirtualBox's format, static and dynamic. All numbers are little-endian.
//!
//! ```text
//! header │ block map: a u32 a block │ blocks
//! ```
//!
//! There is no specification; the layout is as VirtualBox and QEMU write it.

mod write;

use std::sync::Arc;

use super::mapped::{Map, Mapped, Place, Run};
use super::{CreateOptions, Disk, Format, ImageFile, Observer, Opener, Output, human};
use crate::bytes::{le32, le64};
use crate::{Result, Source, at};

const SIGNATURE: u32 = 0xbeda_107f;
const VERSION: u32 = 0x0001_0001;
const HEADER: usize = 512;
/// Entries of the block map from here on have no block: unallocated, or discarded.
const FIRST_ABSENT: u32 = 0xffff_fffe;
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

    fn open(&self, file: ImageFile, _: &Opener<'_>) -> Result<Disk> {
        let header = Header::parse(&file.read_up_to(0, HEADER)?)?;
        let files = vec![file.path().to_owned()];
        let details = vec![
            ("subformat".to_owned(), if header.image_type == 2 { "static" } else { "dynamic" }.to_owned()),
            ("block size".to_owned(), human(header.block_size.into())),
        ];
        let source = Arc::new(Mapped::new(Blocks::new(file, header)?, None));
        Ok(Disk { source, format: "vdi", details, files, own_files: 1, warnings: Vec::new() })
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

#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    /// 1 dynamic, 2 static.
    image_type: u32,
    /// Where the block map is, in bytes.
    offset_bmap: u32,
    /// Where the blocks are, in bytes.
    offset_data: u32,
    /// In bytes.
    disk_size: u64,
    /// In bytes.
    block_size: u32,
    blocks_in_image: u32,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let place = |field, byte| at("VDI header").field(field).byte(byte);
        if bytes.len() < HEADER {
            return Err(at("VDI header").byte(0).corrupt("the file ends within it"));
        }
        if le32(bytes, 64) != SIGNATURE {
            return Err(place("signature", 64).corrupt("is not a VDI image's"));
        }
        let version = le32(bytes, 68);
        if version != VERSION {
            let problem = format!("is {}.{}, expected 1.1", version >> 16, version & 0xffff);
            return Err(place("version", 68).unsupported(problem));
        }
        let header = Header {
            image_type: le32(bytes, 76),
            offset_bmap: le32(bytes, 340),
            offset_data: le32(bytes, 344),
            // VirtualBox can make disks that do not end with a sector.
            disk_size: le64(bytes, 368).checked_next_multiple_of(512).unwrap_or(u64::MAX),
            block_size: le32(bytes, 376),
            blocks_in_image: le32(bytes, 384),
        };
        let has_parent = bytes[424..456].iter().any(|b| *b != 0);
        if has_parent || !matches!(header.image_type, 1 | 2) {
            return Err(place("image_type", 76)
                .unsupported("the image is a difference to another one, which it knows by a UUID alone"));
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
            return Err(place("block_extra", 380).unsupported("is not 0: blocks have bytes of their own"));
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
            return Err(at("VDI block map")
                .byte(offset)
                .corrupt(format!("reaches past the end of the file at {}: is it truncated?", file.len())));
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
        let first = self.map[index];
        let most = self.map.len().min((index as u64 + 1).saturating_add(wanted.div_ceil(block)) as usize);
        let follows = |(i, entry): &(usize, &u32)| match first < FIRST_ABSENT {
            true => u64::from(**entry) == u64::from(first) + *i as u64,
            false => **entry >= FIRST_ABSENT,
        };
        let count = self.map[index..most].iter().enumerate().take(4096).take_while(follows).count() as u64;
        let mut len = count * block - within;
        let place = match first < FIRST_ABSENT {
            false => Place::Zero,
            true => {
                let start = u64::from(self.header.offset_data) + u64::from(first) * block;
                let there = self.file.len().saturating_sub(start);
                // The last block of the disk need not be whole.
                let needed = block.min(self.header.disk_size - (offset - within));
                if there < needed {
                    return Err(at("VDI block").file(self.file.path()).byte(start).corrupt(format!(
                        "reaches past the end of the file at {}: is it truncated?",
                        self.file.len()
                    )));
                }
                // Blocks that are cut off are refused when they are asked for.
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
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn each_bad_field_is_named() {
        let good = write::header(1 << 30, 5);
        assert_eq!(Header::parse(&good).unwrap().disk_size, 1 << 30);
        for (byte, value, kind, field) in [
            (64, 0, ErrorKind::Corrupt, "signature"),
            (68, 9, ErrorKind::Unsupported, "version"),
            (76, 4, ErrorKind::Unsupported, "image_type"),
            (440, 1, ErrorKind::Unsupported, "image_type"),
            (360, 1, ErrorKind::Unsupported, "sector_size"),
            (376, 3, ErrorKind::Corrupt, "block_size"),
            (380, 1, ErrorKind::Unsupported, "block_extra"),
            (385, 0, ErrorKind::Corrupt, "blocks_in_image"),
            (387, 255, ErrorKind::Limit, "blocks_in_image"),
            (375, 255, ErrorKind::Corrupt, "blocks_in_image"),
        ] {
            let mut bytes = good.clone();
            bytes[byte] = value;
            let error = Header::parse(&bytes).expect_err(field);
            assert_eq!((error.kind(), error.to_string().contains(field)), (kind, true), "{byte}: {error}");
        }
        let mut bytes = good.clone();
        bytes[376..380].copy_from_slice(&(2 * MAX_BLOCK).to_le_bytes());
        assert!(Header::parse(&bytes).unwrap_err().to_string().contains("a power of two up to 67108864"));
        for len in 0..HEADER {
            assert!(Header::parse(&good[..len]).is_err());
        }
    }
}
