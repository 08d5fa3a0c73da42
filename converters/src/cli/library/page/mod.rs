//! The page of `stats --html`: one file that needs no network and runs no script.
//!
//! Names come from images, so each goes through [`escaped`]. Should one be missed, the page's own policy still forbids scripts
//! and every request.

mod escape;
mod plots;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use mif::{Error, PageReport, Result};

use self::escape::escaped;
use self::plots::{growth, shares, similarity, treemap};
use crate::cli::text::{seconds_time, size};

/// How such a page begins. A file that begins so may be replaced.
const START: &str = "<!doctype html>\n<!-- written by mif stats -->\n";

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1b2330;--dim:#667;--paper:#fff;--line:#d8dde4;--a:#2f6db5;--b:#9dc3ea;--c:#d9822b}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ee;--dim:#99a3b0;--paper:#14181f;--line:#333b46;--a:#6aa6e8;--b:#2c4a6b;--c:#e9a15a}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;overflow-wrap:anywhere}h2{font-size:1.1rem;margin:2rem 0 .3rem}p{color:var(--dim);margin:.2rem 0 .6rem}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(12rem,1fr));gap:.8rem}dt{color:var(--dim)}dd{margin:0;font-size:1.2rem}
svg{width:100%;height:auto;display:block}text{font:12px system-ui,sans-serif;fill:var(--ink)}.dim{fill:var(--dim)}
.a{fill:var(--a)}.b{fill:var(--b)}.line{fill:none;stroke-width:2}.la{stroke:var(--a)}.lc{stroke:var(--c)}.axis{stroke:var(--line)}
.tile{stroke:var(--paper)}table{border-collapse:collapse;width:100%}td{padding:.15rem .4rem;border-top:1px solid var(--line)}
td:first-child,td:nth-child(2){text-align:right;white-space:nowrap;width:1%}td{overflow-wrap:anywhere}";

/// Returns the page.
pub(super) fn html(report: &PageReport) -> String {
    let stats = &report.stats;
    let mut out = START.to_owned();
    let title = format!("Store {}", escaped(&report.store));
    let _ = write!(
        out,
        "<html lang=\"en\"><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\n<style>{STYLE}</style>\n\
         <h1>{title}</h1>\n<p>As of {} UTC, by mif {}.</p>\n<dl>",
        seconds_time(report.time),
        env!("CARGO_PKG_VERSION")
    );
    let files = stats.file_bytes.packs + stats.file_bytes.indexes + stats.file_bytes.images;
    let numbers = [
        ("images", stats.images.to_string()),
        ("versions", stats.versions.to_string()),
        ("disks", size(stats.disk_bytes)),
        ("data on them", size(stats.data_bytes)),
        ("distinct data", size(stats.object_bytes)),
        ("the store", size(files)),
        ("unused in it", size(stats.garbage_bytes)),
    ];
    for (what, number) in numbers {
        let _ = write!(out, "<div><dt>{what}</dt><dd>{number}</dd></div>");
    }
    out.push_str("</dl>\n");
    let mut section = |title: &str, about: &str, body: &str| {
        let _ = write!(out, "<h2>{title}</h2>\n<p>{about}</p>\n{body}\n");
    };
    section(
        "Growth",
        "The data of all versions, in the order in which they were made, and what the store keeps for it.",
        &growth(&stats.growth),
    );
    section(
        "Sharing",
        "What the store keeps for each version: for it alone (dark), and for others too (light).",
        &shares(&stats.shares),
    );
    if let Some(similar) = &stats.similarity {
        let about = "The newest versions: bytes in both, in percent of bytes in either.";
        section("Similarity", about, &similarity(similar));
    }
    section(
        "Where the bytes are",
        "The distinct contents of the newest versions, by directory.",
        &treemap(&report.directories),
    );
    let mut table = "<table>".to_owned();
    for content in &report.largest {
        let images = if content.images == 1 { "image" } else { "images" };
        let _ = write!(
            table,
            "<tr><td>{}<td>{} {images}<td>{}",
            size(content.size),
            content.images,
            escaped(&content.path)
        );
    }
    table.push_str("</table>");
    section("Largest files", "In the newest versions, each content once.", &table);
    for damaged in &stats.damaged {
        let _ = writeln!(out, "<p>Left out: {}: {}</p>", escaped(&damaged.image), escaped(&damaged.problem));
    }
    out.push_str("</html>\n");
    out
}

/// Writes the page, whole or not at all. Only a page of this kind is replaced.
pub(super) fn write(path: &Path, page: &str) -> Result<()> {
    let failed = |e: io::Error| Error::io(path, &e);
    if !is_replaceable(path).map_err(failed)? {
        return Err(Error::input(format!(
            "{}: already exists and is not a page of mif stats",
            path.display()
        ))
        .advise("Move it away, or choose another name"));
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // An error in making a temporary file would name that.
    fs::metadata(directory).map_err(|e| Error::io(directory, &e))?;
    let mut file = tempfile::Builder::new().prefix(".mif-stats-").tempfile_in(directory).map_err(failed)?;
    file.write_all(page.as_bytes()).map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}

/// Returns true if the path does not exist or is such a page.
fn is_replaceable(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => {
            let mut start = Vec::new();
            File::open(path)?.take(START.len() as u64).read_to_end(&mut start)?;
            Ok(start == START.as_bytes())
        }
        Ok(_) => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_page_is_replaced_and_nothing_else_stays_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.html");
        write(&path, START).unwrap();
        write(&path, &format!("{START}x")).unwrap();
        fs::write(&path, "mine").unwrap();
        assert!(write(&path, START).is_err());
        assert!(write(folder.path(), START).is_err());
        assert!(write(&folder.path().join("no/such/a.html"), START).is_err());
        std::os::unix::fs::symlink(&path, folder.path().join("link")).unwrap();
        assert!(write(&folder.path().join("link"), START).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }
}
