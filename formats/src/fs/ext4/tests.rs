//! Tests with a small volume made by hand, and with one byte of it changed.

use std::sync::Arc;

use super::*;
use crate::error::ErrorKind;
use crate::fs::pieces::Pieces;
use crate::fs::{Timestamp, Xattr};
use crate::source::MemSource;

const BLOCK: usize = 1024;
/// Number of blocks of the volume: superblock 1, descriptors 2, bitmaps 3 and 4, inode table 5 to 8, then data.
const BLOCKS: usize = 64;
const TABLE: usize = 5 * BLOCK;
const INODE: usize = 256;
const ROOT_BLOCK: usize = 10;
const XATTR_BLOCK: usize = 12;
const FILE_BLOCK: usize = 20;
const FILE: NodeId = 12;

/// Writes `bytes` at byte `at`.
fn put(volume: &mut [u8], at: usize, bytes: &[u8]) {
    volume[at..at + bytes.len()].copy_from_slice(bytes);
}

fn put16(volume: &mut [u8], at: usize, value: u16) {
    put(volume, at, &value.to_le_bytes());
}

fn put32(volume: &mut [u8], at: usize, value: u32) {
    put(volume, at, &value.to_le_bytes());
}

/// Returns the position of inode `number`.
fn inode_at(number: u64) -> usize {
    TABLE + (number as usize - 1) * INODE
}

/// Returns a volume without checksums: a root directory with one file, of two blocks and an attribute.
fn volume() -> Vec<u8> {
    let mut v = vec![0; BLOCKS * BLOCK];
    for (at, value) in [
        (0x0, 16),            // s_inodes_count
        (0x4, BLOCKS as u32), // s_blocks_count
        (0x14, 1),            // s_first_data_block
        (0x20, 8192),         // s_blocks_per_group
        (0x28, 16),           // s_inodes_per_group
        (0x4C, 1),            // s_rev_level
        (0x54, 11),           // s_first_ino
        (0x60, 0x42),         // s_feature_incompat: filetype, extent
    ] {
        put32(&mut v, 1024 + at, value);
    }
    put16(&mut v, 1024 + 0x38, 0xEF53);
    put16(&mut v, 1024 + 0x3A, 1); // s_state: clean
    put16(&mut v, 1024 + 0x58, INODE as u16);
    for (at, value) in [(0x0, 3), (0x4, 4), (0x8, 5)] {
        put32(&mut v, 2 * BLOCK + at, value);
    }
    for (number, mode, size, block, count) in
        [(2, 0o040_755, BLOCK as u32, ROOT_BLOCK, 1), (12, 0o100_644, 1500, FILE_BLOCK, 2)]
    {
        let at = inode_at(number);
        put16(&mut v, at, mode);
        put32(&mut v, at + 0x4, size);
        put16(&mut v, at + 0x1A, 1);
        put32(&mut v, at + 0x20, flags::EXTENTS);
        put(&mut v, at + 0x28, &[0x0A, 0xF3, 1, 0, 4, 0, 0, 0]);
        put16(&mut v, at + 0x28 + 16, count);
        put32(&mut v, at + 0x28 + 20, block as u32);
        put16(&mut v, at + 0x80, 32);
    }
    put32(&mut v, inode_at(FILE) + 0x68, XATTR_BLOCK as u32);
    put(&mut v, ROOT_BLOCK * BLOCK, &[12, 0, 0, 0, 0, 4, 4, 1, b'f', b'i', b'l', b'e']);
    for (at, value) in [(0, 0xEA02_0000), (4, 1), (8, 1)] {
        put32(&mut v, XATTR_BLOCK * BLOCK + at, value);
    }
    put(&mut v, XATTR_BLOCK * BLOCK + 32, &[1, 1, 0xFC, 3, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, b'x']);
    put(&mut v, XATTR_BLOCK * BLOCK + 1020, b"ok");
    v
}

fn open(volume: Vec<u8>) -> Result<Ext4> {
    Ext4::open(Arc::new(MemSource(volume)))
}

