//! Finds the partition and file of each byte that differs.

use std::collections::HashMap;

use mif_formats::Source;
use mif_formats::fs::Piece;
use mif_formats::fs::walk::walk;
use mif_formats::mif::manifest::escape;
use serde::Serialize;

use crate::disk::compare::{WINDOW, read_or_zero};
use crate::disk::scan::Scan;
use crate::disk::volume::VolumeOffset;
use crate::error::Result;
use crate::task::progress::{self, Progress};

/// Differing bytes in one place.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct PlaceReport {
    /// `p1:/etc/hosts`; `p1, outside file contents`; `p3` if it has no filesystem that is read; or `outside all
    /// partitions`.
    pub place: String,
    /// The offset of the first differing byte there, on the disk.
    pub first: u64,
    /// The number of differing bytes there.
    pub bytes: u64,
}

/// A run of bytes of the disk that belongs to one file or volume.
struct Owned {
    start: u64,
    end: u64,
    owner: usize,
    /// Where in the file or on the volume it starts.
    offset: u64,
}

/// The owners of a disk's bytes.
pub(super) struct Places {
    /// Names of owners; the first stands for bytes without an owner.
    owners: Vec<String>,
    /// Content of files, sorted by start.
    files: Vec<Owned>,
    /// Volumes, the innermost first.
    volumes: Vec<Owned>,
}

impl Places {
    pub(super) fn new(scan: &Scan) -> Self {
        let mut places =
            Places { owners: vec!["outside all partitions".into()], files: Vec::new(), volumes: Vec::new() };
        // In reverse, because a logical volume is more specific than the partition that it lies in.
        for volume in scan.volumes.iter().rev() {
            let name = &volume.name;
            let listing = volume.filesystem().and_then(|fs| Some((fs, walk(fs).ok()?)));
            let whole =
                if listing.is_some() { format!("{name}, outside file contents") } else { name.clone() };
            let owner = places.owner(whole);
            places.volumes.extend(volume.extents.iter().map(|extent| Owned {
                start: extent.disk.0,
                end: extent.disk.0 + extent.len,
                owner,
                offset: extent.volume.0,
            }));
            let Some((fs, listing)) = listing else { continue };
            for entry in &listing.entries {
                let Ok(content) = fs.content(listing.nodes.handle(entry.file)) else { continue };
                if content.pieces.iter().all(|piece| !matches!(piece, Piece::Volume { .. })) {
                    continue;
                }
                let owner = places.owner(format!("{name}:{}", escape(&entry.path)));
                let mut in_file = 0;
                for piece in &content.pieces {
                    if let Piece::Volume { offset, len } = piece {
                        let mut at = in_file;
                        for (start, len) in volume.on_disk(VolumeOffset(*offset), *len) {
                            places.files.push(Owned {
                                start: start.0,
                                end: start.0 + len,
                                owner,
                                offset: at,
                            });
                            at += len;
                        }
                    }
                    in_file += piece.len();
                }
            }
        }
        // A stable sort: if a file has several links, the first path is reported.
        places.files.sort_by_key(|run| run.start);
        places
    }

    fn owner(&mut self, name: String) -> usize {
        self.owners.push(name);
        self.owners.len() - 1
    }

    /// Returns the owner of `byte`, its offset in the file or volume, and the end of the range for which this holds.
    fn find(&self, byte: u64) -> (usize, Option<u64>, u64) {
        let after = self.files.partition_point(|run| run.start <= byte);
        let next = self.files.get(after).map_or(u64::MAX, |run| run.start);
        // The first of the runs that start at the same byte. Files that share blocks in other ways are damaged.
        let mut before = self.files[..after].iter().rev().take_while(|run| byte < run.end);
        let mut file = before.next();
        file = before.take_while(|run| Some(run.start) == file.map(|f| f.start)).last().or(file);
        if let Some(run) = file {
            return (run.owner, Some(run.offset + byte - run.start), run.end.min(next));
        }
        let edges = self.volumes.iter().flat_map(|run| [run.start, run.end]);
        let until = edges.filter(|edge| *edge > byte).fold(next, u64::min);
        match self.volumes.iter().find(|run| (run.start..run.end).contains(&byte)) {
            Some(run) => (run.owner, Some(run.offset + byte - run.start), until),
            None => (0, None, until),
        }
    }

    /// Describes the place of `byte` of the disk.
    pub(super) fn describe(&self, byte: u64) -> String {
        let (owner, inside, _) = self.find(byte);
        let name = &self.owners[owner];
        match inside {
            None => name.clone(),
            Some(inside) => format!("{name}, at offset {inside}"),
        }
    }

    /// Counts the bytes that differ in each place, in the windows of the disk that start at `windows`.
    pub(super) fn tally(
        &self,
        (a, b): (&dyn Source, &dyn Source),
        windows: &[u64],
        progress: &dyn Progress,
    ) -> Result<Vec<PlaceReport>> {
        let size = a.len().max(b.len());
        let (mut x, mut y) = (vec![0; WINDOW as usize], vec![0; WINDOW as usize]);
        let mut counts: HashMap<usize, (u64, u64)> = HashMap::new();
        progress.stage("locating differences", windows.len() as u64 * WINDOW);
        for &start in windows {
            progress::check(progress)?;
            let len = (size - start).min(WINDOW) as usize;
            read_or_zero(a, start, &mut x[..len])?;
            read_or_zero(b, start, &mut y[..len])?;
            let mut at = 0;
            while at < len {
                let Some(skipped) = x[at..len].iter().zip(&y[at..len]).position(|(x, y)| x != y) else {
                    break;
                };
                at += skipped;
                let first = start + at as u64;
                let (owner, _, until) = self.find(first);
                let end = (until - start).min(len as u64) as usize;
                let count = x[at..end].iter().zip(&y[at..end]).filter(|(x, y)| x != y).count() as u64;
                counts.entry(owner).or_insert((first, 0)).1 += count;
                at = end;
            }
            progress.advance(WINDOW);
        }
        let report = |(owner, (first, bytes)): (usize, _)| PlaceReport {
            place: self.owners[owner].clone(),
            first,
            bytes,
        };
        let mut places: Vec<PlaceReport> = counts.into_iter().map(report).collect();
        places.sort_by_key(|place| place.first);
        Ok(places)
    }
}
