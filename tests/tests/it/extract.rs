//! Trees extracted from images, compared with the directory from which the image was made, and with GNU tar.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use mif_tests::{have, mif, mif_path, repo, run, run_failing, tool, work_folder};

const TOOLS: &[&str] = &["mke2fs", "find", "getfattr", "setfattr", "tar", "sha1sum", "sort", "xargs"];

fn is_root() -> bool {
    run(tool("id").arg("-u")).trim() == "0"
}

/// Makes a tree with everything that a tree can contain, and an unpartitioned disk of it.
fn make(work: &Path) -> (PathBuf, PathBuf) {
    let tree = work.join("tree");
    fs::create_dir_all(tree.join("folder/deep")).unwrap();
    let file = |name: &[u8], bytes: &[u8]| {
        let path = tree.join(OsStr::from_bytes(name));
        fs::write(&path, bytes).unwrap();
        path
    };
    file(b"empty", b"");
    file(b"folder/text", b"text\n");
    file(b"folder/\xff\xfe no utf-8", b"bytes");
    file("folder/üml".as_bytes(), b"umlaut");
    file(b"new\nline", b"n");
    file(&[b'l'; 255], b"long");
    let deep = tree.join("folder/deep").join("d".repeat(200));
    fs::create_dir(&deep).unwrap();
    fs::write(deep.join("f".repeat(200)), "in a long path").unwrap();
    let program = file(b"program", b"#!/bin/sh\n");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    fs::hard_link(&program, tree.join("folder/the program again")).unwrap();
    std::os::unix::fs::symlink("../../../nowhere", tree.join("folder/symlink")).unwrap();
    std::os::unix::fs::symlink("l".repeat(900), tree.join("long symlink")).unwrap();
    let sparse = file(b"sparse", b"");
    let sparse = fs::OpenOptions::new().write(true).open(sparse).unwrap();
    sparse.set_len(256 << 20).unwrap();
    sparse.write_all_at(&[7; 5000], 100 << 20).unwrap();
    sparse.write_all_at(b"end", (256 << 20) - 3).unwrap();
    let hole = fs::File::create(tree.join("only a hole")).unwrap();
    hole.set_len(100_000).unwrap();
    // A value with line breaks and zeros, which must survive pax's line format.
    run(tool("setfattr").args(["-n", "user.note", "-v", "0x0a0035000a0a"]).arg(tree.join("folder/text")));
    run(tool("setfattr").args(["-n", "user.folder", "-v", "x"]).arg(tree.join("folder")));
    if is_root() {
        run(tool("chown").arg("12345:54321").arg(tree.join("folder/text")));
        run(tool("chown").arg("3000000:4000000").arg(tree.join("empty")));
        run(tool("chown").args(["-h", "77:78"]).arg(tree.join("folder/symlink")));
        run(tool("mknod").arg(tree.join("device")).args(["b", "259", "70000"]));
        run(tool("setfattr").args(["-n", "trusted.note", "-v", "t"]).arg(tree.join("folder/text")));
    }
    run(tool("mkfifo").arg(tree.join("fifo")));
    run(tool("find").arg(&tree).args(["-exec", "touch", "-h", "-d", "@1600000000", "{}", "+"]));
    run(tool("touch").args(["-d", "@1500000000"]).arg(tree.join("folder/text")));
    run(tool("touch").args(["-d", "1969-12-31T23:00:00Z"]).arg(tree.join("empty")));
    let disk = work.join("disk.raw");
    run(tool("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(&disk).arg("64M"));
    (tree, disk)
}

/// Returns the output of find, getfattr and sha1sum for a directory, except for what differs between filesystems.
fn said_of(folder: &Path) -> String {
    let shell = "cd \"$1\" && {
        find . ! -path ./lost+found ! -type d -printf '%P|%y|%m|%U|%G|%s|%n|%T@|%l\\n'
        find . ! -path ./lost+found -type d -printf '%P|%y|%m|%U|%G|%T@\\n'
        getfattr -R -h -d -m - -e hex . 2>/dev/null
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha1sum
    } | grep -av '^|d|' | LC_ALL=C sort";
    let output = tool("sh").args(["-c", shell, "sh"]).arg(folder).output().unwrap();
    assert!(output.status.success());
    output.stdout.escape_ascii().to_string().replace("\\n", "\n")
}

fn assert_same(what: &str, got: &str, expected: &str) {
    for (got, expected) in got.lines().zip(expected.lines()) {
        assert_eq!(got, expected, "{what}");
    }
    assert_eq!(got.lines().count(), expected.lines().count(), "{what}");
    assert!(expected.lines().count() > 30, "{what}: the tools said little");
}

#[test]
fn a_folder_and_a_tar_hold_what_the_image_was_made_from() {
    if !have(TOOLS) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let (tree, disk) = make(work.path());
    let store = at("store");
    run(mif(&store).args(["import", "--name", "disk"]).arg(&disk));
    let expected = said_of(&tree);
    // From the disk's filesystem, and from the store's manifest.
    for image in [disk.to_str().unwrap(), "disk"] {
        let (out, tar, unpacked) = (at("out"), at("out.tar"), at("unpacked"));
        run(mif(&store).args(["extract", image, "--privileged", "-o"]).arg(&out));
        assert_same(image, &said_of(&out), &expected);
        run(mif(&store).args(["extract", image, "-o"]).arg(&tar));
        assert!(tar.metadata().unwrap().len() < 1 << 20, "holes are in the tar");
        fs::create_dir(&unpacked).unwrap();
        let output = tool("tar")
            .args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf"])
            .arg(&tar)
            .arg("-C")
            .arg(&unpacked)
            .output()
            .unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr);
        let complaints: Vec<&str> =
            complaints.lines().filter(|line| !line.contains("implausibly old time stamp")).collect();
        assert!(output.status.success() && complaints.is_empty(), "{complaints:?}");
        assert_same("GNU tar", &said_of(&unpacked), &expected);
        // Holes stay holes: 256 MiB in a few blocks.
        for folder in [&out, &unpacked] {
            let sparse = folder.join("sparse").metadata().unwrap();
            assert!(sparse.len() == 256 << 20 && sparse.blocks() * 512 < 1 << 20, "{}", folder.display());
            fs::remove_dir_all(folder).unwrap();
        }
        // Standard output gets the same tar.
        let streamed = mif(&store).args(["extract", image, "-q", "-o", "-"]).output().unwrap();
        assert!(streamed.status.success() && streamed.stdout == fs::read(&tar).unwrap());
        fs::remove_file(&tar).unwrap();
    }
}

