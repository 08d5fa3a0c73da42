//! Which files of a batch are disk images: those that were named, and those in folders that bear an image's marks.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mif_formats::container::{self, OpenOptions};
use mif_formats::fs::{Volume, recognize};
use mif_formats::partition::TableKind;
use serde::Serialize;

use super::resolved;
use crate::progress::{self, Progress};
use crate::scan::Scan;
use crate::{Error, Result};

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The images, in the order of the arguments, of a folder by name.
    pub(super) images: Vec<FoundImage>,
    /// What else was there.
    pub(super) passed_over: Vec<PassedOver>,
}

/// A file that is a disk image, or should be.
#[derive(Debug)]
pub(super) struct FoundImage {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Why it cannot be imported, if that is known already.
    pub(super) problem: Option<String>,
}

/// A file that is no image of its own.
#[derive(Debug, Clone, Serialize)]
pub struct PassedOver {
    /// The file or folder.
    pub path: String,
    /// Why, in words.
    pub why: String,
}

/// Suffixes of raw disks.
const RAW: [&str; 3] = ["raw", "img", "dd"];

/// Suffixes of containers that have a header of their own.
const CONTAINERS: [&str; 5] = ["qcow2", "vmdk", "vdi", "vhd", "vhdx"];

/// Filesystems that are shipped in files of their own, and are no disks.
const NO_DISKS: [&str; 5] = ["iso9660", "udf", "squashfs", "cramfs", "erofs"];

/// Finds the images that `paths` stand for. A folder stands for the disk images in it and in its folders; a file for
/// itself. Extents of another image are passed over; a disk beneath another one is an image of its own, for the upper
/// one does not have all of its bits.
pub(super) fn find(paths: &[PathBuf], options: &OpenOptions, progress: &dyn Progress) -> Result<Found> {
    progress.stage("looking for disk images", 0);
    let mut found = Found::default();
    let mut files = Vec::new();
    let options = trusting(paths, options);
    if !options.parents.is_empty() && (paths.len() > 1 || paths.iter().any(|path| path.is_dir())) {
        return Err(Error::usage("--parent works with a single image, not with several or with a directory"));
    }
    for path in paths {
        if path.is_dir() {
            if options.format.is_some() {
                return Err(Error::usage(format!(
                    "{}: --format goes with files, not with folders",
                    path.display()
                )));
            }
            walk(path, &mut files, &mut found, progress)?;
        } else {
            files.push(File { path: path.clone(), named: true });
        }
    }
    let mut seen: HashMap<PathBuf, PathBuf> = HashMap::new();
    let mut parts: HashMap<PathBuf, Vec<PathBuf>> = HashMap::new();
    let mut candidates = Vec::new();
    for File { path, named } in files {
        progress::check(progress)?;
        if let Some(first) = seen.insert(resolved(&path), path.clone()) {
            found.pass_over(&path, format!("the same file as {}", first.display()));
            seen.insert(resolved(&path), first);
            continue;
        }
        let problem = match judge(&path) {
            Ok(Judged::Image) => None,
            Ok(_) | Err(_) if named => None,
            Ok(Judged::Broken(problem)) => Some(problem),
            Ok(Judged::Other(why)) => {
                found.pass_over(&path, why);
                continue;
            }
            // It is said again, and counted, when it is to be imported.
            Err(_) => None,
        };
        if let Ok(disk) = container::open(&path, &options) {
            for part in &disk.files[1..disk.own_files] {
                parts.entry(resolved(part)).or_default().push(path.clone());
            }
        }
        candidates.push(FoundImage { path, problem });
    }
    // Of two that name each other as an extent, one is an image.
    let mut dropped: HashSet<PathBuf> = HashSet::new();
    for image in candidates {
        let owners = parts.get(&resolved(&image.path)).into_iter().flatten();
        match owners.filter(|owner| **owner != image.path && !dropped.contains(*owner)).min() {
            Some(owner) if is_part(&image.path) => {
                found.pass_over(&image.path, format!("a part of {}", owner.display()));
                dropped.insert(image.path);
            }
            _ => found.images.push(image),
        }
    }
    Ok(found)
}

/// The same options, with the directories among `paths` trusted: images may open the files in them that they name. A user
/// who names a directory means all of it, and a disk's parent often lies in another directory of the library.
pub(super) fn trusting(paths: &[PathBuf], options: &OpenOptions) -> OpenOptions {
    let mut options = options.clone();
    options.allow_paths.extend(paths.iter().filter(|path| path.is_dir()).cloned());
    options
}

impl Found {
    fn pass_over(&mut self, path: &Path, why: String) {
        self.passed_over.push(PassedOver { path: path.display().to_string(), why });
    }
}

/// A file to look at.
struct File {
    path: PathBuf,
    /// The user named it: it is an image, whatever it looks like.
    named: bool,
}

