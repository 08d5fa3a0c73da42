//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use mif::NamePattern;

use super::common::{
    Divide, Filter, Global, ImageKey, ListFormat, NewStore, Open, OpenFiles, ReshapeArgs, Write,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  finished, but the answer is no: images differ, part of a batch failed, or damage was found
  2  invalid command line
  3  invalid input: missing, damaged or refused
  4  unsupported format or feature
  5  store or I/O error
  129, 130, 143  stopped by SIGHUP, SIGINT or SIGTERM, with all temporary files removed";

/// Take disk images apart into files and metadata, store each content once, and regenerate the disks bit for bit. No
/// root, no loop devices, no mounts.
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
    /// Import disk images into the store
    #[command(after_help = "\
Examples:
  mif import web.qcow2                      as the image \"web\"
  mif import --name db --verify disk.vmdk   read it back and compare before publishing it
  mif import library/                       every disk image in a directory, recursively
  mif import vms/ --name '{parent}-{stem}'  vms/web/disk.vmdk as \"web-disk\"
  mif import web.qcow2.xz backup.vma.zst    compressed disks, and every disk in an archive
  mif import vm.ova//data.vmdk              one disk of an archive
  mif import library/ --json > report.json  one line per event, and a summary as the last line
  mif import library/ --shard 2/4           the third of four machines: a quarter of the images
  mif import library/ --claim               on any number of machines: each takes what is left

In a directory, disk images are recognised by their contents. Other files are skipped, and so are the extents of an \
image that is being imported. A disk that serves as the base of another is imported as an image of its own.

Compressed files (gzip, xz, zstd, bzip2, LZ4, LZMA) and archives (tar, OVA, Vagrant boxes, zip, Proxmox VMA) are \
opened, and every disk in an archive becomes an image. FILE//MEMBER names one disk of an archive, for all verbs.

Several images are imported in parallel. If one fails, the others continue, and the exit code is 1. Several machines \
divide a batch by --shard or --claim: see docs/fleet.md. Run the same \
command again to resume: it skips an image without reading it if its files have not changed since the last import and \
the stored image is whole. A single file is always read.

A name belongs to the file that was last imported under it, and another file of that name is refused: pass --name to \
give it its own name, or --new-version to make it a version of the same image. Importing an image again rewrites its \
damaged parts in the store. If an older mif described the same disk, it stays as it is: `mif reread` describes it anew. \
--verify checks its objects too; if any are damaged, the exit code is 1, and \
`mif fsck --repair` removes the damaged copies.")]
    Import {
        /// Disk image files, or directories that contain them
        #[arg(required = true, value_name = "PATH")]
        files: Vec<PathBuf>,
        /// Name of the image in the store. {stem} is the file name without its suffixes, {name} the whole file name,
        /// {parent} the name of its directory, and {member} the member of an archive, without its suffix [default:
        /// {stem}, or {stem}-{member} if a file has several disks]
        #[arg(long, value_name = "PATTERN")]
        name: Option<NamePattern>,
        /// Add a new version to the image of that name even if it was imported from another file
        #[arg(long)]
        new_version: bool,
        /// Read each new image back and compare it with its file before publishing it
        #[arg(long)]
        verify: bool,
        /// Refuse a disk if importing it causes any warning
        #[arg(long)]
        strict: bool,
        /// Store encrypted volumes (LUKS) as plaintext, which everybody who can read the store can read. Needs --key-file or
        /// --ask-key. By default they are stored as they are, exact and encrypted
        #[arg(long)]
        decrypt: bool,
        /// Read files again even if they have not changed since the last import
        #[arg(long)]
        reread: bool,
        /// Number of images to import in parallel [default: the number of threads, at most 4]
        #[arg(long, short = 'j', value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
        jobs: Option<u16>,
        /// Number of threads in total [default: the number of processors]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
        threads: Option<u16>,
        #[command(flatten)]
        divide: Divide,
        #[command(flatten)]
        new: NewStore,
        #[command(flatten)]
        open: Open,
    },
    /// Describe stored images anew, with today's readers
    #[command(after_help = super::reread::EXAMPLES)]
    Reread(super::reread::Reread),
    /// Copy images to another store: what it lacks, and no more
    #[command(after_help = super::copy::PUSH)]
    Push(super::copy::Push),
    /// Copy images from another store
    #[command(after_help = super::copy::PULL)]
    Pull(super::copy::Pull),
    /// Copy images between two stores
    #[command(after_help = super::copy::COPY)]
    Copy(super::copy::Copy),
    /// Export an image from the store to a disk image file
    #[command(after_help = "\
Examples:
  mif export web web.raw
  mif export web@2 out/web.vmdk
  mif export web disk.img --format qcow2 --force
  mif export web big.qcow2 --size 20G --resize p1=max    grow the root filesystem to fill the disk
  mif export web small.raw --resize p1=min --size min    shrink the disk as far as possible
  mif export web clone.raw --new-ids                     new UUIDs, in fstab and boot loader too
  mif export web 4kn.vhdx --sector-size 4096             for disks with sectors of 4096 bytes
  mif export old new.raw --table gpt --boot both         a GPT for an MBR, UEFI besides a BIOS
  mif export --all out/ --format vmdk                    every image, as out/NAME.vmdk
  mif export web web.ova --for vmware-esxi -o cpus=2,memory=4G
  mif export web web.tar.gz --for gcp
  mif export web@2 /dev/vg/web --rewrite --verify        only the blocks that differ from what is there
  mif export --for list                                  every target, with what it takes

With --for, the file follows the rules of a hypervisor or cloud: see docs/targets.md. A disk whose size it does not take \
is enlarged, and the report says so. An OVA takes the options cpus, memory and firmware (bios or efi).

With --all, the other images are still exported if one fails, and the exit code is 1. Existing files are not \
replaced unless --force is given. Several machines divide the images by --shard or --claim: see docs/fleet.md.

Resizing a volume or giving it a new identity rebuilds its filesystem; all other volumes stay identical bit for bit. \
A volume grows into the free space after it. If a partition is in the way, it moves towards the end of the disk.")]
    Export {
        /// Image in the store: NAME[@VERSION|@TAG]
        #[arg(required_unless_present_any = ["all", "target"])]
        image: Option<String>,
        /// File to write, which appears only when it is complete; a block device; or - for standard output
        #[arg(required_unless_present_any = ["all", "target"])]
        output: Option<PathBuf>,
        /// Container format [default: the one that OUTPUT's suffix names]
        #[arg(long, short = 'O', value_name = "FORMAT")]
        format: Option<String>,
        /// Hypervisor or cloud that the file is for; `list` lists them
        #[arg(long = "for", value_name = "TARGET", conflicts_with_all = ["format", "backing"])]
        target: Option<String>,
        /// Export every image in the store into the directory DIR
        #[arg(
            long,
            value_name = "DIR",
            conflicts_with_all = ["image", "output", "backing", "rewrite", "receipt", "size", "resize", "new_ids", "sector_size", "table", "boot"]
        )]
        all: Option<PathBuf>,
        /// With --all: export all versions, as NAME@VERSION
        #[arg(long, requires = "all")]
        all_versions: bool,
        #[command(flatten)]
        filter: Filter,
        /// With --all: number of images to export in parallel [default: the number of processors, at most 4]
        #[arg(long, short = 'j', value_name = "N", requires = "all", value_parser = clap::value_parser!(u16).range(1..=256))]
        jobs: Option<u16>,
        #[command(flatten)]
        divide: Divide,
        #[command(flatten)]
        write: Write,
        #[command(flatten)]
        reshape: ReshapeArgs,
    },
    /// Convert a disk image to another container format
    #[command(after_help = "\
