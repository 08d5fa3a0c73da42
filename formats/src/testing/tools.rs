//! The outside tools that tests need: if one is missing, the test is skipped and counted.
//!
//! `MIF_TESTS_TOOLS` decides what happens if a tool is missing: unset, the test fails; `optional`, it is skipped;
//! `none`, every test that needs a tool is skipped, whether the tool is installed or not. A skipped test writes a line
//! for `tests/run` to count. It bypasses the test harness, which would capture the line and report the test as passed.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Returns true if all `tools` are installed; otherwise the caller returns, and the test counts as skipped.
///
/// # Panics
///
/// Panics if a tool is missing and tests may not be skipped.
#[must_use]
pub fn have(tools: &[&str]) -> bool {
    if are_unwanted() {
        return skip(&format!("needs {}", tools.join(", ")));
    }
    let missing: Vec<&str> = tools.iter().copied().filter(|tool| find(tool).is_none()).collect();
    missing.is_empty() || skip(&format!("not installed: {}", missing.join(", ")))
}

/// The same for a file or directory that a script of ours fetches or makes.
///
/// # Panics
///
/// Panics if it is missing and tests may not be skipped.
#[must_use]
pub fn have_at(path: &Path) -> bool {
    if are_unwanted() {
        return skip(&format!("needs {}", path.display()));
    }
    path.exists() || skip(&format!("{} is missing", path.display()))
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
    // A single write, so that lines of parallel tests stay intact.
    let line = format!("\ntest {} ... skipped, {reason}\n", thread.name().unwrap_or("unnamed"));
    std::io::stderr().write_all(line.as_bytes()).expect("standard error is open");
    false
}

/// Returns the path of an installed tool.
#[must_use]
pub fn find(tool: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path()).map(|dir| dir.join(tool)).find(|path| path.is_file())
}

/// Returns `PATH` with the directories where Debian keeps mke2fs and similar tools, which an ordinary user's `PATH`
/// lacks.
#[must_use]
pub fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

/// Returns true if tests are to use no tools.
#[must_use]
pub fn are_unwanted() -> bool {
    mode().is_some_and(|mode| mode == "none")
}

fn mode() -> Option<OsString> {
    std::env::var_os("MIF_TESTS_TOOLS").filter(|mode| !mode.is_empty())
}
