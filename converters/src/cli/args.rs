//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use mif::NamePattern;

use super::common::{Global, ListFormat, NewStore, Open, OpenFiles, ReshapeArgs, Write};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  done, and the answer is no: images differ, some of a batch failed, damage was found
  2  usage
  3  bad input: missing, damaged or refused
  4  unsupported
  5  the store, or an I/O error
  129, 130, 143  ended by SIGHUP, SIGINT or SIGTERM; no temporary file is left";

/// Disk images as data: a manifest for each image and one content store for all, and the disks back from
/// them, bit for bit. No root, no loop devices, no mounts.
#[derive(Parser)]
#[command(
    name = "mif",
    version,
    after_help = EXIT_CODES,
    propagate_version = true,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Disk images into the store
    #[command(after_help = "\
Examples:
  mif import web.qcow2                      as the image \"web\"
  mif import --name db --verify disk.vmdk   read back and compared before it is published
  mif import library/                       all disk images in a folder and its folders
  mif import vms/ --name '{parent}-{stem}'  vms/web/disk.vmdk as \"web-disk\"
  mif import library/ --json > report.json  a line for each event, the last one sums up

Of a folder, all is imported that its bytes show to be a disk image; other files are passed over, and so are the \
extents of an image. A disk on which another one is based is an image of its own.

Several images are imported side by side, past failures; if any failed it exits 1. What was not finished is done \
when the same is run again: an image whose files have not changed since it was imported, and which is whole in the \
store, is skipped without being read. A single file is always read.

A name belongs to the file that was first imported as it. Another file of that name is refused: give it a --name of \
its own, or say that it is a --new-version. What is damaged of the stored image is written again; objects are checked \
with --verify, and if any were damaged it exits 1, for `mif fsck --repair` has to drop the damaged copies.")]
    Import {
        /// Disk image files, and folders with disk images in them
        #[arg(required = true, value_name = "PATH")]
        files: Vec<PathBuf>,
        /// The name in the store; {stem} stands for the file's name without its suffix, {name} for all of it, {parent} for
        /// its folder's name [default: {stem}]
        #[arg(long, value_name = "PATTERN")]
        name: Option<NamePattern>,
        /// Make a new version of an image of that name, although another file was imported as it
        #[arg(long)]
        new_version: bool,
        /// Read each new image back through its layout and compare, before it is published
        #[arg(long)]
        verify: bool,
        /// Refuse a disk if anything on it cannot be read or is odd
        #[arg(long)]
        strict: bool,
        /// Also read images whose files have not changed since they were imported
        #[arg(long)]
        reread: bool,
        /// Images imported side by side; as many as there are threads, and at most 4, if not given
        #[arg(long, short = 'j', value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
        jobs: Option<u16>,
        /// Threads in all; as many as there are processors if not given
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
        threads: Option<u16>,
        #[command(flatten)]
        new: NewStore,
        #[command(flatten)]
        open: Open,
    },
    /// Regenerate a disk image file
    #[command(after_help = "\
Examples:
  mif export web web.raw
  mif export web@2 out/web.vmdk
  mif export web disk.img --format qcow2 --force
  mif export web big.qcow2 --size 20G --resize p1=max    the root filesystem takes all that is there
  mif export web small.raw --resize p1=min --size min    as small as it goes
  mif export web clone.raw --new-ids                     fresh UUIDs, and fstab and boot loader name them
  mif export --all out/ --format vmdk                    the newest version of every image, as out/NAME.vmdk

With --all it goes on past failures, and exits 1 if there were any; files that are there are left alone without \
--force.

A volume that gets another size or identity is planned anew; all others keep every bit. A volume grows into what is \
free behind it, and what is in the way moves up.")]
    Export {
        /// NAME[@VERSION] in the store
        #[arg(required_unless_present = "all")]
        image: Option<String>,
        /// The file to write, which appears whole or not at all; a block device; or - for standard output
        #[arg(required_unless_present = "all")]
        output: Option<PathBuf>,
        /// The container format; by the file's suffix if not given
        #[arg(long, short = 'O', value_name = "FORMAT")]
        format: Option<String>,
        /// Every image of the store, into the folder DIR
        #[arg(
            long,
            value_name = "DIR",
            requires = "format",
            conflicts_with_all = ["image", "output", "backing", "size", "resize", "new_ids"]
        )]
        all: Option<PathBuf>,
        /// With --all: all versions, as NAME@VERSION
        #[arg(long, requires = "all")]
        all_versions: bool,
        /// With --all: images exported side by side; as many as there are processors, and at most 4, if not given
        #[arg(long, short = 'j', value_name = "N", requires = "all", value_parser = clap::value_parser!(u16).range(1..=256))]
        jobs: Option<u16>,
        #[command(flatten)]
        write: Write,
        #[command(flatten)]
        reshape: ReshapeArgs,
    },
    /// A disk image into another container, straight through
    #[command(after_help = "\
