//! A damaged store: intact parts are used, repairable parts are repaired, the rest is reported, and nothing that may be
//! needed is removed. With the program, on small disks made by mke2fs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use mif_tests::disk::{noise, small};
use mif_tests::{
    assert_second_reader_agrees, files, have, have_second_reader, json, mif, run, run_failing, tool,
    work_folder,
};
use serde_json::Value;

/// Runs a verb that may fail; returns its exit code, its answer with `--json` if there is one, and its standard error.
fn ask(store: &Path, arguments: &[&str]) -> (i32, Value, String) {
    let output = mif(store).arg("--json").args(arguments).output().unwrap();
    let Output { status, stdout, stderr } = output;
    let json = serde_json::from_slice(&stdout).unwrap_or(Value::Null);
    (status.code().expect("it is not killed"), json, String::from_utf8_lossy(&stderr).into_owned())
}

/// Zeroes some bytes of `content` in one of the store's packs that contain it: number `which` in the order of their
/// names.
fn damage_content(store: &Path, content: &[u8], which: usize) -> PathBuf {
    let mark = &content[content.len() / 2..content.len() / 2 + 32];
    let holding = files(&store.join("packs"), ".pack").into_iter().filter_map(|pack| {
        let at = memchr_find(&fs::read(&pack).unwrap(), mark)?;
        Some((pack, at))
    });
    let (pack, at) = holding.collect::<Vec<_>>().swap_remove(which);
    let mut bytes = fs::read(&pack).unwrap();
    bytes[at..at + 16].fill(0);
    fs::write(&pack, bytes).unwrap();
    pack
}

fn memchr_find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark)
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4].iter_mut().for_each(|byte| *byte ^= 0xff);
    fs::write(path, bytes).unwrap();
}

fn copy(from: &Path, to: &Path) {
    let _gone = fs::remove_dir_all(to);
    run(tool("cp").arg("-a").arg(from).arg(to));
}

fn comes_back(store: &Path, image: &str, disk: &Path) -> bool {
    let out = store.with_extension("out.raw");
    let export = mif(store).args(["--quiet", "export", "--force", image]).arg(&out).output().unwrap();
    export.status.success() && tool("cmp").arg(disk).arg(&out).output().unwrap().status.success()
}

/// Makes a store in which two packs hold the content of `x`, as concurrent importers may leave it; also returns the two
/// disks.
fn two_copies(work: &Path, x: &[u8]) -> (PathBuf, [PathBuf; 2]) {
    let disks = ["a", "b"].map(|name| small(work, name, &[("x", x)]));
    let stores = [work.join("clean"), work.join("other")];
    for (store, disk) in stores.iter().zip(&disks) {
        run(mif(store).arg("import").arg(disk));
    }
    run(tool("cp").arg("-an").arg(stores[1].join(".")).arg(&stores[0]));
    run(mif(&stores[0]).arg("fsck"));
    let [clean, _] = stores;
    (clean, disks)
}

#[test]
fn of_two_copies_a_reader_uses_the_good_one_and_gc_keeps_it() {
    if !have(&["mke2fs", "cp", "cmp"]) {
        return;
    }
    let work = work_folder();
    let x = noise(1, 3_000_000);
    let (clean, disks) = two_copies(work.path(), &x);
    let store = work.path().join("store");
    let mut met = Vec::new();
    for which in [0, 1] {
        copy(&clean, &store);
        damage_content(&store, &x, which);
        for (image, disk) in ["a", "b"].iter().zip(&disks) {
            assert!(comes_back(&store, image, disk), "{image}, copy {which} damaged");
        }
        let (code, report, _) = ask(&store, &["fsck"]);
        assert_eq!((code, &report["verdict"]), (1, &Value::from("repairable")), "{report}");
        // gc drops one of the copies: it reads the one that stays, and if that is damaged it reports it and keeps the
        // other.
        met.push(ask(&store, &["gc"]).0);
        for (image, disk) in ["a", "b"].iter().zip(&disks) {
            assert!(comes_back(&store, image, disk), "{image} after gc, copy {which} damaged");
        }
        run(mif(&store).args(["fsck", "--repair"]));
        run(mif(&store).arg("gc"));
        run(mif(&store).arg("fsck"));
    }
    met.sort_unstable();
    assert_eq!(met, [0, 1], "the copy that stays is the damaged one once");
    // Without damage, one copy is enough.
    copy(&clean, &store);
    assert_eq!(json(&store, &["gc"])["whole"], true);
    assert!(comes_back(&store, "a", &disks[0]) && comes_back(&store, "b", &disks[1]));
}

