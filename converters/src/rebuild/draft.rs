//! Makes an image from another one: plans it, composes the disk, reads it back and publishes it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mif_formats::Source;
use mif_formats::fs::{FileType, Timestamp};
use mif_formats::mif::layout::Layout;
use mif_formats::mif::manifest::Row;

use super::arrange::Arrangement;
use super::firmware::{Firmware, firmware};
use super::ids::{Identities, IdsReport, Rewritten};
use super::reshape::Reshape;
use super::sectors::resectored;
use super::shape::{Patches, VolumeDraft, find_volume, resized, shape};
use super::table::{Converted, converted};
use super::tree::Rows;
use crate::compose::made::Made;
use crate::compose::planner::planner_of;
use crate::compose::splice::{Known, Splicer};
use crate::compose::staging::Bench;
use crate::disk::scan::Scan;
use crate::disk::volume::VolumeExtent;
use crate::error::{Error, Result};
use crate::guest::packages;
use crate::ingest::store_new;
use crate::store::{
    Image, ObjectWriter, Objects, Provenance, Store, StoredDisk, StoredImage, WriterStats, volume_name,
};
use crate::task::progress::{self, Progress};
use crate::tree::edit::Files;
use crate::tree::new_content::{ContentLookup, NewContent, NewContents};

/// How to rebuild.
#[derive(Debug, Clone, Default)]
pub struct RebuildOptions {
    /// The name of the new image; it becomes its next version.
    pub name: String,
    /// The operation in the provenance: `rebuild`, `customize`.
    pub operation: String,
    /// Volumes to plan even if nothing in them was edited.
    pub always: Vec<String>,
    /// Other sizes and identities.
    pub reshape: Reshape,
    /// The command line, for the image's record.
    pub command: Vec<String>,
    /// The digest of the edits, for the image's record.
    pub recipe: Option<String>,
    /// Where the edits came from, for the image's record.
    pub source: Option<String>,
    /// The target that it is made for, for the image's record.
    pub target: Option<String>,
}

/// The image to rebuild from, with the state that all images made from it share, read once.
///
/// An image is made in three steps, so that many images can share newly written objects: drafts, which are visible to
/// nobody; the end of writing, after which their objects can be read; and the published images.
pub(crate) struct Base<'a> {
    parent: &'a StoredImage,
    pub(crate) bench: Bench<'a>,
    pub(crate) rows: Vec<Row>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) scan: Scan,
    layout: Arc<Layout>,
    known: Known,
}

/// A planned new disk, of which nothing is visible yet.
pub(crate) struct Draft {
    pub(crate) layout: Arc<Layout>,
    /// Rows that fresh identities changed.
    rewritten: Rewritten,
    /// The volumes that were planned.
    pub(crate) planned: Vec<String>,
    /// Side effects of rebuilding volumes, as sentences.
    pub(crate) notes: Vec<String>,
    /// The effects of new identities, if any were given.
    pub(crate) ids: Option<IdsReport>,
    /// The logical sector size of the disk, in bytes.
    pub(crate) sector_size: u32,
    /// Volumes that another table gives another name, by their name in the parent.
    renamed: BTreeMap<String, String>,
    /// The rows, if files were added to those that were given.
    rows: Option<Vec<Row>>,
}

/// The result of checking a draft.
pub(crate) struct Checked {
    /// The volumes that would be planned.
    pub(crate) planned: Vec<String>,
    /// What planning would change besides the edits, each a sentence.
    pub(crate) notes: Vec<String>,
    /// The effects of new identities, if any are given.
    pub(crate) ids: Option<IdsReport>,
}

/// Returns the rows `own`, or those that were given if there are none.
fn own_or<'r>(own: &'r Option<Vec<Row>>, given: &'r [&'r Row]) -> Cow<'r, [&'r Row]> {
    match own {
        Some(own) => Cow::Owned(own.iter().collect()),
        None => Cow::Borrowed(given),
    }
}

