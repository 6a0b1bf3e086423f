//! The relay over HTTP and WebSocket: one method per route, typed errors, bounded answers.
//!
//! What it is not: nothing here judges what the relay says. Heads, proofs, keys and receipts go
//! to `trust` and `e2ee` as they came.
//!
//! [`Relay`] is what anybody may ask; [`Member`] asks as a logged-in device. Access tokens live
//! in memory only. Every request of ours may be repeated without harm, so all of them are tried
//! again when the failure is temporary, a few times, or for a sender until `--timeout`.

mod accounts;
mod error;
mod frames;
mod member;
mod socket;
mod tls;
mod url;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use nexo_schema::bytes::from_base64;
use nexo_schema::error::{ErrorCode, Problem};
use nexo_schema::http::{ConsistencyView, HeadView, InclusionView};
use reqwest::{Client, Method, Response};
use rustls::ClientConfig;
use serde::de::DeserializeOwned;

pub use error::ApiError;
pub use frames::{Ack, Greeting, Heard};
pub use member::{Login, Member};
pub use socket::Socket;
pub use tls::{TlsError, client_config};
pub use url::{RelayUrl, UrlError};

use crate::output::Progress;
use crate::trust::{Hash, LogSource};

/// Longest answer read: a page of 200 messages of 64 KiB in base64, with packets and proofs.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// Longest text answer (notes, keys).
const MAX_TEXT: usize = 128 * 1024;
/// Longest audit or consistency path: one hash per level of a 64-bit tree, and a few more.
const MAX_PATH: usize = 130;

/// Tries after the first; with the delays below about six to twelve seconds in all.
const RETRIES: usize = 5;
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// A relay that asks for more patience than this is taken to have said no.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Longest wait for the next bytes of an answer: a follower without a deadline must not hang on
/// a connection that is half gone.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// One connection pool to one relay.
pub struct Relay {
    http: Client,
    url: RelayUrl,
    tls: Arc<ClientConfig>,
    progress: Progress,
    /// Whether the tries have no end but `--timeout`.
    persists: Cell<bool>,
}

/// Longest bundle: 256 entries of 65,535 bytes with their lengths.
const MAX_BUNDLE: usize = 256 * (65_535 + 2);

/// One request.
#[derive(Clone)]
pub(super) struct Call<'a> {
    pub(super) method: Method,
    /// Starts with `/`.
    pub(super) path: &'a str,
    /// Without `?`; empty for none.
    pub(super) query: &'a str,
    pub(super) body: Option<&'a [u8]>,
}

/// Headers that prove who asks.
#[derive(Default)]
pub(super) struct Credentials {
    pub(super) authorization: Option<String>,
    pub(super) dpop: Option<String>,
}

