//! Opening a volume: reading its superblock and replaying its log.

use std::collections::HashSet;
use std::sync::Arc;

use super::blocks::Blocks;
use super::features::incompat;
use super::overrides::Overrides;
use super::superblock::{self, NULL_INO, SIZE, Superblock};
use super::{CACHED, Xfs, finishing, log};
use crate::bytes::be32;
use crate::cache::Cache;
use crate::error::{ErrorKind, Result, at};
use crate::fs::Info;
use crate::source::{Source, check_range};

/// See [`Xfs::open`].
pub(super) fn open(volume: Arc<dyn Source>) -> Result<Xfs> {
    check_range("XFS volume", volume.len(), 0, SIZE as u64)?;
    let (sb, from_copy) = read_superblock(&*volume)?;
    let blocks = Blocks::new(Arc::clone(&volume), sb.size());
    let mut fs = Xfs::new(blocks, sb).recover(from_copy.is_some())?;
    let sb = &fs.sb;
    let mut warnings: Vec<String> = from_copy.into_iter().collect();
    if sb.features.has_incompat(incompat::NEEDSREPAIR) {
        warnings.push("the superblock says that the volume needs xfs_repair".to_owned());
    }
    if sb.rt_blocks > 0 {
        warnings.push("the content of files on the realtime device cannot be read".to_owned());
    }
    if volume.len() < sb.size() {
        warnings.push(format!(
            "the volume ends at byte {}, but its filesystem at {}; the rest cannot be read",
            volume.len(),
            sb.size()
        ));
    }
    fs.info.warnings.splice(0..0, warnings);
    if fs.sb.root_ino == NULL_INO {
        return Err(at("XFS superblock").field("sb_rootino").byte(56).corrupt("names no inode"));
    }
    Ok(fs)
}

/// Reads the superblock; if it is damaged, the copy in another allocation group, with a warning.
fn read_superblock(volume: &dyn Source) -> Result<(Superblock, Option<String>)> {
    let (parsed, sum) = read_at(volume, 0)?;
    let (sb, error) = match (parsed, sum) {
        (Ok(sb), Ok(())) => return Ok((sb, None)),
        (Ok(sb), Err(error)) => (Some(sb), error),
        // Intact, but not supported.
        (Err(error), Ok(())) if error.kind() != ErrorKind::Corrupt => return Err(error),
        (Err(error), _) => (None, error),
    };
    let primary = volume.read_vec(0, SIZE)?;
    for offset in copies(&primary, volume.len()) {
        let Ok((Ok(mut copy), Ok(()))) = read_at(volume, offset) else { continue };
        let stands_there = copy.ag_byte(1, 0) == offset;
        // A usable superblock is preferred to a copy that may be another filesystem's.
        let is_better = sb.as_ref().is_none_or(|sb| sb.uuid == copy.uuid && copy.features.is_v5());
        if stands_there && is_better {
            find_root(volume, &mut copy);
            let warning =
                format!("the superblock is damaged, so its copy at byte {offset} was used: {error}");
            return Ok((copy, Some(warning)));
        }
    }
    match sb {
        Some(sb) => {
            let warning =
                format!("the superblock is damaged and there is no copy of it, but it was used: {error}");
            Ok((sb, Some(warning)))
        }
        None => Err(error),
    }
}

/// Reads the superblock at byte `offset` and verifies its checksum. The outer error is a read failure.
fn read_at(volume: &dyn Source, offset: u64) -> Result<(Result<Superblock>, Result<()>)> {
    let bytes = volume.read_vec(offset, SIZE)?;
    let parsed = Superblock::parse(&bytes, offset);
    let len = superblock::sector_size(&bytes).unwrap_or(SIZE);
    let sum = match volume.len().checked_sub(offset) {
        Some(room) if room >= len as u64 => {
            let sector = volume.read_vec(offset, len)?;
            superblock::check_sum(&sector, offset)
        }
        _ => superblock::check_sum(&bytes, offset),
    };
    Ok((parsed, sum))
}

/// Returns the possible byte offsets of the copy in the second allocation group: those that the damaged superblock
/// implies, then those for the usual numbers of groups. The number of blocks may not be divisible by the number of
/// groups.
fn copies(primary: &[u8], len: u64) -> impl Iterator<Item = u64> {
    /// More groups than mkfs.xfs usually makes.
    const GROUPS: u64 = 64;
    let says =
        [4096, 1024, 2048, 512, u64::from(be32(primary, 4))].map(|size| u64::from(be32(primary, 84)) * size);
    let usual =
        [4096, 1024, 2048, 512, 8192, 16_384, 32_768, 65_536].into_iter().flat_map(move |size: u64| {
            let blocks = len / size;
            (1..=GROUPS)
                .flat_map(move |count| [blocks / count, blocks.div_ceil(count)].map(|group| group * size))
        });
    says.into_iter().chain(usual).filter(move |offset| *offset >= 1 << 13 && *offset + SIZE as u64 <= len)
}

