//! Tests with FAT volumes made and read by the real tools, and with single bytes of volumes changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::error::ErrorKind;
use crate::source::MemSource;
use crate::testing::{have, run, run_raw};

const MKFS: &[&str] = &["mkfs.vfat", "fsck.fat", "mcopy", "mmd", "mdel", "mdir", "mattrib"];

/// A volume in a file, for the tools.
struct Image {
    dir: tempfile::TempDir,
    path: String,
}

impl Image {
    fn make(kib: u64, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fat.img").to_str().unwrap().to_owned();
        let kib = kib.to_string();
        let mut args = vec!["-C", "-i", "1234ABCD", "--invariant"];
        args.extend_from_slice(options);
        args.extend([path.as_str(), kib.as_str()]);
        run("mkfs.vfat", &args);
        Image { dir, path }
    }

    fn mtools(&self, tool: &str, args: &[&str]) -> String {
        let mut all = vec!["-i", self.path.as_str()];
        all.extend_from_slice(args);
        run(tool, &all)
    }

    fn put(&self, target: &str, content: &[u8]) {
        let file = self.dir.path().join("content");
        std::fs::write(&file, content).unwrap();
        self.mtools("mcopy", &["-o", file.to_str().unwrap(), target]);
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }

    fn open(&self) -> Fat {
        Fat::open(Arc::new(FileSource(std::fs::File::open(&self.path).unwrap()))).unwrap()
    }
}

struct FileSource(std::fs::File);

impl Source for FileSource {
    fn len(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.0, buf, offset).map_err(|e| at("file").io(e))
    }

    fn extent_at(&self, offset: u64) -> Result<crate::source::Extent> {
        Ok(crate::source::Extent::data(offset, self.len() - offset))
    }
}

fn open(bytes: Vec<u8>) -> Result<Fat> {
    Fat::open(Arc::new(MemSource(bytes)))
}

/// Lists all paths under `id`, with their nodes. Panics on any complaint.
fn list(fat: &Fat, id: NodeId, path: &str, into: &mut BTreeMap<String, NodeId>) {
    for entry in fat.read_dir(id, &mut |e| panic!("{e}")).unwrap() {
        let path = format!("{path}/{}", String::from_utf8(entry.name).unwrap());
        if fat.node(entry.node, &mut |_| ()).unwrap().file_type == FileType::Dir {
            list(fat, entry.node, &path, into);
            into.insert(format!("{path}/"), entry.node);
        } else {
            into.insert(path, entry.node);
        }
    }
}

fn tree(fat: &Fat) -> BTreeMap<String, NodeId> {
    let mut into = BTreeMap::new();
    list(fat, ROOT, "", &mut into);
    into
}

fn read(fat: &Fat, id: NodeId) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in fat.content(id).unwrap().pieces {
        let Piece::Volume { offset, len } = piece else { panic!("{piece:?}") };
        bytes.extend(fat.cache.volume().read_vec(offset, len as usize).unwrap());
    }
    bytes
}

/// Returns `len` bytes that depend on `seed`.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(step).collect()
}

/// Makes a volume with a tree that has been in use: long and short names, a directory of several clusters, fragmented
/// files, an empty file, deleted ones.
fn lived_in(kib: u64, options: &[&str]) -> Image {
    let image = Image::make(kib, options);
    for dir in ["::/EFI", "::/EFI/BOOT", "::/A directory with a long name"] {
        image.mtools("mmd", &[dir]);
    }
    image.put("::/EMPTY", b"");
    for i in 0..60 {
        image.put(&format!("::/EFI/BOOT/file number {i} of a directory.efi"), &noise(i, 700 * i as usize));
    }
    for i in (0..60).step_by(3) {
        image.mtools("mdel", &[&format!("::/EFI/BOOT/file number {i} of a directory.efi")]);
    }
    image.put("::/A directory with a long name/in many pieces", &noise(99, 300_000));
    image.put("::/A directory with a long name/Grüße aus Köln €.txt", &noise(100, 5000));
    image.put("::/readme.txt", &noise(101, 1));
    image.put("::/SHORT.TXT", &noise(102, 512));
    image.mtools("mattrib", &["+r", "+h", "+s", "-a", "::/SHORT.TXT"]);
    image
}

const VOLUMES: &[(&str, u64, &[&str])] = &[
    ("fat12", 1440, &["-F", "12", "-n", "FLOPPY"]),
    ("fat12", 4000, &["-F", "12", "-s", "8"]),
    ("fat16", 20_000, &["-F", "16", "-n", "A LABEL"]),
    ("fat16", 40_000, &["-F", "16", "-S", "1024", "-f", "1"]),
    ("fat32", 66_000, &["-F", "32", "-s", "1", "-n", "EFI SYSTEM"]),
    ("fat32", 140_000, &["-F", "32", "-S", "2048", "-s", "1"]),
    ("fat32", 270_000, &["-F", "32", "-S", "4096", "-s", "1"]),
];

