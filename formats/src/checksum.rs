//! Decides whether a checksum fits. No other code does.

/// Returns true if the checksum `found` in an image is the one `computed` from it.
///
/// Under the fuzzer every checksum fits, because it would never find one. The code after a checksum must be safe anyway,
/// since anybody can compute a checksum. `cfg(fuzzing)` is set by cargo-fuzz and by nothing else.
pub(crate) fn fits<T: PartialEq>(found: T, computed: T) -> bool {
    cfg!(fuzzing) || found == computed
}
