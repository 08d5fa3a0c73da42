//! Tests with tables made by sfdisk and sgdisk, and with single bytes of tables changed.

use super::*;
use crate::source::MemSource;
use crate::testing::{feed, have, run};

const MIB: usize = 1 << 20;

/// Returns a disk of `len` bytes, partitioned with `sfdisk` according to `script`.
fn sfdisk(len: usize, script: &str) -> (tempfile::NamedTempFile, Vec<u8>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(len as u64).unwrap();
    feed("sfdisk", &["-q", file.path().to_str().unwrap()], script);
    let bytes = std::fs::read(file.path()).unwrap();
    (file, bytes)
}

fn table(bytes: &[u8]) -> Table {
    read(&MemSource(bytes.to_vec())).unwrap()
}

/// Reads a table and asserts that there are no warnings.
fn clean(bytes: &[u8]) -> Table {
    let table = table(bytes);
    assert_eq!(table.warnings, [""; 0]);
    table
}

fn slots(table: &Table) -> Vec<(u32, u64, u64)> {
    table.partitions.iter().map(|p| (p.slot, p.start, p.len)).collect()
}

/// Returns the only warning.
fn warning(table: &Table) -> &str {
    assert_eq!(table.warnings.len(), 1, "{:?}", table.warnings);
    &table.warnings[0]
}

