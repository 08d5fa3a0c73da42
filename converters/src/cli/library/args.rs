//! The arguments of the verbs that keep a library of images.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use mif_formats::fs::FileType;

use crate::cli::common::{Filter, Open, OpenFiles};
use crate::cli::values::{duration, size_range};

#[derive(Subcommand)]
pub(crate) enum Library {
    /// Show the versions of images, and what each was made from
    #[command(after_help = "\
Examples:
  mif log web          each version with its source, its time and the command that made it
  mif log --json       the versions of all images")]
    Log {
        /// Name of an image [default: all images]
        name: Option<String>,
        /// Do not use a pager, even if the answer does not fit the terminal
        #[arg(long)]
        no_pager: bool,
    },
    /// Tag a version of an image
    #[command(after_help = "\
Examples:
  mif tag web golden          tag the newest version of web as web@golden
  mif tag web@3 golden        move the tag to version 3
  mif tag --delete web@golden

`mif gc` keeps tagged versions, and `mif rm` removes them only with --force.")]
    Tag {
        /// Image in the store: NAME[@VERSION|@TAG]
        image: String,
        /// Tag to set: letters, digits and . _ + - , but not only digits
        #[arg(required_unless_present = "delete", conflicts_with = "delete")]
        tag: Option<String>,
        /// Remove the tag, which IMAGE names as NAME@TAG
        #[arg(long)]
        delete: bool,
    },
    /// Remove images from the store
    #[command(after_help = "\
Examples:
  mif rm web@2                                  remove one version
  mif rm web                                    remove all versions
  mif rm --only 'ci-*' --older-than 30d --dry-run
                                                show which versions a filter removes

`mif gc` reclaims the space. Version numbers are not reused. Commands that are reading a removed image can finish.")]
    Rm {
        /// Image in the store: NAME[@VERSION|@TAG]; NAME alone is all its versions
        #[arg(required_unless_present_any = ["only", "tagged", "system", "older_than", "newer_than", "disk_size"], value_name = "IMAGE", conflicts_with_all = ["only", "tagged", "system", "older_than", "newer_than", "disk_size"])]
        images: Vec<String>,
        /// Also remove tagged versions
        #[arg(long)]
        force: bool,
        /// Show what would be removed without removing it
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        filter: Filter,
    },
    /// Remove old versions, and reclaim space that no image needs
    #[command(after_help = "\
Examples:
  mif gc                                      remove unused data, and keep all versions
  mif gc --keep-last 3 --keep-within 90d      also remove versions that neither option keeps
  mif gc --keep-daily 7 --keep-weekly 4       one version for each of the last 7 days and 4 weeks that have any
  mif gc --keep-last 1 --dry-run              show what would be removed

A version is kept if any option keeps it. The newest version of each image is always kept, and so are tagged versions, \
unless --keep-tag chooses among them. Days, weeks and months are those of UTC. Other commands can use the store meanwhile: data that they may still \
read is deleted by a later gc.")]
    Gc {
        /// Keep the N newest versions of each image
        #[arg(long, value_name = "N")]
        keep_last: Option<usize>,
        /// Keep versions that are at most this old: 12h, 30d, 8w, 1y
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        keep_within: Option<u64>,
        /// Keep the newest version of each of the last N hours in which one was made
        #[arg(long, value_name = "N")]
        keep_hourly: Option<usize>,
        /// The same for days
        #[arg(long, value_name = "N")]
        keep_daily: Option<usize>,
        /// The same for weeks, which begin on Monday
        #[arg(long, value_name = "N")]
        keep_weekly: Option<usize>,
        /// The same for months
        #[arg(long, value_name = "N")]
        keep_monthly: Option<usize>,
        /// The same for years
        #[arg(long, value_name = "N")]
        keep_yearly: Option<usize>,
        /// Of tagged versions, keep only those with a tag that matches this pattern; can be given several times
        #[arg(long, value_name = "PATTERN")]
        keep_tag: Vec<String>,
        /// Show what would be done without doing it
        #[arg(long)]
        dry_run: bool,
    },
    /// Bring the catalog up to date, by which searches and SQL answer for a whole library
    #[command(after_help = "\
Examples:
  mif catalog              add the images that are not in it yet, and drop those that were removed
  mif catalog --dry-run    show how many images it lacks
  mif catalog --check      read all of it too, and make again what is damaged
  mif catalog --rm         remove it

The catalog has the rows of all manifests in a few Parquet files, sorted by path and by digest. `mif search` \
and `mif packages` use it, and DuckDB, Spark and Polars read it from the directory `catalog` of the store. It is derived from the \
images: without it, every answer is the same. A run reads the images that it adds, and what it merges. What an interrupted run \
has done stays.")]
    Catalog {
        /// Show what would be done without doing it
        #[arg(long, conflicts_with = "rm")]
        dry_run: bool,
        /// Read all of the catalog for damage. Without this, a run reads what it adds and merges, and
        /// the footers of the other files
        #[arg(long, conflicts_with = "rm")]
        check: bool,
        /// Remove the catalog
        #[arg(long)]
        rm: bool,
    },
    /// Check the store for damage, and repair it
    #[command(after_help = "\
Examples:
  mif fsck                                exit 1 if anything is damaged, and list what is lost
  mif fsck --repair                       repair what can be repaired from the store itself
  mif fsck --repair --from /srv/images    also recover lost objects from disk images

The first line is the verdict: whole, repairable from the store itself, repairable with the original images, or lost. \
The second line is the command that repairs the store. --repair rebuilds indexes from packs, copies the undamaged \
objects out of a damaged pack, which it sets aside until `mif gc`, and rebuilds records, manifests and tables.")]
    Fsck {
        /// Repair what can be repaired. Waits until no other command has the store open
        #[arg(long)]
        repair: bool,
        /// Disk image files, or directories that contain them, to recover lost data from
        #[arg(long, value_name = "PATH", num_args = 1.., requires = "repair")]
        from: Vec<PathBuf>,
        /// List all damage, and every path that lost its content, not only ten per image
        #[arg(long)]
        list: bool,
        #[command(flatten)]
        open: Open,
    },
    /// Show which files differ between two images
    #[command(after_help = "\
Examples:
  mif diff web@1 web@2                 what an update did
  mif diff web@1 web@2 /etc --content  with the changed lines of text files
  mif diff base.qcow2 web --by folder  with the number of changes in each directory
  mif diff web@1 web@2 --by package --summary
                                       packages that changed, and how many of their files
  mif diff web@1 web@2 --stat          the size of each change, as `git diff --stat` shows it
  mif diff web@1 web@2 --text > x.diff a unified diff of all text files, for patch(1)
  mif diff a.vmdk b.qcow2 --ignore-times
  mif diff build1.raw build2.raw --why what keeps two builds of one recipe from being identical

IMAGE is a disk image file, or NAME[@VERSION|@TAG] in the store. Each line begins with + (added), - (removed), M (content \
changed), m (only metadata changed) or R (renamed). Paths that differ only in their times are counted, not listed. \
Access times and inode numbers are ignored, except by --why. In a terminal, a long answer goes through a pager: \
MIF_PAGER, or PAGER, or less. Exits 1 if anything changed.")]
    Diff {
        /// Old image
        #[arg(value_name = "IMAGE")]
        a: String,
        /// New image
        #[arg(value_name = "IMAGE")]
        b: String,
        /// Compare only this path and everything below it: /etc on the root filesystem, or p15:/EFI
        path: Option<std::ffi::OsString>,
        /// Show the changed lines of text files
        #[arg(long)]
        content: bool,
        /// Print only the differences of text files, as a unified diff
        #[arg(long, conflicts_with_all = ["summary", "stat", "by"])]
        text: bool,
        /// Print the lines or bytes that changed in each file
        #[arg(long, conflicts_with = "summary")]
        stat: bool,
        /// List paths that differ only in their times, and the times of others
        #[arg(long, conflicts_with = "ignore_times")]
        times: bool,
        /// Ignore differences in file times
        #[arg(long)]
        ignore_times: bool,
        /// Exit 1 if anything changed; this is the default, for those who know it from git
        #[arg(long)]
        exit_code: bool,
        /// Sort by path, or by size (the largest growth or loss first) [default: path]
        #[arg(long, value_name = "KEY")]
        sort: Option<ChangeKey>,
        /// List at most N changes
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        /// Also count the changes by directory or by package
        #[arg(long, value_name = "WHAT")]
        by: Option<By>,
        /// With --by folder: count by the first N components of a path
        #[arg(long, value_name = "N", default_value_t = 2)]
        depth: usize,
        /// Print only the counts
        #[arg(long)]
        summary: bool,
        /// Print the counts, and what makes the disks differ besides the contents of files, by field: identities, hash
        /// seeds, times, inode numbers, the order of directory entries, free space
        #[arg(long, conflicts_with_all = ["text", "stat", "by", "path"])]
        why: bool,
        /// Do not use a pager, even if the answer does not fit the terminal
        #[arg(long)]
        no_pager: bool,
        #[command(flatten)]
        open: Open,
    },
    /// List the packages installed in images: dpkg, rpm, apk and programs of Windows
    #[command(after_help = "\
Examples:
  mif packages web                  packages that the image's own databases list
  mif packages disk.qcow2 --csv
  mif packages --name 'libssl*'     in the newest version of every image in the store
  mif packages --name 'libssl3*' --below 3.0.15 --group
                                    older ones, each with the images that have it
  mif packages web --format spdx-json > web.spdx.json
                                    a bill of materials, for grype and trivy; the same image gives the same bytes

Versions are compared as the package's own manager does, dpkg, rpm or apk: an epoch counts, and 1.0~rc1 is below 1.0. \
Exits 1 if no package was found.")]
    Packages {
        /// Disk image file, or NAME[@VERSION|@TAG] in the store [default: the newest version of every image in the store]
        image: Option<String>,
        /// List only packages whose name matches this pattern
        #[arg(long, value_name = "PATTERN")]
        name: Option<String>,
        /// List only versions below this one
        #[arg(long, value_name = "VERSION", allow_hyphen_values = true)]
        below: Option<String>,
        /// List only versions above this one
        #[arg(long, value_name = "VERSION", allow_hyphen_values = true)]
        above: Option<String>,
        /// List only this version
        #[arg(long, value_name = "VERSION", allow_hyphen_values = true)]
        is: Option<String>,
        /// List each package once, with the images that have it
        #[arg(long, conflicts_with = "csv")]
        group: bool,
        /// Sort by image, name or version (the newest first) [default: image]
        #[arg(long, value_name = "KEY")]
        sort: Option<PackageKey>,
        /// List at most N packages
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        /// Print text, comma-separated values, or a bill of materials of IMAGE for scanners and auditors: SPDX 2.3 or CycloneDX
        /// 1.6, with package URLs, and with licences where the package database has them
        #[arg(long, value_name = "FORMAT", conflicts_with = "csv")]
        format: Option<PackageFormat>,
        /// The same as --format csv
        #[arg(long, conflicts_with = "json")]
        csv: bool,
        /// In CSV, prefix cells that a spreadsheet would take for formulas with an apostrophe
        #[arg(long)]
        csv_safe: bool,
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        files: OpenFiles,
        /// Container format of disk image files [default: detected from their contents]
        #[arg(long, short = 'f', value_name = "FORMAT")]
        image_format: Option<String>,
    },
    /// Search for files in stored images
    #[command(
        visible_alias = "find",
        after_help = "\
Examples:
  mif search /etc/ssh/sshd_config           in the newest version of every image
  mif search 'libssl*.so*' --csv            by file name
  mif search '/usr/**/*.pyc' --image web    in one image
  mif search --setuid --type file           programs that run as another user or group
  mif search --file ./suspect               files with the same content as a local file
  mif search --sha1-file nsrl.txt           files whose SHA-1 is in a list
  mif search --size 100M.. --newer 2026-01-01
  mif search --xattr security.capability
  mif search '*.jar' --group --sort size --limit 20

In a pattern, * ? and [a-z] match within one component of a path, and ** matches any number of directories. A file \
must match all options given. Exits 1 if no file was found."
    )]
    Search(Box<Search>),
    /// Show the state of the store on one screen
    #[command(
        visible_alias = "doctor",
        after_help = "\
Examples:
  mif status
  mif status --json

