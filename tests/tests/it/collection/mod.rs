//! The tests of `make collection`: half an hour of real Debian disks.

mod bootable;
mod boots;
mod filesystems;
mod library;
mod logins;
mod publishing;
