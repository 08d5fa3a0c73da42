//! The ext reader, held against the kernel's driver and e2fsprogs.

mod dirty;
mod features;
mod kernel;
#[allow(dead_code)]
mod tools;
mod view;
