//! Host name, hosts, time zone and locale (hostname(5), hosts(5), localtime(5), locale.conf(5)).

use std::net::IpAddr;

use mif_formats::fs::FileType;

use super::primitive::Edit;
use crate::error::{Error, Result};
use crate::tree::edit::Files;

/// Sets the host name, and updates `/etc/hosts`.
pub(super) fn hostname(files: &Files, name: &str) -> Result<Vec<Edit>> {
    if !is_host_name(name) || name.len() > 64 {
        return Err(Error::usage(format!("invalid host name \"{name}\""))
            .advise("A host name has labels of letters, digits and dashes, separated by dots, and at most 64 characters"));
    }
    let old = files.text("/etc/hostname")?;
    let mut edits = vec![Edit::text("/etc/hostname", format!("{name}\n"))];
    if files.is_file("/etc/hosts") {
        let hosts = files.editable("/etc/hosts")?;
        let new = hosts_of(&hosts, old.trim(), name, files.is_file("/etc/debian_version"));
        if new != hosts {
            edits.push(Edit::text("/etc/hosts", new));
        }
    }
    Ok(edits)
}

/// Returns true if `name` is a valid host or domain name (RFC 1123).
fn is_host_name(name: &str) -> bool {
    let part = |part: &str| {
        (1..=63).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    name.split('.').all(part)
}

/// Returns `/etc/hosts` for a host that was called `old`: the line of 127.0.1.1, which Debian requires, gets the new
/// name, and other addresses of this host get it instead of the old one.
fn hosts_of(hosts: &str, old: &str, new: &str, wants_line: bool) -> String {
    let short = new.split('.').next().unwrap_or(new);
    let own = if short == new { new.to_owned() } else { format!("{new} {short}") };
    let mut found = false;
    let mut lines: Vec<String> = Vec::new();
    for line in hosts.lines() {
        let mut words = line.split('#').next().unwrap_or("").split_whitespace();
        match words.next() {
            Some("127.0.1.1") => {
                if !std::mem::replace(&mut found, true) {
                    lines.push(format!("127.0.1.1\t{own}"));
                }
            }
            Some(address @ ("127.0.0.1" | "::1")) if !old.is_empty() && words.clone().any(|w| w == old) => {
                let names: Vec<&str> = words.map(|word| if word == old { new } else { word }).collect();
                lines.push(format!("{address}\t{}", names.join(" ")));
            }
            _ => lines.push(line.to_owned()),
        }
    }
    if !found && wants_line {
        let after = lines.iter().rposition(|line| line.starts_with("127.0.0.1")).map_or(0, |i| i + 1);
        lines.insert(after, format!("127.0.1.1\t{own}"));
    }
    lines.join("\n") + "\n"
}

/// Adds a line to `/etc/hosts`: an address and its names.
pub(super) fn hosts_entry(files: &Files, address: &str, names: &[String]) -> Result<Vec<Edit>> {
    let parsed: IpAddr =
        address.parse().map_err(|_| Error::usage(format!("invalid IP address \"{address}\"")))?;
    if names.is_empty() || !names.iter().all(|name| is_host_name(name)) {
        return Err(Error::usage(format!("{address}: invalid host names \"{}\"", names.join(" "))));
    }
    let mut hosts = files.editable("/etc/hosts")?;
    let has = |line: &str| {
        let mut words = line.split('#').next().unwrap_or("").split_whitespace();
        let same = words.next().and_then(|word| word.parse::<IpAddr>().ok()) == Some(parsed);
        let have: Vec<&str> = words.collect();
        same && names.iter().all(|name| have.contains(&name.as_str()))
    };
    if hosts.lines().any(has) {
        return Ok(Vec::new());
    }
    if !hosts.is_empty() && !hosts.ends_with('\n') {
        hosts.push('\n');
    }
    Ok(vec![Edit::text("/etc/hosts", format!("{hosts}{parsed}\t{}\n", names.join(" ")))])
}

/// Sets the time zone, which must exist in the image.
pub(super) fn timezone(files: &Files, zone: &str) -> Result<Vec<Edit>> {
    let target = format!("/usr/share/zoneinfo/{zone}");
    let plain = |c: char| c.is_ascii_alphanumeric() || "_+-/".contains(c);
    if zone.is_empty() || !zone.chars().all(plain) || zone.starts_with('/') || !files.is_file(&target) {
        return Err(Error::input(format!("the image has no time zone \"{zone}\""))
            .advise("List its time zones with `mif ls NAME /usr/share/zoneinfo`"));
    }
    let mut edits = vec![Edit::Symlink { path: "/etc/localtime".into(), target }];
    if files.is_file("/etc/timezone") || files.is_file("/etc/debian_version") {
        edits.push(Edit::text("/etc/timezone", format!("{zone}\n")));
    }
    Ok(edits)
}

/// Sets the system's language and character set, which must exist in the image.
pub(super) fn locale(files: &Files, locale: &str) -> Result<Vec<Edit>> {
    if !has_locale(files, locale)? {
        return Err(Error::input(format!("the image has no locale \"{locale}\""))
            .advise("Most images have C.UTF-8; others come with packages (locales, glibc-langpack-…)"));
    }
    let debian = files.is_file("/etc/default/locale") || files.is_file("/etc/debian_version");
    let (folder, path) = if debian && !files.is_file("/etc/locale.conf") {
        ("/etc/default", "/etc/default/locale")
    } else {
        ("/etc", "/etc/locale.conf")
    };
    let old = files.editable(path)?;
    let kept = old.lines().filter(|line| !line.trim_start().starts_with("LANG="));
    let lines: Vec<String> = kept.map(str::to_owned).chain([format!("LANG={locale}")]).collect();
    Ok(vec![Edit::folder(folder), Edit::text(path, lines.join("\n") + "\n")])
}

/// Returns true if the image's glibc finds a locale: built in, in its own directory, or in the archive.
fn has_locale(files: &Files, locale: &str) -> Result<bool> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.@".contains(c);
    if locale.is_empty() || !locale.chars().all(plain) || locale.starts_with('.') {
        return Ok(false);
    }
    if matches!(locale, "C" | "POSIX") {
        return Ok(true);
    }
    // glibc names an installed locale with the character set in lower case and without dashes: en_US.utf8.
    let (name, rest) = locale.split_once('.').unwrap_or((locale, ""));
    let (charset, modifier) = rest.split_once('@').map_or((rest, None), |(c, m)| (c, Some(m)));
    let charset: String = charset.chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase()).collect();
    let mut installed = name.to_owned();
    if !charset.is_empty() {
        installed = format!("{installed}.{charset}");
    }
    if let Some(modifier) = modifier {
        installed = format!("{installed}@{modifier}");
    }
    let is_folder = |name: &str| {
        files.get(&format!("/usr/lib/locale/{name}")).is_some_and(|row| row.node.file_type == FileType::Dir)
    };
    if is_folder(&installed) || is_folder(locale) {
        return Ok(true);
    }
    let Some(archive) = files.get("/usr/lib/locale/locale-archive") else { return Ok(false) };
    let needle = [b"\0", installed.as_bytes(), b"\0"].concat();
    Ok(memchr::memmem::find(&files.content(archive)?, &needle).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_line_follows_its_name() {
        let hosts = "127.0.0.1\tlocalhost old\n127.0.1.1\told.lan old # me\n10.0.0.1 old-friend\n";
        let expected = "127.0.0.1\tlocalhost web.lan\n127.0.1.1\tweb.lan web\n10.0.0.1 old-friend\n";
        assert_eq!(hosts_of(hosts, "old", "web.lan", true), expected);
        assert_eq!(
            hosts_of("127.0.0.1 localhost\n::1 x\n", "", "web", true),
            "127.0.0.1 localhost\n127.0.1.1\tweb\n::1 x\n"
        );
        assert_eq!(hosts_of("127.0.0.1 localhost\n", "", "web", false), "127.0.0.1 localhost\n");
    }

    #[test]
    fn names_of_hosts_are_those_of_rfc_1123() {
        assert!(is_host_name("web-1.example.org") && is_host_name("3com"));
        for bad in ["", "-a", "a-", "a b", "a..b", "ü", "a_b", &"x".repeat(64)] {
            assert!(!is_host_name(bad), "{bad:?}");
        }
    }
}
