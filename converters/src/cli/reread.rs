//! `reread`: its arguments, and its reports as text.

use std::fmt::Write as _;

use clap::Args;
use mif::store::{ImageName, Store};
use mif::{RereadOptions, RereadReport, Result};

use super::common::command_line;
use super::context::{Answer, Context};
use super::text::{counted, printable, size};

#[derive(Args)]
pub(super) struct Reread {
    /// Images in the store: NAME[@VERSION|@TAG]
    #[arg(value_name = "IMAGE", required_unless_present = "all", conflicts_with = "all")]
    images: Vec<String>,
    /// Reread the newest version of every image in the store
    #[arg(long)]
    all: bool,
    /// Publish the new description under this name [default: the image's own, as its next version]
    #[arg(long = "as", value_name = "NAME", conflicts_with = "all")]
    name: Option<String>,
    /// Number of threads [default: the number of processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
}

pub(super) const EXAMPLES: &str = "\
Examples:
  mif reread web          also list filesystems that mif could not read at import
  mif reread --all        every image
  mif rm web@1 && mif gc  then free what only the old description needs

The disk is read from the store; the file that it was imported from is not needed. Every bit of the new version is \
compared with the old one before it is published. If today's readers describe the disk as the store does, no version \
is made. Tags stay on the old version.

An old version is reread only if the newest one has the same bits, or under another name with --as. With several \
images, the others are still reread if one fails, and the exit code is 1. Run the same command again to resume.";

impl Context {
    pub(super) fn reread(&self, arguments: Reread) -> Answer {
        let Reread { images, all: _, name, threads } = arguments;
        let names = images.iter().map(|image| image.parse()).collect::<Result<Vec<ImageName>>>()?;
        if name.is_some() && names.len() > 1 {
            return Err(mif::Error::usage("--as needs a single image"));
        }
        let options = RereadOptions { name, threads: threads.map(usize::from), command: command_line() };
        let store = Store::open(&self.global.store, &self.bar("store"))?;
        let [image] = &names[..] else { return self.reread_all(&store, &names, &options) };
        let report = {
            let bar = self.image_bar(&image.to_string());
            mif::reread(&store, image, &options, &bar)?
        };
        self.report(&report, text)?;
        Ok(true)
    }
}

fn text(report: &RereadReport) -> String {
    let RereadReport { parent, image, before, counts, added, .. } = report;
    let (parent, image) = (printable(parent), printable(image));
    let mut out = String::new();
    if report.result == "unchanged" {
        let _ = match image == parent {
            true => writeln!(out, "{parent}: already described by today's readers"),
            false => writeln!(out, "{parent}: already described by today's readers, as {image}"),
        };
    } else {
        let _ = writeln!(out, "{parent}: reread as {image}, with the same bits");
        if !report.volumes.is_empty() {
            let _ = writeln!(
                out,
                "  volumes listed for the first time: {}",
                printable(&report.volumes.join(", "))
            );
        }
        let _ = writeln!(
            out,
            "  {} disk: {} with {} of content, {} of residue, {} zero; before, {} and {} of residue",
            size(report.disk_size),
            counted(counts.files, "file"),
            size(counts.content_bytes),
            size(counts.residue_bytes),
            size(counts.zero_bytes),
            counted(before.files, "file"),
            size(before.residue_bytes),
        );
        let _ = writeln!(
            out,
            "  new to the store: {}, stored in {}; verified; {:.1} s",
            size(added.bytes),
            size(added.stored_bytes + report.manifest_bytes),
            report.seconds
        );
    }
    for repaired in &report.repaired {
        let _ = writeln!(out, "  repaired: {}", printable(repaired));
    }
    for warning in &report.warnings {
        let _ = writeln!(out, "  warning: {}", printable(warning));
    }
    out
}