/// Returns the volume, opened.
pub(super) fn small() -> Ext4 {
    open(volume()).unwrap()
}

/// Returns the first error from reading all of the volume.
fn first_error(volume: Vec<u8>) -> Option<String> {
    let read = || -> Result<Option<Error>> {
        let fs = open(volume)?;
        let mut complaint = None;
        for entry in fs.read_dir(fs.root(), &mut |error| complaint = Some(error))? {
            fs.node(entry.node, &mut |error| complaint = Some(error))?;
            fs.content(entry.node)?;
        }
        Ok(complaint)
    };
    match read() {
        Ok(complaint) => complaint.map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    }
}

#[test]
fn the_volume_is_read() {
    let fs = open(volume()).unwrap();
    assert_eq!(fs.info().warnings, Vec::<String>::new());
    let entries = fs.read_dir(fs.root(), &mut |error| panic!("{error}")).unwrap();
    assert_eq!(entries, [DirEntry { name: b"file".to_vec(), short_name: None, dos_name: None, node: FILE }]);
    let node = fs.node(FILE, &mut |_| ()).unwrap();
    assert_eq!(node.xattrs, [Xattr { name: b"user.x".to_vec(), value: b"ok".to_vec() }]);
    assert_eq!(node.crtime, Some(Timestamp::default()));
    let offset = (FILE_BLOCK * BLOCK) as u64;
    assert_eq!(fs.content(FILE).unwrap().pieces, [Piece::Volume { offset, len: 1500 }]);
}

