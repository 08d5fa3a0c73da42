//! `update` and `replace`: their arguments, and their report as text.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};
use mif::store::{ImageName, Store};
use mif::{ImageResult, Result, UpdateCounts, UpdateOptions, UpdateReport, UpdatedImage, Winner};
use mif_formats::fs::Timestamp;

use super::common::command_line;
use super::context::{Answer, Context};
use super::text::{printable, size};

#[derive(Subcommand)]
pub(super) enum Update {
    /// Apply the changes between two images to other images
    #[command(after_help = "\
Examples:
  mif update --from debian@1 --to debian@2 web db       make new versions of web and db
  mif update --from debian@1 --to debian@2 --all        update all other images
  mif update --from debian@1 --to debian@2 --all --dry-run
  mif update --from debian@1 --to debian@2 web --on-conflict image

A changed path is updated if the image has the same file there as --from. If the image has changed that path itself, \
that is a conflict: the report lists it, and the image is left unchanged unless --on-conflict chooses a side. Package \
and account databases are merged entry by entry. Logs, host keys and host names are skipped, and so are caches that \
both sides changed. docs/update.md has the rules. Exits 1 if any image has a conflict or was refused.")]
    Update {
        /// Image before the update: NAME[@VERSION|@TAG] in the store
        #[arg(long, value_name = "IMAGE")]
        from: String,
        /// Image after the update
        #[arg(long, value_name = "IMAGE")]
        to: String,
        /// Side to take if both changed the same path: keep the image's file, or take the update's
        #[arg(long, value_name = "WHO")]
        on_conflict: Option<Who>,
        #[command(flatten)]
        images: Images,
    },
    /// Replace a file's content wherever stored images have it
    #[command(after_help = "\
Examples:
  mif replace --old libz.so.1.2.13 --new libz.so.1.2.13.fixed --all
  mif replace --old 2fd4e1c67a2d28fced849ee1bb76e7391b93eb12 --new motd web db@3 --dry-run

The files keep their names, owners, modes and attributes, and get a new modification time. Hard links stay linked. \
Exits 1 if any image was refused.")]
    Replace {
        /// Content to replace: a local file, or the content's SHA-1
        #[arg(long, value_name = "FILE|SHA1")]
        old: PathBuf,
        /// Local file with the new content
        #[arg(long, value_name = "FILE")]
        new: PathBuf,
        #[command(flatten)]
        images: Images,
    },
}

#[derive(Args)]
pub(super) struct Images {
    /// Images in the store, each of which gets a new version: NAME[@VERSION|@TAG]
    #[arg(value_name = "IMAGE", required_unless_present = "all", conflicts_with = "all")]
    images: Vec<String>,
    /// Use the newest version of every image in the store
    #[arg(long)]
    all: bool,
    /// Show what would be done without doing it
    #[arg(long)]
    dry_run: bool,
    /// Time of the change, in seconds since 1970, for reproducible images [default: now]
    #[arg(
        long,
        value_name = "SECONDS",
        env = "SOURCE_DATE_EPOCH",
        hide_env_values = true,
        allow_negative_numbers = true
    )]
    time: Option<i64>,
}

/// Which side wins a conflict: the image, which keeps its file, or the update.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Who {
    Image,
    Update,
}

impl Images {
    fn options(&self, on_conflict: Option<Who>) -> Result<UpdateOptions> {
        let names = self.images.iter().map(|name| name.parse::<ImageName>());
        let names = names.collect::<Result<Vec<_>>>()?;
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        Ok(UpdateOptions {
            images: (!self.all).then_some(names),
            winner: on_conflict.map(|who| match who {
                Who::Image => Winner::Image,
                Who::Update => Winner::Update,
            }),
            time: Timestamp { secs: self.time.unwrap_or_else(now), nanos: 0 },
            dry_run: self.dry_run,
            command: command_line(),
        })
    }
}

impl Context {
    pub(super) fn update(&self, command: Update) -> Answer {
        let report = match command {
            Update::Update { from, to, on_conflict, images } => {
                let options = images.options(on_conflict)?;
                let names = [from.parse()?, to.parse()?];
                let store = Store::open(&self.global.store, &self.bar("store"))?;
                let [from, to] = [store.image(&names[0])?, store.image(&names[1])?];
                mif::update(&store, &from, &to, &options, &self.bar("update"))?
            }
            Update::Replace { old, new, images } => {
                let options = images.options(None)?;
                let store = Store::open(&self.global.store, &self.bar("store"))?;
                mif::replace(&store, &old, &new, &options, &self.bar("replace"))?
            }
        };
        self.report(&report, text)?;
        self.warn(&report.warnings);
        Ok(report.conflict + report.refused == 0)
    }
}

