//! Edits behave like the system's own commands: compared with systemctl, the kernel's chown and chmod, and POSIX.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mif_tests::guest::Guest;
use mif_tests::{have, run, tool};

#[test]
fn an_appended_line_is_a_line_of_its_own() {
    let files =
        [("etc/open", "Port 22"), ("etc/whole", "Port 22\n"), ("etc/empty", ""), ("etc/crlf", "a\r\n")];
    let Some(guest) = Guest::new(&files) else { return };
    fs::write(guest.at("recipe.toml"), "[[edit]]\ndo = 'append'\npath = '/etc/open'\ncontent = 'last'\n")
        .unwrap();
    let edits = [
        "/etc/open:UsePAM yes",
        "/etc/whole:UsePAM yes",
        "/etc/empty:one",
        "/etc/crlf:b",
        "/etc/new:a",
        "/etc/new:b",
    ];
    let mut words: Vec<&str> = edits.iter().flat_map(|edit| ["--append", edit]).collect();
    words.extend(["--recipe", "recipe.toml", "--write", "/etc/ours:a", "--append", "/etc/ours:b"]);
    guest.edit(&words);
    assert_eq!(guest.cat("new", "/etc/open"), "Port 22\nUsePAM yes\nlast");
    assert_eq!(guest.cat("new", "/etc/whole"), "Port 22\nUsePAM yes\n");
    assert_eq!(guest.cat("new", "/etc/empty"), "one\n");
    assert_eq!(guest.cat("new", "/etc/crlf"), "a\r\nb\n");
    assert_eq!(guest.cat("new", "/etc/new"), "a\nb\n");
    assert_eq!(guest.cat("new", "/etc/ours"), "a\nb\n");
}

#[test]
fn a_path_with_a_colon_can_be_given() {
    let files = [("etc/a:b", "x"), ("dev/pci-0000:00:1f.2", "x"), ("etc/c", "c")];
    let Some(guest) = Guest::new(&files) else { return };
    guest.edit(&[
        "--write=/etc/a\\:b:new:text",
        "--delete=/dev/pci-0000:00:1f.2",
        "--rename=/etc/c:/etc/d\\:e",
        "--mkdir=/etc/f:g",
        "--chmod=/etc/a\\:b:0600",
        "--symlink=/etc/l\\:m:a:b",
    ]);
    assert_eq!(guest.cat("new", "/etc/a:b"), "new:text");
    assert_eq!(guest.cat("new", "/etc/l:m"), "new:text");
    assert!(
        guest.has("new", "/etc/d:e")
            && guest.has("new", "/etc/f:g")
            && !guest.has("new", "/dev/pci-0000:00:1f.2")
    );
    assert!(guest.refuses(&["--write=/etc/a\\:b"], 2).contains("\\:"));
}

/// Returns names, link counts and contents under a directory of an image.
fn tree_of(guest: &Guest, image: &str) -> String {
    let out = guest.extract(image);
    let shell = "cd \"$1/d\" && find . \\( -type f -printf '%P %n ' -exec cat {} \\; -printf '\\n' \\) -o -printf '%P %y %l\\n' | sort";
    run(tool("sh").args(["-c", shell, "sh"]).arg(out))
}

#[test]
fn rename_and_delete_do_what_posix_says() {
    let files = [("d/file", "f"), ("d/other", "o"), ("d/full/x", "x"), ("d/from/y", "y")];
    let change = |tree: &Path| {
        fs::create_dir(tree.join("d/empty")).unwrap();
        fs::hard_link(tree.join("d/file"), tree.join("d/same")).unwrap();
        std::os::unix::fs::symlink("full", tree.join("d/link")).unwrap();
    };
    let Some(guest) = Guest::with(&files, change) else { return };
    // A directory replaces an empty one, a file a file; two names of one file both stay.
    guest.edit(&["--rename=/d/from:/d/empty", "--rename=/d/other:/d/same", "--delete=/d/link"]);
    assert_eq!(
        tree_of(&guest, "new"),
        " d \nempty d \nempty/y 1 y\nfile 1 f\nfull d \nfull/x 1 x\nsame 1 o\n"
    );
    guest.edit_as("guest", "kept", &["--rename=/d/file:/d/same", "--rename=/d/full/:/d/moved/"]);
    let kept = tree_of(&guest, "kept");
    assert!(kept.contains("file 2 f\n") && kept.contains("same 2 f\n") && kept.contains("moved/x"), "{kept}");
    for (edit, code, says) in [
        ("--rename=/d/from:/d/full", 3, "not empty"),
        ("--rename=/d/file:/d/empty", 3, "is a directory"),
        ("--rename=/d/from:/d/other", 3, "not a directory"),
        ("--rename=/d/from:/d/from/y/z", 3, ""),
        ("--rename=/d/from:/d/from/z", 3, "into itself"),
        ("--rename=/d/file:/d/new/", 3, "slash"),
        ("--rename=/d/from/.:/d/z", 2, "ends in ."),
        ("--rename=/d/none:/d/z", 3, "/d/none"),
        ("--delete=/d/full/..", 2, "ends in .."),
        ("--delete=/d/link/", 3, "slash"),
        ("--delete=/d/file/", 3, ""),
        ("--write=/d/new/:x", 2, "slash"),
        ("--symlink=/d/new/:x", 2, "slash"),
    ] {
        let error = guest.refuses(&[edit], code);
        assert!(error.contains(says), "{edit}: {error}");
    }
}

