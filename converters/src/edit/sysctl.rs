//! Kernel parameters that are set at boot (sysctl.d(5), sysctl.conf(5)).

use super::primitive::Edit;
use crate::error::{Error, Result};
use crate::tree::edit::Files;

/// The file for parameters. It sorts after the other files of the directory, of which the last one counts; Debian has
/// its sysctl.conf there as 99-sysctl.conf.
const FILE: &str = "/etc/sysctl.d/99-zz-mif.conf";

/// The file that procps reads after all others.
const LAST: &str = "/etc/sysctl.conf";

/// Sets a parameter.
pub(super) fn sysctl(files: &Files, key: &str, value: &str) -> Result<Vec<Edit>> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@*".contains(c);
    let value = value.trim();
    if key.is_empty() || !key.chars().all(is_plain) || key.contains("..") || key.starts_with(['-', '/', '.'])
    {
        return Err(Error::usage(format!("invalid kernel parameter \"{key}\""))
            .advise("A parameter is named as in /proc/sys, such as net.ipv4.ip_forward"));
    }
    if value.is_empty() || value.contains(['\n', '\0']) {
        return Err(Error::usage(format!("{key}: expected a value of one line")));
    }
    let last = files.editable(LAST)?;
    if let Some(new) = replaced(&last, key, value) {
        return Ok(vec![Edit::text(LAST, new)]);
    }
    let old = files.editable(FILE)?;
    let new = replaced(&old, key, value).unwrap_or_else(|| {
        let end = if old.is_empty() || old.ends_with('\n') { "" } else { "\n" };
        format!("{old}{end}{key} = {value}\n")
    });
    Ok(vec![Edit::folder("/etc/sysctl.d"), Edit::text(FILE, new)])
}

/// Returns the text with another value for a key, or `None` if it does not set the key.
fn replaced(text: &str, key: &str, value: &str) -> Option<String> {
    let wanted = normal(key);
    let is_of = |line: &str| {
        let line = line.trim_start();
        let set = line.split_once('=').filter(|_| !line.starts_with(['#', ';']));
        set.is_some_and(|(name, _)| normal(name.trim().trim_start_matches('-')) == wanted)
    };
    text.lines().any(is_of).then(|| {
        let lines =
            text.lines().map(|line| if is_of(line) { format!("{key} = {value}") } else { line.to_owned() });
        lines.collect::<Vec<_>>().join("\n") + "\n"
    })
}

/// Returns a key with slashes between its parts. If its first separator is a slash, a dot is part of a name
/// (sysctl.d(5)).
fn normal(key: &str) -> String {
    let first = key.find(['.', '/']).map(|at| key.as_bytes()[at]);
    match first {
        Some(b'.') => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
        _ => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_be_written_with_dots_or_slashes() {
        let text = "# net.ipv4.ip_forward=0\nnet/ipv4/ip_forward=0\n-kernel.x = 1\n";
        let new = replaced(text, "net.ipv4.ip_forward", "1").unwrap();
        assert_eq!(new, "# net.ipv4.ip_forward=0\nnet.ipv4.ip_forward = 1\n-kernel.x = 1\n");
        assert!(replaced(text, "kernel/x", "2").unwrap().ends_with("kernel/x = 2\n"));
        assert_eq!(replaced(text, "kernel.y", "2"), None);
        assert_eq!(normal("net.ipv4.conf.eth0/100.forwarding"), normal("net/ipv4/conf/eth0.100/forwarding"));
    }
}
