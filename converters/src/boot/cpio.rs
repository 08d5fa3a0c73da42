//! cpio archives of the form "newc" (Linux, Documentation/driver-api/early-userspace/buffer-format.rst), which an
//! initramfs is made of: a header of 110 characters, the name, the content, the last two padded to four bytes.

use mif_formats::{Result, at};

/// The length of a header in bytes.
pub(super) const HEADER: usize = 110;

/// The longest name with its final zero, as in Linux (`PATH_MAX`).
const MAX_NAME: u32 = 4096;

/// The name of the member that ends an archive.
pub(super) const TRAILER: &[u8] = b"TRAILER!!!";

/// The types of a member in its mode.
pub(super) const FILE: u32 = 0o100_000;
pub(super) const DIRECTORY: u32 = 0o040_000;
pub(super) const SYMLINK: u32 = 0o120_000;

/// The header of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// `c_mode`.
    pub(super) mode: u32,
    /// `c_filesize`, in bytes.
    pub(super) size: u32,
    /// `c_namesize`, with the final zero.
    pub(super) name_size: u32,
}

impl Header {
    /// Parses a header of [`HEADER`] bytes at `offset` of an archive.
    pub(super) fn parse(bytes: &[u8], offset: u64) -> Result<Self> {
        let place = || at("cpio archive").byte(offset);
        if !matches!(bytes.get(..6), Some(b"070701" | b"070702")) {
            return Err(place().corrupt("expected a header that begins with 070701"));
        }
        let field = |number: usize| {
            let digits = std::str::from_utf8(bytes.get(6 + 8 * number..14 + 8 * number)?).ok()?;
            let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
            is_hex.then(|| u32::from_str_radix(digits, 16).ok())?
        };
        let fields = (field(1), field(6), field(11));
        let (Some(mode), Some(size), Some(name_size)) = fields else {
            return Err(place().corrupt("expected hexadecimal digits in the header"));
        };
        if !(1..=MAX_NAME).contains(&name_size) {
            return Err(place().corrupt(format!("the name has {name_size} bytes, expected 1 to {MAX_NAME}")));
        }
        Ok(Header { mode, size, name_size })
    }

    /// Returns the number of bytes of padding after the name.
    pub(super) fn name_padding(&self) -> usize {
        (HEADER + self.name_size as usize).next_multiple_of(4) - HEADER - self.name_size as usize
    }

    /// Returns the number of bytes of padding after the content.
    pub(super) fn padding(&self) -> usize {
        ((4 - self.size % 4) % 4) as usize
    }
}

/// A writer of an archive. Owners are root, and times are those of 1970, so that it is the same each time.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    inode: u32,
}

impl Writer {
    /// Adds a member.
    pub(super) fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.inode += 1;
        let links = if mode & 0o170_000 == DIRECTORY { 2 } else { 1 };
        let name_size = name.len() as u32 + 1;
        let fields = [self.inode, mode, 0, 0, links, 0, content.len() as u32, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad(4);
        self.bytes.extend(content);
        self.pad(4);
    }

    fn pad(&mut self, step: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(step), 0);
    }

    /// Returns the archive with its trailer.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.inode = u32::MAX;
        let fields = [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, TRAILER.len() as u32 + 1, 0_u32];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(TRAILER);
        self.bytes.push(0);
        self.pad(512);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written_and_a_wrong_one_is_refused() {
        let mut writer = Writer::default();
        writer.add("abc", FILE | 0o644, b"hello");
        let bytes = writer.finish();
        let header = Header::parse(&bytes[..HEADER], 0).unwrap();
        assert_eq!(header, Header { mode: FILE | 0o644, size: 5, name_size: 4 });
        assert_eq!((header.name_padding(), header.padding()), (2, 3));
        assert_eq!(bytes.len() % 512, 0);
        for (at, byte) in [(0, b'1'), (14, b'g'), (14, b'+'), (94, b'F')] {
            let mut bad = bytes[..HEADER].to_vec();
            bad[at] = byte;
            assert!(Header::parse(&bad, 7).is_err(), "{at}");
        }
        assert!(Header::parse(&bytes[..50], 0).is_err());
    }
}
