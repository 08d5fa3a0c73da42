//! The requested address is the only one that an image's files give its interface: checked with ifquery, and with the
//! files that netplan's generator writes for systemd-networkd.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mif_tests::guest::Guest;
use mif_tests::{cache, have_at, is_root, run, skip, tool};

/// Returns the path of a tool that `fixtures/network-tools.sh` has unpacked.
fn unpacked(path: &str) -> Option<PathBuf> {
    if !have_at(&cache().join("network-tools")) {
        return None;
    }
    let find =
        tool("find").arg(cache().join("network-tools")).args(["-path", path, "-type", "f"]).output().ok()?;
    let found = String::from_utf8_lossy(&find.stdout).lines().next().map(PathBuf::from);
    if found.is_none() && !skip(&format!("{path} is not unpacked: fixtures/network-tools.sh")) {
        return None;
    }
    found
}

/// Names and texts of files.
type Files<'a> = &'a [(&'a str, &'a str)];

const STATIC: &str = "192.0.2.10/24,gateway=192.0.2.1,dns=9.9.9.9";

/// Copies ifupdown, and the libraries that it needs, into a tree.
fn add_ifupdown(tree: &Path, ifup: &Path) {
    fs::create_dir_all(tree.join("sbin")).unwrap();
    fs::copy(ifup, tree.join("sbin/ifup")).unwrap();
    fs::set_permissions(tree.join("sbin/ifup"), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("ifup", tree.join("sbin/ifquery")).unwrap();
    for library in run(tool("ldd").arg(ifup)).split_whitespace().filter(|word| word.starts_with('/')) {
        let to = tree.join(&library[1..]);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(library, to).unwrap();
    }
}

#[test]
fn ifupdown_gives_the_interface_its_new_address_whatever_its_files_read() {
    if !is_root() {
        return;
    }
    let Some(ifup) = unpacked("*/sbin/ifup").or_else(|| unpacked("*bin/ifup")) else { return };
    const LO: &str = "auto lo\niface lo inet loopback\n";
    const DHCP: &str = "auto eth0\niface eth0 inet dhcp\n";
    let old = "auto eth0\niface eth0 inet static\n  address 10.0.0.5/24\n  gateway 10.0.0.1\niface eth0 inet6 auto\n";
    let alias = "auto eth0:1\niface eth0:1 inet static\n  address 10.0.0.6/24\n";
    let split = "auto lo \\\n  eth0\niface eth0 \\\n  inet static\n  address \\\n  10.0.0.5/24\niface lo inet loopback";
    let cases: [(&str, &str, Files<'_>); 10] = [
        ("all files", "source /etc/network/interfaces.d/*\n", &[("interfaces.d/eth0", DHCP)]),
        ("*.cfg", "source /etc/network/interfaces.d/*.cfg\n", &[("interfaces.d/eth0.cfg", DHCP)]),
        (
            "a directory",
            "source-directory /etc/network/interfaces.d\n",
            &[("interfaces.d/eth0", old), ("interfaces.d/not.read", "iface x y")],
        ),
        ("a relative path", "source interfaces.d/*\n", &[("interfaces.d/50-cloud-init", old)]),
        ("one other file", "source /etc/network/interfaces.d/eth1\n", &[]),
        (
            "files that read files",
            "source /etc/network/a\n",
            &[("a", "source /etc/network/b*\n"), ("b1", old)],
        ),
        (
            "an alias",
            "source /etc/network/interfaces.d/*\n",
            &[("interfaces.d/eth0", old), ("interfaces.d/alias", alias)],
        ),
        ("the main file alone", old, &[]),
        ("lines that go on", split, &[]),
        ("a file that reads itself", "source /etc/network/interfaces\n", &[]),
    ];
    for (what, main, others) in cases {
        for interface in ["eth0", "eth0.5"] {
            let main = format!("{LO}{main}");
            let paths: Vec<String> = others.iter().map(|(name, _)| format!("etc/network/{name}")).collect();
            let mut files = vec![("etc/network/interfaces", main.as_str()), ("run/network/.keep", "")];
            files.extend(paths.iter().zip(others).map(|(path, (_, text))| (path.as_str(), *text)));
            let Some(guest) = Guest::with(&files, |tree| add_ifupdown(tree, &ifup)) else { return };
            guest.edit(&["--network", &format!("{interface}:{STATIC}")]);
            let out = guest.extract("new");
            let ifquery = |words: &[&str]| run(tool("chroot").arg(&out).arg("/sbin/ifquery").args(words));
            let said = ifquery(&[interface]);
            let addresses: Vec<&str> = said.lines().filter(|line| line.starts_with("address")).collect();
            assert_eq!(addresses.len(), 1, "{what}, {interface}: {said}");
            assert!(addresses[0].contains("192.0.2.10"), "{what}, {interface}: {said}");
            assert!(said.contains("gateway: 192.0.2.1\n"), "{what}, {interface}: {said}");
            assert!(ifquery(&["--list"]).lines().any(|line| line == interface), "{what}, {interface}");
            let all = fs::read_to_string(out.join("etc/network/interfaces")).unwrap();
            assert!(all.contains("iface lo inet loopback"), "{what}: {all}");
            if interface == "eth0" {
                let aliases = tool("chroot").arg(&out).args(["/sbin/ifquery", "eth0:1"]).output().unwrap();
                assert!(!aliases.status.success(), "{what}: an alias has another address");
            }
        }
    }
}

/// A file of systemd-networkd: its name and its text.
struct NetworkFile {
    name: String,
    text: String,
}

impl NetworkFile {
    fn values(&self, key: &str) -> Vec<&str> {
        self.text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
    }
}

/// Returns the file that systemd-networkd uses for an interface with this name and address: the first match.
fn first_for(folder: &Path, interface: &str, mac: &str) -> NetworkFile {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    for name in names.into_iter().filter(|name| name.ends_with(".network")) {
        let file = NetworkFile { text: fs::read_to_string(folder.join(&name)).unwrap(), name };
        let fits_name = |patterns: &str| {
            patterns.split_whitespace().any(|pattern| match pattern.strip_suffix('*') {
                Some(start) => interface.starts_with(start),
                None => pattern == interface,
            })
        };
        let by_name = file.values("Name");
        let by_mac = [file.values("MACAddress"), file.values("PermanentMACAddress")].concat();
        let is_empty = by_name.is_empty() && by_mac.is_empty();
        if !is_empty
            && by_name.iter().all(|p| fits_name(p))
            && by_mac.iter().all(|m| m.eq_ignore_ascii_case(mac))
        {
            return file;
        }
    }
    panic!("no file fits {interface}");
}

#[test]
fn netplan_gives_the_interface_its_new_address_only_whatever_its_files_say() {
    let Some(generate) = unpacked("*netplan/generate") else { return };
    let libraries =
        run(tool("find").arg(cache().join("network-tools")).args(["-name", "*.so.*", "-printf", "%h:"]));
    const MAC: &str = "52:54:00:11:22:33";
    let old = "addresses: [10.0.0.5/24]\n      nameservers: {addresses: [10.0.0.1]}\n      routes: [{to: default, via: 10.0.0.1}]\n";
    let ethernets = |text: &str| format!("# by hand\nnetwork:\n  version: 2\n  ethernets:\n{text}");
    let plain = ethernets(&format!("    eth0:\n      {old}    eth1: {{dhcp4: true}}\n"));
    let cases: Vec<(&str, Vec<(&str, String)>)> = vec![
        ("lists in another file", vec![("50-cloud-init.yaml", plain.clone())]),
        ("a later file", vec![("99-z.yaml", plain.clone())]),
        (
            "two files",
            vec![
                ("10-a.yaml", plain.clone()),
                ("95-b.yaml", ethernets("    eth0: {dhcp4: true, mtu: 1400}\n")),
            ],
        ),
        (
            "flow style",
            vec![(
                "a.yaml",
                "network: {version: 2, ethernets: {eth0: {dhcp4: true, addresses: [10.0.0.5/24]}}}\n".into(),
            )],
        ),
        (
            "a match by MAC address",
            vec![(
                "50-cloud-init.yaml",
                ethernets(&format!(
                    "    eth0:\n      match: {{macaddress: \"{MAC}\"}}\n      set-name: eth0\n      {old}"
                )),
            )],
        ),
        (
            "another definition of the card",
            vec![(
                "a.yaml",
                ethernets(&format!(
                    "    aaa:\n      match:\n        macaddress: {MAC}\n      set-name: eth0\n      {old}"
                )),
            )],
        ),
        (
            "a definition by MAC address alone",
            vec![(
                "a.yaml",
                ethernets(&format!("    aaa:\n      match: {{macaddress: \"{MAC}\"}}\n      {old}")),
            )],
        ),
        (
            "a definition by name",
            vec![("a.yaml", ethernets(&format!("    zzz:\n      match: {{name: eth0}}\n      {old}")))],
        ),
        (
            "a definition of many",
            vec![("a.yaml", ethernets("    all:\n      match: {name: \"eth*\"}\n      dhcp4: true\n"))],
        ),
        (
            "old gateways",
            vec![("a.yaml", ethernets("    eth0: {addresses: [10.0.0.5/24], gateway4: 10.0.0.1}\n"))],
        ),
        ("nothing", vec![]),
    ];
    for (what, yaml) in cases {
        let paths: Vec<String> = yaml.iter().map(|(name, _)| format!("etc/netplan/{name}")).collect();
        let mut files = vec![("usr/sbin/netplan", "#!\n")];
        files.extend(paths.iter().zip(&yaml).map(|(path, (_, text))| (path.as_str(), text.as_str())));
        let change = |tree: &Path| {
            for path in &paths {
                fs::set_permissions(tree.join(path), fs::Permissions::from_mode(0o600)).unwrap();
            }
        };
        let Some(guest) = Guest::with(&files, change) else { return };
        let generated = |image: &str| {
            let out = guest.extract(image);
            run(tool(&generate).arg("--root-dir").arg(&out).env("LD_LIBRARY_PATH", &libraries));
            [MAC, "00:00:00:00:00:01"].map(|mac| first_for(&out.join("run/systemd/network"), "eth0", mac))
        };
        guest.edit(&["--network", &format!("eth0:{STATIC}")]);
        for file in generated("new") {
            let text = format!("{what}, {}: {}", file.name, file.text);
            assert_eq!(file.values("Address"), ["192.0.2.10/24"], "{text}");
            assert_eq!(file.values("Gateway"), ["192.0.2.1"], "{text}");
            assert_eq!(file.values("DNS"), ["9.9.9.9"], "{text}");
            assert!(file.values("DHCP").is_empty(), "{text}");
        }
        guest.edit_as("new", "dhcp", &["--network", "eth0:dhcp"]);
        for file in generated("dhcp") {
            let text = format!("{what}, {}: {}", file.name, file.text);
            assert!(file.values("Address").is_empty() && file.values("Gateway").is_empty(), "{text}");
            assert!(matches!(file.values("DHCP")[..], ["ipv4" | "yes"]), "{text}");
        }
    }
}

#[test]
fn netplan_keeps_a_bridge_and_its_ports_and_other_interfaces() {
    let Some(generate) = unpacked("*netplan/generate") else { return };
    let libraries =
        run(tool("find").arg(cache().join("network-tools")).args(["-name", "*.so.*", "-printf", "%h:"]));
    let text = "network:\n  version: 2\n  ethernets:\n    eth0: {}\n    eth1: {addresses: [10.0.1.5/24]}\n  bridges:\n    br0:\n      \
        interfaces: [eth0]\n      addresses: [10.0.0.5/24]\n      parameters: {stp: false}\n";
    let Some(guest) = Guest::new(&[("usr/sbin/netplan", "#!\n"), ("etc/netplan/a.yaml", text)]) else {
        return;
    };
    guest.edit(&["--network", &format!("br0:{STATIC}")]);
    let out = guest.extract("new");
    run(tool(&generate).arg("--root-dir").arg(&out).env("LD_LIBRARY_PATH", &libraries));
    let folder = out.join("run/systemd/network");
    assert_eq!(first_for(&folder, "br0", "").values("Address"), ["192.0.2.10/24"]);
    assert_eq!(first_for(&folder, "eth0", "").values("Bridge"), ["br0"]);
    assert_eq!(first_for(&folder, "eth1", "").values("Address"), ["10.0.1.5/24"]);
    let Some(guest) = Guest::new(&[("usr/sbin/netplan", "#!\n"), ("etc/netplan/a.yaml", "a: &x 1\nb: *x\n")])
    else {
        return;
    };
    let error = guest.refuses(&["--network", &format!("eth0:{STATIC}")], 4);
    assert!(error.contains("/etc/netplan/a.yaml") && error.contains("anchor"), "{error}");
}

#[test]
fn the_file_for_networkd_is_the_first_that_fits() {
    for (other, folder) in [
        ("10-eth0.network", "etc/systemd/network"),
        ("00-eth0.network", "etc/systemd/network"),
        ("05-cloud-init-eth0.network", "usr/lib/systemd/network"),
        ("0-a.network", "usr/lib/systemd/network"),
    ] {
        let path = format!("{folder}/{other}");
        let files = [
            ("usr/lib/systemd/systemd-networkd", "x"),
            ("usr/lib/systemd/system/systemd-networkd.service", "[Install]\nWantedBy=multi-user.target\n"),
            (path.as_str(), "[Match]\nName=eth*\n[Network]\nAddress=10.0.0.5/24\n"),
        ];
        let Some(guest) = Guest::new(&files) else { return };
        guest.edit(&["--network", &format!("eth0:{STATIC}")]);
        let out = guest.extract("new");
        let all = out.join("all");
        fs::create_dir(&all).unwrap();
        for folder in ["usr/lib/systemd/network", "etc/systemd/network"] {
            for entry in fs::read_dir(out.join(folder)).into_iter().flatten() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), all.join(entry.file_name())).unwrap();
            }
        }
        assert_eq!(first_for(&all, "eth0", "").values("Address"), ["192.0.2.10/24"], "{other}");
        assert_eq!(first_for(&all, "eth1", "").values("Address"), ["10.0.0.5/24"], "{other}");
    }
}

