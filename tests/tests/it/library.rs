//! Maintaining a library: versions, tags, removal, garbage, damage and its repair, search. With the program, on small
//! disks made by mke2fs.

use mif_tests::disk::{noise, small as disk};
use mif_tests::{files, have, json, mif, run, run_failing, work_folder};
use serde_json::Value;

#[test]
fn versions_are_logged_tagged_and_removed_and_gc_frees_what_nobody_needs() {
    if !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    let store = work.path().join("store");
    let a = disk(work.path(), "a", &[("x", &noise(1, 300_000))]);
    let b = disk(work.path(), "b", &[("x", &noise(2, 300_000))]);
    run(mif(&store).arg("import").arg(&a));
    run(mif(&store).args(["import", "--name", "a", "--new-version"]).arg(&b));
    run(mif(&store).args(["tag", "a@1", "gold"]));
    let log = json(&store, &["log", "a"]);
    assert_eq!(log["versions"][0]["tags"][0], "gold");
    assert_eq!(log["versions"][1]["parent"], "a@1");
    assert_eq!(log["versions"][1]["command"][1], "import");

    // A tag protects a version from rm and gc.
    assert!(run_failing(mif(&store).args(["rm", "a@1"]), 2).contains("gold"));
    run(mif(&store).args(["gc", "--keep-last", "1"]));
    run(mif(&store).arg("verify").arg("a@gold").arg(&a));
    run(mif(&store).args(["tag", "--delete", "a@gold"]));
    let would = json(&store, &["gc", "--keep-last", "1", "--dry-run"]);
    assert_eq!(would["forgotten"][0], "a@1");
    run(mif(&store).arg("verify").arg("a@1").arg(&a));

    let before = json(&store, &["stats"])["file_bytes"]["packs"].as_u64().unwrap();
    run(mif(&store).args(["gc", "--keep-last", "1"]));
    let after = json(&store, &["stats"])["file_bytes"]["packs"].as_u64().unwrap();
    assert!(after + 250_000 < before, "{before} {after}");
    run_failing(mif(&store).args(["info", "a@1"]), 3);
    run(mif(&store).arg("verify").arg("a").arg(&b));
    run(mif(&store).arg("fsck"));

    // The number of a removed version is not reused.
    run(mif(&store).args(["rm", "a"]));
    run(mif(&store).args(["gc"]));
    assert!(files(&store.join("packs"), ".pack").is_empty());
    assert_eq!(json(&store, &["import", a.to_str().unwrap()])["image"], "a@3");
}

#[test]
fn gc_leaves_a_store_alone_that_lacks_something_and_takes_what_was_left_unfinished() {
    if !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    let store = work.path().join("store");
    let a = disk(work.path(), "a", &[("x", &noise(1, 300_000))]);
    run(mif(&store).arg("import").arg(&a));
    std::fs::write(store.join("tmp/upload-0-00000000deadbeef"), b"half a pack").unwrap();
    run(mif(&store).arg("fsck"));
    assert_eq!(json(&store, &["gc"])["unfinished"], 1);
    std::fs::remove_file(&files(&store.join("packs"), ".pack")[0]).unwrap();
    let before = mif_tests::snapshot(&store);
    assert!(run_failing(mif(&store).arg("gc"), 1).contains("a@1: the store lacks"));
    assert_eq!(mif_tests::snapshot(&store), before);
}

#[test]
fn removal_waits_for_nobody_and_takes_nothing_from_whoever_reads() {
    if !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    let store = work.path().join("store");
    let a = disk(work.path(), "a", &[("x", &noise(1, 300_000))]);
    run(mif(&store).arg("import").arg(&a));
    let open = mif::store::Store::open(&store, &mif::Silent).unwrap();
    let image = mif::OpenImage::stored(&open, &"a".parse().unwrap()).unwrap();
    run(mif(&store).args(["rm", "a"]));
    let report = json(&store, &["gc"]);
    assert_eq!([&report["packs_dropped"], &report["packs_waiting"]], [0, 1]);
    assert_eq!(json(&store, &["images"]), serde_json::json!([]));
    // Its manifest, layout and objects have not been read yet.
    assert!(image.tree().unwrap().rows().iter().any(|row| row.path == b"/x"));
    let disk = image.disk().unwrap();
    assert!(disk.read_vec(0, disk.len() as usize).unwrap() == std::fs::read(&a).unwrap());
    drop((image, disk));
    // A new import stores the objects that are being removed again, and they survive the removal.
    run(mif(&store).args(["import", "--name", "b"]).arg(&a));
    drop(open);
    let report = json(&store, &["gc"]);
    assert_eq!([&report["packs_dropped"], &report["packs_waiting"], &report["packs_kept"]], [1, 0, 1]);
    assert!(mif_tests::snapshot(&store.join("trash")).is_empty());
    run(mif(&store).args(["export", "b"]).arg(work.path().join("back.raw")));
    assert!(std::fs::read(work.path().join("back.raw")).unwrap() == std::fs::read(&a).unwrap());
    run(mif(&store).arg("fsck"));
}

