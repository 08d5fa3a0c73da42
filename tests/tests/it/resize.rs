//! Disks that are exported with another size or new identities: checked with sfdisk, sgdisk, e2fsck, fsck.fat and
//! blkid, and booted.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use mif_tests::disk::{Part, TOOLS, assert_gpt, assert_sound, blkid, cut, parts};
use mif_tests::{have, mif, repo, run, run_failing, tool, work_folder};
use serde_json::Value;

pub(crate) const MIB: u64 = 1 << 20;

/// Returns a store with the committed disk, and the disk as a raw file.
fn demo(work: &Path) -> (PathBuf, PathBuf) {
    let store = work.join("store");
    run(mif(&store).args(["import", "--name", "disk"]).arg(repo().join("fixtures/demo.qcow2")));
    let raw = work.join("disk.raw");
    run(mif(&store).args(["export", "disk"]).arg(&raw));
    (store, raw)
}

pub(crate) fn export(store: &Path, to: &Path, options: &[&str]) -> Value {
    let json = run(mif(store).args(["export", "disk", "--force", "--json"]).arg(to).args(options));
    serde_json::from_str(&json).unwrap()
}

fn bytes(disk: &Path, start: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    fs::File::open(disk).unwrap().read_exact_at(&mut bytes, start).unwrap();
    bytes
}

pub(crate) fn of_slot(parts: &[Part], slot: u32) -> Part {
    parts.iter().find(|part| part.slot == slot).expect("the slot").clone()
}

/// Asserts with `verify` that two disks have the same files.
fn same_files(store: &Path, a: &Path, b: &Path) {
    run(mif(store).args(["verify", "--files"]).arg(a).arg(b));
}

#[test]
fn a_larger_disk_keeps_its_partitions_and_every_bit_of_them() {
    let work = work_folder();
    if !have(TOOLS) {
        return;
    }
    let (store, raw) = demo(work.path());
    let large = work.path().join("large.raw");
    let size = raw.metadata().unwrap().len() + 64 * MIB;
    let report = export(&store, &large, &["--size", "+64M"]);
    assert_eq!(report["disk_size"].as_u64(), Some(size));
    assert_eq!(report["planned"].as_array().unwrap().len(), 0);
    assert_gpt(&large);
    assert_sound(&large, work.path());
    assert_eq!(parts(&large), parts(&raw));
    for part in parts(&raw) {
        assert!(bytes(&large, part.start, part.len) == bytes(&raw, part.start, part.len), "{part:?}");
    }
    // Boot code stays, and the backup is at the end and nowhere else.
    assert_eq!(bytes(&large, 0, 440), bytes(&raw, 0, 440));
    assert_eq!(bytes(&large, size - 512, 8), b"EFI PART");
    assert!(bytes(&large, size - 64 * MIB - 512, 512).iter().all(|b| *b == 0), "the old backup is gone");
    // Importing the disk that the program wrote gives that disk.
    run(mif(&store).args(["import", "--verify", "--strict", "--name", "large"]).arg(&large));
}

#[test]
fn volumes_grow_shrink_and_make_room_for_each_other() {
    let work = work_folder();
    if !have(TOOLS) {
        return;
    }
    let (store, raw) = demo(work.path());
    let before = parts(&raw);
    let mut tried = 0;
    for Part { slot, .. } in before.clone() {
        for size in ["+40M", "max", "min", "96M"] {
            let out = work.path().join("out.raw");
            let option = format!("p{slot}={size}");
            let disk = if size == "min" { "min" } else { "+128M" };
            let output = mif(&store)
                .args(["export", "disk", "--force", "--size", disk, "--resize", &option])
                .arg(&out)
                .output()
                .unwrap();
            let old = of_slot(&before, slot);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if !output.status.success() {
                // GRUB's own partition cannot shrink, and data that boot code depends on may not move.
                assert!(slot == 14 && said.contains("no filesystem"), "{option}: {said}");
                continue;
            }
            tried += 1;
            assert_gpt(&out);
            assert_sound(&out, work.path());
            let after = parts(&out);
            let new = of_slot(&after, slot);
            match size {
                "+40M" => assert_eq!(new.len, old.len + 40 * MIB),
                "96M" => assert_eq!(new.len, 96 * MIB),
                "max" => assert!(new.len >= old.len + 120 * MIB, "{option}: {new:?}"),
                _ => assert!(new.len < old.len, "{option}: {new:?}"),
            }
            for part in before.iter().filter(|part| part.slot != slot) {
                assert_eq!(of_slot(&after, part.slot).len, part.len, "{option}");
            }
            same_files(&store, &raw, &out);
            fs::remove_file(&out).unwrap();
        }
    }
    assert!(tried >= 6, "{tried}");
}

