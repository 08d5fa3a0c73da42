//! A store in a bucket: keys without directories, no renames, and no locks.
//!
//! **An image appears at once.** Its publisher first claims the version by a conditional put, then writes the files,
//! and then, by a conditional put again, turns the claim into `published` with the record in it. Only then it writes
//! `image.json`, and a directory of images without `image.json` does not exist for readers. Whoever loses the claim has
//! written nothing, and whoever dies leaves a number that is not used again. Removal ends claims whose owner's lease is
//! over, by the same condition: so a publisher who was only paused fails, and can never publish an image whose objects
//! have been removed.
//!
//! ```text
//! images/name=<name>/version=<n>/claim    {"owner", "state": "writing" | "published" | "ended", "record"}
//! ```
//!
//! **Reads** of packs go through blocks of 4 MiB, because objects that are read one after the other lie next to each
//! other. What never changes is kept in a cache on this machine.

mod blobs;
#[cfg(feature = "remote")]
pub(super) mod cloud;
#[cfg(feature = "remote")]
mod contact;
mod leases;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use mif_formats::container::Access;
use mif_formats::text::hex;
use serde::{Deserialize, Serialize};

pub use self::blobs::{Blob, Blobs, Condition, Head, Listed, Listing, Tag};
use self::blobs::{put_absent, put_unchanged};
use self::leases::{Leases, Owner};
use super::requests::{Blocks, Cache, Ranges};
use super::storage::{Entries, Lock, Storage, TOP, Upload, check_len, exactly, is_given, max_len};

/// The name of a claim in the directory of a version.
const CLAIM: &str = "claim";

/// The name of the record, whose presence shows that an image was published.
const RECORD: &str = "image.json";

/// The size in bytes at which a pack is finished: each is uploaded while the next is written.
const PACK: u64 = 64 << 20;

/// From this number of files on, their lengths are taken from a list.
const MANY: usize = 4;

/// A store in a bucket.
pub struct Bucket {
    blobs: Arc<dyn Blobs>,
    leases: Arc<Leases>,
    blocks: Blocks<dyn Blobs>,
    cache: Arc<Cache>,
}

impl Ranges for dyn Blobs {
    fn identity(&self) -> String {
        Blobs::identity(self)
    }

    fn range(&self, key: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        let len = range.end.saturating_sub(range.start);
        Ok(self.get(key, Some(range), len)?.bytes)
    }
}

/// What stands for a version before its record does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    /// The publisher's lease.
    owner: Option<Owner>,
    /// Names the publisher.
    nonce: String,
    state: State,
    /// The bytes of `image.json`, once it is published.
    record: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Writing,
    Published,
    /// The publisher's lease was over before it had published.
    Ended,
}

impl Claim {
    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a claim is JSON")
    }
}

impl Bucket {
    /// Returns the store whose objects are in `blobs`. Without `in_background`, the caller has to
    /// [`renew`](Self::renew) its leases. Nothing is cached on this machine.
    #[must_use]
    pub fn new(blobs: Arc<dyn Blobs>, in_background: bool) -> Self {
        Self::cached(blobs, in_background, Cache::none())
    }

    fn cached(blobs: Arc<dyn Blobs>, in_background: bool, cache: Cache) -> Self {
        let cache = Arc::new(cache);
        let leases = Leases::new(blobs.clone(), in_background);
        Bucket { blocks: Blocks::new(blobs.clone(), cache.clone()), blobs, leases, cache }
    }

    /// Renews all leases that this process holds.
    pub fn renew(&self) -> io::Result<()> {
        self.leases.renew()
    }

