//! How a refusal looks on the wire: problem documents (RFC 9457), for what the handlers refuse
//! and for what Rocket refuses by itself.
//!
//! This is the one table from errors to codes. A cause that is ours is logged here, once, under
//! an id, and the answer names the id alone: no path, query or secret leaves with it.

use std::fmt::Display;

use nexo_schema::bytes::to_hex;
use nexo_schema::error::{ErrorCode, PROBLEM_JSON, Problem};
use rocket::http::{Method, Status};
use rocket::request::{Outcome, Request};
use rocket::response::{self, Responder, Response};
use rocket::{Catcher, catch, catchers};
use std::io::Cursor;
use std::sync::OnceLock;

use crate::auth::chain::Violation;
use crate::auth::dpop::{Binding, DpopError};
use crate::auth::token::{MintError, TokenError};
use crate::http::allowance::used_up;
use crate::http::limits::RateLimited;
use crate::http::request_id::request_id;

/// Seconds after which a client may try again when we are busy.
const BUSY: u64 = 5;

/// A refusal, ready to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    problem: Problem,
    // Boxed: refusals travel through every result.
    allow: Option<Box<str>>,
    limited: Option<Box<RateLimited>>,
}

impl ApiError {
    /// A refusal with this code; `detail` is for the client's people and says what to change.
    #[must_use]
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { problem: Problem::new(code, detail), allow: None, limited: None }
    }

    /// A failure of ours. Logs the cause, which the client does not see.
    #[must_use]
    pub fn internal(cause: impl Display) -> Self {
        let mut id = [0; 8];
        // Without random bytes all failures share the id 0; that failure is in the log too.
        let _ = getrandom::fill(&mut id);
        let id = to_hex(&id);
        tracing::error!(error_id = id, "internal error: {cause}");
        let detail = format!("the relay failed; its log tells why under error_id {id}");
        Self::new(ErrorCode::Internal, detail)
    }

    /// Says after how many seconds the same request may succeed (`Retry-After`).
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.problem.retry_after = Some(seconds);
        self
    }

    /// The HTTP status it is answered with.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.problem.status
    }

    /// The document it is answered with.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// What to say for a status that Rocket came to by itself.
    fn of_status(status: Status) -> Self {
        let (code, detail) = match status.code {
            401 => (ErrorCode::Unauthorized, "send an access token in Authorization"),
            403 => (ErrorCode::Forbidden, "not allowed"),
            404 => (ErrorCode::NotFound, "there is nothing here"),
            405 => (ErrorCode::MethodNotAllowed, "not with this method"),
            413 => (ErrorCode::TooLarge, "the request is too large"),
            429 => (ErrorCode::RateLimited, "too many requests"),
            503 => (ErrorCode::Unavailable, "the relay is busy or closing"),
            500.. => (ErrorCode::Internal, "the relay failed; nothing was stored"),
            _ => (ErrorCode::BadRequest, "the request does not parse"),
        };
        let error = Self::new(code, detail);
        if status.code == 503 { error.retry_after(BUSY) } else { error }
    }
}

impl<'r> Responder<'r, 'static> for ApiError {
    fn respond_to(self, request: &'r Request<'_>) -> response::Result<'static> {
        let Problem { status, code, retry_after, .. } = self.problem;
        if code == ErrorCode::Internal {
            // The cause is in the log already, under the id that the words name.
            let (id, detail) = (request_id(request), &self.problem.detail);
            tracing::error!(request_id = id, "answered {status}: {detail}");
        }
        let body = serde_json::to_vec(&self.problem).map_err(|_| Status::InternalServerError)?;
        let mut response = Response::build();
        response
            .status(Status::new(status))
            .raw_header("Content-Type", PROBLEM_JSON)
            .sized_body(body.len(), Cursor::new(body));
        if let Some(seconds) = retry_after {
            response.raw_header("Retry-After", seconds.to_string());
        }
        if let Some(limited) = self.limited {
            for (name, value) in used_up(&limited) {
                response.raw_header(name, value);
            }
        }
        if let Some(allow) = self.allow {
            response.raw_header("Allow", allow.into_string());
        }
        if status == 401 {
            for challenge in challenges(code) {
                response.raw_header_adjoin("WWW-Authenticate", challenge);
            }
        }
        response.ok()
    }
}

