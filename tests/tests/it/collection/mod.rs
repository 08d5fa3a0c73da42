//! What `make collection` runs: half an hour of real Debian disks.

mod boots;
mod library;
