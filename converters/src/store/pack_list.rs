//! Lists of packs as text: one id per line.

use std::collections::BTreeSet;

use mif_formats::mif::PackId;

/// Parses a list of packs. Damaged lines are skipped.
pub(super) fn decode(text: &[u8]) -> BTreeSet<PackId> {
    String::from_utf8_lossy(text).lines().filter_map(PackId::from_hex).collect()
}

/// Formats a list of packs.
pub(super) fn encode(packs: &BTreeSet<PackId>) -> String {
    packs.iter().map(|pack| format!("{pack}\n")).collect()
}
