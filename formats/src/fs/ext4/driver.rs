//! The driver of ext2, ext3 and ext4.

use std::sync::Arc;

use super::plan::{Params, Plan, minimum_size};
use super::{Ext4, superblock};
use crate::error::{Result, at};
use crate::fs::capabilities::Capabilities;
use crate::fs::driver::{Driver, NewVolume};
use crate::fs::filesystem::Filesystem;
use crate::fs::plan::{Planned, Planner, Tree};
use crate::source::Source;

/// The number of the first inode for files: the one before is `lost+found`'s.
const FIRST_INODE: u64 = 12;

/// ext2, ext3 and ext4.
pub(in crate::fs) struct Ext;

/// The capabilities of ext. Times are those of inodes with extra time fields: 34 bits of seconds from 1901 on.
pub(super) static CAPABILITIES: Capabilities = Capabilities {
    name: "ext",
    is_posix: true,
    ignores_case: false,
    times: (-(1 << 31), (3 << 32) + (1 << 31) - 1),
    time_step: 1,
    shares_extents: false,
    has_subvolumes: false,
    has_streams: false,
    is_planned: true,
    // From secure deletion to no access times, and synchronous directories (chattr(1)).
    user_flags: 0x1_00FB,
    new_flags: [0, 0],
    label_max: 16,
    // fsck needs it.
    made_with: &[("/lost+found", 0o700)],
};

/// The capabilities of a volume on which files share blocks by design (Android's images).
pub(super) static SHARED: Capabilities = Capabilities { shares_extents: true, ..CAPABILITIES };

impl Driver for Ext {
    fn name(&self) -> &'static str {
        "ext2, ext3 or ext4"
    }

    fn kinds(&self) -> &'static [&'static str] {
        &["ext2", "ext3", "ext4"]
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn probe(&self, head: &[u8]) -> bool {
        let start = superblock::OFFSET as usize;
        head.get(start..start + superblock::SIZE).is_some_and(superblock::has_magic)
    }

    fn open(&self, volume: Arc<dyn Source>) -> Result<Box<dyn Filesystem>> {
        Ok(Box::new(Ext4::open(volume)?))
    }

    fn planner(&self, volume: Arc<dyn Source>) -> Result<Box<dyn Planner>> {
        Ok(Box::new(Params::from_volume(&*volume)?))
    }

    fn new_planner(&self, volume: &NewVolume<'_>) -> Result<Box<dyn Planner>> {
        // As in mke2fs.conf.
        let is_small = volume.size < 512 << 20;
        let usual = if is_small { 1024 } else { 4096 };
        let block_size = volume.block_size.unwrap_or(usual.max(volume.sector_size));
        if block_size < volume.sector_size {
            return Err(at("ext parameters").unsupported(format!(
                "blocks of {block_size} bytes are smaller than the sectors of {} bytes",
                volume.sector_size
            )));
        }
        // GRUB before 2.12 cannot read a volume with metadata_csum_seed.
        let features = match volume.kind {
            "ext4" => format!("^metadata_csum_seed,{}", volume.features),
            _ => volume.features.to_owned(),
        };
        let mut params = Params::new(volume.kind, volume.size, block_size, &features)?;
        let ratio = if is_small { 4096 } else { 16_384 };
        let needed = volume.nodes + FIRST_INODE;
        params.set_inodes(volume.inodes.unwrap_or((volume.size / ratio).max(needed + needed / 10)));
        (params.uuid, params.hash_seed) = (volume.id, volume.hash_seed);
        params.label = volume.label.to_vec();
        (params.mkfs_time, params.write_time, params.last_check) = (volume.time, volume.time, volume.time);
        Ok(Box::new(params))
    }
}

impl Planner for Params {
    fn size(&self) -> u64 {
        Params::size(self)
    }

    fn resize(&mut self, size: u64) {
        Params::resize(self, size);
    }

    fn set_id(&mut self, id: &[u8; 16]) {
        self.uuid = *id;
    }

    fn plan<'t>(&self, tree: &'t Tree) -> Result<Box<dyn Planned + 't>> {
        Ok(Box::new(Plan::new(tree, self.clone())?))
    }

    fn minimum(&self, tree: &Tree) -> Result<u64> {
        minimum_size(tree, self)
    }
}
