//! The URLs this relay answers to, and whether a proof's `htu` is one of them.
//!
//! A relay behind a proxy cannot see the URL its client used, so it is configured
//! (`--public-url`). Compared are scheme, host, port and path (RFC 9449 section 4.3, check 9):
//! scheme and host without case, default ports left out, query and fragment ignored, paths
//! byte for byte. Our paths need no percent-encoding, so none is undone.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// Not a base URL of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a URL like https://relay.example.org, without user, query or fragment")]
pub struct PublicUrlError;

/// A base URL: every route's path follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    secure: bool,
    host: String,
    port: u16,
    /// Without a `/` at the end; empty for the root.
    base: String,
}

impl PublicUrl {
    /// The base URLs of a listener that nothing was configured for: its own address, and for
    /// addresses of this machine the names people type for it.
    #[must_use]
    pub fn of_listener(address: SocketAddr) -> Vec<Self> {
        let ip = address.ip();
        let mut hosts = vec![if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }];
        if ip.is_loopback() || ip.is_unspecified() {
            for name in ["localhost", "127.0.0.1", "[::1]"] {
                if !hosts.iter().any(|host| host == name) {
                    hosts.push(name.to_owned());
                }
            }
        }
        let url = |host| Self { secure: false, host, port: address.port(), base: String::new() };
        hosts.into_iter().map(url).collect()
    }

    /// Whether `htu` is this URL followed by `path` (which starts with `/`). A `ws` URL is
    /// taken for the `http` request that opens it.
    #[must_use]
    pub fn covers(&self, htu: &str, path: &str) -> bool {
        let Some(target) = Target::parse(htu) else { return false };
        target.secure == self.secure
            && target.port == self.port
            && target.host.eq_ignore_ascii_case(&self.host)
            && target.path.strip_prefix(&self.base) == Some(path)
    }
}

impl FromStr for PublicUrl {
    type Err = PublicUrlError;

    fn from_str(text: &str) -> Result<Self, PublicUrlError> {
        let target = Target::parse(text).ok_or(PublicUrlError)?;
        let scheme = text.split(':').next().unwrap_or_default();
        if target.more || scheme.to_ascii_lowercase().starts_with("ws") {
            return Err(PublicUrlError);
        }
        Ok(Self {
            secure: target.secure,
            host: target.host.to_ascii_lowercase(),
            port: target.port,
            base: target.path.trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port != default_port(self.secure) {
            write!(f, ":{}", self.port)?;
        }
        f.write_str(&self.base)
    }
}

/// A URL taken apart.
///
/// ```text
/// scheme "://" host [":" port] [path] ["?" query] ["#" fragment]
/// ```
struct Target<'a> {
    secure: bool,
    host: &'a str,
    port: u16,
    /// At least `/`.
    path: &'a str,
    /// Whether a query or fragment follows.
    more: bool,
}

impl<'a> Target<'a> {
    fn parse(url: &'a str) -> Option<Self> {
        if !url.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        let (scheme, rest) = url.split_once("://")?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "https" | "wss" => true,
            "http" | "ws" => false,
            _ => return None,
        };
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (host, port) = host_and_port(authority, default_port(secure))?;
        let path = &tail[..tail.find(['?', '#']).unwrap_or(tail.len())];
        let more = path.len() != tail.len();
        let path = if path.is_empty() { "/" } else { path };
        Some(Self { secure, host, port, path, more })
    }
}

fn host_and_port(authority: &str, default: u16) -> Option<(&str, u16)> {
    // The colons inside an IPv6 literal are not the port's.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, ""),
    };
    let named = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let literal = literal.is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok());
    if host.is_empty() || !(named || literal) {
        return None;
    }
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    match (port.is_empty(), digits) {
        (true, _) => Some((host, default)),
        (false, true) => port.parse().ok().map(|port| (host, port)),
        (false, false) => None,
    }
}

fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> PublicUrl {
        text.parse().unwrap()
    }

    #[test]
    fn spellings_of_one_url_are_one() {
        let relay = url("https://Relay.Example.org/");
        for same in [
            "https://relay.example.org/messages",
            "HTTPS://RELAY.EXAMPLE.ORG/messages",
            "https://relay.example.org:443/messages",
            "https://relay.example.org:/messages",
            "wss://relay.example.org/messages",
            "https://relay.example.org/messages?since=1",
            "https://relay.example.org/messages#x",
        ] {
            assert!(relay.covers(same, "/messages"), "{same}");
        }
        assert!(url("https://a").covers("https://a", "/"));
        assert!(url("http://[::1]:8000").covers("http://[::1]:8000/ws", "/ws"));
    }

    #[test]
    fn other_urls_are_others() {
        let relay = url("https://relay.example.org");
        for other in [
            "http://relay.example.org/messages",
            "https://relay.example.org:8443/messages",
            "https://relay.example.org.evil.test/messages",
            "https://user@relay.example.org/messages",
            "https://relay.example.org@evil.test/messages",
            "https://relay.example.org/Messages",
            "https://relay.example.org/messages/",
            "https://relay.example.org//messages",
            "https://relay.example.org/x/messages",
            "https://relay.example.org",
            "//relay.example.org/messages",
            "/messages",
            "https:///messages",
            "https://relay.example.org:x/messages",
            "https://relay.example.org:99999/messages",
            "https://relay.example.org /messages",
            "ftp://relay.example.org/messages",
            "",
        ] {
            assert!(!relay.covers(other, "/messages"), "{other}");
        }
    }

    #[test]
    fn a_base_path_is_part_of_the_url() {
        let relay = url("https://example.org/nexo/");
        assert!(relay.covers("https://example.org/nexo/ws", "/ws"));
        assert!(!relay.covers("https://example.org/ws", "/ws"));
        assert!(!relay.covers("https://example.org/nexows", "/ws"));
        assert_eq!(relay.to_string(), "https://example.org/nexo");
    }

    #[test]
    fn what_is_no_base_url_is_refused() {
        for bad in ["", "relay", "https://", "https://a?b", "https://a#b", "wss://a", "https://a b"]
        {
            assert_eq!(bad.parse::<PublicUrl>(), Err(PublicUrlError), "{bad}");
        }
        assert_eq!(url("HTTP://A:8000").to_string(), "http://a:8000");
    }

    #[test]
    fn a_listener_on_this_machine_has_the_names_people_type() {
        let texts = |address: &str| {
            let urls = PublicUrl::of_listener(address.parse().unwrap());
            urls.iter().map(PublicUrl::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            texts("127.0.0.1:8000"),
            ["http://127.0.0.1:8000", "http://localhost:8000", "http://[::1]:8000"]
        );
        assert_eq!(texts("192.0.2.7:80"), ["http://192.0.2.7"]);
        assert_eq!(texts("[::]:9")[0], "http://[::]:9");
        assert!(texts("[::]:9").contains(&"http://localhost:9".to_owned()));
    }
}
