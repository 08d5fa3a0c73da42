//! Writes a VHD, fixed or dynamic.

use super::ABSENT;
use super::footer::{COOKIE, DiskType, FOOTER, HEADER, HEADER_COOKIE, MAX_SECTORS, SECTOR, checksum};
use crate::container::identity::{self, Digester, Wanted};
use crate::container::options::Options;
use crate::container::output::OutputFile;
use crate::container::pull::{Pull, pull_data};
use crate::container::{CreateOptions, Observer, Output};
use crate::error::{Result, at};
use crate::source::Source;

const KNOWN: &[&str] = &["subformat", "force_size", "align", identity::UUID, identity::SEED];
const BLOCK: u64 = 2 << 20;
/// A block's sector bitmap, all ones: every sector is present, even if it is zeros.
const BITMAP: [u8; 512] = [0xff; 512];
const TABLE: u64 = (FOOTER + HEADER) as u64;

pub(super) fn create(
    source: &dyn Source,
    output: &mut Output,
    options: &CreateOptions,
    observer: &dyn Observer,
) -> Result<()> {
    let options = Options::new("vpc", KNOWN, options)?;
    let fixed = options.choice("subformat", &["dynamic", "fixed"])? == "fixed";
    if options.text("force_size").is_some() && !options.flag("force_size")? {
        return Err(options.bad(
            "force_size",
            "on, because mif keeps the size of the disk and does not round it to a geometry",
        ));
    }
    // Azure accepts whole MiB only.
    let align = options.size("align")?.unwrap_or(SECTOR);
    if !align.is_power_of_two() || align < SECTOR {
        return Err(options.bad("align", "a power of two from 512, such as 1M"));
    }
    let wanted = Wanted::new(&options)?;
    let file = output.create()?;
    let size = source.len().checked_next_multiple_of(align).unwrap_or(u64::MAX);
    if size / SECTOR > MAX_SECTORS {
        return Err(at("writing").file(file.path()).limit("a VHD holds at most 2040 GiB"));
    }
    let digester = Digester::new(source.len());
    let pull = Pull { digest: Some((&digester, 0)), ..Pull::new(source, observer) };
    let end = match fixed {
        true => pull_data(&pull, |offset, bytes| file.write_at(offset, bytes)).map(|()| size)?,
        false => create_dynamic(&pull, file, size)?,
    };
    let id = wanted.identity(&digester.finish()).disk_uuid();
    let footer = footer(size, if fixed { DiskType::Fixed } else { DiskType::Dynamic }, &id);
    if !fixed {
        file.write_at(0, &footer)?;
    }
    file.write_at(end, &footer)
}

/// Writes everything but the footers; returns the offset of the one at the end.
fn create_dynamic(pull: &Pull<'_>, file: &OutputFile, size: u64) -> Result<u64> {
    let blocks = size.div_ceil(BLOCK);
    let mut table = vec![ABSENT; blocks as usize];
    let mut end = TABLE + (blocks * 4).next_multiple_of(SECTOR);
    pull_data(pull, |offset, bytes| {
        let entry = &mut table[(offset / BLOCK) as usize];
        if *entry == ABSENT {
            *entry = (end / SECTOR) as u32;
            file.write_at(end, &BITMAP)?;
            end += BITMAP.len() as u64 + BLOCK;
        }
        let data = u64::from(*entry) * SECTOR + BITMAP.len() as u64;
        file.write_at(data + offset % BLOCK, bytes)
    })?;
    let mut bytes: Vec<u8> = table.into_iter().flat_map(u32::to_be_bytes).collect();
    bytes.resize(bytes.len().next_multiple_of(SECTOR as usize), 0xff);
    file.write_at(TABLE, &bytes)?;
    file.write_at(FOOTER as u64, &dynamic_header(blocks as u32))?;
    Ok(end)
}

pub(super) fn footer(size: u64, disk_type: DiskType, unique_id: &[u8; 16]) -> Vec<u8> {
    let mut bytes = vec![0; FOOTER];
    bytes[..8].copy_from_slice(&COOKIE);
    // Features: the reserved bit, always set. Version 1.0.
    bytes[11] = 2;
    bytes[13] = 1;
    let data_offset = if disk_type == DiskType::Fixed { u64::MAX } else { FOOTER as u64 };
    bytes[16..24].copy_from_slice(&data_offset.to_be_bytes());
    // The creator: the one of qemu's for which every reader uses the size in the footer.
    bytes[28..32].copy_from_slice(b"qem2");
    bytes[33] = 1;
    bytes[36..40].copy_from_slice(b"Wi2k");
    bytes[40..48].copy_from_slice(&size.to_be_bytes());
    bytes[48..56].copy_from_slice(&size.to_be_bytes());
    // The largest geometry, which says nothing about the size.
    bytes[56..60].copy_from_slice(&[0xff, 0xff, 16, 255]);
    bytes[63] = match disk_type {
        DiskType::Fixed => 2,
        DiskType::Dynamic => 3,
        DiskType::Differencing => 4,
    };
    bytes[68..84].copy_from_slice(unique_id);
    let sum = checksum(&bytes, 64);
    bytes[64..68].copy_from_slice(&sum.to_be_bytes());
    bytes
}

pub(super) fn dynamic_header(entries: u32) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes[..8].copy_from_slice(&HEADER_COOKIE);
    bytes[8..16].copy_from_slice(&u64::MAX.to_be_bytes());
    bytes[16..24].copy_from_slice(&TABLE.to_be_bytes());
    bytes[25] = 1;
    bytes[28..32].copy_from_slice(&entries.to_be_bytes());
    bytes[32..36].copy_from_slice(&(BLOCK as u32).to_be_bytes());
    let sum = checksum(&bytes, 36);
    bytes[36..40].copy_from_slice(&sum.to_be_bytes());
    bytes
}
