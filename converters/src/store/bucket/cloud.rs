//! Buckets of S3, Google Cloud Storage and Azure, through the crate `object_store`.
//!
//! Credentials, region and endpoint come from the environment, by the variables of the services' own tools. Requests
//! that fail for reasons that may pass are repeated, at random and growing intervals.

use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientConfigKey, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload, RetryConfig, UpdateVersion, WriteMultipart,
};
use tokio::runtime::Runtime;

use super::Bucket;
use super::blobs::{Blob, Blobs, Condition, Head, Listed, Listing, Tag, put_absent};
use super::contact::Connector;
use crate::error::{Error, Result};
use crate::store::address::{BucketPlace, Service};
use crate::store::requests::{self, Redact};
use crate::store::storage::check_limit;
use crate::store::{Storage, Upload};

/// The size in bytes of the parts in which large objects are uploaded.
const PART: usize = 8 << 20;

/// The number of parts that are uploaded at a time.
const PARALLEL: usize = 4;

/// The longest time that a request may take: a part over a slow line.
const TIMEOUT: &str = "120s";

/// How often a reply that was cut is read again.
const READS: u32 = 5;

/// Opens the store in a bucket.
pub(in crate::store) fn open(place: &BucketPlace) -> Result<Arc<dyn Storage>> {
    // First: it also sets up encryption.
    let runtime = requests::runtime()?;
    let redact = requests::redact();
    let failed = |e: &object_store::Error| Error::input(format!("{place}: {}", redact.clean(&e.to_string())));
    check_endpoint(place, &|name| std::env::var(name).ok())?;
    // Failures of about half a minute are survived, such as those of a server that another one replaces. The crate draws
    // each wait at random, from the first to `base` times the last: with its own base of 2, eight tries take two seconds.
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(200),
        max_backoff: Duration::from_secs(5),
        base: 4.0,
    };
    let retry = RetryConfig { backoff, max_retries: 16, retry_timeout: Duration::from_secs(100) };
    let store: Arc<dyn ObjectStore> = match place.service {
        Service::S3 => {
            let builder = AmazonS3Builder::from_env().with_bucket_name(&place.bucket).with_retry(retry);
            let builder = builder.with_http_connector(Connector::default());
            let builder = builder.with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), TIMEOUT);
            Arc::new(builder.build().map_err(|e| failed(&e))?)
        }
        Service::Google => {
            let builder =
                GoogleCloudStorageBuilder::from_env().with_bucket_name(&place.bucket).with_retry(retry);
            let builder = builder.with_http_connector(Connector::default());
            let builder = builder.with_config(GoogleConfigKey::Client(ClientConfigKey::Timeout), TIMEOUT);
            Arc::new(builder.build().map_err(|e| failed(&e))?)
        }
        Service::Azure => {
            let builder =
                MicrosoftAzureBuilder::from_env().with_container_name(&place.bucket).with_retry(retry);
            let builder = builder.with_http_connector(Connector::default());
            let builder = builder.with_config(AzureConfigKey::Client(ClientConfigKey::Timeout), TIMEOUT);
            Arc::new(builder.build().map_err(|e| failed(&e))?)
        }
    };
    let at: Vec<String> =
        requests::variables().filter(|(name, _)| is_of_place(name)).map(|(_, value)| value).collect();
    let cloud = Cloud {
        store,
        runtime,
        prefix: place.prefix.clone(),
        place: place.to_string(),
        identity: format!("{place} {}", at.join(" ")),
        redact: Arc::new(redact),
    };
    Ok(Arc::new(Bucket::cached(Arc::new(cloud), true, requests::cache()?)))
}

/// Returns true if a variable says where a bucket is: names of buckets are the same in other services and accounts.
fn is_of_place(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    name.starts_with("AWS_ENDPOINT")
        || name == "AZURE_STORAGE_ACCOUNT_NAME"
        || name.contains("STORAGE_ENDPOINT")
}

