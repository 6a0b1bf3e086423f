//! Tokens bound to a key (RFC 9449, design/README.md 7): without a proof by that key, made for
//! this very request, they are worth nothing.

use ed25519_dalek::SigningKey;
use nexo_schema::bytes::to_base64url;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::harness::plain::{frame, message, new_key, registration, signed};
use crate::harness::proof::{Proof, claims_of};
use crate::harness::server::Setup;
use crate::harness::{Plain, Reply, Server, Snapshot, Socket, Wire, now, past, text};

/// A device whose tokens are bound to its key.
struct Bound {
    server: Server,
    key: SigningKey,
    handle: String,
    token: String,
    refresh: String,
    device: String,
}

impl Bound {
    async fn new() -> Self {
        Self::on(Server::start()).await
    }

    async fn on(server: Server) -> Self {
        let (key, handle) = (new_key(), "alice".to_owned());
        let url = format!("{}/auth/verify", server.url());
        let proof = Proof::of(&key, ("POST", &url), server.origin(), None).sign(&key);
        let tokens = log_in(&server, &handle, &key, &[&proof]).await.ok();
        assert_eq!(tokens["token_type"], "DPoP");
        let [token, refresh, device] = ["access", "refresh", "device_id"].map(|n| text(&tokens[n]));
        Self { server, key, handle, token, refresh, device }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server.url())
    }

    /// A proof of a request of this device.
    fn proof(&self, method: &str, path: &str) -> Proof {
        let url = self.url(path);
        Proof::of(&self.key, (method, &url), self.server.origin(), Some(&self.token))
    }

    /// GETs the X25519 key with this value of the `DPoP` header.
    async fn show(&self, proof: &str) -> Reply {
        let wire = self.server.wire().with_token(&self.token);
        wire.call("GET", KEY, &[("DPoP", proof)], Vec::new()).await
    }
}

/// A route that wants a token and changes nothing.
const KEY: &str = "/devices/x25519_pub";

/// Registers and verifies, with these proofs at verify.
async fn log_in(server: &Server, handle: &str, key: &SigningKey, proofs: &[&str]) -> Reply {
    let wire = server.wire();
    let challenge = wire.post("/auth/register", &registration(handle, key)).await.ok();
    verify(&wire, &signed(key, &challenge), proofs).await
}

async fn verify(wire: &Wire, answer: &Value, proofs: &[&str]) -> Reply {
    let headers: Vec<_> = proofs.iter().map(|proof| ("DPoP", *proof)).collect();
    wire.call("POST", "/auth/verify", &headers, answer.to_string().into_bytes()).await
}

#[tokio::test]
async fn a_proof_at_verify_binds_the_tokens_to_its_key() {
    let bound = Bound::new().await;
    let x = to_base64url(bound.key.verifying_key().as_bytes());
    let thumbprint = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    let jkt = to_base64url(&Sha256::digest(thumbprint));
    assert_eq!(claims_of(&bound.token)["cnf"], json!({"jkt": jkt}));
    bound.show(&bound.proof("GET", KEY).sign(&bound.key)).await.ok();
    // The scheme is named after it, too (RFC 9449 7.1).
    let (proof, scheme) =
        (bound.proof("GET", KEY).sign(&bound.key), format!("DPoP {}", bound.token));
    let headers = [("Authorization", scheme.as_str()), ("DPoP", &proof)];
    bound.server.wire().call("GET", KEY, &headers, Vec::new()).await.ok();
}

#[tokio::test]
async fn a_bound_token_without_a_proof_is_refused_everywhere() {
    let bound = Bound::new().await;
    let before = Snapshot::of(&bound.server).await;
    let wire = bound.server.wire().with_token(&bound.token);
    for path in [KEY, "/messages", "/prekeys", "/accounts/alice/bundle"] {
        let reply = wire.get(path).await;
        reply.problem(401, "dpop_invalid");
        let ways: Vec<_> = reply.headers.get_all("www-authenticate").iter().collect();
        let told = ways.iter().any(|way| way.to_str().unwrap().contains("invalid_dpop_proof"));
        assert!(told, "{ways:?}");
    }
    let conv = "00".repeat(32);
    for (path, body) in [
        ("/messages", message(&conv, "x")),
        ("/messages/delete", json!({"conv_id": conv, "target_msg_id": "m"})),
        ("/conversations", json!({"peer_handle": "alice"})),
        ("/accounts/alice/bundle", json!({})),
    ] {
        wire.post(path, &body).await.problem(401, "dpop_invalid");
    }
    for query in [format!("token={}", bound.token), format!("conv_id={conv}&token={}", bound.token)]
    {
        let mut socket = Socket::open(bound.server.url(), &query, &[]).await;
        assert_eq!(socket.closed().await, 4401);
    }
    before.unchanged(&bound.server).await;
}

