//! Arguments that several verbs share.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::builder::OsStringValueParser;
use clap::{Args, ValueEnum};
use mif::store::{Shard, StorePlace};
use mif::{BootBy, Division, Error, ExportOptions, ImageFilter, NewIds, Reshape, Result, VolumePath};
use mif_formats::container::OpenOptions;
use mif_formats::partition::TableKind;
use mif_formats::wrapper::Limits;

use super::keys::Keys;
use super::progress::Manner;
use super::values::{duration, size, size_range};

/// The store if none is named.
const DEFAULT_STORE: &str = "mif-store";

#[derive(Args)]
pub(super) struct Global {
    /// The store: a directory, or s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX. Symbolic links in the
    /// top level of a directory are followed only if MIF_STORE_LINKS=1 is set
    #[arg(
        long = "store",
        global = true,
        env = "MIF_STORE",
        default_value = DEFAULT_STORE,
        value_name = "STORE",
        id = "store",
        value_parser = OsStringValueParser::new(),
        help_heading = "Global options"
    )]
    named: OsString,
    /// The same, parsed. Not by clap, which would repeat a URL that it refuses, with a password in it.
    #[arg(skip = StorePlace::Directory(PathBuf::new()))]
    pub(super) store: StorePlace,
    /// Print the report as JSON
    #[arg(long, global = true, help_heading = "Global options")]
    pub(super) json: bool,
    /// Print only errors and what was asked for: no progress, warnings or reports of work done
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub(super) quiet: bool,
    /// Show the progress of long work on standard error: as a bar (auto: if that is a terminal), as lines of JSON, or not at
    /// all. SIGUSR1 prints it once, in any case
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t = Manner::Auto,
        value_name = "HOW",
        help_heading = "Global options"
    )]
    pub(super) progress: Manner,
}

impl Global {
    /// Parses the name of the store. An empty MIF_STORE counts as unset, and an empty `--store` is an error, because it
    /// is that of a variable that should have been set.
    pub(super) fn settle(&mut self) -> Result<()> {
        if !self.named.is_empty() {
            self.store = StorePlace::parse(&self.named)?;
            return Ok(());
        }
        let is_flag = |word: OsString| word == "--store" || word.as_bytes().starts_with(b"--store=");
        if std::env::args_os().any(is_flag) {
            return Err(Error::usage("--store: the path is empty"));
        }
        self.store = StorePlace::Directory(DEFAULT_STORE.into());
        Ok(())
    }
}

/// How to create a new store.
#[derive(Args)]
pub(super) struct NewStore {
    /// If the store is new, share it with this group (a name or number) [default: only its owner can read it]
    #[arg(long, value_name = "GROUP")]
    pub(super) shared: Option<String>,
}

/// How to open images.
#[derive(Args, Default)]
pub(super) struct Open {
    /// Container format of disk image files [default: detected from their contents]
    #[arg(long, short = 'f', value_name = "FORMAT")]
    pub(super) format: Option<String>,
    #[command(flatten)]
    pub(super) files: OpenFiles,
}

/// Which files an image may refer to, which snapshot of it to open, and how compressed files are unpacked.
#[derive(Args, Default)]
pub(super) struct OpenFiles {
    /// Let an image refer to files under DIR, such as extents and backing files, not only to files under its own
    /// directory
    #[arg(long, value_name = "DIR")]
    pub(super) allow_path: Vec<PathBuf>,
    /// Read this internal snapshot of a qcow2 image, given by name or ID
    #[arg(long, value_name = "NAME")]
    pub(super) snapshot: Option<String>,
    /// Use FILE as the image's backing file or parent disk, if it was moved, renamed or changed. Repeat for the
    /// parent's own parent
    #[arg(long, value_name = "FILE")]
    pub(super) parent: Vec<PathBuf>,
    /// Unpack compressed files into DIR, as files without a name [default: TMPDIR, or /tmp]
    #[arg(long, value_name = "DIR")]
    pub(super) scratch: Option<PathBuf>,
    /// Refuse a compressed file that unpacks to more than SIZE, such as 500G [default: 32G, or 1000 times the size of the
    /// file if that is more]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(super) max_unpacked: Option<u64>,
    #[command(flatten)]
    pub(super) keys: Keys,
}