#[test]
fn gc_that_cannot_copy_an_object_keeps_the_good_copy_elsewhere_and_the_last_copy_whatever_it_is() {
    if !have(&["mke2fs", "cp", "cmp"]) {
        return;
    }
    let work = work_folder();
    let (a, b, z) = (noise(1, 1_000_000), noise(2, 1_000_000), noise(3, 3_000_000));
    let (z2, z3) = (noise(4, 3_000_000), noise(5, 2_500_000));
    let all = small(work.path(), "all", &[("a", &a), ("b", &b), ("z", &z), ("z2", &z2), ("z3", &z3)]);
    let some = small(work.path(), "some", &[("a", &a), ("b", &b)]);
    let one = small(work.path(), "one", &[("a", &a)]);
    let (clean, other) = (work.path().join("clean"), work.path().join("other"));
    run(mif(&clean).arg("import").arg(&all));
    run(mif(&clean).arg("import").arg(&some));
    run(mif(&other).arg("import").arg(&one));
    run(tool("cp").arg("-an").arg(other.join(".")).arg(&clean));
    // Most of the first pack is no longer needed: gc will try to copy the rest of it.
    run(mif(&clean).args(["rm", "all"]));
    let store = work.path().join("store");
    let big = files(&clean.join("packs"), ".pack").into_iter().max_by_key(|p| p.metadata().unwrap().len());
    let in_big = |content: &[u8]| {
        let packs = files(&store.join("packs"), ".pack");
        let name = big.as_ref().unwrap().file_name().unwrap();
        let holding = packs.iter().filter(|p| {
            memchr_find(&fs::read(p).unwrap(), &content[content.len() / 2..content.len() / 2 + 32]).is_some()
        });
        holding.map(|p| p.file_name().unwrap()).position(|pack| pack == name).unwrap()
    };
    copy(&clean, &store);
    damage_content(&store, &a, in_big(&a));
    assert_eq!(ask(&store, &["gc"]).0, 1);
    assert!(comes_back(&store, "some", &some) && comes_back(&store, "one", &one));
    // A damaged copy stays if there is no other: parts of its pack may still be recovered.
    copy(&clean, &store);
    let pack = damage_content(&store, &b, in_big(&b));
    assert_eq!(ask(&store, &["gc"]).0, 1);
    assert!(pack.exists());
    run(mif(&store).args(["fsck", "--repair", "--from"]).arg(&some));
    assert!(comes_back(&store, "some", &some) && comes_back(&store, "one", &one));
}

#[test]
fn an_import_of_a_disk_whose_stored_image_is_damaged_mends_it() {
    if !have(&["mke2fs", "cp", "cmp"]) {
        return;
    }
    let work = work_folder();
    let x = noise(1, 2_000_000);
    let images = work.path().join("images");
    fs::create_dir(&images).unwrap();
    let disk = images.join("d.raw");
    fs::rename(small(work.path(), "d", &[("x", &x), ("y", b"small")]), &disk).unwrap();
    let (clean, store) = (work.path().join("clean"), work.path().join("store"));
    run(mif(&clean).arg("import").arg(&images));
    let image = store.join("images/name=d/version=1");
    for file in ["layout", "manifest.parquet", "digests", "packages.parquet", "image.json"] {
        for (what, arguments) in
            [("file", &["import"][..]), ("directory", &["import"]), ("both", &["import", "--verify"])]
        {
            for gone in [false, true] {
                copy(&clean, &store);
                if gone {
                    fs::remove_file(image.join(file)).unwrap()
                } else {
                    flip(&image.join(file))
                }
                assert_eq!(ask(&store, &["fsck"]).0, 1, "{file}");
                let from = if what == "file" { &disk } else { &images };
                let text = run(mif(&store).args(arguments).arg(from));
                assert!(text.contains("repaired"), "{file} of the {what}: {text}");
                run(mif(&store).arg("fsck"));
                assert!(comes_back(&store, "d", &disk), "{file} of the {what}");
            }
        }
    }
    // Objects are read only with --verify. The damaged copy stays beside the new one until a repair.
    for from in [&disk, &images] {
        copy(&clean, &store);
        damage_content(&store, &x, 0);
        let output = mif(&store).args(["import", "--verify"]).arg(from).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("repaired"), "{text}");
        assert!(comes_back(&store, "d", &disk));
        run(mif(&store).args(["fsck", "--repair"]));
        run(mif(&store).arg("fsck"));
    }
    // A missing or truncated pack is noticed without reading it.
    for cut in [None, Some(1000)] {
        copy(&clean, &store);
        let pack = &files(&store.join("packs"), ".pack")[0];
        match cut {
            None => fs::remove_file(pack).unwrap(),
            Some(len) => fs::File::options().write(true).open(pack).unwrap().set_len(len).unwrap(),
        }
        assert_eq!(ask(&store, &["import", disk.to_str().unwrap()]).0, 1);
        assert!(comes_back(&store, "d", &disk), "cut {cut:?}");
        run(mif(&store).args(["fsck", "--repair"]));
        run(mif(&store).arg("fsck"));
    }
}

