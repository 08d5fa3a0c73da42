//! Volumes copied while mounted: the journal must be replayed, and the result is compared with the kernel's replay.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use mif_formats::fs::{FileType, Filesystem, Piece};
use rustix::fs::{XattrFlags, lsetxattr};

use super::kernel::{Can, live, pattern};
use crate::tools::{Mount, have, load, mke2fs, open, run, scratch};
use crate::view::{assert_same, ours, theirs};

/// Runs many transactions that free metadata blocks and reuse them for data, and the reverse.
fn churn(root: &Path, rounds: u64) {
    let at = |name: String| root.join(name);
    for round in 0..rounds {
        let folder = at(format!("churn {}", round % 7));
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir(&folder).unwrap();
        for i in 0..40 {
            let file = File::create(folder.join(format!("{}{i}", "a long name ".repeat(8)))).unwrap();
            // Starts like a block of the journal itself, so it must be escaped if data is journaled.
            let mut data = pattern(5000, round * 100 + i);
            data[..4].copy_from_slice(&[0xC0, 0x3B, 0x39, 0x98]);
            data[4096..4100].copy_from_slice(&[0xC0, 0x3B, 0x39, 0x98]);
            file.write_all_at(&data, 0).unwrap();
            if i % 13 == 0 {
                let path = folder.join(format!("{}{i}", "a long name ".repeat(8)));
                lsetxattr(&path, "user.x", &pattern(400, i), XattrFlags::empty()).unwrap();
                file.sync_all().unwrap();
            }
        }
        let changed =
            File::options().write(true).create(true).truncate(false).open(at("changed".into())).unwrap();
        changed.write_all_at(&pattern(9000, round), round * 3000).unwrap();
        changed.sync_all().unwrap();
    }
    // Committed, but certainly not written to its final location yet.
    let last = File::create(at("last".into())).unwrap();
    last.write_all_at(&pattern(30_000, 77), 0).unwrap();
    fs::rename(at("changed".into()), at("renamed".into())).unwrap();
    last.sync_all().unwrap();
    // Not committed.
    File::create(at("pending".into())).unwrap().write_all_at(b"pending", 0).unwrap();
}

/// Changes a volume, copies it while it is mounted, and compares what we see in the copy with what the kernel
/// sees in another copy after its own replay.
fn check(mkfs: &str, mount_options: &str, rounds: u64) {
    if !have(&["mke2fs", "mount", "cp"]) {
        return;
    }
    let what = format!("{mkfs}, mounted {mount_options}");
    let scratch = scratch();
    let path = |name: &str| scratch.path().join(name);
    let (image, copy, mnt) = (path("image"), path("copy"), path("mnt"));
    mke2fs(&image, 160, mkfs);
    let Some(mount) = Mount::new(&image, &mnt, mount_options) else { return };
    let fallocate = mkfs.contains("ext4");
    live(&mount.path, &Can { xattr: 400, fallocate, block: 4096 });
    churn(&mount.path, rounds);
    // Deleted but still open: it has no name, whatever its inode says.
    let held = File::create(mount.path.join("held")).unwrap();
    held.write_all_at(&pattern(20_000, 5), 0).unwrap();
    held.sync_all().unwrap();
    fs::remove_file(mount.path.join("held")).unwrap();
    File::open(mount.path.join("last")).unwrap().sync_all().unwrap();
    File::options().append(true).open(mount.path.join("last")).unwrap().set_len(20_000).unwrap();
    File::open(mount.path.join("last")).unwrap().sync_all().unwrap();
    run("cp", &["--sparse=always".as_ref(), image.as_os_str(), copy.as_os_str()]);
    drop(held);
    drop(mount);

    let volume = load(&copy);
    let fs = open(&copy);
    assert!(fs.info().features.iter().any(|f| f == "needs_recovery"), "{what}: not dirty");
    assert_eq!(fs.info().warnings, Vec::<String>::new(), "{what}");
    let ours = ours(&fs, &volume);
    let Some(mount) = Mount::new(&copy, &mnt, "noatime") else { return };
    assert_same(&what, &ours, &theirs(&mount.path));
}

#[test]
fn a_dirty_volume_is_read_as_the_kernel_replays_it() {
    check("-t ext4 -b 4096 -J size=4", "noatime", 30);
    check("-t ext4 -b 1024 -J size=1", "noatime", 30);
    check("-t ext3 -b 1024 -J size=1", "noatime", 30);
    check("-t ext4 -b 4096 -O ^64bit,^metadata_csum -J size=4", "noatime", 12);
    check("-t ext4 -b 2048 -O bigalloc -J size=4", "noatime", 12);
    check("-t ext4 -b 1024 -O orphan_file,metadata_csum_seed -J size=2", "noatime", 12);
}

