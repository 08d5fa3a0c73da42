//! The known filesystems, and finding the one on a volume.

use std::sync::{Arc, PoisonError, RwLock};

use super::btrfs::driver::BtrfsDriver;
use super::driver::Driver;
use super::ext4::driver::Ext;
use super::fat::driver::Fat;
use super::filesystem::Filesystem;
use super::ntfs::driver::NtfsDriver;
use super::recognize;
use super::xfs::driver::XfsDriver;
use crate::error::{ErrorKind, Result, at};
use crate::source::Source;

/// Every filesystem of this library, in the order in which volumes are probed.
pub static DRIVERS: &[&dyn Driver] = &[&Ext, &Fat, &XfsDriver, &BtrfsDriver, &NtfsDriver];

/// The filesystems that the program has added.
static ADDED: RwLock<Vec<&'static dyn Driver>> = RwLock::new(Vec::new());

/// Adds a filesystem for the whole process; volumes are probed for it after those of the library.
///
/// Fails if one of its kinds is already known.
pub fn add_driver(new: &'static dyn Driver) -> Result<()> {
    let mut added = ADDED.write().unwrap_or_else(PoisonError::into_inner);
    let known = || DRIVERS.iter().chain(&*added).flat_map(|driver| driver.kinds());
    if let Some(kind) = new.kinds().iter().find(|kind| known().any(|known| known == *kind)) {
        return Err(at("filesystems").unsupported(format!("duplicate driver for {kind}")));
    }
    added.push(new);
    Ok(())
}

/// Returns all known filesystems, in the order in which volumes are probed.
#[must_use]
pub fn drivers() -> Vec<&'static dyn Driver> {
    let added = ADDED.read().unwrap_or_else(PoisonError::into_inner);
    DRIVERS.iter().chain(&*added).copied().collect()
}

/// Returns the filesystem of this kind (`ext4`, `fat32`), if it is known.
#[must_use]
pub fn driver(kind: &str) -> Option<&'static dyn Driver> {
    drivers().into_iter().find(|driver| driver.kinds().contains(&kind))
}

/// Returns true if a volume that begins with `head` can only be a supported filesystem.
#[must_use]
pub fn is_filesystem(head: &[u8]) -> bool {
    drivers().iter().any(|driver| driver.is_certain(head))
}

/// Returns true if a volume that begins with `head` (up to [`recognize::HEAD`] bytes) is known: as a supported
/// filesystem, or by name.
#[must_use]
pub fn is_known(head: &[u8]) -> bool {
    is_filesystem(head) || recognize::name_of(head).is_some()
}

/// The content of a volume.
pub enum Recognized {
    /// A filesystem that can be read.
    Known(Box<dyn Filesystem>),
    /// A volume recognised only by name (`swap`, `LUKS`, `exfat`), or not at all; with the reason if a known filesystem
    /// cannot be read.
    Other {
        /// Its name, if recognised.
        name: Option<String>,
        /// The reasons why it is not read, each a sentence.
        warnings: Vec<String>,
    },
}

/// Names of volumes that enclose another one: the marks of an older filesystem may be left over in them.
const ENCLOSING: [&str; 4] = ["crypto_LUKS", "BitLocker", "linux_raid_member", "LVM2_member"];

/// Recognises a volume and opens the filesystem on it. An unknown or unreadable filesystem is not an error; only a
/// failed read is.
pub fn open(volume: Arc<dyn Source>) -> Result<Recognized> {
    let head = volume.read_vec(0, volume.len().min(recognize::HEAD as u64) as usize)?;
    let name = recognize::name_of(&head);
    if name.is_none_or(|name| !ENCLOSING.contains(&name)) {
        for driver in drivers() {
            if driver.probe(&head) {
                return opened(driver.open(volume), driver.name());
            }
        }
    }
    Ok(Recognized::Other { name: name.map(str::to_owned), warnings: Vec::new() })
}

/// Returns the filesystem, or the reason why it cannot be read.
fn opened(filesystem: Result<Box<dyn Filesystem>>, name: &str) -> Result<Recognized> {
    match filesystem {
        Ok(filesystem) => Ok(Recognized::Known(filesystem)),
        Err(error) if error.kind() == ErrorKind::Io => Err(error),
        Err(error) => Ok(Recognized::Other {
            name: Some(name.to_owned()),
            warnings: vec![format!("not read: {error}")],
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_belongs_to_one_driver() {
        let kinds: Vec<_> = DRIVERS.iter().flat_map(|driver| driver.kinds()).collect();
        let mut once = kinds.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), kinds.len());
        assert!(driver("ext4").is_some_and(|driver| driver.capabilities().is_posix));
        assert!(driver("fat32").is_some_and(|driver| !driver.capabilities().is_posix));
        assert!(driver("xfs").is_some_and(|driver| !driver.capabilities().is_planned));
        assert!(driver("zfs").is_none() && driver("").is_none());
    }

    #[test]
    fn an_identity_is_the_same_as_text_and_back() {
        let uuid = "c0ffee00-1234-5678-9abc-def012345678";
        let ids = [uuid, "1A2B-3C4D", uuid, uuid, "0123456789ABCDEF"];
        for (driver, id) in DRIVERS.iter().zip(ids) {
            assert_eq!(driver.id_text(&driver.id(id).unwrap()), id, "{}", driver.name());
            assert_eq!(driver.id("not an id"), None);
        }
    }

    #[test]
    fn a_label_is_what_a_volume_can_bear() {
        let [ext, fat, xfs] = ["ext4", "fat16", "xfs"].map(|kind| driver(kind).unwrap());
        assert_eq!(ext.label("root / é").unwrap(), "root / é".as_bytes());
        assert_eq!(fat.label("Boot 1").unwrap(), b"BOOT 1");
        assert!(ext.label("seventeen letters").is_none() && fat.label("twelve chars").is_none());
        assert!(fat.label("a/b").is_none() && fat.label("é").is_none());
        assert_eq!(xfs.label("twelve chars").unwrap(), b"twelve chars");
        assert!(xfs.label("thirteen char").is_none() && xfs.label("a\0").is_none());
    }
}
