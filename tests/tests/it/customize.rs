//! Customising stored images: the real tools' view of the edited volumes, refusals that change nothing, many images at
//! once, and a Debian that boots with its new name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mif_tests::debian::{TOOLS, boot, make_disk, tree};
use mif_tests::disk::{assert_gpt, assert_sound, blkid, cut, parts};
use mif_tests::{WorkFolder, have, mif, run, run_failing, snapshot, tool, work_folder};
use serde_json::Value;

/// The tools that the small disk needs.
const SMALL_TOOLS: [&str; 9] =
    ["sfdisk", "mke2fs", "e2fsck", "debugfs", "mkfs.vfat", "fsck.fat", "mcopy", "mdir", "perl"];

const MIB: u64 = 1 << 20;
/// Offset and length of the root, the ESP and /var on the small disk.
const ROOT: (u64, u64) = (MIB, 24 * MIB);
const ESP: (u64, u64) = (25 * MIB, 16 * MIB);
const VAR: (u64, u64) = (41 * MIB, 8 * MIB);

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHTdwl4uXs5fG8mYtUWcQqKzv4Wm2b6gqfTqVqk3LwAb me@here";

/// The files of the small disk's root.
const FILES: &[(&str, &str)] = &[
    (
        "etc/fstab",
        "LABEL=root / ext4 defaults 0 1\n\
         /dev/disk/by-label/ESP /boot/efi vfat defaults 0 1\n\
         UUID=6d69662d-0000-4000-8000-000000000003 /var ext4 defaults 0 2\n\
         /dev/sdb1 /data ext4 nofail 0 2\n",
    ),
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1001:Ada:/home/ada:/bin/sh\nno:x:9:9::/nowhere:\n",
    ),
    ("etc/group", "root:x:0:\nstaff:x:50:\nada:x:1001:\n"),
    ("etc/shadow", "root:*:19000:0:99999:7:::\nada:$6$salt$hash:19000:0:99999:7:::\n"),
    ("etc/login.defs", "# passwords\nENCRYPT_METHOD YESCRYPT\n"),
    ("etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\told\n"),
    ("etc/hostname", "old\n"),
    ("etc/os-release", "ID=debian\n"),
    ("etc/debian_version", "12.0\n"),
    ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
    ("etc/ssh/ssh_host_ed25519_key", "secret\n"),
    ("etc/ssh/ssh_host_ed25519_key.pub", "public\n"),
    ("etc/ssh/sshd_config", "UsePAM yes\n"),
    ("etc/network/interfaces", "auto lo eth0\niface lo inet loopback\niface eth0 inet dhcp\n"),
    ("root/.bash_history", "secret command\n"),
    ("home/ada/.python_history", "1+1\n"),
    ("home/ada/kept", "kept\n"),
    ("sbin/ifup", "#!\n"),
    ("usr/bin/ssh-keygen", "#!\n"),
    ("usr/bin/systemctl", "#!\n"),
    ("usr/share/zoneinfo/Europe/Berlin", "TZif2\n"),
    ("usr/lib/systemd/systemd", "#!\n"),
    (
        "usr/lib/systemd/system/ssh.service",
        "[Unit]\nDescription=SSH\n[Install]\nWantedBy=multi-user.target\nAlias=sshd.service\n",
    ),
    (
        "usr/lib/systemd/system/getty@.service",
        "[Unit]\nWantedBy=no.target\n[Install]\nWantedBy=getty.target\nDefaultInstance=tty1\n",
    ),
    ("usr/lib/systemd/system/static.service", "[Unit]\nDescription=static\n"),
    ("usr/lib/systemd/system/worker@.service", "[Install]\nWantedBy=%i.target\n"),
    ("usr/lib/systemd/system/also.service", "[Install]\nWantedBy=multi-user.target\nAlso=also.socket\n"),
    ("usr/lib/systemd/system/also.socket", "[Install]\nWantedBy=sockets.target\nAlias=alias.socket\n"),
    ("data/hidden", "beneath the mount\n"),
    ("boot/efi/.keep", ""),
    ("var/.keep", ""),
];

/// The files of /var.
const VAR_FILES: &[(&str, &str)] = &[
    ("log/syslog", "a line\n"),
    ("log/syslog.1", "an older line\n"),
    ("log/journal/0123/system.journal", "journal\n"),
    ("lib/dhcp/dhclient.eth0.leases", "lease\n"),
    ("lib/systemd/random-seed", "seed\n"),
    ("lib/cloud/instance/id", "i-1\n"),
];

/// A small disk in a store.
struct Lab {
    work: WorkFolder,
}

