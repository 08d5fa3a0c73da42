//! Finds the disk images of a batch: named files, and files in directories that are recognised as images.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mif_formats::beneath::Directory;
use mif_formats::container::{self, ImageFile, OpenOptions, Wrapped, split_member};
use mif_formats::fs::{Recognized, recognize};
use mif_formats::partition::TableKind;
use mif_formats::{ErrorKind, Source};
use rustix::fs::FileType;
use serde::Serialize;

use super::resolved;
use crate::disk::scan::Scan;
use crate::error::{Error, Result};
use crate::task::progress::{self, Progress};

/// The result.
#[derive(Debug, Default)]
pub(super) struct FoundImages {
    /// The images, in the order of the arguments; those in a directory are sorted by name.
    pub(super) images: Vec<FoundImage>,
    /// Files that are not images of their own.
    pub(super) passed_over: Vec<PassedOver>,
}

/// A file that is a disk image, or should be.
#[derive(Debug)]
pub(super) struct FoundImage {
    /// Its path: that of the file, and the name of the member after `//` if it is an archive.
    pub(super) path: PathBuf,
    /// The path of the file.
    pub(super) file: PathBuf,
    /// The name of the member of the file, if it is an archive.
    pub(super) member: Option<String>,
    /// True if it is not the only disk in the file.
    pub(super) has_siblings: bool,
    /// Why it cannot be imported, if that is already known.
    pub(super) problem: Option<String>,
}

impl FoundImage {
    /// Returns the image in a file that is no archive, or a member of one (`FILE//MEMBER`).
    pub(super) fn file(path: PathBuf) -> Self {
        let (file, member) = split_member(&path);
        let has_siblings = member.is_some();
        FoundImage { path, file, member, has_siblings, problem: None }
    }

    /// Returns the disk in `file` that is its member of this name.
    fn member(file: &Path, name: String, has_siblings: bool) -> Self {
        let mut path = file.as_os_str().to_owned();
        path.push("//");
        path.push(&name);
        FoundImage {
            path: path.into(),
            file: file.to_owned(),
            member: Some(name),
            has_siblings,
            problem: None,
        }
    }
}

/// A file that is not an image of its own.
#[derive(Debug, Clone, Serialize)]
pub struct PassedOver {
    /// The file or directory.
    pub path: String,
    /// The reason.
    pub why: String,
}

/// Suffixes of raw disks.
const RAW: [&str; 3] = ["raw", "img", "dd"];

/// Suffixes of containers with a header of their own.
const CONTAINERS: [&str; 5] = ["qcow2", "vmdk", "vdi", "vhd", "vhdx"];

/// Filesystems that are distributed in files of their own and are not disks.
const NO_DISKS: [&str; 5] = ["iso9660", "udf", "squashfs", "cramfs", "erofs"];

