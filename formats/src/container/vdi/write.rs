//! Writes a dynamic VDI.

use super::{HEADER, MAX_BLOCKS, SIGNATURE, VERSION};
use crate::container::identity::{self, Digester, Wanted};
use crate::container::options::Options;
use crate::container::pull::{Pull, pull_data};
use crate::container::{CreateOptions, Observer, Output};
use crate::error::{Result, at};
use crate::source::Source;
use crate::uuid;

const KNOWN: &[&str] = &[identity::UUID, identity::SEED];
const BLOCK: u64 = 1 << 20;
const BLOCK_MAP: u64 = HEADER as u64;
const ABSENT: u32 = 0xffff_ffff;

pub(super) fn create(
    source: &dyn Source,
    output: &mut Output,
    options: &CreateOptions,
    observer: &dyn Observer,
) -> Result<()> {
    let wanted = Wanted::new(&Options::new("vdi", KNOWN, options)?)?;
    let file = output.create()?;
    // Whole sectors, as every reader counts.
    let size = source.len().next_multiple_of(512);
    let blocks = size.div_ceil(BLOCK);
    if blocks > u64::from(MAX_BLOCKS) {
        return Err(at("writing").file(file.path()).limit("mif writes VDI images of up to 64 TiB"));
    }
    let data = data_offset(blocks);
    let mut map = vec![ABSENT; blocks as usize];
    let mut used = 0;
    let digester = Digester::new(source.len());
    let pull = Pull { digest: Some((&digester, 0)), ..Pull::new(source, observer) };
    pull_data(&pull, |offset, bytes| {
        let entry = &mut map[(offset / BLOCK) as usize];
        if *entry == ABSENT {
            *entry = used;
            used += 1;
        }
        file.write_at(data + u64::from(*entry) * BLOCK + offset % BLOCK, bytes)
    })?;
    let map: Vec<u8> = map.into_iter().flat_map(u32::to_le_bytes).collect();
    file.write_at(BLOCK_MAP, &map)?;
    file.set_len(data + u64::from(used) * BLOCK)?;
    let identity = wanted.identity(&digester.finish());
    // The image's UUID and the UUID of its last change.
    let uuids = [identity.disk_uuid(), identity.uuid("change")].map(uuid::swapped);
    file.write_at(0, &header(size, used, uuids))
}

/// Returns the offset of the blocks: a whole MiB, as VirtualBox places them.
fn data_offset(blocks: u64) -> u64 {
    (BLOCK_MAP + blocks * 4).next_multiple_of(BLOCK)
}

/// Returns the header of a disk of `size` bytes with `used` blocks; `uuids` in stored form.
pub(super) fn header(size: u64, used: u32, uuids: [[u8; 16]; 2]) -> Vec<u8> {
    let blocks = size.div_ceil(BLOCK);
    let mut bytes = vec![0; HEADER];
    let text = b"<<< mif VM Virtual Disk Image >>>\n";
    bytes[..text.len()].copy_from_slice(text);
    for (at, value) in [
        (64, SIGNATURE),
        (68, VERSION),
        // The size of the header without the part before this field.
        (72, 400),
        // Dynamic.
        (76, 1),
        (340, BLOCK_MAP as u32),
        (344, data_offset(blocks) as u32),
        (360, 512),
        (376, BLOCK as u32),
        (384, blocks as u32),
        (388, used),
    ] {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    bytes[368..376].copy_from_slice(&size.to_le_bytes());
    for (at, uuid) in [392, 408].into_iter().zip(uuids) {
        bytes[at..at + 16].copy_from_slice(&uuid);
    }
    bytes
}
