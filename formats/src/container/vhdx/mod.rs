//! VHDX: Hyper-V's format; fixed, dynamic and differencing. Specification: Microsoft, [MS-VHDX].

mod header;
mod log;
mod read;
mod write;

use std::sync::Arc;

use self::header::{
    FILE_SIGNATURE, Guid, HEADER, HEADERS, Header, METADATA_TABLE, Metadata, REGION_TABLE, REGION_TABLES,
    Region, parse_regions,
};
use self::read::Blocks;
use super::mapped::Mapped;
use super::opener::{advise_parent, find_named};
use super::{CreateOptions, Disk, Format, ImageFile, Observer, Opener, Output, human};
use crate::error::{Result, at};
use crate::source::Source;

pub(super) struct Vhdx;

impl Format for Vhdx {
    fn name(&self) -> &'static str {
        "vhdx"
    }

    fn suffixes(&self) -> &'static [&'static str] {
        &["vhdx", "avhdx"]
    }

    fn probe(&self, head: &[u8], _: &[u8], _: u64) -> bool {
        head.starts_with(&FILE_SIGNATURE)
    }

    fn open(&self, file: ImageFile, opener: &Opener<'_>) -> Result<Disk> {
        if !file.read_up_to(0, 8)?.starts_with(&FILE_SIGNATURE) {
            return Err(at("VHDX")
                .field("Signature")
                .byte(0)
                .corrupt("is not vhdxfile, so this is not a VHDX image"));
        }
        let header = read_header(&file)?;
        let mut warnings = Vec::new();
        let mut file = file;
        if header.log_guid != Guid::default() {
            file = log::replay(file, &header)?;
            warnings.push("the image was not closed properly; its log is replayed in memory".to_owned());
        }
        let (bat, metadata_region) = read_regions(&file)?;
        let metadata = read_metadata(&file, metadata_region)?;
        let mut details = vec![
            ("block size".to_owned(), human(metadata.block_size.into())),
            ("sector size".to_owned(), metadata.logical_sector_size.to_string()),
        ];
        details.push((
            "data write ID".to_owned(),
            crate::uuid::text(&crate::uuid::swapped(header.data_write_guid)),
        ));
        let mut files = vec![file.opened()];
        let mut backing = None;
        if metadata.has_parent {
            let (name, parent) = match opener.parent_file()? {
                Some(parent) => {
                    warnings.extend(check_parent(&file, &metadata, &parent).err().map(|e| e.to_string()));
                    (parent.path().as_os_str().as_encoded_bytes().to_vec(), parent)
                }
                None => find_parent(&file, &metadata, opener)?,
            };
            details.push(("parent".to_owned(), String::from_utf8_lossy(&name).into_owned()));
            let below = opener.open_backing(&file, parent, Some("vhdx"))?;
            files.extend(below.files);
            warnings.extend(below.warnings);
            backing = Some(below.source);
        }
        let source = Arc::new(Mapped::new(Blocks::new(file, &metadata, bat)?, backing));
        Ok(Disk { source, format: "vhdx", details, files, own_files: 1, warnings, decrypted: Vec::new() })
    }

    fn has_identity(&self) -> bool {
        true
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

/// Returns the valid header with the highest sequence number.
fn read_header(file: &ImageFile) -> Result<Header> {
    let [first, second] = HEADERS.map(|offset| Header::parse(&file.read_up_to(offset, HEADER)?));
    match (first, second) {
        (Ok(first), Ok(second)) if second.sequence_number > first.sequence_number => Ok(second),
        (Ok(header), _) | (Err(_), Ok(header)) => Ok(header),
        (Err(damage), Err(_)) => Err(damage),
    }
}

fn read_regions(file: &ImageFile) -> Result<(Region, Region)> {
    let [first, second] = REGION_TABLES.map(|offset| parse_regions(&file.read_up_to(offset, REGION_TABLE)?));
    first.or_else(|damage| second.map_err(|_| damage))
}

fn read_metadata(file: &ImageFile, region: Region) -> Result<Metadata> {
    let table = file.read_up_to(region.offset, METADATA_TABLE)?;
    Metadata::parse(&table, |offset, len| {
        if u64::from(offset) + u64::from(len) > u64::from(region.len) {
            let problem = format!("is {offset}: the item extends past the metadata");
            return Err(at("VHDX metadata table").field("Offset").corrupt(problem));
        }
        file.read_vec(region.offset.saturating_add(offset.into()), len as usize)
    })
}

/// Finds the parent by the first of its names that leads to a file with the parent's write ID.
fn find_parent(file: &ImageFile, metadata: &Metadata, opener: &Opener<'_>) -> Result<(Vec<u8>, ImageFile)> {
    let keys = ["relative_path", "volume_path", "absolute_win32_path"];
    let names: Vec<Vec<u8>> = keys
        .into_iter()
        .filter_map(|key| metadata.locate(key))
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let found = find_named(&names, |name| {
        let parent = opener.open_named(file.path(), name)?;
        check_parent(file, metadata, &parent).map(|()| parent)
    });
    found.map_err(advise_parent)
}

/// Fails unless `parent` has a write ID that the locator names.
fn check_parent(file: &ImageFile, metadata: &Metadata, parent: &ImageFile) -> Result<()> {
    let header = read_header(parent).map_err(|e| e.in_file(parent.path()))?;
    let mut linkages =
        ["parent_linkage", "parent_linkage2"].into_iter().filter_map(|key| metadata.locate(key));
    match linkages.any(|text| parse_guid(text) == Some(header.data_write_guid)) {
        true => Ok(()),
        false => Err(at("VHDX parent locator")
            .file(file.path())
            .field("parent_linkage")
            .corrupt(format!("does not match {}, which was changed or replaced", parent.path().display()))),
    }
}

/// Parses a GUID such as `{2dc27766-f623-4200-9d64-115e9bfd4a08}`.
fn parse_guid(text: &str) -> Option<Guid> {
    let digits: String = text.chars().filter(|c| !matches!(c, '{' | '}' | '-')).collect();
    let value = u128::from_str_radix(&digits, 16).ok()?;
    (digits.len() == 32).then(|| header::guid(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::{OpenOptions, open};
    use crate::error::ErrorKind;
    use crate::source::MemSource;
    use std::path::Path;

    const SIZE: usize = (3 << 20) + 512;
    const MIB: usize = 1 << 20;

    fn write(path: &Path, bytes: Vec<u8>) -> Vec<u8> {
        let mut output = Output::new(path, true).unwrap();
        let options = vec![("block_size".to_owned(), "1M".to_owned())];
        Vhdx.create(&MemSource(bytes), &mut output, &options, &()).unwrap();
        output.commit().unwrap();
        std::fs::read(path).unwrap()
    }

    /// Makes a child of the image `bytes`: its first block is partly its own (sectors 3, 4 and 100), its second
    /// entirely, the others are its parent's.
    fn make_child(mut bytes: Vec<u8>, linkage: &str) -> Vec<u8> {
        let metadata = 2 * MIB;
        bytes[metadata + METADATA_TABLE + 4] |= 2;
        bytes[metadata + 10] = 6;
        let item = 128 << 10;
        let entry = metadata + 32 + 5 * 32;
        bytes[entry..entry + 16].copy_from_slice(&header::PARENT_LOCATOR);
        bytes[entry + 16..entry + 20].copy_from_slice(&(item as u32).to_le_bytes());
        bytes[entry + 24] = 4;
        let mut locator = header::guid(0xB04AEFB7_D19E_4A81_B789_25B8E9445913).to_vec();
        locator.extend([0, 0, 2, 0]);
        let texts = ["parent_linkage", linkage, "relative_path", ".\\parent.vhdx"]
            .map(|t| t.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>());
        let mut at = 20 + 24;
        for pair in texts.chunks(2) {
            locator.extend((at as u32).to_le_bytes());
            locator.extend(((at + pair[0].len()) as u32).to_le_bytes());
            locator.extend((pair[0].len() as u16).to_le_bytes());
            locator.extend((pair[1].len() as u16).to_le_bytes());
            at += pair[0].len() + pair[1].len();
        }
        locator.extend(texts.concat());
        bytes[entry + 20..entry + 24].copy_from_slice(&(locator.len() as u32).to_le_bytes());
        bytes[metadata + item..][..locator.len()].copy_from_slice(&locator);
        // The block allocation table: partially present; and the bitmap of the chunk, at the end of the file.
        bytes[3 * MIB] = 7;
        let bitmap = bytes.len() as u64 | 6;
        bytes[3 * MIB + 4096 * 8..][..8].copy_from_slice(&bitmap.to_le_bytes());
        let end = bytes.len();
        bytes.resize(end + MIB, 0);
        (bytes[end], bytes[end + 12]) = (0b0001_1000, 0b0001_0000);
        bytes
    }

    #[test]
    fn a_differencing_disk_has_its_own_sectors_over_its_parents() {
        let dir = tempfile::tempdir().unwrap();
        let parent = write(&dir.path().join("parent.vhdx"), vec![1; SIZE]);
        // The data write GUID, as text.
        let guid = Header::parse(&parent[HEADERS[1] as usize..][..HEADER]).unwrap().data_write_guid;
        let linkage = format!("{{{}}}", crate::uuid::text(&crate::uuid::swapped(guid)));
        let path = dir.path().join("child.vhdx");
        let mut own = vec![0; SIZE];
        own[..2 * MIB].fill(2);
        let image = write(&path, own);
        std::fs::write(&path, make_child(image.clone(), &linkage)).unwrap();
        let disk = open(&path, &OpenOptions::default()).unwrap();
        assert_eq!(disk.files.len(), 2);
        let mut expected = vec![1; SIZE];
        expected[MIB..2 * MIB].fill(2);
        for sector in [3, 4, 100] {
            expected[sector * 512..][..512].fill(2);
        }
        assert!(disk.source.read_vec(0, SIZE).unwrap() == expected);
        // On another disk the child is refused, unless the user says that this is the parent.
        write(&dir.path().join("parent.vhdx"), vec![3; SIZE]);
        let error = open(&path, &OpenOptions::default()).err().unwrap();
        assert_eq!((error.kind(), error.to_string().contains("parent_linkage")), (ErrorKind::Corrupt, true));
        std::fs::rename(dir.path().join("parent.vhdx"), dir.path().join("renamed.vhdx")).unwrap();
        let error = open(&path, &OpenOptions::default()).err().unwrap();
        assert_eq!((error.kind(), error.to_string().contains("--parent")), (ErrorKind::NotFound, true));
        let parents = vec![dir.path().join("renamed.vhdx")];
        let disk = open(&path, &OpenOptions { parents, ..OpenOptions::default() }).unwrap();
        assert!(disk.warnings.iter().any(|w| w.contains("parent_linkage")), "{:?}", disk.warnings);
        assert_eq!(disk.source.read_vec(0, 1).unwrap(), [3]);
    }

    #[test]
    fn the_sector_size_goes_from_one_image_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let convert = |source: &dyn Source, to: &str, options: &[(&str, &str)]| {
            let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let mut output = Output::new(&path(to), true).unwrap();
            Vhdx.create(source, &mut output, &options, &()).unwrap();
            output.commit().unwrap();
            open(&path(to), &OpenOptions::default()).unwrap().source
        };
        let bytes = vec![1; 3 * MIB + 512];
        let first = convert(&MemSource(bytes), "a", &[("logical_sector_size", "4096")]);
        assert_eq!(
            (first.sector_size(), first.len()),
            (Some(4096), 3 * MIB as u64 + 4096),
            "multiple of the sector size"
        );
        let second = convert(&*first, "b", &[]);
        assert_eq!(second.sector_size(), Some(4096));
        assert!(second.read_vec(0, 3 * MIB).unwrap() == vec![1; 3 * MIB]);
        assert_eq!(convert(&*first, "c", &[("logical_sector_size", "512")]).sector_size(), Some(512));
    }

    #[test]
    fn a_damaged_header_or_region_table_has_a_second_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.vhdx");
        let good = write(&path, vec![1; SIZE]);
        for (first, second) in [(HEADERS[0], HEADERS[1]), (REGION_TABLES[0], REGION_TABLES[1])] {
            let mut bytes = good.clone();
            bytes[first as usize + 100] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            open(&path, &OpenOptions::default()).unwrap();
            bytes[second as usize + 100] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(open(&path, &OpenOptions::default()).err().unwrap().kind(), ErrorKind::Corrupt);
        }
    }
}
