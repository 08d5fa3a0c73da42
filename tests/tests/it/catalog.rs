//! The catalog of a store: searches answer the same with it, without it, and with half of the images in it, whatever happens to
//! its files; DuckDB and Polars read it as the manifests; it survives kills, rivals and removals.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mif::store::{Counts, Image, ImageName, Memory, ObjectWriter, Storage, Store};
use mif::{
    CatalogOptions, ImageFilter, PackageQuery, PathGlob, Progress, Query, RmOptions, Silent, WantedContents,
};
use mif_formats::container::Observer;
use mif_formats::fs::{FileId, FileType, Node, Timestamp, Xattr};
use mif_formats::mif::layout::Builder;
use mif_formats::mif::manifest::{self, Body, Part, Row};
use mif_formats::mif::packages::{self, Package};
use mif_formats::mif::{ObjectId, digests};
use mif_tests::bucket::Bucket;
use mif_tests::random::Random;
use mif_tests::{have_python, json, mif, repo, run, run_failing, tool, work_folder};
use serde_json::Value;

/// Keeps warnings.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Observer for Warnings {
    fn advance(&self, _: u64) {}
}

impl Progress for Warnings {
    fn stage(&self, _: &str, _: u64) {}

    fn warn(&self, warning: &str) {
        self.0.lock().unwrap().push(warning.to_owned());
    }
}

/// Publishes an image with these rows.
pub(crate) fn publish(store: &Store, name: &str, mut rows: Vec<Row>, packages: &[Package]) -> String {
    rows.sort_by(|a, b| (&a.volume, &a.path, &a.part).cmp(&(&b.volume, &b.path, &b.part)));
    let mut builder = Builder::new();
    builder.zero(1 << 20);
    let (layout, digest) = builder.finish().encode();
    let mut manifest = Vec::new();
    manifest::write(&mut manifest, &rows).unwrap();
    let record = Image {
        disk_size: 1 << 20,
        layout_digest: ObjectId::content(digest).to_string(),
        manifest_digest: ObjectId::of(&manifest).to_string(),
        counts: Counts { paths: rows.len() as u64, ..Counts::default() },
        ..Image::empty(name, 0, "import")
    };
    let more: [(&str, &[u8]); 2] =
        [("digests", &digests::encode(&rows)), ("packages.parquet", &packages::write(packages).unwrap())];
    store.publish(record, &manifest, &layout, &more).unwrap().id()
}

