//! The label of a physical volume, in one of its first four sectors, and the metadata areas that it lists.

use crate::bytes::{le32, le64};
use crate::checksum::fits;
use crate::error::{At, Result, at};
use crate::source::Source;

/// The number of sectors that are searched for a label.
const LABEL_SECTORS: u64 = 4;

/// The longest metadata text in bytes (an area is 1 MiB by default).
const MAX_TEXT_BYTES: u64 = 16 << 20;

const SECTOR_BYTES: usize = SECTOR as usize;
const LABEL_SIZE: usize = 32;
const MDA_MAGIC: &[u8; 16] = b" LVM2 x[5A%r0N*>";
/// Flag in `struct raw_locn`: the copy is to be ignored.
const RAW_LOCN_IGNORED: u32 = 1;

/// A physical volume.
pub(super) struct PhysicalVolume {
    /// As stored: 32 characters without dashes.
    pub(super) uuid: String,
    /// The group's metadata, a copy for each area.
    pub(super) texts: Vec<Vec<u8>>,
    /// Warnings about areas, as sentences.
    pub(super) warnings: Vec<String>,
}

impl PhysicalVolume {
    /// Returns the UUID as LVM prints it, with control characters of an invalid one escaped.
    pub(super) fn id(&self) -> String {
        let dashed: String = self
            .uuid
            .char_indices()
            .flat_map(|(i, c)| {
                let dash = matches!(i, 6 | 10 | 14 | 18 | 22 | 26).then_some('-');
                dash.into_iter().chain([c])
            })
            .collect();
        dashed.escape_debug().to_string()
    }

    /// Reads the label and the metadata of `volume`; returns `None` if it has no label. Only a failed read is an error.
    pub(super) fn read(volume: &dyn Source) -> Result<Option<Self>> {
        for sector in 0..LABEL_SECTORS.min(volume.len() / SECTOR) {
            let bytes = volume.read_vec(sector * SECTOR, SECTOR_BYTES)?;
            let Some(label) = Label::parse(&bytes, sector) else { continue };
            let mut found = PhysicalVolume { uuid: label.pv_uuid, texts: Vec::new(), warnings: Vec::new() };
            for (offset, size) in label.metadata_areas {
                match read_area(volume, offset, size)? {
                    Ok(text) => found.texts.extend(text),
                    Err(error) => found.warnings.push(format!(
                        "A metadata area of the physical volume {} is damaged: {error}.",
                        found.id()
                    )),
                }
            }
            return Ok(Some(found));
        }
        Ok(None)
    }
}

/// `struct label_header` and `struct pv_header`.
#[derive(Debug, PartialEq, Eq)]
struct Label {
    pv_uuid: String,
    /// Offset and size in bytes.
    metadata_areas: Vec<(u64, u64)>,
}

impl Label {
    /// Parses the sector with this number, if it holds an intact label.
    fn parse(sector: &[u8], number: u64) -> Option<Self> {
        let is_label = &sector[..8] == b"LABELONE" && &sector[24..32] == b"LVM2 001";
        let header = le32(sector, 20) as usize;
        if !is_label
            || le64(sector, 8) != number
            || !fits(le32(sector, 16), crc(&sector[20..]))
            || !(LABEL_SIZE..=SECTOR_BYTES - 40).contains(&header)
        {
            return None;
        }
        let pv_uuid = std::str::from_utf8(&sector[header..header + 32]).ok()?.to_owned();
        // Two lists, each terminated by zeros: data areas, then metadata areas.
        let mut pairs = sector[header + 40..].chunks_exact(16).map(|pair| (le64(pair, 0), le64(pair, 8)));
        pairs.by_ref().find(|pair| *pair == (0, 0))?;
        let metadata_areas = pairs.take_while(|pair| *pair != (0, 0)).collect();
        Some(Label { pv_uuid, metadata_areas })
    }
}

