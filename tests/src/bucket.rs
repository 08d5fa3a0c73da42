//! A bucket on this machine: moto's S3 server, and a proxy in front of it that injects what goes wrong on a network.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

pub use crate::proxy::{Answer, Request};
use crate::proxy::{Proxy, find, forward};
use crate::{cache, have_at, mif_path, tool};

/// How long the server may take to start.
const START: Duration = Duration::from_secs(60);

/// The credentials that the server is given. They must not appear anywhere.
pub const SECRET: &str = "wJalrXUtnFEMIbPxRfiCY0SECRET";

/// The S3 server, which ends with the last test that uses it.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the server that other tests have started, or starts one.
fn server() -> Option<Arc<Server>> {
    static SERVER: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    let mut shared = SERVER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(server) = shared.upgrade() {
        return Some(server);
    }
    let program = cache().join("venv/bin/moto_server");
    if !have_at(&program) {
        return None;
    }
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let mut command = tool(program);
    command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Arc::new(Server { child: command.spawn().expect("moto starts"), port });
    let started = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(started.elapsed() < START, "moto does not answer");
        std::thread::sleep(Duration::from_millis(50));
    }
    *shared = Arc::downgrade(&server);
    Some(server)
}

/// How lists lag.
#[derive(Default)]
struct Lag {
    /// How long lists do not show an object.
    time: Mutex<Duration>,
    /// When each object was first written, by its path.
    written: Mutex<BTreeMap<String, Instant>>,
}

/// An empty bucket behind a proxy.
pub struct Bucket {
    server: Arc<Server>,
    proxy: Proxy,
    lag: Arc<Lag>,
    name: String,
    cache: tempfile::TempDir,
}

impl Bucket {
    /// Returns a new bucket; `None`, with a notice, if the server is not installed.
    #[must_use]
    pub fn new() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let server = server()?;
        let name = format!("bucket{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let lag = Arc::<Lag>::default();
        let of_proxy = lag.clone();
        let proxy = Proxy::new(server.port, move |request, body| of_proxy.edit(request, body));
        let cache = tempfile::tempdir_in(crate::cache()).expect("the cache is writable");
        let bucket = Bucket { server, proxy, lag, name, cache };
        bucket.request("PUT", "", b"");
        Some(bucket)
    }

    /// Returns the URL of a store in the bucket.
    #[must_use]
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}", self.name)
    }

    /// Returns the program, to be run on a store in this bucket.
    #[must_use]
    pub fn mif(&self, prefix: &str) -> Command {
        let mut command = Command::new(mif_path());
        self.set(&mut command);
        command.env("MIF_STORE", self.url(prefix)).stdin(Stdio::null());
        command
    }

    /// Sets the variables by which a program finds the bucket.
    pub fn set(&self, command: &mut Command) {
        command
            .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.proxy.port()))
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_REGION", "us-east-1")
            .env("XDG_CACHE_HOME", self.cache.path());
    }

    /// Returns the directory of the program's cache.
    #[must_use]
    pub fn cache(&self) -> &Path {
        self.cache.path()
    }

    /// Sets what the proxy does with each request from now on.
    pub fn rule(&self, rule: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
        self.proxy.rule(rule);
    }

    /// Sets how long lists do not show an object that was written.
    pub fn lag(&self, lag: Duration) {
        *self.lag.time.lock().expect("not poisoned") = lag;
    }

    /// Returns the requests since the last call.
    #[must_use]
    pub fn take_log(&self) -> Vec<Request> {
        self.proxy.take_log()
    }

    /// Sends a request to the server, past the proxy; returns the body of the answer.
    pub fn request(&self, method: &str, key: &str, body: &[u8]) -> Vec<u8> {
        let path = if key.is_empty() { format!("/{}", self.name) } else { format!("/{}/{key}", self.name) };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: {}\r\nConnection: close\r\n\
             Content-Type: application/octet-stream\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, \
             SignedHeaders=host, Signature=x\r\n\r\n",
            self.server.port,
            body.len()
        );
        let answer = forward(self.server.port, head.as_bytes(), body).expect("moto answers");
        let end = find(&answer, b"\r\n\r\n").expect("a head") + 4;
        answer[end..].to_vec()
    }

    /// Returns the keys below a prefix, in order.
    #[must_use]
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let xml = self.request("GET", &format!("?list-type=2&max-keys=1000&prefix={prefix}"), b"");
        let xml = String::from_utf8(xml).expect("text");
        xml.split("<Key>").skip(1).filter_map(|rest| Some(rest.split_once("</Key>")?.0.to_owned())).collect()
    }
}

impl Lag {
    /// Notes what is written, and hides from lists what was written lately.
    fn edit(&self, request: &Request, body: &[u8]) -> Option<Vec<u8>> {
        if request.method == "PUT" {
            let mut written = self.written.lock().expect("not poisoned");
            written.entry(request.path.split('?').next()?.to_owned()).or_insert_with(Instant::now);
        }
        let lag = *self.time.lock().expect("not poisoned");
        let is_list = request.method == "GET" && request.path.contains("list-type=2");
        (is_list && lag > Duration::ZERO)
            .then(|| self.without_recent(&request.path, &String::from_utf8_lossy(body), lag).into_bytes())
    }

    /// Removes from a list what was written lately.
    fn without_recent(&self, path: &str, xml: &str, lag: Duration) -> String {
        let bucket = path.split('?').next().unwrap_or_default().trim_end_matches('/');
        let written = self.written.lock().expect("not poisoned");
        let recent = |key: &str| {
            let path = format!("{bucket}/{key}");
            let mut below = written.range(path.clone()..).take_while(|(known, _)| known.starts_with(&path));
            let mut any = false;
            below.all(|(_, time)| {
                any = true;
                time.elapsed() < lag
            }) && any
        };
        let mut kept = xml.to_owned();
        for (open, close, name) in [
            ("<Contents>", "</Contents>", ("<Key>", "</Key>")),
            ("<CommonPrefixes>", "</CommonPrefixes>", ("<Prefix>", "</Prefix>")),
        ] {
            let mut out = String::new();
            for (i, part) in kept.split(open).enumerate() {
                if i == 0 {
                    out.push_str(part);
                    continue;
                }
                let key = part.split_once(name.0).and_then(|(_, rest)| Some(rest.split_once(name.1)?.0));
                match key.is_some_and(recent) {
                    true => out.push_str(part.split_once(close).map_or("", |(_, rest)| rest)),
                    false => {
                        out.push_str(open);
                        out.push_str(part);
                    }
                }
            }
            kept = out;
        }
        kept
    }
}
