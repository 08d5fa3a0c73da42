//! The index of a zip archive (PKWARE's APPNOTE 6.3.10), with zip64.

use crate::bytes::{le16, le32, le64};
use crate::error::{Result, at};
use crate::source::Source;

use super::{Index, MAX_MEMBERS, Member, Stored};

/// The length of the end record without its comment, and the longest comment, in bytes.
const END: u64 = 22;
const MAX_COMMENT: u64 = 65535;

/// The largest central directory, in bytes.
const MAX_DIRECTORY: u64 = 256 << 20;

/// Reads the members that are files, from the central directory.
pub(super) fn index(archive: &dyn Source, seen: &mut dyn FnMut(&Member) -> Result<()>) -> Result<Index> {
    let directory = find_directory(archive)?;
    let bytes = archive.read_vec(directory.start, directory.len as usize)?;
    let mut index = Index::default();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let place = || at("zip central directory").byte(directory.start + (bytes.len() - rest.len()) as u64);
        if rest.len() < 46 || &rest[..4] != b"PK\x01\x02" {
            return Err(place().corrupt("expected a file header"));
        }
        if index.members.len() == MAX_MEMBERS {
            return Err(place().limit(format!("the archive has more than {MAX_MEMBERS} files")));
        }
        let lens = [28, 30, 32].map(|field| usize::from(le16(rest, field)));
        let end = 46 + lens.iter().sum::<usize>();
        if end > rest.len() {
            return Err(place().corrupt("a file header extends past the end of the directory"));
        }
        let name = String::from_utf8_lossy(&rest[46..46 + lens[0]]).into_owned();
        let extra = &rest[46 + lens[0]..46 + lens[0] + lens[1]];
        let (flags, method, crc) = (le16(rest, 8), le16(rest, 10), le32(rest, 16));
        let mut fields = [24, 20, 42].map(|field| u64::from(le32(rest, field)));
        widen(&mut fields, extra)
            .ok_or_else(|| place().corrupt(format!("{name:?}: its zip64 field is too short")))?;
        let [len, packed, header] = fields;
        rest = &rest[end..];
        if name.ends_with('/') {
            continue;
        }
        let header = header.saturating_add(directory.shift);
        let stored = |deflated| Stored::Zip { header, len: packed, deflated, crc };
        let stored = match method {
            _ if flags & 1 != 0 => Stored::Unreadable("is encrypted".into()),
            0 if packed != len => {
                Stored::Unreadable(format!("is stored in {packed} bytes, but its length is {len}"))
            }
            0 => stored(false),
            8 => stored(true),
            _ => Stored::Unreadable(format!("is compressed by method {method}, which mif does not read")),
        };
        index.members.push(Member { name, len, stored });
        seen(index.members.last().expect("just pushed"))?;
    }
    Ok(index)
}

/// Replaces the fields that are all ones (length, packed length, offset of the local header) by those of the zip64
/// extra field. `None` if they are missing.
fn widen(fields: &mut [u64; 3], mut extra: &[u8]) -> Option<()> {
    if fields.iter().all(|field| *field != 0xffff_ffff) {
        return Some(());
    }
    while extra.len() >= 4 {
        let (id, len) = (le16(extra, 0), usize::from(le16(extra, 2)));
        let mut body = extra.get(4..4 + len)?;
        if id == 1 {
            for field in fields.iter_mut().filter(|field| **field == 0xffff_ffff) {
                *field = le64(body.get(..8)?, 0);
                body = &body[8..];
            }
            return Some(());
        }
        extra = &extra[4 + len..];
    }
    // A file of exactly this length needs no such field.
    Some(())
}

/// The place of the central directory.
#[derive(Debug, PartialEq)]
struct Directory {
    start: u64,
    len: u64,
    /// How many bytes precede the archive: offsets do not count them.
    shift: u64,
}