#[test]
fn a_damaged_pack_that_was_set_aside_is_not_taken_for_the_new_one_of_its_name() {
    if !have(&["mke2fs", "cmp"]) {
        return;
    }
    let work = work_folder();
    let x = noise(1, 2_000_000);
    let disk = small(work.path(), "d", &[("x", &x)]);
    let store = work.path().join("store");
    run(mif(&store).arg("import").arg(&disk));
    // All objects of the pack are damaged or lost, so the import stores them again.
    let pack = damage_content(&store, &x, 0);
    let bytes = fs::read(&pack).unwrap();
    fs::write(&pack, [&[0; 64][..], &bytes[64..bytes.len() - 64], &[0; 64]].concat()).unwrap();
    fs::remove_file(&files(&store.join("index"), ".idx")[0]).unwrap();
    run(mif(&store).arg("import").arg(&disk));
    assert!(comes_back(&store, "d", &disk));
    run(mif(&store).arg("fsck"));
}

#[test]
fn of_a_pack_that_lost_only_its_end_a_repair_loses_nothing() {
    if !have(&["mke2fs", "cmp"]) {
        return;
    }
    let work = work_folder();
    let disk = small(work.path(), "d", &[("x", &noise(1, 200_000))]);
    let store = work.path().join("store");
    run(mif(&store).arg("import").arg(&disk));
    let pack = &files(&store.join("packs"), ".pack")[0];
    let whole = fs::read(pack).unwrap();
    fs::write(pack, &whole[..whole.len() - 20]).unwrap();
    assert!(comes_back(&store, "d", &disk));
    run(mif(&store).args(["fsck", "--repair"]));
    run(mif(&store).arg("fsck"));
    assert!(comes_back(&store, "d", &disk));
    // The damaged pack was set aside, and is removed.
    run(mif(&store).arg("gc"));
    assert!(comes_back(&store, "d", &disk) && !pack.exists());
}

/// Makes a store of three small systems, each with a file and a package of its own.
fn three_systems(work: &Path) -> PathBuf {
    let store = work.join("clean");
    for name in ["one", "two", "three"] {
        let folder = work.join(format!("{name}.d"));
        fs::create_dir_all(folder.join("var/lib/dpkg/info")).unwrap();
        fs::create_dir_all(folder.join("etc")).unwrap();
        fs::write(folder.join(format!("etc/needle-{name}")), name).unwrap();
        let package =
            format!("Package: pkg-{name}\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n\n");
        fs::write(folder.join("var/lib/dpkg/status"), package).unwrap();
        let disk = small(work, name, &[]);
        run(mif(&store).arg("import").arg(&disk));
    }
    store
}

#[test]
fn verbs_go_past_a_damaged_image_name_it_and_exit_1() {
    if !have(&["mke2fs", "cp"]) {
        return;
    }
    let work = work_folder();
    let clean = three_systems(work.path());
    let store = work.path().join("store");
    let questions: [(&str, &[&str], &str); 5] = [
        ("manifest.parquet", &["search", "needle-*"], "/etc/needle-@"),
        ("packages.parquet", &["packages"], "pkg-@"),
        ("image.json", &["images"], "@"),
        ("image.json", &["log"], "@@1"),
        ("layout", &["stats"], "@@1"),
    ];
    for (file, question, expected) in questions {
        for gone in [false, true] {
            copy(&clean, &store);
            let path = store.join("images/name=two/version=1").join(file);
            if gone {
                fs::remove_file(&path).unwrap()
            } else {
                fs::write(&path, b"{").unwrap()
            }
            let (code, answer, errors) = ask(&store, question);
            assert_eq!(code, 1, "{question:?}: {errors}");
            for name in ["one", "three"] {
                let expected = expected.replacen('@', name, 1);
                assert!(answer.to_string().contains(&format!("\"{expected}\"")), "{question:?}: {answer}");
            }
            assert!(errors.contains("two@1: "), "{question:?}: {errors}");
            // Everything that is known about the damaged image without its record is kept, and nothing else is removed
            // either.
            let packs = files(&store.join("packs"), ".pack");
            assert_eq!(
                ask(&store, &["gc", "--keep-last", "1"]).0,
                if file == "packages.parquet" { 0 } else { 1 }
            );
            assert_eq!(files(&store.join("packs"), ".pack"), packs);
            run(mif(&store).arg("import").arg(small(work.path(), "other", &[("x", b"y")])));
        }
    }
}

