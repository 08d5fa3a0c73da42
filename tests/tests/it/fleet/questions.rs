//! The questions of docs/sql.md in DuckDB and Spark, on a catalog in a directory and in a bucket, and what `mif` itself answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use mif::Silent;
use mif::store::{ObjectWriter, Store};
use mif_formats::fs::{FileId, FileType, Node, Xattr};
use mif_formats::mif::ObjectId;
use mif_formats::mif::manifest::{Body, Row};
use mif_formats::mif::packages::Package;
use mif_tests::bucket::Bucket;
use mif_tests::{WorkFolder, json, mif, repo, run, tool, work_folder};
use serde_json::{Value, json};

use super::engines::{block, python};
use crate::catalog::publish;

/// The SHA-1 of nothing.
const EMPTY: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";

/// The content of the largest file.
fn large() -> String {
    "large".repeat(900)
}

/// Returns the row of a file.
fn file(path: &str, mode: u16, content: &str) -> Row {
    let node = Node {
        mode: Some(mode),
        uid: Some(0),
        gid: Some(0),
        size: content.len() as u64,
        ..Node::bare(FileType::File)
    };
    let mut row = Row::new("p1", path.as_bytes().to_vec(), None, node);
    let mut sha1: [u8; 20] = ObjectId::of(content.as_bytes()).digest[..20].try_into().unwrap();
    if content.is_empty() {
        sha1 = std::array::from_fn(|i| u8::from_str_radix(&EMPTY[2 * i..2 * i + 2], 16).unwrap());
    }
    row.body = Some(Body::Digested { sha1, blake3: ObjectId::of(content.as_bytes()).digest });
    row
}

fn package(name: &str, version: &str, source: Option<&str>, files: &[&str]) -> Package {
    Package {
        volume: "p1".into(),
        manager: "dpkg".into(),
        name: name.into(),
        version: version.into(),
        architecture: Some("amd64".into()),
        status: "installed".into(),
        source: source.map(Into::into),
        files: files.iter().map(|file| (*file).into()).collect(),
    }
}

/// Makes a library in which each question has an answer: two versions of `web`, one of `disk`, and a catalog that has two segments
/// and rows of a removed image.
fn library() -> WorkFolder {
    let work = work_folder();
    let store = work.at("mif-store");
    let contents =
        ["0123456789abcdef", "root:x:0:0", "sudo", "", "3.0.9-1", "3.0.15-1", "ping", "gone", "root"];
    let contents = contents.into_iter().map(str::to_owned).chain(["own", "more"].map(str::to_owned));
    let opened = Store::open_or_create(&store, &Silent).unwrap();
    let writer = ObjectWriter::new(&opened).unwrap();
    contents.chain([large()]).for_each(|content| {
        writer.put(content.as_bytes()).unwrap();
    });
    writer.finish().unwrap();
    drop(opened);
    let publish_one = |name: &str, openssl: &str, own: &[Row]| {
        let mut rows = vec![
            file("/etc/machine-id", 0o444, "0123456789abcdef"),
            file("/etc/passwd", 0o644, "root:x:0:0"),
            file("/usr/bin/sudo", 0o4755, "sudo"),
            file("/usr/share/empty", 0o644, ""),
            file("/var/empty", 0o644, ""),
            file("/usr/lib/libssl.so.3", 0o644, openssl),
        ];
        rows.extend_from_slice(own);
        rows.sort_by(|a, b| a.path.cmp(&b.path));
        rows.iter_mut().zip(1..).for_each(|(row, id)| row.file = Some(FileId(id)));
        let packages = [
            package("libssl3", openssl, Some("openssl"), &["/usr/lib/libssl.so.3"]),
            package("sudo", "1.9.13p3-1", None, &["/usr/bin/sudo"]),
        ];
        let store = Store::open_or_create(&store, &Silent).unwrap();
        publish(&store, name, rows, &packages);
    };
    let mut ping = file("/usr/bin/ping", 0o755, "ping");
    ping.node.xattrs = vec![Xattr { name: b"security.capability".to_vec(), value: vec![1, 0, 0, 2] }];
    publish_one("disk", "3.0.9-1", &[ping, file("/srv/large", 0o666, &large())]);
    publish_one("gone", "3.0.9-1", &[file("/opt/gone", 0o6777, "gone")]);
    publish_one("web", "3.0.9-1", &[file("/etc/passwd-", 0o600, "root")]);
    run(mif(&store).args(["catalog", "-q"]));
    publish_one("web", "3.0.15-1", &[file("/opt/own", 0o4755, "own"), file("/srv/more", 0o600, "more")]);
    run(mif(&store).args(["catalog", "-q"]));
    run(mif(&store).args(["rm", "-q", "gone"]));
    work
}