/// Compares all paths, and their contents, with mtools.
fn assert_same_tree(image: &Image, fat: &Fat) {
    let tree = tree(fat);
    let theirs = image.mtools("mdir", &["-a", "-/", "-b", "::"]);
    let mut theirs: Vec<_> = theirs.lines().map(|l| l.trim_start_matches("::").to_owned()).collect();
    theirs.sort();
    assert_eq!(tree.keys().cloned().collect::<Vec<_>>(), theirs);
    for (path, id) in tree.iter().filter(|(path, _)| !path.ends_with('/')) {
        let theirs = run_raw("mcopy", &["-i", &image.path, &format!("::{path}"), "-"]);
        assert!(read(fat, *id) == theirs, "{path}");
        assert_eq!(fat.node(*id, &mut |_| ()).unwrap().size, theirs.len() as u64);
    }
}

#[test]
fn every_kind_and_sector_size_reads_as_mtools_reads_it() {
    if !have(MKFS) {
        return;
    }
    for (kind, kib, options) in VOLUMES {
        let image = lived_in(*kib, options);
        run("fsck.fat", &["-n", &image.path]);
        let fat = image.open();
        assert_eq!(fat.info().kind, *kind, "{options:?}");
        assert_eq!(fat.info().warnings, [""; 0]);
        assert_eq!(fat.info().uuid.as_deref(), Some("1234-ABCD"));
        assert!(fat.info().size <= kib * 1024 && fat.info().size + (1 << 20) > kib * 1024, "{options:?}");
        let label = options.iter().position(|o| *o == "-n").map(|i| options[i + 1]);
        assert_eq!(fat.info().label.as_deref(), label);

        assert_same_tree(&image, &fat);
        let free = image.mtools("mdir", &["-a", "::"]);
        let free = free.lines().find(|l| l.ends_with("bytes free")).unwrap();
        let free: String = free.chars().filter(char::is_ascii_digit).collect();
        assert_eq!(fat.info().free, free.parse().ok(), "{options:?}");
    }
}

#[test]
fn a_fat32_of_few_clusters_is_a_fat32_as_for_the_kernel() {
    if !have(MKFS) {
        return;
    }
    // mtools takes this volume for a FAT16 without a root directory.
    let fat = Image::make(8000, &["-F", "32", "-s", "2", "-n", "SMALL"]).open();
    assert_eq!((fat.info().kind.as_str(), fat.info().label.as_deref()), ("fat32", Some("SMALL")));
    assert_eq!(fat.node(ROOT, &mut |_| ()).unwrap().size, 1024);
    assert_eq!(fat.info().free, Some(u64::from(fat.bpb.cluster_count - 1) * 1024));
}

#[test]
fn attributes_and_times_are_those_that_mtools_gives() {
    if !have(MKFS) {
        return;
    }
    let image = lived_in(20_000, &["-F", "16"]);
    let source = image.dir.path().join("dated");
    std::fs::write(&source, b"x").unwrap();
    run("touch", &["-d", "2031-05-06T07:08:10Z", source.to_str().unwrap()]);
    image.mtools("mcopy", &["-m", source.to_str().unwrap(), "::/dated"]);
    let fat = image.open();
    let tree = tree(&fat);
    let dated = fat.node(tree["/dated"], &mut |_| ()).unwrap();
    assert_eq!(dated.mtime, Some(crate::fs::Timestamp { secs: 1_935_817_690, nanos: 0 }));

    for (path, id) in tree.iter().filter(|(path, _)| !path.ends_with('/')) {
        let line = image.mtools("mattrib", &[&format!("::{path}")]);
        let theirs = line.split("::").next().unwrap();
        let flags = fat.node(*id, &mut |_| ()).unwrap().flags;
        for (letter, bit) in [('A', 0x20), ('S', 0x04), ('H', 0x02), ('R', 0x01)] {
            assert_eq!(theirs.contains(letter), flags & bit != 0, "{path} {letter}");
        }
    }
}

#[test]
fn short_names_come_with_long_ones_and_case_bits_without() {
    if !have(MKFS) {
        return;
    }
    let image = lived_in(1440, &[]);
    let fat = image.open();
    let root = fat.read_dir(ROOT, &mut |e| panic!("{e}")).unwrap();
    let find = |name: &str| root.iter().find(|e| e.name == name.as_bytes()).unwrap();
    assert_eq!(find("A directory with a long name").short_name.as_ref(), Some(b"ADIREC~1   "));
    assert_eq!(find("SHORT.TXT").short_name, None);
    assert_eq!(find("readme.txt").short_name, None);
    assert_eq!(fat.node(find("readme.txt").node, &mut |_| ()).unwrap().flags >> 8, 0x18);
}

/// A small FAT12 of 512-byte clusters in memory. `/A.BIN` is fragmented, with the chain 2, 3, 5; `/DIR` is cluster 4
/// with the file `B` (cluster 6).
struct Small(Vec<u8>);

