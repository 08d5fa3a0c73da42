//! The files of an image for editing: its rows by volume and path, and paths resolved as its own system does.

mod labels;
mod links;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::{Bound, Range};
use std::sync::Arc;

use mif_formats::Source;
use mif_formats::fs::listing::MAX_PATH;
use mif_formats::fs::{Capabilities, FileType, Node, Timestamp, Xattr};
use mif_formats::mif::manifest::{Row, escape};

use self::labels::Labels;
use super::mounts::{Devices, Elsewhere, Root, View};
use super::new_content::{ContentLookup, NewContent, NewContents};
use super::path::{Paths, Place, VolumePath, missing, resolve};
use super::roots::Volumes;
use super::subvolumes::Subvolumes;
use crate::disk::scan::{Scan, ScannedVolume};
use crate::error::{Error, Result};
use crate::host::acl;
use crate::store::Objects;

/// The largest file that edits may read, in bytes.
const MAX_READ: u64 = 64 << 20;

/// The files of an image for editing.
#[derive(Clone)]
pub(crate) struct Files {
    volumes: BTreeMap<String, EditedVolume>,
    /// The root filesystem and the mounts of its `/etc/fstab`.
    root: Option<Arc<Root>>,
    /// The labels of its SELinux policy, if it has one.
    labels: Option<Arc<Labels>>,
    /// New files that got the label of their directory because there is no policy.
    pub(crate) labelled_by_directory: Vec<String>,
    /// What the user should know about edits that were made, as sentences.
    pub(crate) notes: Vec<String>,
    /// The number of files that edits gave several names.
    linked: u32,
    objects: Arc<Objects>,
    /// The new content from edits.
    pub(crate) new: NewContents,
    /// The time of the edits.
    pub(crate) time: Timestamp,
}

#[derive(Clone)]
struct EditedVolume {
    /// The capabilities of its filesystem.
    can: &'static Capabilities,
    /// The label of its filesystem.
    label: Option<String>,
    /// By path. Clones share the rows that are not edited.
    rows: BTreeMap<Arc<[u8]>, Arc<Row>>,
    /// Further rows of paths that a damaged directory contains more than once. No edit reaches them, and a volume with
    /// such rows is not planned; they are kept so that nothing is lost silently.
    doubled: Vec<Arc<Row>>,
}

impl EditedVolume {
    /// Returns the rows under a directory.
    fn below(&self, folder: &[u8]) -> impl Iterator<Item = (&Arc<[u8]>, &Arc<Row>)> {
        let Range { start, end } = below(folder);
        self.rows.range::<[u8], _>((Bound::Included(&start[..]), Bound::Excluded(&end[..])))
    }
}

