//! Parallels and QED images, which mif reads and qemu-img makes: with random writes by qemu-io, backing files, dirty and
//! damaged ones; and DMG images, laid out here and compared with qemu-img.

use std::fs;
use std::path::Path;

use mif_formats::container::{OpenOptions, open};
use mif_tests::random::Random;
use mif_tests::{have, mif, run, run_failing, tool, work_folder};

/// Writes patterns at random places of an image with qemu-io.
fn scribble(random: &mut Random, dir: &Path, format: &str, image: &str, size: u64) {
    let mut command = tool("qemu-io");
    command.current_dir(dir).args(["-f", format]);
    for _ in 0..12 {
        let start = random.below(size / 512) * 512;
        let len = (512 + random.below(300) * 512).min(size - start);
        // Only some formats can write zeros.
        let words = match random.below(4) {
            0 if format == "qed" => format!("write -z {start} {len}"),
            _ => format!("write -P {} {start} {len}", random.below(255) + 1),
        };
        command.args(["-c", &words]);
    }
    run(command.arg(image));
}

/// Checks that we read an image as qemu-img does, in all and in odd parts.
fn assert_same(random: &mut Random, dir: &Path, format: &str, image: &str) {
    run(tool("qemu-img").current_dir(dir).args(["convert", "-f", format, "-O", "raw", image, "theirs.raw"]));
    let theirs = fs::read(dir.join("theirs.raw")).unwrap();
    let ours = open(&dir.join(image), &OpenOptions::default()).unwrap();
    assert_eq!((ours.format, ours.source.len()), (format, theirs.len() as u64));
    assert!(ours.source.read_vec(0, theirs.len()).unwrap() == theirs, "{image}");
    for _ in 0..50 {
        let start = random.below(theirs.len() as u64) as usize;
        let len = (1 + random.below(200_000) as usize).min(theirs.len() - start);
        assert!(
            ours.source.read_vec(start as u64, len).unwrap() == theirs[start..start + len],
            "{image}: {start}"
        );
    }
    let mut position = 0;
    while position < ours.source.len() {
        let extent = ours.source.extent_at(position).unwrap();
        let range = extent.range.start as usize..extent.range.end as usize;
        assert!(
            !extent.is_zero() || theirs[range.clone()].iter().all(|byte| *byte == 0),
            "{image}: {range:?}"
        );
        position = extent.range.end;
    }
}

#[test]
fn images_of_qemu_are_read_as_qemu_reads_them() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let work = work_folder();
    let dir = work.path();
    let mut random = Random(3);
    for (format, options, size) in [
        ("parallels", "cluster_size=1M", 20 << 20),
        ("parallels", "cluster_size=64k", (9 << 20) + 512 * 7),
        ("parallels", "cluster_size=4k", 3 << 20),
        ("qed", "cluster_size=64k,table_size=4", 20 << 20),
        ("qed", "cluster_size=4k,table_size=2", (9 << 20) + 512 * 7),
        ("qed", "cluster_size=1M,table_size=16", 5 << 20),
    ] {
        let size_text = size.to_string();
        run(tool("qemu-img")
            .current_dir(dir)
            .args(["create", "-q", "-f", format, "-o", options, "image", &size_text]));
        assert_same(&mut random, dir, format, "image");
        for _ in 0..2 {
            scribble(&mut random, dir, format, "image", size);
            assert_same(&mut random, dir, format, "image");
        }
    }
    // A large disk with little in it. (qemu-img compares no Parallels disk of more than 2 GiB: it aborts.)
    for (format, size) in [("parallels", 2000 << 20), ("qed", 1 << 40)] {
        let text = size.to_string();
        run(tool("qemu-img").current_dir(dir).args(["create", "-q", "-f", format, "large", &text]));
        scribble(&mut random, dir, format, "large", size);
        run(mif(&work.at("store")).current_dir(dir).args(["convert", "./large", "large.qcow2", "--force"]));
        run(tool("qemu-img").current_dir(dir).args([
            "compare",
            "-f",
            format,
            "-F",
            "qcow2",
            "large",
            "large.qcow2",
        ]));
    }
}

