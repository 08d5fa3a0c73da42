//! Maintaining a store: versions, tags, removal, garbage collection, and finding and repairing damage.

use std::fs;
use std::path::{Path, PathBuf};

use mif_formats::mif::manifest::columns::{Column, Columns};
use mif_tests::{WorkFolder, mif, repo, run, run_failing, snapshot, work_folder};
use serde_json::Value;

/// A store with two different disks, `demo` and `noise`.
struct Fixture {
    work: WorkFolder,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Fixture { work: work_folder() };
        let mut noise = vec![0; 3 << 20];
        mif_tests::random::Random(7).fill(&mut noise);
        fs::write(fixture.at("noise.raw"), noise).unwrap();
        fixture.mif(&["import", repo().join("fixtures/demo.qcow2").to_str().unwrap()]);
        fixture.mif(&["import", fixture.at("noise.raw").to_str().unwrap()]);
        fixture
    }

    fn at(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    fn store(&self) -> PathBuf {
        self.at("store")
    }

    fn mif(&self, arguments: &[&str]) -> String {
        run(mif(&self.store()).args(arguments))
    }

    fn packs(&self) -> Vec<(PathBuf, u64)> {
        let is_pack = |path: &Path| path.extension().is_some_and(|e| e == "pack");
        snapshot(&self.store()).into_iter().filter(|(path, _)| is_pack(path)).collect()
    }

    fn pack_bytes(&self) -> u64 {
        self.packs().iter().map(|(_, len)| len).sum()
    }

    fn names(&self) -> Vec<String> {
        let images: Value = serde_json::from_str(&self.mif(&["images", "--json"])).unwrap();
        images
            .as_array()
            .unwrap()
            .iter()
            .map(|i| format!("{}@{}", i["name"].as_str().unwrap(), i["version"]))
            .collect()
    }

    /// Asserts that the demo disk is still whole.
    fn demo_is_whole(&self) {
        self.mif(&["verify", "demo", repo().join("fixtures/demo.qcow2").to_str().unwrap()]);
        self.mif(&["cat", "demo", "/etc/os-release"]);
    }
}

#[test]
fn what_is_removed_is_freed_by_gc_and_the_rest_stays_whole() {
    let fixture = Fixture::new();
    let before = fixture.pack_bytes();
    fixture.mif(&["gc"]);
    assert_eq!(fixture.pack_bytes(), before, "nothing is garbage yet");
    fixture.mif(&["rm", "noise"]);
    assert_eq!(fixture.names(), ["demo@1"]);
    assert_eq!(fixture.pack_bytes(), before, "rm frees nothing by itself");
    let dry = snapshot(&fixture.store());
    fixture.mif(&["gc", "--dry-run"]);
    assert_eq!(snapshot(&fixture.store()), dry);
    fixture.mif(&["gc"]);
    assert!(fixture.pack_bytes() < before - (3 << 20) + 4096, "{} of {before}", fixture.pack_bytes());
    fixture.demo_is_whole();
    fixture.mif(&["fsck"]);
    // The same disk returns under a new number, intact.
    fixture.mif(&["import", "--verify", fixture.at("noise.raw").to_str().unwrap()]);
    assert_eq!(fixture.names(), ["demo@1", "noise@2"]);
}

#[test]
fn gc_keeps_what_is_asked_for_and_what_has_a_tag() {
    let fixture = Fixture::new();
    for byte in 1..4 {
        let mut disk = fs::read(fixture.at("noise.raw")).unwrap();
        disk[5000] = byte;
        fs::write(fixture.at("noise.raw"), disk).unwrap();
        fixture.mif(&["import", fixture.at("noise.raw").to_str().unwrap()]);
    }
    fixture.mif(&["tag", "noise@2", "golden"]);
    fixture.mif(&["gc", "--keep-last", "1"]);
    assert_eq!(fixture.names(), ["demo@1", "noise@2", "noise@4"]);
    run_failing(mif(&fixture.store()).args(["rm", "noise@golden"]), 2);
    fixture.mif(&["verify", "noise", fixture.at("noise.raw").to_str().unwrap()]);
    fixture.mif(&["export", "noise@golden", fixture.at("golden.raw").to_str().unwrap()]);
    assert_eq!(fs::read(fixture.at("golden.raw")).unwrap()[5000], 1);
    assert!(fixture.mif(&["log", "noise"]).contains("golden"));
}