/// Images that are alike are checked by what they share, so each damage must be found in each of them.
#[test]
fn what_an_image_shares_with_its_clone_hides_no_damage_of_either() {
    if !have(&["mke2fs", "cp"]) {
        return;
    }
    let work = work_folder();
    let store = work.path().join("store");
    for name in ["a", "b", "c"] {
        run(mif(&store).arg("import").arg(small(
            work.path(),
            name,
            &[("n", name.as_bytes()), ("x", b"the same")],
        )));
    }
    let listed = json(&store, &["images"]);
    let ids: Vec<&str> = listed.as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 3);
    let folder = |id: &str| store.join(format!("images/name={id}/version=1"));
    run(mif(&store).arg("fsck"));
    for id in &ids {
        for file in ["manifest.parquet", "digests", "packages.parquet", "layout"] {
            let path = folder(id).join(file);
            let whole = fs::read(&path).unwrap();
            flip(&path);
            let (code, report, said) = ask(&store, &["fsck"]);
            let lost: Vec<&str> =
                report["lost"].as_array().unwrap().iter().map(|l| l["image"].as_str().unwrap()).collect();
            assert!(code != 0 && lost == [format!("{id}@1")], "{id} {file}: {report} {said}");
            if file == "packages.parquet" {
                let (code, report, _) = ask(&store, &["packages", "--name", "no-such"]);
                assert_eq!((code, report["damaged"].as_array().unwrap().len()), (1, 1), "{id}: {report}");
            }
            fs::write(&path, whole).unwrap();
        }
    }
    // The other image's table, and a record that says so: only the manifest knows better.
    let record = folder(ids[1]).join("image.json");
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let (other, mut own) = (read(&folder(ids[2]).join("image.json")), read(&record));
    assert_ne!(own["tables"]["digests"], other["tables"]["digests"]);
    own["tables"]["digests"] = other["tables"]["digests"].clone();
    fs::write(&record, own.to_string()).unwrap();
    fs::copy(folder(ids[2]).join("digests"), folder(ids[1]).join("digests")).unwrap();
    let (code, report, _) = ask(&store, &["fsck"]);
    let problem = format!("{}@1: the file digests does not match the manifest", ids[1]);
    assert!(code != 0 && report["problems"].to_string().contains(&problem), "{report}");
}

#[test]
fn records_manifests_and_headers_are_made_again_without_an_original() {
    if !have(&["mke2fs", "cp", "cmp"]) || !have_second_reader() {
        return;
    }
    let work = work_folder();
    let clean = three_systems(work.path());
    run(mif(&clean).args(["customize", "two", "--as", "made", "--write", "/etc/x:y"]));
    let store = work.path().join("store");
    let disk = work.path().join("two.raw");
    let image = "images/name=two/version=1";
    let losses: [&[&str]; 8] = [
        &["images/name=two/version=1/image.json"],
        &["published/name=two/version=1"],
        &["images/name=two/version=1/image.json", "published/name=two/version=1"],
        &["images/name=two/version=1/manifest.parquet"],
        &["images/name=made/version=1/manifest.parquet", "images/name=made/version=1/digests"],
        &["images/name=two/version=1/packages.parquet"],
        &["store.json"],
        &[
            "images/name=made/version=1/image.json",
            "images/name=two/version=1/manifest.parquet",
            "store.json",
        ],
    ];
    for (lost, gone) in losses.iter().flat_map(|lost| [(lost, true), (lost, false)]) {
        copy(&clean, &store);
        for file in *lost {
            if gone {
                fs::remove_file(store.join(file)).unwrap()
            } else {
                fs::write(store.join(file), b"{").unwrap()
            }
        }
        let (code, report, errors) = ask(&store, &["fsck"]);
        match lost.contains(&"store.json") {
            true => assert!(code > 1 && errors.contains("mif fsck --repair"), "{lost:?}: {errors}"),
            false if lost[0].starts_with("published") => assert_eq!(code, 0, "{report}"),
            false => assert_eq!((code, &report["verdict"]), (1, &Value::from("repairable")), "{report}"),
        }
        run(mif(&store).args(["fsck", "--repair"]));
        assert_eq!(json(&store, &["fsck"])["notes"], Value::Array(Vec::new()), "{lost:?}");
        assert!(comes_back(&store, "two", &disk), "{lost:?}");
        assert_eq!(
            fs::read(store.join(image).join("layout")).unwrap(),
            fs::read(clean.join(image).join("layout")).unwrap()
        );
        assert_eq!(
            fs::read(store.join(image).join("manifest.parquet")).unwrap(),
            fs::read(clean.join(image).join("manifest.parquet")).unwrap()
        );
        assert_second_reader_agrees(&store);
    }
}

