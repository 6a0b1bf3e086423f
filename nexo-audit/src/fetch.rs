//! Where a log is read from: a trait of one method, and HTTP.
//!
//! Everything that comes back is a stranger's. Sizes are checked while bytes arrive, and again
//! while they are unpacked (a log may send bundles in gzip unasked, C2SP tlog-tiles), there is a
//! time limit on every step, redirects are not followed (a log has one address), and nothing of
//! an error page is shown. Plain `http` is allowed: what counts is signed or hashed.

use flate2::read::GzDecoder;
use reqwest::header::HeaderValue;
use reqwest::{Client, ClientBuilder, Response, StatusCode, Url, header, redirect};
use std::error::Error;
use std::fmt;
use std::fmt::Write as _;
use std::future::Future;
use std::io::Read;
use std::net::IpAddr;
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence while an answer arrives.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest a single answer may take: at the largest answer this is 9 kB/s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a "slow down" (429, 503) is obeyed before it counts as no answer.
const PATIENCE: u32 = 5;
/// Longest wait that a log may ask for at a time, seconds.
const LONGEST_WAIT: u64 = 30;

/// Something that serves a log's files.
pub trait Source: Send + Sync + 'static {
    /// Whether this is a copy of the log's files at hand: answers come at once, and nobody is
    /// there to answer questions like `/log/consistency`.
    const LOCAL: bool = false;

    /// The bytes at `path` (relative, without a leading slash), at most `limit` of them.
    ///
    /// # Errors
    /// [`FetchError`]; [`FetchError::NotFound`] only when the source says that there is nothing.
    fn get(
        &self,
        path: &str,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<u8>, FetchError>> + Send;
}

/// Why there are no bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The source says that it does not exist.
    #[error("not found")]
    NotFound,
    /// The source answered with another HTTP status than 200 and 404. A redirect is one.
    #[error("the answer was HTTP status {status}")]
    Status {
        /// The status code.
        status: u16,
    },
    /// The answer is longer than it can be.
    #[error("the answer is longer than {limit} bytes")]
    TooLarge {
        /// The most that was read.
        limit: usize,
    },
    /// Nobody there, or no secure connection to them.
    #[error("no connection: {cause}")]
    Connect {
        /// The innermost cause.
        cause: String,
    },
    /// In another content coding than gzip, which nobody asked for.
    #[error("the answer is packed in a way that was not asked for")]
    Packed,
    /// Too slow.
    #[error("no answer in time")]
    TimedOut,
    /// The connection broke off.
    #[error("the connection failed: {cause}")]
    Broken {
        /// The innermost cause.
        cause: String,
    },
}

/// Why text is not the address of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not an absolute URL.
    #[error("not a URL; it should look like https://relay.example.org")]
    Syntax,
    /// Another scheme than http and https.
    #[error("the URL has to start with http:// or https://")]
    Scheme,
    /// A user, password, query or fragment, which a log's address has not.
    #[error("the URL of a log has no user, password, query or fragment")]
    Extra,
}

/// The address of a log, under which its files lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogUrl(Url);

impl LogUrl {
    /// Reads an address; a slash at its end makes no difference.
    ///
    /// # Errors
    /// [`UrlError`] names what differs.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let mut url = Url::parse(text).map_err(|_| UrlError::Syntax)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(UrlError::Scheme);
        }
        let user = !url.username().is_empty() || url.password().is_some();
        if user || url.query().is_some() || url.fragment().is_some() {
            return Err(UrlError::Extra);
        }
        let path = format!("{}/", url.path().trim_end_matches('/'));
        url.set_path(&path);
        Ok(Self(url))
    }

    /// A file name that no other address has: `relay.example.org_8000`.
    #[must_use]
    pub fn file_stem(&self) -> String {
        let authority = self.0.authority();
        let path = self.0.path().trim_end_matches('/');
        let mut name = String::new();
        for byte in authority.bytes().chain(path.bytes()) {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' => name.push(byte.into()),
                b':' => name.push('_'),
                b'/' => name.push('+'),
                // Writing to a String does not fail.
                other => drop(write!(name, "%{other:02x}")),
            }
        }
        name
    }

    /// Whether what is sent there is read by nobody on the way: encrypted, or not leaving this
    /// machine.
    #[must_use]
    pub fn keeps_secrets(&self) -> bool {
        let here = |host: &str| {
            let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
            host == "localhost" || address.is_ok_and(|address| address.is_loopback())
        };
        self.0.scheme() == "https" || self.0.host_str().is_some_and(here)
    }

    fn join(&self, path: &str) -> Result<Url, FetchError> {
        self.0.join(path).map_err(|e| FetchError::Connect { cause: e.to_string() })
    }
}

impl fmt::Display for LogUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// A log behind HTTP.
#[derive(Debug, Clone)]
pub struct Http {
    base: LogUrl,
    client: Client,
}

impl Http {
    /// A client for the log at `base`. The process must have installed its TLS provider, which
    /// `main` does first.
    ///
    /// # Errors
    /// [`FetchError::Connect`] when the system's certificates cannot be used.
    pub fn new(base: LogUrl) -> Result<Self, FetchError> {
        Self::over(base, client())
    }

