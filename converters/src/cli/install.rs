//! Shell completions and man pages.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::{Command, Subcommand, ValueHint};
use clap_complete::Shell;
use mif::{Error, Result};
use serde::Serialize;

use super::context::{Answer, Context};
use super::man::{self, Page};
use super::print::print_exactly;
use super::text::printable;

#[derive(Subcommand)]
pub(super) enum Install {
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  mif completions bash > ~/.local/share/bash-completion/completions/mif
  mif completions zsh > ~/.zfunc/_mif          a directory in fpath, set before compinit
  mif completions fish > ~/.config/fish/completions/mif.fish
  mif completions elvish > ~/.config/elvish/lib/mif.elv    with `use mif` in rc.elv
  mif completions powershell > ~/mif.ps1       with `. ~/mif.ps1` in $PROFILE

The script completes verbs, options and file names. Write it again after you update mif. Packages of mif install it \
for all users.")]
    Completions {
        /// Shell to complete for
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write the man pages into a directory
    #[command(after_help = "\
Examples:
  mif man ~/.local/share/man/man1      for one user; then `man mif` and `man mif-import`
  mif man /usr/local/share/man/man1    for all users

Writes mif.1 and a page for each verb, such as mif-import.1. A page that mif wrote earlier is replaced without asking. \
If any other file has the name of a page, mif writes nothing and fails.")]
    Man {
        /// An existing directory
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        directory: PathBuf,
    },
}

/// The man pages that were written.
#[derive(Serialize)]
struct ManReport {
    directory: String,
    pages: Vec<String>,
}

impl Context {
    /// Runs one of the verbs; `program` is the definition of the whole command line.
    pub(super) fn install(&self, verb: &Install, program: Command) -> Answer {
        match verb {
            Install::Completions { shell } => print_exactly(&completions(*shell, program))?,
            Install::Man { directory } => {
                let report = write_pages(directory, &man::pages(program))?;
                self.report(&report, |report| {
                    let ManReport { directory, pages } = report;
                    format!("{}: {} man pages written\n", printable(directory), pages.len())
                })?;
            }
        }
        Ok(true)
    }
}

/// Returns the script. It is complete before it is printed, because the generator panics if a write fails.
fn completions(shell: Shell, mut program: Command) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, "mif", &mut script);
    let mut script = String::from_utf8(script).expect("a script is UTF-8");
    if shell == Shell::Fish {
        script.extend(program.get_subcommands().filter_map(fish_values));
    }
    script
}

/// Returns completions for the values of a verb's own arguments, which the generator omits for fish
/// (clap-rs/clap#6295).
fn fish_values(verb: &Command) -> Option<String> {
    let values = verb.get_positionals().flat_map(clap::Arg::get_possible_values);
    let values: Vec<String> = values.map(|value| value.get_name().to_owned()).collect();
    let verb = verb.get_name();
    (!values.is_empty()).then(|| {
        format!("complete -c mif -n \"__fish_mif_using_subcommand {verb}\" -f -a \"{}\"\n", values.join(" "))
    })
}

/// Writes each page as a file in the directory, or none of them if a file is in the way.
fn write_pages(directory: &Path, pages: &[Page]) -> Result<ManReport> {
    match fs::metadata(directory) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => return Err(Error::input(format!("{}: not a directory", directory.display()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::input(format!("{}: no such directory", directory.display()))
                .advise("Create it with `mkdir -p`"));
        }
        Err(e) => return Err(Error::io(directory, &e)),
    }
    for page in pages {
        let path = directory.join(&page.file);
        if !is_replaceable(&path).map_err(|e| Error::io(&path, &e))? {
            return Err(Error::input(format!(
                "{}: already exists and is not a man page of mif",
                path.display()
            ))
            .advise("Move it away, or choose another directory"));
        }
    }
    for page in pages {
        let path = directory.join(&page.file);
        write_page(directory, &path, &page.text).map_err(|e| Error::io(&path, &e))?;
    }
    Ok(ManReport {
        directory: directory.display().to_string(),
        pages: pages.iter().map(|page| page.file.clone()).collect(),
    })
}

/// Returns true if the path does not exist or is a man page of mif.
fn is_replaceable(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => {
            let mut start = Vec::new();
            File::open(path)?.take(4096).read_to_end(&mut start)?;
            Ok(man::is_page(&start))
        }
        Ok(_) => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e),
    }
}

/// Writes a page atomically.
fn write_page(directory: &Path, path: &Path, text: &str) -> io::Result<()> {
    let temporary = directory.join(format!(".mif-man-{}", std::process::id()));
    let mut file = File::create_new(&temporary)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}
