//! Import: a disk becomes a manifest, a layout and what objects the store lacks.
//!
//! Exact by construction: a disk range is content in the layout only if the file was read from exactly that
//! range, and every other byte that is not zero is residue.

mod content;
mod items;
mod known;
mod plan;
pub(crate) mod pool;
mod read_back;

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use mif_formats::Source;
use mif_formats::container::{self, Disk, DiskFile, OpenOptions};
use mif_formats::fs::walk::Listing;
use mif_formats::mif::layout::{Builder, Layout};
use mif_formats::mif::manifest::{self, Row};
use mif_formats::mif::{ObjectId, digests};
use mif_formats::partition::Table;
use mif_formats::source::is_zero;
use serde::Serialize;

pub(crate) use self::content::{BLOCK, WINDOW, ZERO_STEP};
use self::content::{FileDigests, import_file};
use self::items::{Item, Items};
pub(crate) use self::known::known;
use self::known::{check_owner, damaged_parts, there};
pub(crate) use self::plan::MAX_HASHED_HOLES;
use self::plan::{DiskPiece, FileNumbers, Plan, PlannedFile};
use self::read_back::ReadBack;
use crate::mounts::Devices;
use crate::progress::{self, Progress};
use crate::rows;
use crate::scan::Scan;
use crate::store::{
    Counts, Image, ImageName, ObjectWriter, Provenance, SourceFile, Store, VolumeRecord, WriterStats,
    tables_of,
};
use crate::{Error, Result, packages};

/// Residue is cut into objects at multiples of this many bytes of the disk.
pub(crate) const RESIDUE_WINDOW: u64 = 256 << 10;

/// How to import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The name in the store; from the file's name if none.
    pub name: Option<String>,
    /// Make a new version of an image of that name even if another file was imported as it.
    pub new_version: bool,
    /// How the container is opened.
    pub open: OpenOptions,
    /// Read the new image back through its layout, and compare, before it is published.
    pub verify: bool,
    /// Refuse a disk of which anything cannot be read or is odd.
    pub strict: bool,
    /// Threads; as many as the machine has processors if none.
    pub threads: Option<usize>,
    /// The command line, for the image's record.
    pub command: Vec<String>,
}

