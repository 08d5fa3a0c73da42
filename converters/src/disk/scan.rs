//! Scans a disk: its partitions, the volume on each, and the place of each volume.

use std::sync::Arc;

use mif_formats::fs::listing::Listing;
use mif_formats::fs::walk::walk;
use mif_formats::fs::{self, Filesystem, Recognized};
use mif_formats::luks;
use mif_formats::mif::manifest::escape;
use mif_formats::partition::{self, Partition, Table, lvm};
use mif_formats::{ErrorKind, Slice, Source};

use super::volume::{DiskOffset, VolumeExtent, VolumeOffset, VolumeSource, on_disk};
use crate::error::Result;
use crate::store::{FilesystemRecord, VolumeRecord, volume_name};

/// The name of an encrypted volume: blkid's.
pub(crate) const LUKS: &str = "crypto_LUKS";

/// A disk and its volumes.
pub struct Scan {
    /// The disk.
    pub disk: Arc<dyn Source>,
    /// Its partition table.
    pub table: Table,
    /// The volumes: partitions in the order of the table, then the logical volumes in them.
    pub volumes: Vec<ScannedVolume>,
    /// Warnings about the table and the volumes, as sentences.
    pub warnings: Vec<String>,
}

/// A volume on a disk.
pub struct ScannedVolume {
    /// `p` and the partition's slot; for a logical volume `group/volume`.
    pub name: String,
    /// Its content.
    pub content: Recognized,
    /// Its place on the disk, in volume order and without gaps.
    pub extents: Vec<VolumeExtent>,
    /// What the header of an encrypted volume says.
    pub luks: Option<luks::Info>,
}

impl ScannedVolume {
    /// Returns the filesystem, if there is a readable one.
    #[must_use]
    pub fn filesystem(&self) -> Option<&dyn Filesystem> {
        match &self.content {
            Recognized::Known(fs) => Some(&**fs),
            Recognized::Other { .. } => None,
        }
    }

    /// Returns the filesystem, if mif can also write it.
    #[must_use]
    pub fn planned(&self) -> Option<&dyn Filesystem> {
        self.filesystem().filter(|fs| fs.capabilities().is_planned)
    }

    /// Returns the disk ranges (start, length) of `len` bytes at `offset` of the volume, in volume order.
    pub fn on_disk(&self, offset: VolumeOffset, len: u64) -> impl Iterator<Item = (DiskOffset, u64)> + '_ {
        on_disk(&self.extents, offset, len)
    }

    /// Lists its files; returns `None` if it has no filesystem that can be listed. Adds unreadable parts to
    /// `complaints`, as sentences.
    pub(crate) fn list(&self, complaints: &mut Vec<String>) -> Result<Option<Listing>> {
        let Some(fs) = self.filesystem() else { return Ok(None) };
        let listing = match walk(fs) {
            Err(e) if e.kind() != ErrorKind::Io => {
                complaints.push(format!("{}: {e}", self.name));
                return Ok(None);
            }
            other => other?,
        };
        for complaint in &listing.complaints {
            complaints.push(format!("{}:{}: {}", self.name, escape(&complaint.path), complaint.error));
        }
        Ok(Some(listing))
    }

    /// Returns its entry in `image.json`.
    #[must_use]
    pub fn record(&self) -> VolumeRecord {
        let content = match &self.content {
            Recognized::Known(fs) => FilesystemRecord::Filesystem(fs.info().clone()),
            Recognized::Other { name, .. } => FilesystemRecord::Other(name.clone()),
        };
        VolumeRecord { volume: self.name.clone(), content, luks: self.luks.clone() }
    }
}

impl Scan {
    /// Returns one of its volumes as a source.
    pub(crate) fn volume(&self, volume: &ScannedVolume) -> VolumeSource {
        VolumeSource::new(self.disk.clone(), volume.extents.clone())
    }

