//! Versions of packages: their order is that of dpkg, rpm and apk, on many random pairs; `mif packages` chooses by it; the
//! macros of docs/sql.md sort as `mif` does. Images are chosen by one filter in every verb.

use std::cmp::Ordering;
use std::fs;

use mif::{compare_versions, version_key};
use mif_tests::guest::Guest;
use mif_tests::random::Random;
use mif_tests::{have, have_second_reader, python, repo, run, tool, work_folder};

const PAIRS: usize = 10_000;

/// Returns pairs of versions: texts of these characters, the second often like the first.
fn pairs(seed: u64, characters: &[u8], make: impl Fn(&str) -> String) -> Vec<(String, String)> {
    let mut random = Random(seed);
    let text = |random: &mut Random| -> Vec<u8> {
        (0..1 + random.index(9)).map(|_| *random.pick(characters)).collect()
    };
    (0..PAIRS)
        .map(|_| {
            let first = text(&mut random);
            let mut second = if random.once_in(3) { text(&mut random) } else { first.clone() };
            for _ in 0..random.index(3) {
                let at = random.index(second.len() + 1);
                second.insert(at, *random.pick(characters));
            }
            let of = |bytes: Vec<u8>| make(&String::from_utf8(bytes).unwrap());
            (of(first), of(second))
        })
        .collect()
}

/// Compares every pair as `mif` does, and by the order of the keys, with the answers of a tool: -1, 0 or 1 a line.
fn assert_same_order(manager: &str, pairs: &[(String, String)], answers: &str) {
    let answers: Vec<&str> = answers.lines().collect();
    assert_eq!(answers.len(), pairs.len());
    for ((a, b), answer) in pairs.iter().zip(answers) {
        let expected = match answer {
            "-1" => Ordering::Less,
            "0" => Ordering::Equal,
            "1" => Ordering::Greater,
            other => panic!("{a} {b}: {other}"),
        };
        assert_eq!(compare_versions(manager, a, b), expected, "{a} {b}");
        assert_eq!(version_key(manager, a).cmp(&version_key(manager, b)), expected, "{a} {b}");
    }
}

#[test]
fn versions_of_dpkg_are_ordered_as_dpkg_orders_them() {
    if !have(&["perl", "dpkg"]) {
        return;
    }
    let work = work_folder();
    let mut pairs = pairs(1, b"0019ab.+~-", |text| format!("1{text}"));
    for (number, (a, _)) in pairs.iter_mut().enumerate().filter(|(number, _)| number % 7 == 0) {
        *a = format!("{}:{a}", number % 3);
    }
    let lines: String = pairs.iter().map(|(a, b)| format!("{a} {b}\n")).collect();
    fs::write(work.at("pairs"), lines).unwrap();
    let script = "use Dpkg::Version; while (<>) { my ($a, $b) = split; \
                  print Dpkg::Version->new($a) <=> Dpkg::Version->new($b), qq(\\n) }";
    let answers = run(tool("perl").args(["-e", script]).arg(work.at("pairs")));
    assert_same_order("dpkg", &pairs, &answers);
    // A few by the program itself.
    let is_valid = |(a, b): &&(String, String)| [a, b].iter().all(|v| !v.contains(':') && !v.ends_with('-'));
    for (a, b) in pairs.iter().filter(is_valid).take(20) {
        let is_less = tool("dpkg").args(["--compare-versions", a, "lt", b]).status().unwrap().success();
        assert_eq!(compare_versions("dpkg", a, b) == Ordering::Less, is_less, "{a} {b}");
    }
}

#[test]
fn versions_of_rpm_are_ordered_as_rpm_orders_them() {
    if !have(&["rpm"]) {
        return;
    }
    let work = work_folder();
    let mut pairs = pairs(2, b"0019abB._+~^", |text| format!("{text}-{}", text.len() % 3));
    for (number, (a, _)) in pairs.iter_mut().enumerate() {
        if number % 7 == 0 {
            *a = format!("{}:{a}", number % 2);
        }
    }
    let lines: String = pairs.iter().map(|(a, b)| format!("{a} {b}\n")).collect();
    fs::write(work.at("pairs"), lines).unwrap();
    let script = format!(
        "%{{lua: for line in io.lines('{}') do local a, b = line:match('([^ ]+) ([^ ]+)') print(rpm.vercmp(a, b) .. ' ') end}}",
        work.at("pairs").display()
    );
    let answers = run(tool("rpm").args(["--eval", &script]));
    let answers: String = answers.split_whitespace().flat_map(|answer| [answer, "\n"]).collect();
    assert_same_order("rpm", &pairs, &answers);
}