/// A descriptor of a disk in parts: for each, its end in bytes, and its files with their types, the oldest first.
fn bundle(parts: &[(u64, &[(&str, &str)])], more: &str) -> String {
    let guid = |age: usize| match age {
        0 => "{5fbaabe3-6958-40ff-92a7-860e329aab41}".to_owned(),
        age => format!("{{11111111-2222-3333-4444-{age:012}}}"),
    };
    let (mut storages, mut start) = (String::new(), 0);
    for (end, images) in parts {
        let images: String = images
            .iter()
            .rev()
            .enumerate()
            .map(|(age, (kind, file))| {
                let guid = guid(age);
                format!("<Image><GUID>{guid}</GUID><Type>{kind}</Type><File>{file}</File></Image>")
            })
            .collect();
        let (from, to) = (start / 512, end / 512);
        storages += &format!(
            "<Storage><Start>{from}</Start><End>{to}</End><Blocksize>128</Blocksize>{images}</Storage>"
        );
        start = *end;
    }
    let count = parts[0].1.len();
    let shots: String = (0..count)
        .map(|age| {
            let zero = "{00000000-0000-0000-0000-000000000000}".to_owned();
            let parent = if age + 1 < count { guid(age + 1) } else { zero };
            format!("<Shot><GUID>{}</GUID><ParentGUID>{parent}</ParentGUID></Shot>", guid(age))
        })
        .collect();
    format!(
        "<?xml version='1.0' encoding='UTF-8'?>\n<Parallels_disk_image Version=\"1.0\">\n<Disk_Parameters><Disk_size>{}\
         </Disk_size><Padding>0</Padding>{more}</Disk_Parameters>\n<StorageData>{storages}</StorageData>\n\
         <Snapshots>{shots}</Snapshots>\n</Parallels_disk_image>\n",
        start / 512
    )
}

