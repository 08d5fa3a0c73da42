//! Where a store behind a network is: a prefix in a bucket of a service, or a repository of a registry.

use std::fmt;

/// The kind of object store that has a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Amazon S3, or a service with the same interface: `s3://`.
    S3,
    /// Google Cloud Storage: `gs://`.
    Google,
    /// Azure Blob Storage: `az://`.
    Azure,
}

impl Service {
    /// Each with the scheme of its URLs.
    pub(super) const ALL: [(Service, &'static str); 3] =
        [(Service::S3, "s3"), (Service::Google, "gs"), (Service::Azure, "az")];
}

/// A prefix in a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketPlace {
    /// The service.
    pub service: Service,
    /// The bucket, or Azure's container.
    pub bucket: String,
    /// The prefix of all keys, without a slash at either end; may be empty.
    pub prefix: String,
}

impl fmt::Display for BucketPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = Service::ALL.iter().find(|(service, _)| *service == self.service);
        write!(f, "{}://{}", scheme.map_or("", |(_, scheme)| scheme), self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

/// A repository of an OCI registry, or one image in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryPlace {
    /// The host, with a port if that is not the usual one.
    pub host: String,
    /// The repository: names with slashes between them.
    pub repository: String,
    /// The image in it: a tag, or a digest as `sha256:…`. Without it, all images of the repository.
    pub reference: Option<String>,
}

impl RegistryPlace {
    /// Parses what follows `oci://`: `host[:port]/repository[:tag]` or `host[:port]/repository@sha256:…`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, rest) = text.split_once('/')?;
        let (repository, reference) = match (rest.split_once('@'), rest.split_once(':')) {
            (Some((repository, digest)), _) => (repository, Some(digest).filter(|digest| is_digest(digest))?),
            (None, Some((repository, tag))) => (repository, Some(tag).filter(|tag| is_tag(tag))?),
            (None, None) => (rest, ""),
        };
        let is_host_char = |b: u8| b.is_ascii_alphanumeric() || b".-:[]".contains(&b);
        let is_name_char = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        let is_name = |name: &str| {
            name.bytes().all(is_name_char)
                && name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        };
        let is_good = host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
            && host.bytes().all(is_host_char)
            && repository.len() <= 255
            && repository.split('/').all(is_name);
        let (host, repository) = (host.to_owned(), repository.to_owned());
        let reference = Some(reference.to_owned()).filter(|reference| !reference.is_empty());
        is_good.then_some(RegistryPlace { host, repository, reference })
    }

    /// Returns true if the reference is a digest.
    #[must_use]
    pub fn is_digest(&self) -> bool {
        self.reference.as_deref().is_some_and(is_digest)
    }
}

/// Returns true if this may be the tag of an image in a registry.
pub(super) fn is_tag(text: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Returns true if this is the digest of something in a registry. Others than SHA-256 are not read.
pub(super) fn is_digest(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:");
    hex.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

impl fmt::Display for RegistryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci://{}/{}", self.host, self.repository)?;
        match &self.reference {
            Some(reference) => write!(f, "{}{reference}", if is_digest(reference) { '@' } else { ':' }),
            None => Ok(()),
        }
    }
}

/// How a disk is put into a registry for KubeVirt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskForm {
    /// A container image with the disk in `/disk`.
    Container,
    /// An artifact whose only layer is the qcow2 file, as KubeVirt exports disks (kubevirt/enhancements#257).
    Artifact,
}
