//! `cat`: writes the content of files.

use std::io::Write;

use mif_formats::Source;

use crate::error::{Error, Result};
use crate::image::OpenImage;
use crate::tree::path::VolumePath;

/// How many bytes are read at once.
const WINDOW: u64 = 1 << 20;

/// Writes the content of regular files to `out`, one after the other. Follows symlinks.
pub fn cat(image: &OpenImage, paths: &[VolumePath], out: &mut dyn Write) -> Result<()> {
    let tree = image.tree_around(paths, false)?;
    for path in paths {
        copy(&*tree.content(tree.find(path, true)?)?, out)?;
    }
    Ok(())
}

fn copy(content: &dyn Source, out: &mut dyn Write) -> Result<()> {
    let mut buf = vec![0; content.len().min(WINDOW) as usize];
    let mut offset = 0;
    while offset < content.len() {
        let here = &mut buf[..(content.len() - offset).min(WINDOW) as usize];
        content.read_at(offset, here)?;
        out.write_all(here).map_err(|e| Error::store(format!("cannot write the content: {e}")))?;
        offset += here.len() as u64;
    }
    Ok(())
}
