//! dpkg's database: `/var/lib/dpkg/status`, or `status.d/` in images without dpkg, and `info/*.list` (dpkg(1),
//! deb-control(5)).

use std::collections::HashMap;

use super::{Databases, FoundPackages, Package, text};
use crate::error::Result;

const STATUS: &str = "/var/lib/dpkg/status";
const STATUS_FOLDER: &str = "/var/lib/dpkg/status.d";
const INFO_FOLDER: &str = "/var/lib/dpkg/info";

pub(super) fn read(databases: &Databases<'_>, found: &mut FoundPackages) -> Result<()> {
    let info = lists(databases);
    if let Some(status) = databases.file(STATUS)? {
        for paragraph in paragraphs(&status) {
            let Some(mut package) = package(databases, &paragraph) else { continue };
            let architecture = package.architecture.as_deref().unwrap_or_default();
            let list = [format!("{}:{architecture}.list", package.name), format!("{}.list", package.name)];
            if let Some(row) = list.iter().find_map(|name| info.get(name.as_bytes())) {
                match databases.content(*row) {
                    Ok(list) => package.files = databases.paths.find_all(list.split(|b| *b == b'\n')),
                    Err(e) => found.complaints.push(format!("packages on {}: {e}", databases.volume())),
                }
            }
            found.packages.push(package);
        }
    }
    // Distroless images have one file for each paragraph, which may have the package's checksums beside it.
    for (name, row) in folder(databases, STATUS_FOLDER) {
        if name.ends_with(b".md5sums") {
            continue;
        }
        for paragraph in paragraphs(&databases.content(row)?) {
            found.packages.extend(package(databases, &paragraph));
        }
    }
    Ok(())
}

/// Returns the lists of files, by name.
fn lists<'a>(databases: &'a Databases<'_>) -> HashMap<&'a [u8], usize> {
    folder(databases, INFO_FOLDER).into_iter().filter(|(name, _)| name.ends_with(b".list")).collect()
}

/// Returns the files of a directory, by name.
fn folder<'a>(databases: &'a Databases<'_>, path: &str) -> Vec<(&'a [u8], usize)> {
    let Some(folder) = databases.row(path) else { return Vec::new() };
    let rows = databases.tree.rows();
    let prefix = [&rows[folder].path[..], b"/"].concat();
    // Rows are sorted by volume and path.
    let text = String::from_utf8_lossy(&prefix);
    let volume = &rows[folder].volume;
    let start = rows.partition_point(|row| (&row.volume, &*row.path_text()) < (volume, &*text));
    let below = rows[start..]
        .iter()
        .enumerate()
        .take_while(|(_, row)| row.volume == *volume && row.path.starts_with(&prefix));
    let named = below.filter_map(|(i, row)| Some((row.path.strip_prefix(&prefix[..])?, start + i)));
    named.filter(|(name, _)| !name.contains(&b'/')).collect()
}

/// Parses the paragraphs of a control file into values by field. For values of several lines, keeps the first line.
fn paragraphs(file: &[u8]) -> impl Iterator<Item = HashMap<&[u8], &[u8]>> {
    let mut lines = file.split(|b| *b == b'\n');
    std::iter::from_fn(move || {
        let mut fields = HashMap::new();
        for line in lines.by_ref() {
            if line.trim_ascii().is_empty() {
                if fields.is_empty() {
                    continue;
                }
                return Some(fields);
            }
            if line[0].is_ascii_whitespace() {
                continue;
            }
            if let Some(colon) = line.iter().position(|b| *b == b':') {
                fields.insert(&line[..colon], line[colon + 1..].trim_ascii());
            }
        }
        (!fields.is_empty()).then_some(fields)
    })
}

fn package(databases: &Databases<'_>, fields: &HashMap<&[u8], &[u8]>) -> Option<Package> {
    let field = |name: &str| fields.get(name.as_bytes()).map(|value| text(value));
    // "install ok installed": the wanted state, the error flag, and the current state.
    let status = field("Status").and_then(|status| status.split_whitespace().nth(2).map(str::to_owned));
    let status = status.unwrap_or_else(|| "installed".to_owned());
    if status == "not-installed" {
        return None;
    }
    let package = databases.package("dpkg", field("Package")?, field("Version").unwrap_or_default());
    let source = field("Source").and_then(|source| source.split_whitespace().next().map(str::to_owned));
    Some(Package { architecture: field("Architecture"), status, source, ..package })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_file_has_paragraphs_of_fields() {
        let file = b"Package: a\nDescription: x\n more\n .\nStatus: install ok installed\n\n\nPackage: b\n";
        let read: Vec<_> = paragraphs(file).collect();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0][&b"Status"[..]], b"install ok installed");
        assert_eq!(read[0][&b"Description"[..]], b"x");
        assert_eq!(read[1][&b"Package"[..]], b"b");
        assert_eq!(paragraphs(b"\n \n").count(), 0);
    }
}
