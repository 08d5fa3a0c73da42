//! Disks in wrappers: compressed files and archives made by the real tools go in, and come out as the disks that were
//! packed; damaged and hostile ones are refused, and leave nothing behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mif_tests::random::Random;
use mif_tests::{WorkFolder, have, json, run, run_failing, tool, work_folder};
use serde_json::Value;

/// A directory with a disk in several containers, and an empty directory for scratch files.
struct Lab(WorkFolder);

impl Lab {
    /// Makes `d.raw`: 3 MiB with a partition table, random data, text and zeros.
    fn new() -> Self {
        let lab = Lab(work_folder());
        fs::create_dir(lab.at("scratch")).unwrap();
        lab.disk("d.raw", 7);
        lab
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.at(name)
    }

    fn disk(&self, name: &str, seed: u64) {
        let mut bytes = vec![0; 3 << 20];
        Random(seed).fill(&mut bytes[1 << 20..][..300_000]);
        bytes[2 << 20..][..100_000].fill(b'x');
        bytes[446..462].copy_from_slice(&[0, 0, 2, 0, 0x83, 0, 2, 0, 8, 0, 0, 0, 8, 0, 0, 0]);
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        fs::write(self.at(name), bytes).unwrap();
    }

    /// Runs a command line of the shell in the directory.
    fn sh(&self, line: &str) {
        run(tool("bash").current_dir(self.0.path()).args(["-ec", line]));
    }

    fn python(&self, code: &str) {
        run(tool("python3").current_dir(self.0.path()).args(["-c", code]));
    }

    fn mif(&self, words: &[&str]) -> Command {
        let mut command = self.0.mif(words);
        command.env("TMPDIR", self.at("scratch"));
        command
    }

    fn qemu(&self, words: &str) {
        run(tool("qemu-img").current_dir(self.0.path()).args(words.split(' ')));
    }

