//! Fast commits: the changes after the journal's last full transaction, recorded as operations on files instead of
//! blocks. Replay collects the resulting inodes and directories, which then hide those on the volume.
//!
//! <https://docs.kernel.org/filesystems/ext4/journal.html#fast-commits>

use std::ops::Range;

use super::checksum::crc32c;
use super::inode::flags;
use super::journal::Log;
use super::mapper::Run;
use super::patches::Change;
use super::{Ext4, map};
use crate::bytes::{le16, le32};
use crate::checksum::fits;
use crate::error::{Result, at};
use crate::fs::FileType;

/// The most blocks of fast commits that are read: 256 is usual.
const BLOCKS_MAX: u32 = 1 << 14;
const TAG_HEADER: usize = 4;
/// The most runs of all changed files together.
const RUNS_MAX: usize = 1 << 21;

/// `fc_tag`.
mod tag {
    pub(super) const ADD_RANGE: u16 = 1;
    pub(super) const DEL_RANGE: u16 = 2;
    pub(super) const CREAT: u16 = 3;
    pub(super) const LINK: u16 = 4;
    pub(super) const UNLINK: u16 = 5;
    pub(super) const INODE: u16 = 6;
    pub(super) const PAD: u16 = 7;
    pub(super) const TAIL: u16 = 8;
    pub(super) const HEAD: u16 = 9;
}

/// Offsets of `i_flags`, `i_block` and `i_generation` in an inode.
const I_FLAGS: usize = 0x20;
const I_BLOCK: usize = 0x28;
const I_GENERATION: usize = 0x64;

/// A recorded operation.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Operation {
    tag: u16,
    value: Vec<u8>,
}

/// Reads the operations of the fast commits of transaction `tid`, in `blocks` of the journal, up to the last tail with
/// a correct checksum. Fails if the first fast commit is damaged, and if they exceed the limit: the volume without them
/// is consistent, but with a part of them it may not be.
pub(super) fn scan(log: &dyn Log, blocks: Range<u32>, tid: u32) -> Result<Vec<Operation>> {
    scan_up_to(BLOCKS_MAX, log, blocks, tid)
}

fn scan_up_to(most: u32, log: &dyn Log, blocks: Range<u32>, tid: u32) -> Result<Vec<Operation>> {
    let past = blocks.start.saturating_add(most);
    let mut operations = Vec::new();
    let mut valid = 0;
    let mut sum = 0;
    'blocks: for number in blocks {
        if number == past {
            return Err(at("fast commits").limit(format!("exceed the limit of {most} blocks")));
        }
        let block = log.read(number)?;
        if operations.is_empty() && le16(&block, 0) != tag::HEAD {
            break;
        }
        let damaged = |problem: &str| at(format!("journal block {number}, fast commit")).corrupt(problem);
        let mut start = 0;
        while start + TAG_HEADER <= block.len() {
            let (kind, len) = (le16(&block, start), usize::from(le16(&block, start + 2)));
            let end = start + TAG_HEADER + len;
            let least = match kind {
                tag::ADD_RANGE => 16,
                tag::DEL_RANGE => 12,
                tag::CREAT | tag::LINK | tag::UNLINK | tag::HEAD | tag::TAIL => 8,
                tag::INODE => 4 + 128,
                tag::PAD => 0,
                _ => usize::MAX,
            };
            if end > block.len() || len < least {
                if valid == 0 {
                    return Err(damaged("has a tag of an unknown kind or invalid length"));
                }
                break 'blocks;
            }
            let value = &block[start + TAG_HEADER..end];
            match kind {
                tag::HEAD if le32(value, 0) != 0 => {
                    return Err(at(format!("journal block {number}, fast commit"))
                        .field("fc_features")
                        .unsupported(format!("has unknown features: {:#x}", le32(value, 0))));
                }
                tag::HEAD if le32(value, 4) != tid => break 'blocks,
                tag::TAIL => {
                    sum = crc32c(sum, &block[start..start + TAG_HEADER + 4]);
                    if le32(value, 0) != tid || !fits(le32(value, 4), sum) {
                        if valid == 0 {
                            return Err(damaged("does not match its checksum"));
                        }
                        break 'blocks;
                    }
                    valid = operations.len() + 1;
                    sum = 0;
                }
                _ => {}
            }
            if kind != tag::TAIL {
                sum = crc32c(sum, &block[start..end]);
            }
            operations.push(Operation { tag: kind, value: value.to_vec() });
            start = end;
        }
    }
    operations.truncate(valid);
    Ok(operations)
}

/// Replays operations on `fs`, whose blocks have been replayed. Each operation sees the ones before it through
/// `fs.patches`. Impossible ones are skipped, as the kernel does. Returns warnings.
pub(super) fn replay(fs: &mut Ext4, operations: &[Operation]) -> Vec<String> {
    replay_up_to(RUNS_MAX, fs, operations)
}

