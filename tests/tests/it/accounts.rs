//! Users and groups that `mif customize` adds or changes: the same as `useradd`, `usermod` and `groupadd` make them in a
//! chroot, and sound for `pwck`, `grpck` and `visudo`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use mif_tests::guest::Guest;
use mif_tests::{find, have, is_root, run, skip, tool};

/// The tools that run in the chroot.
const TOOLS: [&str; 6] = ["useradd", "usermod", "groupadd", "pwck", "grpck", "bash"];

/// Files of accounts such as Debian's.
const FILES: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
         games:x:5:60:games:/usr/games:/usr/sbin/nologin\n_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n\
         systemd-network:x:998:998:systemd Network Management:/:/usr/sbin/nologin\n\
         ada:x:1002:1002:Ada:/home/ada:/bin/sh\n",
    ),
    (
        "etc/group",
        "root:x:0:\ndaemon:x:1:\nadm:x:4:\nmail:x:8:\ngames:x:60:\nusers:x:100:\nnogroup:x:65534:\nkvm:x:103:ada\n\
         systemd-network:x:998:\nada:x:1002:\n",
    ),
    (
        "etc/shadow",
        "root:*:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\ngames:*:19000:0:99999:7:::\n\
         _apt:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\nsystemd-network:!*:19000::::::\n\
         ada:$6$x$y:19000:0:99999:7:::\n",
    ),
    (
        "etc/gshadow",
        "root:*::\ndaemon:*::\nadm:*::\nmail:*::\ngames:*::\nusers:*::\nnogroup:*::\nkvm:!::ada\n\
         systemd-network:!*::\nada:!::\n",
    ),
    ("etc/subuid", "ada:100000:65536\n"),
    ("etc/subgid", "ada:100000:65536\n"),
    (
        "etc/login.defs",
        "MAIL_DIR /var/mail\nUMASK\t\t022\nPASS_MAX_DAYS\t99999\nPASS_MIN_DAYS\t0\nPASS_WARN_AGE\t7\n\
         UID_MIN\t\t\t 1000\nUID_MAX\t\t\t60000\n#SYS_UID_MIN 100\nGID_MIN 1000\nGID_MAX 60000\n\
         SUB_UID_MIN 100000\nSUB_UID_MAX 600100000\nSUB_UID_COUNT 65536\nSUB_GID_MIN 100000\n\
         SUB_GID_MAX 600100000\nSUB_GID_COUNT 65536\nUSERGROUPS_ENAB yes\nENCRYPT_METHOD SHA512\n",
    ),
    ("etc/default/useradd", "# SHELL\nSHELL=/bin/sh\n"),
    ("etc/skel/.bashrc", "umask 022\n"),
    ("etc/skel/.config/app/settings", "a = 1\n"),
    ("etc/skel/bin/run", "#!/bin/sh\n"),
    ("etc/sudoers", "root ALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n"),
    ("home/ada/kept", "kept\n"),
    ("var/mail/.keep", ""),
];

/// The commands of shadow-utils, and the same as edits.
const STEPS: &[(&str, &str)] = &[
    ("groupadd -r docker", "--group=docker:system"),
    ("groupadd -g 2000 team", "--group=team:gid=2000"),
    ("groupadd people", "--group=people"),
    ("useradd -m -s /bin/bash -G adm,docker ops", "--user=ops:groups=adm+docker,shell=/bin/bash"),
    ("useradd -r svc", "--user=svc:system"),
    ("useradd -r -m -d /var/lib/svc2 svc2", "--user=svc2:system,home=/var/lib/svc2"),
    ("useradd -m -u 1500 -c Five five", "--user=five:uid=1500,comment=Five"),
    ("useradd -m six", "--user=six"),
    ("useradd -m -g users -d /srv/deep/er seven", "--user=seven:gid=users,home=/srv/deep/er"),
    ("useradd -m -g 2000 -G kvm eight", "--user=eight:gid=2000,groups=kvm"),
    ("usermod -a -G adm,games -s /bin/bash ada", "--user=ada:groups=adm+games,shell=/bin/bash"),
    ("usermod -c Lovelace ada", "--user=ada:comment=Lovelace"),
    ("useradd -m -u 700 low", "--user=low:uid=700"),
];

