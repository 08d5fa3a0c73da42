//! The journal: committed transactions that may not have been written to their places. Replay computes, in memory, what
//! mounting would write.
//!
//! The format is jbd2's: all numbers are big-endian.
//! <https://docs.kernel.org/filesystems/ext4/journal.html>

use std::collections::{BTreeMap, HashMap};

use super::checksum::{crc32_be, crc32c};
use crate::bytes::{be16, be32, be64};
use crate::checksum::fits;
use crate::error::{At, Result, at};

const MAGIC: u32 = 0xC03B_3998;
const SUPERBLOCK_SIZE: usize = 1024;
const HEADER: usize = 12;
const REVOKE_HEADER: usize = 16;
const TAIL: usize = 4;
/// `struct commit_header`: the part of a commit block that is not zeros.
const COMMIT_HEADER: usize = 64;
const UUID: usize = 16;
/// The most blocks that may be revoked: each takes about 32 bytes of memory.
const REVOKED_MAX: usize = 1 << 22;
/// The smallest log that reserves blocks for fast commits.
const LOG_MIN: u32 = 1024;
const FAST_COMMIT_BLOCKS: u32 = 256;

/// `h_blocktype`.
mod kind {
    pub(super) const DESCRIPTOR: u32 = 1;
    pub(super) const COMMIT: u32 = 2;
    pub(super) const SUPERBLOCK_V1: u32 = 3;
    pub(super) const SUPERBLOCK_V2: u32 = 4;
    pub(super) const REVOKE: u32 = 5;
}

const COMPAT_CHECKSUM: u32 = 1;

/// `s_feature_incompat`.
mod incompat {
    pub(super) const BIT64: u32 = 2;
    pub(super) const ASYNC_COMMIT: u32 = 4;
    pub(super) const CSUM_V2: u32 = 8;
    pub(super) const CSUM_V3: u32 = 0x10;
    pub(super) const FAST_COMMIT: u32 = 0x20;
    pub(super) const KNOWN: u32 = 0x3F;
}

/// `t_flags` of a tag.
mod tag {
    pub(super) const ESCAPE: u16 = 1;
    pub(super) const SAME_UUID: u16 = 2;
    pub(super) const LAST: u16 = 8;
    pub(super) const SIZE_V3: usize = 16;
}

/// The blocks of a journal, by their number.
pub(super) trait Log {
    /// Returns the number of blocks.
    fn len(&self) -> u32;
    /// Reads a block.
    fn read(&self, block: u32) -> Result<Vec<u8>>;
}

/// The superblock of a journal.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    compat: u32,
    incompat: u32,
    /// The number of blocks of the log.
    maxlen: u32,
    /// The first block of the log.
    first: u32,
    /// One past the last block of the log, before the blocks of fast commits.
    last: u32,
    sequence: u32,
    /// The start of the log; 0 if there is nothing to replay.
    start: u32,
    csum_seed: u32,
}

/// The effect of a replay on the volume's blocks.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// The changed blocks of the volume; for each one the block of the journal with its new bytes, and whether that is
    /// escaped.
    pub(super) changes: BTreeMap<u64, (u32, bool)>,
    /// The sequence number of the next transaction, to which fast commits would belong.
    pub(super) next: u32,
    /// Warnings about what could not be replayed.
    pub(super) warnings: Vec<String>,
}

fn place(block: u32) -> At {
    at(format!("journal block {block}"))
}

/// Returns true if the block begins with the magic number.
pub(super) fn has_magic(block: &[u8]) -> bool {
    be32(block, 0) == MAGIC
}

