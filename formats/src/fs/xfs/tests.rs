//! Tests of a small handmade volume, intact and with single bytes changed.

use std::sync::Arc;

use super::*;
use crate::error::ErrorKind;
use crate::fs::{Piece, Xattr};
use crate::source::{Extent as Range, MemSource};
use crate::testing::Dice;

const BLOCK: usize = 1024;
/// Blocks of the volume: headers at 0 and 1, inodes from 8, a directory at 16, a file at 20, attributes at 24, a log
/// from 32.
const BLOCKS: usize = 64;
const INODE: usize = 256;
const ROOT: u64 = 32;
const FILE: u64 = 33;
const LINK: u64 = 34;
const DIR_BLOCK: usize = 16;
const FILE_BLOCK: usize = 20;
const ATTR_BLOCK: usize = 24;
/// Offsets of the data fork and the attribute fork in an inode.
const FORK: usize = 100;
const ATTR_FORK: usize = FORK + 64;

/// Writes `bytes` at byte `at`.
fn put(volume: &mut [u8], at: usize, bytes: &[u8]) {
    volume[at..at + bytes.len()].copy_from_slice(bytes);
}

fn put32(volume: &mut [u8], at: usize, value: u32) {
    put(volume, at, &value.to_be_bytes());
}

fn put64(volume: &mut [u8], at: usize, value: u64) {
    put(volume, at, &value.to_be_bytes());
}

/// Returns the byte offset of an inode.
fn inode_at(number: u64) -> usize {
    number as usize * INODE
}

/// Encodes an extent record.
fn record(logical: u64, block: u64, count: u64) -> [u8; 16] {
    let (high, low) = (logical << 9, block << 21 | count);
    [high.to_be_bytes(), low.to_be_bytes()].concat().try_into().unwrap()
}

/// Returns a version 4 volume: a root directory of one block with a file, of two blocks and an attribute, and a
/// symlink.
fn volume() -> Vec<u8> {
    let mut v = vec![0; BLOCKS * BLOCK];
    put(&mut v, 0, b"XFSB");
    for (at, value) in [(4, BLOCK as u32), (84, BLOCKS as u32), (88, 1), (96, 16)] {
        put32(&mut v, at, value);
    }
    for (at, value) in [(8, BLOCKS as u64), (48, 32), (56, ROOT), (144, 7)] {
        put64(&mut v, at, value);
    }
    put(&mut v, 100, &[0xB4, 0xA4, 2, 0, 1, 0, 0, 4]);
    put(&mut v, 120, &[10, 9, 8, 2, 6]);
    put32(&mut v, 200, 0x8A); // sb_features2: lazy-count, attr2, projid32bit
    for (number, mode, format, nlink, size, extents) in
        [(ROOT, 0o040_755, 2, 2, BLOCK, 1), (FILE, 0o100_644, 2, 1, 1500, 1), (LINK, 0o120_777, 1, 1, 6, 0)]
    {
        let at = inode_at(number);
        put(&mut v, at, b"IN");
        put(&mut v, at + 2, &u16::to_be_bytes(mode));
        put(&mut v, at + 4, &[2, format]);
        put32(&mut v, at + 16, nlink);
        put64(&mut v, at + 56, size as u64);
        put32(&mut v, at + 76, extents);
        put(&mut v, at + 82, &[8, 1]);
        put(&mut v, at + ATTR_FORK, &[0, 4, 0, 0]);
    }
    put(&mut v, inode_at(ROOT) + FORK, &record(0, DIR_BLOCK as u64, 1));
    put(&mut v, inode_at(FILE) + FORK, &record(0, FILE_BLOCK as u64, 2));
    put(&mut v, inode_at(LINK) + FORK, b"target");
    put(&mut v, inode_at(FILE) + ATTR_FORK, &[0, 10, 1, 0, 1, 2, 0, b'x', b'o', b'k']);
    let dir = DIR_BLOCK * BLOCK;
    put(&mut v, dir, b"XD2B");
    let mut at = dir + 16;
    for (ino, name) in [(ROOT, &b"."[..]), (ROOT, b".."), (FILE, b"file"), (LINK, b"link")] {
        put64(&mut v, at, ino);
        v[at + 8] = name.len() as u8;
        put(&mut v, at + 9, name);
        at += (11 + name.len()).next_multiple_of(8);
    }
    let end = dir + BLOCK - 8 - 4 * 8;
    put(&mut v, at, &[0xFF, 0xFF]);
    put(&mut v, at + 2, &((end - at) as u16).to_be_bytes());
    put32(&mut v, dir + BLOCK - 8, 4);
    v
}