/// Returns the rows with the rewritten ones replaced.
fn with_rewritten<'r>(rows: &[&'r Row], rewritten: &'r Rewritten) -> Vec<&'r Row> {
    rows.iter().enumerate().map(|(i, row)| rewritten.get(&i).unwrap_or(row)).collect()
}

/// The parts that make up a draft.
struct Prepared<'n> {
    rewritten: Rewritten,
    new: Cow<'n, NewContents>,
    volumes: Vec<VolumeDraft>,
    arrangement: Arrangement,
    patches: Patches,
    ids: Option<IdsReport>,
    renamed: BTreeMap<String, String>,
    /// The rows, if files were added to those that were given.
    rows: Option<Vec<Row>>,
}

impl<'a> Base<'a> {
    pub(crate) fn new(bench: Bench<'a>, parent: &'a StoredImage) -> Result<Self> {
        let objects = bench.objects()?;
        Self::among(objects, bench, parent)
    }

    /// Like `new`, with the objects of the bench already loaded.
    pub(crate) fn among(objects: Arc<Objects>, bench: Bench<'a>, parent: &'a StoredImage) -> Result<Self> {
        let layout = Arc::new(parent.layout()?);
        let disk = StoredDisk::new(layout.clone(), objects.clone());
        let scan = Scan::new(Arc::new(disk.with_sectors_of(parent.image.table.sector_size)))?;
        let known = Known::new(&layout);
        Ok(Base { parent, bench, rows: parent.manifest()?, objects, scan, layout, known })
    }

    /// Returns the name of the image.
    pub(crate) fn name(&self) -> &str {
        &self.parent.image.name
    }

    /// Returns its files for editing; `time` is the time of the edits.
    pub(crate) fn files(&self, time: Timestamp) -> Result<Files> {
        Files::new(&self.rows, &self.scan, &self.objects, time)
    }

    /// Returns a writer for the objects of drafts.
    pub(crate) fn writer(&self) -> Result<ObjectWriter> {
        self.bench.writer()
    }

    /// Fails if `rows` cannot become a disk of this shape. Writes nothing.
    pub(crate) fn check(
        &self,
        rows: &[&Row],
        new: &NewContents,
        reshape: &Reshape,
        progress: &dyn Progress,
    ) -> Result<Checked> {
        let prepared = self.prepare(rows, new, &[], reshape, progress)?;
        let mut notes = prepared.arrangement.notes;
        for volume in &prepared.volumes {
            let plan = volume.params.plan(&volume.tree).map_err(|e| Error::from(e).within(&volume.name))?;
            notes.extend(plan.notes().iter().map(|note| format!("{}: {note}", volume.name)));
        }
        let planned = prepared.volumes.into_iter().map(|volume| volume.name).collect();
        Ok(Checked { planned, notes, ids: prepared.ids })
    }

    /// Plans the volumes of `rows` that are edited, resized or get new identities, and composes the disk. All content
    /// is in the store or in `new`. Missing objects go to `writer`, which must be finished before the draft is read or
    /// published.
    pub(crate) fn draft(
        &self,
        rows: &[&Row],
        new: &NewContents,
        always: &[String],
        reshape: &Reshape,
        writer: &ObjectWriter,
        progress: &dyn Progress,
    ) -> Result<Draft> {
        let Prepared { rewritten, new, volumes, arrangement, patches, ids, renamed, rows: own_rows } =
            self.prepare(rows, new, always, reshape, progress)?;
        let mut notes = arrangement.notes.clone();
        let contents = ContentLookup { objects: &self.objects, new: &new };
        let keeps = arrangement.keeps.clone();
        let mut splicer = Splicer::new(&self.layout, arrangement.size, keeps, contents, &self.known, writer);
        for VolumeDraft { name, tree, contents, params } in &volumes {
            progress::check(progress)?;
            let extents = match arrangement.partition(name) {
                Some(partition) => vec![VolumeExtent::whole(partition)],
                None => arrangement.moved(&find_volume(&self.scan, name)?.extents),
            };
            let plan = params.plan(tree).map_err(|e| Error::from(e).within(name))?;
            notes.extend(plan.notes().iter().map(|note| format!("{name}: {note}")));
            splicer.volume(&extents, &*plan, contents).map_err(|e| e.within(name))?;
        }
        for (at, bytes) in patches {
            splicer.bytes(at, &bytes)?;
        }
        let layout = Arc::new(splicer.finish()?);
        let rows = &*own_or(&own_rows, rows);
        for id in with_rewritten(rows, &rewritten).iter().filter_map(|row| row.object()) {
            if let Some(content) = new.get(&id) {
                store_new(content, writer, progress)?;
            }
        }
        let planned = volumes.into_iter().map(|volume| volume.name).collect();
        let sector_size = arrangement.table.sector_size;
        Ok(Draft { layout, rewritten, planned, notes, ids, sector_size, renamed, rows: own_rows })
    }