/// Copies the tools, and the libraries that they need, into a tree.
fn add_tools(tree: &Path) {
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::create_dir_all(tree.join("home")).unwrap();
    fs::create_dir_all(tree.join("usr/sbin")).unwrap();
    for name in TOOLS {
        let from = find(name).unwrap();
        let to = if name == "bash" { tree.join("bin/bash") } else { tree.join("usr/sbin").join(name) };
        fs::copy(&from, to).unwrap();
        for library in run(tool("ldd").arg(&from)).split_whitespace().filter(|word| word.starts_with('/')) {
            let to = tree.join(&library[1..]);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(library, to).unwrap();
        }
    }
    symlink("bash", tree.join("bin/sh")).unwrap();
    symlink(".bashrc", tree.join("etc/skel/.profile")).unwrap();
    for (path, mode) in [("bin/run", 0o755), (".config", 0o700)] {
        fs::set_permissions(tree.join("etc/skel").join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    for path in ["etc/shadow", "etc/gshadow"] {
        fs::set_permissions(tree.join(path), fs::Permissions::from_mode(0o640)).unwrap();
    }
}

/// Returns the files of accounts, and all that is in the directories of users: type, mode, owner, size, target.
fn accounts(root: &Path) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = ["passwd", "group", "shadow", "gshadow", "subuid", "subgid"]
        .map(|name| (name.to_owned(), fs::read_to_string(root.join("etc").join(name)).unwrap_or_default()))
        .into();
    for folder in ["home", "srv", "var/lib", "var/mail"] {
        let mut find = tool("find");
        find.current_dir(root).args([folder, "-printf", "%p %y %m %U:%G %l\\n"]);
        let mut lines: Vec<String> = match find.output() {
            Ok(output) => String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect(),
            Err(e) => panic!("{e}"),
        };
        lines.sort();
        all.push((folder.to_owned(), lines.join("\n")));
    }
    all
}

fn chroot(root: &Path, line: &str) -> String {
    fs::create_dir_all(root.join("proc")).unwrap();
    // Without /proc, useradd copies no subdirectory of the skeleton, and says nothing.
    let script = "mount -t proc proc \"$0/proc\" && exec chroot \"$0\" \"$@\"";
    let mut command = tool("unshare");
    command.args(["-m", "sh", "-c", script]).arg(root).args(line.split(' '));
    command.env("SOURCE_DATE_EPOCH", "1700000000");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn users_are_as_useradd_makes_them() {
    if !have(&TOOLS) || !have(&["chroot", "unshare", "ldd"]) || !is_root() && !skip("chroot needs root") {
        return;
    }
    let variants: [&[(&str, &str)]; 4] = [
        &[],
        &[(
            "etc/login.defs",
            "HOME_MODE 0700\nSUB_UID_COUNT 1000\nSUB_GID_COUNT 0\nUID_MIN 5000\nSYS_UID_MAX 600\n",
        )],
        &[
            ("etc/login.defs", "UMASK 077\nUSERGROUPS_ENAB no\nPASS_MAX_DAYS -1\nSYS_GID_MIN 200\n"),
            ("etc/default/useradd", "GROUP=100\nHOME=/srv\nINACTIVE=30\nCREATE_MAIL_SPOOL=yes\n"),
        ],
        &[("etc/passwd", "+::::::\n"), ("etc/group", "+:::\n"), ("etc/subuid", "x:165600:10\n")],
    ];
    for variant in variants {
        let Some(guest) = Guest::with(FILES, |tree| {
            add_tools(tree);
            for (path, more) in variant {
                let old = fs::read_to_string(tree.join(path)).unwrap();
                fs::write(tree.join(path), format!("{old}{more}")).unwrap();
            }
        }) else {
            return;
        };
        let edits: Vec<&str> = STEPS.iter().map(|(_, edit)| *edit).collect();
        let mut customize = guest.mif(&["customize", "guest", "--as", "new"]);
        run(customize.args(&edits).env("SOURCE_DATE_EPOCH", "1700000000"));
        let (expected, ours) = (guest.extract("guest"), guest.extract("new"));
        for (command, _) in STEPS {
            chroot(&expected, command);
        }
        for (theirs, ours) in accounts(&expected).into_iter().zip(accounts(&ours)) {
            assert_eq!(ours, theirs, "{variant:?}");
        }
        let nis = variant.iter().any(|(_, text)| text.starts_with('+'));
        assert_eq!(chroot(&ours, "pwck -q -r"), "");
        if !nis {
            assert_eq!(chroot(&ours, "grpck -r"), "");
        }
    }
}

#[test]
fn what_sudo_reads_is_sound_and_nobody_else_can_read_it() {
    if !have(&["visudo"]) {
        return;
    }
    let Some(guest) = Guest::with(FILES, |tree| {
        fs::create_dir_all(tree.join("bin")).unwrap();
        fs::write(tree.join("bin/sh"), "").unwrap();
        let sudoers = "root ALL=(ALL:ALL) ALL";
        fs::write(tree.join("etc/sudoers"), sudoers).unwrap();
        fs::set_permissions(tree.join("etc/sudoers"), fs::Permissions::from_mode(0o440)).unwrap();
    }) else {
        return;
    };
    guest.edit(&["--user=ops.eu:sudo=nopasswd", "--user=ada:sudo=yes", "--user=ops.eu:sudo=nopasswd"]);
    let tree = guest.extract("new");
    let mode = |path: &str| fs::symlink_metadata(tree.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        fs::read_to_string(tree.join("etc/sudoers")).unwrap(),
        "root ALL=(ALL:ALL) ALL\n#includedir /etc/sudoers.d\n",
        "the directory is included, once"
    );
    assert_eq!((mode("etc/sudoers"), mode("etc/sudoers.d")), (0o440, 0o750));
    for (name, text) in
        [("90-mif-ops_eu", "ops.eu ALL=(ALL:ALL) NOPASSWD: ALL\n"), ("90-mif-ada", "ada ALL=(ALL:ALL) ALL\n")]
    {
        let path = format!("etc/sudoers.d/{name}");
        assert_eq!(fs::read_to_string(tree.join(&path)).unwrap(), text);
        assert_eq!(mode(&path), 0o440);
        run(tool("visudo").args(["-q", "-c", "-f"]).arg(tree.join(&path)));
    }
    run(tool("visudo").args(["-q", "-c", "-f"]).arg(tree.join("etc/sudoers")));
}

#[test]
fn a_user_who_cannot_be_as_asked_is_refused_and_the_reason_says_what_to_do() {
    let Some(guest) = Guest::with(FILES, |tree| {
        fs::create_dir_all(tree.join("bin")).unwrap();
        fs::write(tree.join("bin/sh"), "").unwrap();
        fs::remove_file(tree.join("etc/sudoers")).unwrap();
    }) else {
        return;
    };
    for (edit, code, reason) in [
        ("--user=9x", 2, "invalid user name"),
        ("--user=a:uid=1002", 3, "has a user with the number 1002"),
        ("--user=a:uid=100001", 3, "subordinate"),
        ("--user=a:uid=4294967295", 2, "invalid user or group number"),
        ("--user=ada:uid=7", 3, "cannot be changed"),
        ("--user=a:groups=wheel", 3, "--group wheel"),
        ("--user=a:shell=/bin/zsh", 3, "no shell /bin/zsh"),
        ("--user=a:home=srv", 2, "absolute path"),
        ("--user=mail", 3, "gid=mail"),
        ("--user=a:sudo=yes", 3, "no sudo"),
        ("--user=a:sudo=always", 2, "yes or nopasswd"),
        ("--user=a:color=red", 2, "keys uid, gid, groups"),
        ("--group=adm:gid=5", 3, "another number: 4"),
        ("--group=new:gid=4", 3, "the number 4"),
        ("--ssh-key=new:string:ssh-ed25519 AAAA", 3, "--user new"),
        ("--ssh-key=_apt:string:ssh-ed25519 AAAA", 3, "--user _apt:home=/nonexistent"),
        ("--chown=/etc/skel:new", 3, "--user new"),
    ] {
        let said = guest.refuses(&[edit], code);
        assert!(said.contains(reason), "{edit}: {said}");
    }
    // What is there already is left as it is.
    let said = guest.edit(&["--group=adm", "--user=ada", "--user=mail:gid=mail"]);
    assert!(!said.contains("/etc/shadow-"), "{said}");
    assert_eq!(guest.cat("new", "/etc/passwd").lines().filter(|line| line.starts_with("ada:")).count(), 1);
    // A key for a new user is in a home of its own.
    guest.edit(&["--user=new", "--ssh-key=new:string:ssh-ed25519 AAAAx y"]);
    assert_eq!(guest.cat("new", "/home/new/.ssh/authorized_keys"), "ssh-ed25519 AAAAx y\n");
}

#[test]
fn a_new_home_has_the_labels_of_the_policy() {
    const CONTEXTS: &str = "/.* system_u:object_r:default_t:s0\n/home system_u:object_r:home_root_t:s0\n\
                            /home/[^/]+ -d unconfined_u:object_r:user_home_dir_t:s0\n\
                            /home/[^/]+/.+ unconfined_u:object_r:user_home_t:s0\n";
    let files = [
        FILES,
        &[
            ("etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=targeted\n"),
            ("etc/selinux/targeted/contexts/files/file_contexts", CONTEXTS),
        ],
    ]
    .concat();
    let Some(guest) = Guest::new(&files) else { return };
    let shell = ["--write=/bin/sh:", "--mkdir=/bin"];
    let label = "--xattr=/home:security.selinux=system_u:object_r:home_root_t:s0";
    let moved = "--user=ada:home=/home/new";
    guest.edit(&[shell[1], shell[0], label, "--user=ops", moved, "--ssh-key=ops:string:ssh-ed25519 AAAAx"]);
    let volume = guest.export("new");
    if !have(&["debugfs"]) {
        return;
    }
    for (path, kind) in [
        ("/home/ops", "user_home_dir_t"),
        ("/home/ops/.bashrc", "user_home_t"),
        ("/home/ops/.config/app", "user_home_t"),
        ("/home/new", "user_home_dir_t"),
        ("/home/ops/.ssh/authorized_keys", "user_home_t"),
    ] {
        let list = run(tool("debugfs").args(["-R", &format!("ea_get {path} security.selinux")]).arg(&volume));
        assert!(list.contains(&format!(":{kind}:s0")), "{path}: {list}");
    }
}
