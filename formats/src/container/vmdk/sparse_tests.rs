use super::*;
use crate::container::{OpenOptions, open};
use crate::error::ErrorKind;
use crate::source::Source;

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Returns a hosted header of a 1 GiB extent with 64 KiB grains.
fn header() -> Vec<u8> {
    let mut bytes = vec![0; 512];
    bytes[..4].copy_from_slice(&HOSTED_MAGIC);
    put32(&mut bytes, 4, 1);
    put64(&mut bytes, 12, 1 << 21);
    put64(&mut bytes, 20, 128);
    put32(&mut bytes, 44, 512);
    put64(&mut bytes, 56, 21);
    bytes
}

#[test]
fn each_bad_field_is_named() {
    assert_eq!(HostedHeader::parse(&header()).unwrap().capacity, 1 << 21);
    for (byte, value, kind, field) in [
        (0, 0, ErrorKind::Corrupt, "magicNumber"),
        (4, 0, ErrorKind::Unsupported, "version"),
        (4, 4, ErrorKind::Unsupported, "version"),
        (10, 1, ErrorKind::Corrupt, "compressAlgorithm"),
        (77, 2, ErrorKind::Unsupported, "compressAlgorithm"),
        (19, 255, ErrorKind::Limit, "capacity"),
        (20, 0, ErrorKind::Corrupt, "grainSize"),
        (27, 1, ErrorKind::Limit, "grainSize"),
        (22, 0x21, ErrorKind::Limit, "grainSize"),
        (45, 0, ErrorKind::Corrupt, "numGTEsPerGT"),
        (45, 3, ErrorKind::Corrupt, "numGTEsPerGT"),
    ] {
        let mut bytes = header();
        bytes[byte] = value;
        let error = HostedHeader::parse(&bytes).expect_err(field);
        assert_eq!((error.kind(), error.to_string().contains(field)), (kind, true), "{byte}: {error}");
    }
    assert!(HostedHeader::parse(&header()[..511]).is_err());
    // Compressed grains, which are unpacked as a whole, have a lower limit.
    let mut bytes = header();
    bytes[77] = 1;
    put64(&mut bytes, 20, MAX_PACKED_GRAIN);
    assert!(HostedHeader::parse(&bytes).is_ok());
    put64(&mut bytes, 20, MAX_PACKED_GRAIN + 1);
    assert_eq!(HostedHeader::parse(&bytes).unwrap_err().kind(), ErrorKind::Limit);
}

#[test]
fn a_directory_of_more_entries_than_the_limit_is_refused() {
    let kind = |capacity| {
        let mut bytes = header();
        put64(&mut bytes, 12, capacity);
        put64(&mut bytes, 20, 1);
        put32(&mut bytes, 44, 1);
        read(&bytes, "SPARSE", capacity).unwrap_err().kind()
    };
    assert_eq!(kind(MAX_DIRECTORY), ErrorKind::Corrupt, "past the end of the file");
    assert_eq!(kind(MAX_DIRECTORY + 1), ErrorKind::Limit);
}

#[test]
fn a_descriptor_over_the_limit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    let kind = |len: u64| {
        std::fs::write(&path, "# Disk DescriptorFile\nversion=1\nRW 8 ZERO\n").unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(len).unwrap();
        open(&path, &OpenOptions::default()).err().map(|e| e.kind())
    };
    assert_eq!(kind(super::super::MAX_DESCRIPTOR as u64), None);
    assert_eq!(kind(super::super::MAX_DESCRIPTOR as u64 + 1), Some(ErrorKind::Limit));
}

#[test]
fn a_footer_needs_its_markers() {
    let mut tail = vec![0; 1536];
    tail[12] = 3;
    tail[512..1024].copy_from_slice(&header());
    HostedHeader::parse_footer(&tail).unwrap();
    for byte in [8, 12, 1032, 1036] {
        let mut bad = tail.clone();
        bad[byte] ^= 4;
        assert!(HostedHeader::parse_footer(&bad).is_err(), "{byte}");
    }
    put64(&mut tail, 512 + 56, GD_AT_END);
    assert!(HostedHeader::parse_footer(&tail).is_err());
}

/// Opens `extent` through a descriptor that calls it `kind`, and reads all of it.
fn read(extent: &[u8], kind: &str, sectors: u64) -> crate::error::Result<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("extent"), extent).unwrap();
    let descriptor = format!("# Disk DescriptorFile\nversion=1\nRW {sectors} {kind} \"extent\"\n");
    std::fs::write(dir.path().join("disk.vmdk"), descriptor).unwrap();
    let disk = open(&dir.path().join("disk.vmdk"), &OpenOptions::default())?;
    disk.source.read_vec(0, (sectors * SECTOR) as usize)
}

