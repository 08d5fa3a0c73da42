use super::*;
use crate::container::{OpenOptions, open};
use crate::{ErrorKind, Source};

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// A hosted header of a 1 GiB extent with 64 KiB grains.
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
    // Grains that are unpacked as a whole are smaller.
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
fn read(extent: &[u8], kind: &str, sectors: u64) -> crate::Result<Vec<u8>> {
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
    // Grain 4: the number's low twelve bits are on top.
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
