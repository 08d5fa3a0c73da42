//! Maps a qcow2 image's clusters (qcow2 specification, "Cluster mapping" and "Extended L2 Entries").

use super::header::{Header, incompatible};
use crate::bytes::be64;
use crate::cache::Cache;
use crate::container::ImageFile;
use crate::container::codec::{Codec, Unpacker};
use crate::container::mapped::{Map, Packed, Place, Run, entries_to_look_at};
use crate::error::{Result, at};
use crate::luks::Cipher;
use crate::source::Source;

/// Bits 9 to 55 of an L1 or L2 entry: an offset in the file.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
/// Marks the offset of an encrypted cluster among the packed blocks; descriptors of compressed ones lack this bit.
const ENCRYPTED: u64 = COPIED;
/// The unit of encryption in bytes, in which its vectors count from the start of the file.
const ENCRYPTED_SECTOR: u64 = 512;
/// Subclusters in a cluster with extended L2 entries.
const SUBCLUSTERS: u64 = 32;
/// The size of the cache of L2 tables in bytes.
const L2_CACHE: usize = 32 << 20;

/// The clusters of one state of the disk: the current one or a snapshot.
pub(super) struct Clusters {
    pub(super) header: Header,
    /// The disk's size in bytes.
    pub(super) size: u64,
    /// Offsets of L2 tables; 0 for none.
    l1: Vec<u64>,
    l2: Cache<Vec<u64>>,
    image: ImageFile,
    data_file: Option<ImageFile>,
    unpacker: Unpacker,
    cipher: Option<Cipher>,
}

/// The kind of a cluster or subcluster in an L2 entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Absent,
    Zero,
    /// Stored at this offset in the file.
    Stored(u64),
    /// Compressed, with this descriptor.
    Packed(u64),
}

impl Clusters {
    /// Reads as much of the L1 table of `entries` entries at `offset` as a disk of `size` bytes needs.
    pub(super) fn new(
        header: Header,
        image: ImageFile,
        data_file: Option<ImageFile>,
        cipher: Option<Cipher>,
        (offset, entries): (u64, u32),
        size: u64,
    ) -> Result<Self> {
        let needed = header.l1_entries(size);
        let place = || at("qcow2 L1 table").file(image.path()).byte(offset);
        if u64::from(entries) < needed {
            return Err(place().corrupt(format!("has {entries} entries, but the disk needs {needed}")));
        }
        if needed * 8 > super::header::MAX_L1_BYTES {
            return Err(place().limit(format!("has too many entries: {needed}")));
        }
        if offset % header.cluster_size() != 0 {
            return Err(place().corrupt("is not aligned to the cluster size"));
        }
        if offset.checked_add(needed * 8).is_none_or(|end| end > image.len()) {
            let problem =
                format!("extends past the end of the file at {}; is the file truncated?", image.len());
            return Err(place().corrupt(problem));
        }
        let bytes = image.read_vec(offset, needed as usize * 8)?;
        let l1 = bytes.chunks_exact(8).map(|entry| be64(entry, 0) & OFFSET_MASK).collect();
        let unpacker = Unpacker::default();
        Ok(Clusters { header, size, l1, l2: Cache::new(L2_CACHE), image, data_file, unpacker, cipher })
    }

    fn extended(&self) -> bool {
        self.header.has(incompatible::EXTENDED_L2)
    }

    /// Returns the L2 table at `offset` in the file, as words: two per entry if they are extended.
    fn l2_table(&self, offset: u64) -> Result<std::sync::Arc<Vec<u64>>> {
        let size = self.header.cluster_size();
        self.l2.get(offset, size as usize, || {
            let place = || at("qcow2 L2 table").file(self.image.path()).byte(offset);
            if !offset.is_multiple_of(size) {
                return Err(place().corrupt("is not aligned to the cluster size"));
            }
            if offset + size > self.image.len() {
                return Err(place().corrupt(format!(
                    "extends past the end of the file at {}; is the file truncated?",
                    self.image.len()
                )));
            }
            let bytes = self.image.read_vec(offset, size as usize)?;
            Ok(bytes.chunks_exact(8).map(|word| be64(word, 0)).collect())
        })
    }