impl Lab {
    /// Makes the lab; `None`, with a loud notice, if tools are missing.
    fn new() -> Option<Self> {
        if !have(&SMALL_TOOLS) {
            return None;
        }
        let lab = Lab { work: work_folder() };
        let disk = lab.at("disk.raw");
        fs::File::create(&disk).unwrap().set_len(50 * MIB).unwrap();
        let line = |(start, len): (u64, u64), kind| {
            format!("start={},size={},type={kind}\n", start / 512, len / 512)
        };
        let table = format!("label: dos\n{}{}{}", line(ROOT, "83"), line(ESP, "ef"), line(VAR, "83"));
        fs::write(lab.at("table"), table).unwrap();
        let shell = format!("sfdisk -q {} < {}", disk.display(), lab.at("table").display());
        run(tool("sh").args(["-c", &shell]));
        let root = lab.tree("root", FILES);
        std::os::unix::fs::symlink("usr/lib", root.join("lib")).unwrap();
        std::os::unix::fs::symlink("../../outside", root.join("etc/escape")).unwrap();
        std::os::unix::fs::symlink("loop", root.join("etc/loop")).unwrap();
        std::os::unix::fs::symlink("/home/ada", root.join("etc/ada")).unwrap();
        fs::hard_link(root.join("home/ada/kept"), root.join("home/ada/again")).unwrap();
        let var = lab.tree("var", VAR_FILES);
        let uuid = "6d69662d-0000-4000-8000-000000000003";
        lab.mke2fs(&disk, ROOT, &root, &["-L", "root", "-b", "1024"]);
        lab.mke2fs(&disk, VAR, &var, &["-L", "var", "-U", uuid]);
        let sectors = (ESP.0 / 512).to_string();
        let kib = (ESP.1 / 1024).to_string();
        run(tool("mkfs.vfat").args(["-F", "16", "-n", "ESP", "--offset", &sectors]).arg(&disk).arg(&kib));
        fs::write(lab.at("hello"), "hello\n").unwrap();
        run(tool("mcopy").arg("-i").arg(lab.fat(&disk)).arg(lab.at("hello")).arg("::/Hello.txt"));
        run(mif(&lab.store()).args(["import", "--name", "disk"]).arg(&disk));
        Some(lab)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    fn store(&self) -> PathBuf {
        self.at("store")
    }

    fn tree(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let tree = self.at(name);
        for (path, text) in files {
            fs::create_dir_all(tree.join(path).parent().unwrap()).unwrap();
            fs::write(tree.join(path), text).unwrap();
        }
        tree
    }

    fn mke2fs(&self, disk: &Path, (start, len): (u64, u64), tree: &Path, more: &[&str]) {
        let offset = format!("offset={start},root_owner=0:0");
        let mut mke2fs = tool("mke2fs");
        mke2fs.args(["-q", "-F", "-t", "ext4", "-E", &offset, "-d"]).arg(tree).args(more);
        run(mke2fs.arg(disk).arg(format!("{}k", len / 1024)));
    }

    /// Returns mtools' name of the ESP.
    fn fat(&self, disk: &Path) -> String {
        format!("{}@@{}", disk.display(), ESP.0)
    }

    fn customize(&self, new: &str, arguments: &[&str]) -> Command {
        let mut command = mif(&self.store());
        command
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .args(["customize", "disk", "--as", new])
            .args(arguments);
        command
    }

    /// Exports the disk of an image as a file, and checks its volumes with the real tools.
    fn export(&self, name: &str) -> Disk {
        let raw = self.at(&format!("{name}.exported"));
        run(mif(&self.store()).args(["export", name, "--format", "raw"]).arg(&raw));
        let cut = |(start, len): (u64, u64), part: &str| {
            let path = self.at(&format!("{name}.{part}"));
            let bytes = fs::read(&raw).unwrap();
            fs::write(&path, &bytes[start as usize..(start + len) as usize]).unwrap();
            path
        };
        let disk = Disk { root: cut(ROOT, "root"), esp: cut(ESP, "esp"), var: cut(VAR, "var") };
        run(tool("e2fsck").arg("-fn").arg(&disk.root));
        run(tool("e2fsck").arg("-fn").arg(&disk.var));
        run(tool("fsck.fat").arg("-n").arg(&disk.esp));
        disk
    }
}

/// The volumes of a disk as files.
struct Disk {
    root: PathBuf,
    esp: PathBuf,
    var: PathBuf,
}

/// Returns debugfs's answer to a request.
fn debugfs(volume: &Path, request: &str) -> String {
    run(tool("debugfs").args(["-R", request]).arg(volume))
}

/// Returns the contents of a file on the root, according to debugfs.
fn cat(disk: &Disk, path: &str) -> String {
    debugfs(&disk.root, &format!("cat \"{path}\""))
}

/// Returns a file's mode with its type, and its owner, as debugfs lists them: `100644 0 0`.
fn owner_and_mode(volume: &Path, path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').unwrap();
    let listed = debugfs(volume, &format!("ls -p {folder}/"));
    let line = listed.lines().find(|line| line.split('/').nth(5) == Some(name));
    let fields: Vec<&str> = line.unwrap_or_else(|| panic!("{path} in {listed}")).split('/').collect();
    format!("{} {} {}", fields[2], fields[3], fields[4])
}

/// Returns the target of a symlink, according to debugfs.
fn link(disk: &Disk, path: &str) -> String {
    let stat = debugfs(&disk.root, &format!("stat \"{path}\""));
    let line = stat.lines().find_map(|line| line.split_once("link dest: "));
    line.unwrap_or_else(|| panic!("{path}: {stat}")).1.trim_matches('"').to_owned()
}

fn is_there(volume: &Path, path: &str) -> bool {
    debugfs(volume, &format!("stat \"{path}\"")).contains("Inode:")
}

#[test]
fn primitive_edits_are_as_the_real_tools_see_them() {
    let Some(lab) = Lab::new() else { return };
    let local = lab.at("local");
    let large: Vec<u8> = (0..6 * MIB).map(|i| if i / MIB == 3 { 0 } else { (i * 7 % 251) as u8 }).collect();
    fs::write(&local, &large).unwrap();
    let from_local = |path: &str| format!("{path}:{}", local.display());
    run(&mut lab.customize(
        "edited",
        &[
            "--write=/etc/motd:hello",
            "--append=/etc/motd: world",
            "--chmod=/etc/motd:4751",
            "--chown=/etc/motd:ada:staff",
            "--xattr=/etc/motd:user.note=0x00ff",
            "--write-file",
            &from_local("/home/ada/large"),
            "--mkdir=/opt/a/b",
            "--write=/opt/a/b/c:x",
            "--rename=/opt/a:/opt/z",
            "--xattr=/opt/z:security.selinux=opt_t",
            "--write=/opt/z/labelled:x",
            "--symlink=/opt/link:z/b/c",
            "--write=/opt/link:through the link",
            "--delete=/home/ada/.python_history",
            "--delete=/etc/ssh",
            "--write=/etc/ada/by-link:y",
            "--write=/home/ada/again:both",
            "--write=/boot/efi/EFI.txt:on the ESP",
            "--mkdir=p2:/A Long Folder",
            "--write=p2:/A Long Folder/a file.efi:z",
            "--write=/var/log/new:in the log",
            "--write=p1:/data/hidden:beneath",
        ],
    ));
    let disk = lab.export("edited");
    assert_eq!(cat(&disk, "/etc/motd"), "hello\n world\n", "a line of its own");
    assert_eq!(owner_and_mode(&disk.root, "/etc/motd"), "100751 1000 50", "a new owner takes setuid away");
    let xattrs = debugfs(&disk.root, "ea_list /etc/motd");
    assert!(xattrs.contains("user.note (2) = 00 ff"), "{xattrs}");
    // A new file gets its directory's label; one that existed without a label keeps none.
    let label = |path: &str| {
        debugfs(&disk.root, &format!("ea_list {path}")).contains("security.selinux (5) = \"opt_t\"")
    };
    assert!(label("/opt/z/labelled") && !label("/opt/link") && !label("/opt/z/b") && !label("/etc/motd"));
    assert_eq!(cat(&disk, "/opt/z/b/c"), "through the link");
    assert_eq!(owner_and_mode(&disk.root, "/opt/z/b"), "040755 0 0");
    assert_eq!(link(&disk, "/opt/link"), "z/b/c");
    assert_eq!(cat(&disk, "/home/ada/by-link"), "y");
    // Both names of the file have the new content, and it is still one file.
    assert_eq!((cat(&disk, "/home/ada/kept"), cat(&disk, "/home/ada/again")), ("both".into(), "both".into()));
    assert!(debugfs(&disk.root, "stat /home/ada/kept").contains("Links: 2"));
    for gone in ["/etc/ssh", "/etc/ssh/sshd_config", "/home/ada/.python_history", "/opt/a"] {
        assert!(!is_there(&disk.root, gone), "{gone}");
    }
    assert_eq!(cat(&disk, "/data/hidden"), "beneath");
    debugfs(&disk.root, &format!("dump /home/ada/large {}", lab.at("dumped").display()));
    assert!(fs::read(lab.at("dumped")).unwrap() == large);
    assert_eq!(debugfs(&disk.var, "cat /log/new"), "in the log");
    let mtype = |path: &str| run(tool("mtype").arg("-i").arg(&disk.esp).arg(path));
    assert_eq!(mtype("::/EFI.txt"), "on the ESP");
    assert_eq!(mtype("::/A Long Folder/a file.efi"), "z");
    assert_eq!(mtype("::/Hello.txt"), "hello\n");
    // Edited files, and directories with added or removed entries, have the given time.
    for path in ["/etc/motd", "/etc", "/home/ada/kept"] {
        assert!(debugfs(&disk.root, &format!("stat {path}")).contains("mtime: 0x6553f100"), "{path}");
    }
}

#[test]
fn what_is_not_edited_stays_bit_for_bit_and_the_same_edits_give_the_same_bits() {
    let Some(lab) = Lab::new() else { return };
    let edits = ["--hostname=x", "--password=ada:env:MIF_TEST_PASSWORD", "--generalize"];
    for name in ["once", "twice"] {
        run(lab.customize("same", &edits).env("MIF_TEST_PASSWORD", name.replace("twice", "once")));
    }
    let info = |name: &str| -> Value {
        serde_json::from_str(&run(mif(&lab.store()).args(["info", "--json", name]))).unwrap()
    };
    let digest = |name: &str| info(name)["stored"]["layout_digest"].clone();
    assert_eq!(digest("same@1"), digest("same@2"));
    assert_ne!(digest("same@1"), digest("disk"));
    run(&mut lab.customize("root-only", &["--write=/etc/motd:x"]));
    let (before, after) = (lab.export("disk"), lab.export("root-only"));
    assert!(fs::read(before.esp).unwrap() == fs::read(after.esp).unwrap());
    assert!(fs::read(before.var).unwrap() == fs::read(after.var).unwrap());
    // The record says from what and how it was made, without the password.
    let made = &info("same@1")["stored"]["provenance"];
    assert_eq!((&made["operation"], &made["parent"]), (&"customize".into(), &"disk@1".into()));
    assert!(made["recipe"].as_str().is_some_and(|digest| digest.len() == 64), "{made}");
    assert!(made["command"].to_string().contains("--hostname=x"), "{made}");
}

#[test]
fn named_edits_do_in_the_image_what_its_own_tools_would() {
    let Some(lab) = Lab::new() else { return };
    fs::write(lab.at("setup.sh"), "#!/bin/sh\ntrue\n").unwrap();
    let first_boot = format!("--first-boot={}", lab.at("setup.sh").display());
    fs::write(lab.at("key.pub"), format!("{KEY}\n")).unwrap();
    let key = format!("--ssh-key=ada:file:{}", lab.at("key.pub").display());
    let report: Value = serde_json::from_str(&run(lab
        .customize(
            "named",
            &[
                "--hostname=web.lan",
                "--hosts=10.0.0.5=db.lan,db",
                "--timezone=Europe/Berlin",
                "--locale=C",
                &key,
                &format!("--ssh-key=ada:string:{KEY}"),
                "--lock=root",
                "--network=eth0:192.0.2.10/24,gateway=192.0.2.1,dns=9.9.9.9",
                "--enable=ssh",
                "--enable=getty@",
                "--enable=worker@multi-user",
                &first_boot,
                "--generalize",
            ],
        )
        .arg("--json")))
    .unwrap();
    let disk = lab.export("named");
    assert_eq!(cat(&disk, "/etc/hostname"), "web.lan\n");
    assert_eq!(
        cat(&disk, "/etc/hosts"),
        "127.0.0.1\tlocalhost\n127.0.1.1\tweb.lan web\n10.0.0.5\tdb.lan db\n"
    );
    assert_eq!(link(&disk, "/etc/localtime"), "/usr/share/zoneinfo/Europe/Berlin");
    assert_eq!(cat(&disk, "/etc/timezone"), "Europe/Berlin\n");
    assert_eq!(cat(&disk, "/etc/default/locale"), "LANG=C\n");
    assert_eq!(cat(&disk, "/home/ada/.ssh/authorized_keys"), format!("{KEY}\n"));
    assert_eq!(owner_and_mode(&disk.root, "/home/ada/.ssh"), "040700 1000 1001");
    assert_eq!(owner_and_mode(&disk.root, "/home/ada/.ssh/authorized_keys"), "100600 1000 1001");
    assert!(cat(&disk, "/etc/shadow").starts_with("root:!*:19000:"));
    assert_eq!(
        cat(&disk, "/etc/network/interfaces"),
        "auto lo\niface lo inet loopback\nsource /etc/network/interfaces.d/mif-eth0\n"
    );
    let eth0 = cat(&disk, "/etc/network/interfaces.d/mif-eth0");
    assert!(
        eth0.contains("iface eth0 inet static\n    address 192.0.2.10/24\n    gateway 192.0.2.1\n"),
        "{eth0}"
    );
    assert_eq!(cat(&disk, "/etc/resolv.conf"), "nameserver 9.9.9.9\n");
    let units = "/etc/systemd/system";
    let of_unit = |unit: &str| format!("/usr/lib/systemd/system/{unit}");
    for (place, target) in [
        ("multi-user.target.wants/ssh.service", of_unit("ssh.service")),
        ("sshd.service", of_unit("ssh.service")),
        ("getty.target.wants/getty@tty1.service", of_unit("getty@.service")),
        ("multi-user.target.wants/worker@multi-user.service", of_unit("worker@.service")),
        (
            "multi-user.target.wants/mif-first-boot-01-setup.service",
            format!("{units}/mif-first-boot-01-setup.service"),
        ),
    ] {
        assert_eq!(link(&disk, &format!("{units}/{place}")), target, "{place}");
    }
    assert_eq!(owner_and_mode(&disk.root, "/usr/local/lib/mif-first-boot/01-setup"), "100755 0 0");

    // Everything that clones must not share is gone, on whichever volume it was, and is listed.
    assert_eq!(debugfs(&disk.root, "cat /etc/machine-id"), "");
    assert_eq!(debugfs(&disk.var, "cat /log/syslog"), "");
    let gone = [
        ("/etc/ssh/ssh_host_ed25519_key", &disk.root, ""),
        ("/etc/ssh/ssh_host_ed25519_key.pub", &disk.root, ""),
        ("/root/.bash_history", &disk.root, ""),
        ("/home/ada/.python_history", &disk.root, ""),
        ("/log/syslog.1", &disk.var, "/var"),
        ("/log/journal/0123", &disk.var, "/var"),
        ("/lib/dhcp/dhclient.eth0.leases", &disk.var, "/var"),
        ("/lib/systemd/random-seed", &disk.var, "/var"),
        ("/lib/cloud/instance", &disk.var, "/var"),
    ];
    let listed = report["images"][0]["generalized"].to_string();
    for (path, volume, point) in gone {
        assert!(!is_there(volume, path), "{path}");
        assert!(listed.contains(&format!("{point}{path}\"")), "{point}{path} in {listed}");
    }
    for kept in ["/etc/ssh/sshd_config", "/home/ada/kept"] {
        assert!(is_there(&disk.root, kept), "{kept}");
    }
    assert!(is_there(&disk.root, "/etc/systemd/system/multi-user.target.wants/mif-ssh-host-keys.service"));
}

#[test]
fn the_network_is_configured_by_what_the_image_has() {
    let Some(lab) = Lab::new() else { return };
    let unit = |name: &str| {
        format!("--write=/usr/lib/systemd/system/{name}.service:[Install]\nWantedBy=multi-user.target\n")
    };
    let address = "--network=eth0:192.0.2.10/24,gateway=192.0.2.1";
    let (manager, networkd) = (unit("NetworkManager"), unit("systemd-networkd"));
    let cases: [(&str, &[&str], &str, &str, &str); 4] = [
        (
            "netplan",
            &["--write=/sbin/netplan:x"],
            "/etc/netplan/90-mif-eth0.yaml",
            "100600 0 0",
            "- \"192.0.2.10/24\"",
        ),
        (
            "manager",
            &[
                "--mkdir=/usr/sbin",
                "--write=/usr/sbin/NetworkManager:x",
                "--mkdir=/etc/NetworkManager/system-connections",
                &manager,
                "--enable=NetworkManager",
            ],
            "/etc/NetworkManager/system-connections/mif-eth0.nmconnection",
            "100600 0 0",
            "address1=192.0.2.10/24",
        ),
        (
            "networkd",
            &["--write=/usr/lib/systemd/systemd-networkd:x", &networkd, "--enable=systemd-networkd"],
            "/etc/systemd/network/05-mif-eth0.network",
            "100644 0 0",
            "Address=192.0.2.10/24\nGateway=192.0.2.1",
        ),
        ("ifupdown", &[], "/etc/network/interfaces.d/mif-eth0", "100644 0 0", "iface eth0 inet static"),
    ];
    let places: Vec<&str> = cases.iter().map(|case| case.2).collect();
    for (name, before, place, mode, part) in cases {
        run(lab.customize(name, before).arg(address));
        let disk = lab.export(name);
        assert!(cat(&disk, place).contains(part), "{name}");
        assert_eq!(owner_and_mode(&disk.root, place), mode, "{name}");
        for other in places.iter().filter(|other| **other != place) {
            assert!(!is_there(&disk.root, other), "{name}: {other}");
        }
    }
    let said = run_failing(lab.customize("none", &["--delete=/sbin/ifup"]).arg(address), 4);
    assert!(
        said.contains("none of netplan, NetworkManager, systemd-networkd, network scripts and ifupdown"),
        "{said}"
    );
}

#[test]
fn disabling_a_unit_takes_away_what_enabling_it_made() {
    let Some(lab) = Lab::new() else { return };
    run(&mut lab.customize("off", &["--enable=ssh", "--enable=getty@tty7", "--disable=ssh.service"]));
    let disk = lab.export("off");
    assert!(!is_there(&disk.root, "/etc/systemd/system/sshd.service"));
    assert!(!is_there(&disk.root, "/etc/systemd/system/multi-user.target.wants/ssh.service"));
    assert!(is_there(&disk.root, "/etc/systemd/system/getty.target.wants/getty@tty7.service"));
}

/// Returns the links under a directory of units: their relative paths, and the units that they name.
fn unit_links(folder: &Path) -> Vec<(String, String)> {
    let found = run(tool("find").arg(folder).args(["-type", "l", "-printf", "%P %l\\n"]));
    let mut links: Vec<_> = found.lines().map(|line| named(line.split_once(' ').unwrap())).collect();
    links.sort();
    links
}

/// Returns a link and the last component of its target: systemd uses either /lib or /usr/lib.
fn named((link, target): (&str, &str)) -> (String, String) {
    (link.to_owned(), target.rsplit('/').next().unwrap().to_owned())
}

#[test]
fn units_are_enabled_and_disabled_as_systemctl_does() {
    let Some(lab) = Lab::new().filter(|_| have(&["systemctl"])) else { return };
    let tree = lab.at("root");
    let folder = tree.join("etc/systemd/system");
    for (number, (verb, unit)) in [
        ("enable", "ssh"),
        ("enable", "getty@"),
        ("enable", "getty@tty7.service"),
        ("enable", "worker@multi-user"),
        ("enable", "also"),
        ("disable", "getty@tty7"),
        ("disable", "also"),
        ("disable", "ssh.service"),
    ]
    .into_iter()
    .enumerate()
    {
        let image = if number == 0 { "disk" } else { "units" };
        run(mif(&lab.store()).args(["customize", image, "--as", "units", &format!("--{verb}={unit}")]));
        run(tool("systemctl").arg("--root").arg(&tree).args([verb, unit]));
        let listed = run(mif(&lab.store()).args(["ls", "--json", "-R", "units", "/etc/systemd/system"]));
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let entries = listed["entries"].as_array().unwrap();
        let mut links: Vec<_> = entries
            .iter()
            .filter_map(|entry| Some((entry["path"].as_str()?, entry["link_target"].as_str()?)))
            .map(|(path, target)| named((path.strip_prefix("/etc/systemd/system/").unwrap(), target)))
            .collect();
        links.sort();
        assert_eq!(links, unit_links(&folder), "after {verb} {unit}");
    }
}

#[test]
fn passwords_are_hashed_as_the_image_says_and_crypt_takes_them() {
    let Some(lab) = Lab::new() else { return };
    fs::write(lab.at("password"), "correct hörse\nanother line\n").unwrap();
    let password = format!("--password=ada:file:{}", lab.at("password").display());
    for (method, start) in [("SHA256", "$5$"), ("SHA512", "$6$"), ("YESCRYPT", "$y$"), ("", "$6$")] {
        let defs = if method.is_empty() { String::new() } else { format!("ENCRYPT_METHOD {method}\n") };
        let name = format!("with{method}");
        let mut command = lab.customize(&name, &[&format!("--write=/etc/login.defs:{defs}"), &password]);
        run(command.env_remove("SOURCE_DATE_EPOCH"));
        let shadow = cat(&lab.export(&name), "/etc/shadow");
        let line = shadow.lines().find(|line| line.starts_with("ada:")).unwrap().to_owned();
        let hash = line.split(':').nth(1).unwrap();
        assert!(hash.starts_with(start), "{method}: {hash}");
        let crypt = "print crypt($ARGV[0], $ARGV[1])";
        assert_eq!(run(tool("perl").args(["-e", crypt, "correct hörse", hash])), hash, "{method}");
        assert_ne!(run(tool("perl").args(["-e", crypt, "wrong horse", hash])), hash, "{method}");
        assert!(line.ends_with(":0:99999:7:::"), "{line}");
    }
}

#[test]
fn what_an_image_cannot_take_is_refused_and_nothing_changes() {
    let Some(lab) = Lab::new() else { return };
    fs::write(lab.at("big"), vec![7; 30 << 20]).unwrap();
    let big = format!("--write-file=/big:{}", lab.at("big").display());
    fs::write(lab.at("names.csv"), "n\n1\n2\n").unwrap();
    let csv = format!("--csv={}", lab.at("names.csv").display());
    let before = snapshot(&lab.store());
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--write=etc/motd:x"], 2, "not an absolute path"),
        (&["--write=p9:/x:y"], 3, "p9: no readable volume"),
        (&["--write=/no/such/folder:x"], 3, "p1:/no: no such file or directory"),
        (&["--write=/etc/ssh:x"], 3, "not a regular file"),
        (&["--write=/etc/passwd/x:y"], 3, "p1:/etc/passwd: not a directory"),
        (&["--write=/etc/escape/x:y"], 3, "leads out of the image"),
        (&["--write=/../x:y"], 3, "leads out of the image"),
        (&["--write=/etc/loop/x:y"], 3, "too many levels of symbolic links"),
        (&["--write=/data/x:y"], 3, "/etc/fstab mounts /dev/sdb1"),
        (&["--delete=/var"], 3, "root directory of a volume cannot be removed"),
        (&["--delete=/boot"], 3, "mounts a volume on /boot/efi"),
        (&["--delete=/etc/nothing"], 3, "p1:/etc/nothing: no such file or directory"),
        (&["--rename=/etc/hosts:/var/hosts"], 3, "another volume"),
        (&["--rename=/etc:/etc/ssh/etc"], 3, "into itself"),
        (&["--chmod=/etc/hosts:999"], 2, "invalid mode"),
        (&["--chown=/etc/hosts:nobody"], 3, "no user \"nobody\""),
        (&["--chown=/etc/hosts:0:nogroup"], 3, "no group \"nogroup\""),
        (&["--chown=/etc/hosts:4294967296"], 2, "the largest is 4294967295"),
        (&["--chmod=p2:/Hello.txt:0600"], 3, "FAT does not support owners and modes"),
        (&["--symlink=p2:/x:y"], 3, "FAT does not support symlinks"),
        (&["--xattr=p2:/Hello.txt:user.a=b"], 3, "FAT does not support extended attributes"),
        (&["--write=p2:/a?b:x"], 4, "which FAT does not allow"),
        (&["--write=p2:/HELLO.TXT:x"], 4, "differs from another one only in case"),
        (&["--xattr=/etc/hosts:nonsense=1"], 2, "invalid attribute name"),
        (&["--remove-xattr=/etc/hosts:user.none"], 3, "no such attribute: user.none"),
        (&[&big], 3, "no room"),
        (&["--hostname=-bad-"], 2, "invalid host name"),
        (&["--timezone=Mars/Base"], 3, "no time zone \"Mars/Base\""),
        (&["--timezone=../../../etc/passwd"], 3, "no time zone"),
        (&["--locale=xx_XX.UTF-8"], 3, "no locale"),
        (&["--ssh-key=eve:string:ssh-ed25519 AAAA"], 3, "no user \"eve\""),
        (&["--ssh-key=ada:string:nonsense"], 3, "not an SSH public key"),
        (&["--ssh-key=no:string:ssh-ed25519 AAAA"], 3, "home directory of no does not exist"),
        (&["--password=eve:password:x"], 3, "no user \"eve\""),
        (&["--password=ada:env:MIF_NOT_SET"], 2, "MIF_NOT_SET is not set"),
        (&["--enable=nothing"], 3, "no unit nothing.service"),
        (&["--enable=static"], 3, "no [Install] section"),
        (&["--enable=worker@"], 3, "is a template"),
        (&["--network=eth0:192.0.2.1"], 2, "expected an IP address with a prefix length"),
        (&["--hostname={{who}}"], 2, "{{who}} has no value"),
        (&["--hostname=x", &csv], 2, "two images would be named new"),
        (&[], 2, "no edits given"),
    ];
    for (arguments, code, part) in cases {
        let said = run_failing(&mut lab.customize("new", arguments), *code);
        assert!(said.contains(part), "{arguments:?}: {said}");
        assert!(said.lines().count() <= 2, "{arguments:?}: {said}");
        assert_eq!(snapshot(&lab.store()), before, "{arguments:?}");
    }
    // If one of many is impossible, none is made, and the error names it.
    let said = run_failing(&mut lab.customize("new-{{n}}", &["--timezone=Zone/{{n}}", &csv]), 3);
    assert!(said.contains("new-1: --timezone"), "{said}");
    // A dry run of a possible edit changes nothing either, and says so.
    let said = run(&mut lab.customize("new", &["--hostname=x", "--dry-run"]));
    assert!(said.contains("would be made") && said.contains("write /etc/hostname"), "{said}");
    assert_eq!(snapshot(&lab.store()), before);
}

