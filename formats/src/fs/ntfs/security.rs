//! Owners of files. Security descriptors are stored once for all files that have the same one: in the stream `$SDS` of
//! `$Secure`, where the index `$SII` finds them by number.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::attribute::Attribute;
use super::index;
use super::mapped::Mapped;
use super::mft::Mft;
use super::record::kind;
use super::volume::Volume;
use crate::bytes::{le16, le32, le64};
use crate::cache::Cache;
use crate::error::{Error, Result, at};

/// The record of `$Secure`.
const SECURE: u64 = 9;
/// The most descriptors of a volume.
const DESCRIPTORS_MAX: usize = 1 << 21;
/// The largest descriptor in bytes.
pub(super) const DESCRIPTOR_MAX: usize = 128 << 10;
/// Bytes of an entry of `$SDS` before its descriptor.
const HEADER: usize = 20;
/// How far after an entry its copy is, in bytes.
const COPY: u64 = 256 << 10;
/// The size of the cache of owners in bytes, and about that of one.
const CACHED: usize = 4 << 20;
const OWNERS: usize = 256;

/// The owner and the group of a file, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Owners {
    pub(super) owner: Option<String>,
    pub(super) group: Option<String>,
}

/// The security descriptors of a volume.
pub(super) struct Security {
    /// Where the descriptors are; read when the first is asked for.
    index: OnceLock<Index>,
    cache: Cache<Owners>,
}

/// Where the descriptors are.
#[derive(Default)]
struct Index {
    /// The offset in `$SDS` and the length of each, by its number.
    places: HashMap<u32, (u64, u32)>,
    sds: Option<Mapped>,
    /// What was wrong.
    problem: Option<String>,
}

impl Security {
    pub(super) fn new() -> Self {
        Security { index: OnceLock::new(), cache: Cache::new(CACHED) }
    }

    /// Returns the owners in the descriptor of this number.
    pub(super) fn owners(&self, volume: &Volume, mft: &Mft, id: u32) -> Result<Arc<Owners>> {
        self.cache.get(u64::from(id), OWNERS, || {
            let index = self.index.get_or_init(|| {
                Index::read(volume, mft)
                    .unwrap_or_else(|error| Index { problem: Some(error.to_string()), ..Index::default() })
            });
            index.owners(volume, id)
        })
    }
}

impl Index {
    fn read(volume: &Volume, mft: &Mft) -> Result<Self> {
        let file = mft.file(volume, SECURE)?;
        let sds = match file.named(kind::DATA, "$SDS") {
            Some(sds) => sds.mapped(volume)?,
            None => return Err(file.missing("has no $SDS")),
        };
        let mut places = HashMap::new();
        let mut problem: Option<Error> = None;
        index::walk(volume, &file, "$SII", &mut |error| _ = problem.get_or_insert(error), &mut |entry| {
            let start = usize::from(le16(entry.bytes, 0));
            if let (true, Some(data)) = (entry.key.len() >= 4, entry.bytes.get(start..start + HEADER)) {
                places.insert(le32(entry.key, 0), (le64(data, 8), le32(data, 16)));
            }
            places.len() < DESCRIPTORS_MAX
        })?;
        Ok(Index { places, sds, problem: problem.map(|error| error.to_string()) })
    }

    fn owners(&self, volume: &Volume, id: u32) -> Result<Owners> {
        let place = || at(format!("security descriptor {id}"));
        let (Some(sds), Some((offset, len))) = (&self.sds, self.places.get(&id)) else {
            let problem = self.problem.as_deref().unwrap_or("is not in the index of $Secure");
            return Err(place().corrupt(problem));
        };
        let len = *len as usize;
        if !(HEADER..=DESCRIPTOR_MAX).contains(&len) {
            return Err(place().corrupt(format!("has {len} bytes")));
        }
        let mut bytes = vec![0; len];
        let mut read = |offset: u64| {
            sds.read(volume, &place, offset, &mut bytes)?;
            if le32(&bytes, 4) != id {
                return Err(place().corrupt(format!("has the number {} in $SDS", le32(&bytes, 4))));
            }
            owners(&bytes[HEADER..]).map_err(|problem| place().corrupt(problem))
        };
        read(*offset).or_else(|error| read(offset.saturating_add(COPY)).map_err(|_| error))
    }
}

/// Returns the owners in a descriptor that a file has of its own, as on volumes of version 1.
pub(super) fn own(volume: &Volume, descriptor: &Attribute) -> Result<Owners> {
    let bytes = descriptor.value(volume, DESCRIPTOR_MAX)?;
    owners(&bytes).map_err(|problem| descriptor.place().corrupt(problem))
}

/// Parses a self-relative descriptor ([MS-DTYP] 2.4.6).
fn owners(descriptor: &[u8]) -> Result<Owners, String> {
    if descriptor.len() < 20 || descriptor[0] != 1 {
        return Err("is not a security descriptor of revision 1".to_owned());
    }
    let sid = |at: usize| match le32(descriptor, at) as usize {
        0 => Ok(None),
        start => sid(descriptor.get(start..).unwrap_or_default()).map(Some),
    };
    Ok(Owners { owner: sid(4)?, group: sid(8)? })
}

/// Formats a security identifier ([MS-DTYP] 2.4.2).
fn sid(bytes: &[u8]) -> Result<String, String> {
    /// The most numbers of an identifier.
    const NUMBERS_MAX: u8 = 15;
    let [1, count @ 0..=NUMBERS_MAX, a, b, c, d, e, f, rest @ ..] = bytes else {
        return Err("has an owner that is no security identifier".to_owned());
    };
    let numbers = rest.get(..4 * usize::from(*count)).ok_or("has an owner that is cut off")?;
    let authority = u64::from_be_bytes([0, 0, *a, *b, *c, *d, *e, *f]);
    let mut text = match authority {
        0..=0xFFFF_FFFF => format!("S-1-{authority}"),
        _ => format!("S-1-{authority:#014x}"),
    };
    for number in numbers.chunks_exact(4) {
        text.push_str(&format!("-{}", le32(number, 0)));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_formatted_as_windows_does() {
        let administrators = [1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x20, 2, 0, 0];
        assert_eq!(sid(&administrators).unwrap(), "S-1-5-32-544");
        assert_eq!(sid(&[1, 0, 0, 0, 0, 0, 0, 1]).unwrap(), "S-1-1");
        assert_eq!(sid(&[1, 1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 9]).unwrap(), "S-1-0x000100000000-1");
        assert!(sid(&administrators[..15]).is_err());
        assert!(sid(&[2, 0, 0, 0, 0, 0, 0, 1]).is_err() && sid(&[1, 16, 0, 0, 0, 0, 0, 1]).is_err());
    }

    #[test]
    fn descriptors_may_lack_an_owner() {
        let mut bytes = vec![0; 20];
        (bytes[0], bytes[4]) = (1, 20);
        bytes.extend([1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0]);
        let expected = Owners { owner: Some("S-1-5-18".to_owned()), group: None };
        assert_eq!(owners(&bytes), Ok(expected));
        bytes[8] = 200;
        assert!(owners(&bytes).is_err());
        assert!(owners(&bytes[..19]).is_err());
    }
}
