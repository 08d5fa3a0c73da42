//! The part of an image's tree that a few paths need, read from those row groups of a large manifest that can have them.
//!
//! Whatever is asked of the whole tree to resolve these paths is asked of [`Partial`] first, which remembers the rows that it
//! found. A tree of these rows gives the same answers.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use mif_formats::Source;
use mif_formats::fs::FileType;
use mif_formats::mif::manifest::columns::{ChunkReader, Column, Columns, Group};
use mif_formats::mif::manifest::{Row, escape, read_rows};

use super::mounts::{Devices, Elsewhere, Root, View};
use super::path::{Paths, Place, VolumePath, resolve};
use super::roots::Volumes;
use super::subvolumes::Subvolumes;
use super::view::{Contents, MAX_FSTAB};
use crate::error::Result;
use crate::store::Objects;

/// The maximum number of rows that are looked up one by one.
const MAX_ROWS: usize = 2048;

/// Returns rows of an image that suffice to resolve these paths and, with `entries`, to list the directories there; in the
/// order of the manifest. Returns `None` if only all rows tell: then nothing is known.
pub(crate) fn rows_for<R: ChunkReader + 'static>(
    columns: &Columns<R>,
    objects: &Arc<Objects>,
    devices: Devices<'_>,
    wanted: &[VolumePath],
    entries: bool,
) -> Option<Vec<Row>> {
    // Paths of streams and members have colons, and subvolumes are found by looking at all rows.
    let is_plain = |group: &Group<'_>| {
        [Column::Stream, Column::Member, Column::Subvolume].into_iter().all(|column| group.all_null(column))
    };
    let groups: Vec<Group<'_>> = columns.groups().collect();
    if !groups.iter().all(is_plain) {
        return None;
    }
    let partial = Partial::new(&groups, devices.ignoring_case());
    let found = partial.find_all(objects, devices, wanted, entries);
    // What failed is told by reading all rows.
    found.ok().flatten().filter(|()| !partial.failed.get())?;
    Some(partial.into_rows())
}

/// The rows of a manifest that were asked for.
struct Partial<'g> {
    groups: &'g [Group<'g>],
    ignoring_case: Vec<String>,
    /// The paths of each group that was looked into.
    names: Vec<OnceCell<Names>>,
    /// The rows that were found, with their numbers.
    rows: Box<[OnceCell<(usize, Row)>]>,
    /// The place of each of them in `rows`, by their numbers.
    places: RefCell<BTreeMap<usize, usize>>,
    /// Rows that are listed, but were not asked for one by one.
    listed: RefCell<BTreeMap<usize, Row>>,
    /// True if something could not be read or decided.
    failed: Cell<bool>,
}

/// The volumes and paths of the rows of a group.
struct Names {
    /// All paths, one after the other, and the end of each.
    text: Vec<u8>,
    ends: Vec<usize>,
    /// The volumes, each with the number of the row after its last one.
    volumes: Vec<(String, usize)>,
}

impl Names {
    fn read(group: &Group<'_>) -> mif_formats::Result<Self> {
        let mut names = Names { text: Vec::new(), ends: Vec::with_capacity(group.rows), volumes: Vec::new() };
        group.each_text(Column::Path, |path| {
            names.text.extend_from_slice(path);
            names.ends.push(names.text.len());
        })?;
        let mut row = 0;
        group.each_text(Column::Volume, |volume| {
            row += 1;
            let volume = String::from_utf8_lossy(volume);
            match names.volumes.last_mut() {
                Some((last, end)) if *last == volume => *end = row,
                _ => names.volumes.push((volume.into_owned(), row)),
            }
        })?;
        Ok(names)
    }

    /// Returns the paths of a volume's rows, with the rows' numbers in the group.
    fn of<'n>(&'n self, volume: &'n str) -> impl DoubleEndedIterator<Item = (usize, &'n [u8])> {
        let starts = std::iter::once(0).chain(self.volumes.iter().map(|(_, end)| *end));
        let runs: Vec<_> = starts.zip(&self.volumes).filter(|(_, (name, _))| name == volume).collect();
        let rows = runs.into_iter().flat_map(|(start, (_, end))| start..*end);
        rows.map(|row| {
            (row, &self.text[row.checked_sub(1).map_or(0, |last| self.ends[last])..self.ends[row]])
        })
    }
}

