//! `nexo-cli bench` against a real relay: are its figures those of messages that arrived.

use crate::harness::shell::Person;
use crate::harness::{Server, number};

#[tokio::test(flavor = "multi_thread")]
async fn a_bench_measures_what_arrived_and_touches_no_home() {
    let server = Server::start();
    let person = Person::at(&server);
    let args = ["bench", "--json", "-n", "60", "--sockets", "3", "--in-flight", "4"];
    let figures = person.nexo(&args).object();
    assert_eq!(figures["schema"], "nexo.bench/1");
    let shape = [("messages", 60), ("sockets", 3), ("in_flight", 4), ("bytes", 200)];
    for (name, value) in shape {
        assert_eq!(number(&figures[name]), value, "{figures}");
    }
    // Two accounts and the messages, and nothing else.
    assert_eq!(number(&server.wire().get("/log/head").await.ok()["size"]), 62);
    let positive = |value: &serde_json::Value| value.as_f64().is_some_and(|value| value > 0.0);
    assert!(positive(&figures["acks_per_second"]) && positive(&figures["seconds"]), "{figures}");
    for times in [&figures["ack_ms"], &figures["delivery_ms"]] {
        let ranks = ["p50", "p90", "p99", "max"].map(|rank| times[rank].as_f64().unwrap());
        assert!(ranks[0] > 0.0 && ranks.is_sorted(), "{figures}");
    }
    assert!(!person.home().exists());
    let text = person.nexo(&["bench", "-n", "5", "--sockets", "1", "--size", "1"]);
    assert!(text.ok().starts_with("5 messages of 1 bytes, 1 sockets with 32 in flight each\n"));
}
