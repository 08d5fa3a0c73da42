//! The arguments of the verbs that keep a library of images.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use mif_formats::fs::FileType;

use crate::cli::common::Open;

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
    },
    /// Tag a version of an image
    #[command(after_help = "\
Examples:
  mif tag web golden          tag the newest version of web as web@golden
  mif tag web@3 golden        move the tag to version 3
  mif tag --delete web@golden

`mif gc` keeps tagged versions, and `mif rm` removes them only with --force.")]
    Tag {
        /// Image in the store: NAME, NAME@VERSION or NAME@TAG
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
  mif rm web@2     remove one version
  mif rm web       remove all versions

`mif gc` reclaims the space. Version numbers are not reused. Commands that are reading a removed image can finish.")]
    Rm {
        /// Image in the store: NAME@VERSION, or NAME for all its versions
        #[arg(required = true, value_name = "NAME")]
        images: Vec<String>,
        /// Also remove tagged versions
        #[arg(long)]
        force: bool,
    },
    /// Remove old versions, and reclaim space that no image needs
    #[command(after_help = "\
Examples:
  mif gc                                      remove unused data, and keep all versions
  mif gc --keep-last 3 --keep-within 90d      also remove versions that neither option keeps
  mif gc --keep-last 1 --dry-run              show what would be removed

The newest version of each image and tagged versions are always kept. Other commands can use the store meanwhile: data that they may still \
read is deleted by a later gc.")]
    Gc {
        /// Keep the N newest versions of each image
        #[arg(long, value_name = "N")]
        keep_last: Option<usize>,
        /// Keep versions that are at most this old: 12h, 30d, 8w, 1y
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        keep_within: Option<u64>,
        /// Show what would be done without doing it
        #[arg(long)]
        dry_run: bool,
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
        /// List every path that lost its content, not only ten per image
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
  mif diff a.vmdk b.qcow2 --ignore-times

IMAGE is a disk image file, or NAME[@VERSION] in the store. Each line begins with + (added), - (removed), M (content \
changed), m (only metadata changed) or R (renamed). Access times and inode numbers are ignored. Exits 1 if anything \
changed.")]
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
        /// Ignore differences in file times
        #[arg(long)]
        ignore_times: bool,
        /// Also count the changes by directory or by package
        #[arg(long, value_name = "WHAT")]
        by: Option<By>,
        /// With --by folder: count by the first N components of a path
        #[arg(long, value_name = "N", default_value_t = 2)]
        depth: usize,
        /// Print only the counts
        #[arg(long)]
        summary: bool,
        #[command(flatten)]
        open: Open,
    },
    /// List the packages installed in images: dpkg, rpm, apk and programs of Windows
    #[command(after_help = "\
Examples:
  mif packages web                  packages that the image's own databases list
  mif packages disk.qcow2 --csv
  mif packages --name 'libssl*'     in the newest version of every image in the store

Exits 1 if no package was found.")]
    Packages {
        /// Disk image file, or NAME[@VERSION] in the store [default: the newest version of every image in the store]
        image: Option<String>,
        /// List only packages whose name matches this pattern
        #[arg(long, value_name = "PATTERN")]
        name: Option<String>,
        /// Print comma-separated values
        #[arg(long, conflicts_with = "json")]
        csv: bool,
        /// In CSV, prefix cells that a spreadsheet would take for formulas with an apostrophe
        #[arg(long, requires = "csv")]
        csv_safe: bool,
        #[command(flatten)]
        open: Open,
    },
    /// Search for files in stored images
    #[command(after_help = "\
Examples:
  mif search /etc/ssh/sshd_config           in the newest version of every image
  mif search 'libssl*.so*' --csv            by file name
  mif search '/usr/**/*.pyc' --image web    in one image
  mif search --setuid --type file           programs that run as another user or group
  mif search --file ./suspect               files with the same content as a local file
  mif search --sha1-file nsrl.txt           files whose SHA-1 is in a list
  mif search --size 100M.. --newer 2026-01-01
  mif search --xattr security.capability

In a pattern, * ? and [a-z] match within one component of a path, and ** matches any number of directories. A file \
must match all options given. Exits 1 if no file was found.")]
    Search(Box<Search>),
    /// Show the size of the store, and how much its images share
    #[command(after_help = "\
Examples:
  mif stats
  mif stats --similarity     also show how similar each pair of images is")]
    Stats {
        /// Show how much content each pair of images has in common
        #[arg(long)]
        similarity: bool,
    },
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
    /// Search only this image, NAME[@VERSION]; can be given several times
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

fn size_range(text: &str) -> Result<RangeInclusive<u64>, String> {
    let size = |text: &str| -> Result<u64, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            "K" | "KIB" => 10,
            "M" | "MIB" => 20,
            "G" | "GIB" => 30,
            "T" | "TIB" => 40,
            _ => return Err("expected a unit of K, M, G or T".into()),
        };
        let number: u64 = digits.parse().map_err(|_| "expected a size, such as 10M".to_owned())?;
        number.checked_mul(1 << shift).ok_or_else(|| "the size is too large".into())
    };
    let Some((low, high)) = text.split_once("..") else { return size(text).map(|n| n..=n) };
    let low = if low.is_empty() { 0 } else { size(low)? };
    let high = if high.is_empty() { u64::MAX } else { size(high)? };
    Ok(low..=high)
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

/// Parses a number with a unit into seconds.
fn duration(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86400,
        "w" => 7 * 86400,
        "y" => 365 * 86400,
        _ => return Err("expected a number and s, m, h, d, w or y, such as 30d".into()),
    };
    let number: u64 = number.parse().map_err(|_| "expected a number and a unit, such as 30d".to_owned())?;
    number.checked_mul(seconds).ok_or_else(|| "the duration is too long".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_modes_and_days_are_read() {
        assert_eq!(size_range("100M.."), Ok(100 << 20..=u64::MAX));
        assert_eq!(size_range("..4K"), Ok(0..=4096));
        assert_eq!(size_range("12"), Ok(12..=12));
        assert!(size_range("x..").is_err() && size_range("1Q").is_err() && size_range("99999999T").is_err());
        assert_eq!(octal("4755"), Ok(0o4755));
        assert!(octal("8").is_err() && octal("17777").is_err());
        assert_eq!(moment("1970-01-02"), Ok(86400));
        assert_eq!(moment("@-5"), Ok(-5));
        assert!(moment("yesterday").is_err());
    }

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        assert_eq!(duration("90d"), Ok(90 * 86400));
        assert_eq!(duration("2h"), Ok(7200));
        for bad in ["", "5", "d", "5 d", "-1d", "99999999999999999999y", "9999999999999999y"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
