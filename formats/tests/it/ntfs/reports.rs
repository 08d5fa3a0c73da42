//! Bugs reported for other NTFS readers: the smallest volume that shows each, and the right value, which is ntfs-3g's where
//! it reads the volume.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use mif_formats::fs::ntfs::Ntfs;
use mif_formats::fs::{FileType, Filesystem, Piece, walk};
use mif_formats::{MemSource, Source};
use rustix::fs::{XattrFlags, lsetxattr};

use super::edit::{DATA, INDEX_ALLOCATION, Image, LIST, le, put};
use super::seen::{assert_same, ours, sha1, theirs};
use super::{Fuse, TOOLS, filled, open_clean, scratch};
use crate::random::Random;
use crate::tools::have;
use crate::view::hash;

/// Makes a volume whose `file` has this content, changes it, and returns the content of `file` as we and ntfs-3g read it,
/// which must be the same.
fn changed(is_compressed: bool, content: &[u8], change: impl FnOnce(&mut Image, u64)) -> Option<Vec<u8>> {
    if !have(&TOOLS) {
        return None;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let mut inode = 0;
    let is_filled = filled(&image, 32, "-c 4096", "compression", |root| {
        if is_compressed {
            compress(root);
        }
        fs::write(root.join("file"), content).unwrap();
        inode = fs::metadata(root.join("file")).unwrap().ino();
    });
    if !is_filled {
        return None;
    }
    let mut edited = Image::load(&image);
    change(&mut edited, inode);
    fs::write(&image, &edited.bytes).unwrap();
    let mount = Fuse::new(&image, &scratch.path().join("again"), "ro")?;
    let mut theirs = Vec::new();
    File::open(mount.path.join("file")).unwrap().read_to_end(&mut theirs).unwrap();
    drop(mount);
    let (fs, volume) = open_clean(&image);
    let id = walk::lookup(&fs, b"/file").unwrap();
    assert_eq!(fs.node(id, &mut |e| panic!("{e}")).unwrap().size, theirs.len() as u64);
    assert_eq!(hash(&fs, &*volume, id).unwrap(), sha1(&theirs));
    Some(theirs)
}

/// Makes new files in a directory compressed.
fn compress(dir: &Path) {
    lsetxattr(dir, "system.ntfs_attrib_be", &[0, 0, 8, 0x10], XattrFlags::empty()).unwrap();
}

fn text(len: usize) -> Vec<u8> {
    (0..len).map(|i| b"compressible text, "[i % 19] ^ (i / 3000) as u8).collect()
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Random(len as u64).fill(&mut bytes);
    bytes
}

/// <https://github.com/Velocidex/go-ntfs/pull/10>: bytes past the initialized size are zeros, whatever is on the disk.
#[test]
fn bytes_that_were_not_initialized_are_zeros() {
    let content = changed(false, &noise(20_000), |image, inode| {
        image.edit(inode, DATA, |data| put(data, 56, 5001));
    });
    let Some(content) = content else { return };
    assert_eq!(content.len(), 20_000);
    assert!(content[5000] != 0 && content[5001..].iter().all(|byte| *byte == 0));
}

/// <https://github.com/sleuthkit/sleuthkit/pull/1183>, <https://github.com/sleuthkit/sleuthkit/pull/1276>: the same in a
/// compressed file, in the middle of a unit.
#[test]
fn compressed_bytes_that_were_not_initialized_are_zeros() {
    let all = text(200_000);
    let content = changed(true, &all, |image, inode| {
        image.edit(inode, DATA, |data| {
            assert_eq!(data[12], 1, "is compressed");
            put(data, 56, 70_001);
        });
    });
    let Some(content) = content else { return };
    assert_eq!(content[..70_001], all[..70_001]);
    assert!(content[70_001..].iter().all(|byte| *byte == 0));
}

/// <https://github.com/sleuthkit/sleuthkit/pull/1418>, <https://github.com/sleuthkit/sleuthkit/issues/1792>: chunks of a
/// compressed unit that are not compressed.
/// <https://github.com/Velocidex/go-ntfs/issues/96>: chunks of a single byte.
#[test]
fn units_with_compressed_and_other_chunks_are_read() {
    let parts = [text(8192), noise(4096), text(4096), vec![0; 12_288], noise(20_000), text(30_000), vec![7]];
    let all = [&parts.concat()[..], &noise(65_536), &text(4097)].concat();
    let Some(content) = changed(true, &all, |_, _| ()) else { return };
    assert_eq!(content, all);
}

/// <https://github.com/ntfsprogs-plus/ntfsprogs-plus/pull/50>: an empty file whose runs mean nothing.
#[test]
fn an_empty_file_with_meaningless_runs_is_empty() {
    let content = changed(false, &noise(5000), |image, inode| {
        image.edit(inode, DATA, |data| {
            put(data, 24, u64::MAX);
            [40, 48, 56].into_iter().for_each(|at| put(data, at, 0));
            let pairs = le(data, 32, 2) as usize;
            data[pairs..pairs + 4].copy_from_slice(&[0x21, 0x7F, 0xFF, 0x7F]);
        });
    });
    assert!(content.is_none_or(|content| content.is_empty()));
}

/// <https://github.com/Velocidex/go-ntfs/pull/62>: a run that begins at cluster 0 is no hole.
#[test]
fn a_run_at_cluster_0_is_read() {
    let content = changed(false, &noise(4096), |image, inode| {
        image.edit(inode, DATA, |data| {
            let pairs = le(data, 32, 2) as usize;
            data[pairs..pairs + 4].copy_from_slice(&[0x11, 1, 0, 0]);
        });
    });
    assert!(content.is_none_or(|content| content[3..7] == *b"NTFS"));
}

/// <https://github.com/thewhiteninja/ntfstool/issues/5>, <https://github.com/OMENScan/AChoir/pull/6>,
/// <https://github.com/kikijiki/ntfs-reader/pull/16>: content in several records, of which the first may have none, and
/// streams beside it.
#[test]
fn content_in_many_records_is_read() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let mut inode = 0;
    let is_filled = filled(&image, 64, "-c 512", "streams_interface=xattr", |root| {
        let files = [File::create(root.join("a")).unwrap(), File::create(root.join("b")).unwrap()];
        for i in 0..3000_u64 {
            files.iter().for_each(|file| {
                file.write_all_at(&noise(512 + i as usize)[i as usize..], i * 1024).unwrap()
            });
        }
        lsetxattr(root.join("a"), "user.Zone.Identifier", b"zone", XattrFlags::empty()).unwrap();
        inode = fs::metadata(root.join("a")).unwrap().ino();
    });
    if !is_filled {
        return;
    }
    let edited = Image::load(&image);
    assert!(edited.has(inode, LIST), "the first record is full");
    let Some(mount) = Fuse::new(&image, &scratch.path().join("again"), "ro,streams_interface=xattr") else {
        return;
    };
    let theirs = theirs(&mount.path);
    drop(mount);
    let (fs, volume) = open_clean(&image);
    assert_same("many records", &ours(&fs, &*volume), &theirs);
    let node = fs.node(walk::lookup(&fs, b"/a").unwrap(), &mut |e| panic!("{e}")).unwrap();
    assert_eq!(node.size, 2999 * 1024 + 512);
}

