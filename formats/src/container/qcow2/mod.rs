//! qcow2, versions 2 and 3: QEMU's format. Specification: `docs/interop/qcow2.txt` of QEMU.

mod batch;
mod header;
mod layout;
mod name;
mod read;
mod write;

use std::sync::Arc;

use self::header::{Header, MAGIC, MAX_SNAPSHOT_TABLE, Snapshot, incompatible};
use self::read::Clusters;
use super::mapped::Mapped;
use super::opener::advise_parent;
use super::{CreateOptions, Disk, Format, ImageFile, Observer, Opener, Output, human};
use crate::error::{Result, at};
use crate::luks;
use crate::source::{Slice, Source};

pub(super) struct Qcow2;

impl Format for Qcow2 {
    fn name(&self) -> &'static str {
        "qcow2"
    }

    fn suffixes(&self) -> &'static [&'static str] {
        &["qcow2", "qcow", "qc2"]
    }

    fn probe(&self, head: &[u8], _: &[u8], _: u64) -> bool {
        head.starts_with(&MAGIC)
    }

    fn open(&self, file: ImageFile, opener: &Opener<'_>) -> Result<Disk> {
        let first = file.read_up_to(0, 4096)?;
        // The parser reports a wrong or truncated field.
        let bits = first.get(20..24).map_or(12, |b| crate::bytes::be32(b, 0)).clamp(9, 21);
        let header = Header::parse(&file.read_up_to(0, 1 << bits)?)?;
        let mut disk = Disk {
            source: Arc::new(crate::source::MemSource(Vec::new())),
            format: "qcow2",
            details: details(&header),
            files: vec![file.opened()],
            own_files: 1,
            warnings: Vec::new(),
            decrypted: Vec::new(),
        };
        let cipher = open_luks(&header, &file, opener, &mut disk)?;
        if header.has(incompatible::DIRTY) {
            disk.warnings.push(
                "the image was not closed properly (dirty bit): its reference counts may be wrong, \
                 but mif does not use them to read"
                    .to_owned(),
            );
        }
        if header.has(incompatible::CORRUPT) {
            disk.warnings.push(
                "the image is marked corrupt (corrupt bit): mif reads it as its tables say, and the data may differ from \
                 what the guest wrote"
                    .to_owned(),
            );
        }
        let snapshots = read_snapshots(&header, &file)?;
        for snapshot in &snapshots {
            disk.details.push(("snapshot".to_owned(), format!("{} (ID {})", snapshot.name, snapshot.id)));
        }
        let (mut l1, mut size) = ((header.l1_table_offset, header.l1_size), header.size);
        if let Some(wanted) = &opener.options().snapshot {
            let named = snapshots.iter().find(|s| s.id == *wanted);
            let snapshot = named.or_else(|| snapshots.iter().find(|s| s.name == *wanted));
            let snapshot = snapshot.ok_or_else(|| {
                at("").file(file.path()).not_found(format!("no snapshot {wanted:?} in this image"))
            })?;
            l1 = (snapshot.l1_table_offset, snapshot.l1_size);
            size = snapshot.disk_size.unwrap_or(size);
        }
        // qemu counts in whole sectors, so a partial last sector is not part of the disk.
        if size % 512 != 0 {
            disk.warnings.push(format!(
                "the disk size is {size} bytes; the last {} bytes are less than a sector and are ignored",
                size % 512
            ));
            size -= size % 512;
        }
        let data_file = match (header.has(incompatible::DATA_FILE), &header.data_file) {
            (false, _) => None,
            (true, Some(name)) => Some(opener.open_named(file.path(), &name::parse(name)?.file)?),
            (true, None) => {
                return Err(at("qcow2 header")
                    .corrupt("the data is in an external file, but the image does not name it"));
            }
        };
        disk.files.extend(data_file.iter().map(ImageFile::opened));
        disk.own_files = disk.files.len();
        let mut backing = None;
        if let Some(name) = &header.backing_file {
            let format = header.backing_format.clone();
            let (parent, format) = match opener.parent_file()? {
                // The user named the parent, so the image's name for it is not parsed.
                Some(parent) => (parent, format),
                None => {
                    let named = name::parse(name)?;
                    let parent = opener.open_named(file.path(), &named.file).map_err(advise_parent)?;
                    (parent, named.format.or(format))
                }
            };
            let below = opener.open_backing(&file, parent, format.as_deref())?;
            disk.files.extend(below.files);
            disk.warnings.extend(below.warnings);
            disk.decrypted.extend(below.decrypted);
            backing = Some(below.source);
        }
        let clusters = Clusters::new(header, file, data_file, cipher, l1, size)?;
        disk.source = Arc::new(Mapped::new(clusters, backing));
        Ok(disk)
    }

    fn create(
        &self,
        source: &dyn Source,
        output: &mut Output,
        options: &CreateOptions,
        observer: &dyn Observer,
    ) -> Result<()> {
        write::create(source, output, options, observer)
    }
}

