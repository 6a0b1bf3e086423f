//! Who may make an account, and how often anybody may ask: registration modes, invites, rate
//! limits.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::plain::{answer, message, new_key, public, registration};
use crate::harness::{Engine, Native, Plain, Reply, Server, Snapshot, Socket, both, text};

/// `nexo-server invite`, beside the relay that is serving.
fn invite(server: &Server, uses: u32) -> String {
    let done = server.command("invite").args(["--uses", &uses.to_string()]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let line = String::from_utf8(done.stdout).unwrap();
    let line = line.strip_suffix('\n').unwrap();
    assert!(line.starts_with("nxi_") && !line.contains(char::is_whitespace), "{line:?}");
    line.to_owned()
}

/// Registers and proves; the refusal of whichever step refuses.
async fn join(server: &Server, handle: &str, invite: &Value) -> Reply {
    let (wire, key) = (server.wire(), new_key());
    let mut request = registration(handle, &key);
    request["invite"] = invite.clone();
    let asked = wire.post("/auth/register", &request).await;
    match asked.status {
        200 => answer(&wire, &key, &asked.ok()).await,
        _ => asked,
    }
}

both!(async by_invite_each_use_makes_one_account);
async fn by_invite_each_use_makes_one_account(engine: Engine) {
    let server = engine.setup().args("--registration invite").start();
    let before = Snapshot::of(&server).await;
    let twice = invite(&server, 2);
    for bad in [json!(null), json!(""), json!("nxi_wrong"), json!(format!("{twice}x"))] {
        let refused = join(&server, "mallory", &bad).await;
        assert_eq!(refused.problem(403, "registration_closed")["status"], 403, "{bad}");
    }
    before.unchanged(&server).await;
    for handle in ["alice", "bob"] {
        join(&server, handle, &json!(twice)).await.ok();
    }
    join(&server, "carol", &json!(twice)).await.problem(403, "registration_closed");
    assert_eq!(server.wire().get("/health").await.ok()["users_count"], 2);
    // A native account spends one as well.
    let nora = Native::unregistered(&server, "nora", Default::default());
    let mut request = nora.registration();
    request["invite"] = invite(&server, 1).into();
    let asked = server.wire().post("/auth/register", &request).await.ok();
    answer(&server.wire(), &nora.key, &asked).await.ok();
}

both!(async an_invite_is_spent_by_the_proof_not_by_the_question);
async fn an_invite_is_spent_by_the_proof_not_by_the_question(engine: Engine) {
    let server = engine.setup().args("--registration invite").start();
    let one = json!(invite(&server, 1));
    let mut request = registration("alice", &new_key());
    request["invite"] = one.clone();
    // Asked and never answered, or answered wrongly: still good.
    let asked = server.wire().post("/auth/register", &request).await.ok();
    answer(&server.wire(), &new_key(), &asked).await.problem(401, "challenge_invalid");
    let race = (0..6).map(|n| {
        let (server, one, handle) = (&server, &one, format!("user{n}"));
        async move { join(server, &handle, one).await }
    });
    let answers = join_all(race).await;
    let won = answers.iter().filter(|reply| reply.status == 200).count();
    assert_eq!(won, 1);
    for lost in answers.iter().filter(|reply| reply.status != 200) {
        lost.problem(403, "registration_closed");
    }
    assert_eq!(server.wire().get("/health").await.ok()["users_count"], 1);
}

both!(async who_has_an_account_logs_in_without_an_invite);
async fn who_has_an_account_logs_in_without_an_invite(engine: Engine) {
    let mut open = engine.start();
    let alice = Plain::new(&open, "alice").await;
    open.terminate();
    let mut server = open.place().args("--registration invite").start();
    let again = Plain::log_in(&server.wire(), "alice", alice.key).await;
    assert_eq!(again.account, alice.account);
    // The flag's absence means open, as before.
    server.terminate();
    open.restart();
    Plain::new(&open, "bob").await;
}

/// Asks until limited; how many were answered before, and the refusal.
async fn flood(server: &Server, headers: &[(&str, &str)]) -> (usize, Reply) {
    let body = json!({"handle": "alice", "ed25519_pub": public(&new_key())}).to_string();
    for n in 0..400 {
        let bytes = body.clone().into_bytes();
        let reply = server.wire().call("POST", "/auth/register", headers, bytes).await;
        if reply.status != 200 {
            return (n, reply);
        }
    }
    panic!("400 requests in a row were answered");
}

both!(async asking_to_log_in_is_limited_by_address);
async fn asking_to_log_in_is_limited_by_address(engine: Engine) {
    let server = engine.setup().rate_limits().start();
    let before = Snapshot::of(&server).await;
    let (answered, limited) = flood(&server, &[]).await;
    // A build server with sixty jobs behind one address gets in.
    assert!(answered >= 120, "{answered}");
    let problem = limited.problem(429, "rate_limited");
    assert_eq!(limited.header("ratelimit-policy"), "\"log-ins\";q=120;w=60");
    let told = format!("\"log-ins\";r=0;t={}", limited.header("retry-after"));
    assert_eq!(limited.header("ratelimit"), told);
    let wait: u64 = limited.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait) && problem["retry_after"] == wait, "{limited:?}");
    for path in ["/auth/verify", "/auth/refresh"] {
        let body = json!({"device_id": "x", "signature": "", "refresh": ""});
        server.wire().post(path, &body).await.problem(429, "rate_limited");
    }
    // Reading is not.
    server.wire().get("/checkpoint").await;
    before.unchanged(&server).await;
}