/// <https://github.com/ColinFinck/ntfs/issues/32>, <https://github.com/DiscUtils/DiscUtils/issues/227>,
/// <https://github.com/libyal/libfsntfs/issues/31>, <https://github.com/maharmstone/ntfs2btrfs/issues/100>,
/// <https://github.com/Velocidex/go-ntfs/pull/73>: the MFT itself is in so many pieces that it needs further records.
#[test]
fn a_fragmented_mft_is_read() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let is_filled = filled(&image, 24, "-c 512", "streams_interface=xattr", |root| {
        // Fill the volume with small files, free every other, and let the MFT grow into the gaps.
        let mut count = 0;
        while fs::write(root.join(format!("f{count}")), noise(1024)).is_ok() {
            count += 1;
        }
        (0..count).step_by(2).for_each(|i| drop(fs::remove_file(root.join(format!("f{i}")))));
        let mut more = 0;
        while more < 2 * count && File::create(root.join(format!("e{more}"))).is_ok() {
            more += 1;
        }
    });
    if !is_filled {
        return;
    }
    assert!(Image::load(&image).has(0, LIST), "the MFT's record is full");
    let Some(mount) = Fuse::new(&image, &scratch.path().join("again"), "ro,streams_interface=xattr") else {
        return;
    };
    let theirs = theirs(&mount.path);
    drop(mount);
    let (fs, volume) = open_clean(&image);
    let ours = ours(&fs, &*volume);
    assert_same("a fragmented MFT", &ours, &theirs);
    println!("{} files", ours.len());
}

/// <https://github.com/sleuthkit/sleuthkit/issues/2838>, <https://github.com/libyal/libfsntfs/issues/30>,
/// <https://github.com/maharmstone/ntfs2btrfs/issues/12>: names that are not UTF-16.
#[test]
fn unpaired_surrogates_are_kept() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let name = b"a\xed\xa0\x80b\xed\xbf\xbf";
    let is_filled = filled(&image, 32, "", "", |root| {
        fs::write(root.join(std::ffi::OsStr::from_bytes(name)), b"x").unwrap();
    });
    if !is_filled {
        return;
    }
    let (fs, _) = open_clean(&image);
    let entries = fs.read_dir(fs.root(), &mut |e| panic!("{e}")).unwrap();
    assert_eq!(entries.iter().map(|entry| &entry.name[..]).collect::<Vec<_>>(), [name]);
}