#[test]
fn a_parallels_bundle_is_one_disk_with_its_parts_and_snapshots() {
    if !have(&["qemu-img", "qemu-io", "zip"]) {
        return;
    }
    let work = work_folder();
    let dir = work.path();
    let (mut random, folder) = (Random(11), work.at("vm.pvm/web.hdd"));
    fs::create_dir_all(&folder).unwrap();
    let qemu = |words: &str| run(tool("qemu-img").current_dir(&folder).args(words.split(' ')));
    const PART: u64 = 4 << 20;
    let mut expected = Vec::new();
    for (part, options) in ["cluster_size=64k", "cluster_size=1M"].iter().enumerate() {
        let name = |age: &str| format!("web.hdd.{part}.{age}.hds");
        for age in ["old", "top"] {
            qemu(&format!("create -q -f parallels -o {options} {} {PART}", name(age)));
            scribble(&mut random, &folder, "parallels", &name(age), PART);
            qemu(&format!("convert -f parallels -O raw {} {age}.raw", name(age)));
        }
        // qemu-img says which clusters of the newer file are there: they lie over those of the older one.
        let mut bytes = fs::read(folder.join("old.raw")).unwrap();
        let top = fs::read(folder.join("top.raw")).unwrap();
        let map = qemu(&format!("map --output json -f parallels {}", name("top")));
        let map: serde_json::Value = serde_json::from_str(&map).unwrap();
        for run in map.as_array().unwrap().iter().filter(|run| run["present"] == true) {
            let start = run["start"].as_u64().unwrap() as usize;
            let range = start..start + run["length"].as_u64().unwrap() as usize;
            bytes[range.clone()].copy_from_slice(&top[range]);
        }
        expected.push((fs::read(folder.join("old.raw")).unwrap(), bytes));
    }
    let (old, new): (Vec<_>, Vec<_>) = expected.into_iter().unzip();
    let first =
        [("Compressed", "web.hdd.0.old.hds"), ("Compressed", "/Users/me/vm.pvm/web.hdd/web.hdd.0.top.hds")];
    let second = [("Compressed", "web.hdd.1.old.hds"), ("Compressed", "web.hdd.1.top.hds")];
    let describe = |text: &str| fs::write(folder.join("DiskDescriptor.xml"), text).unwrap();
    describe(&bundle(&[(PART, &first), (2 * PART, &second)], ""));
    for name in ["old.raw", "top.raw"] {
        fs::remove_file(folder.join(name)).unwrap();
    }
    let disk = |path: &Path, snapshot: Option<&str>| {
        let options = OpenOptions { snapshot: snapshot.map(str::to_owned), ..OpenOptions::default() };
        let disk = open(path, &options).unwrap();
        assert_eq!(disk.format, "parallels");
        disk.source.read_vec(0, disk.source.len() as usize).unwrap()
    };
    assert!(disk(&folder, None) == new.concat());
    assert!(disk(&folder.join("DiskDescriptor.xml"), None) == new.concat());
    assert!(disk(&folder, Some("11111111-2222-3333-4444-000000000001")) == old.concat());
    // A directory of machines has one disk, named after its bundle.
    let mif = |words: &[&str]| {
        let mut command = mif(&work.at("store"));
        command.current_dir(dir).args(words);
        command
    };
    run(&mut mif(&["import", "vm.pvm"]));
    let images: serde_json::Value = serde_json::from_str(&run(&mut mif(&["images", "--json"]))).unwrap();
    assert!(images.as_array().unwrap().len() == 1 && images[0]["name"] == "web", "{images:#}");
    run(&mut mif(&["verify", "web", "vm.pvm/web.hdd"]));
    let info = run(&mut mif(&["info", "vm.pvm/web.hdd"]));
    assert!(info.contains("2, with the current state"), "{info}");
    // So has an archive of it.
    run(tool("zip").current_dir(dir).args(["-q", "-r", "vm.zip", "vm.pvm"]));
    run(&mut mif(&["convert", "./vm.zip", "zipped.raw"]));
    assert!(fs::read(work.at("zipped.raw")).unwrap() == new.concat());
    // A raw part under a snapshot.
    fs::write(folder.join("plain"), &old[0]).unwrap();
    let plain = [("Plain", "plain"), ("Compressed", "web.hdd.0.top.hds")];
    describe(&bundle(&[(PART, &plain)], ""));
    assert!(disk(&folder, None) == new[0]);

    // What cannot be read is refused in words.
    let refused = |text: &str, words: &str| {
        describe(text);
        let error = open(&folder, &OpenOptions::default()).err().expect("it is refused").to_string();
        assert!(error.contains(words), "{words}: {error}");
    };
    fs::write(work.at("secret"), vec![7; PART as usize]).unwrap();
    refused(&bundle(&[(PART, &[("Plain", "../../secret")])], ""), "outside its own directory");
    refused(&bundle(&[(PART, &[("Plain", "missing")])], ""), "needs the file \"missing\"");
    refused(&bundle(&[(2 * PART, &[("Plain", "plain")])], ""), "it is truncated");
    refused(&bundle(&[(2 * PART, &first[..1])], ""), "it is truncated");
    let engine = "<Encryption><Engine>{11111111-2222-3333-4444-000000000001}</Engine></Encryption>";
    refused(&bundle(&[(PART, &plain)], engine), "encrypted");
}

