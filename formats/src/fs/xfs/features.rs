//! The features of a volume, from its version number and bit masks.
//!
//! Names are those of `xfs_info` and `mkfs.xfs`.

use crate::error::{Result, at};

/// Bits of `sb_versionnum`.
pub(super) mod version {
    /// The number itself: 4 or 5.
    pub(in crate::fs::xfs) const NUMBER: u16 = 0xF;
    pub(in crate::fs::xfs) const QUOTA: u16 = 0x40;
    /// The meaning is unknown.
    pub(in crate::fs::xfs) const SHARED: u16 = 0x200;
    pub(in crate::fs::xfs) const LOGV2: u16 = 0x400;
    pub(in crate::fs::xfs) const DIRV2: u16 = 0x2000;
    /// Names are compared ignoring the case of ASCII letters.
    pub(in crate::fs::xfs) const BORG: u16 = 0x4000;
    pub(in crate::fs::xfs) const MOREBITS: u16 = 0x8000;
}

/// Bits of `sb_features2`.
mod version2 {
    pub(super) const LAZYSBCOUNT: u32 = 2;
    pub(super) const ATTR2: u32 = 8;
    pub(super) const PROJID32: u32 = 0x80;
    pub(super) const FTYPE: u32 = 0x200;
    pub(super) const KNOWN: u32 = LAZYSBCOUNT | ATTR2 | PROJID32 | FTYPE;
}

/// Bits of `sb_features_incompat`.
pub(super) mod incompat {
    pub(in crate::fs::xfs) const FTYPE: u32 = 1;
    pub(in crate::fs::xfs) const META_UUID: u32 = 4;
    pub(in crate::fs::xfs) const NEEDSREPAIR: u32 = 0x10;
    pub(in crate::fs::xfs) const METADIR: u32 = 0x100;
}

/// Feature names by bit, lowest first.
const RO_COMPAT: [&str; 4] = ["finobt", "rmapbt", "reflink", "inobtcount"];
const INCOMPAT: [&str; 11] = [
    "ftype",
    "sparse",
    "meta_uuid",
    "bigtime",
    "needsrepair",
    "nrext64",
    "exchange",
    "parent",
    "metadir",
    "zoned",
    "zone_gaps",
];
const LOG_INCOMPAT: [&str; 1] = ["log_xattrs"];

/// The feature masks of a superblock.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Features {
    /// `sb_versionnum`.
    pub(super) version: u16,
    /// `sb_features2` combined with `sb_bad_features2`, where older kernels stored it.
    pub(super) features2: u32,
    pub(super) ro_compat: u32,
    pub(super) incompat: u32,
    pub(super) log_incompat: u32,
}

impl Features {
    /// Returns true if metadata has checksums.
    pub(super) fn is_v5(&self) -> bool {
        self.version & version::NUMBER == 5
    }

    /// Returns true if directory entries record the file type.
    pub(super) fn has_ftype(&self) -> bool {
        if self.is_v5() { self.has_incompat(incompat::FTYPE) } else { self.has2(version2::FTYPE) }
    }

    /// Returns true if the counters in the superblock are only accurate after a clean unmount.
    pub(super) fn has_lazy_count(&self) -> bool {
        self.is_v5() || self.has2(version2::LAZYSBCOUNT)
    }

    /// Returns true if log records are of version 2.
    pub(super) fn has_log_v2(&self) -> bool {
        self.is_v5() || self.version & version::LOGV2 != 0
    }

    /// Returns true if `sb_features_incompat` has `bit`.
    pub(super) fn has_incompat(&self, bit: u32) -> bool {
        self.is_v5() && self.incompat & bit != 0
    }

    /// Returns true if the log may contain items unknown to this reader.
    pub(super) fn has_unknown_log(&self) -> bool {
        self.is_v5() && self.log_incompat >> LOG_INCOMPAT.len() != 0
    }

    fn has2(&self, bit: u32) -> bool {
        self.version & version::MOREBITS != 0 && self.features2 & bit != 0
    }

