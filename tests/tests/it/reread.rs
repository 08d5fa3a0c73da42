//! `reread`: a stored disk gets the description of today's readers, without its file, and nothing is stored twice.
//!
//! The program does not know the filesystem of the tests, and the tests do: what the program imported is a disk of the
//! time before a filesystem was read.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use mif::store::{Image, Store};
use mif::{
    Code, GcOptions, ImportOptions, OpenImage, RereadEvent, RereadOptions, RereadReport, Silent, VolumePath,
    Watch, cat, fsck, gc, import, reread, reread_all, rm, stats,
};
use mif_formats::container::Observer;
use mif_tests::{WorkFolder, files, json, mif, repo, run, run_failing, synthetic, work_folder};

/// Removes tagged versions too.
const FORCED: mif::RmOptions = mif::RmOptions { force: true, dry_run: false };

/// Imports a disk of the tests' filesystem with the program, under the name `a`.
fn imported_before(work: &WorkFolder, seed: u8) -> Vec<u8> {
    let disk = synthetic::volume(seed);
    fs::write(work.at("a.raw"), &disk).unwrap();
    run(&mut work.mif(&["import", "a.raw"]));
    disk
}

fn store(work: &WorkFolder) -> Store {
    synthetic::register();
    Store::open(&work.at("store"), &Silent).unwrap()
}

fn reread_now(store: &Store, name: &str) -> mif::Result<RereadReport> {
    reread(store, &name.parse().unwrap(), &RereadOptions::default(), &Silent)
}

fn record(store: &Store, name: &str) -> Image {
    store.image(&name.parse().unwrap()).unwrap().image
}

fn read(store: &Store, name: &str, path: &str) -> Vec<u8> {
    let image = OpenImage::stored(store, &name.parse().unwrap()).unwrap();
    let mut out = Vec::new();
    cat(&image, &[VolumePath::parse(path.as_bytes())], &mut out).unwrap();
    out
}

fn rm_and_gc(work: &WorkFolder, name: &str) {
    let store = Store::open_to_remove(&work.at("store"), &Silent).unwrap();
    rm(&store, &[name.parse().unwrap()], FORCED).unwrap();
    assert!(gc(&store, &GcOptions::default(), &Silent).unwrap().whole);
}

fn object_bytes(work: &WorkFolder, folder: &str) -> (u64, u64) {
    let report = stats(&Store::open(&work.at(folder), &Silent).unwrap(), false, &Silent).unwrap();
    (report.object_bytes, report.garbage_bytes)
}

#[test]
fn a_disk_imported_before_its_filesystem_was_read_gets_its_files_and_is_stored_once() {
    let work = work_folder();
    let disk = imported_before(&work, 1);
    run(&mut work.mif(&["tag", "a", "golden"]));
    let before = json(&work.at("store"), &["info", "a"]);
    assert_eq!(before["stored"]["counts"]["files"], 0);
    // The file is not needed.
    fs::rename(work.at("a.raw"), work.at("moved")).unwrap();
    let store = store(&work);
    let report = reread_now(&store, "a").unwrap();
    assert_eq!((report.result, &report.parent[..], &report.image[..]), ("reread", "a@1", "a@2"));
    assert_eq!((report.before.files, report.counts.files, report.counts.paths), (0, 5, 8));
    assert_eq!(report.volumes, ["p0"]);
    // New are the contents that the disk has in other pieces: of /data, /shared and /snap/data, and the residue of
    // windows that they share with it, of 256 KiB each.
    let files = 300_000 + 100_000 + 8192;
    assert!((files..files + (3 << 18)).contains(&report.added.bytes), "{:?}", report.added);
    assert!(read(&store, "a", "p0:/data") == disk[1 << 20..][..300_000]);
    let (old, new) = (record(&store, "a@1"), record(&store, "a@2"));
    assert_eq!((old.disk_digest, new.disk_digest.is_some()), (None, true));
    assert_eq!(new.provenance.operation, "reread");
    assert_eq!(new.provenance.parent.as_deref(), Some("a@1"));
    assert_eq!(new.provenance.source, old.provenance.source);
    assert!(new.provenance.source.is_some_and(|path| path.starts_with('/') && path.ends_with("/a.raw")));
    assert_eq!(new.provenance.files, old.provenance.files);
    assert_eq!(record(&store, "a@golden").version, 1, "the tag stays");
    // A second time there is nothing to do, for the old version too.
    for name in ["a", "a@1"] {
        let again = reread_now(&store, name).unwrap();
        assert_eq!((again.result, &again.image[..], again.added.objects), ("unchanged", "a@2", 0), "{name}");
    }
    assert_eq!(store.versions("a").unwrap(), [1, 2]);
    drop(store);
    let export = |name: &str| {
        run(&mut work.mif(&["export", name, "back.raw", "--force"]));
        fs::read(work.at("back.raw")).unwrap()
    };
    assert!(export("a@2") == disk);
    rm_and_gc(&work, "a@1");
    assert!(export("a") == disk);
    // The store is as large as one into which the disk was imported today.
    fs::rename(work.at("moved"), work.at("a.raw")).unwrap();
    let other = Store::open_or_create(&work.at("other"), &Silent).unwrap();
    import(&other, &work.at("a.raw"), &ImportOptions::default(), &Silent).unwrap();
    drop(other);
    assert_eq!(object_bytes(&work, "store"), object_bytes(&work, "other"));
    assert!(fsck(&self::store(&work), &Default::default(), &Silent).unwrap().clean);
    // The file still owns the name.
    let store = self::store(&work);
    let known = import(&store, &work.at("a.raw"), &ImportOptions::default(), &Silent).unwrap();
    assert_eq!((known.result, &known.image[..], known.described_by), ("unchanged", "a@2", None));
    fs::create_dir(work.at("elsewhere")).unwrap();
    fs::write(work.at("elsewhere/a.raw"), synthetic::volume(2)).unwrap();
    let error = import(&store, &work.at("elsewhere/a.raw"), &ImportOptions::default(), &Silent).unwrap_err();
    assert!(error.message().contains("was imported from"), "{error}");
}

