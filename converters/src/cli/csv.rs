//! Reports as comma-separated values (RFC 4180), with a line of names at the top.

use csv::Writer;
use mif::{Listing, PackagesReport, SearchReport};

/// A table: the names of its columns, and a row for each entry.
fn table<const N: usize>(names: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut out = Writer::from_writer(Vec::new());
    out.write_record(names).expect("writing to memory");
    rows.for_each(|row| out.write_record(row).expect("writing to memory"));
    String::from_utf8(out.into_inner().expect("writing to memory")).expect("made of text")
}

fn text<T: ToString>(value: Option<T>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}

fn octal(mode: Option<u16>) -> String {
    mode.map_or(String::new(), |mode| format!("{mode:04o}"))
}

pub(super) fn search(report: &SearchReport) -> String {
    let names = ["image", "volume", "path", "type", "mode", "uid", "gid", "size", "mtime", "sha1"];
    let rows = report.hits.iter().map(|hit| {
        [
            hit.image.clone(),
            hit.volume.clone(),
            hit.path.clone(),
            hit.file_type.clone(),
            octal(hit.mode),
            text(hit.uid),
            text(hit.gid),
            hit.size.to_string(),
            text(hit.mtime.map(|t| t.secs)),
            text(hit.sha1.as_ref()),
        ]
    });
    table(names, rows)
}

pub(super) fn ls(listing: &Listing) -> String {
    let names = ["volume", "path", "type", "mode", "uid", "gid", "size", "mtime", "link_target", "sha1"];
    let rows = listing.entries().map(|entry| {
        [
            entry.volume,
            entry.path,
            entry.file_type.to_owned(),
            octal(entry.mode),
            text(entry.uid),
            text(entry.gid),
            entry.size.to_string(),
            text(entry.mtime.map(|t| t.secs)),
            text(entry.link_target.as_ref()),
            text(entry.sha1.as_ref()),
        ]
    });
    table(names, rows)
}

pub(super) fn packages(report: &PackagesReport) -> String {
    let names =
        ["image", "volume", "manager", "name", "version", "architecture", "status", "source", "files"];
    let rows = report.packages.iter().map(|p| {
        [
            p.image.clone(),
            p.volume.clone(),
            p.manager.clone(),
            p.name.clone(),
            p.version.clone(),
            text(p.architecture.as_ref()),
            p.status.clone(),
            text(p.source.as_ref()),
            p.files.to_string(),
        ]
    });
    table(names, rows)
}
