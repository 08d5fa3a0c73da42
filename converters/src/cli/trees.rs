//! The verbs between disks and trees of files: `extract`.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use mif::{Error, ExtractReport, Target};

use super::args::Open;
use super::text::{printable, size};
use super::{Answer, Context, Output, open_options, volume_path};

#[derive(Subcommand)]
pub(super) enum Trees {
    /// Files out of an image, into a folder or a tar
    #[command(after_help = "\
Examples:
  mif extract web -o web/                   the root filesystem
  mif extract disk.vmdk /etc -o etc/        one folder of it; the target is new or empty
  mif extract web p15:/ -o esp.tar          another volume, as a tar
  mif extract web / -o - | tar -t           a tar, on standard output

A tar keeps owners, modes, times, xattrs, hard links, devices and holes. A folder keeps what your rights let be set;
the report says what is missing, and is on standard error if the tar is on standard output. An IMAGE is a disk image
file, or NAME[@VERSION] in the store.")]
    Extract {
        /// The image
        image: String,
        /// A path: /etc on the root filesystem, or p15:/EFI
        path: Option<OsString>,
        /// The folder, or the tar (*.tar, or - for standard output)
        #[arg(long, short, value_name = "TARGET")]
        output: PathBuf,
        /// What TARGET is, if its name does not say
        #[arg(long = "as", value_name = "KIND")]
        kind: Option<TreeKind>,
        /// Replace a tar that is there
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        open: Open,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum TreeKind {
    Folder,
    Tar,
}

impl Context {
    pub(super) fn trees(&self, command: Trees) -> Answer {
        match command {
            Trees::Extract { image, path, output, kind, force, open } => {
                let image = self.open(&image, &open_options(open))?;
                let path = path.as_ref().map(volume_path);
                let to_stdout = output == Path::new("-");
                let is_tar = match kind {
                    Some(kind) => kind == TreeKind::Tar,
                    None => to_stdout || output.extension().is_some_and(|suffix| suffix == "tar"),
                };
                if to_stdout && !is_tar {
                    return Err(Error::usage("only a tar can go to standard output"));
                }
                let mut stdout = std::io::BufWriter::with_capacity(1 << 20, Output);
                let target = match (is_tar, to_stdout) {
                    (false, _) => Target::Folder(&output),
                    (true, false) => Target::TarFile { path: &output, force },
                    (true, true) => Target::Tar(&mut stdout),
                };
                let report = {
                    let bar = self.bar(&image.label);
                    mif::extract(&image, path.as_ref(), target, &bar)?
                };
                if to_stdout {
                    if !self.global.quiet {
                        eprint!("{}", extracted(&report));
                    }
                } else {
                    self.report(&report, extracted)?;
                }
                self.warn(&report.warnings);
                Ok(report.failed.is_empty())
            }
        }
    }
}

fn extracted(report: &ExtractReport) -> String {
    let mut out = format!(
        "{} {}: {} paths, {} files, {} in {:.1} s\n",
        printable(&report.image),
        printable(&report.path),
        report.paths,
        report.files,
        size(report.bytes),
        report.seconds
    );
    for not_set in &report.not_set {
        let _ = writeln!(
            out,
            "  not set: {}, of {} paths ({}): {}",
            printable(&not_set.what),
            not_set.paths,
            printable(&not_set.first),
            printable(&not_set.reason)
        );
    }
    for failed in &report.failed {
        let _ = writeln!(out, "  failed: {}", printable(failed));
    }
    out
}
