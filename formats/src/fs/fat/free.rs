//! Which bytes of a volume belong to no file.

use std::ops::Range;

use super::Fat;
use super::bpb::FIRST_CLUSTER;
use super::table::Link;
use crate::error::Result;
use crate::fs::ranges::push;

impl Fat {
    /// Returns the parts of a range of bytes that are in free clusters, or after the last cluster.
    pub(super) fn free_clusters_in(&self, range: &Range<u64>) -> Result<Vec<Range<u64>>> {
        let (bpb, size) = (&self.bpb, u64::from(self.bpb.cluster_size));
        let clusters = u64::from(bpb.cluster_count);
        let data_end = bpb.data_start + clusters * size;
        let mut free = Vec::new();
        let mut add = |bytes: Range<u64>| {
            push(&mut free, bytes.start.max(range.start)..bytes.end.min(range.end));
        };
        let index = |byte: u64| byte.clamp(bpb.data_start, data_end) - bpb.data_start;
        let mut table = self.table();
        for number in index(range.start) / size..index(range.end).div_ceil(size) {
            let cluster = FIRST_CLUSTER + number as u32;
            if table.link(cluster)? == Link::Free {
                let place = bpb.cluster_place(cluster);
                add(place..place + size);
            }
        }
        add(data_end..bpb.size);
        Ok(free)
    }
}
