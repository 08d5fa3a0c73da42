//! Reads from a registry, which may be hostile: never more than was asked for, and whole blobs only if they match their
//! digests.

use std::io::{self, ErrorKind, Write};
use std::ops::Range;

use oci_client::RegistryOperation;
use oci_client::secrets::RegistryAuth;
use reqwest::header::{ACCEPT, CONTENT_RANGE, HeaderMap, LINK, RANGE};
use reqwest::{Response, StatusCode};

use super::client::{Answer, Authorization, Client, TRIES, TRIES_IN_VAIN};
use super::digest::{Hasher, check_digest};
use super::manifest::{MANIFEST_TYPES, MAX_MANIFEST};
use crate::store::address::{is_digest, is_tag};
use crate::store::storage::check_limit;

/// The longest list of tags that is read, in bytes, and in pages.
const MAX_TAGS: u64 = 4 << 20;
const MAX_PAGES: usize = 1000;

impl Client {
    /// Reads the manifest with this tag or digest; `None` if there is none. At most [`MAX_MANIFEST`] bytes.
    pub(super) fn manifest(&self, reference: &str) -> io::Result<Option<Vec<u8>>> {
        let answer = self.get(&format!("{}/manifests/{reference}", self.base), None, MAX_MANIFEST)?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            _ => return Err(self.refused(&answer)),
        }
        if is_digest(reference) {
            check_digest(reference, &answer.bytes)?;
        }
        Ok(Some(answer.bytes))
    }

    /// Returns all tags, sorted; none if the repository does not exist.
    pub(super) fn tags(&self) -> io::Result<Vec<String>> {
        #[derive(serde::Deserialize)]
        struct Tags {
            tags: Option<Vec<String>>,
        }
        let mut all: Vec<String> = Vec::new();
        let mut size = 0;
        for _ in 0..MAX_PAGES {
            let last = all.last().map_or_else(String::new, |tag| format!("&last={tag}"));
            let answer = self.get(&format!("{}/tags/list?n=1000{last}", self.base), None, MAX_TAGS - size)?;
            match answer.status {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Ok(Vec::new()),
                _ => return Err(self.refused(&answer)),
            }
            size += answer.bytes.len() as u64;
            let page: Tags = serde_json::from_slice(&answer.bytes)
                .map_err(|e| io::Error::new(ErrorKind::InvalidData, format!("its list of tags: {e}")))?;
            let page = page.tags.unwrap_or_default();
            let is_last = page.is_empty() || !answer.headers.contains_key(LINK);
            // They become parts of URLs.
            all.extend(page.into_iter().filter(|tag| is_tag(tag)));
            if is_last {
                all.sort_unstable();
                all.dedup();
                return Ok(all);
            }
        }
        Err(io::Error::new(ErrorKind::InvalidData, "its list of tags does not end"))
    }

    /// Reads a whole blob of `len` bytes, and checks its digest.
    pub(super) fn blob(&self, digest: &str, len: u64) -> io::Result<Vec<u8>> {
        let answer = self.get(&self.blob_url(digest), None, len)?;
        if answer.status != StatusCode::OK {
            return Err(self.refused(&answer));
        }
        check_digest(digest, &answer.bytes)?;
        Ok(answer.bytes)
    }

    /// Reads a range of a blob, which ends where the blob ends. What it contains is not checked.
    pub(super) fn range(&self, digest: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        let len = range.end.saturating_sub(range.start);
        let answer = self.get(&self.blob_url(digest), Some(range), len)?;
        match answer.status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(answer.bytes),
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(Vec::new()),
            _ => Err(self.refused(&answer)),
        }
    }

    /// Reads a whole blob of `len` bytes into `out`, and checks its digest. Calls `advance` with the number of bytes of each
    /// part; an error of that ends it. Goes on where it was when the connection is lost.
    pub(super) fn download(
        &self,
        digest: &str,
        len: u64,
        out: &mut dyn Write,
        advance: &dyn Fn(u64) -> io::Result<()>,
    ) -> io::Result<()> {
        const PART: u64 = 4 << 20;
        let mut hasher = Hasher::default();
        let mut at = 0;
        while at < len {
            let bytes = self.range(digest, at..len.min(at + PART))?;
            if bytes.is_empty() {
                let text = format!("the registry has only {at} bytes of {len}");
                return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
            }
            hasher.update(&bytes);
            out.write_all(&bytes)?;
            at += bytes.len() as u64;
            advance(bytes.len() as u64)?;
        }
        hasher.check(digest)
    }

    fn blob_url(&self, digest: &str) -> String {
        format!("{}/blobs/{digest}", self.base)
    }

    /// Sends a request and reads the answer, or the range of it that was asked for.
    fn get(&self, url: &str, range: Option<Range<u64>>, most: u64) -> io::Result<Answer> {
        let mut tried = 1;
        loop {
            let answer = self.runtime.block_on(self.get_once(url, range.as_ref(), most));
            let is_passing = |status: StatusCode| {
                status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
                    || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status)
            };
            match answer {
                Ok(answer) if tried < TRIES && is_passing(answer.status) => self.pause(tried),
                Err(e) if tried < TRIES && e.kind() == ErrorKind::ConnectionReset => self.pause(tried),
                Err(e) if tried < TRIES_IN_VAIN && e.kind() == ErrorKind::TimedOut => self.pause(tried),
                answer => return answer,
            }
            tried += 1;
        }
    }

    async fn get_once(&self, url: &str, range: Option<&Range<u64>>, most: u64) -> io::Result<Answer> {
        let known = self.authorization.lock().expect("no thread panics while it holds this").clone();
        let mut response = self.send(url, range, known).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let authorization = self.authorize().await?;
            self.authorization.lock().expect("as above").clone_from(&authorization);
            if authorization.is_some() {
                response = self.send(url, range, authorization).await?;
            }
        }
        let (status, headers) = (response.status(), response.headers().clone());
        // An answer to something else than was asked for is cut: only its beginning is shown.
        let most = if status.is_success() { most } else { most.min(4096) };
        let skip = match range {
            Some(range) if status == StatusCode::OK => range.start,
            Some(range)
                if status == StatusCode::PARTIAL_CONTENT && starts_at(&headers) != Some(range.start) =>
            {
                let text = "the registry answers with another part than was asked for";
                return Err(io::Error::new(ErrorKind::InvalidData, text));
            }
            _ => 0,
        };
        let bytes = self.body(response, skip, most, status.is_success() && range.is_none()).await?;
        Ok(Answer { status, headers, bytes })
    }

    async fn send(
        &self,
        url: &str,
        range: Option<&Range<u64>>,
        authorization: Option<Authorization>,
    ) -> io::Result<Response> {
        let mut request = self.http.get(url).header(ACCEPT, MANIFEST_TYPES);
        request = match authorization {
            Some(Authorization::Token(token)) => request.bearer_auth(token),
            Some(Authorization::Password(user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        };
        if let Some(Range { start, end }) = range {
            request = request.header(RANGE, format!("bytes={start}-{}", end.saturating_sub(1)));
        }
        request.send().await.map_err(|e| self.lost(&e))
    }

    /// Returns what the registry asks for, if there is something to tell it.
    async fn authorize(&self) -> io::Result<Option<Authorization>> {
        let token = self.oci.auth(&self.image, &self.credentials, RegistryOperation::Pull).await;
        Ok(match (token.map_err(|e| self.error(&e))?, &self.credentials) {
            (Some(token), _) => Some(Authorization::Token(token)),
            (None, RegistryAuth::Basic(user, password)) => {
                Some(Authorization::Password(user.clone(), password.clone()))
            }
            (None, _) => None,
        })
    }

    /// Reads `most` bytes of a body after `skip` bytes. Fails if it is longer, if it `must_end` there.
    async fn body(
        &self,
        mut response: Response,
        mut skip: u64,
        most: u64,
        must_end: bool,
    ) -> io::Result<Vec<u8>> {
        if must_end && let Some(len) = response.content_length() {
            check_limit(len, most)?;
        }
        let mut bytes: Vec<u8> = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|e| self.lost(&e))? {
            let skipped = skip.min(part.len() as u64);
            skip -= skipped;
            let part = &part[usize::try_from(skipped).expect("within a part")..];
            let room = most - bytes.len() as u64;
            if part.len() as u64 > room {
                if must_end {
                    check_limit(most + 1, most)?;
                }
                bytes.extend_from_slice(&part[..usize::try_from(room).expect("less than a part")]);
                break;
            }
            bytes.extend_from_slice(part);
        }
        Ok(bytes)
    }
}

/// Returns where a part of a body begins in the whole.
fn starts_at(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}
