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
//! Partitions and volumes may get other sizes, and fresh identities, on the way (`reshape.rs`): what is said by the
//! table is then changed in place, and what moves is moved by reference.
//!
//! The manifest of the new image is what the reader reads from the new disk, so it cannot say anything else than
//! the disk does; digests are carried over.

mod arrange;
mod bench;
mod canonical;
mod ids;
mod params;
mod reshape;
mod splice;
mod tree;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mif_formats::fs::plan::Tree;
use mif_formats::fs::walk::walk;
use mif_formats::fs::{self};
use mif_formats::mif::layout::Layout;
use mif_formats::mif::manifest::{self, Row};
use mif_formats::mif::{ObjectId, digests};
use mif_formats::partition::{Partition, Table, TableKind, write};
use mif_formats::source::check_range;
use mif_formats::{Extent, Source};
use serde::Serialize;

pub(crate) use self::arrange::BIOS_BOOT;
use self::arrange::{Arrangement, arrange};
pub(crate) use self::bench::Bench;
use self::ids::Identities;
pub use self::ids::{IdChange, IdsReport};
pub(crate) use self::params::Params;
pub use self::reshape::{NewIds, Reshape, Size};
pub(crate) use self::reshape::{bytes as size_in_bytes, uuid_bytes, uuid_text};
pub(crate) use self::splice::Splicer;
use self::tree::Rows;
pub(crate) use self::tree::node;
use crate::progress::{self, Progress};
use crate::rows::row;
use crate::scan::{Scan, ScannedVolume, VolumeExtent};
use crate::store::{
    Counts, Image, ImageName, Provenance, Store, StoredDisk, StoredImage, VolumeRecord, WriterStats,
};
use crate::{Error, Result, volume_name};