impl Superblock {
    /// Parses the first block of a journal of `len` blocks. Fails if mounting would fail.
    pub(super) fn parse(block: &[u8], len: u32) -> Result<Self> {
        let bad = |field, problem| Err(at("journal superblock").field(field).corrupt(problem));
        if !has_magic(block) {
            return bad("h_magic", format!("is {:#x}, expected {MAGIC:#x}", be32(block, 0)));
        }
        let version = be32(block, 4);
        if version != kind::SUPERBLOCK_V1 && version != kind::SUPERBLOCK_V2 {
            return bad("h_blocktype", format!("is {version}, expected 3 or 4"));
        }
        if be32(block, 0xC) as usize != block.len() {
            return bad("s_blocksize", format!("is {}, expected {}", be32(block, 0xC), block.len()));
        }
        let v2 = version == kind::SUPERBLOCK_V2;
        let feature = |at| if v2 { be32(block, at) } else { 0 };
        let (compat, incompat) = (feature(0x24), feature(0x28));
        // No features are known that only forbid writing to a journal.
        for (field, unknown) in
            [("s_feature_incompat", incompat & !incompat::KNOWN), ("s_feature_ro_compat", feature(0x2C))]
        {
            if unknown != 0 {
                return Err(at("journal superblock")
                    .field(field)
                    .unsupported(format!("has unknown features: {unknown:#x}")));
            }
        }
        let checksums =
            [compat & COMPAT_CHECKSUM, incompat & incompat::CSUM_V2, incompat & incompat::CSUM_V3];
        if checksums.iter().filter(|flag| **flag != 0).count() > 1 {
            return bad("s_feature_incompat", "has two kinds of checksums".to_owned());
        }
        if incompat & (incompat::CSUM_V2 | incompat::CSUM_V3) != 0 {
            let crc = crc32c(crc32c(!0, &block[..0xFC]), &[0; 4]);
            let (found, right) = (be32(block, 0xFC), crc32c(crc, &block[0x100..SUPERBLOCK_SIZE]));
            if !fits(found, right) {
                return bad("s_checksum", format!("is {found:#010x}, expected {right:#010x}"));
            }
        }
        let maxlen = be32(block, 0x10);
        if maxlen > len {
            return bad("s_maxlen", format!("is {maxlen}, but the journal has {len} blocks"));
        }
        let mut last = maxlen;
        if incompat & incompat::FAST_COMMIT != 0 {
            let fast = if be32(block, 0x54) == 0 { FAST_COMMIT_BLOCKS } else { be32(block, 0x54) };
            if let Some(rest) = maxlen.checked_sub(fast).filter(|rest| *rest >= LOG_MIN) {
                last = rest;
            }
        }
        let (first, start) = (be32(block, 0x14), be32(block, 0x1C));
        if first == 0 || first >= last {
            return bad("s_first", format!("is {first}, expected 1 to {}", last.saturating_sub(1)));
        }
        if start >= maxlen {
            return bad("s_start", format!("is {start}, expected 0 to {}", maxlen - 1));
        }
        Ok(Superblock {
            compat,
            incompat,
            maxlen,
            first,
            last,
            sequence: be32(block, 0x18),
            start,
            csum_seed: crc32c(!0, &block[0x30..0x40]),
        })
    }

    /// Returns true if there is nothing to replay.
    pub(super) fn is_clean(&self) -> bool {
        self.start == 0
    }

    /// Returns the blocks reserved for fast commits.
    pub(super) fn fast_commits(&self) -> std::ops::Range<u32> {
        if self.has(incompat::FAST_COMMIT) { self.last + 1..self.maxlen } else { 0..0 }
    }

    fn has(&self, incompat: u32) -> bool {
        self.incompat & incompat != 0
    }

    /// Returns true if each block has a checksum.
    fn csum_v2or3(&self) -> bool {
        self.has(incompat::CSUM_V2 | incompat::CSUM_V3)
    }

    fn tag_size(&self) -> usize {
        if self.has(incompat::CSUM_V3) {
            return tag::SIZE_V3;
        }
        8 + if self.has(incompat::BIT64) { 4 } else { 0 } + if self.has(incompat::CSUM_V2) { 2 } else { 0 }
    }

    /// Returns the block of the log `count` after `block`.
    fn after(&self, block: u32, count: u32) -> u32 {
        let next = u64::from(block) + u64::from(count);
        let size = u64::from(self.last - self.first);
        let wrapped = if next >= u64::from(self.last) {
            u64::from(self.first) + (next - u64::from(self.last)) % size
        } else {
            next
        };
        u32::try_from(wrapped).expect("below last")
    }

    /// Returns true if the checksum at byte `at` matches the block, with zeros in its place.
    fn sum_fits(&self, block: &[u8], at: usize) -> bool {
        if !self.csum_v2or3() {
            return true;
        }
        let crc = crc32c(crc32c(crc32c(self.csum_seed, &block[..at]), &[0; 4]), &block[at + 4..]);
        fits(be32(block, at), crc)
    }