/// Finds the images that `paths` stand for: a file stands for itself, a directory for the disk images in it and in its
/// subdirectories. Extents of another image are skipped. A backing file is an image of its own, because the image above
/// it does not contain all of its bits.
pub(super) fn find(paths: &[PathBuf], options: &OpenOptions, progress: &dyn Progress) -> Result<FoundImages> {
    progress.stage("finding disk images", 0);
    let mut found = FoundImages::default();
    let mut files = Vec::new();
    // Only the files are found here, so that no time goes into opening what is encrypted.
    let options = OpenOptions { passphrases: Vec::new(), ..trusting(paths, options) };
    if !options.parents.is_empty() && (paths.len() > 1 || paths.iter().any(|path| path.is_dir())) {
        return Err(Error::usage("--parent works with a single image, not with several or with a directory"));
    }
    for path in paths {
        if path.is_dir() {
            if options.format.is_some() {
                return Err(Error::usage(format!(
                    "{}: --format applies to files, not to directories",
                    path.display()
                )));
            }
            walk(path, &mut files, &mut found, progress)?;
        } else {
            files.push(File { path: path.clone(), named: true, is_link: false });
        }
    }
    let mut seen: HashMap<PathBuf, PathBuf> = HashMap::new();
    let mut parts: HashMap<PathBuf, Vec<PathBuf>> = HashMap::new();
    let mut candidates = Vec::new();
    for File { path, named, is_link } in files {
        progress::check(progress)?;
        if let Some(first) = seen.insert(resolved(&path), path.clone()) {
            found.pass_over(&path, format!("the same file as {}", first.display()));
            seen.insert(resolved(&path), first);
            continue;
        }
        if split_member(&path).1.is_some() {
            candidates.push(FoundImage::file(path));
            continue;
        }
        // The file is opened once and examined through that descriptor: by now its path may lead elsewhere.
        let opened = container::open_image_file(&path, &options);
        if let Err(outside) = &opened
            && is_link
            && outside.kind() == ErrorKind::Denied
        {
            found.pass_over(&path, outside.problem().to_owned());
            continue;
        }
        let is_raw = options.format.as_deref() == Some("raw");
        match container::wrapped(&path, &options, progress) {
            Ok(Some(Wrapped::Members(names))) if !is_raw && (!named || !names.is_empty()) => {
                if names.is_empty() {
                    found.pass_over(&path, "an archive without disk images".into());
                }
                let has_siblings = names.len() > 1;
                candidates
                    .extend(names.into_iter().map(|name| FoundImage::member(&path, name, has_siblings)));
                continue;
            }
            Ok(Some(Wrapped::Disk)) if !is_raw => {
                candidates.push(FoundImage::file(path));
                continue;
            }
            Ok(Some(Wrapped::Nothing(what))) if !named => {
                found.pass_over(&path, format!("not a disk image: {what}"));
                continue;
            }
            Ok(Some(_)) => {
                candidates.push(FoundImage::file(path));
                continue;
            }
            Err(_) if progress.interrupted() => return Err(progress::interrupted()),
            // An error occurs again, and is counted, when the file is imported. One of the system keeps its code so.
            Err(error) if opened.is_ok() => {
                let is_told = !named && error.kind() != ErrorKind::Io;
                let problem = is_told.then(|| Error::from(error).message().to_owned());
                candidates.push(FoundImage { problem, ..FoundImage::file(path) });
                continue;
            }
            Ok(None) | Err(_) => {}
        }
        let problem = match opened.map_err(Error::from).and_then(judge) {
            Ok(Judged::Image) => None,
            Ok(_) | Err(_) if named => None,
            Ok(Judged::Broken(problem)) => Some(problem),
            Ok(Judged::Other(why)) => {
                found.pass_over(&path, why);
                continue;
            }
            // The error occurs again, and is counted, when the file is imported.
            Err(_) => None,
        };
        if let Ok(disk) = container::open(&path, &options) {
            for part in &disk.files[1..disk.own_files] {
                parts.entry(resolved(part.path())).or_default().push(path.clone());
            }
        }
        candidates.push(FoundImage { problem, ..FoundImage::file(path) });
    }
    // If two images name each other as an extent, one of them is an image.
    let mut dropped: HashSet<PathBuf> = HashSet::new();
    for image in candidates {
        let owners = parts.get(&resolved(&image.path)).into_iter().flatten();
        match owners.filter(|owner| **owner != image.path && !dropped.contains(*owner)).min() {
            Some(owner) if is_part(&image.path, &options) => {
                found.pass_over(&image.path, format!("an extent of {}", owner.display()));
                dropped.insert(image.path);
            }
            _ => found.images.push(image),
        }
    }
    Ok(found)
}

/// Returns the options with the directories among `paths` trusted: images may open files in them. A directory stands
/// for everything in it, and a disk's parent is often in another directory of the library. Links from the directory to
/// the outside are not followed.
pub(super) fn trusting(paths: &[PathBuf], options: &OpenOptions) -> OpenOptions {
    let mut options = options.clone();
    let folders = paths.iter().filter(|path| path.is_dir());
    options.searched.extend(folders.clone().cloned());
    options.allow_paths.extend(folders.cloned());
    options
}

