//! Rebuild: an image whose manifest was edited becomes a disk again.
//!
//! ```text
//! edited rows → Tree (tree.rs) → plan (mif_formats::fs) → layout of the volume (splice.rs)
//!                                  the parent's layout  → layout of all else
//! ```
//!
//! Only volumes whose rows changed are planned; all other bytes of the disk stay the parent's, by reference. No
//! content is copied: the new layout refers to the same objects, and what is new to the store is metadata.
//!
//! The manifest of the new image is what the reader reads from the new disk, so it cannot say anything else than
//! the disk does; digests are carried over.

mod contents;
mod splice;
mod tree;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mif_formats::fs::plan::{Planned, Tree};
use mif_formats::fs::walk::walk;
use mif_formats::fs::{self, FileType, ext4, fat};
use mif_formats::mif::digests;
use mif_formats::mif::layout::Layout;
use mif_formats::mif::manifest::{self, Row};
use mif_formats::source::check_range;
use mif_formats::{Extent, Source};
use serde::Serialize;

use self::contents::Contents;
pub(crate) use self::contents::{NewContent, NewContents};
use self::splice::{Known, Splicer};
use self::tree::Rows;
use crate::progress::{self, Progress};
use crate::rows::row;
use crate::scan::{Scan, ScannedVolume, VolumeExtent};
use crate::store::{
    Counts, Image, ImageName, Index, ObjectWriter, Objects, Provenance, Store, StoredDisk, StoredImage,
    VolumeRecord, WriterStats,
};
use crate::{Error, Result, packages};

/// How to rebuild.
#[derive(Debug, Clone, Default)]
pub struct RebuildOptions {
    /// The name of the new image; it becomes its next version.
    pub name: String,
    /// What the provenance says made it: `rebuild`, `customize`.
    pub operation: String,
    /// Volumes to plan even if nothing of them was edited.
    pub always: Vec<String>,
    /// The command line, for the image's record.
    pub command: Vec<String>,
    /// The digest of the edits, for the image's record.
    pub recipe: Option<String>,
}

/// What a rebuild did.
#[derive(Debug, Clone, Serialize)]
pub struct RebuildReport {
    /// The image that it was made from, as `name@version`.
    pub parent: String,
    /// The new image, as `name@version`.
    pub image: String,
    /// The volumes that were planned; all others are the parent's, bit for bit.
    pub planned: Vec<String>,
    /// What planning changed beside the edits, each a sentence.
    pub notes: Vec<String>,
    /// How the disk divides.
    pub counts: Counts,
    /// What was new to the store.
    pub added: WriterStats,
    /// How long it took.
    pub seconds: f64,
}

/// Makes a new image of `parent` with the files that `rows` say, and publishes it. `rows` is the whole manifest,
/// edited; all content that it names is in the store.
///
/// Errs before anything is published for what a volume cannot hold.
pub fn rebuild(
    store: &Store,
    parent: &StoredImage,
    rows: &[Row],
    options: &RebuildOptions,
    progress: &dyn Progress,
) -> Result<RebuildReport> {
    let started = Instant::now();
    check_name(&options.name)?;
    progress.stage("planning", 0);
    let mut base = Base::new(store, parent)?;
    let rows: Vec<&Row> = rows.iter().collect();
    let writer = ObjectWriter::new(store)?;
    let draft = base.draft(&rows, &NewContents::new(), &options.always, &writer, progress)?;
    let added = writer.finish()?;
    base.refresh(store)?;
    let image = base.publish(store, &draft, &rows, options)?;
    Ok(RebuildReport {
        parent: parent.image.id(),
        image: image.id(),
        planned: draft.planned,
        notes: draft.notes,
        counts: image.counts,
        added,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Errs unless `name` can be the name of an image.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if !ImageName::is_valid(name) {
        return Err(Error::usage(format!("\"{name}\" cannot be the name of an image"))
            .advise("A name has letters, digits and . _ + -"));
    }
    Ok(())
}

/// An image to rebuild from: what all that is made of it has in common, read once.
///
/// An image is made in two steps, so that many can share what is written between them: drafts, which become
/// visible to nobody; and, once their objects are in the store, the published images.
pub(crate) struct Base<'a> {
    parent: &'a StoredImage,
    pub(crate) rows: Vec<Row>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) scan: Scan,
    layout: Arc<Layout>,
    known: Known,
}