fn replay_up_to(runs_max: usize, fs: &mut Ext4, operations: &[Operation]) -> Vec<String> {
    for Operation { tag, value } in operations {
        match *tag {
            tag::INODE => fs.replay_inode(le32(value, 0), &value[4..]),
            tag::ADD_RANGE => {
                let stored = le16(value, 4 + 4);
                let written = stored <= 0x8000;
                let len = u64::from(if written { stored } else { stored - 0x8000 });
                let logical = u64::from(le32(value, 4));
                let physical = u64::from(le32(value, 4 + 8)) | u64::from(le16(value, 4 + 6)) << 32;
                let run = Run { logical, physical: physical..physical + len, written };
                fs.replay_range(runs_max, le32(value, 0), logical, len, Some(run));
            }
            tag::DEL_RANGE => {
                fs.replay_range(
                    runs_max,
                    le32(value, 0),
                    u64::from(le32(value, 4)),
                    u64::from(le32(value, 8)),
                    None,
                );
            }
            tag::CREAT | tag::LINK | tag::UNLINK => {
                let (folder, inode) = (le32(value, 0), le32(value, 4));
                let Ok(found) = fs.inode(inode) else { continue };
                if *tag == tag::CREAT && found.file_type == FileType::Dir {
                    fs.patches.inodes.entry(inode).or_default().is_new = true;
                    fs.patches.folders.remove(&inode);
                }
                let change = Change { name: value[8..].to_vec(), inode, add: *tag != tag::UNLINK };
                fs.patches.folders.entry(folder).or_default().push(change);
            }
            _ => {}
        }
    }
    std::mem::take(&mut fs.patches.warnings)
}