/// What images are sorted by.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ImageKey {
    Name,
    Size,
    Time,
}

/// The heading of the filter in help.
const WHICH: &str = "Which images";

/// Which images of the store a verb works on.
#[derive(Args, Clone, Default)]
pub(super) struct Filter {
    /// Only images whose name matches this pattern; can be given several times
    #[arg(long, value_name = "PATTERN", help_heading = WHICH)]
    pub(super) only: Vec<String>,
    /// Only versions that have a tag that matches this pattern
    #[arg(long, value_name = "PATTERN", help_heading = WHICH)]
    pub(super) tagged: Vec<String>,
    /// Only images of this operating system: debian, 'debian 12', 'Windows Server*'
    #[arg(long, value_name = "PATTERN", help_heading = WHICH)]
    pub(super) system: Vec<String>,
    /// Only versions made longer ago than this: 12h, 30d, 8w, 1y
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = WHICH)]
    pub(super) older_than: Option<u64>,
    /// Only versions made within this time
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = WHICH)]
    pub(super) newer_than: Option<u64>,
    /// Only images whose disk has a size in this range: 100M.., ..4G
    #[arg(long, value_name = "RANGE", value_parser = size_range, help_heading = WHICH)]
    pub(super) disk_size: Option<RangeInclusive<u64>>,
}

impl Filter {
    pub(super) fn images(self) -> ImageFilter {
        let Filter { only, tagged, system, older_than, newer_than, disk_size } = self;
        ImageFilter { names: only, tags: tagged, systems: system, older_than, newer_than, disk_size }
    }

    /// Returns true if every image matches.
    pub(super) fn is_empty(&self) -> bool {
        self.clone().images().is_empty()
    }

    /// Does the same where the user may name an image instead. Fails if there are both.
    pub(super) fn unless(self, has_image: bool) -> Result<ImageFilter> {
        let filter = self.images();
        match has_image && !filter.is_empty() {
            true => Err(Error::usage("expected either an image or a filter for images, not both")),
            false => Ok(filter),
        }
    }
}

/// How machines divide a batch among themselves.
#[derive(Args, Default)]
pub(super) struct Divide {
    /// Only the images of shard INDEX of COUNT, counted from 0 and chosen by a hash of their names: 0/4 to 3/4
    #[arg(long, value_name = "INDEX/COUNT", conflicts_with = "claim", help_heading = MACHINES)]
    shard: Option<Shard>,
    /// Share the work with others who run the same command: each takes the next image that nobody has taken, and also
    /// those of machines that have died. An image that was done in RUN is not done again [default: a new run if nobody
    /// is at work]
    #[arg(
        long,
        value_name = "RUN",
        num_args = 0..=1,
        require_equals = true,
        help_heading = MACHINES
    )]
    claim: Option<Option<String>>,
}

const MACHINES: &str = "Several machines";

impl Divide {
    pub(super) fn division(self) -> Division {
        match (self.shard, self.claim) {
            (Some(shard), _) => Division::Shard(shard),
            (None, Some(run)) => Division::Claim { run },
            (None, None) => Division::Alone,
        }
    }

    /// Does the same where the user may name an image instead. Fails if there are both.
    pub(super) fn unless(self, has_image: bool) -> Result<Division> {
        match self.division() {
            Division::Alone => Ok(Division::Alone),
            _ if has_image => Err(Error::usage("--shard and --claim need --all")),
            division => Ok(division),
        }
    }
}

