//! What is left of a body when its request is refused: it is read and thrown away.
//!
//! A connection that is closed with something unread in it is reset, and a peer that is still
//! writing may never see why it was refused; a proxy in between makes 502 of that (RFC 9112
//! section 9.6 has the problem). The answer waits for the rest, but not for more than a bound of
//! bytes and time: whoever sends more is reset.

use std::time::Duration;

use rocket::data::{ByteUnit, Data, ToByteUnit as _};
use rocket::route::{Handler, Outcome};
use rocket::tokio::io::{AsyncRead, copy, sink};
use rocket::tokio::time::timeout;
use rocket::{Request, Route};

use crate::error::was_refused;

/// Read and thrown away of one body, at most; proxies are to let through no more.
pub(super) const MOST: ByteUnit = ByteUnit::Mebibyte(1);

/// How long that may take.
const WITHIN: Duration = Duration::from_secs(10);

/// A route's handler, whose guards may refuse a request before its body is read.
#[derive(Clone)]
struct Reading(Box<dyn Handler>);

/// The route, with the bodies read that it refuses.
pub(super) fn reading(mut route: Route) -> Route {
    route.handler = Box::new(Reading(route.handler));
    route
}

#[rocket::async_trait]
impl Handler for Reading {
    async fn handle<'r>(&self, request: &'r Request<'_>, data: Data<'r>) -> Outcome<'r> {
        match self.0.handle(request, data).await {
            // A guard that fails would take the body with it; so they forward it, to here.
            Outcome::Forward((data, status)) if was_refused(request) => {
                discard(data.open(MOST)).await;
                Outcome::Error(status)
            }
            outcome => outcome,
        }
    }
}

/// Reads to the end, or as long as there is time.
pub(super) async fn discard(mut body: impl AsyncRead + Unpin) {
    // A peer that leaves meanwhile has no use for an answer.
    let _ = timeout(WITHIN, copy(&mut body, &mut sink())).await;
}

/// The room of a body that may be read to `limit`, and discarded behind it.
pub(super) fn with_room_to_discard(limit: usize) -> ByteUnit {
    limit.bytes() + MOST
}
