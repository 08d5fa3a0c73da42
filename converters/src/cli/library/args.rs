//! The arguments of the verbs that keep a library of images.

use std::path::PathBuf;

use clap::Subcommand;

use crate::cli::args::Open;

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

The newest version of each image is always kept, and so is one with a tag. Waits until nobody else has the \
store open; who opens it meanwhile waits for gc.")]
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
  mif fsck                                   exits 1 if anything is damaged, and says what that costs
  mif fsck --repair                          indexes from packs; damaged packs set aside
  mif fsck --repair --from old/web.qcow2     and lost objects out of disk images that still have them")]
    Fsck {
        /// Put right what can be. Waits until nobody else has the store open
        #[arg(long)]
        repair: bool,
        /// Disk image files that may still have what was lost
        #[arg(long, value_name = "FILE", num_args = 1.., requires = "repair")]
        from: Vec<PathBuf>,
        #[command(flatten)]
        open: Open,
    },
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
    fn a_duration_is_a_number_and_a_unit() {
        assert_eq!(duration("90d"), Ok(90 * 86400));
        assert_eq!(duration("2h"), Ok(7200));
        for bad in ["", "5", "d", "5 d", "-1d", "99999999999999999999y", "9999999999999999y"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
