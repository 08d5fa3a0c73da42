//! Replays the volume's own journal.

use std::ops::Range;

use super::blocks::{Blocks, Replayed};
use super::fast_commit::{self, Operation};
use super::inode::Inode;
use super::journal::{self, Log, Superblock};
use super::map::{self, Run};
use super::{Ext4, flags};
use crate::error::{Result, at};
use crate::fs::FileType;

/// The effect of replaying the journal.
pub(super) struct Recovery {
    /// The changes to the volume's blocks.
    pub(super) changes: Vec<(u64, Replayed)>,
    /// The fast commits after those changes.
    pub(super) operations: Vec<Operation>,
    /// The blocks that hold the journal.
    pub(super) lies: Vec<Range<u64>>,
    /// Warnings about what could not be replayed.
    pub(super) warnings: Vec<String>,
}

impl Recovery {
    /// Reads the journal of `fs`, whose blocks have not been replayed. Its transactions are read only if the volume
    /// `needs` recovery; otherwise they are left over.
    pub(super) fn prepare(fs: &Ext4, needs: bool) -> Result<Self> {
        let inode = journal_inode(fs)?;
        let runs = map::runs(&fs.blocks, &fs.sb, &fs.groups, &inode)?;
        let blocks = inode.size / u64::from(fs.sb.block_size);
        let log = File { blocks: &fs.blocks, runs: &runs, len: u32::try_from(blocks).unwrap_or(u32::MAX) };
        let sb = Superblock::parse(&log.read(0)?, log.len())?;
        let mut recovery = Recovery {
            changes: Vec::new(),
            operations: Vec::new(),
            lies: runs.iter().map(|run| run.physical.clone()).collect(),
            warnings: Vec::new(),
        };
        if !needs {
            return Ok(recovery);
        }
        let replay = journal::replay(&log, &sb)?;
        recovery.warnings = replay.warnings;
        if !sb.is_clean() {
            match fast_commit::scan(&log, sb.fast_commits(), replay.next) {
                Ok(operations) => recovery.operations = operations,
                Err(error) => recovery.warnings.push(format!("fast commits were not replayed: {error}")),
            }
        }
        let mut outside = 0_u64;
        for (block, (from, escaped)) in replay.changes {
            if block >= fs.blocks.on_volume() {
                outside += 1;
                continue;
            }
            let from = log.block(from)?;
            recovery
                .changes
                .push((block, if escaped { Replayed::Escaped(from) } else { Replayed::At(from) }));
        }
        if outside > 0 {
            recovery.warnings.push(format!("the journal has {outside} blocks past the end of the volume"));
        }
        Ok(recovery)
    }
}

/// Returns the journal's inode, or the copy in the superblock if that is unusable.
fn journal_inode(fs: &Ext4) -> Result<Inode> {
    let number = fs.sb.journal_inum;
    let inode = fs.inode(number).and_then(|inode| {
        if inode.file_type != FileType::File || inode.has(flags::ENCRYPT | flags::INLINE_DATA) {
            return Err(at(format!("inode {number}"))
                .field("i_mode")
                .byte(inode.offset)
                .corrupt("is not a regular file, as the journal must be"));
        }
        map::runs(&fs.blocks, &fs.sb, &fs.groups, &inode).map(|_| inode)
    });
    match (inode, &fs.sb.jnl_blocks) {
        (Err(_), Some(copy)) => Ok(Inode::of_journal(number, copy)),
        (inode, _) => inode,
    }
}

/// The journal as a file on the volume.
struct File<'a> {
    blocks: &'a Blocks,
    runs: &'a [Run],
    len: u32,
}

impl File<'_> {
    /// Returns the block of the volume that holds a block of the journal.
    fn block(&self, block: u32) -> Result<u64> {
        let block = u64::from(block);
        let next = self.runs.partition_point(|run| run.logical <= block);
        next.checked_sub(1)
            .and_then(|i| {
                let run = &self.runs[i];
                let physical = run.physical.start + (block - run.logical);
                (physical < run.physical.end).then_some(physical)
            })
            .ok_or_else(|| at(format!("journal block {block}")).corrupt("is in a hole of the journal"))
    }
}

impl Log for File<'_> {
    fn len(&self) -> u32 {
        self.len
    }

    fn read(&self, block: u32) -> Result<Vec<u8>> {
        self.blocks.read("journal", self.block(block)?, 1)
    }
}
