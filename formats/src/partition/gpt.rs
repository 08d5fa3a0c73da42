//! GUID partition table (UEFI specification 5.3): a header in the second sector and one in the last, each
//! with an array of entries, guarded by CRC-32.
//!
//! The two headers and the two arrays are four parts, each either intact or damaged. Each header contains the CRC of
//! both arrays, so one intact header and one intact array are enough, whichever they are.

use std::ops::Range;

use super::mbr::Mbr;
use super::{Builder, Claim, SECTOR_SIZES};
use crate::bytes::{le16, le32, le64};
use crate::checksum::fits;
use crate::error::{At, Result, at};
use crate::source::Source;
use crate::uuid;

/// The longest array of entries in bytes (16 KiB is usual).
const MAX_ARRAY_BYTES: u64 = 4 << 20;

/// The longest entry in bytes. The specification allows 128 × 2ⁿ; in practice it is 128.
const MAX_ENTRY_BYTES: u32 = 4096;

const SIGNATURE: &[u8; 8] = b"EFI PART";
const HEADER_SIZE: usize = 92;
const ENTRY_SIZE: usize = 128;
const PRIMARY_LBA: u64 = 1;
/// The default position of the primary array.
const PRIMARY_ARRAY_LBA: u64 = 2;

/// A GPT header. Positions are in sectors.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    my_lba: u64,
    alternate_lba: u64,
    first_usable_lba: u64,
    last_usable_lba: u64,
    disk_guid: [u8; 16],
    partition_entry_lba: u64,
    number_of_partition_entries: u32,
    size_of_partition_entry: u32,
    partition_entry_array_crc32: u32,
}

impl Header {
    /// Parses the sector `lba`, which starts at byte `place` of the disk.
    fn parse(sector: &[u8], lba: u64, place: u64) -> Result<Self> {
        let field = |name: &'static str, offset: usize| -> At {
            at("GPT header").field(name).byte(place + offset as u64)
        };
        if sector[..8] != *SIGNATURE {
            return Err(field("Signature", 0).corrupt("is not \"EFI PART\""));
        }
        let header_size = le32(sector, 12) as usize;
        if !(HEADER_SIZE..=sector.len()).contains(&header_size) {
            let expected = format!("expected {HEADER_SIZE} to {}", sector.len());
            return Err(field("HeaderSize", 12).corrupt(format!("is {header_size}, {expected}")));
        }
        let mut covered = sector[..header_size].to_vec();
        covered[16..20].fill(0);
        let (claimed, computed) = (le32(sector, 16), libdeflater::crc32(&covered));
        if !fits(claimed, computed) {
            return Err(field("HeaderCRC32", 16)
                .corrupt(format!("is {claimed:08x}, but the header's is {computed:08x}")));
        }
        let my_lba = le64(sector, 24);
        if my_lba != lba {
            return Err(field("MyLBA", 24).corrupt(format!("is {my_lba}, but the header is at {lba}")));
        }
        let size_of_partition_entry = le32(sector, 84);
        if !(ENTRY_SIZE as u32..=MAX_ENTRY_BYTES).contains(&size_of_partition_entry)
            || !size_of_partition_entry.is_multiple_of(8)
        {
            return Err(field("SizeOfPartitionEntry", 84).corrupt(format!(
                "is {size_of_partition_entry}, expected a multiple of 8 from {ENTRY_SIZE} to {MAX_ENTRY_BYTES}"
            )));
        }
        let number_of_partition_entries = le32(sector, 80);
        let array_bytes = u64::from(number_of_partition_entries) * u64::from(size_of_partition_entry);
        if array_bytes > MAX_ARRAY_BYTES {
            return Err(field("NumberOfPartitionEntries", 80).limit(format!(
                "makes an array of {array_bytes} bytes, over the limit of {MAX_ARRAY_BYTES}"
            )));
        }
        Ok(Header {
            my_lba,
            alternate_lba: le64(sector, 32),
            first_usable_lba: le64(sector, 40),
            last_usable_lba: le64(sector, 48),
            disk_guid: sector[56..72].try_into().expect("sliced to size"),
            partition_entry_lba: le64(sector, 72),
            number_of_partition_entries,
            size_of_partition_entry,
            partition_entry_array_crc32: le32(sector, 88),
        })
    }

    fn array_bytes(&self) -> usize {
        // Checked against MAX_ARRAY_BYTES.
        self.number_of_partition_entries as usize * self.size_of_partition_entry as usize
    }

    /// Returns true if both describe the same partitions.
    fn agrees_with(&self, other: &Header) -> bool {
        self.disk_guid == other.disk_guid
            && self.number_of_partition_entries == other.number_of_partition_entries
            && self.size_of_partition_entry == other.size_of_partition_entry
            && self.partition_entry_array_crc32 == other.partition_entry_array_crc32
    }
}

