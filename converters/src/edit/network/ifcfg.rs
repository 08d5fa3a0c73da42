//! Red Hat's network scripts: `ifcfg-NAME` (initscripts, `sysconfig.txt`; nm-settings-ifcfg-rh(5)).

use std::fmt::Write as _;

use super::Network;
use crate::edit::primitive::Edit;
use crate::error::Result;
use crate::tree::edit::Files;

const FOLDER: &str = "/etc/sysconfig/network-scripts";

/// Returns true if the image has these scripts.
pub(super) fn has_scripts(files: &Files) -> bool {
    files.is_file(&format!("{FOLDER}/network-functions")) || files.is_file(&format!("{FOLDER}/ifup-eth"))
}

/// Configures an interface in an image that uses only these files.
pub(super) fn configure(files: &Files, network: &Network) -> Result<Vec<Edit>> {
    let interface = &network.interface;
    let own = format!("ifcfg-{interface}");
    let mut edits = Vec::new();
    for (name, _) in of_interface(files, interface)? {
        if name != own {
            edits.push(Edit::Delete { path: format!("{FOLDER}/{name}") });
        }
    }
    for routes in [format!("{FOLDER}/route-{interface}"), format!("{FOLDER}/route6-{interface}")] {
        if files.get_link(&routes).is_some() {
            edits.push(Edit::Delete { path: routes });
        }
    }
    edits.push(Edit::file(format!("{FOLDER}/{own}"), text(network), 0o644));
    Ok(edits)
}

/// Returns edits that keep all these files from bringing an interface up.
pub(super) fn silence(files: &Files, interface: &str) -> Result<Vec<Edit>> {
    let mut edits = Vec::new();
    for (name, _) in of_interface(files, interface)? {
        let path = format!("{FOLDER}/{name}");
        let text = files.editable(&path)?;
        let kept = text.lines().filter(|line| !line.trim_start().starts_with("ONBOOT="));
        let kept: Vec<&str> = kept.chain(["ONBOOT=no"]).collect();
        let new = kept.join("\n") + "\n";
        if new != text {
            edits.push(Edit::text(path, new));
        }
    }
    Ok(edits)
}

/// Returns the files of an interface and its aliases.
fn of_interface(files: &Files, interface: &str) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for (name, _) in files.list(FOLDER) {
        let Some(of) = name.strip_prefix("ifcfg-") else { continue };
        let path = format!("{FOLDER}/{name}");
        if !files.is_file(&path) {
            continue;
        }
        let text = files.text(&path)?;
        let device = value(&text, "DEVICE").unwrap_or_else(|| of.to_owned());
        let is_alias = |name: &str| name.strip_prefix(interface).is_some_and(|rest| rest.starts_with(':'));
        if device == interface || is_alias(&device) || of == interface || is_alias(of) {
            found.push((name, text));
        }
    }
    Ok(found)
}

/// Returns the last value of a variable, without quotes.
fn value(text: &str, key: &str) -> Option<String> {
    let mut values = text.lines().filter_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
    values.next_back().map(|value| value.trim().trim_matches(['"', '\'']).to_owned())
}

fn text(network: &Network) -> String {
    let protocol = if network.is_dhcp() { "dhcp" } else { "none" };
    let mut out = format!("DEVICE={}\nTYPE=Ethernet\nONBOOT=yes\nBOOTPROTO={protocol}\n", network.interface);
    let v4 = network.addresses.iter().filter(|(address, _)| address.is_ipv4());
    for (i, (address, prefix)) in v4.enumerate() {
        let number = if i == 0 { String::new() } else { i.to_string() };
        let _ = writeln!(out, "IPADDR{number}={address}\nPREFIX{number}={prefix}");
    }
    let v6: Vec<String> =
        network.addresses.iter().filter(|(a, _)| a.is_ipv6()).map(|(a, p)| format!("{a}/{p}")).collect();
    if let [first, more @ ..] = &v6[..] {
        let _ = writeln!(out, "IPV6INIT=yes\nIPV6ADDR={first}");
        if !more.is_empty() {
            let _ = writeln!(out, "IPV6ADDR_SECONDARIES=\"{}\"", more.join(" "));
        }
    }
    for gateway in &network.gateways {
        let key = if gateway.is_ipv4() { "GATEWAY" } else { "IPV6_DEFAULTGW" };
        let _ = writeln!(out, "{key}={gateway}");
    }
    for (i, dns) in network.dns.iter().enumerate() {
        let _ = writeln!(out, "DNS{}={dns}", i + 1);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_kinds_are_said() {
        let texts = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
        let addresses = texts(&["192.0.2.10/24", "192.0.2.11/24", "2001:db8::1/64", "2001:db8::2/64"]);
        let network =
            Network::new("eth0", &addresses, &texts(&["192.0.2.1", "2001:db8::9"]), &texts(&["9.9.9.9"]))
                .unwrap();
        let expected = "DEVICE=eth0\nTYPE=Ethernet\nONBOOT=yes\nBOOTPROTO=none\nIPADDR=192.0.2.10\nPREFIX=24\n\
            IPADDR1=192.0.2.11\nPREFIX1=24\nIPV6INIT=yes\nIPV6ADDR=2001:db8::1/64\nIPV6ADDR_SECONDARIES=\"2001:db8::2/64\"\n\
            GATEWAY=192.0.2.1\nIPV6_DEFAULTGW=2001:db8::9\nDNS1=9.9.9.9\n";
        assert_eq!(text(&network), expected);
        assert_eq!(value("DEVICE=\"eth0\"\n", "DEVICE").as_deref(), Some("eth0"));
    }
}
