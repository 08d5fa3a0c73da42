//! The report of `diff` as text for people.

use std::fmt::Write as _;

use mif::{Change, ChangeKind, DiffCounts, DiffReport, FieldChange, Group};

use crate::cli::text::{printable, size};

/// How much of each change is printed.
#[derive(Clone, Copy)]
pub(super) enum Style {
    /// A line, and its text if there is any; those of times only if `times`.
    List { times: bool },
    /// The lines or bytes that changed.
    Stat,
    /// The text alone.
    Text,
    /// Nothing.
    Summary,
}

pub(super) fn report(report: &DiffReport, style: Style) -> String {
    let mut out = String::new();
    match style {
        Style::List { times } => list(&mut out, report, times),
        Style::Stat => stat(&mut out, report),
        Style::Text => {
            out.extend(report.changes.iter().filter_map(|change| change.text.as_deref()));
            return out;
        }
        Style::Summary => {}
    }
    causes(&mut out, report);
    groups(&mut out, report);
    let [a, b] = &report.images;
    let said = if report.same { "no file changed".to_owned() } else { counts(&report.counts) };
    let _ = writeln!(out, "{} to {}: {said}", printable(a), printable(b));
    out
}

fn list(out: &mut String, report: &DiffReport, times: bool) {
    for change in report.changes.iter().filter(|change| times || !change.is_times_only()) {
        let mark = match change.kind {
            ChangeKind::Added => '+',
            ChangeKind::Removed => '-',
            ChangeKind::Changed => 'M',
            ChangeKind::Metadata => 'm',
            ChangeKind::Renamed => 'R',
        };
        let _ = write!(out, "{mark} {}:{}", printable(&change.volume), printable(&change.path));
        if let Some(from) = &change.from {
            let _ = write!(out, " from {}", printable(from));
        }
        // The time of a file that changed otherwise is no news.
        let fields = change.fields.iter().filter(|field| times || field.field != "mtime");
        let fields: Vec<String> = fields.map(field).collect();
        let _ = writeln!(out, "{}{}", if fields.is_empty() { "" } else { "  " }, fields.join(", "));
        for line in change.text.iter().flat_map(|text| text.lines()) {
            // Tabs are printed as they are.
            let line: Vec<String> = line.split('\t').map(printable).collect();
            let _ = writeln!(out, "    {}", line.join("\t"));
        }
    }
    let folded = report.changes.iter().filter(|change| change.is_times_only()).count();
    if folded > 0 && !times {
        let paths = if folded == 1 { "path differs" } else { "paths differ" };
        let _ = writeln!(out, "m {folded} {paths} only in time (--times lists them)");
    }
}

/// The width of the bars of `--stat`.
const BAR: u64 = 40;

/// Prints for each change the lines of text that were added and removed, or the sizes in bytes, as git does.
fn stat(out: &mut String, report: &DiffReport) {
    let shown: Vec<&Change> = report.changes.iter().filter(|change| !change.is_times_only()).collect();
    let names: Vec<String> =
        shown.iter().map(|change| printable(&format!("{}:{}", change.volume, change.path))).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).min(60);
    let lines = |change: &Change| -> Option<[u64; 2]> {
        let text = change.text.as_ref()?;
        let starting = |mark: char| {
            // The first two lines name the file.
            text.lines().skip(2).filter(|line| line.starts_with(mark)).count() as u64
        };
        Some([starting('+'), starting('-')])
    };
    let most = shown.iter().filter_map(|change| lines(change)).map(|[a, b]| a + b).max().unwrap_or(0);
    for (change, name) in shown.iter().zip(&names) {
        let what = match (lines(change), change.kind) {
            (Some([added, removed]), _) => {
                let scale = |n: u64| if most <= BAR { n } else { (n * BAR).div_ceil(most) } as usize;
                let bar = "+".repeat(scale(added)) + &"-".repeat(scale(removed));
                format!("{} {bar}", added + removed)
            }
            (None, ChangeKind::Metadata) => {
                let fields = change.fields.iter().map(|field| field.field);
                let fields: Vec<&str> = fields.filter(|field| *field != "mtime").collect();
                fields.join(", ")
            }
            (None, ChangeKind::Renamed) => {
                format!("from {}", printable(change.from.as_deref().unwrap_or_default()))
            }
            (None, _) if change.file_type == "file" => {
                let [before, after] = change.sizes.map(|size| size.unwrap_or(0));
                format!("Bin {before} -> {after} bytes")
            }
            (None, ChangeKind::Added) => format!("new {}", change.file_type),
            (None, ChangeKind::Removed) => format!("{} gone", change.file_type),
            (None, ChangeKind::Changed) => change.file_type.to_owned(),
        };
        let _ = writeln!(out, " {name:<width$} | {what}");
    }
}

