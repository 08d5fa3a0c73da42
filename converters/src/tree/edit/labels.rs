//! SELinux labels of new files, according to the image's own policy (selabel_file(5)).

use std::collections::HashSet;

use mif_formats::fs::FileType;
use regex::bytes::{Regex, RegexBuilder};

use crate::error::Result;

/// The largest compiled pattern, in bytes: patterns of real policies take a few kilobytes.
const MAX_PATTERN: usize = 1 << 20;

/// The labels of a policy.
pub(crate) struct Labels {
    /// In the order of lookup: the first match counts.
    specs: Vec<Spec>,
    /// Directories that are labelled like others: the administrator's, then the policy's.
    aliases: [Vec<(String, String)>; 2],
}

/// A line of `file_contexts`.
struct Spec {
    pattern: String,
    /// The start of every matching path.
    stem: Vec<u8>,
    file_type: Option<FileType>,
    /// `None` for `<<none>>`: such files are not labelled.
    context: Option<String>,
}

impl Labels {
    /// Reads the image's policy. Returns `None` if it has none, or if SELinux is disabled. `text` reads a file of the
    /// image; a file that does not exist is empty.
    pub(super) fn read(text: impl Fn(&str) -> Result<String>) -> Result<Option<Self>> {
        let config = text("/etc/selinux/config")?;
        let value = |key: &str| {
            let mut values =
                config.lines().filter_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
            values.next_back().map(|value| value.trim().trim_matches('"').to_owned())
        };
        if value("SELINUX").as_deref() == Some("disabled") {
            return Ok(None);
        }
        let kind = value("SELINUXTYPE").unwrap_or_else(|| "targeted".to_owned());
        let contexts = format!("/etc/selinux/{kind}/contexts/files/file_contexts");
        let mut lines = text(&contexts)?;
        if lines.is_empty() {
            return Ok(None);
        }
        for suffix in [".homedirs", ".local"] {
            lines.push('\n');
            lines += &text(&format!("{contexts}{suffix}"))?;
        }
        let aliases = |suffix: &str| -> Result<Vec<(String, String)>> {
            let lines = text(&format!("{contexts}{suffix}"))?;
            let pairs = lines.lines().filter_map(|line| {
                let mut words = line.split_whitespace();
                let (alias, original) = (words.next()?, words.next()?);
                (!alias.starts_with('#')).then(|| (alias.to_owned(), original.to_owned()))
            });
            Ok(pairs.collect())
        };
        Ok(Some(Labels { specs: specs(&lines), aliases: [aliases(".subs")?, aliases(".subs_dist")?] }))
    }

    /// Returns the label of a file, whose path is as the image's system sees it. Returns `None` if the policy has none.
    pub(crate) fn of(&self, path: &[u8], file_type: FileType) -> Option<String> {
        let mut path = path.to_vec();
        for aliases in &self.aliases {
            let fits = |(alias, _): &&(String, String)| {
                let rest = path.strip_prefix(alias.as_bytes());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
            };
            if let Some((alias, original)) = aliases.iter().find(fits) {
                path = [original.trim_end_matches('/').as_bytes(), &path[alias.len()..]].concat();
            }
        }
        let spec = self.specs.iter().find(|spec| {
            spec.file_type.is_none_or(|wanted| wanted == file_type)
                && path.starts_with(&spec.stem)
                && compile(&spec.pattern).is_some_and(|pattern| pattern.is_match(&path))
        });
        spec?.context.clone()
    }
}

/// Compiles a pattern for whole paths. Returns `None` if it is not a regular expression, or too large.
fn compile(pattern: &str) -> Option<Regex> {
    let mut builder = RegexBuilder::new(&format!("^(?:{pattern})$"));
    builder.unicode(false).dot_matches_new_line(true).size_limit(MAX_PATTERN).build().ok()
}

/// Parses the lines of a policy, and sorts them in the order of lookup: plain paths before patterns, and later lines
/// before earlier ones.
fn specs(lines: &str) -> Vec<Spec> {
    let (mut plain, mut patterns) = (Vec::new(), Vec::new());

    // If several lines have the same pattern and type, the last counts.
    let mut seen = HashSet::new();
    for line in lines.lines().rev() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (pattern, kind, context) = match words[..] {
            [pattern, kind, context] => (pattern, kind, context),
            [pattern, context] => (pattern, "", context),
            _ => continue,
        };
        let file_type = match kind {
            "" => None,
            "--" => Some(FileType::File),
            "-d" => Some(FileType::Dir),
            "-l" => Some(FileType::Symlink),
            "-c" => Some(FileType::Char),
            "-b" => Some(FileType::Block),
            "-p" => Some(FileType::Fifo),
            "-s" => Some(FileType::Socket),
            _ => continue,
        };
        if pattern.starts_with('#') || !seen.insert((pattern, file_type)) {
            continue;
        }
        let (stem, is_plain) = stem(pattern);
        let context = (context != "<<none>>").then(|| context.to_owned());
        let spec = Spec { pattern: pattern.to_owned(), stem, file_type, context };
        if is_plain { plain.push(spec) } else { patterns.push(spec) }
    }
    plain.append(&mut patterns);
    plain
}