Says how many images there are, how large they and the store are, what `mif gc` would free, when the store was last \
checked, and what needs attention. It reads records and indexes, not contents: `mif fsck` and `mif verify --all` check \
those, and leave a note of how that ended. Exits 1 if something needs \
attention."
    )]
    Status,
    /// Show the size of the store, and how much its images share
    #[command(after_help = "\
Examples:
  mif stats
  mif stats --similarity     also show how similar each pair of images is
  mif stats --html web.html  write a page with plots: growth, sharing, similarity, large files, directories

The page is one file. It loads nothing from the network and runs no script. An older page of this kind is replaced; any \
other file is not.")]
    Stats {
        /// Write a page with plots to FILE
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
        /// Show how much content each pair of images has in common
        #[arg(long)]
        similarity: bool,
    },
}

/// How packages are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PackageFormat {
    Text,
    Csv,
    SpdxJson,
    #[value(name = "cyclonedx-json")]
    CycloneDxJson,
}

/// What packages are sorted by.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum PackageKey {
    Image,
    Name,
    Version,
}

/// What changes are sorted by.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ChangeKey {
    Path,
    Size,
}

/// What files are sorted by.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum FileKey {
    Image,
    Path,
    Size,
    Time,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum By {
    /// Count by directory
    Folder,
    /// Count by the dpkg, rpm or apk package that owns the file
    Package,
}