#[test]
fn an_image_that_vanished_is_missed_and_published_again_from_its_original() {
    if !have(&["mke2fs", "cp", "cmp"]) {
        return;
    }
    let work = work_folder();
    let clean = three_systems(work.path());
    run(mif(&clean).args(["customize", "one", "--as", "four", "--write", "/x:1"]));
    run(mif(&clean).args(["customize", "one", "--as", "four", "--write", "/x:2"]));
    run(mif(&clean).args(["rm", "three"]));
    run(mif(&clean).arg("gc"));
    run(mif(&clean).arg("fsck"));
    let store = work.path().join("store");
    for gone in ["name=two", "name=two/version=1", "name=four/version=1", "name=four/version=2", "name=four"]
    {
        copy(&clean, &store);
        fs::remove_dir_all(store.join("images").join(gone)).unwrap();
        let (code, report, _) = ask(&store, &["fsck"]);
        assert_eq!(code, 1, "{gone}: {report}");
        assert_eq!(report["lost"][0]["parts"], serde_json::json!(["image"]));
        assert_eq!(ask(&store, &["verify", "--all"]).0, 1, "{gone}");
        let packs = files(&store.join("packs"), ".pack");
        assert_eq!(ask(&store, &["gc"]).0, 1, "{gone}");
        assert_eq!(files(&store.join("packs"), ".pack"), packs, "gc keeps what {gone} needs");
        // Restoring the directory makes it whole again; its number was not reused.
        let name = &gone[5..gone.find('/').unwrap_or(gone.len())];
        let before = if name == "two" { 2 } else { 3 };
        let imported = json(
            &store,
            &["import", "--name", name, "--new-version", work.path().join("one.raw").to_str().unwrap()],
        );
        assert_eq!(imported["image"], format!("{name}@{before}"));
        run(tool("cp").arg("-an").arg(clean.join("images/.")).arg(store.join("images")));
        run(mif(&store).arg("fsck"));
    }
    // The command that fsck names restores an imported image.
    fs::remove_dir_all(store.join("images/name=two")).unwrap();
    let text = mif(&store).arg("fsck").output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    let disk = work.path().join("two.raw");
    assert!(
        text.starts_with(&format!("damaged: repair needs the original image: {} (", disk.display())),
        "{text}"
    );
    let command = text.lines().nth(1).unwrap().strip_prefix("repair: mif ").unwrap();
    run(mif(Path::new("/nowhere")).args(command.split(' ')));
    run(mif(&store).arg("fsck"));
    assert!(comes_back(&store, "two@1", &disk));
    // And rm drops what will not be restored.
    fs::remove_dir_all(store.join("images/name=two")).unwrap();
    run(mif(&store).args(["rm", "two"]));
    run(mif(&store).arg("fsck"));
    assert_eq!(json(&store, &["gc"])["whole"], true);
}

#[test]
fn fsck_begins_with_the_verdict_and_names_ten_paths_unless_all_are_asked_for() {
    if !have(&["mke2fs", "cp", "cmp", "qemu-img"]) {
        return;
    }
    let work = work_folder();
    let names: Vec<String> = (0..30).map(|i| format!("f{i:02}")).collect();
    let contents: Vec<Vec<u8>> = (0..30).map(|i| noise(i, 20_000)).collect();
    let list: Vec<(&str, &[u8])> =
        names.iter().map(String::as_str).zip(contents.iter().map(Vec::as_slice)).collect();
    let originals = work.path().join("originals of ours");
    fs::create_dir(&originals).unwrap();
    let disk = originals.join("d.raw");
    fs::rename(small(work.path(), "d", &list), &disk).unwrap();
    let store = work.path().join("store");
    run(mif(&store).arg("import").arg(&disk));
    assert!(run(mif(&store).arg("fsck")).starts_with("whole (1 image, "));
    contents.iter().for_each(|content| drop(damage_content(&store, content, 0)));
    let output = mif(&store).arg("fsck").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("damaged: repair needs the original image"), "{text}");
    assert!(
        text.lines().nth(1).unwrap().contains(&format!("fsck --repair --from '{}'", disk.display())),
        "{text}"
    );
    assert_eq!(text.matches("  p0:/f").count(), 10, "{text}");
    let output = mif(&store).args(["fsck", "--list"]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().matches("  p0:/f").count(), 30);
    // A directory works too, and a disk in it may have its base elsewhere in it.
    fs::create_dir(originals.join("upper")).unwrap();
    let upper = originals.join("upper/upper.qcow2");
    run(tool("qemu-img").args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "../d.raw"]).arg(&upper));
    let text = run(mif(&store).args(["fsck", "--repair", "--from"]).arg(&originals));
    assert!(text.starts_with("whole ") && !text.contains("skipped"), "{text}");
    assert!(comes_back(&store, "d", &disk));
}

