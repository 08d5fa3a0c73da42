//! A segment: the rows of some images, sorted, in a few files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use mif_formats::mif::catalog::{
    BlockSums, Covered, DataFile, Kind, Part, PartWriter, Record, Segment, of_manifest, of_packages,
};
use mif_formats::mif::manifest::columns::Columns;

use super::mounts::points;
use super::spool::{Sorter, Source, merge};
use super::summed::{SummedFile, SummedUpload};
use crate::error::{Error, Result, damaged, readable};
use crate::store::{
    DamagedImage, Image, Objects, PACKAGES, Storage, Store, StoredImage, catalog_key, catalog_sums_key,
};
use crate::task::pool::in_parallel;
use crate::task::progress::{self, Progress};

/// The length at which a file is finished, in bytes.
const PART: u64 = 256 << 20;

/// The most bytes of records that are sorted in memory, for each table.
const SORTED: [usize; 3] = [96 << 20, 64 << 20, 16 << 20];

/// How many bytes of records a thread collects before it hands them to the sorter.
const HANDED: usize = 4 << 20;

/// Returns what the catalog says about an image, apart from its rows: `None` if one of its files is missing.
pub(super) fn lengths(storage: &dyn Storage, images: &[&Image]) -> Vec<Option<[Option<u64>; 4]>> {
    const FILES: [&str; 4] = ["image.json", "manifest.parquet", "digests", PACKAGES];
    let keys: Vec<String> = images
        .iter()
        .flat_map(|image| {
            let folder = Image::folder(&image.name, image.version);
            FILES.map(|file| format!("{folder}/{file}"))
        })
        .collect();
    let lens = storage.lens(&keys);
    let (images, _) = lens.as_chunks::<4>();
    let of_image = |lens: &[std::io::Result<u64>; 4]| {
        let [record, manifest, digests, packages] = lens.each_ref().map(|len| len.as_ref().ok().copied());
        (record.is_some() && manifest.is_some()).then_some([record, manifest, digests, packages])
    };
    images.iter().map(of_image).collect()
}

/// The rows of a segment that is being made, by table.
struct Sorters([Mutex<Sorter>; 3]);

/// Writes a segment with the rows of images. Returns what it has, and the images that are damaged.
pub(super) fn write_images(
    store: &Store,
    images: &[StoredImage],
    segment: &str,
    progress: &dyn Progress,
) -> Result<(Segment, Vec<Covered>, Vec<DamagedImage>)> {
    let sorters = Sorters(SORTED.map(|most| Mutex::new(Sorter::new(most))));
    let objects = Mutex::new(None);
    let objects = || {
        let mut known = objects.lock().expect("not poisoned");
        match &*known {
            Some(objects) => Ok(Arc::clone(objects)),
            None => Ok(known.insert(Arc::new(store.objects()?)).clone()),
        }
    };
    let read = in_parallel(images, progress, |stored| {
        let covered = readable(read_image(store, stored, segment, &sorters, &objects, progress))?;
        progress.advance(covered.as_ref().map_or(0, |covered| covered.manifest_bytes));
        let Image { name, version, .. } = &stored.image;
        Ok(covered.map_err(|e| DamagedImage::new(name, *version, &e)))
    })?;
    let (mut covered, mut damaged) = (Vec::new(), Vec::new());
    for image in read {
        match image {
            Ok(image) => covered.push(image),
            Err(image) => damaged.push(image),
        }
    }
    let mut files = BTreeMap::new();
    for (kind, sorter) in Kind::ALL.into_iter().zip(sorters.0) {
        let sources = sorter.into_inner().expect("not poisoned").finish()?;
        files.insert(kind.name().to_owned(), write(&**store.storage(), kind, segment, sources, progress)?);
    }
    Ok((Segment { files }, covered, damaged))
}

