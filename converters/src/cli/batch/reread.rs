//! The table of results of `reread` for many images.

use mif::{RereadEvent, RereadSummary};

use super::text::{Table, sum};
use crate::cli::text::size;

/// The results for many images.
pub(super) struct RereadTable {
    table: Table,
    summary: Option<RereadSummary>,
}

impl Default for RereadTable {
    fn default() -> Self {
        let table = Table::new(&["IMAGE", "RESULT", "TIME", "FILES", "BEFORE", "NEW"], &[9, 8, 9, 9, 10]);
        RereadTable { table, summary: None }
    }
}

impl RereadTable {
    /// Adds an event; returns true if it is the last one of an image.
    pub(super) fn add(&mut self, event: &RereadEvent) -> bool {
        let none = || "-".to_owned();
        match event {
            RereadEvent::Finished(report) | RereadEvent::Unchanged(report) => self.table.add([
                report.image.clone(),
                report.result.to_owned(),
                format!("{:.1} s", report.seconds),
                report.counts.files.to_string(),
                report.before.files.to_string(),
                size(report.added.stored_bytes + report.manifest_bytes),
            ]),
            RereadEvent::Failed { image, .. } => {
                self.table.add([image.clone(), "failed".into(), none(), none(), none(), none()]);
            }
            RereadEvent::Summary(summary) => {
                self.summary = Some(*summary);
                return false;
            }
            RereadEvent::Started { .. } => return false,
        }
        true
    }

    /// Formats the table and the summary; empty if no image was started.
    pub(super) fn finish(&self) -> String {
        let Some(summary) = &self.summary else { return String::new() };
        let counts = [
            (summary.reread, "reread"),
            (summary.unchanged, "unchanged"),
            (summary.failed, "failed"),
            (summary.left, "not finished"),
        ];
        let line = sum(summary.images, &counts, summary.seconds);
        let new = size(summary.added.stored_bytes);
        format!(
            "{}{line}; new to the store: {}, stored in {new}\n",
            self.table.text(),
            size(summary.added.bytes)
        )
    }
}
