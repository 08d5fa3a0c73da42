//! Compressed extents are stored once: as the disk has them, with a list that says how the files are decoded from them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mif_formats::mif::pack::{Encoding, IndexEntry, decode_index};
use mif_tests::{
    assert_second_reader_agrees, files, have, is_root, json, mif, run, run_failing, skip, snapshot, tool,
    work_folder,
};

/// The files of both volumes: text that compresses well, noise that does not, files with both, small ones and large ones.
const FILES: &str = r#"
set -e
cd "$1"
mkdir a b
seq 1 250000 >a/text
head -c 1000000 /dev/urandom >a/noise
{ seq 1 90000; head -c 400000 /dev/urandom; seq 5 30000; head -c 200000 /dev/urandom; } >a/both
{ seq 1 30000; head -c 150000 /dev/urandom; } >a/both-small
seq 1 20 >a/tiny
truncate -s 3M a/sparse; seq 1 20000 >>a/sparse
for i in $(seq 1 200); do seq $i $((i + 4000)) >b/$i; done
"#;

/// Changes that only Btrfs makes: parts of extents that are written again, parts that are shared, and snapshots.
const LIVES: &str = r#"
set -e
cd "$1"
sync
for i in 3 9 40 41 42; do seq 1 900 | dd of=a/text bs=4096 seek=$i count=1 conv=notrunc status=none; done
cp --reflink=always a/both c
truncate -s 200001 c
btrfs -q subvolume create home
cp --reflink=always a/text home/text
btrfs -q subvolume snapshot home before
truncate -s 5000 home/text
sync
"#;

