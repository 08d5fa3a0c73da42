//! GRUB's commands that decide what is booted: conditions, searches, the environment block, kernels and entries.

use mif_formats::fs::FileType;

use super::bls;
use super::devices::{device_of, split, volume_of};
use super::state::{Body, Entry, Grub, Loaded, MAX_ENTRIES};

/// The largest environment block that is read, in bytes.
const MAX_BLOCK: u64 = 64 << 10;

impl Grub<'_> {
    /// Evaluates `[ … ]`.
    pub(super) fn test(&self, words: &[&str]) -> Option<bool> {
        if let Some(at) = words.iter().position(|word| *word == "-o") {
            return match (self.test(&words[..at]), self.test(&words[at + 1..])) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            };
        }
        if let Some(at) = words.iter().position(|word| *word == "-a") {
            return match (self.test(&words[..at]), self.test(&words[at + 1..])) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            };
        }
        let numbers = |a: &str, b: &str| Some((a.parse::<i64>().ok()?, b.parse::<i64>().ok()?));
        let file_type = |path: &str| self.file_type(path);
        match words {
            [] => Some(false),
            ["!", rest @ ..] => self.test(rest).map(|status| !status),
            ["-z", value] => Some(value.is_empty()),
            ["-z"] => Some(true),
            ["-n", value] => Some(!value.is_empty()),
            ["-n"] => Some(false),
            ["-e", path] => Some(file_type(path).is_some()),
            ["-f", path] => Some(file_type(path) == Some(FileType::File)),
            ["-d", path] => Some(file_type(path) == Some(FileType::Dir)),
            ["-s", path] => Some(self.row(path).is_some_and(|row| self.look.row(row).node.size > 0)),
            [a, "=" | "==", b] => Some(a == b),
            [a, "!=", b] => Some(a != b),
            [a, "-eq", b] => numbers(a, b).map(|(a, b)| a == b),
            [a, "-ne", b] => numbers(a, b).map(|(a, b)| a != b),
            [a, "-gt", b] => numbers(a, b).map(|(a, b)| a > b),
            [a, "-ge", b] => numbers(a, b).map(|(a, b)| a >= b),
            [a, "-lt", b] => numbers(a, b).map(|(a, b)| a < b),
            [a, "-le", b] => numbers(a, b).map(|(a, b)| a <= b),
            [value] => Some(!value.is_empty()),
            _ => None,
        }
    }

    pub(super) fn search(&mut self, name: &str, words: &[&str]) -> Option<bool> {
        let (mut by, mut variable, mut wanted) =
            (name.strip_prefix("search.").unwrap_or("file"), "root", None);
        let mut words = words.iter().copied();
        if name == "search" {
            while let Some(word) = words.next() {
                match word {
                    "--fs-uuid" | "-u" => by = "fs_uuid",
                    "--label" | "--fs-label" | "-l" => by = "fs_label",
                    "--file" | "-f" => by = "file",
                    "--hint" | "-h" => _ = words.next(),
                    "-s" => variable = words.next().unwrap_or("root"),
                    word if word.starts_with("--set=") => variable = &word[6..],
                    word if word.starts_with('-') => {}
                    word => wanted = wanted.or(Some(word)),
                }
            }
        } else {
            wanted = words.next();
            variable = words.next().unwrap_or("root");
        }
        let wanted = wanted?;
        let fits = |volume: &str| {
            let info = self.look.filesystem(volume);
            match by {
                "fs_uuid" => info
                    .is_some_and(|info| info.uuid.as_ref().is_some_and(|it| it.eq_ignore_ascii_case(wanted))),
                "fs_label" => info.is_some_and(|info| info.label.as_deref() == Some(wanted)),
                _ => self.look.has(volume, wanted),
            }
        };
        let found = self.look.volumes.iter().find(|record| fits(&record.volume));
        match found {
            Some(record) => {
                let device = device_of(self.look, &record.volume);
                let variable = variable.to_owned();
                self.set(&variable, &device);
                Some(true)
            }
            None => {
                self.missed = Some(wanted.to_owned());
                Some(false)
            }
        }
    }

    pub(super) fn probe(&mut self, words: &[&str]) -> Option<bool> {
        let (mut variable, mut device, mut what) = (None, None, None);
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            match word {
                "--set" | "-s" => variable = words.next(),
                "--fs-uuid" | "-u" => what = Some("uuid"),
                "--label" | "-l" => what = Some("label"),
                word if word.starts_with("--set=") => variable = Some(&word[6..]),
                word if word.starts_with('-') => return None,
                word => device = Some(word),
            }
        }
        let device = device?.trim_matches(['(', ')']).to_owned();
        let volume = volume_of(self.look, &device)?;
        let info = self.look.filesystem(&volume)?;
        let value = match what? {
            "uuid" => info.uuid.clone(),
            _ => info.label.clone(),
        };
        let (variable, value) = (variable?.to_owned(), value?);
        self.set(&variable, &value);
        Some(true)
    }

    /// Reads an environment block: lines `NAME=VALUE` in a file of fixed size.
    pub(super) fn load_env(&mut self, words: &[&str]) -> Option<bool> {
        let mut file = format!("{}/grubenv", self.get("prefix"));
        let mut names: Vec<&str> = Vec::new();
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            match word {
                "-f" | "--file" => file = words.next()?.to_owned(),
                word if word.starts_with("--file=") => file = word[7..].to_owned(),
                word if word.starts_with('-') => {}
                word => names.push(word),
            }
        }
        let Some(row) = self.row(&file) else { return Some(false) };
        let text = self.look.head(row, MAX_BLOCK).ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        if !text.starts_with("# GRUB Environment Block\n") {
            return Some(false);
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, value)) = line.split_once('=')
                && (names.is_empty() || names.contains(&name))
            {
                let value = value.replace("\\\\", "\\");
                self.set(name, &value);
            }
        }
        Some(true)
    }

    pub(super) fn load(&mut self, name: &str, words: &[&str]) -> Option<bool> {
        let is_kernel = name.starts_with("linux");
        let mut rows = Vec::new();
        for file in if is_kernel { words.get(..1).unwrap_or(words) } else { words } {
            if file.starts_with("newc:") {
                self.doubt("grub.cfg makes an initramfs of single files, which mif does not follow");
                return None;
            }
            match self.row(file) {
                Some(row) if self.look.row(row).node.file_type == FileType::File => rows.push(row),
                _ => {
                    let (device, path) = split(file, self.get("root"));
                    let mut error = format!("GRUB loads ({device}){path}, which the image does not have");
                    if let Some(missed) = &self.missed {
                        error +=
                            &format!("; it searched for the filesystem {missed}, which is not there either");
                    }
                    self.errors.push(error);
                    return Some(false);
                }
            }
        }
        if is_kernel {
            let command_line = words.get(1..).unwrap_or_default().join(" ");
            self.loaded =
                rows.first().map(|kernel| Loaded { kernel: *kernel, command_line, initrds: Vec::new() });
        } else if let Some(loaded) = &mut self.loaded {
            loaded.initrds = rows;
        }
        Some(true)
    }

    /// Adds the entries of the Boot Loader Specification to the menu.
    pub(super) fn blscfg(&mut self, words: &[&str]) -> Option<bool> {
        let given =
            words.iter().position(|word| matches!(*word, "--path" | "-p")).and_then(|at| words.get(at + 1));
        let is_fallback_asked = words.iter().any(|word| matches!(*word, "--enable-fallback" | "-f"));
        let boot = Some(self.get("boot").to_owned()).filter(|it| !it.is_empty());
        let root = self.get("root").to_owned();
        let folder = Some(self.get("blsdir").to_owned()).filter(|it| !it.is_empty());
        let folders = match (given, &folder) {
            (Some(given), _) => vec![*given],
            (None, Some(folder)) => vec![folder.as_str()],
            (None, None) => vec!["/loader/entries", "/boot/loader/entries"],
        };
        for device in [boot.as_ref(), Some(&root)].into_iter().flatten() {
            let Some(volume) = volume_of(self.look, device.trim_matches(['(', ')'])) else { continue };
            for folder in &folders {
                let entries = bls::entries(self.look, &volume, folder);
                if entries.is_empty() {
                    continue;
                }
                // The GRUB of most distributions also searches this directory; GRUB 2.14 itself does so only if asked to.
                let is_next =
                    given.is_none() && *folder == "/boot/loader/entries" && self.get("blsdir").is_empty();
                if is_next && !is_fallback_asked && self.version().is_none_or(|version| version >= (2, 14)) {
                    self.doubt(
                        "the entries are in /boot/loader/entries, where not every GRUB looks for them",
                    );
                }
                let device = device_of(self.look, &volume);
                for entry in entries.into_iter().take(MAX_ENTRIES) {
                    let title = entry.title.clone().unwrap_or_default();
                    let id = Some(entry.id.clone());
                    self.menu.push(Entry {
                        title,
                        id,
                        is_submenu: false,
                        is_free: entry.users.is_none(),
                        body: Body::Specified(Box::new(entry), device.clone()),
                    });
                }
                return Some(true);
            }
        }
        self.errors.push("`blscfg` finds no entries in /loader/entries".to_owned());
        Some(false)
    }

    /// Loads the kernel of an entry of the Boot Loader Specification, whose options may name variables.
    pub(super) fn specified(&mut self, entry: &bls::Entry, device: &str) {
        self.loaded = None;
        self.errors.clear();
        self.set("root", device);
        let Some(linux) = &entry.linux else {
            self.doubt(format!("the entry {} has no kernel of its own", entry.id));
            return;
        };
        let expanded = |grub: &Self, text: &str| {
            let words = text.split_whitespace().map(|word| match word.strip_prefix('$') {
                Some(name) => grub.get(name.trim_matches(['{', '}'])).to_owned(),
                None => word.to_owned(),
            });
            words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
        };
        let options = expanded(self, &entry.options.join(" "));
        if self.load("linux", &[linux, &options]) != Some(true) {
            return;
        }
        let initrds = expanded(self, &entry.initrd.join(" "));
        let initrds: Vec<&str> = initrds.split_whitespace().collect();
        if !initrds.is_empty() {
            self.load("initrd", &initrds);
        }
    }
}