#[test]
fn other_connections_of_network_manager_are_not_made_by_themselves() {
    let files = [
        ("usr/sbin/NetworkManager", "x"),
        ("usr/lib/systemd/system/NetworkManager.service", "[Install]\nWantedBy=multi-user.target\n"),
        (
            "etc/NetworkManager/system-connections/eth0.nmconnection",
            "[connection]\nid=a\ninterface-name=eth0\nautoconnect-priority=999\n[ipv4]\nmethod=manual\naddress1=10.0.0.5/24\n",
        ),
        ("etc/NetworkManager/system-connections/any", "[connection]\nid=any\nautoconnect-priority=500\n"),
        (
            "etc/NetworkManager/system-connections/eth1.nmconnection",
            "[connection]\nid=b\ninterface-name=eth1\n",
        ),
        ("etc/sysconfig/network-scripts/ifcfg-eth0", "DEVICE=eth0\nONBOOT=yes\nIPADDR=10.0.0.6\n"),
    ];
    let Some(guest) = Guest::new(&files) else { return };
    guest.edit(&["--enable=NetworkManager", &format!("--network=eth0:{STATIC}")]);
    let cat = |path: &str| guest.cat("new", path);
    let folder = "/etc/NetworkManager/system-connections";
    assert!(cat(&format!("{folder}/eth0.nmconnection")).contains("[connection]\nautoconnect=false\n"));
    assert!(!cat(&format!("{folder}/eth1.nmconnection")).contains("autoconnect"));
    assert!(cat(&format!("{folder}/mif-eth0.nmconnection")).contains("autoconnect-priority=501\n"));
    assert!(cat("/etc/sysconfig/network-scripts/ifcfg-eth0").ends_with("IPADDR=10.0.0.6\nONBOOT=no\n"));
}

