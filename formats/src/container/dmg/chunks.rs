//! The tables of chunks: a property list with a table ("mish") for each partition, in base 64.

use std::io::Read;

use super::{adc, lzfse};
use crate::bytes::{be32, be64};
use crate::container::MAX_DISK;
use crate::error::{Error, Result, at};

/// The largest chunk that is compressed, in bytes, before and after: qemu's limit.
const MAX_CHUNK: u64 = 64 << 20;

/// The length of a table without its entries, and of an entry, in bytes.
const TABLE: usize = 204;
const ENTRY: usize = 40;

const SECTOR: u64 = 512;

/// The most nodes of the property list.
const MAX_NODES: u32 = 1 << 20;

/// A range of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) kind: Kind,
    /// Its start on the disk, in bytes.
    pub(super) start: u64,
    /// Its length on the disk, in bytes.
    pub(super) len: u64,
    /// Its start in the file, in bytes.
    pub(super) at: u64,
    /// Its length in the file, in bytes.
    pub(super) packed: u64,
}

/// How a chunk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Zero,
    Raw,
    Adc,
    Zlib,
    Bzip2,
    /// LZFSE, of OS X 10.11 and later.
    Lzfse,
    /// An xz stream.
    Lzma,
    /// Another one. It is an error only if it is read.
    Unsupported(u32),
}

impl Kind {
    /// Returns the kind with this number; `None` for comments and the end of a table.
    fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 | 2 => Kind::Zero,
            1 => Kind::Raw,
            0x8000_0004 => Kind::Adc,
            0x8000_0005 => Kind::Zlib,
            0x8000_0006 => Kind::Bzip2,
            0x8000_0007 => Kind::Lzfse,
            0x8000_0008 => Kind::Lzma,
            0x7fff_fffe | 0xffff_ffff => return None,
            other => Kind::Unsupported(other),
        })
    }

    /// Returns the name of the compression, if it is one.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Kind::Zero | Kind::Raw => None,
            Kind::Adc => Some("ADC"),
            Kind::Zlib => Some("zlib"),
            Kind::Bzip2 => Some("bzip2"),
            Kind::Lzfse => Some("LZFSE"),
            Kind::Lzma => Some("LZMA"),
            Kind::Unsupported(_) => Some("unknown"),
        }
    }

    /// Decodes a chunk into exactly `out`.
    pub(super) fn unpack(self, packed: &[u8], out: &mut [u8]) -> std::result::Result<(), String> {
        let text = |e: std::io::Error| e.to_string();
        match self {
            Kind::Adc => adc::decode(packed, out).map_err(str::to_owned),
            Kind::Zlib => flate2::bufread::ZlibDecoder::new(packed).read_exact(out).map_err(text),
            Kind::Bzip2 => bzip2::bufread::BzDecoder::new(packed).read_exact(out).map_err(text),
            Kind::Lzfse => lzfse::decode(packed, out).map_err(str::to_owned),
            Kind::Lzma => {
                let stream = liblzma::stream::Stream::new_stream_decoder(MAX_CHUNK * 4, 0);
                let stream = stream.map_err(|e| e.to_string())?;
                liblzma::bufread::XzDecoder::new_stream(packed, stream).read_exact(out).map_err(text)
            }
            Kind::Zero | Kind::Raw | Kind::Unsupported(_) => unreachable!("not a compressed chunk"),
        }
    }
}

