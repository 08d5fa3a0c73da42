//! Features by name: which ones a plan keeps, and setting and clearing them.

use crate::error::{Result, at};
use crate::fs::ext4::features::Features;

/// Features of the original that a plan drops: nothing is lost without them.
pub(super) const DROPPED: [&str; 7] =
    ["orphan_file", "fast_commit", "orphan_present", "needs_recovery", "mmp", "shared_blocks", "btree_dir"];

/// Features that a plan cannot keep, and that cannot be dropped silently.
pub(super) const REFUSED: [&str; 10] = [
    "bigalloc",
    "quota",
    "compression",
    "dirdata",
    "replica",
    "has_snapshot",
    "snapshot_bitmap",
    "lazy_bg",
    "imagic_inodes",
    "journal_dev",
];

/// Sets and clears features by name.
pub(super) fn change(mut features: Features, list: &str) -> Result<Features> {
    for word in list.split(',').filter(|word| !word.is_empty()) {
        let (name, set) = word.strip_prefix('^').map_or((word, true), |name| (name, false));
        let none = Features::default();
        let found = (0..32).find_map(|bit| {
            let bit = 1 << bit;
            [
                Features { compat: bit, ..none },
                Features { incompat: bit, ..none },
                Features { ro_compat: bit, ..none },
            ]
            .into_iter()
            .find(|one| one.names() == [name])
        });
        let Some(one) = found else {
            return Err(at("ext parameters").unsupported(format!("unknown feature \"{name}\"")));
        };
        let merge = |all: u32, bit: u32| if set { all | bit } else { all & !bit };
        features = Features {
            compat: merge(features.compat, one.compat),
            incompat: merge(features.incompat, one.incompat),
            ro_compat: merge(features.ro_compat, one.ro_compat),
        };
    }
    Ok(features)
}
