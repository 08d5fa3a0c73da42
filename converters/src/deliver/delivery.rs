//! What is delivered.

use mif_formats::Source;
use mif_formats::container::{CreateOptions, Format};

use crate::guest::system::System;

/// A disk, and what an archive around it says of it.
pub(crate) struct Delivery<'a> {
    /// The disk.
    pub(crate) disk: &'a dyn Source,
    /// Its container format.
    pub(crate) format: &'a dyn Format,
    /// The options of that format.
    pub(crate) options: &'a CreateOptions,
    /// The image's name.
    pub(crate) name: &'a str,
    /// The system on it.
    pub(crate) system: &'a System,
}
