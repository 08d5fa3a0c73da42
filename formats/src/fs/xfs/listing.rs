//! Reading directory entries from blocks or from the inode.

use super::blocks::Blocks;
use super::dir::{self, LEAF_OFFSET, Place, RawEntry};
use super::extent::Extent;
use super::inode::{Format, Inode};
use super::superblock::Superblock;
use crate::error::{Error, ErrorKind, Result, at};
use crate::fs::DirEntry;

/// Bytes of a directory that are read at once.
const CHUNK: u64 = 256 << 10;
/// The most entries of one directory.
const ENTRIES_MAX: usize = 1 << 23;
/// The most damaged blocks before the rest of a directory is skipped.
const DAMAGED_MAX: usize = 1 << 12;

/// Returns the entries of the directory `inode`, whose blocks are `extents`.
pub(super) fn list(
    blocks: &Blocks,
    sb: &Superblock,
    inode: &Inode,
    extents: &[Extent],
    complain: &mut dyn FnMut(Error),
) -> Result<Vec<DirEntry>> {
    let mut reader =
        Reader { blocks, sb, ino: inode.number, entries: Vec::new(), most: ENTRIES_MAX, damaged: 0 };
    if inode.data().format == Format::Local {
        let place = Place { ino: inode.number, offset: inode.data().offset, is_summed: true };
        let bytes = inode.local()?;
        let listed = dir::short(bytes, sb.features.has_ftype(), place, &mut |entry| {
            reader.entry(entry, place, complain);
        });
        if let Err(error) = listed {
            complain(error);
        }
        return Ok(reader.entries);
    }
    check_once(inode.number, sb, extents)?;
    reader.blocks(extents, complain)?;
    Ok(reader.entries)
}

/// Fails if a volume block occurs twice. This bounds the data read for a directory by the size of the volume.
fn check_once(ino: u64, sb: &Superblock, extents: &[Extent]) -> Result<()> {
    let mut lie: Vec<(u64, u64)> =
        extents.iter().map(|extent| (extent.block, extent.block + extent.count)).collect();
    lie.sort_unstable();
    match lie.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        None => Ok(()),
        Some(pair) => {
            let place = at(format!("directory inode {ino}"));
            let place = match sb.place(pair[1].0, 1) {
                Some(linear) => place.byte(sb.bytes(linear)),
                None => place,
            };
            Err(place.corrupt("uses one block of the volume twice"))
        }
    }
}

/// The entries read so far.
struct Reader<'a> {
    blocks: &'a Blocks,
    sb: &'a Superblock,
    ino: u64,
    entries: Vec<DirEntry>,
    /// The most entries there may be.
    most: usize,
    /// Damaged blocks so far.
    damaged: usize,
}

impl Reader<'_> {
    /// Reads the data blocks in `extents`. A directory block may consist of several volume blocks, which need not be
    /// contiguous. Missing directory blocks are not damage: their entries were deleted.
    fn blocks(&mut self, extents: &[Extent], complain: &mut dyn FnMut(Error)) -> Result<()> {
        let size = self.sb.dir_block_size as usize;
        let per_block = u64::from(self.sb.dir_block_size / self.sb.block_size);
        let end = LEAF_OFFSET >> self.sb.block_log;
        let ino = self.ino;
        let place = || at(format!("directory inode {ino}"));
        let chunk_blocks = CHUNK >> self.sb.block_log;
        // The bytes so far of a directory block split across extents, and the file block where its next part belongs.
        let mut partial: Vec<u8> = Vec::new();
        let mut partial_at = Place { ino: self.ino, offset: 0, is_summed: true };
        let mut next = 0;
        for extent in extents.iter().take_while(|extent| extent.logical < end) {
            if extent.unwritten {
                complain(place().corrupt(format!("has {} blocks that were never written", extent.count)));
                continue;
            }
            if extent.logical != next && !partial.is_empty() {
                complain(
                    place().corrupt(format!("lacks a part of the block at {}", next / per_block * per_block)),
                );
                partial.clear();
            }
            let (mut done, count) = (0, extent.count.min(end - extent.logical));
            if partial.is_empty() && !extent.logical.is_multiple_of(per_block) {
                complain(place().corrupt(format!("lacks the start of the block at {}", extent.logical)));
                done = extent.logical.next_multiple_of(per_block) - extent.logical;
            }
            while done < count {
                let now = chunk_blocks.max(1).min(count - done);
                let Some(linear) = self.sb.place(extent.block + done, now) else { break };
                let offset = self.sb.bytes(linear);
                let bytes = match self.blocks.read("directory", offset, self.sb.bytes(now) as usize) {
                    Ok(bytes) => bytes,
                    Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                    Err(error) => {
                        complain(error);
                        partial.clear();
                        break;
                    }
                };
                done += now;
                let mut rest = &bytes[..];
                let mut rest_at = offset;
                if !partial.is_empty() {
                    let missing = (size - partial.len()).min(rest.len());
                    partial_at.is_summed &= !self.blocks.is_replayed(rest_at, missing as u64);
                    partial.extend_from_slice(&rest[..missing]);
                    (rest, rest_at) = (&rest[missing..], rest_at + missing as u64);
                    if partial.len() == size {
                        let whole = std::mem::take(&mut partial);
                        self.block(&whole, partial_at, complain)?;
                    }
                }
                let whole = rest.len() / size * size;
                for block in rest[..whole].chunks_exact(size) {
                    let is_summed = !self.blocks.is_replayed(rest_at, size as u64);
                    self.block(block, Place { ino: self.ino, offset: rest_at, is_summed }, complain)?;
                    rest_at += size as u64;
                }
                if whole < rest.len() {
                    let is_summed = !self.blocks.is_replayed(rest_at, (rest.len() - whole) as u64);
                    partial_at = Place { ino: self.ino, offset: rest_at, is_summed };
                    partial.extend_from_slice(&rest[whole..]);
                }
            }
            next = extent.logical + count;
        }
        if !partial.is_empty() {
            complain(place().corrupt("lacks the end of its last block"));
        }
        Ok(())
    }

    fn block(&mut self, block: &[u8], place: Place, complain: &mut dyn FnMut(Error)) -> Result<()> {
        let listed = dir::block(block, self.sb, place, &mut |entry| self.entry(entry, place, complain));
        let limit = |what: String| Err(at(format!("directory inode {}", self.ino)).limit(what));
        if let Err(error) = listed {
            complain(error);
            self.damaged += 1;
            if self.damaged > DAMAGED_MAX {
                return limit(format!("has more than {DAMAGED_MAX} damaged blocks"));
            }
        }
        if self.entries.len() > self.most {
            return limit(format!("has more than {} entries", self.most));
        }
        Ok(())
    }

    fn entry(&mut self, entry: RawEntry<'_>, place: Place, complain: &mut dyn FnMut(Error)) {
        let name = entry.name;
        if name == b"." || name == b".." {
            return;
        }
        if name.is_empty() {
            return complain(place.corrupt("namelen", entry.start, "is 0, but names cannot be empty"));
        }
        if name.iter().any(|b| matches!(b, 0 | b'/')) {
            let problem = format!("is {:?}, which is not a valid name", name.escape_ascii().to_string());
            return complain(place.corrupt("name", entry.start, problem));
        }
        if self.sb.place_of_inode(entry.ino).is_none() {
            let problem = format!("is {:#x}, which is no inode of the volume", entry.ino);
            return complain(place.corrupt("inumber", entry.start, problem));
        }
        self.entries.push(DirEntry {
            name: name.to_vec(),
            short_name: None,
            dos_name: None,
            node: entry.ino,
        });
    }
}
