//! Writes the file allocation table piece by piece.

use crate::fs::fat::bpb::{FIRST_CLUSTER, Kind};

/// The number of entries per piece. Even, because FAT12 packs them in pairs.
const PIECE: u32 = 64 << 10;

/// The consecutive clusters of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) first: u32,
    pub(super) count: u32,
}

/// A callback for each piece: its offset in the FAT, and its bytes.
type Each<'e, E> = &'e mut dyn FnMut(u64, &[u8]) -> Result<(), E>;

/// Passes the bytes of a FAT to `each`, with their offset in it, up to the last cluster in use. `chains` are ascending
/// and without gaps from the first cluster on.
pub(super) fn pieces<E>(
    kind: Kind,
    media: u8,
    chains: impl Iterator<Item = Chain>,
    each: Each<'_, E>,
) -> Result<(), E> {
    let end: u32 = match kind {
        Kind::Fat12 => 0xFFF,
        Kind::Fat16 => 0xFFFF,
        Kind::Fat32 => 0x0FFF_FFFF,
    };
    // The first entry contains the media byte, the second says that the volume was cleanly unmounted.
    let mut entries = vec![end & !0xFF | u32::from(media), end];
    let mut start = 0;
    for chain in chains {
        debug_assert_eq!(chain.first, start + entries.len() as u32);
        let last = chain.first + chain.count - 1;
        for cluster in chain.first..=last {
            entries.push(if cluster == last { end } else { cluster + 1 });
            if entries.len() as u32 == PIECE {
                each(place(kind, start), &pack(kind, &entries))?;
                start += PIECE;
                entries.clear();
            }
        }
    }
    if !entries.is_empty() {
        each(place(kind, start), &pack(kind, &entries))?;
    }
    Ok(())
}

/// The first cluster of the volume.
pub(super) const FIRST: u32 = FIRST_CLUSTER;

fn place(kind: Kind, entry: u32) -> u64 {
    let entry = u64::from(entry);
    match kind {
        Kind::Fat12 => entry / 2 * 3,
        Kind::Fat16 => entry * 2,
        Kind::Fat32 => entry * 4,
    }
}

fn pack(kind: Kind, entries: &[u32]) -> Vec<u8> {
    match kind {
        Kind::Fat12 => entries
            .chunks(2)
            .flat_map(|pair| {
                let both = pair[0] | pair.get(1).unwrap_or(&0) << 12;
                let [a, b, c, _] = both.to_le_bytes();
                [a, b, c]
            })
            .collect(),
        Kind::Fat16 => entries.iter().flat_map(|entry| (*entry as u16).to_le_bytes()).collect(),
        Kind::Fat32 => entries.iter().flat_map(|entry| entry.to_le_bytes()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fat_is_packed_as_its_kind_is() {
        let chains = [Chain { first: 2, count: 2 }, Chain { first: 4, count: 1 }];
        let bytes = |kind| {
            let mut all = Vec::new();
            pieces(kind, 0xF8, chains.into_iter(), &mut |_, bytes| {
                all.extend_from_slice(bytes);
                Ok::<(), ()>(())
            })
            .unwrap();
            all
        };
        assert_eq!(bytes(Kind::Fat12), [0xF8, 0xFF, 0xFF, 3, 0xF0, 0xFF, 0xFF, 0x0F, 0]);
        assert_eq!(bytes(Kind::Fat16), [0xF8, 0xFF, 0xFF, 0xFF, 3, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
        assert_eq!(bytes(Kind::Fat32)[..12], [0xF8, 0xFF, 0xFF, 0x0F, 0xFF, 0xFF, 0xFF, 0x0F, 3, 0, 0, 0]);
    }
}
