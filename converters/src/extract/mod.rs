//! `extract`: copies a tree of an image to a directory or a tar archive.

mod folder;
mod tar;

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use mif_formats::Source;
use mif_formats::container::{Output, OutputFile};
use mif_formats::fs::FileType;
use mif_formats::mif::manifest::{Row, escape_apart};
use mif_formats::mif::pack::MAX_WHOLE;
use mif_formats::source::is_zero;
use serde::Serialize;

use crate::disk::blocks::{BLOCK, blocks};
use crate::error::{Error, Result};
use crate::image::OpenImage;
use crate::task::progress::Progress;
use crate::tree::path::VolumePath;
use crate::tree::view::Tree;

/// How many bytes of a file are copied at once.
const WINDOW: u64 = 1 << 20;

/// The target of an extraction.
pub enum Target<'a> {
    /// A new or empty directory. An existing directory keeps its mode and owner.
    Folder {
        /// The directory.
        path: &'a Path,
        /// Also create devices, and set set-user-ID and set-group-ID bits and `security.*` attributes, which include
        /// capabilities of programs: all of these grant rights on the local machine. (A tar contains them in any case,
        /// as data.)
        privileged: bool,
    },
    /// A tar file, which appears complete or not at all.
    TarFile {
        /// The file.
        path: &'a Path,
        /// Replace an existing file.
        force: bool,
    },
    /// A tar written to a stream.
    Tar(&'a mut dyn Write),
}

/// The report of `extract`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ExtractReport {
    /// The image.
    pub image: String,
    /// The path that was extracted, as `volume:/path`.
    pub path: String,
    /// The output's path; `None` if it was written to a stream.
    pub output: Option<String>,
    /// The number of paths that were created.
    pub paths: u64,
    /// The number of regular files, with hard links counted once.
    pub files: u64,
    /// Their bytes, including holes.
    pub bytes: u64,
    /// Attributes that were not set, because the machine or the user's permissions did not allow it, or because they
    /// need `privileged`. Everything else is as in the image.
    pub not_set: Vec<NotSet>,
    /// Paths that are missing or incomplete, each with the reason.
    pub failed: Vec<String>,
    /// Warnings about parts of the image that could not be read, as sentences.
    pub warnings: Vec<String>,
    /// The duration in seconds.
    pub seconds: f64,
}

/// A kind of attribute that could not be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotSet {
    /// The attribute: `owner`, `device`, `xattr security.capability`.
    pub what: String,
    /// The number of paths.
    pub paths: u64,
    /// The reason for the first path.
    pub reason: String,
    /// The first of these paths.
    pub first: String,
}

impl ExtractReport {
    /// Records that `what` could not be set at `path`.
    fn not_set(&mut self, what: &str, path: &[u8], reason: &str) {
        if let Some(known) = self.not_set.iter_mut().find(|known| known.what == what) {
            known.paths += 1;
            return;
        }
        let (what, reason) = (what.to_owned(), reason.to_owned());
        self.not_set.push(NotSet { what, paths: 1, reason, first: escape_apart(path) });
    }
}

/// Copies the tree at `path` of `image` (by default its root filesystem) to `target`. The entries of a directory go
/// directly into the target, a file under its own name.
pub fn extract(
    image: &OpenImage,
    path: Option<&VolumePath>,
    target: Target<'_>,
    progress: &dyn Progress,
) -> Result<ExtractReport> {
    let started = Instant::now();
    let tree = image.tree()?;
    let root = VolumePath { volume: None, path: b"/".to_vec() };
    let base = tree.find(path.unwrap_or(&root), true)?;
    let (selected, left_out) = select(&tree, base)?;
    let streams = left_streams(&tree, base);
    let row = &tree.rows()[base];
    let mut report = ExtractReport {
        image: image.label.clone(),
        path: format!("{}:{}", row.volume, row.path_text()),
        warnings: tree.complaints.clone(),
        failed: left_out,
        ..ExtractReport::default()
    };
    for stream in streams {
        report.not_set("alternate stream", &stream.full_path(), "name it to extract it");
    }
    let all = selected.iter().filter(|item| item.row.node.file_type == FileType::File);
    progress.stage("extracting", all.map(|item| item.row.node.size).fold(0, u64::saturating_add));
    match target {
        Target::Folder { path: to, privileged } => {
            folder::extract(&tree, &selected, to, privileged, &mut report, progress)?;
            report.output = Some(to.display().to_string());
        }
        Target::TarFile { path, force } => {
            let mut output = Output::new(path, force)?;
            output.limit(image.access());
            let to = At { file: output.create()?, offset: 0 };
            let mut out = std::io::BufWriter::with_capacity(WINDOW as usize, to);
            tar::extract(&tree, &selected, &mut out, &mut report, progress)?;
            drop(out);
            output.commit()?;
            report.output = Some(path.display().to_string());
        }
        Target::Tar(out) => tar::extract(&tree, &selected, out, &mut report, progress)?,
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// Writes a file sequentially.
struct At<'f> {
    file: &'f OutputFile,
    offset: u64,
}

impl Write for At<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write_at(self.offset, bytes).map_err(std::io::Error::other)?;
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A path to extract.
struct Item<'t> {
    /// The path relative to the target, without a leading slash; empty for the target itself.
    path: Vec<u8>,
    row: &'t Row,
    /// The row's number in the tree.
    number: usize,
    /// The first item of the same file, if this is a further hard link.
    link_to: Option<usize>,
}

