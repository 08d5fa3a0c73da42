//! Whether the kernel reaches the root filesystem: the drivers of the disk's controller and of the filesystem, built in or
//! in the initramfs with all that they depend on, and something that loads them.

use std::borrow::Cow;
use std::collections::BTreeSet;

use toml::Value;

use super::booting::{Booting, Part};
use super::finding::{Findings, Subject};
use super::initramfs::Initramfs;
use super::kernel::{Builtin, Kernel};
use super::machine::Controller;
use super::modules::{Modules, normal};

/// The most files of an initramfs.
const MAX_INITRDS: usize = 16;

/// Who made an initramfs, which decides how it loads modules and finds the root filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maker {
    InitramfsTools,
    Dracut,
    Mkinitcpio,
    /// Alpine's.
    Mkinitfs,
    Unknown,
}

impl Maker {
    fn of(initramfs: &Initramfs) -> Self {
        if initramfs.has("scripts/functions") && initramfs.has("conf/initramfs.conf") {
            Maker::InitramfsTools
        } else if initramfs.has_below("usr/lib/dracut/") || initramfs.has_below("lib/dracut/") {
            Maker::Dracut
        } else if initramfs.has("init_functions") && initramfs.has("hooks") {
            Maker::Mkinitcpio
        } else if initramfs.has("sbin/nlplug-findfs") {
            Maker::Mkinitfs
        } else {
            Maker::Unknown
        }
    }

    fn name(self) -> &'static str {
        match self {
            Maker::InitramfsTools => "initramfs-tools",
            Maker::Dracut => "dracut",
            Maker::Mkinitcpio => "mkinitcpio",
            Maker::Mkinitfs => "mkinitfs",
            Maker::Unknown => "an unknown program",
        }
    }

    /// Returns what makes it anew.
    fn rebuild(self, release: &str) -> String {
        match self {
            Maker::InitramfsTools => format!("update-initramfs -u -k {release}"),
            Maker::Dracut => format!("dracut --no-hostonly --force --kver {release}"),
            Maker::Mkinitcpio => "mkinitcpio -P".to_owned(),
            Maker::Mkinitfs => format!("mkinitfs {release}"),
            Maker::Unknown => "the program that made it".to_owned(),
        }
    }
}

/// The initramfs files of a boot, read as one.
pub(super) struct Early {
    pub(super) initramfs: Initramfs,
    pub(super) maker: Maker,
}

/// Reads the initramfs. The error is that a finding was added.
pub(super) fn early(booting: &Booting, findings: &mut Findings) -> Result<Option<Early>, ()> {
    let mut all: Option<Initramfs> = None;
    if booting.initrds.len() > MAX_INITRDS {
        let reason = format!("there are {} files of it, and mif reads {MAX_INITRDS}", booting.initrds.len());
        findings.unknown(Subject::Initramfs, &booting.initrds[0].place, reason);
        return Err(());
    }
    for part in &booting.initrds {
        match Initramfs::read(&part.content) {
            Ok(read) => match &mut all {
                None => all = Some(read),
                Some(first) => first.extend(read),
            },
            Err(error) => {
                findings
                    .bad(Subject::Initramfs, &part.place, format!("the kernel cannot unpack it: {error}"))
                    .advise("Make the initramfs anew in the image");
                return Err(());
            }
        }
    }
    Ok(all.map(|initramfs| Early { maker: Maker::of(&initramfs), initramfs }))
}

/// How a driver is there when the root filesystem is mounted.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Builtin,
    /// In the initramfs, with all that it depends on.
    Here,
    /// In the initramfs, but without this module on which it depends.
    Lacks(String),
    /// Neither. True if the root filesystem has the module.
    Absent(bool),
    /// In the initramfs, but kept from loading by this.
    Barred(String),
    Unknown,
}

/// What a boot needs, and why.
struct Need {
    /// The names of modules of which one suffices.
    any: Vec<&'static str>,
    why: String,
}

