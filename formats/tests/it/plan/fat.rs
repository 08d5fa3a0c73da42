//! FAT volumes, new ones and mkfs.fat's, compared with fsck.fat, mtools and our reader.

use std::path::Path;
use std::sync::Arc;

use mif_formats::fs::fat::Fat;
use mif_formats::fs::fat::plan::{Params, Plan, minimum_size};
use mif_formats::fs::plan::{Planned, Tree, TreeNode};
use mif_formats::fs::{FileType, Node, Timestamp};

use super::trees::{Random, file, folder, node, sparse, symlink, xattr};
use super::volume::{Image, assert_read_back, content, write};
use crate::tools::{have, run, scratch, try_run};

/// Checks that fsck.fat finds nothing to report.
fn assert_clean(what: &str, path: &Path) {
    let output = try_run("fsck.fat", &["-n".as_ref(), path.as_os_str()]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.code() == Some(0) && text.lines().count() == 2,
        "{what}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Returns what reading a planned node back must give.
fn as_planned(number: usize, node: &Node, read: &Node) -> Node {
    let cut =
        |time: Option<Timestamp>, step: i64| time.map(|t| Timestamp { secs: t.secs / step * step, nanos: 0 });
    let is_dir = node.file_type == FileType::Dir;
    let root = number == 0;
    Node {
        mode: None,
        uid: None,
        gid: None,
        nlink: None,
        inode: None,
        generation: None,
        size: if is_dir { read.size } else { node.size },
        mtime: if root { None } else { cut(node.mtime, 2) },
        atime: if root { None } else { cut(node.atime, 86_400) },
        ctime: None,
        crtime: if root {
            None
        } else {
            node.crtime.map(|t| Timestamp { nanos: t.nanos / 10_000_000 * 10_000_000, ..t })
        },
        flags: if root { 0 } else { node.flags | if is_dir { 0x10 } else { 0 } },
        ..node.clone()
    }
}

fn assert_sound(what: &str, tree: &Tree, params: &Params, path: &Path) {
    let plan = Plan::new(tree, params.clone()).unwrap_or_else(|e| panic!("{what}: {e}"));
    write(&plan, path);
    assert_clean(what, path);
    let image = Arc::new(Image::open(path));
    let fs = Fat::open(image.clone()).unwrap();
    assert_read_back(what, tree, &fs, &*image, &as_planned);
}

pub(crate) fn params(kind: &str, size: u64) -> Params {
    let mut params = Params::new(kind, size).unwrap();
    params.volume_id = 0x1234_ABCD;
    params.label = Some(*b"ELEVEN CHAR");
    params.label_written = Some(Timestamp { secs: 1_600_000_000, nanos: 0 });
    params
}

/// One of everything that FAT can hold.
pub(crate) fn everything() -> Tree {
    let mut tree = Tree::new(node(FileType::Dir));
    for (i, (name, flags)) in [
        ("PLAIN.TXT", 0x20),
        ("lower.txt", 0x1820),
        ("Mixed.Case", 0x20),
        ("read only", 1),
        ("HIDDEN", 2),
        ("SYSTEM", 4),
        ("É", 0x20),
        ("日本語.テキスト", 0),
        (".profile", 0),
        ("two.dots.txt", 0),
        ("+,;=[] are long", 0),
        ("thirteen char", 0),
        ("fourteen chars", 0),
        (&"n".repeat(255), 0),
        ("😀", 0),
    ]
    .into_iter()
    .enumerate()
    {
        let mut new = file(10 + i as u64, i as u64 * 700);
        new.meta.flags = flags;
        tree.add(format!("/{name}").as_bytes(), None, new).unwrap();
    }
    tree.add(b"/a long name of old", Some(*b"OLDNAM~7   "), file(50, 5)).unwrap();
    tree.add(b"/a long name of older", Some(*b"OLDNAM~7   "), file(51, 5)).unwrap();
    tree.add(b"/sparse", None, sparse(52, 100_000, vec![5_000..5_010, 70_000..90_000])).unwrap();
    tree.add(b"/zero", None, file(53, 0)).unwrap();
    let mut path = b"/EFI".to_vec();
    for _ in 0..8 {
        tree.add(&path, None, folder()).unwrap();
        path.extend(b"/BOOT");
    }
    tree.add(b"/many", None, folder()).unwrap();
    for i in 0..1000 {
        tree.add(format!("/many/file with a long name {i}").as_bytes(), None, file(1000 + i, i % 3)).unwrap();
    }
    tree.finish().unwrap();
    tree
}

fn kinds() -> [(&'static str, u64); 8] {
    [
        ("fat12", 4 << 20),
        ("fat12", 30 << 20),
        ("fat16", 8 << 20),
        ("fat16", 100 << 20),
        ("fat16", 2 << 30),
        ("fat32", 40 << 20),
        ("fat32", 300 << 20),
        ("fat32", 64 << 30),
    ]
}

#[test]
fn volumes_of_every_kind_are_clean_and_read_back() {
    if !have(&["fsck.fat"]) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let tree = everything();
    for (kind, size) in kinds() {
        assert_sound(&format!("{kind} {size}"), &tree, &params(kind, size), &image);
    }
}

#[test]
fn mtools_reads_the_same_bytes() {
    if !have(&["mtype", "mdir"]) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let tree = everything();
    for (kind, size) in kinds() {
        let plan = Plan::new(&tree, params(kind, size)).unwrap();
        write(&plan, &image);
        for (name, key, len) in [("Mixed.Case", 12, 1400), ("many/file with a long name 5", 1005, 2)] {
            let out = run("mtype", &["-i".as_ref(), image.as_os_str(), format!("::/{name}").as_ref()]).stdout;
            assert!(out == content(key, 0, len), "{kind}: {name}");
        }
        let listed =
            run("mdir", &["-b".as_ref(), "-i".as_ref(), image.as_os_str(), "::/many".as_ref()]).stdout;
        assert_eq!(String::from_utf8_lossy(&listed).lines().count(), 1000, "{kind}");
    }
}

#[test]
fn a_plan_takes_what_mkfs_made_and_keeps_its_reserved_sectors() {
    if !have(&["mkfs.fat", "fsck.fat"]) {
        return;
    }
    let scratch = scratch();
    let (original, image) = (scratch.path().join("original"), scratch.path().join("image"));
    let mut tree = Tree::new(node(FileType::Dir));
    tree.finish().unwrap();
    for options in [
        "-F 12 -C 1440",
        "-F 16 -n LABEL -C 65536",
        "-F 32 -n EFI -i 11223344 -C 131072",
        "-F 32 -s 8 -R 64 -b 12 -S 1024 -C 200000",
        "-F 16 -f 1 -r 128 -S 2048 -C 65536",
        "-F 32 -C 34000",
    ] {
        let _ = std::fs::remove_file(&original);
        let mut args: Vec<&std::ffi::OsStr> = options.split(' ').map(std::ffi::OsStr::new).collect();
        args.insert(args.len() - 1, original.as_os_str());
        let (size, rest) = (args.pop().unwrap(), args);
        let args: Vec<&std::ffi::OsStr> = rest.into_iter().chain([size]).collect();
        run("mkfs.fat", &args);
        let source = Arc::new(Image::open(&original));
        let params = Params::from_volume(source).unwrap();
        let reserved = params.reserved.clone();
        let plan = Plan::new(&tree, params.clone()).unwrap();
        write(&plan, &image);
        assert_clean(options, &image);
        let whole = std::fs::read(&original).unwrap();
        let planned = std::fs::read(&image).unwrap();
        // Only the hint for free clusters and the marks at the start of the FAT differ.
        assert!(whole[planned.len()..].iter().all(|b| *b == 0), "{options}");
        let odd = (0..planned.len()).filter(|i| whole[*i] != planned[*i]).count();
        assert!(odd <= 20, "{options}: {odd} bytes differ");
        assert_eq!(whole[..90], planned[..90], "{options}: the boot sector");
        assert!(reserved.len() >= 512);
        // Also at another size.
        let mut larger = params;
        larger.resize(plan.size() * 5 / 4 / 4096 * 4096);
        if let Ok(plan) = Plan::new(&tree, larger) {
            write(&plan, &image);
            assert_clean(&format!("{options}, larger"), &image);
        } else {
            assert!(options.contains("-F 12"), "{options}");
        }
    }
}

/// For disks with sectors of 4096 bytes, and back. UEFI firmware reads no FAT32 of few clusters (edk2#12761).
#[test]
fn a_volume_is_planned_for_another_sector_size_and_back() {
    if !have(&["mkfs.fat", "fsck.fat", "mdir"]) {
        return;
    }
    let scratch = scratch();
    let (original, image) = (scratch.path().join("original"), scratch.path().join("image"));
    let mut tree = Tree::new(node(FileType::Dir));
    tree.add(b"/EFI", None, folder()).unwrap();
    for (number, len) in [(1, 1), (2, 4096), (3, 4097), (4, 700_000)] {
        tree.add(format!("/EFI/a file of {len} bytes").as_bytes(), None, file(number, len)).unwrap();
    }
    tree.finish().unwrap();
    for (options, kind, label) in [
        ("-F 12 -C 4096", "fat12", None),
        // So few clusters of 4 KiB make a FAT12.
        ("-F 16 -n HASSOS -C 12000", "fat12", Some("HASSOS")),
        ("-F 16 -n LABEL -C 65536", "fat16", Some("LABEL")),
        ("-F 32 -n EFI -i 11223344 -C 131072", "fat16", Some("EFI")),
        ("-F 32 -n EFI -h 2048 -C 300000", "fat32", Some("EFI")),
        ("-F 32 -s 8 -R 64 -b 12 -C 600000", "fat32", None),
        // As Windows has them: the reserved sectors fill up to where the data begins at a whole MiB.
        ("-F 32 -s 8 -R 6190 -C 600000", "fat32", None),
        ("-F 32 -s 2 -C 34000", "fat32", None),
    ] {
        let _ = std::fs::remove_file(&original);
        let mut args: Vec<&std::ffi::OsStr> = options.split(' ').map(std::ffi::OsStr::new).collect();
        args.insert(args.len() - 1, original.as_os_str());
        run("mkfs.fat", &args);
        let mut params = Params::from_volume(Arc::new(Image::open(&original))).unwrap();
        let (size, reserved) = (params.size(), params.reserved.clone());
        params.set_sector_size(4096).unwrap_or_else(|e| panic!("{options}: {e}"));
        assert!(params.size() <= size && size - params.size() < 4096, "{options}");
        let plan = Plan::new(&tree, params.clone()).unwrap();
        write(&plan, &image);
        // fsck.fat warns of the one FAT32 that has few clusters before, too.
        if !options.contains("34000") {
            assert_sound(options, &tree, &params, &image);
        }
        let source = Arc::new(Image::open(&image));
        let fat = Fat::open(source.clone()).unwrap();
        let info = mif_formats::fs::Filesystem::info(&fat);
        assert_eq!((info.kind.as_str(), info.label.as_deref()), (kind, label), "{options}");
        assert_eq!(mif_formats::fs::Filesystem::sector_sizes(&fat), 4096..=4096);
        let hidden = |path: &Path| std::fs::read(path).unwrap()[28..32].to_vec();
        if options.contains("-h 2048") {
            assert_eq!(hidden(&image), 256_u32.to_le_bytes(), "{options}");
        }
        let mut back = Params::from_volume(source).unwrap();
        back.set_sector_size(512).unwrap();
        if kind == "fat32" {
            assert!(back.reserved[90..510] == reserved[90..510], "{options}: the boot code");
            // Empty sectors beyond the usual ones are not kept.
            assert_eq!(back.reserved.len(), reserved.len().min(32 * 512), "{options}");
        }
        write(&Plan::new(&tree, back.clone()).unwrap(), &image);
        if !options.contains("34000") {
            assert_sound(&format!("{options}, back"), &tree, &back, &image);
        }
    }
    let mut params = params("fat12", 1 << 20);
    for bad in [0, 100, 1000, 8192] {
        assert!(params.set_sector_size(bad).is_err());
    }
}

#[test]
fn random_trees_are_clean_and_read_back() {
    if !have(&["fsck.fat"]) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    for seed in 0..30 {
        let mut random = Random(seed);
        let mut tree = Tree::new(node(FileType::Dir));
        let mut folders = vec![String::new()];
        let alphabet: Vec<char> = "abcABC123 .-_~+é日😀".chars().collect();
        for i in 0..random.below(800) {
            let parent = folders[random.below(folders.len() as u64) as usize].clone();
            let mut name: String = (0..random.below(30))
                .map(|_| alphabet[random.below(alphabet.len() as u64) as usize])
                .collect();
            name.push_str(&i.to_string());
            let path = format!("{parent}/{name}");
            let mut new = if random.below(5) == 0 { folder() } else { file(i, random.below(20_000)) };
            new.meta.flags = [0, 0x20, 0x21, 0x06][random.below(4) as usize];
            if new.meta.file_type == FileType::Dir && path.len() < 300 {
                folders.push(path.clone());
            }
            tree.add(path.as_bytes(), None, new).unwrap();
        }
        tree.finish().unwrap();
        let (kind, size) = [("fat12", 30 << 20), ("fat16", 60 << 20), ("fat32", 80 << 20)][seed as usize % 3];
        let params = params(kind, size);
        match Plan::new(&tree, params.clone()) {
            Ok(_) => assert_sound(&format!("seed {seed} {kind}"), &tree, &params, &image),
            Err(error) => assert!(error.to_string().contains("512"), "{seed}: {error}"),
        }
    }
}

#[test]
fn what_fat_cannot_hold_is_refused_in_words() {
    let case = |add: &dyn Fn(&mut Tree), words: &str| {
        let mut tree = Tree::new(node(FileType::Dir));
        add(&mut tree);
        tree.finish().unwrap();
        let error = Plan::new(&tree, params("fat16", 20 << 20)).err().expect(words).to_string();
        assert!(error.contains(words), "{error}, expected {words}");
    };
    let one = |path: &'static [u8], new: TreeNode| {
        move |tree: &mut Tree| {
            tree.add(path, None, new.clone()).unwrap();
        }
    };
    case(&one(b"/l", symlink(b"t")), "\"/l\": is a symlink");
    case(&one(b"/d", TreeNode::new(node(FileType::Char))), "is a device");
    case(&one(b"/a:b", file(1, 1)), "the name contains ':'");
    case(&one(b"/\xff", file(1, 1)), "not UTF-8");
    case(&one(b"/x", file(1, 1 << 32)), "4 GiB");
    case(&one(b"/x", file(1, 30 << 20)), "no room: the tree needs");
    let mut owned = file(1, 1);
    owned.meta.xattrs = vec![xattr("user.a", b"b")];
    case(&one(b"/x", owned), "extended attributes");
    case(
        &|tree| {
            let index = tree.add(b"/x", None, file(1, 1)).unwrap();
            tree.link(b"/y", None, index).unwrap();
        },
        "hard links",
    );
    case(
        &|tree| {
            tree.add(b"/name", None, file(1, 1)).unwrap();
            tree.add(b"/NAME", None, file(1, 1)).unwrap();
        },
        "only in case",
    );
    case(
        &|tree| {
            for i in 0..600 {
                tree.add(format!("/{i}").as_bytes(), None, file(1, 1)).unwrap();
            }
        },
        "\"/\": no room: the directory needs 601 entries, but has room for 512",
    );
    let error = Plan::new(&everything(), params("fat16", 1 << 20)).err().unwrap().to_string();
    assert!(error.contains("clusters, but"), "{error}");
}

#[test]
fn a_volume_that_grows_past_what_its_kind_counts_has_larger_clusters() {
    if !have(&["fsck.fat"]) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let tree = everything();
    for (kind, from, to) in [("fat12", 2 << 20, 40 << 20), ("fat16", 20 << 20, 1 << 30)] {
        let mut params = params(kind, from);
        let before = params.sectors_per_cluster;
        params.resize(to);
        assert!(params.sectors_per_cluster > before, "{kind}");
        assert_sound(&format!("{kind} grown"), &tree, &params, &image);
    }
    let mut params = params("fat12", 2 << 20);
    params.resize(1 << 30);
    let error = Plan::new(&tree, params).err().unwrap().to_string();
    assert!(error.contains("clusters, but"), "{error}");
}

#[test]
fn the_smallest_size_is_enough_and_one_sector_less_is_not() {
    if !have(&["fsck.fat"]) {
        return;
    }
    let scratch = scratch();
    let image = scratch.path().join("image");
    let tree = everything();
    for (kind, size) in [("fat12", 4 << 20), ("fat16", 100 << 20), ("fat32", 100 << 20)] {
        let params = params(kind, size);
        let size = minimum_size(&tree, &params).unwrap();
        let mut smallest = params.clone();
        smallest.resize(size);
        assert_sound(&format!("smallest {kind}: {size}"), &tree, &smallest, &image);
        let mut smaller = params.clone();
        smaller.resize(size - 512);
        assert!(Plan::new(&tree, smaller).is_err(), "{kind}");
    }
}

#[test]
fn no_boot_sector_makes_planning_panic() {
    let tree = everything();
    let mut random = Random(11);
    let mut planned = 0;
    for (kind, size) in [("fat12", 8 << 20), ("fat16", 20 << 20), ("fat32", 40 << 20)] {
        let mut volume = vec![0; size as usize];
        Plan::new(&tree, params(kind, size))
            .unwrap()
            .emit(&mut |offset, placed| {
                if let mif_formats::fs::plan::Placed::Bytes(bytes) = placed {
                    volume[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
                }
                Ok(())
            })
            .unwrap();
        for _ in 0..60 {
            let mut bytes = volume.clone();
            for _ in 0..1 + random.below(3) {
                bytes[11 + random.below(80) as usize] = random.below(256) as u8;
            }
            let Ok(params) = Params::from_volume(Arc::new(mif_formats::MemSource(bytes))) else { continue };
            if params.size() > 1 << 30 {
                continue; // a caller holds the size against the volume's
            }
            if let Ok(plan) = Plan::new(&tree, params) {
                planned += 1;
                plan.emit(&mut |_, _| Ok(())).unwrap();
            }
        }
    }
    assert!(planned > 20, "{planned}");
}
