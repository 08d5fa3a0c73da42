//! A library of six real Debian disks from end to end: `make collection`. Not part of `make test`, because making the
//! disks alone takes ten minutes.

use std::fs;
use std::path::{Path, PathBuf};

use mif_tests::disk::{assert_sound, cut, parts};
use mif_tests::{cache, debian, disk, have, is_root, json, mif, repo, run, skip, tool, work_folder};
use serde_json::Value;

/// An image of fixtures/debian-library.
struct Image {
    name: &'static str,
    file: &'static str,
    /// True if UEFI boots it too.
    efi: bool,
    /// The version in os-release.
    version: &'static str,
    /// A package that is installed, and one that is not.
    packages: [&'static str; 2],
}

const IMAGES: [Image; 6] = [
    Image { name: "base", file: "base.raw", efi: true, version: "12", packages: ["udev", "nginx"] },
    Image {
        name: "base-mbr",
        file: "base-mbr.qcow2",
        efi: false,
        version: "12",
        packages: ["udev", "nginx"],
    },
    Image { name: "dev", file: "dev.vmdk", efi: false, version: "12", packages: ["git", "nginx"] },
    Image { name: "trixie", file: "trixie.qcow2", efi: true, version: "13", packages: ["nginx", "git"] },
    Image { name: "web", file: "web.qcow2", efi: true, version: "12", packages: ["nginx", "git"] },
    Image { name: "web-mbr", file: "web-mbr.vmdk", efi: false, version: "12", packages: ["nginx", "git"] },
];

/// Returns the directory of images; `None`, with a loud notice, if the archive cannot be reached.
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

/// Makes a raw copy with qemu-img.
fn raw(image: &Path, to: &Path) {
    run(tool("qemu-img").args(["convert", "-O", "raw"]).arg(image).arg(to));
}

/// Copies the root filesystem of a raw disk out of it.
fn cut_root(disk: &Path, to: &Path) {
    let root = parts(disk).into_iter().find(|part| part.slot == 1).expect("the root is in slot 1");
    cut(disk, root.start, root.len, to);
}

/// Returns name, version and architecture of each package according to dpkg-query, from the database on a root
/// filesystem, read with debugfs.
fn dpkg_query(work: &Path, root: &Path) -> Vec<String> {
    let admin = work.join("admin");
    let _ = fs::remove_dir_all(&admin);
    fs::create_dir(&admin).unwrap();
    let dump = format!("rdump /var/lib/dpkg/status /var/lib/dpkg/info {}", admin.display());
    run(tool("debugfs").arg("-R").arg(dump).arg(root));
    dpkg_packages(&admin)
}

/// Returns name, version and architecture of each package, sorted, according to dpkg-query and a database.
pub(super) fn dpkg_packages(admin: &Path) -> Vec<String> {
    let format = "--showformat=${Package},${Version},${Architecture}\n";
    sorted(&run(tool("dpkg-query").arg("--admindir").arg(admin).args(["-W", format])))
}

/// Returns the same according to the program.
pub(super) fn packages(store: &Path, image: &str) -> Vec<String> {
    let csv = run(mif(store).args(["packages", "--csv", image]));
    let lines = csv.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>()[3..6].join(","));
    sorted(&lines.collect::<Vec<_>>().join("\n"))
}

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Returns the setuid and setgid files of a root filesystem, which the kernel mounts; this needs root.
fn set_ids(root: &Path, mount: &Path) -> Vec<String> {
    fs::create_dir_all(mount).unwrap();
    run(tool("mount").args(["-o", "loop,ro,noload"]).arg(root).arg(mount));
    let found =
        tool("find").arg(mount).args(["-xdev", "-type", "f", "-perm", "/6000", "-printf", "/%P\n"]).output();
    run(tool("umount").arg(mount));
    sorted(&String::from_utf8_lossy(&found.unwrap().stdout))
}