/// The type and metadata of a new file or directory.
pub(crate) struct NewNode {
    pub(crate) file_type: FileType,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Files {
    /// Returns the files of an image with these manifest `rows` and this scanned disk; `time` is the time of the edits.
    pub(crate) fn new(rows: &[Row], scan: &Scan, objects: &Arc<Objects>, time: Timestamp) -> Result<Self> {
        let mut volumes: BTreeMap<String, EditedVolume> = BTreeMap::new();
        for row in rows {
            let volume = volumes.entry(row.volume.clone()).or_insert_with(|| {
                let scanned = scan.volumes.iter().find(|volume| volume.name == row.volume);
                let fs = scanned.and_then(|volume| volume.filesystem());
                EditedVolume {
                    can: fs.map_or(&Capabilities::UNKNOWN, |fs| fs.capabilities()),
                    label: fs.and_then(|fs| fs.info().label.clone()),
                    rows: BTreeMap::new(),
                    doubled: Vec::new(),
                }
            });
            match volume.rows.entry((*row.full_path()).into()) {
                Entry::Vacant(place) => _ = place.insert(Arc::new(row.clone())),
                Entry::Occupied(_) => volume.doubled.push(Arc::new(row.clone())),
            }
        }
        let objects = objects.clone();
        let mut files = Files {
            volumes,
            root: None,
            labels: None,
            labelled_by_directory: Vec::new(),
            notes: Vec::new(),
            linked: 0,
            objects,
            new: NewContents::new(),
            time,
        };
        let names: Vec<&str> = files.volumes.keys().map(String::as_str).collect();
        let records: Vec<_> = scan.volumes.iter().map(ScannedVolume::record).collect();
        let devices = Devices { table: &scan.table, volumes: &records };
        let subvolumes = Subvolumes::of(rows.iter());
        let volumes = Volumes { paths: &files, names: &names, devices, subvolumes: &subvolumes };
        let roots = volumes.roots(&mut Vec::new(), &|place, _| files.fstab(place))?;
        let Some(root) = roots.into_iter().next() else { return Ok(files) };
        files.root = Some(Arc::new(root));
        files.labels = Labels::read(|path| files.text(path))?.map(Arc::new);
        Ok(files)
    }

    /// Reads the fstab in a directory; returns `None` if it has none.
    fn fstab(&self, place: &Place) -> Result<Option<Vec<u8>>> {
        let root = Root { place: place.clone(), mounts: Vec::new() };
        let view = View { paths: self, root: &root, elsewhere: Elsewhere::Refused };
        let place = resolve(&view, root.volume(), b"/etc/fstab", true).ok();
        let row = place.and_then(|place| self.at(&place)).filter(|row| row.node.file_type == FileType::File);
        row.map(|row| self.content(row)).transpose()
    }

    /// Returns all edited rows.
    pub(crate) fn rows(&self) -> Vec<&Row> {
        self.volumes
            .values()
            .flat_map(|volume| volume.rows.values().chain(&volume.doubled))
            .map(|row| &**row)
            .collect()
    }

    /// Returns the volumes by their role in the image's system: the mount point in its fstab, `/` for the root, or the
    /// volume's own name if it is not mounted.
    pub(crate) fn roles(&self) -> BTreeMap<String, String> {
        let role = |volume: &String| match &self.root {
            Some(root) if root.volume() == volume => "/".to_owned(),
            Some(root) => root.point_of(volume).map_or_else(|| volume.clone(), escape),
            None => volume.clone(),
        };
        self.volumes.keys().map(|volume| (role(volume), volume.clone())).collect()
    }

    /// Returns the rows of a volume, by path.
    pub(crate) fn volume_rows(&self, volume: &str) -> impl Iterator<Item = &Row> {
        self.volumes.get(volume).into_iter().flat_map(|volume| volume.rows.values().map(|row| &**row))
    }

    /// Returns true if the image's fstab mounts something on a directory or under it.
    pub(crate) fn is_mounted_on(&self, place: &Place) -> bool {
        self.mount_below(place).is_some()
    }

    /// Sets or removes the row at a place, and changes nothing else.
    pub(crate) fn set(&mut self, place: &Place, row: Option<Row>) -> Result<()> {
        let rows = &mut self.volume(&place.volume)?.rows;
        match row {
            Some(row) => rows.insert(place.path.as_slice().into(), Arc::new(row)),
            None => rows.remove(&place.path[..]),
        };
        Ok(())
    }

    /// Resolves a path, whose last component need not exist. A symlink at the end is followed if `follow`.
    pub(crate) fn place(&self, path: &str, follow: bool) -> Result<Place> {
        self.place_of(path.as_bytes(), follow)
    }

    /// Like [`Files::place`], for a path that need not be UTF-8.
    pub(crate) fn place_of(&self, path: &[u8], follow: bool) -> Result<Place> {
        if path.len() > MAX_PATH {
            return Err(Error::usage(format!(
                "{}…: the path has {} bytes, over the limit of {MAX_PATH}",
                escape(&path[..40]),
                path.len()
            )));
        }
        let parsed = VolumePath::parse(path);
        if parsed.path.first() != Some(&b'/') {
            return Err(Error::usage(format!("{}: not an absolute path", escape(path)))
                .advise("Write /etc/passwd for the root filesystem, or VOLUME:/path"));
        }
        match &parsed.volume {
            Some(volume) if self.volumes.contains_key(volume) => resolve(self, volume, &parsed.path, follow),
            Some(volume) => {
                let names: Vec<&str> = self.volumes.keys().map(String::as_str).collect();
                Err(Error::input(format!("{volume}: no readable volume of that name"))
                    .advise(format!("This image has {}", names.join(", "))))
            }
            None => {
                let root = self.root()?;
                let view = View { paths: self, root, elsewhere: Elsewhere::Refused };
                resolve(&view, root.volume(), &parsed.path, follow)
            }
        }
    }

    /// Returns the names of the volumes whose filesystem has this label.
    pub(crate) fn labelled(&self, label: &str) -> impl Iterator<Item = &str> {
        let volumes = self.volumes.iter().filter(move |(_, volume)| volume.label.as_deref() == Some(label));
        volumes.map(|(name, _)| name.as_str())
    }

    /// Returns the names of all volumes with files.
    pub(crate) fn volume_names(&self) -> impl Iterator<Item = &str> {
        self.volumes.keys().map(String::as_str)
    }

    fn root(&self) -> Result<&Root> {
        self.root.as_deref().ok_or_else(|| {
            let names: Vec<&str> = self.volumes.keys().map(String::as_str).collect();
            Error::input("cannot find the root filesystem of the image").advise(format!(
                "Name the volume in each path, such as p1:/etc; the volumes are {}",
                names.join(", ")
            ))
        })
    }

    /// Returns the row at a place, if it exists.
    pub(crate) fn at(&self, place: &Place) -> Option<&Row> {
        self.volumes.get(&place.volume)?.rows.get(&place.path[..]).map(|row| &**row)
    }

    /// Returns the row of a path, if it exists. Follows a symlink at the end.
    pub(crate) fn get(&self, path: &str) -> Option<&Row> {
        self.at(&self.place(path, true).ok()?)
    }

    /// Returns the row of a path, if it exists. Does not follow a symlink at the end.
    pub(crate) fn get_link(&self, path: &str) -> Option<&Row> {
        self.at(&self.place(path, false).ok()?)
    }

    /// Returns true if a path is a regular file. Follows a symlink at the end.
    pub(crate) fn is_file(&self, path: &str) -> bool {
        self.get(path).is_some_and(|row| row.node.file_type == FileType::File)
    }

    /// Reads a regular file; returns `None` if it does not exist.
    pub(crate) fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        match self.get(path) {
            Some(row) if row.node.file_type == FileType::File => self.content(row).map(Some),
            _ => Ok(None),
        }
    }

