//! Tests of the NTFS reader against ntfs-3g and wimlib.

mod edit;
mod life;
mod mutants;
mod reports;
mod same;
mod seen;
mod wof;

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mif_formats::Source;
use mif_formats::fs::Filesystem;
use mif_formats::fs::ntfs::Ntfs;

use crate::tools::{FileVolume, run, skip, try_run};

/// The tools that these tests need.
const TOOLS: [&str; 3] = ["mkntfs", "ntfs-3g", "umount"];

/// Creates a temporary directory: in memory if possible.
fn scratch() -> tempfile::TempDir {
    const MEMORY: &str = "/dev/shm";
    let room = rustix::fs::statvfs(MEMORY).map_or(0, |fs| fs.f_bavail * fs.f_frsize);
    let in_memory = (room > 4 << 30).then(|| tempfile::tempdir_in(MEMORY).ok()).flatten();
    in_memory.unwrap_or_else(crate::tools::scratch)
}

/// Creates a sparse file of `mib` MiB with a filesystem in it.
fn mkntfs(image: &Path, mib: u64, options: &str) {
    let _ = std::fs::remove_file(image);
    std::fs::File::create(image).unwrap().set_len(mib << 20).unwrap();
    let mut args: Vec<&OsStr> = ["-q", "-F", "-f", "-L", "a label €"].map(OsStr::new).to_vec();
    args.extend(options.split_whitespace().map(OsStr::new));
    args.push(image.as_os_str());
    run("mkntfs", &args);
}

/// A volume mounted by ntfs-3g until dropped.
struct Fuse {
    path: PathBuf,
    driver: Child,
}

impl Fuse {
    /// Mounts `image` at `path`, if this machine can; else skips.
    fn new(image: &Path, path: &Path, options: &str) -> Option<Fuse> {
        std::fs::create_dir_all(path).unwrap();
        let device = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.dev());
        let before = device(path);
        let options = format!("no_detach,noatime,{options}");
        let mut driver = Command::new("ntfs-3g")
            .args([image.as_os_str(), path.as_os_str(), "-o".as_ref(), options.as_ref()])
            .env("PATH", crate::skipping::search_path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ntfs-3g");
        while device(path) == before {
            if let Some(status) = driver.try_wait().unwrap() {
                let _ = skip(&format!("cannot mount {}: {status}", image.display()));
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(Fuse { path: path.to_owned(), driver })
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        for _ in 0..100 {
            if try_run("umount", &[&self.path]).status.success() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        // The driver writes everything before it ends.
        self.driver.wait().unwrap();
    }
}

/// Makes a volume and fills it through ntfs-3g. Returns false if this machine cannot mount it.
fn filled(image: &Path, mib: u64, mkntfs_options: &str, options: &str, fill: impl FnOnce(&Path)) -> bool {
    mkntfs(image, mib, mkntfs_options);
    let Some(mount) = Fuse::new(image, &image.with_extension("mnt"), options) else { return false };
    fill(&mount.path);
    true
}

/// Opens an image.
fn open(image: &Path) -> (Ntfs, Arc<dyn Source>) {
    let volume = FileVolume::open(image);
    (Ntfs::open(Arc::clone(&volume)).unwrap(), volume)
}

/// Opens an image, which must have no warnings.
fn open_clean(image: &Path) -> (Ntfs, Arc<dyn Source>) {
    let (fs, volume) = open(image);
    assert_eq!(fs.info().warnings, Vec::<String>::new());
    (fs, volume)
}
