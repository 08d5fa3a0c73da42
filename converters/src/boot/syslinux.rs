//! The configuration of SYSLINUX and EXTLINUX (its documentation, "Config"), as Alpine and embedded systems have it.

use super::booting::{Booting, part};
use super::finding::{Findings, Subject};
use super::look::Look;

/// The configuration files, in the order in which they are looked for.
const FILES: &[&str] = &[
    "/boot/extlinux/extlinux.conf",
    "/boot/extlinux.conf",
    "/extlinux/extlinux.conf",
    "/extlinux.conf",
    "/boot/syslinux/syslinux.cfg",
    "/syslinux/syslinux.cfg",
    "/syslinux.cfg",
];

/// An entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Label {
    name: String,
    kernel: Option<String>,
    initrd: Vec<String>,
    append: Option<String>,
}

/// A configuration.
#[derive(Debug, Default)]
struct Config {
    default: Option<String>,
    labels: Vec<Label>,
    /// The arguments of entries without their own.
    append: Option<String>,
    includes: bool,
}

impl Config {
    fn parse(text: &str) -> Self {
        let mut config = Config::default();
        let mut menu_default = None;
        for line in text.lines() {
            let line = line.trim();
            let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let value = value.trim();
            match (&key.to_ascii_lowercase()[..], config.labels.last_mut()) {
                ("default" | "ontimeout", _) => config.default = Some(value.to_owned()),
                ("label", _) => config.labels.push(Label { name: value.to_owned(), ..Label::default() }),
                ("include" | "config", _) => config.includes = true,
                ("menu", Some(label)) if value.eq_ignore_ascii_case("default") => {
                    menu_default = Some(label.name.clone());
                }
                ("kernel" | "linux", Some(label)) => label.kernel = Some(value.to_owned()),
                ("initrd", Some(label)) => {
                    label.initrd = value.split(',').map(|it| it.trim().to_owned()).collect()
                }
                ("append", Some(label)) => label.append = Some(value.to_owned()),
                ("append", None) => config.append = Some(value.to_owned()),
                _ => {}
            }
        }
        // A menu is a module that is the default itself, and boots the entry that it marks, or else the first.
        let is_menu =
            config.default.as_ref().is_none_or(|name| name.ends_with(".c32") || name.contains(".c32 "));
        if let Some(name) = menu_default {
            config.default = Some(name);
        } else if is_menu {
            config.default = config.labels.first().map(|label| label.name.clone());
        }
        config
    }
}

/// Finds what SYSLINUX on a volume boots.
pub(super) fn boots(look: &Look<'_>, volume: &str, findings: &mut Findings) -> Option<Booting> {
    let Some((path, text)) = FILES.iter().find_map(|path| Some((*path, look.text(volume, path)?))) else {
        findings
            .bad(Subject::Loader, format!("{volume}:{}", FILES[0]), "SYSLINUX has no configuration")
            .advise("Run update-extlinux in the image");
        return None;
    };
    let place = format!("{volume}:{path}");
    let config = Config::parse(&text);
    if config.includes {
        findings.unknown(Subject::Loader, place, "it includes other files, which mif does not follow");
        return None;
    }
    let wanted = config.default.as_deref().unwrap_or_default();
    let Some(label) = config.labels.iter().find(|label| label.name == wanted) else {
        findings
            .bad(Subject::Loader, place, format!("its default \"{wanted}\" is none of its entries"))
            .advise("Run update-extlinux in the image");
        return None;
    };
    let append = label.append.as_ref().or(config.append.as_ref()).cloned().unwrap_or_default();
    let mut initrds = label.initrd.clone();
    // The last one counts, in an argument too.
    if let Some(value) = append.split_whitespace().filter_map(|word| word.strip_prefix("initrd=")).next_back()
        && initrds.is_empty()
    {
        initrds = value.split(',').map(str::to_owned).collect();
    }
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let Some(kernel) = &label.kernel else {
        findings.bad(Subject::Loader, place, format!("the entry \"{wanted}\" names no kernel"));
        return None;
    };
    let mut parts = Vec::new();
    for name in [kernel].into_iter().chain(&initrds) {
        let full = if name.starts_with('/') { name.clone() } else { format!("{folder}/{name}") };
        let Some(row) = look.file(volume, &full) else {
            findings
                .bad(
                    Subject::Loader,
                    place,
                    format!("the entry \"{wanted}\" names {full}, which is not there"),
                )
                .advise("Run update-extlinux in the image");
            return None;
        };
        parts.push(part(look, row, findings)?);
    }
    let mut parts = parts.into_iter();
    let kernel = parts.next()?;
    findings.good(Subject::Loader, place, format!("the entry \"{wanted}\" loads {}", kernel.place));
    Some(Booting { kernel, initrds: parts.collect(), command_line: append })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALPINE: &str = "# Generated by update-extlinux 6.04_pre1-r11\nDEFAULT menu.c32\nPROMPT 0\nMENU TITLE Alpine/Linux Boot Menu\nTIMEOUT 30\nLABEL virt\n  MENU DEFAULT\n  MENU LABEL Linux virt\n  LINUX vmlinuz-virt\n  INITRD initramfs-virt\n  APPEND root=UUID=1 modules=sd-mod,ext4 quiet rootfstype=ext4\n\nMENU SEPARATOR\n";

    #[test]
    fn the_default_of_a_menu_is_the_entry_that_it_marks_or_the_first() {
        let config = Config::parse(ALPINE);
        assert_eq!(config.default.as_deref(), Some("virt"));
        let label = &config.labels[0];
        assert_eq!(
            (label.kernel.as_deref(), &label.initrd[..]),
            (Some("vmlinuz-virt"), &["initramfs-virt".to_owned()][..])
        );
        assert!(label.append.as_ref().unwrap().starts_with("root=UUID=1"));
        let two = "DEFAULT b\nLABEL a\nKERNEL x\nLABEL b\nLINUX y\nAPPEND initrd=z q\n";
        assert_eq!(Config::parse(two).default.as_deref(), Some("b"));
        assert_eq!(Config::parse("LABEL a\nLABEL b\n").default.as_deref(), Some("a"));
    }
}