Examples:
  mif convert disk.vmdk disk.qcow2
  mif convert disk.raw disk.qcow2 -o compress=on,compression_type=zstd
  mif convert today.raw today.qcow2 --backing base.qcow2
  mif convert web@2 web.vmdk -o subformat=streamOptimized
  mif convert disk.qcow2 /dev/vg/web --force --verify
  mif convert disk.vmdk - | ssh host 'cat > disk.raw'
  mif convert vm-000001.vmdk vm.raw --parent /moved/base.vmdk

IMAGE is a disk image file, or NAME[@VERSION|@TAG] in the store. Holes are not read, and runs of zeros are written as \
holes.")]
    Convert {
        /// Disk image file, or NAME[@VERSION|@TAG] in the store
        image: String,
        /// File to write, which appears only when it is complete; a block device; or - for standard output
        output: PathBuf,
        /// Container format to write [default: the one that OUTPUT's suffix names]
        #[arg(long, short = 'O', value_name = "FORMAT")]
        output_format: Option<String>,
        #[command(flatten)]
        write: Write,
        #[command(flatten)]
        open: Open,
    },
    /// Compare two images, or verify every image in the store
    #[command(after_help = "\
Examples:
  mif verify web web.raw            exit 0 if every bit is the same, 1 if not
  mif verify old.vmdk new.qcow2
  mif verify web@1 web@2 --files    exit 0 if all files are the same
  mif verify web --independent      check the manifest with other people's readers
  mif verify --all                  check every image against the digests recorded when it was made
  mif verify --all --against library/ --json > report.json
                                    and compare each with the file that it was imported from

