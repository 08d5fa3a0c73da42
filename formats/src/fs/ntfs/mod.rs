//! NTFS, versions 1.2 to 3.1.
//!
//! ```text
//! boot sector → MFT → record of a file → attributes → runs → clusters
//!                                      → index of names (directories)
//!                                      → names, times, reparse point, streams
//! ```
//!
//! The format is described in the documentation of the Linux-NTFS project
//! (<https://flatcap.github.io/linux-ntfs/ntfs/>), and its values in [MS-FSCC]; fields are named as they are there. All
//! numbers are little-endian.
//!
//! What a user of Windows sees is listed: the system files, whose records are the first sixteen, and what is in `$Extend`
//! are not. Files that Windows compressed are read, either way: LZNT1 in units of clusters, and XPRESS or LZX in a stream of
//! the Windows Overlay Filter. Encrypted files have their stored bytes as content. What a DOS program sees is
//! [`DirEntry::dos_name`]; other streams of a file have handles of their own.
//!
//! # Damage
//!
//! A record or an index block whose sectors were not written together is not used. The copies of the boot sector and of the
//! first records serve if those are damaged, with a warning. Parts of a file's attributes that contradict each other are an
//! error of that attribute, and lost blocks of a directory are complaints. The log is not replayed: a volume that was not
//! unmounted cleanly is read as it is, with a warning.

use std::ops::RangeInclusive;
use std::sync::Arc;

use self::attribute::Attribute;
use self::capabilities::CAPABILITIES;
use self::file::File;
use self::info::Standard;
use self::mft::Mft;
use self::opening::Opened;
use self::record::kind;
use self::reparse::Reparse;
use self::security::{Owners, Security};
use self::volume::Volume;
use super::{Capabilities, Content, DirEntry, FileType, Filesystem, Info, Node, NodeId, NtfsNode, utf16};
use crate::error::{Error, ErrorKind, Result, at};
use crate::source::Source;

mod attribute;
mod boot;
mod capabilities;
mod content;
pub(super) mod driver;
mod ea;
mod file;
mod fixup;
mod index;
mod info;
mod interix;
mod listing;
mod logfile;
mod mapped;
mod mft;
mod opening;
mod record;
mod reparse;
mod runs;
mod security;
mod volume;
mod wof;

/// The record of the root directory.
const ROOT: u64 = 5;
/// The first record that may be a user's file.
const FIRST: u64 = 16;
/// The bits of a handle that number the stream, below those of the record. Zero is the file itself.
const STREAM_BITS: u32 = 16;

/// An NTFS volume.
///
/// It is `Sync`: threads read concurrently. Reading nodes in ascending order reads the MFT once; the memory for that is
/// fixed.
pub struct Ntfs {
    volume: Volume,
    mft: Mft,
    security: Security,
    info: Info,
}

impl Ntfs {
    /// Opens the filesystem on `volume`.
    ///
    /// Fails with `Corrupt` if neither the boot sector nor its copy is usable, or the MFT cannot be found.
    pub fn open(volume: Arc<dyn Source>) -> Result<Self> {
        let Opened { volume, mft, info } = opening::open(volume)?;
        Ok(Ntfs { volume, mft, security: Security::new(), info })
    }

    /// Returns the file of a handle and the number of its stream.
    fn file(&self, id: NodeId) -> Result<(File, usize)> {
        let (number, stream) = (id >> STREAM_BITS, id & ((1 << STREAM_BITS) - 1));
        if number < FIRST && number != ROOT {
            return Err(
                at(format!("MFT record {number}")).corrupt("belongs to the filesystem, not to a file")
            );
        }
        Ok((self.mft.file(&self.volume, number)?, stream as usize))
    }

    /// Returns what the reparse point of a file means, and its bytes.
    fn reparse(&self, file: &File) -> Result<Option<(Reparse, Vec<u8>)>> {
        let Some(point) = file.attribute(kind::REPARSE_POINT) else { return Ok(None) };
        let bytes = point.value(&self.volume, reparse::MAX)?;
        let parsed = reparse::parse(&bytes).map_err(|problem| point.place().corrupt(problem))?;
        Ok(Some((parsed, bytes)))
    }

