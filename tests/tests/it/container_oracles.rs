//! Containers compared with readers written by others (imago, qcow2-rs, vmdk-core), and qemu-img's random writes
//! compared with ours.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};
use mif_formats::container::{CreateOptions, OpenOptions, Output, format_for_output, open};
use mif_formats::{MemSource, Source};
use mif_tests::oracle::tool;
use mif_tests::random::Random;
use qcow2_rs::dev::Qcow2DevParams;
use qcow2_rs::helpers::Qcow2IoBuf;
use qcow2_rs::utils::qcow2_setup_dev_sync;

fn random_disk(random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![0; random.below(12 << 20) as usize / 512 * 512 + 512];
    for _ in 0..random.below(60) {
        let start = random.below(bytes.len() as u64) as usize;
        let end = (start + 1 + random.below(300_000) as usize).min(bytes.len());
        match random.below(3) {
            0 => random.fill(&mut bytes[start..end]),
            1 => bytes[start..end].fill(0),
            _ => bytes[start..end].fill(random.below(256) as u8),
        }
    }
    bytes
}

fn write(bytes: &[u8], path: &Path, format: &str, options: &[(&str, String)]) {
    let options: CreateOptions = options.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    let mut output = Output::new(path, true).unwrap();
    let source = MemSource(bytes.to_vec());
    format_for_output(Some(format), path).unwrap().create(&source, &mut output, &options, &()).unwrap();
    output.commit().unwrap();
}

/// Reads with odd offsets and lengths through `read`, and compares with `bytes`.
fn probe(what: &str, bytes: &[u8], random: &mut Random, mut read: impl FnMut(u64, &mut [u8])) {
    for _ in 0..40 {
        let start = random.below(bytes.len() as u64) as usize;
        let len = (1 + random.below(200_000) as usize).min(bytes.len() - start);
        let mut buf = vec![0xaa; len];
        read(start as u64, &mut buf);
        assert!(buf == bytes[start..start + len], "{what}: {len} bytes at {start} differ");
    }
}

#[test]
fn imago_and_we_read_our_qcow2_images_alike() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    for seed in 0..12 {
        let mut random = Random(seed);
        let bytes = random_disk(&mut random);
        let mut options = vec![("cluster_size", (512u64 << random.below(13)).to_string())];
        // imago supports neither zstd nor extended L2 entries; for those, containers.rs compares with qemu-img.
        match random.below(3) {
            0 => options.push(("compress", "on".to_owned())),
            1 => options.push(("compat", "0.10".to_owned())),
            _ => {}
        }
        write(&bytes, &path, "qcow2", &options);
        let what = format!("seed {seed}, {options:?}");
        let ours = open(&path, &OpenOptions::default()).unwrap();
        probe(&format!("ours, {what}"), &bytes, &mut random, |at, buf| ours.source.read_at(at, buf).unwrap());
        let theirs = Qcow2::<ImagoFile>::builder_path(&path).open(PermissiveImplicitOpenGate::default());
        let theirs = FormatAccess::new(theirs.unwrap_or_else(|e| panic!("{what}: {e}")));
        probe(&format!("imago, {what}"), &bytes, &mut random, |at, buf| theirs.read(buf, at).unwrap());
    }
}

/// Runs a future that never waits: qcow2-rs over plain system calls.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}

/// qcow2-rs counts in sectors and loops forever past the end, so it only gets whole existing sectors.
#[test]
fn qcow2_rs_and_we_read_our_qcow2_images_alike() {
    const SECTOR: u64 = 512;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    // It panics with clusters below 4 KiB.
    for cluster_bits in [12, 14, 16, 18, 21] {
        for compress in ["off", "on"] {
            let mut random = Random(cluster_bits + 500);
            let bytes = random_disk(&mut random);
            let options =
                [("cluster_size", (1 << cluster_bits).to_string()), ("compress", compress.to_owned())];
            write(&bytes, &path, "qcow2", &options);
            let what = format!("{options:?}");
            let ours = open(&path, &OpenOptions::default()).unwrap();
            assert!(ours.source.read_vec(0, bytes.len()).unwrap() == bytes, "ours, {what}");
            let params = Qcow2DevParams::new(9, None, None, true, false);
            let theirs = qcow2_setup_dev_sync(&path, &params).unwrap_or_else(|e| panic!("{what}: {e:?}"));
            now(theirs.qcow2_prep_io()).unwrap_or_else(|e| panic!("{what}: {e:?}"));
            assert_eq!(theirs.info.virtual_size(), bytes.len() as u64, "{what}");
            let sectors = bytes.len() as u64 / SECTOR;
            let parts = (0..sectors).step_by(400).map(|first| (first, 400.min(sectors - first)));
            let odd = (0..40).map(|_| {
                let first = random.below(sectors);
                (first, 1 + random.below((sectors - first).min(900)))
            });
            for (first, count) in parts.chain(odd.collect::<Vec<_>>()) {
                let mut buf = Qcow2IoBuf::<u8>::new((count * SECTOR) as usize);
                let read = now(theirs.read_at(&mut buf, first * SECTOR));
                assert_eq!(read.unwrap_or_else(|e| panic!("{what}: {e:?}")), buf.len(), "{what}");
                let start = (first * SECTOR) as usize;
                assert!(buf[..] == bytes[start..start + buf.len()], "qcow2-rs, {what}: {count} at {first}");
            }
        }
    }
}

