//! Trees of files that are put into an image: a local directory, a tar archive, or files of the image itself.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use mif_formats::fs::{FileType, Node, Xattr};
use mif_formats::mif::manifest::escape;
use mif_formats::source::check_range;
use mif_formats::{Extent, Result as FormatsResult, Source};

use crate::error::{Code, Error, Result};
use crate::host::acl;
use crate::ingest::LooseFile;
use crate::mkdisk::{Content, Input, Member};
use crate::tree::edit::{Files, NewNode};
use crate::tree::new_content::NewContent;
use crate::tree::path::Place;

/// Attributes that belong to the system where a file was: they are not carried into the image.
const NOT_CARRIED: [&[u8]; 3] = [b"security.selinux", b"security.ima", b"security.evm"];

/// A tree of files.
pub(super) struct Graft {
    /// Its origin, for reports.
    pub(super) from: String,
    /// A directory comes before its entries.
    pub(super) entries: Vec<Entry>,
    /// What could not be taken from an archive, as sentences.
    notes: Vec<String>,
}

/// A file of a tree.
pub(super) struct Entry {
    /// The path below the tree's directory; empty for the directory itself.
    pub(super) path: Vec<u8>,
    /// Without a mode, an owner or a time, it gets those of a new file.
    pub(super) node: Node,
    pub(super) content: Option<NewContent>,
    /// Entries with the same number are names of one file.
    pub(super) file: Option<u64>,
}

impl Graft {
    /// Reads the local file or directory `path`, which appears under its own name. If the path ends in `/.`, its
    /// entries appear instead. Owners and times are not carried: they are those of this machine.
    pub(super) fn of_local(path: &Path) -> Result<Self> {
        let text = path.as_os_str().as_encoded_bytes();
        let contents_only = text.ends_with(b"/.") || text == b".";
        let name = if contents_only {
            Vec::new()
        } else {
            let name = path.file_name().ok_or_else(|| {
                Error::usage(format!("{}: the path has no last name to appear under", path.display()))
                    .advise("Write DIR/. to copy what is in the directory")
            })?;
            name.as_encoded_bytes().to_vec()
        };
        let from = path.display().to_string();
        let meta = std::fs::metadata(path).map_err(|e| Error::io(path, &e).coded(Code::Input))?;
        if !meta.is_dir() {
            let content = NewContent::of_file(path)?;
            let mut node = Node::bare(FileType::File);
            node.size = content.source.len();
            node.mode = Some((meta.permissions().mode() & 0o777) as u16);
            return Ok(Graft {
                from,
                entries: vec![Entry { path: name, node, content: Some(content), file: None }],
                notes: Vec::new(),
            });
        }
        let mut graft = Self::of_input(Input::directory(path)?, from)?;
        for entry in &mut graft.entries {
            (entry.node.uid, entry.node.gid, entry.node.mtime) = (None, None, None);
            // Set-ID bits are for an owner that is not carried.
            entry.node.mode = entry.node.mode.map(|mode| mode & 0o1777);
            entry.path = match (&name[..], &entry.path[..]) {
                (name, b"") => name.to_vec(),
                (b"", path) => path.to_vec(),
                (name, path) => [name, b"/", path].concat(),
            };
        }
        Ok(graft)
    }

    /// Reads a tar archive; `-` is standard input. Owners, modes and times are those of the archive.
    pub(super) fn of_tar(path: &Path) -> Result<Self> {
        Self::of_input(Input::archive(path)?, path.display().to_string())
    }

    fn of_input(input: Input, from: String) -> Result<Self> {
        let Input { members, tar, notes } = input;
        let mut entries = Vec::with_capacity(members.len());
        let mut contents: HashMap<u64, NewContent> = HashMap::new();
        for (path, member) in members {
            let Member { mut node, content, file, acls: _ } = member;
            let known = file.and_then(|file| contents.get(&file)).cloned();
            let content = match (known, content) {
                (Some(known), _) => Some(known),
                (None, Some(content)) => {
                    let label = format!("{from}: {}", escape(&path.bytes()));
                    Some(new_content(content, node.size, tar.as_ref(), label)?)
                }
                (None, None) => None,
            };
            if let (Some(file), Some(content)) = (file, &content) {
                contents.insert(file, content.clone());
            }
            node.xattrs.retain(|xattr| !NOT_CARRIED.contains(&&xattr.name[..]));
            entries.push(Entry { path: path.bytes()[1..].to_vec(), node, content, file });
        }
        Ok(Graft { from, entries, notes })
    }

