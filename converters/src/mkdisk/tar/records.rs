//! The pax records of a member: its own, and the global ones, which all members share.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A key and its value.
pub(super) type Record = (Vec<u8>, Vec<u8>);

/// The records of one member.
#[derive(Debug, Clone, Default)]
pub(super) struct Records {
    global: Arc<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// In order of appearance.
    own: Vec<Record>,
}

impl Records {
    /// Returns records with these global ones and none of their own.
    pub(super) fn over(global: Arc<BTreeMap<Vec<u8>, Vec<u8>>>) -> Self {
        Records { global, own: Vec::new() }
    }

    /// Replaces the global records. A member's own records still take precedence.
    pub(super) fn set_global(&mut self, global: Arc<BTreeMap<Vec<u8>, Vec<u8>>>) {
        self.global = global;
    }

    pub(super) fn extend(&mut self, records: Vec<Record>) {
        self.own.extend(records);
    }

    /// Returns the value of a key: the member's last one, or else the global one.
    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let own = self.own.iter().rev().find(|(known, _)| known == key).map(|(_, value)| value);
        own.or_else(|| self.global.get(key)).map(Vec::as_slice)
    }

    /// Returns all records in ascending order of precedence.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let own = self.own.iter().map(|(key, value)| (key, value));
        self.global.iter().chain(own).map(|(key, value)| (&key[..], &value[..]))
    }

    /// Returns the member's own records in order.
    pub(super) fn own(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.own.iter().map(|(key, value)| (&key[..], &value[..]))
    }
}

/// Returns true if records with this key are used; the others are not stored.
pub(super) fn is_read(key: &[u8]) -> bool {
    const KEYS: [&[u8]; 6] = [b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"];
    const PREFIXES: [&[u8]; 4] = [b"SCHILY.", b"LIBARCHIVE.xattr.", b"RHT.security.", b"GNU.sparse."];
    KEYS.contains(&key) || PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_members_own_records_count_before_the_global_ones_and_the_last_before_the_first() {
        let record = |key: &str, value: &str| (key.as_bytes().to_vec(), value.as_bytes().to_vec());
        let global = Arc::new(BTreeMap::from([record("uid", "1"), record("gid", "2")]));
        let mut records = Records::over(global.clone());
        records.extend(vec![record("uid", "3"), record("uid", "4")]);
        assert_eq!((records.get(b"uid"), records.get(b"gid")), (Some(&b"4"[..]), Some(&b"2"[..])));
        assert_eq!(records.get(b"mtime"), None);
        assert_eq!(Arc::strong_count(&global), 2, "they are shared, not copied");
    }
}
