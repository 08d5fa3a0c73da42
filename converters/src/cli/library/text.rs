//! Formats reports as text for people.

use std::fmt::Write as _;

use mif::store::{StorePlace, Tag};
use mif::{
    CatalogRemoval, CatalogReport, FsckReport, GcReport, LogReport, LostImage, PackagesReport, RmReport,
    SearchReport, StatsReport, StatusReport, Verdict,
};

use crate::cli::text::{counted, from_here, mode_text, printable, seconds_time, size, time};

pub(super) fn log(report: &LogReport) -> String {
    let mut out = String::new();
    for entry in &report.versions {
        let indent = "│ ".repeat(entry.depth.min(40) as usize);
        let tags = if entry.tags.is_empty() {
            String::new()
        } else {
            format!(" [{}]", printable(&entry.tags.join(", ")))
        };
        let when = seconds_time(entry.time);
        let _ =
            write!(out, "{indent}{}{tags}  {} {when}", printable(&entry.image), printable(&entry.operation));
        if let Some(source) = &entry.source {
            let format = entry.source_format.as_deref().map_or(String::new(), |format| format!("{format} "));
            let _ = write!(out, " from {}{}", printable(&format), printable(from_here(source)));
        }
        if let Some(target) = &entry.target {
            let _ = write!(out, " for {}", printable(target));
        }
        if let Some(parent) = &entry.parent {
            let _ = write!(out, ", after {}", printable(parent));
        }
        if !entry.tool.is_empty() {
            let _ = write!(out, " ({})", printable(&entry.tool));
        }
        out.push('\n');
        if !entry.command.is_empty() {
            let words: Vec<String> = entry.command.iter().map(|word| shell_word(word)).collect();
            let _ = writeln!(out, "{indent}    {}", printable(&words.join(" ")));
        }
    }
    out
}

pub(super) fn tag(tag: &Tag, verb: &str) -> String {
    let (name, label) = (printable(&tag.name), printable(&tag.tag));
    format!("{name}@{label} {verb} {name}@{}\n", tag.version)
}

pub(super) fn rm(report: &RmReport) -> String {
    let would = if report.dry_run { "would be " } else { "" };
    let mut out = String::new();
    for image in report.removed.iter().chain(&report.tags) {
        let _ = writeln!(out, "{}: {would}removed", printable(image));
    }
    if !report.dry_run {
        out.push_str("run `mif gc` to reclaim the space\n");
    }
    out
}

pub(super) fn gc(report: &GcReport) -> String {
    let mut out = String::new();
    let would = if report.dry_run { "would be " } else { "" };
    for image in &report.forgotten {
        let _ = writeln!(out, "{}: {would}removed", printable(image));
    }
    let _ = writeln!(
        out,
        "packs: {} kept, {} {would}removed, {} {would}repacked",
        report.packs_kept, report.packs_dropped, report.packs_repacked
    );
    if report.packs_waiting > 0 {
        let _ = writeln!(
            out,
            "waiting: {} that other commands may still read; run gc again when these have finished",
            counted(report.packs_waiting, "pack")
        );
    }
    let [before, after] = report.pack_bytes;
    let _ = writeln!(
        out,
        "space: {} before, {} after; {} unused remain in packs that are mostly in use",
        size(before),
        size(after),
        size(report.garbage_kept)
    );
    if report.unfinished + report.stray_indexes > 0 {
        let _ = writeln!(
            out,
            "leftovers: {} and {} without a pack {would}removed",
            counted(report.unfinished, "unfinished file"),
            if report.stray_indexes == 1 {
                "1 index".into()
            } else {
                format!("{} indexes", report.stray_indexes)
            }
        );
    }
    if report.catalog_files > 0 {
        let _ = writeln!(out, "catalog: {} {would}removed", counted(report.catalog_files, "unused file"));
    }
    if !report.strangers.is_empty() {
        let names = printable(&report.strangers.join(", "));
        let _ = writeln!(out, "not part of the store, and left alone: {names}");
    }
    out
}