#[test]
fn a_new_owner_takes_set_id_bits_and_capabilities_away_and_a_later_mode_sets_them() {
    if !have(&["debugfs", "setcap"]) || !mif_tests::is_root() {
        return;
    }
    let names = ["su", "group", "locked", "again", "ping"];
    let files: Vec<(String, &str)> =
        names.iter().map(|name| (format!("bin/{name}"), "#!/bin/sh\n")).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
    let change = |tree: &Path| {
        fs::create_dir(tree.join("bin/dir")).unwrap();
        for (name, mode) in [
            ("su", 0o6755),
            ("group", 0o2750),
            ("locked", 0o2644),
            ("again", 0o4755),
            ("ping", 0o755),
            ("dir", 0o2775),
        ] {
            fs::set_permissions(tree.join("bin").join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        run(tool("setcap").arg("cap_net_raw+ep").arg(tree.join("bin/ping")));
    };
    let Some(guest) = Guest::with(&files, change) else { return };
    guest.edit(&[
        "--chown=/bin/su:7",
        "--chown=/bin/group::8",
        "--chown=/bin/locked:7",
        "--chown=/bin/again:7",
        "--chown=/bin/ping:7:8",
        "--chown=/bin/dir:7",
        "--chmod=/bin/again:4755",
    ]);
    let disk = guest.export("new");
    let stat = |name: &str| run(tool("debugfs").args(["-R", &format!("stat /bin/{name}")]).arg(&disk));
    for (name, mode) in [
        ("su", "0755"),
        ("group", "0750"),
        ("locked", "02644"),
        ("again", "04755"),
        ("ping", "0755"),
        ("dir", "02775"),
    ] {
        assert!(stat(name).contains(&format!("Mode:  {mode} ")), "{name}: {}", stat(name));
    }
    assert!(!stat("ping").contains("security.capability"), "{}", stat("ping"));
    assert!(stat("group").contains("User:     0   Group:     8"), "{}", stat("group"));
}

#[test]
fn a_mode_and_an_acl_follow_each_other_and_new_files_inherit() {
    if !have(&["setfacl", "getfacl"]) {
        return;
    }
    let change = |tree: &Path| {
        run(tool("setfacl").args(["-m", "u:12345:rwx"]).arg(tree.join("d/acl")));
        run(tool("setfacl").args(["-d", "-m", "u:12345:rwx,g::rwx,o::-"]).arg(tree.join("d")));
    };
    let Some(guest) = Guest::with(&[("d/acl", "x"), ("d/plain", "x")], change) else { return };
    guest.edit(&[
        "--chmod=/d/acl:0640",
        "--write=/d/new:x",
        "--mkdir=/d/sub",
        "--write=/d/sub/new:x",
        "--chmod=/d/plain:0600",
    ]);
    let out = guest.extract("new");
    let acl = |path: &str| run(tool("getfacl").args(["-n", "-c", "-E", "-p"]).arg(out.join(path)));
    assert_eq!(acl("d/acl"), "user::rw-\nuser:12345:rwx\ngroup::r--\nmask::r--\nother::---\n\n");
    // The kernel's result for open(…, 0644) and mkdir(…, 0755) in such a directory.
    let inherited = "user::rw-\nuser:12345:rwx\ngroup::rwx\nmask::r--\nother::---\n\n";
    assert_eq!((acl("d/new"), acl("d/sub/new")), (inherited.into(), inherited.into()));
    assert!(
        acl("d/sub").contains("default:user:12345:rwx") && acl("d/sub").contains("\nmask::r-x\n"),
        "{}",
        acl("d/sub")
    );
    assert_eq!(acl("d/plain"), "user::rw-\ngroup::---\nother::---\n\n");
}

#[test]
fn a_hash_in_passwd_counts_for_lock_and_password() {
    let files = [
        ("etc/passwd", "root:x:0:0::/root:/bin/sh\nold:$6$salt$hash:1:1::/:/bin/sh\nopen::2:2::/:/bin/sh\n"),
        ("etc/shadow", "root:*:1:0:99999:7:::\nold:*:1:0:99999:7:::\n"),
    ];
    let Some(guest) = Guest::new(&files) else { return };
    guest.edit(&["--lock=old", "--lock=open"]);
    assert_eq!(
        guest.cat("new", "/etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nold:x:1:1::/:/bin/sh\nopen:x:2:2::/:/bin/sh\n"
    );
    let shadow = guest.cat("new", "/etc/shadow");
    assert!(shadow.contains("\nold:!$6$salt$hash:1:") && shadow.contains("\nopen:!:"), "{shadow}");
    guest.edit_as("guest", "set", &["--password=open:hash:$6$s$h", "--time=1700000000"]);
    assert!(guest.cat("set", "/etc/passwd").contains("\nopen:x:2:2:"));
    assert!(guest.cat("set", "/etc/shadow").contains("\nopen:$6$s$h:19675:0:99999:7:::"));
    let Some(guest) = Guest::new(&[("etc/passwd", "root:$6$a$b:0:0::/root:/bin/sh\n")]) else { return };
    guest.edit(&["--lock=root"]);
    assert_eq!(guest.cat("new", "/etc/passwd"), "root:!$6$a$b:0:0::/root:/bin/sh\n");
}

/// Units with aliases of all kinds.
const UNITS: &[(&str, &str)] = &[
    ("usr/lib/systemd/systemd", "x"),
    (
        "usr/lib/systemd/system/ssh.service",
        "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\nAlias=sshd.service\n",
    ),
    (
        "usr/lib/systemd/system/getty@.service",
        "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=getty.target\nDefaultInstance=tty1\n",
    ),
    (
        "usr/lib/systemd/system/old.service",
        "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target \\\n# a comment\n; another\n  graphical.target\nAlso=also.socket\n",
    ),
    (
        "usr/lib/systemd/system/also.socket",
        "[Socket]\nListenStream=1\n[Install]\nWantedBy=sockets.target\nAlias=more.socket\n",
    ),
    ("opt/linked.service", "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"),
    ("etc/systemd/system/.keep", ""),
];

/// Returns the links in the administrator's unit directory.
fn links(root: &Path) -> String {
    let shell = "cd \"$1/etc/systemd/system\" && find . -type l -printf '%p -> %l\\n' | sed -E 's# -> .*/# -> #' | sort";
    run(tool("sh").args(["-c", shell, "sh"]).arg(root))
}

#[test]
fn disable_takes_away_the_links_that_systemctl_takes_away() {
    if !have(&["systemctl", "find", "sed"]) {
        return;
    }
    let systemctl = |tree: &Path, verb: &str, unit: &str| {
        let root = format!("--root={}", tree.display());
        run(tool("systemctl").args([&root, verb, unit]).env("SYSTEMD_OFFLINE", "1"));
    };
    for (enabled, disabled) in [
        ("ssh", "ssh"),
        ("ssh", "sshd"),
        ("getty@tty5", "autovt@tty5"),
        ("autovt@tty5", "getty@tty5"),
        ("getty@tty5", "getty@"),
        ("getty@tty5", "getty@tty6"),
        ("old", "new"),
        ("new", "newest"),
        ("old", "also.socket"),
        ("old", "more.socket"),
        ("/opt/linked.service", "linked"),
    ] {
        let mut expected = String::new();
        let change = |tree: &Path| {
            let units = tree.join("usr/lib/systemd/system");
            std::os::unix::fs::symlink("getty@.service", units.join("autovt@.service")).unwrap();
            std::os::unix::fs::symlink("old.service", units.join("new.service")).unwrap();
            std::os::unix::fs::symlink("new.service", units.join("newest.service")).unwrap();
            // systemctl links a file outside its directories by its path inside the root.
            if enabled.starts_with('/') {
                std::os::unix::fs::symlink(enabled, tree.join("etc/systemd/system/linked.service")).unwrap();
                systemctl(tree, "enable", "linked");
            } else {
                systemctl(tree, "enable", enabled);
            }
            assert!(!links(tree).is_empty(), "{enabled}");
            let copy = tree.with_extension("copy");
            run(tool("cp").arg("-a").arg(tree).arg(&copy));
            systemctl(&copy, "disable", disabled);
            expected = links(&copy);
        };
        let Some(guest) = Guest::with(UNITS, change) else { return };
        // Includes another edit, because disabling nothing would change nothing.
        guest.edit(&["--disable", disabled, "--write", "/etc/x:x"]);
        assert_eq!(links(&guest.extract("new")), expected, "{enabled} is enabled, {disabled} disabled");
    }
}

#[test]
fn enable_of_an_alias_enables_the_unit_and_a_masked_unit_stays_as_it_is() {
    let change = |tree: &Path| {
        std::os::unix::fs::symlink("old.service", tree.join("usr/lib/systemd/system/new.service")).unwrap();
        std::os::unix::fs::symlink("/dev/null", tree.join("etc/systemd/system/ssh.service")).unwrap();
    };
    let Some(guest) = Guest::with(UNITS, change) else { return };
    guest.edit(&["--enable", "new", "--disable", "ssh"]);
    let links = links(&guest.extract("new"));
    for link in [
        "./multi-user.target.wants/old.service -> old.service",
        "./graphical.target.wants/old.service -> old.service",
        "./sockets.target.wants/also.socket -> also.socket",
        "./ssh.service -> null",
    ] {
        assert!(links.lines().any(|line| line == link), "{link}: {links}");
    }
    assert!(guest.refuses(&["--disable", "none"], 3).contains("no unit none.service"));
}
