//! The format of a store: it agrees with docs/format.md, and objects of different kinds never share a name.

use std::fs;
use std::path::Path;

use mif_formats::mif::ObjectId;
use mif_formats::mif::chunks::{Chunk, encode_list};
use mif_tests::disk::{noise, small};
use mif_tests::{
    assert_second_reader_agrees, files, have, have_second_reader, json, mif, repo, run, run_failing,
    second_reader, tool, work_folder,
};

/// Copies the committed store, because reading it with tools creates files in it.
fn golden(work: &Path) -> std::path::PathBuf {
    let store = work.join("store");
    run(tool("cp").arg("-r").arg(repo().join("fixtures/golden-store")).arg(&store));
    store
}

#[test]
fn the_committed_store_is_read_as_it_was_written() {
    if !have(&["sha256sum", "cmp"]) || !have_second_reader() {
        return;
    }
    let work = work_folder();
    let store = golden(work.path());
    run(mif(&store).arg("fsck"));
    let sums = fs::read_to_string(repo().join("fixtures/golden-store.sha256")).unwrap();
    let mut images = 0;
    for line in sums.lines() {
        let (sum, image) = line.split_once("  ").unwrap();
        let out = work.path().join("out.raw");
        run(second_reader().arg(&store).arg(image).arg(&out));
        assert_eq!(
            run(tool("sha256sum").arg(&out)).split(' ').next(),
            Some(sum),
            "{image} by the second reader"
        );
        run(mif(&store).args(["export", "--force", image]).arg(&out));
        assert_eq!(run(tool("sha256sum").arg(&out)).split(' ').next(), Some(sum), "{image} by mif");
        images += 1;
    }
    assert_eq!(images, json(&store, &["images"]).as_array().unwrap().len());
    // The current program makes the same layout of the same disk.
    let disk = repo().join("fixtures/demo.qcow2");
    let fresh = work.path().join("fresh");
    run(mif(&fresh).arg("import").arg(&disk));
    let digest = |store: &Path| json(store, &["images"])[0]["layout_digest"].clone();
    assert_eq!(digest(&fresh), digest(&store));
}

#[test]
fn an_image_with_an_unknown_feature_is_refused_and_the_others_are_read() {
    let work = work_folder();
    let store = golden(work.path());
    let records = ["images/name=sparse/version=1/image.json", "published/name=sparse/version=1"];
    for record in records.map(|record| store.join(record)) {
        let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
        json["features"] = serde_json::json!(["of tomorrow"]);
        fs::write(&record, json.to_string()).unwrap();
    }
    let before = mif_tests::snapshot(&store);
    let refused = run_failing(mif(&store).args(["ls", "sparse"]), 4);
    assert!(refused.contains("needs the feature \"of tomorrow\"") && refused.contains("newer"), "{refused}");
    assert!(run(mif(&store).args(["cat", "demo", "/etc/os-release"])).contains("mif demo"));
    // It is not damage, so nothing is repaired, and nothing that it may need is removed.
    for arguments in [&["fsck"][..], &["fsck", "--repair"]] {
        let output = mif(&store).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.code() == Some(1) && text.starts_with("unknown: 1 file"), "{text}");
    }
    assert_eq!(mif(&store).arg("gc").output().unwrap().status.code(), Some(1));
    let after = mif_tests::snapshot(&store);
    assert!(before.iter().all(|file| after.contains(file)), "{before:?} {after:?}");
}

#[test]
fn the_second_reader_notices_every_kind_of_damage() {
    if !have_second_reader() {
        return;
    }
    let work = work_folder();
    let store = golden(work.path());
    let out = work.path().join("out.raw");
    let mut tried = 0;
    for (path, len) in mif_tests::snapshot(&store) {
        let name = path.strip_prefix(&store).unwrap().to_string_lossy().into_owned();
        // Only a hint: readers find everything without it.
        if name.ends_with("/packs") {
            continue;
        }
        let whole = fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        damaged[len as usize / 2] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let errors = ["demo", "sparse"].map(|image| {
            let output = second_reader().arg(&store).arg(image).arg(&out).output().unwrap();
            String::from_utf8_lossy(&output.stderr).into_owned()
        });
        assert!(errors.iter().any(|error| error.starts_with("second-reader: ")), "{name}: {errors:?}");
        fs::write(&path, &whole).unwrap();
        tried += 1;
    }
    assert!(tried >= 19, "{tried} files");
}

