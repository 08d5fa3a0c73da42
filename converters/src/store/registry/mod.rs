//! Images in an OCI registry. An image is an artifact whose layers are the files of a store that has only this image:
//! its record, layout and manifest, and the packs with its objects, each with its index. The title of a layer is the
//! key of its file, so other clients can fetch such an artifact as a store in a directory.
//!
//! A repository is read as one store. A new image or version names the packs that the repository already has, and adds
//! packs with what is missing. Registries keep blobs as long as a manifest names them, so nothing has to be locked. They
//! remove images by their own means, and know no tags but their own.
//!
//! Packs are read by ranges, and everything else whole; what a digest names never changes, and is kept in the cache.

mod client;
mod container;
mod credentials;
mod digest;
mod files;
mod manifest;
mod push;
mod read;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use mif_formats::container::Access;

use self::client::Client;
pub use self::container::{ContainerDisk, ForeignImage, push_container_disk};
use self::files::Files;
use self::manifest::{Descriptor, EMPTY_CONTENT, MANIFEST, MAX_MANIFEST, Manifest};
use super::RegistryPlace;
use super::header::{self, HEADER};
use super::pack_index::{index_key, pack_key};
use super::pack_list;
use super::record::Image;
use super::requests::{self, Blocks, Cache, Ranges};
use super::storage::{Entries, Lock, Storage, Upload, check_limit, exactly, max_len};
use super::stored_image::PACKS;
use crate::error::{Error, Result};
use crate::notation::seconds_text;

/// The size in bytes at which a pack is finished: it is kept in memory until it is sent.
const PACK: u64 = 64 << 20;

/// What stands for all registries in the cache: a digest that was checked names the same bytes in all of them.
const ANY_PLACE: &str = "oci";

/// Images in a registry.
pub(super) struct Registry {
    place: RegistryPlace,
    client: Arc<Client>,
    /// If images are to be copied to it.
    is_to_fill: bool,
    /// The files of the repository, read at first use.
    found: OnceLock<Files>,
    /// Files that were written since.
    written: Arc<Mutex<BTreeMap<String, Written>>>,
    blocks: Blocks<Client>,
    cache: Arc<Cache>,
    /// What the next packs are named after.
    expected: Mutex<Option<[u8; 32]>>,
    packs: AtomicU64,
}

/// A file that was written.
enum Written {
    /// A blob.
    Sent(Descriptor),
    /// Kept in memory: it is sent with an image, or of use only here.
    Kept(Vec<u8>),
}

/// Opens images in a registry.
pub(super) fn open(place: &RegistryPlace, is_to_fill: bool) -> Result<Arc<dyn Storage>> {
    let client = Arc::new(Client::new(place)?);
    let cache = Arc::new(requests::cache()?);
    Ok(Arc::new(Registry {
        place: place.clone(),
        blocks: Blocks::new(client.clone(), cache.clone()),
        client,
        is_to_fill,
        found: OnceLock::new(),
        written: Arc::default(),
        cache,
        expected: Mutex::default(),
        packs: AtomicU64::new(0),
    }))
}

impl Ranges for Client {
    /// Ranges are not checked when they are read, so what one registry answers serves no other.
    fn identity(&self) -> String {
        self.url().to_owned()
    }

    fn range(&self, key: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        Client::range(self, key, range)
    }
}

impl Registry {
    /// Returns the files of the repository that belong to the images that are meant.
    fn found(&self) -> io::Result<&Files> {
        if let Some(found) = self.found.get() {
            return Ok(found);
        }
        let found = Files::read(&self.client, &self.place, self.is_to_fill)?;
        Ok(self.found.get_or_init(|| found))
    }

