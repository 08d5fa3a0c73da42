//! `stats`: measures the size of the store, the share of each image, and the similarity of images.

use std::collections::HashMap;

use mif_formats::mif::ObjectId;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::notation;
use crate::store::{
    Alike, DamagedImage, IMAGE_FILES, Image, Index, Objects, PackIndex, Store, index_key, pack_key, total,
    with_chunks,
};
use crate::task::pool::in_order;
use crate::task::progress::Progress;

/// The size of a store, and what its images share.
#[derive(Debug, Clone, Serialize)]
pub struct StatsReport {
    /// Damaged images, which were left out.
    pub damaged: Vec<DamagedImage>,
    /// The number of names.
    pub images: u64,
    /// The number of versions, each of which is a disk.
    pub versions: u64,
    /// The total size of all disks in bytes.
    pub disk_bytes: u64,
    /// Bytes of these disks that are not zero.
    pub data_bytes: u64,
    /// The number of objects that images need: the data without duplicates.
    pub objects: u64,
    /// The bytes of these objects.
    pub object_bytes: u64,
    /// The bytes that they occupy in packs.
    pub stored_bytes: u64,
    /// Bytes in packs that no image needs.
    pub garbage_bytes: u64,
    /// Bytes of the store's files, by kind.
    pub file_bytes: FileBytes,
    /// Data bytes for each object byte.
    pub dedup_ratio: f64,
    /// Data bytes for each byte of the store's files.
    pub total_ratio: f64,
    /// How much each version shares with others.
    pub shares: Vec<ImageShare>,
    /// The similarity of images, if requested.
    pub similarity: Option<Similarity>,
    /// How the store grew: the versions that are in it, in the order in which they were made.
    pub growth: Vec<Growth>,
}

/// The size of a store after a version was made, if all versions that are not in it now had never been.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Growth {
    /// When the version was made, in seconds since 1970.
    #[serde(serialize_with = "notation::seconds")]
    pub time: u64,
    /// The version, as `name@version`.
    pub image: String,
    /// Bytes that are not zero of its disk and of all before.
    pub data_bytes: u64,
    /// Stored bytes of the objects that it and those before need.
    pub stored_bytes: u64,
}

/// Bytes of a store's files.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[allow(missing_docs)]
pub struct FileBytes {
    pub packs: u64,
    pub indexes: u64,
    pub images: u64,
}

/// How much of its data a version shares with others.
#[derive(Debug, Clone, Serialize)]
pub struct ImageShare {
    /// The image, as `name@version`.
    pub image: String,
    /// Bytes of its disk that are not zero.
    pub data_bytes: u64,
    /// Stored bytes of the objects that no other version needs: removing this version would free them.
    pub own_bytes: u64,
    /// Stored bytes of the objects that others need too.
    pub shared_bytes: u64,
}

/// How many bytes of their objects the newest versions share.
#[derive(Debug, Clone, Serialize)]
pub struct Similarity {
    /// The images, as `name@version`.
    pub images: Vec<String>,
    /// For each pair, the bytes in both divided by the bytes in either: 1 for equal images, 0 for nothing in common.
    pub matrix: Vec<Vec<f64>>,
}