impl Call<'_> {
    pub(super) fn route(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

impl Relay {
    /// Prepares a client; nothing is sent yet.
    ///
    /// # Errors
    /// [`ApiError::Client`].
    pub fn new(
        url: RelayUrl,
        tls: Arc<ClientConfig>,
        progress: Progress,
    ) -> Result<Self, ApiError> {
        let mut builder = Client::builder()
            .tls_backend_preconfigured(ClientConfig::clone(&tls))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(LONGEST_SILENCE)
            .user_agent(concat!("nexo-cli/", env!("CARGO_PKG_VERSION")));
        if url.is_loopback() {
            // A proxy of the environment would carry tokens off this machine in plain text.
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|e| ApiError::Client(e.to_string()))?;
        Ok(Self { http, url, tls, progress, persists: Cell::new(false) })
    }

    /// Says whether what failed for a temporary reason is tried again until `--timeout` ends the
    /// command, instead of a few times: for those who have something to deliver.
    pub fn persist(&self, on: bool) {
        self.persists.set(on);
    }

    /// The relay's URL.
    #[must_use]
    pub fn url(&self) -> &RelayUrl {
        &self.url
    }

    /// The log's public key as the relay states it, one line: what is pinned on first use. It
    /// proves nothing.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn stated_vkey(&self) -> Result<String, ApiError> {
        let call = Call { method: Method::GET, path: "/log/vkey", query: "", body: None };
        let bytes = self.asked(&call, MAX_TEXT).await?;
        let text = String::from_utf8(bytes).ok().map(|text| text.trim_ascii().to_owned());
        text.ok_or_else(|| malformed(&call, "a text"))
    }

    /// The entries of a bundle of the log; `path` as C2SP tlog-tiles has it, without the slash.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn bundle_of_entries(&self, path: &str) -> Result<Vec<u8>, ApiError> {
        let path = format!("/{path}");
        let call = Call { method: Method::GET, path: &path, query: "", body: None };
        self.asked(&call, MAX_BUNDLE).await
    }

    async fn asked(&self, call: &Call<'_>, limit: usize) -> Result<Vec<u8>, ApiError> {
        self.retry(|| self.once(call, Credentials::default(), limit)).await
    }

    /// Tries again what failed for a temporary reason, and says so on a terminal.
    pub(super) async fn retry<T, F: Future<Output = Result<T, ApiError>>>(
        &self,
        attempt: impl FnMut() -> F,
    ) -> Result<T, ApiError> {
        let delays = ExponentialBuilder::default()
            .with_min_delay(FIRST_DELAY)
            .with_max_delay(LONGEST_DELAY)
            .with_jitter();
        let delays = match self.persists.get() {
            true => delays.without_max_times(),
            false => delays.with_max_times(RETRIES),
        };
        let done = attempt
            .retry(delays)
            .sleep(tokio::time::sleep)
            .when(ApiError::is_temporary)
            .adjust(patience)
            .notify(|error, delay| {
                self.progress.show(&format!("{error}; again in {:.1} s", delay.as_secs_f64()));
            })
            .await;
        self.progress.clear();
        done
    }

    /// Sends one request once.
    pub(super) async fn once(
        &self,
        call: &Call<'_>,
        credentials: Credentials,
        limit: usize,
    ) -> Result<Vec<u8>, ApiError> {
        let mut url = self.url.route(call.path);
        if !call.query.is_empty() {
            url = format!("{url}?{}", call.query);
        }
        let mut request = self.http.request(call.method.clone(), url);
        if let Some(body) = call.body {
            request = request.header("Content-Type", "application/json").body(body.to_vec());
        }
        if let Some(authorization) = credentials.authorization {
            request = request.header("Authorization", authorization);
        }
        if let Some(proof) = credentials.dpop {
            request = request.header("DPoP", proof);
        }
        let response = request.send().await.map_err(network)?;
        let status = response.status().as_u16();
        let wait = retry_after(&response);
        let bytes = bounded(call, response, limit).await?;
        if (200..300).contains(&status) { Ok(bytes) } else { Err(refusal(status, wait, &bytes)) }
    }
}

impl LogSource for Relay {
    async fn checkpoint(&self) -> Result<Vec<u8>, ApiError> {
        let call = Call { method: Method::GET, path: "/checkpoint", query: "", body: None };
        self.asked(&call, MAX_TEXT).await
    }

    async fn log_keys(&self) -> Result<Vec<u8>, ApiError> {
        let call = Call { method: Method::GET, path: "/log/keys", query: "", body: None };
        self.asked(&call, MAX_TEXT).await
    }

    async fn consistency(&self, from: u64, to: u64) -> Result<Vec<Hash>, ApiError> {
        let query = format!("from={from}&to={to}");
        let call =
            Call { method: Method::GET, path: "/log/consistency", query: &query, body: None };
        let view: ConsistencyView = json(&call, &self.asked(&call, MAX_TEXT).await?)?;
        if (view.from, view.to) != (from, to) {
            return Err(malformed(&call, "the proof that was asked for"));
        }
        path(&view.hashes).ok_or_else(|| malformed(&call, "a path of hashes"))
    }

    async fn head_covering(&self, sth_index: u64) -> Result<Option<Vec<u8>>, ApiError> {
        let query = format!("covering={sth_index}");
        let call = Call { method: Method::GET, path: "/log/head", query: &query, body: None };
        let view: HeadView = match self.asked(&call, MAX_TEXT).await {
            Err(error) if error.code() == Some(ErrorCode::NotFound) => return Ok(None),
            other => json(&call, &other?)?,
        };
        Ok(Some(view.note.into_bytes()))
    }

    async fn inclusion(&self, index: u64, size: u64) -> Result<Vec<Hash>, ApiError> {
        let query = format!("index={index}&size={size}");
        let call = Call { method: Method::GET, path: "/log/inclusion", query: &query, body: None };
        let view: InclusionView = json(&call, &self.asked(&call, MAX_TEXT).await?)?;
        path(&view.hashes).ok_or_else(|| malformed(&call, "a path of hashes"))
    }
}

/// Hashes of a path; `None` if one is malformed or there are more than any tree has.
#[must_use]
pub fn path(hashes: &[String]) -> Option<Vec<Hash>> {
    if hashes.len() > MAX_PATH {
        return None;
    }
    hashes.iter().map(|text| from_base64(text).ok()?.try_into().ok()).collect()
}

