//! Files that the Windows Overlay Filter compressed. Nothing here writes them, but wimlib compresses the resources of WIM
//! archives in the same form, which is stored as the stream that Windows would have written.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use mif_formats::fs::{Filesystem, Piece, walk};
use rustix::fs::{XattrFlags, lsetxattr};

use super::seen::sha1;
use super::{TOOLS, filled, open_clean, scratch};
use crate::random::Random;
use crate::tools::{have, run};
use crate::view::hash;

/// Number, name for wimlib, and bytes of a chunk.
pub(super) const ALGORITHMS: [(u8, &str, usize); 4] =
    [(0, "xpress", 4096), (1, "lzx", 32_768), (2, "xpress", 8192), (3, "xpress", 16_384)];

/// Returns `content` as `WofCompressedData`, which wimlib compressed; `dir` is for files on the way.
pub(super) fn compressed(dir: &Path, content: &[u8], (_, codec, chunk): (u8, &str, usize)) -> Vec<u8> {
    let (script, file) =
        (concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/wof-stream"), dir.join("content"));
    fs::write(&file, content).unwrap();
    run(script, &[codec, &chunk.to_string(), file.to_str().unwrap()]).stdout
}

/// Returns the reparse point of a file compressed with this algorithm.
fn reparse(algorithm: u8) -> [u8; 24] {
    [0x17, 0, 0, 0x80, 16, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, algorithm, 0, 0, 0]
}

/// Gives a file of `size` bytes this reparse point. After that ntfs-3g does not write its streams.
fn finish(path: &Path, size: u64, reparse: &[u8]) {
    File::options().create(true).append(true).open(path).unwrap().set_len(size).unwrap();
    lsetxattr(path, "system.ntfs_reparse_data", reparse, XattrFlags::empty()).unwrap();
}

/// Makes a file compressed.
pub(super) fn store(path: &Path, content: &[u8], stream: &[u8], algorithm: u8) {
    File::options().create(true).append(true).open(path).unwrap();
    fs::write(format!("{}:WofCompressedData", path.display()), stream).unwrap();
    finish(path, content.len() as u64, &reparse(algorithm));
}

/// Contents: text, noise, a program, and some of each.
fn contents() -> Vec<Vec<u8>> {
    let text =
        |len: usize| (0..len).map(|i| b"compressible text, "[i % 19] ^ (i / 3000) as u8).collect::<Vec<u8>>();
    let noise = |len: usize| {
        let mut bytes = vec![0; len];
        Random(len as u64).fill(&mut bytes);
        bytes
    };
    let program = fs::read(std::env::current_exe().unwrap()).unwrap();
    let mut all: Vec<Vec<u8>> =
        [1, 100, 4095, 4096, 4097, 8192, 32_768, 32_769, 65_537, 300_000].map(text).into_iter().collect();
    all.push(noise(50_000));
    all.push([noise(5000), text(30_000), vec![0; 100_000], noise(40_000), text(77)].concat());
    all.push(program[..program.len().min(1 << 20)].to_vec());
    all
}

/// <https://github.com/fox-it/dissect.ntfs/issues/41>: such files were read as zeros.
/// <https://github.com/Velocidex/go-ntfs/issues/70>: all four algorithms.
#[test]
fn files_of_all_algorithms_are_decompressed() {
    if !have(&[&TOOLS[..], &["wimlib-imagex"]].concat()) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let contents = contents();
    let is_filled = filled(&image, 128, "", "streams_interface=windows", |root| {
        for algorithm in ALGORITHMS {
            for (i, content) in contents.iter().enumerate() {
                let stream = compressed(scratch.path(), content, algorithm);
                let path = root.join(format!("{} {i}", algorithm.0));
                if i == 1 {
                    File::create(&path).unwrap();
                    // Streams of other names stay streams.
                    fs::write(format!("{}:other", path.display()), b"other").unwrap();
                }
                store(&path, content, &stream, algorithm.0);
            }
        }
    });
    if !is_filled {
        return;
    }
    let (fs, volume) = open_clean(&image);
    let listing = walk::walk(&fs).unwrap();
    assert!(listing.complaints.is_empty(), "{:?}", listing.complaints);
    let streams: Vec<_> = listing.entries.iter().filter_map(|entry| entry.stream.as_deref()).collect();
    assert_eq!(streams, [b"other"; 4]);
    let mut encoded = 0;
    for (algorithm, ..) in ALGORITHMS {
        for (i, content) in contents.iter().enumerate() {
            let path = format!("/{algorithm} {i}");
            let id = walk::lookup(&fs, path.as_bytes()).unwrap();
            assert_eq!(fs.node(id, &mut |e| panic!("{e}")).unwrap().size, content.len() as u64);
            let pieces = fs.content(id).unwrap().pieces;
            encoded += pieces.iter().filter(|piece| matches!(piece, Piece::Encoded(_))).count();
            assert_eq!(hash(&fs, &*volume, id).unwrap(), sha1(content), "{path}");
        }
    }
    assert!(encoded > 500, "{encoded}");
}

/// Chunks begin anywhere in clusters and cross fragments.
#[test]
fn fragmented_streams_are_decompressed() {
    if !have(&[&TOOLS[..], &["wimlib-imagex"]].concat()) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let content = contents().pop().unwrap();
    let is_filled = filled(&image, 24, "-c 512", "streams_interface=windows", |root| {
        // Between these files there is room for three clusters each.
        let fillers = (0..).map(|i| root.join(format!("filler {i}")));
        let fillers: Vec<_> = fillers.take_while(|path| fs::write(path, [1; 1500]).is_ok()).collect();
        fillers.iter().step_by(2).for_each(|path| fs::remove_file(path).unwrap());
        let files: Vec<_> = ALGORITHMS
            .iter()
            .map(|algorithm| {
                let path = root.join(algorithm.0.to_string());
                File::create(&path).unwrap();
                let stream = File::create(format!("{}:WofCompressedData", path.display())).unwrap();
                (stream, compressed(scratch.path(), &content, *algorithm))
            })
            .collect();
        let most = files.iter().map(|(_, bytes)| bytes.len()).max().unwrap();
        for from in (0..most).step_by(512) {
            for (file, bytes) in files.iter().filter(|(_, bytes)| bytes.len() > from) {
                file.write_all_at(&bytes[from..bytes.len().min(from + 512)], from as u64).unwrap();
            }
        }
        drop(files);
        for (algorithm, ..) in ALGORITHMS {
            finish(&root.join(algorithm.to_string()), content.len() as u64, &reparse(algorithm));
        }
    });
    if !is_filled {
        return;
    }
    let (fs, volume) = open_clean(&image);
    let mut most = 0;
    for (algorithm, ..) in ALGORITHMS {
        let id = walk::lookup(&fs, format!("/{algorithm}").as_bytes()).unwrap();
        for piece in fs.content(id).unwrap().pieces {
            if let Piece::Encoded(encoded) = piece {
                most = most.max(encoded.runs.len());
            }
        }
        assert_eq!(hash(&fs, &*volume, id).unwrap(), sha1(&content), "{algorithm}");
    }
    assert!(most > 2, "{most}");
}

/// From 4 GiB on the table has numbers of 64 bits.
#[test]
fn large_files_have_a_table_of_64_bits() {
    if !have(&[&TOOLS[..], &["wimlib-imagex"]].concat()) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let chunk = vec![b'z'; 32_768];
    let size = (4_u64 << 30) + 5000;
    let count = size.div_ceil(32_768);
    let is_filled = filled(&image, 64, "", "streams_interface=windows", |root| {
        let one = compressed(scratch.path(), &chunk, ALGORITHMS[1]);
        let last = compressed(scratch.path(), &chunk[..5000], ALGORITHMS[1]);
        let mut stream = Vec::new();
        (1..count).for_each(|i| stream.extend((i * one.len() as u64).to_le_bytes()));
        (1..count).for_each(|_| stream.extend(&one));
        stream.extend(last);
        let path = root.join("large");
        File::create(&path).unwrap();
        fs::write(format!("{}:WofCompressedData", path.display()), stream).unwrap();
        finish(&path, size, &reparse(1));
    });
    if !is_filled {
        return;
    }
    let (fs, volume) = open_clean(&image);
    let pieces = fs.content(walk::lookup(&fs, b"/large").unwrap()).unwrap().pieces;
    assert_eq!((pieces.len() as u64, pieces.iter().map(Piece::len).sum::<u64>()), (count, size));
    for piece in [&pieces[0], &pieces[70_000], pieces.last().unwrap()] {
        let Piece::Encoded(encoded) = piece else { panic!("{piece:?}") };
        assert!(encoded.decode(&encoded.read(&*volume).unwrap()).unwrap().iter().all(|byte| *byte == b'z'));
    }
}

/// Content that cannot be had is an error, and not zeros.
#[test]
fn content_of_other_providers_is_an_error() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let is_filled = filled(&image, 32, "", "streams_interface=windows", |root| {
        let mut wim = reparse(0);
        wim[12] = 1;
        finish(&root.join("in a WIM"), 10_000, &wim);
        finish(&root.join("unknown algorithm"), 10_000, &reparse(9));
        finish(&root.join("without its stream"), 10_000, &reparse(0));
        finish(&root.join("deduplicated"), 10_000, &[0x13, 0, 0, 0x80, 4, 0, 0, 0, 1, 2, 3, 4]);
        // A file in the cloud, of which the volume has only the size, as OneDrive leaves it.
        finish(&root.join("not fetched"), 10_000, &[0x1A, 0, 0, 0x90, 4, 0, 0, 0, 1, 2, 3, 4]);
        let offline = [0, 0, 0x16, 0x20];
        lsetxattr(root.join("not fetched"), "system.ntfs_attrib_be", &offline, XattrFlags::empty()).unwrap();
        // One that was fetched, and an application's point, change nothing.
        finish(&root.join("cloud"), 10_000, &[0x1A, 0, 0, 0x90, 4, 0, 0, 0, 1, 2, 3, 4]);
    });
    if !is_filled {
        return;
    }
    let (fs, _) = open_clean(&image);
    for (path, problem) in [
        ("/in a WIM", "the content is in a WIM archive"),
        ("/unknown algorithm", "in an unknown way"),
        ("/without its stream", "lacks the stream"),
        ("/not fetched", "is not on the volume"),
        ("/deduplicated", "deduplicated by Windows Server"),
    ] {
        let id = walk::lookup(&fs, path.as_bytes()).unwrap();
        let node = fs.node(id, &mut |e| panic!("{e}")).unwrap();
        assert_eq!(node.size, 10_000);
        assert!(node.ntfs.unwrap().reparse.is_some());
        let error = fs.content(id).unwrap_err().to_string();
        assert!(error.contains(problem), "{path}: {error}");
    }
    let cloud = fs.content(walk::lookup(&fs, b"/cloud").unwrap()).unwrap();
    assert_eq!(cloud.size, 10_000);
}
