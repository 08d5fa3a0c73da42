//! Special files of Interix, Microsoft's first Unix for Windows, which ntfs-3g makes by default: system files whose content
//! says what they are. Its FIFOs and sockets are files of zero and one byte, as Windows' own files may be, so they are not
//! told from those.

use super::content;
use super::file::File;
use super::info::{Standard, flags};
use super::record::kind;
use super::volume::Volume;
use crate::bytes::le64;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::filesystem::{Content, Piece};
use crate::fs::node::{FileType, Node};
use crate::fs::utf16;

/// The first bytes of a symlink, a character device and a block device.
const LINK: &[u8; 8] = b"IntxLNK\x01";
const CHAR: &[u8; 8] = b"IntxCHR\0";
const BLOCK: &[u8; 8] = b"IntxBLK\0";
/// The largest of these files in bytes: a target of 4096 units.
const SIZE_MAX: u64 = 8 + 2 * 4096;

/// What the content of a file makes it.
enum Special {
    /// A symlink with this target.
    Link(Vec<u8>),
    /// A device with these numbers.
    Device(FileType, Option<(u32, u32)>),
}

/// Gives `node` the type that the content of `file`, a system file, makes it.
pub(super) fn interpret(
    volume: &Volume,
    file: &File,
    node: &mut Node,
    complain: &mut dyn FnMut(Error),
) -> Result<()> {
    match special(volume, file) {
        Ok(None) => {}
        Ok(Some(Special::Link(target))) => {
            node.file_type = FileType::Symlink;
            node.size = target.len() as u64;
            node.link_target = Some(target);
        }
        Ok(Some(Special::Device(file_type, rdev))) => {
            node.file_type = file_type;
            node.rdev = rdev;
        }
        Err(error) if error.kind() == ErrorKind::Io => return Err(error),
        Err(error) => complain(error),
    }
    Ok(())
}

/// Returns the target of a file that is such a symlink.
pub(super) fn link_of(volume: &Volume, file: &File) -> Result<Option<Vec<u8>>> {
    let standard = file.attribute(kind::STANDARD_INFORMATION);
    let standard = standard.and_then(|standard| standard.value(volume, 1 << 10).ok());
    let is_system = standard
        .and_then(|bytes| Standard::parse(&bytes))
        .is_some_and(|standard| standard.flags & flags::SYSTEM != 0);
    if !is_system {
        return Ok(None);
    }
    match special(volume, file)? {
        Some(Special::Link(target)) => Ok(Some(target)),
        _ => Ok(None),
    }
}

fn special(volume: &Volume, file: &File) -> Result<Option<Special>> {
    let Some(data) = file.attribute(kind::DATA) else { return Ok(None) };
    if !(8..=SIZE_MAX).contains(&data.size()?) {
        return Ok(None);
    }
    let Some(bytes) = read(volume, &content::of(volume, data)?)? else { return Ok(None) };
    let (magic, rest) = bytes.split_at(LINK.len());
    let numbers = || (rest.len() >= 16).then(|| (le64(rest, 0) as u32, le64(rest, 8) as u32));
    Ok(match magic.first_chunk() {
        Some(LINK) => {
            let units: Vec<u16> = super::record::units(rest);
            let target = utf16::wtf8(&units);
            (!target.is_empty() && !target.contains(&0)).then_some(Special::Link(target))
        }
        Some(CHAR) => Some(Special::Device(FileType::Char, numbers())),
        Some(BLOCK) => Some(Special::Device(FileType::Block, numbers())),
        _ => None,
    })
}

/// Reads a small file. `None` if it is compressed: Windows compresses none of these.
fn read(volume: &Volume, content: &Content) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::with_capacity(content.size as usize);
    for piece in &content.pieces {
        let start = bytes.len();
        match piece {
            Piece::Bytes(more) => bytes.extend(more),
            Piece::Zero { len } => bytes.resize(start + *len as usize, 0),
            Piece::Volume { offset, len } => {
                bytes.resize(start + *len as usize, 0);
                volume.read("file", *offset, &mut bytes[start..])?;
            }
            Piece::Encoded(_) => return Ok(None),
        }
    }
    Ok(Some(bytes))
}