/// Returns the chunks of all tables in a property list, in the order of the disk. Offsets in the file count from
/// `data_fork`.
pub(super) fn of_property_list(xml: &[u8], data_fork: u64) -> Result<Vec<Chunk>> {
    let wrong = |problem: String| at("DMG property list").corrupt(problem);
    let text = std::str::from_utf8(xml).map_err(|e| wrong(format!("is not UTF-8: {e}")))?;
    // Every property list has a document type, but none declares entities.
    if text.contains("<!ENTITY") {
        return Err(wrong("declares entities".into()));
    }
    let options = roxmltree::ParsingOptions { allow_dtd: true, nodes_limit: MAX_NODES, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(text.trim_end_matches('\0'), options);
    let document = document.map_err(|e| wrong(format!("is not valid XML: {e}")))?;
    let mut chunks = Vec::new();
    for table in document.descendants().filter(|node| is_value_of(*node, "blkx")) {
        for partition in table.children().filter(|node| node.has_tag_name("dict")) {
            let data = partition.children().find(|node| is_value_of(*node, "Data"));
            let data =
                data.and_then(|node| node.text()).ok_or_else(|| wrong("a table has no data".into()))?;
            let table = base64(data).ok_or_else(|| wrong("the data of a table is not in base 64".into()))?;
            read_table(&table, data_fork, &mut chunks)?;
        }
    }
    if chunks.is_empty() {
        return Err(wrong("has no tables of chunks".into()));
    }
    chunks.sort_by_key(|chunk| chunk.start);
    if let Some(pair) = chunks.windows(2).find(|pair| pair[0].start + pair[0].len > pair[1].start) {
        return Err(wrong(format!("two chunks overlap at byte {} of the disk", pair[1].start)));
    }
    Ok(chunks)
}

/// Returns true if a node of a property list is the value of this key.
fn is_value_of(node: roxmltree::Node<'_, '_>, key: &str) -> bool {
    node.is_element()
        && node
            .prev_sibling_element()
            .is_some_and(|before| before.has_tag_name("key") && before.text() == Some(key))
}

fn read_table(table: &[u8], data_fork: u64, chunks: &mut Vec<Chunk>) -> Result<()> {
    let place = || at("DMG table of chunks");
    if table.len() < TABLE || !table.starts_with(b"mish") {
        return Err(place().corrupt("does not begin with \"mish\""));
    }
    let (first, base) = (be64(table, 8), be64(table, 24));
    let count = be32(table, 200) as usize;
    let entries = table[TABLE..].chunks_exact(ENTRY);
    if entries.len() < count {
        return Err(place().corrupt(format!("has {} of its {count} entries", entries.len())));
    }
    for (number, entry) in entries.take(count).enumerate() {
        let Some(kind) = Kind::of(be32(entry, 0)) else { continue };
        let chunk = || -> Option<Chunk> {
            let start = first.checked_add(be64(entry, 8))?.checked_mul(SECTOR)?;
            let len = be64(entry, 16).checked_mul(SECTOR)?;
            let at = data_fork.checked_add(base)?.checked_add(be64(entry, 24))?;
            let packed = be64(entry, 32);
            let ends = start.checked_add(len).is_some_and(|end| end <= MAX_DISK);
            (ends && at.checked_add(packed).is_some()).then_some(Chunk { kind, start, len, at, packed })
        };
        let failed = |problem: &str| -> Error { place().corrupt(format!("entry {number}: {problem}")) };
        let chunk = chunk().ok_or_else(|| failed("its numbers are too large"))?;
        if chunk.kind.name().is_some() && (chunk.len > MAX_CHUNK || chunk.packed > MAX_CHUNK) {
            return Err(failed("a compressed chunk is larger than 64 MiB"));
        }
        if chunk.kind == Kind::Raw && chunk.packed < chunk.len {
            return Err(failed("its bytes in the file are too few"));
        }
        if chunk.len > 0 {
            chunks.push(chunk);
        }
    }
    Ok(())
}

/// Decodes base 64 with white space in it.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for digit in text.bytes().filter(|byte| !byte.is_ascii_whitespace()).take_while(|byte| *byte != b'=') {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(u32, u64, u64, u64, u64)]) -> Vec<u8> {
        let mut table = vec![0; TABLE];
        table[..4].copy_from_slice(b"mish");
        table[15] = 2;
        table[31] = 100;
        table[200..204].copy_from_slice(&(entries.len() as u32).to_be_bytes());
        for (kind, start, len, at, packed) in entries {
            table.extend(kind.to_be_bytes());
            table.extend([0; 4]);
            [start, len, at, packed].iter().for_each(|value| table.extend(value.to_be_bytes()));
        }
        table
    }

    fn read(table: &[u8]) -> Result<Vec<Chunk>> {
        let mut chunks = Vec::new();
        read_table(table, 1000, &mut chunks).map(|()| chunks)
    }

    #[test]
    fn a_table_is_read_and_its_numbers_are_checked() {
        let found = read(&table(&[
            (1, 3, 4, 7, 2048),
            (0x7fff_fffe, 0, 0, 0, 0),
            (2, 9, 1, 0, 0),
            (0xffff_ffff, 10, 0, 0, 0),
        ]));
        let expected = [
            Chunk { kind: Kind::Raw, start: 2560, len: 2048, at: 1107, packed: 2048 },
            Chunk { kind: Kind::Zero, start: 5632, len: 512, at: 1100, packed: 0 },
        ];
        assert_eq!(found.unwrap(), expected);
        for bad in [
            (1, u64::MAX, 1, 0, 512),
            (1, 0, u64::MAX, 0, 512),
            (1, 0, 1, u64::MAX, 512),
            (1, 0, 1, 0, 511),
            (0, 1 << 41, 1, 0, 0),
            (0x8000_0005, 0, 1 << 20, 0, 5),
            (0x8000_0005, 0, 1, 0, 1 << 40),
        ] {
            assert!(read(&table(&[bad])).is_err(), "{bad:?}");
        }
        let whole = table(&[(1, 0, 1, 0, 512)]);
        assert!(
            read(&whole[..whole.len() - 1]).is_err() && read(&whole[..100]).is_err() && read(b"").is_err()
        );
    }

    #[test]
    fn base_64_is_decoded() {
        assert_eq!(base64(" Zm9v\n\tYmE= ").unwrap(), b"fooba");
        assert_eq!(base64("+/8=").unwrap(), [0xfb, 0xff]);
        assert!(base64("a-b").is_none());
    }

    #[test]
    fn a_hostile_property_list_is_refused() {
        for bad in [
            &b"<!DOCTYPE plist [<!ENTITY a \"x\">]><plist>&a;</plist>"[..],
            b"<plist><dict><key>blkx</key><array><dict><key>Data</key><data>!</data></dict></array></dict></plist>",
            b"<plist><dict><key>blkx</key><array><dict/></array></dict></plist>",
            b"<plist/>",
            b"\xff",
        ] {
            assert!(of_property_list(bad, 0).is_err(), "{}", bad.escape_ascii());
        }
    }
}
