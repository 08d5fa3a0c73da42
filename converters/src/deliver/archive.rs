//! The members of a tar that is written in place: each is a header of 512 bytes and the content, padded to a multiple
//! of 512 bytes.

use mif_formats::container::OutputFile;
use tar::{EntryType, Header};

use crate::error::Result;

/// The unit of a tar, in bytes.
pub(super) const BLOCK: u64 = 512;

/// Returns the header of a file, of which only the checksum is missing. Owner, group and times are zero, so that the
/// archive depends on its content only.
pub(super) fn unsummed(name: &str, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_path(name).expect("the names of members are short");
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

/// Returns the header of a regular file.
pub(super) fn header(name: &str, size: u64) -> Header {
    let mut header = unsummed(name, EntryType::Regular, size);
    header.set_cksum();
    header
}

/// Writes a member at `at`, and returns the offset after it.
pub(super) fn write_member(file: &OutputFile, at: u64, name: &str, content: &[u8]) -> Result<u64> {
    file.write_at(at, header(name, content.len() as u64).as_bytes())?;
    file.write_at(at + BLOCK, content)?;
    Ok(at + BLOCK + (content.len() as u64).next_multiple_of(BLOCK))
}

/// Ends the archive after the member that ends at `at`: pads it, and adds two blocks of zeros.
pub(super) fn finish(file: &OutputFile, at: u64) -> Result<()> {
    Ok(file.set_len(at.next_multiple_of(BLOCK) + 2 * BLOCK)?)
}
