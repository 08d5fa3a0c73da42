//! Paths across the mounts in an image's fstab: `ls`, `cat`, `info`, `packages`, `search` and edits of an image with
//! /usr, /boot, /var and /var/log on volumes of their own; and images with two systems.

use std::fs;
use std::ops::Deref;
use std::path::Path;

use mif_tests::{WorkFolder, have, run, run_failing, tool, work_folder};
use serde_json::Value;

const TOOLS: &[&str] = &["sfdisk", "mke2fs", "dd"];
/// The size of each volume in mebibytes.
const SIZE: u64 = 16;

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
    /// Makes a disk with a volume for each directory, in order, labelled with its name.
    fn disk(&self, name: &str, volumes: &[&str]) {
        let disk = self.at(name);
        let file = fs::File::create(&disk).unwrap();
        file.set_len((2 + SIZE * volumes.len() as u64) << 20).unwrap();
        let mut table = "label: gpt\n".to_owned();
        for i in 0..volumes.len() as u64 {
            table += &format!("start={},size={}\n", (1 + SIZE * i) * 2048, SIZE * 2048);
        }
        fs::write(self.at("table"), table).unwrap();
        let shell = format!("sfdisk -q {} < {}", disk.display(), self.at("table").display());
        run(tool("sh").args(["-c", &shell]));
        for (i, volume) in volumes.iter().enumerate() {
            let image = self.at("volume.img");
            let _ = fs::remove_file(&image);
            let size = format!("{SIZE}M");
            run(tool("mke2fs")
                .args(["-q", "-t", "ext4", "-L", volume, "-d"])
                .arg(self.at(volume))
                .arg(&image)
                .arg(size));
            let seek = format!("seek={}", 1 + SIZE * i as u64);
            run(tool("dd")
                .arg(format!("if={}", image.display()))
                .arg(format!("of={}", disk.display()))
                .args(["bs=1M", &seek, "conv=notrunc", "status=none"]));
        }
    }
}

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

const STATUS: &str =
    "Package: openssl\nStatus: install ok installed\nArchitecture: amd64\nVersion: 3.0.11-1\n\n";
const FSTAB: &str = "LABEL=root / ext4 defaults 0 1\nLABEL=usr /usr ext4 ro 0 2\nLABEL=boot /boot ext4 ro 0 2\n\
    LABEL=var /var ext4 defaults 0 2\nLABEL=log /var/log ext4 defaults 0 2\ntmpfs /tmp tmpfs defaults 0 0\n";

/// Makes a disk with the directories of a system on separate volumes, as hardening guides recommend.
fn split_system() -> Option<Lab> {
    if !have(TOOLS) {
        return None;
    }
    let lab = Lab { work: work_folder() };
    let at = |name: &str| lab.at(name);
    write(
        &at("root"),
        &[("etc/fstab", FSTAB), ("etc/hostname", "split\n"), ("tmp/kept", "beneath\n"), ("var/hidden", "h")],
    );
    for folder in ["usr", "boot", "var"] {
        fs::create_dir_all(at("root").join(folder)).unwrap();
    }
    std::os::unix::fs::symlink("usr/bin", at("root/bin")).unwrap();
    std::os::unix::fs::symlink("../usr/lib/os-release", at("root/etc/os-release")).unwrap();
    let os = "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\nVERSION_ID=\"12\"\n";
    write(&at("usr"), &[("lib/os-release", os), ("bin/openssl", "x"), ("lib/modules/6.1.0/modules.dep", "")]);
    fs::create_dir_all(at("boot")).unwrap();
    let mut kernel = vec![0; 70_000];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
    kernel[0x300..0x309].copy_from_slice(b"6.1.0 (x)");
    fs::write(at("boot/vmlinuz-6.1.0"), kernel).unwrap();
    write(
        &at("var"),
        &[("lib/dpkg/status", STATUS), ("lib/dpkg/info/openssl.list", "/.\n/usr/bin/openssl\n/etc\n")],
    );
    fs::create_dir_all(at("var/log")).unwrap();
    std::os::unix::fs::symlink("../etc/hostname", at("var/up")).unwrap();
    write(&at("log"), &[("audit/audit.log", "audit\n")]);
    std::os::unix::fs::symlink("../lib/dpkg/status", at("log/status")).unwrap();
    lab.disk("disk.raw", &["root", "usr", "boot", "var", "log"]);
    run(&mut lab.mif(&["import", "--name", "disk", "disk.raw"]));
    Some(lab)
}

#[test]
fn ls_and_cat_follow_the_fstab_into_each_volume_and_back() {
    let Some(lab) = split_system() else { return };
    for image in ["./disk.raw", "disk"] {
        let cat = |path: &str| run(&mut lab.mif(&["cat", image, path]));
        assert_eq!(cat("/var/lib/dpkg/status"), STATUS);
        assert_eq!(cat("/var/log/audit/audit.log"), "audit\n", "a mount inside a mount");
        assert_eq!(cat("/var/up"), "split\n", "a symlink that leaves its volume");
        assert_eq!(cat("/var/log/status"), STATUS, ".. in the root of a volume");
        assert_eq!(cat("/bin/openssl"), "x", "a symlink on the root into a mount");
        assert_eq!(cat("/tmp/kept"), "beneath\n", "what is mounted from nowhere in the image hides nothing");
        assert_eq!(cat("p4:/lib/dpkg/status"), STATUS, "a volume that is named is taken by itself");
        assert!(run_failing(&mut lab.mif(&["cat", image, "/var/hidden"]), 3).contains("/hidden"));
        // The paths that ls prints work with cat.
        let listed = run(&mut lab.mif(&["ls", image, "/var/lib/dpkg"]));
        assert!(listed.lines().any(|line| line == "/var/lib/dpkg/status"), "{listed}");
        assert_eq!(run(&mut lab.mif(&["ls", image, "/var/log/audit"])), "/var/log/audit/audit.log\n");
        assert_eq!(run(&mut lab.mif(&["ls", image, "/etc/fstab"])), "/etc/fstab\n");
    }
}

