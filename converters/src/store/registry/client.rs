//! A client of a registry, by the OCI distribution specification 1.1: credentials, attempts, and what errors say. The
//! crate `oci-client` authorizes and pushes (`push.rs`); what a registry answers is read by ourselves (`read.rs`).

use std::io::{self, ErrorKind};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use oci_client::Reference;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use tokio::runtime::Runtime;

use super::credentials::credentials;
use crate::error::{Error, Result};
use crate::store::RegistryPlace;
use crate::store::requests::{self, Redact};

/// How often a request is sent that fails for a reason that may pass.
pub(super) const TRIES: u32 = 6;

/// How often a request is sent that is not answered in time.
pub(super) const TRIES_IN_VAIN: u32 = 2;

/// The longest pause between two parts of an answer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A repository of a registry.
pub(super) struct Client {
    pub(super) oci: oci_client::Client,
    pub(super) http: reqwest::Client,
    pub(super) runtime: &'static Runtime,
    /// The image that is named to the crate: requests are authorized for its repository.
    pub(super) image: Reference,
    /// The URL of the repository.
    pub(super) base: String,
    pub(super) credentials: RegistryAuth,
    /// How the last request was authorized.
    pub(super) authorization: Mutex<Option<Authorization>>,
    /// If requests that write have been authorized.
    pub(super) is_authorized: AtomicBool,
    redact: Redact,
}

/// What the registry asked for to authorize requests.
#[derive(Clone)]
pub(super) enum Authorization {
    Token(String),
    Password(String, String),
}

/// A response: its status, its headers, and the part of its body that was read.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) bytes: Vec<u8>,
}

impl Client {
    pub(super) fn new(place: &RegistryPlace) -> Result<Self> {
        let runtime = requests::runtime()?;
        let mut redact = requests::redact();
        let (host, repository) = (place.host.clone(), place.repository.clone());
        let reference = place.reference.clone().unwrap_or_else(|| "latest".into());
        let image = match place.is_digest() {
            true => Reference::with_digest(host, repository, reference),
            false => Reference::with_tag(host, repository, reference),
        };
        let host = image.resolve_registry().to_owned();
        let credentials = credentials(&host, place)?;
        match &credentials {
            RegistryAuth::Basic(_, secret) | RegistryAuth::Bearer(secret) => redact.also(secret),
            RegistryAuth::Anonymous => {}
        }
        let is_plain = std::env::var("OCI_ALLOW_HTTP").is_ok_and(|value| requests::is_yes(&value));
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

    /// Sends a request of the crate, again if it fails for a reason that may pass.
    pub(super) fn again<T>(&self, send: impl Fn() -> oci_client::errors::Result<T>) -> io::Result<T> {
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
    pub(super) fn pause(&self, tried: u32) {
        let random = crate::store::storage::random::<1>().map_or(0, |[byte]| u64::from(byte));
        std::thread::sleep(Duration::from_millis((200 << tried) + random));
    }

    /// Describes a failed connection, which may work the next time.
    pub(super) fn lost(&self, error: &reqwest::Error) -> io::Error {
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
    pub(super) fn refused(&self, answer: &Answer) -> io::Error {
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

    pub(super) fn error(&self, error: &OciDistributionError) -> io::Error {
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