    /// Returns the kind of subcluster `subcluster` in cluster `index` of `table`.
    fn kind(&self, table: &[u64], index: usize, subcluster: u64) -> Result<Kind> {
        let entry = table[if self.extended() { index * 2 } else { index }];
        let corrupt = |problem: &str| {
            let place = at("qcow2 L2 entry").file(self.image.path());
            Err(place.corrupt(format!("{entry:#018x} (number {index} of its table): {problem}")))
        };
        if entry & COMPRESSED != 0 {
            return match self.data_file {
                Some(_) => corrupt("a compressed cluster in an image with an external data file"),
                None => Ok(Kind::Packed(entry & !(COMPRESSED | COPIED))),
            };
        }
        let offset = entry & OFFSET_MASK;
        // With an external data file, 0 is an ordinary offset if the entry says that it is in use.
        let allocated = offset != 0 || (self.data_file.is_some() && entry & COPIED != 0);
        if allocated && !offset.is_multiple_of(self.header.cluster_size()) {
            return corrupt("the cluster is not aligned to the cluster size");
        }
        if self.extended() {
            let bitmap = table[index * 2 + 1];
            let (is_allocated, is_zero) = (bitmap as u32, (bitmap >> 32) as u32);
            if is_allocated & is_zero != 0 || (!allocated && is_allocated != 0) {
                return corrupt("the subcluster bitmap is inconsistent");
            }
            return Ok(match () {
                () if is_zero >> subcluster & 1 != 0 => Kind::Zero,
                () if is_allocated >> subcluster & 1 != 0 => Kind::Stored(offset + subcluster * self.unit()),
                () => Kind::Absent,
            });
        }
        match (entry & ZERO != 0, allocated) {
            (true, _) if self.header.version < 3 => corrupt("a zero cluster in an image of version 2"),
            (true, _) => Ok(Kind::Zero),
            (false, true) => Ok(Kind::Stored(offset)),
            (false, false) => Ok(Kind::Absent),
        }
    }

    /// Returns the size in bytes of what an L2 entry distinguishes: a cluster or a subcluster.
    fn unit(&self) -> u64 {
        match self.extended() {
            true => self.header.cluster_size() / SUBCLUSTERS,
            false => self.header.cluster_size(),
        }
    }

    /// Returns the offset and the maximum length in bytes of a descriptor's compressed data.
    fn packed_at(&self, descriptor: u64) -> (u64, usize) {
        let offset_bits = 62 - (self.header.cluster_bits - 8);
        let offset = descriptor & ((1 << offset_bits) - 1);
        let sectors = (descriptor >> offset_bits) + 1;
        (offset, (sectors * 512 - offset % 512) as usize)
    }

    fn storage(&self) -> &ImageFile {
        self.data_file.as_ref().unwrap_or(&self.image)
    }

    /// Fails unless a cluster at `offset` begins within the file. It may end past the end of the file: qemu leaves the
    /// last cluster "semi-allocated", and the rest of it is zeros.
    fn check_stored(&self, offset: u64) -> Result<()> {
        let file = self.storage();
        match offset < file.len() {
            true => Ok(()),
            false => Err(at("qcow2 cluster")
                .file(file.path())
                .byte(offset)
                .corrupt(format!("is past the end of the file at {}; is the file truncated?", file.len()))),
        }
    }
}

impl Map for Clusters {
    fn len(&self) -> u64 {
        self.size
    }

