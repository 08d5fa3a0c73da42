//! Disks like openSUSE's.

use mif_tests::run;

use super::{ESP, LINUX, Lab, ways};

/// openSUSE: the root is the default subvolume, a snapshot of snapper; fstab has no option for it.
#[test]
fn a_disk_like_opensuses_is_read_through_its_default_subvolume() {
    let Some(lab) = Lab::new() else { return };
    let script = r#"
sub @; sub @/.snapshots; mkdir @/.snapshots/1 @/.snapshots/2; sub @/.snapshots/1/snapshot; sub @/home; sub @/var
root @/.snapshots/1/snapshot suse
S=@/.snapshots/1/snapshot
rm -r $S/var; mkdir $S/var $S/.snapshots
put @/home/ada/note "of ada"
put @/var/log/messages "began"
cat >$S/etc/fstab <<END
LABEL=suse / btrfs defaults 0 0
LABEL=suse /.snapshots btrfs subvol=/@/.snapshots 0 0
LABEL=suse /home btrfs subvol=/@/home 0 0
LABEL=suse /var btrfs subvol=/@/var 0 0
END
btrfs -q subvolume snapshot -r $S @/.snapshots/2/snapshot
btrfs subvolume set-default $S
"#;
    if !lab.btrfs("suse", script) {
        return;
    }
    lab.fat("esp");
    lab.disk("s", &[("esp", ESP, ""), ("suse", LINUX, "")]);
    for image in ways("s") {
        assert_eq!(lab.cat(&image, "/etc/hostname"), "host-suse\n");
        assert_eq!(lab.cat(&image, "/home/ada/note"), "of ada\n");
        assert_eq!(lab.cat(&image, "/var/log/messages"), "began\n");
        assert_eq!(lab.cat(&image, "/.snapshots/2/snapshot/etc/hostname"), "host-suse\n");
        assert_eq!(run(&mut lab.mif(&["ls", &image, "/var/log"])), "/var/log/messages\n");
        let info = lab.info(&image);
        assert_eq!(info["system"]["directory"], "/@/.snapshots/1/snapshot");
        assert_eq!(info["system"]["os"]["name"], "System suse");
        assert_eq!(info["warnings"].as_array().unwrap().len(), 0, "{}", info["warnings"]);
        assert!(info["volumes"][1]["content"]["filesystem"]["default_subvolume"].as_u64().unwrap() > 256);
        assert_eq!(info["volumes"][0]["content"]["filesystem"].get("default_subvolume"), None);
    }
    // After a rollback the fstab may still name the first snapshot; the default counts (OSInside/kiwi#2366).
    let rolled = format!(
        "{script}\nsed -i 's/ defaults / ro,subvol=@\\/.snapshots\\/1\\/snapshot /' $S/etc/fstab\n\
         mkdir @/.snapshots/3; btrfs -q subvolume snapshot $S @/.snapshots/3/snapshot\n\
         echo third >@/.snapshots/3/snapshot/etc/hostname\nbtrfs subvolume set-default @/.snapshots/3/snapshot\n"
    );
    assert!(lab.btrfs("suse", &rolled));
    lab.disk("s", &[("esp", ESP, ""), ("suse", LINUX, "")]);
    assert_eq!(lab.cat("s", "/etc/hostname"), "third\n");
    let said = lab.info("s@2")["warnings"].to_string();
    assert!(
        said.contains("the default subvolume, but its fstab names p2:/@/.snapshots/1/snapshot"),
        "{said}"
    );
    // A system that was installed to the top level and rolled back (openSUSE/snapper#159).
    let top = "root . old; sub .snapshots; mkdir .snapshots/6; sub .snapshots/6/snapshot\n\
               root .snapshots/6/snapshot new; btrfs subvolume set-default .snapshots/6/snapshot\n";
    assert!(lab.btrfs("suse", top));
    lab.disk("t", &[("suse", LINUX, "")]);
    assert_eq!(lab.cat("t", "/etc/hostname"), "host-new\n");
    // Without a default, the installed system of a volume of snapshots is the first one.
    let none = script.replace("btrfs subvolume set-default $S", "");
    assert!(lab.btrfs("suse", &none));
    lab.disk("n", &[("suse", LINUX, "")]);
    assert_eq!(lab.info("n")["system"]["directory"], "/@/.snapshots/1/snapshot");
}