    /// Returns the versions below `images/name=…`, or the files of one of them, that readers see.
    fn image_entries(&self, folder: &str) -> io::Result<Entries> {
        let listing = self.blobs.list(folder, true)?;
        let start = folder.len() + 1;
        let rest: Vec<&str> = listing.objects.iter().filter_map(|o| o.key.get(start..)).collect();
        let mut entries = Entries::default();
        match folder.matches('/').count() {
            1 => {
                let versions = rest.iter().filter_map(|key| key.strip_suffix(RECORD)?.strip_suffix('/'));
                entries.folders = versions.filter(|name| !name.contains('/')).map(str::to_owned).collect();
                let files = rest.iter().filter(|key| !key.contains('/'));
                entries.files = files.map(|key| (*key).to_owned()).collect();
            }
            _ if rest.contains(&RECORD) => {
                let ours = rest.iter().filter(|key| **key != CLAIM);
                let (folders, files): (Vec<&str>, Vec<&str>) =
                    ours.copied().partition(|key| key.contains('/'));
                entries.files = files.into_iter().map(str::to_owned).collect();
                let tops = folders.iter().filter_map(|key| key.split('/').next());
                entries.folders = tops.collect::<BTreeSet<_>>().into_iter().map(str::to_owned).collect();
            }
            _ => {}
        }
        entries.files.sort_unstable();
        entries.folders.sort_unstable();
        Ok(entries)
    }

    /// Ends the claims of publishers whose leases are over, and completes those that had published. The caller holds
    /// the lock.
    fn settle_claims(&self) -> io::Result<()> {
        let mut folders = BTreeMap::<String, BTreeSet<String>>::new();
        for listed in self.blobs.list("images", true)?.objects {
            if let Some((folder, name)) = listed.key.rsplit_once('/') {
                folders.entry(folder.to_owned()).or_default().insert(name.to_owned());
            }
        }
        for (folder, names) in folders {
            if !names.contains(RECORD) && names.contains(CLAIM) {
                self.settle_claim(&folder, &names)?;
            }
        }
        Ok(())
    }

    fn settle_claim(&self, folder: &str, names: &BTreeSet<String>) -> io::Result<()> {
        let key = format!("{folder}/{CLAIM}");
        let found = match self.blobs.get(&key, None, max_len(RECORD)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        // What a damaged claim stood for is unknown, and a repair may need the files.
        let Ok(claim) = serde_json::from_slice::<Claim>(&found.bytes) else { return Ok(()) };
        match &claim {
            Claim { state: State::Published, record: Some(record), .. } => {
                put_absent(&*self.blobs, &format!("{folder}/{RECORD}"), record.as_bytes())?;
                return Ok(());
            }
            Claim { state: State::Ended, .. } => {}
            Claim { owner: Some(owner), .. } if self.leases.is_owned(owner)? => return Ok(()),
            _ => {
                let ended = Claim { state: State::Ended, record: None, ..claim };
                if put_unchanged(&*self.blobs, &key, &ended.encode(), &found.tag)?.is_none() {
                    return Ok(());
                }
            }
        }
        self.leases.check(false)?;
        let files = names.iter().filter(|name| *name != CLAIM && is_given(name));
        files.map(|name| format!("{folder}/{name}")).try_for_each(|key| self.remove(&key))
    }

    fn remove(&self, key: &str) -> io::Result<()> {
        self.cache.forget(&self.blobs.identity(), key);
        self.blobs.delete(key)
    }
}

/// Returns true if the file with this key does not change, except that a damaged one is replaced.
fn is_lasting(key: &str) -> bool {
    let name = key.rsplit('/').next().unwrap_or_default();
    key.starts_with("index/")
        || key.starts_with("images/") && name != RECORD && name != "packs" && name != CLAIM
}

/// Returns true if a key is that of a directory of images: `images/name=…`, with or without a version.
fn is_image_folder(key: &str) -> bool {
    key.starts_with("images/") && (1..=2).contains(&key.matches('/').count())
}

impl Storage for Bucket {
    fn place(&self) -> String {
        self.blobs.place()
    }

    fn new_place(&self) -> &'static str {
        "a prefix with nothing below it"
    }

    /// Who may read a bucket is unknown.
    fn access(&self) -> Access {
        Access::Owner
    }

    fn reads_at_once(&self) -> usize {
        16
    }

    fn read(&self, key: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        let len = range.end.saturating_sub(range.start);
        let bytes = match key.starts_with("packs/") {
            true => self.blocks.read(key, range)?,
            false => self.blobs.get(key, Some(range), len)?.bytes,
        };
        exactly(bytes, len)
    }

    fn len(&self, key: &str) -> io::Result<u64> {
        Ok(self.blobs.head(key)?.len)
    }

