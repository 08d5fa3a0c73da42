//! Containers compared with qemu-img: both read the same from what either one writes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use mif_formats::container::{CreateOptions, OpenOptions, Output, format_for_output, open};
use mif_formats::{ErrorKind, Source};
use mif_tests::oracle::{Tool, tool};
use mif_tests::random::Random;
use mif_tests::{cache, have_at};

/// Makes a raw disk of `len` bytes with data, text, explicit zeros and holes, determined by the seed.
fn make_disk(path: &Path, len: u64, seed: u64) {
    let (file, mut random) = (File::create(path).unwrap(), Random(seed));
    file.set_len(len).unwrap();
    let mut position = 0;
    while position < len {
        let run = [512, 4096, 4608, 65536, 70_000, 1 << 20, 3 << 20][random.below(7) as usize];
        let run = run.min(len - position) as usize;
        let mut bytes = vec![0; run];
        match random.below(4) {
            0 => random.fill(&mut bytes),
            1 => bytes.iter_mut().enumerate().for_each(|(i, b)| *b = b"some text, "[i * i % 11]),
            2 => {}
            _ => {
                position += run as u64;
                continue;
            }
        }
        file.write_all_at(&bytes, position).unwrap();
        position += run as u64;
    }
}

fn open_as(path: &Path, format: &str) -> mif_formats::container::Disk {
    let options = OpenOptions { format: (format == "raw").then(|| "raw".to_owned()), ..Default::default() };
    let disk = open(path, &options).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(disk.format, format);
    disk
}

/// Reads `source` in odd pieces and in bulk, and compares it with the raw disk at `expected`, which it may exceed by
/// zeros up to a sector. Extents that claim zeros must be zeros.
fn assert_same(what: &str, source: &dyn Source, expected: &Path) {
    let mut bytes = std::fs::read(expected).unwrap();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    assert_eq!(source.len(), bytes.len() as u64, "{what}");
    let mut position = 0;
    while position < source.len() {
        let extent = source.extent_at(position).unwrap();
        assert!(extent.range.start == position && extent.range.end > position, "{what}");
        let range = position as usize..extent.range.end as usize;
        match extent.is_zero() {
            true => assert!(bytes[range].iter().all(|b| *b == 0), "{what}: {extent:?} is not zeros"),
            false => {
                let read = source.read_vec(position, range.len()).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert!(read == bytes[range], "{what}: {extent:?} differs");
            }
        }
        position = extent.range.end;
    }
    let mut random = Random(7);
    for _ in 0..300 {
        let start = random.below(source.len());
        let len = random.below(300_000).min(source.len() - start) as usize;
        let read = source.read_vec(start, len).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(read == bytes[start as usize..][..len], "{what}: {len} bytes at {start} differ");
    }
}

fn write(source: &dyn Source, path: &Path, format: &str, options: &[(&str, &str)]) {
    let options: CreateOptions = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let mut output = Output::new(path, true).unwrap();
    format_for_output(Some(format), path).unwrap().create(source, &mut output, &options, &()).unwrap();
    output.commit().unwrap();
}

/// The images of qemu-img that we read: (format, options, further flags).
const READ: &[(&str, &str, &str)] = &[
    ("qcow2", "compat=1.1", ""),
    ("qcow2", "compat=0.10", ""),
    ("qcow2", "compat=1.1,cluster_size=512", ""),
    ("qcow2", "compat=1.1,cluster_size=2M", ""),
    ("qcow2", "compat=1.1,cluster_size=4k,refcount_bits=1", ""),
    ("qcow2", "compat=1.1,refcount_bits=64", ""),
    ("qcow2", "compat=1.1,preallocation=metadata", ""),
    ("qcow2", "compat=1.1,extended_l2=on", ""),
    ("qcow2", "compat=1.1,extended_l2=on,cluster_size=16k", ""),
    ("qcow2", "compat=0.10", "-c"),
    ("qcow2", "compat=1.1", "-c"),
    ("qcow2", "compat=1.1,cluster_size=4k", "-c"),
    ("qcow2", "compat=1.1,cluster_size=2M", "-c"),
    ("qcow2", "compat=1.1,compression_type=zstd", "-c"),
    ("qcow2", "compat=1.1,compression_type=zstd,cluster_size=512", "-c"),
    ("qcow2", "compat=1.1,extended_l2=on", "-c"),
    ("qcow2", "compat=1.1,data_file=data.raw", ""),
    ("qcow2", "compat=1.1,data_file=data.raw,data_file_raw=on", ""),
    ("vmdk", "subformat=monolithicSparse", ""),
    ("vmdk", "subformat=monolithicSparse,zeroed_grain=on", "-S 0"),
    ("vmdk", "subformat=monolithicFlat", ""),
    ("vmdk", "subformat=twoGbMaxExtentSparse", ""),
    ("vmdk", "subformat=twoGbMaxExtentFlat", ""),
    ("vmdk", "subformat=streamOptimized", ""),
    ("vdi", "static=off", ""),
    ("vdi", "static=on", ""),
    ("vpc", "subformat=dynamic,force_size=on", ""),
    ("vpc", "subformat=fixed,force_size=on", ""),
    ("vhdx", "subformat=dynamic", ""),
    ("vhdx", "subformat=dynamic,block_size=1M", ""),
    ("vhdx", "subformat=fixed", ""),
];