#[test]
fn what_cannot_be_is_refused_and_nothing_is_written() {
    let work = work_folder();
    let (store, raw) = demo(work.path());
    let out = work.path().join("out.raw");
    let before = mif_tests::snapshot(&store);
    let len = raw.metadata().unwrap().len().to_string();
    for (options, code, says) in [
        (&["--size", "1M"][..], 3, "no room"),
        (&["--resize", "p1=1M"], 3, "p1"),
        (&["--resize", "p77=+1G"], 3, "no such volume: p77"),
        (&["--resize", "p1=lots"], 2, "invalid size"),
        (&["--resize", "p1"], 2, "VOLUME=SIZE"),
        (&["--resize", "p1=+1M", "--resize", "p1=+2M"], 2, "twice"),
        (&["--size", "-999G"], 3, &len),
        (&["--seed", "x"], 2, "--new-ids"),
    ] {
        let error = run_failing(mif(&store).args(["export", "disk"]).arg(&out).args(options), code);
        assert!(error.contains(says), "{options:?}: {error}");
        assert!(!out.exists(), "{options:?}");
    }
    assert_eq!(mif_tests::snapshot(&store), before);
}

#[test]
fn an_mbr_with_logical_partitions_is_resized_and_its_chain_follows() {
    let tools = [TOOLS, &["mke2fs", "mkfs.fat"]].concat();
    if !have(&tools) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let disk = at("disk.raw");
    fs::File::create(&disk).unwrap().set_len(100 * MIB).unwrap();
    let script = "label: dos\nlabel-id: 0x12345678\n1 : start=2048, size=32768, type=6, bootable\n\
        2 : start=36864, size=165888, type=f\n5 : start=38912, size=65536, type=83\n\
        6 : start=106496, size=65536, type=83\n";
    fs::write(at("script"), script).unwrap();
    run(tool("sh").args(["-c", "sfdisk -q \"$1\" < \"$2\"", "sh"]).arg(&disk).arg(at("script")));
    fs::create_dir(at("tree")).unwrap();
    fs::write(at("tree/file"), vec![b'x'; 3_000_000]).unwrap();
    for start in [38_912, 106_496] {
        let offset = format!("offset={}", start * 512);
        run(tool("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-E", &offset, "-d"])
            .arg(at("tree"))
            .arg(&disk)
            .arg("32M"));
    }
    run(tool("mkfs.fat").args(["-F", "16", "--offset", "2048"]).arg(&disk).arg("16384"));
    let store = at("store");
    run(mif(&store).args(["import", "--name", "disk"]).arg(&disk));
    let before = parts(&disk);
    let out = at("out.raw");
    export(&store, &out, &["--size", "+10M"]);
    run(tool("cmp").arg("-n").arg(disk.metadata().unwrap().len().to_string()).arg(&disk).arg(&out));
    for (option, slot, more) in [
        ("p6=+30M", 6, 30 * MIB as i64),
        ("p5=+8M", 5, 8 * MIB as i64),
        ("p1=+4M", 1, 4 * MIB as i64),
        ("p6=-9M", 6, -9 * MIB as i64),
    ] {
        export(&store, &out, &["--resize", option]);
        let kinds: Vec<String> = assert_sound(&out, work.path()).into_iter().map(|(_, kind)| kind).collect();
        assert_eq!(kinds, ["vfat", "ext4", "ext4"], "{option}");
        let after = parts(&out);
        let grown = of_slot(&after, slot).len as i64 - of_slot(&before, slot).len as i64;
        assert_eq!(grown, more, "{option}");
        for part in before.iter().filter(|part| part.slot != slot) {
            let new = of_slot(&after, part.slot);
            assert!(
                bytes(&out, new.start, new.len) == bytes(&disk, part.start, part.len),
                "{option}: {part:?}"
            );
        }
        same_files(&store, &disk, &out);
        run(mif(&store)
            .args(["import", "--new-version", "--strict", "--verify", "--name", "again"])
            .arg(&out));
    }
}

