//! `diff --why`: names what makes two disks with the same files differ, by field: identities, hash seeds, times, the order in
//! which files were created, and what is left in free space.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use mif_formats::fs::listing::Listing;
use mif_formats::fs::{FieldValue, FileId, FileType, Filesystem, Info, Node, Piece};
use mif_formats::mif::manifest::escape;
use mif_formats::partition::{Partition, Table};
use serde::Serialize;

use crate::disk::compare::{WINDOW, compare_bits, read_or_zero};
use crate::disk::scan::{Scan, ScannedVolume};
use crate::disk::volume::{VolumeExtent, VolumeOffset};
use crate::error::Result;
use crate::image::OpenImage;
use crate::ingest::content_ranges;
use crate::notation::time_text;
use crate::store::volume_name;
use crate::task::progress::{self, Progress};

/// Something that differs between two disks, and not because of a file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// Where: `disk`, `partition table`, or a volume.
    pub place: String,
    /// The field, by the name in its specification where it has one.
    pub field: String,
    /// Its values on both disks, if it is one field.
    pub values: Option<[String; 2]>,
    /// The number of paths or bytes, if it is many.
    pub count: Option<u64>,
    /// Some of these paths.
    pub examples: Vec<String>,
}

/// How many paths are named.
const EXAMPLES: usize = 3;

/// The causes, in the order in which they are found.
#[derive(Default)]
struct Causes(Vec<Cause>);

impl Causes {
    /// Adds a field that has one value on each disk, if these differ.
    fn value(&mut self, place: &str, field: &str, a: &str, b: &str) {
        if a != b {
            let values = Some([a.to_owned(), b.to_owned()]);
            let (place, field) = (place.to_owned(), field.to_owned());
            self.0.push(Cause { place, field, values, count: None, examples: Vec::new() });
        }
    }

    fn optional(&mut self, place: &str, field: &str, a: Option<&String>, b: Option<&String>) {
        let text = |value: Option<&String>| value.cloned().unwrap_or_else(|| "none".into());
        self.value(place, field, &text(a), &text(b));
    }

    fn many(&mut self, place: &str, field: &str, paths: &Paths) {
        if paths.count > 0 {
            let (place, field) = (place.to_owned(), field.to_owned());
            let (count, examples) = (Some(paths.count), paths.examples.clone());
            self.0.push(Cause { place, field, values: None, count, examples });
        }
    }
}

/// Paths that differ in a field.
#[derive(Default)]
struct Paths {
    count: u64,
    examples: Vec<String>,
}

impl Paths {
    fn add(&mut self, path: &[u8]) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(escape(path));
        }
    }
}

/// Names what differs between two disks besides the contents of files.
pub(super) fn why(a: &OpenImage, b: &OpenImage, progress: &dyn Progress) -> Result<Vec<Cause>> {
    progress.stage("scanning", 0);
    let scans = [Scan::new(a.disk()?)?, Scan::new(b.disk()?)?];
    let mut causes = Causes::default();
    let sizes = scans.each_ref().map(|scan| scan.disk.len().to_string());
    causes.value("disk", "size", &sizes[0], &sizes[1]);
    tables(&mut causes, [&scans[0].table, &scans[1].table]);
    for first in &scans[0].volumes {
        let Some(second) = scans[1].volumes.iter().find(|volume| volume.name == first.name) else { continue };
        if let (Some(x), Some(y)) = (first.filesystem(), second.filesystem()) {
            volumes(&mut causes, [first, second], [x, y], progress)?;
        }
    }
    bytes(&mut causes, &scans, progress)?;
    Ok(causes.0)
}

