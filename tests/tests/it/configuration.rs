//! Edits that configure a system or bring files into it: trees and archives, text replaced, kernel parameters and
//! arguments, configuration for the first boot. GNU tar, sed, debugfs and the disk's own bytes are the judges.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use mif_tests::guest::Guest;
use mif_tests::{have, is_root, run, tool};

/// Lists a tree as find(1) prints it: type, mode, owner, number of links, size of files, target.
fn list(tree: &Path) -> Vec<String> {
    let mut files = tool("find");
    files.current_dir(tree).args([".", "-mindepth", "1", "-printf", "%p %y %m %U:%G %n %l\\n"]);
    let mut lines: Vec<String> = run(&mut files).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn a_tar_is_unpacked_as_gnu_tar_does_into_the_directories_that_exist() {
    if !have(&["tar", "setfattr"]) || !is_root() {
        return;
    }
    let files = [("usr/lib/old", "old\n"), ("opt/there/kept", "kept\n"), ("opt/there/new", "replaced\n")];
    let Some(guest) = Guest::with(&files, |tree| {
        symlink("usr/lib", tree.join("lib")).unwrap();
        fs::set_permissions(tree.join("opt/there"), fs::Permissions::from_mode(0o711)).unwrap();
    }) else {
        return;
    };
    let from = guest.at("from");
    for (path, text) in [("lib/new", "new\n"), ("opt/there/new", "tar\n"), ("a/b/run", "#!\n"), ("empty", "")]
    {
        fs::create_dir_all(from.join(path).parent().unwrap()).unwrap();
        fs::write(from.join(path), text).unwrap();
    }
    fs::hard_link(from.join("a/b/run"), from.join("a/again")).unwrap();
    symlink("../nowhere", from.join("a/link")).unwrap();
    run(tool("mkfifo").arg(from.join("a/fifo")));
    run(tool("mknod").arg(from.join("a/null")).args(["c", "1", "3"]));
    fs::set_permissions(from.join("a/b/run"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(from.join("a"), fs::Permissions::from_mode(0o1770)).unwrap();
    run(tool("chown").args(["-h", "-R", "12:34"]).arg(from.join("a")));
    run(tool("chmod").arg("4755").arg(from.join("a/b/run")));
    run(tool("setfattr").args(["-n", "user.note", "-v", "x"]).arg(from.join("empty")));
    run(tool("touch").args(["-d", "2001-02-03 04:05:06 UTC"]).arg(from.join("a/b")).arg(from.join("empty")));
    run(tool("tar").args(["--xattrs", "-C"]).arg(&from).arg("-cf").arg(guest.at("t.tar")).arg("."));
    guest.edit(&["--tar=t.tar:/"]);
    let (ours, expected) = (guest.extract("new"), guest.extract("guest"));
    run(tool("tar")
        .args(["--xattrs", "--numeric-owner", "-p", "--keep-directory-symlink", "--no-overwrite-dir", "-C"])
        .arg(&expected)
        .arg("-xf")
        .arg(guest.at("t.tar")));
    assert_eq!(list(&ours), list(&expected));
    assert_eq!(fs::read_to_string(ours.join("usr/lib/new")).unwrap(), "new\n", "through the symlink");
    assert_eq!(fs::read_to_string(ours.join("opt/there/new")).unwrap(), "tar\n");
    let times = |tree: &Path, path: &str| fs::symlink_metadata(tree.join(path)).unwrap().mtime();
    for path in ["a/b", "empty", "a/again"] {
        assert_eq!(times(&ours, path), times(&expected, path), "{path}");
    }
    let note = run(tool("getfattr").args(["-n", "user.note", "--only-values"]).arg(ours.join("empty")));
    assert_eq!(note, "x");
    // From a pipe, below a directory; a directory that is missing is named.
    let piped = |edit: &str| {
        let mut command: Command = guest.mif(&["customize", "guest", "--as", "piped", edit]);
        command.stdin(Stdio::from(fs::File::open(guest.at("t.tar")).unwrap())).output().unwrap()
    };
    assert!(piped("--tar=-:/opt").status.success());
    assert_eq!(guest.cat("piped", "/opt/a/again"), "#!\n");
    let said = String::from_utf8_lossy(&piped("--tar=-:/missing").stderr).into_owned();
    assert!(said.contains("/missing: no such directory"), "{said}");
    // A path that leads out, a directory for a file, a compressed archive.
    run(tool("tar")
        .args(["-P", "-C"])
        .arg(&from)
        .args(["--transform", "s,^,../,", "-cf"])
        .arg(guest.at("out.tar"))
        .arg("empty"));
    assert!(guest.refuses(&["--tar=out.tar:/opt"], 3).contains("leads out"));
    fs::create_dir_all(guest.at("dir/opt/there/kept")).unwrap();
    assert!(guest.refuses(&["--copy-in=dir/.:/"], 3).contains("not a directory"));
    run(tool("gzip").arg("-k").arg(guest.at("t.tar")));
    assert!(guest.refuses(&["--tar=t.tar.gz:/opt"], 4).contains("zcat"));
}

#[test]
fn local_files_become_the_images_own() {
    let Some(guest) = Guest::new(&[
        ("etc/passwd", "root:x:0:0::/root:/bin/sh\nada:x:7:8::/:\n"),
        ("etc/group", "staff:x:50:\n"),
        ("srv/.keep", ""),
    ]) else {
        return;
    };
    for (path, text) in [("site/index", "hello\n"), ("site/sub/run", "#!\n"), ("one", "1\n")] {
        fs::create_dir_all(guest.at(path).parent().unwrap()).unwrap();
        fs::write(guest.at(path), text).unwrap();
    }
    fs::set_permissions(guest.at("site/sub/run"), fs::Permissions::from_mode(0o4711)).unwrap();
    symlink("/etc/hostname", guest.at("site/link")).unwrap();
    fs::write(
        guest.at("r.toml"),
        "[[edit]]\ndo = 'copy-in'\nfile = 'one'\npath = '/srv/site'\nowner = 'ada:staff'\n",
    )
    .unwrap();
    let said = guest.edit(&[
        "--copy-in=site:/srv",
        "--copy-in=site/.:/etc",
        "--recipe=r.toml",
        "--copy=/srv/site:/srv/twin",
        "--copy=/srv/site/one:/etc",
    ]);
    assert!(said.contains("put 5 paths from site into /srv"), "{said}");
    let tree = guest.extract("new");
    let meta = |path: &str| fs::symlink_metadata(tree.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    for folder in ["srv/site", "etc", "srv/twin"] {
        assert_eq!(fs::read_to_string(tree.join(folder).join("index")).unwrap(), "hello\n");
        assert_eq!(fs::read_link(tree.join(folder).join("link")).unwrap(), Path::new("/etc/hostname"));
        assert_eq!(meta(&format!("{folder}/sub/run")).permissions().mode() & 0o7777, 0o711, "no set-ID bits");
    }
    if is_root() {
        assert_eq!((meta("srv/site/index").uid(), meta("srv/site/index").gid()), (0, 0));
        for path in ["srv/site/one", "srv/twin/one", "etc/one"] {
            assert_eq!((meta(path).uid(), meta(path).gid()), (7, 50), "{path}");
        }
    }
    for (edit, code, reason) in [
        ("--copy-in=missing:/srv", 3, "missing"),
        ("--copy-in=site:/nowhere", 3, "/nowhere: no such directory"),
        ("--copy-in=site", 2, "FILE:PATH"),
        ("--copy=/none:/srv", 3, "/none: no such file"),
    ] {
        let said = guest.refuses(&[edit], code);
        assert!(said.contains(reason), "{edit}: {said}");
    }
}

#[test]
fn text_is_replaced_as_sed_replaces_it() {
    if !have(&["sed"]) {
        return;
    }
    let text = "#Port 22\n  PermitRootLogin yes\nUsePAM yes/no\nport 22\n\nlast";
    let Some(guest) = Guest::new(&[("etc/sshd_config", text)]) else { return };
    fs::write(guest.at("text"), text).unwrap();
    for script in [
        "s/^#?(Port) .*/\\1 2222/",
        "s/yes/no/g;s/no/[&]/",
        "s|yes/no|maybe|",
        "s/PORT/x/i",
        "s/t$/\\t./",
        "s/^/> /",
        "s/a*/-/g",
    ] {
        let sed = run(tool("sed").args(["-E", script]).arg(guest.at("text")));
        guest.edit(&[&format!("--edit=/etc/sshd_config:{script}")]);
        assert_eq!(guest.cat("new", "/etc/sshd_config"), sed, "{script}");
    }
    let said = guest.edit(&["--edit=/etc/sshd_config:s/absent/x/"]);
    assert!(said.contains("changed no line"), "{said}");
    assert!(guest.refuses(&["--edit=/etc/none:s/a/b/"], 3).contains("/etc/none"));
    assert!(guest.refuses(&["--edit=/etc:s/a/b/"], 3).contains("not a regular file"));
    assert!(guest.refuses(&["--edit=/etc/sshd_config:d"], 2).contains("s/PATTERN/"));
}

#[test]
fn what_is_scrubbed_leaves_no_trace_on_the_disk() {
    let secret = "the-secret-that-nobody-may-find\n".repeat(500);
    let files =
        [("root/key", secret.as_str()), ("etc/a.log", "log\n"), ("etc/b/c.log", "log\n"), ("etc/old", "x\n")];
    let Some(guest) =
        Guest::with(&files, |tree| fs::hard_link(tree.join("root/key"), tree.join("etc/key")).unwrap())
    else {
        return;
    };
    let has_secret = |image: &str| {
        let disk = fs::read(guest.export(image)).unwrap();
        memchr(&disk, b"the-secret-that-nobody-may-find")
    };
    assert!(has_secret("guest"));
    guest.edit(&[
        "--scrub=/root/key",
        "--truncate=/etc/a.log",
        "--truncate-recursive=/etc/b",
        "--touch=/etc/new",
        "--touch=/etc/old",
    ]);
    assert!(!has_secret("new"));
    assert!(!guest.has("new", "/root/key"));
    for empty in ["/etc/key", "/etc/a.log", "/etc/b/c.log", "/etc/new"] {
        assert_eq!(guest.cat("new", empty), "", "{empty}");
    }
    assert_eq!(guest.cat("new", "/etc/old"), "x\n");
    assert!(guest.refuses(&["--truncate=/etc/b"], 3).contains("directory"));
    assert!(guest.refuses(&["--scrub=/etc/none"], 3).contains("/etc/none"));
}

fn memchr(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn a_kernel_argument_is_wherever_the_boot_loader_looks() {
    let block = |text: &str| format!("{text}{}", "#".repeat(1024 - text.len()));
    let environment = block("# GRUB Environment Block\nsaved_entry=x\nkernelopts=root=UUID=1 ro\n");
    let files: [(&str, &str); 9] = [
        ("etc/default/grub", "GRUB_TIMEOUT=1\nGRUB_CMDLINE_LINUX=\"net.ifnames=0\"\n"),
        ("etc/default/grub.d/15.cfg", "GRUB_CMDLINE_LINUX=\"console=tty0\" # cloud\n"),
        ("boot/grub/grub.cfg", "menuentry 'x' {\n  linux /vmlinuz root=/dev/sda1\n  initrd /initrd\n}\n"),
        ("boot/grub2/grubenv", &environment),
        ("boot/loader/entries/a.conf", "title a\noptions $kernelopts\n"),
        ("boot/loader/entries/b.conf", "title b\noptions root=/dev/sda1 ro\n"),
        ("etc/kernel/cmdline", "root=/dev/sda1\n"),
        ("etc/sysctl.conf", "#kernel.x=1\nvm.swappiness = 60\n"),
        ("etc/motd", ""),
    ];
    let Some(guest) = Guest::new(&files) else { return };
    guest.edit(&[
        "--kernel-arg=console=ttyS0",
        "--kernel-arg=console=ttyS0",
        "--sysctl=vm.swappiness=10",
        "--sysctl=net.ipv4.ip_forward=1",
        "--sysctl=net/ipv4/ip_forward=0",
    ]);
    for (path, text) in [
        ("/etc/default/grub", "GRUB_TIMEOUT=1\nGRUB_CMDLINE_LINUX=\"net.ifnames=0 console=ttyS0\"\n"),
        ("/etc/default/grub.d/15.cfg", "GRUB_CMDLINE_LINUX=\"console=tty0 console=ttyS0\" # cloud\n"),
        (
            "/boot/grub/grub.cfg",
            "menuentry 'x' {\n  linux /vmlinuz root=/dev/sda1 console=ttyS0\n  initrd /initrd\n}\n",
        ),
        (
            "/boot/grub2/grubenv",
            &block("# GRUB Environment Block\nsaved_entry=x\nkernelopts=root=UUID=1 ro console=ttyS0\n"),
        ),
        ("/boot/loader/entries/a.conf", "title a\noptions $kernelopts\n"),
        ("/boot/loader/entries/b.conf", "title b\noptions root=/dev/sda1 ro console=ttyS0\n"),
        ("/etc/kernel/cmdline", "root=/dev/sda1 console=ttyS0\n"),
        ("/etc/sysctl.conf", "#kernel.x=1\nvm.swappiness = 10\n"),
        ("/etc/sysctl.d/99-zz-mif.conf", "net/ipv4/ip_forward = 0\n"),
    ] {
        assert_eq!(guest.cat("new", path), text, "{path}");
    }
    if have(&["grub-editenv"]) {
        fs::write(guest.at("grubenv"), guest.cat("new", "/boot/grub2/grubenv")).unwrap();
        let list = run(tool("grub-editenv").arg(guest.at("grubenv")).arg("list"));
        assert_eq!(list, "saved_entry=x\nkernelopts=root=UUID=1 ro console=ttyS0\n");
    }
    assert!(guest.refuses(&["--kernel-arg=a b"], 2).contains("one argument"));
    assert!(guest.refuses(&["--sysctl=x"], 2).contains("KEY=VALUE"));
    let unified = ["--mkdir=/boot/efi/EFI/Linux", "--write=/boot/efi/EFI/Linux/a.efi:MZ", "--kernel-arg=x"];
    assert!(guest.refuses(&unified, 4).contains("unified kernel images, such as /boot/efi/EFI/Linux/a.efi"));
    let bare: Vec<String> = files[..7].iter().map(|(path, _)| format!("--delete=/{path}")).collect();
    let bare: Vec<&str> = bare.iter().map(String::as_str).chain(["--kernel-arg=x"]).collect();
    assert!(guest.refuses(&bare, 4).contains("no boot loader configuration"));
}

#[test]
fn the_first_boot_is_configured_where_the_image_looks() {
    let cloud = [
        ("etc/cloud/cloud.cfg", "users: []\n"),
        ("etc/cloud/cloud.cfg.d/90_dpkg.cfg", "datasource_list:\n  - Azure\n  - None\n"),
        ("var/lib/.keep", ""),
    ];
    let Some(guest) = Guest::new(&cloud) else { return };
    fs::write(guest.at("user"), "#cloud-config\nhostname: {{h}}\n").unwrap();
    fs::write(guest.at("meta"), "instance-id: i-1\n").unwrap();
    fs::write(guest.at("bad"), "hostname: x\n").unwrap();
    guest.edit(&["--cloud-init=user,meta"]);
    let seed = "/var/lib/cloud/seed/nocloud";
    assert_eq!(guest.cat("new", &format!("{seed}/user-data")), "#cloud-config\nhostname: {{h}}\n");
    assert_eq!(guest.cat("new", &format!("{seed}/meta-data")), "instance-id: i-1\n");
    assert_eq!(
        guest.cat("new", "/etc/cloud/cloud.cfg.d/99-zz-mif.cfg"),
        "datasource_list: [ NoCloud, None ]\n"
    );
    let mode = |path: &str| run(&mut guest.mif(&["ls", "-l", "new", path]));
    assert!(
        mode(&format!("{seed}/user-data")).contains("rw-------")
            || mode(&format!("{seed}/user-data")).contains("0600")
    );
    fs::write(guest.at("r.toml"), "[[edit]]\ndo = 'cloud-init'\nuser-data = 'user'\ntemplate = true\n")
        .unwrap();
    guest.edit(&["--recipe=r.toml", "--set=h=web"]);
    assert_eq!(guest.cat("new", &format!("{seed}/user-data")), "#cloud-config\nhostname: web\n");
    assert!(guest.cat("new", &format!("{seed}/meta-data")).starts_with("instance-id: mif-"));
    let log = run(&mut guest.mif(&["log", "new", "--json"]));
    assert!(log.contains("h=…"), "values in user data may be secrets: {log}");
    assert!(guest.refuses(&["--cloud-init=bad"], 3).contains("#cloud-config"));
    assert!(guest.refuses(&["--cloud-init=user,bad"], 3).contains("instance-id"));
    fs::write(guest.at("x.ign"), "{\"ignition\": {\"version\": \"3.4.0\"}}").unwrap();
    assert!(guest.refuses(&["--ignition=x.ign"], 3).contains("first boot"));
    assert!(guest.refuses(&["--ignition=user"], 3).contains("butane"));
    let Some(coreos) = Guest::new(&[("ignition.firstboot", "")]) else { return };
    fs::write(coreos.at("x.ign"), "{\"ignition\": {\"version\": \"3.4.0\"}}").unwrap();
    assert!(coreos.refuses(&["--cloud-init=x.ign"], 3).contains("no cloud-init"));
    coreos.edit(&["--ignition=x.ign"]);
    let tree = coreos.extract("new");
    let mode = |path: &str| fs::metadata(tree.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("ignition"), mode("ignition/config.ign")), (0o700, 0o600));
}

#[test]
fn flatcars_config_is_on_its_oem_filesystem() {
    if !have(&["sfdisk", "mke2fs"]) {
        return;
    }
    let Some(guest) = Guest::new(&[("etc/os-release", "ID=flatcar\n")]) else { return };
    const MIB: u64 = 1 << 20;
    let disk = guest.at("flatcar.raw");
    fs::File::create(&disk).unwrap().set_len(20 * MIB).unwrap();
    fs::write(guest.at("table"), "label: gpt\nstart=2048,size=16384\nstart=18432,size=16384\n").unwrap();
    let table = fs::File::open(guest.at("table")).unwrap();
    run(tool("sfdisk").arg("-q").arg(&disk).stdin(Stdio::from(table)));
    for (start, label) in [(MIB, "ROOT"), (9 * MIB, "OEM")] {
        run(tool("mke2fs")
            .args(["-q", "-F", "-L", label, "-E"])
            .arg(format!("offset={start}"))
            .arg(&disk)
            .arg("8M"));
    }
    run(&mut guest.mif(&["import", "--name", "flatcar", "flatcar.raw"]));
    fs::write(guest.at("x.ign"), "{\"ignition\": {\"version\": \"3.4.0\"}}").unwrap();
    guest.edit_as("flatcar", "ready", &["--ignition=x.ign"]);
    assert!(guest.cat("ready", "p2:/config.ign").contains("3.4.0"));
}
