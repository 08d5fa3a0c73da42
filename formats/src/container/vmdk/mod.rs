//! VMDK: VMware's formats. Specification: VMware, "Virtual Disk Format 5.0"; it omits COWD and seSparse, which are read
//! as QEMU reads them.

mod descriptor;
mod read;
mod sparse;
mod write;
mod write_sparse;
mod write_stream;

use std::sync::Arc;

use self::descriptor::{Descriptor, ExtentType, MAX_DESCRIPTOR, is_descriptor};
use self::read::{Extents, Storage};
use self::sparse::{COWD_MAGIC, GD_AT_END, HOSTED_MAGIC, HostedHeader, SECTOR, Sparse};
use super::mapped::Mapped;
use super::opener::{advise_parent, find_named};
use super::{CreateOptions, Disk, Format, ImageFile, Observer, Opener, Output, human};
use crate::error::{ErrorKind, Result, at};
use crate::source::Source;

/// `parentCID` of a disk without a parent.
const NO_PARENT: u32 = 0xffff_ffff;

pub(super) struct Vmdk;

impl Format for Vmdk {
    fn name(&self) -> &'static str {
        "vmdk"
    }

    fn suffixes(&self) -> &'static [&'static str] {
        &["vmdk"]
    }

    fn probe(&self, head: &[u8], _: &[u8], _: u64) -> bool {
        head.starts_with(&HOSTED_MAGIC) || head.starts_with(&COWD_MAGIC) || is_descriptor(head)
    }

    fn open(&self, file: ImageFile, opener: &Opener<'_>) -> Result<Disk> {
        let mut disk = Disk {
            source: Arc::new(crate::source::MemSource(Vec::new())),
            format: "vmdk",
            details: Vec::new(),
            files: vec![file.opened()],
            own_files: 1,
            warnings: Vec::new(),
            decrypted: Vec::new(),
        };
        let mut extents = Extents::default();
        let descriptor = read_descriptor(&file)?;
        let below = match &descriptor {
            Some(descriptor) => open_parent(&file, descriptor, opener, &mut disk)?,
            None => None,
        };
        let create_type = descriptor.as_ref().and_then(|d| d.create_type.clone());
        if let Some(storage) = open_sparse(&file, &mut disk.warnings)? {
            let grain = ("grain size".to_owned(), human(storage.grain));
            let kind = if storage.packed.is_some() { "streamOptimized" } else { "monolithicSparse" };
            disk.details.push(("subformat".to_owned(), create_type.unwrap_or_else(|| kind.to_owned())));
            disk.details.push(grain);
            extents.push(storage.capacity, Storage::Sparse(Box::new(storage)));
        } else {
            let descriptor =
                descriptor.as_ref().ok_or_else(|| at("VMDK").corrupt("not a VMDK extent or descriptor"))?;
            if descriptor.extents.is_empty() {
                return Err(at("VMDK descriptor").corrupt("names no extent"));
            }
            disk.details.extend(create_type.map(|kind| ("subformat".to_owned(), kind)));
            disk.details.push(("extents".to_owned(), descriptor.extents.len().to_string()));
            for line in &descriptor.extents {
                let storage = match line.kind {
                    ExtentType::Zero => Storage::Zero,
                    kind => {
                        let extent = find_extent(&file, descriptor, &line.name, opener, &mut disk.warnings)?;
                        disk.files.push(extent.opened());
                        open_extent(extent, kind, line, &mut disk.warnings)?
                    }
                };
                extents.push(line.sectors * SECTOR, storage);
            }
        }
        if let Some(cid) = descriptor.as_ref().and_then(|d| d.cid) {
            disk.details.push(("CID".to_owned(), format!("{cid:08x}")));
        }
        disk.own_files = disk.files.len();
        let backing = below.map(|below| {
            disk.files.extend(below.files);
            disk.warnings.extend(below.warnings);
            below.source
        });
        disk.source = Arc::new(Mapped::new(extents, backing));
        Ok(disk)
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

/// Opens the file of an extent. If its path does not exist here, uses the file of that name beside the descriptor, with
/// a warning: only the name indicates that it is the right one.
fn find_extent(
    file: &ImageFile,
    descriptor: &Descriptor,
    name: &[u8],
    opener: &Opener<'_>,
    warnings: &mut Vec<String>,
) -> Result<ImageFile> {
    let names = descriptor.names(name);
    for name in &names {
        match opener.open_named(file.path(), name) {
            // If the named file exists but may not be opened, another file of that name is no substitute.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            found => return found,
        }
    }
    let (found, extent) = find_named(&names, |name| opener.open_named(file.path(), name))?;
    let (shown, beside) = (String::from_utf8_lossy(name), String::from_utf8_lossy(&found));
    warnings.push(format!(
        "the extent {shown:?} was not found; using {beside:?} in the directory of the descriptor instead"
    ));
    Ok(extent)
}

fn open_extent(
    file: ImageFile,
    kind: ExtentType,
    line: &descriptor::ExtentLine,
    warnings: &mut Vec<String>,
) -> Result<Storage> {
    let path = file.path().to_owned();
    let sparse = match kind {
        ExtentType::Flat => return Storage::flat(file, line),
        ExtentType::SeSparse => Sparse::se(file).map_err(|e| e.in_file(&path))?,
        ExtentType::Sparse | ExtentType::Zero => open_sparse(&file, warnings)?.ok_or_else(|| {
            at("VMDK extent").file(&path).corrupt("lacks the magic number of a sparse extent")
        })?,
    };
    if sparse.capacity < line.sectors * SECTOR {
        return Err(at("VMDK extent").file(&path).corrupt(format!(
            "has {} bytes, but the descriptor says {}",
            sparse.capacity,
            line.sectors * SECTOR
        )));
    }
    Ok(Storage::Sparse(Box::new(sparse)))
}

/// Opens a hosted or COWD extent; returns `None` if the file is neither, or only wraps a descriptor.
fn open_sparse(file: &ImageFile, warnings: &mut Vec<String>) -> Result<Option<Sparse>> {
    let head = file.read_up_to(0, 512)?;
    let named = |e: crate::error::Error| e.in_file(file.path());
    if head.starts_with(&COWD_MAGIC) {
        return Sparse::cowd(file.again()).map(Some);
    }
    if !head.starts_with(&HOSTED_MAGIC) {
        return Ok(None);
    }
    let mut header = HostedHeader::parse(&head).map_err(named)?;
    if header.capacity == 0 {
        return Ok(None);
    }
    if header.unclean_shutdown {
        let name = file.path().display();
        warnings.push(format!("{name} was not closed properly: the last writes may be missing"));
    }
    if header.gd_offset == GD_AT_END {
        let end = file.len() / SECTOR * SECTOR;
        let tail = file.read_up_to(end.saturating_sub(1536), 1536)?;
        header = HostedHeader::parse_footer(&tail).map_err(named)?;
    }
    Sparse::hosted(file.again(), &header, warnings).map(Some)
}

/// Reads the descriptor: the file itself, or embedded in a sparse extent.
fn read_descriptor(file: &ImageFile) -> Result<Option<Descriptor>> {
    let head = file.read_up_to(0, 4096)?;
    let bytes = if head.starts_with(&HOSTED_MAGIC) {
        let header = HostedHeader::parse(&head)?;
        if header.descriptor_offset == 0 {
            return Ok(None);
        }
        let len = header.descriptor_size.saturating_mul(SECTOR).min(MAX_DESCRIPTOR as u64);
        file.read_up_to(header.descriptor_offset.saturating_mul(SECTOR), len as usize)?
    } else if head.starts_with(&COWD_MAGIC) {
        return Ok(None);
    } else {
        if file.len() > MAX_DESCRIPTOR as u64 {
            let problem = format!("has {} bytes, more than {MAX_DESCRIPTOR}", file.len());
            return Err(at("VMDK descriptor").file(file.path()).limit(problem));
        }
        file.read_up_to(0, MAX_DESCRIPTOR)?
    };
    Descriptor::parse(&bytes).map(Some).map_err(|e| e.in_file(file.path()))
}

/// Opens the parent of a delta disk: the first of its possible names that leads to a disk with the expected content ID.
fn open_parent(
    file: &ImageFile,
    descriptor: &Descriptor,
    opener: &Opener<'_>,
    disk: &mut Disk,
) -> Result<Option<Disk>> {
    let expected = descriptor.parent_cid.filter(|cid| *cid != NO_PARENT);
    let named = match descriptor.parent.is_some() || expected.is_some() {
        true => opener.parent_file()?,
        false => None,
    };
    let parent = match (named, &descriptor.parent) {
        (Some(parent), _) => parent,
        (_, Some(name)) => {
            let found = find_named(&descriptor.names(name), |name| {
                let parent = opener.open_named(file.path(), name)?;
                check_parent(expected, &parent).map(|()| parent)
            });
            let (name, parent) = found.map_err(advise_parent)?;
            disk.details.push(("parent".to_owned(), String::from_utf8_lossy(&name).into_owned()));
            return opener.open_backing(file, parent, Some("vmdk")).map(Some);
        }
        (_, None) => match expected {
            None => return Ok(None),
            Some(cid) => {
                return Err(at("VMDK descriptor").field("parentCID").corrupt(format!(
                    "is {cid:08x}, so the disk has a parent, but parentFileNameHint does not name it; pass --parent FILE"
                )));
            }
        },
    };
    disk.warnings.extend(check_parent(expected, &parent).err().map(|e| e.to_string()));
    disk.details.push(("parent".to_owned(), parent.path().display().to_string()));
    opener.open_backing(file, parent, Some("vmdk")).map(Some)
}

/// Fails unless `parent` has the expected content ID.
fn check_parent(expected: Option<u32>, parent: &ImageFile) -> Result<()> {
    let found = read_descriptor(parent)?.and_then(|d| d.cid);
    match expected {
        Some(expected) if found != Some(expected) => {
            let found = found.map_or("none".to_owned(), |cid| format!("{cid:08x}"));
            Err(at("VMDK descriptor").field("parentCID").corrupt(format!(
                "is {expected:08x}, but {} has {found}: it was changed since, or it is another disk",
                parent.path().display()
            )))
        }
        _ => Ok(()),
    }
}
