//! `search`: finds files of all images by path, content, owner, mode, size, time and extended attributes. Reads only
//! the columns of a manifest that the query needs, and only the rows that are still candidates.

mod content;
mod file;
mod glob;
mod mounts;

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

use mif_formats::fs::{FileType, Timestamp};
use mif_formats::mif::manifest::columns::{self, Column, Columns, Group};
use mif_formats::mif::manifest::type_name;
use mif_formats::text::{hex, hex_unless_text};
use serde::Serialize;

pub use self::content::WantedContents;
use self::file::StoredFile;
pub use self::glob::PathGlob;
use self::mounts::Points;
use crate::error::{Result, damaged};
use crate::notation;
use crate::store::{DamagedImage, Image, ImageName, Objects, Store};
use crate::task::pool::in_parallel;
use crate::task::progress::{self, Progress};
use crate::verbs::choose::{ImageFilter, Versions, named};

/// A search. A row must match every criterion that is given.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// The images to search; all if this is empty.
    pub images: Vec<ImageName>,
    /// Search all versions of the images, not only the newest.
    pub all_versions: bool,
    /// Search only images that match.
    pub filter: ImageFilter,
    /// The path.
    pub path: Option<PathGlob>,
    /// The content: any of these.
    pub contents: Option<WantedContents>,
    /// The type.
    pub file_type: Option<FileType>,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// Mode bits that must all be set.
    pub mode: u16,
    /// Mode bits of which at least one must be set.
    pub mode_any: u16,
    /// Size in bytes.
    pub size: Option<RangeInclusive<u64>>,
    /// Modification time, in seconds since 1970.
    pub mtime: Option<RangeInclusive<i64>>,
    /// Name of an extended attribute.
    pub xattr: Option<PathGlob>,
}

/// The result.
#[derive(Debug, Clone, Serialize)]
pub struct SearchReport {
    /// The number of versions that were searched.
    pub searched: u64,
    /// Damaged images, which could not be searched.
    pub damaged: Vec<DamagedImage>,
    /// The files, by image, volume and path.
    pub hits: Vec<Hit>,
    /// If requested, each content once, with its images; then `hits` is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<HitGroup>>,
    /// The number of files or groups that were left out, because only a number of them was requested.
    pub left_out: u64,
}

/// A content, and the images that have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HitGroup {
    /// The SHA-1 in hex; `None` for what has no digest, which is grouped by path.
    pub sha1: Option<String>,
    /// The type.
    #[serde(rename = "type")]
    pub file_type: String,
    /// The size in bytes.
    pub size: u64,
    /// The paths, each with its volume, in order.
    pub paths: Vec<String>,
    /// The images, in order.
    pub images: Vec<String>,
}

/// A file that matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Hit {
    /// The image, as `name@version`.
    pub image: String,
    pub volume: String,
    pub path: String,
    /// The path's bytes in hex, if they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes: Option<String>,
    #[serde(rename = "type")]
    pub file_type: String,
    #[serde(serialize_with = "notation::mode")]
    pub mode: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: u64,
    #[serde(serialize_with = "notation::time")]
    pub mtime: Option<Timestamp>,
    /// The SHA-1 in hex.
    pub sha1: Option<String>,
}

/// Searches a store on all processors.
pub fn search(store: &Store, query: &Query, progress: &dyn Progress) -> Result<SearchReport> {
    let versions = if query.all_versions { Versions::All } else { Versions::Newest };
    let (images, mut damaged) = named(store, &query.images, &query.filter, versions, progress)?;
    progress.stage("searching", 0);
    let objects: Mutex<Option<Arc<Objects>>> = Mutex::default();
    let objects = || {
        let mut known = objects.lock().expect("not poisoned");
        match &*known {
            Some(objects) => Ok(objects.clone()),
            None => Ok(known.insert(Arc::new(store.objects()?)).clone()),
        }
    };
    let searched = in_parallel(&images, progress, |(name, version)| {
        let hits = search_image(store, name, *version, query, &objects);
        Ok(hits.map_err(|e| DamagedImage::new(name, *version, &e)))
    })?;
    progress::check(progress)?;
    let (mut hits, mut failed) = (Vec::new(), Vec::new());
    for image in searched {
        match image {
            Ok(found) => hits.extend(found),
            Err(image) => failed.push(image),
        }
    }
    let searched = (images.len() - failed.len()) as u64;
    damaged.extend(failed);
    Ok(SearchReport { searched, damaged, hits, groups: None, left_out: 0 })
}

