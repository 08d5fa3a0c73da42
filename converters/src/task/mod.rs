//! Long work: a pool of threads, and the trait for reporting progress and for interruption.

pub(crate) mod pool;
pub(crate) mod progress;