    /// As [`Http::new`], showing a token with every request; unless it is encrypted, to the log
    /// itself and to no proxy.
    ///
    /// # Errors
    /// As [`Http::new`], and for a token that no header can hold.
    pub fn with_token(base: LogUrl, token: &str) -> Result<Self, FetchError> {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|error| FetchError::Connect { cause: error.to_string() })?;
        value.set_sensitive(true);
        let headers = header::HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
        let client = client().default_headers(headers);
        // A proxy named by the environment would read what is not encrypted.
        let direct = base.0.scheme() == "http";
        Self::over(base, if direct { client.no_proxy() } else { client })
    }

    fn over(base: LogUrl, client: ClientBuilder) -> Result<Self, FetchError> {
        let client = client.build();
        let client = client.map_err(|e| FetchError::Connect { cause: innermost(&e) })?;
        Ok(Self { base, client })
    }

    async fn answer(&self, url: &Url) -> Result<Response, FetchError> {
        let mut patience = PATIENCE;
        loop {
            let answer = self.client.get(url.clone()).send().await.map_err(of_reqwest)?;
            match answer.status() {
                StatusCode::OK => return Ok(answer),
                StatusCode::NOT_FOUND => return Err(FetchError::NotFound),
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE if patience > 0 => {
                    patience -= 1;
                    tokio::time::sleep(asked_wait(&answer)).await;
                }
                other => return Err(FetchError::Status { status: other.as_u16() }),
            }
        }
    }

    async fn once(&self, path: &str, limit: usize) -> Result<Vec<u8>, FetchError> {
        let mut answer = self.answer(&self.base.join(path)?).await?;
        let packed = is_gzip(&answer)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(of_reqwest)? {
            if chunk.len() > limit - bytes.len() {
                return Err(FetchError::TooLarge { limit });
            }
            bytes.extend_from_slice(&chunk);
        }
        if packed { unpack(&bytes, limit) } else { Ok(bytes) }
    }
}

/// What every client keeps to.
fn client() -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("nexo-audit/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
}

impl Source for Http {
    async fn get(&self, path: &str, limit: usize) -> Result<Vec<u8>, FetchError> {
        match self.once(path, limit).await {
            // Of many thousand requests one meets a server that just gave up a kept connection.
            Err(FetchError::Broken { .. }) => self.once(path, limit).await,
            outcome => outcome,
        }
    }
}

/// Whether the answer is in gzip, once.
fn is_gzip(answer: &Response) -> Result<bool, FetchError> {
    let mut codings = answer.headers().get_all(header::CONTENT_ENCODING).iter();
    match (codings.next().map(HeaderValue::as_bytes), codings.next()) {
        (None | Some(b"identity"), None) => Ok(false),
        (Some(b"gzip" | b"x-gzip"), None) => Ok(true),
        _ => Err(FetchError::Packed),
    }
}

/// What gzip (RFC 1952) holds, of which no more than `limit` bytes are unpacked. What may follow
/// the first member is not looked at.
fn unpack(bytes: &[u8], limit: usize) -> Result<Vec<u8>, FetchError> {
    let mut unpacked = Vec::new();
    let bounded = GzDecoder::new(bytes).take(limit as u64 + 1).read_to_end(&mut unpacked);
    bounded.map_err(|error| FetchError::Broken { cause: error.to_string() })?;
    if unpacked.len() > limit { Err(FetchError::TooLarge { limit }) } else { Ok(unpacked) }
}

/// The wait in `Retry-After`, when it is given in seconds; otherwise one second.
fn asked_wait(answer: &Response) -> Duration {
    let header = answer.headers().get(header::RETRY_AFTER);
    let seconds = header.and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(1);
    Duration::from_secs(u64::min(seconds, LONGEST_WAIT))
}

fn of_reqwest(error: reqwest::Error) -> FetchError {
    let error = error.without_url();
    if error.is_timeout() {
        FetchError::TimedOut
    } else if error.is_connect() {
        FetchError::Connect { cause: innermost(&error) }
    } else {
        FetchError::Broken { cause: innermost(&error) }
    }
}

