//! What a criterion keeps of a column, for columns that many images have in common.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use mif_formats::mif::manifest::columns::{Column, ColumnId, Group};

/// How many row numbers are kept at most: 64 MiB of them.
const MAX_ROWS: usize = 16 << 20;

/// The rows of columns that match a criterion of one search. Clones have most columns in common, so each is searched once.
#[derive(Default)]
pub(super) struct Known(Mutex<Rows>);

#[derive(Default)]
struct Rows {
    of: HashMap<(Criterion, ColumnId), Arc<[u32]>>,
    count: usize,
}

/// A criterion of a search that looks at one column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Criterion {
    Path,
    Mode,
    ModeAny,
    Uid,
    Gid,
    Size,
    Mtime,
    Type,
}

impl Criterion {
    pub(super) fn column(self) -> Column {
        match self {
            Criterion::Path => Column::Path,
            Criterion::Mode | Criterion::ModeAny => Column::Mode,
            Criterion::Uid => Column::Uid,
            Criterion::Gid => Column::Gid,
            Criterion::Size => Column::Size,
            Criterion::Mtime => Column::Mtime,
            Criterion::Type => Column::Type,
        }
    }
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().expect("no thread panics while it holds this")
    }

    /// Returns the rows of a group that match a criterion, ascending: those of an equal column, or what `find` finds.
    pub(super) fn rows(
        &self,
        group: &Group<'_>,
        criterion: Criterion,
        find: impl FnOnce() -> mif_formats::Result<Vec<u32>>,
    ) -> mif_formats::Result<Arc<[u32]>> {
        let key = group.identity(criterion.column()).map(|id| (criterion, id));
        if let Some(known) = key.and_then(|key| self.lock().of.get(&key).cloned()) {
            return Ok(known);
        }
        let found: Arc<[u32]> = find()?.into();
        if let Some(key) = key {
            let mut known = self.lock();
            if known.count + found.len() <= MAX_ROWS && known.of.len() < MAX_ROWS / 64 {
                known.count += found.len();
                known.of.insert(key, found.clone());
            }
        }
        Ok(found)
    }
}
