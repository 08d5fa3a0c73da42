//! The map from a file's blocks to the volume's: extent trees, and the block maps of ext2 and ext3.

use super::blocks::Blocks;
use super::extent;
use super::groups::Groups;
use super::inode::{Inode, flags};
pub(super) use super::mapper::Run;
use super::mapper::{Mapper, check, indirect_max};
use super::superblock::Superblock;
use crate::error::{Result, at};
use crate::fs::Content;
use crate::fs::pieces::Pieces;
use std::collections::HashSet;
use std::ops::Range;

/// The most runs of one file that are kept at once.
const RUNS_MAX: usize = 1 << 20;

/// Locates the content of `inode`. Fails if its map is damaged anywhere, even past the file's end.
pub(super) fn content(blocks: &Blocks, sb: &Superblock, groups: &Groups, inode: &Inode) -> Result<Content> {
    let mut pieces = Pieces::new(u64::from(inode.number), inode.size);
    walk(blocks, sb, groups, inode, &mut |run| {
        if run.written { data(&mut pieces, blocks, run.logical, run.physical) } else { Ok(()) }
    })?;
    pieces.finish()
}

/// Locates the content of `inode`, given its runs, which have not been checked.
pub(super) fn content_of_runs<'a>(
    blocks: &Blocks,
    groups: &Groups,
    inode: &Inode,
    runs: impl Iterator<Item = &'a Run>,
) -> Result<Content> {
    let mut pieces = Pieces::new(u64::from(inode.number), inode.size);
    for run in runs {
        check(blocks, groups, inode.number, "data", &run.physical)?;
        if run.written {
            data(&mut pieces, blocks, run.logical, run.physical.clone())?;
        }
    }
    pieces.finish()
}

/// Adds the volume's blocks `physical`, which were checked, as the file's blocks from `logical` on. A gap before
/// `logical` is a hole, and blocks past the end of the file are left out.
pub(super) fn data(pieces: &mut Pieces, blocks: &Blocks, logical: u64, physical: Range<u64>) -> Result<()> {
    let start = blocks.byte(logical);
    if start >= pieces.size() {
        return Ok(());
    }
    pieces.zero_to(start)?;
    blocks.locate(physical, &mut |piece| pieces.push(piece))
}

/// Returns the runs of `inode`, in file order.
pub(super) fn runs(blocks: &Blocks, sb: &Superblock, groups: &Groups, inode: &Inode) -> Result<Vec<Run>> {
    runs_up_to(RUNS_MAX, blocks, sb, groups, inode)
}

fn runs_up_to(
    most: usize,
    blocks: &Blocks,
    sb: &Superblock,
    groups: &Groups,
    inode: &Inode,
) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    walk(blocks, sb, groups, inode, &mut |run| {
        if runs.len() == most {
            return Err(at(format!("inode {}", inode.number)).limit(format!("has more than {most} extents")));
        }
        runs.push(run);
        Ok(())
    })?;
    Ok(runs)
}

fn walk(
    blocks: &Blocks,
    sb: &Superblock,
    groups: &Groups,
    inode: &Inode,
    found: &mut dyn FnMut(Run) -> Result<()>,
) -> Result<()> {
    let mut mapper = Mapper { blocks, sb, groups, inode, found, mapped: 0, visited: HashSet::new() };
    let block_size = u64::from(sb.block_size);
    let is_extents = inode.has(flags::EXTENTS);
    let size_max = if is_extents { (1 << 32) * block_size } else { indirect_max(block_size) * block_size };
    if inode.size > size_max {
        return Err(at(format!("inode {}", inode.number))
            .field("i_size")
            .byte(inode.offset + 4)
            .corrupt(format!("is {}, more than its block map can hold ({size_max})", inode.size)));
    }
    if is_extents { extent::walk(&mut mapper, &inode.block) } else { mapper.indirect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_more_extents_than_the_limit_is_refused() {
        let fs = crate::fs::ext4::tests::small();
        let mut file = fs.inode(12).unwrap();
        // A second extent: the file's block 5 is block 30 of the volume.
        file.block[2] = 2;
        file.block[24..36].copy_from_slice(&[5, 0, 0, 0, 1, 0, 0, 0, 30, 0, 0, 0]);
        let runs = |most| runs_up_to(most, &fs.blocks, &fs.sb, &fs.groups, &file);
        assert_eq!(runs(2).unwrap().len(), 2);
        let error = runs(1).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Limit);
        assert_eq!(error.to_string(), "inode 12: has more than 1 extents");
    }
}