#[test]
fn network_scripts_are_a_kind_of_their_own() {
    let folder = "etc/sysconfig/network-scripts";
    let names = ["network-functions", "ifcfg-eth0", "ifcfg-eth0:1", "ifcfg-lan", "ifcfg-eth1", "route-eth0"]
        .map(|n| format!("{folder}/{n}"));
    let texts = [
        "#\n",
        "DEVICE=eth0\nIPADDR=10.0.0.5\n",
        "DEVICE=eth0:1\nIPADDR=10.0.0.6\n",
        "DEVICE=\"eth0\"\nIPADDR=10.0.0.7\n",
        "DEVICE=eth1\n",
        "default via 10.0.0.1\n",
    ];
    let mut files: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(texts).collect();
    files.push(("usr/sbin/ifup", "#!\n"));
    let Some(guest) = Guest::new(&files) else { return };
    guest.edit(&["--network", &format!("eth0:{STATIC}")]);
    let own = guest.cat("new", "/etc/sysconfig/network-scripts/ifcfg-eth0");
    assert_eq!(
        own,
        "DEVICE=eth0\nTYPE=Ethernet\nONBOOT=yes\nBOOTPROTO=none\nIPADDR=192.0.2.10\nPREFIX=24\nGATEWAY=192.0.2.1\nDNS1=9.9.9.9\n"
    );
    for gone in ["ifcfg-eth0:1", "ifcfg-lan", "route-eth0"] {
        assert!(!guest.has("new", &format!("/{folder}/{gone}")), "{gone}");
    }
    assert!(
        guest.has("new", &format!("/{folder}/ifcfg-eth1")) && !guest.has("new", "/etc/network/interfaces")
    );
    let Some(guest) = Guest::new(&[("usr/sbin/wicked", "x"), ("sbin/ifup", "x")]) else { return };
    assert!(guest.refuses(&["--network", &format!("eth0:{STATIC}")], 4).contains("wicked"));
}