/// Judges the initramfs, or its absence. `filesystem` is the kind of the root filesystem, `is_mapped` true if it is on a
/// logical volume.
pub(super) fn judge(
    booting: &Booting,
    kernel: &Kernel,
    early: Option<&Early>,
    controller: &Controller,
    (filesystem, is_mapped): (Option<&str>, bool),
    findings: &mut Findings,
) {
    let mut needs: Vec<Need> = controller
        .drivers
        .iter()
        .map(|driver| Need { any: vec![*driver], why: format!("a disk on {}", controller.name) })
        .collect();
    // If the filesystem is not known, the finding on the root says why.
    if let Some(kind) = filesystem {
        match module_of_filesystem(kind) {
            Some(any) => needs.push(Need { any, why: format!("a root filesystem of {kind}") }),
            None => {
                findings.unknown(
                    Subject::Initramfs,
                    "the root filesystem",
                    format!("mif does not know Linux's driver of {kind}"),
                );
            }
        }
    }
    if is_mapped {
        needs.push(Need { any: vec!["dm_mod"], why: "a root filesystem on LVM".into() });
    }
    match early {
        None => without(booting, kernel, &needs, findings),
        Some(early) => with(booting, kernel, early, &needs, is_mapped, findings),
    }
}

/// Returns the modules of a filesystem of which one suffices.
fn module_of_filesystem(kind: &str) -> Option<Vec<&'static str>> {
    Some(match kind {
        "ext2" => vec!["ext4", "ext2"],
        "ext3" => vec!["ext4", "ext3"],
        "ext4" => vec!["ext4"],
        "xfs" => vec!["xfs"],
        "btrfs" => vec!["btrfs"],
        _ => return None,
    })
}

fn without(booting: &Booting, kernel: &Kernel, needs: &[Need], findings: &mut Findings) {
    let place = &booting.kernel.place;
    for need in needs {
        let states: Vec<Builtin> = need.any.iter().map(|name| kernel.builtin(name)).collect();
        if states.contains(&Builtin::Yes) {
            continue;
        }
        let name = need.any[0];
        if states.contains(&Builtin::Unknown) {
            findings.unknown(
                Subject::Initramfs,
                place,
                format!("there is no initramfs, and the image does not say whether {name} is built into the kernel"),
            );
        } else {
            findings
                .bad(
                    Subject::Initramfs,
                    place,
                    format!(
                        "there is no initramfs, and {name}, which {} needs, is not built into the kernel",
                        need.why
                    ),
                )
                .advise("Make an initramfs in the image, and name it in the boot loader's configuration");
        }
        return;
    }
    findings.good(
        Subject::Initramfs,
        place,
        "there is no initramfs, and the kernel has the drivers built in",
    );
}

