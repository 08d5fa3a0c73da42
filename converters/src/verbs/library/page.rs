//! `stats --html`: what a page about a store shows: its statistics, its largest files, and the directories that they are in.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use mif_formats::fs::FileType;
use mif_formats::mif::ObjectId;
use mif_formats::mif::manifest::escape;
use serde::Serialize;

use super::stats::{StatsReport, stats};
use crate::error::Result;
use crate::notation;
use crate::store::Store;
use crate::task::progress::{self, Progress};

/// The maximum number of contents that are named.
const LARGEST: usize = 25;

/// The maximum number of directories that are named; the others count as one.
const DIRECTORIES: usize = 80;

/// What a page about a store shows.
#[derive(Debug, Clone, Serialize)]
pub struct PageReport {
    /// The store.
    pub store: String,
    /// When this was computed, in seconds since 1970.
    #[serde(serialize_with = "notation::seconds")]
    pub time: u64,
    /// The statistics, with the similarity of images.
    pub stats: StatsReport,
    /// The largest contents of files in the newest versions, the largest first.
    pub largest: Vec<LargeContent>,
    /// The bytes of distinct contents by directory, the largest first.
    pub directories: Vec<DirectoryBytes>,
}

/// A content of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LargeContent {
    /// Its size in bytes.
    pub size: u64,
    /// The first path that has it.
    pub path: String,
    /// The number of images that have it.
    pub images: u64,
}

/// The distinct contents of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DirectoryBytes {
    /// The first two names of the path; `None` for all directories that are not named.
    pub directory: Option<String>,
    /// Their bytes. A content with several paths counts under the first.
    pub bytes: u64,
    /// How many there are.
    pub contents: u64,
}

/// A content while images are read.
struct Content {
    size: u64,
    path: String,
    images: u64,
    last_image: usize,
}

/// Gathers what a page about a store shows.
pub fn page(store: &Store, progress: &dyn Progress) -> Result<PageReport> {
    let mut stats = stats(store, true, progress)?;
    let images = store.images()?.0;
    let is_newest = |i: &usize| images.get(i + 1).is_none_or(|next| next.name != images[*i].name);
    let newest: Vec<usize> = (0..images.len()).filter(is_newest).collect();
    let mut contents: HashMap<ObjectId, Content> = HashMap::new();
    progress.stage("reading manifests", 0);
    for (number, image) in newest.into_iter().map(|i| &images[i]).enumerate() {
        progress::check(progress)?;
        let rows = store.version(&image.name, image.version).and_then(|stored| stored.manifest());
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => {
                let damaged = crate::store::DamagedImage::new(&image.name, image.version, &error);
                if stats.damaged.iter().all(|known| known.image != damaged.image) {
                    stats.damaged.push(damaged);
                }
                continue;
            }
        };
        for row in rows.iter().filter(|row| row.node.file_type == FileType::File && row.node.size > 0) {
            let Some(object) = row.object() else { continue };
            let content = contents.entry(object).or_insert_with(|| Content {
                size: row.node.size,
                path: escape(&row.full_path()),
                images: 0,
                last_image: usize::MAX,
            });
            if content.last_image != number {
                content.last_image = number;
                content.images += 1;
            }
        }
    }
    let mut contents: Vec<Content> = contents.into_values().collect();
    contents.sort_unstable_by(|a, b| (b.size, &a.path).cmp(&(a.size, &b.path)));
    let directories = directories(&contents);
    contents.truncate(LARGEST);
    let largest = contents.into_iter().map(|c| LargeContent { size: c.size, path: c.path, images: c.images });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Ok(PageReport {
        store: store.storage().place(),
        time: now,
        stats,
        largest: largest.collect(),
        directories,
    })
}

/// Sums contents by the first two names of their paths.
fn directories(contents: &[Content]) -> Vec<DirectoryBytes> {
    let mut sums: HashMap<String, (u64, u64)> = HashMap::new();
    for content in contents {
        let names: Vec<&str> = content.path.split('/').skip(1).collect();
        let depth = names.len().saturating_sub(1).min(2);
        let sum = sums.entry(format!("/{}", names[..depth].join("/"))).or_default();
        *sum = (sum.0.saturating_add(content.size), sum.1 + 1);
    }
    let mut sums: Vec<DirectoryBytes> = sums
        .into_iter()
        .map(|(directory, (bytes, contents))| DirectoryBytes { directory: Some(directory), bytes, contents })
        .collect();
    sums.sort_unstable_by(|a, b| (b.bytes, &a.directory).cmp(&(a.bytes, &b.directory)));
    if sums.len() > DIRECTORIES {
        let rest = sums.split_off(DIRECTORIES);
        let bytes = rest.iter().fold(0u64, |sum, rest| sum.saturating_add(rest.bytes));
        let contents = rest.iter().map(|rest| rest.contents).sum();
        sums.push(DirectoryBytes { directory: None, bytes, contents });
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_counts_under_the_first_two_names_of_its_path() {
        let content = |path: &str, size| Content { size, path: path.into(), images: 1, last_image: 0 };
        let sums = directories(&[
            content("/usr/lib/x/a", 5),
            content("/usr/lib/b", 3),
            content("/usr/c", 2),
            content("/d", 1),
        ]);
        let told: Vec<_> = sums.iter().map(|sum| (sum.directory.as_deref().unwrap(), sum.bytes)).collect();
        assert_eq!(told, [("/usr/lib", 8), ("/usr", 2), ("/", 1)]);
        let many: Vec<Content> = (0..200).map(|i| content(&format!("/{i}/x"), 1)).collect();
        let sums = directories(&many);
        assert_eq!(sums.len(), DIRECTORIES + 1);
        assert_eq!(sums.iter().map(|sum| sum.bytes).sum::<u64>(), 200);
    }
}
