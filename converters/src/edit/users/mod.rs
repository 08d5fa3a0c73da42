//! Users and groups that an image is to have, as `useradd`, `usermod` and `groupadd` of shadow-utils would make them.
//!
//! An existing user is extended: it joins groups, and gets another shell, home or comment; its numbers stay.

mod defaults;
mod tables;

use std::sync::Arc;

use mif_formats::fs::FileType;

use self::defaults::{Defaults, free_id};
use self::tables::Table;
use super::graft::Graft;
use super::primitive::{Edit, Owner};
use crate::error::{Error, Result};
use crate::tree::edit::Files;

/// The longest name of a user or group, in bytes, as in shadow-utils.
const MAX_NAME: usize = 32;

/// The directory of the rules of sudo(8).
const SUDOERS: &str = "/etc/sudoers.d";

/// A user that the image is to have. What is `None` is left as it is, or as for every new user.
#[derive(Debug, Clone, Default)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: Option<u32>,
    /// The name or number of the primary group, which must exist.
    pub(super) gid: Option<String>,
    /// Further groups, which must exist.
    pub(super) groups: Vec<String>,
    pub(super) shell: Option<String>,
    pub(super) home: Option<String>,
    pub(super) comment: Option<String>,
    pub(super) sudo: Option<Sudo>,
    /// For a new user: a number below those of people, no home and no expiry of the password.
    pub(super) system: bool,
}

/// What a user may do with sudo(8): everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sudo {
    WithPassword,
    WithoutPassword,
}

impl Sudo {
    pub(super) fn parse(text: &str) -> Result<Self> {
        match text {
            "yes" => Ok(Sudo::WithPassword),
            "nopasswd" => Ok(Sudo::WithoutPassword),
            _ => Err(Error::usage(format!("invalid sudo=\"{text}\": expected yes or nopasswd"))),
        }
    }
}

/// The files of accounts.
struct Accounts {
    passwd: Table,
    shadow: Table,
    group: Table,
    gshadow: Table,
    subuid: Table,
    subgid: Table,
}

impl Accounts {
    fn read(files: &Files) -> Result<Self> {
        let table = |path| Table::read(files, path);
        let accounts = Accounts {
            passwd: table("/etc/passwd")?,
            shadow: table("/etc/shadow")?,
            group: table("/etc/group")?,
            gshadow: table("/etc/gshadow")?,
            subuid: table("/etc/subuid")?,
            subgid: table("/etc/subgid")?,
        };
        if !accounts.passwd.exists() || !accounts.group.exists() {
            return Err(Error::unsupported(
                "the image has no /etc/passwd and /etc/group to add an account to",
            ));
        }
        Ok(accounts)
    }

    fn edits(&self) -> Vec<Edit> {
        let Accounts { passwd, shadow, group, gshadow, subuid, subgid } = self;
        [passwd, shadow, group, gshadow, subuid, subgid].into_iter().filter_map(Table::edit).collect()
    }

    /// Returns the number of a group given by name or number.
    fn gid(&self, group: &str) -> Result<u32> {
        let by_name = self.group.find(group).and_then(|fields| fields.get(2)?.parse().ok());
        let by_number = || group.parse().ok().filter(|gid| self.group.numbers(2).any(|known| known == *gid));
        by_name.or_else(by_number).ok_or_else(|| no_group(group))
    }

    /// Adds a group and returns its number: `gid`, or `preferred` if that is free, or the next one.
    fn add_group(
        &mut self,
        defaults: &Defaults,
        name: &str,
        gid: Option<u32>,
        preferred: Option<u32>,
        system: bool,
    ) -> Result<u32> {
        let used: Vec<u32> = self.group.numbers(2).collect();
        let gid = match gid {
            Some(gid) if used.contains(&gid) => {
                return Err(Error::input(format!("{name}: the image has a group with the number {gid}")));
            }
            Some(gid) => gid,
            None => {
                let range = defaults.range("GID", system)?;
                let low = if system { 1 } else { *range.start() };
                let fits = |gid: &u32| (low..=*range.end()).contains(gid) && !used.contains(gid);
                let free = preferred.filter(fits).or_else(|| free_id(&used, &range, system));
                free.ok_or_else(|| none_free("group", name, &range))?
            }
        };
        let password = if self.gshadow.exists() { "x" } else { "!" };
        self.group.add(format!("{name}:{password}:{gid}:"));
        self.gshadow.add(format!("{name}:!::"));
        Ok(gid)
    }

    /// Returns who uses a number in containers, according to subuid(5).
    fn owner_of_range(&self, uid: u32) -> Option<&str> {
        let has = |fields: &Vec<&str>| {
            let number = |field: usize| fields.get(field)?.parse::<u64>().ok();
            let range = number(1).zip(number(2));
            range.is_some_and(|(first, len)| (first..first.saturating_add(len)).contains(&u64::from(uid)))
        };
        self.subuid.entries().find(has).map(|fields| fields[0])
    }