#[test]
fn a_recipe_and_flags_are_done_in_the_order_given() {
    let Some(lab) = Lab::new() else { return };
    fs::write(lab.at("motd.in"), "This is {{name}} of {{domain}}\n").unwrap();
    let recipe = r#"
        [[edit]]
        do = "append"
        path = "/etc/order"
        content = "two\n"
        [[edit]]
        do = "write"
        path = "/etc/motd"
        file = "motd.in"
        template = true
        mode = "0600"
        owner = "ada"
        [[edit]]
        do = "hosts"
        address = "10.0.0.7"
        names = ["{{name}}.{{domain}}", "{{name}}"]
    "#;
    fs::write(lab.at("recipe.toml"), recipe).unwrap();
    let recipe = format!("--recipe={}", lab.at("recipe.toml").display());
    let edits = ["--append=/etc/order:one", &recipe, "--append=/etc/order:three"];
    let said = run_failing(lab.customize("r", &edits).arg("--set=name=web"), 2);
    assert!(said.contains("edit 2") && said.contains("{{domain}}") || said.contains("edit 3"), "{said}");
    run(lab.customize("r-{{name}}", &edits).args(["--set", "name=web", "--set", "domain=lan"]));
    let disk = lab.export("r-web");
    assert_eq!(cat(&disk, "/etc/order"), "one\ntwo\nthree\n");
    assert_eq!(cat(&disk, "/etc/motd"), "This is web of lan\n");
    assert_eq!(owner_and_mode(&disk.root, "/etc/motd"), "100600 1000 0");
    assert!(cat(&disk, "/etc/hosts").ends_with("10.0.0.7\tweb.lan web\n"));
}

