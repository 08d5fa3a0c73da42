//! Reads objects: locates them by the index, decompresses, verifies and caches them.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use mif_formats::codec::Codec;
use mif_formats::mif::chunks::{Chunk, Decode, decode_list};
use mif_formats::mif::pack::{Encoding, IndexEntry, MAX_WHOLE};
use mif_formats::mif::{ObjectId, ObjectKind, PackId};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::index::{Index, Location};
use super::pack_index::pack_key;
use super::{Lock, Storage};
use crate::error::{Error, Result};

/// The size of the cache of decompressed objects, in bytes.
const CACHE_BYTES: u64 = 96 << 20;

/// A reader of a store's objects, usable from several threads.
pub struct Objects {
    storage: Arc<dyn Storage>,
    index: Arc<Index>,
    cache: Cache<CacheKey, Cached, ByLength>,
    below: Below,
    /// Held while this exists, so that nobody removes the objects.
    _held: Option<Arc<[Lock]>>,
}

/// Where to look for objects that are not in the index.
enum Below {
    Nothing,
    Objects(Arc<Objects>),
    /// In all packs, because the index covers only some. Their indexes are read when first needed.
    AllPacks(OnceLock<Arc<Objects>>),
}

/// An object as it is stored, or what it decodes to: a number of bytes by a codec.
type CacheKey = (ObjectId, Option<(Codec, u32)>);

#[derive(Clone)]
enum Cached {
    Whole(Arc<Vec<u8>>),
    /// The chunks with their offsets in the object.
    List(Arc<Vec<(u64, Chunk)>>),
}

#[derive(Clone)]
struct ByLength;

impl Weighter<CacheKey, Cached> for ByLength {
    fn weight(&self, _: &CacheKey, cached: &Cached) -> u64 {
        64 + match cached {
            Cached::Whole(bytes) => bytes.len() as u64,
            Cached::List(chunks) => chunks.len() as u64 * 80,
        }
    }
}

