//! Disks without an fstab.

use mif_tests::{run, run_failing};

use super::{ESP, HOME, Lab, ROOT, USR, XBOOTLDR, kernel, ways};

/// Which partitions systemd mounts without an fstab (The Discoverable Partitions Specification).
#[test]
fn without_an_fstab_partitions_are_mounted_by_their_types() {
    let Some(lab) = Lab::new() else { return };
    let os: &[u8] = b"ID=x\nPRETTY_NAME=\"System dps\"\n";
    let root: [(&str, &[u8]); 6] = [
        ("etc/hostname", b"dps\n"),
        ("home", b""),
        ("boot", b""),
        ("efi", b""),
        ("usr", b""),
        ("srv/kept", b"kept"),
    ];
    lab.ext4("root", &root);
    lab.ext4("usr", &[("lib/os-release", os)]);
    lab.ext4("empty", &[]);
    lab.ext4("boot", &[("vmlinuz-6.1.0", &kernel())]);
    lab.fat("esp");
    // The default subvolume of a volume is mounted.
    if !lab.btrfs("home", "sub @home; put @home/ada/note 'of ada'; btrfs subvolume set-default @home") {
        return;
    }
    // The flag against mounting is none for the ESP (systemd/systemd#5218, #7859).
    let auto = ",attrs=\"GUID:63\"";
    let disk = [
        ("esp", ESP, auto),
        ("boot", XBOOTLDR, ""),
        ("root", ROOT, ""),
        // A place for the next version (systemd/systemd#34596).
        ("empty", USR, ",name=_empty"),
        ("usr", USR, ""),
        ("home", HOME, ""),
    ];
    lab.disk("d", &disk);
    for image in ways("d") {
        assert_eq!(lab.cat(&image, "/etc/hostname"), "dps\n");
        assert!(lab.cat(&image, "/usr/lib/os-release").contains("System dps"));
        assert_eq!(lab.cat(&image, "/home/ada/note"), "of ada\n");
        assert_eq!(lab.cat(&image, "/efi/loader.conf"), "loader");
        assert_eq!(run(&mut lab.mif(&["ls", &image, "/boot"])), "/boot/lost+found\n/boot/vmlinuz-6.1.0\n");
        let info = lab.info(&image);
        assert_eq!(info["system"]["os"]["name"], "System dps", "{info}");
        assert_eq!(info["system"]["root"], "p3");
    }
    assert!(run(&mut lab.mif(&["search", "/home/ada/*", "--csv"])).contains(",p6,/@home/ada/note,"));
    // Without XBOOTLDR the ESP is at /boot; a partition with the flag, or over files, is not mounted
    // (systemd/systemd#11701).
    let srv = "3b8f8425-20e0-4f3b-907f-1a25a76f98e8";
    lab.disk("e", &[("esp", ESP, ""), ("root", ROOT, ""), ("home", HOME, auto), ("usr", srv, "")]);
    assert_eq!(lab.cat("e", "/boot/loader.conf"), "loader");
    assert_eq!(lab.cat("e", "/srv/kept"), "kept");
    run_failing(&mut lab.mif(&["cat", "e", "/home/ada/note"]), 3);
    // An fstab says what is mounted, and nothing else is.
    lab.ext4("root", &[&root[..], &[("etc/fstab", b"LABEL=boot /boot ext4\n")]].concat());
    lab.disk("g", &disk);
    run_failing(&mut lab.mif(&["cat", "g", "/efi/loader.conf"]), 3);
    assert!(run(&mut lab.mif(&["ls", "g", "/boot"])).contains("/boot/vmlinuz"));
}
