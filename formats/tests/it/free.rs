//! Free space, compared with what the filesystems' own tools list: dumpe2fs, mtools and fsck.fat, xfs_db, btrfs.

use std::fs;
use std::ops::Range;
use std::path::Path;

use mif_formats::fs::Recognized;

use crate::tools::{FileVolume, have, run, scratch};

/// Sorts ranges, and joins those that touch.
fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in ranges.into_iter().filter(|range| range.start < range.end) {
        match out.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
    }
    out
}

/// Returns the free ranges of a volume, asked for in windows that do not fit its blocks.
fn ours(image: &Path) -> Vec<Range<u64>> {
    let volume = FileVolume::open(image);
    let len = volume.len();
    let Recognized::Known(fs) = mif_formats::fs::open(volume).unwrap() else { panic!("no filesystem") };
    let mut free = Vec::new();
    let mut at = 0;
    while at < len {
        let end = (at + 250_003).min(len);
        let here = fs.free_in(&(at..end)).unwrap().expect("it can tell");
        assert!(here.iter().all(|range| range.start >= at && range.end <= end), "{at} {here:?}");
        free.extend(here);
        at = end;
    }
    joined(free)
}

fn numbers(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

fn text<S: AsRef<std::ffi::OsStr>>(program: &str, args: &[S]) -> String {
    String::from_utf8_lossy(&run(program, args).stdout).into_owned()
}

/// Files that fill a volume in part.
fn tree(root: &Path) {
    fs::create_dir_all(root.join("folder")).unwrap();
    for i in 0..40_u64 {
        fs::write(root.join(format!("folder/{i}")), vec![b'x'; (i * 5077) as usize]).unwrap();
    }
}

#[test]
fn free_blocks_of_ext4_are_those_that_dumpe2fs_lists() {
    if !have(&["mke2fs", "dumpe2fs"]) {
        return;
    }
    let work = scratch();
    let (root, image) = (work.path().join("tree"), work.path().join("ext4"));
    tree(&root);
    for (options, block) in [("-b 1024", 1024), ("-b 4096 -O ^uninit_bg,^metadata_csum", 4096)] {
        let _ = fs::remove_file(&image);
        let mut args: Vec<&str> = vec!["-q", "-t", "ext4"];
        args.extend(options.split(' '));
        args.extend(["-d", root.to_str().unwrap(), image.to_str().unwrap(), "40M"]);
        run("mke2fs", &args);
        let listed = text("dumpe2fs", &[&image]);
        let lines = listed.lines().filter_map(|line| line.strip_prefix("  Free blocks: "));
        let theirs = lines.flat_map(|line| line.split(", ")).filter(|range| !range.is_empty()).map(|range| {
            let ends = numbers(range);
            ends[0] * block..(ends[ends.len() - 1] + 1) * block
        });
        assert_eq!(ours(&image), joined(theirs.collect()), "{options}");
    }
}

#[test]
fn free_clusters_of_fat_are_as_many_as_fsck_counts_and_those_of_deleted_files() {
    if !have(&["mkfs.vfat", "mcopy", "mshowfat", "mdel", "fsck.fat"]) {
        return;
    }
    let work = scratch();
    let (root, image) = (work.path().join("tree"), work.path().join("fat"));
    tree(&root);
    for (bits, kib, size) in [("12", "4000", 2048), ("16", "20000", 2048), ("32", "40000", 512)] {
        let _ = fs::remove_file(&image);
        let sectors = (size / 512).to_string();
        run("mkfs.vfat", &["-F", bits, "-s", &sectors, "-C", image.to_str().unwrap(), kib]);
        let image_text = image.to_str().unwrap();
        run("mcopy", &["-s", "-i", image_text, root.join("folder").to_str().unwrap(), "::/"]);
        let places = text("mshowfat", &["-i", image_text, "::/folder/7"]);
        run("mdel", &["-i", image_text, "::/folder/7"]);
        let free = ours(&image);
        let checked = text("fsck.fat", &["-n", image_text]);
        let counts = numbers(checked.lines().last().unwrap().rsplit(", ").next().unwrap());
        let bytes: u64 = free.iter().map(|range| range.end - range.start).sum();
        // Behind the last cluster, less than one may be left.
        assert_eq!(bytes / size, counts[1] - counts[0], "FAT{bits}: {checked}");
        let data_start = free.last().unwrap().end / size * size - counts[1] * size;
        let deleted = numbers(places.split('<').nth(1).unwrap());
        let start = deleted[0];
        let is_free = |byte: u64| free.iter().any(|range| range.contains(&byte));
        assert!(is_free(data_start + (start - 2) * size + size - 1), "FAT{bits}: {places}");
    }
}

#[test]
fn free_blocks_of_xfs_are_those_that_xfs_db_lists() {
    if !have(&["mkfs.xfs", "xfs_db"]) {
        return;
    }
    let work = scratch();
    let (root, image, proto) = (work.path().join("tree"), work.path().join("xfs"), work.path().join("proto"));
    tree(&root);
    let mut lines = "/\n0 0\nd--755 0 0\n".to_owned();
    for i in 0..40 {
        lines += &format!("f{i} ---644 0 0 {}/folder/{i}\n", root.display());
    }
    fs::write(&proto, lines + "$\n").unwrap();
    for options in ["", "-m crc=0 -b size=1024", "-m rmapbt=0 -s size=4096"] {
        crate::xfs::mkfs(&image, 300, &format!("{options} -p {}", proto.display()));
        let field = |name: &str| {
            let printed =
                text("xfs_db", &["-r", "-c", "sb 0", "-c", &format!("p {name}"), image.to_str().unwrap()]);
            numbers(&printed)[0]
        };
        let (block, group) = (field("blocksize"), field("agblocks"));
        let listed = text("xfs_db", &["-r", "-c", "freesp -d", image.to_str().unwrap()]);
        let rows = listed.lines().skip(1).map(numbers).take_while(|row| row.len() == 3);
        let theirs = rows.map(|row| {
            let start = (row[0] * group + row[1]) * block;
            start..start + row[2] * block
        });
        assert_eq!(ours(&image), joined(theirs.collect()), "{options}");
    }
}

#[test]
fn free_bytes_of_btrfs_are_those_of_no_extent_that_btrfs_lists() {
    if !have(&["mkfs.btrfs", "btrfs"]) {
        return;
    }
    let work = scratch();
    let (root, image) = (work.path().join("tree"), work.path().join("btrfs"));
    tree(&root);
    for options in ["", "--mixed -n 4096", "-m single -O ^skinny-metadata"] {
        let _ = fs::remove_file(&image);
        fs::File::create(&image).unwrap().set_len(130 << 20).unwrap();
        let mut args: Vec<&str> = options.split_whitespace().collect();
        args.extend(["-q", "--rootdir", root.to_str().unwrap(), image.to_str().unwrap()]);
        run("mkfs.btrfs", &args);
        let dump = |tree: &str| {
            text("btrfs", &["inspect-internal", "dump-tree", "-t", tree, image.to_str().unwrap()])
        };
        let superblock = text("btrfs", &["inspect-internal", "dump-super", image.to_str().unwrap()]);
        let node = superblock.lines().find_map(|line| line.strip_prefix("nodesize")).map(numbers).unwrap()[0];
        // Chunks: logical address, length, stripes.
        let mut chunks: Vec<(u64, u64, Vec<u64>)> = Vec::new();
        for line in dump("chunk").lines().map(str::trim) {
            if let Some((_, key)) = line.split_once("CHUNK_ITEM ") {
                chunks.push((numbers(key)[0], 0, Vec::new()));
            } else if let Some(len) = line.strip_prefix("length ") {
                chunks.last_mut().unwrap().1 = numbers(len)[0];
            } else if line.starts_with("stripe ") && line.contains("devid") {
                chunks.last_mut().unwrap().2.push(*numbers(line).last().unwrap());
            }
        }
        let mut used = vec![0..(64 << 10) + 4096, (64 << 20)..(64 << 20) + 4096];
        for line in dump("extent").lines() {
            let Some((_, key)) = line.split_once(" key (") else { continue };
            let at = numbers(key);
            let len = match key.split(' ').nth(1).unwrap() {
                "EXTENT_ITEM" => at[1],
                "METADATA_ITEM" => node,
                _ => continue,
            };
            let (start, _, stripes) =
                chunks.iter().find(|(start, len, _)| (*start..start + len).contains(&at[0])).unwrap();
            used.extend(stripes.iter().map(|stripe| stripe + at[0] - start..stripe + at[0] - start + len));
        }
        let used = joined(used);
        let ends = used.iter().map(|range| range.end);
        let starts = used.iter().skip(1).map(|range| range.start).chain([130 << 20]);
        assert_eq!(
            ours(&image),
            joined(ends.zip(starts).map(|(end, start)| end..start).collect()),
            "{options}"
        );
        assert!(used.len() > 5, "{used:?}");
    }
}