impl Ext4 {
    fn replay_inode(&mut self, number: u32, told: &[u8]) {
        let size = usize::from(self.sb.inode_size);
        let Ok(mut raw) = self.raw_inode(number).map(|(raw, _)| raw) else { return };
        let len = told.len().min(size);
        raw[..I_BLOCK].copy_from_slice(&told[..I_BLOCK]);
        raw[I_GENERATION..len].copy_from_slice(&told[I_GENERATION..len]);
        let has = |flag: u32| le32(told, I_FLAGS) & flag != 0;
        if has(flags::EXTENTS) {
            if le16(&raw, I_BLOCK) != 0xF30A {
                raw[I_BLOCK..I_BLOCK + 12].copy_from_slice(&[0x0A, 0xF3, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
            }
        } else if has(flags::INLINE_DATA) {
            raw[I_BLOCK..I_GENERATION].copy_from_slice(&told[I_BLOCK..I_GENERATION]);
        }
        self.patches.inodes.entry(number).or_default().raw = Some(raw);
    }

    /// Replaces `len` blocks of a file by `run` or a hole. At most `runs_max` runs of changed files are kept.
    fn replay_range(&mut self, runs_max: usize, number: u32, logical: u64, len: u64, run: Option<Run>) {
        let Ok(inode) = self.inode(number) else { return };
        if self.patches.runs(number).is_none() {
            let Ok(before) = map::runs(&self.blocks, &self.sb, &self.groups, &inode) else { return };
            self.patches.runs_read += before.len();
            if self.patches.runs_read > runs_max {
                if self.patches.warnings.is_empty() {
                    self.patches.warnings.push(format!(
                        "fast commits change files with over {runs_max} extents in total; some of these files lack their last changes"
                    ));
                }
                return;
            }
            let runs = before.into_iter().map(|run| (run.logical, run)).collect();
            self.patches.inodes.entry(number).or_default().runs = Some(runs);
        }
        let Some(runs) = self.patches.inodes.get_mut(&number).and_then(|patch| patch.runs.as_mut()) else {
            return;
        };
        let end = logical + len;
        let first = runs.range(..logical).next_back().map_or(logical, |(start, _)| *start);
        let touched: Vec<u64> = runs.range(first..end).map(|(start, _)| *start).collect();
        for start in touched {
            let Some(part) = runs.remove(&start) else { continue };
            let stop = start + (part.physical.end - part.physical.start);
            if start < logical {
                let keep = (logical - start).min(stop - start);
                let physical = part.physical.start..part.physical.start + keep;
                runs.insert(start, Run { physical, ..part.clone() });
            }
            if stop > end {
                let skip = end.saturating_sub(start);
                let physical = part.physical.start + skip..part.physical.end;
                let logical = start + skip;
                runs.insert(logical, Run { logical, physical, written: part.written });
            }
        }
        if let Some(run) = run.filter(|run| !run.physical.is_empty()) {
            runs.insert(run.logical, run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Filesystem, Piece};

    /// A journal of identical blocks, with fast commits of transaction 5.
    struct Memory(Vec<u8>);

    impl Log for Memory {
        fn len(&self) -> u32 {
            1
        }

        fn read(&self, _: u32) -> Result<Vec<u8>> {
            Ok(self.0.clone())
        }
    }

    fn operation(tag: u16, words: &[u32], rest: &[u8]) -> Operation {
        let mut value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        value.extend(rest);
        Operation { tag, value }
    }

    /// Encodes the operations as a block, with a tail.
    fn block(operations: &[Operation]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for Operation { tag, value } in operations {
            bytes.extend(tag.to_le_bytes());
            bytes.extend((value.len() as u16).to_le_bytes());
            bytes.extend(value);
        }
        bytes.extend(tag::TAIL.to_le_bytes());
        bytes.extend((1024 - bytes.len() as u16 - 2).to_le_bytes());
        bytes.extend(5_u32.to_le_bytes());
        let sum = crc32c(0, &bytes);
        bytes.extend(sum.to_le_bytes());
        bytes.resize(1024, 0);
        bytes
    }

    fn some() -> Vec<Operation> {
        vec![
            operation(tag::HEAD, &[0, 5], &[]),
            operation(tag::LINK, &[2, 12], b"again"),
            operation(tag::UNLINK, &[2, 12], b"file"),
            operation(tag::UNLINK, &[2, 13], b"again"),
            operation(tag::DEL_RANGE, &[12, 0, 1], &[]),
            operation(tag::ADD_RANGE, &[12, 1, 1, 40], &[]),
        ]
    }

    #[test]
    fn operations_up_to_a_good_tail_are_found() {
        let found = scan(&Memory(block(&some())), 0..1, 5).unwrap();
        assert_eq!(found.len(), 7);
        assert_eq!(found[..6], some());
        assert_eq!(scan(&Memory(block(&some())), 0..1, 6).unwrap(), [], "another transaction's");
        assert_eq!(scan(&Memory(vec![0; 1024]), 0..1, 5).unwrap(), []);
        let mut damaged = block(&some());
        damaged[20] ^= 1;
        let error = scan(&Memory(damaged), 0..1, 5).unwrap_err().to_string();
        assert_eq!(error, "journal block 0, fast commit: does not match its checksum");
        let mut unknown = block(&some());
        unknown[4] = 1;
        assert!(scan(&Memory(unknown), 0..1, 5).unwrap_err().to_string().contains("fc_features"));
    }

    #[test]
    fn fast_commits_of_more_blocks_than_the_limit_are_not_replayed() {
        let log = Memory(block(&some()));
        assert_eq!(scan_up_to(3, &log, 8..11, 5).unwrap().len(), 21);
        let error = scan_up_to(2, &log, 8..11, 5).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Limit);
        assert_eq!(error.to_string(), "fast commits: exceed the limit of 2 blocks");
    }

    #[test]
    fn fast_commits_of_files_of_more_extents_than_the_limit_are_left_out_and_said() {
        let mut fs = crate::fs::ext4::tests::small();
        assert_eq!(replay_up_to(1, &mut fs, &some()), [""; 0]);
        let mut fs = crate::fs::ext4::tests::small();
        let before = fs.content(12).unwrap();
        let warnings = replay_up_to(0, &mut fs, &some());
        assert_eq!(
            warnings,
            [
                "fast commits change files with over 0 extents in total; some of these files lack their last changes"
            ]
        );
        assert_eq!(fs.content(12).unwrap(), before);
    }

    #[test]
    fn operations_are_seen_in_what_is_read() {
        let mut fs = crate::fs::ext4::tests::small();
        assert_eq!(replay(&mut fs, &some()), [""; 0]);
        let names: Vec<_> =
            fs.read_dir(2, &mut |e| panic!("{e}")).unwrap().into_iter().map(|e| e.name).collect();
        assert_eq!(names, [b"again"]);
        let pieces = fs.content(12).unwrap().pieces;
        assert_eq!(pieces, [Piece::Zero { len: 1024 }, Piece::Volume { offset: 40 * 1024, len: 476 }]);
    }

    #[test]
    fn no_operations_do_harm() {
        let mut state = 1_u32;
        let mut random = |end: u32| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state % end
        };
        for _ in 0..5000 {
            let mut operations = Vec::new();
            for _ in 0..random(12) {
                let tag = random(10) as u16;
                let mut words: Vec<u32> = (0..40)
                    .map(|_| match random(4) {
                        0 => random(70),
                        1 => 2 + 10 * random(2),
                        2 => u32::MAX - random(3),
                        _ => random(u32::MAX),
                    })
                    .collect();
                words[0] = 2 + 10 * random(2);
                let name = [b'a' + random(3) as u8];
                operations.push(match tag {
                    tag::CREAT | tag::LINK | tag::UNLINK => operation(tag, &words[..2], &name),
                    _ => operation(tag, &words, &[]),
                });
            }
            let mut fs = crate::fs::ext4::tests::small();
            replay(&mut fs, &operations);
            for id in [2, 12] {
                let _ = fs.node(id, &mut |_| ());
                let _ = fs.read_dir(id, &mut |_| {});
                if let Ok(content) = fs.content(id) {
                    assert_eq!(content.pieces.iter().map(Piece::len).sum::<u64>(), content.size);
                }
            }
        }
    }
}
