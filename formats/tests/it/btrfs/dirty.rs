//! Volumes copied while mounted: what was synced since the last commit stands in log trees, and the kernel's own replay
//! is the oracle.

use std::path::Path;

use mif_formats::fs::Filesystem;

use super::life::Life;
use super::volume::{TOOLS, assert_as_the_kernel, mkfs, mount, open};
use crate::tools::{have, run, scratch};

/// True if a superblock points to a log.
fn has_log(image: &Path) -> bool {
    use std::os::unix::fs::FileExt;
    let mut log_root = [0; 8];
    std::fs::File::open(image).unwrap().read_exact_at(&mut log_root, (64 << 10) + 96).unwrap();
    log_root != [0; 8]
}

/// Lives on a volume, copies it now and then after a sync, and compares each copy. Returns how many had a log.
fn check(seed: u64, options: &str, mounted: &str, copies: u32) -> u32 {
    let scratch = scratch();
    let path = |name: &str| scratch.path().join(name);
    let (image, mnt) = (path("image"), path("mnt"));
    let what = format!("seed {seed}: {options}, mounted {mounted}");
    mkfs(&image, 300, options);
    let Some(mount) = mount(&image, &mnt, &format!("commit=300,{mounted}")) else { return 0 };
    let mut life = Life::new(&mount.path, seed);
    life.live(150);
    life.makes_subvolumes = false;
    for number in 0..copies {
        life.commit();
        for _ in 0..4 {
            life.live(6);
            life.sync();
        }
        let copy = path(&format!("dirty {number}"));
        run("cp", &["--sparse=always".as_ref(), image.as_os_str(), copy.as_os_str()]);
    }
    drop(mount);
    let mut logs = 0;
    for number in 0..copies {
        let copy = path(&format!("dirty {number}"));
        let what = format!("{what}, copy {number}");
        assert_as_the_kernel(&what, &copy, scratch.path());
        let (fs, _) = open(&copy);
        assert_eq!(fs.info().warnings, Vec::<String>::new(), "{what}");
        logs += u32::from(has_log(&copy));
        std::fs::remove_file(&copy).unwrap();
    }
    logs
}

#[test]
fn logs_are_replayed_as_the_kernel_replays_them() {
    if !have(&TOOLS) {
        return;
    }
    let logs = check(100, "", "noatime", 6)
        + check(101, "-n 4096 -m single", "noatime,compress-force=lzo", 6)
        + check(102, "-n 4096 -O ^no-holes", "noatime", 6);
    assert!(logs > 5, "only {logs} copies have a log");
}

#[test]
#[ignore = "takes minutes: BTRFS_SEEDS is how many seeds to try"]
fn logs_of_many_lives_are_replayed_as_the_kernel_replays_them() {
    let seeds: u64 = std::env::var("BTRFS_SEEDS").map_or(50, |seeds| seeds.parse().unwrap());
    let options = ["", "-n 4096 -m single", "-n 4096 -O ^no-holes"];
    let logs: u32 =
        (0..seeds).map(|seed| check(1000 + seed, options[seed as usize % 3], "noatime", 12)).sum();
    println!("{logs} of {} copies had a log", seeds * 12);
}
