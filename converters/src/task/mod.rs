//! Long work: a pool of threads, and the trait through which a caller follows progress and interrupts.

pub(crate) mod pool;
pub(crate) mod progress;
