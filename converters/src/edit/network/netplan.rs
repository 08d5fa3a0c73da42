//! netplan(5): writes a definition to its own file. netplan merges the lists of all files, so the interface's addresses
//! are removed from the other files.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::yaml::Yaml;
use super::{Network, pattern};
use crate::edit::primitive::Edit;
use crate::error::{Error, Result};
use crate::tree::edit::Files;

const ETC: &str = "/etc/netplan";
/// The directories of its files. A file hides those of the same name in later directories.
const FOLDERS: [&str; 3] = [ETC, "/usr/lib/netplan", "/lib/netplan"];
/// The kinds of definitions.
const SECTIONS: [&str; 10] = [
    "ethernets",
    "wifis",
    "bonds",
    "bridges",
    "vlans",
    "dummy-devices",
    "virtual-ethernets",
    "tunnels",
    "vrfs",
    "modems",
];
/// The keys of a definition that are about addresses or about configuration at boot.
const ADDRESS_KEYS: [&str; 14] = [
    "addresses",
    "gateway4",
    "gateway6",
    "routes",
    "routing-policy",
    "nameservers",
    "dhcp4",
    "dhcp6",
    "dhcp4-overrides",
    "dhcp6-overrides",
    "dhcp-identifier",
    "ipv6-address-generation",
    "ipv6-address-token",
    "activation-mode",
];

/// A netplan file.
struct File {
    name: String,
    text: String,
    yaml: Yaml,
    changed: bool,
}

/// A definition merged from all files.
#[derive(Debug, Default, Clone)]
struct Facts {
    has_match: bool,
    /// True if it matches by something besides the name.
    by_more: bool,
    names: Vec<String>,
    set_name: Option<String>,
    by_network_manager: bool,
}

/// The relation between a definition and an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kinship {
    /// It applies to the interface by name.
    Direct,
    /// It applies to the interface if hardware with a certain address or of a certain kind exists.
    Matched,
    /// It may apply to the interface and to others.
    Possible,
    Stranger,
}

impl Facts {
    fn kinship(&self, id: &str, interface: &str) -> Kinship {
        let is_name = |name: &String| name == interface;
        if !self.has_match {
            return if id == interface { Kinship::Direct } else { Kinship::Stranger };
        }
        if !self.by_more && self.names.iter().all(is_name) && !self.names.is_empty() {
            return Kinship::Direct;
        }
        if id == interface || self.set_name.as_deref() == Some(interface) || self.names.iter().any(is_name) {
            return Kinship::Matched;
        }
        let fits = |name: &String| pattern(name).is_none_or(|pattern| pattern.matches(interface));
        if self.names.is_empty() || self.names.iter().any(fits) {
            Kinship::Possible
        } else {
            Kinship::Stranger
        }
    }
}

/// Configures an interface.
pub(super) fn configure(files: &Files, network: &Network) -> Result<Vec<Edit>> {
    let interface = &network.interface;
    let own = format!("90-mif-{interface}.yaml");
    let mut found = read(files, &own)?;
    let mut facts: BTreeMap<(String, String), Facts> = BTreeMap::new();
    for file in &found {
        let Some(root) = file.yaml.get("network") else { continue };
        let is_nm = |yaml: &Yaml| yaml.get("renderer").is_some_and(|r| r.texts() == ["NetworkManager"]);
        for section in SECTIONS {
            for (id, definition) in root.get(section).map(Yaml::entries).unwrap_or_default() {
                let facts = facts.entry((section.to_owned(), id.clone())).or_default();
                facts.by_network_manager |= is_nm(definition) || is_nm(root);
                if let Some(matches) = definition.get("match") {
                    facts.has_match = true;
                    facts.by_more |= matches.entries().iter().any(|(key, _)| key != "name");
                    let names = matches.get("name").map(Yaml::texts).unwrap_or_default();
                    facts.names.extend(names.into_iter().map(str::to_owned));
                }
                if let Some(name) = definition.get("set-name") {
                    facts.set_name = name.texts().first().map(|name| (*name).to_owned());
                }
            }
        }
    }
    let kin: BTreeMap<&(String, String), Kinship> =
        facts.iter().map(|(key, facts)| (key, facts.kinship(&key.1, interface))).collect();
    for file in &mut found {
        let Some(root) = file.yaml.get_mut("network") else { continue };
        for ((section, id), kinship) in &kin {
            if !matches!(kinship, Kinship::Direct | Kinship::Matched) {
                continue;
            }
            let Some(section_map) = root.get_mut(section) else { continue };
            let by_nm = facts[&(section.clone(), id.clone())].by_network_manager;
            // NetworkManager would choose between this one and the new one by rules of its own.
            file.changed |= if *kinship == Kinship::Matched && by_nm {
                section_map.remove(|known| known == id)
            } else {
                let definition = section_map.get_mut(id);
                definition.is_some_and(|definition| definition.remove(|key| ADDRESS_KEYS.contains(&key)))
            };
        }
    }
    let direct = kin.iter().find(|(_, kinship)| **kinship == Kinship::Direct).map(|(key, _)| *key);
    let rivals = kin.values().any(|kinship| matches!(kinship, Kinship::Matched | Kinship::Possible));
    let text = match direct {
        Some((section, id)) if !rivals || section != "ethernets" => text(network, section, id, false),
        None if !rivals => text(network, "ethernets", interface, false),
        // If several match, systemd-networkd uses the first by name.
        _ => text(network, "ethernets", &format!("00-mif-{interface}"), true),
    };
    let mut edits = vec![Edit::folder(ETC)];
    for file in found.into_iter().filter(|file| file.changed) {
        edits.push(Edit::file(format!("{ETC}/{}", file.name), written(&file.yaml, &file.text), 0o600));
    }
    edits.push(Edit::file(format!("{ETC}/{own}"), text, 0o600));
    Ok(edits)
}