impl Objects {
    /// Returns a reader of the objects that `index` locates in `storage`.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, index: Arc<Index>) -> Self {
        let cache = Cache::with_weighter(4096, CACHE_BYTES, ByLength);
        Objects { storage, index, cache, below: Below::Nothing, _held: None }
    }

    /// Makes the reader hold the store's lease as long as it exists.
    pub(super) fn under(self, held: Arc<[Lock]>) -> Self {
        Objects { _held: Some(held), ..self }
    }

    /// Makes the reader look up missing objects in `below`.
    #[must_use]
    pub(crate) fn over(self, below: Arc<Objects>) -> Self {
        Objects { below: Below::Objects(below), ..self }
    }

    /// Makes the reader look up missing objects in all packs of the store.
    pub(super) fn over_all_packs(self) -> Self {
        Objects { below: Below::AllPacks(OnceLock::new()), ..self }
    }

    fn below(&self) -> Result<Option<&Arc<Objects>>> {
        match &self.below {
            Below::Nothing => Ok(None),
            Below::Objects(below) => Ok(Some(below)),
            Below::AllPacks(below) => {
                if below.get().is_none() {
                    let index = Arc::new(Index::load(&*self.storage)?);
                    below.get_or_init(|| Arc::new(Objects::new(self.storage.clone(), index)));
                }
                Ok(below.get())
            }
        }
    }

    /// Returns true if an index contains the object.
    #[must_use]
    pub fn contains(&self, id: &ObjectId) -> bool {
        let is_below = || self.below().is_ok_and(|below| below.is_some_and(|below| below.contains(id)));
        self.index.get(id).is_some() || is_below()
    }

    /// Returns the ids under which an object is stored: of content, possibly as decoded content too.
    pub(crate) fn stored_as(&self, id: &ObjectId) -> Result<Vec<ObjectId>> {
        let mut names: Vec<ObjectId> = self.index.stored_as(id).collect();
        if names.is_empty()
            && let Some(below) = self.below()?
        {
            names = below.stored_as(id)?;
        }
        Ok(names)
    }

    /// Returns true if content is stored, but only as decoded content.
    pub(crate) fn is_only_decoded(&self, id: &ObjectId) -> bool {
        self.location(id).is_ok_and(|found| found.encoding == Encoding::DecodingList)
    }

    /// Returns true if an object is stored as a list.
    pub(crate) fn is_list(&self, id: &ObjectId) -> Result<bool> {
        Ok(self.location(id)?.encoding.is_list())
    }

    /// Returns the objects that make up an object that is stored as a list; none for other objects.
    pub fn chunks(&self, id: &ObjectId) -> Result<Vec<ObjectId>> {
        if !self.is_list(id)? {
            return Ok(Vec::new());
        }
        match self.load(id)? {
            Cached::List(chunks) => Ok(chunks.iter().filter_map(|(_, chunk)| chunk.id).collect()),
            Cached::Whole(_) => Ok(Vec::new()),
        }
    }

    /// Returns the length of an object in bytes.
    pub fn len(&self, id: &ObjectId) -> Result<u64> {
        Ok(self.location(id)?.len)
    }

    /// Fills `buf` with the bytes of an object starting at `offset`.
    pub fn read_at(&self, id: &ObjectId, offset: u64, buf: &mut [u8]) -> Result<()> {
        let outside = || {
            Error::store(format!(
                "store: object {id}: cannot read {} bytes at {offset}, past the end",
                buf.len()
            ))
        };
        let end = offset.checked_add(buf.len() as u64).ok_or_else(outside)?;
        match self.load(id)? {
            Cached::Whole(bytes) => {
                if end > bytes.len() as u64 {
                    return Err(outside());
                }
                buf.copy_from_slice(&bytes[offset as usize..end as usize]);
                Ok(())
            }
            Cached::List(chunks) => {
                if end > chunks.last().map_or(0, |(start, chunk)| start + chunk.len) {
                    return Err(outside());
                }
                if buf.is_empty() { Ok(()) } else { self.read_chunks(&chunks, offset, buf) }
            }
        }
    }

    /// Returns the parts of an object that are known to be zero without reading it: the zero chunks of a list.
    pub(crate) fn zero_runs(&self, id: &ObjectId) -> Result<Vec<Range<u64>>> {
        if !self.location(id)?.encoding.is_list() {
            return Ok(Vec::new());
        }
        let Cached::List(chunks) = self.load(id)? else { return Ok(Vec::new()) };
        let zeros = chunks.iter().filter(|(_, chunk)| chunk.id.is_none());
        Ok(zeros.map(|(start, chunk)| *start..*start + chunk.len).collect())
    }

    fn read_chunks(&self, chunks: &[(u64, Chunk)], mut offset: u64, mut buf: &mut [u8]) -> Result<()> {
        let mut i = chunks.partition_point(|(start, _)| *start <= offset) - 1;
        while !buf.is_empty() {
            let (start, chunk) = chunks[i];
            let here = usize::try_from(start + chunk.len - offset).unwrap_or(usize::MAX).min(buf.len());
            let (part, rest) = buf.split_at_mut(here);
            if let Some(id) = chunk.id {
                let bytes = self.load_chunk(&id, &chunk)?;
                let from = chunk.decode.map_or(0, |decode| u64::from(decode.from)) + offset - start;
                part.copy_from_slice(&bytes[from as usize..from as usize + here]);
            } else {
                part.fill(0);
            }
            offset += here as u64;
            buf = rest;
            i += 1;
        }
        Ok(())
    }

    /// Returns the bytes of the object of a chunk, decoded if the chunk says so.
    fn load_chunk(&self, id: &ObjectId, chunk: &Chunk) -> Result<Arc<Vec<u8>>> {
        let wrong = |problem: &str| Error::store(format!("store: object {id}: {problem}"));
        let other = || wrong("is not the chunk that the list describes");
        // A chunk is never a list itself, so the recursion is one level deep.
        let stored = || match self.load(id)? {
            Cached::Whole(bytes) => Ok(bytes),
            Cached::List(_) => Err(other()),
        };
        let Some(Decode { codec, decoded, .. }) = chunk.decode else {
            return stored()
                .and_then(|bytes| if bytes.len() as u64 == chunk.len { Ok(bytes) } else { Err(other()) });
        };
        let bytes = self.cache.get_or_insert_with(&(*id, Some((codec, decoded))), || {
            let decoded = codec.decode(&stored()?, decoded).map_err(|problem| wrong(&problem))?;
            Ok::<_, Error>(Cached::Whole(Arc::new(decoded)))
        })?;
        match bytes {
            Cached::Whole(bytes) => Ok(bytes),
            Cached::List(_) => Err(other()),
        }
    }

    fn location(&self, id: &ObjectId) -> Result<Location> {
        if let Some(found) = self.index.get(id) {
            return Ok(found);
        }
        self.below()?.map_or_else(|| Err(missing(id)), |below| below.location(id))
    }

    fn load(&self, id: &ObjectId) -> Result<Cached> {
        if self.index.get(id).is_none()
            && let Some(below) = self.below()?
        {
            return below.load(id);
        }
        self.cache.get_or_insert_with(&(*id, None), || self.fetch(id))
    }

    /// Reads an object from its first intact copy.
    fn fetch(&self, id: &ObjectId) -> Result<Cached> {
        let failed = match first_intact(id, self.index.copies(id), |copy| self.fetch_copy(id, copy)) {
            Ok(cached) => return Ok(cached),
            Err(failed) => failed,
        };
        match &self.below {
            // Another pack may contain a better copy, and a pack in this index may have been removed.
            Below::AllPacks(_) => match self.below()? {
                Some(below) => below.fetch(id).map_err(|_| failed),
                None => Err(failed),
            },
            _ => Err(failed),
        }
    }

    /// Returns the pack of an object that is stored under this very id, its offset there, and its stored length in
    /// bytes.
    pub(crate) fn position(&self, id: &ObjectId) -> Result<(PackId, u64, u64)> {
        let location = self.index.get_exact(id).ok_or_else(|| missing(id))?;
        Ok((self.index.pack(&location), location.offset, location.stored_len))
    }

    /// Returns an object as it is stored under this very id, from its first intact copy.
    pub(crate) fn encoded(&self, id: &ObjectId) -> Result<(IndexEntry, Vec<u8>)> {
        let copies = self.index.copies_exact(id);
        let (entry, stored, _) = first_intact(id, copies, |copy| self.read_copy(id, copy))?;
        Ok((entry, stored))
    }

    /// Fills `buf` with the bytes that the list stored under this very id describes, starting at `offset`.
    pub(crate) fn read_listed(&self, id: &ObjectId, offset: u64, buf: &mut [u8]) -> Result<()> {
        let outside = || Error::store(format!("store: object {id}: is shorter than its index says"));
        let list = match self.cache.get_or_insert_with(&(*id, None), || {
            first_intact(id, self.index.copies_exact(id), |copy| self.fetch_copy(id, copy))
        })? {
            Cached::List(list) => list,
            Cached::Whole(_) => return Err(outside()),
        };
        let end = list.last().map_or(0, |(start, chunk)| start + chunk.len);
        if offset.checked_add(buf.len() as u64).is_none_or(|wanted| wanted > end) {
            return Err(outside());
        }
        if buf.is_empty() { Ok(()) } else { self.read_chunks(&list, offset, buf) }
    }

    fn fetch_copy(&self, id: &ObjectId, location: &Location) -> Result<Cached> {
        Ok(match self.read_copy(id, location)?.2 {
            Decoded::Bytes(bytes) => Cached::Whole(Arc::new(bytes)),
            Decoded::List(chunks) => {
                let mut start = 0;
                let placed = chunks.into_iter().map(|chunk| {
                    start += chunk.len;
                    (start - chunk.len, chunk)
                });
                Cached::List(Arc::new(placed.collect()))
            }
        })
    }

    /// Reads a copy: its entry, its stored bytes, and what they decode to, which was checked.
    fn read_copy(&self, id: &ObjectId, location: &Location) -> Result<(IndexEntry, Vec<u8>, Decoded)> {
        let Location { encoding, offset, stored_len, len, .. } = *location;
        let key = pack_key(&self.index.pack(location));
        let place = || format!("{}/{key}: object {id}, at byte {offset}", self.storage.place());
        let advise = |e: Error| {
            e.advise("The store is damaged; `mif fsck` lists the affected images and prints the command that repairs it")
        };
        let wrong = |problem: &str| advise(Error::store(format!("{}: {problem}", place())));
        if !encoding.is_list() && stored_len.max(len) > MAX_WHOLE {
            return Err(wrong("is larger than the limit for objects"));
        }
        let end = offset.checked_add(stored_len).ok_or_else(|| wrong("extends past the end of its pack"))?;
        let stored = self.storage.read(&key, offset..end).map_err(|e| match Error::file(&place(), &e) {
            unreadable if unreadable.is_unreadable() => unreadable,
            damaged => advise(damaged),
        })?;
        let entry = IndexEntry { id: *id, encoding, offset, stored_len, len };
        let decoded = decode_object(&entry, &stored).map_err(|problem| wrong(&problem))?;
        Ok((entry, stored, decoded))
    }
}