    /// Reads a text file, with replacement characters for invalid UTF-8; returns an empty text if it does not exist.
    pub(crate) fn text(&self, path: &str) -> Result<String> {
        Ok(self.read(path)?.map_or(String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Reads a text file for editing; returns an empty text if it does not exist.
    pub(crate) fn editable(&self, path: &str) -> Result<String> {
        String::from_utf8(self.read(path)?.unwrap_or_default()).map_err(|_| {
            Error::input(format!("{path}: not UTF-8, so it cannot be edited as text"))
                .advise("Write the whole file instead")
        })
    }

    /// Reads the content of a regular file's row.
    pub(crate) fn content(&self, row: &Row) -> Result<Vec<u8>> {
        let named = || format!("{}:{}", row.volume, row.path_text());
        if row.node.size > MAX_READ {
            return Err(Error::unsupported(format!(
                "{}: the file has {} bytes, over the limit of {MAX_READ} for edits",
                named(),
                row.node.size
            )));
        }
        if row.node.size == 0 {
            return Ok(Vec::new());
        }
        let id = row.object().ok_or_else(|| {
            Error::input(format!(
                "{}: the content is missing, because it could not be read at import",
                named()
            ))
        })?;
        let mut bytes = vec![0; row.node.size as usize];
        match self.new.get(&id) {
            Some(new) => new.source.read_at(0, &mut bytes)?,
            None => self.objects.read_at(&id, 0, &mut bytes)?,
        }
        Ok(bytes)
    }

    /// Opens the content of a regular file's row for reading.
    pub(crate) fn source(&self, row: &Row) -> Result<Arc<dyn Source>> {
        let id = row.object().filter(|_| row.node.file_type == FileType::File).ok_or_else(|| {
            Error::input(format!("{}:{}: not a regular file with content", row.volume, row.path_text()))
        })?;
        ContentLookup { objects: &self.objects, new: &self.new }.source(&id, &self.objects)
    }

    /// Returns the entries of a directory as names and rows, sorted by name, without names that are not UTF-8.
    pub(crate) fn list(&self, folder: &str) -> Vec<(String, &Row)> {
        let Ok(place) = self.place(folder, true) else { return Vec::new() };
        let Some(volume) = self.volumes.get(&place.volume) else { return Vec::new() };
        let start = below(&place.path).start;
        let cut = start.len();
        let rows = volume.below(&place.path);
        rows.filter(|(path, _)| path.len() > cut && !path[cut..].contains(&b'/'))
            .filter_map(|(path, row)| Some((String::from_utf8(path[cut..].to_vec()).ok()?, &**row)))
            .collect()
    }

    /// Returns the absolute paths of any type that match a pattern, whose components may contain `*` and `?`.
    pub(crate) fn glob(&self, pattern: &str) -> Result<Vec<String>> {
        let mut found = vec![String::new()];
        for part in pattern.split('/').filter(|part| !part.is_empty()) {
            let mut next = Vec::new();
            if part.contains(['*', '?', '[']) {
                let part = glob::Pattern::new(part)
                    .map_err(|e| Error::usage(format!("invalid pattern \"{pattern}\": {}", e.msg)))?;
                for folder in &found {
                    let names = self.list(&format!("{folder}/")).into_iter().map(|(name, _)| name);
                    next.extend(
                        names.filter(|name| part.matches(name)).map(|name| format!("{folder}/{name}")),
                    );
                }
            } else {
                let paths = found.iter().map(|folder| format!("{folder}/{part}"));
                next.extend(paths.filter(|path| self.get_link(path).is_some()));
            }
            found = next;
        }
        Ok(found)
    }

    /// Returns the capabilities of a volume's filesystem.
    pub(crate) fn capabilities(&self, volume: &str) -> &'static Capabilities {
        self.volumes.get(volume).map_or(&Capabilities::UNKNOWN, |volume| volume.can)
    }

    /// Creates a file or directory at a place that does not exist. Its parent directory must exist.
    pub(crate) fn create(&mut self, place: &Place, new: &NewNode) -> Result<()> {
        let folder = Place { volume: place.volume.clone(), path: parent(&place.path).to_vec() };
        let above = self.at(&folder).ok_or_else(|| missing(&folder.volume, &folder.path))?;
        if above.node.file_type != FileType::Dir {
            return Err(Error::input(format!("{}:{}: not a directory", folder.volume, escape(&folder.path))));
        }
        let mut labelled_by_directory = None;
        let can = self.capabilities(&place.volume);
        let is_dir = new.file_type == FileType::Dir;
        // As on Linux, a file created in a setgid directory inherits its group.
        let setgid = above.node.mode.is_some_and(|mode| mode & 0o2000 != 0);
        let label = |xattr: &&Xattr| xattr.name == b"security.selinux";
        let mut xattrs: Vec<Xattr> = above.node.xattrs.iter().filter(label).cloned().collect();
        let path = self.root.as_ref().and_then(|root| root.path_of(place));
        match (&self.labels, path, xattrs.first_mut()) {
            // The system labels its files. As in Linux, a file without a label in the policy gets its directory's.
            (Some(labels), Some(path), Some(label)) => {
                if let Some(context) = labels.of(&path, new.file_type) {
                    label.value = [context.as_bytes(), b"\0"].concat();
                }
            }
            (_, _, Some(_)) => {
                let path = format!("{}:{}", place.volume, escape(&place.path));
                labelled_by_directory = Some(path);
            }
            _ => {}
        }
        let mut mode = new.mode;
        let default = above.node.xattrs.iter().find(|xattr| xattr.name == acl::DEFAULT.as_bytes());
        if let Some(default) = default.filter(|_| matches!(new.file_type, FileType::Dir | FileType::File)) {
            if let Some((access, bits)) = acl::inherited(&default.value, mode) {
                mode = mode & !0o777 | bits;
                xattrs.extend(access.map(|value| Xattr { name: acl::ACCESS.as_bytes().to_vec(), value }));
            }
            xattrs.extend(is_dir.then(|| default.clone()));
            xattrs.sort();
        }
        let node = Node {
            mode: can.is_posix.then_some(mode | if setgid && is_dir { 0o2000 } else { 0 }),
            uid: can.is_posix.then_some(new.uid),
            gid: can.is_posix.then_some(if setgid { above.node.gid.unwrap_or(new.gid) } else { new.gid }),
            mtime: Some(self.time),
            atime: Some(self.time),
            ctime: can.is_posix.then_some(self.time),
            crtime: Some(self.time),
            flags: can.flags_of_new(is_dir),
            xattrs,
            ..Node::bare(new.file_type)
        };
        let row = Row::new(&place.volume, place.path.clone(), None, node);
        self.labelled_by_directory.extend(labelled_by_directory);
        self.volume(&place.volume)?.rows.insert(place.path.as_slice().into(), Arc::new(row));
        self.touch_folder(place)
    }

    /// Removes the row at a place and everything under it, and returns the number of paths.
    pub(crate) fn remove(&mut self, place: &Place) -> Result<usize> {
        if let Some(mount) = self.mount_below(place) {
            return Err(Error::input(format!(
                "{}:{}: cannot be removed, because /etc/fstab mounts a volume on {mount}",
                place.volume,
                escape(&place.path)
            )));
        }
        if place.path == b"/" {
            return Err(Error::input(format!(
                "{}:/: the root directory of a volume cannot be removed",
                place.volume
            )));
        }
        let volume = self.volume(&place.volume)?;
        let mut gone: Vec<Arc<[u8]>> = volume.below(&place.path).map(|(path, _)| path.clone()).collect();
        gone.push(place.path.as_slice().into());
        for path in &gone {
            volume.rows.remove(path);
        }
        self.touch_folder(place)?;
        Ok(gone.len())
    }

    /// Returns true if a directory has entries.
    pub(crate) fn has_entries(&self, folder: &Place) -> bool {
        self.volumes.get(&folder.volume).is_some_and(|volume| volume.below(&folder.path).next().is_some())
    }

    /// Moves the row at a place and everything under it to a place on the same volume that does not exist.
    pub(crate) fn rename(&mut self, from: &Place, to: &Place) -> Result<()> {
        if let Some(mount) = self.mount_below(from) {
            let path = escape(&from.path);
            return Err(Error::input(format!(
                "{}:{path}: cannot be renamed, because /etc/fstab mounts a volume on {mount}",
                from.volume
            )));
        }
        if from.path == b"/" || to.path.starts_with(&below(&from.path).start) {
            return Err(Error::input(format!(
                "{}:{}: cannot be moved into itself",
                from.volume,
                escape(&from.path)
            )));
        }
        let volume = self.volume(&from.volume)?;
        let mut moved: Vec<Arc<[u8]>> = volume.below(&from.path).map(|(path, _)| path.clone()).collect();
        moved.push(from.path.as_slice().into());
        for path in moved {
            let Some(mut row) = volume.rows.remove(&path) else { continue };
            let moving = Arc::make_mut(&mut row);
            moving.path = [&to.path[..], &path[from.path.len()..]].concat();
            if path[..] == from.path[..] {
                // On FAT, the short name belonged to the old name.
                moving.short_name = None;
            }
            volume.rows.insert(moving.path.as_slice().into(), row);
        }
        self.change(to, |_| {})?;
        self.touch_folder(from)?;
        self.touch_folder(to)
    }

    /// Changes the row at a place and those of its other hard links.
    pub(crate) fn change(&mut self, place: &Place, change: impl Fn(&mut Row)) -> Result<()> {
        let time = self.time;
        let rows = &mut self.volume(&place.volume)?.rows;
        let row = rows.get(&place.path[..]).ok_or_else(|| missing(&place.volume, &place.path))?;
        let is_linked = row.node.nlink.is_some_and(|n| n > 1) && row.node.file_type != FileType::Dir;
        let file = row.file.filter(|_| is_linked);
        let change = |row: &mut Row| {
            change(row);
            row.node.ctime = row.node.ctime.map(|_| time);
        };
        match file {
            Some(file) => {
                let links = rows.values_mut().filter(|row| row.file == Some(file));
                links.for_each(|row| change(Arc::make_mut(row)));
            }
            None => rows.get_mut(&place.path[..]).into_iter().for_each(|row| change(Arc::make_mut(row))),
        }
        Ok(())
    }

    /// Sets the content of the regular file at a place. As on Linux, its set-ID bits and capabilities are removed.
    pub(crate) fn fill(&mut self, place: &Place, content: NewContent) -> Result<()> {
        self.replace(place, content)?;
        self.change(place, |row| row.node.xattrs.retain(|xattr| xattr.name != b"security.capability"))
    }

    /// Sets the content of the regular file at a place, and keeps everything except its times and the attributes that
    /// describe the old content.
    pub(crate) fn replace(&mut self, place: &Place, content: NewContent) -> Result<()> {
        let (time, body, size) = (self.time, content.body(), content.source.len());
        self.new.insert(content.id, content);
        self.change(place, |row| {
            row.node.size = size;
            row.body = Some(body);
            row.node.mtime = row.node.mtime.map(|_| time);
            row.node.xattrs.retain(|xattr| !matches!(&xattr.name[..], b"security.ima" | b"security.evm"));
        })
    }

    fn volume(&mut self, name: &str) -> Result<&mut EditedVolume> {
        self.volumes
            .get_mut(name)
            .ok_or_else(|| Error::input(format!("{name}: no readable volume of that name")))
    }

    /// Updates the time of a directory whose entries changed.
    fn touch_folder(&mut self, child: &Place) -> Result<()> {
        let time = self.time;
        let folder = Place { volume: child.volume.clone(), path: parent(&child.path).to_vec() };
        self.change(&folder, |row| row.node.mtime = row.node.mtime.map(|_| time))
    }

    /// Returns the first mount point at a place or under it.
    fn mount_below(&self, place: &Place) -> Option<String> {
        let root = self.root.as_deref()?;
        let path = root.path_of(place)?;
        let start = below(&path).start;
        // The root of a mounted volume is its own mount point.
        let is_top = root.is_top(place);
        let points = root.mounts.iter().map(|mount| &mount.point);
        let mut inside = points.filter(|point| !is_top && **point == path || point.starts_with(&start));
        inside.next().map(|point| escape(point))
    }
}

/// Returns the parent directory of a path.
pub(crate) fn parent(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|b| *b == b'/').unwrap_or(0).max(1).min(path.len())]
}

/// Returns the range of paths under a directory: from its path with a slash to the first path that sorts after them.
pub(crate) fn below(folder: &[u8]) -> Range<Vec<u8>> {
    let folder = if folder == b"/" { b"" } else { folder };
    [folder, b"/"].concat()..[folder, b"0"].concat()
}

/// Paths on a single volume.
impl Paths for Files {
    fn row(&self, volume: &str, path: &[u8]) -> Option<&Row> {
        self.volumes.get(volume)?.rows.get(path).map(|row| &**row)
    }

    fn has_entries(&self, place: &Place) -> bool {
        let volume = self.volumes.get(&place.volume);
        volume.is_some_and(|volume| volume.below(&place.path).any(|(path, _)| &path[..] != b"/"))
    }

    fn above(&self, volume: &str) -> Result<()> {
        Err(Error::input(format!("{volume}:/..: leads out of the image"))
            .advise("Paths, and the symlinks on them, must stay within the image"))
    }
}
