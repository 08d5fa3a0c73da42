//! Import: converts a disk into a manifest, a layout and the objects missing from the store.
//!
//! Exact by construction: a disk range is content in the layout only if the file was read from exactly that range, and
//! all other nonzero bytes are residue.

mod content;
mod files;
mod items;
mod ownership;
mod piece_reader;
mod plan;
mod planned_file;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};

use mif_formats::Source;
use mif_formats::fs::listing::Listing;
use mif_formats::mif::ObjectId;
use mif_formats::mif::layout::{Builder, Layout};
use mif_formats::mif::manifest::{Body, Row};
use mif_formats::partition::Table;
use mif_formats::source::is_zero;

use self::content::import_file;
pub(crate) use self::files::{LooseFile, Parts, store_content, store_files, store_new};
use self::items::{Item, Items};
use self::piece_reader::Placed;
use self::plan::{FileNumbers, ReadPlan, say_unreadable};
pub(crate) use self::planned_file::MAX_HASHED_HOLES;
use crate::disk::blocks::{RESIDUE_WINDOW, blocks, data_in};
use crate::disk::scan::{Scan, ScannedVolume};
use crate::error::Result;
use crate::store::{Counts, ObjectWriter, VolumeRecord};
use crate::task::pool;
use crate::task::progress::{self, Progress};
use crate::tree::rows;

/// The result of reading a disk.
pub(crate) struct Imported {
    scan: Scan,
    pub(crate) warnings: Vec<String>,
    found: Origins,
    /// The data for the rows: listings of the volumes, the body of each file, and the file number of each node.
    listings: Vec<Option<Listing>>,
    files: Vec<OnceLock<Body>>,
    by_file: FileNumbers,
    /// The number of regular files, and the sum of their sizes in bytes.
    totals: (u64, u64),
}

/// The result of rereading a disk.
pub(crate) struct Reread {
    pub(crate) layout: Layout,
    pub(crate) rows: Vec<Row>,
    pub(crate) table: Table,
    pub(crate) volumes: Vec<VolumeRecord>,
    pub(crate) counts: Counts,
    pub(crate) warnings: Vec<String>,
}

/// Reads a disk as an import does, but publishes nothing.
pub(crate) fn reread(
    disk: Arc<dyn Source>,
    writer: &ObjectWriter,
    threads: Option<usize>,
    progress: &dyn Progress,
) -> Result<Reread> {
    let mut read = import_disk(disk, writer, threads, progress)?;
    let layout = read.take_layout();
    let (counts, warnings) = (read.counts(&layout), std::mem::take(&mut read.warnings));
    let (scan, rows) = read.into_rows();
    let volumes = scan.volumes.iter().map(ScannedVolume::record).collect();
    Ok(Reread { layout, rows, table: scan.table, volumes, counts, warnings })
}

/// Returns the ranges of a disk that an import would store as content of files, sorted, and warnings about what cannot be
/// read, as sentences.
pub(crate) fn content_ranges(scan: &Scan) -> Result<(Vec<Range<u64>>, Vec<String>)> {
    let plan = ReadPlan::new(scan)?;
    Ok((plan.content, plan.complaints))
}

/// State shared by the threads.
struct Work<'a> {
    disk: &'a dyn Source,
    volumes: &'a [ScannedVolume],
    plan: &'a ReadPlan,
    writer: &'a ObjectWriter,
    progress: &'a dyn Progress,
    /// The body of each file; empty for files that are not read.
    files: Vec<OnceLock<Body>>,
    found: Mutex<Origins>,
}

/// The origins of the disk's bytes, in no particular order.
#[derive(Default)]
struct Origins {
    runs: Vec<Run>,
    /// The objects that runs refer to by number.
    objects: Vec<ObjectId>,
    /// Files that could not be decoded, by number.
    damaged: Vec<(usize, mif_formats::Error)>,
}

/// A run of disk bytes.
struct Run {
    start: u64,
    len: u64,
    /// The file or the object.
    of: RunOf,
    /// The offset in the file or object.
    offset: u64,
}

enum RunOf {
    /// The content of the file with this number.
    File(u32),
    /// An object that is part of a file's content: a chunk, or encoded bytes.
    Part(u32),
    /// An object of residue.
    Residue(u32),
}

impl Origins {
    /// Returns the number of an object.
    fn add(&mut self, id: ObjectId) -> u32 {
        // The runs of a file refer to the same object one after the other.
        if self.objects.last() != Some(&id) {
            self.objects.push(id);
        }
        small(self.objects.len() - 1)
    }
}

/// Converts a file or object number to 32 bits, to save memory: there are many runs.
fn small(number: usize) -> u32 {
    u32::try_from(number).expect("fewer than 2³²")
}

/// Reads a disk into objects. Without `threads`, uses one thread per processor.
pub(crate) fn import_disk(
    disk: Arc<dyn Source>,
    writer: &ObjectWriter,
    threads: Option<usize>,
    progress: &dyn Progress,
) -> Result<Imported> {
    progress.stage("scanning", 0);
    let scan = Scan::new(disk)?;
    let plan = ReadPlan::new(&scan)?;
    let work = Work {
        disk: &*scan.disk,
        volumes: &scan.volumes,
        plan: &plan,
        writer,
        progress,
        files: (0..plan.files.len()).map(|_| OnceLock::new()).collect(),
        found: Mutex::default(),
    };
    progress.stage("importing", scan.disk.len());
    work.read_all(threads)?;
    let Work { files, found, .. } = work;
    let ReadPlan { listings, by_file, totals, complaints, files: planned, content } = plan;
    // Frees memory that is no longer needed.
    drop((planned, content));
    let mut found = found.into_inner().expect("no thread panicked while it held this");
    let mut warnings = scan.warnings.clone();
    warnings.extend(complaints);
    let mut damaged: HashMap<usize, mif_formats::Error> =
        std::mem::take(&mut found.damaged).into_iter().collect();
    for (number, listing) in listings.iter().enumerate().filter_map(|(i, l)| Some((i, l.as_ref()?))) {
        if damaged.is_empty() {
            break;
        }
        let take = |file| by_file.get(number, file).and_then(|file| damaged.remove(&file));
        say_unreadable(&scan.volumes[number].name, listing, &mut warnings, take);
    }
    Ok(Imported { scan, warnings, found, listings, files, by_file, totals })
}

