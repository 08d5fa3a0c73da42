//! Names that are exchanged while a disk is opened: nothing outside the allowed directory is ever read.
//!
//! Each name leads to a file at one moment, and through a symbolic link to a secret at the next. Opening may succeed or fail, but
//! must not read the secret.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mif_formats::container::{self, OpenOptions};
use mif_formats::{ErrorKind, Source};
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// The number of times a disk is opened while names are exchanged.
const ROUNDS: usize = 1000;
const SECTOR: usize = 512;

/// Exchanges two names in a directory repeatedly until told to stop, and counts the exchanges. It pauses in between, longer and
/// longer up to a limit, so that names change sometimes during an opening and sometimes between two.
fn exchange(folder: &Path, names: [&str; 2], stop: &AtomicBool, count: &AtomicUsize) {
    while !stop.load(Ordering::Relaxed) {
        swap(folder, names);
        let rest = count.fetch_add(1, Ordering::Relaxed) % 128;
        (0..rest * 64).for_each(|_| std::hint::spin_loop());
    }
}

/// Opens the disk at `path` while two threads exchange names, until each has happened a thousand times; no byte may be the
/// secret's.
fn never_reads_the_secret(path: &Path, options: &OpenOptions, pairs: [(&Path, [&str; 2]); 2]) {
    let (stop, counts) = (AtomicBool::new(false), [AtomicUsize::new(0), AtomicUsize::new(0)]);
    std::thread::scope(|scope| {
        for ((folder, names), count) in pairs.into_iter().zip(&counts) {
            let stop = &stop;
            scope.spawn(move || exchange(folder, names, stop, count));
        }
        let mut rounds = 0;
        let leaked = loop {
            let read = || {
                let disk = container::open(path, options).ok()?;
                let len = disk.source.len().min(1 << 20) as usize;
                disk.source.read_vec(0, len).ok()
            };
            rounds += 1;
            let leaked = read().is_some_and(|bytes| bytes.contains(&b'S'));
            let exchanged = counts.iter().all(|count| count.load(Ordering::Relaxed) >= ROUNDS);
            if leaked || rounds >= ROUNDS && exchanged {
                break leaked;
            }
        };
        stop.store(true, Ordering::Relaxed);
        assert!(!leaked, "the secret was read in round {rounds}");
    });
}

/// Makes `inside` with a file and a directory, each beside a link with the name it is exchanged with, and `outside` with secrets
/// of the same names.
fn make(work: &Path, file: &str) {
    let (inside, outside) = (work.join("inside"), work.join("outside"));
    for (folder, byte) in [(&inside, b'i'), (&outside, b'S')] {
        std::fs::create_dir_all(folder.join("sub")).unwrap();
        for name in [file.to_owned(), format!("sub/{file}")] {
            std::fs::write(folder.join(name), [byte; SECTOR]).unwrap();
        }
    }
    std::os::unix::fs::symlink(outside.join(file), inside.join("file-link")).unwrap();
    std::os::unix::fs::symlink(outside.join("sub"), inside.join("sub-link")).unwrap();
}

fn descriptor(extents: &[&str]) -> String {
    let lines: String = extents.iter().map(|name| format!("RW 1 FLAT \"{name}\" 0\n")).collect();
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"custom\"\n{lines}"
    )
}

fn swap(folder: &Path, [a, b]: [&str; 2]) {
    renameat_with(CWD, folder.join(a), CWD, folder.join(b), RenameFlags::EXCHANGE).unwrap();
}

#[test]
fn files_that_an_image_names_are_never_read_from_outside() {
    let work = tempfile::tempdir().unwrap();
    make(work.path(), "ext");
    let inside = work.path().join("inside");
    let path = inside.join("disk.vmdk");
    std::fs::write(&path, descriptor(&["ext", "sub/ext"])).unwrap();
    let options = OpenOptions::default();
    let kind = || container::open(&path, &options).err().map(|e| e.kind());
    assert_eq!(kind(), None);
    for names in [["ext", "file-link"], ["sub", "sub-link"]] {
        swap(&inside, names);
        assert_eq!(kind(), Some(ErrorKind::Denied));
        swap(&inside, names);
    }
    let pairs = [(&*inside, ["ext", "file-link"]), (&*inside, ["sub", "sub-link"])];
    never_reads_the_secret(&path, &options, pairs);
}

#[test]
fn pieces_of_a_split_disk_are_never_read_from_outside() {
    let work = tempfile::tempdir().unwrap();
    make(work.path(), "disk.001");
    let inside = work.path().join("inside");
    for path in [inside.join("disk.000"), inside.join("sub/disk.000")] {
        std::fs::write(path, [b'i'; SECTOR]).unwrap();
    }
    let options = OpenOptions { format: Some("split".into()), ..OpenOptions::default() };
    let pairs = [(&*inside, ["disk.001", "file-link"]), (&*inside, ["sub", "sub-link"])];
    never_reads_the_secret(&inside.join("disk.000"), &options, pairs);
    never_reads_the_secret(&inside.join("sub/disk.000"), &options, pairs);
}

#[test]
fn an_images_own_directory_is_the_one_that_it_was_opened_in() {
    let work = tempfile::tempdir().unwrap();
    make(work.path(), "ext");
    let at = |name: &str| work.path().join(name);
    // The directory that the link leads to has the extent but no image.
    std::os::unix::fs::symlink(at("outside"), at("link")).unwrap();
    let path = at("inside/disk.vmdk");
    std::fs::write(&path, descriptor(&["ext", "sub/ext"])).unwrap();
    let pairs = [(work.path(), ["inside", "link"]), (&*at("outside"), ["ext", "sub/ext"])];
    never_reads_the_secret(&path, &OpenOptions::default(), pairs);
}

#[test]
fn images_that_a_search_found_are_never_read_from_outside() {
    let work = tempfile::tempdir().unwrap();
    make(work.path(), "disk.raw");
    let inside = work.path().join("inside");
    let folders = vec![inside.clone()];
    let options = OpenOptions {
        format: Some("raw".into()),
        allow_paths: folders.clone(),
        searched: folders,
        ..OpenOptions::default()
    };
    let link = inside.join("file-link");
    assert_eq!(container::open(&link, &options).err().unwrap().kind(), ErrorKind::Denied);
    let named = OpenOptions { searched: Vec::new(), ..options.clone() };
    assert!(container::open(&link, &named).is_ok(), "what the user names may be a link");
    let pairs = [(&*inside, ["disk.raw", "file-link"]), (&*inside, ["sub", "sub-link"])];
    for name in ["disk.raw", "sub/disk.raw"] {
        never_reads_the_secret(&inside.join(name), &options, pairs);
    }
}
