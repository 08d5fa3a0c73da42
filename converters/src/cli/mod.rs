//! The command line: parses arguments, calls verbs, prints reports, and converts errors to exit codes.

mod args;
mod bar;
mod batch;
mod check;
mod common;
mod context;
mod copy;
mod csv;
mod customize;
mod install;
mod json;
mod keys;
mod library;
mod man;
mod map;
mod mtree;
mod pager;
mod print;
mod progress;
#[cfg(feature = "remote")]
mod registry;
mod reread;
mod signals;
mod terminal;
mod text;
mod trees;
mod update;
mod values;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use mif::store::Store;
use mif::{
    BatchExportOptions, BatchImportOptions, Division, ExportOptions, ImportOptions, LsOptions, OpenImage,
    VerifyAllOptions, VolumePath,
};
use mif_formats::container::STANDARD_OUTPUT;
use mif_formats::text::printable_lines;

use self::args::{Cli, Command};
use self::bar::Drawing;
use self::common::{
    ListFormat, Open, command_line, export_options, open_options, reshape_options, volume_path,
};
use self::context::{Answer, Context};
use self::print::{
    Output, complain, complain_as_json, output_failed, print_exactly, print_json, report_aside,
};
use self::progress::{Board, Manner};
use self::signals::Stop;

/// Runs the program.
pub(super) fn run() -> ExitCode {
    signals::survive_questions();
    let words = with_help_verbs(std::env::args_os().collect());
    let parsed = Cli::command().try_get_matches_from(words).and_then(|matches| {
        let verb = matches.subcommand_name().unwrap_or_default().to_owned();
        Ok((verb, Cli::from_arg_matches(&matches)?))
    });
    let (verb, mut cli) = parsed.unwrap_or_else(|error| refuse(&error));
    let manner = cli.global.progress;
    if cli.global.json || manner == Manner::Json {
        complain_as_json();
    }
    let settled = cli.global.settle();
    let quiet = cli.global.quiet && !cli.command.is_question();
    let is_quiet = cli.global.quiet || cli.global.json;
    let board = Board::new(&verb, manner == Manner::Json);
    let stop = Stop::listen(cli.command.writes_files(), board.clone());
    let is_on = match manner {
        Manner::Auto => !is_quiet && terminal::draws_progress(),
        Manner::Bar => true,
        Manner::Json | Manner::None => false,
    };
    let drawing = Drawing { is_on, is_quiet, board, stop: stop.clone() };
    let context = Context { global: cli.global, quiet, drawing, stop };
    let answer = settled.and_then(|()| context.run(cli.command)).and_then(|yes| {
        io::stdout().flush().map_err(output_failed)?;
        Ok(yes)
    });
    context.stop.returned();
    match answer {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            complain(&error);
            context.stop.exit_code().unwrap_or(ExitCode::from(error.code() as u8))
        }
    }
}

/// Rewrites `mif help VERB` to `mif VERB --help`, and `mif version` to `mif --version`: what people type out of habit.
fn with_help_verbs(mut words: Vec<OsString>) -> Vec<OsString> {
    // The verb follows the global options, of which only these have a value.
    let mut verb = 1;
    while let Some(word) = words.get(verb).filter(|word| word.as_encoded_bytes().starts_with(b"-")) {
        verb += if word == "--store" || word == "--progress" { 2 } else { 1 };
    }
    match words.get(verb).and_then(|word| word.to_str()) {
        Some("help") => {
            words.remove(verb);
            words.push("--help".into());
        }
        Some("version") if words.len() == verb + 1 => words[verb] = "--version".into(),
        _ => {}
    }
    words
}

/// Prints the help, or the error in the command line. An unknown word is escaped, because it may be a file name from a
/// glob that the shell expanded.
fn refuse(error: &clap::Error) -> ! {
    if error.use_stderr() && std::env::args_os().any(|word| word == "--json") {
        complain_as_json();
        let text = error.render().to_string();
        let message = text.trim_start_matches("error: ").trim_end();
        complain(&mif::Error::usage(message));
        std::process::exit(error.exit_code());
    }
    let text = error.render().to_string();
    let harmless = printable_lines(&text);
    if harmless != text {
        print::say(&harmless);
    } else if let Err(e) = error.print()
        && !error.use_stderr()
    {
        let failed = output_failed(e);
        complain(&failed);
        std::process::exit(failed.code() as i32);
    }
    std::process::exit(error.exit_code());
}

