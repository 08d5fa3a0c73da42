//! `verify --independent`: third-party readers on disks made by the real tools.

use std::fs;
use std::path::{Path, PathBuf};

use mif_tests::dissect::{assert_dissect_agrees, have_dissect};
use mif_tests::{have, is_root, json, mif, repo, run, run_failing, skip, tool, work_folder};
use serde_json::Value;

fn independent(store: &Path, image: &str) -> Value {
    let out = run(mif(store).args(["verify", image, "--independent", "--json"]));
    serde_json::from_str(&out).expect("a report")
}

/// Does the same for an image that the other readers read differently.
fn independent_failing(store: &Path, image: &str) -> Value {
    let output = mif(store).args(["verify", image, "--independent", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    serde_json::from_slice(&output.stdout).expect("a report")
}

fn count(part: &Value, what: &str) -> u64 {
    part[what].as_u64().expect("a count")
}

#[test]
fn other_readers_agree_on_the_committed_disk_and_what_they_cannot_read_is_said() {
    let folder = work_folder();
    let store = folder.path().join("store");
    let demo = repo().join("fixtures/demo.qcow2");
    run(mif(&store).arg("import").arg(&demo));
    for image in ["demo", demo.to_str().unwrap()] {
        let report = independent(&store, image);
        assert_eq!(report["same"], true);
        let parts = report["parts"].as_array().unwrap();
        let compared: Vec<_> = parts
            .iter()
            .map(|part| (part["reader"].as_str(), count(part, "compared"), count(part, "unchecked")))
            .collect();
        // ext4-view supports no time before 1970 or after 2038; p14 holds boot code.
        assert_eq!(
            compared,
            [
                (Some("gpt 4.1"), 3, 0),
                (Some("ext4-view 1.0"), 34, 2),
                (None, 0, 1),
                (Some("fatfs 0.3"), 9, 0)
            ]
        );
        let unchecked: Vec<_> = parts[1]["not_compared"].as_array().unwrap().iter().map(|p| &p[0]).collect();
        assert_eq!(unchecked, ["/home/ada/new", "/home/ada/old"]);
    }
}

/// Replaces one stored image's manifest by another's.
fn swap_manifest(store: &Path, from: &str, to: &str) {
    let folder = |name: &str| store.join(format!("images/name={name}/version=1"));
    let record = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(folder(name).join("image.json")).unwrap()).unwrap()
    };
    fs::copy(folder(from).join("manifest.parquet"), folder(to).join("manifest.parquet")).unwrap();
    let mut lie = record(to);
    lie["manifest_digest"] = record(from)["manifest_digest"].clone();
    fs::write(folder(to).join("image.json"), lie.to_string()).unwrap();
}