/// The two ways to authenticate (RFC 6750 section 3, RFC 9449 section 7.1).
fn challenges(code: ErrorCode) -> [&'static str; 2] {
    match code {
        ErrorCode::DpopInvalid => [
            r#"Bearer realm="nexo""#,
            r#"DPoP realm="nexo", algs="EdDSA", error="invalid_dpop_proof""#,
        ],
        _ => [r#"Bearer realm="nexo""#, r#"DPoP realm="nexo", algs="EdDSA""#],
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        Self::new(ErrorCode::Unauthorized, error.to_string())
    }
}

impl From<Violation> for ApiError {
    fn from(broken: Violation) -> Self {
        let code = match broken {
            Violation::TooLong | Violation::Conversations => ErrorCode::TooLarge,
            Violation::Unreadable(_)
            | Violation::Origin
            | Violation::Kind(_)
            | Violation::Account
            | Violation::Signature
            | Violation::Acceptance
            | Violation::Key
            | Violation::NoDevice => ErrorCode::BadRequest,
            Violation::Signer | Violation::NotAdmin | Violation::Stateless => ErrorCode::Forbidden,
            Violation::Moved { .. } => ErrorCode::ChainMoved,
            Violation::Closed | Violation::Full => ErrorCode::ChainEnded,
            Violation::Crowd => ErrorCode::DeviceLimit,
            Violation::Returned => ErrorCode::DeviceTaken,
        };
        Self::new(code, broken.to_string())
    }
}

impl From<DpopError> for ApiError {
    fn from(error: DpopError) -> Self {
        match error {
            DpopError::Busy => {
                Self::new(ErrorCode::Unavailable, error.to_string()).retry_after(BUSY)
            }
            _ => Self::new(ErrorCode::DpopInvalid, error.to_string()),
        }
    }
}

impl From<Binding> for ApiError {
    fn from(error: Binding) -> Self {
        Self::new(ErrorCode::DpopInvalid, error.to_string())
    }
}

impl From<RateLimited> for ApiError {
    fn from(error: RateLimited) -> Self {
        let seconds = error.retry_after;
        let refusal = Self::new(ErrorCode::RateLimited, error.to_string()).retry_after(seconds);
        Self { limited: Some(Box::new(error)), ..refusal }
    }
}

impl From<MintError> for ApiError {
    fn from(error: MintError) -> Self {
        Self::internal(error)
    }
}

impl From<getrandom::Error> for ApiError {
    fn from(error: getrandom::Error) -> Self {
        Self::internal(format!("no random bytes: {error}"))
    }
}

/// What a guard refused with, for the catcher that answers in its place.
#[derive(Default)]
struct Refusal(OnceLock<ApiError>);

/// Leaves a guard's refusal with the request; it then ends with [`ApiError::status`]. The first
/// refusal counts.
pub fn remember(request: &Request<'_>, error: ApiError) {
    let _ = request.local_cache(Refusal::default).0.set(error);
}

/// What a request guard returns that refuses. The body, if there is one, is still to be read:
/// see `http/unread.rs`.
pub fn refuse<T>(request: &Request<'_>, error: ApiError) -> Outcome<T, ()> {
    let status = Status::new(error.status());
    remember(request, error);
    Outcome::Forward(status)
}

/// Whether a guard has refused the request.
#[must_use]
pub fn was_refused(request: &Request<'_>) -> bool {
    request.local_cache(Refusal::default).0.get().is_some()
}

/// The catcher of every status: what a guard left, or words for what Rocket says.
#[must_use]
pub fn catchers() -> Vec<Catcher> {
    catchers![refused]
}

#[catch(default)]
fn refused(status: Status, request: &Request<'_>) -> ApiError {
    let left = request.local_cache(Refusal::default).0.get();
    if let Some(error) = left.filter(|error| error.status() == status.code) {
        return error.clone();
    }
    if status == Status::NotFound {
        let allow = allowed(request);
        if !allow.is_empty() {
            let error = ApiError::of_status(Status::MethodNotAllowed);
            return ApiError { allow: Some(allow.into()), ..error };
        }
    }
    ApiError::of_status(status)
}

/// The methods that would have found a route, as `Allow` lists them; Rocket says 404 whether
/// the path or only the method is unknown. Empty if the path is unknown, or if the method has
/// a route there and it was the route that declined.
fn allowed(request: &Request<'_>) -> String {
    let path = request.uri().path();
    let mut methods: Vec<&str> = Vec::new();
    for route in request.rocket().routes() {
        // The catch-all for preflights (`Cors`) makes no path known.
        if route.method == Method::Options || !fits(route.uri.path(), path.as_str()) {
            continue;
        }
        if route.method == request.method() {
            return String::new();
        }
        if !methods.contains(&route.method.as_str()) {
            methods.push(route.method.as_str());
        }
    }
    methods.join(", ")
}

/// Whether a path fits a route's, where `<x>` stands for a segment and `<x..>` for the rest.
fn fits(route: &str, path: &str) -> bool {
    let (mut route, mut path) = (route.split('/'), path.split('/'));
    loop {
        match (route.next(), path.next()) {
            (Some(pattern), _) if pattern.starts_with('<') && pattern.ends_with("..>") => {
                return true;
            }
            (Some(pattern), Some(segment)) => {
                let dynamic = pattern.starts_with('<') && !segment.is_empty();
                if !dynamic && pattern != segment {
                    return false;
                }
            }
            (None, None) => return true,
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::limits::Policy;
    use rocket::http::Header;
    use rocket::local::blocking::{Client, LocalResponse};
    use rocket::request::{FromRequest, Outcome};
    use rocket::{Config, get, post, routes};
    use serde_json::Value;

    struct Fussy;

    #[rocket::async_trait]
    impl<'r> FromRequest<'r> for Fussy {
        type Error = ();

        async fn from_request(request: &'r Request<'_>) -> Outcome<Self, ()> {
            refuse(request, ApiError::new(ErrorCode::DpopInvalid, "no proof"))
        }
    }

    #[get("/guarded")]
    fn guarded(_fussy: Fussy) {}

    #[get("/limited")]
    fn limited() -> ApiError {
        let policy = Policy { name: "writes", quota: 2, window: 1 };
        RateLimited { policy, retry_after: 7 }.into()
    }

    #[get("/broken")]
    fn broken() -> ApiError {
        ApiError::internal("/srv/nexo.db: disk full, secret xyzzy")
    }

    #[get("/panics")]
    fn panics() {
        panic!("on purpose");
    }

    #[post("/items/<_id>")]
    fn item(_id: u32) {}

    #[get("/status/<code>")]
    fn status(code: u16) -> Status {
        Status::new(code)
    }

    fn client() -> Client {
        let config = Config { log_level: rocket::config::LogLevel::Off, ..Config::debug_default() };
        let routes = routes![guarded, limited, broken, panics, item, status];
        let rocket = rocket::custom(config).mount("/", routes).register("/", catchers());
        Client::untracked(rocket).unwrap()
    }

    fn header(response: &LocalResponse<'_>, name: &str) -> Vec<String> {
        response.headers().get(name).map(str::to_owned).collect()
    }

    /// Status, headers wanted, and the document; checks what every problem has.
    fn problem(response: LocalResponse<'_>) -> (u16, Value) {
        let status = response.status().code;
        assert_eq!(header(&response, "Content-Type"), [PROBLEM_JSON]);
        let problem: Value = serde_json::from_str(&response.into_string().unwrap()).unwrap();
        assert_eq!(problem["status"], status);
        let code = problem["code"].as_str().unwrap();
        assert_eq!(problem["type"], format!("urn:nexo:error:{code}"));
        assert!(problem["detail"].is_string() && problem["title"].is_string());
        (status, problem)
    }

    #[test]
    fn a_guards_refusal_is_answered_in_its_words() {
        let client = client();
        let response = client.get("/guarded").dispatch();
        let ways = header(&response, "WWW-Authenticate");
        assert_eq!(ways.len(), 2);
        assert!(ways[0].starts_with("Bearer") && ways[1].contains("invalid_dpop_proof"));
        let (status, problem) = problem(response);
        assert_eq!((status, &problem["code"]), (401, &Value::from("dpop_invalid")));
        assert_eq!(problem["detail"], "no proof");
    }

    #[test]
    fn a_rate_limit_says_when_to_come_back() {
        let client = client();
        let response = client.get("/limited").dispatch();
        assert_eq!(header(&response, "Retry-After"), ["7"]);
        let (status, problem) = problem(response);
        assert_eq!((status, &problem["retry_after"]), (429, &Value::from(7)));
    }

    #[test]
    fn our_failures_keep_their_cause_to_themselves() {
        let client = client();
        let (status, broken) = problem(client.get("/broken").dispatch());
        assert_eq!((status, &broken["code"]), (500, &Value::from("internal")));
        let text = broken.to_string();
        assert!(!text.contains("disk") && !text.contains("xyzzy") && !text.contains("/srv"));
        let (status, panicked) = problem(client.get("/panics").dispatch());
        assert_eq!((status, &panicked["code"]), (500, &Value::from("internal")));
        assert!(!panicked.to_string().contains("purpose"));
    }

    #[test]
    fn paths_and_methods_nobody_serves() {
        let client = client();
        for path in ["/", "/nowhere", "/items", "/items/1/2", "/items/", "/%00", "/status/"] {
            let (status, problem) = problem(client.get(path).dispatch());
            assert_eq!((status, &problem["code"]), (404, &Value::from("not_found")), "{path}");
        }
        let response = client.get("/items/1").dispatch();
        assert_eq!(header(&response, "Allow"), ["POST"]);
        let (status, wrong) = problem(response);
        assert_eq!((status, &wrong["code"]), (405, &Value::from("method_not_allowed")));
        let (status, _) = problem(client.delete("/limited").dispatch());
        assert_eq!(status, 405);
        // The route is there and the method right: the parameter is what is wrong.
        let (status, _) = problem(client.post("/items/x").dispatch());
        assert_eq!(status, 400);
    }

    #[test]
    fn every_status_of_rocket_becomes_a_problem() {
        let client = client();
        for (sent, answered, code) in [
            (400, 400, "bad_request"),
            (401, 401, "unauthorized"),
            (403, 403, "forbidden"),
            (406, 400, "bad_request"),
            (408, 400, "bad_request"),
            (413, 413, "too_large"),
            (415, 400, "bad_request"),
            (422, 400, "bad_request"),
            (429, 429, "rate_limited"),
            (431, 400, "bad_request"),
            (500, 500, "internal"),
            (502, 500, "internal"),
            (503, 503, "unavailable"),
        ] {
            let response = client.get(format!("/status/{sent}")).dispatch();
            let (status, problem) = problem(response);
            assert_eq!((status, &problem["code"]), (answered, &Value::from(code)), "{sent}");
        }
    }

    #[test]
    fn a_refusal_without_a_token_says_how_to_get_in() {
        let client = client();
        let response = client.get("/status/401").header(Header::new("x", "y")).dispatch();
        let ways = header(&response, "WWW-Authenticate");
        assert_eq!(ways, [r#"Bearer realm="nexo""#, r#"DPoP realm="nexo", algs="EdDSA""#]);
    }

    #[test]
    fn routes_fit_segment_by_segment() {
        for (route, path, yes) in [
            ("/a/<x>", "/a/b", true),
            ("/a/<x>", "/a/", false),
            ("/a/<x>", "/a", false),
            ("/a/<x>", "/a/b/c", false),
            ("/a/<x..>", "/a/b/c", true),
            ("/<_..>", "/", true),
            ("/a", "/a", true),
            ("/a", "/b", false),
        ] {
            assert_eq!(fits(route, path), yes, "{route} {path}");
        }
    }
}