/// The partition entry of a used slot.
#[derive(Debug, PartialEq, Eq)]
struct PartitionEntry {
    partition_type_guid: [u8; 16],
    unique_partition_guid: [u8; 16],
    starting_lba: u64,
    /// The last sector, inclusive.
    ending_lba: u64,
    attributes: u64,
    partition_name: String,
}

impl PartitionEntry {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let partition_type_guid: [u8; 16] = bytes[..16].try_into().expect("sliced to size");
        if partition_type_guid == [0; 16] {
            return None;
        }
        let units = (0..36).map(|i| le16(bytes, 56 + 2 * i)).take_while(|unit| *unit != 0);
        Some(PartitionEntry {
            partition_type_guid,
            unique_partition_guid: bytes[16..32].try_into().expect("sliced to size"),
            starting_lba: le64(bytes, 32),
            ending_lba: le64(bytes, 40),
            attributes: le64(bytes, 48),
            partition_name: String::from_utf16_lossy(&units.collect::<Vec<_>>()),
        })
    }
}

/// Formats a GUID in its usual form: the first three groups are little-endian integers.
fn guid(bytes: &[u8; 16]) -> String {
    uuid::text(&uuid::swapped(*bytes))
}

/// Adds the partitions of the GPT of `disk`, and returns the disk's GUID; `None` if there is no GPT. `mbr` is the
/// contents of sector 0.
pub(super) fn read(disk: &dyn Source, mbr: Option<&Mbr>, builder: &mut Builder) -> Result<Option<String>> {
    // Without a protective MBR, a GPT is a leftover from earlier use of the disk.
    if mbr.is_some_and(|mbr| !mbr.is_protective()) {
        return Ok(None);
    }
    let mut copies = Vec::new();
    for sector_size in SECTOR_SIZES {
        copies.push(Copies::read(disk, u64::from(sector_size))?);
    }
    // The sector size is not recorded: it is the one with which more of the table is intact.
    let best = copies.iter().filter_map(|c| Some((c, c.best()?))).min_by_key(|(_, choice)| choice.rank);
    let Some((copies, choice)) = best else {
        if mbr.is_some() {
            let reasons = copies.iter().find(|c| c.any_signature).unwrap_or(&copies[0]).reasons();
            builder.warn(format!(
                "The protective MBR announces a GPT, but neither copy of it is usable: {reasons}."
            ));
        }
        return Ok(None);
    };
    match mbr {
        None if choice.rank > 0 => return Ok(None),
        None => builder.warn("The GPT has no protective MBR, so Linux ignores it by default."),
        Some(mbr) if mbr.hybrid_partitions() > 0 => builder.warn(format!(
            "The hybrid MBR lists {} partitions besides the GPT; the GPT is used.",
            mbr.hybrid_partitions()
        )),
        Some(_) => {}
    }
    copies.say_damage(&choice, builder);
    builder.sector_size = u32::try_from(copies.sector_size).expect("one of SECTOR_SIZES");
    for (slot, bytes) in (1..).zip(choice.array.chunks_exact(choice.header.size_of_partition_entry as usize))
    {
        let Some(entry) = PartitionEntry::parse(bytes) else { continue };
        let (first, last) = (entry.starting_lba, entry.ending_lba);
        if last < first {
            builder.warn(format!(
                "Partition {slot} was left out: it ends at sector {last}, before its start at {first}."
            ));
            continue;
        }
        builder.add(Claim {
            slot,
            first_lba: first,
            sectors: (last - first).saturating_add(1),
            type_id: guid(&entry.partition_type_guid),
            id: Some(guid(&entry.unique_partition_guid)),
            name: Some(entry.partition_name).filter(|name| !name.is_empty()),
            attributes: entry.attributes,
        });
    }
    Ok(Some(guid(&choice.header.disk_guid)))
}