#[test]
fn an_import_of_a_disk_that_older_readers_described_stores_nothing_and_names_reread() {
    let work = work_folder();
    imported_before(&work, 3);
    let store = store(&work);
    let file = work.at("a.raw");
    for verify in [false, true] {
        let options = ImportOptions { verify, ..ImportOptions::default() };
        let report = import(&store, &file, &options, &Silent).unwrap();
        assert_eq!((report.result, &report.image[..], report.added.objects), ("unchanged", "a@1", 0));
        assert_eq!(report.described_by, Some(format!("mif {}", env!("CARGO_PKG_VERSION"))));
    }
    assert_eq!(store.versions("a").unwrap(), [1]);
    assert_eq!(reread_now(&store, "a").unwrap().image, "a@2");
    // The program, which does not know the filesystem, is now the older reader.
    let said = run(&mut work.mif(&["import", "a.raw"]));
    assert!(said.contains("unchanged: a@2 already holds this disk"), "{said}");
    assert!(said.contains("`mif reread a`"), "{said}");
    // A directory's unchanged files are not even read.
    let events = run(&mut work.mif(&["--json", "import", "."]));
    assert!(events.contains("\"skipped\"") && events.contains("\"a@2\""), "{events}");
    // Another disk is another version, whatever described the one before.
    fs::write(&file, synthetic::volume(4)).unwrap();
    let changed = import(&store, &file, &ImportOptions::default(), &Silent).unwrap();
    assert_eq!((changed.result, &changed.image[..], changed.described_by), ("imported", "a@3", None));
}

#[test]
fn an_old_version_is_reread_only_where_it_does_not_hide_a_newer_disk() {
    let work = work_folder();
    let old = imported_before(&work, 5);
    imported_before(&work, 6);
    let store = store(&work);
    let error = reread_now(&store, "a@1").unwrap_err();
    assert_eq!(error.code(), Code::Usage);
    assert!(error.message().contains("a@2 is newer and has other bits"), "{error}");
    let options = RereadOptions { name: Some("old".into()), ..RereadOptions::default() };
    let name = "a@1".parse().unwrap();
    let report = reread(&store, &name, &options, &Silent).unwrap();
    assert_eq!((&report.image[..], &report.parent[..]), ("old@1", "a@1"));
    assert!(read(&store, "old", "p0:/link") == old[1 << 20..][..300_000]);
    assert_eq!(reread(&store, &name, &options, &Silent).unwrap().result, "unchanged");
    // A name that another disk has is not taken.
    let taken = RereadOptions { name: Some("old".into()), ..RereadOptions::default() };
    assert_eq!(reread(&store, &"a@2".parse().unwrap(), &taken, &Silent).unwrap_err().code(), Code::Usage);
    assert_eq!(reread_now(&store, "a").unwrap().image, "a@3");
    assert_eq!(reread_now(&store, "a@2").unwrap().image, "a@3");
    assert_eq!((store.versions("a").unwrap(), store.versions("old").unwrap()), (vec![1, 2, 3], vec![1]));
    let error = reread_now(&store, "a@9").unwrap_err();
    assert_eq!(error.code(), Code::Input, "{error}");
}