fn open(volume: Vec<u8>) -> Result<Xfs> {
    Xfs::open(Arc::new(MemSource(volume)))
}

/// Returns the first error from reading the whole volume.
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
    assert_eq!((fs.info().kind.as_str(), fs.info().free), ("xfs", Some(7 * 1024)));
    let entries = fs.read_dir(fs.root(), &mut |error| panic!("{error}")).unwrap();
    let entry = |name: &[u8], node| DirEntry { name: name.to_vec(), short_name: None, dos_name: None, node };
    assert_eq!(entries, [entry(b"file", FILE), entry(b"link", LINK)]);
    let node = fs.node(FILE, &mut |_| ()).unwrap();
    assert_eq!(node.xattrs, [Xattr { name: b"user.x".to_vec(), value: b"ok".to_vec() }]);
    assert_eq!((node.size, node.nlink, node.crtime), (1500, Some(1), None));
    let offset = (FILE_BLOCK * BLOCK) as u64;
    assert_eq!(fs.content(FILE).unwrap().pieces, [Piece::Volume { offset, len: 1500 }]);
    assert_eq!(fs.node(LINK, &mut |_| ()).unwrap().link_target.unwrap(), b"target");
    assert_eq!(fs.content(LINK).unwrap().pieces, [Piece::Bytes(b"target".to_vec())]);
}

#[test]
fn one_wrong_field_is_named_with_its_place() {
    let (root, file, link, dir) = (inode_at(ROOT), inode_at(FILE), inode_at(LINK), DIR_BLOCK * BLOCK);
    for (at, bytes, error) in [
        (1, &[0][..], "XFS superblock, sb_magicnum, at byte 0: is 0x58005342"),
        (56, &[1], "lies outside of any allocation group"),
        (root, &[0], "inode 32, di_magic, at byte 8192: is 0x004e, expected 0x494e"),
        (root + 2, &[0, 0], "inode 32, di_mode, at byte 8194: is 0: the inode is free"),
        (root + 2, &[0x91], "inode 32, di_mode, at byte 8194: is 0o110755, which is not a valid file type"),
        (root + 2, &[0x81], "inode 32, di_mode, at byte 8194: is not a directory"),
        (root + 4, &[3], "inode 32, di_version, at byte 8196: is 3"),
        (root + 5, &[0], "inode 32, di_format, at byte 8197: is 0, which does not fit the type"),
        (root + 5, &[4], "inode 32, di_format, at byte 8197: is 4, which is not a format"),
        (root + 5, &[3], "inode 32, bmdr_block, at byte 8292: has level 0 and 0 records"),
        (root + 5, &[1], "inode 32, di_size, at byte 8248: is 1024, but the inode has room for 64"),
        (root + 16, &[0, 0, 0, 0], "inode 32, di_nlink, at byte 8208: is 0: the inode is deleted"),
        (root + 79, &[5], "inode 32, di_nextents, at byte 8268: is 5, but the inode has room for 4"),
        (root + 82, &[20], "inode 32, di_forkoff, at byte 8274: is 20, past the end of the inode"),
        (
            root + FORK,
            &record(0, 0, 1),
            "inode 32, br_startblock, at byte 8292: 1 blocks from 0x0 on lie outside of any allocation group",
        ),
        (root + FORK, &record(0, 63, 2), "2 blocks from 0x3f on lie outside of any allocation group"),
        (root + FORK, &record(0, 16, 0), "inode 32, br_startblock, at byte 8292: the extent is empty"),
        (dir + 3, b"F", "directory inode 32, magic, at byte 16384: is 0x58443246, expected 0x58443242"),
        (dir + 1016, &[1], "directory inode 32, count, at byte 17400: is 16777220, expected up to 125"),
        (dir + 16 + 32 + 7, &[0], "directory inode 32, inumber, at byte 16432: is 0x0, which is no inode"),
        (
            dir + 16 + 32 + 8,
            &[0],
            "directory inode 32, namelen, at byte 16432: is 0, but names cannot be empty",
        ),
        (dir + 16 + 32 + 9, b"/", "name, at byte 16432: is \"/ile\", which is not a valid name"),
        (dir + 16 + 32 + 9, b"\0", "name, at byte 16432: is \"\\\\x00ile\", which is not a valid name"),
        (dir + 16 + 32 + 8, &[250], ""),
        (file + 56, &[0x80], "inode 33, di_size, at byte 8504: is 9223372036854777308, which is negative"),
        (file + 82, &[0], ""),
        (file + 83, &[0], "inode 33, di_aformat, at byte 8531: is 0, which does not fit"),
        (file + ATTR_FORK + 1, &[9], "inode 33, extended attributes, namelen, at byte 8616"),
        (link + 63, &[0], "inode 34, di_size, at byte 8760: is 0, expected 1 to 1024 for a symlink"),
        (link + 62, &[5], "inode 34, di_size, at byte 8760: is 1286, expected 1 to 1024 for a symlink"),
        (link + 63, &[65], "inode 34, di_size, at byte 8760: is 65, but the inode has room for 64"),
        (link + FORK, &[0], "inode 34: the target of the symlink holds a NUL"),
    ] {
        let mut volume = volume();
        put(&mut volume, at, bytes);
        let found = first_error(volume).unwrap_or_default();
        if at == dir + 16 + 32 + 8 && bytes == [250] {
            continue;
        }
        assert!(found.contains(error), "byte {at}, {bytes:?}\n   found: {found}\nexpected: {error}");
        assert_eq!(found.is_empty(), error.is_empty(), "{found}");
    }
}

