//! Reads a tar archive in place, without copying the content of members. Supports old, ustar, GNU and pax headers; long
//! names; attributes, ACLs and labels in every form; sparse files.
//!
//! Paths are resolved as GNU tar extracts them: a member under a symlink is placed where the symlink leads, within the
//! tree.
//!
//! Of the crate `tar`, only the header fields are used: its reader splits pax records at newlines, which may occur in
//! an xattr, and does not know the sparse files of pax.

mod attributes;
mod records;
mod sparse;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mif_formats::Source;
use mif_formats::fs::{FileType, Node, Timestamp};
use tar::{EntryType, Header};

use self::records::{Record, Records};
use super::follower::Follower;
use super::limits::Room;
use super::member::{Content, Member, Members};
use super::path::{TreePath, shown};
use crate::error::{Error, Result};
use crate::ingest::Parts;

const BLOCK: u64 = 512;
/// The maximum bytes of all pax headers and long names of one member, of the global pax headers, and of a map of holes.
const MAX_EXTRA: u64 = 16 << 20;
/// The maximum number of global pax records, because each member is checked against all of them.
const MAX_GLOBAL: usize = 4096;

/// The magic bytes of compressed files, and the tool that decompresses each.
const COMPRESSED: [(&[u8], &str); 4] =
    [(b"\x1f\x8b", "zcat"), (b"\x28\xb5\x2f\xfd", "zstdcat"), (b"\xfd7zXZ\0", "xzcat"), (b"BZh", "bzcat")];

/// Reads the members of the tar in `source`, which `label` names in errors. Later members replace earlier ones with the
/// same path. Also returns notes for the user, as sentences.
pub(super) fn of_tar(source: &dyn Source, label: &str) -> Result<(Members, Vec<String>)> {
    let reader = Reader {
        source,
        label,
        next: 0,
        global: Arc::default(),
        global_bytes: 0,
        room: Room::default(),
        files: 0,
        bodies: HashMap::new(),
        follower: Follower::default(),
        left_out: BTreeMap::new(),
    };
    reader.members()
}

/// The extended headers before a member.
#[derive(Default)]
struct Extra {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Records,
    /// The number of bytes in these headers.
    bytes: u64,
}

/// A block of the tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Header,
    /// Zeros, or the end of the tar.
    End,
    Data,
}

struct Reader<'a> {
    source: &'a dyn Source,
    label: &'a str,
    /// The offset of the next header.
    next: u64,
    /// The pax records that apply to all following members, which share them.
    global: Arc<BTreeMap<Vec<u8>, Vec<u8>>>,
    global_bytes: u64,
    room: Room,
    files: u64,
    /// By file number: the size and places of data stored with one of the file's hard links.
    bodies: HashMap<u64, (u64, Arc<Parts>)>,
    follower: Follower,
    /// Attributes that no volume can hold: their kind, the number of members, and the first member.
    left_out: BTreeMap<&'static str, (u64, TreePath)>,
}

