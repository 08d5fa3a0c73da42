//! Feature flags of the superblock: their values, their names in `dumpe2fs`, and whether this reader supports them.
//!
//! <https://docs.kernel.org/filesystems/ext4/super.html>, from `s_feature_compat` on.

/// The three sets of feature flags of a superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Features {
    /// `s_feature_compat`: safe to ignore.
    pub(super) compat: u32,
    /// `s_feature_incompat`: unknown flags forbid reading.
    pub(super) incompat: u32,
    /// `s_feature_ro_compat`: unknown flags forbid only writing.
    pub(super) ro_compat: u32,
}

macro_rules! flags {
    ($($set:ident { $($name:ident = $value:literal $text:literal;)* })*) => {
        $(pub(super) mod $set {$(
            #[doc = concat!("`", $text, "`.")]
            #[allow(dead_code)]
            pub(in crate::fs) const $name: u32 = $value;
        )*})*
        $(const fn $set(bit: u32) -> Option<&'static str> {
            match bit {
                $($value => Some($text),)*
                _ => None,
            }
        })*
    };
}

flags! {
    compat {
        DIR_PREALLOC = 0x1 "dir_prealloc";
        IMAGIC_INODES = 0x2 "imagic_inodes";
        HAS_JOURNAL = 0x4 "has_journal";
        EXT_ATTR = 0x8 "ext_attr";
        RESIZE_INODE = 0x10 "resize_inode";
        DIR_INDEX = 0x20 "dir_index";
        LAZY_BG = 0x40 "lazy_bg";
        EXCLUDE_BITMAP = 0x100 "snapshot_bitmap";
        SPARSE_SUPER2 = 0x200 "sparse_super2";
        FAST_COMMIT = 0x400 "fast_commit";
        STABLE_INODES = 0x800 "stable_inodes";
        ORPHAN_FILE = 0x1000 "orphan_file";
    }
    incompat {
        COMPRESSION = 0x1 "compression";
        FILETYPE = 0x2 "filetype";
        RECOVER = 0x4 "needs_recovery";
        JOURNAL_DEV = 0x8 "journal_dev";
        META_BG = 0x10 "meta_bg";
        EXTENTS = 0x40 "extent";
        BIT64 = 0x80 "64bit";
        MMP = 0x100 "mmp";
        FLEX_BG = 0x200 "flex_bg";
        EA_INODE = 0x400 "ea_inode";
        DIRDATA = 0x1000 "dirdata";
        CSUM_SEED = 0x2000 "metadata_csum_seed";
        LARGEDIR = 0x4000 "large_dir";
        INLINE_DATA = 0x8000 "inline_data";
        ENCRYPT = 0x1_0000 "encrypt";
        CASEFOLD = 0x2_0000 "casefold";
    }
    ro_compat {
        SPARSE_SUPER = 0x1 "sparse_super";
        LARGE_FILE = 0x2 "large_file";
        BTREE_DIR = 0x4 "btree_dir";
        HUGE_FILE = 0x8 "huge_file";
        GDT_CSUM = 0x10 "uninit_bg";
        DIR_NLINK = 0x20 "dir_nlink";
        EXTRA_ISIZE = 0x40 "extra_isize";
        HAS_SNAPSHOT = 0x80 "has_snapshot";
        QUOTA = 0x100 "quota";
        BIGALLOC = 0x200 "bigalloc";
        METADATA_CSUM = 0x400 "metadata_csum";
        REPLICA = 0x800 "replica";
        READONLY = 0x1000 "read-only";
        PROJECT = 0x2000 "project";
        SHARED_BLOCKS = 0x4000 "shared_blocks";
        VERITY = 0x8000 "verity";
        ORPHAN_PRESENT = 0x1_0000 "orphan_present";
    }
}

/// The incompatible features that this reader supports. `mmp` protects against two writers, which does not concern a
/// reader.
const READABLE: u32 = incompat::FILETYPE
    | incompat::RECOVER
    | incompat::META_BG
    | incompat::EXTENTS
    | incompat::BIT64
    | incompat::MMP
    | incompat::FLEX_BG
    | incompat::EA_INODE
    | incompat::CSUM_SEED
    | incompat::LARGEDIR
    | incompat::INLINE_DATA
    | incompat::ENCRYPT
    | incompat::CASEFOLD;

impl Features {
    pub(super) fn has_compat(self, flag: u32) -> bool {
        self.compat & flag != 0
    }

    pub(super) fn has_incompat(self, flag: u32) -> bool {
        self.incompat & flag != 0
    }

    pub(super) fn has_ro_compat(self, flag: u32) -> bool {
        self.ro_compat & flag != 0
    }

    /// Returns the names of all features, as `dumpe2fs -h` prints them and in its order.
    pub(super) fn names(self) -> Vec<String> {
        let mut names = names(self.compat, 'C', compat);
        names.extend(names_of_incompat(self.incompat));
        names.extend(names_of_ro(self.ro_compat));
        names
    }

    /// Returns the names of the incompatible features that this reader does not support.
    pub(super) fn unreadable(self) -> Vec<String> {
        names_of_incompat(self.incompat & !READABLE)
    }

    /// Returns `ext2`, `ext3` or `ext4`: the oldest of them whose driver would know all the features.
    pub(super) fn kind(self) -> &'static str {
        let old = self.incompat & !(incompat::FILETYPE | incompat::RECOVER | incompat::META_BG) == 0
            && self.ro_compat & !(ro_compat::SPARSE_SUPER | ro_compat::LARGE_FILE | ro_compat::BTREE_DIR)
                == 0;
        match (old, self.has_compat(compat::HAS_JOURNAL)) {
            (true, false) => "ext2",
            (true, true) => "ext3",
            (false, _) => "ext4",
        }
    }
}

fn names_of_incompat(set: u32) -> Vec<String> {
    names(set, 'I', incompat)
}

fn names_of_ro(set: u32) -> Vec<String> {
    names(set, 'R', ro_compat)
}

fn names(set: u32, class: char, name: fn(u32) -> Option<&'static str>) -> Vec<String> {
    (0..32)
        .filter(|bit| set >> bit & 1 == 1)
        .map(|bit| name(1 << bit).map_or_else(|| format!("FEATURE_{class}{bit}"), str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_named_as_dumpe2fs_names_them() {
        let features = Features { compat: 0x3C, incompat: 0x8000_0242, ro_compat: 0x1 };
        assert_eq!(
            features.names().join(" "),
            "has_journal ext_attr resize_inode dir_index filetype extent flex_bg FEATURE_I31 sparse_super"
        );
        assert_eq!(features.unreadable(), ["FEATURE_I31"]);
    }

    #[test]
    fn the_kind_is_the_oldest_driver_that_would_do() {
        let ext2 = Features { compat: 0x38, incompat: 0x2, ro_compat: 0x3 };
        assert_eq!(ext2.kind(), "ext2");
        assert_eq!(Features { compat: 0x3C, ..ext2 }.kind(), "ext3");
        assert_eq!(Features { incompat: 0x42, ..ext2 }.kind(), "ext4");
        assert_eq!(Features { ro_compat: 0x400, ..ext2 }.kind(), "ext4");
    }
}