/// Hands the rows of an image to the sorters.
fn read_image(
    store: &Store,
    stored: &StoredImage,
    segment: &str,
    sorters: &Sorters,
    objects: &dyn Fn() -> Result<Arc<Objects>>,
    progress: &dyn Progress,
) -> Result<Covered> {
    let image = &stored.image;
    let wrong = |e: mif_formats::Error| damaged(&image.id(), &e);
    let manifest = stored.manifest_file()?;
    let packages = match image.tables.contains_key(PACKAGES) {
        true => Some(stored.packages_table()?),
        false => None,
    };
    let columns = Columns::open(manifest).map_err(wrong)?;
    let mounts = readable(points(stored, &columns, objects))?.ok();
    let [Some(lens)] = &lengths(&**store.storage(), &[image])[..] else {
        return Err(Error::store(format!("{}: its files are gone", image.id())));
    };
    let mut collected = Collected { sorters, records: [const { Vec::new() }; 3], rows: [0; 3], failed: None };
    let of = (&image.name[..], image.version);
    let mut each = |kind: Kind, record: &[u8]| {
        if collected.failed.is_none() {
            let pushed = progress::check(progress).and_then(|()| collected.push(kind, record));
            collected.failed = pushed.err();
        }
        Ok(())
    };
    of_manifest(&columns, of, &mut each).map_err(wrong)?;
    if let Some(packages) = &packages {
        of_packages(packages, of, &mut each).map_err(wrong)?;
    }
    let rows = collected.finish()?;
    Ok(Covered {
        name: image.name.clone(),
        version: image.version,
        segment: segment.to_owned(),
        manifest_digest: image.manifest_digest.clone(),
        disk_size: image.disk_size,
        time: image.provenance.time,
        paths: rows[Kind::Files as usize],
        packages: rows[Kind::Packages as usize],
        record_bytes: lens[0].unwrap_or(0),
        manifest_bytes: lens[1].unwrap_or(0),
        digests_bytes: lens[2],
        packages_bytes: lens[3],
        mounts: mounts.map(|mounts| serde_json::to_string(&mounts).expect("texts are JSON")),
    })
}

/// Records of an image on their way to the sorters, each after its length.
struct Collected<'a> {
    sorters: &'a Sorters,
    records: [Vec<u8>; 3],
    rows: [u64; 3],
    failed: Option<Error>,
}

impl Collected<'_> {
    fn push(&mut self, kind: Kind, record: &[u8]) -> Result<()> {
        self.rows[kind as usize] += 1;
        put_record(&mut self.records[kind as usize], record);
        if self.records[kind as usize].len() >= HANDED { self.hand(kind) } else { Ok(()) }
    }

    fn hand(&mut self, kind: Kind) -> Result<()> {
        let mut sorter = self.sorters.0[kind as usize].lock().expect("not poisoned");
        let records = &mut self.records[kind as usize];
        let mut at = 0;
        while let Some(record) = next_record(records, &mut at) {
            sorter.push(&records[record])?;
        }
        records.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<[u64; 3]> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        Kind::ALL.into_iter().try_for_each(|kind| self.hand(kind))?;
        Ok(self.rows)
    }
}

fn put_record(records: &mut Vec<u8>, record: &[u8]) {
    records.extend_from_slice(&(record.len() as u32).to_le_bytes());
    records.extend_from_slice(record);
}

fn next_record(records: &[u8], at: &mut usize) -> Option<std::ops::Range<usize>> {
    let len = u32::from_le_bytes(*records.get(*at..)?.first_chunk()?) as usize;
    let start = *at + 4;
    *at = start + len;
    Some(start..*at)
}

/// Writes the files of a table.
fn write(
    storage: &dyn Storage,
    kind: Kind,
    segment: &str,
    sources: Vec<Box<dyn Source + '_>>,
    progress: &dyn Progress,
) -> Result<Vec<DataFile>> {
    let wrong = |e: mif_formats::Error| damaged(&format!("catalog: {}", kind.name()), &e);
    let start = |part: usize| -> Result<(String, PartWriter<SummedUpload>)> {
        let key = catalog_key(kind.name(), segment, part);
        let upload = SummedUpload::start(storage, &key).map_err(|e| storage.error(&key, &e))?;
        Ok((key, PartWriter::new(kind, segment, upload).map_err(wrong)?))
    };
    let finish = |(key, writer): (String, PartWriter<SummedUpload>)| -> Result<DataFile> {
        let (upload, rows) = writer.finish().map_err(wrong)?;
        let bytes = upload.finish(storage, &key).map_err(|e| storage.error(&key, &e))?;
        Ok(DataFile { bytes, rows })
    };
    let mut files = Vec::new();
    let mut part = start(0)?;
    let mut count = 0_u32;
    merge(sources, |record| {
        count = count.wrapping_add(1);
        if count.is_multiple_of(1 << 12) {
            progress::check(progress)?;
        }
        if part.1.bytes_written() >= PART {
            let next = start(files.len() + 1)?;
            files.push(finish(std::mem::replace(&mut part, next))?);
        }
        part.1.push(&Record::parse(record).map_err(wrong)?).map_err(wrong)
    })?;
    files.push(finish(part)?);
    Ok(files)
}

/// A segment to merge with others.
pub(super) struct Live<'a> {
    pub(super) segment: &'a Segment,
    /// The images that count there, by name and version.
    pub(super) images: BTreeSet<(&'a str, u32)>,
}