/// Fails if requests would be sent without encryption although nobody said so.
fn check_endpoint(place: &BucketPlace, variable: &dyn Fn(&str) -> Option<String>) -> Result<()> {
    let endpoint =
        ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"].iter().find_map(|name| variable(name));
    let is_plain = endpoint.is_some_and(|url| url.to_ascii_lowercase().starts_with("http://"));
    let is_allowed = variable("AWS_ALLOW_HTTP").is_some_and(|value| requests::is_yes(&value));
    if place.service == Service::S3 && is_plain && !is_allowed {
        return Err(Error::usage(format!("{place}: the endpoint is http, which is not encrypted"))
            .advise("Use an https endpoint, or set AWS_ALLOW_HTTP=true"));
    }
    Ok(())
}

/// A prefix in a bucket.
#[derive(Clone)]
struct Cloud {
    store: Arc<dyn ObjectStore>,
    runtime: &'static Runtime,
    prefix: String,
    place: String,
    identity: String,
    redact: Arc<Redact>,
}

impl Cloud {
    fn path(&self, key: &str) -> io::Result<Path> {
        let whole = match (self.prefix.as_str(), key) {
            (prefix, "") => prefix.to_owned(),
            ("", key) => key.to_owned(),
            (prefix, key) => format!("{prefix}/{key}"),
        };
        Path::parse(whole).map_err(|e| io::Error::new(ErrorKind::InvalidInput, e.to_string()))
    }

    /// Returns the key of an object in a list, unless it is the directory itself, which some tools create as an object.
    fn key(&self, path: &Path) -> Option<String> {
        let path = path.as_ref();
        let key = match self.prefix.as_str() {
            "" => path,
            prefix => path.strip_prefix(prefix)?.strip_prefix('/')?,
        };
        (!key.is_empty()).then(|| key.to_owned())
    }

    fn error(&self, error: &object_store::Error) -> io::Error {
        use object_store::Error::{
            AlreadyExists, NotFound, NotImplemented, NotSupported, PermissionDenied, Unauthenticated,
        };
        if let object_store::Error::InvalidPath { source } = error {
            let text = format!(
                "the bucket has an object with a name that no store has, below the store's prefix; delete it ({})",
                self.redact.clean(&source.to_string())
            );
            return io::Error::new(ErrorKind::InvalidInput, text);
        }
        let kind = match error {
            NotFound { .. } => return io::Error::new(ErrorKind::NotFound, "no such object"),
            AlreadyExists { .. } => ErrorKind::AlreadyExists,
            PermissionDenied { .. } | Unauthenticated { .. } => ErrorKind::PermissionDenied,
            NotSupported { .. } | NotImplemented { .. } => ErrorKind::Unsupported,
            _ => ErrorKind::Other,
        };
        let mut text = error.to_string();
        // The reason is the last of its causes, which the text leaves out.
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let reason = cause.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        let text = self.redact.clean(&text);
        // `Generic S3 error: ` says nothing.
        let told = text.strip_prefix("Generic ").and_then(|text| Some(text.split_once(" error: ")?.1));
        io::Error::new(kind, told.unwrap_or(&text))
    }

    /// Repeats a read whose reply was cut. The crate repeats requests, and not all reads of replies.
    fn again<T>(&self, read: impl Fn() -> io::Result<T>) -> io::Result<T> {
        for number in 0..READS {
            match read() {
                Err(e) if e.kind() == ErrorKind::Other && e.to_string().contains("body") => {
                    std::thread::sleep(Duration::from_millis(50 << number));
                }
                done => return done,
            }
        }
        read()
    }

    fn get_with(&self, key: &str, options: &GetOptions, most: u64) -> io::Result<Option<Blob>> {
        self.again(|| self.get_once(key, options.clone(), most))
    }

