//! Volumes made by cryptsetup and qemu-img, which need neither root nor a device mapper for it, read back with their keys.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::*;
use crate::error::{ErrorKind, Result};
use crate::source::{MemSource, Source};
use crate::testing::{Dice, have, run};

mod hostile;
mod reports;

/// The passphrase of all volumes, with bytes that a shell or a text file would change. (QEMU takes only UTF-8.)
const KEY: &[u8] = b"sec\nret\xc3\xa4 ";

/// Another one, that only cryptsetup takes.
const OTHER: &[u8] = b"an\0other\xff";

/// How cryptsetup derives keys here: as fast as it lets us.
const FAST: &str = "--pbkdf pbkdf2 --pbkdf-force-iterations 1000";

/// Returns what the volumes hold: as long as a partition may be, and not of whole 4096-byte blocks.
fn plaintext() -> Vec<u8> {
    let mut dice = Dice::new(7);
    (0..(1 << 20) + 512).map(|_| dice.roll(256) as u8).collect()
}

fn split(options: &str) -> impl Iterator<Item = &str> {
    options.split_whitespace()
}

fn written(dir: &Path, name: &str, bytes: &[u8]) -> String {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Encrypts the plaintext in place with cryptsetup: LUKS2.
fn by_cryptsetup(options: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = plaintext();
    // The encrypted data is moved up by half of what the device is reduced by, in whole sectors of every size.
    bytes.resize(bytes.len().next_multiple_of(4096) + (32 << 20), 0);
    let (volume, key) = (written(dir.path(), "volume", &bytes), written(dir.path(), "key", KEY));
    let args = [
        "reencrypt",
        "--encrypt",
        "--type",
        "luks2",
        "--reduce-device-size",
        "32M",
        "-q",
        "--key-file",
        &key,
        &volume,
    ];
    run("cryptsetup", &args.into_iter().chain(split(options)).collect::<Vec<_>>());
    std::fs::read(volume).unwrap()
}

/// Encrypts the plaintext with qemu-img: LUKS1.
fn by_qemu_img(options: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (plain, key) = (written(dir.path(), "plain", &plaintext()), written(dir.path(), "key", KEY));
    let volume = dir.path().join("volume");
    let secret = format!("secret,id=s,file={key}");
    let options = format!("key-secret=s,iter-time=10{options}");
    let args = [
        "convert",
        "-f",
        "raw",
        "-O",
        "luks",
        "--object",
        &secret,
        "-o",
        &options,
        &plain,
        volume.to_str().unwrap(),
    ];
    // It measures how fast the machine is, and sometimes fails to ("Unable to get accurate CPU usage").
    for _ in 0..5 {
        if std::process::Command::new("qemu-img").args(args).output().unwrap().status.success() {
            return std::fs::read(volume).unwrap();
        }
    }
    run("qemu-img", &args);
    std::fs::read(volume).unwrap()
}

/// A volume of LUKS2 that is made once.
fn luks2() -> &'static [u8] {
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    MADE.get_or_init(|| by_cryptsetup(FAST))
}

/// A volume of LUKS1 that is made once.
fn luks1() -> &'static [u8] {
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    MADE.get_or_init(|| by_qemu_img(""))
}

fn open_with(bytes: &[u8], keys: &[&[u8]]) -> Result<Plaintext> {
    let volume: Arc<dyn Source> = Arc::new(MemSource(bytes.to_vec()));
    let keys: Vec<_> = keys.iter().map(|key| Passphrase::new(key.to_vec())).collect();
    Header::read(&*volume)?.expect("the magic bytes of LUKS").open(volume, &keys, &mut Budget::default())
}

fn open(bytes: &[u8]) -> Result<Plaintext> {
    open_with(bytes, &[KEY])
}

fn refused(bytes: &[u8]) -> (ErrorKind, String) {
    let error = open(bytes).err().expect("refused");
    (error.kind(), error.to_string())
}

/// Reads the plaintext in all kinds of pieces, and compares it.
fn assert_plain(plain: &Plaintext, what: &str) {
    let expected = plaintext();
    let len = expected.len();
    assert!(plain.len() >= len as u64, "{what}");
    assert!(plain.read_vec(0, len).unwrap() == expected, "{what}");
    let mut dice = Dice::new(1);
    for _ in 0..400 {
        let start = dice.roll(len);
        let most = [3, 700, 5000, 70_000][dice.roll(4)];
        let piece = dice.roll(most).min(len - start);
        assert!(
            plain.read_vec(start as u64, piece).unwrap() == expected[start..start + piece],
            "{what}: {start}+{piece}"
        );
    }
    assert!(plain.read_vec(plain.len(), 1).is_err() && plain.read_vec(u64::MAX, 2).is_err());
}