/// Makes a disk with the files, compressed by this algorithm. False if it cannot be
/// made here.
fn btrfs(work: &Path, name: &str, algorithm: &str) -> bool {
    let (disk, mnt) = (work.join(name), work.join("mnt"));
    fs::File::create(&disk).unwrap().set_len(200 << 20).unwrap();
    run(tool("mkfs.btrfs").arg("-q").arg(&disk));
    fs::create_dir_all(&mnt).unwrap();
    let options = format!("loop,compress={algorithm}");
    let done = tool("mount").args(["-o", &options]).arg(&disk).arg(&mnt).output().unwrap();
    if !done.status.success() {
        let _ = skip(&format!("cannot mount: {}", String::from_utf8_lossy(&done.stderr)));
        return false;
    }
    let filled =
        [FILES, LIVES].map(|script| Command::new("sh").args(["-c", script, "sh"]).arg(&mnt).output());
    run(tool("umount").arg(&mnt));
    for output in filled {
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    true
}

/// Makes an ext4 disk with the files of the Btrfs disk.
fn ext4(work: &Path, name: &str, of: &str) {
    let mnt = work.join("mnt");
    run(tool("mount").args(["-o", "loop,ro"]).arg(work.join(of)).arg(&mnt));
    let disk = work.join(name);
    fs::File::create(&disk).unwrap().set_len(200 << 20).unwrap();
    let made = tool("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(&mnt).arg(&disk).output();
    run(tool("umount").arg(&mnt));
    assert!(made.unwrap().status.success());
}

/// Returns true if Btrfs volumes can be made here.
fn can() -> bool {
    if !have(&["mkfs.btrfs", "btrfs", "mount", "mke2fs"]) {
        return false;
    }
    is_root() || skip("only root mounts")
}

fn entries(store: &Path) -> Vec<IndexEntry> {
    let indexes = files(&store.join("index"), ".idx");
    let entries = |path: PathBuf| decode_index(&fs::read(path).unwrap()).unwrap().entries;
    indexes.into_iter().flat_map(entries).collect()
}

fn size_of(folder: &Path) -> u64 {
    snapshot(folder).into_iter().map(|(_, len)| len).sum()
}

fn restored(store: &Path, work: &Path, image: &str) {
    let out = work.join("restored.raw");
    run(mif(store).args(["export", "--force", image]).arg(&out));
    run(tool("cmp").arg(work.join(image)).arg(&out));
    fs::remove_file(out).unwrap();
}

#[test]
fn the_bytes_of_a_compressed_volume_are_stored_once() {
    if !can() {
        return;
    }
    for algorithm in ["zstd", "zlib", "lzo"] {
        let work = work_folder();
        let (work, store) = (work.path(), work.path().join("store"));
        if !btrfs(work, "disk", algorithm) {
            return;
        }
        run(mif(&store).args(["import", "--verify", "--strict"]).arg(work.join("disk")));
        let entries = entries(&store);
        let lists = entries.iter().filter(|entry| entry.encoding == Encoding::DecodingList).count();
        assert!(lists > 200, "{algorithm}: {lists}");
        // What the volume uses, according to its own counter: data and metadata, the latter twice.
        let usage = run(tool("btrfs").args(["filesystem", "show", "--raw"]).arg(work.join("disk")));
        let used = usage.split("FS bytes used").nth(1).unwrap().split_whitespace().next().unwrap();
        let (used, stored) = (used.parse::<u64>().unwrap(), size_of(&store.join("packs")));
        assert!(stored * 100 < used * 105, "{algorithm}: {stored} bytes stored, {used} bytes used");
        println!(
            "{algorithm}: {stored} bytes in packs, {used} bytes used on the volume, {lists} decoding lists"
        );
        restored(&store, work, "disk");
        assert!(fs::read_to_string(store.join("store.json")).unwrap().contains("\"decoded\""));
        run(mif(&store).arg("fsck"));
        assert_second_reader_agrees(&store);
        // Nothing is garbage, and nothing is added by a second import of the same files.
        let gc = json(&store, &["gc"]);
        assert_eq!(
            (&gc["packs_dropped"], &gc["packs_repacked"], &gc["garbage_kept"]),
            (&0.into(), &0.into(), &0.into())
        );
        let again = json(&store, &["import", "--name", "again", work.join("disk").to_str().unwrap()]);
        assert_eq!(again["added"]["objects"], 0, "{again}");
        for image in ["disk", "again"] {
            run(mif(&store).args(["rm", image]));
        }
        run(mif(&store).arg("gc"));
        assert_eq!(files(&store.join("packs"), ".pack"), Vec::<PathBuf>::new());
    }
}

#[test]
fn the_same_files_on_ext4_share_with_it_in_either_order_and_need_no_decoder() {
    if !can() {
        return;
    }
    let work = work_folder();
    let work = work.path();
    if !btrfs(work, "compressed", "zstd") {
        return;
    }
    ext4(work, "plain", "compressed");
    for order in [["compressed", "plain"], ["plain", "compressed"]] {
        for removed in ["compressed", "plain"] {
            let store = work.join("store");
            for image in order {
                run(mif(&store).args(["import", "--verify"]).arg(work.join(image)));
            }
            let lists = entries(&store).iter().filter(|e| e.encoding == Encoding::DecodingList).count();
            // Whatever exists as such is not described a second time.
            assert_eq!(lists > 100, order[0] == "compressed", "{order:?}: {lists}");
            for image in order {
                restored(&store, work, image);
            }
            run(mif(&store).arg("fsck"));
            assert_second_reader_agrees(&store);
            // What the store had before has no influence on a layout.
            for image in order {
                // A file with other times is read again.
                let disk = work.join(image);
                run(tool("touch").arg(&disk));
                let report = json(&store, &["import", disk.to_str().unwrap()]);
                assert_eq!(report["result"], "unchanged", "{order:?}: {report}");
            }
            run(mif(&store).args(["rm", removed]));
            run(mif(&store).arg("gc"));
            run(mif(&store).arg("fsck"));
            let left = if removed == "plain" { "compressed" } else { "plain" };
            restored(&store, work, left);
            for path in ["p0:/a/text", "p0:/a/both", "p0:/b/7", "p0:/a/tiny"] {
                run(mif(&store).args(["cat", left, path]));
            }
            assert_second_reader_agrees(&store);
            fs::remove_dir_all(&store).unwrap();
        }
    }
}

#[test]
fn what_rots_in_either_form_is_found_and_repaired_from_the_disk() {
    if !can() {
        return;
    }
    let work = work_folder();
    let (work, store) = (work.path(), work.path().join("store"));
    if !btrfs(work, "disk", "zstd") {
        return;
    }
    for is_list in [true, false] {
        run(mif(&store).arg("import").arg(work.join("disk")));
        let all = entries(&store)
            .into_iter()
            .filter(|entry| entry.encoding == if is_list { Encoding::DecodingList } else { Encoding::Raw });
        let largest = all.max_by_key(|entry| entry.stored_len).unwrap();
        let pack = files(&store.join("packs"), ".pack").remove(0);
        let mut bytes = fs::read(&pack).unwrap();
        bytes[largest.offset as usize + 40] ^= 1;
        fs::write(&pack, &bytes).unwrap();
        run_failing(mif(&store).arg("fsck"), 1);
        run(mif(&store).args(["fsck", "--repair", "--from"]).arg(work.join("disk")));
        run(mif(&store).arg("fsck"));
        restored(&store, work, "disk");
        for path in ["p0:/a/text", "p0:/a/both"] {
            run(mif(&store).args(["cat", "disk", path]));
        }
        assert_second_reader_agrees(&store);
        fs::remove_dir_all(&store).unwrap();
    }
}