/// A new disk, planned, of which nothing is visible yet.
pub(crate) struct Draft {
    layout: Layout,
    /// The volumes that were planned.
    pub(crate) planned: Vec<String>,
    /// What planning changed beside the edits, each a sentence.
    pub(crate) notes: Vec<String>,
}

impl<'a> Base<'a> {
    pub(crate) fn new(store: &Store, parent: &'a StoredImage) -> Result<Self> {
        let objects = Arc::new(fresh_objects(store)?);
        let layout = Arc::new(parent.layout()?);
        let scan = Scan::new(Arc::new(StoredDisk::new(layout.clone(), objects.clone())))?;
        let known = Known::new(&layout);
        Ok(Base { parent, rows: parent.manifest()?, objects, scan, layout, known })
    }

    /// Sees the objects that were added since.
    pub(crate) fn refresh(&mut self, store: &Store) -> Result<()> {
        self.objects = Arc::new(fresh_objects(store)?);
        Ok(())
    }

    /// Errs if `rows` cannot become a disk. Writes nothing; gives the volumes that would be planned.
    pub(crate) fn check(&self, rows: &[&Row], new: &NewContents) -> Result<Vec<String>> {
        let edited = edited_volumes(&self.rows, rows, &[]);
        for name in &edited {
            self.plan(name, rows, new, &mut |_, _, _| Ok(()))?;
        }
        Ok(edited)
    }

    /// Plans the edited volumes of `rows`, whose content is in the store or `new`. What the store lacks goes to
    /// `writer`, which is to be finished before the draft is published.
    pub(crate) fn draft(
        &self,
        rows: &[&Row],
        new: &NewContents,
        always: &[String],
        writer: &ObjectWriter,
        progress: &dyn Progress,
    ) -> Result<Draft> {
        let planned = edited_volumes(&self.rows, rows, always);
        let contents = Contents { objects: &self.objects, new };
        let mut splicer = Splicer::new(&self.layout, contents, &self.known, writer);
        let mut notes = Vec::new();
        for name in &planned {
            progress::check(progress)?;
            self.plan(name, rows, new, &mut |volume, plan, contents| {
                notes.extend(plan.notes().iter().map(|note| format!("{name}: {note}")));
                splicer.volume(volume, plan, contents)
            })?;
        }
        let layout = splicer.finish()?;
        for id in rows.iter().filter_map(|row| row.object()) {
            if let Some(content) = new.get(&id) {
                content.store(writer)?;
            }
        }
        Ok(Draft { layout, planned, notes })
    }

    fn plan(&self, name: &str, rows: &[&Row], new: &NewContents, then: Use<'_>) -> Result<()> {
        let volume = self.scan.volumes.iter().find(|volume| volume.name == *name).ok_or_else(|| {
            Error::input(format!("{}: has no volume {name}", self.parent.image.id()))
                .advise("`mif info` lists the volumes of an image")
        })?;
        let rows = Rows { volume: name, old: &self.rows, new: rows };
        let contents = Contents { objects: &self.objects, new };
        plan_volume(&rows, &self.scan, volume, contents, then).map_err(|e| e.within(name))
    }

    /// Publishes a draft of `rows`, whose objects are in the store and seen here.
    pub(crate) fn publish(
        &self,
        store: &Store,
        draft: &Draft,
        rows: &[&Row],
        options: &RebuildOptions,
    ) -> Result<Image> {
        let (new_rows, records) = read_back(&self.objects, &draft.layout, rows, &draft.planned)?;
        let packages = self.packages(&new_rows)?;
        publish(store, self.parent, &draft.layout, &new_rows, &records, &packages, options)
    }

    /// The table of packages for new rows: the parent's, if nothing changed that it says.
    fn packages(&self, rows: &[Row]) -> Result<Vec<u8>> {
        fn told(row: &Row) -> (&str, &[u8], FileType, Option<&[u8]>) {
            (&row.volume, &row.path, row.file_type, row.link_target.as_deref())
        }
        let same_paths = self.rows.iter().map(told).eq(rows.iter().map(told));
        let databases = |rows| packages::database_rows(rows).map(Row::object);
        if same_paths && databases(&self.rows).eq(databases(rows)) {
            return self.parent.packages_file();
        }
        Ok(packages::table(rows, &self.objects)?.0)
    }
}

