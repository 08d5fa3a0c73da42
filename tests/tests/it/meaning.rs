//! The manifest agrees with the real tools: debugfs for ext volumes, mtools for FAT ones, sfdisk for the partition
//! table. `fixtures/list-disk` makes their listing of a disk; for the committed disk it is committed too.

use std::path::Path;

use mif_tests::listing::{compare, of_image, of_tools};
use mif_tests::random::Random;
use mif_tests::{have, is_root, mif, repo, run, run_failing, skip, tool, work_folder};

#[test]
fn the_committed_disk_reads_as_the_real_tools_read_it() {
    let work = work_folder();
    let store = work.path().join("store");
    run(mif(&store).arg("import").arg(repo().join("fixtures/demo.qcow2")));
    compare(&of_image(&store, "demo"), &of_tools(&repo().join("fixtures/golden")));
}

#[test]
fn the_golden_listing_is_what_the_tools_say_today() {
    if !have(&["debugfs", "mdir", "sfdisk", "qemu-img"]) {
        return;
    }
    let work = work_folder();
    run(tool(repo().join("fixtures/list-disk")).arg(repo().join("fixtures/demo.qcow2")).arg(work.path()));
    assert_eq!(of_tools(work.path()), of_tools(&repo().join("fixtures/golden")));
}

/// The disk is the physical volume of `fixtures/lvm`, with an ext4 on `vg0/root`, which is in two segments: 4 MiB at 1
/// MiB of the disk, and 3 MiB at 7 MiB.
#[test]
fn a_logical_volume_in_two_pieces_goes_in_and_comes_out() {
    const MIB: usize = 1 << 20;
    if !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    std::fs::create_dir(at("tree")).unwrap();
    let mut content = vec![0; 5 * MIB];
    Random(11).fill(&mut content);
    std::fs::write(at("tree/big"), &content).unwrap();
    std::fs::File::create(at("volume")).unwrap().set_len(7 << 20).unwrap();
    run(tool("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d"])
        .arg(at("tree"))
        .arg(at("volume")));
    let volume = std::fs::read(at("volume")).unwrap();
    let mut disk = std::fs::read(repo().join("fixtures/lvm/pv-head.bin")).unwrap();
    disk.resize(24 * MIB, 0);
    disk[MIB..5 * MIB].copy_from_slice(&volume[..4 * MIB]);
    disk[7 * MIB..10 * MIB].copy_from_slice(&volume[4 * MIB..]);
    std::fs::write(at("disk.img"), &disk).unwrap();

    let store = at("store");
    run(mif(&store).args(["import", "--verify"]).arg(at("disk.img")));
    let info = run(mif(&store).args(["info", "disk"]));
    assert!(info.contains("vg0/root: ext4"), "{info}");
    for image in ["disk", at("disk.img").to_str().unwrap()] {
        let read = mif(&store).args(["cat", image, "vg0/root:/big"]).output().unwrap();
        assert!(read.stdout == content, "{image}");
    }
    // Its content counts as content of the disk, in both segments, and not as residue.
    let info: serde_json::Value =
        serde_json::from_str(&run(mif(&store).args(["info", "--json", "disk"]))).unwrap();
    assert_eq!(info["stored"]["counts"]["content_bytes"], 5 * MIB);
    run(mif(&store).args(["export", "disk"]).arg(at("out.raw")));
    assert!(std::fs::read(at("out.raw")).unwrap() == disk);
}

/// Makes a disk with an MBR and these volumes, each of whole mebibytes, as primary partitions of these types.
fn disk_of(volumes: &[(&Path, &str)], disk: &Path) {
    const MIB: u64 = 1 << 20;
    let (mut bytes, mut table) = (vec![0; MIB as usize], String::from("label: dos\nlabel-id: 0x11223344\n"));
    for (volume, kind) in volumes {
        let content = std::fs::read(volume).unwrap();
        table += &format!("start={}, size={}, type={kind}\n", bytes.len() / 512, content.len() / 512);
        bytes.extend(content);
    }
    std::fs::write(disk, &bytes).unwrap();
    let script = disk.with_extension("table");
    std::fs::write(&script, table).unwrap();
    run(tool("sfdisk").arg("-q").arg(disk).stdin(std::fs::File::open(script).unwrap()));
}