/// Reads the current text of the metadata area of `size` bytes at `offset`. Returns `None` if it has no text: there is
/// no group, or the copy is to be ignored. The outer error is a failed read.
fn read_area(volume: &dyn Source, offset: u64, size: u64) -> Result<Result<Option<Vec<u8>>>> {
    let field = |name: &'static str, byte: u64| -> At {
        at("LVM metadata area").field(name).byte(offset.saturating_add(byte))
    };
    if size < SECTOR || offset.checked_add(size).is_none_or(|end| end > volume.len()) {
        let problem = format!("the area of {size} bytes does not fit into the volume of {}", volume.len());
        return Ok(Err(at("LVM metadata area").byte(offset).corrupt(problem)));
    }
    let header = volume.read_vec(offset, SECTOR_BYTES)?;
    if !fits(le32(&header, 0), crc(&header[4..])) {
        return Ok(Err(field("checksum", 0).corrupt("is wrong")));
    }
    if &header[4..20] != MDA_MAGIC {
        return Ok(Err(field("magic", 4).corrupt("is not the LVM magic")));
    }
    let (text_offset, text_size) = (le64(&header, 40), le64(&header, 48));
    let (checksum, flags) = (le32(&header, 56), le32(&header, 60));
    if text_size == 0 || flags & RAW_LOCN_IGNORED != 0 {
        return Ok(Ok(None));
    }
    if text_size > MAX_TEXT_BYTES {
        return Ok(Err(field("size", 48).limit(format!("is {text_size}, over {MAX_TEXT_BYTES}"))));
    }
    if text_size > size - SECTOR || !(SECTOR..size).contains(&text_offset) {
        let problem =
            format!("is {text_offset}, but {text_size} bytes there do not fit into the area of {size}");
        return Ok(Err(field("offset", 40).corrupt(problem)));
    }
    // After its header the area is a ring buffer: a text may wrap around to the start.
    let before_end = text_size.min(size - text_offset) as usize;
    let mut text = volume.read_vec(offset + text_offset, before_end)?;
    text.extend(volume.read_vec(offset + SECTOR, text_size as usize - before_end)?);
    if !fits(checksum, crc(&text)) {
        return Ok(Err(field("checksum", 56).corrupt("does not match the text")));
    }
    Ok(Ok(Some(text)))
}

/// Computes LVM's CRC-32: the usual polynomial, with another initial value and no final inversion.
fn crc(bytes: &[u8]) -> u32 {
    const START: u32 = 0xf597_a6cf;
    const TABLE: [u32; 16] = {
        let mut table = [0; 16];
        let mut i = 0;
        while i < 16 {
            let mut crc = i as u32;
            let mut bit = 0;
            while bit < 4 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    bytes.iter().fold(START, |crc, byte| {
        let crc = crc ^ u32::from(*byte);
        let crc = crc >> 4 ^ TABLE[(crc & 0xf) as usize];
        crc >> 4 ^ TABLE[(crc & 0xf) as usize]
    })
}

/// LVM counts in sectors of this size, whatever the disk's is.
pub(super) const SECTOR: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::MemSource;

    /// Changes the header of the metadata area of `fixtures/lvm`, of 128 KiB, fixes its checksum, and reads the text.
    fn area(at: usize, with: &[u8]) -> String {
        let mut bytes = include_bytes!("../../../../fixtures/lvm/pv-head.bin")[4096..].to_vec();
        bytes.resize(128 << 10, 0);
        bytes[at..at + with.len()].copy_from_slice(with);
        let checksum = crc(&bytes[4..512]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        match read_area(&MemSource(bytes), 0, 128 << 10).unwrap() {
            Ok(text) => text.map_or("none".to_owned(), |text| String::from_utf8(text).unwrap()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn each_field_of_a_metadata_area_is_checked() {
        assert!(area(0, &[]).starts_with("vg0 {"));
        assert!(area(4, b"x").contains("magic, at byte 4"));
        assert!(area(48, &u64::MAX.to_le_bytes()).contains("over 16777216"));
        assert!(area(48, &(1u64 << 20).to_le_bytes()).contains("offset, at byte 40"));
        assert!(area(40, &511u64.to_le_bytes()).contains("offset, at byte 40"));
        assert!(area(40, &u64::MAX.to_le_bytes()).contains("offset, at byte 40"));
        assert!(area(56, &[0; 4]).contains("does not match the text"));
        assert_eq!(area(60, &[1]), "none");
        assert_eq!(area(48, &[0; 8]), "none");
    }

    #[test]
    fn a_text_that_goes_on_at_the_beginning_of_its_ring_is_put_together() {
        let text = b"vg { id = \"around the corner\" }";
        let mut bytes = vec![0; 2048];
        bytes[4..20].copy_from_slice(MDA_MAGIC);
        bytes[40..48].copy_from_slice(&2040u64.to_le_bytes());
        bytes[48..56].copy_from_slice(&(text.len() as u64).to_le_bytes());
        bytes[56..60].copy_from_slice(&crc(text).to_le_bytes());
        bytes[2040..].copy_from_slice(&text[..8]);
        bytes[512..512 + text.len() - 8].copy_from_slice(&text[8..]);
        let checksum = crc(&bytes[4..512]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        let read = read_area(&MemSource(bytes), 0, 2048).unwrap().unwrap();
        assert_eq!(read.as_deref(), Some(text.as_slice()));
    }
}
