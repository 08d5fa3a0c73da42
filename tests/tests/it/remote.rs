//! A store in a bucket: the verbs, failures of the network, and commands that race each other.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mif_tests::bucket::{Answer, Bucket, SECRET};
use mif_tests::{WorkFolder, mif, repo, run, run_failing, work_folder};
use serde_json::Value;

fn demo() -> PathBuf {
    repo().join("fixtures/demo.qcow2")
}

/// Writes a disk of noise.
fn noise(work: &WorkFolder, name: &str, seed: u64, len: usize) -> PathBuf {
    let mut bytes = vec![0; len];
    mif_tests::random::Random(seed).fill(&mut bytes);
    let path = work.at(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// Replaces what differs from run to run: times, places, and random names.
fn normal(mut value: Value, place: &str) -> Value {
    fn walk(value: &mut Value, place: &str) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let differs = ["seconds", "checked", "inode"];
                    if differs.contains(&key.as_str()) || key.ends_with("time") || key.ends_with("_digest") {
                        *value = Value::Null;
                    }
                    walk(value, place);
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| walk(value, place)),
            Value::String(text) => *text = text.replace(place, "STORE"),
            _ => {}
        }
    }
    walk(&mut value, place);
    value
}

#[test]
fn every_verb_answers_on_a_bucket_what_it_answers_on_a_directory() {
    let Some(bucket) = Bucket::new() else { return };
    let work = work_folder();
    let (demo, noise) = (demo(), noise(&work, "noise.raw", 7, 9 << 20));
    let (demo, noise) = (demo.to_str().unwrap(), noise.to_str().unwrap());
    let url = bucket.url("library/one");
    let directory = work.at("store");
    // One time for both: the compressed size of an edited volume depends on the times in it.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().to_string();
    let both = |words: &[&str]| -> Value {
        let answer = |mut command: Command, place: &str| -> Value {
            command.current_dir(work.path()).env("SOURCE_DATE_EPOCH", &now).arg("--json").args(words);
            let output = command.output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            let error = String::from_utf8_lossy(&output.stderr).replace(place, "STORE");
            let json = serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.into_owned()));
            serde_json::json!({"exit": output.status.code(), "answer": normal(json, place), "error": error})
        };
        let remote = answer(bucket.mif("library/one"), &url);
        let local = answer(mif(&directory), directory.to_str().unwrap());
        assert_eq!(remote, local, "{words:?}");
        remote
    };
    let fine = |words: &[&str]| {
        let answer = both(words);
        assert_eq!(answer["exit"], 0, "{words:?}: {answer}");
        answer["answer"].clone()
    };
    fine(&["import", demo]);
    fine(&["import", demo]);
    fine(&["import", noise, "--verify"]);
    // `stats` lists images by the second of their import.
    std::thread::sleep(Duration::from_secs(1));
    fine(&["import", noise, "--name", "demo", "--new-version"]);
    fine(&["images"]);
    fine(&["info", "demo@1"]);
    fine(&["ls", "demo@1", "/etc"]);
    fine(&["ls", "-R", "demo@1", "/"]);
    fine(&["cat", "demo@1", "/etc/os-release"]);
    // It has none.
    both(&["packages", "demo@1"]);
    both(&["packages"]);
    assert_eq!(both(&["diff", "demo@1", "demo@2"])["exit"], 1);
    fine(&["tag", "demo@1", "golden"]);
    fine(&["tag", "demo@2", "golden"]);
    fine(&["tag", "demo@1", "golden"]);
    fine(&["log", "demo"]);
    both(&["search", "os-release"]);
    fine(&["customize", "demo@golden", "--as", "web", "--hostname", "web"]);
    fine(&["cat", "web", "/etc/hostname"]);
    fine(&["stats"]);
    fine(&["status"]);
    fine(&["verify", "demo@1", demo]);
    fine(&["verify", "--all"]);
    fine(&["fsck"]);
    assert_eq!(both(&["ls", "demo@7", "/"])["exit"], 3);
    assert_eq!(both(&["cat", "nothing", "/"])["exit"], 3);
    assert_eq!(both(&["import", noise, "--name", "../escape"])["exit"], 2);
    fine(&["update", "--from", "demo@1", "--to", "demo@1", "web", "--dry-run"]);
    fine(&["rm", "noise", "--dry-run"]);
    fine(&["rm", "noise"]);
    fine(&["rm", "demo@2"]);
    let collected = fine(&["gc"]);
    assert_eq!(collected["packs_waiting"], 0, "{collected}");
    assert!(collected["packs_dropped"].as_u64() > Some(0), "{collected}");
    fine(&["gc"]);
    fine(&["fsck"]);
    fine(&["images"]);

    for (image, out) in [("demo", "a.qcow2"), ("demo", "b.raw")] {
        run(bucket.mif("library/one").current_dir(work.path()).args(["export", image, &format!("r-{out}")]));
        run(mif(&directory).current_dir(work.path()).args(["export", image, &format!("l-{out}")]));
        run(Command::new("cmp").current_dir(work.path()).args([format!("r-{out}"), format!("l-{out}")]));
    }
    // The files of images lie under plain names, which SQL reads in place.
    let keys = bucket.keys("library/one/images/name=web/");
    for file in ["image.json", "manifest.parquet", "layout", "packages.parquet"] {
        let key = format!("library/one/images/name=web/version=1/{file}");
        assert!(keys.contains(&key), "{keys:?}");
    }
    assert!(bucket.keys("").iter().all(|key| key.starts_with("library/one/")), "{:?}", bucket.keys(""));
    // The leases are given up, and no unfinished object is left.
    let left: Vec<String> = bucket.keys("library/one/leases/");
    assert!(left.iter().all(|key| !key.trim_start_matches("library/one/leases/").contains('/')), "{left:?}");
    assert_eq!(bucket.keys("library/one/tmp/"), [""; 0]);

    // A pack vanishes, and comes back from the original.
    for key in bucket.keys("library/one/packs/") {
        bucket.request("DELETE", &key, b"");
    }
    let report = run_json(bucket.mif("library/one").args(["fsck", "--json"]), 1);
    assert_eq!(report["verdict"], "needs_originals", "{report}");
    run_failing(bucket.mif("library/one").args(["verify", "--all"]), 1);
    run_json(bucket.mif("library/one").args(["fsck", "--repair", "--json", "--from", demo]), 1);
    run(bucket.mif("library/one").args(["verify", "demo", demo]));
    run(bucket.mif("library/one").args(["rm", "web"]));
    run(bucket.mif("library/one").args(["fsck", "--repair", "--from", demo]));
    assert_eq!(run_json(bucket.mif("library/one").args(["fsck", "--json"]), 0)["verdict"], "whole");

    // Marks for directories, which consoles make, are not files.
    for mark in [
        "",
        "packs/",
        "images/",
        "images/name=web/",
        "images/name=demo/version=1/",
        "images/name=x/version=3/",
    ] {
        bucket.request("PUT", &format!("library/one/{mark}"), b"");
    }
    let images = run_json(bucket.mif("library/one").args(["images", "--json"]), 0);
    assert_eq!(images.as_array().unwrap().len(), 1, "{images}");
    run(bucket.mif("library/one").args(["gc"]));
    assert_eq!(run_json(bucket.mif("library/one").args(["fsck", "--json"]), 0)["verdict"], "whole");
    // A key that no store has is named, and nothing is removed as long as it hides others.
    bucket.request("PUT", "library/one/images//x", b"1");
    let error = run_failing(bucket.mif("library/one").args(["gc"]), 5);
    assert!(error.contains("delete it"), "{error}");
    bucket.request("DELETE", "library/one/images//x", b"");

    // A store that an import began and did not fill is removed again; another one beside it is not touched.
    bucket.request("PUT", "library/two2/packs/x", b"1");
    run_failing(bucket.mif("library/two").args(["import", "/nonexistent.raw"]), 3);
    assert_eq!(bucket.keys("library/two"), ["library/two2/packs/x"]);
    let error = run_failing(bucket.mif("library").args(["import", demo]), 3);
    assert!(error.contains("not empty, and not a store"), "{error}");
}