fn tables(causes: &mut Causes, [a, b]: [&Table; 2]) {
    let place = "partition table";
    causes.value(place, "kind", &format!("{:?}", a.kind), &format!("{:?}", b.kind));
    causes.optional(place, "disk id", a.id.as_ref(), b.id.as_ref());
    let slots: BTreeSet<u32> =
        a.partitions.iter().chain(&b.partitions).map(|partition| partition.slot).collect();
    for slot in slots {
        let name = volume_name(slot);
        let of = |table: &Table| table.partitions.iter().find(|partition| partition.slot == slot).cloned();
        let (Some(x), Some(y)) = (of(a), of(b)) else {
            let there = |partition: Option<Partition>| if partition.is_some() { "there" } else { "none" };
            causes.value(place, &name, there(of(a)), there(of(b)));
            continue;
        };
        let mut field = |what: &str, x: &str, y: &str| causes.value(place, &format!("{name} {what}"), x, y);
        field("start", &x.start.to_string(), &y.start.to_string());
        field("length", &x.len.to_string(), &y.len.to_string());
        field("type", &x.type_id, &y.type_id);
        field("attributes", &format!("{:#x}", x.attributes), &format!("{:#x}", y.attributes));
        causes.optional(place, &format!("{name} id"), x.id.as_ref(), y.id.as_ref());
        causes.optional(place, &format!("{name} name"), x.name.as_ref(), y.name.as_ref());
    }
}

fn volumes(
    causes: &mut Causes,
    [first, second]: [&ScannedVolume; 2],
    [x, y]: [&dyn Filesystem; 2],
    progress: &dyn Progress,
) -> Result<()> {
    let place = &first.name;
    let infos: [&Info; 2] = [x.info(), y.info()];
    let [i, j] = infos;
    causes.value(place, "filesystem", &i.kind, &j.kind);
    causes.optional(place, "UUID", i.uuid.as_ref(), j.uuid.as_ref());
    causes.optional(place, "label", i.label.as_ref(), j.label.as_ref());
    causes.value(place, "block size", &i.block_size.to_string(), &j.block_size.to_string());
    causes.value(place, "filesystem size", &i.size.to_string(), &j.size.to_string());
    causes.value(place, "features", &i.features.join(" "), &j.features.join(" "));
    let fields = [x.variable_fields()?, y.variable_fields()?];
    for field in &fields[0] {
        let Some(other) = fields[1].iter().find(|other| other.name == field.name) else { continue };
        let text = |value: &FieldValue| match value {
            FieldValue::Time(time) => time_text(*time),
            FieldValue::Text(text) => text.clone(),
        };
        causes.value(place, field.name, &text(&field.value), &text(&other.value));
    }
    let mut ignored = Vec::new();
    let (Some(a), Some(b)) = (first.list(&mut ignored)?, second.list(&mut ignored)?) else { return Ok(()) };
    files(causes, place, [&a, &b], [x, y], progress)
}

/// A path, and the name of a stream of it.
type Key = (Vec<u8>, Option<Box<[u8]>>);

