//! The command line: exit codes, messages, JSON, help, terminals, signals.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use mif_tests::disk::noise;
use mif_tests::{have, mif, mif_path, repo, run, run_failing, snapshot, tool, work_folder};
use serde_json::Value;

fn demo() -> PathBuf {
    repo().join("fixtures/demo.qcow2")
}

/// Makes a store with the committed disk in it.
fn store_with_demo(folder: &Path) -> PathBuf {
    let store = folder.join("store");
    run(mif(&store).arg("import").arg(demo()));
    store
}

fn json(command: &mut Command) -> Value {
    serde_json::from_str(&run(command.arg("--json"))).expect("standard output is JSON")
}

/// Writes the demo disk with some bytes changed.
fn poked(to: &Path, pokes: &[(usize, &[u8])]) {
    let mut bytes = fs::read(demo()).unwrap();
    for (at, new) in pokes {
        bytes[*at..at + new.len()].copy_from_slice(new);
    }
    fs::write(to, bytes).unwrap();
}

#[test]
fn bad_input_is_one_clear_sentence_and_the_store_stays_as_it_was() {
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let store = store_with_demo(work.path());
    let whole = fs::read(demo()).unwrap();
    fs::write(at("cut.qcow2"), &whole[..whole.len() / 2]).unwrap();
    fs::write(at("empty.img"), b"").unwrap();
    fs::create_dir(at("folder")).unwrap();
    // The header's crypt_method.
    poked(&at("luks.qcow2"), &[(32, &2u32.to_be_bytes())]);
    let descriptor = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
                      createType=\"monolithicFlat\"\nRW 2048 FLAT \"missing-flat.vmdk\" 0\n";
    fs::write(at("parted.vmdk"), descriptor).unwrap();
    fs::write(at("outside.vmdk"), descriptor.replace("missing-flat.vmdk", "/etc/passwd")).unwrap();
    let before = snapshot(&store);
    let cases = [
        ("cut.qcow2", 3, "cut.qcow2"),
        ("empty.img", 3, "is empty"),
        ("folder", 3, "no disk images found"),
        ("not-there.qcow2", 3, "not-there.qcow2"),
        ("luks.qcow2", 3, "encrypt"),
        ("parted.vmdk", 3, "missing-flat.vmdk"),
        ("outside.vmdk", 3, "/etc/passwd"),
    ];
    for (file, code, says) in cases {
        let error = run_failing(mif(&store).arg("import").arg(at(file)), code);
        assert!(error.contains(says), "{file}: {error:?} should say {says:?}");
        assert!(error.starts_with("mif: ") && error.lines().count() <= 2, "{file}: {error:?}");
        assert_eq!(snapshot(&store), before, "{file}");
    }
    let error = run_failing(mif(&store).args(["ls", "no-such-image"]), 3);
    assert!(error.contains("no-such-image") && error.contains("mif images"), "{error}");
    run_failing(mif(&store).args(["ls", "demo@7"]), 3);
    run_failing(mif(&store).args(["cat", "demo", "/no/such/file"]), 3);
    run_failing(mif(&store).args(["cat", "demo", "/etc"]), 3);
    assert_eq!(snapshot(&store), before);
}

#[test]
fn a_store_of_a_newer_format_is_left_alone() {
    let work = work_folder();
    let store = store_with_demo(work.path());
    let header = store.join("store.json");
    let newer = fs::read_to_string(&header).unwrap().replace("\"format\": 2", "\"format\": 3");
    fs::write(&header, newer).unwrap();
    let before = snapshot(&store);
    for arguments in [&["images"][..], &["info", "demo"], &["export", "demo", "x.raw"]] {
        let error = run_failing(mif(&store).args(arguments), 4);
        assert!(error.contains("format 3"), "{error}");
    }
    run_failing(mif(&store).arg("import").arg(demo()), 4);
    assert_eq!(snapshot(&store), before);
}

