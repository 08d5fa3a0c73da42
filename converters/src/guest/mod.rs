//! What an image reveals about itself: packages, operating system, ways to boot.

pub(crate) mod accounts;
pub(crate) mod boot;
pub(crate) mod ini;
pub(crate) mod os;
pub(crate) mod packages;
pub(crate) mod pe;
pub(crate) mod probe;
mod registry;
pub(crate) mod system;
pub(crate) mod versions;
mod windows;