/// Writes a segment with the rows of other segments: of each, the rows of the images that count there.
pub(super) fn write_merged(
    storage: &Arc<dyn Storage>,
    from: &BTreeMap<&str, Live<'_>>,
    segment: &str,
    progress: &dyn Progress,
) -> Result<Segment> {
    let mut files = BTreeMap::new();
    for kind in Kind::ALL {
        let sources = from.iter().map(|(name, old)| {
            let parts = old.segment.files.get(kind.name()).map_or(0, Vec::len);
            let source = SegmentSource {
                storage,
                kind,
                segment: name,
                live: &old.images,
                parts: 0..parts,
                part: None,
                groups: 0..0,
                records: Vec::new(),
                at: 0,
                current: 0..0,
            };
            Box::new(source) as Box<dyn Source>
        });
        files.insert(kind.name().to_owned(), write(&**storage, kind, segment, sources.collect(), progress)?);
    }
    Ok(Segment { files })
}

/// The rows of a table in a segment, in order.
struct SegmentSource<'a> {
    storage: &'a Arc<dyn Storage>,
    kind: Kind,
    segment: &'a str,
    live: &'a BTreeSet<(&'a str, u32)>,
    parts: std::ops::Range<usize>,
    part: Option<Part<SummedFile>>,
    groups: std::ops::Range<usize>,
    /// The records of a group, each after its length.
    records: Vec<u8>,
    at: usize,
    current: std::ops::Range<usize>,
}

impl Source for SegmentSource<'_> {
    fn advance(&mut self) -> Result<bool> {
        loop {
            if let Some(record) = next_record(&self.records, &mut self.at) {
                self.current = record;
                return Ok(true);
            }
            let wrong = |e: mif_formats::Error| damaged(&format!("catalog: segment {}", self.segment), &e);
            let (Some(part), Some(group)) = (&self.part, self.groups.next()) else {
                let Some(part) = self.parts.next() else { return Ok(false) };
                let part = open_part(self.storage, self.kind, self.segment, part)?;
                self.groups = 0..part.group_count();
                self.part = Some(part);
                continue;
            };
            let is_live = |name: &[u8], version: u32| {
                std::str::from_utf8(name).is_ok_and(|name| self.live.contains(&(name, version)))
            };
            let records = &mut self.records;
            records.clear();
            self.at = 0;
            let put = |record: &[u8]| {
                put_record(records, record);
                Ok(())
            };
            part.records(group, &is_live, put).map_err(wrong)?;
        }
    }

    fn record(&self) -> &[u8] {
        &self.records[self.current.clone()]
    }
}

/// Opens a file of a segment.
pub(crate) fn open_part(
    storage: &Arc<dyn Storage>,
    kind: Kind,
    segment: &str,
    part: usize,
) -> Result<Part<SummedFile>> {
    let key = catalog_key(kind.name(), segment, part);
    Part::open(kind, SummedFile::open(storage, &key)?).map_err(|e| damaged(&key, &e))
}

/// Fails unless the files of a segment have the lengths and numbers of rows that they had. Reads their checksums and footers
/// only or, if `whole`, every byte, which must match the checksums.
///
/// # Errors
/// Also if they cannot be read ([`Error::is_unreadable`]): then they may be intact.
pub(crate) fn check_segment(
    storage: &Arc<dyn Storage>,
    name: &str,
    segment: &Segment,
    whole: bool,
    progress: &dyn Progress,
) -> Result<()> {
    for kind in Kind::ALL {
        let parts = segment.files.get(kind.name()).map_or(&[][..], Vec::as_slice);
        if parts.is_empty() {
            return Err(Error::store(format!("catalog: segment {name} has no file of {}", kind.name())));
        }
        for (number, said) in parts.iter().enumerate() {
            let key = catalog_key(kind.name(), name, number);
            let file = SummedFile::open(storage, &key)?;
            progress::check(progress)?;
            if whole {
                file.check(&|bytes| {
                    progress.advance(bytes);
                    progress::check(progress)
                })?;
            }
            let part = Part::open(kind, file).map_err(|e| damaged(&key, &e))?;
            let sums = storage.read_all(&catalog_sums_key(&key)).map_err(|e| storage.error(&key, &e))?;
            let len = BlockSums::decode(&sums).map_or(0, |sums| sums.len);
            if (part.rows() as u64, len) != (said.rows, said.bytes) {
                return Err(Error::store(format!("{key}: is another file than {name} had")));
            }
        }
    }
    Ok(())
}
