//! Disks whose root is the subvolume that its own fstab mounts.

use std::fs;

use mif_tests::run_failing;

use super::{LINUX, Lab, kernel, ways};

/// Ubuntu has `@` and `@home`, and Timeshift's snapshots beside them; Debian has `@rootfs` (CyberShadow/btdu#8).
#[test]
fn the_root_is_the_subvolume_that_its_own_fstab_mounts() {
    let Some(lab) = Lab::new() else { return };
    let script = r#"
sub @; sub @home; root @ ubuntu; put @home/ada/note "of ada"; put @/home/hidden "beneath"
cat >@/etc/fstab <<END
LABEL=u / btrfs defaults,subvol=@ 0 1
LABEL=u /home btrfs subvolid=999,subvol=@home 0 2
END
mkdir -p timeshift-btrfs/snapshots/1
btrfs -q subvolume snapshot @ timeshift-btrfs/snapshots/1/@
btrfs -q subvolume snapshot @ root
"#;
    if !lab.btrfs("u", script) {
        return;
    }
    lab.disk("u", &[("u", LINUX, "")]);
    for image in ways("u") {
        assert_eq!(lab.cat(&image, "/etc/hostname"), "host-ubuntu\n");
        // A path counts before a number that does not agree (archlinux/arch-install-scripts#36).
        assert_eq!(lab.cat(&image, "/home/ada/note"), "of ada\n");
        run_failing(&mut lab.mif(&["cat", &image, "/home/hidden"]), 3);
        assert_eq!(lab.cat(&image, "p1:/@/home/hidden"), "beneath\n");
        let info = lab.info(&image);
        assert_eq!(
            (&info["system"]["directory"], info["warnings"].as_array().unwrap().len()),
            (&"/@".into(), 0)
        );
    }
    // Two subvolumes that mount themselves: the first is taken, and that is said.
    let two = format!("{script}\nsed -i '/ [/] /s/subvol=@/subvol=root/' root/etc/fstab\n");
    assert!(lab.btrfs("u", &two));
    lab.disk("two", &[("u", LINUX, "")]);
    let said = String::from_utf8(lab.mif(&["ls", "two", "/etc"]).output().unwrap().stderr).unwrap();
    assert!(said.contains("p1: paths begin in /@; /root may be the root filesystem too"), "{said}");
    // `@` is only a snapshot of the system in `root`.
    let other = script.replace("subvol=@ 0 1", "subvol=root 0 1");
    assert!(lab.btrfs("u", &other));
    lab.disk("other", &[("u", LINUX, "")]);
    assert_eq!(lab.info("other")["system"]["directory"], "/root");
    // Unusual names (CyberShadow/btdu#3, OSInside/kiwi#2324, osbuild/osbuild#1882), beside the subvolumes of containers.
    let names = [("debian", "@rootfs"), ("own", "rootsubvol"), ("kiwi", "@root"), ("nested", "subvols/root")];
    for (name, subvolume) in names {
        let script = format!(
            "mkdir -p subvols; sub {subvolume}; root {subvolume} x; echo 'LABEL=u / btrfs subvol={subvolume} 0 0' >{subvolume}/etc/fstab\n\
             mkdir -p {subvolume}/var/lib/docker; sub {subvolume}/var/lib/docker/c; root {subvolume}/var/lib/docker/c c\n"
        );
        assert!(lab.btrfs("u", &script));
        lab.disk(name, &[("u", LINUX, "")]);
        assert_eq!(lab.info(name)["system"]["directory"], format!("/{subvolume}"));
        assert_eq!(lab.cat(name, "/etc/hostname"), "host-x\n");
    }
    // /boot is a subvolume (snapshotmanager/boom-boot#168), and the top level is mounted without an option
    // (cockpit-project/cockpit#19874).
    fs::write(lab.at("kernel"), kernel()).unwrap();
    let boot = format!(
        "sub root; sub boot; root root x; cp {} boot/vmlinuz-6.1.0; mkdir root/top\n\
         printf 'LABEL=u / btrfs subvol=root\\nLABEL=u /boot btrfs subvol=boot\\nLABEL=u /top btrfs defaults\\n' >root/etc/fstab\n",
        lab.at("kernel").display()
    );
    assert!(lab.btrfs("u", &boot));
    lab.disk("boot", &[("u", LINUX, "")]);
    let info = lab.info("boot");
    assert_eq!(info["system"]["kernels"][0]["release"], "6.1.0", "{info}");
    assert_eq!(lab.cat("boot", "/top/root/etc/hostname"), "host-x\n");
}
