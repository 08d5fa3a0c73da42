//! Bugs reported for other Btrfs readers: the smallest volume that shows each, compared with the kernel.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use mif_formats::fs::{Filesystem, Piece, walk};

use super::volume::{TOOLS, assert_as_the_kernel, mkfs, mount, open};
use crate::random::Random;
use crate::tools::{have, run, scratch};

/// Returns text that compresses to about a third, differently per sector, so LZO segments end at arbitrary offsets.
fn uneven(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let run = random.below(40);
        bytes.extend(random.bytes(run));
        bytes.extend(vec![b'x'; random.index(90)]);
    }
    bytes.truncate(len);
    bytes
}

fn fill(root: &Path) {
    let at = |name: &str| root.join(name);
    // Inline and compressed: kdave/btrfs-progs#1171 (the frame may hold a whole sector), DiscUtils/DiscUtils#254
    // (empty).
    for len in [1, 300, 1000, 2000] {
        fs::write(at(&format!("small {len}")), &b"some compressible text\n".repeat(100)[..len]).unwrap();
    }
    // The end of the last compressed extent: U-Boot read it from the start of the extent (b1d3013d0240), or rejected
    // the extent as too short (armbian/build#10208) or because of data after the frame (armbian/build#9651).
    let sectors = [vec![1; 4096], vec![2; 4096], vec![3; 2048]].concat();
    fs::write(at("10k"), sectors).unwrap();
    for len in [3906, 131_072, 131_073, 200_001] {
        fs::write(at(&format!("text {len}")), &b"line after line of text\n".repeat(10_000)[..len]).unwrap();
    }
    // A segment length that would cross a sector boundary: U-Boot read it there (b941d1cd169e).
    for seed in 0..6 {
        fs::write(at(&format!("uneven {seed}")), uneven(700_000, seed)).unwrap();
    }
    // A hole without an item: U-Boot put the next extent there (1041eae4203c).
    let holed = File::create(at("holed")).unwrap();
    holed.write_all_at(&[b'a'; 4096], 0).unwrap();
    holed.write_all_at(&[b'b'; 4096], 8192).unwrap();
    holed.sync_all().unwrap();
    // The middle of a compressed extent, from a clone and from overwriting a part.
    let cut = File::create(at("cut")).unwrap();
    cut.write_all_at(&b"to be cut into pieces\n".repeat(5000), 0).unwrap();
    cut.sync_all().unwrap();
    cut.write_all_at(&[b'-'; 4096], 40_960).unwrap();
    cut.sync_all().unwrap();
    let (mut from, mut to) = (8192, 0);
    let part = File::create(at("part")).unwrap();
    rustix::fs::copy_file_range(File::open(at("cut")).unwrap(), Some(&mut from), part, Some(&mut to), 20_480)
        .unwrap();
}

#[test]
fn compressed_files_that_others_read_wrongly_are_read() {
    if !have(&TOOLS) {
        return;
    }
    for compression in ["zlib", "lzo", "zstd"] {
        let scratch = scratch();
        let (image, mnt) = (scratch.path().join("image"), scratch.path().join("mnt"));
        mkfs(&image, 200, "");
        let options = format!("noatime,max_inline=2048,compress-force={compression}");
        let Some(mount) = mount(&image, &mnt, &options) else { return };
        fill(&mount.path);
        drop(mount);
        assert_as_the_kernel(compression, &image, scratch.path());
        let (fs, _) = open(&image);
        let content = |path: &[u8]| fs.content(walk::lookup(&fs, path).unwrap()).unwrap();
        let is_encoded = |piece: &Piece| matches!(piece, Piece::Encoded(_));
        assert!(content(b"/10k").pieces.iter().all(is_encoded), "{compression}");
        assert!(content(b"/uneven 1").pieces.iter().any(is_encoded), "{compression}");
        assert!(matches!(&content(b"/small 300").pieces[..], [Piece::Bytes(bytes)] if bytes.len() == 300));
    }
}

/// `btrfs restore` kept asking whether to continue with such a file (kdave/btrfs-progs#237).
#[test]
fn a_file_of_thousands_of_extents_is_read() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let (image, mnt) = (scratch.path().join("image"), scratch.path().join("mnt"));
    mkfs(&image, 300, "-n 4096");
    let Some(mount) = mount(&image, &mnt, "noatime") else { return };
    let file = File::create(mount.path.join("file")).unwrap();
    for i in 0..5000_u64 {
        file.write_all_at(&i.to_le_bytes(), i * 3 * 4096).unwrap();
    }
    drop((file, mount));
    assert_as_the_kernel("many extents", &image, scratch.path());
    let (fs, _) = open(&image);
    let content = fs.content(walk::lookup(&fs, b"/file").unwrap()).unwrap();
    assert!(content.pieces.len() >= 9999, "{}", content.pieces.len());
}

/// Tools that inspect the default subvolume miss the rest, or look for it under the default subvolume
/// (libguestfs/libguestfs#208, kdave/btrfs-progs#1051). Here paths begin at the top level, whatever the default is.
#[test]
fn a_default_subvolume_does_not_change_the_paths() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let (image, mnt) = (scratch.path().join("image"), scratch.path().join("mnt"));
    mkfs(&image, 200, "");
    let Some(mount) = mount(&image, &mnt, "noatime") else { return };
    let path = |name: &str| mount.path.join(name).into_os_string();
    let create = |name: &str| run("btrfs", &["subvolume".into(), "create".into(), path(name)]);
    create("@");
    create("@/nested");
    create("@home");
    fs::write(path("@home/leo"), b"leo").unwrap();
    fs::write(path("@/nested/file"), b"file").unwrap();
    run("btrfs", &["subvolume".into(), "snapshot".into(), path("@"), path("snapshot")]);
    run("btrfs", &["subvolume".into(), "set-default".into(), path("@")]);
    drop(mount);
    let view = assert_as_the_kernel("default subvolume", &image, scratch.path());
    if let Some(view) = view {
        assert!(view.contains_key(&b"/@home/leo"[..]) && view.contains_key(&b"/@/nested/file"[..]));
        // The snapshot has an empty directory in place of the nested subvolume.
        assert_eq!(view[&b"/snapshot/nested"[..]].inode, 2);
    }
    let (fs, _) = open(&image);
    assert_eq!((&fs.info().warnings[..], fs.info().default_subvolume), (&[][..], Some(256)));
    let node = fs.node(walk::lookup(&fs, b"/@home").unwrap(), &mut |e| panic!("{e}")).unwrap();
    assert_eq!((node.inode, node.subvolume), (Some(256), Some(258)));
}
