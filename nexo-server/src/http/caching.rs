//! Answers that readers may keep, ask about again, or take compressed (RFC 9110 8.8.3, 13.1.2
//! and 12.5.3).
//!
//! Every such answer has a strong validator, the hash of the bytes that are sent. Who sends it
//! back in `If-None-Match` is answered 304, without the bytes. Rocket answers HEAD with the same
//! headers by itself. What may be kept without asking is only what can never change.

use std::io::{Cursor, Write as _};

use flate2::Compression;
use flate2::write::GzEncoder;
use nexo_schema::bytes::to_hex;
use rocket::Request;
use rocket::http::{ContentType, Status};
use rocket::request::{FromRequest, Outcome};
use rocket::response::{self, Responder, Response};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::error::ApiError;

/// How long a cache may answer in our place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// For good: no later answer differs.
    Forever,
    /// Not without asking whether it is still the newest.
    Ask,
    /// Never: it is for one reader.
    Never,
}

impl Keep {
    fn header(self) -> &'static str {
        match self {
            Self::Forever => "public, max-age=31536000, immutable",
            Self::Ask => "no-cache",
            Self::Never => "no-store",
        }
    }
}

/// An answer with a validator.
#[derive(Debug)]
pub(super) struct Resource {
    body: Vec<u8>,
    kind: ContentType,
    keep: Keep,
    coding: Coding,
    file_name: Option<String>,
}

/// How the body is coded, and whether that was the reader's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    /// There is one form.
    Fixed,
    /// There are two forms; this is the plain one.
    Plain,
    /// There are two forms; this is the compressed one.
    Gzip,
}

impl Resource {
    /// Bytes without a further meaning.
    pub(super) fn bytes(body: Vec<u8>, keep: Keep) -> Self {
        Self { body, kind: ContentType::Binary, keep, coding: Coding::Fixed, file_name: None }
    }

    /// UTF-8 text.
    pub(super) fn text(body: impl Into<Vec<u8>>, keep: Keep) -> Self {
        let kind = ContentType::new("text", "plain").with_params(("charset", "utf-8"));
        Self { kind, ..Self::bytes(body.into(), keep) }
    }

    /// A value as JSON.
    ///
    /// # Errors
    /// [`ApiError`] if it is none, which types of the wire never are.
    pub(super) fn json(value: &impl Serialize, keep: Keep) -> Result<Self, ApiError> {
        let body = serde_json::to_vec(value).map_err(ApiError::internal)?;
        Ok(Self { kind: ContentType::JSON, ..Self::bytes(body, keep) })
    }

    /// Under this name, where a browser stores it.
    pub(super) fn named(self, name: String) -> Self {
        Self { file_name: Some(name), ..self }
    }

    /// Compressed, if that is what the reader prefers. Takes time: not for the async workers.
    pub(super) fn coded_for(self, reader: Accepts) -> Self {
        if !reader.gzip {
            return Self { coding: Coding::Plain, ..self };
        }
        // Entries are mostly hashes; a harder try only costs more.
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        match gzip.write_all(&self.body).and_then(|()| gzip.finish()) {
            Ok(body) => Self { body, coding: Coding::Gzip, ..self },
            // A vector takes every write; and who gets the plain form can read it.
            Err(_) => Self { coding: Coding::Plain, ..self },
        }
    }

    /// The strong validator: another for every other sequence of bytes, so also for each coding.
    fn tag(&self) -> String {
        format!("\"{}\"", to_hex(&Sha256::digest(&self.body)[..16]))
    }
}

impl<'r> Responder<'r, 'static> for Resource {
    fn respond_to(self, request: &'r Request<'_>) -> response::Result<'static> {
        let tag = self.tag();
        let mut response = Response::build();
        response.raw_header("Cache-Control", self.keep.header());
        if self.coding != Coding::Fixed {
            response.raw_header("Vary", "Accept-Encoding");
        }
        let known = request.headers().get("If-None-Match").any(|list| names(list, &tag));
        response.raw_header("ETag", tag);
        if known {
            return response.status(Status::NotModified).ok();
        }
        if self.coding == Coding::Gzip {
            response.raw_header("Content-Encoding", "gzip");
        }
        if let Some(name) = self.file_name {
            let place = format!("attachment; filename=\"{name}\"");
            response.raw_header("Content-Disposition", place);
        }
        response.header(self.kind).sized_body(self.body.len(), Cursor::new(self.body)).ok()
    }
}