#[test]
fn what_qemu_img_writes_reads_the_same() {
    let Some(qemu_img) = tool("qemu-img") else { return };
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    for (seed, len) in [(1, 40 << 20), (2, (67 << 20) + 512), (3, (1 << 20) + 3 * 512)] {
        make_disk(&raw, len, seed);
        for (format, options, flags) in READ {
            let image = dir.path().join(format!("image.{format}"));
            qemu_img.run(
                dir.path(),
                &format!("convert -f raw -O {format} -o {options} {flags} disk.raw image.{format}"),
            );
            let what = format!("{format} {options} {flags}, {len} bytes");
            assert_same(&what, &*open_as(&image, format).source, &raw);
        }
        assert_same("raw", &*open_as(&raw, "raw").source, &raw);
    }
}

/// The images that we write: (format, options).
const WRITE: &[(&str, &[(&str, &str)])] = &[
    ("raw", &[]),
    ("qcow2", &[]),
    ("qcow2", &[("compat", "0.10")]),
    ("qcow2", &[("cluster_size", "512")]),
    ("qcow2", &[("cluster_size", "2M")]),
    ("qcow2", &[("compress", "on")]),
    ("qcow2", &[("compress", "on"), ("compat", "0.10"), ("cluster_size", "4k")]),
    ("qcow2", &[("compress", "on"), ("cluster_size", "2M")]),
    ("qcow2", &[("compression_type", "zstd")]),
    ("qcow2", &[("compression_type", "zstd"), ("cluster_size", "512")]),
    ("qcow2", &[("extended_l2", "on")]),
    ("qcow2", &[("extended_l2", "on"), ("compression_type", "zstd"), ("cluster_size", "16k")]),
    ("vmdk", &[]),
    ("vmdk", &[("subformat", "streamOptimized")]),
    ("vmdk", &[("subformat", "monolithicFlat")]),
    ("vmdk", &[("subformat", "twoGbMaxExtentSparse")]),
    ("vmdk", &[("subformat", "twoGbMaxExtentFlat")]),
    ("vdi", &[]),
    ("vpc", &[]),
    ("vpc", &[("subformat", "fixed")]),
    ("vhdx", &[]),
    ("vhdx", &[("block_size", "1M")]),
];

#[test]
fn what_we_write_qemu_img_finds_whole_and_the_same() {
    let Some(qemu_img) = tool("qemu-img") else { return };
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    for (seed, len) in [(1, 40 << 20), (2, (67 << 20) + 512), (3, 1000), (4, (1 << 20) + 7)] {
        make_disk(&raw, len, seed);
        let source = open_as(&raw, "raw").source;
        for (format, options) in WRITE {
            let what = format!("{format} {options:?}, {len} bytes");
            let image = dir.path().join(format!("image.{format}"));
            write(&*source, &image, format, options);
            check(&qemu_img, dir.path(), format, &what);
            if *format == "raw" {
                assert!(std::fs::read(&image).unwrap() == std::fs::read(&raw).unwrap());
            } else {
                assert_same(&what, &*open_as(&image, format).source, &raw);
            }
        }
    }
}

