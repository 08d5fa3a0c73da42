//! Finishing pending intents of the log: the block maps, attributes and exchanges of files as they would be afterwards.

use super::Xfs;
use super::acl;
use super::extent::Extent;
use super::log::intents::{Exchange, Intent, Intents};
use super::overrides::Overrides;
use crate::error::{Error, Result, at};

/// The most intents that are finished; after a crash there are only a few.
const INTENTS_MAX: usize = 1 << 12;
/// The most extents of all changed files together.
const EXTENTS_MAX: usize = 1 << 22;

/// Applies the intents to files. Returns the results, and warnings about intents that could not be finished.
pub(super) fn finish(fs: &Xfs, intents: Intents) -> (Overrides, Vec<String>) {
    let mut finishing = Finishing { fs, overrides: Overrides::default(), extents: 0 };
    let mut warnings = Vec::new();
    for (i, intent) in intents.left().enumerate() {
        if i == INTENTS_MAX {
            warnings.push(format!(
                "the log has more than {INTENTS_MAX} changes that were begun; later ones were left out"
            ));
            break;
        }
        if let Err(error) = finishing.one(intent) {
            warnings.push(format!("a change that the log has begun was not finished: {error}"));
        }
    }
    (finishing.overrides, warnings)
}

struct Finishing<'a> {
    fs: &'a Xfs,
    overrides: Overrides,
    /// Extents of all changed files together.
    extents: usize,
}

impl Finishing<'_> {
    fn one(&mut self, intent: Intent) -> Result<()> {
        match intent {
            Intent::Map { ino, extent } => {
                if self.fs.sb.place(extent.block, extent.count).is_none() {
                    return Err(bad(ino, "the blocks lie outside of any allocation group"));
                }
                insert(self.file(ino)?, extent, ino)
            }
            Intent::Unmap { ino, extent } => {
                cut(self.file(ino)?, extent.logical, extent.count);
                Ok(())
            }
            Intent::Attribute { ino, namespace, name, value } => {
                let full = namespace.full_name(&name);
                let value = match value {
                    Some(value) if acl::is_acl(&full) => {
                        acl::convert(&value).map_err(|problem| bad(ino, &problem))?
                    }
                    value => value,
                };
                self.overrides.xattrs.entry(ino).or_default().push((full, value));
                Ok(())
            }
            Intent::Exchange(exchange) => self.exchange(&exchange),
            Intent::Other(what) => Err(at("log").unsupported(what)),
        }
    }

    /// Returns the extents of a file for modification.
    fn file(&mut self, ino: u64) -> Result<&mut Vec<Extent>> {
        if !self.overrides.extents.contains_key(&ino) {
            let extents = self.fs.extents(&self.fs.inode(ino)?)?;
            self.extents += extents.len();
            if self.extents > EXTENTS_MAX {
                return Err(
                    at(format!("inode {ino}")).limit(format!("over {EXTENTS_MAX} extents would change"))
                );
            }
            self.overrides.extents.insert(ino, extents);
        }
        Ok(self.overrides.extents.get_mut(&ino).expect("it is there"))
    }

    fn exchange(&mut self, exchange: &Exchange) -> Result<()> {
        let [one, two] = exchange.inos;
        let [start_one, start_two] = exchange.starts;
        let ranges = if exchange.only_written {
            let mut written = self.file(one)?.clone();
            cut(&mut written, start_one, exchange.count)
                .into_iter()
                .filter(|extent| !extent.unwritten)
                .map(|extent| (extent.logical - start_one, extent.count))
                .collect()
        } else {
            vec![(0, exchange.count)]
        };
        // Load both before changing either.
        self.file(one)?;
        self.file(two)?;
        for (start, count) in ranges {
            let (from_one, from_two) = (start_one + start, start_two + start);
            let first = cut(self.file(one)?, from_one, count);
            let second = cut(self.file(two)?, from_two, count);
            for extent in first {
                let logical = extent.logical - from_one + from_two;
                insert(self.file(two)?, Extent { logical, ..extent }, two)?;
            }
            for extent in second {
                let logical = extent.logical - from_two + from_one;
                insert(self.file(one)?, Extent { logical, ..extent }, one)?;
            }
        }
        if let Some(sizes) = exchange.sizes {
            for (ino, size) in exchange.inos.into_iter().zip(sizes) {
                if i64::try_from(size).is_err() {
                    return Err(bad(ino, "the size is negative"));
                }
                self.overrides.sizes.insert(ino, size);
            }
        }
        Ok(())
    }
}

fn bad(ino: u64, problem: &str) -> Error {
    at(format!("inode {ino}")).corrupt(problem)
}

/// Removes `count` blocks, starting at file block `start`, from the extents of a file and returns what was there.
fn cut(extents: &mut Vec<Extent>, start: u64, count: u64) -> Vec<Extent> {
    let end = start + count;
    let first = extents.partition_point(|extent| extent.end() <= start);
    let last = extents.partition_point(|extent| extent.logical < end);
    if first >= last {
        return Vec::new();
    }
    let mut rest = Vec::new();
    let mut out = Vec::new();
    for extent in &extents[first..last] {
        let (from, to) = (extent.logical.max(start), extent.end().min(end));
        let part = |from: u64, to: u64| Extent {
            logical: from,
            block: extent.block + (from - extent.logical),
            count: to - from,
            unwritten: extent.unwritten,
        };
        if extent.logical < from {
            rest.push(part(extent.logical, from));
        }
        out.push(part(from, to));
        if to < extent.end() {
            rest.push(part(to, extent.end()));
        }
    }
    extents.splice(first..last, rest);
    out
}

/// Inserts an extent into those of a file, where there must be a hole.
fn insert(extents: &mut Vec<Extent>, extent: Extent, ino: u64) -> Result<()> {
    let place = extents.partition_point(|other| other.logical < extent.logical);
    let is_free = place.checked_sub(1).is_none_or(|before| extents[before].end() <= extent.logical)
        && extents.get(place).is_none_or(|after| extent.end() <= after.logical);
    if !is_free {
        return Err(bad(ino, "the file has other blocks at that place"));
    }
    extents.insert(place, extent);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(logical: u64, block: u64, count: u64) -> Extent {
        Extent { logical, block, count, unwritten: false }
    }

    #[test]
    fn extents_are_cut_out_and_put_in() {
        let mut extents = vec![extent(0, 100, 10), extent(20, 200, 10)];
        assert_eq!(cut(&mut extents, 5, 17), [extent(5, 105, 5), extent(20, 200, 2)]);
        assert_eq!(extents, [extent(0, 100, 5), extent(22, 202, 8)]);
        assert_eq!(cut(&mut extents, 24, 2), [extent(24, 204, 2)]);
        assert_eq!(extents, [extent(0, 100, 5), extent(22, 202, 2), extent(26, 206, 4)]);
        assert!(cut(&mut extents, 5, 17).is_empty());
        insert(&mut extents, extent(5, 900, 17), 1).unwrap();
        assert_eq!(extents[1], extent(5, 900, 17));
        for (logical, count) in [(4, 1), (0, 1), (25, 1), (24, 3), (100, 0)] {
            let result = insert(&mut extents.clone(), extent(logical, 1, count), 1);
            assert_eq!(result.is_ok(), logical >= 25, "{logical}");
        }
    }
}
