//! Arguments to verbs, reports to the terminal, errors to exit codes.

mod args;
mod bar;
mod batch;
mod csv;
mod customize;
mod json;
mod library;
mod mtree;
mod signals;
mod text;
mod trees;
mod update;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use mif::store::{DamagedImage, Store};
use mif::{
    BatchExportOptions, BatchImportOptions, Error, ExportOptions, ImportOptions, LsOptions, NewIds,
    OpenImage, Reshape, Result, VerifyAllOptions, VolumePath,
};
use mif_formats::container::{OpenOptions, STANDARD_OUTPUT};
use mif_formats::text::printable_lines;
use serde::Serialize;

use self::args::{Cli, Command, Global, ListFormat, Open, ReshapeArgs};
use self::bar::Bar;
use self::signals::Stop;

/// The answer of a verb: yes is exit code 0, no is 1.
type Answer = Result<bool>;

/// Runs the program.
pub(super) fn run() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| refuse(&error));
    let context = Context { global: cli.global, stop: Stop::listen(cli.command.writes_files()) };
    let answer = context.run(cli.command).and_then(|yes| {
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

/// Says what is wrong with the command line, or prints the help. A word that is not known may be a file's name, from a
/// pattern of the shell.
fn refuse(error: &clap::Error) -> ! {
    let text = error.render().to_string();
    let harmless = printable_lines(&text);
    if harmless == text {
        error.exit();
    }
    eprint!("{harmless}");
    std::process::exit(error.exit_code());
}

fn complain(error: &Error) {
    let advice = error.advice().map_or(String::new(), |advice| format!("\n{}.", text::printable(advice)));
    eprintln!("mif: {}{}", text::printable(error.message()), advice);
}

/// The same of an error of which the text is left.
fn complain_of(error: &str) {
    eprintln!("mif: {}", text::printable(error));
}

/// Standard output that nobody reads any more is no failure (`mif ls … | head`).
fn output_failed(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    Error::store(format!("cannot write the output: {error}"))
}

/// Prints text for people. Names in it are escaped where the text is made, so that none makes a line of its own; whatever
/// was missed is escaped here.
fn print(text: &str) -> Result<()> {
    print_exactly(&printable_lines(text))
}

fn print_exactly(text: &str) -> Result<()> {
    io::stdout().write_all(text.as_bytes()).map_err(output_failed)
}

fn print_json(report: &impl Serialize) -> Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    json::write(&mut out, report).map_err(|e| output_failed(e.into()))?;
    out.write_all(b"\n").and_then(|()| out.flush()).map_err(output_failed)
}

fn json_line(report: &impl Serialize) -> String {
    let mut line = Vec::new();
    json::write(&mut line, report).expect("a report is JSON");
    String::from_utf8(line).expect("JSON is UTF-8") + "\n"
}

struct Context {
    global: Global,
    stop: Arc<Stop>,
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
                new,
                open,
            } => {
                self.make_shared(&new)?;
                let (jobs, threads) = (jobs.map(usize::from), threads.map(usize::from));
                let (open, command) = (open_options(open), command_line());
                let each = ImportOptions { name: None, new_version, open, verify, strict, threads, command };
                let names = name.unwrap_or_default();
                match &files[..] {
                    [file] if !file.is_dir() => {
                        self.import(file, &ImportOptions { name: Some(names.name_of(file)), ..each })
                    }
                    _ => self.import_all(&files, &BatchImportOptions { names, jobs, reread, each }),
                }
            }
            Command::Export { image, output, format, all, all_versions, jobs, write, reshape } => {
                let reshape = reshape_options(&reshape)?;
                let options = ExportOptions { reshape, ..export_options(format, write)? };
                let (Some(image), Some(output)) = (image, output) else {
                    let folder = all.expect("clap asks for it where there is no image");
                    let jobs = jobs.map(usize::from);
                    return self
                        .export_all(&folder, &BatchExportOptions { all_versions, jobs, each: options });
                };
                let image = OpenImage::stored(
                    &Store::open(&self.global.store, &self.bar("store"))?,
                    &image.parse()?,
                )?;
                self.export(&image, &output, &options)
            }
            Command::Convert { image, output, output_format, write, open } => {
                let options = export_options(output_format, write)?;
                self.export(&self.open(&image, &open_options(open))?, &output, &options)
            }
            Command::Verify { a, b, all: _, against, files, independent: _, open } => {
                let options = open_options(open);
                let Some(a) = a else { return self.verify_all(&VerifyAllOptions { against, open: options }) };
                let a = self.open(&a, &options)?;
                let Some(b) = b else { return self.verify_independently(&a) };
                let b = self.open(&b, &options)?;
                let report = {
                    let bar = self.bar(&a.label);
                    mif::verify::verify(&a, &b, &bar)?
                };
                self.report(&report, text::verify)?;
                Ok(report.same_bits || files && report.files.as_ref().is_some_and(|files| files.same))
            }
            Command::Info { image, open } => {
                self.report(&mif::info(&self.open(&image, &open_options(open))?)?, text::info)?;
                Ok(true)
            }
            Command::Ls { image, path, long, recursive, digests, format, csv_safe, open } => {
                let mut path = path.as_ref().map(volume_path);
                let image = self.open(&image, &open_options(open))?;
                // Paths that the user can use again: with their volume where it is not the default.
                let volumes = path.as_ref().map_or(recursive, |path| path.volume.is_some());
                let mtree = format == ListFormat::Mtree;
                if mtree {
                    // A specification is of one folder and all that is below.
                    path.get_or_insert_with(|| VolumePath { volume: None, path: b"/".to_vec() });
                }
                let options =
                    LsOptions { path, recursive: recursive || mtree, itself: mtree, hashed: digests };
                let listing = {
                    let bar = self.bar(&image.label);
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
                mif::cat(&self.open(&image, &open_options(open))?, &paths, &mut Output)?;
                Ok(true)
            }
            Command::Images => {
                let (images, damaged) = Store::open(&self.global.store, &self.bar("store"))?.images()?;
                self.report(&images, |images| text::images(images))?;
                Ok(self.none_damaged(&damaged))
            }
            Command::Update(command) => self.update(command),
            Command::Trees(command) => self.trees(command),
            Command::Customize(arguments) => self.customize(&arguments),
            Command::Library(command) => self.library(command),
        }
    }

    /// Makes the store, if it is to be a group's.
    fn make_shared(&self, new: &args::NewStore) -> Result<()> {
        let Some(group) = &new.shared else { return Ok(()) };
        let store = &self.global.store;
        if store.join("store.json").exists() {
            return Err(Error::usage(format!("{}: --shared is for a new store; this one is there already", store.display()))
                .advise("Change its group and modes with chgrp and chmod; new files get the permissions of its directory"));
        }
        Store::make(store, Some(group_number(group)?))
    }

    fn import(&self, file: &Path, options: &ImportOptions) -> Answer {
        let store = Store::open_or_create(&self.global.store, &self.bar("store"))?;
        let report = {
            let bar = self.bar(&file.display().to_string());
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
            let bar = self.bar(&image.label);
            mif::export(image, output, options, &bar)?
        };
        if output.as_os_str() == STANDARD_OUTPUT {
            // Standard output carries the disk, so the report goes to standard error.
            if !self.global.quiet {
                let text = if self.global.json { json_line(&report) } else { text::export(&report) };
                eprint!("{}", printable_lines(&text));
            }
        } else {
            self.report(&report, text::export)?;
        }
        self.warn(&report.warnings);
        Ok(true)
    }

    fn verify_independently(&self, image: &OpenImage) -> Answer {
        let report = {
            let bar = self.bar(&image.label);
            mif::independent::independent(image, &bar)?
        };
        self.report(&report, text::independent)?;
        self.warn(&report.warnings);
        Ok(report.same)
    }

    fn open(&self, image: &str, options: &OpenOptions) -> Result<OpenImage> {
        OpenImage::open(image, &self.global.store, options, &self.bar(image))
    }

    fn bar(&self, label: &str) -> Bar {
        Bar::new(label, self.global.quiet || self.global.json, self.stop.clone())
    }

    fn report<R: Serialize>(&self, report: &R, text: impl Fn(&R) -> String) -> Result<()> {
        if self.global.json { print_json(report) } else { print(&text(report)) }
    }

    /// Prints a report as a table for programs: exactly, but on a terminal.
    fn table<R: Serialize>(&self, report: &R, table: impl Fn(&R) -> String) -> Result<()> {
        match self.global.json || io::stdout().is_terminal() {
            true => self.report(report, table),
            false => print_exactly(&table(report)),
        }
    }

    /// Names images that were gone past; gives whether there are none.
    fn none_damaged(&self, images: &[DamagedImage]) -> bool {
        for DamagedImage { image, problem } in images {
            complain_of(&format!("{image}: {problem}"));
        }
        if !images.is_empty() {
            complain_of("`mif fsck` checks the store, and says how to repair it");
        }
        images.is_empty()
    }

    /// Warnings go to standard error, so that standard output is the answer alone; JSON has them in it.
    fn warn(&self, warnings: &[String]) {
        if !self.global.json && !self.global.quiet {
            for warning in warnings {
                eprintln!("mif: warning: {}", text::printable(warning));
            }
        }
    }
}

