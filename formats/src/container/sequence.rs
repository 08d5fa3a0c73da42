//! Writing from front to back, to what is no file of ours: a block device, or standard output. Nothing there is a hole, so
//! what is passed over is made zeros.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, FallocateFlags, OFlags, fadvise, fallocate};

use crate::{Result, at};

/// How many zeros are written at once, in bytes.
const ZEROS: usize = 1 << 20;
/// How many bytes of a device are asked to be zeroed at once.
const ZERO_STEP: u64 = 1 << 30;

/// Bytes that are written in ascending order.
pub(super) struct Sequence {
    sink: Sink,
    /// Up to where it is written, in bytes.
    position: u64,
    /// How long it is to be, in bytes.
    len: u64,
}

enum Sink {
    /// A block device, and its size in bytes.
    Device(File, u64),
    Output(io::Stdout),
}

impl Sequence {
    /// To the block device at `path`, which nobody else may have in use.
    pub(super) fn to_device(path: &Path) -> Result<Self> {
        let place = || at("").file(path);
        // Of a block device, without O_CREAT, this means: unless it is mounted, or part of something that is in use.
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(OFlags::EXCL.bits() as i32);
        let device = options.open(path).map_err(|e| match e.kind() {
            io::ErrorKind::ResourceBusy => place().denied("is in use: is it mounted?"),
            _ => place().io(e),
        })?;
        let size = io::Seek::seek(&mut &device, io::SeekFrom::End(0)).map_err(|e| place().io(e))?;
        Ok(Sequence { sink: Sink::Device(device, size), position: 0, len: 0 })
    }

    /// To standard output.
    pub(super) fn to_standard_output() -> Self {
        Sequence { sink: Sink::Output(io::stdout()), position: 0, len: 0 }
    }

    /// How long it is to be, in bytes. Errs if the device at `path` is smaller: nothing is written then.
    pub(super) fn set_len(&mut self, len: u64, path: &Path) -> Result<()> {
        if let Sink::Device(_, size) = self.sink
            && len > size
        {
            let problem = format!("the device has {size} bytes, and the disk {len}; nothing was written");
            return Err(at("").file(path).limit(problem));
        }
        self.len = len;
        Ok(())
    }

    /// Writes `bytes` at `offset`, and zeros before them from where it was.
    pub(super) fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset < self.position {
            return Err(io::Error::new(io::ErrorKind::NotSeekable, "cannot go back to what was written"));
        }
        self.zero_to(offset)?;
        match &mut self.sink {
            Sink::Device(device, _) => device.write_all_at(bytes, offset)?,
            Sink::Output(output) => output.write_all(bytes)?,
        }
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Writes the zeros at the end, and waits until all is durable.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.zero_to(self.len)?;
        match &mut self.sink {
            Sink::Device(device, _) => {
                device.sync_all()?;
                // Who reads it again is to read what the device has. What the kernel makes of the advice is its own business.
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
                    len = len.min(ZERO_STEP);
                    // The kernel zeroes whole blocks, and not on every device.
                    let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
                    if fallocate(&*device, flags, self.position, len).is_err() {
                        len = len.min(ZEROS as u64);
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
