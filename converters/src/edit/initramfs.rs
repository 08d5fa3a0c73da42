//! Adds modules of the image's own kernel to an initramfs, by an archive that is appended to it.

use std::sync::Arc;

use mif_formats::source::MemSource;
use mif_formats::{Extent, Source};

use super::primitive::Edit;
use crate::boot::segment::segment;
use crate::error::{Error, Result};
use crate::tree::edit::Files;
use crate::tree::new_content::NewContent;

/// Returns the edit that adds modules for a release of Linux, with all that they depend on; none if they are there.
pub(super) fn modules(files: &Files, path: &str, release: &str, names: &[String]) -> Result<Vec<Edit>> {
    let is_release = !release.is_empty() && !release.contains('/') && !release.starts_with('.');
    if !is_release {
        return Err(Error::usage(format!("invalid release of Linux \"{release}\""))
            .advise("Name a directory of /lib/modules in the image"));
    }
    if names.is_empty() {
        return Err(Error::usage("`modules` is empty: name the modules to add"));
    }
    let Some(row) = files.get(path) else {
        return Err(Error::input(format!("{path}: no such file or directory in the image")));
    };
    let old = files.source(row)?;
    let folders = [format!("/lib/modules/{release}"), format!("/usr/lib/modules/{release}")];
    let folder = folders.iter().find(|folder| files.get(folder).is_some()).ok_or_else(|| {
        Error::input(format!("the image has no modules for Linux {release}"))
            .advise("Name a directory of /lib/modules in the image")
    })?;
    let read = |name: &str| files.read(&format!("{folder}/{name}"));
    let Some(tail) = segment(&old, release, names, &read).map_err(|e| e.within(path))? else {
        return Ok(Vec::new());
    };
    let joined = Joined { head: old, tail: MemSource(tail) };
    let content = NewContent::of_source(Arc::new(joined), path.to_owned())?;
    Ok(vec![Edit::Write { path: path.to_owned(), content, mode: None, owner: None }])
}

/// A file with more bytes after it.
struct Joined {
    head: Arc<dyn Source>,
    tail: MemSource,
}

impl Source for Joined {
    fn len(&self) -> u64 {
        self.head.len() + self.tail.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> mif_formats::Result<()> {
        let of_head = self.head.len().saturating_sub(offset).min(buf.len() as u64) as usize;
        let (first, second) = buf.split_at_mut(of_head);
        if !first.is_empty() {
            self.head.read_at(offset, first)?;
        }
        if !second.is_empty() {
            self.tail.read_at(offset + of_head as u64 - self.head.len(), second)?;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> mif_formats::Result<Extent> {
        Ok(Extent::data(offset, self.len() - offset))
    }
}
