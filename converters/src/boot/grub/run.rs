//! Runs GRUB's configuration as far as it decides what is booted: variables, searches, the menu, kernels. Nothing is
//! executed; what cannot be followed is a doubt.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use mif_formats::fs::FileType;
use mif_formats::source::MemSource;

use super::super::look::{self, Look};
use super::bls;
use super::core::{self, Core};
use super::devices::{device_of, split, volume_of};
use super::script::{self, Command, Part, Word};
use crate::disk::scan::Scan;
use crate::image::tree_of_scan;
use crate::store::volume_name;
use crate::tree::path::VolumePath;
use crate::tree::view::Tree;

/// The name of the disk in memory that a core image may hold.
const MEMDISK: &str = "memdisk";

/// The most commands that are run, and the deepest nesting of files and functions.
const MAX_STEPS: u32 = 100_000;
const MAX_NESTING: u32 = 24;

/// The most entries of a menu.
const MAX_ENTRIES: usize = 4096;

/// The longest value of a variable, and the most words of a command, after variables are replaced.
const MAX_VALUE: usize = 64 << 10;

/// Commands that decide nothing and succeed.
const HARMLESS: &[&str] = &[
    "insmod",
    "export",
    "echo",
    "sleep",
    "loadfont",
    "terminal_output",
    "terminal_input",
    "serial",
    "gfxmode",
    "gfxterm",
    "play",
    "background_image",
    "background_color",
    "save_env",
    "set_background_image",
    "recordfail",
    "savedefault",
    "load_video",
    "gfxpayload",
    "clear",
    "videoinfo",
    "password_pbkdf2",
    "password",
    "outb",
    "rmmod",
    "nativedisk",
    "increment",
    "fwsetup",
    "font",
    "hwmatch",
    "setparams",
    "module",
    "ls",
    "cat",
    "true",
    "authenticate",
    "tpm",
    "read",
    "gptsync",
    "drivemap",
    "parttool",
];

/// A kernel that was loaded.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    /// Its row.
    pub(crate) kernel: usize,
    /// Its command line.
    pub(crate) command_line: String,
    /// The rows of its initramfs files.
    pub(crate) initrds: Vec<usize>,
}

/// An entry of the menu.
#[derive(Debug, Clone)]
struct Entry {
    title: String,
    id: Option<String>,
    is_submenu: bool,
    /// True if it may be booted without a password.
    is_free: bool,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    Script(Rc<Vec<Command>>),
    /// An entry of the Boot Loader Specification, and the device that it is on.
    Specified(bls::Entry, String),
}

/// How a run ends.
#[derive(Debug)]
pub(crate) enum End {
    /// A kernel is booted, by the entry of this title if there is a menu.
    Boots(Loaded, Option<String>),
    /// Nothing is booted, for this reason.
    Fails(String),
    /// It cannot be told, for this reason.
    Unknown(String),
}

/// What interrupts commands.
#[derive(Debug, PartialEq, Eq)]
enum Flow {
    Return,
    Boot,
    /// `configfile`, `normal`: the rest is not run.
    Replaced,
}

/// GRUB as it runs.
pub(crate) struct Grub<'l> {
    look: &'l Look<'l>,
    /// The files of the disk in memory, if the core image has one that mif reads.
    memdisk: Option<Tree>,
    variables: BTreeMap<String, String>,
    functions: BTreeMap<String, Rc<Vec<Command>>>,
    menu: Vec<Entry>,
    loaded: Option<Loaded>,
    /// What could not be followed, as sentences.
    doubts: Vec<String>,
    /// What GRUB would print as errors.
    errors: Vec<String>,
    /// The last filesystem that was searched for in vain, after which GRUB goes on.
    missed: Option<String>,
    /// The configuration files that were read.
    pub(crate) read: Vec<String>,
    steps: u32,
    nesting: u32,
    version: Option<(u32, u32)>,
}