/// The parts of a GPT that were found for this sector size.
struct Copies {
    sector_size: u64,
    last_lba: u64,
    primary: Result<Header>,
    backup: Result<Header>,
    /// True if at least one of the two places has the signature.
    any_signature: bool,
    /// In the order of [`SOURCES`]; `None` without a header to check the array by.
    arrays: [Option<Result<Vec<u8>>>; 4],
}

/// The combinations of header and array, best first.
const SOURCES: [&str; 4] = [
    "the primary header and array",
    "the backup header and array",
    "the primary header and the backup array",
    "the backup header and the primary array",
];

/// The header and array that are used.
struct Choice<'a> {
    /// Index into [`SOURCES`].
    rank: usize,
    header: &'a Header,
    array: &'a [u8],
}

impl Copies {
    fn read(disk: &dyn Source, sector_size: u64) -> Result<Self> {
        let last_lba = (disk.len() / sector_size).saturating_sub(1);
        let (primary, alternate) = read_header(disk, sector_size, PRIMARY_LBA)?;
        // On a disk that was grown the backup is not at the end, and even a damaged primary may have its position.
        let (mut backup, mut signed) = read_header(disk, sector_size, alternate.unwrap_or(last_lba))?;
        if backup.is_err() && alternate.is_some_and(|lba| lba != last_lba) {
            let at_end = read_header(disk, sector_size, last_lba)?;
            if at_end.0.is_ok() {
                (backup, signed) = at_end;
            }
        }
        let any_signature = alternate.is_some() || signed.is_some();
        let mut arrays = [const { None }; 4];
        if let Ok(header) = &primary {
            let sectors = (header.array_bytes() as u64).div_ceil(sector_size);
            let backup_array = header.alternate_lba.saturating_sub(sectors);
            arrays[0] = Some(read_array(disk, sector_size, header, header.partition_entry_lba)?);
            arrays[2] = Some(read_array(disk, sector_size, header, backup_array)?);
        }
        if let Ok(header) = &backup {
            arrays[1] = Some(read_array(disk, sector_size, header, header.partition_entry_lba)?);
            arrays[3] = Some(read_array(disk, sector_size, header, PRIMARY_ARRAY_LBA)?);
        }
        Ok(Copies { sector_size, last_lba, primary, backup, any_signature, arrays })
    }

