//! Composes an edited disk: splices new bytes over old ones, makes the layout canonical, stages and publishes it.

pub(crate) mod canonical;
pub(crate) mod made;
pub(crate) mod planner;
#[cfg(test)]
mod properties;
pub(crate) mod splice;
pub(crate) mod staging;