IMAGE is a disk image file, or NAME[@VERSION|@TAG] in the store. Two images are compared bit by bit, and file by file if \
their bits differ.

--all exits 0 if every layout, manifest and object matches its digest, every file matches its BLAKE3 and SHA-1, and \
every byte of every disk can be read. With --against, it also compares the last import of each image with its \
original, bit by bit and file by file, and exits 1 if an image has no original or an original has no image. The \
original is the disk image in DIR or its subdirectories that has the file name it was imported from, or else the \
name of the image. Disk images in DIR are recognised as `mif import` recognises them.

Several machines divide the library by --shard or --claim: see docs/fleet.md. Each reports on its part only, so the library \
is intact if all of them exit 0.")]
    Verify {
        /// First image
        #[arg(value_name = "IMAGE", required_unless_present = "all")]
        a: Option<String>,
        /// Second image
        #[arg(
            value_name = "IMAGE",
            required_unless_present_any = ["independent", "all"],
            conflicts_with = "independent"
        )]
        b: Option<String>,
        /// Verify every version of every image in the store
        #[arg(long, conflicts_with_all = ["a", "b", "files", "independent", "format", "snapshot"])]
        all: bool,
        /// With --all: also compare images with the disk image files in DIR that they were imported from
        #[arg(long, value_name = "DIR", requires = "all")]
        against: Option<PathBuf>,
        #[command(flatten)]
        divide: Divide,
        #[command(flatten)]
        filter: Filter,
        /// Exit 0 if all files are the same, even if bits differ
        #[arg(long)]
        files: bool,
        /// Check the partitions, paths and contents of one image with independent readers
        #[arg(long, conflicts_with = "files")]
        independent: bool,
        #[command(flatten)]
        open: Open,
    },
    /// Show an image's container, partitions, filesystems, operating system and origin
    #[command(after_help = "\
Examples:
  mif info disk.vmdk
  mif info web@2 --json
  mif info web --map         draw what lies where on the disk

IMAGE is a disk image file, or NAME[@VERSION|@TAG] in the store. --map draws the partitions and the space around them in \
cells, each with what fills most of it: content of files, residue (all other bytes: tables, metadata, what deleted files \
left), or zeros. The disk in a file is read for that. With --json, the map is bytes for each of about a thousand cells.")]
    Info {
        /// Disk image file, or NAME[@VERSION|@TAG] in the store
        image: String,
        /// Draw a map of the disk instead
        #[arg(long)]
        map: bool,
        #[command(flatten)]
        open: Open,
    },
    /// List files in an image
    #[command(after_help = "\
Examples:
  mif ls web /etc                 on the root filesystem
  mif ls -l disk.qcow2 p15:/EFI   on the volume of partition 15
  mif ls -lR web                  every file on every volume
  mif ls -R --digests disk.vmdk   with the SHA-1 of each file, as sha1sum prints it
  mif ls web --format mtree       the root filesystem as an mtree specification, for bsdtar and mtree

