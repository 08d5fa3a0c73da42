//! Repairs damage: rebuilds indexes from packs, copies the intact objects of damaged packs into new ones, and recovers
//! lost objects from disk images that still contain them.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use mif_formats::mif::{ObjectId, PackId, manifest};

use super::packs::{Checked, PackState};
use super::report::{FsckOptions, FsckReport};
use crate::disk::decrypted;
use crate::error::{Error, Result};
use crate::guest::packages;
use crate::ingest::{Reread, reread};
use crate::store::{
    Image, Index, ObjectWriter, PACKAGES, PackIndex, Provenance, Store, clear_index_cache, features_of,
    index_key, new_pack, pack_key, put_pack, tables_of,
};
use crate::task::progress::Progress;
use crate::tree::mounts::Devices;

/// Rebuilds indexes, and sets damaged packs aside: copies their intact objects into a new pack and deletes their index.
/// The damaged file stays, unused, until gc.
pub(super) fn packs(store: &Store, state: &PackState) -> Result<Vec<String>> {
    let storage = &**store.storage();
    let failed = |e: std::io::Error| Error::file(&storage.place(), &e);
    // It is rebuilt when needed, from index files that are correct then.
    clear_index_cache(storage).map_err(failed)?;
    let mut done = Vec::new();
    for (id, pack) in &state.checked {
        let key = index_key(id);
        match pack {
            Checked { there: false, .. } => {
                storage.delete(&key).map_err(failed)?;
                done.push(format!("{key}: removed, because its pack is missing"));
            }
            Checked { whole: true, bad: 0, .. } => {
                if pack.index_differs || !pack.has_index {
                    storage.delete(&key).map_err(failed)?;
                    let (_, index) = PackIndex::from_pack(storage, *id)?;
                    storage.put_if_absent(&key, &index).map_err(failed)?;
                    done.push(format!("{key}: rebuilt from its pack"));
                }
            }
            _ => {
                let copied = salvage(store, state, id, pack)?;
                // It was set aside before, and all its intact objects are elsewhere.
                if copied == 0 && !pack.has_index {
                    continue;
                }
                storage.delete(&key).map_err(failed)?;
                done.push(format!(
                    "{}: damaged and set aside, after {copied} intact objects were copied from it",
                    pack_key(id)
                ));
            }
        }
    }
    Ok(done)
}

/// Copies the intact objects of a damaged pack that no other pack has into a new one. Returns their number.
fn salvage(store: &Store, state: &PackState, id: &PackId, pack: &Checked) -> Result<u64> {
    let storage = store.storage();
    let failed = |e: std::io::Error| Error::file(&storage.place(), &e);
    let elsewhere = |entry: &ObjectId| state.whole.get(entry).is_some_and(|(other, _)| other != id);
    let mut entries: Vec<_> = pack.good.iter().filter(|entry| !elsewhere(&entry.id)).collect();
    if entries.is_empty() {
        return Ok(0);
    }
    entries.sort_by_key(|entry| entry.offset);
    let mut writer = new_pack(&**storage).map_err(failed)?;
    for entry in &entries {
        let range = entry.offset..entry.offset + entry.stored_len;
        let stored = storage.read(&pack_key(id), range).map_err(failed)?;
        writer.add(entry.id, entry.encoding, &stored, entry.len).map_err(failed)?;
    }
    put_pack(&**storage, writer).map_err(failed)?;
    Ok(entries.len() as u64)
}

/// Reads disk images and restores lost data from them: objects, and the layouts and manifests of images with exactly these
/// bits. Adds files that cannot be opened to `notes`.
pub(super) fn from_disks(
    store: &Store,
    report: &FsckReport,
    options: &FsckOptions,
    progress: &dyn Progress,
    notes: &mut BTreeSet<String>,
) -> Result<Vec<String>> {
    let mut lost: HashSet<ObjectId> =
        report.lost_objects.iter().filter_map(|id| ObjectId::parse(id)).collect();
    // The objects of an image whose layout is lost are unknown until the layout is restored.
    let everything = report.lost.iter().any(|image| image.lacks("layout") || image.lacks("image"));
    let mut done = Vec::new();
    for path in &options.from {
        let disk = match decrypted::open(path, &options.open, progress) {
            Ok(disk) => disk,
            Err(e) => {
                notes.insert(format!("{}: skipped: {e}", path.display()));
                continue;
            }
        };
        let writer = match everything {
            true => ObjectWriter::replacing(store, lost.clone())?,
            false => ObjectWriter::only(store, lost.clone())?,
        };
        let read = reread(disk.source, &writer, None, progress)?;
        let added = writer.finish()?;
        if added.objects > 0 {
            done.push(format!(
                "{}: {} lost object{} restored",
                path.display(),
                added.objects,
                if added.objects == 1 { "" } else { "s" }
            ));
        }
        let there = Index::load(&**store.storage())?;
        lost.retain(|id| there.get(id).is_none());
        done.extend(parts(store, report, &read)?);
    }
    Ok(done)
}

/// Writes the lost layouts and manifests of images that, as their record says, have this layout.
fn parts(store: &Store, report: &FsckReport, read: &Reread) -> Result<Vec<String>> {
    let mut done = Vec::new();
    let mut manifest_file = Vec::new();
    manifest::write(&mut manifest_file, &read.rows)?;
    let (layout_file, digest) = read.layout.encode();
    let layout_digest = blake3::Hash::from_bytes(digest).to_hex().to_string();
    let manifest_digest = blake3::hash(&manifest_file).to_hex().to_string();
    for lost in &report.lost {
        let Some((name, version)) = lost.id() else { continue };
        let stored = store.version(name, version).or_else(|_| store.published(name, version));
        let mut stored = match stored {
            Ok(stored) if stored.image.layout_digest == layout_digest => stored,
            // Both records are lost, but the pointer says that this was the disk.
            Err(_) if store.has_pointer(name, version, &layout_digest) => store.stored(Image {
                disk_size: read.layout.disk_size(),
                layout_digest: layout_digest.clone(),
                manifest_digest: manifest_digest.clone(),
                table: read.table.clone(),
                volumes: read.volumes.clone(),
                counts: read.counts,
                features: features_of(&read.rows),
                warnings: read.warnings.clone(),
                provenance: Provenance { time: store.storage().now(), ..Provenance::of("fsck") },
                ..Image::empty(name, version, "fsck")
            }),
            _ => continue,
        };
        if lost.lacks("image") {
            stored.image.manifest_digest.clone_from(&manifest_digest);
            let (packages_file, _) = packages::table(
                &read.rows,
                &Arc::new(store.fresh_objects()?),
                Devices { table: &read.table, volumes: &read.volumes },
            )?;
            let digests_file = mif_formats::mif::digests::encode(&read.rows);
            let more = [("digests", &digests_file[..]), (PACKAGES, &packages_file)];
            stored.image.tables = tables_of(&more);
            let json = stored.image.to_json();
            let packs = store.packs_of_layout(&layout_file).unwrap_or_default();
            store.publish_version(&stored.image, &json, &manifest_file, &layout_file, &more, &packs)?;
            store.note_again(&stored.image)?;
            done.push(format!("{}: restored", lost.image));
        }
        // A manifest that is lost too is rebuilt from the disk.
        if lost.lacks("layout") {
            stored.replace("layout", &layout_file)?;
            done.push(format!("{}: layout restored", lost.image));
        }
    }
    Ok(done)
}
