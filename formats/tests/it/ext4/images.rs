//! The damaged and unusual volumes of e2fsprogs' own tests: none may make the reader panic, hang or use much
//! memory, and undamaged ones must be listed as debugfs lists them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mif_formats::fs::ext4::Ext4;
use mif_formats::fs::{FileType, Filesystem};

use crate::mutants::peak_memory;
use crate::tools::{FileVolume, have, have_at, in_own_process, run, scratch, try_run};
use crate::view::try_ours;

/// The most time that reading one volume may take.
const TIME_MAX: Duration = Duration::from_secs(10);
const MEMORY_MAX: u64 = 512 << 20;

/// Returns the volumes that `fixtures/e2fsprogs-images.sh` fetches; none if they are missing.
fn images() -> Vec<PathBuf> {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/cache/e2fsprogs");
    if !have_at(&cache) {
        return Vec::new();
    }
    let mut images: Vec<_> = fs::read_dir(&cache)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "img"))
        .collect();
    images.sort();
    assert!(images.len() > 200, "only {} volumes in {}", images.len(), cache.display());
    images
}

/// Returns the peak memory of this process since the last call, in bytes.
fn take_peak_memory() -> u64 {
    let peak = peak_memory();
    fs::write("/proc/self/clear_refs", "5").unwrap();
    peak
}

/// What debugfs reports for each path: inode, mode, owner, group, size.
type Listing = BTreeMap<String, (u64, u32, u32, u32, u64)>;

/// Lists a volume with debugfs, directory by directory.
fn debugfs_list(image: &Path) -> Listing {
    let mut listing = Listing::new();
    let mut todo = vec![(String::new(), 2)];
    while !todo.is_empty() {
        let mut script = String::new();
        for (_, inode) in &todo {
            script += &format!("ls -p <{inode}>\n");
        }
        let mut child = Command::new("debugfs")
            .args(["-f", "-"])
            .arg(image)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(script.as_bytes()).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let folders = std::mem::take(&mut todo);
        let mut folder = 0;
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("debugfs: ls -p <") {
                let inode: u64 = rest.trim_end_matches('>').parse().unwrap();
                folder = folders.iter().position(|(_, i)| *i == inode).unwrap();
                continue;
            }
            let fields: Vec<&str> = line.split('/').collect();
            let [_, inode, mode, uid, gid, name, size, ..] = fields[..] else { continue };
            if name == "." || name == ".." || inode == "0" {
                continue;
            }
            let mode = u32::from_str_radix(mode, 8).unwrap();
            let path = format!("{}/{name}", folders[folder].0);
            let (inode, uid, gid) = (inode.parse().unwrap(), uid.parse().unwrap(), gid.parse().unwrap());
            if mode >> 12 == 4 && listing.len() < 100_000 {
                todo.push((path.clone(), inode));
            }
            listing.insert(path, (inode, mode & 0xFFF, uid, gid, size.parse().unwrap_or(0)));
        }
    }
    listing
}

#[test]
fn every_volume_of_e2fsprogs_tests_is_read_or_refused_in_little_time_and_memory() {
    if !in_own_process() {
        return;
    }
    for image in images() {
        let name = image.file_stem().unwrap().to_string_lossy().into_owned();
        take_peak_memory();
        let start = Instant::now();
        let volume = FileVolume::open(&image);
        let mut complaints = Vec::new();
        let outcome = match Ext4::open(volume.clone()) {
            Ok(fs) => {
                let view = try_ours(&fs, &volume, &mut complaints);
                format!(
                    "{} paths, {} warnings, {} errors",
                    view.len(),
                    fs.info().warnings.len(),
                    complaints.len()
                )
            }
            Err(error) => error.to_string(),
        };
        let (time, memory) = (start.elapsed(), take_peak_memory());
        println!("{name}: {outcome} ({time:.0?}, {} MiB)", memory >> 20);
        assert!(time < TIME_MAX, "{name}: took {time:?}");
        assert!(memory < MEMORY_MAX, "{name}: took {memory} bytes");
    }
}

#[test]
fn volumes_that_are_clean_or_need_only_replay_are_listed_as_debugfs_lists_them() {
    if !have(&["debugfs", "e2fsck", "dumpe2fs", "timeout", "cp"]) {
        return;
    }
    let scratch = scratch();
    let copy = scratch.path().join("copy");
    let mut compared = 0;
    let mut wrong = Vec::new();
    for image in images() {
        let name = image.file_stem().unwrap().to_string_lossy().into_owned();
        // Some of these volumes make e2fsck -n loop forever, and then it may ignore SIGTERM too.
        let tool = |command: &str| {
            let command = format!("-k 1 5 {command}");
            let args = command.split(' ').map(OsStr::new).chain([copy.as_os_str()]);
            try_run("timeout", &args.collect::<Vec<_>>())
        };
        run("cp", &["--sparse=always".as_ref(), image.as_os_str(), copy.as_os_str()]);
        let is_dirty = String::from_utf8_lossy(&tool("dumpe2fs -h").stdout).contains("needs_recovery");
        if is_dirty {
            tool("e2fsck -y -E journal_only");
        }
        if !tool("e2fsck -fn").status.success() {
            continue;
        }
        tool("e2fsck -p");
        let volume = FileVolume::open(&image);
        let mut complaints = Vec::new();
        let fs = match Ext4::open(volume.clone()) {
            Ok(fs) => fs,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        let view = try_ours(&fs, &volume, &mut complaints);
        let ours: Listing = view
            .into_iter()
            .filter(|(path, _)| !path.is_empty())
            .map(|(path, e)| {
                // debugfs reports no size for these.
                let size = if e.rdev.is_some() || e.file_type == FileType::Dir { 0 } else { e.size };
                let facts = (e.inode, u32::from(e.mode), e.uid, e.gid, size);
                (String::from_utf8_lossy(&path).into_owned(), facts)
            })
            .collect();
        let theirs = debugfs_list(&copy);
        // debugfs cannot open f_first_meta_bg_too_big. e2fsck accepts that the extent tree of
        // f_extent_too_deep is deeper than the kernel reads, and it hides the journal of f_journal.
        if theirs.is_empty() || ["f_extent_too_deep", "f_journal"].contains(&&*name) {
            continue;
        }
        compared += 1;
        if ours != theirs || !complaints.is_empty() {
            let only = |a: &Listing, b: &Listing| {
                a.iter()
                    .filter(|(k, v)| b.get(*k) != Some(v))
                    .take(3)
                    .map(|x| format!("{x:?}"))
                    .collect::<Vec<_>>()
            };
            wrong.push(format!(
                "{name}: ours {:?}, theirs {:?}, complaints {:?}",
                only(&ours, &theirs),
                only(&theirs, &ours),
                complaints.first()
            ));
        }
    }
    println!("{compared} volumes compared");
    assert!(wrong.is_empty(), "{} of {compared} volumes differ:\n{}", wrong.len(), wrong.join("\n"));
}
