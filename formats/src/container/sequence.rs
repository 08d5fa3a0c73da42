//! Sequential output to a block device or standard output. Neither has holes, so skipped ranges are written as zeros.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, FallocateFlags, OFlags, fadvise, fallocate};

use crate::error::{Result, at};

/// The number of zeros written at once, in bytes.
const ZEROS: usize = 1 << 20;
/// The kernel's page size for device caches, in bytes.
const PAGE: u64 = 4096;
/// The number of bytes that the kernel zeroes per request.
const ZERO_STEP: u64 = 1 << 30;

/// An output that is written in ascending order.
pub(super) struct Sequence {
    sink: Sink,
    /// The end of the written part, in bytes.
    position: u64,
    /// The length of the whole output, in bytes.
    len: u64,
}

enum Sink {
    /// A block device, and its size in bytes.
    Device(File, u64),
    Output(io::Stdout),
}

/// Opens the block device at `path` exclusively, and returns its size in bytes too. Fails if it is mounted or otherwise
/// in use.
pub(super) fn open_device(path: &Path, options: &mut OpenOptions) -> Result<(File, u64)> {
    let place = || at("").file(path);
    // Without O_CREAT, O_EXCL on a block device fails if it is mounted or claimed by another driver.
    let opened = options.custom_flags(OFlags::EXCL.bits() as i32).open(path);
    let device = opened.map_err(|e| match e.kind() {
        io::ErrorKind::ResourceBusy => place().denied("the device is in use; is it mounted?"),
        _ => place().io(e),
    })?;
    let size = io::Seek::seek(&mut &device, io::SeekFrom::End(0)).map_err(|e| place().io(e))?;
    Ok((device, size))
}

/// Fails if a device of `size` bytes is smaller than a disk of `len` bytes.
pub(super) fn check_room(path: &Path, len: u64, size: u64) -> Result<()> {
    if len > size {
        let problem =
            format!("the disk has {len} bytes, but the device has only {size}; nothing was written");
        return Err(at("").file(path).limit(problem));
    }
    Ok(())
}

impl Sequence {
    /// Opens the block device at `path` exclusively. Fails if it is mounted or otherwise in use.
    pub(super) fn to_device(path: &Path) -> Result<Self> {
        let (device, size) = open_device(path, OpenOptions::new().write(true))?;
        Ok(Sequence { sink: Sink::Device(device, size), position: 0, len: 0 })
    }

    /// Creates a sequence that writes to standard output.
    pub(super) fn to_standard_output() -> Self {
        Sequence { sink: Sink::Output(io::stdout()), position: 0, len: 0 }
    }

    /// Sets the length of the output, in bytes. Fails before anything is written if the device at `path` is smaller.
    pub(super) fn set_len(&mut self, len: u64, path: &Path) -> Result<()> {
        if let Sink::Device(_, size) = self.sink {
            check_room(path, len, size)?;
        }
        self.len = len;
        Ok(())
    }

    /// Writes zeros up to `offset`, then `bytes`.
    pub(super) fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset < self.position {
            return Err(io::Error::new(io::ErrorKind::NotSeekable, "cannot seek back in sequential output"));
        }
        self.zero_to(offset)?;
        match &mut self.sink {
            Sink::Device(device, _) => device.write_all_at(bytes, offset)?,
            Sink::Output(output) => output.write_all(bytes)?,
        }
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Writes zeros up to the end of the output, and syncs.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.zero_to(self.len)?;
        match &mut self.sink {
            Sink::Device(device, _) => {
                device.sync_all()?;
                // A later read should come from the device, not from the cache. This is advice only.
                let _ = fadvise(&*device, 0, None, Advice::DontNeed);
                Ok(())
            }
            Sink::Output(output) => output.flush(),
        }
    }

    fn zero_to(&mut self, end: u64) -> io::Result<()> {
        while self.position < end {
            let mut len = end - self.position;
            match &mut self.sink {
                Sink::Device(device, _) => {
                    // The kernel zeroes whole pages, and not on every device; otherwise zeros are written.
                    let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
                    let whole = (len / PAGE * PAGE).min(ZERO_STEP);
                    let by_kernel = whole > 0
                        && self.position.is_multiple_of(PAGE)
                        && fallocate(&*device, flags, self.position, whole).is_ok();
                    if by_kernel {
                        len = whole;
                    } else {
                        len = len.min(ZEROS as u64 - self.position % PAGE);
                        device.write_all_at(&vec![0; len as usize], self.position)?;
                    }
                }
                Sink::Output(output) => {
                    len = len.min(ZEROS as u64);
                    output.write_all(&vec![0; len as usize])?;
                }
            }
            self.position += len;
        }
        Ok(())
    }
}