    fn lens(&self, keys: &[String]) -> Vec<io::Result<u64>> {
        let tops: BTreeSet<&str> = keys.iter().filter_map(|key| key.split('/').next()).collect();
        // What cannot be listed is asked for.
        let list = |top: &str| self.blobs.list(top, true).unwrap_or_default().objects;
        let listed = tops.into_iter().filter(|_| keys.len() >= MANY).flat_map(list);
        let lens: BTreeMap<String, u64> = listed.map(|o| (o.key, o.len)).collect();
        // A list may lag: what it lacks is asked for.
        keys.iter().map(|key| lens.get(key).map_or_else(|| self.len(key), |len| Ok(*len))).collect()
    }

    fn read_all(&self, key: &str) -> io::Result<Vec<u8>> {
        let most = max_len(key);
        if !is_lasting(key) {
            return Ok(self.blobs.get(key, None, most)?.bytes);
        }
        let place = self.blobs.identity();
        let keep = |found: &Blob| {
            if let Some(etag) = &found.tag.etag {
                self.cache.keep_whole(&place, key, etag, &found.bytes);
            }
        };
        if let Some((etag, bytes)) = self.cache.whole(&place, key) {
            let tag = Tag { etag: Some(etag), version: None };
            return Ok(match self.blobs.get_unless(key, &tag, most)? {
                Some(newer) => {
                    keep(&newer);
                    newer.bytes
                }
                None => bytes,
            });
        }
        let found = self.blobs.get(key, None, most)?;
        keep(&found);
        Ok(found.bytes)
    }

    fn upload(&self, key: &str) -> io::Result<Box<dyn Upload>> {
        self.blobs.upload(key)
    }

    fn put_if_absent(&self, key: &str, bytes: &[u8]) -> io::Result<bool> {
        Ok(put_absent(&*self.blobs, key, bytes)?.is_some())
    }

    fn replace(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        check_len(key, bytes.len() as u64)?;
        self.cache.forget(&self.blobs.identity(), key);
        self.blobs.put(key, bytes, Condition::Always).map(|_| ())
    }

    fn publish(&self, folder: &str, files: &[(&str, &[u8])]) -> io::Result<bool> {
        let key = format!("{folder}/{CLAIM}");
        let nonce = hex(&self.blobs.random()?);
        let claim = Claim { owner: self.leases.owner(), nonce, state: State::Writing, record: None };
        let Some(tag) = put_absent(&*self.blobs, &key, &claim.encode())? else { return Ok(false) };
        // The claim first: whoever takes this process for dead from now on ends the claim too.
        self.leases.check(true)?;
        let mut record = None;
        for (name, bytes) in files {
            match *name {
                RECORD => record = Some(*bytes),
                _ => drop(self.blobs.put(&format!("{folder}/{name}"), bytes, Condition::Always)?),
            }
        }
        let bytes = record.ok_or_else(|| io::Error::other("an image without a record"))?;
        let text = String::from_utf8(bytes.to_vec()).map_err(io::Error::other)?;
        let published = Claim { state: State::Published, record: Some(text), ..claim };
        if put_unchanged(&*self.blobs, &key, &published.encode(), &tag)?.is_none() {
            return Err(io::Error::other(
                "this command was taken for dead while it published the image; run it again",
            ));
        }
        put_absent(&*self.blobs, &format!("{folder}/{RECORD}"), bytes)?;
        Ok(true)
    }

    fn entries(&self, folder: &str) -> io::Result<Entries> {
        if is_image_folder(folder) {
            return self.image_entries(folder);
        }
        let Listing { objects, folders } = self.blobs.list(folder, false)?;
        let name = |key: &String| key.rsplit('/').next().unwrap_or_default().to_owned();
        let mut files: Vec<String> = objects.iter().map(|object| name(&object.key)).collect();
        let mut folders: Vec<String> = folders.iter().map(name).collect();
        files.sort_unstable();
        folders.sort_unstable();
        Ok(Entries { files, folders, others: Vec::new() })
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        self.leases.check(false)?;
        if !is_image_folder(key) {
            self.remove(key)?;
        }
        if ["packs/", "index/", "disks/", "catalog/", "tmp/"].iter().any(|top| key.starts_with(top)) {
            return Ok(());
        }
        let mut names: Vec<String> =
            self.blobs.list(key, false)?.objects.into_iter().map(|o| o.key).collect();
        names.retain(|file| {
            let name = file.rsplit('/').next().unwrap_or_default();
            is_given(name) || is_image_folder(key) && name == CLAIM
        });
        // The record last: as long as it is there, this is done again.
        names.sort_by_key(|file| file.ends_with(RECORD));
        names.iter().try_for_each(|file| self.remove(file))
    }