#[test]
fn vmdk_core_and_we_read_our_vmdks_alike() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    for (seed, subformat) in [
        "monolithicSparse",
        "streamOptimized",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
    ]
    .into_iter()
    .cycle()
    .take(15)
    .enumerate()
    {
        let mut random = Random(100 + seed as u64);
        let bytes = random_disk(&mut random);
        write(&bytes, &path, "vmdk", &[("subformat", subformat.to_owned())]);
        let what = format!("seed {seed}, {subformat}");
        let mut theirs = vmdk::VmdkReader::open_path(&path).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(theirs.virtual_disk_size(), bytes.len() as u64);
        probe(&format!("vmdk-core, {what}"), &bytes, &mut random, |at, buf| {
            theirs.seek(SeekFrom::Start(at)).unwrap();
            theirs.read_exact(buf).unwrap();
        });
        let ours = open(&path, &OpenOptions::default()).unwrap();
        probe(&format!("ours, {what}"), &bytes, &mut random, |at, buf| ours.source.read_at(at, buf).unwrap());
    }
}

/// Random writes, zeros and discards through QEMU's own drivers, in every format and many geometries, are read by both.
#[test]
fn what_qemu_wrote_at_random_reads_the_same() {
    let (Some(qemu_img), Some(qemu_io)) = (tool("qemu-img"), tool("qemu-io")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let in_dir = |name: &str| dir.path().join(name);
    for seed in 0..40 {
        let mut random = Random(seed + 1000);
        let (format, options) = match random.below(9) {
            0..4 => {
                let bits = 9 + random.below(13);
                let extended = if bits >= 14 && random.below(2) == 0 { ",extended_l2=on" } else { "" };
                let width = 1 << random.below(7);
                ("qcow2", format!("cluster_size={},refcount_bits={width}{extended}", 1u64 << bits))
            }
            4 => ("qcow2", "compat=0.10".to_owned()),
            5 => ("vmdk", "subformat=monolithicSparse,zeroed_grain=on".to_owned()),
            6 => ("vdi", "static=off".to_owned()),
            7 => ("vpc", "force_size=on".to_owned()),
            _ => ("vhdx", format!("block_size={}M", 1 << random.below(4))),
        };
        let size = (random.below(40 << 20) + (1 << 20)) / 512 * 512;
        qemu_img.run(dir.path(), &format!("create -f {format} -o {options} image {size}"));
        let mut commands = vec!["-f".to_owned(), format.to_owned(), "image".to_owned()];
        for _ in 0..random.below(50) {
            let start = random.below(size / 512) * 512;
            let len = (512 + random.below(900_000) / 512 * 512).min(size - start);
            let verb = match random.below(5) {
                0 if format != "vpc" && format != "vhdx" && format != "vdi" => "write -z".to_owned(),
                1 if format == "qcow2" => "discard".to_owned(),
                2 if format == "qcow2" => "write -z -u".to_owned(),
                _ => format!("write -P {}", random.below(256)),
            };
            commands.extend(["-c".to_owned(), format!("{verb} {start} {len}")]);
        }
        qemu_io.run_args(dir.path(), &commands.iter().map(String::as_str).collect::<Vec<_>>());
        qemu_img.run(dir.path(), &format!("convert -f {format} -O raw image raw"));
        let what = format!("seed {seed}, {format} {options}");
        let bytes = std::fs::read(in_dir("raw")).unwrap();
        let disk =
            open(&in_dir("image"), &OpenOptions { format: Some(format.to_owned()), ..Default::default() });
        let disk = disk.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(disk.source.len(), bytes.len() as u64, "{what}");
        assert!(disk.source.read_vec(0, bytes.len()).unwrap() == bytes, "{what}");
        probe(&what, &bytes, &mut random, |at, buf| disk.source.read_at(at, buf).unwrap());
    }
}
