//! The primitive edits, and how they change the files.

use std::fmt;
use std::sync::Arc;

use mif_formats::fs::{FileType, Xattr};
use mif_formats::mif::manifest::escape;

use super::graft::Graft;
use super::substitute::Script;
use crate::error::{Error, Result};
use crate::guest::accounts;
use crate::host::acl;
use crate::tree::edit::{Files, NewNode, parent};
use crate::tree::new_content::NewContent;
use crate::tree::path::{Place, missing};

/// A change to an image's files. Paths are `/path` as the image's own system sees them, or `VOLUME:/path`.
#[derive(Clone)]
pub(super) enum Edit {
    /// Writes a regular file. Unless specified, a new file belongs to root and has the mode 0644, and an existing one
    /// keeps its owner and mode.
    Write { path: String, content: NewContent, mode: Option<u16>, owner: Option<Owner> },
    /// Appends to a file, and creates it if it does not exist. To a text, it appends whole lines: a last line without a
    /// line end gets one.
    Append { path: String, content: NewContent, mode: Option<u16>, owner: Option<Owner> },
    /// Creates a directory and its parents if they do not exist. New ones belong to root and have the mode 0755.
    Mkdir { path: String, mode: Option<u16>, owner: Option<Owner> },
    /// Removes a path and everything under it.
    Delete { path: String },
    /// Renames a path within its volume, as rename(2) does: a file replaces a file, and a directory an empty directory.
    Rename { from: String, to: String },
    /// Creates a symlink, which replaces any node except a directory.
    Symlink { path: String, target: String },
    /// Changes the permissions.
    Chmod { path: String, mode: u16 },
    /// Changes the owner. As in Linux, this clears setuid, setgid and capabilities of anything but a directory.
    Chown { path: String, owner: Owner },
    /// Sets an extended attribute.
    SetXattr { path: String, name: String, value: Vec<u8> },
    /// Removes an extended attribute.
    RemoveXattr { path: String, name: String },
    /// Puts a tree into a directory. Parts of `owner` replace those of the tree.
    Graft { path: String, graft: Arc<Graft>, owner: (Option<u32>, Option<u32>) },
    /// Replaces text in a file, line by line.
    Substitute { path: String, commands: Script, text: String },
    /// Sets the times of a file, and creates it if it does not exist.
    Touch { path: String },
}

/// The owner of a file: names of the image's accounts, or numbers. An empty part is left unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    user: String,
    group: String,
}

impl Owner {
    /// Parses `USER`, `USER:GROUP` or `:GROUP`.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        if user.is_empty() && group.is_empty() || group.contains(':') {
            return Err(Error::usage(format!(
                "invalid owner \"{text}\": expected USER, USER:GROUP or :GROUP"
            )));
        }
        Ok(Owner { user: user.to_owned(), group: group.to_owned() })
    }

    /// Returns an owner with these numbers.
    pub(super) fn ids(uid: u32, gid: u32) -> Self {
        Owner { user: uid.to_string(), group: gid.to_string() }
    }

    /// Returns the numbers according to the image's own accounts.
    pub(super) fn numbers(&self, files: &Files) -> Result<(Option<u32>, Option<u32>)> {
        let number = |text: &str, find: &dyn Fn(&str) -> Result<u32>| match text {
            "" => Ok(None),
            text if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().map(Some).map_err(|_| {
                Error::usage(format!("invalid user or group ID {text}: the largest is {}", u32::MAX))
            }),
            name => find(name).map(Some),
        };
        let uid = number(&self.user, &|name| accounts::user(files, name).map(|user| user.uid))?;
        let gid = number(&self.group, &|name| accounts::group(files, name))?;
        Ok((uid, gid))
    }
}

impl Edit {
    /// Writes a text file; a new one belongs to root and has the mode 0644.
    pub(super) fn text(path: impl Into<String>, text: impl Into<String>) -> Self {
        let content = NewContent::of_bytes(text.into().into_bytes());
        Edit::Write { path: path.into(), content, mode: None, owner: None }
    }

