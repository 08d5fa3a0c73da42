//! Decides which files an image may refer to, and how long chains of images may be.

use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind::{InvalidInput, IsADirectory};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::archive::Archive;
use super::file::ImageFile;
use super::{Disk, OpenOptions, open_file};
use crate::beneath::Directory;
use crate::error::{At, Error, ErrorKind, Result, at};

/// The longest chain of backing disks.
pub(super) const MAX_CHAIN: usize = 64;

/// The most directory entries that are examined to find a parent.
const MAX_LISTED: usize = 4096;

/// The longest file name in an image, in bytes.
const MAX_NAME: usize = 4096;

/// A directory under which files may be opened.
struct Root {
    /// Its path without symbolic links, used only to decide which files to look up under it.
    path: PathBuf,
    directory: Directory,
}

impl Root {
    fn of(folder: &Path) -> std::io::Result<Arc<Self>> {
        let directory = Directory::open_to_search(folder)?;
        Ok(Arc::new(Root { path: folder.canonicalize()?, directory }))
    }
}

/// The state that is passed along a chain of images while it is opened.
///
/// A path is resolved only to find the root that contains it. The file is then opened relative to the descriptor of
/// that root, without following links, and the open file is checked: so names may change meanwhile.
pub struct Opener<'a> {
    options: &'a OpenOptions,
    roots: Vec<Arc<Root>>,
    /// True if the first root is the first image's own directory. (An image found by a search has only the other
    /// roots.)
    has_own: bool,
    /// The files of the chain so far, by device and inode.
    chain: Vec<(u64, u64, u64)>,
    /// Parents named by the user: of this image, then of its parent, and so on.
    parents: &'a [PathBuf],
    /// The archive that the first image is a member of. Its members may refer only to each other.
    archive: Option<Arc<Archive>>,
}