#[tokio::test]
async fn a_proof_for_anything_else_is_refused() {
    let bound = Bound::new().await;
    let good = || bound.proof("GET", KEY);
    let port = bound.server.address().rsplit(':').next().unwrap();
    let url = |text: String| good().claim("htu", text.into());
    for (what, proof) in [
        ("another method", good().claim("htm", json!("POST"))),
        ("the method in lower case", good().claim("htm", json!("get"))),
        ("another path", url(bound.url("/messages"))),
        ("a longer path", url(bound.url("/devices/x25519_pub/"))),
        ("another host", url(format!("http://relay.example.org:{port}{KEY}"))),
        ("another port", url(format!("http://127.0.0.1:1{KEY}"))),
        ("another scheme", url(format!("https://127.0.0.1:{port}{KEY}"))),
        ("a user in front", url(format!("http://x@127.0.0.1:{port}{KEY}"))),
        ("a bare path", url(KEY.to_owned())),
        ("another relay", good().claim("origin", json!("other.example.org"))),
        ("an old proof", good().claim("iat", json!(now() - 120))),
        ("a proof of tomorrow", good().claim("iat", json!(now() + 86_400))),
        ("a proof ahead of time", good().claim("iat", json!(now() + 120))),
        ("another token", good().claim("ath", json!(to_base64url(&Sha256::digest("x"))))),
        ("the token itself", good().claim("ath", json!(bound.token))),
        ("no id", good().claim("jti", json!(""))),
        ("a long id", good().claim("jti", json!("j".repeat(129)))),
    ] {
        let reply = bound.show(&proof.sign(&bound.key)).await;
        assert_eq!(reply.problem(401, "dpop_invalid")["status"], 401, "{what}");
    }
    for name in ["htm", "htu", "origin", "iat", "ath", "jti"] {
        for wrong in [json!(null), json!([]), json!(1.5), json!({"x": 1})] {
            let proof = good().claim(name, wrong.clone()).sign(&bound.key);
            let reply = bound.show(&proof).await;
            assert_eq!(reply.problem(401, "dpop_invalid")["status"], 401, "{name} {wrong}");
        }
    }
    // None of this used the good one's chances up.
    bound.show(&good().sign(&bound.key)).await.ok();
}

#[tokio::test]
async fn a_proof_by_anything_else_is_refused() {
    let bound = Bound::new().await;
    let other = new_key();
    let good = || bound.proof("GET", KEY);
    let theirs =
        Proof::of(&other, ("GET", &bound.url(KEY)), bound.server.origin(), Some(&bound.token));
    let jwk = |name: &str, value: Value| {
        let mut proof = good();
        proof.header["jwk"][name] = value;
        proof.sign(&bound.key)
    };
    let whole = good().sign(&bound.key);
    let (input, sig) = whole.rsplit_once('.').unwrap();
    for (what, proof) in [
        ("another key", theirs.sign(&other)),
        ("another's name under it", theirs.sign(&bound.key)),
        ("another's signature", good().sign(&other)),
        ("no signature", format!("{input}.")),
        ("two parts", input.to_owned()),
        ("four parts", format!("{whole}.{sig}")),
        ("padding", format!("{whole}==")),
        ("half a signature", whole[..whole.len() - 20].to_owned()),
        ("no algorithm", good().head("alg", json!("none")).sign(&bound.key)),
        ("HMAC", good().head("alg", json!("HS256")).sign(&bound.key)),
        ("another algorithm", good().head("alg", json!("ES256")).sign(&bound.key)),
        ("a token", good().head("typ", json!("JWT")).sign(&bound.key)),
        ("no type", good().head("typ", Value::Null).sign(&bound.key)),
        ("no key", good().head("jwk", Value::Null).sign(&bound.key)),
        ("an extension", good().head("crit", json!(["x"])).sign(&bound.key)),
        ("a private key", jwk("d", json!(to_base64url(&[1; 32])))),
        ("another curve", jwk("crv", json!("X25519"))),
        ("another kind of key", jwk("kty", json!("EC"))),
        ("no point", jwk("x", json!(to_base64url(&[2; 32])))),
        ("a point of small order", jwk("x", json!(to_base64url(&[0; 32])))),
        ("a short key", jwk("x", json!(to_base64url(&[1; 31])))),
        ("huge", jwk("pad", json!("p".repeat(4000)))),
        ("the token again", bound.token.clone()),
    ] {
        let reply = bound.show(&proof).await;
        assert_eq!(reply.problem(401, "dpop_invalid")["status"], 401, "{what}");
    }
    // Two proofs, even if both are good.
    let two = [good().sign(&bound.key), good().sign(&bound.key)];
    let headers = two.each_ref().map(|proof| ("DPoP", proof.as_str()));
    let wire = bound.server.wire().with_token(&bound.token);
    wire.call("GET", KEY, &headers, Vec::new()).await.problem(401, "dpop_invalid");
    bound.show(&whole).await.ok();
}