#[tokio::test]
async fn what_is_left_of_an_allowance_is_told() {
    let server = Engine::Sqlite.setup().rate_limits().start();
    let alice = Plain::new(&server, "alice").await;
    let told = |reply: &Reply| {
        ["ratelimit-policy", "ratelimit"].map(|name| match reply.headers.contains_key(name) {
            true => reply.header(name).to_owned(),
            false => String::new(),
        })
    };
    let asked = server.wire().post("/auth/register", &registration("alice", &new_key())).await;
    let [policy, left] = told(&asked);
    assert_eq!(policy, "\"log-ins\";q=120;w=60");
    // Her log-in took two of her address's, which may be there again.
    assert!((117..=119).any(|n| left == format!("\"log-ins\";r={n}")), "{left}");
    let opened = alice.wire.post("/conversations", &json!({"peer_handle": "alice"})).await;
    assert_eq!(told(&opened), ["\"look-ups\";q=60;w=30", "\"look-ups\";r=59"]);
    let sent = alice.wire.post("/messages", &message(&text(&opened.ok()["conv_id"]), "x")).await;
    let policies = "\"writes\";q=2000;w=4, \"account\";q=8000;w=4";
    assert_eq!(told(&sent), [policies, "\"writes\";r=1999, \"account\";r=7999"]);
    // A refusal for another reason used it as well; what is not limited has none.
    let unknown = alice.wire.post("/conversations", &json!({"peer_handle": "nobody"})).await;
    assert!(told(&unknown)[1].starts_with("\"look-ups\";r=5"), "{unknown:?}");
    assert_eq!(told(&alice.wire.get("/messages").await), ["", ""]);
    let free = Server::start();
    let asked = free.wire().post("/auth/register", &registration("alice", &new_key())).await;
    assert_eq!(told(&asked), ["", ""]);
}

both!(async a_header_of_the_clients_own_is_no_way_around_the_limit);
async fn a_header_of_the_clients_own_is_no_way_around_the_limit(engine: Engine) {
    let server = engine.setup().rate_limits().start();
    flood(&server, &[]).await;
    for name in ["X-Real-IP", "X-Forwarded-For", "Forwarded", "X-Client-IP", "CF-Connecting-IP"] {
        let headers = [(name, "192.0.2.7")];
        let body = registration("alice", &new_key()).to_string().into_bytes();
        let reply = server.wire().call("POST", "/auth/register", &headers, body).await;
        assert_eq!(reply.problem(429, "rate_limited")["status"], 429, "{name}");
    }
}

both!(async behind_a_proxy_the_limit_is_the_clients);
async fn behind_a_proxy_the_limit_is_the_clients(engine: Engine) {
    let server = engine.setup().rate_limits().args("--client-ip-header X-Nexo-Client").start();
    let from = async |address: &str| {
        let headers = [("X-Nexo-Client", address)];
        let body = registration("alice", &new_key()).to_string().into_bytes();
        server.wire().call("POST", "/auth/register", &headers, body).await
    };
    flood(&server, &[("X-Nexo-Client", "192.0.2.7")]).await;
    from("192.0.2.7").await.problem(429, "rate_limited");
    from("192.0.2.8").await.ok();
    // All of a subscriber's IPv6 network is one client.
    flood(&server, &[("X-Nexo-Client", "2001:db8:1:2::1")]).await;
    from("2001:db8:1:2:ffff::9").await.problem(429, "rate_limited");
    from("2001:db8:1:3::1").await.ok();
}

