//! What is delivered.

use mif_formats::Source;
use mif_formats::container::{CreateOptions, Format};

use mif_formats::text::printable;

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
    /// The image that it is made from: `name@version`, or a file.
    pub(crate) image: &'a str,
    /// The digest of that image's layout, if it is in a store.
    pub(crate) layout_digest: Option<&'a str>,
    /// The target's name.
    pub(crate) target: &'a str,
}

impl Delivery<'_> {
    /// Says what the disk was made from and for, for people who find it. Always the same for an image and a target.
    pub(super) fn origin(&self) -> String {
        let layout = self.layout_digest.map_or_else(String::new, |digest| format!(" (layout {digest})"));
        format!("Made by mif from {}{layout} by the rules of {}", printable(self.image), self.target)
    }
}
