//! The network, configured in the image's own way: netplan, NetworkManager, systemd-networkd or ifupdown.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::edit::{Edit, Owner};
use super::systemd;
use crate::files::Files;
use crate::rebuild::NewContent;
use crate::{Error, Result};

/// How an interface gets its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Network {
    interface: String,
    /// Addresses with the length of their prefix; none for DHCP.
    addresses: Vec<(IpAddr, u8)>,
    gateways: Vec<IpAddr>,
    dns: Vec<IpAddr>,
}

/// What configures the network of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Netplan,
    NetworkManager,
    Networkd,
    Ifupdown,
}

impl Network {
    /// An interface with these addresses, as `192.0.2.10/24`; by DHCP without any.
    pub(super) fn new(
        interface: &str,
        addresses: &[String],
        gateways: &[String],
        dns: &[String],
    ) -> Result<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if interface.is_empty()
            || interface.len() > 15
            || !interface.chars().all(plain)
            || interface.starts_with('.')
        {
            return Err(Error::usage(format!("\"{interface}\" is no name of a network interface")));
        }
        let ip = |text: &String| -> Result<IpAddr> {
            text.parse().map_err(|_| Error::usage(format!("\"{text}\" is no IP address")))
        };
        let address = |text: &String| -> Result<(IpAddr, u8)> {
            let wrong = || {
                Error::usage(format!("\"{text}\" is no address with the length of its prefix"))
                    .advise("Such as 192.0.2.10/24 or 2001:db8::10/64")
            };
            let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
            let (address, prefix): (IpAddr, u8) =
                (address.parse().map_err(|_| wrong())?, prefix.parse().map_err(|_| wrong())?);
            let max = if address.is_ipv4() { 32 } else { 128 };
            if prefix > max { Err(wrong()) } else { Ok((address, prefix)) }
        };
        let network = Network {
            interface: interface.to_owned(),
            addresses: addresses.iter().map(address).collect::<Result<_>>()?,
            gateways: gateways.iter().map(ip).collect::<Result<_>>()?,
            dns: dns.iter().map(ip).collect::<Result<_>>()?,
        };
        for gateway in &network.gateways {
            if !network.addresses.iter().any(|(address, _)| address.is_ipv4() == gateway.is_ipv4()) {
                return Err(Error::usage(format!(
                    "{interface}: the gateway {gateway} needs an address of its kind"
                )));
            }
        }
        Ok(network)
    }

    fn is_dhcp(&self) -> bool {
        self.addresses.is_empty()
    }

    fn dns_text(&self, between: &str) -> String {
        self.dns.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(between)
    }
}

/// Configures an interface.
pub(super) fn configure(files: &Files, network: &Network) -> Result<Vec<Edit>> {
    let name = &network.interface;
    let mut edits = match kind(files)? {
        Kind::Netplan => vec![
            Edit::folder("/etc/netplan"),
            Edit::file(format!("/etc/netplan/90-mif-{name}.yaml"), netplan(network), 0o600),
        ],
        Kind::NetworkManager => {
            let path = format!("/etc/NetworkManager/system-connections/mif-{name}.nmconnection");
            vec![Edit::file(path, network_manager(network), 0o600)]
        }
        Kind::Networkd => {
            let mut edits = vec![
                Edit::folder("/etc/systemd/network"),
                Edit::file(format!("/etc/systemd/network/05-mif-{name}.network"), networkd(network), 0o644),
            ];
            if !systemd::is_enabled(files, "systemd-networkd.service") {
                edits.extend(systemd::enable(files, "systemd-networkd.service")?);
            }
            edits.extend(resolv_conf(files, network, "/usr/lib/systemd/systemd-resolved")?);
            edits
        }
        Kind::Ifupdown => ifupdown(files, network)?,
    };
    // cloud-init would write its own over it.
    if files.get("/etc/cloud/cloud.cfg.d").is_some() {
        let text = "network: {config: disabled}\n";
        edits.push(Edit::file("/etc/cloud/cloud.cfg.d/99-mif-network.cfg", text, 0o644));
    }
    Ok(edits)
}

