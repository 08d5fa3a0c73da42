//! OVF: the descriptor of a virtual machine (DMTF DSP0243), and the manifest with the digests of its files.

use sha2::{Sha256, Sha512};

use crate::error::{Result, at};
use crate::source::Source;
use crate::xml;

/// The largest descriptor that is read, in bytes. VMware's have some 10 KiB.
pub const MAX_DESCRIPTOR: u64 = 4 << 20;

/// The largest manifest that is read, in bytes.
pub const MAX_DIGESTS: u64 = 1 << 20;

/// The most nodes of XML in a descriptor.
const MAX_NODES: u32 = 100_000;

/// What a descriptor says of the files of a machine.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Its disks, in its order. Empty disks, which have no file, are left out.
    pub disks: Vec<DiskEntry>,
}

/// A disk in a descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskEntry {
    /// The name of its file, relative to the descriptor.
    pub href: String,
    /// The length of its file in bytes, if it is stated.
    pub size: Option<u64>,
    /// True if its file is in chunks.
    pub is_chunked: bool,
}

impl Descriptor {
    /// Parses a descriptor. Document types, and with them entities, are refused.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let place = || at("OVF descriptor");
        if bytes.len() as u64 > MAX_DESCRIPTOR {
            return Err(
                place().limit(format!("has {} bytes, over the limit of {MAX_DESCRIPTOR}", bytes.len()))
            );
        }
        let document = xml::parse("OVF descriptor", bytes, MAX_NODES)?;
        let attribute = |node: roxmltree::Node<'_, '_>, name: &str| {
            node.attributes()
                .find(|attribute| attribute.name() == name)
                .map(|attribute| attribute.value().to_owned())
        };
        let section = |name: &'static str, item: &'static str| {
            let root = document.root_element();
            let sections = root.children().filter(move |node| node.tag_name().name() == name);
            sections.flat_map(move |node| node.children().filter(move |node| node.tag_name().name() == item))
        };
        let mut disks: Vec<DiskEntry> = Vec::new();
        for disk in section("DiskSection", "Disk") {
            let Some(id) = attribute(disk, "fileRef").filter(|id| !id.is_empty()) else { continue };
            let file =
                section("References", "File").find(|file| attribute(*file, "id").as_ref() == Some(&id));
            let file = file.ok_or_else(|| {
                place()
                    .corrupt(format!("a disk refers to the file {id:?}, which is not among its References"))
            })?;
            let href = attribute(file, "href")
                .ok_or_else(|| place().corrupt(format!("the file {id:?} has no href")))?;
            if href.contains("://") {
                return Err(place()
                    .denied(format!("the disk {href:?} is outside the archive, and mif fetches nothing")));
            }
            let size = attribute(file, "size").and_then(|size| size.trim().parse().ok());
            let entry = DiskEntry { href, size, is_chunked: attribute(file, "chunkSize").is_some() };
            if !disks.contains(&entry) {
                disks.push(entry);
            }
        }
        Ok(Descriptor { disks })
    }
}

/// The digest of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    /// SHA-1.
    Sha1([u8; 20]),
    /// SHA-256.
    Sha256([u8; 32]),
    /// SHA-512.
    Sha512([u8; 64]),
}

/// A manifest: the digests of files, by their names.
#[derive(Debug, Default)]
pub struct Digests(Vec<(String, Digest)>);

impl Digests {
    /// Parses a manifest: lines such as `SHA256(disk.vmdk)= 0123…`.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut digests = Vec::new();
        let text = String::from_utf8_lossy(bytes);
        for (number, line) in
            text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && *line != "\0")
        {
            let wrong = |problem: &str| at(format!("manifest, line {}", number + 1)).corrupt(problem);
            let open = line.find('(').ok_or_else(|| wrong("expected ALGORITHM(FILE)= DIGEST"))?;
            let (algorithm, rest) = (line[..open].trim(), &line[open + 1..]);
            let close = rest.rfind(')').ok_or_else(|| wrong("expected ALGORITHM(FILE)= DIGEST"))?;
            let hex = rest[close + 1..].trim().strip_prefix('=').map(str::trim);
            let hex = hex.ok_or_else(|| wrong("expected ALGORITHM(FILE)= DIGEST"))?;
            let digest = match algorithm.to_ascii_uppercase().replace('-', "").as_str() {
                "SHA1" => bytes_of(hex).map(Digest::Sha1),
                // OpenSSL 3 calls it SHA2-256.
                "SHA256" | "SHA2256" => bytes_of(hex).map(Digest::Sha256),
                "SHA512" | "SHA2512" => bytes_of(hex).map(Digest::Sha512),
                _ => {
                    return Err(at("")
                        .unsupported(format!("manifest, line {}: the algorithm {algorithm:?}", number + 1)));
                }
            };
            let digest =
                digest.ok_or_else(|| wrong("its digest has the wrong length, or is not hexadecimal"))?;
            digests.push((rest[..close].to_owned(), digest));
        }
        Ok(Digests(digests))
    }

    /// Returns the digest of the file with this name.
    #[must_use]
    pub fn of(&self, name: &str) -> Option<Digest> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, digest)| *digest)
    }
}

