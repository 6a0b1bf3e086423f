//! One keep-alive HTTP/1.1 connection, one request at a time.
//!
//! Not a client for the world: it speaks to the two servers of this run, which answer with a
//! `Content-Length`. It shares two cores with the server it measures, and every microsecond it
//! does not spend on being general is one the server has.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest answer that is read.
const MAX_ANSWER: usize = 1 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The connection.
    #[error("the connection: {0}")]
    Io(#[from] io::Error),
    /// The server hung up in the middle.
    #[error("the server hung up before its answer was complete")]
    HungUp,
    /// Not an answer of ours.
    #[error("the server's answer is not HTTP/1.1 with a Content-Length below {MAX_ANSWER}")]
    Malformed,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    host: String,
    sent: Vec<u8>,
    received: Vec<u8>,
}

/// An answer; borrowed, for the next one overwrites it.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// 200 and so on.
    pub status: u16,
    /// The body.
    pub body: &'a [u8],
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// [`io::Error`].
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, host: address.to_string(), sent: Vec::new(), received: Vec::new() })
    }

    /// Posts JSON and reads the answer, whatever its status.
    ///
    /// # Errors
    /// [`HttpError`]; then the connection is of no more use.
    pub async fn post(
        &mut self,
        path: &str,
        token: Option<&str>,
        json: &str,
    ) -> Result<Answer<'_>, HttpError> {
        use io::Write as _;
        self.sent.clear();
        let (host, length) = (&self.host, json.len());
        write!(self.sent, "POST {path} HTTP/1.1\r\nHost: {host}\r\n")?;
        if let Some(token) = token {
            write!(self.sent, "Authorization: Bearer {token}\r\n")?;
        }
        write!(
            self.sent,
            "Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{json}"
        )?;
        self.stream.write_all(&self.sent).await?;
        self.answer().await
    }

    /// Gets, and reads the answer, whatever its status.
    ///
    /// # Errors
    /// [`HttpError`]; then the connection is of no more use.
    pub async fn get(&mut self, path: &str) -> Result<Answer<'_>, HttpError> {
        use io::Write as _;
        self.sent.clear();
        write!(self.sent, "GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host)?;
        self.stream.write_all(&self.sent).await?;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Answer<'_>, HttpError> {
        self.received.clear();
        let (status, from, to) = loop {
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(HttpError::HungUp);
            }
            if let Some(head) = head(&self.received)? {
                break head;
            }
        };
        while self.received.len() < to {
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(HttpError::HungUp);
            }
        }
        // More than one answer to one request would shift all that follow.
        let body = self.received.get(from..).filter(|body| body.len() == to - from);
        Ok(Answer { status, body: body.ok_or(HttpError::Malformed)? })
    }
}

/// Status, start and end of the answer in `received`, once its head is complete.
///
/// ```text
/// HTTP/1.1 SP status SP reason CR LF (name ":" value CR LF)* CR LF body
/// ```
fn head(received: &[u8]) -> Result<Option<(u16, usize, usize)>, HttpError> {
    let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if received.len() > MAX_ANSWER { Err(HttpError::Malformed) } else { Ok(None) };
    };
    let text = std::str::from_utf8(&received[..end]).map_err(|_| HttpError::Malformed)?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    let status = status.and_then(|rest| rest.get(..3)?.parse().ok()).ok_or(HttpError::Malformed)?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .filter(|length| *length <= MAX_ANSWER)
        .ok_or(HttpError::Malformed)?;
    Ok(Some((status, end + 4, end + 4 + length)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn heads_are_read_once_they_are_complete() {
        let text = b"HTTP/1.1 404 Not Found\r\nx: y\r\ncontent-LENGTH: 3\r\n\r\nabc";
        for cut in 0..text.len() {
            let read = head(&text[..cut]).unwrap();
            assert_eq!(read, (cut >= text.len() - 3).then_some((404, text.len() - 3, text.len())));
        }
        for bad in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 2\r\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n",
        ] {
            assert!(head(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    /// Answers the first bytes of each connection with `answer` in two pieces, and hangs up.
    async fn served(answer: &'static [u8]) -> Result<(u16, Vec<u8>), HttpError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            for piece in answer.chunks(answer.len().div_ceil(2)) {
                stream.write_all(piece).await.unwrap();
                stream.flush().await.unwrap();
            }
            request.truncate(read);
            String::from_utf8(request).unwrap()
        });
        let mut connection = Connection::open(address).await.unwrap();
        let answer = connection.post("/messages", Some("t"), "{}").await;
        let answer = answer.map(|a| (a.status, a.body.to_vec()));
        let request = server.await.unwrap();
        assert!(request.starts_with("POST /messages HTTP/1.1\r\nHost: 127.0.0.1:"));
        assert!(request.contains("\r\nAuthorization: Bearer t\r\n"));
        assert!(request.ends_with("\r\nContent-Length: 2\r\n\r\n{}"));
        answer
    }

    #[tokio::test]
    async fn an_answer_in_pieces_is_one_answer() {
        let answer = served(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
        assert_eq!(answer.unwrap(), (200, b"hello".to_vec()));
    }

    #[tokio::test]
    async fn half_an_answer_and_two_answers_are_none() {
        let half = served(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello").await;
        assert!(matches!(half, Err(HttpError::HungUp)));
        let more = served(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nhello").await;
        assert!(matches!(more, Err(HttpError::Malformed)));
    }
}