/// Returns a file whose content is not hashed, because its hole is so large, and the bytes of its chunk list.
fn sparse_file_and_its_list(work: &Path) -> (std::path::PathBuf, Vec<u8>) {
    let data: Vec<u8> = (0..4096).map(|i: u32| (i * 7 + 3) as u8 | 1).collect();
    let path = work.join("sparse");
    fs::write(&path, &data).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(9 << 30).unwrap();
    let mut first = data;
    first.resize(64 << 10, 0);
    let list =
        encode_list(&[Chunk::plain(ObjectId::of(&first), 64 << 10), Chunk::zeros((9 << 30) - (64 << 10))]);
    (path, list)
}

#[test]
fn a_chunk_list_and_a_file_with_the_same_bytes_are_two_objects_in_either_order() {
    if !have(&["mke2fs", "cmp", "cp"]) || !have_second_reader() {
        return;
    }
    let work = work_folder();
    let (sparse, list) = sparse_file_and_its_list(work.path());
    let disk = |name: &str, with: &[&str]| {
        let folder = work.path().join(format!("{name}.d"));
        fs::create_dir_all(&folder).unwrap();
        for (i, what) in with.iter().enumerate() {
            let to = folder.join(format!("{i}"));
            match *what {
                "sparse" => drop(run(tool("cp").arg("--sparse=always").arg(&sparse).arg(&to))),
                "list" => fs::write(&to, &list).unwrap(),
                _ => fs::write(&to, noise(1, 24 << 20)).unwrap(),
            }
        }
        let image = work.path().join(format!("{name}.raw"));
        fs::File::create(&image).unwrap().set_len(96 << 20).unwrap();
        run(tool("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(&folder).arg(&image));
        image
    };
    let cases: [Vec<std::path::PathBuf>; 4] = [
        vec![disk("list-first", &["list", "filler", "sparse"])],
        vec![disk("sparse-first", &["sparse", "filler", "list"])],
        vec![disk("list-a", &["list"]), disk("sparse-a", &["sparse"])],
        vec![disk("sparse-b", &["sparse"]), disk("list-b", &["list"])],
    ];
    for (number, disks) in cases.iter().enumerate() {
        let store = work.path().join(format!("store{number}"));
        for disk in disks {
            run(mif(&store).arg("import").arg(disk));
        }
        for disk in disks {
            let out = work.path().join("out.raw");
            let name = disk.file_stem().unwrap();
            run(mif(&store).args(["export", "--force"]).arg(name).arg(&out));
            run(tool("cmp").arg(disk).arg(&out));
        }
        run(mif(&store).arg("fsck"));
        run(mif(&store).args(["verify", "--all"]));
        // gc keeps both, and each image works without the other.
        run(mif(&store).arg("gc"));
        assert_second_reader_agrees(&store);
    }
}

#[test]
fn an_index_that_gives_an_object_another_kind_is_noticed() {
    if !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    let store = work.path().join("store");
    run(mif(&store).arg("import").arg(small(work.path(), "a", &[("x", &noise(1, 5000))])));
    let index = &files(&store.join("index"), ".idx")[0];
    let mut contents = mif_formats::mif::pack::decode_index(&fs::read(index).unwrap()).unwrap();
    let entries = &mut contents.entries;
    entries[0].id = ObjectId::chunk_list(entries[0].id.digest);
    assert_ne!(entries[0].encoding, mif_formats::mif::pack::Encoding::List);
    entries.sort_by_key(|entry| entry.id);
    fs::write(index, mif_formats::mif::pack::encode_index(&contents)).unwrap();
    run_failing(mif(&store).arg("fsck"), 1);
    // The pack has the correct index at its end, which readers use.
    run(mif(&store).args(["export", "a"]).arg(work.path().join("out.raw")));
    run(mif(&store).args(["fsck", "--repair"]));
    run(mif(&store).arg("fsck"));
}