    /// Returns the volumes to plan, with their trees and parameters, and the arrangement of the disk.
    fn prepare<'n>(
        &self,
        rows: &[&Row],
        new: &'n NewContents,
        always: &[String],
        reshape: &Reshape,
        progress: &dyn Progress,
    ) -> Result<Prepared<'n>> {
        let mut always = always.to_vec();
        always.extend(resized(&self.scan, reshape)?);
        let files = |new: &NewContents, time| {
            let rows: Vec<Row> = rows.iter().map(|row| (*row).clone()).collect();
            let mut files = Files::new(&rows, &self.scan, &self.objects, time)?;
            files.new = new.clone();
            Ok(files)
        };
        let mut new = Cow::Borrowed(new);
        let fresh =
            reshape.new_ids.as_ref().map(|ids| Identities::of_volumes(&self.scan, ids)).transpose()?;
        let mut converted =
            converted(&self.scan, reshape, fresh.as_ref(), || files(&new, Timestamp { secs: 0, nanos: 0 }))?;
        let firmware = firmware(&self.scan, reshape, &mut converted, |time| files(&new, time))?;
        let own_rows: Option<Vec<Row>> = firmware.as_ref().map(|firmware| {
            new.to_mut().extend(firmware.new.iter().map(|(id, content)| (*id, content.clone())));
            firmware.rows.clone()
        });
        let rows = &*own_or(&own_rows, rows);
        let resectored = resectored(&self.scan, reshape)?;
        let for_sectors = resectored.as_ref().map_or(&[][..], |new| &new.planned);
        always.extend_from_slice(for_sectors);
        let (mut rewritten, mut left) = (Rewritten::new(), Vec::new());
        if let Some(converted) = converted.as_ref().filter(|new| new.is_other_kind) {
            (rewritten, new) = self.refer_to(converted, rows, new, &mut left)?;
        }
        let mut identities = self.identities(fresh, reshape, converted.as_ref());
        if let Some(identities) = &mut identities {
            let contents = ContentLookup { objects: &self.objects, new: &new };
            let added = firmware.as_ref().and_then(Firmware::added_volume);
            let (again, more) = {
                let rows = with_rewritten(rows, &rewritten);
                identities.rewrite(&rows, &self.scan, added, contents, &self.objects)?
            };
            rewritten.extend(again);
            new.to_mut().extend(more);
            always.extend(identities.volumes().map(str::to_owned));
        }
        let rows = with_rewritten(rows, &rewritten);
        let mut volumes = Vec::new();
        for name in edited_volumes(&self.rows, &rows, &always) {
            progress::check(progress)?;
            let added = match (&firmware, &converted) {
                (Some(firmware), Some(converted)) => {
                    let size = converted.partition(&name).map_or(0, |partition| partition.len);
                    firmware.draft(&name, &rows, size)?
                }
                _ => None,
            };
            let mut volume = match added {
                Some(added) => added,
                None => self.volume(&name, &rows, &new).map_err(|e| e.within(&name))?,
            };
            if let Some(new) = resectored.as_ref().filter(|new| new.planned.contains(&name)) {
                volume.params.set_sector_size(new.size).map_err(|e| Error::from(e).within(&name))?;
            }
            if let Some(identities) = &identities {
                identities.apply(&name, &mut *volume.params);
            }
            volumes.push(volume);
        }
        let (mut arrangement, patches) = shape(
            &self.scan,
            &mut volumes,
            reshape,
            identities.as_ref(),
            resectored.as_ref(),
            converted.as_ref(),
        )?;
        arrangement.notes.extend(left);
        let ids = identities.map(|identities| identities.report);
        let slots = converted.map_or_else(BTreeMap::new, |converted| converted.slots);
        let renamed = slots.iter().map(|(old, new)| (volume_name(*old), volume_name(*new))).collect();
        Ok(Prepared { rewritten, new, volumes, arrangement, patches, ids, renamed, rows: own_rows })
    }

    /// Returns the new identities of the disk: `volumes`, if they are asked for, and those of its table.
    fn identities(
        &self,
        volumes: Option<Identities>,
        reshape: &Reshape,
        converted: Option<&Converted>,
    ) -> Option<Identities> {
        let of_other_kind = converted.filter(|new| new.is_other_kind);
        if volumes.is_none() && of_other_kind.is_none() {
            return None;
        }
        let mut new = volumes.unwrap_or_default();
        match (of_other_kind, &reshape.new_ids) {
            (Some(converted), _) => new.add_table(&converted.changes),
            (None, Some(ids)) => new.name_table(&self.scan.table, ids),
            (None, None) => {}
        }
        new.is_boot_code_new |= converted.is_some_and(|converted| converted.core.is_some());
        Some(new)
    }

    /// Rewrites the configurations of GRUB that name partitions of the old table. Those that cannot be written are in
    /// `left`, each as a sentence.
    fn refer_to<'n>(
        &self,
        converted: &Converted,
        rows: &[&Row],
        mut new: Cow<'n, NewContents>,
        left: &mut Vec<String>,
    ) -> Result<(Rewritten, Cow<'n, NewContents>)> {
        let mut rewritten = Rewritten::new();
        for (number, row) in rows.iter().enumerate() {
            let contents = ContentLookup { objects: &self.objects, new: &new };
            let read = || -> Result<Vec<u8>> {
                let object = row.object().expect("it has content");
                let source = contents.source(&object, &self.objects)?;
                Ok(source.read_vec(0, source.len() as usize)?)
            };
            let is_planned =
                find_volume(&self.scan, &row.volume).is_ok_and(|volume| volume.planned().is_some());
            let Some(text) = converted.grub_config(row, read)? else { continue };
            if is_planned {
                let content = NewContent::of_bytes(text);
                let mut changed = (*row).clone();
                (changed.body, changed.node.size) = (Some(content.body()), content.source.len());
                new.to_mut().insert(content.id, content);
                rewritten.insert(number, changed);
            } else {
                left.push(format!(
                    "{}:{}: names partitions as in the old table, and was not changed because mif cannot write its volume: \
                     what GRUB searches by a UUID it still finds",
                    row.volume,
                    row.path_text()
                ));
            }
        }
        Ok((rewritten, new))
    }

    /// Prepares a volume with the parameters of the original.
    fn volume(&self, name: &str, rows: &[&Row], new: &NewContents) -> Result<VolumeDraft> {
        let volume = find_volume(&self.scan, name)?;
        let original = volume
            .filesystem()
            .ok_or_else(|| Error::unsupported("it has no filesystem that mif can write"))?;
        let params = planner_of(original, Arc::new(self.scan.volume(volume)))?;
        let rows = Rows { volume: name, old: &self.rows, new: rows };
        let (tree, contents) = rows.tree(original, ContentLookup { objects: &self.objects, new })?;
        Ok(VolumeDraft { name: name.to_owned(), tree, contents, params })
    }

    /// Finishes writing the objects of `drafts`, which can then be read here.
    pub(crate) fn finish<'d>(
        &self,
        writer: ObjectWriter,
        drafts: impl IntoIterator<Item = &'d mut Draft>,
    ) -> Result<WriterStats> {
        let layouts = drafts.into_iter().map(|draft| &mut draft.layout);
        self.bench.finish(writer, &self.objects, layouts)
    }

    /// Reads a finished draft of `rows` back as a disk.
    pub(crate) fn read_back(&self, draft: &Draft, rows: &[&Row]) -> Result<Made> {
        let rows = with_rewritten(&own_or(&draft.rows, rows), &draft.rewritten);
        let disk = StoredDisk::new(draft.layout.clone(), self.objects.clone());
        let disk = disk.with_sectors_of(draft.sector_size);
        if draft.renamed.is_empty() {
            return Made::read_back(disk, &rows, &draft.planned);
        }
        let name = |volume: &String| draft.renamed.get(volume).unwrap_or(volume).clone();
        let rows: Vec<Row> =
            rows.iter().map(|row| Row { volume: name(&row.volume), ..(*row).clone() }).collect();
        let planned: Vec<String> = draft.planned.iter().map(name).collect();
        Made::read_back(disk, &rows.iter().collect::<Vec<_>>(), &planned)
    }

    /// Publishes a finished draft of `rows`.
    pub(crate) fn publish(
        &self,
        store: &Store,
        draft: &Draft,
        rows: &[&Row],
        options: &RebuildOptions,
    ) -> Result<Image> {
        let made = self.read_back(draft, rows)?;
        let packages = self.packages(&made)?;
        let provenance = Provenance {
            parent: Some(self.parent.image.id()),
            command: options.command.clone(),
            recipe: options.recipe.clone(),
            source: options.source.clone(),
            target: options.target.clone(),
            decrypted: self.parent.image.provenance.decrypted.clone(),
            ..Provenance::of(&options.operation)
        };
        made.publish(store, &options.name, &packages, provenance)
    }

    /// Returns the packages table for the new rows: the parent's, if nothing it depends on has changed.
    fn packages(&self, made: &Made) -> Result<Vec<u8>> {
        let rows = &made.rows;
        fn told(row: &Row) -> (&str, &[u8], FileType, Option<&[u8]>) {
            (&row.volume, &row.path, row.node.file_type, row.node.link_target.as_deref())
        }
        let same_paths = self.rows.iter().map(told).eq(rows.iter().map(told));
        let databases = |rows| packages::database_rows(rows).map(Row::object);
        if same_paths && databases(&self.rows).eq(databases(rows)) {
            return self.parent.packages_file();
        }
        Ok(packages::table(&rows[..], &self.objects, made.devices())?.0)
    }
}