    fn run_at(&self, offset: u64, wanted: u64) -> Result<Run> {
        let cluster_bits = self.header.cluster_bits;
        let table_bits = cluster_bits + self.header.l2_bits();
        let l1_index = (offset >> table_bits) as usize;
        let table_offset = self.l1[l1_index];
        if table_offset == 0 {
            let absent = self.l1[l1_index..]
                .iter()
                .take(entries_to_look_at(wanted, 1 << table_bits))
                .take_while(|e| **e == 0)
                .count();
            let end = ((l1_index + absent) as u64) << table_bits;
            return Ok(Run { len: end - offset, place: Place::Backing });
        }
        let table = self.l2_table(table_offset)?;
        let unit = self.unit();
        let units_in_cluster = self.header.cluster_size() / unit;
        let units_in_table = units_in_cluster << self.header.l2_bits();
        let number = (offset & ((1 << table_bits) - 1)) / unit;
        let kind_of =
            |number: u64| self.kind(&table, (number / units_in_cluster) as usize, number % units_in_cluster);
        let kind = kind_of(number)?;
        let within = offset % unit;
        if let Kind::Packed(descriptor) = kind {
            let start = offset >> cluster_bits << cluster_bits;
            let len = self.header.cluster_size() as usize;
            let place = Place::Packed(Packed { id: descriptor, start, len });
            return Ok(Run { len: start + len as u64 - offset, place });
        }
        if let Kind::Stored(first) = kind {
            self.check_stored(first & !(self.header.cluster_size() - 1))?;
            if self.cipher.is_some() {
                let block = Packed { id: first | ENCRYPTED, start: offset - within, len: unit as usize };
                return Ok(Run { len: unit - within, place: Place::Packed(block) });
            }
        }
        let limit = units_in_table.min((number + 1).saturating_add(wanted.div_ceil(unit)));
        let mut next = number + 1;
        while next < limit {
            let follows = match (kind, kind_of(next)) {
                (Kind::Stored(first), Ok(Kind::Stored(this))) => {
                    this == first + (next - number) * unit
                        && self.check_stored(this & !(self.header.cluster_size() - 1)).is_ok()
                }
                (kind, Ok(this)) => kind == this,
                (_, Err(_)) => false,
            };
            if !follows {
                break;
            }
            next += 1;
        }
        let place = match kind {
            Kind::Absent => Place::Backing,
            Kind::Zero => Place::Zero,
            Kind::Stored(first) => Place::Stored { file: 0, offset: first + within },
            Kind::Packed(_) => unreachable!("returned above"),
        };
        Ok(Run { len: (next - number) * unit - within, place })
    }

    fn file(&self, _: usize) -> &ImageFile {
        self.storage()
    }

    fn unpack(&self, block: &Packed, buf: &mut [u8]) -> Result<()> {
        if let (Some(cipher), true) = (&self.cipher, block.id & ENCRYPTED != 0) {
            let offset = block.id & !ENCRYPTED;
            self.storage().read_padded(offset, buf)?;
            cipher.decrypt(buf, ENCRYPTED_SECTOR as usize, offset / ENCRYPTED_SECTOR);
            return Ok(());
        }
        let (offset, len) = self.packed_at(block.id);
        self.check_stored(offset)?;
        let codec = match self.header.compression_type {
            0 => Codec::Deflate,
            _ => Codec::Zstd,
        };
        let size = buf.len();
        self.unpacker.unpack(codec, &self.image, offset, len, buf, size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// A snapshot has an L1 table of its own, whose size is in its entry and not in the header.
    #[test]
    fn a_table_of_more_entries_than_the_limit_is_refused() {
        let mut bytes = vec![0; 65_536];
        bytes[..4].copy_from_slice(&crate::container::qcow2::header::MAGIC);
        for (at, value) in [(4, 2), (20, 9), (36, 1u32)] {
            bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, &bytes).unwrap();
        let kind = |entries: u64| {
            let (header, file) = (Header::parse(&bytes).unwrap(), ImageFile::open(&path).unwrap());
            // Clusters of 512 bytes: an L1 entry covers 64 of them.
            let size = entries * 64 * 512;
            Clusters::new(header, file, None, None, (0, u32::MAX), size).err().map(|e| e.kind())
        };
        let most = crate::container::qcow2::header::MAX_L1_BYTES / 8;
        assert_eq!(kind(most), Some(ErrorKind::Corrupt), "past the end of the file");
        assert_eq!(kind(most + 1), Some(ErrorKind::Limit));
    }
}
