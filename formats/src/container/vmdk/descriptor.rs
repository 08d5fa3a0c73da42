//! The VMDK descriptor: a text that names the extents (VMware, "Virtual Disk Format 5.0", "The Descriptor File").

use encoding_rs::Encoding;

use crate::container::MAX_DISK;
use crate::error::{Result, at};

/// The largest descriptor that is read, in bytes.
pub(super) const MAX_DESCRIPTOR: usize = 1 << 20;
/// The most extents: 8 TiB in pieces of 2 GiB.
const MAX_EXTENTS: usize = 4096;
/// The most sectors of a disk.
const MAX_SECTORS: u64 = MAX_DISK / 512;

/// A parsed descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// The content ID, which changes when the disk does.
    pub(super) cid: Option<u32>,
    /// The content ID that the parent had.
    pub(super) parent_cid: Option<u32>,
    pub(super) create_type: Option<String>,
    /// The encoding of names, as a label (`windows-1252`).
    pub(super) encoding: Option<String>,
    /// The name of the parent disk, as bytes.
    pub(super) parent: Option<Vec<u8>>,
    pub(super) extents: Vec<ExtentLine>,
}

/// A line that describes an extent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExtentLine {
    /// The extent's length in sectors.
    pub(super) sectors: u64,
    pub(super) kind: ExtentType,
    /// The file's name, as bytes.
    pub(super) name: Vec<u8>,
    /// The offset of the extent in the file, in sectors; flat extents only.
    pub(super) offset: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExtentType {
    /// `FLAT` and `VMFS`: plain bytes.
    Flat,
    /// `SPARSE` and `VMFSSPARSE`: the file's magic number decides which.
    Sparse,
    /// `SESPARSE`.
    SeSparse,
    /// `ZERO`: no file.
    Zero,
}

/// Returns true if a file that begins with `head` is a descriptor: after comments and empty lines comes a version.
pub(super) fn is_descriptor(head: &[u8]) -> bool {
    let first = head
        .split(|b| *b == b'\n')
        .map(<[u8]>::trim_ascii)
        .find(|line| !line.is_empty() && !line.starts_with(b"#"));
    let value = first.and_then(|line| setting(line).filter(|(key, _)| key.eq_ignore_ascii_case(b"version")));
    value.is_some_and(|(_, version)| matches!(version, b"1" | b"2" | b"3"))
}

/// Splits `key = "value"`.
fn setting(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = line.iter().position(|b| *b == b'=')?;
    let (key, value) = (line[..equals].trim_ascii(), line[equals + 1..].trim_ascii());
    let value = value.strip_prefix(b"\"").map_or(value, |v| v.strip_suffix(b"\"").unwrap_or(v));
    Some((key, value))
}

impl Descriptor {
    /// Parses a descriptor; bytes from the first NUL on are padding.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let text = bytes.split(|b| *b == 0).next().unwrap_or_default();
        let mut descriptor = Descriptor {
            cid: None,
            parent_cid: None,
            create_type: None,
            encoding: None,
            parent: None,
            extents: Vec::new(),
        };
        let mut sectors = 0;
        for (number, line) in text.split(|b| *b == b'\n' || *b == b'\r').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            if let Some(extent) = ExtentLine::parse(line, number + 1)? {
                sectors += extent.sectors;
                if descriptor.extents.len() >= MAX_EXTENTS || sectors > MAX_SECTORS {
                    return Err(at(format!("VMDK descriptor, line {}", number + 1))
                        .limit(format!("more than {MAX_EXTENTS} extents or {MAX_SECTORS} sectors")));
                }
                descriptor.extents.push(extent);
            } else if let Some((key, value)) = setting(line) {
                descriptor.set(&key.to_ascii_lowercase(), value);
            }
        }
        Ok(descriptor)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        let text = || String::from_utf8_lossy(value).into_owned();
        let number = || u32::from_str_radix(&text(), 16).ok();
        match key {
            b"cid" => self.cid = number(),
            b"parentcid" => self.parent_cid = number(),
            b"createtype" => self.create_type = Some(text()),
            b"encoding" => self.encoding = Some(text()),
            b"parentfilenamehint" => self.parent = Some(value.to_vec()).filter(|name| !name.is_empty()),
            _ => {}
        }
    }

    /// Returns the file names that `name` may stand for, as bytes: decoded from the declared encoding into UTF-8, and
    /// unchanged. Which of them a file has depends on how it was copied.
    pub(super) fn names(&self, name: &[u8]) -> Vec<Vec<u8>> {
        let encoding = self.encoding.as_ref().and_then(|label| Encoding::for_label(label.as_bytes()));
        let decoded = encoding.and_then(|e| e.decode_without_bom_handling_and_without_replacement(name));
        let mut names: Vec<Vec<u8>> =
            decoded.map(|text| text.into_owned().into_bytes()).into_iter().collect();
        if !names.iter().any(|decoded| decoded == name) {
            names.push(name.to_vec());
        }
        names
    }
}

