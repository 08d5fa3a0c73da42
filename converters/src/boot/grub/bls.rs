//! Entries of the Boot Loader Specification (UAPI.1, "Type #1"), as GRUB's `blscfg` and systemd-boot read them.

use super::super::look::Look;
use crate::guest::versions::compare_versions;

/// The most entries.
const MAX_ENTRIES: usize = 512;

/// The longest entry that is read, in bytes.
const MAX_ENTRY: u64 = 64 << 10;

/// An entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name of its file, without `.conf`.
    pub(crate) id: String,
    pub(crate) title: Option<String>,
    pub(crate) version: Option<String>,
    /// The path of the kernel.
    pub(crate) linux: Option<String>,
    /// The path of a UEFI program.
    pub(crate) efi: Option<String>,
    /// The paths of the initramfs files.
    pub(crate) initrd: Vec<String>,
    /// The command line.
    pub(crate) options: Vec<String>,
    /// The users whose password GRUB asks for.
    pub(crate) users: Option<String>,
}

impl Entry {
    /// Parses the file of an entry.
    pub(crate) fn parse(id: &str, text: &str) -> Self {
        let mut entry = Entry { id: id.to_owned(), ..Entry::default() };
        for line in text.lines() {
            let line = line.trim();
            let Some((key, value)) = line.split_once(char::is_whitespace) else { continue };
            let value = value.trim().to_owned();
            match key {
                "title" => entry.title = Some(value),
                "version" => entry.version = Some(value),
                "linux" => entry.linux = Some(value),
                "efi" | "uki" => entry.efi = Some(value),
                "initrd" => entry.initrd.extend(value.split_whitespace().map(str::to_owned)),
                "options" => entry.options.push(value),
                // Fedora's variable is empty unless a password is set.
                "grub_users" if value != "$grub_users" => entry.users = Some(value),
                _ => {}
            }
        }
        entry
    }
}

/// Returns the entries in a directory of a volume, the one of the latest version first.
pub(crate) fn entries(look: &Look<'_>, volume: &str, folder: &str) -> Vec<Entry> {
    let names = look.list(volume, folder);
    let mut entries: Vec<Entry> = names
        .iter()
        .filter_map(|name| {
            let id = name.strip_suffix(".conf")?;
            let file = look.file(volume, &format!("{folder}/{name}"))?;
            let text = look.head(file, MAX_ENTRY).ok()?;
            Some(Entry::parse(id, &String::from_utf8_lossy(&text)))
        })
        .take(MAX_ENTRIES)
        .collect();
    // A count of attempts follows a plus sign.
    let key = |entry: &Entry| entry.id.split('+').next().unwrap_or_default().to_owned();
    entries.sort_by(|a, b| compare_versions("rpm", &key(b), &key(a)));
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_may_have_several_lines_of_options() {
        let text = "title Fedora\n# c\nversion 6.5\nlinux\t/vmlinuz\ninitrd /a.img /b.img $tuned_initrd\noptions root=x ro\noptions quiet\n";
        let entry = Entry::parse("id", text);
        assert_eq!(entry.initrd, ["/a.img", "/b.img", "$tuned_initrd"]);
        assert_eq!(entry.options.join(" "), "root=x ro quiet");
        assert_eq!((entry.title.as_deref(), entry.linux.as_deref()), (Some("Fedora"), Some("/vmlinuz")));
    }
}
