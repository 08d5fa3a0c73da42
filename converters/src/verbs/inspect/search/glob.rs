//! A pattern for paths.

use glob::{MatchOptions, Pattern};
use memchr::memmem::Finder;

use crate::error::{Error, Result};
use crate::verbs::inspect::covered::may_begin;

/// A pattern as in shells: `*`, `?` and `[a-z]` within a name, `**` for any number of directories. A pattern without a
/// slash matches the last component of a path, one with a slash the whole path.
#[derive(Debug, Clone)]
pub struct PathGlob {
    /// `None` if the pattern is plain text.
    pattern: Option<Pattern>,
    text: String,
    /// The plain text at its start.
    prefix: String,
    /// Plain text that every match contains. Few other paths contain it.
    inner: Finder<'static>,
    whole_path: bool,
}

const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

impl PathGlob {
    /// Parses a pattern.
    pub fn new(text: &str) -> Result<Self> {
        let special = |c: char| "*?[".contains(c);
        let pattern = text.contains(special).then(|| Pattern::new(text)).transpose().map_err(|e| {
            Error::usage(format!("invalid pattern \"{text}\": at character {}: {}", e.pos + 1, e.msg))
        })?;
        // The text in brackets is not plain: plain text is before the first bracket, between other special characters.
        // `**/` may match nothing, so the slash next to it is not plain either.
        let plain = text.split('[').next().unwrap_or("");
        let inner = plain.split(['*', '?']).map(|part| part.trim_matches('/')).max_by_key(|part| part.len());
        Ok(PathGlob {
            pattern,
            text: text.to_owned(),
            prefix: plain.split(['*', '?']).next().unwrap_or("").to_owned(),
            inner: Finder::new(inner.unwrap_or("")).into_owned(),
            whole_path: text.contains('/'),
        })
    }

    /// Returns true if the pattern applies to whole paths and not only to file names.
    pub(super) fn is_for_whole_paths(&self) -> bool {
        self.whole_path
    }

    /// Returns true if the pattern matches a path.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        if self.inner.find(path.as_bytes()).is_none() {
            return false;
        }
        let part = if self.whole_path { path } else { path.rsplit('/').next().unwrap_or(path) };
        match &self.pattern {
            Some(pattern) => part.starts_with(&self.prefix) && pattern.matches_with(part, OPTIONS),
            None => part == self.text,
        }
    }

    /// Returns true if a path between `low` and `high` can match.
    pub(super) fn may_lie(&self, low: &[u8], high: &[u8]) -> bool {
        !self.whole_path || may_begin(self.prefix.as_bytes(), low, high)
    }

    /// Returns true if a path between `low` and `high` below `folder` can match where it is seen below `point`.
    pub(super) fn may_lie_below(&self, folder: &str, point: &str, low: &[u8], high: &[u8]) -> bool {
        let prefix = match self.prefix.strip_prefix(point) {
            Some(rest) => format!("{folder}{rest}"),
            None if point.starts_with(&self.prefix) => folder.to_owned(),
            None => return false,
        };
        !self.whole_path || may_begin(prefix.as_bytes(), low, high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        let matches = |pattern: &str, path: &str| PathGlob::new(pattern).unwrap().matches(path);
        for (pattern, path) in [
            ("/etc/passwd", "/etc/passwd"),
            ("passwd", "/etc/passwd"),
            ("*.so.*", "/usr/lib/libc.so.6"),
            ("/usr/*/lib?.so", "/usr/lib/libc.so"),
            ("/usr/**/libc.so", "/usr/lib/x86/libc.so"),
            ("/usr/**/libc.so", "/usr/libc.so"),
            ("/**", "/etc/passwd"),
            ("**/sshd_config", "/etc/ssh/sshd_config"),
            ("[ab]*", "/x/bc"),
            ("/etc/[!x]asswd", "/etc/passwd"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("/etc/passwd", "/etc/passwd-"),
            ("passwd", "/etc/passwd/x"),
            ("/usr/*", "/usr/lib/x"),
            ("*.so", "/libc.so.6"),
            ("[ab]*", "/x/cb"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
        assert!(PathGlob::new("a[b").is_err());
    }

    #[test]
    fn bounds_exclude_no_match() {
        let may = |pattern: &str, low: &str, high: &str| {
            PathGlob::new(pattern).unwrap().may_lie(low.as_bytes(), high.as_bytes())
        };
        assert!(may("/etc/passwd", "/", "/var"));
        assert!(may("/etc/*", "/etc/a", "/etc/b"));
        assert!(may("/etc/*", "/etc/a", "/usr"));
        assert!(may("/etc/*", "/bin", "/etc"));
        assert!(!may("/etc/*", "/usr", "/var"));
        assert!(!may("/usr/*", "/bin", "/etc/x"));
        assert!(may("passwd", "/usr", "/var"));
    }
}
