//! A bucket on this machine: moto's S3 server, and a proxy in front of it that injects what goes wrong on a network.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use crate::{cache, mif_path, skip, tool};

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
    if !program.exists() {
        let _ = skip("moto is not installed: tests/install-tools");
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

/// A request as the proxy sees it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path with its parameters, as sent.
    pub path: String,
    /// True if it has a condition.
    pub is_conditional: bool,
    /// The number of requests before this one.
    pub number: usize,
}

/// What the proxy does with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Passes it on.
    Pass,
    /// Answers with this status, and does not pass it on.
    Status(u16),
    /// Passes it on, and closes the connection instead of answering.
    LoseReply,
    /// Passes it on, and sends half of the answer's body.
    CutBody,
    /// Passes it on after a while.
    Slow(Duration),
    /// Passes it on without its condition.
    IgnoreCondition,
}

type Rule = Box<dyn Fn(&Request) -> Answer + Send + Sync>;

struct Shared {
    port: u16,
    rule: Mutex<Rule>,
    log: Mutex<Vec<Request>>,
    /// Conditional puts one after the other: moto looks first and then writes.
    conditional: Mutex<()>,
    /// How long lists do not show an object.
    lag: Mutex<Duration>,
    /// When each object was first written, by its path.
    written: Mutex<BTreeMap<String, Instant>>,
    ends: AtomicBool,
}

/// An empty bucket behind a proxy.
pub struct Bucket {
    _server: Arc<Server>,
    shared: Arc<Shared>,
    name: String,
    port: u16,
    cache: tempfile::TempDir,
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Bucket {
    /// Returns a new bucket; `None`, with a notice, if the server is not installed.
    #[must_use]
    pub fn new() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let server = server()?;
        let name = format!("bucket{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            port: server.port,
            rule: Mutex::new(Box::new(|_| Answer::Pass)),
            log: Mutex::default(),
            conditional: Mutex::default(),
            lag: Mutex::default(),
            written: Mutex::default(),
            ends: AtomicBool::new(false),
        });
        let proxy = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if proxy.ends.load(Ordering::Relaxed) {
                    break;
                }
                let proxy = proxy.clone();
                std::thread::spawn(move || proxy.serve(stream));
            }
        });
        let cache = tempfile::tempdir_in(crate::cache()).expect("the cache is writable");
        let bucket = Bucket { _server: server, shared, name, port, cache };
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
            .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port))
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
        *self.shared.rule.lock().expect("not poisoned") = Box::new(rule);
    }

    /// Sets how long lists do not show an object that was written.
    pub fn lag(&self, lag: Duration) {
        *self.shared.lag.lock().expect("not poisoned") = lag;
    }

    /// Returns the requests since the last call.
    #[must_use]
    pub fn take_log(&self) -> Vec<Request> {
        std::mem::take(&mut self.shared.log.lock().expect("not poisoned"))
    }

    /// Sends a request to the server, past the proxy; returns the body of the answer.
    pub fn request(&self, method: &str, key: &str, body: &[u8]) -> Vec<u8> {
        let path = if key.is_empty() { format!("/{}", self.name) } else { format!("/{}/{key}", self.name) };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: {}\r\nConnection: close\r\n\
             Content-Type: application/octet-stream\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, \
             SignedHeaders=host, Signature=x\r\n\r\n",
            self.shared.port,
            body.len()
        );
        let answer = forward(self.shared.port, head.as_bytes(), body).expect("moto answers");
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

impl Shared {
    fn serve(&self, mut client: TcpStream) -> Option<()> {
        while let Some((head, body)) = read_request(&mut client) {
            let answer = self.answer(&mut client, &head, &body);
            answer?;
        }
        None
    }

    /// Answers a request. Returns `None` if the connection ends there.
    fn answer(&self, client: &mut TcpStream, head: &str, body: &[u8]) -> Option<()> {
        let mut words = head.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let is_conditional =
            head.lines().any(|line| line.to_lowercase().starts_with("if-")) && method == "PUT";
        let request = {
            let mut log = self.log.lock().expect("not poisoned");
            let request = Request { method, path, is_conditional, number: log.len() };
            log.push(request.clone());
            request
        };
        let answer = (self.rule.lock().expect("not poisoned"))(&request);
        match answer {
            Answer::Status(status) => {
                let body = "<Error><Code>SlowDown</Code><Message>injected</Message></Error>";
                let text = format!(
                    "HTTP/1.1 {status} Injected\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                client.write_all(text.as_bytes()).ok()?;
                return None;
            }
            Answer::Slow(time) => std::thread::sleep(time),
            _ => {}
        }
        let kept: Vec<&str> = head
            .lines()
            .filter(|line| {
                let line = line.to_lowercase();
                let is_dropped = line.starts_with("connection:")
                    || answer == Answer::IgnoreCondition && line.starts_with("if-");
                !line.is_empty() && !is_dropped
            })
            .collect();
        let head = format!("{}\r\nConnection: close\r\n\r\n", kept.join("\r\n"));
        let order = is_conditional.then(|| self.conditional.lock().expect("not poisoned"));
        let reply = forward(self.port, head.as_bytes(), body)?;
        drop(order);
        if request.method == "PUT" {
            let mut written = self.written.lock().expect("not poisoned");
            written.entry(request.path.split('?').next()?.to_owned()).or_insert_with(Instant::now);
        }
        let end = find(&reply, b"\r\n\r\n")? + 4;
        match answer {
            Answer::LoseReply => return None,
            Answer::CutBody => {
                let half = end + (reply.len() - end) / 2;
                client.write_all(&reply[..half]).ok()?;
                return None;
            }
            _ => {}
        }
        let lag = *self.lag.lock().expect("not poisoned");
        let is_list = request.method == "GET" && request.path.contains("list-type=2");
        if is_list && lag > Duration::ZERO {
            let body = self.without_recent(&request.path, &String::from_utf8_lossy(&reply[end..]), lag);
            let text = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            client.write_all(text.as_bytes()).ok()?;
            return None;
        }
        client.write_all(&reply).ok()?;
        None
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

/// Sends a request and reads the answer until the server closes the connection.
fn forward(port: u16, head: &[u8], body: &[u8]) -> Option<Vec<u8>> {
    let mut server = TcpStream::connect(("127.0.0.1", port)).ok()?;
    server.write_all(head).ok()?;
    server.write_all(body).ok()?;
    let mut reply = Vec::new();
    server.read_to_end(&mut reply).ok()?;
    (!reply.is_empty()).then_some(reply)
}

/// Reads a request: its head without the empty line, and its body.
fn read_request(client: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut part = [0; 65536];
    let end = loop {
        if let Some(end) = find(&bytes, b"\r\n\r\n") {
            break end;
        }
        match client.read(&mut part).ok()? {
            0 => return None,
            len => bytes.extend_from_slice(&part[..len]),
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let mut body = bytes[end + 4..].to_vec();
    let left = length.unwrap_or(0).checked_sub(body.len())?;
    client.take(left as u64).read_to_end(&mut body).ok()?;
    Some((head, body))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