impl Reader<'_> {
    fn bad(&self, at: u64, problem: &str) -> Error {
        Error::input(format!("{}: tar header at byte {at}: {problem}", self.label))
    }

    fn members(mut self) -> Result<(Members, Vec<String>)> {
        let head = self.source.read_vec(0, self.source.len().min(8) as usize)?;
        if let Some((_, tool)) = COMPRESSED.iter().find(|(mark, _)| head.starts_with(mark)) {
            return Err(Error::unsupported(format!("{}: the tar archive is compressed", self.label)).advise(
                format!(
                    "Decompress it into a pipe, and pass - for the archive: {tool} {} | mif …",
                    self.label
                ),
            ));
        }
        let mut members = Members::new();
        let mut extra = Extra { pax: Records::over(self.global.clone()), ..Extra::default() };
        loop {
            let at = self.next;
            if self.source.len().saturating_sub(at) < BLOCK {
                if at == 0 {
                    return Err(self.bad(at, "missing, so this is not a tar archive"));
                }
                break;
            }
            let header = self.header(at)?;
            let Some(header) = header else { break };
            let kind = header.entry_type();
            let is_extra = matches!(
                kind,
                EntryType::XHeader
                    | EntryType::XGlobalHeader
                    | EntryType::GNULongName
                    | EntryType::GNULongLink
            );
            let mut size = match header.as_old().size {
                // A base 256 number has space for 95 bits and a sign; the crate ignores all bits over 64.
                [first, more @ ..] if first & 0x80 != 0 && (first != 0x80 || more[..3] != [0; 3]) => {
                    return Err(self.bad(at, "the size is out of range"));
                }
                _ => header.entry_size().map_err(|e| self.bad(at, &e.to_string()))?,
            };
            if let (false, Some(text)) = (is_extra, extra.pax.get(b"size")) {
                size = number(text).ok_or_else(|| self.bad(at, "the pax size is not a number"))?;
            }
            let start = at + BLOCK;
            let padded =
                |size: u64| size.checked_next_multiple_of(BLOCK).and_then(|len| start.checked_add(len));
            if size > 0 && is_without_data(&header) && !self.has_data(start, padded(size)) {
                size = 0;
            }
            let end = padded(size).filter(|_| size <= self.source.len().saturating_sub(start));
            self.next = end.ok_or_else(|| self.bad(at, "the member extends past the end of the archive"))?;
            if is_extra {
                let so_far = match kind {
                    EntryType::XGlobalHeader => &mut self.global_bytes,
                    _ => &mut extra.bytes,
                };
                *so_far = so_far.saturating_add(size);
                if *so_far > MAX_EXTRA {
                    let problem = format!("the extended headers of one member exceed {MAX_EXTRA} bytes");
                    return Err(self.bad(at, &problem));
                }
                let mut bytes = self.source.read_vec(start, size as usize)?;
                match kind {
                    EntryType::XHeader => extra.pax.extend(self.records(at, &bytes)?),
                    EntryType::XGlobalHeader => {
                        let records = self.records(at, &bytes)?;
                        // Nobody else holds the map now, so it is not copied.
                        extra.pax.set_global(Arc::default());
                        let global = Arc::make_mut(&mut self.global);
                        global.extend(records);
                        if global.len() > MAX_GLOBAL {
                            let problem = format!("more than {MAX_GLOBAL} global pax records");
                            return Err(self.bad(at, &problem));
                        }
                        extra.pax.set_global(self.global.clone());
                    }
                    other => {
                        bytes.truncate(bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len()));
                        let name =
                            if other == EntryType::GNULongName { &mut extra.path } else { &mut extra.link };
                        *name = Some(bytes);
                    }
                }
                continue;
            }
            self.member(at, &header, size, &extra, &mut members)?;
            extra = Extra { pax: Records::over(self.global.clone()), ..Extra::default() };
        }
        for member in members.values_mut() {
            let body = member.file.and_then(|file| self.bodies.get(&file));
            if let Some((size, parts)) = body.filter(|_| member.node.file_type == FileType::File) {
                (member.node.size, member.content) = (*size, Some(Content::InTar(parts.clone())));
            }
        }
        let mut notes = attributes::resolve_acls(&mut members, self.source).map_err(|(path, problem)| {
            Error::input(format!("{}: member \"{}\": {problem}", self.label, path.shown())).advise(
                "Add the name to the tree's /etc/passwd or /etc/group, or create the archive with --numeric-owner",
            )
        })?;
        notes.extend(self.left_out.iter().map(|(what, (count, first))| {
            format!("{what} of {count} members were left out, first of {}", first.shown())
        }));
        Ok((members, notes))
    }

    /// Returns true if data follows the header of a type that has none. Some writers give a hard link the size of its
    /// file and write no data (GNU tar and libarchive read it so); pax allows data after a hard link, and others write
    /// it. The place of the next header decides: directly after this one, or only at `end`, after the data.
    fn has_data(&self, start: u64, end: Option<u64>) -> bool {
        match (self.what_is_at(start), end.map(|end| self.what_is_at(end))) {
            (Next::Header, _) => false,
            (Next::End, behind) => behind == Some(Next::Header),
            (Next::Data, behind) => behind.is_some_and(|next| next != Next::Data),
        }
    }

    /// Classifies a block of the tar.
    fn what_is_at(&self, at: u64) -> Next {
        if at == self.source.len() {
            return Next::End;
        }
        if self.source.len().saturating_sub(at) < BLOCK {
            return Next::Data;
        }
        match self.header(at) {
            Ok(Some(_)) => Next::Header,
            Ok(None) => Next::End,
            Err(_) => Next::Data,
        }
    }

    /// Reads the header at byte `at`; returns `None` at the end of the tar.
    fn header(&self, at: u64) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        self.source.read_at(at, header.as_mut_bytes())?;
        let bytes = header.as_bytes();
        if bytes.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let sum: u32 = bytes[..148].iter().chain(&bytes[156..]).map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
        match header.cksum() {
            Ok(claimed) if claimed == sum => Ok(Some(header)),
            _ if at == 0 => Err(self.bad(at, "wrong checksum, so this is not a tar archive")),
            _ => Err(self.bad(at, "wrong checksum")),
        }
    }

    /// Parses the records of a pax header: `length key=value\n`.
    fn records(&self, at: u64, mut bytes: &[u8]) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        while !bytes.is_empty() && bytes[0] != 0 {
            let record = || -> Option<(&[u8], &[u8], usize)> {
                let space = bytes.iter().take(20).position(|b| *b == b' ')?;
                let len = usize::try_from(number(&bytes[..space])?).ok()?;
                let record = bytes.get(space + 1..len)?.strip_suffix(b"\n")?;
                let equals = record.iter().position(|b| *b == b'=')?;
                Some((&record[..equals], &record[equals + 1..], len))
            };
            let (key, value, len) = record().ok_or_else(|| self.bad(at, "malformed pax record"))?;
            if records::is_read(key) {
                records.push((key.to_vec(), value.to_vec()));
            }
            bytes = &bytes[len..];
        }
        Ok(records)
    }

    fn member(
        &mut self,
        at: u64,
        header: &Header,
        size: u64,
        extra: &Extra,
        members: &mut Members,
    ) -> Result<()> {
        let pax = |key: &[u8]| extra.pax.get(key);
        let text = pax(b"GNU.sparse.name").or(pax(b"path")).map(<[u8]>::to_vec);
        let text = text.or(extra.path.clone()).unwrap_or_else(|| header.path_bytes().into_owned());
        let path = TreePath::parse(&text)
            .ok_or_else(|| self.bad(at, &format!("\"{}\": the path leads out of the tree", shown(&text))))?;
        let path = self.follow(at, path, members)?;
        let link = pax(b"linkpath").map(<[u8]>::to_vec).or(extra.link.clone());
        let link = link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
        let file_type = match header.entry_type() {
            EntryType::Regular if text.ends_with(b"/") => FileType::Dir,
            // An incremental backup by GNU tar: a directory, and a list of its entries.
            other if other.as_byte() == b'D' => FileType::Dir,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => FileType::File,
            EntryType::Link => {
                let target = link.and_then(|link| TreePath::parse(&link));
                let target = target.map(|target| self.follow(at, target, members)).transpose()?;
                let first = target.and_then(|target| members.get_mut(&target));
                let first = first.filter(|first| first.node.file_type != FileType::Dir);
                let Some(first) = first else {
                    return Err(self.bad(
                        at,
                        &format!("\"{}\": the target of the hard link does not exist", shown(&text)),
                    ));
                };
                let next = self.files;
                self.files += 1;
                let file = *first.file.get_or_insert(next);
                let member = first.clone();
                if size > 0 {
                    self.bodies.insert(file, (size, Arc::new(vec![(0..size, at + BLOCK)])));
                }
                return self.insert(at, path, member, members);
            }
            EntryType::Symlink => FileType::Symlink,
            EntryType::Char => FileType::Char,
            EntryType::Block => FileType::Block,
            EntryType::Directory => FileType::Dir,
            EntryType::Fifo => FileType::Fifo,
            other if other.as_byte() == b'V' => return Ok(()),
            other => {
                let letter = char::from(other.as_byte());
                return Err(self.bad(at, &format!("unsupported member type '{letter}'")));
            }
        };
        let mut node = Node::bare(file_type);
        node.mode = Some((header.mode().map_err(|e| self.bad(at, &e.to_string()))? & 0o7777) as u16);
        let field = |value: std::io::Result<u64>| value.map_err(|e| self.bad(at, &e.to_string()));
        let id = |key: &[u8], old: std::io::Result<u64>| -> Result<Option<u32>> {
            let id = match pax(key) {
                Some(text) => number(text).ok_or_else(|| self.bad(at, "the owner is not a number"))?,
                None => field(old)?,
            };
            u32::try_from(id).map(Some).map_err(|_| self.bad(at, "the owner does not fit into 32 bits"))
        };
        (node.uid, node.gid) = (id(b"uid", header.uid())?, id(b"gid", header.gid())?);
        node.mtime = match pax(b"mtime") {
            Some(text) => Some(time(text).ok_or_else(|| self.bad(at, "invalid time"))?),
            None => Some(Timestamp { secs: field(header.mtime())? as i64, nanos: 0 }),
        };
        // Not the access time: creating the tar has changed it, so two builds would differ.
        for (key, what) in [("SCHILY.acl.ace", "the NFSv4 ACLs"), ("SCHILY.fflags", "the file flags")] {
            if pax(key.as_bytes()).is_some_and(|value| !value.is_empty()) {
                self.left_out.entry(what).or_insert_with(|| (0, path.clone())).0 += 1;
            }
        }
        let acls;
        (node.xattrs, acls) = attributes::read(&extra.pax);
        let mut content = None;
        match file_type {
            FileType::File => {
                let (real, parts) = self.parts(at, header, size, extra)?;
                node.size = real;
                content = Some(Content::InTar(Arc::new(parts)));
            }
            FileType::Symlink => {
                node.link_target = Some(link.ok_or_else(|| self.bad(at, "the symlink has no target"))?);
            }
            FileType::Char | FileType::Block => {
                let number = |value: std::io::Result<Option<u32>>| value.ok().flatten().unwrap_or(0);
                node.rdev = Some((number(header.device_major()), number(header.device_minor())));
            }
            _ => {}
        }
        self.insert(at, path, Member { node, content, file: None, acls }, members)
    }

    fn insert(&mut self, at: u64, path: TreePath, member: Member, members: &mut Members) -> Result<()> {
        let taken = self.room.take(&path, &member);
        taken.map_err(|problem| self.bad(at, &format!("\"{}\": {problem}", path.shown())))?;
        self.follower.changes(&path, members, &member);
        members.insert(path, member);
        Ok(())
    }

    fn follow(&mut self, at: u64, path: TreePath, members: &Members) -> Result<TreePath> {
        let text = path.shown();
        self.follower
            .follow(path, members)
            .ok_or_else(|| self.bad(at, &format!("\"{text}\": too many levels of symbolic links")))
    }
}

