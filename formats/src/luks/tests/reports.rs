//! What others' readers of LUKS got wrong, by their reports.

use serde_json::json;

use super::hostile::{edited, json_of, seal, with_text};
use super::*;

/// Returns the key slots of the volume of LUKS1, split into `stripes` stripes by nobody: only the number differs.
fn with_stripes(stripes: u32) -> Vec<u8> {
    let mut bytes = luks1().to_vec();
    bytes[252..256].copy_from_slice(&stripes.to_be_bytes());
    bytes
}

/// <https://github.com/t-d-k/LibreCrypt/issues/55>: LibreCrypt makes two stripes, and cryptsetup wants 4000. The
/// specification sets no minimum.
#[test]
fn few_stripes_are_no_reason_to_refuse_a_slot() {
    if !have(&["qemu-img"]) {
        return;
    }
    let (kind, text) = refused(&with_stripes(2));
    assert_eq!(kind, ErrorKind::Denied, "the slot is tried: {text}");
    assert!(!text.contains("stripes"), "{text}");
}

/// <https://github.com/hashcat/hashcat/issues/2476> and <https://github.com/dyne/tomb/issues/311>: headers with the cipher
/// mode `xts-plain64:sha256`, which dm-crypt takes for `xts-plain64`.
#[test]
fn a_hash_behind_plain64_is_ignored() {
    if !have(&["qemu-img"]) {
        return;
    }
    let mut bytes = luks1().to_vec();
    bytes[40..59].copy_from_slice(b"xts-plain64:sha256\0");
    assert_plain(&open(&bytes).unwrap(), "xts-plain64:sha256");
}

/// <https://github.com/hashcat/hashcat/issues/1812> and <https://github.com/rear/rear/issues/425>: a mode without a vector,
/// which the kernel refuses ("IV mechanism required"). <https://github.com/hashcat/hashcat/issues/2345>: Blowfish.
/// <https://github.com/coreos/coreos-assembler/issues/1496>: `cipher_null`, by which any key opens.
#[test]
fn ciphers_that_are_not_read_are_named() {
    if !have(&["qemu-img"]) {
        return;
    }
    for (name, mode) in
        [("aes", "cbc"), ("blowfish", "cbc-plain"), ("cipher_null", "ecb"), ("twofish", "xts-benbi")]
    {
        let mut bytes = luks1().to_vec();
        bytes[8..72].fill(0);
        bytes[8..8 + name.len()].copy_from_slice(name.as_bytes());
        bytes[40..40 + mode.len()].copy_from_slice(mode.as_bytes());
        let (kind, text) = refused(&bytes);
        assert_eq!(
            (kind, text.contains(&format!("{name}-{mode}"))),
            (ErrorKind::Unsupported, true),
            "{text}"
        );
        let header = Header::read(&MemSource(bytes)).unwrap().unwrap();
        assert!(header.info.describe().contains(&format!("{name}-{mode}")), "it is described all the same");
    }
}

/// <https://github.com/t-d-k/LibreCrypt/issues/3>: `xts-essiv:sha256`, which other readers took for a wrong key.
#[test]
fn xts_with_essiv_is_read() {
    if !have(&["qemu-img"]) {
        return;
    }
    let volume = by_qemu_img(",cipher-mode=xts,ivgen-alg=essiv,ivgen-hash-alg=sha256");
    assert_plain(&open(&volume).unwrap(), "xts-essiv:sha256");
}

/// <https://github.com/util-linux/util-linux/pull/2788>: a header at another place than it says, which was swapped out.
#[test]
fn a_header_at_another_place_than_it_says_is_damage() {
    if !have(&["cryptsetup"]) {
        return;
    }
    let mut bytes = luks2().to_vec();
    for offset in [0, 0x4000] {
        bytes[offset + 256..offset + 264].copy_from_slice(&0x8000u64.to_be_bytes());
        seal(&mut bytes, offset, 0x4000);
    }
    let (kind, text) = refused(&bytes);
    assert_eq!((kind, text.contains("hdr_offset")), (ErrorKind::Corrupt, true), "{text}");
}