    /// Copies a file or directory of the image with everything below it. The copies belong to `owner`, a user and a
    /// group, or else to whom the originals do. The first entry has the name `name`, which may be empty.
    pub(super) fn of_image(files: &Files, from: &str, name: &str, owner: Option<(u32, u32)>) -> Result<Self> {
        let top = files.place(from, true)?;
        let mut entries = Vec::new();
        let mut numbers = HashMap::new();
        let start = if top.path == b"/" { b"/".to_vec() } else { [&top.path[..], b"/"].concat() };
        let rows = files.volume_rows(&top.volume).filter(|row| {
            row.path == top.path || row.path.starts_with(&start) && row.path.len() > start.len()
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by(|a, b| a.path.split(|c| *c == b'/').cmp(b.path.split(|c| *c == b'/')));
        for row in rows {
            let rest = row.path.get(start.len()..).unwrap_or_default();
            let path = match (name.as_bytes(), rest) {
                (name, b"") => name.to_vec(),
                (b"", rest) => rest.to_vec(),
                (name, rest) => [name, b"/", rest].concat(),
            };
            let mut node = row.node.clone();
            let is_file = node.file_type == FileType::File;
            let content = if is_file { Some(NewContent::of_bytes(files.content(row)?)) } else { None };
            node.xattrs.retain(|xattr| !NOT_CARRIED.contains(&&xattr.name[..]));
            if let Some((uid, gid)) = owner {
                (node.uid, node.gid) = (Some(uid), Some(gid));
                if is_file {
                    // As chown(2) does.
                    node.mode = node.mode.map(|mode| mode & 0o1777);
                    node.xattrs.retain(|xattr| xattr.name != b"security.capability");
                }
            }
            let next = numbers.len() as u64;
            let file =
                row.file.filter(|_| node.nlink.is_some_and(|n| n > 1) && node.file_type != FileType::Dir);
            let file = file.map(|file| *numbers.entry(file).or_insert(next));
            entries.push(Entry { path, node, content, file });
        }
        Ok(Graft { from: from.to_owned(), entries, notes: Vec::new() })
    }
}

impl Files {
    /// Puts a tree into the directory `base`. Directories that exist keep their owner and mode, and a symlink to a
    /// directory stands for it; a file that exists is replaced. Parts of `owner` replace those of the tree.
    pub(super) fn graft(
        &mut self,
        base: &str,
        graft: &Graft,
        owner: (Option<u32>, Option<u32>),
    ) -> Result<()> {
        let top = self.place(base, true)?;
        if self.at(&top).is_none_or(|row| row.node.file_type != FileType::Dir) {
            return Err(Error::input(format!("{base}: no such directory in the image"))
                .advise("Create it first, with an edit before this one"));
        }
        self.notes.extend(graft.notes.iter().map(|note| format!("{}: {note}", graft.from)));
        let mut links: HashMap<u64, Place> = HashMap::new();
        let mut times = Vec::new();
        for entry in &graft.entries {
            let path = match &entry.path[..] {
                b"" => base.as_bytes().to_vec(),
                path => [base.trim_end_matches('/').as_bytes(), b"/", path].concat(),
            };
            let is_dir = entry.node.file_type == FileType::Dir;
            let place = self.place_of(&path, is_dir)?;
            let wrong =
                |problem: &str| Error::input(format!("{}:{}: {problem}", place.volume, escape(&place.path)));
            match self.at(&place).map(|row| row.node.file_type) {
                Some(FileType::Dir) if is_dir => continue,
                Some(FileType::Dir) => return Err(wrong("is a directory, so a file cannot replace it")),
                Some(_) if is_dir => {
                    return Err(wrong("is not a directory, so a directory cannot replace it"));
                }
                Some(_) => _ = self.remove(&place)?,
                None => {}
            }
            let first = entry.file.and_then(|file| links.get(&file));
            if let Some(first) = first.filter(|first| first.volume == place.volume && !is_dir) {
                let first = first.clone();
                self.link(&first, &place)?;
                continue;
            }
            self.plant(&place, entry, owner)?;
            if let Some(file) = entry.file {
                links.insert(file, place.clone());
            }
            if let (true, Some(time)) = (is_dir, entry.node.mtime) {
                times.push((place, time));
            }
        }
        // Only now, because each new entry changes the time of its directory.
        for (place, time) in times {
            self.change(&place, |row| row.node.mtime = row.node.mtime.map(|_| time))?;
        }
        Ok(())
    }

    /// Creates the file of an entry.
    fn plant(&mut self, place: &Place, entry: &Entry, owner: (Option<u32>, Option<u32>)) -> Result<()> {
        let Entry { node, content, .. } = entry;
        let (owner, group) = (owner.0.or(node.uid), owner.1.or(node.gid));
        let is_posix = self.capabilities(&place.volume).is_posix;
        if !is_posix && !matches!(node.file_type, FileType::File | FileType::Dir) {
            return Err(Error::input(format!(
                "{}:{}: {} has only files and directories",
                place.volume,
                escape(&place.path),
                self.capabilities(&place.volume).name
            )));
        }
        let mode = node.mode.unwrap_or(match node.file_type {
            FileType::Dir => 0o755,
            FileType::Symlink => 0o777,
            _ => 0o644,
        });
        let (uid, gid) = (owner.unwrap_or(0), group.unwrap_or(0));
        self.create(place, &NewNode { file_type: node.file_type, mode, uid, gid })?;
        if node.file_type == FileType::File {
            self.replace(place, content.clone().unwrap_or_else(|| NewContent::of_bytes(Vec::new())))?;
        }
        self.change(place, |row| {
            let new = &mut row.node;
            if let Some(target) = &node.link_target {
                new.link_target = Some(target.clone());
                new.size = target.len() as u64;
            }
            new.rdev = node.rdev;
            new.mtime = new.mtime.map(|now| node.mtime.unwrap_or(now));
            if !is_posix {
                return;
            }
            (new.uid, new.gid) = (owner.or(new.uid), group.or(new.gid));
            for xattr in &node.xattrs {
                new.xattrs.retain(|other| other.name != xattr.name);
                new.xattrs.push(xattr.clone());
            }
            new.xattrs.sort();
            // The mode that was asked for counts, whatever default ACL the directory has.
            if let Some(mode) = node.mode {
                let setgid = new.mode.unwrap_or_default() & if group.is_none() { 0o2000 } else { 0 };
                new.mode = Some(mode | setgid);
                let is_access = |xattr: &&mut Xattr| xattr.name == acl::ACCESS.as_bytes();
                for xattr in new.xattrs.iter_mut().filter(is_access) {
                    if let Some(value) = acl::with_mode(&xattr.value, mode) {
                        xattr.value = value;
                    }
                }
            }
        })
    }
}

/// Returns the content of a member, which is read again when it is stored.
fn new_content(
    content: Content,
    size: u64,
    tar: Option<&Arc<dyn Source>>,
    label: String,
) -> Result<NewContent> {
    // Opened only to read, so that a large tree does not keep as many files open.
    let lazy = Lazy { content, size, tar: tar.cloned() };
    lazy.open()?;
    NewContent::reread_of(Arc::new(lazy), label)
}

/// Content that is opened whenever it is read.
struct Lazy {
    content: Content,
    size: u64,
    tar: Option<Arc<dyn Source>>,
}

impl Lazy {
    fn open(&self) -> Result<LooseFile> {
        self.content.open(self.size, self.tar.as_ref())
    }
}

impl Source for Lazy {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> FormatsResult<()> {
        check_range("file", self.size, offset, buf.len() as u64)?;
        let failed = |e: Error| mif_formats::at("file").io(std::io::Error::other(e.to_string()));
        let file = self.open().map_err(failed)?;
        buf.fill(0);
        let end = offset + buf.len() as u64;
        let first = file.parts.partition_point(|(part, _)| part.end <= offset);
        for (part, at) in file.parts[first..].iter().take_while(|(part, _)| part.start < end) {
            let (from, to) = (part.start.max(offset), part.end.min(end));
            let into = &mut buf[(from - offset) as usize..(to - offset) as usize];
            file.source.read_at(at + (from - part.start), into)?;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> FormatsResult<Extent> {
        check_range("file", self.size, offset, 1)?;
        Ok(Extent::data(offset, self.size - offset))
    }
}
