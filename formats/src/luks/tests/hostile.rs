//! Headers that lie: every claim is checked before work or memory follows it.

use serde_json::{Value, json};

use super::*;
use crate::luks::hash::Hash;

/// Returns the volume of LUKS1 after changes, each of bytes at an offset.
fn poked1(pokes: &[(usize, &[u8])]) -> (ErrorKind, String) {
    let mut bytes = luks1().to_vec();
    for (at, poke) in pokes {
        bytes[*at..at + poke.len()].copy_from_slice(poke);
    }
    refused(&bytes)
}

/// Writes the checksum of the copy of a header at `offset`.
pub(super) fn seal(bytes: &mut [u8], offset: usize, size: usize) {
    let copy = &mut bytes[offset..offset + size];
    copy[448..512].fill(0);
    let digest = Hash::Sha256.digest(&[copy]);
    copy[448..480].copy_from_slice(&digest);
}

/// Returns the volume of LUKS2 with this JSON in both copies of the header.
pub(super) fn with_text(text: &[u8]) -> Vec<u8> {
    let mut bytes = luks2().to_vec();
    for offset in [0, 0x4000] {
        let area = &mut bytes[offset + 4096..offset + 0x4000];
        area.fill(0);
        area[..text.len()].copy_from_slice(text);
        seal(&mut bytes, offset, 0x4000);
    }
    bytes
}

/// Returns the JSON of the volume of LUKS2.
pub(super) fn json_of(bytes: &[u8]) -> Value {
    let text = &bytes[4096..0x4000];
    serde_json::from_slice(&text[..text.iter().position(|byte| *byte == 0).unwrap()]).unwrap()
}

/// Returns the volume of LUKS2 with a changed JSON.
pub(super) fn edited(edit: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut json = json_of(luks2());
    edit(&mut json);
    with_text(json.to_string().as_bytes())
}

#[test]
fn each_bad_field_of_luks1_is_refused() {
    if !have(&["qemu-img"]) {
        return;
    }
    type Case = (&'static [(usize, &'static [u8])], ErrorKind, &'static str);
    let cases: &[Case] = &[
        (&[(7, &[3])], ErrorKind::Unsupported, "version"),
        (&[(8, b"serpent\0")], ErrorKind::Unsupported, "serpent-xts-plain64"),
        (&[(40, b"ecb\0")], ErrorKind::Unsupported, "aes-ecb"),
        (&[(72, b"ripemd160\0")], ErrorKind::Unsupported, "ripemd160"),
        (&[(104, &[0; 4])], ErrorKind::Unsupported, "detached"),
        (&[(104, &[255; 4])], ErrorKind::Corrupt, "truncated"),
        (&[(108, &[0; 4])], ErrorKind::Corrupt, "key_bytes"),
        (&[(108, &[255; 4])], ErrorKind::Corrupt, "key_bytes"),
        // The digest's iterations, and the slot's.
        (&[(164, &[0; 4])], ErrorKind::Corrupt, "iterations"),
        (&[(164, &[0x80, 0, 0, 0])], ErrorKind::Limit, "2147483648 iterations"),
        (&[(212, &[0x80, 0, 0, 0])], ErrorKind::Limit, "2147483648 iterations"),
        (&[(212, &[0; 4])], ErrorKind::Corrupt, "iterations"),
        (&[(208, &[1])], ErrorKind::Unsupported, "neither enabled nor disabled"),
        (&[(208, &[0, 0, 0xde, 0xad])], ErrorKind::Denied, "no key slot in use"),
        (&[(248, &[255; 4])], ErrorKind::Unsupported, "not between the header and the payload"),
        (&[(248, &[0; 4])], ErrorKind::Unsupported, "not between the header and the payload"),
        (&[(252, &[0; 4])], ErrorKind::Unsupported, "stripes"),
        (&[(252, &[255; 4])], ErrorKind::Unsupported, "stripes"),
    ];
    for (pokes, kind, words) in cases {
        let (found, text) = poked1(pokes);
        assert_eq!((found, text.contains(words)), (*kind, true), "{pokes:?}: {text}");
    }
    // A key slot and a payload that the file does not reach.
    for len in [512, 600, 5000, 300_000] {
        let error = match Header::read(&MemSource(luks1()[..len].to_vec())) {
            Err(error) => error,
            Ok(_) => open(&luks1()[..len]).err().unwrap(),
        };
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{len}: {error}");
    }
}

