//! The tables beside a manifest.

use std::sync::Arc;

use mif_formats::mif::digests;
use mif_formats::mif::manifest::Row;
use mif_formats::partition::Table;

use crate::error::Result;
use crate::guest::packages;
use crate::store::{PACKAGES, Store, VolumeRecord};
use crate::tree::mounts::Devices;

/// The files derived from a manifest.
pub(crate) struct Tables {
    digests: Vec<u8>,
    packages: Vec<u8>,
    /// Warnings about what could not be read, as sentences.
    pub(crate) complaints: Vec<String>,
}

impl Tables {
    /// Makes the tables of an image with these rows, whose content is in the store.
    pub(crate) fn new(
        store: &Store,
        rows: Vec<Row>,
        table: &Table,
        volumes: &[VolumeRecord],
    ) -> Result<Self> {
        let digests = digests::encode(&rows);
        let devices = Devices { table, volumes };
        let (packages, complaints) = packages::table(rows, &Arc::new(store.objects()?), devices)?;
        Ok(Tables { digests, packages, complaints })
    }

    /// Returns the files by name.
    pub(crate) fn files(&self) -> [(&'static str, &[u8]); 2] {
        [("digests", &self.digests), (PACKAGES, &self.packages)]
    }
}
