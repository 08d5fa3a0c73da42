//! Hard links that edits add.

use std::sync::Arc;

use mif_formats::fs::FileId;

use super::Files;
use crate::error::Result;
use crate::tree::path::{Place, missing};

impl Files {
    /// Makes `to`, which does not exist, another name of the file at `first`, which is on the same volume.
    pub(crate) fn link(&mut self, first: &Place, to: &Place) -> Result<()> {
        let next = FileId(FileId::MAX.0 + 1 + self.linked);
        let rows = &mut self.volume(&first.volume)?.rows;
        let row = rows.get_mut(&first.path[..]).ok_or_else(|| missing(&first.volume, &first.path))?;
        let row = Arc::make_mut(row);
        let is_new = row.file.is_none();
        row.file.get_or_insert(next);
        row.node.nlink = Some(row.node.nlink.unwrap_or(1).saturating_add(1));
        let mut other = row.clone();
        other.path.clone_from(&to.path);
        rows.insert(to.path.as_slice().into(), Arc::new(other));
        self.linked += u32::from(is_new);
        self.touch_folder(to)
    }
}