/// Computes the statistics of a store.
pub fn stats(store: &Store, similarity: bool, progress: &dyn Progress) -> Result<StatsReport> {
    progress.stage("reading images", 0);
    let (images, mut damaged) = store.images()?;
    let objects = store.objects()?;
    let index = store.index()?;
    let mut numbering = Numbering::default();
    let mut needs: Vec<Vec<u32>> = Vec::new();
    let mut measured = Vec::new();
    let read = |image: &Image| {
        Ok(store.version(&image.name, image.version).and_then(|stored| stored.named_objects()))
    };
    in_order(&images, progress, read, |image, named| {
        match named.and_then(|named| numbering.of(named, &objects)) {
            Ok(numbers) => {
                measured.push(image.clone());
                needs.push(numbers);
            }
            Err(e) => damaged.push(DamagedImage::new(&image.name, image.version, &e)),
        }
        Ok(())
    })?;
    let images = measured;
    let sizes = sizes(&numbering.numbers, &index);
    let mut users = vec![0u32; sizes.len()];
    needs.iter().flatten().for_each(|&n| users[n as usize] += 1);
    let shares =
        images.iter().zip(&needs).map(|(image, needs)| share(image, needs, &sizes, &users)).collect();
    let file_bytes = file_bytes(store, &images)?;
    let data_bytes = total(images.iter().flat_map(|i| [i.counts.content_bytes, i.counts.residue_bytes]));
    // Objects of a damaged image, which is left out, may have numbers too.
    let used = || sizes.iter().zip(&users).filter(|(_, users)| **users > 0).map(|(size, _)| size);
    let object_bytes = total(used().map(|s| s.len));
    let stored_bytes = total(used().map(|s| s.stored));
    let files = total([file_bytes.packs, file_bytes.indexes, file_bytes.images].into_iter());
    let in_packs = total(PackIndex::all(&**store.storage())?.iter().map(PackIndex::stored_bytes));
    Ok(StatsReport {
        damaged,
        images: store.names()?.len() as u64,
        versions: images.len() as u64,
        disk_bytes: total(images.iter().map(|i| i.disk_size)),
        data_bytes,
        objects: used().count() as u64,
        object_bytes,
        stored_bytes,
        garbage_bytes: in_packs.saturating_sub(stored_bytes),
        file_bytes,
        dedup_ratio: ratio(data_bytes, object_bytes),
        total_ratio: ratio(data_bytes, files),
        shares,
        similarity: similarity.then(|| compare(&images, &needs, &sizes)),
        growth: growth(&images, &needs, &sizes),
    })
}

/// Numbers for the objects of a store, by which images are compared.
#[derive(Default)]
struct Numbering {
    numbers: HashMap<ObjectId, Number>,
    /// For each named object that is not stored as just itself, the numbers of the objects in which it is stored.
    lists: HashMap<ObjectId, Vec<u32>>,
    /// What the image before names; and for each of them its number, if it is stored as just itself.
    last: (Vec<ObjectId>, Vec<Option<u32>>),
}

/// The number of an object.
struct Number {
    number: u32,
    /// True if it is known that the object is named and stored as just itself.
    is_alone: bool,
}

impl Numbering {
    /// Returns the numbers of the objects that an image needs, in ascending order, each once.
    fn of(&mut self, named: Vec<ObjectId>, objects: &Objects) -> Result<Vec<u32>> {
        let mut all = Vec::with_capacity(named.len());
        let (last, numbers) = std::mem::take(&mut self.last);
        let mut alike = Alike::new(&last);
        let mut alone = vec![None; named.len()];
        for (id, alone) in named.iter().zip(&mut alone) {
            if let Some(number) = alike.find(id).and_then(|place| numbers[place]) {
                *alone = Some(number);
                all.push(number);
                continue;
            }
            if let Some(known) = self.lists.get(id) {
                all.extend(known);
                continue;
            }
            if let Some(known) = self.numbers.get(id).filter(|known| known.is_alone) {
                *alone = Some(known.number);
                all.push(known.number);
                continue;
            }
            let (there, _) = with_chunks(id, objects, |_| false)?;
            if there == [*id] {
                let known = self.entry(*id);
                known.is_alone = true;
                *alone = Some(known.number);
                all.push(known.number);
                continue;
            }
            let numbers: Vec<u32> = there.into_iter().map(|id| self.entry(id).number).collect();
            all.extend(&numbers);
            if !numbers.is_empty() {
                self.lists.insert(*id, numbers);
            }
        }
        // Stable, because that is faster for runs in ascending order: images name most objects in the same order.
        all.sort();
        all.dedup();
        self.last = (named, alone);
        Ok(all)
    }

    fn entry(&mut self, id: ObjectId) -> &mut Number {
        let number = self.numbers.len() as u32;
        self.numbers.entry(id).or_insert(Number { number, is_alone: false })
    }
}

fn growth(images: &[Image], needs: &[Vec<u32>], sizes: &[Size]) -> Vec<Growth> {
    let mut order: Vec<usize> = (0..images.len()).collect();
    order.sort_by_key(|i| images[*i].provenance.time);
    let mut seen = vec![false; sizes.len()];
    let (mut data_bytes, mut stored_bytes) = (0u64, 0u64);
    let step = |i: usize| {
        let image = &images[i];
        for number in &needs[i] {
            if !std::mem::replace(&mut seen[*number as usize], true) {
                stored_bytes = stored_bytes.saturating_add(sizes[*number as usize].stored);
            }
        }
        let data = image.counts.content_bytes.saturating_add(image.counts.residue_bytes);
        data_bytes = data_bytes.saturating_add(data);
        Growth { time: image.provenance.time, image: image.id(), data_bytes, stored_bytes }
    };
    order.into_iter().map(step).collect()
}