#[test]
#[ignore = "makes six Debian disks: make collection"]
fn six_debian_disks_are_kept_searched_compared_updated_and_booted() {
    if !have(debian::TOOLS) || !have(disk::TOOLS) || !have(&["dpkg-query"]) {
        return;
    }
    let Some(folder) = folder() else { return };
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let store = at("store");

    // One command imports all; a second import reads nothing.
    run(mif(&store).arg("import").arg(&folder));
    let images = json(&store, &["images"]);
    let names: Vec<&str> =
        images.as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap()).collect();
    assert_eq!(names, IMAGES.each_ref().map(|image| image.name));
    let again = run(mif(&store).args(["--json", "import"]).arg(&folder));
    assert_eq!(again.matches("\"event\":\"skipped\"").count(), 6, "{again}");

    // One command verifies all; qemu-img also compares each bit, after exporting all to one container format.
    run(mif(&store).args(["verify", "--all"]));
    run(mif(&store).args(["verify", "--all", "--against"]).arg(&folder));
    run(mif(&store).args(["export", "--all"]).arg(at("out")).args(["--format", "qcow2"]));
    for Image { name, file, efi, version, packages: [has, lacks] } in IMAGES {
        let out = at("out").join(format!("{name}.qcow2"));
        run(tool("qemu-img").args(["compare", "-q"]).arg(folder.join(file)).arg(&out));

        // Compare the contents with the tools' answers.
        let (disk, root) = (at("disk.raw"), at("root.img"));
        raw(&folder.join(file), &disk);
        cut_root(&disk, &root);
        let theirs = dpkg_query(work.path(), &root);
        assert_eq!(packages(&store, name), theirs, "{name}");
        let installed = |wanted: &str| theirs.iter().any(|line| line.starts_with(&format!("{wanted},")));
        assert!(installed(has) && !installed(lacks), "{name}");
        let info = json(&store, &["info", name]);
        assert_eq!(info["system"]["os"]["version"], version, "{name}");
        assert_eq!(info["system"]["boot"].as_array().unwrap().len(), 1 + usize::from(efi), "{name}");
        if is_root() {
            let hits = json(&store, &["search", "--setuid", "--type", "file", "--image", name]);
            let hits = hits["hits"].as_array().unwrap().iter().filter(|hit| hit["volume"] == "p1");
            let ours: Vec<&str> = hits.map(|hit| hit["path"].as_str().unwrap()).collect();
            assert_eq!(sorted(&ours.join("\n")), set_ids(&root, &at("mount")), "{name}");
        }
        // The exported disk boots.
        debian::boot(&out, false, "login:");
        if efi {
            debian::boot(&out, true, "login:");
        }
    }
    assert_eq!(json(&store, &["search", "/etc/os-release"])["hits"].as_array().unwrap().len(), 6);

    // The same tree in two geometries: no file differs, but one of them has an additional volume.
    let diff = mif(&store).args(["--json", "diff", "base", "base-mbr"]).output().unwrap();
    assert_eq!(diff.status.code(), Some(1));
    let diff: Value = serde_json::from_slice(&diff.stdout).unwrap();
    let changes = diff["changes"].as_array().unwrap();
    assert!(changes.iter().all(|c| c["volume"] == "p15" && c["kind"] == "removed"), "{changes:?}");
    assert!(changes.iter().any(|c| c["path"] == "/EFI/BOOT/BOOTX64.EFI"), "{changes:?}");

    // Apply the changes from base to web server to the base with the other geometry.
    run(mif(&store).args(["update", "--from", "base", "--to", "web", "base-mbr"]));
    assert_eq!(packages(&store, "base-mbr@2"), packages(&store, "web"));
    let updated = at("updated.raw");
    run(mif(&store).args(["export", "base-mbr@2"]).arg(&updated));
    assert_sound(&updated, work.path());
    cut_root(&updated, &at("root.img"));
    assert_eq!(dpkg_query(work.path(), &at("root.img")), packages(&store, "web"));
    debian::boot(&updated, false, "login:");
    run(mif(&store).arg("fsck"));
}
