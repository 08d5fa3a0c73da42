//! Reads the extended attributes of an inode, wherever their values are.

use super::inode::{Inode, flags};
use super::xattr::{self, Stored, Value};
use super::{Ext4, checksum, map, mapper};
use crate::error::{Error, ErrorKind, Result, at};
use crate::fs::{FileType, Xattr};

impl Ext4 {
    /// Returns the attributes in the attribute block of `inode`, in stored form.
    fn block_xattrs(&self, inode: &Inode, complain: &mut dyn FnMut(Error)) -> Result<Vec<Stored>> {
        let block = inode.file_acl;
        if block == 0 {
            return Ok(Vec::new());
        }
        let range = block..block.saturating_add(1);
        mapper::check(&self.blocks, &self.groups, inode.number, "extended attribute block", &range)?;
        let load = || self.blocks.read("extended attribute block", block, 1);
        let bytes = self.xattr_blocks.get(block, self.sb.block_size as usize, load)?;
        xattr::parse_block(&bytes, &self.sb, inode.number, block, self.blocks.byte(block), complain)
    }

    /// Returns the attributes of `inode`, with names and values as the kernel gives them. Damaged ones are left out and
    /// complained about; only a failed read is an error.
    pub(super) fn xattrs(&self, inode: &Inode, complain: &mut dyn FnMut(Error)) -> Result<Vec<Xattr>> {
        self.xattrs_up_to(xattr::VALUES_MAX, inode, complain)
    }

    /// As [`Ext4::xattrs`], with a limit of `most` bytes for all values together.
    pub(super) fn xattrs_up_to(
        &self,
        most: usize,
        inode: &Inode,
        complain: &mut dyn FnMut(Error),
    ) -> Result<Vec<Xattr>> {
        let offset = inode.offset + inode.xattr_at as u64;
        let mut all = xattr::parse_inode(&inode.xattr_area, inode.number, offset, complain);
        match self.block_xattrs(inode, complain) {
            Ok(more) => all.extend(more),
            Err(error) => complain(unless_io(error)?),
        }
        let mut xattrs: Vec<Xattr> = Vec::new();
        let mut bytes = 0;
        for stored in all {
            if stored.is_inline_data() {
                continue;
            }
            let name = stored.full_name();
            let place = || at(format!("inode {}, attribute {}", inode.number, name.escape_ascii()));
            let value = match self.xattr_value(inode, &stored) {
                Ok(value) => value,
                Err(error) => {
                    complain(unless_io(error)?);
                    continue;
                }
            };
            bytes += value.len();
            if bytes > most {
                complain(place().limit(format!(
                    "the attribute values exceed {most} bytes in total; this one and later ones were left out"
                )));
                break;
            }
            let value = if stored.is_acl() { xattr::acl(&value) } else { Ok(Some(value)) };
            match value {
                Ok(Some(value)) => xattrs.push(Xattr { name, value }),
                Ok(None) => {}
                Err(problem) => complain(place().corrupt(problem)),
            }
        }
        // The sort is stable: of two with one name, the one in the inode stays, which is the one that the kernel finds.
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
                "has flags {:#x} and {} bytes, but should hold a value of {size} bytes",
                inode.flags, inode.size
            )));
        }
        let content = map::content(&self.blocks, &self.sb, &self.groups, &inode)?;
        let value = self.read_content(&content)?;
        let sum = checksum::crc32c(self.sb.csum_seed, &value);
        if checksum::fits(inode.raw_atime, sum)
            && stored.inode_hashes(sum).iter().any(|computed| checksum::fits(hash, *computed))
        {
            return Ok(value);
        }
        // Lustre's older form has no hashes, but records its owner.
        if hash != inode.raw_atime && inode.raw_mtime == owner.number && inode.generation == owner.generation
        {
            return Ok(value);
        }
        Err(place().field("e_hash").corrupt(format!("does not match the value, whose hash is {sum:#010x}")))
    }
}

/// Returns the error as a value, unless it is a failed read.
fn unless_io(error: Error) -> Result<Error> {
    if error.kind() == ErrorKind::Io { Err(error) } else { Ok(error) }
}
