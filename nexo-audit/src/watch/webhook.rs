//! Telling by HTTP: a POST of the notice as JSON, taken by any 2xx status.
//!
//! `Idempotency-Key` carries the notice's id: the same notice may come again, and a receiver that
//! has seen its id answers 2xx and does no more. The URL may hold a secret, as many services'
//! do, so it is never shown; redirects are not followed, because the secret would go along.

use super::notice::Notice;
use reqwest::{Client, Url, header, redirect};
use std::fmt;
use std::time::Duration;

/// Longest a delivery may take, connecting included.
const LIMIT: Duration = Duration::from_secs(30);

/// Why text is not the address of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WebhookUrlError {
    /// Not an absolute URL.
    #[error("not a URL")]
    Syntax,
    /// Another scheme than http and https.
    #[error("a webhook's URL has to start with http:// or https://")]
    Scheme,
}

/// The address of a webhook. It may be a secret, so it is not shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct WebhookUrl(Url);

impl WebhookUrl {
    /// Reads an address.
    ///
    /// # Errors
    /// [`WebhookUrlError`].
    pub(crate) fn parse(text: &str) -> Result<Self, WebhookUrlError> {
        let url = Url::parse(text.trim()).map_err(|_| WebhookUrlError::Syntax)?;
        match url.scheme() {
            "http" | "https" => Ok(Self(url)),
            _ => Err(WebhookUrlError::Scheme),
        }
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookUrl(..)")
    }
}

/// Why a webhook did not take a notice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WebhookError {
    /// There is no client: the system's certificates cannot be used.
    #[error("no client for HTTP: {0}")]
    Client(String),
    /// Nobody there, too slow, or the connection broke off.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// Another status than 2xx.
    #[error("the answer was HTTP status {0}")]
    Status(u16),
}

/// A receiver behind HTTP.
#[derive(Debug, Clone)]
pub(crate) struct Webhook {
    url: WebhookUrl,
    client: Client,
}

impl Webhook {
    /// A client for the receiver. The process must have installed its TLS provider.
    ///
    /// # Errors
    /// [`WebhookError::Client`].
    pub(crate) fn new(url: WebhookUrl) -> Result<Self, WebhookError> {
        let client = Client::builder()
            .user_agent(concat!("nexo-audit/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .referer(false)
            .timeout(LIMIT)
            .build()
            .map_err(|error| WebhookError::Client(error.without_url().to_string()))?;
        Ok(Self { url, client })
    }

    /// Posts a notice. What comes back is not read.
    ///
    /// # Errors
    /// [`WebhookError`] when it was not taken.
    pub(crate) async fn tell(&self, notice: &Notice) -> Result<(), WebhookError> {
        let body = serde_json::to_vec(notice).map_err(|e| WebhookError::Client(e.to_string()))?;
        let request = self
            .client
            .post(self.url.0.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header("Idempotency-Key", &notice.id)
            .body(body);
        let answer = request.send().await;
        let answer = answer.map_err(|e| WebhookError::NoAnswer(words(&e.without_url())))?;
        let status = answer.status();
        if status.is_success() { Ok(()) } else { Err(WebhookError::Status(status.as_u16())) }
    }
}

/// The last error of a chain says what really happened.
fn words(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), words)
}

#[cfg(test)]
mod tests {
    use super::super::notice::{Account, Identity, Kind};
    use super::*;
    use crate::finding::Verdict;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::mpsc::{Receiver, channel};

    fn notice() -> Notice {
        let url = "https://log.example";
        let identity = Identity { number: 0, url, kind: Kind::Finding, subject: "" };
        Notice::new(identity, Verdict::Fork, None, 0, Account::default())
    }

    fn webhook(url: &str) -> Webhook {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Webhook::new(WebhookUrl::parse(url).unwrap()).unwrap()
    }

    /// Answers one request after the other with these statuses; what was asked.
    fn receiver(statuses: &'static [u16]) -> (String, Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/secret", listener.local_addr().unwrap());
        let (tell, told) = channel();
        std::thread::spawn(move || {
            for status in statuses {
                let (mut stream, _) = listener.accept().unwrap();
                let mut bytes = vec![0; 64 * 1024];
                let mut length = 0;
                while !String::from_utf8_lossy(&bytes[..length]).contains("\"evidence\":null}") {
                    length += stream.read(&mut bytes[length..]).unwrap();
                }
                tell.send(String::from_utf8_lossy(&bytes[..length]).into_owned()).unwrap();
                let head = format!("HTTP/1.1 {status} X\r\nLocation: /other\r\n");
                let rest = "Connection: close\r\nContent-Length: 0\r\n\r\n";
                stream.write_all((head + rest).as_bytes()).unwrap();
            }
        });
        (url, told)
    }

    #[tokio::test]
    async fn only_2xx_takes_a_notice() {
        let (url, told) = receiver(&[200, 204, 302, 404, 500]);
        let webhook = webhook(&url);
        for taken in [Ok(()), Ok(()), Err(302), Err(404), Err(500)] {
            let taken = taken.map_err(WebhookError::Status);
            assert_eq!(webhook.tell(&notice()).await, taken);
        }
        let asked = told.recv().unwrap();
        let (head, body) = asked.split_once("\r\n\r\n").unwrap();
        let head = head.to_lowercase();
        assert!(head.starts_with("post /secret http/1.1"), "{head}");
        assert!(head.contains("content-type: application/json"), "{head}");
        assert!(head.contains(&format!("idempotency-key: {}", notice().id)), "{head}");
        assert_eq!(serde_json::from_str::<Notice>(body).unwrap(), notice());
    }

    #[tokio::test]
    async fn nobody_there_and_the_address_is_not_told() {
        // Bound and dropped: the port is free again.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let webhook = webhook(&format!("http://{port}/secret"));
        let error = webhook.tell(&notice()).await.unwrap_err();
        assert!(matches!(error, WebhookError::NoAnswer(_)), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(!format!("{webhook:?}").contains("secret/"), "{webhook:?}");
        assert_eq!(format!("{:?}", webhook.url), "WebhookUrl(..)");
    }

    #[test]
    fn addresses() {
        assert!(WebhookUrl::parse(" https://hooks.example/T0/B0?x=y\n").is_ok());
        assert_eq!(WebhookUrl::parse("hooks.example"), Err(WebhookUrlError::Syntax));
        assert_eq!(WebhookUrl::parse("ftp://hooks.example"), Err(WebhookUrlError::Scheme));
    }
}
