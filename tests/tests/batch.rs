//! Whole collections: folders imported, past failures, and again where they were interrupted.

use std::fs;
use std::path::{Path, PathBuf};

use mif_tests::{have, mif, mif_path, repo, run, run_failing, tool, work_folder};
use serde_json::Value;

/// A folder to work in, with the folder `lib` for images.
struct Library {
    work: tempfile::TempDir,
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

    /// The demo disk as `lib/NAME.qcow2`, with `text` somewhere on it that no other has.
    fn demo(&self, name: &str, text: &str) -> PathBuf {
        let path = self.at("lib").join(format!("{name}.raw"));
        run(mif(&self.store()).arg("convert").arg(demo()).arg(&path));
        poke(&path, text);
        path
    }

    /// The events of a run, whatever its exit code is.
    fn events(&self, arguments: &[&str]) -> (i32, Vec<Value>) {
        let mut command = mif(&self.store());
        let output = command.arg("--json").args(arguments).current_dir(self.work.path()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let events =
            text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
        (output.status.code().unwrap(), events)
    }

    /// What became of each image, by the name of its file: `finished`, `skipped`, …
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

/// Writes over the first bytes of a raw disk, its boot code, in place.
fn poke(path: &Path, text: &str) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, text.as_bytes(), 0).unwrap();
}

fn pairs<'p>(ended: &'p [(String, String)]) -> Vec<(&'p str, &'p str)> {
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
    // All are one disk, so what is in the store is in it once, though they were imported side by side.
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
    // Other bytes, but neither another length nor another time: only who reads the file can tell.
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
    // Another time and the same bytes; other bytes.
    run(tool("touch").arg(&a));
    poke(&b, "B");
    assert_eq!(pairs(&library.import(&["lib"]).1), [("a.raw", "unchanged"), ("b.raw", "finished")]);
    run(mif(&library.store()).arg("verify").arg("a@2").arg(&a));
    run(mif(&library.store()).arg("verify").arg("b@2").arg(&b));
    // Under another name it is another image; and a newer version by other means is no reason to read a file again.
    run(mif(&library.store())
        .args(["customize", "b", "--as", "b", "--write-file", "/etc/note:stamp"])
        .current_dir(library.work.path()));
    assert_eq!(library.names(), ["a@1", "a@2", "b@1", "b@2", "b@3"]);
    assert_eq!(pairs(&library.import(&["lib/b.raw", "lib/b.raw"]).1), [("b.raw", "skipped")]);
    assert_eq!(
        pairs(&library.import(&["lib", "--name", "x-{stem}"]).1),
        [("a.raw", "finished"), ("b.raw", "finished")]
    );

    // Of a snapshot the file is the same, and the disk another.
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
        assert!(library.names().is_empty());
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
    // Where there is nothing to import, that is an error.
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