    /// Writes a text file that belongs to root and has this mode.
    pub(super) fn file(path: impl Into<String>, text: impl Into<String>, mode: u16) -> Self {
        let content = NewContent::of_bytes(text.into().into_bytes());
        Edit::Write { path: path.into(), content, mode: Some(mode), owner: Some(Owner::ids(0, 0)) }
    }

    /// Creates a directory if it does not exist.
    pub(super) fn folder(path: impl Into<String>) -> Self {
        Edit::Mkdir { path: path.into(), mode: None, owner: None }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            f.write_str(&self.user)
        } else {
            write!(f, "{}:{}", self.user, self.group)
        }
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with = |f: &mut fmt::Formatter<'_>, mode: &Option<u16>, owner: &Option<Owner>| {
            if let Some(mode) = mode {
                write!(f, ", mode {mode:04o}")?;
            }
            owner.as_ref().map_or(Ok(()), |owner| write!(f, ", owner {owner}"))
        };
        match self {
            Edit::Write { path, content, mode, owner } => {
                write!(f, "write {path} ({} bytes)", content.source.len())?;
                with(f, mode, owner)
            }
            Edit::Append { path, content, mode, owner } => {
                write!(f, "append {} bytes to {path}", content.source.len())?;
                with(f, mode, owner)
            }
            Edit::Mkdir { path, mode, owner } => {
                write!(f, "create directory {path}")?;
                with(f, mode, owner)
            }
            Edit::Delete { path } => write!(f, "delete {path}"),
            Edit::Rename { from, to } => write!(f, "rename {from} to {to}"),
            Edit::Symlink { path, target } => write!(f, "symlink {path} to {target}"),
            Edit::Chmod { path, mode } => write!(f, "change mode of {path} to {mode:04o}"),
            Edit::Chown { path, owner } => write!(f, "change owner of {path} to {owner}"),
            Edit::SetXattr { path, name, .. } => write!(f, "set attribute {name} of {path}"),
            Edit::RemoveXattr { path, name } => write!(f, "remove attribute {name} of {path}"),
            Edit::Graft { path, graft, .. } => match graft.entries.len() {
                1 => write!(f, "put 1 path from {} into {path}", graft.from),
                paths => write!(f, "put {paths} paths from {} into {path}", graft.from),
            },
            Edit::Substitute { path, text, .. } => write!(f, "edit {path}: {text}"),
            Edit::Touch { path } => write!(f, "touch {path}"),
        }
    }
}

/// Returns the error for a path that ends in a slash but is not a directory.
fn not_a_directory(place: &Place) -> Error {
    Error::input(format!(
        "{}:{}: not a directory, although the path ends in a slash",
        place.volume,
        escape(&place.path)
    ))
}

