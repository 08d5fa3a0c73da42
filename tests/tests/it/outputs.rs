//! Writing a disk: through symbolic links, over files, to block devices, to standard output.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use mif_tests::{WorkFolder, have, is_root, mif, repo, run, run_failing, skip, tool, work_folder};

const MIB: usize = 1 << 20;

/// Makes a disk of 8 MiB with data at its start, in its middle and at its end, and holes between.
fn disk(path: &Path) -> Vec<u8> {
    let mut bytes = vec![0; 8 * MIB];
    bytes[..5000].fill(1);
    bytes[3 * MIB + 100..3 * MIB + 70_000].fill(2);
    *bytes.last_mut().unwrap() = 3;
    fs::write(path, &bytes).unwrap();
    bytes
}

/// Makes a store that has the disk as `d`.
fn imported() -> (WorkFolder, PathBuf) {
    let work = work_folder();
    let store = work.at("store");
    disk(&work.at("d.raw"));
    run(mif(&store).arg("import").arg(work.at("d.raw")));
    (work, store)
}

#[test]
fn a_symlink_stays_and_the_file_behind_it_keeps_its_owner_and_mode() {
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let store = at("store");
    let bytes = disk(&at("d.raw"));
    run(mif(&store).arg("import").arg(at("d.raw")));
    fs::create_dir(at("folder")).unwrap();
    symlink("folder/disk.raw", at("link.raw")).unwrap();
    // A dangling link: its target is created.
    run(mif(&store).arg("convert").arg(at("d.raw")).arg(at("link.raw")));
    assert!(fs::read(at("folder/disk.raw")).unwrap() == bytes);
    for (verb, mode) in [("convert", 0o640), ("export", 0o600)] {
        fs::write(at("folder/disk.raw"), "old").unwrap();
        fs::set_permissions(at("folder/disk.raw"), fs::Permissions::from_mode(mode)).unwrap();
        if is_root() {
            std::os::unix::fs::chown(at("folder/disk.raw"), Some(1234), Some(2345)).unwrap();
        }
        let source = if verb == "convert" { at("d.raw") } else { PathBuf::from("d") };
        let error = run_failing(mif(&store).arg(verb).arg(&source).arg(at("link.raw")), 3);
        assert!(error.contains("--force"), "{error}");
        run(mif(&store).arg(verb).arg(&source).arg(at("link.raw")).arg("--force"));
        let meta = fs::metadata(at("folder/disk.raw")).unwrap();
        assert_eq!(meta.mode() & 0o7777, mode, "{verb}");
        assert!(!is_root() || (meta.uid(), meta.gid()) == (1234, 2345), "{verb}");
        assert!(fs::read(at("folder/disk.raw")).unwrap() == bytes, "{verb}");
        assert_eq!(fs::read_link(at("link.raw")).unwrap(), Path::new("folder/disk.raw"));
    }
    assert_eq!(fs::read_dir(at("folder")).unwrap().count(), 1, "nothing else is left there");
    // The output is not readable by users who could not read the source.
    fs::set_permissions(at("d.raw"), fs::Permissions::from_mode(0o600)).unwrap();
    run(mif(&store).arg("convert").arg(at("d.raw")).arg(at("private.qcow2")));
    assert_eq!(fs::metadata(at("private.qcow2")).unwrap().mode() & 0o077, 0);
}

#[test]
fn a_raw_disk_goes_to_standard_output_and_no_other_format_does() {
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let store = at("store");
    let bytes = disk(&at("d.raw"));
    run(mif(&store).arg("import").arg(at("d.raw")));
    for (verb, source) in [("convert", at("d.raw")), ("export", PathBuf::from("d"))] {
        for more in [&[][..], &["-O", "raw"], &["--json"]] {
            let mut command = mif(&store);
            command.arg(verb).arg(&source).arg("-").args(more).current_dir(work.path());
            let output = command.stderr(Stdio::piped()).output().unwrap();
            assert!(output.status.success() && output.stdout == bytes, "{verb} {more:?}");
            assert!(String::from_utf8_lossy(&output.stderr).contains("raw"), "the report goes elsewhere");
        }
        for more in [&["-O", "qcow2"][..], &["-O", "vmdk"], &["--verify"]] {
            let mut command = mif(&store);
            command.arg(verb).arg(&source).arg("-").args(more).current_dir(work.path());
            let output = command.output().unwrap();
            assert!(matches!(output.status.code(), Some(2 | 4)) && output.stdout.is_empty(), "{more:?}");
        }
    }
    assert!(!at("-").exists());
    let mut command = mif(&store);
    let output = command.arg("convert").arg(at("d.raw")).arg("/dev/stdout").output().unwrap();
    assert!(output.stdout.is_empty());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(4) && error.contains("standard output"), "{error}");
    // A reader that closes the pipe early did not get the disk.
    let mut child = mif(&store)
        .arg("convert")
        .arg(at("d.raw"))
        .arg("-")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn what_was_written_is_read_back_on_request() {
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    disk(&at("d.raw"));
    for name in ["d.qcow2", "d.vmdk", "d.vdi", "d.vhd", "d.vhdx", "e.raw"] {
        let said = run(mif(&at("s")).arg("convert").arg(at("d.raw")).arg(at(name)).arg("--verify"));
        assert!(said.contains("read back"), "{name}: {said}");
    }
    fs::create_dir(at("other")).unwrap();
    let flat = ["-o", "subformat=twoGbMaxExtentFlat", "--verify"];
    run(mif(&at("s")).arg("convert").arg(at("d.raw")).arg(at("other/f.vmdk")).args(flat));
    let over = ["--backing", "d.qcow2", "--verify"];
    run(mif(&at("s")).current_dir(work.path()).args(["convert", "d.raw", "other/o.qcow2"]).args(over));
}