impl<'l> Grub<'l> {
    /// Prepares GRUB as its core image does. `home` is the volume that firmware loaded it from, if it is a UEFI program.
    pub(crate) fn new(look: &'l Look<'l>, core: &Core, home: Option<(&str, &str)>) -> Self {
        let mut grub = Grub {
            look,
            memdisk: core.memdisk.clone().and_then(tree_of),
            variables: BTreeMap::new(),
            functions: BTreeMap::new(),
            menu: Vec::new(),
            loaded: None,
            doubts: Vec::new(),
            errors: Vec::new(),
            missed: None,
            read: Vec::new(),
            steps: 0,
            nesting: 0,
            version: core.version,
        };
        let (platform, cpu) = if home.is_some() { ("efi", "x86_64") } else { ("pc", "i386") };
        for (name, value) in [("grub_platform", platform), ("grub_cpu", cpu)] {
            grub.set(name, value);
        }
        for feature in [
            "chainloader_bpb",
            "ntldr",
            "platform_search_hint",
            "default_font_path",
            "all_video_module",
            "menuentry_id",
            "menuentry_options",
            "200_final",
            "nativedisk_cmd",
            "timeout_style",
        ] {
            grub.set(&format!("feature_{feature}"), "y");
        }
        let home = home.map(|(volume, folder)| (device_of(look, volume), folder));
        let (device, path) = split(&core.prefix, "");
        // Without a disk, it is the one that GRUB was loaded from.
        let device = match (&home, device.strip_prefix(',')) {
            (_, Some(partition)) => format!("hd0,{partition}"),
            (Some((home, _)), None) if device.is_empty() => home.clone(),
            _ => device.to_owned(),
        };
        let path = match &home {
            Some((_, folder)) if path.is_empty() => (*folder).to_owned(),
            _ => path.to_owned(),
        };
        if let Some((home, folder)) = &home {
            grub.set("cmdpath", &format!("({home}){folder}"));
        }
        grub.set("root", &device);
        grub.set("prefix", &format!("({device}){path}"));
        grub
    }

    /// Runs the configuration in the core image, then `grub.cfg` beside the prefix, then the default entry.
    pub(crate) fn run(&mut self, core: &Core) -> End {
        let mut flow = None;
        if let Some(config) = &core.config {
            match script::parse(config) {
                Ok(commands) => _ = self.all(&commands, &mut flow),
                Err(problem) => {
                    self.doubts.push(format!("the configuration in GRUB's core image: {problem}"))
                }
            }
        }
        if flow.is_none() {
            let prefix = self.get("prefix").to_owned();
            let config = format!("{prefix}/grub.cfg");
            if self.file_type(&config).is_none() {
                return End::Fails(format!("GRUB looks for {config}, which the image does not have"));
            }
            self.file(&config, &mut flow);
        }
        self.end(&flow, 0)
    }

    /// Ends a run after the configuration was read.
    fn end(&mut self, flow: &Option<Flow>, depth: u32) -> End {
        if let Some(doubt) = self.doubts.first() {
            return End::Unknown(doubt.clone());
        }
        if *flow == Some(Flow::Boot) || self.menu.is_empty() && depth > 0 {
            return self.boots(None);
        }
        if self.menu.is_empty() {
            let why = if self.loaded.is_some() { "has no menu and no command `boot`" } else { "has no menu" };
            return End::Fails(format!("the configuration {why}, so GRUB waits at its prompt"));
        }
        if self.get("timeout").parse::<i64>().is_ok_and(|timeout| timeout < 0)
            || self.get("timeout").is_empty()
        {
            return End::Fails("no `timeout` is set, so GRUB waits at its menu".to_owned());
        }
        let wanted = self.get("default").to_owned();
        self.choose(&wanted, depth)
    }

    fn choose(&mut self, wanted: &str, depth: u32) -> End {
        let (first, rest) = wanted.split_once('>').unwrap_or((wanted, ""));
        // As in get_entry_number: a number, or an id or title. What is not there is the first entry.
        let number = first.parse::<usize>().ok().filter(|number| *number < self.menu.len());
        let named = || self.menu.iter().position(|it| it.id.as_deref() == Some(first) || it.title == first);
        let number = number.or_else(named).unwrap_or(0);
        let entry = self.menu[number].clone();
        if !self.get("superusers").is_empty() && !entry.is_free && depth == 0 {
            return End::Fails(format!("GRUB asks for a password before it boots \"{}\"", entry.title));
        }
        match entry.body {
            Body::Specified(entry, device) => {
                self.specified(&entry, &device);
                self.boots(Some(entry.title.clone().unwrap_or(entry.id)))
            }
            Body::Script(body) if entry.is_submenu && depth < 4 => {
                self.menu.clear();
                let mut flow = None;
                self.all(&body, &mut flow);
                if let Some(doubt) = self.doubts.first() {
                    return End::Unknown(doubt.clone());
                }
                if self.menu.is_empty() {
                    return End::Fails(format!("the submenu \"{}\" is empty", entry.title));
                }
                self.choose(rest, depth + 1)
            }
            Body::Script(body) => {
                let mut flow = None;
                self.loaded = None;
                self.errors.clear();
                self.all(&body, &mut flow);
                if flow == Some(Flow::Replaced) && depth < 4 {
                    return self.end(&flow, depth + 1);
                }
                self.boots(Some(entry.title))
            }
        }
    }

