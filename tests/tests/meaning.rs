//! What the manifest says is what the real tools say: debugfs of ext volumes, mtools of FAT ones, sfdisk of
//! the partition table. `fixtures/list-disk` makes their listing of a disk; for the committed disk it is
//! committed too.

use mif_tests::listing::{compare, of_image, of_tools};
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