    /// Adds an entry to subuid or subgid: the first free range, as useradd(8) looks for it.
    fn add_range(table: &mut Table, defaults: &Defaults, what: &str, name: &str) -> Result<()> {
        let number = |key: &str, default| {
            Ok::<_, Error>(defaults.number(&format!("SUB_{what}_{key}"))?.unwrap_or(default))
        };
        let (low, high, count) =
            (number("MIN", 100_000)?, number("MAX", 600_100_000)?, number("COUNT", 65536)?);
        if !table.exists() || table.find(name).is_some() || count == 0 {
            return Ok(());
        }
        let range = |fields: Vec<&str>| {
            let number = |field: usize| fields.get(field)?.parse::<u64>().ok();
            Some((number(1)?, number(2)?))
        };
        let mut taken: Vec<(u64, u64)> = table.entries().filter_map(range).collect();
        taken.sort_unstable();
        let mut start = u64::from(low);
        for (first, len) in taken {
            if first >= start.saturating_add(count.into()) {
                break;
            }
            start = start.max(first.saturating_add(len));
        }
        if start.saturating_add(count.into()) > u64::from(high) + 1 {
            return Err(Error::input(format!("no subordinate {what}s are free for {name}")));
        }
        table.add(format!("{name}:{start}:{count}"));
        Ok(())
    }
}

/// Adds a group.
pub(super) fn group(files: &Files, name: &str, gid: Option<u32>, system: bool) -> Result<Vec<Edit>> {
    check_name("group", name)?;
    let mut accounts = Accounts::read(files)?;
    if let Some(fields) = accounts.group.find(name) {
        let known = fields.get(2).and_then(|gid| gid.parse::<u32>().ok());
        return match gid {
            Some(gid) if known != Some(gid) => Err(Error::input(format!(
                "the image has a group {name} with another number: {}",
                fields.get(2).copied().unwrap_or_default()
            ))),
            _ => Ok(Vec::new()),
        };
    }
    accounts.add_group(&Defaults::read(files)?, name, gid, None, system)?;
    Ok(accounts.edits())
}

/// Adds a user, or extends an existing one. `today` is in days since 1970.
pub(super) fn user(files: &Files, user: &User, today: i64) -> Result<Vec<Edit>> {
    check_name("user", &user.name)?;
    check_fields(files, user)?;
    let mut accounts = Accounts::read(files)?;
    let defaults = Defaults::read(files)?;
    let existing = accounts
        .passwd
        .find(&user.name)
        .map(|fields| -> Vec<String> { fields.into_iter().map(str::to_owned).collect() });
    let mut edits = match existing {
        Some(fields) => extend(files, user, &fields, &mut accounts, &defaults)?,
        None => add(files, user, &mut accounts, &defaults, today)?,
    };
    for group in &user.groups {
        if accounts.group.find(group).is_none() {
            return Err(no_group(group));
        }
        accounts.group.join(group, 3, &user.name);
        accounts.gshadow.join(group, 3, &user.name);
    }
    edits.splice(0..0, accounts.edits());
    if let Some(sudo) = user.sudo {
        edits.extend(allow_sudo(files, &user.name, sudo)?);
    }
    Ok(edits)
}

