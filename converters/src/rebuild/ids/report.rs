//! What fresh identities changed.

use serde::Serialize;

/// What fresh identities did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct IdsReport {
    /// Each identity that changed.
    pub changed: Vec<IdChange>,
    /// The files in which references were rewritten, as `volume:/path`.
    pub rewritten: Vec<String>,
    /// What still names an old identity, or may, each a sentence.
    pub left: Vec<String>,
}

/// An identity that changed.
#[derive(Debug, Clone, Serialize)]
pub struct IdChange {
    /// Whose: `disk`, `partition 1`, `p1`.
    pub of: String,
    /// What it was, as `blkid` prints it.
    pub old: String,
    /// The new value.
    pub new: String,
}
