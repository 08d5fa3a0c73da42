//! What can be done about damage: indexes from packs, the whole objects of damaged packs into new ones, and
//! lost objects from disk images that still have them.

use std::collections::HashSet;
use std::sync::Arc;

use mif_formats::container;
use mif_formats::mif::ObjectId;
use mif_formats::mif::manifest;
use mif_formats::mif::pack::{PackWriter, TRAILER};

use super::packs::{Checked, PackState};
use super::{FsckOptions, FsckReport};
use crate::import::{ImportOptions, reread};
use crate::mounts::Devices;
use crate::progress::Progress;
use crate::store::{ObjectWriter, PackIndex, Store, index_key, pack_key};
use crate::{Error, Result, packages};

/// Makes indexes again, and sets damaged packs aside: what is whole of them goes into a new pack, their index
/// goes, and the file stays, unused, until gc.
pub(super) fn packs(store: &Store, state: &PackState) -> Result<Vec<String>> {
    let storage = &**store.storage();
    let failed = |e: std::io::Error| Error::store(format!("{}: {e}", storage.place()));
    let mut done = Vec::new();
    for (id, pack) in &state.checked {
        let key = index_key(id);
        match pack {
            Checked { there: false, .. } => {
                storage.delete(&key).map_err(failed)?;
                done.push(format!("{key}: removed, its pack is gone"));
            }
            Checked { whole: true, bad: 0, .. } => {
                if pack.index_differs || !pack.has_index {
                    storage.delete(&key).map_err(failed)?;
                    let index = own_index(store, id)?;
                    storage.put_if_absent(&key, &index).map_err(failed)?;
                    done.push(format!("{key}: made again from its pack"));
                }
            }
            _ => {
                let copied = salvage(store, state, id, pack)?;
                // Set aside before, and all that is whole of it is elsewhere.
                if copied == 0 && !pack.has_index {
                    continue;
                }
                storage.delete(&key).map_err(failed)?;
                done.push(format!(
                    "{}: damaged; set aside, and {copied} objects that are whole copied from it",
                    pack_key(id)
                ));
            }
        }
    }
    Ok(done)
}

/// The index at the end of a pack that is whole, as a file.
fn own_index(store: &Store, id: &ObjectId) -> Result<Vec<u8>> {
    let storage = store.storage();
    let key = pack_key(id);
    let failed = |e: std::io::Error| Error::store(format!("{}/{key}: {e}", storage.place()));
    let len = storage.len(&key).map_err(failed)?;
    let trailer = storage.read(&key, len - TRAILER as u64..len).map_err(failed)?;
    let trailer = trailer.try_into().expect("as many bytes as asked for");
    let index = mif_formats::mif::pack::index_len(&trailer, len)?;
    storage.read(&key, len - index..len).map_err(failed)
}

/// Copies what is whole of a damaged pack, and nowhere else, into a new one; gives how many objects.
fn salvage(store: &Store, state: &PackState, id: &ObjectId, pack: &Checked) -> Result<u64> {
    let storage = store.storage();
    let failed = |e: std::io::Error| Error::store(format!("{}: {e}", storage.place()));
    let elsewhere = |entry: &ObjectId| state.whole.get(entry).is_some_and(|(other, _)| other != id);
    let mut entries: Vec<_> = pack.good.iter().filter(|entry| !elsewhere(&entry.id)).collect();
    if entries.is_empty() {
        return Ok(0);
    }
    entries.sort_by_key(|entry| entry.offset);
    let mut writer = PackWriter::new(storage.upload().map_err(failed)?).map_err(failed)?;
    for entry in &entries {
        let range = entry.offset..entry.offset + entry.stored_len;
        let stored = storage.read(&pack_key(id), range).map_err(failed)?;
        writer.add(entry.id, entry.encoding, &stored, entry.len).map_err(failed)?;
    }
    let (upload, new, index, _) = writer.finish().map_err(failed)?;
    upload.finish(&pack_key(&new)).map_err(failed)?;
    storage.put_if_absent(&index_key(&new), &index).map_err(failed)?;
    Ok(entries.len() as u64)
}