    fn best(&self) -> Option<Choice<'_>> {
        (0..SOURCES.len()).find_map(|rank| {
            let header = if rank % 2 == 0 { &self.primary } else { &self.backup };
            match (header, &self.arrays[rank]) {
                (Ok(header), Some(Ok(array))) => Some(Choice { rank, header, array }),
                _ => None,
            }
        })
    }

    /// Returns why neither copy can be used.
    fn reasons(&self) -> String {
        let one = |header: &Result<Header>, array: &Option<Result<Vec<u8>>>| match (header, array) {
            (Err(e), _) | (_, Some(Err(e))) => e.to_string(),
            _ => "whole".to_owned(),
        };
        format!(
            "the primary ({}), the backup ({})",
            one(&self.primary, &self.arrays[0]),
            one(&self.backup, &self.arrays[1])
        )
    }

    /// Warns about damaged parts, given that `choice` is used.
    fn say_damage(&self, choice: &Choice, builder: &mut Builder) {
        if choice.rank > 0 {
            builder.warn(format!("The GPT is damaged: {}; using {}.", self.reasons(), SOURCES[choice.rank]));
            return;
        }
        let array_error = self.arrays[1].as_ref().and_then(|array| array.as_ref().err());
        match (&self.backup, array_error) {
            (Err(e), _) | (_, Some(e)) => builder.warn(format!("The backup GPT is damaged: {e}.")),
            (Ok(backup), None) if !choice.header.agrees_with(backup) => {
                builder.warn("The GPT and its backup differ; using the primary GPT.");
            }
            (Ok(backup), None) if backup.my_lba != self.last_lba => builder.warn(format!(
                "The backup GPT is at sector {}, not at the last sector of the disk, {}; the disk was probably \
                 resized after it was partitioned.",
                backup.my_lba, self.last_lba
            )),
            _ => {}
        }
        let (first, last) = (choice.header.first_usable_lba, choice.header.last_usable_lba);
        if first > last || last > self.last_lba {
            builder.warn(format!(
                "The GPT calls sectors {first} to {last} usable, but the last sector of the disk is {}.",
                self.last_lba
            ));
        }
    }
}

const NOT_THERE: &str = "is past the end of the disk";

/// Reads the header at `lba`; also returns its AlternateLBA if it has the signature. The outer error is a failed read.
fn read_header(disk: &dyn Source, sector_size: u64, lba: u64) -> Result<(Result<Header>, Option<u64>)> {
    let Some(place) = place(disk, lba, sector_size, sector_size) else {
        return Ok((Err(at(format!("GPT header at sector {lba}")).corrupt(NOT_THERE)), None));
    };
    let sector = disk.read_vec(place, usize::try_from(sector_size).expect("one of SECTOR_SIZES"))?;
    let alternate = (sector[..8] == *SIGNATURE).then(|| le64(&sector, 32));
    Ok((Header::parse(&sector, lba, place), alternate))
}

/// Reads the array of entries at `lba` and checks it against the CRC in `header`. The outer error is a failed read.
fn read_array(disk: &dyn Source, sector_size: u64, header: &Header, lba: u64) -> Result<Result<Vec<u8>>> {
    let structure = || at("GPT partition entry array");
    let len = header.array_bytes();
    let Some(place) = place(disk, lba, sector_size, len as u64) else {
        return Ok(Err(structure().corrupt(format!("{NOT_THERE} (sector {lba})"))));
    };
    let array = disk.read_vec(place, len)?;
    let (claimed, computed) = (header.partition_entry_array_crc32, libdeflater::crc32(&array));
    if !fits(claimed, computed) {
        return Ok(Err(structure()
            .field("PartitionEntryArrayCRC32")
            .byte(place)
            .corrupt(format!("is {claimed:08x} in the header, but the array's is {computed:08x}"))));
    }
    Ok(Ok(array))
}

/// Returns the byte position of sector `lba` if `len` bytes there are within the disk.
fn place(disk: &dyn Source, lba: u64, sector_size: u64, len: u64) -> Option<u64> {
    let place = lba.checked_mul(sector_size)?;
    let end = place.checked_add(len)?;
    (end <= disk.len()).then_some(place)
}

/// Returns the header and the array that are used on `disk`; `None` if neither copy is usable.
pub(super) fn current(disk: &dyn Source, sector_size: u64) -> Result<Option<Whole>> {
    let copies = Copies::read(disk, sector_size)?;
    let Some(choice) = copies.best() else { return Ok(None) };
    Ok(Some(Whole { header: choice.header.clone(), array: choice.array.to_vec() }))
}