/// Reads an object from the first of its copies that is intact. The error is that of the first copy.
fn first_intact<T>(
    id: &ObjectId,
    copies: impl IntoIterator<Item = Location>,
    read: impl Fn(&Location) -> Result<T>,
) -> Result<T> {
    let mut failed = None;
    for copy in copies {
        match read(&copy) {
            Ok(found) => return Ok(found),
            Err(e) => drop(failed.get_or_insert(e)),
        }
    }
    Err(failed.unwrap_or_else(|| missing(id)))
}

fn missing(id: &ObjectId) -> Error {
    Error::store(format!("store: object {id}: is not in any pack"))
        .advise("A pack or its index is missing; `mif fsck` lists the affected images and prints the command that repairs it")
}

/// The decoded form of an object's stored bytes.
pub(crate) enum Decoded {
    /// Its bytes, which match its id.
    Bytes(Vec<u8>),
    /// Its chunks, which add up to its length.
    List(Vec<Chunk>),
}

/// Decodes and checks the stored bytes of an object. The error says what is wrong with them.
pub(crate) fn decode_object(entry: &IndexEntry, stored: &[u8]) -> Result<Decoded, String> {
    if entry.encoding.is_list() {
        if entry.id.kind == ObjectKind::ChunkList && ObjectId::of_list(stored) != entry.id {
            return Err("its bytes do not match its id".into());
        }
        return decode_list(entry.encoding, stored, entry.len).map(Decoded::List).map_err(|e| e.to_string());
    }
    if entry.id.kind != ObjectKind::Content {
        return Err("is a chunk list, but stored as content".into());
    }
    if entry.stored_len.max(entry.len) > MAX_WHOLE {
        return Err("is larger than the limit for objects".into());
    }
    let bytes = match entry.encoding {
        Encoding::Zstd => {
            decompress(stored, entry.len as usize).map_err(|e| format!("cannot be decompressed: {e}"))?
        }
        _ => stored.to_vec(),
    };
    if bytes.len() as u64 != entry.len || ObjectId::of(&bytes) != entry.id {
        return Err("its bytes do not match its id".into());
    }
    Ok(Decoded::Bytes(bytes))
}

