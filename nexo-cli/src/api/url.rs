//! Where a relay is: one spelling per relay, and no plain text over a network.

use std::fmt;
use std::net::IpAddr;

use reqwest::Url;

/// Why a text is not a relay's URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not a URL, or not http or https.
    #[error("expected a URL like https://relay.example.org")]
    Form,
    /// User name, password, query or fragment.
    #[error("a relay's URL has no user name, query or fragment")]
    Extra,
    /// `http://` to another machine.
    #[error("http:// is for this machine only; use https://, or --allow-plaintext-http")]
    Plaintext,
}

/// A relay's URL: scheme and host in lower case, default port left out, no `/` at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayUrl {
    text: String,
    secure: bool,
    loopback: bool,
}

impl RelayUrl {
    /// Reads and normalises.
    ///
    /// # Errors
    /// [`UrlError::Form`] or [`UrlError::Extra`].
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let url = Url::parse(text).map_err(|_| UrlError::Form)?;
        let secure = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(UrlError::Form),
        };
        let host = url.host_str().filter(|h| !h.is_empty()).ok_or(UrlError::Form)?;
        let user = !url.username().is_empty() || url.password().is_some();
        if user || url.query().is_some() || url.fragment().is_some() {
            return Err(UrlError::Extra);
        }
        let loopback = is_loopback(host);
        Ok(Self { text: url.as_str().trim_end_matches('/').to_owned(), secure, loopback })
    }

    /// Refuses plain text to another machine: tokens, and who writes to whom, would be open on
    /// the way (messages would not).
    ///
    /// # Errors
    /// [`UrlError::Plaintext`].
    pub fn refuse_plaintext(&self, allow: bool) -> Result<(), UrlError> {
        if self.secure || self.loopback || allow { Ok(()) } else { Err(UrlError::Plaintext) }
    }

    /// The normalised text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.loopback
    }

    /// A route's URL; `path` starts with `/`.
    #[must_use]
    pub fn route(&self, path: &str) -> String {
        format!("{}{path}", self.text)
    }

    /// A route's URL for a WebSocket.
    #[must_use]
    pub fn socket(&self, path: &str) -> String {
        let rest = self.text.split_once("://").map_or("", |(_, rest)| rest);
        format!("{}://{rest}{path}", if self.secure { "wss" } else { "ws" })
    }
}

impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_has_one_spelling() {
        for (text, normal) in [
            ("HTTPS://Relay.Example.org/", "https://relay.example.org"),
            ("https://relay.example.org:443", "https://relay.example.org"),
            ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
            ("https://example.org/nexo/", "https://example.org/nexo"),
        ] {
            assert_eq!(RelayUrl::parse(text).unwrap().as_str(), normal);
        }
        let url = RelayUrl::parse("https://example.org/nexo").unwrap();
        assert_eq!(url.route("/health"), "https://example.org/nexo/health");
        assert_eq!(url.socket("/ws"), "wss://example.org/nexo/ws");
    }

    #[test]
    fn what_is_no_relay_is_refused() {
        for text in ["", "relay", "ftp://x", "file:///x", "http://"] {
            assert_eq!(RelayUrl::parse(text), Err(UrlError::Form), "{text}");
        }
        for text in ["https://u@x", "https://u:p@x", "https://x/?q", "https://x/#f"] {
            assert_eq!(RelayUrl::parse(text), Err(UrlError::Extra), "{text}");
        }
    }

    #[test]
    fn plain_text_stays_on_this_machine() {
        let plain = |text: &str| RelayUrl::parse(text).unwrap().refuse_plaintext(false);
        for text in ["http://localhost:1", "http://127.8.0.1", "http://[::1]:8", "https://x"] {
            assert_eq!(plain(text), Ok(()), "{text}");
        }
        for text in ["http://example.org", "http://10.0.0.1", "http://localhost.example.org"] {
            assert_eq!(plain(text), Err(UrlError::Plaintext), "{text}");
            assert_eq!(RelayUrl::parse(text).unwrap().refuse_plaintext(true), Ok(()));
        }
    }
}
