//! A volume in the forms that the other readers need: a device with a position, and one without.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use fs_core::BlockRead;
use mif_formats::Source;

/// How many bytes of a file are read at once.
pub(super) const WINDOW: usize = 256 << 10;

/// Fills `buf` from `offset` as far as possible, and returns the number of bytes read.
pub(super) fn read_part(volume: &dyn Source, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let wanted = volume.len().saturating_sub(offset).min(buf.len() as u64) as usize;
    if wanted > 0 {
        volume.read_at(offset, &mut buf[..wanted]).map_err(io::Error::other)?;
    }
    Ok(wanted)
}

/// Passes all bytes of a file to `each`, in order. `read` reads from an offset, which each time follows what it read
/// before, and returns the number of bytes: 0 at the end.
pub(super) fn read_all(
    mut read: impl FnMut(u64, &mut [u8]) -> Result<usize, String>,
    each: &mut dyn FnMut(&[u8]),
) -> Result<(), String> {
    let (mut buf, mut offset) = (vec![0; WINDOW], 0);
    loop {
        match read(offset, &mut buf)? {
            0 => return Ok(()),
            got => {
                each(&buf[..got]);
                offset += got as u64;
            }
        }
    }
}

/// A position on a volume. The readers' types require writing, which fails.
pub(super) struct Device {
    volume: Arc<dyn Source>,
    at: u64,
}

impl Device {
    pub(super) fn new(volume: Arc<dyn Source>) -> Self {
        Device { volume, at: 0 }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device at {} of {}", self.at, self.volume.len())
    }
}

impl Read for Device {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = read_part(&*self.volume, self.at, buf)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Device {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.volume.len().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = place.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

impl Write for Device {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::from(io::ErrorKind::PermissionDenied))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A volume as the crates `rust-fs-xfs` and `rust-fs-btrfs` read it.
pub(super) struct Blocks(pub(super) Arc<dyn Source>);

impl BlockRead for Blocks {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> fs_core::Result<()> {
        match read_part(&*self.0, offset, buf)? {
            got if got == buf.len() => Ok(()),
            got => Err(fs_core::Error::ShortRead { offset, want: buf.len(), got }),
        }
    }

    fn size_bytes(&self) -> u64 {
        self.0.len()
    }
}
