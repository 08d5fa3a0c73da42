//! Long work: threads that take its pieces, and who is told of its progress and may stop it.

pub(crate) mod pool;
pub(crate) mod progress;
