//! Whole collections: importing directories, past failures, and resuming after an interruption.

use std::fs;
use std::path::{Path, PathBuf};

use mif_tests::{WorkFolder, have, mif, mif_path, repo, run, run_failing, tool, work_folder};
use serde_json::Value;

/// A working directory, with the directory `lib` for images.
struct Library {
    work: WorkFolder,
}

impl Library {
    fn new() -> Self {
        let library = Library { work: work_folder() };
        fs::create_dir(library.at("lib")).unwrap();
        library
    }

    fn at(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    fn store(&self) -> PathBuf {
        self.at("store")
    }

    /// Writes the demo disk as `lib/NAME.raw`, with `text` at its start, which no other has.
    fn demo(&self, name: &str, text: &str) -> PathBuf {
        let path = self.at("lib").join(format!("{name}.raw"));
        run(mif(&self.store()).arg("convert").arg(demo()).arg(&path));
        poke(&path, text);
        path
    }

    /// Returns the exit code and the events of a run.
    fn events(&self, arguments: &[&str]) -> (i32, Vec<Value>) {
        let mut command = mif(&self.store());
        let output = command.arg("--json").args(arguments).current_dir(self.work.path()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let events =
            text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
        (output.status.code().unwrap(), events)
    }

    /// Imports, and returns the outcome of each image by file name: `finished`, `skipped`, …
    fn import(&self, arguments: &[&str]) -> (i32, Vec<(String, String)>) {
        let (code, events) = self.events(&[&["import"], arguments].concat());
        let mut ended: Vec<(String, String)> = events
            .iter()
            .filter(|event| !["started", "passed_over", "summary"].contains(&text(event, "event")))
            .map(|event| {
                let file = Path::new(text(event, "source")).file_name().unwrap().to_str().unwrap();
                (file.to_owned(), text(event, "event").to_owned())
            })
            .collect();
        ended.sort();
        let summary = events.last().expect("there are events");
        assert_eq!(summary["event"], "summary");
        assert_eq!(summary["images"], ended.len());
        (code, ended)
    }

    fn names(&self) -> Vec<String> {
        let images: Value =
            serde_json::from_str(&run(mif(&self.store()).args(["--json", "images"]))).unwrap();
        let images = images.as_array().unwrap().iter();
        images.map(|image| format!("{}@{}", text(image, "name"), image["version"])).collect()
    }
}

fn demo() -> PathBuf {
    repo().join("fixtures/demo.qcow2")
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} of {value}"))
}

/// Overwrites the first bytes of a raw disk, its boot code, in place.
fn poke(path: &Path, text: &str) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, text.as_bytes(), 0).unwrap();
}

fn pairs(ended: &[(String, String)]) -> Vec<(&str, &str)> {
    ended.iter().map(|(file, event)| (file.as_str(), event.as_str())).collect()
}

#[test]
fn a_folder_is_the_disk_images_in_it_each_once_and_whole() {
    if !have(&["qemu-img", "split"]) {
        return;
    }
    let library = Library::new();
    let raw = library.demo("plain", "plain");
    let lib = library.at("lib");
    let convert = |options: &[&str], to: &str| {
        fs::create_dir_all(lib.join(to).parent().unwrap()).unwrap();
        run(tool("qemu-img").args(["convert", "-q"]).args(options).arg(&raw).arg(lib.join(to)));
    };
    convert(&["-O", "vmdk", "-o", "subformat=monolithicFlat"], "vm/flat/disk.vmdk");
    convert(&["-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"], "vm/sparse/disk.vmdk");
    convert(&["-O", "qcow2", "-c"], "packed.qcow2");
    run(tool("split").args(["-b", "10M", "-d", "-a", "3"]).arg(&raw).arg(lib.join("pieces.")));
    let overlay = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "packed.qcow2"];
    run(tool("qemu-img").args(overlay).arg(lib.join("overlay.qcow2")));
    fs::copy(&raw, lib.join("without-suffix")).unwrap();
    fs::write(lib.join("SHA256SUMS"), "0123456789abcdef  plain.raw\n").unwrap();
    fs::write(lib.join("vm/flat/disk.vmx"), "config.version = \"8\"\n").unwrap();
    let (code, events) = library.events(&["import", "lib", "--name", "{parent}-{stem}", "--jobs", "3"]);
    assert_eq!(code, 0, "{events:?}");
    let passed_over: Vec<&str> =
        events.iter().filter(|e| e["event"] == "passed_over").map(|e| text(e, "path")).collect();
    for file in ["disk-flat.vmdk", "disk-s001.vmdk", "pieces.001", "pieces.003", "SHA256SUMS", "disk.vmx"] {
        assert!(passed_over.iter().any(|path| path.ends_with(file)), "{file}: {passed_over:?}");
    }
    assert_eq!(
        library.names(),
        [
            "flat-disk@1",
            "lib-overlay@1",
            "lib-packed@1",
            "lib-pieces@1",
            "lib-plain@1",
            "lib-without-suffix@1",
            "sparse-disk@1"
        ]
    );
    for name in library.names() {
        run(mif(&library.store()).args(["verify", &name]).arg(&raw));
    }
    // All are the same disk, so the store has its contents once, though the imports ran in parallel.
    let added = &events.last().unwrap()["added"];
    let one = library.at("one");
    let report: Value = serde_json::from_str(&run(mif(&one).args(["--json", "import"]).arg(&raw))).unwrap();
    assert_eq!(*added, report["added"]);
    run(mif(&library.store()).arg("fsck"));
}

