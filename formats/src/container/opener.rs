//! The gate: which further files an image may make us open, and how deep chains of them go.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::file::ImageFile;
use super::{Disk, OpenOptions, open_file};
use crate::{Error, ErrorKind, Result, at};

/// The longest chain of disks on top of each other.
pub(super) const MAX_CHAIN: usize = 64;

/// How many directory entries are examined to find a parent.
const MAX_LISTED: usize = 4096;

/// The longest name of a further file, in bytes.
const MAX_NAME: usize = 4096;

/// Passed down a chain of images while it is opened.
pub struct Opener<'a> {
    options: &'a OpenOptions,
    /// Folders beneath which files may be opened: resolved, without symbolic links.
    roots: Vec<PathBuf>,
    /// The files of the chain so far, by device and inode.
    chain: Vec<(u64, u64)>,
    /// Parents named by the user: of this image, then of its parent, and so on.
    parents: &'a [PathBuf],
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
        Ok(Opener { options, roots, chain: Vec::new(), parents: &options.parents })
    }

    /// How the first image is to be opened.
    #[must_use]
    pub fn options(&self) -> &'a OpenOptions {
        self.options
    }

    /// The parent that the user named for this image. It is used whatever the image says about its parent.
    #[must_use]
    pub fn parent(&self) -> Option<&'a Path> {
        self.parents.first().map(PathBuf::as_path)
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

    /// The names, relative to `image`, of files with this suffix in the image's directory and its parent directory, as far
    /// as those may be opened. At most [`MAX_LISTED`] entries of a directory are examined.
    pub(super) fn files_around(&self, image: &Path, suffix: &str) -> Vec<Vec<u8>> {
        let folder = match image.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mut names = Vec::new();
        for prefix in ["", "../"] {
            let Ok(folder) = folder.join(prefix).canonicalize() else { continue };
            if !self.roots.iter().any(|root| folder.starts_with(root)) {
                continue;
            }
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            let here = entries.take(MAX_LISTED).flatten().map(|entry| entry.file_name());
            let here =
                here.filter(|n| Path::new(n).extension().is_some_and(|s| s.eq_ignore_ascii_case(suffix)));
            let mut here: Vec<Vec<u8>> =
                here.map(|name| [prefix.as_bytes(), name.as_encoded_bytes()].concat()).collect();
            here.sort();
            names.extend(here);
        }
        names
    }

    /// Opens the parent of `image`: the file that the user named, else the file that the image calls `name`; in `format` if
    /// the image states one. A parent named by the image is taken as raw only if the image says so: the guest controls
    /// the bytes of a raw disk and could write another format's header there.
    pub fn open_backing(&self, image: &ImageFile, name: &[u8], format: Option<&str>) -> Result<Disk> {
        let file = match self.parent() {
            Some(path) => ImageFile::open(path)?,
            None => self.open_named(image.path(), name).map_err(advise_parent)?,
        };
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
        let mut roots = self.roots.clone();
        if let Some(folder) =
            self.parent().and_then(|path| path.canonicalize().ok()?.parent().map(Path::to_owned))
        {
            roots.push(folder);
        }
        let parents = self.parents.get(1..).unwrap_or_default();
        let opener = Opener { options: &options, roots, chain, parents };
        let shown = file.path().to_owned();
        let disk = open_file(file, &opener)?;
        if disk.format == "raw" && format.is_none() && self.parent().is_none() {
            return Err(place().unsupported(format!(
                "{} is of no known format and the image does not call it raw; \
                 qemu-img rebase -u -F raw says that it is",
                shown.display()
            )));
        }
        Ok(disk)
    }
}

/// Adds advice to the error that a parent was not found.
pub(super) fn advise_parent(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => error
            .at()
            .clone()
            .not_found(format!("{}; pass --parent FILE if it was moved or renamed", error.problem())),
        _ => error,
    }
}

/// Tries the names that another machine gave a file: each as it is, with `/` for `\\`, and then as a file beside the
/// image. Returns the first name that `check` accepts, else the most specific error: a file that was found and refused
/// says more than one that is missing.
pub(super) fn find_named(names: &[Vec<u8>], check: impl Fn(&[u8]) -> Result<()>) -> Result<Vec<u8>> {
    let mut failed: Option<Error> = None;
    for name in names {
        let path: Vec<u8> = name.iter().map(|b| if *b == b'\\' { b'/' } else { *b }).collect();
        let beside = path.rsplit(|b| *b == b'/').next().unwrap_or_default().to_owned();
        let mut tried: Vec<&[u8]> = Vec::new();
        for name in [&name[..], &path, &beside] {
            if name.is_empty() || tried.contains(&name) {
                continue;
            }
            tried.push(name);
            match check(name) {
                Ok(()) => return Ok(name.to_vec()),
                Err(error) => {
                    let tells_more = |old: &Error| {
                        old.kind() == ErrorKind::NotFound && error.kind() != ErrorKind::NotFound
                            || old.kind() == ErrorKind::Denied && error.kind() == ErrorKind::Corrupt
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

    #[test]
    fn a_parents_name_from_another_machine_is_tried_beside_the_image() {
        let tried = |name: &str, takes: &str| {
            let check = |tried: &[u8]| match tried == takes.as_bytes() {
                true => Ok(()),
                false => Err(at("").not_found("no")),
            };
            find_named(&[name.as_bytes().to_vec()], check).is_ok()
        };
        assert!(tried("C:\\VMs\\base.vmdk", "base.vmdk"));
        assert!(tried("C:\\VMs\\base.vmdk", "C:/VMs/base.vmdk"));
        assert!(tried("/vmfs/volumes/1/vm/base.vmdk", "base.vmdk"));
        assert!(tried("a\\b.vmdk", "a\\b.vmdk"), "a backslash may be of the name");
        assert!(!tried("/other.vmdk", "base.vmdk"));
        assert_eq!(find_named(&[], |_| Ok(())).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
