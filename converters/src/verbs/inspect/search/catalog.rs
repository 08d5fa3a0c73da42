//! Searches the images that are in the catalog of the store, all at once.

use std::collections::BTreeSet;

use mif_formats::mif::catalog::{Covered, Kind};
use mif_formats::mif::manifest::columns::Group;

use super::glob::PathGlob;
use super::query::{Hit, Query};
use super::rows::{ManyPoints, Rows, Shown, describe};
use crate::catalog::Points;
use crate::error::Result;
use crate::store::Store;
use crate::task::progress::Progress;
use crate::verbs::inspect::covered::{Files, Found, Question, Wanted, ask};

/// Searches those of `images` that are in the catalog. Returns the hits of each, in the order of its manifest.
///
/// # Errors
/// Only if the search is interrupted. Whatever the catalog cannot answer is left out.
pub(super) fn search(
    store: &Store,
    images: &[(String, u32)],
    query: &Query,
    progress: &dyn Progress,
) -> Result<Found<Hit>> {
    // The table of digests has no extended attributes.
    if query.contents.is_some() && query.xattr.is_some() {
        return Ok(Found::new());
    }
    ask(store, images, query, progress)
}

impl Query {
    fn is_by_path(&self) -> bool {
        self.path.as_ref().is_some_and(PathGlob::is_for_whole_paths)
    }
}

impl Question for Query {
    type Row = Hit;
    /// Where its system shows its volumes.
    type OfImage = Points;
    type Prepared<'a> = ManyPoints<'a>;

    fn kind(&self) -> Kind {
        if self.contents.is_some() { Kind::Digests } else { Kind::Files }
    }

    fn files(&self) -> Files {
        Files { record: self.is_by_path(), digests: self.contents.is_some(), packages: false }
    }

    fn of_image(&self, image: &Covered) -> Option<Points> {
        // Without a pattern for whole paths, it does not matter where a system shows its volumes.
        match (self.is_by_path(), &image.mounts) {
            (false, _) => Some(Points::new()),
            (true, mounts) => serde_json::from_str(mounts.as_deref()?).ok(),
        }
    }

    fn prepare<'a>(&self, images: &'a [Wanted<'_, Points>]) -> ManyPoints<'a> {
        let all: BTreeSet<_> =
            images.iter().flat_map(|image| image.known.values().flatten().cloned()).collect();
        let with_points = images.iter().filter(|image| !image.known.is_empty());
        let of = with_points.map(|image| (image.key(), &image.known)).collect();
        ManyPoints { kind: self.kind(), all, of }
    }

    fn rows(&self, group: &Group<'_>, points: &ManyPoints<'_>) -> mif_formats::Result<Vec<usize>> {
        let shown = Shown::Many(points);
        let may_match = self.contents.as_ref().is_none_or(|contents| contents.may_be_in(group))
            && self.path.as_ref().is_none_or(|glob| !shown.is_outside(group, glob));
        if may_match { Rows { group, picked: None, shown, known: None }.filter(self) } else { Ok(Vec::new()) }
    }

    fn describe(
        &self,
        group: &Group<'_>,
        rows: &[usize],
        images: &[&str],
    ) -> mif_formats::Result<Vec<Option<Hit>>> {
        let hits = describe("", group, rows, None)?.into_iter().zip(images);
        Ok(hits.map(|(hit, image)| Some(Hit { image: (*image).to_owned(), ..hit })).collect())
    }
}