impl Files {
    /// Makes an edit. Fails with the reason if these files cannot take it; they are unusable afterwards.
    pub(super) fn apply(&mut self, edit: &Edit) -> Result<()> {
        match edit {
            Edit::Write { path, content, mode, owner } => {
                self.write(path, content.clone(), *mode, owner.as_ref())
            }
            Edit::Append { path, content, mode, owner } => {
                let mut bytes = self.read(path)?.unwrap_or_default();
                let is_text = !bytes.contains(&0);
                if is_text && bytes.last().is_some_and(|last| *last != b'\n') {
                    bytes.push(b'\n');
                }
                bytes.extend(content.source.read_vec(0, content.source.len() as usize)?);
                self.write(path, NewContent::of_bytes(bytes), *mode, owner.as_ref())
            }
            Edit::Mkdir { path, mode, owner } => self.mkdir(path, *mode, owner.as_ref()),
            Edit::Delete { path } => {
                let place = self.named(path)?;
                self.remove(&place).map(|_| ())
            }
            Edit::Rename { from, to } => self.move_to(from, to),
            Edit::Symlink { path, target } => self.symlink(path, target),
            Edit::Chmod { path, mode } => {
                let place = self.existing(path, true)?;
                self.set_owner_and_mode(&place, Some(*mode), None)
            }
            Edit::Chown { path, owner } => {
                let place = self.existing(path, true)?;
                self.set_owner_and_mode(&place, None, Some(owner))
            }
            Edit::SetXattr { path, name, value } => self.set_xattr(path, name, Some(value)),
            Edit::RemoveXattr { path, name } => self.set_xattr(path, name, None),
            Edit::Graft { path, graft, owner } => self.graft(path, graft, *owner),
            Edit::Substitute { path, commands, text } => {
                let place = self.existing(path, true)?;
                let row = self.at(&place).filter(|row| row.node.file_type == FileType::File);
                let row = row.ok_or_else(|| self.is_not(&place, "a regular file"))?;
                let (new, changed) = commands.apply(&self.content(row)?);
                if changed == 0 {
                    self.notes.push(format!("{path}: {text} changed no line"));
                    return Ok(());
                }
                self.write(path, NewContent::of_bytes(new), None, None)
            }
            Edit::Touch { path } => {
                if self.get(path).is_none() {
                    return self.write(path, NewContent::of_bytes(Vec::new()), None, None);
                }
                let (place, time) = (self.existing(path, true)?, self.time);
                self.change(&place, |row| {
                    row.node.mtime = row.node.mtime.map(|_| time);
                    row.node.atime = row.node.atime.map(|_| time);
                })
            }
        }
    }

    /// Returns true if an edit creates a directory that already exists.
    pub(super) fn has_folder(&self, edit: &Edit) -> bool {
        match edit {
            Edit::Mkdir { path, mode: None, owner: None } => {
                self.get(path).is_some_and(|row| row.node.file_type == FileType::Dir)
            }
            _ => false,
        }
    }

    /// Resolves a path that must exist.
    fn existing(&self, path: &str, follow: bool) -> Result<Place> {
        let place = self.place(path, follow)?;
        if self.at(&place).is_none() {
            return Err(missing(&place.volume, &place.path));
        }
        Ok(place)
    }

    /// Resolves a path that is to be removed or renamed: a name in a directory. As in rename(2) and rm(1), a path that
    /// ends in `.` or `..` is refused, and one that ends in a slash must be a directory.
    fn named(&self, path: &str) -> Result<Place> {
        let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        if matches!(name, "." | "..") {
            return Err(Error::usage(format!("{path}: cannot remove or rename a path that ends in {name}")));
        }
        let place = self.existing(path, false)?;
        let is_dir = self.at(&place).is_some_and(|row| row.node.file_type == FileType::Dir);
        if path.ends_with('/') && !is_dir {
            return Err(not_a_directory(&place));
        }
        Ok(place)
    }

    fn write(
        &mut self,
        path: &str,
        content: NewContent,
        mode: Option<u16>,
        owner: Option<&Owner>,
    ) -> Result<()> {
        if path.ends_with('/') {
            return Err(Error::usage(format!("{path}: the path of a file must not end in a slash")));
        }
        let place = self.place(path, true)?;
        match self.at(&place) {
            Some(row) if row.node.file_type != FileType::File => {
                return Err(self.is_not(&place, "a regular file"));
            }
            Some(_) => {}
            None => {
                let above = Place { path: parent(&place.path).to_vec(), ..place.clone() };
                if self.at(&above).is_none() {
                    return Err(missing(&above.volume, &above.path)
                        .advise("Create the directory first, with an edit before this one"));
                }
                let node = NewNode { file_type: FileType::File, mode: 0o644, uid: 0, gid: 0 };
                self.create(&place, &node)?;
            }
        }
        self.fill(&place, content)?;
        self.set_owner_and_mode(&place, mode, owner)
    }

