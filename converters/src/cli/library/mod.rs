//! The verbs that keep a library of images: their arguments, and their reports as text.

mod args;
mod diff;
mod order;
mod page;
mod text;

use std::cmp::Reverse;
use std::io::IsTerminal;

use mif::store::{Image, ImageName, Store};
use mif::{
    BomFormat, CatalogOptions, DiffOptions, FsckOptions, GcOptions, Grouping, PackageQuery, PathGlob, Period,
    Query, Result, RmOptions, ToldImage, Versions, WantedContents,
};

pub(super) use self::args::Library;
use self::args::PackageFormat;
use super::common::{Filter, ImageKey, Open, open_options, volume_path};
use super::context::{Answer, Context};
use super::csv;
use super::print::{note, print_exactly, print_json, warn};

impl Context {
    pub(super) fn library(&self, command: Library) -> Answer {
        let path = &self.global.store;
        match command {
            Library::Log { name, no_pager } => {
                let name = name.map(|name| name.parse::<ImageName>()).transpose()?;
                let store = Store::open(path, &self.bar("store"))?;
                let report = mif::log(&store, name.as_ref().map(|n| n.name.as_str()))?;
                self.report_paged(&report, no_pager, text::log)?;
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
            Library::Rm { images, force, dry_run, filter } => {
                let (filter, bar) = (filter.images(), self.bar("rm"));
                let mut names = images.iter().map(|name| name.parse()).collect::<Result<Vec<ImageName>>>()?;
                let store = match dry_run {
                    true => Store::open(path, &bar)?,
                    false => Store::open_to_remove(path, &bar)?,
                };
                let mut damaged = Vec::new();
                if !filter.is_empty() {
                    let chosen = filter.choose_some(&store, Versions::All, &bar)?;
                    names = chosen.names();
                    damaged = chosen.damaged;
                }
                let report = mif::rm(&store, &names, RmOptions { force, dry_run })?;
                self.report(&report, text::rm)?;
                return Ok(self.none_damaged(&damaged));
            }
            Library::Gc {
                keep_last,
                keep_within,
                keep_hourly,
                keep_daily,
                keep_weekly,
                keep_monthly,
                keep_yearly,
                keep_tag,
                dry_run,
            } => {
                let periods = [
                    (Period::Hour, keep_hourly),
                    (Period::Day, keep_daily),
                    (Period::Week, keep_weekly),
                    (Period::Month, keep_monthly),
                    (Period::Year, keep_yearly),
                ];
                let keep_periods =
                    periods.into_iter().filter_map(|(period, count)| Some((period, count?))).collect();
                let options =
                    GcOptions { keep_last, keep_within, keep_periods, keep_tags: keep_tag, dry_run };
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
            Library::Catalog { rm: true, .. } => {
                let store = Store::open_to_remove(path, &self.bar("store"))?;
                self.report(&mif::remove_catalog(&store)?, text::catalog_removal)?;
            }
            Library::Catalog { dry_run, check, rm: false } => {
                let options = CatalogOptions { dry_run, check };
                let report = mif::catalog(path, options, &self.bar("catalog"))?;
                self.report(&report, text::catalog)?;
                self.warn(&report.warnings);
                return Ok(self.none_damaged(&report.damaged));
            }
            Library::Fsck { repair, from, list, open } => {
                let (mut open, bar) = (open_options(open)?, self.bar("fsck"));
                let from = if from.is_empty() { from } else { mif::disk_images(&from, &mut open, &bar)? };
                let options = FsckOptions { repair, from, open };
                options.check()?;
                let store = match repair {
                    true => Store::open_to_repair(path, &bar)?,
                    false => Store::open(path, &bar)?,
                };
                let report = mif::fsck(&store, &options, &bar)?;
                drop(bar);
                store.note_check("fsck", report.verdict.name());
                self.report(&report, |report| text::fsck(report, path, list))?;
                return Ok(report.clean);
            }
            Library::Diff {
                a,
                b,
                path,
                content,
                text,
                stat,
                times,
                ignore_times,
                exit_code: _,
                sort,
                limit,
                by,
                depth,
                summary,
                why,
                no_pager,
                open,
            } => {
                let options = DiffOptions {
                    path: path.as_ref().map(volume_path),
                    ignore_times,
                    by: by.map(|by| match by {
                        args::By::Folder => Grouping::Folder(depth),
                        args::By::Package => Grouping::Package,
                    }),
                    content: content || text || stat,
                    whole_texts: text || stat,
                    why,
                };
                let open = open_options(open)?;
                let (a, b) = (self.open(&a, &open)?, self.open(&b, &open)?);
                let mut report = mif::diff(&a, &b, &options, &self.bar("diff"))?;
                let left_out = order::changes(&mut report, sort, times || self.global.json, limit);
                let style = match (text, stat, summary || why) {
                    (true, ..) => diff::Style::Text,
                    (_, true, _) => diff::Style::Stat,
                    (.., true) => diff::Style::Summary,
                    _ => diff::Style::List { times },
                };
                match text && !self.global.json && !std::io::stdout().is_terminal() {
                    true => print_exactly(&diff::report(&report, style))?,
                    false => self.report_paged(&report, no_pager, |report| diff::report(report, style))?,
                }
                self.left_out(left_out);
                self.warn(&report.warnings);
                return Ok(report.same && report.why.as_ref().is_none_or(Vec::is_empty));
            }
            Library::Packages {
                image,
                name,
                below,
                above,
                is,
                group,
                sort,
                limit,
                format,
                csv,
                csv_safe,
                filter,
                files,
                image_format,
            } => {
                let images = filter.unless(image.is_some())?;
                let open = Open { format: image_format, files };
                let is_csv = csv || format == Some(PackageFormat::Csv);
                if csv_safe && !is_csv {
                    return Err(mif::Error::usage("--csv-safe needs --csv"));
                }
                if group && is_csv {
                    return Err(mif::Error::usage("--group cannot be printed as CSV"));
                }
                let is_limited = [&name, &below, &above, &is].iter().any(|criterion| criterion.is_some());
                let is_arranged = group || sort.is_some() || limit.is_some();
                if let Some(format) = bom_format(format) {
                    if is_limited || is_arranged {
                        return Err(mif::Error::usage(
                            "a bill of materials has all packages: --format spdx-json and \
                            cyclonedx-json take no --name, --below, --above, --is, --group, --sort and --limit",
                        ));
                    }
                    return self.bom(image, format, open);
                }
                let query = PackageQuery { name, below, above, is, images };
                let image = match image {
                    Some(image) => Some(self.open(&image, &open_options(open)?)?),
                    None => None,
                };
                let mut report = mif::packages(path, image.as_ref(), &query, &self.bar("packages"))?;
                let found = !report.packages.is_empty();
                order::packages(&mut report, sort, group, limit);
                match is_csv {
                    true => self.table(&report, |report| csv::packages(report, csv_safe))?,
                    false => self.report(&report, text::packages)?,
                }
                self.warn(&report.warnings);
                self.left_out(report.left_out);
                if !found {
                    self.nothing("no package matches");
                }
                return Ok(self.none_damaged(&report.damaged) && found);
            }
            Library::Search(search) => {
                let (csv, csv_safe) = (search.csv, search.csv_safe);
                let (sort, group, limit) = (search.sort, search.group, search.limit);
                let query = query(*search)?;
                let mut report =
                    mif::search(&Store::open(path, &self.bar("store"))?, &query, &self.bar("search"))?;
                let found = !report.hits.is_empty();
                order::hits(&mut report, sort, group, limit);
                match csv {
                    true => self.table(&report, |report| csv::search(report, csv_safe))?,
                    false => self.report(&report, text::search)?,
                }
                self.left_out(report.left_out);
                return Ok(self.none_damaged(&report.damaged) && found);
            }
            Library::Status => {
                let report = mif::status(&Store::open(path, &self.bar("store"))?, &self.bar("status"))?;
                self.report(&report, text::status)?;
                return Ok(report.good);
            }
            Library::Stats { similarity: _, html: Some(file) } => {
                let report = mif::page(&Store::open(path, &self.bar("store"))?, &self.bar("stats"))?;
                page::write(&file, &page::html(&report))?;
                let file = super::text::printable(&file.display().to_string());
                self.report(&report, |_| format!("{file}: written\n"))?;
                return Ok(self.none_damaged(&report.stats.damaged));
            }
            Library::Stats { similarity, html: None } => {
                let report =
                    mif::stats(&Store::open(path, &self.bar("store"))?, similarity, &self.bar("stats"))?;
                self.report(&report, text::stats)?;
                return Ok(self.none_damaged(&report.damaged));
            }
        }
        Ok(true)
    }
}

/// Returns the format of a bill of materials, if packages are to be printed as one.
fn bom_format(format: Option<PackageFormat>) -> Option<BomFormat> {
    match format? {
        PackageFormat::SpdxJson => Some(BomFormat::Spdx),
        PackageFormat::CycloneDxJson => Some(BomFormat::CycloneDx),
        PackageFormat::Text | PackageFormat::Csv => None,
    }
}

impl Context {
    /// Prints the bill of materials of an image.
    fn bom(&self, image: Option<String>, format: BomFormat, open: Open) -> Answer {
        let Some(image) = image else {
            return Err(mif::Error::usage("a bill of materials is about one image")
                .advise("Name it; `mif images` lists them"));
        };
        let bom = mif::bom(&self.open(&image, &open_options(open)?)?, format)?;
        print_json(&bom.document)?;
        // They are not in the document.
        if !self.global.quiet {
            bom.warnings.iter().for_each(|warning| warn(warning));
        }
        if bom.packages == 0 {
            self.nothing("no package found");
        }
        Ok(bom.packages > 0)
    }

    /// Lists the images of the store.
    pub(super) fn images(
        &self,
        names: Vec<String>,
        mut filter: Filter,
        newest: bool,
        sort: Option<ImageKey>,
        limit: Option<usize>,
    ) -> Answer {
        filter.only.extend(names);
        let filter = filter.images();
        let store = Store::open(&self.global.store, &self.bar("store"))?;
        let versions = if newest { Versions::Newest } else { Versions::All };
        let chosen = filter.choose(&store, versions, &self.bar("images"))?;
        let mut images: Vec<Image> = chosen.images;
        let found = !images.is_empty() || filter.is_empty();
        match sort {
            None | Some(ImageKey::Name) => {}
            Some(ImageKey::Size) => images.sort_by_key(|image| Reverse(image.disk_size)),
            Some(ImageKey::Time) => images.sort_by_key(|image| Reverse(image.provenance.time)),
        }
        let left_out = order::cut(&mut images, limit);
        let told: Vec<ToldImage<'_>> = images.iter().map(ToldImage).collect();
        self.report(&told, |told| super::text::images(told))?;
        self.left_out(left_out);
        if !found {
            self.nothing("no image matches");
        } else if images.is_empty() {
            self.nothing("the store has no images");
        }
        Ok(self.none_damaged(&chosen.damaged) && found)
    }

    /// Says on standard error that results are missing because of --limit.
    fn left_out(&self, count: u64) {
        if count > 0 && !self.global.json && !self.global.quiet {
            note(&format!("{count} more, left out by --limit"));
        }
    }

    /// Says on standard error that the answer is empty.
    fn nothing(&self, said: &str) {
        if !self.global.json && !self.global.quiet {
            note(said);
        }
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
        filter: search.filter.unless(!search.image.is_empty())?,
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