    fn boots(&mut self, title: Option<String>) -> End {
        if let Some(doubt) = self.doubts.first() {
            return End::Unknown(doubt.clone());
        }
        match (self.loaded.take(), self.errors.first()) {
            (Some(loaded), None) => End::Boots(loaded, title),
            (_, Some(error)) => End::Fails(error.clone()),
            (None, None) => End::Fails(match title {
                Some(title) => format!("the default entry \"{title}\" loads no kernel"),
                None => "the configuration loads no kernel".to_owned(),
            }),
        }
    }

    /// Returns why GRUB could not read its own directory or run scripts, although the files are there.
    pub(crate) fn unreadable(&self, core: &Core) -> Vec<String> {
        let (device, path) = split(&core.prefix, "");
        let prefix = match path {
            "" => self.get("prefix").to_owned(),
            _ => format!(
                "({}){path}",
                if device.is_empty() { self.get("root") } else { device }.trim_start_matches(',')
            ),
        };
        let folder = if self.get("grub_platform") == "efi" { "x86_64-efi" } else { "i386-pc" };
        // A module is in the core image, or a file beside the prefix at the start or now.
        let has = |module: &str| {
            core.modules.iter().any(|it| it == module)
                || [&prefix, self.get("prefix")]
                    .iter()
                    .any(|at| self.row(&format!("{at}/{folder}/{module}.mod")).is_some())
        };
        let mut problems = Vec::new();
        if core.modules.is_empty() {
            return problems;
        }
        for (module, what) in [("normal", "reads grub.cfg"), ("linux", "loads kernels")] {
            if !has(module) && !(module == "linux" && has("linuxefi")) {
                problems.push(format!("GRUB lacks its module {module}, which {what}"));
            }
        }
        problems
    }

    /// Returns doubts about whether GRUB reads the filesystem of what it loads.
    pub(crate) fn uncertain(&self, core: &Core) -> Vec<String> {
        let Some(volume) = volume_of(self.look, split(self.get("prefix"), "").0) else { return Vec::new() };
        let Some(info) = self.look.filesystem(&volume) else { return Vec::new() };
        let mut doubts = Vec::new();
        let (module, partitions) = (filesystem_module(&info.kind), self.look.table.kind);
        let wanted = [module, look::partition_module(partitions)];
        let is_partition = volume.starts_with('p') && volume != "p0";
        for module in
            wanted.into_iter().flatten().filter(|module| is_partition || !module.starts_with("part_"))
        {
            if !core.modules.is_empty() && !core.modules.iter().any(|it| it == module) {
                doubts.push(format!("GRUB's core image lacks the module {module}, which reads {volume}"));
            }
        }
        // Released with GRUB 2.12; distributions brought them into older ones.
        let late = ["metadata_csum_seed", "nrext64", "bigtime", "large_dir"];
        let new = info.features.iter().find(|feature| late.contains(&&feature[..]));
        if let Some(feature) = new
            && self.version().is_none_or(|(major, minor)| (major, minor) < (2, 12))
        {
            doubts.push(format!("{volume} has the feature {feature}, which not every GRUB reads"));
        }
        doubts
    }

    /// Returns GRUB's version: that in the core image, or else that of the module beside the prefix.
    fn version(&self) -> Option<(u32, u32)> {
        if self.version.is_some() {
            return self.version;
        }
        let folder = if self.get("grub_platform") == "efi" { "x86_64-efi" } else { "i386-pc" };
        let row = self.row(&format!("{}/{folder}/normal.mod", self.get("prefix")))?;
        core::version(&self.look.head(row, 1 << 20).ok()?)
    }

