//! The files and the identities that both kinds of firmware need.

use mif_formats::Source;
use mif_formats::fs::FileType;
use mif_formats::mif::manifest::Row;

use crate::error::{Error, Result};
use crate::rebuild::reshape::{NewIds, Reshape};
use crate::rebuild::table::Converted;
use crate::tree::edit::{Files, NewNode};
use crate::tree::new_content::NewContent;
use crate::tree::path::Place;

/// The content of a file that is added.
pub(super) enum Content {
    /// That of another file.
    Of(Box<Row>),
    New(String),
}

/// Reads the first bytes of a file of the system.
pub(super) fn head(files: &Files, path: &str) -> Option<Vec<u8>> {
    let source = files.source(files.get(path)?).ok()?;
    source.read_vec(0, source.len().min(64) as usize).ok()
}

/// Returns the place of the directory with GRUB's configuration.
pub(super) fn grub_folder(files: &Files) -> Result<Place> {
    for folder in ["/boot/grub", "/boot/grub2"] {
        if files.is_file(&format!("{folder}/grub.cfg")) {
            return files.place(folder, true);
        }
    }
    Err(Error::unsupported("the image has no configuration of GRUB: /boot/grub/grub.cfg is not there")
        .advise("Run update-grub or grub2-mkconfig in it"))
}

/// Writes a file on a volume, with the directories above it.
pub(super) fn write(files: &mut Files, volume: &str, path: &str, content: Content) -> Result<()> {
    let node = |file_type, mode| NewNode { file_type, mode, uid: 0, gid: 0 };
    for (at, _) in path.match_indices('/').skip(1) {
        let place = files.place(&format!("{volume}:{}", &path[..at]), true)?;
        if files.at(&place).is_none() {
            files.create(&place, &node(FileType::Dir, 0o755))?;
        }
    }
    let place = files.place(&format!("{volume}:{path}"), true)?;
    if files.at(&place).is_none() {
        files.create(&place, &node(FileType::File, 0o644))?;
    }
    match content {
        Content::New(text) => files.fill(&place, NewContent::of_bytes(text.into_bytes())),
        Content::Of(source) => files.change(&place, |row| {
            (row.body, row.node.size) = (source.body, source.node.size);
            row.node.mtime = source.node.mtime;
        }),
    }
}

/// Returns the source of identities of what is added to a disk: unless new ones are asked for, they are derived, so that the
/// same image gives the same disk.
pub(super) fn new_ids(reshape: &Reshape, target: &Converted) -> NewIds {
    reshape.new_ids.clone().unwrap_or_else(|| {
        let seed = format!("boot {}", target.table.id.as_deref().unwrap_or_default());
        NewIds { seed: seed.into_bytes() }
    })
}

/// Returns the GUID of the new partition with this slot of a GPT.
pub(super) fn partition_id(ids: &NewIds, slot: u32) -> String {
    mif_formats::uuid::text(&ids.uuid(&format!("partition {slot}")))
}
