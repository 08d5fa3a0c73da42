//! Images in a registry that other programs make or take: container images with a disk in them, as KubeVirt has them,
//! and artifacts whose layers are disks.
//!
//! A containerDisk is a container image with one disk in its directory `/disk`, which QEMU's user (107) may read
//! (<https://kubevirt.io/user-guide/storage/disks_and_volumes/#containerdisk>).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::Path;

use serde::Deserialize;

use super::client::Client;
use super::failure;
use super::manifest::{Descriptor, EMPTY_CONTENT, MANIFEST, Manifest, TITLE};
use crate::error::{Error, Result};
use crate::store::address::{DiskForm, RegistryPlace, is_digest};
use crate::task::progress::{self, Progress};

/// The user and the group of QEMU in KubeVirt.
const QEMU: u64 = 107;

/// The media types of a container image's configuration, and of a layer that is not compressed.
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The media type of a qcow2 file in an artifact.
const KUBEVIRT_DISK: &str = "application/vnd.kubevirt.disk.qcow2";

/// An image that another program has put into a registry.
pub struct ForeignImage {
    client: Client,
    place: RegistryPlace,
    layers: Vec<Descriptor>,
}

/// A manifest, or an index of manifests for several kinds of machines, of which only this is needed.
#[derive(Deserialize)]
struct Either {
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<OfMachine>,
}

#[derive(Deserialize)]
struct OfMachine {
    digest: String,
    #[serde(default)]
    platform: Option<Machine>,
}

#[derive(Deserialize)]
struct Machine {
    architecture: String,
}

impl ForeignImage {
    /// Looks at what a tag or digest names. `None` if that is an image of this program, or if the place names no image.
    /// Of several images for different machines, the one for amd64 is meant, or else the first.
    pub fn find(place: &RegistryPlace) -> Result<Option<Self>> {
        let Some(reference) = &place.reference else { return Ok(None) };
        let client = Client::new(place)?;
        let failed = |e: &io::Error| failure(place, None, e);
        let missing = || Error::input(format!("{place}: the registry has no such image"));
        let read = |reference: &str| -> Result<Vec<u8>> {
            client.manifest(reference).map_err(|e| failed(&e))?.ok_or_else(missing)
        };
        let bytes = read(reference)?;
        if Manifest::parse_store(&bytes).map_err(|e| failed(&e))?.is_some() {
            return Ok(None);
        }
        let parse = |bytes: &[u8]| -> Result<Either> {
            serde_json::from_slice(bytes).map_err(|e| Error::input(format!("{place}: its manifest: {e}")))
        };
        let mut found = parse(&bytes)?;
        let is_amd64 = |it: &&OfMachine| it.platform.as_ref().is_some_and(|it| it.architecture == "amd64");
        let chosen = found.manifests.iter().find(is_amd64).or_else(|| found.manifests.first());
        if let Some(OfMachine { digest, .. }) = chosen.filter(|it| is_digest(&it.digest)) {
            found = parse(&read(digest)?)?;
        }
        if found.layers.is_empty() || found.layers.iter().any(|layer| !is_digest(&layer.digest)) {
            return Err(Error::input(format!("{place}: is no image with layers that can be read")));
        }
        Ok(Some(ForeignImage { client, place: place.clone(), layers: found.layers }))
    }

    /// Returns the number of its layers. The last one lies on top.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Returns true if a layer that no format recognises may be a raw disk: others are documents and programs.
    #[must_use]
    pub fn may_be_raw(&self, layer: usize) -> bool {
        let Descriptor { media_type, annotations, .. } = &self.layers[layer];
        let title = annotations.get(TITLE).map(String::as_str).unwrap_or_default();
        let has_suffix =
            |suffix: &&str| title.trim_end_matches(".gz").trim_end_matches(".zst").ends_with(*suffix);
        // An archive has a disk, or is refused.
        media_type.contains("tar")
            || media_type.contains(".disk.raw")
            || [".raw", ".img"].iter().any(has_suffix)
    }

    /// Fetches a layer into a new file, and checks its digest.
    pub fn fetch(&self, layer: usize, path: &Path, progress: &dyn Progress) -> Result<()> {
        let Descriptor { digest, size, .. } = &self.layers[layer];
        progress.stage("fetching", *size);
        let mut file = File::create_new(path).map_err(|e| Error::io(path, &e))?;
        let advance = |bytes: u64| {
            progress.advance(bytes);
            if progress.interrupted() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
        };
        let fetched = self.client.download(digest, *size, &mut file, &advance);
        fetched.map_err(|e| match progress.interrupted() {
            true => progress::interrupted(),
            false => failure(&self.place, Some(&format!("layer {digest}")), &e),
        })
    }
}

/// A disk for a registry.
pub struct ContainerDisk<'a> {
    /// The file, a qcow2.
    pub disk: &'a Path,
    /// Its name in the image.
    pub name: &'a str,
    /// How it is put there.
    pub form: DiskForm,
    /// The machine it is for, as Go names it: `amd64`, `arm64`.
    pub architecture: &'a str,
    /// When it was made, as in RFC 3339.
    pub created: Option<String>,
    /// The title and the version of the image.
    pub title: (&'a str, u32),
}

