//! `import`: makes an image of the store from a disk file.

mod described;
pub(crate) mod known;
mod options;
pub(crate) mod read_back;
pub(crate) mod tables;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use mif_formats::container::{self, Disk, DiskFile};
use mif_formats::mif::manifest;
use serde::Serialize;

use self::described::{Described, described_otherwise};
use self::known::{check_owner, damaged_parts, there};
pub use self::options::ImportOptions;
pub(crate) use self::options::Opened;
use self::read_back::ReadBack;
use self::tables::Tables;
use crate::disk::scan::ScannedVolume;
use crate::error::{Error, Result};
use crate::ingest::import_disk;
use crate::store::{
    Counts, Image, ObjectWriter, PACKAGES, Provenance, SourceFile, Store, StoredImage, WriterStats,
    features_of, tables_of,
};
use crate::task::progress::Progress;

/// The report of `import`.
#[derive(Debug, Clone, Serialize)]
pub struct ImportReport {
    /// The file.
    pub source: String,
    /// Its container format.
    pub format: String,
    /// `imported`; `unchanged` if the newest version of that name already is this disk; `repaired` if it is, and parts
    /// of it were damaged.
    pub result: &'static str,
    /// The image, as `name@version`.
    pub image: String,
    /// Other images of the store with the same bits.
    pub same_as: Vec<String>,
    /// The disk's size in bytes.
    pub disk_size: u64,
    /// How the disk is divided.
    pub counts: Counts,
    /// Objects and bytes that were new to the store.
    pub added: WriterStats,
    /// Bytes of the manifest and the layout.
    pub manifest_bytes: u64,
    /// True if it was read back and verified.
    pub verified: bool,
    /// Repairs of damage that the import found in the store, as sentences.
    pub repaired: Vec<String>,
    /// True if the store still has damaged copies of objects besides intact ones; `mif fsck --repair` removes them.
    pub damage_left: bool,
    /// The version of mif that described the image, if the result is `unchanged` and today's readers find other volumes
    /// on the disk, which `mif reread` describes.
    pub described_by: Option<String>,
    /// What was encrypted in the file and is stored as plaintext, each in a few words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub decrypted: Vec<String>,
    /// Warnings about what could not be read or is unusual, as sentences.
    pub warnings: Vec<String>,
    /// The duration in seconds.
    pub seconds: f64,
}