/// <https://github.com/Dstack-TEE/dstack/pull/799>: a key slot in the payload or in the header itself.
#[test]
fn a_key_slot_lies_between_the_header_and_the_payload() {
    if !have(&["cryptsetup"]) {
        return;
    }
    for offset in ["4096", "16777216", "16600000"] {
        let bytes = edited(|json| json["keyslots"]["0"]["area"]["offset"] = offset.into());
        let (_, text) = refused(&bytes);
        assert!(text.contains("not between the header and the payload"), "{text}");
    }
}

/// <https://github.com/util-linux/util-linux/pull/1801>: LUKS2 exists twice so that a copy that was partly overwritten does
/// no harm.
#[test]
fn either_copy_of_the_header_opens_and_the_damaged_one_is_told() {
    if !have(&["cryptsetup"]) {
        return;
    }
    for (at, words) in [
        (5000, "second copy was used"),
        (0x4000 + 5000, "second copy of the LUKS header is damaged"),
        (9, "hdr_size"),
    ] {
        let mut bytes = luks2().to_vec();
        bytes[at] ^= 0xff;
        let warnings = Header::read(&MemSource(bytes.clone())).unwrap().unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].contains(words), "{warnings:?}");
        assert_plain(&open(&bytes).unwrap(), "a damaged copy");
    }
    let mut bytes = luks2().to_vec();
    bytes[5000] ^= 1;
    bytes[0x4000 + 5000] ^= 1;
    let (kind, text) = refused(&bytes);
    assert_eq!((kind, text.contains("checksum")), (ErrorKind::Corrupt, true), "{text}");
    // An update that was interrupted after the second copy.
    let mut bytes = luks2().to_vec();
    bytes[0x4000 + 23] += 1;
    seal(&mut bytes, 0x4000, 0x4000);
    bytes[0x4000 + 24..0x4000 + 27].copy_from_slice(b"new");
    seal(&mut bytes, 0x4000, 0x4000);
    assert_eq!(Header::read(&MemSource(bytes)).unwrap().unwrap().info.label.as_deref(), Some("new"));
}

/// <https://github.com/project-machine/disko/pull/119>: the second copy of a volume that is gone brought it back.
#[test]
fn a_second_copy_alone_is_no_volume() {
    if !have(&["cryptsetup"]) {
        return;
    }
    let mut bytes = luks2().to_vec();
    bytes[..4096].fill(0);
    assert!(Header::read(&MemSource(bytes)).unwrap().is_none());
}

/// <https://github.com/systemd/systemd/pull/20863>: tokens are other programs', and may hold anything.
#[test]
fn tokens_are_not_read() {
    if !have(&["cryptsetup"]) {
        return;
    }
    let bytes = edited(|json| json["tokens"] = json!({"0": {"type": "x", "keyslots": 7}, "a": [null]}));
    assert_plain(&open(&bytes).unwrap(), "strange tokens");
}

/// <https://github.com/canonical/secboot/pull/128>: numbers of 64 bits are strings, whose range JSON does not limit.
#[test]
fn numbers_of_64_bits_are_strings() {
    if !have(&["cryptsetup"]) {
        return;
    }
    assert!(json_of(luks2())["segments"]["0"]["offset"].is_string());
    // The counter of sectors wraps as the kernel's does, and does not panic.
    let bytes = edited(|json| json["segments"]["0"]["iv_tweak"] = u64::MAX.to_string().into());
    let plain = open(&bytes).unwrap();
    assert_ne!(plain.read_vec(0, 512).unwrap(), plaintext()[..512]);
}

