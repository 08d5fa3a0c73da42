//! Parses the values of edit flags, such as `PATH:TEXT`.

use mif::{Error, Result};
use toml::Value;

/// Returns the error for a value that does not have the expected form.
pub(super) fn expected(text: &str, form: &str) -> Error {
    Error::usage(format!("{text}: expected {form}"))
}

/// Splits `PATH:REST` at the first colon that neither belongs to the volume nor is escaped as `\:`.
pub(super) fn split_path(text: &str) -> Result<(Value, &str)> {
    let start = if text.starts_with('/') { 0 } else { text.find(":/").map_or(0, |colon| colon + 1) };
    let mut colons = text[start..].match_indices(':').map(|(i, _)| start + i);
    let colon = colons
        .find(|i| !text[..*i].ends_with('\\'))
        .ok_or_else(|| expected(text, "PATH:VALUE; write a colon in the path as \\:"))?;
    Ok((unescape(&text[..colon]).into(), &text[colon + 1..]))
}

/// Returns the text of `PATH:TEXT`.
pub(super) fn text_of(value: &str) -> Option<&str> {
    split_path(value).ok().map(|(_, text)| text)
}

/// Replaces each `\:` in a path with a colon.
pub(super) fn unescape(path: &str) -> String {
    path.replace("\\:", ":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_name_its_volume() {
        assert_eq!(split_path("/a:b:c").unwrap(), ("/a".into(), "b:c"));
        assert_eq!(split_path("p15:/a:b").unwrap(), ("p15:/a".into(), "b"));
        assert_eq!(split_path("/a:p15:/b").unwrap(), ("/a".into(), "p15:/b"));
        assert!(split_path("/a").is_err() && split_path("p1:/a").is_err());
    }

    #[test]
    fn a_colon_of_a_path_is_written_with_a_backslash() {
        assert_eq!(split_path("/a\\:b:c:d\\:e").unwrap(), ("/a:b".into(), "c:d\\:e"));
        assert_eq!(split_path("p1:/\\:/x\\x2d:c").unwrap(), ("p1:/:/x\\x2d".into(), "c"));
        assert!(split_path("/a\\:b").is_err());
    }
}