/// Returns the literal start of every path that matches a pattern, and true if the pattern contains nothing else.
fn stem(pattern: &str) -> (Vec<u8>, bool) {
    let mut stem = Vec::new();
    let mut depth = 0_usize;
    // The alternatives of a choice at the top level have no common start.
    for (i, byte) in pattern.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b'|' if depth == 0 && !pattern[..i].ends_with('\\') => return (Vec::new(), false),
            _ => {}
        }
    }
    let mut bytes = pattern.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => match bytes.next() {
                Some(next) if !next.is_ascii_alphanumeric() => stem.push(next),
                _ => return (stem, false),
            },
            b'?' | b'*' | b'{' => {
                stem.pop();
                return (stem, false);
            }
            b'.' | b'^' | b'$' | b'+' | b'|' | b'[' | b'(' => return (stem, false),
            _ => stem.push(byte),
        }
    }
    (stem, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(lines: &str) -> Labels {
        Labels { specs: specs(lines), aliases: [Vec::new(), Vec::new()] }
    }

    #[test]
    fn the_last_line_that_fits_counts_and_plain_paths_come_first() {
        let labels = labels(
            "/.*\tdefault\n/etc(/.*)?\tetc\n/etc/shadow\t--\tshadow\n/etc/localtime -l locale\n\
             /etc/.*\\.conf -- conf\n/tmp/.* <<none>>\n# /etc/x y\n/a\\.b\tplain\n/opt(/.*)? one\n/opt(/.*)? two\n",
        );
        let of = |path: &str, file_type| labels.of(path.as_bytes(), file_type);
        assert_eq!(of("/etc/shadow", FileType::File).as_deref(), Some("shadow"));
        assert_eq!(of("/etc/shadow", FileType::Dir).as_deref(), Some("etc"));
        assert_eq!(of("/etc/localtime", FileType::Symlink).as_deref(), Some("locale"));
        assert_eq!(of("/etc/a/b.conf", FileType::File).as_deref(), Some("conf"));
        assert_eq!(of("/etcetera", FileType::File).as_deref(), Some("default"));
        assert_eq!(of("/tmp/x", FileType::File), None);
        assert_eq!(of("/a.b", FileType::File).as_deref(), Some("plain"));
        assert_eq!(of("/axb", FileType::File).as_deref(), Some("default"));
        assert_eq!(of("/opt/x", FileType::File).as_deref(), Some("two"));
    }

    #[test]
    fn directories_may_be_labelled_like_others() {
        let mut labels = labels("/.* default\n/home/[^/]+/\\.ssh(/.*)? ssh\n/usr/lib(/.*)? lib\n");
        labels.aliases =
            [vec![("/data/home".into(), "/home".into())], vec![("/lib64".into(), "/usr/lib".into())]];
        let of = |path: &str| labels.of(path.as_bytes(), FileType::File);
        assert_eq!(of("/data/home/u/.ssh/authorized_keys").as_deref(), Some("ssh"));
        assert_eq!(of("/lib64/x").as_deref(), Some("lib"));
        assert_eq!(of("/lib64x").as_deref(), Some("default"));
    }

    #[test]
    fn the_beginning_of_a_pattern_is_what_all_its_paths_have() {
        for (pattern, expected, plain) in [
            ("/root/\\.ssh(/.*)?", "/root/.ssh", false),
            ("/etc/shadow.*", "/etc/shadow", false),
            ("/etc/group[-\\+]?", "/etc/group", false),
            ("/usr/lib64?/x", "/usr/lib6", false),
            ("/a|/b", "", false),
            ("/a(b|c)", "/a", false),
            ("/a\\.b", "/a.b", true),
            ("/a\\d", "/a", false),
        ] {
            assert_eq!(stem(pattern), (expected.as_bytes().to_vec(), plain), "{pattern}");
        }
    }

    #[test]
    fn a_pattern_that_takes_too_much_fits_nothing() {
        let labels = labels("/.* default\n/a(x{1000}){1000} huge\n/a(?=b).* ahead\n");
        assert_eq!(labels.of(b"/ab", FileType::File).as_deref(), Some("default"));
    }
}