#[test]
fn one_wrong_field_is_named_with_its_place() {
    let (sb, root, file) = (1024, inode_at(2), inode_at(FILE));
    let xattr = XATTR_BLOCK * BLOCK;
    for (at, bytes, error) in [
        (sb + 0x38, &[0, 0][..], "ext superblock, s_magic, at byte 1080: is 0x0, expected 0xef53"),
        (sb + 0x18, &[7], "ext superblock, s_log_block_size, at byte 1048: is 7, expected 0 to 6"),
        (
            sb + 0x14,
            &[64],
            "ext superblock, s_first_data_block, at byte 1044: is 64, but the volume has 64 blocks",
        ),
        (
            sb + 0x20,
            &[1, 0x20],
            "ext superblock, s_blocks_per_group, at byte 1056: is 8193, expected 1 to 8192",
        ),
        (sb + 0x20, &[0, 0], "ext superblock, s_blocks_per_group, at byte 1056: is 0, expected 1 to 8192"),
        (sb + 0x58, &[0, 3], "ext superblock, s_inode_size, at byte 1112: is 768, expected a power of two"),
        (sb + 0x58, &[0, 8], "ext superblock, s_inode_size, at byte 1112: is 2048, expected a power of two"),
        (sb + 0x28, &[0], "ext superblock, s_inodes_per_group, at byte 1064: is 0, expected 1 to 8192"),
        (sb, &[17], "ext superblock, s_inodes_count, at byte 1024: is 17, but 1 groups of 16 inodes"),
        (sb + 0x60, &[0xC2], "ext superblock, s_desc_size, at byte 1278: is 0, expected 64 to 1024"),
        (
            sb + 0x60,
            &[0x43, 0x10],
            "s_feature_incompat, at byte 1120: the volume uses features that mif does not read: compression, dirdata",
        ),
        (sb + 0x60, &[0x4A], "s_feature_incompat, at byte 1120: the volume is an external journal"),
        (sb + 0x64, &[0, 4], "ext superblock, s_checksum_type, at byte 1397: is 0, expected 1"),
        (sb + 0x64, &[0, 2, 0, 0], ""),
        (root + 0x1A, &[0], "inode 2, i_links_count, at byte 5402: is 0"),
        (root + 1, &[0x91], "inode 2, i_mode, at byte 5376: is 0o110755, which is not a valid file type"),
        (root + 1, &[0x81], "inode 2, i_mode, at byte 5376: is not a directory"),
        (
            file + 0x80,
            &[225],
            "inode 12, i_extra_isize, at byte 8064: is 225, expected a multiple of 4 up to 128",
        ),
        (file + 0x6F, &[0x80], "inode 12, i_size, at byte 7940: is 9223372036854777308, which is negative"),
        (
            file + 0x6E,
            &[0x80],
            "inode 12, i_size, at byte 7940: is 36028797018965468, more than its block map",
        ),
        (
            file + 0x28 + 20,
            &[63],
            "inode 12, data, at byte 64512: occupies blocks 63 to 64, but the volume's last block is 63",
        ),
        (
            file + 0x28 + 20,
            &[4],
            "inode 12, data, at byte 4096: occupies blocks 4 to 5, but blocks 0 to 8 contain the filesystem's own",
        ),
        (file + 0x68, &[5], "inode 12, extended attribute block, at byte 5120: occupies blocks 5 to 5"),
        (file + 0x68, &[64], "inode 12, extended attribute block, at byte 65536: occupies blocks 64 to 64"),
        (xattr, &[1], "inode 12, extended attribute block 12, h_magic, at byte 12288: is 0xea020001"),
        (xattr + 8, &[2], "inode 12, extended attribute block 12, h_blocks, at byte 12296: is 2, expected 1"),
        (
            xattr + 32 + 8,
            &[9],
            "e_value_offs, at byte 12322: is 1020, of 9 bytes, expected within 56 to 1024",
        ),
        (
            xattr + 32 + 4,
            &[3],
            "inode 12, attribute in inode 3, e_value_inum: is not an inode that can hold a value",
        ),
        (
            xattr + 32 + 4,
            &[13, 0, 0, 0, 0, 0, 0x50, 0],
            "e_value_size, at byte 12328: is 5242880, more than 4194304",
        ),
        (ROOT_BLOCK * BLOCK, &[17], "directory inode 2, inode, at byte 10240: is 17, expected 1 to 16"),
        (ROOT_BLOCK * BLOCK, &[8], "inode 8: belongs to the filesystem, not to a file"),
        (
            ROOT_BLOCK * BLOCK + 6,
            &[0],
            "directory inode 2, name_len, at byte 10246: is 0, but names cannot be empty",
        ),
        (
            ROOT_BLOCK * BLOCK + 8,
            b"/",
            "directory inode 2, name, at byte 10248: is \"/ile\", which is not a valid name",
        ),
        (
            ROOT_BLOCK * BLOCK + 8,
            &[0],
            "directory inode 2, name, at byte 10248: is \"\\\\x00ile\", which is not a valid name",
        ),
        (root + 0x28 + 2, &[0], "directory inode 2: has a hole of 1024 bytes"),
        (root + 4, &[0, 5], "directory inode 2: has a hole of 256 bytes"),
        (
            root + 4,
            &[0, 2],
            "directory inode 2, i_size, at byte 5380: is 512, not a multiple of the block size",
        ),
    ] {
        let mut volume = volume();
        put(&mut volume, at, bytes);
        let found = first_error(volume).unwrap_or_default();
        assert!(found.contains(error), "byte {at}, {bytes:?}\n   found: {found}\nexpected: {error}");
        assert_eq!(found.is_empty(), error.is_empty(), "{found}");
    }
}

/// Position of the entry of the second attribute in [`with_two_attributes`].
const SECOND_XATTR: usize = XATTR_BLOCK * BLOCK + 32 + 20;

/// Returns the volume with a second attribute, `user.y` = `yes`, in the file's attribute block.
fn with_two_attributes() -> Vec<u8> {
    let mut volume = volume();
    put(&mut volume, SECOND_XATTR, &[1, 1, 0xF8, 3, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, b'y']);
    put(&mut volume, XATTR_BLOCK * BLOCK + 0x3F8, b"yes");
    volume
}