#[test]
fn what_cryptsetup_encrypts_is_read() {
    if !have(&["cryptsetup"]) {
        return;
    }
    let argon = "--pbkdf-memory 64 --pbkdf-force-iterations 4 --pbkdf-parallel";
    let cases = [
        (FAST.to_owned(), "aes-xts-plain64"),
        (format!("{FAST} --hash sha512 --key-size 256 --sector-size 4096"), "aes-xts-plain64"),
        (format!("{FAST} --hash sha1 --sector-size 1024"), "aes-xts-plain64"),
        (format!("{FAST} --cipher aes-cbc-essiv:sha256 --key-size 256"), "aes-cbc-essiv:sha256"),
        (format!("{FAST} --cipher aes-cbc-plain64 --key-size 128 --sector-size 4096"), "aes-cbc-plain64"),
        (
            format!("{FAST} --cipher aes-cbc-essiv:sha256 --key-size 192 --hash sha384"),
            "aes-cbc-essiv:sha256",
        ),
        (format!("--pbkdf argon2id {argon} 1"), "aes-xts-plain64"),
        (format!("--pbkdf argon2i {argon} 2 --sector-size 2048"), "aes-xts-plain64"),
        (format!("{FAST} --luks2-metadata-size 64k --label two\u{20}"), "aes-xts-plain64"),
    ];
    for (options, cipher) in cases {
        let volume = by_cryptsetup(&options);
        let header = Header::read(&MemSource(volume.clone())).unwrap().unwrap();
        assert_eq!(
            (header.info.version, &*header.info.cipher, &header.warnings[..]),
            (2, cipher, &[][..]),
            "{options}"
        );
        assert_eq!(header.info.label.as_deref(), options.contains("--label").then_some("two"));
        assert_plain(&open(&volume).unwrap(), &options);
    }
}

#[test]
fn what_qemu_img_encrypts_is_read() {
    if !have(&["qemu-img"]) {
        return;
    }
    // Without keys of 192 bits, whose stripes are not whole sectors: QEMU 7.2 aborts at them.
    let cases = [
        ("", "aes-xts-plain64"),
        (",cipher-alg=aes-128,hash-alg=sha512", "aes-xts-plain64"),
        (",ivgen-alg=plain,hash-alg=sha1", "aes-xts-plain"),
        (",cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256", "aes-cbc-essiv:sha256"),
        (",cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256", "aes-cbc-essiv:sha256"),
        (",cipher-mode=cbc,ivgen-alg=plain64,hash-alg=sha224", "aes-cbc-plain64"),
        (",cipher-mode=cbc,ivgen-alg=plain,hash-alg=sha384", "aes-cbc-plain"),
    ];
    for (options, cipher) in cases {
        let volume = by_qemu_img(options);
        let header = Header::read(&MemSource(volume.clone())).unwrap().unwrap();
        assert_eq!((header.info.version, &*header.info.cipher), (1, cipher), "{options}");
        let plain = open(&volume).unwrap();
        assert_eq!(plain.len(), plaintext().len() as u64, "{options}");
        assert_plain(&plain, options);
    }
}

#[test]
fn any_key_slot_opens_and_a_removed_one_does_not() {
    if !have(&["cryptsetup", "qemu-img"]) {
        return;
    }
    for made in [luks1(), luks2()] {
        let dir = tempfile::tempdir().unwrap();
        let (volume, key) = (written(dir.path(), "volume", made), written(dir.path(), "key", KEY));
        let other = written(dir.path(), "other", OTHER);
        let add = ["luksAddKey", "-q", "--key-file", &key, "--key-slot", "5", &volume, &other];
        run("cryptsetup", &add.into_iter().chain(split(FAST)).collect::<Vec<_>>());
        let both = std::fs::read(&volume).unwrap();
        for key in [KEY, OTHER] {
            assert_plain(&open_with(&both, &[b"wrong", key]).unwrap(), "either key");
        }
        run("cryptsetup", &["luksKillSlot", "-q", "--key-file", &other, &volume, "0"]);
        let one = std::fs::read(&volume).unwrap();
        assert_plain(&open_with(&one, &[OTHER]).unwrap(), "the key that is left");
        let (kind, text) = refused(&one);
        assert_eq!(kind, ErrorKind::Denied);
        assert!(text.contains("no key opens the volume (LUKS"), "{text}");
        run("cryptsetup", &["luksKillSlot", "-q", "--key-file", &other, &volume, "5"]);
        let (kind, text) = refused(&std::fs::read(&volume).unwrap());
        assert_eq!(kind, ErrorKind::Denied);
        assert!(text.contains("has no key slot in use"), "{text}");
    }
}

#[test]
fn a_wrong_key_is_refused_and_a_line_break_at_its_end_is_suspected() {
    if !have(&["cryptsetup", "qemu-img"]) {
        return;
    }
    for volume in [luks1(), luks2()] {
        let text = |key: &[u8]| open_with(volume, &[key]).err().unwrap().to_string();
        let broken = text(&[KEY, b"\n"].concat());
        assert!(broken.contains("ends in a line break, which counts") && broken.contains("UUID"), "{broken}");
        assert!(text(b"sec").contains("all bytes of a key file count"));
        let error = open_with(volume, &[]).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("--key-file FILE or --ask-key"), "{error}");
    }
}

#[test]
fn other_volumes_are_not_luks() {
    for bytes in [vec![], vec![0; 100], vec![0; 4096], [&b"LUKS\xba\xbf\0\x01"[..], &[0; 4088]].concat()] {
        assert!(Header::read(&MemSource(bytes)).unwrap().is_none());
    }
}
