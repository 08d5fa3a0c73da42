//! Reading the extended attributes of an inode, wherever their values are.

use super::inode::{Inode, flags};
use super::xattr::{self, Stored, Value};
use super::{Ext4, checksum, map};
use crate::fs::{FileType, Xattr};
use crate::{Result, at};

impl Ext4 {
    /// The attributes of `inode`, as they are stored, those in the inode first.
    fn stored_xattrs(&self, inode: &Inode) -> Result<Vec<Stored>> {
        let offset = inode.offset + inode.xattr_at as u64;
        let mut stored = xattr::parse_inode(&inode.xattr_area, inode.number, offset)?;
        let block = inode.file_acl;
        if block != 0 {
            let range = block..block.saturating_add(1);
            map::check(&self.blocks, &self.groups, inode.number, "extended attribute block", &range)?;
            let bytes = match self.xattr_blocks.get(block) {
                Some(bytes) => bytes,
                None => {
                    let bytes = self.blocks.read("extended attribute block", block, 1)?.into();
                    self.xattr_blocks.put(block, &bytes);
                    bytes
                }
            };
            let offset = self.blocks.byte(block);
            stored.extend(xattr::parse_block(&bytes, &self.sb, inode.number, block, offset)?);
        }
        Ok(stored)
    }

    /// The attributes of `inode`, as the kernel names and gives them.
    pub(super) fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>> {
        let mut xattrs: Vec<Xattr> = Vec::new();
        let mut bytes = 0;
        for stored in self.stored_xattrs(inode)? {
            if stored.is_inline_data() {
                continue;
            }
            let name = stored.full_name();
            let mut value = self.xattr_value(inode, &stored)?;
            let place = || at(format!("inode {}, attribute {}", inode.number, name.escape_ascii()));
            bytes += value.len();
            if bytes > xattr::VALUES_MAX {
                let problem = format!("all values together are more than {} bytes", xattr::VALUES_MAX);
                return Err(place().limit(problem));
            }
            if stored.is_acl() {
                match xattr::acl(&value).map_err(|problem| place().corrupt(problem))? {
                    Some(list) => value = list,
                    None => continue,
                }
            }
            xattrs.push(Xattr { name, value });
        }
        // Stable: of two of one name, the one in the inode stays, which is the one that the kernel finds.
        xattrs.sort_by(|a, b| a.name.cmp(&b.name));
        xattrs.dedup_by(|later, first| later.name == first.name);
        Ok(xattrs)
    }

    pub(super) fn xattr_value(&self, owner: &Inode, stored: &Stored) -> Result<Vec<u8>> {
        let (number, size, hash) = match &stored.value {
            Value::Here(value) => return Ok(value.clone()),
            Value::Inode { number, size, hash } => (*number, *size, *hash),
        };
        let place = || at(format!("inode {}, attribute in inode {number}", owner.number));
        if number == owner.number || number < self.sb.first_ino {
            return Err(place().field("e_value_inum").corrupt("is not an inode that can hold a value"));
        }
        let inode = self.inode(number)?;
        if !inode.has(flags::EA_INODE) || inode.file_type != FileType::File || inode.size != u64::from(size) {
            return Err(place().field("i_flags").byte(inode.offset + 0x20).corrupt(format!(
                "flags {:#x}, {} bytes: not the inode of a value of {size} bytes",
                inode.flags, inode.size
            )));
        }
        let content = map::content(&self.blocks, &self.sb, &self.groups, &inode)?;
        let value = self.read_content(&content)?;
        let sum = checksum::crc32c(self.sb.csum_seed, &value);
        if sum == inode.raw_atime && stored.inode_hashes(sum).contains(&hash) {
            return Ok(value);
        }
        // Lustre's older form has no hashes, but names its owner.
        if hash != inode.raw_atime && inode.raw_mtime == owner.number && inode.generation == owner.generation
        {
            return Ok(value);
        }
        Err(place().field("e_hash").corrupt(format!("does not fit the value, whose hash is {sum:#010x}")))
    }
}
