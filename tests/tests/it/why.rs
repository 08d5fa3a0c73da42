//! `diff --why`: what keeps two builds of one recipe from being identical, held against dumpe2fs, debugfs and cmp.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mif_tests::{have, json, mif, moment, run, tool, work_folder};
use serde_json::Value;

/// Returns the header of a volume, by name, as dumpe2fs prints it.
fn header(volume: &Path) -> BTreeMap<String, String> {
    let text = run(tool("dumpe2fs").arg("-h").arg(volume));
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

fn why(work: &Path, a: &str, b: &str) -> Vec<Value> {
    let output =
        mif(&work.join("store")).current_dir(work).args(["--json", "diff", "--why", a, b]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    let causes = report["why"].as_array().unwrap().clone();
    assert_eq!(
        output.status.code(),
        Some(i32::from(!causes.is_empty() || report["same"] == false)),
        "{report}"
    );
    causes
}

fn cause<'c>(causes: &'c [Value], field: &str) -> &'c Value {
    causes.iter().find(|cause| cause["field"] == field).unwrap_or_else(|| panic!("{field}: {causes:#?}"))
}

#[test]
fn fields_of_two_builds_are_named_with_the_values_that_dumpe2fs_prints() {
    if !have(&["mke2fs", "dumpe2fs", "debugfs", "date"]) {
        return;
    }
    let work = work_folder();
    fs::create_dir(work.at("tree")).unwrap();
    for name in ["one", "two", "three"] {
        fs::write(work.at("tree").join(name), name.repeat(3000)).unwrap();
    }
    let build = |name: &str, seed: &str| {
        let (tree, volume) = (work.at("tree"), work.at(name));
        let options = format!("hash_seed={seed}");
        run(tool("mke2fs")
            .args(["-q", "-t", "ext4", "-U", seed, "-L", "root", "-E", &options, "-d"])
            .arg(tree)
            .arg(&volume)
            .arg("16M"));
        volume
    };
    let seeds = ["11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"];
    let a = build("a.raw", seeds[0]);
    let b = build("b.raw", seeds[1]);
    // In case both were made in one second.
    run(tool("debugfs").args(["-w", "-R", "ssv mkfs_time 20200131120000"]).arg(&b));
    let causes = why(work.path(), "./a.raw", "./b.raw");
    let headers = [header(&a), header(&b)];
    for (field, name) in [
        ("UUID", "Filesystem UUID"),
        ("s_hash_seed", "Directory Hash Seed"),
        ("s_mkfs_time", "Filesystem created"),
    ] {
        let cause = cause(&causes, field);
        assert_eq!(cause["place"], "p0");
        for (side, header) in headers.iter().enumerate() {
            let (value, expected) = (&cause["values"][side], &header[name]);
            if field == "s_mkfs_time" {
                let seconds = run(tool("date").args(["-u", "-d", expected, "+%s"]));
                assert_eq!(moment(value).unwrap().0.to_string(), seconds.trim(), "{cause}");
            } else {
                assert_eq!(value, expected, "{cause}");
            }
        }
    }
    // The same disk twice has no causes, and the order of the arguments is that of the values.
    fs::copy(&a, work.at("c.raw")).unwrap();
    assert_eq!(why(work.path(), "./a.raw", "./c.raw"), [Value::Null; 0]);
    let turned = why(work.path(), "./b.raw", "./a.raw");
    assert_eq!(cause(&turned, "UUID")["values"][0], seeds[1]);
    // A stored image gives the same answer as its file.
    run(mif(&work.at("store")).args(["import", "--name", "a"]).arg(&a));
    run(mif(&work.at("store")).args(["import", "--name", "b"]).arg(&b));
    assert_eq!(why(work.path(), "a", "b"), causes);
    let text = mif(&work.at("store")).args(["diff", "--why", "a", "b"]).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("s_hash_seed") && text.contains(&format!("{} → {}", seeds[0], seeds[1])), "{text}");
}

#[test]
fn the_order_of_creation_and_what_is_left_in_free_space_are_named() {
    if !have(&["mke2fs", "debugfs", "cmp"]) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.at(name);
    run(tool("mke2fs").args(["-q", "-t", "ext4"]).arg(at("a.raw")).arg("8M"));
    fs::copy(at("a.raw"), at("b.raw")).unwrap();
    fs::write(at("x"), vec![1; 5000]).unwrap();
    fs::write(at("y"), vec![2; 9000]).unwrap();
    let debugfs = |volume: &str, commands: &[&str]| {
        fs::write(at("commands"), commands.join("\n")).unwrap();
        run(tool("debugfs").current_dir(work.path()).args(["-w", "-f", "commands", volume]));
    };
    debugfs("a.raw", &["write x x", "write y y"]);
    debugfs("b.raw", &["write y y", "write x x"]);
    let causes = why(work.path(), "./a.raw", "./b.raw");
    assert_eq!(cause(&causes, "order of directory entries")["examples"][0], "/");
    for field in ["inode number", "place of the content on the volume"] {
        let cause = cause(&causes, field);
        assert_eq!(
            (&cause["count"], &cause["examples"]),
            (&2.into(), &serde_json::json!(["/x", "/y"])),
            "{cause}"
        );
    }
    // What a deleted file leaves is in free space.
    fs::copy(at("a.raw"), at("c.raw")).unwrap();
    fs::write(at("z"), vec![3; 4096 * 5]).unwrap();
    debugfs("c.raw", &["write z z", "rm z"]);
    let causes = why(work.path(), "./a.raw", "./c.raw");
    assert_eq!(cause(&causes, "bytes in free space")["count"], 4096 * 5, "{causes:#?}");
    // All bytes that differ are counted once.
    let count = |field: &str| {
        let found = causes.iter().filter(|cause| cause["field"].as_str().unwrap().starts_with(field));
        found.map(|cause| cause["count"].as_u64().unwrap()).sum::<u64>()
    };
    let differing = tool("cmp").arg("-l").args([at("a.raw"), at("c.raw")]).output().unwrap().stdout;
    assert_eq!(count("bytes"), String::from_utf8(differing).unwrap().lines().count() as u64, "{causes:#?}");
}

#[test]
fn partition_tables_are_compared_by_field() {
    let work = work_folder();
    let store = work.at("store");
    run(mif(&store).arg("import").arg(mif_tests::repo().join("fixtures/demo.qcow2")));
    run(mif(&store).args(["customize", "demo", "--as", "new", "--new-ids", "--seed", "1"]));
    let report = json_of_diff(&store);
    let causes = report["why"].as_array().unwrap();
    let info = [json(&store, &["info", "demo"]), json(&store, &["info", "new"])];
    let id = cause(causes, "disk id");
    assert_eq!(id["place"], "partition table");
    assert_eq!([&id["values"][0], &id["values"][1]], [&info[0]["table"]["id"], &info[1]["table"]["id"]]);
    assert!(causes.iter().any(|cause| cause["field"] == "UUID"), "{causes:#?}");
}

fn json_of_diff(store: &Path) -> Value {
    let output = mif(store).args(["--json", "diff", "--why", "demo", "new"]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}
