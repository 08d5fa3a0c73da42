//! The header of a store, `store.json`: the format, and the features that a reader must support.

use serde::{Deserialize, Serialize};

use super::Storage;
use crate::error::{Error, Result};

/// The version of the store format that this program reads and writes.
pub const FORMAT: u32 = 2;

/// The key of the header.
pub(super) const HEADER: &str = "store.json";

/// The feature of a store that has decoding lists.
pub(super) const DECODED: &str = "decoded";

/// The features of stores that this program supports.
const FEATURES: [&str; 1] = [DECODED];

/// The content of `store.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    /// Always `mif-store`.
    kind: String,
    /// [`FORMAT`].
    format: u32,
    /// Features that a reader must support, of [`FEATURES`].
    features: Vec<String>,
}

/// Returns the header of a new store.
pub(super) fn new() -> Vec<u8> {
    Header::new().to_json()
}

impl Header {
    fn new() -> Self {
        Header { kind: "mif-store".into(), format: FORMAT, features: Vec::new() }
    }

    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a header is JSON")
    }
}

/// Rewrites a missing or damaged header if packs and images exist, and returns a sentence that says so.
pub(super) fn repair(storage: &dyn Storage) -> Result<Option<String>> {
    let failed = |e: &std::io::Error| storage.error(HEADER, e);
    match storage.read_all(HEADER) {
        Ok(header) if serde_json::from_slice::<Header>(&header).is_ok() => return Ok(None),
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(&e)),
        _ => {}
    }
    let is_there = |folder| storage.list(folder).is_ok_and(|names| !names.is_empty());
    if !is_there("packs") || !is_there("images") {
        return Ok(None);
    }
    // It may have had any feature, and declaring one needlessly only excludes older versions.
    let header = Header { features: FEATURES.map(str::to_owned).to_vec(), ..Header::new() };
    storage.replace(HEADER, &header.to_json()).map_err(|e| failed(&e))?;
    Ok(Some("store.json: rewritten".to_owned()))
}

/// Adds a feature to the store's header unless it is there, so that older versions of mif refuse the store.
pub(super) fn require(storage: &dyn Storage, feature: &'static str) -> Result<()> {
    let failed = |e: std::io::Error| storage.error(HEADER, &e);
    let place = format!("{}/{HEADER}", storage.place());
    let mut header = parse(&place, &storage.read_all(HEADER).map_err(failed)?)?;
    if !header.features.iter().any(|known| known == feature) {
        header.features.push(feature.to_owned());
        storage.replace(HEADER, &header.to_json()).map_err(failed)?;
    }
    Ok(())
}

/// Returns a header with the features of all of these; fails with `NotFound` if there are none.
#[cfg(feature = "remote")]
pub(super) fn merged(headers: &[Vec<u8>]) -> std::io::Result<Vec<u8>> {
    let wrong =
        |e| std::io::Error::new(std::io::ErrorKind::InvalidData, format!("is not a valid store header: {e}"));
    let mut merged: Option<Header> = None;
    for bytes in headers {
        let header: Header = serde_json::from_slice(bytes).map_err(wrong)?;
        match &mut merged {
            None => merged = Some(header),
            Some(merged) => {
                merged.format = merged.format.max(header.format);
                merged.features.extend(header.features);
            }
        }
    }
    let mut merged = merged.ok_or(std::io::ErrorKind::NotFound)?;
    merged.features.sort_unstable();
    merged.features.dedup();
    Ok(merged.to_json())
}

fn parse(place: &str, header: &[u8]) -> Result<Header> {
    serde_json::from_slice(header)
        .map_err(|e| Error::store(format!("{place}: is not a valid store header: {e}")))
        .map_err(|e| e.advise("`mif fsck --repair` rewrites it"))
}

/// Checks that this program supports the store with this header.
pub(super) fn check(storage: &dyn Storage, header: &[u8]) -> Result<()> {
    let place = format!("{}/{HEADER}", storage.place());
    let header = parse(&place, header)?;
    if header.kind != "mif-store" {
        return Err(Error::input(format!("{place}: has the kind {:?}, expected mif-store", header.kind)));
    }
    let unknown = header.features.iter().find(|feature| !FEATURES.contains(&&***feature));
    if header.format != FORMAT || unknown.is_some() {
        return Err(Error::unsupported(format!(
            "{place}: the store has format {} with the features {:?}; this version of mif supports only format {FORMAT} with the features {FEATURES:?}",
            header.format, header.features
        ))
        .advise(match header.format < FORMAT {
            true => "It was made by an older version of mif: import its disks into a new store",
            false => "Use a newer version of mif",
        }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Memory;

    #[test]
    fn a_feature_is_added_once_and_an_unknown_one_is_refused_in_words() {
        let memory = Memory::new();
        memory.set(HEADER, Some(new()));
        for _ in 0..2 {
            require(&memory, DECODED).unwrap();
            let header = memory.files()[HEADER].to_vec();
            check(&memory, &header).unwrap();
            assert_eq!(parse("", &header).unwrap().features, [DECODED]);
        }
        let newer = br#"{"kind": "mif-store", "format": 2, "features": ["decoded", "telepathy"]}"#;
        let error = check(&memory, newer).unwrap_err().to_string();
        assert!(error.contains("telepathy") && error.contains("newer version"), "{error}");
    }
}
