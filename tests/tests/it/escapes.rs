//! Names chosen by somebody else: how a terminal and a text report show them, and that JSON and CSV distinguish them.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use mif_tests::{WorkFolder, json, mif, run, run_failing, tool, work_folder};

/// Makes a volume with a file of each name, all with the same text.
fn disk(names: &[&[u8]]) -> WorkFolder {
    let work = work_folder();
    let tree = work.path().join("tree");
    fs::create_dir(&tree).unwrap();
    for name in names {
        fs::write(tree.join(OsStr::from_bytes(name)), "text\n").unwrap();
    }
    let disk = work.path().join("disk.raw");
    fs::File::create(&disk).unwrap().set_len(2 << 20).unwrap();
    run(tool("mke2fs").args(["-q", "-t", "ext4", "-d"]).args([&tree, &disk]));
    work
}

/// Returns the characters that Python finds in a text that control a terminal, hide or reorder.
fn hidden(work: &Path, text: &str) -> String {
    fs::write(work.join("out"), text).unwrap();
    let program = "import unicodedata\n\
        t = open('out', newline='').read()\n\
        print(*sorted({'U+%04X' % ord(c) for c in t if c != '\\n' and unicodedata.category(c) in ('Cc', 'Cf', 'Zl', 'Zp')}))";
    run(tool("python3").args(["-c", program]).current_dir(work)).trim().to_owned()
}

const NAMES: [&str; 14] = [
    "\u{1b}[2Jx",
    "\rx",
    "a\nb",
    "\u{85}x",
    "\u{9b}31mx",
    "\u{7f}x",
    "\u{ad}x",
    "\u{61c}x",
    "\u{200b}x",
    "\u{200f}x",
    "\u{2028}x",
    "\u{202e}x",
    "\u{feff}x",
    "\u{e0041}x",
];

#[test]
fn no_text_has_characters_that_obey_hide_or_reorder_and_json_has_them_as_escapes() {
    let names: Vec<&[u8]> = NAMES.iter().map(|name| name.as_bytes()).collect();
    let work = disk(&names);
    let (store, disk) = (work.path().join("store"), work.path().join("disk.raw"));
    run(mif(&store).arg("import").arg(&disk).args(["--name", "a"]));
    run(mif(&store).args(["customize", "a", "--as", "b", "--write", "/\u{202e}new:x"]));
    let verbs: [&[&str]; 8] = [
        &["ls", "-R", "a"],
        &["ls", "-l", "a"],
        &["search", "*x"],
        &["diff", "a", "b"],
        &["log"],
        &["images"],
        &["info", "b"],
        &["stats"],
    ];
    for verb in verbs {
        // diff exits 1.
        let output = mif(&store).args(verb).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert_eq!(hidden(work.path(), &text), "", "{verb:?}");
    }
    assert_eq!(run(mif(&store).args(["ls", "a"])).lines().count(), NAMES.len() + 1, "a line for each name");
    let error = run_failing(mif(&store).args(["cat", "a", "/\u{1b}[2J\u{202e}none"]), 3);
    assert_eq!(hidden(work.path(), &error), "");
    let error = run_failing(mif(&store).args(["ls", "a", "--\u{1b}[2J"]), 2);
    assert_eq!(hidden(work.path(), &error), "");
    let written = run(mif(&store).args(["--json", "ls", "a"]));
    assert_eq!(hidden(work.path(), &written), "");
    let entries = json(&store, &["ls", "a"])["entries"].clone();
    let paths: HashSet<&str> =
        entries.as_array().unwrap().iter().map(|e| e["path"].as_str().unwrap()).collect();
    for name in NAMES {
        assert!(paths.contains(&*format!("/{name}")), "{name:?} has another value");
    }
}