/// Returns the answers to the first ten questions, each with sorted rows, as texts.
fn answers(command: &mut Command) -> Vec<Vec<Value>> {
    serde_json::from_str(&run(command)).unwrap()
}

/// Prints the answers. `plain` makes values that JSON has.
const PRINT: &str = r"
import json
def plain(value):
    if isinstance(value, dict): return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)): return [plain(v) for v in value]
    return value if value is None or isinstance(value, (str, int)) else int(value)
def tell(answers):
    print(json.dumps([sorted((plain(row) for row in rows), key=json.dumps) for rows in answers]))
";

/// Returns the answers of DuckDB with the views of the manifests or of the catalog.
fn duckdb(python: &Path, work: &WorkFolder, bucket: Option<(&Bucket, &str)>, of: &str) -> Vec<Vec<Value>> {
    let script = format!(
        "{PRINT}
import duckdb, sys
page, of, root, setup = sys.argv[1:]
blocks = [rest.split('```')[0] for rest in open(page).read().split('```sql\\n')[1:]]
views = [block for block in blocks if block.startswith('-- With a catalog')]
questions = [block for block in blocks if block not in views]
d = duckdb.connect()
if setup: exec(setup)
for block in views if of == 'catalog' else questions[:1]: d.sql(block.replace('mif-store', root))
tell(d.sql(question).fetchall() for question in questions[1:12])
"
    );
    let mut command = tool(python);
    command.current_dir(work.path()).args(["-c", &script]).arg(repo().join("docs/sql.md")).arg(of);
    if let Some((bucket, url)) = bucket {
        bucket.set(&mut command);
        command.arg(url).arg(block_of_sql("httpfs"));
    } else {
        command.args(["mif-store", ""]);
    }
    answers(&mut command)
}

fn block_of_sql(mark: &str) -> String {
    block("docs/sql.md", "python", mark)
}

/// Returns the answers of Spark on the catalog.
fn spark(python: &Path, work: &WorkFolder, bucket: Option<(&Bucket, &str)>) -> Vec<Vec<Value>> {
    let script = format!(
        "{PRINT}
import sys, re
page, root, views, words = sys.argv[1:]
blocks = [rest.split('```')[0] for rest in open(page).read().split('```sql\\n')[1:]]
questions = [block for block in blocks if not block.startswith('-- With a catalog')][1:12]
exec(re.sub('s3a?://images/library', root, views))
exec(words)
def of(value):
    if hasattr(value, 'asDict'): return [of(v) for v in value]
    if isinstance(value, list): return [of(v) for v in value]
    return value
tell([[of(v) for v in row] for row in spark.sql(in_spark(question)).collect()] for question in questions)
"
    );
    let mut command = super::engines::installed(python, work);
    command.env("TZ", "UTC").args(["-c", &script]).arg(repo().join("docs/sql.md"));
    if let Some((bucket, url)) = bucket {
        bucket.set(&mut command);
        command.arg(url);
    } else {
        command.arg("mif-store");
    }
    let views = block_of_sql(if bucket.is_some() { "mapInArrow" } else { "spark.read.parquet" });
    answers(command.arg(views).arg(block_of_sql("def in_spark")))
}

