//! `push`, `pull` and `copy`: copies images from one store to another. Only objects that the other store lacks travel,
//! as they are stored; each is checked before it is written. What has arrived stays, so a copy that was interrupted
//! goes on where it ended.

use std::collections::HashSet;
use std::time::Instant;

use mif_formats::mif::pack::IndexEntry;
use mif_formats::mif::{ObjectId, ObjectKind, PackId};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::store::{Image, ImageName, Needs, ObjectWriter, Objects, Selector, Store, StoredImage};
use crate::task::pool::in_order;
use crate::task::progress::{self, Progress};

/// An object and where it is stored: its pack, and its offset and length there.
type Stored = (PackId, u64, u64, ObjectId);

/// So many bytes are made durable at a time: the most that an interruption costs.
const BATCH: u64 = 64 << 20;

/// The size of the parts in which content is hashed, in bytes.
const PART: u64 = 1 << 20;

/// What a copy did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CopyReport {
    /// The store that the images were read from.
    pub from: String,
    /// The store that they were copied to.
    pub to: String,
    /// The images, by name and version.
    pub images: Vec<CopiedImage>,
    /// Tags that were set, as `name@tag`.
    pub tags: Vec<String>,
    /// The number of objects that travelled.
    pub objects: u64,
    /// The bytes that travelled: objects as they are stored, and the images' own files.
    pub bytes_sent: u64,
    /// The stored bytes of objects that the other store already had.
    pub bytes_saved: u64,
    /// Duration in seconds.
    pub seconds: f64,
}

/// An image that was to be copied.
#[derive(Debug, Clone, Serialize)]
pub struct CopiedImage {
    /// The image, as `name@version`.
    pub image: String,
    /// `copied`, `unchanged` or `failed`.
    pub result: &'static str,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl CopyReport {
    /// Returns true if no image failed.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.images.iter().all(|image| image.result != "failed")
    }
}

/// Returns the images that a user names: of a name alone, all versions.
pub fn named_images(store: &Store, names: &[ImageName]) -> Result<Vec<ImageName>> {
    let mut images = Vec::new();
    for name in names {
        let newest = store.image(name)?.image;
        let versions = match &name.version {
            Selector::Newest => store.versions(&name.name)?,
            _ => vec![newest.version],
        };
        images.extend(
            versions.into_iter().map(|v| ImageName { name: name.name.clone(), version: Selector::Number(v) }),
        );
    }
    Ok(images)
}

