//! How much a row group may hold.

/// The most bytes that the pages of a column may have in one row group: values, and what stands beside them.
pub(super) const CHUNK_BYTES_MAX: usize = GROUP_BYTES_MAX + (4 << 20);

/// The most rows of a row group: what a reader skips or reads at once.
pub(in crate::mif) const GROUP_ROWS_MAX: usize = 32 << 10;

/// The most bytes that a column of texts may have in one row group. Texts are encoded so that a few bytes of a file can
/// stand for any number of long ones; so where a group would have more, the next one begins.
pub(in crate::mif) const GROUP_BYTES_MAX: usize = 16 << 20;

/// What a value of a list counts for, beside its bytes: its length and its levels.
pub(in crate::mif) const VALUE_COST: usize = 8;