    fn get_once(&self, key: &str, options: GetOptions, most: u64) -> io::Result<Option<Blob>> {
        let path = self.path(key)?;
        self.runtime.block_on(async {
            let found = match self.store.get_opts(&path, options).await {
                Err(object_store::Error::NotModified { .. }) => return Ok(None),
                found => found.map_err(|e| self.error(&e))?,
            };
            let len = found.range.end.saturating_sub(found.range.start);
            check_limit(len, most)?;
            let tag = tag(found.meta.e_tag.clone(), found.meta.version.clone());
            let bytes = found.bytes().await.map_err(|e| self.error(&e))?;
            if bytes.len() as u64 != len {
                return Err(io::Error::other(format!("the body has {} bytes instead of {len}", bytes.len())));
            }
            Ok(Some(Blob { bytes: bytes.into(), tag }))
        })
    }

    /// Returns an object of a list, unless it is a mark for a directory: an empty object whose key ends with a slash, which
    /// consoles and other tools make. The crate cuts the slash off. Of our objects, only a list of packs can be empty.
    fn listed(&self, meta: &ObjectMeta) -> Option<Listed> {
        if meta.size == 0 && meta.location.filename() != Some("packs") {
            return None;
        }
        let modified = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0);
        Some(Listed { key: self.key(&meta.location)?, len: meta.size, modified })
    }
}

fn tag(etag: Option<String>, version: Option<String>) -> Tag {
    Tag { etag, version }
}

impl Blobs for Cloud {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn get(&self, key: &str, range: Option<Range<u64>>, most: u64) -> io::Result<Blob> {
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok(Blob { bytes: Vec::new(), tag: Tag::default() });
        }
        let start = range.as_ref().map(|range| range.start);
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let found = match self.get_with(key, &options, most) {
            // Services refuse a range past the end in different ways.
            Err(e)
                if e.kind() == ErrorKind::Other
                    && let Some(start) = start
                    && start > 0 =>
            {
                match self.head(key) {
                    Ok(head) if start >= head.len => {
                        return Ok(Blob { bytes: Vec::new(), tag: head.tag });
                    }
                    _ => return Err(e),
                }
            }
            found => found?,
        };
        found.ok_or_else(|| io::Error::other("the object store answered a condition that was not there"))
    }

    fn get_unless(&self, key: &str, known: &Tag, most: u64) -> io::Result<Option<Blob>> {
        let options = GetOptions { if_none_match: known.etag.clone(), ..GetOptions::default() };
        self.get_with(key, &options, most)
    }

    fn head(&self, key: &str) -> io::Result<Head> {
        let path = self.path(key)?;
        let meta = self.runtime.block_on(self.store.head(&path)).map_err(|e| self.error(&e))?;
        let modified = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0);
        Ok(Head { len: meta.size, tag: tag(meta.e_tag, meta.version), modified })
    }

    fn put(&self, key: &str, bytes: &[u8], condition: Condition<'_>) -> io::Result<Option<Tag>> {
        let mode = match condition {
            Condition::Always if bytes.len() > 2 * PART => {
                let mut upload = CloudUpload::new(self.clone(), key)?;
                upload.write_all(bytes)?;
                return upload.complete().map(|_| Some(Tag::default()));
            }
            Condition::Always => PutMode::Overwrite,
            Condition::Absent => PutMode::Create,
            Condition::Unchanged(tag) => {
                PutMode::Update(UpdateVersion { e_tag: tag.etag.clone(), version: tag.version.clone() })
            }
        };
        let (path, payload) = (self.path(key)?, PutPayload::from(bytes.to_vec()));
        let options = PutOptions { mode, ..PutOptions::default() };
        match self.runtime.block_on(self.store.put_opts(&path, payload, options)) {
            Ok(put) => Ok(Some(tag(put.e_tag, put.version))),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(None)
            }
            Err(object_store::Error::NotFound { .. }) => {
                Err(io::Error::new(ErrorKind::NotFound, "no such bucket"))
            }
            Err(e) => Err(self.error(&e)),
        }
    }

    fn list(&self, folder: &str, deep: bool) -> io::Result<Listing> {
        let path = self.path(folder)?;
        let (objects, folders) = self.again(|| {
            let found = self.runtime.block_on(async {
                match deep {
                    true => {
                        let objects: Vec<ObjectMeta> = self.store.list(Some(&path)).try_collect().await?;
                        Ok((objects, Vec::new()))
                    }
                    false => {
                        let found = self.store.list_with_delimiter(Some(&path)).await?;
                        Ok((found.objects, found.common_prefixes))
                    }
                }
            });
            found.map_err(|e: object_store::Error| self.error(&e))
        })?;
        let is_in = |key: &str| key != folder;
        let objects = objects.iter().filter_map(|meta| self.listed(meta)).filter(|o| is_in(&o.key)).collect();
        let folders = folders.iter().filter_map(|path| self.key(path)).collect();
        Ok(Listing { objects, folders })
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        let path = self.path(key)?;
        match self.runtime.block_on(self.store.delete(&path)) {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            deleted => deleted.map_err(|e| self.error(&e)),
        }
    }

    fn upload(&self, key: &str) -> io::Result<Box<dyn Upload>> {
        Ok(Box::new(CloudUpload::new(self.clone(), key)?))
    }
}