/// Completes a copy: mkfs writes the copies before there is a root directory, and rewrites only those of the middle and
/// the last group.
fn find_root(volume: &dyn Source, copy: &mut Superblock) {
    for ag in [copy.ag_count / 2, copy.ag_count - 1] {
        if copy.root_ino != NULL_INO {
            return;
        }
        let offset = copy.ag_byte(ag, 0);
        if offset.saturating_add(SIZE as u64) > volume.len() {
            continue;
        }
        if let Ok((Ok(other), Ok(()))) = read_at(volume, offset)
            && other.uuid == copy.uuid
        {
            copy.root_ino = other.root_ino;
        }
    }
}

impl Xfs {
    /// Returns the filesystem in `blocks` without replay.
    fn new(blocks: Blocks, sb: Superblock) -> Self {
        let label = &sb.label;
        let info = Info {
            kind: "xfs".to_owned(),
            label: (!label.is_empty()).then(|| String::from_utf8_lossy(label).into_owned()),
            uuid: Some(sb.uuid_text()),
            block_size: sb.block_size,
            size: sb.size(),
            free: Some(sb.free_blocks.saturating_mul(u64::from(sb.block_size))),
            features: sb.features.names(),
            warnings: Vec::new(),
            default_subvolume: None,
        };
        let chunks = Cache::new(CACHED);
        Xfs { blocks, sb, info, chunks, overrides: Overrides::default(), adopted: HashSet::new() }
    }

    /// Replays the log if it is on this volume. A superblock taken from a copy is kept.
    fn recover(self, is_copy: bool) -> Result<Self> {
        let mut fs = self;
        if fs.sb.log_start == 0 {
            let warning =
                "the log is on another device and was not replayed; the last changes may be missing";
            fs.info.warnings.push(warning.to_owned());
            return Ok(fs);
        }
        let mut replay = match log::replay(&**fs.blocks.volume(), &fs.sb) {
            Ok(Some(replay)) => replay,
            Ok(None) => return Ok(fs),
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            Err(error) => {
                let warning =
                    format!("the log cannot be replayed, so the last changes may be missing: {error}");
                fs.info.warnings.push(warning);
                return Ok(fs);
            }
        };
        let (mut blocks, mut sb) = (fs.blocks, fs.sb);
        let has_superblock = replay.sectors.contains_key(&0) && !is_copy;
        blocks.set_replayed(replay.sectors);
        if has_superblock {
            match replayed_superblock(&blocks, &sb) {
                Ok(replayed) => sb = replayed,
                Err(error) => replay.warnings.push(format!("the superblock was not replayed: {error}")),
            }
            blocks.resize(sb.size());
        }
        fs = Xfs::new(blocks, sb);
        fs.adopted = replay.adopted;
        fs.info.free = fs.count_free().or(fs.info.free);
        let (overrides, warnings) = finishing::finish(&fs, replay.intents);
        fs.overrides = overrides;
        fs.info.warnings.extend(replay.warnings);
        fs.info.warnings.extend(warnings);
        Ok(fs)
    }

    /// Returns the free bytes as counted by the allocation groups: the superblock is only accurate after an unmount.
    /// `None` if they cannot be read.
    fn count_free(&self) -> Option<u64> {
        /// The most groups that are read.
        const GROUPS_MAX: u32 = 1 << 16;
        let sb = &self.sb;
        if !sb.features.has_lazy_count() || sb.ag_count > GROUPS_MAX {
            return None;
        }
        let mut free = 0;
        for ag in 0..sb.ag_count {
            let offset = sb.ag_byte(ag, 0) + u64::from(sb.sector_size);
            let agf = self.blocks.read("AGF", offset, 64).ok().filter(|agf| agf.starts_with(b"XAGF"))?;
            // agf_flcount, agf_freeblks, agf_btreeblks.
            free += [48, 52, 60].into_iter().map(|at| u64::from(be32(&agf, at))).sum::<u64>();
        }
        Some(sb.bytes(free.min(sb.blocks_count)))
    }
}

/// Returns the superblock as it is after replay.
fn replayed_superblock(blocks: &Blocks, before: &Superblock) -> Result<Superblock> {
    let sb = Superblock::parse(&blocks.read("superblock", 0, SIZE)?, 0)?;
    if (sb.block_size, sb.ag_blocks, sb.inode_size)
        != (before.block_size, before.ag_blocks, before.inode_size)
    {
        return Err(at("XFS superblock").corrupt("the log would change the size of blocks, groups or inodes"));
    }
    Ok(sb)
}