#[test]
fn a_folder_that_is_no_store_is_not_made_one() {
    let work = work_folder();
    fs::write(work.path().join("somebody's"), b"").unwrap();
    run_failing(mif(work.path()).arg("import").arg(demo()), 3);
    run_failing(mif(work.path()).arg("images"), 3);
    assert_eq!(snapshot(work.path()).len(), 1);
}

#[test]
fn symlinks_that_lead_to_each_other_are_an_error_and_a_long_chain_is_none() {
    if !have(&["mke2fs"]) {
        return;
    }
    let folder = work_folder();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("tree")).unwrap();
    let link = |name: &str, to: &str| std::os::unix::fs::symlink(to, at("tree").join(name)).unwrap();
    link("ping", "pong");
    link("pong", "/ping/below");
    fs::write(at("tree/link0"), "found").unwrap();
    for i in 1..=41 {
        link(&format!("link{i}"), &format!("link{}", i - 1));
    }
    run(tool("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(at("tree")).arg(at("disk.raw")).arg("4M"));
    let cat = |path: &str| {
        let mut command = mif(&at("store"));
        command.arg("cat").arg(at("disk.raw")).arg(path);
        command
    };
    // As many links as Linux follows.
    assert_eq!(run(&mut cat("/link40")), "found");
    for path in ["/link41", "/ping", "/pong/x"] {
        let error = run_failing(&mut cat(path), 3);
        assert!(error.contains("too many levels of symbolic links"), "{path}: {error}");
    }
}

#[test]
fn a_batch_goes_on_past_a_failure_and_says_so() {
    let work = work_folder();
    let store = work.path().join("store");
    fs::write(work.path().join("bad.img"), b"").unwrap();
    fs::copy(demo(), work.path().join("second.qcow2")).unwrap();
    let files = ["bad.img", "second.qcow2"].map(|name| work.path().join(name));
    let error = run_failing(mif(&store).arg("import").args(&files), 1);
    assert!(error.contains("bad.img"), "{error}");
    let images = json(mif(&store).arg("images"));
    assert_eq!(images[0]["name"], "second");
}

#[test]
fn verify_answers_by_its_exit_code_and_names_the_place() {
    let work = work_folder();
    let store = store_with_demo(work.path());
    let raw = work.path().join("demo.raw");
    run(mif(&store).args(["export", "demo"]).arg(&raw));
    run(mif(&store).arg("verify").arg("demo").arg(&raw));
    run(mif(&store).arg("verify").arg(demo()).arg(&raw));
    let mut bytes = fs::read(&raw).unwrap();
    let text = b"PRETTY_NAME=\"The mif demo disk\"";
    let place = bytes.windows(text.len()).position(|w| w == text).unwrap();
    bytes[place] ^= 1;
    bytes[place + 2] ^= 1;
    // The boot code, which is in no partition.
    bytes[100..105].iter_mut().for_each(|byte| *byte ^= 1);
    fs::write(&raw, &bytes).unwrap();
    let output = mif(&store).args(["verify", "demo", "--json"]).arg(&raw).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["bits"]["first"], 100);
    assert_eq!(report["bits"]["bytes"], 7);
    assert_eq!(report["bits"]["place"], "outside all partitions");
    let places = report["bits"]["places"].as_array().unwrap();
    assert_eq!(places.len(), 2, "{report}");
    assert_eq!((&places[0]["first"], &places[0]["bytes"]), (&Value::from(100), &Value::from(5)));
    assert_eq!((&places[1]["first"], &places[1]["bytes"]), (&Value::from(place as u64), &Value::from(2)));
    // The content of one inode, under whichever of its names comes first.
    assert!(places[1]["place"].as_str().unwrap().starts_with("p1:/"), "{report}");
    let different: Vec<_> = report["files"]["different"].as_array().unwrap().iter().map(|d| &d[0]).collect();
    assert!(different.iter().any(|path| *path == "p1:/etc/os-release"), "{report}");
}