/// Returns a version of apk, and sometimes one that is not valid.
fn apk_version(random: &mut Random) -> String {
    let one = |random: &mut Random, among: &[&'static str]| *random.pick(among);
    let mut text = one(random, &["0", "1", "2", "10", "11", "3", "20230101"]).to_owned();
    for _ in 0..random.index(4) {
        text += ".";
        text += one(random, &["0", "1", "2", "9", "10", "01", "007", "00", "20", "3", "100"]);
    }
    if random.once_in(5) {
        text += one(random, &["a", "b", "c", "x", "z"]);
    }
    for _ in 0..*random.pick(&[0, 0, 0, 1, 1, 2]) {
        text += one(random, &["_alpha", "_beta", "_pre", "_rc", "_cvs", "_svn", "_git", "_hg", "_p"]);
        text += one(random, &["", "", "0", "1", "2", "10", "20210101", "03"]);
    }
    if random.once_in(7) {
        text += one(random, &["~1a2b", "~1a2", "~ff", "~0", "~1a2bc"]);
    }
    if !random.once_in(3) {
        text += one(random, &["-r0", "-r1", "-r2", "-r10", "-r11"]);
    }
    text
}

/// Returns pairs of versions, of which the second is often the first with something in it.
fn apk_pairs() -> Vec<(String, String)> {
    let mut random = Random(4);
    let changed = |random: &mut Random, text: &str| {
        let at = random.index(text.len() + 1);
        let more = random.pick(&["0", "1", ".", "_", "p", "_rc1", "-r1", "a", "~1", ".0", "x", "?"]);
        format!("{}{more}{}", &text[..at], &text[at..])
    };
    (0..PAIRS)
        .map(|_| {
            let first = apk_version(&mut random);
            let same = random.once_in(2);
            let mut second = if same { changed(&mut random, &first) } else { apk_version(&mut random) };
            if random.once_in(5) {
                second = changed(&mut random, &second);
            }
            if random.once_in(20) {
                second.clone_from(&first);
            }
            (first, second)
        })
        .collect()
}

/// apk's answers are kept, because few systems have it. `MIF_APK_TOOLS` names its source, version 3: then the answers are
/// asked for anew (fixtures/apk-judge), and written with `MIF_TESTS_UPDATE=1`.
#[test]
fn versions_of_apk_are_ordered_as_apk_orders_them() {
    let pairs = apk_pairs();
    let kept = repo().join("tests/snapshots/apk-order");
    if let Some(source) = std::env::var_os("MIF_APK_TOOLS") {
        let work = work_folder();
        let lines: String = pairs.iter().map(|(a, b)| format!("{a}\t{b}\n")).collect();
        fs::write(work.at("pairs"), lines).unwrap();
        let answers = run(tool(repo().join("fixtures/apk-judge")).arg(source).arg(work.at("pairs")));
        let signs: Vec<&str> = answers.lines().collect();
        let text: String = signs.chunks(100).map(|line| line.concat() + "\n").collect();
        if std::env::var_os("MIF_TESTS_UPDATE").is_some() {
            fs::write(&kept, &text).unwrap();
        }
        assert_eq!(text, fs::read_to_string(&kept).unwrap(), "apk has other answers");
    }
    let signs = fs::read_to_string(&kept).unwrap();
    let answers = signs.chars().filter(|sign| *sign != '\n').map(|sign| match sign {
        '<' => "-1\n",
        '=' => "0\n",
        _ => "1\n",
    });
    assert_same_order("apk", &pairs, &answers.collect::<String>());
}

/// A dpkg database with these packages.
fn status(packages: &[(&str, &str)]) -> String {
    let entry = |(name, version): &(&str, &str)| {
        format!("Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n\n")
    };
    packages.iter().map(entry).collect()
}

/// A store with three images of two systems.
fn library() -> Option<Guest> {
    let old = status(&[("libssl3", "3.0.9-1"), ("libssl-dev", "3.0.9-1"), ("bash", "5.2.15-2+b7")]);
    let files = [
        ("etc/os-release", "ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"Debian 12\"\n"),
        ("var/lib/dpkg/status", &old),
    ];
    let guest = Guest::new(&files)?;
    let new = status(&[("libssl3", "3.0.15-1~deb12u1"), ("bash", "5.2.15-2+b7")]);
    let write = format!("--write=/var/lib/dpkg/status:{new}");
    run(&mut guest.mif(&["customize", "guest", "--as", "web", &write]));
    let fedora = "--write=/etc/os-release:ID=fedora\nVERSION_ID=41\nPRETTY_NAME='Fedora Linux 41'\n";
    run(&mut guest.mif(&["customize", "guest", "--as", "db", fedora, "--size=+10M"]));
    run(&mut guest.mif(&["tag", "web", "golden"]));
    Some(guest)
}

#[test]
fn packages_are_chosen_by_version_and_grouped() {
    let Some(guest) = library() else { return };
    let lines = |words: &[&str]| -> Vec<String> {
        let out = run(guest.mif(&["packages"]).args(words));
        out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    assert_eq!(
        lines(&["--name", "libssl*", "--below", "3.0.15"]),
        [
            "db@1 libssl-dev 3.0.9-1 amd64",
            "db@1 libssl3 3.0.9-1 amd64",
            "guest@1 libssl-dev 3.0.9-1 amd64",
            "guest@1 libssl3 3.0.9-1 amd64"
        ]
    );
    assert_eq!(lines(&["--name", "libssl3", "--above", "3.0.9-1"]), ["web@1 libssl3 3.0.15-1~deb12u1 amd64"]);
    assert_eq!(
        lines(&["--name", "bash", "--is", "0:5.2.15-2+b7", "--group"]),
        ["bash 5.2.15-2+b7 amd64 db@1, guest@1, web@1"]
    );
    assert_eq!(
        lines(&["--name", "libssl3", "--sort", "version", "--limit", "1", "--only", "w*"]),
        ["web@1 libssl3 3.0.15-1~deb12u1 amd64"]
    );
    let none = guest.mif(&["packages", "--name", "libssl3", "--below", "1"]).output().unwrap();
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("no package matches") && none.stdout.is_empty());
    let json = run(&mut guest.mif(&["packages", "--json", "--group", "--limit", "2"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((json["groups"].as_array().unwrap().len(), &json["left_out"]), (2, &2.into()), "{json}");
    let found = run(&mut guest.mif(&["search", "/var/lib/dpkg/status", "--group", "--sort", "size"]));
    assert!(found.contains("db@1, guest@1") && found.contains("2 contents found in 3 images"), "{found}");
    let found = run(&mut guest.mif(&["search", "*", "--type", "file", "--sort", "path", "--limit", "1"]));
    assert!(found.starts_with("db@1 ") && found.lines().count() == 2, "{found}");
}

#[test]
fn images_are_chosen_by_one_filter_in_every_verb() {
    let Some(guest) = library() else { return };
    let ids = |words: &[&str]| -> Vec<String> {
        let json = run(guest.mif(&["images", "--json"]).args(words));
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let id =
            |image: &serde_json::Value| format!("{}@{}", image["name"].as_str().unwrap(), image["version"]);
        json.as_array().unwrap().iter().map(id).collect()
    };
    assert_eq!(ids(&["w*"]), ["web@1"]);
    assert_eq!(ids(&["--only", "w*", "--only", "d?"]), ["db@1", "web@1"]);
    assert_eq!(ids(&["--system", "DEBIAN 12"]), ["guest@1", "web@1"]);
    assert_eq!(ids(&["--system", "fedora linux*"]), ["db@1"]);
    assert_eq!(ids(&["--tagged", "gold*"]), ["web@1"]);
    assert_eq!(ids(&["--newer-than", "1h"]).len(), 3);
    assert_eq!(ids(&["--disk-size", "33M..", "--sort", "size"]), ["db@1"]);
    assert_eq!(ids(&["--sort", "size", "--limit", "1"]), ["db@1"]);
    let fails = |words: &[&str]| {
        let output = guest.mif(words).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(fails(&["images", "--older-than", "1h"]).0, 1);
    // In export, verify and customize.
    run(&mut guest.mif(&["export", "--all", "out", "--format", "qcow2", "--only", "w*"]));
    assert!(guest.at("out/web.qcow2").exists() && !guest.at("out/db.qcow2").exists());
    let (code, said) = fails(&["export", "web", "x.raw", "--only", "w*"]);
    assert!(code == 2 && said.contains("not both"), "{said}");
    let verified = run(&mut guest.mif(&["verify", "--all", "--only", "w*", "--json"]));
    assert!(verified.contains("web@1") && !verified.contains("db@1"), "{verified}");
    run(&mut guest.mif(&[
        "customize",
        "--system",
        "debian*",
        "--as",
        "{{image}}-x",
        "--write",
        "/etc/motd:{{image}}\n",
    ]));
    assert_eq!(guest.cat("web-x", "/etc/motd"), "web\n");
    assert_eq!(ids(&["*-x"]), ["guest-x@1", "web-x@1"]);
    let (code, said) = fails(&["customize", "--only", "*", "--as", "one", "--write", "/etc/motd:x"]);
    assert!(code == 2 && said.contains("{{image}}"), "{said}");
    let (code, said) = fails(&["customize", "--only", "*", "--as", "{{image}}-y", "--tar", "-:/etc"]);
    assert!(code == 2 && said.contains("standard input"), "{said}");
    // An edit that fails on one image leaves all of them unmade.
    let (code, said) = fails(&["customize", "--only", "*", "--as", "{{image}}-y", "--write", "/no/such:x"]);
    assert!(code == 3 && said.contains("@1: "), "{said}");
    assert!(ids(&["--only", "*"]).len() == 5);
    // In rm: shown first, tags protect, and nothing else goes.
    assert!(run(&mut guest.mif(&["rm", "--only", "*-x", "--dry-run"])).contains("web-x@1: would be removed"));
    assert_eq!(ids(&["*-x"]).len(), 2);
    assert_eq!(fails(&["rm", "--only", "w*"]).0, 2, "web has a tag");
    run(&mut guest.mif(&["rm", "--only", "*-x"]));
    assert_eq!(ids(&[]), ["db@1", "guest@1", "web@1"]);
    assert_eq!(fails(&["rm", "--only", "none*"]).0, 3);
}

#[test]
fn sql_sorts_versions_as_mif_does() {
    if !have_second_reader() {
        return;
    }
    let work = work_folder();
    let page = fs::read_to_string(repo().join("docs/sql.md")).unwrap();
    let macros = page.split("```sql\n").find(|block| block.starts_with("create macro")).expect("macros");
    let macros = macros.split("```").next().unwrap();
    let of = |manager: &str, characters: &[u8]| -> Vec<(String, String, String)> {
        let versions = pairs(3, characters, |text| format!("1{text}")).into_iter().take(1000);
        versions.map(|(a, _)| (manager.to_owned(), version_key(manager, &a), a)).collect()
    };
    let all = [of("dpkg", b"0019ab.+~-"), of("rpm", b"0019abB._+~^-")].concat();
    let lines: String =
        all.iter().map(|(manager, key, version)| format!("{manager}\t{key}\t{version}\n")).collect();
    fs::write(work.at("keys"), lines).unwrap();
    fs::write(work.at("macros"), macros).unwrap();
    let script = "import duckdb, sys\nc = duckdb.connect()\nc.execute(open('macros').read())\n\
                  for line in open('keys', newline='\\n'):\n    m, k, v = line.rstrip('\\n').split('\\t')\n\
                  \x20   q = f'select {m}_key(?)'\n    got = c.execute(q, [v]).fetchone()[0]\n\
                  \x20   assert got == k, (m, v, got, k)\n";
    run(tool(python()).current_dir(work.path()).args(["-c", script]));
}