/// The last error of a chain says what really happened.
fn innermost(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testlog::{Answer, serve};
    use flate2::Compression;
    use flate2::read::GzEncoder;

    fn http(answers: &[(&str, Answer)]) -> Http {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Http::new(LogUrl::parse(&serve(answers)).unwrap()).unwrap()
    }

    #[test]
    fn addresses() {
        for (text, shown, stem) in [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000", "127.0.0.1_8000"),
            ("https://Relay.example.org/", "https://relay.example.org", "relay.example.org"),
            ("https://a/b/c//", "https://a/b/c", "a+b+c"),
            ("http://[::1]:8000/x_y", "http://[::1]:8000/x_y", "%5b__1%5d_8000+x%5fy"),
        ] {
            let url = LogUrl::parse(text).unwrap();
            assert_eq!((url.to_string().as_str(), url.file_stem().as_str()), (shown, stem));
        }
        for (text, kept) in [
            ("https://relay.example.org", true),
            ("http://localhost:8000", true),
            ("http://127.0.0.1:8000", true),
            ("http://[::1]:8000/x", true),
            ("http://relay.example.org", false),
            ("http://192.0.2.1", false),
            ("http://localhost.example", false),
        ] {
            assert_eq!(LogUrl::parse(text).unwrap().keeps_secrets(), kept, "{text}");
        }
        let url = LogUrl::parse("https://a/b").unwrap();
        assert_eq!(url.join("tile/0/000").unwrap().as_str(), "https://a/b/tile/0/000");
        for (text, why) in [
            ("", UrlError::Syntax),
            ("relay.example.org", UrlError::Syntax),
            ("ftp://a", UrlError::Scheme),
            ("localhost:8000", UrlError::Scheme),
            ("https://user@a", UrlError::Extra),
            ("https://a?x", UrlError::Extra),
            ("https://a#x", UrlError::Extra),
        ] {
            assert_eq!(LogUrl::parse(text), Err(why), "{text}");
        }
    }

    #[tokio::test]
    async fn answers_are_bounded_and_named() {
        let source = http(&[
            ("/good", Answer::ok(b"12345")),
            ("/moved", Answer::new(302, b"").header("Location", "/good")),
            ("/broken", Answer::new(500, b"secret words")),
        ]);
        assert_eq!(source.get("good", 5).await, Ok(b"12345".to_vec()));
        assert_eq!(source.get("good", 4).await, Err(FetchError::TooLarge { limit: 4 }));
        assert_eq!(source.get("moved", 9).await, Err(FetchError::Status { status: 302 }));
        assert_eq!(source.get("broken", 9).await, Err(FetchError::Status { status: 500 }));
        assert_eq!(source.get("absent", 9).await, Err(FetchError::NotFound));
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        GzEncoder::new(bytes, Compression::best()).read_to_end(&mut packed).unwrap();
        packed
    }

    #[tokio::test]
    async fn what_is_packed_is_bounded_before_and_after() {
        let packed = |bytes: &[u8], coding| Answer::binary(bytes, &[("Content-Encoding", coding)]);
        let bomb = gzip(&vec![0; 100 << 20]);
        assert!(bomb.len() < 128 << 10, "{}", bomb.len());
        let good = gzip(b"12345");
        let source = http(&[
            ("/good", packed(&good, "gzip")),
            ("/plain", packed(b"12345", "identity")),
            ("/bomb", packed(&bomb, "gzip")),
            ("/long", packed(&gzip(&vec![0; 1001]), "gzip")),
            ("/cut", packed(&good[..good.len() - 1], "gzip")),
            ("/junk", packed(b"12345", "gzip")),
            ("/other", packed(b"12345", "br")),
            ("/twice", packed(&gzip(&good), "gzip, gzip")),
        ]);
        for path in ["good", "plain"] {
            assert_eq!(source.get(path, 30).await, Ok(b"12345".to_vec()));
        }
        let limit = 1000;
        assert_eq!(source.get("long", limit).await, Err(FetchError::TooLarge { limit }));
        let limit = 1 << 20;
        assert_eq!(source.get("bomb", limit).await, Err(FetchError::TooLarge { limit }));
        for path in ["cut", "junk"] {
            let broken = source.get(path, 30).await;
            assert!(matches!(broken, Err(FetchError::Broken { .. })), "{broken:?}");
        }
        for path in ["other", "twice"] {
            assert_eq!(source.get(path, 30).await, Err(FetchError::Packed));
        }
    }

    #[tokio::test]
    async fn a_busy_log_is_asked_again_and_not_for_ever() {
        let busy = || Answer::new(429, b"").header("Retry-After", "0");
        let source = http(&[
            ("/later", busy()),
            ("/later", Answer::new(503, b"").header("Retry-After", "0")),
            ("/later", Answer::ok(b"here")),
            ("/never", busy()),
        ]);
        assert_eq!(source.get("later", 9).await, Ok(b"here".to_vec()));
        assert_eq!(source.get("never", 9).await, Err(FetchError::Status { status: 429 }));
    }

    #[tokio::test]
    async fn a_connection_that_broke_is_made_again_once() {
        let cut = || Answer::cut(b"12345");
        let source = http(&[
            ("/once", cut()),
            ("/once", Answer::ok(b"12345")),
            ("/twice", cut()),
            ("/twice", cut()),
            ("/twice", Answer::ok(b"12345")),
        ]);
        assert_eq!(source.get("once", 9).await, Ok(b"12345".to_vec()));
        let broken = source.get("twice", 9).await;
        assert!(matches!(broken, Err(FetchError::Broken { .. })), "{broken:?}");
    }

    #[tokio::test]
    async fn nobody_there() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Bound and dropped: the port is free again.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let source = Http::new(LogUrl::parse(&format!("http://{port}")).unwrap()).unwrap();
        let error = source.get("checkpoint", 9).await.unwrap_err();
        assert!(matches!(error, FetchError::Connect { .. }), "{error:?}");
    }
}
