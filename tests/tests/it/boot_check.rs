//! `check`: the verdict on disks with a real boot loader and a small system made of real archives, one defect each; and
//! what `--fix` mends. Real boots are in `collection/bootable.rs`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use mif::PLATFORMS;
use mif_tests::{WorkFolder, have, repo, run, tool, work_folder};
use serde_json::Value;

const TOOLS: &[&str] = &[
    "mke2fs",
    "debugfs",
    "e2fsck",
    "sfdisk",
    "sgdisk",
    "qemu-img",
    "grub-mkimage",
    "mkfs.vfat",
    "mcopy",
    "cpio",
    "gzip",
    "xz",
    "zstd",
    "modprobe",
];

const RELEASE: &str = "6.1.0-9-t";
const ROOT: &str = "6d69662d-6465-6269-616e-000000000001";

/// A module: its path below `kernel`, and what it depends on.
const MODULES: &[(&str, &str)] = &[
    ("drivers/virtio/virtio", ""),
    ("drivers/virtio/virtio_ring", "drivers/virtio/virtio"),
    ("drivers/virtio/virtio_pci", "drivers/virtio/virtio_ring drivers/virtio/virtio"),
    ("drivers/block/virtio_blk", "drivers/virtio/virtio_ring drivers/virtio/virtio"),
    ("drivers/net/virtio_net", "drivers/virtio/virtio_ring drivers/virtio/virtio"),
    ("drivers/nvme/host/nvme-core", ""),
    ("drivers/nvme/host/nvme", "drivers/nvme/host/nvme-core"),
    ("drivers/scsi/vmw_pvscsi", "drivers/scsi/scsi_mod"),
    ("drivers/scsi/scsi_mod", ""),
    ("drivers/scsi/sd_mod", "drivers/scsi/scsi_mod"),
    ("fs/ext4/ext4", "fs/jbd2/jbd2"),
    ("fs/jbd2/jbd2", ""),
    ("fs/fat/vfat", "fs/fat/fat"),
    ("fs/fat/fat", ""),
];

/// The modules that the initramfs has.
const EARLY: &[&str] = &["virtio", "virtio_ring", "virtio_pci", "virtio_blk", "ext4", "jbd2"];

