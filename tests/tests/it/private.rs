//! Private data stays private: who may read the files made from a disk, how an extraction treats its target, and which
//! traces of passwords a record contains.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use mif_tests::{WorkFolder, files, have, is_root, json, mif, mif_path, repo, run, tool, work_folder};

/// Returns a file's mode, owner and group according to stat(1).
fn stat(path: &Path) -> String {
    run(tool("stat").args(["-c", "%a %u %g"]).arg(path)).trim().to_owned()
}

/// Returns a file's mode according to stat(1).
fn mode(path: &Path) -> String {
    stat(path).split(' ').next().unwrap().to_owned()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Returns the program on a store, with a umask.
fn with_umask(umask: &str, store: &Path) -> Command {
    let mut command = tool("sh");
    command.args(["-c", "umask $1; shift; exec \"$@\"", "sh", umask]).arg(mif_path());
    command.env("MIF_STORE", store);
    command
}

/// Makes a disk with a program that has set-ID bits, a capability, a label, devices and a private directory. Everybody
/// may write to its root, which belongs to nobody.
fn disk(work: &Path) -> PathBuf {
    let tree = work.join("tree");
    fs::create_dir_all(tree.join("folder")).unwrap();
    for name in ["su", "ping", "folder/text"] {
        fs::write(tree.join(name), name).unwrap();
    }
    let disk = work.join("disk.raw");
    run(tool("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&tree).arg(&disk).arg("8M"));
    let commands = work.join("commands");
    let text = "sif / mode 040777\nsif / uid 65534\nsif / gid 65534\nsif /su mode 0106755\nsif /folder mode 042755\n\
                ea_set /ping security.capability \\001\\000\\000\\002\\000\\040\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\n\
                ea_set /su security.selinux label\n\
                mknod zero c 1 5\nmknod loop b 7 0\n";
    fs::write(&commands, text).unwrap();
    let output = tool("debugfs").arg("-w").arg("-f").arg(&commands).arg(&disk).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    disk
}

fn made() -> (WorkFolder, PathBuf) {
    let work = work_folder();
    let disk = disk(work.path());
    (work, disk)
}

#[test]
fn what_is_made_of_a_disk_is_no_more_readable_than_it() {
    if !have(&["mke2fs", "debugfs"]) {
        return;
    }
    let (work, disk) = made();
    let at = |name: &str| work.path().join(name);
    let store = at("store");
    fs::create_dir(at("out")).unwrap();
    let made_of = |umask: &str| {
        let outputs = [at("out/c.qcow2"), at("out/c.raw"), at("out/t.tar")];
        for output in &outputs {
            let mut command = with_umask(umask, &store);
            match output.ends_with("t.tar") {
                true => command.args(["-q", "extract"]).arg(&disk).arg("-o"),
                false => command.args(["-q", "convert"]).arg(&disk),
            };
            run(command.arg(output));
        }
        let modes: Vec<String> = outputs.iter().map(|path| mode(path)).collect();
        outputs.iter().for_each(|path| fs::remove_file(path).unwrap());
        modes
    };
    for (source, umask, expected) in [
        (0o600, "022", "600"),
        (0o400, "000", "600"),
        (0o640, "022", "640"),
        (0o640, "077", "600"),
        (0o604, "022", "600"),
        (0o644, "022", "644"),
        (0o644, "027", "640"),
    ] {
        set_mode(&disk, source);
        assert_eq!(made_of(umask), [expected; 3], "{source:o}, umask {umask}");
    }
    if is_root() {
        // The group that may read the disk is not the group of new files, unless their directory passes it on.
        std::os::unix::fs::chown(&disk, None, Some(2345)).unwrap();
        set_mode(&disk, 0o640);
        assert_eq!(made_of("022"), ["600"; 3]);
        std::os::unix::fs::chown(at("out"), None, Some(2345)).unwrap();
        set_mode(&at("out"), 0o2755);
        assert_eq!(made_of("022"), ["640"; 3]);
    }
}

#[test]
fn a_list_that_lets_a_user_read_the_disk_does_not_let_the_group_read_what_is_made_of_it() {
    if !have(&["mke2fs", "debugfs", "setfacl", "getfacl"]) {
        return;
    }
    let (work, disk) = made();
    let at = |name: &str| work.path().join(name);
    set_mode(&disk, 0o600);
    run(tool("setfacl").args(["-m", "u:1234:r"]).arg(&disk));
    assert_eq!(mode(&disk), "640", "the mode shows the list's mask");
    fs::create_dir(at("out")).unwrap();
    run(tool("setfacl").args(["-d", "-m", "u:4321:r"]).arg(at("out")));
    run(with_umask("022", &at("s")).args(["-q", "convert"]).arg(&disk).arg(at("out/c.raw")));
    let acl = run(tool("getfacl").args(["-cn"]).arg(at("out/c.raw")));
    assert_eq!(acl.trim(), "user::rw-\ngroup::---\nother::---");
}

#[test]
fn a_stored_image_is_as_readable_as_its_store() {
    if !have(&["mke2fs", "debugfs"]) {
        return;
    }
    let (work, disk) = made();
    let at = |name: &str| work.path().join(name);
    let store = at("store");
    set_mode(&disk, 0o644);
    run(mif(&store).args(["import", "--name", "web"]).arg(&disk));
    for (of_store, expected) in
        [(0o700, "600"), (0o755, "644"), (0o750, "640"), (0o751, "640"), (0o711, "600")]
    {
        set_mode(&store, of_store);
        run(with_umask("022", &store).args(["-q", "export", "web"]).arg(at("e.raw")));
        run(with_umask("022", &store)
            .args(["-q", "export", "--all"])
            .arg(at("all"))
            .args(["--format", "vmdk"]));
        run(with_umask("022", &store).args(["-q", "extract", "web", "-o"]).arg(at("e.tar")));
        for name in ["e.raw", "all/web.vmdk", "e.tar"] {
            assert_eq!(mode(&at(name)), expected, "{name} of a store with mode {of_store:o}");
            fs::remove_file(at(name)).unwrap();
        }
    }
}

#[test]
fn what_is_replaced_keeps_mode_and_owner() {
    if !have(&["mke2fs", "debugfs"]) {
        return;
    }
    let (work, disk) = made();
    let at = |name: &str| work.path().join(name);
    let store = at("store");
    run(mif(&store).args(["import", "--name", "web"]).arg(&disk));
    let disk = disk.to_str().unwrap();
    for of_file in [0o600, 0o640, 0o604] {
        for (name, arguments) in [
            ("k.raw", &["export", "web"][..]),
            ("k.qcow2", &["convert", disk]),
            ("k.tar", &["extract", "web", "-o"]),
        ] {
            fs::write(at(name), "old").unwrap();
            set_mode(&at(name), of_file);
            if is_root() {
                std::os::unix::fs::chown(at(name), Some(1234), Some(2345)).unwrap();
            }
            let before = stat(&at(name));
            run(with_umask("022", &store).arg("-q").args(arguments).arg(at(name)).arg("--force"));
            assert_eq!(stat(&at(name)), before, "{name}");
            assert!(fs::metadata(at(name)).unwrap().len() > 1000, "{name} is new");
        }
    }
    let left: Vec<_> = fs::read_dir(work.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.as_encoded_bytes().starts_with(b".")), "{left:?}");
}

#[test]
fn a_target_that_is_there_keeps_its_mode_and_owner_and_a_new_one_gets_the_images() {
    if !have(&["mke2fs", "debugfs"]) {
        return;
    }
    let (work, disk) = made();
    let at = |name: &str| work.path().join(name);
    fs::create_dir(at("mine")).unwrap();
    set_mode(&at("mine"), 0o700);
    let before = stat(&at("mine"));
    for flags in [&[][..], &["--privileged"]] {
        run(mif(&at("s")).arg("extract").arg(&disk).args(flags).arg("-o").arg(at("mine")));
        assert_eq!(stat(&at("mine")), before);
        assert!(at("mine/folder/text").is_file());
        run(tool("sh").args(["-c", "rm -r \"$1\"/*", "sh"]).arg(at("mine")));
        run(mif(&at("s")).arg("extract").arg(&disk).args(flags).arg("-o").arg(at("new")));
        let new = stat(&at("new"));
        assert_eq!(
            new,
            if is_root() { "777 65534 65534".to_owned() } else { format!("777{}", &before[3..]) }
        );
        fs::remove_dir_all(at("new")).unwrap();
    }
    // A single file comes without a directory of the image.
    run(with_umask("022", &at("s")).arg("extract").arg(&disk).args(["/ping", "-o"]).arg(at("one")));
    assert_eq!(mode(&at("one")), "755");
}

#[test]
fn what_gives_rights_on_the_machine_comes_only_when_asked_for() {
    if !have(&["mke2fs", "debugfs", "tar", "getfattr"]) {
        return;
    }
    let (work, disk) = made();
    let at = |name: &str| work.path().join(name);
    let extract = |flags: &[&str], to: &str| -> serde_json::Value {
        let said =
            run(mif(&at("s")).args(["--json", "extract"]).args(flags).arg(&disk).arg("-o").arg(at(to)));
        serde_json::from_str(&said).unwrap()
    };
    let left_out = |report: &serde_json::Value| {
        let items = report["not_set"].as_array().unwrap().iter();
        let items = items.filter(|item| item["reason"].as_str().unwrap().contains("--privileged"));
        let mut items: Vec<String> =
            items.map(|item| format!("{} {}", item["what"].as_str().unwrap(), item["paths"])).collect();
        items.sort();
        items
    };
    let all = ["device 2", "set-ID bit 2", "xattr security.capability 1", "xattr security.selinux 1"];
    assert_eq!(left_out(&extract(&[], "plain")), all);
    assert_eq!([mode(&at("plain/su")), mode(&at("plain/folder"))], ["755", "755"]);
    assert!(at("plain/zero").symlink_metadata().is_err() && at("plain/loop").symlink_metadata().is_err());
    let attributes = |folder: &str| run(tool("getfattr").args(["-R", "-m", "-"]).arg(at(folder)));
    assert!(!attributes("plain").contains("security.capability"));
    // The text output says so too.
    let said = run(mif(&at("s")).arg("extract").arg(&disk).arg("-o").arg(at("said")));
    assert!(said.contains("set-ID bit of 2 paths") && said.contains("--privileged"), "{said}");
    assert!(left_out(&extract(&["--privileged"], "privileged")).is_empty());
    if is_root() {
        assert_eq!([mode(&at("privileged/su")), mode(&at("privileged/folder"))], ["6755", "2755"]);
        let device = run(tool("stat").args(["-c", "%F %t %T"]).arg(at("privileged/zero")));
        assert_eq!(device.trim(), "character special file 1 5");
        assert!(attributes("privileged").contains("security.capability"));
    }
    // A tar is data, and contains everything.
    assert!(left_out(&extract(&[], "out.tar")).is_empty());
    let listed = run(tool("tar").arg("-tvf").arg(at("out.tar")));
    for of_tar in ["-rwsr-sr-x", "drwxr-sr-x", "\nc", "\nb"] {
        assert!(listed.contains(of_tar), "{of_tar}: {listed}");
    }
    fs::create_dir(at("unpacked")).unwrap();
    let mut tar = tool("tar");
    tar.args(["--xattrs", "--xattrs-include=*", "-xf"]).arg(at("out.tar")).arg("-C").arg(at("unpacked"));
    if is_root() {
        run(&mut tar);
        assert!(attributes("unpacked").contains("security.capability"));
    }
}

#[test]
fn no_record_tells_a_password() {
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let store = at("store");
    run(mif(&store).args(["import", "--name", "web"]).arg(repo().join("fixtures/demo.qcow2")));
    let hash = "$6$s3cretsalt$s3crethash";
    fs::write(
        at("recipe.toml"),
        "[[edit]]\ndo = 'password'\nuser = 'root'\npassword = '{{pw}}'\n\
         [[edit]]\ndo = 'append'\npath = '/etc/shadow'\ncontent = \"x:{{hash}}:1::::::\\n\"\n",
    )
    .unwrap();
    fs::write(at("list.csv"), "n,pw,hash\n1,s3cret-one,s3cret-hash-one\n2,s3cret-two,s3cret-hash-two\n")
        .unwrap();
    fs::write(at("password"), "s3cret-in-file\n").unwrap();
    let recipe = at("recipe.toml").display().to_string();
    let (list, file) =
        (at("list.csv").display().to_string(), format!("root:file:{}", at("password").display()));
    for arguments in [
        &["--as", "a", "--password", "root:password:s3cret"][..],
        &["--as", "b", &format!("--password=root:hash:{hash}")],
        &["--as", "c", "--recipe", &recipe, "--set", "pw=s3cret", "--set=hash=s3cret"],
        &["--as", "d-{{n}}", "--recipe", &recipe, "--csv", &list],
        &["--as", "e", "--password", "root:env:S3CRET_PLACE"],
        &["--as", "f", "--password", &file],
        &["--as", "g", "--set", "p=s3cret", "--password", "root:password:{{p}}"],
        &["--as", "h", "--append", "/etc/shadow:x:s3cret:1::::::"],
    ] {
        run(mif(&store).args(["-q", "customize", "web"]).args(arguments).env("S3CRET_PLACE", "s3cret"));
    }
    // It did arrive where it belongs.
    let shadow = run(mif(&store).args(["cat", "c", "/etc/shadow"]));
    assert!(
        shadow.contains("x:s3cret:1") && run(mif(&store).args(["cat", "b", "/etc/shadow"])).contains(hash)
    );
    let records = files(&store, ".json");
    assert!(records.len() > 10, "{records:?}");
    for record in records {
        let text = fs::read_to_string(&record).unwrap();
        assert!(!text.contains("s3cret"), "{}: {text}", record.display());
    }
    for arguments in [&["log"][..], &["--json", "log"], &["info", "a"], &["--json", "images"]] {
        let said = run(mif(&store).args(arguments));
        assert!(!said.contains("s3cret"), "{said}");
    }
    // Everything that is not secret is still recorded.
    let log = json(&store, &["log", "c"]);
    let command: Vec<&str> =
        log["versions"][0]["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert!(command.ends_with(&["--recipe", &recipe, "--set", "pw=…", "--set=hash=…"]), "{command:?}");
}
