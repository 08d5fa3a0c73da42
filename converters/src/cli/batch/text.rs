//! Tables of results for many images.

use std::fmt::Write as _;

use mif::VerifyReport;
use mif::store::Counts;
use mif::{
    Comparison, ExportEvent, ExportSummary, ImageCheck, ImportEvent, ImportSummary, LibraryReport, PassedOver,
};

use crate::cli::text::{counted, printable, size};

/// The maximum number of skipped files that are listed.
const SHOWN_FILES: usize = 20;

/// A table of images. Its first column is as wide as the longest name, up to a limit.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    widths: &'static [usize],
}

impl Table {
    /// Returns a table with these headings. `widths` are those of all columns except the first.
    pub(super) fn new(headings: &[&str], widths: &'static [usize]) -> Self {
        Table { rows: vec![headings.iter().map(|&text| text.to_owned()).collect()], widths }
    }

    pub(super) fn add<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(|cell| printable(cell)).collect());
    }

    /// Formats the table in 80 columns. A name that does not fit gets its own line.
    pub(super) fn text(&self) -> String {
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
                // Words are left-aligned, numbers right-aligned.
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

/// The results of an import of many images.
pub(super) struct ImportTable {
    table: Table,
    passed_over: Vec<PassedOver>,
    /// Images that are the same disk as others, with those.
    same: Vec<(String, Vec<String>)>,
    summary: Option<ImportSummary>,
}

impl Default for ImportTable {
    fn default() -> Self {
        ImportTable {
            table: Table::new(&["IMAGE", "RESULT", "TIME", "DISK", "NEW", "SHARED"], &[9, 8, 10, 10, 6]),
            passed_over: Vec::new(),
            same: Vec::new(),
            summary: None,
        }
    }
}

impl ImportTable {
    /// Adds an event; returns true if it is the last one of an image.
    pub(super) fn add(&mut self, event: &ImportEvent) -> bool {
        let none = || "-".to_owned();
        let row = match event {
            ImportEvent::Finished(report)
            | ImportEvent::Unchanged(report)
            | ImportEvent::Repaired(report) => {
                let new = report.added.stored_bytes + report.manifest_bytes;
                let shared = shared(&report.counts, report.added.bytes);
                let (time, disk) = (seconds(report.seconds), size(report.disk_size));
                if !report.same_as.is_empty() {
                    self.same.push((report.image.clone(), report.same_as.clone()));
                }
                [report.image.clone(), report.result.to_owned(), time, disk, size(new), shared]
            }
            ImportEvent::Skipped { image, disk_size, .. } => {
                [image.clone(), "skipped".into(), none(), size(*disk_size), none(), none()]
            }
            ImportEvent::Elsewhere { name, .. } => {
                [name.clone(), "elsewhere".into(), none(), none(), none(), none()]
            }
            ImportEvent::Failed { name, .. } => {
                [name.clone(), "failed".into(), none(), none(), none(), none()]
            }
            ImportEvent::PassedOver(file) => {
                self.passed_over.push(file.clone());
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

    /// Formats the table and the summary; empty if no image was started.
    pub(super) fn finish(&self) -> String {
        let mut out = passed_over(&self.passed_over);
        let Some(summary) = &self.summary else { return out };
        out.push_str(&self.table.text());
        out.push_str(&same_disks(&self.same));
        let counts = [
            (summary.imported, "imported"),
            (summary.unchanged, "unchanged"),
            (summary.repaired, "repaired"),
            (summary.skipped, "skipped (files unchanged)"),
            (summary.elsewhere, "imported elsewhere"),
            (summary.failed, "failed"),
            (summary.left, "not finished"),
        ];
        let _ = writeln!(out, "{}", sum(summary.images, &counts, summary.seconds));
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

/// Names the images that are the same disk as others.
fn same_disks(same: &[(String, Vec<String>)]) -> String {
    let mut out = String::new();
    for (image, others) in same.iter().take(SHOWN_FILES) {
        let _ = writeln!(out, "{}: the same disk as {}", printable(image), printable(&others.join(", ")));
    }
    let more = same.len().saturating_sub(SHOWN_FILES);
    if more > 0 {
        let _ = writeln!(out, "and {more} more images that are the same disk as others; --json names them");
    }
    out
}

fn passed_over(files: &[PassedOver]) -> String {
    let mut out = String::new();
    for file in files.iter().take(SHOWN_FILES) {
        let _ = writeln!(out, "skipped: {}: {}", printable(&file.path), printable(&file.why));
    }
    let more = files.len().saturating_sub(SHOWN_FILES);
    if more > 0 {
        let _ = writeln!(out, "skipped: {more} more files; --json lists all");
    }
    out
}

/// The results of an export of many images.
pub(super) struct ExportTable {
    table: Table,
    summary: Option<ExportSummary>,
}

impl Default for ExportTable {
    fn default() -> Self {
        let table = Table::new(&["IMAGE", "RESULT", "TIME", "DISK", "TAKES"], &[9, 8, 10, 10]);
        ExportTable { table, summary: None }
    }
}

impl ExportTable {
    /// Adds an event; returns true if it is the last one of an image.
    pub(super) fn add(&mut self, event: &ExportEvent) -> bool {
        let none = || "-".to_owned();
        let row = match event {
            ExportEvent::Finished(report) => {
                let (disk, takes) = (size(report.disk_size), size(report.allocated));
                [report.image.clone(), "exported".into(), seconds(report.seconds), disk, takes]
            }
            ExportEvent::Elsewhere { image, .. } => {
                [image.clone(), "elsewhere".into(), none(), none(), none()]
            }
            ExportEvent::Failed { image, .. } => [image.clone(), "failed".into(), none(), none(), none()],
            ExportEvent::Summary(summary) => {
                self.summary = Some(*summary);
                return false;
            }
            ExportEvent::Started { .. } => return false,
        };
        self.table.add(row);
        true
    }

    /// Formats the table and the summary; empty if no image was started.
    pub(super) fn finish(&self) -> String {
        let Some(summary) = &self.summary else { return String::new() };
        let counts = [
            (summary.exported, "exported"),
            (summary.elsewhere, "exported elsewhere"),
            (summary.failed, "failed"),
            (summary.left, "not finished"),
        ];
        let takes = size(summary.allocated);
        let line = sum(summary.images, &counts, summary.seconds);
        format!("{}{}; {takes} written\n", self.table.text(), line)
    }
}

/// Counts the images by their results.
pub(super) fn sum(images: u64, counts: &[(u64, &str)], took: f64) -> String {
    let told: Vec<String> =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    format!(
        "{}{}{}; {}",
        counted(images, "image"),
        if told.is_empty() { "" } else { ": " },
        told.join(", "),
        seconds(took)
    )
}

/// Returns the results of `verify --all`.
pub(super) fn library(report: &LibraryReport) -> String {
    let mut out = passed_over(&report.passed_over);
    for problem in &report.problems {
        let _ = writeln!(out, "damage: {}", printable(problem));
    }
    let mut table = Table::new(&["IMAGE", "STORED", "ORIGINAL", "FILES", "DISK"], &[8, 12, 9, 10]);
    let mut more = String::new();
    for image in &report.images {
        let original = match &image.original {
            None | Some(Comparison::NotCompared { .. }) => "-",
            Some(Comparison::Same { .. }) => "same",
            Some(Comparison::Differs { .. }) => "differs",
            Some(Comparison::NoOriginal) => "none",
            Some(Comparison::Failed { .. }) => "failed",
        };
        table.add([
            image.image.clone(),
            if image.whole { "whole" } else { "damaged" }.into(),
            format!("{original:>12}"),
            image.files.map_or("-".into(), |n| n.to_string()),
            image.disk_size.map_or("-".into(), size),
        ]);
        about(image, &mut more);
    }
    out.push_str(&table.text());
    out.push_str(&more);
    for original in &report.without_image {
        let _ = writeln!(out, "{}: no image was imported from it", printable(original));
    }
    let whole = report.images.iter().filter(|image| image.whole).count() as u64;
    let count = |which: fn(&Comparison) -> bool| {
        report.images.iter().filter(|image| image.original.as_ref().is_some_and(which)).count() as u64
    };
    let counts = [
        (whole, "whole"),
        (report.images.len() as u64 - whole, "damaged"),
        (count(|c| matches!(c, Comparison::Same { .. })), "identical to their originals"),
        (count(|c| matches!(c, Comparison::Differs { .. })), "different from their originals"),
        (count(|c| matches!(c, Comparison::NoOriginal)), "without an original"),
        (count(|c| matches!(c, Comparison::Failed { .. })), "failed to compare"),
        (count(|c| matches!(c, Comparison::NotCompared { .. })), "not compared"),
        (report.without_image.len() as u64, "originals without an image"),
    ];
    let _ = writeln!(out, "{}", sum(report.images.len() as u64, &counts, report.seconds));
    if report.shards != ["0/1"] {
        let of = report.shards.first().and_then(|shard| shard.rsplit_once('/'));
        let _ = match (of, report.shards.len()) {
            (Some((index, of)), 1) => writeln!(out, "only shard {index} of {of} was checked"),
            (Some((_, of)), count) => writeln!(out, "only {count} of {of} shards were checked here"),
            (None, _) => writeln!(out, "nothing was checked here: others have checked every shard"),
        };
    }
    let _ = writeln!(
        out,
        "{}: {} and {} checked",
        if report.good { "verification succeeded" } else { "verification failed" },
        counted(report.packs, "pack"),
        counted(report.objects, "object")
    );
    out
}

/// Describes what is wrong with an image.
fn about(image: &ImageCheck, out: &mut String) {
    let name = printable(&image.image);
    if let Some(lost) = &image.lost {
        let parts = lost.parts.join(", ");
        let bytes: u64 = lost.disk_bytes.values().sum();
        let _ = writeln!(
            out,
            "{name}: lost: {}{}the content of {}, {} of its disk; list them with `mif fsck`",
            printable(&parts),
            if parts.is_empty() { "" } else { ", " },
            counted(lost.file_count, "file"),
            size(bytes)
        );
        for path in &lost.wrong_sha1 {
            let _ =
                writeln!(out, "{name}: {}: the SHA-1 differs from the one in the manifest", printable(path));
        }
    }
    match &image.original {
        Some(Comparison::Differs { original, report }) => {
            let _ = writeln!(out, "{name}: differs from {}: {}", printable(original), difference(report));
        }
        Some(Comparison::Failed { error, .. }) => {
            let _ = writeln!(out, "{name}: not compared: {}", printable(error));
        }
        Some(Comparison::NotCompared { why }) => {
            let _ = writeln!(out, "{name}: not compared: {}", printable(why));
        }
        _ => {}
    }
}

fn difference(report: &VerifyReport) -> String {
    let bits = match &report.bits {
        Some(bits) => {
            format!("{} bytes, the first at byte {} ({})", bits.bytes, bits.first, printable(&bits.place))
        }
        None if report.same_bits => "no bytes".into(),
        None => "only zeros at the end of the longer disk".into(),
    };
    match &report.files {
        Some(files) => format!("{bits}; {} of {} files", files.differences, files.compared),
        None => bits,
    }
}

/// Returns the share of a disk's data that the store already had, or that the disk repeats.
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