/// Pushes a disk to the tag that `place` names. Returns the number of bytes that were sent.
pub fn push_container_disk(
    place: &RegistryPlace,
    disk: &ContainerDisk<'_>,
    progress: &dyn Progress,
) -> Result<u64> {
    let client = Client::new(place)?;
    let failed = |e: io::Error| match progress.interrupted() {
        true => progress::interrupted(),
        false => failure(place, None, &e),
    };
    let len = disk.disk.metadata().map_err(|e| Error::io(disk.disk, &e))?.len();
    let (head, tail) = match disk.form {
        DiskForm::Container => around(disk.name, len).map_err(failed)?,
        DiskForm::Artifact => (Vec::new(), Vec::new()),
    };
    let size = head.len() as u64 + len + tail.len() as u64;
    let path = disk.disk.to_owned();
    let open = || -> io::Result<Box<dyn Read + Send>> {
        let (head, tail) = (Cursor::new(head.clone()), Cursor::new(tail.clone()));
        Ok(Box::new(head.chain(File::open(&path)?.take(len)).chain(tail)))
    };
    progress.stage("sending", size);
    let (digest, sent) = client.push_reader(size, &open, &|bytes| progress.advance(bytes)).map_err(failed)?;
    let (title, version) = disk.title;
    let mut annotations = BTreeMap::from([
        (TITLE.to_owned(), title.to_owned()),
        ("org.opencontainers.image.version".to_owned(), version.to_string()),
    ]);
    if let Some(created) = &disk.created {
        annotations.insert("org.opencontainers.image.created".to_owned(), created.clone());
    }
    let mut layer = Descriptor { media_type: LAYER.to_owned(), digest, size, annotations: BTreeMap::new() };
    let manifest = match disk.form {
        DiskForm::Container => {
            let config = configuration(disk, &layer.digest);
            let descriptor = Descriptor {
                media_type: CONFIG.to_owned(),
                digest: client.push_blob(&config.clone().into()).map_err(failed)?,
                size: config.len() as u64,
                annotations: BTreeMap::new(),
            };
            Manifest {
                schema_version: 2,
                media_type: MANIFEST.to_owned(),
                artifact_type: None,
                config: descriptor,
                layers: vec![layer],
                annotations,
            }
        }
        DiskForm::Artifact => {
            client.push_blob(&EMPTY_CONTENT.into()).map_err(failed)?;
            layer.media_type = KUBEVIRT_DISK.to_owned();
            layer.annotations.insert(TITLE.to_owned(), disk.name.to_owned());
            Manifest::of_artifact(KUBEVIRT_DISK, vec![layer], annotations)
        }
    };
    let tag = place.reference.as_deref().unwrap_or("latest");
    client.push_manifest(tag, MANIFEST, &manifest.encode()).map_err(failed)?;
    Ok(sent)
}

/// Returns the configuration of a container image with this layer.
fn configuration(disk: &ContainerDisk<'_>, layer: &str) -> Vec<u8> {
    let mut config = serde_json::json!({
        "architecture": disk.architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer]},
        "history": [{"created_by": "mif push --as kubevirt"}],
    });
    if let Some(created) = &disk.created {
        config["created"] = created.clone().into();
    }
    serde_json::to_vec(&config).expect("a configuration is JSON")
}

/// Returns what comes before and after a disk of `len` bytes in the layer: a tar with the directory `disk` and the disk.
fn around(name: &str, len: u64) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut head = Vec::new();
    let members = [
        ("disk/".to_owned(), tar::EntryType::Directory, 0o555, 0),
        (format!("disk/{name}"), tar::EntryType::Regular, 0o444, len),
    ];
    for (path, kind, mode, size) in members {
        let mut header = tar::Header::new_gnu();
        header.set_path(path)?;
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(QEMU);
        header.set_gid(QEMU);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        head.extend_from_slice(header.as_bytes());
    }
    const BLOCK: u64 = 512;
    let padding = len.next_multiple_of(BLOCK) - len;
    Ok((head, vec![0; usize::try_from(padding + 2 * BLOCK).expect("less than three blocks")]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_is_a_tar_with_the_disk_for_qemu_in_it() {
        for len in [0, 1, 511, 512, 100_000] {
            let (mut bytes, tail) = around("disk.qcow2", len).unwrap();
            bytes.resize(bytes.len() + usize::try_from(len).unwrap(), 7);
            bytes.extend_from_slice(&tail);
            let mut archive = tar::Archive::new(&bytes[..]);
            let entries = archive.entries().unwrap().map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                let path = entry.path().unwrap().display().to_string();
                (path, header.size().unwrap(), header.uid().unwrap(), header.mode().unwrap())
            });
            let expected =
                [("disk/".to_owned(), 0, 107, 0o555), ("disk/disk.qcow2".to_owned(), len, 107, 0o444)];
            assert_eq!(entries.collect::<Vec<_>>(), expected);
        }
    }
}
