//! Damage that is said, and survived: by `import`, with and without `--strict`.

use std::fs;

use mif_tests::{have, mif, run, run_failing, tool, work_folder};
use serde_json::Value;

#[test]
fn files_that_share_clusters_are_said_and_the_disk_comes_back() {
    if !have(&["mkfs.fat", "mcopy", "fsck.fat"]) {
        return;
    }
    let folder = work_folder();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("disk.raw"), vec![0; 4 << 20]).unwrap();
    run(tool("mkfs.fat").args(["-F", "16", "-s", "1", "-f", "2"]).arg(at("disk.raw")));
    for (name, byte) in [("ONE.BIN", 1), ("TWO.BIN", 2), ("THREE.BIN", 3)] {
        fs::write(at("local"), vec![byte; 5000]).unwrap();
        run(tool("mcopy").arg("-i").arg(at("disk.raw")).arg(at("local")).arg(format!("::/{name}")));
    }
    // The first cluster of the second file becomes the first one's.
    let mut disk = fs::read(at("disk.raw")).unwrap();
    let entry = |name: &[u8; 11]| disk.windows(11).position(|bytes| bytes == name).expect("an entry") + 26;
    let (one, two) = (entry(b"ONE     BIN"), entry(b"TWO     BIN"));
    disk.copy_within(one..one + 2, two);
    fs::write(at("disk.raw"), &disk).unwrap();
    let fsck = tool("fsck.fat").arg("-n").arg(at("disk.raw")).output().unwrap();
    assert!(String::from_utf8_lossy(&fsck.stdout).contains("share clusters"), "fsck.fat sees it too");

    let store = at("store");
    let error = run_failing(mif(&store).args(["import", "--strict"]).arg(at("disk.raw")), 3);
    assert!(error.contains("shares blocks with"), "{error}");
    let report: Value =
        serde_json::from_str(&run(mif(&store).args(["import", "--json"]).arg(at("disk.raw")))).unwrap();
    let warnings = report["warnings"].as_array().unwrap();
    let said: Vec<_> = warnings.iter().filter(|w| w.as_str().unwrap().contains("shares blocks")).collect();
    assert_eq!(said.len(), 1, "{warnings:?}");
    assert!(said[0].to_string().contains("ONE.BIN") && said[0].to_string().contains("TWO.BIN"), "{said:?}");
    run(mif(&store).args(["export", "disk"]).arg(at("out.raw")));
    assert!(fs::read(at("out.raw")).unwrap() == disk);
}
