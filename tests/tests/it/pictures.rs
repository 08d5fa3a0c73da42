//! The map of a disk in the terminal, and the page of `stats --html`, which Chromium opens.
//!
//! `MIF_TESTS_UPDATE=1` takes the pictures in docs/.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mif_tests::guest::Guest;
use mif_tests::{have, json, mif, mif_path, repo, run, run_failing, tool, work_folder};
use serde_json::Value;

/// Returns the sums of content, residue and zeros of a map's parts, and of their cells.
fn sums(map: &Value) -> [[u64; 3]; 2] {
    let mut sums = [[0; 3]; 2];
    let mut add = |sum: usize, cell: &Value| {
        for (total, kind) in sums[sum].iter_mut().zip(["content", "residue", "zero"]) {
            *total += cell[kind].as_u64().unwrap();
        }
    };
    for part in map["parts"].as_array().unwrap() {
        add(0, &part["bytes"]);
        part["cells"].as_array().unwrap().iter().for_each(|cell| add(1, cell));
    }
    sums
}

#[test]
fn a_map_accounts_for_every_byte_of_a_stored_disk_and_of_a_file() {
    let work = work_folder();
    let store = work.at("store");
    let demo = repo().join("fixtures/demo.qcow2");
    run(mif(&store).arg("import").arg(&demo));
    let stored = json(&store, &["info", "demo", "--map"]);
    let counts = &json(&store, &["info", "demo"])["stored"]["counts"];
    let count = |name: &str| counts[name].as_u64().unwrap();
    let expected = [count("content_bytes"), count("residue_bytes"), count("zero_bytes")];
    assert_eq!(sums(&stored), [expected, expected]);
    let mut end = 0;
    for part in stored["parts"].as_array().unwrap() {
        assert_eq!(part["start"], end, "{part}");
        end += part["len"].as_u64().unwrap();
    }
    assert_eq!(stored["disk_size"], end);
    assert!(stored["parts"].as_array().unwrap().iter().any(|part| part["kind"] == "ext4"), "{stored}");
    // The file is divided as the import divided it.
    let file = json(&store, &["info", demo.to_str().unwrap(), "--map"]);
    assert_eq!((&file["parts"], sums(&file)), (&stored["parts"], sums(&stored)));
}

#[test]
fn a_map_fits_the_terminal_and_has_colours_only_if_they_are_wanted() {
    let demo = repo().join("fixtures/demo.qcow2");
    let map = |variables: &[(&str, &str)]| {
        let mut command = Command::new(mif_path());
        command.current_dir(demo.parent().unwrap()).args(["info", "./demo.qcow2", "--map"]);
        command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
        run(command.envs(variables.iter().copied()))
    };
    for columns in ["60", "100"] {
        let text = map(&[("COLUMNS", columns)]);
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= columns.parse::<usize>().unwrap(), "{columns}: {text}");
        assert!(text.contains('█') && text.contains('▒') && text.contains('·'), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
    let coloured = map(&[("CLICOLOR_FORCE", "1")]);
    assert!(coloured.contains("\u{1b}[32m") && coloured.contains("\u{1b}[0m"), "{coloured}");
    assert!(!map(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]).contains('\u{1b}'));
    // An empty disk of a pebibyte costs nothing.
    let work = work_folder();
    fs::File::create(work.at("empty.raw")).unwrap().set_len(1 << 42).unwrap();
    let text = run(&mut work.mif(&["info", "./empty.raw", "--map", "-f", "raw"]));
    assert!(text.contains("zero 4.00 TiB"), "{text}");
}

/// Returns Chromium, which has no network, with a profile of its own.
fn chromium(work: &Path) -> Command {
    let mut chromium = tool("timeout");
    chromium.args(["60", "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]);
    chromium.args(["--no-first-run", "--disable-background-networking", "--disable-component-update"]);
    chromium.args(["--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars"]);
    chromium.args(["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"]);
    chromium.arg(format!("--user-data-dir={}", work.join("profile").display()));
    chromium.env("HOME", work);
    chromium
}

fn url(file: &Path) -> String {
    let mut url = "file://".to_owned();
    for byte in file.to_str().unwrap().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => url.push(char::from(byte)),
            _ => write!(url, "%{byte:02X}").unwrap(),
        }
    }
    url
}

