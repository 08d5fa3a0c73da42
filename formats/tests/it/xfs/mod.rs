//! Tests of the XFS reader against the kernel's driver and xfsprogs.

mod dirty;
mod kernel;
mod live;
mod mutants;
mod prototype;
mod reports;
mod speed;

use std::ffi::OsStr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use mif_formats::Source;
use mif_formats::fs::Filesystem;
use mif_formats::fs::xfs::Xfs;

use crate::tools::FileVolume;
use crate::view::{View, ours, theirs};

/// The tools that these tests need.
const TOOLS: [&str; 4] = ["mkfs.xfs", "xfs_io", "xfs_db", "mount"];

/// Creates a temporary directory: in memory if possible, where the many syncs of these tests cost nothing.
fn scratch() -> tempfile::TempDir {
    const MEMORY: &str = "/dev/shm";
    let room = rustix::fs::statvfs(MEMORY).map_or(0, |fs| fs.f_bavail * fs.f_frsize);
    let in_memory = (room > 4 << 30).then(|| tempfile::tempdir_in(MEMORY).ok()).flatten();
    in_memory.unwrap_or_else(crate::tools::scratch)
}

/// Creates a sparse file of `mib` MiB with a filesystem in it.
pub(crate) fn mkfs(image: &Path, mib: u64, options: &str) {
    let _ = std::fs::remove_file(image);
    std::fs::File::create(image).unwrap().set_len(mib << 20).unwrap();
    let mut args: Vec<&OsStr> = vec!["-q".as_ref(), "-f".as_ref()];
    args.extend(options.split_whitespace().map(OsStr::new));
    args.push(image.as_os_str());
    let mut command = Command::new("mkfs.xfs");
    command.args(args).env("PATH", crate::skipping::search_path());
    // With these, mkfs.xfs allows volumes of less than 300 MiB.
    for name in ["TEST_DIR", "TEST_DEV", "QA_CHECK_FS"] {
        command.env(name, "1");
    }
    let output = command.output().expect("mkfs.xfs");
    assert!(output.status.success(), "mkfs.xfs {options}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Bits of `sb_features_incompat` that this mkfs.xfs does not set but that can be set on an empty volume.
const EXCHANGE: u32 = 0x40;
const PARENT: u32 = 0x80;

/// Sets these features on an empty volume.
fn add_features(image: &Path, features: u32) {
    let file = std::fs::File::options().read(true).write(true).open(image).unwrap();
    let mut sector = [0; 512];
    file.read_exact_at(&mut sector, 0).unwrap();
    let be32 = |bytes: &[u8], at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let group = u64::from(be32(&sector, 84)) * u64::from(be32(&sector, 4));
    for ag in 0..u64::from(be32(&sector, 88)) {
        file.read_exact_at(&mut sector, ag * group).unwrap();
        let all = be32(&sector, 216) | features;
        sector[216..220].copy_from_slice(&all.to_be_bytes());
        sector[224..228].fill(0);
        let sum = crc32c::crc32c(&sector);
        sector[224..228].copy_from_slice(&sum.to_le_bytes());
        file.write_all_at(&sector, ag * group).unwrap();
    }
}

/// Opens an image.
fn open(image: &Path) -> (Xfs, Arc<dyn Source>) {
    let volume = FileVolume::open(image);
    (Xfs::open(Arc::clone(&volume)).unwrap(), volume)
}

/// Returns what our reader sees in an image, which must open without warnings.
fn seen(what: &str, image: &Path) -> View {
    let (fs, volume) = open(image);
    assert_eq!(fs.info().warnings, Vec::<String>::new(), "{what}");
    ours(&fs, &*volume)
}

/// Returns what the kernel sees. It lists access control lists twice to root: as such, and as XFS stores them.
fn kernel_view(root: &Path) -> View {
    let mut view = theirs(root);
    for entry in view.values_mut() {
        entry.xattrs.retain(|(name, _)| !name.starts_with(b"trusted.SGI_ACL_"));
    }
    view
}