    fn get(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    fn set(&mut self, name: &str, value: &str) {
        if value.len() <= MAX_VALUE && self.variables.len() < 10_000 {
            self.variables.insert(name.to_owned(), value.to_owned());
        }
    }

    /// Returns the type of a file as GRUB names it.
    fn file_type(&self, file: &str) -> Option<FileType> {
        if let Some(row) = self.in_memdisk(file) {
            return Some(self.memdisk.as_ref()?.rows()[row].node.file_type);
        }
        self.row(file).map(|row| self.look.row(row).node.file_type)
    }

    /// Returns the row of a file in the disk in memory.
    fn in_memdisk(&self, file: &str) -> Option<usize> {
        let (device, path) = split(file, self.get("root"));
        if device != MEMDISK {
            return None;
        }
        let path = VolumePath { volume: Some(volume_name(0)), path: path.as_bytes().to_vec() };
        self.memdisk.as_ref()?.find(&path, true).ok()
    }

    /// Reads a script; returns where it is, and its text.
    fn script(&mut self, file: &str) -> Option<(String, Vec<u8>)> {
        let (place, read) = match (self.in_memdisk(file), &self.memdisk) {
            (Some(row), Some(tree)) => {
                let content = tree.content(row);
                (
                    file.to_owned(),
                    content.and_then(|it| Ok(it.read_vec(0, it.len().min(look::MAX_TEXT) as usize)?)),
                )
            }
            _ => {
                let row = self.row(file)?;
                (self.look.place(row), self.look.head(row, look::MAX_TEXT))
            }
        };
        match read {
            Ok(text) => Some((place, text)),
            Err(error) => {
                self.doubt(format!("{place}: {error}"));
                None
            }
        }
    }

    /// Returns the row of a file as GRUB names it.
    fn row(&self, file: &str) -> Option<usize> {
        let (device, path) = split(file, self.get("root"));
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        self.look.find(&volume_of(self.look, device)?, &path)
    }

    fn doubt(&mut self, doubt: impl Into<String>) {
        if self.doubts.len() < 8 {
            self.doubts.push(doubt.into());
        }
    }

    /// Runs a configuration file.
    fn file(&mut self, file: &str, flow: &mut Option<Flow>) -> Option<bool> {
        let Some((place, text)) = self.script(file) else { return Some(false) };
        let text = String::from_utf8_lossy(&text).into_owned();
        if !self.read.contains(&place) {
            self.read.push(place.clone());
        }
        match script::parse(&text) {
            Ok(commands) => self.nested(|grub| grub.all(&commands, flow)),
            Err(problem) => {
                self.doubt(format!("{place}: mif cannot read this script: {problem}"));
                None
            }
        }
    }

    fn nested(&mut self, run: impl FnOnce(&mut Self) -> Option<bool>) -> Option<bool> {
        if self.nesting >= MAX_NESTING {
            self.doubt(format!("GRUB's scripts call each other more than {MAX_NESTING} deep"));
            return None;
        }
        self.nesting += 1;
        let status = run(self);
        self.nesting -= 1;
        status
    }

    /// Runs commands until one interrupts them; returns whether the last one succeeded, if that is known.
    fn all(&mut self, commands: &[Command], flow: &mut Option<Flow>) -> Option<bool> {
        let mut status = Some(true);
        for command in commands {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                self.doubt(format!("GRUB's scripts run more than {MAX_STEPS} commands"));
                return None;
            }
            status = self.one(command, flow);
            if flow.is_some() {
                break;
            }
        }
        status
    }

    fn one(&mut self, command: &Command, flow: &mut Option<Flow>) -> Option<bool> {
        match command {
            Command::Simple(words) => {
                let words = self.expand(words);
                self.simple(&words, flow)
            }
            Command::If(branches, otherwise) => {
                for (condition, body) in branches {
                    match self.all(condition, flow) {
                        Some(true) => return self.all(body, flow),
                        Some(false) => {}
                        None if branches.iter().any(|(_, body)| decides(body)) || decides(otherwise) => {
                            self.doubt("a condition of grub.cfg depends on what only the machine knows");
                            return self.all(body, flow);
                        }
                        None => return None,
                    }
                }
                self.all(otherwise, flow)
            }
            Command::Menu { is_submenu, words, body } => {
                let words = self.expand(words);
                let (title, id) = titles(&words);
                let is_free = words.iter().any(|word| word == "--unrestricted");
                if self.menu.len() < MAX_ENTRIES {
                    let body = Body::Script(body.clone());
                    self.menu.push(Entry { title, id, is_submenu: *is_submenu, is_free, body });
                }
                Some(true)
            }
            Command::Function(name, body) => {
                self.functions.insert(name.clone(), body.clone());
                Some(true)
            }
            Command::For(name, words, body) => {
                for word in self.expand(words) {
                    self.set(name, &word);
                    self.all(body, flow);
                    if flow.is_some() {
                        break;
                    }
                }
                Some(true)
            }
            Command::Loop(body) => {
                if decides(body) {
                    self.doubt("grub.cfg has a loop, which mif does not follow");
                }
                None
            }
        }
    }

