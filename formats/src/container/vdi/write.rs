//! Writing a dynamic VDI.

use super::{HEADER, MAX_BLOCKS, SIGNATURE, VERSION};
use crate::container::options::Options;
use crate::container::pull::pull_data;
use crate::container::{CreateOptions, Observer, Output};
use crate::{Result, Source, at};

const BLOCK: u64 = 1 << 20;
const BLOCK_MAP: u64 = HEADER as u64;
const ABSENT: u32 = 0xffff_ffff;

pub(super) fn create(
    source: &dyn Source,
    output: &mut Output,
    options: &CreateOptions,
    observer: &dyn Observer,
) -> Result<()> {
    Options::new("vdi", &[], options)?;
    let file = output.create()?;
    // In whole sectors, as every reader counts.
    let size = source.len().next_multiple_of(512);
    let blocks = size.div_ceil(BLOCK);
    if blocks > u64::from(MAX_BLOCKS) {
        return Err(at("writing").file(file.path()).limit("a VDI is written up to 64 TiB"));
    }
    let data = data_offset(blocks);
    let mut map = vec![ABSENT; blocks as usize];
    let mut used = 0;
    pull_data(source, observer, |offset, bytes| {
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
    file.write_at(0, &header(size, used))
}

/// Where the blocks are: at a whole MiB, as VirtualBox puts them.
fn data_offset(blocks: u64) -> u64 {
    (BLOCK_MAP + blocks * 4).next_multiple_of(BLOCK)
}

pub(super) fn header(size: u64, used: u32) -> Vec<u8> {
    let blocks = size.div_ceil(BLOCK);
    let mut bytes = vec![0; HEADER];
    let text = b"<<< mif VM Virtual Disk Image >>>\n";
    bytes[..text.len()].copy_from_slice(text);
    for (at, value) in [
        (64, SIGNATURE),
        (68, VERSION),
        // The header's size without what is before this field.
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
    // The image's UUID and that of its last change: fixed, so that the same disk gives the same file, and
    // not null, which VirtualBox would refuse. (VBoxManage internalcommands sethduuid sets another.)
    for (at, last) in [(392, 1), (408, 2)] {
        bytes[at..at + 16].copy_from_slice(b"mif disk\0\0\x40\0\x80\0\0\0");
        bytes[at + 15] = last;
    }
    bytes
}
