//! Volumes with a log to replay: shut down, or copied while mounted. The kernel's own replay is the oracle.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::live::{Can, live, one};
use super::{EXCHANGE, PARENT, TOOLS, add_features, kernel_view, mkfs, open, scratch, seen};
use crate::random::Random;
use crate::tools::{Mount, have, run};
use crate::view::assert_same;

const CAN: Can = Can { block: 4096, reflink: true, names: 1500 };

/// The end of a volume's life.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The filesystem stops at once, without writing its log.
    Stop,
    /// The filesystem writes its log before it stops.
    Flush,
    /// The volume is copied while the filesystem runs.
    Copy,
}

/// Makes random changes with an occasional sync.
fn churn(root: &Path, random: &mut Random, can: Can, steps: usize) {
    for _ in 0..steps {
        one(root, random, can);
        if random.once_in(20) {
            File::open(root).unwrap().sync_all().unwrap();
        }
    }
    // Committed, but probably not written in place.
    let last = File::create(root.join("last")).unwrap();
    last.write_all_at(&random.bytes(30_000), 0).unwrap();
    last.sync_all().unwrap();
    // Not committed.
    File::create(root.join("pending")).unwrap().write_all_at(b"pending", 0).unwrap();
}

/// Uses a volume several times, ends each life with a dirty log, and compares our view with the kernel's after its
/// replay.
fn check(options: &str, features: u32, can: Can, ends: &[End]) {
    let scratch = scratch();
    let path = |name: &str| scratch.path().join(name);
    let (image, copy, mnt) = (path("image"), path("copy"), path("mnt"));
    mkfs(&image, 320, options);
    add_features(&image, features);
    let mut random = Random(options.len() as u64 + 1);
    for (round, end) in ends.iter().enumerate() {
        let what = format!("{options}, {round}: {end:?}");
        let Some(mount) = Mount::new(&image, &mnt, "noatime") else { return };
        if round == 0 {
            live(&mount.path, 1, can);
        }
        // Deleted but still open: it has no name, whatever its inode says.
        let held = File::create(mount.path.join("held")).unwrap();
        held.write_all_at(&random.bytes(20_000), 0).unwrap();
        held.sync_all().unwrap();
        fs::remove_file(mount.path.join("held")).unwrap();
        churn(&mount.path, &mut random, can, 300);
        let duplicate = || run("cp", &["--sparse=always".as_ref(), image.as_os_str(), copy.as_os_str()]);
        match end {
            End::Stop => drop(run("xfs_io", &["-x", "-c", "shutdown", mount.path.to_str().unwrap()])),
            End::Flush => drop(run("xfs_io", &["-x", "-c", "shutdown -f", mount.path.to_str().unwrap()])),
            End::Copy => drop(duplicate()),
        }
        drop(held);
        drop(mount);
        if !matches!(end, End::Copy) {
            duplicate();
        }
        let ours = seen(&what, &copy);
        let Some(mount) = Mount::new(&copy, &mnt, "noatime") else { return };
        assert_same(&what, &ours, &kernel_view(&mount.path));
        drop(mount);
        // After the replay, the log is clean and everything is in place.
        let Some(mount) = Mount::new(&copy, &mnt, "ro") else { return };
        let kernel = kernel_view(&mount.path);
        drop(mount);
        assert_same(&format!("{what}, clean"), &seen(&what, &copy), &kernel);
    }
}

#[test]
fn a_dirty_volume_is_read_as_the_kernel_replays_it() {
    if !have(&TOOLS) {
        return;
    }
    check("-m reflink=1,rmapbt=1", 0, CAN, &[End::Stop, End::Flush, End::Copy, End::Stop]);
}

#[test]
fn a_dirty_volume_of_another_geometry_is_read_as_the_kernel_replays_it() {
    if !have(&TOOLS) {
        return;
    }
    let small = Can { block: 1024, ..CAN };
    check("-b size=1024 -n size=8192 -i nrext64=1 -l su=65536", 0, small, &[End::Stop, End::Copy]);
    let plain = Can { reflink: false, ..CAN };
    check("-m bigtime=0,reflink=0,finobt=0,inobtcount=0 -i size=1024 -l su=262144", 0, plain, &[End::Flush]);
}

#[test]
fn parent_pointers_are_hidden_and_their_changes_replayed() {
    if !have(&TOOLS) {
        return;
    }
    check("-m reflink=1", PARENT | EXCHANGE, CAN, &[End::Stop, End::Flush]);
}