pub(super) fn catalog(report: &CatalogReport) -> String {
    let mut out = String::new();
    let would = if report.dry_run { "would be " } else { "" };
    let _ = writeln!(
        out,
        "images: {} in the catalog, {} {would}added, {} {would}dropped",
        report.images, report.added, report.dropped
    );
    let _ = writeln!(
        out,
        "catalog: {} in {} of {}; {} of files, {} of digests, {} of packages",
        size(report.bytes),
        counted(report.files, "file"),
        counted(report.segments, "segment"),
        counted(report.rows.files, "row"),
        report.rows.digests,
        report.rows.packages
    );
    if report.deleted > 0 {
        let _ = writeln!(out, "leftovers: {} removed", counted(report.deleted, "unused file"));
    }
    out
}

pub(super) fn catalog_removal(removal: &CatalogRemoval) -> String {
    match removal.deleted {
        0 => "there is no catalog\n".to_owned(),
        deleted => format!("catalog: {} removed\n", counted(deleted, "file")),
    }
}

/// The maximum number of paths of an image that are listed without --list.
const PATHS: usize = 10;

/// The maximum number of lines about damage without --list.
const PROBLEMS: usize = 20;

pub(super) fn fsck(report: &FsckReport, store: &StorePlace, list: bool) -> String {
    let mut out = match report.verdict {
        Verdict::Whole => "whole".to_owned(),
        Verdict::Repairable => "damaged: repairable from the store itself".to_owned(),
        Verdict::NeedsOriginals => match &report.originals[..] {
            [only] => format!("damaged: repair needs the original image: {only}"),
            all => {
                format!("damaged: repair needs the original images (one may be enough): {}", all.join(", "))
            }
        },
        Verdict::Lost => "damaged: no known original image has the lost data".to_owned(),
        Verdict::Unreadable => format!(
            "unknown: {} cannot be read; change that, then run fsck again",
            counted(report.unreadable.len() as u64, "file")
        ),
    };
    out = printable(&out);
    let _ = writeln!(
        out,
        " ({}, {} and {} checked)",
        counted(report.images, "image"),
        counted(report.packs, "pack"),
        counted(report.objects, "object")
    );
    if !report.command.is_empty() {
        let store = store.to_string();
        let words = ["mif", "--store", &store].into_iter().chain(report.command.iter().map(String::as_str));
        let words: Vec<String> = words.map(shell_word).collect();
        let _ = writeln!(out, "repair: {}", printable(&words.join(" ")));
    }
    let mut lines = |what: &str, lines: &[String]| {
        for line in lines {
            let _ = writeln!(out, "{what}{}", printable(line));
        }
    };
    lines("repaired: ", &report.repaired);
    lines("unreadable: ", &report.unreadable);
    let told = if list { report.problems.len() } else { PROBLEMS.min(report.problems.len()) };
    lines("damage: ", &report.problems[..told]);
    let more = report.problems.len() - told;
    if more > 0 {
        lines("damage: ", &[format!("and {more} more (--list shows all)")]);
    }
    lines("note: ", &report.notes);
    // Clones usually lose the same.
    let mut losses: Vec<(&LostImage, Vec<String>)> = Vec::new();
    for lost in &report.lost {
        match losses.iter_mut().find(|(first, _)| is_same_loss(first, lost)) {
            Some((_, images)) => images.push(lost.image.clone()),
            None => losses.push((lost, vec![lost.image.clone()])),
        }
    }
    for (lost, images) in losses {
        lost_image(&mut out, lost, &images, if list { usize::MAX } else { PATHS });
    }
    out
}

/// Returns true if two images have lost the same, so one description is enough.
fn is_same_loss(a: &LostImage, b: &LostImage) -> bool {
    (&a.parts, &a.files, a.file_count, &a.wrong_sha1, &a.disk_bytes)
        == (&b.parts, &b.files, b.file_count, &b.wrong_sha1, &b.disk_bytes)
}

