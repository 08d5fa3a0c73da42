//! The index of a tar archive: v7, ustar, GNU and pax, with the sparse files of each.
//!
//! The headers are those of POSIX.1-2024 (`pax`) and of GNU tar's manual ("Basic Tar Format", "Storing Sparse Files"). The
//! archive is read strictly forward.

use std::sync::Arc;

use super::pieces::Piece;
use super::{Index, MAX_MEMBERS, Member, Stored};
use crate::error::{Error, Result, at};
use crate::source::Source;

const BLOCK: u64 = 512;

/// The longest extended header or long name, in bytes. pax 0.1 has the map of a sparse file in it.
const MAX_EXTENDED: u64 = 16 << 20;

/// The longest map of a sparse file at the start of its data (pax 1.0), in bytes.
const MAX_MAP: u64 = 64 << 20;

/// Reads the members that are regular files.
pub(super) fn index(archive: &dyn Source, seen: &mut dyn FnMut(&Member) -> Result<()>) -> Result<Index> {
    let mut index = Index::default();
    let mut next = Extended::default();
    let (mut position, len) = (0, archive.len());
    while position + BLOCK <= len {
        let mut block = [0; BLOCK as usize];
        archive.read_at(position, &mut block)?;
        if block == [0; BLOCK as usize] {
            break;
        }
        let place = || at("tar header").byte(position);
        let header = Header::parse(&block).map_err(|problem| place().corrupt(problem))?;
        let mut data = position + BLOCK;
        let size = next.size.filter(|_| header.is_file()).unwrap_or(header.size);
        let end = size
            .checked_next_multiple_of(BLOCK)
            .and_then(|padded| data.checked_add(padded))
            .ok_or_else(|| place().field("size").corrupt(format!("is {size}")))?;
        let is_last = end > len && data.checked_add(size).is_some_and(|end| end <= len);
        if end > len && !is_last {
            return Err(place().corrupt(format!(
                "the data of {:?} ends at byte {}, but the archive has {len}: it is truncated",
                next.name.as_deref().unwrap_or(&header.name),
                data.saturating_add(size)
            )));
        }
        let extended = || -> Result<Vec<u8>> {
            match size > MAX_EXTENDED {
                true => {
                    Err(place().limit(format!("an extended header has {size} bytes, over {MAX_EXTENDED}")))
                }
                false => archive.read_vec(data, size as usize),
            }
        };
        match header.kind {
            b'L' => {
                let name = extended()?;
                let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
                next.is_given = true;
                next.name = Some(String::from_utf8_lossy(&name[..end]).into_owned());
            }
            b'x' | b'X' => next.read(&extended()?).map_err(|problem| place().corrupt(problem))?,
            // Global headers, long targets of links, labels of volumes.
            b'g' | b'K' | b'V' => {}
            _ if !header.is_file() => next = Extended::default(),
            _ => {
                if index.members.len() == MAX_MEMBERS {
                    return Err(place().limit(format!("the archive has more than {MAX_MEMBERS} files")));
                }
                let given = std::mem::take(&mut next);
                let mut map = None;
                if header.kind == b'S' {
                    let (entries, after) = old_map(archive, &block, data)?;
                    data = after;
                    map = Some((entries, header.real_size(&block)));
                } else if given.is_sparse {
                    let (entries, bytes) = match given.map {
                        Some(entries) => (entries, 0),
                        None => map_in_data(archive, data, size)
                            .map_err(|e| in_place(e, &given.name, position))?,
                    };
                    data += bytes;
                    map = Some((entries, given.real_size));
                }
                // The size of a sparse member of GNU's old format does not count its additional headers.
                let stored = if header.kind == b'S' { size } else { size - (data - position - BLOCK) };
                let name = given.name.unwrap_or(header.name);
                let (pieces, real) = match map {
                    None => (vec![Piece { start: 0, len: stored, at: data }], stored),
                    Some((entries, real)) => {
                        let real = real.unwrap_or_else(|| end_of(&entries));
                        (
                            pieces_of(&entries, data, stored, real)
                                .map_err(|p| place().corrupt(format!("{name:?}: {p}")))?,
                            real,
                        )
                    }
                };
                index.members.push(Member { name, len: real, stored: Stored::Plain(Arc::from(pieces)) });
                seen(index.members.last().expect("just pushed"))?;
                if header.kind == b'S' {
                    position =
                        match stored.checked_next_multiple_of(BLOCK).and_then(|len| data.checked_add(len)) {
                            Some(end) if end <= len || data + stored <= len => end,
                            _ => return Err(place().corrupt(
                                "the data of a sparse file extends past the end: the archive is truncated",
                            )),
                        };
                    continue;
                }
            }
        }
        position = end;
    }
    if next.is_given {
        return Err(at("tar archive")
            .byte(position)
            .corrupt("ends after an extended header: it is truncated"));
    }
    if position < len && position + BLOCK > len {
        return Err(at("tar archive").byte(position).corrupt("ends within a header: it is truncated"));
    }
    Ok(index)
}

