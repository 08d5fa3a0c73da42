//! Updating stored images: the real tools confirm that the new versions are as requested, conflicts and refusals change
//! nothing, and a Debian gets a newer kernel and other packages, and boots.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mif_tests::debian::{self, boot, make_disk};
use mif_tests::disk::assert_sound;
use mif_tests::{
    WorkFolder, have, listing, mif, mif_path, repo, run, run_failing, snapshot, tool, work_folder,
};
use serde_json::Value;

const SMALL_TOOLS: [&str; 6] = ["sfdisk", "sgdisk", "mke2fs", "debugfs", "e2fsck", "mkfs.vfat"];

const MIB: u64 = 1 << 20;

/// The files that all small disks start with.
const FILES: &[(&str, &str)] = &[
    ("etc/fstab", "LABEL=root / ext4 defaults 0 1\nLABEL=srv /srv ext4 defaults 0 2\n"),
    ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
    ("etc/group", "root:x:0:\n"),
    ("etc/hostname", "base\n"),
    ("etc/motd", "hello\n"),
    ("etc/gone", "goes\n"),
    ("etc/stays/a", "a\n"),
    ("etc/stays/b", "b\n"),
    ("etc/mode", "mode\n"),
    ("etc/owner", "owner\n"),
    ("etc/xattr", "xattr\n"),
    ("etc/grows", "1\n"),
    ("etc/to-folder", "file\n"),
    ("etc/to-link/x", "x\n"),
    ("etc/goes/x", "x\n"),
    ("etc/goes/y/z", "z\n"),
    ("etc/links/one", "linked\n"),
    ("etc/links/apart", "apart\n"),
    ("etc/ssh/ssh_host_rsa_key", "key of base\n"),
    ("etc/machine-id", "\n"),
    ("etc/ld.so.cache", "cache of base\n"),
    ("var/log/messages", "a line\n"),
    (
        "var/lib/dpkg/status",
        "Package: a\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n\n\
         Package: c\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n\n",
    ),
    ("srv/.keep", ""),
];

/// Small disks, each with a root and a volume for /srv, in a store.
struct Lab {
    work: WorkFolder,
}

impl Lab {
    /// Makes the lab; `None`, with a loud notice, if tools are missing.
    fn new() -> Option<Self> {
        have(&SMALL_TOOLS).then(|| Lab { work: work_folder() })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    fn store(&self) -> PathBuf {
        self.at("store")
    }

    fn mif(&self, arguments: &[&str]) -> Command {
        let mut mif = mif(&self.store());
        mif.args(arguments);
        mif
    }

    /// Makes the tree of A: the root, and in `srv` the other volume.
    fn base(&self, name: &str) -> PathBuf {
        let tree = self.at(name);
        for (path, text) in FILES {
            write(&tree.join("root"), path, text);
        }
        let root = tree.join("root");
        fs::hard_link(root.join("etc/links/one"), root.join("etc/links/two")).unwrap();
        fs::hard_link(root.join("etc/links/apart"), root.join("etc/links/apart2")).unwrap();
        std::os::unix::fs::symlink("motd", root.join("etc/to-file")).unwrap();
        std::os::unix::fs::symlink("motd", root.join("etc/link")).unwrap();
        write(&tree.join("srv"), "data/file", "data\n");
        tree
    }

    /// Makes a disk from a tree, runs debugfs on its root, and imports it. `swapped`: the root is the second partition,
    /// and has another block size.
    fn import(&self, name: &str, swapped: bool, commands: &str) {
        let disk = self.at(&format!("{name}.raw"));
        let (root, srv) = (self.at("root.img"), self.at("srv.img"));
        let volume = |image: &Path, label: &str, size: &str, block: &str| {
            let _ = fs::remove_file(image);
            let tree = self.at(name).join(label);
            let mut mke2fs = tool("mke2fs");
            mke2fs
                .env("E2FSPROGS_FAKE_TIME", "1700000000")
                .args(["-q", "-F", "-t", "ext4", "-L", label, "-b", block]);
            run(mke2fs.args(["-E", "root_owner=0:0", "-d"]).arg(tree).arg(image).arg(size));
        };
        volume(&root, "root", "16M", if swapped { "4096" } else { "1024" });
        volume(&srv, "srv", "8M", "1024");
        fs::write(self.at("commands"), commands).unwrap();
        let output = tool("debugfs").args(["-w", "-f"]).arg(self.at("commands")).arg(&root).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.lines().count() <= 1, "debugfs: {said}");
        let parts = if swapped { [&srv, &root] } else { [&root, &srv] };
        let file = fs::File::create(&disk).unwrap();
        file.set_len(26 * MIB).unwrap();
        let (mut table, mut at) = ("label: dos\n".to_owned(), MIB);
        for part in parts {
            let bytes = fs::read(part).unwrap();
            table += &format!("start={}, size={}, type=83\n", at / 512, bytes.len() / 512);
            file.write_all_at(&bytes, at).unwrap();
            at += bytes.len() as u64;
        }
        fs::write(self.at("table"), table).unwrap();
        run(tool("sh").args(["-c", "sfdisk -q \"$0\" < \"$1\""]).arg(&disk).arg(self.at("table")));
        run(self.mif(&["import", "--name", name]).arg(&disk));
    }

