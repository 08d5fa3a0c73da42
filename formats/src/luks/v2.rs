//! The header of LUKS2 ("LUKS2 On-Disk Format Specification", 2 and 3): a binary part and JSON, both twice. Numbers in the
//! binary part are big-endian.

use std::collections::BTreeMap;

use serde_json::Value;

use super::hash::Hash;
use super::locked::{Header, Info, padded_text};
use super::{MAGIC, v2_json};
use crate::bytes::{be16, be64};
use crate::checksum;
use crate::error::{At, Result, at};
use crate::source::Source;

/// The length of the binary part in bytes.
const BINARY: usize = 4096;

/// The magic bytes of the second copy.
const SECOND: [u8; 6] = *b"SKUL\xba\xbe";

/// The lengths that a copy may have, in bytes. The second copy follows the first.
const SIZES: [u64; 9] =
    [0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000];

/// A copy of the header.
struct Copy {
    size: u64,
    seqid: u64,
    label: String,
    uuid: String,
    json: BTreeMap<String, Value>,
}

/// Reads the newer of the two copies, or the one that is not damaged.
pub(super) fn read(volume: &dyn Source) -> Result<Header> {
    let first = Copy::read(volume, 0, MAGIC);
    let mut warnings = Vec::new();
    let copy = match first {
        Ok(first) => match Copy::read(volume, first.size, SECOND) {
            Ok(second) if second.seqid > first.seqid => {
                warnings.push(
                    "the second copy of the LUKS header is newer than the first and was used".to_owned(),
                );
                second
            }
            Ok(_) => first,
            Err(e) => {
                warnings.push(format!("the second copy of the LUKS header is damaged: {e}"));
                first
            }
        },
        Err(error) => {
            let second = SIZES.iter().find_map(|size| Copy::read(volume, *size, SECOND).ok());
            let Some(second) = second else { return Err(error) };
            warnings.push(format!("the LUKS header is damaged, and its second copy was used: {error}"));
            second
        }
    };
    let json = Value::Object(copy.json.into_iter().collect());
    Ok(Header {
        info: Info {
            version: 2,
            uuid: copy.uuid,
            label: Some(copy.label).filter(|label| !label.is_empty()),
            cipher: v2_json::cipher(&json),
        },
        warnings,
        locked: v2_json::locked(&json, copy.size),
    })
}

impl Copy {
    /// Reads the copy at `offset`, which begins with `magic`.
    fn read(volume: &dyn Source, offset: u64, magic: [u8; 6]) -> Result<Self> {
        let place = |field, byte: u64| at("LUKS2 header").field(field).byte(offset + byte);
        let ends = |at: At| at.corrupt(format!("the volume of {} bytes ends within it", volume.len()));
        let has = |len: u64| volume.len().checked_sub(offset).is_some_and(|rest| rest >= len);
        if !has(BINARY as u64) {
            return Err(ends(at("LUKS2 header").byte(offset)));
        }
        let binary = volume.read_vec(offset, BINARY)?;
        if !binary.starts_with(&magic) {
            return Err(place("magic", 0).corrupt("is not that of LUKS2"));
        }
        let version = be16(&binary, 6);
        if version != 2 {
            return Err(place("version", 6).corrupt(format!("is {version}, expected 2")));
        }
        let size = be64(&binary, 8);
        if !SIZES.contains(&size) {
            return Err(
                place("hdr_size", 8).corrupt(format!("is {size}, expected 16 KiB to 4 MiB, a power of two"))
            );
        }
        // A header that was copied to another place, as by swapping out a page cache.
        let hdr_offset = be64(&binary, 256);
        if hdr_offset != offset {
            return Err(
                place("hdr_offset", 256).corrupt(format!("is {hdr_offset}, but the header is at {offset}"))
            );
        }
        if offset != 0 && offset != size {
            return Err(
                place("hdr_size", 8).corrupt(format!("is {size}, but the second copy is at {offset}"))
            );
        }
        if !has(size) {
            return Err(ends(at("LUKS2 header").byte(offset)));
        }
        let mut whole = volume.read_vec(offset, size as usize)?;
        let hash = Hash::named(&padded_text(&binary[72..104]), "csum_alg")?;
        whole[448..512].fill(0);
        if !checksum::fits(&binary[448..448 + hash.len()], &hash.digest(&[&whole])[..]) {
            return Err(place("csum", 448).corrupt("the checksum does not match"));
        }
        let text = &whole[BINARY..];
        let text = &text[..text.iter().position(|byte| *byte == 0).unwrap_or(text.len())];
        let json = serde_json::from_slice(text).map_err(|e| {
            at("LUKS2 header").byte(offset + BINARY as u64).corrupt(format!("the JSON is damaged: {e}"))
        })?;
        Ok(Copy {
            size,
            seqid: be64(&binary, 16),
            label: padded_text(&binary[24..72]),
            uuid: padded_text(&binary[168..208]),
            json,
        })
    }
}