/// The lengths of an object in bytes.
#[derive(Clone, Copy, Default)]
struct Size {
    /// The uncompressed length; zero for a list, because its bytes belong to its chunks.
    len: u64,
    stored: u64,
}

fn sizes(numbers: &HashMap<ObjectId, Number>, index: &Index) -> Vec<Size> {
    let mut sizes = vec![Size::default(); numbers.len()];
    for (id, Number { number, .. }) in numbers {
        if let Some(location) = index.get(id) {
            let list = location.encoding.is_list();
            sizes[*number as usize] =
                Size { len: if list { 0 } else { location.len }, stored: location.stored_len };
        }
    }
    sizes
}

fn share(image: &Image, needs: &[u32], sizes: &[Size], users: &[u32]) -> ImageShare {
    let stored = |alone: bool| {
        let picked = needs.iter().filter(|n| (users[**n as usize] == 1) == alone);
        total(picked.map(|n| sizes[*n as usize].stored))
    };
    ImageShare {
        image: image.id(),
        data_bytes: image.counts.content_bytes.saturating_add(image.counts.residue_bytes),
        own_bytes: stored(true),
        shared_bytes: stored(false),
    }
}

fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

fn file_bytes(store: &Store, images: &[Image]) -> Result<FileBytes> {
    let storage = store.storage();
    let mut bytes = FileBytes::default();
    // Files removed meanwhile count as empty.
    let sum = |keys: &[String]| {
        let mut sum = 0u64;
        for (key, len) in keys.iter().zip(storage.lens(keys)) {
            sum = sum.saturating_add(match len {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
                len => len.map_err(|e| storage.error(key, &e))?,
            });
        }
        Ok::<_, Error>(sum)
    };
    let ids = PackIndex::ids(&**storage)?;
    bytes.packs = sum(&ids.iter().map(pack_key).collect::<Vec<_>>())?;
    bytes.indexes = sum(&ids.iter().map(index_key).collect::<Vec<_>>())?;
    let mut files = Vec::new();
    for image in images {
        let folder = Image::folder(&image.name, image.version);
        let names = storage.list(&folder).map_err(|e| storage.error(&folder, &e))?;
        let ours = names.iter().filter(|file| IMAGE_FILES.contains(&file.as_str()));
        files.extend(ours.map(|file| format!("{folder}/{file}")));
    }
    bytes.images = sum(&files)?;
    Ok(bytes)
}

fn compare(images: &[Image], needs: &[Vec<u32>], sizes: &[Size]) -> Similarity {
    let newest = |i: &usize| images.get(i + 1).is_none_or(|next| next.name != images[*i].name);
    let picked: Vec<usize> = (0..images.len()).filter(newest).collect();
    let of = |needs: &[u32]| total(needs.iter().map(|n| sizes[*n as usize].len));
    let totals: Vec<u64> = picked.iter().map(|i| of(&needs[*i])).collect();
    let mut matrix = vec![vec![1.0; picked.len()]; picked.len()];
    for a in 0..picked.len() {
        for b in a + 1..picked.len() {
            let common = common(&needs[picked[a]], &needs[picked[b]], sizes);
            let either = totals[a].saturating_add(totals[b]) - common;
            let share = if either == 0 { 1.0 } else { common as f64 / either as f64 };
            matrix[a][b] = share;
            matrix[b][a] = share;
        }
    }
    Similarity { images: picked.iter().map(|i| images[*i].id()).collect(), matrix }
}

/// Returns the bytes of the objects that are in both of two sorted lists.
fn common(a: &[u32], b: &[u32], sizes: &[Size]) -> u64 {
    let (mut i, mut j, mut bytes) = (0, 0, 0u64);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        if x == y {
            bytes = bytes.saturating_add(sizes[*x as usize].len);
        }
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    bytes
}