    /// Returns the named streams of a file, sorted by name.
    fn named_streams<'a>(&self, file: &'a File) -> Vec<(Vec<u8>, &'a Attribute)> {
        let is_wof = file.attribute(kind::REPARSE_POINT).is_some()
            && file.named(kind::DATA, wof::STREAM).is_some()
            && matches!(self.reparse(file), Ok(Some((Reparse::Wof(_), _))));
        let mut streams: Vec<_> = file
            .attributes
            .iter()
            .filter(|attribute| attribute.kind == kind::DATA && !attribute.name.is_empty())
            .map(|attribute| (utf16::wtf8(&attribute.name), attribute))
            .filter(|(name, _)| !(is_wof && name == wof::STREAM.as_bytes()))
            .collect();
        streams.sort_by(|a, b| a.0.cmp(&b.0));
        streams.truncate((1 << STREAM_BITS) - 1);
        streams
    }

    /// Returns stream `number` of a file, from 1 on.
    fn stream<'a>(&self, file: &'a File, number: usize) -> Result<&'a Attribute> {
        let found = self.named_streams(file).get(number - 1).map(|(_, attribute)| *attribute);
        found.ok_or_else(|| {
            at(format!("MFT record {}", file.number)).not_found(format!("has no stream {number}"))
        })
    }

    /// Returns the metadata of a file.
    fn node_of(&self, file: &File, complain: &mut dyn FnMut(Error)) -> Result<Node> {
        let place = || at(format!("MFT record {}", file.number));
        let mut node = Node::bare(if file.is_dir { FileType::Dir } else { FileType::File });
        node.inode = Some(file.number);
        node.generation = Some(u32::from(file.sequence));
        let mut ntfs = NtfsNode::default();
        match self.standard(file) {
            Ok(standard) => {
                node.crtime = Some(standard.crtime);
                node.mtime = Some(standard.mtime);
                node.ctime = Some(standard.ctime);
                node.atime = Some(standard.atime);
                node.flags = standard.flags | if file.is_dir { info::flags::DIRECTORY } else { 0 };
                let owners = self.owners(file, standard.security_id);
                let owners = tolerate(owners, complain)?.unwrap_or_default();
                (ntfs.owner_sid, ntfs.group_sid) = (owners.owner.clone(), owners.group.clone());
            }
            Err(error) => complain(error),
        }
        let names = file.attributes.iter().filter(|attribute| attribute.is(kind::FILE_NAME));
        let names = names.filter(|name| match &name.body {
            attribute::Body::Resident(value) => value.get(65) != Some(&listing::space::DOS),
            attribute::Body::Extents(_) => true,
        });
        node.nlink = Some(if file.is_dir { 1 } else { names.count().max(1) as u32 });
        let size = match (file.is_dir, index::blocks(file), file.attribute(kind::DATA)) {
            (true, Some(blocks), _) => blocks.size(),
            (false, _, Some(data)) => data.size(),
            _ => Ok(0),
        };
        node.size = tolerate(size, complain)?.unwrap_or(0);
        if let Some((parsed, bytes)) = tolerate(self.reparse(file), complain)?.flatten() {
            ntfs.reparse = Some(bytes);
            match parsed {
                Reparse::Symlink(target) => {
                    node.file_type = FileType::Symlink;
                    node.size = target.len() as u64;
                    node.link_target = Some(target);
                }
                Reparse::Special(file_type) => node.file_type = file_type,
                Reparse::Wof(_) | Reparse::Elsewhere(_) | Reparse::Other => {}
            }
        } else if !file.is_dir && node.flags & info::flags::SYSTEM != 0 {
            interix::interpret(&self.volume, file, &mut node, complain)?;
        }
        if let Some(ea) = file.attribute(kind::EA) {
            let added = ea.value(&self.volume, ea::MAX);
            let added = added
                .and_then(|bytes| ea::add(&bytes, &mut node).map_err(|problem| ea.place().corrupt(problem)));
            tolerate(added, complain)?;
        }
        if file.attributes.is_empty() {
            return Err(place().corrupt("has no attributes that can be read"));
        }
        node.ntfs = Some(Box::new(ntfs));
        Ok(node)
    }

    fn standard(&self, file: &File) -> Result<Standard> {
        let place = || at(format!("MFT record {}, $STANDARD_INFORMATION", file.number));
        let Some(standard) = file.attribute(kind::STANDARD_INFORMATION) else {
            return Err(place().corrupt("is missing"));
        };
        let bytes = standard.value(&self.volume, 1 << 10)?;
        Standard::parse(&bytes).ok_or_else(|| place().corrupt(format!("has {} bytes", bytes.len())))
    }

    fn owners(&self, file: &File, id: u32) -> Result<Arc<Owners>> {
        match (id, file.attribute(kind::SECURITY_DESCRIPTOR)) {
            (0, Some(descriptor)) => Ok(Arc::new(security::own(&self.volume, descriptor)?)),
            (0, None) => Ok(Arc::default()),
            _ => self.security.owners(&self.volume, &self.mft, id),
        }
    }

    /// Returns the content of a file.
    fn content_of(&self, file: File) -> Result<Content> {
        if file.is_dir && file.attribute(kind::REPARSE_POINT).is_none() {
            return match index::blocks(&file) {
                Some(blocks) => content::of(&self.volume, blocks),
                None => Ok(Content::in_memory(Vec::new())),
            };
        }
        match self.reparse(&file)? {
            Some((Reparse::Symlink(target), _)) => return Ok(Content::in_memory(target)),
            Some((Reparse::Special(_), _)) => return Ok(Content::in_memory(Vec::new())),
            Some((Reparse::Elsewhere(where_), _)) => {
                let place = at(format!("MFT record {}", file.number));
                return Err(place.unsupported(format!("the content is {where_}")));
            }
            Some((Reparse::Wof(wof), _)) => {
                let size = file.attribute(kind::DATA).map_or(Ok(0), Attribute::size)?;
                return match file.named(kind::DATA, wof::STREAM) {
                    Some(stream) => wof::content(&self.volume, size, stream, wof),
                    None => Err(file.missing("lacks the stream of its compressed content")),
                };
            }
            Some((Reparse::Other, _))
                if self.standard(&file).is_ok_and(|standard| standard.is_recalled()) =>
            {
                let place = at(format!("MFT record {}", file.number));
                return Err(place.unsupported("the content is not on the volume: another store has it"));
            }
            Some((Reparse::Other, _)) | None => {}
        }
        if file.is_dir {
            return Ok(Content::in_memory(Vec::new()));
        }
        if let Some(data) = file.attribute(kind::DATA) {
            if let Some(link) = interix::link_of(&self.volume, &file)? {
                return Ok(Content::in_memory(link));
            }
            return content::of(&self.volume, data);
        }
        if file.lost.is_empty() {
            Ok(Content::in_memory(Vec::new()))
        } else {
            Err(file.missing("has no $DATA"))
        }
    }
}

