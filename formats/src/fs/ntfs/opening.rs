//! Opening a volume: its boot sector, its MFT, and the system files that describe it.

use std::sync::Arc;

use super::boot::{self, Boot};
use super::file::File;
use super::logfile::{self, Log};
use super::mft::Mft;
use super::record::{kind, units};
use super::volume::Volume;
use super::{content, index};
use crate::bytes::le16;
use crate::error::{Error, ErrorKind, Result, at};
use crate::fs::filesystem::{Content, Info, Piece};
use crate::source::{Source, check_range};

/// Records of system files.
mod system {
    pub(super) const LOG_FILE: u64 = 2;
    pub(super) const VOLUME: u64 = 3;
    pub(super) const ROOT: u64 = 5;
    pub(super) const BITMAP: u64 = 6;
}

/// The flag of a volume that must be checked.
const IS_DIRTY: u16 = 1;
/// The longest label in bytes.
const LABEL_MAX: usize = 512;
/// The largest bitmap of clusters that is read to count free ones, in bytes: that of 512 GiB in clusters of 4 KiB.
const BITMAP_MAX: u64 = 16 << 20;

/// A volume that has been opened.
pub(super) struct Opened {
    pub(super) volume: Volume,
    pub(super) mft: Mft,
    pub(super) info: Info,
}

/// Opens a volume.
pub(super) fn open(source: Arc<dyn Source>) -> Result<Opened> {
    check_range("NTFS volume", source.len(), 0, boot::SIZE as u64)?;
    let first = read_boot(&source, 0)?;
    let error = match first.and_then(|boot| with_mft(&source, boot)) {
        Ok((volume, mft)) => return describe(volume, mft, Vec::new()),
        Err(error) if error.kind() == ErrorKind::Io => return Err(error),
        Err(error) => error,
    };
    for sector in [512, 4096, 2048, 1024] {
        let Some(offset) = source.len().checked_sub(sector).filter(|offset| *offset > 0) else { continue };
        let Ok(boot) = read_boot(&source, offset)? else { continue };
        if boot.sectors * boot.sector_size > offset {
            continue;
        }
        if let Ok((volume, mft)) = with_mft(&source, boot) {
            let warning =
                format!("the boot sector is damaged, so its copy at byte {offset} was used: {error}");
            return describe(volume, mft, vec![warning]);
        }
    }
    Err(error)
}

/// Reads the boot sector at byte `offset`. The outer error is a read failure.
fn read_boot(source: &Arc<dyn Source>, offset: u64) -> Result<Result<Boot>> {
    let mut bytes = [0; boot::SIZE];
    source.read_at(offset, &mut bytes)?;
    Ok(Boot::parse(&bytes, offset))
}

fn with_mft(source: &Arc<dyn Source>, boot: Boot) -> Result<(Volume, Mft)> {
    let volume = Volume::new(Arc::clone(source), boot);
    let mft = Mft::open(&volume)?;
    Ok((volume, mft))
}

/// Reads what the system files say of the volume.
fn describe(volume: Volume, mft: Mft, mut warnings: Vec<String>) -> Result<Opened> {
    let boot = &volume.boot;
    warnings.extend(mft.warnings.iter().cloned());
    let mut info = Info {
        kind: "ntfs".to_owned(),
        label: None,
        uuid: Some(format!("{:016X}", boot.serial)),
        block_size: boot.cluster_size as u32,
        size: boot.size(),
        free: None,
        features: Vec::new(),
        warnings: Vec::new(),
        default_subvolume: None,
    };
    // Volumes without the copy of the boot sector are whole otherwise.
    if volume.len < boot.sectors * boot.sector_size {
        warnings.push(format!(
            "the volume ends at byte {}, but its filesystem at {}; the rest cannot be read",
            volume.len,
            boot.size()
        ));
    }
    let system = System { volume: &volume, mft: &mft };
    system.volume_file(&mut info).or_else(|error| warn(error, "$Volume", &mut warnings))?;
    system.log(&mut warnings).or_else(|error| warn(error, "the log", &mut warnings))?;
    system.hibernation(&mut warnings).or_else(|error| warn(error, "the root directory", &mut warnings))?;
    match system.free() {
        Ok(free) => info.free = free,
        Err(error) => warn(error, "$Bitmap", &mut warnings)?,
    }
    info.warnings.splice(0..0, warnings);
    Ok(Opened { volume, mft, info })
}

/// Turns an error into a warning, unless it is a read failure.
fn warn(error: Error, what: &str, warnings: &mut Vec<String>) -> Result<()> {
    if error.kind() == ErrorKind::Io {
        return Err(error);
    }
    warnings.push(format!("{what} cannot be read: {error}"));
    Ok(())
}

/// The system files.
struct System<'a> {
    volume: &'a Volume,
    mft: &'a Mft,
}

