//! `push`, `pull` and `copy`: their arguments, and their report as text.

use std::ffi::OsString;
use std::fmt::Write as _;

use clap::Args;
use clap::builder::OsStringValueParser;
use mif::store::{ImageName, Store, StorePlace};
use mif::{CopyReport, Result, Versions};

use super::common::Filter;
use super::context::{Answer, Context};
use super::print::complain_of;
use super::text::{counted, printable, size};

/// Which images are copied.
#[derive(Args)]
pub(super) struct Copied {
    /// Images to copy: NAME for all its versions, or NAME@VERSION or NAME@TAG
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Copy every image
    #[arg(long, conflicts_with = "images")]
    all: bool,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Args)]
pub(super) struct Push {
    #[command(flatten)]
    copied: Copied,
    /// The store to copy to, which is created if it does not exist: a directory or a URL
    #[arg(long, value_name = "STORE", value_parser = OsStringValueParser::new())]
    to: OsString,
}

#[derive(Args)]
pub(super) struct Pull {
    #[command(flatten)]
    copied: Copied,
    /// The store to copy from: a directory or a URL
    #[arg(long, value_name = "STORE", value_parser = OsStringValueParser::new())]
    from: OsString,
}

#[derive(Args)]
pub(super) struct Copy {
    #[command(flatten)]
    copied: Copied,
    /// The store to copy from: a directory or a URL
    #[arg(long, value_name = "STORE", value_parser = OsStringValueParser::new())]
    from: OsString,
    /// The store to copy to, which is created if it does not exist: a directory or a URL
    #[arg(long, value_name = "STORE", value_parser = OsStringValueParser::new())]
    to: OsString,
}

pub(super) const PUSH: &str = "\
Examples:
  mif push web --to s3://images/library       all versions of web, with their tags
  mif push web@golden --to /mnt/disk/store    one version
  mif push --all --to s3://images/library

Only objects that the other store lacks are sent. A copy that is interrupted goes on where it ended when the command \
is run again. Versions keep their numbers, tags and origins.";

pub(super) const PULL: &str = "\
Examples:
  mif pull web --from s3://images/library
  mif pull --only 'ci-*' --newer-than 7d --from s3://images/library

Only objects that this store lacks are fetched, and each is verified. A copy that is interrupted goes on where it ended \
when the command is run again.";

pub(super) const COPY: &str = "\
Examples:
  mif copy web --from s3://images/library --to gs://mirror/library
  mif copy --all --from mif-store --to /mnt/disk/store

Does the same as `mif push` and `mif pull`, between any two stores.";

impl Context {
    pub(super) fn push(&self, arguments: Push) -> Answer {
        self.copy_between(&self.global.store, &StorePlace::parse(&arguments.to)?, arguments.copied)
    }

    pub(super) fn pull(&self, arguments: Pull) -> Answer {
        self.copy_between(&StorePlace::parse(&arguments.from)?, &self.global.store, arguments.copied)
    }

    pub(super) fn copy(&self, arguments: Copy) -> Answer {
        let (from, to) = (StorePlace::parse(&arguments.from)?, StorePlace::parse(&arguments.to)?);
        self.copy_between(&from, &to, arguments.copied)
    }

    fn copy_between(&self, from: &StorePlace, to: &StorePlace, copied: Copied) -> Answer {
        let Copied { images, all, filter } = copied;
        let filter = filter.unless(!images.is_empty())?;
        if images.is_empty() && !all && filter.is_empty() {
            return Err(mif::Error::usage("expected images, a filter for images, or --all"));
        }
        let names = images.iter().map(|image| image.parse()).collect::<Result<Vec<ImageName>>>()?;
        let source = Store::open(from, &self.bar("store"))?;
        let (names, damaged) = match names.is_empty() {
            true => {
                let chosen = filter.choose_some(&source, Versions::All, &self.bar("images"))?;
                (chosen.names(), chosen.damaged)
            }
            false => (mif::named_images(&source, &names)?, Vec::new()),
        };
        let report = {
            let bar = self.bar("copy");
            let target = Store::open_or_create(to, &bar)?;
            mif::copy(&source, &target, &names, &bar)?
        };
        self.report(&report, text)?;
        for image in report.images.iter().filter(|_| !self.global.json) {
            if let Some(error) = &image.error {
                complain_of(error);
            }
        }
        Ok(report.is_complete() & self.none_damaged(&damaged))
    }
}

fn text(report: &CopyReport) -> String {
    let count = |result: &str| report.images.iter().filter(|image| image.result == result).count();
    let mut out = String::new();
    for image in report.images.iter().filter(|image| image.result == "copied") {
        let _ = writeln!(out, "{}: copied", printable(&image.image));
    }
    let _ = writeln!(
        out,
        "{} copied, {} already there, {} failed; {}; {} sent, {} saved; {:.1} s",
        count("copied"),
        count("unchanged"),
        count("failed"),
        counted(report.objects, "object"),
        size(report.bytes_sent),
        size(report.bytes_saved),
        report.seconds
    );
    for tag in &report.tags {
        let _ = writeln!(out, "tagged: {}", printable(tag));
    }
    out
}