    /// Returns true if the checksum of a commit block matches. Like the kernel, also accepts it if it matches with
    /// zeros after the header: everything relevant in the block was written.
    fn commit_fits(&self, block: &[u8]) -> bool {
        const H_CHKSUM: usize = 0x10;
        let mut header = block[..COMMIT_HEADER].to_vec();
        header.resize(block.len(), 0);
        self.sum_fits(block, H_CHKSUM) || self.sum_fits(&header, H_CHKSUM)
    }

    /// Returns the tags of a descriptor block.
    fn tags(&self, block: &[u8]) -> Vec<Tag> {
        let size = self.tag_size();
        let end = block.len() - if self.csum_v2or3() { TAIL } else { 0 };
        let mut tags = Vec::new();
        let mut next = HEADER;
        while next + size <= end {
            let flags = be16(block, next + 6);
            let wide = self.has(incompat::BIT64) && size >= 12;
            let high = if wide { u64::from(be32(block, next + 8)) << 32 } else { 0 };
            let checksum = if self.has(incompat::CSUM_V3) {
                be32(block, next + 12)
            } else {
                u32::from(be16(block, next + 4))
            };
            tags.push(Tag {
                block: u64::from(be32(block, next)) | high,
                escaped: flags & tag::ESCAPE != 0,
                checksum,
            });
            next += size + if flags & tag::SAME_UUID == 0 { UUID } else { 0 };
            if flags & tag::LAST != 0 {
                break;
            }
        }
        tags
    }

    /// Returns true if the checksum in `tag` matches the block of the journal that it describes.
    fn tag_fits(&self, tag: &Tag, sequence: u32, block: &[u8]) -> bool {
        if !self.csum_v2or3() {
            return true;
        }
        let crc = crc32c(crc32c(self.csum_seed, &sequence.to_be_bytes()), block);
        fits(tag.checksum, if self.has(incompat::CSUM_V3) { crc } else { crc & 0xFFFF })
    }
}

/// The target of a block that follows a descriptor in the journal.
struct Tag {
    block: u64,
    escaped: bool,
    checksum: u32,
}