#[test]
fn a_name_belongs_to_the_source_that_was_imported_as_it() {
    if !have(&["mke2fs", "debugfs"]) {
        return;
    }
    let work = work_folder();
    let store = work.path().join("store");
    let disk = |folder: &str| {
        fs::create_dir_all(work.path().join(folder)).unwrap();
        let to = work.path().join(folder).join("disk.raw");
        fs::rename(small(work.path(), folder, &[("machine", folder.as_bytes())]), &to).unwrap();
        to
    };
    let (a, b) = (disk("a"), disk("b"));
    run(mif(&store).arg("import").arg(&a));
    run(tool("debugfs").args(["-w", "-R", "mkdir more"]).arg(&a));
    run(mif(&store).arg("import").arg(&a));
    for arguments in [&["import"][..], &["import", "--name", "disk"]] {
        let error = run_failing(mif(&store).args(arguments).arg(&b), 2);
        assert!(error.contains("--name b-disk") && error.contains("--new-version"), "{error}");
    }
    let output = mif(&store).arg("import").arg(work.path().join("b")).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "a directory: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(run(mif(&store).args(["cat", "disk", "/machine"])), "a");
    run(mif(&store).args(["import", "--name", "b-disk"]).arg(&b));
    // The same file by another path is the same source; after a move it is not.
    std::os::unix::fs::symlink(&a, work.path().join("link.raw")).unwrap();
    run(mif(&store).args(["import", "--name", "disk"]).arg(work.path().join("link.raw")));
    run(mif(&store).args(["import", "--new-version", "--name", "disk"]).arg(&b));
    assert_eq!(run(mif(&store).args(["cat", "disk", "/machine"])), "b");
    assert!(run_failing(mif(&store).args(["import"]).arg(&a), 2).contains("/b/disk.raw"));
    // An image that was made by an edit has no source file.
    run(mif(&store).args(["customize", "disk", "--as", "made", "--write", "/x:y"]));
    assert!(
        run_failing(mif(&store).args(["import", "--name", "made"]).arg(&a), 2)
            .contains("was made by customize")
    );
}

#[test]
fn a_library_that_was_moved_is_known_by_its_new_place_once_that_was_said() {
    if !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    let store = work.path().join("store");
    let (old, new) = (work.path().join("old"), work.path().join("new"));
    fs::create_dir(&old).unwrap();
    fs::rename(small(work.path(), "d", &[("x", b"y")]), old.join("d.raw")).unwrap();
    run(mif(&store).arg("import").arg(&old));
    fs::rename(&old, &new).unwrap();
    let output = mif(&store).arg("import").arg(&new).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "a moved file is another source");
    let summary = |arguments: &[&str]| -> Value {
        let text = run(mif(&store).arg("--json").args(arguments).arg(&new));
        serde_json::from_str(text.lines().last().unwrap()).unwrap()
    };
    assert_eq!(summary(&["import", "--new-version"])["unchanged"], 1);
    assert_eq!(summary(&["import"])["skipped"], 1);
    run(mif(&store).arg("fsck"));
}

#[test]
fn a_damaged_index_costs_nothing_and_one_that_is_gone_is_made_again() {
    if !have(&["mke2fs", "cp", "cmp"]) {
        return;
    }
    let work = work_folder();
    let clean = three_systems(work.path());
    let store = work.path().join("store");
    copy(&clean, &store);
    for index in files(&store.join("index"), ".idx") {
        flip(&index);
    }
    for name in ["one", "two", "three"] {
        assert!(comes_back(&store, name, &work.path().join(format!("{name}.raw"))));
    }
    let again = work.path().join("one.raw");
    assert_eq!(json(&store, &["import", again.to_str().unwrap()])["added"]["objects"], 0);
    assert_eq!(json(&store, &["gc"])["whole"], true);
    let (code, report, _) = ask(&store, &["fsck"]);
    assert_eq!(
        (code, &report["verdict"], &report["lost_objects"]),
        (1, &"repairable".into(), &serde_json::json!([]))
    );
    run(mif(&store).args(["fsck", "--repair"]));
    run(mif(&store).arg("fsck"));
    copy(&clean, &store);
    fs::remove_dir_all(store.join("index")).unwrap();
    let (code, report, _) = ask(&store, &["fsck"]);
    assert_eq!((code, &report["verdict"]), (1, &Value::from("repairable")), "{report}");
    assert_eq!(ask(&store, &["gc"]).0, 1);
    run(mif(&store).args(["fsck", "--repair"]));
    run(mif(&store).arg("fsck"));
    assert!(comes_back(&store, "two", &work.path().join("two.raw")));
}