/// Returns the document that Chromium makes of a page. Fails if the console has a message, of a script or of the policy.
fn document(work: &Path, page: &Path) -> String {
    let output = chromium(work).args(["--dump-dom", &url(page)]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("CONSOLE"), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

const HOSTILE: &str = "</title><img src=x onerror=alert(1)>\"'&<script>document.title='owned'</script>";

#[test]
fn a_page_about_a_store_runs_nothing_loads_nothing_and_shows_names_as_they_are() {
    if !have(&["mke2fs", "chromium", "timeout"]) {
        return;
    }
    let name = HOSTILE.replace('/', "|");
    let Some(guest) = Guest::with(&[("etc/passwd", "root:x:0:0::/:\n")], |tree| {
        let folder = tree.join(format!("opt{name}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(&name), vec![7; 100_000]).unwrap();
    }) else {
        return;
    };
    guest.edit(&["--write", "/etc/motd:x"]);
    let store = guest.at("a <b>&\"' store");
    fs::rename(guest.at("store"), &store).unwrap();
    let on_store = |words: &[&str]| {
        let mut command = mif(&store);
        command.current_dir(guest.at(".")).args(words);
        command
    };
    assert_eq!(run(&mut on_store(&["stats", "--html", "page.html"])), "page.html: written\n");
    let page = fs::read_to_string(guest.at("page.html")).unwrap();
    for forbidden in ["<script", "<img", "http:", "https:", "src=", "href=", "url(", "@import"] {
        assert!(!page.replace("img src=x onerror", "").contains(forbidden), "{forbidden}: {page}");
    }
    let dom = document(&guest.at("."), &guest.at("page.html"));
    assert_eq!(dom.matches("<svg").count(), 4, "{dom}");
    assert!(!dom.contains("<script") && !dom.contains("<img"), "{dom}");
    assert!(dom.contains("<title>Store ") && dom.contains("a &lt;b&gt;&amp;"), "{dom}");
    assert!(dom.contains("&lt;script&gt;document.title='owned'&lt;|script&gt;"), "{dom}");
    assert!(dom.contains("guest@1") && dom.contains("new@1"), "{dom}");
    // Twice; and nothing else is replaced.
    run(&mut on_store(&["stats", "--html", "page.html"]));
    fs::write(guest.at("mine.html"), "mine").unwrap();
    let said = run_failing(&mut on_store(&["stats", "--html", "mine.html"]), 3);
    assert!(said.contains("not a page of mif stats"), "{said}");
    assert_eq!(fs::read(guest.at("mine.html")).unwrap(), b"mine");
    let numbers: Value =
        serde_json::from_str(&run(&mut on_store(&["stats", "--html", "page.html", "--json"]))).unwrap();
    assert_eq!(numbers["largest"][0]["size"], 100_000, "{numbers}");
    fs::rename(&store, guest.at("store")).unwrap();
}

/// Makes the store of docs/tour.md.
fn tour(work: &Path) {
    let mif = mif_path();
    run(tool("sh").current_dir(work).arg(repo().join("fixtures/make-tour")).arg(&mif));
    let step = |words: &[&str], code: i32| {
        let mut command = mif_tests::mif(&work.join("store"));
        let output = command.current_dir(work).args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
    };
    step(&["import", "vms", "-j", "1"], 1);
    step(&["import", "new/web.qcow2", "--name", "web", "--new-version"], 0);
    step(&["customize", "web", "--as", "web-ops", "--user", "ops:sudo=nopasswd"], 0);
}

/// Turns text with colours into a page.
fn as_page(text: &str) -> String {
    let mut page =
        "<!doctype html><meta charset=utf-8><style>body{margin:0;background:#14181f;color:#e4e8ee}\
                    pre{margin:14px;font:14px/1.15 'DejaVu Sans Mono',monospace}</style><pre>"
            .to_owned();
    page += &text.replace('&', "&amp;").replace('<', "&lt;");
    for (code, tag) in [
        ("32", "<span style=color:#6ac26a>"),
        ("33", "<span style=color:#e9a15a>"),
        ("90", "<span style=color:#667>"),
        ("0", "</span>"),
    ] {
        page = page.replace(&format!("\u{1b}[{code}m"), tag);
    }
    page
}

fn photograph(work: &Path, page: &Path, size: &str, to: &Path) {
    let out = work.join("picture.png");
    let mut chromium = chromium(work);
    chromium.arg(format!("--screenshot={}", out.display())).arg(format!("--window-size={size}"));
    run(chromium.arg(url(page)));
    let png = fs::read(&out).unwrap();
    assert!(png.starts_with(b"\x89PNG") && (5_000..200_000).contains(&png.len()), "{} bytes", png.len());
    fs::write(to, png).unwrap();
}

#[test]
fn pictures_of_the_map_and_the_page_are_in_the_documentation() {
    let docs: PathBuf = repo().join("docs");
    for picture in ["map.png", "stats.png"] {
        let there = fs::read(docs.join(picture)).is_ok_and(|png| png.starts_with(b"\x89PNG"));
        assert!(there || std::env::var_os("MIF_TESTS_UPDATE").is_some(), "docs/{picture} is missing");
        let tour = fs::read_to_string(docs.join("tour.md")).unwrap();
        assert!(tour.contains(&format!("]({picture})")), "docs/tour.md does not show {picture}");
    }
    if std::env::var_os("MIF_TESTS_UPDATE").is_none() || !have(&["chromium", "timeout", "tar"]) {
        return;
    }
    let work = work_folder();
    tour(work.path());
    let mut map = work.mif(&["info", "web", "--map"]);
    let map = run(map.env("COLUMNS", "100").env("CLICOLOR_FORCE", "1"));
    fs::write(work.at("map.html"), as_page(&format!("$ mif info web --map\n{map}"))).unwrap();
    photograph(work.path(), &work.at("map.html"), "880,290", &docs.join("map.png"));
    run(&mut work.mif(&["stats", "--html", "stats.html"]));
    photograph(work.path(), &work.at("stats.html"), "980,2000", &docs.join("stats.png"));
}