impl ExtentLine {
    /// Parses `RW 63 FLAT "name" 0`, with further fields that some programs add; returns `None` for another line.
    fn parse(line: &[u8], number: usize) -> Result<Option<Self>> {
        let place = || at(format!("VMDK descriptor, line {number}"));
        let mut rest = line;
        let mut word = || {
            rest = rest.trim_ascii_start();
            let (word, after) = match rest.strip_prefix(b"\"") {
                Some(quoted) => {
                    let end = quoted.iter().position(|b| *b == b'"')?;
                    (&quoted[..end], &quoted[end + 1..])
                }
                None => rest.split_at(rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len())),
            };
            rest = after;
            (!word.is_empty()).then_some(word)
        };
        match word() {
            Some(b"RW" | b"RDONLY") => {}
            Some(b"NOACCESS") => {
                return Err(place().unsupported("the extent is marked NOACCESS"));
            }
            _ => return Ok(None),
        }
        let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse::<u64>().ok();
        let Some(sectors) = word().and_then(number) else {
            return Err(place().corrupt("the size of the extent is not a number of sectors"));
        };
        if sectors > MAX_SECTORS {
            return Err(place().limit(format!("an extent of {sectors} sectors, more than {MAX_SECTORS}")));
        }
        let kind = match word().unwrap_or_default() {
            b"FLAT" | b"VMFS" => ExtentType::Flat,
            b"SPARSE" | b"VMFSSPARSE" => ExtentType::Sparse,
            b"SESPARSE" => ExtentType::SeSparse,
            b"ZERO" => {
                return Ok(Some(ExtentLine { sectors, kind: ExtentType::Zero, name: Vec::new(), offset: 0 }));
            }
            other => {
                let other = String::from_utf8_lossy(other).into_owned();
                return Err(place().unsupported(format!("the extent has the unknown type {other:?}")));
            }
        };
        let Some(name) = word() else {
            return Err(place().corrupt("the extent names no file"));
        };
        let offset = match (kind, word()) {
            (ExtentType::Flat, Some(offset)) => number(offset)
                .filter(|offset| *offset <= MAX_SECTORS)
                .ok_or_else(|| place().corrupt("the offset of the extent is not a number of sectors"))?,
            _ => 0,
        };
        Ok(Some(ExtentLine { sectors, kind, name: name.to_vec(), offset }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const TEXT: &[u8] = b"# Disk DescriptorFile\r\nversion=1\r\nCID=fffffffe\nparentCID = ffffffff\n\
        createType=\"monolithicFlat\"\n\n# Extent description\nRW 2048 FLAT \"a b.vmdk\" 128\n\
        RW 63 SPARSE \"c.vmdk\" 0 uuid extra\nRDONLY 1 ZERO\nddb.adapterType = \"ide\"\n\0garbage";

    #[test]
    fn a_descriptor_is_read() {
        assert!(is_descriptor(TEXT));
        let descriptor = Descriptor::parse(TEXT).unwrap();
        assert_eq!((descriptor.cid, descriptor.parent_cid), (Some(0xffff_fffe), Some(0xffff_ffff)));
        assert_eq!(descriptor.create_type.as_deref(), Some("monolithicFlat"));
        let line =
            |sectors, kind, name: &[u8], offset| ExtentLine { sectors, kind, name: name.into(), offset };
        assert_eq!(
            descriptor.extents,
            [
                line(2048, ExtentType::Flat, b"a b.vmdk", 128),
                line(63, ExtentType::Sparse, b"c.vmdk", 0),
                line(1, ExtentType::Zero, b"", 0)
            ]
        );
    }

    #[test]
    fn names_are_of_the_encoding_that_is_declared() {
        let names = |label: &str, name: &[u8]| {
            let text = [b"version=1\nencoding=\"", label.as_bytes(), b"\"\n"].concat();
            Descriptor::parse(&text).unwrap().names(name)
        };
        assert_eq!(names("windows-1252", b"f\xfcr.vmdk"), ["für.vmdk".as_bytes(), b"f\xfcr.vmdk"]);
        assert_eq!(names("Shift_JIS", b"\x83\x5c.vmdk"), ["ソ.vmdk".as_bytes(), b"\x83\x5c.vmdk"]);
        assert_eq!(names("GBK", b"\xc4\xe3.vmdk")[0], "你.vmdk".as_bytes());
        assert_eq!(names("UTF-8", "für.vmdk".as_bytes()), ["für.vmdk".as_bytes()]);
        assert_eq!(names("UTF-8", b"f\xfcr.vmdk"), [b"f\xfcr.vmdk"], "it is not");
        assert_eq!(names("no such", b"a"), [b"a"]);
        assert_eq!(names("windows-1252", b"a.vmdk"), [b"a.vmdk"]);
    }

    #[test]
    fn other_text_is_no_descriptor() {
        for text in ["", "version=9", "hello", "# only a comment", "key=1\nversion=1"] {
            assert!(!is_descriptor(text.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn bad_extent_lines_are_named_by_their_number() {
        for (line, kind) in [
            ("RW x FLAT \"a\" 0", ErrorKind::Corrupt),
            ("RW", ErrorKind::Corrupt),
            ("RW 1 FLAT", ErrorKind::Corrupt),
            ("RW 1 FLAT \"a", ErrorKind::Corrupt),
            ("RW 1 FLAT \"a\" x", ErrorKind::Corrupt),
            ("RW 1 WOBBLE \"a\"", ErrorKind::Unsupported),
            ("NOACCESS 1 FLAT \"a\"", ErrorKind::Unsupported),
            ("RW 99999999999999999 FLAT \"a\"", ErrorKind::Limit),
            ("RW -1 FLAT \"a\"", ErrorKind::Corrupt),
        ] {
            let error = Descriptor::parse(format!("version=1\n{line}\n").as_bytes()).unwrap_err();
            assert_eq!(error.kind(), kind, "{line}");
            assert!(error.to_string().contains("line 2"), "{error}");
        }
    }

    #[test]
    fn more_extents_or_sectors_than_the_limit_are_refused() {
        let kind = |line: &str, count: usize| {
            let text = "version=1\n".to_owned() + &line.repeat(count);
            Descriptor::parse(text.as_bytes()).err().map(|e| e.kind())
        };
        assert_eq!(kind("RW 1 ZERO\n", MAX_EXTENTS), None);
        assert_eq!(kind("RW 1 ZERO\n", MAX_EXTENTS + 1), Some(ErrorKind::Limit));
        let half = format!("RW {} ZERO\n", MAX_SECTORS / 2);
        assert_eq!(kind(&half, 2), None);
        assert_eq!(kind(&half, 3), Some(ErrorKind::Limit));
    }
}