    /// Replaces variables.
    fn expand(&self, words: &[Word]) -> Vec<String> {
        let mut all = Vec::new();
        let mut total = 0;
        for word in words {
            // True if the word has text or quotes: otherwise an empty variable leaves no word.
            let mut is_there = false;
            let mut current = String::new();
            for part in word {
                match part {
                    Part::Text(text) => {
                        is_there = true;
                        current += text;
                    }
                    Part::Variable(name, true) => {
                        is_there = true;
                        current += self.get(name);
                    }
                    Part::Variable(name, false) => {
                        let value = self.get(name);
                        let mut pieces = value.split_whitespace();
                        if let Some(piece) = pieces.next() {
                            if value.starts_with(char::is_whitespace) && is_there {
                                all.push(std::mem::take(&mut current));
                            }
                            is_there = true;
                            current += piece;
                        }
                        for piece in pieces {
                            all.push(std::mem::replace(&mut current, piece.to_owned()));
                        }
                    }
                }
            }
            total += current.len();
            if is_there && total <= MAX_VALUE {
                all.push(current);
            }
        }
        all
    }

    fn simple(&mut self, words: &[String], flow: &mut Option<Flow>) -> Option<bool> {
        let Some(name) = words.first() else { return Some(true) };
        let arguments = &words[1..];
        let plain: Vec<&str> = arguments.iter().map(String::as_str).collect();
        if let Some((variable, value)) = name.split_once('=')
            && !variable.is_empty()
            && variable.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            self.set(variable, value);
            return Some(true);
        }
        match &name[..] {
            "set" => {
                if let Some((variable, value)) = plain.first().and_then(|text| text.split_once('=')) {
                    self.set(variable, value);
                }
                Some(true)
            }
            "unset" => {
                plain.iter().for_each(|name| _ = self.variables.remove(*name));
                Some(true)
            }
            "[" | "test" => self.test(plain.strip_suffix(&["]"]).unwrap_or(&plain)),
            "false" | "keystatus" => Some(false),
            "cpuid" => Some(plain != ["-p"]),
            "search" | "search.fs_uuid" | "search.fs_label" | "search.file" | "search.fs_file" => {
                self.search(name, &plain)
            }
            "probe" => self.probe(&plain),
            "configfile" | "normal" => {
                let file = match plain.first() {
                    Some(file) => (*file).to_owned(),
                    None => format!("{}/grub.cfg", self.get("prefix")),
                };
                if self.file_type(&file).is_none() {
                    if file.starts_with("(memdisk)") {
                        self.doubt("GRUB's program holds a disk in memory that mif does not read");
                        return None;
                    }
                    self.errors.push(format!("{file}: GRUB finds no such file"));
                    return Some(false);
                }
                self.menu.clear();
                let mut inner = None;
                let status = self.file(&file, &mut inner);
                // Its menu is shown, or what it booted runs: control does not come back.
                *flow = Some(if inner == Some(Flow::Boot) { Flow::Boot } else { Flow::Replaced });
                status
            }
            "source" | "." => {
                let file = plain.first().copied().unwrap_or_default().to_owned();
                let status = self.file(&file, flow);
                if *flow == Some(Flow::Return) {
                    *flow = None;
                }
                status
            }
            "load_env" => self.load_env(&plain),
            "linux" | "linux16" | "linuxefi" | "initrd" | "initrd16" | "initrdefi" => self.load(name, &plain),
            "blscfg" | "bls_import" => self.blscfg(&plain),
            "boot" => {
                *flow = Some(Flow::Boot);
                Some(true)
            }
            "return" | "break" | "continue" => {
                *flow = Some(Flow::Return);
                Some(true)
            }
            "chainloader"
            | "multiboot"
            | "multiboot2"
            | "xen_hypervisor"
            | "kexec"
            | "ntldr"
            | "legacy_configfile"
            | "kfreebsd"
            | "knetbsd"
            | "kopenbsd"
            | "loopback"
            | "cryptomount"
            | "devicetree"
            | "extract_legacy_entries_source" => {
                self.doubt(format!("grub.cfg uses `{name}`, which mif does not follow"));
                None
            }
            "halt" | "reboot" | "exit" => {
                self.errors.push(format!("GRUB runs `{name}`"));
                Some(false)
            }
            other if self.functions.contains_key(other) => {
                let body = self.functions[other].clone();
                let mut inner = None;
                let status = self.nested(|grub| grub.all(&body, &mut inner));
                if inner != Some(Flow::Return) {
                    *flow = inner;
                }
                status
            }
            other if HARMLESS.contains(&other) => Some(true),
            _ => None,
        }
    }

    /// Evaluates `[ … ]`.
    fn test(&self, words: &[&str]) -> Option<bool> {
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

    fn search(&mut self, name: &str, words: &[&str]) -> Option<bool> {
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

    fn probe(&mut self, words: &[&str]) -> Option<bool> {
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
    fn load_env(&mut self, words: &[&str]) -> Option<bool> {
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
        let text = self.look.head(row, 64 << 10).ok()?;
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

    fn load(&mut self, name: &str, words: &[&str]) -> Option<bool> {
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
    fn blscfg(&mut self, words: &[&str]) -> Option<bool> {
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
                // Distributions' GRUBs look there next; that of GRUB 2.14 only if it is told to.
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
                        body: Body::Specified(entry, device.clone()),
                    });
                }
                return Some(true);
            }
        }
        self.errors.push("`blscfg` finds no entries in /loader/entries".to_owned());
        Some(false)
    }

    /// Loads the kernel of an entry of the Boot Loader Specification, whose options may name variables.
    fn specified(&mut self, entry: &bls::Entry, device: &str) {
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

/// Returns the files of a disk in memory.
fn tree_of(disk: Vec<u8>) -> Option<Tree> {
    let scan = Scan::new(Arc::new(MemSource(disk))).ok()?;
    tree_of_scan(&Arc::new(scan)).ok()
}

/// Returns GRUB's module for a filesystem.
fn filesystem_module(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "ext2" | "ext3" | "ext4" => "ext2",
        "xfs" => "xfs",
        "btrfs" => "btrfs",
        kind if kind.to_ascii_lowercase().contains("fat") => "fat",
        _ => return None,
    })
}

