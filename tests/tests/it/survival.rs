//! The contents of the store survive whatever happens to an import: SIGKILL, a full disk, a failing read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use mif_tests::fault::{self, Fault, Faults};
use mif_tests::random::Random;
use mif_tests::{WorkFolder, files, have, is_root, mif, run, run_failing, snapshot, tool, work_folder};
use serde_json::Value;

/// The number of imports that are killed.
const KILLS: u32 = 100;

/// Makes an ext4 disk with files of noise: `shared` on every disk, `own` only on this one.
fn disk(work: &Path, path: &Path, seed: u64) {
    let tree = work.join("tree");
    fs::create_dir_all(tree.join("etc")).unwrap();
    let noise = |name: &str, seed: u64, len: usize| {
        let mut bytes = vec![0; len];
        Random(seed).fill(&mut bytes);
        fs::write(tree.join(name), bytes).unwrap();
    };
    for number in 0..20 {
        noise(&format!("shared-{number}"), number, 30_000);
        noise(&format!("etc/own-{number}"), seed * 1000 + number, 20_000);
    }
    noise("large", seed, 5 << 20);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::File::create(path).unwrap().set_len(16 << 20).unwrap();
    run(tool("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(&tree).arg(path));
    fs::remove_dir_all(&tree).unwrap();
}

/// Returns `name@version` of all images.
fn images(store: &Path) -> Vec<String> {
    let output = mif(store).args(["--json", "images"]).output().unwrap();
    // An import that is killed very early has not even made a store.
    let images: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Array(Vec::new()));
    let id = |image: &Value| format!("{}@{}", image["name"].as_str().unwrap(), image["version"]);
    images.as_array().unwrap().iter().map(id).collect()
}

/// Asserts that the whole store is intact, and that every image equals the file it was imported from.
fn assert_good(store: &Path, lib: &Path) {
    run(mif(store).arg("fsck"));
    run(mif(store).args(["verify", "--all", "--against"]).arg(lib));
}

fn import(store: &Path, lib: &Path, jobs: u64) -> Child {
    let mut command = mif(store);
    command.args(["--quiet", "import", "--jobs", &jobs.to_string()]).arg(lib);
    command.stdout(Stdio::null()).spawn().unwrap()
}

#[test]
fn two_imports_killed_a_hundred_times_lose_nothing_and_are_finished_by_running_them_again() {
    if !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    let lib = work.path().join("lib");
    for (seed, name) in ["left/a", "left/b", "left/c", "right/d", "right/e", "right/f"].iter().enumerate() {
        disk(work.path(), &lib.join(format!("{name}.raw")), 100 + seed as u64);
    }
    let source = |image: &str| {
        let name = image.split('@').next().unwrap();
        let side = if name < "d" { "left" } else { "right" };
        lib.join(side).join(format!("{name}.raw"))
    };
    let mut random = Random(1);
    let mut kills = 0;
    let mut stores = 0;
    // The duration of an undisturbed run of both, measured first.
    let mut whole = Duration::MAX;
    while kills < KILLS {
        stores += 1;
        assert!(stores < 200, "they are never hit: {kills} kills");
        let store = work.path().join(format!("store-{stores}"));
        let mut before: Vec<String> = Vec::new();
        loop {
            let started = Instant::now();
            let mut both = ["left", "right"].map(|side| import(&store, &lib.join(side), 1 + random.below(2)));
            // Sometimes nobody is killed, so that a store is finished and checked as a whole.
            let delay = match random.below(12) {
                0 => Duration::MAX,
                _ if whole == Duration::MAX => whole,
                _ => whole.mul_f64(random.below(600) as f64 / 1000.0),
            };
            let mut ended = 0;
            while started.elapsed() < delay && ended < 2 {
                std::thread::sleep(Duration::from_millis(1));
                ended = both.iter_mut().filter_map(|child| child.try_wait().unwrap()).count();
            }
            let mut succeeded = 0;
            for child in &mut both {
                // SIGKILL.
                let _ = child.kill();
                let status = child.wait().unwrap();
                succeeded += u32::from(status.success());
                kills += u32::from(status.code().is_none());
                assert!(status.success() || status.code().is_none(), "{status}");
            }
            let now = images(&store);
            assert!(before.iter().all(|image| now.contains(image)), "{before:?} {now:?}");
            for image in now.iter().filter(|image| !before.contains(image)) {
                run(mif(&store).args(["verify", image]).arg(source(image)));
            }
            if store.join("store.json").exists() {
                run(mif(&store).arg("fsck"));
            }
            before = now;
            if succeeded == 2 {
                whole = whole.min(started.elapsed());
                break;
            }
        }
        // Each once: an import that was killed after it published an image has not imported it again.
        assert_eq!(before, ["a@1", "b@1", "c@1", "d@1", "e@1", "f@1"]);
        assert_good(&store, &lib);
        run(mif(&store).arg("gc"));
        assert!(fs::read_dir(store.join("tmp")).unwrap().next().is_none(), "gc leaves what was not finished");
        let stats: Value = serde_json::from_str(&run(mif(&store).args(["--json", "stats"]))).unwrap();
        let [garbage, stored] = ["garbage_bytes", "stored_bytes"].map(|key| stats[key].as_u64().unwrap());
        assert!(garbage < stored, "gc keeps a pack that is mostly needed, and no other: {stats}");
        assert_good(&store, &lib);
        fs::remove_dir_all(&store).unwrap();
    }
    println!("{kills} imports killed over {stores} stores");
}

/// A store with one image, and a directory with that and two more to import.
struct Half {
    work: WorkFolder,
}

impl Half {
    fn new() -> Self {
        let half = Half { work: work_folder() };
        for (seed, name) in ["first", "second", "third"].iter().enumerate() {
            disk(half.work.path(), &half.lib().join(format!("{name}.raw")), seed as u64 + 1);
        }
        run(mif(&half.store()).arg("import").arg(half.lib().join("first.raw")));
        half
    }

    fn at(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    fn lib(&self) -> PathBuf {
        self.at("lib")
    }

    fn store(&self) -> PathBuf {
        self.at("store")
    }
}

#[test]
fn a_store_that_cannot_be_written_to_at_any_point_keeps_what_it_has_and_goes_on_later() {
    if !have(&["mke2fs"]) || !have(fault::TOOLS) {
        return;
    }
    let half = Half::new();
    let faults = Faults::new(half.work.path());
    let whole: u64 = {
        let copy = half.at("copy");
        run(mif(&copy).arg("import").arg(half.lib()));
        snapshot(&copy).iter().map(|(_, len)| len).sum()
    };
    // From the first byte to the last, and more densely where the pack is finished and index and image are written.
    let ends = (0..30).map(|n| whole * 2 / 3 + n * (whole / 3) / 30);
    let rooms = [0, 1, 5000, whole / 8, whole / 3].into_iter().chain(ends);
    let syncs = (1..12).map(Fault::SyncAt);
    let (mut failed, mut done) = (0, 0);
    for fault in rooms.map(Fault::WriteAfter).chain(syncs) {
        let store = half.at("try");
        run(tool("cp").arg("-a").arg(half.store()).arg(&store));
        let output = faults.mif(&store, &store, fault).arg("import").arg(half.lib()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            // There was enough room.
            Some(0) => done += 1,
            code => {
                failed += 1;
                assert_eq!(code, Some(5), "{fault:?}: {error}");
                let says = if matches!(fault, Fault::SyncAt(_)) { "Input/output" } else { "No space left" };
                assert!(error.contains(says) && error.contains("try"), "{fault:?}: {error}");
            }
        }
        run(mif(&store).args(["verify", "first@1"]).arg(half.lib().join("first.raw")));
        run(mif(&store).arg("fsck"));
        run(mif(&store).arg("import").arg(half.lib()));
        assert_eq!(images(&store), ["first@1", "second@1", "third@1"], "{fault:?}");
        assert_good(&store, &half.lib());
        fs::remove_dir_all(&store).unwrap();
    }
    assert!(failed > 15 && done > 0, "{failed} failed, {done} did not");
}

/// A filesystem of a few mebibytes, which is unmounted at the end.
struct Small(PathBuf);

impl Small {
    /// Mounts it; `None` if the machine does not allow that.
    fn new(path: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir(&path).unwrap();
        let mut mount = tool("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(&path);
        mount.output().is_ok_and(|output| output.status.success()).then_some(Small(path))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = tool("umount").arg(&self.0).status();
    }
}

#[test]
fn a_disk_that_is_full_loses_nothing_and_more_room_is_all_that_it_needs() {
    if !have(&["mke2fs", "mount"]) {
        return;
    }
    let half = Half::new();
    let small = if is_root() { Small::new(half.at("small"), "14m") } else { None };
    let Some(small) = small else {
        // No tool is missing, and the previous test simulates full disks.
        eprintln!("\n*** NOT RUN: this user or machine cannot mount a small filesystem ***\n");
        return;
    };
    let store = small.0.join("store");
    run(mif(&store).arg("import").arg(half.lib().join("first.raw")));
    for arguments in [&["import"][..], &["import", "--jobs", "1"]] {
        let error = run_failing(mif(&store).args(arguments).arg(half.lib()), 5);
        assert!(error.contains("No space left on device") && error.contains("store"), "{error}");
        run(mif(&store).args(["verify", "first"]).arg(half.lib().join("first.raw")));
        run(mif(&store).arg("fsck"));
    }
    // Exporting to a full disk is an error, and leaves no partial file.
    let out = small.0.join("out.raw");
    let ballast = small.0.join("ballast");
    let _full = tool("dd").args(["if=/dev/zero", "bs=64k"]).arg(format!("of={}", ballast.display())).output();
    let error = run_failing(mif(&store).args(["export", "first"]).arg(&out), 5);
    assert!(error.contains("No space left on device") && error.contains("out.raw"), "{error}");
    let error =
        run_failing(mif(&store).args(["export", "--format", "qcow2", "--all"]).arg(small.0.join("all")), 1);
    assert!(error.contains("No space left on device"), "{error}");
    fs::remove_file(&ballast).unwrap();
    let left: Vec<_> = snapshot(&small.0).into_iter().filter(|(path, _)| !path.starts_with(&store)).collect();
    assert!(left.is_empty(), "{left:?}");
    run(tool("mount").args(["-o", "remount,size=64m"]).arg(&small.0));
    run(mif(&store).arg("import").arg(half.lib()));
    assert_eq!(images(&store), ["first@1", "second@1", "third@1"]);
    run(mif(&store).arg("gc"));
    assert_good(&store, &half.lib());
    // On a disk without a free byte, the commands that make room still work: removing a version whose packs are not
    // shared.
    run(mif(&store).args(["rm", "third"]));
    run(mif(&store).arg("gc"));
    run(mif(&store).arg("import").arg(half.lib().join("third.raw")));
    let _full = tool("dd").args(["if=/dev/zero", "bs=4k"]).arg(format!("of={}", ballast.display())).output();
    let used = || snapshot(&store).iter().map(|(_, len)| len).sum::<u64>();
    let before = used();
    run(mif(&store).args(["rm", "third"]));
    run(mif(&store).arg("gc"));
    assert!(used() + (5 << 20) < before, "{} of {before}", used());
    fs::remove_file(&ballast).unwrap();
    assert_eq!(images(&store), ["first@1", "second@1"]);
    run(mif(&store).arg("fsck"));
    // The number is not reused.
    run(mif(&store).arg("import").arg(half.lib().join("third.raw")));
    assert_eq!(images(&store), ["first@1", "second@1", "third@3"]);
    // Not even a directory can be created, though recording the first removed version of a name needs one.
    let inodes = run(tool("df").arg("--output=iused").arg(&small.0));
    let used = inodes.lines().last().unwrap().trim().to_owned();
    run(tool("mount").args(["-o", &format!("remount,nr_inodes={used}")]).arg(&small.0));
    run(mif(&store).args(["rm", "second"]));
    assert_eq!(images(&store), ["first@1", "third@3"]);
    run(mif(&store).arg("fsck"));
}

#[test]
fn a_read_that_fails_is_told_with_file_and_place_and_costs_that_image_alone() {
    if !have(&["mke2fs"]) || !have(fault::TOOLS) {
        return;
    }
    let half = Half::new();
    let faults = Faults::new(half.work.path());
    let second = half.lib().join("second.raw");
    let bytes = fs::read(&second).unwrap();
    let large = bytes.chunks(4096).rposition(|block| block.iter().any(|b| *b != 0)).unwrap() as u64 * 4096;
    // In the superblock, in the middle of the used part, and in its last block.
    for at in [1024, large / 2, large] {
        let before = snapshot(&half.store());
        let error =
            run_failing(faults.mif(&half.store(), &second, Fault::ReadAt(at)).arg("import").arg(&second), 5);
        assert!(error.contains("second.raw") && error.contains("at byte "), "{error}");
        let byte: u64 = error.split("at byte ").nth(1).unwrap().split(':').next().unwrap().parse().unwrap();
        assert!(byte <= at && at - byte < 64 << 20, "{at}: {error}");
        assert_eq!(snapshot(&half.store()), before, "{at}");
        let output = faults
            .mif(&half.store(), &second, Fault::ReadAt(at))
            .args(["--json", "import"])
            .arg(half.lib())
            .output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(1));
        let events = String::from_utf8(output.stdout).unwrap();
        let failed = events.lines().find(|line| line.contains("\"failed\",")).expect("an event");
        let failed: Value = serde_json::from_str(failed).unwrap();
        assert_eq!(failed["code"], 5);
        assert!(failed["source"].as_str().unwrap().ends_with("second.raw"), "{failed}");
        assert_eq!(images(&half.store()), ["first@1", "third@1"]);
        run(mif(&half.store()).arg("fsck"));
    }
    run(mif(&half.store()).arg("import").arg(half.lib()));
    assert_eq!(images(&half.store()), ["first@1", "second@1", "third@1"]);
    assert_good(&half.store(), &half.lib());
    // A store that cannot be read: no partial disk is left, and the error names the pack.
    let out = half.at("out.raw");
    let packs = half.store().join("packs");
    let error = run_failing(
        faults.mif(&half.store(), &packs, Fault::ReadAt(100_000)).args(["export", "first"]).arg(&out),
        5,
    );
    assert!(error.contains(".pack") && error.contains("Input/output error"), "{error}");
    assert!(!out.exists());
    // A file that cannot be read back does not replace the existing one.
    for (name, at) in [("there.raw", 1024), ("there.qcow2", 65536), ("there.vmdk", 65536)] {
        let there = half.at(name);
        fs::write(&there, "kept").unwrap();
        let unfinished = half.at(&format!(".{name}"));
        let mut convert = faults.mif(&half.store(), &unfinished, Fault::ReadAt(at));
        convert.args(["convert", "--force", "--verify"]).arg(&second).arg(&there);
        let error = run_failing(&mut convert, 5);
        assert!(error.contains(name) && error.contains("Input/output error"), "{error}");
        assert_eq!(fs::read(&there).unwrap(), b"kept");
        let left = files(half.work.path(), ".part");
        assert!(left.is_empty(), "{left:?}");
    }
}
