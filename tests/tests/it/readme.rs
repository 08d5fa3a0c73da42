//! README: its tables agree with the program, and its transcripts with the program's output.
//!
//! `MIF_TESTS_UPDATE=1` rewrites the tables.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use mif_formats::container::FORMATS;
use mif_formats::fs::DRIVERS;
use mif_formats::wrapper::Kind;
use mif_tests::{mif_path, repo, run, work_folder};

/// Returns the text between `<!-- NAME -->` and `<!-- end -->`, and its offset.
fn section<'t>(text: &'t str, name: &str) -> (usize, &'t str) {
    let mark = format!("<!-- {name} -->\n");
    let start = text.find(&mark).expect("the mark is there") + mark.len();
    let end = text[start..].find("<!-- end -->").expect("the section ends");
    (start, &text[start..start + end])
}

fn formats() -> String {
    let mut table = "| | read | written |\n|---|---|---|\n".to_owned();
    let written = FORMATS.iter().filter(|format| !format.suffixes().is_empty());
    let written: Vec<&str> = written.map(|format| format.name()).collect();
    let all: Vec<&str> = FORMATS.iter().map(|format| format.name()).collect();
    writeln!(table, "| containers | {} | {} |", all.join(", "), written.join(", ")).unwrap();
    let wrappers = Kind::ALL.iter().map(|kind| kind.name());
    let wrappers: Vec<&str> = wrappers
        .map(|name| name.trim_start_matches("a ").trim_end_matches(" data").trim_end_matches(" archive"))
        .collect();
    writeln!(table, "| around them | {} | |", wrappers.join(", ")).unwrap();
    writeln!(table, "| partition tables | MBR, GPT, none; linear LVM2 volumes | MBR, GPT, none |").unwrap();
    let kinds: Vec<&str> = DRIVERS.iter().map(|driver| driver.name()).collect();
    let planned = DRIVERS.iter().filter(|driver| driver.capabilities().is_planned);
    let planned: Vec<&str> = planned.map(|driver| driver.name()).collect();
    writeln!(table, "| filesystems | {} | {} |", kinds.join("; "), planned.join("; ")).unwrap();
    table
}

fn verbs() -> String {
    let help = run(Command::new(mif_path()).arg("--help").env("COLUMNS", "200"));
    let list = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("a list");
    let mut table = "| | |\n|---|---|\n".to_owned();
    for line in list.lines() {
        let (verb, what) = line.trim().split_once(' ').expect("a verb and what it does");
        writeln!(table, "| `{verb}` | {} |", what.trim()).unwrap();
    }
    table
}

#[test]
fn its_tables_are_those_of_the_program() {
    let path = repo().join("README.md");
    let mut text = fs::read_to_string(&path).unwrap();
    for (name, table) in [("formats", formats()), ("verbs", verbs())] {
        let (start, there) = section(&text, name);
        let len = there.len();
        if there != table {
            let update = std::env::var_os("MIF_TESTS_UPDATE").is_some();
            assert!(
                update,
                "README.md: the table of {name} is out of date. MIF_TESTS_UPDATE=1 writes:\n{table}"
            );
            text.replace_range(start..start + len, &table);
            fs::write(&path, &text).unwrap();
        }
    }
}

/// Returns a line without parts that vary between runs: durations, and sizes of compressed or timestamped data.
fn steady(line: &str) -> String {
    match line.split_once("stored in").or_else(|| line.split_once("disk in")) {
        Some((before, _)) => before.to_owned(),
        None => line.to_owned(),
    }
}

#[test]
fn its_transcripts_are_what_the_program_prints() {
    let readme = fs::read_to_string(repo().join("README.md")).unwrap();
    let work = work_folder();
    fs::copy(repo().join("fixtures/demo.qcow2"), work.at("web.qcow2")).unwrap();
    let transcripts = readme.split("<!-- transcript -->\n```\n").skip(1);
    let transcripts: Vec<&str> = transcripts.map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(transcripts.len() >= 3);
    for step in transcripts.iter().flat_map(|transcript| transcript.split("$ mif ").skip(1)) {
        let (words, expected) = step.split_once('\n').unwrap();
        let words: Vec<&str> = words.split(' ').collect();
        let printed = run(work.mif(&words).env("MIF_STORE", work.at("store")));
        let lines = |text: &str| text.lines().map(steady).collect::<Vec<_>>();
        assert_eq!(lines(&printed), lines(expected), "mif {}", words.join(" "));
    }
}
