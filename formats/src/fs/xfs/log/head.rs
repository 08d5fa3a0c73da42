//! The end of the log, and the start of its replay.
//!
//! The newest sectors carry the cycle number of the first sector, the older ones after them one less: the head is where
//! the number changes. Up to eight records may have been in flight, so sectors before the head may be stale and records
//! there incomplete. The last complete record names the tail.

use std::ops::Range;

use super::record::{self, Header};
use super::ring::{MAGIC, Ring, cycle};
use crate::bytes::be32;
use crate::error::{ErrorKind, Result, at};
use crate::fs::xfs::blocks::SECTOR;

/// The most records in flight at a time.
const IN_FLIGHT: u32 = 8;
/// Sectors that are read at once.
const WINDOW: u32 = 512;
/// Operation flag: the filesystem was unmounted.
const UNMOUNT: u8 = 0x20;

/// The range to replay: the records from sector `tail` up to sector `head`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dirty {
    pub(super) tail: u32,
    pub(super) head: u32,
}

/// Finds the range to replay, as the kernel does. `None` if the filesystem was unmounted cleanly.
pub(super) fn find(ring: &Ring<'_>) -> Result<Option<Dirty>> {
    let Some(head) = find_head(ring)? else { return Ok(None) };
    let Some(mut last) = last_record(ring, head, head, 1)? else {
        return Err(at("log").corrupt("there is no record before the head"));
    };
    let mut dirty = Dirty { tail: tail_of(ring, &last)?, head };
    if is_unmount(ring, &last, head)? {
        return Ok(None);
    }
    // Recent records with a bad checksum were not completely written.
    let first = last_record(ring, head, dirty.tail, IN_FLIGHT)?;
    let first = first.map_or(last.sector, |record| record.sector);
    if let Some(bad) = first_bad(ring, first, head)? {
        let Some(before) = last_record(ring, bad, dirty.tail, 1)? else {
            return Err(at("log").corrupt(format!("no record before sector {bad} is whole")));
        };
        last = before;
        dirty = Dirty { tail: tail_of(ring, &last)?, head: bad };
        if dirty.head == dirty.tail {
            return Ok(None);
        }
        if is_unmount(ring, &last, dirty.head)? {
            return Ok(None);
        }
    }
    dirty.tail = verified_tail(ring, dirty, &last.header)?;
    Ok((dirty.head != dirty.tail).then_some(dirty))
}

/// Returns the most sectors of a record.
fn record_max(ring: &Ring<'_>) -> u32 {
    if ring.is_v2 { 512 } else { 64 }
}

/// Returns the first sector that the next record could be written to, `None` if nothing was ever written.
fn find_head(ring: &Ring<'_>) -> Result<Option<u32>> {
    let len = ring.len();
    let (first, last) = (ring.cycle(0)?, ring.cycle(len - 1)?);
    if first == 0 {
        return Ok(None);
    }
    let scan = (IN_FLIGHT * record_max(ring)).min(len);
    if last == 0 {
        if first != 1 {
            return Err(at("log").corrupt(format!("begins with cycle {first} and ends with zeros")));
        }
        let mut head = cycle_start(ring, len - 1, 0)?;
        let start = head - scan.min(head);
        head = first_of_cycle(ring, start..head, 0)?.unwrap_or(head);
        return match whole_record(ring, start, head, 0)? {
            Some(head) => Ok(Some(head)),
            None => Err(at("log").corrupt("begins with no record")),
        };
    }
    let (mut head, stop) = if first == last {
        // One cycle throughout, except for a possible hole at the end that was not written yet.
        (len, last.wrapping_sub(1))
    } else {
        (cycle_start(ring, len - 1, last)?, last)
    };
    if head >= scan {
        head = first_of_cycle(ring, head - scan..head, stop)?.unwrap_or(head);
    } else if let Some(hole) = first_of_cycle(ring, len - (scan - head)..len, stop.wrapping_sub(1))? {
        head = hole;
    } else {
        head = first_of_cycle(ring, 0..head, stop)?.unwrap_or(head);
    }
    // The head must not be in the middle of a record.
    let most = record_max(ring).min(len);
    if head >= most {
        match whole_record(ring, head - most, head, 0)? {
            Some(whole) => head = whole,
            None => return Err(at("log").corrupt(format!("there is no record before sector {head}"))),
        }
    } else {
        match whole_record(ring, 0, head, 0)? {
            Some(whole) => head = whole,
            None => {
                let start = len - (most - head);
                match whole_record(ring, start, len, head)? {
                    Some(whole) if whole == len => {}
                    Some(whole) => head = whole,
                    None => return Err(at("log").corrupt("there is no record before the head")),
                }
            }
        }
    }
    Ok(Some(head % len))
}

/// Returns the first sector with this cycle, given that `last` has it and the cycle changes only once.
fn cycle_start(ring: &Ring<'_>, last: u32, wanted: u32) -> Result<u32> {
    let (mut first, mut last) = (0, last);
    while last - first > 1 {
        let middle = first + (last - first) / 2;
        if ring.cycle(middle)? == wanted {
            last = middle;
        } else {
            first = middle;
        }
    }
    Ok(last)
}

/// Returns the first of these sectors with this cycle.
fn first_of_cycle(ring: &Ring<'_>, sectors: Range<u32>, wanted: u32) -> Result<Option<u32>> {
    let mut next = sectors.start;
    while next < sectors.end {
        let count = WINDOW.min(sectors.end - next);
        let bytes = ring.read(next, count)?;
        let found = bytes.chunks_exact(SECTOR as usize).position(|sector| cycle(sector) == wanted);
        if let Some(found) = found {
            return Ok(Some(next + found as u32));
        }
        next += count;
    }
    Ok(None)
}