#[test]
fn checksummed_journals_are_replayed() {
    check("-t ext4 -b 4096 -O ^metadata_csum -J size=4", "noatime,journal_checksum", 20);
    check(
        "-t ext4 -b 1024 -O ^metadata_csum,^64bit -J size=2",
        "noatime,journal_async_commit,data=writeback",
        20,
    );
    check("-t ext4 -b 1024 -O 64bit -J size=2", "noatime,journal_async_commit,data=writeback", 20);
}

#[test]
fn data_that_went_through_the_journal_is_replayed() {
    check("-t ext4 -b 1024 -J size=8", "noatime,data=journal,nodelalloc", 20);
    check("-t ext3 -b 4096 -J size=16", "noatime,data=journal", 20);
}

/// Makes changes that fast commits can record, each followed by a sync, and none that forces a full commit.
fn live_fast(root: &Path) {
    let at = |name: &str| root.join(name);
    let sync = |name: &str| File::open(at(name)).unwrap().sync_all().unwrap();
    fs::write(at("grown"), pattern(3000, 1)).unwrap();
    sync("grown");
    File::options().append(true).open(at("grown")).unwrap();
    for i in 0..10_u64 {
        let file = File::options().write(true).open(at("grown")).unwrap();
        file.write_all_at(&pattern(4096, i), i * 3 * 4096).unwrap();
        file.sync_all().unwrap();
    }
    for i in 0..20 {
        let name = format!("file {i}");
        fs::write(at(&name), pattern(i * 100, 5)).unwrap();
        sync(&name);
    }
    fs::create_dir(at("folder")).unwrap();
    fs::write(at("folder/inside"), b"inside").unwrap();
    sync("folder/inside");
    fs::rename(at("file 3"), at("renamed")).unwrap();
    sync("renamed");
    fs::rename(at("file 4"), at("file 5")).unwrap();
    sync("file 5");
    fs::hard_link(at("file 6"), at("folder/linked")).unwrap();
    sync("file 6");
    fs::remove_file(at("file 7")).unwrap();
    sync("file 8");
    let cut = File::options().write(true).open(at("old")).unwrap();
    cut.set_len(10_000).unwrap();
    cut.sync_all().unwrap();
    cut.write_all_at(&pattern(5000, 9), 50_000).unwrap();
    cut.sync_all().unwrap();
}

#[test]
fn fast_commits_are_replayed() {
    if !have(&["mke2fs", "mount", "cp"]) {
        return;
    }
    let scratch = scratch();
    let path = |name: &str| scratch.path().join(name);
    let (image, copy, mnt) = (path("image"), path("copy"), path("mnt"));
    mke2fs(&image, 160, "-t ext4 -b 4096 -O fast_commit");
    let Some(mount) = Mount::new(&image, &mnt, "noatime") else { return };
    fs::write(mount.path.join("old"), pattern(100_000, 2)).unwrap();
    drop(mount);
    let Some(mount) = Mount::new(&image, &mnt, "noatime") else { return };
    live_fast(&mount.path);
    let seen = theirs(&mount.path);
    run("cp", &["--sparse=always".as_ref(), image.as_os_str(), copy.as_os_str()]);
    drop(mount);
    let volume = load(&copy);
    let fs = open(&copy);
    assert_eq!(fs.info().warnings, Vec::<String>::new());
    let mut ours = ours(&fs, &volume);
    let Some(mount) = Mount::new(&copy, &mnt, "noatime") else { return };
    let (mut replayed, mut seen) = (theirs(&mount.path), seen);
    // The kernel's replay sets the times of directories to the time of the replay, and miscounts their links.
    for view in [&mut ours, &mut replayed, &mut seen] {
        for entry in view.values_mut().filter(|entry| entry.file_type == FileType::Dir) {
            (entry.mtime, entry.ctime, entry.nlink) = ((0, 0), (0, 0), 0);
        }
    }
    assert_same("after the kernel's replay", &ours, &replayed);
    assert_same("before", &ours, &seen);
}

