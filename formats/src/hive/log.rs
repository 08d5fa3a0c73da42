//! The logs of a hive (`.LOG1`, `.LOG2`): entries of pages that were changed, since Windows 8.1.
//!
//! Windows writes changes to a log, and to the hive later: at the next start if it was not shut down. The logs of older versions,
//! one page map for the whole log, are not read.

use super::base::{self, Base};
use super::marvin::marvin;
use crate::bytes::{le32, le64};
use crate::checksum::fits;
use crate::error::Result;

/// The size of an entry's fields in bytes, after which the offsets and sizes of its pages follow.
const FIELDS: usize = 40;
/// Entries have a multiple of so many bytes; the first comes after the base block.
const ALIGNMENT: usize = 512;

/// An entry: some changes that belong together.
struct Entry<'l> {
    sequence: u32,
    /// The size of the hive's bins in bytes.
    bins: usize,
    /// The offset in the bins of each page, and its bytes.
    pages: Vec<(usize, &'l [u8])>,
}

/// Adds to a hive what its logs have and it lacks. Returns true if it is complete then; a hive that has all of its changes stays as
/// it is. Entries of logs whose checksums do not fit are ignored, as are all that follow them.
///
/// # Errors
/// `Corrupt` or `Unsupported` as from [`Hive::parse`](super::Hive::parse).
pub fn recover(hive: &mut Vec<u8>, logs: &[&[u8]]) -> Result<bool> {
    let base = Base::parse(hive)?;
    if base.is_clean() {
        return Ok(true);
    }
    // Logs may also have entries whose pages are in the hive. They share a sequence of numbers.
    let mut entries: Vec<Entry<'_>> = logs.iter().flat_map(|log| entries(log)).collect();
    entries.retain(|entry| entry.sequence >= base.secondary.min(base.primary));
    entries.sort_by_key(|entry| entry.sequence);
    // Bins that an entry adds have pages in it.
    let max = hive.len() + logs.iter().map(|log| log.len()).sum::<usize>();
    let mut last: Option<(u32, usize)> = None;
    let mut complete = true;
    for Entry { sequence, bins, pages } in entries {
        let follows = last.is_none_or(|(last, _)| last.checked_add(1) == Some(sequence));
        let is_within =
            pages.iter().all(|(start, page)| start.checked_add(page.len()).is_some_and(|end| end <= bins));
        if !follows || !is_within || base::LEN + bins > max {
            complete = false;
            break;
        }
        if hive.len() < base::LEN + bins {
            hive.resize(base::LEN + bins, 0);
        }
        for (start, page) in pages {
            hive[base::LEN + start..][..page.len()].copy_from_slice(page);
        }
        last = Some((sequence, bins));
    }
    let Some((sequence, bins)) = last else { return Ok(false) };
    if complete {
        base::seal(hive, sequence, bins as u32);
    }
    Ok(complete)
}

/// Returns the entries of a log: the first ones that are whole and follow one another.
fn entries(log: &[u8]) -> Vec<Entry<'_>> {
    let mut entries: Vec<Entry<'_>> = Vec::new();
    let mut rest = if base::is_log(log) { &log[base::FIELDS..] } else { &[] };
    while let Some((entry, size)) = entry(rest) {
        if entries.last().is_some_and(|last| last.sequence.checked_add(1) != Some(entry.sequence)) {
            break;
        }
        entries.push(entry);
        rest = &rest[size..];
    }
    entries
}

/// Parses the entry at the start of some bytes. Also returns its size. `None` if there is none whose checksums fit.
fn entry(bytes: &[u8]) -> Option<(Entry<'_>, usize)> {
    let header = bytes.get(..FIELDS).filter(|header| header.starts_with(b"HvLE"))?;
    let size = le32(header, 4) as usize;
    let entry = bytes.get(..size).filter(|_| size >= FIELDS && size.is_multiple_of(ALIGNMENT))?;
    if !fits(le64(header, 24), marvin(&entry[FIELDS..])) || !fits(le64(header, 32), marvin(&entry[..32])) {
        return None;
    }
    let end = (le32(header, 20) as usize).checked_mul(8)?.checked_add(FIELDS)?;
    let (mut pages, mut data) = (Vec::new(), entry.get(end..)?);
    for reference in entry[FIELDS..end].chunks_exact(8) {
        let (page, later) = data.split_at_checked(le32(reference, 4) as usize)?;
        pages.push((le32(reference, 0) as usize, page));
        data = later;
    }
    Some((Entry { sequence: le32(header, 12), bins: le32(header, 16) as usize, pages }, size))
}
