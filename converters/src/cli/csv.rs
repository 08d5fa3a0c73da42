//! Reports as comma-separated values (RFC 4180) with a header line.

use csv::Writer;
use mif::{LsReport, PackagesReport, SearchReport};

/// Formats a table with a header line and a row for each entry.
///
/// A spreadsheet interprets a cell that begins with `=`, `+`, `-` or `@` as a formula even if it is quoted. If `safe`,
/// such cells are prefixed with an apostrophe, and so are cells that begin with one, so that different cells stay
/// different.
fn table<const N: usize>(safe: bool, names: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut out = Writer::from_writer(Vec::new());
    out.write_record(names).expect("writing to memory");
    for mut row in rows {
        // Times are numbers, and those before 1970 begin with a minus sign.
        let cells = row.iter_mut().zip(names).filter(|(_, name)| safe && *name != "mtime");
        for (cell, _) in cells {
            if cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '\'']) {
                cell.insert(0, '\'');
            }
        }
        out.write_record(row).expect("writing to memory");
    }
    String::from_utf8(out.into_inner().expect("writing to memory")).expect("made of text")
}

fn text<T: ToString>(value: Option<T>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}

fn octal(mode: Option<u16>) -> String {
    mode.map_or(String::new(), |mode| format!("{mode:04o}"))
}

pub(super) fn search(report: &SearchReport, safe: bool) -> String {
    let names =
        ["image", "volume", "path", "type", "mode", "uid", "gid", "size", "mtime", "sha1", "path_bytes"];
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
            text(hit.path_bytes.as_ref()),
        ]
    });
    table(safe, names, rows)
}

pub(super) fn ls(listing: &LsReport, safe: bool) -> String {
    let names = [
        "volume",
        "path",
        "type",
        "mode",
        "uid",
        "gid",
        "size",
        "mtime",
        "link_target",
        "sha1",
        "path_bytes",
        "link_target_bytes",
    ];
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
            text(entry.path_hex.as_ref()),
            text(entry.link_target_hex.as_ref()),
        ]
    });
    table(safe, names, rows)
}

pub(super) fn packages(report: &PackagesReport, safe: bool) -> String {
    let names = [
        "image",
        "volume",
        "manager",
        "name",
        "version",
        "architecture",
        "status",
        "source",
        "files",
        "version_key",
    ];
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
            p.version_key.clone(),
        ]
    });
    table(safe, names, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn safe_cells_are_no_formulas_and_stay_different() {
        let cells = ["=1", "+1", "-1", "@x", "\tx", "\rx", "'=1", "x=1", "-5"].map(|cell| [cell.to_owned()]);
        let of = |name: &str, safe: bool| -> Vec<String> {
            let text = table(safe, [name], cells.iter().cloned());
            let mut reader = csv::Reader::from_reader(text.as_bytes());
            reader.records().map(|record| record.unwrap()[0].to_owned()).collect()
        };
        assert_eq!(of("path", false), cells.concat());
        assert_eq!(of("path", true), ["'=1", "'+1", "'-1", "'@x", "'\tx", "'\rx", "''=1", "x=1", "'-5"]);
        assert_eq!(of("mtime", true)[8], "-5");
    }
}