#[tokio::test]
async fn a_proof_is_good_once() {
    let bound = Bound::new().await;
    let proof = bound.proof("GET", KEY).sign(&bound.key);
    bound.show(&proof).await.ok();
    bound.show(&proof).await.problem(401, "dpop_invalid");
    // The same id in a proof of another request is the same proof's id still.
    let again: Proof = bound.proof("GET", "/messages");
    let again = again.claim("jti", claims_of(&proof)["jti"].clone()).sign(&bound.key);
    let wire = bound.server.wire().with_token(&bound.token);
    let reply = wire.call("GET", "/messages", &[("DPoP", &again)], Vec::new()).await;
    reply.problem(401, "dpop_invalid");
    // At once, one of many gets through.
    let proof = bound.proof("GET", KEY).sign(&bound.key);
    let replies = futures_util::future::join_all((0..12).map(|_| bound.show(&proof))).await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 200).count(), 1);
}

#[tokio::test]
async fn a_proof_does_not_come_back_with_a_restart() {
    let mut bound = Bound::new().await;
    let proof = bound.proof("GET", KEY).sign(&bound.key);
    bound.show(&proof).await.ok();
    past(&bound.server, now()).await;
    bound.server.kill9();
    bound.server.restart();
    // The memory of proofs is gone, but this one is older than the process.
    bound.show(&proof).await.problem(401, "dpop_invalid");
    bound.show(&bound.proof("GET", KEY).sign(&bound.key)).await.ok();
}

#[tokio::test]
async fn a_proof_at_verify_must_be_by_the_device() {
    let server = Server::start();
    let (wire, key, other) = (server.wire(), new_key(), new_key());
    let url = format!("{}/auth/verify", server.url());
    let of = |key: &SigningKey| Proof::of(key, ("POST", &url), server.origin(), None);
    let challenge = wire.post("/auth/register", &registration("alice", &key)).await.ok();
    let answer = signed(&key, &challenge);
    let before = Snapshot::of(&server).await;
    let (one, two) = (of(&key).sign(&key), of(&key).sign(&key));
    for (what, proofs) in [
        ("another key", vec![of(&other).sign(&other)]),
        ("a token where there is none", vec![of(&key).claim("ath", json!("x")).sign(&key)]),
        ("another route", vec![of(&key).claim("htu", json!(server.url())).sign(&key)]),
        ("another relay", vec![of(&key).claim("origin", json!("x.example.org")).sign(&key)]),
        ("two", vec![one.clone(), two]),
    ] {
        let proofs: Vec<&str> = proofs.iter().map(String::as_str).collect();
        let reply = verify(&wire, &answer, &proofs).await;
        assert_eq!(reply.problem(401, "dpop_invalid")["status"], 401, "{what}");
    }
    before.unchanged(&server).await;
    // The challenge is still good, and so is the proof that was not looked at alone.
    assert_eq!(verify(&wire, &answer, &[&one]).await.ok()["token_type"], "DPoP");
}