/// Paths that sort, escape and share prefixes in every way.
fn paths() -> Vec<Vec<u8>> {
    let long =
        |end: &str| format!("/usr/share/{}/{end}", "long-name-of-a-directory/".repeat(14)).into_bytes();
    let mut paths: Vec<Vec<u8>> = [
        &b"/"[..],
        b"/a",
        b"/a/b",
        b"/a/b.c",
        b"/a-b",
        b"/a\xff",
        b"/a\xffb",
        b"/\xc3\xa4",
        b"/\xf0\x9f\x92\xbe",
        b"/a\nb",
        b"/a\\xff",
        b"/etc",
        b"/etc/passwd",
        b"/etc/passwd-",
        b"/etc/ssh/sshd_config",
        b"/usr/bin/sudo",
        b"/usr/bin/ls",
        b"/usr/lib/libc.so.6",
        b"/Z",
        b"/~",
        b"/\x7f",
        b"/'quoted' \"name\"",
        b"/a:b",
        b"/a!b",
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    paths.extend([long("a"), long("b"), long("\u{10ffff}"), long("")]);
    // Minima and maxima are cut at 256 bytes: within a character (duckdb/duckdb#22447), and where a maximum cannot be rounded up
    // (apache/arrow-rs#4389, trinodb/trino#19052). Polars evaluates predicates on cut values (pola-rs/polars#29447).
    paths.extend(
        [format!("/{}\u{1f4be}y", "x".repeat(254)), format!("/{}", "\u{10ffff}".repeat(100))]
            .map(String::into_bytes),
    );
    // In the order of signed bytes, as old writers had it, the second is not between the first and the third
    // (apache/datafusion#24525, apache/parquet-java#362).
    paths.extend(["/a\u{e9}", "/az", "/b"].map(|path| path.as_bytes().to_vec()));
    paths
}

fn content(number: usize) -> Body {
    let id = ObjectId::of(&number.to_le_bytes());
    Body::Digested { sha1: id.digest[..20].try_into().unwrap(), blake3: id.digest }
}

/// Returns a random row of an image; rows of one path are alike in most images.
fn row(random: &mut Random, volume: &str, path: &[u8], number: usize) -> Row {
    let differs = random.once_in(5);
    let seed = if differs { number + random.index(3) } else { number };
    let types = [FileType::File, FileType::File, FileType::File, FileType::Dir, FileType::Symlink];
    let file_type = types[seed % types.len()];
    let mut node = Node {
        mode: (seed % 7 > 0).then_some([0o644, 0o755, 0o4755, 0o2755, 0o1777][seed % 5]),
        uid: (seed % 6 > 0).then_some([0, 33, u32::MAX][seed % 3]),
        gid: Some(seed as u32 % 2),
        inode: Some(random.index(1000) as u64),
        size: (seed as u64 % 9) << 20,
        mtime: (seed % 4 > 0).then_some(Timestamp { secs: seed as i64 * 1000 - 3000, nanos: 5 }),
        ..Node::bare(file_type)
    };
    if seed % 8 == 3 {
        node.xattrs = vec![Xattr { name: b"security.capability".to_vec(), value: vec![1] }];
    }
    if file_type == FileType::Symlink {
        node.link_target = Some(b"x\xfe".to_vec());
    }
    let mut row = Row::new(volume, path.to_vec(), Some(FileId(number as u32)), node);
    if file_type == FileType::File {
        row.body = match seed % 10 {
            9 => None,
            8 => Some(Body::Opaque { object: ObjectId::chunk_list([7; 32]) }),
            _ => Some(content(seed % 12)),
        };
    }
    row
}

/// Publishes `count` images of random rows.
fn grow(store: &Store, random: &mut Random, count: usize) {
    let paths = paths();
    for _ in 0..count {
        let mut rows = Vec::new();
        for volume in ["p1", "p2"].into_iter().take(1 + random.index(2)) {
            for (number, path) in paths.iter().enumerate() {
                if random.once_in(3) {
                    continue;
                }
                let row = row(random, volume, path, number);
                if row.body.is_some() && random.once_in(6) {
                    let part = Some(Box::new(Part::Stream(b"Zone\xff".to_vec())));
                    rows.push(Row { part, body: Some(content(3)), ..row.clone() });
                }
                rows.push(row);
            }
        }
        let name = format!("image-{}", random.index(7));
        let count = *random.pick(&[0, 3, 5, 5, 5]);
        let package = |number: usize| Package {
            volume: if number == 4 { "p2" } else { "p1" }.into(),
            manager: if number == 3 { "rpm" } else { "dpkg" }.into(),
            name: format!("package{}", number * number),
            version: format!("{}", 9 + random.index(2)),
            architecture: random.once_in(2).then(|| "amd64".into()),
            status: "installed".into(),
            source: random.once_in(3).then(|| "source".into()),
            files: (0..random.index(4)).map(|file| format!("/a{file}")).collect(),
        };
        publish(store, &name, rows, &(0..count).map(package).collect::<Vec<_>>());
    }
}

fn some_query(random: &mut Random) -> Query {
    let globs = [
        "/a",
        "/a*",
        "/etc/*",
        "/etc/**",
        "**/passwd",
        "passwd",
        "*",
        "/**",
        "*.so.*",
        "/usr/**/*b*",
        "/a\\xff*",
        "/\u{e4}",
        "/a:Zone*",
        "/a*Zone*",
        "/usr/share/long-name-of-a-directory/**",
        "/nothing*",
        "/[az]*",
        "/~*",
    ];
    let mut query = Query { all_versions: random.once_in(2), ..Query::default() };
    if !random.once_in(3) {
        query.path = Some(PathGlob::new(globs[random.index(globs.len())]).unwrap());
    }
    if random.once_in(2) {
        let mut contents = WantedContents::default();
        for _ in 0..1 + random.index(3) {
            let Body::Digested { sha1, blake3 } = content(random.index(14)) else { unreachable!() };
            match random.once_in(2) {
                true => contents.add_blake3(&mif_formats::text::hex(&blake3)).unwrap(),
                false => contents.add_sha1(&mif_formats::text::hex(&sha1)).unwrap(),
            }
        }
        query.contents = Some(contents);
    }
    if random.once_in(5) {
        query.file_type = Some(*random.pick(&[FileType::File, FileType::Dir, FileType::Symlink]));
    }
    if random.once_in(5) {
        query.uid = Some(*random.pick(&[0, 33, u32::MAX]));
    }
    if random.once_in(6) {
        query.mode_any = 0o6000;
    }
    if random.once_in(6) {
        query.size = Some(1 << 20..=4 << 20);
    }
    if random.once_in(6) {
        query.mtime = Some(-2000..=9000);
    }
    if random.once_in(6) {
        query.xattr = Some(PathGlob::new("security.*").unwrap());
    }
    if random.once_in(6) {
        query.images = vec![format!("image-{}", random.index(7)).parse().unwrap()];
    } else if random.once_in(6) {
        query.filter = ImageFilter { names: vec!["image-[0-4]".into()], ..ImageFilter::default() };
    }
    query
}

/// Answers a query; an error is an answer too.
fn answer(storage: &Memory, query: &Query, progress: &dyn Progress) -> Value {
    let storage: Arc<dyn Storage> = Arc::new(storage.clone());
    let store = Store::open(storage, &Silent).unwrap();
    match mif::search(&store, query, progress) {
        Ok(report) => serde_json::to_value(&report).unwrap(),
        Err(e) => Value::String(e.message().to_owned()),
    }
}

/// Returns a random query of packages.
fn some_packages(random: &mut Random) -> PackageQuery {
    let patterns = ["package1", "package*", "*6", "pack[a-z]ge[0-4]", "?ackage1", "zebra*", "a*"];
    let mut query = PackageQuery::default();
    if !random.once_in(4) {
        query.name = Some((*random.pick(&patterns)).into());
    }
    match random.index(6) {
        0 => query.below = Some("10".into()),
        1 => query.above = Some("9".into()),
        2 => query.is = Some("09".into()),
        _ => {}
    }
    if random.once_in(4) {
        query.images = ImageFilter { names: vec!["image-[0-4]".into()], ..ImageFilter::default() };
    }
    query
}

/// Lists packages; an error is an answer too.
fn packages_of(storage: &Memory, query: &PackageQuery, progress: &dyn Progress) -> Value {
    let storage: Arc<dyn Storage> = Arc::new(storage.clone());
    match mif::packages(storage, None, query, progress) {
        Ok(report) => serde_json::to_value(&report).unwrap(),
        Err(e) => Value::String(e.message().to_owned()),
    }
}

/// Returns a copy of a store without its catalog.
fn plain(storage: &Memory) -> Memory {
    let copy = Memory::new();
    for (key, bytes) in storage.files().into_iter().filter(|(key, _)| !key.starts_with("catalog/")) {
        copy.set(&key, Some(bytes.to_vec()));
    }
    copy
}

/// Asks `count` queries with and without the catalog. Returns how many had hits, and the warnings.
fn compare(storage: &Memory, random: &mut Random, count: usize, what: &str) -> (usize, Vec<String>) {
    let (without, warnings, mut found) = (plain(storage), Warnings::default(), 0);
    for _ in 0..count {
        let query = some_query(random);
        let (a, b) = (answer(storage, &query, &warnings), answer(&without, &query, &Silent));
        assert_eq!(a, b, "{what}: {query:?}");
        found += usize::from(!b["hits"].as_array().is_none_or(Vec::is_empty));
    }
    let mut listed = 0;
    for _ in 0..count / 4 {
        let query = some_packages(random);
        let (a, b) = (packages_of(storage, &query, &warnings), packages_of(&without, &query, &Silent));
        assert_eq!(a, b, "{what}: {query:?}");
        listed += b["packages"].as_array().map_or(0, Vec::len);
    }
    assert!(listed > 0 || count < 60 || what.contains('/'), "{what}: no query has an answer");
    (found, warnings.0.into_inner().unwrap())
}

fn catalog(storage: &Memory) -> mif::CatalogReport {
    let storage: Arc<dyn Storage> = Arc::new(storage.clone());
    mif::catalog(storage, CatalogOptions::default(), &Silent).unwrap()
}

/// Brings the catalog up to date, and reads all of it.
fn checked_catalog(storage: &Memory) -> mif::CatalogReport {
    let storage: Arc<dyn Storage> = Arc::new(storage.clone());
    mif::catalog(storage, CatalogOptions { check: true, ..CatalogOptions::default() }, &Silent).unwrap()
}

#[test]
fn a_search_answers_the_same_with_the_catalog_without_it_and_with_half_of_the_images_in_it() {
    for seed in 0..6 {
        let (storage, mut random) = (Memory::new(), Random(seed));
        let store = Store::create(Arc::new(storage.clone()) as Arc<dyn Storage>, &Silent).unwrap();
        grow(&store, &mut random, 9);
        let report = catalog(&storage);
        assert_eq!((report.images, report.added, report.segments), (9, 9, 1), "{report:?}");
        let (found, warnings) = compare(&storage, &mut random, 60, "all");
        assert!(found > 10 && warnings.is_empty(), "{found} {warnings:?}");
        grow(&store, &mut random, 9);
        let (found, warnings) = compare(&storage, &mut random, 60, "half");
        assert!(found > 10 && warnings.is_empty(), "{found} {warnings:?}");
        drop(store);
        // A removed image is in no answer, at once.
        let name: ImageName = storage_names(&storage)[0].parse().unwrap();
        let removing = Store::open_to_remove(Arc::new(storage.clone()) as Arc<dyn Storage>, &Silent).unwrap();
        let removed = mif::rm(&removing, std::slice::from_ref(&name), RmOptions::default()).unwrap().removed;
        drop(removing);
        compare(&storage, &mut random, 30, "removed");
        let report = catalog(&storage);
        // Two segments stay if the older one is the larger.
        assert_eq!((report.images, report.segments <= 2), (18 - removed.len() as u64, true), "{report:?}");
        compare(&storage, &mut random, 60, "merged");
        let report = catalog(&storage);
        assert_eq!((report.added, report.dropped, report.warnings.len()), (0, 0, 0), "{report:?}");
        // A damaged image is reported, whether or not the catalog contains it.
        let files: Vec<String> =
            storage.files().into_keys().filter(|key| key.starts_with("images/")).collect();
        for file in ["manifest.parquet", "image.json", "digests", "packages.parquet"] {
            let key = files.iter().find(|key| key.ends_with(file)).unwrap();
            let whole = storage.files()[key].to_vec();
            storage.set(key, Some(whole[..whole.len() / 2].to_vec()));
            compare(&storage, &mut random, 20, key);
            storage.set(key, None);
            compare(&storage, &mut random, 20, key);
            storage.set(key, Some(whole));
        }
    }
}

fn storage_names(storage: &Memory) -> Vec<String> {
    Store::open(Arc::new(storage.clone()) as Arc<dyn Storage>, &Silent).unwrap().names().unwrap()
}

#[test]
fn no_damage_to_the_catalog_changes_an_answer_and_the_next_run_makes_it_good() {
    let (storage, mut random) = (Memory::new(), Random(77));
    let store = Store::create(Arc::new(storage.clone()) as Arc<dyn Storage>, &Silent).unwrap();
    grow(&store, &mut random, 8);
    drop(store);
    catalog(&storage);
    let whole: BTreeMap<String, Vec<u8>> = storage
        .files()
        .into_iter()
        .filter(|(key, _)| key.starts_with("catalog/"))
        .map(|(key, bytes)| (key, bytes.to_vec()))
        .collect();
    assert_eq!(whole.len(), 7, "{:?}", whole.keys());
    let restore = || {
        let there: Vec<String> =
            storage.files().into_keys().filter(|key| key.starts_with("catalog/")).collect();
        there.iter().for_each(|key| storage.set(key, None));
        whole.iter().for_each(|(key, bytes)| storage.set(key, Some(bytes.clone())));
    };
    for (key, bytes) in &whole {
        let mut damages: Vec<Option<Vec<u8>>> =
            vec![None, Some(Vec::new()), Some(bytes[..bytes.len() / 2].to_vec())];
        damages.push(Some([&bytes[..], b"more"].concat()));
        for _ in 0..12 {
            let (mut bad, at) = (bytes.clone(), random.index(bytes.len()));
            bad[at] ^= 1 << random.index(8);
            damages.push(Some(bad));
        }
        for damage in damages {
            storage.set(key, damage);
            compare(&storage, &mut random, 6, key);
            let report = checked_catalog(&storage);
            // Without images.parquet there is no catalog, which is nothing to warn of; and a changed byte of it may mean nothing.
            assert!(!report.warnings.is_empty() || key.ends_with("images.parquet"), "{key}: {report:?}");
            assert_eq!((report.images, report.segments), (8, 1), "{key}: {report:?}");
            let (_, warnings) = compare(&storage, &mut random, 4, key);
            assert!(warnings.is_empty(), "{key}: {warnings:?}");
            restore();
        }
    }
    // A search that needs a damaged file says so.
    let files = whole.keys().find(|key| key.contains("/files-") && key.ends_with(".parquet")).unwrap();
    storage.set(files, Some(vec![0; whole[files].len()]));
    let warnings = Warnings::default();
    let query = Query { path: Some(PathGlob::new("/etc/*").unwrap()), ..Query::default() };
    answer(&storage, &query, &warnings);
    let warnings = warnings.0.into_inner().unwrap();
    assert!(warnings.len() == 1 && warnings[0].contains("the catalog is damaged"), "{warnings:?}");
    restore();

    // Files of another catalog under the names of this one, and one of a newer version.
    let names: Vec<&String> = whole.keys().filter(|key| key.ends_with(".parquet")).collect();
    for (a, b) in [(0, 1), (1, 2), (2, 0)] {
        storage.set(names[a], Some(whole[names[b]].clone()));
        compare(&storage, &mut random, 10, "swapped");
        restore();
    }
    let mut newer = whole["catalog/images.parquet"].clone();
    let at = newer.windows(10).position(|bytes| bytes == b"\"format\":1").unwrap() + 9;
    newer[at] = b'7';
    storage.set("catalog/images.parquet", Some(newer.clone()));
    let (_, warnings) = compare(&storage, &mut random, 10, "newer");
    assert!(
        warnings.iter().all(|warning| warning.contains("is 7, and this version knows 1")),
        "{warnings:?}"
    );
    let refused =
        mif::catalog(Arc::new(storage.clone()) as Arc<dyn Storage>, CatalogOptions::default(), &Silent)
            .unwrap_err();
    assert!(refused.advice().unwrap().contains("--rm"), "{refused:?}");
    assert_eq!(storage.files()["catalog/images.parquet"].to_vec(), newer, "it is left alone");
    let removing = Store::open_to_remove(Arc::new(storage.clone()) as Arc<dyn Storage>, &Silent).unwrap();
    assert_eq!(mif::remove_catalog(&removing).unwrap().deleted, 7);
    drop(removing);
    assert_eq!(catalog(&storage).images, 8);
}

/// Who writes a catalog can write its checksums too: then answers may be wrong, as with a forged manifest, but nothing panics, hangs or
/// takes memory by a claimed number.
#[test]
fn a_forged_catalog_makes_nothing_panic() {
    let (storage, mut random) = (Memory::new(), Random(3));
    let store = Store::create(Arc::new(storage.clone()) as Arc<dyn Storage>, &Silent).unwrap();
    grow(&store, &mut random, 4);
    drop(store);
    catalog(&storage);
    let whole: BTreeMap<String, Arc<Vec<u8>>> =
        storage.files().into_iter().filter(|(key, _)| key.starts_with("catalog/")).collect();
    for (key, bytes) in whole.iter().filter(|(key, _)| key.ends_with("-0.parquet")) {
        for _ in 0..150 {
            let mut bad = bytes.to_vec();
            // Most of what can be forged is in the footer.
            let from = if random.once_in(3) { 0 } else { bad.len() * 2 / 3 };
            for _ in 0..1 + random.index(3) {
                let at = from + random.index(bad.len() - from);
                bad[at] = *random.pick(&[0, 1, 0x7f, 0x80, 0xff, bad[at] ^ 4]);
            }
            let mut summer = mif_formats::mif::catalog::Summer::default();
            summer.update(&bad);
            storage.set(&key.replace(".parquet", ".sums"), Some(summer.finish().0));
            storage.set(key, Some(bad));
            answer(&storage, &some_query(&mut random), &Silent);
            let options = CatalogOptions { dry_run: random.once_in(2), check: random.once_in(2) };
            let made = mif::catalog(Arc::new(storage.clone()) as Arc<dyn Storage>, options, &Silent);
            assert!(made.is_ok(), "{made:?}");
            let there: Vec<String> =
                storage.files().into_keys().filter(|key| key.starts_with("catalog/")).collect();
            there.iter().for_each(|key| storage.set(key, None));
            whole.iter().for_each(|(key, bytes)| storage.set(key, Some(bytes.to_vec())));
        }
    }
}

/// Publishes images whose tables of files and digests are larger than what is read of them for their footers.
fn grow_large(store: &Store, images: std::ops::Range<usize>) {
    for image in images {
        let row = |number: usize| {
            let path =
                format!("/large/{:016x}-{number:05}", (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let node = Node { size: number as u64, ..Node::bare(FileType::File) };
            let mut row = Row::new("p1", path.into_bytes(), Some(FileId(number as u32)), node);
            row.body = Some(content(number * 100 + image));
            row
        };
        publish(store, &format!("large-{image}"), (0..3000).map(row).collect(), &[]);
    }
}

#[test]
fn a_run_reads_no_more_of_what_stays_than_footers_and_a_merge_makes_damage_good() {
    let (storage, mut random) = (Memory::new(), Random(3));
    let store = Store::create(Arc::new(storage.clone()) as Arc<dyn Storage>, &Silent).unwrap();
    grow(&store, &mut random, 4);
    grow_large(&store, 0..6);
    assert_eq!(catalog(&storage).segments, 1);
    let tables = |storage: &Memory| -> Vec<String> {
        let is_table =
            |key: &String| key.starts_with("catalog/") && key.contains('-') && key.ends_with("parquet");
        storage.files().into_keys().filter(is_table).collect()
    };
    // One byte of each table's pages, which only a reader of these pages can notice.
    let old: Vec<String> =
        tables(&storage).into_iter().filter(|key| storage.files()[key].len() > 300 << 10).collect();
    assert_eq!(old.len(), 2, "files and digests");
    for key in &old {
        let mut bytes = storage.files()[key].to_vec();
        bytes[40] ^= 1;
        storage.set(key, Some(bytes));
    }
    compare(&storage, &mut random, 20, "damaged pages");
    publish(&store, "small", vec![Row::new("p1", b"/a".to_vec(), None, Node::bare(FileType::Dir))], &[]);
    let report = catalog(&storage);
    assert_eq!((report.images, report.added, report.segments), (11, 1, 2), "{report:?}");
    assert!(report.warnings.is_empty(), "it has read what it did not need: {report:?}");
    assert!(old.iter().all(|key| storage.files().contains_key(key)));
    // A merge reads these pages.
    grow_large(&store, 6..10);
    let report = catalog(&storage);
    assert_eq!((report.images, report.segments, report.warnings.len()), (15, 3, 0), "{report:?}");
    grow_large(&store, 10..13);
    let report = catalog(&storage);
    assert_eq!((report.images, report.segments, report.warnings.len()), (18, 1, 1), "{report:?}");
    assert!(report.warnings[0].contains("checksums"), "{report:?}");
    let (_, warnings) = compare(&storage, &mut random, 30, "merged");
    assert!(warnings.is_empty(), "{warnings:?}");
    // What has another length than it had, or is missing, is noticed without reading pages.
    for longer in [None, Some(false), Some(true)] {
        let report = checked_catalog(&storage);
        assert_eq!((report.segments, report.warnings.len()), (1, 0), "{report:?}");
        let keys = tables(&storage);
        for key in &keys {
            let whole = storage.files()[key].to_vec();
            let damaged = longer.map(|longer| match longer {
                true => [&whole[..], b"x"].concat(),
                false => whole[..whole.len() - 1].to_vec(),
            });
            storage.set(key, damaged);
        }
        let report = catalog(&storage);
        assert_eq!((report.images, report.warnings.len()), (18, 1), "{report:?}");
        let (_, warnings) = compare(&storage, &mut random, 10, "made again");
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}

/// Makes a store in a directory with `count` images of `files` files that are alike.
fn library(store: &Path, from: usize, count: usize, files: usize) {
    let store = Store::open_or_create(store, &Silent).unwrap();
    let writer = ObjectWriter::new(&store).unwrap();
    let own = |file: usize, image: usize| if file % 50 == 7 { image } else { 0 };
    for (file, image) in (0..files).flat_map(|file| (from..from + count).map(move |image| (file, image))) {
        writer.put(&(file * 1000 + own(file, image)).to_le_bytes()).unwrap();
    }
    writer.finish().unwrap();
    for image in from..from + count {
        let rows = (0..files).map(|file| {
            let own = own(file, image);
            let node = Node {
                mode: Some(if file == 3 { 0o4755 } else { 0o644 }),
                uid: Some(0),
                gid: Some(0),
                size: file as u64,
                mtime: Some(Timestamp { secs: 1_700_000_000 + own as i64, nanos: 0 }),
                ..Node::bare(FileType::File)
            };
            let path = format!("/usr/lib/package-{:03}/file-{file:05}", file / 40);
            let mut row = Row::new("p1", path.into_bytes(), Some(FileId(file as u32)), node);
            row.body = Some(content(file * 1000 + own));
            row
        });
        publish(&store, &format!("image-{image:03}"), rows.collect(), &[]);
    }
}

fn catalog_files(store: &Path) -> Vec<String> {
    let listed = fs::read_dir(store.join("catalog")).map_or(Vec::new(), Iterator::collect);
    let mut names: Vec<String> =
        listed.into_iter().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_run_that_is_killed_leaves_nothing_that_counts_and_two_at_once_agree() {
    let work = work_folder();
    let store = work.at("library");
    library(&store, 0, 30, 3000);
    let expected = json(&store, &["search", "*file-00007"]);
    for wait in [1_u64, 30, 80, 150, 300, 500, 800] {
        let mut child = mif(&store).args(["catalog", "-q"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        // On Unix this is SIGKILL. It may have ended.
        let _ = child.kill();
        child.wait().unwrap();
        assert_eq!(json(&store, &["search", "*file-00007"]), expected);
        let fsck = json(&store, &["fsck"]);
        // fsck mentions unfinished files in tmp. It takes files of the catalog neither for foreign files nor for damage.
        let about_tmp = |note: &Value| note.as_str().is_some_and(|note| note.starts_with("tmp: "));
        assert!(fsck["notes"].as_array().unwrap().iter().all(about_tmp), "{fsck}");
    }
    library(&store, 30, 5, 3000);
    let runs: Vec<_> = (0..3).map(|_| mif(&store).args(["catalog", "--json"]).spawn().unwrap()).collect();
    for mut run in runs {
        assert!(run.wait().unwrap().success());
    }
    let report = json(&store, &["catalog"]);
    assert_eq!([&report["images"], &report["added"]], [35, 0], "{report}");
    run(mif(&store).args(["gc", "-q"]));
    // One segment of three files with their checksums, and images.parquet.
    let segments = report["segments"].as_u64().unwrap() as usize;
    assert_eq!(catalog_files(&store).len(), 6 * segments + 1, "{:?}", catalog_files(&store));
    assert_eq!(json(&store, &["search", "*file-00007"])["hits"].as_array().unwrap().len(), 35);
    assert_eq!(fs::read_dir(store.join("tmp")).unwrap().count(), 0);
    // Neither a copy nor a removal takes it along.
    let copy = work.at("copy");
    run(mif(&store).args(["copy", "-q", "--all", "--from"]).arg(&store).arg("--to").arg(&copy));
    assert!(copy.join("images/name=image-000").exists());
    assert!(!copy.join("catalog").exists());
    run(mif(&store).args(["catalog", "--rm"]));
    assert!(catalog_files(&store).is_empty());
    assert_eq!(run(mif(&store).args(["catalog", "--rm"])), "there is no catalog\n");
}

/// `fixtures/demo.qcow2` has a root and an EFI system partition; an edited copy mounts the latter by its fstab.
#[test]
fn paths_as_the_system_sees_them_are_found_in_the_catalog() {
    let work = work_folder();
    let (store, demo) = (work.at("library"), repo().join("fixtures/demo.qcow2"));
    for name in ["a", "b"] {
        run(mif(&store).args(["import", "-q", "--name", name]).arg(&demo));
    }
    let fstab = "/etc/fstab:PARTUUID=6d69662d-6465-6d6f-8000-00000000000f /srv/esp vfat defaults 0 0\n";
    run(mif(&store).args(["customize", "-q", "a", "--as", "d", "--write", fstab]));
    let listed = json(&store, &["ls", "-R", "a"]);
    let listed: Vec<&str> =
        listed["entries"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    let mut patterns: Vec<String> =
        ["/**", "/srv/esp/**", "/srv/e*/EFI/*", "/boot/**", "/boot/efi/**", "/etc/*", "/*", "/*/*/*"]
            .map(str::to_owned)
            .into();
    patterns.extend(listed.iter().map(|path| (*path).to_owned()));
    let all = |what: &str| -> Vec<Value> {
        let ask = |pattern: &String| {
            let answer = mif(&store).args(["search", "--json", "--", pattern]).output().unwrap();
            assert!(answer.stderr.is_empty(), "{what}: {}", String::from_utf8_lossy(&answer.stderr));
            serde_json::from_slice(&answer.stdout).unwrap()
        };
        patterns.iter().map(ask).collect()
    };
    let expected = all("without");
    for place in [1, 2] {
        assert!(expected[place].to_string().contains("d@1"), "{}: {}", patterns[place], expected[place]);
    }
    run(mif(&store).args(["catalog", "-q"]));
    assert_eq!(all("with"), expected);
    let status = json(&store, &["status"]);
    assert_eq!([&status["catalog"]["images"], &status["catalog"]["lacking"]], [3, 0], "{status}");
    run(mif(&store).args(["import", "-q", "--name", "c"]).arg(&demo));
    assert_eq!(json(&store, &["status"])["catalog"]["lacking"], 1);
}

fn python() -> Option<PathBuf> {
    have_python("duckdb, polars, pyarrow").then(mif_tests::python)
}

/// Rows with what columnar formats have got wrong: null, empty, long, invalid, extreme. Equality of binary values, one by one, as in
/// duckdb/duckdb#23053 and #24366; a filter on each column that has statistics, a page index or a bloom filter.
#[test]
fn duckdb_polars_and_pyarrow_read_the_catalog_as_the_manifests() {
    let Some(python) = python() else { return };
    let work = work_folder();
    let store = Store::open_or_create(&work.at("mif-store"), &Silent).unwrap();
    let mut random = Random(5);
    grow(&store, &mut random, 12);
    drop(store);
    run(mif(&work.at("mif-store")).args(["catalog", "-q"]));
    let store = Store::open(&work.at("mif-store"), &Silent).unwrap();
    grow(&store, &mut random, 4);
    drop(store);
    run(mif(&work.at("mif-store")).args(["catalog", "-q"]));
    let name = format!("{}@1", json(&work.at("mif-store"), &["images"])[0]["name"].as_str().unwrap());
    run(mif(&work.at("mif-store")).args(["rm", &name]));
    let script = r"
import duckdb, glob, polars as pl, pyarrow.parquet as pq, sys
images = 'mif-store/catalog/images.parquet'
def both(table, original):
    d = duckdb.connect()
    d.sql(f'''create view c as select * exclude (place, segment) from 'mif-store/catalog/{table}-*.parquet'
              semi join '{images}' using (name, version, segment)''')
    d.sql(f'''create view m as select * from 'mif-store/images/*/*/{original}.parquet' ''')
    if table == 'digests':
        columns = ', '.join(row[0] for row in d.sql('describe c').fetchall())
        d.sql(f'create or replace view m2 as select {columns} from m where blake3 is not null')
    else:
        d.sql('create view m2 as from m')
    types = lambda view: sorted(d.sql(f'select column_name, column_type from (describe {view})').fetchall())
    assert types('c') == types('m2'), (types('c'), types('m2'))
    names = ', '.join(n for n, _ in types('c'))
    for a, b in (('c', 'm2'), ('m2', 'c')):
        left = d.sql(f'select {names} from {a} except all select {names} from {b}').fetchall()
        assert not left, (table, a, left[:3])
    return d.sql('select count(*) from c').fetchall()[0][0]
counts = {table: both(table, original) for table, original in
          (('files', 'manifest'), ('digests', 'manifest'), ('packages', 'packages'))}
assert all(counts.values()), counts
# Each filter that statistics, page indexes or bloom filters may answer, value by value.
d = duckdb.connect()
for table, column in (('files', 'path'), ('files', 'blake3'), ('digests', 'blake3'), ('digests', 'sha1'), ('digests', 'path'),
                      ('packages', 'package'), ('files', 'uid'), ('files', 'mtime'), ('files', 'name')):
    what = f'mif-store/catalog/{table}-*.parquet'
    values = d.sql(f'''select {column}, count(*) from (select * from '{what}' offset 0) group by all''').fetchall()
    frame = pl.scan_parquet(what)
    for value, count in values:
        if value is None: continue
        assert d.execute(f'''select count(*) from '{what}' where {column} = ?''', [value]).fetchall()[0][0] == count, value
        got = frame.filter(pl.col(column) == pl.lit(value)).select(pl.len()).collect().item()
        assert got == count, (column, value, got, count)
        filtered = sum(pq.read_table(f, filters=[(column, '=', value)], columns=['name']).num_rows for f in glob.glob(what))
        assert filtered == count, (column, value, filtered, count)
for file in glob.glob('mif-store/catalog/*.parquet'):
    metadata = pq.ParquetFile(file).metadata
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    if 'files-' in file:
        assert groups[0].sorting_columns, file
    pq.ParquetFile(file).read()
print(counts['files'])
";
    let said = run(tool(&python).current_dir(work.path()).args(["-c", script]));
    assert!(said.trim().parse::<u64>().unwrap() > 100, "{said}");
}

/// More rows than a page and a row group have: DuckDB failed on delta-encoded texts of the crate `parquet` from the 14,337th value of
/// a page on (duckdb/duckdb#7083), and on digests of fixed length after many rows (duckdb/duckdb#4424).
#[test]
fn duckdb_reads_tables_of_several_pages_and_groups() {
    let Some(python) = python() else { return };
    let work = work_folder();
    library(&work.at("mif-store"), 0, 3, 14_500);
    run(mif(&work.at("mif-store")).args(["catalog", "-q"]));
    let script = r"
import duckdb, glob, pyarrow.parquet as pq
for table in ('files', 'digests'):
    [what] = glob.glob(f'mif-store/catalog/{table}-*.parquet')
    d = duckdb.connect()
    columns = [row[0] for row in d.sql(f'describe from {what!r}').fetchall() if row[0] not in ('place', 'segment')]
    names = ', '.join(columns)
    d.sql(f'create view c as select {names} from {what!r}')
    d.sql(f'create view m as select {names} from \'mif-store/images/*/*/manifest.parquet\'')
    for a, b in (('c', 'm'), ('m', 'c')):
        assert not d.sql(f'select {names} from {a} except all select {names} from {b}').fetchall(), (table, a)
    keys = 'path, blake3' if table == 'files' else 'blake3, path'
    order = f'{keys}, name, version, place'
    assert d.sql(f'from {what!r}').fetchall() == d.sql(f'from {what!r} order by {order}').fetchall()
    assert pq.ParquetFile(what).metadata.num_row_groups == 2
    assert d.sql('select count(*) from c').fetchall()[0][0] == 43500
";
    run(tool(&python).current_dir(work.path()).args(["-c", script]));
}

#[test]
fn polars_reads_the_catalog_from_a_bucket() {
    let (Some(python), Some(bucket)) = (python(), Bucket::new()) else { return };
    let work = work_folder();
    let store = work.at("library");
    library(&store, 0, 6, 200);
    run(bucket.mif("lib").args(["pull", "-q", "--all", "--from"]).arg(&store));
    let plain = run(bucket.mif("lib").args(["search", "--json", "*file-00007"]));
    run(bucket.mif("lib").args(["catalog", "-q"]));
    assert_eq!(run(bucket.mif("lib").args(["search", "--json", "*file-00007"])), plain);
    run(bucket.mif("lib").args(["rm", "-q", "image-003"]));
    assert_eq!(
        run_failing(bucket.mif("lib").args(["search", "--image", "image-003", "*"]), 3).lines().count(),
        2
    );
    let script = r"
import os, polars as pl, sys
url = sys.argv[1]
options = {'aws_endpoint_url': os.environ['AWS_ENDPOINT_URL'], 'aws_allow_http': 'true', 'aws_region': 'us-east-1',
           'aws_access_key_id': os.environ['AWS_ACCESS_KEY_ID'], 'aws_secret_access_key': os.environ['AWS_SECRET_ACCESS_KEY']}
scan = lambda name: pl.scan_parquet(f'{url}/catalog/{name}', storage_options=options)
files = scan('files-*.parquet').join(scan('images.parquet'), on=['name', 'version', 'segment'], how='semi')
got = files.filter(pl.col('path') == '/usr/lib/package-000/file-00007').select('name').collect()['name'].sort().to_list()
print(','.join(got))
";
    let mut command = tool(&python);
    bucket.set(&mut command);
    let said = run(command.args(["-c", script]).arg(bucket.url("lib")));
    assert_eq!(said.trim(), "image-000,image-001,image-002,image-004,image-005");
}
