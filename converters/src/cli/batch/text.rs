//! Tables of what became of many images.

use std::fmt::Write as _;

use mif::store::Counts;
use mif::{ImportEvent, ImportSummary};

use crate::cli::text::{printable, size};

/// How many files that were passed over are named.
const SHOWN_FILES: usize = 20;

/// A table of images: the first column is as wide as it must be, within limits.
struct Table {
    rows: Vec<Vec<String>>,
    widths: &'static [usize],
}

impl Table {
    /// With these headings. `widths` are those of all columns but the first.
    fn new(headings: &[&str], widths: &'static [usize]) -> Self {
        Table { rows: vec![headings.iter().map(|&text| text.to_owned()).collect()], widths }
    }

    fn add<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    /// In 80 columns. A name that is too long for that has a line of its own.
    fn text(&self) -> String {
        let others: usize = self.widths.iter().map(|width| width + 1).sum();
        let longest = self.rows.iter().map(|row| row[0].chars().count()).max().unwrap_or(0);
        let first = longest.min(79 - others);
        let mut out = String::new();
        for row in &self.rows {
            let name = &row[0];
            let _ = match name.chars().count() <= first {
                true => write!(out, "{name:<first$}"),
                false => write!(out, "{name}\n{:first$}", ""),
            };
            for (number, (cell, width)) in row[1..].iter().zip(self.widths).enumerate() {
                // Words to the left, numbers to the right.
                let _ =
                    if number == 0 { write!(out, " {cell:<width$}") } else { write!(out, " {cell:>width$}") };
            }
            out.truncate(out.trim_end().len());
            out.push('\n');
        }
        out
    }
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.1} s")
}

/// What became of images that were to be imported.
pub(super) struct ImportTable {
    table: Table,
    passed_over: Vec<String>,
    summary: Option<ImportSummary>,
}

impl Default for ImportTable {
    fn default() -> Self {
        ImportTable {
            table: Table::new(&["IMAGE", "RESULT", "TIME", "DISK", "NEW", "SHARED"], &[9, 8, 10, 10, 6]),
            passed_over: Vec::new(),
            summary: None,
        }
    }
}

impl ImportTable {
    /// Adds what happened; gives whether it is the last of an image.
    pub(super) fn add(&mut self, event: &ImportEvent) -> bool {
        let none = || "-".to_owned();
        let row = match event {
            ImportEvent::Finished(report) | ImportEvent::Unchanged(report) => {
                let new = report.added.stored_bytes + report.manifest_bytes;
                let shared = shared(&report.counts, report.added.bytes);
                let (time, disk) = (seconds(report.seconds), size(report.disk_size));
                [report.image.clone(), report.result.to_owned(), time, disk, size(new), shared]
            }
            ImportEvent::Skipped { image, disk_size, .. } => {
                [image.clone(), "skipped".into(), none(), size(*disk_size), none(), none()]
            }
            ImportEvent::Failed { name, .. } => {
                [name.clone(), "failed".into(), none(), none(), none(), none()]
            }
            ImportEvent::PassedOver(file) => {
                self.passed_over.push(format!("{}: {}", printable(&file.path), printable(&file.why)));
                return false;
            }
            ImportEvent::Summary(summary) => {
                self.summary = Some(*summary);
                return false;
            }
            ImportEvent::Started { .. } => return false,
        };
        self.table.add(row);
        true
    }

    /// All of it as text; nothing if no image was begun.
    pub(super) fn finish(&self) -> String {
        let mut out = String::new();
        for file in self.passed_over.iter().take(SHOWN_FILES) {
            let _ = writeln!(out, "passed over: {file}");
        }
        let more = self.passed_over.len().saturating_sub(SHOWN_FILES);
        if more > 0 {
            let _ = writeln!(out, "passed over: {more} more; --json names all");
        }
        let Some(summary) = &self.summary else { return out };
        out.push_str(&self.table.text());
        let counts = [
            (summary.imported, "imported"),
            (summary.unchanged, "unchanged"),
            (summary.skipped, "skipped, for their files have not changed"),
            (summary.failed, "failed"),
            (summary.left, "not finished"),
        ];
        let told: Vec<String> =
            counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        let _ = writeln!(out, "{} images: {}; {}", summary.images, told.join(", "), seconds(summary.seconds));
        if summary.imported > 0 {
            let share = percent(summary.data_bytes, summary.added.bytes);
            let _ = writeln!(
                out,
                "new to the store: {} of {} of data ({share} shared), stored in {}",
                size(summary.added.bytes),
                size(summary.data_bytes),
                size(summary.added.stored_bytes)
            );
        }
        out
    }
}

/// How much of a disk's data was in the store already, or is on it more than once.
fn shared(counts: &Counts, added: u64) -> String {
    percent(counts.content_bytes + counts.residue_bytes, added)
}

fn percent(data: u64, new: u64) -> String {
    if data == 0 {
        return "-".into();
    }
    format!("{:.0} %", 100.0 * (data.saturating_sub(new) as f64 / data as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_keeps_to_80_columns_and_a_long_name_has_a_line_of_its_own() {
        let mut table = Table::new(&["IMAGE", "RESULT", "TIME"], &[9, 8]);
        table.add(["web@1".into(), "imported".into(), "1.0 s".into()]);
        table.add(["x".repeat(100), "failed".into(), "-".into()]);
        let text = table.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines[0].len(), lines[1].len()), (79, 79), "{text}");
        assert_eq!(lines[2], "x".repeat(100));
        assert!(lines[3].len() == 79 && lines[3].trim_start().starts_with("failed"), "{text}");
    }

    #[test]
    fn shares_are_of_what_is_not_zero() {
        assert_eq!(
            (percent(0, 0), percent(200, 50), percent(100, 101)),
            ("-".into(), "75 %".into(), "0 %".into())
        );
    }
}
