//! What a search has found in a column, for columns that many images have in common.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use mif_formats::mif::manifest::columns::{Column, ColumnId, Group};

/// How many row numbers are kept at most: 64 MiB of them.
const MAX_ROWS: usize = 16 << 20;

/// How many columns are kept at most, of each kind of finding.
const MAX_KNOWN: usize = 1 << 18;

/// Of how many rows the values are kept at most, for each list of rows.
const FEW_ROWS: usize = 64;

/// What one search has found in columns. Clones have most columns in common, so each is searched once.
#[derive(Default)]
pub(super) struct Known {
    matches: Mutex<Matches>,
    texts: Values<String>,
    numbers: Values<Option<i64>>,
}

/// The rows of columns that match a criterion.
#[derive(Default)]
struct Matches {
    of: HashMap<(Criterion, ColumnId), Arc<[u32]>>,
    count: usize,
}

/// The values of some rows of columns.
type Values<T> = Mutex<HashMap<(ColumnId, Vec<usize>), Vec<T>>>;

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
    fn lock(&self) -> MutexGuard<'_, Matches> {
        self.matches.lock().expect("no thread panics while it holds this")
    }

    /// Returns the texts of some rows of a required column.
    pub(super) fn texts(
        &self,
        group: &Group<'_>,
        column: Column,
        rows: &[usize],
    ) -> mif_formats::Result<Vec<String>> {
        values(&self.texts, group, column, rows, || texts(group, column, rows))
    }

    /// Returns the numbers of some rows of a column.
    pub(super) fn numbers(
        &self,
        group: &Group<'_>,
        column: Column,
        rows: &[usize],
    ) -> mif_formats::Result<Vec<Option<i64>>> {
        values(&self.numbers, group, column, rows, || group.numbers_at(column, rows))
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
            if known.count + found.len() <= MAX_ROWS && known.of.len() < MAX_KNOWN {
                known.count += found.len();
                known.of.insert(key, found.clone());
            }
        }
        Ok(found)
    }
}

/// Returns the values of some rows: those of an equal column, or what `read` returns.
fn values<T: Clone>(
    known: &Values<T>,
    group: &Group<'_>,
    column: Column,
    rows: &[usize],
    read: impl FnOnce() -> mif_formats::Result<Vec<T>>,
) -> mif_formats::Result<Vec<T>> {
    let lock = || known.lock().expect("no thread panics while it holds this");
    let id = if rows.len() <= FEW_ROWS { group.identity(column) } else { None };
    let key = id.map(|id| (id, rows.to_vec()));
    if let Some(known) = key.as_ref().and_then(|key| lock().get(key).cloned()) {
        return Ok(known);
    }
    let read = read()?;
    let mut known = lock();
    if let Some(key) = key
        && known.len() < MAX_KNOWN
    {
        known.insert(key, read.clone());
    }
    Ok(read)
}

/// Reads the texts of some rows of a required column.
pub(super) fn texts(group: &Group<'_>, column: Column, rows: &[usize]) -> mif_formats::Result<Vec<String>> {
    let texts = group.texts_at(column, rows)?;
    Ok(texts.iter().map(|text| String::from_utf8_lossy(text.data()).into_owned()).collect())
}
