//! A disk whose LUKS volumes are plaintext, where a key opens them.
//!
//! A disk that is one LUKS volume becomes its payload, which may be a disk with partitions itself. In a partition or a
//! logical volume, the payload takes the place of the volume from its first byte, as `cryptsetup open` shows it, and zeros
//! follow to the end: so filesystem readers, and systems that start from the disk, find it where they look, without LUKS.

use std::path::Path;
use std::sync::Arc;

use mif_formats::container::{self, Disk, OpenOptions};
use mif_formats::luks::{Budget, Header, Passphrase, Plaintext};
use mif_formats::partition::TableKind;
use mif_formats::source::check_range;
use mif_formats::{ErrorKind, Extent, Source};

use super::scan::{LUKS, Scan, ScannedVolume};
use super::volume::{VolumeExtent, VolumeSource};
use crate::error::{Error, Result};
use crate::task::progress::Progress;

/// The most volumes of a disk that are decrypted inside of each other: a disk, a partition, a logical volume.
const MAX_LAYERS: usize = 4;

/// Opens the container at `path`, and decrypts the volumes on its disk if there are keys.
pub(crate) fn open(path: &Path, options: &OpenOptions, progress: &dyn Progress) -> Result<Disk> {
    let mut disk = container::open_observed(path, options, progress)?;
    if !options.passphrases.is_empty() {
        decrypt(&mut disk, &options.passphrases)
            .map_err(|error| error.within(&path.display().to_string()))?;
    }
    Ok(disk)
}

/// Replaces the LUKS volumes of a disk by their payloads. Adds what was decrypted to the disk's details, and what was not
/// to its warnings.
///
/// Fails if there are LUKS volumes, and no key opens one.
pub(crate) fn decrypt(disk: &mut Disk, keys: &[Passphrase]) -> Result<()> {
    let mut budget = Budget::default();
    let mut closed: Vec<(Vec<VolumeExtent>, mif_formats::Error, String)> = Vec::new();
    let mut opened = Vec::new();
    for _ in 0..MAX_LAYERS {
        let scan = Scan::new(disk.source.clone())?;
        let mut regions: Vec<Region> = Vec::new();
        let mut whole = None;
        for volume in scan.volumes.iter().filter(|volume| is_luks(volume)) {
            let is_whole = scan.table.kind == TableKind::None && volume.name == "p0";
            if closed.iter().any(|(extents, ..)| *extents == volume.extents) {
                continue;
            }
            let name = if is_whole { "the disk".to_owned() } else { volume.name.clone() };
            let new: Vec<Region> = volume.extents.iter().map(Region::of).collect();
            if new.iter().any(|new| regions.iter().any(|other| new.overlaps(other))) {
                disk.warnings.push(format!("{name}: not decrypted: it overlaps another encrypted volume"));
                continue;
            }
            let source: Arc<dyn Source> = match is_whole {
                true => disk.source.clone(),
                false => Arc::new(VolumeSource::new(disk.source.clone(), volume.extents.clone())),
            };
            let plain = match unlock(source, keys, &mut budget) {
                Ok(Some((plain, what))) => {
                    opened.push(format!("{name}: {what}"));
                    Arc::new(plain)
                }
                Ok(None) => continue,
                Err(error) if error.kind() == ErrorKind::Io => return Err(error.into()),
                Err(error) => {
                    closed.push((volume.extents.clone(), error, name));
                    continue;
                }
            };
            match is_whole {
                true => whole = Some(plain),
                false => {
                    regions.extend(new.into_iter().map(|new| Region { plain: Some(plain.clone()), ..new }))
                }
            }
        }
        disk.source = match whole {
            Some(plain) => plain,
            None if regions.is_empty() => break,
            None => {
                regions.sort_by_key(|region| region.start);
                Arc::new(Decrypted { disk: disk.source.clone(), regions })
            }
        };
    }
    if opened.is_empty() && disk.decrypted.is_empty() {
        match closed.into_iter().next() {
            Some((_, error, name)) => return Err(Error::from(error).within(&name)),
            None => disk.warnings.push("the keys were not used: there is no LUKS volume".to_owned()),
        }
    } else {
        let left = closed.iter().map(|(_, error, name)| format!("{name}: not decrypted: {error}"));
        disk.warnings.extend(left);
    }
    disk.details.extend(opened.iter().map(|what| ("decrypted".to_owned(), what.clone())));
    disk.decrypted.extend(opened);
    Ok(())
}

