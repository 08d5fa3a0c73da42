//! A library of six real Debian disks from end to end: `make collection`. Not part of `make test`: the disks alone take
//! ten minutes to make.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use mif_tests::disk::assert_sound;
use mif_tests::{cache, debian, have, mif, repo, run, skip, tool, work_folder};
use serde_json::Value;

/// The images by name: the tree's suite and packages as fixtures/debian-library has them, and whether UEFI boots it.
const IMAGES: [(&str, &str, bool); 6] = [
    ("base", "base.raw", true),
    ("base-mbr", "base-mbr.qcow2", false),
    ("dev", "dev.vmdk", false),
    ("trixie", "trixie.qcow2", true),
    ("web", "web.qcow2", true),
    ("web-mbr", "web-mbr.vmdk", false),
];

/// The folder of images; none, said loudly, if the archive cannot be reached.
fn folder() -> Option<PathBuf> {
    let output = tool(repo().join("fixtures/debian-library")).env("MIF_CACHE", cache()).output().unwrap();
    match output.status.code() {
        Some(0) => Some(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())),
        Some(3) => {
            let _ = skip("THE DEBIAN ARCHIVE CANNOT BE REACHED");
            None
        }
        _ => panic!("fixtures/debian-library: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

fn json(store: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&run(mif(store).arg("--json").args(arguments))).unwrap()
}

/// A raw copy by qemu-img.
fn raw(image: &Path, to: &Path) {
    run(tool("qemu-img").args(["convert", "-O", "raw"]).arg(image).arg(to));
}

/// Name, version and architecture of each package, as dpkg-query says it of the database on a disk, read by debugfs.
fn dpkg_query(work: &Path, disk: &Path) -> BTreeSet<String> {
    let root =
        mif_tests::disk::parts(disk).into_iter().find(|part| part.number == 1).expect("slot 1 is the root");
    let (volume, admin) = (work.join("root.img"), work.join("admin"));
    mif_tests::disk::cut(disk, root.start, root.len, &volume);
    let _ = fs::remove_dir_all(&admin);
    fs::create_dir(&admin).unwrap();
    run(tool("debugfs")
        .args(["-R", &format!("rdump /var/lib/dpkg/status /var/lib/dpkg/info {}", admin.display())])
        .arg(&volume));
    fs::create_dir(admin.join("updates")).unwrap();
    let format = "${Package},${Version},${Architecture}\\n";
    let said =
        run(tool("dpkg-query").arg(format!("--admindir={}", admin.display())).args(["-W", "-f", format]));
    said.lines().map(str::to_owned).collect()
}
