//! What sealing costs the sender: one message of 300 bytes to 64 devices (e2ee 2.11), and to one.
//!
//! ```text
//! cargo bench -p nexo-cli --bench sealing
//! ```
//!
//! Three states of the sessions, cheapest first: the chain goes on; each device has answered, so
//! each packet begins a new chain (one X25519 agreement and a key pair each); there is no
//! session yet, so each packet is a handshake (five agreements and one ML-KEM encapsulation).

#![expect(clippy::unwrap_used, clippy::panic, reason = "the devices are those of the tests")]

#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../tests/e2ee/fixture.rs"]
mod fixture;
#[expect(dead_code, reason = "the tests need more of it")]
#[path = "../tests/e2ee/node.rs"]
mod node;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use fixture::NOW;
use node::Node;

const BODY: &[u8] = &[b'x'; 300];
const ME: u8 = 200;

fn nodes(count: u8) -> (Node, Vec<Node>) {
    (Node::new(ME, ME), (1..=count).map(|n| Node::new(n, n)).collect())
}

/// One message to all of them, not stored.
fn seal(me: &mut Node, all: &[Node]) {
    let to: Vec<_> = all.iter().map(|node| (node, None)).collect();
    black_box(me.seal(&to, BODY, NOW).expect("everybody can be written to"));
}

/// Everybody takes a message and answers it; the first one opens the sessions.
fn converse(me: &mut Node, all: &mut [Node]) {
    let to: Vec<_> = all.iter().map(|node| (node, None)).collect();
    let (sent, _) = me.send_all(&to, BODY, NOW);
    for node in all {
        node.take(&sent, NOW).expect("it was sent to this device");
        let answer = node.send(me, BODY, NOW);
        me.take(&answer, NOW).expect("it was sent to this device");
    }
}

fn sealing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal 300 bytes");
    for count in [1, 64] {
        let (mut me, mut all) = nodes(count);
        group.bench_function(BenchmarkId::new("handshakes", count), |b| {
            b.iter(|| seal(&mut me, &all));
        });
        converse(&mut me, &mut all);
        group.bench_function(BenchmarkId::new("after answers", count), |b| {
            b.iter(|| seal(&mut me, &all));
        });
        let to: Vec<_> = all.iter().map(|node| (node, None)).collect();
        me.send_all(&to, BODY, NOW);
        group.bench_function(BenchmarkId::new("running chains", count), |b| {
            b.iter(|| seal(&mut me, &all));
        });
    }
    group.finish();
}

criterion_group!(benches, sealing);
criterion_main!(benches);
