//! Volumes written by the kernel.

use std::fs::{self, File};
use std::path::Path;

use mif_formats::fs::{FileType, Filesystem, walk};
use rustix::fs::ioctl_getflags;

use super::live::{Can, live};
use super::{TOOLS, kernel_view, mkfs, open, scratch, seen};
use crate::tools::{Mount, have, run, try_run};
use crate::view::assert_same;

/// Fills a volume made with these options, and compares everything in it.
fn check(options: &str, can: Can) {
    let scratch = scratch();
    let (image, mnt) = (scratch.path().join("image"), scratch.path().join("mnt"));
    mkfs(&image, 600, options);
    let Some(mount) = Mount::new(&image, &mnt, "noatime") else { return };
    live(&mount.path, options.len() as u64, can);
    drop(mount);
    let Some(mount) = Mount::new(&image, &mnt, "ro") else { return };
    let kernel = kernel_view(&mount.path);
    compare_flags(options, &image, &mount.path);
    drop(mount);
    assert_same(options, &seen(options, &image), &kernel);
}

/// Compares the flags of files and directories.
fn compare_flags(options: &str, image: &Path, root: &Path) {
    let (fs, _) = open(image);
    let listing = walk::walk(&fs).unwrap();
    for entry in &listing.entries {
        let node = &listing.nodes[entry.file];
        if !matches!(node.file_type, FileType::File | FileType::Dir) {
            continue;
        }
        use std::os::unix::ffi::OsStrExt;
        let path = root.join(std::ffi::OsStr::from_bytes(&entry.path[1..]));
        let flags = ioctl_getflags(File::open(&path).unwrap()).unwrap();
        assert_eq!(node.flags, flags.bits(), "{options}: {}", path.display());
    }
}

const CAN: Can = Can { block: 4096, reflink: true, names: 5000 };

#[test]
fn volumes_of_every_form_are_read_as_the_kernel_reads_them() {
    if !have(&TOOLS) {
        return;
    }
    check("-m reflink=1", Can { names: 20_000, ..CAN });
    check("-b size=1024 -m rmapbt=1", Can { block: 1024, ..CAN });
    check("-m bigtime=0,reflink=0,finobt=0,inobtcount=0 -i sparse=0", Can { reflink: false, ..CAN });
}

#[test]
fn volumes_of_every_geometry_are_read_as_the_kernel_reads_them() {
    if !have(&TOOLS) {
        return;
    }
    check("-b size=1024 -n size=65536 -i size=512", Can { block: 1024, ..CAN });
    check("-i size=2048 -n size=16384 -d agcount=7 -i nrext64=1 -s size=4096", CAN);
    check("-b size=2048 -l su=32768", Can { block: 2048, ..CAN });
}

#[test]
fn volumes_with_blocks_that_exceed_a_page_are_read_as_the_kernel_reads_them() {
    if !have(&TOOLS) {
        return;
    }
    check("-b size=65536", Can { block: 65_536, ..CAN });
}

#[test]
fn a_volume_whose_uuid_was_changed_is_read() {
    if !have(&TOOLS) || !have(&["xfs_admin"]) {
        return;
    }
    let scratch = scratch();
    let (image, mnt) = (scratch.path().join("image"), scratch.path().join("mnt"));
    mkfs(&image, 64, "-L label");
    let Some(mount) = Mount::new(&image, &mnt, "noatime") else { return };
    fs::write(mount.path.join("file"), b"content").unwrap();
    drop(mount);
    let uuid = "c0ffee00-1234-5678-9abc-def012345678";
    run("xfs_admin", &["-U".as_ref(), uuid.as_ref(), image.as_os_str()]);
    let (fs, _) = open(&image);
    let info = fs.info();
    assert_eq!((info.uuid.as_deref(), info.label.as_deref()), (Some(uuid), Some("label")));
    assert!(info.features.iter().any(|feature| feature == "meta_uuid"), "{:?}", info.features);
    assert_eq!(seen("uuid", &image).len(), 2);
}

#[test]
fn free_space_and_sizes_are_those_of_the_superblock() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    mkfs(&image, 64, "");
    let output = run("xfs_db", &["-r", "-c", "sb 0", "-c", "p fdblocks dblocks", image.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split(" = ").nth(1).unwrap().parse::<u64>().unwrap()
    };
    let (fs, _) = open(&image);
    assert_eq!(fs.info().free, Some(number("fdblocks") * 4096));
    assert_eq!(fs.info().size, number("dblocks") * 4096);
}

#[test]
fn the_superblock_is_taken_from_a_copy() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let proto = scratch.path().join("proto");
    fs::write(&proto, "/\n0 0\nd--755 0 0\nfile ---644 1 2 /etc/hostname\n$\n").unwrap();
    for options in ["", "-b size=1024", "-d agcount=3", "-m crc=0"] {
        mkfs(&image, 65, &format!("{options} -p {}", proto.display()));
        let whole = fs::read(&image).unwrap();
        for (at, len) in [(4, 4), (8, 8), (84, 8), (120, 8)] {
            let mut bytes = whole.clone();
            bytes[at..at + len].fill(0xA5);
            fs::write(&image, &bytes).unwrap();
            let (fs, _) = open(&image);
            let warnings = &fs.info().warnings;
            assert!(
                warnings.len() == 1 && warnings[0].contains("its copy at byte"),
                "{options}: {warnings:?}"
            );
            let listing = walk::walk(&fs).unwrap();
            assert_eq!(listing.entries.len(), 2, "{options}");
        }
    }
}

#[test]
fn logs_and_realtime_devices_elsewhere_are_said() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let path = |name: &str| scratch.path().join(name);
    let (image, log, realtime) = (path("image"), path("log"), path("realtime"));
    for device in [&log, &realtime] {
        File::create(device).unwrap().set_len(64 << 20).unwrap();
    }
    let options = format!("-l logdev={},size=16m -r rtdev={}", log.display(), realtime.display());
    mkfs(&image, 64, &options);
    let (fs, _) = open(&image);
    assert_eq!(
        fs.info().warnings,
        [
            "the content of files on the realtime device cannot be read",
            "the log is on another device and was not replayed; the last changes may be missing"
        ]
    );
    assert!(fs.read_dir(fs.root(), &mut |e| panic!("{e}")).unwrap().is_empty());
    let db = |command: &str| try_run("xfs_db", &["-x", "-c", command, image.to_str().unwrap()]);
    assert!(db("sb 0").status.success());
}

#[test]
#[ignore = "needs XFS_IMAGE, a volume of which a copy can be mounted"]
fn a_given_volume_is_read_as_the_kernel_reads_it() {
    let image = std::path::PathBuf::from(std::env::var_os("XFS_IMAGE").expect("XFS_IMAGE"));
    let scratch = scratch();
    let copy = scratch.path().join("copy");
    run("cp", &["--sparse=always".as_ref(), image.as_os_str(), copy.as_os_str()]);
    let start = std::time::Instant::now();
    let ours = seen("given volume", &copy);
    println!("{} paths read in {:?}", ours.len(), start.elapsed());
    let Some(mount) = Mount::new(&copy, &scratch.path().join("mnt"), "noatime") else { return };
    assert_same("given volume", &ours, &kernel_view(&mount.path));
}
