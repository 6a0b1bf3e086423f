//! Power cuts: SIGKILL of the server under load, at several moments.
//!
//! What clients were told is a promise; `harness/load.rs` says which and holds the server to it.
//! An auditor that keeps its memory over all of it finds nothing.

use crate::harness::load::{Crew, Load, Seen, Told};
use crate::harness::shell::Auditor;
use crate::harness::{Engine, both};

/// Acknowledgements after which the power goes, round by round.
const ROUNDS: [usize; 6] = [1, 9, 40, 90, 150, 220];
const REST_SENDERS: usize = 6;
const SOCKET_SENDERS: usize = 3;

both!(async what_was_acknowledged_survives_sigkill);
async fn what_was_acknowledged_survives_sigkill(engine: Engine) {
    let mut server = engine.durable().start();
    let auditor = Auditor::new();
    let crew = Crew::new(&server, REST_SENDERS, SOCKET_SENDERS).await;
    let mut told = Told::default();
    for (round, acks) in ROUNDS.into_iter().enumerate() {
        let mut load = crew.load(&[&server], round).await;
        unrefused(&mut load, &mut told, acks).await;
        server.kill9();
        load.all_lost(&mut told).await;
        server.restart();
        crew.check(&server, &told).await;
        crew.send_again(&server, &mut told).await;
        auditor.check(server.url(), &["--vkey", server.vkey()]).ok();
    }
}

/// As [`Load::acks`], of a server that has no reason to refuse.
async fn unrefused(load: &mut Load, told: &mut Told, count: usize) {
    let mut acked = 0;
    while acked < count {
        let seen = load.next().await.expect("the load goes on until the power goes");
        assert!(!matches!(seen, Seen::Refused { .. }), "{seen:?}");
        acked += usize::from(matches!(seen, Seen::Acked { .. }));
        told.note(seen);
    }
}