/// Whether a list of validators has this one; compared weakly, as RFC 9110 13.1.2 asks for.
/// No validator of ours has a comma in it, so one that has is not ours wherever it is cut.
fn names(list: &str, tag: &str) -> bool {
    let mut tags = list.split(',').map(str::trim);
    tags.any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

/// The codings a reader takes (RFC 9110 12.5.3), as far as it concerns us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accepts {
    /// It takes gzip, and likes nothing plain better.
    gzip: bool,
}

#[rocket::async_trait]
impl<'r> FromRequest<'r> for Accepts {
    type Error = std::convert::Infallible;

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Self::Error> {
        Outcome::Success(Self::read(request.headers().get("Accept-Encoding")))
    }
}

impl Accepts {
    /// Reads `Accept-Encoding`. Without one, or where it does not parse, nothing is compressed:
    /// everybody can read the plain form.
    fn read<'h>(headers: impl Iterator<Item = &'h str>) -> Self {
        let (mut gzip, mut plain, mut any) = (None, None, None);
        for coding in headers.flat_map(|header| header.split(',')) {
            let (name, weight) = weighed(coding);
            match name.to_ascii_lowercase().as_str() {
                "gzip" | "x-gzip" => gzip = weight,
                "identity" => plain = weight,
                "*" => any = weight,
                _ => {}
            }
        }
        let gzip = gzip.or(any).unwrap_or(0);
        Self { gzip: gzip > 0 && gzip >= plain.unwrap_or(0) }
    }
}

/// A coding and its weight in thousandths: `gzip;q=0.5`. 1,000 if none is given, `None` if what
/// is given is none.
fn weighed(coding: &str) -> (&str, Option<u16>) {
    let Some((name, parameter)) = coding.split_once(';') else {
        return (coding.trim(), Some(1000));
    };
    let value = parameter.trim().strip_prefix(['q', 'Q']).map(str::trim_start);
    let value = value.and_then(|rest| rest.strip_prefix('=')).map(str::trim);
    (name.trim(), value.and_then(thousandths))
}