/// The command line, for an image's record. What is not UTF-8 is replaced.
fn command_line() -> Vec<String> {
    let mut words: Vec<String> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    if let Some(program) = words.first_mut() {
        *program = "mif".into();
    }
    words
}

fn export_options(format: Option<String>, write: args::Write) -> Result<ExportOptions> {
    let args::Write { options, backing, force, verify } = write;
    let options = key_values(&options)?;
    Ok(ExportOptions { format, options, backing, force, verify, reshape: Reshape::default() })
}

/// The number of a group, by its name in `/etc/group` or as it is.
fn group_number(group: &str) -> Result<u32> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let known = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let number = |line: &str| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
    };
    known.lines().find_map(number).ok_or_else(|| {
        Error::usage(format!("{group}: there is no such group in /etc/group"))
            .advise("Give its number, as `getent group` shows it")
    })
}

fn open_options(open: Open) -> OpenOptions {
    OpenOptions {
        format: open.format,
        allow_paths: open.allow_path,
        searched: Vec::new(),
        snapshot: open.snapshot,
        parents: open.parent,
    }
}

fn reshape_options(args: &ReshapeArgs) -> Result<Reshape> {
    let new_ids = match &args.seed {
        Some(seed) => Some(NewIds { seed: seed.clone().into_bytes() }),
        None if args.new_ids => Some(NewIds::random()?),
        None => None,
    };
    Ok(Reshape {
        size: args.size.as_deref().map(str::parse).transpose()?,
        resize: args.resize.iter().map(|text| Reshape::volume_size(text)).collect::<Result<_>>()?,
        new_ids,
    })
}

fn volume_path(text: &OsString) -> VolumePath {
    VolumePath::parse(text.as_bytes())
}

fn key_values(options: &[String]) -> Result<Vec<(String, String)>> {
    let pairs = options.iter().flat_map(|option| option.split(','));
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(Error::usage(format!("-o {pair}: expected KEY=VALUE"))),
        })
        .collect()
}

/// Standard output, with a reader that goes away taken as the end.
struct Output;

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = io::stdout().write(bytes);
        match written {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}