impl<'g> Partial<'g> {
    fn new(groups: &'g [Group<'g>], ignoring_case: Vec<String>) -> Self {
        Partial {
            groups,
            ignoring_case,
            names: groups.iter().map(|_| OnceCell::new()).collect(),
            rows: (0..MAX_ROWS).map(|_| OnceCell::new()).collect(),
            places: RefCell::default(),
            listed: RefCell::default(),
            failed: Cell::new(false),
        }
    }

    /// Resolves the paths as a tree does, so that the rows for that are found.
    fn find_all(
        &self,
        objects: &Arc<Objects>,
        devices: Devices<'_>,
        wanted: &[VolumePath],
        entries: bool,
    ) -> Result<Option<()>> {
        let Some(volumes) = self.volumes() else { return Ok(None) };
        let names: Vec<&str> = volumes.iter().map(String::as_str).collect();
        let subvolumes = Subvolumes::of(std::iter::empty());
        let volumes = Volumes { paths: self, names: &names, devices, subvolumes: &subvolumes };
        let roots =
            volumes.roots(&mut Vec::new(), &|place, _| Ok(self.fstab(place, objects).unwrap_or(None)))?;
        for path in wanted {
            let place = match (&path.volume, roots.first()) {
                (Some(volume), _) => resolve(self, volume, &path.path, true)?,
                (None, Some(root)) => {
                    let view = View { paths: self, root, elsewhere: Elsewhere::Beneath };
                    resolve(&view, root.volume(), &path.path, true)?
                }
                (None, None) => return Ok(None),
            };
            let Some(row) = self.row(&place.volume, &place.path) else { return Ok(None) };
            if entries && row.node.file_type == FileType::Dir {
                self.list(&place);
            }
        }
        Ok(Some(()))
    }

    /// Reads the start of the fstab in a directory, as a tree does.
    fn fstab(&self, place: &Place, objects: &Arc<Objects>) -> Result<Option<Vec<u8>>> {
        let root = Root { place: place.clone(), mounts: Vec::new() };
        let view = View { paths: self, root: &root, elsewhere: Elsewhere::Beneath };
        let found = resolve(&view, root.volume(), b"/etc/fstab", true)?;
        let row = self.row(&found.volume, &found.path);
        let Some(id) = row.filter(|row| row.node.file_type == FileType::File).and_then(Row::object) else {
            return Ok(None);
        };
        let content = Contents::Stored { id, objects: objects.clone() }.open()?;
        Ok(Some(content.read_vec(0, content.len().min(MAX_FSTAB) as usize)?))
    }

    /// Returns the volumes that have rows, in order, and takes a row of each.
    fn volumes(&self) -> Option<Vec<String>> {
        let mut volumes: Vec<String> = Vec::new();
        for (number, group) in self.groups.iter().enumerate() {
            let add = |volumes: &mut Vec<String>, volume: &str, row| {
                if volumes.last().is_none_or(|last| last != volume) {
                    volumes.push(volume.to_owned());
                    self.take(number, row);
                }
            };
            match group.bounds(Column::Volume) {
                // Longer names may be cut.
                Some((low, high)) if low == high && low.len() < 32 => {
                    add(&mut volumes, std::str::from_utf8(low).ok()?, 0);
                }
                _ => {
                    let mut start = 0;
                    for (volume, end) in &self.names(number)?.volumes {
                        add(&mut volumes, volume, start);
                        start = *end;
                    }
                }
            }
        }
        Some(volumes)
    }

    fn fail<T>(&self) -> Option<T> {
        self.failed.set(true);
        None
    }

    fn names(&self, group: usize) -> Option<&Names> {
        if self.names[group].get().is_none() {
            let Ok(names) = Names::read(&self.groups[group]) else { return self.fail() };
            let _ = self.names[group].set(names);
        }
        self.names[group].get()
    }

    /// Returns the groups, in order, that may have paths of a volume with this text, or that begin with it.
    fn groups_of(&self, volume: &str, text: &[u8], is_prefix: bool) -> Vec<usize> {
        let may_have = |(low, high): (&[u8], &[u8])| {
            text <= high && low <= text || text.starts_with(high) || is_prefix && low.starts_with(text)
        };
        let may_be_of = |(low, high): (&[u8], &[u8])| {
            low <= volume.as_bytes() && (volume.as_bytes() <= high || volume.as_bytes().starts_with(high))
        };
        let has = |number: &usize| {
            let group = &self.groups[*number];
            group.bounds(Column::Volume).is_none_or(may_be_of)
                && (text.is_empty() || group.bounds(Column::Path).is_none_or(may_have))
        };
        (0..self.groups.len()).filter(has).collect()
    }

    /// Reads a row.
    fn take(&self, group: usize, row: usize) -> Option<&Row> {
        let number = self.groups[group].start + row;
        let known = self.places.borrow().get(&number).copied();
        let place = match known {
            Some(place) => place,
            None => {
                let place = self.places.borrow().len();
                if place >= self.rows.len() {
                    return self.fail();
                }
                let Ok(mut rows) = read_rows(&self.groups[group], &[row]) else { return self.fail() };
                let _ = self.rows[place].set((number, rows.pop()?));
                self.places.borrow_mut().insert(number, place);
                place
            }
        };
        self.rows[place].get().map(|(_, row)| row)
    }

    /// Reads the rows directly in a directory.
    fn list(&self, place: &Place) {
        let prefix = prefix(place);
        let text = escape(&prefix);
        for group in self.groups_of(&place.volume, text.as_bytes(), true) {
            let Some(names) = self.names(group) else { return };
            let is_entry = |path: &[u8]| {
                path.strip_prefix(text.as_bytes())
                    .is_some_and(|name| !name.is_empty() && !name.contains(&b'/'))
            };
            let rows: Vec<usize> =
                names.of(&place.volume).filter(|(_, path)| is_entry(path)).map(|(row, _)| row).collect();
            let Ok(read) = read_rows(&self.groups[group], &rows) else {
                self.failed.set(true);
                return;
            };
            let start = self.groups[group].start;
            self.listed.borrow_mut().extend(rows.into_iter().map(|row| start + row).zip(read));
        }
    }

    fn into_rows(self) -> Vec<Row> {
        let mut rows = self.listed.into_inner();
        rows.extend(self.rows.into_vec().into_iter().filter_map(OnceCell::into_inner));
        rows.into_values().collect()
    }
}

