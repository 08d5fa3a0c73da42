//! The names of the files of a store's catalog.
//!
//! ```text
//! catalog/images.parquet                          which images are in it
//! catalog/<table>-<segment>-<part>.parquet        rows of a table
//! catalog/<table>-<segment>-<part>.sums           their checksums
//! ```
//!
//! A segment is named by the epoch in which its writer was in the store, and 16 hex digits: `7-0123456789abcdef`.

use super::storage::number;

/// The directory of the catalog.
pub(crate) const CATALOG: &str = "catalog";

/// The table of the images that are in the catalog.
pub(crate) const CATALOG_IMAGES: &str = "catalog/images.parquet";

const TABLES: [&str; 3] = ["files", "digests", "packages"];

/// Returns the key of a file with rows of a table.
pub(crate) fn catalog_key(table: &str, segment: &str, part: usize) -> String {
    format!("{CATALOG}/{table}-{segment}-{part}.parquet")
}

/// Returns the key of the checksums of such a file.
pub(crate) fn catalog_sums_key(key: &str) -> String {
    format!("{}.sums", key.strip_suffix(".parquet").unwrap_or(key))
}

/// Returns the segment of a file, by its name in the directory, and the epoch of its writer; `None` if it is not a file of a
/// segment.
pub(crate) fn catalog_segment(name: &str) -> Option<(&str, u64)> {
    let name = name.strip_suffix(".parquet").or_else(|| name.strip_suffix(".sums"))?;
    let (table, rest) = name.split_once('-')?;
    let (segment, part) = rest.rsplit_once('-')?;
    number::<usize>(part).filter(|_| TABLES.contains(&table))?;
    Some((segment, catalog_epoch(segment)?))
}

/// Returns the epoch in the name of a segment; `None` if it is not such a name.
pub(crate) fn catalog_epoch(segment: &str) -> Option<u64> {
    let (epoch, random) = segment.split_once('-')?;
    let is_random = random.len() == 16 && random.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    number(epoch).filter(|_| is_random)
}

/// Returns true if the catalog has files of this name.
pub(super) fn is_of_catalog(name: &str) -> bool {
    format!("{CATALOG}/{name}") == CATALOG_IMAGES || catalog_segment(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_segments_are_told_from_others() {
        let key = catalog_key("digests", "12-0123456789abcdef", 3);
        assert_eq!(key, "catalog/digests-12-0123456789abcdef-3.parquet");
        for name in [key.clone(), catalog_sums_key(&key)] {
            let name = name.strip_prefix("catalog/").unwrap();
            assert_eq!(catalog_segment(name), Some(("12-0123456789abcdef", 12)));
        }
        for name in [
            "images.parquet",
            "files-1-0123456789abcdef.parquet",
            "files-1-0123456789ABCDEF-0.parquet",
            "files-01-0123456789abcdef-0.parquet",
            "files-1-0123456789abcdef-00.parquet",
            "other-1-0123456789abcdef-0.parquet",
            "files-1-0123456789abcdef-0.txt",
            "files-1-../../../../etc0-0.sums",
        ] {
            assert_eq!(catalog_segment(name), None, "{name}");
        }
    }
}