/// Imports the disk in the container at `path`.
pub fn import(
    store: &Store,
    path: &Path,
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<ImportReport> {
    options.check()?;
    let name = options.name_or(&container::stem(path))?;
    progress.stage("opening", 0);
    let disk = options.open(path, progress)?;
    // Before anything is read: a file that changes meanwhile must not be recognised as unchanged later.
    let files = source_files(&disk)?;
    let opened = Opened { path, is_url: false, name: &name, disk: &disk, files: &files };
    let writer = ObjectWriter::new(store)?;
    import_opened(store, &opened, &writer, options, progress)
}

/// Imports a disk, and stores its objects with a writer next to `writer`.
pub(crate) fn import_opened(
    store: &Store,
    opened: &Opened<'_>,
    writer: &ObjectWriter,
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<ImportReport> {
    let started = Instant::now();
    let Opened { path, name, disk, files, .. } = *opened;
    if !options.new_version {
        check_owner(store, opened)?;
    }
    if let Some(there) = described_otherwise(store, opened, options, progress)? {
        return unchanged(store, opened, options, there, started);
    }
    let own_writer = writer.beside();
    let mut read = import_disk(disk.source.clone(), &own_writer, options.threads, progress)?;
    let mut warnings = std::mem::take(&mut read.warnings);
    warnings.splice(0..0, disk.warnings.iter().cloned());
    if options.strict && !warnings.is_empty() {
        let all = warnings.join("; ");
        return Err(Error::input(format!("{}: refused by --strict: {all}", path.display())));
    }
    let mut added = own_writer.finish()?;
    let layout = Arc::new(read.take_layout());
    let counts = read.counts(&layout);
    let (layout_file, digest) = layout.encode();
    let read_back = || {
        let (label, disk) = (path.display().to_string(), disk.source.clone());
        ReadBack::new(store, label, disk, options.threads, progress)
    };
    let mut check = options.verify.then(read_back);
    // With a million files, memory does not suffice for both the layout and the rows.
    let disk_digest = check.as_mut().map(|check| check.disk(&layout)).transpose()?;
    let disk_digest = disk_digest.map(|digest| digest.to_string());
    drop(layout);
    let (scan, rows) = read.into_rows();
    let mut repaired = Vec::new();
    let broken = writer.broken_packs();
    let mut damage_left = broken > 0;
    if damage_left && added.objects > 0 {
        repaired
            .push(format!("{broken} packs are missing or truncated; stored {} objects again", added.objects));
    }
    if let Some(check) = check {
        let (stored, damaged) = check.files(&rows)?;
        added = added.with(stored);
        if damaged > 0 {
            damage_left = true;
            repaired.push(format!("stored {damaged} damaged objects again"));
        }
    }
    let mut manifest_file = Vec::new();
    manifest::write(&mut manifest_file, &rows)?;
    let layout_digest = blake3::Hash::from_bytes(digest).to_hex().to_string();
    let manifest_digest = blake3::hash(&manifest_file).to_hex().to_string();
    let disk_size = disk.source.len();
    let newest = store.versions(name)?.last().copied();
    let unchanged = newest.and_then(|version| there(store, name, version)).filter(|stored| {
        (&stored.image.layout_digest, &stored.image.manifest_digest) == (&layout_digest, &manifest_digest)
    });
    let is_new = unchanged.is_none();
    let volumes: Vec<_> = scan.volumes.iter().map(ScannedVolume::record).collect();
    let features = features_of(&rows);
    let tables = |rows| Tables::new(store, rows, &scan.table, &volumes);
    let image = match unchanged {
        Some(mut there) => {
            let mut damaged = damaged_parts(store, &there)?;
            if !damaged.is_empty() {
                let tables = tables(rows)?;
                if there.image.tables != tables_of(&tables.files()) {
                    there.image.tables = tables_of(&tables.files());
                    damaged.extend(["image.json", "digests", PACKAGES]);
                }
                let json = there.image.to_json();
                let files = [
                    ("image.json", &json[..]),
                    ("layout", &layout_file),
                    ("manifest.parquet", &manifest_file),
                ];
                let files = files.into_iter().chain(tables.files());
                for (file, bytes) in files.filter(|(file, _)| damaged.contains(file)) {
                    there.replace(file, bytes)?;
                    repaired.push(format!("{}: rewrote the damaged {file}", there.image.id()));
                }
                store.note_again(&there.image)?;
            }
            recognise(store, &mut there, opened, options, disk_digest)?;
            there.image
        }
        None => {
            let mut tables = tables(rows)?;
            warnings.append(&mut tables.complaints);
            let provenance = Provenance {
                source: Some(opened.source()),
                source_format: Some(disk.format.into()),
                snapshot: options.open.snapshot.clone(),
                parent: newest.map(|version| format!("{name}@{version}")),
                command: options.command.clone(),
                files: files.to_vec(),
                decrypted: disk.decrypted.clone(),
                ..Provenance::of("import")
            };
            let image = Image {
                disk_size,
                layout_digest,
                disk_digest,
                manifest_digest,
                volumes: volumes.clone(),
                table: scan.table.clone(),
                counts,
                features,
                warnings: warnings.clone(),
                ..Image::new(name, 0, provenance)
            };
            // Another import may have taken the name meanwhile.
            if !options.new_version {
                check_owner(store, opened)?;
            }
            let published = store.publish(image, &manifest_file, &layout_file, &tables.files());
            published.inspect_err(|e| writer.give_up(e))?
        }
    };
    // Of two imports of one disk at the same time, the later one finds the other here.
    let same = store.with_layout(&image.layout_digest)?;
    Ok(ImportReport {
        source: path.display().to_string(),
        format: disk.format.to_owned(),
        result: match (is_new, repaired.is_empty()) {
            (true, _) => "imported",
            (false, true) => "unchanged",
            (false, false) => "repaired",
        },
        image: image.id(),
        same_as: same.iter().map(Image::id).filter(|id| *id != image.id()).collect(),
        disk_size,
        counts,
        added,
        manifest_bytes: if is_new { (layout_file.len() + manifest_file.len()) as u64 } else { 0 },
        verified: options.verify,
        repaired,
        damage_left,
        described_by: None,
        decrypted: disk.decrypted.clone(),
        warnings,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Reports that a stored image has the bits of a disk that was compared with it, and nothing was stored.
fn unchanged(
    store: &Store,
    opened: &Opened<'_>,
    options: &ImportOptions,
    there: Described,
    started: Instant,
) -> Result<ImportReport> {
    let Described { mut stored, is_outdated } = there;
    recognise(store, &mut stored, opened, options, None)?;
    let image = stored.image;
    let same = store.with_layout(&image.layout_digest)?;
    Ok(ImportReport {
        source: opened.path.display().to_string(),
        format: opened.disk.format.to_owned(),
        result: "unchanged",
        same_as: same.iter().map(Image::id).filter(|id| *id != image.id()).collect(),
        image: image.id(),
        disk_size: image.disk_size,
        counts: image.counts,
        added: WriterStats::default(),
        manifest_bytes: 0,
        verified: options.verify,
        repaired: Vec::new(),
        damage_left: false,
        described_by: is_outdated.then_some(image.provenance.tool),
        decrypted: opened.disk.decrypted.clone(),
        warnings: image.warnings,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Records the files of a disk with the image that has its bits, so that the disk is recognised by them from now on, and
/// the digest of the disk, if it was computed.
fn recognise(
    store: &Store,
    there: &mut StoredImage,
    opened: &Opened<'_>,
    options: &ImportOptions,
    disk_digest: Option<String>,
) -> Result<()> {
    let measured = disk_digest.is_some() && there.image.disk_digest != disk_digest;
    if measured {
        there.image.disk_digest = disk_digest;
    }
    let from = &mut there.image.provenance;
    let moved = from.is_of_file() && from.files != opened.files;
    if moved {
        from.source = Some(opened.source());
        from.source_format = Some(opened.disk.format.into());
        from.snapshot.clone_from(&options.open.snapshot);
        from.files = opened.files.to_vec();
        from.decrypted.clone_from(&opened.disk.decrypted);
    }
    if moved || measured {
        there.replace("image.json", &there.image.to_json())?;
    }
    if moved || measured || !store.is_noted(&there.image) {
        store.note_again(&there.image)?;
    }
    Ok(())
}

/// Returns the current state of the files of a disk that is about to be read.
pub(crate) fn source_files(disk: &Disk) -> Result<Vec<SourceFile>> {
    let of = |file: &DiskFile| SourceFile::before_reading(file).map_err(|e| Error::io(file.path(), &e));
    disk.files.iter().map(of).collect()
}
