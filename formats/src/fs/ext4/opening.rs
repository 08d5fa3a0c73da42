//! Opens a volume: its superblock, its groups, and the pending writes of its journal.

use std::sync::Arc;

use super::blocks::Blocks;
use super::groups::Groups;
use super::patches::Patches;
use super::recovery::Recovery;
use super::superblock::{self, Superblock};
use super::{CHUNKS_KEPT, Ext4, XATTR_BLOCKS_KEPT, fast_commit};
use crate::bytes::le32;
use crate::cache::Cache;
use crate::error::{ErrorKind, Result, at};
use crate::fs::Info;
use crate::source::{Source, check_range};

/// See [`Ext4::open`].
pub(super) fn open(volume: Arc<dyn Source>) -> Result<Ext4> {
    check_range("ext volume", volume.len(), superblock::OFFSET, superblock::SIZE as u64)?;
    let (sb, from_backup) = read_superblock(&*volume)?;
    let volume_len = volume.len();
    let blocks = Blocks::new(volume, sb.block_size, sb.blocks_count);
    let mut fs = Ext4::new(blocks, sb)?;
    if fs.sb.has_journal() && fs.sb.journal_inum != 0 {
        fs = fs.recover(from_backup.is_some())?;
    } else if fs.sb.needs_recovery() {
        let warning = if fs.sb.has_journal() {
            "the journal is on another device and was not replayed; the last changes may be missing"
        } else {
            "the superblock asks to replay the journal, but there is no journal"
        };
        fs.info.warnings.push(warning.to_owned());
    }
    fs.info.warnings.extend(from_backup);
    if volume_len < fs.sb.size() {
        fs.info.warnings.push(format!(
            "the volume ends at byte {volume_len}, but its filesystem at {}; the rest cannot be read",
            fs.sb.size()
        ));
    }
    Ok(fs)
}

/// Reads the superblock; if it is damaged, its backup in group 1, with a warning.
fn read_superblock(volume: &dyn Source) -> Result<(Superblock, Option<String>)> {
    let primary = volume.read_vec(superblock::OFFSET, superblock::SIZE)?;
    let sum = superblock::check_sum(&primary, superblock::OFFSET);
    let (sb, error) = match (Superblock::parse(&primary, superblock::OFFSET), sum) {
        (Ok(sb), Ok(())) => return Ok((sb, None)),
        (Ok(sb), Err(error)) => (Some(sb), error),
        // The superblock is intact, but not supported.
        (Err(error), Ok(())) if error.kind() != ErrorKind::Corrupt => return Err(error),
        (Err(error), _) => (None, error),
    };
    for offset in backups(&primary) {
        let Ok(bytes) = volume.read_vec(offset, superblock::SIZE) else { continue };
        let Ok(backup) = Superblock::parse(&bytes, offset) else { continue };
        let stands_there = backup.first_block(1) * u64::from(backup.block_size) == offset;
        // A usable superblock is better than a backup of unknown origin.
        let is_better = sb.as_ref().is_none_or(|sb| {
            sb.uuid == backup.uuid && backup.metadata_csum() && superblock::check_sum(&bytes, offset).is_ok()
        });
        if stands_there && is_better {
            let warning =
                format!("the superblock is damaged, so its backup at byte {offset} was used: {error}");
            return Ok((backup, Some(warning)));
        }
    }
    sb.map(|sb| (sb, None)).ok_or(error)
}

/// Returns the possible positions of the backup in group 1, in bytes: after as many blocks, or clusters, as one block
/// of bitmap covers, or at the place according to the superblock, which is damaged.
fn backups(primary: &[u8]) -> impl Iterator<Item = u64> {
    /// The largest group that mke2fs makes, in clusters.
    const GROUP_MAX: u64 = 65528;
    let says = u64::from(le32(primary, 0x20)); // s_blocks_per_group
    (0..=6).flat_map(move |log| {
        let block_size = 1024_u64 << log;
        let group = (block_size * 8).min(GROUP_MAX);
        let groups = (0..=16).map(move |cluster| group << cluster).chain([says]);
        // Blocks of 1 KiB are counted from 1, but not with clusters.
        groups.flat_map(move |blocks| {
            (0..=u64::from(log == 0)).rev().map(move |first| (first + blocks) * block_size)
        })
    })
}

