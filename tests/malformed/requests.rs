//! Paths, queries, headers, methods, and HTTP that is none.

use super::Stage;
use crate::harness::Reply;
use crate::harness::plain::message;
use crate::harness::wire::raw;

/// Every route with its methods.
const ROUTES: [(&str, &str); 16] = [
    ("/auth/register", "POST"),
    ("/auth/verify", "POST"),
    ("/auth/refresh", "POST"),
    ("/devices/x25519_pub", "GET"),
    ("/conversations", "POST"),
    ("/messages/delete", "POST"),
    ("/prekeys", "GET, POST"),
    ("/accounts/alice/bundle", "GET, POST"),
    ("/health", "GET"),
    ("/ws", "GET"),
    ("/checkpoint", "GET"),
    ("/log/keys", "GET"),
    ("/log/head", "GET"),
    ("/log/inclusion", "GET"),
    ("/log/consistency", "GET"),
    ("/tile/0/000", "GET"),
];

#[tokio::test]
async fn methods_that_a_route_does_not_have() {
    let stage = Stage::new().await;
    for (path, allowed) in ROUTES {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            // `DELETE /messages/<id>` and the like are no routes of ours either.
            if allowed.split(", ").any(|known| known == method) {
                continue;
            }
            let reply = stage.alice.wire.call(method, path, &[], b"{}".to_vec()).await;
            if path == "/messages/delete" && method == "GET" {
                // Read as the list of a conversation called "delete".
                reply.problem(400, "bad_request");
                continue;
            }
            reply.problem(405, "method_not_allowed");
            let told = reply.header("allow");
            assert!(allowed.split(", ").all(|known| told.contains(known)), "{path}: {told}");
        }
    }
    stage.untouched().await;
}

#[tokio::test]
async fn paths_that_lead_nowhere() {
    let stage = Stage::new().await;
    for path in [
        "/",
        "/nowhere",
        "/auth",
        "/auth/",
        "/auth/register/x",
        "/messages/a/b",
        "/api/health",
        "/.env",
        "/.git/config",
        "/index.html",
        "/favicon.ico",
        "/metrics",
        "/debug/pprof",
        "/accounts",
        "/accounts/alice",
        "/accounts/alice/bundle/x",
        "/log",
        "/log/",
        "/log/head/1/2",
        "/%00",
        "/%2e%2e/",
        "/health%00",
        "/HEALTH",
        "/tile",
        "/tile/0",
        "/tile/entries",
    ] {
        stage.alice.get(path).await.problem(404, "not_found");
    }
    // Ids in paths.
    let conv = &stage.conv;
    let upper = conv.to_uppercase();
    for id in ["x", "delete", &conv[..63], &format!("{conv}0"), &upper, "%00", "é", "..%2f.."] {
        stage.alice.get(&format!("/messages/{id}")).await.problem(400, "bad_request");
    }
    for handle in ["a", "%00", "A%20B", "é", &"x".repeat(33), "..%2f"] {
        stage.alice.get(&format!("/accounts/{handle}/bundle")).await.problem(400, "bad_request");
        stage
            .alice
            .get(&format!("/accounts/by-id/{handle}/bundle"))
            .await
            .problem(400, "bad_request");
    }
    stage.alice.get("/accounts/nobody/bundle").await.problem(404, "not_found");
    let nobody = "00".repeat(32);
    stage.alice.get(&format!("/accounts/by-id/{nobody}/bundle")).await.problem(404, "not_found");
    stage.untouched().await;
}