#[test]
fn an_image_is_skipped_without_being_read_until_its_file_or_what_is_asked_for_changes() {
    if !have(&["qemu-img", "touch"]) {
        return;
    }
    let library = Library::new();
    let (a, b) = (library.demo("a", "a"), library.demo("b", "b"));
    assert_eq!(pairs(&library.import(&["lib"]).1), [("a.raw", "finished"), ("b.raw", "finished")]);
    // Other bytes, but the same length and time: only reading the file can tell.
    let stamp = library.at("stamp");
    run(tool("touch").arg("-r").arg(&a).arg(&stamp));
    poke(&a, "A");
    run(tool("touch").arg("-r").arg(&stamp).arg(&a));
    assert_eq!(pairs(&library.import(&["lib"]).1), [("a.raw", "skipped"), ("b.raw", "skipped")]);
    assert_eq!(library.names(), ["a@1", "b@1"]);
    assert_eq!(
        pairs(&library.import(&["lib", "--reread"]).1),
        [("a.raw", "finished"), ("b.raw", "unchanged")]
    );
    // Another time with the same bytes; other bytes.
    run(tool("touch").arg(&a));
    poke(&b, "B");
    assert_eq!(pairs(&library.import(&["lib"]).1), [("a.raw", "unchanged"), ("b.raw", "finished")]);
    run(mif(&library.store()).arg("verify").arg("a@2").arg(&a));
    run(mif(&library.store()).arg("verify").arg("b@2").arg(&b));
    // Under another name it is another image; and a newer version from an edit is no reason to read a file again.
    run(mif(&library.store())
        .args(["customize", "b", "--as", "b", "--write-file", "/etc/note:stamp"])
        .current_dir(library.work.path()));
    assert_eq!(library.names(), ["a@1", "a@2", "b@1", "b@2", "b@3"]);
    assert_eq!(pairs(&library.import(&["lib/b.raw", "lib/b.raw"]).1), [("b.raw", "skipped")]);
    assert_eq!(
        pairs(&library.import(&["lib", "--name", "x-{stem}"]).1),
        [("a.raw", "finished"), ("b.raw", "finished")]
    );

    // With a snapshot the file is the same, but the disk is different.
    let lib = library.at("snap");
    fs::create_dir(&lib).unwrap();
    run(tool("qemu-img").args(["convert", "-O", "qcow2"]).arg(&a).arg(lib.join("s.qcow2")));
    run(tool("qemu-img").args(["snapshot", "-c", "old"]).arg(lib.join("s.qcow2")));
    assert_eq!(pairs(&library.import(&["snap"]).1), [("s.qcow2", "finished")]);
    assert_eq!(pairs(&library.import(&["snap", "--snapshot", "old"]).1), [("s.qcow2", "unchanged")]);
    assert_eq!(pairs(&library.import(&["snap"]).1), [("s.qcow2", "skipped")]);
}