/// An object that is being uploaded: small ones at once, others in parts.
struct CloudUpload {
    to: Cloud,
    key: String,
    path: Path,
    /// The beginning, until it is too long for one put.
    start: Vec<u8>,
    parts: Option<WriteMultipart>,
    len: u64,
}

impl CloudUpload {
    fn new(to: Cloud, key: &str) -> io::Result<Self> {
        let path = to.path(key)?;
        Ok(CloudUpload { to, key: key.to_owned(), path, start: Vec::new(), parts: None, len: 0 })
    }

    fn complete(mut self) -> io::Result<bool> {
        let Some(parts) = self.parts.take() else {
            return Ok(put_absent(&self.to, &self.key, &self.start)?.is_some());
        };
        match self.to.runtime.block_on(parts.finish()) {
            Ok(_) => Ok(true),
            // If the reply was lost, the upload does not exist any more when it is completed again.
            Err(e) => match self.to.head(&self.key) {
                Ok(head) if head.len == self.len => Ok(true),
                _ => Err(self.to.error(&e)),
            },
        }
    }
}

impl Write for CloudUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _context = self.to.runtime.enter();
        self.len += bytes.len() as u64;
        if let Some(parts) = &mut self.parts {
            let ready = self.to.runtime.block_on(parts.wait_for_capacity(PARALLEL));
            ready.map_err(|e| self.to.error(&e))?;
            parts.write(bytes);
            return Ok(bytes.len());
        }
        self.start.extend_from_slice(bytes);
        if self.start.len() >= PART {
            let upload = self.to.runtime.block_on(self.to.store.put_multipart(&self.path));
            let upload = upload.map_err(|e| self.to.error(&e))?;
            let mut parts = WriteMultipart::new_with_chunk_size(upload, PART);
            parts.write(&std::mem::take(&mut self.start));
            self.parts = Some(parts);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for CloudUpload {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take() {
            // What remains of it is deleted by the bucket's rule for unfinished uploads.
            let _ = self.to.runtime.block_on(parts.abort());
        }
    }
}

impl Upload for CloudUpload {
    fn finish(self: Box<Self>) -> io::Result<bool> {
        self.complete()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_encrypted_unless_the_user_says_otherwise() {
        let place = BucketPlace { service: Service::S3, bucket: "b".into(), prefix: String::new() };
        let check = |endpoint: &str, allowed: &str| {
            let variables = [("AWS_ENDPOINT_URL", endpoint), ("AWS_ALLOW_HTTP", allowed)];
            let get = |name: &str| Some(variables.iter().find(|(known, _)| *known == name)?.1.to_owned());
            check_endpoint(&place, &get).is_ok()
        };
        assert!(check("https://s3.example", "") && check("http://localhost:1", "true"));
        assert!(!check("http://localhost:1", "") && !check("HTTP://localhost:1", "false"));
    }
}