/// Adds a user to the accounts; returns the edits that make its home and mailbox.
fn add(
    files: &Files,
    user: &User,
    accounts: &mut Accounts,
    defaults: &Defaults,
    today: i64,
) -> Result<Vec<Edit>> {
    let (name, system) = (&user.name, user.system);
    let used: Vec<u32> = accounts.passwd.numbers(2).collect();
    let range = defaults.range("UID", system)?;
    let uid = match user.uid {
        Some(uid) if used.contains(&uid) => {
            return Err(Error::input(format!("{name}: the image has a user with the number {uid}")));
        }
        Some(uid) => match accounts.owner_of_range(uid) {
            Some(owner) => {
                return Err(Error::input(format!(
                    "{name}: {uid} is one of the subordinate numbers of {owner}"
                )));
            }
            None => uid,
        },
        None => free_id(&used, &range, system).ok_or_else(|| none_free("user", name, &range))?,
    };
    let gid = match &user.gid {
        Some(group) => accounts.gid(group)?,
        None if defaults.own_group() => {
            if accounts.group.find(name).is_some() {
                return Err(Error::input(format!("the image has a group {name}, but no such user"))
                    .advise(format!("Make it the user's group with gid={name}, or choose another name")));
            }
            accounts.add_group(defaults, name, None, Some(uid), system)?
        }
        None => accounts.gid(defaults.useradd("GROUP").unwrap_or("100"))?,
    };
    let home = match &user.home {
        Some(home) => home.clone(),
        None => {
            let base = defaults.useradd("HOME").unwrap_or("/home");
            format!("{}/{name}", base.trim_end_matches('/'))
        }
    };
    let shell = match (&user.shell, defaults.useradd("SHELL")) {
        (Some(shell), _) => shell,
        (None, Some(shell)) => shell,
        (None, None) if files.get("/bin/bash").is_some() => "/bin/bash",
        (None, None) => "/bin/sh",
    };
    let comment = user.comment.as_deref().unwrap_or_default();
    let password = if accounts.shadow.exists() { "x" } else { "!" };
    accounts.passwd.add(format!("{name}:{password}:{uid}:{gid}:{comment}:{home}:{shell}"));
    let changed = if today > 0 { today.to_string() } else { String::new() };
    let ages = if system {
        ":::::".to_owned()
    } else {
        let age = |key| Ok::<_, Error>(defaults.number(key)?.map_or(String::new(), |days| days.to_string()));
        let (least, most, warn) = (age("PASS_MIN_DAYS")?, age("PASS_MAX_DAYS")?, age("PASS_WARN_AGE")?);
        let inactive = defaults.useradd("INACTIVE").filter(|days| !days.starts_with('-')).unwrap_or("");
        format!("{least}:{most}:{warn}:{inactive}::")
    };
    accounts.shadow.add(format!("{name}:!:{changed}:{ages}"));
    let uids = defaults.range("UID", false)?;
    if !system && uid <= *uids.end() && (user.uid.is_none() || uids.contains(&uid)) {
        Accounts::add_range(&mut accounts.subuid, defaults, "UID", name)?;
        Accounts::add_range(&mut accounts.subgid, defaults, "GID", name)?;
    }
    // A system account gets a home only if it is named, as with useradd -r.
    if system && user.home.is_none() {
        return Ok(Vec::new());
    }
    let mut edits = make_home(files, &home, (uid, gid), defaults)?;
    let wants_mail =
        defaults.useradd("CREATE_MAIL_SPOOL").is_some_and(|value| value.eq_ignore_ascii_case("yes"));
    if wants_mail && !system {
        let folder = defaults.login("MAIL_DIR").unwrap_or("/var/mail").trim_end_matches('/');
        let path = format!("{folder}/{name}");
        let is_folder = files.get(folder).is_some_and(|row| row.node.file_type == FileType::Dir);
        if is_folder && files.get_link(&path).is_none() {
            let (gid, mode) = accounts.gid("mail").map_or((gid, 0o600), |mail| (mail, 0o660));
            let content = crate::tree::new_content::NewContent::of_bytes(Vec::new());
            edits.push(Edit::Write { path, content, mode: Some(mode), owner: Some(Owner::ids(uid, gid)) });
        }
    }
    Ok(edits)
}

/// Changes an existing user; returns the edits that make a new home.
fn extend(
    files: &Files,
    user: &User,
    fields: &[String],
    accounts: &mut Accounts,
    defaults: &Defaults,
) -> Result<Vec<Edit>> {
    let name = &user.name;
    let number = |field: usize| fields.get(field).and_then(|number| number.parse::<u32>().ok());
    let (Some(uid), Some(gid)) = (number(2), number(3)) else {
        return Err(Error::input(format!("/etc/passwd: the line of {name} has no numbers")));
    };
    let wanted = user.gid.as_ref().map(|group| accounts.gid(group)).transpose()?;
    if user.uid.is_some_and(|wanted| wanted != uid) || wanted.is_some_and(|wanted| wanted != gid) {
        return Err(Error::input(format!("the image has a user {name}, with the numbers {uid} and {gid}"))
            .advise("The numbers of an existing user cannot be changed, because its files have them too"));
    }
    for (field, value) in [(4, &user.comment), (5, &user.home), (6, &user.shell)] {
        if let Some(value) = value {
            accounts.passwd.set(name, field, value);
        }
    }
    match &user.home {
        Some(home) => make_home(files, home, (uid, gid), defaults),
        None => Ok(Vec::new()),
    }
}

/// Returns the edits that make a home from the image's skeleton, unless it exists.
fn make_home(files: &Files, home: &str, owner: (u32, u32), defaults: &Defaults) -> Result<Vec<Edit>> {
    if files.get(home).is_some() {
        return Ok(Vec::new());
    }
    let (uid, gid) = owner;
    let mode = Some(defaults.home_mode()?);
    let mut edits = vec![Edit::Mkdir { path: home.to_owned(), mode, owner: Some(Owner::ids(uid, gid)) }];
    let skeletons = [defaults.useradd("SKEL").unwrap_or("/etc/skel"), "/usr/etc/skel"];
    for skeleton in skeletons {
        if files.get(skeleton).is_some_and(|row| row.node.file_type == FileType::Dir) {
            let mut graft = Graft::of_image(files, skeleton, "", Some(owner))?;
            graft.entries.retain(|entry| !entry.path.is_empty());
            let graft = Arc::new(graft);
            edits.push(Edit::Graft { path: home.to_owned(), graft, owner: (None, None) });
        }
    }
    Ok(edits)
}

