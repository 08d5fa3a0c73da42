//! Volumes that the kernel has filled and changed.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use rustix::fs::{CWD, FallocateFlags, FileType as Kind, Mode, fallocate, makedev, mknodat};

use crate::tools::{Mount, acl, attribute, debugfs, have, load, mke2fs, open, scratch, set_times};
use crate::view::{assert_same, ours, theirs};

/// What the test does on a filesystem, depending on its features.
pub(crate) struct Can {
    /// The longest value of an extended attribute, in bytes.
    pub(crate) xattr: usize,
    /// True if holes can be punched, and blocks allocated without being written.
    pub(crate) fallocate: bool,
    /// The block size in bytes.
    pub(crate) block: usize,
}

/// Returns bytes that differ and are not zero.
pub(crate) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8 | 1
        })
        .collect()
}

/// Makes, changes and deletes files of every kind in `root`.
pub(crate) fn live(root: &Path, can: &Can) {
    let at = |name: &str| root.join(name);
    // Content with sizes around every boundary.
    fs::create_dir(at("sizes")).unwrap();
    let block = can.block;
    for size in [
        0,
        1,
        59,
        60,
        61,
        100,
        155,
        156,
        157,
        block - 1,
        block,
        block + 1,
        12 * block,
        13 * block,
        300 * block + 7,
    ] {
        fs::write(at(&format!("sizes/{size}")), pattern(size, size as u64)).unwrap();
    }
    // Two files that grow alternately, so that each is fragmented.
    let (one, two) = (File::create(at("one")).unwrap(), File::create(at("two")).unwrap());
    for i in 0..40_u64 {
        one.write_all_at(&pattern(block, i), i * block as u64).unwrap();
        two.write_all_at(&pattern(block, 99 + i), i * block as u64).unwrap();
        one.sync_data().unwrap();
        two.sync_data().unwrap();
    }
    drop((one, two));
    fs::remove_file(at("two")).unwrap();
    // Holes: skipped, punched, truncated to; blocks allocated but never written; allocated past the end.
    let sparse = File::create(at("sparse")).unwrap();
    for i in 0..700_u64 {
        sparse.write_all_at(&pattern(10, i), i * 3 * block as u64).unwrap();
    }
    sparse.write_all_at(b"far", 1 << 31).unwrap();
    sparse.set_len((1 << 33) + 5).unwrap();
    let grown = File::create(at("grown")).unwrap();
    grown.set_len(1 << 34).unwrap();
    let short = File::create(at("short")).unwrap();
    short.write_all_at(&pattern(20 * block, 1), 0).unwrap();
    short.sync_all().unwrap();
    short.set_len(3 * block as u64 + 100).unwrap();
    if can.fallocate {
        let punched = File::create(at("punched")).unwrap();
        punched.write_all_at(&pattern(500 * block, 3), 0).unwrap();
        punched.sync_all().unwrap();
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for i in 0..160_u64 {
            fallocate(&punched, punch, i * 3 * block as u64, block as u64).unwrap();
        }
        fallocate(&punched, punch, 490 * block as u64 + 10, block as u64).unwrap();
        let unwritten = File::create(at("unwritten")).unwrap();
        fallocate(&unwritten, FallocateFlags::empty(), 0, 100 * block as u64).unwrap();
        unwritten.write_all_at(&pattern(block, 4), 50 * block as u64).unwrap();
        let kept = File::create(at("kept")).unwrap();
        kept.write_all_at(b"little", 0).unwrap();
        fallocate(&kept, FallocateFlags::KEEP_SIZE, 0, 60 * block as u64).unwrap();
    }
    let mut appended = OpenOptions::new().append(true).create(true).open(at("appended")).unwrap();
    for i in 0..100 {
        appended.write_all(&pattern(777, i)).unwrap();
    }
    // Names: long, unusual, many, some of them deleted.
    fs::create_dir(at("names")).unwrap();
    for name in
        [&b"\xff\xfe not utf-8"[..], b"new\nline", b"esc\x1b[31m", b"...", b" ", b"\xc3\xa9", &[b'x'; 255]]
    {
        fs::write(at("names").join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    fs::create_dir(at("many")).unwrap();
    for i in 0..3000 {
        let name = format!("many/a file with a name that is somewhat long, so that blocks fill {i}");
        File::create(at(&name)).unwrap();
        if i % 3 == 0 {
            fs::remove_file(at(&name)).unwrap();
        }
    }
    let deep = (0..30).fold(at("deep"), |path, i| path.join(format!("level {i}")));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), b"bottom").unwrap();
    fs::rename(at("deep/level 0/level 1"), at("moved")).unwrap();
    // Types.
    for (len, name) in [(1, "link 1"), (59, "link 59"), (60, "link 60"), (61, "link 61"), (900, "link 900")] {
        symlink("t".repeat(len), at(name)).unwrap();
    }
    lchown(at("link 1"), Some(5), Some(6)).unwrap();
    fs::hard_link(at("one"), at("one again")).unwrap();
    fs::hard_link(at("link 60"), at("link 60 again")).unwrap();
    for (name, kind, major, minor) in [
        ("char", Kind::CharacterDevice, 1, 3),
        ("block", Kind::BlockDevice, 8, 255),
        ("char large", Kind::CharacterDevice, 4000, 1_000_000),
        ("block minor", Kind::BlockDevice, 8, 256),
        ("fifo", Kind::Fifo, 0, 0),
        ("socket", Kind::Socket, 0, 0),
    ] {
        mknodat(CWD, at(name), kind, Mode::from_bits_retain(0o640), makedev(major, minor)).unwrap();
    }
    // Owners, modes, times.
    fs::write(at("owned"), b"x").unwrap();
    chown(at("owned"), Some(70_000), Some(0xFFFF_FFF0)).unwrap();
    fs::set_permissions(at("owned"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::create_dir(at("sticky")).unwrap();
    fs::set_permissions(at("sticky"), fs::Permissions::from_mode(0o1777)).unwrap();
    for (name, secs, nanos) in [
        ("1901", -2_147_483_648, 0),
        ("1969", -1, 999_999_999),
        ("1970", 0, 1),
        ("2038", 2_147_483_648, 5),
        ("2106", 4_294_967_296, 123_456_789),
        ("2400", 13_569_465_600, 42),
    ] {
        fs::write(at(name), name).unwrap();
        set_times(&at(name), secs, nanos);
    }
    set_times(&at("link 900"), 1_000_000_000, 7);
    // Attributes: small, long, of every kind, many, shared.
    for name in ["owned", "sticky", "sizes/60"] {
        attribute(&at(name), "user.short", b"v");
        attribute(&at(name), "user.empty", b"");
        attribute(&at(name), "trusted.x", &pattern(50, 9));
        attribute(&at(name), "system.posix_acl_access", &acl());
        attribute(&at(name), "user.long", &pattern(can.xattr, 10));
    }
    attribute(&at("sticky"), "system.posix_acl_default", &acl());
    attribute(&at("sizes/61"), "system.posix_acl_access", &acl());
    attribute(&at("link 900"), "trusted.of a link", b"!");
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    attribute(&at("one"), "security.capability", &capability);
    for i in 0..6 {
        attribute(&at("sizes/100"), &format!("user.number {i}"), &pattern(30, i));
    }
    fs::create_dir(at("sticky/inherits")).unwrap();
    File::create(at("sticky/inherits/too")).unwrap();
}

/// Returns options of mke2fs, and what such a volume supports.
fn volumes() -> Vec<(&'static str, Can)> {
    let can = |block, xattr, fallocate| Can { block, xattr, fallocate };
    vec![
        ("-t ext4 -b 4096", can(4096, 3000, true)),
        ("-t ext4 -b 1024", can(1024, 500, true)),
        ("-t ext4 -b 2048 -O ^metadata_csum,uninit_bg", can(2048, 1000, true)),
        ("-t ext4 -b 4096 -O ^metadata_csum,^uninit_bg,^64bit", can(4096, 3000, true)),
        ("-t ext4 -b 1024 -I 128", can(1024, 500, true)),
        ("-t ext4 -b 4096 -I 1024 -O metadata_csum_seed", can(4096, 3000, true)),
        ("-t ext4 -b 4096 -O ^extent,^64bit", can(4096, 3000, false)),
        ("-t ext4 -b 1024 -O meta_bg,^resize_inode -g 1024", can(1024, 500, true)),
        ("-t ext4 -b 1024 -O meta_bg,^resize_inode,^64bit,^metadata_csum -g 1024", can(1024, 500, true)),
        ("-t ext4 -b 1024 -O bigalloc -C 16384", can(1024, 500, true)),
        ("-t ext4 -b 4096 -O bigalloc", can(4096, 3000, true)),
        ("-t ext4 -b 4096 -O ea_inode", can(4096, 40_000, true)),
        ("-t ext4 -b 1024 -O ea_inode -I 128", can(1024, 20_000, true)),
        ("-t ext4 -b 4096 -O large_dir,sparse_super2,mmp -E mmp_update_interval=1", can(4096, 3000, true)),
        ("-t ext4 -b 4096 -O ^dir_index,^filetype", can(4096, 3000, true)),
        ("-t ext4 -b 1024 -O ^flex_bg,orphan_file,fast_commit", can(1024, 500, true)),
        ("-t ext3 -b 1024", can(1024, 500, false)),
        ("-t ext3 -b 4096 -I 128 -O ^dir_index", can(4096, 3000, false)),
        ("-t ext2 -b 1024", can(1024, 500, false)),
        ("-t ext2 -b 2048 -O ^filetype,^sparse_super,^resize_inode", can(2048, 1000, false)),
        ("-t ext2 -b 4096 -r 0 -O none", can(4096, 0, false)),
    ]
}

#[test]
fn what_the_kernel_has_lived_in_is_read_as_the_kernel_reads_it() {
    if !have(&["mke2fs", "mount"]) {
        return;
    }
    let scratch = scratch();
    let (image, mnt) = (scratch.path().join("image"), scratch.path().join("mnt"));
    for (options, can) in volumes() {
        mke2fs(&image, 200, options);
        let Some(mount) = Mount::new(&image, &mnt, "user_xattr,acl") else { return };
        live(&mount.path, &can);
        drop(mount);
        let Some(mount) = Mount::new(&image, &mnt, "ro,user_xattr,acl") else { return };
        let kernel = theirs(&mount.path);
        drop(mount);
        let volume = load(&image);
        let fs = open(&image);
        assert_eq!(mif_formats::fs::Filesystem::info(&fs).warnings, Vec::<String>::new(), "{options}");
        assert_same(options, &ours(&fs, &volume), &kernel);
    }
}

#[test]
fn a_folder_of_more_folders_than_links_can_count_has_one_link() {
    if !have(&["mke2fs", "mount"]) {
        return;
    }
    let scratch = scratch();
    let (image, mnt) = (scratch.path().join("image"), scratch.path().join("mnt"));
    mke2fs(&image, 150, "-t ext4 -b 1024 -I 128 -N 70000");
    let Some(mount) = Mount::new(&image, &mnt, "noatime") else { return };
    fs::create_dir(mnt.join("many")).unwrap();
    for i in 0..65_100 {
        fs::create_dir(mnt.join(format!("many/{i}"))).unwrap();
    }
    drop(mount);
    let Some(mount) = Mount::new(&image, &mnt, "ro") else { return };
    let kernel = theirs(&mount.path);
    drop(mount);
    let ours = ours(&open(&image), &load(&image));
    assert_eq!(ours[&b"/many"[..]].nlink, 1);
    assert_same("65,100 folders", &ours, &kernel);
}

#[test]
fn a_folder_whose_index_has_three_levels_is_read_whole() {
    if !have(&["mke2fs", "mount", "debugfs"]) {
        return;
    }
    let scratch = scratch();
    let (image, mnt) = (scratch.path().join("image"), scratch.path().join("mnt"));
    mke2fs(&image, 120, "-t ext4 -b 1024 -O large_dir,^has_journal -N 70000");
    let Some(mount) = Mount::new(&image, &mnt, "noatime") else { return };
    fs::create_dir(mnt.join("many")).unwrap();
    // Names of the maximum length, so that three fill a block.
    for i in 0..60_000 {
        File::create(mnt.join(format!("many/{i:0>255}"))).unwrap();
    }
    drop(mount);
    let index = debugfs(&image, "htree_dump /many");
    assert!(index.contains("Indirect levels: 2"), "{}", &index[..index.len().min(300)]);
    let Some(mount) = Mount::new(&image, &mnt, "ro") else { return };
    let kernel = theirs(&mount.path);
    drop(mount);
    assert_eq!(kernel.len(), 60_003);
    assert_same("three levels", &ours(&open(&image), &load(&image)), &kernel);
}

#[test]
#[ignore = "needs EXT4_IMAGE, a volume that can be mounted read-only"]
fn a_given_volume_is_read_as_the_kernel_reads_it() {
    let image = std::path::PathBuf::from(std::env::var_os("EXT4_IMAGE").expect("EXT4_IMAGE"));
    let scratch = scratch();
    let start = std::time::Instant::now();
    let volume = crate::tools::FileVolume::open(&image);
    let fs = mif_formats::fs::ext4::Ext4::open(volume.clone()).unwrap();
    let ours = ours(&fs, &volume);
    println!("{} paths read in {:?}", ours.len(), start.elapsed());
    let Some(mount) = Mount::new(&image, &scratch.path().join("mnt"), "ro") else { return };
    let start = std::time::Instant::now();
    let kernel = theirs(&mount.path);
    println!("by the kernel in {:?}", start.elapsed());
    assert_same("given volume", &ours, &kernel);
}
