//! Reads FAT volumes with the crate `fatfs`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::Arc;

use chrono::NaiveDate;
use fatfs::{Dir, DirEntry, FileSystem, FsOptions};
use mif_formats::Source;
use mif_formats::fs::FileType;

use super::device::{Device, read_all};
use super::{OtherNode, Reader};

pub(super) const READER: &str = "fatfs 0.3";

/// The maximum number of entries in a directory, because this reader never reaches the end of a circular one.
const MAX_ENTRIES: usize = 65_536;
/// The maximum depth of a path, and number of all paths, because directories may contain each other. A volume also has
/// no more paths than it has room for entries.
const MAX_DEPTH: usize = 64;
const MAX_PATHS: u64 = 1 << 20;
const ENTRY_SIZE: u64 = 32;

/// All nodes of a volume, by the path in this reader.
pub(super) struct Fat {
    fs: FileSystem<Device>,
    found: BTreeMap<Vec<u8>, OtherNode>,
    /// The reason why a directory was not read completely, by its path.
    unread: BTreeMap<Vec<u8>, String>,
}

impl Fat {
    pub(super) fn open(volume: Arc<dyn Source>) -> Result<Self, String> {
        let most = MAX_PATHS.min(volume.len() / ENTRY_SIZE) as usize;
        let fs = FileSystem::new(Device::new(volume), FsOptions::new()).map_err(|e| words(&e))?;
        let root = OtherNode {
            file_type: FileType::Dir,
            size: 0,
            mode: None,
            owner: None,
            mtime: None,
            link_target: None,
        };
        let mut list = List { found: [(b"/".to_vec(), root)].into(), unread: BTreeMap::new(), most };
        list.read(&fs.root_dir(), b"", 0);
        let List { found, unread, .. } = list;
        Ok(Fat { fs, found, unread })
    }

    /// Returns `path` as this reader names it: it knows no names that are not Unicode, and in short names only ASCII.
    fn called(&self, path: &[u8]) -> Vec<u8> {
        String::from_utf8_lossy(path).into_owned().into_bytes()
    }

    fn is_told_apart(path: &[u8]) -> bool {
        !String::from_utf8_lossy(path).contains('\u{fffd}')
    }
}

fn words(error: &io::Error) -> String {
    format!("{READER}: {error}")
}

/// The nodes found so far, and the maximum number of paths.
struct List {
    found: BTreeMap<Vec<u8>, OtherNode>,
    unread: BTreeMap<Vec<u8>, String>,
    most: usize,
}

impl List {
    fn read(&mut self, dir: &Dir<'_, Device>, path: &[u8], depth: usize) {
        let here = if path.is_empty() { b"/".to_vec() } else { path.to_vec() };
        for (i, entry) in dir.iter().enumerate() {
            let entry = match entry {
                Ok(entry) if i < MAX_ENTRIES && depth < MAX_DEPTH && self.found.len() < self.most => entry,
                Ok(_) => {
                    self.unread.insert(here, format!("{READER} cannot find the end of the directory"));
                    return;
                }
                Err(error) => {
                    self.unread.insert(here, words(&error));
                    return;
                }
            };
            // This reader includes the padding after the end of a long name in the name.
            let name = entry.file_name();
            let name = name.split('\0').next().unwrap_or_default();
            if matches!(name, "" | "." | "..") || name.contains('/') {
                continue;
            }
            let path = [path, b"/", name.as_bytes()].concat();
            let is_new = self.found.insert(path.clone(), describe(&entry)).is_none();
            if entry.is_dir() && is_new {
                self.read(&entry.to_dir(), &path, depth + 1);
            }
        }
    }
}

fn describe(entry: &DirEntry<'_, Device>) -> OtherNode {
    let modified = entry.modified();
    let (date, time) = (modified.date, modified.time);
    let date = NaiveDate::from_ymd_opt(i32::from(date.year), date.month.into(), date.day.into());
    let mtime = date
        .and_then(|date| date.and_hms_opt(time.hour.into(), time.min.into(), time.sec.into()))
        .map(|time| time.and_utc().timestamp());
    OtherNode {
        file_type: if entry.is_dir() { FileType::Dir } else { FileType::File },
        size: entry.len(),
        mode: None,
        owner: None,
        mtime,
        link_target: None,
    }
}

impl Reader for Fat {
    fn find(&self, path: &[u8]) -> Result<Option<OtherNode>, String> {
        if !Self::is_told_apart(path) {
            return Err(format!("{READER} cannot read such names"));
        }
        let found = self.found.get(&self.called(path)).cloned();
        match found {
            None if !path.is_ascii() => Err(format!("{READER} decodes the name with another code page")),
            None if !self.unread.is_empty() => Err(format!("{READER} could not read every directory")),
            found => Ok(found),
        }
    }

    fn names(&self, folder: &[u8]) -> Result<BTreeSet<Vec<u8>>, String> {
        if let Some(why) = self.unread.get(folder) {
            return Err(why.clone());
        }
        let prefix = if folder == b"/" { b"/".to_vec() } else { [folder, b"/"].concat() };
        let below = self.found.range(prefix.clone()..).take_while(|(path, _)| path.starts_with(&prefix));
        let names = below.map(|(path, _)| path[prefix.len()..].to_vec());
        // Names with replacement characters are not compared.
        Ok(names
            .filter(|name| !name.is_empty() && !name.contains(&b'/'))
            .filter(|name| Self::is_told_apart(name))
            .collect())
    }

    fn name_of(&self, name: &[u8]) -> Vec<u8> {
        self.called(name)
    }

    fn read(&self, path: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<(), String> {
        let path = String::from_utf8_lossy(path);
        let mut file = self.fs.root_dir().open_file(path.trim_start_matches('/')).map_err(|e| words(&e))?;
        read_all(|_, buf| file.read(buf).map_err(|e| words(&e)), each)
    }
}
