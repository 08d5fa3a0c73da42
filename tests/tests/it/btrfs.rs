//! Disks with a Btrfs volume are imported and restored, and their files match what the kernel shows.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use mif_formats::fs::btrfs::Btrfs;
use mif_formats::fs::{Filesystem, Piece, walk};
use mif_formats::{MemSource, Source};
use mif_tests::dissect::{assert_dissect_agrees, have_dissect};
use mif_tests::{have, is_root, mif, run, run_failing, skip, tool, work_folder};

/// Fills the volume mounted at `$1`.
const FILL: &str = r#"
set -e
cd "$1"
mkdir docs docs/below
seq 1 60000 >docs/text
head -c 300000 /dev/urandom >docs/noise
echo small >docs/small
truncate -s 5M docs/sparse; echo end >>docs/sparse
cp --reflink=always docs/text docs/clone
ln docs/text docs/linked
ln -s ../text docs/below/link
btrfs -q subvolume create home
seq 1 30000 >home/mine
btrfs -q subvolume snapshot -r home home/before
echo more >>home/mine
btrfs -q subvolume snapshot . snapshot
seq 5 50 >snapshot/docs/text2
seq 1 9 | dd of=snapshot/docs/text conv=notrunc bs=1 seek=100000 status=none
"#;

/// Makes a volume of 120 MiB and returns its regular files as the kernel reads them. `None` if it cannot be mounted
/// here.
fn volume(disk: &Path, mnt: &Path) -> Option<BTreeMap<String, Vec<u8>>> {
    fs::File::create(disk).unwrap().set_len(120 << 20).unwrap();
    run(tool("mkfs.btrfs").args(["-q", "-L", "lived in"]).arg(disk));
    fs::create_dir_all(mnt).unwrap();
    let mount = |options: &str| tool("mount").args(["-o", options]).arg(disk).arg(mnt).output().unwrap();
    let done = mount("loop,compress-force=zstd");
    if !done.status.success() {
        let _ = skip(&format!("cannot mount: {}", String::from_utf8_lossy(&done.stderr)));
        return None;
    }
    let filled = Command::new("sh").args(["-c", FILL, "sh"]).arg(mnt).output().unwrap();
    run(tool("umount").arg(mnt));
    assert!(filled.status.success(), "{}", String::from_utf8_lossy(&filled.stderr));
    assert!(mount("loop,ro").status.success());
    let mut files = BTreeMap::new();
    let mut todo = vec![mnt.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                todo.push(entry.path());
            } else if kind.is_file() {
                let path = entry.path().strip_prefix(mnt).unwrap().to_str().unwrap().to_owned();
                files.insert(path, fs::read(entry.path()).unwrap());
            }
        }
    }
    run(tool("umount").arg(mnt));
    assert!(files.len() > 10, "{:?}", files.keys());
    Some(files)
}

/// Returns a disk range that holds a compressed extent of a file.
fn compressed(disk: &[u8], path: &[u8]) -> std::ops::Range<u64> {
    let volume: std::sync::Arc<dyn Source> = std::sync::Arc::new(MemSource(disk.to_vec()));
    let fs = Btrfs::open(volume).unwrap();
    let content = fs.content(walk::lookup(&fs, path).unwrap()).unwrap();
    let encoded = content.pieces.iter().find_map(|piece| match piece {
        Piece::Encoded(encoded) => Some(encoded),
        _ => None,
    });
    encoded.expect("it is compressed").runs[0].clone()
}

