//! Users of customised Debian disks: that they log in by key and may use sudo, and that their files are those that cloud-init
//! makes from the same settings.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mif_tests::debian::{TOOLS, changed, make_disk, tree_of};
use mif_tests::{have, mif, repo, run, tool, work_folder};

/// A Debian that takes logins, and configures itself by cloud-init.
const PACKAGES: &[&str] = &[
    "linux-image-cloud-amd64",
    "systemd-sysv",
    "udev",
    "openssh-server",
    "sudo",
    "ifupdown",
    "isc-dhcp-client",
    "cloud-init",
];

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHTdwl4uXs5fG8mYtUWcQqKzv4Wm2b6gqfTqVqk3LwAb me@here";

/// Returns user data for the user `ops`, with this key.
fn user_data(key: &str) -> String {
    format!(
        "#cloud-config\nhostname: web\ntimezone: Europe/Berlin\nusers:\n  - name: ops\n    groups: [adm, games]\n    \
         shell: /bin/bash\n    lock_passwd: true\n    sudo: \"ALL=(ALL:ALL) NOPASSWD:ALL\"\n    ssh_authorized_keys:\n      - \
         {key}\n"
    )
}

#[test]
#[ignore = "boots a Debian with SSH: make collection"]
fn a_new_user_logs_in_by_key_and_may_use_sudo() {
    if !have(TOOLS) || !have(&["ssh", "ssh-keygen"]) {
        return;
    }
    let Some(tree) = tree_of(PACKAGES) else { return };
    let work = work_folder();
    let store = work.at("store");
    let key = work.at("key");
    run(tool("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
    make_disk(&tree, &work.at("disk.raw"), "--table gpt --size 2G");
    run(mif(&store).args(["import", "--name", "debian"]).arg(work.at("disk.raw")));
    // By flags, and without cloud-init.
    run(mif(&store)
        .args(["customize", "debian", "--as", "flags", "--hostname=web", "--network=ens3:dhcp"])
        .args([
            "--user=ops:groups=adm+games,shell=/bin/bash,sudo=nopasswd",
            "--touch=/etc/cloud/cloud-init.disabled",
        ])
        .arg(format!("--ssh-key=ops:file:{}.pub", key.display())));
    // By cloud-init, from a seed.
    let public = fs::read_to_string(work.at("key.pub")).unwrap();
    fs::write(work.at("user-data"), user_data(public.trim())).unwrap();
    run(mif(&store).args(["customize", "debian", "--as", "seed", "--cloud-init"]).arg(work.at("user-data")));
    for name in ["flags", "seed"] {
        let disk = work.at(&format!("{name}.raw"));
        run(mif(&store).arg("export").arg(name).arg(&disk));
        let mut boot = tool(repo().join("fixtures/boot"));
        boot.arg(&disk).args(["--timeout", "600", "--expect", "login:", "--login", "ops", "--key"]).arg(&key);
        let printed = run(boot.args(["--run", "id -un; sudo -n id -u; hostname; id -nG"]));
        assert_eq!(printed.lines().collect::<Vec<_>>(), ["ops", "0", "web", "ops adm games"], "{name}");
    }
}

/// Files that cloud-init writes for itself or beside what was asked, and those that differ for a reason.
const NOISE: &[(&str, &str)] = &[
    ("/var/lib/cloud", "cloud-init's state"),
    ("/var/log/cloud-init", "cloud-init's log"),
    ("/etc/cloud/cloud.cfg.d/99-here.cfg", "written by this test"),
    ("/etc/network/interfaces.d/50-cloud-init", "the network of the machine on which the test runs"),
    ("/etc/udev/rules.d/70-persistent-net.rules", "the same"),
    ("/etc/sudoers.d", "each has its own file"),
    ("/etc/hostname", "mif keeps the mode of the tree, cloud-init sets 0644"),
    ("/etc/passwd-", "a backup of useradd and usermod; mif leaves backups alone"),
    ("/etc/group-", "the same"),
    ("/etc/shadow-", "the same"),
    ("/etc/gshadow-", "the same"),
    ("/etc/subuid-", "the same"),
    ("/etc/subgid-", "the same"),
    ("/lost+found", "of the volume"),
];

/// Returns type, mode, owner and content's digest of each member of a tar, by `python3`'s module tarfile.
fn members(tar: &Path) -> BTreeMap<String, String> {
    let script = "import tarfile, sys, hashlib\n\
                  tar = tarfile.open(sys.argv[1])\n\
                  for m in tar:\n\
                  \x20   h = hashlib.sha1(tar.extractfile(m).read()).hexdigest() if m.isreg() else m.linkname\n\
                  \x20   print('/' + m.name.lstrip('./').rstrip('/'), m.type, oct(m.mode), m.uid, m.gid, h, sep='\\t')\n";
    let text = run(tool("python3").args(["-c", script]).arg(tar));
    let lines = text.lines().filter_map(|line| line.split_once('\t'));
    lines.map(|(path, rest)| (path.to_owned(), rest.to_owned())).collect()
}

#[test]
#[ignore = "makes Debian trees: make collection"]
fn files_of_a_user_are_those_that_cloud_init_makes() {
    if !have(TOOLS) {
        return;
    }
    let Some(tree) = tree_of(PACKAGES) else { return };
    let by_cloud_init = format!(
        "mkdir -p /var/lib/cloud/seed/nocloud\n\
         printf 'instance-id: one\\nlocal-hostname: web\\n' > /var/lib/cloud/seed/nocloud/meta-data\n\
         cat > /var/lib/cloud/seed/nocloud/user-data <<'U'\n{}\
         cloud_init_modules: [set_hostname, users-groups]\ncloud_config_modules: [timezone]\ncloud_final_modules: []\nU\n\
         echo 'datasource_list: [NoCloud]' > /etc/cloud/cloud.cfg.d/99-here.cfg\n\
         cloud-init init --local || true\ncloud-init init\ncloud-init modules --mode=config\n",
        user_data(KEY)
    );
    let (Some(theirs), Some(base)) = (changed(&tree, &by_cloud_init), changed(&tree, ":")) else { return };
    let work = work_folder();
    let store = work.at("store");
    fs::write(
        work.at("disk.toml"),
        "table = \"gpt\"\nsize = \"2G\"\n[[volume]]\nslot = 1\nmount = \"/\"\nfs = \"ext4\"\n",
    )
    .unwrap();
    run(mif(&store).args(["build", "--as", "base"]).arg(work.at("disk.toml")).arg(&base));
    run(mif(&store)
        .args(["customize", "base", "--as", "ours", "--hostname=web", "--timezone=Europe/Berlin"])
        .args(["--user=ops:groups=adm+games,shell=/bin/bash,sudo=nopasswd"])
        .arg(format!("--ssh-key=ops:string:{KEY}")));
    run(mif(&store).args(["extract", "ours", "-o"]).arg(work.at("ours.tar")).arg("/"));
    let (theirs, ours, base) = (members(&theirs), members(&work.at("ours.tar")), members(&base));
    let noise = |path: &String| NOISE.iter().any(|(noise, _)| path.starts_with(noise));
    let differing: Vec<_> = (theirs.keys().chain(ours.keys()))
        .filter(|path| theirs.get(*path) != ours.get(*path) && !noise(path))
        .map(|path| (path, theirs.get(path), ours.get(path)))
        .collect();
    assert!(differing.is_empty(), "{differing:#?}");
    // The settings did something, in both.
    for path in
        ["/etc/passwd", "/etc/shadow", "/etc/group", "/etc/localtime", "/home/ops/.ssh/authorized_keys"]
    {
        assert!(theirs.contains_key(path) && theirs.get(path) != base.get(path), "{path}");
    }
}