fn search_image(
    store: &Store,
    name: &str,
    version: u32,
    query: &Query,
    objects: &dyn Fn() -> Result<Arc<Objects>>,
) -> Result<Vec<Hit>> {
    let folder = Image::folder(name, version);
    let id = format!("{name}@{version}");
    let wrong = |e: mif_formats::Error| damaged(&id, &e);
    let candidates = match &query.contents {
        Some(contents) => content::candidates(&**store.storage(), &folder, contents)?,
        None => None,
    };
    if candidates.as_ref().is_some_and(Vec::is_empty) {
        return Ok(Vec::new());
    }
    let key = format!("{folder}/manifest.parquet");
    let file = StoredFile::new(store.storage().clone(), &key).map_err(|e| store.storage().error(&key, &e))?;
    let columns = Columns::new(file).map_err(wrong)?;
    // A pattern for whole paths matches paths as the image's system sees them.
    let points = match &query.path {
        Some(glob) if glob.is_for_whole_paths() => {
            mounts::points(&store.version(name, version)?, &columns, objects)?
        }
        _ => Points::new(),
    };
    let mut hits = Vec::new();
    for group in columns.groups() {
        let rows = match &candidates {
            Some(all) => {
                let end = group.start + group.rows;
                let here = all.iter().filter(|row| (group.start..end).contains(*row));
                Rows { group: &group, picked: Some(here.map(|row| row - group.start).collect()) }
            }
            None => Rows { group: &group, picked: None },
        };
        let picked = rows.filter(query, &points).map_err(wrong)?;
        hits.extend(describe(&id, &group, &picked).map_err(wrong)?);
    }
    Ok(hits)
}

/// The rows of a group that still match: these, or all if `picked` is `None`.
struct Rows<'a> {
    group: &'a Group<'a>,
    picked: Option<Vec<usize>>,
}

