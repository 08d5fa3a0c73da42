//! The order of package versions, as each package manager defines it (deb-version(7), rpm-version(7), and the versions
//! of Gentoo that apk uses).
//!
//! A version becomes a key: text whose order, byte by byte, is that of the versions. So anything that sorts text sorts
//! versions. In a key, characters below the letters and digits stand for what ends or continues a version.
//!
//! docs/sql.md has the keys of dpkg and rpm as macros.

use std::cmp::Ordering;

/// Compares two versions of a package as its manager does: `dpkg`, `rpm`, `apk` or `windows`.
#[must_use]
pub fn compare_versions(manager: &str, a: &str, b: &str) -> Ordering {
    if manager == "rpm" {
        return compare_rpm(a, b);
    }
    version_key(manager, a).cmp(&version_key(manager, b))
}

/// Returns the key of a version.
#[must_use]
pub fn version_key(manager: &str, version: &str) -> String {
    match manager {
        "dpkg" => dpkg(version),
        "apk" => apk(version),
        // Programs of Windows have numbers with dots between them.
        _ => rpm(version),
    }
}

/// Appends a number as its length and its digits, without leading zeros, so that longer numbers sort after shorter
/// ones. A number has at most 999 digits that count.
fn push_number(key: &mut String, digits: &str) {
    let digits = digits.trim_start_matches('0');
    let digits = &digits[..digits.len().min(999)];
    key.push_str(&format!("{:03}{digits}", digits.len()));
}

/// Splits off the epoch, which is 0 if there is none.
fn split_epoch(version: &str) -> (&str, &str) {
    let is_number = |epoch: &&str| !epoch.is_empty() && epoch.bytes().all(|b| b.is_ascii_digit());
    match version.split_once(':') {
        Some((epoch, rest)) if is_number(&epoch) => (epoch, rest),
        _ => ("0", version),
    }
}

/// dpkg: the epoch, then the upstream version, then the revision.
fn dpkg(version: &str) -> String {
    let (epoch, rest) = split_epoch(version.trim());
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    let mut key = String::new();
    push_number(&mut key, epoch);
    dpkg_part(&mut key, upstream);
    dpkg_part(&mut key, revision);
    key
}

/// Appends pairs of a text without digits, which ends with `!`, and a number; `!` again ends the part.
fn dpkg_part(key: &mut String, part: &str) {
    // Nothing is the same as zero.
    let mut rest = if part.is_empty() { "0" } else { part };
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, after) = rest.split_at(digits);
        let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        let (number, after) = after.split_at(end);
        for c in text.chars() {
            key.push(match c {
                // Before everything, even the end.
                '~' => ' ',
                c if c.is_ascii_alphabetic() => c,
                // The others come after the letters, in their own order.
                '+' => '{',
                '-' => '|',
                '.' => '}',
                ':' => '~',
                other => char::from_u32(0x100 + u32::from(other)).unwrap_or(other),
            });
        }
        key.push('!');
        push_number(key, number);
        rest = after;
    }
    key.push('!');
}

/// rpm: the epoch, the version and the release.
fn rpm(version: &str) -> String {
    let (epoch, version, release) = split_rpm(version);
    let mut key = String::new();
    push_number(&mut key, epoch);
    rpm_part(&mut key, version);
    rpm_part(&mut key, release.unwrap_or_default());
    key
}

fn split_rpm(version: &str) -> (&str, &str, Option<&str>) {
    let (epoch, rest) = split_epoch(version.trim());
    match rest.rsplit_once('-') {
        Some((version, release)) => (epoch, version, Some(release)),
        None => (epoch, rest, None),
    }
}

/// Compares epoch and version, and the releases if both have one.
fn compare_rpm(a: &str, b: &str) -> Ordering {
    let (a, b) = (split_rpm(a), split_rpm(b));
    let key = |(epoch, version, release): (&str, &str, Option<&str>)| {
        let mut key = String::new();
        push_number(&mut key, epoch);
        rpm_part(&mut key, version);
        let mut of_release = String::new();
        rpm_part(&mut of_release, release.unwrap_or_default());
        (key, of_release, release.is_some())
    };
    let (a, b) = (key(a), key(b));
    let releases = if a.2 && b.2 { a.1.cmp(&b.1) } else { Ordering::Equal };
    a.0.cmp(&b.0).then(releases)
}

