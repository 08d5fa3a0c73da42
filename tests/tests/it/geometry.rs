//! Disks for another sector size, with another partition table, and for other firmware: `--sector-size`, `--table`,
//! `--boot`. The judges are sfdisk, sgdisk, fsck.fat, mtools, e2fsck, and a reader of GPTs in Python. Real boots are in
//! `collection/bootable.rs`.

use std::fs;
use std::path::Path;
use std::process::Command;

use mif_tests::disk::cut;
use mif_tests::{WorkFolder, have, repo, run, run_failing, tool, work_folder};
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
    "fsck.fat",
    "mcopy",
    "mdir",
    "mkswap",
    "python3",
];

/// Checks both copies of a GPT for sectors of a size, and prints its partitions by slot: first and last byte.
const READ_GPT: &str = "
import struct, sys, zlib
path, sector = sys.argv[1], int(sys.argv[2])
data = open(path, 'rb')
size = data.seek(0, 2)
def at(lba, length):
    data.seek(lba * sector)
    return data.read(length)
assert size % sector == 0
last = size // sector - 1
record = at(0, 512)[446:462]
assert record[4] == 0xee and struct.unpack('<II', record[8:]) == (1, last)
tables = []
for lba, other in ((1, last), (last, 1)):
    header = at(lba, sector)
    assert header[:8] == b'EFI PART', lba
    length, crc = struct.unpack('<II', header[12:20])
    assert zlib.crc32(header[:16] + bytes(4) + header[20:length]) == crc
    mine, alternate, first, end = struct.unpack('<QQQQ', header[24:56])
    assert (mine, alternate) == (lba, other)
    array, count, width, crc = struct.unpack('<QIII', header[72:92])
    entries = at(array, count * width)
    assert zlib.crc32(entries) == crc
    used = (count * width + sector - 1) // sector
    assert first >= 2 + used and end < last - used, (first, end)
    tables.append((header[56:72], first, end, entries))
assert tables[0] == tables[1]
guid, first, end, entries = tables[0]
for slot in range(count):
    entry = entries[slot * width:][:width]
    if entry[:16] != bytes(16):
        start, stop = struct.unpack('<QQ', entry[32:48])
        assert first <= start <= stop <= end
        print(slot + 1, start * sector, (stop + 1) * sector)
";

fn read_gpt(disk: &Path, sector: u32) -> String {
    let mut python = Command::new("python3");
    run(python.args(["-c", READ_GPT]).arg(disk).arg(sector.to_string()))
}

/// The table of a disk as sfdisk prints it, without the name of the disk.
fn sfdisk(disk: &Path) -> String {
    let printed = run(tool("sfdisk").arg("-d").arg(disk));
    printed.replace(&disk.display().to_string(), "disk")
}

/// A small tree with GRUB's files, as Debian's packages install them.
fn tree(work: &WorkFolder) {
    let script = "
        mkdir -p tree/etc tree/boot/grub tree/usr/sbin tree/usr/lib/grub/x86_64-efi/monolithic tree/usr/bin
        cp -r /usr/lib/grub/i386-pc tree/usr/lib/grub/
        cp /usr/lib/grub/x86_64-efi/monolithic/grubx64.efi tree/usr/lib/grub/x86_64-efi/monolithic/
        echo ID=debian > tree/etc/os-release
        echo root:x:0:0::/root:/bin/sh > tree/etc/passwd
        seq 1 200000 > tree/usr/bin/numbers
        echo kernel > tree/vmlinuz; echo initrd > tree/initrd.img
        tar -C tree -cf tree.tar .
    ";
    let output = Command::new("sh").args(["-euc", script]).current_dir(work.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Makes a disk of the tree and imports it.
fn disk(work: &WorkFolder, name: &str, options: &[&str]) {
    let mut make = tool(repo().join("fixtures/debian-disk"));
    make.arg(work.at("tree.tar")).arg(work.at(&format!("{name}.raw"))).args(options);
    run(&mut make);
    run(&mut work.mif(&["import", &format!("{name}.raw")]));
}

fn export(work: &WorkFolder, image: &str, to: &str, options: &[&str]) -> Value {
    let words = [&["export", image, to, "--json"], options].concat();
    serde_json::from_str(&run(&mut work.mif(&words))).unwrap()
}

/// What `check` says of an image in qemu.
fn check(work: &WorkFolder, image: &str, options: &[&str]) -> Value {
    let words = [&["check", image, "--for", "qemu", "--json"], options].concat();
    serde_json::from_slice(&work.mif(&words).output().unwrap().stdout).unwrap()
}

/// The first of its findings on a subject.
fn finding<'a>(check: &'a Value, subject: &str) -> &'a Value {
    let findings = check["findings"].as_array().unwrap();
    findings.iter().find(|it| it["subject"] == subject).unwrap()
}

