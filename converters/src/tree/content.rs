//! The place of a file's content, and how to read it.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use mif_formats::fs::{Encoded, Piece};
use mif_formats::mif::ObjectId;
use mif_formats::source::check_range;
use mif_formats::{Extent, Source, at};

use crate::disk::scan::Scan;
use crate::disk::volume::{VolumeOffset, read_at};
use crate::error::{Error, Result};
use crate::store::Objects;

/// The place of a regular file's content.
#[derive(Clone)]
pub(crate) enum Contents {
    /// An object of the store.
    Stored { id: ObjectId, objects: Arc<Objects> },
    /// A file on a volume of a disk.
    OnDisk { scan: Arc<Scan>, volume: usize, node: u64 },
}

impl Contents {
    /// Opens the content for reading.
    pub(crate) fn open(&self) -> Result<Box<dyn Source>> {
        match self {
            Contents::Stored { id, objects } => {
                let (len, zeros) = (objects.len(id)?, objects.zero_runs(id)?);
                Ok(Box::new(StoredObject { id: *id, len, zeros, objects: objects.clone() }))
            }
            Contents::OnDisk { scan, volume, node } => {
                let fs = scan.volumes[*volume].filesystem().expect("its files were listed");
                let content = fs.content(*node)?;
                let mut start = 0;
                let pieces = content.pieces.into_iter().map(|piece| {
                    start += piece.len();
                    (start - piece.len(), piece)
                });
                Ok(Box::new(FileOnDisk {
                    len: content.size,
                    pieces: pieces.collect(),
                    scan: scan.clone(),
                    volume: *volume,
                    last: Mutex::default(),
                }))
            }
        }
    }
}

struct StoredObject {
    id: ObjectId,
    len: u64,
    /// The ranges known to be zero: sorted and disjoint.
    zeros: Vec<Range<u64>>,
    objects: Arc<Objects>,
}

impl Source for StoredObject {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> mif_formats::Result<()> {
        check_range("file", self.len, offset, buf.len() as u64)?;
        let failed = |e: Error| at("file").byte(offset).io(std::io::Error::other(e.to_string()));
        self.objects.read_at(&self.id, offset, buf).map_err(failed)
    }

    fn extent_at(&self, offset: u64) -> mif_formats::Result<Extent> {
        let next = self.zeros.partition_point(|zeros| zeros.end <= offset);
        Ok(match self.zeros.get(next) {
            Some(zeros) if zeros.start <= offset => Extent::zero(offset, zeros.end - offset),
            Some(zeros) => Extent::data(offset, zeros.start - offset),
            None => Extent::data(offset, self.len - offset),
        })
    }
}

struct FileOnDisk {
    len: u64,
    pieces: Vec<(u64, Piece)>,
    scan: Arc<Scan>,
    volume: usize,
    /// The extent that was decoded last, by where it starts in the file.
    last: Mutex<Option<(u64, Arc<Vec<u8>>)>>,
}

impl FileOnDisk {
    /// The decoded bytes of a compressed extent.
    fn decoded(&self, start: u64, encoded: &Encoded) -> mif_formats::Result<Arc<Vec<u8>>> {
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = last().as_ref().filter(|(held, _)| *held == start) {
            return Ok(bytes.clone());
        }
        let volume = self.scan.volume(&self.scan.volumes[self.volume]);
        let bytes = Arc::new(encoded.decode(&encoded.read(&volume)?)?);
        *last() = Some((start, bytes.clone()));
        Ok(bytes)
    }
}

impl Source for FileOnDisk {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> mif_formats::Result<()> {
        check_range("file", self.len, offset, buf.len() as u64)?;
        let volume = &self.scan.volumes[self.volume];
        let first = self.pieces.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
        for (start, piece) in &self.pieces[first..] {
            if buf.is_empty() {
                break;
            }
            let skip = offset - start;
            let here = (piece.len() - skip).min(buf.len() as u64);
            let (part, rest) = buf.split_at_mut(here as usize);
            match piece {
                Piece::Zero { .. } => part.fill(0),
                Piece::Bytes(bytes) => part.copy_from_slice(&bytes[skip as usize..(skip + here) as usize]),
                Piece::Encoded(encoded) => {
                    let from = (u64::from(encoded.from) + skip) as usize;
                    let bytes = self.decoded(*start, encoded)?;
                    part.copy_from_slice(&bytes[from..from + here as usize]);
                }
                Piece::Volume { offset, .. } => {
                    read_at(&*self.scan.disk, &volume.extents, VolumeOffset(offset + skip), part)?;
                }
            }
            offset += here;
            buf = rest;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> mif_formats::Result<Extent> {
        let i = self.pieces.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
        let (start, piece) = &self.pieces[i];
        let left = start + piece.len() - offset;
        Ok(if matches!(piece, Piece::Zero { .. }) {
            Extent::zero(offset, left)
        } else {
            Extent::data(offset, left)
        })
    }
}
