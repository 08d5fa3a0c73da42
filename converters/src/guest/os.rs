//! The name of an operating system.

use serde::Serialize;

/// An operating system, as named by os-release(5) or the registry of Windows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Os {
    /// `ID`, as in `debian`; `windows`.
    pub id: String,
    /// `PRETTY_NAME`, or else `NAME`, for display; as in `Windows 11 Pro 23H2 (build 22631.2861)`.
    pub name: String,
    /// `VERSION_ID`, as in `12`; rolling releases have none. Of Windows as `ver` prints it: `10.0.22631.2861`.
    pub version: Option<String>,
    /// The edition of Windows, as in `Professional`. Others have none.
    pub edition: Option<String>,
}

impl Os {
    /// Parses os-release(5): `KEY=value` lines, quoted as in a shell.
    pub(super) fn parse(text: &str) -> Self {
        let get = |key: &str| {
            let mut lines = text.lines();
            let value = lines.find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
            Some(unquote(value)).filter(|value| !value.is_empty())
        };
        // The defaults of os-release(5).
        let id = get("ID").unwrap_or_else(|| "linux".to_owned());
        let name = get("PRETTY_NAME").or_else(|| get("NAME")).unwrap_or_else(|| "Linux".to_owned());
        Os { id, name, version: get("VERSION_ID"), edition: None }
    }
}

/// Removes the quotes of a value, and the backslashes before special characters.
fn unquote(value: &str) -> String {
    let value = value.trim();
    for quote in ['"', '\''] {
        let inner = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
        let Some(inner) = inner else { continue };
        if quote == '\'' {
            return inner.to_owned();
        }
        let mut out = String::with_capacity(inner.len());
        let mut chars = inner.chars().peekable();
        while let Some(c) = chars.next() {
            match chars.peek() {
                Some(next) if c == '\\' && "\\\"$`".contains(*next) => {}
                _ => {
                    out.push(c);
                    continue;
                }
            }
            out.extend(chars.next());
        }
        return out;
    }
    value.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_read_as_a_shell_would() {
        let os = Os::parse(
            "# c\nNAME='A B'\nPRETTY_NAME=\"Big \\\"C\\\" \\$5 a\\b\"\nVERSION_ID=\"12\"\nID=debian\nID_LIKE=x\n",
        );
        let expected = Os {
            id: "debian".into(),
            name: "Big \"C\" $5 a\\b".into(),
            version: Some("12".into()),
            edition: None,
        };
        assert_eq!(os, expected);
        assert_eq!(Os::parse("").id, "linux");
        assert_eq!(Os::parse("NAME='A B'\nVERSION_ID=\n").name, "A B");
        assert_eq!(Os::parse("VERSION_ID=\n").version, None);
    }
}