#[test]
fn one_folder_or_one_file_and_nothing_over_what_is_there() {
    if !have(TOOLS) {
        return;
    }
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let store = at("store");
    let demo = repo().join("fixtures/demo.qcow2");
    let demo = demo.to_str().unwrap();
    run(mif(&store).args(["extract", demo, "/etc", "-o"]).arg(at("etc")));
    assert!(at("etc/os-release").symlink_metadata().is_ok() && at("etc/passwd").is_file());
    run(mif(&store).args(["extract", demo, "/etc/passwd", "-o"]).arg(at("one")));
    assert_eq!(fs::read(at("one/passwd")).unwrap(), fs::read(at("etc/passwd")).unwrap());
    // A directory that is not empty, and an existing tar, are left alone.
    let error = run_failing(mif(&store).args(["extract", demo, "/etc", "-o"]).arg(at("one")), 3);
    assert!(error.contains("directory not empty"), "{error}");
    fs::write(at("x.tar"), "mine").unwrap();
    run_failing(mif(&store).args(["extract", demo, "/etc", "-o"]).arg(at("x.tar")), 3);
    assert_eq!(fs::read(at("x.tar")).unwrap(), b"mine");
    run(mif(&store).args(["extract", demo, "/etc", "--force", "-o"]).arg(at("x.tar")));
    assert!(run(tool("tar").arg("-tf").arg(at("x.tar"))).contains("./passwd"));
    run_failing(mif(&store).args(["extract", demo, "/no/such", "-o"]).arg(at("new")), 3);
    assert!(!at("new").exists());
}

/// An ordinary user is told which attributes cannot be set. None is set partially: no file gets a set-ID bit under
/// another owner.
#[test]
fn an_ordinary_user_is_told_what_is_missing() {
    if !have(TOOLS) || is_root() && !have(&["setpriv"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    run(tool("chmod").arg("a+rwx").arg(work));
    let (_, disk) = make(work);
    run(tool("chmod").arg("a+r").arg(&disk));
    fs::copy(mif_path(), work.join("mif")).unwrap();
    let mut command = if is_root() {
        let mut setpriv = tool("setpriv");
        setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]);
        setpriv.arg(work.join("mif"));
        setpriv
    } else {
        Command::new(work.join("mif"))
    };
    let out = work.join("out");
    let said = run(command.args(["extract", "--privileged", "--json"]).arg(&disk).arg("-o").arg(&out));
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    let mut not_set: Vec<&str> =
        report["not_set"].as_array().unwrap().iter().map(|item| item["what"].as_str().unwrap()).collect();
    not_set.sort_unstable();
    if is_root() {
        assert_eq!(not_set, ["device", "owner", "set-ID bit", "xattr trusted.note"], "{said}");
        assert_eq!(out.join("program").metadata().unwrap().mode() & 0o7777, 0o755);
    }
    assert_eq!(fs::read(out.join("folder/text")).unwrap(), b"text\n");
}
