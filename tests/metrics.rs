//! Counts for the operator: on a listener of their own, told in OpenMetrics, naming nobody.

use std::collections::BTreeMap;

use crate::harness::wire::Wire;
use crate::harness::{DEADLINE, Plain, Server};

/// Samples of a page, by name and labels.
struct Page(BTreeMap<String, f64>);

impl Page {
    async fn of(server: &Server, url: &str) -> Self {
        let reply = Wire::new(reqwest::Client::new(), url).get("").await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!(reply.header("content-type"), kind);
        let page = reply.text();
        assert!(page.ends_with("\n# EOF\n"), "{page}");
        for secret in ["alice", "hello", server.origin()] {
            assert!(!page.contains(secret), "{secret} is in {page}");
        }
        let samples = page.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        });
        Self(samples.collect())
    }

    fn is(&self, name: &str, value: f64) {
        let found = self.0.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.0));
        assert!((found - value).abs() < 1e-9, "{name}: {found}");
    }

    fn value(&self, name: &str) -> f64 {
        self.0[name]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_reads_what_the_relay_does() {
    let server = Server::setup().args("--metrics 127.0.0.1:0").start();
    let url = server.announced("metrics ");
    let fresh = Page::of(&server, &url).await;
    fresh.is("nexo_log_tree_size", 0.0);
    fresh.is("nexo_log_leaves_total", 0.0);
    let alice = Plain::new(&server, "alice").await;
    let conv = alice.conversation("alice").await;
    let socket = alice.socket(&conv).await;
    for _ in 0..3 {
        alice.say(&conv, "hello").await;
    }
    alice.get("/messages/alice-was-here").await.refusal();

    let page = Page::of(&server, &url).await;
    page.is("nexo_log_tree_size", 4.0);
    page.is("nexo_log_leaves_total", 4.0);
    page.is("nexo_log_batch_leaves_sum", 4.0);
    page.is("nexo_log_batch_leaves_bucket{le=\"+Inf\"}", 4.0);
    page.is("nexo_log_batches_total", 4.0);
    page.is("nexo_log_commit_seconds_count", 4.0);
    page.is("nexo_log_queue_items", 0.0);
    page.is("nexo_log_queue_capacity", 8192.0);
    page.is("nexo_log_refused_total", 0.0);
    page.is("nexo_ws_connections", 1.0);
    let count = |method: &str, route: &str, status: u16| {
        format!(
            "nexo_http_requests_total{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}}"
        )
    };
    page.is(&count("POST", "/messages", 200), 3.0);
    page.is(&count("GET", "/messages/<conv_id>", 400), 1.0);
    page.is("nexo_http_request_duration_seconds_count{route=\"/messages\"}", 3.0);
    assert!(page.value("nexo_log_head_timestamp_seconds") > 1.7e9);
    let steps = ["admit", "insert", "stage", "tree", "commit", "adopt"];
    let steps = steps.map(|s| page.value(&format!("nexo_log_step_seconds_total{{step=\"{s}\"}}")));
    assert!(steps.iter().all(|&seconds| seconds > 0.0), "{steps:?}");

    drop(socket);
    let end = std::time::Instant::now() + DEADLINE;
    while Page::of(&server, &url).await.value("nexo_ws_connections") > 0.0 {
        assert!(std::time::Instant::now() < end, "the socket stays open");
    }
    server.sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_are_told_nowhere_else() {
    let mut server = Server::setup().args("--metrics 127.0.0.1:0").start();
    server.wire().get("/metrics").await.problem(404, "not_found");
    let url = server.announced("metrics ");
    let listener = Wire::new(reqwest::Client::new(), url.strip_suffix("/metrics").unwrap());
    // And there is nothing else at theirs.
    for path in ["/health", "/checkpoint", "/messages", "/"] {
        listener.get(path).await.problem(404, "not_found");
    }
    assert!(server.terminate().success(), "both end");
    let off = Server::start();
    off.wire().get("/metrics").await.problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_refused_before_anything_is_served() {
    let first = Server::setup().args("--metrics 127.0.0.1:0").start();
    let url = first.announced("metrics ");
    let address = url.strip_prefix("http://").unwrap().strip_suffix("/metrics").unwrap();
    let refused = Server::setup().args(&format!("--metrics {address}")).try_start();
    let refused = refused.err().expect("the address is taken");
    assert_eq!(refused.code, Some(69), "{refused:?}");
    assert!(refused.stderr.contains("metrics"), "{refused:?}");
}