/// The maximum number of paths of a kind that are shown; JSON lists all.
const SHOWN: usize = 20;

fn text(report: &UpdateReport) -> String {
    let mut out = String::new();
    let [from, to] = [&report.between[0], &report.between[1]].map(|text| printable(text));
    let _ = match report.paths {
        Some(1) => writeln!(out, "{from} to {to}: 1 path changes"),
        Some(paths) => writeln!(out, "{from} to {to}: {paths} paths change"),
        None => writeln!(out, "{from} becomes {to}"),
    };
    let width = report.images.iter().map(|image| image.image.len()).max().unwrap_or(0);
    for image in &report.images {
        let _ = writeln!(out, "{:<width$}  {}", printable(&image.image), result(image, report.dry_run));
        details(image, report, &mut out);
    }
    let UpdateReport { applied, unchanged, conflict, refused, .. } = report;
    let would = if report.dry_run { "would be " } else { "" };
    let _ = write!(
        out,
        "{would}applied to {applied}; {unchanged} with nothing to do, {conflict} with conflicts, {refused} refused"
    );
    if !report.dry_run {
        let (bytes, stored) = (size(report.added.bytes), size(report.added.stored_bytes));
        let _ = write!(out, "; new to the store: {bytes}, stored in {stored}");
    }
    let _ = writeln!(out, "; {:.1} s", report.seconds);
    out
}

/// Formats the result for one image in one line.
fn result(image: &UpdatedImage, dry_run: bool) -> String {
    match image.result {
        ImageResult::Applied if dry_run => format!("would be applied: {}", counts(&image.counts)),
        ImageResult::Applied => {
            let made = image.made.as_deref().unwrap_or_default();
            format!("applied as {}: {}", printable(made), counts(&image.counts))
        }
        ImageResult::Unchanged => "nothing to do".to_owned(),
        ImageResult::Conflict => format!("conflicts at {}; left unchanged", paths(image.conflicts.len())),
        ImageResult::Refused => {
            format!("refused: {}", printable(image.error.as_deref().unwrap_or_default()))
        }
    }
}

fn counts(counts: &UpdateCounts) -> String {
    let UpdateCounts { added, removed, changed, metadata } = counts;
    let parts =
        [(added, "added"), (removed, "removed"), (changed, "changed"), (metadata, "only in metadata")];
    let told = parts.iter().filter(|(n, _)| **n > 0).map(|(n, what)| format!("{n} {what}"));
    told.collect::<Vec<_>>().join(", ")
}

fn paths(count: usize) -> String {
    if count == 1 { "1 path".to_owned() } else { format!("{count} paths") }
}

/// Lists the conflicts, merged and skipped paths, and notes of an image.
fn details(image: &UpdatedImage, report: &UpdateReport, out: &mut String) {
    let mut list = |what: &str, lines: &[(&str, &str)]| {
        for (path, why) in lines.iter().take(SHOWN) {
            let why = if why.is_empty() { String::new() } else { format!(": {}", printable(why)) };
            let _ = writeln!(out, "    {what} {}{why}", printable(path));
        }
        if lines.len() > SHOWN {
            let _ = writeln!(out, "    and {} more; --json lists all", lines.len() - SHOWN);
        }
    };
    let what = match report.winner {
        None => "conflict",
        Some(Winner::Image) => "kept",
        Some(Winner::Update) => "overruled",
    };
    let conflicts: Vec<_> = image.conflicts.iter().map(|c| (&c.path[..], &c.why[..])).collect();
    list(what, &conflicts);
    if image.result == ImageResult::Applied {
        let merged: Vec<_> = image.merged.iter().map(|path| (&path[..], "")).collect();
        list("merged", &merged);
        let left: Vec<_> = image.left.iter().map(|left| (&left.path[..], &left.why[..])).collect();
        list("left", &left);
        let notes: Vec<_> = image.notes.iter().map(|note| (&note[..], "")).collect();
        list("note", &notes);
    }
}
