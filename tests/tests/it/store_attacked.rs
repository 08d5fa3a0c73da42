//! A store made by somebody else, or one that is unreadable: nothing outside it is read or written, nothing blocks
//! forever, and files that are not known to be damaged are left alone.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use mif_formats::fs::{FileId, FileType, Timestamp};
use mif_formats::mif::manifest::{self, Part, Row};
use mif_tests::disk::{noise, small};
use mif_tests::{have, json, mif, run, run_failing, snapshot, tool, work_folder};

/// The replacements of a file or a directory of the store.
const IMPOSTORS: [&str; 7] = ["link", "fifo", "socket", "directory", "empty", "sparse", "random"];

/// The time limit of a verb on a store of one small image, even on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Returns the verbs on an image `d`, with output to the directory `out`.
fn verbs(disk: &Path, out: &Path) -> Vec<Vec<String>> {
    let (disk, out) = (disk.display().to_string(), out.display().to_string());
    let verbs = [
        "images".to_owned(),
        "ls -R d".into(),
        "cat d /a".into(),
        "info d".into(),
        "log".into(),
        "stats".into(),
        "status".into(),
        "packages".into(),
        "search a".into(),
        format!("search --file {disk}"),
        "diff d d".into(),
        "tag d t".into(),
        format!("verify d {disk}"),
        "verify --all".into(),
        format!("export d {out}/d.raw --force"),
        format!("extract d -o {out}/d.tar --force"),
        "customize d --as e --write /b:c".into(),
        format!("import {disk}"),
        format!("import --verify --reread {disk}"),
        "fsck".into(),
        "gc --dry-run".into(),
        "gc".into(),
        "fsck --repair".into(),
        format!("fsck --repair --from {disk}"),
        "rm d@1 --force".into(),
        "gc".into(),
    ];
    verbs.iter().map(|verb| verb.split(' ').map(str::to_owned).collect()).collect()
}

/// Runs a verb with 3 GB of memory. Panics if it takes too long or is killed.
fn ends(store: &Path, verb: &[String], what: &str) -> Output {
    let mut command = Command::new("bash");
    command.args(["-c", "ulimit -v 3000000; exec \"$0\" \"$@\""]).arg(mif_tests::mif_path()).args(verb);
    command.env("MIF_STORE", store).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("{what}: {verb:?} hangs");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    assert!(code.is_some_and(|code| code <= 5), "{what}: {verb:?}: {code:?}: {errors}");
    assert!(!errors.contains("panicked") && !errors.contains("crashed"), "{what}: {verb:?}: {errors}");
    output
}

fn copy(from: &Path, to: &Path) {
    let _gone = fs::remove_dir_all(to);
    run(tool("cp").arg("-a").arg(from).arg(to));
}