/// Returns the ranges of bytes that the GPT of `disk` occupies, whether they are intact or not: headers and arrays.
pub(super) fn places(disk: &dyn Source, sector_size: u64) -> Result<Vec<Range<u64>>> {
    let copies = Copies::read(disk, sector_size)?;
    let last = place(disk, copies.last_lba, sector_size, sector_size).unwrap_or(0);
    let mut found = Vec::new();
    for (header, usual) in [(&copies.primary, sector_size), (&copies.backup, last)] {
        let Ok(header) = header else {
            found.push(usual..usual + sector_size);
            continue;
        };
        let len = (header.array_bytes() as u64).next_multiple_of(sector_size);
        let at = header.my_lba * sector_size;
        found.push(at..at + sector_size);
        found.extend(
            place(disk, header.partition_entry_lba, sector_size, header.array_bytes() as u64)
                .map(|at| at..at + len),
        );
    }
    Ok(found)
}

/// A GPT to be written. Entry fields that no caller sets are kept.
pub(super) struct Whole {
    header: Header,
    array: Vec<u8>,
}

impl Whole {
    /// Creates an empty GPT of 128 entries, in the usual places.
    pub(super) fn empty(sector_size: u64) -> Self {
        let array = vec![0; ENTRY_SIZE * 128];
        let array_sectors = (array.len() as u64).div_ceil(sector_size);
        Whole {
            header: Header {
                my_lba: PRIMARY_LBA,
                alternate_lba: 0,
                first_usable_lba: PRIMARY_ARRAY_LBA + array_sectors,
                last_usable_lba: 0,
                disk_guid: [0; 16],
                partition_entry_lba: PRIMARY_ARRAY_LBA,
                number_of_partition_entries: 128,
                size_of_partition_entry: ENTRY_SIZE as u32,
                partition_entry_array_crc32: 0,
            },
            array,
        }
    }

    /// Returns the number of sectors of the backup at the end of a disk.
    pub(super) fn backup_sectors(&self, sector_size: u64) -> u64 {
        1 + (self.array.len() as u64).div_ceil(sector_size)
    }

    pub(super) fn set_disk_guid(&mut self, text: &str) -> Result<()> {
        self.header.disk_guid = guid_bytes(text)?;
        Ok(())
    }

    /// Sets the position of the partition in `slot`, and its GUID if `id` is given.
    pub(super) fn set(&mut self, slot: u32, first_lba: u64, sectors: u64, id: Option<&str>) -> Result<()> {
        let id = id.map(guid_bytes).transpose()?;
        let entry = self.entry(slot)?;
        if let Some(id) = id {
            entry[16..32].copy_from_slice(&id);
        }
        entry[32..40].copy_from_slice(&first_lba.to_le_bytes());
        entry[40..48].copy_from_slice(&(first_lba + sectors - 1).to_le_bytes());
        Ok(())
    }

    /// Sets the type, name and attributes of a new partition.
    pub(super) fn describe(&mut self, slot: u32, type_id: &str, name: &str, attributes: u64) -> Result<()> {
        let type_id = guid_bytes(type_id)?;
        let units: Vec<u16> = name.encode_utf16().collect();
        if units.len() > 36 {
            return Err(at("GPT").unsupported(format!("the name \"{name}\" has more than 36 characters")));
        }
        let entry = self.entry(slot)?;
        entry[..16].copy_from_slice(&type_id);
        entry[48..56].copy_from_slice(&attributes.to_le_bytes());
        for (to, unit) in entry[56..128].chunks_exact_mut(2).zip(units) {
            to.copy_from_slice(&unit.to_le_bytes());
        }
        Ok(())
    }

    /// Empties the slots for which `is_kept` is false.
    pub(super) fn retain(&mut self, is_kept: impl Fn(u32) -> bool) {
        let size = self.header.size_of_partition_entry as usize;
        for (slot, entry) in (1..).zip(self.array.chunks_exact_mut(size)) {
            if !is_kept(slot) {
                entry.fill(0);
            }
        }
    }

    /// Changes the unit of all positions from `old` to `new` bytes. The arrays go to the usual places. The first usable
    /// byte stays, unless it only follows the array, or is within a sector. Callers set the partitions again.
    pub(super) fn rebase(&mut self, old: u64, new: u64) {
        let least = |sector: u64| self.least_usable(sector);
        let first = self.header.first_usable_lba;
        let byte = first.saturating_mul(old);
        self.header.first_usable_lba = if first <= least(old) || !byte.is_multiple_of(new) {
            least(new)
        } else {
            (byte / new).max(least(new))
        };
        self.header.partition_entry_lba = PRIMARY_ARRAY_LBA;
        self.header.my_lba = PRIMARY_LBA;
    }

