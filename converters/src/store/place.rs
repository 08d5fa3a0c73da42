//! The place of a store: a directory, a bucket of an object store, or a repository of a registry. Every name of a store
//! is parsed here.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::address::{BucketPlace, RegistryPlace, Service};
use super::folder::Folder;
use super::storage::Storage;
use crate::error::{Error, Result};

/// The scheme of URLs of registries.
const REGISTRY: &str = "oci";

/// What can be opened as a store: its place, a directory by its path, or any [`Storage`].
pub trait Place {
    /// Returns the storage at this place.
    fn storage(self) -> Result<Arc<dyn Storage>>;
}

impl Place for &Path {
    fn storage(self) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(Folder::new(self)))
    }
}

impl Place for &PathBuf {
    fn storage(self) -> Result<Arc<dyn Storage>> {
        self.as_path().storage()
    }
}

impl Place for Arc<dyn Storage> {
    fn storage(self) -> Result<Arc<dyn Storage>> {
        Ok(self)
    }
}

impl Place for &StorePlace {
    fn storage(self) -> Result<Arc<dyn Storage>> {
        match self {
            StorePlace::Directory(path) => path.storage(),
            #[cfg(feature = "remote")]
            StorePlace::Bucket(bucket) => Ok(super::bucket::cloud::open(bucket)?),
            #[cfg(feature = "remote")]
            StorePlace::Registry(place) => Ok(super::registry::open(place, false)?),
            #[cfg(not(feature = "remote"))]
            StorePlace::Bucket(_) | StorePlace::Registry(_) => Err(without_remote(self)),
        }
    }
}

#[cfg(not(feature = "remote"))]
fn without_remote(place: &StorePlace) -> Error {
    Error::unsupported(format!("{place}: this mif was built without stores behind a network"))
        .advise("Build it with the feature `remote`")
}

/// The place of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorePlace {
    /// A directory.
    Directory(PathBuf),
    /// A prefix in a bucket.
    Bucket(BucketPlace),
    /// Images in a registry.
    Registry(RegistryPlace),
}

impl fmt::Display for StorePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StorePlace::Directory(path) => path.display().fmt(f),
            StorePlace::Bucket(bucket) => bucket.fmt(f),
            StorePlace::Registry(place) => place.fmt(f),
        }
    }
}

impl StorePlace {
    /// Parses the name of a store: a URL such as `s3://bucket/prefix`, or the path of a directory.
    pub fn parse(text: &OsStr) -> Result<Self> {
        let directory = || Ok(StorePlace::Directory(text.into()));
        let Some((scheme, rest)) = text.to_str().and_then(|text| text.split_once("://")) else {
            return directory();
        };
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        {
            return directory();
        }
        if scheme == REGISTRY {
            let place = RegistryPlace::parse(rest).map(StorePlace::Registry);
            // It may contain a password, so it is not repeated.
            return place.ok_or_else(|| {
                Error::usage("oci://: what follows is not the name of an image in a registry").advise(
                    "Write oci://HOST/REPOSITORY, followed by :TAG or @sha256:DIGEST for one image; repositories have \
                     small letters, digits and ._-/",
                )
            });
        }
        let advise = |e: Error| {
            e.advise("Write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or oci://HOST/REPOSITORY")
        };
        let Some((service, _)) = Service::ALL.into_iter().find(|(_, known)| *known == scheme) else {
            return Err(advise(Error::usage(format!("{scheme}://: no such kind of store"))));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        // It may be a password, so it is not repeated.
        if rest.contains(['@', '?', '#']) {
            return Err(Error::usage(format!(
                "{scheme}://: a store's URL has no user, password, parameters or fragment"
            ))
            .advise("Credentials come from the environment, as the services' own tools read them"));
        }
        let is_plain = |text: &str| {
            text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+=~,:".contains(&b))
                && !["", ".", ".."].contains(&text)
        };
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        if !is_plain(bucket) || !prefix.is_empty() && !prefix.split('/').all(is_plain) {
            return Err(advise(Error::usage(format!(
                "{scheme}://{rest}: is not the name of a bucket and a prefix of letters, digits and ._-+=~,:"
            ))));
        }
        let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
        Ok(StorePlace::Bucket(BucketPlace { service, bucket, prefix }))
    }

    /// Returns the storage to which images are copied. A registry takes them only here, and creates a repository for them.
    pub fn storage_to_fill(&self) -> Result<Arc<dyn Storage>> {
        match self {
            #[cfg(feature = "remote")]
            StorePlace::Registry(place) => Ok(super::registry::open(place, true)?),
            place => place.storage(),
        }
    }

    /// Returns true if it is one image in a registry, by its tag or digest.
    #[must_use]
    pub fn is_tag(&self) -> bool {
        matches!(self, StorePlace::Registry(place) if place.reference.is_some())
    }

    /// Returns the path, if it is a directory.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        match self {
            StorePlace::Directory(path) => Some(path),
            StorePlace::Bucket(_) | StorePlace::Registry(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_bucket_and_everything_else_a_directory() {
        let parse = |text: &str| StorePlace::parse(OsStr::new(text));
        for (text, shown) in [
            ("s3://b", "s3://b"),
            ("s3://b/", "s3://b"),
            ("gs://b-1/a/b=c/", "gs://b-1/a/b=c"),
            ("az://box/x", "az://box/x"),
        ] {
            let place = parse(text).unwrap();
            assert!(matches!(place, StorePlace::Bucket(_)) && place.to_string() == shown, "{text}");
        }
        for text in [
            "oci://ghcr.io/me/images",
            "oci://localhost:5000/images:web-1",
            "oci://[::1]:5000/a/b_c/d-e:latest",
            "oci://h/r@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ] {
            let place = parse(text).unwrap();
            assert!(matches!(place, StorePlace::Registry(_)) && place.to_string() == text, "{text}");
        }
        for text in [
            "oci://",
            "oci://h",
            "oci://h/",
            "oci:///r",
            "oci://h/R",
            "oci://h/a//b",
            "oci://h/../b",
            "oci://h/r:",
            "oci://h/r:a/b",
            "oci://h/r@sha256:00",
            "oci://h/r:t@sha512:00",
            "oci://me:secret@h/r",
            "oci://h/r?x",
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        for text in ["store", "/a/b", "./s3://b", "a b://c", "é://x", "://x", ""] {
            assert_eq!(parse(text).unwrap(), StorePlace::Directory(text.into()));
        }
        for text in [
            "s3://",
            "s3:///x",
            "s3://b//x",
            "s3://b/../c",
            "s3://b/x/..",
            "s3://../x",
            "s3://b/a b",
            "s3://b/ä",
            "s3://b/%2e%2e",
            "http://x/y",
            "S3://b",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        for text in ["s3://key:secret@b/x", "s3://b/x?sig=secret", "s3://b/#secret", "ftp://key:secret@b"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
