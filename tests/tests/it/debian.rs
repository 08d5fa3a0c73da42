//! Real Debian disks through the store: every bit, every file, and a login prompt at the end.
//!
//! The trees come from the Debian archive (`fixtures/debian-tree`, kept in the cache), the disks from
//! `fixtures/debian-disk`.

use std::fs;
use std::path::Path;
use std::process::Command;

use mif_tests::debian::{TOOLS, boot, make_disk, tree};
use mif_tests::listing::{self, compare};
use mif_tests::{have, have_python, is_root, mif, python, repo, run, tool, work_folder};
use serde_json::Value;

/// A container of a disk: a name, and qemu-img's options for it.
type Container = (&'static str, &'static [&'static str]);

/// All containers that disks go through. The first is booted as raw and qcow2, `sparse.vmdk` as VMDK.
pub(crate) const CONTAINERS: &[Container] = &[
    ("v3.qcow2", &["-O", "qcow2"]),
    ("v2.qcow2", &["-O", "qcow2", "-o", "compat=0.10"]),
    ("zlib.qcow2", &["-O", "qcow2", "-c"]),
    ("zstd.qcow2", &["-O", "qcow2", "-c", "-o", "compression_type=zstd"]),
    ("small.qcow2", &["-O", "qcow2", "-o", "cluster_size=4k"]),
    ("sparse.vmdk", &["-O", "vmdk"]),
    ("stream.vmdk", &["-O", "vmdk", "-o", "subformat=streamOptimized"]),
    ("flat.vmdk", &["-O", "vmdk", "-o", "subformat=monolithicFlat"]),
];

/// Options of `fixtures/debian-disk`.
pub(crate) const GPT: &str = "--table gpt --efi --fill kernel --live --size 2G";
pub(crate) const MBR: &str = "--table mbr --block 1024 --features ^metadata_csum,^64bit --live --size 1G";
pub(crate) const LOGICAL: &str = "--table mbr-logical --fs ext3 --fill kernel --live --size 1G";

pub(crate) fn import(store: &Path, file: &Path, name: &str) -> Value {
    let json = run(mif(store).args(["import", "--json", "--new-version", "--name", name]).arg(file));
    serde_json::from_str(&json).unwrap()
}

/// Tests a disk in every way and in several containers, and finally boots the exported disks: `boot.raw`, `boot.qcow2` or
/// `boot.vmdk`, each with UEFI or BIOS.
pub(crate) fn through_the_store(options: &str, containers: &[Container], boots: &[(&str, bool)]) {
    if !have(TOOLS) {
        return;
    }
    let Some(tree) = tree() else { return };
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let store = at("store");
    let raw = at("disk.raw");
    make_disk(&tree, &raw, options);

    // Meaning: compare with the real tools.
    run(mif(&store).args(["import", "--verify", "--name", "disk"]).arg(&raw));
    run(tool(repo().join("fixtures/list-disk")).arg(&raw).arg(at("tools")));
    compare(&listing::of_image(&store, "disk"), &listing::of_tools(&at("tools")));

    // Bits: compare with qemu-img for each container; the layout does not depend on the container.
    for (name, arguments) in containers {
        let container = at(name);
        run(tool("qemu-img").args(["convert", "-f", "raw"]).args(*arguments).arg(&raw).arg(&container));
        let report = import(&store, &container, "disk");
        assert_eq!(report["result"], "unchanged", "{name}: another layout than the raw disk's: {report}");
        let expected = at("expected.raw");
        run(tool("qemu-img").args(["convert", "-O", "raw"]).arg(&container).arg(&expected));
        run(tool("cmp").arg(&expected).arg(&raw));
        // In a separate store, so that every byte has come through this container.
        let other = at("other-store");
        import(&other, &container, "disk");
        run(mif(&other).args(["export", "disk", "--format", "raw", "--force"]).arg(at("out.raw")));
        run(tool("cmp").arg(&expected).arg(at("out.raw")));
        // The disks booted below were imported only from these containers.
        let booted: &[&str] = match *name {
            "v3.qcow2" => &["boot.raw", "boot.qcow2"],
            "sparse.vmdk" => &["boot.vmdk"],
            _ => &[],
        };
        for name in booted {
            run(mif(&other).args(["export", "disk"]).arg(at(name)));
        }
        fs::remove_dir_all(&other).unwrap();
        fs::remove_file(&container).unwrap();
        let _ = fs::remove_file(at("flat-flat.vmdk"));
    }
    for name in ["boot.qcow2", "boot.vmdk"].into_iter().filter(|name| at(name).exists()) {
        run(tool("qemu-img").arg("check").arg(at(name)));
        run(tool("qemu-img").arg("compare").arg(at(name)).arg(&raw));
    }

    for (name, efi) in boots {
        boot(&at(name), *efi, "login:");
    }
}

#[test]
fn gpt_with_ext4_by_the_kernel_boots_by_bios_and_uefi() {
    let containers = [0, 3, 5, 6].map(|number| CONTAINERS[number]);
    through_the_store(GPT, &containers, &[("boot.qcow2", false), ("boot.raw", true)]);
}

// `make collection` takes every disk through all containers, and one with logical partitions.

#[test]
fn mbr_with_1k_blocks_and_no_checksums_comes_back_bit_for_bit() {
    through_the_store(MBR, &[CONTAINERS[7]], &[]);
}

#[test]
fn a_second_image_of_the_same_files_costs_little() {
    if !have(TOOLS) {
        return;
    }
    let Some(tree) = tree() else { return };
    let work = work_folder();
    let store = work.path().join("store");
    let mut sizes = vec![0];
    for (name, options) in [("large", "--table gpt --block 4096"), ("small", "--table mbr --block 1024")] {
        let disk = work.path().join(format!("{name}.raw"));
        make_disk(&tree, &disk, &format!("{options} --size 1G"));
        import(&store, &disk, name);
        sizes.push(mif_tests::snapshot(&store).iter().map(|(_, len)| len).sum::<u64>());
    }
    let (first, second) = (sizes[1], sizes[2] - sizes[1]);
    assert!(second * 100 < first * 3, "the first image took {first} bytes, the second added {second}");
}

#[test]
fn duckdb_reads_the_store_as_it_lies() {
    if !have_python("duckdb") {
        return;
    }
    let work = work_folder();
    run(mif(&work.path().join("mif-store")).arg("import").arg(repo().join("fixtures/demo.qcow2")));
    let query = "import duckdb; duckdb.sql(\"select name, path, size from 'mif-store/images/*/*/manifest.parquet' where path like '%/os-release'\").show()";
    let shown = run(Command::new(python()).current_dir(work.path()).args(["-c", query]));
    assert!(shown.contains("demo") && shown.contains("/etc/os-release"), "{shown}");
}

/// Works without root, loop devices and mounts: as a user without privileges, and no way to get any.
#[test]
fn all_of_it_as_an_ordinary_user() {
    let work = tempfile::tempdir().unwrap();
    let at = |name: &str| work.path().join(name);
    for (from, to) in [(mif_tests::mif_path(), "mif"), (repo().join("fixtures/demo.qcow2"), "demo.qcow2")] {
        fs::copy(from, at(to)).unwrap();
    }
    run(tool("chmod").args(["-R", "a+rwX"]).arg(work.path()));
    let script = "umask 022; for step in 'import --verify demo.qcow2' 'ls -lR demo' 'export demo out.vmdk' 'verify demo.qcow2 out.vmdk' \
                  'verify demo out.vmdk' 'info out.vmdk' images; do ./mif $step || exit 1; done";
    let mut shell = if is_root() {
        if !have(&["setpriv"]) {
            return;
        }
        let mut setpriv = tool("setpriv");
        setpriv.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--no-new-privs",
            "--bounding-set=-all",
            "sh",
        ]);
        setpriv
    } else {
        tool("sh")
    };
    run(shell.current_dir(work.path()).args(["-c", script]));
}
