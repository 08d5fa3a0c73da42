//! Reads the entries of a directory, from its blocks or from its inode.

use super::inode::{Inode, flags};
use super::superblock::Superblock;
use super::{Ext4, dir, map};
use crate::error::{Error, ErrorKind, Result, at};
use crate::fs::{DirEntry, NodeId, Piece};

/// The number of bytes of a directory that are read at once.
const DIR_CHUNK: u64 = 256 << 10;
/// The most entries of a directory.
const ENTRIES_MAX: usize = 1 << 23;

impl Ext4 {
    /// Returns the entries of the directory `inode` on the volume, without fast commits.
    pub(super) fn listing(&self, inode: &Inode, complain: &mut dyn FnMut(Error)) -> Result<Vec<DirEntry>> {
        self.listing_up_to(ENTRIES_MAX, inode, complain)
    }

    /// As [`Ext4::listing`], with a limit of `most` entries.
    fn listing_up_to(
        &self,
        most: usize,
        inode: &Inode,
        complain: &mut dyn FnMut(Error),
    ) -> Result<Vec<DirEntry>> {
        let mut listing = DirReader { sb: &self.sb, inode, entries: Vec::new(), most };
        if inode.has(flags::INLINE_DATA) {
            listing.inline(&self.inline_data(inode)?, complain)?;
        } else {
            self.dir_blocks(&mut listing, complain)?;
        }
        Ok(listing.entries)
    }

    /// Passes the blocks of a directory to `listing` one after the other. Complains about holes.
    fn dir_blocks(&self, listing: &mut DirReader<'_>, complain: &mut dyn FnMut(Error)) -> Result<()> {
        let inode = listing.inode;
        let content = map::content(&self.blocks, &self.sb, &self.groups, inode)?;
        let place = || at(format!("directory inode {}", inode.number));
        let mut lie: Vec<(u64, u64)> = Vec::new();
        lie.extend(content.pieces.iter().filter_map(|piece| match piece {
            Piece::Volume { offset, len } => Some((*offset, *offset + *len)),
            _ => None,
        }));
        lie.sort_unstable();
        if let Some(pair) = lie.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            return Err(place().byte(pair[1].0).corrupt("uses a block of the volume twice"));
        }
        let block_size = self.sb.block_size as usize;
        let mut bytes: Vec<u8> = Vec::new();
        for piece in &content.pieces {
            if let Piece::Zero { len } = piece {
                complain(place().corrupt(format!("has a hole of {len} bytes")));
                continue;
            }
            let mut start = 0;
            while start < piece.len() {
                let len = DIR_CHUNK.min(piece.len() - start);
                let origin = match piece {
                    Piece::Volume { offset, .. } => (offset + start).saturating_sub(bytes.len() as u64),
                    _ => 0,
                };
                let whole = match self.read_piece(piece, start, len, &mut bytes) {
                    Ok(()) => bytes.len() / block_size * block_size,
                    Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                    Err(error) => {
                        complain(error);
                        bytes.clear();
                        0
                    }
                };
                for (i, block) in bytes[..whole].chunks_exact(block_size).enumerate() {
                    listing.block(block, origin + (i * block_size) as u64, complain)?;
                }
                bytes.drain(..whole);
                start += len;
            }
        }
        if !bytes.is_empty() {
            complain(place().field("i_size").byte(inode.offset + 4).corrupt(format!(
                "is {}, not a multiple of the block size {block_size}; the end was left out",
                inode.size
            )));
        }
        Ok(())
    }
}

/// A reader of a directory's entries.
struct DirReader<'a> {
    sb: &'a Superblock,
    inode: &'a Inode,
    entries: Vec<DirEntry>,
    /// The limit of entries.
    most: usize,
}

