//! The verdict of `check` against real boots: Debian disks on every controller that QEMU has, by both firmwares, with
//! sectors of 512 and 4096 bytes, also after `--sector-size`, `--table` and `--boot`; and what `--fix` makes boots.
//!
//! By default a third of the boots is tried, another one for each image. `MIF_BOOTS=all` tries all.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use mif_tests::debian::{TOOLS, boots_on, boots_with, changed, make_disk, tree, tree_of};
use mif_tests::{WorkFolder, have, is_root, run, work_folder};
use serde_json::Value;

const CONTROLLERS: &[&str] =
    &["virtio-blk", "virtio-scsi", "nvme", "ahci", "ide", "pvscsi", "lsi53c895a", "mptsas", "megasas"];

/// An initramfs with the drivers of one controller only.
const LIST: &str = "printf 'virtio_blk\\nvirtio_pci\\next4\\n' > /etc/initramfs-tools/modules; \
                    sed -i s/MODULES=most/MODULES=list/ /etc/initramfs-tools/initramfs.conf; update-initramfs -u -k all";

/// What the system of a disk from `--boot` and `--table` has installed.
const WITH_GRUB: &[&str] = &[
    "linux-image-cloud-amd64",
    "systemd-sysv",
    "udev",
    "grub-pc-bin",
    "grub-efi-amd64-bin",
    "grub-efi-amd64-signed",
    "shim-signed",
    "grub2-common",
];

/// Disks made by `export`: the image, the name of the disk, the options, and its sector size.
const EXPORTED: &[(&str, &str, &[&str], u32)] = &[
    ("cloud-gpt", "4kn", &["--sector-size", "4096"], 4096),
    ("generic-gpt", "generic-4kn", &["--sector-size", "4096"], 4096),
    ("4kn", "back", &["--sector-size", "512"], 512),
    ("grub-mbr", "gpt", &["--table", "gpt"], 512),
    ("gpt", "mbr-again", &["--table", "mbr"], 512),
    ("grub-mbr", "mbr-both", &["--boot", "both"], 512),
    ("grub-mbr", "gpt-both", &["--table", "gpt", "--boot", "both"], 512),
    ("grub-mbr", "gpt-4kn", &["--table", "gpt", "--boot", "uefi", "--sector-size", "4096"], 4096),
    ("grub-uefi", "uefi-both", &["--boot", "both"], 512),
    ("grub-xfs", "xfs-both", &["--table", "gpt", "--boot", "both"], 512),
    ("grub-btrfs", "btrfs-both", &["--table", "gpt", "--boot", "both"], 512),
    ("grub-btrfs", "btrfs-4kn", &["--table", "gpt", "--boot", "uefi", "--sector-size", "4096"], 4096),
];

/// The machines for those disks: the controller, and whether the firmware is UEFI.
const MACHINES: &[(&str, bool)] = &[
    ("virtio-blk", false),
    ("virtio-blk", true),
    ("nvme", true),
    ("virtio-scsi", true),
    ("ahci", true),
    ("ide", false),
];

/// Makes the disks: with the kernel for clouds and the generic one, an initramfs with all drivers and with few, of
/// initramfs-tools and of dracut, on a GPT and an MBR.
fn disks(work: &WorkFolder) -> Option<Vec<(&'static str, bool)>> {
    let cloud = tree()?;
    let generic = tree_of(&["linux-image-amd64", "systemd-sysv", "udev"])?;
    let dracut = tree_of(&["linux-image-amd64", "systemd-sysv", "udev", "dracut"])?;
    let list = changed(&cloud, LIST)?;
    let mut made = Vec::new();
    for (name, tree, options, efi) in [
        ("cloud-gpt", &cloud, "--table gpt --efi", true),
        ("cloud-mbr", &cloud, "--table mbr --block 1024", false),
        ("list-gpt", &list, "--table gpt --efi", true),
        ("list-mbr", &list, "--table mbr", false),
        ("generic-gpt", &generic, "--table gpt --efi", true),
        ("dracut-gpt", &dracut, "--table gpt --efi", true),
    ] {
        make_disk(tree, &work.at(&format!("{name}.raw")), options);
        run(&mut work.mif(&["import", &format!("{name}.raw")]));
        made.push((name, efi));
    }
    Some(made)
}