fn in_place(error: Error, name: &Option<String>, position: u64) -> Error {
    match error.at().to_string().is_empty() {
        true => at("tar header").byte(position).corrupt(format!("{name:?}: {}", error.problem())),
        false => error,
    }
}

/// A header block.
struct Header {
    name: String,
    size: u64,
    kind: u8,
}

impl Header {
    fn parse(block: &[u8; 512]) -> std::result::Result<Self, String> {
        if !checksum_fits(block) {
            return Err("its checksum is wrong: this is no tar header".into());
        }
        let text = |range: std::ops::Range<usize>| {
            let bytes = &block[range];
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            String::from_utf8_lossy(&bytes[..end]).into_owned()
        };
        let (name, prefix) = (text(0..100), text(345..500));
        // GNU's headers have times and maps where ustar has the prefix.
        let has_prefix = &block[257..263] == b"ustar\0" && !prefix.is_empty();
        let name = if has_prefix { format!("{prefix}/{name}") } else { name };
        let size = number(&block[124..136]).ok_or("its size is no number")?;
        // In v7, a directory is a file whose name ends in a slash.
        let kind = if matches!(block[156], 0 | b'0') && name.ends_with('/') { b'5' } else { block[156] };
        // Links, devices and directories have no data, whatever their size says.
        let size = if matches!(kind, b'1'..=b'6') { 0 } else { size };
        Ok(Header { name, size, kind })
    }

    fn is_file(&self) -> bool {
        matches!(self.kind, 0 | b'0' | b'7' | b'S')
    }

    fn real_size(&self, block: &[u8; 512]) -> Option<u64> {
        number(&block[483..495])
    }
}

/// What extended headers say of the next member.
#[derive(Default)]
struct Extended {
    /// True if there were any.
    is_given: bool,
    name: Option<String>,
    size: Option<u64>,
    is_sparse: bool,
    real_size: Option<u64>,
    /// The map of a sparse file: offsets and lengths. In pax 1.0 it is in the data.
    map: Option<Vec<(u64, u64)>>,
}