/// Decompresses one frame. Each thread keeps a context, because creating one costs more than a small object.
fn decompress(frame: &[u8], len: usize) -> std::io::Result<Vec<u8>> {
    thread_local! {
        static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    }
    DECOMPRESSOR.with_borrow_mut(|decompressor| {
        let decompressor = match decompressor {
            Some(decompressor) => decompressor,
            empty => empty.insert(zstd::bulk::Decompressor::new()?),
        };
        decompressor.decompress(frame, len)
    })
}

#[cfg(test)]
mod tests {
    use mif_formats::mif::chunks::encode_list;

    use super::*;
    use crate::store::catalog::tests::publish;
    use crate::store::{Memory, ObjectWriter, Store, index_key};
    use crate::task::progress::Silent;

    #[test]
    fn one_image_is_read_by_the_indexes_of_its_own_packs_and_by_all_if_these_do_not_do() {
        let memory = Memory::new();
        let open = || {
            let storage: Arc<dyn Storage> = Arc::new(memory.clone());
            Store::create(storage, &Silent).unwrap()
        };
        let contents: Vec<Vec<u8>> = (0..5u8).map(|i| vec![i + 1; 5000]).collect();
        for (i, content) in contents.iter().enumerate() {
            let store = open();
            let writer = ObjectWriter::new(&store).unwrap();
            let id = writer.put(content).unwrap();
            writer.finish().unwrap();
            publish(&store, &format!("image{i}"), &[(id, content.len() as u64)]);
        }
        let id = ObjectId::of(&contents[3]);
        let read = |image: &str| {
            let store = open();
            let objects = store.objects_of(&store.image(&image.parse().unwrap()).unwrap()).unwrap();
            let mut bytes = vec![0; contents[3].len()];
            objects.read_at(&id, 0, &mut bytes).unwrap();
            assert!(bytes == contents[3]);
            let Below::AllPacks(all) = &objects.below else { return None };
            let known = contents.iter().filter(|content| objects.index.get(&ObjectId::of(content)).is_some());
            Some((known.count(), all.get().is_some()))
        };
        assert_eq!(read("image3"), Some((1, false)));
        // Objects of other images are found through all indexes.
        assert_eq!(read("image1"), Some((1, true)));
        let key = "images/name=image3/version=1/packs";
        let list = memory.files()[key].to_vec();
        memory.set(key, None);
        assert_eq!(read("image3"), None);
        // An outdated list, then a corrupt one.
        memory.set(key, Some(memory.files()["images/name=image0/version=1/packs"].to_vec()));
        assert_eq!(read("image3"), Some((1, true)));
        memory.set(key, Some(b"nonsense".to_vec()));
        assert_eq!(read("image3"), None);
        // The pack's index is damaged, both in its file and at the end of the pack.
        memory.set(key, Some(list.clone()));
        let pack = mif_formats::mif::PackId::from_hex(std::str::from_utf8(&list).unwrap().trim()).unwrap();
        memory.set(&index_key(&pack), Some(b"damaged".to_vec()));
        assert_eq!(read("image3"), Some((0, true)));
    }