/// Lists what makes the disks differ, if that was asked for.
fn causes(out: &mut String, report: &DiffReport) {
    let Some(why) = &report.why else { return };
    let places: Vec<String> = why.iter().map(|cause| printable(&cause.place)).collect();
    let fields: Vec<String> = why.iter().map(|cause| printable(&cause.field)).collect();
    let width = |texts: &[String], most: usize| {
        texts.iter().map(|text| text.chars().count()).max().unwrap_or(0).min(most)
    };
    let (first, second) = (width(&places, 20), width(&fields, 40));
    for ((cause, place), field) in why.iter().zip(&places).zip(&fields) {
        let values = match (&cause.values, cause.count) {
            (Some([a, b]), _) => format!("{} → {}", printable(a), printable(b)),
            (None, Some(count)) if cause.examples.is_empty() => count.to_string(),
            (None, count) => {
                let count = count.unwrap_or(0);
                let paths = if count == 1 { "path" } else { "paths" };
                let more = if count > cause.examples.len() as u64 { ", …" } else { "" };
                format!("{count} {paths}: {}{more}", printable(&cause.examples.join(", ")))
            }
        };
        let _ = writeln!(out, "{place:<first$}  {field:<second$}  {values}");
    }
    if why.is_empty() {
        out.push_str("the disks are the same but for the contents of files\n");
    }
}

fn groups(out: &mut String, report: &DiffReport) {
    let names: Vec<String> =
        report.groups.iter().map(|group| printable(&group.name) + &versions(group)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).clamp(40, 72);
    for (name, group) in names.iter().zip(&report.groups) {
        let counts = if group.counts == DiffCounts::default() {
            "no path changed".to_owned()
        } else {
            counts(&group.counts)
        };
        let _ = writeln!(out, "{name:<width$} {counts}");
    }
}

/// Formats the change of a package's version, preceded by a space.
fn versions(group: &Group) -> String {
    match &group.versions {
        None | Some([None, None]) => String::new(),
        Some([None, Some(new)]) => format!(" new: {}", printable(new)),
        Some([Some(old), None]) => format!(" gone: {}", printable(old)),
        Some([Some(old), Some(new)]) if old == new => format!(" {}", printable(new)),
        Some([Some(old), Some(new)]) => format!(" {} → {}", printable(old), printable(new)),
    }
}

fn field(change: &FieldChange) -> String {
    match (&change.from, &change.to) {
        (None, None) => change.field.to_owned(),
        (from, to) => {
            let text = |value: &Option<String>| value.as_deref().map_or("none".to_owned(), printable);
            format!("{} {} → {}", change.field, text(from), text(to))
        }
    }
}

fn counts(counts: &DiffCounts) -> String {
    let DiffCounts { added, removed, changed, metadata, renamed, bytes } = counts;
    let parts = [
        (*added, "added"),
        (*removed, "removed"),
        (*changed, "changed"),
        (*metadata, "only in metadata"),
        (*renamed, "renamed"),
    ];
    let told: Vec<String> =
        parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    let told = told.join(", ");
    match bytes {
        0 => told,
        1.. => format!("{told}; +{}", size(bytes.unsigned_abs())),
        _ => format!("{told}; -{}", size(bytes.unsigned_abs())),
    }
}
