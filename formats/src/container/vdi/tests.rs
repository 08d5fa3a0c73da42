use super::*;
use crate::error::ErrorKind;

#[test]
fn each_bad_field_is_named() {
    let good = write::header(1 << 30, 5, [[1; 16], [2; 16]]);
    assert_eq!(Header::parse(&good).unwrap().disk_size, 1 << 30);
    for (byte, value, kind, field) in [
        (64, 0, ErrorKind::Corrupt, "signature"),
        (68, 9, ErrorKind::Unsupported, "version"),
        (76, 3, ErrorKind::Unsupported, "image_type"),
        (76, 4, ErrorKind::Corrupt, "uuidLinkage"),
        (424, 1, ErrorKind::Corrupt, "image_type"),
        (360, 1, ErrorKind::Unsupported, "sector_size"),
        (376, 3, ErrorKind::Corrupt, "block_size"),
        (380, 1, ErrorKind::Unsupported, "block_extra"),
        (385, 0, ErrorKind::Corrupt, "blocks_in_image"),
        (387, 255, ErrorKind::Limit, "blocks_in_image"),
        (375, 255, ErrorKind::Corrupt, "blocks_in_image"),
    ] {
        let mut bytes = good.clone();
        bytes[byte] = value;
        let error = Header::parse(&bytes).expect_err(field);
        assert_eq!((error.kind(), error.to_string().contains(field)), (kind, true), "{byte}: {error}");
    }
    let mut bytes = good.clone();
    bytes[376..380].copy_from_slice(&(2 * MAX_BLOCK).to_le_bytes());
    assert!(Header::parse(&bytes).unwrap_err().to_string().contains("a power of two up to 67108864"));
    for len in 0..HEADER {
        assert!(Header::parse(&good[..len]).is_err());
    }
}

use crate::container::{OpenOptions, open};
use crate::source::MemSource;
use std::path::{Path, PathBuf};

const MIB: usize = 1 << 20;

fn write(path: &Path, bytes: Vec<u8>, options: &[(&str, &str)]) -> Vec<u8> {
    let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let mut output = Output::new(path, true).unwrap();
    Vdi.create(&MemSource(bytes), &mut output, &options, &()).unwrap();
    output.commit().unwrap();
    std::fs::read(path).unwrap()
}

/// Returns a child of `parent`, which is four blocks of 1: its first block is its own, its second was discarded.
fn child(parent: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let mut own = vec![0; 4 * MIB];
    own[..MIB].fill(2);
    let mut bytes = write(&dir.path().join("c"), own, &[]);
    bytes[76] = 4;
    bytes.copy_within(392..424, 424);
    bytes[424..456].copy_from_slice(&parent[392..424]);
    bytes[512 + 4..512 + 8].copy_from_slice(&DISCARDED.to_le_bytes());
    bytes
}

#[test]
fn a_differencing_disk_finds_its_parent_by_its_uuid() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("Snapshots")).unwrap();
    let base = write(&at("base.vdi"), vec![1; 4 * MIB], &[]);
    std::fs::write(at("Snapshots/child.vdi"), child(&base)).unwrap();
    let trusted = |parents: Vec<PathBuf>| OpenOptions {
        allow_paths: vec![dir.path().to_owned()],
        parents,
        ..OpenOptions::default()
    };
    let expected = [vec![2; MIB], vec![0; MIB], vec![1; 2 * MIB]].concat();
    let reads = |name: &str, options: &OpenOptions| {
        let disk = open(&at(name), options)?;
        Ok::<_, crate::error::Error>((disk.source.read_vec(0, 4 * MIB)? == expected, disk.warnings))
    };
    // In the parent directory, if that is allowed, and beside the child.
    assert_eq!(reads("Snapshots/child.vdi", &trusted(Vec::new())).unwrap(), (true, Vec::new()));
    let error = reads("Snapshots/child.vdi", &OpenOptions::default()).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().contains("--parent")),
        (ErrorKind::NotFound, true),
        "{error}"
    );
    std::fs::copy(at("base.vdi"), at("Snapshots/x.vdi")).unwrap();
    assert!(reads("Snapshots/child.vdi", &OpenOptions::default()).unwrap().0);
    std::fs::remove_file(at("Snapshots/x.vdi")).unwrap();
    let named = OpenOptions { allow_paths: Vec::new(), ..trusted(vec![at("base.vdi")]) };
    assert_eq!(reads("Snapshots/child.vdi", &named).unwrap(), (true, Vec::new()));
    // Another disk, or a changed one, is not the parent unless the user says so.
    write(&at("base.vdi"), vec![1; 4 * MIB], &[("seed", "other")]);
    assert_eq!(reads("Snapshots/child.vdi", &trusted(Vec::new())).unwrap_err().kind(), ErrorKind::NotFound);
    let (same, warnings) = reads("Snapshots/child.vdi", &named).unwrap();
    assert!(same && warnings[0].contains("uuidLinkage"), "{warnings:?}");
    let mut changed = base;
    changed[408] ^= 1;
    std::fs::write(at("base.vdi"), changed).unwrap();
    let error = reads("Snapshots/child.vdi", &trusted(Vec::new())).unwrap_err();
    assert!(error.to_string().contains("uuidParentModify"), "{error}");
}
