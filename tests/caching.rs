//! The public log over HTTP: what may be kept, asked about again, compressed, and read by pages.
//!
//! RFC 9110 (validators 8.8.3 and 13.1.2, codings 12.5.3, HEAD 9.3.2), RFC 9111 and the Fetch
//! standard's CORS, as an auditor in a browser or behind a cache meets them.

use std::io::Read as _;

use flate2::read::GzDecoder;

use crate::harness::{Plain, Reply, Server};

const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// A server with a log of a few entries.
async fn small_log() -> Server {
    let server = Server::start();
    let alice = Plain::new(&server, "alice").await;
    let conv = alice.conversation("alice").await;
    for text in ["one", "two", "three", "four"] {
        alice.say(&conv, text).await;
    }
    server
}

async fn ask(server: &Server, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    server.wire().call(method, path, headers, Vec::new()).await
}

/// Everything of the log, and whether it never changes.
const RESOURCES: [(&str, bool); 13] = [
    ("/checkpoint", false),
    ("/log/keys", false),
    ("/log/vkey", false),
    ("/log/head", false),
    ("/log/head/3", false),
    ("/log/inclusion?index=1", false),
    ("/log/consistency?from=2", false),
    ("/log/proof?index=1", false),
    ("/log/inclusion?index=1&size=4", true),
    ("/log/consistency?from=2&to=4", true),
    ("/tile/0/000.p/5", true),
    ("/tile/entries/000.p/5", true),
    ("/tile/entries/000.p/2", true),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_a_validator_that_spares_its_body() {
    let server = small_log().await;
    for (path, forever) in RESOURCES {
        let first = ask(&server, "GET", path, &[]).await;
        assert_eq!(first.status, 200, "{first:?}");
        let caching = if forever { IMMUTABLE } else { "no-cache" };
        assert_eq!(first.header("cache-control"), caching, "{path}");
        let tag = first.header("etag").to_owned();
        assert!(tag.starts_with('"') && tag.len() > 20, "{path}: {tag}");
        let again = ask(&server, "GET", path, &[("If-None-Match", &tag)]).await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
        // What a cache needs to renew what it has (RFC 9110 15.4.5).
        for name in ["etag", "cache-control", "vary", "access-control-allow-origin"] {
            assert_eq!(again.header(name), first.header(name), "{path}: {name}");
        }
        let other = ask(&server, "GET", path, &[("If-None-Match", "\"other\"")]).await;
        assert_eq!((other.status, &other.body), (200, &first.body), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_head_is_noticed_to_be_old() {
    let server = small_log().await;
    let alice = Plain::new(&server, "bob").await;
    let conv = alice.conversation("bob").await;
    let kept = ask(&server, "GET", "/checkpoint", &[]).await;
    let tag = kept.header("etag").to_owned();
    alice.say(&conv, "news").await;
    let fresh = ask(&server, "GET", "/checkpoint", &[("If-None-Match", &tag)]).await;
    assert_eq!(fresh.status, 200);
    assert_ne!(fresh.body, kept.body);
    assert_ne!(fresh.header("etag"), tag);
}

#[tokio::test(flavor = "multi_thread")]
async fn head_answers_as_get_without_the_body() {
    let server = small_log().await;
    for (path, _) in RESOURCES {
        let (get, head) =
            (ask(&server, "GET", path, &[]).await, ask(&server, "HEAD", path, &[]).await);
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        for name in ["content-type", "content-length", "etag", "cache-control"] {
            assert_eq!(head.header(name), get.header(name), "{path}: {name}");
        }
        assert_eq!(head.header("content-length"), get.body.len().to_string(), "{path}");
    }
    for path in ["/tile/0/000", "/log/head/99"] {
        let head = ask(&server, "HEAD", path, &[]).await;
        assert_eq!((head.status, head.body.len()), (404, 0), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_are_compressed_for_those_who_take_it() {
    let server = small_log().await;
    let path = "/tile/entries/000.p/5";
    let plain = ask(&server, "GET", path, &[]).await;
    assert_eq!((plain.header("content-encoding"), plain.header("vary")), ("", "Accept-Encoding"));
    for accept in ["gzip", "gzip, deflate, br, zstd", "br;q=1, gzip;q=0.2"] {
        let packed = ask(&server, "GET", path, &[("Accept-Encoding", accept)]).await;
        assert_eq!(packed.header("content-encoding"), "gzip", "{accept}");
        assert_eq!(packed.header("vary"), "Accept-Encoding");
        assert_eq!(packed.header("cache-control"), IMMUTABLE);
        let mut unpacked = Vec::new();
        GzDecoder::new(packed.body.as_slice()).read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked, plain.body);
        assert!(packed.body.len() < plain.body.len(), "it is worth it");
        // One validator is of one form only.
        let tag = packed.header("etag").to_owned();
        assert_ne!(tag, plain.header("etag"));
        let both = [("Accept-Encoding", accept), ("If-None-Match", &tag)];
        assert_eq!(ask(&server, "GET", path, &both).await.status, 304);
        assert_eq!(ask(&server, "GET", path, &[("If-None-Match", &tag)]).await.status, 200);
    }
    for accept in ["identity", "gzip;q=0", "br", "gzip;q=0.1, identity"] {
        let reply = ask(&server, "GET", path, &[("Accept-Encoding", accept)]).await;
        assert_eq!((reply.header("content-encoding"), &reply.body), ("", &plain.body), "{accept}");
    }
    // Hashes do not compress.
    let tile = ask(&server, "GET", "/tile/0/000.p/5", &[("Accept-Encoding", "gzip")]).await;
    assert_eq!((tile.header("content-encoding"), tile.header("vary")), ("", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn any_page_may_audit() {
    let server = small_log().await;
    let page = ("Origin", "https://auditor.example");
    let absent = ["/tile/0/000", "/log/head/99", "/log/proof?index=99", "/log/nothing"];
    for path in RESOURCES.map(|(path, _)| path).into_iter().chain(absent) {
        let reply = ask(&server, "GET", path, &[page]).await;
        assert_eq!(reply.header("access-control-allow-origin"), "*", "{path}");
        assert_eq!(reply.header("access-control-allow-credentials"), "", "{path}");
        let readable = reply.header("access-control-expose-headers").to_lowercase();
        assert!(readable.contains("etag"), "{path}: {readable}");
        let preflight = [
            page,
            ("Access-Control-Request-Method", "GET"),
            ("Access-Control-Request-Headers", "if-none-match"),
        ];
        let allowed = ask(&server, "OPTIONS", path, &preflight).await;
        assert_eq!(allowed.status, 204, "{path}");
        assert_eq!(allowed.header("access-control-allow-origin"), "*", "{path}");
        assert!(allowed.header("access-control-allow-methods").contains("GET"), "{path}");
        let may_send = allowed.header("access-control-allow-headers").to_lowercase();
        assert!(may_send.contains("if-none-match"), "{path}: {may_send}");
        assert!(!allowed.header("access-control-max-age").is_empty(), "{path}");
    }
    // And only that: what is for members is for the configured pages.
    for path in ["/messages", "/accounts/alice/proof", "/health"] {
        let reply = ask(&server, "GET", path, &[page]).await;
        assert_eq!(reply.header("access-control-allow-origin"), "", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_kept() {
    let server = small_log().await;
    for path in ["/tile/0/000", "/tile/0/000.p/6", "/tile/entries/000.p/6", "/log/head/99"] {
        for headers in [&[][..], &[("If-None-Match", "*")], &[("Accept-Encoding", "gzip")]] {
            // Judges caching as well.
            let refused = ask(&server, "GET", path, headers).await;
            refused.problem(404, "not_found");
            assert_eq!(refused.header("etag"), "", "{path}");
        }
    }
}