/// Returns the program, to be run on a store in the working directory, with what it needs for the bucket.
fn local(bucket: &Bucket, work: &WorkFolder, store: &str, words: &[&str]) -> Command {
    let mut command = mif(&work.at(store));
    bucket.set(&mut command);
    command.current_dir(work.path()).args(words);
    command
}

fn run_json(command: &mut Command, code: i32) -> Value {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{command:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_str(&text).unwrap()
}

#[test]
fn nothing_is_lost_or_half_there_when_requests_fail() {
    let Some(bucket) = Bucket::new() else { return };
    let work = work_folder();
    let noise = noise(&work, "noise.raw", 3, 20 << 20);
    let disk = noise.to_str().unwrap();
    let import = |name: &str| {
        run(bucket.mif("s").args(["import", disk, "--name", name]));
        run(bucket.mif("s").args(["verify", name, disk]));
    };
    import("first");
    let _ = bucket.take_log();

    // Every third request is refused once, in each way that a service has.
    for status in [500, 503, 429] {
        bucket.rule(move |request| match request.number % 3 {
            1 => Answer::Status(status),
            _ => Answer::Pass,
        });
        import(&format!("refused-{status}"));
    }
    // Puts happen, and their replies are lost: what is sent again meets what it wrote itself.
    let seen = Mutex::new(std::collections::BTreeMap::<String, usize>::new());
    let count = AtomicUsize::new(0);
    bucket.rule(move |request| {
        let mut seen = seen.lock().unwrap();
        let times = seen.entry(format!("{} {}", request.method, request.path)).or_default();
        *times += 1;
        match request.method == "PUT" && *times == 1 && !request.path.contains("/packs/") {
            true => {
                count.fetch_add(1, Ordering::Relaxed);
                Answer::LoseReply
            }
            false => Answer::Pass,
        }
    });
    import("lost-replies");
    // A conditional put is refused because another one is under way; and the reply to the end of an upload in parts is
    // lost, after which the upload does not exist any more.
    let (refused, lost) = (AtomicUsize::new(0), AtomicUsize::new(0));
    bucket.rule(move |request| {
        let ends = request.method == "POST" && request.path.contains("uploadId=");
        match (request.is_conditional, ends) {
            (true, _) if refused.fetch_add(1, Ordering::Relaxed) % 3 == 0 => Answer::Status(409),
            (_, true) if lost.fetch_add(1, Ordering::Relaxed) == 0 => Answer::LoseReply,
            _ => Answer::Pass,
        }
    });
    import("conflicts");
    // Bodies are cut, and answers are slow.
    let cut = AtomicUsize::new(0);
    bucket.rule(move |request| {
        match request.method == "GET" && cut.fetch_add(1, Ordering::Relaxed) % 4 == 1 {
            true => Answer::CutBody,
            false => Answer::Pass,
        }
    });
    import("cut");
    bucket.rule(|request| match request.number % 5 {
        0 => Answer::Slow(Duration::from_millis(300)),
        _ => Answer::Pass,
    });
    import("slow");
    bucket.rule(|_| Answer::Pass);
    let images = run_json(bucket.mif("s").args(["images", "--json"]), 0);
    assert_eq!(images.as_array().unwrap().len(), 8, "{images}");
    assert!(images.as_array().unwrap().iter().all(|image| image["version"] == 1), "{images}");
    run(bucket.mif("s").args(["fsck"]));

    // A service that stays down ends the command, in words and without credentials; the store is as it was.
    let before = bucket.keys("s/images/");
    bucket.rule(|request| match request.method == "PUT" && request.path.contains("/images/") {
        true => Answer::Status(403),
        false => Answer::Pass,
    });
    let error = run_failing(bucket.mif("s").args(["import", disk, "--name", "never"]), 5);
    assert!(error.contains("403") && !error.contains(SECRET) && !error.contains("AKIA"), "{error}");
    assert_eq!(bucket.keys("s/images/"), before);

    // A publisher that dies between its claim and its record leaves nothing to see, and gc removes it.
    bucket.rule(|request| match request.method == "PUT" && request.path.ends_with("/layout") {
        true => Answer::Status(403),
        false => Answer::Pass,
    });
    run_failing(bucket.mif("s").args(["import", disk, "--name", "half"]), 5);
    bucket.rule(|_| Answer::Pass);
    assert!(bucket.keys("s/images/name=half/").len() > 1);
    let images = run(bucket.mif("s").args(["images", "--json"]));
    assert!(!images.contains("half"), "{images}");
    run(bucket.mif("s").args(["rm", "first"]));
    assert_eq!(bucket.keys("s/images/name=half/"), ["s/images/name=half/version=1/claim"]);
    import("half");
    let images = run_json(bucket.mif("s").args(["images", "--json"]), 0);
    let half = images.as_array().unwrap().iter().find(|image| image["name"] == "half").unwrap();
    assert_eq!(half["version"], 2, "a number that was claimed is not used again");

    // Lists that lag: what was published just now is not taken for garbage.
    run(bucket.mif("s").args(["gc"]));
    bucket.lag(Duration::from_millis(1500));
    run(bucket.mif("s").args(["import", demo().to_str().unwrap(), "--name", "late"]));
    // It may see an image, and not yet the index of its pack. Then it keeps everything.
    let collect = || matches!(bucket.mif("s").arg("gc").output().unwrap().status.code(), Some(0 | 1));
    assert!(collect());
    run(bucket.mif("s").args(["import", demo().to_str().unwrap(), "--name", "later"]));
    assert!(collect());
    bucket.lag(Duration::ZERO);
    run(bucket.mif("s").args(["verify", "later", demo().to_str().unwrap()]));
    run(bucket.mif("s").args(["fsck"]));
}

#[test]
fn two_publishers_of_one_name_both_get_a_version_and_never_each_others_files() {
    let Some(bucket) = Bucket::new() else { return };
    publish_races(&bucket, 20);
}

/// Two commands import different disks under one name, at the same time, `times` times.
pub(crate) fn publish_races(bucket: &Bucket, times: usize) {
    let work = work_folder();
    let disks = [noise(&work, "a.raw", 1, 300 << 10), noise(&work, "b.raw", 2, 300 << 10)];
    for disk in &disks {
        run(bucket.mif("s").args(["import", disk.to_str().unwrap()]));
    }
    for round in 0..times {
        let name = format!("x{round}");
        let began: Vec<_> = disks
            .iter()
            .map(|disk| {
                let mut command = bucket.mif("s");
                command.args(["import", disk.to_str().unwrap(), "--name", &name, "--new-version", "--json"]);
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        let mut versions = Vec::new();
        for child in began {
            let output = child.wait_with_output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "round {round}: {error}");
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            let image = report["image"].as_str().unwrap();
            versions.push(image.split_once('@').unwrap().1.parse::<u64>().unwrap());
        }
        assert_ne!(versions[0], versions[1], "round {round}");
        for (disk, version) in disks.iter().zip(&versions) {
            let image = format!("{name}@{version}");
            run(bucket.mif("s").args(["verify", &image, disk.to_str().unwrap()]));
        }
    }
    run(bucket.mif("s").args(["fsck"]));
}

#[test]
fn a_server_that_ignores_conditions_is_refused_in_words() {
    let Some(bucket) = Bucket::new() else { return };
    bucket.rule(|_| Answer::IgnoreCondition);
    let error = run_failing(bucket.mif("s").args(["import", demo().to_str().unwrap()]), 5);
    assert!(error.contains("does not honour conditional puts"), "{error}");
    assert_eq!(bucket.keys(""), [""; 0]);
}

#[test]
fn a_place_that_cannot_be_used_is_refused_in_words_without_secrets() {
    let Some(bucket) = Bucket::new() else { return };
    let demo = demo();
    let fails = |store: &str, code: i32, change: &dyn Fn(&mut Command)| {
        let mut command = bucket.mif("s");
        command.env("MIF_STORE", store);
        change(&mut command);
        let error = run_failing(command.args(["import", demo.to_str().unwrap()]), code);
        assert!(!error.contains(SECRET) && !error.contains("hunter2"), "{error}");
        error
    };
    let plain = |_: &mut Command| {};
    assert!(fails("s3://u:hunter2@b/x", 2, &plain).contains("no user, password"));
    assert!(fails("http://b/x", 2, &plain).contains("no such kind of store"));
    assert!(fails("s3://b/../x", 2, &plain).contains("is not the name of a bucket"));
    let error = fails(&bucket.url("s"), 2, &|command| {
        command.env_remove("AWS_ALLOW_HTTP");
    });
    assert!(error.contains("AWS_ALLOW_HTTP"), "{error}");
    assert!(fails("s3://no-such-bucket/x", 5, &plain).contains("no-such-bucket"));
    // Azure's tokens are part of the URL that an error names.
    let error = fails("az://box/x", 5, &|command| {
        command
            .env("AZURE_STORAGE_ACCOUNT_NAME", "account")
            .env("AZURE_STORAGE_SAS_TOKEN", "sv=2022&sig=hunter2hunter2");
        command.env("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:1").env("AZURE_ALLOW_HTTP", "true");
    });
    assert!(error.contains("az://box/x") && !error.contains("sig="), "{error}");
    let shared = run_failing(bucket.mif("s").args(["import", "--shared", "0", demo.to_str().unwrap()]), 5);
    assert!(shared.contains("--shared is for directories"), "{shared}");
    let error = run_failing(bucket.mif("nothing").args(["images"]), 3);
    assert!(error.contains("no store found"), "{error}");
}

#[test]
fn a_lease_of_a_dead_machine_is_waited_for_and_then_ended_by_the_clock_of_the_store() {
    let Some(bucket) = Bucket::new() else { return };
    let work = work_folder();
    let disk = noise(&work, "a.raw", 1, 300 << 10);
    run(bucket.mif("s").args(["import", disk.to_str().unwrap()]));
    run(bucket.mif("s").args(["import", disk.to_str().unwrap(), "--name", "b"]));
    // A user that has vanished keeps removed images and packs, until its lease is over.
    let lease = |seconds: u32| format!(r#"{{"owner":"gone","turn":0,"seconds":{seconds},"free":false}}"#);
    bucket.request("PUT", "s/leases/1/0123", lease(600).as_bytes());
    run(bucket.mif("s").args(["rm", "a"]));
    run(bucket.mif("s").args(["rm", "b"]));
    let report = run_json(bucket.mif("s").args(["gc", "--json"]), 0);
    assert_eq!((&report["packs_dropped"], &report["packs_waiting"]), (&0.into(), &1.into()), "{report}");
    // The lock of a removal that has vanished is waited for, and the command says so.
    bucket.request("PUT", "s/leases/1/0123", lease(1).as_bytes());
    bucket.request("PUT", "s/lock", lease(8).as_bytes());
    let started = Instant::now();
    let output = bucket.mif("s").args(["gc", "--json"]).output().unwrap();
    assert!(output.status.success() && started.elapsed() > Duration::from_secs(3), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["packs_dropped"], &report["packs_waiting"]), (&1.into(), &0.into()), "{report}");
    assert_eq!(bucket.keys("s/packs/"), [""; 0]);
    assert_eq!(bucket.keys("s/leases/1/"), [""; 0]);
}

#[test]
fn the_cache_serves_what_does_not_change_and_damage_to_it_does_no_harm() {
    let Some(bucket) = Bucket::new() else { return };
    let demo = demo();
    run(bucket.mif("s").args(["import", demo.to_str().unwrap()]));
    let cold = |bucket: &Bucket| {
        fs::remove_dir_all(bucket.cache()).unwrap();
        let _ = bucket.take_log();
        run(bucket.mif("s").args(["ls", "demo", "/etc"]));
        bucket.take_log()
    };
    let log = cold(&bucket);
    assert!(log.len() < 20, "{} requests: {log:#?}", log.len());
    run(bucket.mif("s").args(["cat", "demo", "/etc/os-release"]));
    let _ = bucket.take_log();
    run(bucket.mif("s").args(["cat", "demo", "/etc/os-release"]));
    let log = bucket.take_log();
    assert!(log.iter().all(|request| !request.path.contains("/packs/")), "{log:#?}");
    for (path, len) in mif_tests::snapshot(bucket.cache()) {
        fs::write(path, vec![7; usize::try_from(len).unwrap()]).unwrap();
    }
    run(bucket.mif("s").args(["verify", "demo", demo.to_str().unwrap()]));
    run(bucket.mif("s").args(["cat", "demo", "/etc/os-release"]));
    // What the cache has does not hide that the bucket has lost it.
    for key in bucket.keys("s/packs/") {
        bucket.request("DELETE", &key, b"");
    }
    run_failing(bucket.mif("s").args(["verify", "demo", demo.to_str().unwrap()]), 5);
    assert_eq!(bucket.mif("s").args(["fsck"]).output().unwrap().status.code(), Some(1));
    // No file of the cache can be read by others.
    use std::os::unix::fs::PermissionsExt;
    for (path, _) in mif_tests::snapshot(bucket.cache()) {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
    }
}

/// One after the other, twenty indexes of a store that is 20 ms away take 0.4 s before a command begins.
#[test]
fn the_indexes_of_a_bucket_are_asked_for_together() {
    let Some(bucket) = Bucket::new() else { return };
    let work = work_folder();
    for seed in 0..12 {
        let disk = noise(&work, &format!("disk{seed}.raw"), seed, 100 << 10);
        run(bucket.mif("s").args(["import", "-q"]).arg(disk));
    }
    let arrived = Arc::new(Mutex::new(Vec::new()));
    let of_rule = arrived.clone();
    bucket.rule(move |request| {
        if request.method != "GET" || !request.path.ends_with(".idx") {
            return Answer::Pass;
        }
        of_rule.lock().unwrap().push(Instant::now());
        Answer::Slow(Duration::from_secs(1))
    });
    // Without the files that this machine has kept of the bucket.
    let empty = work.at("no-cache");
    run(bucket.mif("s").env("XDG_CACHE_HOME", empty).args(["stats"]));
    let arrived = arrived.lock().unwrap();
    assert!(arrived.len() >= 12, "they are all read");
    let before_an_answer = arrived.iter().filter(|time| time.duration_since(arrived[0]).as_millis() < 900);
    assert!(before_an_answer.count() >= 8, "{arrived:?}");
}

#[test]
fn a_command_that_was_taken_for_dead_stops_before_it_publishes() {
    let Some(bucket) = Bucket::new() else { return };
    let work = work_folder();
    let disk = noise(&work, "a.raw", 1, 300 << 10);
    let disk = disk.to_str().unwrap();
    run(bucket.mif("s").args(["import", disk]));
    // While it writes its pack, another command ends its lease.
    let is_ended = AtomicBool::new(false);
    let bucket = std::sync::Arc::new(bucket);
    let other = std::sync::Arc::downgrade(&bucket);
    bucket.rule(move |request| {
        if request.method == "PUT"
            && request.path.ends_with("/claim")
            && !is_ended.swap(true, Ordering::Relaxed)
        {
            let bucket = other.upgrade().unwrap();
            for key in bucket.keys("s/leases/1/") {
                bucket.request("PUT", &key, br#"{"owner":"","turn":9,"seconds":1,"free":true}"#);
            }
        }
        Answer::Pass
    });
    let error = run_failing(bucket.mif("s").args(["import", disk, "--name", "b"]), 5);
    assert!(error.contains("did not renew its lease in time"), "{error}");
    bucket.rule(|_| Answer::Pass);
    let images = run(bucket.mif("s").args(["images", "--json"]));
    assert!(!images.contains("\"b\""), "{images}");
}

#[test]
fn a_copy_sends_only_what_is_missing_and_brings_versions_tags_and_origins() {
    let Some(bucket) = Bucket::new() else { return };
    let work = work_folder();
    let (demo, noise) = (demo(), noise(&work, "noise.raw", 5, 6 << 20));
    let (demo, noise) = (demo.to_str().unwrap(), noise.to_str().unwrap());
    let url = bucket.url("s");
    let local = |store: &str, words: &[&str]| local(&bucket, &work, store, words);
    run(&mut local("a", &["import", demo, "--name", "web"]));
    run(&mut local("a", &["import", noise, "--name", "web", "--new-version"]));
    run(&mut local("a", &["tag", "web@1", "golden"]));
    run(&mut local("a", &["import", noise, "--name", "other"]));
    let copied = |store: &str, words: &[&str], code: i32| run_json(local(store, words).arg("--json"), code);

    let first = copied("a", &["push", "web", "--to", &url], 0);
    assert_eq!(first["images"].as_array().unwrap().len(), 2, "{first}");
    assert_eq!(first["tags"], serde_json::json!(["web@golden"]));
    assert!(first["bytes_sent"].as_u64() > Some(6 << 20), "{first}");
    let again = copied("a", &["push", "web", "--to", &url], 0);
    assert_eq!((&again["bytes_sent"], &again["objects"]), (&0.into(), &0.into()), "{again}");
    assert_eq!(again["images"][0]["result"], "unchanged", "{again}");
    // Content that is there in another image is not sent again.
    let other = copied("a", &["push", "other", "--to", &url], 0);
    assert!(other["bytes_sent"].as_u64() < Some(100_000), "{other}");
    assert!(other["bytes_saved"].as_u64() >= Some(6 << 20), "{other}");

    // What was made in the bucket comes back with its origin.
    run(bucket.mif("s").args(["customize", "web@golden", "--as", "made", "--write", "/etc/x:y"]));
    let made = copied("b", &["pull", "made", "--from", &url], 0);
    assert_eq!(made["images"][0]["result"], "copied", "{made}");
    let log = run_json(&mut local("b", &["log", "made", "--json"]), 0);
    assert!(log.to_string().contains("web@1"), "{log}");
    let error = run_failing(&mut local("b", &["pull", "made", "--only", "x", "--from", &url]), 2);
    assert!(error.contains("not both"), "{error}");
    let error = run_failing(&mut local("b", &["pull", "--from", &url]), 2);
    assert!(error.contains("--all"), "{error}");
}

#[test]
fn copies_between_directories_and_buckets_are_the_same_images() {
    let Some(bucket) = Bucket::new() else { return };
    let work = work_folder();
    let demo = demo();
    let url = bucket.url("s");
    let local = |store: &str, words: &[&str]| local(&bucket, &work, store, words);
    run(&mut local("a", &["import", demo.to_str().unwrap(), "--name", "web"]));
    run(&mut local("a", &["customize", "web", "--as", "made", "--write", "/etc/x:y"]));
    run(&mut local("a", &["tag", "made", "golden"]));
    run(&mut local("a", &["push", "--all", "--to", &url]));
    run(&mut local("b", &["pull", "--all", "--from", &url]));
    run(&mut local("unused", &["copy", "--all", "--from", "b", "--to", "c"]));
    let told = |store: &str, words: &[&str]| run_json(local(store, words).arg("--json"), 0);
    for words in [&["images"][..], &["log"], &["ls", "-R", "made", "/"], &["info", "web"]] {
        let expected = told("a", words);
        assert_eq!(told("b", words), expected, "{words:?}");
        assert_eq!(told("c", words), expected, "{words:?}");
        assert_eq!(run_json(bucket.mif("s").args(words).arg("--json"), 0), expected, "{words:?}");
    }
    for store in ["b", "c"] {
        run(&mut local(store, &["fsck"]));
        run(&mut local(store, &["verify", "web", demo.to_str().unwrap()]));
    }
    // Another image of that name and version, and a version that was removed, are left as they are.
    run(&mut local("d", &["import", demo.to_str().unwrap(), "--name", "made"]));
    let report = run_json(&mut local("d", &["pull", "--all", "--from", "c", "--json"]), 1);
    let results: Vec<&str> =
        report["images"].as_array().unwrap().iter().map(|image| image["result"].as_str().unwrap()).collect();
    assert_eq!(results, ["failed", "copied"], "{report}");
    run(&mut local("d", &["rm", "web"]));
    let error = run_failing(&mut local("d", &["pull", "web", "--from", "c"]), 1);
    assert!(error.contains("this version was removed"), "{error}");
    let error = run_failing(&mut local("d", &["pull", "--all", "--from", work.at("d").to_str().unwrap()]), 2);
    assert!(error.contains("both the store to read and the store to write"), "{error}");

    // A damaged object does not travel, and its image is not published.
    for pack in mif_tests::files(&work.at("a"), ".pack") {
        let mut bytes = fs::read(&pack).unwrap();
        for byte in bytes.iter_mut().skip(100).step_by(200) {
            *byte ^= 1;
        }
        fs::set_permissions(&pack, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        fs::write(&pack, bytes).unwrap();
    }
    let report = run_json(&mut local("a", &["push", "web", "--to", "e", "--json"]), 1);
    assert_eq!(report["images"][0]["result"], "failed", "{report}");
    assert_eq!(run_json(&mut local("e", &["images", "--json"]), 0), serde_json::json!([]));
}

#[test]
fn a_copy_that_was_interrupted_goes_on_where_it_ended() {
    let Some(bucket) = Bucket::new() else { return };
    let work = work_folder();
    let noise = noise(&work, "noise.raw", 9, 140 << 20);
    let url = bucket.url("s");
    run(mif(&work.at("a")).args(["import", noise.to_str().unwrap()]));
    let mut push = mif(&work.at("a"));
    bucket.set(&mut push);
    push.args(["push", "noise", "--to", &url, "--json"]);
    let parts = AtomicUsize::new(0);
    bucket.rule(move |request| {
        let is_part = request.method == "PUT" && request.path.contains("partNumber");
        match is_part && parts.fetch_add(1, Ordering::Relaxed) > 11 {
            true => Answer::Status(403),
            false => Answer::Pass,
        }
    });
    let report = run_json(&mut push, 1);
    assert_eq!(report["images"][0]["result"], "failed", "{report}");
    assert_eq!(run_json(bucket.mif("s").args(["images", "--json"]), 0), serde_json::json!([]));
    bucket.rule(|_| Answer::Pass);
    let report = run_json(&mut push, 0);
    let sent = report["bytes_sent"].as_u64().unwrap();
    assert!(sent > 60 << 20 && sent < 90 << 20, "{report}");
    run(bucket.mif("s").args(["verify", "noise", noise.to_str().unwrap()]));
}

#[test]
fn who_may_only_read_a_bucket_reads_the_store_and_is_warned() {
    let Some(bucket) = Bucket::new() else { return };
    let demo = demo();
    run(bucket.mif("s").args(["import", demo.to_str().unwrap()]));
    bucket.rule(|request| match request.method.as_str() {
        "GET" | "HEAD" => Answer::Pass,
        _ => Answer::Status(403),
    });
    let output = bucket.mif("s").args(["cat", "demo", "/etc/os-release"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && error.contains("cannot be locked"), "{error}");
    let error = run_failing(bucket.mif("s").args(["rm", "demo"]), 5);
    assert!(error.contains("403"), "{error}");
    bucket.rule(|_| Answer::Pass);
    run(bucket.mif("s").args(["verify", "demo", demo.to_str().unwrap()]));
}