    /// Returns the blob of a file.
    fn descriptor(&self, key: &str) -> io::Result<Descriptor> {
        if let Some(Written::Sent(descriptor)) = self.written().get(key) {
            return Ok(descriptor.clone());
        }
        match self.found()?.by_key.get(key) {
            Some(Some(descriptor)) => Ok(descriptor.clone()),
            Some(None) => Err(io::Error::new(
                ErrorKind::InvalidData,
                "tags of the repository name different images with this name and version; name a tag",
            )),
            None => Err(io::Error::new(ErrorKind::NotFound, "no such file in the repository")),
        }
    }

    /// Reads a whole blob, of at most `most` bytes.
    fn whole(&self, Descriptor { digest, size, .. }: &Descriptor, most: u64) -> io::Result<Vec<u8>> {
        check_limit(*size, most)?;
        if let Some((_, bytes)) = self.cache.whole(ANY_PLACE, digest) {
            return Ok(bytes);
        }
        let bytes = self.client.blob(digest, *size)?;
        self.cache.keep_whole(ANY_PLACE, digest, "", &bytes);
        Ok(bytes)
    }

    /// Returns the header of the store that all images of the repository make up.
    fn header(&self) -> io::Result<Vec<u8>> {
        let headers = &self.found()?.headers;
        let read = headers.values().map(|descriptor| self.whole(descriptor, max_len(HEADER)));
        header::merged(&read.collect::<io::Result<Vec<_>>>()?)
    }

    fn written(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Written>> {
        self.written.lock().expect("no thread panics while it holds this")
    }

    /// Sends a file.
    fn send(&self, key: &str, bytes: Vec<u8>) -> io::Result<Descriptor> {
        self.check_is_to_fill()?;
        let descriptor = push_file(&self.client, key, bytes)?;
        self.written().insert(key.to_owned(), Written::Sent(descriptor.clone()));
        Ok(descriptor)
    }

    fn check_is_to_fill(&self) -> io::Result<()> {
        match self.is_to_fill {
            true => Ok(()),
            false => Err(unsupported("images come into a registry only by `mif push` and `mif copy`")),
        }
    }

    /// Keeps a file in memory. Returns false if it exists already.
    fn keep(&self, key: &str, bytes: &[u8]) -> io::Result<bool> {
        self.check_is_to_fill()?;
        match self.len(key) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            there => return there.map(|_| false),
        }
        self.written().insert(key.to_owned(), Written::Kept(bytes.to_vec()));
        Ok(true)
    }
}

/// Sends a file of the store.
fn push_file(client: &Client, key: &str, bytes: Vec<u8>) -> io::Result<Descriptor> {
    let size = bytes.len() as u64;
    let digest = client.push_blob(&bytes.into())?;
    Ok(Descriptor::of_file(key, &digest, size))
}

/// Returns the error of a request about `what` there.
fn failure(place: &RegistryPlace, what: Option<&str>, error: &io::Error) -> Error {
    match (error.kind(), what) {
        // About the image that is meant, or the registry.
        (ErrorKind::InvalidInput | ErrorKind::PermissionDenied, _) => {
            Error::input(format!("{place}: {error}"))
        }
        (ErrorKind::Unsupported, _) => Error::unsupported(format!("{place}: {error}")),
        (_, Some(what)) => Error::file(&format!("{place}: {what}"), error),
        (_, None) => Error::file(&place.to_string(), error),
    }
}

fn unsupported(text: &str) -> io::Error {
    io::Error::new(ErrorKind::Unsupported, text)
}

/// Returns the tag of an image for which no other is named: `name-version`.
fn tag_of(image: &Image) -> String {
    // A plus sign is allowed in names, but not in tags, which are also shorter.
    let mut name = image.name.replace('+', "_");
    name.truncate(112);
    format!("{name}-{}", image.version)
}