#[derive(Args)]
pub(crate) struct Search {
    /// Pattern that the path must match, or only the file name if PATTERN has no slash
    pub(super) pattern: Option<String>,
    /// Search only this image, NAME[@VERSION|@TAG]; can be given several times
    #[arg(long, value_name = "NAME")]
    pub(super) image: Vec<String>,
    /// Search all versions of each image, not only the newest
    #[arg(long)]
    pub(super) all_versions: bool,
    /// Find files with the same content as this local file; like the digests below, can be given several times
    #[arg(long, value_name = "FILE")]
    pub(super) file: Vec<PathBuf>,
    /// Find files with this SHA-1
    #[arg(long, value_name = "HEX")]
    pub(super) sha1: Vec<String>,
    /// Find files with this BLAKE3 digest
    #[arg(long, value_name = "HEX")]
    pub(super) blake3: Vec<String>,
    /// Find files whose SHA-1 is in the file LIST, which has one digest per line
    #[arg(long, value_name = "LIST")]
    pub(super) sha1_file: Vec<PathBuf>,
    /// Find files of this type: file, dir, symlink, char, block, fifo or socket
    #[arg(long = "type", value_name = "TYPE", value_parser = file_type)]
    pub(super) file_type: Option<FileType>,
    /// Find files owned by this user ID
    #[arg(long)]
    pub(super) uid: Option<u32>,
    /// Find files owned by this group ID
    #[arg(long)]
    pub(super) gid: Option<u32>,
    /// Find files that have all of these mode bits, in octal
    #[arg(long, value_name = "OCTAL", value_parser = octal)]
    pub(super) mode: Option<u16>,
    /// Find files with the set-user-ID or set-group-ID bit
    #[arg(long)]
    pub(super) setuid: bool,
    /// Find files in this range of sizes: 100M.., ..4K, 1K..2K, or exactly 12
    #[arg(long, value_name = "RANGE", value_parser = size_range)]
    pub(super) size: Option<RangeInclusive<u64>>,
    /// Find files modified on or after this day, as YYYY-MM-DD in UTC or as @SECONDS since 1970
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(super) newer: Option<i64>,
    /// Find files modified before this day
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(super) older: Option<i64>,
    /// Find files with an extended attribute whose name matches this pattern
    #[arg(long, value_name = "NAME")]
    pub(super) xattr: Option<String>,
    /// List each content once, with the images that have it
    #[arg(long, conflicts_with = "csv")]
    pub(super) group: bool,
    /// Sort by image, path, size (the largest first) or time (the newest first) [default: image]
    #[arg(long, value_name = "KEY")]
    pub(super) sort: Option<FileKey>,
    /// List at most N files
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<usize>,
    #[command(flatten)]
    pub(super) filter: Filter,
    /// Print comma-separated values
    #[arg(long, conflicts_with = "json")]
    pub(super) csv: bool,
    /// In CSV, prefix cells that a spreadsheet would take for formulas with an apostrophe
    #[arg(long, requires = "csv")]
    pub(super) csv_safe: bool,
}