impl Extended {
    /// Reads the records of a pax header: `LENGTH KEY=VALUE\n`.
    fn read(&mut self, mut records: &[u8]) -> std::result::Result<(), String> {
        self.is_given = true;
        let mut sparse_name = None;
        let mut offset = None;
        while !records.is_empty() && records[0] != 0 {
            let wrong = || "an extended header has an invalid record".to_owned();
            let space = records.iter().take(20).position(|byte| *byte == b' ').ok_or_else(wrong)?;
            let len = decimal(&records[..space]).ok_or_else(wrong)?;
            let len = usize::try_from(len).ok().filter(|len| *len > space && *len <= records.len());
            let len = len.ok_or_else(wrong)?;
            let record = records[space + 1..len].strip_suffix(b"\n").ok_or_else(wrong)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let number = || decimal(value).ok_or_else(|| format!("{} is no number", key.escape_ascii()));
            match key {
                b"path" => self.name = Some(String::from_utf8_lossy(value).into_owned()),
                b"size" => self.size = Some(number()?),
                b"GNU.sparse.name" => sparse_name = Some(String::from_utf8_lossy(value).into_owned()),
                b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                    self.is_sparse = true;
                    self.real_size = Some(number()?);
                }
                b"GNU.sparse.major" | b"GNU.sparse.minor" => self.is_sparse = true,
                b"GNU.sparse.numblocks" => self.map = Some(Vec::new()),
                b"GNU.sparse.offset" => offset = Some(number()?),
                b"GNU.sparse.numbytes" => {
                    let start = offset.take().ok_or("GNU.sparse.numbytes without an offset")?;
                    self.map.get_or_insert_default().push((start, number()?));
                }
                b"GNU.sparse.map" => {
                    let numbers: Option<Vec<u64>> = value.split(|byte| *byte == b',').map(decimal).collect();
                    let numbers = numbers.filter(|numbers| numbers.len().is_multiple_of(2));
                    let numbers = numbers.ok_or("GNU.sparse.map is no list of pairs")?;
                    self.map = Some(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect());
                }
                _ => {}
            }
            records = &records[len..];
        }
        self.name = sparse_name.or(self.name.take());
        Ok(())
    }
}

/// Reads the map of a sparse file in GNU's old format, from its header `block` and the blocks after it. Returns it with
/// the start of the data.
fn old_map(archive: &dyn Source, block: &[u8; 512], mut data: u64) -> Result<(Vec<(u64, u64)>, u64)> {
    let mut entries = Vec::new();
    let start = data;
    let mut add = |fields: &[u8]| -> Result<()> {
        for field in fields.chunks_exact(24) {
            if field[0] == 0 {
                break;
            }
            match (number(&field[..12]), number(&field[12..])) {
                (Some(offset), Some(len)) => entries.push((offset, len)),
                _ => {
                    let place = at("map of a sparse file in a tar archive").byte(start);
                    return Err(place.corrupt("has no numbers"));
                }
            }
        }
        Ok(())
    };
    add(&block[386..482])?;
    let mut more = block[482] != 0;
    while more {
        let mut block = [0; BLOCK as usize];
        archive.read_at(data, &mut block)?;
        data += BLOCK;
        add(&block[..504])?;
        more = block[504] != 0;
    }
    Ok((entries, data))
}

/// Reads the map at the start of the data of a sparse file (pax 1.0): lines with the number of entries, and then the
/// offset and length of each, padded to a block. Returns it with the bytes that it takes.
fn map_in_data(archive: &dyn Source, data: u64, size: u64) -> Result<(Vec<(u64, u64)>, u64)> {
    let wrong = || at("").corrupt("the map of a sparse file is invalid");
    let (mut block, mut used, mut done) = (Vec::new(), 0, 0);
    let mut line = || -> Result<u64> {
        let mut digits = Vec::new();
        loop {
            if used == block.len() {
                if done + BLOCK > size.min(MAX_MAP) {
                    return Err(wrong());
                }
                block = archive.read_vec(data + done, BLOCK as usize)?;
                (used, done) = (0, done + BLOCK);
            }
            let byte = block[used];
            used += 1;
            match byte {
                b'\n' => return decimal(&digits).ok_or_else(wrong),
                _ if digits.len() > 20 => return Err(wrong()),
                _ => digits.push(byte),
            }
        }
    };
    let count = line()?;
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push((line()?, line()?));
    }
    Ok((entries, done))
}

fn end_of(entries: &[(u64, u64)]) -> u64 {
    entries.last().map_or(0, |(start, len)| start.saturating_add(*len))
}

