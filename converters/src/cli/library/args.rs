//! The arguments of the verbs that keep a library of images.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use mif_formats::fs::FileType;

use crate::cli::common::Open;

#[derive(Subcommand)]
pub(crate) enum Library {
    /// Versions of images, and what each was made from
    #[command(after_help = "\
Examples:
  mif log web          what was made from what, when, by which command
  mif log --json       of all images")]
    Log {
        /// The name of an image; all if not given
        name: Option<String>,
    },
    /// Name a version
    #[command(after_help = "\
Examples:
  mif tag web golden          web@golden is the newest version of web
  mif tag web@3 golden        and now version 3
  mif tag --delete web@golden

A version with a tag is kept by gc, and rm asks for --force.")]
    Tag {
        /// NAME[@VERSION] in the store, or NAME@TAG
        image: String,
        /// The tag: letters, digits and . _ + - ; no number
        #[arg(required_unless_present = "delete", conflicts_with = "delete")]
        tag: Option<String>,
        /// Remove the tag NAME@TAG
        #[arg(long)]
        delete: bool,
    },
    /// Forget images
    #[command(after_help = "\
Examples:
  mif rm web@2     one version
  mif rm web       all versions

The space is free after `mif gc`. The numbers of versions are not used again. Waits until nobody else has the \
store open.")]
    Rm {
        /// NAME[@VERSION] in the store; without @VERSION, all versions
        #[arg(required = true, value_name = "NAME")]
        images: Vec<String>,
        /// Also what has a tag
        #[arg(long)]
        force: bool,
    },
    /// Forget old versions, and free what no image needs
    #[command(after_help = "\
Examples:
  mif gc                                      frees what no image needs
  mif gc --keep-last 3 --keep-within 90d      and forgets versions that neither keeps
  mif gc --keep-last 1 --dry-run              only says what that would do

The newest version of each image is always kept, and so is one with a tag. gc waits until nobody else has \
the store open; other commands wait until gc is done.")]
    Gc {
        /// Keep the newest N versions of each image
        #[arg(long, value_name = "N")]
        keep_last: Option<usize>,
        /// Keep versions made within this time: 12h, 30d, 8w, 1y
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        keep_within: Option<u64>,
        /// Say what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Check the store: is everything there and as it was written?
    #[command(after_help = "\
Examples:
  mif fsck                                exits 1 if anything is damaged, and says what that costs
  mif fsck --repair                       repairs what the store alone can repair
  mif fsck --repair --from /srv/images    and takes lost objects from disk images that still have them

The first line is the verdict: whole, repairable from the store itself, in need of originals, or lost. The second line \
is the command that repairs the store. --repair makes indexes again from packs, copies what is whole of a \
damaged pack and sets the pack aside until gc, and makes records, manifests and tables again.")]
    Fsck {
        /// Repair what can be repaired. Waits until nobody else has the store open
        #[arg(long)]
        repair: bool,
        /// Disk image files, and directories with disk images in them, that may still have what was lost
        #[arg(long, value_name = "PATH", num_args = 1.., requires = "repair")]
        from: Vec<PathBuf>,
        /// Name every path that lost its content; ten an image otherwise
        #[arg(long)]
        list: bool,
        #[command(flatten)]
        open: Open,
    },
    /// What changed from one image to another, file by file
    #[command(after_help = "\
Examples:
  mif diff web@1 web@2                 what an update did
  mif diff web@1 web@2 /etc --content  and how texts differ
  mif diff base.qcow2 web --by folder  counted by folder
  mif diff web@1 web@2 --by package --summary
                                       which packages came, went and changed, and how many files of each
  mif diff a.vmdk b.qcow2 --ignore-times

An IMAGE is a disk image file, or NAME[@VERSION] in the store. + is new, - is gone, M has other content, m only \
other metadata, R was renamed. Access times and inode numbers do not count. Exits 1 if anything changed.")]
    Diff {
        /// What it was
        #[arg(value_name = "IMAGE")]
        a: String,
        /// What it became
        #[arg(value_name = "IMAGE")]
        b: String,
        /// Only what is at or below this path: /etc on the root filesystem, or p15:/EFI
        path: Option<std::ffi::OsString>,
        /// Show how the text of changed files differs
        #[arg(long)]
        content: bool,
        /// Times of files are no difference
        #[arg(long)]
        ignore_times: bool,
        /// Also count the changes
        #[arg(long, value_name = "WHAT")]
        by: Option<By>,
        /// With --by folder: of how many names
        #[arg(long, value_name = "N", default_value_t = 2)]
        depth: usize,
        /// Only the counts
        #[arg(long)]
        summary: bool,
        #[command(flatten)]
        open: Open,
    },
    /// The packages of an image, or of all: dpkg, rpm and apk
    #[command(after_help = "\
Examples:
  mif packages web                  as its own databases say
  mif packages disk.qcow2 --csv
  mif packages --name 'libssl*'     in the newest version of every image of the store

Exits 1 if there are none.")]
    Packages {
        /// A disk image file, or NAME[@VERSION] in the store; all images of the store if not given
        image: Option<String>,
        /// Only packages whose name fits this pattern
        #[arg(long, value_name = "PATTERN")]
        name: Option<String>,
        /// Print comma-separated values
        #[arg(long, conflicts_with = "json")]
        csv: bool,
        /// In CSV, put an apostrophe before cells that a spreadsheet would take as formulas
        #[arg(long, requires = "csv")]
        csv_safe: bool,
        #[command(flatten)]
        open: Open,
    },
    /// Find files in all images
    #[command(after_help = "\
Examples:
  mif search /etc/ssh/sshd_config           in the newest version of every image
  mif search 'libssl*.so*' --csv            by the last name of a path
  mif search '/usr/**/*.pyc' --image web    in one image
  mif search --setuid --type file           whatever runs as another user
  mif search --file ./suspect               the same content as a local file
  mif search --sha1-file nsrl.txt           any content of a list
  mif search --size 100M.. --newer 2026-01-01
  mif search --xattr security.capability

In a pattern, * ? and [a-z] stand within a name, ** over folders. All that is given must fit. Exits 1 if nothing \
was found.")]
    Search(Box<Search>),
    /// How large the store is, and what its images share
    #[command(after_help = "\
Examples:
  mif stats
  mif stats --similarity     which images resemble which")]
    Stats {
        /// For each pair of images, how much of their content is in both
        #[arg(long)]
        similarity: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum By {
    /// By the folder they are in
    Folder,
    /// By the package that has the path, as dpkg, rpm or apk say
    Package,
}

#[derive(Args)]
pub(crate) struct Search {
    /// A pattern for the path; without a slash, for its last name
    pub(super) pattern: Option<String>,
    /// Only in this image, NAME[@VERSION]; may be given again
    #[arg(long, value_name = "NAME")]
    pub(super) image: Vec<String>,
    /// In all versions, not just the newest
    #[arg(long)]
    pub(super) all_versions: bool,
    /// With the content of this local file; may be given again, as may all digests
    #[arg(long, value_name = "FILE")]
    pub(super) file: Vec<PathBuf>,
    /// With content of this SHA-1
    #[arg(long, value_name = "HEX")]
    pub(super) sha1: Vec<String>,
    /// With content of this BLAKE3
    #[arg(long, value_name = "HEX")]
    pub(super) blake3: Vec<String>,
    /// With content of any SHA-1 in this list: a line for each
    #[arg(long, value_name = "LIST")]
    pub(super) sha1_file: Vec<PathBuf>,
    /// Of this type: file dir symlink char block fifo socket
    #[arg(long = "type", value_name = "TYPE", value_parser = file_type)]
    pub(super) file_type: Option<FileType>,
    /// Of this owner
    #[arg(long)]
    pub(super) uid: Option<u32>,
    /// Of this group
    #[arg(long)]
    pub(super) gid: Option<u32>,
    /// With all of these mode bits, in octal
    #[arg(long, value_name = "OCTAL", value_parser = octal)]
    pub(super) mode: Option<u16>,
    /// Setuid or setgid
    #[arg(long)]
    pub(super) setuid: bool,
    /// Of a size: 100M.., ..4K, 1K..2K, or just 12
    #[arg(long, value_name = "RANGE", value_parser = size_range)]
    pub(super) size: Option<RangeInclusive<u64>>,
    /// Changed at or after this day, YYYY-MM-DD in UTC, or @SECONDS
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(super) newer: Option<i64>,
    /// Changed before this day
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(super) older: Option<i64>,
    /// With an extended attribute of this name; a pattern
    #[arg(long, value_name = "NAME")]
    pub(super) xattr: Option<String>,
    /// Print comma-separated values
    #[arg(long, conflicts_with = "json")]
    pub(super) csv: bool,
    /// In CSV, put an apostrophe before cells that a spreadsheet would take as formulas
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
        .ok_or_else(|| "expected up to 7777".into())
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
        number.checked_mul(1 << shift).ok_or_else(|| "is too large".into())
    };
    let Some((low, high)) = text.split_once("..") else { return size(text).map(|n| n..=n) };
    let low = if low.is_empty() { 0 } else { size(low)? };
    let high = if high.is_empty() { u64::MAX } else { size(high)? };
    Ok(low..=high)
}

/// Seconds since 1970 of a day or of `@seconds`.
fn moment(text: &str) -> Result<i64, String> {
    let wrong = |_| "expected a day, such as 2026-01-31, or @SECONDS".to_owned();
    if let Some(seconds) = text.strip_prefix('@') {
        return seconds.parse().map_err(|_| "expected a number after @".into());
    }
    let day = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").map_err(wrong)?;
    Ok(day.and_time(chrono::NaiveTime::MIN).and_utc().timestamp())
}

/// Seconds from a number with a unit.
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
    number.checked_mul(seconds).ok_or_else(|| "is too long".into())
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