/// Returns the superblock after replay.
fn replayed_superblock(blocks: &Blocks, block_size: u32) -> Result<Superblock> {
    let bytes = blocks.read("superblock", superblock::OFFSET / u64::from(block_size), 1)?;
    let start = usize::try_from(superblock::OFFSET).expect("1024") % bytes.len();
    let sb = Superblock::parse(&bytes[start..start + superblock::SIZE], superblock::OFFSET)?;
    if sb.block_size != block_size {
        return Err(at("ext superblock")
            .field("s_log_block_size")
            .byte(superblock::OFFSET + 0x18)
            .corrupt("the journal would change the block size"));
    }
    Ok(sb)
}

impl Ext4 {
    /// Replays the journal, which is on this volume. A superblock that is a backup is kept; it does not say whether
    /// there is anything to replay.
    fn recover(self, is_backup: bool) -> Result<Self> {
        let mut fs = self;
        let needs = fs.sb.needs_recovery() || is_backup;
        let journal = match Recovery::prepare(&fs, needs) {
            Ok(journal) => journal,
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            Err(error) => {
                fs.info.warnings.push(if needs {
                    format!("the journal cannot be replayed, so the last changes may be missing: {error}")
                } else {
                    format!("the journal is damaged: {error}")
                });
                return Ok(fs);
            }
        };
        let mut warnings = journal.warnings;
        if !journal.changes.is_empty() {
            let (mut blocks, mut sb) = (fs.blocks, fs.sb);
            for (block, replayed) in journal.changes {
                blocks.replay(block, replayed);
            }
            if !is_backup {
                match replayed_superblock(&blocks, sb.block_size) {
                    Ok(replayed) => sb = replayed,
                    Err(error) => warnings.push(format!("the superblock was not replayed: {error}")),
                }
            }
            blocks.grow(sb.blocks_count);
            fs = Ext4::new(blocks, sb)?;
        }
        let number = fs.sb.journal_inum;
        fs.groups.protect(journal.lies, number);
        warnings.append(&mut fast_commit::replay(&mut fs, &journal.operations));
        fs.info.warnings.append(&mut warnings);
        Ok(fs)
    }

    /// Reads the filesystem in `blocks`, without further replay.
    fn new(blocks: Blocks, sb: Superblock) -> Result<Self> {
        let mut groups = Groups::read(&blocks, &sb)?;
        let mut warnings = sb.warnings.clone();
        if sb.state & 2 != 0 {
            warnings.push("the superblock records errors in the filesystem (s_state)".to_owned());
        }
        if sb.state & 1 == 0 && !sb.has_journal() {
            warnings.push(
                "the volume was not unmounted cleanly and has no journal; its last changes may be incomplete"
                    .to_owned(),
            );
        }
        warnings.append(&mut groups.warnings);
        let label = &sb.volume_name;
        let info = Info {
            kind: sb.features.kind().to_owned(),
            label: (!label.is_empty()).then(|| String::from_utf8_lossy(label).into_owned()),
            uuid: sb.uuid_text(),
            block_size: sb.block_size,
            size: sb.size(),
            free: Some(sb.free_blocks_count.saturating_mul(u64::from(sb.block_size))),
            features: sb.features.names(),
            warnings,
            default_subvolume: None,
        };
        Ok(Ext4 {
            blocks,
            sb,
            groups,
            info,
            inode_chunks: Cache::new(CHUNKS_KEPT),
            xattr_blocks: Cache::new(XATTR_BLOCKS_KEPT),
            patches: Patches::default(),
        })
    }
}