/// Returns the names of the volumes in which a row was changed, added or removed.
fn edited_volumes(old: &[Row], new: &[&Row], always: &[String]) -> Vec<String> {
    fn by_volume<'r>(rows: impl Iterator<Item = &'r Row>) -> BTreeMap<&'r str, usize> {
        let mut counts = BTreeMap::new();
        for row in rows {
            *counts.entry(row.volume.as_str()).or_insert(0) += 1;
        }
        counts
    }
    let mut old_by_path: HashMap<(&str, &[u8]), &Row> = HashMap::new();
    // A damaged directory may contain a name more than once.
    let mut doubled: HashMap<(&str, &[u8]), Vec<&Row>> = HashMap::new();
    for row in old {
        let path = (&row.volume[..], &row.path[..]);
        if old_by_path.insert(path, row).is_some_and(|before| before != row) {
            doubled.insert(path, Vec::new());
        }
    }
    for row in old {
        if let Some(same) = doubled.get_mut(&(&row.volume[..], &row.path[..])) {
            same.push(row);
        }
    }
    let is_old = |row: &Row| {
        let path = (&row.volume[..], &row.path[..]);
        old_by_path.get(&path) == Some(&row) || doubled.get(&path).is_some_and(|same| same.contains(&row))
    };
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
        if edited.last() != Some(&row.volume) && !is_old(row) {
            edited.push(row.volume.clone());
        }
    }
    edited.sort();
    edited.dedup();
    edited
}
