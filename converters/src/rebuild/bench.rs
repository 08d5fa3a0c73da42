//! Where a rebuild reads objects, and where it puts new ones.

use std::sync::Arc;

use tempfile::TempDir;

use crate::store::{Index, ObjectWriter, Objects, Store};
use crate::{Error, Result};

/// Where a rebuild reads objects, and where it puts new ones.
pub(crate) enum Bench<'s> {
    /// Both in a store.
    Store(&'s Store),
    /// Objects of a store, with new ones in a folder that goes away.
    Scratch {
        /// The store's.
        below: Arc<Objects>,
        /// The folder.
        scratch: Box<Store>,
        /// Removes it at the end.
        _folder: TempDir,
    },
}

impl Bench<'_> {
    /// One that leaves a store as it is.
    pub(crate) fn scratch(below: Arc<Objects>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("mif-").tempdir();
        let folder = folder.map_err(|e| Error::io(&std::env::temp_dir(), &e))?;
        let scratch = Box::new(Store::open_or_create(folder.path())?);
        Ok(Bench::Scratch { below, scratch, _folder: folder })
    }

    /// Adds objects; they can be read when it is finished.
    pub(crate) fn writer(&self) -> Result<ObjectWriter> {
        match self {
            Bench::Store(store) => ObjectWriter::new(store),
            Bench::Scratch { scratch, .. } => ObjectWriter::new(scratch),
        }
    }

    /// All objects that are there now.
    pub(crate) fn objects(&self) -> Result<Arc<Objects>> {
        let store = match self {
            Bench::Store(store) => store,
            Bench::Scratch { scratch, .. } => &**scratch,
        };
        let index = Arc::new(Index::load(&**store.storage())?);
        let objects = Objects::new(store.storage().clone(), index);
        Ok(Arc::new(match self {
            Bench::Store(_) => objects,
            Bench::Scratch { below, .. } => objects.over(below.clone()),
        }))
    }
}
