//! Wrappers: compressed files, and archives with disks in them.
//!
//! A compressed file is decoded once, into a sparse file without a name ([`Workshop`]). A member of an archive that lies
//! plainly in it is read in place, through a map of ranges ([`Pieces`]), so nothing is copied. Names of members are only
//! compared and printed: no path is ever made of one.

mod codec;
mod input;
mod lzop;
mod ovf;
mod pieces;
mod stream;
mod tar;
mod vma;
mod workshop;
mod zip;

use std::sync::Arc;

use crate::error::{Result, at};
use crate::source::Source;

pub use self::codec::{Codec, encode_lzma, is_bzip2, is_lzma};
pub use self::ovf::{Descriptor, Digest, Digests, MAX_DESCRIPTOR, MAX_DIGESTS};
pub use self::pieces::{Piece, Pieces};
pub use self::stream::{Forward, Single};
pub use self::tar::is_old_tar;
pub use self::workshop::{Limits, Unpacked, Watch, Workshop};

/// The most members of an archive that are listed.
const MAX_MEMBERS: usize = 1 << 20;

/// The first bytes of a file that [`Kind::of`] examines.
pub const HEAD: usize = 4096;

/// A kind of wrapper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A compressed file.
    Compressed(Codec),
    /// An archive.
    Archive(ArchiveKind),
}

/// A kind of archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveKind {
    /// A tar archive: v7, ustar, GNU or pax.
    Tar,
    /// A zip archive.
    Zip,
    /// A backup of Proxmox VE.
    Vma,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 10] = [
        Kind::Compressed(Codec::Gzip),
        Kind::Compressed(Codec::Xz),
        Kind::Compressed(Codec::Lzma),
        Kind::Compressed(Codec::Zstd),
        Kind::Compressed(Codec::Bzip2),
        Kind::Compressed(Codec::Lz4),
        Kind::Compressed(Codec::Lzop),
        Kind::Archive(ArchiveKind::Tar),
        Kind::Archive(ArchiveKind::Zip),
        Kind::Archive(ArchiveKind::Vma),
    ];

    /// Recognises a wrapper by its first bytes ([`HEAD`] of them, or as many as there are); `len` is the length of the
    /// file in bytes.
    #[must_use]
    pub fn of(head: &[u8], len: u64) -> Option<Self> {
        if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
            return Some(Kind::Archive(ArchiveKind::Zip));
        }
        if head.starts_with(b"VMA\0") {
            return Some(Kind::Archive(ArchiveKind::Vma));
        }
        if head.get(257..262) == Some(b"ustar") || is_old_tar(head) {
            return Some(Kind::Archive(ArchiveKind::Tar));
        }
        Codec::of(head, len).map(Kind::Compressed)
    }

    /// Returns what it is, for people: `gzip data`, `a tar archive`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Compressed(codec) => codec.name(),
            Kind::Archive(ArchiveKind::Tar) => "a tar archive",
            Kind::Archive(ArchiveKind::Zip) => "a zip archive",
            Kind::Archive(ArchiveKind::Vma) => "a Proxmox VMA backup",
        }
    }
}

/// A file in an archive.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name, with replacement characters for invalid UTF-8.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
    /// Where its bytes are.
    pub stored: Stored,
}

/// Where the bytes of a [`Member`] are.
#[derive(Debug, Clone)]
pub enum Stored {
    /// In these ranges of the archive, byte for byte; zeros between them.
    Plain(Arc<[Piece]>),
    /// In a local header of a zip archive at this byte, and after it.
    Zip {
        /// The offset of the local header in bytes.
        header: u64,
        /// The length of the encoded bytes.
        len: u64,
        /// True if they are deflated, false if they lie plainly.
        deflated: bool,
        /// The CRC-32 of the decoded bytes.
        crc: u32,
    },
    /// In a form that is not read, with the reason, a predicate: `is encrypted`.
    Unreadable(String),
}

impl Member {
    /// Returns the source of the bytes if they lie plainly in the archive; `None` if they have to be decoded.
    pub fn in_place(&self, archive: &Arc<dyn Source>) -> Result<Option<Arc<dyn Source>>> {
        let pieces = match &self.stored {
            Stored::Plain(pieces) => pieces.clone(),
            Stored::Zip { header, len, deflated: false, .. } => {
                let start = zip::data_start(&**archive, *header)?;
                Arc::from([Piece { start: 0, len: *len, at: start }])
            }
            Stored::Zip { .. } => return Ok(None),
            Stored::Unreadable(why) => return Err(self.place().unsupported(why.clone())),
        };
        Ok(Some(Arc::new(Pieces::new(archive.clone(), pieces, self.len)?)))
    }

    /// Decodes the bytes into a scratch file.
    pub fn unpack(&self, archive: &Arc<dyn Source>, workshop: &Workshop<'_>) -> Result<Unpacked> {
        let Stored::Zip { header, len, crc, .. } = &self.stored else {
            return Err(self.place().corrupt("is not compressed"));
        };
        let start = zip::data_start(&**archive, *header)?;
        workshop.inflate(archive, start..start.saturating_add(*len), self.len, *crc).map_err(|e| {
            match e.at().to_string().is_empty() {
                true => self.place().corrupt(e.problem()),
                false => e,
            }
        })
    }

    /// Returns at most `len` of its first bytes, without decoding more than that. Fewer if they cannot be decoded.
    pub fn head(&self, archive: &Arc<dyn Source>, len: usize) -> Result<Vec<u8>> {
        if let Some(source) = self.in_place(archive)? {
            return source.read_vec(0, source.len().min(len as u64) as usize);
        }
        let Stored::Zip { header, len: stored, .. } = &self.stored else { return Ok(Vec::new()) };
        let start = zip::data_start(&**archive, *header)?;
        Ok(stream::inflated_head(archive, start..start.saturating_add(*stored), len))
    }

    fn place(&self) -> crate::error::At {
        at(format!("member {:?}", self.name))
    }
}

/// The index of an archive.
#[derive(Debug, Default)]
pub struct Index {
    /// Its members, in the order of the archive.
    pub members: Vec<Member>,
    /// Names of configuration files that it carries besides its members.
    pub configurations: Vec<String>,
}

/// Reads the index of an archive, and calls `seen` with each member as it is found. A tar archive is read strictly
/// forward, if `seen` reads no further than the end of the member.
pub fn index(
    kind: ArchiveKind,
    archive: &Arc<dyn Source>,
    seen: &mut dyn FnMut(&Member) -> Result<()>,
) -> Result<Index> {
    match kind {
        ArchiveKind::Tar => tar::index(&**archive, seen),
        ArchiveKind::Zip => zip::index(&**archive, seen),
        ArchiveKind::Vma => vma::index(archive, seen),
    }
}

/// Returns the names and lengths of the disks in a VMA backup, from its header alone.
pub fn vma_disks(archive: &dyn Source) -> Result<Vec<(String, u64)>> {
    vma::disks(archive)
}

/// Returns the first `len` bytes that a compressed file decodes to, or as many as it has. Fewer if it is damaged.
#[must_use]
pub fn decoded_head(codec: Codec, file: &Arc<dyn Source>, len: usize) -> Vec<u8> {
    stream::head(codec, file, len)
}
