//! When the store was checked last, and how that ended: a note for people, which `fsck` and `verify --all` leave in
//! `checked.json`. Nothing is ever decided by it: a store that was whole then may be damaged now.

use mif_formats::text::printable;
use serde::{Deserialize, Serialize};

use super::Store;

const KEY: &str = "checked.json";

/// The last check of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastCheck {
    /// The verb that checked it.
    pub verb: String,
    /// How it ended: `whole`, or another word.
    pub verdict: String,
    /// When, in seconds since 1970.
    pub time: u64,
    /// The version of mif that checked it.
    pub tool: String,
}

impl Store {
    /// Records how a check ended. If the store cannot be written, nothing is recorded, and the check does not fail.
    pub fn note_check(&self, verb: &str, verdict: &str) {
        let tool = env!("CARGO_PKG_VERSION").to_owned();
        let (verb, verdict) = (verb.to_owned(), verdict.to_owned());
        let note = LastCheck { verb, verdict, time: self.storage().now(), tool };
        let mut json = serde_json::to_vec(&note).expect("a note is JSON");
        json.push(b'\n');
        let _is_only_a_note = self.storage().replace(KEY, &json);
    }

    /// Returns the last check, if there is a note that can be read.
    #[must_use]
    pub fn last_check(&self) -> Option<LastCheck> {
        let mut note: LastCheck = serde_json::from_slice(&self.storage().read_all(KEY).ok()?).ok()?;
        for text in [&mut note.verb, &mut note.verdict, &mut note.tool] {
            *text = printable(text);
        }
        Some(note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::progress::Silent;

    #[test]
    fn the_last_note_is_read_and_a_damaged_one_counts_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(&folder.path().join("store"), &Silent).unwrap();
        assert_eq!(store.last_check(), None);
        store.note_check("fsck", "whole");
        store.note_check("verify --all", "damaged");
        let note = store.last_check().unwrap();
        assert_eq!((&note.verb[..], &note.verdict[..]), ("verify --all", "damaged"));
        assert_eq!(crate::store::strangers(&**store.storage()).unwrap().1, 0);
        let long = format!("{{\"verb\":\"{}\"}}", "x".repeat(5000));
        for text in ["", "{}", "[", "{\"verb\":1}", "\u{0}", &long] {
            store.storage().replace(KEY, text.as_bytes()).unwrap();
            assert_eq!(store.last_check(), None, "{text}");
        }
        let hostile = r#"{"verb":"\u001b[2J","verdict":"a\nb","time":18446744073709551615,"tool":""}"#;
        store.storage().replace(KEY, hostile.as_bytes()).unwrap();
        let note = store.last_check().unwrap();
        assert!(!note.verb.contains('\u{1b}') && !note.verdict.contains('\n'), "{note:?}");
    }
}
