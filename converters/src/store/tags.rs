//! Tags: names for versions. Moving a tag adds a new numbered value, so a reader sees the old one or the new.

use serde::Serialize;

use super::{ImageName, Store};
use crate::error::{Error, Result};

/// A tag of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tag {
    /// The image's name.
    pub name: String,
    /// The tag.
    pub tag: String,
    /// The version that it names.
    pub version: u32,
}

fn folder(name: &str, tag: &str) -> String {
    format!("tags/name={name}/tag={tag}")
}

impl Store {
    /// Returns the tags of an image, sorted.
    pub fn tags(&self, name: &str) -> Result<Vec<Tag>> {
        let mut tags = Vec::new();
        for entry in self.list_keys(&format!("tags/name={name}"))? {
            let Some(tag) = entry.strip_prefix("tag=") else { continue };
            if let Some(version) = self.tagged(name, tag)? {
                tags.push(Tag { name: name.to_owned(), tag: tag.to_owned(), version });
            }
        }
        Ok(tags)
    }

    /// Returns the version that a tag names.
    pub fn tagged(&self, name: &str, tag: &str) -> Result<Option<u32>> {
        // A value can be replaced between listing and reading: then the next listing has a newer one.
        for _ in 0..100 {
            let Some(newest) = self.tag_values(name, tag)?.pop() else { return Ok(None) };
            let key = format!("{}/{newest}", folder(name, tag));
            let failed =
                |problem: String| Error::store(format!("{}/{key}: {problem}", self.storage().place()));
            match self.storage().read_all(&key) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(self.storage().error(&key, &e)),
                Ok(text) => {
                    let version = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
                    return version.map(Some).ok_or_else(|| failed("is not a version number".into()));
                }
            }
        }
        Err(Error::store(format!("{name}@{tag}: changes faster than it can be read")))
    }

    /// Returns the numbers of a tag's values in ascending order.
    fn tag_values(&self, name: &str, tag: &str) -> Result<Vec<u64>> {
        let mut values: Vec<u64> =
            self.list_keys(&folder(name, tag))?.iter().filter_map(|n| n.parse().ok()).collect();
        values.sort_unstable();
        Ok(values)
    }

    /// Makes `tag` name a version. Moves it if it already exists.
    pub fn set_tag(&self, name: &str, tag: &str, version: u32) -> Result<Tag> {
        let number_alone = tag.bytes().all(|b| b.is_ascii_digit());
        if !ImageName::is_valid(tag) || number_alone {
            return Err(Error::usage(format!("invalid tag \"{tag}\""))
                .advise("A tag may contain letters, digits and . _ + -, and must not be a number"));
        }
        let folder = folder(name, tag);
        let failed = |e: std::io::Error| self.storage().error(&folder, &e);
        loop {
            let before = self.tag_values(name, tag)?;
            let next = before.last().copied().unwrap_or(0).checked_add(1).ok_or_else(|| {
                Error::store(format!("{name}@{tag}: cannot be moved again: all its numbers are used up"))
                    .advise(format!("`mif tag --delete {name}@{tag}` removes the tag"))
            })?;
            let key = format!("{folder}/{next}");
            if self.storage().put_if_absent(&key, format!("{version}\n").as_bytes()).map_err(failed)? {
                for old in before {
                    self.storage().delete(&format!("{folder}/{old}")).map_err(failed)?;
                }
                return Ok(Tag { name: name.to_owned(), tag: tag.to_owned(), version });
            }
        }
    }

    /// Removes a tag, and returns true if it existed.
    pub fn remove_tag(&self, name: &str, tag: &str) -> Result<bool> {
        let there = self.tagged(name, tag)?.is_some();
        let folder = folder(name, tag);
        self.storage().delete(&folder).map_err(|e| self.storage().error(&folder, &e))?;
        Ok(there)
    }

    fn list_keys(&self, folder: &str) -> Result<Vec<String>> {
        self.storage().list(folder).map_err(|e| self.storage().error(folder, &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::progress::Silent;

    #[test]
    fn a_tag_stands_for_the_version_that_was_set_last() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(&folder.path().join("store"), &Silent).unwrap();
        assert_eq!(store.tagged("web", "golden").unwrap(), None);
        for version in [1, 7, 3] {
            store.set_tag("web", "golden", version).unwrap();
            assert_eq!(store.tagged("web", "golden").unwrap(), Some(version));
        }
        assert_eq!(store.tags("web").unwrap().len(), 1);
        assert!(store.set_tag("web", "12", 1).is_err());
        assert!(store.remove_tag("web", "golden").unwrap());
        assert!(!store.remove_tag("web", "golden").unwrap());
        assert_eq!(store.tags("web").unwrap(), []);
    }
}