/// True if transaction `a` is later than `b`; the numbers wrap around.
fn later(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

/// Returns the changes that mounting would write. Fails if mounting would fail before it wrote anything; other blocks
/// that cannot be written are warnings.
pub(super) fn replay(log: &dyn Log, sb: &Superblock) -> Result<Replay> {
    let mut replay = Replay { next: sb.sequence, ..Replay::default() };
    if sb.is_clean() {
        return Ok(replay);
    }
    let (end, warning) = scan(log, sb)?;
    replay.warnings.extend(warning);
    let revoked = revokes(log, sb, end, REVOKED_MAX)?;
    let mut visitor = |sequence, block, bytes: &[u8]| {
        let mut damaged = 0_u64;
        for (i, tag) in (1..).zip(sb.tags(bytes)) {
            let from = sb.after(block, i);
            if revoked.get(&tag.block).is_some_and(|at| !later(sequence, *at)) {
                continue;
            }
            if sb.csum_v2or3() && !sb.tag_fits(&tag, sequence, &log.read(from)?) {
                damaged += 1;
                continue;
            }
            replay.changes.insert(tag.block, (from, tag.escaped));
        }
        if damaged > 0 {
            replay.warnings.push(format!(
                "transaction {sequence} in the journal: {damaged} blocks are damaged and were not replayed"
            ));
        }
        Ok(())
    };
    walk(log, sb, end, kind::DESCRIPTOR, &mut visitor)?;
    replay.next = end;
    Ok(replay)
}

/// Finds the number of the first incomplete transaction; also returns a warning if the reason is unusual.
fn scan(log: &dyn Log, sb: &Superblock) -> Result<(u32, Option<String>)> {
    let checksum_v1 = sb.compat & COMPAT_CHECKSUM != 0;
    let mut next = sb.sequence;
    let mut end = None;
    let mut block = sb.start;
    let mut sum = !0;
    let mut suspicious = false;
    let mut last_time = 0;
    let mut visited = 0;
    while visited < u64::from(sb.maxlen) {
        let bytes = log.read(block)?;
        visited += 1;
        if !has_magic(&bytes) || be32(&bytes, 8) != next {
            break;
        }
        match be32(&bytes, 4) {
            kind::DESCRIPTOR => {
                // A block left over from an older journal is not an error: the time of its commit will show it.
                suspicious |= !sb.sum_fits(&bytes, bytes.len() - TAIL);
                let count = u32::try_from(sb.tags(&bytes).len()).expect("fewer than a block's bytes");
                if checksum_v1 && !suspicious && end.is_none() {
                    sum = crc32_be(sum, &bytes);
                    for i in 1..=count {
                        sum = crc32_be(sum, &log.read(sb.after(block, i))?);
                    }
                }
                visited += u64::from(count);
                block = sb.after(block, count);
            }
            kind::COMMIT => {
                let time = be64(&bytes, 0x30);
                if suspicious {
                    if time < last_time {
                        break;
                    }
                    return Err(place(block).corrupt(format!(
                        "transaction {next} was committed, but one of its blocks does not match its checksum"
                    )));
                }
                let mut is_whole = sb.commit_fits(&bytes);
                if checksum_v1 {
                    if end.is_some() {
                        break;
                    }
                    let (kind, size, found) = (bytes[0xC], bytes[0xD], be32(&bytes, 0x10));
                    is_whole = fits((kind, size, found), (1, 4, sum)) || (kind, size, found) == (0, 0, 0);
                    sum = !0;
                }
                if !is_whole {
                    if time < last_time {
                        break;
                    }
                    // A later transaction counts instead: the log continues, so that one was not its end.
                    end = Some(next);
                    if !sb.has(incompat::ASYNC_COMMIT) {
                        break;
                    }
                }
                last_time = time;
                next = next.wrapping_add(1);
            }
            kind::REVOKE => suspicious |= !sb.sum_fits(&bytes, bytes.len() - TAIL),
            _ => break,
        }
        block = sb.after(block, 1);
    }
    let warning = end.map(|end| {
        format!(
            "the journal was replayed only up to transaction {end}, whose commit block does not match its checksum"
        )
    });
    Ok((end.unwrap_or(next), warning))
}

/// Returns the revoked blocks, each with the last transaction that revoked it: changes to it by that and earlier
/// transactions are not replayed. Fails if there are more than `most`.
fn revokes(log: &dyn Log, sb: &Superblock, end: u32, most: usize) -> Result<HashMap<u64, u32>> {
    let mut revoked = HashMap::new();
    walk(log, sb, end, kind::REVOKE, &mut |sequence, block, bytes| {
        let room = bytes.len() - if sb.csum_v2or3() { TAIL } else { 0 };
        let count = be32(bytes, HEADER) as usize;
        if count > room {
            return Err(place(block).field("r_count").corrupt(format!("is {count}, expected up to {room}")));
        }
        let size = if sb.has(incompat::BIT64) { 8 } else { 4 };
        for record in bytes[REVOKE_HEADER.min(count)..count].chunks_exact(size) {
            let number = if size == 8 { be64(record, 0) } else { u64::from(be32(record, 0)) };
            let latest = revoked.entry(number).or_insert(sequence);
            if later(sequence, *latest) {
                *latest = sequence;
            }
        }
        if revoked.len() > most {
            return Err(at("journal").limit(format!("revokes more than {most} blocks")));
        }
        Ok(())
    })?;
    Ok(revoked)
}

/// A callback for a block of the log: the transaction, the position of the block, its bytes.
type Visit<'a> = &'a mut dyn FnMut(u32, u32, &[u8]) -> Result<()>;

/// Passes the blocks of `wanted` kind of all transactions before `end` to `found`.
fn walk(log: &dyn Log, sb: &Superblock, end: u32, wanted: u32, found: Visit<'_>) -> Result<()> {
    let mut next = sb.sequence;
    let mut block = sb.start;
    let mut visited = 0;
    while later(end, next) && visited < u64::from(sb.maxlen) {
        let bytes = log.read(block)?;
        visited += 1;
        if !has_magic(&bytes) || be32(&bytes, 8) != next {
            break;
        }
        let kind = be32(&bytes, 4);
        if kind == wanted {
            found(next, block, &bytes)?;
        }
        match kind {
            kind::DESCRIPTOR => {
                let count = u32::try_from(sb.tags(&bytes).len()).expect("fewer than a block's bytes");
                visited += u64::from(count);
                block = sb.after(block, count);
            }
            kind::COMMIT => next = next.wrapping_add(1),
            kind::REVOKE => {}
            _ => break,
        }
        block = sb.after(block, 1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 1024;

    /// A journal in memory.
    struct Memory(Vec<Vec<u8>>);

    impl Log for Memory {
        fn len(&self) -> u32 {
            self.0.len() as u32
        }

        fn read(&self, block: u32) -> Result<Vec<u8>> {
            Ok(self.0[block as usize].clone())
        }
    }

    fn block(kind: u32, sequence: u32, rest: &[u32]) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::new();
        for word in [&[MAGIC, kind, sequence], rest].concat() {
            bytes.extend(word.to_be_bytes());
        }
        bytes.resize(BLOCK, 0);
        bytes
    }

    /// Returns a log of `len` blocks, with `blocks` from `start` on, beginning with transaction 7. The rest is zeros.
    fn journal(len: u32, start: u32, blocks: Vec<Vec<u8>>) -> (Memory, Superblock) {
        let first = block(kind::SUPERBLOCK_V2, 0, &[BLOCK as u32, len, 1, 7, start, 0, 0, 1]);
        let mut all = vec![vec![0; BLOCK]; len as usize];
        let sb = Superblock::parse(&first, len).unwrap();
        all[0] = first;
        let mut at = start;
        for block in blocks {
            all[at as usize] = block;
            at = sb.after(at, 1);
        }
        (Memory(all), sb)
    }

    const SAME: u32 = tag::SAME_UUID as u32;
    const LAST: u32 = (tag::LAST | tag::SAME_UUID) as u32;

    fn commit(sequence: u32) -> Vec<u8> {
        block(kind::COMMIT, sequence, &[])
    }

    fn data(byte: u8) -> Vec<u8> {
        vec![byte; BLOCK]
    }

    fn changes(journal: &(Memory, Superblock)) -> Vec<(u64, u32)> {
        let replay = replay(&journal.0, &journal.1).unwrap();
        replay.changes.into_iter().map(|(block, (from, _))| (block, from)).collect()
    }

    #[test]
    fn a_log_that_wraps_is_followed() {
        let tags = block(kind::DESCRIPTOR, 7, &[100, SAME, 101, LAST]);
        assert_eq!(changes(&journal(8, 6, vec![tags, data(1), data(2), commit(7)])), [(100, 7), (101, 1)]);
    }

    #[test]
    fn what_was_not_committed_is_left_out() {
        let (one, two) = (block(kind::DESCRIPTOR, 7, &[100, LAST]), block(kind::DESCRIPTOR, 8, &[200, LAST]));
        assert_eq!(changes(&journal(16, 1, vec![one, data(1), commit(7), two, data(2)])), [(100, 2)]);
    }

    #[test]
    fn a_revoked_block_is_replayed_only_from_later_transactions() {
        let write = |sequence| block(kind::DESCRIPTOR, sequence, &[100, LAST]);
        let revoke = |sequence| block(kind::REVOKE, sequence, &[20, 100]);
        let mut log = vec![write(7), data(1), commit(7), revoke(8), commit(8)];
        assert_eq!(changes(&journal(16, 1, log.clone())), []);
        log.extend([write(9), data(2), commit(9)]);
        assert_eq!(changes(&journal(16, 1, log.clone())), [(100, 7)]);
        // A block can be revoked by the same transaction that writes it.
        log.extend([write(10), data(3), revoke(10), commit(10)]);
        assert_eq!(changes(&journal(16, 1, log)), []);
    }

    #[test]
    fn a_journal_that_revokes_more_blocks_than_the_limit_is_refused() {
        let revoke = |sequence, block_number| block(kind::REVOKE, sequence, &[24, 100, block_number]);
        let (log, sb) = journal(16, 1, vec![revoke(7, 101), commit(7), revoke(8, 102), commit(8)]);
        assert_eq!(revokes(&log, &sb, 9, 3).unwrap().len(), 3);
        let error = revokes(&log, &sb, 9, 2).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Limit);
        assert_eq!(error.to_string(), "journal: revokes more than 2 blocks");
    }

    /// Returns a journal with version 3 checksums and asynchronous commits, whose transactions each write one block,
    /// starting with 100; also returns the positions of its commits.
    fn summed(transactions: u32) -> (Memory, Superblock, Vec<usize>) {
        let (_, mut sb) = journal(64, 1, Vec::new());
        sb.incompat = incompat::CSUM_V3 | incompat::ASYNC_COMMIT;
        let sum = |block: &mut Vec<u8>, at: usize| {
            let sum = crc32c(sb.csum_seed, block).to_be_bytes();
            block[at..at + 4].copy_from_slice(&sum);
        };
        let mut blocks = vec![Vec::new()];
        let mut commits = Vec::new();
        for i in 0..transactions {
            let bytes = data(i as u8);
            let tag = crc32c(crc32c(sb.csum_seed, &(7 + i).to_be_bytes()), &bytes);
            let mut tags = block(kind::DESCRIPTOR, 7 + i, &[100 + i, LAST, 0, tag]);
            sum(&mut tags, BLOCK - TAIL);
            let mut commit = commit(7 + i);
            commit[0x37] = i as u8; // h_commit_sec
            sum(&mut commit, 0x10);
            blocks.extend([tags, bytes, commit]);
            commits.push(blocks.len() - 1);
        }
        blocks.resize(64, vec![0; BLOCK]);
        (Memory(blocks), sb, commits)
    }

    #[test]
    fn a_commit_block_of_which_only_the_header_was_written_counts() {
        let (mut log, sb, commits) = summed(2);
        log.0[commits[1]][COMMIT_HEADER..].fill(0xAB);
        let found = replay(&log, &sb).unwrap();
        assert_eq!((found.changes.len(), found.warnings), (2, vec![]));
        log.0[commits[1]][COMMIT_HEADER - 1] = 1;
        let found = replay(&log, &sb).unwrap();
        assert_eq!((found.changes.len(), found.next), (1, 8));
        assert!(found.warnings[0].contains("only up to transaction 8"), "{:?}", found.warnings);
    }

    #[test]
    fn with_asynchronous_commits_the_log_ends_at_the_last_that_does_not_fit() {
        let (mut log, sb, commits) = summed(5);
        log.0[commits[1]][0x3F] ^= 1;
        log.0[commits[3]][0x3F] ^= 1;
        let found = replay(&log, &sb).unwrap();
        assert_eq!(found.changes.into_keys().collect::<Vec<_>>(), [100, 101, 102]);
        assert_eq!((found.next, found.warnings.len()), (10, 1));
        assert!(found.warnings[0].contains("only up to transaction 10"), "{:?}", found.warnings);
    }

    #[test]
    fn a_log_without_an_end_is_left() {
        let round = vec![block(kind::REVOKE, 7, &[16]); 15];
        assert_eq!(changes(&journal(16, 1, round)), []);
        let round = vec![block(kind::DESCRIPTOR, 7, &[1, LAST]); 15];
        assert_eq!(changes(&journal(16, 1, round)), []);
    }

    #[test]
    fn transaction_numbers_go_round() {
        assert!(later(0, u32::MAX));
        assert!(!later(u32::MAX, 0));
        assert!(!later(5, 5));
    }

    #[test]
    fn one_wrong_field_of_the_superblock_is_named() {
        let good = block(kind::SUPERBLOCK_V2, 0, &[BLOCK as u32, 64, 1, 7, 1, 0, 0, 1]);
        for (at, value, error) in [
            (0, 0, "h_magic: is 0x0, expected 0xc03b3998"),
            (4, 1, "h_blocktype: is 1, expected 3 or 4"),
            (0xC, 4096, "s_blocksize: is 4096, expected 1024"),
            (0x10, 65, "s_maxlen: is 65, but the journal has 64 blocks"),
            (0x14, 0, "s_first: is 0, expected 1 to 63"),
            (0x1C, 64, "s_start: is 64, expected 0 to 63"),
            (0x2C, 1, "s_feature_ro_compat: has unknown features: 0x1"),
            (0x28, 0x40, "s_feature_incompat: has unknown features: 0x40"),
            (0x28, 0x18, "s_feature_incompat: has two kinds of checksums"),
            (0x28, 0x10, "s_checksum: is 0x00000000, expected"),
        ] {
            let mut block = good.clone();
            block[at..at + 4].copy_from_slice(&u32::to_be_bytes(value));
            let found = Superblock::parse(&block, 64).unwrap_err().to_string();
            assert!(found.contains(error), "{found}");
        }
    }
}