fn poke(bytes: &[u8], at: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

/// Returns the output of `sfdisk --dump` as lines of slot, start and length in sectors, type, UUID and name.
fn sfdisk_lines(path: &std::path::Path) -> Vec<String> {
    let dump = run("sfdisk", &["--dump", path.to_str().unwrap()]);
    let dump = dump.replace("\\xc3\\xb6", "ö").replace("\\xc3\\x9f", "ß");
    let mut lines = Vec::new();
    for line in dump.lines().filter(|line| line.starts_with('/')) {
        let (device, fields) = line.split_once(" : ").unwrap();
        let slot = device.strip_prefix(path.to_str().unwrap()).unwrap();
        let mut out = slot.trim().trim_start_matches('p').to_owned();
        for field in fields.split(',').map(str::trim) {
            let (key, value) = field.split_once('=').unwrap_or((field, ""));
            if matches!(key, "start" | "size" | "type" | "uuid" | "name") {
                out += &format!(" {key}={}", value.trim().trim_matches('"').to_lowercase());
            }
        }
        lines.push(out);
    }
    lines.sort();
    lines
}

fn our_lines(table: &Table) -> Vec<String> {
    let size = u64::from(table.sector_size);
    let mut lines: Vec<_> = table
        .partitions
        .iter()
        .map(|p| {
            let mut line = format!("{} start={} size={}", p.slot, p.start / size, p.len / size);
            line += &format!(" type={}", p.type_id.trim_start_matches("0x0").trim_start_matches("0x"));
            if table.kind == TableKind::Gpt {
                line += &format!(" uuid={}", p.id.as_ref().unwrap());
                line += &p.name.as_ref().map_or(String::new(), |n| format!(" name={}", n.to_lowercase()));
            }
            line
        })
        .collect();
    lines.sort();
    lines
}

const GPT: &str = "label: gpt\nlabel-id: 11111111-2222-3333-4444-5566778899AA\n\
    1 : start=40960, size=2048, type=L, name=root, uuid=AAAAAAAA-1111-2222-3333-444444444444\n\
    14 : start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649\n\
    15 : start=4096, size=8192, type=U, name=\"ESP größe\"\n\
    127 : start=20480, size=2048, type=S\n";

const MBR: &str = "label: dos\nlabel-id: 0x1234abcd\n\
    1 : start=2048, size=2048, type=83, bootable\n\
    3 : start=8192, size=40960, type=5\n\
    4 : start=4096, size=2048, type=c\n\
    5 : start=10240, size=2048, type=82\n\
    6 : start=20480, size=4096, type=83\n\
    7 : start=30720, size=4096, type=8e\n";

fn gpt_disk() -> Option<Vec<u8>> {
    have(&["sfdisk"]).then(|| sfdisk(32 * MIB, GPT).1)
}

fn mbr_disk() -> Option<Vec<u8>> {
    have(&["sfdisk"]).then(|| sfdisk(32 * MIB, MBR).1)
}

#[test]
fn a_gpt_is_read_as_sfdisk_reads_it_with_its_slots() {
    if !have(&["sfdisk"]) {
        return;
    }
    let (file, bytes) = sfdisk(32 * MIB, GPT);
    let table = clean(&bytes);
    assert_eq!((table.kind, table.sector_size), (TableKind::Gpt, 512));
    assert_eq!(table.id.as_deref(), Some("11111111-2222-3333-4444-5566778899aa"));
    assert_eq!(table.partitions.iter().map(|p| p.slot).collect::<Vec<_>>(), [1, 14, 15, 127]);
    assert_eq!(table.partitions[2].name.as_deref(), Some("ESP größe"));
    assert_eq!(our_lines(&table), sfdisk_lines(file.path()));
}

#[test]
fn a_gpt_of_4096_byte_sectors_is_told_by_where_it_is() {
    if !have(&["fdisk"]) {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(32 * MIB as u64).unwrap();
    let path = file.path().to_str().unwrap();
    feed("fdisk", &["-b", "4096", path], "g\nn\n2\n256\n767\nn\n5\n1024\n1279\nw\n");
    let bytes = std::fs::read(path).unwrap();
    let table = clean(&bytes);
    assert_eq!((table.kind, table.sector_size), (TableKind::Gpt, 4096));
    assert_eq!(slots(&table), [(2, MIB as u64, 2 * MIB as u64), (5, 4 * MIB as u64, MIB as u64)]);
    let damaged = self::table(&poke(&bytes, 4096, b"X"));
    assert_eq!((damaged.sector_size, slots(&damaged)), (4096, slots(&table)));
    assert_eq!(damaged.warnings.len(), 1);
}

#[test]
fn sgdisk_tables_with_moved_and_larger_arrays_and_attributes_are_read() {
    if !have(&["sgdisk"]) {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(32 * MIB as u64).unwrap();
    let path = file.path().to_str().unwrap();
    run("sgdisk", &["-o", "-S", "256", "-j", "1000", path]);
    run("sgdisk", &["-n", "200:8192:+1M", "-t", "200:8300", "-c", "200:far", "-A", "200:set:2", path]);
    let table = clean(&std::fs::read(path).unwrap());
    assert_eq!(slots(&table), [(200, 4 * MIB as u64, MIB as u64)]);
    assert_eq!(table.partitions[0].attributes, 4);
    assert_eq!(table.partitions[0].type_id, "0fc63daf-8483-4772-8e79-3d69d8477de4");
}

#[test]
fn an_mbr_is_read_as_sfdisk_reads_it_and_its_extended_partition_is_one_sector() {
    if !have(&["sfdisk"]) {
        return;
    }
    let (file, bytes) = sfdisk(32 * MIB, MBR);
    let mut table = clean(&bytes);
    assert_eq!((table.kind, table.id.as_deref()), (TableKind::Mbr, Some("1234abcd")));
    assert_eq!(table.partitions.iter().map(|p| p.slot).collect::<Vec<_>>(), [1, 3, 4, 5, 6, 7]);
    assert_eq!(table.partitions[0].attributes, 0x80);
    assert_eq!(table.partitions[5].id.as_deref(), Some("1234abcd-07"));
    assert_eq!((table.partitions[1].type_id.as_str(), table.partitions[1].len), ("0x05", 512));
    table.partitions[1].len = 40960 * 512;
    assert_eq!(our_lines(&table), sfdisk_lines(file.path()));
}

/// Positions of the backup header and array on the disk of [`GPT`].
const BACKUP: usize = 32 * MIB - 512;
const BACKUP_ARRAY: usize = BACKUP - 32 * 512;

/// Fixes the CRC of the header.
fn seal(bytes: &mut [u8], header: usize) {
    bytes[header + 16..header + 20].fill(0);
    let crc = libdeflater::crc32(&bytes[header..header + 92]);
    bytes[header + 16..header + 20].copy_from_slice(&crc.to_le_bytes());
}

fn sealed(bytes: &[u8], header: usize, at: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = poke(bytes, header + at, with);
    seal(&mut bytes, header);
    bytes
}

#[test]
fn any_one_damaged_part_of_a_gpt_is_said_and_the_rest_serves() {
    let Some(disk) = gpt_disk() else { return };
    let whole = table(&disk);
    let cases = [
        (512, "Signature"),
        (512 + 13, "HeaderSize"),
        (512 + 40, "HeaderCRC32"),
        (1024 + 32, "PartitionEntryArrayCRC32"),
        (BACKUP, "Signature"),
        (BACKUP + 56, "HeaderCRC32"),
        (BACKUP_ARRAY + 3, "PartitionEntryArrayCRC32"),
    ];
    for (at, field) in cases {
        let damaged = table(&poke(&disk, at, &[0x77]));
        assert_eq!(damaged.partitions, whole.partitions, "{field}");
        assert!(warning(&damaged).contains(field), "{}", warning(&damaged));
    }
}

#[test]
fn a_header_that_lies_with_a_good_crc_is_refused_by_field() {
    let Some(disk) = gpt_disk() else { return };
    let whole = table(&disk);
    let cases: [(usize, &[u8], &str); 5] = [
        (24, &[2], "MyLBA"),
        (84, &4104u32.to_le_bytes(), "SizeOfPartitionEntry"),
        (84, &64u32.to_le_bytes(), "SizeOfPartitionEntry"),
        (84, &132u32.to_le_bytes(), "SizeOfPartitionEntry"),
        (80, &u32::MAX.to_le_bytes(), "NumberOfPartitionEntries"),
    ];
    for (at, with, field) in cases {
        let damaged = table(&sealed(&disk, 512, at, with));
        assert_eq!(damaged.partitions, whole.partitions);
        assert!(warning(&damaged).contains(field), "{}", warning(&damaged));
    }
}

#[test]
fn a_good_header_and_the_others_good_array_serve_together() {
    let Some(disk) = gpt_disk() else { return };
    let whole = table(&disk);
    for (header, array) in [(512, BACKUP_ARRAY), (BACKUP, 1024)] {
        let damaged = table(&poke(&poke(&disk, header + 8, &[9]), array, &[9]));
        assert_eq!(damaged.partitions, whole.partitions, "{header}");
        assert!(warning(&damaged).contains("; using the "), "{}", warning(&damaged));
    }
}

#[test]
fn a_gpt_with_nothing_whole_is_no_table_and_says_why() {
    let Some(disk) = gpt_disk() else { return };
    for (a, b) in [(512 + 8, BACKUP + 8), (1024, BACKUP_ARRAY)] {
        let lost = table(&poke(&poke(&disk, a, &[9]), b, &[9]));
        assert_eq!((lost.kind, slots(&lost)), (TableKind::None, vec![(0, 0, 32 * MIB as u64)]));
        assert!(warning(&lost).contains("CRC32"), "{}", warning(&lost));
    }
}

#[test]
fn a_disk_that_was_grown_or_cut_keeps_its_gpt_and_says_so() {
    let Some(disk) = gpt_disk() else { return };
    let whole = table(&disk);
    let mut grown = disk.clone();
    grown.resize(40 * MIB, 0);
    assert_eq!(table(&grown).partitions, whole.partitions);
    assert!(warning(&table(&grown)).contains("was probably resized"));
    // Even then the primary has the position of its backup.
    let damaged = table(&poke(&grown, 512 + 60, &[9]));
    assert_eq!(damaged.partitions, whole.partitions);
    assert!(warning(&damaged).contains("; using the "), "{}", warning(&damaged));

    let cut = table(&disk[..21 * MIB - 512]);
    assert_eq!(cut.partitions.len(), 4);
    assert_eq!((cut.partitions[0].start, cut.partitions[0].len), (20 * MIB as u64, MIB as u64 - 512));
    assert!(
        cut.warnings.iter().any(|w| w.starts_with("Partition 1 was clipped: it ends at")),
        "{:?}",
        cut.warnings
    );
    let cut = table(&disk[..20 * MIB]);
    assert_eq!(cut.partitions.len(), 3);
    assert!(
        cut.warnings.iter().any(|w| w.starts_with("Partition 1 was left out: it starts at")),
        "{:?}",
        cut.warnings
    );
}

#[test]
fn entries_of_more_than_128_bytes_are_stepped_over() {
    let Some(disk) = gpt_disk() else { return };
    let whole = table(&disk);
    // 64 entries of 256 bytes, of which the first and the fifteenth are as before.
    let mut wide = disk.clone();
    wide[1024..1024 + 16384].fill(0);
    for slot in [1, 15] {
        let from = 1024 + (slot - 1) * 128;
        wide[1024 + (slot - 1) * 256..][..128].copy_from_slice(&disk[from..from + 128]);
    }
    let crc = libdeflater::crc32(&wide[1024..1024 + 16384]);
    wide[512 + 80..512 + 84].copy_from_slice(&64u32.to_le_bytes());
    wide[512 + 84..512 + 88].copy_from_slice(&256u32.to_le_bytes());
    wide[512 + 88..512 + 92].copy_from_slice(&crc.to_le_bytes());
    seal(&mut wide, 512);
    let wide = table(&wide);
    assert_eq!(wide.partitions, [whole.partitions[0].clone(), whole.partitions[2].clone()]);
    assert!(warning(&wide).contains("differ"));
}

#[test]
fn a_protective_mbr_of_any_size_and_start_calls_for_the_gpt() {
    let Some(disk) = gpt_disk() else { return };
    let whole = clean(&disk);
    for (at, with) in [(446 + 12, u32::MAX), (446 + 12, 1), (446 + 12, 0), (446 + 8, 0), (446 + 8, 63)] {
        assert_eq!(clean(&poke(&disk, at, &with.to_le_bytes())), whole);
    }
    assert_eq!(clean(&poke(&disk, 446, &[0x55])), whole);
}

#[test]
fn a_hybrid_mbr_is_said_and_the_gpt_counts() {
    let Some(disk) = gpt_disk() else { return };
    let record = [0x80, 0, 0, 0, 0x0c, 0, 0, 0, 0, 16, 0, 0, 0, 32, 0, 0];
    let hybrid = table(&poke(&disk, 446 + 16, &record));
    assert_eq!(hybrid.partitions, table(&disk).partitions);
    assert!(warning(&hybrid).contains("hybrid MBR lists 1 partitions"), "{}", warning(&hybrid));
}

#[test]
fn a_gpt_behind_a_real_mbr_is_stale_and_one_without_any_mbr_is_read() {
    let Some(disk) = gpt_disk() else { return };
    let stale = table(&poke(&disk, 446 + 4, &[0x83]));
    assert_eq!((stale.kind, stale.partitions.len()), (TableKind::Mbr, 1));
    let bare = table(&poke(&disk, 510, &[0, 0]));
    assert_eq!(bare.partitions, table(&disk).partitions);
    assert!(warning(&bare).contains("no protective MBR"));
    // The backup at the end of the disk alone is not enough.
    assert_eq!(table(&poke(&poke(&disk, 510, &[0, 0]), 512, &[0])).kind, TableKind::None);
}

#[test]
fn odd_entries_of_a_gpt_are_said() {
    let Some(disk) = gpt_disk() else { return };
    let with_entry = |slot: usize, first: u64, last: u64| {
        let mut disk = disk.clone();
        for array in [1024, BACKUP_ARRAY] {
            let at = array + (slot - 1) * 128;
            disk[at] = 1;
            disk[at + 32..at + 40].copy_from_slice(&first.to_le_bytes());
            disk[at + 40..at + 48].copy_from_slice(&last.to_le_bytes());
            let crc = libdeflater::crc32(&disk[array..array + 16384]);
            let header = if array == 1024 { 512 } else { BACKUP };
            disk[header + 88..header + 92].copy_from_slice(&crc.to_le_bytes());
            seal(&mut disk, header);
        }
        table(&disk)
    };
    let (before, after) = (with_entry(2, 50_000, 49_999), table(&disk));
    assert_eq!(before.partitions, after.partitions);
    assert!(warning(&before).contains("before its start"));
    assert_eq!(warning(&with_entry(2, 42_000, 50_000)), "Partitions 1 and 2 overlap by 516096 bytes.");
    let (huge, whole) = (with_entry(2, 50_000, u64::MAX), with_entry(2, 50_000, 50_000));
    assert_eq!(huge.partitions[1].len, 32 * MIB as u64 - 50_000 * 512);
    assert_eq!(huge.partitions[0], whole.partitions[0]);
    assert_eq!(with_entry(2, u64::MAX, u64::MAX).partitions.len(), 4);
    assert_eq!(with_entry(2, 0, u64::MAX).partitions[1].start, 0);
}

/// Returns the position of the second link of the chain on the disk of [`MBR`].
fn second_link(disk: &[u8]) -> usize {
    let at = 8192 * 512 + 446 + 16;
    (8192 + crate::bytes::le32(disk, at + 8) as usize) * 512
}

#[test]
fn a_chain_that_loops_ends_and_is_said() {
    let Some(disk) = mbr_disk() else { return };
    let second = second_link(&disk);
    // Links back to the first, at offset 0 of the extended partition.
    let looped = table(&poke(&disk, second + 446 + 16 + 8, &[0; 4]));
    assert_eq!(looped.partitions.iter().map(|p| p.slot).collect::<Vec<_>>(), [1, 3, 4, 5, 6]);
    assert!(warning(&looped).contains("returns to byte 4194304"), "{}", warning(&looped));
}

#[test]
fn a_chain_that_breaks_off_is_said_and_what_came_before_stays() {
    let Some(disk) = mbr_disk() else { return };
    let second = second_link(&disk);
    let broken = table(&poke(&disk, second + 510, &[0]));
    assert_eq!(broken.partitions.iter().map(|p| p.slot).collect::<Vec<_>>(), [1, 3, 4, 5]);
    assert!(warning(&broken).contains("breaks off"));
    let away = table(&poke(&disk, second + 446 + 16 + 8, &[0xff; 4]));
    assert_eq!(away.partitions.len(), 5);
    assert!(warning(&away).contains("past the end of the disk"));
}

#[test]
fn a_chain_is_followed_to_its_limit_only() {
    // Each sector is a link with a partition inside it, and points to the next sector.
    let mut disk = vec![0u8; 2000 * 512];
    let record = |disk: &mut [u8], at: usize, os_type: u8, lba: u32, sectors: u32| {
        disk[at + 4] = os_type;
        disk[at + 8..at + 12].copy_from_slice(&lba.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    };
    for sector in 0..2000 {
        let start = sector * 512;
        disk[start + 510..start + 512].copy_from_slice(&[0x55, 0xaa]);
        match sector {
            0 => record(&mut disk, 446, 5, 1, 1999),
            _ => {
                record(&mut disk, start + 446, 0x83, 0, 1);
                record(&mut disk, start + 462, 5, sector as u32, 1);
            }
        }
    }
    let long = table(&disk);
    assert_eq!(long.partitions.len(), 1 + 512);
    assert_eq!(long.partitions.last().unwrap().slot, 4 + 512);
    assert!(long.warnings[0].contains("over 512 links"), "{:?}", long.warnings);
}

#[test]
fn partitions_that_overlap_or_pass_the_end_of_an_mbr_disk_are_said() {
    let Some(disk) = mbr_disk() else { return };
    let overlapping = table(&poke(&disk, 446 + 12, &4096u32.to_le_bytes()));
    assert_eq!(warning(&overlapping), "Partitions 1 and 4 overlap by 1048576 bytes.");
    let cut = table(&disk[..6144 * 512 - 100]);
    assert_eq!(slots(&cut), [(1, MIB as u64, MIB as u64), (4, 2 * MIB as u64, MIB as u64 - 100)]);
    // One partition is clipped, and the extended one is out of reach twice: itself, and its chain.
    assert_eq!(cut.warnings.len(), 3, "{:?}", cut.warnings);
}

#[test]
fn a_bare_disk_is_one_volume() {
    let bare = |len: usize| Table {
        kind: TableKind::None,
        sector_size: 512,
        id: None,
        partitions: vec![Partition {
            slot: 0,
            start: 0,
            len: len as u64,
            type_id: String::new(),
            id: None,
            name: None,
            attributes: 0,
        }],
        warnings: Vec::new(),
    };
    for len in [0, 1, 511, 512, 513, 4096, 100_000] {
        assert_eq!(table(&vec![0; len]), bare(len));
        assert_eq!(table(&vec![0xff; len]), bare(len));
    }
    // A signature and nothing else: an empty table, or the boot code of what occupies the disk.
    let mut boot = vec![0; 100_000];
    boot[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(table(&boot), bare(100_000));
    // GRUB's boot sector has code in place of the table, which does not start with a status byte.
    boot[446..462].copy_from_slice(&[
        0x24, 0x12, 0x0f, 0x09, 0, 0xbe, 0xbd, 0x7d, 0x31, 0xc0, 0xcd, 0x13, 0x46, 0x8a, 0x0c, 0x80,
    ]);
    assert_eq!(table(&boot), bare(100_000));
}

#[test]
fn a_fat_on_the_bare_disk_is_no_table_but_a_table_in_its_boot_sector_is() {
    if !have(&["mkfs.vfat"]) {
        return;
    }
    for kind in ["12", "16", "32"] {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 * MIB as u64).unwrap();
        let sectors_per_cluster = match kind {
            "12" => "64",
            "16" => "8",
            _ => "1",
        };
        let path = file.path().to_str().unwrap();
        run("mkfs.vfat", &["-F", kind, "-s", sectors_per_cluster, path]);
        let fat = std::fs::read(path).unwrap();
        assert_eq!(clean(&fat).kind, TableKind::None, "FAT{kind}");
        // Bytes in place of a table that cannot be a valid one.
        let record = |start: u32, sectors: u32| {
            let mut record = [0; 16];
            record[4] = 0x0c;
            record[8..12].copy_from_slice(&start.to_le_bytes());
            record[12..16].copy_from_slice(&sectors.to_le_bytes());
            record
        };
        assert_eq!(clean(&poke(&fat, 446, &record(0, 2048))).kind, TableKind::None);
        assert_eq!(clean(&poke(&fat, 446, &record(2048, u32::MAX))).kind, TableKind::None);
        assert_eq!(clean(&poke(&fat, 446, &record(2048, 2048))).kind, TableKind::Mbr);
    }
}

/// Returns a disk of 256 sectors with a GPT of eight entries, three of them used, made without a tool.
fn small_gpt() -> Vec<u8> {
    let mut disk = vec![0; 256 * 512];
    disk[446 + 4] = 0xee;
    disk[446 + 8..446 + 16].copy_from_slice(&[1, 0, 0, 0, 255, 0, 0, 0]);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut array = vec![0; 1024];
    for (slot, first, last) in [(1usize, 10u64, 99u64), (4, 100, 149), (8, 150, 250)] {
        let entry = &mut array[(slot - 1) * 128..][..128];
        entry[..16].fill(0x11);
        entry[16..32].fill(slot as u8);
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        entry[56..62].copy_from_slice(b"n\0a\0m\0");
    }
    for (lba, alternate, at) in [(1u64, 255u64, 2u64), (255, 1, 253)] {
        disk[at as usize * 512..][..1024].copy_from_slice(&array);
        let header = &mut disk[lba as usize * 512..][..512];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..16].copy_from_slice(&[0, 0, 1, 0, 92, 0, 0, 0]);
        for (offset, value) in [(24, lba), (32, alternate), (40, 4), (48, 252), (72, at)] {
            header[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        }
        header[56..72].fill(0x22);
        header[80..88].copy_from_slice(&[8, 0, 0, 0, 128, 0, 0, 0]);
        header[88..92].copy_from_slice(&libdeflater::crc32(&array).to_le_bytes());
        seal(&mut disk, lba as usize * 512);
    }
    disk
}

/// Returns a disk of 256 sectors with two primary and three logical partitions.
fn small_mbr() -> Vec<u8> {
    small_mbr_of(512)
}

/// Returns the same disk with sectors of this size.
fn small_mbr_of(sector: usize) -> Vec<u8> {
    let mut disk = vec![0; 256 * sector];
    let mut record = |at: usize, os_type: u8, start: u32, sectors: u32| {
        disk[at + 4] = os_type;
        disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    };
    record(446, 0x83, 10, 50);
    record(462, 0x05, 100, 150);
    record(494, 0x0c, 60, 40);
    for (link, next) in [(100, 120), (120, 140), (140, 0)] {
        record(link * sector + 446, 0x83, 1, 10);
        if next > 0 {
            record(link * sector + 462, 0x05, next - 100, 20);
        }
    }
    for link in [0, 100, 120, 140] {
        disk[link * sector + 510..link * sector + 512].copy_from_slice(&[0x55, 0xaa]);
    }
    disk
}

/// A disk whose container records the sector size.
struct Recorded(MemSource, u32);

impl Source for Recorded {
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read_at(offset, buf)
    }
    fn extent_at(&self, offset: u64) -> Result<crate::source::Extent> {
        self.0.extent_at(offset)
    }
    fn sector_size(&self) -> Option<u32> {
        Some(self.1)
    }
}

#[test]
fn an_mbr_counts_in_the_sectors_of_its_disk() {
    let places = |table: &Table| -> Vec<(u32, u64, u64)> {
        let sector = u64::from(table.sector_size);
        table.partitions.iter().map(|p| (p.slot, p.start / sector, p.len / sector)).collect()
    };
    let small = read(&MemSource(small_mbr())).unwrap();
    let large = small_mbr_of(4096);
    // The chain of logical partitions shows the sector size; without any evidence it is 512.
    let table = read(&MemSource(large.clone())).unwrap();
    assert_eq!((table.sector_size, places(&table)), (4096, places(&small)), "by the chain");
    assert!(table.warnings.is_empty(), "{:?}", table.warnings);
    let mut primary = large.clone();
    primary[462..478].fill(0);
    let sector_size = |disk: &[u8]| read(&MemSource(disk.to_vec())).unwrap().sector_size;
    assert_eq!(sector_size(&primary), 512, "nothing tells");
    for (at, magic) in [(1080, &b"\x53\xef"[..]), (0, b"XFSB"), (4086, b"SWAPSPACE2"), (3, b"NTFS    ")] {
        let mut known = primary.clone();
        known[10 * 4096 + at..][..magic.len()].copy_from_slice(magic);
        assert_eq!(sector_size(&known), 4096, "{}", magic.escape_ascii());
        // Known content at both places: the usual size wins.
        known[10 * 512 + at..][..magic.len()].copy_from_slice(magic);
        assert_eq!(sector_size(&known), 512, "{}", magic.escape_ascii());
    }
    // The size that the container records has priority, even for a disk without a table.
    for size in [512, 4096] {
        let recorded = |bytes: Vec<u8>| read(&Recorded(MemSource(bytes), size)).unwrap().sector_size;
        assert_eq!((recorded(primary.clone()), recorded(vec![0; 65536])), (size, size));
    }
    // A changed table is written with the same sector size.
    let mut moved = table.clone();
    moved.partitions[0].start += 4096;
    let mut disk = large.clone();
    for (at, bytes) in write::write(Some((&MemSource(large), &table)), &moved, 256 * 4096).unwrap() {
        disk[at as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    assert_eq!(read(&MemSource(disk)).unwrap().partitions, moved.partitions);
}

#[test]
fn tables_made_without_a_tool_are_whole() {
    assert_eq!(clean(&small_gpt()).partitions.iter().map(|p| p.slot).collect::<Vec<_>>(), [1, 4, 8]);
    assert_eq!(clean(&small_mbr()).partitions.iter().map(|p| p.slot).collect::<Vec<_>>(), [1, 2, 4, 5, 6, 7]);
}

#[test]
fn an_extended_partition_ends_with_the_disk_and_else_keeps_its_length() {
    let disk = small_mbr();
    let before = clean(&disk);
    let container = |size: u64| {
        let source = MemSource(disk.clone());
        let patches = super::write::write(Some((&source, &before)), &before, size * 512).unwrap();
        let sector0 = &patches.iter().find(|(at, _)| *at == 0).unwrap().1;
        let at = |offset: usize| crate::bytes::le32(sector0, 462 + offset);
        (at(8), at(12))
    };
    assert_eq!(container(256), (100, 150), "as it is");
    assert_eq!(container(400), (100, 150), "on a larger disk");
    assert_eq!(container(200), (100, 100), "to the end of a smaller one");
    // The last logical partition ends at sector 151.
    assert_eq!(container(151), (100, 51));
}

/// Tens of thousands of damaged tables cause no panic, no endless loop, and no partition outside the disk.
#[test]
#[ignore = "is run by mutants_are_read_in_little_memory"]
fn mutants_of_tables_stay_within_the_disk() {
    let bases = [
        (
            small_gpt(),
            [446..512, 512..604, 1024..2048, 255 * 512..255 * 512 + 92, 253 * 512..255 * 512].to_vec(),
        ),
        (small_mbr(), [440..512, 51_646..51_712, 61_886..61_952, 72_126..72_192].to_vec()),
    ];
    let mut kinds = [0; 3];
    for seed in 0..30_000 {
        let mut dice = crate::testing::Dice::new(seed);
        let (base, hot) = &bases[seed as usize % 2];
        let mut disk = base.clone();
        dice.mutate(&mut disk, hot);
        if dice.roll(2) == 0 {
            // Damage with correct CRCs.
            for (header, array) in [(512, 1024), (255 * 512, 253 * 512)] {
                let crc = libdeflater::crc32(&disk[array..array + 1024]);
                disk[header + 88..header + 92].copy_from_slice(&crc.to_le_bytes());
                seal(&mut disk, header);
            }
        }
        if dice.roll(10) == 0 {
            disk.truncate(dice.roll(base.len()));
        }
        let table = table(&disk);
        kinds[table.kind as usize] += 1;
        assert!(table.warnings.len() <= MAX_WARNINGS + 1);
        assert!(table.partitions.is_sorted_by_key(|p| p.slot));
        for p in &table.partitions {
            assert!(p.start + p.len <= disk.len() as u64, "seed {seed}: {p:?}");
        }
    }
    assert!(kinds.iter().all(|count| *count > 1000), "{kinds:?}");
}

#[test]
fn warnings_are_kept_up_to_their_limit_and_the_rest_counted() {
    let mut disk = vec![0; 256 * 512];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut record = |at: usize, os_type: u8, start: u32, sectors: u32| {
        disk[at + 4] = os_type;
        disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    };
    record(446, 0x05, 100, 150);
    // Forty links, each with a partition past the end of the disk.
    for link in 0..40 {
        record((100 + link) * 512 + 446, 0x83, 1000, 1);
        record((100 + link) * 512 + 462, 0x05, link as u32 + 1, 1);
    }
    for link in 0..40 {
        disk[(100 + link) * 512 + 510..(100 + link) * 512 + 512].copy_from_slice(&[0x55, 0xaa]);
    }
    let table = table(&disk);
    assert_eq!(table.warnings.len(), MAX_WARNINGS + 1);
    assert_eq!(table.warnings[MAX_WARNINGS], "9 more warnings were left out.");
}
