//! What went wrong for others who divide work among machines, with the smallest input of each report.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use mif_tests::{files, mif, run, run_failing};

use super::{Lab, disk, ended, images, start, together};

#[test]
fn a_shard_or_a_run_that_nobody_has_set_is_refused_and_nothing_is_imported() {
    let lab = Lab::new(1);
    let (library, store) = (lab.library(), lab.store());
    for flag in [
        // A child of an array job was not told its index (localstack/localstack#11439), and none is told how many there are
        // (aws/containers-roadmap#1631).
        "--shard=/8",
        "--shard=3/",
        "--shard=3",
        // A container gets a reference to an unknown variable as it is written (kubernetes/website#21811).
        "--shard=$(JOB_COMPLETION_INDEX)/8",
        // GitLab counts nodes from 1 (jamiebuilds/ci-parallel-vars#8): the first shard would never be done. An index that is
        // as large as the number of shards must be an error (catchorg/Catch2#2547).
        "--shard=8/8",
        "--shard=0/0",
        // The name of a run is unset, unknown, or leads elsewhere.
        "--claim=",
        "--claim=$(RUN)",
        "--claim=../other",
        "--claim=..",
        "--claim=a/b",
    ] {
        let said = run_failing(mif(&store).arg("import").arg(&library).arg(flag), 2);
        let kind = if flag.starts_with("--shard") { "invalid shard" } else { "invalid name of a run" };
        assert!(said.contains(kind), "{flag}: {said}");
        assert!(!store.join("images/name=disk-0").exists(), "{flag}");
        assert!(!store.join("other").exists() && !lab.work.at("other").exists(), "{flag}");
    }
}

/// A runner with no tests in its shard fails, and the whole build with it (flutter/flutter#105873, vitest-dev/vitest#8100,
/// vllm-project/vllm#32040).
#[test]
fn a_shard_that_has_nothing_to_do_succeeds_in_every_verb() {
    let lab = Lab::new(1);
    let store = lab.store();
    run(mif(&store).arg("import").arg(lab.library()));
    let out = lab.work.at("out");
    for shard in (0..9).map(|n| format!("{n}/9")) {
        run(mif(&store).arg("import").arg(lab.library()).args(["--shard", &shard]));
        run(mif(&store).args(["export", "--format", "raw", "--shard", &shard, "--all"]).arg(&out));
        run(mif(&store).args(["verify", "--all", "--shard", &shard]));
    }
    assert_eq!(files(&out, ".raw").len(), 1);
}

/// An index of a job may be run by two pods at once (kubernetes/website#31719).
#[test]
fn two_workers_with_the_same_shard_leave_a_whole_store() {
    let lab = Lab::new(4);
    let (library, store) = (lab.library(), lab.store());
    let words = ["import", library.to_str().unwrap(), "--shard", "0/1"];
    let both = together(&|| mif(&store), 2, &words);
    assert!(both.iter().all(|(code, _)| *code == 0), "{both:?}");
    let names: Vec<String> = images(&mut mif(&store)).into_iter().collect();
    for name in &lab.names {
        assert!(names.contains(&format!("{name}@1")), "{names:?}");
        run(mif(&store).args(["verify", name]).arg(library.join(format!("{name}.raw"))));
    }
    run(mif(&store).args(["verify", "--all"]));
    run(mif(&store).arg("fsck"));
    // Later, nothing is new.
    let before = names.len();
    run(mif(&store).args(words));
    assert_eq!(images(&mut mif(&store)).len(), before);
}

/// A machine sleeps while it holds a lock, which then counts as abandoned (restic/restic#4274, #4262).
#[test]
fn an_image_stays_with_a_worker_that_is_suspended_and_goes_on() {
    let lab = Lab::new(0);
    let (library, store) = (lab.library(), lab.store());
    disk(&library.join("large.raw"), 1, 200 << 20);
    disk(&library.join("small.raw"), 2, 1 << 20);
    let library = library.to_str().unwrap();
    let suspended = start(mif(&store), &["import", library, "--claim=one"]);
    let signal = |name: &str| {
        run(Command::new("kill").args([name, &suspended.id().to_string()]));
    };
    let (held, started) = (store.join("work/import.one/held/large"), Instant::now());
    while !held.exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "it takes no image");
        std::thread::sleep(Duration::from_millis(1));
    }
    signal("-STOP");
    let other = start(mif(&store), &["import", library, "--claim=one"]);
    std::thread::sleep(Duration::from_secs(2));
    assert!(!store.join("images/name=large").exists());
    signal("-CONT");
    let (both, other) = (ended(suspended), ended(other));
    assert_eq!((both.0, other.0), (0, 0), "{both:?} {other:?}");
    assert_eq!(images(&mut mif(&store)).into_iter().collect::<Vec<_>>(), ["large@1", "small@1"]);
    run(mif(&store).args(["verify", "--all"]));
    assert!(fs::read_dir(store.join("tmp")).unwrap().next().is_none());
}