/// Checks an image for a machine of QEMU; returns the report.
fn check(work: &WorkFolder, image: &str, (controller, efi): (&str, bool), more: &[&str]) -> Value {
    let firmware = if efi { "uefi" } else { "bios" };
    let mut check =
        work.mif(&["check", image, "--for", "qemu", "--disk", controller, "--firmware", firmware, "--json"]);
    let output = check.args(more).output().unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Runs tasks on two threads.
fn each<T: Sync>(tasks: &[T], run: impl Fn(&T) + Sync) {
    let next = Mutex::new(tasks.iter());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(task) = { next.lock().unwrap().next() } {
                    run(task);
                }
            });
        }
    });
}

/// One boot: an image on a machine.
struct Boot {
    image: &'static str,
    /// The logical sector size of the disk in bytes.
    sector: u32,
    controller: &'static str,
    efi: bool,
}

/// The machines on which an image is tried: all of them, or a third, another one for each image (`number`).
fn machines(image: &'static str, number: usize, is_all: bool, has_efi: bool) -> Vec<Boot> {
    let firmware = [false, true].into_iter().filter(|efi| !efi || has_efi);
    let all = firmware.flat_map(|efi| CONTROLLERS.iter().enumerate().map(move |(at, it)| (at, *it, efi)));
    all.filter(|(at, _, efi)| is_all || (number + at + usize::from(*efi)).is_multiple_of(3))
        .map(|(_, controller, efi)| Boot { image, sector: 512, controller, efi })
        .collect()
}

/// Like [`machines`], for a disk of another geometry.
fn machines_of_exported(image: &'static str, sector: u32, number: usize, is_all: bool) -> Vec<Boot> {
    // QEMU's IDE disks have sectors of 512 bytes only.
    let is_possible = |controller: &str| sector == 512 || !matches!(controller, "ahci" | "ide");
    let all = MACHINES.iter().enumerate().filter(|(_, (controller, _))| is_possible(controller));
    all.filter(|(at, (_, efi))| is_all || *at == usize::from(*efi) || (number + at).is_multiple_of(3))
        .map(|(_, &(controller, efi))| Boot { image, sector, controller, efi })
        .collect()
}

/// Orders the boots so that those that differ most come first, should there be no time for all: one of each image on
/// another machine each time.
fn mixed(mut images: Vec<Vec<Boot>>) -> Vec<Boot> {
    for (number, boots) in images.iter_mut().enumerate().filter(|(_, boots)| !boots.is_empty()) {
        let by = number * 5 % boots.len();
        boots.rotate_left(by);
    }
    let mut iterators: Vec<_> = images.into_iter().map(Vec::into_iter).collect();
    let mut order = Vec::new();
    loop {
        let round: Vec<Boot> = iterators.iter_mut().filter_map(Iterator::next).collect();
        if round.is_empty() {
            return order;
        }
        order.extend(round);
    }
}