/// Returns the end of the last complete record before `end`: `end` itself, or the start of an incomplete record. `None`
/// if there is no record from the start of the ring; an error if there is none from a later `start`. The record may
/// continue in the first `more` sectors of the ring.
fn whole_record(ring: &Ring<'_>, start: u32, end: u32, more: u32) -> Result<Option<u32>> {
    let bytes = ring.read(start, end - start)?;
    let mut sectors = (start..end).zip(bytes.chunks_exact(SECTOR as usize)).rev();
    let found = sectors.find_map(|(number, sector)| Header::parse(sector).map(|header| (number, header)));
    let Some((number, header)) = found else {
        if start == 0 {
            return Ok(None);
        }
        return Err(at("log").corrupt(format!("there is no record in sectors {start} to {end}")));
    };
    if header.uuid != ring.uuid && header.uuid != [0; 16] {
        return Err(record::place(number).field("h_fs_uuid").corrupt("belongs to another filesystem"));
    }
    let is_whole = end - number + more == header.data() + header.headers(ring);
    Ok(Some(if is_whole { end } else { number }))
}

/// A record's header and its sector.
struct Found {
    sector: u32,
    header: Header,
}

/// Returns the `count`-th record back from `head`, or the earliest one down to `tail`.
fn last_record(ring: &Ring<'_>, head: u32, tail: u32, count: u32) -> Result<Option<Found>> {
    let stop = if head > tail { tail } else { 0 };
    let mut left = count;
    let mut found = None;
    let before = if tail >= head { tail..ring.len() } else { 0..0 };
    for range in [stop..head, before] {
        let mut end = range.end;
        while end > range.start {
            let start = end.saturating_sub(WINDOW).max(range.start);
            let bytes = ring.read(start, end - start)?;
            for (sector, bytes) in (start..end).zip(bytes.chunks_exact(SECTOR as usize)).rev() {
                if let Some(header) = Header::parse(bytes) {
                    found = Some(Found { sector, header });
                    left -= 1;
                    if left == 0 {
                        return Ok(found);
                    }
                }
            }
            end = start;
        }
    }
    Ok(found)
}

/// Returns the `count`-th record from `tail` on, before `head`.
fn next_record(ring: &Ring<'_>, head: u32, tail: u32, count: u32) -> Result<Option<u32>> {
    let mut left = count;
    let [first, rest] = if tail > head { [tail..ring.len(), 0..head] } else { [tail..head, 0..0] };
    for range in [first, rest] {
        let mut next = range.start;
        while next < range.end {
            let now = WINDOW.min(range.end - next);
            let bytes = ring.read(next, now)?;
            for (sector, bytes) in (next..).zip(bytes.chunks_exact(SECTOR as usize)) {
                if be32(bytes, 0) == MAGIC {
                    left -= 1;
                    if left == 0 {
                        return Ok(Some(sector));
                    }
                }
            }
            next += now;
        }
    }
    Ok(None)
}

fn tail_of(ring: &Ring<'_>, record: &Found) -> Result<u32> {
    let tail = record.header.tail_lsn as u32;
    if tail < ring.len() {
        return Ok(tail);
    }
    Err(record::place(record.sector)
        .field("h_tail_lsn")
        .corrupt(format!("names sector {tail}, but the log has {}", ring.len())))
}

/// Returns true if the record is the last one and marks a clean unmount.
fn is_unmount(ring: &Ring<'_>, record: &Found, head: u32) -> Result<bool> {
    let headers = record.header.headers(ring);
    let end = ring.after(record.sector, headers.saturating_add(record.header.data()));
    if head != end || record.header.operations != 1 {
        return Ok(false);
    }
    let bytes = ring.read(ring.after(record.sector, headers), 1)?;
    Ok(bytes[9] & UNMOUNT != 0)
}

/// Returns the first damaged record from `first` up to `head`.
fn first_bad(ring: &Ring<'_>, first: u32, head: u32) -> Result<Option<u32>> {
    let mut sector = first;
    let mut left = ring.distance(first, head);
    while left > 0 {
        let record = match record::read(ring, sector, left) {
            Ok(record) => record,
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            Err(_) => return Ok(Some(sector)),
        };
        if record.is_torn() {
            return Ok(Some(sector));
        }
        sector = ring.after(sector, record.sectors());
        left -= record.sectors();
    }
    Ok(None)
}

/// Returns the tail, advanced past records that the last writes before the crash may have partly overwritten.
fn verified_tail(ring: &Ring<'_>, dirty: Dirty, last: &Header) -> Result<u32> {
    let Dirty { mut tail, head } = dirty;
    if tail == head {
        return Ok(tail);
    }
    if let Some(first) = next_record(ring, head, tail, 1)? {
        tail = first;
    }
    let within = IN_FLIGHT.saturating_mul(last.headers(ring) * 64);
    while let Some(bad) = first_bad(ring, tail, head)? {
        // From the head forward to the record.
        let distance = if head < bad { bad - head } else { bad + (ring.len() - head) };
        if distance > within {
            return Err(record::place(bad).corrupt("is damaged"));
        }
        match next_record(ring, head, bad, 2)? {
            Some(next) => tail = next,
            None => {
                return Err(record::place(bad).corrupt("is damaged, and there is no other before the head"));
            }
        }
    }
    Ok(tail)
}
