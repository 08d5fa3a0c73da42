//! `push`, `pull` and `copy`: their arguments, and their report as text.

use std::ffi::OsString;
use std::fmt::Write as _;

use clap::builder::OsStringValueParser;
use clap::{Args, ValueEnum};
use mif::store::{DiskForm, Image, ImageName, Selector, Store, StorePlace};
use mif::{CopyReport, Result, Versions};

use super::common::Filter;
use super::context::{Answer, Context};
use super::print::complain_of;
use super::text::{counted, printable, size};

/// Which images are copied.
#[derive(Args)]
pub(super) struct Copied {
    /// Images to copy: NAME for all its versions, or NAME@VERSION or NAME@TAG; for `push` and `pull` also the
    /// repository of a registry, as oci://HOST/REPOSITORY[:TAG]
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
    to: Option<OsString>,
    /// What the registry gets: `mif`, an image for `mif pull`; `kubevirt`, a containerDisk; or `kubevirt-disk`, an artifact
    /// that is the qcow2 file
    #[arg(long = "as", value_name = "FORM", default_value = "mif")]
    form: Form,
}

/// What a registry gets.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Mif,
    Kubevirt,
    KubevirtDisk,
}

#[derive(Args)]
pub(super) struct Pull {
    #[command(flatten)]
    copied: Copied,
    /// The store to copy from: a directory or a URL
    #[arg(long, value_name = "STORE", value_parser = OsStringValueParser::new())]
    from: Option<OsString>,
    /// The name of an image that another program has put into a registry [default: the repository's last part]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
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
  mif push web@3 oci://ghcr.io/anna/images:web-3     into a registry; the tag is web-3 if none is given
  mif push web oci://ghcr.io/anna/web:latest --as kubevirt

Only objects that the other store lacks are sent. A copy that is interrupted goes on where it ended when the command \
is run again. Versions keep their numbers, tags and origins.";

pub(super) const PULL: &str = "\
Examples:
  mif pull web --from s3://images/library
  mif pull --only 'ci-*' --newer-than 7d --from s3://images/library
  mif pull oci://ghcr.io/anna/images:web-3           what a registry has under a tag
  mif pull oci://quay.io/containerdisks/fedora:42 --name fedora

Only objects that this store lacks are fetched, and each is verified. A copy that is interrupted goes on where it ended \
when the command is run again.";

pub(super) const COPY: &str = "\
Examples:
  mif copy web --from s3://images/library --to gs://mirror/library
  mif copy --all --from mif-store --to /mnt/disk/store

Does the same as `mif push` and `mif pull`, between any two stores.";

impl Copied {
    /// Returns true if no images are chosen, by any means.
    fn names_nothing(&self) -> bool {
        self.images.is_empty() && !self.all && self.filter.is_empty()
    }

    /// Takes the repository of a registry out of the images, or else the store that the option names.
    fn other_store(&mut self, named: Option<OsString>, option: &str) -> Result<StorePlace> {
        let is_place = |image: &String| image.contains("://");
        let (mut places, images) =
            std::mem::take(&mut self.images).into_iter().partition::<Vec<_>, _>(is_place);
        self.images = images;
        places.extend(named.as_ref().map(|named| named.to_string_lossy().into_owned()));
        match &places[..] {
            [_] => StorePlace::parse(&named.unwrap_or_else(|| places[0].clone().into())),
            [] => {
                Err(mif::Error::usage(format!("expected a store: {option} STORE, or oci://HOST/REPOSITORY")))
            }
            _ => Err(mif::Error::usage(format!("more than one store: {}", places.join(", ")))),
        }
    }
}

impl Context {
    pub(super) fn push(&self, arguments: Push) -> Answer {
        let Push { mut copied, to, form } = arguments;
        let to = copied.other_store(to, "--to")?;
        let form = match form {
            Form::Mif => return self.copy_between(&self.global.store, &to, copied),
            Form::Kubevirt => DiskForm::Container,
            Form::KubevirtDisk => DiskForm::Artifact,
        };
        copied.filter.unless(true)?;
        self.push_for_kubevirt(&to, &copied.images, form)
    }

    pub(super) fn pull(&self, arguments: Pull) -> Answer {
        let Pull { mut copied, from, name } = arguments;
        let from = copied.other_store(from, "--from")?;
        if copied.names_nothing()
            && let Some(answer) = self.pull_foreign(&from, name.as_deref())?
        {
            return Ok(answer);
        }
        if name.is_some() {
            return Err(mif::Error::usage(
                "--name is for images that another program has put into a registry",
            )
            .advise("An image of mif keeps its name"));
        }
        self.copy_between(&from, &self.global.store, copied)
    }

    pub(super) fn copy(&self, arguments: Copy) -> Answer {
        let (from, to) = (StorePlace::parse(&arguments.from)?, StorePlace::parse(&arguments.to)?);
        self.copy_between(&from, &to, arguments.copied)
    }

    fn copy_between(&self, from: &StorePlace, to: &StorePlace, copied: Copied) -> Answer {
        let Copied { images, all, filter } = copied;
        let filter = filter.unless(!images.is_empty())?;
        // A registry's tag names one image.
        if images.is_empty() && !all && filter.is_empty() && !from.is_tag() {
            return Err(mif::Error::usage("expected images, a filter for images, or --all"));
        }
        let names = images.iter().map(|image| image.parse()).collect::<Result<Vec<ImageName>>>()?;
        let source = Store::open(from, &self.bar("store"))?;
        let (names, damaged) = match names.is_empty() {
            true => {
                let chosen = filter.choose_some(&source, Versions::All, &self.bar("images"))?;
                (chosen.names(), chosen.damaged)
            }
            // A tag is for one version.
            false if to.is_tag() => {
                let newest = |name: &ImageName| {
                    let Image { name, version, .. } = source.image(name)?.image;
                    Ok(ImageName { name, version: Selector::Number(version) })
                };
                (names.iter().map(newest).collect::<Result<_>>()?, Vec::new())
            }
            false => (mif::named_images(&source, &names)?, Vec::new()),
        };
        if let StorePlace::Registry(place) = to
            && let Some(reference) = &place.reference
        {
            let problem = match &names[..] {
                _ if place.is_digest() => Some(format!("{to}: an image is pushed to a tag, not to a digest")),
                [_] => None,
                names => Some(format!("{to}: {} images for the one tag {reference}", names.len())),
            };
            if let Some(problem) = problem {
                return Err(
                    mif::Error::usage(problem).advise("Without a tag, each image gets its own: NAME-VERSION")
                );
            }
        }
        let report = {
            let bar = self.bar("copy");
            let target = Store::open_or_create(to.storage_to_fill()?, &bar)?;
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

/// What a registry takes: without requests, nothing.
#[cfg(not(feature = "remote"))]
impl Context {
    fn push_for_kubevirt(&self, to: &StorePlace, _: &[String], _: DiskForm) -> Answer {
        to.storage_to_fill().map(|_| false)
    }

    fn pull_foreign(&self, _: &StorePlace, _: Option<&str>) -> Result<Option<bool>> {
        Ok(None)
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