/// Copies images, with their tags, from one store to another. An image that cannot be copied does not stop the others.
pub fn copy(from: &Store, to: &Store, images: &[ImageName], progress: &dyn Progress) -> Result<CopyReport> {
    let started = Instant::now();
    let (source, target) = (from.storage().place(), to.storage().place());
    if source == target {
        return Err(Error::usage(format!("{source}: is both the store to read and the store to write")));
    }
    let mut report = CopyReport { from: source, to: target, ..CopyReport::default() };
    let writer = ObjectWriter::new(to)?;
    let mut known = HashSet::new();
    for name in images {
        progress::check(progress)?;
        let copied = from.image(name).and_then(|stored| {
            let done = copy_image(from, to, &stored, &writer, &mut known, progress, &mut report)?;
            copy_tags(from, to, &stored.image, &mut report)?;
            Ok(done)
        });
        let (result, error) = match copied {
            Ok(true) => ("copied", None),
            Ok(false) => ("unchanged", None),
            Err(e) if progress.interrupted() => return Err(e),
            Err(e) => ("failed", Some(e.to_string())),
        };
        report.images.push(CopiedImage { image: name.to_string(), result, error });
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// Copies an image. Returns false if it is there already.
fn copy_image(
    from: &Store,
    to: &Store,
    stored: &StoredImage,
    writer: &ObjectWriter,
    known: &mut HashSet<ObjectId>,
    progress: &dyn Progress,
    report: &mut CopyReport,
) -> Result<bool> {
    let Image { name, version, .. } = &stored.image;
    let taken = |problem: &str| {
        Error::input(format!("{}: {problem} in {}", stored.image.id(), to.storage().place()))
            .advise("Import its disk there under another name, with `mif import --name`")
    };
    if to.versions(name)?.contains(version) {
        return match to.version(name, *version)?.image == stored.image {
            true => Ok(false),
            false => Err(taken("another image has this name and version")),
        };
    }
    if to.is_removed(name, *version)? {
        return Err(taken("this version was removed"));
    }
    let objects = from.objects()?;
    let mut needs = Needs::default();
    if needs.add(stored.named_objects()?, &objects)? > 0 {
        return Err(Error::store(format!("{}: the store lacks objects that it needs", stored.image.id()))
            .advise("Run `mif fsck` to learn how to repair it"));
    }
    copy_objects(&objects, &needs.objects, writer, known, progress, report)?;
    let index = to.index()?;
    let packs = needs.objects.iter().filter_map(|id| Some(index.pack(&index.get(id)?))).collect();
    let files = stored.files()?;
    let more: Vec<(&str, &[u8])> =
        files.more.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    let len = |bytes: &[u8]| bytes.len() as u64;
    let sent = len(&files.manifest) + len(&files.layout) + more.iter().map(|(_, b)| len(b)).sum::<u64>();
    match to.receive(&stored.image, &files.manifest, &files.layout, &more, &packs)? {
        true => {
            report.bytes_sent += sent;
            Ok(true)
        }
        // Another command has published it meanwhile.
        false if to.version(name, *version)?.image == stored.image => Ok(false),
        false => Err(taken("another image has this name and version")),
    }
}

/// Copies the objects that the other store lacks, in the order in which they are stored.
fn copy_objects(
    objects: &Objects,
    needed: &HashSet<ObjectId>,
    writer: &ObjectWriter,
    known: &mut HashSet<ObjectId>,
    progress: &dyn Progress,
    report: &mut CopyReport,
) -> Result<()> {
    let (mut missing, mut total) = (Vec::new(), 0);
    for id in needed {
        let (pack, offset, len) = objects.position(id)?;
        if writer.has(id) {
            if known.insert(*id) {
                report.bytes_saved += len;
            }
        } else {
            missing.push((pack, offset, len, *id));
            total += len;
        }
    }
    missing.sort_unstable();
    writer.expect(digest(&missing));
    progress.stage("copying", total);
    let mut rest = &missing[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let count = rest.iter().take_while(|(_, _, len, _)| {
            let fits = bytes == 0 || bytes + len <= BATCH;
            bytes += len;
            fits
        });
        let (batch, after) = rest.split_at(count.count().max(1));
        rest = after;
        let batch_writer = writer.beside();
        // Written in the order in which they are stored: so another attempt writes the same packs.
        let read = |(_, _, _, id): &'_ Stored| read_object(objects, id);
        in_order(batch, progress, read, |(_, _, len, id), (entry, stored)| {
            if batch_writer.claim(*id) {
                batch_writer.store_encoded(&entry, &stored)?;
            }
            progress.advance(*len);
            Ok(())
        })?;
        let stats = batch_writer.finish()?;
        report.objects += stats.objects;
        report.bytes_sent += stats.stored_bytes;
        known.extend(batch.iter().map(|(.., id)| *id));
    }
    Ok(())
}

/// Reads an object as it is stored, and checks it.
fn read_object(objects: &Objects, id: &ObjectId) -> Result<(IndexEntry, Vec<u8>)> {
    let (entry, stored) = objects.encoded(id)?;
    if entry.encoding.is_list() && id.kind != ObjectKind::ChunkList {
        check_content(objects, id, entry.len)?;
    }
    Ok((entry, stored))
}

/// Returns a digest of objects and of their places, which no others have.
fn digest(objects: &[Stored]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for (pack, offset, len, id) in objects {
        hasher.update(&pack.0).update(&offset.to_le_bytes()).update(&len.to_le_bytes());
        hasher.update(id.to_string().as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// Fails if the content that a list describes does not have the digest by which it is named.
fn check_content(objects: &Objects, id: &ObjectId, len: u64) -> Result<()> {
    let mut hasher = blake3::Hasher::new();
    let mut buf = vec![0; usize::try_from(PART.min(len)).expect("a part fits in memory")];
    let mut at = 0;
    while at < len {
        let part = usize::try_from((len - at).min(PART)).expect("a part fits in memory");
        objects.read_listed(id, at, &mut buf[..part])?;
        hasher.update(&buf[..part]);
        at += part as u64;
    }
    match hasher.finalize().as_bytes() == &id.digest {
        true => Ok(()),
        false => Err(Error::store(format!("store: object {id}: its content does not match its digest"))
            .advise("Run `mif fsck` on the store that it comes from")),
    }
}

/// Sets the tags that name a version.
fn copy_tags(from: &Store, to: &Store, image: &Image, report: &mut CopyReport) -> Result<()> {
    if !to.storage().keeps_tags() {
        return Ok(());
    }
    for tag in from.tags(&image.name)?.into_iter().filter(|tag| tag.version == image.version) {
        if to.tagged(&tag.name, &tag.tag)? != Some(tag.version) {
            to.set_tag(&tag.name, &tag.tag, tag.version)?;
            report.tags.push(format!("{}@{}", tag.name, tag.tag));
        }
    }
    Ok(())
}
