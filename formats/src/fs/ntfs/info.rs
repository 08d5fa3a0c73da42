//! `$STANDARD_INFORMATION`: the times and the flags of a file.

use crate::bytes::{le32, le64};
use crate::fs::node::Timestamp;

/// The least bytes of the attribute.
pub(super) const SIZE: usize = 36;
/// The bytes of the attribute from version 3.0 on.
const SIZE_3: usize = 72;
/// Seconds from 1601 to 1970.
pub(super) const EPOCH: i64 = 11_644_473_600;
/// The step of times: 100 nanoseconds, of which there are so many in a second.
const TICKS: i64 = 10_000_000;

/// Flags of files that this reader knows.
pub(super) mod flags {
    /// Only Windows' interfaces have it; here it comes from the record.
    pub(in super::super) const DIRECTORY: u32 = 0x10;
    pub(in super::super) const SYSTEM: u32 = 0x04;
    /// The content is on a tape, or with a provider in the cloud.
    pub(in super::super) const OFFLINE: u32 = 0x1000;
    pub(in super::super) const RECALL_ON_DATA_ACCESS: u32 = 0x0040_0000;
}

/// The times and the flags of a file.
pub(super) struct Standard {
    pub(super) crtime: Timestamp,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    pub(super) atime: Timestamp,
    /// Windows' attributes of the file.
    pub(super) flags: u32,
    /// The number of the security descriptor; 0 if the file has one of its own.
    pub(super) security_id: u32,
}

impl Standard {
    /// Parses the attribute. `None` if it is too short.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < SIZE {
            return None;
        }
        let time = |at| timestamp(le64(bytes, at));
        Some(Standard {
            crtime: time(0),
            mtime: time(8),
            ctime: time(16),
            atime: time(24),
            flags: le32(bytes, 32),
            security_id: if bytes.len() < SIZE_3 { 0 } else { le32(bytes, 52) },
        })
    }

    /// Returns true if the content of a file with a reparse point has to be fetched from elsewhere: what is on the volume are
    /// holes.
    pub(super) fn is_recalled(&self) -> bool {
        self.flags & (flags::OFFLINE | flags::RECALL_ON_DATA_ACCESS) != 0
    }
}

/// Converts a time: 100 nanoseconds since 1601, UTC. Negative numbers, which Windows does not accept, are 1601.
fn timestamp(ticks: u64) -> Timestamp {
    let ticks = (ticks as i64).max(0);
    Timestamp { secs: ticks / TICKS - EPOCH, nanos: (ticks % TICKS) as u32 * 100 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_from_1601_and_stay_in_range() {
        let time = |ticks| {
            let time = timestamp(ticks);
            (time.secs, time.nanos)
        };
        assert_eq!(time(0), (-11_644_473_600, 0));
        assert_eq!(time(116_444_736_000_000_000), (0, 0));
        assert_eq!(time(116_444_736_000_000_001), (0, 100));
        assert_eq!(time(116_444_735_999_999_999), (-1, 999_999_900));
        assert_eq!(time(u64::MAX), time(0));
        assert_eq!(time(i64::MAX as u64), (910_692_730_085, 477_580_700));
    }
}