    #[test]
    fn a_reader_of_one_kind_refuses_the_other() {
        let list = encode_list(&[Chunk::zeros(5 << 30)]);
        let decode = |id, encoding, len| {
            let entry = IndexEntry { id, encoding, offset: 0, stored_len: list.len() as u64, len };
            decode_object(&entry, &list).err()
        };
        let (content, chunk_list) = (ObjectId::of(&list), ObjectId::of_list(&list));
        assert_eq!(decode(content, Encoding::Raw, list.len() as u64), None);
        assert_eq!(decode(chunk_list, Encoding::List, 5 << 30), None);
        let swapped = [ObjectId::content(chunk_list.digest), ObjectId::chunk_list(content.digest)];
        assert!(decode(swapped[0], Encoding::Raw, list.len() as u64).is_some());
        assert!(decode(swapped[1], Encoding::List, 5 << 30).is_some());
        assert!(decode(chunk_list, Encoding::Raw, list.len() as u64).is_some());
    }

    #[test]
    fn an_object_over_the_limit_is_refused_before_it_is_unpacked() {
        let packed = zstd::bulk::compress(&[7; 100], 3).unwrap();
        let problem = |encoding, stored_len, len| {
            let entry = IndexEntry { id: ObjectId::of(&[7; 100]), encoding, offset: 0, stored_len, len };
            decode_object(&entry, &packed).err()
        };
        let stored = packed.len() as u64;
        assert_eq!(problem(Encoding::Zstd, stored, 100), None);
        for (stored, len) in [(stored, MAX_WHOLE + 1), (MAX_WHOLE + 1, 100)] {
            let problem = problem(Encoding::Zstd, stored, len);
            assert_eq!(problem.as_deref(), Some("is larger than the limit for objects"));
        }
    }

    #[test]
    fn content_that_is_only_decoded_is_found_and_stored_plain_if_somebody_needs_it_so() {
        let memory = Memory::new();
        let store = || {
            let storage: Arc<dyn Storage> = Arc::new(memory.clone());
            Store::create(storage, &Silent).unwrap()
        };
        let content = b"what the disk has compressed".repeat(1000);
        let (id, len) = (ObjectId::of(&content), content.len());
        let encoded = zstd::bulk::compress(&content, 3).unwrap();
        let decode = Decode { codec: Codec::Zstd, decoded: len as u32, from: 0 };
        let first = store();
        let writer = ObjectWriter::new(&first).unwrap();
        let chunk = Chunk { id: Some(writer.put(&encoded).unwrap()), len: len as u64, decode: Some(decode) };
        let decoded = writer.put_decoded(id.digest, &[chunk]).unwrap();
        writer.finish().unwrap();
        let read = || {
            let objects = store().objects().unwrap();
            let mut bytes = vec![0; len - 100];
            objects.read_at(&id, 100, &mut bytes).unwrap();
            assert!(
                bytes == content[100..] && objects.contains(&id) && objects.len(&id).unwrap() == len as u64
            );
            objects.stored_as(&id).unwrap()
        };
        assert_eq!(read(), [decoded]);
        assert_eq!(store().objects().unwrap().chunks(&id).unwrap(), [chunk.id.unwrap()]);
        let before: Vec<String> = memory.files().into_keys().collect();
        // A layout needs the content itself.
        let second = store();
        let writer = ObjectWriter::new(&second).unwrap();
        assert!(!writer.has_content(id.digest) && writer.claim(id));
        writer.store_claimed(id, &content).unwrap();
        assert!(writer.has_content(id.digest));
        writer.finish().unwrap();
        assert_eq!(read(), [id, decoded]);
        // If that copy rots, the other one serves.
        for (key, bytes) in memory.files() {
            if key.starts_with("packs/") && !before.contains(&key) {
                let mut bad = bytes.to_vec();
                bad[50] ^= 1;
                memory.set(&key, Some(bad));
            }
        }
        assert_eq!(read(), [id, decoded]);
    }
}
