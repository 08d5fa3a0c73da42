//! Emits the bytes of the whole volume in ascending order, at the places that were decided.

use super::groups::Groups;
use super::inode::{self, Filling, flags};
use super::places::{Allocated, AllocatedFor, FAST_SYMLINK, JOURNAL, Places, RESIZE};
use super::{dir, map, xattr};
use crate::error::Result;
use crate::fs::plan::{Placed, put};
use crate::fs::{FileType, Node, Timestamp};

/// A callback for each piece: its position on the volume, and its bytes.
type Sink<'p> = &'p mut dyn FnMut(u64, Placed<'_>) -> Result<()>;

/// The volume's own metadata, by place.
enum Item {
    Super(u32),
    Descriptors(u32),
    ReservedDescriptors(u64),
    BlockBitmap(u32),
    InodeBitmap(u32),
    InodeTable(u32),
}

/// Emits the whole volume.
pub(super) fn emit(places: &Places<'_>, place: Sink<'_>) -> Result<()> {
    let groups = Groups::new(places);
    let descriptors = groups.descriptors();
    let mut emitter = Emitter { places, groups, descriptors, folder: None };
    let boot = &places.params.boot[..places.params.boot.len().min(1024)];
    if boot.iter().any(|b| *b != 0) {
        place(0, Placed::Bytes(boot))?;
    }
    let mut items = emitter.items().into_iter().peekable();
    for run in &places.runs {
        while let Some((block, item)) = items.next_if(|(block, _)| *block < run.physical) {
            emitter.item(block, &item, place)?;
        }
        emitter.run(run, place)?;
    }
    for (block, item) in items {
        emitter.item(block, &item, place)?;
    }
    Ok(())
}

struct Emitter<'a> {
    places: &'a Places<'a>,
    groups: Groups<'a>,
    descriptors: Vec<u8>,
    /// The bytes of the directory that was emitted last: it may be in several runs.
    folder: Option<(u32, Vec<u8>)>,
}