fn with(
    booting: &Booting,
    kernel: &Kernel,
    early: &Early,
    needs: &[Need],
    is_mapped: bool,
    findings: &mut Findings,
) {
    let Early { initramfs, maker } = early;
    let last = booting.initrds.last().expect("it was read");
    let place = last.place.clone();
    if !initramfs.has("init") {
        findings.unknown(
            Subject::Initramfs,
            place,
            "it has no program /init, so the kernel mounts the root filesystem itself",
        );
        return;
    }
    let stage = Stage::new(booting, kernel, initramfs);
    let mut missing: BTreeSet<String> = BTreeSet::new();
    let mut nowhere = Vec::new();
    let mut held = Vec::new();
    let mut is_all_builtin = true;
    let before = findings.0.len();
    for need in needs {
        let states: Vec<(&str, State)> = need.any.iter().map(|name| (*name, stage.state(name))).collect();
        if let Some((name, state)) =
            states.iter().find(|(_, state)| matches!(state, State::Builtin | State::Here))
        {
            is_all_builtin &= *state == State::Builtin;
            held.push((*name).to_owned());
            for (wanted, providers) in kernel.modules.wanted_before(&normal(name)) {
                let has = |it: &String| matches!(stage.state(it), State::Builtin | State::Here);
                if wanted.contains("crc32c") && !providers.iter().any(has) {
                    findings.unknown(
                        Subject::Initramfs,
                        &place,
                        format!("{name} asks for {wanted}, which the initramfs does not have"),
                    );
                }
            }
            continue;
        }
        is_all_builtin = false;
        let (name, state) = &states[0];
        match state {
            State::Barred(by) => {
                findings
                    .bad(
                        Subject::Initramfs,
                        &place,
                        format!("{by} keeps {name}, which {} needs, from loading", need.why),
                    )
                    .advise(format!("Remove it, and run `{}` in the image", maker.rebuild(&kernel.release)));
            }
            State::Unknown => {
                findings.unknown(
                    Subject::Initramfs,
                    &place,
                    format!("it lacks {name}, which {} needs, and the image does not say whether the kernel has it built in", need.why),
                );
            }
            State::Absent(false) => nowhere.push(((*name).to_owned(), need.why.clone())),
            State::Absent(true) | State::Lacks(_) => _ = missing.insert((*name).to_owned()),
            State::Builtin | State::Here => unreachable!("found above"),
        }
    }
    for (name, why) in &nowhere {
        findings
            .bad(
                Subject::Initramfs,
                &place,
                format!("Linux {} has no driver {name}, which {why} needs", kernel.release),
            )
            .advise("Install a kernel that has it, such as a generic one in place of one for a cloud");
    }
    if !missing.is_empty() {
        let names: Vec<&str> = missing.iter().map(String::as_str).collect();
        let others = initramfs.releases();
        let mut reason = format!("it lacks the driver {}", names.join(", "));
        if !others.is_empty() && !others.contains(&kernel.release[..]) {
            let others: Vec<&str> = others.into_iter().collect();
            reason = format!(
                "its modules are for Linux {}, not for {}: {reason}",
                others.join(", "),
                kernel.release
            );
        }
        let finding = findings.bad(Subject::Initramfs, &place, reason);
        finding.advise(format!(
            "Run `{}` in the image, with these drivers included",
            maker.rebuild(&kernel.release)
        ));
        if let Some(path) = &last.row.map(|_| place.clone())
            && can_append(kernel, early, &missing, last)
        {
            let modules = Value::Array(names.iter().map(|name| Value::from(*name)).collect());
            finding.mend(
                "initramfs-modules",
                &[
                    ("path", path.clone().into()),
                    ("kernel", kernel.release.clone().into()),
                    ("modules", modules),
                ],
            );
        }
    }
    if let Some(reason) = stage.unable(early, is_all_builtin) {
        findings
            .unknown(Subject::Initramfs, &place, reason)
            .advise("Boot the image once on a machine like the target to find out");
    }
    if is_mapped {
        mapped(booting, early, &place, findings);
    }
    if findings.0.len() == before {
        let reason = format!("{} made it, and it has the drivers: {}", maker.name(), held.join(", "));
        findings.good(Subject::Initramfs, place, reason);
    }
}

/// Returns true if an archive with modules can be appended so that they are loaded.
fn can_append(kernel: &Kernel, early: &Early, missing: &BTreeSet<String>, last: &Part) -> bool {
    matches!(early.maker, Maker::InitramfsTools | Maker::Dracut)
        && last.row.is_some()
        && missing.iter().all(|name| kernel.modules.with_dependencies(name).is_ok())
}

/// Judges whether the initramfs activates a logical volume.
fn mapped(booting: &Booting, early: &Early, place: &str, findings: &mut Findings) {
    if !early.initramfs.has("sbin/lvm") {
        findings
            .bad(Subject::Initramfs, place, "it has no program lvm, which a root filesystem on LVM needs")
            .advise("Install lvm2 in the image, and make the initramfs anew");
        return;
    }
    let named = ["rd.lvm.lv", "rd.lvm.vg"].iter().any(|name| booting.argument(name).is_some());
    if early.maker != Maker::InitramfsTools && named {
        findings.unknown(
            Subject::Initramfs,
            place,
            "the kernel's arguments rd.lvm choose what is activated, which mif does not follow",
        );
    }
}

