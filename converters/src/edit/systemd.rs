//! Enables and disables systemd units in the image through the symlinks that `systemctl` makes, according to the unit's
//! `[Install]` section (systemd.unit(5)).

use std::collections::BTreeSet;

use mif_formats::fs::FileType;

use super::primitive::Edit;
use crate::error::{Error, Result};
use crate::tree::edit::Files;

/// The directories of units. The first that contains a unit counts.
const FOLDERS: [&str; 4] = [
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// The directory of the administrator's links.
pub(super) const ETC: &str = "/etc/systemd/system";

/// The `[Install]` section of a unit.
#[derive(Debug, Default, PartialEq, Eq)]
struct Install {
    /// Directory suffix (`wants`, `requires`, `upholds`) and unit.
    wanted: Vec<(&'static str, String)>,
    alias: Vec<String>,
    also: Vec<String>,
    default_instance: Option<String>,
}

impl Install {
    fn is_empty(&self) -> bool {
        self.wanted.is_empty() && self.alias.is_empty() && self.also.is_empty()
    }

    /// Parses the section in a unit's text, and adds it.
    fn read(&mut self, text: &str) {
        let mut section = String::new();
        for line in logical_lines(text) {
            let line = line.trim();
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
            // An empty value clears earlier ones.
            if words.is_empty() {
                self.wanted.retain(|(have, _)| *have != suffix);
            }
            self.wanted.extend(words.into_iter().map(|word| (suffix, word)));
        }
    }
}

/// Returns the lines of a unit file (systemd.syntax(7)): a trailing backslash continues a line with the next line that
/// is not a comment.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in text.lines() {
        if line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        // A backslash before it escapes a backslash.
        let backslashes = line.len() - line.trim_end_matches('\\').len();
        let continues = backslashes % 2 == 1;
        let part = if continues { &line[..line.len() - 1] } else { line };
        match lines.last_mut().filter(|_| goes_on) {
            Some(last) => *last = format!("{last} {part}"),
            None => lines.push(part.to_owned()),
        }
        goes_on = continues;
    }
    lines
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

    /// Returns the name of the template, if the unit is an instance.
    fn template(&self) -> String {
        format!("{}@.{}", self.prefix, self.suffix)
    }
}

/// Returns `name`, with the suffix `.service` unless it has a suffix of systemd.
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
        return Err(Error::usage(format!("invalid unit name \"{name}\"")));
    }
    let known = name.rsplit_once('.').is_some_and(|(_, suffix)| suffixes.contains(&suffix));
    Ok(if known { name.to_owned() } else { format!("{name}.service") })
}

/// Returns the path of a unit's file. For an instance, this may be its template's.
pub(super) fn find(files: &Files, unit: &str) -> Result<String> {
    let name = Name::of(unit);
    let template = name.template();
    let names = if name.instance.is_some() { vec![unit, &template] } else { vec![unit] };
    for name in names {
        for folder in FOLDERS {
            let path = format!("{folder}/{name}");
            let Some(row) = files.get_link(&path) else { continue };
            if row.node.link_target.as_deref() == Some(b"/dev/null") {
                return Err(Error::input(format!("{path}: the unit {unit} is masked"))
                    .advise("Delete that symlink first"));
            }
            if files.is_file(&path) {
                return Ok(path);
            }
        }
    }
    Err(Error::input(format!("the image has no unit {unit}"))
        .advise("List the units of its packages with `mif ls NAME /lib/systemd/system`"))
}

/// Reads the `[Install]` section of a unit from its file and its drop-ins.
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

/// Expands the specifiers used in `[Install]` (systemd.unit(5)).
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

/// Makes a unit start at boot.
pub(super) fn enable(files: &Files, unit: &str) -> Result<Vec<Edit>> {
    let mut edits = Vec::new();
    let mut seen = BTreeSet::new();
    enable_with(files, &full_name(unit)?, &mut seen, &mut edits, true)?;
    Ok(edits)
}

/// Follows the aliases of a unit. Returns all names in order; the last has the file.
fn aliases(files: &Files, unit: &str) -> Vec<String> {
    let mut names = vec![unit.to_owned()];
    while let Some(target) = names.last().and_then(|unit| alias_of(files, unit)) {
        if names.contains(&target) {
            break;
        }
        names.push(target);
    }
    names
}

/// Returns the unit of which a symlink makes a name an alias. Returns `None` if the name has a file of its own, is
/// masked, or is linked to a file of the same name elsewhere.
fn alias_of(files: &Files, unit: &str) -> Option<String> {
    let name = Name::of(unit);
    let template = name.template();
    let names = if name.instance.is_some() { vec![unit, &template[..]] } else { vec![unit] };
    let paths = names.iter().flat_map(|name| FOLDERS.map(|folder| (*name, format!("{folder}/{name}"))));
    let (found, row) = paths.into_iter().find_map(|(name, path)| Some((name, files.get_link(&path)?)))?;
    let target = String::from_utf8(row.node.link_target.clone()?).ok()?;
    let target = target.rsplit('/').next().filter(|target| *target != found && *target != "null")?;
    let to = Name::of(target);
    if to.suffix != name.suffix {
        return None;
    }
    Some(match (name.instance, to.instance) {
        (Some(instance), Some("")) => format!("{}@{instance}.{}", to.prefix, to.suffix),
        _ => target.to_owned(),
    })
}

