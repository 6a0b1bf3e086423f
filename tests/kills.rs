//! Power cuts by the hundred: SIGKILL of the server at random moments under load. Minutes, so it
//! runs when asked for: `scripts/kills`.
//!
//! After every restart the messages of the round are where their acknowledgements said, without
//! a gap, and the heads of the round, the one it began with among them, are prefixes of the
//! present one. At the end that is asked once more of everything that anyone was ever told, and the
//! auditor and the server's own check of its database find nothing.
//!
//! `NEXO_KILLS` is the number of kills. `NEXO_KILLS_SEED` repeats the moments of another run;
//! what the machine does in them it does not repeat.

use std::env;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::harness::load::{Crew, Load, Seen, Told};
use crate::harness::reader::Reader;
use crate::harness::shell::Auditor;
use crate::harness::{Engine, Server, random};

const KILLS: usize = 200;
const REST_SENDERS: usize = 6;
const SOCKET_SENDERS: usize = 6;

/// Every so many kills the auditor looks, too, who reads the whole log.
const AUDIT_EVERY: usize = 20;

/// How long the load may go on, in milliseconds. Most rounds are short: what is wanted is many
/// different moments, those of the first batches among them.
const LONGEST: u64 = 400;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; scripts/kills runs it"]
async fn on_sqlite() {
    promises_survive(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; scripts/kills runs it"]
async fn on_postgres() {
    promises_survive(Engine::Postgres).await;
}

async fn promises_survive(engine: Engine) {
    let kills = setting("NEXO_KILLS").map_or(KILLS, |kills| usize::try_from(kills).unwrap());
    let mut moments = Moments::new();
    let mut server = engine.durable().start();
    let auditor = Auditor::new();
    let audit = |server: &Server| {
        auditor.check(server.url(), &["--vkey", server.vkey()]).ok();
    };
    let crew = Crew::new(&server, REST_SENDERS, SOCKET_SENDERS).await;
    let mut all = Told::default();
    for kill in 0..kills {
        let head = Reader::of(&server).head().await;
        let mut told = Told::since(head.checkpoint.size);
        told.note(Seen::Head(head.note));
        let mut load = crew.load(&[&server], kill).await;
        go_on(&mut load, &mut told, moments.next()).await;
        server.kill9();
        load.all_lost(&mut told).await;
        server.restart();
        crew.check(&server, &told).await;
        crew.send_again(&server, &mut told).await;
        all.append(told);
        if (kill + 1) % AUDIT_EVERY == 0 {
            audit(&server);
            println!("{} of {kills} kills survived, {all}", kill + 1);
        }
    }
    crew.check(&server, &all).await;
    audit(&server);
    server.sound();
    server.terminate();
    let verified = server.command("log verify").output().unwrap();
    assert!(verified.status.success(), "{verified:?}");
    println!("{kills} kills survived, {all}");
}

/// Notes what is seen for so long. What is acknowledged, refused or lost meanwhile is the
/// load's own affair.
async fn go_on(load: &mut Load, told: &mut Told, length: Duration) {
    let end = Instant::now() + length;
    while let Ok(seen) = timeout_at(end, load.next()).await {
        told.note(seen.expect("the load goes on until the power goes"));
    }
}

/// When the power goes: splitmix64 of a seed that is printed.
struct Moments(u64);

impl Moments {
    fn new() -> Self {
        let seed = setting("NEXO_KILLS_SEED").unwrap_or_else(|| u64::from_be_bytes(random()));
        println!("NEXO_KILLS_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // The smaller of two: short rounds are more frequent than long ones.
        let micros = LONGEST * 1000;
        Duration::from_micros((z % micros).min((z >> 32) % micros))
    }
}

fn setting(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|e| panic!("{name}={value}: {e}")))
}

#[test]
fn moments_differ_and_are_repeated_by_their_seed() {
    let moments = |seed| {
        let mut moments = Moments(seed);
        (0..100).map(|_| moments.next()).collect::<Vec<_>>()
    };
    let mut distinct = moments(7);
    assert_eq!(distinct, moments(7));
    assert!(distinct.iter().all(|moment| *moment < Duration::from_millis(LONGEST)));
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() > 95, "{}", distinct.len());
}
