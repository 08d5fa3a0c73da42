//! Units of systemd in the image: enabled and disabled by the symlinks that `systemctl` makes, as the unit's own
//! `[Install]` section says (systemd.unit(5)); and scripts for the first boot.

use std::collections::BTreeSet;

use mif_formats::fs::FileType;

use super::edit::Edit;
use crate::files::Files;
use crate::rebuild::NewContent;
use crate::{Error, Result};

/// Where units are, the first found counting.
const FOLDERS: [&str; 4] = [
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Where the administrator's links are.
const ETC: &str = "/etc/systemd/system";

/// The `[Install]` section of a unit.
#[derive(Debug, Default, PartialEq, Eq)]
struct Install {
    /// Folder suffix (`wants`, `requires`, `upholds`) and unit.
    wanted: Vec<(&'static str, String)>,
    alias: Vec<String>,
    also: Vec<String>,
    default_instance: Option<String>,
}

impl Install {
    fn is_empty(&self) -> bool {
        self.wanted.is_empty() && self.alias.is_empty() && self.also.is_empty()
    }

    /// Reads the section out of a unit's text, and adds it.
    fn read(&mut self, text: &str) {
        let mut section = String::new();
        // A line that ends with a backslash goes on.
        let joined = text.replace("\\\n", " ");
        for line in joined.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line.to_owned();
                continue;
            }
            let Some((key, value)) = line.split_once('=').filter(|_| section == "[Install]") else {
                continue;
            };
            let words: Vec<String> = value.split_whitespace().map(str::to_owned).collect();
            let suffix = match key.trim() {
                "WantedBy" => "wants",
                "RequiredBy" => "requires",
                "UpheldBy" => "upholds",
                "Alias" => {
                    self.alias.extend(words);
                    continue;
                }
                "Also" => {
                    self.also.extend(words);
                    continue;
                }
                "DefaultInstance" => {
                    self.default_instance = words.into_iter().next();
                    continue;
                }
                _ => continue,
            };
            // An empty value takes back what was said before.
            if words.is_empty() {
                self.wanted.retain(|(have, _)| *have != suffix);
            }
            self.wanted.extend(words.into_iter().map(|word| (suffix, word)));
        }
    }
}

/// A unit's name in parts: `getty`, the instance `tty1`, `service`.
struct Name<'a> {
    prefix: &'a str,
    instance: Option<&'a str>,
    suffix: &'a str,
}

impl<'a> Name<'a> {
    fn of(unit: &'a str) -> Self {
        let (stem, suffix) = unit.rsplit_once('.').unwrap_or((unit, ""));
        let (prefix, instance) = stem.split_once('@').map_or((stem, None), |(p, i)| (p, Some(i)));
        Name { prefix, instance, suffix }
    }

    /// The unit's file, if it is an instance of a template.
    fn template(&self) -> String {
        format!("{}@.{}", self.prefix, self.suffix)
    }
}

/// `name` with the suffix `.service` if it has none of systemd's.
fn full_name(name: &str) -> Result<String> {
    let suffixes = [
        "service",
        "socket",
        "device",
        "mount",
        "automount",
        "swap",
        "target",
        "path",
        "timer",
        "slice",
        "scope",
    ];
    let plain = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    if name.is_empty() || !name.chars().all(plain) || name.starts_with('.') {
        return Err(Error::usage(format!("\"{name}\" is no name of a unit")));
    }
    let known = name.rsplit_once('.').is_some_and(|(_, suffix)| suffixes.contains(&suffix));
    Ok(if known { name.to_owned() } else { format!("{name}.service") })
}

/// The path of a unit's file, for an instance its template's.
fn find(files: &Files, unit: &str) -> Result<String> {
    let name = Name::of(unit);
    let template = name.template();
    let names = if name.instance.is_some() { vec![unit, &template] } else { vec![unit] };
    for name in names {
        for folder in FOLDERS {
            let path = format!("{folder}/{name}");
            let Some(row) = files.get_link(&path) else { continue };
            if row.link_target.as_deref() == Some(b"/dev/null") {
                return Err(Error::input(format!("{path}: the unit {unit} is masked"))
                    .advise("Delete that link first"));
            }
            if files.is_file(&path) {
                return Ok(path);
            }
        }
    }
    Err(Error::input(format!("the image has no unit {unit}"))
        .advise("`mif ls NAME /lib/systemd/system` lists those that come with its packages"))
}

/// What a unit's file and the files that add to it say.
fn install(files: &Files, unit: &str, path: &str) -> Result<Install> {
    let mut install = Install::default();
    install.read(&files.text(path)?);
    for folder in FOLDERS.iter().rev() {
        for (name, _) in files.list(&format!("{folder}/{unit}.d")) {
            if name.ends_with(".conf") {
                install.read(&files.text(&format!("{folder}/{unit}.d/{name}"))?);
            }
        }
    }
    Ok(install)
}

