//! The images of a store: their names, versions and records.

use std::collections::{BTreeMap, BTreeSet};

use mif_formats::mif::PackId;
use mif_formats::mif::layout::Layout;

use super::record::{DamagedImage, Image, ImageName, Selector};
use super::storage::number;
use super::stored_image::StoredImage;
use super::{PACKS, Store, pack_list, trash};
use crate::error::{Error, Result, damaged};

impl Store {
    /// Returns the names of all images.
    pub fn names(&self) -> Result<Vec<String>> {
        self.names_in("images")
    }

    /// Returns the names of images that have removed versions.
    pub fn removed_names(&self) -> Result<Vec<String>> {
        self.names_in("removed")
    }

    pub(super) fn names_in(&self, place: &str) -> Result<Vec<String>> {
        let folders = self.list(place)?;
        let names = folders.iter().filter_map(|f| f.strip_prefix("name="));
        Ok(names.filter(|name| ImageName::is_valid(name)).map(str::to_owned).collect())
    }

    /// Returns the versions of an image in ascending order.
    pub fn versions(&self, name: &str) -> Result<Vec<u32>> {
        let mut versions = self.versions_in("images", name)?;
        if !versions.is_empty() {
            // The directory of a removed version may remain: `rm` was killed, or the directory contains foreign files.
            let removed = self.versions_in("removed", name)?;
            versions.retain(|version| !removed.contains(version));
        }
        Ok(versions)
    }

    pub(super) fn versions_in(&self, place: &str, name: &str) -> Result<Vec<u32>> {
        let folders = self.list(&format!("{place}/name={name}"))?;
        // This program never writes `version=01`, but it may exist beside `version=1`.
        let version = |folder: &String| number(folder.strip_prefix("version=")?);
        let mut versions: Vec<u32> = folders.iter().filter_map(version).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    pub(super) fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.storage.list(folder).map_err(|e| self.storage.error(folder, &e))
    }

    /// Returns all images whose records can be read, ordered by name and version, and those whose records cannot be
    /// read.
    pub fn images(&self) -> Result<(Vec<Image>, Vec<DamagedImage>)> {
        let (mut images, mut damaged) = (Vec::new(), Vec::new());
        for name in self.names()? {
            for version in self.versions(&name)? {
                match self.version(&name, version) {
                    Ok(stored) => images.push(stored.image),
                    Err(e) => damaged.push(DamagedImage::new(&name, version, &e)),
                }
            }
        }
        Ok((images, damaged))
    }

    /// Looks up an image by name and, optionally, version or tag.
    pub fn image(&self, name: &ImageName) -> Result<StoredImage> {
        let versions = self.versions(&name.name)?;
        let found = match &name.version {
            Selector::Number(version) => versions.contains(version).then_some(*version),
            Selector::Newest => versions.last().copied(),
            Selector::Tag(tag) => self.tagged(&name.name, tag)?.filter(|version| versions.contains(version)),
        };
        let Some(version) = found else {
            let is_tag = matches!(name.version, Selector::Tag(_));
            let advice = match versions.last() {
                Some(newest) if is_tag => {
                    let tags = self.tags(&name.name).unwrap_or_default();
                    let tags: Vec<String> = tags.into_iter().map(|tag| tag.tag).collect();
                    match &tags[..] {
                        [] => format!("It has no tags; its newest version is {newest}"),
                        [only] => format!("Its only tag is {only}"),
                        all => format!("Its tags are {}", all.join(", ")),
                    }
                }
                Some(newest) => format!("Its newest version is {newest}"),
                None => match &self.similar_names(&name.name)?[..] {
                    [] => "`mif images` lists the images".to_owned(),
                    similar => {
                        format!("Did you mean {}? `mif images` lists the images", similar.join(" or "))
                    }
                },
            };
            let place = self.storage.place();
            return Err(Error::input(format!("{name}: no such image in the store {place}")).advise(advice));
        };
        self.version(&name.name, version)
    }

    /// Returns the names of images that look like a name, the most similar first.
    fn similar_names(&self, name: &str) -> Result<Vec<String>> {
        const MOST: usize = 3;
        let names = self.names()?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Ok(similar::get_close_matches(name, &names, MOST, 0.6).into_iter().map(str::to_owned).collect())
    }