fn lost_image(out: &mut String, lost: &LostImage, images: &[String], paths: usize) {
    let mut parts: Vec<String> = lost.parts.clone();
    if lost.file_count > 0 {
        parts.push(format!("the content of {}", counted(lost.file_count, "file")));
    }
    let bytes: u64 = lost.disk_bytes.values().sum();
    if bytes > 0 {
        parts.push(format!("{} of its disk", size(bytes)));
    }
    let has = if images.len() == 1 { "has" } else { "have each" };
    let _ = writeln!(out, "{} {has} lost: {}", in_images(images), printable(&parts.join(", ")));
    for (volume, bytes) in &lost.disk_bytes {
        let place = if volume == "-" { "outside all partitions".to_owned() } else { printable(volume) };
        let _ = writeln!(out, "  {} on {place}", size(*bytes));
    }
    for file in lost.files.iter().take(paths) {
        let _ = writeln!(out, "  {}", printable(file));
    }
    let named = lost.files.len().min(paths) as u64;
    if lost.file_count > named {
        let _ = writeln!(out, "  and {} more (--list shows all)", lost.file_count - named);
    }
}

/// Quotes a word for a shell.
fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._+-=:,@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

pub(super) fn search(report: &SearchReport) -> String {
    let mut out = String::new();
    let number = |n: Option<u32>| n.map_or("-".into(), |n| n.to_string());
    for hit in &report.hits {
        let _ = writeln!(
            out,
            "{:<24} {} {:>5} {:>5} {:>12} {} {}:{}",
            printable(&hit.image),
            mode_text(&hit.file_type, hit.mode),
            number(hit.uid),
            number(hit.gid),
            hit.size,
            time(hit.mtime),
            printable(&hit.volume),
            printable(&hit.path)
        );
    }
    if let Some(groups) = &report.groups {
        for group in groups {
            let of = match &group.paths[..] {
                [only] => printable(only),
                [first, more @ ..] => {
                    format!("{} and {}", printable(first), counted(more.len() as u64, "more path"))
                }
                [] => String::new(),
            };
            let _ = writeln!(out, "{:>12} {of}  {}", group.size, in_images(&group.images));
        }
        let _ = writeln!(
            out,
            "{} found in {}",
            counted(groups.len() as u64 + report.left_out, "content"),
            counted(report.searched, "image")
        );
        return out;
    }
    let found = report.hits.len() as u64 + report.left_out;
    let _ = writeln!(out, "{found} found in {}", counted(report.searched, "image"));
    out
}

/// Lists images; of many, only the first.
fn in_images(images: &[String]) -> String {
    const MOST: usize = 5;
    let shown: Vec<String> = images.iter().take(MOST).map(|image| printable(image)).collect();
    match images.len().saturating_sub(MOST) {
        0 => shown.join(", "),
        more => format!("{} and {more} more images", shown.join(", ")),
    }
}

pub(super) fn packages(report: &PackagesReport) -> String {
    let groups = report.groups.iter().flatten().map(|group| {
        let architecture = group.architecture.as_deref().unwrap_or("-");
        [&group.name, &group.version, architecture]
            .map(printable)
            .into_iter()
            .chain([in_images(&group.images)])
    });
    let mut out = columns(groups.map(Iterator::collect).collect());
    let packages = report.packages.iter().map(|package| {
        let architecture = package.architecture.as_deref().unwrap_or("-");
        // The usual state is not worth a word.
        let status = if package.status == "installed" { "" } else { &package.status };
        [&package.image, &package.name, &package.version, architecture, status].map(printable).to_vec()
    });
    out += &columns(packages.collect());
    out
}

/// The widest column that decides how others are placed.
const WIDEST: usize = 40;

/// Formats rows of cells in columns, each as wide as its widest cell up to a limit.
fn columns(rows: Vec<Vec<String>>) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in &rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count().min(WIDEST));
        }
    }
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    out
}