/// Ends the life of a volume at any time while threads change it, so that multi-transaction changes are cut off midway.
#[test]
#[ignore = "takes as many rounds as XFS_STRESS says"]
fn lives_that_end_at_any_time_are_read_as_the_kernel_replays_them() {
    let rounds = std::env::var("XFS_STRESS").map_or(10, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        let scratch = scratch();
        let path = |name: &str| scratch.path().join(name);
        let (image, copy, mnt) = (path("image"), path("copy"), path("mnt"));
        let options =
            ["-m reflink=1,rmapbt=1", "-b size=1024 -m reflink=1", "-i nrext64=1"][round as usize % 3];
        mkfs(&image, 320, options);
        add_features(&image, [0, PARENT | EXCHANGE][round as usize / 3 % 2]);
        let Some(mount) = Mount::new(&image, &mnt, "noatime") else { return };
        let mut random = Random(round);
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let root = mount.path.join(thread.to_string());
                fs::create_dir(&root).unwrap();
                let mut random = Random(round * 100 + thread);
                scope.spawn(move || {
                    // The panic is that of an operation after the filesystem has stopped.
                    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        if thread == 0 {
                            share(&root, &mut random);
                        }
                        loop {
                            one(&root, &mut random, CAN);
                        }
                    }));
                });
            }
            std::thread::sleep(std::time::Duration::from_millis(200 + random.below(2000)));
            let how = if random.once_in(2) { "shutdown" } else { "shutdown -f" };
            run("xfs_io", &["-x", "-c", how, mount.path.to_str().unwrap()]);
        });
        drop(mount);
        run("cp", &["--sparse=always".as_ref(), image.as_os_str(), copy.as_os_str()]);
        let ours = seen(&format!("round {round}"), &copy);
        let Some(mount) = Mount::new(&copy, &mnt, "noatime") else { return };
        assert_same(&format!("round {round}"), &ours, &kernel_view(&mount.path));
        println!("round {round}: {} paths", ours.len());
    }
}

/// Writes to files that share blocks until the filesystem stops.
fn share(root: &Path, random: &mut Random) {
    let file = File::create(root.join("shared")).unwrap();
    file.write_all_at(&random.bytes(1 << 20), 0).unwrap();
    for i in 0.. {
        let copy = File::create(root.join(format!("copy {}", i % 20))).unwrap();
        rustix::fs::ioctl_ficlone(&copy, &file).unwrap();
        for _ in 0..40 {
            copy.write_all_at(&random.bytes(4096), random.below(250) * 4096).unwrap();
        }
        copy.sync_all().unwrap();
    }
}

/// Creates a small volume with a dirty log. Returns false if it cannot be mounted.
pub(super) fn small_dirty(image: &Path, mnt: &Path, options: &str) -> bool {
    mkfs(image, 32, options);
    let Some(mount) = Mount::new(image, mnt, "noatime") else { return false };
    let mut random = Random(3);
    let can = Can { block: 4096, reflink: options.contains("reflink=1"), names: 0 };
    for _ in 0..120 {
        one(&mount.path, &mut random, can);
        // Few syncs, so that mutants are read fast.
        if random.once_in(30) {
            File::open(&mount.path).unwrap().sync_all().unwrap();
        }
    }
    run("xfs_io", &["-x", "-c", "shutdown -f", mount.path.to_str().unwrap()]);
    true
}

#[test]
fn a_log_that_cannot_be_replayed_is_said() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let path = |name: &str| scratch.path().join(name);
    let image = path("image");
    if !small_dirty(&image, &path("mnt"), "") {
        return;
    }
    let mut bytes = fs::read(&image).unwrap();
    // h_fmt of every record: written by a machine of another byte order.
    let (log, len) = log_of(&bytes);
    for record in (log..log + len).step_by(512) {
        if bytes[record..][..4] == [0xFE, 0xED, 0xBA, 0xBE] {
            let (start, changed) = super::mutants::repaired_record(&bytes, (log, len), record + 303, 2);
            bytes[start..start + changed.len()].copy_from_slice(&changed);
        }
    }
    fs::write(&image, &bytes).unwrap();
    let (fs, _) = open(&image);
    use mif_formats::fs::Filesystem;
    let warnings = &fs.info().warnings;
    assert!(warnings.iter().any(|w| w.contains("the log cannot be replayed")), "{warnings:?}");
    assert!(fs.node(fs.root(), &mut |_| ()).is_ok());
}

/// Returns the byte offset of the log in an image, and its length.
pub(super) fn log_of(bytes: &[u8]) -> (usize, usize) {
    let be32 = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let start = u64::from_be_bytes(bytes[48..56].try_into().unwrap()) as usize;
    let (block, agb_log, ag_blocks) = (be32(4), bytes[124], be32(84));
    let linear = (start >> agb_log) * ag_blocks + (start & ((1 << agb_log) - 1));
    (linear * block, be32(96) * block)
}
