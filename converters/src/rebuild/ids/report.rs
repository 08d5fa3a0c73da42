//! The effects of new identities.

use serde::Serialize;

/// The effects of new identities.
#[derive(Debug, Clone, Default, Serialize)]
pub struct IdsReport {
    /// Each identity that changed.
    pub changed: Vec<IdChange>,
    /// The files in which references were rewritten, as `volume:/path`.
    pub rewritten: Vec<String>,
    /// What still contains an old identity, or may contain one, each a sentence.
    pub left: Vec<String>,
}

/// An identity that changed.
#[derive(Debug, Clone, Serialize)]
pub struct IdChange {
    /// The owner: `disk`, `partition 1`, `p1`.
    pub of: String,
    /// The old value, as `blkid` prints it.
    pub old: String,
    /// The new value.
    pub new: String,
}