/// The specifiers that stand in `[Install]` (systemd.unit(5)).
fn specified(text: &str, unit: &str) -> String {
    let name = Name::of(unit);
    let instance = name.instance.unwrap_or("");
    let stem = unit.rsplit_once('.').map_or(unit, |(stem, _)| stem);
    let last = name.prefix.rsplit('-').next().unwrap_or("");
    [
        ("%%", "\0"),
        ("%n", unit),
        ("%N", stem),
        ("%p", name.prefix),
        ("%P", name.prefix),
        ("%i", instance),
        ("%I", instance),
        ("%j", last),
        ("%J", last),
        ("\0", "%"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Has a unit started at boot.
pub(super) fn enable(files: &Files, unit: &str) -> Result<Vec<Edit>> {
    let mut edits = Vec::new();
    let mut seen = BTreeSet::new();
    enable_with(files, &full_name(unit)?, &mut seen, &mut edits, true)?;
    Ok(edits)
}

/// Links a unit, and those that it names. `named` by the user, it has to say how it is installed.
fn enable_with(
    files: &Files,
    unit: &str,
    seen: &mut BTreeSet<String>,
    edits: &mut Vec<Edit>,
    named: bool,
) -> Result<()> {
    if !seen.insert(unit.to_owned()) {
        return Ok(());
    }
    let path = find(files, unit)?;
    let install = install(files, path.rsplit('/').next().unwrap_or(unit), &path)?;
    if install.is_empty() {
        return if named {
            Err(Error::input(format!("{path}: has no [Install] section, so it cannot be enabled")).advise(
                "Such a unit is started by others; a symlink in a target's .wants folder starts it at boot",
            ))
        } else {
            Ok(())
        };
    }
    let name = Name::of(unit);
    let unit = match (name.instance, &install.default_instance) {
        (Some(""), Some(instance)) => format!("{}@{instance}.{}", name.prefix, name.suffix),
        (Some(""), None) if !install.wanted.is_empty() => {
            return Err(Error::input(format!("{path}: is a template"))
                .advise(format!("Name an instance, as {}@NAME.{}", name.prefix, name.suffix)));
        }
        _ => unit.to_owned(),
    };
    let mut link = |path: String, target: &str| {
        if files.get_link(&path).is_none_or(|row| row.link_target.as_deref() != Some(target.as_bytes())) {
            if let Some((folder, _)) = path.rsplit_once('/').filter(|(folder, _)| *folder != ETC) {
                edits.push(Edit::folder(folder));
            }
            edits.push(Edit::Symlink { path, target: target.to_owned() });
        }
    };
    for (suffix, target) in &install.wanted {
        link(format!("{ETC}/{}.{suffix}/{unit}", specified(target, &unit)), &path);
    }
    for alias in &install.alias {
        link(format!("{ETC}/{}", specified(alias, &unit)), &path);
    }
    for also in &install.also {
        enable_with(files, &specified(also, &unit), seen, edits, false)?;
    }
    Ok(())
}

/// Has a unit not started at boot any more: takes away the links that enabling it made.
pub(super) fn disable(files: &Files, unit: &str) -> Result<Vec<Edit>> {
    let unit = full_name(unit)?;
    let mut units = BTreeSet::new();
    let mut todo = vec![unit.clone()];
    let found = find(files, &unit);
    while let Some(unit) = todo.pop() {
        if let Ok(path) = find(files, &unit).map_err(drop) {
            let install = install(files, path.rsplit('/').next().unwrap_or(&unit), &path)?;
            todo.extend(
                install.also.iter().map(|also| specified(also, &unit)).filter(|u| !units.contains(u)),
            );
        }
        units.insert(unit);
    }
    let edits: Vec<Edit> = links(files, &units).into_iter().map(|path| Edit::Delete { path }).collect();
    if edits.is_empty() {
        found?;
    }
    Ok(edits)
}

/// The administrator's links to units: by the name of the link, or of what it points to.
fn links(files: &Files, units: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    let mut look = |folder: &str, top: bool| {
        for (name, row) in files.list(folder) {
            let Some(target) = row.link_target.as_deref() else { continue };
            let target = String::from_utf8_lossy(target);
            let pointed = target.rsplit('/').next().unwrap_or("");
            // A unit that is itself a link of the same name at the top is its file, or masks it.
            let by_name = units.contains(&name) && !(top && (pointed == name || pointed == "null"));
            if by_name || units.contains(pointed) && (!top || pointed != name) {
                found.push(format!("{folder}/{name}"));
            }
        }
    };
    look(ETC, true);
    for (name, row) in files.list(ETC) {
        let holds_links = [".wants", ".requires", ".upholds"].iter().any(|suffix| name.ends_with(suffix));
        if row.file_type == FileType::Dir && holds_links {
            look(&format!("{ETC}/{name}"), false);
        }
    }
    found
}

/// Whether some link has a unit started at boot.
pub(super) fn is_enabled(files: &Files, unit: &str) -> bool {
    !links(files, &BTreeSet::from([unit.to_owned()])).is_empty()
}

/// Whether systemd is what boots the image.
fn require_systemd(files: &Files) -> Result<()> {
    let found = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"].iter().any(|path| files.is_file(path));
    if !found {
        return Err(Error::unsupported(
            "the image has no systemd, which is to run scripts at its first boot",
        ));
    }
    Ok(())
}

/// Where first-boot scripts are.
const FIRST_BOOT: &str = "/usr/local/lib/mif-first-boot";

/// Has a script run once, at the first boot. It runs after those that were added before.
pub(super) fn first_boot(files: &Files, name: &str, script: &NewContent) -> Result<Vec<Edit>> {
    require_systemd(files)?;
    let plain = |c: char| if c.is_ascii_alphanumeric() || "_-".contains(c) { c } else { '-' };
    let name: String = name.chars().map(plain).take(64).collect();
    let start = script.source.read_vec(0, script.source.len().min(2) as usize)?;
    if start != b"#!" {
        return Err(Error::input("a script for the first boot begins with #! and what runs it")
            .advise("Its first line is, say, #!/bin/sh"));
    }
    let before = files.list(FIRST_BOOT);
    let number = before.len() + 1;
    let stem = format!("{number:02}-{name}");
    let after = before.last().map_or(String::new(), |(last, _)| format!(" mif-first-boot-{last}.service"));
    let systemctl = ["/usr/bin/systemctl", "/bin/systemctl"].into_iter().find(|path| files.is_file(path));
    let systemctl = systemctl.unwrap_or("/bin/systemctl");
    let unit = format!("mif-first-boot-{stem}.service");
    let text = format!(
        "[Unit]\n\
         Description=First boot: {name}\n\
         Wants=network-online.target\n\
         After=network-online.target{after}\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         ExecStart={FIRST_BOOT}/{stem}\n\
         # Once, however it ended.\n\
         ExecStopPost={systemctl} --no-reload disable {unit}\n\
         StandardOutput=journal+console\n\
         TimeoutStartSec=infinity\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    );
    let path = format!("{FIRST_BOOT}/{stem}");
    let owner = Some(super::edit::Owner::ids(0, 0));
    let wants = format!("{ETC}/multi-user.target.wants");
    Ok(vec![
        Edit::folder(FIRST_BOOT),
        Edit::folder(&wants),
        Edit::Write { path, content: script.clone(), mode: Some(0o755), owner },
        Edit::file(format!("{ETC}/{unit}"), text, 0o644),
        Edit::Symlink { path: format!("{wants}/{unit}"), target: format!("{ETC}/{unit}") },
    ])
}

/// A unit that makes the host keys of SSH where they are missing, for images whose own packages do so only when
/// they are installed.
pub(super) fn ssh_host_keys(files: &Files) -> Vec<Edit> {
    let made_by_image =
        ["sshd-keygen@.service", "sshd-keygen.target", "sshd-keygen.service", "cloud-init.service"]
            .iter()
            .any(|unit| find(files, unit).is_ok());
    if made_by_image || !files.is_file("/usr/bin/ssh-keygen") || require_systemd(files).is_err() {
        return Vec::new();
    }
    let text = "[Unit]\n\
                Description=SSH host keys\n\
                Before=ssh.service sshd.service\n\
                ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key\n\
                \n\
                [Service]\n\
                Type=oneshot\n\
                ExecStart=/usr/bin/ssh-keygen -A\n\
                \n\
                [Install]\n\
                WantedBy=multi-user.target\n";
    let unit = format!("{ETC}/mif-ssh-host-keys.service");
    let wants = format!("{ETC}/multi-user.target.wants");
    vec![
        Edit::folder(&wants),
        Edit::file(&unit, text, 0o644),
        Edit::Symlink { path: format!("{wants}/mif-ssh-host-keys.service"), target: unit },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_install_section_is_read() {
        let mut install = Install::default();
        install.read(
            "[Unit]\nWantedBy=no.target\n[Install]\nWantedBy = a.target \\\n b.target\nAlias=x.service\n",
        );
        install.read("[Install]\nWantedBy=\nRequiredBy=c.target\nDefaultInstance=tty1\nAlso=y.socket\n");
        let expected = Install {
            wanted: vec![("requires", "c.target".into())],
            alias: vec!["x.service".into()],
            also: vec!["y.socket".into()],
            default_instance: Some("tty1".into()),
        };
        assert_eq!(install, expected);
    }

    #[test]
    fn specifiers_stand_for_parts_of_the_name() {
        assert_eq!(specified("%p-%i-%n-%%i", "a-b@c.service"), "a-b-c-a-b@c.service-%i");
        assert_eq!(specified("%N.%j", "a-b.timer"), "a-b.b");
    }

    #[test]
    fn a_name_without_suffix_is_a_service() {
        assert_eq!(full_name("ssh").unwrap(), "ssh.service");
        assert_eq!(full_name("getty@tty1").unwrap(), "getty@tty1.service");
        assert_eq!(full_name("apt-daily.timer").unwrap(), "apt-daily.timer");
        assert!(full_name("../x").is_err() && full_name("").is_err());
    }
}