    /// Returns the first sector that a partition may have.
    pub(super) fn first_usable(&self) -> u64 {
        self.header.first_usable_lba
    }

    /// Lowers the first usable sector as far as the array allows.
    pub(super) fn use_from(&mut self, lba: u64, sector_size: u64) {
        let least = self.least_usable(sector_size);
        self.header.first_usable_lba = self.header.first_usable_lba.min(lba).max(least);
    }

    /// Returns the first sector behind the primary array.
    fn least_usable(&self, sector_size: u64) -> u64 {
        PRIMARY_ARRAY_LBA + (self.array.len() as u64).div_ceil(sector_size)
    }

    fn entry(&mut self, slot: u32) -> Result<&mut [u8]> {
        let size = self.header.size_of_partition_entry as usize;
        let index = (slot as usize).checked_sub(1);
        let entries = self.header.number_of_partition_entries;
        index
            .and_then(|index| self.array.chunks_exact_mut(size).nth(index))
            .ok_or_else(|| at("GPT").unsupported(format!("no slot {slot}: the slots are 1 to {entries}")))
    }

    /// Returns both copies, for a disk of `disk_sectors` sectors: byte positions and contents.
    pub(super) fn bytes(mut self, disk_sectors: u64, sector_size: u64) -> Vec<(u64, Vec<u8>)> {
        let backup_array = disk_sectors - self.backup_sectors(sector_size);
        self.header.partition_entry_array_crc32 = libdeflater::crc32(&self.array);
        self.header.last_usable_lba = backup_array - 1;
        let (mut primary, mut backup) = (self.header.clone(), self.header);
        // The header may come from either copy, and only the primary's array may be elsewhere.
        if primary.my_lba != PRIMARY_LBA {
            primary.partition_entry_lba = PRIMARY_ARRAY_LBA;
        }
        (primary.my_lba, primary.alternate_lba) = (PRIMARY_LBA, disk_sectors - 1);
        (backup.my_lba, backup.alternate_lba) = (disk_sectors - 1, PRIMARY_LBA);
        backup.partition_entry_lba = backup_array;
        let place = |lba: u64| lba * sector_size;
        vec![
            (place(PRIMARY_LBA), primary.encode(sector_size)),
            (place(primary.partition_entry_lba), self.array.clone()),
            (place(backup_array), self.array),
            (place(disk_sectors - 1), backup.encode(sector_size)),
        ]
    }
}

impl Header {
    /// Encodes the header as a sector.
    fn encode(&self, sector_size: u64) -> Vec<u8> {
        let mut bytes = vec![0; sector_size as usize];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, SIGNATURE);
        put(8, &0x0001_0000_u32.to_le_bytes());
        put(12, &(HEADER_SIZE as u32).to_le_bytes());
        for (at, lba) in [
            (24, self.my_lba),
            (32, self.alternate_lba),
            (40, self.first_usable_lba),
            (48, self.last_usable_lba),
        ] {
            put(at, &lba.to_le_bytes());
        }
        put(56, &self.disk_guid);
        put(72, &self.partition_entry_lba.to_le_bytes());
        put(80, &self.number_of_partition_entries.to_le_bytes());
        put(84, &self.size_of_partition_entry.to_le_bytes());
        put(88, &self.partition_entry_array_crc32.to_le_bytes());
        let crc = libdeflater::crc32(&bytes[..HEADER_SIZE]);
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

/// Parses the output of [`guid`].
fn guid_bytes(text: &str) -> Result<[u8; 16]> {
    uuid::bytes(text)
        .map(uuid::swapped)
        .ok_or_else(|| at("GPT").unsupported(format!("\"{text}\" is not a GUID")))
}