/// Returns the edits that let a user run everything with sudo(8).
fn allow_sudo(files: &Files, name: &str, sudo: Sudo) -> Result<Vec<Edit>> {
    // Such a name is that of an alias in sudoers(5), or ALL.
    if !name.contains(|c: char| c.is_ascii_lowercase()) {
        return Err(Error::usage(format!("{name}: sudo reads a name without small letters as an alias")));
    }
    let configured = ["/etc/sudoers", "/usr/etc/sudoers"].into_iter().find(|path| files.is_file(path));
    let Some(main) = configured else {
        return Err(Error::input("the image has no sudo: it has no /etc/sudoers")
            .advise("Leave sudo= out, or start from an image with sudo"));
    };
    let text = files.editable(main)?;
    let includes = text.lines().any(|line| {
        let mut words = line.split_whitespace();
        matches!(words.next(), Some("#includedir" | "@includedir"))
            && words.next().is_some_and(|folder| folder.trim_matches('"').trim_end_matches('/') == SUDOERS)
    });
    let mut edits = Vec::new();
    if !includes {
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        edits.push(Edit::text(main, format!("{text}{end}#includedir {SUDOERS}\n")));
    }
    if files.get(SUDOERS).is_none() {
        edits.push(Edit::Mkdir {
            path: SUDOERS.to_owned(),
            mode: Some(0o750),
            owner: Some(Owner::ids(0, 0)),
        });
    }
    // sudo skips files whose names contain a dot.
    let path = format!("{SUDOERS}/90-mif-{}", name.replace('.', "_"));
    let tag = if sudo == Sudo::WithoutPassword { "NOPASSWD: " } else { "" };
    edits.push(Edit::file(path, format!("{} ALL=(ALL:ALL) {tag}ALL\n", name.replace('$', "\\$")), 0o440));
    Ok(edits)
}

fn check_fields(files: &Files, user: &User) -> Result<()> {
    let name = &user.name;
    let is_plain = |text: &str| !text.contains([':', '\n', '\0']);
    if let Some(home) = &user.home
        && (!home.starts_with('/') || !is_plain(home))
    {
        return Err(Error::usage(format!(
            "{name}: invalid home \"{home}\": expected an absolute path without colons"
        )));
    }
    if let Some(comment) = &user.comment
        && !is_plain(comment)
    {
        return Err(Error::usage(format!("{name}: the comment must be one line without colons")));
    }
    if let Some(shell) = &user.shell
        && (!shell.starts_with('/') || !is_plain(shell) || files.get(shell).is_none())
    {
        return Err(Error::input(format!("{name}: the image has no shell {shell}"))
            .advise("The image's shells are listed in its /etc/shells"));
    }
    Ok(())
}

/// Fails unless this can be the name of an account: not a number, not an option, and with nothing that a shell or one
/// of the files of accounts would read differently.
fn check_name(what: &str, name: &str) -> Result<()> {
    let stem = name.strip_suffix('$').unwrap_or(name);
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let other = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if stem.starts_with(first) && stem.chars().all(other) && name.len() <= MAX_NAME {
        return Ok(());
    }
    Err(Error::usage(format!("invalid {what} name \"{name}\"")).advise(format!(
        "A name has letters, digits and . _ -, begins with a letter or _, and has at most {MAX_NAME} characters"
    )))
}

fn no_group(group: &str) -> Error {
    Error::input(format!("the image has no group \"{group}\""))
        .advise(format!("Add it first, with --group {group}"))
}

fn none_free(what: &str, name: &str, range: &std::ops::RangeInclusive<u32>) -> Error {
    Error::input(format!("{name}: no {what} number from {} to {} is free", range.start(), range.end()))
        .advise("Name one, or widen the range in the image's /etc/login.defs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_every_tool_reads_alike() {
        for good in ["ops", "_apt", "a.b-c", "host$", "Ada", "x9"] {
            assert!(check_name("user", good).is_ok(), "{good}");
        }
        for bad in ["", "9x", "-r", "a b", "a:b", "a/b", "ü", "$", "a$b", "..", &"a".repeat(33), "a\nb"] {
            assert!(check_name("user", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sudo_is_yes_or_nopasswd() {
        assert_eq!(Sudo::parse("nopasswd").unwrap(), Sudo::WithoutPassword);
        assert!(Sudo::parse("no").is_err() && Sudo::parse("ALL").is_err());
    }
}