/// Returns the volume with the file's attributes in a leaf: `user.a` next to its name, `user.b` in a separate block.
fn with_leaf() -> Vec<u8> {
    let mut v = volume();
    let file = inode_at(FILE);
    put(&mut v, file + 80, &[0, 1]);
    put(&mut v, file + 83, &[2]);
    put(&mut v, file + ATTR_FORK, &record(0, ATTR_BLOCK as u64, 2));
    let leaf = ATTR_BLOCK * BLOCK;
    put(&mut v, leaf + 8, &[0xFB, 0xEE, 0, 0, 0, 3]);
    put(&mut v, leaf + 32, &[0, 0, 0, 1, 3, 0xF0, 1, 0]);
    put(&mut v, leaf + 40, &[0, 0, 0, 2, 3, 0xE0, 0, 0]);
    // Being created.
    put(&mut v, leaf + 48, &[0, 0, 0, 3, 3, 0xF0, 0x81, 0]);
    put(&mut v, leaf + 0x3F0, &[0, 2, 1, b'a', b'o', b'k']);
    put(&mut v, leaf + 0x3E0, &[0, 0, 0, 1, 0, 0, 0, 5, 1, b'b']);
    put(&mut v, leaf + BLOCK, b"value");
    v
}

/// Returns the attributes of the file, and the complaints.
fn attributes(volume: Vec<u8>) -> (Vec<String>, Vec<String>) {
    let mut complaints = Vec::new();
    let node = open(volume).unwrap().node(FILE, &mut |e| complaints.push(e.to_string())).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let xattrs = node.xattrs.iter().map(|x| format!("{}={}", text(&x.name), text(&x.value))).collect();
    (xattrs, complaints)
}

#[test]
fn a_damaged_attribute_leaves_the_inode_and_its_other_attributes() {
    assert_eq!(attributes(with_leaf()), (vec!["user.a=ok".to_owned(), "user.b=value".to_owned()], vec![]));
    let leaf = ATTR_BLOCK * BLOCK;
    for (at, byte, left, complaint) in [
        (leaf + 36, 0, "user.b=value", "nameidx, at byte 24612: is 240, expected within 56 to 1024"),
        (leaf + 0x3E3, 9, "user.a=ok", "block 9 of the extended attributes lies in a hole"),
        (leaf + 0x3E5, 2, "user.a=ok", "valuelen, at byte 25572: is 131077, more than 65536"),
        (leaf + 9, 0xED, "", "extended attribute block, magic, at byte 24584: is 0xfbed"),
        (leaf + 12, 1, "", "extended attribute block, count, at byte 24588: is 259, expected up to 124"),
        (leaf + 3, 1, "user.a=ok user.b=value", "magic, at byte 25608: is 0x0"),
        (inode_at(FILE) + 81, 2, "", "di_anextents, at byte 8524: is 2, but the map has 1 extents"),
    ] {
        let mut volume = with_leaf();
        volume[at] = byte;
        let (found, complaints) = attributes(volume);
        if at == inode_at(FILE) + 81 {
            assert!(complaints.len() == 1, "{complaints:?}");
            continue;
        }
        assert_eq!(found.join(" "), left);
        assert!(
            complaints.len() == 1 && complaints[0].contains(complaint),
            "{complaints:?}, not {complaint}"
        );
    }
}

#[test]
fn a_chain_of_leaves_that_leads_back_ends() {
    let mut volume = with_leaf();
    let leaf = ATTR_BLOCK * BLOCK;
    let copy = volume[leaf..leaf + BLOCK].to_vec();
    put(&mut volume, leaf + BLOCK, &copy);
    put32(&mut volume, leaf, 1);
    put32(&mut volume, leaf + BLOCK, 1);
    let (_, complaints) = attributes(volume);
    assert!(complaints.iter().any(|c| c.contains("leads back")), "{complaints:?}");
}