/// The kernel with the initramfs, before the root filesystem is mounted.
struct Stage<'a> {
    kernel: &'a Kernel,
    initramfs: &'a Initramfs,
    /// The indexes in the initramfs.
    own: Modules,
    /// The names of modules that are not loaded, and what says so.
    barred: Vec<(String, String)>,
}

impl<'a> Stage<'a> {
    fn new(booting: &Booting, kernel: &'a Kernel, initramfs: &'a Initramfs) -> Self {
        let folder = format!("lib/modules/{}", kernel.release);
        let own = Modules::parse(|name| initramfs.text(&format!("{folder}/{name}")).map(Cow::Borrowed));
        let mut barred = Vec::new();
        for argument in ["module_blacklist", "modprobe.blacklist", "rd.driver.blacklist", "blacklist"] {
            let names = booting.arguments(argument).flat_map(|value| value.split(','));
            barred.extend(names.map(|name| (normal(name), format!("the kernel's argument {argument}"))));
        }
        for folder in ["etc/modprobe.d", "lib/modprobe.d"] {
            for (path, text) in initramfs.texts_below(folder).filter(|(path, _)| path.ends_with(".conf")) {
                for line in String::from_utf8_lossy(text).lines() {
                    let words: Vec<&str> = line.split_ascii_whitespace().collect();
                    match words[..] {
                        ["blacklist", name]
                        | ["install", name, "/bin/false" | "/bin/true" | "/usr/bin/false", ..] => {
                            barred.push((normal(name), format!("/{path} in it")));
                        }
                        _ => {}
                    }
                }
            }
        }
        Stage { kernel, initramfs, own, barred }
    }

    fn state(&self, name: &str) -> State {
        let name = normal(name);
        let builtin = match self.kernel.builtin(&name) {
            Builtin::Unknown if self.own.knows_builtin => {
                if self.own.is_builtin(&name) {
                    Builtin::Yes
                } else {
                    Builtin::No
                }
            }
            other => other,
        };
        if builtin == Builtin::Yes {
            return State::Builtin;
        }
        let release = &self.kernel.release;
        if self.initramfs.module(release, &name).is_none() {
            return match (builtin, self.kernel.modules.path(&name)) {
                (_, Some(_)) => State::Absent(true),
                (Builtin::No, None) if !self.kernel.modules.is_empty() => State::Absent(false),
                _ => State::Unknown,
            };
        }
        // The program that loads it reads the index in the initramfs.
        let index = if self.own.is_empty() { &self.kernel.modules } else { &self.own };
        let Ok(needs) = index.with_dependencies(&name) else { return State::Lacks(name) };
        for need in &needs {
            if self.initramfs.module(release, need).is_none() && !self.kernel.modules.is_builtin(need) {
                return State::Lacks(need.clone());
            }
            if let Some((_, by)) = self.barred.iter().find(|(barred, _)| barred == need) {
                return State::Barred(by.clone());
            }
        }
        State::Here
    }

    /// Returns why it cannot be told that the initramfs loads its modules and mounts the root filesystem.
    fn unable(&self, early: &Early, is_all_builtin: bool) -> Option<String> {
        let Early { initramfs, maker } = early;
        if *maker == Maker::Unknown {
            return Some("mif does not know the program that made it".into());
        }
        // udev loads drivers by the aliases of devices.
        let loads = initramfs.has("lib/udev/rules.d/80-drivers.rules") || *maker == Maker::Mkinitfs;
        if !loads && !is_all_builtin {
            return Some("it has no rule of udev that loads drivers".into());
        }
        None
    }
}