#[test]
fn digests_of_a_disk_file_are_those_of_the_store_and_of_sha1sum() {
    let folder = work_folder();
    let store = store_with_demo(folder.path());
    let list = |image: &str| run(mif(&store).args(["ls", "-R", "--digests", image]));
    let listing = list(demo().to_str().unwrap());
    assert_eq!(listing, list("demo"));
    let file = listing.lines().find(|line| line.ends_with("os-release")).expect("an os-release");
    let (digest, path) = file.split_once("  ").unwrap();
    let content = folder.path().join("content");
    std::fs::write(&content, run(mif(&store).args(["cat", "demo", path]))).unwrap();
    assert!(run(tool("sha1sum").arg(&content)).starts_with(digest), "{file}");
}

#[test]
fn exporting_over_a_file_needs_force_and_a_failure_leaves_nothing() {
    let work = work_folder();
    let store = store_with_demo(work.path());
    let out = work.path().join("out");
    fs::create_dir(&out).unwrap();
    let file = out.join("demo.qcow2");
    fs::write(&file, b"precious").unwrap();
    run_failing(mif(&store).args(["export", "demo"]).arg(&file), 3);
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    run(mif(&store).args(["export", "demo", "--force"]).arg(&file));
    assert_eq!(&fs::read(&file).unwrap()[..4], b"QFI\xfb");
    let error =
        run_failing(mif(&store).args(["export", "demo", "-o", "colour=red"]).arg(out.join("x.qcow2")), 4);
    assert!(error.contains("colour"), "{error}");
    run_failing(mif(&store).args(["export", "demo"]).arg(out.join("x.unknown")), 4);
    assert_eq!(snapshot(&out).len(), 1, "{:?}", snapshot(&out));
}

#[test]
fn a_damaged_pack_is_noticed_and_named() {
    let work = work_folder();
    let store = store_with_demo(work.path());
    let (pack, len) =
        snapshot(&store).into_iter().find(|(path, _)| path.extension() == Some("pack".as_ref())).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[len as usize / 3] ^= 0x40;
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&pack, bytes).unwrap();
    let out = work.path().join("demo.raw");
    let error = run_failing(mif(&store).args(["export", "demo"]).arg(&out), 5);
    assert!(error.contains(".pack") && error.contains("fsck"), "{error}");
    assert!(!out.exists());
}

#[test]
fn every_verb_explains_itself_with_examples() {
    let help = run(Command::new(mif_path()).arg("--help"));
    assert!(help.contains("Exit codes"), "{help}");
    let commands = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let verbs: Vec<&str> =
        commands.lines().filter_map(|l| l.strip_prefix("  ")?.split_whitespace().next()).collect();
    assert!(verbs.len() >= 7, "{verbs:?}");
    for verb in verbs {
        let help = run(Command::new(mif_path()).args([verb, "--help"]));
        assert!(help.contains(&format!("mif {verb}")) && help.contains("Examples"), "{verb}: {help}");
    }
    run_failing(Command::new(mif_path()).arg("no-such-verb"), 2);
    run_failing(&mut Command::new(mif_path()), 2);
}