/// <https://github.com/edgelesssys/contrast/issues/2648>: a list of checks that forgot what a slot costs.
#[test]
fn each_bad_value_of_the_json_is_refused() {
    if !have(&["cryptsetup"]) {
        return;
    }
    use ErrorKind::{Corrupt, Limit, Unsupported};
    let huge = u64::MAX.to_string();
    let argon = |time: u64, memory: u64| json!({"type": "argon2id", "time": time, "memory": memory, "cpus": 1, "salt": "c2FsdHNhbHQ="});
    let cases: Vec<(&str, Value, ErrorKind, &str)> = vec![
        ("/segments", json!({}), Corrupt, "segments: there is none"),
        ("/segments", json!([]), Corrupt, "the JSON.segments"),
        ("/segments/0/type", json!("linear"), Unsupported, "not encrypted"),
        ("/segments/0/type", json!("hw-opal-crypt"), Unsupported, "drive encrypts"),
        ("/segments/0/offset", json!("0"), Unsupported, "detached"),
        ("/segments/0/offset", json!(16_777_216), Corrupt, "a string"),
        ("/segments/0/offset", json!("16777217"), Corrupt, "a multiple of 512"),
        ("/segments/0/offset", json!("4096"), Corrupt, "after both copies"),
        ("/segments/0/offset", json!("18446744073709551104"), Corrupt, "truncated"),
        ("/segments/0/offset", json!("18446744073709551616"), Corrupt, "below 2^64"),
        ("/segments/0/offset", json!("+16777216"), Corrupt, "digits"),
        ("/segments/0/size", json!("18446744073709551104"), Corrupt, "size"),
        ("/segments/0/size", json!("1073741824"), Corrupt, "truncated"),
        ("/segments/0/size", json!("0"), Corrupt, "size"),
        ("/segments/0/sector_size", json!(8192), Corrupt, "sector_size"),
        ("/segments/0/sector_size", json!(0), Corrupt, "sector_size"),
        ("/segments/0/sector_size", json!(513), Corrupt, "sector_size"),
        ("/segments/0/encryption", json!("aegis128-random"), Unsupported, "aegis128-random"),
        ("/segments/0/encryption", json!("aes-xts-plain64 "), Unsupported, "aes-xts-plain64 "),
        ("/segments/0/integrity", json!({"type": "hmac(sha256)"}), Unsupported, "hmac(sha256)"),
        ("/segments/0/flags", json!(["in-reencryption"]), Unsupported, "cryptsetup reencrypt"),
        (
            "/config/requirements",
            json!({"mandatory": ["online-reencrypt-v2"]}),
            Unsupported,
            "cryptsetup reencrypt",
        ),
        ("/config/requirements", json!({"mandatory": ["teleport"]}), Unsupported, "teleport"),
        ("/keyslots/0/area/offset", json!(huge), Unsupported, "not between"),
        ("/keyslots/0/area/offset", json!("0"), Unsupported, "not between"),
        ("/keyslots/0/area/size", json!("255999"), Unsupported, "256000 bytes at least"),
        ("/keyslots/0/af/stripes", json!(4_294_967_295u32), Unsupported, "bytes at least"),
        ("/keyslots/0/af/stripes", json!(4_294_967_296u64), Unsupported, "below 2^32"),
        ("/keyslots/0/af/hash", json!("whirlpool"), Unsupported, "whirlpool"),
        ("/keyslots/0/key_size", json!(0), Unsupported, "key_size"),
        ("/keyslots/0/key_size", json!(65), Unsupported, "260000 bytes at least"),
        ("/keyslots/0/area/key_size", json!(65), Unsupported, "key_size"),
        ("/keyslots/0/type", json!("luks3"), Unsupported, "luks3"),
        ("/keyslots/0/kdf/type", json!("scrypt"), Unsupported, "scrypt"),
        ("/keyslots/0/kdf/salt", json!("!"), Unsupported, "base64"),
        ("/keyslots/0/kdf/iterations", json!(2_147_483_648u32), Limit, "2147483648 iterations"),
        ("/keyslots/0/kdf/iterations", json!(0), Corrupt, "iterations"),
        // 4 TiB - 1 KiB, and as many passes over what fits.
        ("/keyslots/0/kdf", argon(4, u64::from(u32::MAX)), Limit, "KiB of memory"),
        ("/keyslots/0/kdf", argon(u64::from(u32::MAX), 1 << 20), Limit, "passes"),
        ("/keyslots/0/kdf", argon(0, 64), Corrupt, "Argon2"),
        ("/digests/0/iterations", json!(2_147_483_648u32), Limit, "2147483648 iterations"),
        ("/digests/0/digest", json!(""), Corrupt, "digest"),
        ("/digests/0/type", json!("sum"), Unsupported, "sum"),
        ("/digests/0/segments", json!([]), Corrupt, "no digest"),
        ("/digests/0/keyslots", json!([]), ErrorKind::Denied, "no key slot in use"),
        ("/keyslots", json!({"zero": {}}), Corrupt, "not a number"),
        ("/keyslots", (0..33).map(|n| (n.to_string(), json!({}))).collect(), Limit, "33 objects"),
    ];
    for (pointer, value, kind, words) in cases {
        let bytes = edited(|json| match json.pointer_mut(pointer) {
            Some(place) => *place = value.clone(),
            None => {
                let (parent, field) = pointer.rsplit_once('/').unwrap();
                json.pointer_mut(parent).unwrap()[field] = value.clone();
            }
        });
        let (found, text) = refused(&bytes);
        assert_eq!((found, text.contains(words)), (kind, true), "{pointer} {value}: {text}");
    }
}

