//! A name for each request, in and out (`X-Request-Id`), by which a client's words, a proxy's
//! log and ours can be brought together. One that came is kept if it is harmless to print.

use nexo_schema::bytes::to_hex;
use rocket::fairing::{Fairing, Info, Kind};
use rocket::{Request, Response};

use super::headers::is_upgrade;

/// The header, in both directions.
pub const REQUEST_ID: &str = "X-Request-Id";

/// Longest name that is taken over.
const MAX_LEN: usize = 64;

struct RequestId(String);

/// The request's name.
#[must_use]
pub fn request_id<'r>(request: &'r Request<'_>) -> &'r str {
    let RequestId(id) = request.local_cache(|| {
        let came = request.headers().get_one(REQUEST_ID).filter(|id| is_plain(id));
        RequestId(came.map_or_else(made, str::to_owned))
    });
    id
}

/// Puts the name on every answer.
pub struct RequestIds;

#[rocket::async_trait]
impl Fairing for RequestIds {
    fn info(&self) -> Info {
        Info { name: "request ids", kind: Kind::Response }
    }

    async fn on_response<'r>(&self, request: &'r Request<'_>, response: &mut Response<'r>) {
        if !is_upgrade(response) {
            response.set_raw_header(REQUEST_ID, request_id(request).to_owned());
        }
    }
}

fn is_plain(id: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=MAX_LEN).contains(&id.len()) && id.bytes().all(plain)
}

fn made() -> String {
    let mut id = [0; 8];
    // Without random bytes all requests share a name, and nothing else is lost.
    let _ = getrandom::fill(&mut id);
    to_hex(&id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rocket::get;
    use rocket::http::Header;
    use rocket::local::blocking::Client;

    #[get("/")]
    fn index() -> &'static str {
        "x"
    }

    #[test]
    fn a_name_that_came_is_kept_and_others_are_made() {
        let config = rocket::Config {
            log_level: rocket::config::LogLevel::Off,
            ..rocket::Config::debug_default()
        };
        let rocket = rocket::custom(config).mount("/", rocket::routes![index]).attach(RequestIds);
        let client = Client::untracked(rocket).unwrap();
        let named = |path: &str, id: Option<&str>| {
            let mut request = client.get(path.to_owned());
            if let Some(id) = id {
                request.add_header(Header::new(REQUEST_ID, id.to_owned()));
            }
            let response = request.dispatch();
            let mut names = response.headers().get(REQUEST_ID).map(str::to_owned);
            (names.next().unwrap(), names.next())
        };
        let long = "x".repeat(65);
        for good in ["a", "0194f-6b.c_D", &long[..64]] {
            assert_eq!(named("/", Some(good)), (good.to_owned(), None));
        }
        for bad in ["", "a b", "a\u{e9}", "a;b", &long] {
            let (id, more) = named("/nowhere", Some(bad));
            assert!(id.len() == 16 && id != bad && more.is_none(), "{id}");
        }
        assert_ne!(named("/", None), named("/", None));
    }
}