/// Returns a value, or complains that it cannot be had; a failed read is an error.
fn tolerate<T>(value: Result<T>, complain: &mut dyn FnMut(Error)) -> Result<Option<T>> {
    match value {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::Io => Err(error),
        Err(error) => {
            complain(error);
            Ok(None)
        }
    }
}

impl Filesystem for Ntfs {
    fn info(&self) -> &Info {
        &self.info
    }

    fn sector_sizes(&self) -> RangeInclusive<u32> {
        let only = self.volume.boot.sector_size as u32;
        only..=only
    }

    fn capabilities(&self) -> &'static Capabilities {
        &CAPABILITIES
    }

    fn root(&self) -> NodeId {
        ROOT << STREAM_BITS
    }

    fn node(&self, id: NodeId, complain: &mut dyn FnMut(Error)) -> Result<Node> {
        let (mut file, stream) = self.file(id)?;
        if stream == 0 {
            std::mem::take(&mut file.lost).into_iter().for_each(&mut *complain);
            return self.node_of(&file, complain);
        }
        // Problems of the file are reported when the file itself is read.
        let of = self.node_of(&file, &mut |_| ())?;
        let attribute = self.stream(&file, stream)?;
        Ok(Node {
            size: attribute.size()?,
            uid: of.uid,
            gid: of.gid,
            inode: of.inode,
            generation: of.generation,
            mtime: of.mtime,
            atime: of.atime,
            ctime: of.ctime,
            crtime: of.crtime,
            ntfs: of.ntfs.map(|ntfs| Box::new(NtfsNode { reparse: None, ..*ntfs })),
            ..Node::bare(FileType::File)
        })
    }

    fn handle(&self, node: &Node) -> Option<NodeId> {
        Some(node.inode? << STREAM_BITS)
    }

    fn read_dir(&self, id: NodeId, complain: &mut dyn FnMut(Error)) -> Result<Vec<DirEntry>> {
        let (file, stream) = self.file(id)?;
        if !file.is_dir || stream != 0 {
            return Err(at(format!("MFT record {}", file.number)).corrupt("is not a directory"));
        }
        let first = if file.number == ROOT { FIRST } else { 0 };
        listing::list(&self.volume, &self.mft, &file, first, complain)
    }

    fn streams(&self, id: NodeId) -> Result<Vec<(Vec<u8>, NodeId)>> {
        let (file, stream) = self.file(id)?;
        if stream != 0 {
            return Ok(Vec::new());
        }
        let names = self.named_streams(&file).into_iter().map(|(name, _)| name);
        Ok(names.zip(id + 1..).collect())
    }

    fn content(&self, id: NodeId) -> Result<Content> {
        let (file, stream) = self.file(id)?;
        match stream {
            0 => self.content_of(file),
            number => content::of(&self.volume, self.stream(&file, number)?),
        }
    }
}
