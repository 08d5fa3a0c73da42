//! systemd.network(5): the first file by name that matches an interface applies, whatever its directory.

use std::fmt::Write as _;

use super::Network;
use crate::edit::primitive::Edit;
use crate::edit::systemd;
use crate::error::Result;
use crate::tree::edit::Files;

const ETC: &str = "/etc/systemd/network";
const FOLDERS: [&str; 4] =
    [ETC, "/usr/local/lib/systemd/network", "/usr/lib/systemd/network", "/lib/systemd/network"];
/// Prefixes of file names, each sorted before the previous one.
const BEGINNINGS: [&str; 3] = ["05-mif", "0-mif", "!mif"];

/// Configures an interface.
pub(super) fn configure(files: &Files, network: &Network) -> Result<Vec<Edit>> {
    let interface = &network.interface;
    let names = |beginning: &str| format!("{beginning}-{interface}.network");
    let own = BEGINNINGS.map(names);
    let others = FOLDERS.iter().flat_map(|folder| files.list(folder)).map(|(name, _)| name);
    let others: Vec<String> =
        others.filter(|name| name.ends_with(".network") && !own.contains(name)).collect();
    let is_first = |name: &&String| others.iter().all(|other| **name < *other);
    let name = own.iter().find(is_first).unwrap_or(&own[own.len() - 1]);
    let mut edits = vec![Edit::folder(ETC)];
    // Left from an earlier run.
    for old in own.iter().filter(|old| *old != name && files.get_link(&format!("{ETC}/{old}")).is_some()) {
        edits.push(Edit::Delete { path: format!("{ETC}/{old}") });
    }
    edits.push(Edit::file(format!("{ETC}/{name}"), text(network), 0o644));
    if !systemd::is_enabled(files, "systemd-networkd.service") {
        edits.extend(systemd::enable(files, "systemd-networkd.service")?);
    }
    edits.extend(super::resolv_conf(files, network, "/usr/lib/systemd/systemd-resolved")?);
    Ok(edits)
}

pub(super) fn text(network: &Network) -> String {
    let mut out = format!("[Match]\nName={}\n\n[Network]\n", network.interface);
    if network.is_dhcp() {
        out.push_str("DHCP=yes\n");
    }
    for (address, prefix) in &network.addresses {
        let _ = writeln!(out, "Address={address}/{prefix}");
    }
    for gateway in &network.gateways {
        let _ = writeln!(out, "Gateway={gateway}");
    }
    for dns in &network.dns {
        let _ = writeln!(out, "DNS={dns}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_beginning_of_a_name_comes_before_the_others() {
        assert!(BEGINNINGS.is_sorted_by(|a, b| a > b));
        // Sorts before names that begin with a zero, as cloud images have.
        assert!("0-mif-eth0.network" < "00-eth0.network");
    }
}
