//! interfaces(5): writes the interface to its own file, and removes it from the other files that ifupdown reads.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::{Network, pattern};
use crate::edit::primitive::Edit;
use crate::error::{Error, Result};
use crate::tree::edit::Files;

const MAIN: &str = "/etc/network/interfaces";
const FOLDER: &str = "/etc/network/interfaces.d";
/// The maximum number of files that are read.
const MAX_FILES: usize = 1000;

/// Configures an interface.
pub(super) fn configure(files: &Files, network: &Network) -> Result<Vec<Edit>> {
    let interface = &network.interface;
    let own = format!("{FOLDER}/mif-{interface}");
    let mut edits = Vec::new();
    let (read, reads_own) = files_read(files, &own)?;
    let mut main = String::new();
    for (path, before) in read {
        let after = without_interface(&before, interface).map_err(|e| e.within(&path))?;
        if path == MAIN {
            main.clone_from(&after);
        }
        if after != before {
            edits.push(Edit::text(path, after));
        }
    }
    if !reads_own {
        edits.push(Edit::folder("/etc/network"));
        let line_end = if main.is_empty() || main.ends_with('\n') { "" } else { "\n" };
        edits.push(Edit::text(MAIN, format!("{main}{line_end}source {own}\n")));
    }
    edits.push(Edit::folder(FOLDER));
    edits.push(Edit::file(own, text(network), 0o644));
    edits.extend(super::resolv_conf(files, network, "/sbin/resolvconf")?);
    Ok(edits)
}

fn text(network: &Network) -> String {
    let interface = &network.interface;
    let mut out = format!("auto {interface}\n");
    if network.is_dhcp() {
        let _ = writeln!(out, "iface {interface} inet dhcp");
    }
    for (address, prefix) in &network.addresses {
        let family = if address.is_ipv4() { "inet" } else { "inet6" };
        let _ = writeln!(out, "iface {interface} {family} static\n    address {address}/{prefix}");
        // The gateway of each family, and the name servers, are written once: in the first stanza.
        let first = network.addresses.iter().find(|(a, _)| a.is_ipv4() == address.is_ipv4());
        if first == Some(&(*address, *prefix)) {
            for gateway in network.gateways.iter().filter(|g| g.is_ipv4() == address.is_ipv4()) {
                let _ = writeln!(out, "    gateway {gateway}");
            }
        }
        if !network.dns.is_empty() && network.addresses.first() == Some(&(*address, *prefix)) {
            let _ = writeln!(out, "    dns-nameservers {}", network.dns_text(" "));
        }
    }
    out
}

/// Returns the files that ifupdown reads, with their texts and without `own`, and true if it would read `own`.
fn files_read(files: &Files, own: &str) -> Result<(Vec<(String, String)>, bool)> {
    let mut reads_own = false;
    let mut seen = BTreeSet::new();
    let mut read = Vec::new();
    let mut todo = vec![MAIN.to_owned()];
    while let Some(path) = todo.pop() {
        if path == own || !seen.insert(path.clone()) || !files.is_file(&path) && path != MAIN {
            continue;
        }
        if read.len() >= MAX_FILES {
            return Err(Error::unsupported(format!("{MAIN} includes more than {MAX_FILES} files")));
        }
        let text = files.editable(&path)?;
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for line in logical_lines(&text) {
            for named in line.words.iter().skip(1) {
                let named = match named.trim_matches(['"', '\'']) {
                    absolute if absolute.starts_with('/') => absolute.to_owned(),
                    relative => format!("{folder}/{relative}"),
                };
                match line.words[0] {
                    "source" => {
                        reads_own |= fits(&named, own);
                        todo.extend(files.glob(&named)?.into_iter().filter(|path| fits(&named, path)));
                    }
                    "source-directory" => {
                        for folder in files.glob(&named)?.into_iter().chain([named.clone()]) {
                            reads_own |= is_in(&folder, own);
                            let paths =
                                files.list(&folder).into_iter().map(|(name, _)| format!("{folder}/{name}"));
                            todo.extend(paths.filter(|path| is_in(&folder, path)));
                        }
                    }
                    _ => {}
                }
            }
        }
        read.push((path, text));
    }
    Ok((read, reads_own))
}

/// Returns true if `source` with this shell pattern reads a path.
fn fits(named: &str, path: &str) -> bool {
    let options = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    pattern(named).is_some_and(|pattern| pattern.matches_with(path, options))
}

/// Returns true if `source-directory` reads a path: names consist of letters, digits, dashes and underscores.
fn is_in(folder: &str, path: &str) -> bool {
    let name = path.strip_prefix(folder.trim_end_matches('/')).and_then(|rest| rest.strip_prefix('/'));
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    name.is_some_and(|name| !name.is_empty() && name.chars().all(plain))
}