/// <https://github.com/sleuthkit/sleuthkit/issues/1932>: a DOS name may have nothing to do with the long one.
/// <https://github.com/shundhammer/qdirstat/issues/88>, <https://github.com/Velocidex/go-ntfs/pull/8>: it is no hard link.
/// <https://github.com/sleuthkit/sleuthkit/issues/2644>: streams of directories are listed once.
#[test]
fn dos_names_are_no_links_and_directories_have_streams() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let is_filled = filled(&image, 32, "", "streams_interface=xattr", |root| {
        let (file, dir) = (root.join("a long name"), root.join("directory"));
        fs::write(&file, b"x").unwrap();
        fs::create_dir(&dir).unwrap();
        let set = |path: &Path, name: &str, value: &[u8]| {
            lsetxattr(path, name, value, XattrFlags::empty()).unwrap()
        };
        set(&file, "system.ntfs_dos_name", b"EVIL.EXE");
        fs::hard_link(&file, dir.join("second")).unwrap();
        set(&dir, "user.myads", b"content");
    });
    if !is_filled {
        return;
    }
    let (fs, _) = open_clean(&image);
    let listing = walk::walk(&fs).unwrap();
    let listed: Vec<_> = listing
        .entries
        .iter()
        .map(|entry| {
            let stream = entry.stream.as_deref().map(|name| std::str::from_utf8(name).unwrap());
            let node = &listing.nodes[entry.file];
            (std::str::from_utf8(&entry.path).unwrap(), stream, entry.dos_name.as_deref(), node.nlink)
        })
        .collect();
    assert_eq!(
        listed,
        [
            ("/", None, None, Some(1)),
            ("/a long name", None, Some("EVIL.EXE"), Some(2)),
            ("/directory", None, None, Some(1)),
            ("/directory", Some("myads"), None, None),
            ("/directory/second", None, None, Some(2)),
        ]
    );
    assert_eq!(listing.entries[1].file, listing.entries[4].file);
}

/// <https://github.com/microsoft/go-winio/issues/340>: a junction of PowerShell has no print name.
/// <https://github.com/fox-it/dissect.target/pull/289>: other reparse points are no symlinks.
#[test]
fn junctions_and_symlinks_of_windows_have_targets() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let link = |tag: u32, extra: &[u8], substitute: &str, print: &str| {
        let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        let (substitute, print) = (wide(substitute), wide(print));
        let mut data = Vec::new();
        for number in [0, substitute.len(), substitute.len(), print.len()] {
            data.extend((number as u16).to_le_bytes());
        }
        let data = [&data[..], extra, &substitute, &print].concat();
        [&tag.to_le_bytes()[..], &(data.len() as u32).to_le_bytes(), &data].concat()
    };
    let is_filled = filled(&image, 32, "", "", |root| {
        let set = |name: &str, value: &[u8]| {
            lsetxattr(root.join(name), "system.ntfs_reparse_data", value, XattrFlags::empty()).unwrap();
        };
        for name in ["junction", "mklink"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        set("junction", &link(0xA000_0003, &[], r"\??\C:\test\tgt", ""));
        set("mklink", &link(0xA000_0003, &[], r"\??\C:\test\tgt", r"C:\test\tgt"));
        fs::write(root.join("link"), b"").unwrap();
        set("link", &link(0xA000_000C, &[1, 0, 0, 0], r"..\a b", r"..\a b"));
        fs::write(root.join("app"), b"").unwrap();
        set("app", &[0x1B, 0, 0, 0x80, 4, 0, 0, 0, 3, 0, 0, 0]);
    });
    if !is_filled {
        return;
    }
    let (fs, _) = open_clean(&image);
    let node =
        |path: &str| fs.node(walk::lookup(&fs, path.as_bytes()).unwrap(), &mut |e| panic!("{e}")).unwrap();
    for (path, target) in
        [("/junction", r"\??\C:\test\tgt"), ("/mklink", r"C:\test\tgt"), ("/link", r"..\a b")]
    {
        let node = node(path);
        assert_eq!((node.file_type, node.size), (FileType::Symlink, target.len() as u64));
        assert_eq!(node.link_target.unwrap(), target.as_bytes());
    }
    assert_eq!(node("/app").file_type, FileType::File);
    assert_eq!(node("/app").ntfs.unwrap().reparse.unwrap().len(), 12);
}

