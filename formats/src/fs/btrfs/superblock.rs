//! The superblock: 4096 bytes at 64 KiB of the device, with mirrors at 64 MiB and 256 GiB.
//!
//! <https://btrfs.readthedocs.io/en/latest/dev/On-disk-format.html>, "Superblock".

use super::checksum::Checksum;
use super::features::{Features, METADATA_UUID};
use crate::bytes::{le16, le32, le64};
use crate::error::{ErrorKind, Result, at};
use crate::source::{Source, check_range};

/// The offsets of the superblock and its mirrors in bytes.
pub(super) const OFFSETS: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
/// Its size in bytes.
pub(super) const SIZE: usize = 4096;
/// Offset of `magic`.
const MAGIC_AT: usize = 64;
const MAGIC: &[u8] = b"_BHRfS_M";
/// Offset and size of `sys_chunk_array`.
const SYS_CHUNKS_AT: usize = 811;
const SYS_CHUNKS_MAX: u32 = 2048;
/// The maximum number of levels of a tree.
pub(super) const LEVELS: u8 = 8;

/// Superblock flags that deserve a warning, with the text of the warning.
const FLAGS: [(u32, &str); 9] = [
    (2, "the superblock records errors in the filesystem"),
    (32, "the volume is a seed device, which is never written to"),
    (33, "the volume was made by btrfs-image from metadata; files have no content"),
    (34, "the volume was made by btrfs-image from metadata; files have no content"),
    (35, "a change of the UUID was interrupted"),
    (36, "a change of the UUID was interrupted"),
    (38, "a conversion of the block group tree was interrupted"),
    (39, "a change of the data checksums was interrupted"),
    (40, "a change of the metadata checksums was interrupted"),
];

/// A validated superblock.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub(super) checksum: Checksum,
    pub(super) features: Features,
    pub(super) fsid: [u8; 16],
    /// The UUID in tree block headers.
    pub(super) metadata_uuid: [u8; 16],
    pub(super) generation: u64,
    /// The root tree and the chunk tree: logical address and level.
    pub(super) root: (u64, u8),
    pub(super) chunk_root: (u64, u8),
    pub(super) chunk_root_generation: u64,
    /// The tree of log trees, if anything was synced since the last commit.
    pub(super) log_root: Option<(u64, u8)>,
    /// The bytes of all devices together, and the bytes in use.
    pub(super) total_bytes: u64,
    pub(super) bytes_used: u64,
    pub(super) num_devices: u64,
    /// This device's number; 0 for the target of a replacement.
    pub(super) devid: u64,
    /// Bytes per sector: 4096 to 65536.
    pub(super) sectorsize: u32,
    /// Bytes per tree block: a sector to 65536.
    pub(super) nodesize: u32,
    /// The label up to the first NUL.
    pub(super) label: Vec<u8>,
    /// The chunks that hold the chunk tree: keys and chunk items.
    pub(super) sys_chunks: Vec<u8>,
    /// Problems that do not prevent reading.
    pub(super) warnings: Vec<String>,
}

/// Returns true if a superblock has the magic bytes.
pub(super) fn has_magic(bytes: &[u8]) -> bool {
    bytes[MAGIC_AT..].starts_with(MAGIC)
}