fn is_luks(volume: &ScannedVolume) -> bool {
    matches!(&volume.content, mif_formats::fs::Recognized::Other { name: Some(name), .. } if name == LUKS)
}

/// Opens a volume with one of `keys`; also returns a description of it.
fn unlock(
    volume: Arc<dyn Source>,
    keys: &[Passphrase],
    budget: &mut Budget,
) -> mif_formats::Result<Option<(Plaintext, String)>> {
    let Some(header) = Header::read(&*volume)? else { return Ok(None) };
    let what = header.info.describe();
    Ok(Some((header.open(volume, keys, budget)?, what)))
}

/// A disk with regions that are read elsewhere.
struct Decrypted {
    disk: Arc<dyn Source>,
    /// In the order of the disk, without overlaps.
    regions: Vec<Region>,
}

/// A region of the disk that shows a part of a payload, and zeros after the payload's end.
#[derive(Clone)]
struct Region {
    start: u64,
    len: u64,
    /// The place of its first byte in the payload.
    offset: u64,
    plain: Option<Arc<Plaintext>>,
}

impl Region {
    fn of(extent: &VolumeExtent) -> Self {
        Region { start: extent.disk.0, len: extent.len, offset: extent.volume.0, plain: None }
    }

    fn end(&self) -> u64 {
        self.start + self.len
    }

    fn overlaps(&self, other: &Region) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    /// Returns the payload, the place in it of a byte of the region, and how many bytes follow there in the region and in
    /// the payload.
    fn plain_at(&self, at: u64) -> Option<(&Plaintext, u64, u64)> {
        let plain = self.plain.as_deref()?;
        let offset = self.offset + (at - self.start);
        Some((plain, offset, plain.len().saturating_sub(offset).min(self.end() - at)))
    }
}

impl Decrypted {
    /// Returns the region that has `at`, and the end of it, or of what is before the next one.
    fn region_at(&self, at: u64) -> (Option<&Region>, u64) {
        let next = self.regions.partition_point(|region| region.end() <= at);
        match self.regions.get(next) {
            Some(region) if region.start <= at => (Some(region), region.end()),
            Some(region) => (None, region.start),
            None => (None, self.disk.len()),
        }
    }
}

impl Source for Decrypted {
    fn len(&self) -> u64 {
        self.disk.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> mif_formats::Result<()> {
        check_range("disk", self.len(), offset, buf.len() as u64)?;
        let (mut at, mut buf) = (offset, buf);
        while !buf.is_empty() {
            let (region, end) = self.region_at(at);
            let here = (end - at).min(buf.len() as u64) as usize;
            let (now, after) = buf.split_at_mut(here);
            match region.and_then(|region| region.plain_at(at)) {
                None => self.disk.read_at(at, now)?,
                Some((plain, place, there)) => {
                    let (payload, zeros) = now.split_at_mut(there.min(here as u64) as usize);
                    if !payload.is_empty() {
                        plain.read_at(place, payload)?;
                    }
                    zeros.fill(0);
                }
            }
            (at, buf) = (at + here as u64, after);
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> mif_formats::Result<Extent> {
        self.extent_up_to(offset, u64::MAX)
    }

    fn extent_up_to(&self, offset: u64, wanted: u64) -> mif_formats::Result<Extent> {
        check_range("disk", self.len(), offset, 1)?;
        let (region, end) = self.region_at(offset);
        Ok(match region.and_then(|region| region.plain_at(offset)) {
            None => {
                let extent = self.disk.extent_up_to(offset, wanted.min(end - offset))?;
                Extent { range: offset..extent.range.end.min(end), kind: extent.kind }
            }
            Some((_, _, 0)) => Extent::zero(offset, end - offset),
            Some((_, _, there)) => Extent::data(offset, there),
        })
    }

    fn sector_size(&self) -> Option<u32> {
        self.disk.sector_size()
    }
}