#[tokio::test]
async fn tiles_that_do_not_exist() {
    let stage = Stage::new().await;
    let size = stage.server.wire().get("/health").await.ok()["sth_count"].as_u64().unwrap();
    assert_eq!(size, 2);
    let get = async |path: &str| stage.server.wire().get(path).await;
    for prefix in ["/tile/0", "/tile/entries"] {
        assert_eq!(get(&format!("{prefix}/000.p/2")).await.status, 200);
        for bad in [
            "000",
            "000.p/3",
            "000.p/0",
            "000.p/256",
            "000.p/257",
            "000.p/02",
            "000.p/-1",
            "000.p/x",
            "000.p/",
            "000.p",
            "000.p/1/1",
            "0",
            "00",
            "0000",
            "001",
            "001.p/1",
            "x000/000.p/1",
            "x001/000.p/1",
            "000/000.p/1",
            "-01.p/1",
            "%30%30%30x.p/1",
            "00a.p/1",
            "000.P/1",
            "999.p/1",
            "x999/x999/x999/x999/x999/x999/999.p/1",
            "000.p/2%00",
            "000.p/99999999999",
        ] {
            get(&format!("{prefix}/{bad}")).await.problem(404, "not_found");
        }
        get(&format!("{prefix}/000.p/1/../../../../health")).await.ok();
    }
    for level in ["1", "63"] {
        get(&format!("/tile/{level}/000.p/1")).await.problem(404, "not_found");
    }
    for level in ["-1", "64", "256", "00", "01", "x", "%00", "1e1", "18446744073709551616"] {
        get(&format!("/tile/{level}/000.p/1")).await.refusal();
    }
    stage.untouched().await;
}

/// What is no number of ours. A `+` in a query is a space.
const NO_NUMBERS: [&str; 12] =
    ["", "-1", "1.5", "%201", "+1", "x", "0x10", "1e3", "NaN", "١", "18446744073709551616", "1,2"];

#[tokio::test]
async fn queries_that_are_no_numbers_or_out_of_range() {
    let stage = Stage::new().await;
    let conv = &stage.conv;
    let bundle = "/accounts/nora/bundle?tree_size=";
    for bad in NO_NUMBERS {
        for path in [
            format!("/messages/{conv}?since={bad}"),
            format!("/messages/{conv}?after={bad}"),
            format!("/messages/{conv}?limit={bad}"),
            format!("/messages?after={bad}"),
            format!("/messages?after=0&limit={bad}"),
            format!("/messages?proofs=1&tree_size={bad}"),
            format!("{bundle}{bad}"),
            format!("/log/inclusion?index={bad}"),
            format!("/log/inclusion?index=0&size={bad}"),
            format!("/log/consistency?from={bad}"),
            format!("/log/consistency?from=1&to={bad}"),
            format!("/log/head/{}", if bad.is_empty() { "x" } else { bad }),
        ] {
            let reply: Reply = stage.alice.get(&path).await;
            assert_eq!(reply.refusal()["code"], "bad_request", "{reply:?}");
        }
    }
    for path in [
        "/log/inclusion",
        "/log/inclusion?index=2",
        "/log/inclusion?index=1&size=1",
        "/log/inclusion?index=0&size=0",
        "/log/consistency",
        "/log/consistency?from=0",
        "/log/consistency?from=2&to=1",
        "/log/consistency?from=3",
        "/messages?proofs=1&tree_size=3",
        "/accounts/nora/bundle?tree_size=3",
    ] {
        stage.alice.get(path).await.problem(400, "bad_request");
    }
    for path in [
        "/log/inclusion?index=0&size=3",
        "/log/consistency?from=1&to=3",
        "/log/inclusion?index=0&size=9223372036854775807",
        "/log/head/3",
        "/log/head/9223372036854775807",
    ] {
        stage.alice.get(path).await.problem(404, "not_found");
    }
    // The largest position and time there can be, and one more.
    for (most, status) in [("9223372036854775807", 200), ("9223372036854775808", 400)] {
        for path in ["/messages?after=", &format!("/messages/{conv}?since=")] {
            let reply = stage.alice.get(&format!("{path}{most}")).await;
            assert_eq!(reply.status, status, "{reply:?}");
            if status == 200 {
                assert_eq!(reply.ok()["items"], serde_json::json!([]));
            }
        }
        stage.alice.get(&format!("/log/head/{most}")).await.refusal();
    }
    stage.untouched().await;
}

