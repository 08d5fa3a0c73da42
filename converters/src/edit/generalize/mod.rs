//! `--generalize`: removes what clones of a system must not share, such as keys, identities, random seeds, DHCP leases,
//! logs and shell histories. It covers what virt-sysprep(1) removes by default; the report lists what is left.

mod hardware;

use mif_formats::fs::FileType;

use super::first_boot;
use super::primitive::Edit;
use crate::error::Result;
use crate::guest::accounts;
use crate::tree::edit::Files;

/// Machine-specific files by kind. Path components may contain `*` and `?`; directories are removed with their
/// contents.
const GONE: &[(&str, &[&str])] = &[
    ("SSH host key", &["/etc/ssh/ssh_host_*", "/etc/dropbear/dropbear_*_host_key"]),
    (
        "random seed",
        &[
            "/var/lib/systemd/random-seed",
            "/var/lib/urandom/random-seed",
            "/var/lib/random-seed",
            "/boot/loader/random-seed",
            "/boot/efi/loader/random-seed",
            "/efi/loader/random-seed",
        ],
    ),
    ("host credential secret", &["/var/lib/systemd/credential.secret"]),
    (
        "DHCP lease or identity",
        &[
            "/var/lib/dhcp/*lease*",
            "/var/lib/dhclient/*lease*",
            "/var/lib/dhcpcd/*",
            "/var/lib/dhcpd/*",
            "/var/lib/dhcpv6/*",
            "/etc/dhcpcd.duid",
            "/var/lib/NetworkManager/*lease*",
            "/var/lib/NetworkManager/secret_key",
            "/var/lib/NetworkManager/timestamps",
            "/var/lib/NetworkManager/seen-bssids",
        ],
    ),
    ("network card name", &["/etc/udev/rules.d/*persistent-net.rules", "/etc/iftab", "/etc/mactab"]),
    (
        "host ID for storage",
        &["/etc/nvme/hostid", "/etc/nvme/hostnqn", "/etc/hostid", "/etc/lvm/devices/system.devices"],
    ),
    (
        "Kerberos key or ticket",
        &["/etc/krb5.keytab", "/var/lib/sss/db/*", "/var/lib/sss/secrets/*", "/var/kerberos/krb5kdc/*"],
    ),
    ("Samba secret", &["/var/lib/samba/*.tdb", "/var/lib/samba/private/*"]),
    (
        "agent key",
        &[
            "/etc/salt/pki/*",
            "/etc/salt/minion_id",
            "/etc/puppetlabs/puppet/ssl/*",
            "/var/lib/puppet/ssl/*",
            "/etc/puppet/ssl/*",
            "/etc/chef/client.pem",
            "/var/lib/tor/keys/*",
            "/var/lib/zerotier-one/identity.*",
            "/var/lib/tailscale/*",
            "/etc/docker/key.json",
        ],
    ),
    ("cloud-init state", &["/var/lib/cloud/*"]),
    (
        "registration",
        &[
            "/etc/sysconfig/rhn/systemid",
            "/etc/pki/consumer/*",
            "/etc/pki/entitlement/*",
            "/var/lib/rhsm/*",
            "/var/lib/yum/uuid",
            "/etc/smolt/uuid",
            "/etc/sysconfig/hw-uuid",
            "/etc/smolt/hw-uuid",
        ],
    ),
    ("crash dump", &["/var/crash/*", "/var/lib/systemd/coredump/*", "/var/spool/abrt/*", "/var/log/dump/*"]),
    ("temporary file", &["/tmp/*", "/var/tmp/*"]),
    (
        "old log",
        &["/var/log/journal/*", "/var/log/*.[0-9]", "/var/log/*.gz", "/var/log/*.xz", "/var/log/*.old"],
    ),
];

