//! `mif diff` of a volume that debugfs has changed reports exactly these changes.

use std::fs;
use std::path::Path;

use mif_tests::{have, mif, run, tool, work_folder};
use serde_json::Value;

/// Makes the volume `a.img` from a tree, and `b.img`, which debugfs then changes.
fn volumes(work: &Path) {
    let tree = work.join("tree");
    fs::create_dir_all(tree.join("etc/deep/er")).unwrap();
    for (name, content) in [
        ("keep", "kept\n".repeat(100)),
        ("etc/text", "one\ntwo\nthree\n".into()),
        ("etc/gone", "gone\n".into()),
        ("etc/meta", "meta\n".into()),
        ("old-name", "the same content under another name\n".repeat(300)),
        ("etc/deep/er/file", "deep\n".into()),
    ] {
        fs::write(tree.join(name), content).unwrap();
    }
    fs::write(work.join("new-text"), "one\n2\nthree\n").unwrap();
    fs::write(work.join("new"), "new\n").unwrap();
    run(tool("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(work.join("a.img")).arg("4M"));
    fs::copy(work.join("a.img"), work.join("b.img")).unwrap();
    let commands = "rm /etc/text\nwrite new-text /etc/text\nrm /etc/gone\nwrite new /etc/new\n\
                    set_inode_field /etc/meta mode 0100600\nset_inode_field /etc/meta uid 1000\n\
                    ln /old-name /etc/new-name\nunlink /old-name\nea_set /keep user.note hello\n";
    fs::write(work.join("commands"), commands).unwrap();
    run(tool("debugfs").current_dir(work).args(["-w", "-f", "commands", "b.img"]));
}

fn changes(report: &Value) -> Vec<String> {
    let text = |change: &Value| {
        let fields = change["fields"].as_array().unwrap().iter();
        // The files that debugfs wrote have current times, and its owner and mode.
        let fields: Vec<&str> = fields
            .map(|field| field["field"].as_str().unwrap())
            .filter(|field| !["mtime", "mode", "owner"].contains(field) || change["path"] == "/etc/meta")
            .collect();
        let from = change["from"].as_str().map(|from| format!(" from {from}")).unwrap_or_default();
        format!(
            "{} {}{from} {}",
            change["kind"].as_str().unwrap(),
            change["path"].as_str().unwrap(),
            fields.join(",")
        )
    };
    report["changes"].as_array().unwrap().iter().map(text).collect()
}

#[test]
fn what_debugfs_changed_is_what_diff_says() {
    if !have(&["mke2fs", "debugfs"]) {
        return;
    }
    let work = work_folder();
    volumes(work.path());
    let store = work.path().join("store");
    let images = ["a.img", "b.img"].map(|name| work.path().join(name));
    run(mif(&store).arg("import").args(&images));
    let expected = [
        "removed /etc/gone ",
        "metadata /etc/meta mode,owner",
        "added /etc/new ",
        "renamed /etc/new-name from /old-name ",
        "changed /etc/text size,content",
        "metadata /keep xattrs",
    ];
    // Compare the manifests, the volumes themselves, and one with the other.
    for (a, b) in [
        ("a", "b"),
        (images[0].to_str().unwrap(), images[1].to_str().unwrap()),
        ("a", images[1].to_str().unwrap()),
    ] {
        let output = mif(&store).args(["diff", "--json", "--ignore-times", a, b]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let found: Vec<String> =
            changes(&report).into_iter().filter(|change| !change.starts_with("metadata /etc ")).collect();
        assert_eq!(found, expected, "{a} {b}");
        assert_eq!(report["counts"]["renamed"], 1);
    }
    run(mif(&store).args(["diff", "a", "a"]));

    // Under a path, as text, and counted.
    let output =
        mif(&store).args(["diff", "a", "b", "/etc", "--content", "--by", "folder"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("    -two\n    +2\n"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("M ") && line.contains(":/etc/text  size")), "{text}");
    assert!(!text.contains("/keep"), "{text}");
    assert!(text.contains("mode 0644 → 0600"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("/etc ") && line.contains("1 renamed")), "{text}");
}

/// Makes a volume of files, with the database of dpkg: name and version of each package, and its paths.
fn volume_of_packages(image: &Path, files: &[(&str, &str)], packages: &[(&str, &str, &str)]) {
    let tree = tempfile::tempdir_in(image.parent().unwrap()).unwrap();
    let write = |path: &str, text: &str| {
        let path = tree.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    files.iter().for_each(|(path, text)| write(path, text));
    let mut status = String::new();
    for (name, version, paths) in packages {
        write(&format!("var/lib/dpkg/info/{name}.list"), paths);
        status += &format!(
            "Package: {name}\nStatus: install ok installed\nArchitecture: all\nVersion: {version}\n\n"
        );
    }
    write("var/lib/dpkg/status", &status);
    run(tool("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(tree.path()).arg(image).arg("4M"));
}

#[test]
fn changes_are_counted_by_the_package_that_has_the_path() {
    if !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    let images = ["a.img", "b.img"].map(|name| work.path().join(name));
    volume_of_packages(
        &images[0],
        &[("usr/bin/tool", "1"), ("usr/bin/same", "1"), ("usr/lib/old", "1"), ("own", "1")],
        &[
            ("tool", "1.0", "/.\n/usr\n/usr/bin\n/usr/bin/tool\n"),
            ("same", "1", "/.\n/usr\n/usr/bin\n/usr/bin/same\n"),
            ("old", "1:3", "/.\n/usr\n/usr/lib\n/usr/lib/old\n"),
            ("meta", "1", "/.\n"),
        ],
    );
    volume_of_packages(
        &images[1],
        &[("usr/bin/tool", "22"), ("usr/bin/same", "2"), ("usr/lib/new", "333"), ("own", "2")],
        &[
            ("tool", "2.0", "/.\n/usr\n/usr/bin\n/usr/bin/tool\n"),
            ("same", "1", "/.\n/usr\n/usr/bin\n/usr/bin/same\n"),
            ("new", "7", "/.\n/usr\n/usr/lib\n/usr/lib/new\n"),
            ("meta", "2", "/.\n"),
        ],
    );
    let store = work.path().join("store");
    run(mif(&store).arg("import").args(&images));
    for names in [["a", "b"], [images[0].to_str().unwrap(), images[1].to_str().unwrap()]] {
        let arguments = ["diff", "--ignore-times", "--by", "package", "--json"];
        let output = mif(&store).args(arguments).args(names).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let group = |group: &Value| {
            let version = |side: usize| group["versions"][side].as_str().unwrap_or("-").to_owned();
            let count = |kind: &str| group["counts"][kind].as_i64().unwrap();
            let kinds = ["added", "removed", "changed", "metadata", "renamed", "bytes"].map(count);
            format!("{} {} {} {kinds:?}", group["name"].as_str().unwrap(), version(0), version(1))
        };
        let found: Vec<String> = report["groups"].as_array().unwrap().iter().map(group).collect();
        let expected = [
            "meta 1 2 [0, 0, 0, 0, 0, 0]",
            "new - 7 [1, 0, 0, 0, 0, 3]",
            "old 1:3 - [0, 1, 0, 0, 0, -1]",
            "same 1 1 [0, 0, 1, 0, 0, 0]",
            "tool 1.0 2.0 [0, 0, 1, 0, 0, 1]",
        ];
        assert_eq!(found[1..], expected, "{found:?}");
        assert!(found[0].starts_with("(no package) - - "), "{found:?}");
    }
    let output = mif(&store).args(["diff", "a", "b", "--by", "package", "--summary"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["tool 1.0 → 2.0", "new new: 7", "old gone: 1:3", "meta 1 → 2", "no path changed"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