/// How to rebuild.
#[derive(Debug, Clone, Default)]
pub struct RebuildOptions {
    /// The name of the new image; it becomes its next version.
    pub name: String,
    /// What the provenance says made it: `rebuild`, `customize`.
    pub operation: String,
    /// Volumes to plan even if nothing of them was edited.
    pub always: Vec<String>,
    /// Other sizes and identities.
    pub reshape: Reshape,
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
    /// What fresh identities did, if there are any.
    pub ids: Option<IdsReport>,
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
    if !ImageName::is_valid(&options.name) {
        return Err(Error::usage(format!("\"{}\" cannot be the name of an image", options.name))
            .advise("A name has letters, digits and . _ + -"));
    }
    let made = make(&Bench::Store(store), parent, rows, &options.always, &options.reshape, progress)?;
    let image = publish(store, parent, &made, options)?;
    Ok(RebuildReport {
        parent: parent.image.id(),
        image: image.id(),
        planned: made.planned,
        notes: made.notes,
        ids: made.ids,
        counts: image.counts,
        added: made.added,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// A disk that was put together, and is not published yet.
pub(crate) struct Made {
    pub(crate) layout: Layout,
    pub(crate) rows: Vec<Row>,
    pub(crate) table: Table,
    pub(crate) records: Vec<VolumeRecord>,
    pub(crate) planned: Vec<String>,
    pub(crate) notes: Vec<String>,
    pub(crate) ids: Option<IdsReport>,
    pub(crate) added: WriterStats,
}

/// A volume that is to be planned.
struct Draft {
    name: String,
    tree: Tree,
    contents: Vec<ObjectId>,
    params: Params,
}

/// Makes the disk that `rows` and `reshape` say out of `parent`.
pub(crate) fn make(
    bench: &Bench<'_>,
    parent: &StoredImage,
    rows: &[Row],
    always: &[String],
    reshape: &Reshape,
    progress: &dyn Progress,
) -> Result<Made> {
    progress.stage("planning", 0);
    let mut objects = bench.objects()?;
    let old_rows = parent.manifest()?;
    let old_layout = Arc::new(parent.layout()?);
    let old_disk: Arc<dyn Source> = Arc::new(StoredDisk::new(old_layout.clone(), objects.clone()));
    let scan = Scan::new(old_disk)?;
    let mut always = always.to_vec();
    always.extend(resized(&scan, reshape)?);
    let mut rows = std::borrow::Cow::Borrowed(rows);
    let mut identities = None;
    if let Some(ids) = &reshape.new_ids {
        let mut new = Identities::new(&scan, ids)?;
        let writer = bench.writer()?;
        new.rewrite(rows.to_mut(), &scan, &objects, &writer)?;
        writer.finish()?;
        objects = bench.objects()?;
        always.extend(new.volumes().map(str::to_owned));
        identities = Some(new);
    }
    let edited = edited_volumes(&old_rows, &rows, &always);
    let mut drafts = Vec::new();
    for name in &edited {
        progress::check(progress)?;
        let volume = find_volume(&scan, name)?;
        let filesystem = volume
            .filesystem()
            .ok_or_else(|| Error::unsupported("holds no filesystem that can be planned").in_volume(name))?;
        let draft = || -> Result<Draft> {
            let (tree, contents) =
                Rows { volume: name, old: &old_rows, new: &rows }.tree(filesystem, &objects)?;
            let mut params = Params::of(filesystem, Arc::new(VolumeSource::new(&scan, volume)))?;
            if let Some(identities) = &identities {
                identities.apply(name, &mut params);
            }
            Ok(Draft { name: name.clone(), tree, contents, params })
        };
        drafts.push(draft().map_err(|e| e.in_volume(name))?);
    }
    let (arrangement, patches) = shape(&scan, &mut drafts, reshape, identities.as_ref())?;
    let mut notes = arrangement.notes.clone();
    let writer = bench.writer()?;
    let mut splicer =
        Splicer::new(&old_layout, arrangement.size, arrangement.keeps.clone(), &objects, &writer);
    for draft in &drafts {
        progress::check(progress)?;
        let name = &draft.name;
        let extents = match arrangement.partition(name) {
            Some(partition) => vec![VolumeExtent { volume: 0, disk: partition.start, len: partition.len }],
            None => arrangement.moved(&find_volume(&scan, name)?.extents),
        };
        let planned = draft.params.plan(&draft.tree, &mut |plan| {
            notes.extend(plan.notes().iter().map(|note| format!("{name}: {note}")));
            splicer.volume(&extents, plan, &draft.contents)
        });
        planned.map_err(|e| e.in_volume(name))?;
    }
    for (at, bytes) in patches {
        splicer.bytes(at, &bytes)?;
    }
    let layout = splicer.finish()?;
    let added = writer.finish()?;
    let (layout, more) = settle(bench, layout)?;
    let read = read_back(bench, &layout, &rows, &edited)?;
    Ok(Made {
        layout,
        rows: read.rows,
        table: read.table,
        records: read.records,
        planned: edited,
        notes,
        ids: identities.map(|identities| identities.report),
        added: added.with(more),
    })
}

/// The volumes that are to get another size, which have to be planned.
fn resized(scan: &Scan, reshape: &Reshape) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for (name, size) in &reshape.resize {
        let volume = find_volume(scan, name)?;
        if !scan.table.partitions.iter().any(|p| volume_name(p.slot) == *name) {
            return Err(Error::unsupported(format!(
                "{name}: is no partition; a logical volume keeps its size"
            ))
            .advise("Grow the partition, and then the volume with the guest's own tools"));
        }
        if names.contains(name) {
            return Err(Error::usage(format!("{name}: is resized twice")));
        }
        if volume.filesystem().is_none() && !matches!(size, Size::Grow(_) | Size::Max) {
            return Err(Error::unsupported(format!(
                "{name}: holds no filesystem that can be planned: it can grow, but not shrink"
            )));
        }
        names.push(name.clone());
    }
    names.retain(|name| find_volume(scan, name).is_ok_and(|volume| volume.filesystem().is_some()));
    Ok(names)
}

fn find_volume<'s>(scan: &'s Scan, name: &str) -> Result<&'s ScannedVolume> {
    scan.volumes.iter().find(|volume| volume.name == name).ok_or_else(|| {
        let names: Vec<&str> = scan.volumes.iter().map(|volume| volume.name.as_str()).collect();
        Error::input(format!("there is no volume {name}")).advise(format!("There is {}", names.join(", ")))
    })
}

