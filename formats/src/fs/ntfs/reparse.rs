//! Reparse points: files whose meaning another driver knows ([MS-FSCC] 2.1.2).
//!
//! A symlink's target is the text that Windows shows ("print name"), or the path that it follows if there is none. It is
//! kept as it is stored, with backslashes and drive letters: only Windows knows where they lead.

use super::record::units;
use crate::bytes::{le16, le32};
use crate::codec::Codec;
use crate::fs::node::FileType;
use crate::fs::utf16;

/// The largest reparse point in bytes.
pub(super) const MAX: usize = 16 << 10;
/// Bytes before the data of a reparse point.
const HEADER: usize = 8;

/// Tags of reparse points.
pub(super) mod tag {
    pub(in super::super) const MOUNT_POINT: u32 = 0xA000_0003;
    pub(in super::super) const SYMLINK: u32 = 0xA000_000C;
    pub(in super::super) const SIS: u32 = 0x8000_0007;
    pub(in super::super) const DEDUP: u32 = 0x8000_0013;
    pub(in super::super) const WOF: u32 = 0x8000_0017;
    /// Those of the Windows Subsystem for Linux.
    pub(in super::super) const LX_SYMLINK: u32 = 0xA000_001D;
    pub(in super::super) const AF_UNIX: u32 = 0x8000_0023;
    pub(in super::super) const LX_FIFO: u32 = 0x8000_0024;
    pub(in super::super) const LX_CHR: u32 = 0x8000_0025;
    pub(in super::super) const LX_BLK: u32 = 0x8000_0026;
}

/// What a reparse point means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reparse {
    /// A symlink with this target.
    Symlink(Vec<u8>),
    /// A file of another type.
    Special(FileType),
    /// A file whose content is in the stream `WofCompressedData`.
    Wof(Wof),
    /// A file whose content another driver provides, in these words.
    Elsewhere(&'static str),
    /// Nothing that changes how the file is read.
    Other,
}

/// How a file of the Windows Overlay Filter is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wof {
    pub(super) codec: Codec,
    /// The bytes that are compressed together.
    pub(super) chunk: u64,
}

/// Parses a reparse point. The error is a predicate without a subject.
pub(super) fn parse(bytes: &[u8]) -> Result<Reparse, String> {
    if bytes.len() < HEADER {
        return Err(format!("has {} bytes", bytes.len()));
    }
    let len = usize::from(le16(bytes, 4));
    let data = bytes.get(HEADER..HEADER + len);
    let data =
        data.ok_or_else(|| format!("says that it has {len} bytes, but has {}", bytes.len() - HEADER))?;
    Ok(match le32(bytes, 0) {
        tag::SYMLINK => Reparse::Symlink(target(data, 12)?),
        tag::MOUNT_POINT => Reparse::Symlink(target(data, 8)?),
        tag::LX_SYMLINK => {
            let target = data.get(4..).ok_or("has no target")?;
            Reparse::Symlink(valid(target.to_vec())?)
        }
        tag::AF_UNIX => Reparse::Special(FileType::Socket),
        tag::LX_FIFO => Reparse::Special(FileType::Fifo),
        tag::LX_CHR => Reparse::Special(FileType::Char),
        tag::LX_BLK => Reparse::Special(FileType::Block),
        tag::WOF => wof(data)?,
        tag::SIS => Reparse::Elsewhere("in the store of single instances"),
        tag::DEDUP => Reparse::Elsewhere("deduplicated by Windows Server"),
        _ => Reparse::Other,
    })
}

/// Returns the target of a link whose names begin at byte `start`.
fn target(data: &[u8], start: usize) -> Result<Vec<u8>, String> {
    if data.len() < start {
        return Err(format!("has {} bytes of data, too few for a link", data.len()));
    }
    let name = |at: usize| {
        let (offset, len) = (usize::from(le16(data, at)), usize::from(le16(data, at + 2)));
        let name = data.get(start + offset..start + offset + len);
        name.map(|name| utf16::wtf8(&units(name))).ok_or("has a name outside of it")
    };
    let (substitute, print) = (name(0)?, name(4)?);
    valid(if print.is_empty() { substitute } else { print })
}

/// Returns the target of a link, if it can be one.
fn valid(target: Vec<u8>) -> Result<Vec<u8>, String> {
    match target.is_empty() || target.contains(&0) {
        true => Err("has a target that is empty or holds a NUL".to_owned()),
        false => Ok(target),
    }
}

