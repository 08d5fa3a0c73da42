//! The changes to a disk other than those to its files: sizes and identities.

use std::str::FromStr;

use mif_formats::partition::TableKind;

use crate::error::{Error, Result};
use crate::notation::size_in_bytes;

/// The changes to a disk other than those to its files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reshape {
    /// The disk's size. If `None`, it is unchanged or grows as much as the volumes need.
    pub size: Option<Size>,
    /// Sizes of volumes, by name.
    pub resize: Vec<(String, Size)>,
    /// New identities.
    pub new_ids: Option<NewIds>,
    /// The logical sector size in bytes of the disk: 512 or 4096. If `None`, it is unchanged.
    pub sector_size: Option<u32>,
    /// The kind of the partition table. If `None`, it is unchanged.
    pub table: Option<TableKind>,
    /// The firmware that the disk is to start by. If `None`, nothing is added.
    pub boot: Option<BootBy>,
}

/// The firmware that a disk is to start by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootBy {
    /// A BIOS.
    Bios,
    /// UEFI.
    Uefi,
    /// Either.
    Both,
}

/// New identities for the disk, its partitions and filesystems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewIds {
    /// The seed: the same seed produces the same identities.
    pub seed: Vec<u8>,
}

/// A size in bytes, or a change of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// This many bytes.
    To(u64),
    /// This many bytes more.
    Grow(u64),
    /// This many bytes less.
    Shrink(u64),
    /// The smallest possible size.
    Min,
    /// All available space.
    Max,
}

impl Reshape {
    /// Returns true if nothing is to be changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Reshape::default()
    }

    /// Parses text such as `p1=+2G`.
    pub fn volume_size(text: &str) -> Result<(String, Size)> {
        let usage = || {
            Error::usage(format!("\"{text}\": expected VOLUME=SIZE"))
                .advise("For example, p1=+2G, p1=8G, p1=-512M, p1=min or p1=max")
        };
        let (volume, size) = text.rsplit_once('=').ok_or_else(usage)?;
        if volume.is_empty() {
            return Err(usage());
        }
        Ok((volume.to_owned(), size.parse()?))
    }
}

impl NewIds {
    /// Returns identities with a random seed.
    pub fn random() -> Result<Self> {
        let mut seed = vec![0; 32];
        let file = std::path::Path::new("/dev/urandom");
        std::fs::File::open(file)
            .and_then(|mut random| std::io::Read::read_exact(&mut random, &mut seed))
            .map_err(|e| Error::io(file, &e))?;
        Ok(NewIds { seed })
    }

    /// Returns 16 bytes for the thing named `of`.
    pub(crate) fn bytes(&self, of: &str) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_derive_key("mif 2025 identities of a disk");
        hasher.update(&(self.seed.len() as u64).to_le_bytes()).update(&self.seed).update(of.as_bytes());
        let mut bytes = [0; 16];
        hasher.finalize_xof().fill(&mut bytes);
        bytes
    }

    /// Returns a random UUID (RFC 9562, version 4) for the thing named `of`.
    pub(crate) fn uuid(&self, of: &str) -> [u8; 16] {
        mif_formats::uuid::random(self.bytes(of))
    }

    /// Returns four bytes, not all zero, for the thing named `of`.
    pub(crate) fn id32(&self, of: &str) -> u32 {
        let bytes = self.bytes(of);
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]).max(1)
    }
}

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match (text, text.as_bytes().first()) {
            ("min", _) => Size::Min,
            ("max", _) => Size::Max,
            (_, Some(b'+')) => Size::Grow(size_in_bytes(&text[1..])?),
            (_, Some(b'-')) => Size::Shrink(size_in_bytes(&text[1..])?),
            _ => Size::To(size_in_bytes(text)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units_and_signs() {
        let size = |text: &str| text.parse::<Size>().ok();
        assert_eq!(size("10G"), Some(Size::To(10 << 30)));
        assert_eq!(size("+2GiB"), Some(Size::Grow(2 << 30)));
        assert_eq!(size("-1.5m"), Some(Size::Shrink(3 << 19)));
        assert_eq!(size("4096"), Some(Size::To(4096)));
        assert_eq!(size("min"), Some(Size::Min));
        for bad in ["", "G", "1X", "1.2.3G", "1e3", "++1", "99999999P", "1 G"] {
            assert_eq!(size(bad), None, "{bad}");
        }
        assert_eq!(Reshape::volume_size("vg/root=+1G").unwrap(), ("vg/root".into(), Size::Grow(1 << 30)));
        assert!(Reshape::volume_size("p1").is_err());
    }

    #[test]
    fn the_same_seed_gives_the_same_identities_and_each_name_its_own() {
        let ids = NewIds { seed: b"one".to_vec() };
        assert_eq!(ids.uuid("p1"), ids.clone().uuid("p1"));
        assert_ne!(ids.uuid("p1"), ids.uuid("p2"));
        assert_ne!(ids.uuid("p1"), NewIds { seed: b"two".to_vec() }.uuid("p1"));
        let uuid = ids.uuid("p1");
        assert_eq!((uuid[6] >> 4, uuid[8] >> 6), (4, 2));
        assert_eq!(mif_formats::uuid::bytes(&mif_formats::uuid::text(&uuid)), Some(uuid));
    }
}