/// Bytes that stand at places of the disk.
type Patches = Vec<write::Patch>;

/// Where all is to be, with the drafts brought to their sizes; and the bytes of the table and of identities.
fn shape(
    scan: &Scan,
    drafts: &mut [Draft],
    reshape: &Reshape,
    identities: Option<&Identities>,
) -> Result<(Arrangement, Patches)> {
    let old_size = scan.disk.len();
    let mut arrangement = if reshape.size.is_none() && reshape.resize.is_empty() {
        Arrangement::same(&scan.table, old_size)
    } else {
        let mut most = None;
        let mut sizes = Vec::new();
        for (name, size) in &reshape.resize {
            let partition = scan.table.partitions.iter().find(|p| volume_name(p.slot) == *name);
            let Partition { slot, len, .. } = partition.expect("it was looked for");
            let no_less = || Error::input(format!("{name}: has {len} bytes, which is less"));
            let wanted = match size {
                Size::Max if most.is_some() => {
                    return Err(Error::usage("only one volume can have all there is"));
                }
                Size::Max => {
                    most = Some(*slot);
                    continue;
                }
                Size::To(size) => *size,
                Size::Grow(more) => len.checked_add(*more).ok_or_else(|| Error::input("is too large"))?,
                Size::Shrink(less) => len.checked_sub(*less).filter(|l| *l > 0).ok_or_else(no_less)?,
                Size::Min => {
                    let draft = drafts.iter().find(|draft| draft.name == *name).ok_or_else(no_less)?;
                    draft.params.minimum(&draft.tree).map_err(|e| e.in_volume(name))?
                }
            };
            // Whole pages, so that no sector size and no block size is cut.
            sizes.push((*slot, wanted.next_multiple_of(4096)));
        }
        let tail = write::tail(Some(&*scan.disk), &scan.table)?;
        let size = match (reshape.size, scan.table.kind) {
            // The only volume of a disk without a table is the disk.
            (None, TableKind::None) => sizes.first().map(|(_, len)| Size::To(*len)),
            (size, _) => size,
        };
        arrange(&scan.table, old_size, size, &sizes, most, tail)?
    };
    for (name, _) in &reshape.resize {
        let partition = arrangement.partition(name).expect("it was looked for");
        if let Some(draft) = drafts.iter_mut().find(|draft| draft.name == *name) {
            draft.params.resize(partition.len);
        } else {
            arrangement.notes.push(format!("{name}: the partition grew; what is in it did not"));
        }
    }
    if let Some(identities) = identities {
        let table = &mut arrangement.table;
        table.id = identities.table_id.clone().or(table.id.take());
        for partition in &mut table.partitions {
            if let Some(id) = identities.partition_ids.get(&partition.slot) {
                partition.id = Some(id.clone());
            }
        }
    }
    let mut patches = Patches::new();
    if arrangement.table != scan.table || arrangement.size != old_size {
        patches = write::write(Some((&*scan.disk, &scan.table)), &arrangement.table, arrangement.size)?;
    }
    for (volume, offset, bytes) in identities.map_or(&[][..], |identities| &identities.patches) {
        let extents = arrangement.moved(&find_volume(scan, volume)?.extents);
        let (at, _) = crate::scan::on_disk(&extents, *offset, 1)
            .next()
            .ok_or_else(|| Error::input(format!("{volume}: is cut short")))?;
        patches.push((at, bytes.clone()));
    }
    Ok((arrangement, patches))
}

/// A layout that was spliced, made canonical.
pub(crate) fn settle(bench: &Bench<'_>, layout: Layout) -> Result<(Layout, WriterStats)> {
    let objects = bench.objects()?;
    let writer = bench.writer()?;
    let layout = Arc::new(layout);
    let disk = StoredDisk::new(layout.clone(), objects.clone());
    let settled = canonical::canonical(&layout, &disk, &objects, &writer)?;
    Ok((settled, writer.finish()?))
}

