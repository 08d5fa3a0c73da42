//! Allocates blocks, in ascending order.

use std::ops::Range;

/// An allocator of the blocks that are not fixed, each once, in ascending order.
pub(super) struct Allocator<'a> {
    fixed: &'a [Range<u64>],
    /// The first of `fixed` that has not been passed.
    next_fixed: usize,
    /// The next block.
    next: u64,
    /// The end of the volume. Past it, blocks are still allocated, and counted.
    end: u64,
}

impl<'a> Allocator<'a> {
    pub(super) fn new(fixed: &'a [Range<u64>], blocks: Range<u64>) -> Self {
        Allocator { fixed, next_fixed: 0, next: blocks.start, end: blocks.end }
    }

    /// Allocates `count` blocks, in as few runs as possible.
    pub(super) fn take(&mut self, mut count: u64, each: &mut dyn FnMut(Range<u64>)) {
        while count > 0 {
            let stop = match self.fixed.get(self.next_fixed) {
                Some(fixed) if fixed.start <= self.next => {
                    self.next = self.next.max(fixed.end);
                    self.next_fixed += 1;
                    continue;
                }
                Some(fixed) => fixed.start,
                None => u64::MAX,
            };
            let here = count.min(stop - self.next);
            each(self.next..self.next + here);
            self.next += here;
            count -= here;
        }
    }

    /// Returns the first block that was not allocated: all before it are in use.
    pub(super) fn end_of_used(&self) -> u64 {
        self.next
    }

    /// Returns how many blocks were allocated past the end of the volume.
    pub(super) fn missing(&self) -> u64 {
        self.next.saturating_sub(self.end)
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_given_around_what_is_fixed() {
        let fixed = [0..3, 5..7, 7..9];
        let mut allocator = Allocator::new(&fixed, 0..12);
        let mut take = |count| {
            let mut runs = Vec::new();
            allocator.take(count, &mut |run| runs.push(run));
            runs
        };
        assert_eq!(take(1), [3..4]);
        assert_eq!(take(3), [4..5, 9..11]);
        assert_eq!(take(3), [11..14]);
        assert_eq!((allocator.end_of_used(), allocator.missing()), (14, 2));
    }
}
