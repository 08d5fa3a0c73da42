//! NetworkManager: writes a connection (nm-settings-keyfile(5)) with a higher priority than all others, and turns off
//! autoconnect for other connections that name the interface.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::{Network, ifcfg};
use crate::edit::primitive::Edit;
use crate::error::Result;
use crate::guest::ini::entries;
use crate::tree::edit::Files;

const FOLDER: &str = "/etc/NetworkManager/system-connections";
/// The priority of a connection without competitors, and the maximum.
const PRIORITY: i32 = 100;
const MAX_PRIORITY: i32 = 999;

/// Configures an interface.
pub(super) fn configure(files: &Files, network: &Network) -> Result<Vec<Edit>> {
    let interface = &network.interface;
    let own = format!("{FOLDER}/mif-{interface}.nmconnection");
    let mut edits = Vec::new();
    let mut priority = PRIORITY;
    for (name, _) in files.list(FOLDER) {
        let path = format!("{FOLDER}/{name}");
        if path == own || !files.is_file(&path) {
            continue;
        }
        let text = files.text(&path)?;
        let value = |key: &str| value(&text, "connection", key);
        if value("interface-name") == Some(interface) {
            if value("autoconnect") != Some("false") {
                edits.push(Edit::text(&path, without_autoconnect(&files.editable(&path)?)));
            }
        } else if value("interface-name").is_none() {
            let other = value("autoconnect-priority").and_then(|n| n.parse::<i32>().ok()).unwrap_or(0);
            priority = priority.max(other.saturating_add(1)).min(MAX_PRIORITY);
        }
    }
    // Red Hat's plugin reads these files too.
    edits.extend(ifcfg::silence(files, interface)?);
    edits.push(Edit::file(own, text(network, priority), 0o600));
    Ok(edits)
}

/// Returns the last value of a key in a section of a keyfile.
fn value<'t>(text: &'t str, section: &str, key: &str) -> Option<&'t str> {
    entries(text).filter(|(here, known, _)| *here == section && *known == key).map(|(.., value)| value).last()
}

/// Returns a keyfile with autoconnect turned off.
fn without_autoconnect(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        if line.split('=').next().is_some_and(|key| key.trim() == "autoconnect") {
            continue;
        }
        out.push_str(line);
        out.push('\n');
        if line.trim() == "[connection]" {
            out.push_str("autoconnect=false\n");
        }
    }
    out
}

/// Returns the keyfile of the connection (nm-settings-keyfile(5)).
pub(super) fn text(network: &Network, priority: i32) -> String {
    let interface = &network.interface;
    let mut out = format!(
        "[connection]\nid=mif-{interface}\ntype=ethernet\ninterface-name={interface}\nautoconnect-priority={priority}\n"
    );
    for (section, v4) in [("ipv4", true), ("ipv6", false)] {
        let addresses: Vec<_> = network.addresses.iter().filter(|(a, _)| a.is_ipv4() == v4).collect();
        let _ = writeln!(out, "\n[{section}]");
        let method = if !addresses.is_empty() {
            "manual"
        } else if network.is_dhcp() || !v4 {
            "auto"
        } else {
            "disabled"
        };
        let _ = writeln!(out, "method={method}");
        for (i, (address, prefix)) in addresses.iter().enumerate() {
            let _ = writeln!(out, "address{}={address}/{prefix}", i + 1);
        }
        if let Some(gateway) = network.gateways.iter().find(|gateway| gateway.is_ipv4() == v4) {
            let _ = writeln!(out, "gateway={gateway}");
        }
        let dns: Vec<String> =
            network.dns.iter().filter(|dns| dns.is_ipv4() == v4).map(IpAddr::to_string).collect();
        if !dns.is_empty() {
            let _ = writeln!(out, "dns={};", dns.join(";"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_connection_stays_and_is_not_made_by_itself() {
        let text = "[connection]\nid=x\nautoconnect=true\ninterface-name=eth0\n\n[ipv4]\nmethod=auto\n";
        let expected = "[connection]\nautoconnect=false\nid=x\ninterface-name=eth0\n\n[ipv4]\nmethod=auto\n";
        assert_eq!(without_autoconnect(text), expected);
        assert_eq!(value(text, "connection", "interface-name"), Some("eth0"));
        assert_eq!(value(text, "ipv4", "id"), None);
    }
}
