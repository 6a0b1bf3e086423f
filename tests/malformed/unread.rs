//! Bodies that the relay has no use for: does who sent one see why it was refused.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::Stage;
use crate::harness::{DEADLINE, Server};

/// A connection that says what it likes, several times.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn to(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self(BufReader::new(stream))
    }

    /// The head of a POST of so many bytes.
    fn begin(&mut self, path: &str, token: &str, size: usize) {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: {size}\r\n\r\n"
        );
        self.0.get_mut().write_all(head.as_bytes()).unwrap();
    }

    fn write(&mut self, body: &[u8]) -> std::io::Result<()> {
        self.0.get_mut().write_all(body)
    }

    /// The next answer.
    fn answer(&mut self) -> String {
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let from = head.len();
            assert_ne!(self.0.read_line(&mut head).unwrap(), 0, "no whole answer: {head:?}");
            if let Some(value) = head[from..].to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        head + &String::from_utf8(body).unwrap()
    }

    /// Asks for something else.
    fn works(&mut self) {
        self.0.get_mut().write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let answer = self.answer();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

/// Behind nginx this was a 502 (RFC 9112 section 9.6).
#[tokio::test]
async fn a_refusal_was_lost_when_the_rest_of_a_body_met_a_closed_connection() {
    let stage = Stage::new().await;
    for (path, token, size, status, code) in [
        ("/messages", stage.alice.token(), 900_000, 413, "too_large"),
        ("/messages", "x", 200_000, 401, "unauthorized"),
        ("/messages", "x", 900_000, 401, "unauthorized"),
        ("/auth/verify", "x", 900_000, 413, "too_large"),
        ("/conversations", "x", 200_000, 401, "unauthorized"),
    ] {
        let mut connection = Connection::to(&stage.server);
        connection.begin(path, token, size);
        for piece in vec![b' '; size].chunks(50_000) {
            connection.write(piece).unwrap();
        }
        let answer = connection.answer();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{size}: {answer}");
        assert!(answer.contains(code), "{answer}");
        connection.works();
    }
    stage.untouched().await;
}

#[tokio::test]
async fn what_is_refused_is_not_read_without_end() {
    let stage = Stage::new().await;
    // One that sends for ever is hung up on, with what its kernel and ours hold for it.
    let mut connection = Connection::to(&stage.server);
    connection.begin("/messages", "", 1 << 40);
    let piece = vec![b' '; 1 << 20];
    let sent = (0..100).take_while(|_| connection.write(&piece).is_ok()).count();
    assert!(sent < 50, "{sent} MiB");
    // One that sends no more has its answer all the same.
    let mut connection = Connection::to(&stage.server);
    connection.begin("/messages", "", 1000);
    connection.write(&[b' '; 100]).unwrap();
    let began = Instant::now();
    assert!(connection.answer().starts_with("HTTP/1.1 401 "));
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    stage.untouched().await;
}