impl System<'_> {
    fn file(&self, number: u64) -> Result<File> {
        self.mft.file(self.volume, number)
    }

    /// Reads the label, the version and the flags.
    fn volume_file(&self, info: &mut Info) -> Result<()> {
        let file = self.file(system::VOLUME)?;
        if let Some(name) = file.attribute(kind::VOLUME_NAME) {
            let name = units(&name.value(self.volume, LABEL_MAX)?);
            info.label = Some(String::from_utf16_lossy(&name)).filter(|label| !label.is_empty());
        }
        let Some(about) = file.attribute(kind::VOLUME_INFORMATION) else {
            return Err(file.missing("has no $VOLUME_INFORMATION"));
        };
        let about = about.value(self.volume, LABEL_MAX)?;
        if about.len() < 12 {
            let place = at(format!("MFT record {}, $VOLUME_INFORMATION", system::VOLUME));
            return Err(place.corrupt(format!("has {} bytes", about.len())));
        }
        info.features.push(format!("{}.{}", about[8], about[9]));
        if le16(&about, 10) & IS_DIRTY != 0 {
            info.warnings.push("the volume is marked as dirty: Windows would check it".to_owned());
        }
        Ok(())
    }

    /// Warns of changes in the log.
    fn log(&self, warnings: &mut Vec<String>) -> Result<()> {
        let file = self.file(system::LOG_FILE)?;
        let Some(data) = file.attribute(kind::DATA) else { return Err(file.missing("has no $DATA")) };
        let mut head = vec![0; logfile::HEAD.min(data.size()? as usize)];
        let Some(mapped) = data.mapped(self.volume)? else {
            return Err(data.place().corrupt("is in the record"));
        };
        mapped.read(self.volume, &|| data.place(), 0, &mut head)?;
        match logfile::state(&head) {
            Log::Clean => {}
            Log::Dirty => {
                warnings.push("the volume was not cleanly unmounted: its log is not replayed".to_owned());
            }
            Log::Unknown => warnings.push("the log has no valid restart page".to_owned()),
        }
        Ok(())
    }

    /// Warns if Windows hibernates on the volume: what it will write on waking up is not there yet.
    fn hibernation(&self, warnings: &mut Vec<String>) -> Result<()> {
        /// Where a name is in a key.
        const NAME: usize = 66;
        let root = self.file(system::ROOT)?;
        let mut found = None;
        // Damaged blocks are complaints of the listing.
        index::walk(self.volume, &root, index::NAMES, &mut |_| (), &mut |entry| {
            let name = entry.key.get(NAME..).map(|name| String::from_utf16_lossy(&units(name)));
            if name.is_some_and(|name| name.eq_ignore_ascii_case("hiberfil.sys")) {
                found = entry.bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            }
            found.is_none()
        })?;
        let Some(reference) = found else { return Ok(()) };
        let file = self.file(reference & 0xFFFF_FFFF_FFFF)?;
        let Some(data) = file.attribute(kind::DATA) else { return Ok(()) };
        let mut magic = [0; 4];
        self.head(&content::of(self.volume, data)?, &mut magic)?;
        if matches!(&magic, b"hibr" | b"HIBR" | b"RSTR") {
            let warning = "Windows hibernates on the volume: what it has not written yet is missing";
            warnings.push(warning.to_owned());
        }
        Ok(())
    }

    /// Reads the first bytes of a file.
    fn head(&self, content: &Content, buf: &mut [u8]) -> Result<()> {
        match content.pieces.first() {
            Some(Piece::Volume { offset, len }) if *len >= buf.len() as u64 => {
                self.volume.read("file", *offset, buf)
            }
            Some(Piece::Bytes(bytes)) if bytes.len() >= buf.len() => {
                buf.copy_from_slice(&bytes[..buf.len()]);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Returns the number of free bytes, unless the volume is so large that counting takes long.
    fn free(&self) -> Result<Option<u64>> {
        /// Bytes that are read at once.
        const STEP: u64 = 1 << 20;
        let clusters = self.volume.boot.clusters();
        let bytes = clusters.div_ceil(8);
        if bytes > BITMAP_MAX {
            return Ok(None);
        }
        let file = self.file(system::BITMAP)?;
        let Some(data) = file.attribute(kind::DATA) else { return Err(file.missing("has no $DATA")) };
        let Some(mapped) = data.mapped(self.volume)? else {
            return Err(data.place().corrupt("is in the record"));
        };
        let mut used = 0;
        let mut from = 0;
        while from < bytes {
            let mut buf = vec![0; (bytes - from).min(STEP) as usize];
            mapped.read(self.volume, &|| data.place(), from, &mut buf)?;
            // Bits past the last cluster are set.
            if let (true, Some(last)) = (from + buf.len() as u64 == bytes, buf.last_mut()) {
                *last &= 0xFF >> (bytes * 8 - clusters);
            }
            used += buf.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
            from += buf.len() as u64;
        }
        Ok(Some((clusters - used.min(clusters)) * self.volume.cluster_size()))
    }
}