#[test]
fn fsck_says_what_a_damaged_pack_costs_and_takes_it_back_from_the_disk() {
    let fixture = Fixture::new();
    assert!(fixture.mif(&["fsck"]).len() > 10);
    // The larger pack is the noise's.
    let (pack, len) = fixture.packs().into_iter().max_by_key(|(_, len)| *len).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[len as usize / 2] ^= 1;
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, bytes).unwrap();
    let output = mif(&fixture.store()).arg("fsck").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("noise@1") && !said.contains("demo@1"), "{said}");
    fixture.demo_is_whole();
    fixture.mif(&["fsck", "--repair", "--from", fixture.at("noise.raw").to_str().unwrap()]);
    fixture.mif(&["fsck"]);
    fixture.mif(&["verify", "noise", fixture.at("noise.raw").to_str().unwrap()]);
}

#[test]
fn a_lost_index_is_made_again_from_its_pack() {
    let fixture = Fixture::new();
    fs::remove_dir_all(fixture.store().join("index")).unwrap();
    run_failing(mif(&fixture.store()).arg("fsck"), 1);
    fixture.mif(&["fsck", "--repair"]);
    fixture.mif(&["fsck"]);
    fixture.demo_is_whole();
}

#[test]
fn a_damaged_table_is_found_and_made_again() {
    let fixture = Fixture::new();
    for name in ["digests", "packages.parquet"] {
        let table = fixture.store().join("images/name=demo/version=1").join(name);
        let whole = fs::read(&table).unwrap();
        let mut bad = whole.clone();
        *bad.last_mut().unwrap() ^= 1;
        fs::remove_file(&table).unwrap();
        fs::write(&table, bad).unwrap();
        run_failing(mif(&fixture.store()).arg("fsck"), 1);
        fixture.mif(&["fsck", "--repair"]);
        assert!(fs::read(&table).unwrap() == whole, "{name}");
        fs::remove_file(&table).unwrap();
        run_failing(mif(&fixture.store()).arg("fsck"), 1);
        fixture.mif(&["fsck", "--repair"]);
        assert!(fs::read(&table).unwrap() == whole, "{name}");
        fixture.mif(&["fsck"]);
    }
}

/// On some damage the Parquet reader panics: users see what is damaged, and nothing of the panic.
#[test]
fn a_manifest_that_makes_its_reader_panic_is_told_as_damage() {
    const SAID: &str = "is damaged and cannot be decoded";
    let fixture = Fixture::new();
    let path = fixture.store().join("images/name=demo/version=1/manifest.parquet");
    let whole = fs::read(&path).unwrap();
    let changes = (0..whole.len()).flat_map(|at| [1, 0x7f, 0x81].map(|value| (at, value)));
    let mut mutants = changes.map(|(at, value)| {
        let mut bad = whole.clone();
        bad[at] = value;
        bad
    });
    let panics = |bad: &Vec<u8>| {
        let Ok(columns) = Columns::open(bytes::Bytes::from(bad.clone())) else { return false };
        let read = columns.groups().try_for_each(|group| group.each_text(Column::Path, |_| {}));
        read.is_err_and(|error| error.to_string().contains(SAID))
    };
    let bad = mutants.find(panics).expect("some byte makes it panic");
    fs::remove_file(&path).unwrap();
    fs::write(&path, bad).unwrap();
    let output = mif(&fixture.store()).args(["search", "/etc/**"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(error.contains("demo@1") && error.contains(SAID) && !error.contains("panicked"), "{error}");
}