#[test]
fn attributes_whose_values_are_over_the_limit_together_are_left_out_from_there_on() {
    let fs = open(with_two_attributes()).unwrap();
    let inode = fs.inode(12).unwrap();
    let read = |most| {
        let mut complaints = Vec::new();
        let xattrs = fs.xattrs_up_to(most, &inode, &mut |error| complaints.push(error)).unwrap();
        (xattrs.into_iter().map(|x| String::from_utf8(x.name).unwrap()).collect::<Vec<_>>(), complaints)
    };
    let (names, complaints) = read(5);
    assert_eq!((names, complaints.len()), (vec!["user.x".to_owned(), "user.y".to_owned()], 0));
    let (names, complaints) = read(4);
    assert_eq!(names, ["user.x"]);
    assert_eq!(complaints[0].kind(), ErrorKind::Limit);
    assert_eq!(
        complaints[0].to_string(),
        "inode 12, attribute user.y: the attribute values exceed 4 bytes in total; this one and later ones were left out"
    );
}

#[test]
fn a_damaged_attribute_leaves_the_inode_and_its_other_attributes() {
    let mut volume = with_two_attributes();
    let read = |volume: &[u8]| {
        let mut complaints = Vec::new();
        let node =
            open(volume.to_vec()).unwrap().node(FILE, &mut |e| complaints.push(e.to_string())).unwrap();
        assert_eq!((node.size, node.mode), (1500, Some(0o644)));
        let names = node.xattrs.into_iter().map(|x| String::from_utf8(x.name).unwrap()).collect::<Vec<_>>();
        (names, complaints)
    };
    assert_eq!(read(&volume), (vec!["user.x".to_owned(), "user.y".to_owned()], vec![]));
    volume[SECOND_XATTR + 8] = 9;
    let (names, complaints) = read(&volume);
    assert_eq!(names, ["user.x"]);
    assert!(complaints.len() == 1 && complaints[0].contains("e_value_offs"), "{complaints:?}");
    volume[XATTR_BLOCK * BLOCK] = 7;
    let (names, complaints) = read(&volume);
    assert!(names.is_empty() && complaints.len() == 1 && complaints[0].contains("h_magic"), "{complaints:?}");
}

#[test]
fn a_descriptor_that_leads_nowhere_loses_its_inodes_only() {
    let mut volume = volume();
    put32(&mut volume, 2 * BLOCK + 8, 1000);
    let fs = open(volume).unwrap();
    assert!(fs.info().warnings[0].contains(
        "descriptor of block group 0, bg_inode_table, at byte 2056: is block 1000, expected 4 blocks between 1 and 64"
    ));
    let error = fs.node(2, &mut |_| ()).unwrap_err().to_string();
    assert_eq!(error, "inode 2: the descriptor of its block group, 0, is damaged");
}

#[test]
fn a_descriptor_that_is_damaged_elsewhere_is_used_and_said_to_be() {
    for (at, bytes, warning) in [
        (2 * BLOCK, &1000_u32.to_le_bytes()[..], "bg_block_bitmap, at byte 2048: is block 1000"),
        (2 * BLOCK + 4, &[1], "bg_inode_bitmap, at byte 2052: is block 1"),
        (1024 + 0x64, &[0x10], "bg_checksum, at byte 2078: is 0x0000"), // s_feature_ro_compat: uninit_bg
    ] {
        let mut volume = volume();
        put(&mut volume, at, bytes);
        let fs = open(volume).unwrap();
        let warnings = &fs.info().warnings;
        assert!(warnings[0].contains(warning), "{warnings:?}");
        assert_eq!(warnings[1], "1 group descriptors are damaged, but were used");
        assert_eq!(fs.node(FILE, &mut |_| ()).unwrap().size, 1500);
    }
}

#[test]
fn a_journal_that_is_to_be_replayed_and_is_not_there_is_said() {
    let mut volume = volume();
    put32(&mut volume, 1024 + 0x60, 0x46); // s_feature_incompat: with needs_recovery
    let warnings = open(volume).unwrap().info().warnings.clone();
    assert_eq!(warnings, ["the superblock asks to replay the journal, but there is no journal"]);
}