#[test]
fn a_compressed_volume_with_snapshots_goes_in_and_comes_out() {
    if !have(&["mkfs.btrfs", "btrfs", "mount", "qemu-img"]) {
        return;
    }
    if !is_root() {
        let _ = skip("only root mounts");
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let (store, disk) = (at("store"), at("raw.img"));
    let Some(files) = volume(&disk, &at("mnt")) else { return };
    let bits = fs::read(&disk).unwrap();
    run(tool("qemu-img").args(["convert", "-O", "qcow2"]).arg(&disk).arg(at("packed.qcow2")));
    for (name, file) in [("raw", "raw.img"), ("packed", "packed.qcow2")] {
        run(mif(&store).args(["import", "--verify", "--strict"]).arg(at(file)));
        run(mif(&store).args(["export", name]).arg(at("out.raw")));
        assert!(fs::read(at("out.raw")).unwrap() == bits, "{name}");
        fs::remove_file(at("out.raw")).unwrap();
    }
    let info = run(mif(&store).args(["info", "raw"]));
    assert!(info.contains("btrfs") && info.contains("lived in"), "{info}");
    let listed = run(mif(&store).args(["ls", "--recursive", "raw"]));
    for (path, content) in &files {
        assert!(listed.contains(path), "{path}: {listed}");
        // From the store, and from the disk file itself.
        for image in ["raw", disk.to_str().unwrap()] {
            let read = mif(&store).args(["cat", image, &format!("p0:/{path}")]).output().unwrap();
            assert!(read.stdout == *content, "{image}: {path}");
        }
    }
    // Another reader of Btrfs finds the same in all subvolumes.
    let other: serde_json::Value =
        serde_json::from_str(&run(mif(&store).args(["verify", "raw", "--independent", "--json"]))).unwrap();
    let part = &other["parts"][0];
    assert!(part["reader"].as_str().unwrap().starts_with("rust-fs-btrfs"), "{part}");
    assert!(part["compared"].as_u64().unwrap() as usize > files.len(), "{part}");
    assert_eq!((&part["differences"], &part["unchecked"]), (&0.into(), &0.into()), "{part}");
    if have_dissect() {
        // The kernel shows an empty directory where a subvolume was when the snapshot was taken.
        let unlike = ["/snapshot/home/"];
        let paths = assert_dissect_agrees(&store, ("raw", "p0"), "btrfs", (&disk, 0), &unlike);
        assert!(paths > files.len(), "{paths}");
    }
    // `btrfs restore` reads without the kernel, as dissect does: `-s` with snapshots, `-S` with symlinks.
    fs::create_dir(at("restored")).unwrap();
    let mut restore = tool("btrfs");
    run(restore.args(["restore", "-s", "-S"]).arg(&disk).arg(at("restored")));
    run(mif(&store).args(["extract", "raw", "p0:/", "-o"]).arg(at("extracted")));
    // It too enters the subvolume that the kernel does not show.
    fs::remove_dir_all(at("restored/snapshot/home")).unwrap();
    fs::create_dir(at("restored/snapshot/home")).unwrap();
    run(tool("diff").args(["-r", "--no-dereference"]).arg(at("restored")).arg(at("extracted")));
    for (path, content) in &files {
        assert!(fs::read(at("extracted").join(path)).unwrap() == *content, "{path}");
    }
}

#[test]
fn a_damaged_compressed_extent_costs_its_file_and_not_the_disk() {
    if !have(&["mkfs.btrfs", "btrfs", "mount"]) {
        return;
    }
    if !is_root() {
        let _ = skip("only root mounts");
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let (store, disk) = (at("store"), at("raw.img"));
    let Some(files) = volume(&disk, &at("mnt")) else { return };
    let extent = compressed(&fs::read(&disk).unwrap(), b"/home/mine");
    let file = fs::File::options().write(true).open(&disk).unwrap();
    file.write_all_at(&[0xA5; 64], extent.start).unwrap();
    let bits = fs::read(&disk).unwrap();
    let report: serde_json::Value =
        serde_json::from_str(&run(mif(&store).args(["import", "--verify", "--json"]).arg(&disk))).unwrap();
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("/home/mine") && warnings.contains("zstd"), "{warnings}");
    run_failing(mif(&store).args(["cat", "raw", "p0:/home/mine"]), 3);
    let listed = run(mif(&store).args(["ls", "--recursive", "raw"]));
    assert!(listed.contains("home/mine"), "{listed}");
    let read = mif(&store).args(["cat", "raw", "p0:/docs/text"]).output().unwrap();
    assert!(read.stdout == files["docs/text"]);
    run(mif(&store).args(["export", "raw"]).arg(at("out.raw")));
    assert!(fs::read(at("out.raw")).unwrap() == bits);
}