#[test]
fn a_cowd_extent_is_read() {
    // Header, directory (sector 4), table of 4096 entries (sectors 5 to 36), grains of one sector.
    let mut bytes = vec![0; 40 * 512];
    bytes[..4].copy_from_slice(&COWD_MAGIC);
    for (at, value) in [(4, 1), (8, 3), (12, 100), (16, 1), (20, 4), (24, 1)] {
        put32(&mut bytes, at, value);
    }
    put32(&mut bytes, 4 * 512, 5);
    put32(&mut bytes, 5 * 512 + 4 * 7, 38);
    put32(&mut bytes, 5 * 512 + 4 * 8, 39);
    bytes[38 * 512..39 * 512].fill(7);
    bytes[39 * 512..].fill(8);
    let mut expected = vec![0; 100 * 512];
    expected[7 * 512..8 * 512].fill(7);
    expected[8 * 512..9 * 512].fill(8);
    assert!(read(&bytes, "VMFSSPARSE", 100).unwrap() == expected);
    let error = read(&bytes[..39 * 512], "VMFSSPARSE", 100).unwrap_err();
    assert!(error.to_string().contains("truncated"), "{error}");
    assert_eq!(read(&bytes, "VMFSSPARSE", 101).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_se_sparse_extent_is_read() {
    // Header, volatile header (1), directory (2), table (64 to 127), grains of 8 sectors (from 128).
    let mut bytes = vec![0; (128 + 5 * 8) * 512];
    for (at, value) in [
        (0, SE_MAGIC),
        (8, 0x2_0000_0001),
        (16, 800),
        (24, 8),
        (32, 64),
        (80, 1),
        (128, 2),
        (136, 1),
        (144, 64),
        (152, 64),
        (192, 128),
    ] {
        put64(&mut bytes, at, value);
    }
    put64(&mut bytes, 512, SE_VOLATILE_MAGIC);
    put64(&mut bytes, 2 * 512, 0x1000_0000_0000_0000);
    // Grain 4: the top bits hold the low twelve bits of the number.
    put64(&mut bytes, 64 * 512 + 8 * 3, 0x3004_0000_0000_0000);
    put64(&mut bytes, 64 * 512 + 8 * 4, 0x2000_0000_0000_0000);
    put64(&mut bytes, 64 * 512 + 8 * 5, 0x1000_0000_0000_0000);
    bytes[(128 + 4 * 8) * 512..].fill(9);
    let mut expected = vec![0; 800 * 512];
    expected[3 * 4096..4 * 4096].fill(9);
    assert!(read(&bytes, "SESPARSE", 800).unwrap() == expected);
    for (byte, value, kind) in [
        (0, 0, ErrorKind::Unsupported),
        (512, 0, ErrorKind::Corrupt),
        (16 + 7, 1, ErrorKind::Limit),
        (512 + 24, 1, ErrorKind::Unsupported),
        (2 * 512 + 7, 0x20, ErrorKind::Corrupt),
        (64 * 512 + 8 * 3 + 7, 0x40, ErrorKind::Corrupt),
        (64 * 512 + 8 * 3, 1, ErrorKind::Corrupt),
    ] {
        let mut bad = bytes.clone();
        bad[byte] = value;
        assert_eq!(read(&bad, "SESPARSE", 800).unwrap_err().kind(), kind, "{byte}");
    }
}

/// Writes a monolithicSparse image of 64 MiB (two tables) with data in both; returns the disk's bytes.
fn sparse_image(path: &std::path::Path) -> Vec<u8> {
    use crate::container::{Format, Output};
    let mut bytes = vec![0; 64 << 20];
    bytes[5 << 20..6 << 20].fill(1);
    bytes[40 << 20..41 << 20].fill(2);
    let mut output = Output::new(path, true).unwrap();
    super::super::Vmdk
        .create(&crate::source::MemSource(bytes.clone()), &mut output, &Vec::new(), &())
        .unwrap();
    output.commit().unwrap();
    bytes
}

#[test]
fn the_redundant_directory_serves_where_the_first_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    let expected = sparse_image(&path);
    let good = std::fs::read(&path).unwrap();
    let read = |image: &[u8]| {
        std::fs::write(&path, image).unwrap();
        let disk = open(&path, &OpenOptions::default())?;
        Ok::<_, crate::error::Error>((disk.source.read_vec(0, 64 << 20)? == expected, disk.warnings))
    };
    assert_eq!(read(&good).unwrap(), (true, Vec::new()));
    let gd = (le64(&good, 56) * SECTOR) as usize;
    // Zeroed, partly zeroed, overwritten, and misplaced.
    for (range, value) in [(gd..gd + 8, 0), (gd + 4..gd + 8, 0), (gd..gd + 512, 0xff), (56..64, 0x7f)] {
        let mut bad = good.clone();
        bad[range.clone()].fill(value);
        let (same, warnings) = read(&bad).unwrap();
        assert!(same && warnings.len() == 1 && warnings[0].contains("redundant"), "{range:?}: {warnings:?}");
    }
    // Both directories damaged: an error, not zeros.
    let mut bad = good.clone();
    let rgd = (le64(&good, 48) * SECTOR) as usize;
    for at in [gd, rgd] {
        bad[at..at + 8].fill(0xff);
    }
    assert_eq!(read(&bad).unwrap_err().kind(), ErrorKind::Corrupt);
    // Without the flag the redundant directory may hold anything, so a hole in the first one is a hole.
    let mut plain = good.clone();
    plain[8] &= !2;
    plain[gd + 4..gd + 8].fill(0);
    assert_eq!(read(&plain).unwrap(), (false, Vec::new()));
    // An extent that was not closed is reported.
    let mut unclean = good;
    unclean[72] = 1;
    let (same, warnings) = read(&unclean).unwrap();
    assert!(same && warnings[0].contains("not closed properly"), "{warnings:?}");
}

#[test]
fn a_parent_has_the_content_id_that_the_child_names() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("sub")).unwrap();
    std::fs::write(at("base-flat.vmdk"), [1; 1024]).unwrap();
    let base = |cid: &str| format!("# Disk DescriptorFile\nversion=1\n{cid}RW 2 FLAT \"base-flat.vmdk\" 0\n");
    std::fs::write(at("base.vmdk"), base("CID=11111111\n")).unwrap();
    // A delta without data of its own: a COWD extent without a table.
    let mut delta = vec![0; 5 * 512];
    delta[..4].copy_from_slice(&COWD_MAGIC);
    for (at, value) in [(4, 1), (8, 3), (12, 2), (16, 1), (20, 4), (24, 1)] {
        put32(&mut delta, at, value);
    }
    std::fs::write(at("delta"), delta).unwrap();
    let child = |hint: &str| {
        let text =
            "# Disk DescriptorFile\nversion=1\nencoding=\"windows-1252\"\nCID=22222222\nparentCID=11111111\n";
        [text.as_bytes(), hint.as_bytes(), b"RW 2 VMFSSPARSE \"delta\"\n"].concat()
    };
    let opened = |hint: &str, options: &OpenOptions| {
        std::fs::write(at("child.vmdk"), child(hint)).unwrap();
        let disk = open(&at("child.vmdk"), options)?;
        Ok::<_, crate::error::Error>((disk.source.read_vec(0, 1024)? == [1; 1024], disk.warnings))
    };
    let none = OpenOptions::default();
    for hint in ["base.vmdk", "/vmfs/volumes/1/vm/base.vmdk", "C:\\VMs\\base.vmdk", "..\\x\\base.vmdk"] {
        let hint = format!("parentFileNameHint=\"{hint}\"\n");
        assert_eq!(opened(&hint, &none).unwrap(), (true, Vec::new()), "{hint}");
    }
    // A delta whose parent is not named must not be read alone: the missing grains would be zeros.
    let error = opened("", &none).unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("--parent"), "{error}");
    let named = OpenOptions { parents: vec![at("base.vmdk")], ..OpenOptions::default() };
    assert_eq!(opened("", &named).unwrap(), (true, Vec::new()));
    // Another content ID, or none, is refused unless the user names the parent.
    let hint = "parentFileNameHint=\"base.vmdk\"\n";
    for other in ["CID=33333333\n", ""] {
        std::fs::write(at("base.vmdk"), base(other)).unwrap();
        let error = opened(hint, &none).unwrap_err();
        assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("parentCID"), "{error}");
        let (same, warnings) = opened(hint, &named).unwrap();
        assert!(same && warnings.len() == 1 && warnings[0].contains("parentCID"), "{warnings:?}");
    }
}