#[test]
fn a_volume_that_was_cut_off_is_read_as_far_as_it_goes() {
    let mut volume = volume();
    volume.truncate((FILE_BLOCK + 1) * BLOCK);
    let fs = open(volume).unwrap();
    assert!(fs.info().warnings[0].contains("the volume ends at byte 21504, but its filesystem at 65536"));
    assert_eq!(fs.node(FILE, &mut |_| ()).unwrap().size, 1500);
    let error = fs.content(FILE).unwrap_err().to_string();
    assert!(error.contains("occupies blocks 20 to 21, but the volume's last block is 20"), "{error}");
}

#[test]
fn a_file_cannot_have_more_blocks_than_the_volume() {
    let mut volume = volume();
    let map = inode_at(FILE) + 0x28;
    put16(&mut volume, map + 2, 3);
    for i in 0..3 {
        put32(&mut volume, map + 12 + i * 12, i as u32 * 30);
        put16(&mut volume, map + 16 + i * 12, 30);
        put32(&mut volume, map + 20 + i * 12, 20);
    }
    let error = open(volume).unwrap().content(FILE).unwrap_err().to_string();
    assert_eq!(error, "inode 12, data, at byte 20480: the file has more blocks than the volume, 64");
}

#[test]
fn a_folder_cannot_have_one_block_twice() {
    let mut volume = volume();
    let map = inode_at(2) + 0x28;
    put16(&mut volume, map + 2, 2);
    put32(&mut volume, map + 24, 1);
    put16(&mut volume, map + 28, 1);
    put32(&mut volume, map + 32, ROOT_BLOCK as u32);
    put32(&mut volume, inode_at(2) + 4, 2048);
    let error = open(volume).unwrap().read_dir(2, &mut |_| {}).unwrap_err().to_string();
    assert_eq!(error, "directory inode 2, at byte 10240: uses a block of the volume twice");
}

#[test]
fn billions_of_groups_are_over_the_limit() {
    let mut volume = volume();
    put32(&mut volume, 1024 + 4, u32::MAX);
    put32(&mut volume, 1024 + 0x20, 8);
    let error = open(volume).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
}

#[test]
fn the_superblock_is_taken_from_its_backup() {
    let mut volume = volume();
    volume.resize(9000 * BLOCK, 0);
    put32(&mut volume, 1024 + 4, 9000);
    put32(&mut volume, 1024, 32);
    let backup = volume[1024..3072].to_vec();
    put(&mut volume, 8193 * BLOCK, &backup);
    put32(&mut volume, 2 * BLOCK + 32, 8200);
    put32(&mut volume, 1024 + 0x18, 99);
    let fs = open(volume).unwrap();
    let warnings = fs.info().warnings.join(" ");
    assert!(
        warnings.contains("its backup at byte 8389632 was used: ext superblock, s_log_block_size"),
        "{warnings}"
    );
    assert_eq!(fs.node(FILE, &mut |_| ()).unwrap().size, 1500);
}

#[test]
fn an_unclean_volume_without_a_journal_is_said_to_be() {
    let mut volume = volume();
    put16(&mut volume, 1024 + 0x3A, 0);
    assert!(open(volume).unwrap().info().warnings[0].contains("was not unmounted cleanly"));
    let mut volume = self::volume();
    put16(&mut volume, 1024 + 0x3A, 3);
    assert!(open(volume).unwrap().info().warnings[0].contains("records errors"));
}

#[test]
fn a_file_in_millions_of_pieces_is_over_the_limit() {
    let blocks = Blocks::new(Arc::new(MemSource(vec![0; 8 * BLOCK])), BLOCK as u32, 8);
    let mut pieces = Pieces::new(12, u64::MAX);
    let error = (0..).find_map(|i| map::data(&mut pieces, &blocks, 2 * i, 2..3).err()).unwrap();
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert_eq!(error.to_string(), "inode 12: has more than 4194304 fragments");
}

