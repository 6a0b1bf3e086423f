//! An honest log under load, and auditors that look at it all the time: none of them ever has
//! anything to say. Seconds in the normal run; as long as `NEXO_SOAK` says (in seconds) when
//! `scripts/soak` asks for it.
//!
//! Clients send over REST and sockets without a pause, so heads are replaced while they are read,
//! partial tiles become full, and bundles move. One auditor remembers; one is new each time; one
//! rebuilds everything; one reads an account's keys; one watches. Whatever they are shown, every
//! head grows out of the one before.

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::harness::load::{Crew, Told};
use crate::harness::shell::{Auditor, Follower, run};
use crate::harness::{Engine, Server, both, number};

/// Clients on each way in.
const SENDERS: usize = 4;
/// Minutes of a token; the relay's most.
const TTL: &str = "1440";
/// How long a normal run takes.
const SHORT: Duration = Duration::from_secs(3);

both!(async an_honest_log_raises_nothing);

async fn an_honest_log_raises_nothing(engine: Engine) {
    soak(engine, SHORT).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; scripts/soak runs it"]
async fn on_sqlite() {
    soak(Engine::Sqlite, asked_for()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; scripts/soak runs it"]
async fn on_postgres() {
    soak(Engine::Postgres, asked_for()).await;
}

fn asked_for() -> Duration {
    let seconds = env::var("NEXO_SOAK").map_or(300, |seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds)
}

async fn soak(engine: Engine, length: Duration) {
    // The load does not log in again, and a soak may last longer than a token.
    let server = engine.setup().args("--public-directory").env("ACCESS_TTL_MIN", TTL).start();
    let crew = Crew::new(&server, SENDERS, SENDERS).await;
    let mut told = Told::default();
    let mut load = crew.load(&[&server], 0).await;
    let stop = Arc::new(AtomicBool::new(false));
    let url = server.url();
    let watcher = Auditor::new();
    let words = ["watch", url, "--vkey", server.vkey(), "--interval", "1s", "--patience", "0s"];
    let watch = Follower::start(&mut watcher.command(&words));
    let auditors = [
        look(&server, &stop, &["check", url], true),
        look(&server, &stop, &["check", url], false),
        look(&server, &stop, &["full", url], true),
        look(&server, &stop, &["keys", "hub", url], true),
    ];
    let end = Instant::now() + length;
    while let Ok(seen) = timeout_at(end, load.next()).await {
        told.note(seen.expect("the load goes on"));
    }
    stop.store(true, Ordering::Relaxed);
    let mut looks = 0;
    for auditor in auditors {
        looks += auditor.await.unwrap();
    }
    let watched = tokio::task::spawn_blocking(|| watch.signal("TERM")).await.unwrap();
    for notice in watched.objects() {
        assert_eq!(notice["verdict"], "verified", "{notice}");
    }
    load.end(&mut told).await;
    crew.check(&server, &told).await;
    server.sound();
    println!("{looks} audits of {told} raised nothing in {} s", length.as_secs());
}

/// An auditor that looks again and again, with its memory or new each time, until it is stopped;
/// how often it did.
fn look(
    server: &Server,
    stop: &Arc<AtomicBool>,
    words: &[&str],
    remembers: bool,
) -> JoinHandle<usize> {
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let (vkey, stop) = (server.vkey().to_owned(), Arc::clone(stop));
    tokio::task::spawn_blocking(move || {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (mut auditor, mut last, mut looks) = (Auditor::new(), 0, 0);
        while looks == 0 || !stop.load(Ordering::Relaxed) {
            let done = run(auditor.command(&words).args(["--vkey", &vkey, "--json"]), b"");
            done.ok();
            let report = done.object();
            assert_eq!(report["verdict"], "verified", "{done:?}");
            let size = number(&report["size"]);
            assert!(size >= last, "{size} after {last}");
            (last, looks) = (size, looks + 1);
            if !remembers {
                auditor = Auditor::new();
            }
        }
        looks
    })
}