Examples:
  mif convert disk.vmdk disk.qcow2
  mif convert disk.raw disk.qcow2 -o compress=on,compression_type=zstd
  mif convert today.raw today.qcow2 --backing base.qcow2
  mif convert web@2 web.vmdk -o subformat=streamOptimized
  mif convert disk.qcow2 /dev/vg/web --force --verify
  mif convert disk.vmdk - | ssh host 'cat > disk.raw'
  mif convert vm-000001.vmdk vm.raw --parent /moved/base.vmdk

An IMAGE is a disk image file, or NAME[@VERSION] in the store. Holes are never read, and runs of zeros become holes.")]
    Convert {
        /// The image
        image: String,
        /// The file to write, which appears whole or not at all; a block device; or - for standard output
        output: PathBuf,
        /// The container format to write; by the file's suffix if not given
        #[arg(long, short = 'O', value_name = "FORMAT")]
        output_format: Option<String>,
        #[command(flatten)]
        write: Write,
        #[command(flatten)]
        open: Open,
    },
    /// Compare two images, or check all of the store: bit by bit and file by file
    #[command(after_help = "\
Examples:
  mif verify web web.raw            exits 0 if every bit is the same, 1 if not
  mif verify old.vmdk new.qcow2
  mif verify web@1 web@2 --files    exits 0 if all files are the same
  mif verify web --independent      read again by gpt, ext4-view and fatfs: is the manifest right?
  mif verify --all                  every image against the digests kept when it was made
  mif verify --all --against library/ --json > report.json
                                    and against the files that they were imported from

An IMAGE is a disk image file, or NAME[@VERSION] in the store. Of two images, files are compared if bits differ.

--all exits 0 if every layout, manifest and object has its digest, every file its BLAKE3 and SHA-1, and every byte \
of every disk can be had. With --against it compares the last import of each image with its original, a file in DIR \
or its folders, by all bits and all files; an image without an original, or an original without an image, makes it \
exit 1 too. The original of an image is the file of the name that it was imported from, or else the one of the \
image's name. What in DIR is a disk image is decided as `mif import` does it.")]
    Verify {
        /// One image
        #[arg(value_name = "IMAGE", required_unless_present = "all")]
        a: Option<String>,
        /// The other
        #[arg(
            value_name = "IMAGE",
            required_unless_present_any = ["independent", "all"],
            conflicts_with = "independent"
        )]
        b: Option<String>,
        /// Every version of every image of the store
        #[arg(long, conflicts_with_all = ["a", "b", "files", "independent", "format", "snapshot"])]
        all: bool,
        /// With --all: also compare with the disk image files in DIR that they were imported from
        #[arg(long, value_name = "DIR", requires = "all")]
        against: Option<PathBuf>,
        /// Same files are enough: exit 0 even if bits differ
        #[arg(long)]
        files: bool,
        /// Hold one image's partitions, paths and contents against what readers written by others find
        #[arg(long, conflicts_with = "files")]
        independent: bool,
        #[command(flatten)]
        open: Open,
    },
    /// What an image is: container, partitions, filesystems, the system on it, origin
    #[command(after_help = "\
Examples:
  mif info disk.vmdk
  mif info web@2 --json

An IMAGE is a disk image file, or NAME[@VERSION] in the store.")]
    Info {
        /// The image
        image: String,
        #[command(flatten)]
        open: Open,
    },
    /// List files in an image
    #[command(after_help = "\
