//! Disks from trees and descriptions: checked with sfdisk, sgdisk, e2fsck, fsck.fat, blkid, debugfs and mtools, and
//! booted.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mif_tests::disk::{TOOLS, assert_gpt, assert_sound, blkid, cut, parts};
use mif_tests::listing::{self, compare};
use mif_tests::{debian, have, json, mif, repo, run, run_failing, snapshot, tool, work_folder};

const ROOT: &str = "6d69662d-6465-6269-616e-000000000001";

fn gpt() -> String {
    format!(
        "table = \"gpt\"\n\
         size = \"160M\"\n\
         id = \"6D69662D-6465-6269-616E-000000000000\"\n\
         [[volume]]\nslot = 15\nmount = \"/boot/efi\"\nfs = \"fat32\"\nsize = \"40M\"\nlabel = \"esp\"\nuuid = \"4D49-4603\"\n\
         [[volume]]\nslot = 3\nfs = \"swap\"\nsize = \"8M\"\nlabel = \"swap\"\n\
         [[volume]]\nslot = 1\nmount = \"/\"\nfs = \"ext4\"\nlabel = \"mif-root\"\nname = \"the root\"\nuuid = \"{ROOT}\"\n"
    )
}

fn make_tree(work: &Path) -> PathBuf {
    let tree = work.join("tree");
    fs::create_dir_all(tree.join("boot/efi/EFI/BOOT")).unwrap();
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::write(tree.join("boot/efi/EFI/BOOT/a long name.efi"), vec![5; 70_000]).unwrap();
    fs::write(tree.join("etc/fstab"), format!("UUID={ROOT} / ext4 defaults 0 1\n")).unwrap();
    fs::write(tree.join("etc/empty"), "").unwrap();
    let program = tree.join("program");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4711)).unwrap();
    fs::hard_link(&program, tree.join("etc/program")).unwrap();
    std::os::unix::fs::symlink("../program", tree.join("etc/link")).unwrap();
    let sparse = fs::File::create(tree.join("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    sparse.write_all_at(&[1; 9000], 500 << 20).unwrap();
    // More files than a sixteenth of the volume's default inodes, and a directory with an index.
    fs::create_dir(tree.join("many")).unwrap();
    for i in 0..3000 {
        fs::write(tree.join(format!("many/file {i}")), format!("{i}\n")).unwrap();
    }
    run(tool("setfattr").args(["-n", "user.note", "-v", "0x0a0035000a"]).arg(tree.join("etc/fstab")));
    run(tool("find").arg(&tree).args(["-exec", "touch", "-h", "-d", "@1600000000", "{}", "+"]));
    tree
}

fn build(store: &Path, description: &Path, tree: &Path) {
    let mut build = mif(store);
    build.args(["build", "--as", "disk", "--seed", "one", "--time", "1700000000"]);
    run(build.arg(description).arg(tree));
}

#[test]
fn a_disk_of_a_folder_is_what_the_tools_expect_and_the_same_from_a_tar() {
    let tools = [TOOLS, &["debugfs", "mcopy", "setfattr", "tar", "find"]].concat();
    if !have(&tools) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let tree = make_tree(work.path());
    fs::write(at("disk.toml"), gpt()).unwrap();
    let (store, raw) = (at("store"), at("disk.raw"));
    build(&store, &at("disk.toml"), &tree);
    run(mif(&store).args(["export", "disk"]).arg(&raw));
    assert_gpt(&raw);
    let kinds: Vec<(u32, String)> =
        assert_sound(&raw, work.path()).into_iter().map(|(part, kind)| (part.slot, kind)).collect();
    assert_eq!(kinds.len(), 3);
    for (slot, kind, uuid, label) in
        [(1, "ext4", ROOT, "mif-root"), (3, "swap", "", "swap"), (15, "vfat", "4D49-4603", "ESP")]
    {
        assert!(kinds.contains(&(slot, kind.to_owned())), "{kinds:?}");
        let part = parts(&raw).into_iter().find(|part| part.slot == slot).unwrap();
        cut(&raw, part.start, part.len, &at("volume"));
        assert_eq!(blkid(&at("volume"), "LABEL"), label);
        assert!(uuid.is_empty() || blkid(&at("volume"), "UUID") == uuid);
    }
    // The layout is canonical: importing the disk finds this image.
    let report = run(mif(&store).args(["import", "--json", "--name", "imported"]).arg(&raw));
    assert!(report.contains("\"same_as\":[\"disk@1\"]"), "{report}");
    // The manifest agrees with sfdisk, debugfs and mtools, and with the tree.
    run(tool(repo().join("fixtures/list-disk")).arg(&raw).arg(at("tools")));
    compare(&listing::of_image(&store, "disk"), &listing::of_tools(&at("tools")));
    run(mif(&store).args(["extract", "disk", "p1:/", "--privileged", "-o"]).arg(at("out")));
    run(mif(&store).args(["extract", "disk", "p15:/", "--as", "folder", "-o"]).arg(at("esp")));
    let script = "cd \"$1\" && find . ! -path './lost+found*' ! -path './boot/efi*' -printf '%P %y %m %U %G %T@ %l\\n' | sort
        cd \"$2\" && find . -type f -printf '%P %T@\\n' | sort";
    let said = |root: PathBuf, esp: PathBuf| run(tool("sh").args(["-c", script, "sh"]).arg(root).arg(esp));
    assert_eq!(said(at("out"), at("esp")), said(tree.clone(), tree.join("boot/efi")));
    let differs = tool("diff")
        .args(["-r", "--no-dereference", "-x", "lost+found", "-x", "efi"])
        .arg(at("out"))
        .arg(&tree)
        .output();
    assert_eq!(String::from_utf8_lossy(&differs.unwrap().stdout), "");
    // A tar gives the same bits in each format that keeps everything, and also through a pipe.
    for format in ["pax", "gnu"] {
        let tar = at("tree.tar");
        let mut command = tool("tar");
        command.args(["--format", format, "-S", "-cf"]).arg(&tar);
        if format == "pax" {
            command.args(["--xattrs", "--xattrs-include=*"]);
        }
        run(command.arg("-C").arg(&tree).arg("."));
        let other = at("other-store");
        build(&other, &at("disk.toml"), &tar);
        run(mif(&other).args(["export", "disk", "--force"]).arg(at("tar.raw")));
        if format == "pax" {
            run(tool("cmp").arg(&raw).arg(at("tar.raw")));
        } else {
            // GNU's format has no xattrs.
            assert_sound(&at("tar.raw"), work.path());
            run(mif(&other).args(["cat", "disk", "/many/file 2999"]));
        }
        fs::remove_dir_all(&other).unwrap();
    }
    let piped = "tar --format pax --xattrs -S -C \"$2\" -cf - . | \"$1\" --store \"$4\" build \"$3\" - --as disk --seed one --time 1700000000";
    run(tool("sh")
        .args(["-c", piped, "sh"])
        .arg(mif_tests::mif_path())
        .arg(&tree)
        .arg(at("disk.toml"))
        .arg(at("piped")));
    run(mif(&at("piped")).args(["verify", "disk"]).arg(&raw));
    // The tar from an extraction builds the same root again.
    run(mif(&store).args(["extract", "disk", "-o"]).arg(at("root.tar")));
    fs::write(
        at("root.toml"),
        "table = \"none\"\n[[volume]]\nmount = \"/\"\nfs = \"ext2\"\nsize = \"min\"\n",
    )
    .unwrap();
    build(&at("again"), &at("root.toml"), &at("root.tar"));
    run(mif(&at("again")).args(["export", "disk"]).arg(at("root.raw")));
    run(tool("e2fsck").arg("-fn").arg(at("root.raw")));
}

#[test]
fn an_mbr_disk_with_boot_code_is_made() {
    if !have(TOOLS) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    fs::create_dir(at("tree")).unwrap();
    fs::write(at("tree/file"), "x").unwrap();
    fs::write(at("code"), vec![0x90; 512]).unwrap();
    fs::write(at("core"), vec![0xC0; 30_000]).unwrap();
    let text = "table = \"mbr\"\nid = \"1234abcd\"\n[boot]\nmbr = \"code\"\ncore = \"core\"\n\
        [[volume]]\nmount = \"/\"\nfs = \"ext2\"\nsize = \"+4M\"\nactive = true\n\
        [[volume]]\nfs = \"fat\"\nsize = \"20M\"\n";
    fs::write(at("disk.toml"), text).unwrap();
    build(&at("store"), &at("disk.toml"), &at("tree"));
    run(mif(&at("store")).args(["export", "disk"]).arg(at("disk.raw")));
    let sound = assert_sound(&at("disk.raw"), work.path());
    assert_eq!(sound.iter().map(|(_, kind)| kind.as_str()).collect::<Vec<_>>(), ["ext2", "vfat"]);
    let dump = run(tool("sfdisk").arg("-d").arg(at("disk.raw")));
    assert!(dump.contains("label-id: 0x1234abcd") && dump.contains("type=83, bootable"), "{dump}");
    let bytes = fs::read(at("disk.raw")).unwrap();
    assert!(bytes[..440] == [0x90; 440] && bytes[512..30_512] == [0xC0; 30_000]);
}

#[test]
fn a_disk_for_sectors_of_4096_bytes_has_no_smaller_units() {
    if !have(&["fdisk", "sgdisk", "e2fsck", "fsck.fat", "mdir"]) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    fs::create_dir_all(at("tree/boot/efi/EFI/BOOT")).unwrap();
    fs::write(at("tree/boot/efi/EFI/BOOT/BOOTX64.EFI"), vec![5; 70_000]).unwrap();
    fs::write(at("tree/file"), "x").unwrap();
    // An ext4 of this size has blocks of 1 KiB otherwise.
    let volumes = "[[volume]]\nslot = 3\nmount = \"/boot/efi\"\nfs = \"fat\"\nsize = \"40M\"\n\
        [[volume]]\nslot = 2\nfs = \"swap\"\nsize = \"8M\"\n\
        [[volume]]\nslot = 1\nmount = \"/\"\nfs = \"ext4\"\nsize = \"64M\"\n";
    for (table, align, first) in [("gpt", "1M", 256), ("mbr", "1M", 256), ("gpt", "4K", 6), ("mbr", "4K", 1)]
    {
        let text = format!("table = \"{table}\"\nalign = \"{align}\"\nsector-size = 4096\n{volumes}");
        fs::write(at("disk.toml"), text).unwrap();
        build(&at("store"), &at("disk.toml"), &at("tree"));
        run(mif(&at("store")).args(["export", "disk", "--force"]).arg(at("disk.raw")));
        let listed =
            run(tool("fdisk").args(["-b", "4096", "-l", "-o", "Device,Start,Sectors"]).arg(at("disk.raw")));
        let places: Vec<Vec<u64>> = (1..=3)
            .map(|slot| {
                let name = format!("disk.raw{slot} ");
                let line = listed.lines().find_map(|line| line.split_once(&name)).expect("it is listed").1;
                line.split_whitespace().map(|number| number.parse().unwrap()).collect()
            })
            .collect();
        assert_eq!(places[2], [first, 10_240], "{listed}");
        let report = json(&at("store"), &["info", "disk"]);
        assert_eq!(report["table"]["sector_size"], 4096, "{report:#}");
        cut(&at("disk.raw"), places[2][0] * 4096, 40 << 20, &at("esp"));
        run(tool("fsck.fat").arg("-n").arg(at("esp")));
        assert_eq!(fs::read(at("esp")).unwrap()[11..13], [0, 16], "4096 bytes per sector");
        assert!(
            run(tool("mdir").args(["-b", "-i"]).arg(at("esp")).arg("::/EFI/BOOT")).contains("BOOTX64.EFI")
        );
        cut(&at("disk.raw"), places[0][0] * 4096, 64 << 20, &at("root"));
        run(tool("e2fsck").arg("-fn").arg(at("root")));
        // s_log_block_size
        assert_eq!(fs::read(at("root")).unwrap()[1024 + 24], 2);
    }
    // The option takes the place of the key.
    for (key, words) in [("sector-size = 4096\n", &[][..]), ("", &["--sector-size", "4096"])] {
        fs::write(at("disk.toml"), format!("table = \"gpt\"\n{key}{volumes}")).unwrap();
        let mut build = mif(&at("store"));
        build.args(["build", "--as", "same", "--seed", "one", "--time", "1700000000"]).args(words);
        run(build.arg(at("disk.toml")).arg(at("tree")));
    }
    run(mif(&at("store")).args(["verify", "same@1", "same@2"]));
    // With sectors of 512 bytes, the table needs its first 17 KiB.
    fs::write(at("disk.toml"), format!("table = \"gpt\"\nalign = \"4K\"\n{volumes}")).unwrap();
    build(&at("store"), &at("disk.toml"), &at("tree"));
    run(mif(&at("store")).args(["export", "disk", "--force"]).arg(at("disk.raw")));
    let verified = run(tool("sgdisk").arg("-v").arg(at("disk.raw")));
    assert!(verified.contains("No problems found"), "{verified}");
    assert_sound(&at("disk.raw"), work.path());

    let small = format!("table = \"gpt\"\nsector-size = 4096\n{volumes}block-size = 1024\n");
    fs::write(at("disk.toml"), small).unwrap();
    let mut build = mif(&at("store"));
    build.args(["build", "--as", "no"]).arg(at("disk.toml")).arg(at("tree"));
    let error = run_failing(&mut build, 4);
    assert!(error.contains("p1: ") && error.contains("blocks of 1024 bytes are smaller"), "{error}");
}

#[test]
fn what_cannot_be_is_refused_and_no_image_is_made() {
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    fs::create_dir_all(at("tree/sub")).unwrap();
    fs::write(at("tree/sub/a:b"), vec![1; 3 << 20]).unwrap();
    std::os::unix::fs::symlink("a", at("tree/link")).unwrap();
    let store = at("store");
    fs::write(at("ok.toml"), "table = \"none\"\n[[volume]]\nmount = \"/\"\nfs = \"ext2\"\nsize = \"min\"\n")
        .unwrap();
    run(mif(&store).arg("build").arg(at("ok.toml")).arg(at("tree")).args(["--as", "ok"]));
    let before = snapshot(&store);
    for (text, code, says) in [
        ("table = \"gpt\"\nsize = \"1M\"\n[[volume]]\nmount = \"/\"\nfs = \"ext4\"", 3, "no room"),
        ("table = \"gpt\"\n[[volume]]\nmount = \"/\"\nfs = \"ext2\"\nsize = \"2M\"", 3, "no room"),
        ("table = \"gpt\"\n[[volume]]\nmount = \"/\"\nfs = \"fat\"\nsize = \"64M\"", 4, "/link"),
        (
            "table = \"gpt\"\n[[volume]]\nmount = \"/sub\"\nfs = \"fat\"\nsize = \"64M\"",
            2,
            "belong to no volume",
        ),
        ("table = \"gpt\"\n[[volume]]\nmount = \"/link\"\nfs = \"ext2\"", 3, "must be a directory"),
        ("table = \"gpt\"\n[[volume]]\nmount = \"/\"\nfs = \"ext4\"\nuuid = \"x\"", 2, "uuid"),
        ("table = \"gpt\"\n[[volume]]\nmount = \"/\"\nfs = \"ext4\"\nfeatures = \"warp\"", 4, "warp"),
        (
            "table = \"gpt\"\n[boot]\nmbr = \"missing\"\n[[volume]]\nmount = \"/\"\nfs = \"ext4\"",
            3,
            "missing: no such file",
        ),
        ("table = ", 2, "bad.toml"),
    ] {
        fs::write(at("bad.toml"), text).unwrap();
        let mut build = mif(&store);
        let error =
            run_failing(build.arg("build").arg(at("bad.toml")).arg(at("tree")).args(["--as", "bad"]), code);
        assert!(error.contains(says), "{text}: {error}");
        assert_eq!(snapshot(&store), before, "{text}");
    }
    let both = "table = \"gpt\"\n[[volume]]\nmount = \"/\"\nfs = \"ext4\"\nsize = \"64M\"\n[[volume]]\nmount = \"/sub\"\nfs = \"fat\"\nsize = \"64M\"";
    fs::write(at("bad.toml"), both).unwrap();
    let error =
        run_failing(mif(&store).arg("build").arg(at("bad.toml")).arg(at("tree")).args(["--as", "bad"]), 4);
    assert!(error.contains("p2: ") && error.contains("a:b"), "{error}");
    assert_eq!(snapshot(&store), before);
}

/// Builds a disk from a Debian tree, and boots it with UEFI or BIOS.
pub(crate) fn built_debian_boots(efi: bool) {
    let tools = [TOOLS, &["tar", "qemu-img", "qemu-system-x86_64", "grub-mkimage"]].concat();
    if !have(&tools) {
        return;
    }
    let Some(base) = debian::tree() else { return };
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    // The boot files are a second tar on top of the tree: both are read as one.
    let over = at("over");
    fs::create_dir_all(over.join("boot/grub")).unwrap();
    fs::create_dir_all(over.join("boot/efi/EFI/BOOT")).unwrap();
    fs::create_dir_all(over.join("etc")).unwrap();
    let serial = "serial --unit=0 --speed=115200\nterminal_output serial\n";
    let config = format!(
        "{serial}search --no-floppy --fs-uuid --set=root {ROOT}\n\
         linux /vmlinuz root=UUID={ROOT} ro console=ttyS0 panic=-1\ninitrd /initrd.img\nboot\n"
    );
    fs::write(over.join("boot/grub/grub.cfg"), config).unwrap();
    fs::write(over.join("etc/fstab"), format!("UUID={ROOT} / ext4 defaults 0 1\n")).unwrap();
    fs::write(over.join("etc/hostname"), "built-here\n").unwrap();
    let config = format!(
        "search --no-floppy --fs-uuid --set=root {ROOT}\nset prefix=($root)/boot/grub\n\
         configfile ($root)/boot/grub/grub.cfg\n"
    );
    fs::write(over.join("boot/efi/EFI/BOOT/grub.cfg"), config).unwrap();
    let modules = "part_gpt ext2 serial terminal normal linux search search_fs_uuid echo";
    run(tool("grub-mkimage")
        .args(["-O", "x86_64-efi", "-p", "/EFI/BOOT", "-o"])
        .arg(over.join("boot/efi/EFI/BOOT/BOOTX64.EFI"))
        .args(["fat", "configfile"])
        .args(modules.split(' ')));
    run(tool("grub-mkimage")
        .args(["-O", "i386-pc", "-p", "(hd0,gpt1)/boot/grub", "-o"])
        .arg(at("core.img"))
        .arg("biosdisk")
        .args(modules.split(' ')));
    fs::copy("/usr/lib/grub/i386-pc/boot.img", at("boot.img")).unwrap();
    let text = format!(
        "table = \"gpt\"\nsize = \"2G\"\n[boot]\nmbr = \"boot.img\"\ncore = \"core.img\"\n\
         [[volume]]\nslot = 14\ntype = \"bios\"\nsize = \"1M\"\n\
         [[volume]]\nslot = 15\nmount = \"/boot/efi\"\nfs = \"fat32\"\nsize = \"64M\"\n\
         [[volume]]\nslot = 1\nmount = \"/\"\nfs = \"ext4\"\nuuid = \"{ROOT}\"\n"
    );
    fs::write(at("disk.toml"), text).unwrap();
    fs::copy(&base, at("tree.tar")).unwrap();
    run(tool("tar")
        .args(["--owner=0", "--group=0", "-rf"])
        .arg(at("tree.tar"))
        .arg("-C")
        .arg(&over)
        .arg("."));
    build(&at("store"), &at("disk.toml"), &at("tree.tar"));
    fs::remove_file(at("tree.tar")).unwrap();
    run(mif(&at("store")).args(["export", "disk"]).arg(at("disk.qcow2")));
    run(mif(&at("store")).args(["export", "disk"]).arg(at("disk.raw")));
    assert_gpt(&at("disk.raw"));
    assert_sound(&at("disk.raw"), work.path());
    debian::boot(&at("disk.qcow2"), efi, "built-here login:");
}