impl Superblock {
    /// Parses the 4096 bytes of the superblock at byte `offset` of the volume.
    pub(super) fn parse(bytes: &[u8], offset: u64) -> Result<Self> {
        let place =
            |field, field_at: usize| at("Btrfs superblock").field(field).byte(offset + field_at as u64);
        let bad = |field, field_at, problem: String| Err(place(field, field_at).corrupt(problem));
        if !has_magic(bytes) {
            return bad("magic", MAGIC_AT, "is not that of Btrfs".to_owned());
        }
        let checksum = Checksum::of_type(le16(bytes, 196))?;
        if !checksum.is_right(bytes) {
            return bad("csum", 0, "does not match: the superblock is damaged".to_owned());
        }
        if le64(bytes, 48) != offset {
            return bad("bytenr", 48, format!("is {}, expected {offset}", le64(bytes, 48)));
        }
        let features = Features { incompat: le64(bytes, 188), compat_ro: le64(bytes, 180) };
        let unreadable = features.unreadable();
        if !unreadable.is_empty() {
            return Err(place("incompat_flags", 188).unsupported(format!(
                "the volume uses features that mif does not read: {}",
                unreadable.join(", ")
            )));
        }
        let (sectorsize, nodesize) = (le32(bytes, 144), le32(bytes, 148));
        if !sectorsize.is_power_of_two() || !(4096..=65536).contains(&sectorsize) {
            return bad("sectorsize", 144, format!("is {sectorsize}, expected a power of two up to 65536"));
        }
        if !nodesize.is_power_of_two() || !(sectorsize..=65536).contains(&nodesize) {
            let problem = format!("is {nodesize}, expected a power of two from {sectorsize} to 65536");
            return bad("nodesize", 148, problem);
        }
        let tree = |field, bytenr_at, level_at: usize| {
            let (bytenr, level) = (le64(bytes, bytenr_at), bytes[level_at]);
            let problem = if level >= LEVELS {
                format!("is at level {level}, expected 0 to {}", LEVELS - 1)
            } else if !bytenr.is_multiple_of(u64::from(sectorsize)) {
                format!("is {bytenr}, not a multiple of the sector size")
            } else {
                return Ok((bytenr, level));
            };
            Err(place(field, bytenr_at).corrupt(problem))
        };
        let root = tree("root", 80, 198)?;
        let chunk_root = tree("chunk_root", 88, 199)?;
        let log_root = if le64(bytes, 96) == 0 { None } else { Some(tree("log_root", 96, 200)?) };
        let sys_chunks_len = le32(bytes, 160);
        if sys_chunks_len > SYS_CHUNKS_MAX {
            let problem = format!("is {sys_chunks_len}, expected up to {SYS_CHUNKS_MAX}");
            return bad("sys_chunk_array_size", 160, problem);
        }
        let uuid = |at: usize| -> [u8; 16] { bytes[at..at + 16].try_into().expect("sliced to size") };
        let flags = le64(bytes, 56);
        let mut warnings: Vec<String> = Vec::new();
        for (_, warning) in FLAGS.iter().filter(|(bit, _)| flags >> bit & 1 == 1) {
            if !warnings.iter().any(|known| known == warning) {
                warnings.push((*warning).to_owned());
            }
        }
        let label = &bytes[299..555];
        Ok(Superblock {
            checksum,
            features,
            fsid: uuid(32),
            metadata_uuid: uuid(if features.has(METADATA_UUID) { 571 } else { 32 }),
            generation: le64(bytes, 72),
            root,
            chunk_root,
            chunk_root_generation: le64(bytes, 164),
            log_root,
            total_bytes: le64(bytes, 112),
            bytes_used: le64(bytes, 120),
            num_devices: le64(bytes, 136),
            devid: le64(bytes, 201),
            sectorsize,
            nodesize,
            label: label.split(|byte| *byte == 0).next().unwrap_or_default().to_vec(),
            sys_chunks: bytes[SYS_CHUNKS_AT..SYS_CHUNKS_AT + sys_chunks_len as usize].to_vec(),
            warnings,
        })
    }