/// The names of the volumes of which some row changed, is new or is gone.
fn edited_volumes(old: &[Row], new: &[&Row], always: &[String]) -> Vec<String> {
    fn by_volume<'r>(rows: impl Iterator<Item = &'r Row>) -> BTreeMap<&'r str, usize> {
        let mut counts = BTreeMap::new();
        for row in rows {
            *counts.entry(row.volume.as_str()).or_insert(0) += 1;
        }
        counts
    }
    let old_by_path: HashMap<(&str, &[u8]), &Row> =
        old.iter().map(|row| ((&row.volume[..], &row.path[..]), row)).collect();
    let (old_counts, new_counts) = (by_volume(old.iter()), by_volume(new.iter().copied()));
    let mut edited: Vec<String> = always.to_vec();
    edited.extend(
        old_counts
            .keys()
            .chain(new_counts.keys())
            .filter(|v| old_counts.get(*v) != new_counts.get(*v))
            .map(|v| (*v).to_owned()),
    );
    for row in new {
        if old_by_path.get(&(&row.volume[..], &row.path[..])) != Some(row)
            && edited.last() != Some(&row.volume)
        {
            edited.push(row.volume.clone());
        }
    }
    edited.sort();
    edited.dedup();
    edited
}

/// What is done with a plan, and with the content of the files that it places.
type Use<'u> = &'u mut dyn FnMut(&ScannedVolume, &dyn Planned, &[mif_formats::mif::ObjectId]) -> Result<()>;

/// Plans a volume with the parameters of the original.
fn plan_volume(
    rows: &Rows<'_>,
    scan: &Scan,
    volume: &ScannedVolume,
    contents: Contents<'_>,
    then: Use<'_>,
) -> Result<()> {
    let original =
        volume.filesystem().ok_or_else(|| Error::unsupported("holds no filesystem that can be planned"))?;
    let (tree, contents): (Tree, _) = rows.tree(original, contents)?;
    let source = Arc::new(VolumeSource::new(scan, volume));
    // An original that was cut off says more than it has: it is not planned at a size that nobody can hold.
    let fits = |size: u64| match source.len() {
        room if size > room => {
            Err(Error::input(format!("the filesystem has {size} bytes, its volume {room}")))
        }
        _ => Ok(()),
    };
    if original.info().kind.starts_with("ext") {
        let params = ext4::plan::Params::from_volume(&*source)?;
        fits(params.size())?;
        then(volume, &ext4::plan::Plan::new(&tree, params)?, &contents)
    } else {
        let params = fat::plan::Params::from_volume(source.clone())?;
        fits(params.size())?;
        then(volume, &fat::plan::Plan::new(&tree, params)?, &contents)
    }
}

/// A volume of a disk, wherever its parts lie.
struct VolumeSource {
    disk: Arc<dyn Source>,
    extents: Vec<VolumeExtent>,
}

impl VolumeSource {
    fn new(scan: &Scan, volume: &ScannedVolume) -> Self {
        VolumeSource { disk: scan.disk.clone(), extents: volume.extents.clone() }
    }
}

