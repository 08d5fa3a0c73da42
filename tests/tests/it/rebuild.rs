//! Rebuilding an image: edited volumes are planned again and clean, everything else stays bit for bit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use mif::store::{ImageName, ObjectWriter, Store, StoredImage};
use mif::{ImportOptions, OpenImage, RebuildOptions, RebuildReport, Silent, VolumePath, import, rebuild};
use mif_formats::Source;
use mif_formats::fs::{FileType, Node};
use mif_formats::mif::manifest::{Body, Row};
use mif_formats::source::is_zero;
use mif_tests::have;
use sha1::{Digest, Sha1};

const TOOLS: [&str; 7] = ["sfdisk", "mke2fs", "e2fsck", "mkfs.fat", "fsck.fat", "mcopy", "mmd"];
const EXT: (u64, u64) = (1 << 20, 96 << 20);
const FAT: (u64, u64) = (97 << 20, 32 << 20);

fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Returns `len` bytes, of which only the range `zeros` is zero.
fn pattern(len: usize, zeros: std::ops::Range<usize>) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8 | 1).collect();
    bytes[zeros].fill(0);
    bytes
}

struct Lab {
    folder: tempfile::TempDir,
    store: Store,
}

impl Lab {
    /// Makes a disk with an ext4 and a FAT partition, and a store that contains it.
    fn new() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let at = |name: &str| folder.path().join(name);
        let tree = at("tree");
        fs::create_dir_all(tree.join("etc/deep")).unwrap();
        fs::write(tree.join("etc/hostname"), "old\n").unwrap();
        fs::write(tree.join("large"), pattern(9 << 20, 3 << 20..5 << 20)).unwrap();
        fs::write(tree.join("with zeros"), pattern(300_000, 8192..100_000)).unwrap();
        fs::hard_link(tree.join("large"), tree.join("etc/large again")).unwrap();
        std::os::unix::fs::symlink("hostname", tree.join("etc/link")).unwrap();
        for i in 0..2000 {
            fs::write(tree.join(format!("etc/deep/file {i}")), format!("{i}")).unwrap();
        }
        let disk = at("disk");
        fs::File::create(&disk).unwrap().set_len(130 << 20).unwrap();
        let sfdisk = format!(
            "label: dos\nstart={},size={},type=83\nstart={},size={},type=6\n",
            EXT.0 / 512,
            EXT.1 / 512,
            FAT.0 / 512,
            FAT.1 / 512
        );
        fs::write(at("table"), sfdisk).unwrap();
        let text = disk.to_str().unwrap();
        run("sh", &["-c", &format!("sfdisk -q {text} < {}", at("table").display())]);
        let (offset, blocks) = (format!("offset={}", EXT.0), format!("{}k", EXT.1 / 1024));
        run(
            "mke2fs",
            &[
                "-q",
                "-F",
                "-t",
                "ext4",
                "-L",
                "root",
                "-E",
                &offset,
                "-d",
                tree.to_str().unwrap(),
                text,
                &blocks,
            ],
        );
        let (sectors, kib) = ((FAT.0 / 512).to_string(), (FAT.1 / 1024).to_string());
        run("mkfs.fat", &["-F", "16", "-n", "ESP", "--offset", &sectors, text, &kib]);
        let image = format!("{text}@@{}", FAT.0);
        run("mmd", &["-i", &image, "::/EFI"]);
        run("mcopy", &["-i", &image, tree.join("with zeros").to_str().unwrap(), "::/EFI/a long name.efi"]);
        let store = Store::open_or_create(&at("store"), &mif::Silent).unwrap();
        let options = ImportOptions { name: Some("disk".into()), ..ImportOptions::default() };
        import(&store, &disk, &options, &Silent).unwrap();
        Lab { folder, store }
    }

    fn image(&self, name: &str) -> StoredImage {
        let name: ImageName = name.parse().unwrap();
        Store::open(&self.folder.path().join("store"), &mif::Silent).unwrap().image(&name).unwrap()
    }

    fn rebuild(&self, rows: &[Row], name: &str, always: &[&str]) -> mif::Result<RebuildReport> {
        let store = Store::open(&self.folder.path().join("store"), &mif::Silent).unwrap();
        let options = RebuildOptions {
            name: name.into(),
            operation: "rebuild".into(),
            always: always.iter().map(|v| (*v).to_owned()).collect(),
            ..RebuildOptions::default()
        };
        rebuild(&store, &self.image("disk"), rows, &options, &Silent)
    }

    /// Writes the disk of an image to a file.
    fn write(&self, name: &str) -> PathBuf {
        let objects = Arc::new(
            Store::open(&self.folder.path().join("store"), &mif::Silent).unwrap().objects().unwrap(),
        );
        let disk = self.image(name).disk(objects).unwrap();
        let path = self.folder.path().join(name);
        fs::write(&path, disk.read_vec(0, disk.len() as usize).unwrap()).unwrap();
        path
    }

    /// Copies a part of a disk to a file.
    fn cut(&self, disk: &Path, (start, len): (u64, u64)) -> PathBuf {
        let path = disk.with_extension("part");
        let bytes = fs::read(disk).unwrap();
        fs::write(&path, &bytes[start as usize..(start + len) as usize]).unwrap();
        path
    }

    fn assert_clean(&self, disk: &Path) {
        run("e2fsck", &["-fn", self.cut(disk, EXT).to_str().unwrap()]);
        run("fsck.fat", &["-n", self.cut(disk, FAT).to_str().unwrap()]);
    }

    /// Returns the content of a file in an image.
    fn read(&self, name: &str, path: &str) -> Vec<u8> {
        let store = Store::open(&self.folder.path().join("store"), &mif::Silent).unwrap();
        let image = OpenImage::stored(&store, &name.parse().unwrap()).unwrap();
        let tree = image.tree().unwrap();
        let row = tree.find(&VolumePath::parse(path.as_bytes()), false).unwrap();
        let source = tree.content(row).unwrap();
        source.read_vec(0, source.len() as usize).unwrap()
    }
}

