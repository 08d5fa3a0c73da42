//! Composing an edited disk: new bytes spliced over old ones, in canonical form, staged and published.

pub(crate) mod canonical;
pub(crate) mod made;
pub(crate) mod planner;
#[cfg(test)]
mod properties;
pub(crate) mod splice;
pub(crate) mod staging;