#[test]
fn json_that_is_none_or_nests_without_end_is_damage() {
    if !have(&["cryptsetup"]) {
        return;
    }
    for text in [&b"{"[..], b"", b"[]", b"\xff", &b"[".repeat(12_000), &b"{\"a\":".repeat(2_400)] {
        let (kind, said) = refused(&with_text(text));
        assert_eq!(kind, ErrorKind::Corrupt, "{said}");
    }
    // The largest header, of 4 MiB, full of arrays in arrays.
    let size = 0x40_0000;
    let mut bytes = vec![b'['; 2 * size];
    for (offset, magic) in [(0, MAGIC), (size, *b"SKUL\xba\xbe")] {
        bytes[offset..offset + 4096].copy_from_slice(&luks2()[..4096]);
        bytes[offset..offset + 6].copy_from_slice(&magic);
        bytes[offset + 8..offset + 16].copy_from_slice(&(size as u64).to_be_bytes());
        bytes[offset + 256..offset + 264].copy_from_slice(&(offset as u64).to_be_bytes());
        seal(&mut bytes, offset, size);
    }
    let error = Header::read(&MemSource(bytes)).unwrap_err();
    assert!(error.to_string().contains("JSON is damaged"), "{error}");
}

/// Thousands of damaged headers are opened or refused, and none panics, takes long or reads a wrong key as the right one.
#[test]
fn mutants_are_opened_or_refused() {
    if !have(&["cryptsetup", "qemu-img"]) {
        return;
    }
    // Without the payload: 16 MiB would be copied for each.
    let cut = |bytes: &[u8], offset: usize| bytes[..offset + 4096].to_vec();
    let one = cut(luks1(), crate::bytes::be32(luks1(), 104) as usize * 512);
    let mut two = edited(|json| {
        json["segments"]["0"]["offset"] = "294912".into();
    });
    two.copy_within(16 << 20..(16 << 20) + 4096, 294_912);
    let two = cut(&two, 294_912);
    let first = plaintext()[..4096].to_vec();
    let mut dice = Dice::new(31);
    let mut opened = 0;
    let started = std::time::Instant::now();
    let mut rounds = 0;
    while rounds < 6000 && started.elapsed().as_secs() < 60 {
        let is_one = rounds % 2 == 0;
        let mut bytes = if is_one { one.clone() } else { two.clone() };
        let hot = if is_one { 0..260 } else { 4096..4096 + 1200 };
        dice.mutate(&mut bytes[..0x4000], &[hot]);
        if !is_one {
            seal(&mut bytes, 0, 0x4000);
            // So that the copy does not take the mutant's place.
            bytes[0x4000] = 0;
        }
        rounds += 1;
        let volume: Arc<dyn Source> = Arc::new(MemSource(bytes));
        let Ok(Some(header)) = Header::read(&*volume) else { continue };
        // Little enough for each that no round takes seconds.
        let mut budget = Budget::of(20_000);
        let Ok(plain) = header.open(volume, &[Passphrase::new(KEY.to_vec())], &mut budget) else { continue };
        opened += usize::from(plain.read_vec(0, 512).is_ok_and(|bytes| bytes == first[..512]));
    }
    assert!(rounds >= 1000 && opened > rounds / 50, "{opened} of {rounds}");
}
