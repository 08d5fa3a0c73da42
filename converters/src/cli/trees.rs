//! The verbs between disks and trees of files: `extract` and `build`.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Subcommand, ValueEnum};
use mif::store::Store;
use mif::{BuildOptions, BuildReport, Error, ExtractReport, NewIds, Target};

use super::common::{NewStore, Open};
use super::common::{command_line, open_options, volume_path};
use super::context::{Answer, Context};
use super::print::{Output, report_aside};
use super::text::{counted, printable, size};

#[derive(Subcommand)]
pub(super) enum Trees {
    /// Extract files from an image into a directory or a tar archive
    #[command(after_help = "\
Examples:
  mif extract web -o web/                   the root filesystem
  mif extract disk.vmdk /etc -o etc/        one directory, into a new or empty directory
  mif extract web p15:/ -o esp.tar          another volume, as a tar archive
  mif extract web / -o - | tar -t           as a tar archive on standard output

A tar archive keeps owners, modes, times, xattrs, hard links, devices and holes. A directory keeps what your \
permissions allow; devices, set-ID bits and security.* attributes also need --privileged. The report lists what could \
not be kept. An existing target directory keeps its own mode and owner. If the archive goes to standard output, the \
report goes to standard error. IMAGE is a disk image file, or NAME[@VERSION|@TAG] in the store.")]
    Extract {
        /// Disk image file, or NAME[@VERSION|@TAG] in the store
        image: String,
        /// Path to extract: /etc on the root filesystem, or p15:/EFI [default: the root filesystem]
        path: Option<OsString>,
        /// Directory, or tar archive (*.tar, or - for standard output)
        #[arg(long, short, value_name = "TARGET")]
        output: PathBuf,
        /// Kind of TARGET, if its name does not tell
        #[arg(long = "as", value_name = "KIND")]
        kind: Option<TreeKind>,
        /// Replace an existing tar archive, but keep its mode and owner
        #[arg(long)]
        force: bool,
        /// In a directory, also create devices, and set set-user-ID bits, set-group-ID bits and security.* attributes
        /// (capabilities and labels). Use it only for images that you trust
        #[arg(long)]
        privileged: bool,
        #[command(flatten)]
        open: Open,
    },
    /// Build a disk image in the store from a directory or a tar archive
    #[command(after_help = "\
Examples:
  mif build disk.toml tree/ --as web                          from a directory
  mmdebstrap bookworm - | mif build disk.toml - --as web      from a tar archive on standard input
  mif build disk.toml web.tar --as web --seed 1 --time 0      the same bits on every run

disk.toml:
  table = \"gpt\"                  # gpt, mbr or none
  size = \"4G\"                    # default: what the volumes need
  sector-size = 4096             # of a disk with such logical sectors [default: 512]
  [boot]                         # paths relative to disk.toml
  mbr = \"boot.img\"               # boot code, up to 440 bytes
  core = \"core.img\"              # for the BIOS boot partition, or the gap after an MBR
  [[volume]]
  slot = 14
  type = \"bios\"                  # linux, esp, bios, swap, data; a GUID; 0x83
  size = \"1M\"
  [[volume]]
  slot = 15
  mount = \"/boot/efi\"            # holds the files below this path
  fs = \"fat32\"                   # ext2, ext3, ext4, fat, fat12, fat16, fat32, swap
  size = \"64M\"                   # or min, +100M (min plus 100M), rest
  label = \"ESP\"
  uuid = \"4D49-4603\"
  [[volume]]
  slot = 1
  mount = \"/\"
  fs = \"ext4\"
  features = \"^metadata_csum\"     # as for mke2fs -O; also block-size, inodes

Other keys: align and id of the disk; name, id and active of a partition. Owners, modes, times, xattrs, hard links, \
devices and holes come from the tree. FAT does not store owners and modes, so they are dropped; symlinks are refused.")]
    Build {
        /// TOML file that describes the disk
        description: PathBuf,
        /// Directory, tar archive, or - for a tar archive on standard input
        tree: PathBuf,
        /// Name of the image in the store
        #[arg(long = "as", value_name = "NAME")]
        name: String,
        /// Derive UUIDs that DESCRIPTION does not set from TEXT: the same text gives the same UUIDs
        #[arg(long, value_name = "TEXT")]
        seed: Option<String>,
        /// Logical sector size of the disk, 512 or 4096, instead of that in DESCRIPTION
        #[arg(long, value_name = "BYTES")]
        sector_size: Option<u32>,
        /// Creation time of the filesystems, in seconds since 1970 [default: now]
        #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH", hide_env_values = true)]
        time: Option<u32>,
        #[command(flatten)]
        new: NewStore,
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
            Trees::Extract { image, path, output, kind, force, privileged, open } => {
                let image = self.open(&image, &open_options(open)?)?;
                let path = path.as_ref().map(volume_path);
                let to_stdout = output == Path::new("-");
                let is_tar = match kind {
                    Some(kind) => kind == TreeKind::Tar,
                    None => to_stdout || output.extension().is_some_and(|suffix| suffix == "tar"),
                };
                if to_stdout && !is_tar {
                    return Err(Error::usage("-o -: only a tar archive can go to standard output"));
                }
                if to_stdout {
                    self.stop.writes_to_pipe();
                }
                let mut stdout = std::io::BufWriter::with_capacity(1 << 20, Output);
                let target = match (is_tar, to_stdout) {
                    (false, _) => Target::Folder { path: &output, privileged },
                    (true, false) => Target::TarFile { path: &output, force },
                    (true, true) => Target::Tar(&mut stdout),
                };
                let report = {
                    let bar = self.image_bar(&image.label);
                    mif::extract(&image, path.as_ref(), target, &bar)?
                };
                if to_stdout {
                    if !self.global.quiet {
                        report_aside(&report, extracted);
                    }
                } else {
                    self.report(&report, extracted)?;
                }
                self.warn(&report.warnings);
                Ok(report.failed.is_empty())
            }
            Trees::Build { description, tree, name, seed, sector_size, time, new } => {
                let _fresh = self.fresh_store();
                self.make_shared(&new)?;
                let store = Store::open_or_create(&self.global.store, &self.bar("store"))?;
                let ids = match seed {
                    Some(seed) => NewIds { seed: seed.into_bytes() },
                    None => NewIds::random()?,
                };
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as u32);
                let (time, command) = (time.unwrap_or(now), command_line());
                let options = BuildOptions { name, ids, time, sector_size, command };
                let report = {
                    let bar = self.image_bar(&options.name);
                    mif::build(&store, &description, &tree, &options, &bar)?
                };
                self.report(&report, built)?;
                Ok(true)
            }
        }
    }
}

fn built(report: &BuildReport) -> String {
    let mut out = format!(
        "{}: {} disk, {} new to the store; {:.1} s\n",
        printable(&report.image),
        size(report.disk_size),
        size(report.added.stored_bytes),
        report.seconds
    );
    for volume in &report.volumes {
        let _ = writeln!(
            out,
            "  {:<5} {:>10}  {:<6} {:<12} {} {} paths",
            printable(&volume.volume),
            size(volume.size),
            printable(volume.filesystem.as_deref().unwrap_or("-")),
            printable(volume.mount.as_deref().unwrap_or("-")),
            printable(volume.uuid.as_deref().unwrap_or("-")),
            volume.paths
        );
    }
    for note in &report.notes {
        let _ = writeln!(out, "  note: {}", printable(note));
    }
    out
}

fn extracted(report: &ExtractReport) -> String {
    let mut out = format!(
        "{} {}: {}, {}, {} in {:.1} s\n",
        printable(&report.image),
        printable(&report.path),
        counted(report.paths, "path"),
        counted(report.files, "file"),
        size(report.bytes),
        report.seconds
    );
    for not_set in &report.not_set {
        let _ = writeln!(
            out,
            "  not set: {} of {} paths, such as {}: {}",
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
