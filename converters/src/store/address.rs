//! Where a bucket is: the service, the bucket, and a prefix in it.

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