fn file_type(text: &str) -> Result<FileType, String> {
    use FileType::{Block, Char, Dir, Fifo, File, Socket, Symlink};
    let all = [File, Dir, Symlink, Char, Block, Fifo, Socket];
    let found = all.into_iter().find(|t| mif_formats::mif::manifest::type_name(*t) == text);
    found.ok_or_else(|| "expected file, dir, symlink, char, block, fifo or socket".into())
}

fn octal(text: &str) -> Result<u16, String> {
    u16::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| "expected an octal number up to 7777".into())
}

/// Parses a day or `@seconds` into seconds since 1970.
fn moment(text: &str) -> Result<i64, String> {
    let wrong = |_| "expected a day, such as 2026-01-31, or @SECONDS".to_owned();
    if let Some(seconds) = text.strip_prefix('@') {
        return seconds.parse().map_err(|_| "expected a number after @".into());
    }
    let day = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").map_err(wrong)?;
    Ok(day.and_time(chrono::NaiveTime::MIN).and_utc().timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_days_are_read() {
        assert_eq!(octal("4755"), Ok(0o4755));
        assert!(octal("8").is_err() && octal("17777").is_err());
        assert_eq!(moment("1970-01-02"), Ok(86400));
        assert_eq!(moment("@-5"), Ok(-5));
        assert!(moment("yesterday").is_err());
    }
}