impl FoundImages {
    fn pass_over(&mut self, path: &Path, why: String) {
        self.passed_over.push(PassedOver { path: path.display().to_string(), why });
    }
}

/// A file to examine.
struct File {
    path: PathBuf,
    /// True if the user named it: then it is an image, whatever it looks like.
    named: bool,
    /// True if it is a symbolic link found in a directory.
    is_link: bool,
}

/// Adds the files in a directory and its subdirectories, by name. Links to files come last, so that a file and a link
/// to it are listed under the file's name. Links to directories are not followed. A directory that cannot be read is
/// reported as an image with a problem. All directories are opened relative to the first, so none can be replaced by a
/// link meanwhile.
fn walk(
    folder: &Path,
    files: &mut Vec<File>,
    found: &mut FoundImages,
    progress: &dyn Progress,
) -> Result<()> {
    let root = match Directory::open(folder) {
        Ok(root) => root,
        Err(e) => {
            found
                .images
                .push(FoundImage { problem: Some(e.to_string()), ..FoundImage::file(folder.to_owned()) });
            return Ok(());
        }
    };
    let (top, mut left) = (folder, vec![PathBuf::new()]);
    let mut links = Vec::new();
    while let Some(rest) = left.pop() {
        progress::check(progress)?;
        let is_top = rest.as_os_str().is_empty();
        let folder = if is_top { top.to_owned() } else { top.join(&rest) };
        let opened = root.directory(if is_top { Path::new(".") } else { &rest });
        let has = |name: &str, kind: FileType| {
            let stat = opened.as_ref().ok().and_then(|folder| folder.stat(Path::new(name)).ok());
            stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == kind)
        };
        if has("store.json", FileType::RegularFile) {
            found.pass_over(&folder, "a store".into());
            continue;
        }
        if has("Info.plist", FileType::RegularFile) && has("bands", FileType::Directory) {
            found.pass_over(
                &folder,
                "not a disk image: an Apple sparse bundle, which mif does not read".into(),
            );
            continue;
        }
        let entries = match opened.and_then(|folder| folder.entries()) {
            Ok(entries) => entries,
            // The directory for files recovered by a filesystem check, readable only by root.
            Err(e) if folder.ends_with("lost+found") => {
                found.pass_over(&folder, e.to_string());
                continue;
            }
            Err(e) => {
                found.images.push(FoundImage { problem: Some(e.to_string()), ..FoundImage::file(folder) });
                continue;
            }
        };
        let mut folders = Vec::new();
        for (name, kind) in entries {
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = folder.join(&name);
            match kind {
                FileType::Directory => folders.push(rest.join(&name)),
                FileType::RegularFile => files.push(File { path, named: false, is_link: false }),
                // Whether it may be opened is decided when it is opened.
                FileType::Symlink if path.is_file() => {
                    links.push(File { path, named: false, is_link: true });
                }
                _ => {}
            }
        }
        left.extend(folders.into_iter().rev());
    }
    files.extend(links);
    Ok(())
}

/// What a file appears to be.
enum Judged {
    Image,
    /// A file with an image's suffix that is not an image, with the reason.
    Broken(String),
    /// Not an image, with the reason.
    Other(String),
}