    /// Returns the contents of an image's volumes according to the real tools, by path in the system, `swapped` or not.
    fn listed(&self, image: &str, swapped: bool) -> Tree {
        let (disk, out) = (self.at("listed.raw"), self.at("listed"));
        let _ = fs::remove_dir_all(&out);
        run(self.mif(&["export", image, "--force"]).arg(&disk));
        assert_sound(&disk, self.work.path());
        run(tool(repo().join("fixtures/list-disk")).arg(&disk).arg(&out));
        let lines = listing::of_tools(&out);
        let (root, srv) = if swapped { ("p2", "p1") } else { ("p1", "p2") };
        let mut tree = nodes(&lines[&format!("{root}.ext4.tsv")], "");
        tree.extend(nodes(&lines[&format!("{srv}.ext4.tsv")], "srv:"));
        tree
    }

    fn update(&self, images: &[&str], options: &[&str]) -> Command {
        let mut command = self.mif(&["update", "--from", "a", "--to", "b", "--time", "1800000000"]);
        command.args(images).args(options);
        command
    }

    /// Returns the report of an update, and its exit code.
    fn report(&self, command: &mut Command) -> (Value, i32) {
        let output = command.arg("--json").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
        (report, output.status.code().unwrap())
    }
}

/// Type, mode, owner, links, size, target, xattrs and SHA-1 of each path, and its mtime.
type Tree = BTreeMap<String, (Vec<String>, String)>;

fn nodes(lines: &[String], prefix: &str) -> Tree {
    let node = |line: &String| {
        let fields: Vec<String> = line.split('\t').map(str::to_owned).collect();
        let mtime = fields[7].clone();
        let is_dir = fields[1] == "dir";
        // The link count of a directory follows from its subdirectories, which are listed themselves.
        let node = [1, 2, 3, 4, 5, 6, 11, 12, 13]
            .map(|i| if is_dir && i == 5 { "-".into() } else { fields[i].clone() });
        (format!("{prefix}{}", fields[0]), (node.to_vec(), mtime))
    };
    lines.iter().map(node).collect()
}

/// Applies the three-way rule to the tools' listings: the changes from A to B, on top of C.
fn asked(a: &Tree, b: &Tree, c: &Tree) -> BTreeMap<String, Vec<String>> {
    let node = |tree: &Tree, path: &String| tree.get(path).map(|(node, _)| node.clone());
    let paths = a.keys().chain(b.keys()).chain(c.keys());
    let result = paths.filter_map(|path| {
        let [a, b, c] = [a, b, c].map(|tree| node(tree, path));
        let node = if a == b { c } else { b };
        Some((path.clone(), node?))
    });
    result.collect()
}

fn without_times(tree: &Tree) -> BTreeMap<String, Vec<String>> {
    tree.iter().map(|(path, (node, _))| (path.clone(), node.clone())).collect()
}

fn assert_same<T: std::fmt::Debug + PartialEq>(found: &BTreeMap<String, T>, expected: &BTreeMap<String, T>) {
    let paths: std::collections::BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
    let different = paths.into_iter().filter(|path| found.get(*path) != expected.get(*path));
    let lines: Vec<String> = different
        .map(|path| format!("{path}:\n  found    {:?}\n  expected {:?}", found.get(path), expected.get(path)))
        .collect();
    assert!(lines.is_empty(), "{} paths differ:\n{}", lines.len(), lines[..lines.len().min(20)].join("\n"));
}