/// RFC 9110 12.4.2: 0 to 1 with at most three decimals.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit());
    let part: u16 = if digits { format!("{part:0<3}").parse().ok()? } else { return None };
    match (whole, part) {
        ("0", part) => Some(part),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use rocket::http::Header;
    use rocket::local::blocking::Client;
    use rocket::{Config, get, routes};
    use std::io::Read as _;

    const BODY: &[u8] = b"nexo/1/leaf nexo/1/leaf nexo/1/leaf nexo/1/leaf nexo/1/leaf";

    #[get("/bundle")]
    fn bundle(reader: Accepts) -> Resource {
        Resource::bytes(BODY.to_vec(), Keep::Forever).coded_for(reader)
    }

    #[get("/head")]
    fn head() -> Resource {
        Resource::text("head\n", Keep::Ask).named("a.tlog-proof".to_owned())
    }

    fn client() -> Client {
        let config = Config { log_level: rocket::config::LogLevel::Off, ..Config::debug_default() };
        Client::untracked(rocket::custom(config).mount("/", routes![bundle, head])).unwrap()
    }

    #[test]
    fn a_validator_sent_back_spares_the_body() {
        let client = client();
        let first = client.get("/head").dispatch();
        let header = |name| first.headers().get_one(name).map(str::to_owned);
        let tag = header("ETag").unwrap();
        assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() == 34, "{tag}");
        assert_eq!(header("Cache-Control").as_deref(), Some("no-cache"));
        assert_eq!(header("Vary"), None);
        let name = "attachment; filename=\"a.tlog-proof\"";
        assert_eq!(header("Content-Disposition").as_deref(), Some(name));
        let ask = |condition: String| {
            let ask = client.get("/head").header(Header::new("If-None-Match", condition));
            let answer = ask.dispatch();
            assert_eq!(answer.headers().get_one("ETag"), Some(tag.as_str()));
            (answer.status().code, answer.into_bytes().unwrap_or_default().len())
        };
        for same in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
            assert_eq!(ask(same.clone()), (304, 0), "{same}");
        }
        for other in ["\"x\"".to_owned(), tag.trim_matches('"').to_owned(), String::new()] {
            assert_eq!(ask(other.clone()), (200, 5), "{other}");
        }
    }

    #[test]
    fn each_coding_has_its_own_validator() {
        let client = client();
        let ask = |accept: &'static str| {
            let answer = client.get("/bundle").header(Header::new("Accept-Encoding", accept));
            let answer = answer.dispatch();
            assert_eq!(answer.headers().get_one("Vary"), Some("Accept-Encoding"));
            let header = |name| answer.headers().get_one(name).map(str::to_owned);
            let (tag, coding) = (header("ETag").unwrap(), header("Content-Encoding"));
            (tag, coding, answer.into_bytes().unwrap())
        };
        let (plain_tag, coding, plain) = ask("identity");
        assert_eq!((coding, plain.as_slice()), (None, BODY));
        let (packed_tag, coding, packed) = ask("br, gzip");
        assert_eq!(coding.as_deref(), Some("gzip"));
        let mut unpacked = Vec::new();
        GzDecoder::new(packed.as_slice()).read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked, BODY);
        assert!(packed.len() < BODY.len());
        assert_ne!(plain_tag, packed_tag);
        // A cache that has the one form is not told that the other is unchanged.
        let ask = client.get("/bundle").header(Header::new("Accept-Encoding", "gzip"));
        let answer = ask.header(Header::new("If-None-Match", plain_tag)).dispatch();
        assert_eq!(answer.status(), Status::Ok);
    }

    #[test]
    fn head_has_the_headers_and_no_body() {
        let client = client();
        for path in ["/head", "/bundle"] {
            let (get, head) = (client.get(path).dispatch(), client.head(path).dispatch());
            let headers = |all: &rocket::http::HeaderMap<'_>| {
                let mut all: Vec<String> = all.iter().map(|h| h.to_string()).collect();
                all.sort();
                all
            };
            assert_eq!(headers(get.headers()), headers(head.headers()), "{path}");
            assert_eq!((get.status(), head.status()), (Status::Ok, Status::Ok));
            assert_eq!(head.into_bytes().unwrap_or_default(), b"");
        }
    }

    #[test]
    fn gzip_is_used_where_it_is_taken_and_not_liked_less() {
        let gzip = |headers: &[&str]| Accepts::read(headers.iter().copied()).gzip;
        for wanted in [
            &["gzip"][..],
            &["GZIP"],
            &["x-gzip"],
            &["*"],
            &["br;q=1.0, gzip;q=0.8, *;q=0.1"],
            &["gzip;q=0.001"],
            &["gzip ; Q = 1.000"],
            &["gzip, identity"],
            &["identity;q=0.5", "gzip;q=0.5"],
            &["identity;q=0, *;q=0.5"],
        ] {
            assert!(gzip(wanted), "{wanted:?}");
        }
        for unwanted in [
            &[][..],
            &[""],
            &["identity"],
            &["br"],
            &["gzip;q=0"],
            &["gzip;q=0.000, *"],
            &["*;q=0"],
            &["gzip;q=0.5, identity"],
            &["gzip;q=0.5, identity;q=0.501"],
            &["gzip;q=2"],
            &["gzip;q=1.5"],
            &["gzip;q=-1"],
            &["gzip;q=0.0001"],
            &["gzip;q="],
            &["gzip;level=9"],
            &["gzip;q=x"],
            &["gzipped"],
        ] {
            assert!(!gzip(unwanted), "{unwanted:?}");
        }
    }
}
