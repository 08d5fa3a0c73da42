//! The contents of an image, compared with tools that run on it: `info`'s system, and `ls --format mtree`.

use std::fs;
use std::path::{Path, PathBuf};

use mif_tests::{debian, have, mif, run, tool, work_folder};
use serde_json::Value;

/// Makes a tree with what mtree supports: odd names, links, modes, times before 1970, and a device if run as root.
fn tree(folder: &Path) {
    let script = "
        umask 022
        mkdir -p 'a b/c#d' e\\\\f lost+found
        printf 'one\\n' > 'a b/c#d/x=y*?[z]'
        printf '' > empty
        head -c 70000 /dev/zero > zeros
        printf 'n' > 'new
line'
        printf 'ü' > \"$(printf 'l\\377tin')\"
        ln -s '../a b/#' e\\\\f/link
        ln 'a b/c#d/x=y*?[z]' hard
        chmod 4711 zeros; chmod 0000 empty; chmod 1777 'a b'
        mkfifo pipe
        [ \"$(id -u)\" != 0 ] || { mknod null c 1 3; chown 1000:77 hard; }
        # mke2fs 1.47.0 takes over whole seconds.
        find . -depth -exec touch -h -d @1700000000 {} +
        touch -d '1969-12-31 23:00:00 UTC' empty
        touch -d '2031-05-06 07:08:09 UTC' zeros";
    run(tool("bash").arg("-euc").arg(script).current_dir(folder));
}

#[test]
fn a_listing_as_mtree_is_what_mtree_and_bsdtar_find() {
    if !have(&["mke2fs", "mtree", "bsdtar"]) {
        return;
    }
    let work = work_folder();
    let (folder, image, store) =
        (work.path().join("tree"), work.path().join("v.img"), work.path().join("store"));
    fs::create_dir(&folder).unwrap();
    tree(&folder);
    run(tool("mke2fs").args(["-q", "-t", "ext4", "-I", "256", "-d"]).arg(&folder).arg(&image).arg("16M"));
    run(mif(&store).args(["import", "--name", "v"]).arg(&image));
    let specification = work.path().join("specification");
    let mut texts = Vec::new();
    for image in [image.to_str().unwrap(), "v"] {
        let text = run(mif(&store).args(["ls", "--format", "mtree", "--digests", image]));
        // mke2fs makes these two directories itself.
        let kept: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with("./lost+found "))
            .map(|line| if line.starts_with(". ") { ". type=dir mode=0755" } else { line })
            .collect();
        assert_eq!(text.lines().count(), kept.len() + 1);
        texts.push(kept.join("\n") + "\n");
    }
    assert_eq!(texts[0], texts[1], "of the disk, and of its manifest");
    fs::write(&specification, &texts[0]).unwrap();
    // -e: ignores paths that are not in the specification, here the directory that was left out.
    let check =
        || tool("mtree").args(["-e", "-f"]).arg(&specification).arg("-p").arg(&folder).output().unwrap();
    let answer = check();
    let said =
        String::from_utf8_lossy(&answer.stdout).into_owned() + &String::from_utf8_lossy(&answer.stderr);
    assert!(answer.status.success() && said.is_empty(), "mtree: {said}");
    // It finds a difference, so it did compare.
    fs::write(folder.join("empty"), "no").unwrap();
    let answer = check();
    let said = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert!(!answer.status.success() && said.contains("empty") && said.contains("sha1"), "mtree: {said}");

    // bsdtar makes an archive from it, with the same names, byte for byte.
    let archive = work.path().join("archive.tar");
    let mut bsdtar = tool("bsdtar");
    bsdtar.args(["--format=gnutar", "-cf"]).arg(&archive).arg(format!("@{}", specification.display()));
    run(bsdtar.env("LC_ALL", "C").current_dir(&folder));
    let names = "
import os, sys, tarfile
names = tarfile.open(sys.argv[1], encoding='utf-8', errors='surrogateescape').getnames()
found = [os.path.join(at, name) for at, folders, files in os.walk('.') for name in folders + files]
wanted = sorted(os.path.normpath(path) for path in found + ['.'])
wanted.remove('lost+found')
names = sorted(os.path.normpath(name) for name in names)
assert names == wanted, (names, wanted)";
    run(tool("python3").args(["-c", names]).arg(&archive).current_dir(&folder));
}

