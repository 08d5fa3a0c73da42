//! Network configuration bound to the MAC address of a card. A clone has another address.

use crate::edit::network::netplan_without_macs;
use crate::edit::primitive::Edit;
use crate::error::Result;
use crate::guest::ini::entries;
use crate::tree::edit::Files;

/// Returns the paths and texts of the files in a directory whose names have this suffix.
fn texts(files: &Files, folder: &str, suffix: &str) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for (name, _) in files.list(folder) {
        let path = format!("{folder}/{name}");
        if name.ends_with(suffix) && files.is_file(&path) {
            let text = files.text(&path)?;
            found.push((path, text));
        }
    }
    Ok(found)
}

fn said(path: &str) -> Option<String> {
    Some(format!("MAC address: {path} (no longer bound to a card)"))
}

/// Returns edits that make network configuration independent of MAC addresses.
pub(super) fn unbind(files: &Files) -> Result<Vec<(Edit, Option<String>)>> {
    let mut edits = Vec::new();
    let mut replace = |path: String, before: &str, after: String| {
        if after != before {
            let said = said(&path);
            edits.push((Edit::text(path, after), said));
        }
    };
    for (path, text) in texts(files, "/etc/sysconfig/network-scripts", "")? {
        if path.contains("/ifcfg-") {
            replace(
                path,
                &text,
                without(&text, |key| matches!(key, "HWADDR" | "HOSTNAME" | "DHCP_HOSTNAME")),
            );
        }
    }
    for (path, text) in texts(files, "/etc/NetworkManager/system-connections", "")? {
        replace(path, &text, without(&text, |key| key == "mac-address"));
    }
    for folder in ["/etc/network", "/etc/network/interfaces.d"] {
        for (path, text) in texts(files, folder, "")? {
            let lines = text.split_inclusive('\n');
            let kept = lines.filter(|line| line.split_whitespace().next() != Some("hwaddress"));
            replace(path, &text, kept.collect());
        }
    }
    for (path, text) in texts(files, "/etc/netplan", ".yaml")? {
        if let Some(after) = netplan_without_macs(&text) {
            replace(path, &text, after);
        }
    }
    for (path, text) in texts(files, "/etc/systemd/network", ".network")? {
        if is_by_mac(&text) && matches_more(&text) {
            replace(path, &text, without(&text, is_mac_key));
        }
    }
    // A file that assigns a name by MAC address alone.
    for (path, text) in texts(files, "/etc/systemd/network", ".link")? {
        if is_by_mac(&text) {
            let said = Some(format!("network card name: {path}"));
            edits.push((Edit::Delete { path }, said));
        }
    }
    Ok(edits)
}

/// Returns configuration that still applies to a single network card, each with the reason.
pub(super) fn still_bound(files: &Files) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for (path, text) in texts(files, "/etc/systemd/network", ".network")? {
        if is_by_mac(&text) {
            left.push(format!("{path}: matches a network card only by its MAC address"));
        }
    }
    for (path, text) in texts(files, "/etc/udev/rules.d", ".rules")? {
        if text.lines().any(|line| !line.trim_start().starts_with('#') && line.contains("ATTR{address}")) {
            left.push(format!("{path}: has a rule for one MAC address"));
        }
    }
    for (path, text) in texts(files, "/etc/netplan", ".yaml")? {
        if text.contains("macaddress") {
            left.push(format!("{path}: contains a MAC address"));
        }
    }
    for (path, text) in texts(files, "/etc/cloud/cloud.cfg.d", ".cfg")? {
        if text.contains("macaddress") || text.contains("mac_address") {
            left.push(format!("{path}: contains a MAC address"));
        }
    }
    Ok(left)
}

/// Returns `text` without its lines `KEY=value` whose key is `gone`.
fn without(text: &str, gone: impl Fn(&str) -> bool) -> String {
    let is_gone = |line: &&str| line.split_once('=').is_some_and(|(key, _)| gone(key.trim()));
    text.split_inclusive('\n').filter(|line| !is_gone(line)).collect()
}

fn is_mac_key(key: &str) -> bool {
    matches!(key, "MACAddress" | "PermanentMACAddress")
}

/// Returns the keys of the `[Match]` section.
fn match_keys(text: &str) -> impl Iterator<Item = &str> {
    entries(text).filter(|(section, ..)| *section == "Match").map(|(_, key, _)| key)
}

fn is_by_mac(text: &str) -> bool {
    match_keys(text).any(is_mac_key)
}

fn matches_more(text: &str) -> bool {
    match_keys(text).any(|key| !is_mac_key(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_to_be_bound_by_its_match_section() {
        let bound = "[Match]\nMACAddress=52:54:00:11:22:33\n[Network]\nDHCP=yes\n";
        let more = "[Match]\nName=eth0\nPermanentMACAddress = 52:54:00:11:22:33\n";
        let set = "[Match]\nName=eth0\n[Link]\nMACAddress=52:54:00:11:22:33\n";
        assert!(is_by_mac(bound) && !matches_more(bound));
        assert!(is_by_mac(more) && matches_more(more));
        assert!(!is_by_mac(set));
        assert_eq!(without(more, is_mac_key), "[Match]\nName=eth0\n");
        let ifcfg = "DEVICE=eth0\nHWADDR=\"52:54:00:11:22:33\"\nONBOOT=yes";
        assert_eq!(without(ifcfg, |key| key == "HWADDR"), "DEVICE=eth0\nONBOOT=yes");
    }
}