/// Returns all files and directories of a store, relative to it.
fn paths(store: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut left = vec![store.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.strip_prefix(store).unwrap().to_owned());
            if path.is_dir() {
                left.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Replaces `path` by something else; a link leads to `outside`, to an object of the same type.
fn replace(path: &Path, impostor: &str, outside: &Path) -> Option<UnixListener> {
    let is_dir = path.is_dir();
    if is_dir {
        fs::rename(path, outside.join("moved")).unwrap();
    } else {
        fs::rename(path, outside.join("moved.file")).unwrap();
    }
    match impostor {
        "link" if is_dir => symlink(outside.join("moved"), path).unwrap(),
        "link" => symlink(outside.join("moved.file"), path).unwrap(),
        "fifo" => drop(run(tool("mkfifo").arg(path))),
        "socket" => return Some(UnixListener::bind(path).unwrap()),
        "directory" => fs::create_dir(path).unwrap(),
        "empty" => fs::write(path, b"").unwrap(),
        "sparse" => fs::File::create(path).unwrap().set_len(1 << 40).unwrap(),
        _ => fs::write(path, noise(7, 5000)).unwrap(),
    }
    None
}

#[test]
fn whatever_stands_in_the_place_of_a_file_nothing_outside_is_touched_and_every_verb_ends() {
    if !have(&["mke2fs", "cp", "mkfifo", "bash"]) {
        return;
    }
    // A short path, because a socket's path may have at most 108 bytes.
    let work = tempfile::tempdir_in("/tmp").unwrap();
    let disk = small(work.path(), "d", &[("a", b"hello\n"), ("n", &noise(1, 50_000))]);
    let made = work.path().join("made");
    run(mif(&made).arg("import").arg(&disk));
    run(mif(&made).args(["tag", "d", "g"]));
    run(mif(&made).args(["customize", "d", "--as", "x", "--write", "/y:z"]));
    run(mif(&made).args(["rm", "x"]));
    fs::create_dir_all(made.join("tmp")).unwrap();
    let paths = paths(&made);
    assert!(paths.len() > 25, "{paths:?}");
    // Thousands of processes: two threads take half of the paths each.
    std::thread::scope(|scope| {
        for half in 0..2 {
            let (made, disk, work) = (&made, &disk, work.path().join(half.to_string()));
            let paths: Vec<&PathBuf> = paths.iter().skip(half).step_by(2).collect();
            scope.spawn(move || attack(made, disk, &work, &paths));
        }
    });
}

/// Replaces each of `paths` in copies of the store `made` by each impostor, and runs every verb.
fn attack(made: &Path, disk: &Path, work: &Path, paths: &[&PathBuf]) {
    let (store, out, outside) = (work.join("s"), work.join("o"), work.join("v"));
    fs::create_dir_all(&out).unwrap();
    let verbs = verbs(disk, &out);
    for path in paths {
        for impostor in IMPOSTORS {
            copy(made, &store);
            let _gone = fs::remove_dir_all(&outside);
            fs::create_dir_all(outside.join("precious")).unwrap();
            fs::write(outside.join("precious/letter"), b"mine").unwrap();
            let _socket = replace(&store.join(path), impostor, &outside);
            // A directory behind a link also contains a file that is not the store's.
            if outside.join("moved").is_dir() {
                fs::write(outside.join("moved/letter"), b"mine").unwrap();
            }
            let before = snapshot(&outside);
            for verb in &verbs {
                ends(&store, verb, &format!("{} is a {impostor}", path.display()));
                assert_eq!(snapshot(&outside), before, "{} is a {impostor}: {verb:?}", path.display());
            }
        }
    }
}

#[test]
fn gc_and_repair_leave_alone_what_is_not_a_stores_own_and_name_it() {
    if !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    let store = work.path().join("s");
    run(mif(&store).arg("import").arg(small(work.path(), "d", &[("a", b"hello\n")])));
    let pack = fs::read_dir(store.join("packs")).unwrap().next().unwrap().unwrap().path();
    let ours = store.join("images/name=d/version=1");
    let mine = [
        store.join("README"),
        pack.join("notes"),
        store.join("packs/keep/notes"),
        store.join("index/notes.idx"),
        store.join("tmp/systemd-private"),
        ours.join("notes"),
    ];
    for file in &mine {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, b"mine").unwrap();
    }
    // A killed process has left this, with a name in our scheme.
    fs::write(store.join("tmp/upload-0-0123456789abcdef"), b"half").unwrap();
    let report = json(&store, &["gc"]);
    assert_eq!(report["unfinished"], 1, "{report}");
    let strangers = report["strangers"].to_string();
    for name in ["README", "notes", "packs/keep", "index/notes.idx", "tmp/systemd-private"] {
        assert!(strangers.contains(name), "{name}: {report}");
    }
    assert!(run(mif(&store).args(["fsck", "--repair"])).contains("left alone"));
    run(mif(&store).args(["rm", "d"]));
    run(mif(&store).arg("gc"));
    assert!(mine.iter().all(|file| fs::read(file).unwrap() == b"mine"));
    assert!(!ours.join("image.json").exists() && !store.join("tmp/upload-0-0123456789abcdef").exists());
    assert_eq!(json(&store, &["images"]), serde_json::json!([]));
}

#[test]
fn numbers_that_no_store_has_are_damage_and_no_work() {
    if !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    let (made, store, out) = (work.path().join("m"), work.path().join("s"), work.path().join("o"));
    fs::create_dir(&out).unwrap();
    let disk = small(work.path(), "d", &[("a", b"hello\n")]);
    run(mif(&made).arg("import").arg(&disk));
    let mut verbs = verbs(&disk, &out);
    let resize = format!("export d {}/r.raw --force --size +1M --resize p0=max", out.display());
    verbs.push(resize.split(' ').map(str::to_owned).collect());
    let record = "images/name=d/version=1/image.json";
    let json: serde_json::Value = serde_json::from_slice(&fs::read(made.join(record)).unwrap()).unwrap();
    for (place, number) in [
        ("/table/sector_size", 0),
        ("/table/partitions/0/start", u64::MAX),
        ("/table/partitions/0/len", u64::MAX),
        ("/disk_size", u64::MAX),
        ("/counts/content_bytes", u64::MAX),
        ("/counts/file_bytes", u64::MAX),
        ("/provenance/time", u64::MAX),
    ] {
        let mut json = json.clone();
        *json.pointer_mut(place).unwrap() = number.into();
        copy(&made, &store);
        for record in [record, "published/name=d/version=1"] {
            fs::write(store.join(record), json.to_string()).unwrap();
        }
        for verb in &verbs {
            ends(&store, verb, &format!("{place} {number}"));
        }
    }
    // A tag whose values have used up all numbers, and a version that no number can follow.
    copy(&made, &store);
    let tag = store.join("tags/name=d/tag=t");
    fs::create_dir_all(&tag).unwrap();
    fs::write(tag.join(u64::MAX.to_string()), "1\n").unwrap();
    let error = run_failing(mif(&store).args(["tag", "d", "t"]), 5);
    assert!(error.contains("are used up"), "{error}");
    let removed = store.join("removed/name=d");
    fs::create_dir_all(&removed).unwrap();
    fs::write(removed.join(format!("version={}", u32::MAX)), "{}").unwrap();
    let error = run_failing(mif(&store).args(["customize", "d", "--as", "d", "--write", "/x:y"]), 5);
    assert!(error.contains("highest version number"), "{error}");
}

/// A way to damage the rows of a manifest.
type Spoil = (&'static str, fn(&mut Vec<Row>));

fn of_file(rows: &mut [Row]) -> &mut Row {
    rows.iter_mut().find(|row| row.path == b"/n").unwrap()
}

/// Rows that no volume has.
const SPOILT: [Spoil; 29] = [
    ("size", |rows| of_file(rows).node.size = i64::MAX as u64),
    ("size of all", |rows| rows.iter_mut().for_each(|row| row.node.size = i64::MAX as u64)),
    ("nlink", |rows| rows.iter_mut().for_each(|row| row.node.nlink = Some(u32::MAX))),
    ("inode", |rows| rows.iter_mut().for_each(|row| row.node.inode = Some(i64::MAX as u64))),
    ("no inode", |rows| rows.iter_mut().for_each(|row| row.node.inode = None)),
    ("one file", |rows| rows.iter_mut().for_each(|row| row.file = Some(FileId(0)))),
    ("no file", |rows| rows.iter_mut().for_each(|row| row.file = None)),
    ("last file", |rows| rows.iter_mut().for_each(|row| row.file = Some(FileId::MAX))),
    ("stream", |rows| of_file(rows).part = Some(Box::new(Part::Stream(b"../x".to_vec())))),
    ("member", |rows| of_file(rows).part = Some(Box::new(Part::Member(b"/../x".to_vec())))),
    ("one inode", |rows| rows.iter_mut().for_each(|row| row.node.inode = Some(2))),
    ("mode", |rows| rows.iter_mut().for_each(|row| row.node.mode = Some(0o7777))),
    ("owner", |rows| rows.iter_mut().for_each(|row| row.node.uid = Some(u32::MAX))),
    ("early", |rows| {
        rows.iter_mut().for_each(|row| row.node.mtime = Some(Timestamp { secs: i64::MIN, nanos: 0 }))
    }),
    ("late", |rows| {
        rows.iter_mut().for_each(|row| row.node.mtime = Some(Timestamp { secs: i64::MAX, nanos: 9 }))
    }),
    ("nanos", |rows| {
        rows.iter_mut().for_each(|row| row.node.ctime = Some(Timestamp { secs: 0, nanos: u32::MAX }))
    }),
    ("flags", |rows| rows.iter_mut().for_each(|row| row.node.flags = u32::MAX)),
    ("project", |rows| rows.iter_mut().for_each(|row| row.node.project = Some(u32::MAX))),
    ("dot dot", |rows| of_file(rows).path = b"/../../n".to_vec()),
    ("relative", |rows| of_file(rows).path = b"n".to_vec()),
    ("zero", |rows| of_file(rows).path = b"/a\0b".to_vec()),
    ("below a file", |rows| of_file(rows).path = b"/a/b/c".to_vec()),
    ("long", |rows| of_file(rows).path = [b"/".to_vec(), vec![b'x'; 3000]].concat()),
    ("empty", |rows| of_file(rows).path = Vec::new()),
    ("volume", |rows| of_file(rows).volume = "../p0".to_owned()),
    ("no root", |rows| rows.retain(|row| row.path != b"/")),
    ("twice", |rows| rows.extend(rows.clone())),
    ("type", |rows| rows.iter_mut().for_each(|row| row.node.file_type = FileType::Dir)),
    ("link", |rows| {
        let row = of_file(rows);
        (row.node.file_type, row.node.link_target) = (FileType::Symlink, Some(vec![b'/'; 100_000]));
    }),
];

#[test]
fn rows_that_no_volume_has_end_no_verb_and_write_nothing_outside() {
    if !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    let (made, store, out) = (work.path().join("m"), work.path().join("s"), work.path().join("o/o/o"));
    fs::create_dir_all(&out).unwrap();
    let disk = small(work.path(), "d", &[("a", b"hello\n"), ("n", &noise(1, 50_000))]);
    run(mif(&made).arg("import").arg(&disk));
    let mut verbs = verbs(&disk, &out);
    for more in
        ["export d {}/r.raw --force --size +1M --resize p0=max", "extract d -o {}/x", "ls d --format mtree"]
    {
        let more = more.replace("{}", &out.display().to_string());
        verbs.push(more.split(' ').map(str::to_owned).collect());
    }
    let folder = "images/name=d/version=1";
    let digest = |bytes: &[u8]| mif_formats::mif::ObjectId::of(bytes).to_string();
    let mut listed = 0;
    for (what, spoil) in SPOILT {
        copy(&made, &store);
        let file = store.join(folder).join("manifest.parquet");
        let mut rows = manifest::read(bytes::Bytes::from(fs::read(&file).unwrap())).unwrap();
        spoil(&mut rows);
        let mut spoilt = Vec::new();
        manifest::write(&mut spoilt, &rows).unwrap();
        let digests = mif_formats::mif::digests::encode(&rows);
        let mut json: serde_json::Value =
            serde_json::from_slice(&fs::read(store.join(folder).join("image.json")).unwrap()).unwrap();
        json["manifest_digest"] = digest(&spoilt).into();
        json["tables"]["digests"] = digest(&digests).into();
        fs::write(file, spoilt).unwrap();
        fs::write(store.join(folder).join("digests"), digests).unwrap();
        for record in [format!("{folder}/image.json"), "published/name=d/version=1".to_owned()] {
            fs::write(store.join(record), json.to_string()).unwrap();
        }
        let list = ends(&store, &["ls", "-R", "d"].map(str::to_owned), what);
        listed += u32::from(list.status.success());
        let _gone = fs::remove_dir_all(out.join("x"));
        for verb in &verbs {
            ends(&store, verb, what);
        }
        // Only the requested output exists.
        for folder in [work.path().join("o"), work.path().join("o/o")] {
            assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "{what}: {}", folder.display());
        }
    }
    assert!(listed > 8, "most of them were refused before any verb met them: {listed} were listed");
}

#[test]
fn packs_behind_a_link_are_used_only_if_that_is_said() {
    if !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    let (store, elsewhere) = (work.path().join("s"), work.path().join("elsewhere"));
    let disk = small(work.path(), "d", &[("a", b"hello\n")]);
    run(mif(&store).arg("import").arg(&disk));
    fs::rename(store.join("packs"), &elsewhere).unwrap();
    symlink(&elsewhere, store.join("packs")).unwrap();
    let error = run_failing(mif(&store).arg("gc"), 5);
    assert!(error.contains("packs is a symbolic link") && error.contains("MIF_STORE_LINKS=1"), "{error}");
    let allowed = |arguments: &[&str]| run(mif(&store).env("MIF_STORE_LINKS", "1").args(arguments));
    allowed(&["customize", "d", "--as", "e", "--write", "/x:y"]);
    allowed(&["rm", "e"]);
    allowed(&["gc"]);
    assert!(allowed(&["fsck"]).starts_with("whole "));
    allowed(&["verify", "d", disk.to_str().unwrap()]);
    // Links further down are still not followed.
    for (number, folder) in fs::read_dir(&elsewhere).unwrap().enumerate() {
        let (folder, further) = (folder.unwrap().path(), work.path().join(number.to_string()));
        fs::rename(&folder, &further).unwrap();
        symlink(further, folder).unwrap();
    }
    run_failing(mif(&store).env("MIF_STORE_LINKS", "1").args(["verify", "d", disk.to_str().unwrap()]), 5);
}

/// Returns a command as a user that owns nothing here; `None` if the tests do not run as root.
fn as_nobody(store: &Path, arguments: &[&str]) -> Option<Command> {
    if !mif_tests::is_root() {
        return None;
    }
    let mut command = tool("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(mif_tests::mif_path());
    command.env("MIF_STORE", store).args(arguments).stdin(Stdio::null());
    Some(command)
}

#[test]
fn what_cannot_be_read_is_not_called_damaged_and_nothing_is_repaired_then() {
    if !have(&["mke2fs", "setpriv", "chown", "chmod"]) || !mif_tests::is_root() {
        return;
    }
    let work = tempfile::tempdir_in("/tmp").unwrap();
    fs::set_permissions(work.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let disk = small(work.path(), "d", &[("a", b"hello\n"), ("n", &noise(1, 50_000))]);
    let store = work.path().join("s");
    run(mif(&store).arg("import").arg(&disk));
    // Creates the lock.
    run(mif(&store).arg("gc"));
    run(tool("chown").args(["-R", "65534:65534"]).arg(&store));
    for path in paths(&store) {
        // Nothing depends on the list of packs.
        if path.ends_with("version=1/packs") {
            continue;
        }
        let unreadable = store.join(&path);
        // Copies and the lock are not needed.
        let needed = ["packs", "index", "images", "store.json"].iter().any(|top| path.starts_with(top));
        if !needed {
            continue;
        }
        let mode = fs::metadata(&unreadable).unwrap().mode();
        run(tool("chmod").arg("000").arg(&unreadable));
        // A check leaves a note of how it ended.
        let files = || -> Vec<_> {
            let all = snapshot(&store).into_iter();
            all.filter(|(path, _)| !path.ends_with("checked.json")).collect()
        };
        let before = files();
        let what = path.display().to_string();
        for verb in [&["fsck"][..], &["fsck", "--repair"], &["gc"], &["verify", "--all"]] {
            let output = as_nobody(&store, verb).unwrap().output().unwrap();
            let text = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            let code = output.status.code().unwrap();
            // gc does not need every file, and removes nothing here.
            if verb != ["gc"] || code != 0 {
                assert!([1, 5].contains(&code), "{what}: {verb:?}: {text}");
                assert!(text.contains("Permission denied"), "{what}: {verb:?}: {text}");
            }
            assert!(!text.contains("repaired:") && !text.contains("gc removes"), "{what}: {verb:?}: {text}");
            assert_eq!(files(), before, "{what}: {verb:?}: {text}");
        }
        fs::set_permissions(&unreadable, fs::Permissions::from_mode(mode)).unwrap();
    }
    let whole = run(&mut as_nobody(&store, &["fsck"]).unwrap());
    assert!(whole.starts_with("whole "), "{whole}");
}

#[test]
fn a_new_store_is_its_owners_alone_and_a_shared_one_its_groups() {
    if !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    let disk = small(work.path(), "d", &[("a", b"hello\n")]);
    let modes = |store: &Path| {
        let modes = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        let (folders, files): (Vec<_>, Vec<_>) =
            paths(store).into_iter().map(|path| store.join(path)).partition(|path| path.is_dir());
        let mut all: Vec<u32> = folders.iter().map(|path| modes(path)).collect();
        all.extend(files.iter().map(|path| modes(path) | 0o10_0000));
        all.push(modes(store));
        all.sort_unstable();
        all.dedup();
        all
    };
    let umask = |store: &Path, mask: &str, arguments: &[&str]| {
        let mut command = tool("bash");
        command.args(["-c", "umask $0; exec \"$@\"", mask]).arg(mif_tests::mif_path()).args(arguments);
        run(command.env("MIF_STORE", store))
    };
    let disk = disk.to_str().unwrap();
    for mask in ["022", "000", "077"] {
        let store = work.path().join(format!("own-{mask}"));
        umask(&store, mask, &["import", disk]);
        umask(&store, mask, &["customize", "d", "--as", "e", "--write", "/x:y"]);
        umask(&store, mask, &["rm", "e"]);
        assert_eq!(modes(&store), [0o700, 0o10_0600], "{mask}");
    }
    // A directory that already existed becomes private too.
    let store = work.path().join("there");
    fs::create_dir(&store).unwrap();
    run(mif(&store).args(["import", disk]));
    assert_eq!(modes(&store), [0o700, 0o10_0600]);
    let store = work.path().join("shared");
    let group = fs::metadata(work.path()).unwrap().gid().to_string();
    umask(&store, "077", &["import", "--shared", &group, disk]);
    assert_eq!(modes(&store), [0o2770, 0o10_0660]);
    let error = run_failing(mif(&store).args(["import", "--shared", &group, disk]), 2);
    assert!(error.contains("already exists"), "{error}");
    run_failing(mif(&work.path().join("x")).args(["import", "--shared", "no such group", disk]), 2);
}

#[test]
fn few_descriptors_suffice() {
    if !have(&["mke2fs", "bash"]) {
        return;
    }
    let work = work_folder();
    let out = work.path().join("out");
    fs::create_dir(&out).unwrap();
    let store = work.path().join("s");
    let mut disks = Vec::new();
    for number in 0..40 {
        let file = noise(number, 20_000);
        disks.push(small(work.path(), &format!("d{number}"), &[("a", b"hello\n"), ("n", &file)]));
        run(mif(&store).arg("import").arg(&disks[number as usize]));
    }
    let disk = small(work.path(), "d", &[("a", b"hello\n"), ("n", &noise(1, 50_000))]);
    run(mif(&store).arg("import").arg(&disk));
    for verb in verbs(&disk, &out) {
        let mut command = tool("bash");
        command.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""]).arg(mif_tests::mif_path()).args(&verb);
        let output = command.env("MIF_STORE", &store).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!errors.contains("Too many open files"), "{verb:?}: {errors}");
        assert!([0, 1].contains(&output.status.code().unwrap()), "{verb:?}: {errors}");
    }
}