#[test]
fn what_an_edit_made_is_described_as_an_import_would() {
    let work = work_folder();
    fs::copy(repo().join("fixtures/demo.qcow2"), work.at("web.qcow2")).unwrap();
    run(&mut work.mif(&["import", "web.qcow2"]));
    run(&mut work.mif(&[
        "customize",
        "web",
        "--as",
        "new",
        "--hostname",
        "new",
        "--write",
        "/etc/motd:hello",
    ]));
    for image in ["web", "new"] {
        let said = run(&mut work.mif(&["reread", image]));
        assert_eq!(said, format!("{image}@1: already described by today's readers\n"));
    }
    let report = json(&work.at("store"), &["reread", "new"]);
    assert_eq!((&report["result"], &report["image"]), (&"unchanged".into(), &"new@1".into()));
    let said = run(&mut work.mif(&["reread", "new", "--as", "copy"]));
    assert_eq!(said, "new@1: already described by today's readers\n");
    let log = json(&work.at("store"), &["log"]);
    assert_eq!(log["versions"].as_array().unwrap().len(), 2, "{log}");
}

#[test]
fn a_damaged_image_is_not_published_and_the_others_are() {
    let work = work_folder();
    imported_before(&work, 7);
    fs::copy(repo().join("fixtures/demo.qcow2"), work.at("web.qcow2")).unwrap();
    let pack = files(&work.at("store/packs"), ".pack").pop().expect("there is one");
    run(&mut work.mif(&["import", "--name", "web", "web.qcow2"]));
    fs::remove_file(pack).unwrap();
    let store_path = work.at("store");
    let error = run_failing(mif(&store_path).args(["reread", "a"]), 5);
    assert!(error.starts_with("mif: ") && error.contains("fsck"), "{error}");
    let output = mif(&store_path).args(["--json", "reread", "--all"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let lines = String::from_utf8(output.stdout).unwrap();
    let events: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["started", "failed", "started", "unchanged", "summary"]);
    assert_eq!((&events[1]["image"], &events[1]["code"]), (&"a@1".into(), &5.into()));
    let summary = &events[4];
    assert_eq!(
        (&summary["failed"], &summary["unchanged"], &summary["left"]),
        (&1.into(), &1.into(), &0.into())
    );
    let table = mif(&store_path).args(["reread", "a", "web"]).output().unwrap();
    let text = String::from_utf8_lossy(&table.stdout);
    assert!(text.contains("2 images: 1 unchanged, 1 failed"), "{text}");
    assert_eq!(Store::open(&store_path, &Silent).unwrap().versions("a").unwrap(), [1]);
    // A damaged manifest does not matter: it is made anew from the disk.
    let manifest = store_path.join("images/name=web/version=1/manifest.parquet");
    fs::write(&manifest, b"no manifest").unwrap();
    assert!(run(mif(&store_path).args(["reread", "web"])).contains("already described"));
}

/// Is interrupted after some calls.
struct Impatient(AtomicU64);

impl Observer for Impatient {
    fn advance(&self, _: u64) {}

    fn interrupted(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
    }
}

impl mif::Progress for Impatient {
    fn stage(&self, _: &str, _: u64) {}
}

#[test]
fn an_interrupted_reread_loses_nothing_wherever_it_ends() {
    let work = work_folder();
    let disk = imported_before(&work, 8);
    let store = store(&work);
    let mut ended = 0;
    for calls in 0.. {
        let progress = Impatient(AtomicU64::new(calls));
        match reread(&store, &"a".parse().unwrap(), &RereadOptions::default(), &progress) {
            Ok(report) => {
                assert_eq!(report.image, "a@2");
                break;
            }
            Err(error) => assert_eq!(error.code(), Code::Interrupted, "{error}"),
        }
        ended += 1;
        assert_eq!(store.versions("a").unwrap(), [1]);
    }
    assert!(ended > 5, "{ended}");
    drop(store);
    rm_and_gc(&work, "a@1");
    let store = self::store(&work);
    assert!(fsck(&store, &Default::default(), &Silent).unwrap().clean);
    assert!(read(&store, "a", "p0:/data") == disk[1 << 20..][..300_000]);
}

/// Counts the images that ended.
#[derive(Default)]
struct Counter(AtomicU64);

impl Watch<RereadEvent> for Counter {
    fn total(&self, images: usize) {
        assert_eq!(images, 2);
    }

    fn begin<'w>(&'w self, _: &str) -> Box<dyn mif::Progress + 'w> {
        Box::new(Silent)
    }

    fn event(&self, event: RereadEvent) {
        if matches!(event, RereadEvent::Finished(_)) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_whole_library_is_reread() {
    let work = work_folder();
    imported_before(&work, 9);
    fs::write(work.at("b.raw"), synthetic::volume(10)).unwrap();
    run(&mut work.mif(&["import", "b.raw"]));
    let (store, counter) = (store(&work), Counter::default());
    let done = reread_all(&store, &[], &RereadOptions::default(), &counter).unwrap();
    assert_eq!((done.images, done.reread, done.left, counter.0.into_inner()), (2, 2, 0, 2));
    run_failing(work.mif(&["reread", "--all", "a"]).env("COLUMNS", "100"), 2);
    run_failing(&mut work.mif(&["reread", "a", "b", "--as", "c"]), 2);
    run_failing(&mut work.mif(&["reread", "none"]), 3);
}