    fn mkdir(&mut self, path: &str, mode: Option<u16>, owner: Option<&Owner>) -> Result<()> {
        let start = path.find(":/").filter(|_| !path.starts_with('/')).map_or(0, |colon| colon + 1);
        let mut ends: Vec<usize> = path
            .char_indices()
            .skip_while(|(i, _)| *i <= start)
            .filter(|(_, c)| *c == '/')
            .map(|(i, _)| i)
            .collect();
        ends.push(path.len());
        for end in ends {
            let place = self.place(&path[..end], true)?;
            match self.at(&place) {
                Some(row) if row.node.file_type != FileType::Dir => {
                    return Err(self.is_not(&place, "a directory"));
                }
                Some(_) => {}
                None => {
                    let node = NewNode { file_type: FileType::Dir, mode: 0o755, uid: 0, gid: 0 };
                    self.create(&place, &node)?;
                }
            }
        }
        let place = self.existing(path, true)?;
        self.set_owner_and_mode(&place, mode, owner)
    }

    fn move_to(&mut self, from: &str, to: &str) -> Result<()> {
        let (from, to_path) = (self.named(from)?, to);
        let to = self.place(to_path, false)?;
        let is_dir = self.at(&from).is_some_and(|row| row.node.file_type == FileType::Dir);
        if matches!(to_path.trim_end_matches('/').rsplit('/').next(), Some("." | "..")) {
            return Err(Error::usage(format!("{to_path}: the new name cannot be . or ..")));
        }
        if to_path.ends_with('/') && !is_dir {
            return Err(not_a_directory(&from));
        }
        if from.volume != to.volume {
            return Err(Error::input(format!(
                "{}:{}: cannot be moved to another volume ({})",
                from.volume,
                escape(&from.path),
                to.volume
            ))
            .advise("Write it there and delete it here"));
        }
        let same_file = |a: &Place, b: &Place| {
            let file = |place: &Place| self.at(place).and_then(|row| row.file);
            a == b || !is_dir && file(a).is_some() && file(a) == file(b)
        };
        // If both are names of one file, both stay, as in rename(2).
        if same_file(&from, &to) {
            return Ok(());
        }
        let above = Place { path: parent(&to.path).to_vec(), ..to.clone() };
        if self.at(&above).is_none_or(|row| row.node.file_type != FileType::Dir) {
            return Err(missing(&above.volume, &above.path)
                .advise("Create the directory first, with an edit before this one"));
        }
        if let Some(there) = self.at(&to) {
            let problem = match (is_dir, there.node.file_type == FileType::Dir) {
                (false, false) => None,
                (true, true) => self.has_entries(&to).then_some("the directory is not empty"),
                (true, false) => Some("not a directory, so a directory cannot replace it"),
                (false, true) => Some("is a directory, so a file cannot replace it"),
            };
            if let Some(problem) = problem {
                return Err(Error::input(format!("{}:{}: {problem}", to.volume, escape(&to.path))));
            }
            if to.path.starts_with(&crate::tree::edit::below(&from.path).start) {
                return Err(Error::input(format!(
                    "{}:{}: cannot be moved into itself",
                    from.volume,
                    escape(&from.path)
                )));
            }
            self.remove(&to)?;
        }
        self.rename(&from, &to)
    }

    fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        if path.ends_with('/') {
            return Err(Error::usage(format!("{path}: the path of a symlink must not end in a slash")));
        }
        let place = self.place(path, false)?;
        if !self.capabilities(&place.volume).is_posix {
            return Err(self.has_no(&place, "symlinks"));
        }
        if target.is_empty() || target.contains('\0') {
            return Err(Error::usage(format!("{path}: a symlink needs a target")));
        }
        match self.at(&place) {
            Some(row) if row.node.file_type == FileType::Dir => {
                let path = escape(&place.path);
                return Err(Error::input(format!("{}:{path}: is a directory", place.volume))
                    .advise("To replace it, delete it first"));
            }
            Some(_) => self.remove(&place).map(|_| ())?,
            None => {}
        }
        self.create(&place, &NewNode { file_type: FileType::Symlink, mode: 0o777, uid: 0, gid: 0 })?;
        self.change(&place, |row| {
            row.node.link_target = Some(target.as_bytes().to_vec());
            row.node.size = target.len() as u64;
        })
    }

    fn set_owner_and_mode(&mut self, place: &Place, mode: Option<u16>, owner: Option<&Owner>) -> Result<()> {
        if mode.is_none() && owner.is_none() {
            return Ok(());
        }
        if !self.capabilities(&place.volume).is_posix {
            return Err(self.has_no(place, "owners and modes"));
        }
        let (uid, gid) = owner.map_or(Ok((None, None)), |owner| owner.numbers(self))?;
        self.change(place, |row| {
            row.node.uid = uid.or(row.node.uid);
            row.node.gid = gid.or(row.node.gid);
            if owner.is_some() && row.node.file_type != FileType::Dir {
                // Setgid without group execute permission marks mandatory locking, and stays.
                row.node.mode = row.node.mode.map(|mode| {
                    let setgid = if mode & 0o010 != 0 { 0o2000 } else { 0 };
                    mode & !(0o4000 | setgid)
                });
                row.node.xattrs.retain(|xattr| xattr.name != b"security.capability");
            }
            if let Some(mode) = mode {
                row.node.mode = Some(mode);
                for xattr in row.node.xattrs.iter_mut().filter(|xattr| xattr.name == acl::ACCESS.as_bytes()) {
                    if let Some(value) = acl::with_mode(&xattr.value, mode) {
                        xattr.value = value;
                    }
                }
            }
        })
    }

    fn set_xattr(&mut self, path: &str, name: &str, value: Option<&Vec<u8>>) -> Result<()> {
        let place = self.existing(path, false)?;
        if !self.capabilities(&place.volume).is_posix {
            return Err(self.has_no(&place, "extended attributes"));
        }
        let row = self.at(&place).ok_or_else(|| missing(&place.volume, &place.path))?;
        let plain = matches!(row.node.file_type, FileType::File | FileType::Dir);
        let known = ["user.", "trusted.", "security.", "system.posix_acl_"];
        if !known.iter().any(|prefix| name.len() > prefix.len() && name.starts_with(prefix)) {
            return Err(Error::usage(format!("invalid attribute name \"{name}\""))
                .advise("It must begin with user., trusted., security. or system.posix_acl_"));
        }
        if name.starts_with("user.") && !plain {
            return Err(self.is_not(&place, "a file or directory, and only these have user.* attributes"));
        }
        let name = name.as_bytes();
        if value.is_none() && !row.node.xattrs.iter().any(|xattr| xattr.name == name) {
            return Err(Error::input(format!(
                "{}:{}: no such attribute: {}",
                place.volume,
                escape(&place.path),
                escape(name)
            )));
        }
        let is_acl = [acl::ACCESS, acl::DEFAULT].iter().any(|acl| acl.as_bytes() == name);
        let bits = value.and_then(|value| acl::mode_of(value));
        if is_acl && value.is_some() && bits.is_none() {
            return Err(Error::usage("the value is not an ACL in the kernel's xattr format")
                .advise("Print one with `getfattr -e hex -n system.posix_acl_access`"));
        }
        self.change(&place, |row| {
            if name == acl::ACCESS.as_bytes() {
                row.node.mode = row.node.mode.map(|mode| bits.map_or(mode, |bits| mode & !0o777 | bits));
            }
            row.node.xattrs.retain(|xattr| xattr.name != name);
            row.node.xattrs.extend(value.map(|value| Xattr { name: name.to_vec(), value: value.clone() }));
            row.node.xattrs.sort();
        })
    }

    fn is_not(&self, place: &Place, what: &str) -> Error {
        Error::input(format!("{}:{}: is not {what}", place.volume, escape(&place.path)))
    }

    fn has_no(&self, place: &Place, what: &str) -> Error {
        let name = self.capabilities(&place.volume).name;
        Error::input(format!("{}:{}: {name} does not support {what}", place.volume, escape(&place.path)))
    }
}