#[test]
fn damaged_tags_and_records_of_removed_versions_stop_nothing_and_gc_forgets_no_version_for_them() {
    if !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    let store = work.path().join("store");
    let disk = small(work.path(), "d", &[("x", b"y")]);
    run(mif(&store).arg("import").arg(&disk));
    run(mif(&store).args(["customize", "d", "--as", "d", "--write", "/x:1"]));
    run(mif(&store).args(["customize", "d", "--as", "d", "--write", "/x:2"]));
    run(mif(&store).args(["tag", "d@1", "gold"]));
    run(mif(&store).args(["rm", "d@2"]));
    fs::write(store.join("removed/name=d/version=2"), b"{").unwrap();
    fs::write(store.join("tags/name=d/tag=gold/1"), b"x").unwrap();
    let log = json(&store, &["log", "d"]);
    assert_eq!(log["versions"].as_array().unwrap().len(), 3, "{log}");
    let (code, report, _) = ask(&store, &["gc", "--keep-last", "1"]);
    assert_eq!((code, &report["forgotten"]), (1, &serde_json::json!([])), "{report}");
    assert_eq!(ask(&store, &["fsck"]).0, 1);
    run(mif(&store).args(["tag", "d@1", "gold"]));
    run(mif(&store).arg("fsck"));
    // The number of the removed version is not reused.
    fs::create_dir_all(store.join("images/name=d/version=07")).unwrap();
    run(mif(&store).args(["customize", "d", "--as", "d", "--write", "/x:3"]));
    assert_eq!(json(&store, &["images"]).as_array().unwrap().last().unwrap()["version"], 4);
}

#[test]
fn a_bare_name_means_the_store_and_a_path_means_a_file() {
    if !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    let store = work.path().join("store");
    let disk = small(work.path(), "d", &[("mark", b"stored")]);
    run(mif(&store).args(["import", "--name", "web"]).arg(&disk));
    let there = work.path().join("there");
    fs::create_dir(&there).unwrap();
    let mif = || {
        let mut command = mif(&store);
        command.current_dir(&there);
        command
    };
    fs::create_dir(there.join("web")).unwrap();
    assert_eq!(run(mif().args(["cat", "web", "/mark"])), "stored");
    fs::remove_dir(there.join("web")).unwrap();
    fs::write(there.join("web"), b"not a disk").unwrap();
    assert_eq!(run(mif().args(["cat", "web", "/mark"])), "stored");
    run(mif().args(["verify", "web", "../d.raw"]));
    // A file with a container's suffix counts as a path; one without needs a slash, as the error says.
    fs::copy(&disk, there.join("plain.raw")).unwrap();
    fs::copy(&disk, there.join("plain")).unwrap();
    assert_eq!(run(mif().args(["cat", "plain.raw", "/mark"])), "stored");
    assert!(run_failing(mif().args(["cat", "plain", "/mark"]), 3).contains("./plain"));
    assert_eq!(run(mif().args(["cat", "./plain", "/mark"])), "stored");
    assert!(run_failing(mif().args(["cat", "gone.raw", "/mark"]), 3).contains("gone.raw"));
}

#[test]
fn an_import_opens_as_many_files_whatever_the_store_has_and_finds_the_same_disk_all_the_same() {
    if !have(&["mke2fs", "strace", "cp"]) {
        return;
    }
    let work = work_folder();
    let store = work.path().join("store");
    let opens = |name: &str| {
        let disk = small(work.path(), name, &[("x", name.as_bytes())]);
        let trace = work.path().join("trace");
        run(tool("strace")
            .args(["-f", "-c", "-e", "trace=open,openat,openat2", "-o"])
            .arg(&trace)
            .arg(mif_tests::mif_path())
            .arg("--store")
            .arg(&store)
            .args(["--quiet", "import"])
            .arg(&disk));
        let text = fs::read_to_string(trace).unwrap();
        let calls = text.lines().filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.last()?.starts_with("open").then(|| words[3].parse::<u64>().unwrap())
        });
        calls.sum::<u64>()
    };
    let seed = small(work.path(), "seed", &[("x", b"seed")]);
    run(mif(&store).arg("import").arg(&seed));
    let one = opens("first");
    let from = store.join("images/name=seed/version=1");
    for i in 0..300 {
        let to = store.join(format!("images/name=img{i}/version=1"));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        run(tool("cp").arg("-al").arg(&from).arg(&to));
    }
    let many = opens("second");
    assert!(many <= one + 20, "{one} and {many} files");
    // The same with images that have packs of their own.
    for i in 0..70 {
        run(mif(&store).arg("import").arg(small(
            work.path(),
            &format!("disk{i}"),
            &[("x", &noise(i, 9000))],
        )));
    }
    let with_packs = opens("third");
    assert!(with_packs <= one + 50, "{one} and {with_packs} files");
    let copied = json(&store, &["import", "--name", "again", seed.to_str().unwrap()]);
    assert_eq!(copied["same_as"], serde_json::json!(["seed@1"]));
}