    /// Reads the newest valid superblock of a volume; the primary wins if a mirror is no newer. (Syncing a file writes
    /// only the primary.) A mirror left over from another filesystem is ignored.
    pub(super) fn read(volume: &dyn Source) -> Result<Self> {
        check_range("Btrfs volume", volume.len(), OFFSETS[0], SIZE as u64)?;
        let bytes = volume.read_vec(OFFSETS[0], SIZE)?;
        let primary = Superblock::parse(&bytes, OFFSETS[0]);
        match &primary {
            // Intact, but not supported.
            Err(error) if error.kind() != ErrorKind::Corrupt => return primary,
            _ => {}
        }
        let mut mirrors = Vec::new();
        for offset in &OFFSETS[1..] {
            if check_range("mirror", volume.len(), *offset, SIZE as u64).is_ok()
                && let Ok(mirror) = Superblock::parse(&volume.read_vec(*offset, SIZE)?, *offset)
            {
                mirrors.push((*offset, mirror));
            }
        }
        let newest =
            mirrors.into_iter().max_by_key(|(offset, mirror)| (mirror.generation, u64::MAX - offset));
        match (primary, newest) {
            (Ok(primary), Some((offset, mut mirror)))
                if mirror.fsid == primary.fsid && mirror.generation > primary.generation =>
            {
                mirror.warnings.push(format!(
                    "the superblock is older than its mirror at byte {offset} (generation {}, not {}), which was used",
                    primary.generation, mirror.generation
                ));
                Ok(mirror)
            }
            (Ok(primary), _) => Ok(primary),
            (Err(error), Some((offset, mut mirror))) => {
                mirror.warnings.push(format!(
                    "the superblock is damaged, so its mirror at byte {offset} was used: {error}"
                ));
                Ok(mirror)
            }
            (Err(error), None) => Err(error),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::source::MemSource;

    /// Returns a superblock for byte `offset`, with sectors and tree blocks of 4096 bytes.
    pub(in crate::fs::btrfs) fn superblock(offset: u64, generation: u64) -> Vec<u8> {
        let mut bytes = vec![0; SIZE];
        bytes[32..48].copy_from_slice(&super::super::block::tests::FSID);
        bytes[48..56].copy_from_slice(&offset.to_le_bytes());
        bytes[64..72].copy_from_slice(MAGIC);
        bytes[72..80].copy_from_slice(&generation.to_le_bytes());
        bytes[80..88].copy_from_slice(&4096_u64.to_le_bytes());
        bytes[88..96].copy_from_slice(&8192_u64.to_le_bytes());
        bytes[136] = 1;
        bytes[144..148].copy_from_slice(&4096_u32.to_le_bytes());
        bytes[148..152].copy_from_slice(&4096_u32.to_le_bytes());
        bytes[201] = 1;
        bytes[299..304].copy_from_slice(b"label");
        summed(bytes)
    }

    fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
        let sum = Checksum::Crc32c.of(&bytes[32..]);
        bytes[..32].copy_from_slice(&sum);
        bytes
    }

    /// Returns a volume with these superblocks at the first offsets.
    fn volume(superblocks: &[Vec<u8>]) -> MemSource {
        let mut bytes = vec![0; OFFSETS[1] as usize + SIZE];
        for (superblock, offset) in superblocks.iter().zip(OFFSETS) {
            bytes[offset as usize..][..SIZE].copy_from_slice(superblock);
        }
        MemSource(bytes)
    }

    #[test]
    fn each_wrong_field_is_named() {
        type Change = fn(&mut Vec<u8>);
        let cases: [(&str, Change); 9] = [
            ("magic", |bytes| bytes[64] = 0),
            ("bytenr", |bytes| bytes[48] = 1),
            ("csum_type", |bytes| bytes[196] = 9),
            ("sectorsize", |bytes| bytes[145] = 0x30),
            ("nodesize", |bytes| bytes[149] = 0x08),
            ("root", |bytes| bytes[198] = 8),
            ("chunk_root", |bytes| bytes[88] = 1),
            ("sys_chunk_array_size", |bytes| bytes[162] = 1),
            ("incompat_flags", |bytes| bytes[189] = 0x10),
        ];
        for (field, change) in cases {
            let mut bytes = superblock(OFFSETS[0], 7);
            change(&mut bytes);
            let error = Superblock::parse(&summed(bytes), OFFSETS[0]).unwrap_err().to_string();
            assert!(
                error.contains(&format!("superblock, {field}, at byte")) || error.contains(field),
                "{error}"
            );
        }
        let mut bytes = superblock(OFFSETS[0], 7);
        bytes[3000] ^= 1;
        assert!(Superblock::parse(&bytes, OFFSETS[0]).unwrap_err().to_string().contains("csum"));
    }

    #[test]
    fn the_newest_superblock_of_the_filesystem_is_used() {
        let [first, newer] = [superblock(OFFSETS[0], 7), superblock(OFFSETS[1], 8)];
        let read = |superblocks: &[Vec<u8>]| Superblock::read(&volume(superblocks));
        let sb = read(&[first.clone(), newer.clone()]).unwrap();
        assert_eq!(sb.generation, 8);
        assert!(sb.warnings[0].contains("generation 7, not 8"), "{:?}", sb.warnings);
        // As old as the primary, which may have a log.
        let sb = read(&[first.clone(), superblock(OFFSETS[1], 7)]).unwrap();
        assert!(sb.warnings.is_empty());
        // Left over from another filesystem.
        let mut other = newer.clone();
        other[40] ^= 1;
        assert_eq!(read(&[first.clone(), summed(other)]).unwrap().generation, 7);
        let mut damaged = first;
        damaged[100] ^= 1;
        let sb = read(&[damaged.clone(), newer]).unwrap();
        assert!(sb.warnings[0].starts_with("the superblock is damaged"), "{:?}", sb.warnings);
        assert!(read(&[damaged]).is_err());
    }

    #[test]
    fn flags_that_matter_are_said_once() {
        let mut bytes = superblock(OFFSETS[0], 7);
        bytes[56] = 4;
        bytes[60] = 0x06;
        let sb = Superblock::parse(&summed(bytes), OFFSETS[0]).unwrap();
        assert_eq!(sb.warnings.len(), 2, "{:?}", sb.warnings);
        assert_eq!((&sb.label[..], sb.log_root), (&b"label"[..], None));
    }
}