impl<'a> Opener<'a> {
    /// Creates the opener for the image at `path`, the first of its chain.
    pub(super) fn new(path: &Path, options: &'a OpenOptions) -> Result<Self> {
        let mut roots = Vec::new();
        let has_own = !options.searched.iter().any(|searched| path.starts_with(searched));
        if has_own {
            roots.push(Root::of(folder_of(path)).map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => at("").file(path).not_found("no such file"),
                _ => at("").file(folder_of(path)).io(e),
            })?);
        }
        for root in &options.allow_paths {
            roots.push(Root::of(root).map_err(|e| at("").file(root).io(e))?);
        }
        Ok(Opener { options, roots, has_own, chain: Vec::new(), parents: &options.parents, archive: None })
    }

    /// Returns the opener for a member of an archive, whose images may refer only to other members.
    pub(super) fn within(self, archive: Option<Arc<Archive>>) -> Self {
        Opener { archive, ..self }
    }

    /// Opens the first image, at `path`.
    pub(super) fn open_image(&self, path: &Path) -> Result<ImageFile> {
        match (self.roots.first(), path.file_name()) {
            // The user named it, so a link may lead anywhere. Its directory is the root that was opened.
            (Some(own), Some(name)) if self.has_own => {
                ImageFile::of(own.directory.linked_file_or_device(name), path)
            }
            _ if self.has_own => ImageFile::open(path),
            _ => {
                let place = || at("").file(path);
                let (file, _) = self.open_allowed(path, place, |resolved| {
                    format!("the link leads to {}, outside the directories to search", resolved.display())
                })?;
                ImageFile::of(Ok(file), path)
            }
        }
    }

    /// Opens the file at `path`, following links, if it lies under a root; also returns its resolved path. `outside`
    /// describes the error for one that does not.
    fn open_allowed(
        &self,
        path: &Path,
        place: impl Fn() -> At,
        outside: impl FnOnce(&Path) -> String,
    ) -> Result<(File, PathBuf)> {
        let failed = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => place().not_found(format!("{} does not exist", path.display())),
            _ => at("").file(path).io(e),
        };
        let resolved = path.canonicalize().map_err(failed)?;
        let Some((root, rest)) = self.beneath(&resolved) else {
            return Err(place().denied(format!(
                "{}; pass --allow-path {} to permit it",
                outside(&resolved),
                folder_of(&resolved).display()
            )));
        };
        match root.directory.file(rest) {
            Ok(file) => Ok((file, resolved)),
            // A link on the way was created after the path was resolved.
            Err(e) if matches!(e.kind(), InvalidInput | IsADirectory) => {
                Err(place().denied(format!("{}: {e}", resolved.display())))
            }
            Err(e) => Err(failed(e)),
        }
    }

    /// Returns the root that contains a resolved path, and the path relative to it.
    fn beneath<'p>(&self, resolved: &'p Path) -> Option<(&Root, &'p Path)> {
        self.roots.iter().find_map(|root| {
            let rest = resolved.strip_prefix(&root.path).ok()?;
            Some((&**root, if rest == Path::new("") { Path::new(".") } else { rest }))
        })
    }

    /// Returns the options for opening the first image.
    #[must_use]
    pub fn options(&self) -> &'a OpenOptions {
        self.options
    }

    /// Returns the parent that the user named for this image. It overrides the parent that the image names.
    #[must_use]
    pub fn parent(&self) -> Option<&'a Path> {
        self.parents.first().map(PathBuf::as_path)
    }

    /// Opens the file that the image at `image` refers to as `name`, if that is allowed.
    pub fn open_named(&self, image: &Path, name: &[u8]) -> Result<ImageFile> {
        let place = || at("file that the image refers to").file(image);
        let shown = String::from_utf8_lossy(name).into_owned();
        if name.is_empty() || name.len() > MAX_NAME || name.contains(&0) {
            return Err(place().corrupt(format!("{shown:?} is not a file name")));
        }
        if let Some(found) = self.archive.as_ref().and_then(|archive| archive.open_beside(image, &shown)) {
            return found;
        }
        let name: &OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name);
        let path = image.parent().unwrap_or(Path::new("")).join(name);
        let opened = self.open_allowed(&path, place, |resolved| {
            format!("the image refers to {}, which is outside its own directory", resolved.display())
        });
        match opened {
            Ok((file, resolved)) => ImageFile::of(Ok(file), &resolved),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Err(place().not_found(format!("the image needs the file {shown:?}, but {}", e.problem())))
            }
            Err(e) => Err(e),
        }
    }

    /// Returns the names, relative to `image`, of files with this suffix in the image's directory and its parent
    /// directory, if those may be opened. At most [`MAX_LISTED`] entries of a directory are examined.
    pub(super) fn files_around(&self, image: &Path, suffix: &str) -> Vec<Vec<u8>> {
        let mut names = Vec::new();
        if self.archive.as_ref().is_some_and(|archive| archive.has(image)) {
            return names;
        }
        for prefix in ["", "../"] {
            let Ok(folder) = folder_of(image).join(prefix).canonicalize() else { continue };
            let Some((root, rest)) = self.beneath(&folder) else { continue };
            let listed = root.directory.directory(rest).and_then(|folder| folder.some_names(MAX_LISTED));
            let Ok(here) = listed else { continue };
            let here = here
                .into_iter()
                .filter(|n| Path::new(n).extension().is_some_and(|s| s.eq_ignore_ascii_case(suffix)));
            let mut here: Vec<Vec<u8>> =
                here.map(|name| [prefix.as_bytes(), name.as_encoded_bytes()].concat()).collect();
            here.sort();
            names.extend(here);
        }
        names
    }

    /// Opens the parent that the user named for this image, if there is one.
    pub fn parent_file(&self) -> Result<Option<ImageFile>> {
        self.parent().map(ImageFile::open).transpose()
    }

    /// Opens the disk in `file`, the parent of `image`: the one from [`Opener::parent_file`], otherwise a file that the
    /// image names; in `format` if the image states one. A parent named by the image is taken as raw only if the image
    /// says so: the guest controls the bytes of a raw disk and could write another format's header there.
    pub fn open_backing(&self, image: &ImageFile, file: ImageFile, format: Option<&str>) -> Result<Disk> {
        let place = || at("backing file").file(image.path());
        let mut chain = self.chain.clone();
        chain.push(image.own_identity()?);
        if chain.contains(&file.own_identity()?) {
            return Err(place().corrupt(format!(
                "the chain of backing files is circular: it comes back to {}",
                file.path().display()
            )));
        }
        if chain.len() >= MAX_CHAIN {
            return Err(place().limit(format!("the chain has more than {MAX_CHAIN} disks")));
        }
        // The requested snapshot and format apply to the first image only.
        let options = OpenOptions {
            format: format.map(str::to_owned),
            passphrases: self.options.passphrases.clone(),
            ..OpenOptions::default()
        };
        let mut roots = self.roots.clone();
        if let Some(folder) =
            self.parent().and_then(|path| path.canonicalize().ok()?.parent().map(Path::to_owned))
        {
            roots.push(Root::of(&folder).map_err(|e| at("").file(&folder).io(e))?);
        }
        let parents = self.parents.get(1..).unwrap_or_default();
        let opener = Opener {
            options: &options,
            roots,
            has_own: self.has_own,
            chain,
            parents,
            archive: self.archive.clone(),
        };
        let shown = file.path().to_owned();
        let disk = open_file(file, &opener)?;
        if disk.format == "raw" && format.is_none() && self.parent().is_none() {
            return Err(place().unsupported(format!(
                "{} has no known format, and the image does not declare it raw; if it is raw, \
                 say so with `qemu-img rebase -u -F raw`",
                shown.display()
            )));
        }
        Ok(disk)
    }
}

/// Returns the directory of a path's last component.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
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
/// image. Returns the first name that `check` accepts, with its result, otherwise the most specific error: that a file
/// was found and refused says more than that one is missing.
pub(super) fn find_named<T>(names: &[Vec<u8>], check: impl Fn(&[u8]) -> Result<T>) -> Result<(Vec<u8>, T)> {
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
                Ok(found) => return Ok((name.to_vec(), found)),
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
    Err(failed.unwrap_or_else(|| {
        at("parent disk").corrupt("the image needs a parent disk but does not name one; pass --parent FILE")
    }))
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
        // Ways out that the kernel offers, as in CVE-2024-21626 in runc.
        let open = File::open(outside.join("secret")).unwrap();
        let by_number = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open));
        for name in
            [by_number, format!("/proc/self/root{absolute}"), format!("/proc/self/cwd/../..{absolute}")]
        {
            assert_ne!(kind(&options, &name), None, "{name}");
        }
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