#[test]
fn images_by_the_hundred_are_made_at_once() {
    let Some(lab) = Lab::new() else { return };
    let lines: String = (1..=130).map(|n| format!("{n},\"motd, of {n}\"\n")).collect();
    fs::write(lab.at("hosts.csv"), format!("n,motd\n{lines}")).unwrap();
    let csv = format!("--csv={}", lab.at("hosts.csv").display());
    let edits = ["--hostname=web-{{n}}", "--write=/etc/motd:{{motd}}", &csv, "--json"];
    let report: Value = serde_json::from_str(&run(&mut lab.customize("web-{{n}}", &edits))).unwrap();
    let images = report["images"].as_array().unwrap();
    assert_eq!(images.len(), 130);
    assert!((1..=130).zip(images).all(|(n, image)| image["image"] == format!("web-{n}@1")));
    // Some of the first group, which shares a pack, and of the second.
    for n in [1, 128, 129] {
        let disk = lab.export(&format!("web-{n}"));
        assert_eq!(cat(&disk, "/etc/hostname"), format!("web-{n}\n"));
        assert_eq!(cat(&disk, "/etc/motd"), format!("motd, of {n}"));
    }
    run(mif(&lab.store()).arg("fsck"));
}

#[test]
fn a_debian_grown_and_with_new_ids_boots_with_its_new_name_by_bios() {
    customised_debian_boots(false);
}