impl Source for VolumeSource {
    fn len(&self) -> u64 {
        self.extents.last().map_or(0, |extent| extent.volume + extent.len)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> mif_formats::Result<()> {
        check_range("volume", self.len(), offset, buf.len() as u64)?;
        let end = offset + buf.len() as u64;
        let first = self.extents.partition_point(|e| e.volume + e.len <= offset);
        for extent in self.extents[first..].iter().take_while(|e| e.volume < end) {
            let (from, to) = (extent.volume.max(offset), (extent.volume + extent.len).min(end));
            let part = &mut buf[(from - offset) as usize..(to - offset) as usize];
            self.disk.read_at(extent.disk + (from - extent.volume), part)?;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> mif_formats::Result<Extent> {
        Ok(Extent::data(offset, self.len() - offset))
    }
}

/// The objects of a store, with an index that sees what was just added.
fn fresh_objects(store: &Store) -> Result<Objects> {
    let index = Index::load(&**store.storage())?;
    Ok(Objects::new(store.storage().clone(), Arc::new(index)))
}

/// Reads the volumes that were planned from the new disk: their rows in place of the edited ones, and their
/// records.
fn read_back(
    objects: &Arc<Objects>,
    layout: &Layout,
    edited: &[&Row],
    names: &[String],
) -> Result<(Vec<Row>, Vec<VolumeRecord>)> {
    let scan = Scan::new(Arc::new(StoredDisk::new(Arc::new(layout.clone()), objects.clone())))?;
    let mut rows: Vec<Row> =
        edited.iter().filter(|row| !names.contains(&row.volume)).map(|row| (*row).clone()).collect();
    let mut records = Vec::new();
    for name in names {
        let volume = scan.volumes.iter().find(|volume| volume.name == *name);
        let Some((volume, filesystem)) = volume.and_then(|v| Some((v, v.filesystem()?))) else {
            return Err(Error::store(format!("{name}: what was planned is no filesystem: this is a defect")));
        };
        let listing = walk(filesystem)?;
        let digests: HashMap<&[u8], &Row> =
            edited.iter().filter(|row| row.volume == *name).map(|row| (&row.path[..], *row)).collect();
        if let Some(complaint) = listing.complaints.first() {
            return Err(Error::store(format!("{name}: what was planned does not read: {}", complaint.error)));
        }
        if listing.entries.len() != digests.len() {
            return Err(Error::store(format!(
                "{name}: {} paths were planned, and {} are read: this is a defect",
                digests.len(),
                listing.entries.len()
            )));
        }
        for entry in &listing.entries {
            let mut row = row(name, entry, &listing.nodes[&entry.node]);
            let Some(planned) = digests.get(&entry.path[..]) else {
                return Err(Error::store(format!("{name}:{}: was not planned", row.path_text())));
            };
            (row.sha1, row.blake3, row.content) = (planned.sha1, planned.blake3, planned.content);
            rows.push(row);
        }
        records.push(volume.record());
    }
    rows.sort_by_cached_key(crate::rows::order);
    Ok((rows, records))
}

fn publish(
    store: &Store,
    parent: &StoredImage,
    layout: &Layout,
    rows: &[Row],
    records: &[VolumeRecord],
    packages_file: &[u8],
    options: &RebuildOptions,
) -> Result<Image> {
    let (layout_file, digest) = layout.encode();
    let mut manifest_file = Vec::new();
    manifest::write(&mut manifest_file, rows)?;
    let mut volumes = parent.image.volumes.clone();
    for volume in &mut volumes {
        if let Some(record) = records.iter().find(|record| record.volume == volume.volume) {
            *volume = record.clone();
        }
    }
    let image = Image {
        name: options.name.clone(),
        version: 0,
        disk_size: layout.disk_size(),
        layout_digest: blake3::Hash::from_bytes(digest).to_hex().to_string(),
        manifest_digest: blake3::hash(&manifest_file).to_hex().to_string(),
        table: parent.image.table.clone(),
        volumes,
        counts: counts(layout, rows),
        provenance: Provenance {
            operation: options.operation.clone(),
            tool: concat!("mif ", env!("CARGO_PKG_VERSION")).into(),
            time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            source: None,
            source_format: None,
            parent: Some(parent.image.id()),
            command: options.command.clone(),
            files: Vec::new(),
            recipe: options.recipe.clone(),
        },
        warnings: Vec::new(),
    };
    let more = [("digests", &digests::encode(rows)[..]), (packages::TABLE, packages_file)];
    store.publish(image, &manifest_file, &layout_file, &more)
}

fn counts(layout: &Layout, rows: &[Row]) -> Counts {
    let mut counts = Counts { paths: rows.len() as u64, ..Counts::of(layout) };
    let mut seen = std::collections::HashSet::new();
    for row in rows.iter().filter(|row| row.file_type == fs::FileType::File) {
        if row.inode.is_none_or(|inode| seen.insert((&row.volume, inode))) {
            counts.files += 1;
            counts.file_bytes = counts.file_bytes.saturating_add(row.size);
        }
    }
    counts
}
