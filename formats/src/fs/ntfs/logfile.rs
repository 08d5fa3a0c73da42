//! The log, which is not replayed. Its restart pages say whether there is anything to replay.

use super::fixup;
use crate::bytes::{le16, le32, le64};

/// Bytes of the log that are examined.
pub(super) const HEAD: usize = 128 << 10;
/// The offsets at which the second restart page may be, in bytes: the size of a page.
const PAGES: [usize; 5] = [4096, 8192, 16_384, 32_768, 65_536];
/// Marks the end of the list of the log's users.
const NO_CLIENT: u16 = 0xFFFF;
/// The flag of a restart area after a clean unmount.
const IS_CLEAN: u16 = 2;
/// The least bytes of a restart area.
const AREA: usize = 48;

/// The state of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Log {
    /// There is nothing to replay.
    Clean,
    /// Changes were not written to their places.
    Dirty,
    /// None of the restart pages is valid.
    Unknown,
}

/// Returns the state of the log that begins with `head`.
pub(super) fn state(head: &[u8]) -> Log {
    // Tools that make or reset a log fill it with ones.
    if head.iter().all(|byte| *byte == 0xFF) {
        return Log::Clean;
    }
    let first = area(head, 0);
    let size = head.get(16..20).map_or(0, |size| le32(size, 0) as usize);
    let second =
        std::iter::once(size).chain(PAGES).filter(|start| *start > 0).find_map(|start| area(head, start));
    // The page with the later change is the valid one.
    let latest = [first, second].into_iter().flatten().max_by_key(|(lsn, _)| *lsn);
    match latest {
        None => Log::Unknown,
        Some((_, true)) => Log::Clean,
        Some((_, false)) => Log::Dirty,
    }
}

/// Returns the last change that the restart page at byte `start` knows, and whether it was made by a clean unmount.
fn area(head: &[u8], start: usize) -> Option<(u64, bool)> {
    let page = head.get(start..)?;
    // chkdsk marks the pages that it has dealt with.
    let magic = match page.get(..4)? {
        b"RSTR" => b"RSTR",
        b"CHKD" => b"CHKD",
        _ => return None,
    };
    let mut page = page.get(..le32(page.get(16..20)?, 0) as usize).filter(|page| page.len() >= 512)?.to_vec();
    fixup::apply(magic, &mut page).ok()?;
    let at = usize::from(le16(&page, 24));
    let area = page.get(at..at + AREA)?;
    let is_clean = le16(area, 12) == NO_CLIENT || le16(area, 14) & IS_CLEAN != 0;
    Some((le64(area, 0), is_clean || magic == b"CHKD"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(lsn: u64, client: u16, flags: u16) -> Vec<u8> {
        let mut page = vec![0; 4096];
        page[..8].copy_from_slice(b"RSTR\x1e\0\x09\0");
        page[16..24].copy_from_slice(&[0, 16, 0, 0, 0, 16, 0, 0]);
        page[24] = 0x30;
        page[0x30..0x38].copy_from_slice(&lsn.to_le_bytes());
        page[0x3C..0x3E].copy_from_slice(&client.to_le_bytes());
        page[0x3E..0x40].copy_from_slice(&flags.to_le_bytes());
        page[0x1E] = 1;
        (1..=8).for_each(|sector| page[sector * 512 - 2] = 1);
        page
    }

    #[test]
    fn the_later_restart_page_decides() {
        let log = |a: Vec<u8>, b: Vec<u8>| state(&[a, b].concat());
        assert_eq!(log(page(5, NO_CLIENT, 0), page(4, 0, 0)), Log::Clean);
        assert_eq!(log(page(4, NO_CLIENT, 0), page(5, 0, 0)), Log::Dirty);
        assert_eq!(log(page(4, 0, 0), page(5, 0, IS_CLEAN)), Log::Clean);
        let mut torn = page(9, NO_CLIENT, 0);
        torn[510] = 2;
        assert_eq!(log(torn.clone(), page(5, 0, 0)), Log::Dirty);
        assert_eq!(log(torn.clone(), torn), Log::Unknown);
    }

    #[test]
    fn a_log_of_ones_is_clean() {
        assert_eq!(state(&[0xFF; 9000]), Log::Clean);
        assert_eq!(state(&[0; 9000]), Log::Unknown);
    }
}