/// New sizes and identities for a disk.
#[derive(Args, Default)]
pub(super) struct ReshapeArgs {
    /// New size of the disk: 20G, +4G, -1G, or min
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(super) size: Option<String>,
    /// New size of a volume: p1=8G, p1=+2G, p1=-1G, p1=min, or p1=max to fill the disk
    #[arg(long, value_name = "VOLUME=SIZE")]
    pub(super) resize: Vec<String>,
    /// Give the disk, its partitions and filesystems new UUIDs, and update fstab and the boot loader
    #[arg(long)]
    pub(super) new_ids: bool,
    /// Derive the new UUIDs from TEXT: the same text gives the same UUIDs
    #[arg(long, value_name = "TEXT", requires = "new_ids")]
    pub(super) seed: Option<String>,
    /// Logical sector size of the disk, 512 or 4096: the partition table and FAT volumes are made anew for it
    #[arg(long, value_name = "BYTES")]
    pub(super) sector_size: Option<u32>,
    /// Kind of the partition table, gpt or mbr: it is made anew, and GRUB for a BIOS is moved to where it belongs
    #[arg(long, value_name = "KIND", value_parser = table_kind)]
    pub(super) table: Option<TableKind>,
    /// Make the disk start by uefi, bios or both, with the boot loader that its system has installed
    #[arg(long, value_name = "FIRMWARE", value_parser = boot)]
    pub(super) boot: Option<BootBy>,
}

/// How to write a disk image file.
#[derive(Args)]
pub(super) struct Write {
    /// Option of the output format, such as compress=on; an unknown KEY prints the list of options
    #[arg(long = "option", short = 'o', value_name = "KEY=VALUE")]
    pub(super) options: Vec<String>,
    /// Write a qcow2 overlay: only the differences from the disk image BASE, its backing file
    #[arg(long, value_name = "BASE")]
    pub(super) backing: Option<PathBuf>,
    /// Replace an existing file, or overwrite a block device
    #[arg(long)]
    pub(super) force: bool,
    /// Change an existing raw file or block device in place: write only the blocks that differ. If it is stopped, run it
    /// again
    #[arg(long, conflicts_with = "force")]
    pub(super) rewrite: bool,
    /// Read the output back and compare it with the disk
    #[arg(long)]
    pub(super) verify: bool,
    /// Also write FILE, in JSON: the image, the target and its rules, the options, and the digest of the disk
    #[arg(long, value_name = "FILE")]
    pub(super) receipt: Option<PathBuf>,
}

/// How to print a listing.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ListFormat {
    Text,
    Csv,
    Mtree,
}

/// Returns the command line for an image's record, with replacement characters for invalid UTF-8.
pub(super) fn command_line() -> Vec<String> {
    let mut words: Vec<String> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    if let Some(program) = words.first_mut() {
        *program = "mif".into();
    }
    words
}

pub(super) fn export_options(format: Option<String>, write: Write) -> Result<ExportOptions> {
    let Write { options, backing, force, rewrite, verify, receipt } = write;
    let options = key_values(&options)?;
    Ok(ExportOptions {
        format,
        options,
        backing,
        force,
        rewrite,
        verify,
        receipt,
        command: command_line(),
        ..ExportOptions::default()
    })
}

/// Returns the ID of a group given by its number or by its name in `/etc/group`.
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
        Error::usage(format!("{group}: no such group in /etc/group"))
            .advise("Pass its number, as `getent group` shows it")
    })
}

/// Returns the options for opening images. Reads the keys, and asks for one if it has to.
pub(super) fn open_options(open: Open) -> Result<OpenOptions> {
    let Open { format, files } = open;
    let OpenFiles { allow_path, snapshot, parent, scratch, max_unpacked, keys } = files;
    let unpack = Limits { scratch, max_unpacked };
    Ok(OpenOptions {
        format,
        allow_paths: allow_path,
        searched: Vec::new(),
        snapshot,
        parents: parent,
        unpack,
        shelf: None,
        passphrases: keys.read()?,
    })
}

fn boot(text: &str) -> Result<BootBy, String> {
    match text {
        "uefi" => Ok(BootBy::Uefi),
        "bios" => Ok(BootBy::Bios),
        "both" => Ok(BootBy::Both),
        _ => Err("expected uefi, bios or both".into()),
    }
}

fn table_kind(text: &str) -> Result<TableKind, String> {
    match text {
        "gpt" => Ok(TableKind::Gpt),
        "mbr" => Ok(TableKind::Mbr),
        _ => Err("expected gpt or mbr".into()),
    }
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
        sector_size: args.sector_size,
        table: args.table,
        boot: args.boot,
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
