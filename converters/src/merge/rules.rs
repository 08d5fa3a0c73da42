//! Files that an update treats specially: machine-specific files, caches that their programs regenerate, and databases,
//! which are merged entry by entry.

use std::sync::LazyLock;

use glob::{MatchOptions, Pattern};
use mif_formats::mif::manifest::escape;

use super::entries::Format;
use crate::edit::generalize::not_shared;

/// How an update treats a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Taken from the update, unless the image has its own.
    Plain,
    /// Machine-specific: never taken from the update. The text says what it is.
    Machine(&'static str),
    /// Taken from the update, or else the image's own is kept without a conflict. The text says how it is regenerated.
    Cache(&'static str),
    /// Merged entry by entry if both changed it.
    Database(Format),
}

/// Caches and backups: their paths, including everything below, and how they are regenerated.
const CACHES: &[(&str, &str)] = &[
    ("/etc/ld.so.cache", "a cache; regenerate it with `ldconfig`"),
    ("/var/cache/*", "a cache; its program regenerates it"),
    ("/var/lib/apt/lists/*", "a cache; regenerate it with `apt-get update`"),
    ("/**/__pycache__/*", "a cache; Python regenerates it"),
    ("/var/lib/dpkg/*-old", "a backup"),
    ("/var/lib/dpkg/available", "a cache; dpkg regenerates it"),
    ("/etc/passwd-", "a backup"),
    ("/etc/group-", "a backup"),
    ("/etc/shadow-", "a backup"),
    ("/etc/gshadow-", "a backup"),
    ("/etc/subuid-", "a backup"),
    ("/etc/subgid-", "a backup"),
];

/// Databases, and the formats of their entries.
const DATABASES: &[(&str, Format)] = &[
    ("/var/lib/dpkg/status", Format::Paragraphs(&["Package", "Architecture"])),
    ("/var/lib/apt/extended_states", Format::Paragraphs(&["Package", "Architecture"])),
    ("/var/cache/debconf/config.dat", Format::Paragraphs(&["Name"])),
    ("/var/cache/debconf/passwords.dat", Format::Paragraphs(&["Name"])),
    ("/var/cache/debconf/templates.dat", Format::Paragraphs(&["Name"])),
    ("/var/lib/dpkg/diversions", Format::Lines(3)),
    ("/var/lib/dpkg/statoverride", Format::Lines(1)),
    ("/var/lib/dpkg/triggers/File", Format::Lines(1)),
    ("/var/lib/ucf/hashfile", Format::Lines(1)),
    ("/var/lib/ucf/registry", Format::Lines(1)),
    ("/var/lib/shells.state", Format::Lines(1)),
    ("/etc/shells", Format::Lines(1)),
    ("/etc/passwd", Format::Accounts { numbered: true }),
    ("/etc/group", Format::Accounts { numbered: true }),
    ("/etc/shadow", Format::Accounts { numbered: false }),
    ("/etc/gshadow", Format::Accounts { numbered: false }),
    ("/etc/subuid", Format::Accounts { numbered: false }),
    ("/etc/subgid", Format::Accounts { numbered: false }),
];

/// Returns the rule for a path as the image's own system sees it.
pub(super) fn rule(path: &[u8]) -> Rule {
    static PATTERNS: LazyLock<Vec<(Pattern, Rule)>> = LazyLock::new(|| {
        let host = ("host name", "/etc/hostname".to_owned());
        let machine = not_shared().chain([host]).map(|(what, path)| (path, Rule::Machine(what)));
        let caches = CACHES.iter().map(|(path, why)| ((*path).to_owned(), Rule::Cache(why)));
        let all = machine.chain(caches);
        all.map(|(path, rule)| (Pattern::new(&path).expect("the patterns are constant"), rule)).collect()
    });
    const OPTIONS: MatchOptions = MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: false,
    };
    let path = escape(path);
    if let Some((_, format)) = DATABASES.iter().find(|(database, _)| *database == path) {
        return Rule::Database(*format);
    }
    let and_above = std::iter::successors(Some(&path[..]), |path| Some(path.rsplit_once('/')?.0));
    let paths: Vec<&str> = and_above.filter(|path| !path.is_empty()).collect();
    let fits = |pattern: &Pattern| paths.iter().any(|path| pattern.matches_with(path, OPTIONS));
    PATTERNS.iter().find(|(pattern, _)| fits(pattern)).map_or(Rule::Plain, |(_, rule)| *rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_known_by_its_path() {
        let machine = |path: &str| matches!(rule(path.as_bytes()), Rule::Machine(_));
        let cache = |path: &str| matches!(rule(path.as_bytes()), Rule::Cache(_));
        assert!(
            machine("/etc/machine-id") && machine("/etc/ssh/ssh_host_rsa_key") && machine("/etc/hostname")
        );
        assert!(machine("/var/log/apt/term.log") && machine("/home/ada/.bash_history"));
        assert!(cache("/var/cache/apt/pkgcache.bin") && cache("/usr/lib/python3/__pycache__/x.pyc"));
        assert!(cache("/var/lib/dpkg/status-old") && cache("/etc/ld.so.cache"));
        assert!(matches!(rule(b"/var/cache/debconf/config.dat"), Rule::Database(_)));
        for plain in
            ["/etc/passwd.d", "/", "/etc/ssh/sshd_config", "/var/lib/dpkg/info/a-old", "/boot/vmlinuz"]
        {
            assert_eq!(rule(plain.as_bytes()), Rule::Plain, "{plain}");
        }
    }
}
