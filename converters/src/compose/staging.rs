//! Where a rebuild reads objects, and where it puts new ones.

use std::sync::Arc;

use mif_formats::mif::layout::Layout;
use tempfile::TempDir;

use super::canonical::canonical;
use crate::error::Result;
use crate::store::{ObjectWriter, Objects, Store, WriterStats};
use crate::task::progress::Silent;

/// Where a rebuild reads objects, and where it puts new ones.
pub(crate) enum Bench<'s> {
    /// Both in a store.
    Store(&'s Store),
    /// Objects of a store, with new ones in a directory that goes away.
    Scratch {
        /// The store's.
        below: Arc<Objects>,
        /// The directory.
        scratch: Box<Store>,
        /// Removes it at the end.
        _folder: TempDir,
    },
}

impl Bench<'_> {
    /// One that leaves a store as it is.
    pub(crate) fn scratch(below: Arc<Objects>) -> Result<Self> {
        let folder = crate::host::temporary::directory()?;
        let scratch = Box::new(Store::open_or_create(folder.path(), &Silent)?);
        Ok(Bench::Scratch { below, scratch, _folder: folder })
    }

    /// Adds what is lacking; it can be read when that is finished.
    pub(crate) fn writer(&self) -> Result<ObjectWriter> {
        ObjectWriter::new(self.store())
    }

    /// Where new ones go.
    fn store(&self) -> &Store {
        match self {
            Bench::Store(store) => store,
            Bench::Scratch { scratch, .. } => scratch,
        }
    }

    /// All objects that are there now.
    pub(crate) fn objects(&self) -> Result<Arc<Objects>> {
        let objects = self.store().objects()?;
        Ok(Arc::new(match self {
            Bench::Store(_) => objects,
            Bench::Scratch { below, .. } => objects.over(below.clone()),
        }))
    }

    /// Ends the writing of what `layouts` refer to, and makes them canonical. `objects` are the bench's: they see what was
    /// added.
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