#[test]
fn fresh_identities_are_new_everywhere_and_the_same_from_the_same_seed() {
    if !have(&[TOOLS, &["mke2fs", "mkfs.fat", "mmd", "mcopy", "mkswap"]].concat()) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let (store, raw) = (at("store"), at("disk.raw"));
    fs::File::create(&raw).unwrap().set_len(100 * MIB).unwrap();
    let root = "6d69662d-6465-6269-616e-0000000000A1".to_lowercase();
    run(tool("sgdisk")
        .args(["-n", "1:2048:+40M", "-n", "2:0:+40M", "-t", "2:EF00", "-n", "3:0:+8M"])
        .arg(&raw));
    let part_id = run(tool("sgdisk").args(["-i", "1"]).arg(&raw));
    let part_id = part_id.lines().find_map(|line| line.strip_prefix("Partition unique GUID: ")).unwrap();
    let swap = "12345678-1234-4321-8765-123456789abc";
    fs::create_dir_all(at("tree/etc/default")).unwrap();
    fs::create_dir_all(at("tree/boot/grub")).unwrap();
    let fstab = format!(
        "UUID={root} / ext4\nUUID=4D49-4603 /boot/efi vfat\nUUID={swap} none swap\nPARTUUID={part_id} /x ext4\n"
    );
    fs::write(at("tree/etc/fstab"), fstab).unwrap();
    fs::write(at("tree/etc/default/grub"), format!("GRUB_CMDLINE_LINUX=\"resume=UUID={swap}\"\n")).unwrap();
    fs::write(at("tree/boot/grub/grub.cfg"), format!("search --fs-uuid --set=root {root}\n")).unwrap();
    fs::write(at("tree/etc/binary"), format!("\0{root}\0")).unwrap();
    run(tool("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-U", &root, "-E", "offset=1048576", "-d"])
        .arg(at("tree"))
        .arg(&raw)
        .arg("40M"));
    run(tool("mkfs.fat")
        .args(["-F", "32", "-s", "1", "-i", "4D494603", "--offset", "83968"])
        .arg(&raw)
        .arg("40960"));
    fs::write(at("esp.cfg"), format!("search.fs_uuid {root} root\n")).unwrap();
    let esp = format!("{}@@42991616", raw.display());
    run(tool("mmd").args(["-i", &esp, "::/EFI", "::/EFI/debian"]));
    run(tool("mcopy").args(["-i", &esp]).arg(at("esp.cfg")).arg("::/EFI/debian/grub.cfg"));
    fs::File::create(at("swap")).unwrap().set_len(8 * MIB).unwrap();
    run(tool("mkswap").args(["-q", "-U", swap]).arg(at("swap")));
    let disk = fs::OpenOptions::new().write(true).open(&raw).unwrap();
    disk.write_all_at(&fs::read(at("swap")).unwrap(), 84_934_656).unwrap();
    run(mif(&store).args(["import", "--name", "disk"]).arg(&raw));
    let identities = |disk: &Path| -> Vec<String> {
        let mut found = Vec::new();
        let json: Value = serde_json::from_str(&run(tool("sfdisk").arg("--json").arg(disk))).unwrap();
        found.push(json["partitiontable"]["id"].as_str().unwrap().to_owned());
        for part in json["partitiontable"]["partitions"].as_array().unwrap() {
            found.push(part["uuid"].as_str().unwrap().to_owned());
        }
        for part in parts(disk) {
            cut(disk, part.start, part.len, &at("volume"));
            found.extend(Some(blkid(&at("volume"), "UUID")).filter(|uuid| !uuid.is_empty()));
        }
        found
    };
    let (a, b, c) = (at("a.raw"), at("b.raw"), at("c.raw"));
    let report = export(&store, &a, &["--new-ids", "--seed", "one"]);
    export(&store, &b, &["--new-ids", "--seed", "one"]);
    export(&store, &c, &["--new-ids"]);
    run(tool("cmp").arg(&a).arg(&b));
    assert_gpt(&a);
    assert_sound(&a, work.path());
    let (old, new, random) = (identities(&raw), identities(&a), identities(&c));
    assert!(old.len() == 7 && old.len() == new.len(), "{old:?} {new:?}");
    for ((old, new), random) in old.iter().zip(&new).zip(&random) {
        assert!(old != new && new != random && random.len() == old.len(), "{old} {new} {random}");
    }
    // The rewritten files contain the new identities, and no text file contains an old one.
    let rewritten: Vec<&str> =
        report["ids"]["rewritten"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
    assert_eq!(
        rewritten,
        ["p1:/boot/grub/grub.cfg", "p1:/etc/default/grub", "p1:/etc/fstab", "p2:/EFI/debian/grub.cfg"]
    );
    assert!(
        report["ids"]["left"].to_string().contains("p1:/etc/binary: contains an old identity"),
        "{report}"
    );
    for path in rewritten {
        let text = run(mif(&store).arg("cat").arg(&a).arg(path)).to_lowercase();
        assert!(old.iter().all(|old| !text.contains(&old.to_lowercase())), "{path}: {text}");
        assert!(new.iter().any(|new| text.contains(&new.to_lowercase())), "{path}: {text}");
    }
}