#[test]
fn a_qed_overlay_is_read_over_its_base_and_asks_the_gate() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let work = work_folder();
    let dir = work.path();
    let mut random = Random(5);
    fs::create_dir_all(dir.join("a")).unwrap();
    fs::create_dir_all(dir.join("b")).unwrap();
    let qemu = |words: &str| run(tool("qemu-img").current_dir(dir).args(words.split(' ')));
    qemu("create -q -f qed a/base.qed 6M");
    scribble(&mut random, dir, "qed", "a/base.qed", 6 << 20);
    qemu("create -q -f qed -b base.qed -F qed a/top.qed 8M");
    scribble(&mut random, dir, "qed", "a/top.qed", 8 << 20);
    assert_same(&mut random, dir, "qed", "a/top.qed");
    qemu("convert -O raw a/base.qed a/base.raw");
    qemu("create -q -f qed -b base.raw -F raw a/over-raw.qed");
    scribble(&mut random, dir, "qed", "a/over-raw.qed", 6 << 20);
    assert_same(&mut random, dir, "qed", "a/over-raw.qed");
    qemu("create -q -f qed -b ../a/base.qed -F qed b/top.qed");
    let error = run_failing(mif(&work.at("store")).current_dir(dir).args(["info", "./b/top.qed"]), 3);
    assert!(error.contains("outside its own directory") && error.contains("--allow-path"), "{error}");
    run(mif(&work.at("store")).current_dir(dir).args(["info", "./b/top.qed", "--allow-path", "a"]));
    run(mif(&work.at("store")).current_dir(dir).args(["info", "./b/top.qed", "--parent", "a/base.qed"]));
}

#[test]
fn dirty_images_are_read_with_a_warning_and_cut_ones_are_refused() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let work = work_folder();
    let dir = work.path();
    let mut random = Random(7);
    for (format, place, value, word) in
        [("qed", 16, 2_u32, "need-check"), ("parallels", 44, 0x746f_6e59, "in_use")]
    {
        run(tool("qemu-img").current_dir(dir).args(["create", "-q", "-f", format, "image", "4M"]));
        scribble(&mut random, dir, format, "image", 4 << 20);
        let mut bytes = fs::read(dir.join("image")).unwrap();
        let clean =
            open(&dir.join("image"), &OpenOptions::default()).unwrap().source.read_vec(0, 4 << 20).unwrap();
        bytes[place..place + 4].copy_from_slice(&value.to_le_bytes());
        fs::write(dir.join("image"), &bytes).unwrap();
        let dirty = open(&dir.join("image"), &OpenOptions::default()).unwrap();
        assert!(dirty.warnings.iter().any(|warning| warning.contains(word)), "{:?}", dirty.warnings);
        assert!(dirty.source.read_vec(0, 4 << 20).unwrap() == clean);
        // Wherever it is cut, it is refused or reads the same.
        for part in [10, 70, 5000, bytes.len() / 2, bytes.len() - 70_000] {
            fs::write(dir.join("cut"), &bytes[..part]).unwrap();
            let read = open(
                &dir.join("cut"),
                &OpenOptions { format: Some(format.into()), ..OpenOptions::default() },
            )
            .and_then(|disk| disk.source.read_vec(0, 4 << 20));
            match read {
                Ok(read) => assert!(read == clean, "{format}: {part}"),
                Err(error) => assert!(error.to_string().contains("cut"), "{error}"),
            }
        }
    }
}

