//! Headers every answer carries, and which web pages may read it (CORS, Fetch standard 3.2).
//!
//! The API has no cookies, so a foreign page can do nothing in a user's name; CORS here only
//! decides whose pages may use tokens of their own. The log is public, so that any page may
//! audit it: its answers, refusals and preflights are readable whatever the configuration says.
//! Neither fairing touches an upgrade (101), which strict proxies want bare.

use rocket::fairing::{self, Fairing, Info, Kind};
use rocket::http::{Header, Method, Status};
use rocket::response::{self, Responder};
use rocket::{Build, Request, Response, Rocket, options, routes};

use crate::config::CorsPolicy;

const ALLOW_ORIGIN: &str = "Access-Control-Allow-Origin";
/// The headers our clients send.
const REQUEST_HEADERS: &str = "Authorization, Content-Type, DPoP, Idempotency-Key";
/// The headers a page may read beyond the few that are always readable.
const RESPONSE_HEADERS: &str =
    "RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Request-Id";
/// Those of the log, where there is nothing to authenticate for.
const PUBLIC_RESPONSE_HEADERS: &str = "ETag, Retry-After";
/// The one header that a reader of the log sends and that a page must ask for.
const PUBLIC_REQUEST_HEADERS: &str = "If-None-Match";
/// Seconds a browser may remember what a page may do. The log's answer to that never changes;
/// a day is the most that browsers keep it.
const PUBLIC_MAX_AGE: &str = "86400";

/// Sets the headers that keep answers out of caches, referrers and type guessing.
pub struct SecurityHeaders;

#[rocket::async_trait]
impl Fairing for SecurityHeaders {
    fn info(&self) -> Info {
        Info { name: "security headers", kind: Kind::Response }
    }

    async fn on_response<'r>(&self, _: &'r Request<'_>, response: &mut Response<'r>) {
        if is_upgrade(response) {
            return;
        }
        response.set_raw_header("Referrer-Policy", "no-referrer");
        response.set_raw_header("X-Content-Type-Options", "nosniff");
        // Only a handler knows that its answer never changes (tiles); an error always may.
        if !response.headers().contains("Cache-Control") || response.status().code >= 400 {
            response.set_raw_header("Cache-Control", "no-store");
        }
    }
}

/// Whether the answer becomes a socket: Rocket sets the status itself, after the fairings.
pub(super) fn is_upgrade(response: &Response<'_>) -> bool {
    response.status() == Status::SwitchingProtocols
        || response.headers().contains("Sec-WebSocket-Accept")
}

/// Lets the configured pages read answers, and answers their preflights.
pub struct Cors(CorsPolicy);

impl Cors {
    /// Under this policy.
    #[must_use]
    pub fn new(policy: &CorsPolicy) -> Self {
        Self(policy.clone())
    }
}

#[rocket::async_trait]
impl Fairing for Cors {
    fn info(&self) -> Info {
        Info { name: "CORS", kind: Kind::Ignite | Kind::Response }
    }

    /// Adds the route that answers `OPTIONS` on every path; without it a preflight is a 404.
    async fn on_ignite(&self, rocket: Rocket<Build>) -> fairing::Result {
        Ok(rocket.mount("/", routes![preflight]))
    }

    async fn on_response<'r>(&self, request: &'r Request<'_>, response: &mut Response<'r>) {
        if is_upgrade(response) {
            return;
        }
        let preflight = request.method() == Method::Options
            && request.headers().contains("Access-Control-Request-Method");
        if response.headers().contains(ALLOW_ORIGIN) || is_public(request.uri().path().as_str()) {
            open_to_all(response, preflight);
            return;
        }
        let Self(policy) = self;
        if !policy.origins.is_empty() {
            // The answer differs by asker, and a shared cache must know.
            response.adjoin_raw_header("Vary", "Origin");
        }
        let Some(asker) = request.headers().get_one("Origin") else { return };
        if policy.origins.iter().any(|origin| origin == asker) {
            response.set_header(Header::new(ALLOW_ORIGIN, asker.to_owned()));
            response.set_raw_header("Access-Control-Allow-Credentials", "true");
        } else if policy.any {
            response.set_raw_header(ALLOW_ORIGIN, "*");
        } else {
            return;
        }
        if preflight {
            response.set_raw_header("Access-Control-Allow-Methods", "GET, POST");
            response.set_raw_header("Access-Control-Allow-Headers", REQUEST_HEADERS);
            response.set_raw_header("Access-Control-Max-Age", "600");
        } else {
            response.set_raw_header("Access-Control-Expose-Headers", RESPONSE_HEADERS);
        }
    }
}

