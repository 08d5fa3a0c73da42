//! The outside tools that tests need: found, or the test is skipped and counted.
//!
//! `MIF_TESTS_TOOLS` says what happens when a tool is missing: unset, the test fails; `optional`, it is skipped;
//! `none`, every test that needs a tool is skipped, whether the tool is installed or not. A skipped test writes a line
//! that `tests/run` counts, past the test harness, which would keep it to itself and call the test passed.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

/// Returns true if all `tools` are installed; otherwise the caller returns, and the test counts as skipped.
///
/// # Panics
///
/// Panics if a tool is missing and tests may not be skipped.
#[must_use]
pub fn have(tools: &[&str]) -> bool {
    if mode().is_some_and(|mode| mode == "none") {
        return skip(&format!("needs {}", tools.join(", ")));
    }
    let missing: Vec<&str> = tools.iter().copied().filter(|tool| find(tool).is_none()).collect();
    missing.is_empty() || skip(&format!("not installed: {}", missing.join(", ")))
}

/// Counts the running test as skipped and returns false.
///
/// # Panics
///
/// Panics if tests may not be skipped.
#[must_use]
pub fn skip(reason: &str) -> bool {
    assert!(
        mode().is_some_and(|mode| mode == "optional" || mode == "none"),
        "{reason}. Run tests/install-tools, or set MIF_TESTS_TOOLS=optional to skip the tests that need it."
    );
    let thread = std::thread::current();
    // One write, so that lines of tests that run side by side stay whole.
    let line = format!("\ntest {} ... skipped, {reason}\n", thread.name().unwrap_or("unnamed"));
    std::io::stderr().write_all(line.as_bytes()).expect("standard error is open");
    false
}

/// The path of an installed tool.
#[must_use]
pub fn find(tool: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path()).map(|dir| dir.join(tool)).find(|path| path.is_file())
}

/// `PATH`, and the directories where Debian keeps mke2fs and its like, which are not in an ordinary user's `PATH`.
#[must_use]
pub fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

fn mode() -> Option<OsString> {
    std::env::var_os("MIF_TESTS_TOOLS").filter(|mode| !mode.is_empty())
}
