//! The seed's contract, route by route, as a client sees it that was written from
//! `seed/nexo-m1.md`: field names, statuses, shapes. Sockets are in `contract_ws`.
//!
//! What closes a hole is not here but in `holes`; what is new beside the seed is not here at all,
//! but for `msg_id` and `Idempotency-Key`, which plain clients may use.

use nexo_schema::bytes::{from_base64, from_hex, to_base64, to_base64url, to_hex};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::harness::plain::{answer, message, new_key, public, registration};
use crate::harness::proof::claims_of;
use crate::harness::{Engine, Plain, Server, both, now, number, past, text, vectors};

/// The names of an object's members, sorted.
fn names(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

both!(async register_answers_a_nonce_that_names_relay_device_and_request);
async fn register_answers_a_nonce_that_names_relay_device_and_request(engine: Engine) {
    let server = engine.start();
    let body = json!({"handle": "alice", "device_id": "laptop", "ed25519_pub": public(&new_key())});
    let sent = body.to_string();
    let challenge = server.wire().post_bytes("/auth/register", sent.clone()).await.ok();
    let exp = number(&challenge["exp"]);
    assert!((now() + 290..=now() + 310).contains(&exp), "300 s: {exp}");
    // A name the client gave is kept.
    assert_eq!(challenge["device_id"], "laptop");
    let nonce = text(&challenge["nonce"]);
    let words: Vec<&str> = nonce.split(' ').collect();
    let request = to_hex(&Sha256::digest(&sent));
    let expected = ["nexo/1/auth", server.origin(), "laptop", request.as_str(), &exp.to_string()];
    assert_eq!(words[..5], expected, "{nonce}");
    assert!(words.len() == 6 && words[5].len() >= 22, "128 random bits: {nonce}");
}

both!(async verify_answers_tokens_and_a_second_login_finds_the_same_account);
async fn verify_answers_tokens_and_a_second_login_finds_the_same_account(engine: Engine) {
    let server = engine.start();
    let (wire, key) = (server.wire(), new_key());
    let challenge = wire.post("/auth/register", &registration("alice", &key)).await.ok();
    let tokens = answer(&wire, &key, &challenge).await.ok();
    assert!(tokens["access"].is_string() && tokens["refresh"].is_string());
    assert_eq!(tokens["device_id"], challenge["device_id"]);
    let claims = claims_of(tokens["access"].as_str().unwrap());
    assert_eq!((&claims["sub"], &claims["hdl"]), (&challenge["device_id"], &json!("alice")));
    assert_eq!(claims["iss"], "nexo");
    assert_eq!(number(&claims["exp"]) - number(&claims["iat"]), 15 * 60);
    let again = Plain::log_in(&wire, "alice", key).await;
    assert_eq!(
        json!([again.device, again.account]),
        json!([tokens["device_id"], tokens["account_id"]])
    );
    assert_eq!(wire.get("/health").await.ok()["users_count"], 1);
}

both!(async handles_are_trimmed_and_lowered);
async fn handles_are_trimmed_and_lowered(engine: Engine) {
    let server = engine.start();
    let key = new_key();
    let alice = Plain::log_in(&server.wire(), "  Alice \t", key.clone()).await;
    assert_eq!(claims_of(alice.token())["hdl"], "alice");
    let again = Plain::log_in(&server.wire(), "ALICE", key).await;
    assert_eq!(again.account, alice.account);
    let bob = Plain::new(&server, "bob").await;
    assert_eq!(bob.conversation(" ALICE ").await, bob.conversation("alice").await);
}

both!(async the_x25519_key_is_the_converted_ed25519_key);
async fn the_x25519_key_is_the_converted_ed25519_key(engine: Engine) {
    let server = engine.start();
    let file = vectors("nexo/ed25519_to_x25519.json");
    let cases = file["accept"].as_array().unwrap();
    assert!(cases.len() >= 3);
    for (n, case) in cases.iter().take(5).enumerate() {
        let seed: [u8; 32] = from_hex(case["seed"].as_str().unwrap()).unwrap();
        let key = ed25519_dalek::SigningKey::from_bytes(&seed);
        let user = Plain::log_in(&server.wire(), &format!("user{n}"), key).await;
        let answer = user.get("/devices/x25519_pub").await.ok();
        assert_eq!(names(&answer), ["x25519_pub_b64"]);
        let shown = from_base64(answer["x25519_pub_b64"].as_str().unwrap()).unwrap();
        assert_eq!(to_hex(&shown), case["x25519_pub"]);
    }
}

both!(async a_conversation_is_created_or_found_with_both_keys);
async fn a_conversation_is_created_or_found_with_both_keys(engine: Engine) {
    let server = engine.start();
    let (alice, bob) = (Plain::new(&server, "alice").await, Plain::new(&server, "bob").await);
    let opened = alice.post("/conversations", &json!({"peer_handle": "bob"})).await.ok();
    let (hers, his) = (
        alice.get("/devices/x25519_pub").await.ok()["x25519_pub_b64"].clone(),
        bob.get("/devices/x25519_pub").await.ok()["x25519_pub_b64"].clone(),
    );
    assert_eq!((&opened["me_x25519"], &opened["peer_x25519"]), (&hers, &his));
    // Either side, any number of times: one conversation.
    for (asker, peer) in [(&alice, "bob"), (&bob, "alice")] {
        assert_eq!(asker.conversation(peer).await, opened["conv_id"]);
    }
    let seen = bob.post("/conversations", &json!({"peer_handle": "alice"})).await.ok();
    assert_eq!((&seen["me_x25519"], &seen["peer_x25519"]), (&his, &hers));
    let unknown = alice.post("/conversations", &json!({"peer_handle": "nobody"})).await;
    assert_eq!(unknown.problem(404, "not_found")["detail"], "peer not found");
}

both!(async a_conversation_with_oneself_holds_notes);
async fn a_conversation_with_oneself_holds_notes(engine: Engine) {
    let server = engine.start();
    let (alice, bob) = (Plain::new(&server, "alice").await, Plain::new(&server, "bob").await);
    let opened = alice.post("/conversations", &json!({"peer_handle": "alice"})).await.ok();
    assert_eq!(opened["me_x25519"], opened["peer_x25519"]);
    let conv = text(&opened["conv_id"]);
    let mut socket = alice.socket(&conv).await;
    let note = alice.say(&conv, "milk").await;
    assert_eq!(socket.next().await["msg_id"], note["msg_id"]);
    assert_eq!(alice.items(&conv).await, [note]);
    assert_eq!(bob.get(&format!("/messages/{conv}")).await.status, 403);
}

both!(async a_message_is_answered_as_stored);
async fn a_message_is_answered_as_stored(engine: Engine) {
    let server = engine.start();
    let (alice, bob) = (Plain::new(&server, "alice").await, Plain::new(&server, "bob").await);
    let conv = alice.conversation("bob").await;
    let sent = alice.post("/messages", &message(&conv, "hello")).await.ok();
    assert_eq!(sent["ok"], true);
    let stored = &sent["message"];
    let fields = ["ad", "cipher", "conv_id", "msg_id", "sender_device", "sth_index", "ts"];
    assert_eq!(names(stored), fields);
    assert_eq!(stored["cipher"], to_base64(b"hello"));
    assert_eq!(stored["ad"], json!({"type": "text"}));
    assert_eq!(stored["conv_id"], conv);
    assert_eq!(stored["sender_device"], alice.device);
    assert!(number(&stored["ts"]).abs_diff(now()) < 60);
    // Both accounts are in the log before.
    assert_eq!(stored["sth_index"], 3);
    for reader in [&alice, &bob] {
        let page = reader.get(&format!("/messages/{conv}")).await.ok();
        assert_eq!(page["items"], json!([stored]));
    }
}

both!(async lists_are_in_order_and_since_is_strictly_greater);
async fn lists_are_in_order_and_since_is_strictly_greater(engine: Engine) {
    let server = engine.start();
    let (alice, _bob) = (Plain::new(&server, "alice").await, Plain::new(&server, "bob").await);
    let conv = alice.conversation("bob").await;
    assert_eq!(alice.items(&conv).await, Vec::<Value>::new());
    let mut sent = Vec::new();
    for n in 0..4 {
        let stored = alice.say(&conv, &format!("message {n}")).await;
        // Each in a second of its own.
        past(&server, number(&stored["ts"])).await;
        sent.push(stored);
    }
    assert_eq!(alice.items(&conv).await, sent);
    let since = async |ts: u64| {
        alice.get(&format!("/messages/{conv}?since={ts}")).await.ok()["items"].clone()
    };
    assert_eq!(since(0).await, json!(sent));
    for (n, message) in sent.iter().enumerate() {
        let ts = number(&message["ts"]);
        assert_eq!(since(ts).await, json!(sent[n + 1..]), "after its own second");
        assert_eq!(since(ts - 1).await, json!(sent[n..]), "from its own second on");
    }
}

both!(async ad_comes_back_byte_for_byte);
async fn ad_comes_back_byte_for_byte(engine: Engine) {
    let server = engine.start();
    let (alice, bob) = (Plain::new(&server, "alice").await, Plain::new(&server, "bob").await);
    let conv = alice.conversation("bob").await;
    let mut socket = bob.socket(&conv).await;
    // Order, spaces, escapes, number spellings and repeats all matter to whoever made them AAD.
    let ad = r#"{"z":1,  "a":"\u00e9é", "n":1.50e+2,"n":[ ],"t":{"deep" : [1, 2,3]}}"#;
    let body = format!(r#"{{"conv_id":"{conv}","cipher":"aGk=","ad": {ad} }}"#);
    let sent = alice.wire.post_bytes("/messages", body).await;
    let whole = format!(r#""ad":{ad},"#);
    assert!(sent.text().contains(&whole), "{sent:?}");
    let listed = bob.get(&format!("/messages/{conv}")).await;
    assert!(listed.text().contains(&whole), "{listed:?}");
    let fanned = socket.next_text().await;
    assert!(fanned.contains(&whole), "{fanned}");
}

both!(async a_deleted_message_keeps_its_place_and_loses_its_content);
async fn a_deleted_message_keeps_its_place_and_loses_its_content(engine: Engine) {
    let server = engine.start();
    let (alice, bob) = (Plain::new(&server, "alice").await, Plain::new(&server, "bob").await);
    let conv = alice.conversation("bob").await;
    let (doomed, kept) = (alice.say(&conv, "oops").await, alice.say(&conv, "hello").await);
    let answer = alice.delete(&conv, doomed["msg_id"].as_str().unwrap()).await.ok();
    assert_eq!(answer["ok"], true);
    let mut expected = doomed.clone();
    expected["cipher"] = "".into();
    expected["ad"] = json!({"type": "delete"});
    assert_eq!(bob.items(&conv).await, [expected, kept]);
    // Again is fine, and changes nothing; what never was is not.
    let again = alice.delete(&conv, doomed["msg_id"].as_str().unwrap()).await.ok();
    assert_eq!(again["sth_index"], answer["sth_index"]);
    assert_eq!(server.wire().get("/health").await.ok()["sth_count"], answer["sth_index"]);
    let absent = alice.delete(&conv, "no-such-message").await;
    absent.problem(404, "not_found");
}

both!(async health_counts_accounts_and_leaves);
async fn health_counts_accounts_and_leaves(engine: Engine) {
    let server = engine.start();
    let health = server.wire().get("/health").await.ok();
    assert_eq!(names(&health), ["status", "sth_count", "timestamp", "users_count"]);
    assert_eq!(health["status"], "healthy");
    assert!(number(&health["timestamp"]).abs_diff(now()) < 60);
    assert_eq!((&health["users_count"], &health["sth_count"]), (&json!(0), &json!(0)));
    let alice = Plain::new(&server, "alice").await;
    let conv = alice.conversation("alice").await;
    // A conversation is no leaf; an account, a message and a deletion are one each, from 1 on.
    let sent = alice.say(&conv, "x").await;
    let gone = alice.delete(&conv, sent["msg_id"].as_str().unwrap()).await.ok();
    assert_eq!((&sent["sth_index"], &gone["sth_index"]), (&json!(2), &json!(3)));
    let health = server.wire().get("/health").await.ok();
    assert_eq!((&health["users_count"], &health["sth_count"]), (&json!(1), &json!(3)));
}

both!(async a_message_id_or_an_idempotency_key_makes_a_retry_safe);
async fn a_message_id_or_an_idempotency_key_makes_a_retry_safe(engine: Engine) {
    let server = engine.start();
    let alice = Plain::new(&server, "alice").await;
    let conv = alice.conversation("alice").await;
    let body = message(&conv, "once");
    let post = async |key: &str, body: &Value| {
        let headers = [("Idempotency-Key", key)];
        alice.wire.call("POST", "/messages", &headers, body.to_string().into_bytes()).await
    };
    let first = post("order 66", &body).await.ok();
    assert_eq!(
        (&first["message"]["msg_id"], &first["duplicate"]),
        (&json!("order 66"), &json!(false))
    );
    // The draft standard quotes the key.
    for key in ["order 66", "\"order 66\""] {
        let again = post(key, &body).await.ok();
        assert_eq!((&again["message"], &again["duplicate"]), (&first["message"], &json!(true)));
    }
    let mut named = body.clone();
    named["msg_id"] = "order 66".into();
    assert_eq!(alice.post("/messages", &named).await.ok()["duplicate"], true);
    named["cipher"] = to_base64(b"twice").into();
    alice.post("/messages", &named).await.problem(409, "idempotency_conflict");
    // Without either, each send is a message of its own.
    let (one, two) = (alice.say(&conv, "x").await, alice.say(&conv, "x").await);
    assert_ne!(one["msg_id"], two["msg_id"]);
    for made in [one, two] {
        // Laid out as a UUIDv7, whose first 48 bits are Unix milliseconds.
        let id = text(&made["msg_id"]);
        let millis = u64::from_str_radix(&id[..12], 16).unwrap();
        assert!((millis / 1000).abs_diff(number(&made["ts"])) <= 5, "{made}");
        assert_eq!((id.len(), &id[12..13]), (32, "7"), "{made}");
    }
    assert_eq!(alice.items(&conv).await.len(), 3);
}

both!(async every_error_has_the_detail_a_fastapi_client_reads);
async fn every_error_has_the_detail_a_fastapi_client_reads(engine: Engine) {
    let server = engine.start();
    let (alice, bob) = (Plain::new(&server, "alice").await, Plain::new(&server, "bob").await);
    let conv = alice.conversation("alice").await;
    let none = server.wire();
    let taken = registration("alice", &new_key());
    for (reply, status, code) in [
        (none.post("/auth/register", &json!({"handle": ""})).await, 400, "bad_request"),
        (none.get("/devices/x25519_pub").await, 401, "unauthorized"),
        (bob.get(&format!("/messages/{conv}")).await, 403, "forbidden"),
        (none.get("/nowhere").await, 404, "not_found"),
        (none.get("/auth/register").await, 405, "method_not_allowed"),
        (none.post("/auth/register", &taken).await, 409, "handle_taken"),
        (none.post_bytes("/auth/verify", vec![b' '; 300_000]).await, 413, "too_large"),
    ] {
        let problem = reply.problem(status, code);
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 3), "{reply:?}");
    }
    let refused = none.get("/devices/x25519_pub").await;
    let ways: Vec<_> = refused.headers.get_all("www-authenticate").iter().collect();
    assert!(ways.len() == 2 && ways[0].to_str().unwrap().starts_with("Bearer"), "{ways:?}");
    assert_eq!(none.get("/auth/register").await.header("allow"), "POST");
}

both!(async cors_is_off_until_configured);
async fn cors_is_off_until_configured(engine: Engine) {
    let preflight = [
        ("Origin", "https://app.example.org"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,content-type"),
    ];
    let allowed = "access-control-allow-origin";
    let ask = async |server: &Server, method: &str| {
        server.wire().call(method, "/messages", &preflight, Vec::new()).await
    };
    let server = engine.start();
    assert_eq!(ask(&server, "OPTIONS").await.header(allowed), "");
    assert_eq!(ask(&server, "GET").await.header(allowed), "");
    let server = engine.setup().args("--cors-origin https://app.example.org").start();
    let answer = ask(&server, "OPTIONS").await;
    assert!((200..300).contains(&answer.status), "{answer:?}");
    assert_eq!(answer.header(allowed), "https://app.example.org");
    assert_eq!(answer.header("access-control-allow-credentials"), "true");
    let headers = answer.header("access-control-allow-headers").to_lowercase();
    assert!(headers.contains("authorization") && headers.contains("content-type"), "{headers}");
    assert!(answer.header("access-control-allow-methods").contains("POST"));
    // A refusal can be read too, or a page could not tell why.
    let refused = ask(&server, "GET").await;
    assert_eq!((refused.status, refused.header(allowed)), (401, "https://app.example.org"));
}

#[tokio::test]
async fn the_seeds_variables_configure_the_relay() {
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("elsewhere.db");
    let secret = to_base64url(&crate::harness::random::<32>());
    let server = Server::setup()
        .env("JWT_ISSUER", "my relay")
        .env("JWT_SECRET", &secret)
        .env("ACCESS_TTL_MIN", "3")
        .env("REFRESH_TTL_DAYS", "2")
        .env("DB_URL", &format!("sqlite:///{}", database.display()))
        .start();
    let alice = Plain::new(&server, "alice").await;
    let claims = claims_of(alice.token());
    assert_eq!(claims["iss"], "my relay");
    assert_eq!(number(&claims["exp"]) - number(&claims["iat"]), 180);
    let head = json!({"typ": "JWT", "alg": "HS256"});
    let mine = crate::harness::proof::jwt(&head, &claims, secret.as_bytes());
    server.wire().with_token(&mine).get("/devices/x25519_pub").await.ok();
    assert!(database.exists() && !server.data().join("nexo.db").exists());
    assert!(!server.data().join("jwt.secret").exists(), "none is made where one is configured");
}
