//! The VHDX log ([MS-VHDX], section 2.3): writes that were pending when the file was last used. It is replayed in
//! memory; the file is not changed.

use super::header::{Guid, Header, checksum};
use crate::bytes::{le32, le64};
use crate::checksum::fits;
use crate::container::ImageFile;
use crate::container::patches::Patches;
use crate::error::{Result, at};
use crate::source::Source;

const SECTOR: usize = 4096;
const ENTRY_HEADER: usize = 64;
const DESCRIPTOR: usize = 32;
/// The largest log that is replayed, in bytes.
const MAX_LOG: u32 = 64 << 20;
/// The limit of the bytes that are checksummed, as a multiple of the log's length. A valid log is checksummed a few
/// times: each entry when it is found, and again as the possible end of a sequence. More means overlapping entries,
/// which no program writes.
const MAX_READS: usize = 8;
/// The largest file size that a log may claim, in bytes.
const MAX_FILE: u64 = 1 << 50;

/// A valid entry of the log.
struct LogEntry<'a> {
    /// Its start in the log, in bytes.
    at: usize,
    tail: u32,
    sequence_number: u64,
    flushed_file_offset: u64,
    last_file_offset: u64,
    bytes: std::borrow::Cow<'a, [u8]>,
}

/// Returns `file` as it is after its log is replayed.
pub(super) fn replay(file: ImageFile, header: &Header) -> Result<ImageFile> {
    let place = || at("VHDX log").file(file.path()).byte(header.log_offset);
    if header.log_length > MAX_LOG {
        return Err(place().limit(format!("has {} bytes, more than {MAX_LOG}", header.log_length)));
    }
    if header.log_offset.checked_add(header.log_length.into()).is_none_or(|end| end > file.len()) {
        return Err(place().corrupt("extends past the end of the file; is the file truncated?"));
    }
    let log = file.read_vec(header.log_offset, header.log_length as usize)?;
    let sequence = active_sequence(&log, &header.log_guid).map_err(|e| e.in_file(file.path()))?;
    let Some(sequence) = sequence else {
        return Err(place().corrupt("has no valid sequence, but the header says that it is in use"));
    };
    let (mut patches, mut len) = (Patches::default(), file.len());
    for entry in &sequence {
        if entry.flushed_file_offset > file.len() {
            return Err(place().corrupt(format!(
                "says that the file had {} bytes, but it has {}; is the file truncated?",
                entry.flushed_file_offset,
                file.len()
            )));
        }
        if entry.last_file_offset > MAX_FILE {
            return Err(place().limit(format!("says that the file has {} bytes", entry.last_file_offset)));
        }
        len = len.max(entry.last_file_offset);
        entry.patches(&mut patches);
    }
    Ok(file.patched(patches, len))
}

/// Returns the entries of the newest complete sequence, in order.
///
/// Fails if entries overlap so much that reading them would take far more than the log's length.
fn active_sequence<'a>(log: &'a [u8], guid: &Guid) -> Result<Option<Vec<LogEntry<'a>>>> {
    let mut budget = log.len().saturating_mul(MAX_READS);
    let mut best: Option<Vec<LogEntry<'a>>> = None;
    let mut start = 0;
    // Every entry that begins a sequence is tried once; a sequence that was walked is not walked again.
    while start < log.len() {
        let mut sequence: Vec<LogEntry<'a>> = Vec::new();
        let (mut position, mut left) = (start, log.len());
        while let Some(entry) = LogEntry::parse(log, position, guid, &mut budget)? {
            let follows = sequence.last().is_none_or(|e| e.sequence_number + 1 == entry.sequence_number);
            if !follows || entry.bytes.len() > left {
                break;
            }
            left -= entry.bytes.len();
            position = (position + entry.bytes.len()) % log.len();
            sequence.push(entry);
        }
        let walked = (log.len() - left).max(SECTOR);
        if let Some(last) = sequence.last() {
            // A sequence is complete if it contains the entry that its last entry's tail points to; it starts there.
            let (tail, newest) = (last.tail as usize, last.sequence_number);
            let first = sequence.iter().position(|e| e.at == tail);
            let newer = best.as_ref().and_then(|b| b.last()).is_none_or(|b| b.sequence_number < newest);
            if let (Some(first), true) = (first, newer) {
                best = Some(sequence.split_off(first));
            }
        }
        start += walked;
    }
    Ok(best)
}

