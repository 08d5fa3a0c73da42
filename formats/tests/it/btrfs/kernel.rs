//! Volumes written by the kernel and unmounted.

use mif_formats::fs::Filesystem;

use super::dump::assert_as_dump_tree;
use super::life::Life;
use super::volume::{TOOLS, assert_as_the_kernel, mkfs, mount, open};
use crate::ext4::kernel::{Can, live};
use crate::tools::{have, scratch};

fn check(seed: u64, options: &str, mounted: &str) {
    let scratch = scratch();
    let (image, mnt) = (scratch.path().join("image"), scratch.path().join("mnt"));
    let what = format!("seed {seed}: {options}, mounted {mounted}");
    mkfs(&image, 400, options);
    let Some(mount) = mount(&image, &mnt, mounted) else { return };
    if seed.is_multiple_of(4) {
        live(&mount.path, &Can { xattr: 3000, fallocate: true, block: 4096 });
    }
    let mut life = Life::new(&mount.path, seed);
    for _ in 0..6 {
        life.live(120);
        life.commit();
    }
    drop(mount);
    if let Some(view) = assert_as_the_kernel(&what, &image, scratch.path()) {
        assert!(view.len() > 100, "{what}: only {} paths", view.len());
        let (fs, _) = open(&image);
        assert_eq!(fs.info().warnings, Vec::<String>::new(), "{what}");
        assert_as_dump_tree(&what, &fs, &image);
    }
}

#[test]
fn volumes_of_every_kind_are_read_as_the_kernel_reads_them() {
    if !have(&TOOLS) {
        return;
    }
    check(0, "", "noatime");
    check(1, "-n 4096 -m single --checksum xxhash", "compress-force=zlib");
    check(2, "-n 65536 --checksum sha256 -m dup -d dup", "compress=lzo");
    check(3, "-M -n 4096 --checksum blake2 -O ^no-holes", "compress=zstd:15");
    check(4, "-O ^no-holes,^extref,^skinny-metadata -R ^free-space-tree", "compress-force=lzo");
}

#[test]
#[ignore = "needs BTRFS_IMAGE, a volume"]
fn a_given_volume_is_listed_fast() {
    let image = std::path::PathBuf::from(std::env::var_os("BTRFS_IMAGE").expect("BTRFS_IMAGE"));
    let start = std::time::Instant::now();
    let (fs, _) = open(&image);
    let listing = mif_formats::fs::walk::walk(&fs).unwrap();
    println!("{} paths listed in {:?}", listing.entries.len(), start.elapsed());
    let pieces = listing.nodes.iter().map(|(_, handle, _)| fs.content(handle).unwrap().pieces.len());
    println!("{} pieces located; {:?} in all", pieces.sum::<usize>(), start.elapsed());
    assert!(listing.complaints.is_empty(), "{:?}", listing.complaints);
}