/// What an import did.
#[derive(Debug, Clone, Serialize)]
pub struct ImportReport {
    /// The file.
    pub source: String,
    /// Its container format.
    pub format: String,
    /// `imported`; `unchanged` if the newest version of that name is this disk already; `repaired` if it is, and
    /// something of it was damaged.
    pub result: &'static str,
    /// The image, as `name@version`.
    pub image: String,
    /// Other images of the store with the same bits.
    pub same_as: Vec<String>,
    /// The disk's size in bytes.
    pub disk_size: u64,
    /// How the disk divides.
    pub counts: Counts,
    /// What was new to the store.
    pub added: WriterStats,
    /// Bytes of the manifest and the layout.
    pub manifest_bytes: u64,
    /// Whether it was read back and compared.
    pub verified: bool,
    /// What was damaged in the store and was written again, each a sentence.
    pub repaired: Vec<String>,
    /// Whether damaged copies of objects are still in the store, beside whole ones: `mif fsck --repair` drops them.
    pub damage_left: bool,
    /// What could not be read, or is odd, each a sentence.
    pub warnings: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// Imports the disk in the container at `path`.
pub fn import(
    store: &Store,
    path: &Path,
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<ImportReport> {
    let name = match &options.name {
        Some(name) if ImageName::is_valid(name) => name.clone(),
        Some(name) => {
            return Err(Error::usage(format!("\"{name}\" cannot be the name of an image"))
                .advise("A name has letters, digits and . _ + -"));
        }
        None => ImageName::like(&path.file_stem().unwrap_or_default().to_string_lossy()),
    };
    let disk = container::open(path, &options.open)?;
    // Before anything is read: a file that changes meanwhile must not count as known later.
    let files = source_files(&disk)?;
    let opened = Opened { path, name: &name, disk: &disk, files: &files };
    let writer = ObjectWriter::new(store)?;
    import_opened(store, &opened, &writer, options, progress)
}

/// A container that was opened to be imported.
pub(crate) struct Opened<'a> {
    /// Where it is.
    pub(crate) path: &'a Path,
    /// What its image is to be called.
    pub(crate) name: &'a str,
    /// The disk in it.
    pub(crate) disk: &'a Disk,
    /// Its files, as they were before anything was read.
    pub(crate) files: &'a [SourceFile],
}

/// Imports a disk, objects through a writer beside `writer`.
pub(crate) fn import_opened(
    store: &Store,
    opened: &Opened<'_>,
    writer: &ObjectWriter,
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<ImportReport> {
    let started = Instant::now();
    let Opened { path, name, disk, files } = *opened;
    if !options.new_version {
        check_owner(store, opened)?;
    }
    let own_writer = writer.beside();
    let mut read = import_disk(disk.source.clone(), &own_writer, options, progress)?;
    let mut warnings = std::mem::take(&mut read.warnings);
    warnings.splice(0..0, disk.warnings.iter().cloned());
    if options.strict && !warnings.is_empty() {
        let all = warnings.join("; ");
        return Err(Error::input(format!("{}: refused, because of --strict: {all}", path.display())));
    }
    let mut added = own_writer.finish()?;
    let layout = Arc::new(read.take_layout());
    let counts = read.counts(&layout);
    let (layout_file, digest) = layout.encode();
    let mut check = options.verify.then(|| ReadBack::new(store, opened, progress, options));
    // Of a million files there is not room for the layout and the rows.
    if let Some(check) = &mut check {
        check.disk(&layout)?;
    }
    drop(layout);
    let (scan, rows) = read.into_rows();
    let mut repaired = Vec::new();
    let broken = writer.broken_packs();
    let mut damage_left = broken > 0;
    if damage_left && added.objects > 0 {
        repaired.push(format!(
            "{broken} packs are missing or cut short; {} objects are stored again",
            added.objects
        ));
    }
    if let Some(check) = check {
        let (stored, damaged) = check.files(&rows)?;
        added = added.with(stored);
        if damaged > 0 {
            damage_left = true;
            repaired.push(format!("{damaged} objects were damaged and are stored again"));
        }
    }
    let mut manifest_file = Vec::new();
    manifest::write(&mut manifest_file, &rows)?;
    let layout_digest = blake3::Hash::from_bytes(digest).to_hex().to_string();
    let manifest_digest = blake3::hash(&manifest_file).to_hex().to_string();
    let disk_size = disk.source.len();
    let same = store.with_layout(&layout_digest)?;
    let newest = store.versions(name)?.last().copied();
    let unchanged = newest.and_then(|version| there(store, name, version)).filter(|stored| {
        (&stored.image.layout_digest, &stored.image.manifest_digest) == (&layout_digest, &manifest_digest)
    });
    let is_new = unchanged.is_none();
    let volumes: Vec<_> = scan.volumes.iter().map(crate::scan::ScannedVolume::record).collect();
    let tables = |rows: Vec<Row>| -> Result<_> {
        let digests_file = digests::encode(&rows);
        let devices = Devices { table: &scan.table, volumes: &volumes };
        let (packages_file, complaints) = packages::table(rows, &Arc::new(store.objects()?), devices)?;
        Ok((digests_file, packages_file, complaints))
    };
    let image = match unchanged {
        Some(mut there) => {
            let mut damaged = damaged_parts(store, &there)?;
            if !damaged.is_empty() {
                let (digests_file, packages_file, _) = tables(rows)?;
                let tables = tables_of(&[("digests", &digests_file), (packages::TABLE, &packages_file)]);
                if there.image.tables != tables {
                    there.image.tables = tables;
                    damaged.extend(["image.json", "digests", packages::TABLE]);
                }
                let json = there.image.to_json();
                let files = [
                    ("image.json", &json[..]),
                    ("layout", &layout_file),
                    ("manifest.parquet", &manifest_file),
                    ("digests", &digests_file),
                    (packages::TABLE, &packages_file),
                ];
                for (file, bytes) in files.into_iter().filter(|(file, _)| damaged.contains(file)) {
                    there.replace(file, bytes)?;
                    repaired.push(format!("{}: {file} was damaged and is written again", there.image.id()));
                }
                store.note_again(&there.image)?;
            }
            // From now on the disk is known by the files that it was read from last.
            let from = &mut there.image.provenance;
            let moved = from.operation == "import" && from.files != files;
            if moved {
                from.source = Some(path.display().to_string());
                from.source_format = Some(disk.format.into());
                from.snapshot.clone_from(&options.open.snapshot);
                from.files = files.to_vec();
                there.replace("image.json", &there.image.to_json())?;
            }
            if moved || !store.is_noted(&there.image) {
                store.note_again(&there.image)?;
            }
            there.image
        }
        None => {
            let (digests_file, packages_file, complaints) = tables(rows)?;
            warnings.extend(complaints);
            let provenance = Provenance {
                source: Some(path.display().to_string()),
                source_format: Some(disk.format.into()),
                snapshot: options.open.snapshot.clone(),
                parent: newest.map(|version| format!("{name}@{version}")),
                command: options.command.clone(),
                files: files.to_vec(),
                ..Provenance::of("import")
            };
            let image = Image {
                disk_size,
                layout_digest,
                manifest_digest,
                volumes: volumes.clone(),
                table: scan.table.clone(),
                counts,
                warnings: warnings.clone(),
                ..Image::new(name, 0, provenance)
            };
            let more = [("digests", &digests_file[..]), (packages::TABLE, &packages_file)];
            // Another import may have taken the name meanwhile.
            if !options.new_version {
                check_owner(store, opened)?;
            }
            let published = store.publish(image, &manifest_file, &layout_file, &more);
            published.inspect_err(|e| writer.give_up(e))?
        }
    };
    Ok(ImportReport {
        source: path.display().to_string(),
        format: disk.format.to_owned(),
        result: match (is_new, repaired.is_empty()) {
            (true, _) => "imported",
            (false, true) => "unchanged",
            (false, false) => "repaired",
        },
        image: image.id(),
        same_as: same.iter().map(Image::id).filter(|id| *id != image.id()).collect(),
        disk_size,
        counts,
        added,
        manifest_bytes: if is_new { (layout_file.len() + manifest_file.len()) as u64 } else { 0 },
        verified: options.verify,
        repaired,
        damage_left,
        warnings,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Stores content that is on no disk of the store, unless it is there; gives its object.
pub(crate) fn store_content(content: &dyn Source, writer: &ObjectWriter) -> Result<ObjectId> {
    let len = content.len();
    let pieces = vec![DiskPiece::Disk { offset: 0, len }];
    let file = PlannedFile { size: len, pieces, owns_its_ranges: false, hashed: true };
    let stored = OnceLock::new();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    pool::run(threads, 1, |_, pool| {
        let digests = import_file(&file, content, writer, pool, &mut Vec::new())?;
        stored.set(digests.object).expect("there is one item");
        Ok(())
    })?;
    Ok(*stored.get().expect("the item was done"))
}

/// The files of a disk that is about to be read, as they are now.
pub(crate) fn source_files(disk: &Disk) -> Result<Vec<SourceFile>> {
    let of = |file: &DiskFile| SourceFile::before_reading(file).map_err(|e| Error::io(file.path(), &e));
    disk.files.iter().map(of).collect()
}

/// What a disk became.
struct Imported {
    scan: Scan,
    warnings: Vec<String>,
    found: Found,
    /// What rows are made of: the volumes' listings, what reading each file gave, and which file a node is.
    listings: Vec<Option<Listing>>,
    files: Vec<OnceLock<FileDigests>>,
    by_node: FileNumbers,
    file_bytes: u64,
}

/// What reading a disk again gave.
pub(crate) struct Reread {
    pub(crate) layout: Layout,
    pub(crate) rows: Vec<Row>,
    pub(crate) table: Table,
    pub(crate) volumes: Vec<VolumeRecord>,
    pub(crate) counts: Counts,
    pub(crate) warnings: Vec<String>,
}

/// Reads a disk as an import does, and publishes nothing.
pub(crate) fn reread(
    disk: Arc<dyn Source>,
    writer: &ObjectWriter,
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<Reread> {
    let mut read = import_disk(disk, writer, options, progress)?;
    let layout = read.take_layout();
    let (counts, warnings) = (read.counts(&layout), std::mem::take(&mut read.warnings));
    let (scan, rows) = read.into_rows();
    let volumes = scan.volumes.iter().map(crate::scan::ScannedVolume::record).collect();
    Ok(Reread { layout, rows, table: scan.table, volumes, counts, warnings })
}

/// What the threads have in common.
struct Work<'a> {
    disk: &'a dyn Source,
    plan: &'a Plan,
    writer: &'a ObjectWriter,
    progress: &'a dyn Progress,
    /// What reading each file gave; none for those that are not read.
    files: Vec<OnceLock<FileDigests>>,
    found: Mutex<Found>,
}

/// Where bytes of the disk came from, in no order yet.
#[derive(Default)]
struct Found {
    runs: Vec<Run>,
    residue: Vec<ObjectId>,
}

/// A run of disk bytes.
struct Run {
    start: u64,
    len: u64,
    /// A file's number, or an object of residue's.
    of: RunOf,
    /// Where in the object.
    offset: u64,
}

enum RunOf {
    File(u32),
    Residue(u32),
}

/// The number of a file or an object, as small as there are many runs.
fn small(number: usize) -> u32 {
    u32::try_from(number).expect("fewer than 2³²")
}

fn import_disk(
    disk: Arc<dyn Source>,
    writer: &ObjectWriter,
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<Imported> {
    progress.stage("scanning", 0);
    let scan = Scan::new(disk)?;
    let plan = Plan::new(&scan)?;
    let work = Work {
        disk: &*scan.disk,
        plan: &plan,
        writer,
        progress,
        files: (0..plan.files.len()).map(|_| OnceLock::new()).collect(),
        found: Mutex::default(),
    };
    progress.stage("importing", scan.disk.len());
    work.read_all(options.threads)?;
    let Work { files, found, .. } = work;
    let Plan { listings, by_node, complaints, files: planned, content } = plan;
    let file_bytes = planned.iter().map(|file| file.size).fold(0, u64::saturating_add);
    // What is not needed any more makes room.
    drop((planned, content));
    let found = found.into_inner().expect("no thread panicked while it held this");
    let mut warnings = scan.warnings.clone();
    warnings.extend(complaints);
    Ok(Imported { scan, warnings, found, listings, files, by_node, file_bytes })
}

impl Work<'_> {
    /// Reads every file and all residue, in the order in which they lie on the disk.
    fn read_all(&self, threads: Option<usize>) -> Result<()> {
        let planned = self.plan.files.iter().enumerate().filter(|(_, file)| !file.is_skipped());
        // The files are in the order of the disk.
        let items = Items::new(self.disk, planned.map(|(number, file)| (number, file.start())))?;
        self.progress.advance(items.skipped);
        let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        pool::run(threads, items.len(), |i, pool| {
            progress::check(self.progress)?;
            match items.get(i) {
                Item::Residue(stretch) => self.read_residue(stretch),
                Item::File(number) => {
                    let file = &self.plan.files[number];
                    let mut placed = Vec::new();
                    let digests = import_file(file, self.disk, self.writer, pool, &mut placed)?;
                    self.files[number].set(digests).expect("each file is read once");
                    let runs = placed.into_iter().map(|(start, len, offset)| Run {
                        start,
                        len,
                        of: RunOf::File(small(number)),
                        offset,
                    });
                    self.found().runs.extend(runs);
                    Ok(())
                }
            }
        })
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().expect("no thread panics while it holds this")
    }

    /// Stores what in a stretch of the disk is neither content nor zero.
    fn read_residue(&self, stretch: Range<u64>) -> Result<()> {
        let mut window_start = stretch.start;
        while window_start < stretch.end {
            // Skip windows that lie wholly in a hole.
            let extent = self.disk.extent_at(window_start)?;
            let next = extent.range.end.min(stretch.end) / RESIDUE_WINDOW * RESIDUE_WINDOW;
            if extent.is_zero() && (next > window_start || extent.range.end >= stretch.end) {
                window_start = if extent.range.end >= stretch.end { stretch.end } else { next };
                continue;
            }
            let window = window_start..stretch.end.min(window_start + RESIDUE_WINDOW);
            window_start = window.end;
            self.read_window(window)?;
        }
        self.progress.advance(stretch.end - stretch.start);
        Ok(())
    }

    fn read_window(&self, window: Range<u64>) -> Result<()> {
        let mut object = Vec::new();
        let mut runs: Vec<Run> = Vec::new();
        for gap in self.plan.gaps(window) {
            for range in data_in(self.disk, gap)? {
                let bytes = self.disk.read_vec(range.start, (range.end - range.start) as usize)?;
                for block in blocks(range.clone()) {
                    let part =
                        &bytes[(block.start - range.start) as usize..(block.end - range.start) as usize];
                    if is_zero(part) {
                        continue;
                    }
                    let (len, offset) = (part.len() as u64, object.len() as u64);
                    runs.push(Run { start: block.start, len, of: RunOf::Residue(0), offset });
                    object.extend_from_slice(part);
                }
            }
        }
        if object.is_empty() {
            return Ok(());
        }
        let id = self.writer.put(&object)?;
        let mut found = self.found();
        let number = found.residue.len();
        found.residue.push(id);
        found.runs.extend(runs.into_iter().map(|run| Run { of: RunOf::Residue(small(number)), ..run }));
        Ok(())
    }
}

/// Puts all runs in order; what no run covers is zero.
fn layout_of(found: Found, files: &[OnceLock<FileDigests>], disk_size: u64) -> Layout {
    let Found { mut runs, residue } = found;
    runs.sort_unstable_by_key(|run| run.start);
    let mut builder = Builder::new();
    for run in &runs {
        builder.zero(run.start - builder.end());
        match run.of {
            RunOf::File(number) => {
                let file = files[number as usize].get().expect("a file with runs was read");
                builder.content(run.len, file.object, run.offset);
            }
            RunOf::Residue(number) => builder.residue(run.len, residue[number as usize], run.offset),
        }
    }
    builder.zero(disk_size - builder.end());
    builder.finish()
}

/// A regular file that is not on a disk: in which parts of what its bytes are.
pub(crate) struct LooseFile {
    /// What holds it.
    pub(crate) source: Arc<dyn Source>,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// The parts of it that are no holes.
    pub(crate) parts: Parts,
}

/// Parts of a file, in file order, and where in what holds the file each begins.
pub(crate) type Parts = Vec<(Range<u64>, u64)>;

/// What storing a file gave: its object, and its SHA-1 and BLAKE3 unless too much of it is holes.
pub(crate) type Stored = (ObjectId, Option<([u8; 20], ObjectId)>);

/// Stores `count` files, each of which `open` gives by its number.
pub(crate) fn store_files(
    count: usize,
    writer: &ObjectWriter,
    progress: &dyn Progress,
    open: impl Fn(usize) -> Result<LooseFile> + Sync,
) -> Result<Vec<Stored>> {
    let stored: Vec<OnceLock<Stored>> = (0..count).map(|_| OnceLock::new()).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    pool::run(threads, count, |i, pool| {
        progress::check(progress)?;
        let LooseFile { source, size, parts } = open(i)?;
        let file = plan::PlannedFile::loose(size, &parts);
        let FileDigests { sha1, object } = import_file(&file, &*source, writer, pool, &mut Vec::new())?;
        progress.advance(size);
        stored[i].set((object, sha1.map(|sha1| (sha1, object)))).expect("each file is read once");
        Ok(())
    })?;
    Ok(stored.into_iter().map(|stored| stored.into_inner().expect("all were read")).collect())
}

/// The parts of `gap` that may hold data, in whole blocks as far as the gap goes: so a hole that a container
/// keeps in smaller units than blocks makes no difference to the layout.
fn data_in(disk: &dyn Source, gap: Range<u64>) -> Result<Vec<Range<u64>>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut at = gap.start;
    while at < gap.end {
        let extent = disk.extent_at(at)?;
        if !extent.is_zero() {
            let start = (at / BLOCK * BLOCK).max(gap.start);
            let end = extent.range.end.min(gap.end).next_multiple_of(BLOCK).min(gap.end);
            match ranges.last_mut() {
                Some(last) if last.end >= start => last.end = last.end.max(end),
                _ => ranges.push(start..end),
            }
        }
        at = extent.range.end;
    }
    Ok(ranges)
}

/// `range` cut at the disk's block boundaries.
pub(crate) fn blocks(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let start = at;
        at = ((start / BLOCK + 1) * BLOCK).min(range.end);
        (start < range.end).then_some(start..at)
    })
}

impl Imported {
    /// Its layout, which takes the place of what it is made of: it can be taken once.
    fn take_layout(&mut self) -> Layout {
        layout_of(std::mem::take(&mut self.found), &self.files, self.scan.disk.len())
    }

    /// Counts of what it holds.
    fn counts(&self, layout: &Layout) -> Counts {
        Counts {
            paths: self.listings.iter().flatten().map(|listing| listing.entries.len() as u64).sum(),
            files: self.files.len() as u64,
            file_bytes: self.file_bytes,
            ..Counts::of(layout)
        }
    }

    /// The rows of its manifest. They take the place of what they are made of.
    fn into_rows(self) -> (Scan, Vec<Row>) {
        let Imported { scan, listings, files, by_node, .. } = self;
        let mut listings: Vec<_> = listings.into_iter().enumerate().collect();
        listings.sort_by_key(|(number, _)| &scan.volumes[*number].name);
        let mut rows = Vec::new();
        for (number, listing) in listings {
            let Some(listing) = listing else { continue };
            let (made, _) = rows::of_listing(&scan.volumes[number].name, listing, |at, _, row| {
                let file = by_node.get(number, at).and_then(|i| files[i].get());
                if let Some(FileDigests { sha1, object }) = file {
                    row.sha1 = *sha1;
                    row.blake3 = sha1.is_some().then_some(*object);
                    row.content = sha1.is_none().then_some(*object);
                }
            });
            if rows.is_empty() { rows = made } else { rows.extend(made) }
        }
        rows::sort(&mut rows);
        (scan, rows)
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;
    use mif_formats::{Extent, MemSource, Slice};

    #[test]
    fn blocks_end_at_the_disks_boundaries() {
        let cut: Vec<_> = blocks(1000..9000).collect();
        assert_eq!(cut, [1000..4096, 4096..8192, 8192..9000]);
        assert_eq!(blocks(5..5).count(), 0);
    }

    /// Data in the sectors that are named, and zeros that are known elsewhere.
    struct Sectors(u64, Vec<u64>);

    impl Source for Sectors {
        fn len(&self) -> u64 {
            self.0 * 512
        }
        fn read_at(&self, _: u64, buf: &mut [u8]) -> mif_formats::Result<()> {
            buf.fill(0);
            Ok(())
        }
        fn extent_at(&self, offset: u64) -> mif_formats::Result<Extent> {
            let len = 512 - offset % 512;
            let data = self.1.contains(&(offset / 512));
            Ok(if data { Extent::data(offset, len) } else { Extent::zero(offset, len) })
        }
    }

    #[test]
    fn a_hole_smaller_than_a_block_does_not_cut_the_block() {
        let disk = Sectors(64, vec![3, 4, 17]);
        assert_eq!(data_in(&disk, 0..64 * 512).unwrap(), [0..4096, 8192..12288]);
        assert_eq!(data_in(&disk, 600..2048).unwrap(), vec![600..2048]);
        let slice = Slice::new(MemSource(vec![1; 9000]), 0..9000).unwrap();
        assert_eq!(data_in(&slice, 100..9000).unwrap(), vec![100..9000]);
    }
}
