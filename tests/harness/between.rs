//! Somebody between nexo-cli and its relay: reads every request, and may lose it, lose its answer,
//! answer it otherwise, or answer in the relay's place. What a relay that lies could do, but for
//! signatures, it can do as well.
//!
//! One connection for each request, and HTTP/1.0 to the relay, whose answer then is whole when it
//! ends. Sockets are not passed on.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use super::{DEADLINE, Server};

/// A request, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    /// Whether it is this method on a path with this end, queries aside.
    pub(crate) fn is(&self, method: &str, end: &str) -> bool {
        let path = self.path.split('?').next().unwrap_or_default();
        self.method == method && path.ends_with(end)
    }
}

/// What is done with a request.
pub(crate) enum Deed {
    /// It is passed on, and so is its answer.
    Pass,
    /// The relay never gets it; the client is told of a failure.
    Lose,
    /// It is passed on, and the client is told of a failure instead of its answer.
    LoseAnswer,
    /// It is not passed on but answered: a status, and a document.
    Answer(u16, Value),
    /// It is passed on, and its answer changed.
    Alter(Box<dyn FnOnce(&mut Value) + Send>),
}

type Rule = Box<dyn FnMut(&Asked) -> Deed + Send>;

/// A way to a relay with somebody on it. Closed when dropped.
pub(crate) struct Between {
    url: String,
    address: SocketAddr,
    desk: Arc<Desk>,
}

struct Desk {
    relay: Mutex<String>,
    rule: Mutex<Rule>,
    asked: Mutex<Vec<Asked>>,
    closed: AtomicBool,
}

/// A relay, and so many ways to it; nobody reaches it directly, as requests are proved for the
/// URLs of these ways.
pub(crate) fn relay<const N: usize>() -> (Server, [Between; N]) {
    let ways = [(); N].map(|()| Between::open());
    let urls: Vec<_> = ways.iter().map(|way| format!("--public-url {}", way.url())).collect();
    let server = Server::setup().args(&urls.join(" ")).start();
    for way in &ways {
        server.address().clone_into(&mut way.desk.relay.lock().unwrap());
    }
    (server, ways)
}

impl Between {
    fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let desk = Arc::new(Desk {
            relay: Mutex::default(),
            rule: Mutex::new(Box::new(|_| Deed::Pass)),
            asked: Mutex::default(),
            closed: AtomicBool::new(false),
        });
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
        Self { url: format!("http://{address}"), address, desk }
    }

    /// The relay's URL on this way.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Does this with every request from now on.
    pub(crate) fn does(&self, rule: impl FnMut(&Asked) -> Deed + Send + 'static) {
        *self.desk.rule.lock().unwrap() = Box::new(rule);
    }

    /// Passes everything on from now on.
    pub(crate) fn passes(&self) {
        self.does(|_| Deed::Pass);
    }

    /// The requests since this was asked for the last time.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.desk.asked.lock().unwrap())
    }

    /// The bodies of the messages among [`Between::asked`].
    pub(crate) fn posted(&self) -> Vec<Vec<u8>> {
        let asked = self.asked().into_iter().filter(|asked| asked.is("POST", "/messages"));
        asked.map(|asked| asked.body).collect()
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.desk.closed.store(true, Ordering::Relaxed);
        // Wakes who waits for the next client.
        let _ = TcpStream::connect(self.address);
    }
}

impl Desk {
    /// One request, one answer. What fails here is a client that went away.
    fn serve(&self, client: &TcpStream) {
        let Some((head, asked)) = read(client) else { return };
        let deed = self.rule.lock().unwrap()(&asked);
        self.asked.lock().unwrap().push(asked.clone());
        match deed {
            Deed::Pass => send(client, self.relayed(&head, &asked)),
            Deed::Lose => send(client, failure()),
            Deed::LoseAnswer => {
                drop(self.relayed(&head, &asked));
                send(client, failure());
            }
            Deed::Answer(status, document) => {
                let (kind, body) = ("application/problem+json", document.to_string().into_bytes());
                let head = format!("HTTP/1.1 {status} X\r\nContent-Type: {kind}");
                send(client, Reply { head, body });
            }
            Deed::Alter(change) => {
                let mut reply = self.relayed(&head, &asked);
                let mut document = serde_json::from_slice(&reply.body)
                    .unwrap_or_else(|e| panic!("{} {}: {e}", asked.method, asked.path));
                change(&mut document);
                reply.body = document.to_string().into_bytes();
                send(client, reply);
            }
        }
    }

    /// What the relay answers.
    fn relayed(&self, head: &[String], asked: &Asked) -> Reply {
        let relay = self.relay.lock().unwrap().clone();
        let mut stream = TcpStream::connect(relay).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut request = format!("{} {} HTTP/1.0\r\n", asked.method, asked.path);
        for line in head {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            if !["connection", "accept-encoding"].contains(&name.as_str()) {
                request += &format!("{line}\r\n");
            }
        }
        stream.write_all(&[request.as_bytes(), b"\r\n", &asked.body].concat()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let kept = head.lines().filter(|line| {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            !["connection", "content-length"].contains(&name.as_str())
        });
        let head = kept.collect::<Vec<_>>().join("\r\n").replacen("HTTP/1.0", "HTTP/1.1", 1);
        Reply { head, body: answer[end + 4..].to_vec() }
    }
}

/// An answer: its status line and headers, but for those about the connection, and its body.
struct Reply {
    head: String,
    body: Vec<u8>,
}

/// What a broken proxy says. Not worth trying again at once.
fn failure() -> Reply {
    Reply { head: "HTTP/1.1 500 X".to_owned(), body: Vec::new() }
}

fn send(mut client: &TcpStream, reply: Reply) {
    let Reply { head, body } = reply;
    let length = body.len();
    let head = format!("{head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    let _ = client.write_all(&[head.as_bytes(), &body].concat());
}

/// The header lines of a request, and the request.
fn read(client: &TcpStream) -> Option<(Vec<String>, Asked)> {
    let mut reader = BufReader::new(client);
    let mut lines = (&mut reader).lines().map_while(Result::ok);
    let request = lines.next()?;
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let length = head.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let mut words = request.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    Some((head, Asked { method, path, body }))
}
