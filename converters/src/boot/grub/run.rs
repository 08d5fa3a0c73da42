//! Runs GRUB's configuration as far as it decides what is booted. Nothing is executed; what cannot be followed is a doubt.

use super::super::look;
use super::core::Core;
use super::script::{self, Command, Part, Word};
use super::state::{Body, Entry, Grub, Loaded, MAX_ENTRIES};

/// The most commands that are run, the most scripts that are read, and the deepest nesting of files and functions.
const MAX_STEPS: u32 = 10_000;
const MAX_SCRIPTS: u32 = 100;
const MAX_NESTING: u32 = 24;

/// The most bytes of words that a command has, and that all commands have, after variables are replaced.
const MAX_COMMAND: usize = 1 << 20;
const MAX_WORDS: usize = 64 << 20;

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

impl Grub<'_> {
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
                self.boots(Some(entry.title.clone().unwrap_or_else(|| entry.id.clone())))
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

    /// Reads a script; returns where it is, and its text.
    fn script(&mut self, file: &str) -> Option<(String, Vec<u8>)> {
        self.scripts += 1;
        if self.scripts > MAX_SCRIPTS {
            self.doubt(format!("GRUB's scripts read more than {MAX_SCRIPTS} others"));
            return None;
        }
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
    fn expand(&mut self, words: &[Word]) -> Vec<String> {
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
                        total += text.len();
                        current += text;
                    }
                    Part::Variable(name, true) => {
                        is_there = true;
                        total += self.get(name).len();
                        current += self.get(name);
                    }
                    Part::Variable(name, false) => {
                        let value = self.get(name);
                        total += value.len();
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
                if total > MAX_COMMAND || self.expanded > MAX_WORDS {
                    self.doubt("grub.cfg has a command of more words than mif follows");
                    return Vec::new();
                }
            }
            if is_there {
                all.push(current);
            }
        }
        self.expanded += total;
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
