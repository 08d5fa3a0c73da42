//! The rows of a group that match a query: of one image's manifest, or of the catalog.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use mif_formats::fs::Timestamp;
use mif_formats::mif::catalog::Kind;
use mif_formats::mif::manifest::columns::{self, Column, Group};
use mif_formats::mif::manifest::type_name;
use mif_formats::text::{hex, hex_unless_text};

use super::content::WantedContents;
use super::glob::PathGlob;
use super::known::{Criterion, Known, texts};
use super::query::{Hit, Query};
use crate::catalog::Points;

/// The rows of a group that still match: these, or all if `picked` is `None`.
pub(super) struct Rows<'a> {
    pub(super) group: &'a Group<'a>,
    pub(super) picked: Option<Vec<usize>>,
    pub(super) shown: Shown<'a>,
    /// What is known of columns that other groups have too, if there may be such groups.
    pub(super) known: Option<&'a Known>,
}

/// Where the systems of images show rows, besides their paths on their volumes.
#[derive(Clone, Copy)]
pub(super) enum Shown<'a> {
    /// All rows are of one image.
    One(&'a Points),
    /// The rows are of many images.
    Many(&'a ManyPoints<'a>),
}

/// The mount points of many images.
pub(in crate::verbs::inspect) struct ManyPoints<'a> {
    pub(super) kind: Kind,
    /// Each pair of a directory and a path that any image has.
    pub(super) all: BTreeSet<(String, String)>,
    /// Those of each image that has some, by its name and version.
    pub(super) of: HashMap<(&'a [u8], i64), &'a Points>,
}