/// A loop device over a file, with a node of our own: the one in /dev may be missing where the tests run.
struct Loop {
    name: String,
    node: PathBuf,
}

impl Loop {
    fn new(file: &Path, node: PathBuf) -> Option<Self> {
        let output = tool("losetup").arg("-f").arg("--show").arg(file).output().ok()?;
        let name = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        let number = name.strip_prefix("/dev/loop")?.to_owned();
        run(tool("mknod").arg(&node).args(["b", "7", &number]));
        Some(Loop { name, node })
    }

    fn read(&self, from: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        File::open(&self.node).unwrap().read_exact_at(&mut bytes, from as u64).unwrap();
        bytes
    }

    fn fill(&self, byte: u8, len: usize) {
        let device = File::options().write(true).open(&self.node).unwrap();
        device.write_all_at(&vec![byte; len], 0).unwrap();
        device.sync_all().unwrap();
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = tool("losetup").arg("-d").arg(&self.name).status();
    }
}

#[test]
fn a_block_device_gets_the_disk_and_keeps_what_lies_behind_it() {
    if !have(&["losetup", "mknod", "mke2fs", "mount"]) || (!is_root() && !skip("not root")) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let store = at("store");
    let bytes = disk(&at("d.raw"));
    run(mif(&store).arg("import").arg(at("d.raw")));
    File::create(at("back")).unwrap().set_len(12 * MIB as u64).unwrap();
    let Some(device) = Loop::new(&at("back"), at("node")) else {
        let _ = skip("there is no loop device");
        return;
    };
    symlink("node", at("lv")).unwrap();
    for (verb, source) in [("convert", at("d.raw")), ("export", PathBuf::from("d"))] {
        // Old data on the device must not show through the disk's holes.
        device.fill(0xee, 12 * MIB);
        let error = run_failing(mif(&store).arg(verb).arg(&source).arg(at("lv")), 3);
        assert!(error.contains("block device") && error.contains("--force"), "{error}");
        let error =
            run_failing(mif(&store).arg(verb).arg(&source).arg(at("lv")).args(["--force", "-O", "qcow2"]), 4);
        assert!(error.contains("block device"), "{error}");
        assert!(device.read(0, 12 * MIB).iter().all(|b| *b == 0xee), "nothing was done yet");
        let said = run(mif(&store).arg(verb).arg(&source).arg(at("lv")).args(["--force", "--verify"]));
        assert!(said.contains("read back") && said.contains("4194304 bytes larger"), "{said}");
        assert!(device.read(0, 8 * MIB) == bytes, "{verb}");
        assert!(device.read(8 * MIB, 4 * MIB).iter().all(|b| *b == 0xee), "{verb}");
        assert!(fs::symlink_metadata(at("lv")).unwrap().is_symlink());
        assert!(fs::symlink_metadata(at("node")).unwrap().file_type().is_block_device());
    }
    // A disk that is larger than the device.
    File::create(at("large.raw")).unwrap().set_len(13 * MIB as u64).unwrap();
    device.fill(0xdd, 12 * MIB);
    let error = run_failing(mif(&store).arg("convert").arg(at("large.raw")).arg(at("lv")).arg("--force"), 3);
    assert!(error.contains("12582912") && error.contains("nothing was written"), "{error}");
    assert!(device.read(0, 12 * MIB).iter().all(|b| *b == 0xdd));
    // A device that is in use.
    run(tool("mke2fs").args(["-q", "-F", "-t", "ext2"]).arg(at("node")));
    fs::create_dir(at("mounted")).unwrap();
    if !tool("mount").args(["-o", "ro"]).arg(at("node")).arg(at("mounted")).status().unwrap().success() {
        let _ = skip("the device cannot be mounted");
        return;
    }
    let before = device.read(0, 12 * MIB);
    let error = run_failing(mif(&store).arg("convert").arg(at("d.raw")).arg(at("lv")).arg("--force"), 3);
    run(tool("umount").arg(at("mounted")));
    assert!(error.contains("in use"), "{error}");
    assert!(device.read(0, 12 * MIB) == before);
}

