//! Writes a dynamic VHDX.
//!
//! ```text
//! 0        identifier, two headers, two region tables
//! 1 MiB    log (empty)
//! 2 MiB    metadata
//! 3 MiB    block allocation table
//! after    blocks, in guest order
//! ```

use super::header::{
    BAT_REGION, FILE_PARAMETERS, FILE_SIGNATURE, Guid, HEADER, HEADERS, LOGICAL_SECTOR_SIZE, METADATA_REGION,
    METADATA_TABLE, MIB, Metadata, PHYSICAL_SECTOR_SIZE, REGION_TABLE, REGION_TABLES, VIRTUAL_DISK_ID,
    VIRTUAL_DISK_SIZE, checksum,
};
use crate::container::identity::{self, Digester, Identity, Wanted};
use crate::container::options::Options;
use crate::container::pull::{Pull, pull_data};
use crate::container::{CreateOptions, Observer, Output};
use crate::error::{Result, at};
use crate::source::Source;
use crate::uuid;

const KNOWN: &[&str] = &["subformat", "block_size", "logical_sector_size", identity::UUID, identity::SEED];
const MAX_SIZE: u64 = 64 << 40;
const FULLY_PRESENT: u64 = 6;
const LOG: u64 = MIB;
const METADATA: u64 = 2 * MIB;
const BAT: u64 = 3 * MIB;

pub(super) fn create(
    source: &dyn Source,
    output: &mut Output,
    options: &CreateOptions,
    observer: &dyn Observer,
) -> Result<()> {
    let options = Options::new("vhdx", KNOWN, options)?;
    options.choice("subformat", &["dynamic"])?;
    let wanted = Wanted::new(&options)?;
    let recorded = u64::from(source.sector_size().unwrap_or(512));
    let sector = options.size("logical_sector_size")?.unwrap_or(recorded);
    if !matches!(sector, 512 | 4096) {
        return Err(options.bad("logical_sector_size", "512 or 4096"));
    }
    let file = output.create()?;
    let size = source.len().next_multiple_of(sector);
    if size > MAX_SIZE {
        return Err(at("writing").file(file.path()).limit("a VHDX holds at most 64 TiB"));
    }
    // qemu's defaults.
    let default = match size {
        0..0x4000_0000 => 8 * MIB,
        0x4000_0000..0x19_0000_0000 => 16 * MIB,
        0x19_0000_0000..0x2000_0000_0000 => 32 * MIB,
        _ => 64 * MIB,
    };
    let block = options.size("block_size")?.unwrap_or(default);
    if !block.is_power_of_two() || !(MIB..=256 * MIB).contains(&block) {
        return Err(options.bad("block_size", "a power of two from 1M to 256M"));
    }
    let metadata = Metadata {
        block_size: block as u32,
        virtual_disk_size: size,
        logical_sector_size: sector as u32,
        ..Metadata::default()
    };
    let (blocks, chunk_ratio) = (size.div_ceil(block), metadata.chunk_ratio());
    // Includes the bitmap block of the last chunk, as readers expect.
    let mut bat = vec![0u64; (blocks + blocks.div_ceil(chunk_ratio)).max(1) as usize];
    let bat_len = (bat.len() as u64 * 8).next_multiple_of(MIB);
    let mut end = BAT + bat_len;
    let digester = Digester::new(source.len());
    let pull = Pull { digest: Some((&digester, 0)), ..Pull::new(source, observer) };
    pull_data(&pull, |offset, bytes| {
        let number = offset / block;
        let entry = &mut bat[(number + number / chunk_ratio) as usize];
        if *entry == 0 {
            *entry = end | FULLY_PRESENT;
            end += block;
        }
        file.write_at((*entry & !7) + offset % block, bytes)
    })?;
    file.set_len(end)?;
    // A table of mostly absent blocks stays mostly holes.
    for (i, part) in bat.chunks(8192).enumerate() {
        if part.iter().any(|entry| *entry != 0) {
            let bytes: Vec<u8> = part.iter().flat_map(|entry| entry.to_le_bytes()).collect();
            file.write_at(BAT + i as u64 * 65536, &bytes)?;
        }
    }
    let identity = wanted.identity(&digester.finish());
    file.write_at(METADATA, &metadata_region(&metadata, &identity))?;
    let regions = region_table(bat_len as u32);
    for offset in REGION_TABLES {
        file.write_at(offset, &regions)?;
    }
    for (i, offset) in HEADERS.into_iter().enumerate() {
        file.write_at(offset, &header(i as u64 + 1, &identity))?;
    }
    let mut identifier = FILE_SIGNATURE.to_vec();
    identifier.extend("mif".encode_utf16().flat_map(u16::to_le_bytes));
    file.write_at(0, &identifier)
}