/// Appends segments of letters or digits; everything else only separates them, except tilde and caret. `!` ends the
/// part.
fn rpm_part(key: &mut String, part: &str) {
    let mut rest = part;
    loop {
        rest = rest.trim_start_matches(|c: char| !c.is_ascii_alphanumeric() && c != '~' && c != '^');
        let Some(first) = rest.chars().next() else { break };
        let end = |is_in: fn(&char) -> bool| rest.find(|c: char| !is_in(&c)).unwrap_or(rest.len());
        let cut = match first {
            '~' => {
                key.push(' ');
                1
            }
            '^' => {
                key.push('"');
                1
            }
            c if c.is_ascii_digit() => {
                key.push('$');
                let cut = end(char::is_ascii_digit);
                push_number(key, &rest[..cut]);
                cut
            }
            _ => {
                key.push('#');
                let cut = end(char::is_ascii_alphabetic);
                key.push_str(&rest[..cut]);
                cut
            }
        };
        rest = &rest[cut..];
    }
    key.push('!');
}

/// The suffixes of apk's versions, in order. The first come before the version without one.
const SUFFIXES: [&str; 9] = ["alpha", "beta", "pre", "rc", "cvs", "svn", "git", "hg", "p"];
const SUFFIXES_BEFORE: usize = 4;

/// apk: numbers with dots between them, a letter, suffixes, a commit, and a revision.
///
/// A mark stands before each part, and `"` for the end. If one version goes on where the other has ended, or goes on
/// differently, the marks decide. `!` stands for a part that is not valid, which ends a version for apk.
fn apk(version: &str) -> String {
    let mut key = String::new();
    let rest = version.trim();
    let digits = digits_of(rest);
    if digits == 0 {
        return "!".to_owned();
    }
    push_number(&mut key, &rest[..digits]);
    let mut rest = &rest[digits..];
    // A part may only follow those before it in this order.
    let mut last = ApkPart::Number;
    while !rest.is_empty() {
        match apk_part(&mut key, last, rest) {
            Some((part, after)) => (last, rest) = (part, after),
            None => {
                key.push('!');
                return key;
            }
        }
    }
    key.push('"');
    key
}

/// The parts of apk's versions, in the order in which they follow one another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ApkPart {
    Number,
    Letter,
    Suffix,
    SuffixNumber,
    Commit,
    Revision,
}

/// Appends the first part of `rest`; returns its kind and what follows. `None` if it is not valid here.
fn apk_part<'v>(key: &mut String, last: ApkPart, rest: &'v str) -> Option<(ApkPart, &'v str)> {
    let first = rest.chars().next()?;
    let after = &rest[first.len_utf8()..];
    let number = |key: &mut String, text: &'v str| {
        let digits = digits_of(text);
        push_number(key, &text[..digits]);
        (digits > 0).then(|| &text[digits..])
    };
    match first {
        '.' if last == ApkPart::Number => {
            let digits = digits_of(after);
            // It is a fraction if it begins with a zero: compared as text, and below the others.
            if after.starts_with('0') {
                key.push_str("(a");
                key.push_str(&after[..digits]);
            } else if digits > 0 {
                key.push_str("(b");
                push_number(key, &after[..digits]);
            }
            (digits > 0).then(|| (ApkPart::Number, &after[digits..]))
        }
        'a'..='z' if last == ApkPart::Number => {
            key.extend(['\'', first]);
            Some((ApkPart::Letter, after))
        }
        '_' if last <= ApkPart::SuffixNumber => {
            let end = after.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(after.len());
            let at = SUFFIXES.iter().position(|suffix| *suffix == &after[..end])?;
            key.push(if at < SUFFIXES_BEFORE { ' ' } else { '&' });
            key.push_str(&at.to_string());
            Some((ApkPart::Suffix, &after[end..]))
        }
        '0'..='9' if last == ApkPart::Suffix => {
            key.push('%');
            number(key, rest).map(|after| (ApkPart::SuffixNumber, after))
        }
        '~' if last < ApkPart::Commit => {
            let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
            let end = after.find(|c| !is_digit(c)).unwrap_or(after.len());
            let after = (end > 0).then(|| (&after[..end], &after[end..]))?;
            key.push('$');
            key.push_str(after.0);
            Some((ApkPart::Commit, after.1))
        }
        '-' if last < ApkPart::Revision => {
            let after = after.strip_prefix('r').filter(|after| digits_of(after) > 0)?;
            key.push('#');
            number(key, after).map(|after| (ApkPart::Revision, after))
        }
        _ => None,
    }
}