#[test]
#[ignore = "boots many times: make collection"]
fn the_verdict_is_that_of_a_real_boot_and_what_is_fixed_boots() {
    if !have(&[TOOLS, &["cpio", "modprobe"]].concat()) {
        return;
    }
    let work = work_folder();
    let Some(disks) = disks(&work) else { return };
    let is_all = std::env::var("MIF_BOOTS").is_ok_and(|value| value == "all");
    let mut images: Vec<Vec<Boot>> = Vec::new();
    for (number, (image, has_efi)) in disks.iter().enumerate() {
        images.push(machines(image, number, is_all, *has_efi));
    }
    // Disks of another geometry.
    let grub = tree_of(WITH_GRUB);
    if let Some(grub) = &grub {
        make_disk(grub, &work.at("grub-mbr.raw"), "--table mbr");
        run(&mut work.mif(&["import", "grub-mbr.raw"]));
        // Without boot code for a BIOS.
        make_disk(grub, &work.at("grub-uefi.raw"), "--table gpt --efi");
        let file = std::fs::OpenOptions::new().write(true).open(work.at("grub-uefi.raw")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0; 440], 0).unwrap();
        run(&mut work.mif(&["import", "grub-uefi.raw"]));
    }
    // Filesystems that only the kernel fills.
    let has_kernel = grub.is_some() && is_root() && have(&["mkfs.xfs", "mkfs.btrfs"]);
    for fs in ["xfs", "btrfs"].into_iter().filter(|_| has_kernel) {
        let name = format!("grub-{fs}.raw");
        make_disk(grub.as_ref().unwrap(), &work.at(&name), &format!("--table mbr --fs {fs}"));
        run(&mut work.mif(&["import", &name]));
    }
    let is_made = |from: &str| match from {
        "grub-xfs" | "grub-btrfs" => has_kernel,
        _ => grub.is_some() || !from.starts_with("grub"),
    };
    let exported = EXPORTED.iter().filter(|(from, ..)| is_made(from));
    for (number, (from, name, options, sector)) in exported.enumerate() {
        if grub.is_none() && *from == "gpt" {
            continue;
        }
        let raw = format!("{name}.raw");
        run(work.mif(&["export", from, &raw]).args(*options));
        run(&mut work.mif(&["import", &raw]));
        images.push(machines_of_exported(name, *sector, number, is_all));
    }

    fixed_images_boot(&work);

    let results = Mutex::new(Vec::new());
    each(&mixed(images), |Boot { image, sector, controller, efi }| {
        let report = check(&work, image, (controller, *efi), &[]);
        let verdict = report["verdict"].as_str().unwrap().to_owned();
        let real = boots_with(&work.at(&format!("{image}.raw")), *efi, controller, *sector);
        let firmware = if *efi { "uefi" } else { "bios" };
        println!("{image} {controller} {firmware} {sector}: {verdict}, really {real}");
        results.lock().unwrap().push((verdict, real));
    });
    let results = results.into_inner().unwrap();
    let count =
        |verdict: &str, real: bool| results.iter().filter(|it| **it == (verdict.to_owned(), real)).count();
    let (right, unknown) = (
        count("boots", true) + count("does_not_boot", false),
        count("unknown", true) + count("unknown", false),
    );
    println!(
        "{right} right, {unknown} unknown, {} wrong of {}",
        results.len() - right - unknown,
        results.len()
    );
    assert_eq!(count("boots", false), 0, "an image that does not boot was said to");
    assert_eq!(count("does_not_boot", true), 0, "an image that boots was said not to");
}

/// What lacks only drivers in its initramfs is mended for a machine of each kind, and boots there.
fn fixed_images_boot(work: &WorkFolder) {
    let fixed: Vec<(&str, &str, bool)> = vec![
        ("list-gpt", "nvme", false),
        ("list-gpt", "virtio-scsi", true),
        ("list-mbr", "ide", false),
        ("list-mbr", "pvscsi", false),
    ];
    each(&fixed, |(image, controller, efi)| {
        let new = format!("{image}-{controller}");
        let report = check(work, image, (controller, *efi), &["--fix", &new]);
        // The kernel for clouds has NVMe built in.
        if report["made"].is_null() {
            assert_eq!(report["before"]["verdict"], "boots", "{report:#}");
            return;
        }
        assert_eq!(report["after"]["verdict"], "boots", "{report:#}");
        let raw: PathBuf = work.at(&format!("{new}.raw"));
        run(work.mif(&["export", &new]).arg(&raw));
        assert!(boots_on(Path::new(&raw), *efi, controller), "{new} does not boot");
        println!("{new}: fixed, and boots");
    });
}
