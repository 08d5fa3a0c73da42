//! Backing files that are found at their current place, files that are no disks, and disks that only claim a size.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mif_tests::{have, mif, run, run_failing, tool, work_folder};
use serde_json::Value;

const MIB: usize = 1 << 20;

fn disk(path: &Path) -> Vec<u8> {
    let mut bytes = vec![0; 4 * MIB];
    for (i, block) in bytes.chunks_mut(64 << 10).enumerate() {
        block[..4096].fill(i as u8 + 1);
    }
    fs::write(path, &bytes).unwrap();
    bytes
}

fn qemu_img(folder: &Path, arguments: &str) {
    run(tool("qemu-img").current_dir(folder).args(arguments.split_whitespace()));
}

fn images(store: &Path) -> Vec<String> {
    let json: Value = serde_json::from_str(&run(mif(store).args(["images", "--json"]))).unwrap();
    let mut names: Vec<String> =
        json.as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn what_is_no_disk_is_refused_unless_the_user_insists() {
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    disk(&at("d.raw"));
    fs::create_dir(at("w")).unwrap();
    for (name, magic) in
        [("d.lz", &b"LZIP\x01"[..]), ("d.bochs", b"Bochs Virtual HD Image"), ("d.7z", b"7z\xbc\xaf\x27\x1c")]
    {
        fs::write(at(&format!("w/{name}")), [magic, &[1; 4096]].concat()).unwrap();
    }
    fs::write(at("w/notes.raw"), "one\ntwo\n").unwrap();
    for entry in fs::read_dir(at("w")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.display().to_string();
        for verb in ["import", "info", "convert"] {
            let mut command = mif(&at("s"));
            command.arg(verb).arg(&path);
            if verb == "convert" {
                command.arg(at("out.raw"));
            }
            let error = run_failing(&mut command, 4);
            assert!(error.contains("--format raw") && error.contains(&name), "{verb} {name}: {error}");
            assert!(!at("out.raw").exists());
        }
        run(mif(&at("s")).arg("convert").arg(&path).arg(at("out.raw")).args(["--format", "raw"]));
        assert!(fs::read(at("out.raw")).unwrap() == fs::read(&path).unwrap(), "{name}");
        fs::remove_file(at("out.raw")).unwrap();
    }
    // In a directory they are passed over, and the disk is imported.
    fs::copy(at("d.raw"), at("w/disk.raw")).unwrap();
    let said = run(mif(&at("s2")).arg("import").arg(at("w")));
    assert!(said.contains("lzip data") && said.contains("a Bochs image"), "{said}");
    assert_eq!(images(&at("s2")), ["disk"]);
}

#[test]
fn a_base_is_found_in_the_folder_that_was_named_or_where_the_user_says() {
    if !have(&["qemu-img"]) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let bytes = disk(&at("d.raw"));
    fs::create_dir_all(at("lib/base")).unwrap();
    fs::create_dir_all(at("lib/vm/deep")).unwrap();
    qemu_img(&at("lib/base"), "convert -f raw -O qcow2 ../../d.raw base.qcow2");
    qemu_img(&at("lib/vm"), "create -q -f qcow2 -F qcow2 -b ../base/base.qcow2 one.qcow2");
    qemu_img(&at("lib/vm/deep"), "create -q -f qcow2 -F qcow2 -b ../one.qcow2 two.qcow2");
    // If it is named alone, it may only open files in its own directory.
    let error = run_failing(mif(&at("s")).arg("import").arg(at("lib/vm/one.qcow2")), 3);
    assert!(error.contains("outside its own directory"), "{error}");
    run(mif(&at("s")).arg("import").arg(at("lib")));
    assert_eq!(images(&at("s")), ["base", "one", "two"]);
    for image in images(&at("s")) {
        run(mif(&at("s")).args(["export", &image]).arg(at("out.raw")).arg("--force"));
        assert!(fs::read(at("out.raw")).unwrap() == bytes, "{image}");
    }
    // Comparing the library with itself works the same way.
    run(mif(&at("s")).args(["verify", "--all", "--against"]).arg(at("lib")));
    // Moved: the user names each level.
    fs::create_dir(at("moved")).unwrap();
    fs::rename(at("lib/base/base.qcow2"), at("moved/golden.qcow2")).unwrap();
    fs::rename(at("lib/vm/one.qcow2"), at("moved/middle.qcow2")).unwrap();
    let two = at("lib/vm/deep/two.qcow2");
    let error = run_failing(mif(&at("s")).arg("info").arg(&two).arg("--allow-path").arg(at("lib")), 3);
    assert!(error.contains("--parent"), "{error}");
    let convert = |parents: &[&str], code: i32| {
        let mut command = mif(&at("s"));
        command.arg("convert").arg(&two).arg(at("out.raw")).arg("--force");
        for parent in parents {
            command.arg("--parent").arg(at(parent));
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{parents:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    convert(&["moved/middle.qcow2", "moved/golden.qcow2"], 0);
    assert!(fs::read(at("out.raw")).unwrap() == bytes);
    convert(&["moved/middle.qcow2"], 3);
    let error = convert(&["moved/middle.qcow2", "moved/golden.qcow2", "d.raw"], 4);
    assert!(error.contains("has no parent"), "{error}");
    let error = run_failing(mif(&at("s")).arg("import").arg(at("lib")).arg("--parent").arg(at("d.raw")), 2);
    assert!(error.contains("--parent"), "{error}");
}

#[test]
fn names_that_qemu_writes_as_json_are_read_and_the_corrupt_bit_is_said() {
    if !have(&["qemu-img"]) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let bytes = disk(&at("d.raw"));
    qemu_img(work.path(), "convert -f raw -O qcow2 d.raw base.qcow2");
    for (base, format) in [
        (r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"base.qcow2"}}"#, "qcow2"),
        (r#"json:{"file.filename":"base.qcow2","driver":"qcow2"}"#, "qcow2"),
        (r#"json:{"driver":"raw","file":{"driver":"file","filename":"d.raw"}}"#, "raw"),
    ] {
        let create = ["create", "-q", "-f", "qcow2", "-F", format, "-b", base, "over.qcow2", "4M"];
        run(tool("qemu-img").current_dir(work.path()).args(create));
        qemu_img(work.path(), "convert -O raw over.qcow2 theirs.raw");
        run(mif(&at("s")).arg("convert").arg(at("over.qcow2")).arg(at("ours.raw")).arg("--force"));
        assert!(fs::read(at("ours.raw")).unwrap() == bytes, "{base}");
        assert!(fs::read(at("theirs.raw")).unwrap() == bytes, "{base}");
    }
    // A part of a file is a different disk.
    let base = r#"json:{"driver":"raw","offset":65536,"file":{"driver":"file","filename":"d.raw"}}"#;
    let create = ["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", base, "over.qcow2", "4M"];
    run(tool("qemu-img").current_dir(work.path()).args(create));
    let error = run_failing(mif(&at("s")).arg("info").arg(at("over.qcow2")), 4);
    assert!(error.contains("offset"), "{error}");
    let mut corrupt = fs::read(at("base.qcow2")).unwrap();
    corrupt[79] |= 2;
    fs::write(at("corrupt.qcow2"), corrupt).unwrap();
    let output = mif(&at("s")).arg("convert").arg(at("corrupt.qcow2")).arg(at("out.raw")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("marked corrupt"), "{said}");
    assert!(fs::read(at("out.raw")).unwrap() == bytes);
    run_failing(mif(&at("s")).arg("import").arg("--strict").arg(at("corrupt.qcow2")), 3);
}

#[test]
fn a_base_with_a_colon_in_its_name_is_written_as_a_file() {
    if !have(&["qemu-img"]) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let bytes = disk(&at("d.raw"));
    for base in ["base:1.raw", "nbd:localhost:1"] {
        fs::copy(at("d.raw"), at(base)).unwrap();
        let convert = |more: &[&str]| {
            let mut command = mif(&at("s"));
            command.current_dir(work.path()).args(["convert", "d.raw", "top.qcow2", "--force"]).args(more);
            command
        };
        run(&mut convert(&["--backing", base]));
        run(mif(&at("s")).arg("convert").arg(at("top.qcow2")).arg(at("ours.raw")).arg("--force"));
        qemu_img(work.path(), "convert -O raw top.qcow2 theirs.raw");
        assert!(fs::read(at("ours.raw")).unwrap() == bytes && fs::read(at("theirs.raw")).unwrap() == bytes);
        let option = format!("backing_file={base}");
        let error = run_failing(&mut convert(&["-o", &option]), 4);
        assert!(error.contains("colon"), "{error}");
        run(&mut convert(&["-o", &format!("backing_file=./{base}")]));
    }
}

#[test]
fn a_deep_chain_takes_time_by_its_depth() {
    if !have(&["qemu-img"]) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let bytes = disk(&at("d.raw"));
    qemu_img(work.path(), "convert -f raw -O qcow2 d.raw o0.qcow2");
    for depth in 1..=60 {
        qemu_img(work.path(), &format!("create -q -f qcow2 -F qcow2 -b o{}.qcow2 o{depth}.qcow2", depth - 1));
    }
    let start = Instant::now();
    run(mif(&at("s")).arg("convert").arg(at("o60.qcow2")).arg(at("out.raw")));
    run(mif(&at("s")).arg("import").arg(at("o60.qcow2")).arg("--verify"));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(fs::read(at("out.raw")).unwrap() == bytes);
}

#[test]
fn a_claim_is_no_work() {
    if !have(&["qemu-img"]) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let tiny =
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n";
    fs::write(at("tiny.vmdk"), format!("{tiny}RW 140737488355328 ZERO\n")).unwrap();
    let error = run_failing(mif(&at("s")).arg("import").arg(at("tiny.vmdk")), 3);
    assert!(error.contains("sectors"), "{error}");
    fs::write(at("most.vmdk"), format!("{tiny}RW 2199023255552 ZERO\n")).unwrap();
    qemu_img(work.path(), "create -q -f qcow2 -o cluster_size=2M large.qcow2 2E");
    run_failing(mif(&at("s")).arg("import").arg(at("large.qcow2")), 3);
    qemu_img(work.path(), "create -q -f qcow2 a.qcow2 1P");
    qemu_img(work.path(), "create -q -f vpc b.vhd 2000G");
    qemu_img(work.path(), "create -q -f vdi c.vdi 8T");
    qemu_img(work.path(), "create -q -f vhdx d.vhdx 60T");
    qemu_img(work.path(), "create -q -f vmdk e.vmdk 4T");
    let start = Instant::now();
    for name in ["most.vmdk", "a.qcow2", "b.vhd", "c.vdi", "d.vhdx", "e.vmdk"] {
        run(mif(&at("s")).arg("import").arg(at(name)).arg("--verify"));
    }
    run(mif(&at("s")).arg("verify").arg(at("a.qcow2")).arg("a"));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn a_folder_of_esxi_or_virtualbox_gives_its_disks() {
    if !have(&["qemu-img"]) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let bytes = disk(&at("d.raw"));
    fs::create_dir(at("esxi")).unwrap();
    fs::copy(at("d.raw"), at("esxi/vm-flat.vmdk")).unwrap();
    let descriptor = "# Disk DescriptorFile\nversion=3\nencoding=\"UTF-8\"\nCID=1b2c3d4e\nparentCID=ffffffff\n\
                      createType=\"vmfs\"\nRW 8192 VMFS \"vm-flat.vmdk\"\nchangeTrackPath=\"vm-ctk.vmdk\"\n";
    fs::write(at("esxi/vm.vmdk"), descriptor).unwrap();
    let tracking = [&[0xa9, 0x2b, 0xa7, 0xa2, 1, 0, 0, 0][..], &[0; 600], &[0x5a; 4000]].concat();
    fs::write(at("esxi/vm-ctk.vmdk"), tracking).unwrap();
    fs::write(at("esxi/vm.vmx"), ".encoding = \"UTF-8\"\n").unwrap();
    let said = run(mif(&at("s")).arg("import").arg(at("esxi")));
    assert!(said.contains("change-tracking"), "{said}");
    assert_eq!(images(&at("s")), ["vm"]);
    // VirtualBox: the base disk, and a differencing disk that identifies it only by UUID.
    fs::create_dir_all(at("box/Snapshots")).unwrap();
    run(mif(&at("s")).arg("convert").arg(at("d.raw")).arg(at("box/vm.vdi")));
    let base = fs::read(at("box/vm.vdi")).unwrap();
    let mut own = vec![0; 4 * MIB];
    own[MIB..2 * MIB].fill(9);
    fs::write(at("own.raw"), &own).unwrap();
    run(mif(&at("s")).arg("convert").arg(at("own.raw")).arg(at("own.vdi")));
    let mut child = fs::read(at("own.vdi")).unwrap();
    child[76] = 4;
    child[424..456].copy_from_slice(&base[392..424]);
    fs::write(at("box/Snapshots/{11111111-2222-4333-8444-555555555555}.vdi"), child).unwrap();
    run(mif(&at("s2")).arg("import").arg(at("box")));
    let names = images(&at("s2"));
    assert_eq!(names.len(), 2, "{names:?}");
    let mut expected = bytes;
    expected[MIB..2 * MIB].fill(9);
    let snapshot = names.iter().find(|name| *name != "vm").unwrap();
    run(mif(&at("s2")).args(["export", snapshot]).arg(at("out.raw")));
    assert!(fs::read(at("out.raw")).unwrap() == expected);
}