#[test]
fn two_that_would_have_one_name_are_refused_before_anything_is_read() {
    let library = Library::new();
    library.demo("disk", "1");
    fs::create_dir(library.at("lib/below")).unwrap();
    fs::copy(demo(), library.at("lib/below/disk.qcow2")).unwrap();
    let lib = library.at("lib");
    for arguments in [&[][..], &["--name", "same"]] {
        let error = run_failing(mif(&library.store()).arg("import").arg(&lib).args(arguments), 2);
        assert!(error.contains("disk.raw") && error.contains("disk.qcow2"), "{error}");
        assert!(!library.store().exists(), "nothing was imported, so there is no store");
    }
    run_failing(mif(&library.store()).arg("import").arg(&lib).args(["--name", "{what}"]), 2);
    run(mif(&library.store()).arg("import").arg(&lib).args(["--name", "{name}"]));
    assert_eq!(library.names(), ["disk.qcow2@1", "disk.raw@1"]);
    // A pattern for a single file.
    run(mif(&library.store()).arg("import").arg(demo()).args(["--name", "{parent}.{stem}"]));
    assert!(library.names().contains(&"fixtures.demo@1".to_owned()));
}

#[test]
fn the_rest_is_imported_when_some_fail_and_the_report_says_which() {
    let library = Library::new();
    library.demo("good", "good");
    fs::write(library.at("lib/damaged.qcow2"), [0xff; 70_000]).unwrap();
    fs::write(library.at("lib/cut.qcow2"), &fs::read(demo()).unwrap()[..1000]).unwrap();
    fs::write(library.at("lib/empty.img"), b"").unwrap();
    let (code, ended) = library.import(&["lib", "lib/not-there.raw"]);
    assert_eq!(code, 1);
    let failed = |file| (file, "failed");
    let expected = ["cut.qcow2", "damaged.qcow2", "empty.img"].map(failed);
    assert_eq!(pairs(&ended)[..3], expected);
    assert_eq!(pairs(&ended)[3..], [("good.raw", "finished"), failed("not-there.raw")]);
    let output =
        mif(&library.store()).args(["import", "lib"]).current_dir(library.work.path()).output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(out.lines().any(|line| line.starts_with("good@1") && line.contains("skipped")), "{out}");
    assert!(out.contains("4 images: 1 skipped") && out.contains("3 failed"), "{out}");
    for file in ["cut.qcow2", "damaged.qcow2", "empty.img"] {
        assert!(err.lines().any(|line| line.starts_with("mif: ") && line.contains(file)), "{file}: {err}");
    }
    // Having nothing to import is an error.
    fs::create_dir(library.at("nothing")).unwrap();
    run_failing(mif(&library.store()).arg("import").arg(library.at("nothing")), 3);
}

#[test]
fn a_terminal_shows_a_bar_for_each_image_and_one_for_all() {
    if !have(&["script"]) {
        return;
    }
    let library = Library::new();
    for name in ["one", "two"] {
        library.demo(name, name);
    }
    let (store, lib) = (library.store(), library.at("lib"));
    let command =
        format!("'{}' --store '{}' import '{}'", mif_path().display(), store.display(), lib.display());
    let log = library.at("log");
    let script = format!("stty cols 80; {command}");
    run(tool("script").env("TERM", "xterm").args(["-q", "-e", "-c", &script]).arg(&log));
    let seen = fs::read_to_string(&log).unwrap();
    assert!(seen.contains("of 2 images") && seen.contains("one@1") && seen.contains("two@1"), "{seen:?}");
}