fn kind(files: &Files) -> Result<Kind> {
    let any = |paths: &[&str]| paths.iter().any(|path| files.is_file(path));
    let networkd = any(&["/usr/lib/systemd/systemd-networkd", "/lib/systemd/systemd-networkd"]);
    Ok(if any(&["/usr/sbin/netplan", "/sbin/netplan"]) {
        Kind::Netplan
    } else if any(&["/usr/sbin/NetworkManager", "/usr/bin/NetworkManager"])
        && systemd::is_enabled(files, "NetworkManager.service")
    {
        Kind::NetworkManager
    } else if networkd && systemd::is_enabled(files, "systemd-networkd.service") {
        Kind::Networkd
    } else if any(&["/usr/sbin/ifup", "/sbin/ifup"]) {
        Kind::Ifupdown
    } else if networkd {
        Kind::Networkd
    } else {
        return Err(Error::unsupported(
            "the image has none of netplan, NetworkManager, systemd-networkd and ifupdown to configure its network",
        ));
    })
}

/// netplan(5).
fn netplan(network: &Network) -> String {
    let name = &network.interface;
    let mut out = format!("network:\n  version: 2\n  ethernets:\n    \"{name}\":\n");
    let _ = writeln!(out, "      dhcp4: {}", network.is_dhcp());
    if !network.is_dhcp() {
        out.push_str("      addresses:\n");
        for (address, prefix) in &network.addresses {
            let _ = writeln!(out, "        - \"{address}/{prefix}\"");
        }
    }
    if !network.gateways.is_empty() {
        out.push_str("      routes:\n");
        for gateway in &network.gateways {
            let all = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            let _ = writeln!(out, "        - to: \"{all}\"\n          via: \"{gateway}\"");
        }
    }
    if !network.dns.is_empty() {
        out.push_str("      nameservers:\n        addresses:\n");
        for dns in &network.dns {
            let _ = writeln!(out, "          - \"{dns}\"");
        }
    }
    out
}

