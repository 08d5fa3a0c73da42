//! The program's help and error messages, compared with the texts in `tests/snapshots`. The verbs are taken from the
//! program, so a new one needs a page.
//!
//! `MIF_TESTS_UPDATE=1` rewrites the texts.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use mif_tests::{mif_path, repo, run, verbs, work_folder};

/// Returns the program, without environment variables that could appear in help or messages.
fn program() -> Command {
    let mut command = Command::new(mif_path());
    command.env_clear().env("COLUMNS", "100");
    command
}

fn snapshots() -> PathBuf {
    repo().join("tests/snapshots")
}

fn is_update() -> bool {
    std::env::var_os("MIF_TESTS_UPDATE").is_some()
}

/// Compares a text with the one in a file, or updates the file.
fn assert_snapshot(name: &str, text: &str) {
    let path = snapshots().join(name);
    let expected = fs::read_to_string(&path).unwrap_or_default();
    if expected == text {
        return;
    }
    if is_update() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        return fs::write(&path, text).unwrap();
    }
    let same = expected.lines().zip(text.lines()).take_while(|(a, b)| a == b).count();
    let line = |text: &str| text.lines().nth(same).unwrap_or("(the end)").to_owned();
    panic!(
        "tests/snapshots/{name} differs in line {}. MIF_TESTS_UPDATE=1 writes it anew.\n- {}\n+ {}",
        same + 1,
        line(&expected),
        line(text)
    );
}

#[test]
fn every_page_of_help_is_as_it_was_agreed() {
    let mut pages = BTreeMap::from([("mif.txt".to_owned(), run(program().arg("--help")))]);
    for verb in verbs() {
        let page = run(program().args(&verb).arg("--help"));
        pages.insert(format!("mif-{}.txt", verb.join("-")), page);
    }
    for (name, page) in &pages {
        assert_snapshot(&format!("help/{name}"), page);
    }
    for entry in fs::read_dir(snapshots().join("help")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if !pages.contains_key(&name) {
            assert!(is_update(), "tests/snapshots/help/{name}: there is no such verb");
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

#[test]
fn errors_say_what_is_wrong_as_it_was_agreed() {
    let work = work_folder();
    let demo = repo().join("fixtures/demo.qcow2");
    fs::copy(&demo, work.at("web.qcow2")).unwrap();
    let whole = fs::read(&demo).unwrap();
    fs::write(work.at("cut.qcow2"), &whole[..whole.len() / 2]).unwrap();
    fs::write(work.at("notes.txt"), "Shopping: milk, bread.\n").unwrap();
    fs::create_dir(work.at("photos")).unwrap();
    fs::write(work.at("photos/cat.jpg"), b"\xff\xd8\xff").unwrap();
    fs::create_dir(work.at("man1")).unwrap();
    fs::write(work.at("man1/mif.1"), ".TH OTHER 1\n").unwrap();
    // Use the default store: a named one would appear in the usages.
    run(program().current_dir(work.path()).args(["import", "web.qcow2"]));
    let uses = [
        "imprt web.qcow2",
        "ls web --recursiv",
        "ls",
        "export web",
        "import no-such.qcow2",
        "import notes.txt",
        "import cut.qcow2",
        "import web.qcow2 --name a/b",
        "images --store elsewhere",
        "images --store photos",
        "convert web.qcow2 web.floppy",
        "convert web.qcow2 new.qcow2 -O floppy",
        "convert web.qcow2 new.qcow2 -o colour=red",
        "convert web.qcow2 notes.txt -O raw",
        "info ./web.qcow2 -f floppy",
        "ls nobody",
        "ls web@7",
        "ls web p9:/",
        "cat web /etc/nothing",
        "cat web /etc",
        "packages web --csv --json",
        "ls web --format xml",
        "export web big.raw --size enormous",
        "verify web",
        "search --mode 999",
        "tag web 7",
        "customize web --as other --write motd:hello",
        "update --from web --to web@7 --all",
        "completions tcsh",
        "man nowhere",
        "man notes.txt",
        "man man1",
    ];
    let mut text = String::new();
    for words in uses {
        let mut command = program();
        command.current_dir(work.path()).args(words.split(' '));
        let output = command.output().unwrap();
        let code = output.status.code().unwrap();
        assert!(code > 1 && output.stdout.is_empty(), "mif {words}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        text += &format!("$ mif {words}\n{said}(exit code {code})\n\n");
    }
    // Without tools the second reader cannot read it, and the test would count as skipped.
    fs::remove_dir_all(work.at("mif-store")).unwrap();
    assert_snapshot("errors.txt", &text);
}