fn header(sequence_number: u64, identity: &Identity) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes[..4].copy_from_slice(b"head");
    bytes[8..16].copy_from_slice(&sequence_number.to_le_bytes());
    // A child identifies its parent by the data write GUID.
    bytes[16..32].copy_from_slice(&uuid::swapped(identity.uuid("file write")));
    bytes[32..48].copy_from_slice(&uuid::swapped(identity.uuid("data write")));
    // No log GUID: the log is empty.
    bytes[66] = 1;
    bytes[68..72].copy_from_slice(&(MIB as u32).to_le_bytes());
    bytes[72..80].copy_from_slice(&LOG.to_le_bytes());
    sum(bytes)
}

fn region_table(bat_len: u32) -> Vec<u8> {
    let mut bytes = vec![0; REGION_TABLE];
    bytes[..4].copy_from_slice(b"regi");
    bytes[8] = 2;
    let regions = [(BAT_REGION, BAT, bat_len), (METADATA_REGION, METADATA, MIB as u32)];
    for (entry, (kind, offset, len)) in bytes[16..].chunks_exact_mut(32).zip(regions) {
        entry[..16].copy_from_slice(&kind);
        entry[16..24].copy_from_slice(&offset.to_le_bytes());
        entry[24..28].copy_from_slice(&len.to_le_bytes());
        // Required.
        entry[28] = 1;
    }
    sum(bytes)
}

fn metadata_region(metadata: &Metadata, identity: &Identity) -> Vec<u8> {
    let mut parameters = metadata.block_size.to_le_bytes().to_vec();
    parameters.extend([0; 4]);
    let items: [(Guid, Vec<u8>, u8); 5] = [
        // Flags: 4 required, 2 a property of the disk rather than the file.
        (FILE_PARAMETERS, parameters, 4),
        (VIRTUAL_DISK_SIZE, metadata.virtual_disk_size.to_le_bytes().to_vec(), 6),
        (VIRTUAL_DISK_ID, uuid::swapped(identity.disk_uuid()).to_vec(), 6),
        (LOGICAL_SECTOR_SIZE, metadata.logical_sector_size.to_le_bytes().to_vec(), 6),
        (PHYSICAL_SECTOR_SIZE, 4096u32.to_le_bytes().to_vec(), 6),
    ];
    let mut bytes = vec![0; METADATA_TABLE];
    bytes[..8].copy_from_slice(b"metadata");
    bytes[10] = items.len() as u8;
    for (i, (kind, item, flags)) in items.into_iter().enumerate() {
        let (offset, entry) = (bytes.len() as u32, 32 + i * 32);
        bytes[entry..entry + 16].copy_from_slice(&kind);
        bytes[entry + 16..entry + 20].copy_from_slice(&offset.to_le_bytes());
        bytes[entry + 20..entry + 24].copy_from_slice(&(item.len() as u32).to_le_bytes());
        bytes[entry + 24] = flags;
        bytes.extend(item);
    }
    bytes
}

fn sum(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&bytes, 4);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}