#[test]
fn fsck_says_what_damage_costs_and_takes_it_back_from_a_disk_that_has_it() {
    if !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    let store = work.path().join("store");
    let (x, y) = (noise(1, 300_000), noise(2, 5_000_000));
    let a = disk(work.path(), "a", &[("x", &x), ("y", &y)]);
    let b = disk(work.path(), "b", &[("z", &noise(3, 100_000))]);
    run(mif(&store).arg("import").args([&a, &b]));
    run(mif(&store).arg("fsck"));

    // A byte of the first file's object, at its place in the pack.
    let place = |bytes: &[u8]| bytes.windows(64).position(|w| *w == x[1000..1064]);
    let packs = files(&store.join("packs"), ".pack").into_iter();
    let mut found = packs.filter_map(|pack| place(&std::fs::read(&pack).unwrap()).map(|at| (pack, at)));
    let (pack, at) = found.next().expect("noise is stored as it is");
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&pack, &bytes).unwrap();
    let report = mif(&store).args(["--json", "fsck"]).output().unwrap();
    assert_eq!(report.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["lost"].as_array().unwrap().len(), 1);
    assert_eq!(report["lost"][0]["image"], "a@1");
    assert_eq!(report["lost"][0]["files"], serde_json::json!(["p0:/x"]));
    assert_eq!(report["lost"][0]["disk_bytes"]["p0"], 300_000);

    // A missing index, and a damaged layout.
    std::fs::remove_file(&files(&store.join("index"), ".idx")[0]).unwrap();
    let layout = store.join("images/name=b/version=1/layout");
    std::fs::write(&layout, b"nonsense").unwrap();
    run_failing(mif(&store).args(["fsck", "--repair"]), 1);
    run(mif(&store).args(["fsck", "--repair", "--from"]).args([&a, &b]));
    run(mif(&store).arg("gc"));
    run(mif(&store).arg("fsck"));
    run(mif(&store).arg("verify").arg("a").arg(&a));
    run(mif(&store).arg("verify").arg("b").arg(&b));
}

#[test]
fn search_finds_by_path_content_mode_and_size_with_and_without_the_digests_beside() {
    if !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    let store = work.path().join("store");
    let (x, y) = (noise(1, 3000), noise(2, 5000));
    std::fs::write(work.path().join("suspect"), &y).unwrap();
    run(mif(&store).arg("import").arg(disk(work.path(), "a", &[("x.so", &x), ("other", &y)])));
    run(mif(&store).arg("import").arg(disk(work.path(), "b", &[("y.so", &y), ("x.so", b"z")])));
    let paths = |arguments: &[&str]| -> Vec<String> {
        let report = json(&store, &[&["search"], arguments].concat());
        let hits = report["hits"].as_array().unwrap().clone();
        let text = |hit: &Value, key: &str| hit[key].as_str().unwrap().to_owned();
        hits.iter().map(|hit| format!("{} {}", text(hit, "image"), text(hit, "path"))).collect()
    };
    let suspect = work.path().join("suspect").display().to_string();
    for round in 0..2 {
        assert_eq!(paths(&["/x.so"]), ["a@1 /x.so", "b@1 /x.so"]);
        assert_eq!(paths(&["*.so", "--image", "b"]), ["b@1 /x.so", "b@1 /y.so"]);
        assert_eq!(paths(&["--file", &suspect]), ["a@1 /other", "b@1 /y.so"], "round {round}");
        assert_eq!(paths(&["*.so", "--file", &suspect]), ["b@1 /y.so"]);
        assert_eq!(paths(&["--size", "3000", "--type", "file"]), ["a@1 /x.so"]);
        assert_eq!(paths(&["lost+found", "--mode", "700", "--uid", "0"]).len(), 2);
        for image in ["a", "b"] {
            let _gone = std::fs::remove_file(store.join(format!("images/name={image}/version=1/digests")));
        }
    }
    run_failing(mif(&store).args(["search", "nothing-of-the-kind"]), 1);
    run_failing(mif(&store).args(["search", "a[b"]), 2);
    assert!(run(mif(&store).args(["search", "x.so", "--csv"])).starts_with("image,volume,path,type,"));
}
