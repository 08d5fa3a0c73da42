//! Catches panics of third-party readers on damaged bytes, and turns them into errors.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CATCHING: Cell<u32> = const { Cell::new(0) };
}

/// Returns the result of `read`, or `None` if it panics. The panic drops everything that `read` has made, so nothing
/// half-finished may be reachable from elsewhere.
pub fn catch<T>(read: impl FnOnce() -> T) -> Option<T> {
    CATCHING.set(CATCHING.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(read));
    CATCHING.set(CATCHING.get() - 1);
    result.ok()
}

/// Returns true if [`catch`] will catch a panic of this thread, so that a panic hook need not report it.
#[must_use]
pub fn is_catching() -> bool {
    CATCHING.get() > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_none_and_catching_ends_with_it() {
        assert_eq!(catch(|| (is_catching(), catch(is_catching))), Some((true, Some(true))));
        assert_eq!(catch(|| -> u8 { panic!("of a test: it may be told") }), None);
        assert!(!is_catching());
    }
}