/// Converts the map of a sparse file to pieces of the archive: its parts follow each other from `data`, `stored` bytes
/// in all.
fn pieces_of(
    entries: &[(u64, u64)],
    data: u64,
    stored: u64,
    real: u64,
) -> std::result::Result<Vec<Piece>, String> {
    let (mut pieces, mut done, mut end) = (Vec::new(), 0_u64, 0);
    for &(start, len) in entries {
        let fits = start >= end && start.checked_add(len).is_some_and(|end| end <= real);
        if !fits || done.checked_add(len).is_none_or(|done| done > stored) {
            return Err(format!("the map of the sparse file is invalid: {len} bytes at {start} of {real}"));
        }
        end = start + len;
        if len > 0 {
            pieces.push(Piece { start, len, at: data + done });
        }
        done += len;
    }
    Ok(pieces)
}

/// Reads a number: octal digits, or bytes after one with the highest bit set (base 256).
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let high = std::iter::once(field[0] & 0x7f).chain(field[1..].iter().copied());
        return high
            .into_iter()
            .try_fold(0_u64, |value, byte| (value >> 56 == 0).then(|| value << 8 | u64::from(byte)));
    }
    let digits = field.iter().copied().skip_while(|byte| *byte == b' ');
    let digits: Vec<u8> = digits.take_while(|byte| !matches!(byte, 0 | b' ')).collect();
    if digits.is_empty() {
        return Some(0);
    }
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let text =
        std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok()
}

/// Returns true if the checksum of a header is right: the sum of its bytes, with spaces for the checksum. Old tars
/// summed signed bytes.
fn checksum_fits(block: &[u8]) -> bool {
    let Some(claimed) = number(&block[148..156]).filter(|_| block[148..156].iter().any(u8::is_ascii_digit))
    else {
        return false;
    };
    let others = block[..148].iter().chain(&block[156..512]);
    let unsigned = others.clone().map(|byte| u64::from(*byte)).sum::<u64>() + 8 * u64::from(b' ');
    let signed = others.map(|byte| i64::from(byte.cast_signed())).sum::<i64>() + 8 * i64::from(b' ');
    crate::checksum::fits(claimed, unsigned) || i64::try_from(claimed) == Ok(signed)
}