    fn rename(&self, key: &str, to: &str) -> io::Result<bool> {
        let found = self.blobs.get(key, None, max_len(key))?;
        if put_absent(&*self.blobs, to, &found.bytes)?.is_none() {
            return Ok(false);
        }
        self.leases.check(false)?;
        self.remove(key)?;
        Ok(true)
    }

    fn prepare(&self, group: Option<u32>) -> io::Result<()> {
        if group.is_some() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "who may read a bucket is set where the bucket is; --shared is for directories",
            ));
        }
        probe(&*self.blobs)
    }

    fn clear(&self, _: bool) -> io::Result<()> {
        for top in TOP {
            for listed in self.blobs.list(top, true)?.objects {
                self.blobs.delete(&listed.key)?;
            }
            self.blobs.delete(top)?;
        }
        Ok(())
    }

    fn bypass_caches(&self) {
        self.cache.close();
        self.blocks.clear();
    }

    fn settle(&self) -> io::Result<bool> {
        self.blobs.settle();
        Ok(true)
    }

    fn pack_size(&self) -> u64 {
        PACK
    }

    fn enter(&self) -> io::Result<Option<Lock>> {
        self.leases.enter()
    }

    fn epoch(&self) -> io::Result<u64> {
        self.leases.epoch()
    }

    fn advance(&self) -> io::Result<u64> {
        self.leases.advance()
    }

    fn oldest(&self) -> io::Result<u64> {
        self.leases.check(true)?;
        let oldest = self.leases.oldest()?;
        // After that: a publisher whose lease has just been ended must not succeed any more.
        self.settle_claims()?;
        Ok(oldest)
    }

    fn lock(&self) -> io::Result<Option<Lock>> {
        self.leases.lock()
    }

    fn alone(&self) -> io::Result<Option<Lock>> {
        let alone = self.leases.alone()?;
        if alone.is_some() {
            self.settle_claims()?;
        }
        Ok(alone)
    }

    fn hold(&self, key: &str) -> io::Result<Option<Lock>> {
        self.leases.hold(key)
    }

    fn pause(&self) {
        self.blobs.pause();
    }

    fn random(&self) -> io::Result<[u8; 32]> {
        self.blobs.random()
    }
}

/// Fails unless conditional puts are honoured, and lists show what was just written.
fn probe(blobs: &dyn Blobs) -> io::Result<()> {
    let random = u64::from_le_bytes(blobs.random()?[..8].try_into().expect("eight bytes"));
    let key = format!("tmp/upload-0-{random:016x}");
    let result = probe_with(blobs, &key);
    let deleted = blobs.delete(&key);
    result.and(deleted)
}

fn probe_with(blobs: &dyn Blobs, key: &str) -> io::Result<()> {
    let refused = |what: &str| {
        let text = format!(
            "the object store does not honour conditional puts ({what}), so two commands could destroy each other's \
             work; use a service or a version that supports If-None-Match and If-Match"
        );
        io::Error::new(io::ErrorKind::Unsupported, text)
    };
    let first = put_absent(blobs, key, b"1")?;
    let first = first.ok_or_else(|| refused("it says that a new object exists"))?;
    if blobs.put(key, b"2", Condition::Absent)?.is_some() {
        return Err(refused("it overwrote an object that should not have been there"));
    }
    let second = put_unchanged(blobs, key, b"3", &first)?;
    second.ok_or_else(|| refused("it refused to replace a version that was there"))?;
    if blobs.put(key, b"4", Condition::Unchanged(&first))?.is_some() {
        return Err(refused("it overwrote a newer version"));
    }
    if blobs.get(key, None, 1)?.bytes != b"3" {
        return Err(refused("it answers with another version than the last"));
    }
    match blobs.list("tmp", false)?.objects.iter().any(|listed| listed.key == key) {
        true => Ok(()),
        false => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the object store's lists do not show what was just written, so removal could take what is needed",
        )),
    }
}
