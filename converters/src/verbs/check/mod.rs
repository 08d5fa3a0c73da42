//! `check`: whether an image boots on a target, and what mends it.

mod fix;

use std::sync::Arc;
use std::time::Instant;

use mif_formats::Source;
use mif_formats::partition::Table;
use serde::Serialize;

pub use self::fix::{FixOptions, FixReport, check_and_fix};
use crate::boot::machine::{Card, Controller, Firmware, Hardware};
use crate::boot::{self, Affects, Finding, Findings, Judgement, Look, Machine};
use crate::deliver::platform::Platform;
use crate::disk::scan::{Scan, ScannedVolume};
use crate::edit::Recipe;
use crate::error::{Error, Result};
use crate::image::{OpenImage, Origin, tree_of_scan};
use crate::store::VolumeRecord;
use crate::task::progress::Progress;
use crate::tree::view::Tree;

/// The machine to check an image for. What is `None` is the target's default.
#[derive(Debug, Clone, Copy)]
pub struct CheckOptions {
    /// The target.
    pub target: &'static Platform,
    /// The firmware that starts the machine.
    pub firmware: Option<Firmware>,
    /// The controller of its disk.
    pub disk: Option<&'static Controller>,
    /// Its network card.
    pub nic: Option<&'static Card>,
}

/// The report of `check`.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// The file, or `name@version`.
    pub image: String,
    /// The target.
    pub target: &'static str,
    /// The firmware that was assumed.
    pub firmware: Firmware,
    /// The controller that was assumed.
    pub disk: &'static str,
    /// The network card that was assumed.
    pub nic: &'static str,
    /// Whether it boots: only if every finding that this depends on is good.
    pub verdict: Verdict,
    /// Whether it then has a network.
    pub network: Judgement,
    /// Whether its users then reach it.
    pub access: Judgement,
    /// Everything that was looked at, in the order of a boot.
    pub findings: Vec<Finding>,
    /// A firmware of the target by which it boots instead.
    pub other_firmware: Option<Firmware>,
    /// The edits that mend what edits can, as a recipe of `customize`.
    pub recipe: Option<String>,
    /// Warnings about what could not be read, as sentences.
    pub warnings: Vec<String>,
    /// The duration in seconds.
    pub seconds: f64,
}

/// Whether an image boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It does.
    Boots,
    /// It does not.
    DoesNotBoot,
    /// It cannot be told.
    Unknown,
}

impl Verdict {
    fn of(findings: &Findings) -> Self {
        match findings.verdict(Affects::Boot) {
            Judgement::Good => Verdict::Boots,
            Judgement::Bad => Verdict::DoesNotBoot,
            Judgement::Unknown => Verdict::Unknown,
        }
    }

    /// Returns the verdict for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Boots => "boots",
            Verdict::DoesNotBoot => "does not boot",
            Verdict::Unknown => "unknown",
        }
    }
}

/// An image with all that a check looks at.
struct Read {
    tree: Tree,
    disk: Arc<dyn Source>,
    table: Table,
    volumes: Vec<VolumeRecord>,
}

impl Read {
    fn new(image: &OpenImage) -> Result<Self> {
        Ok(match &image.origin {
            Origin::Stored { stored, .. } => Read {
                tree: image.tree()?,
                disk: image.disk()?,
                table: stored.image.table.clone(),
                volumes: stored.image.volumes.clone(),
            },
            Origin::File { container } => {
                let scan = Arc::new(Scan::new(container.source.clone())?);
                Read {
                    tree: tree_of_scan(&scan)?,
                    disk: scan.disk.clone(),
                    table: scan.table.clone(),
                    volumes: scan.volumes.iter().map(ScannedVolume::record).collect(),
                }
            }
        })
    }
}

/// Checks whether an image boots on a target.
pub fn check(image: &OpenImage, options: &CheckOptions, progress: &dyn Progress) -> Result<CheckReport> {
    let started = Instant::now();
    let machine = options.machine()?;
    progress.stage("reading", 0);
    let read = Read::new(image)?;
    let Read { tree, disk, table, volumes } = &read;
    let look = Look { tree, disk: disk.clone(), table, volumes };
    progress.stage("checking", 0);
    let findings = boot::judge(&look, &machine);
    let verdict = Verdict::of(&findings);
    // Another firmware is advice, unless the user chose one.
    let others = machine.hardware.firmware.iter().filter(|it| **it != machine.firmware);
    let other_firmware = match verdict == Verdict::Boots || options.firmware.is_some() {
        true => None,
        false => others.copied().find(|firmware| {
            Verdict::of(&boot::judge(&look, &Machine { firmware: *firmware, ..machine })) == Verdict::Boots
        }),
    };
    let (network, access) = (findings.verdict(Affects::Network), findings.verdict(Affects::Access));
    let recipe = fix::recipe(&findings.0);
    Ok(CheckReport {
        image: image.label.clone(),
        target: options.target.name,
        firmware: machine.firmware,
        disk: machine.controller.name,
        nic: machine.card.name,
        verdict,
        network,
        access,
        other_firmware,
        recipe: recipe.as_ref().map(Recipe::to_toml),
        findings: findings.0,
        warnings: read.tree.complaints.clone(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

impl CheckOptions {
    /// Returns the machine. Fails if the target does not offer it.
    fn machine(&self) -> Result<Machine> {
        let hardware = Hardware::of(self.target.name).expect("every target has hardware");
        let title = self.target.title;
        let firmware = match self.firmware {
            Some(firmware) if !hardware.firmware.contains(&firmware) => {
                return Err(Error::usage(format!("{title} has no {}", firmware.name())));
            }
            chosen => chosen.unwrap_or(hardware.firmware[0]),
        };
        let controller = match self.disk {
            Some(disk) if !hardware.disks.contains(&disk.name) => {
                let all = hardware.disks.join(", ");
                return Err(Error::usage(format!("{title} has no disks on {}", disk.name))
                    .advise(format!("Its disks are on {all}")));
            }
            Some(disk) => disk,
            None => Controller::find(hardware.disks[0])?,
        };
        let card = match self.nic {
            Some(card) if !hardware.cards.contains(&card.name) => {
                let all = hardware.cards.join(", ");
                return Err(Error::usage(format!("{title} has no network card {}", card.name))
                    .advise(format!("Its cards are {all}")));
            }
            Some(card) => card,
            None => Card::find(hardware.cards[0])?,
        };
        Ok(Machine { hardware, firmware, controller, card })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::machine::HARDWARE;
    use crate::deliver::platform::PLATFORMS;

    #[test]
    fn every_target_has_a_machine() {
        let targets: Vec<&str> = PLATFORMS.iter().map(|it| it.name).collect();
        let machines: Vec<&str> = HARDWARE.iter().map(|it| it.target).collect();
        assert_eq!(targets, machines);
        for target in PLATFORMS {
            let options = CheckOptions { target, firmware: None, disk: None, nic: None };
            assert!(options.machine().is_ok());
        }
    }

    #[test]
    fn hardware_that_a_target_lacks_is_refused() {
        let target = Platform::find("lima").unwrap();
        let disk = Controller::find("megasas").ok();
        let error = CheckOptions { target, firmware: None, disk, nic: None }.machine().unwrap_err();
        assert!(error.to_string().contains("no disks on megasas"), "{error}");
    }
}