IMAGE is a disk image file, or NAME[@VERSION|@TAG] in the store.")]
    Ls {
        /// Disk image file, or NAME[@VERSION|@TAG] in the store
        image: String,
        /// Path to list: /etc on the root filesystem, or p15:/EFI
        path: Option<std::ffi::OsString>,
        /// Also print mode, owner, size, time and link target
        #[arg(long, short)]
        long: bool,
        /// List directories recursively
        #[arg(long, short = 'R')]
        recursive: bool,
        /// Also print the SHA-1 of each file; in a disk image file, this reads every file listed
        #[arg(long)]
        digests: bool,
        /// Output format; mtree prints a directory and everything below it as an mtree(5) specification
        #[arg(long, value_enum, default_value_t = ListFormat::Text, value_name = "FORMAT")]
        format: ListFormat,
        /// In CSV, prefix cells that a spreadsheet would take for formulas with an apostrophe
        #[arg(long)]
        csv_safe: bool,
        #[command(flatten)]
        files: OpenFiles,
        /// Container format of disk image files [default: detected from their contents]
        #[arg(long, short = 'f', value_name = "FORMAT")]
        image_format: Option<String>,
    },
    /// Print files from an image
    #[command(after_help = "\
Examples:
  mif cat web /etc/os-release
  mif cat disk.vmdk p15:/EFI/BOOT/BOOTX64.EFI > bootx64.efi

Symlinks are followed within the image. IMAGE is a disk image file, or NAME[@VERSION|@TAG] in the store.")]
    Cat {
        /// Disk image file, or NAME[@VERSION|@TAG] in the store
        image: String,
        /// Files to print: /etc/passwd on the root filesystem, or p15:/EFI/BOOT/BOOTX64.EFI
        #[arg(required = true)]
        paths: Vec<std::ffi::OsString>,
        #[command(flatten)]
        open: Open,
    },
    /// Make new images from a stored one by editing its files
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
docs/customize.md describes every edit.

PATH is an absolute path as the image's own system sees it, with the filesystems that its /etc/fstab mounts; or \
VOLUME:/path, such as p15:/EFI. Symlinks are followed within the image. {{name}} is replaced by a value from --set \
or a column of --csv. All edits of all images are planned before anything is written, so an error leaves the store \
unchanged.",
        next_line_help = true
    )]
    Customize(Box<super::customize::Customize>),
    /// List the images in the store
    #[command(visible_aliases = ["list", "snapshots"], after_help = "\
Examples:
  mif images
  mif images 'web-*' --newest --sort size
  mif images --system 'debian 12' --older-than 30d
  mif images --store /srv/mif-store --json

Exits 1 if a filter is given and no image matches.")]
    Images {
        /// Patterns for names, as --only
        #[arg(value_name = "PATTERN")]
        names: Vec<String>,
        /// Only the newest version of each image
        #[arg(long)]
        newest: bool,
        /// Sort by name, size of the disk (the largest first) or time (the newest first) [default: name]
        #[arg(long, value_name = "KEY")]
        sort: Option<ImageKey>,
        /// List at most N images
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        filter: Filter,
    },
    /// Check whether an image boots on a hypervisor or cloud, and mend it
    #[command(after_help = super::check::EXAMPLES)]
    Check(super::check::Check),
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
    /// Returns true for the verbs here that only read and report.
    fn only_reads(&self) -> bool {
        matches!(
            self,
            Command::Verify { .. }
                | Command::Info { .. }
                | Command::Ls { .. }
                | Command::Cat { .. }
                | Command::Images { .. }
        )
    }

    /// Returns true if the verb writes files, so it may be in the middle of an fsync.
    pub(super) fn writes_files(&self) -> bool {
        use super::library::Library;
        match self {
            Command::Install(super::install::Install::Completions { .. }) => false,
            Command::Library(library) => {
                matches!(
                    library,
                    Library::Gc { .. }
                        | Library::Catalog { .. }
                        | Library::Fsck { .. }
                        | Library::Rm { .. }
                        | Library::Tag { .. }
                        | Library::Stats { html: Some(_), .. }
                )
            }
            verb => !verb.only_reads(),
        }
    }

    /// Returns true if the verb answers a question, so its report is printed even with --quiet.
    pub(super) fn is_question(&self) -> bool {
        use super::library::Library;
        match self {
            Command::Install(_) => true,
            Command::Library(library) => !matches!(
                library,
                Library::Catalog { .. } | Library::Gc { .. } | Library::Rm { .. } | Library::Tag { .. }
            ),
            Command::Check(_) => true,
            verb => verb.only_reads(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// clap checks this only in a build with debug assertions, such as `make check`.
    #[test]
    fn no_verb_has_two_arguments_of_one_name() {
        Cli::command().debug_assert();
    }
}