#[test]
fn a_report_counts_all_files_of_a_container() {
    let (work, store) = imported();
    for subformat in ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let out = work.at(subformat);
        fs::create_dir(&out).unwrap();
        let mut command = mif(&store);
        command.args(["--json", "export", "d"]).arg(out.join("d.vmdk"));
        let report = run(command.arg("-o").arg(format!("subformat={subformat}")));
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        let files = fs::read_dir(&out).unwrap().map(|file| file.unwrap().metadata().unwrap());
        let taken: u64 = files.map(|meta| meta.blocks() * 512).sum();
        assert_eq!(report["allocated"], taken, "{subformat}");
    }
}

#[test]
fn an_option_that_would_have_no_effect_is_refused() {
    let (work, store) = imported();
    for (output, option, fits) in [
        ("a.qcow2", "compression_level=9", false),
        ("b.qcow2", "compress=on,compression_level=9", true),
        ("c.qcow2", "compression_type=zstd,compression_level=9", true),
        ("d.vmdk", "compression_level=9", false),
        ("e.vmdk", "subformat=streamOptimized,compression_level=9", true),
    ] {
        let mut command = mif(&store);
        command.args(["export", "d", "-o", option]).arg(work.at(output));
        match fits {
            true => drop(run(&mut command)),
            false => assert!(run_failing(&mut command, 4).contains("compression_level"), "{option}"),
        }
        assert_eq!(work.at(output).exists(), fits, "{option}");
    }
}

#[test]
fn a_tar_on_standard_output_has_its_report_as_json_too() {
    if !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    let image = mif_tests::disk::small(work.path(), "d", &[("a", b"text")]);
    let mut command = mif(&work.at("store"));
    let output = command.args(["--json", "extract", "-o", "-"]).arg(&image).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((output.status.code(), report["files"].as_u64()), (Some(0), Some(1)), "{report}");
    assert!(output.stdout.len() > 1024);
}

#[test]
fn a_file_and_a_device_are_rewritten_in_place_and_only_where_they_differ() {
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let store = at("store");
    let demo = repo().join("fixtures/demo.qcow2");
    run(mif(&store).arg("import").arg(&demo));
    run(mif(&store).args(["customize", "demo", "--as", "demo", "--hostname", "other"]));
    run(mif(&store).args(["export", "demo@1"]).arg(at("disk.raw")));
    run(mif(&store).args(["export", "demo@2"]).arg(at("expected.raw")));
    let rewrite = |image: &str, target: &Path| {
        let text = run(mif(&store).args(["--json", "export", "--rewrite", "-O", "raw", image]).arg(target));
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        report["rewritten"].as_u64().unwrap()
    };
    let inode = fs::metadata(at("disk.raw")).unwrap().ino();
    let first = rewrite("demo@2", &at("disk.raw"));
    assert!(first > 0 && first < 4 << 20, "{first}");
    assert!(fs::read(at("disk.raw")).unwrap() == fs::read(at("expected.raw")).unwrap());
    assert_eq!(fs::metadata(at("disk.raw")).unwrap().ino(), inode);
    assert_eq!(rewrite("demo@2", &at("disk.raw")), 0);
    // What a file held, and what is beyond the disk, is gone.
    fs::write(at("disk.raw"), vec![0xA5; 40 << 20]).unwrap();
    rewrite("demo@1", &at("disk.raw"));
    run(mif(&store).arg("verify").arg("demo@1").arg(at("disk.raw")));

    if have(&["losetup", "mknod"]) && is_root() {
        let (bits, backing) = (fs::read(at("disk.raw")).unwrap(), at("backing"));
        fs::write(&backing, vec![0xA5; bits.len() + MIB]).unwrap();
        let device = Loop::new(&backing, at("device")).expect("a loop device");
        assert!(rewrite("demo@1", &device.node) > 0);
        assert!(device.read(0, bits.len()) == bits);
        assert!(device.read(bits.len(), MIB).iter().all(|byte| *byte == 0xA5));
        assert_eq!(rewrite("demo@1", &device.node), 0);
    }

    let refused = |arguments: &[&str]| run_failing(mif(&store).current_dir(work.path()).args(arguments), 2);
    refused(&["export", "demo", "disk.raw", "--rewrite", "--force"]);
    let error = refused(&["export", "demo", "disk.raw", "--rewrite", "-O", "qcow2"]);
    assert!(error.contains("only a raw disk"), "{error}");
    refused(&["export", "demo", "-", "--rewrite"]);
    let missing = mif(&store).args(["export", "demo", "--rewrite"]).arg(at("new.raw")).output().unwrap();
    assert_eq!(missing.status.code(), Some(3));
    assert!(!at("new.raw").exists());
}
