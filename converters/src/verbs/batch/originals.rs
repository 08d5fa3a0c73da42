//! Compares stored images with the files that they were imported from.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use mif_formats::container::{self, OpenOptions};
use serde::Serialize;

use super::find::FoundImage;
use super::{NamePattern, resolved};
use crate::disk::decrypted;
use crate::error::{Error, Result};
use crate::image::{OpenImage, Origin};
use crate::store::{Image, ImageName, Selector, Store};
use crate::task::progress::Progress;
use crate::verbs::transfer::verify::{VerifyReport, verify_both};

/// How a stored image compares with the file that it was imported from.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Comparison {
    /// Every bit and every file is the same.
    Same {
        /// The file.
        original: String,
        /// The number of paths that were compared.
        files: u64,
    },
    /// Bits or files differ.
    Differs {
        /// The file.
        original: String,
        /// The differences.
        report: Box<VerifyReport>,
    },
    /// No original was found.
    NoOriginal,
    /// The images could not be compared.
    Failed {
        /// The file.
        original: String,
        /// The reason.
        error: String,
    },
    /// The image was not imported from a file, or the file was imported again later.
    NotCompared {
        /// The reason.
        why: String,
    },
}

impl Comparison {
    /// Returns true if the comparison found no problem.
    #[must_use]
    pub fn is_good(&self) -> bool {
        matches!(self, Comparison::Same { .. } | Comparison::NotCompared { .. })
    }
}

/// Matches images with originals, by their numbers: each with the file of the same name whose path agrees longest at
/// its end, or else with one whose name yields the image's name. An error is the reason why an image is not compared.
pub(super) fn matches(images: &[Image], originals: &[FoundImage]) -> Vec<Result<Option<usize>, String>> {
    let last_imports = last_imports(images);
    let paths: Vec<PathBuf> = originals.iter().map(|original| resolved(&original.path)).collect();
    let mut by_file: HashMap<&std::ffi::OsStr, Vec<usize>> = HashMap::new();
    for (number, path) in paths.iter().enumerate() {
        by_file.entry(path.file_name().unwrap_or_default()).or_default().push(number);
    }
    let found = images.iter().map(|image| {
        let from = source(image);
        let same_name = from.as_ref().and_then(|from| by_file.get(from.file_name()?)).into_iter().flatten();
        let score = |number: &usize| common_end(&paths[*number], from.as_deref().unwrap_or(Path::new("")));
        // The first one, if several are equal.
        same_name
            .map(|number| (score(number), *number))
            .max_by_key(|(score, number)| (*score, usize::MAX - number))
    });
    let found: Vec<Option<(usize, usize)>> = found.collect();
    let mut best = vec![0; originals.len()];
    for (score, number) in found.iter().flatten() {
        best[*number] = best[*number].max(*score);
    }
    let stem = NamePattern::default();
    let by_name =
        |image: &Image| originals.iter().position(|original| stem.name_of(&original.path) == image.name);
    let choose = |(image, found): (&Image, &Option<(usize, usize)>)| {
        if !image.provenance.is_of_file() {
            return Err(format!("made by {}, not imported", image.provenance.operation));
        }
        match last_imports[image.name.as_str()] {
            last if last > image.version => {
                return Err(format!("superseded by version {last}, which was imported later"));
            }
            _ => {}
        }
        // A file that matches another image's path better belongs to that image.
        let fits = found.filter(|(score, number)| *score == best[*number]).map(|(_, number)| number);
        Ok(fits.or_else(|| by_name(image)))
    };
    images.iter().zip(&found).map(choose).collect()
}

/// Returns the last version of each name that is the disk of a file.
fn last_imports(images: &[Image]) -> HashMap<&str, u32> {
    let imported = images.iter().filter(|image| image.provenance.is_of_file());
    let mut last: HashMap<&str, u32> = HashMap::new();
    for image in imported {
        let version = last.entry(&image.name).or_default();
        *version = image.version.max(*version);
    }
    last
}

/// Returns the path of the file that an image was imported from, as far as it is known.
fn source(image: &Image) -> Option<PathBuf> {
    let first = image.provenance.files.first().map(|file| PathBuf::from(&file.path));
    first.or_else(|| image.provenance.source.as_ref().map(PathBuf::from))
}