fn judge(file: ImageFile) -> Result<Judged> {
    if container::probe(&file)?.is_some() {
        return Ok(Judged::Image);
    }
    let path = file.path();
    let suffix = path.extension().and_then(|suffix| suffix.to_str()).unwrap_or_default().to_ascii_lowercase();
    if file.is_empty() {
        let image = RAW.contains(&&*suffix) || CONTAINERS.contains(&&*suffix);
        return Ok(if image { Judged::Image } else { Judged::Other("empty".into()) });
    }
    if let Some(what) = container::foreign_name(&file)? {
        return Ok(Judged::Other(format!("not a disk image: {what}")));
    }
    let disk: Arc<dyn Source> = Arc::new(file);
    let head = disk.read_vec(0, disk.len().min(recognize::HEAD as u64) as usize)?;
    if let Some(name) = recognize::name_of(&head).filter(|name| NO_DISKS.contains(name)) {
        return Ok(Judged::Other(format!("not a disk image: {name}")));
    }
    let scan = Scan::new(disk)?;
    let known = |content: &Recognized| !matches!(content, Recognized::Other { name: None, .. });
    if scan.table.kind != TableKind::None || scan.volumes.iter().any(|volume| known(&volume.content)) {
        return Ok(Judged::Image);
    }
    if CONTAINERS.contains(&&*suffix) {
        return Ok(Judged::Broken(format!(
            "the suffix is {suffix}, but the content is neither that format nor a disk that mif recognises; to import it \
             as a raw disk, name the file itself"
        )));
    }
    if RAW.contains(&&*suffix) {
        return Ok(Judged::Image);
    }
    Ok(Judged::Other("not recognised as a disk image".into()))
}