both!(async an_account_stores_so_much_and_deleting_makes_room);
async fn an_account_stores_so_much_and_deleting_makes_room(engine: Engine) {
    let quota = "--max-messages-per-account 3 --max-bytes-per-account 1000";
    let server = engine.setup().args(quota).start();
    let (alice, bob) = (Plain::new(&server, "alice").await, Plain::new(&server, "bob").await);
    let conv = alice.conversation("bob").await;
    let large = "x".repeat(900);
    let first = alice.say(&conv, &large).await;
    let refused = alice.post("/messages", &message(&conv, &large)).await;
    let problem = refused.problem(403, "quota_exceeded");
    assert!(text(&problem["detail"]).contains("bytes"), "{problem}");
    // The same on a socket, which goes on.
    let mut socket = Socket::open(server.url(), "", &[("Authorization", &bearer(&alice))]).await;
    let mut frame = message(&conv, &large);
    frame["type"] = "send".into();
    frame["msg_id"] = "too-much".into();
    socket.send(&frame).await;
    let nack = next_but_rings(&mut socket).await;
    assert_eq!((&nack["type"], &nack["msg_id"]), (&"nack".into(), &"too-much".into()), "{nack}");
    assert_eq!(nack["problem"]["code"], "quota_exceeded");
    bob.say(&conv, &large).await;
    alice.delete(&conv, &text(&first["msg_id"])).await.ok();
    socket.send(&frame).await;
    let ack = next_but_rings(&mut socket).await;
    assert_eq!((&ack["type"], &ack["msg_id"]), (&"ack".into(), &"too-much".into()), "{ack}");
    alice.say(&conv, "the third").await;
    let refused = alice.post("/messages", &message(&conv, "the fourth")).await;
    let problem = refused.problem(403, "quota_exceeded");
    assert!(text(&problem["detail"]).contains("messages"), "{problem}");
}

fn bearer(who: &Plain) -> String {
    format!("Bearer {}", who.token())
}

/// The next frame that is no ring.
async fn next_but_rings(socket: &mut Socket) -> Value {
    loop {
        let frame = socket.next().await;
        if frame["type"] != "head" {
            return frame;
        }
    }
}

both!(async a_trusted_proxy_says_who_the_client_is_and_nobody_else_does);
async fn a_trusted_proxy_says_who_the_client_is_and_nobody_else_does(engine: Engine) {
    let ask = async |server: &Server, said: &str| {
        let body = registration("alice", &new_key()).to_string().into_bytes();
        let headers = [("X-Forwarded-For", said)];
        server.wire().call("POST", "/auth/register", &headers, body).await
    };
    let server = engine.setup().rate_limits().args("--trusted-proxy 10.0.0.0/8,127.0.0.1").start();
    flood(&server, &[("X-Forwarded-For", "192.0.2.7")]).await;
    // Whatever the client wrote itself, and whichever of our proxies it passed.
    for same in ["192.0.2.7", "198.51.100.1, 192.0.2.7", "unknown, 192.0.2.7:4711, 10.1.2.3"] {
        ask(&server, same).await.problem(429, "rate_limited");
    }
    for other in ["192.0.2.8", "192.0.2.7, 192.0.2.8", "2001:db8::1", "garbage", ""] {
        ask(&server, other).await.ok();
    }
    // Who is not in the list is the client, and may say what it likes.
    let server = engine.setup().rate_limits().args("--trusted-proxy 10.0.0.0/8").start();
    flood(&server, &[("X-Forwarded-For", "192.0.2.7")]).await;
    for said in ["192.0.2.8", "10.0.0.1", "192.0.2.8, 10.0.0.1", "127.0.0.1"] {
        ask(&server, said).await.problem(429, "rate_limited");
    }
}

both!(async an_account_opens_so_many_conversations_and_finds_them_afterwards);
async fn an_account_opens_so_many_conversations_and_finds_them_afterwards(engine: Engine) {
    let server = engine.setup().args("--max-conversations 2").start();
    let names = ["alice", "bob", "carol", "dave"];
    let mut people = Vec::new();
    for name in names {
        people.push(Plain::new(&server, name).await);
    }
    let with_bob = people[0].conversation("bob").await;
    people[0].conversation("carol").await;
    let open = |who: usize, peer: &str| {
        let body = json!({"peer_handle": peer});
        let wire = people[who].wire.clone();
        async move { wire.post("/conversations", &body).await }
    };
    open(0, "dave").await.problem(403, "quota_exceeded");
    open(0, "alice").await.problem(403, "quota_exceeded");
    assert_eq!(open(0, "bob").await.ok()["conv_id"], with_bob, "it is there already");
    // What others open with her is theirs to open.
    open(3, "alice").await.ok();
    assert_eq!(people[0].conversation("dave").await, text(&open(3, "alice").await.ok()["conv_id"]));
}
