//! The gate: which further files an image may make us open, and how deep chains of them go.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::file::ImageFile;
use super::{Disk, OpenOptions, open_file};
use crate::{Error, ErrorKind, Result, at};

/// The longest chain of disks on top of each other.
pub(super) const MAX_CHAIN: usize = 64;

/// The longest name of a further file, in bytes.
const MAX_NAME: usize = 4096;

/// Passed down a chain of images while it is opened.
pub struct Opener<'a> {
    options: &'a OpenOptions,
    /// Folders beneath which files may be opened: resolved, without symbolic links.
    roots: Vec<PathBuf>,
    /// The files of the chain so far, by device and inode.
    chain: Vec<(u64, u64)>,
}

impl<'a> Opener<'a> {
    /// For the image at `path`, the first of its chain.
    pub(super) fn new(path: &Path, options: &'a OpenOptions) -> Result<Self> {
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mut roots = Vec::new();
        for root in std::iter::once(folder).chain(options.allow_paths.iter().map(PathBuf::as_path)) {
            roots.push(root.canonicalize().map_err(|e| at("").file(root).io(e))?);
        }
        Ok(Opener { options, roots, chain: Vec::new() })
    }

    /// How the first image is to be opened.
    #[must_use]
    pub fn options(&self) -> &'a OpenOptions {
        self.options
    }

    /// Opens the file that the image at `image` calls `name`, if it may.
    pub fn open_named(&self, image: &Path, name: &[u8]) -> Result<ImageFile> {
        let place = || at("name of a further file").file(image);
        let shown = String::from_utf8_lossy(name).into_owned();
        if name.is_empty() || name.len() > MAX_NAME || name.contains(&0) {
            return Err(place().corrupt(format!("{shown:?} is not a file name")));
        }
        let name: &OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name);
        let folder = image.parent().unwrap_or(Path::new(""));
        let path = folder.join(name);
        let resolved = path.canonicalize().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => place().not_found(format!(
                "the image needs the file {shown:?}, and {} is not there",
                path.display()
            )),
            _ => at("").file(&path).io(e),
        })?;
        if !self.roots.iter().any(|root| resolved.starts_with(root)) {
            return Err(place().denied(format!(
                "the image wants to open {}, which is outside its own folder; \
                 --allow-path {} permits it",
                resolved.display(),
                resolved.parent().unwrap_or(Path::new("/")).display()
            )));
        }
        if !resolved.is_file() {
            return Err(place().denied(format!("{} is not a regular file", resolved.display())));
        }
        // The resolved path is what was checked, so it is what is opened.
        ImageFile::open(&resolved)
    }

    /// Opens the disk beneath the image at `image`: the file that it calls `name`, of format `format` when
    /// the image says so. A raw disk is only taken for one when the image says so: its bytes are the
    /// guest's, who could write another format's header there.
    pub fn open_backing(&self, image: &ImageFile, name: &[u8], format: Option<&str>) -> Result<Disk> {
        let file = self.open_named(image.path(), name)?;
        let place = || at("backing file").file(image.path());
        let mut chain = self.chain.clone();
        chain.push(image.identity()?);
        if chain.contains(&file.identity()?) {
            return Err(place().corrupt(format!(
                "{} is on top of itself: the chain of backing files is a circle",
                file.path().display()
            )));
        }
        if chain.len() >= MAX_CHAIN {
            return Err(place().limit(format!("more than {MAX_CHAIN} disks on top of each other")));
        }
        // Snapshots and formats that were asked for are of the first image only.
        let options = OpenOptions { format: format.map(str::to_owned), ..OpenOptions::default() };
        let opener = Opener { options: &options, roots: self.roots.clone(), chain };
        let shown = file.path().to_owned();
        let disk = open_file(file, &opener)?;
        if disk.format == "raw" && format.is_none() {
            return Err(place().unsupported(format!(
                "{} is of no known format and the image does not call it raw; \
                 qemu-img rebase -u -F raw says that it is",
                shown.display()
            )));
        }
        Ok(disk)
    }
}

/// Tries the names that a Windows program gave a parent, each as it is and then as a file beside the image,
/// and gives the first that `check` takes. Else the error is the one that tells most: not that a file is
/// missing, if another was found and refused.
pub(super) fn find_windows_name(names: &[String], check: impl Fn(&str) -> Result<()>) -> Result<String> {
    let mut failed: Option<Error> = None;
    for name in names {
        let path = name.replace('\\', "/");
        let beside = path.rsplit('/').next().unwrap_or_default().to_owned();
        for name in [path, beside] {
            if name.is_empty() {
                continue;
            }
            match check(&name) {
                Ok(()) => return Ok(name),
                Err(error) => {
                    let tells_more = |old: &Error| {
                        old.kind() == ErrorKind::NotFound && error.kind() != ErrorKind::NotFound
                    };
                    if failed.as_ref().is_none_or(tells_more) {
                        failed = Some(error);
                    }
                }
            }
        }
    }
    Err(failed.unwrap_or_else(|| at("parent disk").corrupt("the image needs one and does not name it")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_beneath_the_image_or_an_allowed_folder_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("inside"), dir.path().join("outside"));
        std::fs::create_dir_all(inside.join("below")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        for file in [inside.join("image"), inside.join("below/extent"), outside.join("secret")] {
            std::fs::write(file, "x").unwrap();
        }
        std::os::unix::fs::symlink(outside.join("secret"), inside.join("link")).unwrap();
        std::os::unix::fs::symlink(inside.join("below/extent"), inside.join("good-link")).unwrap();
        let image = inside.join("image");
        let mut options = OpenOptions::default();
        let kind = |options: &OpenOptions, name: &str| {
            let opened = Opener::new(&image, options).unwrap().open_named(&image, name.as_bytes());
            opened.err().map(|e| e.kind())
        };
        let absolute = outside.join("secret").display().to_string();
        assert_eq!(kind(&options, "below/extent"), None);
        assert_eq!(kind(&options, "good-link"), None);
        assert_eq!(kind(&options, "../outside/secret"), Some(ErrorKind::Denied));
        assert_eq!(kind(&options, &absolute), Some(ErrorKind::Denied));
        assert_eq!(kind(&options, "link"), Some(ErrorKind::Denied));
        assert_eq!(kind(&options, "below"), Some(ErrorKind::Denied));
        assert_eq!(kind(&options, "missing"), Some(ErrorKind::NotFound));
        assert_eq!(kind(&options, "a\0b"), Some(ErrorKind::Corrupt));
        assert_eq!(kind(&options, &"./".repeat(MAX_NAME / 2)), Some(ErrorKind::Denied), "the folder itself");
        assert_eq!(kind(&options, &("./".repeat(MAX_NAME / 2) + "/")), Some(ErrorKind::Corrupt), "too long");
        options.allow_paths.push(outside);
        assert_eq!(kind(&options, &absolute), None);
        assert_eq!(kind(&options, "link"), None);
    }
}
