//! Decides whether a checksum matches. No other code does.

/// Returns true if the checksum `found` in an image is the one `computed` from it.
///
/// Under the fuzzer every checksum matches, because it would never find a correct one. The code after a checksum must
/// be safe anyway, since anybody can compute a checksum. Only cargo-fuzz sets `cfg(fuzzing)`.
pub(crate) fn fits<T: PartialEq>(found: T, computed: T) -> bool {
    cfg!(fuzzing) || found == computed
}
