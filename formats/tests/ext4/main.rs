//! The ext reader, held against the kernel's driver and e2fsprogs.

mod dirty;
mod kernel;
mod tools;
mod view;