/// Returns how many components at the end of two paths are the same.
fn common_end(a: &Path, b: &Path) -> usize {
    a.components().rev().zip(b.components().rev()).take_while(|(a, b)| a == b).count()
}

/// Compares an image with a file.
pub(super) fn compare(
    store: &Store,
    image: &Image,
    original: &FoundImage,
    options: &OpenOptions,
    progress: &dyn Progress,
) -> Result<Comparison> {
    let file = original.path.display().to_string();
    let same_file = source(image).is_some_and(|from| from.file_name() == original.path.file_name());
    // The raw disk in a wrapper has another length than the file.
    let is_whole = std::fs::metadata(&original.file).is_ok_and(|meta| meta.len() == image.disk_size);
    let format = image.provenance.source_format.clone();
    let options = OpenOptions {
        // Only the user can know that a file is a raw disk.
        format: format.filter(|format| same_file && (is_whole || format != "raw")),
        snapshot: image.provenance.snapshot.clone(),
        ..options.clone()
    };
    let compared = || -> Result<VerifyReport> {
        let name = ImageName { name: image.name.clone(), version: Selector::Number(image.version) };
        let container = match (image.provenance.decrypted.is_empty(), options.passphrases.is_empty()) {
            (true, _) => container::open_observed(
                &original.path,
                &OpenOptions { passphrases: Vec::new(), ..options },
                progress,
            )?,
            (false, true) => {
                return Err(Error::input(
                    "the import decrypted this disk, so comparing it with its file needs the key",
                )
                .advise("Pass --key-file FILE or --ask-key"));
            }
            (false, false) => decrypted::open(&original.path, &options, progress)?,
        };
        let original = OpenImage { label: file.clone(), origin: Origin::File { container } };
        verify_both(&OpenImage::stored(store, &name)?, &original, progress)
    };
    Ok(match compared() {
        Ok(report) => {
            let files = report.files.as_ref().expect("they were compared");
            match report.same_bits && files.same {
                true => Comparison::Same { original: file, files: files.compared },
                false => Comparison::Differs { original: file, report: Box::new(report) },
            }
        }
        Err(error) if progress.interrupted() => return Err(error),
        Err(error) => Comparison::Failed { original: file, error: error.to_string() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str, version: u32, operation: &str, source: &str) -> Image {
        let mut image = Image::empty(name, version, operation);
        image.provenance.source = Some(source.into());
        image
    }

    fn matched(images: &[Image], originals: &[&str]) -> Vec<Result<Option<usize>, String>> {
        let original = |path: &&str| FoundImage::file(path.into());
        matches(images, &originals.iter().map(original).collect::<Vec<_>>())
    }

    #[test]
    fn the_original_is_the_file_of_which_most_of_the_path_is_the_same() {
        let images = [
            image("db-disk", 1, "import", "/vms/db/disk.vmdk"),
            image("old", 1, "import", "/elsewhere/gone/disk.vmdk"),
            image("web-disk", 1, "import", "/vms/web/disk.vmdk"),
            image("web-snapshot", 1, "import", "/vms/web/disk.vmdk"),
        ];
        let found = matched(&images, &["/moved/web/disk.vmdk", "/moved/db/disk.vmdk"]);
        // A file may be the original of several images, but not of one that it matches less well than another.
        assert_eq!(found, [Ok(Some(1)), Ok(None), Ok(Some(0)), Ok(Some(0))]);
    }

    #[test]
    fn the_image_has_its_files_name_where_the_file_was_called_otherwise() {
        let images = [image("web", 1, "import", "/a/web.raw"), image("db", 1, "import", "/a/db.raw")];
        assert_eq!(matched(&images, &["/b/web.qcow2"]), [Ok(Some(0)), Ok(None)]);
    }

    #[test]
    fn the_last_import_of_a_name_has_an_original_and_what_was_made_here_has_none() {
        let images = [
            image("web", 1, "import", "/a/web.raw"),
            image("web", 2, "import", "/a/web.raw"),
            image("web", 3, "customize", ""),
        ];
        let found = matched(&images, &["/a/web.raw"]);
        assert!(found[0].is_err() && found[2].is_err(), "{found:?}");
        assert_eq!(found[1], Ok(Some(0)));
    }
}