/// Returns the file without matches by MAC address. An interface that was matched and renamed by its address is matched
/// by its name instead. Returns `None` if there is nothing to change, or the file cannot be parsed.
pub(in crate::edit) fn without_macs(text: &str) -> Option<String> {
    let mut yaml = Yaml::parse(text).ok()?;
    let root = yaml.get_mut("network")?;
    let mut changed = false;
    for section in SECTIONS {
        let Some(Yaml::Map(definitions)) = root.get_mut(section) else { continue };
        for (_, definition) in definitions {
            let Some(matches) = definition.get_mut("match") else { continue };
            if !matches.remove(|key| key == "macaddress") {
                continue;
            }
            changed = true;
            let is_empty = matches.entries().is_empty();
            let name = definition.get("set-name").cloned();
            match (is_empty, name) {
                (true, Some(name)) => {
                    definition.remove(|key| key == "set-name");
                    if let Some(matches) = definition.get_mut("match") {
                        *matches = Yaml::Map(vec![("name".to_owned(), name)]);
                    }
                }
                (true, None) => _ = definition.remove(|key| key == "match"),
                _ => {}
            }
        }
    }
    changed.then(|| written(&yaml, text))
}

/// Formats a changed file, with the comments from its beginning.
fn written(yaml: &Yaml, before: &str) -> String {
    let comments =
        before.split_inclusive('\n').take_while(|line| line.starts_with('#') || line.trim().is_empty());
    comments.collect::<String>() + &yaml.write()
}

/// Reads the files that netplan reads, except `own`.
fn read(files: &Files, own: &str) -> Result<Vec<File>> {
    let mut found: BTreeMap<String, File> = BTreeMap::new();
    for folder in FOLDERS {
        for (name, _) in files.list(folder) {
            let path = format!("{folder}/{name}");
            if !name.ends_with(".yaml") || name == own || found.contains_key(&name) || !files.is_file(&path) {
                continue;
            }
            let text = files.editable(&path)?;
            let yaml = Yaml::parse(&text).map_err(|problem| {
                Error::unsupported(format!(
                    "{path}: {problem}, so mif cannot tell how it configures the interface"
                ))
                .advise("Replace or delete that file first, with an edit before this one")
            })?;
            found.insert(name.clone(), File { name, text, yaml, changed: false });
        }
    }
    Ok(found.into_values().collect())
}

/// Returns the text of the definition.
fn text(network: &Network, section: &str, id: &str, with_match: bool) -> String {
    let mut out = format!("network:\n  version: 2\n  {section}:\n    \"{id}\":\n");
    if with_match {
        let _ = writeln!(out, "      match:\n        name: \"{}\"", network.interface);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_by_mac_address_goes_and_the_name_stays() {
        let text = "# of the installer\nnetwork:\n  version: 2\n  ethernets:\n    id0:\n      match: {macaddress: \"52:54:00:11:22:33\"}\n      set-name: lan0\n      dhcp4: true\n    \
            eth1:\n      match:\n        macaddress: aa:bb:cc:dd:ee:ff\n      dhcp4: true\n    eth2: {match: {name: eth2}}\n";
        let expected = "# of the installer\nnetwork:\n  version: 2\n  ethernets:\n    id0:\n      match:\n        name: lan0\n      dhcp4: true\n    \
            eth1:\n      dhcp4: true\n    eth2:\n      match:\n        name: eth2\n";
        assert_eq!(without_macs(text).as_deref(), Some(expected));
        assert_eq!(without_macs(expected), None);
    }

    #[test]
    fn a_definition_is_known_by_what_all_files_say_of_it() {
        let facts = |names: &[&str], by_more: bool, set_name: Option<&str>| Facts {
            has_match: true,
            by_more,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            set_name: set_name.map(str::to_owned),
            by_network_manager: false,
        };
        let none = Facts::default();
        assert_eq!(none.kinship("eth0", "eth0"), Kinship::Direct);
        assert_eq!(none.kinship("eth1", "eth0"), Kinship::Stranger);
        assert_eq!(facts(&["eth0"], false, None).kinship("lan", "eth0"), Kinship::Direct);
        assert_eq!(facts(&[], true, None).kinship("eth0", "eth0"), Kinship::Matched);
        assert_eq!(facts(&[], true, Some("eth0")).kinship("id0", "eth0"), Kinship::Matched);
        assert_eq!(facts(&["en*"], false, None).kinship("all", "ens3"), Kinship::Possible);
        assert_eq!(facts(&["en*"], false, None).kinship("all", "eth0"), Kinship::Stranger);
        assert_eq!(facts(&[], true, None).kinship("id0", "eth0"), Kinship::Possible);
    }
}