#[tokio::test]
async fn a_bound_refresh_token_needs_its_key_too() {
    let bound = Bound::new().await;
    let (url, wire) = (bound.url("/auth/refresh"), bound.server.wire());
    let body = json!({"refresh": bound.refresh}).to_string().into_bytes();
    wire.post_bytes("/auth/refresh", body.clone()).await.problem(401, "dpop_invalid");
    let other = new_key();
    let theirs = Proof::of(&other, ("POST", &url), bound.server.origin(), None).sign(&other);
    let headers = [("DPoP", theirs.as_str())];
    let stolen = wire.call("POST", "/auth/refresh", &headers, body.clone()).await;
    stolen.problem(401, "dpop_invalid");
    // Whoever tried without the key has not used it up.
    let proof = Proof::of(&bound.key, ("POST", &url), bound.server.origin(), None).sign(&bound.key);
    let headers = [("DPoP", proof.as_str())];
    let tokens = wire.call("POST", "/auth/refresh", &headers, body).await.ok();
    assert_eq!(tokens["token_type"], "DPoP");
    let access = tokens["access"].as_str().unwrap();
    assert_eq!(claims_of(access)["cnf"], claims_of(&bound.token)["cnf"]);
    wire.with_token(access).get(KEY).await.problem(401, "dpop_invalid");
}

#[tokio::test]
async fn who_found_a_bound_refresh_token_cannot_end_the_login() {
    let bound = Bound::new().await;
    let (url, wire) = (bound.url("/auth/refresh"), bound.server.wire());
    let turn = async |refresh: &str| {
        let proof = Proof::of(&bound.key, ("POST", &url), bound.server.origin(), None);
        let body = json!({"refresh": refresh}).to_string().into_bytes();
        let tokens =
            wire.call("POST", "/auth/refresh", &[("DPoP", &proof.sign(&bound.key))], body).await;
        text(&tokens.ok()["refresh"])
    };
    let newest = turn(&turn(&bound.refresh).await).await;
    // Used twice over, the first token would end the family in the hands of its owner.
    let body = json!({"refresh": bound.refresh});
    wire.post("/auth/refresh", &body).await.problem(401, "dpop_invalid");
    turn(&newest).await;
}

#[tokio::test]
async fn a_socket_proves_once() {
    let bound = Bound::new().await;
    let conv = {
        let path = "/conversations";
        let proof = bound.proof("POST", path).sign(&bound.key);
        let wire = bound.server.wire().with_token(&bound.token);
        let body = json!({"peer_handle": bound.handle}).to_string().into_bytes();
        text(&wire.call("POST", path, &[("DPoP", &proof)], body).await.ok()["conv_id"])
    };
    let open = async |proof: &str| {
        let token = format!("DPoP {}", bound.token);
        let headers = [("Authorization", token.as_str()), ("DPoP", proof)];
        Socket::open(bound.server.url(), &format!("conv_id={conv}"), &headers).await
    };
    let proof = bound.proof("GET", "/ws").sign(&bound.key);
    let mut socket = open(&proof).await.settled().await;
    for n in 0..3 {
        socket.send(&frame(&conv, &format!("m-{n}"), "x")).await;
        assert_eq!(socket.next().await["sender_device"], bound.device);
    }
    assert_eq!(open(&proof).await.closed().await, 4401, "the same proof again");
    let other = bound.proof("GET", KEY).sign(&bound.key);
    assert_eq!(open(&other).await.closed().await, 4401, "a proof of another request");
    // The URL may be spelled as the socket's.
    let spelled = bound.url("/ws").replacen("http", "ws", 1);
    let proof = bound.proof("GET", "/ws").claim("htu", spelled.into()).sign(&bound.key);
    open(&proof).await.settled().await;
}

#[tokio::test]
async fn an_unbound_token_may_come_with_a_proof_that_must_then_be_good() {
    let server = Server::start();
    let alice = Plain::new(&server, "alice").await;
    let url = format!("{}{KEY}", server.url());
    let proof = Proof::of(&alice.key, ("GET", &url), server.origin(), Some(alice.token()));
    let show = async |proof: &Proof| {
        let signed = proof.sign(&alice.key);
        alice.wire.call("GET", KEY, &[("DPoP", &signed)], Vec::new()).await
    };
    show(&proof).await.ok();
    // Nothing hangs on it, so it is not remembered; but it is not ignored either.
    show(&proof).await.ok();
    let other = Proof::of(&alice.key, ("POST", &url), server.origin(), Some(alice.token()));
    show(&other).await.problem(401, "dpop_invalid");
}

