//! The network: the driver of the card, and configuration that is bound to another machine's card by its address or name.

use super::booting::Booting;
use super::finding::{Finding, Findings, Subject};
use super::kernel::{Builtin, Kernel};
use super::look::Look;
use super::machine::Card;
use super::modules::normal;
use crate::guest::ini::entries;
use crate::tree::mounts::Root;

/// Judges the network of a system.
pub(super) fn judge(
    look: &Look<'_>,
    root: &Root,
    kernel: Option<(&Kernel, &Booting)>,
    card: &Card,
    findings: &mut Findings,
) {
    if let Some((kernel, _)) = kernel {
        driver(kernel, card, findings);
    }
    let before = findings.0.len();
    let has_fixed_names = kernel.is_some_and(|(_, booting)| booting.argument("net.ifnames") == Some("0"))
        || look.in_root(root, "/sbin/apk").is_some();
    let bound = bindings(look, root, has_fixed_names);
    for binding in bound {
        let finding = findings.bad(Subject::Network, binding.place.clone(), binding.reason);
        finding.advise(binding.advice);
        if let Some(remedy) = binding.remedy {
            remedy(finding, &binding.place);
        }
    }
    if findings.0.len() == before {
        findings.good(
            Subject::Network,
            "the network's configuration",
            "nothing is bound to the card of another machine",
        );
    }
}

fn driver(kernel: &Kernel, card: &Card, findings: &mut Findings) {
    let place = format!("the modules of Linux {}", kernel.release);
    for driver in card.drivers {
        let name = normal(driver);
        match (kernel.builtin(&name), kernel.modules.with_dependencies(&name)) {
            (Builtin::Yes, _) | (_, Ok(_)) => {}
            (Builtin::Unknown, _) => {
                findings.unknown(
                    Subject::Network,
                    place,
                    format!("there is no module {name}, and the image does not say whether it is built in"),
                );
                return;
            }
            (Builtin::No, Err(lacks)) if lacks != name => {
                findings.bad(
                    Subject::Network,
                    place,
                    format!("{name} depends on {lacks}, which is not there"),
                );
                return;
            }
            (Builtin::No, Err(_)) => {
                findings
                    .bad(
                        Subject::Network,
                        place,
                        format!(
                            "Linux {} has no driver {name}, which the card {} needs",
                            kernel.release, card.name
                        ),
                    )
                    .advise("Install a kernel that has it, or choose another card");
                return;
            }
        }
    }
    findings.good(Subject::Network, place, format!("it has the driver of the card {}", card.name));
}

/// Configuration that is bound to a card.
struct Binding {
    place: String,
    reason: String,
    advice: &'static str,
    remedy: Option<fn(&mut Finding, &str)>,
}

fn delete(finding: &mut Finding, place: &str) {
    finding.mend("delete", &[("path", place.into())]);
}

/// Removes lines of ifcfg that name a card's address.
fn unbind_ifcfg(finding: &mut Finding, place: &str) {
    finding.mend("edit", &[("path", place.into()), ("script", "s/^[ \t]*(HWADDR|UUID)=.*$/#&/".into())]);
}

fn unbind_network_manager(finding: &mut Finding, place: &str) {
    finding.mend(
        "edit",
        &[("path", place.into()), ("script", "s/^[ \t]*(mac-address|interface-name)=.*$/#&/".into())],
    );
}

/// Makes a file of networkd match every Ethernet card.
fn unbind_networkd(finding: &mut Finding, place: &str) {
    finding.mend(
        "edit",
        &[
            ("path", place.into()),
            ("script", "s/^[ \t]*(MACAddress|PermanentMACAddress|Name)=.*$/Type=ether/".into()),
        ],
    );
}

/// Gives the machine a configuration that matches any card by its driver's kind, instead of a name.
fn any_netplan(finding: &mut Finding, place: &str) {
    let content = "network:\n  version: 2\n  ethernets:\n    all:\n      match:\n        name: \"e*\"\n      dhcp4: true\n";
    finding.mend("write", &[("path", place.into()), ("content", content.into()), ("mode", "0600".into())]);
}