    /// Fails with `Unsupported`, naming the bits, if the volume uses features that this reader would misread.
    pub(super) fn check(&self) -> Result<()> {
        let refuse =
            |field, byte, what: String| Err(at("XFS superblock").field(field).byte(byte).unsupported(what));
        let number = self.version & version::NUMBER;
        if number != 4 && number != 5 {
            return refuse(
                "sb_versionnum",
                100,
                format!("the volume has version {number}, and mif reads 4 and 5"),
            );
        }
        if self.is_v5() {
            let unknown = self.incompat >> INCOMPAT.len() << INCOMPAT.len();
            if unknown != 0 {
                let bits = bits(unknown).join(", ");
                return refuse(
                    "sb_features_incompat",
                    216,
                    format!("the volume uses features that mif does not know: {bits}"),
                );
            }
            return Ok(());
        }
        if self.version & version::DIRV2 == 0 {
            return refuse("sb_versionnum", 100, "the volume has directories of version 1".to_owned());
        }
        if self.version & version::SHARED != 0 {
            return refuse(
                "sb_versionnum",
                100,
                "the volume uses a feature that mif does not know: bit 9".to_owned(),
            );
        }
        let unknown = self.features2 & !version2::KNOWN;
        if self.version & version::MOREBITS != 0 && unknown != 0 {
            let bits = bits(unknown).join(", ");
            return refuse(
                "sb_features2",
                200,
                format!("the volume uses features that mif does not know: {bits}"),
            );
        }
        Ok(())
    }

    /// Returns the names of all enabled features.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names = vec![if self.is_v5() { "crc" } else { "v4" }.to_owned()];
        let mut add = |is_there: bool, name: &str| {
            if is_there {
                names.push(name.to_owned());
            }
        };
        add(self.is_v5() || self.has2(version2::ATTR2), "attr2");
        add(self.is_v5() || self.has2(version2::PROJID32), "projid32bit");
        add(self.has_lazy_count(), "lazy-count");
        add(self.has_log_v2(), "logv2");
        add(self.version & version::BORG != 0, "ascii-ci");
        add(self.version & version::QUOTA != 0, "quota");
        if !self.is_v5() {
            add(self.has_ftype(), "ftype");
            return names;
        }
        for (mask, field, known) in [
            (self.ro_compat, "ro_compat", &RO_COMPAT[..]),
            (self.incompat, "incompat", &INCOMPAT[..]),
            (self.log_incompat, "log_incompat", &LOG_INCOMPAT[..]),
        ] {
            names.extend(set(mask).map(|bit| match known.get(bit as usize) {
                Some(name) => (*name).to_owned(),
                None => format!("{field} bit {bit}"),
            }));
        }
        names
    }
}

/// Returns the indices of the set bits.
fn set(mask: u32) -> impl Iterator<Item = u32> {
    (0..32).filter(move |bit| mask >> bit & 1 == 1)
}

fn bits(mask: u32) -> Vec<String> {
    set(mask).map(|bit| format!("bit {bit}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_have_the_names_of_the_tools() {
        let v5 = Features {
            version: 0xB4A5,
            features2: 0x18A,
            ro_compat: 0b1_0101,
            incompat: 0b1011,
            log_incompat: 0b11,
        };
        let expected = "crc attr2 projid32bit lazy-count logv2 finobt reflink ro_compat_bit_4 ftype sparse bigtime \
                        log_xattrs log_incompat_bit_1";
        let names = v5.names().iter().map(|name| name.replace(' ', "_")).collect::<Vec<_>>().join(" ");
        assert_eq!(names, expected);
        assert!(v5.check().is_ok() && v5.has_unknown_log());
        let v4 = Features { version: 0xB4A4, features2: 0x28A, ..Features::default() };
        assert_eq!(v4.names(), ["v4", "attr2", "projid32bit", "lazy-count", "logv2", "ftype"]);
        assert!(v4.check().is_ok() && v4.has_ftype());
    }

    #[test]
    fn an_unknown_feature_is_named_by_its_bit() {
        let error = |features: Features| features.check().unwrap_err().to_string();
        let v5 = Features { version: 0xB4A5, incompat: 1 << 11 | 1 << 31 | 1, ..Features::default() };
        assert_eq!(
            error(v5),
            "XFS superblock, sb_features_incompat, at byte 216: the volume uses features that mif does not know: \
             bit 11, bit 31"
        );
        let v4 = Features { version: 0xA004, features2: 0x10, ..Features::default() };
        assert!(error(v4).contains("sb_features2, at byte 200") && error(v4).ends_with("bit 4"));
        assert!(error(Features { version: 0x2204, ..v4 }).contains("bit 9"));
        assert!(error(Features { version: 0x0004, ..v4 }).contains("directories of version 1"));
        assert!(error(Features { version: 0x2003, ..v4 }).contains("the volume has version 3"));
    }
}
