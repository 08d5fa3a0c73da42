//! Configures the network with the system that the image uses: netplan, NetworkManager, systemd-networkd, Red Hat's
//! network scripts or ifupdown. The interface then has only the addresses asked for.

mod ifcfg;
mod ifupdown;
mod netplan;
mod network_manager;
mod networkd;
mod yaml;

use std::net::IpAddr;

pub(super) use self::netplan::without_macs as netplan_without_macs;

use super::primitive::{Edit, Owner};
use super::systemd;
use crate::error::{Error, Result};
use crate::tree::edit::Files;
use crate::tree::new_content::NewContent;

/// How an interface gets its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Network {
    interface: String,
    /// Addresses with their prefix lengths; empty for DHCP.
    addresses: Vec<(IpAddr, u8)>,
    gateways: Vec<IpAddr>,
    dns: Vec<IpAddr>,
}

/// The system that configures an image's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Netplan,
    NetworkManager,
    Networkd,
    Ifcfg,
    Ifupdown,
}

impl Network {
    /// Returns a configuration with these addresses, such as `192.0.2.10/24`, or with DHCP if there are none.
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
            return Err(Error::usage(format!("invalid network interface name \"{interface}\"")));
        }
        let ip = |text: &String| -> Result<IpAddr> {
            text.parse().map_err(|_| Error::usage(format!("invalid IP address \"{text}\"")))
        };
        let address = |text: &String| -> Result<(IpAddr, u8)> {
            let wrong = || {
                Error::usage(format!("\"{text}\": expected an IP address with a prefix length"))
                    .advise("For example, 192.0.2.10/24 or 2001:db8::10/64")
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
                    "{interface}: the gateway {gateway} needs an address of the same family (IPv4 or IPv6)"
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
    let mut edits = match kind(files)? {
        Kind::Netplan => netplan::configure(files, network)?,
        Kind::NetworkManager => network_manager::configure(files, network)?,
        Kind::Networkd => networkd::configure(files, network)?,
        Kind::Ifcfg => ifcfg::configure(files, network)?,
        Kind::Ifupdown => ifupdown::configure(files, network)?,
    };
    // cloud-init would overwrite it with its own configuration.
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
    } else if any(&["/usr/sbin/wicked", "/sbin/wicked"]) {
        return Err(Error::unsupported(
            "the image configures its network with wicked, which mif does not support",
        )
        .advise("Write /etc/sysconfig/network/ifcfg-NAME with --write"));
    } else if ifcfg::has_scripts(files) {
        Kind::Ifcfg
    } else if any(&["/usr/sbin/ifup", "/sbin/ifup"]) {
        Kind::Ifupdown
    } else if networkd {
        Kind::Networkd
    } else {
        return Err(Error::unsupported(
            "cannot configure the network: the image has none of netplan, NetworkManager, systemd-networkd, network scripts and ifupdown",
        ));
    })
}

/// Compiles a shell pattern for a name. Returns `None` if it is malformed.
fn pattern(text: &str) -> Option<glob::Pattern> {
    glob::Pattern::new(text).ok()
}

/// Writes the name servers to `/etc/resolv.conf`, unless the image contains its `manager`.
fn resolv_conf(files: &Files, network: &Network, manager: &str) -> Result<Option<Edit>> {
    let is_link = files.get_link("/etc/resolv.conf").is_some_and(|row| row.node.link_target.is_some());
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
        for text in [network_manager::text(&fixed(), 100), networkd::text(&fixed())] {
            for part in ["eth0", "192.0.2.10/24", "2001:db8::10/64", "192.0.2.1", "9.9.9.9"] {
                assert!(text.contains(part), "{part} in {text}");
            }
        }
        let dhcp = Network::new("eth0", &[], &[], &[]).unwrap();
        assert!(networkd::text(&dhcp).contains("DHCP=yes"));
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
}