/// nm-settings-keyfile(5).
fn network_manager(network: &Network) -> String {
    let name = &network.interface;
    let mut out = format!(
        "[connection]\nid=mif-{name}\ntype=ethernet\ninterface-name={name}\nautoconnect-priority=100\n"
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

/// systemd.network(5).
fn networkd(network: &Network) -> String {
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

/// interfaces(5): in a file of its own; what else is said of the interface goes.
fn ifupdown(files: &Files, network: &Network) -> Result<Vec<Edit>> {
    const MAIN: &str = "/etc/network/interfaces";
    const FOLDER: &str = "/etc/network/interfaces.d";
    let name = &network.interface;
    let own = format!("{FOLDER}/mif-{name}");
    let mut edits = Vec::new();
    let mut main = files.editable(MAIN)?;
    for path in [MAIN.to_owned()]
        .into_iter()
        .chain(files.list(FOLDER).into_iter().map(|(n, _)| format!("{FOLDER}/{n}")))
    {
        if path == own || !files.is_file(&path) {
            continue;
        }
        let before = files.editable(&path)?;
        let after = without_interface(&before, name);
        if after != before {
            if path == MAIN {
                main.clone_from(&after);
            }
            edits.push(Edit::text(path, after));
        }
    }
    let sourced = main.lines().any(|line| {
        let line = line.trim_start();
        line.starts_with("source") && line.contains("interfaces.d")
    });
    if !sourced {
        edits.push(Edit::folder("/etc/network"));
        edits.push(Edit::text(MAIN, format!("{main}\nsource {FOLDER}/*\n").trim_start().to_owned()));
    }
    let mut out = format!("auto {name}\n");
    if network.is_dhcp() {
        let _ = writeln!(out, "iface {name} inet dhcp");
    }
    for (address, prefix) in &network.addresses {
        let family = if address.is_ipv4() { "inet" } else { "inet6" };
        let _ = writeln!(out, "iface {name} {family} static\n    address {address}/{prefix}");
        // A gateway and name servers are said once.
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
    edits.push(Edit::folder(FOLDER));
    edits.push(Edit::file(own, out, 0o644));
    edits.extend(resolv_conf(files, network, "/sbin/resolvconf")?);
    Ok(edits)
}

/// `interfaces` without what it says of an interface.
fn without_interface(text: &str, name: &str) -> String {
    let mut out = String::new();
    let mut dropping = false;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let begins = matches!(
            words.first(),
            Some(
                &("iface"
                    | "auto"
                    | "mapping"
                    | "source"
                    | "source-directory"
                    | "no-auto-down"
                    | "no-scripts")
            )
        ) || words.first().is_some_and(|word| word.starts_with("allow-"));
        if begins {
            dropping = words[0] == "iface" && words.get(1) == Some(&name);
            let marks = words[0] == "auto" || words[0].starts_with("allow-");
            if marks && words[1..].contains(&name) {
                let others: Vec<&str> = words.iter().filter(|word| **word != name).copied().collect();
                if others.len() > 1 {
                    out.push_str(&others.join(" "));
                    out.push('\n');
                }
                continue;
            }
        }
        if !dropping {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// The name servers in `/etc/resolv.conf` itself, where no `manager` of it is in the image.
fn resolv_conf(files: &Files, network: &Network, manager: &str) -> Result<Option<Edit>> {
    let is_link = files.get_link("/etc/resolv.conf").is_some_and(|row| row.link_target.is_some());
    if network.dns.is_empty() || is_link || files.is_file(manager) {
        return Ok(None);
    }
    let old = files.editable("/etc/resolv.conf")?;
    let kept = old.lines().filter(|line| !line.trim_start().starts_with("nameserver"));
    let new = network.dns.iter().map(|dns| format!("nameserver {dns}"));
    let lines: Vec<String> = kept.map(str::to_owned).chain(new).collect();
    let content = NewContent::of_bytes((lines.join("\n") + "\n").into_bytes());
    let owner = Some(Owner::ids(0, 0));
    Ok(Some(Edit::Write { path: "/etc/resolv.conf".into(), content, mode: Some(0o644), owner }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    fn fixed() -> Network {
        let addresses = texts(&["192.0.2.10/24", "2001:db8::10/64"]);
        Network::new("eth0", &addresses, &texts(&["192.0.2.1"]), &texts(&["9.9.9.9"])).unwrap()
    }

    #[test]
    fn each_kind_says_addresses_gateway_and_name_server() {
        for text in [netplan(&fixed()), network_manager(&fixed()), networkd(&fixed())] {
            for part in ["eth0", "192.0.2.10/24", "2001:db8::10/64", "192.0.2.1", "9.9.9.9"] {
                assert!(text.contains(part), "{part} in {text}");
            }
        }
        let dhcp = Network::new("eth0", &[], &[], &[]).unwrap();
        assert!(networkd(&dhcp).contains("DHCP=yes") && netplan(&dhcp).contains("dhcp4: true"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let with = |addresses: &[&str], gateway: &[&str]| {
            Network::new("eth0", &texts(addresses), &texts(gateway), &[]).is_err()
        };
        assert!(with(&["192.0.2.10"], &[]));
        assert!(with(&["192.0.2.10/33"], &[]));
        assert!(with(&["192.0.2.10/24"], &["2001:db8::1"]));
        assert!(Network::new("eth0/..", &[], &[], &[]).is_err());
    }

    #[test]
    fn what_was_said_of_the_interface_goes() {
        let text = "auto lo eth0\nallow-hotplug eth0\niface lo inet loopback\niface eth0 inet dhcp\n  metric 5\niface eth1 inet dhcp\n";
        let expected = "auto lo\niface lo inet loopback\niface eth1 inet dhcp\n";
        assert_eq!(without_interface(text, "eth0"), expected);
    }
}
