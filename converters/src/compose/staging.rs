//! Where a rebuild reads objects and puts new ones.

use std::sync::Arc;

use mif_formats::mif::layout::Layout;
use tempfile::TempDir;

use super::canonical::canonical;
use crate::error::Result;
use crate::store::{ObjectWriter, Objects, Store, WriterStats};
use crate::task::progress::Silent;

/// Where a rebuild reads objects and puts new ones.
pub(crate) enum Bench<'s> {
    /// A store, for both.
    Store(&'s Store),
    /// A store for reading, and a temporary directory for new objects.
    Scratch {
        /// The objects of the store.
        below: Arc<Objects>,
        /// The store in the temporary directory.
        scratch: Box<Store>,
        /// Removes the directory on drop.
        _folder: TempDir,
    },
}

impl Bench<'_> {
    /// Returns a bench that leaves the store unchanged.
    pub(crate) fn scratch(below: Arc<Objects>) -> Result<Self> {
        let folder = crate::host::temporary::directory()?;
        let scratch = Box::new(Store::open_or_create(folder.path(), &Silent)?);
        Ok(Bench::Scratch { below, scratch, _folder: folder })
    }

    /// Returns a writer for objects that are missing. They can be read once it is finished.
    pub(crate) fn writer(&self) -> Result<ObjectWriter> {
        ObjectWriter::new(self.store())
    }

    /// Returns the store for new objects.
    fn store(&self) -> &Store {
        match self {
            Bench::Store(store) => store,
            Bench::Scratch { scratch, .. } => scratch,
        }
    }

    /// Returns all objects that exist now.
    pub(crate) fn objects(&self) -> Result<Arc<Objects>> {
        let objects = self.store().objects()?;
        Ok(Arc::new(match self {
            Bench::Store(_) => objects,
            Bench::Scratch { below, .. } => objects.over(below.clone()),
        }))
    }

    /// Finishes writing the objects of `layouts`, and makes the layouts canonical. `objects` must come from this bench,
    /// so that they include the new ones.
    pub(crate) fn finish<'l>(
        &self,
        writer: ObjectWriter,
        objects: &Arc<Objects>,
        layouts: impl IntoIterator<Item = &'l mut Arc<Layout>>,
    ) -> Result<WriterStats> {
        let added = writer.finish()?;
        let writer = self.writer()?;
        for layout in layouts {
            if let Some(canonical) = canonical(layout, objects, &writer)? {
                *layout = Arc::new(canonical);
            }
        }
        Ok(added.with(writer.finish()?))
    }
}
