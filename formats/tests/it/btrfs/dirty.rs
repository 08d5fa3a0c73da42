//! Volumes copied while mounted: data synced since the last commit is in log trees, and the kernel's own replay is the
//! oracle.

use std::path::Path;

use mif_formats::fs::Filesystem;

use super::life::Life;
use super::volume::{TOOLS, assert_as_the_kernel, mkfs, mount, open};
use crate::tools::{have, run, scratch};

/// Returns true if the superblock points to a log.
fn has_log(image: &Path) -> bool {
    use std::os::unix::fs::FileExt;
    let mut log_root = [0; 8];
    std::fs::File::open(image).unwrap().read_exact_at(&mut log_root, (64 << 10) + 96).unwrap();
    log_root != [0; 8]
}

/// Uses a volume, copies it occasionally after a sync, and compares each copy. Returns how many copies had a log.
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

/// Changes the log address in the superblock.
fn set_log_root(image: &Path, bytenr: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(image).unwrap();
    let mut sb = vec![0; 4096];
    file.read_exact_at(&mut sb, 64 << 10).unwrap();
    sb[96..104].copy_from_slice(&bytenr.to_le_bytes());
    let sum = crc32c::crc32c(&sb[32..]);
    sb[..4].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&sb, 64 << 10).unwrap();
}

#[test]
fn a_log_that_cannot_be_read_leaves_what_was_committed() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let path = |name: &str| scratch.path().join(name);
    let (image, copy) = (path("image"), path("copy"));
    mkfs(&image, 200, "");
    let Some(mount) = mount(&image, &path("mnt"), "commit=300,noatime") else { return };
    std::fs::write(mount.path.join("committed"), "committed").unwrap();
    Life::new(&mount.path, 1).commit();
    let synced = std::fs::File::create(mount.path.join("synced")).unwrap();
    synced.sync_all().unwrap();
    run("cp", &["--sparse=always".as_ref(), image.as_os_str(), copy.as_os_str()]);
    drop((synced, mount));
    let names = || {
        let (fs, _) = open(&copy);
        let entries = fs.read_dir(fs.root(), &mut |e| panic!("{e}")).unwrap();
        let names: Vec<_> =
            entries.iter().map(|entry| String::from_utf8(entry.name.clone()).unwrap()).collect();
        (names, fs.info().warnings.clone())
    };
    assert_eq!(names(), (vec!["committed".to_owned(), "synced".to_owned()], Vec::new()));
    set_log_root(&copy, 123 << 20);
    let (left, warnings) = names();
    assert_eq!(left, ["committed"]);
    assert!(warnings[0].starts_with("the log cannot be replayed, so what was synced last may be missing: "));
    set_log_root(&copy, 0);
    assert_eq!(names(), (vec!["committed".to_owned()], Vec::new()));
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