/// Adds the files in a folder and its folders, by name; those that are links last, so that a file and a link to it are
/// known by the file's name. Links to folders are not followed. A folder that cannot be read is something that cannot
/// be imported.
fn walk(folder: &Path, files: &mut Vec<File>, found: &mut Found, progress: &dyn Progress) -> Result<()> {
    let mut left = vec![folder.to_owned()];
    let mut links = Vec::new();
    while let Some(folder) = left.pop() {
        progress::check(progress)?;
        if folder.join("store.json").is_file() {
            found.pass_over(&folder, "a store".into());
            continue;
        }
        if folder.join("Info.plist").is_file() && folder.join("bands").is_dir() {
            found.pass_over(&folder, "no disk: an Apple sparse bundle, which is not read".into());
            continue;
        }
        let mut entries = match fs::read_dir(&folder).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Ok(entries) => entries,
            // Where filesystems keep what fsck finds, for root alone.
            Err(e) if folder.ends_with("lost+found") => {
                found.pass_over(&folder, e.to_string());
                continue;
            }
            Err(e) => {
                found.images.push(FoundImage { path: folder, problem: Some(e.to_string()) });
                continue;
            }
        };
        entries.sort_by_key(fs::DirEntry::file_name);
        let mut folders = Vec::new();
        for entry in entries {
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let kind = entry.file_type().map_err(|e| Error::io(&entry.path(), &e))?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(File { path: entry.path(), named: false });
            } else if kind.is_symlink() && entry.path().is_file() {
                links.push(File { path: entry.path(), named: false });
            }
        }
        left.extend(folders.into_iter().rev());
    }
    files.extend(links);
    Ok(())
}

/// What a file looks like.
enum Judged {
    Image,
    /// An image by its suffix, and why it is none.
    Broken(String),
    /// No image, and why.
    Other(String),
}

fn judge(path: &Path) -> Result<Judged> {
    if container::probe(path)?.is_some() {
        return Ok(Judged::Image);
    }
    let suffix = path.extension().and_then(|suffix| suffix.to_str()).unwrap_or_default().to_ascii_lowercase();
    let raw = OpenOptions { format: Some("raw".into()), ..OpenOptions::default() };
    if path.metadata().is_ok_and(|meta| meta.len() == 0) {
        let image = RAW.contains(&&*suffix) || CONTAINERS.contains(&&*suffix);
        return Ok(if image { Judged::Image } else { Judged::Other("empty".into()) });
    }
    if let Some(what) = container::foreign_name(path)? {
        return Ok(Judged::Other(format!("no disk: {what}")));
    }
    let disk = container::open(path, &raw)?.source;
    let head = disk.read_vec(0, disk.len().min(recognize::HEAD as u64) as usize)?;
    if let Some(name) = recognize::name_of(&head).filter(|name| NO_DISKS.contains(name)) {
        return Ok(Judged::Other(format!("no disk: {name}")));
    }
    let scan = Scan::new(disk)?;
    let known = |content: &Volume| !matches!(content, Volume::Other { name: None, .. });
    if scan.table.kind != TableKind::None || scan.volumes.iter().any(|volume| known(&volume.content)) {
        return Ok(Judged::Image);
    }
    if CONTAINERS.contains(&&*suffix) {
        return Ok(Judged::Broken(format!(
            "its suffix says {suffix}, and it is neither that nor a disk with anything known on it; named itself, it is \
             imported as a raw disk"
        )));
    }
    if RAW.contains(&&*suffix) {
        return Ok(Judged::Image);
    }
    Ok(Judged::Other("not recognised as a disk image".into()))
}

/// Whether a file that another image calls its extent can be nothing more than that: it is raw, or of a format whose
/// disks have extents. A file of another format is an image, whoever claims it.
fn is_part(path: &Path) -> bool {
    container::probe(path).is_ok_and(|format| format.is_none_or(|format| format.name() == "vmdk"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;

    fn names(found: &Found, folder: &Path) -> (Vec<String>, Vec<String>) {
        let short = |path: &Path| path.strip_prefix(folder).unwrap().display().to_string();
        let images = found.images.iter().map(|image| short(&image.path)).collect();
        let passed_over =
            found.passed_over.iter().map(|over| format!("{}: {}", short(Path::new(&over.path)), over.why));
        (images, passed_over.collect())
    }

    fn find_in(folder: &Path) -> Found {
        find(&[folder.to_owned()], &OpenOptions::default(), &Silent).unwrap()
    }

    /// A disk with a partition table.
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
            "SHA256SUMS: no disk: plain text",
            "empty.txt: empty",
            "initrd.img: no disk: gzip data",
            "install.iso: no disk: iso9660",
            "mac.sparsebundle: no disk: an Apple sparse bundle, which is not read",
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
        // Named alone, an extent is an image.
        let alone = find(&[at("disk-flat.vmdk")], &OpenOptions::default(), &Silent).unwrap();
        assert_eq!(alone.images.len(), 1);
    }
}