/// Reads disk images, and stores what of them was lost: objects, and the layouts and manifests of images that
/// have just these bits.
pub(super) fn from_disks(
    store: &Store,
    report: &FsckReport,
    options: &FsckOptions,
    progress: &dyn Progress,
) -> Result<Vec<String>> {
    let mut lost: HashSet<ObjectId> =
        report.lost_objects.iter().filter_map(|hex| ObjectId::from_hex(hex)).collect();
    unlist(store, &lost)?;
    let mut done = Vec::new();
    for path in &options.from {
        let disk = container::open(path, &options.open)?;
        let writer = ObjectWriter::only(store, lost.clone())?;
        let read = reread(disk.source, &writer, &ImportOptions::default(), progress)?;
        let added = writer.finish()?;
        if added.objects > 0 {
            done.push(format!("{}: {} lost objects stored again", path.display(), added.objects));
        }
        let there = crate::store::Index::load(&**store.storage())?;
        lost.retain(|id| there.get(id).is_none());
        done.extend(records(store, report, &read)?);
    }
    Ok(done)
}

/// Takes objects that are damaged lists out of the indexes, so that they can be stored again.
fn unlist(store: &Store, lost: &HashSet<ObjectId>) -> Result<()> {
    let storage = store.storage();
    for pack in PackIndex::ids(&**storage)? {
        let index = PackIndex::load(&**storage, pack)?;
        if index.entries.iter().any(|entry| lost.contains(&entry.id)) {
            let key = index_key(&pack);
            return Err(Error::store(format!("{key}: names an object as whole whose chunks do not fit it"))
                .advise("Please report this"));
        }
    }
    Ok(())
}

/// Writes the layouts and manifests that were lost, of images whose record says that they are these.
fn records(store: &Store, report: &FsckReport, read: &crate::import::Reread) -> Result<Vec<String>> {
    let storage = store.storage();
    let mut done = Vec::new();
    let mut manifest_file = Vec::new();
    manifest::write(&mut manifest_file, &read.rows)?;
    let (layout_file, digest) = read.layout.encode();
    let layout_digest = ObjectId(digest).to_string();
    let manifest_digest = ObjectId::of(&manifest_file).to_string();
    for image in &report.lost {
        let Some((name, version)) = image.image.rsplit_once('@') else { continue };
        let Ok(stored) = store.version(name, version.parse().unwrap_or(0)) else { continue };
        let mut put = |part: &str, file: &str, bytes: &[u8]| -> Result<()> {
            let key = stored.key(file);
            let failed = |e: std::io::Error| Error::store(format!("{}/{key}: {e}", storage.place()));
            storage.delete(&key).map_err(failed)?;
            storage.put_if_absent(&key, bytes).map_err(failed)?;
            done.push(format!("{}: {part} written again", image.image));
            Ok(())
        };
        if image.parts.iter().any(|p| p == "layout") && stored.image.layout_digest == layout_digest {
            put("layout", "layout", &layout_file)?;
        }
        if image.parts.iter().any(|p| p == "manifest") && stored.image.manifest_digest == manifest_digest {
            put("manifest", "manifest.parquet", &manifest_file)?;
        }
    }
    Ok(done)
}

/// Makes the tables beside manifests again from the manifests that they belong to.
pub(super) fn tables(store: &Store, report: &FsckReport) -> Result<Vec<String>> {
    let mut done = Vec::new();
    for image in &report.lost {
        let lost = |part: &str| image.parts.iter().any(|lost| lost == part);
        let Some((name, version)) = image.image.rsplit_once('@') else { continue };
        if !lost("digests") && !lost("packages") {
            continue;
        }
        let stored = store.version(name, version.parse().unwrap_or(0))?;
        let rows = stored.manifest()?;
        let storage = store.storage();
        let mut put = |part: &str, file: &str, bytes: &[u8]| -> Result<()> {
            let key = stored.key(file);
            let failed = |e: std::io::Error| Error::store(format!("{}/{key}: {e}", storage.place()));
            storage.delete(&key).map_err(failed)?;
            storage.put_if_absent(&key, bytes).map_err(failed)?;
            done.push(format!("{}: {part} made again from the manifest", image.image));
            Ok(())
        };
        if lost("digests") {
            put("file of digests", "digests", &mif_formats::mif::digests::encode(&rows))?;
        }
        if lost("packages") {
            let (table, _) = {
                let devices = Devices { table: &stored.image.table, volumes: &stored.image.volumes };
                packages::table(&rows, &Arc::new(store.objects()?), devices)?
            };
            put("table of packages", packages::TABLE, &table)?;
        }
    }
    Ok(done)
}