impl<'a> LogEntry<'a> {
    /// Returns the entry at `start`, which may wrap around the end of the log; `None` if there is none. Deducts the
    /// entry's length from `budget`, the bytes that may still be checksummed.
    fn parse(log: &'a [u8], start: usize, guid: &Guid, budget: &mut usize) -> Result<Option<Self>> {
        let Some(head) = log.get(start..start + ENTRY_HEADER) else { return Ok(None) };
        let len = le32(head, 8) as usize;
        let sequence_number = le64(head, 16);
        let valid = head[..4] == *b"loge"
            && len >= SECTOR
            && len <= log.len()
            && len.is_multiple_of(SECTOR)
            && sequence_number != 0
            && sequence_number != u64::MAX
            && head[32..48] == *guid;
        if !valid {
            return Ok(None);
        }
        *budget = budget.checked_sub(len).ok_or_else(|| {
            at("VHDX log").byte(start as u64).limit("its entries overlap, so the log is not replayed")
        })?;
        let bytes: std::borrow::Cow<'a, [u8]> = match log.get(start..start + len) {
            Some(bytes) => bytes.into(),
            None => [&log[start..], &log[..len - (log.len() - start)]].concat().into(),
        };
        if !fits(le32(&bytes, 4), checksum(&bytes, 4)) {
            return Ok(None);
        }
        let entry = LogEntry {
            at: start,
            tail: le32(&bytes, 12),
            sequence_number,
            flushed_file_offset: le64(&bytes, 48),
            last_file_offset: le64(&bytes, 56),
            bytes,
        };
        Ok(entry.is_sound().then_some(entry))
    }

    fn descriptors(&self) -> impl Iterator<Item = &[u8]> {
        let count = le32(&self.bytes, 24) as usize;
        self.bytes[ENTRY_HEADER..].chunks_exact(DESCRIPTOR).take(count)
    }

    /// Returns where the data sectors begin in the entry.
    fn data_at(&self) -> usize {
        let count = le32(&self.bytes, 24) as usize;
        (ENTRY_HEADER + count * DESCRIPTOR).next_multiple_of(SECTOR)
    }

    /// Returns true if all descriptors and their data are complete and belong to this entry.
    fn is_sound(&self) -> bool {
        let count = le32(&self.bytes, 24) as usize;
        if count > self.bytes.len() / DESCRIPTOR {
            return false;
        }
        let mut data = self.data_at();
        self.descriptors().all(|descriptor| {
            let (offset, sequence) = (le64(descriptor, 16), le64(descriptor, 24));
            let common = sequence == self.sequence_number && offset.is_multiple_of(SECTOR as u64);
            common
                && match &descriptor[..4] {
                    b"zero" => {
                        let len = le64(descriptor, 8);
                        len.is_multiple_of(SECTOR as u64) && offset.checked_add(len).is_some()
                    }
                    b"desc" => {
                        let sector = self.bytes.get(data..data + SECTOR);
                        data += SECTOR;
                        offset.checked_add(SECTOR as u64).is_some()
                            && sector.is_some_and(|s| {
                                let high_low = (le32(s, 4), le32(s, SECTOR - 4));
                                s[..4] == *b"data" && high_low == ((sequence >> 32) as u32, sequence as u32)
                            })
                    }
                    _ => false,
                }
        })
    }

    fn patches(&self, patches: &mut Patches) {
        let mut data = self.data_at();
        for descriptor in self.descriptors() {
            let offset = le64(descriptor, 16);
            if &descriptor[..4] == b"zero" {
                // `is_sound` checked that this does not overflow.
                patches.zero(offset..offset + le64(descriptor, 8));
                continue;
            }
            // The descriptor holds the first eight bytes and the last four of its data sector.
            let mut bytes = self.bytes[data..data + SECTOR].to_vec();
            bytes[..8].copy_from_slice(&descriptor[8..16]);
            bytes[SECTOR - 4..].copy_from_slice(&descriptor[4..8]);
            patches.write(offset, &bytes);
            data += SECTOR;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const GUID: Guid = [7; 16];

    /// Returns an entry with one zero and one data descriptor.
    fn entry(sequence: u64, tail: u32) -> Vec<u8> {
        let mut bytes = vec![0; 2 * SECTOR];
        bytes[..4].copy_from_slice(b"loge");
        bytes[8..12].copy_from_slice(&(2 * SECTOR as u32).to_le_bytes());
        bytes[12..16].copy_from_slice(&tail.to_le_bytes());
        bytes[16..24].copy_from_slice(&sequence.to_le_bytes());
        bytes[24] = 2;
        bytes[32..48].copy_from_slice(&GUID);
        bytes[64..68].copy_from_slice(b"zero");
        bytes[72..80].copy_from_slice(&8192u64.to_le_bytes());
        bytes[88..96].copy_from_slice(&sequence.to_le_bytes());
        bytes[96..104].copy_from_slice(b"desc\x03\x03\x03\x03");
        bytes[104..112].copy_from_slice(&[1; 8]);
        bytes[112..120].copy_from_slice(&4096u64.to_le_bytes());
        bytes[120..128].copy_from_slice(&sequence.to_le_bytes());
        bytes[SECTOR..].fill(2);
        bytes[SECTOR..SECTOR + 4].copy_from_slice(b"data");
        bytes[SECTOR + 4..SECTOR + 8].copy_from_slice(&((sequence >> 32) as u32).to_le_bytes());
        bytes[2 * SECTOR - 4..].copy_from_slice(&(sequence as u32).to_le_bytes());
        let sum = checksum(&bytes, 4);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn the_newest_complete_sequence_counts() {
        let size = 2 * SECTOR;
        let mut log = vec![0; 8 * size];
        log[..size].copy_from_slice(&entry(50, 0));
        log[2 * size..3 * size].copy_from_slice(&entry(60, 2 * size as u32));
        log[3 * size..4 * size].copy_from_slice(&entry(61, 2 * size as u32));
        // A newer entry whose tail is gone.
        log[5 * size..6 * size].copy_from_slice(&entry(90, 4 * size as u32));
        let numbers = |log: &[u8]| {
            let sequence = active_sequence(log, &GUID).unwrap()?;
            Some(sequence.iter().map(|e| e.sequence_number).collect::<Vec<_>>())
        };
        assert_eq!(numbers(&log), Some(vec![60, 61]));
        // One bit of the last entry is flipped: the sequence ends before it.
        log[4 * size - 100] ^= 1;
        assert_eq!(numbers(&log), Some(vec![60]));
        assert!(active_sequence(&log, &[8; 16]).unwrap().is_none());
        // An entry that wraps around the end.
        let wrapped = entry(70, 8 * size as u32 - SECTOR as u32);
        let (front, back) = log.split_at_mut(8 * size - SECTOR);
        back.copy_from_slice(&wrapped[..SECTOR]);
        front[..SECTOR].copy_from_slice(&wrapped[SECTOR..]);
        assert_eq!(numbers(&log), Some(vec![70]));
    }

    #[test]
    fn overlapping_entries_are_refused() {
        // Each sector begins an entry that claims the whole log, with a wrong checksum.
        let mut log = vec![0; 1024 * SECTOR];
        let len = log.len() as u32;
        for sector in log.chunks_exact_mut(SECTOR) {
            sector[..4].copy_from_slice(b"loge");
            sector[8..12].copy_from_slice(&len.to_le_bytes());
            sector[16] = 1;
            sector[32..48].copy_from_slice(&GUID);
        }
        assert_eq!(active_sequence(&log, &GUID).err().unwrap().kind(), ErrorKind::Limit);
    }

    #[test]
    fn a_file_is_read_as_after_the_replay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut bytes = vec![9; 5 * SECTOR];
        bytes[3 * SECTOR..].copy_from_slice(&entry(5, 0));
        std::fs::write(&path, &bytes).unwrap();
        let header = Header {
            sequence_number: 1,
            data_write_guid: [0; 16],
            log_guid: GUID,
            log_length: 2 * SECTOR as u32,
            log_offset: 3 * SECTOR as u64,
        };
        let file = replay(ImageFile::open(&path).unwrap(), &header).unwrap();
        let read = file.read_vec(0, 3 * SECTOR).unwrap();
        assert!(read[..SECTOR].iter().all(|b| *b == 0) && read[2 * SECTOR..].iter().all(|b| *b == 9));
        let mut sector = vec![2; SECTOR];
        sector[..8].fill(1);
        sector[SECTOR - 4..].fill(3);
        assert!(read[SECTOR..2 * SECTOR] == sector);
        assert_eq!(file.read_vec(SECTOR as u64 + 6, 4).unwrap(), [1, 1, 2, 2]);
        assert!(std::fs::read(&path).unwrap() == bytes);
    }

    #[test]
    fn a_log_or_a_file_over_the_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let kind = |log_length, last_file_offset: u64| {
            let mut log = entry(5, 0);
            log[56..64].copy_from_slice(&last_file_offset.to_le_bytes());
            log[4..8].fill(0);
            let sum = checksum(&log, 4);
            log[4..8].copy_from_slice(&sum.to_le_bytes());
            std::fs::write(&path, &log).unwrap();
            let header = Header {
                sequence_number: 1,
                data_write_guid: [0; 16],
                log_guid: GUID,
                log_length,
                log_offset: 0,
            };
            replay(ImageFile::open(&path).unwrap(), &header).err().map(|e| e.kind())
        };
        let whole = 2 * SECTOR as u32;
        assert_eq!(kind(whole, MAX_FILE), None);
        assert_eq!(kind(whole, MAX_FILE + 1), Some(ErrorKind::Limit));
        assert_eq!(kind(MAX_LOG, 0), Some(ErrorKind::Corrupt), "past the end of the file");
        assert_eq!(kind(MAX_LOG + 4096, 0), Some(ErrorKind::Limit));
    }
}