#[test]
fn a_whole_library_is_signed_off_and_what_is_wrong_with_it_is_said() {
    let library = Library::new();
    library.demo("a", "a");
    fs::create_dir(library.at("lib/below")).unwrap();
    fs::rename(library.demo("b", "b"), library.at("lib/below/b.raw")).unwrap();
    let verify = |arguments: &[&str]| -> (i32, Value) {
        let (code, mut events) = library.events(&[&["verify", "--all"], arguments].concat());
        assert_eq!(events.len(), 1);
        (code, events.remove(0))
    };
    let results = |report: &Value| -> Vec<String> {
        let image = |image: &Value| format!("{} {}", text(image, "image"), image["original"]["result"]);
        report["images"].as_array().unwrap().iter().map(|i| image(i).replace('"', "")).collect()
    };
    run(mif(&library.store()).args(["import", "--name", "old-{stem}"]).arg(library.at("lib")));
    let (code, report) = verify(&["--against", "lib"]);
    assert_eq!((code, &report["good"]), (0, &Value::Bool(true)), "{report}");
    assert_eq!(results(&report), ["old-a@1 same", "old-b@1 same"]);
    assert!(report["images"][0]["original"]["files"].as_u64().unwrap() > 10, "{report}");
    // The library has moved; versions made by edits have no original.
    fs::rename(library.at("lib"), library.at("moved")).unwrap();
    fs::write(library.at("note"), "x").unwrap();
    let edit = ["customize", "old-a", "--as", "new-a", "--write-file", "/etc/note:note"];
    run(mif(&library.store()).args(edit).current_dir(library.work.path()));
    let (code, report) = verify(&["--against", "moved"]);
    assert_eq!(
        (code, results(&report)),
        (0, ["new-a@1 not_compared", "old-a@1 same", "old-b@1 same"].map(String::from).to_vec())
    );
    assert_eq!(verify(&[]).0, 0);

    // An original that was changed, one that is missing, one that is new.
    let moved = library.at("moved");
    poke(&moved.join("a.raw"), "changed");
    fs::rename(moved.join("below/b.raw"), moved.join("c.raw")).unwrap();
    let (code, report) = verify(&["--against", "moved"]);
    assert_eq!((code, &report["good"]), (1, &Value::Bool(false)));
    assert_eq!(results(&report), ["new-a@1 not_compared", "old-a@1 differs", "old-b@1 no_original"]);
    assert_eq!(report["images"][1]["original"]["report"]["bits"]["first"], 0);
    assert!(report["without_image"][0].as_str().unwrap().ends_with("c.raw"), "{report}");
    let output = mif(&library.store()).args(["verify", "--all", "--against"]).arg(&moved).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.lines().all(|line| line.len() < 200) && table.contains("verification failed"), "{table}");

    // Damage one byte of a pack: exactly the images that contain it are damaged.
    let noise = library.at("noise.raw");
    let mut bytes = vec![0; 300_000];
    mif_tests::random::Random(3).fill(&mut bytes);
    fs::write(&noise, &bytes).unwrap();
    run(mif(&library.store()).arg("import").arg(&noise));
    assert_eq!(verify(&[]).0, 0);
    let packs = mif_tests::snapshot(&library.store().join("packs"));
    let (pack, at) = packs
        .iter()
        .find_map(|(pack, _)| {
            let packed = fs::read(pack).unwrap();
            packed.windows(64).position(|w| *w == bytes[1000..1064]).map(|at| (pack.clone(), at))
        })
        .expect("noise is stored as it is");
    let mut packed = fs::read(&pack).unwrap();
    packed[at] ^= 1;
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, packed).unwrap();
    let (code, report) = verify(&[]);
    assert_eq!(code, 1);
    let damaged: Vec<&str> = report["images"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|image| image["whole"] == false)
        .map(|image| text(image, "image"))
        .collect();
    assert_eq!(damaged, ["noise@1"]);
}