/// Changes bytes of the metadata at random: nothing panics, hangs or reads without end.
#[test]
fn mutants_of_images_are_read_or_refused() {
    if !have(&["qemu-img", "qemu-io"]) {
        return;
    }
    let work = work_folder();
    let dir = work.path();
    let mut random = Random(11);
    for (format, options) in [("parallels", "cluster_size=4k"), ("qed", "cluster_size=4k,table_size=2")] {
        run(tool("qemu-img")
            .current_dir(dir)
            .args(["create", "-q", "-f", format, "-o", options, "image", "1M"]));
        scribble(&mut random, dir, format, "image", 1 << 20);
        let bytes = fs::read(dir.join("image")).unwrap();
        let started = std::time::Instant::now();
        for _ in 0..1500 {
            let mut mutant = bytes.clone();
            for _ in 0..1 + random.below(3) {
                let within = if random.below(2) == 0 { 64 } else { (bytes.len() as u64).min(20_000) };
                let place = random.below(within) as usize;
                mutant[place] = match random.below(3) {
                    0 => 0xff,
                    1 => mutant[place] ^ (1 << random.below(8)),
                    _ => random.below(256) as u8,
                };
            }
            fs::write(dir.join("mutant"), &mutant).unwrap();
            let options = OpenOptions { format: Some(format.into()), ..OpenOptions::default() };
            let Ok(disk) = open(&dir.join("mutant"), &options) else { continue };
            let len = disk.source.len();
            let mut position = 0;
            for _ in 0..100 {
                let Some(extent) = (position < len).then(|| disk.source.extent_at(position).ok()).flatten()
                else {
                    break;
                };
                assert!(
                    extent.range.start == position && extent.range.end > position && extent.range.end <= len
                );
                let part = extent.len().min(65536) as usize;
                let _ = disk.source.read_vec(position, part);
                position = extent.range.end;
            }
        }
        assert!(started.elapsed().as_secs() < 20, "{format}: {:?}", started.elapsed());
    }
}

/// Python code that lays out a DMG image: `dmg(name, disk, kinds)` takes turns with the kinds of chunks.
const DMG: &str = "
import struct, zlib, bz2, lzma, base64
def pack(kind, b):
    if kind == 1: return b
    if kind in (0, 2): return b''
    if kind == 0x80000005: return zlib.compress(b)
    if kind == 0x80000006: return bz2.compress(b)
    if kind == 0x80000007: return b'bvx-' + struct.pack('<I', len(b)) + b + b'bvx$'
    if kind == 0x80000008: return lzma.compress(b, format=lzma.FORMAT_XZ)
    if kind == 0x80000004: return b''.join(bytes([0x80 | len(b[i:i + 128]) - 1]) + b[i:i + 128] for i in range(0, len(b), 128))
    return b
