//! Arguments that several verbs share.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mif::{Error, ExportOptions, NewIds, Reshape, Result, VolumePath};
use mif_formats::container::OpenOptions;

#[derive(Args)]
pub(super) struct Global {
    /// The store's folder. Symbolic links at its top are followed only with MIF_STORE_LINKS=1
    #[arg(
        long,
        global = true,
        env = "MIF_STORE",
        default_value = "mif-store",
        value_name = "DIR",
        help_heading = "Global options"
    )]
    pub(super) store: PathBuf,
    /// Print the report as JSON
    #[arg(long, global = true, help_heading = "Global options")]
    pub(super) json: bool,
    /// Show no progress bar and no warnings
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub(super) quiet: bool,
}

/// How a new store is made.
#[derive(Args)]
pub(super) struct NewStore {
    /// Open a new store to this group (its name or number); otherwise it is readable by its owner only
    #[arg(long, value_name = "GROUP")]
    pub(super) shared: Option<String>,
}

/// How images are opened.
#[derive(Args, Default)]
pub(super) struct Open {
    /// Take disk image files as this format instead of finding out
    #[arg(long, short = 'f', value_name = "FORMAT")]
    pub(super) format: Option<String>,
    #[command(flatten)]
    pub(super) files: OpenFiles,
}

/// Which files images may be opened with, and which state of them.
#[derive(Args, Default)]
pub(super) struct OpenFiles {
    /// Also open files beneath DIR that an image names; else only those beneath its own folder
    #[arg(long, value_name = "DIR")]
    pub(super) allow_path: Vec<PathBuf>,
    /// Take this internal snapshot of a qcow2 image, by name or ID
    #[arg(long, value_name = "NAME")]
    pub(super) snapshot: Option<String>,
    /// The disk beneath the image, where it was moved, renamed or changed; given again, the one beneath that
    #[arg(long, value_name = "FILE")]
    pub(super) parent: Vec<PathBuf>,
}

/// Other sizes and identities for a disk.
#[derive(Args, Default)]
pub(super) struct ReshapeArgs {
    /// The disk's size: 20G, +4G, -1G, or min
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(super) size: Option<String>,
    /// A volume's size: p1=8G, p1=+2G, p1=-1G, p1=min, p1=max (all that is there)
    #[arg(long, value_name = "VOLUME=SIZE")]
    pub(super) resize: Vec<String>,
    /// Fresh UUIDs for the disk, its partitions and filesystems; fstab and boot loader are told
    #[arg(long)]
    pub(super) new_ids: bool,
    /// Make fresh identities from this text: the same text gives the same ones
    #[arg(long, value_name = "TEXT", requires = "new_ids")]
    pub(super) seed: Option<String>,
}

/// How a disk image file is written.
#[derive(Args)]
pub(super) struct Write {
    /// An option of the format written; an unknown one lists those that there are
    #[arg(long = "option", short = 'o', value_name = "KEY=VALUE")]
    pub(super) options: Vec<String>,
    /// Write only what differs from the disk image BASE, which the new qcow2 will need
    #[arg(long, value_name = "BASE")]
    pub(super) backing: Option<PathBuf>,
    /// Replace a file that is there, or overwrite a block device
    #[arg(long)]
    pub(super) force: bool,
    /// Read what was written back, and compare it with the disk
    #[arg(long)]
    pub(super) verify: bool,
}

/// How a listing is printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ListFormat {
    Text,
    Csv,
    Mtree,
}

/// The command line, for an image's record. What is not UTF-8 is replaced.
pub(super) fn command_line() -> Vec<String> {
    let mut words: Vec<String> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    if let Some(program) = words.first_mut() {
        *program = "mif".into();
    }
    words
}

pub(super) fn export_options(format: Option<String>, write: Write) -> Result<ExportOptions> {
    let Write { options, backing, force, verify } = write;
    let options = key_values(&options)?;
    Ok(ExportOptions { format, options, backing, force, verify, reshape: Reshape::default() })
}

/// The number of a group, by its name in `/etc/group` or as it is.
pub(super) fn group_number(group: &str) -> Result<u32> {
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

pub(super) fn open_options(open: Open) -> OpenOptions {
    let Open { format, files: OpenFiles { allow_path, snapshot, parent } } = open;
    OpenOptions { format, allow_paths: allow_path, searched: Vec::new(), snapshot, parents: parent }
}

pub(super) fn reshape_options(args: &ReshapeArgs) -> Result<Reshape> {
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

pub(super) fn volume_path(text: &OsString) -> VolumePath {
    VolumePath::parse(text.as_bytes())
}

pub(super) fn key_values(options: &[String]) -> Result<Vec<(String, String)>> {
    let pairs = options.iter().flat_map(|option| option.split(','));
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(Error::usage(format!("-o {pair}: expected KEY=VALUE"))),
        })
        .collect()
}