/// A kernel of a few bytes with the header of a bzImage.
fn kernel() -> Vec<u8> {
    let mut bytes = vec![0; 96 << 10];
    bytes[0x1f1] = 1;
    bytes[0x1f4..0x1f8].copy_from_slice(&(((96 << 10) - 1024) / 16_u32).to_le_bytes());
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    bytes[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    bytes[0x236] = 1;
    let text = format!("{RELEASE} (t@t) #1");
    bytes[0x300..0x300 + text.len()].copy_from_slice(text.as_bytes());
    bytes
}

fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn shell(folder: &Path, script: &str) -> Vec<u8> {
    let output = Command::new("sh").args(["-euc", script]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// An initramfs as initramfs-tools makes it, of the real cpio, compressed by a command.
fn initramfs(work: &Path, compress: &str) -> Vec<u8> {
    let tree = work.join("early");
    let _ = fs::remove_dir_all(&tree);
    let modules = tree.join(format!("usr/lib/modules/{RELEASE}"));
    let mut dep = String::new();
    for (path, needs) in MODULES {
        if EARLY.contains(&path.rsplit('/').next().unwrap()) {
            write(&modules.join(format!("kernel/{path}.ko")), *path);
            dep += &format!("kernel/{path}.ko:");
            needs.split_whitespace().for_each(|need| dep += &format!(" kernel/{need}.ko"));
            dep.push('\n');
        }
    }
    write(&modules.join("modules.dep"), dep);
    for path in ["init", "scripts/functions", "conf/initramfs.conf", "usr/lib/udev/rules.d/80-drivers.rules"]
    {
        write(&tree.join(path), "x\n");
    }
    symlink("usr/lib", tree.join("lib")).unwrap();
    shell(&tree, &format!("find . | sort | cpio -o -H newc --quiet | {compress}"))
}

/// A system of a few files, with a real boot loader, on a disk with a GPT.
struct Disk {
    work: WorkFolder,
}

impl Disk {
    /// Makes the disk, and imports it as `good`.
    fn new() -> Option<Self> {
        if !have(TOOLS) {
            return None;
        }
        let disk = Disk { work: work_folder() };
        let tree = disk.work.at("tree");
        let modules = tree.join(format!("usr/lib/modules/{RELEASE}"));
        let mut dep = String::new();
        for (path, needs) in MODULES {
            // As Debian has them since 13.
            write(
                &modules.join(format!("kernel/{path}.ko.xz")),
                shell(disk.work.path(), &format!("printf %s {path} | xz")),
            );
            dep += &format!("kernel/{path}.ko.xz:");
            needs.split_whitespace().for_each(|need| dep += &format!(" kernel/{need}.ko.xz"));
            dep.push('\n');
        }
        write(&modules.join("modules.dep"), dep);
        write(&modules.join("modules.builtin"), "kernel/lib/crc16.ko\n");
        write(&modules.join("modules.alias.bin"), "aliases");
        write(&tree.join(format!("boot/vmlinuz-{RELEASE}")), kernel());
        write(&tree.join(format!("boot/initrd.img-{RELEASE}")), initramfs(disk.work.path(), "gzip"));
        write(&tree.join("etc/os-release"), "ID=debian\n");
        write(&tree.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n");
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        elf.resize(64, 0);
        elf[18] = 62;
        for program in ["usr/sbin/init", "usr/bin/sh", "usr/lib/systemd/systemd"] {
            write(&tree.join(program), &elf);
            fs::set_permissions(tree.join(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
        for folder in ["bin", "sbin", "lib"] {
            symlink(format!("usr/{folder}"), tree.join(folder)).unwrap();
        }
        symlink(format!("boot/vmlinuz-{RELEASE}"), tree.join("vmlinuz")).unwrap();
        symlink(format!("boot/initrd.img-{RELEASE}"), tree.join("initrd.img")).unwrap();
        shell(&tree, "tar -cf ../tree.tar .");
        let mut make = tool(repo().join("fixtures/debian-disk"));
        make.arg(disk.work.at("tree.tar")).arg(disk.work.at("good.raw")).args(["--efi", "--size", "150M"]);
        run(&mut make);
        run(&mut disk.work.mif(&["import", "good.raw"]));
        Some(disk)
    }

    /// Edits `good` into another image.
    fn edit(&self, name: &str, edits: &[&str]) {
        run(self.work.mif(&["customize", "good", "--as", name]).args(edits));
    }

    /// Checks an image for QEMU; returns the exit code and the report.
    fn check(&self, image: &str, options: &[&str]) -> (i32, Value) {
        let output =
            self.work.mif(&["check", image, "--for", "qemu", "--json"]).args(options).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let report =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{image}: {e}: {said}"));
        (output.status.code().unwrap(), report)
    }

    /// Asserts the verdict; returns the reasons of what is not good for the boot, a line each.
    fn verdict(&self, image: &str, options: &[&str], expected: &str) -> String {
        let (code, report) = self.check(image, options);
        assert_eq!(report["verdict"], expected, "{image} {options:?}: {report:#}");
        assert_eq!(code, i32::from(expected != "boots"));
        reasons(&report, |it| it["affects"] == "boot")
    }

    /// Makes `NAME-edited` by edits, asserts that it does not boot for this reason, and that `--fix` mends that.
    fn mends(&self, name: &str, edits: &[&str], options: &[&str], why: &str) -> Value {
        let edited = format!("{name}-edited");
        self.edit(&edited, edits);
        let said = self.verdict(&edited, options, "does_not_boot");
        assert!(said.contains(why), "{name}: {said}");
        self.fixes(&edited, name, options)
    }

    fn fixes(&self, image: &str, new: &str, options: &[&str]) -> Value {
        let fix = [&["--fix", new, "--time", "1700000000"], options].concat();
        let (code, report) = self.check(image, &fix);
        assert_eq!((code, &report["after"]["verdict"]), (0, &"boots".into()), "{report:#}");
        self.verdict(new, options, "boots");
        report
    }
}

/// Returns the reasons of what is not good, a line each.
fn complaints(report: &Value) -> String {
    reasons(report, |_| true)
}

fn reasons(report: &Value, wanted: impl Fn(&Value) -> bool) -> String {
    let findings = report["findings"].as_array().unwrap().iter().filter(|it| it["verdict"] != "good");
    findings.filter(|it| wanted(it)).map(|it| format!("{}: {}\n", it["subject"], it["reason"])).collect()
}

#[test]
fn a_disk_boots_by_both_firmwares_and_each_defect_is_found() {
    let Some(disk) = Disk::new() else { return };
    assert_eq!(disk.verdict("good", &[], "boots"), "");
    assert_eq!(disk.verdict("good", &["--firmware", "uefi"], "boots"), "");
    // The same from the file.
    let (code, report) = disk.check("./good.raw", &[]);
    assert_eq!((code, &report["verdict"]), (0, &"boots".into()), "{report:#}");

    let bad = |name: &str, edits: &[&str], options: &[&str], why: &str| {
        disk.edit(name, edits);
        let said = disk.verdict(name, options, "does_not_boot");
        assert!(said.contains(why), "{name}: {said}");
    };
    let initrd = format!("/boot/initrd.img-{RELEASE}");
    bad("no-initrd", &["--delete", &initrd], &[], "initrd.img, which the image does not have");
    bad(
        "no-initrd-named",
        &["--edit", "/boot/grub/grub.cfg:s/^initrd.*//"],
        &[],
        "there is no initramfs, and virtio_pci",
    );
    bad("no-cfg", &["--delete", "/boot/grub/grub.cfg"], &[], "GRUB looks for (hd0,gpt1)/boot/grub/grub.cfg");
    bad(
        "no-root",
        &["--edit", "/boot/grub/grub.cfg:s/000001 ro/000009 ro/"],
        &[],
        "the image has no filesystem UUID=",
    );
    bad("no-init", &["--delete", "/usr/sbin/init"], &[], "which the kernel starts");
    bad("no-boot", &["--edit", "/boot/grub/grub.cfg:s/^boot$//"], &[], "GRUB waits at its prompt");
    bad("type", &["--edit", "/boot/grub/grub.cfg:s/ ro / ro rootfstype=xfs /"], &[], "rootfstype=xfs");
    bad(
        "barred",
        &["--edit", "/boot/grub/grub.cfg:s/ ro / ro module_blacklist=virtio_blk /"],
        &[],
        "module_blacklist",
    );
    bad("no-efi", &["--delete", "p15:/EFI/BOOT/BOOTX64.EFI"], &["--firmware", "uefi"], "looks for no other");
    bad(
        "waits",
        &["--write", "/boot/grub/grub.cfg:menuentry a {\nlinux /vmlinuz root=x\n}"],
        &[],
        "waits at its menu",
    );
    bad("short", &["--truncate", &format!("/boot/vmlinuz-{RELEASE}")], &[], "it is no kernel");
    bad("early", &["--write", &format!("{initrd}:#!/bin/sh")], &[], "the kernel cannot unpack it");

    // A controller for which neither the initramfs nor the kernel has a driver.
    let said = disk.verdict("good", &["--disk", "megasas"], "does_not_boot");
    assert!(said.contains("no driver megaraid_sas"), "{said}");
    // What mif cannot follow is unknown, not good.
    disk.edit("chain", &["--write", "/boot/grub/grub.cfg:set timeout=1\nmenuentry a {\nchainloader +1\n}"]);
    assert!(disk.verdict("chain", &[], "unknown").contains("chainloader"));
    disk.edit(
        "maker",
        &["--delete", "/usr/lib/systemd/systemd", "--write", "/etc/fstab:UUID=1 /data ext4 defaults 0 0"],
    );
    assert!(disk.verdict("maker", &[], "unknown").contains("which the disk does not have"));
}

#[test]
fn every_compression_of_an_initramfs_is_judged_alike() {
    let Some(disk) = Disk::new() else { return };
    let microcode = disk.work.at("microcode");
    write(&microcode.join("kernel/x86/microcode/AuthenticAMD.bin"), "microcode");
    let early = shell(&microcode, "find . | sort | cpio -o -H newc --quiet");
    for compress in ["xz --check=crc32", "zstd -q", "cat"] {
        let all = [&early[..], &initramfs(disk.work.path(), compress)].concat();
        fs::write(disk.work.at("initrd"), all).unwrap();
        let name = compress.split(' ').next().unwrap();
        disk.edit(
            name,
            &["--copy-in", "initrd:/boot", "--delete", "/initrd.img", "--symlink", "/initrd.img:boot/initrd"],
        );
        assert_eq!(disk.verdict(name, &[], "boots"), "", "{compress}");
        let said = disk.verdict(name, &["--disk", "nvme"], "does_not_boot");
        assert!(said.contains("lacks the driver nvme"), "{said}");
    }
}

#[test]
fn a_fix_adds_drivers_to_the_initramfs_that_modprobe_finds() {
    let Some(disk) = Disk::new() else { return };
    let report = disk.fixes("good", "on-nvme", &["--disk", "nvme"]);
    let recipe = report["before"]["recipe"].as_str().unwrap();
    assert!(recipe.contains("do = \"initramfs-modules\"") && recipe.contains("\"nvme\""), "{recipe}");
    // It still boots where it did, and other files are as they were.
    disk.verdict("on-nvme", &[], "boots");
    // The recipe is one of `customize`, and makes the same image.
    fs::write(disk.work.at("recipe.toml"), recipe).unwrap();
    disk.edit("by-recipe", &["--recipe", "recipe.toml", "--time", "1700000000"]);
    run(&mut disk.work.mif(&["verify", "on-nvme", "by-recipe"]));
    // The log says for which target an image was made.
    let log = run(&mut disk.work.mif(&["log", "on-nvme"]));
    assert!(log.contains(" for qemu, after good@"), "{log}");
    let log = run(&mut disk.work.mif(&["log", "by-recipe"]));
    assert!(!log.contains(" for qemu"), "{log}");

    let initrd = format!("boot/initrd.img-{RELEASE}");
    let bytes = run_bytes(disk.work.mif(&["cat", "on-nvme"]).arg(format!("/{initrd}")));
    let old = run_bytes(disk.work.mif(&["cat", "good"]).arg(format!("/{initrd}")));
    assert_eq!(&bytes[..old.len()], &old[..], "the old archive stays as it is");
    let tail = &bytes[old.len().next_multiple_of(512)..];
    fs::write(disk.work.at("tail"), tail).unwrap();
    let out = disk.work.at("unpacked");
    fs::create_dir(&out).unwrap();
    fs::write(disk.work.at("old"), &old).unwrap();
    shell(&out, "gzip -dc < ../old | cpio -idm --quiet; cpio -idmu --quiet < ../tail");
    let plain = out.join(format!("usr/lib/modules/{RELEASE}/kernel/drivers/nvme/host/nvme.ko"));
    assert_eq!(fs::read_to_string(plain).unwrap(), "drivers/nvme/host/nvme");
    // kmod resolves the new module and one that was there before, each by its file in the initramfs.
    let modprobe = |name: &str| {
        let words = ["-S", RELEASE, "-d", "usr", "--show-depends", name];
        let output = tool("modprobe").current_dir(&out).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let nvme = modprobe("nvme");
    assert!(nvme.contains("nvme-core.ko") && nvme.contains("nvme.ko") && !nvme.contains(".xz"), "{nvme}");
    let list = fs::read_to_string(out.join("conf/modules")).unwrap();
    assert_eq!(list, "nvme\n");
}

fn run_bytes(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn a_fix_mends_names_of_devices_and_the_removable_path() {
    let Some(disk) = Disk::new() else { return };
    let cfg = "/boot/grub/grub.cfg";
    let unstable = format!("{cfg}:s|root=UUID={ROOT}|root=/dev/sda1|");
    disk.mends("stable", &["--edit", &unstable], &[], "/dev/sda1 has another name on this machine");
    let text = run(&mut disk.work.mif(&["cat", "stable", cfg]));
    assert!(text.contains(&format!("root=UUID={ROOT} ro")), "{text}");
    // Where the name is right, it boots as it is, if the initramfs has the drivers.
    let with = ["--edit", &unstable[..]];
    disk.edit("sda", &with);
    let said = disk.verdict("sda", &["--disk", "pvscsi"], "does_not_boot");
    assert!(!said.contains("another name"), "{said}");
    disk.fixes("sda", "sda-pvscsi", &["--disk", "pvscsi"]);

    let elsewhere = "/etc/fstab:UUID=11111111-2222-3333-4444-555555555555 /data ext4 defaults 0 2";
    disk.mends("mounts", &["--append", elsewhere], &[], "which the disk does not have");
    let fstab = run(&mut disk.work.mif(&["cat", "mounts", "/etc/fstab"]));
    assert!(fstab.contains("/data ext4 defaults,nofail 0 2"), "{fstab}");
    let swapped = "/etc/fstab:/dev/sda15 /boot/efi vfat umask=0077 0 1";
    disk.mends(
        "efi",
        &["--append", swapped, "--mkdir", "/boot/efi"],
        &[],
        "has another name on this machine: /dev/vda15",
    );

    let move_grub = [
        "--mkdir=p15:/EFI/debian",
        "--copy=p15:/EFI/BOOT/BOOTX64.EFI:p15:/EFI/debian/grubx64.efi",
        "--copy=p15:/EFI/BOOT/grub.cfg:p15:/EFI/debian/grub.cfg",
        "--delete=p15:/EFI/BOOT",
    ];
    // What it leads to is mended in the same go.
    let both = [&move_grub[..], &["--edit", &unstable]].concat();
    disk.mends("removable", &both, &["--firmware", "uefi"], "looks for no other");
}

#[test]
fn the_default_entry_is_found_as_each_distribution_writes_it() {
    let Some(disk) = Disk::new() else { return };
    let (kernel, initrd) = (format!("/boot/vmlinuz-{RELEASE}"), format!("/boot/initrd.img-{RELEASE}"));
    let search = format!("search --no-floppy --fs-uuid --set=root {ROOT}");
    let args = format!("root=UUID={ROOT} ro quiet");
    let entry = |title: &str, id: &str, kernel: &str| {
        format!(
            "menuentry '{title}' --class gnu $menuentry_id_option '{id}' {{\n\tload_video\n\tinsmod gzio\n\tif [ x$grub_platform = xxen ]; then insmod xzio; fi\n\tif [ x$feature_platform_search_hint = xy ]; then\n\t  search --no-floppy --fs-uuid --set=root --hint-bios=hd0,gpt1 {ROOT}\n\telse\n\t  {search}\n\tfi\n\techo 'Loading'\n\tlinux {kernel} {args}\n\tinitrd {initrd}\n}}\n"
        )
    };
    let head = "if [ -s $prefix/grubenv ]; then\n  set have_grubenv=true\n  load_env\nfi\nif [ \"${next_entry}\" ] ; then\n   set default=\"${next_entry}\"\n   save_env next_entry\nelse\n   set default=\"${saved_entry}\"\nfi\nif [ x\"${feature_menuentry_id}\" = xy ]; then\n  menuentry_id_option=\"--id\"\nelse\n  menuentry_id_option=\"\"\nfi\nexport menuentry_id_option\nfunction load_video {\n  insmod all_video\n}\nif loadfont unicode ; then set gfxmode=auto; fi\nset timeout=5\n";
    let debian = format!(
        "{head}{}submenu 'Advanced options' $menuentry_id_option 'advanced' {{\n{}}}\n",
        entry("Debian", "simple", &kernel),
        entry("Old", "old", "/boot/vmlinuz-gone")
    );
    let env = |text: &str| {
        let body = format!("# GRUB Environment Block\n{text}\n");
        format!("{body}{}", "#".repeat(1024 - body.len()))
    };
    let write = |name: &str, files: &[(&str, String)]| {
        let edits: Vec<String> =
            files.iter().map(|(path, text)| format!("--write={}:{text}", path.replace(':', "\\:"))).collect();
        let mut all = vec!["--mkdir=/boot/loader/entries"];
        all.extend(edits.iter().map(String::as_str));
        disk.edit(name, &all);
    };
    let cfg = "/boot/grub/grub.cfg";
    write("debian", &[(cfg, debian.clone())]);
    assert_eq!(disk.verdict("debian", &[], "boots"), "");
    assert_eq!(disk.verdict("debian", &["--firmware", "uefi"], "boots"), "");
    // The saved entry is another one, whose kernel is gone.
    write("saved", &[(cfg, debian.clone()), ("/boot/grub/grubenv", env("saved_entry=advanced>old"))]);
    assert!(disk.verdict("saved", &[], "does_not_boot").contains("vmlinuz-gone"));
    write("saved-good", &[(cfg, debian), ("/boot/grub/grubenv", env("saved_entry=simple"))]);
    disk.verdict("saved-good", &[], "boots");

    // Fedora: entries of the Boot Loader Specification, with options in the environment block.
    let fedora = format!(
        "set timeout=5\nload_env\nset default=\"${{saved_entry}}\"\n{search}\nset boot=$root\ninsmod blscfg\nblscfg\n"
    );
    let bls = |kernel: &str| {
        format!(
            "title Fedora\nversion {RELEASE}\nlinux {kernel}\ninitrd {initrd} $tuned_initrd\noptions $kernelopts\n"
        )
    };
    let entries = "/boot/loader/entries/0123-6.1.0.conf";
    let block = env(&format!("saved_entry=0123-6.1.0\nkernelopts={args}"));
    let fedora_files = |kernel: &str| {
        vec![(cfg, fedora.clone()), (entries, bls(kernel)), ("/boot/grub/grubenv", block.clone())]
    };
    write("fedora", &fedora_files(&kernel));
    assert_eq!(disk.verdict("fedora", &[], "boots"), "");
    write("fedora-gone", &fedora_files("/boot/vmlinuz-gone"));
    assert!(disk.verdict("fedora-gone", &[], "does_not_boot").contains("vmlinuz-gone"));

    // SUSE: linuxefi and initrdefi, and a hint that is an argument of its own.
    let suse = format!(
        "set timeout=8\nset default=0\nmenuentry 'SLES' --class sles {{\n search --no-floppy --fs-uuid --set=root --hint 'hd0,gpt1' {ROOT}\n linuxefi {kernel} {args} ${{extra_cmdline}}\n initrdefi {initrd}\n}}\n"
    );
    write("suse", &[(cfg, suse)]);
    assert_eq!(disk.verdict("suse", &["--firmware", "uefi"], "boots"), "");
}

#[test]
fn the_network_and_access_are_judged_apart_from_the_boot() {
    let Some(disk) = Disk::new() else { return };
    let rules = "SUBSYSTEM==\"net\", ATTR{address}==\"52:54:00:11:22:33\", NAME=\"eth0\"";
    disk.edit(
        "bound",
        &[
            "--mkdir=/etc/udev/rules.d",
            "--mkdir=/etc/netplan",
            "--mkdir=/etc/cloud/cloud.cfg.d",
            &format!("--write=/etc/udev/rules.d/70-persistent-net.rules:{rules}")
                .replace("52:54:00:11:22:33", "52\\:54"),
            "--write=/etc/netplan/50.yaml:network:\n  ethernets:\n    ens3:\n      dhcp4: true\n",
            "--write=/etc/cloud/cloud.cfg:datasource_list: [ Ec2, None ]",
        ],
    );
    let (code, report) = disk.check("bound", &[]);
    assert_eq!(
        (code, &report["verdict"], &report["network"], &report["access"]),
        (0, &"boots".into(), &"bad".into(), &"bad".into()),
        "{report:#}"
    );
    let said = complaints(&report);
    assert!(said.contains("addresses of another") && said.contains("ens3") && said.contains("Ec2"), "{said}");
    let fixed = disk.fixes("bound", "unbound", &[]);
    assert_eq!(
        (&fixed["after"]["network"], &fixed["after"]["access"]),
        (&"good".into(), &"good".into()),
        "{fixed:#}"
    );
    // A target whose console is the serial port: the fixture has it.
    let report = disk.work.mif(&["check", "unbound", "--for", "gcp", "--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["access"], "bad", "its data sources are not Google's: {report:#}");
}

#[test]
fn the_verb_refuses_what_it_cannot_do() {
    let work = work_folder();
    fs::copy(repo().join("fixtures/demo.qcow2"), work.at("demo.qcow2")).unwrap();
    run(&mut work.mif(&["import", "demo.qcow2"]));
    let said = |words: &[&str], code: i32| mif_tests::run_failing(&mut work.mif(words), code);
    assert!(said(&["check", "demo", "--for", "xen"], 2).contains("no such target"));
    assert!(
        said(&["check", "demo", "--for", "lima", "--disk", "megasas"], 2).contains("no disks on megasas")
    );
    assert!(said(&["check", "demo", "--for", "qemu", "--nic", "x"], 2).contains("virtio_net"));
    assert!(said(&["check", "./demo.qcow2", "--for", "qemu", "--fix", "new"], 2).contains("in the store"));
    assert!(said(&["check", "gone", "--for", "qemu"], 3).contains("gone"));
    // A disk without a boot loader is judged for every target.
    for target in PLATFORMS.iter().map(|target| target.name) {
        let output = work.mif(&["check", "demo", "--for", target]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{target}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A UEFI program with a section that holds this text.
fn program(text: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 0x80];
    bytes[..2].copy_from_slice(b"MZ");
    bytes[0x3c] = 0x80;
    bytes.extend(b"PE\0\0\x64\x86\x01\0");
    bytes.extend([0; 16]);
    let mut section = [0; 40];
    section[..5].copy_from_slice(b".text");
    for (at, value) in [(8, text.len()), (16, text.len()), (20, 0x80 + 24 + 40)] {
        section[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
    }
    bytes.extend(section);
    bytes.extend(text);
    bytes
}

/// Each is the smallest image of a public report; the address is beside it.
#[test]
fn images_of_public_reports_are_judged_as_they_turned_out() {
    let Some(disk) = Disk::new() else { return };
    let uefi = ["--firmware", "uefi"];
    fs::write(disk.work.at("BOOTX64.EFI"), program(b"UEFI SHIM\n$Version: 15 $")).unwrap();
    fs::write(disk.work.at("fbx64.efi"), program(b"fallback")).unwrap();
    let list: Vec<u8> = "\u{feff}grubx64.efi,debian,,\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(disk.work.at("BOOTX64.CSV"), list).unwrap();
    let move_grub =
        ["--mkdir=p15:/EFI/debian", "--copy=p15:/EFI/BOOT/BOOTX64.EFI:p15:/EFI/debian/grubx64.efi"];
    let copy_config = ["--copy=p15:/EFI/BOOT/grub.cfg:p15:/EFI/debian/grub.cfg"];
    let shim = ["--delete=p15:/EFI/BOOT/BOOTX64.EFI", "--copy-in=BOOTX64.EFI:p15:/EFI/BOOT"];

    // github.com/rhboot/shim/issues/401 and 101: shim at the removable path, and no GRUB beside it.
    let edits = [&move_grub[..], &copy_config, &shim].concat();
    disk.mends("shim", &edits, &uefi, "starts this program, which is not there");
    // github.com/coreos/coreos-assembler/pull/2435: with the fallback program, the list beside the distribution's loader counts.
    let edits = [&edits[..], &["--copy-in=fbx64.efi:p15:/EFI/BOOT", "--copy-in=BOOTX64.CSV:p15:/EFI/debian"]]
        .concat();
    disk.edit("fallback", &edits);
    assert_eq!(disk.verdict("fallback", &uefi, "boots"), "");

    // github.com/awslabs/aws-support-tools/issues/181: `nvmem` built in was taken for `nvme`.
    let builtin = format!("--write=/usr/lib/modules/{RELEASE}/modules.builtin:kernel/drivers/nvmem/nvmem.ko");
    disk.edit("nvmem", &[&builtin]);
    assert!(disk.verdict("nvmem", &["--disk", "nvme"], "does_not_boot").contains("lacks the driver nvme"));
    // github.com/zabbly/linux/issues/55: a kernel without CONFIG_HYPERV, on Azure.
    let azure = disk.work.mif(&["check", "good", "--for", "azure", "--json"]).output().unwrap();
    let azure: Value = serde_json::from_slice(&azure.stdout).unwrap();
    assert!(complaints(&azure).contains("no driver hv_storvsc"), "{azure:#}");
    // github.com/balena-os/meta-balena/issues/609: root=/dev/hda2 on virtio.
    let cfg = "/boot/grub/grub.cfg";
    let hda = format!("{cfg}:s|root=UUID={ROOT}|root=/dev/hda1|");
    disk.mends("hda", &["--edit", &hda], &[], "/dev/hda1 has another name on this machine");
    // github.com/Start9Labs/start-technologies/issues/3923: fstab names the second disk of the machine it was made on.
    disk.mends(
        "sdb",
        &["--append=/etc/fstab:/dev/sdb1 /data ext4 defaults 0 2"],
        &[],
        "mounts /dev/sdb1 on /data",
    );
    // github.com/rear/rear/issues/221: the ESP has a new number, fstab the old one.
    disk.mends(
        "vfat",
        &["--append=/etc/fstab:UUID=07B1-600D /boot/efi vfat umask=0077 0 1"],
        &[],
        "UUID=07B1-600D on /boot/efi",
    );
    // github.com/systemd/mkosi/issues/56: an initramfs for another machine.
    disk.fixes("good", "pvscsi", &["--disk", "pvscsi"]);
    // github.com/linuxkit/linuxkit/pull/830, github.com/Limine-Bootloader/Limine/pull/599: an archive after a compressed one
    // that is not at a multiple of four is not unpacked.
    let mut odd = initramfs(disk.work.path(), "gzip");
    odd.resize(odd.len().next_multiple_of(4) + 1, 0);
    odd.extend(initramfs(disk.work.path(), "cat"));
    fs::write(disk.work.at("initrd"), odd).unwrap();
    disk.edit(
        "odd",
        &["--copy-in=initrd:/boot", "--delete=/initrd.img", "--symlink=/initrd.img:boot/initrd"],
    );
    assert!(disk.verdict("odd", &[], "does_not_boot").contains("multiple of four"));
    // github.com/gfleury/overlayroot/issues/7: only the microcode was left of the initramfs.
    let microcode = disk.work.at("ucode");
    write(&microcode.join("kernel/x86/microcode/AuthenticAMD.bin"), "x");
    fs::write(disk.work.at("initrd"), shell(&microcode, "find . | cpio -o -H newc --quiet")).unwrap();
    disk.edit(
        "ucode",
        &["--copy-in=initrd:/boot", "--delete=/initrd.img", "--symlink=/initrd.img:boot/initrd"],
    );
    assert!(disk.verdict("ucode", &[], "unknown").contains("no program /init"));
    // github.com/canonical/cloud-init/issues/3611: netplan matches the address of the machine that was cloned.
    let netplan = "network:\n  version: 2\n  ethernets:\n    ens160:\n      dhcp4: true\n      match:\n        macaddress: aa\\:bb\\:cc\\:dd\\:ee\\:ff\n      set-name: ens160\n";
    disk.edit(
        "clone",
        &["--mkdir=/etc/netplan", &format!("--write=/etc/netplan/50-cloud-init.yaml:{netplan}")],
    );
    let (_, report) = disk.check("clone", &[]);
    assert_eq!(report["network"], "bad", "{report:#}");
    let fixed = disk.fixes("clone", "freed", &[]);
    assert_eq!(fixed["after"]["network"], "good", "{fixed:#}");
    // github.com/bootc-dev/bootc/issues/2250: GRUB 2.14 searches /boot/loader/entries only with an option.
    let fallback = "set timeout=1\nblscfg --path /boot/loader/entries --enable-fallback\n";
    let entry = format!(
        "title x\nlinux /boot/vmlinuz-{RELEASE}\ninitrd /boot/initrd.img-{RELEASE}\noptions root=UUID={ROOT}\n"
    );
    let entries = ["--mkdir=/boot/loader/entries", &format!("--write=/boot/loader/entries/a.conf:{entry}")];
    disk.edit("told", &[&entries[..], &[&format!("--write={cfg}:{fallback}")]].concat());
    assert_eq!(disk.verdict("told", &[], "boots"), "");
    // github.com/redhat-cop/infra.lvm_snapshots/pull/22: without a saved entry the newest counts, which was not the one meant.
    let newer = format!("--write=/boot/loader/entries/b.conf:{}", entry.replace("vmlinuz-", "vmlinuz-new-"));
    disk.edit(
        "newest",
        &[
            &entries[..],
            &[&newer, &format!("--write={cfg}:set timeout=1\nset default=\"${{saved_entry}}\"\nblscfg\n")],
        ]
        .concat(),
    );
    assert!(disk.verdict("newest", &[], "does_not_boot").contains("vmlinuz-new-"));
}

/// Each is the smallest image of a public report; the address is beside it.
#[test]
fn images_that_did_not_start_after_a_move_are_judged_as_they_turned_out() {
    let Some(disk) = Disk::new() else { return };
    let cfg = "/boot/grub/grub.cfg";
    // github.com/oxidecomputer/propolis/issues/590: a kernel for clouds that is started without an initramfs has virtio built
    // in, and NVMe only as a module.
    let builtin: String =
        ["fs/ext4/ext4", "fs/jbd2/jbd2", "drivers/virtio/virtio", "drivers/virtio/virtio_ring"]
            .iter()
            .chain(&["drivers/virtio/virtio_pci", "drivers/block/virtio_blk"])
            .map(|path| format!("kernel/{path}.ko\n"))
            .collect();
    let root = "PARTUUID=6d69662d-6465-6269-616e-000000000010";
    let builtin = format!("--write=/usr/lib/modules/{RELEASE}/modules.builtin:{builtin}");
    let drop_initrd = format!("{cfg}:s/^initrd.*//");
    let by_partition = format!("{cfg}:s/root=UUID={ROOT}/root={root}/");
    disk.edit("cloud", &[&builtin, "--edit", &drop_initrd, "--edit", &by_partition]);
    assert_eq!(disk.verdict("cloud", &[], "boots"), "");
    let said = disk.verdict("cloud", &["--disk", "nvme"], "does_not_boot");
    assert!(said.contains("there is no initramfs, and nvme"), "{said}");
    // github.com/cloud-hypervisor/rust-hypervisor-firmware/issues/382: "Cannot open root device LABEL=": the kernel knows
    // labels only by udev, in an initramfs.
    let by_label = format!("{cfg}:s/root=UUID={ROOT}/root=LABEL=mif-root/");
    disk.edit("label", &[&builtin, "--edit", &drop_initrd, "--edit", &by_label]);
    let said = disk.verdict("label", &[], "does_not_boot");
    assert!(said.contains("LABEL=mif-root"), "{said}");
    disk.edit("label-early", &["--edit", &by_label]);
    assert_eq!(disk.verdict("label-early", &[], "boots"), "");
    // github.com/cilium/little-vm-helper-images/pull/390: a filesystem that is not there, with and without `nofail`.
    disk.edit("host", &["--append=/etc/fstab:LABEL=host /host ext4 defaults 0 0"]);
    assert!(disk.verdict("host", &[], "does_not_boot").contains("LABEL=host on /host"));
    disk.edit("host-or-not", &["--append=/etc/fstab:LABEL=host /host ext4 nofail 0 0"]);
    assert_eq!(disk.verdict("host-or-not", &[], "boots"), "");
    // github.com/cloudbase/coriolis/pull/473: the EFI system partition by its label.
    let efi = |label: &str| format!("--append=/etc/fstab:LABEL={label} /boot/efi vfat umask=0077 0 1");
    disk.edit("esp", &["--mkdir=/boot/efi", &efi("ESP")]);
    assert_eq!(disk.verdict("esp", &[], "boots"), "");
    disk.edit("uefi", &["--mkdir=/boot/efi", &efi("UEFI")]);
    assert!(disk.verdict("uefi", &[], "does_not_boot").contains("LABEL=UEFI on /boot/efi"));
    // github.com/systemd/mkosi/issues/2436: "failed to load Boot0001: Not Found", with an empty EFI system partition.
    disk.edit("empty-esp", &["--delete=p15:/EFI"]);
    disk.verdict("empty-esp", &["--firmware", "uefi"], "does_not_boot");
    assert_eq!(disk.verdict("empty-esp", &[], "boots"), "");
    // github.com/wazuh/wazuh-virtual-machines/issues/575: an appliance for a BIOS, on a machine with UEFI.
    let mut make = tool(repo().join("fixtures/debian-disk"));
    make.arg(disk.work.at("tree.tar"))
        .arg(disk.work.at("bios.raw"))
        .args(["--table", "mbr", "--size", "150M"]);
    run(&mut make);
    run(&mut disk.work.mif(&["import", "bios.raw"]));
    assert_eq!(disk.verdict("bios", &[], "boots"), "");
    let said = disk.verdict("bios", &["--firmware", "uefi"], "does_not_boot");
    assert!(said.contains("EFI system partition"), "{said}");
}

/// Debian's own programs, signed: GRUB's configuration is in a FAT inside of it, and leads to the directory of the
/// distribution.
#[test]
fn signed_programs_lead_to_the_configuration_of_the_distribution() {
    let programs = ["/usr/lib/shim/shimx64.efi.signed", "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"];
    if programs.iter().any(|path| !Path::new(path).exists()) {
        let _ = mif_tests::skip("not installed: shim-signed, grub-efi-amd64-signed");
        return;
    }
    let Some(disk) = Disk::new() else { return };
    let uefi = ["--firmware", "uefi"];
    let stub = format!(
        "search.fs_uuid {ROOT} root hd0,gpt1\nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n"
    );
    let edits = [
        "--delete=p15:/EFI/BOOT".to_owned(),
        "--mkdir=p15:/EFI/BOOT".to_owned(),
        "--mkdir=p15:/EFI/debian".to_owned(),
        format!("--copy-in={}:p15:/EFI/BOOT", programs[0]),
        format!("--copy-in={}:p15:/EFI/BOOT", programs[1]),
        "--rename=p15:/EFI/BOOT/shimx64.efi.signed:p15:/EFI/BOOT/BOOTX64.EFI".to_owned(),
        "--rename=p15:/EFI/BOOT/grubx64.efi.signed:p15:/EFI/BOOT/grubx64.efi".to_owned(),
        format!("--write=p15:/EFI/debian/grub.cfg:{stub}"),
    ];
    let edits: Vec<&str> = edits.iter().map(String::as_str).collect();
    disk.edit("signed", &edits);
    assert_eq!(disk.verdict("signed", &uefi, "boots"), "");
    let without = [&edits[..], &["--delete=p15:/EFI/debian/grub.cfg"]].concat();
    disk.edit("stub-less", &without);
    let said = disk.verdict("stub-less", &uefi, "does_not_boot");
    assert!(said.contains("has no menu"), "{said}");
}