Examples:
  mif ls web /etc                 on the root filesystem
  mif ls -l disk.qcow2 p15:/EFI   on the volume of partition 15
  mif ls -lR web                  everything, on every volume
  mif ls -R --digests disk.vmdk   with the SHA-1 of each file, as sha1sum prints it
  mif ls web --format mtree       the root filesystem as a specification for bsdtar and mtree

An IMAGE is a disk image file, or NAME[@VERSION] in the store.")]
    Ls {
        /// The image
        image: String,
        /// A path: /etc on the root filesystem, or p15:/EFI
        path: Option<std::ffi::OsString>,
        /// Mode, owner, size, time and link target too
        #[arg(long, short)]
        long: bool,
        /// All that is below
        #[arg(long, short = 'R')]
        recursive: bool,
        /// The SHA-1 of each file too; of a disk image file they are computed
        #[arg(long)]
        digests: bool,
        /// How it is printed; mtree is one folder and all that is below, as mtree(5) describes it
        #[arg(long, value_enum, default_value_t = ListFormat::Text, value_name = "FORMAT")]
        format: ListFormat,
        /// In CSV, put an apostrophe before cells that a spreadsheet would take as formulas
        #[arg(long)]
        csv_safe: bool,
        #[command(flatten)]
        files: OpenFiles,
        /// Take disk image files as this format instead of finding out
        #[arg(long, short = 'f', value_name = "FORMAT")]
        image_format: Option<String>,
    },
    /// Print files of an image
    #[command(after_help = "\
Examples:
  mif cat web /etc/os-release
  mif cat disk.vmdk p15:/EFI/BOOT/BOOTX64.EFI > bootx64.efi

Symlinks are followed, within the volume. An IMAGE is a disk image file, or NAME[@VERSION] in the store.")]
    Cat {
        /// The image
        image: String,
        /// Paths: /etc/passwd on the root filesystem, or p15:/EFI/…
        #[arg(required = true)]
        paths: Vec<std::ffi::OsString>,
        #[command(flatten)]
        open: Open,
    },
    /// New images of a stored one, by edits of its files
    #[command(
        after_help = "\
Examples:
  mif customize debian --as web --hostname web --ssh-key root:file:id_ed25519.pub --enable ssh
  mif customize debian --as web --write-file /etc/motd:motd --chmod /etc/motd:0644
  mif customize debian --as web --recipe web.toml --set domain=example.org
  mif customize debian --as 'web-{{id}}' --csv hosts.csv --hostname 'web-{{id}}' --network 'eth0:{{ip}}/24'
  mif customize debian --as big --hostname big --size +1G --resize p1=max --new-ids
  mif customize debian --as golden --generalize --dry-run

A recipe is a TOML file with a table for each edit:
  [[edit]]
  do = \"write\"
  path = \"/etc/motd\"
  content = \"This is {{name}}\\n\"
  mode = \"0644\"
docs/customize.md lists all that an edit can do.

PATH is absolute, as the image's own system would see it, with what /etc/fstab mounts; or VOLUME:/path, as in \
p15:/EFI. Symlinks are followed within the image. {{name}} stands for a value of --set or a column of --csv. All edits \
of all images are tried before anything is written.",
        next_line_help = true
    )]
    Customize(Box<super::customize::Customize>),
    /// List the images of the store
    #[command(after_help = "\
Examples:
  mif images
  mif images --store /srv/mif-store --json")]
    Images,
    #[command(flatten)]
    Update(super::update::Update),
    #[command(flatten)]
    Trees(super::trees::Trees),
    #[command(flatten)]
    Library(super::library::Library),
    #[command(flatten)]
    Install(super::install::Install),
}

impl Command {
    /// Whether it writes files, and so may be making one durable.
    pub(super) fn writes_files(&self) -> bool {
        use super::library::Library;
        match self {
            Command::Verify { .. }
            | Command::Info { .. }
            | Command::Ls { .. }
            | Command::Cat { .. }
            | Command::Images
            | Command::Install(super::install::Install::Completions { .. }) => false,
            Command::Library(library) => {
                matches!(
                    library,
                    Library::Gc { .. } | Library::Fsck { .. } | Library::Rm { .. } | Library::Tag { .. }
                )
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Only a build with debug assertions checks this: `make check` makes one.
    #[test]
    fn no_verb_has_two_arguments_of_one_name() {
        Cli::command().debug_assert();
    }
}
