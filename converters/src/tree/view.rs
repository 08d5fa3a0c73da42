//! The files of an image by volume and path, whether the image is stored or on a disk.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use mif_formats::Source;
use mif_formats::fs::FileType;
use mif_formats::mif::manifest::{Row, escape};

pub(crate) use super::content::Contents;
use super::mounts::{Devices, Elsewhere, Root, View};
use super::path::{Paths, Place, VolumePath, missing, resolve};
use super::roots::Volumes;
use super::subvolumes::Subvolumes;
use crate::error::{Error, Result};

/// How many bytes of an fstab are read at most.
pub(super) const MAX_FSTAB: u64 = 1 << 20;

/// All files of an image.
pub struct Tree {
    rows: Vec<Row>,
    contents: Vec<Option<Contents>>,
    /// The numbers of rows by volume and full path; if several rows have the same, the last.
    by_path: HashTable<usize>,
    hasher: RandomState,
    /// The volumes that have rows, in order.
    volumes: Vec<String>,
    /// The root filesystems with the mounts of their fstabs. The first is the default for paths.
    roots: Vec<Root>,
    /// The volumes on which names do not differ by case.
    ignoring_case: Vec<String>,
    /// Encrypted volumes, with what their headers say.
    encrypted: Vec<(String, String)>,
    /// Warnings about what could not be read, as sentences.
    pub complaints: Vec<String>,
}

impl Paths for Tree {
    fn row(&self, volume: &str, path: &[u8]) -> Option<&Row> {
        self.get(volume, path).map(|number| &self.rows[number])
    }

    fn row_ignoring_case(&self, volume: &str, path: &[u8]) -> Option<&Row> {
        if !self.ignoring_case.iter().any(|name| name == volume) {
            return None;
        }
        let wanted = String::from_utf8_lossy(path).to_lowercase();
        let is_it = |row: &&Row| {
            let path = row.full_path();
            let may_be = path.len() == wanted.len() || !path.is_ascii() || !wanted.is_ascii();
            may_be && String::from_utf8_lossy(&path).to_lowercase() == wanted
        };
        let start = self.rows.partition_point(|row| *row.volume < *volume);
        self.rows[start..].iter().take_while(|row| row.volume == volume).find(is_it)
    }

    fn has_entries(&self, place: &Place) -> bool {
        let prefix = place.join(b"/.").path;
        let prefix = &prefix[..prefix.len() - 1];
        let text = escape(prefix);
        // Rows are sorted by volume and path.
        let start =
            self.rows.partition_point(|row| (&row.volume, &*row.path_text()) < (&place.volume, &text));
        let mut next = self.rows[start..].iter().take_while(|row| row.volume == place.volume);
        next.find(|row| row.path != b"/").is_some_and(|row| row.path.starts_with(prefix))
    }
}

impl Tree {
    pub(crate) fn new(rows: Vec<Row>, contents: Vec<Option<Contents>>, complaints: Vec<String>) -> Self {
        let hasher = RandomState::new();
        let hash = |row: &Row| hasher.hash_one((&row.volume[..], &*row.full_path()));
        let mut by_path = HashTable::with_capacity(rows.len());
        for (i, row) in rows.iter().enumerate() {
            let same = |other: &usize| {
                rows[*other].full_path() == row.full_path() && rows[*other].volume == row.volume
            };
            by_path.entry(hash(row), same, |other| hash(&rows[*other])).insert(i);
        }
        let mut volumes: Vec<&String> = rows.iter().map(|row| &row.volume).collect();
        volumes.dedup();
        let volumes = volumes.into_iter().cloned().collect();
        Tree {
            rows,
            contents,
            by_path,
            hasher,
            volumes,
            roots: Vec::new(),
            ignoring_case: Vec::new(),
            encrypted: Vec::new(),
            complaints,
        }
    }

    /// Finds the root filesystems and the mounts of their fstabs.
    pub(crate) fn with_roots(mut self, devices: Devices<'_>) -> Self {
        self.ignoring_case = devices.ignoring_case();
        self.encrypted = devices.encrypted();
        let (names, subvolumes) = (self.volumes(), Subvolumes::of(self.rows.iter()));
        let volumes = Volumes { paths: &self, names: &names, devices, subvolumes: &subvolumes };
        let mut complaints = Vec::new();
        let found = volumes.roots(&mut complaints, &|place, complaints| {
            let fstab = self.fstab(place);
            Ok(fstab.unwrap_or_else(|error| {
                let Place { volume, path } = place.join(b"/etc/fstab");
                complaints.push(format!("{volume}:{}: {error}", escape(&path)));
                None
            }))
        });
        match found {
            Ok(roots) => self.roots = roots,
            Err(error) => complaints.push(error.to_string()),
        }
        self.complaints.append(&mut complaints);
        self
    }

