//! Requests to a registry: the OCI distribution specification 1.1, through the crate `oci-client`. What the registry
//! answers is read here, because it may be hostile: never more than was asked for, and whole blobs only if they match
//! their digests.

use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use reqwest::header::{ACCEPT, CONTENT_RANGE, HeaderMap, HeaderValue, LINK, RANGE};
use reqwest::{Response, StatusCode};
use tokio::runtime::Runtime;

use super::credentials::credentials;
use super::digest::{Hasher, check_digest, digest_of};
use super::manifest::{MANIFEST_TYPES, MAX_MANIFEST};
use crate::error::{Error, Result};
use crate::store::RegistryPlace;
use crate::store::requests::{self, Redact};
use crate::store::storage::check_limit;

/// How often a request is sent that fails for a reason that may pass.
const TRIES: u32 = 6;

/// How often a request is sent that is not answered in time.
const TRIES_IN_VAIN: u32 = 2;

/// The longest pause between two parts of an answer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The longest list of tags that is read, in bytes, and in pages.
const MAX_TAGS: u64 = 4 << 20;
const MAX_PAGES: usize = 1000;

/// A repository of a registry.
pub(super) struct Client {
    oci: oci_client::Client,
    http: reqwest::Client,
    runtime: &'static Runtime,
    /// The image that is named to the crate: requests are authorized for its repository.
    image: Reference,
    /// The URL of the repository.
    base: String,
    credentials: RegistryAuth,
    /// How the last request was authorized.
    authorization: Mutex<Option<Authorization>>,
    /// If requests that write have been authorized.
    is_authorized: AtomicBool,
    redact: Redact,
}

/// What the registry asked for to authorize requests.
#[derive(Clone)]
enum Authorization {
    Token(String),
    Password(String, String),
}

/// What was read of an answer.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    bytes: Vec<u8>,
}

