//! What the store knows about a file to import: who owns the name, whether the image exists, and whether it is intact.

use std::path::{Path, PathBuf};

use mif_formats::container::split_member;

use super::options::{ImportOptions, Opened};
use super::read_back::damaged_objects;
use crate::error::{Error, Result, readable};
use crate::store::{Image, ImageName, PACKAGES, Store, StoredImage};

/// Opens a version of an image, using its second record if the first is damaged.
pub(crate) fn there(store: &Store, name: &str, version: u32) -> Option<StoredImage> {
    store.version(name, version).or_else(|_| store.published(name, version)).ok()
}

/// Fails unless the name is free or belongs to this file. A name belongs to the file that was last imported under it,
/// or to the command that made the image.
pub(crate) fn check_owner(store: &Store, opened: &Opened<'_>) -> Result<()> {
    let name = opened.name;
    let mut made_by = None;
    for version in store.versions(name)?.into_iter().rev() {
        let Some(Image { provenance, .. }) = there(store, name, version).map(|stored| stored.image) else {
            continue;
        };
        if !provenance.is_of_file() {
            made_by.get_or_insert(provenance.operation);
            continue;
        }
        let recorded = provenance.files.into_iter().next().map(|file| file.path).or(provenance.source);
        return match recorded {
            Some(recorded)
                if opened.files.first().is_none_or(|file| file.path != recorded)
                    && !is_same_file(opened.path, Path::new(&recorded)) =>
            {
                Err(taken(opened, &format!("was imported from {recorded}")))
            }
            _ => Ok(()),
        };
    }
    match made_by {
        // A record that `fsck` rebuilt from the disk has no known source.
        Some(operation) if operation != "fsck" => Err(taken(opened, &format!("was made by {operation}"))),
        _ => Ok(()),
    }
}

fn taken(opened: &Opened<'_>, by: &str) -> Error {
    let (path, name) = (opened.path.display(), opened.name);
    let folder =
        opened.path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let other = ImageName::like(&folder.map_or(format!("{name}-2"), |folder| format!("{folder}-{name}")));
    Error::usage(format!("{path}: the name {name} is taken by an image that {by}")).advise(format!(
        "Pass `--name {other}` to import it as its own image, or `--new-version` to make it a version of {name}"
    ))
}

/// Returns true if two paths lead to the same file. If one no longer exists, only the paths are compared.
fn is_same_file(path: &Path, recorded: &Path) -> bool {
    let (path, recorded) = (split_member(path), split_member(recorded));
    let resolved = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path));
    let lexical = |path: &Path| -> Option<PathBuf> { std::path::absolute(path).ok() };
    let is_same =
        lexical(&path.0) == lexical(&recorded.0) || resolved(&path.0).ok() == resolved(&recorded.0).ok();
    is_same && path.1 == recorded.1
}

/// Returns the image of the last import of this disk under its name, if its files have not changed since, these options
/// would produce the same image, and the stored image is intact. Reads its layout, manifest and tables to find out, and
/// with `verify` its objects too.
pub(crate) fn known(store: &Store, opened: &Opened<'_>, options: &ImportOptions) -> Result<Option<Image>> {
    // Devices have no reliable modification time.
    if opened.disk.files.iter().any(|file| !file.metadata().is_ok_and(|meta| meta.is_file())) {
        return Ok(None);
    }
    for version in store.versions(opened.name)?.into_iter().rev() {
        // If a record is unreadable, importing the file again repairs it.
        let Ok(stored) = readable(store.version(opened.name, version))? else { return Ok(None) };
        let Image { provenance: from, warnings, .. } = &stored.image;
        if !from.is_of_file() {
            continue;
        }
        let same = from.files == opened.files
            && from.source_format.as_deref() == Some(opened.disk.format)
            && from.snapshot == options.open.snapshot
            && from.decrypted == opened.disk.decrypted
            && (warnings.is_empty() || !options.strict);
        let whole =
            same && damaged_parts(store, &stored)?.is_empty() && objects_there(store, &stored, options)?;
        return Ok(whole.then_some(stored.image));
    }
    Ok(None)
}

/// Returns the files of an image that are missing, damaged or do not match its record; includes `image.json` if the
/// record itself is damaged.
pub(crate) fn damaged_parts(store: &Store, stored: &StoredImage) -> Result<Vec<&'static str>> {
    let Image { name, version, .. } = &stored.image;
    let first = readable(store.version(name, *version))?;
    let parts = [
        ("image.json", first.is_ok_and(|first| first.image == stored.image)),
        ("layout", readable(stored.layout())?.is_ok()),
        ("manifest.parquet", readable(stored.manifest_file())?.is_ok()),
        ("digests", readable(stored.table("digests"))?.is_ok()),
        (PACKAGES, readable(stored.table(PACKAGES))?.is_ok()),
    ];
    Ok(parts.into_iter().filter(|(_, is_whole)| !is_whole).map(|(file, _)| file).collect())
}

/// Returns true if all objects of an image are in the indexes and, with `verify`, undamaged.
pub(super) fn objects_there(store: &Store, stored: &StoredImage, options: &ImportOptions) -> Result<bool> {
    let Ok(layout) = readable(stored.layout())? else { return Ok(false) };
    let objects = store.objects()?;
    let broken = store.index()?.broken_packs(&**store.storage());
    if !broken.is_empty() || !layout.objects().iter().all(|id| objects.contains(id)) {
        return Ok(false);
    }
    if !options.verify {
        return Ok(true);
    }
    let mut ids: Vec<_> = layout.objects().to_vec();
    ids.extend(stored.manifest()?.iter().filter_map(mif_formats::mif::manifest::Row::object));
    Ok(damaged_objects(&objects, ids)?.is_empty())
}