#[test]
fn json_and_csv_tell_a_name_that_is_not_utf8_from_its_escape() {
    let work = disk(&[b"bad\xff", b"bad\\xff", b"bad\xfe"]);
    let store = work.path().join("store");
    run(mif(&store).arg("import").arg(work.path().join("disk.raw")).args(["--name", "a"]));
    let rows = [("ls", "entries"), ("search", "hits")];
    for (verb, list) in rows {
        let words: &[&str] = if verb == "ls" { &["ls", "a"] } else { &["search", "bad*"] };
        let report = json(&store, words);
        let found =
            report[list].as_array().unwrap().iter().filter(|e| e["path"].as_str().unwrap().contains("bad"));
        let found: HashSet<(String, Option<String>)> = found
            .map(|e| (e["path"].as_str().unwrap().into(), e["path_bytes"].as_str().map(str::to_owned)))
            .collect();
        let hex = |name: &[u8]| Some(name.iter().map(|b| format!("{b:02x}")).collect::<String>());
        let expected = [
            ("/bad\\xff".to_owned(), None),
            ("/bad\\xff".to_owned(), hex(b"/bad\xff")),
            ("/bad\\xfe".to_owned(), hex(b"/bad\xfe")),
        ];
        assert_eq!(found, HashSet::from(expected), "{verb}");
    }
    for words in [&["ls", "a", "--format", "csv"][..], &["search", "bad*", "--csv"]] {
        fs::write(work.path().join("rows.csv"), run(mif(&store).args(words))).unwrap();
        let program = "import csv\n\
            r = [(e['path'], e['path_bytes']) for e in csv.DictReader(open('rows.csv', newline='')) if 'bad' in e['path']]\n\
            print(len(r), len(set(r)))";
        let counts = run(tool("python3").args(["-c", program]).current_dir(work.path()));
        assert_eq!(counts.trim(), "3 3", "{words:?}");
    }
    let one = |name: &[u8], image: &str| {
        let from = disk(&[name]);
        run(mif(&store).arg("import").arg(from.path().join("disk.raw")).args(["--name", image]));
    };
    one(b"bad\xff", "before");
    one(b"good", "after");
    let output = mif(&store).args(["--json", "diff", "before", "after"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let change =
        report["changes"].as_array().unwrap().iter().find(|change| change["path"] == "/good").unwrap();
    assert_eq!(
        (&change["from"], &change["from_bytes"]),
        (&"/bad\\xff".into(), &"2f626164ff".into()),
        "{report}"
    );
}

#[test]
fn csv_safe_keeps_a_spreadsheet_from_reading_formulas() {
    let work = work_folder();
    let (tree, image) = (work.path().join("tree"), work.path().join("disk.raw"));
    fs::create_dir(&tree).unwrap();
    std::os::unix::fs::symlink("=cmd", tree.join("link")).unwrap();
    fs::File::create(&image).unwrap().set_len(2 << 20).unwrap();
    run(tool("mke2fs").args(["-q", "-t", "ext4", "-d"]).args([&tree, &image]));
    let store = work.path().join("store");
    let table = |more: &[&str]| run(mif(&store).arg("ls").arg(&image).args(["--format", "csv"]).args(more));
    assert!(table(&[]).contains(",=cmd,"));
    assert!(table(&["--csv-safe"]).contains(",'=cmd,"));
}

#[test]
fn a_store_that_came_from_elsewhere_does_not_talk_to_the_terminal() {
    let work = disk(&[b"x"]);
    let (store, hostile) = (work.path().join("store"), "x\u{1b}[2J\u{202e}\r\ny");
    run(mif(&store).arg("import").arg(work.path().join("disk.raw")).args(["--name", "web"]));
    let named = |name: &str| store.join(format!("images/name={name}"));
    fs::rename(named("web"), named(hostile)).unwrap();
    let record = named(hostile).join("version=1/image.json");
    let mut value: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    value["name"] = hostile.into();
    value["provenance"]["operation"] = hostile.into();
    value["provenance"]["source"] = hostile.into();
    value["table"]["id"] = hostile.into();
    value["volumes"][0]["volume"] = hostile.into();
    for field in ["kind", "uuid", "label"] {
        value["volumes"][0]["content"]["filesystem"][field] = hostile.into();
    }
    fs::write(&record, serde_json::to_vec(&value).unwrap()).unwrap();
    let verbs: [&[&str]; 8] = [
        &["images"],
        &["log"],
        &["stats"],
        &["stats", "--similarity"],
        &["gc", "--dry-run"],
        &["fsck"],
        &["verify", "--all"],
        &["search", "x"],
    ];
    for verb in verbs {
        let output = mif(&store).args(verb).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert_eq!(hidden(work.path(), &text), "", "{verb:?}: {text}");
        // A line break in a name starts no new line.
        assert!(!text.lines().any(|line| line.starts_with('y')), "{verb:?}: {text}");
    }
}
