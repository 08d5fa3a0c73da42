//! Batches that several processes divide among themselves: by shards, and by claims.

mod engines;
mod library;
mod questions;
mod reports;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mif_tests::bucket::Bucket;
use mif_tests::{WorkFolder, files, mif, run, run_failing, work_folder};
use serde_json::Value;

/// A directory with disks of noise, each with its own.
struct Lab {
    work: WorkFolder,
    names: Vec<String>,
}

impl Lab {
    fn new(count: u64) -> Self {
        let work = work_folder();
        let library = work.at("library");
        fs::create_dir(&library).unwrap();
        let names: Vec<String> = (0..count).map(|n| format!("disk-{n}")).collect();
        for (seed, name) in (1..).zip(&names) {
            disk(&library.join(format!("{name}.raw")), seed, 600 << 10);
        }
        Lab { work, names }
    }

    fn library(&self) -> PathBuf {
        self.work.at("library")
    }

    fn store(&self) -> PathBuf {
        self.work.at("store")
    }
}

fn disk(path: &Path, seed: u64, len: usize) {
    let mut bytes = vec![0; len];
    mif_tests::random::Random(seed).fill(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Starts a command that prints events.
fn start(mut command: Command, words: &[&str]) -> Child {
    command.arg("--json").args(words);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Returns the exit code and the events of a command that has ended.
fn ended(child: Child) -> (i32, Vec<Value>) {
    let output = child.wait_with_output().unwrap();
    // Shown if the test fails.
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let events = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (output.status.code().expect("it was not killed"), events)
}

/// Returns how often each image ended with each event.
fn counted(all: &[(i32, Vec<Value>)]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for event in all.iter().flat_map(|(_, events)| events) {
        let event = event["event"].as_str().unwrap();
        if !["started", "passed_over", "summary"].contains(&event) {
            *counts.entry(event.to_owned()).or_default() += 1;
        }
    }
    counts
}

fn images(command: &mut Command) -> BTreeSet<String> {
    let images: Value = serde_json::from_str(&run(command.args(["--json", "images"]))).unwrap();
    images
        .as_array()
        .unwrap()
        .iter()
        .map(|image| format!("{}@{}", image["name"].as_str().unwrap(), image["version"]))
        .collect()
}

#[test]
fn the_shards_of_a_batch_are_disjoint_and_together_all_of_it() {
    let lab = Lab::new(12);
    let (library, store) = (lab.library(), lab.store());
    let library = library.to_str().unwrap();
    let mut seen = BTreeSet::new();
    for shard in 0..3 {
        let (code, events) =
            ended(start(mif(&store), &["import", library, "--shard", &format!("{shard}/3")]));
        assert_eq!(code, 0);
        for event in events.iter().filter(|event| event["event"] == "finished") {
            assert!(seen.insert(event["image"].as_str().unwrap().to_owned()), "{event}");
        }
        assert_eq!(events.last().unwrap()["images"], events.last().unwrap()["imported"]);
    }
    assert_eq!(seen.len(), 12);
    assert_eq!(images(&mut mif(&store)), seen);
    // A shard of few images may have none, and that is no failure.
    let one = lab.work.at("library/disk-0.raw");
    let shards = (0..50).map(|n| {
        ended(start(mif(&store), &["import", one.to_str().unwrap(), "--shard", &format!("{n}/50")]))
    });
    let codes_and_counts: Vec<(i32, u64)> =
        shards.map(|(code, events)| (code, events.last().unwrap()["images"].as_u64().unwrap())).collect();
    assert!(codes_and_counts.iter().all(|(code, _)| *code == 0));
    assert_eq!(codes_and_counts.iter().map(|(_, images)| images).sum::<u64>(), 1);
    // The same images are in the same shards of an export.
    let mut exported = BTreeSet::new();
    for shard in 0..3 {
        let out = lab.work.at(&format!("out-{shard}"));
        let words =
            ["export", "--all", out.to_str().unwrap(), "--format", "raw", "--shard", &format!("{shard}/3")];
        assert_eq!(ended(start(mif(&store), &words)).0, 0);
        for file in files(&out, ".raw") {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            assert_eq!(fs::read(&file).unwrap(), fs::read(lab.library().join(&name)).unwrap(), "{name}");
            assert!(exported.insert(name));
        }
    }
    assert_eq!(exported.len(), 12);
    let bad = run_failing(mif(&store).args(["import", library, "--shard", "3/3"]), 2);
    assert!(bad.contains("invalid shard \"3/3\"") && bad.contains("0/4"), "{bad}");
    run_failing(mif(&store).args(["import", library, "--shard", "0/3", "--claim"]), 2);
    let bad = run_failing(mif(&store).args(["verify", "disk-0", "disk-1", "--shard", "0/3"]), 2);
    assert!(bad.contains("need --all"), "{bad}");
}

/// Verifies each shard, and returns the exit codes and the reports.
fn verified(store: &Path, shards: usize) -> Vec<(i32, Value)> {
    let verify = |n| {
        let (code, mut events) =
            ended(start(mif(store), &["verify", "--all", "--shard", &format!("{n}/{shards}")]));
        (code, events.pop().unwrap())
    };
    (0..shards).map(verify).collect()
}

#[test]
fn what_is_damaged_is_found_by_the_shard_that_has_it_and_named_for_every_image() {
    let lab = Lab::new(6);
    let store = lab.store();
    for name in &lab.names {
        run(mif(&store).arg("import").arg(lab.library().join(format!("{name}.raw"))));
    }
    let packs = files(&store.join("packs"), ".pack");
    let clean = verified(&store, 4);
    assert!(clean.iter().all(|(code, report)| *code == 0 && report["good"] == true), "{clean:?}");
    let sum = |key: &str| clean.iter().map(|(_, report)| report[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("packs"), packs.len() as u64);
    let whole: Value = serde_json::from_str(&run(mif(&store).args(["--json", "verify", "--all"]))).unwrap();
    assert_eq!(sum("objects"), whole["objects"].as_u64().unwrap());
    let images = |report: &Value| report["images"].as_array().unwrap().len();
    assert_eq!(clean.iter().map(|(_, report)| images(report)).sum::<usize>(), 6);
    assert_eq!(whole["shards"], serde_json::json!(["0/1"]));
    // Each pack in turn: exactly one shard fails, and says which image has lost something.
    for pack in &packs {
        let bytes = fs::read(pack).unwrap();
        let mut bad = bytes.clone();
        bad[bytes.len() / 3] ^= 1;
        fs::write(pack, &bad).unwrap();
        let reports = verified(&store, 4);
        let failed: Vec<&Value> =
            reports.iter().filter(|(code, _)| *code == 1).map(|(_, report)| report).collect();
        assert_eq!(failed.len(), 1, "{reports:?}");
        let lost =
            failed[0]["images"].as_array().unwrap().iter().filter(|image| image["whole"] == false).count();
        assert_eq!(lost, 1, "{failed:?}");
        fs::write(pack, &bytes).unwrap();
    }
    // A damaged index file costs no image anything, because its pack ends with the same index.
    let index = files(&store.join("index"), ".idx").swap_remove(0);
    let bytes = fs::read(&index).unwrap();
    fs::write(&index, b"no index").unwrap();
    let reports = verified(&store, 4);
    assert_eq!(reports.iter().filter(|(code, _)| *code == 1).count(), 1, "{reports:?}");
    let images = reports.iter().flat_map(|(_, report)| report["images"].as_array().unwrap());
    assert!(images.into_iter().all(|image| image["whole"] == true), "{reports:?}");
    fs::write(&index, &bytes).unwrap();
    // A damaged record is found by the shard of its image.
    let layout = store.join("images/name=disk-3/version=1/layout");
    fs::write(&layout, b"no layout").unwrap();
    assert_eq!(verified(&store, 4).iter().filter(|(code, _)| *code == 1).count(), 1);
    // No part of the store has been checked as a whole.
    let status = mif(&store).args(["--json", "status"]).output().unwrap();
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["checked"]["verdict"], "whole", "{status}");
}

/// Runs the same command several times at once.
fn together(command: &dyn Fn() -> Command, count: usize, words: &[&str]) -> Vec<(i32, Vec<Value>)> {
    let children: Vec<Child> = (0..count).map(|_| start(command(), words)).collect();
    children.into_iter().map(ended).collect()
}

fn share_an_import(lab: &Lab, command: &dyn Fn() -> Command) {
    let library = lab.library();
    let all = together(command, 4, &["import", library.to_str().unwrap(), "--claim"]);
    assert!(all.iter().all(|(code, _)| *code == 0), "{all:?}");
    let counts = counted(&all);
    // Whoever takes an image whose import has ended before it was taken finds it unchanged, without reading it.
    assert_eq!(counts["finished"], lab.names.len(), "{counts:?}");
    assert_eq!(counts.values().sum::<usize>(), 4 * lab.names.len(), "{counts:?}");
    let images = images(&mut command());
    assert_eq!(images.len(), lab.names.len(), "{images:?}");
    assert!(images.iter().all(|image| image.ends_with("@1")), "{images:?}");
    // Later, everything is looked at again.
    disk(&library.join("disk-0.raw"), 99, 600 << 10);
    let again = together(command, 1, &["import", library.to_str().unwrap(), "--claim"]);
    assert_eq!((again[0].0, &counted(&again)["finished"]), (0, &1));
    assert_eq!(counted(&again)["skipped"], lab.names.len() - 1);
    // A named run is done once.
    let named = || together(command, 2, &["import", library.to_str().unwrap(), "--claim=monday"]);
    named();
    assert_eq!(counted(&named()), BTreeMap::from([("elsewhere".to_owned(), 2 * lab.names.len())]));
    run(command().args(["verify", "--all"]));
    run(command().arg("fsck"));
}

#[test]
fn processes_that_claim_images_import_each_once() {
    let lab = Lab::new(8);
    let store = lab.store();
    share_an_import(&lab, &|| mif(&store));
    let gc: Value = serde_json::from_str(&run(mif(&store).args(["--json", "gc"]))).unwrap();
    assert!(gc["unfinished"].as_u64().unwrap() > 0 && gc["strangers"].as_array().unwrap().is_empty(), "{gc}");
    assert!(fs::read_dir(store.join("work")).unwrap().next().is_none());
}

#[test]
fn processes_that_claim_images_import_each_once_into_a_bucket() {
    let Some(bucket) = Bucket::new() else { return };
    share_an_import(&Lab::new(4), &|| bucket.mif("s"));
}

#[test]
fn an_image_whose_importer_was_killed_is_taken_again() {
    let lab = Lab::new(0);
    let (library, store) = (lab.library(), lab.store());
    // The first takes long enough to be killed.
    disk(&library.join("large.raw"), 1, 300 << 20);
    disk(&library.join("small.raw"), 2, 1 << 20);
    let library = library.to_str().unwrap();
    let mut killed = start(mif(&store), &["import", library, "--claim"]);
    let held = store.join("work/import/held/large");
    let started = Instant::now();
    while !held.exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "it takes no image");
        std::thread::sleep(Duration::from_millis(1));
    }
    let other = start(mif(&store), &["import", library, "--claim"]);
    std::thread::sleep(Duration::from_millis(50));
    killed.kill().unwrap();
    killed.wait().unwrap();
    let (code, events) = ended(other);
    assert_eq!(code, 0, "{events:?}");
    assert_eq!(images(&mut mif(&store)), BTreeSet::from(["large@1".to_owned(), "small@1".to_owned()]));
    run(mif(&store).args(["verify", "large", &format!("{library}/large.raw")]));
    run(mif(&store).args(["gc"]));
    run(mif(&store).args(["fsck"]));
}

#[test]
fn an_image_that_a_dead_machine_holds_in_a_bucket_is_taken_when_its_lease_ends_by_the_clock_of_the_store() {
    let Some(bucket) = Bucket::new() else { return };
    let lab = Lab::new(2);
    run(bucket.mif("s/x").args(["import", lab.library().join("disk-0.raw").to_str().unwrap()]));
    let lease = r#"{"owner":"gone","turn":0,"seconds":8,"free":false}"#;
    bucket.request("PUT", "s/x/work/import.weekly/held/disk-1", lease.as_bytes());
    bucket.request("PUT", "s/x/work/import.weekly/workers/0123", lease.as_bytes());
    let started = Instant::now();
    let all =
        together(&|| bucket.mif("s/x"), 1, &["import", lab.library().to_str().unwrap(), "--claim=weekly"]);
    assert_eq!(all[0].0, 0, "{all:?}");
    assert!(started.elapsed() > Duration::from_secs(5), "it did not wait");
    assert_eq!(images(&mut bucket.mif("s/x")).len(), 2);
}

#[test]
fn a_library_is_verified_and_exported_by_several_processes_together() {
    let lab = Lab::new(6);
    let store = lab.store();
    for name in &lab.names {
        run(mif(&store).arg("import").arg(lab.library().join(format!("{name}.raw"))));
    }
    let verified = together(&|| mif(&store), 3, &["verify", "--all", "--claim=v1"]);
    let reports: Vec<&Value> =
        verified.iter().map(|(code, events)| (*code == 0).then(|| &events[0]).unwrap()).collect();
    let shards: Vec<&str> = reports
        .iter()
        .flat_map(|report| report["shards"].as_array().unwrap())
        .map(|shard| shard.as_str().unwrap())
        .collect();
    assert_eq!((shards.len(), shards.iter().collect::<BTreeSet<_>>().len()), (64, 64), "{shards:?}");
    let images = |report: &&Value| report["images"].as_array().unwrap().len();
    assert_eq!(reports.iter().map(images).sum::<usize>(), 6);
    let packs = files(&store.join("packs"), ".pack");
    assert_eq!(
        reports.iter().map(|report| report["packs"].as_u64().unwrap()).sum::<u64>(),
        packs.len() as u64
    );
    let mut bytes = fs::read(&packs[2]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&packs[2], &bytes).unwrap();
    // All of it has been done in this run, and in another one the damage is found by whoever gets it.
    let done = run(mif(&store).args(["verify", "--all", "--claim=v1"]));
    assert!(done.contains("others have checked every shard"), "{done}");
    let verified = together(&|| mif(&store), 2, &["verify", "--all", "--claim=v2"]);
    assert_eq!(verified.iter().filter(|(code, _)| *code == 1).count(), 1, "{verified:?}");
    bytes[middle] ^= 4;
    fs::write(&packs[2], &bytes).unwrap();

    let out = lab.work.at("out");
    let words = ["export", "--all", out.to_str().unwrap(), "--format", "raw", "--claim=e1"];
    let exported = together(&|| mif(&store), 3, &words);
    assert!(exported.iter().all(|(code, _)| *code == 0), "{exported:?}");
    assert_eq!(counted(&exported)["finished"], 6);
    assert_eq!(counted(&exported).values().sum::<usize>(), 18);
    for name in &lab.names {
        let (file, original) = (format!("{name}.raw"), lab.library().join(format!("{name}.raw")));
        assert_eq!(fs::read(out.join(file)).unwrap(), fs::read(original).unwrap(), "{name}");
    }
}
