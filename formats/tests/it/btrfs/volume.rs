//! Making, mounting and comparing volumes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use mif_formats::Source;
use mif_formats::fs::FileType;
use mif_formats::fs::btrfs::Btrfs;

use crate::tools::{FileVolume, Mount, run};
use crate::view::{View, assert_same, ours, theirs};

/// The tools that all tests here need.
pub(super) const TOOLS: [&str; 4] = ["mkfs.btrfs", "btrfs", "mount", "cp"];

/// Creates an empty sparse file of `mib` MiB with a filesystem in it.
pub(super) fn mkfs(image: &Path, mib: u64, options: &str) {
    std::fs::File::create(image).unwrap().set_len(mib << 20).unwrap();
    let mut args: Vec<&std::ffi::OsStr> = vec!["-q".as_ref(), "-f".as_ref()];
    args.extend(options.split_whitespace().map(std::ffi::OsStr::new));
    args.push(image.as_os_str());
    run("mkfs.btrfs", &args);
}

/// Mounts an image at its top level, or skips if this machine cannot.
pub(super) fn mount(image: &Path, at: &Path, options: &str) -> Option<Mount> {
    // The kernel remembers volumes by UUID and rejects an older copy of a known one.
    run("btrfs", &["device", "scan", "--forget"]);
    Mount::new(image, at, &format!("subvolid=5,nodev,{options}"))
}

/// Opens an image without reading it into memory.
pub(super) fn open(image: &Path) -> (Btrfs, Arc<dyn Source>) {
    let volume = FileVolume::open(image);
    (Btrfs::open(volume.clone()).unwrap(), volume)
}

/// The flags that lsattr shows for regular files and directories.
type Flags = HashMap<Vec<u8>, u32>;

fn kernel_flags(root: &Path, view: &View) -> Flags {
    use std::os::unix::ffi::OsStrExt;
    let mut flags = Flags::new();
    for (path, entry) in view {
        if matches!(entry.file_type, FileType::File | FileType::Dir) {
            let whole = [root.as_os_str().as_bytes(), path].concat();
            let file = std::fs::File::open(std::ffi::OsStr::from_bytes(&whole)).unwrap();
            if let Ok(set) = rustix::fs::ioctl_getflags(&file) {
                flags.insert(path.clone(), set.bits());
            }
        }
    }
    flags
}

fn our_flags(fs: &Btrfs) -> Flags {
    let listing = mif_formats::fs::walk::walk(fs).unwrap();
    assert!(listing.complaints.is_empty(), "{:?}", listing.complaints);
    let kept = |path: &[u8]| if path == b"/" { Vec::new() } else { path.to_vec() };
    listing.entries.iter().map(|entry| (kept(&entry.path), listing.nodes[entry.file].flags)).collect()
}

/// Compares our view of an image with the kernel's after mounting a copy, and returns ours. `None` if this machine
/// cannot mount it.
pub(super) fn assert_as_the_kernel(what: &str, image: &Path, scratch: &Path) -> Option<View> {
    let copy = scratch.join("copy of the image");
    run("cp", &["--sparse=always".as_ref(), image.as_os_str(), copy.as_os_str()]);
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    // Not read-only, because a log could not be replayed then.
    let mount = mount(&copy, &scratch.join("mount of the copy"), "noatime")?;
    let mut kernel = theirs(&mount.path);
    let flags = kernel_flags(&mount.path, &kernel);
    drop(mount);
    std::fs::remove_file(&copy).unwrap();
    let (fs, volume) = open(image);
    let mut ours = ours(&fs, &volume);
    for (path, entry) in &mut kernel {
        // The kernel gives directories that stand for subvolumes the mount time.
        if entry.inode == 2 {
            (entry.mtime, entry.atime, entry.ctime, entry.crtime) = ((0, 0), (0, 0), (0, 0), None);
        }
        // A replay that removes a name sets the inode's change time.
        if entry.ctime.0 >= before
            && let Some(ours) = ours.get_mut(path)
        {
            assert!(ours.ctime.0 <= before, "{what}");
            ours.ctime = entry.ctime;
        }
    }
    assert_same(what, &ours, &kernel);
    let our_flags = our_flags(&fs);
    for (path, set) in flags {
        assert_eq!(our_flags[&path], set, "{what}: flags of {}", path.escape_ascii());
    }
    Some(ours)
}
