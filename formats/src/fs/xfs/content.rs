//! The locations of a file's bytes, assembled from its extents.

use super::blocks::Blocks;
use super::extent::Extent;
use super::superblock::Superblock;
use crate::error::Result;
use crate::fs::Content;
use crate::fs::pieces::Pieces;

/// Returns the content of a file of `size` bytes stored in `extents`.
pub(super) fn of_extents(
    blocks: &Blocks,
    sb: &Superblock,
    ino: u64,
    size: u64,
    extents: &[Extent],
) -> Result<Content> {
    let mut pieces = Pieces::new(ino, size);
    for extent in extents {
        // File block numbers have 54 bits, so the byte offset may overflow.
        let Some(start) = extent.logical.checked_mul(u64::from(sb.block_size)).filter(|start| *start < size)
        else {
            break;
        };
        pieces.zero_to(start)?;
        let len = sb.bytes(extent.count).min(size - start);
        if extent.unwritten {
            pieces.zero_to(start + len)?;
            continue;
        }
        let Some(linear) = sb.place(extent.block, extent.count) else { break };
        let offset = sb.bytes(linear);
        blocks.check(|| format!("inode {ino}, data"), offset, len)?;
        blocks.locate(offset, len, &mut |piece| pieces.push(piece))?;
    }
    pieces.finish()
}