/// Also removed: secrets and leftovers of the machine that the image comes from.
const LEFTOVERS: &[(&str, &[&str])] = &[
    (
        "account file backup",
        &["/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-"],
    ),
    ("editor backup", &["/etc/*~", "/etc/*.bak", "/etc/*/*~", "/etc/*/*.bak", "/root/*~", "/root/*.bak"]),
    ("spooled job", &["/var/spool/cron/*", "/var/spool/at/*", "/var/spool/atjobs/*", "/var/spool/anacron/*"]),
    ("mail", &["/var/mail/*", "/var/spool/mail/*", "/var/lib/dovecot/*"]),
    (
        "package cache",
        &[
            "/var/cache/apt/archives/*.deb",
            "/var/cache/apt/*.bin",
            "/var/cache/dnf/*",
            "/var/cache/yum/*",
            "/var/cache/zypp/*",
        ],
    ),
    ("package database index", &["/var/lib/rpm/__db.*"]),
    ("device table", &["/etc/blkid.tab*", "/etc/blkid/blkid.tab*", "/run/blkid/blkid.tab*"]),
    (
        "login record",
        &["/var/run/utmp", "/run/utmp", "/var/run/faillock/*", "/var/lib/faillock/*", "/var/account/pacct*"],
    ),
];

/// Directories under these paths are kept, and the files in them removed.
const FILES_ONLY: &[&str] = &["/var/spool/cron/"];

/// Exceptions: configuration beside removed data.
const KEPT: &[&str] = &["/var/kerberos/krb5kdc/kadm5.acl", "/var/kerberos/krb5kdc/kdc.conf"];

/// Secrets that are kept and reported, because the image may not work without them: the advice and their paths.
const LEFT: &[(&str, &[&str])] = &[
    (
        "private keys: replace them if clones must not share them",
        &[
            "/etc/wireguard/*.conf",
            "/etc/ssl/private/*",
            "/etc/pki/tls/private/*",
            "/etc/letsencrypt/live/*",
            "/etc/ipsec.secrets",
            "/etc/openvpn/*.key",
            "/var/lib/tor/*/hs_ed25519_secret_key",
        ],
    ),
    ("authorized keys: delete the file if clones must not share them", &["/root/.ssh/authorized_keys*"]),
    ("host name: set another one with --hostname", &["/etc/hostname"]),
];

/// Files removed from each home directory.
const HISTORIES: &[&str] = &[
    ".bash_history",
    ".zsh_history",
    ".zhistory",
    ".ash_history",
    ".ksh_history",
    ".sh_history",
    ".history",
    ".python_history",
    ".mysql_history",
    ".psql_history",
    ".sqlite_history",
    ".lesshst",
    ".viminfo",
    ".wget-hsts",
    ".local/share/fish/fish_history",
];

/// Files in `.ssh` of each home that are kept: settings and authorized keys.
const SSH_KEPT: &[&str] = &["authorized_keys", "authorized_keys2", "config", "rc", "environment"];

/// Returns what clones must not share: its kind, and patterns of its paths in the usual homes.
pub(crate) fn not_shared() -> impl Iterator<Item = (&'static str, String)> {
    let gone = GONE.iter().flat_map(|(what, patterns)| patterns.iter().map(|p| (*what, (*p).to_owned())));
    let homes =
        HISTORIES.iter().flat_map(|history| ["/root", "/home/*"].map(|home| format!("{home}/{history}")));
    let more = [
        ("machine-id", "/etc/machine-id".to_owned()),
        ("machine-id", "/var/lib/dbus/machine-id".to_owned()),
        ("log", "/var/log/*".to_owned()),
    ];
    gone.chain(homes.map(|path| ("history", path))).chain(more)
}

