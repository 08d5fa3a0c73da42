//! The verbs: each is a function from plain arguments to a serialisable report.

pub(crate) mod batch;
pub(crate) mod change;
pub(crate) mod check;
pub(crate) mod choose;
pub(crate) mod inspect;
pub(crate) mod library;
pub(crate) mod transfer;
