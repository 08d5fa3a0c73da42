//! What a check finds: a judgement on each subject, with its reason and what mends it.

use serde::Serialize;
use toml::{Table, Value};

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The partition table, and the sector size that it was made for.
    Table,
    /// What the firmware starts: boot code for a BIOS, a program for UEFI.
    Firmware,
    /// The boot loader's configuration, and the entry that it boots by default.
    Loader,
    /// The kernel and its modules.
    Kernel,
    /// The initramfs and the drivers in it.
    Initramfs,
    /// The root filesystem, as the kernel's command line names it.
    Root,
    /// The mounts of `/etc/fstab`.
    Mounts,
    /// The kernel's console.
    Console,
    /// The data sources of cloud-init.
    CloudInit,
    /// The driver of the network card, and what the configuration is bound to.
    Network,
}

impl Subject {
    /// Returns its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Subject::Table => "partition table",
            Subject::Firmware => "firmware",
            Subject::Loader => "boot loader",
            Subject::Kernel => "kernel",
            Subject::Initramfs => "initramfs",
            Subject::Root => "root",
            Subject::Mounts => "fstab",
            Subject::Console => "console",
            Subject::CloudInit => "cloud-init",
            Subject::Network => "network",
        }
    }

    /// Returns what goes wrong if it is bad.
    #[must_use]
    pub fn affects(self) -> Affects {
        match self {
            Subject::Console | Subject::CloudInit => Affects::Access,
            Subject::Network => Affects::Network,
            _ => Affects::Boot,
        }
    }
}

/// What depends on a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Affects {
    /// Whether the image boots.
    Boot,
    /// Whether it then has a network.
    Network,
    /// Whether its users then reach it: the console, and their keys.
    Access,
}

/// The judgement on a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// It is as the machine needs it.
    Good,
    /// It is not.
    Bad,
    /// It cannot be told from the image.
    Unknown,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What it is about.
    pub subject: Subject,
    /// What depends on it.
    pub affects: Affects,
    /// The judgement.
    pub verdict: Judgement,
    /// The path or the place on the disk that was looked at.
    pub looked_at: String,
    /// The reason, as a sentence.
    pub reason: String,
    /// What to do, as a sentence.
    pub advice: Option<String>,
    /// The edits that mend it, as tables of a recipe.
    pub remedy: Vec<Table>,
}

impl Finding {
    /// Says what to do.
    pub(super) fn advise(&mut self, advice: impl Into<String>) -> &mut Self {
        self.advice = Some(advice.into());
        self
    }

    /// Adds an edit that helps to mend it: its name in a recipe, and its fields.
    pub(super) fn mend(&mut self, edit: &str, fields: &[(&str, Value)]) -> &mut Self {
        let mut table: Table = [("do".to_owned(), Value::from(edit))].into_iter().collect();
        table.extend(fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        self.remedy.push(table);
        self
    }
}

/// The findings of a check, in the order of a boot.
#[derive(Debug, Default)]
pub(crate) struct Findings(pub(crate) Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        subject: Subject,
        verdict: Judgement,
        looked_at: impl Into<String>,
        reason: impl Into<String>,
    ) -> &mut Finding {
        self.0.push(Finding {
            subject,
            affects: subject.affects(),
            verdict,
            looked_at: looked_at.into(),
            reason: reason.into(),
            advice: None,
            remedy: Vec::new(),
        });
        self.0.last_mut().expect("one was added")
    }

    pub(super) fn good(
        &mut self,
        subject: Subject,
        looked_at: impl Into<String>,
        reason: impl Into<String>,
    ) -> &mut Finding {
        self.add(subject, Judgement::Good, looked_at, reason)
    }

    pub(super) fn bad(
        &mut self,
        subject: Subject,
        looked_at: impl Into<String>,
        reason: impl Into<String>,
    ) -> &mut Finding {
        self.add(subject, Judgement::Bad, looked_at, reason)
    }

    pub(super) fn unknown(
        &mut self,
        subject: Subject,
        looked_at: impl Into<String>,
        reason: impl Into<String>,
    ) -> &mut Finding {
        self.add(subject, Judgement::Unknown, looked_at, reason)
    }

    /// Returns the judgement on what affects `what`: bad if one finding is, unknown if one is or there is none.
    pub(crate) fn verdict(&self, what: Affects) -> Judgement {
        let mut all = self.0.iter().filter(|finding| finding.affects == what).peekable();
        if all.peek().is_none() {
            return Judgement::Unknown;
        }
        let verdicts: Vec<Judgement> = all.map(|finding| finding.verdict).collect();
        let worst = [Judgement::Bad, Judgement::Unknown];
        worst.into_iter().find(|verdict| verdicts.contains(verdict)).unwrap_or(Judgement::Good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_boots_only_if_every_finding_that_matters_is_good() {
        let mut findings = Findings::default();
        assert_eq!(findings.verdict(Affects::Boot), Judgement::Unknown);
        findings.good(Subject::Kernel, "", "");
        findings.bad(Subject::Network, "", "");
        assert_eq!(findings.verdict(Affects::Boot), Judgement::Good);
        assert_eq!(findings.verdict(Affects::Network), Judgement::Bad);
        findings.unknown(Subject::Root, "", "");
        assert_eq!(findings.verdict(Affects::Boot), Judgement::Unknown);
        findings.bad(Subject::Loader, "", "");
        assert_eq!(findings.verdict(Affects::Boot), Judgement::Bad);
    }
}
