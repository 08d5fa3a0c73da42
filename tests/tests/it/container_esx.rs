//! Extents of ESX (COWD, seSparse), which none of the tools here write: generated at random from the formats'
//! descriptions, and compared with qemu-img.

use std::collections::BTreeMap;
use std::path::Path;

use mif_formats::container::{OpenOptions, open};
use mif_tests::oracle::tool;
use mif_tests::random::Random;

const SECTOR: usize = 512;

/// Returns about a third of `grains` grains, in runs and in random order.
fn some_grains(random: &mut Random, grains: u64) -> Vec<u64> {
    let mut chosen = Vec::new();
    while (chosen.len() as u64) < grains / 3 {
        let first = random.below(grains);
        chosen.extend(first..(first + 1 + random.below(20)).min(grains));
    }
    let mut seen = std::collections::HashSet::new();
    chosen.retain(|grain| seen.insert(*grain));
    chosen
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Appends `sectors` sectors to a file; returns their offset.
fn add(bytes: &mut Vec<u8>, sectors: usize) -> usize {
    let at = bytes.len().next_multiple_of(SECTOR);
    bytes.resize(at + sectors * SECTOR, 0);
    at
}

/// Makes a COWD extent: a directory of tables with 4096 entries, each a sector number of 32 bits.
fn cowd(random: &mut Random, sectors: u64, grain: u64) -> Vec<u8> {
    let tables = sectors.div_ceil(grain * 4096);
    let mut bytes = vec![0; 4 * SECTOR];
    put(&mut bytes, 0, b"COWD");
    for (at, value) in [(4, 1), (8, 3), (12, sectors), (16, grain), (20, 4), (24, tables)] {
        put(&mut bytes, at, &(value as u32).to_le_bytes());
    }
    let directory = add(&mut bytes, (tables as usize * 4).div_ceil(SECTOR));
    let mut of_table = BTreeMap::new();
    for number in some_grains(random, sectors.div_ceil(grain)) {
        let table = *of_table.entry(number / 4096).or_insert_with(|| {
            let table = add(&mut bytes, 32);
            put(&mut bytes, directory + number as usize / 4096 * 4, &((table / SECTOR) as u32).to_le_bytes());
            table
        });
        let at = add(&mut bytes, grain as usize);
        random.fill(&mut bytes[at..at + grain as usize * SECTOR]);
        put(&mut bytes, table + number as usize % 4096 * 4, &((at / SECTOR) as u32).to_le_bytes());
    }
    bytes
}

/// Makes a seSparse extent: tables of 4096 entries of 64 bits in one area, grains of 4 KiB in another. Some grains are
/// marked as zeros, some as unmapped.
fn se_sparse(random: &mut Random, sectors: u64) -> Vec<u8> {
    let grains = sectors.div_ceil(8);
    let directory_sectors = grains.div_ceil(4096).next_multiple_of(64) * 8 / SECTOR as u64;
    let tables_at = 2 + directory_sectors;
    let chosen = some_grains(random, grains);
    let mut tables: Vec<u64> = chosen.iter().map(|grain| grain / 4096).collect();
    tables.sort_unstable();
    tables.dedup();
    let grains_at = tables_at + tables.len() as u64 * 64;
    let mut bytes = vec![0; (grains_at as usize + chosen.len() * 8) * SECTOR];
    for (at, value) in [
        (0, 0xcafe_babe),
        (8, 0x2_0000_0001),
        (16, sectors),
        (24, 8),
        (32, 64),
        (80, 1),
        (88, 1),
        (96, 0),
        (128, 2),
        (136, directory_sectors),
        (144, tables_at),
        (152, tables.len() as u64 * 64),
        (192, grains_at),
        (200, chosen.len() as u64 * 8),
    ] {
        put(&mut bytes, at, &u64::to_le_bytes(value));
    }
    put(&mut bytes, SECTOR, &0xcafe_cafe_u64.to_le_bytes());
    for (i, table) in tables.iter().enumerate() {
        put(&mut bytes, 2 * SECTOR + *table as usize * 8, &(0x1000_0000_0000_0000 | i as u64).to_le_bytes());
    }
    for (i, number) in chosen.iter().enumerate() {
        let i = i as u64;
        let table = tables.binary_search(&(number / 4096)).unwrap() as u64;
        let entry = match random.below(6) {
            0 => 0x1000_0000_0000_0000,
            1 => 0x2000_0000_0000_0000,
            _ => 0x3000_0000_0000_0000 | (i & 0xfff) << 48 | i >> 12,
        };
        let at = tables_at as usize * SECTOR + (table * 4096 + number % 4096) as usize * 8;
        put(&mut bytes, at, &entry.to_le_bytes());
        let at = (grains_at as usize + i as usize * 8) * SECTOR;
        random.fill(&mut bytes[at..at + 4096]);
    }
    bytes
}

fn write_disk(folder: &Path, name: &str, kind: &str, sectors: u64, extent: &[u8]) {
    std::fs::write(folder.join(format!("{name}-extent")), extent).unwrap();
    let descriptor = format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"{}\"\n\
         RW {sectors} {kind} \"{name}-extent\"\n",
        if kind == "SESPARSE" { "seSparse" } else { "vmfsSparse" },
    );
    std::fs::write(folder.join(format!("{name}.vmdk")), descriptor).unwrap();
}

#[test]
fn extents_of_esx_read_as_qemu_img_reads_them() {
    let Some(qemu_img) = tool("qemu-img") else { return };
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..12 {
        let mut random = Random(4000 + seed);
        let sectors = 1 + random.below(120_000);
        let (kind, extent) = match seed % 2 {
            0 => ("VMFSSPARSE", {
                let grain = 1 << random.below(8);
                cowd(&mut random, sectors, grain)
            }),
            _ => ("SESPARSE", se_sparse(&mut random, sectors)),
        };
        write_disk(dir.path(), "disk", kind, sectors, &extent);
        qemu_img.run(dir.path(), "convert -f vmdk -O raw disk.vmdk theirs.raw");
        let theirs = std::fs::read(dir.path().join("theirs.raw")).unwrap();
        assert!(theirs.iter().any(|byte| *byte != 0), "{kind} {seed}: qemu-img sees no data");
        let disk = open(&dir.path().join("disk.vmdk"), &OpenOptions::default()).unwrap();
        assert_eq!(disk.source.len(), theirs.len() as u64, "{kind} {seed}");
        assert!(disk.source.read_vec(0, theirs.len()).unwrap() == theirs, "{kind} {seed}, {sectors} sectors");
    }
}