impl Work<'_> {
    /// Reads every file and all residue in disk order.
    fn read_all(&self, threads: Option<usize>) -> Result<()> {
        let planned = self.plan.files.iter().enumerate().filter(|(_, file)| !file.is_skipped());
        // The files are in disk order.
        let items = Items::new(self.disk, planned.map(|(number, file)| (number, file.start())))?;
        self.progress.advance(items.skipped);
        let threads = threads.unwrap_or_else(pool::processors);
        pool::run(threads, items.len(), |i, pool| {
            progress::check(self.progress)?;
            match items.get(i) {
                Item::Residue(stretch) => self.read_residue(stretch),
                Item::File(number) => {
                    let file = &self.plan.files[number];
                    let ready = file.with_bytes(self.volumes)?;
                    let file = ready.as_ref().unwrap_or(file);
                    let mut placed = Vec::new();
                    let body = import_file(file, self.disk, self.writer, pool, &mut placed, self.progress)?;
                    let body = match body {
                        Ok(body) => body,
                        Err(damage) => {
                            self.found().damaged.push((number, damage));
                            return file.owned().into_iter().try_for_each(|range| self.read_parts(range));
                        }
                    };
                    self.files[number].set(body).expect("each file is read once");
                    let mut found = self.found();
                    for Placed { disk: start, len, object, offset } in placed {
                        let of = match object {
                            None => RunOf::File(small(number)),
                            Some(object) => RunOf::Part(found.add(object)),
                        };
                        found.runs.push(Run { start, len, of, offset });
                    }
                    Ok(())
                }
            }
        })
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Origins> {
        self.found.lock().expect("no thread panics while it holds this")
    }

    /// Stores the bytes of a disk range that are neither content nor zero.
    fn read_residue(&self, stretch: Range<u64>) -> Result<()> {
        let mut window_start = stretch.start;
        while window_start < stretch.end {
            // Skip windows that are entirely in a hole.
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
        self.store_residue(self.plan.gaps(window))
    }

    /// Stores a range of the disk as residue, window by window.
    fn read_parts(&self, range: Range<u64>) -> Result<()> {
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min((start / RESIDUE_WINDOW + 1) * RESIDUE_WINDOW);
            self.store_residue(std::iter::once(start..end))?;
            start = end;
        }
        Ok(())
    }

    /// Stores the nonzero blocks of these parts of one window as one object.
    fn store_residue(&self, parts: impl IntoIterator<Item = Range<u64>>) -> Result<()> {
        let mut object = Vec::new();
        let mut runs: Vec<Run> = Vec::new();
        for gap in parts {
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
        let number = found.add(id);
        found.runs.extend(runs.into_iter().map(|run| Run { of: RunOf::Residue(number), ..run }));
        Ok(())
    }
}

/// Sorts all runs into a layout. Bytes not covered by a run are zero.
fn layout_of(found: Origins, files: &[OnceLock<Body>], disk_size: u64) -> Layout {
    let Origins { mut runs, objects, .. } = found;
    runs.sort_unstable_by_key(|run| run.start);
    let mut builder = Builder::new();
    for run in &runs {
        builder.zero(run.start - builder.end());
        match run.of {
            RunOf::File(number) => {
                let file = files[number as usize].get().expect("a file with runs was read");
                builder.content(run.len, file.object(), run.offset);
            }
            RunOf::Part(number) => builder.content(run.len, objects[number as usize], run.offset),
            RunOf::Residue(number) => builder.residue(run.len, objects[number as usize], run.offset),
        }
    }
    builder.zero(disk_size - builder.end());
    builder.finish()
}

impl Imported {
    /// Returns the layout. This consumes the runs, so call it only once.
    pub(crate) fn take_layout(&mut self) -> Layout {
        layout_of(std::mem::take(&mut self.found), &self.files, self.scan.disk.len())
    }

    /// Returns the counts of paths, files and bytes.
    pub(crate) fn counts(&self, layout: &Layout) -> Counts {
        let paths =
            |listing: &Listing| listing.entries.iter().filter(|entry| entry.stream.is_none()).count() as u64;
        Counts {
            paths: self.listings.iter().flatten().map(paths).sum(),
            files: self.totals.0,
            file_bytes: self.totals.1,
            ..Counts::of(layout)
        }
    }

    /// Returns the scan and the rows of the manifest.
    pub(crate) fn into_rows(self) -> (Scan, Vec<Row>) {
        let Imported { scan, listings, files, by_file, .. } = self;
        let mut listings: Vec<_> = listings.into_iter().enumerate().collect();
        listings.sort_by_key(|(number, _)| &scan.volumes[*number].name);
        let mut rows = Vec::new();
        for (number, listing) in listings {
            let Some(listing) = listing else { continue };
            let (made, _) = rows::of_listing(&scan.volumes[number].name, listing, |file, _, row| {
                row.body = by_file.get(number, file).and_then(|i| files[i].get().copied());
            });
            if rows.is_empty() { rows = made } else { rows.extend(made) }
        }
        rows::sort(&mut rows);
        (scan, rows)
    }
}