/// Returns what a command prints that exits with 1, as `diff` does for images that differ.
fn differing(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Checks answers that are known, and those that `mif` gives.
fn check(store: &Path, answers: &[Vec<Value>]) {
    let names = |value: &Value, key: &str| -> Vec<(String, String)> {
        let hits = value[key].as_array().unwrap();
        let of = |hit: &Value| {
            let image = hit["image"].as_str().unwrap();
            (image.split('@').next().unwrap().to_owned(), image.to_owned())
        };
        hits.iter().map(of).collect()
    };
    // 1
    let packages = json(store, &["packages", "--name", "libssl*"]);
    let mut of_version = BTreeMap::<&str, BTreeSet<String>>::new();
    for (package, (name, _)) in
        packages["packages"].as_array().unwrap().iter().zip(names(&packages, "packages"))
    {
        of_version.entry(package["version"].as_str().unwrap()).or_default().insert(name);
    }
    let expected: Vec<Value> =
        of_version.iter().map(|(version, images)| json!(["libssl3", version, images])).collect();
    assert_eq!((answers[0].len(), &answers[0]), (2, &expected));
    // 2
    assert_eq!(answers[1], [json!(["web", "/opt/own"])]);
    // 3
    let everywhere = [("/etc/machine-id", 16), ("/etc/passwd", 10), ("/usr/bin/sudo", 4)];
    let everywhere = everywhere.into_iter().chain([("/usr/share/empty", 0), ("/var/empty", 0)]);
    assert_eq!(answers[2], everywhere.map(|(path, size)| json!([path, size])).collect::<Vec<_>>());
    // 4
    let text = differing(mif(store).args(["--json", "diff", "web@1", "web@2"]));
    let expected = [
        ["/etc/passwd-", "removed"],
        ["/opt/own", "added"],
        ["/srv/more", "added"],
        ["/usr/lib/libssl.so.3", "changed"],
    ];
    assert_eq!(answers[3], expected.map(|row| json!(row)));
    assert!(expected.iter().all(|[path, _]| text.contains(&format!("{path:?}"))), "{text}");
    // 5
    let found = json(store, &["search", "--all-versions", "--sha1", EMPTY]);
    let mut expected: Vec<Value> = Vec::new();
    for (hit, (name, image)) in found["hits"].as_array().unwrap().iter().zip(names(&found, "hits")) {
        let version: u32 = image.rsplit('@').next().unwrap().parse().unwrap();
        if !hit["path"].as_str().unwrap().starts_with("/usr/") {
            expected.push(json!([name, version, hit["path"]]));
        }
    }
    assert_eq!((answers[4].len(), &answers[4]), (3, &expected));
    // 6
    let largest = json(store, &["search", "--group", "--sort", "size", "--limit", "10"]);
    let mut expected: Vec<Value> = largest["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| {
            let path = group["paths"][0].as_str().unwrap();
            let path = &path[path.find('/').unwrap()..];
            json!([path, group["size"], group["images"].as_array().unwrap().len()])
        })
        .collect();
    expected.sort_by_key(Value::to_string);
    assert_eq!((answers[5].len(), &answers[5]), (10, &expected));
    // 7
    let writable = json(store, &["search", "--mode", "2", "--type", "file"]);
    assert_eq!(writable["hits"].as_array().unwrap().len(), 1);
    assert_eq!(answers[6], [json!(["disk", "p1", writable["hits"][0]["path"], "0666"])]);
    // 8
    assert_eq!(answers[7], [json!(["/etc/machine-id", ["disk", "web"]])]);
    // 9
    assert_eq!(answers[8], [json!(["libssl3", {"disk": "3.0.9-1", "web": "3.0.15-1"}])]);
    // 10
    let capable = json(store, &["search", "--xattr", "security.capability"]);
    assert_eq!(capable["hits"].as_array().unwrap().len(), 1);
    assert_eq!(answers[9], [json!(["disk", capable["hits"][0]["path"]])]);
    assert_eq!(answers[10].len(), 9, "{:?}", answers[10]);
    assert!(answers[10].contains(&json!(["disk", "/srv", 1, 4500])), "{:?}", answers[10]);
}

#[test]
#[ignore = "takes 1.2 GB of Python packages: make fleet"]
fn the_questions_have_the_same_answers_in_duckdb_and_spark_from_a_directory_and_from_a_bucket() {
    let Some(bucket) = Bucket::new() else { panic!("the tests of a fleet need a bucket") };
    let (python, work) = (python(), library());
    let store = work.at("mif-store");
    run(bucket.mif("lib").args(["pull", "-q", "--all", "--from"]).arg(&store));
    run(bucket.mif("lib").args(["catalog", "-q"]));
    let url = bucket.url("lib");
    let there = Some((&bucket, &url[..]));
    let expected = duckdb(&python, &work, None, "manifests");
    check(&store, &expected);
    assert_eq!(duckdb(&python, &work, None, "catalog"), expected);
    assert_eq!(duckdb(&python, &work, there, "manifests"), expected);
    let _ = bucket.take_log();
    assert_eq!(duckdb(&python, &work, there, "catalog"), expected);
    let asked = bucket.take_log();
    assert!(asked.iter().any(|request| request.path.contains("/catalog/files-")), "{asked:?}");
    assert!(!asked.iter().any(|request| request.path.contains("/images/")), "{asked:?}");
    assert_eq!(spark(&python, &work, None), expected);
    assert_eq!(spark(&python, &work, there), expected);
    fs::remove_dir_all(store.join("catalog")).unwrap();
}
