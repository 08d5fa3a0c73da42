//! docs/tour.md: every command on the page is run, by an ordinary user, and prints what the page says.
//!
//! `MIF_TESTS_UPDATE=1` rewrites the page.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use mif_tests::{find, have, have_second_reader, is_root, mif_path, python, repo, run, tool};

const OPENING: &str = "```console\n";
const CLOSING: &str = "```\n";

/// A command of the page and what it prints.
struct Step {
    command: String,
    printed: String,
}

/// Splits a block into its commands. A command goes on while a quote is open or its line ends in a backslash.
fn steps(block: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut open = false;
    for line in block.split_inclusive('\n') {
        if open {
            steps.last_mut().unwrap().command += line;
        } else if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { command: command.to_owned(), printed: String::new() });
        } else {
            steps.last_mut().expect("a block begins with a command").printed += line;
            continue;
        }
        let command = &steps.last().unwrap().command;
        open = command.ends_with("\\\n") || ['"', '\''].iter().any(|q| command.matches(*q).count() % 2 == 1);
    }
    steps
}

/// Replaces what differs between two runs: times, days, digests, percentages, and sizes of what is compressed.
fn steady(text: &str) -> String {
    let lines = text.lines().map(|line| {
        // Of versions made within one second, `status` names the last by name.
        let line = if line.starts_with("newest ") { "newest" } else { line };
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        for at in 0..words.len() {
            let word = words[at].trim_end_matches([';', ',', ')']).to_owned();
            let is_number = !word.is_empty() && word.chars().all(|c| c.is_ascii_digit() || c == '.');
            let unit = words.get(at + 1).map_or("", |unit| unit.trim_end_matches([';', ',', ')', ':']));
            // The size of a file depends on the filesystem that it is on.
            let is_file_size = is_number && at > 0 && words[at - 1] == "in" && unit == "MiB";
            let is_day = word.len() >= 10 && word.starts_with("20") && word.matches('-').count() == 2;
            let is_clock = word.len() == 5 && word.as_bytes()[2] == b':';
            let varies = ["s", "B", "KiB", "%"].contains(&unit) || line.contains("stored in");
            if is_file_size || is_number && varies {
                words[at] = "N".to_owned();
            } else if is_day || is_clock {
                words[at] = "TIME".to_owned();
            }
        }
        // Columns are as wide as their numbers.
        words.retain(|word| !word.is_empty());
        let digest = |word: &String| word.split(['/', '.', ':']).any(|part| part.len() == 64);
        words.iter_mut().filter(|word| digest(word)).for_each(|word| *word = "DIGEST".to_owned());
        words.join(" ") + "\n"
    });
    lines.collect()
}

/// A shell in the directory, of an ordinary user if this is root and such a user can run Python of the cache.
fn shell(work: &Path, as_user: bool) -> Command {
    let mut shell = match as_user {
        true => {
            let mut setpriv = tool("setpriv");
            setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "bash"]);
            setpriv
        }
        false => tool("bash"),
    };
    let mut path = work.join("bin").into_os_string();
    path.push(":/usr/sbin:/usr/bin:/sbin:/bin");
    shell.current_dir(work.join("ana")).env("HOME", work).env("PATH", path).env_remove("MIF_STORE");
    shell.env("COLUMNS", "100").stdin(Stdio::null());
    shell
}

#[test]
fn every_command_of_the_tour_prints_what_the_page_says() {
    if !have(&["bash", "tar", "find", "sed", "dd"]) || !have_second_reader() {
        return;
    }
    // An ordinary user cannot enter every directory that the cache may lie in.
    let work = tempfile::tempdir().unwrap();
    let work = work.path();
    fs::create_dir_all(work.join("bin")).unwrap();
    fs::create_dir_all(work.join("ana")).unwrap();
    fs::copy(mif_path(), work.join("bin/mif")).unwrap();
    fs::copy(repo().join("fixtures/make-tour"), work.join("bin/make-tour")).unwrap();
    // The program finds the packages of its environment by the path that it is called by.
    let python = python();
    fs::write(work.join("bin/python3"), format!("#!/bin/sh\nexec '{}' \"$@\"\n", python.display())).unwrap();
    run(tool("chmod").args(["-R", "a+rwX"]).arg(work));
    run(tool("chmod").arg("a+x").arg(work.join("bin/python3")));
    let can_query = |as_user| {
        shell(work, as_user).args(["-c", "python3 -c 'import duckdb'"]).output().unwrap().status.success()
    };
    let as_user = is_root() && find("setpriv").is_some() && can_query(true);
    run(shell(work, as_user).args(["-c", "make-tour \"$(command -v mif)\""]));

    let path = repo().join("docs/tour.md");
    let page = fs::read_to_string(&path).unwrap();
    let mut written = String::new();
    let mut rest = &page[..];
    let mut wrong = Vec::new();
    while let Some((before, after)) = rest.split_once(OPENING) {
        let (block, after) = after.split_once(CLOSING).expect("the block ends");
        written += before;
        written += OPENING;
        for Step { command, printed } in steps(block) {
            let output =
                shell(work, as_user).args(["-c", &format!("exec 2>&1; {command}")]).output().unwrap();
            let mut found = String::from_utf8(output.stdout).unwrap();
            found = found.replace(work.join("ana").to_str().unwrap(), "/home/ana");
            if !found.is_empty() && !found.ends_with('\n') {
                found.push('\n');
            }
            if let Some(code @ 1..) = output.status.code() {
                found += &format!("(exit code {code})\n");
            }
            assert!(!found.contains(CLOSING), "{found}");
            let is_same = steady(&found) == steady(&printed);
            if !is_same {
                wrong.push(format!("$ {command}{found}--- and not\n{printed}"));
            }
            written += &format!("$ {command}{}", if is_same { printed } else { found });
        }
        written += CLOSING;
        rest = after;
    }
    written += rest;
    if written != page {
        assert!(
            std::env::var_os("MIF_TESTS_UPDATE").is_some(),
            "docs/tour.md is out of date; MIF_TESTS_UPDATE=1 writes it anew.\n{}",
            wrong.join("\n")
        );
        fs::write(path, written).unwrap();
    }
}
