//! Adds modules of the image's own kernel to an initramfs, by an archive that is appended to it.

use std::sync::Arc;

use mif_formats::Source;
use mif_formats::source::{Joined, MemSource};

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
    let parts: [Arc<dyn Source>; 2] = [old, Arc::new(MemSource(tail))];
    let joined = Joined::new("initramfs", parts.map(|part| (0..part.len(), part)));
    let content = NewContent::of_source(Arc::new(joined), path.to_owned())?;
    Ok(vec![Edit::Write { path: path.to_owned(), content, mode: None, owner: None }])
}
