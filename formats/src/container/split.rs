//! A raw disk in pieces: `disk.000`, `disk.001` and so on, or from `.001`, as forensic tools split it.

use std::path::Path;

use super::file::ImageFile;
use super::mapped::{Map, Mapped, Place, Run};
use super::opener::Opener;
use super::{CreateOptions, Disk, Format, Observer, Output};
use crate::error::{Result, at};
use crate::source::Source;

/// The most pieces: three digits.
const MAX_PIECES: u32 = 1000;

pub(super) struct Split;

impl Format for Split {
    fn name(&self) -> &'static str {
        "split"
    }

    fn suffixes(&self) -> &'static [&'static str] {
        &[]
    }

    fn probe(&self, _: &[u8], _: &[u8], _: u64) -> bool {
        // Recognised by name, not by bytes: see `is_first_piece`.
        false
    }

    fn open(&self, first: ImageFile, opener: &Opener<'_>) -> Result<Disk> {
        let mut disk = Pieces { ends: Vec::new(), files: Vec::new() };
        let path = first.path().to_owned();
        let mut number = piece_number(&path)
            .ok_or_else(|| at("").unsupported("not a piece of a split disk: the suffix is not 000 or 001"))?;
        disk.push(first)?;
        while number + 1 < MAX_PIECES {
            number += 1;
            let name = path.with_extension(format!("{number:03}"));
            if std::fs::symlink_metadata(&name).is_err() {
                break;
            }
            let name = name.file_name().expect("a changed suffix").as_encoded_bytes().to_vec();
            disk.push(opener.open_named(&path, &name)?)?;
        }
        let files: Vec<_> = disk.files.iter().map(ImageFile::opened).collect();
        let details = vec![("pieces".to_owned(), files.len().to_string())];
        let source = std::sync::Arc::new(Mapped::new(disk, None));
        Ok(Disk {
            source,
            format: "split",
            details,
            own_files: files.len(),
            files,
            warnings: Vec::new(),
            decrypted: Vec::new(),
        })
    }

    fn create(&self, _: &dyn Source, output: &mut Output, _: &CreateOptions, _: &dyn Observer) -> Result<()> {
        Err(at("").file(output.target()).unsupported("mif reads split disks but does not write them"))
    }
}

/// Returns true if `path` is named like the first of several pieces, and the second exists.
pub(super) fn is_first_piece(path: &Path) -> bool {
    piece_number(path).is_some_and(|n| n <= 1 && path.with_extension(format!("{:03}", n + 1)).is_file())
        // `.001` is the second piece if there is a `.000`.
        && (piece_number(path) == Some(0) || !path.with_extension("000").exists())
}

fn piece_number(path: &Path) -> Option<u32> {
    let suffix = path.extension()?.to_str()?;
    (suffix.len() == 3).then(|| suffix.parse().ok()).flatten()
}

struct Pieces {
    /// The end of each piece on the disk, in bytes.
    ends: Vec<u64>,
    files: Vec<ImageFile>,
}

impl Pieces {
    fn push(&mut self, file: ImageFile) -> Result<()> {
        let end = self.len().checked_add(file.len());
        self.ends
            .push(end.ok_or_else(|| at("").file(file.path()).limit("the pieces are too large together"))?);
        self.files.push(file);
        Ok(())
    }
}

impl Map for Pieces {
    fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    fn run_at(&self, offset: u64, _: u64) -> Result<Run> {
        let file = self.ends.partition_point(|end| *end <= offset);
        let start = self.ends[file] - self.files[file].len();
        let place = Place::Stored { file, offset: offset - start };
        Ok(Run { len: self.ends[file] - offset, place })
    }

    fn file(&self, index: usize) -> &ImageFile {
        &self.files[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_counted_up_to_the_limit() {
        let number = |name: &str| piece_number(Path::new(name));
        assert_eq!(number("disk.000"), Some(0));
        assert_eq!(number("disk.999"), Some(MAX_PIECES - 1));
        assert_eq!(number("disk.1000"), None);
    }
}
