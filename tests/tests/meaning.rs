//! What the manifest says is what the real tools say: debugfs of ext volumes, mtools of FAT ones, sfdisk of
//! the partition table. `fixtures/list-disk` makes their listing of a disk; for the committed disk it is
//! committed too.

use mif_tests::listing::{compare, of_image, of_tools};
use mif_tests::oracle::Random;
use mif_tests::{have, mif, repo, run, tool, work_folder};

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

/// A disk that is the physical volume of `fixtures/lvm`, with an ext4 on `vg0/root`, which lies in two pieces:
/// 4 MiB at 1 MiB of the disk, and 3 MiB at 7 MiB.
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
    // Its content is content of the disk, in both pieces, and not residue.
    let info: serde_json::Value =
        serde_json::from_str(&run(mif(&store).args(["info", "--json", "disk"]))).unwrap();
    assert_eq!(info["stored"]["counts"]["content_bytes"], 5 * MIB);
    run(mif(&store).args(["export", "disk"]).arg(at("out.raw")));
    assert!(std::fs::read(at("out.raw")).unwrap() == disk);
}
