//! GRUB: its core image, and its configuration run far enough to know what it boots.

pub(super) mod bls;
mod commands;
pub(crate) mod core;
mod devices;
pub(crate) mod image;
pub(super) mod run;
mod script;
pub(crate) mod state;