fn notes(report: &Value) -> String {
    report["notes"].as_array().unwrap().iter().map(|note| format!("{}\n", note.as_str().unwrap())).collect()
}

/// As asked for in github.com/rackerlabs/understack/pull/2069, github.com/home-assistant/operating-system/issues/4766,
/// github.com/osbuild/image-builder/issues/2593 and github.com/IceWhaleTech/ZimaOS/issues/534.
#[test]
fn a_disk_for_sectors_of_4096_bytes_is_whole_and_the_way_back_changes_no_file() {
    if !have(TOOLS) {
        return;
    }
    let work = work_folder();
    tree(&work);
    disk(&work, "base", &["--efi", "--size", "200M"]);
    let report = export(&work, "base", "k.raw", &["--sector-size", "4096"]);
    assert_eq!(report["planned"], serde_json::json!(["p15"]), "{report:#}");
    let said = notes(&report);
    for words in ["for sectors of 4096 bytes now", "by UEFI only", "it is a FAT16 now"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let warning = report["warnings"][0].as_str().unwrap();
    assert!(warning.contains("logical_block_size=4096"), "{warning}");
    let places = read_gpt(&work.at("k.raw"), 4096);
    let start_of = |slot: &str| -> u64 {
        let line = places.lines().find(|line| line.starts_with(&format!("{slot} "))).unwrap();
        line.split(' ').nth(1).unwrap().parse().unwrap()
    };
    assert_eq!((start_of("14"), start_of("15")), (1 << 20, 2 << 20));
    // Nothing is left that a reader with the other sector size would find.
    let mut head = vec![0; 24 << 10];
    std::os::unix::fs::FileExt::read_exact_at(&fs::File::open(work.at("k.raw")).unwrap(), &mut head, 0)
        .unwrap();
    assert!(head[512..4096].iter().all(|byte| *byte == 0));
    // The FAT is one that its tools read, with the same files.
    cut(&work.at("k.raw"), 2 << 20, 64 << 20, &work.at("esp"));
    run(tool("fsck.fat").args(["-n"]).arg(work.at("esp")));
    let listed = run(tool("mdir").args(["-b", "-i"]).arg(work.at("esp")).arg("::/EFI/BOOT"));
    assert!(listed.contains("BOOTX64.EFI") && listed.contains("grub.cfg"), "{listed}");
    let sector = fs::read(work.at("esp")).unwrap();
    assert_eq!((sector[11], sector[12]), (0, 16), "4096 bytes per sector");

    // Imported it is as its makers see it, and little of it is new.
    let import: Value = serde_json::from_str(&run(&mut work.mif(&["import", "k.raw", "--json"]))).unwrap();
    let added = import["added"]["bytes"].as_u64().unwrap();
    assert!(added < 512 << 10, "{import:#}");
    let info: Value = serde_json::from_str(&run(&mut work.mif(&["info", "k", "--json"]))).unwrap();
    assert_eq!(info["table"]["sector_size"], 4096, "{info:#}");
    run(&mut work.mif(&["verify", "k", "--independent"]));
    let check = check(&work, "k", &[]);
    let table = finding(&check, "table");
    assert!(table["reason"].as_str().unwrap().contains("a BIOS starts only disks with 512"), "{table}");

    let back = export(&work, "k", "back.raw", &["--sector-size", "512"]);
    assert_eq!(back["warnings"], serde_json::json!([]));
    assert_eq!(sfdisk(&work.at("back.raw")), sfdisk(&work.at("base.raw")));
    run(tool("sgdisk").arg("-v").arg(work.at("back.raw")));
    run(&mut work.mif(&["import", "back.raw"]));
    let verify = work.mif(&["verify", "base", "back", "--json"]).output().unwrap();
    let verify: Value = serde_json::from_slice(&verify.stdout).unwrap();
    assert_eq!(verify["files"]["differ"].as_array().map(Vec::len).unwrap_or(0), 0, "{verify:#}");
    let diff = run(&mut work.mif(&["diff", "base", "back"]));
    assert!(diff.contains("no file changed"), "{diff}");

    // VHDX records the sector size, so nothing needs to be said.
    let vhdx = export(&work, "base", "k.vhdx", &["--sector-size", "4096"]);
    assert_eq!(vhdx["warnings"], serde_json::json!([]), "{vhdx:#}");
    // The same by an image of its own.
    run(&mut work.mif(&["customize", "base", "--as", "large", "--sector-size", "4096"]));
    run(&mut work.mif(&["export", "large", "large.raw"]));
    assert!(fs::read(work.at("large.raw")).unwrap() == fs::read(work.at("k.raw")).unwrap());
}

#[test]
fn volumes_that_no_system_uses_with_such_sectors_are_refused_by_name() {
    if !have(&["mke2fs", "sfdisk", "mkfs.xfs", "mkntfs", "mkfs.vfat"]) {
        return;
    }
    let work = work_folder();
    let refused = |name: &str, table: &str, make: &str, words: &str| {
        let script = format!(
            "truncate -s 400M {name}.raw; printf '{table}' | sfdisk -q {name}.raw; truncate -s 320M v; {make}
             dd if=v of={name}.raw bs=1M seek=1 conv=notrunc,sparse status=none; rm v"
        );
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
        let output = Command::new("sh")
            .args(["-euc", &script])
            .env("PATH", path)
            .current_dir(work.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        run(&mut work.mif(&["import", &format!("{name}.raw")]));
        let said = run_failing(&mut work.mif(&["export", name, "out.raw", "--sector-size", "4096"]), 4);
        assert!(said.contains(words), "{name}: {said}");
        assert!(!work.at("out.raw").exists());
    };
    let gpt = "label: gpt\\nstart=2048, size=655360\\n";
    refused("ext", gpt, "mke2fs -q -b 1024 v", "p1: ext2 has blocks or sectors of 1024 bytes");
    refused("xfs", gpt, "mkfs.xfs -q v", "p1: xfs has blocks or sectors of 512 bytes");
    refused("ntfs", gpt, "mkntfs -qfF v 2>/dev/null", "p1: ntfs has blocks or sectors of 512 bytes");
    refused("luks", gpt, "printf 'LUKS\\272\\276\\000\\001' > v", "p1: LUKS has sectors of 512 bytes");
    refused("iso", gpt, "printf CD001 | dd of=v bs=1 seek=32769 conv=notrunc status=none", "iso9660");
    let odd = "label: gpt\\nfirst-lba: 34\\nstart=2048, size=655360\\nstart=657411, size=2048\\n";
    refused("odd", odd, "mke2fs -q -b 4096 v", "p2 begins at byte 336594432");
    let logical = "label: dos\\n1: start=2048, size=655360, type=83\\n2: start=657408, size=100000, type=5\\n\
                   5: start=659456, size=2048, type=83\\n";
    refused("logical", logical, "mke2fs -q -b 4096 v", "its MBR has logical partitions");
    let said = run_failing(&mut work.mif(&["export", "ext", "out.raw", "--sector-size", "1000"]), 2);
    assert!(said.contains("expected 512 or 4096"), "{said}");
}

#[test]
fn a_table_of_another_kind_takes_grub_and_the_names_of_partitions_with_it() {
    if !have(TOOLS) {
        return;
    }
    let work = work_folder();
    tree(&work);
    disk(&work, "mbr", &["--table", "mbr", "--size", "200M"]);
    // References by identity, as installers write them.
    let grub =
        "serial\nset root='hd0,msdos1'\ninsmod part_msdos\nlinux /vmlinuz root=PARTUUID=6d696601-01\nboot\n";
    run(&mut work.mif(&[
        "customize",
        "mbr",
        "--as",
        "base",
        "--time",
        "1700000000",
        "--write",
        "/etc/fstab:PARTUUID=6d696601-01 / ext4 defaults 0 1\n",
        "--write",
        &format!("/boot/grub/grub.cfg:{grub}"),
    ]));
    let report = export(&work, "base", "gpt.raw", &["--table", "gpt"]);
    let said = notes(&report);
    assert!(said.contains("the disk has a GPT now") && said.contains("partition 14 is new"), "{said}");
    let checked = run(tool("sgdisk").arg("-v").arg(work.at("gpt.raw")));
    assert!(checked.contains("No problems found"), "{checked}");
    run(tool("sfdisk").arg("--verify").arg(work.at("gpt.raw")));
    read_gpt(&work.at("gpt.raw"), 512);
    run(&mut work.mif(&["import", "gpt.raw"]));
    let changed = report["ids"]["changed"].as_array().unwrap();
    let id = changed.iter().find(|it| it["of"] == "partition 1").unwrap()["new"].as_str().unwrap().to_owned();
    assert!(sfdisk(&work.at("gpt.raw")).to_lowercase().contains(&id), "{id}");
    let fstab = run(&mut work.mif(&["cat", "gpt", "/etc/fstab"]));
    assert_eq!(fstab, format!("PARTUUID={id} / ext4 defaults 0 1\n"));
    let config = run(&mut work.mif(&["cat", "gpt", "/boot/grub/grub.cfg"]));
    assert_eq!(config, grub.replace("msdos", "gpt").replace("6d696601-01", &id));
    let core = |image: &str| {
        let report = check(&work, image, &[]);
        let found = report["findings"].as_array().unwrap().clone();
        let is_core = |it: &&Value| it["reason"].as_str().unwrap().contains("which is whole");
        let core = found.iter().find(is_core).unwrap_or_else(|| panic!("{image}: {report:#}"));
        core["reason"].as_str().unwrap().to_owned()
    };
    assert!(core("gpt").contains("from sector 48"), "{}", core("gpt"));

    // And back: GRUB lies in the gap again, and the references are those of an MBR.
    let report = export(&work, "gpt", "again.raw", &["--table", "mbr"]);
    assert!(notes(&report).contains("behind the MBR"), "{report:#}");
    let table = sfdisk(&work.at("again.raw"));
    assert!(table.contains("label: dos") && table.contains("disk1 : start=        2048"), "{table}");
    assert!(table.contains("type=83, bootable"), "{table}");
    run(tool("sfdisk").arg("--verify").arg(work.at("again.raw")));
    run(&mut work.mif(&["import", "again.raw"]));
    assert!(core("again").contains("from sector 1,"), "{}", core("again"));
    let config = run(&mut work.mif(&["cat", "again", "/boot/grub/grub.cfg"]));
    assert!(config.contains("hd0,msdos1") && config.contains("-01\n"), "{config}");
    let volume = work.at("root");
    cut(&work.at("again.raw"), 1 << 20, 190 << 20, &volume);
    run(tool("e2fsck").args(["-fn"]).arg(&volume));

    // A disk with slots that an MBR does not have.
    disk(&work, "many", &["--efi", "--size", "200M"]);
    let report = export(&work, "many", "few.raw", &["--table", "mbr"]);
    let said = notes(&report);
    assert!(said.contains("partition 15 is partition 2 now"), "{said}");
    assert!(said.contains("p15:/EFI/BOOT/BOOTX64.EFI: this GRUB lacks the module part_msdos"), "{said}");
    let table = sfdisk(&work.at("few.raw"));
    assert!(table.contains("disk2 : start=        4096, size=      131072, type=ef"), "{table}");
}

#[test]
fn new_identities_go_with_another_table_other_firmware_and_other_sectors() {
    if !have(TOOLS) {
        return;
    }
    let work = work_folder();
    tree(&work);
    disk(&work, "old", &["--table", "mbr", "--size", "200M"]);
    disk(&work, "uefi", &["--efi", "--size", "200M"]);
    const OLD: &str = "6d69662d-6465-6269-616e-000000000001";
    for (name, from, options, esp) in [
        ("table", "old", &["--table", "gpt"][..], None),
        ("both", "old", &["--table", "gpt", "--boot", "both"], Some("p15")),
        ("esp", "old", &["--boot", "uefi"], Some("p2")),
        ("sectors", "old", &["--table", "gpt", "--boot", "uefi", "--sector-size", "4096"], Some("p15")),
        ("large", "uefi", &["--sector-size", "4096"], Some("p15")),
        ("mbr", "uefi", &["--table", "mbr"], Some("p2")),
    ] {
        let options = [options, &["--new-ids", "--seed", "one"]].concat();
        let report = export(&work, from, &format!("{name}.raw"), &options);
        let changed = report["ids"]["changed"].as_array().unwrap();
        let new = changed.iter().find(|it| it["of"] == "p1").unwrap()["new"].as_str().unwrap().to_owned();
        assert_ne!(new, OLD);
        assert!(changed.iter().any(|it| it["of"] == "disk"), "{name}: {report:#}");
        run(&mut work.mif(&["import", &format!("{name}.raw")]));
        let info: Value = serde_json::from_str(&run(&mut work.mif(&["info", name, "--json"]))).unwrap();
        let volumes = info["volumes"].as_array().unwrap();
        let root = volumes.iter().find(|it| it["volume"] == "p1").unwrap();
        assert!(root.to_string().contains(&new), "{name}: {root:#}");
        let mut texts = vec!["/etc/fstab".to_owned(), "/boot/grub/grub.cfg".to_owned()];
        texts.extend(esp.map(|esp| format!("{esp}:/EFI/BOOT/grub.cfg")));
        for path in &texts {
            let text = run(&mut work.mif(&["cat", name, path]));
            assert!(text.contains(&new) && !text.contains(OLD), "{name}: {path}: {text}");
        }
        export(&work, from, "again.raw", &[&options[..], &["--force"]].concat());
        assert!(
            fs::read(work.at("again.raw")).unwrap() == fs::read(work.at(&format!("{name}.raw"))).unwrap()
        );
        if name != "large" && name != "sectors" {
            run(tool("sfdisk").arg("--verify").arg(work.at(&format!("{name}.raw"))));
            let boot = check(&work, name, &[]);
            assert_eq!(finding(&boot, "firmware")["verdict"], "good", "{name}: {boot:#}");
        }
    }
    // Another seed gives other identities of the table and of what was added, too.
    let ids = |seed: &str| -> Vec<String> {
        let options = ["--table", "gpt", "--boot", "both", "--new-ids", "--seed", seed, "--force"];
        export(&work, "old", "other.raw", &options);
        let table = sfdisk(&work.at("other.raw"));
        let parts = table.split("uuid=").skip(1).map(|rest| rest[..36].to_owned());
        parts.chain(table.lines().filter(|line| line.starts_with("label-id")).map(str::to_owned)).collect()
    };
    let (one, two) = (ids("one"), ids("two"));
    assert!(one.len() == 4 && one.iter().all(|id| !two.contains(id)), "{one:?} {two:?}");
}

#[test]
fn logical_partitions_are_partitions_like_others_in_a_gpt_for_any_sectors() {
    if !have(TOOLS) {
        return;
    }
    let work = work_folder();
    tree(&work);
    disk(&work, "logical", &["--table", "mbr-logical", "--size", "200M"]);
    let root: u64 = (2048 + 32_768 + 2048) * 512;
    for (name, options, sector) in [
        ("plain", &["--table", "gpt"][..], 512),
        ("large", &["--table", "gpt", "--sector-size", "4096"], 4096),
    ] {
        let raw = format!("{name}.raw");
        export(&work, "logical", &raw, options);
        let places: Vec<Vec<u64>> = read_gpt(&work.at(&raw), sector)
            .lines()
            .map(|line| line.split(' ').map(|number| number.parse().unwrap()).collect())
            .collect();
        let place = |slot| places.iter().find(|place| place[0] == slot).unwrap();
        assert_eq!((place(1)[1], place(5)[1]), (1 << 20, root), "{places:?}");
        cut(&work.at(&raw), 1 << 20, 16 << 20, &work.at("fat"));
        run(tool("fsck.fat").arg("-n").arg(work.at("fat")));
        let bytes = fs::read(work.at("fat")).unwrap();
        assert_eq!(u32::from(u16::from_le_bytes([bytes[11], bytes[12]])), sector);
        cut(&work.at(&raw), root, place(5)[2] - root, &work.at("root"));
        run(tool("e2fsck").arg("-fn").arg(work.at("root")));
    }
    let said = run_failing(&mut work.mif(&["export", "logical", "x.raw", "--sector-size", "4096"]), 4);
    assert!(said.contains("logical partitions") && said.contains("--table gpt"), "{said}");
}

#[test]
fn an_efi_system_partition_that_is_added_to_a_disk_with_large_sectors_has_such_sectors() {
    if !have(TOOLS) {
        return;
    }
    let work = work_folder();
    tree(&work);
    disk(&work, "old", &["--table", "mbr", "--size", "200M"]);
    export(&work, "old", "large.raw", &["--table", "gpt", "--sector-size", "4096"]);
    run(&mut work.mif(&["import", "large.raw"]));
    export(&work, "large", "boots.raw", &["--boot", "uefi"]);
    let places = read_gpt(&work.at("boots.raw"), 4096);
    let line = places.lines().find(|line| line.starts_with("15 ")).unwrap();
    let place: Vec<u64> = line.split(' ').skip(1).map(|number| number.parse().unwrap()).collect();
    cut(&work.at("boots.raw"), place[0], place[1] - place[0], &work.at("esp"));
    run(tool("fsck.fat").arg("-n").arg(work.at("esp")));
    assert_eq!(fs::read(work.at("esp")).unwrap()[11..13], [0, 16], "4096 bytes per sector");
}

#[test]
fn a_disk_starts_by_the_other_firmware_with_what_its_system_has_installed() {
    if !have(TOOLS) {
        return;
    }
    let work = work_folder();
    tree(&work);
    disk(&work, "mbr", &["--table", "mbr", "--size", "200M"]);
    let report = export(&work, "mbr", "both.raw", &["--table", "gpt", "--boot", "both"]);
    let said = notes(&report);
    assert!(said.contains("p15 is new") && said.contains("mounts p15 on /boot/efi"), "{said}");
    assert!(said.contains("GRUB for a BIOS is there"), "{said}");
    run(tool("sgdisk").arg("-v").arg(work.at("both.raw")));
    run(&mut work.mif(&["import", "both.raw"]));
    let info: Value = serde_json::from_str(&run(&mut work.mif(&["info", "both", "--json"]))).unwrap();
    let esp =
        info["table"]["partitions"].as_array().unwrap().iter().find(|it| it["slot"] == 15).unwrap().clone();
    cut(&work.at("both.raw"), esp["start"].as_u64().unwrap(), 64 << 20, &work.at("esp"));
    run(tool("fsck.fat").arg("-n").arg(work.at("esp")));
    let listed = run(tool("mdir").args(["-b", "-/", "-i"]).arg(work.at("esp")).arg("::/"));
    assert!(listed.contains("::/EFI/BOOT/BOOTX64.EFI"), "{listed}");
    let program = run(&mut work.mif(&["ls", "both", "p15:/EFI/BOOT", "--json"]));
    assert!(program.contains("BOOTX64.EFI"), "{program}");
    let uuid = info["volumes"].as_array().unwrap().iter().find(|it| it["volume"] == "p15").unwrap().clone();
    let fstab = run(&mut work.mif(&["cat", "both", "/etc/fstab"]));
    assert!(fstab.contains(" /boot/efi vfat umask=0077,nofail 0 1\n"), "{fstab} {uuid}");
    assert!(run(&mut work.mif(&["ls", "both", "/boot"])).contains("efi"));
    let both = check(&work, "both", &["--firmware", "uefi"]);
    assert_eq!(finding(&both, "firmware")["verdict"], "good", "{both:#}");
    // The same image gives the same disk.
    export(&work, "mbr", "twice.raw", &["--table", "gpt", "--boot", "both"]);
    assert!(fs::read(work.at("twice.raw")).unwrap() == fs::read(work.at("both.raw")).unwrap());

    // From UEFI to a BIOS: the core image is made of GRUB's own files.
    disk(&work, "gpt", &["--efi", "--size", "200M"]);
    run(&mut work.mif(&["export", "gpt", "uefi.raw"]));
    let file = fs::OpenOptions::new().write(true).open(work.at("uefi.raw")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 440], 0).unwrap();
    run(&mut work.mif(&["import", "uefi.raw"]));
    let report = export(&work, "uefi", "bios.raw", &["--boot", "bios"]);
    assert!(notes(&report).contains("GRUB for a BIOS was added"), "{report:#}");
    run(&mut work.mif(&["import", "bios.raw"]));
    let bios = check(&work, "bios", &[]);
    assert_eq!(finding(&bios, "firmware")["verdict"], "good", "{bios:#}");
    assert!(run(&mut work.mif(&["ls", "bios", "/boot/grub/i386-pc"])).contains("normal.mod"));

    // What the image lacks is named, with its package.
    run(&mut work.mif(&["customize", "mbr", "--as", "bare", "--delete", "/usr/lib/grub"]));
    let said = run_failing(&mut work.mif(&["export", "bare", "x.raw", "--boot", "uefi"]), 4);
    assert!(said.contains("grub-efi-amd64-bin"), "{said}");
    let said = run_failing(&mut work.mif(&["export", "bare", "x.raw", "--table", "gpt"]), 4);
    assert!(said.contains("lacks the module part_gpt") && said.contains("grub-pc-bin"), "{said}");
    let said = run_failing(
        &mut work.mif(&["export", "uefi", "x.raw", "--boot", "bios", "--sector-size", "4096"]),
        4,
    );
    assert!(said.contains("a BIOS starts no disk with sectors of 4096 bytes"), "{said}");
    assert!(!work.at("x.raw").exists());
}