impl Rows<'_> {
    /// Returns the rows that match the query. Filters column by column, those first that leave few rows.
    fn filter(mut self, query: &Query, points: &Points) -> mif_formats::Result<Vec<usize>> {
        if let Some(contents) = &query.contents {
            self.contents(contents)?;
        }
        if let Some(glob) = &query.path {
            let outside = self.group.bounds(Column::Path).is_some_and(|(low, high)| !glob.may_lie(low, high));
            let streams = self.streams()?;
            if points.is_empty() && streams.is_empty() && outside {
                return Ok(Vec::new());
            }
            self.paths(glob, points, &streams)?;
        }
        if query.mode != 0 {
            self.numbers(Column::Mode, |mode| mode & i64::from(query.mode) == i64::from(query.mode))?;
        }
        if query.mode_any != 0 {
            self.numbers(Column::Mode, |mode| mode & i64::from(query.mode_any) != 0)?;
        }
        if let Some(uid) = query.uid {
            self.numbers(Column::Uid, |n| n == i64::from(uid))?;
        }
        if let Some(gid) = query.gid {
            self.numbers(Column::Gid, |n| n == i64::from(gid))?;
        }
        if let Some(size) = &query.size {
            self.numbers(Column::Size, |n| size.contains(&(n as u64)))?;
        }
        if let Some(mtime) = &query.mtime {
            self.numbers(Column::Mtime, |n| mtime.contains(&n))?;
        }
        if let Some(file_type) = query.file_type {
            self.texts(Column::Type, |name| name == type_name(file_type))?;
        }
        if let Some(glob) = &query.xattr {
            self.xattrs(glob)?;
        }
        Ok(self.picked.unwrap_or_else(|| (0..self.group.rows).collect()))
    }

    fn done(&self) -> bool {
        self.picked.as_ref().is_some_and(Vec::is_empty)
    }

    /// Returns true if so few rows are left that reading each separately is faster.
    fn few(&self) -> Option<&[usize]> {
        self.picked.as_deref().filter(|picked| picked.len() < self.group.rows / 16)
    }

    /// Keeps the rows for which `keep` returns true. Calls it in ascending order.
    fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) {
        self.picked = Some(match self.picked.take() {
            Some(picked) => picked.into_iter().filter(|row| keep(*row)).collect(),
            None => (0..self.group.rows).filter(|row| keep(*row)).collect(),
        });
    }

    fn numbers(&mut self, column: Column, fits: impl Fn(i64) -> bool) -> mif_formats::Result<()> {
        if self.done() {
            return Ok(());
        }
        match self.few() {
            Some(rows) => {
                let mut values = self.group.numbers_at(column, rows)?.into_iter();
                self.retain(|_| values.next().flatten().is_some_and(&fits));
            }
            None => {
                let values = self.group.numbers(column)?;
                self.retain(|row| values[row].is_some_and(&fits));
            }
        }
        Ok(())
    }

    /// Returns the name of the alternate stream that each row describes; nothing if the group has no streams.
    fn streams(&self) -> mif_formats::Result<Vec<Option<String>>> {
        if self.group.all_null(Column::Stream) {
            return Ok(Vec::new());
        }
        let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        Ok(self
            .group
            .blobs(Column::Stream)?
            .iter()
            .map(|name| name.as_ref().map(|name| text(name.data())))
            .collect())
    }

    /// Keeps the rows whose full path matches, on its volume or as the image's system sees it.
    fn paths(
        &mut self,
        glob: &PathGlob,
        points: &Points,
        streams: &[Option<String>],
    ) -> mif_formats::Result<()> {
        if points.is_empty() && streams.is_empty() || self.done() {
            return self.texts(Column::Path, |path| glob.matches(path));
        }
        let volumes = self.group.texts(Column::Volume)?;
        let mut keep = Vec::with_capacity(self.group.rows);
        self.group.each_text(Column::Path, |path| {
            let path = std::str::from_utf8(path).unwrap_or_default();
            let path = &*full_path(path, streams.get(keep.len()).and_then(Option::as_deref));
            let volume = std::str::from_utf8(volumes[keep.len()].data()).unwrap_or_default();
            let below = if path == "/" { "" } else { path };
            let mut points = points.get(volume).into_iter().flatten();
            let is_seen = |(folder, point): &(String, String)| {
                let rest =
                    below.strip_prefix(&folder[..]).filter(|rest| rest.is_empty() || rest.starts_with('/'));
                rest.is_some_and(|rest| glob.matches(&format!("{point}{rest}")))
            };
            keep.push(glob.matches(path) || points.any(is_seen));
        })?;
        self.retain(|row| keep[row]);
        Ok(())
    }

    fn texts(&mut self, column: Column, fits: impl Fn(&str) -> bool) -> mif_formats::Result<()> {
        let fits = |text: &[u8]| std::str::from_utf8(text).is_ok_and(&fits);
        if self.done() {
            return Ok(());
        }
        match self.few() {
            Some(rows) => {
                let mut values = self.group.texts_at(column, rows)?.into_iter();
                self.retain(|_| values.next().is_some_and(|text| fits(text.data())));
            }
            None => {
                let mut keep = Vec::with_capacity(self.group.rows);
                self.group.each_text(column, |text| keep.push(fits(text)))?;
                self.retain(|row| keep[row]);
            }
        }
        Ok(())
    }

    /// Keeps the rows with a wanted content. Reads only the kinds of digests that are searched for.
    fn contents(&mut self, contents: &WantedContents) -> mif_formats::Result<()> {
        if self.done() {
            return Ok(());
        }
        let few: Option<Vec<usize>> = self.few().map(<[usize]>::to_vec);
        let blake3 = self.digests::<32>(Column::Blake3, few.as_deref(), contents.has_blake3())?;
        let sha1 = self.digests::<20>(Column::Sha1, few.as_deref(), contents.has_sha1())?;
        let fits =
            |i: usize| contents.contain(blake3.get(i).copied().flatten(), sha1.get(i).copied().flatten());
        match few {
            Some(_) => {
                let mut places = 0..;
                self.retain(|_| places.next().is_some_and(fits));
            }
            None => self.retain(fits),
        }
        Ok(())
    }

    /// Returns the digests of these rows, or of all; none if they are not `wanted`.
    fn digests<const N: usize>(
        &self,
        column: Column,
        rows: Option<&[usize]>,
        wanted: bool,
    ) -> mif_formats::Result<Vec<Option<[u8; N]>>> {
        match rows {
            _ if !wanted => Ok(Vec::new()),
            Some(rows) => self.group.digests_at::<N>(column, rows),
            None => self.group.digests::<N>(column),
        }
    }

    fn xattrs(&mut self, glob: &PathGlob) -> mif_formats::Result<()> {
        if self.done() || self.group.all_null(Column::XattrNames) {
            self.picked = Some(Vec::new());
            return Ok(());
        }
        let xattrs = columns::xattrs(self.group)?;
        let fits = |name: &[u8]| std::str::from_utf8(name).is_ok_and(|name| glob.matches(name));
        self.retain(|row| xattrs[row].iter().any(|xattr| fits(&xattr.name)));
        Ok(())
    }
}

