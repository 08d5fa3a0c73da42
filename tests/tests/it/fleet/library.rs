//! A dozen real disks, four importers, and what goes wrong in a data centre.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mif_tests::bucket::{Answer, Bucket};
use mif_tests::debian::{TOOLS, make_disk, tree};
use mif_tests::{WorkFolder, have, run, work_folder};

use super::{ended, images, start};

/// Makes a library of twelve disks: a Debian, and the same with other names and files, in several formats.
fn library() -> Option<(WorkFolder, Vec<String>)> {
    if !have(TOOLS) {
        return None;
    }
    let (tree, work) = (tree()?, work_folder());
    std::fs::create_dir(work.at("library")).unwrap();
    make_disk(&tree, &work.at("debian.raw"), "--table gpt --size 2G");
    run(&mut work.mif(&["import", "debian.raw"]));
    let mut names = Vec::new();
    for (number, suffix) in (0..12).zip(["qcow2", "vmdk", "vhdx", "raw"].into_iter().cycle()) {
        let name = format!("web-{number}");
        run(&mut work.mif(&["customize", "debian", "--as", &name, "--hostname", &name]));
        run(&mut work.mif(&["export", &name, &format!("library/{name}.{suffix}")]));
        names.push(name);
    }
    // Only the files are needed. Checking this store with the second reader would take minutes.
    std::fs::remove_dir_all(work.at("store")).unwrap();
    Some((work, names))
}

#[test]
#[ignore = "takes real Debian disks: make fleet"]
fn four_importers_of_which_two_are_killed_fill_a_bucket_that_fails_for_a_while() {
    let (Some(bucket), Some((work, names))) = (Bucket::new(), library()) else {
        panic!("nothing to test with")
    };
    let is_down = Arc::new(AtomicBool::new(false));
    let down = is_down.clone();
    bucket.rule(move |_| if down.load(Ordering::Relaxed) { Answer::Status(503) } else { Answer::Pass });
    let library = work.at("library").display().to_string();
    let words = ["import", &library, "--claim=first", "--jobs", "1"];
    let mut importers: Vec<_> = (0..4).map(|_| start(bucket.mif("s"), &words)).collect();
    let wait_for = |count: usize| {
        let started = Instant::now();
        while bucket.keys("s/work/import.first/done/").len() < count {
            assert!(started.elapsed() < Duration::from_secs(300), "nothing is imported");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    wait_for(2);
    let mut killed = importers.split_off(2);
    for importer in &mut killed {
        importer.kill().unwrap();
        importer.wait().unwrap();
    }
    is_down.store(true, Ordering::Relaxed);
    std::thread::sleep(Duration::from_secs(4));
    is_down.store(false, Ordering::Relaxed);
    for importer in importers {
        let (code, events) = ended(importer);
        assert_eq!(code, 0, "{events:?}");
    }
    let there = images(&mut bucket.mif("s"));
    let wanted: BTreeSet<String> = names.iter().map(|name| format!("{name}@1")).collect();
    assert_eq!(there, wanted);
    run(bucket.mif("s").arg("fsck"));
    for verifier in [
        start(bucket.mif("s"), &["verify", "--all", "--shard", "0/2"]),
        start(bucket.mif("s"), &["verify", "--all", "--shard", "1/2"]),
    ] {
        let (code, report) = ended(verifier);
        assert_eq!(code, 0, "{report:?}");
    }
    run(bucket.mif("s").args(["verify", "--all", "--against", &library]));
    // What the killed ones left is removed, once their leases have ended.
    std::thread::sleep(Duration::from_secs(125));
    run(bucket.mif("s").arg("gc"));
    run(bucket.mif("s").arg("gc"));
    for left in ["s/work/", "s/trash/", "s/tmp/"] {
        assert_eq!(bucket.keys(left), [""; 0], "{left}");
    }
    assert_eq!(
        bucket.keys("s/packs/").len(),
        bucket.keys("s/index/").iter().filter(|key| key.ends_with(".idx")).count()
    );
    run(bucket.mif("s").args(["verify", "--all"]));
    assert_eq!(images(&mut bucket.mif("s")), wanted);
}
