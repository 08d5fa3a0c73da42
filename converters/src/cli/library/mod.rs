//! The verbs that keep a library of images: their arguments, and their reports as text.

mod args;
mod text;

use mif::store::{ImageName, Store};
use mif::{DiffOptions, FsckOptions, GcOptions, Grouping, PathGlob, Query, Result, WantedContents};

pub(super) use self::args::Library;
use super::common::{open_options, volume_path};
use super::context::{Answer, Context};
use super::csv;

impl Context {
    pub(super) fn library(&self, command: Library) -> Answer {
        let path = &self.global.store;
        match command {
            Library::Log { name } => {
                let name = name.map(|name| name.parse::<ImageName>()).transpose()?;
                let store = Store::open(path, &self.bar("store"))?;
                let report = mif::log(&store, name.as_ref().map(|n| n.name.as_str()))?;
                self.report(&report, text::log)?;
                return Ok(self.none_damaged(&report.damaged));
            }
            Library::Tag { image, tag, delete } => {
                let (store, image) = (Store::open(path, &self.bar("store"))?, image.parse()?);
                let (tag, verb) = match tag {
                    Some(tag) if !delete => (mif::tag(&store, &image, &tag)?, "is"),
                    _ => (mif::untag(&store, &image)?, "is no longer"),
                };
                self.report(&tag, |tag| text::tag(tag, verb))?;
            }
            Library::Rm { images, force } => {
                let names = images.iter().map(|name| name.parse()).collect::<Result<Vec<ImageName>>>()?;
                let report = mif::rm(&Store::open_to_remove(path, &self.bar("rm"))?, &names, force)?;
                self.report(&report, text::rm)?;
            }
            Library::Gc { keep_last, keep_within, dry_run } => {
                let options = GcOptions { keep_last, keep_within, dry_run };
                let bar = self.bar("gc");
                let store = match dry_run {
                    true => Store::open(path, &bar)?,
                    false => Store::open_to_remove(path, &bar)?,
                };
                let report = mif::gc(&store, &options, &bar)?;
                drop(bar);
                self.report(&report, text::gc)?;
                self.none_damaged(&report.damaged);
                self.warn(&report.warnings);
                return Ok(report.whole);
            }
            Library::Fsck { repair, from, list, open } => {
                let (mut open, bar) = (open_options(open), self.bar("fsck"));
                let from = if from.is_empty() { from } else { mif::disk_images(&from, &mut open, &bar)? };
                let options = FsckOptions { repair, from, open };
                options.check()?;
                let store = match repair {
                    true => Store::open_to_repair(path, &bar)?,
                    false => Store::open(path, &bar)?,
                };
                let report = mif::fsck(&store, &options, &bar)?;
                drop(bar);
                self.report(&report, |report| text::fsck(report, path, list))?;
                return Ok(report.clean);
            }
            Library::Diff { a, b, path, content, ignore_times, by, depth, summary, open } => {
                let options = DiffOptions {
                    path: path.as_ref().map(volume_path),
                    ignore_times,
                    by: by.map(|by| match by {
                        args::By::Folder => Grouping::Folder(depth),
                        args::By::Package => Grouping::Package,
                    }),
                    content,
                };
                let open = open_options(open);
                let (a, b) = (self.open(&a, &open)?, self.open(&b, &open)?);
                let report = mif::diff(&a, &b, &options, &self.bar("diff"))?;
                self.report(&report, |report| text::diff(report, summary))?;
                self.warn(&report.warnings);
                return Ok(report.same);
            }
            Library::Packages { image, name, csv, csv_safe, open } => {
                let image = image.map(|image| self.open(&image, &open_options(open))).transpose()?;
                let report = mif::packages(path, image.as_ref(), name.as_deref(), &self.bar("packages"))?;
                match csv {
                    true => self.table(&report, |report| csv::packages(report, csv_safe))?,
                    false => self.report(&report, text::packages)?,
                }
                self.warn(&report.warnings);
                return Ok(self.none_damaged(&report.damaged) && !report.packages.is_empty());
            }
            Library::Search(search) => {
                let (csv, csv_safe) = (search.csv, search.csv_safe);
                let query = query(*search)?;
                let report =
                    mif::search(&Store::open(path, &self.bar("store"))?, &query, &self.bar("search"))?;
                match csv {
                    true => self.table(&report, |report| csv::search(report, csv_safe))?,
                    false => self.report(&report, text::search)?,
                }
                return Ok(self.none_damaged(&report.damaged) && !report.hits.is_empty());
            }
            Library::Stats { similarity } => {
                let report =
                    mif::stats(&Store::open(path, &self.bar("store"))?, similarity, &self.bar("stats"))?;
                self.report(&report, text::stats)?;
                return Ok(self.none_damaged(&report.damaged));
            }
        }
        Ok(true)
    }
}

fn query(search: args::Search) -> Result<Query> {
    let glob = |text: Option<String>| text.map(|text| PathGlob::new(&text)).transpose();
    let mut contents = WantedContents::default();
    search.file.iter().try_for_each(|file| contents.add_file(file))?;
    search.sha1.iter().try_for_each(|hex| contents.add_sha1(hex))?;
    search.blake3.iter().try_for_each(|hex| contents.add_blake3(hex))?;
    search.sha1_file.iter().try_for_each(|list| contents.add_sha1_list(list))?;
    let by_content = [search.file.len(), search.sha1.len(), search.blake3.len(), search.sha1_file.len()];
    let mtime = match (search.newer, search.older) {
        (None, None) => None,
        (from, before) => {
            Some(from.unwrap_or(i64::MIN)..=before.map_or(i64::MAX, |before| before.saturating_sub(1)))
        }
    };
    Ok(Query {
        images: search.image.iter().map(|name| name.parse()).collect::<Result<_>>()?,
        all_versions: search.all_versions,
        path: glob(search.pattern)?,
        contents: by_content.iter().any(|n| *n > 0).then_some(contents),
        file_type: search.file_type,
        uid: search.uid,
        gid: search.gid,
        mode: search.mode.unwrap_or(0),
        mode_any: if search.setuid { 0o6000 } else { 0 },
        size: search.size,
        mtime,
        xattr: glob(search.xattr)?,
    })
}