/// Journals written by debugfs: every version of checksums, with blocks written, revoked and written again.
#[test]
fn journals_written_by_debugfs_are_replayed() {
    if !have(&["mke2fs", "mount", "cp", "debugfs"]) {
        return;
    }
    let scratch = scratch();
    let path = |name: &str| scratch.path().join(name);
    let (image, copy, mnt) = (path("image"), path("copy"), path("mnt"));
    fs::create_dir(path("tree")).unwrap();
    fs::write(path("tree/file"), pattern(60 * 1024, 1)).unwrap();
    for (options, open_journal) in [
        ("-O ^metadata_csum,64bit", "jo -c"),
        ("-O ^metadata_csum,^64bit", "jo -c"),
        ("-O ^64bit", "jo -c -v 2"),
        ("-O 64bit", "jo -c -v 2"),
        ("-O ^64bit", "jo -c -v 3"),
        ("-O 64bit", "jo -c -v 3"),
        ("-O ^metadata_csum,^64bit", "jo"),
        ("-O 64bit", "jo"),
    ] {
        let what = format!("{options}, {open_journal}");
        let tree = path("tree");
        mke2fs(&image, 20, &format!("-t ext4 -b 1024 -J size=1 -d {} {options}", tree.display()));
        let fs = open(&image);
        let file = fs.read_dir(fs.root(), &mut |e| panic!("{e}")).unwrap();
        let file = file.iter().find(|entry| entry.name == b"file").unwrap().node;
        let content = fs.content(file).unwrap();
        let [Piece::Volume { offset, .. }] = content.pieces[..] else { panic!("{content:?}") };
        let first = offset / 1024;
        // Blocks that start like the journal's own, so that they are escaped.
        let mut data = pattern(8 * 1024, 2);
        for block in data.chunks_mut(1024).step_by(2) {
            block[..4].copy_from_slice(&[0xC0, 0x3B, 0x39, 0x98]);
        }
        fs::write(path("data"), &data).unwrap();
        fs::write(path("again"), pattern(2 * 1024, 3)).unwrap();
        let list =
            |blocks: &[u64]| blocks.iter().map(|b| (first + b).to_string()).collect::<Vec<_>>().join(",");
        let commands = [
            open_journal.to_owned(),
            format!("jw -b {} {}", list(&[0, 3, 4, 5, 10, 11, 12, 13]), path("data").display()),
            format!("jw -r {}", list(&[3, 10, 11])),
            format!("jw -b {} {}", list(&[10, 20]), path("again").display()),
            format!("jw -r {}", list(&[20, 30])),
            "jc".to_owned(),
        ];
        // Without metadata_csum, checksums have version 1. debugfs includes revocation blocks in
        // these; the kernel does not.
        let commands: Vec<_> = commands
            .into_iter()
            .filter(|command| open_journal != "jo -c" || !command.starts_with("jw -r"))
            .collect();
        fs::write(path("commands"), commands.join("\n") + "\n").unwrap();
        run("debugfs", &["-w".as_ref(), "-f".as_ref(), path("commands").as_os_str(), image.as_os_str()]);
        run("cp", &[&image, &copy]);
        let volume = load(&image);
        let fs = open(&image);
        assert!(fs.info().features.iter().any(|f| f == "needs_recovery"), "{what}: not dirty");
        assert_eq!(fs.info().warnings, Vec::<String>::new(), "{what}");
        let ours = ours(&fs, &volume);
        let Some(mount) = Mount::new(&copy, &mnt, "noatime") else { return };
        let kernel = theirs(&mount.path);
        drop(mount);
        assert_same(&what, &ours, &kernel);
        let before = fs::read(path("tree/file")).unwrap();
        let after = fs.content(file).unwrap();
        assert!(after.pieces.len() > 5, "{what}: nothing was replayed: {:?}", after.pieces);
        assert_eq!(before.len() as u64, after.size);
    }
}

#[test]
fn a_damaged_journal_is_replayed_as_far_as_it_goes_and_said_to_be() {
    if !have(&["mke2fs", "debugfs"]) {
        return;
    }
    let scratch = scratch();
    let path = |name: &str| scratch.path().join(name);
    let image = path("image");
    mke2fs(&image, 20, "-t ext4 -b 1024 -J size=1");
    fs::write(path("data"), pattern(2048, 2)).unwrap();
    let commands = format!("jo -c\njw -b 9000,9001 {}\njw -b 9003,9004 {0}\njc\n", path("data").display());
    fs::write(path("commands"), commands).unwrap();
    run("debugfs", &["-w".as_ref(), "-f".as_ref(), path("commands").as_os_str(), image.as_os_str()]);
    let whole = fs::read(&image).unwrap();
    let magic = [0xC0, 0x3B, 0x39, 0x98, 0, 0, 0];
    let find = |kind: u8, nth: usize| {
        let starts = |block: &[u8]| block[..7] == magic && block[7] == kind;
        whole.chunks(1024).enumerate().filter(|(_, b)| starts(b)).nth(nth).unwrap().0 * 1024
    };
    let (superblock, descriptor, second_commit) = (find(4, 0), find(1, 0), find(2, 1));
    for (at, warning) in [
        (superblock + 0x10, "the journal cannot be replayed, so the last changes may be missing"),
        (descriptor + 1024, "transaction 1 in the journal: 1 blocks are damaged and were not replayed"),
        (descriptor + 30, "transaction 1 was committed, but one of its blocks does not match its checksum"),
        (second_commit + 60, "the journal was replayed only up to transaction 2"),
    ] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        let fs =
            mif_formats::fs::ext4::Ext4::open(std::sync::Arc::new(mif_formats::MemSource(bytes))).unwrap();
        let warnings = &fs.info().warnings;
        assert!(warnings.iter().any(|w| w.contains(warning)), "{warnings:?}, expected {warning}");
        assert!(fs.node(fs.root(), &mut |_| ()).is_ok());
    }
}