/// Returns a copy of a row at another path.
fn like(row: &Row, path: &str) -> Row {
    let node = Node { inode: None, ..row.node.clone() };
    Row { path: path.as_bytes().to_vec(), file: None, node, ..row.clone() }
}

#[test]
fn a_volume_planned_again_is_clean_and_holds_the_same_files() {
    if !have(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let rows = lab.image("disk").manifest().unwrap();
    let report = lab.rebuild(&rows, "again", &["p1", "p2"]).unwrap();
    assert_eq!(report.planned, ["p1", "p2"]);
    let disk = lab.write("again");
    lab.assert_clean(&disk);
    let new = lab.image("again").manifest().unwrap();
    // Ignores what planning sets: the size of directories, their index flag, FAT's root.
    let plain = |rows: &[Row]| -> Vec<Row> {
        let set = |row: &Row| {
            let size = if row.node.file_type == FileType::Dir { 0 } else { row.node.size };
            let node = Node { size, flags: row.node.flags & !0x1000, ..row.node.clone() };
            Row { node, ..row.clone() }
        };
        rows.iter().map(set).collect()
    };
    assert_eq!(plain(&new), plain(&rows));
    for path in ["p1:/etc/hostname", "p1:/large", "p1:/with zeros", "p2:/EFI/a long name.efi"] {
        assert!(lab.read("again", path) == lab.read("disk", path), "{path}");
    }
    // The layout is canonical: importing the disk finds this image.
    let options = ImportOptions { name: Some("imported".into()), ..ImportOptions::default() };
    let store = Store::open(&lab.folder.path().join("store"), &mif::Silent).unwrap();
    let imported = import(&store, &disk, &options, &Silent).unwrap();
    let differs = || {
        let (a, b) = (lab.image("again").layout().unwrap(), lab.image("imported").layout().unwrap());
        let first = a.segments().zip(b.segments()).find(|(a, b)| a != b);
        format!("{first:?} of {} and {} segments", a.segments().count(), b.segments().count())
    };
    assert_eq!(imported.same_as, ["again@1"], "{}", differs());
    assert!(report.added.stored_bytes < 200_000, "{:?}", report.added);
}

#[test]
fn an_edited_volume_is_planned_and_the_rest_of_the_disk_stays() {
    if !have(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let mut rows = lab.image("disk").manifest().unwrap();
    let writer = ObjectWriter::new(&lab.store).unwrap();
    let text = b"a new hostname, longer than before\n";
    let id = writer.put(text).unwrap();
    writer.finish().unwrap();
    let hostname = rows.iter().position(|row| row.path == b"/etc/hostname").unwrap();
    rows[hostname].body = Some(Body::Digested { sha1: Sha1::digest(text).into(), blake3: id.digest });
    rows[hostname].node.size = text.len() as u64;
    let copy = like(&rows[hostname], "/etc/copy");
    rows.push(copy);
    rows.retain(|row| !row.path.starts_with(b"/etc/deep/file 1"));
    let report = lab.rebuild(&rows, "edited", &[]).unwrap();
    assert_eq!(report.planned, ["p1"]);
    let (disk, original) = (lab.write("edited"), lab.write("disk"));
    lab.assert_clean(&disk);
    assert_eq!(lab.read("edited", "p1:/etc/hostname"), text);
    assert_eq!(lab.read("edited", "p1:/etc/copy"), text);
    let (new, old) = (fs::read(&disk).unwrap(), fs::read(&original).unwrap());
    assert!(new[..EXT.0 as usize] == old[..EXT.0 as usize], "the table");
    assert!(new[FAT.0 as usize..] == old[FAT.0 as usize..], "the other partition");
    let manifest = lab.image("edited").manifest().unwrap();
    assert!(!manifest.iter().any(|row| row.path == b"/etc/deep/file 17"));
    assert!(manifest.iter().any(|row| row.path == b"/etc/deep/file 2"));
    let removed = rows.len();
    assert_eq!(manifest.len(), removed);
    assert!(!is_zero(&new));
}

#[test]
fn a_rebuild_that_cannot_be_leaves_no_image() {
    if !have(&TOOLS) {
        return;
    }
    let lab = Lab::new();
    let rows = lab.image("disk").manifest().unwrap();
    let mut bad = rows.clone();
    let file = rows.iter().find(|row| row.path == b"/large").unwrap();
    bad.extend((0..20).map(|i| like(file, &format!("/copy {i}"))));
    let error = lab.rebuild(&bad, "bad", &[]).unwrap_err().to_string();
    assert!(error.contains("p1: ext plan: no room: the tree needs"), "{error}");
    let mut bad = rows.clone();
    bad.push(Row { volume: "p2".into(), ..like(file, "/EFI/a:b") });
    let error = lab.rebuild(&bad, "bad", &[]).unwrap_err().to_string();
    assert!(error.contains("the name contains ':'"), "{error}");
    let mut bad = rows.clone();
    bad.push(Row { body: None, ..like(file, "/lost") });
    let error = lab.rebuild(&bad, "bad", &[]).unwrap_err().to_string();
    assert!(error.contains("/lost: the content is not in the store"), "{error}");
    assert!(lab.store.versions("bad").unwrap().is_empty());
}

/// Prints the duration on the disk in `MIF_TESTS_DISK`.
#[test]
#[ignore = "needs a disk: MIF_TESTS_DISK"]
fn a_real_disk_is_rebuilt_clean() {
    let Some(path) = std::env::var_os("MIF_TESTS_DISK").map(PathBuf::from) else { return };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = Store::open_or_create(&folder.path().join("store"), &mif::Silent).unwrap();
    let options = ImportOptions { name: Some("disk".into()), ..ImportOptions::default() };
    let imported = import(&store, &path, &options, &Silent).unwrap();
    let store = Store::open(&folder.path().join("store"), &mif::Silent).unwrap();
    let stored = store.image(&"disk".parse().unwrap()).unwrap();
    let rows = stored.manifest().unwrap();
    let mut volumes: Vec<String> = rows.iter().map(|row| row.volume.clone()).collect();
    volumes.dedup();
    let options = RebuildOptions {
        name: "again".into(),
        operation: "rebuild".into(),
        always: volumes.clone(),
        ..RebuildOptions::default()
    };
    let report = rebuild(&store, &stored, &rows, &options, &Silent).unwrap();
    eprintln!("import {:.3} s, {:?}", imported.seconds, imported.added);
    eprintln!("rebuild of {} rows: {report:?}", rows.len());
    let store = Store::open(&folder.path().join("store"), &mif::Silent).unwrap();
    let again = store.image(&"again".parse().unwrap()).unwrap();
    let disk = again.disk(Arc::new(store.objects().unwrap())).unwrap();
    for name in volumes {
        let partition = again.image.partition(&name).unwrap();
        let part = folder.path().join(&name);
        let file = fs::File::create(&part).unwrap();
        file.set_len(partition.len).unwrap();
        let mut at = 0;
        while at < partition.len {
            let len = (partition.len - at).min(1 << 20);
            let bytes = disk.read_vec(partition.start + at, len as usize).unwrap();
            if !is_zero(&bytes) {
                std::os::unix::fs::FileExt::write_all_at(&file, &bytes, at).unwrap();
            }
            at += len;
        }
        let is_fat = bytes_at(&part, 0, 3)[0] == 0xEB;
        let check = Command::new(if is_fat { "fsck.fat" } else { "e2fsck" })
            .arg(if is_fat { "-n" } else { "-fn" })
            .arg(&part)
            .output()
            .unwrap();
        eprintln!("{name}: {}", String::from_utf8_lossy(&check.stdout));
        assert!(check.status.success());
    }
    let new = again.manifest().unwrap();
    assert_eq!(new.len(), rows.len());
    for (new, old) in new.iter().zip(&rows) {
        let size = if old.node.file_type == FileType::Dir { new.node.size } else { old.node.size };
        let node = Node { size, flags: new.node.flags, ..old.node.clone() };
        let expected = Row { node, ..old.clone() };
        assert_eq!(*new, expected);
    }
}

fn bytes_at(path: &Path, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    std::os::unix::fs::FileExt::read_exact_at(&fs::File::open(path).unwrap(), &mut bytes, at).unwrap();
    bytes
}