#[test]
fn the_upper_half_of_the_count_of_blocks_counts_with_huge_file_only() {
    let mut volume = volume();
    let at = inode_at(FILE);
    put16(&mut volume, at, 0o120_777);
    put32(&mut volume, at + 0x4, 6);
    put32(&mut volume, at + 0x20, 0); // i_flags
    put32(&mut volume, at + 0x1C, 2); // i_blocks_lo: the block of attributes
    put16(&mut volume, at + 0x74, 5); // i_blocks_high
    put(&mut volume, at + 0x28, b"target");
    let target = |volume: &[u8]| open(volume.to_vec()).unwrap().node(FILE, &mut |e| panic!("{e}"));
    assert_eq!(target(&volume).unwrap().link_target.unwrap(), b"target");
    put32(&mut volume, 1024 + 0x64, 8); // s_feature_ro_compat: huge_file
    assert!(target(&volume).is_err());
}

#[test]
fn features_count_on_a_volume_of_revision_0_too() {
    // With inodes of 128 bytes, inode 12 is where the upper half of inode 6 was.
    let mut volume = volume();
    put32(&mut volume, 1024 + 0x4C, 0);
    let file = volume[inode_at(FILE)..][..128].to_vec();
    let root = volume[inode_at(2)..][..128].to_vec();
    put(&mut volume, TABLE, &[0; 16 * INODE]);
    put(&mut volume, TABLE + 128, &root);
    put(&mut volume, TABLE + 11 * 128, &file);
    let fs = open(volume).unwrap();
    assert_eq!(
        fs.info().warnings,
        ["s_rev_level of the superblock is 0, which allows no features, but it has some: filetype, extent"]
    );
    let entries = fs.read_dir(2, &mut |e| panic!("{e}")).unwrap();
    assert_eq!(entries[0].name, b"file");
    assert_eq!(fs.node(entries[0].node, &mut |e| panic!("{e}")).unwrap().size, 1500);
}

#[test]
fn threads_read_at_the_same_time() {
    let fs = open(volume()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..100).for_each(|_| assert_eq!(fs.node(FILE, &mut |_| ()).unwrap().size, 1500)));
        }
    });
}

#[test]
fn inode_tables_that_overlap_do_no_harm() {
    // Tables of 17 blocks, so a chunk of one block is at the end of the first: where the second begins.
    let mut volume = volume();
    volume.resize(9000 * BLOCK, 0);
    put32(&mut volume, 1024 + 0x4, 9000);
    put32(&mut volume, 1024 + 0x28, 68);
    put32(&mut volume, 1024, 136);
    put(&mut volume, 2 * BLOCK, &[3, 0, 0, 0, 4, 0, 0, 0, 50, 0, 0, 0]);
    put(&mut volume, 2 * BLOCK + 32, &[3, 0, 0, 0, 4, 0, 0, 0, 66, 0, 0, 0]);
    let fs = open(volume).unwrap();
    for id in [65, 68 + 5, 68 + 64, 65, 68 + 68] {
        let error = fs.node(id, &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains("i_links_count"), "{error}");
    }
}

/// A volume that cannot be read from a certain byte on.
struct Failing(Vec<u8>, u64);

impl Source for Failing {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if offset + buf.len() as u64 > self.1 {
            return Err(at("disk").byte(offset).io(std::io::Error::other("unreadable")));
        }
        buf.copy_from_slice(&self.0[offset as usize..][..buf.len()]);
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<crate::source::Extent> {
        Ok(crate::source::Extent::data(offset, self.len() - offset))
    }
}

#[test]
fn a_read_that_fails_is_no_damage_of_the_volume() {
    let open = |good| Ext4::open(Arc::new(Failing(volume(), good)));
    assert_eq!(open(1024).err().unwrap().kind(), ErrorKind::Io);
    assert_eq!(open(2048).err().unwrap().kind(), ErrorKind::Io);
    assert_eq!(open(TABLE as u64).unwrap().node(2, &mut |_| ()).unwrap_err().kind(), ErrorKind::Io);
    let fs = open((ROOT_BLOCK * BLOCK) as u64).unwrap();
    assert_eq!(fs.read_dir(2, &mut |e| panic!("{e}")).unwrap_err().kind(), ErrorKind::Io);
    let fs = open((XATTR_BLOCK * BLOCK) as u64).unwrap();
    assert_eq!(fs.node(FILE, &mut |_| ()).unwrap_err().kind(), ErrorKind::Io);
}
