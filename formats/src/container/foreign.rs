//! Recognises files that would pass for a raw disk but are something else: compressed files, archives, text, and disk
//! containers that are not supported. Recognition is by content, never by name.

use crate::wrapper;

/// The bytes of a file's beginning that [`name`] examines.
pub const HEAD: usize = 4096;
/// The bytes of a file's end that [`name`] examines.
pub const TAIL: usize = 1024;

/// Name, offset in the head, magic bytes. The first match counts.
const MAGICS: &[(&str, usize, &[u8])] = &[
    // Compressed files.
    ("gzip data", 0, b"\x1f\x8b\x08"),
    ("xz data", 0, b"\xfd7zXZ\0"),
    ("zstd data", 0, b"\x28\xb5\x2f\xfd"),
    ("LZ4 data", 0, b"\x04\x22\x4d\x18"),
    ("LZ4 data", 0, b"\x02\x21\x4c\x18"),
    ("lzip data", 0, b"LZIP\x01"),
    ("lzop data", 0, b"\x89LZO\0\r\n\x1a\n"),
    ("compress data", 0, b"\x1f\x9d\x90"),
    ("Snappy data", 0, b"\xff\x06\0\0sNaPpY"),
    ("LZFSE data", 0, b"bvx2"),
    // Archives and backups.
    ("a zip archive", 0, b"PK\x03\x04"),
    ("an empty zip archive", 0, b"PK\x05\x06"),
    ("a zip archive in parts", 0, b"PK\x07\x08PK"),
    ("a 7z archive", 0, b"7z\xbc\xaf\x27\x1c"),
    ("a RAR archive", 0, b"Rar!\x1a\x07"),
    ("a cpio archive", 0, b"070701"),
    ("a cpio archive", 0, b"070702"),
    ("a cpio archive", 0, b"070707"),
    ("an ar archive", 0, b"!<arch>\n"),
    ("a xar archive", 0, b"xar!\0\x1c"),
    ("a cabinet file", 0, b"MSCF\0\0\0\0"),
    ("an RPM package", 0, b"\xed\xab\xee\xdb"),
    ("a tar archive", 257, b"ustar"),
    ("a WIM image", 0, b"MSWIM\0\0\0"),
    ("a Proxmox VMA backup", 0, b"VMA\0"),
    ("a Btrfs send stream", 0, b"btrfs-stream\0"),
    ("a Partclone image", 0, b"partclone-image"),
    ("a Partimage image", 0, b"PaRtImAgE-VoLuMe"),
    ("an FSArchiver archive", 0, b"FsA0"),
    ("a Norton Ghost image", 0, b"\xfe\xef\x01"),
    ("an Acronis backup", 0, b"\xce\x24\xb9\xa2"),
    // Containers of disks.
    ("a Bochs image", 0, b"Bochs Virtual HD Image"),
    ("a cloop image", 0, b"#!/bin/sh\n#V2.0 Format"),
    ("an Expert Witness (E01) image", 0, b"EVF\t\r\n\xff\0"),
    ("an Expert Witness (Ex01) image", 0, b"EVF2\r\n\x81\0"),
    ("an Expert Witness (L01) file", 0, b"LVF\t\r\n\xff\0"),
    ("an Expert Witness (Lx01) file", 0, b"LEF2\r\n\x81\0"),
    ("an AFF image", 0, b"AFF10\r\n\0"),
    ("an Apple sparse image (ASIF)", 0, b"shdw"),
    ("an Apple sparse image", 0, b"sprs"),
    ("an encrypted Apple disk image", 0, b"encrcdsa"),
    ("an Android sparse image", 0, b"\x3a\xff\x26\xed"),
    ("a full flash update image", 4, b"SignedImage "),
    ("a VMware change-tracking file", 0, b"\xa9\x2b\xa7\xa2"),
    ("a VMware snapshot's state", 0, b"\xd2\xbe\xd2\xbe"),
    ("a QEMU machine state", 0, b"QEVM"),
    ("a libvirt save file", 0, b"LibvirtQemudSave"),
    ("a libvirt save file", 0, b"LibvirtQemudPart"),
    // Other files found next to disks.
    ("a PDF document", 0, b"%PDF-"),
    ("an ELF program", 0, b"\x7fELF"),
    ("a SQLite database", 0, b"SQLite format 3\0"),
    ("a PNG picture", 0, b"\x89PNG\r\n\x1a\n"),
];

