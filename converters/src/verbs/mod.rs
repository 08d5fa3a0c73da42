//! The verbs: each a function from plain arguments to a report that serialises.

pub(crate) mod batch;
pub(crate) mod change;
pub(crate) mod inspect;
pub(crate) mod library;
pub(crate) mod transfer;