#[test]
fn a_folder_cannot_have_one_block_twice() {
    let mut volume = volume();
    let root = inode_at(ROOT);
    put32(&mut volume, root + 76, 2);
    put(&mut volume, root + FORK + 16, &record(1, DIR_BLOCK as u64, 1));
    let error = open(volume).unwrap().read_dir(ROOT, &mut |_| {}).unwrap_err().to_string();
    assert_eq!(error, "directory inode 32, at byte 16384: uses one block of the volume twice");
}

#[test]
fn holes_and_blocks_that_were_never_written_are_zeros() {
    let mut volume = volume();
    let file = inode_at(FILE);
    put32(&mut volume, file + 76, 2);
    put64(&mut volume, file + 56, 5000);
    let mut unwritten = record(1, 20, 2);
    unwritten[0] |= 0x80;
    put(&mut volume, file + FORK, &unwritten);
    put(&mut volume, file + FORK + 16, &record(4, 30, 1));
    let content = open(volume).unwrap().content(FILE).unwrap();
    assert_eq!(content.pieces, [Piece::Zero { len: 4096 }, Piece::Volume { offset: 30_720, len: 904 }]);
}

#[test]
fn content_on_the_realtime_device_is_not_read() {
    let mut volume = volume();
    volume[inode_at(FILE) + 91] = 1;
    let fs = open(volume).unwrap();
    assert_eq!(fs.node(FILE, &mut |_| ()).unwrap().size, 1500);
    let error = fs.content(FILE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.to_string(), "inode 33: the content lies on the realtime device");
}

#[test]
fn a_volume_that_was_cut_off_is_read_as_far_as_it_goes() {
    let mut volume = volume();
    volume.truncate((FILE_BLOCK + 1) * BLOCK);
    let fs = open(volume).unwrap();
    let warnings = fs.info().warnings.join(" ");
    assert!(warnings.contains("the volume ends at byte 21504, but its filesystem at 65536"), "{warnings}");
    assert!(warnings.contains("the log cannot be replayed"), "{warnings}");
    assert_eq!(fs.node(FILE, &mut |_| ()).unwrap().size, 1500);
    let error = fs.content(FILE).unwrap_err().to_string();
    assert!(error.contains("1500 bytes extend past the end of the volume at 21504"), "{error}");
}

#[test]
fn features_that_are_not_known_are_refused_by_their_bits() {
    let mut volume = volume();
    volume[203] |= 0x10;
    let error = open(volume).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("sb_features2, at byte 200"), "{error}");
}

/// A volume that is unreadable from a given byte on.
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

    fn extent_at(&self, offset: u64) -> Result<Range> {
        Ok(Range::data(offset, self.len() - offset))
    }
}

#[test]
fn a_read_that_fails_is_no_damage_of_the_volume() {
    let open = |good, volume| Xfs::open(Arc::new(Failing(volume, good)));
    assert_eq!(open(100, volume()).err().unwrap().kind(), ErrorKind::Io);
    // The log is last on this volume, but opening reads it first.
    assert_eq!(open(60 << 10, with_leaf()).err().map(|e| e.kind()), None);
    assert_eq!(open(1 << 14, volume()).err().unwrap().kind(), ErrorKind::Io);
}

/// Reads everything on a volume except content.
fn read_all(volume: Vec<u8>) {
    let Ok(fs) = open(volume) else { return };
    let mut todo = vec![fs.root()];
    let mut seen = HashSet::new();
    while let Some(id) = todo.pop().filter(|id| seen.insert(*id)) {
        let _ = fs.node(id, &mut |_| ());
        if let Ok(content) = fs.content(id) {
            assert_eq!(content.pieces.iter().map(Piece::len).sum::<u64>(), content.size);
        }
        todo.extend(fs.read_dir(id, &mut |_| ()).unwrap_or_default().into_iter().map(|entry| entry.node));
    }
}

#[test]
#[ignore = "run by mutants_are_read_in_little_memory"]
fn mutants_of_xfs_volumes() {
    let whole = with_leaf();
    let hot = [
        0..264,
        inode_at(ROOT)..inode_at(LINK + 1),
        DIR_BLOCK * BLOCK..DIR_BLOCK * BLOCK + 100,
        ATTR_BLOCK * BLOCK..(ATTR_BLOCK + 1) * BLOCK + 10,
    ];
    let mut dice = Dice::new(5);
    for _ in 0..20_000 {
        let mut volume = whole.clone();
        dice.mutate(&mut volume, &hot);
        read_all(volume);
    }
}