/// Reads the output of every writer, and writes it with three writers: readers and writers know nothing of each other.
#[test]
fn every_container_goes_into_others() {
    let Some(qemu_img) = tool("qemu-img") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir_all(&from).unwrap();
    std::fs::create_dir_all(&to).unwrap();
    let raw = to.join("disk.raw");
    make_disk(&raw, (4 << 20) + 512, 77);
    let source = open_as(&raw, "raw").source;
    for (number, (format, options)) in WRITE.iter().enumerate() {
        let first = from.join(format!("image.{format}"));
        write(&*source, &first, format, options);
        let read = open_as(&first, format).source;
        for (next, next_options) in [0, 1, 4].map(|step| WRITE[(number + step) % WRITE.len()]) {
            let what = format!("{format} {options:?} to {next} {next_options:?}");
            let second = to.join(format!("image.{next}"));
            write(&*read, &second, next, next_options);
            check(&qemu_img, &to, next, &what);
            assert_same(&what, &*open_as(&second, next).source, &raw);
        }
    }
}

fn check(qemu_img: &Tool, folder: &Path, format: &str, what: &str) {
    // qemu-img cannot check a VHD.
    if format != "raw" && format != "vpc" {
        let said = qemu_img.run(folder, &format!("check -f {format} image.{format}"));
        assert!(said.contains("No errors were found"), "{what}: {said}");
    }
    qemu_img.run(folder, &format!("compare -f raw -F {format} disk.raw image.{format}"));
}

#[test]
fn only_what_differs_from_the_backing_file_is_written() {
    let Some(qemu_img) = tool("qemu-img") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for (base_len, len) in [(20 << 20, 20 << 20), (20 << 20, (30 << 20) + 1024), (20 << 20, 11 << 20)] {
        make_disk(&path("base.raw"), base_len, 31);
        let mut bytes = std::fs::read(path("base.raw")).unwrap();
        bytes.resize(len, 0);
        bytes[1 << 20..2 << 20].fill(0);
        bytes[5 << 20..6 << 20].fill(5);
        bytes[(7 << 20) + 1000] ^= 1;
        let last = bytes.len() - 1;
        bytes[last] = 9;
        std::fs::write(path("disk.raw"), &bytes).unwrap();
        qemu_img.run(dir.path(), "convert -f raw -O qcow2 -c base.raw base.qcow2");
        let source = open_as(&path("disk.raw"), "raw").source;
        for (base, format) in [("base.raw", "raw"), ("base.qcow2", "qcow2")] {
            for more in [
                &[][..],
                &[("compat", "0.10")],
                &[("compress", "on")],
                &[("extended_l2", "on")],
                &[("extended_l2", "on"), ("compress", "on")],
            ] {
                let options = [&[("backing_file", base), ("backing_fmt", format)], more].concat();
                let what = format!("{options:?}, {len} bytes");
                write(&*source, &path("image.qcow2"), "qcow2", &options);
                check(&qemu_img, dir.path(), "qcow2", &what);
                assert_same(&what, &*open_as(&path("image.qcow2"), "qcow2").source, &path("disk.raw"));
                let size = std::fs::metadata(path("image.qcow2")).unwrap().len();
                assert!(size < 5 << 20, "{what}: {size} bytes");
            }
        }
    }
}

#[test]
fn writing_twice_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    make_disk(&raw, 30 << 20, 5);
    let source = open_as(&raw, "raw").source;
    for (format, options) in WRITE {
        let images = ["a", "b"].map(|name| {
            let image = dir.path().join(name);
            // The name must not matter. All files of a format with several are compared.
            std::fs::create_dir(&image).unwrap();
            write(&*source, &image.join("image"), format, options);
            let mut files: Vec<_> = std::fs::read_dir(&image).unwrap().map(|f| f.unwrap().path()).collect();
            files.sort();
            let bytes: Vec<_> = files.iter().map(|f| std::fs::read(f).unwrap()).collect();
            std::fs::remove_dir_all(&image).unwrap();
            bytes
        });
        assert!(images[0] == images[1], "{format} {options:?}");
    }
}

