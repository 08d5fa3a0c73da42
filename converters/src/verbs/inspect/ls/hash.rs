//! Computes the SHA-1 of files for images without digests.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use mif_formats::Source;
use mif_formats::fs::{FileId, FileType};
use mif_formats::mif::manifest::escape;
use sha1::{Digest, Sha1};

use crate::error::{Error, Result};
use crate::ingest::MAX_HASHED_HOLES;
use crate::task::pool::on_all_processors;
use crate::task::progress::{self, Progress};
use crate::tree::view::Tree;

/// How many bytes of a file are read at once.
const WINDOW: usize = 1 << 20;

/// Digests of the listed files.
pub(super) struct Hashes {
    /// The digest of each requested row, if it was computed.
    pub(super) digests: Vec<Option<[u8; 20]>>,
    /// Warnings about what could not be read, as sentences.
    pub(super) complaints: Vec<String>,
}

/// Hashes those of `rows` that are regular files without a digest, each file once, on all processors.
pub(super) fn all(tree: &Tree, rows: &[usize], progress: &dyn Progress) -> Result<Hashes> {
    let row = |i: usize| &tree.rows()[i];
    // By volume and file, which is roughly the order on the disk. A row without a file id is a file of its own.
    let mut files: BTreeMap<(&str, Option<FileId>, usize), Vec<usize>> = BTreeMap::new();
    for (place, i) in rows.iter().enumerate() {
        let row = row(*i);
        if row.node.file_type == FileType::File && row.sha1().is_none() {
            let alone = if row.file.is_some() { 0 } else { *i };
            files.entry((&row.volume, row.file, alone)).or_default().push(place);
        }
    }
    let files: Vec<Vec<usize>> = files.into_values().collect();
    progress.stage("hashing", files.iter().map(|places| row(rows[places[0]]).node.size).sum());
    let next = AtomicUsize::new(0);
    let holes_left = Mutex::new(MAX_HASHED_HOLES);
    let found = Mutex::new(Hashes { digests: vec![None; rows.len()], complaints: Vec::new() });
    on_all_processors(|failed| {
        let mut buf = vec![0; WINDOW];
        while let Some(places) = files.get(next.fetch_add(1, Ordering::Relaxed)).filter(|_| !failed()) {
            let i = rows[places[0]];
            let digest = tree.content(i).and_then(|file| hash(&*file, &mut buf, &holes_left, progress));
            progress::check(progress)?;
            let mut found = found.lock().expect("not poisoned");
            match digest {
                Ok(digest) => places.iter().for_each(|place| found.digests[*place] = Some(digest)),
                Err(error) => {
                    let row = row(i);
                    found.complaints.push(format!("{}:{}: {error}", row.volume, escape(&row.path)));
                }
            }
        }
        Ok(())
    })?;
    let mut found = found.into_inner().expect("not poisoned");
    found.complaints.sort();
    Ok(found)
}

/// Returns the SHA-1 of a file. Holes are hashed as long as there are `holes_left`.
fn hash(
    file: &dyn Source,
    buf: &mut [u8],
    holes_left: &Mutex<u64>,
    progress: &dyn Progress,
) -> Result<[u8; 20]> {
    let mut hasher = Sha1::new();
    let mut at = 0;
    while at < file.len() {
        progress::check(progress)?;
        let extent = file.extent_at(at)?;
        let part = extent.len().min(buf.len() as u64) as usize;
        if extent.is_zero() {
            let mut left = holes_left.lock().expect("not poisoned");
            *left = left.checked_sub(part as u64).ok_or_else(|| {
                Error::input(format!(
                    "not hashed: the files listed have over {MAX_HASHED_HOLES} bytes of holes"
                ))
            })?;
            drop(left);
            buf[..part].fill(0);
        } else {
            file.read_at(at, &mut buf[..part])?;
        }
        hasher.update(&buf[..part]);
        progress.advance(part as u64);
        at += part as u64;
    }
    Ok(hasher.finalize().into())
}