#[test]
fn info_and_packages_find_what_lies_on_other_volumes() {
    let Some(lab) = split_system() else { return };
    for image in ["./disk.raw", "disk"] {
        let info: Value = serde_json::from_str(&run(&mut lab.mif(&["--json", "info", image]))).unwrap();
        let system = &info["system"];
        assert_eq!(system["os"]["name"], "Debian GNU/Linux 12", "{system}");
        assert_eq!(system["kernels"][0]["modules"], true, "{system}");
        assert_eq!(system["other_roots"].as_array().unwrap().len(), 0, "{system}");
        let packages = run(&mut lab.mif(&["packages", image, "--csv"]));
        assert!(packages.contains(",p1,dpkg,openssl,3.0.11-1,amd64,"), "{packages}");
        // Two of its paths exist: /etc on the root, and /usr/bin/openssl on another volume.
        assert_eq!(packages.trim_end().rsplit(',').nth(1), Some("2"), "{packages}");
    }
}

#[test]
fn search_takes_a_whole_path_as_the_system_has_it() {
    let Some(lab) = split_system() else { return };
    let search = |pattern: &str| run(&mut lab.mif(&["search", pattern, "--csv"]));
    assert!(search("/var/lib/dpkg/status").contains(",p4,/lib/dpkg/status,"));
    assert!(search("/var/log/**").contains(",p5,/audit/audit.log,"));
    assert!(search("/usr/bin/*").contains(",p2,/bin/openssl,"));
    assert!(search("/lib/dpkg/status").contains(",p4,/lib/dpkg/status,"), "as it stands on its volume, too");
    run_failing(&mut lab.mif(&["search", "/srv/lib/dpkg/status"]), 1);
}

#[test]
fn edits_reach_a_mount_inside_a_mount() {
    let Some(lab) = split_system() else { return };
    run(&mut lab.mif(&[
        "customize",
        "disk",
        "--as",
        "new",
        "--write",
        "/var/log/new:text",
        "--write",
        "/var/lib/x:y",
    ]));
    assert_eq!(run(&mut lab.mif(&["cat", "new", "p5:/new"])), "text");
    assert_eq!(run(&mut lab.mif(&["cat", "new", "p4:/lib/x"])), "y");
    let error = run_failing(&mut lab.mif(&["customize", "disk", "--as", "bad", "--delete", "p4:/log"]), 3);
    assert!(error.contains("mounts a volume on /var/log"), "{error}");
}

#[test]
fn both_systems_of_an_image_are_shown_and_one_without_a_database_is_said() {
    if !have(TOOLS) {
        return;
    }
    let lab = Lab { work: work_folder() };
    for (name, version) in [("a", "1"), ("b", "2")] {
        let os = format!("ID=os\nPRETTY_NAME=\"OS {version}\"\n");
        write(&lab.at(name), &[("etc/os-release", &os), ("etc/hostname", &format!("host-{name}\n"))]);
    }
    write(&lab.at("a"), &[("var/lib/dpkg/status", STATUS)]);
    lab.disk("ab.raw", &["a", "b"]);
    run(&mut lab.mif(&["import", "--name", "ab", "ab.raw"]));
    for image in ["./ab.raw", "ab"] {
        let info: Value = serde_json::from_str(&run(&mut lab.mif(&["--json", "info", image]))).unwrap();
        assert_eq!(info["system"]["os"]["name"], "OS 1");
        assert_eq!(info["system"]["other_roots"][0]["volume"], "p2");
        assert_eq!(info["system"]["other_roots"][0]["os"]["name"], "OS 2");
        assert!(run(&mut lab.mif(&["info", image])).contains("OS 2, named \"host-b\""));
        let output = lab.mif(&["packages", image]).output().unwrap();
        assert!(output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("p2: OS 2: no package database found"), "{said}");
    }
    write(
        &lab.at("a"),
        &[("var/lib/dpkg/status", "Package: openssl\nStatus: install ok installed\nVersion: 1\n\n")],
    );
    write(
        &lab.at("b"),
        &[("var/lib/dpkg/status", "Package: openssl\nStatus: install ok installed\nVersion: 2\n\n")],
    );
    lab.disk("both.raw", &["a", "b"]);
    let packages = run(&mut lab.mif(&["packages", "./both.raw", "--csv"]));
    assert!(
        packages.contains(",p1,dpkg,openssl,1,") && packages.contains(",p2,dpkg,openssl,2,"),
        "{packages}"
    );
    // Only systems without a database: this is reported, and nothing is found.
    fs::remove_dir_all(lab.at("a/var")).unwrap();
    lab.disk("none.raw", &["a"]);
    run(&mut lab.mif(&["import", "--name", "none", "none.raw"]));
    for words in [&["packages", "none"][..], &["packages", "./none.raw"]] {
        let error = run_failing(&mut lab.mif(words), 1);
        assert!(error.contains("OS 1: no package database found"), "{error}");
    }
}