const FAT: usize = 512;
const FAT_COPY: usize = 1024;
const FIXED_ROOT: usize = 1536;
const DATA: usize = FIXED_ROOT + 16 * 32;

impl Small {
    fn new() -> Self {
        let mut b = vec![0; 512 * 100];
        b[..3].copy_from_slice(&[0xeb, 0x3c, 0x90]);
        b[11..13].copy_from_slice(&512u16.to_le_bytes());
        b[13] = 1;
        b[14] = 1;
        b[16] = 2;
        b[17..19].copy_from_slice(&16u16.to_le_bytes());
        b[19..21].copy_from_slice(&100u16.to_le_bytes());
        b[21] = 0xf8;
        b[22] = 1;
        b[38] = 0x29;
        b[39..43].copy_from_slice(&0x1234_5678u32.to_le_bytes());
        b[43..54].copy_from_slice(b"NO NAME    ");
        b[510..512].copy_from_slice(&[0x55, 0xaa]);
        let mut small = Small(b);
        for (cluster, next) in [(0, 0xff8), (1, 0xfff), (2, 3), (3, 5), (4, 0xfff), (5, 0xfff), (6, 0xfff)] {
            small.link(cluster, next);
        }
        small.entry(FIXED_ROOT, b"A       BIN", 0x20, 2, 512 * 2 + 100);
        small.entry(FIXED_ROOT + 32, b"DIR        ", 0x10, 4, 0);
        small.entry(DATA + 2 * 512, b".          ", 0x10, 4, 0);
        small.entry(DATA + 2 * 512 + 32, b"..         ", 0x10, 0, 0);
        small.entry(DATA + 2 * 512 + 64, b"B          ", 0x20, 6, 10);
        small
    }

    fn link(&mut self, cluster: usize, next: u16) {
        for fat in [FAT, FAT_COPY] {
            let at = fat + cluster + cluster / 2;
            let pair = u16::from_le_bytes([self.0[at], self.0[at + 1]]);
            let pair = if cluster.is_multiple_of(2) { pair & 0xf000 | next } else { pair & 0xf | next << 4 };
            self.0[at..at + 2].copy_from_slice(&pair.to_le_bytes());
        }
    }

    fn entry(&mut self, at: usize, name: &[u8; 11], attr: u8, cluster: u16, size: u32) {
        self.0[at..at + 11].copy_from_slice(name);
        self.0[at + 11] = attr;
        self.0[at + 26..at + 28].copy_from_slice(&cluster.to_le_bytes());
        self.0[at + 28..at + 32].copy_from_slice(&size.to_le_bytes());
    }

    fn open(&self) -> Fat {
        open(self.0.clone()).unwrap()
    }

    fn poked(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Returns the error for the content of `/A.BIN`.
    fn content_error(&self) -> String {
        let error = self.open().content(FIXED_ROOT as u64).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        error.to_string()
    }

    /// Returns the names in `/DIR`, and the complaints.
    fn dir(&self) -> (Vec<String>, Vec<String>) {
        let mut complaints = Vec::new();
        let entries =
            self.open().read_dir(FIXED_ROOT as u64 + 32, &mut |e| complaints.push(e.to_string())).unwrap();
        (entries.into_iter().map(|e| String::from_utf8_lossy(&e.name).into_owned()).collect(), complaints)
    }
}

#[test]
fn a_root_of_no_entries_lies_nowhere() {
    // Found by fuzzing: its location was an empty piece.
    let fat = Small::new().poked(17, &[0, 0]).open();
    assert_eq!(fat.content(ROOT).unwrap().pieces, []);
    assert_eq!(fat.read_dir(ROOT, &mut |error| panic!("{error}")).unwrap(), []);
}

#[test]
fn the_small_volume_is_whole() {
    let small = Small::new();
    if have(&["fsck.fat"]) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("small");
        std::fs::write(&path, &small.0).unwrap();
        run("fsck.fat", &["-n", path.to_str().unwrap()]);
    }
    let fat = small.open();
    assert_eq!(fat.info().warnings, [""; 0]);
    assert_eq!(fat.info().uuid.as_deref(), Some("1234-5678"));
    assert_eq!(fat.info().label, None);
    assert_eq!(fat.info().free, Some((96 - 5) * 512));
    assert_eq!(tree(&fat).keys().collect::<Vec<_>>(), ["/A.BIN", "/DIR/", "/DIR/B"]);
    let piece = |cluster: u64, len| Piece::Volume { offset: DATA as u64 + (cluster - 2) * 512, len };
    let content = fat.content(FIXED_ROOT as u64).unwrap();
    assert_eq!(content.pieces, [piece(2, 1024), piece(5, 100)]);
    assert_eq!(content.size, 1124);
    assert_eq!(fat.content(FIXED_ROOT as u64 + 32).unwrap().pieces, [piece(4, 512)]);
    assert_eq!(fat.node(FIXED_ROOT as u64 + 32, &mut |_| ()).unwrap().size, 512);
    assert_eq!(fat.node(ROOT, &mut |_| ()).unwrap().size, 512);
}

