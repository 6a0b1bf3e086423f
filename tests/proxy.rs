//! Behind nginx, as `scripts/nginx.conf` has it: does everything work there that works without, and
//! is a client who it is.

use serde_json::{Value, json};

use crate::harness::nginx::{Nginx, free_port, reached};
use crate::harness::plain::{message, new_key, registration};
use crate::harness::server::Setup;
use crate::harness::shell::{Auditor, Follower, Person};
use crate::harness::{Engine, Plain, Server, Socket, Wire, both, text};

/// A relay that is reached through nginx, and this nginx.
fn behind(setup: Setup) -> (Server, Nginx) {
    let port = free_port();
    let server = setup.args(&reached(port)).start();
    let nginx = Nginx::start(server.address(), port);
    (server, nginx)
}

/// Requests through nginx.
fn through(server: &Server, nginx: &Nginx) -> Wire {
    let mut wire = server.wire();
    wire.url.clone_from(&nginx.url);
    wire
}

both!(the_story_happens_behind_nginx);
fn the_story_happens_behind_nginx(engine: Engine) {
    // Proofs name the URL that clients use, not the relay's own.
    let (mut server, nginx) = behind(engine.setup().args("--require-dpop"));
    let (alice, bob) = (Person::reaching(&nginx.url), Person::reaching(&nginx.url));
    alice.nexo(&["--vkey", server.vkey(), "register", "alice"]).line();
    bob.nexo(&["--vkey", server.vkey(), "register", "bob"]).line();
    let (first, index) = alice.nexo(&["send", "bob", "hello, bob"]).sent();
    assert_eq!(index, 3);
    assert_eq!(bob.received().texts(), ["hello, bob"]);
    bob.nexo(&["send", "alice", "yes"]).sent();
    assert_eq!(alice.received().texts(), ["yes"]);
    let long = "ä".repeat(30_000);
    alice.pipe(&["send", "bob", "-"], long.as_bytes()).sent();
    assert_eq!(bob.received().texts(), [long]);

    let following = Follower::start(&mut bob.command(&["tail", "--follow", "--json"]));
    alice.nexo(&["send", "bob", "live"]).sent();
    let heard = || -> Value { serde_json::from_str(&following.line()).unwrap() };
    assert_eq!(heard()["text"], "live");
    // The relay goes and comes back; nginx says 502 meanwhile.
    server.kill9();
    server.restart();
    alice.nexo(&["send", "bob", "live again"]).sent();
    assert_eq!(heard()["text"], "live again");
    following.signal("INT");

    alice.nexo(&["delete", &first]).line();
    assert_eq!(alice.nexo(&["history"]).ok().lines().count(), 5);
    let auditor = Auditor::new();
    auditor.check(&nginx.url, &["--vkey", server.vkey()]).ok();
    // A proof for the relay's own address is one for somebody else.
    Person::reaching(server.url()).nexo(&["register", "carol"]).refused(77);
    server.sound();
}

both!(async the_seeds_clients_and_both_sockets_work_behind_nginx);
async fn the_seeds_clients_and_both_sockets_work_behind_nginx(engine: Engine) {
    let (server, nginx) = behind(engine.setup());
    let wire = through(&server, &nginx);
    let alice = Plain::log_in(&wire, "alice", new_key()).await;
    let bob = Plain::log_in(&wire, "bob", new_key()).await;
    let conv = alice.conversation("bob").await;
    // The seed's socket, its token in the query, and one that says hello.
    let mut seeds = bob.socket(&conv).await;
    let bearer = format!("Bearer {}", bob.token());
    let mut stream = Socket::open(&nginx.url, "", &[("Authorization", &bearer)]).await;
    stream.hello(json!({"proofs": false})).await;
    let said = alice.say(&conv, "hello").await;
    assert_eq!(seeds.next().await["msg_id"], said["msg_id"]);
    loop {
        // A ring may come first, of what was committed before the hello.
        let frame = stream.next().await;
        if frame["type"] == "message" {
            assert_eq!(frame["item"]["msg_id"], said["msg_id"]);
            break;
        }
    }
    // What the relay refuses, it refuses itself.
    let large = message(&conv, &"x".repeat(300_000));
    alice.post("/messages", &large).await.problem(413, "too_large");
    wire.get("/nowhere").await.problem(404, "not_found");
    assert_eq!(wire.get("/checkpoint").await.status, 200);
    let answer = wire.get("/health").await;
    let id = answer.header("x-request-id").to_owned();
    drop((seeds, stream));
    let log = nginx.access_log();
    assert!(id.len() == 32 && log.contains(&id), "one name for a request, here and there: {id}");
    assert!(log.contains("GET /ws") && !log.contains(alice.token()) && !log.contains(bob.token()));
    assert!(!log.contains("token="), "{log}");
}

both!(async nobody_behind_nginx_chooses_an_address);
async fn nobody_behind_nginx_chooses_an_address(engine: Engine) {
    let (server, nginx) = behind(engine.setup().rate_limits());
    let wire = through(&server, &nginx);
    let body = registration("alice", &new_key()).to_string();
    let ask = async |wire: &Wire, number: usize| {
        let said = format!("192.0.2.{}", number % 250);
        let headers = [("X-Forwarded-For", said.as_str()), ("X-Real-IP", said.as_str())];
        wire.call("POST", "/auth/register", &headers, body.clone().into_bytes()).await
    };
    let mut refused = None;
    for number in 0..400 {
        let reply = ask(&wire, number).await;
        if reply.status != 200 {
            refused = Some((number, reply));
            break;
        }
    }
    let (answered, limited) = refused.expect("a limit");
    assert!(answered >= 120, "{answered}");
    assert_eq!(text(&limited.problem(429, "rate_limited")["code"]), "rate_limited");
    // The proxy's own word is believed: it is another client's.
    ask(&server.wire(), 7).await.ok();
}