impl Digest {
    /// Returns true if this is the digest of `source`. `is_stopped` is asked between reads.
    pub fn fits(self, source: &dyn Source, is_stopped: &dyn Fn() -> bool) -> Result<bool> {
        Ok(match self {
            Digest::Sha1(digest) => {
                crate::checksum::fits(digest.as_slice(), &hash::<sha1::Sha1>(source, is_stopped)?)
            }
            Digest::Sha256(digest) => {
                crate::checksum::fits(digest.as_slice(), &hash::<Sha256>(source, is_stopped)?)
            }
            Digest::Sha512(digest) => {
                crate::checksum::fits(digest.as_slice(), &hash::<Sha512>(source, is_stopped)?)
            }
        })
    }
}

fn hash<D: sha2::Digest>(source: &dyn Source, is_stopped: &dyn Fn() -> bool) -> Result<Vec<u8>> {
    let (mut hash, mut position) = (D::new(), 0);
    let mut buf = vec![0; 1 << 20];
    while position < source.len() {
        if is_stopped() {
            return Err(at("").io(std::io::Error::new(std::io::ErrorKind::Interrupted, "interrupted")));
        }
        let len = (source.len() - position).min(buf.len() as u64) as usize;
        source.read_at(position, &mut buf[..len])?;
        hash.update(&buf[..len]);
        position += len as u64;
    }
    Ok(hash.finalize().to_vec())
}

fn bytes_of<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if hex.len() != 2 * N || !hex.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::source::MemSource;

    fn envelope(references: &str, disks: &str) -> String {
        format!(
            "<?xml version=\"1.0\"?><Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" \
             xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\"><References>{references}</References>\
             <DiskSection><Info>Disks</Info>{disks}</DiskSection></Envelope>"
        )
    }

    #[test]
    fn disks_have_the_files_that_the_references_name() {
        let text = envelope(
            "<File ovf:id=\"f1\" ovf:href=\"a.vmdk\" ovf:size=\"12\"/><File ovf:id=\"iso\" ovf:href=\"b.iso\"/>\
             <File ovf:id=\"f2\" ovf:href=\"c.vmdk\" ovf:chunkSize=\"5\"/>",
            "<Disk ovf:diskId=\"d2\" ovf:fileRef=\"f2\"/><Disk ovf:diskId=\"d1\" ovf:fileRef=\"f1\"/>\
             <Disk ovf:diskId=\"empty\" ovf:capacity=\"9\"/>",
        );
        let entry = |href: &str, size, is_chunked| DiskEntry { href: href.into(), size, is_chunked };
        let disks = vec![entry("c.vmdk", None, true), entry("a.vmdk", Some(12), false)];
        assert_eq!(Descriptor::parse(text.as_bytes()).unwrap(), Descriptor { disks });
    }

    #[test]
    fn hostile_descriptors_are_refused() {
        let kind = |text: &str| Descriptor::parse(text.as_bytes()).unwrap_err().kind();
        let lol =
            "<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]><Envelope>&b;</Envelope>";
        assert_eq!(kind(lol), ErrorKind::Corrupt);
        assert_eq!(
            kind("<!DOCTYPE x [<!ENTITY a SYSTEM \"file:///etc/passwd\">]><Envelope>&a;</Envelope>"),
            ErrorKind::Corrupt
        );
        assert_eq!(kind(&format!("<Envelope>{}</Envelope>", "<a/>".repeat(200_000))), ErrorKind::Corrupt);
        assert_eq!(kind(&"<a>".repeat(1_000_000)), ErrorKind::Corrupt);
        assert_eq!(kind(&" ".repeat(5 << 20)), ErrorKind::Limit);
        let disk = "<Disk ovf:diskId=\"d\" ovf:fileRef=\"f\"/>";
        assert_eq!(kind(&envelope("", disk)), ErrorKind::Corrupt);
        let file = "<File ovf:id=\"f\" ovf:href=\"http://example.org/a.vmdk\"/>";
        assert_eq!(kind(&envelope(file, disk)), ErrorKind::Denied);
    }

    #[test]
    fn digests_of_a_manifest_are_checked() {
        let text = "SHA1(a b.vmdk)= a9993e364706816aba3e25717850c26c9cd0d89d\r\n\n\
            SHA2-256 (c(1).vmdk) = ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n";
        let digests = Digests::parse(text.as_bytes()).unwrap();
        let fits = |name: &str, content: &[u8]| {
            digests.of(name).unwrap().fits(&MemSource(content.to_vec()), &|| false).unwrap()
        };
        assert!(fits("a b.vmdk", b"abc") && fits("c(1).vmdk", b"abc"));
        assert!(!fits("a b.vmdk", b"abd") && !fits("c(1).vmdk", b"abcd"));
        assert!(digests.of("b.vmdk").is_none());
        for bad in ["SHA1(a)= 12", "MD5(a)= 900150983cd24fb0d6963f7d28e17f72", "SHA1 a", "SHA1(a) 12"] {
            assert!(Digests::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