/// <https://github.com/sleuthkit/sleuthkit/issues/1495>, <https://github.com/Velocidex/velociraptor/issues/2785>: sparse
/// files are not compressed or encrypted.
#[test]
fn holes_are_where_they_are() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let is_filled = filled(&image, 32, "", "", |root| {
        let file = File::create(root.join("sparse")).unwrap();
        file.set_len(10 << 30).unwrap();
        file.write_all_at(&[1; 4096], 4 << 30).unwrap();
    });
    if !is_filled {
        return;
    }
    let (fs, _) = open_clean(&image);
    let content = fs.content(walk::lookup(&fs, b"/sparse").unwrap()).unwrap();
    let lens: Vec<_> =
        content.pieces.iter().map(|piece| (piece.len(), matches!(piece, Piece::Zero { .. }))).collect();
    assert!(
        matches!(lens[..], [(start, true), (data, false), (end, true)]
            if start <= 4 << 30 && start + data > 4 << 30 && data <= 65_536 && start + data + end == 10 << 30),
        "{lens:?}"
    );
}

/// <https://github.com/namjaejeon/linux-ntfs/issues/73>: index blocks are zeros, or belong elsewhere. The names in other
/// blocks are listed.
#[test]
fn damaged_index_blocks_are_said_and_the_others_read() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let mut inode = 0;
    let is_filled = filled(&image, 32, "", "", |root| {
        let dir = root.join("directory");
        fs::create_dir(&dir).unwrap();
        (0..500).for_each(|i| drop(File::create(dir.join(format!("name {i:>020}"))).unwrap()));
        inode = fs::metadata(&dir).unwrap().ino();
    });
    if !is_filled {
        return;
    }
    let mut edited = Image::load(&image);
    let mut lcn = 0;
    edited.edit(inode, INDEX_ALLOCATION, |blocks| {
        let pairs = le(blocks, 32, 2) as usize;
        let (len, start) = (blocks[pairs] & 0xF, blocks[pairs] >> 4);
        lcn = le(blocks, pairs + 1 + usize::from(len), usize::from(start)) as usize;
    });
    let read = |bytes: &[u8]| {
        let fs = Ntfs::open(Arc::new(MemSource(bytes.to_vec())) as Arc<dyn Source>).unwrap();
        let mut complaints = Vec::new();
        let id = walk::lookup(&fs, b"/directory").unwrap();
        let entries = fs.read_dir(id, &mut |e| complaints.push(e.to_string())).unwrap();
        (entries.len(), complaints)
    };
    assert_eq!(read(&edited.bytes), (500, Vec::new()));
    let block = lcn * 4096;
    assert_eq!(edited.bytes[block..block + 4], *b"INDX");
    let mut zeros = edited.bytes.clone();
    zeros[block..block + 4096].fill(0);
    let (count, complaints) = read(&zeros);
    assert!((400..500).contains(&count) && complaints.len() == 1, "{count} {complaints:?}");
    assert!(complaints[0].contains("begins with"), "{complaints:?}");
    let mut moved = edited.bytes.clone();
    moved.copy_within(block + 4096..block + 8192, block);
    let (count, complaints) = read(&moved);
    assert!(
        (400..500).contains(&count) && complaints[0].contains("has the number 1"),
        "{count} {complaints:?}"
    );
}

/// Names of records that have been used anew, and parts of attributes that contradict each other.
#[test]
fn stale_names_and_parts_that_overlap_are_errors() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let (mut stale, mut long) = (0, 0);
    let is_filled = filled(&image, 32, "", "", |root| {
        ["kept", "stale", "long"]
            .into_iter()
            .for_each(|name| fs::write(root.join(name), noise(9000)).unwrap());
        let inode = |name: &str| fs::metadata(root.join(name)).unwrap().ino();
        (stale, long) = (inode("stale"), inode("long"));
    });
    if !is_filled {
        return;
    }
    let mut edited = Image::load(&image);
    let place = edited.place(stale);
    edited.bytes[place + 16] += 1;
    // Clusters from 1 on, but none before.
    edited.edit(long, DATA, |data| put(data, 16, 1));
    let fs = Ntfs::open(Arc::new(MemSource(edited.bytes))).unwrap();
    let listing = walk::walk(&fs).unwrap();
    let paths: Vec<_> =
        listing.entries.iter().map(|entry| std::str::from_utf8(&entry.path).unwrap()).collect();
    assert_eq!(paths, ["/", "/kept", "/long"]);
    let complaints: Vec<_> = listing.complaints.iter().map(|complaint| complaint.error.to_string()).collect();
    let expected = format!("\"stale\" leads to an earlier use of MFT record {stale}");
    assert!(complaints[0].contains(&expected), "{complaints:?}");
    assert!(complaints[1].contains("lacks its first part"), "{complaints:?}");
    let error = fs.content(walk::lookup(&fs, b"/long").unwrap()).unwrap_err().to_string();
    assert!(error.contains("$DATA: lacks its first part"), "{error}");
}
