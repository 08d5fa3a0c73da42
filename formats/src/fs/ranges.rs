//! Lists of ranges of bytes.

use std::ops::Range;

/// Appends a range to a sorted list, unless it is empty, and joins it with the last one where they touch.
pub(crate) fn push(list: &mut Vec<Range<u64>>, range: Range<u64>) {
    match list.last_mut() {
        _ if range.start >= range.end => {}
        Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
        _ => list.push(range),
    }
}
