//! An archive that an image is a member of: finds other members that the image refers to.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::Observer;
use super::file::ImageFile;
use crate::error::{Result, at};
use crate::source::Source;
use crate::wrapper::{Limits, Member, Watch, Workshop};

/// An archive whose index was read.
pub(super) struct Archive {
    pub(super) file: ImageFile,
    pub(super) source: Arc<dyn Source>,
    pub(super) members: Vec<Member>,
    pub(super) limits: Limits,
}

impl Archive {
    /// Returns true if the file at `path` is a member of this archive.
    pub(super) fn has(&self, path: &Path) -> bool {
        self.name_of(path).is_some()
    }

    fn name_of<'p>(&self, path: &'p Path) -> Option<&'p str> {
        let prefix = [self.file.path().as_os_str().as_bytes(), b"//"].concat();
        std::str::from_utf8(path.as_os_str().as_bytes().strip_prefix(&prefix[..])?).ok()
    }

    /// Opens the member that `image` refers to as `name`; `None` if `image` is not in this archive. Names are compared
    /// with those of the members, and with nothing else.
    pub(super) fn open_beside(&self, image: &Path, name: &str) -> Option<Result<ImageFile>> {
        let folder = folder_of(self.name_of(image)?);
        let wanted = format!("{folder}{}", name.strip_prefix("./").unwrap_or(name));
        let place = || at("file that the image refers to").file(image);
        let Some(number) = self.members.iter().rposition(|member| member.name == wanted) else {
            return Some(Err(place().not_found(format!(
                "the image needs the file {name:?}, but the archive does not have it, and other files are not opened"
            ))));
        };
        let member = &self.members[number];
        let open = || match member.in_place(&self.source)? {
            Some(bytes) => Ok(bytes),
            None => {
                let workshop = Workshop::new(&self.limits, self.file.len(), &Stop(&()));
                member.unpack(&self.source, &workshop).map(|unpacked| unpacked.source)
            }
        };
        Some(open().map(|bytes| self.file.member(&member.name, number, bytes)).map_err(|e| e.in_file(image)))
    }
}

/// Passes the wish to stop on to a decoder.
pub(super) struct Stop<'a>(pub(super) &'a dyn Observer);

impl Watch for Stop<'_> {
    fn is_stopped(&self) -> bool {
        self.0.interrupted()
    }
}

/// Returns the directory of a member with its slash.
pub(super) fn folder_of(name: &str) -> &str {
    &name[..name.rfind('/').map_or(0, |slash| slash + 1)]
}