/// Returns the title and the id of a menu entry.
fn titles(words: &[String]) -> (String, Option<String>) {
    let (mut title, mut id) = (String::new(), None);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match &word[..] {
            "--id" => id = words.next().cloned(),
            "--class" | "--users" | "--hotkey" | "--source" => _ = words.next(),
            word if word.starts_with("--id=") => id = Some(word[5..].to_owned()),
            word if word.starts_with("--") => {}
            word if title.is_empty() => word.clone_into(&mut title),
            _ => {}
        }
    }
    (title, id)
}

/// Returns true if commands decide what is booted.
fn decides(commands: &[Command]) -> bool {
    let word = |words: &[Word], at: usize| match words.get(at).map(Vec::as_slice) {
        Some([Part::Text(text), ..]) => text.clone(),
        _ => String::new(),
    };
    commands.iter().any(|command| match command {
        Command::Simple(words) => match &word(words, 0)[..] {
            "set" => {
                let name = word(words, 1);
                let name = name.split('=').next().unwrap_or_default();
                ["root", "prefix", "default", "boot", "timeout", "saved_entry", "next_entry"].contains(&name)
            }
            "linux" | "linux16" | "linuxefi" | "initrd" | "initrd16" | "initrdefi" | "configfile"
            | "source" | "normal" | "search" | "blscfg" | "load_env" | "boot" | "chainloader" | "halt"
            | "reboot" | "exit" => true,
            _ => false,
        },
        Command::If(branches, otherwise) => {
            branches.iter().any(|(_, body)| decides(body)) || decides(otherwise)
        }
        Command::Menu { .. } => true,
        Command::Function(..) => false,
        Command::For(_, _, body) | Command::Loop(body) => decides(body),
    })
}
