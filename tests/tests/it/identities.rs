//! New identities wherever an image contains the old ones, extended partitions of disks that shrink, and features that
//! planning leaves out: checked with sfdisk, parted, mtools, debugfs and e2fsck.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use mif_tests::{WorkFolder, have, run, run_failing, tool, work_folder};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const UUID: &str = "11111111-2222-4333-8444-555555555555";

struct Lab {
    work: WorkFolder,
}

impl Deref for Lab {
    type Target = WorkFolder;

    fn deref(&self) -> &WorkFolder {
        &self.work
    }
}

impl Lab {
    fn new() -> Self {
        Lab { work: work_folder() }
    }

    /// Makes a disk with this table, and volumes at offsets in mebibytes.
    fn disk(&self, name: &str, mib: u64, table: &str, volumes: &[(u64, &Path)]) {
        let disk = self.at(name);
        fs::File::create(&disk).unwrap().set_len(mib * MIB).unwrap();
        fs::write(self.at("table"), table).unwrap();
        let shell = format!("sfdisk -q {} < {}", disk.display(), self.at("table").display());
        run(tool("sh").args(["-c", &shell]));
        for (at, volume) in volumes {
            let words =
                [format!("if={}", volume.display()), format!("of={}", disk.display()), format!("seek={at}")];
            run(tool("dd").args(words).args(["bs=1M", "conv=notrunc", "status=none"]));
        }
    }