    /// Reads the record of a version of an image.
    pub fn version(&self, name: &str, version: u32) -> Result<StoredImage> {
        let key = format!("{}/image.json", Image::folder(name, version));
        self.read_record(&key, name, version).or_else(|e| {
            match trash::folder_of(&*self.storage, name, version) {
                // It was removed after the caller saw it.
                Ok(Some(folder)) => self.read_record(&format!("{folder}/image.json"), name, version),
                _ => Err(e),
            }
        })
    }

    pub(super) fn read_record(&self, key: &str, name: &str, version: u32) -> Result<StoredImage> {
        let place = || format!("{}/{key}", self.storage.place());
        let advise = |e: Error| e.advise("Run `mif fsck` to check the store and learn how to repair it");
        let json = self.storage.read_all(key).map_err(|e| advise(self.storage.error(key, &e)))?;
        let image: Image = serde_json::from_slice(&json)
            .map_err(|e| advise(Error::store(format!("{}: is not an image record: {e}", place()))))?;
        if (image.name.as_str(), image.version) != (name, version) {
            return Err(advise(Error::store(format!(
                "{}: is the record of another image, {}",
                place(),
                image.id()
            ))));
        }
        if let Some(feature) = image.unknown_feature() {
            return Err(Error::unsupported(format!("{}: needs the feature \"{feature}\"", image.id()))
                .advise("Use a newer version of mif")
                .unjudged());
        }
        if let Some(problem) = image.problem() {
            return Err(advise(Error::store(format!("{}: is not an image record: {problem}", place()))));
        }
        Ok(self.stored(image))
    }

    /// Returns an image with this record, whether or not the store contains the record.
    pub(crate) fn stored(&self, image: Image) -> StoredImage {
        let folder = Image::folder(&image.name, image.version);
        StoredImage { image, folder, storage: self.storage.clone() }
    }

    /// Returns a version whose record cannot be read, reconstructed from its layout and manifest. The digests are
    /// computed from these files. Fails if the layout is missing or damaged; a missing manifest counts as empty.
    pub(crate) fn without_record(&self, name: &str, version: u32) -> Result<StoredImage> {
        let mut stored = self.stored(Image::empty(name, version, "unknown"));
        let (layout, digest) =
            Layout::decode(&stored.read("layout")?).map_err(|e| damaged(&stored.image.id(), &e))?;
        stored.image.disk_size = layout.disk_size();
        stored.image.layout_digest = blake3::Hash::from_bytes(digest).to_hex().to_string();
        let manifest = stored.read("manifest.parquet").unwrap_or_default();
        stored.image.manifest_digest = blake3::hash(&manifest).to_hex().to_string();
        Ok(stored)
    }

    /// Returns the version number after all that exist or ever existed.
    fn next_version(&self, name: &str) -> Result<u32> {
        let mut newest = 0;
        for place in ["images", "published", "removed"] {
            newest = newest.max(self.versions_in(place, name)?.last().copied().unwrap_or(0));
        }
        newest.checked_add(1).ok_or_else(|| {
            Error::store(format!("{name}: version {newest} is the highest version number possible"))
                .advise("Import under another name")
        })
    }

    /// Publishes an image under its name as the next version, and returns the record as published. `more` are files
    /// derived from the manifest, which are stored beside it.
    pub fn publish(
        &self,
        mut image: Image,
        manifest: &[u8],
        layout: &[u8],
        more: &[(&str, &[u8])],
    ) -> Result<Image> {
        let mut tried = 0;
        loop {
            // A list may not show yet what another process publishes, so no version is tried twice.
            image.version = self.next_version(&image.name)?.max(tried + 1);
            tried = image.version;
            image.tables = tables_of(more);
            image.provenance.time = self.storage.now();
            let json = image.to_json();
            let packs = self.packs_of_layout(layout).unwrap_or_default();
            if self.publish_version(&image, &json, manifest, layout, more, &packs)? {
                self.note_published(&image, &json)?;
                return Ok(image);
            }
            // Another process has published this version first: try the next one.
        }
    }

    /// Publishes an image of another store under its name and version. `packs` are the packs that contain the objects it
    /// needs. Returns false if that version already exists.
    pub(crate) fn receive(
        &self,
        image: &Image,
        manifest: &[u8],
        layout: &[u8],
        more: &[(&str, &[u8])],
        packs: &BTreeSet<PackId>,
    ) -> Result<bool> {
        let json = image.to_json();
        let published = self.publish_version(image, &json, manifest, layout, more, packs)?;
        if published {
            self.note_published(image, &json)?;
        }
        Ok(published)
    }