fn find_directory(archive: &dyn Source) -> Result<Directory> {
    let tail_len = archive.len().min(END + MAX_COMMENT);
    let tail_start = archive.len() - tail_len;
    let tail = archive.read_vec(tail_start, tail_len as usize)?;
    let is_end = |place: &usize| {
        let record = &tail[*place..];
        record.starts_with(b"PK\x05\x06") && record.len() >= END as usize
    };
    let found = (0..tail.len().saturating_sub(END as usize - 1)).rev().find(is_end);
    let Some(place) = found else {
        return Err(at("zip archive").corrupt("has no end record: it is truncated"));
    };
    let (record, record_start) = (&tail[place..], tail_start + place as u64);
    let (mut len, mut start) = (u64::from(le32(record, 12)), u64::from(le32(record, 16)));
    let mut end = record_start;
    let parts = [le16(record, 4), le16(record, 6)];
    if parts.iter().any(|part| !matches!(part, 0 | 0xffff)) {
        return Err(at("zip archive").unsupported("is one part of several; join them first, with `zip -s 0`"));
    }
    if record_start >= 20 {
        let locator = archive.read_vec(record_start - 20, 20)?;
        if locator.starts_with(b"PK\x06\x07") {
            // The offset does not count bytes that precede the archive; then the record is just before its locator.
            let stated = le64(&locator, 8);
            let before = record_start.saturating_sub(20 + 56);
            let read = |at: u64| match at.checked_add(56) {
                Some(end) if end <= record_start => archive.read_vec(at, 56),
                _ => Ok(Vec::new()),
            };
            let is_record = |bytes: &[u8]| bytes.starts_with(b"PK\x06\x06");
            let (mut record, mut bytes) = (stated, read(stated)?);
            if !is_record(&bytes) {
                (record, bytes) = (before, read(before)?);
            }
            if !is_record(&bytes) {
                return Err(at("zip64 end record").byte(stated).corrupt("is not there"));
            }
            (len, start, end) = (le64(&bytes, 40), le64(&bytes, 48), record);
        }
    }
    let real = end.checked_sub(len).filter(|real| *real >= start);
    let Some(real) = real else {
        return Err(at("zip archive")
            .byte(end)
            .corrupt(format!("its directory of {len} bytes at {start} does not end here")));
    };
    if len > MAX_DIRECTORY {
        return Err(at("zip archive").limit(format!("its directory has {len} bytes, over {MAX_DIRECTORY}")));
    }
    Ok(Directory { start: real, len, shift: real - start })
}

/// Returns the start of the data of a file, from its local header.
pub(super) fn data_start(archive: &dyn Source, header: u64) -> Result<u64> {
    let place = || at("zip local header").byte(header);
    if header.checked_add(30).is_none_or(|end| end > archive.len()) {
        return Err(place().corrupt("lies past the end of the archive"));
    }
    let bytes = archive.read_vec(header, 30)?;
    if !bytes.starts_with(b"PK\x03\x04") {
        return Err(place().corrupt("is not there"));
    }
    Ok(header + 30 + u64::from(le16(&bytes, 26)) + u64::from(le16(&bytes, 28)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::source::MemSource;

    /// Returns an archive with one stored file, and the offsets of its directory and end record.
    fn zip(name: &str, content: &[u8]) -> (Vec<u8>, usize, usize) {
        let mut bytes = b"PK\x03\x04".to_vec();
        bytes.resize(26, 0);
        bytes.extend([name.len() as u8, 0, 0, 0]);
        bytes.extend(name.as_bytes());
        bytes.extend(content);
        let directory = bytes.len();
        bytes.extend(b"PK\x01\x02");
        bytes.resize(directory + 20, 0);
        for _ in 0..2 {
            bytes.extend((content.len() as u32).to_le_bytes());
        }
        bytes.extend([name.len() as u8, 0]);
        bytes.resize(directory + 46, 0);
        bytes.extend(name.as_bytes());
        let end = bytes.len();
        bytes.extend(b"PK\x05\x06");
        bytes.resize(end + 12, 0);
        bytes.extend(((end - directory) as u32).to_le_bytes());
        bytes.extend((directory as u32).to_le_bytes());
        bytes.extend([0, 0]);
        (bytes, directory, end)
    }

    fn read(bytes: Vec<u8>) -> Result<Vec<u8>> {
        let archive: Arc<dyn Source> = Arc::new(MemSource(bytes));
        let index = index(&*archive, &mut |_| Ok(()))?;
        let source = index.members[0].in_place(&archive)?.expect("it is stored");
        source.read_vec(0, source.len() as usize)
    }

    #[test]
    fn a_stored_file_is_read_in_place_also_after_other_bytes_and_before_a_comment() {
        let (bytes, _, end) = zip("a.raw", b"content");
        assert_eq!(read(bytes.clone()).unwrap(), b"content");
        assert_eq!(read([b"#!/bin/sh\n", &bytes[..]].concat()).unwrap(), b"content");
        let mut commented = bytes;
        commented[end + 20] = 9;
        commented.extend(b"PK\x05\x06 text");
        assert_eq!(read(commented).unwrap(), b"content");
    }

    #[test]
    fn damage_is_refused_in_words() {
        let (bytes, directory, end) = zip("a.raw", b"content");
        let says = |place: usize, value: &[u8]| {
            let mut bytes = bytes.clone();
            bytes[place..place + value.len()].copy_from_slice(value);
            read(bytes).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(read(bytes[..end].to_vec()).unwrap_err().to_string().contains("truncated"));
        assert!(says(directory, b"XX").contains("file header"));
        assert!(says(directory + 8, &[1]).contains("is encrypted"));
        assert!(says(directory + 10, &[12]).contains("method 12"));
        assert!(says(directory + 20, &[9]).contains("stored in 9 bytes"));
        assert!(says(directory + 28, &[99]).contains("past the end"));
        assert!(says(directory + 42, &[1]).contains("local header"));
        assert!(says(directory + 42, &[0xff, 0xff, 0xff, 0x7f]).contains("local header"));
        assert!(says(end + 12, &[0xff]).contains("does not end here"));
        assert!(says(end + 4, &[1]).contains("several"));
        assert!(says(directory + 20, &[0xff, 0, 0, 0, 0xff]).contains("past the end"));
    }
}
