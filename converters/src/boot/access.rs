//! How users reach a machine that boots: its console, and what cloud-init fetches for them.

use super::booting::Booting;
use super::finding::{Findings, Subject};
use super::look::Look;
use super::machine::Hardware;
use crate::tree::mounts::Root;

/// Judges the console and cloud-init.
pub(super) fn judge(
    look: &Look<'_>,
    root: &Root,
    booting: Option<&Booting>,
    hardware: &Hardware,
    findings: &mut Findings,
) {
    if let Some(booting) = booting {
        console(booting, hardware, findings);
    }
    if !hardware.datasources.is_empty() {
        cloud_init(look, root, hardware, findings);
    }
}

fn console(booting: &Booting, hardware: &Hardware, findings: &mut Findings) {
    let place = "the command line";
    let consoles: Vec<&str> = booting.arguments("console").collect();
    let serial = consoles.iter().find(|it| ["ttyS", "ttyAMA", "hvc"].iter().any(|port| it.starts_with(port)));
    match serial {
        Some(port) => _ = findings.good(Subject::Console, place, format!("messages go to {port}")),
        None if hardware.serial => {
            findings
                .bad(
                    Subject::Console,
                    place,
                    "messages do not go to the serial port, where this target shows them",
                )
                .advise("Add console=ttyS0 to the kernel's command line")
                .mend("kernel-arg", &[("arg", "console=ttyS0".into())]);
        }
        None => _ = findings.good(Subject::Console, place, "messages go to the screen"),
    }
}

fn cloud_init(look: &Look<'_>, root: &Root, hardware: &Hardware, findings: &mut Findings) {
    let config = "/etc/cloud/cloud.cfg";
    let Some(main) = look.root_text(root, config) else {
        let place = "/etc/cloud";
        let agents =
            ["/usr/sbin/waagent", "/usr/bin/google_guest_agent", "/usr/bin/ignition", "/usr/lib/ignition"];
        match agents.iter().find(|path| look.in_root(root, path).is_some()) {
            Some(agent) => {
                _ = findings.good(Subject::CloudInit, place, format!("there is no cloud-init, but {agent}"))
            }
            None => {
                findings
                    .unknown(
                        Subject::CloudInit,
                        place,
                        "there is no cloud-init, so nothing fetches the keys of users from the target",
                    )
                    .advise("Install it, or put keys into the image with `mif customize --ssh-key`");
            }
        }
        return;
    };
    let folder = "/etc/cloud/cloud.cfg.d";
    let mut place = config.to_owned();
    let mut sources = list(&main);
    for name in look.root_list(root, folder).into_iter().filter(|name| name.ends_with(".cfg")) {
        let path = format!("{folder}/{name}");
        if let Some(found) = look.root_text(root, &path).and_then(|text| list(&text)) {
            (sources, place) = (Some(found), path);
        }
    }
    let wanted = hardware.datasources;
    match sources {
        None => _ = findings.good(Subject::CloudInit, place, "it asks every data source, as no list is set"),
        Some(found) if found.iter().any(|it| wanted.iter().any(|wanted| it.eq_ignore_ascii_case(wanted))) => {
            findings.good(
                Subject::CloudInit,
                place,
                format!("its data sources include one of the target's: {}", found.join(", ")),
            );
        }
        Some(found) => {
            let reason = format!(
                "its data sources are {}, and the target has {}",
                found.join(", "),
                wanted.join(" or ")
            );
            let content = format!("datasource_list: [ {}, None ]\n", wanted.join(", "));
            findings
                .bad(Subject::CloudInit, place, reason)
                .advise(format!("Add {} to datasource_list", wanted[0]))
                .mend(
                    "write",
                    &[
                        ("path", format!("{folder}/99_mif_datasources.cfg").into()),
                        ("content", content.into()),
                    ],
                );
        }
    }
}

/// Returns the value of `datasource_list` in a file of YAML: in brackets, or a line for each.
fn list(text: &str) -> Option<Vec<String>> {
    let mut found = None;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(value) = line.strip_prefix("datasource_list:") else { continue };
        let clean = |item: &str| {
            item.split('#').next().unwrap_or_default().trim().trim_matches(['"', '\'', ',']).trim().to_owned()
        };
        let mut value = value.split('#').next().unwrap_or_default().trim().to_owned();
        let mut items: Vec<String> = Vec::new();
        if value.starts_with('[') {
            while !value.contains(']') {
                let Some(next) = lines.next() else { break };
                value += clean(next).as_str();
                value.push(',');
            }
            items.extend(value.trim_matches(['[', ',', ' ']).split([',', ']']).map(clean));
        } else {
            while let Some(item) =
                lines.next_if(|line| line.trim_start().starts_with("- ") || line.trim().is_empty())
            {
                items.extend(item.trim_start().strip_prefix("- ").map(clean));
            }
        }
        items.retain(|item| !item.is_empty());
        found = Some(items);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_data_sources_is_read_in_both_forms_of_yaml() {
        let expected = Some(vec!["Ec2".to_owned(), "None".to_owned()]);
        assert_eq!(list("a: 1\ndatasource_list: [ Ec2, 'None' ] # x\n"), expected);
        assert_eq!(list("datasource_list:\n  - Ec2\n  - None\nb: 2\n"), expected);
        assert_eq!(list("datasource_list: [\n  Ec2,\n  None,\n]\n"), expected);
        assert_eq!(list("#datasource_list: [ x ]\n"), None);
    }
}