/// Damages a store at random, by a seed: truncates, changes or removes files. Returns a description.
fn damage_at_random(store: &Path, seed: u64) -> Vec<String> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % below
    };
    // In an order that does not depend on digests, which differ each time the disks are made.
    let mut files = mif_tests::snapshot(store);
    files.retain(|(path, _)| !path.ends_with("lock") && !path.to_string_lossy().contains("/leases/"));
    files.sort_by_cached_key(|(path, len)| {
        let plain = |c: char| !c.is_ascii_hexdigit();
        (path.to_string_lossy().chars().filter(|c| plain(*c)).collect::<String>(), *len)
    });
    let files: Vec<PathBuf> = files.into_iter().map(|(path, _)| path).collect();
    let mut done = Vec::new();
    for _ in 0..1 + next(4) {
        let path = &files[next(files.len())];
        let Ok(mut bytes) = fs::read(path) else { continue };
        let name = path.strip_prefix(store).unwrap().display();
        match next(4) {
            0 => {
                fs::remove_file(path).unwrap();
                done.push(format!("{name} removed"));
            }
            1 => {
                bytes.truncate(next(bytes.len() + 1));
                done.push(format!("{name} cut to {}", bytes.len()));
                fs::write(path, bytes).unwrap();
            }
            2 if !bytes.is_empty() => {
                let at = next(bytes.len());
                bytes[at] ^= 1 << next(8);
                done.push(format!("{name} changed at {at}"));
                fs::write(path, bytes).unwrap();
            }
            _ => {
                let folder = path.parent().unwrap();
                let _gone = fs::remove_dir_all(folder);
                done.push(format!("{} removed", folder.strip_prefix(store).unwrap().display()));
            }
        }
    }
    done
}

#[test]
fn whatever_happens_to_a_store_nothing_is_called_whole_that_is_not_and_originals_mend_it() {
    if !have(&["mke2fs", "cp", "cmp"]) {
        return;
    }
    let work = work_folder();
    let (x, y) = (noise(1, 600_000), noise(2, 5_000_000));
    let disks = [
        small(work.path(), "a", &[("x", &x), ("y", &y), ("small", b"s")]),
        small(work.path(), "b", &[("x", &x), ("z", &noise(3, 200_000))]),
        small(work.path(), "c", &[("y", &y)]),
    ];
    let names = ["a", "b", "c"];
    let clean = work.path().join("clean");
    disks.iter().for_each(|disk| drop(run(mif(&clean).arg("import").arg(disk))));
    let store = work.path().join("store");
    let seeds: u64 = std::env::var("MIF_DAMAGE_SEEDS").map_or(40, |n| n.parse().expect("a number"));
    for seed in 0..seeds {
        copy(&clean, &store);
        let what = format!("seed {seed}: {:?}", damage_at_random(&store, seed));
        let code = |arguments: &[&str]| {
            let output = mif(&store).args(arguments).output().unwrap();
            let code = output.status.code();
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                code.is_some_and(|code| code <= 5) && !errors.contains("crashed"),
                "{what}: {arguments:?}: {errors}"
            );
            code.unwrap()
        };
        let exact = |name: &str, disk: &Path| comes_back(&store, name, disk);
        let before: Vec<bool> = names.iter().zip(&disks).map(|(name, disk)| exact(name, disk)).collect();
        for verb in
            [&["images"][..], &["stats"], &["search", "x"], &["packages"], &["log"], &["verify", "--all"]]
        {
            code(verb);
        }
        if code(&["fsck"]) == 0 {
            assert!(before.iter().all(|exact| *exact), "{what}: fsck calls it whole");
        }
        // gc makes nothing worse, and neither does a repair.
        for verb in [&["gc"][..], &["fsck", "--repair"], &["gc"]] {
            code(verb);
            for ((name, disk), before) in names.iter().zip(&disks).zip(&before) {
                assert!(!before || exact(name, disk), "{what}: {name} is lost by {verb:?}");
            }
        }
        let mut repair = mif(&store);
        repair.args(["fsck", "--repair", "--from"]).args(&disks);
        let output = repair.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // Without any record of an image, its existence is unknown.
        let pointers = files(&store.join("disks"), "@1");
        let known = |name: &str| {
            pointers.iter().any(|path| path.to_string_lossy().ends_with(&format!(".{name}@1")))
                || fs::read(store.join(format!("published/name={name}/version=1")))
                    .is_ok_and(|json| serde_json::from_slice::<Value>(&json).is_ok_and(|v| v["name"] == name))
        };
        if output.status.code() != Some(0) {
            assert!(!names.iter().all(|name| known(name)), "{what}: {text}");
            continue;
        }
        for (name, disk) in names.iter().zip(&disks) {
            let there = known(name) || store.join(format!("images/name={name}/version=1")).exists();
            assert!(exact(name, disk) || !there, "{what}: {name}: {text}");
        }
        assert_eq!(code(&["fsck"]), 0, "{what}");
        assert_eq!(code(&["gc"]), 0, "{what}");
    }
}