/// <https://github.com/openwall/john/issues/5070>: a slot whose stripes are not whole sectors.
#[test]
fn stripes_that_end_within_a_sector_are_read_with_the_rest_of_it() {
    if !have(&["qemu-img"]) {
        return;
    }
    for stripes in [1, 3, 7, 3999] {
        assert_eq!(refused(&with_stripes(stripes)).0, ErrorKind::Denied, "{stripes}");
    }
}

/// <https://github.com/rwpenney/cryptmount/issues/5> and <https://github.com/siderolabs/talos/issues/12105>: a header alone.
#[test]
fn a_detached_header_is_refused_in_words() {
    if !have(&["cryptsetup"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (data, key) = (written(dir.path(), "data", &vec![0; 1 << 20]), written(dir.path(), "key", KEY));
    for kind in ["luks1", "luks2"] {
        let header = dir.path().join(kind).to_str().unwrap().to_owned();
        let args = ["luksFormat", "-q", "--type", kind, "--key-file", &key, "--header", &header, &data];
        run("cryptsetup", &args.into_iter().chain(split(FAST)).collect::<Vec<_>>());
        let (error, text) = refused(&std::fs::read(&header).unwrap());
        assert_eq!((error, text.contains("detached")), (ErrorKind::Unsupported, true), "{kind}: {text}");
        // The backup of a header that is not detached.
    }
    for made in [luks1(), luks2()] {
        let len = if made == luks1() { crate::bytes::be32(made, 104) as usize * 512 } else { 16 << 20 };
        let (error, text) = refused(&made[..len]);
        assert_eq!((error, text.contains("only a header")), (ErrorKind::Corrupt, true), "{text}");
    }
}

/// cryptsetup that was interrupted while it encrypted: both keys are needed, and no part is taken for the whole.
#[test]
fn a_volume_in_reencryption_is_refused() {
    if !have(&["cryptsetup"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (volume, key) = (written(dir.path(), "volume", luks2()), written(dir.path(), "key", KEY));
    let args = ["reencrypt", "--init-only", "-q", "--key-file", &key, &volume];
    run("cryptsetup", &args.into_iter().chain(split(FAST)).collect::<Vec<_>>());
    let bytes = std::fs::read(&volume).unwrap();
    let (kind, text) = refused(&bytes);
    assert_eq!((kind, text.contains("cryptsetup reencrypt")), (ErrorKind::Unsupported, true), "{text}");
    assert!(
        Header::read(&MemSource(bytes))
            .unwrap()
            .unwrap()
            .info
            .describe()
            .starts_with("LUKS2, aes-xts-plain64")
    );
}

/// <https://github.com/cryptcoffee/skul/issues/5>: a slot besides the first; and a slot that cannot be read hides no other.
#[test]
fn a_slot_that_cannot_be_read_does_not_hide_the_next() {
    if !have(&["cryptsetup"]) {
        return;
    }
    let bytes = edited(|json| {
        let slots = &mut json["keyslots"];
        slots["3"] = slots["0"].clone();
        slots["0"]["kdf"] = json!({"type": "scrypt", "salt": ""});
        slots["1"] = slots["3"].clone();
        slots["1"]["kdf"]["iterations"] = u32::MAX.into();
        json["digests"]["0"]["keyslots"] = json!(["0", "1", "3"]);
    });
    assert_plain(&open(&bytes).unwrap(), "the third slot");
    let text = open_with(&bytes, &[b"wrong"]).err().unwrap().to_string();
    assert!(text.contains("key slot 0 was not tried") && text.contains("key slot 1 was not tried"), "{text}");
}

/// Names given twice: json-c and serde_json take the last. White space and unknown fields do not matter.
#[test]
fn json_is_read_as_cryptsetup_reads_it() {
    if !have(&["cryptsetup"]) {
        return;
    }
    let text = json_of(luks2()).to_string();
    let twice = text.replacen("\"segments\":", "\"segments\": 5 , \"x\" : [ ] ,\n\"segments\":", 1);
    assert_ne!(text, twice);
    assert_plain(&open(&with_text(twice.as_bytes())).unwrap(), "twice");
}
