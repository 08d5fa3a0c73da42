//! Bugs reported for other XFS readers: the smallest volume that shows each, compared with the kernel.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use mif_formats::fs::Filesystem;
use rustix::fs::{FallocateFlags, fallocate};

use super::{TOOLS, kernel_view, mkfs, open, scratch, seen};
use crate::tools::{Mount, have, run};
use crate::view::{View, assert_same};

/// Makes a volume, fills it through the kernel, and compares it. Returns its contents and the formats of `a` and `b`.
fn check(mib: u64, options: &str, fill: impl Fn(&Path)) -> Option<(View, Vec<String>)> {
    if !have(&TOOLS) {
        return None;
    }
    let scratch = scratch();
    let (image, mnt) = (scratch.path().join("image"), scratch.path().join("mnt"));
    mkfs(&image, mib, options);
    let mount = Mount::new(&image, &mnt, "noatime")?;
    fill(&mount.path);
    drop(mount);
    let mount = Mount::new(&image, &mnt, "ro")?;
    let kernel = kernel_view(&mount.path);
    drop(mount);
    let ours = seen(options, &image);
    assert_same(options, &ours, &kernel);
    // The fork formats of `a` and `b` according to xfs_db.
    let form = |path: &str| {
        let args = [
            "-r",
            "-c",
            &format!("path {path}"),
            "-c",
            "p core.format core.aformat",
            image.to_str().unwrap(),
        ];
        String::from_utf8_lossy(&run("xfs_db", &args).stdout).into_owned()
    };
    let forms =
        ["/a", "/b"].into_iter().filter(|path| ours.contains_key(path.as_bytes())).map(form).collect();
    Some((ours, forms))
}

/// <https://github.com/fox-it/dissect.target/issues/894>: long targets are stored in blocks with headers.
#[test]
fn long_symlinks_are_read() {
    for options in ["", "-b size=1024"] {
        let Some((view, _)) = check(64, options, |root| {
            for len in [300, 751, 967, 968, 969, 1023] {
                symlink("t".repeat(len), root.join(len.to_string())).unwrap();
            }
        }) else {
            return;
        };
        assert_eq!(view[&b"/1023"[..]].target.as_ref().unwrap().len(), 1023);
    }
}

/// <https://github.com/rhboot/grub2/pull/172>: a directory has holes where all names of a block were deleted.
/// <https://github.com/sleuthkit/sleuthkit/pull/1476>: there is unused space between names.
#[test]
fn directories_with_holes_and_with_unused_room_are_read() {
    let Some((_, forms)) = check(64, "", |root| {
        let folder = root.join("a");
        fs::create_dir(&folder).unwrap();
        (0..2000).for_each(|i| drop(File::create(folder.join(format!("{i:0>50}"))).unwrap()));
        (300..1700).filter(|i| i % 400 != 0).for_each(|i| {
            fs::remove_file(folder.join(format!("{i:0>50}"))).unwrap();
        });
        (0..300).step_by(3).for_each(|i| fs::remove_file(folder.join(format!("{i:0>50}"))).unwrap());
    }) else {
        return;
    };
    assert!(!forms[0].contains("core.format = 1"), "{forms:?}");
}

/// <https://github.com/DiscUtils/DiscUtils/pull/21>: directory blocks are larger than blocks of the volume.
/// <https://github.com/DiscUtils/DiscUtils/issues/134>, <https://github.com/DiscUtils/DiscUtils/pull/168>: block map
/// blocks have different magic numbers and longer headers on version 5.
#[test]
fn large_blocks_of_directories_and_trees_of_extents_are_read() {
    let Some((_, forms)) = check(128, "-b size=1024 -n size=8192", |root| {
        let (folder, file) = (root.join("a"), File::create(root.join("b")).unwrap());
        fs::create_dir(&folder).unwrap();
        // Files take the blocks between those of the directory and of the other file.
        for i in 0..3000_u64 {
            let one = File::create(folder.join(format!("{i:0>90}"))).unwrap();
            one.write_all_at(&[1; 1024], 0).unwrap();
            file.write_all_at(&[2; 1024], i * 2048).unwrap();
            if i % 10 == 0 {
                file.sync_data().unwrap();
                one.sync_data().unwrap();
            }
        }
    }) else {
        return;
    };
    assert!(forms[1].contains("core.format = 3"), "{forms:?}");
}