#[test]
fn a_manifest_that_lies_is_found_by_the_other_readers() {
    let folder = work_folder();
    let at = |name: &str| folder.path().join(name);
    let store = at("store");
    run(mif(&store).arg("convert").arg(repo().join("fixtures/demo.qcow2")).arg(at("true.raw")));
    let mut disk = fs::read(at("true.raw")).unwrap();
    let content = b"PRETTY_NAME";
    let place = disk.windows(content.len()).position(|bytes| bytes == content).expect("an os-release");
    disk[place] ^= 1;
    fs::write(at("false.raw"), disk).unwrap();
    run(mif(&store).arg("import").arg(at("true.raw")).arg(at("false.raw")));
    assert_eq!(independent(&store, "false")["same"], true);
    // The manifest of one disk with the bits of the other.
    swap_manifest(&store, "true", "false");
    let output = mif(&store).args(["verify", "false", "--independent"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("os-release: content: SHA-1s differ"), "{text}");
    assert_eq!(text.matches("differs:").count(), 1, "{text}");
}

#[test]
fn blocks_that_were_never_written_are_unchecked_and_not_different() {
    if !have(&["mke2fs", "debugfs"]) {
        return;
    }
    let folder = work_folder();
    let volume = folder.path().join("volume");
    fs::write(&volume, vec![0xAA; 4 << 20]).unwrap();
    run(tool("mke2fs").args(["-q", "-F", "-t", "ext4", "-b", "1024", "-E", "nodiscard"]).arg(&volume));
    fs::write(folder.path().join("local"), vec![7; 5000]).unwrap();
    let commands = folder.path().join("commands");
    let local = folder.path().join("local");
    let script = format!("write {} file\nfallocate file 5 9\nsif file size 10000\nquit\n", local.display());
    fs::write(&commands, script).unwrap();
    run(tool("debugfs").arg("-w").arg("-f").arg(&commands).arg(&volume));
    let report = independent(folder.path(), volume.to_str().unwrap());
    let part = &report["parts"][0];
    assert_eq!(count(part, "differences"), 0, "{part}");
    assert!(part["not_compared"].to_string().contains("never written"), "{part}");
}

#[test]
fn the_table_of_a_disk_that_was_grown_or_cut_is_compared() {
    if !have(&["sfdisk"]) {
        return;
    }
    let folder = work_folder();
    let disk = folder.path().join("disk");
    let script = folder.path().join("script");
    fs::write(&script, "label: gpt\nstart=2048, size=2048\nstart=6144, size=4096\nstart=12288, size=100\n")
        .unwrap();
    fs::File::create(&disk).unwrap().set_len(8 << 20).unwrap();
    run(tool("sfdisk").arg("-q").arg(&disk).stdin(fs::File::open(&script).unwrap()));
    let resized = |len: u64| {
        fs::File::options().write(true).open(&disk).unwrap().set_len(len).unwrap();
        let report = independent(folder.path(), disk.to_str().unwrap());
        let part = &report["parts"][0];
        (count(part, "compared"), count(part, "differences"), count(part, "unchecked"))
    };
    assert_eq!(resized(8 << 20), (3, 0, 0));
    assert_eq!(resized(9 << 20), (3, 0, 0));
    // This clips the second one, and leaves out the third.
    assert_eq!(resized(4 << 20), (2, 0, 1));
}

/// Makes a FAT the size of a floppy with these directories and files.
fn floppy(folder: &Path, folders: &[&str], files: &[(&str, &str)]) -> PathBuf {
    let (volume, local) = (folder.join("volume"), folder.join("local"));
    fs::File::create(&volume).unwrap().set_len(1440 << 10).unwrap();
    run(tool("mkfs.fat").arg(&volume));
    run(tool("mmd").arg("-i").arg(&volume).args(folders.iter().map(|name| format!("::/{name}"))));
    for (name, content) in files {
        fs::write(&local, content).unwrap();
        run(tool("mcopy").arg("-i").arg(&volume).arg(&local).arg(format!("::/{name}")));
    }
    volume
}

#[test]
fn names_that_are_no_way_to_a_file_are_unchecked_and_not_different() {
    if !have(&["mkfs.fat", "mmd", "mcopy"]) {
        return;
    }
    let folder = work_folder();
    let files = [
        ("ONE", "1"),
        ("TWO", "22"),
        ("LOST", ""),
        ("a rather long name", "4"),
        ("DIR1/A", "5"),
        ("DIR2/B", "6"),
    ];
    let volume = floppy(folder.path(), &["DIR1", "DIR2"], &files);
    let report = independent(folder.path(), volume.to_str().unwrap());
    assert_eq!(count(&report["parts"][0], "compared"), 9, "{report}");
    let mut bytes = fs::read(&volume).unwrap();
    let mut change = |from: &[u8], to: &[u8]| {
        let place = bytes.windows(from.len()).position(|bytes| bytes == from).expect("it is there");
        bytes[place..place + to.len()].copy_from_slice(to);
    };
    change(b"TWO        ", b"ONE");
    change(b"DIR2       ", b"DIR1");
    change(b"LOST       ", b"    ");
    // Characters after the end of a long name do not belong to it.
    change(b"\0\0\xff\xff\xff\xff\xff\xff", b"\0\0x\0y\0");
    fs::write(&volume, bytes).unwrap();
    let report = independent(folder.path(), volume.to_str().unwrap());
    let part = &report["parts"][0];
    assert_eq!(part["different"].to_string(), "[]");
    let unchecked: Vec<_> = part["not_compared"].as_array().unwrap().iter().map(|p| &p[0]).collect();
    assert_eq!(
        unchecked,
        ["/DIR1", "/DIR1", "/DIR1/A", "/DIR1/B", "/ONE", "/ONE", "/a rather long name"],
        "{report}"
    );
    assert_eq!(count(part, "compared"), 1);
}

#[test]
fn folders_that_contain_themselves_end_for_the_other_readers_too() {
    if !have(&["mkfs.fat", "mmd", "mcopy"]) {
        return;
    }
    let folder = work_folder();
    let volume = floppy(folder.path(), &["DIR"], &[("DIR/A", "x"), ("DIR/B", "x")]);
    // Both become the directory that contains them: two ways from each level to the next, without end.
    let mut bytes = fs::read(&volume).unwrap();
    let entry = |name: &[u8; 11]| bytes.windows(11).position(|bytes| bytes == name).expect("it is there");
    let (dir, inside) = (entry(b"DIR        "), [entry(b"A          "), entry(b"B          ")]);
    for entry in inside {
        bytes[entry + 11] = 0x10;
        bytes.copy_within(dir + 26..dir + 28, entry + 26);
        bytes[entry + 28..entry + 32].fill(0);
    }
    fs::write(&volume, bytes).unwrap();
    let report = independent(folder.path(), volume.to_str().unwrap());
    let part = &report["parts"][0];
    assert_eq!(count(part, "differences"), 0, "{part}");
    assert!(part["not_compared"].to_string().contains("cannot find the end of the directory"), "{part}");
}

#[test]
fn one_image_or_two() {
    let folder = work_folder();
    let demo = repo().join("fixtures/demo.qcow2");
    let error = run_failing(mif(folder.path()).arg("verify").arg(&demo), 2);
    assert!(error.contains("IMAGE"), "{error}");
    run_failing(mif(folder.path()).arg("verify").args([&demo, &demo]).arg("--independent"), 2);
}

/// Fills the XFS volume mounted at `$1` with what needs each kind of directory and map, leaves operations in the log,
/// and copies the volume's file `$2` to `$3` and, after a change, to `$4`.
const LIVE: &str = r#"
set -e
cd "$1"
mkdir few many
for i in $(seq 3000); do : >many/a-name-of-some-length-$i; done
seq 1 100000 >few/text
cp --reflink=always few/text few/clone
truncate -s 3M few/sparse; echo end >>few/sparse
fallocate -l 1M few/reserved
for i in $(seq 0 2 200); do fallocate -p -o $((i * 4096)) -l 4096 few/clone; done
ln few/text few/linked
ln -s "$(printf 'far/%.0s' $(seq 100))" few/link
mkfifo few/pipe
echo one >few/changing
sync -f .
for i in $(seq 40); do echo $i >many/late-$i; rm many/a-name-of-some-length-$i; done
xfs_io -c fsync many/late-40
cp --sparse=always "$2" "$3"
echo two >few/changing
xfs_io -c fsync few/changing
cp --sparse=always "$2" "$4"
"#;

/// Asserts that every inode has the fields that xfs_db prints.
fn assert_xfs_db_agrees(store: &Path, image: &str, volume: &Path) {
    let listed = json(store, &["ls", "--recursive", image, "p0:/"]);
    let rows = listed["entries"].as_array().unwrap();
    let fields = "core.mode core.nlinkv2 core.uid core.gid core.size";
    let commands: String =
        rows.iter().map(|row| format!("inode {}\nprint {fields}\n", row["inode"])).collect();
    let script = volume.with_extension("commands");
    fs::write(&script, commands).unwrap();
    let printed = run(tool("xfs_db").arg("-r").arg(volume).stdin(fs::File::open(&script).unwrap()));
    // Prompts stand before the first field of an inode.
    let values: Vec<&str> = printed
        .lines()
        .filter_map(|line| line.trim_start_matches("xfs_db> ").split_once(" = "))
        .map(|(_, value)| value)
        .collect();
    assert_eq!(values.len(), rows.len() * 5, "{printed:.300}");
    for (row, values) in rows.iter().zip(values.chunks(5)) {
        let mode = u64::from_str_radix(values[0].trim_start_matches('0'), 8).unwrap() & 0o7777;
        let number = |at: usize| values[at].parse::<u64>().unwrap();
        let field = |name: &str| row[name].as_u64().unwrap();
        assert_eq!(
            (mode, number(1), number(2), number(3)),
            (mif_tests::mode(&row["mode"]).unwrap(), field("nlink"), field("uid"), field("gid"))
        );
        assert_eq!(number(4), field("size"), "{row}");
    }
}

#[test]
fn an_xfs_volume_with_a_log_to_replay_is_read_alike_and_a_lie_about_it_is_found() {
    if !have(&["mkfs.xfs", "xfs_io", "xfs_db", "mount", "cp"]) {
        return;
    }
    if !is_root() {
        let _ = skip("only root mounts");
        return;
    }
    let folder = work_folder();
    let at = |name: &str| folder.path().join(name);
    let (store, disk, mnt) = (at("store"), at("volume"), at("mnt"));
    fs::File::create(&disk).unwrap().set_len(320 << 20).unwrap();
    run(tool("mkfs.xfs").arg("-q").arg(&disk));
    fs::create_dir(&mnt).unwrap();
    run(tool("mount").args(["-o", "loop"]).arg(&disk).arg(&mnt));
    let lived =
        tool("sh").args(["-c", LIVE, "sh"]).arg(&mnt).arg(&disk).arg(at("one")).arg(at("two")).output();
    run(tool("umount").arg(&mnt));
    let lived = lived.unwrap();
    assert!(lived.status.success(), "{}", String::from_utf8_lossy(&lived.stderr));
    run(mif(&store).arg("import").arg(at("one")).arg(at("two")));
    for image in ["one", "two"] {
        let part = &independent(&store, image)["parts"][0];
        assert!(part["reader"].as_str().unwrap().starts_with("rust-fs-xfs"), "{part}");
        let counts = (count(part, "compared"), count(part, "differences"), count(part, "unchecked"));
        assert_eq!(counts, (3011, 0, 0), "{image}: {part}");
    }
    // Its driver has written everything back: dissect and xfs_db replay no log.
    run(mif(&store).arg("import").arg(&disk));
    if have_dissect() {
        assert_eq!(assert_dissect_agrees(&store, ("volume", "p0"), "xfs", (&disk, 0), &[]), 3010);
    }
    assert_xfs_db_agrees(&store, "volume", &disk);
    swap_manifest(&store, "one", "two");
    let part = &independent_failing(&store, "two")["parts"][0];
    assert_eq!(count(part, "differences"), 1, "{part}");
    assert_eq!(part["different"][0][0], "/few/changing");
}
