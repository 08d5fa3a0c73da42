//! What is booted: a kernel, its command line, and its initramfs.

use std::sync::Arc;

use mif_formats::Source;

use super::finding::{Findings, Subject};
use super::look::Look;

/// A file that takes part in a boot.
#[derive(Clone)]
pub(super) struct Part {
    /// Its place, for people.
    pub(super) place: String,
    /// Its row, if it is a file of its own.
    pub(super) row: Option<usize>,
    pub(super) content: Arc<dyn Source>,
}

/// What is booted.
pub(super) struct Booting {
    pub(super) kernel: Part,
    pub(super) initrds: Vec<Part>,
    pub(super) command_line: String,
}

impl Booting {
    /// Returns the last value of an argument of the kernel.
    pub(super) fn argument<'b>(&'b self, name: &'b str) -> Option<&'b str> {
        self.arguments(name).last()
    }

    /// Returns all values of an argument.
    pub(super) fn arguments<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'b str> {
        let words = self.command_line.split_ascii_whitespace();
        words
            .filter_map(move |word| word.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches('"'))
    }
}

/// Opens a file that takes part in a boot; adds a finding if it cannot be read.
pub(super) fn part(look: &Look<'_>, row: usize, findings: &mut Findings) -> Option<Part> {
    match look.content(row) {
        Ok(content) => Some(Part { place: look.place(row), row: Some(row), content }),
        Err(error) => {
            findings.unknown(Subject::Loader, look.place(row), format!("it cannot be read: {error}"));
            None
        }
    }
}