/// <https://github.com/sleuthkit/sleuthkit/pull/3467>: allocation groups begin past 4 GiB.
/// <https://github.com/ianka/xfs_undelete/issues/32>: inode numbers have more than 32 bits, even in short directories.
#[test]
fn numbers_of_more_than_32_bits_are_read() {
    let Some((view, _)) = check(4 << 20, "-l size=64m -d agsize=512g", |root| {
        for i in 0..12 {
            let folder = root.join(format!("folder {i}"));
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("file"), i.to_string()).unwrap();
        }
    }) else {
        return;
    };
    let most = view.values().map(|entry| entry.inode).max().unwrap();
    assert!(most > u64::from(u32::MAX), "{most}");
}

/// <https://github.com/calamares/calamares/issues/960>: inodes are allocated in partial chunks if a whole one does not
/// fit.
#[test]
fn inodes_of_sparse_chunks_are_read() {
    let Some((view, _)) = check(64, "-i sparse=1", |root| {
        // Fill the volume except for scattered runs of blocks.
        let file = File::create(root.join("full")).unwrap();
        let mut len = 0;
        while fallocate(&file, FallocateFlags::empty(), len, 64 << 10).is_ok() {
            len += 64 << 10;
        }
        file.sync_all().unwrap();
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for i in (0..len).step_by(10 * 4096) {
            fallocate(&file, punch, i, 5 * 4096).unwrap();
        }
        file.sync_all().unwrap();
        for i in 0..3000 {
            if File::create(root.join(format!("{i}"))).is_err() {
                break;
            }
        }
    }) else {
        return;
    };
    assert!(view.len() > 500, "{}", view.len());
}

/// <https://github.com/masahiro331/go-xfs-filesystem/pull/12>, <https://github.com/chimera-linux/cports/issues/1309>:
/// the extent count is stored elsewhere.
/// <https://github.com/masahiro331/go-xfs-filesystem/pull/11>: setuid and setgid were swapped, and times past 2038 not
/// read.
#[test]
fn large_counts_of_extents_and_odd_modes_are_read() {
    let Some((view, _)) = check(64, "-i nrext64=1", |root| {
        let folder = root.join("a");
        fs::create_dir(&folder).unwrap();
        (0..200).for_each(|i| drop(File::create(folder.join(format!("{i:0>50}"))).unwrap()));
        for (name, mode) in [("setuid", 0o4755), ("setgid", 0o2755), ("both", 0o6711), ("sticky", 0o1644)] {
            fs::write(root.join(name), name).unwrap();
            fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let late = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1 << 32);
        File::open(root.join("both")).unwrap().set_modified(late).unwrap();
    }) else {
        return;
    };
    assert_eq!(view[&b"/setuid"[..]].mode, 0o4755);
    assert_eq!(view[&b"/both"[..]].mtime, (1 << 32, 0));
}

/// <https://github.com/sleuthkit/sleuthkit/pull/3467>: a volume truncated at any point.
#[test]
fn a_volume_that_is_cut_off_anywhere_does_no_harm() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    mkfs(&image, 64, "");
    for len in [0, 1, 511, 512, 1024, 4095, 4096, 4097, 65_536, 1 << 20, (16 << 20) + 512, (64 << 20) - 1] {
        File::options().write(true).open(&image).unwrap().set_len(64 << 20).unwrap();
        let cut = scratch.path().join("cut");
        fs::copy(&image, &cut).unwrap();
        File::options().write(true).open(&cut).unwrap().set_len(len).unwrap();
        let opened = mif_formats::fs::xfs::Xfs::open(crate::tools::FileVolume::open(&cut));
        if len < 512 {
            assert!(opened.is_err());
            continue;
        }
        let fs = opened.unwrap();
        assert!(fs.info().warnings.iter().any(|w| w.contains("the volume ends at byte")), "{len}");
        let _ = fs.read_dir(fs.root(), &mut |_| ());
    }
    let (fs, _) = open(&image);
    assert!(fs.info().warnings.is_empty());
}
