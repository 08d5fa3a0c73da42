use super::*;
use crate::error::ErrorKind;
use crate::source::MemSource;
use crate::testing::Dice;

fn write(format: &str, path: &Path, source: &dyn Source, options: &[(&str, &str)]) -> Result<()> {
    let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let mut output = Output::new(path, true)?;
    by_name(format)?.create(source, &mut output, &options, &())?;
    output.commit().map(|_| ())
}

/// Returns a disk of `len` bytes: data, zeros and more data, the same every time.
fn disk(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut bytes = vec![0; len];
    for (i, block) in bytes.chunks_mut(4096).enumerate() {
        if i % 7 < 3 || i % 1000 < 40 {
            continue;
        }
        for byte in block {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 60) as u8;
        }
    }
    bytes
}

#[test]
fn every_writer_is_read_back_by_its_reader() {
    let dir = tempfile::tempdir().unwrap();
    for len in [512, 65536, 3 << 20, (5 << 20) + 512, (37 << 20) + 65536 + 1024] {
        let bytes = disk(len);
        for (format, options) in [
            ("raw", &[][..]),
            ("qcow2", &[]),
            ("qcow2", &[("cluster_size", "512")]),
            ("qcow2", &[("cluster_size", "4k"), ("compat", "0.10")]),
            ("qcow2", &[("cluster_size", "2M")]),
            ("vmdk", &[]),
        ] {
            let path = dir.path().join(format!("disk.{format}"));
            write(format, &path, &MemSource(bytes.clone()), options).unwrap();
            let disk = open(
                &path,
                &OpenOptions { format: (format == "raw").then(|| "raw".into()), ..Default::default() },
            )
            .unwrap();
            assert_eq!((disk.format, disk.source.len()), (format, len as u64), "{options:?}");
            assert!(disk.source.read_vec(0, len).unwrap() == bytes, "{format} {options:?} {len}");
            check_extents(&*disk.source, &bytes);
        }
    }
}

/// Checks that extents have no gaps, and that zero extents are zeros.
fn check_extents(source: &dyn Source, bytes: &[u8]) {
    let mut position = 0;
    while position < source.len() {
        let extent = source.extent_at(position).unwrap();
        assert!(extent.range.start == position && extent.range.end > position);
        assert!(extent.range.end <= source.len());
        let range = extent.range.start as usize..extent.range.end as usize;
        assert!(!extent.is_zero() || crate::source::is_zero(&bytes[range]));
        position = extent.range.end;
    }
}