/// Returns true if a file that another image names as its extent can only be an extent: it is raw, or of a format whose
/// disks have extents. A file of another format is an image of its own.
fn is_part(path: &Path, options: &OpenOptions) -> bool {
    let format = container::open_image_file(path, options).and_then(|file| container::probe(&file));
    format.is_ok_and(|format| format.is_none_or(|format| matches!(format.name(), "vmdk" | "parallels")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::task::progress::Silent;

    fn names(found: &FoundImages, folder: &Path) -> (Vec<String>, Vec<String>) {
        let short = |path: &Path| path.strip_prefix(folder).unwrap().display().to_string();
        let images = found.images.iter().map(|image| short(&image.path)).collect();
        let passed_over =
            found.passed_over.iter().map(|over| format!("{}: {}", short(Path::new(&over.path)), over.why));
        (images, passed_over.collect())
    }

    fn find_in(folder: &Path) -> FoundImages {
        find(&[folder.to_owned()], &OpenOptions::default(), &Silent).unwrap()
    }

    /// Returns a disk with a partition table.
    fn mbr() -> Vec<u8> {
        let mut disk = vec![0; 1 << 20];
        disk[446..462].copy_from_slice(&[0, 0, 2, 0, 0x83, 0, 2, 0, 8, 0, 0, 0, 8, 0, 0, 0]);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk
    }

    #[test]
    fn what_is_no_disk_is_passed_over_whatever_it_is_called() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("web")).unwrap();
        fs::create_dir_all(at("store")).unwrap();
        fs::create_dir_all(at("mac.sparsebundle/bands")).unwrap();
        fs::write(at("mac.sparsebundle/Info.plist"), b"<plist/>\n").unwrap();
        fs::write(at("mac.sparsebundle/bands/0"), mbr()).unwrap();
        fs::write(at("store/store.json"), b"{}").unwrap();
        fs::write(at("store/inside.raw"), mbr()).unwrap();
        let mut iso = mbr();
        iso[0x8001..0x8006].copy_from_slice(b"CD001");
        for (name, bytes) in [
            ("web/no-suffix", mbr()),
            ("a.raw", vec![7; 4096]),
            ("b.qcow2", vec![7; 4096]),
            ("install.iso", iso),
            ("initrd.img", b"\x1f\x8b\x08 and so on".to_vec()),
            ("SHA256SUMS", b"0123  a.raw\n".to_vec()),
            ("empty.txt", Vec::new()),
            (".a.raw.123-0.part", mbr()),
        ] {
            fs::write(at(name), bytes).unwrap();
        }
        std::os::unix::fs::symlink("web/no-suffix", at("a-link")).unwrap();
        std::os::unix::fs::symlink(".", at("circle")).unwrap();
        let found = find_in(folder.path());
        let (images, passed_over) = names(&found, folder.path());
        assert_eq!(images, ["a.raw", "b.qcow2", "web/no-suffix"]);
        assert!(found.images[1].problem.as_ref().is_some_and(|problem| problem.contains("qcow2")));
        let expected = [
            "SHA256SUMS: not a disk image: plain text",
            "empty.txt: empty",
            "initrd.img: not a disk image: gzip data",
            "install.iso: not a disk image: iso9660",
            "mac.sparsebundle: not a disk image: an Apple sparse bundle, which mif does not read",
            "store: a store",
        ];
        for line in expected {
            assert!(passed_over.iter().any(|over| over == line), "{line}: {passed_over:?}");
        }
        assert!(
            passed_over.iter().any(|over| over.starts_with("a-link: the same file as")),
            "{passed_over:?}"
        );
        assert_eq!(passed_over.len(), expected.len() + 1);
    }

    #[test]
    fn a_link_that_leads_outside_is_passed_over_unless_that_is_allowed() {
        let work = tempfile::tempdir().unwrap();
        let (folder, outside) = (work.path().join("in"), work.path().join("out"));
        fs::create_dir_all(folder.join("deep")).unwrap();
        fs::create_dir(&outside).unwrap();
        for path in [folder.join("deep/a.raw"), outside.join("secret.raw")] {
            fs::write(path, mbr()).unwrap();
        }
        let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, folder.join(name)).unwrap();
        link(&outside.join("secret.raw"), "absolute.raw");
        link(Path::new("../out/secret.raw"), "relative.raw");
        link(Path::new("deep/a.raw"), "good.raw");
        link(&outside, "folder");
        link(Path::new("nowhere"), "dangling.raw");
        let (images, passed_over) = names(&find_in(&folder), &folder);
        assert_eq!(images, ["deep/a.raw"]);
        let [absolute, good, relative] = &passed_over[..] else { panic!("{passed_over:?}") };
        assert!(good.starts_with("good.raw: the same file as"), "{good}");
        assert!(absolute.contains("outside") && absolute.contains("--allow-path"), "{absolute}");
        assert!(relative.starts_with("relative.raw: the same file as"), "{relative}");
        let allowed = OpenOptions { allow_paths: vec![outside], ..OpenOptions::default() };
        let found = find(std::slice::from_ref(&folder), &allowed, &Silent).unwrap();
        assert_eq!(names(&found, &folder).0, ["deep/a.raw", "absolute.raw"]);
        // A link named by the user stands for its target.
        let found = find(&[folder.join("absolute.raw")], &OpenOptions::default(), &Silent).unwrap();
        assert!(found.images.len() == 1 && found.passed_over.is_empty());
    }

    #[test]
    fn extents_are_part_of_their_image_also_if_two_name_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let descriptor = |extent: &str| {
            format!(
                "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
                 createType=\"monolithicFlat\"\nRW 1 FLAT \"{extent}\" 0\n"
            )
        };
        fs::write(at("disk.vmdk"), descriptor("disk-flat.vmdk")).unwrap();
        fs::write(at("disk-flat.vmdk"), mbr()).unwrap();
        fs::write(at("x.vmdk"), descriptor("y.vmdk") + &"#\n".repeat(300)).unwrap();
        fs::write(at("y.vmdk"), descriptor("x.vmdk") + &"#\n".repeat(300)).unwrap();
        fs::write(at("split.000"), mbr()).unwrap();
        fs::write(at("split.001"), mbr()).unwrap();
        let (images, passed_over) = names(&find_in(folder.path()), folder.path());
        assert_eq!(images, ["disk.vmdk", "split.000", "y.vmdk"]);
        assert_eq!(passed_over.len(), 3, "{passed_over:?}");
        // An extent named alone is an image.
        let alone = find(&[at("disk-flat.vmdk")], &OpenOptions::default(), &Silent).unwrap();
        assert_eq!(alone.images.len(), 1);
    }
}
