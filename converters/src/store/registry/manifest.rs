//! Manifests of a registry: which blobs an image consists of (OCI image specification 1.1, "Image Manifest").

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};

use super::digest::digest_of;
use crate::store::address::is_digest;

/// The longest manifest that is read, in bytes. The specification lets registries refuse longer ones.
pub(super) const MAX_MANIFEST: u64 = 4 << 20;

/// The media type of an image manifest.
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The manifests that are asked for.
pub(super) const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, */*";

/// The artifact type of an image of this program: a store with one image, whose files are the layers.
pub(super) const ARTIFACT: &str = "application/vnd.mif.store.v2";

/// The media types of layers with files of a store, by the ends of their keys.
const FILES: [(&str, &str); 8] = [
    (".pack", "application/vnd.mif.pack.v2"),
    (".idx", "application/vnd.mif.index.v2"),
    ("/image.json", "application/vnd.mif.image.v2+json"),
    ("/layout", "application/vnd.mif.layout.v2"),
    ("/manifest.parquet", "application/vnd.mif.manifest.v2+parquet"),
    ("/packages.parquet", "application/vnd.mif.packages.v2+parquet"),
    ("store.json", "application/vnd.mif.store.v2+json"),
    ("", "application/vnd.mif.file.v2"),
];

/// The media type of an empty configuration, and its content.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
pub(super) const EMPTY_CONTENT: &[u8] = b"{}";

/// The annotation with the name of a file: clients such as `oras pull` write the file under it.
pub(super) const TITLE: &str = "org.opencontainers.image.title";

/// A manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) schema_version: u32,
    #[serde(default)]
    pub(super) media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) artifact_type: Option<String>,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

/// The name of a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    /// `sha256:` and 64 hexadecimal digits.
    pub(super) digest: String,
    /// Length in bytes.
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Describes a blob that is a file of a store.
    pub(super) fn of_file(key: &str, digest: &str, size: u64) -> Self {
        let annotations = BTreeMap::from([(TITLE.to_owned(), key.to_owned())]);
        let media_type = FILES.iter().find(|(end, _)| key.ends_with(end)).map_or("", |(_, kind)| kind);
        Descriptor { media_type: media_type.to_owned(), digest: digest.to_owned(), size, annotations }
    }

    fn empty() -> Self {
        Descriptor {
            media_type: EMPTY.to_owned(),
            digest: digest_of(EMPTY_CONTENT),
            size: EMPTY_CONTENT.len() as u64,
            annotations: BTreeMap::new(),
        }
    }
}

impl Manifest {
    /// Returns the manifest of an image of this program.
    pub(super) fn of_store(layers: Vec<Descriptor>, annotations: BTreeMap<String, String>) -> Self {
        Self::of_artifact(ARTIFACT, layers, annotations)
    }

    /// Returns the manifest of an artifact of this type, whose configuration is empty.
    pub(super) fn of_artifact(
        kind: &str,
        layers: Vec<Descriptor>,
        annotations: BTreeMap<String, String>,
    ) -> Self {
        Manifest {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            artifact_type: Some(kind.to_owned()),
            config: Descriptor::empty(),
            layers,
            annotations,
        }
    }

    /// Parses a manifest. `None` if it is that of something else: another artifact, a container image, or an index.
    pub(super) fn parse_store(bytes: &[u8]) -> io::Result<Option<Self>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Kind {
            #[serde(default)]
            artifact_type: Option<String>,
        }
        let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let Ok(kind) = serde_json::from_slice::<Kind>(bytes) else { return Ok(None) };
        if kind.artifact_type.as_deref() != Some(ARTIFACT) {
            return Ok(None);
        }
        let manifest: Manifest =
            serde_json::from_slice(bytes).map_err(|e| wrong(format!("its manifest: {e}")))?;
        match manifest.layers.iter().find(|layer| !is_digest(&layer.digest)) {
            Some(_) => Err(wrong("its manifest names a layer by something else than SHA-256".to_owned())),
            None => Ok(Some(manifest)),
        }
    }

    /// Returns the files of the store, by their keys.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &Descriptor)> {
        self.layers.iter().filter_map(|layer| Some((layer.annotations.get(TITLE)?.as_str(), layer)))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest is JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_as_it_was_written_and_those_of_others_are_passed_over() {
        let digest = digest_of(b"layout");
        let layers = vec![Descriptor::of_file("images/name=web/version=1/layout", &digest, 6)];
        let annotations = BTreeMap::from([("org.opencontainers.image.version".to_owned(), "1".to_owned())]);
        let manifest = Manifest::of_store(layers, annotations);
        let read = Manifest::parse_store(&manifest.encode()).unwrap().unwrap();
        assert_eq!(read.files().next().unwrap().1, &manifest.layers[0]);
        assert_eq!(read.encode(), manifest.encode());
        for other in ["", "[]", "{}", r#"{"schemaVersion": 2, "manifests": []}"#, r#"{"artifactType": "x"}"#]
        {
            assert!(Manifest::parse_store(other.as_bytes()).unwrap().is_none(), "{other}");
        }
        let text = String::from_utf8(manifest.encode()).unwrap();
        let hostile = [
            text.replace(&digest, "sha256:../../x"),
            text.replace("\"size\":6", "\"size\":-6"),
            text.replace("\"layers\"", "\"others\""),
        ];
        for text in hostile {
            assert!(Manifest::parse_store(text.as_bytes()).is_err(), "{text}");
        }
    }
}
