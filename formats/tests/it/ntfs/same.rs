//! Volumes written by ntfs-3g, compared with what it reads.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use mif_formats::MemSource;
use mif_formats::fs::ntfs::Ntfs;
use mif_formats::fs::{FileType, Filesystem, driver};

use super::edit::{DATA, Image, VOLUME_INFORMATION, le};
use super::life::{Can, live};
use super::seen::{Tree, assert_same, ours, readable, theirs};
use super::{Fuse, TOOLS, filled, mkntfs, open, open_clean, scratch};
use crate::tools::{FileVolume, have, run};

/// Makes a volume, fills it, and compares everything on it. Returns what is there.
fn check(mib: u64, options: &str, mount: &str, fill: impl FnOnce(&Path)) -> Option<Tree> {
    let scratch = scratch();
    let image = scratch.path().join("image");
    if !filled(&image, mib, options, mount, fill) {
        return None;
    }
    let mounted = Fuse::new(&image, &image.with_extension("mnt"), "ro,streams_interface=xattr")?;
    let theirs = theirs(&mounted.path);
    drop(mounted);
    let (fs, volume) = open_clean(&image);
    let ours = ours(&fs, &*volume);
    println!("{options}: {} paths are the same", ours.len());
    assert_same(options, &ours, &theirs);
    Some(ours)
}

/// Lives on a volume of this cluster size.
fn live_on(cluster: u32, can: Can) {
    if !have(&TOOLS) {
        return;
    }
    let options = format!("-c {cluster}");
    let mount = "compression,streams_interface=xattr";
    let Some(tree) = check(512, &options, mount, |root| live(root, u64::from(cluster), can)) else { return };
    let links = tree.values().map(|entry| entry.nlink).max().unwrap();
    assert!(links > 300 && tree.values().any(|entry| entry.dos_name.is_some()), "{links}");
    assert!(tree.values().any(|entry| entry.streams.len() > 1));
}

#[test]
fn volumes_of_small_clusters_are_read_as_ntfs_3g_reads_them() {
    live_on(512, Can { compress: true, steps: 4000, names: 500 });
}

#[test]
fn volumes_of_usual_clusters_are_read_as_ntfs_3g_reads_them() {
    live_on(4096, Can { compress: true, steps: 8000, names: 20_000 });
}

#[test]
fn volumes_of_large_clusters_are_read_as_ntfs_3g_reads_them() {
    live_on(65_536, Can { compress: false, steps: 2000, names: 2000 });
}

/// Clusters of 2 MiB: <https://github.com/ColinFinck/ntfs/issues/12>,
/// <https://github.com/sleuthkit/sleuthkit/issues/1496>. Sectors of 4 KiB, with records of 4 KiB:
/// <https://github.com/sleuthkit/sleuthkit/issues/700>.
#[test]
fn volumes_of_the_largest_clusters_and_sectors_are_read() {
    if !have(&TOOLS) {
        return;
    }
    let fill = |root: &Path| live(root, 3, Can { compress: false, steps: 300, names: 400 });
    for (mib, options) in [(8192, "-Q -c 2097152"), (256, "-s 4096"), (256, "-s 2048 -c 8192")] {
        let Some(tree) = check(mib, options, "streams_interface=xattr", fill) else { return };
        assert!(tree.len() > 500, "{options}: {}", tree.len());
    }
}

#[test]
fn files_of_linux_are_read_as_ntfs_3g_reads_them() {
    if !have(&[&TOOLS[..], &["mknod"]].concat()) {
        return;
    }
    // Both of ntfs-3g's ways of storing them. Interix' FIFOs and sockets are not told from files of Windows.
    for (style, types) in [("wsl", "pcb"), ("interix", "cb")] {
        let mount = format!("special_files={style}");
        let tree = check(64, "", &mount, |root| {
            symlink("../a target", root.join("link")).unwrap();
            for kind in types.chars() {
                let path = root.join(kind.to_string());
                let (path, kind) = (path.to_str().unwrap(), kind.to_string());
                match kind.as_str() {
                    "p" => run("mknod", &[path, "p"]),
                    _ => run("mknod", &[path, kind.as_str(), "7", "300"]),
                };
            }
        });
        let Some(tree) = tree else { return };
        assert_eq!(tree[&b"/link"[..]].target.as_deref(), Some(&b"../a target"[..]), "{style}");
        assert_eq!(tree[&b"/c"[..]].rdev, Some((7, 300)), "{style}");
        assert!(style == "interix" || tree[&b"/p"[..]].file_type == FileType::Fifo);
    }
}

