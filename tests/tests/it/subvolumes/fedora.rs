//! A disk like Fedora's.

use std::fs;

use mif_tests::{run, run_failing};

use super::{ESP, LINUX, Lab, ROOT, kernel, ways};

/// Fedora: `root` and `home` on one volume, as its cloud images have them (Zakkaus/gentoo-install#454); /var by its id.
#[test]
fn a_disk_like_fedoras_is_read_by_plain_paths() {
    let Some(lab) = Lab::new() else { return };
    let script = r#"
sub root; sub home; sub var
root root fedora; rm -r root/var; mkdir root/var
put home/ada/note "of ada"
mkdir -p var/lib/dpkg/info
printf 'Package: openssl\nStatus: install ok installed\nVersion: 3\n\n' >var/lib/dpkg/status
printf '/usr/bin/env\n/etc/fstab\n/home/ada/note\n' >var/lib/dpkg/info/openssl.list
cat >root/etc/fstab <<END
LABEL=fedora / btrfs subvol=root,compress=zstd:1 0 0
LABEL=boot /boot ext4 defaults 1 2
UUID=ABCD-1234 /boot/efi vfat umask=0077 0 2
LABEL=fedora /home btrfs subvol=/home 0 0
LABEL=fedora /var btrfs rw,subvolid=$(id var) 0 0
LABEL=fedora /mnt/top btrfs subvolid=0 0 0
LABEL=fedora /mnt/none btrfs subvol=none 0 0
END
mkdir -p root/mnt/top root/mnt/none
ln -s ../../home/ada root/etc/link
ln -s /etc/hostname var/up
"#;
    if !lab.btrfs("fedora", script) {
        return;
    }
    lab.ext4("boot", &[("vmlinuz-6.1.0", &kernel()), ("efi", b"")]);
    lab.fat("esp");
    lab.disk("f", &[("esp", ESP, ""), ("boot", LINUX, ""), ("fedora", ROOT, "")]);
    for image in ways("f") {
        let cat = |path: &str| lab.cat(&image, path);
        assert_eq!(cat("/etc/hostname"), "host-fedora\n", "{image}");
        assert!(cat("/etc/os-release").contains("System fedora"));
        assert!(cat("/etc/absolute").contains("System fedora"), "an absolute symlink in a subvolume");
        assert_eq!(cat("/home/ada/note"), "of ada\n");
        assert_eq!(cat("/etc/link/note"), "of ada\n", "a symlink into another subvolume");
        assert_eq!(cat("/var/up"), "host-fedora\n", "and back");
        assert_eq!(cat("/var/../etc/hostname"), "host-fedora\n");
        assert_eq!(cat("/../../etc/hostname"), "host-fedora\n", "`..` in the root");
        assert_eq!(cat("/boot/efi/loader.conf"), "loader");
        assert_eq!(cat("/mnt/top/home/ada/note"), "of ada\n", "the top level (rear/rear#2067)");
        assert_eq!(cat("/mnt/top/root/etc/hostname"), "host-fedora\n");
        assert_eq!(
            cat("p3:/root/etc/hostname"),
            "host-fedora\n",
            "a volume that is named is taken by itself"
        );
        run_failing(&mut lab.mif(&["cat", &image, "/mnt/none/root/etc/hostname"]), 3);
        let ls = |path: &str| run(&mut lab.mif(&["ls", &image, path]));
        assert_eq!(ls("/home/ada"), "/home/ada/note\n");
        assert_eq!(ls("/home"), "/home/ada\n");
        assert!(ls("/etc").contains("/etc/fstab\n/etc/hostname\n"), "{}", ls("/etc"));
        assert!(ls("/").contains("/usr\n") && !ls("/").contains("/root"), "{}", ls("/"));
        assert_eq!(ls("/var/lib/dpkg/status"), "/var/lib/dpkg/status\n");
        assert!(ls("p3:/").contains("p3:/root\n"));
        let info = lab.info(&image);
        let system = &info["system"];
        assert_eq!((&system["root"], &system["directory"]), (&"p3".into(), &"/root".into()), "{system}");
        assert_eq!(system["os"]["name"], "System fedora");
        assert_eq!(system["hostname"], "host-fedora");
        assert_eq!(system["architecture"], "x86_64");
        assert_eq!(system["kernels"][0]["path"], "/vmlinuz-6.1.0");
        assert_eq!(system["other_roots"].as_array().unwrap().len(), 0);
        assert_eq!(info["warnings"].as_array().unwrap().len(), 0, "{}", info["warnings"]);
        let packages = run(&mut lab.mif(&["packages", &image, "--csv"]));
        // Its three paths are in three subvolumes.
        assert!(packages.contains(",p3,dpkg,openssl,3,"), "{packages}");
        assert_eq!(packages.trim_end().rsplit(',').nth(1), Some("3"), "{packages}");
    }
    run(&mut lab.mif(&["extract", "f", "/home", "-o", "out"]));
    assert_eq!(fs::read_to_string(lab.at("out/ada/note")).unwrap(), "of ada\n");
    run(&mut lab.mif(&["extract", "f", "-o", "all"]));
    assert_eq!(fs::read_to_string(lab.at("all/etc/hostname")).unwrap(), "host-fedora\n");
    let search = |pattern: &str| run(&mut lab.mif(&["search", pattern, "--csv"]));
    assert!(search("/home/*/note").contains(",p3,/home/ada/note,"));
    assert!(search("/etc/hostname").contains(",p3,/root/etc/hostname,"));
    assert!(search("/var/lib/dpkg/status").contains(",p3,/var/lib/dpkg/status,"));
    run_failing(&mut lab.mif(&["search", "/srv/etc/hostname"]), 1);
    // What was changed is found by a plain path, whichever subvolume it is in.
    let changed = script.replace("of ada", "of ada again");
    assert!(lab.btrfs("fedora", &changed));
    lab.disk("f", &[("esp", ESP, ""), ("boot", LINUX, ""), ("fedora", ROOT, "")]);
    let diff = |path: &str| {
        let output = lab.mif(&["diff", "--ignore-times", "f@1", "f@2", path]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(diff("/home/ada").contains("M p3:/home/ada/note"), "{}", diff("/home/ada"));
    assert!(!diff("/etc").contains("note"), "{}", diff("/etc"));
    // The fstab names the ESP, whose identity changes, and cannot be changed itself.
    let report = run(&mut lab.mif(&["--json", "export", "f", "new.raw", "--new-ids", "--seed", "1"]));
    assert!(report.contains("p3:/root/etc/fstab: contains an old identity"), "{report}");
    let error = run_failing(&mut lab.mif(&["customize", "f", "--as", "x", "--hostname", "x"]), 4);
    assert!(error.contains("btrfs") || error.contains("Btrfs"), "{error}");
}
