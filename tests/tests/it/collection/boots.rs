//! Boots beyond those of every run: of every kind of disk, from every container, grown and with new identities.

use mif_tests::debian::{TOOLS, boot, make_disk, tree};
use mif_tests::disk::{assert_gpt, assert_sound, parts};
use mif_tests::{disk, have, mif, repo, run, tool, work_folder};

use crate::build::built_debian_boots;
use crate::customize::customised_debian_boots;
use crate::debian::{CONTAINERS, GPT, LOGICAL, MBR, import, through_the_store};
use crate::resize::{MIB, export, of_slot};

#[test]
#[ignore = "boots many times: make collection"]
fn every_kind_of_debian_disk_boots() {
    let containers = ["boot.raw", "boot.qcow2", "boot.vmdk"];
    let by_bios = containers.map(|name| (name, false));
    through_the_store(GPT, CONTAINERS, &[by_bios, containers.map(|name| (name, true))].concat());
    through_the_store(MBR, CONTAINERS, &by_bios);
    through_the_store(LOGICAL, CONTAINERS, &by_bios);
}

/// Without any disk as input, a Debian tree becomes a disk that boots with both firmwares.
#[test]
#[ignore = "boots many times: make collection"]
fn a_debian_tree_becomes_a_disk_that_boots() {
    built_debian_boots(false);
    built_debian_boots(true);
}

/// `make test` boots this disk by BIOS.
#[test]
#[ignore = "boots many times: make collection"]
fn a_customised_disk_boots_by_uefi_too() {
    customised_debian_boots(true);
}

/// The formats of hypervisors besides raw, plain qcow2 and plain VMDK, which are booted elsewhere: a suffix, qemu's
/// name for it, and the options for writing it.
const BOOTABLE: &[(&str, &str, &[&str])] = &[
    ("zlib.qcow2", "qcow2", &["-o", "compress=on,extended_l2=on"]),
    ("zstd.qcow2", "qcow2", &["-o", "compression_type=zstd"]),
    ("stream.vmdk", "vmdk", &["-o", "subformat=streamOptimized"]),
    ("flat.vmdk", "vmdk", &["-o", "subformat=monolithicFlat"]),
    ("split.vmdk", "vmdk", &["-o", "subformat=twoGbMaxExtentSparse"]),
    ("dynamic.vhd", "vpc", &[]),
    ("fixed.vhd", "vpc", &["-o", "subformat=fixed,align=1M"]),
    ("dynamic.vhdx", "vhdx", &[]),
    ("dynamic.vdi", "vdi", &[]),
];

#[test]
#[ignore = "boots many times: make collection"]
fn a_disk_boots_from_every_container() {
    if !have(TOOLS) {
        return;
    }
    let Some(tree) = tree() else { return };
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let store = at("store");
    make_disk(&tree, &at("disk.raw"), "--table gpt --size 1G");
    import(&store, &at("disk.raw"), "disk");
    // Convert from one container to the next, so that the booted disks have also been read from each.
    let mut before: Option<&str> = None;
    for (name, format, options) in BOOTABLE {
        let mut command = mif(&store);
        match before {
            None => command.args(["export", "disk"]),
            Some(before) => command.arg("convert").arg(at(before)),
        };
        run(command.arg(at(name)).args(["-O", format]).args(*options));
        before = Some(name);
    }
    let next = std::sync::Mutex::new(BOOTABLE.iter());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some((name, format, _)) = next.lock().unwrap().next() else { return };
                    run(tool(repo().join("fixtures/boot")).arg(at(name)).args(["--format", format]));
                }
            });
        }
    });
}

/// Everything combined: a Debian grown by one gibibyte, with new UUIDs, boots with both firmwares.
#[test]
#[ignore = "boots many times: make collection"]
fn a_debian_disk_grown_and_with_new_ids_boots_by_bios_and_uefi() {
    let tools =
        [TOOLS, disk::TOOLS, &["mke2fs", "mcopy", "qemu-img", "qemu-system-x86_64", "grub-mkimage"]].concat();
    if !have(&tools) {
        return;
    }
    let Some(tree) = tree() else { return };
    let work = work_folder();
    let (raw, grown) = (work.path().join("disk.raw"), work.path().join("grown.raw"));
    make_disk(&tree, &raw, "--table gpt --efi --live --size 2G");
    let store = work.path().join("store");
    run(mif(&store).args(["import", "--name", "disk"]).arg(&raw));
    export(&store, &grown, &["--size", "+1G", "--resize", "p1=max", "--new-ids", "--seed", "debian"]);
    assert_gpt(&grown);
    let sound = assert_sound(&grown, work.path());
    let root = sound.iter().find(|(part, _)| part.slot == 1).expect("the root").0.clone();
    assert!(root.len > of_slot(&parts(&raw), 1).len + 1000 * MIB);
    for efi in [false, true] {
        let log = boot(&grown, efi, "login:");
        assert!(!log.contains("EXT4-fs error") && !log.contains("EXT4-fs warning"), "{log}");
    }
}
