//! The limits of a row group.

/// The most bytes that the pages of a column may have in one row group: values and their overhead.
pub(super) const CHUNK_BYTES_MAX: usize = GROUP_BYTES_MAX + (4 << 20);

/// The most rows of a row group, the unit that a reader skips or reads.
pub(in crate::mif) const GROUP_ROWS_MAX: usize = 32 << 10;

/// The most bytes that a text column may have in one row group. A few bytes of a file can expand to any number of long
/// texts, so the writer starts a new group before it exceeds this limit.
pub(in crate::mif) const GROUP_BYTES_MAX: usize = 16 << 20;

/// The overhead of a list value, beside its bytes: its length and its levels.
pub(in crate::mif) const VALUE_COST: usize = 8;