#[test]
fn a_large_sparse_disk_is_enumerated_and_converted_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    let file = File::create(&raw).unwrap();
    file.set_len(1 << 40).unwrap();
    for gib in [0, 500, 1023] {
        file.write_all_at(&[(gib % 251) as u8 + 1; 1 << 20], (gib << 30) + 12345).unwrap();
    }
    let mut source = open_as(&raw, "raw").source;
    let small = |options: &[(&str, &str)]| options.iter().any(|(_, v)| matches!(*v, "512" | "4k" | "16k"));
    for (format, options) in WRITE.iter().filter(|(f, o)| *f != "raw" && !small(o)) {
        let started = std::time::Instant::now();
        let image = dir.path().join("image");
        write(&*source, &image, format, options);
        let disk = open_as(&image, format);
        let (mut position, mut data) = (0, 0);
        while position < disk.source.len() {
            let extent = disk.source.extent_at(position).unwrap();
            position = extent.range.end;
            data += if extent.is_zero() { 0 } else { extent.len() };
        }
        assert!(data <= 3 * (4 << 20), "{format}: {data} bytes of data");
        println!("{format} {options:?}: {:?}", started.elapsed());
        assert!(started.elapsed().as_secs() < 10, "{format} {options:?}: {:?}", started.elapsed());
        source = disk.source;
    }
    for gib in [0u64, 500, 1023] {
        assert!(
            source
                .read_vec((gib << 30) + 12345, 1 << 20)
                .unwrap()
                .iter()
                .all(|b| *b == (gib % 251) as u8 + 1)
        );
    }
}

#[test]
fn snapshots_inside_are_opened_by_name() {
    let (Some(qemu_img), Some(qemu_io)) = (tool("qemu-img"), tool("qemu-io")) else { return };
    let dir = tempfile::tempdir().unwrap();
    make_disk(&dir.path().join("old.raw"), 20 << 20, 9);
    qemu_img.run(dir.path(), "convert -f raw -O qcow2 old.raw image.qcow2");
    qemu_img.run(dir.path(), "snapshot -c before image.qcow2");
    for command in ["write -P 1 3M 5M", "write -z 9M 1M", "discard 1M 1M"] {
        qemu_io.run_args(dir.path(), &["-f", "qcow2", "image.qcow2", "-c", command]);
    }
    qemu_img.run(dir.path(), "convert -f qcow2 -O raw image.qcow2 new.raw");
    let image = dir.path().join("image.qcow2");
    assert_same("now", &*open_as(&image, "qcow2").source, &dir.path().join("new.raw"));
    for name in ["before", "1"] {
        let options = OpenOptions { snapshot: Some(name.to_owned()), ..Default::default() };
        let disk = open(&image, &options).unwrap();
        assert_same(name, &*disk.source, &dir.path().join("old.raw"));
        assert!(disk.details.contains(&("snapshot".to_owned(), "before (ID 1)".to_owned())));
    }
    let options = OpenOptions { snapshot: Some("none".to_owned()), ..Default::default() };
    assert_eq!(open(&image, &options).err().unwrap().kind(), ErrorKind::NotFound);
}

