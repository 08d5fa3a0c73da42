//! The capabilities of files on NTFS.

use super::info::EPOCH;
use crate::fs::capabilities::Capabilities;

/// The capabilities. Flags are Windows' file attributes; users set read-only, hidden, system, archive, temporary, offline
/// and not indexed.
pub(super) static CAPABILITIES: Capabilities = Capabilities {
    name: "NTFS",
    is_posix: false,
    ignores_case: true,
    times: (-EPOCH, i64::MAX / 10_000_000 - EPOCH),
    time_step: 100,
    shares_extents: false,
    has_subvolumes: false,
    has_streams: true,
    is_planned: false,
    user_flags: 0x3127,
    new_flags: [0x20, 0x10],
    // 32 units of UTF-16, each of up to three bytes in UTF-8.
    label_max: 96,
    made_with: &[],
};
