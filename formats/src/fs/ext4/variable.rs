//! What differs between two volumes that were made alike: fields of the superblock that hold times, counters and random
//! numbers, and blocks that are free, in which old bytes may be left.

use std::ops::Range;

use super::Ext4;
use super::features::compat;
use super::groups::merge;
use super::superblock::{OFFSET, SIZE};
use crate::bytes::{le16, le32, le64};
use crate::error::Result;
use crate::fs::Timestamp;
use crate::fs::filesystem::{Field, FieldValue};
use crate::text::printable;

/// How a field of the superblock is read.
enum Form {
    /// Seconds since 1970 in 32 bits.
    Time,
    Number16,
    Number64,
    /// 16 bytes.
    Uuid,
    /// 64 bytes up to the first NUL.
    Text,
}

/// Offset in the superblock, name, and form, by <https://docs.kernel.org/filesystems/ext4/super.html>. The UUID and the label
/// are in [`Info`](crate::fs::Info).
const FIELDS: &[(usize, &str, Form)] = &[
    (0x108, "s_mkfs_time", Form::Time),
    (0x2C, "s_mtime", Form::Time),
    (0x30, "s_wtime", Form::Time),
    (0x40, "s_lastcheck", Form::Time),
    (0x34, "s_mnt_count", Form::Number16),
    (0x178, "s_kbytes_written", Form::Number64),
    (0xEC, "s_hash_seed", Form::Uuid),
    (0xD0, "s_journal_uuid", Form::Uuid),
    (0x88, "s_last_mounted", Form::Text),
];

impl Ext4 {
    /// Returns these fields, as they are in the superblock at byte 1024.
    pub(super) fn variable_fields(&self) -> Result<Vec<Field>> {
        let bytes = self.blocks.volume().read_vec(OFFSET, SIZE)?;
        let field = |(at, name, form): &(usize, &'static str, Form)| Field {
            name,
            value: match form {
                Form::Time => FieldValue::Time(Timestamp { secs: i64::from(le32(&bytes, *at)), nanos: 0 }),
                Form::Number16 => FieldValue::Text(le16(&bytes, *at).to_string()),
                Form::Number64 => FieldValue::Text(le64(&bytes, *at).to_string()),
                Form::Uuid => {
                    let raw: [u8; 16] = bytes[*at..at + 16].try_into().expect("16 bytes");
                    FieldValue::Text(crate::uuid::text(&raw))
                }
                Form::Text => {
                    let text = bytes[*at..at + 64].split(|byte| *byte == 0).next().unwrap_or_default();
                    FieldValue::Text(printable(&String::from_utf8_lossy(text)))
                }
            },
        };
        Ok(FIELDS.iter().map(field).collect())
    }

    /// Returns the parts of a range of bytes that are in free blocks, by the block bitmaps. A bitmap that was never written
    /// has only metadata in use. `None` with clusters of blocks.
    pub(super) fn free_blocks_in(&self, range: &Range<u64>) -> Result<Option<Vec<Range<u64>>>> {
        let sb = &self.sb;
        if sb.cluster_ratio != 1 {
            return Ok(None);
        }
        let size = u64::from(sb.block_size);
        let end = (range.end.div_ceil(size)).min(self.blocks.count());
        let mut block = (range.start / size).max(u64::from(sb.first_data_block));
        let mut free = Vec::new();
        while block < end {
            let group = (block - u64::from(sb.first_data_block)) / u64::from(sb.blocks_per_group);
            let first = u64::from(sb.first_data_block) + group * u64::from(sb.blocks_per_group);
            let until = end.min(first + u64::from(sb.blocks_per_group));
            match self.groups.block_bitmap(group as usize) {
                Some(0) => {
                    let mut used = vec![self.kept_for_descriptors(group, first)?];
                    let mut at = block;
                    while let Some(metadata) =
                        self.groups.metadata_in(&(at..until), 0).filter(|used| used.end > at && at < until)
                    {
                        used.push(metadata.clone());
                        at = metadata.end;
                    }
                    at = block;
                    for used in merge(used) {
                        free.push(at..used.start.clamp(at, until));
                        at = used.end.clamp(at, until);
                    }
                    free.push(at..until);
                }
                Some(bitmap) => {
                    let bits = self.blocks.read("block bitmap", bitmap, 1)?;
                    for block in block..until {
                        let bit = (block - first) as usize;
                        if bits.get(bit / 8).is_some_and(|byte| byte >> (bit % 8) & 1 == 0) {
                            free.push(block..block + 1);
                        }
                    }
                }
                // Its descriptor is lost.
                None => {}
            }
            block = until;
        }
        let bytes =
            |blocks: Range<u64>| (blocks.start * size).max(range.start)..(blocks.end * size).min(range.end);
        Ok(Some(merge(free).into_iter().map(bytes).filter(|bytes| bytes.start < bytes.end).collect()))
    }

    /// Returns the blocks after the descriptors in a group that are kept for more of them: they belong to the inode for resizing.
    fn kept_for_descriptors(&self, group: u64, first: u64) -> Result<Range<u64>> {
        let (sb, none) = (&self.sb, 0..0);
        if !sb.features.has_compat(compat::RESIZE_INODE) || !sb.has_super(group as u32) {
            return Ok(none);
        }
        let Some(head) = self.groups.metadata_in(&(first..first + 1), 0) else { return Ok(none) };
        // s_reserved_gdt_blocks
        let kept = le16(&self.blocks.volume().read_vec(OFFSET, SIZE)?, 0xCE);
        Ok(head.end..head.end + u64::from(kept))
    }
}