/// A line with its continuation lines.
struct Line<'t> {
    text: &'t str,
    words: Vec<&'t str>,
}

/// Returns the lines of a file: a trailing backslash continues a line. Comments have no words.
fn logical_lines(text: &str) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let is_comment = rest.trim_start_matches([' ', '\t']).starts_with('#');
        let mut end = 0;
        loop {
            let line = rest[end..].split_inclusive('\n').next().unwrap_or("");
            end += line.len();
            if is_comment || end == rest.len() || !line.trim_end_matches('\n').ends_with('\\') {
                break;
            }
        }
        let (line, behind) = rest.split_at(end);
        let words = line.split_whitespace().filter(|word| *word != "\\" && !is_comment);
        lines.push(Line { text: line, words: words.map(|word| word.trim_end_matches('\\')).collect() });
        rest = behind;
    }
    lines
}

/// Returns `text` without the stanzas of an interface and its aliases (`eth0:1`).
fn without_interface(text: &str, interface: &str) -> Result<String> {
    let is_own = |word: &str| {
        word == interface || word.strip_prefix(interface).is_some_and(|rest| rest.starts_with(':'))
    };
    let mut out = String::new();
    let mut dropping = false;
    for Line { text, words } in logical_lines(text) {
        let begins = match words.first().copied() {
            Some(
                "iface" | "auto" | "mapping" | "source" | "source-directory" | "no-auto-down" | "no-scripts"
                | "template" | "rename",
            ) => true,
            Some(word) => word.starts_with("allow-"),
            None => false,
        };
        if begins {
            dropping = words[0] == "iface" && words.get(1).is_some_and(|word| is_own(word));
            if words[0] == "mapping" {
                let named = &words[1..];
                dropping = named.len() == 1 && is_own(named[0]);
                let fits = |word: &&&str| pattern(word).is_some_and(|pattern| pattern.matches(interface));
                if let Some(word) = named.iter().find(fits).filter(|_| !dropping) {
                    return Err(Error::unsupported(format!(
                        "\"mapping {word}\" lets a script choose the configuration of {interface}"
                    ))
                    .advise("Remove that stanza first, with an edit before this one"));
                }
            }
            let marks = words[0] == "auto" || words[0].starts_with("allow-") || words[0].starts_with("no-");
            if marks && words[1..].iter().any(|word| is_own(word)) {
                let others: Vec<&str> = words.iter().filter(|word| !is_own(word)).copied().collect();
                if others.len() > 1 {
                    out.push_str(&others.join(" "));
                    out.push('\n');
                }
                continue;
            }
        }
        // Comments and empty lines stay: they may belong to the next stanza.
        if !dropping || words.is_empty() {
            out.push_str(text);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_of_the_interface_goes() {
        let text = "auto lo eth0\nallow-hotplug eth0\niface lo inet loopback\niface eth0 inet dhcp\n  metric 5\niface eth1 inet dhcp\n";
        let expected = "auto lo\niface lo inet loopback\niface eth1 inet dhcp\n";
        assert_eq!(without_interface(text, "eth0").unwrap(), expected);
        let text = "# all\nauto \\\n lo \\\n eth0\niface eth0 inet \\\n static\n  address 1.2.3.4\\\n/24\n\n# next\niface eth0:1 inet static\n address 9.9.9.9\n\
            no-auto-down eth0\niface eth0.5 inet dhcp\nmapping eth0\n script x\niface eth00 inet dhcp";
        let expected = "# all\nauto lo\n\n# next\niface eth0.5 inet dhcp\niface eth00 inet dhcp";
        assert_eq!(without_interface(text, "eth0").unwrap(), expected);
        assert!(without_interface("mapping eth*\n script x\n", "eth0").is_err());
        assert!(without_interface("mapping wl*\n script x\n", "eth0").is_ok());
    }

    #[test]
    fn source_and_source_directory_have_rules_of_their_own_for_names() {
        assert!(fits("/etc/network/interfaces.d/*", "/etc/network/interfaces.d/mif-eth0.5"));
        assert!(!fits("/etc/network/interfaces.d/*.cfg", "/etc/network/interfaces.d/mif-eth0"));
        assert!(!fits("/etc/network/*", "/etc/network/interfaces.d/mif-eth0"));
        assert!(!fits("/etc/network/*", "/etc/network/.hidden"));
        assert!(is_in("/etc/network/interfaces.d", "/etc/network/interfaces.d/mif-eth0"));
        assert!(!is_in("/etc/network/interfaces.d/", "/etc/network/interfaces.d/mif-eth0.5"));
    }
}