/// Returns true if members of this type have no data, whatever the size in their header.
fn is_without_data(header: &Header) -> bool {
    match header.entry_type() {
        EntryType::Link
        | EntryType::Symlink
        | EntryType::Char
        | EntryType::Block
        | EntryType::Directory
        | EntryType::Fifo => true,
        // Before ustar, a slash at the end of the name marked a directory.
        EntryType::Regular => header.path_bytes().ends_with(b"/"),
        _ => false,
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

/// Parses seconds with decimals, which may be negative.
fn time(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let secs = i64::try_from(number(whole.as_bytes())?).ok()?;
    let part = part.get(..part.len().min(9))?;
    let nanos = match part {
        "" => 0,
        part => number(part.as_bytes())? as u32 * 10_u32.pow(9 - part.len() as u32),
    };
    Some(match (sign, nanos) {
        (-1, 0) => Timestamp { secs: -secs, nanos },
        (-1, nanos) => Timestamp { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
        _ => Timestamp { secs, nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mif_formats::MemSource;

    #[test]
    fn times_before_1970_have_nanoseconds_too() {
        let at = |text: &str| time(text.as_bytes()).map(|t| (t.secs, t.nanos));
        assert_eq!(at("12.5"), Some((12, 500_000_000)));
        assert_eq!(at("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(at("-3"), Some((-3, 0)));
        assert_eq!(at("1e3"), None);
    }

    #[test]
    fn a_tar_that_claims_too_much_is_refused_and_never_read_past() {
        let mut header = Header::new_ustar();
        header.set_path("a").unwrap();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(1 << 30);
        header.set_cksum();
        let error = of_tar(&MemSource(header.as_bytes().to_vec()), "t").map(drop).unwrap_err().to_string();
        assert!(error.contains("extends past the end"), "{error}");
        for size in [[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], [0xff; 12]] {
            header.as_old_mut().size = size;
            header.set_cksum();
            let error =
                of_tar(&MemSource(header.as_bytes().to_vec()), "t").map(drop).unwrap_err().to_string();
            assert!(error.contains("size is out of range"), "{error}");
        }
        let error = of_tar(&MemSource(vec![1; 1024]), "t").map(drop).unwrap_err().to_string();
        assert!(error.contains("not a tar archive"), "{error}");
        let error =
            of_tar(&MemSource(b"\x1f\x8b\x08 something".to_vec()), "t").map(drop).unwrap_err().to_string();
        assert!(error.contains("zcat t"), "{error}");
    }
}