/// Returns how many digits a text begins with.
fn digits_of(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ascending(manager: &str, versions: &[&str]) {
        for pair in versions.windows(2) {
            assert_eq!(compare_versions(manager, pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert!(version_key(manager, pair[0]) < version_key(manager, pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn versions_of_dpkg_are_in_the_order_of_its_manual() {
        ascending(
            "dpkg",
            &["1.0~~", "1.0~~a", "1.0~", "1.0", "1.0-1", "1.0a", "1.0+b", "1.0.1", "1.10", "1:0.1"],
        );
        ascending("dpkg", &["3.0.14-1~deb12u1", "3.0.14-1", "3.0.15-1~deb12u1", "3.0.15-1"]);
        for (a, b) in [("1.0", "1.0-0"), ("0:1", "1"), ("1.", "1.0"), ("1.00", "1.0"), ("", "0")] {
            assert_eq!(compare_versions("dpkg", a, b), Ordering::Equal, "{a:?} {b:?}");
        }
    }

    #[test]
    fn versions_of_rpm_are_in_the_order_of_its_manual() {
        ascending("rpm", &["1.0~rc1-1", "1.0-1", "1.0^git1-1", "1.0a-1", "1.0.1-1", "1.10-1", "2:0.1-1"]);
        assert_eq!(
            compare_versions("rpm", "3.0.7", "3.0.7-18.el9"),
            Ordering::Equal,
            "only one has a release"
        );
        assert_eq!(compare_versions("rpm", "1.0.", "1_0"), Ordering::Equal);
        assert_eq!(compare_versions("windows", "10.0.9", "10.0.10"), Ordering::Less);
    }

    #[test]
    fn versions_of_apk_are_in_the_order_that_apk_gives_them() {
        ascending(
            "apk",
            &[
                "1.0_alpha",
                "1.0_beta2",
                "1.0_rc1",
                "1.0_rc2",
                "1.0",
                "1.0-r1",
                "1.0_p1",
                "1.0a",
                "1.0.0",
                "1.01",
                "1.1",
                "1.2",
                "1.10",
            ],
        );
        ascending("apk", &["0.12.0-r1", "0.12.0-r10", "0.12.0_git20210101-r0", "0.12.1-r0"]);
        ascending("apk", &["8.2.0015", "8.2.002", "8.2.1"]);
        ascending("apk", &["2.0", "2.00", "2.007", "2.01", "2.1"]);
        // A commit, and what is not valid: it ends the version.
        ascending("apk", &["1.0?", "1.0", "1.0-r1", "1.0~1a2b", "1.0~1a2b-r1", "1.0~1a3", "1.0_git"]);
        for (a, b) in [("1.0_preview", "1.0-1"), ("", "abc"), ("1.2a3", "1.2ab"), ("1.0_pre_x", "1.0_pre?")] {
            assert_eq!(compare_versions("apk", a, b), Ordering::Equal, "{a:?} {b:?}");
        }
        assert_eq!(compare_versions("apk", "1.2.3-r0", "1.2.3-r0"), Ordering::Equal);
    }

    #[test]
    fn any_text_has_a_key() {
        for text in
            ["", "~", "-", ":", "ü-ß", "1:", "a:b", "\0", &"9".repeat(5000), "^^~~", "_", "1_x", ".", "..0"]
        {
            for manager in ["dpkg", "rpm", "apk", "windows"] {
                assert_eq!(compare_versions(manager, text, text), Ordering::Equal, "{text:?}");
            }
        }
        let numbers = ["9".repeat(500), "1".repeat(501)];
        ascending("dpkg", &[&numbers[0], &numbers[1]]);
    }
}