/// Recognises a tar header without `ustar` by its checksum.
#[must_use]
pub fn is_old_tar(head: &[u8]) -> bool {
    head.get(..512).is_some_and(|header| header[0] != 0 && checksum_fits(header))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::MemSource;

    /// Returns a header block of this name, kind and size, changed by `change` before its checksum is set.
    fn header(name: &str, kind: u8, size: u64, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut block = vec![0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar  \0");
        change(&mut block);
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    fn padded(bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn records(pairs: &[(&str, &str)]) -> Vec<u8> {
        let record = |(key, value): &(&str, &str)| {
            let rest = format!(" {key}={value}\n");
            let len = (rest.len() + 1..).find(|len| len.to_string().len() + rest.len() == *len).unwrap();
            format!("{len}{rest}")
        };
        pairs.iter().map(record).collect::<String>().into_bytes()
    }

    fn read(parts: &[Vec<u8>]) -> Result<Vec<(String, Vec<u8>)>> {
        let archive: Arc<dyn Source> = Arc::new(MemSource(parts.concat()));
        let index = index(&*archive, &mut |_| Ok(()))?;
        let content = |member: &Member| {
            let source = member.in_place(&archive)?.expect("it lies plainly");
            Ok((member.name.clone(), source.read_vec(0, source.len() as usize)?))
        };
        index.members.iter().map(content).collect()
    }

    fn plain(kind: u8) -> Vec<u8> {
        header("a", kind, 3, |_| {})
    }

    #[test]
    fn names_come_from_the_header_the_long_name_and_pax() {
        let end = vec![0; 1024];
        let pax = records(&[("path", "long/name"), ("size", "3")]);
        let found = read(&[
            plain(b'0'),
            padded(b"one"),
            header("././@LongLink", b'L', 6, |_| {}),
            padded(b"longer"),
            plain(0),
            padded(b"two"),
            header("x", b'x', pax.len() as u64, |_| {}),
            padded(&pax),
            header("short", b'0', 0, |_| {}),
            padded(b"3.!"),
            header("dir/", b'5', 0, |_| {}),
            header("link", b'1', 999, |_| {}),
            plain(b'7'),
            padded(b"end"),
            end,
        ]);
        let expected = [("a", "one"), ("longer", "two"), ("long/name", "3.!"), ("a", "end")];
        let expected = expected.map(|(name, content)| (name.to_owned(), content.as_bytes().to_vec()));
        assert_eq!(found.unwrap(), expected);
    }

    #[test]
    fn sparse_files_of_every_format_have_their_holes() {
        let mut sparse = vec![0; 2000];
        sparse[512..515].copy_from_slice(b"abc");
        sparse[1500..1502].copy_from_slice(b"de");
        let old = header("old", b'S', 5, |block| {
            for (place, value) in [(386, 512), (398, 3), (410, 1500), (422, 2), (483, 2000)] {
                block[place..place + 11].copy_from_slice(format!("{value:011o}").as_bytes());
            }
        });
        let extended = header("more", b'S', 5, |block| {
            block[482] = 1;
            block[483..494].copy_from_slice(format!("{:011o}", 2000).as_bytes());
        });
        let mut more = vec![0; 512];
        for (place, value) in [(0, 512), (12, 3), (24, 1500), (36, 2)] {
            more[place..place + 11].copy_from_slice(format!("{value:011o}").as_bytes());
        }
        let v00 = records(&[
            ("GNU.sparse.size", "2000"),
            ("GNU.sparse.numblocks", "2"),
            ("GNU.sparse.offset", "512"),
            ("GNU.sparse.numbytes", "3"),
            ("GNU.sparse.offset", "1500"),
            ("GNU.sparse.numbytes", "2"),
        ]);
        let v01 = records(&[
            ("GNU.sparse.size", "2000"),
            ("GNU.sparse.name", "real"),
            ("GNU.sparse.map", "512,3,1500,2"),
        ]);
        let v10 = records(&[
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", "real"),
            ("GNU.sparse.realsize", "2000"),
        ]);
        let pax =
            |records: &[u8]| [header("x", b'x', records.len() as u64, |_| {}), padded(records)].concat();
        let data = padded(b"abcde");
        let found = read(&[
            old,
            data.clone(),
            extended,
            more,
            data.clone(),
            pax(&v00),
            header("v00", b'0', 5, |_| {}),
            data.clone(),
            pax(&v01),
            header("v01", b'0', 5, |_| {}),
            data.clone(),
            pax(&v10),
            header("v10", b'0', 517, |_| {}),
            padded(b"2\n512\n3\n1500\n2\n"),
            data,
        ]);
        let found = found.unwrap();
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["old", "more", "v00", "real", "real"]);
        assert!(found.iter().all(|(_, content)| *content == sparse));
    }

    #[test]
    fn damage_is_refused_in_words() {
        let says = |parts: &[Vec<u8>]| read(parts).unwrap_err().to_string();
        let mut broken = plain(b'0');
        broken[0] ^= 1;
        assert!(says(&[plain(b'0'), padded(b"one"), broken]).contains("byte 1024"));
        assert!(says(&[header("a", b'0', 2000, |_| {}), vec![1; 512]]).contains("truncated"));
        assert!(says(&[plain(b'0'), padded(b"one"), vec![b'x'; 100]]).contains("truncated"));
        let huge = header("a", b'0', 0, |block| block[124..136].fill(0xff));
        assert!(says(&[huge]).contains("size"));
        let pax = records(&[("GNU.sparse.size", "20"), ("GNU.sparse.map", "10,5,0,5")]);
        let back = [header("x", b'x', pax.len() as u64, |_| {}), padded(&pax), plain(b'0'), padded(b"one")];
        assert!(says(&back).contains("map"));
        let long = header("x", b'x', MAX_EXTENDED + 1, |_| {});
        let alone = records(&[("mtime", "1")]);
        let cut = [header("x", b'x', alone.len() as u64, |_| {}), alone];
        assert!(says(&cut).contains("truncated"));
        assert!(says(&[long, vec![0; MAX_EXTENDED as usize + 512]]).contains("extended header"));
    }
}
