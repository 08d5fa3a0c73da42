//! The XFS reader, held against the kernel's driver and xfsprogs.

mod dirty;
mod kernel;
mod live;
mod mutants;
mod prototype;
mod reports;
mod speed;

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use mif_formats::Source;
use mif_formats::fs::Filesystem;
use mif_formats::fs::xfs::Xfs;

use crate::tools::FileVolume;
use crate::view::{View, ours, theirs};

/// What these tests need.
const TOOLS: [&str; 4] = ["mkfs.xfs", "xfs_io", "xfs_db", "mount"];

/// Makes a sparse file of `mib` MiB, and a filesystem in it.
fn mkfs(image: &Path, mib: u64, options: &str) {
    let _ = std::fs::remove_file(image);
    std::fs::File::create(image).unwrap().set_len(mib << 20).unwrap();
    let mut args: Vec<&OsStr> = vec!["-q".as_ref(), "-f".as_ref()];
    args.extend(options.split_whitespace().map(OsStr::new));
    args.push(image.as_os_str());
    let mut command = Command::new("mkfs.xfs");
    command.args(args).env("PATH", crate::skipping::search_path());
    // With these, mkfs.xfs makes volumes of less than 300 MiB.
    for name in ["TEST_DIR", "TEST_DEV", "QA_CHECK_FS"] {
        command.env(name, "1");
    }
    let output = command.output().expect("mkfs.xfs");
    assert!(output.status.success(), "mkfs.xfs {options}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Opens an image.
fn open(image: &Path) -> (Xfs, Arc<dyn Source>) {
    let volume = FileVolume::open(image);
    (Xfs::open(Arc::clone(&volume)).unwrap(), volume)
}

/// What our reader sees in an image, which has nothing to warn of.
fn seen(what: &str, image: &Path) -> View {
    let (fs, volume) = open(image);
    assert_eq!(fs.info().warnings, Vec::<String>::new(), "{what}");
    ours(&fs, &*volume)
}

/// What the kernel sees. It lists access control lists twice to root: as such, and as XFS stores them.
fn kernel_view(root: &Path) -> View {
    let mut view = theirs(root);
    for entry in view.values_mut() {
        entry.xattrs.retain(|(name, _)| !name.starts_with(b"trusted.SGI_ACL_"));
    }
    view
}