    /// Returns the names of the images in the store.
    fn images(&self) -> Vec<String> {
        let images = json(&self.at("store"), &["images"]);
        let mut names: Vec<String> = images
            .as_array()
            .unwrap()
            .iter()
            .map(|image| image["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }

    /// Exports an image, which must be the disk in the raw file `disk`.
    fn assert_is(&self, image: &str, disk: &str) {
        run(self.mif(&["export", image, "out.raw", "--force"]).arg("-q"));
        run(tool("cmp").current_dir(self.0.path()).args(["out.raw", disk]));
    }

    /// Imports a file, whose only image must be the disk in `disk`, and converts it, which must give the same.
    fn assert_holds(&self, file: &str, disk: &str) {
        let report: Value = serde_json::from_str(&run(&mut self.mif(&[
            "import",
            file,
            "--name",
            "x",
            "--new-version",
            "--json",
        ])))
        .unwrap_or_else(|e| panic!("{file}: {e}"));
        self.assert_is(report["image"].as_str().unwrap(), disk);
        run(&mut self.mif(&["convert", &format!("./{file}"), "c.raw", "--force", "-q"]));
        run(tool("cmp").current_dir(self.0.path()).args(["c.raw", disk]));
        self.assert_clean();
    }

    /// Checks that nothing was left in the scratch directory.
    fn assert_clean(&self) {
        let left: Vec<_> = fs::read_dir(self.at("scratch")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// A file that must be refused, with these words; returns the error.
    fn assert_refused(&self, file: &str, words: &str) -> String {
        let output = self.mif(&["import", file, "--name", "refused"]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(matches!(output.status.code(), Some(3 | 4)), "{file}: {:?} {error}", output.status);
        let outer = file.split("//").next().unwrap();
        assert!(error.contains(words) && error.contains(outer), "{file}: {error}");
        assert!(
            !self.at("store/images").exists() || !self.images().contains(&"refused".to_owned()),
            "{file}"
        );
        self.assert_clean();
        error
    }
}

#[test]
fn a_disk_in_a_compressed_file_is_the_disk_that_was_compressed() {
    if !have(&["gzip", "xz", "zstd", "bzip2", "lz4", "lzop", "qemu-img", "cmp"]) {
        return;
    }
    let lab = Lab::new();
    lab.qemu("convert -f raw -O qcow2 d.raw d.qcow2");
    lab.qemu("convert -f raw -O vmdk d.raw d.vmdk");
    lab.qemu("convert -f raw -O vpc -o subformat=fixed,force_size=on d.raw d.vhd");
    lab.sh(
        "head -c 1500000 d.raw > h; tail -c +1500001 d.raw > t; \
         gzip -k d.qcow2; xz -k -T2 --block-size=200KiB d.raw; xz -k d.vmdk; zstd -q -k d.raw; bzip2 -k d.raw; \
         lz4 -q d.raw d.lz4; lz4 -q -l d.raw old.lz4; lz4 -q -B4 -BD --no-frame-crc d.raw linked.lz4; \
         xz -k --format=lzma d.raw; gzip -k d.vhd; zstd -q -T2 --long=31 d.raw -o long.zst; \
         (gzip -c h; gzip -c t) > two.gz; (xz -c h; head -c 8 /dev/zero; xz -c t) > two.xz; \
         (zstd -qc h; printf '\\x50\\x2a\\x4d\\x18\\x04\\0\\0\\0skip'; zstd -qc t) > two.zst; \
         (printf '\\x50\\x2a\\x4d\\x18\\x04\\0\\0\\0skip'; zstd -qc d.raw) > skip.zst; \
         (bzip2 -c h; bzip2 -c t) > two.bz2; (lz4 -qc h; lz4 -qc t) > two.lz4; (gzip -c d.raw; head -c 999 /dev/zero) > pad.gz; \
         lzop -q d.raw; lzop -q -9 -C -F d.vmdk; (lzop -c h; lzop -c t) > two.lzo; cp two.gz no-suffix",
    );
    for file in [
        "d.qcow2.gz",
        "d.raw.xz",
        "d.vmdk.xz",
        "d.raw.zst",
        "d.raw.bz2",
        "d.lz4",
        "old.lz4",
        "linked.lz4",
        "d.raw.lzma",
        "d.vhd.gz",
        "long.zst",
        "two.gz",
        "two.xz",
        "two.zst",
        "skip.zst",
        "two.bz2",
        "two.lz4",
        "pad.gz",
        "d.raw.lzo",
        "d.vmdk.lzo",
        "two.lzo",
        "no-suffix",
    ] {
        lab.assert_holds(file, "d.raw");
    }
    lab.sh("(cat d.raw.xz; echo and more) > more.xz");
    let report: Value = serde_json::from_str(&run(&mut lab.mif(&["import", "more.xz", "--json"]))).unwrap();
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("9 bytes after the end of the xz data are ignored"), "{warnings}");
    lab.assert_is("more", "d.raw");
    // `verify` takes the compressed file as it is.
    run(&mut lab.mif(&["verify", "d.qcow2.gz", "d.raw"]));
    assert!(run(&mut lab.mif(&["info", "./d.raw.xz"])).contains("xz data"));
}

#[test]
fn a_compressed_file_that_was_cut_or_changed_is_refused_and_leaves_nothing() {
    if !have(&["gzip", "xz", "zstd", "bzip2", "lz4", "lzop"]) {
        return;
    }
    let lab = Lab::new();
    lab.sh("gzip -k d.raw; xz -k -T2 --block-size=200KiB d.raw; zstd -q -k d.raw; bzip2 -k d.raw; lz4 -q d.raw d.raw.lz4; lzop -q d.raw");
    for suffix in ["gz", "xz", "zst", "bz2", "lz4", "lzo"] {
        let whole = fs::read(lab.at(&format!("d.raw.{suffix}"))).unwrap();
        let file = format!("cut.{suffix}");
        for part in [14, whole.len() / 3, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
            fs::write(lab.at(&file), &whole[..part]).unwrap();
            let error = lab.assert_refused(&file, "");
            assert!(error.contains("truncated") || error.contains("cannot be decoded"), "{error}");
        }
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 0x10;
        fs::write(lab.at(&file), changed).unwrap();
        lab.assert_refused(&file, "data");
    }
}

#[test]
fn what_unpacks_to_more_than_the_limit_is_refused_and_a_large_sparse_disk_is_not() {
    if !have(&["zstd", "xz", "gzip"]) {
        return;
    }
    let lab = Lab::new();
    // 64 MiB of zeros, and a frame that claims 1 TiB.
    lab.sh("head -c 64M /dev/zero | zstd -q -o zeros.zst; head -c 64M /dev/zero | xz > zeros.xz");
    fs::write(lab.at("claim.zst"), b"\x28\xb5\x2f\xfd\xe0\0\0\0\0\0\x01\0\0\x01\0\0").unwrap();
    for file in ["zeros.zst", "zeros.xz"] {
        let error = run_failing(&mut lab.mif(&["import", file, "--max-unpacked", "63M"]), 3);
        assert!(
            error.contains("over the limit of 66060288 bytes") && error.contains("--max-unpacked"),
            "{error}"
        );
        run(&mut lab.mif(&["info", &format!("./{file}"), "--max-unpacked", "64M"]));
        lab.assert_clean();
    }
    let error = run_failing(&mut lab.mif(&["info", "./claim.zst"]), 3);
    assert!(
        error.contains("says that it unpacks to 1099511627776 bytes, over the limit of 34359738368"),
        "{error}"
    );
    // Scratch files are sparse, and go where the user says.
    lab.sh("mkdir other; (cat d.raw; head -c 2G /dev/zero) | zstd -q -o big.zst");
    run(&mut lab.mif(&["convert", "big.zst", "big.qcow2", "--scratch", "other", "-q"]));
    let error = run_failing(&mut lab.mif(&["info", "./big.zst", "--scratch", "missing"]), 5);
    assert!(error.contains("missing") && error.contains("--scratch"), "{error}");
    let error = run_failing(lab.mif(&["info", "./big.zst"]).env("TMPDIR", lab.at("gone")), 5);
    assert!(error.contains("gone"), "{error}");
}

#[test]
fn tars_of_every_format_are_read_in_place() {
    if !have(&["tar", "gzip", "zstd", "xz", "bzip2", "strace"]) {
        return;
    }
    let lab = Lab::new();
    lab.sh(
        "cp --sparse=always d.raw disk.raw; \
         for f in v7 ustar oldgnu gnu posix; do tar --format=$f -cf $f.tar disk.raw; done; \
         tar --format=oldgnu -S -cf old-sparse.tar disk.raw; \
         for v in 0.0 0.1 1.0; do tar --format=posix -S --sparse-version=$v -cf sparse-$v.tar disk.raw; done; \
         tar --format=oldgnu -S -czf gcp.tar.gz disk.raw; tar -cJf a.tar.xz disk.raw; tar --zstd -cf a.tar.zst disk.raw; \
         tar -cjf a.tar.bz2 disk.raw; xz -k disk.raw; mkdir -p sub/deep; cp disk.raw.xz sub/deep; echo text > sub/README; \
         tar -czf layers.tar.gz sub",
    );
    for file in [
        "v7.tar",
        "ustar.tar",
        "oldgnu.tar",
        "gnu.tar",
        "posix.tar",
        "old-sparse.tar",
        "sparse-0.0.tar",
        "sparse-0.1.tar",
        "sparse-1.0.tar",
        "gcp.tar.gz",
        "a.tar.xz",
        "a.tar.zst",
        "a.tar.bz2",
        "layers.tar.gz",
    ] {
        lab.assert_holds(file, "d.raw");
    }
    // Nothing is written for a member that lies plainly in an archive.
    let mut traced = tool("strace");
    traced
        .args(["-f", "-e", "trace=openat,pwrite64,write", "-o"])
        .arg(lab.at("trace"))
        .arg(mif_tests::mif_path());
    run(traced
        .current_dir(lab.0.path())
        .args(["convert", "old-sparse.tar", "t.qcow2", "-q"])
        .env("TMPDIR", "/nonexistent"));
    let trace = fs::read_to_string(lab.at("trace")).unwrap();
    assert!(!trace.contains("O_TMPFILE") && !trace.contains("/nonexistent"), "{trace}");
    // Too many layers.
    lab.sh("gzip -c layers.tar.gz > more.gz");
    lab.assert_refused("more.gz", "more than 3 wrappers");
}

#[test]
fn sparse_members_with_many_holes_and_large_offsets_are_read() {
    if !have(&["tar"]) {
        return;
    }
    let lab = Lab::new();
    // Offsets of more than 8 GiB are not octal, and a map of more than 25 parts takes further headers.
    lab.sh(
        "printf crab | dd of=far.raw bs=1 seek=12626929276 conv=notrunc status=none; \
         cp --sparse=always d.raw holes.raw; truncate -s 40M holes.raw; \
         for i in $(seq 100 160); do printf $i | dd of=holes.raw bs=1 seek=$((i * 262144)) conv=notrunc status=none; done; \
         truncate -s 41943047 holes.raw; for f in oldgnu gnu posix; do tar --format=$f -S -cf $f.tar holes.raw; \
         tar --format=$f -S -cf far-$f.tar far.raw; done",
    );
    for format in ["oldgnu", "gnu", "posix"] {
        run(&mut lab.mif(&["convert", &format!("{format}.tar"), "c.raw", "--force", "-q"]));
        run(tool("cmp").current_dir(lab.0.path()).args(["c.raw", "holes.raw"]));
        run(&mut lab.mif(&["verify", &format!("far-{format}.tar//far.raw"), "./far.raw"]));
    }
}

#[test]
fn a_cut_tar_is_refused_and_so_is_one_without_a_disk() {
    if !have(&["tar"]) {
        return;
    }
    let lab = Lab::new();
    lab.sh("tar --format=posix -cf a.tar d.raw; tar --format=oldgnu -S -cf s.tar d.raw; mkdir src; echo 'int x;' > src/a.c; \
            tar -cf src.tar src; tar -czf src.tar.gz src");
    for tar in ["a.tar", "s.tar"] {
        let whole = fs::read(lab.at(tar)).unwrap();
        for part in [700, 1100, 100_000, whole.len() / 2] {
            fs::write(lab.at("cut.tar"), &whole[..part]).unwrap();
            lab.assert_refused("cut.tar", "truncated");
        }
    }
    lab.assert_refused("src.tar", "without a disk image in it");
    lab.assert_refused("src.tar.gz", "without a disk image in it");
    let error = run_failing(&mut lab.mif(&["info", "a.tar//nothing"]), 3);
    assert!(error.contains("no member \"nothing\"; its disks are d.raw"), "{error}");
    let error = run_failing(&mut lab.mif(&["info", "a.tar//d.raw//x"]), 3);
    assert!(error.contains("not an archive"), "{error}");
    // Of a member that was appended again, the last counts.
    lab.disk("d2.raw", 8);
    lab.sh("cp d.raw x.raw; tar -cf twice.tar x.raw; cp d2.raw x.raw; tar -rf twice.tar x.raw");
    lab.assert_holds("twice.tar", "d2.raw");
    // The bytes of an archive can be read as a raw disk.
    run(&mut lab.mif(&["convert", "src.tar", "raw.raw", "--format", "raw"]));
    assert_eq!(fs::read(lab.at("raw.raw")).unwrap(), fs::read(lab.at("src.tar")).unwrap());
}

/// Python code that lays out an OVA: `ova(name, files, algorithm)`, with a descriptor and a manifest.
const OVA: &str = "
import tarfile, io, hashlib
def ovf(disks, sizes={}):
    files = ''.join('<File ovf:id=\"f%d\" ovf:href=\"%s\" ovf:size=\"%d\"/>' % (i, n, sizes.get(n, len(open(n, 'rb').read()))) for i, n in enumerate(disks))
    refs = ''.join('<Disk ovf:diskId=\"d%d\" ovf:fileRef=\"f%d\" ovf:capacity=\"3145728\"/>' % (i, i) for i in range(len(disks)))
    return ('<?xml version=\"1.0\"?><Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\"><References>' + files + '</References><DiskSection><Info/>' + refs + '</DiskSection></Envelope>').encode()
def ova(name, disks, algorithm='sha256', text=None, wrong=None, extra=[]):
    text = ovf(disks) if text is None else text
    t = tarfile.open(name, 'w', format=tarfile.USTAR_FORMAT)
    def add(n, b):
        i = tarfile.TarInfo(n); i.size = len(b); t.addfile(i, io.BytesIO(b))
    add('vm.ovf', text)
    if algorithm:
        lines = ''
        for n, b in [('vm.ovf', text)] + [(n, open(n, 'rb').read()) for n in disks]:
            d = hashlib.new(algorithm, b).hexdigest()
            if n == wrong: d = '0' * len(d)
            lines += '%s(%s)= %s\\n' % (algorithm.upper(), n, d)
        add('vm.mf', lines.encode())
    for n in list(disks) + extra: add(n, open(n, 'rb').read())
    t.close()
";

#[test]
fn every_disk_of_an_ova_becomes_an_image_and_wrong_digests_are_refused() {
    if !have(&["qemu-img", "python3", "gzip"]) {
        return;
    }
    let lab = Lab::new();
    lab.disk("e.raw", 9);
    lab.qemu("convert -f raw -O vmdk -o subformat=streamOptimized d.raw disk1.vmdk");
    lab.qemu("convert -f raw -O vmdk -o subformat=streamOptimized e.raw disk2.vmdk");
    lab.python(&format!(
        "{OVA}
ova('one.ova', ['disk1.vmdk'], 'sha1', extra=['e.raw'])
ova('vm.ova', ['disk1.vmdk', 'disk2.vmdk'])
ova('plain.ova', ['disk1.vmdk'], None)
ova('wrong.ova', ['disk1.vmdk'], wrong='disk1.vmdk')
ova('wrong1.ova', ['disk1.vmdk'], 'sha1', wrong='vm.ovf')"
    ));
    // Only the disks that the descriptor names count.
    lab.assert_holds("one.ova", "d.raw");
    lab.assert_holds("plain.ova", "d.raw");
    lab.sh("gzip -k vm.ova");
    for (file, prefix) in [("vm.ova", "vm"), ("vm.ova.gz", "gz")] {
        let mut command = lab.mif(&["import", file]);
        if prefix == "gz" {
            command.args(["--name", "gz-{member}"]);
        }
        run(&mut command);
        lab.assert_is(&format!("{prefix}-disk1"), "d.raw");
        lab.assert_is(&format!("{prefix}-disk2"), "e.raw");
        lab.assert_clean();
    }
    let source = json(&lab.at("store"), &["info", "vm-disk2"])["stored"]["provenance"].to_string();
    assert!(source.contains("vm.ova//disk2.vmdk"), "{source}");
    // A second import reads nothing; another member does not get the name.
    let again = run(&mut lab.mif(&["import", "vm.ova", "one.ova", "--json"]));
    assert_eq!(again.matches("\"event\":\"skipped\"").count(), 2, "{again}");
    let error = run_failing(&mut lab.mif(&["import", "vm.ova//disk2.vmdk", "--name", "vm-disk1"]), 2);
    assert!(error.contains("the name vm-disk1 is taken"), "{error}");
    run(&mut lab.mif(&["verify", "vm.ova//disk1.vmdk", "one.ova"]));
    for verb in ["info", "ls"] {
        let error = run_failing(&mut lab.mif(&[verb, "./vm.ova"]), 3);
        assert!(
            error.contains("has 2 disks: disk1.vmdk, disk2.vmdk; name one, as in ./vm.ova//disk1.vmdk"),
            "{error}"
        );
    }
    let error = run_failing(&mut lab.mif(&["import", "vm.ova", "--name", "same"]), 2);
    assert!(error.contains("{member}"), "{error}");
    for file in ["wrong.ova", "wrong1.ova"] {
        lab.assert_refused(file, "its digest differs");
    }
}

#[test]
fn a_hostile_descriptor_is_harmless() {
    if !have(&["qemu-img", "python3"]) {
        return;
    }
    let lab = Lab::new();
    lab.qemu("convert -f raw -O vmdk -o subformat=streamOptimized d.raw disk1.vmdk");
    lab.python(&format!(
        "{OVA}
good = ovf(['disk1.vmdk'])
def bad(name, text): ova(name, ['disk1.vmdk'], None, text)
bad('entity.ova', good.replace(b'<Envelope', b'<!DOCTYPE x [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><Envelope', 1))
bad('outside.ova', good.replace(b'disk1.vmdk', b'../../etc/passwd'))
bad('absolute.ova', good.replace(b'disk1.vmdk', b'/etc/passwd'))
bad('http.ova', good.replace(b'disk1.vmdk', b'http://127.0.0.1/disk1.vmdk'))
bad('large.ova', good + b' ' * (5 << 20))
bad('deep.ova', b'<a>' * 300000)
bad('many.ova', good.replace(b'<Info/>', b'<Info/>' * 300000))
bad('chunks.ova', good.replace(b'ovf:size', b'ovf:chunkSize=\"5\" ovf:size'))
bad('size.ova', ovf(['disk1.vmdk'], {{'disk1.vmdk': 1 << 50}}))"
    ));
    for (file, words) in [
        ("entity.ova", "XML"),
        ("outside.ova", "not in the archive"),
        ("absolute.ova", "not in the archive"),
        ("http.ova", "fetches nothing"),
        ("large.ova", "over the limit"),
        ("deep.ova", "XML"),
        ("many.ova", "XML"),
        ("chunks.ova", "chunks"),
    ] {
        lab.assert_refused(file, words);
        // The disk is still there for who names it.
        run(&mut lab.mif(&["info", &format!("{file}//disk1.vmdk")]));
    }
    let report: Value = serde_json::from_str(&run(&mut lab.mif(&["import", "size.ova", "--json"]))).unwrap();
    assert!(report["warnings"].to_string().contains("1125899906842624 bytes"), "{report}");
}

#[test]
fn boxes_and_zips_have_their_disks() {
    if !have(&["qemu-img", "tar", "zip", "python3"]) {
        return;
    }
    let lab = Lab::new();
    lab.qemu("convert -f raw -O qcow2 d.raw box.img");
    lab.qemu("convert -f raw -O vpc -o subformat=fixed,force_size=on d.raw disk.vhd");
    lab.qemu("convert -f raw -O vmdk -o subformat=twoGbMaxExtentFlat d.raw split.vmdk");
    lab.sh(
        "echo '{\"provider\":\"libvirt\",\"format\":\"qcow2\",\"virtual_size\":1}' > metadata.json; echo x > Vagrantfile; \
         tar -czf v.box ./metadata.json ./Vagrantfile ./box.img; \
         zip -q0 stored.zip disk.vhd; zip -q deflated.zip disk.vhd; cat d.raw | zip -q -fz- streamed.zip -; \
         mkdir flat; mv split* flat; tar -cf flat.tar flat; zip -qr flat.zip flat; printf '#!/bin/sh\\n' | cat - stored.zip > sfx",
    );
    lab.python(
        "
import zipfile
with zipfile.ZipFile('zip64.zip', 'w') as z:
    with z.open('disk.raw', 'w', force_zip64=True) as f: f.write(open('d.raw', 'rb').read())",
    );
    for file in ["v.box", "stored.zip", "deflated.zip", "zip64.zip", "flat.tar", "flat.zip"] {
        lab.assert_holds(file, "d.raw");
    }
    lab.assert_holds("streamed.zip//-", "d.raw");
    let whole = fs::read(lab.at("deflated.zip")).unwrap();
    let mut changed = whole.clone();
    let middle = whole.len() / 2;
    changed[middle] ^= 1;
    fs::write(lab.at("bad.zip"), changed).unwrap();
    lab.assert_refused("bad.zip", "disk.vhd");
    fs::write(lab.at("cut.zip"), &whole[..middle]).unwrap();
    lab.assert_refused("cut.zip", "truncated");
    lab.sh("zip -q -e -P secret secret.zip disk.vhd");
    lab.assert_refused("secret.zip//disk.vhd", "is encrypted");
}

/// Python code that lays out a Proxmox backup from its specification: `vma(name, {device: bytes})`.
const VMA: &str = "
import struct, hashlib, random
def vma(name, disks, order=None):
    uuid = bytes(range(16)); blobs = bytearray(1)
    def blob(b):
        at = len(blobs); blobs.extend(struct.pack('<H', len(b)) + b); return at
    h = bytearray(12288)
    h[0:8] = b'VMA\\0' + struct.pack('>I', 1); h[8:24] = uuid
    struct.pack_into('>I', h, 2044, blob(b'qemu-server.conf\\0')); struct.pack_into('>I', h, 3068, blob(b'cores: 2\\n'))
    for i, (n, b) in enumerate(disks.items(), 1):
        struct.pack_into('>IIQ', h, 4096 + 32 * i, blob(n.encode() + b'\\0'), 0, len(b))
    blobs.extend(bytes(-len(blobs) % 512))
    struct.pack_into('>III', h, 48, 12288, len(blobs), 12288 + len(blobs))
    h += blobs
    h[32:48] = hashlib.md5(h).digest()
    out = open(name, 'wb'); out.write(h)
    clusters = [(i, c) for i, b in enumerate(disks.values(), 1) for c in range((len(b) + 65535) // 65536)]
    random.Random(5).shuffle(clusters)
    datas = list(disks.values())
    for at in range(0, len(clusters), 59):
        infos, data = b'', b''
        for i, c in clusters[at:at + 59]:
            mask = 0
            for k in range(16):
                block = datas[i - 1][c * 65536 + k * 4096:][:4096]
                if block.strip(b'\\0'):
                    mask |= 1 << k; data += block.ljust(4096, b'\\0')
            infos += struct.pack('>HBBI', mask, 0, i, c)
        e = bytearray(b'VMAE\\0\\0' + struct.pack('>H', len(data) // 4096) + uuid + bytes(16) + infos.ljust(472, b'\\0'))
        e[24:40] = hashlib.md5(e).digest()
        out.write(bytes(e) + data)
    out.close()
";

#[test]
fn a_proxmox_backup_has_the_disks_of_its_machine() {
    if !have(&["python3", "zstd", "gzip", "lzop"]) {
        return;
    }
    let lab = Lab::new();
    lab.disk("e.raw", 9);
    lab.sh("head -c 540672 /dev/urandom > efi.raw");
    lab.python(&format!(
        "{VMA}
r = lambda n: open(n, 'rb').read()
vma('vzdump.vma', {{'drive-scsi0': r('d.raw'), 'drive-scsi1': r('e.raw'), 'drive-efidisk0': r('efi.raw')}})
vma('one.vma', {{'drive-virtio0': r('d.raw'), 'vmstate': b'ram' * 100000}})"
    ));
    lab.sh("zstd -q -k vzdump.vma; gzip -k vzdump.vma; lzop -q vzdump.vma");
    for file in ["vzdump.vma", "vzdump.vma.zst", "vzdump.vma.gz", "vzdump.vma.lzo"] {
        run(&mut lab.mif(&["import", file, "--new-version", "--name", "{stem}-{member}"]));
        lab.assert_is("vzdump-drive-scsi0", "d.raw");
        lab.assert_is("vzdump-drive-scsi1", "e.raw");
        lab.assert_is("vzdump-drive-efidisk0", "efi.raw");
        lab.assert_clean();
    }
    let info = run(&mut lab.mif(&["info", "vzdump.vma//drive-scsi0"]));
    assert!(info.contains("qemu-server.conf"), "{info}");
    lab.assert_holds("one.vma", "d.raw");
    let whole = fs::read(lab.at("one.vma")).unwrap();
    for part in [5, 5000, 12800, 13000, whole.len() / 2, whole.len() - 1] {
        fs::write(lab.at("cut.vma"), &whole[..part]).unwrap();
        lab.assert_refused("cut.vma", if part == 5 { "" } else { "truncated" });
    }
}

#[test]
fn a_directory_with_wrapped_disks_is_imported_and_other_archives_are_passed_over() {
    if !have(&["tar", "gzip", "xz", "zip", "zstd", "python3"]) {
        return;
    }
    let lab = Lab::new();
    lab.disk("e.raw", 9);
    lab.sh("mkdir lib src; echo 'int x;' > src/a.c; tar -czf lib/src.tar.gz src; zip -qr lib/doc.docx src; \
         xz -c d.raw > lib/web.raw.xz; gzip -c d.raw > lib/unnamed; tar -cf lib/pair.tar d.raw e.raw; \
         printf '!<arch>\\n' > lib/x.deb; echo hello | gzip > lib/notes.gz; \
         find src | cpio -o -H newc 2>/dev/null | gzip > lib/initrd.img || true; \
         head -c 30000 lib/web.raw.xz > lib/cut.raw.xz");
    let output = lab.mif(&["import", "lib", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let events: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |event: &str| events.iter().filter(|line| line["event"] == event).count();
    assert_eq!((of("finished"), of("failed")), (4, 1), "{events:?}");
    let passed_over: Vec<String> = events
        .iter()
        .filter(|line| line["event"] == "passed_over")
        .map(|line| line["path"].as_str().unwrap().to_owned())
        .collect();
    for name in ["src.tar.gz", "doc.docx", "x.deb", "notes.gz"] {
        assert!(passed_over.iter().any(|path| path.ends_with(name)), "{name}: {passed_over:?}");
    }
    assert_eq!(lab.images(), ["pair-d", "pair-e", "unnamed", "web"]);
    lab.assert_is("web", "d.raw");
    lab.assert_is("pair-e", "e.raw");
    lab.sh("rm lib/cut.raw.xz");
    let again = run(&mut lab.mif(&["import", "lib", "--json"]));
    assert_eq!(again.matches("\"event\":\"skipped\"").count(), 4, "{again}");
    let verified = run(&mut lab.mif(&["verify", "--all", "--against", "lib", "--json"]));
    assert_eq!(verified.matches("\"result\":\"same\"").count(), 4, "{verified}");
    lab.assert_clean();
}

#[test]
fn members_refer_to_members_and_to_no_other_file() {
    if !have(&["qemu-img", "tar"]) {
        return;
    }
    let lab = Lab::new();
    lab.qemu("convert -f raw -O qcow2 d.raw base.qcow2");
    lab.qemu("create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2");
    lab.sh("mkdir x; tar -cf both.tar base.qcow2 top.qcow2; tar -cf alone.tar top.qcow2; xz -k top.qcow2; tar -cf x/up.tar top.qcow2");
    run(&mut lab.mif(&["convert", "both.tar//top.qcow2", "c.raw"]));
    run(tool("cmp").current_dir(lab.0.path()).args(["c.raw", "d.raw"]));
    let error = lab.assert_refused("alone.tar", "base.qcow2");
    assert!(error.contains("the archive does not have it"), "{error}");
    // A compressed image is where its file is.
    lab.assert_holds("top.qcow2.xz", "d.raw");
    let found = lab.mif(&["import", "both.tar"]).output().unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    lab.assert_is("both-top", "d.raw");
}

#[test]
fn an_interrupted_import_of_a_compressed_file_leaves_nothing() {
    if !have(&["zstd", "sh"]) {
        return;
    }
    let lab = Lab::new();
    // Ten frames of a gibibyte.
    lab.sh("head -c 1G /dev/zero | zstd -q -o one.zst && for _ in 1 2 3 4 5 6 7 8 9 10; do cat one.zst; done >zeros.zst");
    let mut child = lab.mif(&["import", "zeros.zst"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(700));
    run(tool("kill").args(["-INT", &child.id().to_string()]));
    let started = std::time::Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    lab.assert_clean();
    assert!(!Path::new(&lab.at("store/images/name=zeros")).exists());
}