/// Whether a path is one of the log's. Its refusals count too: a browser that audits has to be
/// able to read that a tile is not there.
fn is_public(path: &str) -> bool {
    path == "/checkpoint" || ["/tile/", "/log/"].iter().any(|start| path.starts_with(start))
}

/// Lets every page read an answer, and ask for it conditionally.
fn open_to_all(response: &mut Response<'_>, preflight: bool) {
    response.set_raw_header(ALLOW_ORIGIN, "*");
    if preflight {
        response.set_raw_header("Access-Control-Allow-Methods", "GET, HEAD");
        response.set_raw_header("Access-Control-Allow-Headers", PUBLIC_REQUEST_HEADERS);
        response.set_raw_header("Access-Control-Max-Age", PUBLIC_MAX_AGE);
    } else {
        response.set_raw_header("Access-Control-Expose-Headers", PUBLIC_RESPONSE_HEADERS);
    }
}

/// An answer that any page may read: the log is public.
pub struct Public<R>(pub R);

impl<'r, 'o: 'r, R: Responder<'r, 'o>> Responder<'r, 'o> for Public<R> {
    fn respond_to(self, request: &'r Request<'_>) -> response::Result<'o> {
        let mut response = self.0.respond_to(request)?;
        response.set_raw_header(ALLOW_ORIGIN, "*");
        Ok(response)
    }
}