impl Emitter<'_> {
    fn items(&self) -> Vec<(u64, Item)> {
        let geometry = &self.places.geometry;
        let mut items = Vec::new();
        for group in 0..geometry.groups() {
            let place = geometry.places[group as usize];
            if geometry.has_super(group) {
                items.push((geometry.super_block(group), Item::Super(group)));
            }
            if self.groups.has_block_bitmap(group) {
                items.push((place.block_bitmap, Item::BlockBitmap(group)));
            }
            if self.groups.has_inode_bitmap(group) {
                items.push((place.inode_bitmap, Item::InodeBitmap(group)));
            }
            if !self.groups.inodes_in(group).is_empty() {
                items.push((place.inode_table, Item::InodeTable(group)));
            }
        }
        for index in 0..geometry.desc_blocks {
            items.extend(geometry.desc_places(index).into_iter().map(|b| (b, Item::Descriptors(index))));
        }
        if self.places.resize_block != 0 {
            let reserved = geometry.reserved_gdt_of(0);
            items.extend(reserved.map(|block| (block, Item::ReservedDescriptors(block))));
        }
        items.sort_unstable_by_key(|(block, _)| *block);
        items
    }

    fn byte(&self, block: u64) -> u64 {
        block * self.places.geometry.block_size
    }

    fn item(&self, block: u64, item: &Item, place: Sink<'_>) -> Result<()> {
        let byte = self.byte(block);
        match *item {
            Item::Super(group) => {
                let root = self.journal_root();
                let bytes = self.groups.superblock(group, root.as_ref());
                place(if group == 0 { 1024 } else { byte }, Placed::Bytes(&bytes))
            }
            Item::Descriptors(index) => {
                let size = self.places.geometry.block_size as usize;
                place(byte, Placed::Bytes(&self.descriptors[index as usize * size..][..size]))
            }
            Item::ReservedDescriptors(block) => place(byte, Placed::Bytes(&self.backups_of(block))),
            Item::BlockBitmap(group) => place(byte, Placed::Bytes(&self.groups.block_bitmap(group))),
            Item::InodeBitmap(group) => place(byte, Placed::Bytes(&self.groups.inode_bitmap(group))),
            Item::InodeTable(group) => self.inode_table(group, byte, place),
        }
    }

    /// Emits the blocks of an inode table that have inodes in use.
    fn inode_table(&self, group: u32, byte: u64, place: Sink<'_>) -> Result<()> {
        let Places { geometry, params, .. } = self.places;
        let size = usize::from(params.inode_size);
        let per_block = geometry.block_size as usize / size;
        let slot = |number: u32| ((number - 1) % geometry.inodes_per_group) as usize;
        let in_block = |a: &(u32, u32), b: &(u32, u32)| slot(a.0) / per_block == slot(b.0) / per_block;
        for inodes in self.groups.inodes_in(group).chunk_by(in_block) {
            let mut block = vec![0; geometry.block_size as usize];
            for (number, owner) in inodes {
                let at = slot(*number) % per_block * size;
                self.inode(*number, *owner, &mut block[at..at + size]);
            }
            let index = slot(inodes[0].0) / per_block;
            place(byte + index as u64 * geometry.block_size, Placed::Bytes(&block))?;
        }
        Ok(())
    }

    fn inode(&self, number: u32, owner: u32, bytes: &mut [u8]) {
        let Places { params, geometry, tree, .. } = self.places;
        if owner == JOURNAL || owner == RESIZE {
            let node = own_node(params.mkfs_time);
            let mut filling = Filling {
                number,
                nlink: 1,
                size: self.places.journal.size,
                blocks: self.places.journal.blocks,
                flags: self.mapping_flag(),
                block: [0; 60],
                xattr_block: 0,
                xattrs: &[],
                version: 0,
            };
            if let (JOURNAL, Some(root)) = (owner, self.journal_root()) {
                filling.block = root;
            } else {
                let per_block = geometry.block_size / 4;
                let backups = (1..geometry.groups()).filter(|g| geometry.has_super(*g)).count() as u64;
                filling.size = (per_block * per_block + per_block + 12) * geometry.block_size;
                filling.blocks = 1 + u64::from(geometry.reserved_gdt) * (1 + backups);
                filling.flags = 0;
                put::le32(&mut filling.block, 13 * 4, self.places.resize_block as u32);
            }
            return inode::encode(bytes, &node, &filling, params);
        }
        let place = self.places.place(owner);
        if owner as usize >= tree.nodes().len() {
            // The value of an attribute: its hash is in the access time, and it has one owner.
            let hash = xattr::value_hash(&self.places.value(owner), params.csum_seed());
            let mut node = own_node(0);
            node.atime = Some(Timestamp { secs: i64::from(hash.cast_signed()), nanos: 0 });
            let filling = Filling {
                number,
                nlink: 1,
                size: place.size,
                blocks: place.blocks,
                flags: self.mapping_flag() | flags::EA_INODE,
                block: self.root(owner),
                xattr_block: 0,
                xattrs: &[],
                version: 1,
            };
            return inode::encode(bytes, &node, &filling, params);
        }
        let node = &tree.nodes()[owner as usize].meta;
        let mut flags = inode::kept_flags(node) | if place.indexed { flags::INDEX } else { 0 };
        let target = node.link_target.as_deref().unwrap_or_default();
        let block = match node.file_type {
            FileType::Char | FileType::Block => inode::device(node.rdev.unwrap_or((0, 0))),
            FileType::Symlink if target.len() < FAST_SYMLINK => {
                let mut block = [0; 60];
                block[..target.len()].copy_from_slice(target);
                block
            }
            FileType::File | FileType::Dir | FileType::Symlink => {
                flags |= self.mapping_flag();
                self.root(owner)
            }
            FileType::Fifo | FileType::Socket => [0; 60],
        };
        let stored = self.places.stored_xattrs(owner).expect("it was stored when it was placed");
        let filling = Filling {
            number,
            nlink: place.nlink,
            size: place.size,
            blocks: place.blocks,
            flags,
            block,
            xattr_block: place.xattr_block,
            xattrs: &stored.in_inode,
            version: 0,
        };
        inode::encode(bytes, node, &filling, params);
    }

    fn mapping_flag(&self) -> u32 {
        if self.places.map_kind == map::Kind::Extents { flags::EXTENTS } else { 0 }
    }

    /// Returns the map of `owner` and the places of the map's blocks.
    fn map(&self, owner: u32) -> (map::Shape, Vec<u64>) {
        let place = self.places.place(owner);
        let runs = &self.places.runs[place.map.start as usize..place.map.end as usize];
        let blocks = runs.iter().flat_map(|run| run.physical..run.physical + run.len).collect();
        (self.places.shape(place), blocks)
    }

    fn root(&self, owner: u32) -> [u8; 60] {
        let (shape, blocks) = self.map(owner);
        shape.root(&blocks)
    }

    fn journal_root(&self) -> Option<[u8; 60]> {
        (self.places.journal.size > 0).then(|| self.root(JOURNAL))
    }

    fn csum_seed(&self, owner: u32) -> Option<u32> {
        let params = &self.places.params;
        let (number, generation) = if owner == JOURNAL {
            (inode::JOURNAL, 0)
        } else {
            let node = self.places.tree.nodes().get(owner as usize);
            (self.places.numbers[owner as usize], node.and_then(|node| node.meta.generation).unwrap_or(0))
        };
        params.metadata_csum().then(|| inode::csum_seed(params, number, generation))
    }

    fn run(&mut self, run: &Allocated, place: Sink<'_>) -> Result<()> {
        let byte = self.byte(run.physical);
        match (run.kind, run.owner) {
            (AllocatedFor::Map { index }, owner) => {
                let (shape, blocks) = self.map(owner);
                for i in 0..run.len {
                    let block = shape.block(index + i, &blocks, self.csum_seed(owner));
                    place(byte + self.byte(i), Placed::Bytes(&block))?;
                }
                Ok(())
            }
            (AllocatedFor::Data { logical: 0 }, JOURNAL) => {
                place(byte, Placed::Bytes(&self.journal_superblock()))
            }
            (_, JOURNAL) => Ok(()),
            (_, RESIZE) => place(byte, Placed::Bytes(&self.reserved_table())),
            (AllocatedFor::Xattrs, owner) => {
                let stored = self.places.stored_xattrs(owner).expect("it was stored when it was placed");
                let mut block = stored.block.expect("it was placed because there is one");
                if self.places.params.metadata_csum() {
                    xattr::sum_block(&mut block, run.physical, self.places.params.csum_seed());
                }
                place(byte, Placed::Bytes(&block))
            }
            (AllocatedFor::Data { logical }, owner) => self.content(owner, byte, logical, run.len, place),
        }
    }

    /// Emits `len` blocks of the content of a node, from its block `logical` on, at position `byte`.
    fn content(&mut self, owner: u32, byte: u64, logical: u64, len: u64, place: Sink<'_>) -> Result<()> {
        let (start, end) = (self.byte(logical), self.byte(logical + len));
        let Some(node) = self.places.tree.nodes().get(owner as usize) else {
            let value = self.places.value(owner);
            return place(byte, Placed::Bytes(&value[start as usize..value.len().min(end as usize)]));
        };
        match node.meta.file_type {
            FileType::Dir => {
                if self.folder.as_ref().is_none_or(|(number, _)| *number != owner) {
                    self.folder = Some((owner, self.folder_bytes(owner)));
                }
                let (_, bytes) = self.folder.as_ref().expect("just made");
                place(byte, Placed::Bytes(&bytes[start as usize..end as usize]))
            }
            FileType::Symlink => {
                place(byte, Placed::Bytes(node.meta.link_target.as_deref().unwrap_or_default()))
            }
            _ => {
                let first = node.data.partition_point(|range| range.end <= start);
                for data in node.data[first..].iter().take_while(|range| range.start < end) {
                    let (from, to) = (data.start.max(start), data.end.min(end));
                    let placed = Placed::File { key: node.key, offset: from, len: to - from };
                    place(byte + (from - start), placed)?;
                }
                Ok(())
            }
        }
    }

    fn folder_bytes(&self, owner: u32) -> Vec<u8> {
        let Places { tree, numbers, parents, .. } = self.places;
        let children = &tree.nodes()[owner as usize].children;
        let layout = self.places.dir_layout(owner);
        let seed = self.csum_seed(owner).unwrap_or(0);
        let (inode, parent) = (numbers[owner as usize], numbers[parents[owner as usize] as usize]);
        self.places.dirs.encode(&layout, inode, parent, seed, |i| dir::NewEntry {
            name: &children[i].name,
            inode: numbers[children[i].node as usize],
            file_type: tree.nodes()[children[i].node as usize].meta.file_type,
        })
    }

    /// Returns the journal's superblock, with an empty log.
    fn journal_superblock(&self) -> Vec<u8> {
        let params = &self.places.params;
        let mut bytes = vec![0; 1024];
        for (at, value) in [
            (0x0, 0xC03B_3998), // h_magic
            (0x4, 4),           // h_blocktype: the superblock's second version
            (0xC, params.block_size),
            (0x10, params.journal_blocks),
            (0x14, 1), // s_first
            (0x18, 1), // s_sequence
            (0x40, 1), // s_nr_users
        ] {
            put::be32(&mut bytes, at, value);
        }
        bytes[0x30..0x40].copy_from_slice(&params.uuid);
        bytes
    }

    /// Returns the resize inode's table: the blocks reserved for descriptors after the first superblock.
    fn reserved_table(&self) -> Vec<u8> {
        let geometry = &self.places.geometry;
        let mut bytes = vec![0; geometry.block_size as usize];
        let slots = bytes.len() / 4;
        for (slot, block) in (geometry.desc_blocks as usize..).zip(geometry.reserved_gdt_of(0)) {
            put::le32(&mut bytes, slot % slots * 4, block as u32);
        }
        bytes
    }

    /// Returns the content of a reserved block: the numbers of its copies in the other groups.
    fn backups_of(&self, block: u64) -> Vec<u8> {
        let geometry = &self.places.geometry;
        let mut bytes = vec![0; geometry.block_size as usize];
        let groups = (1..geometry.groups()).filter(|group| geometry.has_super(*group));
        for (slot, group) in groups.enumerate().take(bytes.len() / 4) {
            let copy = block + u64::from(group) * geometry.blocks_per_group;
            put::le32(&mut bytes, slot * 4, copy as u32);
        }
        bytes
    }
}

/// Returns the metadata of one of the filesystem's own inodes.
fn own_node(time: u32) -> Node {
    let time = Some(Timestamp { secs: time.into(), nanos: 0 });
    Node {
        mode: Some(0o600),
        mtime: time,
        atime: time,
        ctime: time,
        crtime: time,
        ..Node::bare(FileType::File)
    }
}
