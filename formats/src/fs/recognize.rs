//! Recognises unsupported volumes by their magic bytes, and names them as `blkid` does.

/// The bytes of a volume's beginning that [`name_of`] examines.
pub const HEAD: usize = 0x1_1000;

/// Name, offset, magic bytes. The first match counts, so containers of other volumes come first.
const MAGICS: &[(&str, usize, &[u8])] = &[
    ("crypto_LUKS", 0, b"LUKS\xba\xbe"),
    ("BitLocker", 3, b"-FVE-FS-"),
    ("linux_raid_member", 0, b"\xfc\x4e\x2b\xa9"),
    ("linux_raid_member", 4096, b"\xfc\x4e\x2b\xa9"),
    ("LVM2_member", 24, b"LVM2 001"),
    ("LVM2_member", 512 + 24, b"LVM2 001"),
    ("LVM2_member", 1024 + 24, b"LVM2 001"),
    ("LVM2_member", 1536 + 24, b"LVM2 001"),
    ("ntfs", 3, b"NTFS    "),
    ("exfat", 3, b"EXFAT   "),
    ("ReFS", 3, b"ReFS\0\0\0\0"),
    ("squashfs", 0, b"hsqs"),
    ("squashfs", 0, b"sqsh"),
    ("cramfs", 0, b"\x45\x3d\xcd\x28"),
    ("apfs", 32, b"NXSB"),
    ("f2fs", 1024, b"\x10\x20\xf5\xf2"),
    ("erofs", 1024, b"\xe2\xe1\xf5\xe0"),
    ("hfsplus", 1024, b"H+\0\x04"),
    ("hfsplus", 1024, b"HX\0\x05"),
    ("reiserfs", 0x1_0034, b"ReIsEr"),
    ("jfs", 0x8000, b"JFS1"),
    ("iso9660", 0x8001, b"CD001"),
    ("udf", 0x8001, b"BEA01"),
];

/// Name and magic bytes of volumes that have them in the last ten bytes of their first page: swap, and the hibernation
/// image of a suspended machine.
const PAGE_MAGICS: &[(&str, &[u8])] = &[
    ("swap", b"SWAPSPACE2"),
    ("swap", b"SWAP-SPACE"),
    ("swsuspend", b"S1SUSPEND"),
    ("swsuspend", b"S2SUSPEND"),
    ("swsuspend", b"ULSUSPEND"),
    ("swsuspend", b"LINHIB0001"),
];

/// The possible page sizes in bytes.
const PAGES: [usize; 5] = [4096, 8192, 16_384, 32_768, 65_536];

/// Returns name, offset and magic bytes of all known volumes, in order of priority.
fn magics() -> impl Iterator<Item = (&'static str, usize, &'static [u8])> {
    let in_pages =
        PAGES.iter().flat_map(|page| PAGE_MAGICS.iter().map(move |(name, magic)| (*name, page - 10, *magic)));
    MAGICS.iter().copied().chain(in_pages)
}

/// Returns the name of a volume that starts with `head`, its first [`HEAD`] bytes or as many as there are.
#[must_use]
pub fn name_of(head: &[u8]) -> Option<&'static str> {
    let fits = |(_, place, magic): &(&str, usize, &[u8])| {
        head.get(*place..).is_some_and(|rest| rest.starts_with(magic))
    };
    magics().find(fits).map(|(name, _, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{have, run};

    #[test]
    fn each_magic_is_found_at_its_place_and_nowhere_else() {
        for (name, place, magic) in magics() {
            let mut head = vec![0; HEAD];
            head[place..place + magic.len()].copy_from_slice(magic);
            assert_eq!(name_of(&head), Some(name));
            assert_eq!(name_of(&head[..place + magic.len()]), Some(name));
            assert_eq!(name_of(&head[..place + magic.len() - 1]), None, "{name}");
            assert_eq!(name_of(&head[1..]), None, "{name}");
        }
        assert_eq!(name_of(&[]), None);
        assert_eq!(name_of(&vec![0xff; HEAD]), None);
    }

    #[test]
    fn a_swap_is_named_as_blkid_names_it() {
        if !have(&["mkswap", "blkid"]) {
            return;
        }
        for page in PAGES {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(1 << 20).unwrap();
            let path = file.path().to_str().unwrap();
            run("mkswap", &["-q", "-p", &page.to_string(), path]);
            let mut bytes = std::fs::read(path).unwrap();
            // A suspended machine's swap differs only in the magic bytes.
            for (_, magic) in PAGE_MAGICS {
                bytes[page - 10..page].fill(0);
                bytes[page - 10..page - 10 + magic.len()].copy_from_slice(magic);
                std::fs::write(path, &bytes).unwrap();
                let theirs = run("blkid", &["-p", "-s", "TYPE", "-o", "value", path]);
                assert_eq!(name_of(&bytes), Some(theirs.trim()), "{page} {magic:?}");
            }
        }
    }
}