/// Returns the path of a row, followed by a colon and the name of the stream if it describes one.
fn full_path<'p>(path: &'p str, stream: Option<&str>) -> Cow<'p, str> {
    stream.map_or(Cow::Borrowed(path), |stream| Cow::Owned(format!("{path}:{stream}")))
}

/// Returns the hits for these rows.
fn describe(image: &str, group: &Group<'_>, rows: &[usize]) -> mif_formats::Result<Vec<Hit>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let text = |column| -> mif_formats::Result<Vec<String>> {
        let texts = group.texts_at(column, rows)?;
        Ok(texts.iter().map(|text| String::from_utf8_lossy(text.data()).into_owned()).collect())
    };
    let number = |column| group.numbers_at(column, rows);
    let (volume, path, file_type) = (text(Column::Volume)?, text(Column::Path)?, text(Column::Type)?);
    let (mode, uid, gid) = (number(Column::Mode)?, number(Column::Uid)?, number(Column::Gid)?);
    let (size, mtime, nanos) = (number(Column::Size)?, number(Column::Mtime)?, number(Column::MtimeNs)?);
    let sha1 = group.digests_at::<20>(Column::Sha1, rows)?;
    let path_bytes = group.blobs_at(Column::PathBytes, rows)?;
    let streams = group.blobs_at(Column::Stream, rows)?;
    let mut names = volume.into_iter().zip(path).zip(file_type);
    Ok((0..rows.len())
        .map(|i| {
            let ((volume, path), file_type) = names.next().expect("a name for each row");
            let stream = streams[i].as_ref().map(|name| String::from_utf8_lossy(name.data()));
            let path = full_path(&path, stream.as_deref()).into_owned();
            Hit {
                image: image.to_owned(),
                volume,
                path,
                path_bytes: path_bytes[i].as_ref().and_then(|bytes| hex_unless_text(bytes.data())),
                file_type,
                mode: mode[i].map(|n| n as u16),
                uid: uid[i].map(|n| n as u32),
                gid: gid[i].map(|n| n as u32),
                size: size[i].unwrap_or(0) as u64,
                mtime: mtime[i].map(|secs| Timestamp { secs, nanos: nanos[i].unwrap_or(0) as u32 }),
                sha1: sha1[i].map(|digest| hex(&digest)),
            }
        })
        .collect())
}
