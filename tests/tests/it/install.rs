//! The files that are installed with the program: completions, man pages, the Debian package.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use mif_tests::{have, mif, mif_path, repo, run, run_failing, tool, verbs, work_folder};

const SHELLS: [&str; 5] = ["bash", "elvish", "fish", "powershell", "zsh"];

fn completions(shell: &str) -> String {
    run(mif(Path::new("no-store")).args(["completions", shell]))
}

#[test]
fn completions_offer_the_verbs_that_help_lists() {
    for shell in SHELLS {
        let script = completions(shell);
        for verb in verbs() {
            assert!(script.contains(verb.last().unwrap()), "{shell}: {verb:?}");
        }
        assert_eq!(script, completions(shell), "{shell}");
    }
}

#[test]
fn bash_completes_verbs_options_and_values() {
    if !have(&["bash"]) {
        return;
    }
    let work = work_folder();
    fs::write(work.at("mif.bash"), completions("bash")).unwrap();
    let complete = |words: &[&str]| {
        let line = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
        let last = words.len() - 1;
        let script = format!(
            "source ./mif.bash; COMP_WORDS=({line}); COMP_CWORD={last}; \
             _mif mif '{}' '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            words[last],
            words[last - 1]
        );
        let found = run(tool("bash").args(["--norc", "-c", &script]).current_dir(work.path()));
        found.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let found = complete(&["mif", ""]);
    for verb in verbs() {
        assert!(found.contains(&verb[0]), "{verb:?}: {found:?}");
    }
    assert_eq!(complete(&["mif", "custom"]), ["customize"]);
    assert_eq!(complete(&["mif", "ls", "--recurs"]), ["--recursive"]);
    assert!(complete(&["mif", "ls", "--st"]).contains(&"--store".to_owned()));
    assert_eq!(complete(&["mif", "ls", "--format", "mt"]), ["mtree"]);
    assert_eq!(complete(&["mif", "completions", "z"]), ["zsh"]);
}

#[test]
fn fish_and_zsh_read_their_scripts() {
    if !have(&["fish", "zsh"]) {
        return;
    }
    let work = work_folder();
    fs::write(work.at("mif.fish"), completions("fish")).unwrap();
    let fish = |line: &str| {
        let script = format!("source mif.fish; complete --do-complete '{line}'");
        run(tool("fish").args(["--no-config", "-c", &script]).current_dir(work.path()))
    };
    assert_eq!(fish("mif completions p").trim(), "powershell");
    let found = fish("mif ");
    for verb in verbs() {
        assert!(found.lines().any(|line| line.split('\t').next() == Some(&verb[0])), "{verb:?}: {found}");
    }
    fs::write(work.at("_mif"), completions("zsh")).unwrap();
    let script =
        "fpath=(. $fpath); autoload -Uz compinit && compinit -u -D && autoload +X _mif && whence -w _mif";
    let output = tool("zsh").args(["-f", "-c", script]).current_dir(work.path()).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_script_that_cannot_be_printed_is_an_error_unless_the_reader_went_away() {
    let mut command = mif(Path::new("no-store"));
    let mut child = command.args(["completions", "zsh"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    for words in [&["completions", "zsh"][..], &["--help"], &["ls", "--help"], &["--version"]] {
        let full = full.try_clone().unwrap();
        let error = run_failing(mif(Path::new("no-store")).args(words).stdout(full), 5);
        assert!(error.starts_with("mif: ") && error.contains("space"), "{error}");
    }
}

#[test]
fn man_pages_are_of_every_verb_and_the_same_on_every_run() {
    let work = work_folder();
    let store = work.at("no-store");
    let man = work.at("man1");
    fs::create_dir(&man).unwrap();
    let report = run(mif(&store).args(["man", "--json"]).arg(&man));
    let mut expected = vec!["mif.1".to_owned()];
    expected.extend(verbs().iter().map(|verb| format!("mif-{}.1", verb.join("-"))));
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["pages"], serde_json::json!(expected));
    let mut found: Vec<_> =
        fs::read_dir(&man).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let pages = || expected.iter().map(|name| fs::read(man.join(name)).unwrap()).collect::<Vec<_>>();
    let first = pages();
    fs::write(man.join("mif-ls.1"), ".TH mif-ls 1 \"\" \"mif 0.0.9\"\n").unwrap();
    run(mif(&store).arg("man").arg(&man));
    assert_eq!(pages(), first);
    assert!(!store.exists(), "man pages need no store");
}

#[test]
fn a_file_that_is_no_man_page_of_mif_is_left_alone_and_nothing_is_written() {
    let work = work_folder();
    for make in [
        |path: &Path| fs::write(path, "precious"),
        |path: &Path| fs::create_dir(path),
        |path: &Path| std::os::unix::fs::symlink("/dev/null", path),
    ] {
        let man = work.at("man1");
        fs::create_dir(&man).unwrap();
        make(&man.join("mif-ls.1")).unwrap();
        let error = run_failing(work.mif(&["man", "man1"]).env("LC_ALL", "C"), 3);
        assert!(error.contains("man1/mif-ls.1"), "{error}");
        assert_eq!(fs::read_dir(&man).unwrap().count(), 1);
        fs::remove_dir_all(&man).unwrap();
    }
}

#[test]
fn man_pages_are_clean_and_commands_in_them_can_be_copied() {
    if !have(&["mandoc"]) {
        return;
    }
    let work = work_folder();
    fs::create_dir(work.at("man1")).unwrap();
    run(&mut work.mif(&["man", "man1"]));
    for page in mif_tests::files(&work.at("man1"), ".1") {
        // mandoc only complains about the missing date.
        let lint = tool("mandoc").args(["-T", "lint", "-W", "warning"]).arg(&page).output().unwrap();
        let said = String::from_utf8_lossy(&lint.stdout);
        let said: Vec<&str> = said.lines().filter(|line| !line.contains("missing date")).collect();
        assert!(said.is_empty(), "{said:?}");
    }
    let shown = run(tool("mandoc").args(["-T", "utf8", "-O", "width=200"]).arg(work.at("man1/mif-import.1")));
    let shown = unstruck(&shown);
    for text in
        ["mif import vms/ --name '{parent}-{stem}'", "--store <STORE>", "MIF_STORE", "`mif fsck --repair`"]
    {
        assert!(shown.contains(text), "{text}: {shown}");
    }
}

/// Returns the text of a page without the backspaces that make it bold or underlined.
fn unstruck(page: &str) -> String {
    let mut text = String::new();
    for c in page.chars() {
        if c == '\u{8}' {
            text.pop();
        } else {
            text.push(c);
        }
    }
    text
}

#[test]
fn a_debian_package_has_everything_and_the_same_bytes_every_time() {
    if !have(&["dpkg-deb", "dpkg-shlibdeps", "readelf", "strip"]) {
        return;
    }
    let work = work_folder();
    let package = |name: &str| {
        fs::create_dir(work.at(name)).unwrap();
        let mut script = tool(repo().join("packaging/deb"));
        let path = run(script.env("SOURCE_DATE_EPOCH", "1000000000").arg(mif_path()).arg(work.at(name)));
        std::path::PathBuf::from(path.trim())
    };
    let deb = package("a");
    assert!(fs::read(&deb).unwrap() == fs::read(package("b")).unwrap(), "two packages of one program differ");
    let depends = run(tool("dpkg-deb").arg("-f").arg(&deb).arg("Depends"));
    assert!(depends.contains("libc6 (>= "), "{depends}");
    let list = run(tool("dpkg-deb").arg("-c").arg(&deb));
    assert!(list.lines().all(|line| line.contains(" root/root ")), "{list}");
    let root = work.at("root");
    run(tool("dpkg-deb").arg("-x").arg(&deb).arg(&root));
    for path in [
        "usr/share/bash-completion/completions/mif",
        "usr/share/zsh/vendor-completions/_mif",
        "usr/share/fish/vendor_completions.d/mif.fish",
        "usr/share/man/man1/mif.1.gz",
        "usr/share/man/man1/mif-import.1.gz",
        "usr/share/doc/mif/changelog.Debian.gz",
        "usr/share/doc/mif/copyright",
        "usr/share/doc/mif/crates.gz",
        "usr/share/doc/mif/docs/customize.md",
    ] {
        let mode =
            fs::metadata(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}")).permissions().mode();
        assert_eq!(mode & 0o7777, 0o644, "{path}");
    }
    run(tool("dpkg-deb").arg("-e").arg(&deb).arg(work.at("control")));
    run(tool("md5sum").args(["--check", "--strict"]).arg(work.at("control/md5sums")).current_dir(&root));
    let version = run(tool(root.join("usr/bin/mif")).arg("--version"));
    assert_eq!(version, run(mif(Path::new("no-store")).arg("--version")));
}