fn details(header: &Header) -> Vec<(String, String)> {
    let mut details = vec![
        ("version".to_owned(), header.version.to_string()),
        ("cluster size".to_owned(), human(header.cluster_size())),
        ("compression".to_owned(), ["zlib", "zstd"][usize::from(header.compression_type)].to_owned()),
    ];
    if header.has(incompatible::EXTENDED_L2) {
        details.push(("subcluster size".to_owned(), human(header.cluster_size() / 32)));
    }
    if let Some(name) = &header.backing_file {
        details.push(("backing file".to_owned(), String::from_utf8_lossy(name).into_owned()));
    }
    if let Some(name) = &header.data_file {
        details.push(("data file".to_owned(), String::from_utf8_lossy(name).into_owned()));
    }
    details
}

/// Opens the encryption of an image; `None` if it has none. All states of the disk have one key.
fn open_luks(
    header: &Header,
    file: &ImageFile,
    opener: &Opener<'_>,
    disk: &mut Disk,
) -> Result<Option<luks::Cipher>> {
    let Some(range) = header.encryption()? else { return Ok(None) };
    let slice = Slice::new(file, range.clone())?;
    let place = || at("LUKS header of a qcow2 image").byte(range.start);
    let luks = luks::Header::read(&slice)?
        .ok_or_else(|| place().corrupt("is none: it does not begin with the magic bytes of LUKS"))?;
    if luks.info.version != 1 {
        return Err(
            place().unsupported(format!("is of LUKS{}, and QEMU knows only LUKS1 there", luks.info.version))
        );
    }
    let what = luks.info.describe();
    disk.details.push(("encryption".to_owned(), what.clone()));
    let cipher = luks.open_cipher(&slice, &opener.options().passphrases, &mut luks::Budget::default())?;
    disk.decrypted.push(format!("{}: {what}", file.name()));
    Ok(Some(cipher))
}

fn read_snapshots(header: &Header, file: &ImageFile) -> Result<Vec<Snapshot>> {
    if header.nb_snapshots == 0 {
        return Ok(Vec::new());
    }
    let offset = header.snapshots_offset;
    if offset >= file.len() {
        return Err(at("qcow2 header")
            .field("snapshots_offset")
            .byte(64)
            .corrupt(format!("is {offset}, past the end of the file at {}", file.len())));
    }
    let bytes = file.read_up_to(offset, MAX_SNAPSHOT_TABLE as usize)?;
    Snapshot::parse_table(&bytes, header.nb_snapshots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_table_longer_than_the_limit_is_refused() {
        // Entries of 40 bytes with a name of 65,496: 256 of them are 16 MiB.
        let mut entry = vec![0; 65_536];
        entry[14..16].copy_from_slice(&65_496u16.to_be_bytes());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, entry.repeat(257)).unwrap();
        let file = ImageFile::open(&path).unwrap();
        let mut bytes = vec![0; 65_536];
        bytes[..4].copy_from_slice(&MAGIC);
        for (at, value) in [(4, 2), (20, 16), (36, 1u32)] {
            bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        let mut read = |count: u32| {
            bytes[60..64].copy_from_slice(&count.to_be_bytes());
            read_snapshots(&Header::parse(&bytes).unwrap(), &file)
        };
        assert_eq!(read(256).unwrap().len(), 256);
        let error = read(257).unwrap_err().to_string();
        assert!(error.contains("entry 256: the entry is truncated or too long"), "{error}");
    }
}