fn write(root: &Path, path: &str, text: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Changes a tree of the base in every possible way.
fn change(tree: &Path) {
    let etc = tree.join("root/etc");
    let link = std::os::unix::fs::symlink::<&str, PathBuf>;
    fs::remove_file(etc.join("gone")).unwrap();
    fs::remove_dir_all(etc.join("goes")).unwrap();
    fs::write(etc.join("stays/a"), "another a\n").unwrap();
    // Larger than one object, and with zeros in it.
    let large: Vec<u8> = (0..5 * MIB).map(|i| if i / MIB == 2 { 0 } else { (i * 7 % 251) as u8 }).collect();
    fs::write(etc.join("grows"), large).unwrap();
    write(&etc, "new/deep/file", "new\n");
    fs::create_dir(etc.join("new/empty")).unwrap();
    fs::remove_file(etc.join("to-folder")).unwrap();
    write(&etc, "to-folder/inner", "inner\n");
    fs::remove_dir_all(etc.join("to-link")).unwrap();
    link("stays", etc.join("to-link")).unwrap();
    fs::remove_file(etc.join("to-file")).unwrap();
    fs::write(etc.join("to-file"), "no link\n").unwrap();
    fs::remove_file(etc.join("link")).unwrap();
    link("stays/a", etc.join("link")).unwrap();
    // Links: a change of the content of both, one more name, two that become separate, and a new pair.
    fs::write(etc.join("links/one"), "both\n").unwrap();
    fs::hard_link(etc.join("links/one"), etc.join("new/three")).unwrap();
    fs::remove_file(etc.join("links/apart2")).unwrap();
    fs::write(etc.join("links/apart2"), "apart\n").unwrap();
    fs::write(etc.join("new/x"), "pair\n").unwrap();
    fs::hard_link(etc.join("new/x"), etc.join("new/y")).unwrap();
    write(&tree.join("srv"), "data/file", "newer data\n");
    write(&tree.join("srv"), "more", "more\n");
}

const CHANGE_METADATA: &str = "set_inode_field /etc/mode mode 0100640\nset_inode_field /etc/owner uid 1000\n\
    set_inode_field /etc/owner gid 70000\nea_set /etc/xattr user.note hello\nset_inode_field /etc/stays mode 040700\n\
    cd /etc/new\nmknod pipe p\nmknod null c 1 3\n";

#[test]
fn every_kind_of_change_arrives_and_what_an_image_has_of_its_own_stays() {
    let Some(lab) = Lab::new() else { return };
    for name in ["a", "b", "c"] {
        lab.base(name);
    }
    change(&lab.at("b"));
    let own = lab.at("c/root");
    write(&own, "etc/own", "own\n");
    write(&own, "etc/stays/own", "own\n");
    write(&own, "etc/fstab", format!("# its own\n{}", FILES[0].1));
    fs::remove_file(own.join("etc/stays/b")).unwrap();
    run(tool("touch").args(["-d", "@1600000000"]).arg(own.join("etc")));
    lab.import("a", false, "");
    lab.import("b", false, CHANGE_METADATA);
    lab.import("c", true, "");
    let (report, code) = lab.report(&mut lab.update(&["c"], &[]));
    assert_eq!((code, &report["images"][0]["made"]), (0, &"c@2".into()), "{report}");
    let (a, b) = (lab.listed("a", false), lab.listed("b", false));
    let (before, after) = (lab.listed("c@1", true), lab.listed("c@2", true));
    let expected = asked(&a, &b, &before);
    assert_same(&without_times(&after), &expected);
    // The counts agree with the tools' listing.
    let old = without_times(&before);
    let count = |is: &dyn Fn(bool, bool) -> bool| {
        let paths: std::collections::BTreeSet<_> = old.keys().chain(expected.keys()).collect();
        paths
            .into_iter()
            .filter(|p| {
                is(old.contains_key(*p), expected.contains_key(*p)) && old.get(*p) != expected.get(*p)
            })
            .count()
    };
    let counts = &report["images"][0]["counts"];
    assert_eq!(counts["added"], count(&|old, new| !old && new), "{counts}");
    assert_eq!(counts["removed"], count(&|old, new| old && !new), "{counts}");
    let changed = counts["changed"].as_u64().unwrap() + counts["metadata"].as_u64().unwrap();
    assert_eq!(changed as usize, count(&|old, new| old && new), "{counts}");
    // Times: B's for changes from B, its own for the rest, and the update's for a directory that both changed.
    for path in ["/etc/grows", "/etc/new/deep/file", "/etc/stays/a", "srv:/data/file"] {
        assert_eq!(after[path].1, b[path].1, "{path}");
    }
    assert_eq!(after["/etc/own"].1, before["/etc/own"].1);
    assert_eq!(after["/etc"].1, format!("{:08x}:00000000", 1_800_000_000));
    // Hard links are one file each.
    run(lab.mif(&["export", "c", "--force"]).arg(lab.at("c.raw")));
    let inode = |path: &str| {
        let device = format!("{}?offset={}", lab.at("c.raw").display(), 9 * MIB);
        let stat = run(tool("debugfs").args(["-R", &format!("stat {path}"), &device]));
        stat.split_whitespace().nth(1).unwrap_or_else(|| panic!("{path}: {stat}")).to_owned()
    };
    let three = ["links/one", "links/two", "new/three"].map(|name| inode(&format!("/etc/{name}")));
    assert!(three[0] == three[1] && three[1] == three[2], "{three:?}");
    assert_eq!(inode("/etc/new/x"), inode("/etc/new/y"));
    assert_ne!(inode("/etc/links/apart"), inode("/etc/links/apart2"));
    // The record names the origin of the new version. A second update has nothing to do, and neither has one of B.
    let info: Value = serde_json::from_str(&run(&mut lab.mif(&["info", "--json", "c"]))).unwrap();
    let made = &info["stored"]["provenance"];
    assert_eq!((&made["operation"], &made["parent"]), (&"update".into(), &"c@1".into()));
    let stored = snapshot(&lab.store());
    let (report, code) = lab.report(&mut lab.update(&["c", "b"], &[]));
    assert_eq!((code, report["unchanged"].as_u64()), (0, Some(2)), "{report}");
    assert_eq!(snapshot(&lab.store()), stored);
}

#[test]
fn a_conflict_changes_nothing_unless_somebody_wins() {
    let Some(lab) = Lab::new() else { return };
    for name in ["a", "b", "c"] {
        lab.base(name);
    }
    change(&lab.at("b"));
    let own = lab.at("c/root/etc");
    fs::write(own.join("stays/a"), "its own a\n").unwrap();
    fs::remove_file(own.join("grows")).unwrap();
    fs::write(own.join("gone"), "its own\n").unwrap();
    fs::write(own.join("to-link/own"), "its own\n").unwrap();
    write(&own, "goes/own", "its own\n");
    write(&own, "new", "is a file here\n");
    lab.import("a", false, "");
    lab.import("b", false, CHANGE_METADATA);
    lab.import("c", false, "");
    let stored = snapshot(&lab.store());
    let (report, code) = lab.report(&mut lab.update(&["c"], &[]));
    assert_eq!((code, &report["images"][0]["result"]), (1, &"conflict".into()), "{report}");
    assert_eq!(snapshot(&lab.store()), stored, "nothing is written");
    let conflicts: BTreeMap<&str, &str> = report["images"][0]["conflicts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|conflict| (conflict["path"].as_str().unwrap(), conflict["why"].as_str().unwrap()))
        .collect();
    let said = |path: &str, why: &str| {
        let found = conflicts.get(path).unwrap_or_else(|| panic!("{path} in {conflicts:?}"));
        assert!(found.contains(why), "{path}: {found}");
    };
    said("p1:/etc/stays/a", "the image and the update both changed it");
    said("p1:/etc/grows", "the image removed it");
    said("p1:/etc/gone", "the update removed it");
    said("p1:/etc/to-link", "has files in it: /etc/to-link/own");
    said("p1:/etc/new", "both added it");
    said("p1:/etc/new/deep", "no directory /etc/new");
    assert!(!conflicts.contains_key("p1:/etc/goes"), "it stays with what is in it: {conflicts:?}");
    let text = String::from_utf8(lab.update(&["c"], &[]).output().unwrap().stdout).unwrap();
    assert!(text.contains("; left unchanged") && text.contains("conflict p1:/etc/gone: "), "{text}");

    let (a, b, c) = (lab.listed("a", false), lab.listed("b", false), lab.listed("c", false));
    let asked = asked(&a, &b, &c);
    let own = without_times(&c);
    for (winner, name) in [("image", "c@2"), ("update", "c@3")] {
        run(&mut lab.update(&["c@1"], &["--on-conflict", winner]));
        let found = without_times(&lab.listed(name, false));
        let mut expected = asked.clone();
        // Everybody keeps the removed directory, for the sake of the image's file in it.
        for path in ["/etc/goes", "/etc/goes/own"] {
            expected.insert(path.into(), own[path].clone());
        }
        if winner == "image" {
            for path in ["/etc/stays/a", "/etc/gone", "/etc/to-link", "/etc/to-link/own", "/etc/new"] {
                expected.insert(path.into(), own[path].clone());
            }
            expected.remove("/etc/grows");
            expected.retain(|path, _| !path.starts_with("/etc/new/"));
            // The file that would have got a third name has two.
            for path in ["/etc/links/one", "/etc/links/two"] {
                expected.get_mut(path).unwrap()[4] = "2".into();
            }
        } else {
            expected.remove("/etc/to-link/own");
        }
        assert_same(&found, &expected);
    }
}

#[test]
fn databases_are_merged_and_what_is_of_one_machine_is_left() {
    let Some(lab) = Lab::new() else { return };
    for name in ["a", "b", "c", "d"] {
        lab.base(name);
    }
    let package = |name: &str, version: &str| {
        format!("Package: {name}\nStatus: install ok installed\nArchitecture: all\nVersion: {version}\n\n")
    };
    let of =
        |name: &str, path: &str, text: &str| fs::write(lab.at(name).join("root").join(path), text).unwrap();
    let status = "var/lib/dpkg/status";
    of("b", status, &(package("a", "2") + &package("b", "1") + &package("c", "1")));
    of("c", status, &(package("a", "1") + &package("c", "1") + &package("own", "1")));
    of("d", status, &(package("a", "3") + &package("c", "1")));
    let root = FILES[1].1;
    of("b", "etc/passwd", &format!("{root}new:x:101:101::/:/bin/false\n"));
    of("c", "etc/passwd", &format!("{root}own:x:102:102::/:/bin/false\n"));
    of("d", "etc/passwd", &format!("{root}own:x:101:102::/:/bin/false\n"));
    for (name, text) in [("b", "of b\n"), ("c", "of c\n")] {
        for path in [
            "etc/ld.so.cache",
            "etc/hostname",
            "etc/ssh/ssh_host_rsa_key",
            "etc/machine-id",
            "var/log/messages",
        ] {
            of(name, path, text);
        }
    }
    for name in ["a", "b", "c", "d"] {
        lab.import(name, false, "");
    }
    let (report, code) = lab.report(&mut lab.update(&["c", "d"], &[]));
    let [c, d] = [0, 1].map(|i| &report["images"][i]);
    assert_eq!((code, &c["result"], &d["result"]), (1, &"applied".into(), &"conflict".into()), "{report}");
    assert_eq!(c["merged"], serde_json::json!(["p1:/etc/passwd", "p1:/var/lib/dpkg/status"]));
    let cat = |image: &str, path: &str| run(&mut lab.mif(&["cat", image, path]));
    assert_eq!(
        cat("c", "/etc/passwd"),
        format!("{root}own:x:102:102::/:/bin/false\nnew:x:101:101::/:/bin/false\n")
    );
    let left: Vec<&str> =
        c["left"].as_array().unwrap().iter().map(|left| left["path"].as_str().unwrap()).collect();
    for path in [
        "/etc/ld.so.cache",
        "/etc/hostname",
        "/etc/ssh/ssh_host_rsa_key",
        "/etc/machine-id",
        "/var/log/messages",
    ] {
        assert!(left.contains(&format!("p1:{path}").as_str()), "{path} in {left:?}");
        assert_eq!(cat("c", path), "of c\n");
    }
    // dpkg reads the result.
    if have(&["dpkg-query"]) {
        fs::create_dir_all(lab.at("admin/info")).unwrap();
        fs::write(lab.at("admin/status"), cat("c", "/var/lib/dpkg/status")).unwrap();
        let mut query = tool("dpkg-query");
        query.arg("--admindir").arg(lab.at("admin")).args(["-W", "--showformat=${Package} ${Version}\\n"]);
        assert_eq!(run(&mut query), "a 2\nb 1\nc 1\nown 1\n");
    }
    let why = d["conflicts"].to_string();
    assert!(why.contains("both changed \\\"a all\\\""), "{why}");
    assert!(why.contains("\\\"new\\\" has the ID that \\\"own\\\" has in the image"), "{why}");
    // A machine that has not generated its own keys does not get B's.
    run(&mut lab.update(&["a"], &[]));
    assert_eq!(cat("a@2", "/etc/ssh/ssh_host_rsa_key"), "key of base\n");
    assert_eq!(cat("a@2", "/etc/ld.so.cache"), "of b\n");
}

#[test]
fn what_an_image_cannot_take_is_refused_and_the_others_get_it() {
    let Some(lab) = Lab::new() else { return };
    for name in ["a", "b", "narrow", "c", "full", "boot"] {
        lab.base(name);
    }
    change(&lab.at("b"));
    fs::write(lab.at("full/root/noise"), noise(13 * MIB)).unwrap();
    // /etc/new/narrow belongs on the root, but this image mounts its other volume there.
    write(&lab.at("narrow/root"), "etc/new/narrow", "x\n");
    fs::create_dir(lab.at("boot/root/etc/new")).unwrap();
    fs::write(lab.at("boot/root/etc/fstab"), FILES[0].1.replace("/srv", "/etc/new")).unwrap();
    for name in ["a", "b", "narrow", "c", "full", "boot"] {
        lab.import(name, false, "");
    }
    let (report, _) = lab.report(&mut lab.mif(&["update", "--from", "a", "--to", "narrow", "boot"]));
    let said = report["images"][0]["error"].as_str().unwrap_or_else(|| panic!("{report}"));
    assert!(
        said.contains("/etc/new/narrow: the update puts it on /, but the image mounts p2 on /etc/new"),
        "{said}"
    );
    // A single volume, with no place for the contents of /srv.
    run(tool("mke2fs")
        .args(["-q", "-t", "ext4", "-d"])
        .arg(lab.at("a/root"))
        .arg(lab.at("bare.img"))
        .arg("16M"));
    run(lab.mif(&["import", "--name", "bare"]).arg(lab.at("bare.img")));
    let stored = snapshot(&lab.store());
    let (report, code) = lab.report(&mut lab.update(&[], &["--all", "--dry-run"]));
    assert_eq!(
        (code, report["applied"].as_u64(), report["refused"].as_u64()),
        (1, Some(2), Some(3)),
        "{report}"
    );
    assert_eq!(report["images"].as_array().unwrap().len(), 5, "all but a and b: {report}");
    assert_eq!(snapshot(&lab.store()), stored, "a dry run writes nothing");
    let (report, code) = lab.report(&mut lab.update(&["full", "bare", "c", "boot"], &[]));
    assert_eq!(code, 1);
    let images = report["images"].as_array().unwrap();
    for (number, image, why) in [
        (0, "full@1", "no room"),
        (1, "bare@1", "no volume mounted on /srv"),
        (3, "boot@1", "the update puts it on /"),
    ] {
        let said = &images[number];
        assert_eq!((&said["image"], &said["result"]), (&image.into(), &"refused".into()), "{said}");
        assert!(said["error"].as_str().unwrap().contains(why), "{said}");
        let name = image.trim_end_matches("@1");
        run_failing(&mut lab.mif(&["info", &format!("{name}@2")]), 3);
    }
    assert_eq!(images[2]["made"], "c@2");
    run(&mut lab.mif(&["fsck"]));
    // Names that are not images are reported before any image is changed.
    let stored = snapshot(&lab.store());
    let empty = lab.at("empty");
    fs::write(&empty, "").unwrap();
    for (arguments, code, part) in [
        (&["update", "--from", "a", "--to", "nothing", "c"][..], 3, "nothing: no such image in the store"),
        (&["update", "--from", "a", "--to", "b", "c", "nothing"], 3, "nothing: no such image in the store"),
        (&["update", "--from", "a", "--to", "b"], 2, "<IMAGE>"),
        (&["update", "--from", "a", "--to", "b", "c", "--all"], 2, "--all"),
        (&["replace", "--old", "nothing", "--new", "/etc/passwd", "c"], 3, "no such file"),
        (&["replace", "--old", empty.to_str().unwrap(), "--new", "/etc/passwd", "c"], 2, "empty"),
        (&["replace", "--old", "/etc/passwd", "--new", "/etc/passwd", "c"], 2, "same content"),
    ] {
        let said = run_failing(&mut lab.mif(arguments), code);
        assert!(said.contains(part), "{arguments:?}: {said}");
        assert_eq!(snapshot(&lab.store()), stored, "{arguments:?}");
    }
}

#[test]
fn a_disk_that_is_full_costs_no_image() {
    let Some(lab) = Lab::new() else { return };
    lab.base("a");
    lab.import("a", false, "");
    fs::write(lab.at("names.csv"), "n\n1\n2\n3\n4\n5\n6\n7\n8\n9\n").unwrap();
    let customize = ["customize", "a", "--as", "host-{{n}}", "--write=/etc/own:{{n}}", "--csv"];
    run(lab.mif(&customize).arg(lab.at("names.csv")));
    fs::write(lab.at("old"), "hello\n").unwrap();
    // One object, and a list of several.
    for size in [3 * MIB, 6 * MIB] {
        fs::write(lab.at("new"), noise(size)).unwrap();
        // No file may become larger than 1 MiB.
        let mut full = tool("sh");
        full.args(["-c", "trap '' XFSZ; ulimit -f 2048; exec \"$@\"", "sh"]).arg(mif_path());
        full.args(["replace", "--all", "--json", "--old"]).arg(lab.at("old")).arg("--new").arg(lab.at("new"));
        let output = full.env("MIF_STORE", lab.store()).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((output.status.code(), report["refused"].as_u64()), (Some(1), Some(10)), "{report}");
        assert!(
            report["images"].to_string().contains("cannot write to the store: File too large"),
            "{report}"
        );
        run(&mut lab.mif(&["fsck"]));
        run_failing(&mut lab.mif(&["info", "host-1@2"]), 3);
    }
    run(lab.mif(&["replace", "--all", "--old"]).arg(lab.at("old")).arg("--new").arg(lab.at("new")));
    let read = lab.mif(&["cat", "host-9@2", "/etc/motd"]).output().unwrap().stdout;
    assert!(read == noise(6 * MIB));
}

/// Returns reproducible incompressible bytes.
fn noise(len: u64) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn a_patch_to_a_hundred_images_is_stored_once_and_survives_being_killed() {
    let Some(lab) = Lab::new() else { return };
    for name in ["a", "b"] {
        lab.base(name);
    }
    let patch = noise(2 * MIB);
    fs::write(lab.at("b/root/etc/patch"), &patch).unwrap();
    lab.import("a", false, "");
    lab.import("b", false, "");
    let lines: String = (1..=100).map(|n| format!("{n}\n")).collect();
    fs::write(lab.at("names.csv"), format!("n\n{lines}")).unwrap();
    run(lab
        .mif(&["customize", "a", "--as", "host-{{n}}", "--write=/etc/motd:host {{n}}", "--csv"])
        .arg(lab.at("names.csv")));
    let bytes = || snapshot(&lab.store()).iter().map(|(_, len)| len).sum::<u64>();
    let has_second = |n: u32| lab.store().join(format!("images/name=host-{n}/version=2/image.json")).exists();
    // Kill it when the first ones are done.
    let mut update = lab.update(&[], &["--all"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !(1..=100).any(has_second) && update.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let _ = update.kill();
    update.wait().unwrap();
    let made = (1..=100).filter(|n| has_second(*n)).count() as u64;
    assert!(made > 0);
    let fsck: Value = serde_json::from_str(&run(&mut lab.mif(&["fsck", "--json"]))).unwrap();
    assert_eq!(fsck["clean"], true, "{fsck}");
    let before = bytes();
    let (report, code) = lab.report(&mut lab.update(&[], &["--all"]));
    assert_eq!(code, 0, "{report}");
    assert_eq!(report["unchanged"], made, "those that were made");
    assert_eq!(report["applied"], 100 - made);
    // In a new store, the content would be added once. Here it exists, from B: a hundred images take less.
    let added = report["added"]["stored_bytes"].as_u64().unwrap();
    assert!(
        added < MIB && bytes() - before < 100 * (64 << 10),
        "{added} and {} bytes for 100 images",
        bytes() - before
    );
    for n in [1, 50, 100] {
        let cat = |path: &str| lab.mif(&["cat", &format!("host-{n}@2"), path]).output().unwrap().stdout;
        assert!(cat("/etc/patch") == patch);
        assert_eq!(String::from_utf8(cat("/etc/motd")).unwrap(), format!("host {n}"));
    }
    // The same with replace, and content that the store does not have.
    fs::write(lab.at("old"), &patch).unwrap();
    let newer: Vec<u8> = patch.iter().map(|byte| byte ^ 0x55).collect();
    fs::write(lab.at("new"), &newer).unwrap();
    let (report, code) = lab
        .report(lab.mif(&["replace", "--all", "--old"]).arg(lab.at("old")).arg("--new").arg(lab.at("new")));
    assert_eq!(
        (code, report["applied"].as_u64(), report["unchanged"].as_u64()),
        (0, Some(101), Some(1)),
        "{report}"
    );
    let added = report["added"]["stored_bytes"].as_u64().unwrap();
    assert!(
        (2 * MIB..3 * MIB).contains(&added),
        "{added} bytes for content of {} in 101 images",
        patch.len()
    );
}

#[test]
fn a_content_is_replaced_wherever_it_is_and_all_else_stays() {
    let Some(lab) = Lab::new() else { return };
    for name in ["a", "without"] {
        lab.base(name);
    }
    let (old, new) = ("an old library\n".repeat(1000), "a library that was mended\n".repeat(900));
    let root = lab.at("a/root");
    for path in ["usr/lib/lib.so", "opt/copy"] {
        write(&root, path, &old);
    }
    fs::hard_link(root.join("usr/lib/lib.so"), root.join("usr/lib/lib.so.1")).unwrap();
    write(&lab.at("a/srv"), "lib.so", &old);
    let metadata = "set_inode_field /usr/lib/lib.so mode 0104750\nset_inode_field /usr/lib/lib.so uid 1000\n\
        ea_set /usr/lib/lib.so user.note hello\n\
        ea_set -f cap /usr/lib/lib.so security.capability\n";
    // cap_net_raw=ep (linux/capability.h, revision 2).
    let capability = [[1, 0, 0, 2], [0, 0x20, 0, 0], [0; 4], [0; 4], [0; 4]].concat();
    fs::write(lab.at("cap"), capability).unwrap();
    let metadata = metadata.replace("-f cap", &format!("-f {}", lab.at("cap").display()));
    lab.import("a", false, &metadata);
    lab.import("without", false, "");
    fs::write(lab.at("old"), &old).unwrap();
    fs::write(lab.at("new"), &new).unwrap();
    let sha1 = |name: &str| run(tool("sha1sum").arg(lab.at(name))).split(' ').next().unwrap().to_owned();
    let before = lab.listed("a", false);
    for (number, wanted) in
        [lab.at("old").display().to_string(), sha1("old").to_uppercase()].into_iter().enumerate()
    {
        let mut command =
            lab.mif(&["replace", "--time", "1800000000", "--old", &wanted, "a@1", "without", "--new"]);
        let (report, code) = lab.report(command.arg(lab.at("new")));
        assert_eq!(code, 0, "{report}");
        assert_eq!(report["images"][0]["counts"]["changed"], 4, "{report}");
        assert_eq!(report["images"][1]["result"], "unchanged", "{report}");
        let after = lab.listed(&format!("a@{}", number + 2), false);
        let mut expected = before.clone();
        for path in ["/usr/lib/lib.so", "/usr/lib/lib.so.1", "/opt/copy", "srv:/lib.so"] {
            let (node, mtime) = expected.get_mut(path).unwrap();
            (node[5], node[8]) = (new.len().to_string(), sha1("new"));
            *mtime = format!("{:08x}:00000000", 1_800_000_000);
        }
        assert_same(&after, &expected);
        assert!(
            after["/usr/lib/lib.so"].0[7].contains("security.capability"),
            "{:?}",
            after["/usr/lib/lib.so"]
        );
    }
    run_failing(&mut lab.mif(&["info", "without@2"]), 3);
}

#[test]
fn a_fat_is_updated_and_the_same_update_gives_the_same_bits() {
    if !have(&["sfdisk", "sgdisk", "blkid", "e2fsck", "fsck.fat", "mtype", "mdir"]) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let store = at("store");
    run(mif(&store).args(["import", "--name", "a"]).arg(repo().join("fixtures/demo.qcow2")));
    let edit = |image: &str, edits: &[&str]| {
        run(mif(&store).args(["customize", "a@1", "--as", image, "--time", "1700000000"]).args(edits));
    };
    let (greeting, folder) = ("p15:/EFI/mif/hello.txt", "p15:/A directory with a long name");
    let removal = format!("--delete={folder}");
    edit(
        "b",
        &[&format!("--write={greeting}:newer"), "--write=p15:/EFI/A rather long name.efi:new", &removal],
    );
    edit("c", &["--write=p15:/OWN.TXT:own", &format!("--write={folder}/own:own"), "--write=/etc/own:own"]);
    edit("d", &[&format!("--write={greeting}:its own")]);
    let update = |image: &str| {
        let mut command = mif(&store);
        command.args(["update", "--from", "a", "--to", "b", image, "--time", "1800000000"]);
        command
    };
    run(&mut update("c@1"));
    run(&mut update("c@1"));
    let said = update("d").output().unwrap();
    assert_eq!(said.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&said.stdout).contains(&format!("conflict {greeting}")));
    for version in [2, 3] {
        run(mif(&store).args(["export", &format!("c@{version}")]).arg(at(&format!("{version}.raw"))));
    }
    run(tool("cmp").arg(at("2.raw")).arg(at("3.raw")));
    assert_sound(&at("2.raw"), work.path());
    let image = format!("{}@@{}", at("2.raw").display(), 2 * MIB);
    let text = |path: &str| run(tool("mtype").env("MTOOLS_SKIP_CHECK", "1").args(["-i", &image, path]));
    assert_eq!(text("::/EFI/mif/hello.txt"), "newer");
    assert_eq!(text("::/EFI/A rather long name.efi"), "new");
    assert_eq!(text("::/OWN.TXT"), "own");
    assert_eq!(text("::/A directory with a long name/own"), "own");
    let mut mdir = tool("mdir");
    mdir.env("MTOOLS_SKIP_CHECK", "1").args(["-b", "-i", &image, "::/A directory with a long name"]);
    assert_eq!(run(&mut mdir).lines().count(), 1, "what the image had of A is gone");
    let log = run(mif(&store).args(["log", "c"]));
    assert!(log.contains("c@2  update") && log.contains(" from a@1 to b@1, after c@1"), "{log}");
}

/// The packages that B installs, removes and upgrades, compared with A.
const UPGRADE: &str = "apt-get install -y --no-install-recommends -t bookworm-backports linux-image-cloud-amd64\n\
    apt-get install -y --no-install-recommends less curl\napt-get purge -y tzdata";

/// The changes that only C has.
const OWN: &str = "apt-get install -y --no-install-recommends cron file\n\
    echo 'This is an image of its own.' > /etc/motd\necho own > /root/own\nchmod 0600 /etc/issue.net\n\
    rm /usr/share/doc/bash/*";

/// Paths that differ between two runs of the same command, or that an update does not carry.
const NOT_THE_SAME: [&str; 6] = [
    "/boot/initrd.img-",
    "/etc/ld.so.cache",
    "/var/cache/",
    "/var/log/",
    "/var/lib/dpkg/status-old",
    "/var/lib/apt/lists/",
];

/// Updating C with the changes that `apt-get` made to A gives what the same `apt-get` makes of C.
pub(crate) fn updated_debian_is_as_if_apt_had_run_in_it() {
    if !have(debian::TOOLS) || !have(&["dpkg-query", "tar", "e2fsck"]) {
        return;
    }
    let Some(a) = debian::tree() else { return };
    let (b, own) = std::thread::scope(|scope| {
        let b = scope.spawn(|| debian::changed(&a, UPGRADE));
        let c = debian::changed(&a, OWN);
        let asked = c.as_ref().and_then(|c| debian::changed(c, UPGRADE));
        (b.join().unwrap(), c.zip(asked))
    });
    let (Some(b), Some((c, asked))) = (b, own) else { return };
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let store = at("store");
    // C has another geometry, and its root has another name.
    for (name, tree, options) in [
        ("a", &a, "--table gpt --size 2G"),
        ("b", &b, "--table gpt --size 2G"),
        ("c", &c, "--table mbr-logical --block 1024 --size 2G"),
    ] {
        make_disk(tree, &at("disk.raw"), options);
        run(mif(&store).args(["import", "--name", name]).arg(at("disk.raw")));
    }
    let report = run(mif(&store).args(["update", "--from", "a", "--to", "b", "c", "--json"]));
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["images"][0]["made"], "c@2", "{report}");
    let merged = report["images"][0]["merged"].to_string();
    assert!(merged.contains("p5:/var/lib/dpkg/status"), "{merged}");

    let listed = |disk: &Path, name: &str| {
        run(tool(repo().join("fixtures/list-disk")).arg(disk).arg(at(name)));
        let mut tree = nodes(&listing::of_tools(&at(name))["p5.ext4.tsv"], "");
        tree.retain(|path, _| !NOT_THE_SAME.iter().any(|start| path.starts_with(start)));
        tree
    };
    run(mif(&store).args(["export", "c"]).arg(at("updated.raw")));
    assert_sound(&at("updated.raw"), work.path());
    let found = listed(&at("updated.raw"), "found");
    make_disk(&asked, &at("disk.raw"), "--table mbr-logical --block 1024 --size 2G");
    let expected = listed(&at("disk.raw"), "expected");
    assert!(
        expected.len() > 10_000
            && expected.contains_key("/usr/bin/curl")
            && !expected.contains_key("/usr/share/zoneinfo")
    );
    assert_same(&without_times(&found), &without_times(&expected));

    // Its packages are those in that tree's dpkg database.
    let csv = run(mif(&store).args(["packages", "c", "--csv"]));
    let mut packages: Vec<String> =
        csv.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>()[3..7].join(",")).collect();
    packages.sort();
    fs::create_dir_all(at("admin/info")).unwrap();
    fs::write(at("admin/status"), run(tool("tar").arg("-xOf").arg(&asked).arg("./var/lib/dpkg/status")))
        .unwrap();
    let format = "--showformat=${Package},${Version},${Architecture},${db:Status-Status}\\n";
    let said = run(tool("dpkg-query").arg("--admindir").arg(at("admin")).args(["-W", format]));
    let mut expected: Vec<&str> = said.lines().collect();
    expected.sort_unstable();
    assert_eq!(packages, expected);

    // The diff by package agrees with the commands given to apt.
    let diff = mif(&store).args(["diff", "a", "b", "--by", "package", "--json"]).output().unwrap();
    let diff: Value = serde_json::from_slice(&diff.stdout).unwrap();
    let versions = |name: &str| {
        let group = diff["groups"].as_array().unwrap().iter().find(|group| group["name"] == name);
        group.unwrap_or_else(|| panic!("no {name}"))["versions"].clone()
    };
    assert!(versions("less")[0].is_null() && versions("less")[1].is_string());
    assert!(versions("tzdata")[0].is_string() && versions("tzdata")[1].is_null());
    let [old, new] =
        [0, 1].map(|side| versions("linux-image-cloud-amd64")[side].as_str().unwrap().to_owned());
    run(tool("dpkg").args(["--compare-versions", &old, "lt", &new]));

    let kernel = run(tool("tar").arg("-tvf").arg(&asked).arg("./vmlinuz"));
    let kernel = kernel.trim().rsplit("vmlinuz-").next().unwrap().to_owned();
    let printed = boot(&at("updated.raw"), false, "login:");
    assert!(printed.contains(&format!("Linux version {kernel} ")), "{kernel}: {printed}");
    for bad in ["EXT4-fs error", "EXT4-fs warning", "recovery complete"] {
        assert!(!printed.contains(bad), "{bad}: {printed}");
    }
}