#[test]
fn every_image_is_regenerated_past_failures_and_files_that_are_there_stay() {
    let library = Library::new();
    let originals = [library.demo("a", "a"), library.demo("b", "b")];
    run(mif(&library.store()).arg("import").arg(library.at("lib")));
    let out = library.at("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("a.vmdk"), b"precious").unwrap();
    let export = |arguments: &[&str]| {
        let mut command = mif(&library.store());
        command.args(["export", "--all"]).arg(&out).args(arguments).output().unwrap()
    };
    let output = export(&["--format", "vmdk"]);
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("a.vmdk") && error.contains("--force"), "{error}");
    assert!(said.contains("2 images: 1 exported, 1 failed"), "{said}");
    assert_eq!(fs::read(out.join("a.vmdk")).unwrap(), b"precious");
    run(mif(&library.store()).arg("verify").arg(out.join("b.vmdk")).arg(&originals[1]));
    assert_eq!(export(&["--format", "vmdk", "--force"]).status.code(), Some(0));
    for (name, original) in ["a.vmdk", "b.vmdk"].iter().zip(&originals) {
        run(mif(&library.store()).arg("verify").arg(out.join(name)).arg(original));
        if have(&["qemu-img"]) {
            run(tool("qemu-img").arg("compare").arg(out.join(name)).arg(original));
        }
    }
    poke(&originals[0], "A");
    run(mif(&library.store()).arg("import").arg(&originals[0]));
    assert_eq!(export(&["--format", "qcow2", "--all-versions", "--json"]).status.code(), Some(0));
    let mut names: Vec<_> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a.vmdk", "a@1.qcow2", "a@2.qcow2", "b.vmdk", "b@1.qcow2"]);
    run(mif(&library.store()).arg("verify").arg(out.join("a@2.qcow2")).arg(&originals[0]));
    // Fails without a format, with a read-only format, and with options for a single image.
    for wrong in [&[][..], &["--format", "vmdk", "--size", "1G"], &["--format", "vmdk", "a"]] {
        assert_eq!(export(wrong).status.code(), Some(2), "{wrong:?}");
    }
    assert_eq!(export(&["--format", "split"]).status.code(), Some(4));
}

#[test]
fn a_manifest_with_a_wrong_sha1_is_found_though_all_else_fits_it() {
    use mif_formats::mif::manifest::Body;
    use mif_formats::mif::{ObjectId, digests, manifest};

    if !have(&["mke2fs"]) {
        return;
    }
    let library = Library::new();
    let tree = library.at("tree");
    fs::create_dir(&tree).unwrap();
    // One file is stored as an object, and one as a list of chunks.
    for (name, len) in [("small", 50_000), ("large", 6 << 20), ("right", 60_000)] {
        let mut bytes = vec![0; len];
        mif_tests::random::Random(len as u64).fill(&mut bytes);
        fs::write(tree.join(name), bytes).unwrap();
    }
    let disk = library.at("lib/disk.raw");
    fs::File::create(&disk).unwrap().set_len(16 << 20).unwrap();
    run(tool("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(&tree).arg(&disk));
    run(mif(&library.store()).arg("import").arg(&disk));
    run(mif(&library.store()).args(["verify", "--all"]));
    {
        let store = mif::store::Store::open(&library.store(), &mif::Silent).unwrap();
        let stored = store.image(&"disk".parse().unwrap()).unwrap();
        let mut rows = stored.manifest().unwrap();
        for row in rows.iter_mut().filter(|row| row.path == b"/small" || row.path == b"/large") {
            let Some(Body::Digested { sha1, .. }) = &mut row.body else { panic!("it has digests") };
            sha1[0] ^= 1;
        }
        let mut forged = Vec::new();
        manifest::write(&mut forged, &rows).unwrap();
        let beside =
            |name: &str| fs::read(library.store().join("images/name=disk/version=1").join(name)).unwrap();
        let image = mif::store::Image {
            name: "forged".into(),
            manifest_digest: ObjectId::of(&forged).to_string(),
            ..stored.image.clone()
        };
        let more: [(&str, &[u8]); 2] =
            [("digests", &digests::encode(&rows)), ("packages.parquet", &beside("packages.parquet"))];
        store.publish(image, &forged, &beside("layout"), &more).unwrap();
    }
    // Content is addressed by its BLAKE3, which is correct.
    run(mif(&library.store()).arg("fsck"));
    let (code, report) = library.events(&["verify", "--all"]);
    assert_eq!(code, 1);
    let lost = |number: usize| &report[0]["images"][number]["lost"];
    assert_eq!(lost(0), &Value::Null);
    assert_eq!(lost(1)["wrong_sha1"], serde_json::json!(["p0:/large", "p0:/small"]));
    // Shards find both, each in the shard of the pack that has the object.
    let mut found = Vec::new();
    for shard in 0..5 {
        let (_, report) = library.events(&["verify", "--all", "--shard", &format!("{shard}/5")]);
        for image in report[0]["images"].as_array().unwrap() {
            found.extend(image["lost"]["wrong_sha1"].as_array().into_iter().flatten().cloned());
        }
    }
    assert_eq!(found, ["p0:/large", "p0:/small"]);
}