    fn ext4(&self, name: &str, tree: &Path, size: &str, options: &[&str]) -> PathBuf {
        let volume = self.at(name);
        run(tool("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(tree).args(options).arg(&volume).arg(size));
        volume
    }
}

/// Returns a UEFI program of `len` bytes, with the command line of a unified kernel image; `signed` or not.
fn program(len: usize, signed: bool) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[..2].copy_from_slice(b"MZ");
    bytes[0x3C] = 0x80;
    bytes[0x80..0x84].copy_from_slice(b"PE\0\0");
    bytes[0x98..0x9A].copy_from_slice(&[0x0B, 0x02]);
    bytes[0x98 + 112 + 36] = u8::from(signed);
    for (i, byte) in bytes[4096..].iter_mut().enumerate() {
        *byte = (i * 7 + i / 251) as u8;
    }
    let text = format!("root=UUID={UUID} ro quiet\0");
    let at = len - 1000;
    bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
    bytes
}

#[test]
fn each_file_that_names_an_old_identity_has_the_new_one_or_is_named() {
    if !have(&["mke2fs", "mkfs.fat", "mmd", "mcopy", "sfdisk", "dd", "debugfs"]) {
        return;
    }
    let lab = Lab::new();
    let tree = lab.at("tree");
    let escaped = UUID.replace('-', "\\x2d");
    let unit = format!("dev-disk-by\\x2duuid-{escaped}.swap");
    let texts: Vec<(String, String)> = vec![
        ("etc/fstab".into(), format!("UUID={UUID} / ext4 defaults 0 1\n")),
        (format!("etc/systemd/system/{unit}"), format!("[Swap]\nWhat=/dev/disk/by-uuid/{UUID}\n")),
        (
            format!("etc/systemd/system/{unit}.d/more.conf"),
            format!("[Unit]\nAfter=dev-disk-by\\x2duuid-{escaped}.device\n"),
        ),
        ("usr/lib/systemd/system/data.mount".into(), format!("[Mount]\nWhat=UUID={UUID}\n")),
        ("usr/lib/bootc/kargs.d/10-root.toml".into(), format!("kargs = [\"root=UUID={UUID}\"]\n")),
        ("usr/lib/kernel/cmdline".into(), format!("root=UUID={UUID}\n")),
        ("ostree/deploy/os/deploy/abc.0/etc/fstab".into(), format!("UUID={UUID} / ext4\n")),
        ("home/user/notes".into(), format!("{UUID} in a user's file stays\n")),
    ];
    for (path, text) in &texts {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fs::create_dir_all(tree.join("etc/systemd/system/swap.target.wants")).unwrap();
    std::os::unix::fs::symlink(
        format!("../{unit}"),
        tree.join("etc/systemd/system/swap.target.wants").join(&unit),
    )
    .unwrap();
    std::os::unix::fs::symlink(format!("/dev/disk/by-uuid/{UUID}"), tree.join("etc/root-device")).unwrap();
    let root = lab.ext4("root.img", &tree, "24M", &["-U", UUID]);
    let fat = lab.at("fat.img");
    fs::File::create(&fat).unwrap().set_len(64 * MIB).unwrap();
    run(tool("mkfs.fat").args(["-F", "32", "-i", "4D494603"]).arg(&fat));
    run(tool("mmd").arg("-i").arg(&fat).args(["::/EFI", "::/EFI/Linux"]));
    for (name, len, signed) in
        [("small.efi", 1 << 20, false), ("large.efi", 20 << 20, false), ("signed.efi", 9 << 20, true)]
    {
        fs::write(lab.at(name), program(len, signed)).unwrap();
        run(tool("mcopy").arg("-i").arg(&fat).arg(lab.at(name)).arg("::/EFI/Linux/"));
    }
    fs::write(lab.at("data.bin"), [&[0; 10], UUID.as_bytes()].concat()).unwrap();
    run(tool("mcopy").arg("-i").arg(&fat).arg(lab.at("data.bin")).arg("::/"));
    let table = "label: gpt\nstart=2048,size=131072,type=U\nstart=133120,size=49152,type=L\n";
    lab.disk("disk.raw", 96, table, &[(1, &fat), (65, &root)]);
    run(&mut lab.mif(&["import", "--name", "disk", "disk.raw"]));
    let json = run(&mut lab.mif(&["--json", "export", "disk", "new.raw", "--new-ids", "--seed", "1"]));
    let report: Value = serde_json::from_str(&json).unwrap();
    let texts_of = |key: &str| -> Vec<String> {
        report["ids"][key].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let left = texts_of("left").join("\n");
    for (path, why) in
        [("/EFI/Linux/signed.efi", "is signed"), ("/data.bin", "neither text nor a UEFI program")]
    {
        assert!(left.lines().any(|line| line.contains(path) && line.contains(why)), "{path}: {left}");
    }
    run(&mut lab.mif(&["import", "--name", "new", "new.raw"]));
    let changed = report["ids"]["changed"].as_array().unwrap();
    let new =
        changed.iter().find(|change| change["old"] == UUID).unwrap()["new"].as_str().unwrap().to_owned();
    let new_unit = format!("dev-disk-by\\x2duuid-{}.swap", new.replace('-', "\\x2d"));
    let cat = |path: &str| lab.mif(&["cat", "new", path]).output().unwrap().stdout;
    for (path, text) in &texts {
        let path = path.replace(&unit, &new_unit);
        let expected = if path.starts_with("home/") {
            text.clone()
        } else {
            text.replace(UUID, &new).replace(&escaped, &new.replace('-', "\\x2d"))
        };
        assert_eq!(String::from_utf8_lossy(&cat(&format!("/{path}"))), expected, "{path}");
    }
    let listed = run(&mut lab.mif(&["--json", "ls", "new", "/etc", "--recursive"]));
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let links: Vec<(&str, &str)> = listed["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|entry| Some((entry["path"].as_str()?, entry["link_target"].as_str()?)))
        .collect();
    let wants = format!("/etc/systemd/system/swap.target.wants/{new_unit}");
    assert!(links.contains(&(&wants, &format!("../{new_unit}"))), "{links:?}");
    assert!(links.contains(&("/etc/root-device", &format!("/dev/disk/by-uuid/{new}"))), "{links:?}");
    for (name, rewritten) in [("small.efi", true), ("large.efi", true), ("signed.efi", false)] {
        let before = fs::read(lab.at(name)).unwrap();
        let after = cat(&format!("p1:/EFI/Linux/{name}"));
        let mut expected = before.clone();
        if rewritten {
            let at = before.len() - 1000 + "root=UUID=".len();
            expected[at..at + new.len()].copy_from_slice(new.as_bytes());
        }
        assert!(after == expected, "{name}");
    }
}

#[test]
fn no_partition_reaches_past_a_disk_that_got_smaller() {
    if !have(&["sfdisk", "parted", "mke2fs", "e2fsck", "dd"]) {
        return;
    }
    let lab = Lab::new();
    let tree = lab.at("tree");
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::write(tree.join("etc/fstab"), "/dev/sda5 / ext4 defaults 0 1\n").unwrap();
    fs::write(tree.join("big"), vec![7; 3_000_000]).unwrap();
    let volume = lab.ext4("volume.img", &tree, "40M", &[]);
    let tables = [
        (
            "one",
            "label: dos\nstart=2048,size=40960,type=82\nstart=43008,size=204800,type=5\nstart=45056,size=81920,type=83\n",
            22,
        ),
        (
            "two",
            "label: dos\nstart=2048,size=40960,type=83\nstart=43008,size=204800,type=f\nstart=45056,size=81920,type=83\nstart=131072,size=8192,type=83\n",
            22,
        ),
        ("empty", "label: dos\nstart=2048,size=81920,type=83\nstart=90112,size=204800,type=5\n", 1),
    ];
    for (name, table, at) in tables {
        let raw = format!("{name}.raw");
        lab.disk(&raw, 160, table, &[(at, &volume)]);
        run(&mut lab.mif(&["import", "--name", name, &raw]));
        let part = if at == 1 { "p1" } else { "p5" };
        let resize = |size: &str| format!("--resize={part}={size}");
        let (least, less, more) = (resize("min"), resize("20M"), resize("60M"));
        for options in
            [&["--size=min"][..], &[&least, "--size=min"], &[&less, "--size=80M"], &[&more, "--size=200M"]]
        {
            run(lab.mif(&["export", name, "new.raw", "--force"]).args(options));
            let table = run(tool("parted").args(["-sm"]).arg(lab.at("new.raw")).args(["unit", "s", "print"]));
            let size = fs::metadata(lab.at("new.raw")).unwrap().len() / 512;
            for line in table.lines().skip(2) {
                let end: u64 = line.split(':').nth(2).unwrap().trim_end_matches('s').parse().unwrap();
                assert!(end < size, "{name} {options:?}: {line} of {size} sectors");
            }
            let count = |text: &str| text.matches("\n").count();
            assert_eq!(count(&table), 2 + table_lines(name), "{name} {options:?}: {table}");
            run(tool("sfdisk").arg("--verify").arg(lab.at("new.raw")));
            let big = lab.mif(&["cat", "./new.raw", "/big"]).output().unwrap().stdout;
            assert!(big == vec![7; 3_000_000], "{name} {options:?}");
        }
    }
}

/// Returns the number of partitions of a table, including the extended one.
fn table_lines(name: &str) -> usize {
    match name {
        "one" => 3,
        "two" => 4,
        _ => 2,
    }
}

#[test]
fn features_that_planning_leaves_out_are_said_and_those_that_it_cannot_keep_are_named() {
    if !have(&["mke2fs"]) {
        return;
    }
    let lab = Lab::new();
    let tree = lab.at("tree");
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::write(tree.join("etc/fstab"), "/dev/sda1 / ext4 defaults 0 1\n").unwrap();
    for (feature, dropped) in
        [("mmp", true), ("fast_commit", true), ("orphan_file", true), ("quota", false), ("bigalloc", false)]
    {
        let name = format!("{feature}.raw");
        let made = tool("mke2fs")
            .args(["-q", "-t", "ext4", "-O", feature, "-d"])
            .arg(&tree)
            .arg(lab.at(&name))
            .arg("64M")
            .output();
        // mke2fs before 1.47 does not support orphan_file.
        if !made.unwrap().status.success() {
            continue;
        }
        run(&mut lab.mif(&["import", "--name", feature, &name]));
        let edit = ["customize", feature, "--as", "new", "--write", "/etc/x:x"];
        if dropped {
            for dry in [&["--dry-run"][..], &[]] {
                let output = lab.mif(&edit).args(dry).output().unwrap();
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(
                    output.status.success() && said.contains(&format!("the feature {feature} was dropped")),
                    "{feature} {dry:?}: {said}"
                );
            }
        } else {
            let error = run_failing(&mut lab.mif(&edit), 4);
            assert!(error.contains(feature), "{feature}: {error}");
        }
    }
}

/// Beside an ext4 root, an XFS volume with a file that names the root's partition.
#[test]
fn a_volume_that_mif_cannot_write_keeps_its_identity_and_stops_no_other_change() {
    if !have(&["sfdisk", "mke2fs", "debugfs", "mkfs.xfs", "dd"]) {
        return;
    }
    let lab = Lab::new();
    let id = "aaaaaaaa-1111-4222-8333-444444444444";
    fs::create_dir_all(lab.at("tree/etc")).unwrap();
    fs::write(lab.at("tree/etc/fstab"), format!("PARTUUID={id} / ext4\n")).unwrap();
    let root = lab.ext4("root.img", &lab.at("tree"), "64M", &["-U", UUID]);
    let data = lab.at("data.img");
    fs::File::create(&data).unwrap().set_len(320 * MIB).unwrap();
    let fstab = lab.at("tree/etc/fstab");
    let prototype =
        format!("/ 0 0\nd--755 0 0\netc d--755 0 0\nfstab ---644 0 0 {}\n$\n$\n", fstab.display());
    fs::write(lab.at("prototype"), prototype).unwrap();
    run(tool("mkfs.xfs").args(["-q", "-p"]).arg(lab.at("prototype")).arg(&data));
    let table = format!("label: gpt\nstart=2048,size=131072,uuid={id}\nstart=135168,size=655360\n");
    lab.disk("disk.raw", 400, &table, &[(1, &root), (66, &data)]);
    run(&mut lab.mif(&["import", "--name", "disk", "disk.raw"]));

    let grow = ["--json", "export", "disk", "new.raw", "--new-ids", "--size=+100M", "--resize=p2=max"];
    let report: Value = serde_json::from_str(&run(&mut lab.mif(&grow))).unwrap();
    let left = report["ids"]["left"].to_string();
    assert!(left.contains("p2: xfs keeps its identity"), "{report}");
    assert!(left.contains("p2:/etc/fstab: contains an old identity, but was not changed"), "{report}");
    assert!(
        report["notes"].to_string().contains("p2: the partition grew, but its content did not"),
        "{report}"
    );
    let part = |disk: &str, start: u64, len: u64| {
        fs::read(lab.at(disk)).unwrap()[(start * MIB) as usize..][..(len * MIB) as usize].to_vec()
    };
    assert!(part("new.raw", 66, 320) == part("disk.raw", 66, 320));
    fs::write(lab.at("p1.img"), part("new.raw", 1, 64)).unwrap();
    let fstab = run(tool("debugfs").args(["-R", "cat /etc/fstab"]).arg(lab.at("p1.img")));
    assert!(fstab.starts_with("PARTUUID=") && !fstab.contains(id), "{fstab}");

    run(&mut lab.mif(&["customize", "disk", "--as=edited", "--write=p1:/new:text"]));
    let write = ["customize", "disk", "--as=refused", "--write=p2:/new:text"];
    let refused = run_failing(&mut lab.mif(&write), 4);
    assert!(refused.contains("p2: mif cannot write xfs filesystems"), "{refused}");
    let compared = run(&mut lab.mif(&["verify", "--independent", "disk"]));
    assert!(compared.contains("rust-fs-xfs 0.14: 3 compared, 0 differ"), "{compared}");
}