pub(super) fn json<T: DeserializeOwned>(call: &Call<'_>, bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|_| malformed(call, "the JSON of this route"))
}

pub(super) fn malformed(call: &Call<'_>, expected: &'static str) -> ApiError {
    ApiError::Malformed { route: call.route(), expected }
}

/// The relay's wish decides how long to wait, up to a limit. A relay that says when to come
/// back is asked again for as long as `--timeout` allows, also when the tries are used up.
fn patience(error: &ApiError, delay: Option<Duration>) -> Option<Duration> {
    match error.retry_after() {
        Some(wish) if wish > LONGEST_RETRY_AFTER => None,
        Some(wish) => Some(wish.max(delay.unwrap_or(LONGEST_DELAY))),
        None => delay,
    }
}

fn network(error: reqwest::Error) -> ApiError {
    // The innermost cause says what happened ("connection refused"); the URL is known.
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
        if let Some(refused) = tls_refusal(cause) {
            return refused;
        }
    }
    ApiError::Network(cause.to_string())
}

/// A certificate that is refused now will be refused the next time, too.
fn tls_refusal(cause: &(dyn std::error::Error + 'static)) -> Option<ApiError> {
    if let Some(error) = cause.downcast_ref::<rustls::Error>() {
        return Some(ApiError::Tls(error.to_string()));
    }
    // An I/O error's `source` skips the error it is made of.
    let inner = cause.downcast_ref::<std::io::Error>()?.get_ref()?;
    tls_refusal(inner)
}

fn retry_after(response: &Response) -> Option<u64> {
    response.headers().get("Retry-After")?.to_str().ok()?.trim().parse().ok()
}

/// Reads the body as it comes and stops at the limit, whatever the headers promised.
async fn bounded(
    call: &Call<'_>,
    mut response: Response,
    limit: usize,
) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(network)? {
        if bytes.len() + chunk.len() > limit {
            return Err(ApiError::TooLong { route: call.route(), limit });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn refusal(status: u16, wait: Option<u64>, body: &[u8]) -> ApiError {
    match serde_json::from_slice::<Problem>(body) {
        Ok(mut problem) => {
            problem.status = status;
            problem.retry_after = problem.retry_after.or(wait);
            ApiError::Refused(problem)
        }
        Err(_) => ApiError::Status(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexo_schema::bytes::to_base64;

    #[test]
    fn paths_are_hashes_and_not_too_many() {
        let hash = to_base64(&[7; 32]);
        assert_eq!(path(std::slice::from_ref(&hash)), Some(vec![[7; 32]]));
        assert_eq!(path(&[to_base64(&[7; 31])]), None);
        assert_eq!(path(&["x".to_owned()]), None);
        assert_eq!(path(&vec![hash; MAX_PATH + 1]), None);
    }

    #[test]
    fn the_relays_wish_is_kept_up_to_a_limit() {
        let mut problem = Problem::new(ErrorCode::RateLimited, "slow down");
        problem.retry_after = Some(3);
        let delay = Some(Duration::from_secs(1));
        let wait = |p: &Problem| patience(&ApiError::Refused(p.clone()), delay);
        assert_eq!(wait(&problem), Some(Duration::from_secs(3)));
        problem.retry_after = Some(3600);
        assert_eq!(wait(&problem), None);
        problem.retry_after = None;
        assert_eq!(wait(&problem), delay);
        problem.retry_after = Some(1);
        let patient = patience(&ApiError::Refused(problem), None);
        assert_eq!(patient, Some(LONGEST_DELAY), "the relay is there and said when");
        assert_eq!(patience(&ApiError::Status(503), None), None, "the tries are used up");
    }

    #[test]
    fn a_refused_certificate_is_final() {
        let error = rustls::Error::General("no".to_owned());
        let io = std::io::Error::other(std::io::Error::other(error));
        let refused = tls_refusal(&io).unwrap();
        assert!(matches!(refused, ApiError::Tls(_)) && !refused.is_temporary());
        assert!(tls_refusal(&std::io::Error::other("reset")).is_none());
    }

    #[test]
    fn a_problem_keeps_the_status_it_came_with() {
        let body = serde_json::to_vec(&Problem::new(ErrorCode::Unavailable, "d")).unwrap();
        match refusal(503, Some(2), &body) {
            ApiError::Refused(problem) => assert_eq!(problem.retry_after, Some(2)),
            other => panic!("{other}"),
        }
        assert!(matches!(refusal(502, None, b"<html>"), ApiError::Status(502)));
    }
}
