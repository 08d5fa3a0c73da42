//! What people type and expect: names of verbs and images, where stores are, what is printed when, and reports that are
//! short.

use std::fs;
use std::process::Command;

use mif_tests::guest::Guest;
use mif_tests::{have, mif_path, run, run_failing, tool, work_folder};

const STATUS: &str = "Package: a\nStatus: install ok installed\nVersion: 1\n\n";

fn guest() -> Option<Guest> {
    Guest::new(&[("etc/motd", "hello\nworld\n"), ("etc/binary", "\0\u{1}"), ("var/lib/dpkg/status", STATUS)])
}

#[test]
fn verbs_have_the_names_that_people_type() {
    let Some(guest) = guest() else { return };
    let images = run(&mut guest.mif(&["images"]));
    for alias in ["list", "snapshots"] {
        assert_eq!(run(&mut guest.mif(&[alias])), images);
    }
    assert_eq!(run(&mut guest.mif(&["find", "motd"])), run(&mut guest.mif(&["search", "motd"])));
    assert_eq!(run(&mut guest.mif(&["help", "gc"])), run(&mut guest.mif(&["gc", "--help"])));
    assert_eq!(
        run(&mut guest.mif(&["-q", "--store", "x", "help", "gc"])),
        run(&mut guest.mif(&["gc", "--help"]))
    );
    assert_eq!(run(&mut guest.mif(&["help"])), run(&mut guest.mif(&["--help"])));
    assert_eq!(run(&mut guest.mif(&["version"])), run(&mut guest.mif(&["--version"])));
    for (words, said) in [
        (&["ls", "gest"][..], "Did you mean guest?"),
        (&["tag", "guset", "x"], "Did you mean guest?"),
        (&["log", "guests"], "Did you mean guest?"),
        (&["export", "zzz", "x.raw"], "`mif images` lists the images"),
    ] {
        let error = run_failing(&mut guest.mif(words), 3);
        assert!(error.contains(said), "{words:?}: {error}");
    }
    run(&mut guest.mif(&["tag", "guest", "golden"]));
    for image in ["guest", "guest@1", "guest@golden"] {
        assert_eq!(guest.cat(image, "/etc/motd"), "hello\nworld\n");
        let verbs = [
            vec!["verify", image, image],
            vec!["diff", image, image],
            vec!["info", image],
            vec!["packages", image],
        ];
        for words in verbs {
            run(&mut guest.mif(&words));
        }
    }
}

#[test]
fn a_failed_import_leaves_no_store_behind() {
    let work = work_folder();
    fs::write(work.at("notes.txt"), "text\n").unwrap();
    fs::create_dir(work.at("empty")).unwrap();
    fs::create_dir(work.at("mine")).unwrap();
    fs::write(work.at("mine/notes"), "mine\n").unwrap();
    let import = |store: &str, words: &[&str]| {
        let mut command = work.mif(&["import"]);
        command.env("MIF_STORE", work.at(store)).args(words);
        command.output().unwrap().status.code()
    };
    assert_eq!(import("new", &["notes.txt"]), Some(4));
    assert_eq!(import("new", &["missing.raw"]), Some(3));
    assert_eq!(import("new", &["empty"]), Some(3), "a directory without disk images");
    assert!(!work.at("new").exists());
    assert_eq!(import("empty", &["notes.txt"]), Some(4));
    assert!(work.at("empty").read_dir().unwrap().next().is_none(), "the user's own directory stays");
    assert_eq!(import("mine", &["notes.txt"]), Some(3));
    assert!(work.at("mine/notes").exists());
    // A store that holds an image stays, whatever fails later.
    fs::write(work.at("disk.raw"), vec![1; 1 << 20]).unwrap();
    assert_eq!(import("new", &["disk.raw", "--format", "raw"]), Some(0));
    assert_eq!(import("new", &["notes.txt"]), Some(4));
    assert!(run(work.mif(&["images"]).env("MIF_STORE", work.at("new"))).contains("disk@1"));
}