impl DirReader<'_> {
    /// Adds the entries of a block at byte `offset` of the volume.
    fn block(&mut self, block: &[u8], offset: u64, complain: &mut dyn FnMut(Error)) -> Result<()> {
        let place = dir::BlockAt { inode: self.inode.number, offset };
        let csum_seed = self.sb.metadata_csum().then(|| self.inode.csum_seed(self.sb));
        let chain = dir::entries(block, csum_seed, place, &mut |entry| self.entry(entry, place, complain));
        if let Err(error) = chain {
            complain(error);
        }
        self.check_count()
    }

    /// Adds the entries of a directory that is stored in its inode: its parent's number, then two chains.
    fn inline(&mut self, bytes: &[u8], complain: &mut dyn FnMut(Error)) -> Result<()> {
        const PARENT: usize = 4;
        let in_block = self.inode.block.len().min(bytes.len());
        let offset = self.inode.offset + 0x28;
        let attribute = self.inode.offset + self.inode.xattr_at as u64;
        for (chain, offset) in
            [(bytes.get(PARENT..in_block), offset + PARENT as u64), (bytes.get(in_block..), attribute)]
        {
            let place = dir::BlockAt { inode: self.inode.number, offset };
            let chain = chain.unwrap_or_default();
            let result = dir::chain(chain, place, &mut |entry| self.entry(entry, place, complain));
            if let Err(error) = result {
                complain(error);
            }
        }
        self.check_count()
    }

    fn check_count(&self) -> Result<()> {
        if self.entries.len() <= self.most {
            return Ok(());
        }
        Err(at(format!("directory inode {}", self.inode.number))
            .limit(format!("has more than {} entries", self.most)))
    }

    fn entry(&mut self, entry: dir::RawEntry<'_>, place: dir::BlockAt, complain: &mut dyn FnMut(Error)) {
        let name = entry.name;
        if name == b"." || name == b".." {
            return;
        }
        if entry.inode > self.sb.inodes_count {
            let problem = format!("is {}, expected 1 to {}", entry.inode, self.sb.inodes_count);
            return complain(place.corrupt("inode", entry.start, problem));
        }
        let encrypted = self.inode.has(flags::ENCRYPT);
        if name.is_empty() {
            return complain(place.corrupt("name_len", entry.start + 6, "is 0, but names cannot be empty"));
        }
        if !encrypted && name.iter().any(|b| matches!(b, 0 | b'/')) {
            let problem = format!("is {:?}, which is not a valid name", name.escape_ascii().to_string());
            return complain(place.corrupt("name", entry.start + 8, problem));
        }
        let name = if encrypted { base64url(name) } else { name.to_vec() };
        self.entries.push(DirEntry {
            name,
            short_name: None,
            dos_name: None,
            node: NodeId::from(entry.inode),
        });
    }
}

/// Encodes the encrypted name of a file. It may contain any byte, so it is shown as the kernel shows one without its
/// key: in base64 with the alphabet for file names, unpadded. (The kernel adds hashes in front, and truncates it.)
fn base64url(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0, |word, b| word << 8 | usize::from(*b)) << (8 * (3 - chunk.len()));
        text.extend((0..=chunk.len()).map(|i| ALPHABET[word >> (18 - 6 * i) & 63]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_more_entries_than_the_limit_is_refused() {
        let fs = crate::fs::ext4::tests::small();
        let root = fs.inode(2).unwrap();
        assert_eq!(fs.listing_up_to(1, &root, &mut |e| panic!("{e}")).unwrap().len(), 1);
        let error = fs.listing_up_to(0, &root, &mut |e| panic!("{e}")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Limit);
        assert_eq!(error.to_string(), "directory inode 2: has more than 0 entries");
    }

    #[test]
    fn ciphertext_is_shown_in_base64() {
        assert_eq!(base64url(b"light w"), b"bGlnaHQgdw");
        assert_eq!(base64url(&[0xFF, 0xFE]), b"__4");
        assert_eq!(base64url(b"abc"), b"YWJj");
    }
}
