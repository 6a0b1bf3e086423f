//! A log on a port, and the lies put over it.
//!
//! One thread a connection, one answer a connection. Every request is noted, and so is how much was
//! sent before the client had enough. Nothing here sleeps: an answer that never comes waits until
//! the client goes away.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::Log;

/// The pause between two bytes of a trickle.
const PACE: Duration = Duration::from_millis(20);
/// A liar stops here, so that a client that would read for ever fails its test and no more.
const ENOUGH: u64 = 1 << 28;

/// An answer.
#[derive(Clone)]
pub(crate) enum Answer {
    /// With a status, header lines and a body.
    Whole(u16, String, Vec<u8>),
    /// These bytes instead of HTTP, and the end.
    Raw(Vec<u8>),
    /// No answer. The connection stays open.
    Silence,
    /// A body that comes one byte at a time and never ends.
    Trickle,
    /// Header lines and a body that repeats these bytes and never ends.
    Endless(String, Vec<u8>),
}

impl Answer {
    /// An honest answer with these bytes.
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::Whole(200, String::new(), body.into())
    }

    /// An empty answer with this status.
    pub(crate) fn status(status: u16) -> Self {
        Self::Whole(status, String::new(), Vec::new())
    }

    /// "It is over there."
    pub(crate) fn redirect(to: &str) -> Self {
        Self::Whole(302, format!("Location: {to}\r\n"), Vec::new())
    }
}

/// What a liar serves: a log, and other answers at some of its paths.
#[derive(Clone)]
pub(crate) struct Site {
    log: Log,
    lies: BTreeMap<String, Answer>,
}

impl Site {
    /// An honest log.
    pub(crate) fn of(log: &Log) -> Self {
        Self { log: log.clone(), lies: BTreeMap::new() }
    }

    /// Another answer at a path (without a slash before it).
    pub(crate) fn with(mut self, path: &str, answer: Answer) -> Self {
        self.lies.insert(path.to_owned(), answer);
        self
    }

    /// Nothing at a path.
    pub(crate) fn without(self, path: &str) -> Self {
        self.with(path, Answer::status(404))
    }

    /// The honest bytes at a path, changed.
    pub(crate) fn altered(self, path: &str, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let before = self.honest(path);
        let mut after = before.clone();
        change(&mut after);
        assert_ne!(before, after, "{path}: a lie differs from the truth");
        self.with(path, Answer::ok(after))
    }

    /// What another log answers at a path.
    pub(crate) fn borrowed(self, path: &str, from: &Log) -> Self {
        let bytes = from.answer(path).unwrap_or_else(|| panic!("no {path}"));
        assert_ne!(bytes, self.honest(path), "{path}: a lie differs from the truth");
        self.with(path, Answer::ok(bytes))
    }

    fn honest(&self, path: &str) -> Vec<u8> {
        self.log.answer(path).unwrap_or_else(|| panic!("no {path}"))
    }

    fn answer(&self, path: &str) -> Answer {
        let told = self.lies.get(path).cloned();
        told.or_else(|| self.log.answer(path).map(Answer::ok)).unwrap_or(Answer::status(404))
    }

    /// Serves it on a free port.
    pub(crate) fn serve(self) -> Liar {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let desk = Arc::new(Desk { site: Mutex::new(self), ..Desk::default() });
        let shared = Arc::clone(&desk);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.closed.load(Ordering::Relaxed) {
                    return;
                }
                let desk = Arc::clone(&shared);
                thread::spawn(move || desk.serve(&client));
            }
        });
        Liar { url: format!("http://{address}"), address, desk }
    }
}

/// A site that is served. Closed when dropped.
pub(crate) struct Liar {
    url: String,
    address: SocketAddr,
    desk: Arc<Desk>,
}

impl Liar {
    /// Its address, without a slash at the end.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Tells something else from now on, at the same address.
    pub(crate) fn tells(&self, site: Site) {
        *self.desk.site.lock().unwrap() = site;
    }

    /// The paths that were asked for, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.desk.asked.lock().unwrap().clone()
    }

    /// Bytes that were handed to the network.
    pub(crate) fn sent(&self) -> u64 {
        self.desk.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.desk.closed.store(true, Ordering::Relaxed);
        // Wakes who waits for the next client.
        let _ = TcpStream::connect(self.address);
    }
}

#[derive(Default)]
struct Desk {
    site: Mutex<Site>,
    asked: Mutex<Vec<String>>,
    sent: AtomicU64,
    closed: AtomicBool,
}

impl Default for Site {
    fn default() -> Self {
        Self::of(&Log::of(0))
    }
}

impl Desk {
    /// One request, one answer. What fails here is a client that went away.
    fn serve(&self, mut client: &TcpStream) {
        let mut lines = BufReader::new(client).lines().map_while(Result::ok);
        let request = lines.next().unwrap_or_default();
        // The rest of the request is read, or closing would reset the connection.
        let _ = lines.take_while(|line| !line.is_empty()).count();
        let Some(path) = request.split(' ').nth(1) else { return };
        let path = path.trim_start_matches('/').to_owned();
        let answer = self.site.lock().unwrap().answer(&path);
        self.asked.lock().unwrap().push(path);
        match answer {
            Answer::Whole(status, headers, body) => {
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status} X\r\nConnection: close\r\n{headers}Content-Length: \
                     {length}\r\n\r\n"
                );
                self.send(client, &[head.as_bytes(), &body].concat());
            }
            Answer::Raw(bytes) => drop(self.send(client, &bytes)),
            Answer::Silence => drop(client.read(&mut [0])),
            Answer::Trickle => {
                client.set_read_timeout(Some(PACE)).unwrap();
                let mut open = self.send(client, head("").as_bytes());
                while open {
                    open = !gone(client.read(&mut [0])) && self.send(client, b"x");
                }
            }
            Answer::Endless(headers, bytes) => {
                let mut open = self.send(client, head(&headers).as_bytes());
                while open && self.sent.load(Ordering::Relaxed) < ENOUGH {
                    open = self.send(client, &bytes);
                }
            }
        }
    }

    fn send(&self, mut client: &TcpStream, bytes: &[u8]) -> bool {
        let went = client.write_all(bytes).is_ok();
        self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        went
    }
}

/// An answer whose end is the end of the connection.
fn head(headers: &str) -> String {
    format!("HTTP/1.1 200 X\r\nConnection: close\r\n{headers}\r\n")
}

/// Whether a client that has nothing to say has gone, rather than let time pass.
fn gone(read: std::io::Result<usize>) -> bool {
    !matches!(read, Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}
