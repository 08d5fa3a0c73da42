//! Lists of packs, as text: an id a line.

use std::collections::BTreeSet;

use mif_formats::mif::PackId;

/// The packs that a list names. A line that is damaged names none.
pub(super) fn decode(text: &[u8]) -> BTreeSet<PackId> {
    String::from_utf8_lossy(text).lines().filter_map(PackId::from_hex).collect()
}

/// The list of some packs.
pub(super) fn encode(packs: &BTreeSet<PackId>) -> String {
    packs.iter().map(|pack| format!("{pack}\n")).collect()
}
