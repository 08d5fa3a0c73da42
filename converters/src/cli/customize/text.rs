//! The report of `customize` as text for people.

use std::fmt::Write as _;

use mif::CustomizeReport;

use crate::cli::text::{counted, ids_text, printable, size};

pub(super) fn customize(report: &CustomizeReport) -> String {
    let mut out = String::new();
    let many = report.images.len() > 1;
    for image in &report.images {
        let (name, parent) = (printable(&image.image), printable(&report.parent));
        let _ = if report.dry_run {
            writeln!(out, "{name}: would be made from {parent}")
        } else {
            writeln!(out, "{name}: made from {parent}")
        };
        // With many images, the edits are similar; only a dry run shows them.
        if many && !report.dry_run {
            continue;
        }
        for edit in &image.edits {
            let _ = writeln!(out, "  {}", printable(edit));
        }
        for gone in &image.generalized {
            let _ = writeln!(out, "  generalized: {}", printable(gone));
        }
        for left in &image.left {
            let _ = writeln!(out, "  still machine-specific: {}", printable(left));
        }
        if image.planned.is_empty() {
            out.push_str("  no changes\n");
        } else {
            let _ = writeln!(out, "  volumes rebuilt: {}", printable(&image.planned.join(", ")));
        }
        if let Some(ids) = &image.ids {
            ids_text(ids, &mut out);
        }
    }
    if !report.dry_run {
        let many =
            if many { format!("{}; ", counted(report.images.len() as u64, "image")) } else { String::new() };
        let _ = writeln!(
            out,
            "{many}new to the store: {}, stored in {}; {:.2} s",
            size(report.added.bytes),
            size(report.added.stored_bytes),
            report.seconds
        );
    }
    out
}
