//! Listing a whole volume.