impl Rows<'_> {
    /// Returns the rows that match the query. Filters column by column, those first that leave few rows.
    pub(super) fn filter(mut self, query: &Query) -> mif_formats::Result<Vec<usize>> {
        if let Some(contents) = &query.contents {
            self.contents(contents)?;
        }
        if let Some(glob) = &query.path {
            if self.shown.is_outside(self.group, glob) {
                return Ok(Vec::new());
            }
            let streams = self.streams()?;
            self.paths(glob, &streams)?;
        }
        if query.mode != 0 {
            self.numbers(Criterion::Mode, |mode| mode & i64::from(query.mode) == i64::from(query.mode))?;
        }
        if query.mode_any != 0 {
            self.numbers(Criterion::ModeAny, |mode| mode & i64::from(query.mode_any) != 0)?;
        }
        if let Some(uid) = query.uid {
            self.numbers(Criterion::Uid, |n| n == i64::from(uid))?;
        }
        if let Some(gid) = query.gid {
            self.numbers(Criterion::Gid, |n| n == i64::from(gid))?;
        }
        if let Some(size) = &query.size {
            self.numbers(Criterion::Size, |n| size.contains(&(n as u64)))?;
        }
        if let Some(mtime) = &query.mtime {
            self.numbers(Criterion::Mtime, |n| mtime.contains(&n))?;
        }
        if let Some(file_type) = query.file_type {
            self.texts(Criterion::Type, |name| name == type_name(file_type))?;
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

    /// Keeps the rows that `find` finds in the column of a criterion, or that were found in an equal one.
    fn found(
        &mut self,
        criterion: Criterion,
        find: impl FnOnce() -> mif_formats::Result<Vec<u32>>,
    ) -> mif_formats::Result<()> {
        let rows = match self.known {
            Some(known) => known.rows(self.group, criterion, find)?,
            None => find()?.into(),
        };
        let mut rows = rows.iter().map(|row| *row as usize).peekable();
        match self.picked {
            None => self.picked = Some(rows.collect()),
            Some(_) => self.retain(|row| {
                while rows.next_if(|next| *next < row).is_some() {}
                rows.next_if_eq(&row).is_some()
            }),
        }
        Ok(())
    }

    fn numbers(&mut self, criterion: Criterion, fits: impl Fn(i64) -> bool) -> mif_formats::Result<()> {
        if self.done() {
            return Ok(());
        }
        let (group, column) = (self.group, criterion.column());
        match self.few() {
            Some(rows) => {
                let mut values = self.group.numbers_at(column, rows)?.into_iter();
                self.retain(|_| values.next().flatten().is_some_and(&fits));
            }
            None => {
                self.found(criterion, || {
                    let values = group.numbers(column)?;
                    let fits = |row: &u32| values[*row as usize].is_some_and(&fits);
                    Ok((0..group.rows as u32).filter(fits).collect())
                })?;
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
    fn paths(&mut self, glob: &PathGlob, streams: &[Option<String>]) -> mif_formats::Result<()> {
        if self.done() {
            return Ok(());
        }
        match self.shown {
            Shown::One(points) if points.is_empty() && streams.is_empty() => {
                self.texts(Criterion::Path, |path| glob.matches(path))
            }
            Shown::One(points) => {
                let volumes = self.group.texts(Column::Volume)?;
                let points_of = |row: usize| {
                    let volume = std::str::from_utf8(volumes[row].data()).unwrap_or_default();
                    points.get(volume).map_or(&[][..], Vec::as_slice)
                };
                self.full_paths(streams, |row, path| {
                    glob.matches(path) || points_of(row).iter().any(|point| is_seen(glob, path, point))
                })
            }
            Shown::Many(many) => {
                // First what any image might show there, which is found without asking which image it is.
                let may_match = |path: &str| {
                    glob.matches(path) || many.all.iter().any(|point| is_seen(glob, path, point))
                };
                match self.picked.is_none() && streams.is_empty() {
                    true => {
                        // Images that are alike have the same path, one after the other.
                        let (mut last, mut keep) = (false, Vec::with_capacity(self.group.rows));
                        self.group.each_text_again(Column::Path, |path, again| {
                            if !again {
                                last = std::str::from_utf8(path).is_ok_and(may_match);
                            }
                            keep.push(last);
                        })?;
                        self.retain(|row| keep[row]);
                    }
                    false => self.full_paths(streams, |_, path| may_match(path))?,
                }
                if many.all.is_empty() || self.done() {
                    return Ok(());
                }
                let rows: Vec<usize> = self.picked.clone().unwrap_or_else(|| (0..self.group.rows).collect());
                let volumes = self.group.texts_at(Column::Volume, &rows)?;
                let names = self.group.texts_at(many.kind.name_column(), &rows)?;
                let versions = self.group.numbers_at(many.kind.version_column(), &rows)?;
                let mut place = 0;
                self.full_paths(streams, |_, path| {
                    let image = (names[place].data(), versions[place].unwrap_or(0));
                    let volume = std::str::from_utf8(volumes[place].data()).unwrap_or_default();
                    place += 1;
                    let points = many.of.get(&image).and_then(|points| points.get(volume));
                    glob.matches(path) || points.into_iter().flatten().any(|point| is_seen(glob, path, point))
                })
            }
        }
    }

    /// Keeps the rows of which `keep` says so, by their number and full path. It is called in ascending order.
    fn full_paths(
        &mut self,
        streams: &[Option<String>],
        mut keep: impl FnMut(usize, &str) -> bool,
    ) -> mif_formats::Result<()> {
        let mut of = |row: usize, path: &[u8]| {
            let path = std::str::from_utf8(path).unwrap_or_default();
            keep(row, &full_path(path, streams.get(row).and_then(Option::as_deref)))
        };
        let kept: Vec<bool> = match self.few() {
            Some(rows) => {
                let paths = self.group.texts_at(Column::Path, rows)?;
                rows.iter().zip(&paths).map(|(row, path)| of(*row, path.data())).collect()
            }
            None => {
                let mut picked = self.picked.as_ref().map(|picked| picked.iter().peekable());
                let mut row = 0;
                let mut kept = Vec::with_capacity(self.group.rows);
                self.group.each_text(Column::Path, |path| {
                    if picked.as_mut().is_none_or(|picked| picked.next_if(|next| **next == row).is_some()) {
                        kept.push(of(row, path));
                    }
                    row += 1;
                })?;
                kept
            }
        };
        let mut kept = kept.into_iter();
        self.retain(|_| kept.next().unwrap_or(false));
        Ok(())
    }

    fn texts(&mut self, criterion: Criterion, fits: impl Fn(&str) -> bool) -> mif_formats::Result<()> {
        let (group, column) = (self.group, criterion.column());
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
                self.found(criterion, || {
                    let (mut rows, mut row) = (Vec::new(), 0);
                    group.each_text(column, |text| {
                        if fits(text) {
                            rows.push(row);
                        }
                        row += 1;
                    })?;
                    Ok(rows)
                })?;
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

impl Shown<'_> {
    /// Returns true if no row of a group can match a pattern, by the first and the last path of the group.
    pub(super) fn is_outside(&self, group: &Group<'_>, glob: &PathGlob) -> bool {
        let Some((low, high)) = group.bounds(Column::Path) else { return false };
        // The path of a stream is followed by its name.
        if !group.all_null(Column::Stream) {
            return false;
        }
        match self {
            Shown::One(points) => points.is_empty() && !glob.may_lie(low, high),
            Shown::Many(many) => {
                !glob.may_lie(low, high)
                    && !many.all.iter().any(|(folder, point)| glob.may_lie_below(folder, point, low, high))
            }
        }
    }
}

/// Returns true if a path matches as it is seen where `point`, a directory and a path, shows it.
fn is_seen(glob: &PathGlob, path: &str, (folder, point): &(String, String)) -> bool {
    let below = if path == "/" { "" } else { path };
    let rest = below.strip_prefix(&folder[..]).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    rest.is_some_and(|rest| glob.matches(&format!("{point}{rest}")))
}

/// Returns the path of a row, followed by a colon and the name of the stream if it describes one.
fn full_path<'p>(path: &'p str, stream: Option<&str>) -> Cow<'p, str> {
    stream.map_or(Cow::Borrowed(path), |stream| Cow::Owned(format!("{path}:{stream}")))
}

/// Returns the hits for these rows.
pub(super) fn describe(
    image: &str,
    group: &Group<'_>,
    rows: &[usize],
    known: Option<&Known>,
) -> mif_formats::Result<Vec<Hit>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let text = |column| match known {
        Some(known) => known.texts(group, column, rows),
        None => texts(group, column, rows),
    };
    let number = |column| match known {
        Some(known) => known.numbers(group, column, rows),
        None => group.numbers_at(column, rows),
    };
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