#[options("/<_..>")]
fn preflight() -> Status {
    Status::NoContent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ApiError;
    use nexo_schema::error::ErrorCode;
    use rocket::Config;
    use rocket::http::Header;
    use rocket::local::blocking::{Client, LocalResponse};
    use rocket::{get, post};

    #[get("/plain")]
    fn plain() -> &'static str {
        "x"
    }

    #[post("/refused")]
    fn refused() -> Public<ApiError> {
        Public(ApiError::new(ErrorCode::Forbidden, "no"))
    }

    struct Tile;

    impl<'r> Responder<'r, 'static> for Tile {
        fn respond_to(self, request: &'r Request<'_>) -> response::Result<'static> {
            let mut response = "tile".respond_to(request)?;
            response.set_raw_header("Cache-Control", "public, max-age=31536000, immutable");
            Ok(response)
        }
    }

    #[get("/tile")]
    fn tile() -> Public<Tile> {
        Public(Tile)
    }

    struct Upgrade;

    impl<'r> Responder<'r, 'static> for Upgrade {
        fn respond_to(self, _: &'r Request<'_>) -> response::Result<'static> {
            Response::build().status(Status::SwitchingProtocols).ok()
        }
    }

    #[get("/upgrade")]
    fn upgrade() -> Upgrade {
        Upgrade
    }

    fn client(any: bool, origins: &[&str]) -> Client {
        let origins = origins.iter().map(|&o| o.to_owned()).collect();
        let config = Config { log_level: rocket::config::LogLevel::Off, ..Config::debug_default() };
        let rocket = rocket::custom(config)
            .mount("/", routes![plain, refused, tile, upgrade])
            .register("/", crate::error::catchers())
            .attach(SecurityHeaders)
            .attach(Cors::new(&CorsPolicy { any, origins }));
        Client::untracked(rocket).unwrap()
    }

    /// Sends a request from a page of `origin`.
    fn ask<'c>(
        client: &'c Client,
        method: Method,
        path: &'c str,
        origin: &'static str,
    ) -> LocalResponse<'c> {
        client.req(method, path).header(Header::new("Origin", origin)).dispatch()
    }

    fn one<'a>(response: &'a LocalResponse<'_>, name: &str) -> Option<&'a str> {
        assert!(response.headers().get(name).count() < 2, "{name} twice");
        response.headers().get_one(name)
    }

    const APP: &str = "https://app.example.org";

    #[test]
    fn every_answer_but_an_upgrade_has_the_safe_headers() {
        let client = client(false, &[]);
        for path in ["/plain", "/tile", "/nowhere", "/refused"] {
            let response = client.get(path).dispatch();
            assert_eq!(one(&response, "Referrer-Policy"), Some("no-referrer"), "{path}");
            assert_eq!(one(&response, "X-Content-Type-Options"), Some("nosniff"), "{path}");
            let kept =
                if path == "/tile" { "public, max-age=31536000, immutable" } else { "no-store" };
            assert_eq!(one(&response, "Cache-Control"), Some(kept), "{path}");
        }
        let response = client.get("/upgrade").dispatch();
        assert_eq!(response.status(), Status::SwitchingProtocols);
        assert_eq!(
            (one(&response, "Cache-Control"), one(&response, "Referrer-Policy")),
            (None, None)
        );
    }

    #[test]
    fn without_a_list_no_page_is_let_in() {
        let client = client(false, &[]);
        let response = ask(&client, Method::Get, "/plain", APP);
        assert_eq!((one(&response, ALLOW_ORIGIN), one(&response, "Vary")), (None, None));
        // The log is for all to read.
        let response = ask(&client, Method::Get, "/tile", APP);
        assert_eq!(one(&response, ALLOW_ORIGIN), Some("*"));
        assert_eq!(one(&response, "Access-Control-Expose-Headers"), Some("ETag, Retry-After"));
    }

    #[test]
    fn the_logs_refusals_and_preflights_are_for_every_page() {
        let client = client(false, &["https://other.example.org"]);
        for path in ["/checkpoint", "/tile/0/000", "/log/head/7", "/log/nothing"] {
            let response = ask(&client, Method::Get, path, APP);
            assert_eq!(response.status(), Status::NotFound);
            assert_eq!((one(&response, ALLOW_ORIGIN), one(&response, "Vary")), (Some("*"), None));
            let preflight = client
                .req(Method::Options, path)
                .header(Header::new("Origin", APP))
                .header(Header::new("Access-Control-Request-Method", "GET"))
                .header(Header::new("Access-Control-Request-Headers", "if-none-match"))
                .dispatch();
            assert_eq!(preflight.status(), Status::NoContent);
            assert_eq!(one(&preflight, ALLOW_ORIGIN), Some("*"), "{path}");
            assert_eq!(one(&preflight, "Access-Control-Allow-Methods"), Some("GET, HEAD"));
            assert_eq!(one(&preflight, "Access-Control-Allow-Headers"), Some("If-None-Match"));
            assert_eq!(one(&preflight, "Access-Control-Allow-Credentials"), None);
        }
        for path in ["/logs", "/checkpoints", "/tiles/0", "/messages"] {
            let response = ask(&client, Method::Get, path, APP);
            assert_eq!(one(&response, ALLOW_ORIGIN), None, "{path}");
        }
    }

    #[test]
    fn a_listed_page_is_let_in_by_name() {
        let client = client(false, &["https://other.example.org", APP]);
        let response = ask(&client, Method::Get, "/plain", APP);
        assert_eq!(one(&response, ALLOW_ORIGIN), Some(APP));
        assert_eq!(one(&response, "Access-Control-Allow-Credentials"), Some("true"));
        assert_eq!(one(&response, "Vary"), Some("Origin"));
        for stranger in [
            "https://app.example.org.evil.test",
            "http://app.example.org",
            "null",
            "",
            "https://APP.example.org",
        ] {
            let response = ask(&client, Method::Get, "/plain", stranger);
            assert_eq!(one(&response, ALLOW_ORIGIN), None, "{stranger}");
            assert_eq!(one(&response, "Vary"), Some("Origin"));
        }
        // A refusal is readable too, or the page could not tell why.
        let response = ask(&client, Method::Get, "/nowhere", APP);
        assert_eq!(one(&response, ALLOW_ORIGIN), Some(APP));
    }

    #[test]
    fn any_page_is_let_in_without_credentials() {
        let client = client(true, &[]);
        let response = ask(&client, Method::Get, "/plain", APP);
        assert_eq!(one(&response, ALLOW_ORIGIN), Some("*"));
        assert_eq!(one(&response, "Access-Control-Allow-Credentials"), None);
        let response = client.get("/plain").dispatch();
        assert_eq!(one(&response, ALLOW_ORIGIN), None);
    }

    #[test]
    fn a_preflight_is_answered_on_every_path() {
        let client = client(false, &[APP]);
        let preflight = |origin: &'static str| {
            client
                .req(Method::Options, "/messages/delete")
                .header(Header::new("Origin", origin))
                .header(Header::new("Access-Control-Request-Method", "POST"))
                .dispatch()
        };
        let response = preflight(APP);
        assert_eq!(response.status(), Status::NoContent);
        assert_eq!(one(&response, ALLOW_ORIGIN), Some(APP));
        assert_eq!(one(&response, "Access-Control-Allow-Methods"), Some("GET, POST"));
        assert!(one(&response, "Access-Control-Allow-Headers").unwrap().contains("DPoP"));
        assert_eq!(one(&response, "Access-Control-Max-Age"), Some("600"));
        let response = preflight("https://evil.test");
        assert_eq!(one(&response, ALLOW_ORIGIN), None);
        assert_eq!(one(&response, "Access-Control-Allow-Headers"), None);
    }
}
