//! What clones of a system must not share: keys, identities, seeds, leases, and what was logged and typed.

use mif_formats::fs::FileType;

use super::accounts;
use super::edit::Edit;
use super::systemd;
use crate::Result;
use crate::files::Files;

/// What goes, by what it is. A pattern's parts have `*` and `?`; folders go with all that is in them.
const GONE: &[(&str, &[&str])] = &[
    ("SSH host key", &["/etc/ssh/ssh_host_*_key", "/etc/ssh/ssh_host_*_key.pub", "/etc/ssh/ssh_host_key*"]),
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
    ("host's credential secret", &["/var/lib/systemd/credential.secret"]),
    (
        "DHCP lease or identity",
        &[
            "/var/lib/dhcp/*lease*",
            "/var/lib/dhclient/*lease*",
            "/var/lib/dhcpcd/*",
            "/var/lib/NetworkManager/*lease*",
            "/var/lib/NetworkManager/secret_key",
            "/var/lib/NetworkManager/timestamps",
            "/var/lib/NetworkManager/seen-bssids",
        ],
    ),
    ("name of a network card", &["/etc/udev/rules.d/70-persistent-net.rules"]),
    ("state of cloud-init", &["/var/lib/cloud/*"]),
    ("registration", &["/etc/sysconfig/rhn/systemid", "/etc/pki/consumer/*", "/var/lib/rhsm/*"]),
    ("crash dump", &["/var/crash/*", "/var/lib/systemd/coredump/*"]),
    ("temporary file", &["/tmp/*", "/var/tmp/*"]),
    (
        "old log",
        &["/var/log/journal/*", "/var/log/*.[0-9]", "/var/log/*.gz", "/var/log/*.xz", "/var/log/*.old"],
    ),
];

/// What goes of each home.
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

/// What must not be shared, and patterns of where it is: in the homes that systems usually have.
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

/// The edits that make a system fit to be cloned, and what each takes away.
pub(super) fn generalize(files: &Files) -> Result<Vec<(Edit, Option<String>)>> {
    let mut edits: Vec<(Edit, Option<String>)> = Vec::new();
    let mut gone = |what: &str, path: String| {
        let said = format!("{what}: {path}");
        edits.push((Edit::Delete { path }, Some(said)));
    };
    for (what, patterns) in GONE {
        for pattern in *patterns {
            for path in files.glob(pattern)? {
                gone(what, path);
            }
        }
    }
    for home in accounts::homes(files)? {
        for history in HISTORIES {
            let path = format!("{}/{history}", home.trim_end_matches('/'));
            if files.get_link(&path).is_some() {
                gone("history", path);
            }
        }
    }
    // A copy goes; a link to /etc/machine-id says the same as that.
    if files.get_link("/var/lib/dbus/machine-id").is_some_and(|row| row.file_type == FileType::File) {
        gone("machine-id", "/var/lib/dbus/machine-id".into());
    }
    // It stays, empty: so that it can be mounted over while the root is still read-only (machine-id(5)).
    if files.get("/etc/machine-id").is_some_and(|row| row.size > 0) {
        edits.push((
            Edit::text("/etc/machine-id", ""),
            Some("machine-id: /etc/machine-id (now empty)".into()),
        ));
    }
    let mut logs = Vec::new();
    current_logs(files, "/var/log", &mut logs);
    // One path may fit several patterns.
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
        edits.extend(systemd::ssh_host_keys(files).into_iter().map(|edit| (edit, None)));
    }
    Ok(edits)
}

/// Logs that are written to: they stay, empty, for who writes them may not be able to make them anew.
fn current_logs(files: &Files, folder: &str, found: &mut Vec<String>) {
    for (name, row) in files.list(folder) {
        let path = format!("{folder}/{name}");
        match row.file_type {
            FileType::Dir if path != "/var/log/journal" => current_logs(files, &path, found),
            FileType::File if row.size > 0 => found.push(path),
            _ => {}
        }
    }
}