#[test]
fn each_field_of_the_boot_sector_is_checked() {
    let cases: &[(usize, &[u8], &str)] = &[
        (11, &[0, 0], "BPB_BytsPerSec"),
        (11, &[0, 3], "BPB_BytsPerSec"),
        (11, &[0, 32], "BPB_BytsPerSec"),
        (13, &[0], "BPB_SecPerClus"),
        (13, &[3], "BPB_SecPerClus"),
        (14, &[0, 0], "BPB_RsvdSecCnt"),
        (16, &[0], "BPB_NumFATs"),
        (17, &[15, 0], "BPB_RootEntCnt"),
        (21, &[0xf1], "BPB_Media"),
        (22, &[0, 0], "BPB_FATSz32"),
        (19, &[4, 0], "BPB_TotSec16"),
        (19, &[0, 0], "BPB_TotSec32"),
    ];
    for (at, bytes, field) in cases {
        let small = Small::new().poked(*at, bytes);
        // This FAT12 has other fields at the position of FATSz32.
        let small = if *field == "BPB_FATSz32" { small.poked(36, &[0; 4]) } else { small };
        let error = open(small.0.clone()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{field}");
        assert!(error.to_string().contains(field), "{error}");
        assert!(!is_boot_sector(&small.0), "{field}");
    }
}

#[test]
fn what_is_not_a_fat_is_not_taken_for_one() {
    assert!(is_boot_sector(&Small::new().0));
    assert!(!is_boot_sector(&[]) && !is_boot_sector(&[0; 512]) && !probe(&[0; 512]));
    let small = || Small::new().poked(3, b"        ");
    assert!(is_boot_sector(&small().0));
    assert!(!is_boot_sector(&small().poked(3, b"NTFS    ").0));
    assert!(!is_boot_sector(&small().poked(3, b"EXFAT   ").0));
    assert!(!is_boot_sector(&small().poked(54, b"HPFS    ").0));
    assert!(!is_boot_sector(&small().poked(0, &[0]).poked(510, &[0]).0));
    // The filesystem type is a mark as well, and so is an Atari's jump.
    assert!(is_boot_sector(&small().poked(0, &[0]).poked(510, &[0]).poked(54, b"FAT12   ").0));
    assert!(is_boot_sector(&small().poked(0, &[0x60, 0x1c]).poked(510, &[0]).0));
    // A volume that calls itself FAT but is damaged is opened to get the error.
    let damaged = small().poked(54, b"FAT12   ").poked(11, &[1]);
    assert!(!is_boot_sector(&damaged.0) && probe(&damaged.0));
}

#[test]
fn the_kind_follows_from_the_count_of_clusters() {
    for (clusters, kind) in [(4084u32, Kind::Fat12), (4085, Kind::Fat16), (65_524, Kind::Fat16)] {
        let sectors = 1 + 2 * 256 + 1 + clusters;
        let small = Small::new().poked(19, &[0, 0]).poked(22, &256u16.to_le_bytes());
        let small = small.poked(32, &sectors.to_le_bytes()).poked(54, b"FAT32   ");
        let bpb = Bpb::parse(&small.0).unwrap();
        assert_eq!((bpb.kind, bpb.cluster_count), (kind, clusters));
    }
    let small = Small::new().poked(19, &[0, 0]).poked(22, &256u16.to_le_bytes());
    let error = Bpb::parse(&small.poked(32, &(1 + 512 + 1 + 65_525u32).to_le_bytes()).0).unwrap_err();
    assert!(error.to_string().contains("65525 clusters"), "{error}");
}

#[test]
fn chains_that_break_are_errors_with_their_place() {
    let broken = |cluster, next| {
        let mut small = Small::new();
        small.link(cluster, next);
        small.content_error()
    };
    let place =
        |cluster: usize| format!("FAT entry of cluster {cluster}, at byte {}", FAT + cluster + cluster / 2);
    assert_eq!(broken(3, 98), format!("{}: leads to cluster 98, expected 2 to 97", place(3)));
    assert_eq!(broken(3, 1), format!("{}: leads to cluster 1, expected 2 to 97", place(3)));
    assert_eq!(broken(3, 0), format!("{}: marks a cluster in the middle of a chain as free", place(3)));
    assert_eq!(broken(3, 0xff7), format!("{}: marks a cluster in the middle of a chain as bad", place(3)));
    assert_eq!(broken(3, 2), format!("{}: leads back to cluster 2: the chain is circular", place(3)));
    assert_eq!(broken(2, 2), format!("{}: leads back to cluster 2: the chain is circular", place(2)));
    assert!(broken(3, 0xfff).ends_with("is 1124, which takes 3 clusters, but the chain has 2"));
    // Clusters after the end of the file do not matter.
    let mut small = Small::new();
    small.link(5, 2);
    assert_eq!(small.open().content(FIXED_ROOT as u64).unwrap().size, 1124);
}

#[test]
fn entries_that_name_no_cluster_or_too_large_a_size_are_errors() {
    for cluster in [0u16, 1, 98, 0xffff] {
        let small = Small::new().poked(FIXED_ROOT + 26, &cluster.to_le_bytes());
        let error = small.content_error();
        assert!(
            error.contains(&format!("DIR_FstClusLO, at byte {FIXED_ROOT}: names cluster {cluster}")),
            "{error}"
        );
    }
    let small = Small::new().poked(FIXED_ROOT + 28, &[0xff; 4]);
    assert!(small.content_error().contains("takes 8388608 clusters, but the chain has 96"));
    // FAT32's half of the cluster number has no meaning here.
    assert!(Small::new().poked(FIXED_ROOT + 20, &[1, 1]).open().content(FIXED_ROOT as u64).is_ok());
    // Size 0 is an empty file, whatever cluster it names.
    assert_eq!(
        Small::new().poked(FIXED_ROOT + 28, &[0; 4]).open().content(FIXED_ROOT as u64).unwrap().size,
        0
    );
}

#[test]
fn a_directory_in_circles_is_read_once_and_said() {
    let mut small = Small::new();
    small.link(4, 4);
    // The directory is full, so that its end does not come before the cycle.
    for at in (96..512).step_by(32) {
        small.entry(DATA + 2 * 512 + at, b"C          ", 0x20, 0, 0);
    }
    let (names, complaints) = small.dir();
    assert_eq!(names.len(), 14);
    assert_eq!(complaints.len(), 1);
    assert!(complaints[0].contains("leads back to cluster 4"), "{complaints:?}");
    // A directory without a cluster is not the root.
    let (names, complaints) = Small::new().poked(FIXED_ROOT + 32 + 26, &[0, 0]).dir();
    assert!(names.is_empty() && complaints[0].contains("names cluster 0"), "{complaints:?}");
}

#[test]
fn names_that_no_path_can_hold_are_left_out_and_said() {
    let at = DATA + 2 * 512 + 64;
    let (names, complaints) = Small::new().poked(at, b"A/B").dir();
    assert!(names.is_empty() && complaints[0].contains("contains a slash"), "{complaints:?}");
    let mut small = Small::new();
    small.entry(at + 32, b"B          ", 0x20, 6, 10);
    let mut long = [0u8; 32];
    (long[0], long[11], long[13]) = (0x41, 0x0f, name::checksum(b"B          "));
    long[1] = b'/';
    let (names, complaints) = small.poked(at, &long).dir();
    assert_eq!(names, ["B"]);
    assert!(complaints[0].contains("using the short name"), "{complaints:?}");
}

#[test]
fn the_label_is_the_first_entry_that_is_nothing_else() {
    let mut small = Small::new();
    // An entry of a long name with a stray bit, and a directory with the label bit, are skipped.
    for (i, (name, attr)) in
        [(b"LONG       ", 0x4f), (b"FOLDER     ", 0x18), (b"NAME       ", 0x28), (b"SECOND     ", 0x08)]
            .into_iter()
            .enumerate()
    {
        small.entry(FIXED_ROOT + 64 + 32 * i, name, attr, 0, 0);
    }
    let fat = small.open();
    assert_eq!(fat.info().label.as_deref(), Some("NAME"));
    assert_eq!(tree(&fat).keys().collect::<Vec<_>>(), ["/A.BIN", "/DIR/", "/DIR/B"]);
}

#[test]
fn entries_behind_the_end_and_deleted_ones_are_not_shown() {
    let at = DATA + 2 * 512 + 64;
    assert!(Small::new().poked(at, &[0xe5]).dir().0.is_empty());
    assert!(Small::new().poked(at - 64, &[0]).dir().0.is_empty());
}

#[test]
fn copies_of_the_fat_that_differ_are_said_and_the_first_serves() {
    let small = Small::new().poked(FAT_COPY + 3, &[0; 6]);
    let fat = small.open();
    assert_eq!(fat.info().warnings, ["The FATs differ: FAT 1 at byte 3 of 512; using FAT 0."]);
    assert!(fat.content(FIXED_ROOT as u64).is_ok());
}

#[test]
fn copies_of_the_fat_are_compared_up_to_the_limit() {
    let fat = Small::new().poked(FAT_COPY + 8, &[0xab]).open();
    assert_eq!(fat.compare_copies(8).unwrap(), None);
    assert!(fat.compare_copies(9).unwrap().unwrap().contains("at byte 8"));
}

#[test]
fn the_active_fat_of_a_fat32_serves() {
    if !have(MKFS) {
        return;
    }
    let image = lived_in(66_000, &["-F", "32", "-s", "1"]);
    let mut bytes = image.bytes();
    let bpb = Bpb::parse(&bytes).unwrap();
    // The first FAT is lost, and the flags say that the second is active.
    let start = bpb.fat_start as usize;
    bytes[start..start + bpb.fat_len as usize].fill(0);
    bytes[40] = 0x81;
    let fat = open(bytes.clone()).unwrap();
    assert_eq!(fat.info().warnings, [""; 0]);
    let path = "/A directory with a long name/in many pieces";
    assert_eq!(read(&fat, tree(&fat)[path]), noise(99, 300_000));
    bytes[40] = 0x85;
    let warnings = &open(bytes).unwrap().info.warnings;
    assert_eq!(*warnings, ["The boot sector calls FAT 5 active, but there are 2; using the first one."]);
}

#[test]
fn a_fat32_whose_root_begins_at_another_cluster_is_read_from_there() {
    if !have(MKFS) {
        return;
    }
    let image = lived_in(66_000, &["-F", "32", "-s", "1"]);
    let mut bytes = image.bytes();
    let bpb = Bpb::parse(&bytes).unwrap();
    // The root's first cluster, 2, moves to one near the end of the volume; the rest of its chain stays.
    let to = bpb.cluster_count - 7;
    let cluster = |n: u32| (bpb.data_start + u64::from(n - 2) * u64::from(bpb.cluster_size)) as usize;
    bytes.copy_within(cluster(2)..cluster(3), cluster(to));
    bytes[cluster(2)..cluster(3)].fill(0xee);
    for copy in 0..2 {
        let fat = (bpb.fat_start + copy * bpb.fat_len) as usize;
        let next = bytes[fat + 8..fat + 12].to_vec();
        bytes[fat + 4 * to as usize..][..4].copy_from_slice(&next);
        bytes[fat + 8..fat + 12].fill(0);
    }
    // BPB_RootClus, also in the copy of the boot sector.
    for boot in [0, 6 * 512] {
        bytes[boot + 44..boot + 48].copy_from_slice(&to.to_le_bytes());
    }
    std::fs::write(&image.path, bytes).unwrap();
    run("fsck.fat", &["-n", &image.path]);
    let fat = image.open();
    assert_eq!(fat.info().warnings, [""; 0]);
    assert_same_tree(&image, &fat);
}

#[test]
fn a_volume_cut_short_is_said_and_what_is_lost_is_an_error() {
    let mut small = Small::new();
    small.0.truncate(DATA + 512);
    let fat = small.open();
    assert!(fat.info().warnings[0].contains("the volume only 2560"), "{:?}", fat.info().warnings);
    let error = fat.content(FIXED_ROOT as u64).unwrap_err();
    assert!(error.to_string().contains("past the end of the volume at 2560"), "{error}");
    small.0.truncate(DATA - 1);
    assert!(open(small.0).is_err());
}

#[test]
fn handles_that_are_no_entries_are_not_found() {
    let fat = Small::new().open();
    for id in
        [1, 32, 512, FIXED_ROOT as u64 + 16, FIXED_ROOT as u64 + 64, DATA as u64 + 2 * 512, 1 << 40, u64::MAX]
    {
        assert!(fat.node(id, &mut |_| ()).is_err(), "{id}");
        assert!(fat.content(id).is_err(), "{id}");
    }
    assert_eq!(fat.read_dir(FIXED_ROOT as u64, &mut |_| ()).unwrap_err().kind(), ErrorKind::NotFound);
}

/// Returns a FAT32 of 126 clusters: the root in cluster 10, a directory of two clusters, a long name, and a fragmented
/// file.
fn small_fat32() -> Vec<u8> {
    let mut b = vec![0; 512 * 132];
    b[..3].copy_from_slice(&[0xeb, 0x58, 0x90]);
    b[11..17].copy_from_slice(&[0, 2, 1, 2, 0, 2]);
    b[21] = 0xf8;
    b[32..36].copy_from_slice(&132u32.to_le_bytes());
    b[36..40].copy_from_slice(&1u32.to_le_bytes());
    b[44..48].copy_from_slice(&10u32.to_le_bytes());
    b[48..50].copy_from_slice(&1u16.to_le_bytes());
    b[66] = 0x29;
    b[510..512].copy_from_slice(&[0x55, 0xaa]);
    b[512..516].copy_from_slice(b"RRaA");
    b[996..1000].copy_from_slice(b"rrAa");
    b[1000..1004].copy_from_slice(&100u32.to_le_bytes());
    b[1022..1024].copy_from_slice(&[0x55, 0xaa]);
    let end = 0x0fff_ffffu32;
    let links = [
        (0, 0x0fff_fff8),
        (1, end),
        (10, end),
        (20, 30),
        (30, end),
        (40, 42),
        (42, 41),
        (41, end),
        (50, end),
    ];
    for (cluster, next) in links {
        for fat in [1024, 1536] {
            b[fat + cluster * 4..][..4].copy_from_slice(&next.to_le_bytes());
        }
    }
    let mut small = Small(b);
    let cluster = |n: usize| 2048 + (n - 2) * 512;
    let mut long = [0u8; 32];
    (long[0], long[11], long[13]) = (0x41, 0x0f, name::checksum(b"LONG~1     "));
    for (i, c) in "long name".encode_utf16().chain([0]).enumerate() {
        let at = if i < 5 { 1 + 2 * i } else { 14 + 2 * (i - 5) };
        long[at..at + 2].copy_from_slice(&c.to_le_bytes());
    }
    small.entry(cluster(10), b"A LABEL    ", 0x08, 0, 0);
    small.entry(cluster(10) + 32, b"DIR        ", 0x10, 20, 0);
    small = small.poked(cluster(10) + 64, &long);
    small.entry(cluster(10) + 96, b"LONG~1     ", 0x20, 40, 1500);
    small.entry(cluster(20), b".          ", 0x10, 20, 0);
    small.entry(cluster(20) + 32, b"..         ", 0x10, 0, 0);
    for i in 2..20u8 {
        let at = if i < 16 { cluster(20) + 32 * i as usize } else { cluster(30) + 32 * (i as usize - 16) };
        small.entry(at, &[b'F', b'0' + i, b' ', b' ', b' ', b' ', b' ', b' ', b' ', b' ', b' '], 0x20, 50, 5);
    }
    small.0
}

#[test]
fn the_small_fat32_is_whole() {
    let fat = open(small_fat32()).unwrap();
    assert_eq!(fat.info().warnings, [""; 0]);
    assert_eq!((fat.info().kind.as_str(), fat.info().label.as_deref()), ("fat32", Some("A LABEL")));
    assert_eq!(fat.info().free, Some(100 * 512));
    let tree = tree(&fat);
    assert_eq!(tree.len(), 2 + 18);
    assert_eq!(fat.content(tree["/long name"]).unwrap().pieces.len(), 3);
}

/// Tens of thousands of damaged volumes cause no panic, no endless loop, and no content outside the volume.
#[test]
#[ignore = "is run by mutants_are_read_in_little_memory"]
fn mutants_of_volumes_stay_within_the_volume() {
    let bases = [
        (
            Small::new().0,
            vec![11..62, FAT..FAT + 160, FAT_COPY..FAT_COPY + 16, FIXED_ROOT..FIXED_ROOT + 64, 3072..3168],
        ),
        (small_fat32(), vec![11..90, 512..1024, 1024..1300, 6144..6272, 11_264..11_776, 16_384..16_512]),
    ];
    let mut opened = 0;
    for seed in 0..30_000 {
        let mut dice = crate::testing::Dice::new(seed);
        let (base, hot) = &bases[seed as usize % 2];
        let mut volume = base.clone();
        dice.mutate(&mut volume, hot);
        if dice.roll(20) == 0 {
            volume.truncate(dice.roll(base.len()));
        }
        let len = volume.len() as u64;
        let Ok(fat) = open(volume) else { continue };
        opened += 1;
        let mut seen = std::collections::HashSet::from([ROOT]);
        let mut dirs = vec![ROOT];
        while let Some(dir) = dirs.pop() {
            let content = fat.content(dir).unwrap();
            assert!(content.size <= len);
            let Ok(entries) = fat.read_dir(dir, &mut |_| ()) else { continue };
            for entry in entries {
                assert!(utf16::is_valid(&entry.name), "seed {seed}");
                let node = fat.node(entry.node, &mut |_| ()).unwrap();
                if node.file_type == FileType::Dir && seen.insert(entry.node) {
                    dirs.push(entry.node);
                }
                let Ok(content) = fat.content(entry.node) else { continue };
                assert_eq!(content.size, content.pieces.iter().map(Piece::len).sum::<u64>());
                assert!(content.size <= len, "seed {seed}");
                for piece in content.pieces {
                    let Piece::Volume { offset, len: piece_len } = piece else { panic!("{piece:?}") };
                    assert!(piece_len > 0 && offset + piece_len <= len, "seed {seed}");
                }
            }
        }
    }
    assert!(opened > 15_000, "{opened}");
}

/// Returns a FAT32 with `clusters` clusters of 512 bytes and one FAT, truncated after the root directory's first
/// cluster, 2. `link` fills the FAT.
fn large_fat32(clusters: u32, link: impl Fn(u32) -> u32) -> Vec<u8> {
    let fat_sectors = (clusters + 2).div_ceil(128);
    let mut b = small_fat32();
    b.truncate(1024);
    b[16] = 1;
    b[32..36].copy_from_slice(&(2 + fat_sectors + clusters).to_le_bytes());
    b[36..40].copy_from_slice(&fat_sectors.to_le_bytes());
    b[44..48].copy_from_slice(&2u32.to_le_bytes());
    b.extend((0..fat_sectors * 128).flat_map(|cluster| link(cluster).to_le_bytes()));
    b.extend([0; 512]);
    b
}

#[test]
fn a_chain_in_more_pieces_than_the_limit_is_refused() {
    // Every second cluster, from 3 on.
    let mut volume =
        Small(large_fat32(3 << 20, |cluster| if cluster == 2 { 0x0fff_ffff } else { cluster + 2 }));
    let at = volume.0.len() - 512;
    volume.entry(at, b"A          ", 0x20, 3, 512 * ((1 << 20) + 10));
    let error = volume.open().content(at as u64).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    assert!(error.to_string().contains("over 1048576 fragments"), "{error}");
}

#[test]
fn a_directory_is_read_up_to_its_limit_and_the_rest_said() {
    let mut volume = large_fat32(6000, |cluster| cluster + 1);
    // Deleted entries, and one file just past the limit of 4096 clusters.
    volume.resize(volume.len() + 5000 * 512, 0xe5);
    let data = volume.len() - 5001 * 512;
    let mut volume = Small(volume);
    volume.0[data..data + 512].fill(0xe5);
    volume.entry(data + 4095 * 512, b"LAST       ", 0x20, 0, 0);
    volume.entry(data + 4096 * 512, b"BEHIND     ", 0x20, 0, 0);
    let mut complaints = Vec::new();
    let entries = volume.open().read_dir(ROOT, &mut |e| complaints.push(e)).unwrap();
    assert_eq!(entries.iter().map(|e| e.name.as_slice()).collect::<Vec<_>>(), [b"LAST"]);
    assert_eq!(complaints.len(), 1);
    assert_eq!(complaints[0].kind(), ErrorKind::Limit, "{}", complaints[0]);
}

#[test]
fn short_names_of_every_byte_read_as_mtools_reads_them_in_code_page_437() {
    if !have(&["mdir"]) {
        return;
    }
    // `N` and seven bytes of the upper half, in each entry.
    let mut small = Small::new();
    let bytes: Vec<u8> = (0x80..=0xff).collect();
    for (i, seven) in bytes.chunks(10).enumerate() {
        let mut name = *b"N          ";
        name[1..1 + seven.len()].copy_from_slice(seven);
        small.entry(FIXED_ROOT + 64 + 32 * i, &name, 0x20, 0, 0);
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, config) = (dir.path().join("image"), dir.path().join("mtoolsrc"));
    std::fs::write(&image, &small.0).unwrap();
    std::fs::write(&config, "default_codepage=437\n").unwrap();
    let output = std::process::Command::new("mdir")
        .args(["-b", "-a", "-i", image.to_str().unwrap(), "::"])
        .env("MTOOLSRC", &config)
        .env("MTOOLS_SKIP_CHECK", "1")
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let theirs = String::from_utf8(output.stdout).unwrap();
    let mut theirs: Vec<_> = theirs.lines().filter_map(|l| l.strip_prefix("::/N")).collect();
    let entries = small.open().read_dir(ROOT, &mut |e| panic!("{e}")).unwrap();
    let ours: Vec<_> = entries.iter().map(|e| std::str::from_utf8(&e.name).unwrap()).collect();
    let mut ours: Vec<_> = ours.iter().filter_map(|n| n.strip_prefix('N')).collect();
    ours.sort_unstable();
    theirs.sort_unstable();
    assert_eq!(ours, theirs);
    assert_eq!(ours.len(), 13);
}

#[test]
fn directories_that_share_clusters_are_read_once() {
    // `/DIR/B` and `/DIR2` are directories in `/DIR`'s own cluster.
    let mut small = Small::new();
    small.entry(DATA + 2 * 512 + 64, b"B          ", 0x10, 4, 0);
    small.entry(FIXED_ROOT + 64, b"DIR2       ", 0x10, 4, 0);
    let fat = small.open();
    let (dir, dir2, inner) = (FIXED_ROOT as u64 + 32, FIXED_ROOT as u64 + 64, DATA as u64 + 2 * 512 + 64);
    let names = |id| fat.read_dir(id, &mut |e| panic!("{e}")).map(|entries| entries.len());
    assert_eq!(names(dir).unwrap(), 1);
    for other in [dir2, inner] {
        let error = names(other).unwrap_err().to_string();
        let shared = format!(
            "shares the cluster at byte {} with the directory whose entry is at byte {dir}",
            DATA + 1024
        );
        assert!(error.ends_with(&shared), "{error}");
    }
    assert_eq!(names(dir).unwrap(), 1, "again");

    // A FAT32's root owns its cluster from the start.
    let mut volume = Small(small_fat32());
    volume.entry(2048 + 8 * 512 + 32, b"DIR        ", 0x10, 10, 0);
    let fat = volume.open();
    let error = fat.read_dir(2048 + 8 * 512 + 32, &mut |_| ()).unwrap_err().to_string();
    assert!(error.ends_with("with the directory whose entry is at byte 0"), "{error}");
}