#[test]
fn backing_chains_read_as_qemu_img_reads_them() {
    let (Some(qemu_img), Some(qemu_io)) = (tool("qemu-img"), tool("qemu-io")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    make_disk(&path("base.raw"), (20 << 20) + 512, 11);
    qemu_img.run(dir.path(), "convert -f raw -O vmdk base.raw base.vmdk");
    qemu_img.run(dir.path(), "convert -f raw -O qcow2 -c base.raw base.qcow2");
    for (base, format) in [("base.raw", "raw"), ("base.vmdk", "vmdk"), ("base.qcow2", "qcow2")] {
        for options in ["cluster_size=64k", "extended_l2=on", "cluster_size=512"] {
            qemu_img
                .run(dir.path(), &format!("create -f qcow2 -b {base} -F {format} -o {options} mid.qcow2"));
            qemu_img.run(
                dir.path(),
                &format!("create -f qcow2 -b mid.qcow2 -F qcow2 -o {options} top.qcow2 30M"),
            );
            for (image, command) in [
                ("mid.qcow2", "write -P 3 1M 3000000"),
                ("mid.qcow2", "write -z 7M 70000"),
                ("mid.qcow2", "write -P 4 8389120 512"),
                ("top.qcow2", "write -P 5 2M 1M"),
                ("top.qcow2", "write -z 3M 1M"),
                ("top.qcow2", "write -P 6 25M 1000"),
                ("top.qcow2", "write -P 7 12M 4096"),
            ] {
                qemu_io.run_args(dir.path(), &["-f", "qcow2", image, "-c", command]);
            }
            qemu_img.run(dir.path(), "convert -f qcow2 -O raw top.qcow2 top.raw");
            let disk = open_as(&path("top.qcow2"), "qcow2");
            assert_eq!(disk.files.len(), 3);
            assert_same(&format!("{base} {options}"), &*disk.source, &path("top.raw"));
        }
    }
    // A VMDK delta on top of a delta.
    qemu_img.run(dir.path(), "create -f vmdk -b base.vmdk -F vmdk mid.vmdk");
    qemu_io.run_args(dir.path(), &["-f", "vmdk", "mid.vmdk", "-c", "write -P 9 3M 1M"]);
    qemu_img.run(dir.path(), "convert -f vmdk -O raw mid.vmdk mid.raw");
    assert_same("delta", &*open_as(&path("mid.vmdk"), "vmdk").source, &path("mid.raw"));
}

#[test]
fn chains_that_go_wrong_are_refused_with_their_kind() {
    let Some(qemu_img) = tool("qemu-img") else { return };
    let dir = tempfile::tempdir().unwrap();
    let kind = |name: &str| {
        let error = open(&dir.path().join(name), &OpenOptions::default()).err().expect("must be refused");
        (error.kind(), error.to_string())
    };
    File::create(dir.path().join("base")).unwrap().set_len(1 << 20).unwrap();
    // Raw, but not declared as such: whoever wrote the disk could make it look like another format.
    qemu_img.run(dir.path(), "create -f qcow2 -u -b base -F raw unsaid.qcow2 1M");
    let image = File::options().write(true).open(dir.path().join("unsaid.qcow2")).unwrap();
    // The first header extension, which contains the format, becomes an unknown one.
    image.write_all_at(b"what", 112).unwrap();
    assert_eq!(kind("unsaid.qcow2").0, ErrorKind::Unsupported);
    qemu_img.run(dir.path(), "create -f qcow2 -u -b ./circle.qcow2 -F qcow2 circle.qcow2 1M");
    assert_eq!(kind("circle.qcow2").0, ErrorKind::Corrupt);
    qemu_img.run(dir.path(), "create -f qcow2 -u -b b.qcow2 -F qcow2 a.qcow2 1M");
    qemu_img.run(dir.path(), "create -f qcow2 -u -b a.qcow2 -F qcow2 b.qcow2 1M");
    assert!(kind("a.qcow2").1.contains("circular"));
    qemu_img.run(dir.path(), "create -f qcow2 -u -b missing -F raw orphan.qcow2 1M");
    assert_eq!(kind("orphan.qcow2").0, ErrorKind::NotFound);
    qemu_img.run(dir.path(), "create -f qcow2 -u -b /etc/passwd -F raw thief.qcow2 1M");
    assert_eq!(kind("thief.qcow2").0, ErrorKind::Denied);
    for i in 0..70 {
        let below = if i == 0 { "base -F raw".to_owned() } else { format!("{}.q -F qcow2", i - 1) };
        qemu_img.run(dir.path(), &format!("create -f qcow2 -u -b {below} {i}.q 1M"));
    }
    assert_eq!(kind("69.q").0, ErrorKind::Limit);
    open(&dir.path().join("60.q"), &OpenOptions::default()).unwrap();
}

#[test]
fn a_truncated_image_is_an_error_wherever_it_ends() {
    let Some(qemu_img) = tool("qemu-img") else { return };
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    make_disk(&raw, 3 << 20, 21);
    let expected = std::fs::read(&raw).unwrap();
    for (format, options, flags) in READ.iter().filter(|(f, o, _)| *f != "raw" && !o.contains("data_file")) {
        // Skip these: the truncated file would be the descriptor of a flat extent.
        if options.contains("Flat")
            || options.contains("twoGb")
            || options.contains("preallocation")
            || options.contains("static")
            || options.contains("fixed")
        {
            continue;
        }
        qemu_img.run(dir.path(), &format!("convert -f raw -O {format} -o {options} {flags} disk.raw image"));
        let image = std::fs::read(dir.path().join("image")).unwrap();
        let cut = dir.path().join("cut");
        for part in 1..40 {
            std::fs::write(&cut, &image[..image.len() * part / 40]).unwrap();
            let Ok(disk) =
                open(&cut, &OpenOptions { format: Some((*format).to_owned()), ..Default::default() })
            else {
                continue;
            };
            // Whatever can still be read must be correct; qemu's last cluster may end after its file.
            let mut wrong = 0;
            for (i, block) in expected.chunks(512).enumerate() {
                let read = disk.source.read_vec(i as u64 * 512, block.len());
                wrong += usize::from(read.is_ok_and(|read| read != block));
            }
            assert!(wrong * 512 < 2 << 20, "{format} {options} cut at {part}/40: {wrong} sectors are wrong");
            if !options.contains("2M") && *format != "vpc" {
                assert!(
                    wrong * 512 <= 65536,
                    "{format} {options} cut at {part}/40: {wrong} sectors are wrong"
                );
            }
        }
    }
}

#[test]
fn a_size_that_is_no_multiple_of_a_sector_is_as_qemu_sees_it() {
    let Some(qemu_img) = tool("qemu-img") else { return };
    let dir = tempfile::tempdir().unwrap();
    make_disk(&dir.path().join("disk.raw"), 1 << 20, 41);
    qemu_img.run(dir.path(), "convert -f raw -O qcow2 disk.raw image.qcow2");
    let image = File::options().write(true).open(dir.path().join("image.qcow2")).unwrap();
    image.write_all_at(&((1u64 << 20) - 100).to_be_bytes(), 24).unwrap();
    qemu_img.run(dir.path(), "convert -f qcow2 -O raw image.qcow2 theirs.raw");
    let disk = open_as(&dir.path().join("image.qcow2"), "qcow2");
    assert_same("odd size", &*disk.source, &dir.path().join("theirs.raw"));
    assert_eq!(disk.warnings.len(), 1);
}

#[test]
fn encrypted_images_are_refused_in_words() {
    let Some(qemu_img) = tool("qemu-img") else { return };
    let dir = tempfile::tempdir().unwrap();
    for format in ["luks", "aes"] {
        let made = qemu_img.try_run(
            dir.path(),
            &format!(
                "create -f qcow2 --object secret,id=s,data=abc -o encrypt.format={format},encrypt.key-secret=s e.qcow2 1M"
            ),
        );
        // Many builds of qemu-img make only the first.
        if format == "aes" && !made.status.success() {
            continue;
        }
        assert!(made.status.success(), "{made:?}");
        let error = open(&dir.path().join("e.qcow2"), &OpenOptions::default()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("encrypted"), "{error}");
    }
}

/// The sample images of QEMU's tests, made by the vendors' own tools, read as qemu-img reads them, and the broken ones
/// are refused.
#[test]
fn the_vendors_images_read_as_qemu_img_reads_them() {
    let Some(qemu_img) = tool("qemu-img") else { return };
    let samples =
        std::env::var_os("MIF_QEMU_SAMPLES").map_or_else(|| cache().join("qemu-samples"), PathBuf::from);
    if !have_at(&samples) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (name, format) in [
        ("d2v-zerofilled.vhd", "vpc"),
        ("hyperv2012r2-dynamic.vhd", "vpc"),
        ("virtualpc-dynamic.vhd", "vpc"),
        ("iotest-version3.vmdk", "vmdk"),
        ("iotest-dynamic-1G.vhdx", "vhdx"),
        ("test-disk2vhd.vhdx", "vhdx"),
        ("iotest-dirtylog-10G-4M.vhdx", "vhdx"),
    ] {
        // qemu-img replays a log by writing to the file, so it gets a copy.
        let (ours, theirs) = (samples.join(name), dir.path().join("copy"));
        std::fs::copy(&ours, &theirs).unwrap();
        if name.contains("dirtylog") {
            qemu_img.run(dir.path(), "check -r all -f vhdx copy");
        }
        let disk = open(&ours, &OpenOptions::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(disk.format, format, "{name}");
        write(&*disk.source, &dir.path().join("ours.raw"), "raw", &[]);
        let said = qemu_img.run(dir.path(), &format!("compare -f {format} -F raw copy ours.raw"));
        assert!(said.contains("Images are identical"), "{name}: {said}");
    }
    for (name, kind) in [("afl9.vmdk", ErrorKind::Limit), ("afl5.img", ErrorKind::Corrupt)] {
        let error = open(&samples.join(name), &OpenOptions::default()).err().expect("a broken image");
        assert_eq!(error.kind(), kind, "{name}: {error}");
    }
}