#[tokio::test]
async fn a_relay_can_demand_proofs_of_all() {
    let dir = tempfile::tempdir().unwrap();
    let setup = || -> Setup { Server::setup().data(dir.path()) };
    let lax = setup().start();
    let bob = Plain::new(&lax, "bob").await;
    let bobs = lax.wire().with_token(bob.token());
    bobs.get(KEY).await.ok();
    drop(lax);
    let server = setup().args("--require-dpop").start();
    // A token from before is not enough, nor is a new login without a proof.
    server.wire().with_token(bob.token()).get(KEY).await.problem(401, "dpop_invalid");
    let refresh = json!({"refresh": bob.refresh});
    server.wire().post("/auth/refresh", &refresh).await.problem(401, "dpop_invalid");
    log_in(&server, "alice", &new_key(), &[]).await.problem(401, "dpop_invalid");
    let query = format!("token={}", bob.token());
    assert_eq!(Socket::open(server.url(), &query, &[]).await.closed().await, 4401);
    // The log is read by all, as ever.
    assert_eq!(server.wire().get("/checkpoint").await.status, 200);
    let bound = Bound::on(server).await;
    bound.show(&bound.proof("GET", KEY).sign(&bound.key)).await.ok();
    bound.show("").await.problem(401, "dpop_invalid");
}

#[tokio::test]
async fn behind_a_proxy_the_public_url_is_what_counts() {
    let url = "https://relay.example.org/nexo";
    let second = "http://10.0.0.1:8000";
    let line = format!("--public-url {url}/ --public-url {second}");
    let server = Server::setup().args(&line).start();
    let key = new_key();
    let at = |base: &str, path: &str, method: &str, token: Option<&str>| {
        let whole = format!("{base}{path}");
        Proof::of(&key, (method, &whole), server.origin(), token).sign(&key)
    };
    let own = at(server.url(), "/auth/verify", "POST", None);
    log_in(&server, "alice", &key, &[&own]).await.problem(401, "dpop_invalid");
    let named = at(url, "/auth/verify", "POST", None);
    let tokens = log_in(&server, "alice", &key, &[&named]).await.ok();
    let token = tokens["access"].as_str().unwrap();
    let wire = server.wire().with_token(token);
    for (base, status) in [
        (url, 200),
        (second, 200),
        ("https://relay.example.org", 401),
        ("http://relay.example.org/nexo", 401),
        (server.url(), 401),
    ] {
        let proof = at(base, KEY, "GET", Some(token));
        let reply = wire.call("GET", KEY, &[("DPoP", &proof)], Vec::new()).await;
        assert_eq!(reply.status, status, "{base}: {reply:?}");
    }
}

/// Replicas answer under one URL; a proof is good once among them, also when it comes to all of
/// them at the same moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_good_once_among_servers_on_one_database() {
    const URL: &str = "http://relay.example.org";
    let keys = tempfile::TempDir::new().unwrap();
    let database = std::sync::Arc::new(crate::harness::postgres::database());
    let setup = Setup::default().keys(&keys.path().join("keys")).database(database);
    let setup = setup.args(&format!("--public-url {URL}"));
    let (one, other) = (setup.clone().start(), setup.start());
    let key = new_key();
    let of = |method: &str, path: &str, token: Option<&str>| {
        let url = format!("{URL}{path}");
        Proof::of(&key, (method, &url), one.origin(), token).sign(&key)
    };
    let proof = of("POST", "/auth/verify", None);
    let tokens = log_in(&one, "alice", &key, &[&proof]).await.ok();
    log_in(&other, "alice", &key, &[&proof]).await.problem(401, "dpop_invalid");
    let token = text(&tokens["access"]);
    let show = |server: &Server, proof: String| {
        let wire = server.wire().with_token(&token);
        async move { wire.call("GET", KEY, &[("DPoP", &proof)], Vec::new()).await }
    };
    let proof = of("GET", KEY, Some(&token));
    show(&one, proof.clone()).await.ok();
    show(&other, proof.clone()).await.problem(401, "dpop_invalid");
    show(&one, proof).await.problem(401, "dpop_invalid");
    for _ in 0..10 {
        let proof = of("GET", KEY, Some(&token));
        let (here, there) = tokio::join!(show(&one, proof.clone()), show(&other, proof));
        let mut answered = [here.status, there.status];
        answered.sort_unstable();
        assert_eq!(answered, [200, 401]);
    }
}
