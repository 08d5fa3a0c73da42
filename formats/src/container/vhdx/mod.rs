//! VHDX: Hyper-V's format; fixed, dynamic and differencing. Specification: Microsoft, [MS-VHDX].

mod header;
mod log;
mod read;
mod write;

use std::sync::Arc;

use super::mapped::Mapped;
use super::{CreateOptions, Disk, Format, ImageFile, Observer, Opener, Output, human};
use crate::{Result, Source, at};
use header::{
    FILE_SIGNATURE, Guid, HEADER, HEADERS, Header, METADATA_TABLE, Metadata, REGION_TABLE, REGION_TABLES,
    Region, parse_regions,
};
use read::Blocks;

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
                .corrupt("is not vhdxfile: this is no VHDX image"));
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
            ("logical sector size".to_owned(), metadata.logical_sector_size.to_string()),
        ];
        let mut files = vec![file.path().to_owned()];
        let mut backing = None;
        if metadata.has_parent {
            let name = find_parent(&file, &metadata, opener)?;
            details.push(("parent".to_owned(), name.clone()));
            let below = opener.open_backing(&file, name.as_bytes(), Some("vhdx"))?;
            files.extend(below.files);
            warnings.extend(below.warnings);
            backing = Some(below.source);
        }
        let source = Arc::new(Mapped::new(Blocks::new(file, &metadata, bat)?, backing));
        Ok(Disk { source, format: "vhdx", details, files, warnings })
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

/// The valid header with the highest sequence number.
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
            let problem = format!("is {offset}: the item reaches out of the metadata");
            return Err(at("VHDX metadata table").field("Offset").corrupt(problem));
        }
        file.read_vec(region.offset.saturating_add(offset.into()), len as usize)
    })
}

/// The parent's name: the first one that leads to a file with the parent's write ID.
fn find_parent(file: &ImageFile, metadata: &Metadata, opener: &Opener<'_>) -> Result<String> {
    let value = |key: &str| metadata.parent.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
    let linkages: Vec<Guid> =
        ["parent_linkage", "parent_linkage2"].into_iter().filter_map(|k| parse_guid(&value(k)?)).collect();
    let keys = ["relative_path", "volume_path", "absolute_win32_path"];
    let names: Vec<String> = keys.into_iter().filter_map(value).collect();
    super::opener::find_windows_name(&names, |name| {
        let parent = opener.open_named(file.path(), name.as_bytes())?;
        let header = read_header(&parent).map_err(|e| e.in_file(parent.path()))?;
        match linkages.contains(&header.data_write_guid) {
            true => Ok(()),
            false => Err(at("VHDX parent locator")
                .file(file.path())
                .field("parent_linkage")
                .corrupt(format!("is not that of {}: it was changed or replaced", parent.path().display()))),
        }
    })
}

/// A GUID out of `{2dc27766-f623-4200-9d64-115e9bfd4a08}`.
fn parse_guid(text: &str) -> Option<Guid> {
    let digits: String = text.chars().filter(|c| !matches!(c, '{' | '}' | '-')).collect();
    let value = u128::from_str_radix(&digits, 16).ok()?;
    (digits.len() == 32).then(|| header::guid(value))
}