fn bindings(look: &Look<'_>, root: &Root, has_fixed_names: bool) -> Vec<Binding> {
    let mut found = Vec::new();
    let text_of = |path: &str| {
        let row = look.in_root(root, path)?;
        Some((look.place(row), look.root_text(root, path)?))
    };
    let rules = "/etc/udev/rules.d/70-persistent-net.rules";
    if let Some((place, text)) = text_of(rules)
        && text.lines().any(|line| !line.trim_start().starts_with('#') && line.contains("ATTR{address}"))
    {
        found.push(Binding {
            place,
            reason: "it names cards by the addresses of another machine's, so this one's gets another name"
                .into(),
            advice: "Remove the file",
            remedy: Some(delete),
        });
    }
    for name in look.root_list(root, "/etc/systemd/network") {
        let Some((place, text)) = text_of(&format!("/etc/systemd/network/{name}")) else { continue };
        let is_network = name.ends_with(".network") || name.ends_with(".link");
        let by_address =
            in_section(&text, "Match").any(|(key, _)| matches!(key, "MACAddress" | "PermanentMACAddress"));
        let by_name = in_section(&text, "Match").find(|(key, _)| *key == "Name").map(|(_, value)| value);
        if is_network && by_address {
            let remedy: Option<fn(&mut Finding, &str)> =
                if name.ends_with(".link") { Some(delete) } else { Some(unbind_networkd) };
            found.push(Binding {
                place,
                reason: "it matches a card by its address".into(),
                advice: "Match by Type=ether instead",
                remedy,
            });
        } else if let Some(card) =
            by_name.filter(|card| name.ends_with(".network") && is_foreign(card, has_fixed_names))
        {
            found.push(Binding {
                place,
                reason: bound_to(card),
                advice: "Match by Type=ether instead",
                remedy: Some(unbind_networkd),
            });
        }
    }
    for name in look.root_list(root, "/etc/netplan").into_iter().filter(|name| name.ends_with(".yaml")) {
        let Some((place, text)) = text_of(&format!("/etc/netplan/{name}")) else { continue };
        let lines = || text.lines().filter(|line| !line.trim_start().starts_with('#'));
        if lines().any(|line| line.trim_start().trim_start_matches("- ").starts_with("macaddress:"))
            && text.contains("match:")
        {
            let reason = "it matches a card by its address".into();
            let remedy: Option<fn(&mut Finding, &str)> =
                plain_dhcp(&text).then_some(any_netplan as fn(&mut Finding, &str));
            found.push(Binding { place, reason, advice: "Match by a pattern of names instead", remedy });
        } else if let Some(card) =
            netplan_cards(&text).into_iter().find(|card| is_foreign(card, has_fixed_names))
        {
            let remedy: Option<fn(&mut Finding, &str)> =
                plain_dhcp(&text).then_some(any_netplan as fn(&mut Finding, &str));
            found.push(Binding {
                place,
                reason: bound_to(&card),
                advice: "Match by a pattern of names instead",
                remedy,
            });
        }
    }
    let ifcfg = "/etc/sysconfig/network-scripts";
    for name in look
        .root_list(root, ifcfg)
        .into_iter()
        .filter(|name| name.starts_with("ifcfg-") && name != "ifcfg-lo")
    {
        let Some((place, text)) = text_of(&format!("{ifcfg}/{name}")) else { continue };
        let value = |key: &str| {
            let mut lines = text.lines().filter_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
            lines.next_back().map(|value| value.trim_matches(['"', '\'']).to_owned())
        };
        if value("HWADDR").is_some_and(|value| !value.is_empty()) {
            found.push(Binding {
                place,
                reason: "it is bound to a card's address (HWADDR)".into(),
                advice: "Remove HWADDR",
                remedy: Some(unbind_ifcfg),
            });
        } else if let Some(card) = value("DEVICE").filter(|card| is_foreign(card, has_fixed_names)) {
            found.push(Binding {
                place,
                reason: bound_to(&card),
                advice: "Configure the card by DHCP with a connection for every card",
                remedy: None,
            });
        }
    }
    let connections = "/etc/NetworkManager/system-connections";
    for name in look.root_list(root, connections) {
        let Some((place, text)) = text_of(&format!("{connections}/{name}")) else { continue };
        let by_address =
            in_section(&text, "ethernet").any(|(key, value)| key == "mac-address" && !value.is_empty());
        let card = in_section(&text, "connection").find(|(key, _)| *key == "interface-name");
        if by_address {
            found.push(Binding {
                place,
                reason: "it is bound to a card's address".into(),
                advice: "Remove mac-address",
                remedy: Some(unbind_network_manager),
            });
        } else if let Some((_, card)) = card.filter(|(_, card)| is_foreign(card, has_fixed_names)) {
            found.push(Binding {
                place,
                reason: bound_to(card),
                advice: "Remove interface-name",
                remedy: Some(unbind_network_manager),
            });
        }
    }
    let folder = "/etc/network/interfaces.d";
    let files = look.root_list(root, folder).into_iter().map(|name| format!("{folder}/{name}"));
    for path in std::iter::once("/etc/network/interfaces".to_owned()).chain(files) {
        let Some((place, text)) = text_of(&path) else { continue };
        let cards = text.lines().filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            matches!(words.next(), Some("auto" | "allow-hotplug" | "iface"))
                .then(|| words.next().map(str::to_owned))?
        });
        let mut cards = cards.filter(|card| is_foreign(card, has_fixed_names) && !card.contains(['*', '/']));
        if let Some(card) = cards.next() {
            found.push(Binding {
                place,
                reason: bound_to(&card),
                advice: "Start the machine with net.ifnames=0 and configure eth0, or name the card that the machine has",
                remedy: None,
            });
        }
    }
    found
}

