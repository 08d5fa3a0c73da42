//! A proxy in front of a server on this machine, which injects what goes wrong on a network.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as the proxy sees it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path with its parameters, as sent.
    pub path: String,
    /// Its head.
    pub head: String,
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
    /// Passes it on for another range: so many bytes further on, or without any.
    OtherRange(Option<u64>),
}

type Rule = Box<dyn Fn(&Request) -> Answer + Send + Sync>;

/// Changes the body of an answer: by the request and the body. `None` leaves it.
type Edit = Box<dyn Fn(&Request, &[u8]) -> Option<Vec<u8>> + Send + Sync>;

/// The proxy, which ends when it is dropped.
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
}

struct Shared {
    port: u16,
    rule: Mutex<Rule>,
    edit: Edit,
    log: Mutex<Vec<Request>>,
    /// Conditional puts one after the other: moto looks first and then writes.
    conditional: Mutex<()>,
    ends: AtomicBool,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Proxy {
    /// Starts a proxy in front of the server at a port. `edit` changes the bodies of its answers, where it returns any.
    pub fn new(port: u16, edit: impl Fn(&Request, &[u8]) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let own_port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            port,
            rule: Mutex::new(Box::new(|_| Answer::Pass)),
            edit: Box::new(edit),
            log: Mutex::default(),
            conditional: Mutex::default(),
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
        Proxy { shared, port: own_port }
    }

    /// Returns the port of the proxy.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets what the proxy does with each request from now on.
    pub fn rule(&self, rule: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
        *self.shared.rule.lock().expect("not poisoned") = Box::new(rule);
    }

    /// Returns the requests since the last call.
    #[must_use]
    pub fn take_log(&self) -> Vec<Request> {
        std::mem::take(&mut self.shared.log.lock().expect("not poisoned"))
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
            let head = head.to_owned();
            let request = Request { method, path, head, is_conditional, number: log.len() };
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
        let kept: Vec<String> = kept.into_iter().filter_map(|line| other_range(line, &answer)).collect();
        let head = format!("{}\r\nConnection: close\r\n\r\n", kept.join("\r\n"));
        let order = is_conditional.then(|| self.conditional.lock().expect("not poisoned"));
        let reply = forward(self.port, head.as_bytes(), body)?;
        drop(order);
        let end = find(&reply, b"\r\n\r\n")? + 4;
        let edited = (self.edit)(&request, &reply[end..]);
        match answer {
            Answer::LoseReply => return None,
            Answer::CutBody => {
                let half = end + (reply.len() - end) / 2;
                client.write_all(&reply[..half]).ok()?;
                return None;
            }
            _ => {}
        }
        if let Some(body) = edited {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            client.write_all(head.as_bytes()).ok()?;
            client.write_all(&body).ok()?;
            return None;
        }
        client.write_all(&reply).ok()?;
        None
    }
}

/// Changes the line of a head that asks for a range, if the answer is to be for another one. `None` leaves it out.
fn other_range(line: &str, answer: &Answer) -> Option<String> {
    let Answer::OtherRange(shift) = answer else { return Some(line.to_owned()) };
    let lower = line.to_lowercase();
    let Some((from, to)) = lower.strip_prefix("range: bytes=").and_then(|range| range.split_once('-')) else {
        return Some(line.to_owned());
    };
    let (from, to) = (from.parse::<u64>().ok()?, to.parse::<u64>().ok()?);
    shift.map(|shift| format!("Range: bytes={}-{}", from + shift, to + shift))
}

/// Sends a request and reads the answer until the server closes the connection.
pub(crate) fn forward(port: u16, head: &[u8], body: &[u8]) -> Option<Vec<u8>> {
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

pub(crate) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