/// Returns the alternate streams of a file, or of everything under a directory: they have no place in the output.
fn left_streams(tree: &Tree, base: usize) -> impl Iterator<Item = &Row> {
    let top = &tree.rows()[base];
    let below = [&top.path[..], b"/"].concat();
    let is_below = move |path: &[u8]| {
        path == top.path
            || top.node.file_type == FileType::Dir && (top.path == b"/" || path.starts_with(&below))
    };
    let streams = tree.rows().iter().filter(|row| row.part.is_some() && row.volume == top.volume);
    streams.filter(move |row| top.part.is_none() && is_below(&row.path))
}

/// Selects the row `base` and everything under it, each directory before its entries. Also returns what is left out, as
/// sentences.
///
/// A damaged directory may contain a name twice. The first entry is used, so that no path leads through a symlink with
/// the same name as a directory.
fn select(tree: &Tree, base: usize) -> Result<(Vec<Item<'_>>, Vec<String>)> {
    let top = &tree.rows()[base];
    let is_folder = top.node.file_type == FileType::Dir;
    let mut prefix = if top.path == b"/" { Vec::new() } else { top.path.clone() };
    if is_folder {
        prefix.push(b'/');
    }
    let mut items = Vec::new();
    let picked =
        |(number, row): &(usize, &Row)| row.volume == top.volume && (row.part.is_none() || *number == base);
    for (number, row) in tree.rows().iter().enumerate().filter(picked) {
        let path = match row.path.strip_prefix(&prefix[..]) {
            _ if number == base && is_folder => Vec::new(),
            _ if number == base => top.full_path().rsplit(|b| *b == b'/').next().unwrap_or_default().to_vec(),
            Some(path) if is_folder && !path.is_empty() => path.to_vec(),
            _ => continue,
        };
        let bad = |part: &[u8]| matches!(part, b"" | b"." | b"..") || part.contains(&0);
        if !path.is_empty() && path.split(|b| *b == b'/').any(bad) {
            return Err(Error::input(format!("{}: not a valid path to extract", row.path_text())));
        }
        items.push(Item { path, row, number, link_to: None });
    }
    items.sort_by(|a, b| a.path.split(|c| *c == b'/').cmp(b.path.split(|c| *c == b'/')));
    let mut left_out = Vec::new();
    let mut last = None;
    let mut directories = std::collections::HashSet::new();
    items.retain(|item| {
        let parent = item.path.iter().rposition(|b| *b == b'/').map_or(&b""[..], |cut| &item.path[..cut]);
        let problem = if last.as_ref() == Some(&item.path) {
            "duplicate name in its directory; only the first was extracted"
        } else if !item.path.is_empty() && is_folder && !directories.contains(parent) {
            "its directory was not extracted"
        } else {
            last = Some(item.path.clone());
            if item.row.node.file_type == FileType::Dir {
                directories.insert(item.path.clone());
            }
            return true;
        };
        left_out.push(format!("{}: {problem}", item.row.path_text()));
        false
    });
    let mut first = std::collections::HashMap::new();
    for (i, item) in items.iter_mut().enumerate() {
        if let (Some(file), true) = (item.row.file, item.row.node.file_type != FileType::Dir) {
            let known = *first.entry(file).or_insert(i);
            item.link_to = (known != i).then_some(known);
        }
    }
    Ok((items, left_out))
}

/// Returns the parts of a file to write, sorted and disjoint. Everything else is a hole.
fn data_parts(source: &dyn Source) -> Result<Vec<Range<u64>>> {
    let mut parts: Vec<Range<u64>> = Vec::new();
    let mut add = |range: Range<u64>| match parts.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => parts.push(range),
    };
    let mut at = 0;
    while at < source.len() {
        let extent = source.extent_at(at)?;
        let end = extent.range.end.min(source.len());
        if !extent.is_zero() {
            // A small file is stored whole, including its holes.
            if source.len() <= MAX_WHOLE && source.len() > BLOCK {
                let bytes = source.read_vec(at, (end - at) as usize)?;
                for block in blocks(at..end) {
                    let part = &bytes[(block.start - at) as usize..(block.end - at) as usize];
                    if part.len() < BLOCK as usize || !is_zero(part) {
                        add(block);
                    }
                }
            } else {
                add(at..end);
            }
        }
        at = end;
    }
    Ok(parts)
}

/// Reads the parts of a file in order, and passes them to `write` with their offsets.
fn copy(
    source: &dyn Source,
    parts: &[Range<u64>],
    progress: &dyn Progress,
    mut write: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; WINDOW.min(source.len()) as usize];
    for part in parts {
        let mut at = part.start;
        while at < part.end {
            crate::task::progress::check(progress)?;
            let bytes = &mut buffer[..(part.end - at).min(WINDOW) as usize];
            source.read_at(at, bytes)?;
            write(at, bytes)?;
            at += bytes.len() as u64;
        }
    }
    progress.advance(source.len());
    Ok(())
}