#[test]
fn a_listing_as_csv_has_what_the_table_has() {
    let work = work_folder();
    let demo = mif_tests::repo().join("fixtures/demo.qcow2");
    let csv = run(mif(work.path()).args(["ls", "-R", "--format", "csv"]).arg(&demo));
    let json: Value =
        serde_json::from_str(&run(mif(work.path()).args(["--json", "ls", "-R"]).arg(&demo))).unwrap();
    let entries = json["entries"].as_array().unwrap();
    assert_eq!(csv.lines().count(), entries.len() + 1);
    for (line, entry) in csv.lines().skip(1).zip(entries) {
        let path = entry["path"].as_str().unwrap();
        let path = if path.contains(',') { format!("\"{path}\"") } else { path.to_owned() };
        let start =
            format!("{},{path},{},", entry["volume"].as_str().unwrap(), entry["type"].as_str().unwrap());
        assert!(line.starts_with(&start), "{line}");
    }
}

/// Returns a value of os-release, as a shell reads it from the tree's tar.
fn os_release(work: &Path, tree: &Path, key: &str) -> String {
    let script = "tar -xOf \"$1\" ./usr/lib/os-release > os-release && . ./os-release && eval echo \"\\$$2\"";
    let answer = run(tool("bash").args(["-euc", script, "bash"]).arg(tree).arg(key).current_dir(work));
    answer.trim().to_owned()
}

#[test]
fn info_names_the_system_its_kernel_and_how_it_boots() {
    if !have(debian::TOOLS) {
        return;
    }
    let Some(tree) = debian::tree() else { return };
    let work = work_folder();
    let store = work.path().join("store");
    let disk: PathBuf = work.path().join("debian.raw");
    debian::make_disk(&tree, &disk, "--efi --fill mke2fs");
    run(mif(&store).args(["import", "--name", "debian"]).arg(&disk));
    let of = |image: &str| -> Value {
        serde_json::from_str::<Value>(&run(mif(&store).args(["--json", "info", image]))).unwrap()["system"]
            .clone()
    };
    let system = of("debian");
    assert_eq!(system, of(disk.to_str().unwrap()), "of the disk, and of its manifest");
    assert_eq!(system["root"], "p1");
    for (field, key) in [("id", "ID"), ("name", "PRETTY_NAME"), ("version", "VERSION_ID")] {
        assert_eq!(system["os"][field], os_release(work.path(), &tree, key), "{key}");
    }
    assert_eq!(system["architecture"], "x86_64");
    // The kernel's package is named after its release.
    let listed = run(tool("tar").arg("-tf").arg(&tree));
    let release = listed.lines().find_map(|path| path.strip_prefix("./boot/vmlinuz-")).expect("a kernel");
    assert_eq!(system["kernels"].as_array().unwrap().len(), 1);
    let kernel = &system["kernels"][0];
    assert_eq!(kernel["release"], release);
    assert_eq!(kernel["path"], format!("/boot/vmlinuz-{release}"));
    assert_eq!(kernel["modules"], true);
    let boot: Vec<String> = system["boot"]
        .as_array()
        .unwrap()
        .iter()
        .map(|boot| {
            format!(
                "{} {} {}",
                boot["method"].as_str().unwrap(),
                boot["loader"].as_str().unwrap(),
                boot["place"].as_str().unwrap()
            )
        })
        .collect();
    // As fixtures/debian-disk installs it, and as the boot tests start it.
    assert_eq!(boot, ["BIOS GRUB the disk's boot sector", "UEFI GRUB p15:/EFI/BOOT/BOOTX64.EFI"]);
    let text = run(mif(&store).args(["info", "debian"]));
    assert!(text.contains(&format!("  kernel         {release}, p1:/boot/")), "{text}");

    // Without boot code it does not boot with a BIOS, and without the file not with UEFI.
    let mut bytes = fs::read(&disk).unwrap();
    bytes[..440].fill(0);
    fs::write(&disk, &bytes).unwrap();
    assert_eq!(of(disk.to_str().unwrap())["boot"].as_array().unwrap().len(), 1);
}

#[test]
fn info_says_what_it_knows_of_an_image_whose_files_are_damaged() {
    let work = work_folder();
    let store = work.path().join("store");
    let demo = mif_tests::repo().join("fixtures/demo.qcow2");
    run(mif(&store).args(["import", "--name", "demo"]).arg(&demo));
    let manifest = store.join("images/name=demo/version=1/manifest.parquet");
    let mut bytes = fs::read(&manifest).unwrap();
    let end = bytes.len();
    bytes[end - 40..].fill(0xff);
    fs::write(&manifest, bytes).unwrap();
    let info: Value = serde_json::from_str(&run(mif(&store).args(["--json", "info", "demo"]))).unwrap();
    assert_eq!(info["table"]["partitions"].as_array().unwrap().len(), 3);
    let warnings = info["warnings"].to_string();
    assert!(warnings.contains("cannot read its files"), "{warnings}");
}