#[test]
fn names_do_not_command_the_terminal() {
    if !have(&["mke2fs"]) {
        return;
    }
    let work = work_folder();
    let tree = work.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("evil\u{1b}]0;owned\u{7}\nname"), b"").unwrap();
    let disk = work.path().join("disk.img");
    fs::File::create(&disk).unwrap().set_len(4 << 20).unwrap();
    run(tool("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(&tree).arg(&disk));
    let store = work.path().join("store");
    let listed = run(mif(&store).arg("ls").arg(&disk));
    assert!(listed.contains("/evil\\u{1b}]0;owned\\u{7}\\nname"), "{listed:?}");
    let listing = json(mif(&store).arg("ls").arg(&disk));
    let paths: Vec<_> =
        listing["entries"].as_array().unwrap().iter().map(|e| e["path"].as_str().unwrap()).collect();
    assert!(paths.contains(&"/evil\u{1b}]0;owned\u{7}\nname"), "{paths:?}");
}

#[test]
fn a_terminal_gets_a_progress_bar_and_a_pipe_gets_none() {
    if !have(&["script"]) {
        return;
    }
    let work = work_folder();
    let store = work.path().join("store");
    let command =
        format!("'{}' --store '{}' import '{}'", mif_path().display(), store.display(), demo().display());
    let log = work.path().join("log");
    run(tool("script")
        .env("TERM", "xterm")
        .args(["-q", "-e", "-c", &format!("stty cols 120; {command}")])
        .arg(&log));
    let seen = fs::read_to_string(&log).unwrap();
    assert!(seen.contains("scanning") || seen.contains("importing"), "{seen:?}");
    let output = mif(&store).arg("import").arg(demo()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(!output.stdout.contains(&0x1b));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let work = work_folder();
    let store = store_with_demo(work.path());
    let mut child = mif(&store).args(["ls", "-lR", "demo"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn an_interrupted_export_leaves_nothing_behind() {
    let work = work_folder();
    let disk = work.path().join("noise.img");
    // Enough noise that the export is still running when the signal arrives.
    let noise = noise(1, 32 << 20);
    let mut file = fs::File::create(&disk).unwrap();
    for _ in 0..8 {
        std::io::Write::write_all(&mut file, &noise).unwrap();
    }
    let store = work.path().join("store");
    run(mif(&store).arg("import").arg(&disk));
    let out = work.path().join("out");
    fs::create_dir(&out).unwrap();
    for delay in [0, 5, 20, 60] {
        let target = out.join("noise.raw");
        let mut child =
            mif(&store).args(["export", "noise"]).arg(&target).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        run(tool("kill").args(["-INT", &child.id().to_string()]));
        let finished = child.wait().unwrap().success();
        assert_eq!(snapshot(&out).len(), usize::from(finished), "after {delay} ms: {:?}", snapshot(&out));
        if finished {
            fs::remove_file(&target).unwrap();
        }
    }
    run(mif(&store).args(["verify", "noise"]).arg(&disk));
}

#[test]
fn convert_goes_straight_through_every_container() {
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let no_store = at("no-store");
    let mut last = demo();
    for (name, option) in [
        ("a.vmdk", "subformat=streamOptimized"),
        ("b.vdi", ""),
        ("c.vhdx", ""),
        ("d.qcow2", "compress=on"),
        ("e.vmdk", "subformat=monolithicFlat"),
        ("f.raw", ""),
    ] {
        let mut convert = mif(&no_store);
        convert.arg("convert").arg(&last).arg(at(name));
        if !option.is_empty() {
            convert.args(["-o", option]);
        }
        run(&mut convert);
        run(mif(&no_store).arg("verify").arg(demo()).arg(at(name)));
        if have(&["qemu-img"]) {
            run(tool("qemu-img").arg("compare").arg(demo()).arg(at(name)));
        }
        last = at(name);
    }
    assert!(!no_store.exists(), "converting needs no store and makes none");
    // Converting onto itself is refused without --force; with it, the disk stays intact.
    run_failing(mif(&no_store).arg("convert").arg(&last).arg(&last), 3);
    run(mif(&no_store).args(["convert", "--force"]).arg(&last).arg(&last));
    run(mif(&no_store).arg("verify").arg(demo()).arg(&last));
}

#[test]
fn a_listing_has_a_format_and_so_has_the_image() {
    let work = work_folder();
    let ls = |options: &[&str]| work.mif(&["ls"]).args(options).arg(demo()).arg("/").output().unwrap();
    let plain = ls(&[]);
    assert!(plain.status.success());
    assert_eq!(ls(&["-f", "qcow2"]).stdout, plain.stdout);
    assert!(ls(&["--image-format", "qcow2", "--format", "csv"]).stdout.starts_with(b"volume,path,type"));
    // As a raw disk, the same bytes contain no filesystem.
    assert_eq!(ls(&["-f", "raw"]).status.code(), Some(3));
}