/// The fields of a file's metadata that are compared, by name.
type NodeField = (&'static str, fn(&Node, &Node) -> bool);

const NODE_FIELDS: &[NodeField] = &[
    ("mtime", |a, b| a.mtime != b.mtime),
    ("ctime", |a, b| a.ctime != b.ctime),
    ("atime", |a, b| a.atime != b.atime),
    ("crtime", |a, b| a.crtime != b.crtime),
    ("inode number", |a, b| a.inode != b.inode),
    ("generation", |a, b| a.generation != b.generation),
    ("mode", |a, b| a.mode != b.mode),
    ("owner", |a, b| (a.uid, a.gid) != (b.uid, b.gid)),
    ("flags", |a, b| a.flags != b.flags),
    ("extended attributes", |a, b| a.xattrs != b.xattrs),
    ("size of the directory", |a, b| a.file_type == FileType::Dir && a.size != b.size),
];

/// Compares the metadata of files that both volumes have, their places, and the order of directories.
fn files(
    causes: &mut Causes,
    place: &str,
    [a, b]: [&Listing; 2],
    [x, y]: [&dyn Filesystem; 2],
    progress: &dyn Progress,
) -> Result<()> {
    let key = |listing: &Listing| -> BTreeMap<Key, FileId> {
        listing.entries.iter().map(|entry| ((entry.path.clone(), entry.stream.clone()), entry.file)).collect()
    };
    let (left, right) = (key(a), key(b));
    let mut fields: Vec<Paths> = NODE_FIELDS.iter().map(|_| Paths::default()).collect();
    let [mut moved, mut order] = [(); 2].map(|()| Paths::default());
    let mut only = [(); 2].map(|()| Paths::default());
    for (name, file) in &left {
        progress::check(progress)?;
        let Some(other) = right.get(name) else {
            only[0].add(&name.0);
            continue;
        };
        let (m, n) = (&a.nodes[*file], &b.nodes[*other]);
        if m.file_type != n.file_type {
            continue;
        }
        for ((_, differs), paths) in NODE_FIELDS.iter().zip(&mut fields) {
            if differs(m, n) {
                paths.add(&name.0);
            }
        }
        let handles = (a.nodes.handle(*file), b.nodes.handle(*other));
        if m.file_type == FileType::Dir {
            let names = |fs: &dyn Filesystem, id| -> Vec<Vec<u8>> {
                let entries = fs.read_dir(id, &mut |_| {}).unwrap_or_default();
                entries.into_iter().map(|entry| entry.name).collect()
            };
            if is_reordered(&names(x, handles.0), &names(y, handles.1)) {
                order.add(&name.0);
            }
        } else if m.file_type == FileType::File {
            let places = |fs: &dyn Filesystem, id| -> Vec<Option<u64>> {
                let pieces = fs.content(id).map(|content| content.pieces).unwrap_or_default();
                let at = |piece: Piece| match piece {
                    Piece::Volume { offset, .. } => Some(offset),
                    Piece::Encoded(encoded) => encoded.runs.first().map(|run| run.start),
                    Piece::Zero { .. } | Piece::Bytes(_) => None,
                };
                pieces.into_iter().map(at).collect()
            };
            if m.size == n.size && places(x, handles.0) != places(y, handles.1) {
                moved.add(&name.0);
            }
        }
    }
    for name in right.keys().filter(|name| !left.contains_key(*name)) {
        only[1].add(&name.0);
    }
    causes.many(place, "only on the first disk", &only[0]);
    causes.many(place, "only on the second disk", &only[1]);
    for ((field, _), paths) in NODE_FIELDS.iter().zip(&fields) {
        causes.many(place, field, paths);
    }
    causes.many(place, "order of directory entries", &order);
    causes.many(place, "place of the content on the volume", &moved);
    Ok(())
}

/// Returns true if the names that are in both lists have another order.
fn is_reordered(a: &[Vec<u8>], b: &[Vec<u8>]) -> bool {
    let (left, right): (BTreeSet<_>, BTreeSet<_>) = (a.iter().collect(), b.iter().collect());
    let a = a.iter().filter(|name| right.contains(name));
    let b = b.iter().filter(|name| left.contains(name));
    a.cmp(b) != Ordering::Equal
}

/// Counts the bytes that differ, by what they are on the second disk.
fn bytes(causes: &mut Causes, scans: &[Scan; 2], progress: &dyn Progress) -> Result<()> {
    let [a, b] = [&scans[0].disk, &scans[1].disk];
    let difference = compare_bits(&**a, &**b, "comparing", progress)?;
    let (content, _) = content_ranges(&scans[1])?;
    // Bytes by place, and by what they are there.
    let mut counts: BTreeMap<(usize, &'static str), u64> = BTreeMap::new();
    let (mut x, mut y) = (vec![0; WINDOW as usize], vec![0; WINDOW as usize]);
    for &start in &difference.windows {
        progress::check(progress)?;
        let len = (a.len().max(b.len()) - start).min(WINDOW);
        read_or_zero(&**a, start, &mut x[..len as usize])?;
        read_or_zero(&**b, start, &mut y[..len as usize])?;
        let differing = |range: &Range<u64>| {
            let range = (range.start - start) as usize..(range.end - start) as usize;
            x[range.clone()].iter().zip(&y[range]).filter(|(x, y)| x != y).count() as u64
        };
        let window = start..start + len;
        let mut outside = differing(&window);
        for (number, volume) in scans[1].volumes.iter().enumerate() {
            // What holds logical volumes counts as these.
            if volume.filesystem().is_none() && is_holder(volume, &scans[1].volumes[number + 1..]) {
                continue;
            }
            for extent in &volume.extents {
                let (here, base) = on_disk(extent, &window);
                if here.is_empty() {
                    continue;
                }
                let all = differing(&here);
                outside = outside.saturating_sub(all);
                let first = content.partition_point(|range| range.end <= here.start);
                let files = content[first..].iter().take_while(|range| range.start < here.end);
                let in_files: u64 = files
                    .map(|range| differing(&(range.start.max(here.start)..range.end.min(here.end))))
                    .sum();
                let in_volume = VolumeOffset(here.start - base.0 + base.1);
                let wanted = in_volume.0..in_volume.0 + (here.end - here.start);
                let free = match volume.filesystem() {
                    Some(fs) => free_in(fs, wanted)?,
                    None => None,
                };
                let shift = |range: &Range<u64>| {
                    let at = |byte: u64| here.start + (byte - in_volume.0);
                    at(range.start)..at(range.end)
                };
                let in_free: u64 = free.iter().flatten().map(|range| differing(&shift(range))).sum();
                let rest = all.saturating_sub(in_files).saturating_sub(in_free);
                let what = match (volume.filesystem().is_some(), free.is_some()) {
                    (true, true) => "bytes of metadata",
                    (true, false) => "bytes of metadata and free space",
                    (false, _) => "bytes",
                };
                for (what, count) in
                    [("bytes of file contents", in_files), ("bytes in free space", in_free), (what, rest)]
                {
                    *counts.entry((number, what)).or_default() += count;
                }
            }
        }
        *counts.entry((usize::MAX, "bytes outside all volumes")).or_default() += outside;
    }
    for ((volume, what), count) in counts.into_iter().filter(|(_, count)| *count > 0) {
        let place = scans[1].volumes.get(volume).map_or("disk", |volume| &volume.name).to_owned();
        let (field, count) = (what.to_owned(), Some(count));
        causes.0.push(Cause { place, field, values: None, count, examples: Vec::new() });
    }
    Ok(())
}

/// Returns the parts of a range of a volume that are free, or after the end of the filesystem.
fn free_in(fs: &dyn Filesystem, wanted: Range<u64>) -> Result<Option<Vec<Range<u64>>>> {
    let end = fs.info().size.clamp(wanted.start, wanted.end);
    let mut free = fs.free_in(&(wanted.start..end))?;
    if let Some(free) = &mut free {
        free.push(end..wanted.end);
    }
    Ok(free)
}

/// Returns true if other volumes lie in a volume.
fn is_holder(volume: &ScannedVolume, others: &[ScannedVolume]) -> bool {
    let holds = |outer: &VolumeExtent, inner: &VolumeExtent| {
        outer.disk <= inner.disk && inner.disk.0 < outer.disk.0.saturating_add(outer.len)
    };
    others
        .iter()
        .flat_map(|other| &other.extents)
        .any(|inner| volume.extents.iter().any(|outer| holds(outer, inner)))
}

/// Returns the part of a window of the disk that an extent covers, and where the extent starts on the disk and the volume.
fn on_disk(extent: &VolumeExtent, window: &Range<u64>) -> (Range<u64>, (u64, u64)) {
    let (start, end) = (extent.disk.0, extent.disk.0.saturating_add(extent.len));
    (start.max(window.start)..end.min(window.end).max(start.max(window.start)), (start, extent.volume.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_only_one_directory_has_do_not_change_the_order() {
        let names = |text: &str| -> Vec<Vec<u8>> { text.bytes().map(|byte| vec![byte]).collect() };
        assert!(!is_reordered(&names("axbc"), &names("abyc")));
        assert!(is_reordered(&names("ab"), &names("ba")));
        assert!(!is_reordered(&names(""), &names("a")));
    }
}
