//! Damage that `import` reports and survives, with and without `--strict`.

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
    // The second file now starts at the first one's first cluster.
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

#[test]
fn each_damaged_inode_and_folder_of_an_ext_volume_is_one_warning_with_its_place() {
    if !have(&["mke2fs", "debugfs"]) {
        return;
    }
    let folder = work_folder();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("tree/folder")).unwrap();
    for name in ["good", "bad", "folder/inside"] {
        fs::write(at("tree").join(name), name.repeat(3000)).unwrap();
    }
    fs::write(at("disk.raw"), vec![0; 8 << 20]).unwrap();
    run(tool("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-O", "^metadata_csum", "-d"])
        .arg(at("tree"))
        .arg(at("disk.raw")));
    let ask = |command: &str| run(tool("debugfs").args(["-R", command]).arg(at("disk.raw")));
    // debugfs prints `located at block 35, offset 0x0b00`.
    let place = |path: &str| {
        let said = ask(&format!("imap {path}"));
        let (block, offset) =
            said.split_once("located at block ").unwrap().1.trim().split_once(", offset 0x").unwrap();
        block.parse::<usize>().unwrap() * 1024 + usize::from_str_radix(offset, 16).unwrap()
    };
    let block_size: usize = 1024;
    assert!(run(tool("dumpe2fs").arg("-h").arg(at("disk.raw"))).contains("Block size:               1024"));
    let (inode, directory) =
        (place("/bad"), ask("bmap /folder 0").trim().parse::<usize>().unwrap() * block_size);
    let mut disk = fs::read(at("disk.raw")).unwrap();
    // Damage the magic number of the root of its extents, and the length of the directory's first entry.
    disk[inode + 0x28] ^= 0xff;
    disk[directory + 4] = 3;
    fs::write(at("disk.raw"), &disk).unwrap();

    let store = at("store");
    let error = run_failing(mif(&store).args(["import", "--strict"]).arg(at("disk.raw")), 3);
    assert!(error.contains("--strict"), "{error}");
    let report: Value =
        serde_json::from_str(&run(mif(&store).args(["import", "--json"]).arg(at("disk.raw")))).unwrap();
    let warnings: Vec<&str> =
        report["warnings"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for (path, field, byte) in [("/bad", "eh_magic", inode + 0x28), ("/folder", "rec_len", directory + 4)] {
        let said = |w: &&&str| w.contains(path) && w.contains(field) && w.contains(&format!("byte {byte}"));
        assert_eq!(warnings.iter().filter(said).count(), 1, "{path}, {field}, {byte}: {warnings:?}");
    }
    // The damaged file is listed, though its content is unreadable; the contents of the directory are not.
    let listed = run(mif(&store).args(["ls", "-R", "disk"]));
    let has = |path: &str| listed.lines().any(|line| line.ends_with(&format!(":{path}")));
    assert!(has("/good") && has("/bad") && has("/folder") && !has("/folder/inside"), "{listed}");
    assert_eq!(run(mif(&store).args(["cat", "disk", "/good"])), "good".repeat(3000));
    run_failing(mif(&store).args(["cat", "disk", "/bad"]), 3);
    run(mif(&store).args(["export", "disk"]).arg(at("out.raw")));
    assert!(fs::read(at("out.raw")).unwrap() == disk);
}