/// Makes changes in `$1`, and copies the volume `$2` to `$3` while it is mounted and some changes are only in the
/// journal.
const LIVE: &str = r#"
set -e
cd "$1"
mkdir -p etc/below many var
for i in $(seq 1 100); do echo "$i" >"many/a file with a rather long name, number $i"; done
seq 1 20000 >var/log; cp var/log var/punched; cp var/log var/cut; cp var/log var/gone
truncate -s 5000 var/cut
fallocate -p -o 8192 -l 16384 var/punched
fallocate -l 1M var/unwritten
truncate -s 3G var/sparse
echo end >>var/sparse
setfacl -m u:1000:rw,g:50:r var/cut
setfacl -d -m u:1000:rwx etc
setcap cap_net_raw=ep var/punched
setfattr -n user.long -v "$(seq -s, 1 150)" var/log
setfattr -n user.short -v x etc/below
ln var/log etc/linked
ln -s ../var/log etc/symlink
ln -s "$(seq -s- 1 40)" etc/long-symlink
mknod var/device c 4 64
touch -d @-2147483648 many/*1; touch -d @0.5 many/*2; touch -d 2400-01-01 many/*3
chown 70000:80000 var/cut; chmod 6755 var/cut
sync -f .
rm var/gone many/*7
mv many moved
echo more >>var/log
mkdir etc/new; echo new >etc/new/file
setfattr -x user.short etc/below
for i in $(seq 1 20); do echo "$i" >"moved/late $i"; done
sync etc/new/file
cp --sparse=always "$2" "$3"
"#;

#[test]
fn a_volume_copied_while_mounted_is_listed_as_after_its_replay_and_comes_back_as_it_was() {
    if !have(&[
        "mke2fs",
        "mount",
        "setfacl",
        "setcap",
        "setfattr",
        "fallocate",
        "e2fsck",
        "debugfs",
        "sfdisk",
        "qemu-img",
    ]) {
        return;
    }
    if !is_root() {
        let _ = skip("only root mounts");
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    std::fs::create_dir(at("mnt")).unwrap();
    let store = at("store");
    for (name, options) in [
        ("ext4", "-t ext4 -J size=4"),
        ("ext4-1k", "-t ext4 -b 1024 -J size=1 -I 128 -O ^metadata_csum"),
        ("ext3", "-t ext3 -J size=4"),
    ] {
        let volume = at("volume");
        std::fs::File::create(&volume).unwrap().set_len(48 << 20).unwrap();
        run(tool("mke2fs").args(["-q", "-F"]).args(options.split(' ')).arg(&volume));
        let done =
            tool("mount").args(["-o", "loop,acl,user_xattr"]).arg(&volume).arg(at("mnt")).output().unwrap();
        if !done.status.success() {
            let _ = skip(&format!("cannot mount: {}", String::from_utf8_lossy(&done.stderr)));
            return;
        }
        // ext3 cannot punch holes or preallocate.
        let script = if name == "ext3" { LIVE.replace("fallocate", ": fallocate") } else { LIVE.to_owned() };
        let lived =
            tool("sh").args(["-c", &script, "sh"]).args([at("mnt"), volume, at("dirty")]).output().unwrap();
        run(tool("umount").arg(at("mnt")));
        assert!(lived.status.success(), "{}", String::from_utf8_lossy(&lived.stderr));
        let said = run(tool("dumpe2fs").arg("-h").arg(at("dirty")));
        assert!(said.contains("needs_recovery"), "{name}: not dirty");
        std::fs::copy(at("dirty"), at("replayed")).unwrap();
        let fsck = tool("e2fsck").arg("-p").arg(at("replayed")).output().unwrap();
        assert!(
            fsck.status.code().is_some_and(|code| code <= 1),
            "{}",
            String::from_utf8_lossy(&fsck.stdout)
        );

        let disk = at(&format!("{name}.raw"));
        disk_of(&[(&at("dirty"), "83")], &disk);
        run(mif(&store).args(["import", "--verify"]).arg(&disk));
        disk_of(&[(&at("replayed"), "83")], &at("replayed.raw"));
        let _ = std::fs::remove_dir_all(at("listing"));
        run(tool(repo().join("fixtures/list-disk")).arg(at("replayed.raw")).arg(at("listing")).arg("raw"));
        let expected = of_tools(&at("listing"));
        assert!(expected["p1.ext4.tsv"].len() > 100, "{name}");
        compare(&of_image(&store, name), &expected);
        run(mif(&store).args(["export", "--force", name]).arg(at("out.raw")));
        assert!(std::fs::read(at("out.raw")).unwrap() == std::fs::read(&disk).unwrap(), "{name}");
    }
}

#[test]
fn volumes_that_are_not_read_are_named_and_come_back() {
    if !have(&["mke2fs", "mkswap", "sfdisk"]) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let mut bytes = vec![0; 4 << 20];
    Random(5).fill(&mut bytes[4096..]);
    for (name, head) in [("luks", &b"LUKS\xba\xbe\0\x01"[..]), ("exfat", b"\xeb\x76\x90EXFAT   ")] {
        bytes[..512].fill(0);
        bytes[..head.len()].copy_from_slice(head);
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        std::fs::write(at(name), &bytes).unwrap();
    }
    for name in ["swap", "future"] {
        std::fs::File::create(at(name)).unwrap().set_len(4 << 20).unwrap();
    }
    run(tool("mkswap").arg("-q").arg(at("swap")));
    // An ext4 with a feature that does not exist yet, and without checksums, which would not match.
    run(tool("mke2fs").args(["-q", "-F", "-t", "ext4", "-O", "^metadata_csum"]).arg(at("future")));
    let mut future = std::fs::read(at("future")).unwrap();
    future[1024 + 0x63] |= 0x40;
    std::fs::write(at("future"), future).unwrap();
    let kinds = [("swap", "82"), ("luks", "83"), ("exfat", "7"), ("future", "83")];
    let volumes = kinds.map(|(name, kind)| (at(name), kind));
    disk_of(&volumes.each_ref().map(|(path, kind)| (path.as_path(), *kind)), &at("disk.raw"));

    let store = at("store");
    let error = run_failing(mif(&store).args(["import", "--strict"]).arg(at("disk.raw")), 3);
    assert!(error.contains("FEATURE_I30"), "{error}");
    let report: serde_json::Value =
        serde_json::from_str(&run(mif(&store).args(["import", "--json"]).arg(at("disk.raw")))).unwrap();
    let warnings = report["warnings"].as_array().unwrap();
    assert!(warnings.len() == 1 && warnings[0].as_str().unwrap().contains("FEATURE_I30"), "{warnings:?}");
    assert_eq!((&report["counts"]["content_bytes"], &report["counts"]["files"]), (&0.into(), &0.into()));
    let info = run(mif(&store).args(["info", "disk"]));
    for (volume, name) in [("p1 ", ": swap"), ("p2 ", ": crypto_LUKS"), ("p3 ", ": exfat")] {
        let said = |line: &str| line.trim_start().starts_with(volume) && line.contains(name);
        assert!(info.lines().any(said), "{info}");
    }
    run(mif(&store).args(["export", "disk"]).arg(at("out.raw")));
    assert!(std::fs::read(at("out.raw")).unwrap() == std::fs::read(at("disk.raw")).unwrap());
}