impl Context {
    fn run(&self, command: Command) -> Answer {
        match command {
            Command::Import {
                files,
                name,
                new_version,
                verify,
                strict,
                reread,
                jobs,
                threads,
                decrypt,
                divide,
                new,
                open,
            } => {
                let _fresh = self.fresh_store();
                self.make_shared(&new)?;
                let (jobs, threads) = (jobs.map(usize::from), threads.map(usize::from));
                let (open, command) = (open_options(open)?, command_line());
                let each = ImportOptions {
                    name: None,
                    new_version,
                    open,
                    decrypt,
                    verify,
                    strict,
                    threads,
                    command,
                };
                let names = name.unwrap_or_default();
                let division = divide.division();
                if let ([file], Division::Alone) = (&files[..], &division)
                    && !file.is_dir()
                {
                    let options = ImportOptions { name: Some(names.name_of(file)), ..each.clone() };
                    match self.import(file, &options) {
                        Err(error) if error.has_several_disks() => {}
                        answer => return answer,
                    }
                }
                self.import_all(&files, &BatchImportOptions { names, jobs, reread, division, each })
            }
            Command::Export {
                image,
                output,
                format,
                target,
                all,
                all_versions,
                filter,
                jobs,
                divide,
                write,
                reshape,
            } => {
                if target.as_deref() == Some("list") {
                    self.report(&mif::PLATFORMS, |targets| text::targets(targets))?;
                    return Ok(true);
                }
                let reshape = reshape_options(&reshape)?;
                let target = target.map(|name| mif::Platform::find(&name)).transpose()?;
                let options = ExportOptions { reshape, target, ..export_options(format, write)? };
                if all.is_none() && output.is_none() {
                    return Err(mif::Error::usage("--for needs an IMAGE and an OUTPUT, or --all DIR")
                        .advise("`mif export --for list` lists the targets"));
                }
                if all.is_some() && options.format.is_none() && options.target.is_none() {
                    return Err(mif::Error::usage("--all needs --format FORMAT, or --for TARGET"));
                }
                let filter = filter.unless(image.is_some())?;
                let division = divide.unless(image.is_some())?;
                let (Some(image), Some(output)) = (image, output) else {
                    let folder = all.expect("clap asks for it where there is no image");
                    let jobs = jobs.map(usize::from);
                    let options = BatchExportOptions { all_versions, filter, division, jobs, each: options };
                    return self.export_all(&folder, &options);
                };
                let image = OpenImage::stored(
                    &Store::open(&self.global.store, &self.bar("store"))?,
                    &image.parse()?,
                )?;
                self.export(&image, &output, &options)
            }
            Command::Convert { image, output, output_format, write, open } => {
                let options = export_options(output_format, write)?;
                self.export(&self.open(&image, &open_options(open)?)?, &output, &options)
            }
            Command::Verify { a, b, all: _, against, divide, filter, files, independent: _, open } => {
                let options = open_options(open)?;
                let filter = filter.unless(a.is_some())?;
                let division = divide.unless(a.is_some())?;
                let Some(a) = a else {
                    return self.verify_all(&VerifyAllOptions { against, division, filter, open: options });
                };
                let a = self.open(&a, &options)?;
                let Some(b) = b else { return self.verify_independently(&a) };
                let b = self.open(&b, &options)?;
                let report = {
                    let bar = self.image_bar(&a.label);
                    mif::verify(&a, &b, &bar)?
                };
                self.report(&report, text::verify)?;
                Ok(report.same_bits || files && report.files.as_ref().is_some_and(|files| files.same))
            }
            Command::Info { image, map: true, open } => {
                let image = self.open(&image, &open_options(open)?)?;
                self.map(&image)?;
                Ok(true)
            }
            Command::Info { image, map: false, open } => {
                self.report(&mif::info(&self.open(&image, &open_options(open)?)?)?, text::info)?;
                Ok(true)
            }
            Command::Ls { image, path, long, recursive, digests, format, csv_safe, files, image_format } => {
                let open = Open { format: image_format, files };
                let mut path = path.as_ref().map(volume_path);
                let image = self.open(&image, &open_options(open)?)?;
                // Print paths that the user can pass back: with the volume unless it is the default one.
                let volumes = path.as_ref().map_or(recursive, |path| path.volume.is_some());
                let mtree = format == ListFormat::Mtree;
                if mtree {
                    // An mtree specification covers one directory and everything below it.
                    path.get_or_insert_with(|| VolumePath { volume: None, path: b"/".to_vec() });
                }
                let options =
                    LsOptions { path, recursive: recursive || mtree, itself: mtree, hashed: digests };
                let listing = {
                    let bar = self.image_bar(&image.label);
                    mif::ls(&image, &options, &bar)?
                };
                match format {
                    ListFormat::Text => {
                        self.report(&listing, |listing| text::ls(listing, long, digests, volumes))?;
                    }
                    ListFormat::Csv => self.table(&listing, |listing| csv::ls(listing, csv_safe))?,
                    ListFormat::Mtree => self.report(&listing, mtree::listing)?,
                }
                self.warn(&listing.warnings);
                Ok(true)
            }
            Command::Cat { image, paths, open } => {
                let paths: Vec<VolumePath> = paths.iter().map(volume_path).collect();
                mif::cat(&self.open(&image, &open_options(open)?)?, &paths, &mut Output)?;
                Ok(true)
            }
            Command::Images { names, filter, newest, sort, limit } => {
                self.images(names, filter, newest, sort, limit)
            }
            Command::Check(arguments) => self.check(arguments),
            Command::Update(command) => self.update(command),
            Command::Trees(command) => self.trees(command),
            Command::Reread(arguments) => self.reread(arguments),
            Command::Push(arguments) => self.push(arguments),
            Command::Pull(arguments) => self.pull(arguments),
            Command::Copy(arguments) => self.copy(arguments),
            Command::Customize(arguments) => self.customize(*arguments),
            Command::Library(command) => self.library(command),
            Command::Install(command) => self.install(&command, Cli::command()),
        }
    }