impl Client {
    pub(super) fn new(place: &RegistryPlace) -> Result<Self> {
        let runtime = requests::runtime()?;
        let mut redact = requests::redact();
        let reference = place.reference.clone().unwrap_or_else(|| "latest".into());
        let of_tag = || Reference::with_tag(place.host.clone(), place.repository.clone(), reference.clone());
        let image = match place.is_digest() {
            true => Reference::with_digest(place.host.clone(), place.repository.clone(), reference.clone()),
            false => of_tag(),
        };
        let host = image.resolve_registry().to_owned();
        let credentials = credentials(&host, place)?;
        match &credentials {
            RegistryAuth::Basic(_, secret) | RegistryAuth::Bearer(secret) => redact.also(secret),
            RegistryAuth::Anonymous => {}
        }
        let is_plain = is_http_allowed();
        let config = ClientConfig {
            protocol: if is_plain { ClientProtocol::Http } else { ClientProtocol::Https },
            read_timeout: Some(TIMEOUT),
            connect_timeout: Some(TIMEOUT),
            // Fewer requests for a blob: so many that one of them fails are sent again together.
            use_monolithic_push: true,
            user_agent: concat!("mif/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let http = reqwest::Client::builder()
            .https_only(!is_plain)
            .user_agent(config.user_agent)
            .read_timeout(TIMEOUT)
            .connect_timeout(TIMEOUT)
            .build()
            .map_err(|e| Error::store(format!("{place}: {}", redact.clean(&told(&e)))))?;
        let oci = oci_client::Client::try_from(config)
            .map_err(|e| Error::store(format!("{place}: {}", redact.clean(&e.to_string()))))?;
        let scheme = if is_plain { "http" } else { "https" };
        let base = format!("{scheme}://{host}/v2/{}", image.repository());
        // The crate authorizes its own requests with these. Without any, it would ask for a token before each request.
        if credentials != RegistryAuth::Anonymous {
            runtime.block_on(oci.store_auth_if_needed(&host, &credentials));
        }
        Ok(Client {
            oci,
            http,
            runtime,
            image,
            base,
            credentials,
            authorization: Mutex::default(),
            is_authorized: AtomicBool::new(false),
            redact,
        })
    }

    /// Returns the URL of the repository.
    pub(super) fn url(&self) -> &str {
        &self.base
    }

    /// Reads the manifest with this tag or digest; `None` if there is none. At most [`MAX_MANIFEST`] bytes.
    pub(super) fn manifest(&self, reference: &str) -> io::Result<Option<Vec<u8>>> {
        let answer = self.get(&format!("{}/manifests/{reference}", self.base), None, MAX_MANIFEST)?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            _ => return Err(self.refused(&answer)),
        }
        if crate::store::address::is_digest(reference) {
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
            all.extend(page.into_iter().filter(|tag| crate::store::address::is_tag(tag)));
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

    fn blob_url(&self, digest: &str) -> String {
        format!("{}/blobs/{digest}", self.base)
    }

    /// Sends a request of the crate, again if it fails for a reason that may pass.
    fn again<T>(&self, send: impl Fn() -> oci_client::errors::Result<T>) -> io::Result<T> {
        let mut tried = 1;
        loop {
            match send() {
                Err(e) if may_pass(&e, tried) => self.pause(tried),
                done => return done.map_err(|e| self.error(&e)),
            }
            tried += 1;
        }
    }

    /// Waits before a request is sent again: longer each time, and at random, so that many clients do not all come back
    /// at once.
    fn pause(&self, tried: u32) {
        let random = crate::store::storage::random::<1>().map_or(0, |[byte]| u64::from(byte));
        std::thread::sleep(Duration::from_millis((200 << tried) + random));
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

    /// Describes a failed connection, which may work the next time.
    fn lost(&self, error: &reqwest::Error) -> io::Error {
        let kind = match error {
            e if e.is_builder() || e.is_redirect() => ErrorKind::Other,
            e if e.is_timeout() => ErrorKind::TimedOut,
            _ => ErrorKind::ConnectionReset,
        };
        let mut text = self.redact.clean(&told(error));
        // What rustls says of a server that does not speak TLS.
        if text.contains("InvalidContentType") {
            text += "; set OCI_ALLOW_HTTP=true for a registry without encryption";
        }
        io::Error::new(kind, text)
    }

    /// Describes an answer that says no.
    fn refused(&self, answer: &Answer) -> io::Error {
        let kind = match answer.status {
            StatusCode::NOT_FOUND => ErrorKind::NotFound,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorKind::PermissionDenied,
            _ => ErrorKind::Other,
        };
        let reasons = oci_errors(&answer.bytes);
        let reason =
            if reasons.is_empty() { String::from_utf8_lossy(&answer.bytes).into_owned() } else { reasons };
        let mut text = format!("the registry answers {}", answer.status);
        if !reason.trim().is_empty() {
            text = format!("{text}: {}", self.redact.clean(&reason));
        }
        io::Error::new(kind, format!("{text}{}", advice(answer.status)))
    }

    fn error(&self, error: &OciDistributionError) -> io::Error {
        use OciDistributionError::{
            AuthenticationFailure, RegistryError, RequestError, ServerError, UnauthorizedError,
        };
        let (kind, text) = match error {
            RequestError(e) => return self.lost(e),
            UnauthorizedError { .. } => {
                let advice = advice(StatusCode::UNAUTHORIZED);
                (ErrorKind::PermissionDenied, format!("the registry refuses to be written to{advice}"))
            }
            AuthenticationFailure(reason) => {
                let advice = advice(StatusCode::UNAUTHORIZED);
                (
                    ErrorKind::PermissionDenied,
                    format!("the registry refuses the credentials: {reason}{advice}"),
                )
            }
            RegistryError { envelope, .. } => {
                let of = |e: &oci_client::errors::OciError| format!("{:?}: {}", e.code, e.message);
                let reasons: Vec<String> = envelope.errors.iter().map(of).collect();
                (ErrorKind::Other, format!("the registry refuses: {}", reasons.join("; ")))
            }
            ServerError { code, message, .. } => {
                (ErrorKind::Other, format!("the registry answers {code}: {message}"))
            }
            error => (ErrorKind::Other, error.to_string()),
        };
        io::Error::new(kind, self.redact.clean(&text))
    }
}

/// Returns where a part of a body begins in the whole.
fn starts_at(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

/// Returns true if requests without encryption are allowed.
fn is_http_allowed() -> bool {
    let value = std::env::var("OCI_ALLOW_HTTP").unwrap_or_default();
    ["true", "1", "yes", "on"].contains(&&*value.to_lowercase())
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

/// Returns true if a request that failed so is worth another attempt, after `tried`.
fn may_pass(error: &OciDistributionError, tried: u32) -> bool {
    let is_worth = match error {
        OciDistributionError::RequestError(e) => {
            !e.is_builder() && !e.is_redirect() && (!e.is_timeout() || tried < TRIES_IN_VAIN)
        }
        OciDistributionError::ServerError { code, .. } => *code >= 500 || [408, 429].contains(code),
        OciDistributionError::RegistryError { envelope, .. } => {
            envelope.errors.iter().any(|e| matches!(e.code, OciErrorCode::Toomanyrequests))
        }
        _ => false,
    };
    is_worth && tried < TRIES
}

/// Returns the messages of an answer as the specification has them.
fn oci_errors(bytes: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(Errors { errors }) = serde_json::from_slice(bytes) else { return String::new() };
    let texts: Vec<String> = errors.into_iter().map(|e| format!("{}: {}", e.code, e.message)).collect();
    texts.join("; ")
}

fn advice(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "; log in with `docker login`, `podman login` or `skopeo login`, whose files are read"
        }
        _ => "",
    }
}

/// Returns an error with its causes: the crate's own message names only the URL.
fn told(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(e) = cause {
        text = format!("{text}: {e}");
        cause = e.source();
    }
    text
}
