//! Data that clones must not share, according to virt-sysprep's list, and settings that bind a system to one network
//! card; and SELinux labels of new files.

use std::path::Path;

use mif_tests::guest::Guest;
use mif_tests::{have, is_root, run, tool};
use serde_json::Value;

const MAC: &str = "52:54:00:11:22:33";

#[test]
fn what_virt_sysprep_takes_away_goes_or_is_named_as_left() {
    let gone = "etc/shadow- etc/gshadow- etc/passwd- etc/group- etc/subuid- etc/krb5.keytab etc/iscsi/initiatorname.iscsi \
        etc/nvme/hostid etc/nvme/hostnqn etc/hostid etc/ssh/ssh_host_rsa_key etc/ssh/ssh_host_rsa_key-cert.pub \
        etc/dropbear/dropbear_rsa_host_key var/lib/samba/private/secrets.tdb var/lib/samba/account.tdb \
        etc/lvm/devices/system.devices etc/salt/pki/minion/minion.pem var/lib/tor/keys/ed25519_master_id_secret_key \
        var/lib/zerotier-one/identity.secret var/spool/cron/crontabs/root var/spool/at/a00001 var/mail/root \
        var/spool/mail/u var/lib/systemd/random-seed root/.bash_history home/u/.ssh/id_ed25519 home/u/.ssh/known_hosts \
        var/lib/sss/db/cache.ldb var/spool/abrt/ccpp/x var/lib/yum/uuid etc/pki/entitlement/1.pem var/lib/rpm/__db.001 \
        var/cache/apt/archives/x.deb etc/blkid.tab var/kerberos/krb5kdc/principal var/lib/dhcpd/dhcpd.leases \
        etc/puppetlabs/puppet/ssl/private_keys/x.pem etc/hosts.bak root/x~ etc/udev/rules.d/70-persistent-net.rules \
        var/account/pacct tmp/x var/tmp/y";
    let left = "root/.ssh/authorized_keys home/u/.ssh/authorized_keys etc/wireguard/wg0.conf etc/ssl/private/x.key etc/hostname";
    let kept = "var/kerberos/krb5kdc/kdc.conf home/u/.ssh/config etc/hosts home/u/kept";
    let words = |list: &'static str| list.split_whitespace();
    let mut files: Vec<(&str, &str)> =
        [gone, left, kept].into_iter().flat_map(words).map(|path| (path, "secret\n")).collect();
    files.push(("etc/passwd", "root:x:0:0::/root:/bin/sh\nu:x:1:1::/home/u:/bin/sh\n"));
    files.push(("etc/machine-id", "0123456789abcdef0123456789abcdef\n"));
    files.push(("var/lib/dbus/machine-id", "0123456789abcdef0123456789abcdef\n"));
    let Some(guest) = Guest::new(&files) else { return };
    let said = guest.edit(&["--generalize"]);
    for path in words(gone) {
        assert!(!guest.has("new", &format!("/{path}")), "{path} is left: {said}");
        let folder = path.rsplit_once('/').unwrap().0;
        assert!(said.contains(&format!("/{folder}")), "{path} is not in the report: {said}");
    }
    for path in words(kept) {
        assert!(guest.has("new", &format!("/{path}")), "{path}");
    }
    // The directory of spooled jobs stays: cron does not create it.
    assert!(guest.has("new", "/var/spool/cron/crontabs"));
    assert!(guest.cat("new", "/etc/machine-id").is_empty() && !guest.has("new", "/var/lib/dbus/machine-id"));
    let json = run(&mut guest.mif(&["--json", "customize", "guest", "--as", "json", "--generalize"]));
    let report: Value = serde_json::from_str(&json).unwrap();
    let named: Vec<&str> =
        report["images"][0]["left"].as_array().unwrap().iter().map(|left| left.as_str().unwrap()).collect();
    for path in words(left) {
        assert!(guest.has("new", &format!("/{path}")), "{path}");
        assert!(named.iter().any(|left| left.starts_with(&format!("/{path}: "))), "{path}: {named:?}");
        assert!(said.contains(&format!("still machine-specific: /{path}")), "{path}: {said}");
    }
    // Debian's start script generates the initiator's name on request.
    let debian = [
        ("etc/debian_version", "12\n"),
        ("etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.1993-08.org.debian:01:1\n"),
    ];
    let Some(guest) = Guest::new(&debian) else { return };
    guest.edit(&["--generalize"]);
    assert_eq!(guest.cat("new", "/etc/iscsi/initiatorname.iscsi"), "GenerateName=yes\n");
}

