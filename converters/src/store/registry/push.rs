//! Pushes to a registry, through the crate `oci-client`.

use std::io::{self, ErrorKind, Read};
use std::sync::atomic::Ordering;

use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use reqwest::header::HeaderValue;

use super::client::Client;
use super::digest::{Hasher, digest_of};

impl Client {
    /// Uploads a blob unless the repository has it, and returns its digest.
    pub(super) fn push_blob(&self, bytes: &bytes::Bytes) -> io::Result<String> {
        let digest = digest_of(bytes);
        let parts = || Ok(std::iter::once(Ok(bytes.clone())));
        self.push(&digest, bytes.len() as u64, &parts)?;
        Ok(digest)
    }

    /// Uploads a blob of `len` bytes, which `parts` returns, unless the repository has it. Returns true if it was sent.
    fn push<P>(&self, digest: &str, len: u64, parts: &dyn Fn() -> io::Result<P>) -> io::Result<bool>
    where
        P: Iterator<Item = io::Result<bytes::Bytes>> + Send + 'static,
    {
        self.authorize_pushes()?;
        self.again(|| {
            if self.runtime.block_on(self.oci.blob_exists(&self.image, digest))? {
                return Ok(false);
            }
            // As a stream: of bytes the crate would panic if the registry names an invalid place for them.
            let stream = futures_util::stream::iter(parts()?.map(|part| Ok(part?)));
            let pushed = self.oci.push_blob_stream(&self.image, stream, digest, Some(len));
            self.runtime.block_on(pushed)?;
            Ok(true)
        })
    }

    /// Gets the token for requests that write, if the registry asks for one. The crate would panic if the token is not
    /// text.
    fn authorize_pushes(&self) -> io::Result<()> {
        if self.credentials == RegistryAuth::Anonymous || self.is_authorized.load(Ordering::Relaxed) {
            return Ok(());
        }
        let get =
            || self.runtime.block_on(self.oci.auth(&self.image, &self.credentials, RegistryOperation::Push));
        let token = self.again(get)?;
        if token.is_some_and(|token| HeaderValue::from_str(&token).is_err()) {
            return Err(io::Error::new(ErrorKind::InvalidData, "the registry's token is not text"));
        }
        self.is_authorized.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Uploads a blob of `len` bytes that `open` reads, unless the repository has it. Returns its digest and the number of
    /// bytes that were sent.
    pub(super) fn push_reader(
        &self,
        len: u64,
        open: &dyn Fn() -> io::Result<Box<dyn Read + Send>>,
        advance: &dyn Fn(u64),
    ) -> io::Result<(String, u64)> {
        let mut hasher = Hasher::default();
        for part in parts(open()?) {
            hasher.update(&part?);
        }
        let digest = hasher.finish();
        let is_sent = self.push(&digest, len, &|| Ok(parts(open()?)))?;
        advance(len);
        Ok((digest, if is_sent { len } else { 0 }))
    }

    /// Puts a manifest under a tag.
    pub(super) fn push_manifest(&self, tag: &str, media_type: &str, manifest: &[u8]) -> io::Result<()> {
        let image = self.image.registry().to_owned();
        let image = Reference::with_tag(image, self.image.repository().to_owned(), tag.to_owned());
        let kind = HeaderValue::from_str(media_type).map_err(io::Error::other)?;
        self.again(|| {
            self.runtime.block_on(async {
                self.oci.push_manifest_raw(&image, manifest.to_vec(), kind.clone()).await.map(|_| ())
            })
        })
    }
}

/// Returns what a reader reads, in parts.
fn parts(mut reader: Box<dyn Read + Send>) -> impl Iterator<Item = io::Result<bytes::Bytes>> {
    std::iter::from_fn(move || {
        let mut part = vec![0; 1 << 20];
        match reader.read(&mut part) {
            Ok(0) => None,
            Ok(len) => {
                part.truncate(len);
                Some(Ok(part.into()))
            }
            Err(e) => Some(Err(e)),
        }
    })
}