/// Customises a Debian disk in many ways, and boots it with UEFI or BIOS.
pub(crate) fn customised_debian_boots(efi: bool) {
    if !have(TOOLS) || !have(&["e2fsck", "fsck.fat", "blkid"]) {
        return;
    }
    let Some(tree) = tree() else { return };
    let work = work_folder();
    let at = |name: &str| work.path().join(name);
    let store = at("store");
    make_disk(&tree, &at("disk.raw"), "--table gpt --efi --size 2G");
    run(mif(&store).args(["import", "--name", "debian"]).arg(at("disk.raw")));
    let store_bytes = || snapshot(&store).iter().map(|(_, len)| len).sum::<u64>();
    let before = store_bytes();
    let unit = "[Unit]\nDescription=Hello\n[Service]\nType=oneshot\nStandardOutput=journal+console\n\
                ExecStart=/bin/sh -c 'echo hello-from-unit; cat /etc/customised; stat -c key-%%a-%%u /root/.ssh/authorized_keys'\n\
                [Install]\nWantedBy=multi-user.target\n";
    let script = "#!/bin/sh\necho first-boot-on-$(cat /proc/sys/kernel/hostname)\n";
    for (name, text) in [("hello.service", unit), ("setup", script), ("key.pub", KEY)] {
        fs::write(at(name), text).unwrap();
    }
    let file = |option: &str, path: &str, name: &str| format!("--{option}={path}{}", at(name).display());
    run(mif(&store)
        .args(["customize", "debian", "--as", "web", "--hostname=mif-customised"])
        .arg("--write=/etc/customised:file-of-the-edit")
        .arg(file("ssh-key", "root:file:", "key.pub"))
        .arg(file("write-file", "/etc/systemd/system/hello.service:", "hello.service"))
        .arg("--enable=hello")
        .arg(file("first-boot", "", "setup"))
        .args(["--write=p15:/mif.txt:on the ESP", "--generalize"])
        .args(["--size=+1G", "--resize=p1=max", "--new-ids"]));
    let added = store_bytes() - before;
    assert!(added * 50 < before, "the image took {before} bytes, customising it added {added}");
    run(mif(&store).arg("export").arg("web").arg(at("web.raw")));
    assert_gpt(&at("web.raw"));
    let uuids = |disk: &Path| -> Vec<String> {
        parts(disk)
            .iter()
            .map(|part| {
                cut(disk, part.start, part.len, &at("volume"));
                blkid(&at("volume"), "UUID")
            })
            .collect()
    };
    let (old, new) = (uuids(&at("disk.raw")), uuids(&at("web.raw")));
    assert_eq!(old.len(), new.len());
    for (old, new) in old.iter().zip(&new).filter(|(old, _)| !old.is_empty()) {
        assert!(!new.is_empty() && old != new, "{old} became {new}");
    }
    let sound = assert_sound(&at("web.raw"), work.path());
    let root = sound.iter().find(|(part, _)| part.slot == 1).expect("the root").0.len;
    let before = parts(&at("disk.raw")).iter().find(|part| part.slot == 1).expect("the root").len;
    assert!(root > before + 1000 * MIB, "the root has {root} bytes of {before} before");
    let printed = boot(&at("web.raw"), efi, "mif-customised login:");
    for part in ["hello-from-unit", "file-of-the-edit", "key-600-0", "first-boot-on-mif-customised"] {
        assert!(printed.contains(part), "{part} with efi {efi}: {printed}");
    }
    assert!(printed.contains("EXT4-fs (vda1): mounted filesystem"), "the kernel is heard: {printed}");
    for bad in ["EXT4-fs error", "EXT4-fs warning", "FAT-fs", "recovery complete"] {
        assert!(!printed.contains(bad), "{bad} with efi {efi}: {printed}");
    }
}