/// Returns the beginning of the paths in a directory.
fn prefix(place: &Place) -> Vec<u8> {
    let mut path = place.join(b"/.").path;
    path.pop();
    path
}

impl Paths for Partial<'_> {
    fn row(&self, volume: &str, path: &[u8]) -> Option<&Row> {
        let text = escape(path);
        // If several rows have the same path, the last counts.
        for group in self.groups_of(volume, text.as_bytes(), false).into_iter().rev() {
            let same = self.names(group)?.of(volume).rev().filter(|(_, name)| *name == text.as_bytes());
            for (number, _) in same {
                let row = self.take(group, number)?;
                if row.path == path {
                    return Some(row);
                }
            }
        }
        None
    }

    fn row_ignoring_case(&self, volume: &str, path: &[u8]) -> Option<&Row> {
        if !self.ignoring_case.iter().any(|name| name == volume) {
            return None;
        }
        // Of such names a row's text says too little.
        let Some(wanted) = std::str::from_utf8(path).ok().filter(|text| !text.contains('\u{fffd}')) else {
            return self.fail();
        };
        let wanted = wanted.to_lowercase();
        let lower = |path: &[u8]| String::from_utf8_lossy(path).to_lowercase();
        for group in self.groups_of(volume, b"", false) {
            let may_be = |name: &[u8]| name.len() == wanted.len() || !name.is_ascii() || !wanted.is_ascii();
            for (number, name) in self.names(group)?.of(volume) {
                if may_be(name) && lower(name) == wanted {
                    let row = self.take(group, number)?;
                    if lower(&row.path) == wanted {
                        return Some(row);
                    }
                }
            }
        }
        None
    }

    fn has_entries(&self, place: &Place) -> bool {
        let prefix = prefix(place);
        let text = escape(&prefix);
        for group in self.groups_of(&place.volume, text.as_bytes(), true) {
            let Some(names) = self.names(group) else { return false };
            let below = names.of(&place.volume).filter(|(_, path)| path.starts_with(text.as_bytes()));
            for (number, _) in below {
                let row = self.take(group, number);
                if row.is_some_and(|row| row.path != b"/" && row.path.starts_with(&prefix)) {
                    return true;
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use mif_formats::fs::{Info, Node};
    use mif_formats::mif::manifest::write;
    use mif_formats::partition::Table;

    use super::*;
    use crate::image::stored_tree;
    use crate::store::{FilesystemRecord, Index, Memory, VolumeRecord};
    use crate::tree::rows::compare;
    use crate::tree::view::Tree;

    fn row(volume: &str, path: &[u8]) -> Row {
        let (path, target) = match path.iter().position(|b| *b == b'>') {
            Some(at) => (&path[..at], Some(path[at + 1..].to_vec())),
            None => (path, None),
        };
        let file_type = match (path.strip_suffix(b"/"), &target) {
            (Some(_), _) => FileType::Dir,
            (None, Some(_)) => FileType::Symlink,
            (None, None) => FileType::File,
        };
        let path = path.strip_suffix(b"/").filter(|path| !path.is_empty()).unwrap_or(path);
        Row::new(volume, path.to_vec(), None, Node { link_target: target, ..Node::bare(file_type) })
    }

    #[test]
    fn paths_lead_to_the_same_rows_as_in_the_whole_tree() {
        let system: [&[u8]; 14] = [
            b"/",
            b"/etc/",
            b"/etc/passwd",
            b"/etc/os-release>../usr/lib/os-release",
            b"/usr/",
            b"/usr/lib/",
            b"/usr/lib/os-release",
            b"/lib>usr/lib",
            b"/home/",
            b"/home/a/",
            b"/home/a/x\xff",
            b"/home/a/x\\xff",
            b"/loop>loop",
            b"/up>/home/../lib",
        ];
        let esp: [&[u8]; 4] = [b"/", b"/EFI/", b"/EFI/BOOT/", b"/EFI/BOOT/BOOTX64.EFI"];
        let mut rows: Vec<Row> = system.iter().map(|path| row("p1", path)).collect();
        rows.extend((0..500).map(|i| row("p1", format!("/usr/lib/{i}").as_bytes())));
        rows.extend(esp.iter().map(|path| row("p15", path)));
        rows.sort_by(compare);
        let record = |volume: &str, kind: &str| VolumeRecord {
            luks: None,
            volume: volume.into(),
            content: FilesystemRecord::Filesystem(Info {
                kind: kind.into(),
                label: None,
                uuid: None,
                block_size: 4096,
                size: 0,
                free: None,
                features: Vec::new(),
                default_subvolume: None,
                warnings: Vec::new(),
            }),
        };
        let (table, volumes) = (Table::none(), [record("p1", "ext4"), record("p15", "fat32")]);
        let devices = Devices { table: &table, volumes: &volumes };
        let objects = Arc::new(Objects::new(Arc::new(Memory::new()), Arc::new(Index::default())));
        let mut file = Vec::new();
        write(&mut file, &rows).unwrap();
        let columns = Columns::open(file.into()).unwrap();
        let whole = stored_tree(rows, &objects, devices);
        let entries = |tree: &Tree, folder: &Row| -> Vec<Row> {
            let prefix = prefix(&Place { volume: folder.volume.clone(), path: folder.path.clone() });
            let is_entry = |row: &&Row| {
                let name = row.path.strip_prefix(&prefix[..]).unwrap_or_default();
                row.volume == folder.volume && !name.is_empty() && !name.contains(&b'/')
            };
            tree.rows().iter().filter(is_entry).cloned().collect()
        };
        let mut found = 0;
        for text in [
            "/",
            "/etc/passwd",
            "/etc/os-release",
            "/lib",
            "/lib/7",
            "/lib/no",
            "/up/499",
            "/loop",
            "/home/a",
            "/home/../etc",
            "/etc/passwd/x",
            "/etc/PASSWD",
            "p1:/lib/33",
            "p15:/efi/boot",
            "p15:/efi/Boot/bootx64.efi",
            "p15:/",
            "p2:/x",
            "/home/a/x\\xff",
            "//usr/./lib/",
            "p15:/efi/none",
        ] {
            let path = VolumePath::parse(text.as_bytes());
            let paths = [path.clone(), VolumePath { volume: None, path: b"/home/a/x\xff".to_vec() }];
            let Some(some) = rows_for(&columns, &objects, devices, &paths, true) else {
                assert!(whole.find(&path, true).is_err(), "{text}");
                continue;
            };
            let some = stored_tree(some, &objects, devices);
            let place = |tree: &Tree, path| tree.rows()[tree.find(path, true).unwrap()].clone();
            let there = place(&whole, &path);
            assert_eq!(place(&some, &path), there, "{text}");
            assert_eq!(place(&some, &paths[1]), place(&whole, &paths[1]));
            assert_eq!(entries(&some, &there), entries(&whole, &there), "{text}");
            assert_eq!((some.roots(), some.volumes()), (whole.roots(), whole.volumes()));
            assert!(text.contains("lib") || some.rows().len() < 30, "{text}: {}", some.rows().len());
            found += 1;
        }
        assert_eq!(found, 14);
    }
}