#[test]
fn what_binds_to_a_network_card_goes_or_is_named() {
    let netplan = format!(
        "network:\n  version: 2\n  ethernets:\n    eth0:\n      match: {{macaddress: \"{MAC}\"}}\n      set-name: eth0\n      dhcp4: true\n"
    );
    let bond =
        format!("network:\n  version: 2\n  bonds:\n    bond0: {{macaddress: \"{MAC}\", interfaces: []}}\n");
    let ifcfg = format!("DEVICE=eth0\nHWADDR={MAC}\nBOOTPROTO=dhcp\n");
    let keyfile = format!("[connection]\nid=x\n[ethernet]\nmac-address={MAC}\ncloned-mac-address=random\n");
    let network = format!("[Match]\nName=eth0\nMACAddress={MAC}\n[Network]\nDHCP=yes\n");
    let only = format!("[Match]\nMACAddress={MAC}\n[Network]\nDHCP=yes\n");
    let link = format!("[Match]\nPermanentMACAddress={MAC}\n[Link]\nName=lan0\n");
    let interfaces = format!("iface eth0 inet dhcp\n  hwaddress ether {MAC}\n");
    let rule = format!("SUBSYSTEM==\"net\", ATTR{{address}}==\"{MAC}\", NAME=\"lan0\"\n");
    let files = [
        ("etc/netplan/50-cloud-init.yaml", netplan.as_str()),
        ("etc/netplan/60-bond.yaml", &bond),
        ("etc/sysconfig/network-scripts/ifcfg-eth0", &ifcfg),
        ("etc/NetworkManager/system-connections/x.nmconnection", &keyfile),
        ("etc/systemd/network/10-a.network", &network),
        ("etc/systemd/network/20-b.network", &only),
        ("etc/systemd/network/10-a.link", &link),
        ("etc/network/interfaces", &interfaces),
        ("etc/udev/rules.d/10-local.rules", &rule),
    ];
    let Some(guest) = Guest::new(&files) else { return };
    let said = guest.edit(&["--generalize"]);
    assert!(!guest.has("new", "/etc/systemd/network/10-a.link"), "{said}");
    for (path, _) in files.iter().filter(|(path, _)| !path.ends_with(".link")) {
        let has_mac = guest.cat("new", &format!("/{path}")).contains(MAC);
        let is_left = said.contains(&format!("still machine-specific: /{path}"));
        assert_eq!(has_mac, is_left, "{path}: {said}");
    }
    assert_eq!(said.matches("still machine-specific").count(), 3, "{said}");
    assert_eq!(
        guest.cat("new", "/etc/systemd/network/10-a.network"),
        "[Match]\nName=eth0\n[Network]\nDHCP=yes\n"
    );
    assert!(
        guest
            .cat("new", "/etc/NetworkManager/system-connections/x.nmconnection")
            .contains("cloned-mac-address=random")
    );
    assert!(
        guest
            .cat("new", "/etc/netplan/50-cloud-init.yaml")
            .contains("match:\n        name: eth0\n      dhcp4: true\n")
    );
}

const CONTEXTS: &str = "/.*\tsystem_u:object_r:default_t:s0\n/\t-d\tsystem_u:object_r:root_t:s0\n\
    /etc(/.*)?\tsystem_u:object_r:etc_t:s0\n/etc/localtime\t-l\tsystem_u:object_r:locale_t:s0\n\
    /root(/.*)?\tsystem_u:object_r:admin_home_t:s0\n/root/\\.ssh(/.*)?\tsystem_u:object_r:ssh_home_t:s0\n\
    /srv/none(/.*)?\t<<none>>\n/etc/.*\\.conf\t--\tsystem_u:object_r:conf_t:s0\n";
