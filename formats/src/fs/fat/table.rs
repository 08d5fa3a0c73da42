//! The file allocation table (FAT specification 4): for each cluster the next one of its file, or a mark.

use std::collections::BTreeMap;

use super::bpb::{Bpb, FIRST_CLUSTER, Kind};
use super::cache::{CachedVolume, Cursor};
use crate::error::{Error, Result, at};

/// The most runs of adjacent clusters that are kept for a chain.
const MAX_RUNS: usize = 1 << 20;

/// The entry of a cluster in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// The file continues in this cluster, which may not exist.
    Next(u32),
    /// The file's last cluster.
    End,
    /// The cluster belongs to no file.
    Free,
    /// The cluster is marked as unusable.
    Bad,
}

impl Link {
    /// Decodes an entry of the table. FAT32's top four bits are ignored.
    pub(super) fn of(kind: Kind, entry: u32) -> Self {
        let (entry, bad) = match kind {
            Kind::Fat12 => (entry & 0xfff, 0xff7),
            Kind::Fat16 => (entry & 0xffff, 0xfff7),
            Kind::Fat32 => (entry & 0x0fff_ffff, 0x0fff_fff7),
        };
        match entry {
            0 => Link::Free,
            next if next < bad => Link::Next(next),
            next if next == bad => Link::Bad,
            _ => Link::End,
        }
    }
}

/// `count` adjacent clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) cluster: u32,
    pub(super) count: u32,
}

impl Run {
    fn end(self) -> u32 {
        self.cluster + self.count
    }
}

/// The clusters of a file or directory, as far as the chain is readable.
#[derive(Debug, Default)]
pub(super) struct Chain {
    pub(super) runs: Vec<Run>,
    pub(super) clusters: u32,
    /// True if the end of the chain was reached, and not only the wanted number of clusters.
    pub(super) ended: bool,
    /// The reason why the chain ends early.
    pub(super) problem: Option<Error>,
}

/// The active table.
pub(super) struct Table<'a> {
    bpb: &'a Bpb,
    start: u64,
    cursor: Cursor<'a>,
}

impl<'a> Table<'a> {
    /// Creates a reader of the table at byte `start`.
    pub(super) fn new(bpb: &'a Bpb, start: u64, cache: &'a CachedVolume) -> Self {
        Table { bpb, start, cursor: cache.cursor() }
    }

    fn entry_place(&self, cluster: u32) -> u64 {
        let cluster = u64::from(cluster);
        self.start
            + match self.bpb.kind {
                Kind::Fat12 => cluster + cluster / 2,
                Kind::Fat16 => cluster * 2,
                Kind::Fat32 => cluster * 4,
            }
    }

    /// Returns the entry of `cluster`, which must exist.
    pub(super) fn link(&mut self, cluster: u32) -> Result<Link> {
        let place = self.entry_place(cluster);
        let entry = match self.bpb.kind {
            Kind::Fat32 => u32::from_le_bytes(self.cursor.read(place)?),
            Kind::Fat16 => u32::from(u16::from_le_bytes(self.cursor.read(place)?)),
            // Two entries in three bytes.
            Kind::Fat12 => u32::from(u16::from_le_bytes(self.cursor.read(place)?)) >> (4 * (cluster % 2)),
        };
        Ok(Link::of(self.bpb.kind, entry))
    }

    /// Counts the free clusters.
    pub(super) fn count_free(&mut self) -> Result<u32> {
        let mut free = 0;
        for cluster in FIRST_CLUSTER..FIRST_CLUSTER + self.bpb.cluster_count {
            free += u32::from(self.link(cluster)? == Link::Free);
        }
        Ok(free)
    }

    /// Follows the chain from `first`, which must exist, over at most `wanted` clusters. Only a failed read is an
    /// error.
    pub(super) fn chain(&mut self, first: u32, wanted: u32) -> Result<Chain> {
        let mut chain = Chain::default();
        let mut cluster = first;
        // Brent's algorithm: the walk leaves a mark behind, and moves it up at every power of two. A walk that meets
        // the mark is in a cycle.
        let mut mark = (first, 1u32);
        while chain.clusters < wanted {
            match chain.runs.last_mut() {
                Some(run) if run.end() == cluster => run.count += 1,
                _ => chain.runs.push(Run { cluster, count: 1 }),
            }
            if chain.runs.len() > MAX_RUNS {
                let place = at("cluster chain").byte(self.entry_place(first));
                chain.problem = Some(place.limit(format!("has over {MAX_RUNS} fragments")));
                return Ok(chain);
            }
            chain.clusters += 1;
            let place = self.entry_place(cluster);
            let entry = || at(format!("FAT entry of cluster {cluster}")).byte(place);
            let next = match self.link(cluster)? {
                Link::Next(next) if self.bpb.has_cluster(next) => next,
                Link::End => {
                    chain.ended = true;
                    break;
                }
                // The successor of the last wanted cluster is not examined.
                _ if chain.clusters == wanted => break,
                Link::Next(next) => {
                    let last = FIRST_CLUSTER + self.bpb.cluster_count - 1;
                    let problem = format!("leads to cluster {next}, expected {FIRST_CLUSTER} to {last}");
                    chain.problem = Some(entry().corrupt(problem));
                    break;
                }
                Link::Free => {
                    chain.problem = Some(entry().corrupt("marks a cluster in the middle of a chain as free"));
                    break;
                }
                Link::Bad => {
                    chain.problem = Some(entry().corrupt("marks a cluster in the middle of a chain as bad"));
                    break;
                }
            };
            cluster = next;
            if cluster == mark.0 {
                // Enter the cycle once more, so that `cut_circle` finds it.
                chain.runs.push(Run { cluster, count: 1 });
                break;
            }
            if chain.clusters == mark.1 {
                mark = (cluster, mark.1.saturating_mul(2));
            }
        }
        self.cut_circle(&mut chain);
        Ok(chain)
    }

    /// Truncates a chain before the first cluster that occurs twice.
    fn cut_circle(&self, chain: &mut Chain) {
        let mut seen = BTreeMap::new();
        for (i, &run) in chain.runs.iter().enumerate() {
            let around = seen.range(..=run.cluster).next_back().filter(|(_, end)| **end > run.cluster);
            let inside = seen.range(run.cluster..run.end()).next();
            let Some(again) = around.map(|_| run.cluster).or(inside.map(|(start, _)| *start)) else {
                seen.insert(run.cluster, run.end());
                continue;
            };
            chain.runs.truncate(i);
            if again > run.cluster {
                chain.runs.push(Run { cluster: run.cluster, count: again - run.cluster });
            }
            chain.clusters = chain.runs.iter().map(|run| run.count).sum();
            chain.ended = false;
            let last = chain.runs.last().map_or(again, |run| run.end() - 1);
            let entry = at(format!("FAT entry of cluster {last}")).byte(self.entry_place(last));
            chain.problem =
                Some(entry.corrupt(format!("leads back to cluster {again}: the chain is circular")));
            return;
        }
    }
}