/// Returns the edits that prepare a system for cloning, each with a description of what it removes.
pub(super) fn generalize(files: &Files) -> Result<Vec<(Edit, Option<String>)>> {
    let mut edits: Vec<(Edit, Option<String>)> = Vec::new();
    let mut gone = |what: &str, path: String| {
        let said = format!("{what}: {path}");
        edits.push((Edit::Delete { path }, Some(said)));
    };
    for (what, patterns) in GONE.iter().chain(LEFTOVERS) {
        for pattern in *patterns {
            for path in files.glob(pattern)? {
                if KEPT.contains(&path.as_str()) {
                    continue;
                }
                let is_dir = files.get_link(&path).is_some_and(|row| row.node.file_type == FileType::Dir);
                if is_dir && FILES_ONLY.iter().any(|folder| path.starts_with(folder)) {
                    for (name, _) in files.list(&path) {
                        gone(what, format!("{path}/{name}"));
                    }
                } else {
                    gone(what, path);
                }
            }
        }
    }
    for home in accounts::homes(files)? {
        let ssh = format!("{}/.ssh", home.trim_end_matches('/'));
        for (name, _) in files.list(&ssh) {
            if !SSH_KEPT.contains(&name.as_str()) {
                gone("SSH key or known host", format!("{ssh}/{name}"));
            }
        }
        for history in HISTORIES {
            let path = format!("{}/{history}", home.trim_end_matches('/'));
            if files.get_link(&path).is_some() {
                gone("history", path);
            }
        }
    }
    // A copy is removed; a link to /etc/machine-id is not a second identity.
    if files.get_link("/var/lib/dbus/machine-id").is_some_and(|row| row.node.file_type == FileType::File) {
        gone("machine-id", "/var/lib/dbus/machine-id".into());
    }
    // The file is kept, but empty, so that it can be mounted over while the root is still read-only (machine-id(5)).
    if files.get("/etc/machine-id").is_some_and(|row| row.node.size > 0) {
        edits.push((
            Edit::text("/etc/machine-id", ""),
            Some("machine-id: /etc/machine-id (now empty)".into()),
        ));
    }
    edits.extend(initiator(files)?);
    edits.extend(hardware::unbind(files)?);
    let mut logs = Vec::new();
    current_logs(files, "/var/log", &mut logs);
    // A path may match several patterns.
    let mut seen = std::collections::BTreeSet::new();
    edits.retain(|(edit, _)| match edit {
        Edit::Delete { path } => seen.insert(path.clone()),
        _ => true,
    });
    for path in logs.into_iter().filter(|path| !seen.contains(path)) {
        let said = format!("log: {path} (now empty)");
        edits.push((Edit::text(path, ""), Some(said)));
    }
    let had_keys =
        edits.iter().any(|(_, said)| said.as_ref().is_some_and(|said| said.starts_with("SSH host key")));
    if had_keys {
        edits.extend(first_boot::ssh_host_keys(files).into_iter().map(|edit| (edit, None)));
    }
    Ok(edits)
}

/// Resets the iSCSI initiator name. Debian's init script generates one if the file requests it, Red Hat's if the file
/// is missing.
fn initiator(files: &Files) -> Result<Option<(Edit, Option<String>)>> {
    const PATH: &str = "/etc/iscsi/initiatorname.iscsi";
    const ASKS: &str = "GenerateName=yes\n";
    if !files.is_file(PATH) || files.text(PATH)? == ASKS {
        return Ok(None);
    }
    Ok(Some(if files.is_file("/etc/debian_version") {
        (Edit::text(PATH, ASKS), Some(format!("host ID for storage: {PATH} (regenerated at the next boot)")))
    } else {
        (Edit::Delete { path: PATH.into() }, Some(format!("host ID for storage: {PATH}")))
    }))
}

/// Lists what clones should not share but still do, each with the reason.
pub(super) fn left(files: &Files) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for (why, patterns) in LEFT {
        for pattern in *patterns {
            for path in files.glob(pattern)? {
                if files.is_file(&path) {
                    left.push(format!("{path}: {why}"));
                }
            }
        }
    }
    for home in accounts::homes(files)?.iter().filter(|home| *home != "/root") {
        let path = format!("{}/.ssh/authorized_keys", home.trim_end_matches('/'));
        if files.is_file(&path) {
            left.push(format!("{path}: {}", LEFT[1].0));
        }
    }
    left.extend(hardware::still_bound(files)?);
    if files.roles().values().any(|volume| volume.contains('/')) {
        left.push("UUIDs of LVM volumes and volume groups".to_owned());
    }
    Ok(left)
}

/// Collects current logs. They are emptied and not removed, because their writers may be unable to create them again.
fn current_logs(files: &Files, folder: &str, found: &mut Vec<String>) {
    for (name, row) in files.list(folder) {
        let path = format!("{folder}/{name}");
        match row.node.file_type {
            FileType::Dir if path != "/var/log/journal" => current_logs(files, &path, found),
            FileType::File if row.node.size > 0 => found.push(path),
            _ => {}
        }
    }
}