    /// Scans a disk. Fails only if a read fails; unknown or broken structures are warnings.
    pub fn new(disk: Arc<dyn Source>) -> Result<Self> {
        let table = partition::read(&*disk)?;
        let mut volumes: Vec<ScannedVolume> =
            table.partitions.iter().map(|partition| scan_volume(&disk, partition)).collect::<Result<_>>()?;
        let mut warnings = table.warnings.iter().map(|w| format!("partition table: {w}")).collect();
        scan_logical_volumes(&disk, &table.partitions, &mut volumes, &mut warnings)?;
        for volume in &volumes {
            let said = match &volume.content {
                Recognized::Known(fs) => &fs.info().warnings,
                Recognized::Other { warnings, .. } => warnings,
            };
            warnings.extend(said.iter().map(|w| format!("{}: {w}", volume.name)));
        }
        Ok(Scan { disk, table, volumes, warnings })
    }
}

fn scan_volume(disk: &Arc<dyn Source>, partition: &Partition) -> Result<ScannedVolume> {
    let range = partition.start..partition.start + partition.len;
    let source: Arc<dyn Source> = Arc::new(Slice::new(disk.clone(), range)?);
    let mut content = fs::open(source.clone())?;
    let luks = luks_info(&*source, &mut content)?;
    let extents = vec![VolumeExtent::whole(partition)];
    Ok(ScannedVolume { name: volume_name(partition.slot), content, extents, luks })
}

/// Returns what the header of a LUKS volume says; `None` if it is none. What is wrong with the header becomes a warning.
fn luks_info(volume: &dyn Source, content: &mut Recognized) -> Result<Option<luks::Info>> {
    let Recognized::Other { name: Some(name), warnings } = content else { return Ok(None) };
    if name != LUKS {
        return Ok(None);
    }
    match luks::Header::read(volume) {
        Ok(header) => Ok(header.map(|header| {
            warnings.extend(header.warnings);
            header.info
        })),
        Err(error) if error.kind() == ErrorKind::Io => Err(error.into()),
        Err(error) => {
            warnings.push(error.to_string());
            Ok(None)
        }
    }
}

/// Adds the linear logical volumes in the partitions, as `group/volume`.
fn scan_logical_volumes(
    disk: &Arc<dyn Source>,
    partitions: &[Partition],
    volumes: &mut Vec<ScannedVolume>,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let physical = partitions.iter().map(|p| -> Result<Arc<dyn Source>> {
        Ok(Arc::new(Slice::new(disk.clone(), p.start..p.start + p.len)?))
    });
    let physical = physical.collect::<Result<Vec<_>>>()?;
    for group in lvm::read(&physical)? {
        warnings.extend(group.warnings.iter().map(|w| format!("LVM {}: {w}", group.name)));
        for logical in &group.volumes {
            let mut at = 0;
            let extents = logical.segments.iter().map(|segment| {
                at += segment.len;
                let disk = DiskOffset(partitions[segment.physical].start + segment.start);
                VolumeExtent { volume: VolumeOffset(at - segment.len), disk, len: segment.len }
            });
            let source: Arc<dyn Source> = Arc::new(logical.open(&physical));
            let mut content = fs::open(source.clone())?;
            volumes.push(ScannedVolume {
                luks: luks_info(&*source, &mut content)?,
                content,
                name: format!("{}/{}", group.name, logical.name),
                extents: extents.collect(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_in_two_parts_maps_to_the_disk() {
        let part =
            |volume, disk, len| VolumeExtent { volume: VolumeOffset(volume), disk: DiskOffset(disk), len };
        let volume = ScannedVolume {
            name: "p1".into(),
            content: Recognized::Other { name: None, warnings: Vec::new() },
            extents: vec![part(0, 1000, 100), part(100, 5000, 100)],
            luks: None,
        };
        let on_disk = |offset, len| {
            volume.on_disk(VolumeOffset(offset), len).map(|(at, len)| (at.0, len)).collect::<Vec<_>>()
        };
        assert_eq!(on_disk(0, 100), [(1000, 100)]);
        assert_eq!(on_disk(90, 20), [(1090, 10), (5000, 10)]);
        assert_eq!(on_disk(150, 50), [(5050, 50)]);
    }
}