#[test]
fn an_extent_of_another_machine_or_encoding_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    std::fs::write(dir.path().join("für-flat.vmdk"), [1; 512]).unwrap();
    let opened = |name: &[u8]| {
        let text =
            [b"# Disk DescriptorFile\nversion=1\nencoding=\"windows-1252\"\nRW 1 FLAT \"", name, b"\" 0\n"];
        std::fs::write(&path, text.concat()).unwrap();
        open(&path, &OpenOptions::default()).map(|disk| disk.warnings.len())
    };
    assert_eq!(opened(b"f\xfcr-flat.vmdk").unwrap(), 0);
    assert_eq!(opened("für-flat.vmdk".as_bytes()).unwrap(), 0);
    assert_eq!(opened(b"/vmfs/volumes/1/vm/f\xfcr-flat.vmdk").unwrap(), 1, "which is said");
    assert_eq!(opened(b"other-flat.vmdk").unwrap_err().kind(), ErrorKind::NotFound);
    // If the named file exists but may not be opened, the one beside the descriptor is not used.
    let elsewhere = tempfile::tempdir().unwrap();
    let there = elsewhere.path().join("disk-flat.vmdk");
    for place in [&there, &dir.path().join("disk-flat.vmdk")] {
        std::fs::write(place, [2; 512]).unwrap();
    }
    assert_eq!(opened(there.to_str().unwrap().as_bytes()).unwrap_err().kind(), ErrorKind::Denied);
}