#[tokio::test]
async fn headers_that_are_no_tokens_or_keys() {
    let stage = Stage::new().await;
    let token = stage.alice.token();
    let huge = format!("Bearer {}", "a".repeat(5000));
    let trailing = format!("Bearer {token}x");
    let twice = format!("Bearer {token} {token}");
    for value in [
        "",
        "Bearer",
        "Bearer ",
        "bearer",
        token,
        "Basic YTpi",
        "Bearer .",
        "Bearer ..",
        "Bearer a.b.c",
        "Bearer \t",
        "Bearer null",
        "DPoP x",
        &huge,
        &trailing,
        &twice,
    ] {
        let headers = [("Authorization", value)];
        let wire = stage.server.wire();
        let reply = wire.call("GET", "/devices/x25519_pub", &headers, Vec::new()).await;
        assert_eq!(reply.problem(401, "unauthorized")["status"], 401, "{value:?}");
    }
    let body = message(&stage.conv, "x").to_string().into_bytes();
    let long = "k".repeat(65);
    for key in ["", "\"\"", &long, "a\tb"] {
        let headers = [("Idempotency-Key", key)];
        let reply = stage.alice.wire.call("POST", "/messages", &headers, body.clone()).await;
        assert_eq!(reply.problem(400, "bad_request")["status"], 400, "{key:?}");
    }
    for proof in ["", "x", "a.b.c", &"p".repeat(5000), "e30.e30.e30"] {
        let headers = [("DPoP", proof)];
        let wire = &stage.alice.wire;
        let reply = wire.call("GET", "/devices/x25519_pub", &headers, Vec::new()).await;
        assert_eq!(reply.problem(401, "dpop_invalid")["status"], 401, "{proof:?}");
    }
    // Any type of content is read as what it is.
    let odd = [("Content-Type", "text/html")];
    stage
        .alice
        .wire
        .call("POST", "/messages", &odd, b"<html>".to_vec())
        .await
        .problem(400, "bad_request");
    stage.untouched().await;
}

#[tokio::test]
async fn http_that_is_none() {
    let stage = Stage::new().await;
    let auth = format!("Authorization: Bearer {}\r\n", stage.alice.token());
    let post = |head: &str, body: &str| {
        format!("POST /messages HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{auth}{head}\r\n{body}")
    };
    let body = message(&stage.conv, "x").to_string();
    let short = post(&format!("Content-Length: {}\r\n", body.len() - 1), &body);
    let requests = [
        "nonsense\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        "FROB / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_owned(),
        "TRACE /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_owned(),
        "GET /\u{0}health HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "GET /tile/../health\u{7f} HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "GET http://[::1/ HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "GET * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_owned(),
        format!("GET /{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "a".repeat(70_000)),
        format!("GET /nowhere HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(600_000)),
        format!("GET /nowhere HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(500)),
        post("Content-Length: -1\r\n", &body),
        post("Content-Length: x\r\n", &body),
        post("Content-Length: 1\r\nContent-Length: 2\r\n", &body),
        post("Transfer-Encoding: chunked\r\n", "zz\r\nhello\r\n0\r\n\r\n"),
        post("Transfer-Encoding: chunked\r\n", "ffffffffffffffffff\r\n"),
        post("Transfer-Encoding: gzip\r\n", &body),
        short,
    ];
    for request in requests {
        let answer = raw(&stage.server, request.as_bytes());
        // Hyper answers some of these itself, bare, or only hangs up.
        let status = answer.strip_prefix("HTTP/1.").map(|rest| rest[2..3].to_owned());
        let shown = request.get(..60).unwrap_or(&request);
        assert!(matches!(status.as_deref(), None | Some("4")), "{shown:?}: {answer}");
    }
    // An upgrade that is none.
    for headers in [&[][..], &[("Upgrade", "h2c"), ("Connection", "upgrade")]] {
        stage.alice.wire.call("GET", "/ws", headers, Vec::new()).await.refusal();
    }
    stage.untouched().await;
}
