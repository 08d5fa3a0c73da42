//! The feature flags of a Btrfs superblock, and which of them this reader supports.

/// The two sets of feature flags relevant to a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Features {
    /// `incompat_flags`: unknown flags forbid reading.
    pub(super) incompat: u64,
    /// `compat_ro_flags`: unknown flags forbid only writing.
    pub(super) compat_ro: u64,
}

pub(super) const NO_HOLES: u64 = 1 << 9;
pub(super) const METADATA_UUID: u64 = 1 << 10;

/// The `incompat_flags`: bit, name as printed by `btrfs inspect-internal dump-super`, and whether this reader supports
/// the feature.
const INCOMPAT: [(u32, &str, bool); 17] = [
    (0, "MIXED_BACKREF", true),
    (1, "DEFAULT_SUBVOL", true),
    (2, "MIXED_GROUPS", true),
    (3, "COMPRESS_LZO", true),
    (4, "COMPRESS_ZSTD", true),
    (5, "BIG_METADATA", true),
    (6, "EXTENDED_IREF", true),
    // Supported: each chunk is checked for being on one device.
    (7, "RAID56", true),
    (8, "SKINNY_METADATA", true),
    (9, "NO_HOLES", true),
    (10, "METADATA_UUID", true),
    (11, "RAID1C34", true),
    (12, "ZONED", false),
    (13, "EXTENT_TREE_V2", false),
    (14, "RAID_STRIPE_TREE", false),
    (16, "SIMPLE_QUOTA", true),
    (17, "REMAP_TREE", false),
];

const COMPAT_RO: [(u32, &str); 4] =
    [(0, "FREE_SPACE_TREE"), (1, "FREE_SPACE_TREE_VALID"), (2, "VERITY"), (3, "BLOCK_GROUP_TREE")];

impl Features {
    pub(super) fn has(self, incompat: u64) -> bool {
        self.incompat & incompat != 0
    }

    /// Returns the names of all enabled features.
    pub(super) fn names(self) -> Vec<String> {
        let ro = (0..64).filter(|bit| self.compat_ro >> bit & 1 == 1).map(|bit| {
            let name = COMPAT_RO.iter().find(|(known, _)| *known == bit).map(|(_, name)| (*name).to_owned());
            name.unwrap_or_else(|| format!("compat_ro bit {bit}"))
        });
        incompat(self.incompat).map(|(name, _)| name).chain(ro).collect()
    }

    /// Returns the names of the enabled features that forbid reading.
    pub(super) fn unreadable(self) -> Vec<String> {
        incompat(self.incompat).filter(|(_, is_read)| !is_read).map(|(name, _)| name).collect()
    }
}

fn incompat(set: u64) -> impl Iterator<Item = (String, bool)> {
    (0..64).filter(move |bit| set >> bit & 1 == 1).map(|bit| {
        let known = INCOMPAT.iter().find(|(known, ..)| *known == bit);
        known.map_or_else(
            || (format!("incompat bit {bit}"), false),
            |(_, name, read)| ((*name).to_owned(), *read),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_named_and_unknown_ones_forbid_reading() {
        let features = Features { incompat: 0x361 | 1 << 40 | 1 << 12, compat_ro: 0xB | 1 << 9 };
        assert_eq!(
            features.names().join(" "),
            "MIXED_BACKREF BIG_METADATA EXTENDED_IREF SKINNY_METADATA NO_HOLES ZONED incompat bit 40 \
             FREE_SPACE_TREE FREE_SPACE_TREE_VALID BLOCK_GROUP_TREE compat_ro bit 9"
        );
        assert_eq!(features.unreadable(), ["ZONED", "incompat bit 40"]);
        assert!(Features { incompat: 0x1_0FFF, compat_ro: u64::MAX }.unreadable().is_empty());
    }
}