fn bound_to(card: &str) -> String {
    format!("it configures the card {card}, a name that depends on the machine")
}

/// Returns true if the name of a network card depends on the machine.
fn is_foreign(name: &str, has_fixed_names: bool) -> bool {
    if name.contains(['*', '?', '[', '!', ' ']) {
        return false;
    }
    if name.starts_with("eth") {
        return !has_fixed_names;
    }
    ["ens", "enp", "eno", "enx"].iter().any(|start| name.starts_with(start))
}

/// Returns the keys and values of a section, whose name may be in either case.
fn in_section<'t>(text: &'t str, section: &'t str) -> impl Iterator<Item = (&'t str, &'t str)> {
    let here = entries(text).filter(move |(name, ..)| name.eq_ignore_ascii_case(section));
    here.map(|(_, key, value)| (key, value))
}

/// Returns the names that a netplan file configures under `ethernets`, unless they only name a match.
fn netplan_cards(text: &str) -> Vec<String> {
    let mut cards = Vec::new();
    let mut block: Option<usize> = None;
    let mut card: Option<usize> = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line == "ethernets:" {
            (block, card) = (Some(indent), None);
            continue;
        }
        let Some(start) = block else { continue };
        if indent <= start {
            block = None;
        } else if card.is_none_or(|card| indent <= card) {
            card = Some(indent);
            cards.extend(line.strip_suffix(':').map(|name| name.trim_matches(['"', '\'']).to_owned()));
        } else if line.starts_with("match:") {
            // Then the name is only a label.
            cards.pop();
        }
    }
    cards
}

/// Returns true if a netplan file only asks for an address by DHCP, for one card.
fn plain_dhcp(text: &str) -> bool {
    let special = [
        "addresses",
        "routes",
        "gateway4",
        "nameservers",
        "bonds",
        "bridges",
        "vlans",
        "wifis",
        "renderer: NetworkManager",
    ];
    text.contains("dhcp4: true")
        && !special.iter().any(|word| text.contains(word))
        && text.matches("dhcp4:").count() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_cards_are_found_in_netplan_unless_they_are_labels() {
        let text = "network:\n  version: 2\n  ethernets:\n    ens3:\n      dhcp4: true\n    any:\n      match:\n        name: e*\n      dhcp4: true\n  bridges:\n    br0: {}\n";
        assert_eq!(netplan_cards(text), ["ens3"]);
        assert!(is_foreign("ens3", false) && !is_foreign("e*", false) && !is_foreign("lo", false));
        assert!(is_foreign("eth0", false) && !is_foreign("eth0", true));
        assert!(plain_dhcp("x:\n dhcp4: true\n") && !plain_dhcp("dhcp4: true\naddresses: [1.2.3.4/8]"));
    }

    #[test]
    fn a_section_has_its_keys_only() {
        let text = "[Match]\nName=ens3\n#MACAddress=1\n[Network]\nDHCP=yes\n";
        assert_eq!(in_section(text, "match").collect::<Vec<_>>(), [("Name", "ens3")]);
    }
}