/// The names of the volumes of which some row changed, is new or is gone.
fn edited_volumes(old: &[Row], new: &[Row], always: &[String]) -> Vec<String> {
    let by_volume = |rows: &[Row]| -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for row in rows {
            *counts.entry(row.volume.clone()).or_insert(0) += 1;
        }
        counts
    };
    let old_by_path: HashMap<(&str, &[u8]), &Row> =
        old.iter().map(|row| ((&row.volume[..], &row.path[..]), row)).collect();
    let (old_counts, new_counts) = (by_volume(old), by_volume(new));
    let mut edited: Vec<String> = always.to_vec();
    edited.extend(
        old_counts
            .keys()
            .chain(new_counts.keys())
            .filter(|v| old_counts.get(*v) != new_counts.get(*v))
            .cloned(),
    );
    for row in new {
        if old_by_path.get(&(&row.volume[..], &row.path[..])) != Some(&row)
            && edited.last() != Some(&row.volume)
        {
            edited.push(row.volume.clone());
        }
    }
    edited.sort();
    edited.dedup();
    edited
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

/// What is read from a disk that was put together.
pub(crate) struct ReadBack {
    pub(crate) rows: Vec<Row>,
    pub(crate) records: Vec<VolumeRecord>,
    pub(crate) table: Table,
}

/// Reads the volumes that were planned from the new disk: their rows in place of the edited ones, and their
/// records.
pub(crate) fn read_back(
    bench: &Bench<'_>,
    layout: &Layout,
    edited: &[Row],
    names: &[String],
) -> Result<ReadBack> {
    let disk = StoredDisk::new(Arc::new(layout.clone()), bench.objects()?);
    let scan = Scan::new(Arc::new(disk))?;
    let mut rows: Vec<Row> = edited.iter().filter(|row| !names.contains(&row.volume)).cloned().collect();
    for name in names {
        let volume = scan.volumes.iter().find(|volume| volume.name == *name);
        let Some(filesystem) = volume.and_then(ScannedVolume::filesystem) else {
            return Err(Error::store(format!("{name}: what was planned is no filesystem: this is a defect")));
        };
        let listing = walk(filesystem)?;
        let digests: HashMap<&[u8], &Row> =
            edited.iter().filter(|row| row.volume == *name).map(|row| (&row.path[..], row)).collect();
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
    }
    rows.sort_by_cached_key(crate::rows::order);
    let records = scan.volumes.iter().map(ScannedVolume::record).collect();
    Ok(ReadBack { rows, records, table: scan.table })
}

fn publish(store: &Store, parent: &StoredImage, made: &Made, options: &RebuildOptions) -> Result<Image> {
    let provenance =
        Provenance { operation: options.operation.clone(), parent: Some(parent.image.id()), ..made_now() };
    made.publish(store, &options.name, provenance)
}

/// That an image was made by this program, now.
pub(crate) fn made_now() -> Provenance {
    Provenance {
        operation: String::new(),
        tool: concat!("mif ", env!("CARGO_PKG_VERSION")).into(),
        time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        source: None,
        source_format: None,
        parent: None,
        command: Vec::new(),
        files: Vec::new(),
    }
}

impl Made {
    /// Publishes it as the next version of `name`.
    pub(crate) fn publish(&self, store: &Store, name: &str, provenance: Provenance) -> Result<Image> {
        let (layout_file, digest) = self.layout.encode();
        let mut manifest_file = Vec::new();
        manifest::write(&mut manifest_file, &self.rows)?;
        let image = Image {
            name: name.to_owned(),
            version: 0,
            disk_size: self.layout.disk_size(),
            layout_digest: blake3::Hash::from_bytes(digest).to_hex().to_string(),
            manifest_digest: blake3::hash(&manifest_file).to_hex().to_string(),
            table: self.table.clone(),
            volumes: self.records.clone(),
            counts: counts(&self.layout, &self.rows),
            provenance,
            warnings: Vec::new(),
        };
        store.publish(image, &manifest_file, &layout_file, &[("digests", &digests::encode(&self.rows))])
    }
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