#[test]
fn a_volume_is_described_as_blkid_and_ntfsinfo_do() {
    if !have(&[&TOOLS[..], &["blkid", "ntfsinfo"]].concat()) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    mkntfs(&image, 100, "-c 1024");
    let (fs, _) = open_clean(&image);
    let info = fs.info();
    let path = image.to_str().unwrap();
    let tag = |tag| {
        let output = run("blkid", &["-p", "-s", tag, "-o", "value", path]);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(info.uuid.as_deref(), Some(tag("UUID").as_str()));
    assert_eq!((info.label.as_deref(), info.kind.as_str()), (Some("a label €"), tag("TYPE").as_str()));
    assert_eq!((info.block_size, info.size), (1024, 100 << 20));
    let output = String::from_utf8(run("ntfsinfo", &["-m", path]).stdout).unwrap();
    let number = |name: &str| {
        let line =
            output.lines().find(|line| line.trim().starts_with(name)).unwrap_or_else(|| panic!("{output}"));
        line.split([':', '(']).nth(1).unwrap().trim().to_owned()
    };
    assert_eq!(info.features, [number("Volume Version")]);
    let free: u64 = number("Free Clusters").parse().unwrap();
    assert_eq!(info.free, Some(free * 1024));
    let driver = driver("ntfs").unwrap();
    assert_eq!(driver.id_text(&driver.id(&tag("UUID")).unwrap()), tag("UUID"));
}

#[test]
fn a_damaged_boot_sector_and_damaged_first_records_are_replaced_by_their_copies() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let fill = |root: &Path| fs::write(root.join("file"), b"content").unwrap();
    if !filled(&image, 32, "", "", fill) {
        return;
    }
    let (fs, volume) = open_clean(&image);
    let whole = ours(&fs, &*volume);
    let bytes = fs::read(&image).unwrap();
    let mft = u64::from_le_bytes(bytes[0x30..0x38].try_into().unwrap()) as usize * 4096;
    let damage = |at: usize, warning: &str| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x55;
        fs::write(&image, bytes).unwrap();
        let (fs, volume) = open(&image);
        let warnings = &fs.info().warnings;
        assert!(warnings.iter().any(|found| found.contains(warning)), "{warnings:?}");
        assert_eq!(ours(&fs, &*volume), whole);
    };
    damage(0x0C, "the boot sector is damaged, so its copy at byte 33553920 was used");
    damage(0x31, "the boot sector is damaged");
    damage(mft, "the copy of MFT record 0 is used: MFT record 0");
    damage(mft + 1023, "the copy of MFT record 0 is used: MFT record 0");
    damage(mft + 3 * 1024 + 510, "the copy of MFT record 3 is used");
}

#[test]
fn volumes_that_are_not_clean_are_said() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let fill =
        |root: &Path| fs::write(root.join("HiberFil.sys"), [&b"hibr"[..], &[0; 5000]].concat()).unwrap();
    if !filled(&image, 32, "", "", fill) {
        return;
    }
    let mut edited = Image::load(&image);
    // Flags of $VOLUME_INFORMATION, and a restart page of a log in use.
    edited.edit(3, VOLUME_INFORMATION, |about| about[24 + 10] = 1);
    let mut lcn = 0;
    edited.edit(2, DATA, |data| {
        let pairs = le(data, 32, 2) as usize;
        let (len, start) = (usize::from(data[pairs] & 0xF), usize::from(data[pairs] >> 4));
        lcn = le(data, pairs + 1 + len, start) as usize;
    });
    let page = &mut edited.bytes[lcn * 4096..][..4096];
    page.fill(0);
    page[..8].copy_from_slice(b"RSTR\x1e\0\x09\0");
    (page[17], page[21], page[24], page[0x1E]) = (16, 16, 0x30, 1);
    (1..=8).for_each(|sector| page[sector * 512 - 2] = 1);
    let fs = Ntfs::open(Arc::new(MemSource(edited.bytes))).unwrap();
    let warnings = fs.info().warnings.join("\n");
    for expected in
        ["marked as dirty", "not cleanly unmounted: its log is not replayed", "Windows hibernates"]
    {
        assert!(warnings.contains(expected), "{warnings}");
    }
}

/// Volumes that Windows wrote, which no package has.
#[test]
#[ignore = "needs NTFS_IMAGES, a directory of volumes"]
fn other_volumes_are_read_as_ntfs_3g_reads_them() {
    let images = std::env::var_os("NTFS_IMAGES").expect("a directory");
    let scratch = scratch();
    for image in fs::read_dir(images).unwrap() {
        let image = image.unwrap().path();
        let options = "ro,streams_interface=xattr";
        let Some(mounted) = Fuse::new(&image, &scratch.path().join("mnt"), options) else { continue };
        let mut theirs = theirs(&mounted.path);
        drop(mounted);
        let (fs, _) = open(&image);
        let volume = FileVolume::open(&image);
        let mut ours = readable(&fs, &*volume);
        // ntfs-3g shows other drivers' files and directories as broken symlinks.
        let unsupported = |target: &Option<Vec<u8>>| {
            target.as_ref().is_some_and(|target| target.starts_with(b"unsupported reparse"))
        };
        let unknown: Vec<Vec<u8>> = theirs
            .iter()
            .filter(|(_, entry)| unsupported(&entry.target))
            .map(|(path, _)| path.clone())
            .collect();
        for tree in [&mut ours, &mut theirs] {
            tree.retain(|path, _| !unknown.iter().any(|unknown| path.starts_with(unknown)));
        }
        println!("{}: {} paths, {:?}", image.display(), ours.len(), fs.info());
        assert_same(&image.display().to_string(), &ours, &theirs);
    }
}