def dmg(name, disk, kinds, segments=1, change=lambda t: t, before=b''):
    data, tables = b'', []
    half = len(disk) // 1024 * 512
    for first, part in ((0, disk[:half]), (half // 512, disk[half:])):
        base = len(data); entries = []
        for n, at in enumerate(range(0, len(part), 64 * 512)):
            b = part[at:at + 64 * 512]; kind = kinds[n % len(kinds)]
            if not b.strip(b'\\0'): kind = 2
            elif kind in (0, 2): kind = 1
            p = pack(kind, b)
            entries.append(struct.pack('>IIQQQQ', kind, 0, at // 512, len(b) // 512, len(data) - base, len(p)))
            data += p
        entries.append(struct.pack('>IIQQQQ', 0xffffffff, 0, len(part) // 512, 0, len(data) - base, 0))
        t = b'mish' + struct.pack('>IQQQII', 1, first, len(part) // 512, base, 64 * 512 // 512 + 8, 0) + bytes(24) + bytes(136) + struct.pack('>I', len(entries))
        tables.append(change(t + b''.join(entries)))
    dicts = ''.join('<dict><key>Attributes</key><string>0x0050</string><key>Data</key><data>\\n%s\\n</data><key>ID</key><string>%d</string></dict>' % (base64.encodebytes(t).decode(), i) for i, t in enumerate(tables))
    xml = ('<?xml version=\"1.0\" encoding=\"UTF-8\"?>\\n<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\\n<plist version=\"1.0\"><dict><key>resource-fork</key><dict><key>blkx</key><array>' + dicts + '</array><key>plst</key><array/></dict></dict></plist>').encode()
    k = bytearray(512)
    k[:12] = b'koly' + struct.pack('>II', 4, 512)
    struct.pack_into('>QQ', k, 24, len(before), len(data)); struct.pack_into('>II', k, 56, 1, segments)
    struct.pack_into('>QQ', k, 216, len(before) + len(data), len(xml)); struct.pack_into('>IQ', k, 488, 1, len(disk) // 512)
    open(name, 'wb').write(before + data + xml + k)
";

#[test]
fn chunks_of_a_dmg_are_read_whatever_their_compression() {
    if !have(&["qemu-img", "python3"]) {
        return;
    }
    let work = work_folder();
    let dir = work.path();
    let mut disk = vec![0; 3 << 20];
    Random(13).fill(&mut disk[200_000..500_000]);
    disk[..100].fill(b'z');
    disk[1_000_000..1_300_000].fill(b'y');
    Random(17).fill(&mut disk[2_000_000..2_000_100]);
    fs::write(dir.join("d.raw"), &disk).unwrap();
    run(tool("python3").current_dir(dir).args([
        "-c",
        &format!(
            "{DMG}
disk = open('d.raw', 'rb').read()
dmg('theirs.dmg', disk, [1, 0x80000005, 0])
dmg('all.dmg', disk, [1, 0x80000004, 0x80000005, 0x80000006, 0x80000007, 0x80000008])
dmg('bzip2.dmg', disk, [0x80000006])
dmg('lzma.dmg', disk, [0x80000008])
dmg('xar.dmg', disk, [0x80000005], before=b'xar!\\0\\x1c' + bytes(5000))
dmg('unknown.dmg', disk, [0x80000009])
dmg('parts.dmg', disk, [1], 2)
dmg('mish.dmg', disk, [1], 1, lambda t: b'mash' + t[4:])
dmg('count.dmg', disk, [1], 1, lambda t: t[:200] + b'\\xff' * 4 + t[204:])
dmg('far.dmg', disk, [0x80000005], 1, lambda t: t[:24] + b'\\x7f' * 8 + t[32:])"
        ),
    ]));
    // qemu reads those kinds without further modules.
    run(tool("qemu-img").current_dir(dir).args(["compare", "-f", "dmg", "-F", "raw", "theirs.dmg", "d.raw"]));
    let ours = |name: &str| {
        open(&dir.join(name), &OpenOptions::default()).and_then(|disk| disk.source.read_vec(0, 3 << 20))
    };
    // Some begin like a compressed file or another archive: the end decides.
    for name in ["theirs.dmg", "all.dmg", "bzip2.dmg", "lzma.dmg", "xar.dmg"] {
        assert!(ours(name).unwrap() == disk, "{name}");
    }
    run(mif(&work.at("store")).current_dir(dir).args(["import", "all.dmg"]));
    run(mif(&work.at("store")).current_dir(dir).args(["verify", "all", "d.raw"]));
    for (name, words) in [
        ("unknown.dmg", "of the kind 0x80000009"),
        ("parts.dmg", "segments"),
        ("mish.dmg", "mish"),
        ("count.dmg", "entries"),
        ("far.dmg", "extend past the end"),
    ] {
        let error = ours(name).unwrap_err().to_string();
        assert!(error.contains(words), "{name}: {error}");
    }
    let bytes = fs::read(dir.join("all.dmg")).unwrap();
    let mut random = Random(19);
    for _ in 0..300 {
        let mut mutant = bytes.clone();
        for _ in 0..1 + random.below(4) {
            let place = bytes.len() - 1 - random.below(40_000.min(bytes.len() as u64)) as usize;
            mutant[place] = random.below(256) as u8;
        }
        fs::write(dir.join("mutant.dmg"), &mutant).unwrap();
        let options = OpenOptions { format: Some("dmg".into()), ..OpenOptions::default() };
        let Ok(disk) = open(&dir.join("mutant.dmg"), &options) else { continue };
        for position in (0..disk.source.len().min(4 << 20)).step_by(100_000) {
            let _ = disk.source.extent_at(position);
            let _ = disk.source.read_vec(position, 512.min(disk.source.len() - position) as usize);
        }
    }
}