/// Parses `WOF_EXTERNAL_INFO` and `FILE_PROVIDER_EXTERNAL_INFO_V1`.
fn wof(data: &[u8]) -> Result<Reparse, String> {
    /// The provider of content in a WIM archive elsewhere, and that of files that are compressed one by one.
    const WIM: u32 = 1;
    const FILE: u32 = 2;
    if data.len() < 8 {
        return Err(format!("has {} bytes of data, too few for the overlay filter", data.len()));
    }
    match (le32(data, 0), le32(data, 4)) {
        (1, FILE) if data.len() < 16 => Err(format!("has {} bytes of data, too few for a file", data.len())),
        (1, FILE) if le32(data, 8) == 1 => Ok(match le32(data, 12) {
            0 => Reparse::Wof(Wof { codec: Codec::Xpress, chunk: 4 << 10 }),
            1 => Reparse::Wof(Wof { codec: Codec::Lzx, chunk: 32 << 10 }),
            2 => Reparse::Wof(Wof { codec: Codec::Xpress, chunk: 8 << 10 }),
            3 => Reparse::Wof(Wof { codec: Codec::Xpress, chunk: 16 << 10 }),
            _ => Reparse::Elsewhere("compressed by the overlay filter in an unknown way"),
        }),
        (1, WIM) => Ok(Reparse::Elsewhere("in a WIM archive")),
        _ => Ok(Reparse::Elsewhere("stored by an unknown provider of the overlay filter")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(tag: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = tag.to_le_bytes().to_vec();
        bytes.extend((data.len() as u32).to_le_bytes());
        bytes.extend(data);
        bytes
    }

    fn link(tag: u32, substitute: &str, print: &str) -> Vec<u8> {
        let [substitute, print] = [substitute, print]
            .map(|text| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>());
        let mut data = Vec::new();
        for number in [0, substitute.len(), substitute.len(), print.len()] {
            data.extend((number as u16).to_le_bytes());
        }
        if tag == tag::SYMLINK {
            data.extend([1, 0, 0, 0]);
        }
        data.extend(substitute);
        data.extend(print);
        point(tag, &data)
    }

    #[test]
    fn links_lead_where_windows_shows() {
        let target = |bytes: &[u8]| match parse(bytes) {
            Ok(Reparse::Symlink(target)) => String::from_utf8(target).unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(target(&link(tag::SYMLINK, r"..\file", r"..\file")), r"..\file");
        assert_eq!(target(&link(tag::SYMLINK, r"\??\C:\a", r"C:\a")), r"C:\a");
        assert_eq!(target(&link(tag::MOUNT_POINT, r"\??\C:\Users", "")), r"\??\C:\Users");
        assert_eq!(target(&point(tag::LX_SYMLINK, b"\x02\0\0\0../a b")), "../a b");
    }

    #[test]
    fn files_of_linux_have_their_types() {
        assert_eq!(parse(&point(tag::LX_FIFO, b"")), Ok(Reparse::Special(FileType::Fifo)));
        assert_eq!(parse(&point(tag::LX_BLK, b"")), Ok(Reparse::Special(FileType::Block)));
    }

    #[test]
    fn compressed_files_have_a_codec_and_others_are_elsewhere() {
        let wof = |provider: u8, algorithm: u8| {
            parse(&point(
                tag::WOF,
                &[1, 0, 0, 0, provider, 0, 0, 0, 1, 0, 0, 0, algorithm, 0, 0, 0, 0, 0, 0, 0],
            ))
        };
        assert_eq!(wof(2, 0), Ok(Reparse::Wof(Wof { codec: Codec::Xpress, chunk: 4096 })));
        assert_eq!(wof(2, 1), Ok(Reparse::Wof(Wof { codec: Codec::Lzx, chunk: 32_768 })));
        assert!(matches!(wof(2, 4), Ok(Reparse::Elsewhere(_))));
        assert!(matches!(wof(1, 0), Ok(Reparse::Elsewhere(_))));
        assert!(matches!(parse(&point(tag::DEDUP, &[])), Ok(Reparse::Elsewhere(_))));
        // An application's, as in the store of Windows.
        assert_eq!(parse(&point(0x8000_001B, b"x")), Ok(Reparse::Other));
    }

    #[test]
    fn senseless_reparse_points_are_refused() {
        assert!(parse(&[0; 7]).is_err());
        assert!(parse(&[0, 0, 0, 0x80, 1, 0, 0, 0]).is_err());
        assert!(parse(&link(tag::SYMLINK, "", "")).is_err());
        let mut bytes = link(tag::SYMLINK, "a", "a");
        bytes[8 + 4] = 4;
        assert!(parse(&bytes).unwrap_err().contains("outside"));
        assert!(parse(&point(tag::WOF, &[1, 0, 0, 0])).is_err());
    }
}
