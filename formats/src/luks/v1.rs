//! The header of LUKS1 ("LUKS1 On-Disk Format Specification", 2.3). All numbers are big-endian.

use super::cipher::Spec;
use super::hash::{Hash, Kdf};
use super::locked::{Digest, Header, Info, Locked, Slot, padded_text};
use super::payload::Payload;
use crate::bytes::be32;
use crate::error::{Result, at};
use crate::source::Source;

/// The length of the header in bytes.
const SIZE: usize = 592;

/// The place of the key slots in the header, their length and their number.
const SLOTS: (usize, usize, usize) = (208, 48, 8);

/// A sector in bytes.
const SECTOR: u64 = 512;

const ENABLED: u32 = 0x00ac_71f3;
const DISABLED: u32 = 0x0000_dead;

pub(super) fn read(volume: &dyn Source) -> Result<Header> {
    if volume.len() < SIZE as u64 {
        return Err(at("LUKS header")
            .byte(0)
            .corrupt(format!("the volume of {} bytes ends within it", volume.len())));
    }
    Ok(parse(&volume.read_vec(0, SIZE)?))
}

/// Parses the header, which begins with the magic bytes and the version.
pub(super) fn parse(bytes: &[u8]) -> Header {
    let (cipher_name, cipher_mode) = (padded_text(&bytes[8..40]), padded_text(&bytes[40..72]));
    let cipher = format!("{cipher_name}-{cipher_mode}");
    Header {
        locked: locked(bytes, &cipher),
        info: Info { version: 1, uuid: padded_text(&bytes[168..208]), label: None, cipher },
        warnings: Vec::new(),
    }
}

fn locked(bytes: &[u8], cipher: &str) -> Result<Locked> {
    let place = |field, byte| at("LUKS header").field(field).byte(byte);
    let spec = Spec::named(cipher, "cipher_mode")?;
    let hash = Hash::named(&padded_text(&bytes[72..104]), "hash_spec")?;
    let offset = u64::from(be32(bytes, 104)) * SECTOR;
    if offset == 0 {
        return Err(place("payload_offset", 104)
            .unsupported("is 0: the header is detached, and mif does not read a payload that is elsewhere"));
    }
    let key_len = be32(bytes, 108) as usize;
    if !spec.takes_key_of(key_len) {
        let problem = format!("is {key_len}, which the cipher {cipher} does not take");
        return Err(place("key_bytes", 108).corrupt(problem));
    }
    let digest = Digest {
        hash,
        iterations: be32(bytes, 164),
        salt: bytes[132..164].to_vec(),
        digest: bytes[112..132].to_vec(),
    };
    let (start, len, count) = SLOTS;
    let mut slots = Vec::new();
    for number in 0..count {
        let slot = &bytes[start + number * len..][..len];
        match be32(slot, 0) {
            DISABLED => {}
            ENABLED => {
                let slot = Slot {
                    key_len,
                    kdf: Kdf::Pbkdf2 { hash, iterations: be32(slot, 4), salt: slot[8..40].to_vec() },
                    start: u64::from(be32(slot, 40)) * SECTOR,
                    spec,
                    spec_key_len: key_len,
                    stripes: be32(slot, 44),
                    hash,
                };
                slots.push((number as u32, slot.check(SIZE as u64..offset)));
            }
            other => {
                let byte = (start + number * len) as u64;
                let problem = format!("is {other:#010x}, neither enabled nor disabled");
                slots.push((number as u32, Err(place("active", byte).corrupt(problem))));
            }
        }
    }
    Ok(Locked {
        slots,
        digest,
        payload: Payload { offset, len: None, spec, sector: SECTOR as usize, first: 0 },
    })
}
