//! File names in the output: other programs resolve them to the same files.

use std::fs;
use std::path::{Path, PathBuf};

use mif_tests::{WorkFolder, have, mif, run, run_failing, tool, work_folder};

const MIB: usize = 1 << 20;

/// Names that could be taken for a protocol, a description, an option or an escape.
const NAMES: [&str; 9] =
    ["a:1", "nbd:localhost:1", "json:{}", "file:x", "fat:rw:x", "-n", "a%20b%", "..x", "a b'\\c"];

/// Makes a disk of 1 MiB, and another that differs from it in one byte.
fn disks() -> (WorkFolder, PathBuf, PathBuf) {
    let work = work_folder();
    let (base, top) = (work.path().join("base.raw"), work.path().join("top.raw"));
    let mut bytes = vec![0; MIB];
    bytes[..5].copy_from_slice(b"HELLO");
    fs::write(&base, &bytes).unwrap();
    bytes[700_000] = b'X';
    fs::write(&top, &bytes).unwrap();
    (work, base, top)
}

/// Asserts that qemu-img finds the same bits.
fn same_for_qemu(format: &str, image: &Path, disk: &Path) {
    run(tool("qemu-img").args(["compare", "-f", format, "-F", "raw"]).arg(image).arg(disk));
}

#[test]
fn a_base_is_found_by_other_programs_whatever_it_is_called() {
    if !have(&["qemu-img"]) {
        return;
    }
    let (work, base, top) = disks();
    let at = |name: &str| work.path().join(name);
    fs::create_dir(at("sub:dir")).unwrap();
    for name in NAMES.iter().copied().chain(["sub:dir/base", "line\nend", "quote\"d"]) {
        fs::copy(&base, at(name)).unwrap();
        for (number, output) in ["out.qcow2", "sub:dir/out.qcow2"].into_iter().enumerate() {
            // As a user types it, from the directory itself, and as an absolute path.
            let named = if number == 0 { PathBuf::from("./").join(name) } else { at(name) };
            let mut command = mif(&at("s"));
            run(command
                .current_dir(work.path())
                .args(["convert", "top.raw", output, "--force", "--backing"])
                .arg(named));
            same_for_qemu("qcow2", &at(output), &top);
            run(mif(&at("s")).arg("verify").arg(at(output)).arg(&top).arg("--allow-path").arg(work.path()));
            assert!(fs::metadata(at(output)).unwrap().len() < MIB as u64, "it lies on top of {name}");
        }
        fs::remove_file(at(name)).unwrap();
    }
}

#[test]
fn a_base_is_found_also_if_the_image_was_written_through_a_link() {
    if !have(&["qemu-img"]) {
        return;
    }
    let (work, _, top) = disks();
    let at = |name: &str| work.path().join(name);
    fs::create_dir(at("deep")).unwrap();
    std::os::unix::fs::symlink("deep/real.qcow2", at("link.qcow2")).unwrap();
    run(mif(&at("s")).current_dir(work.path()).args([
        "convert",
        "top.raw",
        "link.qcow2",
        "--backing",
        "base.raw",
    ]));
    for name in ["link.qcow2", "deep/real.qcow2"] {
        same_for_qemu("qcow2", &at(name), &top);
    }
}

#[test]
fn extents_are_found_by_other_programs_whatever_their_disk_is_called() {
    if !have(&["qemu-img"]) {
        return;
    }
    let (work, _, top) = disks();
    let at = |name: &str| work.path().join(name);
    for subformat in [
        "monolithicFlat",
        "twoGbMaxExtentFlat",
        "twoGbMaxExtentSparse",
        "monolithicSparse",
        "streamOptimized",
    ] {
        for name in NAMES {
            let path = at("vmdk").join(format!("{name}.vmdk"));
            fs::create_dir(at("vmdk")).unwrap();
            run(mif(&at("s"))
                .arg("convert")
                .arg(&top)
                .arg(&path)
                .args(["-o", &format!("subformat={subformat}")]));
            same_for_qemu("vmdk", &path, &top);
            run(mif(&at("s")).arg("verify").arg(&path).arg(&top));
            fs::remove_dir_all(at("vmdk")).unwrap();
        }
    }
    // A name that cannot be written in a descriptor is refused.
    for name in ["quote\"d.vmdk", "line\nend.vmdk", "return\r.vmdk"] {
        let mut command = mif(&at("s"));
        command.arg("convert").arg(&top).arg(at(name)).args(["-o", "subformat=monolithicFlat"]);
        assert!(run_failing(&mut command, 4).contains("descriptor"));
        assert!(!at(name).exists());
    }
}