pub(super) fn status(report: &StatusReport) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "store       {}", printable(&report.store));
    let _ = writeln!(
        out,
        "images      {} in {}, {}",
        report.images,
        counted(report.versions, "version"),
        counted(report.tags, "tag")
    );
    if let (Some(newest), Some(time)) = (&report.newest, report.newest_time) {
        let _ = writeln!(out, "newest      {}, {}", printable(newest), seconds_time(time));
    }
    let _ = writeln!(
        out,
        "disks       {}, of which {} is data",
        size(report.disk_bytes),
        size(report.data_bytes)
    );
    let share = match report.data_bytes {
        0 => String::new(),
        data => format!(", {:.1} % of the data", 100.0 * report.file_bytes as f64 / data as f64),
    };
    let _ = writeln!(out, "stored in   {}{share}", size(report.file_bytes));
    let _ = writeln!(out, "gc frees    {}", size(report.gc_bytes));
    let _ = match &report.checked {
        Some(check) => {
            let (when, verb) = (seconds_time(check.time), printable(&check.verb));
            writeln!(out, "checked     {when} by `mif {verb}`: {}", printable(&check.verdict))
        }
        None => writeln!(out, "checked     never; `mif fsck` does"),
    };
    if let Some(catalog) = &report.catalog {
        let lacking = match catalog.lacking {
            0 => String::new(),
            lacking => format!("; it lacks {lacking}, which `mif catalog` adds"),
        };
        let _ = writeln!(out, "catalog     {}{lacking}", counted(catalog.images, "version"));
    }
    if report.good {
        out.push_str("attention   nothing\n");
    }
    for (number, sentence) in report.attention.iter().enumerate() {
        let head = if number == 0 { "attention" } else { "" };
        let _ = writeln!(out, "{head:<11} {}", printable(sentence));
    }
    out
}

pub(super) fn stats(report: &StatsReport) -> String {
    let mut out = String::new();
    let files = report.file_bytes;
    let _ = writeln!(out, "images          {} in {}", report.images, counted(report.versions, "version"));
    let _ = writeln!(
        out,
        "disks           {}, of which {} is data",
        size(report.disk_bytes),
        size(report.data_bytes)
    );
    let _ = writeln!(
        out,
        "objects         {} with {}, stored in {}",
        report.objects,
        size(report.object_bytes),
        size(report.stored_bytes)
    );
    let _ = writeln!(
        out,
        "store           {}: packs {}, indexes {}, manifests and layouts {}",
        size(files.packs + files.indexes + files.images),
        size(files.packs),
        size(files.indexes),
        size(files.images)
    );
    if report.garbage_bytes > 0 {
        let _ = writeln!(out, "unused          {}; run `mif gc` to reclaim it", size(report.garbage_bytes));
    }
    let _ = writeln!(
        out,
        "ratio           {:.2} data to unique data, {:.2} data to store",
        report.dedup_ratio, report.total_ratio
    );
    let _ = writeln!(out, "\n{:<40} {:>12} {:>12} {:>12}", "IMAGE", "DATA", "STORED OWN", "SHARED");
    for share in &report.shares {
        let _ = writeln!(
            out,
            "{:<40} {:>12} {:>12} {:>12}",
            printable(&share.image),
            size(share.data_bytes),
            size(share.own_bytes),
            size(share.shared_bytes)
        );
    }
    if let Some(similarity) = &report.similarity {
        out.push_str("\nsimilarity: bytes in both, in percent of bytes in either\n");
        let numbers = (1..=similarity.images.len()).map(|n| format!("{n:>5}")).collect::<String>();
        let _ = writeln!(out, "{:<44} {numbers}", "");
        for (i, (image, row)) in similarity.images.iter().zip(&similarity.matrix).enumerate() {
            let cells = row.iter().map(|share| format!("{:>5.0}", share * 100.0)).collect::<String>();
            let _ = writeln!(out, "{:>3} {:<40} {cells}", i + 1, printable(image));
        }
    }
    out
}