/// Names a file that is known not to be a disk image: `gzip data`, `a tar archive`, `plain text`.
///
/// `head` is its first [`HEAD`] bytes and `tail` its last [`TAIL`], or as many as there are; `len` is its length in
/// bytes. `None` if the file may be a raw disk.
#[must_use]
pub fn name(head: &[u8], tail: &[u8], len: u64) -> Option<&'static str> {
    let fits = |(_, place, magic): &&(&str, usize, &[u8])| {
        head.get(*place..).is_some_and(|rest| rest.starts_with(magic))
    };
    if let Some((name, ..)) = MAGICS.iter().find(fits) {
        return Some(name);
    }
    match () {
        () if wrapper::is_bzip2(head) => Some("bzip2 data"),
        () if wrapper::is_lzma(head, len) => Some("LZMA data"),
        () if wrapper::is_old_tar(head) => Some("a tar archive"),
        () if tail.ends_with(b"cdsaencr") => Some("an encrypted Apple disk image"),
        () if is_text(head, len) => Some("plain text"),
        () => None,
    }
}

/// Recognises text: it contains line breaks and no control characters but white space and escape; it is UTF-8, UTF-16
/// with a byte order mark, or mostly ASCII. (A disk filled with one letter has no line breaks.)
fn is_text(head: &[u8], len: u64) -> bool {
    let whole = len == head.len() as u64;
    if head.is_empty() || (!whole && !head.contains(&b'\n') && !head.contains(&b'\r')) {
        return false;
    }
    let control = |unit: u16| unit < 32 && !matches!(unit, 8..=13 | 27);
    if let Some(units) = head.strip_prefix(b"\xff\xfe") {
        return head.len() > 2 && !units.chunks_exact(2).any(|u| control(u16::from_le_bytes([u[0], u[1]])));
    }
    if let Some(units) = head.strip_prefix(b"\xfe\xff") {
        return head.len() > 2 && !units.chunks_exact(2).any(|u| control(u16::from_be_bytes([u[0], u[1]])));
    }
    if head.iter().any(|b| control(u16::from(*b)) || *b == 0x7f) {
        return false;
    }
    match std::str::from_utf8(head) {
        Ok(_) => true,
        // The head may end within a character; text in a legacy encoding is mostly ASCII.
        Err(e) => {
            (!whole && e.error_len().is_none())
                || head.iter().filter(|b| b.is_ascii()).count() * 10 >= head.len() * 9
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Option<&'static str> {
        let head = &bytes[..bytes.len().min(HEAD)];
        name(head, &bytes[bytes.len().saturating_sub(TAIL)..], bytes.len() as u64)
    }

    /// Returns a tar header as the first tars wrote it.
    fn old_tar() -> Vec<u8> {
        let mut header = vec![0; 10240];
        header[..8].copy_from_slice(b"disk.raw");
        header[100..107].copy_from_slice(b"0000644");
        header[124..135].copy_from_slice(b"00000001000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header
    }

    #[test]
    fn what_is_no_disk_is_named() {
        for (bytes, expected) in [
            (&b"BZh91AY&SY..."[..], "bzip2 data"),
            (b"BZh9\x17\x72\x45\x38\x50\x90", "bzip2 data"),
            (b"\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff\0rest", "LZMA data"),
            (b"key = value\n", "plain text"),
            (b"\xff\xfek\0=\0v\0\r\0\n\0", "plain text"),
            (b"name = \"caf\xe9\"\nand more of it\n", "plain text"),
        ] {
            assert_eq!(of(bytes), Some(expected), "{}", bytes.escape_ascii());
        }
        assert_eq!(of(&old_tar()), Some("a tar archive"));
        let mut text = b"caf\xc3\xa9 and more\n".repeat(500);
        text.rotate_left(1);
        assert_eq!(of(&text), Some("plain text"));
        for (expected, place, magic) in MAGICS {
            let mut bytes = vec![1; 8192];
            bytes[*place..place + magic.len()].copy_from_slice(magic);
            assert_eq!(of(&bytes), Some(*expected));
        }
    }

    #[test]
    fn what_may_be_a_disk_is_not_named() {
        let mut mbr = vec![0; 8192];
        mbr[510..512].copy_from_slice(&[0x55, 0xaa]);
        // Boot code that contains messages.
        mbr[..31].copy_from_slice(b"\xeb\x3c\x90MSDOS5.0 Missing system\r\n\0\0\0");
        for bytes in [
            mbr,
            vec![0; 4096],
            vec![b'x'; 8192],
            vec![7; 8192],
            [&b"BZh9 is not enough\0"[..]; 100].concat(),
            b"# LUKS\xba\xbe\0\x02".to_vec(),
            Vec::new(),
        ] {
            assert_eq!(of(&bytes), None, "{}", bytes[..bytes.len().min(20)].escape_ascii());
        }
    }
}