    /// Publishes an image as the version that its record names. Returns false if that version already exists.
    pub(crate) fn publish_version(
        &self,
        image: &Image,
        json: &[u8],
        manifest: &[u8],
        layout: &[u8],
        more: &[(&str, &[u8])],
        packs: &BTreeSet<PackId>,
    ) -> Result<bool> {
        let packs = pack_list::encode(packs);
        let mut files = more.to_vec();
        files.extend([("manifest.parquet", manifest), ("layout", layout), ("image.json", json)]);
        files.push((PACKS, packs.as_bytes()));
        let folder = Image::folder(&image.name, image.version);
        self.storage.publish(&folder, &files).map_err(|e| self.storage.error(&folder, &e))
    }

    /// Returns the packs that contain the objects of a layout.
    pub(crate) fn packs_of_layout(&self, layout: &[u8]) -> Result<BTreeSet<PackId>> {
        let (layout, _) = Layout::decode(layout)?;
        let (index, objects) = (self.index()?, self.objects()?);
        let mut packs = BTreeSet::new();
        for id in layout.objects() {
            let Some(location) = index.get(id) else { continue };
            packs.insert(index.pack(&location));
            if location.encoding.is_list() {
                let chunks = objects.chunks(id)?;
                packs.extend(chunks.iter().filter_map(|chunk| index.get(chunk)).map(|at| index.pack(&at)));
            }
        }
        Ok(packs)
    }
}

/// Returns the digests of files derived from a manifest.
pub(crate) fn tables_of(files: &[(&str, &[u8])]) -> BTreeMap<String, String> {
    files.iter().map(|(file, bytes)| ((*file).to_owned(), blake3::hash(bytes).to_hex().to_string())).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use mif_formats::mif::ObjectId;
    use mif_formats::mif::layout::Builder;

    use super::*;

    /// Publishes an all-zero disk.
    pub(in crate::store) fn publish_empty(store: &Store, name: &str) -> Image {
        publish(store, name, &[])
    }

    /// Publishes a disk that consists of residue objects with these lengths, followed by zeros.
    pub(in crate::store) fn publish(store: &Store, name: &str, residue: &[(ObjectId, u64)]) -> Image {
        let mut builder = Builder::new();
        for (id, len) in residue {
            builder.residue(*len, *id, 0);
        }
        builder.zero((1 << 20) - residue.iter().map(|(_, len)| len).sum::<u64>());
        let (layout, digest) = builder.finish().encode();
        let mut manifest = Vec::new();
        mif_formats::mif::manifest::write(&mut manifest, &[]).unwrap();
        let image = Image {
            disk_size: 1 << 20,
            layout_digest: blake3::Hash::from_bytes(digest).to_hex().to_string(),
            manifest_digest: blake3::hash(&manifest).to_hex().to_string(),
            ..Image::empty(name, 0, "import")
        };
        let packages = mif_formats::mif::packages::write(&[]).unwrap();
        let digests = mif_formats::mif::digests::encode(&[]);
        let more = [("digests", &digests[..]), ("packages.parquet", &packages)];
        store.publish(image, &manifest, &layout, &more).unwrap()
    }

    #[test]
    fn names_that_could_leave_the_store_are_refused() {
        for bad in
            ["", ".", "..", "a/b", "a\\b", ".hidden", "-x", "a b", "ä", "a@", "a@-1", "a@/", &"x".repeat(200)]
        {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
        }
        let good: ImageName = "web-1.2_x+y@12".parse().unwrap();
        assert_eq!((good.name.as_str(), good.version), ("web-1.2_x+y", Selector::Number(12)));
        let tagged: ImageName = "web@golden-1".parse().unwrap();
        assert_eq!(tagged.version, Selector::Tag("golden-1".into()));
    }

    #[test]
    fn any_text_makes_a_valid_name() {
        for text in ["", "..", "my image (1)", "ü", "-x", &"/".repeat(300)] {
            assert!(ImageName::is_valid(&ImageName::like(text)), "{text:?}");
        }
        assert_eq!(ImageName::like("my image (1)"), "my_image__1_");
    }
}