/// Enables a unit and the units it names. A unit that the user `named` must have an `[Install]` section.
fn enable_with(
    files: &Files,
    unit: &str,
    seen: &mut BTreeSet<String>,
    edits: &mut Vec<Edit>,
    named: bool,
) -> Result<()> {
    let unit = aliases(files, unit).pop().unwrap_or_else(|| unit.to_owned());
    let unit = unit.as_str();
    if !seen.insert(unit.to_owned()) {
        return Ok(());
    }
    let path = find(files, unit)?;
    let install = install(files, path.rsplit('/').next().unwrap_or(unit), &path)?;
    if install.is_empty() {
        return if named {
            Err(Error::input(format!("{path}: has no [Install] section, so it cannot be enabled")).advise(
                "Other units start it; to start it at boot, create a symlink to it in a target's .wants directory",
            ))
        } else {
            Ok(())
        };
    }
    let name = Name::of(unit);
    let unit = match (name.instance, &install.default_instance) {
        (Some(""), Some(instance)) => format!("{}@{instance}.{}", name.prefix, name.suffix),
        (Some(""), None) if !install.wanted.is_empty() => {
            return Err(Error::input(format!("{path}: is a template unit"))
                .advise(format!("Name an instance, such as {}@NAME.{}", name.prefix, name.suffix)));
        }
        _ => unit.to_owned(),
    };
    let mut link = |path: String, target: &str| {
        if files.get_link(&path).is_none_or(|row| row.node.link_target.as_deref() != Some(target.as_bytes()))
        {
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

/// Stops a unit from starting at boot. Removes the links that `systemctl disable` removes: those with any of the unit's
/// names or to its file, those of the units in its `Also=`, and links to those links. Leaves a masked unit unchanged.
pub(super) fn disable(files: &Files, unit: &str) -> Result<Vec<Edit>> {
    let unit = full_name(unit)?;
    let mut names = BTreeSet::new();
    let mut todo = vec![unit.clone()];
    while let Some(unit) = todo.pop() {
        let aliases = aliases(files, &unit);
        let last = aliases.last().unwrap_or(&unit);
        if let Ok(path) = find(files, last).map_err(drop) {
            let install = install(files, path.rsplit('/').next().unwrap_or(last), &path)?;
            let also = install.also.iter().map(|also| specified(also, last));
            todo.extend(also.filter(|also| !names.contains(also)));
        }
        names.extend(aliases);
    }
    if is_masked(files, &unit) {
        return Ok(Vec::new());
    }
    let gone = links_to_remove(files, &mut names);
    if gone.is_empty() {
        // An unknown name may be a mistake.
        find(files, &unit)?;
    }
    Ok(gone.into_iter().map(|path| Edit::Delete { path }).collect())
}

/// Returns true if a unit is masked: its name is a link to `/dev/null`.
fn is_masked(files: &Files, unit: &str) -> bool {
    let paths = FOLDERS.map(|folder| format!("{folder}/{unit}"));
    let row = paths.iter().find_map(|path| files.get_link(path));
    row.is_some_and(|row| row.node.link_target.as_deref() == Some(b"/dev/null"))
}

/// A symlink in the administrator's directory of units.
struct Link {
    path: String,
    /// Its own name.
    name: String,
    /// The last part of its target.
    target: String,
}

/// Returns the symlinks in the administrator's directory of units and in all directories in it. Does not follow
/// symlinks to directories.
fn administrators_links(files: &Files) -> Vec<Link> {
    let mut links = Vec::new();
    let mut folders = vec![ETC.to_owned()];
    while let Some(folder) = folders.pop() {
        for (name, row) in files.list(&folder) {
            let path = format!("{folder}/{name}");
            match &row.node.link_target {
                Some(target) => {
                    let target = String::from_utf8_lossy(target);
                    let target = target.trim_end_matches('/').rsplit('/').next().unwrap_or("").to_owned();
                    links.push(Link { path, name, target });
                }
                None if row.node.file_type == FileType::Dir => folders.push(path),
                None => {}
            }
        }
    }
    links.sort_by(|a, b| a.path.cmp(&b.path));
    links
}

/// Returns the paths of the links to remove with these units. Adds the names of removed links to `names`, because other
/// links may point to them.
fn links_to_remove(files: &Files, names: &mut BTreeSet<String>) -> Vec<String> {
    let mut left = administrators_links(files);
    let mut gone = Vec::new();
    loop {
        // A template stands for all its instances.
        let has = |name: &str| {
            names.contains(name)
                || Name::of(name).instance.is_some_and(|i| !i.is_empty())
                    && names.contains(&Name::of(name).template())
        };
        let (going, staying): (Vec<Link>, Vec<Link>) =
            left.into_iter().partition(|link| has(&link.name) || names.contains(&link.target));
        if going.is_empty() {
            break;
        }
        names.extend(going.iter().map(|link| link.name.clone()));
        gone.extend(going.into_iter().map(|link| link.path));
        left = staying;
    }
    gone
}

/// Returns true if a link makes a unit start at boot. A link at the top that only leads to the unit's file, or masks
/// the unit, does not.
pub(super) fn is_enabled(files: &Files, unit: &str) -> bool {
    administrators_links(files).iter().any(|link| {
        let is_top = link.path.rsplit_once('/').is_some_and(|(folder, _)| folder == ETC);
        let names_it = link.name == unit || link.target == unit;
        names_it && !(is_top && (link.target == link.name || link.target == "null"))
    })
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
    fn comments_inside_a_continued_line_are_no_part_of_it() {
        let mut install = Install::default();
        install.read("[Install]\nWantedBy=a.target \\\n# not \\\n; nor\n b.target\nAlias=x.service\n#[Unit]\\\nAlso=y.socket\n");
        let expected = Install {
            wanted: vec![("wants", "a.target".into()), ("wants", "b.target".into())],
            alias: vec!["x.service".into()],
            also: vec!["y.socket".into()],
            default_instance: None,
        };
        assert_eq!(install, expected);
        assert_eq!(logical_lines("a \\\n\nb \\\\\nc"), ["a  ", "b \\\\", "c"]);
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
