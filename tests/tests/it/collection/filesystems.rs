//! Debian on XFS and on Btrfs: from qcow2 into the store and out as each container, booted, and what they cost beside the
//! same files on ext4.

use std::fs;
use std::path::{Path, PathBuf};

use mif_tests::debian::{TOOLS, boot, make_disk, tree};
use mif_tests::{WorkFolder, have, is_root, json, mif, run, skip, tool, work_folder};
use serde_json::Value;

use super::library::{dpkg_packages, packages};

fn added(report: &Value) -> u64 {
    report["added"]["stored_bytes"].as_u64().unwrap()
}

fn packs(store: &Path) -> u64 {
    let stats = json(store, &["stats"]);
    stats["stored_bytes"].as_u64().unwrap()
}

/// Returns name, version and architecture of each package, sorted, according to dpkg-query and the database in a tree.
fn dpkg_query(work: &Path, tree: &Path) -> Vec<String> {
    let admin = work.join("admin");
    fs::create_dir(&admin).unwrap();
    run(tool("tar").arg("-xf").arg(tree).arg("-C").arg(&admin).arg("./var/lib/dpkg"));
    dpkg_packages(&admin.join("var/lib/dpkg"))
}

/// Returns a working directory and the tree of a Debian; `None` if this machine cannot make the disks.
fn lab() -> Option<(WorkFolder, PathBuf)> {
    if !have(TOOLS) || !have(&["mkfs.xfs", "xfs_repair", "mkfs.btrfs", "btrfs", "mount", "dpkg-query"]) {
        return None;
    }
    if !is_root() {
        let _ = skip("only root mounts");
        return None;
    }
    Some((work_folder(), tree()?))
}

#[test]
#[ignore = "makes and boots Debian disks: make collection"]
fn debian_on_xfs_and_on_btrfs_boots_and_shares_its_files_with_ext4() {
    let Some((work, tree)) = lab() else { return };
    let at = |name: &str| work.path().join(name);
    let store = at("store");
    let theirs = dpkg_query(work.path(), &tree);
    make_disk(&tree, &at("ext4.qcow2"), "--efi --format qcow2");
    let report = json(&store, &["import", at("ext4.qcow2").to_str().unwrap()]);
    let once = added(&report);
    for (kind, efi, container) in [("xfs", false, "vmdk"), ("btrfs", true, "qcow2")] {
        let disk = at(&format!("{kind}.qcow2"));
        make_disk(&tree, &disk, &format!("--efi --fs {kind} --format qcow2"));
        let before = packs(&store);
        let report = json(&store, &["import", "--verify", "--strict", disk.to_str().unwrap()]);
        println!("{kind}: {} bytes beside {once} of the same files on ext4", added(&report));
        if kind == "xfs" {
            assert!(added(&report) * 20 < once, "{report}");
        } else {
            // Alone, a compressed volume takes no more than its extents.
            let alone = at("alone");
            let report = json(&alone, &["import", disk.to_str().unwrap()]);
            let used = report["counts"]["content_bytes"].as_u64().unwrap();
            println!("btrfs: {} bytes alone, of {used} bytes of extents", added(&report));
            assert!(added(&report) * 100 <= used * 105, "{report}");
        }
        assert!(packs(&store) > before);
        assert_eq!(packages(&store, kind), theirs, "{kind}");
        let listed = run(mif(&store).args(["ls", kind, "/etc"]));
        assert!(listed.contains("/etc/os-release") && listed.contains("/etc/fstab"), "{listed}");
        run(tool("qemu-img").args(["convert", "-O", "raw"]).arg(&disk).arg(at("original.raw")));
        for format in ["raw", "qcow2", "vmdk"] {
            let out = at(&format!("out.{format}"));
            run(mif(&store).args(["export", "--force", kind]).arg(&out));
            run(tool("qemu-img").args(["compare", "-q", "-f", "raw"]).arg(at("original.raw")).arg(&out));
        }
        let printed = boot(&at(&format!("out.{container}")), efi, "login:");
        assert!(printed.contains("mif-fixture"), "{printed}");
    }
    run(mif(&store).args(["fsck"]));
    run(mif(&store).args(["verify", "--all"]));
}

#[test]
#[ignore = "makes Debian disks: make collection"]
fn a_snapshot_of_debian_costs_next_to_nothing() {
    let Some((work, tree)) = lab() else { return };
    let at = |name: &str| work.path().join(name);
    let (store, disk, mnt) = (at("store"), at("volume"), at("mnt"));
    fs::File::create(&disk).unwrap().set_len(3 << 30).unwrap();
    run(tool("mkfs.btrfs").arg("-q").arg(&disk));
    fs::create_dir(&mnt).unwrap();
    let change = |script: &str| {
        run(tool("mount").args(["-o", "loop"]).arg(&disk).arg(&mnt));
        let done = tool("sh").args(["-ec", script, "sh"]).args([&mnt, &tree]).output().unwrap();
        run(tool("umount").arg(&mnt));
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    change("btrfs -q subvolume create \"$1/root\"; tar -xpf \"$2\" -C \"$1/root\" --numeric-owner");
    let once = added(&json(&store, &["import", disk.to_str().unwrap()]));
    change(
        "btrfs -q subvolume snapshot \"$1/root\" \"$1/one\"; for i in $(seq 2 20); do btrfs -q subvolume snapshot -r \"$1/root\" \"$1/$i\"; done",
    );
    let more = added(&json(&store, &["import", "--verify", disk.to_str().unwrap()]));
    println!("twenty snapshots: {more} bytes beside {once}");
    assert!(more * 100 < once, "{more} bytes beside {once}");
}