#[test]
fn what_cannot_be_an_image_is_refused_with_its_kind() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("empty"), "").unwrap();
    let kind = |path: &Path, options: &OpenOptions| open(path, options).err().unwrap().kind();
    assert_eq!(kind(&path("empty"), &OpenOptions::default()), ErrorKind::Corrupt);
    assert_eq!(kind(&path("missing"), &OpenOptions::default()), ErrorKind::NotFound);
    assert_eq!(kind(dir.path(), &OpenOptions::default()), ErrorKind::Corrupt);
    std::fs::write(path("raw"), "some bytes").unwrap();
    let options = OpenOptions { format: Some("nope".into()), ..OpenOptions::default() };
    assert_eq!(kind(&path("raw"), &options), ErrorKind::Unsupported);
    let options = OpenOptions { format: Some("qcow2".into()), ..OpenOptions::default() };
    assert_eq!(kind(&path("raw"), &options), ErrorKind::Corrupt);
    let options = OpenOptions { snapshot: Some("s".into()), ..OpenOptions::default() };
    assert_eq!(kind(&path("raw"), &options), ErrorKind::Unsupported);
    assert_eq!(kind(&path("raw"), &OpenOptions::default()), ErrorKind::Unsupported, "it is text");
    let options = OpenOptions { format: Some("raw".into()), ..OpenOptions::default() };
    let disk = open(&path("raw"), &options).unwrap();
    assert_eq!((disk.format, disk.source.len()), ("raw", 10));
    std::fs::write(path("raw"), [7; 1000]).unwrap();
    let disk = open(&path("raw"), &OpenOptions::default()).unwrap();
    assert_eq!((disk.format, disk.source.len()), ("raw", 1000));
    // A tar archive followed by the footer of a fixed VHD.
    let mut tar = vec![0; 4096];
    tar[257..262].copy_from_slice(b"ustar");
    let options = [("subformat", "fixed")];
    write("vpc", &path("tar.vhd"), &MemSource(tar), &options).unwrap();
    assert_eq!(kind(&path("tar.vhd"), &OpenOptions::default()), ErrorKind::Unsupported);
    assert!(
        open(&path("tar.vhd"), &OpenOptions { format: Some("vpc".into()), ..OpenOptions::default() }).is_ok()
    );
    // A split archive is not a split disk.
    std::fs::write(path("a.001"), b"7z\xbc\xaf\x27\x1c and more").unwrap();
    std::fs::write(path("a.002"), b"the rest").unwrap();
    assert_eq!(kind(&path("a.001"), &OpenOptions::default()), ErrorKind::Unsupported);
    let options = OpenOptions { format: Some("split".into()), ..OpenOptions::default() };
    assert_eq!(open(&path("a.001"), &options).unwrap().files.len(), 2);
    let options = OpenOptions { parents: vec![path("raw")], ..OpenOptions::default() };
    assert_eq!(kind(&path("raw"), &options), ErrorKind::Unsupported, "it has no parent");
}