const HOMEDIRS: &str = "/home/[^/]+\t-d\tunconfined_u:object_r:user_home_dir_t:s0\n\
    /home/[^/]+/.+\tunconfined_u:object_r:user_home_t:s0\n/home/[^/]+/\\.ssh(/.*)?\tunconfined_u:object_r:ssh_home_t:s0\n";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGZ5bXkgdGVzdCBrZXkgZm9yIGEgY2FzZSBvZiBtaWYx me";

/// Labels all files of a tree.
fn label(tree: &Path, context: &str) {
    let value = format!("system_u:object_r:{context}:s0");
    run(tool("find").arg(tree).args([
        "-exec",
        "setfattr",
        "-h",
        "-n",
        "security.selinux",
        "-v",
        &value,
        "{}",
        "+",
    ]));
}

#[test]
fn a_new_file_has_the_label_that_the_images_policy_gives_it() {
    if !have(&["debugfs", "setfattr", "find"]) || !is_root() {
        return;
    }
    let folder = "etc/selinux/targeted/contexts/files";
    let [contexts, homedirs, local, subs] =
        ["", ".homedirs", ".local", ".subs_dist"].map(|suffix| format!("{folder}/file_contexts{suffix}"));
    let files = [
        ("etc/selinux/config", "# SELINUX=disabled\nSELINUX=enforcing\nSELINUXTYPE=targeted\n"),
        (contexts.as_str(), CONTEXTS),
        (&homedirs, HOMEDIRS),
        (&local, "/opt/app(/.*)? system_u:object_r:app_t:s0\n"),
        (&subs, "/data/home /home\n"),
        (
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\nu:x:1:1::/home/u:/bin/sh\nv:x:2:2::/data/home/v:/bin/sh\n",
        ),
        ("etc/kept", "x"),
        ("root/.keep", ""),
        ("home/u/.keep", ""),
        ("data/home/v/.keep", ""),
        ("usr/share/zoneinfo/UTC", "TZif"),
    ];
    let Some(guest) = Guest::with(&files, |tree| label(tree, "before_t")) else { return };
    let key = |user: &str| format!("{user}:string:{KEY}");
    guest.edit(&[
        "--ssh-key",
        &key("root"),
        "--ssh-key",
        &key("u"),
        "--ssh-key",
        &key("v"),
        "--timezone=UTC",
        "--write=/etc/x.conf:x",
        "--mkdir=/opt/app/deep",
        "--mkdir=/srv/none",
        "--write=/srv/none/x:x",
        "--write=/etc/kept:y",
    ]);
    let disk = guest.export("new");
    for (path, context) in [
        ("/root/.ssh", "ssh_home_t"),
        ("/root/.ssh/authorized_keys", "ssh_home_t"),
        ("/home/u/.ssh/authorized_keys", "ssh_home_t"),
        ("/data/home/v/.ssh/authorized_keys", "ssh_home_t"),
        ("/etc/localtime", "locale_t"),
        ("/etc/x.conf", "conf_t"),
        ("/opt/app/deep", "app_t"),
        ("/opt", "default_t"),
        // Paths without a rule in the policy get their directory's label, and existing files keep theirs.
        ("/srv/none/x", "default_t"),
        ("/etc/kept", "before_t"),
    ] {
        let value = run(tool("debugfs").args(["-R", &format!("ea_get {path} security.selinux")]).arg(&disk));
        assert!(value.contains(&format!("object_r:{context}:s0")), "{path}: {value}");
    }
}

#[test]
fn without_a_policy_the_image_is_offered_to_label_itself() {
    if !have(&["setfattr", "find"]) || !is_root() {
        return;
    }
    let Some(guest) = Guest::with(&[("etc/x", "x")], |tree| label(tree, "before_t")) else { return };
    let said = guest.edit(&["--write=/etc/new:x"]);
    assert!(said.contains("/etc/new") && said.contains("--write /.autorelabel:"), "{said}");
    guest.edit_as("guest", "relabelled", &["--write=/etc/new:x", "--write=/.autorelabel:"]);
    assert!(guest.has("relabelled", "/.autorelabel"));
    // Without labels there is nothing to report.
    let Some(guest) = Guest::new(&[("etc/x", "x")]) else { return };
    assert!(!guest.edit(&["--write=/etc/new:x"]).contains("autorelabel"));
}