    /// Draws the map of a disk. In JSON, it has a fixed number of cells.
    fn map(&self, image: &OpenImage) -> mif::Result<()> {
        const CELLS: u64 = 1024;
        let width = terminal::width();
        let cells = if self.global.json { CELLS } else { map::cells(width) };
        let report = {
            let bar = self.image_bar(&image.label);
            mif::map(image, cells, &bar)?
        };
        match self.global.json {
            true => print_json(&report),
            // The names in it are escaped. The colours must not be.
            false => print_exactly(&map::draw(&report, width, terminal::has_colours())),
        }
    }

    fn import(&self, file: &Path, options: &ImportOptions) -> Answer {
        let store = Store::open_or_create(&self.global.store, &self.bar("store"))?;
        let report = {
            let bar = self.image_bar(&file.display().to_string());
            mif::import(&store, file, options, &bar)?
        };
        self.report(&report, text::import)?;
        Ok(!report.damage_left)
    }

    fn export(&self, image: &OpenImage, output: &Path, options: &ExportOptions) -> Answer {
        if output.as_os_str() == STANDARD_OUTPUT {
            self.stop.writes_to_pipe();
        }
        let report = {
            let bar = self.image_bar(&image.label);
            mif::export(image, output, options, &bar)?
        };
        if output.as_os_str() == STANDARD_OUTPUT {
            // Standard output carries the disk, so the report goes to standard error.
            if !self.global.quiet {
                report_aside(&report, text::export);
            }
        } else {
            self.report(&report, text::export)?;
        }
        self.warn(&report.warnings);
        Ok(true)
    }

    fn verify_independently(&self, image: &OpenImage) -> Answer {
        let report = {
            let bar = self.image_bar(&image.label);
            mif::independent::independent(image, &bar)?
        };
        self.report(&report, text::independent)?;
        self.warn(&report.warnings);
        Ok(report.same)
    }
}
