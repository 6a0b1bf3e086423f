//! What the relay logs, and where: lines on stderr, filtered by `NEXO_LOG` or `RUST_LOG`.
//!
//! Rocket and others log through `log`; the subscriber takes those too. Rocket's lines about
//! single requests quote the URL, and `?token=` with it, so no filter can switch them on.

use std::io::IsTerminal as _;

use tracing::Metadata;
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, LevelFilter, filter_fn};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::Env;

/// Rocket's launch banner says what our own first line says.
const DEFAULT_FILTER: &str = "info,rocket=warn,rocket::launch=error";

/// Starts logging, once per process; a second call changes nothing.
pub(crate) fn start(env: Env<'_>) {
    let wish = ["NEXO_LOG", "RUST_LOG"].iter().find_map(|name| env(name)?.into_string().ok());
    let wish = wish.filter(|wish| !wish.is_empty()).unwrap_or_else(|| DEFAULT_FILTER.to_owned());
    // A directive that does not parse is left out, not a reason not to serve.
    // Without the hint the two together would take every line as possible, and each `trace!`
    // of every library on the way of every frame would be looked at before it is dropped.
    let quiet = filter_fn(quotes_no_request).with_max_level_hint(LevelFilter::TRACE);
    let filter = EnvFilter::builder().parse_lossy(wish).and(quiet);
    let plain = env("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = !plain && std::io::stderr().is_terminal();
    let lines = fmt::layer().with_ansi(colours).with_writer(std::io::stderr).with_filter(filter);
    let _ = tracing_subscriber::registry().with(lines).try_init();
}

/// `rocket::server` logs requests, matching and outcomes, `tungstenite` frames; lines under a target that ends in
/// `::_` are what Rocket's macros add to our handlers: failed guards, with what was sent.
fn quotes_no_request(line: &Metadata<'_>) -> bool {
    is_quiet(line.target())
}

fn is_quiet(target: &str) -> bool {
    let quotes = ["rocket::server", "tungstenite"].iter().any(|t| target.starts_with(t));
    !quotes && !target.ends_with("::_")
}

#[cfg(test)]
mod tests {
    use super::is_quiet;

    #[test]
    fn lines_that_quote_requests_are_dropped() {
        for target in [
            "rocket::server",
            "rocket::server::_",
            "nexo_server::http::accounts::_",
            "tungstenite::protocol::frame",
        ] {
            assert!(!is_quiet(target), "{target}");
        }
        for target in ["nexo_server::http::accounts", "rocket::rocket", "hyper"] {
            assert!(is_quiet(target), "{target}");
        }
    }
}