    /// Reads the start of the fstab in a directory; returns `None` if it has none.
    fn fstab(&self, place: &Place) -> Result<Option<Vec<u8>>> {
        let root = Root { place: place.clone(), mounts: Vec::new() };
        let Ok(row) = self.find_in(&root, b"/etc/fstab", true) else { return Ok(None) };
        if self.rows[row].node.file_type != FileType::File {
            return Ok(None);
        }
        let content = self.content(row)?;
        Ok(Some(content.read_vec(0, content.len().min(MAX_FSTAB) as usize)?))
    }

    /// Returns the root filesystems with the mounts of their fstabs. The first is the default for paths. An image has
    /// several, for example, if its system is updated on a second volume.
    pub(crate) fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// Returns the row number of a path as the system of a root sees it, across its mounts.
    pub(crate) fn find_in(&self, root: &Root, path: &[u8], follow: bool) -> Result<usize> {
        let view = View { paths: self, root, elsewhere: Elsewhere::Beneath };
        let place = resolve(&view, root.volume(), path, follow)?;
        self.get(&place.volume, &place.path).ok_or_else(|| missing(&place.volume, &place.path))
    }

    /// Returns all rows, by volume and path, and warnings about parts that could not be read.
    pub(crate) fn into_rows(self) -> (Vec<Row>, Vec<String>) {
        (self.rows, self.complaints)
    }

    /// Returns all rows, by volume and path.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Returns the volumes that have files, in order.
    #[must_use]
    pub fn volumes(&self) -> Vec<&str> {
        self.volumes.iter().map(String::as_str).collect()
    }

    /// Returns the volume with the root filesystem: the one that looks like it, or else the only one.
    #[must_use]
    pub fn root_volume(&self) -> Option<&str> {
        self.roots.first().map(Root::volume)
    }

    /// Returns the row number of a full path, without following symlinks.
    #[must_use]
    pub fn get(&self, volume: &str, path: &[u8]) -> Option<usize> {
        let same = |i: &usize| *self.rows[*i].full_path() == *path && self.rows[*i].volume == volume;
        self.by_path.find(self.hasher.hash_one((volume, path)), same).copied()
    }

    /// Returns the row number of a path as the user writes it. Without a volume, the path is resolved as the image's
    /// system does, across its mounts; with one, within that volume. Symlinks on the way are followed, and one at the
    /// end if `follow`.
    pub fn find(&self, path: &VolumePath, follow: bool) -> Result<usize> {
        let volume = match &path.volume {
            Some(volume) if self.volumes().contains(&volume.as_str()) => volume.as_str(),
            Some(volume) => {
                return Err(Error::input(format!("{volume}: no readable volume of that name"))
                    .advise(format!("This image has {}", self.volumes_text())));
            }
            None => {
                if let Some(root) = self.roots.first() {
                    return self.find_in(root, &path.path, follow);
                }
                return Err(Error::input(format!("{}: cannot find the root filesystem", escape(&path.path)))
                    .advise(format!(
                        "Name the volume in the path, as in p1:/etc. This image has {}",
                        self.volumes_text()
                    )));
            }
        };
        let place = resolve(self, volume, &path.path, follow)?;
        self.get(&place.volume, &place.path).ok_or_else(|| missing(&place.volume, &place.path))
    }

    fn volumes_text(&self) -> String {
        let volumes: Vec<String> = self.volumes().iter().map(|v| format!("{v}:/")).collect();
        let text =
            if volumes.is_empty() { "no volumes that mif can read".to_owned() } else { volumes.join(", ") };
        match &self.encrypted_text()[..] {
            "" => text,
            encrypted => format!("{text}. {encrypted}"),
        }
    }

    /// Returns a sentence about the volumes whose files only a key shows; empty if there are none.
    pub(crate) fn encrypted_text(&self) -> String {
        let each = self.encrypted.iter().map(|(volume, what)| format!("{volume} ({what})"));
        match &each.collect::<Vec<_>>()[..] {
            [] => String::new(),
            [one] => format!("{one} is encrypted: pass --key-file FILE or --ask-key to see its files"),
            all => format!(
                "{} are encrypted: pass --key-file FILE or --ask-key to see their files",
                all.join(" and ")
            ),
        }
    }

    /// Opens the content of a regular file for reading.
    pub fn content(&self, row: usize) -> Result<Box<dyn Source>> {
        let Row { volume, path, node, .. } = &self.rows[row];
        match &self.contents[row] {
            Some(contents) => contents.open(),
            None if node.file_type == FileType::File => Err(Error::input(format!(
                "{volume}:{}: the content could not be read at import",
                escape(path)
            ))),
            None => Err(Error::input(format!("{volume}:{}: not a regular file", escape(path)))),
        }
    }
}