#[test]
fn a_disk_larger_than_the_limit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    let kind = |extents: &str| {
        let head = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n";
        std::fs::write(&path, format!("{head}createType=\"custom\"\n{extents}")).unwrap();
        open(&path, &OpenOptions::default()).err().map(|e| e.kind())
    };
    let most = MAX_DISK / 512;
    assert_eq!(kind(&format!("RW {most} ZERO\n")), None);
    assert_eq!(kind(&format!("RW {most} ZERO\nRW 1 ZERO\n")), Some(ErrorKind::Limit));
    // qcow2 itself has no such limit: 2 PiB in clusters of 2 MiB.
    let mut header = vec![0; 2 << 20];
    header[..4].copy_from_slice(b"QFI\xfb");
    for (at, value) in [(4, 3u32), (20, 21), (36, 4096), (96, 4), (100, 104)] {
        header[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
    for (at, value) in [(24, 2 * MAX_DISK), (40, 2 << 20)] {
        header[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }
    header.resize(4 << 20, 0);
    std::fs::write(&path, header).unwrap();
    let error = open(&path, &OpenOptions::default()).err().unwrap();
    assert_eq!((error.kind(), error.to_string().contains("1 PiB")), (ErrorKind::Limit, true), "{error}");
}

#[test]
fn the_format_to_write_is_named_or_told_by_the_suffix() {
    let name = |name, path: &str| format_for_output(name, Path::new(path)).map(super::Format::name);
    assert_eq!(name(None, "a.qcow2").unwrap(), "qcow2");
    assert_eq!(name(None, "a.IMG").unwrap(), "raw");
    assert_eq!(name(Some("vmdk"), "a.img").unwrap(), "vmdk");
    assert!(name(None, "a.tar").unwrap_err().to_string().contains("qcow2, vmdk"));
    assert!(name(Some("tar"), "a").is_err());
}

#[test]
fn sizes_are_told_as_people_do() {
    assert_eq!([0, 1000, 65536, 3 << 29].map(human), ["0 bytes", "1000 bytes", "64 KiB", "1.5 GiB"]);
}

#[test]
fn a_split_disk_is_one_disk() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = disk(3_000_000);
    for first in [0, 1] {
        for (i, piece) in bytes.chunks(1_000_003).enumerate() {
            std::fs::write(dir.path().join(format!("{first}disk.{:03}", i + first)), piece).unwrap();
        }
        let path = dir.path().join(format!("{first}disk.{first:03}"));
        let disk = open(&path, &OpenOptions::default()).unwrap();
        assert_eq!((disk.format, disk.files.len(), disk.source.len()), ("split", 3, 3_000_000));
        assert!(disk.source.read_vec(0, 3_000_000).unwrap() == bytes);
        check_extents(&*disk.source, &bytes);
    }
    // A single piece is a raw disk with an odd name, and so is a later piece.
    for name in ["0disk.001", "0disk.002"] {
        assert_eq!(open(&dir.path().join(name), &OpenOptions::default()).unwrap().format, "raw");
    }
}

/// Every writer, as sources of almost valid images for the readers.
const WRITERS: &[(&str, &[(&str, &str)])] = &[
    ("qcow2", &[]),
    ("qcow2", &[("compress", "on"), ("cluster_size", "4k")]),
    ("qcow2", &[("compression_type", "zstd")]),
    ("qcow2", &[("extended_l2", "on"), ("cluster_size", "16k")]),
    ("vmdk", &[]),
    ("vmdk", &[("subformat", "streamOptimized")]),
    ("vmdk", &[("subformat", "monolithicFlat")]),
    ("vdi", &[]),
    ("vpc", &[]),
    ("vpc", &[("subformat", "fixed")]),
    ("vhdx", &[("block_size", "1M")]),
];

/// Opening and reading thousands of damaged images of every container may fail or return other bytes, but must end
/// without a panic.
#[test]
#[ignore = "is run by mutants_are_read_in_little_memory"]
fn mutants_of_containers_do_no_harm() {
    const BLOCK: usize = 64;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let bytes = disk((512 << 10) + 512);
    for (format, options) in WRITERS {
        write(format, &path, &MemSource(bytes.clone()), options).unwrap();
        let good = std::fs::read(&path).unwrap();
        // Damage only blocks that are not zeros: changes in empty areas find little.
        let blocks = (0..good.len().div_ceil(BLOCK)).map(|i| i * BLOCK..good.len().min((i + 1) * BLOCK));
        let used: Vec<_> = blocks.filter(|block| good[block.clone()].iter().any(|b| *b != 0)).collect();
        let headers: Vec<_> = used.iter().filter(|block| block.start < 1024).cloned().collect();
        // The metadata of a fixed VHD is at the end.
        let headers = if headers.is_empty() { used[used.len() - 8..].to_vec() } else { headers };
        let mut opened = 0;
        for seed in 0..1500 {
            let mut dice = Dice::new(seed);
            let mut bad = good.clone();
            dice.mutate(&mut bad, if seed % 3 == 0 { &headers } else { &used });
            if seed % 10 == 0 {
                bad.truncate(dice.roll(bad.len()));
            }
            std::fs::write(&path, &bad).unwrap();
            let options = OpenOptions { format: Some((*format).to_owned()), ..Default::default() };
            let Ok(disk) = open(&path, &options) else { continue };
            opened += 1;
            let (mut position, mut extents) = (0, 0);
            while position < disk.source.len() && extents < 1000 {
                let Ok(extent) = disk.source.extent_at(position) else { break };
                assert!(extent.range.start == position && extent.range.end > position);
                assert!(extent.range.end <= disk.source.len());
                position = extent.range.end;
                extents += 1;
            }
            let mut buf = vec![0; 100_000];
            for _ in 0..20 {
                let len = disk.source.len().min(3 << 20);
                let offset = dice.roll(len.max(1) as usize) as u64;
                let end = (offset + buf.len() as u64).min(disk.source.len());
                let _ = disk.source.read_at(offset, &mut buf[..(end.saturating_sub(offset)) as usize]);
            }
        }
        assert!(opened > 300, "{format} {options:?}: {opened} could be opened");
    }
}