#[test]
fn an_empty_variable_is_unset_and_paths_in_records_are_absolute() {
    if !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    fs::create_dir(work.at("sub")).unwrap();
    run(tool("mke2fs").args(["-q", "-t", "ext4"]).arg(work.at("sub/disk.raw")).arg("8M"));
    let here = |folder: &str, words: &[&str]| {
        let mut command = Command::new(mif_path());
        command.current_dir(work.at(folder)).env("MIF_STORE", "").args(words);
        command
    };
    run(&mut here("sub", &["import", "disk.raw"]));
    assert!(work.at("sub/mif-store/store.json").exists());
    let said = run_failing(&mut here("sub", &["images", "--store", ""]), 2);
    assert!(said.contains("--store: the path is empty"), "{said}");
    let json = run(&mut here("sub", &["images", "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let path = fs::canonicalize(work.at("sub/disk.raw")).unwrap();
    assert_eq!(json[0]["provenance"]["source"].as_str().map(std::path::PathBuf::from), Some(path));
    // People see the path from where they are; elsewhere, the whole of it.
    assert!(run(&mut here("sub", &["images"])).trim_end().ends_with(" disk.raw"));
    let store = ["--store", "sub/mif-store"];
    assert!(run(here(".", &["images"]).args(store)).trim_end().ends_with(" sub/disk.raw"));
    // An import from another directory knows the file again.
    let again = run(here(".", &["import", "sub", "--json"]).args(store));
    assert!(again.contains("\"event\":\"skipped\""), "{again}");
}

#[test]
fn quiet_verbs_print_errors_and_answers_only_and_errors_are_json_if_reports_are() {
    let Some(guest) = guest() else { return };
    for words in [
        &["import", "guest.raw", "--name", "again"][..],
        &["export", "guest", "out.raw"],
        &["tag", "guest", "x"],
        &["customize", "guest", "--as", "new", "--write", "/etc/motd:x"],
        &["rm", "new"],
        &["gc"],
    ] {
        let output = guest.mif(words).arg("-q").output().unwrap();
        assert!(
            output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
            "{words:?}: {output:?}"
        );
    }
    assert!(run(guest.mif(&["ls", "guest", "/etc"]).arg("-q")).contains("motd"));
    let said = run_failing(guest.mif(&["ls", "none"]).arg("-q"), 3);
    assert!(said.starts_with("mif: none: "), "{said}");
    for (words, code) in [(&["ls", "none"][..], 3), (&["ls", "--nonsense"], 2), (&["tag", "guest", "a/b"], 2)]
    {
        let said = run_failing(guest.mif(words).arg("--json"), code);
        let json: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
        assert_eq!(json["code"], code, "{json}");
        assert!(json["error"].as_str().is_some_and(|error| !error.is_empty()), "{json}");
    }
    // A command in the log can be pasted into a shell.
    guest.edit(&["--write=/etc/motd:it's $HOME", "--seed=x", "--new-ids"]);
    let log = run(&mut guest.mif(&["log", "new"]));
    let line = log.lines().find(|line| line.trim_start().starts_with("mif customize")).unwrap();
    let echoed = run(tool("sh").args(["-c", &format!("printf '%s\\n' {}", line.trim())]));
    assert!(echoed.lines().any(|word| word == "--write=/etc/motd:it's $HOME"), "{echoed}");
}

#[test]
fn a_diff_shows_what_people_look_for() {
    let Some(guest) = guest() else { return };
    guest.edit_as("guest", "touched", &["--time=1700000000", "--touch=/etc/motd", "--touch=/etc/binary"]);
    let diff = |words: &[&str]| {
        let output = guest.mif(&["diff"]).args(words).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, said) = diff(&["guest", "touched"]);
    assert_eq!(code, 1);
    assert!(said.starts_with("m 2 paths differ only in time (--times lists them)\n"), "{said}");
    let (_, said) = diff(&["guest", "touched", "--times", "--limit", "1"]);
    assert_eq!(said.lines().filter(|line| line.starts_with("m ")).count(), 1, "{said}");
    assert_eq!(diff(&["guest", "touched", "--ignore-times", "--exit-code"]).0, 0);
    guest.edit(&[
        "--edit=/etc/motd:s/world/moon/",
        "--append=/etc/motd:more",
        "--write=/etc/binary:longer",
        "--write=/etc/new:1",
    ]);
    let (_, stat) = diff(&["guest", "new", "--stat"]);
    let line = |path: &str| {
        stat.lines().find(|line| line.contains(path)).unwrap_or_else(|| panic!("{path}: {stat}"))
    };
    assert!(line("/etc/motd").ends_with("| 3 ++-"), "{stat}");
    assert!(line("/etc/new").ends_with("| 1 +"), "{stat}");
    assert!(line("/etc/binary").ends_with("| Bin 2 -> 6 bytes"), "{stat}");
    let (_, sorted) = diff(&["guest", "new", "--sort", "size", "--limit", "1"]);
    assert!(sorted.contains("/etc/motd") || sorted.contains("/etc/binary"), "{sorted}");
    if have(&["patch"]) {
        let (_, text) = diff(&["guest", "new", "/etc/motd", "--text"]);
        fs::write(guest.at("motd"), "hello\nworld\n").unwrap();
        fs::write(guest.at("x.diff"), text).unwrap();
        run(tool("patch").arg("-s").arg(guest.at("motd")).arg(guest.at("x.diff")));
        assert_eq!(fs::read_to_string(guest.at("motd")).unwrap(), "hello\nmoon\nmore\n");
    }
}

#[test]
fn the_status_of_a_store_is_one_screen_and_says_what_to_do() {
    let Some(guest) = guest() else { return };
    run(&mut guest.mif(&["tag", "guest", "golden"]));
    let status = run(&mut guest.mif(&["status"]));
    assert!(
        status.lines().count() < 24
            && status.contains("1 version, 1 tag")
            && status.contains("attention   nothing"),
        "{status}"
    );
    let json: serde_json::Value = serde_json::from_str(&run(&mut guest.mif(&["status", "--json"]))).unwrap();
    assert_eq!(
        (&json["good"], &json["newest"], &json["gc_bytes"]),
        (&true.into(), &"guest@1".into(), &0.into())
    );
    fs::write(guest.at("store/notes"), "mine").unwrap();
    fs::write(guest.at("store/images/name=guest/version=1/layout"), "damaged").unwrap();
    let output = guest.mif(&["status"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("guest@1: ")
            && said.contains("mif fsck")
            && said.contains("not part of the store: notes"),
        "{said}"
    );
}

#[test]
fn old_versions_are_kept_by_the_calendar_and_by_tags() {
    let Some(guest) = guest() else { return };
    for _ in 0..3 {
        guest.edit_as("guest", "guest", &["--touch=/etc/motd", "--append=/etc/motd:x"]);
    }
    run(&mut guest.mif(&["tag", "guest@1", "release-1"]));
    run(&mut guest.mif(&["tag", "guest@2", "scratch"]));
    let gone = |words: &[&str]| -> Vec<String> {
        let json = run(guest.mif(&["gc", "--dry-run", "--json"]).args(words));
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        json["forgotten"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(gone(&[]), [""; 0]);
    // All were made on one day, or a few seconds around midnight.
    assert!(gone(&["--keep-daily", "1"]) == ["guest@3"]);
    assert!(gone(&["--keep-yearly", "1", "--keep-last", "2"]).is_empty());
    assert_eq!(gone(&["--keep-tag", "release-*"]), ["guest@2", "guest@3"]);
    let typo = run_failing(&mut guest.mif(&["gc", "--keep-last", "1", "--keep-tag", "relaese-*"]), 2);
    assert!(typo.contains("no tag matches") && typo.contains("Nothing was removed"), "{typo}");
    run(&mut guest.mif(&["gc", "--keep-tag", "release-*"]));
    let log = run(&mut guest.mif(&["images"]));
    assert!(log.contains("guest@1") && log.contains("guest@4") && !log.contains("guest@2"), "{log}");
    assert!(run_failing(&mut guest.mif(&["ls", "guest@scratch"]), 3).contains("no such image"));
    run(&mut guest.mif(&["fsck"]));
}