/// Returns what a registry shows of an image: the annotations that the OCI image specification names, and our own.
fn annotations(image: &Image) -> BTreeMap<String, String> {
    let of_oci = [
        ("created", Some(seconds_text(image.provenance.time))),
        ("title", Some(image.name.clone())),
        ("version", Some(image.version.to_string())),
    ];
    let of_oci = of_oci.into_iter().map(|(name, value)| (format!("org.opencontainers.image.{name}"), value));
    let own = [
        ("disk-size", Some(image.disk_size.to_string())),
        ("disk-digest", image.disk_digest.clone()),
        ("layout-digest", Some(image.layout_digest.clone())),
        ("parent", image.provenance.parent.clone()),
    ];
    let own = own.into_iter().map(|(name, value)| (format!("vnd.mif.{name}"), value));
    of_oci.chain(own).filter_map(|(name, value)| Some((name, value?))).collect()
}

impl Storage for Registry {
    fn place(&self) -> String {
        self.place.to_string()
    }

    fn new_place(&self) -> &'static str {
        "a repository"
    }

    /// Who may read a registry is unknown.
    fn access(&self) -> Access {
        Access::Owner
    }

    fn reads_at_once(&self) -> usize {
        16
    }

    fn read(&self, key: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        let len = range.end.saturating_sub(range.start);
        let bytes = match key.starts_with("packs/") {
            true => self.blocks.read(&self.descriptor(key)?.digest, range)?,
            false => {
                let whole = self.read_all(key)?;
                let range = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
                let part = range.and_then(|(start, end)| whole.get(start..end));
                part.unwrap_or_default().to_vec()
            }
        };
        exactly(bytes, len)
    }

    fn len(&self, key: &str) -> io::Result<u64> {
        if let Some(Written::Kept(bytes)) = self.written().get(key) {
            return Ok(bytes.len() as u64);
        }
        match key {
            HEADER => Ok(self.header()?.len() as u64),
            key => Ok(self.descriptor(key)?.size),
        }
    }

    fn read_all(&self, key: &str) -> io::Result<Vec<u8>> {
        if let Some(Written::Kept(bytes)) = self.written().get(key) {
            return Ok(bytes.clone());
        }
        match key {
            HEADER => self.header(),
            key => self.whole(&self.descriptor(key)?, max_len(key)),
        }
    }

    fn error(&self, key: &str, error: &io::Error) -> Error {
        failure(&self.place, Some(key), error)
    }

    fn upload(&self, key: &str) -> io::Result<Box<dyn Upload>> {
        self.check_is_to_fill()?;
        let (client, written) = (self.client.clone(), self.written.clone());
        Ok(Box::new(PackUpload { client, written, key: key.to_owned(), bytes: Vec::new() }))
    }

    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> io::Result<bool> {
        if !key.starts_with("index/") {
            return self.keep(key, bytes);
        }
        self.send(key, bytes.to_vec()).map(|_| true)
    }

    fn replace(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        self.check_is_to_fill()?;
        self.written().insert(key.to_owned(), Written::Kept(bytes.to_vec()));
        Ok(())
    }

    fn publish(&self, folder: &str, files: &[(&str, &[u8])]) -> io::Result<bool> {
        self.check_is_to_fill()?;
        if !self.list(folder)?.is_empty() {
            return Ok(false);
        }
        let file = |wanted: &str| files.iter().find(|(name, _)| *name == wanted).map(|(_, bytes)| *bytes);
        let record = file("image.json").ok_or_else(|| io::Error::other("an image without a record"))?;
        let image: Image = serde_json::from_slice(record).map_err(io::Error::other)?;
        self.client.push_blob(&EMPTY_CONTENT.into())?;
        let mut layers = vec![push_file(&self.client, HEADER, self.read_all(HEADER)?)?];
        // A registry refuses empty blobs. Of these files, only a list of no packs is empty.
        for (name, bytes) in files.iter().filter(|(_, bytes)| !bytes.is_empty()) {
            layers.push(self.send(&format!("{folder}/{name}"), bytes.to_vec())?);
        }
        for pack in pack_list::decode(file(PACKS).unwrap_or_default()) {
            for key in [index_key(&pack), pack_key(&pack)] {
                layers.push(self.descriptor(&key)?);
            }
        }
        let manifest = Manifest::of_store(layers, annotations(&image)).encode();
        if manifest.len() as u64 > MAX_MANIFEST {
            return Err(io::Error::new(
                ErrorKind::FileTooLarge,
                "the image needs too many packs for a registry; copy it into a store of its own first",
            ));
        }
        let tag = self.place.reference.clone().unwrap_or_else(|| tag_of(&image));
        self.client.push_manifest(&tag, MANIFEST, &manifest)?;
        Ok(true)
    }

    fn entries(&self, folder: &str) -> io::Result<Entries> {
        let mut entries = Entries::default();
        let written = self.written();
        for key in self.found()?.by_key.keys().chain(written.keys()) {
            let Some(rest) = key.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')) else {
                continue;
            };
            match rest.split_once('/') {
                Some((name, _)) => entries.folders.push(name.to_owned()),
                None => entries.files.push(rest.to_owned()),
            }
        }
        for names in [&mut entries.files, &mut entries.folders] {
            names.sort_unstable();
            names.dedup();
        }
        Ok(entries)
    }

    fn delete(&self, _: &str) -> io::Result<()> {
        Err(unsupported(REMOVAL))
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<bool> {
        Err(unsupported(REMOVAL))
    }

    fn prepare(&self, group: Option<u32>) -> io::Result<()> {
        match group {
            None => self.check_is_to_fill(),
            Some(_) => Err(unsupported(
                "who may read a repository is set at the registry; --shared is for directories",
            )),
        }
    }

    fn clear(&self, _: bool) -> io::Result<()> {
        Err(unsupported(REMOVAL))
    }

    fn bypass_caches(&self) {
        self.cache.close();
        self.blocks.clear();
    }

    fn pack_size(&self) -> u64 {
        PACK
    }

    /// Nothing is removed that a manifest names, so there is nothing to hold.
    fn enter(&self) -> io::Result<Option<Lock>> {
        Ok(Some(Lock::new(())))
    }

    fn epoch(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn advance(&self) -> io::Result<u64> {
        Err(unsupported(REMOVAL))
    }

    fn oldest(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn lock(&self) -> io::Result<Option<Lock>> {
        Err(unsupported(REMOVAL))
    }

    fn alone(&self) -> io::Result<Option<Lock>> {
        Err(unsupported(REMOVAL))
    }

    fn keeps_tags(&self) -> bool {
        false
    }

    fn expect(&self, content: [u8; 32]) {
        *self.expected.lock().expect("no thread panics while it holds this") = Some(content);
        self.packs.store(0, Ordering::Relaxed);
    }

    fn random(&self) -> io::Result<[u8; 32]> {
        let expected = *self.expected.lock().expect("no thread panics while it holds this");
        let Some(content) = expected else { return super::storage::random() };
        let number = self.packs.fetch_add(1, Ordering::Relaxed);
        Ok(*blake3::Hasher::new().update(&content).update(&number.to_le_bytes()).finalize().as_bytes())
    }
}

/// Why nothing is removed.
const REMOVAL: &str = "images leave a registry by the registry's own means, which also free the room";

/// A pack that is being written.
struct PackUpload {
    client: Arc<Client>,
    written: Arc<Mutex<BTreeMap<String, Written>>>,
    key: String,
    bytes: Vec<u8>,
}

impl Write for PackUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upload for PackUpload {
    fn finish(self: Box<Self>) -> io::Result<bool> {
        let descriptor = push_file(&self.client, &self.key, self.bytes)?;
        self.written
            .lock()
            .expect("no thread panics while it holds this")
            .insert(self.key, Written::Sent(descriptor));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::address;

    #[test]
    fn an_image_has_a_tag_of_its_own_that_registries_take() {
        let tag = |name: &str| tag_of(&Image::empty(name, 3, "import"));
        assert_eq!([tag("web"), tag("c++")], ["web-3", "c__-3"]);
        for name in ["_x", "+x", &"x".repeat(128)] {
            assert!(address::is_tag(&tag(name)), "{name}: {}", tag(name));
        }
    }
}
