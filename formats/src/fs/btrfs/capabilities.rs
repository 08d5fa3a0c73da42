//! The capabilities of Btrfs.

use crate::fs::capabilities::Capabilities;

/// The capabilities of Btrfs, which is read but not planned.
pub(super) static CAPABILITIES: Capabilities = Capabilities {
    name: "Btrfs",
    is_posix: true,
    ignores_case: false,
    times: (i64::MIN, i64::MAX),
    time_step: 1,
    shares_extents: true,
    has_subvolumes: true,
    has_streams: false,
    is_planned: false,
    // chattr(1): compressed, synchronous, immutable, append-only, no dump, no access times, no compression, synchronous
    // directory, no copy on write.
    user_flags: 0x81_04FC,
    new_flags: [0, 0],
    label_max: 255,
    made_with: &[],
};
